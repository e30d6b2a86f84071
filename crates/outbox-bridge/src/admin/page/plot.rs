//! A plot of the last ten minutes, or of fewer as long as there are no more: axes with units, lines, and the same in words.
//!
//! Drawn by the server, so that it is there without JavaScript. The lines are stretched to whatever width there is; letters stand
//! beside them as text of the page, so they are as large on a phone as elsewhere.

use super::history::SECONDS;
use super::html::Html;

/// Seconds that a plot may show.
const SPANS: [usize; 4] = [60, 120, 300, SECONDS];
/// The height of the drawing in its own units; its width is one unit a second.
const HEIGHT: f64 = 100.0;

/// What a plot measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    PerSecond,
    Seconds,
}

/// A plot.
pub(super) struct Plot<'a> {
    pub(super) title: &'static str,
    /// What stands below the title.
    pub(super) meaning: &'static str,
    pub(super) unit: Unit,
    /// The value of now, in words.
    pub(super) now: String,
    /// Lines: name, and one value a second, oldest first.
    pub(super) lines: &'a [(&'static str, &'a [Option<f64>])],
}

impl Plot<'_> {
    pub(super) fn html(&self) -> Html {
        let values = self.lines.iter().flat_map(|(_, values)| values.iter().flatten().copied());
        let highest = values.clone().reduce(f64::max);
        let lowest = values.reduce(f64::min);
        let top = ceiling(highest.unwrap_or_default(), self.unit);
        let length = self.lines.iter().map(|(_, values)| values.len()).max().unwrap_or_default();
        let span = SPANS.into_iter().find(|span| *span >= length).unwrap_or(SECONDS);
        let words = match (lowest, highest) {
            (Some(lowest), Some(highest)) => {
                format!("in {} between {} and {}", ago(span), self.unit.say(lowest), self.unit.say(highest))
            }
            _ => format!("nothing in {}", ago(span)),
        };
        let mut lines = Html::new();
        let mut legend =
            if self.lines.len() > 1 { Html::new().raw("<p class=\"small\">") } else { Html::new() };
        for (index, (name, values)) in self.lines.iter().enumerate() {
            let class = if index == 0 { "first" } else { "second" };
            lines.push(&path(values, span, top, class));
            if self.lines.len() > 1 {
                let key =
                    Html::new().raw("<span class=\"key ").text(class).raw("\">").text(name).raw("</span> ");
                legend.push(&key);
            }
        }
        Html::fill(
            include_str!("plot.html"),
            &[
                ("title", Html::new().text(self.title)),
                ("meaning", Html::new().text(self.meaning)),
                ("now", Html::new().text(&self.now)),
                ("alternative", Html::new().text(&format!("{}: now {}, {words}", self.title, self.now))),
                ("words", Html::new().text(&words)),
                ("legend", if self.lines.len() > 1 { legend.raw("</p>") } else { legend }),
                ("top", Html::new().text(&self.unit.say(top))),
                ("middle", Html::new().text(&self.unit.say(top / 2.0))),
                ("width", Html::new().text(&span.to_string())),
                ("half_width", Html::new().text(&(span / 2).to_string())),
                ("begin", Html::new().text(&ago(span))),
                ("half", Html::new().text(&ago(span / 2))),
                ("lines", lines),
            ],
        )
    }
}

impl Unit {
    /// A value with its unit.
    pub(super) fn say(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", digits(value)),
            Self::Seconds => duration(value),
        }
    }
}

/// A duration as people say it.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds <= 0.0 => "0 s".to_owned(),
        seconds if seconds < 0.001 => format!("{} µs", digits(seconds * 1e6)),
        seconds if seconds < 1.0 => format!("{} ms", digits(seconds * 1e3)),
        seconds if seconds < 120.0 => format!("{} s", digits(seconds)),
        seconds if seconds < 7_200.0 => format!("{} min", digits(seconds / 60.0)),
        seconds => format!("{} h", digits(seconds / 3_600.0)),
    }
}

/// A span of whole seconds.
fn ago(seconds: usize) -> String {
    if seconds.is_multiple_of(60) { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

/// About three digits, thousands set apart.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        size if size < 0.05 => "0".to_owned(),
        size if size < 10.0 && (value - value.round()).abs() >= 0.05 => format!("{value:.1}"),
        _ => grouped(&format!("{value:.0}")),
    }
}

/// A whole number, thousands set apart by narrow spaces.
pub(super) fn grouped(number: &str) -> String {
    let mut text = String::new();
    let length = number.len();
    for (index, digit) in number.chars().enumerate() {
        if index > 0 && (length - index).is_multiple_of(3) && digit.is_ascii_digit() && !text.ends_with('-') {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// The end of the axis: 1, 2 or 5 times a power of ten, and not so low that noise looks like mountains.
fn ceiling(value: f64, unit: Unit) -> f64 {
    let least = match unit {
        Unit::PerSecond => 10.0,
        Unit::Seconds => 0.01,
    };
    let value = value.max(least);
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|step| step * power)
        .find(|end| *end >= value * 0.999_999)
        .unwrap_or(10.0 * power)
}

/// The line through the values; it is interrupted where there are none, and a value without neighbours is a dot.
fn path(values: &[Option<f64>], span: usize, top: f64, class: &'static str) -> Html {
    let mut path = Html::new().raw("<path class=\"line ").raw(class).raw("\" d=\"");
    let begin = span.saturating_sub(values.len());
    let height = |value: f64| HEIGHT - (value / top).clamp(0.0, 1.0) * HEIGHT;
    let at = |index: usize| values.get(index).copied().flatten();
    for (index, value) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        let before = index.checked_sub(1).and_then(at);
        let after = at(index + 1);
        if before == Some(*value) && after == Some(*value) {
            continue;
        }
        let (x, y) = ((begin + index) as f64, height(*value));
        path = path.raw(if before.is_none() { "M" } else { "L" }).coordinate(x).raw(" ").coordinate(y);
        if before.is_none() && after.is_none() {
            path = path.raw("h.1");
        }
    }
    path.raw("\"/>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, unit, end) in [
            (0.0, Unit::PerSecond, 10.0),
            (10.0, Unit::PerSecond, 10.0),
            (11.0, Unit::PerSecond, 20.0),
            (49.0, Unit::PerSecond, 50.0),
            (51.0, Unit::PerSecond, 100.0),
            (0.0001, Unit::Seconds, 0.01),
            (0.3, Unit::Seconds, 0.5),
            (76_500.0, Unit::PerSecond, 100_000.0),
        ] {
            let found = ceiling(value, unit);
            assert!((found - end).abs() < end / 1e6, "{value}: {found}");
        }
    }

    #[test]
    fn values_are_readable() {
        for (value, text) in [
            (0.0, "0 s"),
            (0.000_25, "250 µs"),
            (0.0015, "1.5 ms"),
            (0.25, "250 ms"),
            (1.0, "1 s"),
            (90.0, "90 s"),
            (600.0, "10 min"),
            (90_000.0, "25 h"),
        ] {
            assert_eq!(Unit::Seconds.say(value), text);
        }
        assert_eq!(Unit::PerSecond.say(0.0), "0/s");
        assert_eq!((ago(30), ago(150), ago(600)), ("30 s".into(), "150 s".into(), "10 min".into()));
        assert_eq!(Unit::PerSecond.say(76_543.2), "76\u{202f}543/s");
        assert_eq!(grouped("1234567"), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped("-123"), "-123");
    }

    #[test]
    fn lines_are_interrupted_and_short() {
        let values = [Some(10.0), None, Some(0.0), Some(0.0), Some(0.0), Some(5.0)];
        assert_eq!(
            path(&values, 60, 10.0, "first").into_string(),
            "<path class=\"line first\" d=\"M54 0h.1M56 100L58 100L59 50\"/>"
        );
        assert_eq!(path(&[], 60, 10.0, "first").into_string(), "<path class=\"line first\" d=\"\"/>");
    }

    #[test]
    fn it_says_what_it_draws() {
        let values = [Some(2.0), Some(40.0)];
        let plot = Plot {
            title: "Events",
            meaning: "stored",
            unit: Unit::PerSecond,
            now: "40/s".to_owned(),
            lines: &[("all", &values)],
        };
        let html = plot.html().into_string();
        assert!(html.contains("aria-label=\"Events: now 40/s, in 1 min between 2/s and 40/s\""), "{html}");
        assert!(
            html.contains("viewBox=\"0 -2 60 104\"")
                && html.contains(">1 min ago<")
                && html.contains(">30 s<"),
            "{html}"
        );
        assert!(html.contains(">50/s<") && html.contains(">25/s<"), "{html}");
    }
}
