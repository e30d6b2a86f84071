//! A Postgres server of one's own.

mod account;
mod family;
mod software;
mod template;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection as _, Executor as _, PgConnection};

use self::account::Account;
pub(crate) use self::software::Software;
use crate::port::Port;
use crate::process::{Process, Signal, tail};
use crate::version::Version;
use crate::wait::eventually;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A single attempt to connect, so that a server that accepts and says nothing is tried again.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a test server is started with beside what must be; later settings win over earlier ones.
const COMMON_SETTINGS: [&str; 5] = [
    "listen_addresses=127.0.0.1",
    // The path of a socket may have about 100 bytes only.
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=64MB",
    "jit=off",
];

/// How a server shall be started.
#[derive(Debug, Clone, Default)]
pub struct PostgresBuilder {
    settings: Vec<String>,
}

impl PostgresBuilder {
    /// Sets a server setting, such as `lock_timeout` to `1s`. It wins over defaults and earlier ones.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name}={value}"));
        self
    }

    /// Gives up durability for speed: neither is a commit waited for nor is anything synced.
    #[must_use]
    pub fn relaxed_durability(self) -> Self {
        self.setting("fsync", "off").setting("synchronous_commit", "off")
    }

    /// Gets the server if need be, starts it, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When the server can neither be found nor got, or does not start; then with the end of its log.
    pub async fn start(self) -> Result<Postgres> {
        let folder = tempfile::Builder::new().prefix("outbox-testbed-postgres-").tempdir()?;
        let data = folder.path().join("data");
        let target = data.clone();
        let (software, account) = tokio::task::spawn_blocking(move || {
            let account = Account::choose()?;
            let software = Software::get(account)?;
            template::instantiate(&template::get(&software, account)?, &target, account)?;
            anyhow::Ok((software, account))
        })
        .await??;
        let port = Port::reserve()?;
        let mut server =
            Postgres { process: None, software, account, settings: self.settings, port, data, folder };
        server.start().await?;
        Ok(server)
    }
}

/// A Postgres server with data of its own; it dies with this handle.
///
/// Its superuser is `postgres`, and nobody is asked for a password.
#[derive(Debug)]
pub struct Postgres {
    // First, so that the server is gone before its folder is removed.
    process: Option<Process>,
    software: Software,
    account: Account,
    settings: Vec<String>,
    port: Port,
    data: PathBuf,
    folder: tempfile::TempDir,
}

impl Postgres {
    /// A server to be.
    #[must_use]
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// Starts the server again after [`kill`](Self::kill) or [`stop`](Self::stop), on the same port and data.
    ///
    /// # Errors
    ///
    /// When it runs already, or does not start; then with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("Postgres runs already");
        }
        let mut process = Process::spawn("Postgres", self.command(), &self.log_path(), self.folder.path())?;
        let ready = eventually("the server to answer", START_LIMIT, async || {
            process.check_alive()?;
            Ok(self.conn().await.ok())
        })
        .await;
        match ready {
            Ok(conn) => conn.close().await?,
            Err(err) if process.exited()?.is_some() => return Err(err),
            Err(err) => return Err(process.failure(&format!("does not start ({err})"))),
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills the server with all its processes as `kill -9` does, and waits until they are gone.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let processes = self.freeze()?;
        self.process()?.signal(Signal::KILL)?;
        family::signal(&processes, Signal::KILL);
        self.reap().await?;
        family::ended(&processes).await
    }

    /// Stops the server in an orderly way, which ends its connections, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end within a minute (a paused server does not).
    pub async fn stop(&mut self) -> Result<()> {
        // SIGTERM would wait for the clients; see "Shutting Down the Server" in Postgres' manual.
        self.process()?.signal(Signal::INT)?;
        self.reap().await
    }

    /// Stops and starts the server on the same port and data.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Freezes the server: connections stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        family::signal(&self.freeze()?, Signal::STOP);
        Ok(())
    }

    /// Lets a paused server go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        family::signal(&family::children(self.process()?.id())?, Signal::CONT);
        self.process()?.signal(Signal::CONT)
    }

    /// A new connection as `postgres` to the database `postgres`.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached.
    pub async fn conn(&self) -> Result<PgConnection> {
        let options = self.root_options();
        let connecting = PgConnection::connect_with(&options);
        Ok(tokio::time::timeout(CONNECT_LIMIT, connecting).await.context("the server does not answer")??)
    }

    /// How `postgres` connects to the database `postgres`.
    #[must_use]
    pub fn root_options(&self) -> PgConnectOptions {
        // Nothing from the environment's PGHOST and the like, which `new` would read.
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port())
            .username("postgres")
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }

    /// Runs one or more statements, separated by semicolons, as `postgres` on a connection of their own.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses a statement.
    pub async fn exec(&self, sql: &str) -> Result<()> {
        let mut conn = self.conn().await?;
        // Not `raw_sql`, whose future cannot be spawned.
        let done = conn.execute(sql).await.with_context(|| format!("the statement was: {sql}"));
        conn.close().await?;
        done.map(|_| ())
    }

    /// Makes a user who may log in. `grants` is what stands between `GRANT` and `TO`, such as `SELECT ON orders`.
    ///
    /// # Errors
    ///
    /// As [`exec`](Self::exec).
    pub async fn create_user(&self, user: &str, grants: &str) -> Result<()> {
        self.exec(&format!("CREATE USER \"{user}\"; GRANT {grants} TO \"{user}\"")).await
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// A URL for this user and the database `postgres`.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port())
    }

    /// The folder with the server's data.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The server's version; Postgres' own have two numbers, and the third is 0.
    #[must_use]
    pub fn version(&self) -> Version {
        self.software.version()
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        tail(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn command(&self) -> Command {
        let mut command = self.software.command("postgres", self.account);
        command.arg("-D").arg(&self.data).arg("-p").arg(self.port().to_string());
        for setting in COMMON_SETTINGS.iter().copied().chain(self.settings.iter().map(String::as_str)) {
            command.arg("-c").arg(setting);
        }
        command
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("Postgres does not run")
    }

    /// Stops the server process, so that it makes no more children, and returns those that it has.
    fn freeze(&self) -> Result<Vec<rustix::process::Pid>> {
        let process = self.process()?;
        process.signal(Signal::STOP)?;
        family::children(process.id())
    }

    async fn reap(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        if process.wait(STOP_LIMIT).await.is_err() {
            return Err(process.failure("does not end"));
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Without a server its children end too, but each only when it looks up.
        if let Ok(processes) = self.freeze() {
            family::signal(&processes, Signal::KILL);
        }
    }
}

/// Gets Postgres with its data template; what [`crate::prefetch_all`] does.
pub(crate) fn prefetch() -> Result<Software> {
    let account = Account::choose()?;
    let software = Software::get(account)?;
    template::get(&software, account)?;
    Ok(software)
}
