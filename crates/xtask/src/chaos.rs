//! `cargo xtask chaos`: builds bridge and fault injection, and lets them run.
//!
//! A program of its own, as the benchmark is, since it links what nobody should wait for who only wants the demo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::demo::build;
use crate::stage::repository;

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where all randomness comes from; the same seed gives the same schedule of faults [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// About how long it takes
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1440), default_value_t = 5)]
    minutes: u16,
    /// Print what would happen when, and do nothing
    #[arg(long)]
    print_schedule: bool,
    /// Write the report to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds and runs; the report goes to standard output.
pub(crate) async fn run(options: Options) -> Result<()> {
    let all = ["--workspace", "--all-features", "--bins"];
    let built = build(&all).await?;
    let find = |name: &str| built.get(name).with_context(|| format!("{name} was not built"));
    let mut arguments = Vec::new();
    if options.print_schedule {
        arguments.push("--print-schedule".into());
    }
    if let Some(path) = options.json {
        arguments.extend(["--json".into(), path.into_os_string()]);
    }
    let seed = options.seed.unwrap_or_else(|| rand::random::<u64>() % 1_000_000);
    let minutes = options.minutes;
    execute(Command::new(find("outbox-chaos")?).args(arguments), find("outbox-bridge")?, seed, minutes)
}

/// The seed of [`rehearsal`]: a check of a change should not fail for what it does not change. Random seeds are for runs by hand.
const REHEARSAL_SEED: u64 = 42;

/// Two minutes, with the programs that are there.
pub(crate) fn rehearsal(chaos: &Path, bridge: &Path) -> Result<()> {
    execute(&mut Command::new(chaos), bridge, REHEARSAL_SEED, 2)
}

fn execute(command: &mut Command, bridge: &Path, seed: u64, minutes: u16) -> Result<()> {
    let again = format!("cargo xtask chaos --seed {seed} --minutes {minutes}");
    eprintln!("    {again}");
    let keep = repository()?.join("target").join("chaos").join(seed.to_string());
    command.env("OUTBOX_BRIDGE_BIN", bridge);
    command.args(["--seed", &seed.to_string(), "--minutes", &minutes.to_string()]).arg("--keep").arg(keep);
    let status = command.status().context("cannot run the fault injection")?;
    ensure!(status.success(), "it ended with {status}; the same faults once more: {again}");
    Ok(())
}
