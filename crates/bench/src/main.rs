//! What `cargo xtask bench` builds for release and starts.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use outbox_bench::Options;

/// As the bridge has it: the bare loops and the consumers are to differ by what they do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// See `cargo xtask bench --help`.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    quick: bool,
    #[arg(long, value_parser = outbox_bench::GROUPS)]
    only: Vec<String>,
    #[arg(long)]
    rounds: Option<usize>,
    #[arg(long)]
    json: Option<PathBuf>,
    #[arg(long)]
    plots: Option<PathBuf>,
}

// One thread, as the bridge has.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { quick, only, rounds, json, plots } = Arguments::parse();
    let options = Options { quick, only, rounds, json, plots, smoke: false };
    println!("{}", Box::pin(outbox_bench::run(&options)).await?);
    Ok(())
}
