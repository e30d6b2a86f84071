//! What was measured: rounds, medians, limits, targets, and the table of them.

use std::fmt;

use serde::Serialize;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Events, transactions or messages a second; more is better.
    PerSecond,
    /// Milliseconds; less is better.
    Milliseconds,
    /// Seconds; less is better.
    Seconds,
    /// Mebibytes; less is better.
    Mebibytes,
}

impl Unit {
    /// How the unit is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Mebibytes => "MiB",
        }
    }

    /// A number of this unit, as it is shown.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 10_000.0 => format!("{:.1}k", value / 1_000.0),
            Self::PerSecond => format!("{value:.0}"),
            Self::Milliseconds | Self::Seconds => format!("{value:.2}"),
            Self::Mebibytes => format!("{value:.1}"),
        }
    }
}

/// What a measurement should reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// So much of the limit.
    OfLimit(f64),
    /// At least this.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
}

/// One thing that was measured, once a round.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// The name that `--only` goes by.
    pub group: &'static str,
    /// What it is.
    pub name: String,
    /// What its numbers count.
    pub unit: Unit,
    /// One number a round.
    pub rounds: Vec<f64>,
    /// What it is held against, measured in the same rounds.
    pub limit: Option<Limit>,
    /// What it should reach.
    pub targets: Vec<Target>,
    /// Where it stands in a plot.
    pub point: Option<Point>,
}

/// One of several measurements that differ by a number.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// The line that it belongs to.
    pub series: String,
    /// The number.
    pub x: f64,
}

/// What sets a bound to a measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Limit {
    /// What it is.
    pub name: String,
    /// One number a round.
    pub rounds: Vec<f64>,
}

impl Measurement {
    /// A measurement without rounds yet.
    #[must_use]
    pub fn new(group: &'static str, name: impl Into<String>, unit: Unit) -> Self {
        Self {
            group,
            name: name.into(),
            unit,
            rounds: Vec::new(),
            limit: None,
            targets: Vec::new(),
            point: None,
        }
    }

    /// Makes it a point of a line.
    #[must_use]
    pub fn at(mut self, series: &str, x: f64) -> Self {
        self.point = Some(Point { series: series.to_owned(), x });
        self
    }

    /// Says what it is held against.
    #[must_use]
    pub fn beside(mut self, name: impl Into<String>) -> Self {
        self.limit = Some(Limit { name: name.into(), rounds: Vec::new() });
        self
    }

    /// Adds a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// Adds a round.
    pub fn add(&mut self, value: f64) {
        self.rounds.push(value);
    }

    /// Adds the limit's number of a round.
    pub fn add_limit(&mut self, value: f64) {
        if let Some(limit) = &mut self.limit {
            limit.rounds.push(value);
        }
    }

    /// The median of the rounds' ratios to the limit: both were taken a moment apart, so what slows the machine down for a
    /// while slows both.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        let ratios: Vec<f64> =
            self.rounds.iter().zip(&limit.rounds).map(|(value, limit)| value / limit).collect();
        median(&ratios)
    }

    /// Whether all targets are reached; nothing if there is none, or no number.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        let value = median(&self.rounds)?;
        let reached = |target: &Target| match *target {
            Target::OfLimit(share) => self.ratio().is_some_and(|ratio| ratio >= share),
            Target::AtLeast(least) => value >= least,
            Target::Below(most) => value < most,
        };
        (!self.targets.is_empty()).then(|| self.targets.iter().all(reached))
    }

    fn cells(&self) -> [String; 7] {
        let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| self.unit.show(value));
        let least = self.rounds.iter().copied().reduce(f64::min);
        let most = self.rounds.iter().copied().reduce(f64::max);
        let limit =
            self.limit.as_ref().map(|limit| format!("{} {}", show(median(&limit.rounds)), limit.name));
        let targets: Vec<String> = self.targets.iter().map(|target| self.show_target(*target)).collect();
        let holds = match self.holds() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        [
            self.name.clone(),
            format!("{} {}", show(median(&self.rounds)), self.unit.name()),
            format!("{}..{}", show(least), show(most)),
            limit.unwrap_or_default(),
            self.ratio().map(|ratio| format!("{:.0} %", ratio * 100.0)).unwrap_or_default(),
            targets.join(", "),
            holds.to_owned(),
        ]
    }

    fn show_target(&self, target: Target) -> String {
        match target {
            Target::OfLimit(share) => format!("≥ {:.0} %", share * 100.0),
            Target::AtLeast(least) => format!("≥ {} {}", self.unit.show(least), self.unit.name()),
            Target::Below(most) => format!("< {} {}", self.unit.show(most), self.unit.name()),
        }
    }
}

/// The middle of `values`, or of the two in the middle their mean.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The machine and the servers, as far as they bear on the numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// Processors that this program may use.
    pub processors: usize,
    /// Their model.
    pub processor: String,
    /// The load average of the last minute before the start.
    pub load_before: f64,
    /// The same at the end, which counts the benchmark itself.
    pub load_after: f64,
    /// The database server's version.
    pub mysql: String,
    /// nats-server's version.
    pub nats: String,
}

/// All that one run has measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran.
    pub environment: Environment,
    /// What was measured, in the order of the measuring.
    pub measurements: Vec<Measurement>,
}

const HEADINGS: [&str; 7] = ["", "median", "min..max", "limit beside it", "ratio", "target", "holds"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<(&str, [String; 7])> =
            self.measurements.iter().map(|measurement| (measurement.group, measurement.cells())).collect();
        let mut widths = HEADINGS.map(|heading| heading.chars().count());
        for (_, cells) in &rows {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |f: &mut fmt::Formatter<'_>, cells: [&str; 7]| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "  {}", padded.collect::<Vec<_>>().join("  ").trim_end())
        };
        let Environment { processors, processor, load_before, load_after, mysql, nats } = &self.environment;
        writeln!(f, "{processors} processors ({processor}), MySQL {mysql}, nats-server {nats}")?;
        writeln!(f, "load average {load_before:.2} before, {load_after:.2} after\n")?;
        line(f, HEADINGS)?;
        let mut last = "";
        for (group, cells) in &rows {
            if *group != last {
                writeln!(f, "{group}")?;
                last = group;
            }
            line(f, cells.each_ref().map(String::as_str))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_ratio_is_taken_within_rounds() {
        let mut measurement = Measurement::new("g", "m", Unit::PerSecond).beside("l");
        for (value, limit) in [(10.0, 100.0), (90.0, 100.0), (5.0, 10.0)] {
            measurement.add(value);
            measurement.add_limit(limit);
        }
        assert_eq!(measurement.ratio(), Some(0.5));
    }

    #[test]
    fn all_targets_must_hold() {
        let mut measurement =
            Measurement::new("g", "m", Unit::PerSecond).beside("l").target(Target::AtLeast(50.0));
        assert_eq!(measurement.holds(), None);
        measurement.add(60.0);
        measurement.add_limit(100.0);
        assert_eq!(measurement.holds(), Some(true));
        assert_eq!(measurement.clone().target(Target::Below(60.0)).holds(), Some(false));
        assert_eq!(measurement.target(Target::OfLimit(0.7)).holds(), Some(false));
    }
}
