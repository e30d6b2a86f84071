//! The bridge as a process of its own.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use testbed::{Port, eventually, freeze};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Settings;
use crate::guarded::{Guarded, built};

/// Names the bridge's executable.
const BINARY_VARIABLE: &str = "OUTBOX_BRIDGE_BIN";
const READY_LIMIT: Duration = Duration::from_secs(30);
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How much of the log is quoted in an error.
const LOG_TAIL_BYTES: u64 = 6_000;

/// A running bridge, or one that ran; killed on drop.
#[derive(Debug)]
pub struct Bridge {
    running: Option<Guarded>,
    binary: PathBuf,
    admin: Port,
    folder: tempfile::TempDir,
    /// Whether its log is shown when it is dropped.
    tell: bool,
}

impl Bridge {
    /// Starts a bridge and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become ready; then with the end of its log.
    pub async fn start(settings: &Settings) -> Result<Self> {
        let mut bridge = Self::spawn(settings)?;
        bridge.await_ready().await?;
        Ok(bridge)
    }

    /// Starts a bridge without waiting.
    ///
    /// # Errors
    ///
    /// When there is no executable.
    pub fn spawn(settings: &Settings) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("outbox-bridge-test-").tempdir()?;
        let mut bridge =
            Self { running: None, binary: binary()?, admin: Port::reserve()?, folder, tell: true };
        bridge.configure(settings)?;
        bridge.launch()?;
        Ok(bridge)
    }

    /// Writes another configuration, for the next [`launch`](Self::launch).
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        let settings = settings.clone().set("http.listen", self.admin.address().to_string());
        Ok(std::fs::write(self.folder.path().join("bridge.toml"), settings.to_toml())?)
    }

    /// Starts the process again after its end, without waiting.
    ///
    /// # Errors
    ///
    /// When it runs already.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the bridge runs already");
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--config"])
            .arg(self.folder.path().join("bridge.toml"))
            // A backtrace of a panic belongs into the log.
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.running = Some(Guarded::spawn(&mut command)?);
        Ok(())
    }

    /// Runs another command of the program with the same configuration; gives its exit code and what it printed.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn command(&self, arguments: &[&str]) -> Result<(i32, String)> {
        run_command(&self.binary, &self.folder.path().join("bridge.toml"), arguments)
    }

    /// As [`command`](Self::command), but kills it as `kill -9` does when it takes longer than `after`; then there is no exit
    /// code.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn command_killed(&self, arguments: &[&str], after: Duration) -> Result<Option<i32>> {
        let mut child = Command::new(&self.binary)
            .args(arguments)
            .arg("--config")
            .arg(self.folder.path().join("bridge.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let deadline = Instant::now() + after;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status.code().context("ended by a signal")?));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill()?;
        child.wait()?;
        Ok(None)
    }

    /// Runs a command of the program without a bridge beside it; gives its exit code and what it printed.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn once(settings: &Settings, arguments: &[&str]) -> Result<(i32, String)> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("bridge.toml");
        std::fs::write(&path, settings.to_toml())?;
        run_command(&binary()?, &path, arguments)
    }

    /// Runs a command of the program that needs no configuration; gives its exit code and what it printed.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn plain(arguments: &[&str]) -> Result<(i32, String)> {
        output_of(Command::new(binary()?).args(arguments))
    }

    /// Starts the process again and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As [`launch`](Self::launch) and [`await_ready`](Self::await_ready).
    pub async fn relaunch(&mut self) -> Result<()> {
        self.launch()?;
        self.await_ready().await
    }

    /// Waits until `/readyz` says ready.
    ///
    /// # Errors
    ///
    /// When it ends or takes too long; then with the end of its log.
    pub async fn await_ready(&mut self) -> Result<()> {
        let ready = eventually("the bridge to be ready", READY_LIMIT, async || {
            self.check_running()?;
            Ok(self.is_ready().await.then_some(()))
        });
        let ready = ready.await;
        ready.map_err(|error| self.explain(error))
    }

    /// Whether `/readyz` says ready.
    pub async fn is_ready(&self) -> bool {
        matches!(self.get("/readyz").await, Ok(answer) if answer.starts_with("HTTP/1.1 200"))
    }

    /// Fails if the process has ended, quoting its log.
    ///
    /// # Errors
    ///
    /// When the process has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(self.explain(anyhow!("the bridge has ended with {status}"))),
        }
    }

    /// The exit status, if the process has ended by itself since its launch.
    ///
    /// # Errors
    ///
    /// When it was not launched.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let Some(running) = &mut self.running else { bail!("the bridge was not launched") };
        let status = running.child.try_wait()?;
        if status.is_some() {
            self.forget()?;
        }
        Ok(status)
    }

    /// The process is gone: neither must its number be killed, which may be another's soon.
    fn forget(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Guarded::kill)
    }

    /// Kills the process as `kill -9` does.
    ///
    /// # Errors
    ///
    /// When it has ended by itself; then with the end of its log.
    pub fn kill(&mut self) -> Result<()> {
        self.check_running()?;
        self.forget()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let running = self.running.as_ref().context("the bridge does not run")?;
        Ok(kill_process(Pid::from_child(&running.child), signal)?)
    }

    /// Freezes the process.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        freeze(&self.running.as_ref().context("the bridge does not run")?.child)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Stops the process with SIGTERM and expects that it ends with exit code 0.
    ///
    /// # Errors
    ///
    /// When it does not; then with the end of its log.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let code = self.exit_code(Duration::from_secs(15)).await?;
        if code != 0 {
            return Err(self.explain(anyhow!("the bridge ended with exit code {code} after SIGTERM")));
        }
        Ok(())
    }

    /// As [`stop`](Self::stop), after which nobody needs its log any more.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    pub async fn finish(mut self) -> Result<()> {
        self.stop().await?;
        self.tell = false;
        Ok(())
    }

    /// Waits until the process ends by itself and returns its exit code.
    ///
    /// # Errors
    ///
    /// When it does not end, or was killed by a signal; then with the end of its log.
    pub async fn exit_code(&mut self, limit: Duration) -> Result<i32> {
        let status = eventually("the bridge to end", limit, async || self.exited()).await;
        let status = status.map_err(|error| self.explain(error))?;
        status.code().with_context(|| format!("the bridge ended with {status}"))
    }

    /// Expects that the process ends with an error, and that its log's last error says all of `words`.
    ///
    /// # Errors
    ///
    /// When it goes on or ends otherwise.
    pub async fn refuses(&mut self, words: &[&str]) -> Result<()> {
        let code = self.exit_code(Duration::from_secs(30)).await?;
        let log = self.log();
        let error = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default().to_owned();
        let missing: Vec<_> = words.iter().filter(|word| !error.contains(**word)).collect();
        if code == 0 || !missing.is_empty() {
            let what = format!("exit code {code}, and its error should say {missing:?}: {error}");
            return Err(self.explain(anyhow!(what)));
        }
        Ok(())
    }

    /// What the bridge shows under `/metrics`.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        self.get("/metrics").await
    }

    /// The sum of a metric over its labels; 0 if it does not appear.
    ///
    /// # Errors
    ///
    /// When the bridge does not answer.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.metrics().await?;
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        Ok(text.lines().filter_map(value).sum())
    }

    /// Waits until the sum of a metric over its labels is at least `value`: what is counted shows elsewhere a little earlier.
    ///
    /// # Errors
    ///
    /// If it is not within 90 seconds, or the bridge ends; then with the end of the log.
    pub async fn await_metric(&mut self, name: &str, value: f64) -> Result<()> {
        let what = format!("{name} to be {value}");
        let reached = eventually(&what, Duration::from_secs(90), async || {
            self.check_running()?;
            Ok((self.metric(name).await? >= value).then_some(()))
        });
        let reached = reached.await;
        reached.map_err(|error| self.explain(error))
    }

    /// Waits until the log says this.
    ///
    /// # Errors
    ///
    /// If it does not within a minute; then with the end of the log.
    pub async fn await_log(&self, words: &str) -> Result<()> {
        let what = format!("the log to say {words:?}");
        let limit = Duration::from_secs(60);
        let said = eventually(&what, limit, async || Ok(self.log().contains(words).then_some(()))).await;
        said.map_err(|error| self.explain(error))
    }

    /// The most memory that was ever resident.
    ///
    /// # Errors
    ///
    /// When the process does not run.
    pub fn memory_peak_bytes(&self) -> Result<u64> {
        self.memory_bytes("VmHWM:")
    }

    /// Grants the process so many bytes of address space on top of what it has now; memory beyond is refused to it.
    ///
    /// # Errors
    ///
    /// When the process does not run.
    pub fn limit_memory(&self, more_bytes: u64) -> Result<()> {
        let limit = Some(self.memory_bytes("VmSize:")? + more_bytes);
        let running = self.running.as_ref().context("the bridge does not run")?;
        let limit = Rlimit { current: limit, maximum: limit };
        prlimit(Some(Pid::from_child(&running.child)), Resource::As, limit)?;
        Ok(())
    }

    fn memory_bytes(&self, name: &str) -> Result<u64> {
        let running = self.running.as_ref().context("the bridge does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such memory")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// The processor time that the process has taken since its launch, in user and kernel mode.
    ///
    /// # Errors
    ///
    /// When the process does not run.
    pub fn cpu_time(&self) -> Result<Duration> {
        let running = self.running.as_ref().context("the bridge does not run")?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.child.id()))?;
        // The second field is the program's name, in parentheses; times are the 14th and the 15th (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/<pid>/stat")?;
        let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = times.sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
    }

    /// All that the bridge has logged, over all its launches.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map_or_else(|error| error.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Adds the end of the log to an error.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n--- the bridge's log ends:\n{}", tail(&self.log_path()))
    }

    /// The whole answer of the admin endpoint.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        let request = async {
            let mut stream = TcpStream::connect(self.admin.address()).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        tokio::time::timeout(REQUEST_LIMIT, request).await.context("the bridge does not answer")?
    }

    /// The address of its status page.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.admin.address())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("bridge.log")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if self.tell {
            // The test's output, which is shown only if it fails.
            eprintln!("--- the bridge's log ends:\n{}", tail(&self.log_path()));
        }
        drop(self.forget());
    }
}

fn run_command(binary: &Path, config: &Path, arguments: &[&str]) -> Result<(i32, String)> {
    output_of(Command::new(binary).args(arguments).arg("--config").arg(config))
}

fn output_of(command: &mut Command) -> Result<(i32, String)> {
    let output = command.stdin(Stdio::null()).output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().context("ended by a signal")?, text))
}

/// The bridge's executable.
///
/// # Errors
///
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    std::env::var_os(BINARY_VARIABLE).map_or_else(|| built("outbox-bridge"), |path| Ok(path.into()))
}

fn tail(path: &Path) -> String {
    let read = || -> Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(no log: {error:#})"))
}
