//! How to reach a server.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConnectionError, ConnectionErrorKind};

/// Where the server is, who we are, and how long we wait.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The server's host name or address.
    pub host: String,
    /// The server's TCP port.
    pub port: u16,
    /// The server's Unix socket, to be used instead of host and port.
    pub socket: Option<PathBuf>,
    /// The account to log in as.
    pub user: String,
    /// The account's password; none means an empty one.
    pub password: Option<Password>,
    /// Encryption and certificates.
    pub tls: TlsOptions,
    /// How long connecting may take, from the name's resolution to the first successful statement.
    pub connect_timeout: Duration,
    /// How long a query may take, from the request to the last row.
    pub read_timeout: Duration,
}

impl ConnectOptions {
    /// Options for a server and an account without password, everything else at its default: TLS preferred, 10 seconds
    /// to connect, 30 seconds a query.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, user: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            socket: None,
            user: user.into(),
            password: None,
            tls: TlsOptions::default(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
        }
    }

    /// Refuses what could not be sent or would silently not be done.
    ///
    /// # Errors
    ///
    /// [`ConnectionErrorKind::Options`], naming the options and the remedy.
    pub fn validate(&self) -> Result<(), ConnectionError> {
        if self.user.contains('\0') {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Options,
                "the user's name has a zero byte in it, which no server takes",
            ));
        }
        self.tls.validate()
    }

    /// The server's place, for messages.
    /// Host and port, or the socket.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.socket {
            Some(socket) => socket.display().to_string(),
            None if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A password. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password so that it is never printed.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// Whether to encrypt, and what to verify; the meaning is that of MySQL's `--ssl-mode`.
///
/// Source: <https://dev.mysql.com/doc/refman/9.7/en/connection-options.html#option_general_ssl-mode>
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never encrypt.
    Disabled,
    /// Encrypt if the server offers it; its certificate is not verified. Unix sockets stay plain.
    #[default]
    Preferred,
    /// Encrypt or fail; the server's certificate is not verified.
    Required,
    /// Encrypt, and the server's certificate must come from a trusted authority.
    VerifyCa,
    /// As [`VerifyCa`](Self::VerifyCa), and the certificate must name the host.
    VerifyIdentity,
}

impl TlsMode {
    /// The mode's name, as MySQL's client spells it in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Preferred => "preferred",
            Self::Required => "required",
            Self::VerifyCa => "verify-ca",
            Self::VerifyIdentity => "verify-identity",
        }
    }

    pub(super) fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyIdentity)
    }
}

/// Encryption and certificates.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Whether to encrypt, and what to verify.
    pub mode: TlsMode,
    /// PEM file with the authorities to trust; without it, the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate, followed by its intermediates.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of our certificate.
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate must carry, if it is not the host's.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// Refuses combinations in which something was asked for that would silently not be done.
    ///
    /// # Errors
    ///
    /// [`ConnectionErrorKind::Options`], naming the options and the remedy.
    pub fn validate(&self) -> Result<(), ConnectionError> {
        let refuse = |message: String| Err(ConnectionError::new(ConnectionErrorKind::Options, message));
        if let (Some(file), false) = (&self.ca_file, self.mode.verifies()) {
            return refuse(format!(
                "a TLS authority is given ({}), but mode \"{}\" verifies no certificate: choose \"verify-ca\" or \
                 \"verify-identity\", or leave the authority out",
                file.display(),
                self.mode.name()
            ));
        }
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => refuse("a TLS client certificate is given without its private key".into()),
            (None, Some(_)) => refuse("a TLS private key is given without its client certificate".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_printed() {
        let mut options = ConnectOptions::new("db", 3306, "bridge");
        options.password = Some(Password::new("hunter2"));
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn what_would_not_be_verified_is_refused() {
        let with = |mode| TlsOptions { mode, ca_file: Some("ca.pem".into()), ..TlsOptions::default() };
        for mode in [TlsMode::Disabled, TlsMode::Preferred, TlsMode::Required] {
            let error = with(mode).validate().expect_err("refused");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
        assert!(with(TlsMode::VerifyCa).validate().is_ok());
        assert!(with(TlsMode::VerifyIdentity).validate().is_ok());
        let half = TlsOptions { cert_file: Some("c.pem".into()), ..TlsOptions::default() };
        assert!(half.validate().is_err());
    }
}
