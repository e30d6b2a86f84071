//! The one entry for everything that is done with this repository; see `cargo xtask --help`.

mod check;
mod servers;
mod stage;

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
    /// Check format, lints, documentation, and licences where cargo-deny is installed
    Check,
    /// Get the servers that tests and demo run against, and print where they are
    Servers,
    /// Run everything that must hold before a change is merged: checks, then all tests against real servers
    Test,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Check => check::check(),
        Task::Servers => servers::run().await,
        Task::Test => check::test().await,
    }
}
