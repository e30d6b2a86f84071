//! Alerts and dashboard: Prometheus accepts them, they fire for what they are about, and every metric and label in them is one that
//! the bridge or the consumer crate really has.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use outbox_bridge::metrics::{METRICS, MetricKind, names};
use outbox_bridge_tests::{Bridge, Outbox, STREAM, World};
use outbox_consumer::metrics as consumer;
use serde_json::Value;

use crate::deploy::{deploy, read, yaml};

const ALERTS: &str = "prometheus/alerts.yaml";
const DASHBOARD: &str = "grafana/outbox-bridge.json";
/// What Prometheus adds to every metric, and what `ALERTS` and histograms have.
const COMMON_LABELS: [&str; 3] = ["job", "instance", "le"];
/// The metrics of the consumer crate, all with these labels.
const CONSUMER_LABELS: [&str; 2] = ["stream", "consumer"];
const CONSUMER: [&str; 9] = [
    consumer::HANDLED,
    consumer::RETRIED,
    consumer::DEAD_LETTERED,
    consumer::DUPLICATES,
    consumer::IGNORED,
    consumer::IN_PROGRESS,
    consumer::HANDLING,
    consumer::LAG,
    consumer::PAUSED,
];

fn promtool(arguments: &[&str], input: Option<&str>) -> Result<String> {
    let mut command: Command = testbed::promtool()?;
    command.args(arguments).current_dir(deploy("prometheus"));
    match input {
        Some(input) => {
            let mut file = tempfile::tempfile()?;
            std::io::Write::write_all(&mut file, input.as_bytes())?;
            std::io::Seek::rewind(&mut file)?;
            command.stdin(file);
        }
        None => drop(command.stdin(Stdio::null())),
    }
    let output = command.output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "promtool {arguments:?} ended with {}:\n{text}", output.status);
    Ok(text)
}

#[test]
fn prometheus_accepts_the_alerts_and_each_fires() -> Result<()> {
    promtool(&["check", "config", "prometheus.yaml"], None)?;
    promtool(&["test", "rules", "alerts.test.yaml"], None)?;
    let tests = read("prometheus/alerts.test.yaml")?;
    let readme = read("README.md")?;
    for alert in alerts()? {
        let name = alert.pointer("/alert").and_then(Value::as_str).context("an alert without a name")?;
        ensure!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
        ensure!(readme.contains(&format!("\n### {name}\n")), "README.md says nothing about {name}");
        let runbook = alert.pointer("/annotations/runbook").and_then(Value::as_str);
        ensure!(
            runbook == Some(&*format!("deploy/README.md#{}", name.to_lowercase())),
            "{name}: {runbook:?}"
        );
    }
    Ok(())
}

fn alerts() -> Result<Vec<Value>> {
    let mut alerts = Vec::new();
    for group in yaml(ALERTS)?.iter().filter_map(|document| document.get("groups")?.as_array()).flatten() {
        alerts.extend(group.get("rules").and_then(Value::as_array).context("no rules")?.iter().cloned());
    }
    ensure!(!alerts.is_empty(), "no alerts");
    Ok(alerts)
}

/// Every expression of alerts and dashboard.
fn expressions() -> Result<Vec<String>> {
    let mut found = Vec::new();
    collect(&Value::Array(alerts()?), &mut found);
    collect(&serde_json::from_str(&read(DASHBOARD)?)?, &mut found);
    ensure!(found.len() > 30, "the expressions cannot be found");
    Ok(found)
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("expr").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| collect(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// The words of an expression, without what stands in quotation marks.
fn words(expression: &str) -> Vec<&str> {
    let unquoted = expression.split('"').step_by(2);
    unquoted.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_')).collect()
}

/// A metric's own name, without what the exporter adds to a histogram's.
fn base(word: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word)
}

/// What stands in the parentheses behind `by` and `on`.
fn lists(expression: &str) -> Vec<&str> {
    let behind = |word: &'static str| expression.split(word).skip(1);
    behind("by (").chain(behind("on (")).filter_map(|rest| rest.split(')').next()).collect()
}

fn labels_of(metric: &str) -> Option<&'static [&'static str]> {
    if CONSUMER.contains(&metric) {
        return Some(&CONSUMER_LABELS);
    }
    METRICS.iter().find(|known| known.name == metric).map(|known| known.labels)
}

#[test]
fn every_metric_and_label_exists() -> Result<()> {
    let mut used = BTreeSet::new();
    for expression in expressions()? {
        let mut labels = BTreeSet::from(COMMON_LABELS);
        for word in words(&expression).into_iter().filter(|word| word.starts_with("outbox_")) {
            let known = labels_of(base(word)).with_context(|| format!("no metric {word}: {expression}"))?;
            labels.extend(known);
            used.insert(base(word).to_owned());
        }
        for list in lists(&expression) {
            for label in list.split(", ") {
                ensure!(labels.contains(label), "no label {label}: {expression}");
            }
        }
        for matcher in
            expression.split(['{', ',']).filter_map(|part| part.split_once("=~").or(part.split_once("=\"")))
        {
            ensure!(labels.contains(matcher.0.trim()), "no label {}: {expression}", matcher.0);
        }
    }
    for metric in METRICS.iter().map(|metric| metric.name).chain(CONSUMER) {
        ensure!(used.contains(metric), "neither an alert nor the dashboard shows {metric}");
    }
    Ok(())
}

/// What a bridge exports is what the table of metrics says, and Prometheus finds no fault with it.
#[tokio::test]
async fn a_bridge_exports_what_is_shown() -> Result<()> {
    let mut world = World::mysql().outbox(Outbox::standard().set("retention", "1d")).start().await?;
    let mut bridge =
        Bridge::start(&world.settings().set("audit.interval", "1h").set("claim_check.bucket", "PAYLOADS"))
            .await?;
    world.insert(0..10).await?;
    world.await_messages(&mut bridge, STREAM, 10).await?;
    // So that a writer resumes.
    world.nats.restart().await?;
    world.insert(10..20).await?;
    world.await_messages(&mut bridge, STREAM, 20).await?;
    let answer = bridge.metrics().await?;
    let (_, text) = answer.split_once("\r\n\r\n").context("no body")?;
    for metric in METRICS {
        let suffix = if metric.kind == MetricKind::Histogram { "_bucket" } else { "" };
        let line = text.lines().find(|line| line.starts_with(&format!("{}{suffix}", metric.name)));
        let line = line.with_context(|| format!("{} is not exported:\n{text}", metric.name))?;
        for label in metric.labels {
            ensure!(line.contains(&format!("{label}=\"")), "{line} has no {label}");
        }
    }
    ensure!(bridge.metric(names::START_TIME).await? > 1.7e9);
    let said = promtool(&["check", "metrics"], Some(text))?;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}
