//! `cargo xtask bench --guard`: how many instructions the hot functions take, against a stored baseline.
//!
//! Instructions are counted by valgrind's callgrind and not timed, so a busy machine counts the same. What a program needs to
//! start is taken off by counting twice, with few calls and with many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::demo::build;
use crate::stage::repository;

const BASELINE: &str = "crates/bench/instructions.json";
/// Calls of the two counts.
const CALLS: [u64; 2] = [100, 1_100];
/// By how much a count may be off: allocations and hashes do not take the same path each time.
const TOLERANCE: f64 = 0.05;

/// Instructions an item, by function.
#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    /// Another compiler makes other instructions.
    rustc: String,
    instructions: BTreeMap<String, u64>,
}

/// Counts, and compares; with `bless`, stores what was counted instead.
pub(crate) async fn run(bless: bool) -> Result<()> {
    let built = build(&["--release", "--package", "outbox-bench", "--bin", "outbox-hot"]).await?;
    let program = built.get("outbox-hot").context("outbox-hot was not built")?;
    let now = Baseline { rustc: rustc()?, instructions: count_all(program)? };
    let path = repository()?.join(BASELINE);
    if bless {
        std::fs::write(&path, serde_json::to_string_pretty(&now)? + "\n")?;
        now.instructions.iter().for_each(|(name, count)| println!("{count:>10}  {name}"));
        return Ok(());
    }
    compare(&read(&path)?, &now)
}

fn read(path: &PathBuf) -> Result<Baseline> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no baseline", path.display()))
}

fn rustc() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn count_all(program: &Path) -> Result<BTreeMap<String, u64>> {
    let list = Command::new(program).arg("list").output()?;
    let list = String::from_utf8(list.stdout)?;
    let mut counts = BTreeMap::new();
    for line in list.lines() {
        let (items, name) = line.split_once('\t').context("outbox-hot list has another form")?;
        let [few, many] = CALLS;
        let instructions = count(program, name, many)?.saturating_sub(count(program, name, few)?);
        counts.insert(name.to_owned(), instructions / (many - few) / items.parse::<u64>()?);
    }
    Ok(counts)
}

/// All instructions of the program when it calls the function so many times.
fn count(program: &Path, name: &str, calls: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["run", name, &calls.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind, which counts the instructions: install the package of that name")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}:\n{text}", output.status);
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.with_context(|| format!("valgrind does not say what it counted:\n{text}"))?;
    Ok(number.trim().parse()?)
}

fn compare(before: &Baseline, now: &Baseline) -> Result<()> {
    let mut problems = Vec::new();
    println!("{:>10} {:>10} {:>8}  instructions an item", "baseline", "now", "change");
    for (name, count) in &now.instructions {
        let Some(baseline) = before.instructions.get(name) else {
            println!("{:>10} {count:>10} {:>8}  {name}", "-", "new");
            problems.push(format!("{name} is not in the baseline"));
            continue;
        };
        let change = *count as f64 / *baseline as f64 - 1.0;
        println!("{baseline:>10} {count:>10} {:>+7.1}%  {name}", change * 100.0);
        if change > TOLERANCE {
            problems.push(format!("{name} takes {:.1} % more instructions", change * 100.0));
        }
        if change < -TOLERANCE {
            println!("{name} got faster: store it with --bless");
        }
    }
    let gone = before.instructions.keys().filter(|name| !now.instructions.contains_key(*name));
    problems.extend(gone.map(|name| format!("{name} is in the baseline only")));
    if before.rustc != now.rustc {
        problems.push(format!(
            "the baseline was counted with {}, and this is {}: count the earlier commit with this compiler and --bless first",
            before.rustc, now.rustc
        ));
    }
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(counts: &[(&str, u64)]) -> Baseline {
        let instructions = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Baseline { rustc: "rustc".to_owned(), instructions }
    }

    #[test]
    fn what_got_slower_is_told() {
        let before = baseline(&[("a", 1_000), ("b", 1_000)]);
        compare(&before, &baseline(&[("a", 1_049), ("b", 10)])).expect("within the tolerance");
        let error = compare(&before, &baseline(&[("a", 1_060), ("b", 1_000)])).expect_err("slower");
        assert!(error.to_string().contains("a takes 6.0 % more"), "{error}");
        compare(&before, &baseline(&[("a", 1_000)])).expect_err("one is gone");
        compare(&before, &baseline(&[("a", 1_000), ("b", 1_000), ("c", 1)])).expect_err("one is new");
        let other = Baseline { rustc: "another".to_owned(), ..baseline(&[("a", 1_000), ("b", 1_000)]) };
        compare(&before, &other).expect_err("another compiler");
    }
}
