//! One connection to MySQL or MariaDB: reaching the server, logging in, a few statements, and the dump of its log.
//!
//! It knows packets, checksums and silence. It never interprets an event beyond its header and what the checksums need,
//! and it never reconnects: whoever holds it decides that by [`ConnectionError::recovery`].

mod auth;
mod dump;
mod error;
mod fields;
mod handshake;
mod options;
mod packet;
mod public_key;
mod query;
mod stream;
mod tls;
mod transport;

use std::time::Duration;

use mysql_common::constants::CapabilityFlags;

use self::auth::{Method, Secret};
pub use self::dump::DumpRequest;
pub use self::error::{ConnectionError, ConnectionErrorKind, Recovery};
use self::handshake::Greeting;
pub use self::handshake::{Flavour, ServerInfo};
pub use self::options::{ConnectOptions, Password, TlsMode, TlsOptions};
use self::packet::Channel;
use self::query::ANSWER_BYTES_MAX;
pub use self::query::{Row, quote_identifier, quote_string};
pub use self::stream::{DumpStream, EVENT_BYTES_MAX};
use self::tls::Tls;
pub use self::transport::Transport;

/// What the session must be like: text in UTF-8, and a backslash that escapes.
const SESSION: &str = "SET NAMES utf8mb4, SESSION sql_mode = ''";

/// A connection that is logged in.
#[derive(Debug)]
pub struct Connection {
    channel: Channel<Transport>,
    server: ServerInfo,
    capabilities: CapabilityFlags,
    read_timeout: Duration,
    /// Whether an answer is under way. If it is when a query begins, the one before was dropped or failed.
    answering: bool,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    ///
    /// Any kind but those of a dump; the message names the server's address where that is what failed.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ConnectionError> {
        options.validate()?;
        let connecting = Box::pin(Self::log_in(options));
        let Ok(connected) = tokio::time::timeout(options.connect_timeout, connecting).await else {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Timeout,
                format!(
                    "no connection to the server at {} within {:?}",
                    options.address(),
                    options.connect_timeout
                ),
            ));
        };
        // With TLS 1.3 a server refuses our certificate only after the handshake.
        connected.map_err(ConnectionError::or_tls)
    }

    async fn log_in(options: &ConnectOptions) -> Result<Self, ConnectionError> {
        let mut channel = Channel::new(Transport::open(options).await?, ANSWER_BYTES_MAX);
        let greeting = Greeting::parse(&channel.read().await?)?;
        let mut capabilities = greeting.agreed();
        let mut server = greeting.server.clone();
        let (transport, sequence) = channel.into_stream()?;
        let local = transport.is_local();
        server.tls = wants_tls(options, &greeting, local)?;
        channel = Channel::resume(transport, sequence, ANSWER_BYTES_MAX);
        if server.tls {
            let options = options.clone();
            let tls =
                tokio::task::spawn_blocking(move || Tls::prepare(&options)).await.map_err(|error| {
                    ConnectionError::new(ConnectionErrorKind::Tls, "preparing TLS failed").because(error)
                })??;
            capabilities |= CapabilityFlags::CLIENT_SSL;
            channel.write(&handshake::tls_request(capabilities)).await?;
            let (transport, sequence) = channel.into_stream()?;
            channel = Channel::resume(tls.wrap(transport).await?, sequence, ANSWER_BYTES_MAX);
        }
        let secret = Secret {
            password: options.password.as_ref().map(Password::as_bytes).unwrap_or_default(),
            private_transport: server.tls || local,
        };
        let method = Method::first(&greeting.plugin);
        let proof = secret.proof(method, &greeting.nonce);
        channel.write(&handshake::response(capabilities, &options.user, &proof, method.name())).await?;
        auth::authenticate(&mut channel, secret, method, greeting.nonce).await?;
        let mut connection =
            Self { channel, server, capabilities, read_timeout: options.read_timeout, answering: false };
        connection.execute(SESSION).await?;
        Ok(connection)
    }

    /// What the server says about itself.
    #[must_use]
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Runs a query and returns its rows, of at most 16 MiB in all.
    ///
    /// If the returned future is dropped before it is ready, or fails other than by an error that the server reports,
    /// the connection cannot be used any more.
    ///
    /// # Errors
    ///
    /// When the server refuses the query, does not answer in time, or the connection fails.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, ConnectionError> {
        if self.answering {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Io,
                "the connection was left in the midst of an earlier answer: a new one is needed",
            ));
        }
        self.answering = true;
        let ends_with_ok = self.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF);
        let answer = query::query(&mut self.channel, sql, ends_with_ok);
        let Ok(answer) = tokio::time::timeout(self.read_timeout, answer).await else {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Timeout,
                format!("the server did not answer a query within {:?}", self.read_timeout),
            ));
        };
        self.answering = answer.as_ref().is_err_and(|error| !error.is_from_server());
        answer
    }

    /// Runs a query whose rows are taken one by one, each of at most `row_bytes_max`, however many there are. All must be
    /// taken before the connection serves again.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub(crate) async fn stream(
        &mut self,
        sql: &str,
        row_bytes_max: usize,
    ) -> Result<Rows<'_>, ConnectionError> {
        if self.answering {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Io,
                "the connection was left in the midst of an earlier answer: a new one is needed",
            ));
        }
        self.answering = true;
        self.channel.limit(row_bytes_max.max(ANSWER_BYTES_MAX));
        let ends_with_ok = self.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF);
        let start = query::start(&mut self.channel, sql, ends_with_ok);
        let Ok(names) = tokio::time::timeout(self.read_timeout, start).await else {
            return Err(self.unanswered());
        };
        self.answering = names.as_ref().map_or_else(|error| !error.is_from_server(), Option::is_some);
        let names = names?;
        Ok(Rows { names, connection: self })
    }

    fn unanswered(&self) -> ConnectionError {
        ConnectionError::new(
            ConnectionErrorKind::Timeout,
            format!("the server did not answer a query within {:?}", self.read_timeout),
        )
    }

    /// Runs a statement whose rows, if any, do not matter.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub async fn execute(&mut self, sql: &str) -> Result<(), ConnectionError> {
        self.query(sql).await.map(drop)
    }
}

/// The rows of a query, one by one.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    connection: &'a mut Connection,
    /// `None` once there are no more.
    names: Option<std::sync::Arc<[String]>>,
}

impl Rows<'_> {
    /// The next row; `None` when there are no more.
    ///
    /// # Errors
    ///
    /// As [`Connection::query`].
    pub(crate) async fn next(&mut self) -> Result<Option<Row>, ConnectionError> {
        let Some(names) = &self.names else { return Ok(None) };
        let row = query::next_row(&mut self.connection.channel, names);
        let Ok(row) = tokio::time::timeout(self.connection.read_timeout, row).await else {
            return Err(self.connection.unanswered());
        };
        if matches!(row, Ok(None)) || row.as_ref().is_err_and(ConnectionError::is_from_server) {
            self.names = None;
            self.connection.answering = false;
            self.connection.channel.limit(ANSWER_BYTES_MAX);
        }
        row
    }
}

fn wants_tls(options: &ConnectOptions, greeting: &Greeting, local: bool) -> Result<bool, ConnectionError> {
    let offered = greeting.capabilities.contains(CapabilityFlags::CLIENT_SSL);
    match options.tls.mode {
        TlsMode::Disabled => Ok(false),
        TlsMode::Preferred => Ok(offered && !local),
        TlsMode::Required | TlsMode::VerifyCa | TlsMode::VerifyIdentity if offered => Ok(true),
        mode => Err(ConnectionError::new(
            ConnectionErrorKind::Tls,
            format!(
                "the server at {} does not offer TLS, and mode \"{}\" demands it: enable TLS on the server, or choose \
                 \"preferred\" or \"disabled\"",
                options.address(),
                mode.name()
            ),
        )),
    }
}
