//! The one entry for everything that is done with this repository; see `cargo xtask --help`.

mod bench;
mod chaos;
mod check;
mod demo;
mod guard;
mod servers;
mod stage;

use std::io;

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
    /// Measure bridge and consumers beside the limits that the servers set, and print a table
    Bench(bench::Options),
    /// Kill, freeze, cut off and slow down everything at random, by a seed, and compare table and stream meanwhile
    Chaos(chaos::Options),
    /// Check format, lints, documentation, and licences where cargo-deny is installed
    Check,
    /// Watch committed orders of a real MySQL arrive in a real NATS stream, until Ctrl-C
    Demo(Box<demo::Options>),
    /// Get the servers that tests and demo run against, and print where they are
    Servers,
    /// Run everything that must hold before a change is merged: checks, then all tests against real servers
    Test,
}

fn main() -> Result<()> {
    let task = Arguments::parse().task;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(run(task));
    // A download that was interrupted is not waited for.
    runtime.shutdown_background();
    // Who reads no further, as `head` does, has seen enough.
    let unread = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    result.or_else(|error| if error.chain().any(unread) { Ok(()) } else { Err(error) })
}

async fn run(task: Task) -> Result<()> {
    match task {
        Task::Bench(options) => bench::run(options).await,
        Task::Chaos(options) => chaos::run(options).await,
        Task::Check => check::check(),
        Task::Demo(options) => Box::pin(demo::run(*options)).await,
        Task::Servers => servers::run().await,
        Task::Test => check::test().await,
    }
}
