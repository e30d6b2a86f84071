//! The bridge's own binary as a child process.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::setup::{World, say};
use crate::stage::{cargo, repository};

const BINARY: &str = "outbox-bridge";
const READY_LIMIT: Duration = Duration::from_secs(60);
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// More than the bridge's own deadline for draining.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much of the log is shown when something fails.
const LOG_LINES_MAX: usize = 40;
/// Kills the bridge (`$0`) and removes its folder (`$1`) if we die without doing so.
const GUARD: &str = r#"read -r line; kill -KILL "$0" 2>/dev/null; rm -rf "$1""#;

/// Builds what `selection` says, with cargo's progress on standard error, and returns where the bridge's binary is.
pub(crate) async fn build(selection: &[&str]) -> Result<PathBuf> {
    let mut command = Command::from(cargo());
    command
        .arg("build")
        .args(selection)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(repository()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let output = command.spawn().context("cannot run cargo")?.wait_with_output().await?;
    ensure!(output.status.success(), "the bridge cannot be built ({})", output.status);
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let executable = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        // The binary's unit tests are an executable of the same name.
        let tests = message.pointer("/profile/test")?.as_bool()?;
        let bridge = message.pointer("/target/name")? == BINARY && !tests;
        bridge.then(|| message.get("executable")?.as_str().map(PathBuf::from)).flatten()
    });
    executable.context("cargo does not say where the bridge's binary is")
}

/// A running bridge; killed when dropped.
#[derive(Debug)]
pub(super) struct Bridge {
    child: Child,
    _guard: Child,
    program: PathBuf,
    configuration: PathBuf,
    folder: PathBuf,
}

impl Bridge {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(program: &Path, world: &World) -> Result<Self> {
        say("outbox-bridge run");
        let (folder, configuration) = (world.folder.path().to_owned(), world.configuration());
        let (child, guard) = spawn(program, &configuration, &folder)?;
        let mut bridge = Self { child, _guard: guard, program: program.to_owned(), configuration, folder };
        if let Err(error) = bridge.await_ready(world).await {
            return Err(error.context(format!("the bridge's log ends:\n{}", bridge.log())));
        }
        Ok(bridge)
    }

    /// Kills it without warning, and starts it again.
    pub(super) async fn kill_and_start_again(&mut self) -> Result<()> {
        self.child.kill().await?;
        (self.child, self._guard) = spawn(&self.program, &self.configuration, &self.folder)?;
        Ok(())
    }

    async fn await_ready(&mut self, world: &World) -> Result<()> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the bridge has ended with {status}");
            }
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
        Ok(self.child.wait().await?)
    }

    /// Stops it as a service manager does, and expects success.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            let number = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
            kill_process(number.context("the bridge has no process id")?, Signal::TERM)?;
        }
        let ended = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await;
        let status = ended.context("the bridge does not end after SIGTERM")??;
        ensure!(status.success(), "the bridge ended with {status}");
        Ok(())
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        let mut bytes = Vec::new();
        let log = log_path(&self.folder);
        match File::open(&log).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                let skipped = lines.len().saturating_sub(LOG_LINES_MAX);
                lines.into_iter().skip(skipped).collect::<Vec<_>>().join("\n")
            }
            Err(error) => format!("({} cannot be read: {error})", log.display()),
        }
    }
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("bridge.log")
}

/// The bridge, and its guard. What it prints is appended to its log.
fn spawn(program: &Path, configuration: &Path, folder: &Path) -> Result<(Child, Child)> {
    let output = File::options().create(true).append(true).open(log_path(folder))?;
    let child = Command::new(program)
        .args(["run", "--config"])
        .arg(configuration)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A Ctrl-C at the terminal is for us; the bridge hears of it once all has arrived.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the bridge")?;
    let number = child.id().context("the bridge has ended at once")?.to_string();
    let guard = Command::new("sh")
        .args(["-c", GUARD, &number])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start `sh`, which guards the bridge")?;
    Ok((child, guard))
}

async fn readyz(address: std::net::SocketAddr) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}
