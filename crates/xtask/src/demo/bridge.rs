//! The bridge's own binary as a child process.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::process::{Process, Program};
use super::setup::{World, say};

const READY_LIMIT: Duration = Duration::from_secs(60);
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running bridge; killed when dropped.
#[derive(Debug)]
pub(super) struct Bridge(Process);

impl Bridge {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(path: &Path, world: &World) -> Result<Self> {
        say("outbox-bridge run");
        let program = Program {
            name: "outbox-bridge",
            path: path.to_owned(),
            arguments: vec!["run".into(), "--config".into(), world.configuration().display().to_string()],
            variables: Vec::new(),
            folder: world.folder.path().to_owned(),
        };
        let mut bridge = Self(Process::start(program)?);
        if let Err(error) = bridge.await_ready(world).await {
            return Err(error.context(format!("the bridge's log ends:\n{}", bridge.log())));
        }
        Ok(bridge)
    }

    /// Kills it without warning, and starts it again.
    pub(super) async fn kill_and_start_again(&mut self) -> Result<()> {
        self.0.kill_and_start_again().await
    }

    async fn await_ready(&mut self, world: &World) -> Result<()> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            self.0.check_running()?;
            let answer = tokio::time::timeout(REQUEST_LIMIT, readyz(world.admin.address())).await;
            let answer = answer.unwrap_or_else(|_| bail!("no answer"));
            match answer {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
                answer if tokio::time::Instant::now() > deadline => {
                    bail!("the bridge is not ready after {READY_LIMIT:?}; /readyz says: {answer:?}");
                }
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Waits for it to end by itself.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus> {
        self.0.ended().await
    }

    /// Stops it as a service manager does, and expects success.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.0.stop().await
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        self.0.log()
    }
}

async fn readyz(address: std::net::SocketAddr) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}
