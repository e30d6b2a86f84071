//! The server's greeting and our answer to it.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>

use mysql_common::constants::CapabilityFlags;

use super::error::ConnectionError;
use super::fields::{Cursor, put_counted};

/// The challenge of the authentication methods that we know has this many bytes.
pub(super) const NONCE_BYTES: usize = 20;

/// `utf8mb4_general_ci`, which every server since 5.5.3 knows.
const COLLATION: u8 = 45;

/// How large a packet we say that we take; the largest that a server can be told to send.
const PACKET_BYTES_MAX: u32 = 1 << 30;

/// MySQL or MariaDB: their logs and variables differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// MySQL and what derives from it closely, such as Percona Server.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// MySQL or MariaDB.
    pub flavour: Flavour,
    /// Major, minor and patch version.
    pub version: (u16, u16, u16),
    /// The version as the server words it, without the `5.5.5-` that MariaDB may put in front.
    pub version_text: String,
    /// The server's id for this connection, as `KILL` takes it.
    pub connection_id: u32,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// The server's first packet.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub(super) server: ServerInfo,
    pub(super) capabilities: CapabilityFlags,
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) plugin: String,
}

impl Greeting {
    pub(super) fn parse(packet: &[u8]) -> Result<Self, ConnectionError> {
        match packet.first() {
            // Refused before it began: too many connections, or this host is not allowed or blocked.
            Some(0xFF) => return Err(ConnectionError::from_packet(packet)),
            Some(10) => {}
            Some(version) => {
                return Err(ConnectionError::protocol(format!(
                    "the server speaks version {version} of the protocol where 10 was expected: is it MySQL or MariaDB?"
                )));
            }
            None => return Err(truncated()),
        }
        Self::fields(packet).ok_or_else(truncated)?
    }

    fn fields(packet: &[u8]) -> Option<Result<Self, ConnectionError>> {
        let mut cursor = Cursor::new(packet);
        cursor.u8()?;
        let version_text = String::from_utf8_lossy(cursor.until_zero()?).into_owned();
        let connection_id = cursor.u32()?;
        let mut nonce = cursor.take(8)?.to_vec();
        cursor.u8()?;
        let low = cursor.u16()?;
        cursor.take(3)?; // collation, status
        let high = cursor.u16()?;
        let capabilities = CapabilityFlags::from_bits_retain(u32::from(low) | u32::from(high) << 16);
        if !capabilities.contains(required()) {
            return Some(Err(ConnectionError::protocol(format!(
                "server version {version_text} is too old: it lacks {:?}",
                required() - capabilities
            ))));
        }
        let nonce_bytes = usize::from(cursor.u8()?);
        cursor.take(10)?;
        nonce.extend_from_slice(cursor.take(nonce_bytes.saturating_sub(8).max(13))?);
        let plugin = cursor.until_zero().unwrap_or(cursor.rest());
        Some(Ok(Self {
            server: ServerInfo {
                flavour: flavour(&version_text, capabilities),
                version: version(&version_text)?,
                version_text: version_text.strip_prefix(MARIADB_PREFIX).unwrap_or(&version_text).to_owned(),
                connection_id,
                tls: false,
            },
            capabilities,
            nonce: *nonce.first_chunk()?,
            plugin: String::from_utf8_lossy(plugin).into_owned(),
        }))
    }

    /// What both sides can do.
    pub(super) fn agreed(&self) -> CapabilityFlags {
        let optional = CapabilityFlags::CLIENT_DEPRECATE_EOF
            | CapabilityFlags::CLIENT_CONNECT_ATTRS
            | CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA;
        // MariaDB leaves the first flag unset to say that it is not MySQL; set by the client, it means nothing more.
        required() | CapabilityFlags::CLIENT_LONG_PASSWORD | (optional & self.capabilities)
    }
}

fn truncated() -> ConnectionError {
    ConnectionError::protocol("the server's greeting is cut short")
}

fn required() -> CapabilityFlags {
    CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_PLUGIN_AUTH
        | CapabilityFlags::CLIENT_TRANSACTIONS
        | CapabilityFlags::CLIENT_LONG_FLAG
}

/// What MariaDB 10 puts in front of its version, since replicas of old refused a two-digit major version.
const MARIADB_PREFIX: &str = "5.5.5-";

fn flavour(version_text: &str, capabilities: CapabilityFlags) -> Flavour {
    let named = version_text.to_ascii_lowercase().contains("mariadb");
    let prefixed = version_text.starts_with(MARIADB_PREFIX);
    if named || prefixed || !capabilities.contains(CapabilityFlags::CLIENT_LONG_PASSWORD) {
        Flavour::MariaDb
    } else {
        Flavour::MySql
    }
}

fn version(text: &str) -> Option<(u16, u16, u16)> {
    let text = text.strip_prefix(MARIADB_PREFIX).unwrap_or(text);
    let mut numbers = text
        .split(|character: char| !character.is_ascii_digit())
        .map(|digits| if digits.is_empty() { Some(0) } else { digits.parse().ok() });
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

/// The head that the request for TLS and the answer to the greeting share.
fn head(capabilities: CapabilityFlags) -> Vec<u8> {
    let mut packet = Vec::with_capacity(128);
    packet.extend(capabilities.bits().to_le_bytes());
    packet.extend(PACKET_BYTES_MAX.to_le_bytes());
    packet.push(COLLATION);
    packet.extend([0; 23]);
    packet
}

pub(super) fn tls_request(capabilities: CapabilityFlags) -> Vec<u8> {
    head(capabilities)
}

/// Our answer: who we are, and the proof that the greeting's challenge asks for.
pub(super) fn response(capabilities: CapabilityFlags, user: &str, proof: &[u8], plugin: &str) -> Vec<u8> {
    let mut packet = head(capabilities);
    packet.extend_from_slice(user.as_bytes());
    packet.push(0);
    // A proof has 32 bytes at most, so that its length is one byte in either of the two encodings.
    put_counted(&mut packet, proof);
    packet.extend_from_slice(plugin.as_bytes());
    packet.push(0);
    if capabilities.contains(CapabilityFlags::CLIENT_CONNECT_ATTRS) {
        let mut attributes = Vec::new();
        for (name, value) in
            [("program_name", "outbox-bridge"), ("_client_version", env!("CARGO_PKG_VERSION"))]
        {
            put_counted(&mut attributes, name.as_bytes());
            put_counted(&mut attributes, value.as_bytes());
        }
        put_counted(&mut packet, &attributes);
    }
    packet
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn greeting(version: &str, capabilities: u32, plugin: &str) -> Vec<u8> {
        let mut packet = vec![10];
        packet.extend(version.as_bytes());
        packet.push(0);
        packet.extend(7_u32.to_le_bytes());
        packet.extend(*b"12345678\0");
        let [a, b, c, d] = capabilities.to_le_bytes();
        packet.extend([a, b, 45, 2, 0, c, d, 21]);
        packet.extend([0; 10]);
        packet.extend(b"abcdefghijkl\0");
        packet.extend(plugin.as_bytes());
        packet.push(0);
        packet
    }

    #[test]
    fn greetings_are_understood() {
        let mysql = Greeting::parse(&greeting("9.7.4", u32::MAX, "caching_sha2_password")).expect("parses");
        assert_eq!(mysql.server.flavour, Flavour::MySql);
        assert_eq!(mysql.server.version, (9, 7, 4));
        assert_eq!(&mysql.nonce, b"12345678abcdefghijkl");
        assert_eq!(mysql.plugin, "caching_sha2_password");
        for (text, version) in [
            ("5.5.5-10.11.18-MariaDB-0+deb12u1-log", (10, 11, 18)),
            ("11.4.2-MariaDB", (11, 4, 2)),
            ("5.5.5-10.6.12", (10, 6, 12)),
        ] {
            let maria =
                Greeting::parse(&greeting(text, u32::MAX - 1, "mysql_native_password")).expect("parses");
            assert_eq!((maria.server.flavour, maria.server.version), (Flavour::MariaDb, version));
            assert!(!maria.server.version_text.starts_with("5.5.5-"));
        }
        assert_eq!(version("8.0.36-28.1"), Some((8, 0, 36)));
        assert_eq!(version("10.11-x"), Some((10, 11, 0)));
        assert_eq!(version("99999.1.1"), None);
    }

    #[test]
    fn an_ancient_server_is_refused() {
        let error = Greeting::parse(&greeting("5.1.0", 0, "")).expect_err("refused");
        assert!(error.to_string().contains("too old"), "{error}");
    }

    proptest! {
        #[test]
        fn no_greeting_panics(cut in 0_usize..100, noise: Vec<u8>) {
            let whole = greeting("9.7.4", u32::MAX, "caching_sha2_password");
            let head = whole.get(..cut.min(whole.len())).unwrap_or_default();
            drop(Greeting::parse(head));
            drop(Greeting::parse(&[head, &noise].concat()));
            drop(Greeting::parse(&noise));
        }
    }
}
