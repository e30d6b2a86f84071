//! A NATS server of one's own.

mod cluster;
mod software;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Client, ConnectOptions, jetstream};

pub use self::cluster::{Links, NatsCluster};
pub(crate) use self::software::Software;
use crate::port::Port;
use crate::process::{Process, Signal, tail};
use crate::tls::Certificate;
use crate::version::Version;
use crate::wait::eventually;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// A single attempt to connect, so that a server that accepts and says nothing is tried again.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const RELOAD_LIMIT: Duration = Duration::from_secs(15);
/// What the server logs after it has taken over its configuration.
const RELOADED: &str = "Reloaded server configuration";

/// A single question to JetStream.
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// How a server shall be started.
#[derive(Debug, Clone, Default)]
pub struct NatsBuilder {
    version: Option<String>,
    config: String,
    jetstream_config: String,
    user: Option<(String, String)>,
    tls: Option<ServerTls>,
    without_jetstream: bool,
}

#[derive(Debug, Clone)]
struct ServerTls {
    ca: PathBuf,
    certificate: Certificate,
    /// The certificate that clients must show, if they must.
    client: Option<Certificate>,
}

impl NatsBuilder {
    /// Asks for another version than the newest: a minor such as `2.10` means its newest patch release.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Adds lines to the configuration file's top level.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// Adds lines to the configuration's `jetstream` block, such as `sync_interval: always`.
    #[must_use]
    pub fn jetstream_config(mut self, lines: &str) -> Self {
        self.jetstream_config.push_str(lines);
        self.jetstream_config.push('\n');
        self
    }

    /// Leaves JetStream out, as after a mistake in the configuration.
    #[must_use]
    pub fn without_jetstream(mut self) -> Self {
        self.without_jetstream = true;
        self
    }

    /// Takes [`without_jetstream`](Self::without_jetstream) back.
    #[must_use]
    pub fn with_jetstream(mut self) -> Self {
        self.without_jetstream = false;
        self
    }

    /// Limits the size of a message, headers included; the server's default is 1 MiB.
    #[must_use]
    pub fn max_payload(self, bytes: usize) -> Self {
        self.config(&format!("max_payload: {bytes}"))
    }

    /// Asks clients for this name and password, which [`Nats::client`] uses. For several users write an
    /// `authorization` block with [`config`](Self::config) instead.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// Lets the server ask for TLS, showing this certificate, which `ca` has signed.
    #[must_use]
    pub fn tls(mut self, ca: &Path, certificate: &Certificate) -> Self {
        self.tls = Some(ServerTls { ca: ca.to_owned(), certificate: certificate.clone(), client: None });
        self
    }

    /// As [`tls`](Self::tls), and clients must show a certificate of the same authority; [`Nats::client`] shows
    /// `client`.
    #[must_use]
    pub fn mutual_tls(mut self, ca: &Path, certificate: &Certificate, client: &Certificate) -> Self {
        self.tls = Some(ServerTls {
            ca: ca.to_owned(),
            certificate: certificate.clone(),
            client: Some(client.clone()),
        });
        self
    }

    /// Gets the server if need be, starts it, and waits until JetStream answers.
    ///
    /// # Errors
    ///
    /// When the server can neither be found nor got, or does not start; then with the end of its log.
    pub async fn start(self) -> Result<Nats> {
        let mut server = self.prepare().await?;
        server.start().await?;
        Ok(server)
    }

    /// Everything but the start.
    async fn prepare(self) -> Result<Nats> {
        let wanted = self.version.clone();
        let software = tokio::task::spawn_blocking(move || Software::get(wanted.as_deref())).await??;
        let folder = tempfile::Builder::new().prefix("outbox-testbed-nats-").tempdir()?;
        let port = Port::reserve()?;
        let config = self.configuration(&port, folder.path())?;
        std::fs::write(folder.path().join("nats.conf"), config)?;
        Ok(Nats { process: None, software, builder: self, port, folder })
    }

    fn configuration(&self, port: &Port, folder: &Path) -> Result<String> {
        // A second block would put the first one's store folder out of force.
        let again = self.config.lines().any(|line| line.starts_with("jetstream"));
        ensure!(!again, "settings of JetStream go by `jetstream_config`");
        let mut text = String::new();
        writeln!(text, "listen: \"{}\"", port.address())?;
        writeln!(text, "server_name: \"{}\"", name_at(port))?;
        if !self.without_jetstream {
            writeln!(text, "jetstream {{")?;
            writeln!(text, "store_dir: {}", quoted(&folder.join("store"))?)?;
            writeln!(text, "{}}}", self.jetstream_config)?;
        }
        if let Some((name, password)) = &self.user {
            let (name, password) = (serde_json::to_string(name)?, serde_json::to_string(password)?);
            writeln!(text, "authorization {{ user: {name}, password: {password} }}")?;
        }
        if let Some(tls) = &self.tls {
            writeln!(text, "tls {{")?;
            writeln!(text, "cert_file: {}", quoted(&tls.certificate.certificate)?)?;
            writeln!(text, "key_file: {}", quoted(&tls.certificate.key)?)?;
            writeln!(text, "ca_file: {}", quoted(&tls.ca)?)?;
            writeln!(text, "verify: {}", tls.client.is_some())?;
            writeln!(text, "}}")?;
        }
        text.push_str(&self.config);
        Ok(text)
    }
}

fn name_at(port: &Port) -> String {
    format!("testbed-{}", port.number())
}

fn quoted(path: &Path) -> Result<String> {
    let path = path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))?;
    Ok(serde_json::to_string(path)?)
}

/// A NATS server with JetStream and a store of its own; it dies with this handle.
#[derive(Debug)]
pub struct Nats {
    // First, so that the server is gone before its folder is removed.
    process: Option<Process>,
    software: Software,
    builder: NatsBuilder,
    port: Port,
    folder: tempfile::TempDir,
}

impl Nats {
    /// A server to be.
    #[must_use]
    pub fn builder() -> NatsBuilder {
        NatsBuilder::default()
    }

    /// Starts the server again after [`kill`](Self::kill) or [`stop`](Self::stop), on the same port and store.
    ///
    /// # Errors
    ///
    /// When it runs already, or does not start; then with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready().await
    }

    /// Starts the server again without waiting until it answers, which one of a cluster without majority does not.
    ///
    /// # Errors
    ///
    /// When it runs already.
    pub fn launch(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("nats-server runs already");
        }
        let mut command = Command::new(&self.software.path);
        command.arg("--config").arg(self.folder.path().join("nats.conf"));
        self.process = Some(Process::spawn("nats-server", command, &self.log_path(), self.folder.path())?);
        Ok(())
    }

    /// Waits until JetStream answers; a server that does not is killed.
    async fn wait_until_ready(&mut self) -> Result<()> {
        let mut process = self.process.take().context("nats-server does not run")?;
        let ready = eventually("JetStream to answer", START_LIMIT, async || {
            process.check_alive()?;
            Ok(self.answers().await.ok())
        })
        .await;
        match ready {
            Ok(()) => {}
            Err(err) if process.exited()?.is_some() => return Err(err),
            Err(err) => return Err(process.failure(&format!("does not start ({err})"))),
        }
        self.process = Some(process);
        Ok(())
    }

    async fn answers(&self) -> Result<()> {
        let client = self.client().await?;
        if self.builder.without_jetstream {
            return Ok(());
        }
        let mut context = jetstream::new(client);
        // A cluster without a leader says nothing, so short questions find out sooner that it has one.
        context.set_timeout(ASK_LIMIT);
        context.query_account().await?;
        Ok(())
    }

    /// Writes another configuration, for the next start or [`reload`](Self::reload). Port and store stay.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn configure(&mut self, change: impl FnOnce(NatsBuilder) -> NatsBuilder) -> Result<()> {
        self.builder = change(self.builder.clone());
        let config = self.builder.configuration(&self.port, self.folder.path())?;
        Ok(std::fs::write(self.folder.path().join("nats.conf"), config)?)
    }

    /// Has the running server take over its configuration, as changed by [`configure`](Self::configure), and waits until
    /// it says so.
    ///
    /// # Errors
    ///
    /// When it does not run, or refuses the configuration; then with the end of its log.
    pub async fn reload(&self) -> Result<()> {
        let read = || std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let before = read().matches(RELOADED).count();
        self.process()?.signal(Signal::HUP)?;
        eventually("the server to reload its configuration", RELOAD_LIMIT, async || {
            Ok((read().matches(RELOADED).count() > before).then_some(()))
        })
        .await
        .with_context(|| self.log())
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
    /// When it does not run, or does not end within half a minute (a paused server does not).
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM).await
    }

    /// Stops and starts the server on the same port and store.
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

    /// A new client, with the credentials and certificates that the builder was given.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Ok(self.connect_options().connect(self.url()).await?)
    }

    /// How a client of this server connects; for a connection through a proxy, or with options of one's own.
    #[must_use]
    pub fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new().connection_timeout(CONNECT_LIMIT);
        if let Some((name, password)) = &self.builder.user {
            options = options.user_and_password(name.clone(), password.clone());
        }
        if let Some(tls) = &self.builder.tls {
            options = options.require_tls(true).add_root_certificates(tls.ca.clone());
            if let Some(client) = &tls.client {
                options = options.add_client_certificate(client.certificate.clone(), client.key.clone());
            }
        }
        options
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The server's name, by which a cluster's information calls it.
    #[must_use]
    pub fn name(&self) -> String {
        name_at(&self.port)
    }

    /// The server's URL, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.builder.tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }

    /// The folder with JetStream's files.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.software.version
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        tail(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("nats-server does not run")
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
