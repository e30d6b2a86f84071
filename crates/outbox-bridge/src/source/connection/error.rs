//! What can go wrong on a connection, and whether trying again may help.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use super::fields::Cursor;

/// A failure of a connection to MySQL or MariaDB.
///
/// `Display` describes this layer only; what caused it is in [`source`](StdError::source). Neither ever holds the
/// password.
#[derive(Debug)]
pub struct ConnectionError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ConnectionErrorKind,
    message: String,
    sql_state: Option<String>,
    from_server: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What kind of failure a [`ConnectionError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionErrorKind {
    /// The network or the server's socket failed: refused, reset, cut in mid-packet.
    Io,
    /// Connecting or a query took longer than allowed.
    Timeout,
    /// The dump said nothing for longer than its heartbeats allow.
    Silent,
    /// The server ended a dump that was to go on for ever, as it does when it shuts down.
    Ended,
    /// The options contradict each other or name something that cannot be used.
    Options,
    /// No TLS connection could be made as demanded.
    Tls,
    /// Client and server have no way to authenticate in common.
    Authentication,
    /// The server refuses the user, the password or the privilege.
    AccessDenied,
    /// Any other error that the server reported.
    Server {
        /// MySQL's or MariaDB's error number.
        code: u16,
    },
    /// The server no longer has the log file that the dump should start in.
    PositionPurged,
    /// The offset to start at is no event's beginning, or lies behind the end of the file.
    ImpossiblePosition,
    /// Another client with our identity has taken over the dump.
    Replaced,
    /// An event does not have the checksum that it should have.
    Checksum,
    /// An event or an answer is larger than allowed.
    TooLarge,
    /// The server broke the protocol.
    Protocol,
}

/// What to do about a failed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Connect again after a pause, for as long as it takes.
    Retry,
    /// Connect again a few times: it may have been the wire, and if it was not, it will not heal.
    RetryBounded,
    /// Stop: somebody has to change something first.
    Stop,
}

impl ConnectionErrorKind {
    /// The one table from kind to action. What is not known to heal is not tried again.
    #[must_use]
    pub fn recovery(self) -> Recovery {
        match self {
            Self::Io | Self::Timeout | Self::Silent | Self::Ended => Recovery::Retry,
            Self::Server { code } if server_heals(code) => Recovery::Retry,
            Self::Checksum | Self::Protocol | Self::Replaced => Recovery::RetryBounded,
            Self::Options
            | Self::Tls
            | Self::Authentication
            | Self::AccessDenied
            | Self::Server { .. }
            | Self::PositionPurged
            | Self::ImpossiblePosition
            | Self::TooLarge => Recovery::Stop,
        }
    }
}

/// Errors that come and go with the server's load and life.
///
/// Sources: <https://dev.mysql.com/doc/mysql-errors/9.0/en/server-error-reference.html>,
/// <https://mariadb.com/kb/en/mariadb-error-code-reference/>.
fn server_heals(code: u16) -> bool {
    matches!(
        code,
        1040            // too many connections
        | 1053          // server shutdown in progress
        | 1077 | 1079   // normal shutdown, shutdown complete
        | 1152 | 1184   // aborted connection
        | 1158
            ..=1161   // the server could not read from or write to us in time
        | 1203 | 1226   // too many connections of this user, per-user limit reached
        | 1205 | 1213   // lock wait timeout, deadlock
        | 1317          // query interrupted
        | 1927          // connection was killed (MariaDB)
        | 3032          // offline mode
        | 3169          // session was killed
        | 4031 // disconnected for inactivity
    )
}

fn is_denial(code: u16) -> bool {
    matches!(
        code,
        1044 | 1045 | 1698      // access denied
        | 1130                  // host may not connect
        | 1142 | 1143 | 1227 | 1370 | 3942 // privilege missing
        | 1820 | 1862           // password expired
        | 3118 | 4151           // account locked
        | 3159 // secure transport required
    )
}

/// 1236, under which a dump's refusals come; only their text tells them apart.
const FATAL_READING_LOG: u16 = 1236;

fn kind_of(code: u16, text: &str) -> ConnectionErrorKind {
    let says = |needle: &str| text.to_ascii_lowercase().contains(needle);
    match code {
        FATAL_READING_LOG if says("could not find first log") || says("purged") => {
            ConnectionErrorKind::PositionPurged
        }
        // What stands in the midst of an event looks like a truncated or a bogus one to the server.
        FATAL_READING_LOG
            if [
                "impossible position",
                "> file size",
                "truncated in the middle",
                "bogus data in log",
                "exceeded max_allowed_packet",
            ]
            .iter()
            .any(|needle| says(needle)) =>
        {
            ConnectionErrorKind::ImpossiblePosition
        }
        FATAL_READING_LOG if says("same server_uuid/server_id") => ConnectionErrorKind::Replaced,
        4052 => ConnectionErrorKind::Replaced, // MariaDB's own code for it
        1251 | 1275 | 1524 => ConnectionErrorKind::Authentication,
        code if is_denial(code) => ConnectionErrorKind::AccessDenied,
        code => ConnectionErrorKind::Server { code },
    }
}

impl ConnectionError {
    pub(super) fn new(kind: ConnectionErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            sql_state: None,
            from_server: false,
            source: None,
        }))
    }

    pub(in crate::source) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ConnectionErrorKind::Protocol, message)
    }

    pub(super) fn io(message: impl Into<String>, source: io::Error) -> Self {
        Self::new(ConnectionErrorKind::Io, message).because(source)
    }

    pub(super) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Reads an error packet: 0xFF, the code, and, once the protocol is agreed on, `#` and the SQL state.
    pub(super) fn from_packet(packet: &[u8]) -> Self {
        let mut cursor = Cursor::new(packet);
        let (Some(_), Some(code)) = (cursor.u8(), cursor.u16()) else {
            return Self::protocol("the server sent an error packet without an error code");
        };
        let mut sql_state = None;
        let mut text = cursor.rest();
        if let Some((state, rest)) = text.strip_prefix(b"#").and_then(|tail| tail.split_at_checked(5)) {
            sql_state = Some(String::from_utf8_lossy(state).into_owned());
            text = rest;
        }
        let text = String::from_utf8_lossy(text);
        let state = sql_state.as_ref().map(|state| format!(" ({state})")).unwrap_or_default();
        let mut error =
            Self::new(kind_of(code, &text), format!("the server reported error {code}{state}: {text}"));
        error.0.sql_state = sql_state;
        error.0.from_server = true;
        error
    }

    /// If TLS itself failed underneath, says so: it is nothing that a new attempt would heal.
    pub(super) fn or_tls(mut self) -> Self {
        let mut cause: Option<&(dyn StdError + 'static)> = StdError::source(&self);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if error.is::<tokio_rustls::rustls::Error>()
                || inner.is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>())
            {
                self.0.kind = ConnectionErrorKind::Tls;
                break;
            }
            cause = error.source();
        }
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ConnectionErrorKind {
        self.0.kind
    }

    /// Whether the server reported it, so that the connection itself is sound.
    pub(super) fn is_from_server(&self) -> bool {
        self.0.from_server
    }

    /// The SQL state, if the server reported the error and gave one.
    #[must_use]
    pub fn sql_state(&self) -> Option<&str> {
        self.0.sql_state.as_deref()
    }

    /// What to do about it.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.kind().recovery()
    }

    /// Whether a new connection may be tried without end; see [`recovery`](Self::recovery) for the finer answer.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.recovery() == Recovery::Retry
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl StdError for ConnectionError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        Some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16, text: &str) -> ConnectionError {
        let mut packet = vec![0xFF];
        packet.extend(code.to_le_bytes());
        packet.extend(text.as_bytes());
        ConnectionError::from_packet(&packet)
    }

    #[test]
    fn server_errors_are_told_apart() {
        use ConnectionErrorKind as Kind;
        let cases = [
            (1045, "#28000Access denied for user 'x'", Kind::AccessDenied, Recovery::Stop),
            (1040, "Too many connections", Kind::Server { code: 1040 }, Recovery::Retry),
            (1064, "#42000syntax", Kind::Server { code: 1064 }, Recovery::Stop),
            (
                1236,
                "#HY000Could not find first log file name in binary log index file",
                Kind::PositionPurged,
                Recovery::Stop,
            ),
            (
                1236,
                "#HY000Client requested source to start replication from impossible position",
                Kind::ImpossiblePosition,
                Recovery::Stop,
            ),
            (
                1236,
                "#HY000A replica with the same server_uuid/server_id as this replica has connected",
                Kind::Replaced,
                Recovery::RetryBounded,
            ),
            (1236, "#HY000bogus data in log event", Kind::ImpossiblePosition, Recovery::Stop),
            (1236, "#HY000memory allocation failed", Kind::Server { code: 1236 }, Recovery::Stop),
            (
                4052,
                "#HY000A slave with the same server_uuid/server_id is already connected",
                Kind::Replaced,
                Recovery::RetryBounded,
            ),
            (1251, "#08004Client does not support", Kind::Authentication, Recovery::Stop),
        ];
        for (code, text, kind, recovery) in cases {
            let error = error(code, text);
            assert_eq!((error.kind(), error.recovery()), (kind, recovery), "{text}");
            assert!(error.to_string().contains(&code.to_string()), "{error}");
        }
        assert_eq!(error(1045, "#28000no").sql_state(), Some("28000"));
        assert_eq!(error(1040, "Too many").sql_state(), None);
    }

    #[test]
    fn a_short_error_packet_is_an_error_of_the_protocol() {
        assert_eq!(ConnectionError::from_packet(&[0xFF, 1]).kind(), ConnectionErrorKind::Protocol);
    }

    #[test]
    fn tls_beneath_is_found() {
        let tls = io::Error::new(io::ErrorKind::InvalidData, tokio_rustls::rustls::Error::DecryptError);
        assert_eq!(ConnectionError::io("reading failed", tls).or_tls().kind(), ConnectionErrorKind::Tls);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(ConnectionError::io("reading failed", reset).or_tls().kind(), ConnectionErrorKind::Io);
    }
}
