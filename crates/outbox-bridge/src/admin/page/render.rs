//! The status as a page.

use super::html::Html;
use super::plot::{Plot, Unit, digits, duration, grouped};
use super::status::{
    ComponentStatus, EventStatus, Level, Moment, StandbyStatus, Standbys, State, Status, StreamStatus,
    Warning,
};

/// The styles of the page, as they stand in it.
pub(super) const STYLE: &str = include_str!("style.css");
/// The script of the page, as it stands in it.
pub(super) const SCRIPT: &str = include_str!("script.js");

/// The page.
pub(super) fn page(status: &Status) -> Html {
    let (verdict, more, class) = verdict(status);
    Html::fill(
        include_str!("page.html"),
        &[
            ("style", Html::new().raw(STYLE)),
            ("script", Html::new().raw(SCRIPT)),
            ("title", Html::new().text(verdict).raw(" – ").text(&status.name)),
            ("name", Html::new().text(&status.name)),
            ("version", Html::new().text(status.version)),
            ("process", Html::new().text(&status.process.process.to_string())),
            ("host", Html::new().text(&status.process.host)),
            ("started", ago(status.process.started, status.at)),
            ("verdict", Html::new().text(verdict)),
            ("verdict_more", Html::new().text(&more)),
            ("verdict_class", Html::new().raw(class)),
            ("warnings", warnings(status)),
            ("plots", plots(status)),
            ("components", components(status)),
            ("leader", leader(status)),
            ("standbys", standbys(status)),
            ("source", source(status)),
            ("nats", nats(status)),
            ("streams", streams(status)),
            ("resumes", resumes(status)),
            ("letters", letters(status)),
            ("at", clock(status.at)),
        ],
    )
}

fn verdict(status: &Status) -> (&'static str, String, &'static str) {
    let waits: Vec<&str> = status
        .components
        .iter()
        .filter(|(_, component)| component.state == State::NotReady)
        .map(|(name, _)| *name)
        .collect();
    match (status.role, status.ready) {
        ("leader", true) => ("Ready", "leads and carries the events".to_owned(), "good"),
        ("standby", true) => {
            ("Standing by", "another bridge leads; this one takes over when that is gone".to_owned(), "good")
        }
        (_, _) if !waits.is_empty() => ("Not ready", format!("waits for: {}", waits.join(", ")), "bad"),
        ("waiting", _) => ("Not ready", "waits for the lease".to_owned(), "bad"),
        _ => ("Not ready", "starting".to_owned(), "bad"),
    }
}

/// The time of day.
fn clock(moment: Moment) -> Html {
    let full = moment.rfc3339();
    let short = full.get(11..19).unwrap_or_default();
    Html::new()
        .raw("<time datetime=\"")
        .text(&full)
        .raw("\" title=\"")
        .text(&full)
        .raw("\">")
        .text(short)
        .raw("</time>")
}

/// How long ago it was, and when.
fn ago(moment: Moment, now: Moment) -> Html {
    let age = now.0.duration_since(moment.0).unwrap_or_default().as_secs_f64();
    let full = moment.rfc3339();
    let time = Html::new().raw("<time datetime=\"").text(&full).raw("\" title=\"").text(&full).raw("\">");
    time.text(&age_of(age)).raw(" ago</time>")
}

fn age_of(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1.0 => "less than 1 s".to_owned(),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        seconds => format!("{:.0} d", seconds / 86_400.0),
    }
}

fn number(value: u64) -> String {
    grouped(&value.to_string())
}

fn bytes(value: f64) -> String {
    match value {
        value if value < 1_000.0 => format!("{value:.0} B"),
        value if value < 1e6 => format!("{} kB", digits(value / 1e3)),
        value if value < 1e9 => format!("{} MB", digits(value / 1e6)),
        value => format!("{} GB", digits(value / 1e9)),
    }
}

fn size(value: u64) -> String {
    bytes(value as f64)
}

fn none(text: &'static str) -> Html {
    Html::new().raw("<p class=\"none\">").raw(text).raw("</p>")
}

fn code(text: &str) -> Html {
    Html::new().raw("<code>").text(text).raw("</code>")
}

/// An entry of a list of facts.
fn fact(name: &'static str, value: &Html) -> Html {
    Html::new().raw("<dt>").raw(name).raw("</dt><dd>").append(value).raw("</dd>")
}

/// Text with what stands in `…` as code.
fn prose(text: &str) -> Html {
    let mut html = Html::new();
    for (index, part) in text.split('`').enumerate() {
        html.push(&if index % 2 == 0 { Html::new().text(part) } else { code(part) });
    }
    html
}

fn warnings(status: &Status) -> Html {
    if status.warnings.is_empty() {
        return none("None: nothing is to be done.");
    }
    let mut html = Html::new();
    for Warning { level, what, since, remedy, section } in &status.warnings {
        let (class, word) = match level {
            Level::Critical => ("warning critical", "Critical"),
            Level::Warning => ("warning", "Warning"),
        };
        let mut one = Html::new()
            .raw("<div class=\"")
            .raw(class)
            .raw("\"><strong>")
            .raw(word)
            .raw(": ")
            .text(what)
            .raw("</strong>");
        if let Some(since) = since {
            one = one
                .raw("<p class=\"small\">since ")
                .append(&clock(*since))
                .raw(", ")
                .append(&ago(*since, status.at))
                .raw("</p>");
        }
        one = one
            .raw("<p>")
            .append(&prose(remedy))
            .raw("</p><p class=\"small\">More under “")
            .text(section)
            .raw("”.</p></div>");
        html.push(&one);
    }
    html
}

fn plots(status: &Status) -> Html {
    let (flow, history) = (&status.flow, &status.history);
    let seconds = |value: Option<f64>| value.map_or("–".to_owned(), duration);
    let latency = match flow.latency_p99_seconds {
        Some(p99) => format!("{} · {}", seconds(flow.latency_p50_seconds), duration(p99)),
        None => "–".to_owned(),
    };
    let lag = match flow.lag_seconds {
        Some(lag) => duration(lag),
        None => "not known".to_owned(),
    };
    let mut html = Plot {
        title: "Events per second",
        meaning: "stored by all streams, mean of the last 10 s",
        unit: Unit::PerSecond,
        now: Unit::PerSecond.say(flow.events_per_second),
        lines: &[("events", &history.events_per_second)],
    }
    .html();
    html.push(
        &Plot {
            title: "Commit to stored",
            meaning: "median and 99th percentile, now those of the last minute",
            unit: Unit::Seconds,
            now: latency,
            lines: &[("median", &history.latency_p50_seconds), ("99 %", &history.latency_p99_seconds)],
        }
        .html(),
    );
    html.push(
        &Plot {
            title: "Lag",
            meaning: "age of the oldest event that was read and is not stored",
            unit: Unit::Seconds,
            now: lag,
            lines: &[("lag", &history.lag_seconds)],
        }
        .html(),
    );
    html
}

fn components(status: &Status) -> Html {
    let mut html = Html::new();
    // As the events go.
    for name in ["source", "nats", "publish", "checkpoint"] {
        let Some(ComponentStatus { state, since, reason, .. }) = status.components.get(name) else {
            continue;
        };
        let (class, word) = match state {
            State::Ready => ("ready", "ready"),
            State::NotReady => ("not_ready", "not ready"),
            State::Idle => ("idle", "idle: this bridge does not lead"),
        };
        let mut row = Html::new()
            .raw("<tr><th scope=\"row\">")
            .text(name)
            .raw("</th><td><span class=\"state ")
            .raw(class);
        row = row.raw("\">").raw(word).raw("</span>");
        if let Some(reason) = reason {
            row = row.raw("<br><span class=\"why\">").text(reason).raw("</span>");
        }
        row = row.raw("</td><td>");
        if let Some(since) = since {
            row = row.append(&ago(*since, status.at));
        }
        html.push(&row.raw("</td></tr>"));
    }
    html
}

fn leader(status: &Status) -> Html {
    let Some(leader) = &status.leader else {
        return none("It is not known who leads: nobody does, or the lease cannot be read.");
    };
    let mut list = fact("leader", &who(leader.process, &leader.host, leader.this));
    list.push(&fact("since", &ago(leader.since, status.at)));
    if let Some(seen) = leader.seen {
        list.push(&fact("last seen", &ago(seen, status.at)));
    }
    Html::new().raw("<dl>").append(&list).raw("</dl>")
}

fn who(process: u32, host: &str, this: bool) -> Html {
    let who = Html::new().text(&format!("process {process} on {host}"));
    if this { who.raw(" (this one)") } else { who }
}

fn standbys(status: &Status) -> Html {
    let Standbys { known, read, problem } = &status.standbys;
    let mut html = match known.as_deref() {
        Some([]) => none("None stands by."),
        Some(standbys) => standby_table(standbys, status),
        None if problem.is_some() => none("The standbys cannot be listed."),
        None => none("It is not known yet which bridges stand by."),
    };
    if let Some(problem) = problem {
        let mut why = Html::new().raw("<p class=\"small why\">They cannot be read: ").text(problem);
        why = why.raw(
            ". Nothing but this list needs them; <code>outbox-bridge check</code> names a permission that is missing.",
        );
        if let Some(read) = read {
            why = why.raw(" Last read ").append(&ago(*read, status.at)).raw(".");
        }
        html.push(&why.raw("</p>"));
    }
    html
}

fn standby_table(standbys: &[StandbyStatus], status: &Status) -> Html {
    let mut html = Html::new().raw(
        "<table class=\"standbys\"><thead><tr><th scope=\"col\">standby</th><th scope=\"col\">since</th><th scope=\"col\">last \
         seen</th></tr></thead><tbody>",
    );
    for standby in standbys {
        let mut row = Html::new().raw("<tr><td class=\"why\">").append(&who(
            standby.process,
            &standby.host,
            standby.this,
        ));
        if standby.version != status.version {
            row = row.raw(", version ").text(&standby.version);
        }
        row = row.raw("</td><td>").append(&ago(standby.since, status.at)).raw("</td><td>");
        if let Some(seen) = standby.seen {
            row = row.append(&ago(seen, status.at));
        }
        html.push(&row.raw("</td></tr>"));
    }
    html.raw("</tbody></table>")
}

fn source(status: &Status) -> Html {
    let source = &status.source;
    let mut list = fact("servers", &code(&source.servers.join(", ")));
    if let Some(read) = &source.read {
        list.push(&fact("read", &code(read)));
    }
    if let Some(position) = &source.position {
        let place = code(&format!("{}:{}", position.file, position.offset));
        list.push(&fact("stored up to", &place));
        if !source.read.as_ref().is_some_and(|read| read.contains(&position.server)) {
            list.push(&fact("on server", &code(&position.server)));
        }
        if position.prepared_xa > 0 {
            let text = format!("{} prepared", position.prepared_xa);
            list.push(&fact("XA transactions", &Html::new().text(&text)));
        }
    }
    if let Some(checkpoint) = source.checkpoint {
        list.push(&fact("checkpoint", &ago(checkpoint, status.at)));
    }
    if let (Some(behind), Some(asked)) = (source.log_behind_bytes, source.log_behind_asked) {
        let text =
            Html::new().text(&size(behind)).raw(" from there on, asked ").append(&ago(asked, status.at));
        list.push(&fact("log", &text));
    }
    let text = format!(
        "{} lost connections, {} changes of server",
        number(source.reconnects),
        number(source.switches)
    );
    list.push(&fact("since the start", &Html::new().text(&text)));
    list
}

fn nats(status: &Status) -> Html {
    let nats = &status.nats;
    let mut list = fact("addresses", &code(&nats.servers.join(", ")));
    if let Some(version) = &nats.version {
        let name = nats.server.as_ref().map_or(Html::new(), |server| code(server).raw(", "));
        list.push(&fact("server", &name.raw("version ").text(version)));
    }
    let text = format!("{} lost connections", number(nats.reconnects));
    list.push(&fact("since the start", &Html::new().text(&text)));
    list
}

fn streams(status: &Status) -> Html {
    let mut html = Html::new();
    for stream in &status.streams {
        let tables = stream.tables.join(", ");
        let head = Html::new().raw("<div class=\"card stream\"><h3>").text(&stream.name).raw("</h3><dl>");
        html.push(
            &head.append(&fact("from", &code(&tables))).append(&stream_facts(stream, status.at)).raw("</dl>"),
        );
        html.push(&last_events(stream, status));
        html.push(&Html::new().raw("</div>"));
    }
    html
}

fn stream_facts(stream: &StreamStatus, now: Moment) -> Html {
    let rate = Unit::PerSecond.say(stream.events_per_second);
    let flow = format!(
        "{rate}, {} since the start, {} in flight",
        number(stream.events),
        number(stream.in_flight_messages)
    );
    let mut list = fact("events", &Html::new().text(&flow));
    let lag = stream.lag_seconds.map_or("not known".to_owned(), duration);
    list.push(&fact("lag", &Html::new().text(&lag)));
    if let Some(trouble) = &stream.trouble {
        list.push(&fact("trouble", &Html::new().text(trouble)));
    }
    if let Some(sequence) = stream.sequence {
        let mut known = Html::new().raw("sequence ").text(&number(sequence));
        if let Some(position) = &stream.position {
            known = known.raw(", from ").append(&code(position));
        }
        list.push(&fact("stored up to", &known));
    }
    let held = match &stream.held {
        Some(held) => {
            let text = format!("{} messages, {}", number(held.messages), size(held.bytes));
            let mut text = Html::new().text(&text).raw(", last sequence ").text(&number(held.last_sequence));
            if let Some(stored) = held.last_stored {
                text = text.raw(", stored ").append(&ago(stored, now));
            }
            text.raw("; asked ").append(&ago(held.asked, now))
        }
        None => Html::new().raw("not known yet"),
    };
    list.push(&fact("holds", &held));
    list
}

fn last_events(stream: &StreamStatus, status: &Status) -> Html {
    if stream.last_events.is_empty() {
        return none(match status.role {
            "leader" => "No event was stored since this process leads.",
            _ => "No event was stored by this process.",
        });
    }
    let mut html = Html::new().raw(
        "<table class=\"events\"><caption>Last events</caption><thead><tr><th scope=\"col\">stored</th><th scope=\"col\">type</th>\
         <th scope=\"col\">id</th><th scope=\"col\">subject</th><th scope=\"col\" class=\"number\">sequence</th><th scope=\"col\">position\
         </th></tr></thead><tbody>",
    );
    for EventStatus { sequence, id, kind, subject, position, committed, stored, .. } in &stream.last_events {
        let latency = stored.0.duration_since(committed.0).unwrap_or_default().as_secs_f64();
        let row = Html::new()
            .raw("<tr><td class=\"stored\">")
            .append(&clock(*stored))
            .raw(" <span class=\"small\">after ")
            .text(&duration(latency));
        let row = row
            .raw("</span></td><td data-name=\"type\">")
            .text(kind)
            .raw("</td><td data-name=\"id\">")
            .append(&code(id));
        let row = row
            .raw("</td><td data-name=\"subject\">")
            .append(&code(subject))
            .raw("</td><td data-name=\"sequence\" class=\"number\">");
        let row = row
            .text(&number(*sequence))
            .raw("</td><td data-name=\"position\">")
            .append(&code(position))
            .raw("</td></tr>");
        html.push(&row);
    }
    html.raw("</tbody></table>")
}

fn resumes(status: &Status) -> Html {
    let resumes = &status.resumes;
    if resumes.total == 0 {
        return none("None since the start.");
    }
    let text = format!(
        "{} since the start, {} in ten minutes",
        number(resumes.total),
        number(resumes.last_ten_minutes)
    );
    let mut html = Html::new().raw("<p>").text(&text).raw("</p><table><caption>By cause</caption><tbody>");
    for cause in &resumes.causes {
        let row =
            Html::new().raw("<tr><th scope=\"row\">").text(&cause.cause).raw("</th><td>").text(&cause.stream);
        html.push(&row.raw("</td><td class=\"number\">").text(&number(cause.count)).raw("</td></tr>"));
    }
    html = html.raw("</tbody></table><table><caption>Last</caption><tbody>");
    for resume in &resumes.last {
        let row = Html::new()
            .raw("<tr><td>")
            .append(&clock(resume.at))
            .raw("</td><td>")
            .append(&ago(resume.at, status.at));
        html.push(
            &row.raw("</td><td>").text(resume.cause).raw("</td><td>").text(&resume.stream).raw("</td></tr>"),
        );
    }
    html.raw(
        "</tbody></table><p class=\"small\">A writer goes back to the stream's last message whenever it cannot know whether something \
         was stored. Now and then is harmless.</p>",
    )
}

fn letters(status: &Status) -> Html {
    let Some(letters) = &status.dead_letters else {
        return none(
            "Not configured: a row that cannot be published stops the bridge (poison.action is halt).",
        );
    };
    let least = if letters.complete { "" } else { "at least " };
    let open = letters.open.map_or("not counted yet".to_owned(), |open| format!("{least}{}", number(open)));
    let mut list = fact("stream", &code(&letters.stream));
    list.push(&fact("open", &Html::new().text(&open)));
    if let Some(done) = letters.done {
        list.push(&fact("replayed or dropped", &Html::new().text(&number(done))));
    }
    list.push(&fact("from this process", &Html::new().text(&number(letters.stored))));
    if let Some(asked) = letters.asked {
        list.push(&fact("counted", &ago(asked, status.at)));
    }
    let mut html = Html::new().raw("<dl>").append(&list).raw("</dl>");
    if letters.last.is_empty() {
        return html;
    }
    html = html.raw(
        "<table class=\"events\"><caption>Last open ones</caption><thead><tr><th scope=\"col\">number</th><th scope=\"col\">reason</th>\
         <th scope=\"col\">table</th><th scope=\"col\">id</th></tr></thead><tbody>",
    );
    for letter in &letters.last {
        let row = Html::new()
            .raw("<tr><td data-name=\"number\">")
            .text(&letter.number.to_string())
            .raw("</td><td data-name=\"reason\">")
            .text(&letter.reason);
        let row = row.raw("</td><td data-name=\"table\">").text(&letter.table);
        let row = row.raw("</td><td data-name=\"id\">").append(&code(&letter.id));
        html.push(&row.raw("</td></tr>"));
    }
    html.raw("</tbody></table>")
}
