//! A program as a child process that does not outlive us.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// More than the programs' own deadlines for draining.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// How much of the log is shown when something fails.
const LOG_LINES_MAX: usize = 40;
/// Kills the program (`$0`) and removes our folder (`$1`) if we die without doing so.
const GUARD: &str = r#"read -r line; kill -KILL "$0" 2>/dev/null; rm -rf "$1""#;

/// What is started.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(&'static str, String)>,
    /// Where its log is, and what goes with us.
    pub(super) folder: PathBuf,
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end, and returns what it prints.
    pub(super) async fn output(&self) -> Result<String> {
        let output = self.command().output().await.with_context(|| format!("cannot start {}", self.name))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{} ended with {}:\n{text}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    program: Program,
    child: Child,
    _guard: Child,
}

impl Process {
    /// Starts it. What it prints is appended to its log.
    pub(super) fn start(program: Program) -> Result<Self> {
        let (child, guard) = spawn(&program)?;
        Ok(Self { program, child, _guard: guard })
    }

    /// Kills it without warning, and starts it again.
    pub(super) async fn kill_and_start_again(&mut self) -> Result<()> {
        self.child.kill().await?;
        (self.child, self._guard) = spawn(&self.program)?;
        Ok(())
    }

    /// Waits for it to end by itself.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Fails if it has ended by itself.
    pub(super) fn check_running(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{} has ended; its log ends:\n{}", self.program.name, self.log());
        Ok(())
    }

    /// Stops it as a service manager does, and expects success.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let name = self.program.name;
        if self.child.try_wait()?.is_none() {
            let number = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
            kill_process(number.with_context(|| format!("{name} has no process id"))?, Signal::TERM)?;
        }
        let ended = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await;
        let status = ended.with_context(|| format!("{name} does not end after SIGTERM"))??;
        ensure!(status.success(), "{name} ended with {status}; its log ends:\n{}", self.log());
        Ok(())
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        let mut bytes = Vec::new();
        let log = log_path(&self.program);
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

fn log_path(program: &Program) -> PathBuf {
    program.folder.join(Path::new(program.name).with_extension("log"))
}

/// The program, and its guard.
fn spawn(program: &Program) -> Result<(Child, Child)> {
    let name = program.name;
    let output = File::options().create(true).append(true).open(log_path(program))?;
    let child = program
        .command()
        .stdout(output.try_clone()?)
        .stderr(output)
        // A Ctrl-C at the terminal is for us; the programs hear of it once all has arrived.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let number = child.id().with_context(|| format!("{name} has ended at once"))?.to_string();
    let guard = Command::new("sh")
        .args(["-c", GUARD, &number])
        .arg(&program.folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start `sh`, which guards {name}"))?;
    Ok((child, guard))
}
