//! Runs one hot function so many times, for whoever counts its instructions; `cargo xtask bench --guard` does.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use outbox_bench::hot;

/// As in the bridge.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
enum Arguments {
    /// Run the function of this name
    Run { name: String, times: u64 },
    /// List the functions: how many items a call is about, and the name
    List,
    /// Have a real server write the recorded log anew, and store it there
    Record { file: PathBuf },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Run { name, times } => {
            let mut hot = hot::prepare(&name)?;
            (0..times).for_each(|_| hot.call());
        }
        Arguments::List => {
            for name in hot::NAMES {
                println!("{}\t{name}", hot::prepare(name)?.items);
            }
        }
        Arguments::Record { file } => std::fs::write(file, Box::pin(hot::recorded::record()).await?)?,
    }
    Ok(())
}
