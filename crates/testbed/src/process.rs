//! Child processes that cannot outlive us.
//!
//! `PR_SET_PDEATHSIG` would need `unsafe`, and fires when the *thread* that forked ends, which in a test is too early.
//! Instead every server has a guard: a shell that blocks on a pipe from us. However we end, the system closes the
//! pipe, and the guard kills the server and removes its folder.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};

use crate::wait::eventually;

/// `$0` is the server's process, `$1` its folder. A line on the pipe would mean "all is well"; its end means that we
/// are gone. The wait is bounded, since a process that nobody reaps stays visible for ever.
const GUARD: &str = r#"
read -r line && exit
kill -KILL "$0"
for turn in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$0" 2>/dev/null || break; sleep 0.1; done
rm -rf "$1"
"#;

/// How much of a log is quoted in an error.
const LOG_TAIL_BYTES: u64 = 4_000;

/// How long a process may take to stop once it is told to.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// A running server process; killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    guard: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`. Should we die, `folder` is removed as well.
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path, folder: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        // A process group of its own keeps a Ctrl-C at the terminal from reaching the server and its guard.
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {}", command.get_program().display()))?;
        let mut child = Reaped(Some(child));
        let guard = Command::new("sh")
            .arg("-c")
            .arg(GUARD)
            .arg(child.id()?.to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start `sh`, which guards the servers")?;
        Ok(Self { name: name.to_owned(), child: child.keep()?, guard, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    pub(crate) fn pause(&self) -> Result<()> {
        freeze(&self.child).with_context(|| format!("cannot pause {}", self.name))
    }

    /// Lets a paused process go on.
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// The exit status, if the process has ended.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let status =
            self.child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))?;
        if status.is_some() {
            // The process is reaped, so its number may soon be another's: the guard must not kill that.
            self.dismiss_guard();
        }
        Ok(status)
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        eventually(&what, limit, async || self.exited()).await
    }

    /// Fails if the process has ended, quoting its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(self.failure(&format!("ended with {status}"))),
        }
    }

    fn dismiss_guard(&mut self) {
        // Both fail only if the guard has ended already.
        drop(self.guard.kill());
        drop(self.guard.wait());
    }

    /// An error about this process with the end of its log.
    pub(crate) fn failure(&self, what: &str) -> anyhow::Error {
        anyhow!("{} {what}; its log {} ends:\n{}", self.name, self.log.display(), tail(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard first, while the process' number cannot be another's yet.
        self.dismiss_guard();
        // Both fail only if the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Freezes a child process (`SIGSTOP`); when this returns, none of its threads runs any more. `SIGCONT` lets it go on.
///
/// # Errors
///
/// When the process has ended, or does not stop.
pub fn freeze(child: &Child) -> Result<()> {
    let process = Pid::from_child(child);
    kill_process(process, Signal::STOP)?;
    // Each thread stops by itself some time after the signal was sent, and only then is the process reported as stopped.
    let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    let deadline = Instant::now() + FREEZE_LIMIT;
    while waitid(WaitId::Pid(process), stopped)?.is_none() {
        ensure!(Instant::now() < deadline, "process {process} does not stop within {FREEZE_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A child that is killed unless kept, for the moment before its guard stands.
struct Reaped(Option<Child>);

impl Reaped {
    fn id(&self) -> Result<u32> {
        self.0.as_ref().map(Child::id).context("the child was taken")
    }

    fn keep(&mut self) -> Result<Child> {
        self.0.take().context("the child was taken")
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The end of a log file, as text; says why if it cannot be read.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|err| format!("(cannot be read: {err})"))
}

/// Runs a helper command to its end and returns its output; on failure the error has the end of what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{program}`"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut lines: Vec<&str> = text.lines().chain(errors.lines()).collect();
    let quoted = lines.split_off(lines.len().saturating_sub(20)).join("\n");
    Err(anyhow!("`{program}` ended with {}:\n{quoted}", output.status))
}

/// Looks for a program on `PATH` and where distributions keep servers that are not on a user's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beyond = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"].map(PathBuf::from);
    std::env::split_paths(&path).chain(beyond).map(|folder| folder.join(name)).find(|file| file.is_file())
}
