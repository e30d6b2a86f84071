//! The one entry for everything that is done with this repository; see `cargo xtask --help`.

mod servers;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", about = "Tasks of the Outbox Bridge repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Get the servers that tests and demo run against, and print where they are
    Servers,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Servers => servers::run().await,
    }
}
