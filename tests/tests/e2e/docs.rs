//! The documentation says what is: keys, metrics, messages and configurations in it are compared with the code.
//!
//! `OUTBOX_UPDATE_DOCS=1 cargo test -p outbox-bridge-tests --test e2e docs::` writes the generated tables anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outbox_bridge::config::{Config, KEYS, Kind, Presence};
use outbox_bridge::diagnosis::{DIAGNOSES, Diagnosis};
use outbox_bridge::exit::Exit;
use outbox_bridge::metrics::{METRICS, MetricKind};
use outbox_bridge_tests::{Bridge, Event, STREAM, TABLE, World};

const NO_VARIABLES: [(&str, &str); 0] = [];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(repository().join(path)).with_context(|| format!("cannot read {path}"))
}

/// Compares what stands between the markers of `name` in deploy/README.md with `table`, or puts it there.
fn compare_generated(name: &str, table: &str) -> Result<()> {
    const FILE: &str = "deploy/README.md";
    let text = read(FILE)?;
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = text.split_once(&begin).with_context(|| format!("{FILE} lacks {begin}"))?;
    let (found, after) = rest.split_once(&end).with_context(|| format!("{FILE} lacks {end}"))?;
    let wanted = format!("\n{table}\n");
    if std::env::var_os("OUTBOX_UPDATE_DOCS").is_some() {
        std::fs::write(repository().join(FILE), format!("{before}{begin}{wanted}{end}{after}"))?;
        return Ok(());
    }
    ensure!(
        found == wanted,
        "the {name} in {FILE} are not the code's; write them anew with\n  \
         OUTBOX_UPDATE_DOCS=1 cargo test -p outbox-bridge-tests --test e2e docs::\nand look at the difference:\n{table}"
    );
    Ok(())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Texts => "text or array of texts".to_owned(),
        Kind::Flag => "`true`, `false`".to_owned(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::Duration { min, max } => format!("{} to {}", duration(min), duration(max)),
        Kind::Size { min, max } => format!("{min} to {max}"),
        Kind::File => "file".to_owned(),
        Kind::Secret => "secret, environment only".to_owned(),
    }
}

fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        milliseconds if milliseconds % 3_600_000 == 0 => format!("{}h", milliseconds / 3_600_000),
        milliseconds if milliseconds % 1_000 == 0 => format!("{}s", milliseconds / 1_000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

/// One test, since both tables may be written to the same file.
#[test]
fn every_key_and_metric_is_documented() -> Result<()> {
    compare_generated("configuration keys", &keys()?)?;
    compare_generated("metrics", &metrics()?)
}

#[test]
fn every_code_is_documented() -> Result<()> {
    let mut table = "| code | what it is | cause | what to do |\n|---|---|---|---|\n".to_owned();
    for Diagnosis { code, title, cause, remedy } in DIAGNOSES {
        writeln!(table, "| {code} | {} | {} | {} |", cell(title), cell(cause), cell(remedy))?;
    }
    compare_generated("codes", &table)
}

/// The commands of this program in the guides' examples.
fn commands() -> Result<Vec<String>> {
    let mut commands = Vec::new();
    for guide in ["README.md", "deploy/README.md"] {
        let text = read(guide)?;
        let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
        let typed = lines.map(str::trim).filter_map(|line| line.strip_prefix("outbox-bridge "));
        commands.extend(typed.map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()));
    }
    Ok(commands)
}

/// What the guides tell to type is what the program takes, and where it only looks, it works.
#[tokio::test]
async fn the_commands_of_the_guides_are_run() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = world.settings().set("poison.action", "dead_letter").set("poison.stream", "DEAD");
    let (code, text) = Bridge::once(&settings, &["init", "--apply"])?;
    ensure!(code == 0, "{text}");
    let mut bridge = Bridge::start(&settings).await?;
    let mut conn = world.conn().await?;
    Event::new(0).headers("[]").insert(&mut conn, TABLE).await?;
    conn.disconnect().await?;
    world.insert(1..3).await?;
    world.await_messages(&mut bridge, STREAM, 2).await?;
    let commands = commands()?;
    ensure!(commands.len() > 12, "{commands:?}");
    for command in &commands {
        // The first letter is the only one.
        let words: Vec<&str> = command
            .split_whitespace()
            .filter(|word| !matches!(*word, "--config" | "bridge.toml"))
            .map(|word| if word == "17" { "1" } else { word })
            .collect();
        let looks = ["check", "status", "health", "verify", "explain", "completions", "man"];
        match words.as_slice() {
            ["run", ..] => {}
            ["explain" | "completions" | "man", ..] => {
                let (code, text) = Bridge::plain(&words)?;
                ensure!(code == 0, "{command} ended with {code}:\n{text}");
            }
            [first, rest @ ..] => {
                let (code, text) = bridge.command(&words)?;
                let only_looks = looks.contains(first) || matches!(rest, ["list" | "show", ..]);
                // `verify` sees the row that can be no message only as parked.
                ensure!(code != 64 && (!only_looks || code == 0), "{command} ended with {code}:\n{text}");
            }
            [] => {}
        }
    }
    bridge.stop().await
}

/// A shell takes the completions, and the manual has a page for each command.
#[test]
fn completions_and_manual_are_usable() -> Result<()> {
    let (code, script) = Bridge::plain(&["completions", "bash"])?;
    ensure!(code == 0 && script.contains("dead-letters"), "{script}");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("completions");
    std::fs::write(&file, script)?;
    let test = format!("source {} && complete -p outbox-bridge", file.display());
    let bash = std::process::Command::new("bash").args(["-c", &test]).output().context("bash is needed")?;
    ensure!(bash.status.success(), "{}", String::from_utf8_lossy(&bash.stderr));
    let (code, text) = Bridge::plain(&["man", "--folder", &folder.path().display().to_string()])?;
    ensure!(code == 0, "{text}");
    for page in ["outbox-bridge.1", "outbox-bridge-run.1", "outbox-bridge-dead-letters-replay.1"] {
        let text = std::fs::read_to_string(folder.path().join(page)).with_context(|| page.to_owned())?;
        ensure!(text.contains(".TH"), "{page}: {text}");
    }
    let (code, text) = Bridge::plain(&["explain", "OB-4003"])?;
    ensure!(code == 0 && text.contains("does not exist") && text.contains("Remedy:"), "{text}");
    let (code, text) = Bridge::plain(&["explain", "OB-0001"])?;
    ensure!(code == 64 && text.contains("no code"), "{text}");
    Ok(())
}

fn keys() -> Result<String> {
    let mut table = "| key | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let default = match key.presence {
            Presence::Required => "*required*".to_owned(),
            Presence::Optional => "–".to_owned(),
            Presence::Default(default) => format!("`{default}`"),
        };
        writeln!(
            table,
            "| `{}` | {} | {default} | {} |",
            key.name,
            cell(&kind(key.kind)),
            cell(key.meaning)
        )?;
    }
    Ok(table)
}

fn metrics() -> Result<String> {
    let mut table = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(table, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), cell(metric.meaning))?;
    }
    Ok(table)
}

#[test]
fn every_exit_code_is_documented() -> Result<()> {
    let text = read("deploy/README.md")?;
    let codes = [
        Exit::Success,
        Exit::Usage,
        Exit::Unavailable,
        Exit::Internal,
        Exit::Configuration,
        Exit::Interrupted,
        Exit::Terminated,
    ];
    for code in codes {
        ensure!(text.contains(&format!("\n| {} |", code.code())), "{code:?} ({}) is missing", code.code());
    }
    Ok(())
}

/// Every message that deploy/README.md quotes in its table of errors is one that the code can print.
#[test]
fn the_errors_are_the_codes_own() -> Result<()> {
    let text = read("deploy/README.md")?;
    let (_, section) = text.split_once("\n## When it stops").context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut sources = String::new();
    collect_sources(&repository().join("crates/outbox-bridge/src"), &mut sources)?;
    let quoted: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`'))
        .map(|(message, _)| message)
        .collect();
    ensure!(quoted.len() > 10, "the table of errors cannot be found");
    for message in quoted {
        // What is filled in stands as … in the documentation.
        for part in message.split('…').map(str::trim).filter(|part| !part.is_empty()) {
            ensure!(sources.contains(part), "no message says {part:?}");
        }
    }
    Ok(())
}

/// The text of all Rust files below `folder`, with string literals of several lines joined.
fn collect_sources(folder: &Path, sources: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_sources(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let mut pieces = text.split("\\\n");
            sources.push_str(pieces.next().unwrap_or_default());
            pieces.for_each(|piece| sources.push_str(piece.trim_start()));
        }
    }
    Ok(())
}

/// Loads `text` as a configuration file with a password file beside it.
fn load(text: &str) -> Result<Config> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bridge.toml");
    std::fs::write(folder.path().join("mysql-password"), "secret")?;
    std::fs::write(&path, text)?;
    Ok(Config::load_with(&path, NO_VARIABLES)?)
}

#[test]
fn the_readmes_configuration_is_accepted() -> Result<()> {
    let text = read("README.md")?;
    let blocks: Vec<&str> =
        text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    ensure!(!blocks.is_empty(), "the README has no configuration");
    for block in blocks {
        load(block).with_context(|| format!("the README's configuration:\n{block}"))?;
    }
    Ok(())
}

/// The example runs as it is, and what is commented out in it are the defaults.
#[test]
fn the_example_configuration_shows_the_defaults() -> Result<()> {
    let text = read("deploy/outbox-bridge.toml")?;
    load(&text)?;
    let mut shown = Vec::new();
    let mut section = String::new();
    let mut active = String::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with(' ') || line.is_empty() {
            continue;
        }
        writeln!(active, "{line}")?;
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_start_matches('[').trim_end_matches(']'));
        } else if let Some((key, value)) = line.split_once(" = ") {
            shown.push((format!("{section}{}", key.trim_end()), value.trim_matches('"').to_owned()));
        }
    }
    for key in KEYS {
        let Presence::Default(default) = key.presence else { continue };
        let value = shown.iter().find(|(name, _)| name == key.name).map(|(_, value)| value.as_str());
        ensure!(
            value == Some(default),
            "{} is {value:?} in the example, and {default:?} is the default",
            key.name
        );
    }
    load(&active).context("with everything that is commented out")?;
    Ok(())
}
