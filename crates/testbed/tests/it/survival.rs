//! No server outlives the process that started it.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use testbed::{Nats, eventually};

const NAME: &str = "survival::a_killed_process_leaves_no_server_and_no_folder";
/// Set in the second process that the test starts, which is the one to be killed.
const VICTIM: &str = "OUTBOX_TESTBED_TEST_VICTIM";
const MARK: &str = "server at ";

#[tokio::test]
async fn a_killed_process_leaves_no_server_and_no_folder() -> Result<()> {
    if env::var_os(VICTIM).is_some() {
        return be_the_victim().await;
    }
    let mut victim = Command::new(env::current_exe()?)
        .args(["--exact", NAME, "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(victim.stdout.take().context("the victim has an output")?);
    let line =
        output.lines().map_while(Result::ok).find_map(|line| Some(line.split_once(MARK)?.1.to_owned()));
    victim.kill()?;
    victim.wait()?;
    let line = line.context("the victim told no port")?;
    let (port, folder) = line.split_once(' ').context("a port and a folder")?;
    let port: u16 = port.parse()?;
    eventually("the server and its folder to go", Duration::from_secs(10), async || {
        let gone = TcpStream::connect(("127.0.0.1", port)).is_err() && !Path::new(folder).exists();
        Ok(gone.then_some(()))
    })
    .await
}

async fn be_the_victim() -> Result<()> {
    let server = Nats::builder().start().await?;
    println!("{MARK}{} {}", server.port(), server.store_dir().display());
    std::io::stdout().flush()?;
    std::future::pending().await
}
