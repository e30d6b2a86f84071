//! `cargo xtask bench`: builds bridge and benchmark for release, and lets the benchmark measure.
//!
//! The benchmark is a program of its own, since it links bridge, consumer and sqlx, which nobody who only wants the demo
//! should have to wait for.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::demo::build;

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Smaller backlogs and shorter loads: under three minutes, and rougher numbers
    #[arg(long)]
    quick: bool,
    /// Measure only this: decode, publish, catch-up, latency, consumers, foreign or scale; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often everything is measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100), default_value_t = 3)]
    rounds: u8,
    /// Write all numbers to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw plots into this folder, as SVG
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// Measure no time, but count the instructions of the hot functions and compare them with the stored baseline; needs valgrind
    #[arg(long, conflicts_with_all = ["quick", "only", "rounds", "json", "plots"])]
    guard: bool,
    /// Store what was counted as the new baseline
    #[arg(long, requires = "guard")]
    bless: bool,
}

/// Builds and measures; the table goes to standard output.
pub(crate) async fn run(options: Options) -> Result<()> {
    if options.guard {
        return crate::guard::run(options.bless).await;
    }
    let selection = ["--release", "--package", "outbox-bridge", "--package", "outbox-bench", "--bins"];
    let built = build(&selection).await?;
    let find = |name: &str| built.get(name).with_context(|| format!("{name} was not built"));
    let program = find("outbox-bench")?;
    let mut command = Command::new(program);
    command.env("OUTBOX_BRIDGE_BIN", find("outbox-bridge")?).args(["--rounds", &options.rounds.to_string()]);
    if options.quick {
        command.arg("--quick");
    }
    for name in &options.only {
        command.args(["--only", name]);
    }
    for (flag, path) in [("--json", &options.json), ("--plots", &options.plots)] {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(status.success(), "the benchmark ended with {status}");
    Ok(())
}
