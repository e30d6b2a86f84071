//! The connection to NATS, as configured.

use std::io;
use std::time::SystemTime;

use async_nats::{
    Client, ConnectError, ConnectOptions,
    jetstream::{
        self, ErrorCode,
        context::{GetStreamError, GetStreamErrorKind, RequestError},
    },
};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::config::{Nats, NatsAuth};

/// The connection cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The credentials are malformed.
    #[error("the NATS credentials (nats.credentials_file) cannot be used")]
    Credentials(#[source] io::Error),
    /// No server let the bridge in.
    #[error("cannot connect to NATS")]
    Connect(#[source] ConnectError),
}

/// The options that `nats` asks for, to be extended by the caller. `name` is what the server shows.
///
/// # Errors
///
/// [`NatsError::Credentials`].
pub fn connect_options(nats: &Nats, name: &str) -> Result<ConnectOptions, NatsError> {
    let mut options = ConnectOptions::new()
        .name(name)
        .ping_interval(nats.ping_interval)
        .connection_timeout(nats.connect_timeout)
        .custom_inbox_prefix(&nats.inbox_prefix)
        .require_tls(nats.tls.required);
    options = match &nats.auth {
        NatsAuth::None => options,
        NatsAuth::Credentials(text) => options.credentials(text.expose()).map_err(NatsError::Credentials)?,
        NatsAuth::Nkey(seed) => options.nkey(seed.expose().to_owned()),
        NatsAuth::Token(token) => options.token(token.expose().to_owned()),
        NatsAuth::UserPassword { user, password } => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
    };
    if let Some(ca_file) = &nats.tls.ca_file {
        options = options.add_root_certificates(ca_file.clone());
    }
    if let Some(client) = &nats.tls.client {
        options = options.add_client_certificate(client.cert_file.clone(), client.key_file.clone());
    }
    Ok(options)
}

/// Connects, once: a failure is reported, not retried.
///
/// # Errors
///
/// [`NatsError`].
pub async fn connect(nats: &Nats, name: &str) -> Result<Client, NatsError> {
    let options = connect_options(nats, name)?;
    options.connect(nats.urls.as_slice()).await.map_err(NatsError::Connect)
}

/// The JetStream context, in the configured domain.
#[must_use]
pub fn jetstream(nats: &Nats, client: Client) -> jetstream::Context {
    match &nats.jetstream_domain {
        Some(domain) => jetstream::with_domain(client, domain),
        None => jetstream::new(client),
    }
}

/// What time it is by the clock that gives the messages of `stream` their times.
pub(crate) async fn server_time(
    context: &jetstream::Context,
    stream: &str,
) -> Result<SystemTime, RequestError> {
    /// What async-nats leaves out of the answer.
    #[derive(Deserialize)]
    struct Told {
        ts: Option<String>,
    }
    let Told { ts } = context.request(format!("STREAM.INFO.{stream}"), &()).await?;
    let time = ts.and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
    Ok(time.map_or_else(SystemTime::now, SystemTime::from))
}

/// Whether a stream is not there, as the server says for certain.
pub(crate) fn is_missing(error: &GetStreamError) -> bool {
    matches!(
        error.kind(),
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND
    )
}
