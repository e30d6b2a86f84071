//! The configuration: defaults, below the TOML file, below `OUTBOX_BRIDGE__SECTION__KEY`.
//!
//! [`KEYS`] lists every key with its kind, limits, default and meaning; reader and documentation both live off it. All
//! values are read and checked in one place ([`Config::load`]), which reports every problem at once. Nothing here
//! connects to anything: what needs a server is `outbox-bridge check`'s.
//!
//! Secrets come from files or from the environment. They are wrapped in [`Secret`] before anything can print them, and
//! no problem quotes the value of a key that may hold one.

mod build;
mod keys;
mod layers;
mod nats;
mod outbox;
mod problem;
mod reader;
mod secret;
mod source;
#[cfg(test)]
mod tests;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use keys::{ENVIRONMENT_PREFIX, KEYS, Key, Kind, Presence};
pub use nats::{Nats, NatsAuth, NatsTls};
pub(crate) use outbox::quote_identifier;
pub use outbox::{Columns, HeadersColumn, Outbox, TableName};
pub use problem::{ConfigError, Origin, Problem};
pub use secret::Secret;
pub use source::{Behind, ForeignStatements, Source, SourceTls, StartPosition, TlsMode};
pub use units::{ByteSize, ByteSizeError};

/// A configuration that has been checked as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The bridge's identity; the checkpoint and the lease are kept under it. `[A-Za-z0-9_-]+`.
    pub name: String,
    /// The MySQL or MariaDB server whose log is read.
    pub source: Source,
    /// The NATS servers.
    pub nats: Nats,
    /// The outbox tables; at least one, no table twice.
    pub outboxes: Vec<Outbox>,
    /// How published rows are deleted, where an outbox has a retention.
    pub cleanup: Cleanup,
    /// How the streams are compared with the tables.
    pub audit: Audit,
    /// How messages are written.
    pub publish: Publish,
    /// Where rows that cannot be published go; `None`: they stop the bridge.
    pub dead_letters: Option<DeadLetters>,
    /// Where payloads go that are too large for a message; `None`: such a row cannot be published.
    pub claim_check: Option<ClaimCheck>,
    /// How progress is recorded.
    pub checkpoint: Checkpoint,
    /// Who of several bridges with one name does the work.
    pub lease: Lease,
    /// How long to wait between attempts.
    pub retry: Retry,
    /// The admin endpoint.
    pub http: Http,
    /// Spans for a collector; `None`: none are made.
    pub traces: Option<Traces>,
    /// Log output.
    pub log: Log,
    /// How to stop.
    pub shutdown: Shutdown,
}

/// How published rows are deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// How long to rest when there is nothing more to delete.
    pub interval: Duration,
    /// Rows in one transaction.
    pub batch_rows: u32,
    /// How long to rest after each transaction.
    pub pause: Duration,
}

/// How the streams are compared with the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// How long to rest between two looks; `None`: there are none.
    pub interval: Option<Duration>,
    /// How many of a table's newest rows to look at.
    pub rows: u32,
}

/// Where rows that cannot be published go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// The stream.
    pub stream: String,
    /// What their subjects begin with.
    pub subject: String,
}

/// Where payloads go that are too large for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimCheck {
    /// The object store's bucket.
    pub bucket: String,
    /// Payloads of larger messages go there; `None`: only those of messages that are not taken otherwise.
    pub threshold: Option<ByteSize>,
    /// How often payloads are looked for that nothing refers to any more.
    pub interval: Duration,
}

/// How messages are written to the streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Which protocol to publish with.
    pub mode: PublishMode,
    /// Messages in flight, a stream: 1 to 16,384.
    pub window: u32,
    /// Bytes of messages in flight, a stream.
    pub window_bytes_max: ByteSize,
    /// Whether to set `Nats-Msg-Id`.
    pub message_id: bool,
    /// How long an acknowledgement may take before the writer resumes from the stream's tail.
    pub ack_timeout: Duration,
}

/// Which protocol to publish with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishMode {
    /// Fast where server and stream offer it, else pipelined.
    Auto,
    /// Fast-ingest batches; needs nats-server 2.14 and `allow_batch_publish` on the stream.
    Fast,
    /// One acknowledgement a message, many in flight.
    Pipelined,
    /// Atomic batches of whole transactions; needs nats-server 2.12.1 and `allow_atomic_publish` on the stream.
    Durable,
}

/// How progress is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The key-value bucket.
    pub bucket: String,
    /// How often progress is written.
    pub interval: Duration,
    /// Replicas of a bucket that has to be created; `None`: as many as the first outbox's stream has.
    pub replicas: Option<u8>,
}

/// Who of several bridges with one name does the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// How long a lease lives without being renewed.
    pub ttl: Duration,
}

/// How long to wait between attempts: doubled from `initial` up to `max`, with jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait; at least `initial`.
    pub max: Duration,
}

/// The admin endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where to listen; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// Spans for an OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Where it takes OTLP over HTTP, without a slash at the end.
    pub endpoint: String,
    /// What the spans' service is called.
    pub service: String,
}

/// Log output, to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Lines for people or JSON for machines.
    pub format: LogFormat,
    /// Filter directives such as `info` or `outbox_bridge=debug,info`; known to parse.
    pub level: String,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// How long draining and the last checkpoint may take.
    pub deadline: Duration,
}

/// A client certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

impl Config {
    /// Reads and checks the file at `path` below the process's environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every problem found: an unreadable file, TOML syntax, unknown keys, missing keys, values out
    /// of their limits, contradictions, and secrets where they must not stand.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bridge.toml");
    /// std::fs::write(&path, r#"
    ///     [source]
    ///     url = "mysql://bridge@127.0.0.1:3306"
    ///
    ///     [nats]
    ///     url = "nats://127.0.0.1:4222"
    ///
    ///     [[outbox]]
    ///     table = "shop.outbox"
    ///     stream = "ORDERS"
    ///     subject = "orders.{aggregate_type}.{type}"
    /// "#)?;
    /// let config = outbox_bridge::config::Config::load(&path)?;
    /// assert_eq!(config.outboxes[0].stream, "ORDERS");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// As [`Config::load`], with these variables in place of the process's environment.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load_with<K, V>(
        path: &std::path::Path,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError>
    where
        K: Into<std::ffi::OsString>,
        V: Into<std::ffi::OsString>,
    {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let layers = layers::Layers::read(path, variables)?;
        build::build(&layers)
    }
}
