//! The pages.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::draw::{colour, flow, state};
use super::html::Html;
use crate::inspect::{Detail, Filter, Kind, LOOK_MAX, Line, Summary};

const STYLE: &str = include_str!("style.css");

fn page(title: &str, body: &Html) -> Html {
    Html::new()
        .raw(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<meta http-equiv=\"refresh\" content=\"30\">\n<title>",
        )
        .text(title)
        .raw("</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n<main>\n")
        .append(body)
        .raw("<footer class=\"small\"><p>All times in UTC. To act on one: <code>outbox-saga retry|skip|abort|cancel ID</code>.</p></footer>\n")
        .raw("</main>\n</body>\n</html>\n")
}

/// A link's target, as safe text of an attribute.
fn target(prefix: &str, kind: Kind, id: &str) -> String {
    format!("{prefix}/{kind}/{}", utf8_percent_encode(id, NON_ALPHANUMERIC))
}

fn home(prefix: &str) -> String {
    if prefix.is_empty() { "/".to_owned() } else { prefix.to_owned() }
}

pub(super) fn index(
    prefix: &str,
    filter: &Filter,
    counts: &[(Kind, String, i64)],
    found: &[Summary],
) -> Html {
    let body =
        Html::new().raw("<header><div><h1>Sagas and transactions</h1></div></header>\n<h2>How many</h2>\n");
    let body = Kind::ALL.into_iter().fold(body, |body, kind| body.append(&counted(prefix, kind, counts)));
    let (stuck, others): (Vec<_>, Vec<_>) = found.iter().partition(|one| one.status == "stuck");
    let body = body.raw("<h2>Stuck</h2>\n").append(&list(prefix, &stuck, "Nothing is stuck."));
    let body = body.raw("<h2>Latest</h2>\n").append(&form(prefix, filter));
    let body = body.append(&list(prefix, &others, "There is nothing else of that."));
    page("Sagas and transactions", &body)
}

fn counted(prefix: &str, kind: Kind, counts: &[(Kind, String, i64)]) -> Html {
    let mut html = Html::new().raw("<p class=\"small\">").text(kind.as_str()).raw("</p><p class=\"counts\">");
    for status in kind.statuses() {
        let count =
            counts.iter().find(|(of, is, _)| *of == kind && is == status).map_or(0, |(.., count)| *count);
        // What is not there is not alarming.
        let colour = if count == 0 { "calm" } else { colour(status) };
        html = html
            .raw("<a class=\"")
            .raw(colour)
            .raw("\" href=\"")
            .text(&home(prefix))
            .raw("?kind=")
            .text(kind.as_str());
        html = html
            .raw("&amp;status=")
            .text(status)
            .raw("\"><strong>")
            .text(&counted_up_to(count))
            .raw("</strong> ");
        html = html.text(status).raw("</a>");
    }
    html.raw("</p>\n")
}

/// Counting ends somewhere.
fn counted_up_to(count: i64) -> String {
    if count > i64::from(LOOK_MAX) { format!("{LOOK_MAX}+") } else { count.to_string() }
}

fn form(prefix: &str, filter: &Filter) -> Html {
    let mut html = Html::new()
        .raw("<form method=\"get\" action=\"")
        .text(&home(prefix))
        .raw("\"><select name=\"kind\" aria-label=\"kind\">");
    html = html.raw("<option value=\"\">any kind</option>");
    for kind in Kind::ALL {
        html = html.append(&option(kind.as_str(), filter.kind == Some(kind)));
    }
    html = html
        .raw("</select><select name=\"status\" aria-label=\"status\"><option value=\"\">any status</option>");
    let mut statuses: Vec<_> = Kind::ALL.iter().flat_map(|kind| kind.statuses()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        html = html.append(&option(status, filter.status.as_deref() == Some(status)));
    }
    html.raw("</select><input name=\"name\" placeholder=\"name\" aria-label=\"name\" value=\"")
        .text(filter.name.as_deref().unwrap_or_default())
        .raw("\"><button>Filter</button> <a href=\"")
        .text(&home(prefix))
        .raw("\">all</a></form>\n")
}

fn option(value: &str, selected: bool) -> Html {
    let html = Html::new().raw("<option value=\"").text(value);
    html.raw(if selected { "\" selected>" } else { "\">" }).text(value).raw("</option>")
}

fn list(prefix: &str, found: &[&Summary], nothing: &'static str) -> Html {
    if found.is_empty() {
        return Html::new().raw("<p class=\"small\">").raw(nothing).raw("</p>\n");
    }
    let row = |one: &&Summary| {
        let html = Html::new().raw("<tr><td><a href=\"").text(&target(prefix, one.kind, &one.id)).raw("\">");
        let html = html.text(&one.id).raw("</a></td>").append(&cell("kind", one.kind.as_str()));
        let html = html.append(&cell("name", &one.name)).raw("<td>").append(&state(&one.status)).raw("</td>");
        let html = html.append(&time("begun", &one.created_at)).append(&time("changed", &one.updated_at));
        html.append(&cell("error", one.error.as_deref().unwrap_or_default())).raw("</tr>\n")
    };
    Html::new()
        .raw(
            "<div class=\"card\"><table><thead><tr><th>id</th><th>kind</th><th>name</th><th>status</th><th>begun</th>\
             <th>changed</th><th>error</th></tr></thead><tbody>\n",
        )
        .append(&Html::all(found.iter().map(row)))
        .raw("</tbody></table></div>\n")
}

fn cell(name: &'static str, text: &str) -> Html {
    if text.is_empty() {
        return Html::new().raw("<td></td>");
    }
    Html::new().raw("<td data-name=\"").raw(name).raw("\">").text(text).raw("</td>")
}

fn time(name: &'static str, at: &str) -> Html {
    let html = Html::new().raw("<td data-name=\"").raw(name).raw("\"><time datetime=\"").text(at).raw("\">");
    html.text(&at.replace('T', " ").replace('Z', "")).raw("</time></td>")
}

pub(super) fn instance(prefix: &str, detail: &Detail) -> Html {
    let summary = &detail.summary;
    let title = format!("{} {}", summary.kind, summary.id);
    let mut body = Html::new()
        .raw("<p class=\"small\"><a href=\"")
        .text(&home(prefix))
        .raw("\">all</a></p><header><h1>");
    body = body.text(&title).raw("</h1><p>").append(&state(&summary.status)).raw("</p></header>\n");
    if let Some(error) = &summary.error {
        body = body.raw("<p class=\"error\">").text(error).raw("</p>\n");
    }
    body = body.raw("<h2>").raw(if summary.kind == Kind::Saga { "Steps" } else { "Branches" }).raw("</h2>\n");
    body = body.append(&flow(detail)).raw("\n<h2>Facts</h2>\n<div class=\"card\"><dl>");
    let version = summary.version.map(|version| version.to_string());
    let request = summary.request.as_ref().map(ToString::to_string);
    for (name, value) in [
        ("name", Some(&summary.name)),
        ("version", version.as_ref()),
        ("decision", detail.decision.as_ref()),
        ("request", request.as_ref()),
        ("begun", Some(&summary.created_at)),
        ("changed", Some(&summary.updated_at)),
        ("deadline", detail.deadline.as_ref()),
        ("next look", detail.next_at.as_ref()),
        ("trace", detail.traceparent.as_ref()),
    ] {
        if let Some(value) = value {
            body = body.raw("<dt>").raw(name).raw("</dt><dd>").text(value).raw("</dd>");
        }
    }
    body = body.raw("</dl></div>\n<h2>History</h2>\n").append(&history(summary.kind, &detail.history));
    page(&title, &body)
}

fn history(kind: Kind, lines: &[Line]) -> Html {
    let row = |line: &Line| {
        let html = Html::new().raw("<tr>").append(&time("", &line.at));
        let html = html.append(&cell("", line.part.as_deref().unwrap_or("the whole"))).raw("<td>");
        let html = match &line.from {
            Some(from) if *from != line.to => html.append(&state(from)).raw(" → "),
            _ => html,
        };
        let html = html.append(&state(&line.to)).raw("</td>").append(&cell("cause", &line.cause));
        html.append(&cell("error", line.error.as_deref().unwrap_or_default())).raw("</tr>\n")
    };
    Html::new()
        .raw("<div class=\"card\"><table><thead><tr><th>at</th><th>")
        .text(kind.part())
        .raw("</th><th>change</th><th>cause</th><th>error</th></tr></thead><tbody>\n")
        .append(&Html::all(lines.iter().map(row)))
        .raw("</tbody></table></div>\n")
}

pub(super) fn failure(prefix: &str, error: &str) -> Html {
    let body = Html::new()
        .raw("<p class=\"small\"><a href=\"")
        .text(&home(prefix))
        .raw("\">all</a></p><p class=\"error\">");
    page("Sagas and transactions", &body.text(error).raw("</p>\n"))
}
