//! Draws an instance: its stages in a row, what is parallel one under the other; on a narrow screen all of it downwards.

use super::html::Html;
use crate::inspect::{Detail, Kind, Part};

/// The class of a status' colours.
pub(super) fn colour(status: &str) -> &'static str {
    match status {
        "done" | "completed" | "confirmed" | "tried" => "good",
        "stuck" | "do_stuck" | "undo_stuck" | "refused" => "bad",
        "do_paused" | "undo_paused" | "unknown" | "skipped" | "undo_skipped" => "warn",
        "undoing" | "undone" | "compensating" | "compensated" | "cancelling" | "cancelled" | "aborted" => {
            "back"
        }
        "doing" | "running" | "trying" | "confirming" => "busy",
        _ => "calm",
    }
}

pub(super) fn state(status: &str) -> Html {
    Html::new().raw("<span class=\"state ").raw(colour(status)).raw("\">").text(status).raw("</span>")
}

/// The steps of a saga, or the branches of a transaction and what was decided of them.
pub(super) fn flow(detail: &Detail) -> Html {
    let stages =
        detail.parts.chunk_by(|a, b| a.stage == b.stage).map(|parts| stage(parts, detail.summary.kind));
    let mut flow = Html::new().raw("<div class=\"card flow\">");
    for (stage, place) in stages.zip(0u32..) {
        if place > 0 {
            flow = flow.append(&arrow());
        }
        flow = flow.append(&stage);
    }
    if detail.summary.kind == Kind::Tcc {
        flow = flow.append(&arrow()).append(&decision(detail));
    }
    flow.raw("</div>")
}

fn arrow() -> Html {
    Html::new().raw("<div class=\"arrow\" aria-hidden=\"true\"></div>")
}

fn stage(parts: &[Part], kind: Kind) -> Html {
    let class = if parts.len() > 1 { "<div class=\"stage group\">" } else { "<div class=\"stage\">" };
    Html::new().raw(class).append(&Html::all(parts.iter().map(|part| step(part, kind)))).raw("</div>")
}

fn step(part: &Part, kind: Kind) -> Html {
    let mut html = Html::new().raw("<div class=\"box ").raw(colour(&part.status));
    html = html.raw(if part.pivot { " is-pivot\"><h3>" } else { "\"><h3>" }).text(&part.name);
    if part.pivot {
        html = html.raw("<span class=\"badge\" title=\"once it is done there is only forward\">pivot</span>");
    }
    html = html.raw("</h3>").append(&state(&part.status));
    if let Some(endpoint) = &part.endpoint {
        html = note(html, "endpoint ", endpoint);
    }
    match (kind, backward(&part.status), part.compensable) {
        (Kind::Saga, Some(how), _) => html = note(html, "↩ ", how),
        (Kind::Saga, None, Some(true)) => html = note(html, "", "has a compensation"),
        (Kind::Saga, None, Some(false)) => html = note(html, "", "no compensation"),
        _ => {}
    }
    if part.attempts > 0 {
        let name = if kind == Kind::Saga { "attempts " } else { "failed calls " };
        html = note(html, name, &part.attempts.to_string());
    }
    if let Some(deadline) = &part.deadline {
        html = note(html, "next at ", deadline);
    }
    if let Some(error) = &part.error {
        html = note(html, "", error);
    }
    html.raw("</div>")
}

/// How far a compensation is.
fn backward(status: &str) -> Option<&'static str> {
    match status {
        "undoing" => Some("compensation under way"),
        "undo_paused" => Some("compensation will be sent again"),
        "undo_stuck" => Some("compensation is stuck"),
        "undone" => Some("compensated"),
        "undo_skipped" => Some("compensation skipped by an operator"),
        _ => None,
    }
}

fn note(html: Html, name: &'static str, text: &str) -> Html {
    html.raw("<p class=\"note\">").raw(name).text(text).raw("</p>")
}

fn decision(detail: &Detail) -> Html {
    let (colour, text) = match detail.decision.as_deref() {
        None => ("calm", "not decided"),
        Some("confirm") => ("good", "confirm"),
        Some("cancel") => ("back", "cancel"),
        Some(other) => ("calm", other),
    };
    let html = Html::new().raw("<div class=\"stage\"><div class=\"box is-pivot ").raw(colour);
    let html = html.raw("\"><h3>decision</h3><span class=\"state\">").text(text).raw("</span>");
    let html = match (&detail.deadline, detail.decision.is_none()) {
        (Some(deadline), true) => note(html, "confirm until ", deadline),
        _ => html,
    };
    html.raw("</div></div>")
}
