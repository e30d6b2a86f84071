//! The metrics as the recorder writes them for Prometheus, read back: the page shows what they say, from the same place.
//!
//! The format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;

/// What was recorded at one moment.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    series: BTreeMap<String, Vec<Series>>,
}

#[derive(Debug)]
struct Series {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Exposition {
    /// Reads a text; what it cannot read is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut series: BTreeMap<String, Vec<Series>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, found)) = parse_line(line) {
                series.entry(name.to_owned()).or_default().push(found);
            }
        }
        Self { series }
    }

    /// The sum over all labels; `None` if it was never recorded.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        self.series.get(name).map(|series| series.iter().map(|series| series.value).sum())
    }

    /// The largest over all labels.
    pub(super) fn max(&self, name: &str) -> Option<f64> {
        self.series.get(name)?.iter().map(|series| series.value).reduce(f64::max)
    }

    /// The sums by the value of a label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<&str, f64> {
        let mut sums = BTreeMap::new();
        for series in self.series.get(name).into_iter().flatten() {
            if let Some(value) = series.label(label) {
                *sums.entry(value).or_insert(0.0) += series.value;
            }
        }
        sums
    }

    /// The values by the values of two labels, in their order.
    pub(super) fn by_two(&self, name: &str, first: &str, second: &str) -> Vec<(&str, &str, f64)> {
        let series = self.series.get(name).into_iter().flatten();
        let mut found: Vec<_> = series
            .filter_map(|series| Some((series.label(first)?, series.label(second)?, series.value)))
            .collect();
        // The recorder gives them in any order.
        found.sort_unstable_by_key(|(first, second, _)| (*first, *second));
        found
    }
}

impl Series {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn parse_line(line: &str) -> Option<(&str, Series)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at_checked(end)?;
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(behind) = rest.strip_prefix('}') {
                rest = behind;
                break;
            }
            let (label, behind) = rest.split_once("=\"")?;
            let (value, behind) = parse_quoted(behind)?;
            labels.push((label.to_owned(), value));
            rest = behind;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, Series { labels, value }))
}

/// What stands before the next quotation mark, and the rest behind it.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_reads_what_the_recorder_writes() {
        let odd = "a \"b\", c=\"d\" }\\ \n x";
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("events", "stream" => "S", "table" => odd).increment(3);
            metrics::counter!("events", "stream" => "T", "table" => odd).increment(4);
            metrics::gauge!("lag").set(0.25);
            metrics::histogram!("time").record(2.0);
        });
        let found = Exposition::parse(&handle.render());
        assert_eq!(found.sum("events"), Some(7.0));
        assert_eq!(found.max("events"), Some(4.0));
        assert_eq!(found.by("events", "stream"), BTreeMap::from([("S", 3.0), ("T", 4.0)]));
        assert_eq!(found.by("events", "table"), BTreeMap::from([(odd, 7.0)]));
        assert_eq!(found.by_two("events", "table", "stream"), [(odd, "S", 3.0), (odd, "T", 4.0)]);
        assert_eq!(
            (found.sum("lag"), found.sum("time_count"), found.sum("none")),
            (Some(0.25), Some(1.0), None)
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a{}=\"\\\\, 0-9\n]{0,60}") {
            Exposition::parse(&text);
        }
    }
}
