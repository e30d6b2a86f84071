//! What `cargo xtask chaos` builds and starts.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use outbox_chaos::{Options, schedule};

/// See `cargo xtask chaos --help`.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    minutes: usize,
    #[arg(long)]
    keep: PathBuf,
    #[arg(long)]
    print_schedule: bool,
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { seed, minutes, keep, print_schedule, json } = Arguments::parse();
    let options = Options { seed, minutes, keep };
    if print_schedule {
        for (number, round) in schedule::schedule(seed, options.rounds()).iter().enumerate() {
            println!("round {number}");
            for timed in round {
                let (begin, end) = (timed.begin.as_secs_f64(), timed.end.as_secs_f64());
                println!("  {begin:7.3} to {end:7.3} s  {}", timed.fault);
            }
        }
        return Ok(());
    }
    let report = Box::pin(outbox_chaos::run(&options)).await?;
    if let Some(path) = json {
        std::fs::write(path, format!("{:#}\n", report.to_json()))?;
    }
    print!("{report}");
    Ok(())
}
