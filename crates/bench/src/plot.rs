//! The report as plots: ratios to the limits as bars, and what depends on a number as lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use crate::report::{Measurement, Report, Target, median};

const WIDTH: f64 = 860.0;
const LABELS_WIDTH: f64 = 400.0;
const BAR_HEIGHT: f64 = 22.0;
const PLOT_HEIGHT: f64 = 320.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 6] = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#475569"];

/// Draws `ratios.svg`, and for each group with points one plot for each unit.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("ratios.svg"), ratios(&report.measurements))?;
    let mut plots: BTreeMap<(&str, &str), Vec<&Measurement>> = BTreeMap::new();
    for measurement in report.measurements.iter().filter(|measurement| measurement.point.is_some()) {
        plots.entry((measurement.group, measurement.unit.name())).or_default().push(measurement);
    }
    for ((group, unit), measurements) in plots {
        let file = format!("{group}-{}.svg", unit.replace('/', "per-"));
        std::fs::write(folder.join(file), lines(group, unit, &measurements))?;
    }
    Ok(())
}

/// One bar for each measurement with a limit, and a mark where its target is.
fn ratios(measurements: &[Measurement]) -> String {
    let rows: Vec<(&Measurement, f64)> =
        measurements.iter().filter_map(|measurement| Some((measurement, measurement.ratio()?))).collect();
    let most = rows.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
    let scale = (WIDTH - LABELS_WIDTH - MARGIN) / most;
    let mut text = head(MARGIN + rows.len() as f64 * BAR_HEIGHT, "share of the limit beside it");
    for (row, (measurement, ratio)) in (0..).map(f64::from).zip(rows) {
        let y = MARGIN - 20.0 + row * BAR_HEIGHT;
        let colour = if measurement.holds() == Some(false) { COLOURS[1] } else { COLOURS[0] };
        label(
            &mut text,
            LABELS_WIDTH - 8.0,
            y + 14.0,
            "end",
            &format!("{}: {}", measurement.group, measurement.name),
        );
        tag(
            &mut text,
            &format!(
                "<rect x=\"{LABELS_WIDTH}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>",
                ratio * scale,
                BAR_HEIGHT - 6.0
            ),
        );
        label(
            &mut text,
            LABELS_WIDTH + ratio * scale + 6.0,
            y + 13.0,
            "start",
            &format!("{:.0} %", ratio * 100.0),
        );
        for target in &measurement.targets {
            if let Target::OfLimit(share) = target {
                let x = LABELS_WIDTH + share * scale;
                tag(
                    &mut text,
                    &format!(
                        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#111\" stroke-width=\"2\"/>",
                        y - 2.0,
                        y + BAR_HEIGHT - 4.0
                    ),
                );
            }
        }
    }
    text + "</svg>\n"
}

/// Medians over the numbers that they depend on, a line for each series. Numbers and medians over a wide range have
/// logarithmic axes.
fn lines(group: &str, unit: &str, measurements: &[&Measurement]) -> String {
    let mut series: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for measurement in measurements {
        if let (Some(point), Some(y)) = (&measurement.point, median(&measurement.rounds)) {
            series.entry(&point.series).or_default().push((point.x, y));
        }
    }
    let points = || series.values().flatten();
    let x_axis = Axis::over(points().map(|(x, _)| *x), MARGIN, WIDTH - MARGIN);
    let y_axis = Axis::over(points().map(|(_, y)| *y), PLOT_HEIGHT, MARGIN);
    let mut text = head(PLOT_HEIGHT + MARGIN + series.len() as f64 * 18.0, &format!("{group}, {unit}"));
    for value in x_axis.marks(points().map(|(x, _)| *x)) {
        label(&mut text, x_axis.place(value), PLOT_HEIGHT + 20.0, "middle", &format!("{value}"));
    }
    for value in [y_axis.least, y_axis.most] {
        label(&mut text, MARGIN - 6.0, y_axis.place(value) + 4.0, "end", &short(value));
    }
    tag(
        &mut text,
        &format!(
            "<path d=\"M{MARGIN} {MARGIN}V{PLOT_HEIGHT}H{}\" fill=\"none\" stroke=\"#999\"/>",
            WIDTH - MARGIN
        ),
    );
    for (index, ((name, points), colour)) in
        (0..).map(f64::from).zip(series.iter().zip(COLOURS.iter().cycle()))
    {
        let places: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_axis.place(*x), y_axis.place(*y))).collect();
        tag(
            &mut text,
            &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                places.join(" ")
            ),
        );
        for (x, y) in points {
            let (x, y, value) = (x_axis.place(*x), y_axis.place(*y), short(*y));
            tag(
                &mut text,
                &format!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{value}</title></circle>"
                ),
            );
        }
        let y = PLOT_HEIGHT + 44.0 + index * 18.0;
        tag(
            &mut text,
            &format!(
                "<rect x=\"{MARGIN}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>",
                y - 10.0
            ),
        );
        label(&mut text, MARGIN + 20.0, y, "start", name);
    }
    text + "</svg>\n"
}

/// From values to places.
struct Axis {
    least: f64,
    most: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        let logarithmic = least > 0.0 && most / least > 20.0;
        let least = if logarithmic { least } else { least.min(0.0) };
        Self { least, most, logarithmic, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let of = |value: f64| if self.logarithmic { value.ln() } else { value };
        let range = of(self.most) - of(self.least);
        let share = if range > 0.0 { (of(value) - of(self.least)) / range } else { 0.5 };
        self.from + share * (self.to - self.from)
    }

    fn marks(&self, values: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut marks: Vec<f64> = values.collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        marks
    }
}

fn short(value: f64) -> String {
    if value >= 1_000.0 { format!("{:.0}k", value / 1_000.0) } else { format!("{value:.2}") }
}

fn head(height: f64, title: &str) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    tag(
        &mut text,
        &format!(
            "<text x=\"{MARGIN}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>",
            escaped(title)
        ),
    );
    text
}

fn label(text: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    tag(
        text,
        &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(content)),
    );
}

fn tag(text: &mut String, tag: &str) {
    // Writing to a text cannot fail.
    writeln!(text, "{tag}").unwrap_or_default();
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Unit;

    #[test]
    fn an_axis_spans_its_values() {
        let linear = Axis::over([2.0, 10.0].into_iter(), 0.0, 100.0);
        assert!((linear.place(5.0) - 50.0).abs() < 1e-9);
        let logarithmic = Axis::over([1.0, 100.0].into_iter(), 0.0, 100.0);
        assert!((logarithmic.place(10.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn text_cannot_break_a_plot() {
        let mut measurement =
            Measurement::new("g", "p < 1 & more", Unit::PerSecond).beside("l").at("a<b", 1.0);
        measurement.add(1.0);
        measurement.add_limit(2.0);
        let text = ratios(std::slice::from_ref(&measurement)) + &lines("g", "/s", &[&measurement]);
        assert!(
            text.contains("p &lt; 1 &amp; more") && text.contains("a&lt;b") && !text.contains("NaN"),
            "{text}"
        );
    }
}
