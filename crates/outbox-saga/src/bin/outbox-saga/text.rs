//! Tables for people. Texts come from anywhere, so what would steer a terminal is made visible.

use outbox_saga::inspect::{Detail, Group, Kind, Line, Part, Summary};

/// Rows under headers, each column as wide as its widest cell.
pub(crate) fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let headers = headers.iter().map(|header| (*header).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headers)
        .chain(rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()))
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Without control characters, on one line.
pub(crate) fn visible(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

pub(crate) fn list(found: &[Summary]) -> String {
    if found.is_empty() {
        return "nothing is found\n".to_owned();
    }
    let row = |one: &Summary| {
        vec![
            one.kind.to_string(),
            one.id.clone(),
            one.name.clone(),
            one.status.clone(),
            one.created_at.clone(),
            one.updated_at.clone(),
            one.request.as_ref().map(ToString::to_string).unwrap_or_default(),
            one.error.clone().unwrap_or_default(),
        ]
    };
    let headers = ["KIND", "ID", "NAME", "STATUS", "CREATED", "CHANGED", "REQUEST", "ERROR"];
    table(&headers, &found.iter().map(row).collect::<Vec<_>>())
}

pub(crate) fn show(detail: &Detail) -> String {
    let summary = &detail.summary;
    let version = summary.version.map(|version| version.to_string());
    let request = summary.request.as_ref().map(ToString::to_string);
    let facts = [
        (summary.kind.as_str(), Some(summary.id.clone())),
        ("name", Some(summary.name.clone())),
        ("version", version),
        ("status", Some(summary.status.clone())),
        ("decision", detail.decision.clone()),
        ("error", summary.error.clone()),
        ("request", request),
        ("created", Some(summary.created_at.clone())),
        ("changed", Some(summary.updated_at.clone())),
        ("deadline", detail.deadline.clone()),
        ("next look", detail.next_at.clone()),
        ("trace", detail.traceparent.clone()),
    ];
    let mut text = String::new();
    for (name, value) in facts.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        text.push_str(&format!("{name:<10} {}\n", visible(value)));
    }
    text.push('\n');
    text.push_str(&parts(summary.kind, &detail.parts));
    text.push('\n');
    text.push_str(&history(summary.kind, &detail.history));
    text
}

fn parts(kind: Kind, parts: &[Part]) -> String {
    let row = |part: &Part| {
        let mut row = match kind {
            Kind::Saga => {
                let marks = [
                    (part.pivot, "pivot"),
                    (part.compensable == Some(false) && !part.pivot, "no compensation"),
                ];
                let marks: Vec<_> = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
                vec![(part.stage + 1).to_string(), part.name.clone(), marks.join(", ")]
            }
            Kind::Tcc => vec![part.name.clone(), part.endpoint.clone().unwrap_or_default()],
        };
        row.extend([part.status.clone(), part.attempts.to_string(), part.updated_at.clone()]);
        if kind == Kind::Saga {
            row.push(part.deadline.clone().unwrap_or_default());
        }
        row.push(part.error.clone().unwrap_or_default());
        row
    };
    let headers: &[&str] = match kind {
        Kind::Saga => &["STAGE", "STEP", "", "STATUS", "ATTEMPTS", "CHANGED", "DEADLINE", "ERROR"],
        Kind::Tcc => &["BRANCH", "ENDPOINT", "STATUS", "FAILED CALLS", "CHANGED", "ERROR"],
    };
    table(headers, &parts.iter().map(row).collect::<Vec<_>>())
}

pub(crate) fn history(kind: Kind, lines: &[Line]) -> String {
    let row = |line: &Line| {
        vec![
            line.at.clone(),
            line.part.clone().unwrap_or_else(|| "(whole)".to_owned()),
            line.from.clone().unwrap_or_default(),
            line.to.clone(),
            line.cause.clone(),
            line.error.clone().unwrap_or_default(),
        ]
    };
    let part = if kind == Kind::Saga { "STEP" } else { "BRANCH" };
    table(&["AT", part, "FROM", "TO", "CAUSE", "ERROR"], &lines.iter().map(row).collect::<Vec<_>>())
}

pub(crate) fn stats(groups: &[Group]) -> String {
    if groups.is_empty() {
        return "nothing is there\n".to_owned();
    }
    let seconds = |seconds: Option<f64>| seconds.map(|seconds| format!("{seconds:.3} s")).unwrap_or_default();
    let row = |group: &Group| {
        vec![
            group.kind.to_string(),
            group.name.clone(),
            group.status.clone(),
            format!("{}{}", group.count, if group.partial { "+" } else { "" }),
            group.oldest_stuck_at.clone().unwrap_or_default(),
            seconds(group.mean_seconds),
            seconds(group.p99_seconds),
        ]
    };
    let headers = ["KIND", "NAME", "STATUS", "COUNT", "OLDEST STUCK", "MEAN", "P99"];
    table(&headers, &groups.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_steers_the_terminal() {
        let rows = [vec!["a".to_owned(), "\u{1b}[2Jx\n".to_owned()], vec!["long".to_owned(), "ä".to_owned()]];
        assert_eq!(table(&["A", "B"], &rows), "A     B\na     \u{fffd}[2Jx\u{fffd}\nlong  ä\n");
    }
}
