//! The bridge's own binary as a child process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, bail};
use testbed::request;

use super::process::{Process, Program};
use super::setup::{World, say};

const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running bridge; killed when dropped.
#[derive(Debug)]
pub(super) struct Bridge(Process);

impl Bridge {
    /// Starts the shop's and waits until it is ready.
    pub(super) async fn of_shop(path: &Path, world: &World) -> Result<Self> {
        let program = Program {
            name: "outbox-bridge",
            path: path.to_owned(),
            arguments: vec!["run".into(), "--config".into(), world.configuration().display().to_string()],
            variables: Vec::new(),
            folder: world.folder.path().to_owned(),
        };
        Self::start(program, world.admin.address()).await
    }

    /// Starts one whose admin endpoint is at `admin`, and waits until it is ready.
    pub(super) async fn start(program: Program, admin: SocketAddr) -> Result<Self> {
        say("outbox-bridge run");
        let mut bridge = Self(Process::start(program)?);
        if let Err(error) = bridge.await_ready(admin).await {
            return Err(error.context(format!("the bridge's log ends:\n{}", bridge.log())));
        }
        Ok(bridge)
    }

    /// Kills it without warning, and starts it again.
    pub(super) async fn kill_and_start_again(&mut self) -> Result<()> {
        self.0.kill_and_start_again().await
    }

    async fn await_ready(&mut self, admin: SocketAddr) -> Result<()> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            self.0.check_running()?;
            match request(admin, "GET", "/readyz", &[], None).await {
                Ok((200, _)) => return Ok(()),
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
