//! A MySQL or MariaDB server of one's own.

mod replica;
mod software;
pub(crate) mod template;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Opts, OptsBuilder};

pub use self::software::Flavour;
pub(crate) use self::software::{Release, Software};
use self::software::{check_option, option};
use crate::port::Port;
use crate::process::{Process, Signal, tail};
use crate::tls::Certificate;
use crate::version::Version;
use crate::wait::eventually;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A single attempt to connect, so that a server that accepts and says nothing is tried again.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a test server is started with beside what must be; later options win over earlier ones.
const COMMON_OPTIONS: [&str; 12] = [
    "--bind-address=127.0.0.1",
    // Relative to the data folder, since the path of a socket may have about 100 bytes only.
    "--socket=mysqld.sock",
    "--pid-file=mysqld.pid",
    "--server-id=1",
    "--log-bin=binlog",
    "--binlog-row-metadata=FULL",
    "--performance-schema=OFF",
    // No test has events, and the scheduler's thread was seen to spin for seconds.
    "--event-scheduler=OFF",
    "--max-connections=200",
    "--max-allowed-packet=128M",
    "--sync-binlog=1",
    "--innodb-flush-log-at-trx-commit=1",
];
const MYSQL_OPTIONS: [&str; 4] =
    ["--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--loose-mysqlx=OFF", "--secure-file-priv=NULL"];
const MARIADB_OPTIONS: [&str; 2] = ["--binlog-format=ROW", "--gtid-strict-mode=ON"];

/// How a server shall be started.
#[derive(Debug, Clone)]
pub struct MySqlBuilder {
    flavour: Flavour,
    release: Release,
    options: Vec<String>,
    /// The port of the server that it is to replicate.
    primary: Option<u16>,
}

impl MySqlBuilder {
    /// Takes the next release instead of the usual one: MariaDB 11 instead of 10.11. MySQL has no other one.
    #[must_use]
    pub fn next_release(mut self) -> Self {
        self.release = Release::Next;
        self
    }

    /// Adds a server option, such as `--binlog-row-image=MINIMAL`. It wins over defaults and earlier ones.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Gives up durability for speed: neither the binary log nor the redo log is synced at commit.
    #[must_use]
    pub fn relaxed_durability(self) -> Self {
        self.option("--sync-binlog=0").option("--innodb-flush-log-at-trx-commit=0")
    }

    /// Lets the server show this certificate and accept clients whose certificate `ca` has signed.
    #[must_use]
    pub fn tls(self, ca: &Path, certificate: &Certificate) -> Self {
        self.option(format!("--ssl-ca={}", ca.display()))
            .option(format!("--ssl-cert={}", certificate.certificate.display()))
            .option(format!("--ssl-key={}", certificate.key.display()))
    }

    /// Gets the server if need be, starts it, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When the server can neither be found nor got, or does not start; then with the end of its log.
    pub async fn start(self) -> Result<MySql> {
        for option in &self.options {
            check_option(option)?;
        }
        let (flavour, release) = (self.flavour, self.release);
        let folder = tempfile::Builder::new().prefix("outbox-testbed-mysql-").tempdir()?;
        let data = folder.path().join("data");
        let target = data.clone();
        let software = tokio::task::spawn_blocking(move || {
            let software = Software::get(flavour, release)?;
            template::copy(&template::get(&software)?, &target)?;
            anyhow::Ok(software)
        })
        .await??;
        let port = Port::reserve()?;
        let mut options = Vec::new();
        if self.primary.is_some() {
            // Server ids differ within a topology; what was replicated stands in the replica's own log too.
            options.push(format!("--server-id={}", port.number()));
            options.push("--relay-log=relay".to_owned());
            if flavour == Flavour::MariaDb {
                options.push("--log-slave-updates=ON".to_owned());
            }
        }
        options.extend(self.options);
        let mut server = MySql { process: None, software, release, options, port, data, folder };
        server.start().await?;
        if let Some(primary) = self.primary {
            server.follow_port(primary).await?;
        }
        Ok(server)
    }
}

/// A MySQL or MariaDB server with data of its own; it dies with this handle.
#[derive(Debug)]
pub struct MySql {
    // First, so that the server is gone before its folder is removed.
    process: Option<Process>,
    software: Software,
    release: Release,
    options: Vec<String>,
    port: Port,
    data: PathBuf,
    folder: tempfile::TempDir,
}

impl MySql {
    /// A MySQL server to be.
    #[must_use]
    pub fn builder() -> MySqlBuilder {
        Self::builder_of(Flavour::MySql)
    }

    /// A MariaDB server to be.
    #[must_use]
    pub fn mariadb() -> MySqlBuilder {
        Self::builder_of(Flavour::MariaDb)
    }

    /// A server of the given flavour to be.
    #[must_use]
    pub fn builder_of(flavour: Flavour) -> MySqlBuilder {
        MySqlBuilder { flavour, release: Release::Usual, options: Vec::new(), primary: None }
    }

    /// Starts the server again after [`kill`](Self::kill) or [`stop`](Self::stop), on the same port and data.
    ///
    /// # Errors
    ///
    /// When it runs already, or does not start; then with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("{} runs already", self.software.flavour());
        }
        let mut process = Process::spawn(
            &self.software.flavour().to_string(),
            self.command(),
            &self.log_path(),
            self.folder.path(),
        )?;
        let ready = eventually("the server to answer", START_LIMIT, async || {
            process.check_alive()?;
            Ok(self.conn().await.ok())
        })
        .await;
        match ready {
            Ok(conn) => conn.disconnect().await?,
            Err(err) if process.exited()?.is_some() => return Err(err),
            Err(err) => return Err(process.failure(&format!("does not start ({err})"))),
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills the server as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL).await
    }

    /// Stops the server in an orderly way, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end within a minute (a paused server does not).
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM).await
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
        self.process()?.pause()
    }

    /// Lets a paused server go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.process()?.resume()
    }

    /// A new connection as `root`, over TCP and without TLS.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached.
    pub async fn conn(&self) -> Result<Conn> {
        let connecting = Conn::new(self.root_opts());
        Ok(tokio::time::timeout(CONNECT_LIMIT, connecting).await.context("the server does not answer")??)
    }

    /// How `root` connects.
    #[must_use]
    pub fn root_opts(&self) -> Opts {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port())
            .user(Some("root"))
            // Otherwise the client moves over to the server's Unix socket.
            .prefer_socket(false)
            .into()
    }

    /// Runs one or more statements, separated by semicolons, as `root` on a connection of their own.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses a statement.
    pub async fn exec(&self, sql: &str) -> Result<()> {
        let mut conn = self.conn().await?;
        let done = conn.query_drop(sql).await.with_context(|| format!("the statement was: {sql}"));
        conn.disconnect().await?;
        done
    }

    /// The rows that a query yields, as `root` on a connection of its own.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses the query.
    pub async fn query<T: FromRow + Send + 'static>(&self, sql: &str) -> Result<Vec<T>> {
        let mut conn = self.conn().await?;
        let rows = conn.query(sql).await.with_context(|| format!("the query was: {sql}"));
        conn.disconnect().await?;
        rows
    }

    /// Makes a user who may log in from anywhere. `grants` is what stands between `GRANT` and `TO`, such as
    /// `REPLICATION SLAVE, REPLICATION CLIENT ON *.*`.
    ///
    /// # Errors
    ///
    /// As [`exec`](Self::exec).
    pub async fn create_user(&self, user: &str, password: &str, grants: &str) -> Result<()> {
        self.exec(&format!(
            "CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'; GRANT {grants} TO '{user}'@'%'"
        ))
        .await
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// A URL for this user, without password.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}", self.port())
    }

    /// The folder with the server's data and binary logs.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// MySQL or MariaDB.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.software.flavour()
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.software.version()
    }

    /// A command that runs this server's own `mysqlbinlog`, if that is there.
    #[must_use]
    pub fn mysqlbinlog(&self) -> Option<Command> {
        self.software.binlog()
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
        let flavour = self.software.flavour();
        let mut command = self.software.server();
        command.arg(option("--datadir=", &self.data)).arg(format!("--port={}", self.port()));
        // What a killed server leaves there goes with its folder.
        command.arg(option("--tmpdir=", self.folder.path()));
        command.args(template::storage_options(flavour)).args(COMMON_OPTIONS);
        match flavour {
            Flavour::MySql => command.args(MYSQL_OPTIONS),
            Flavour::MariaDb => command.args(MARIADB_OPTIONS),
        };
        command.args(&self.options);
        command
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} does not run", self.software.flavour()))
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        self.process()?.signal(signal)?;
        let Some(mut process) = self.process.take() else { return Ok(()) };
        if process.wait(STOP_LIMIT).await.is_err() {
            return Err(process.failure("does not end"));
        }
        Ok(())
    }
}

/// Gets MySQL or MariaDB with its data template; what [`crate::prefetch_all`] does.
pub(crate) fn prefetch(flavour: Flavour, release: Release) -> Result<Software> {
    let software = Software::get(flavour, release)?;
    template::get(&software)?;
    Ok(software)
}
