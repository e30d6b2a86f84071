//! `[source]`: the server whose log is read, how to reach it, and where to begin.

use std::path::PathBuf;
use std::time::Duration;

use super::problem::Fault;
use super::reader::{Choice, Section};
use super::{ByteSize, ClientCertificate, Secret};

/// The MySQL or MariaDB servers of which one's log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Host name or address, without the brackets of IPv6.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Further servers of the same topology, as host and port, in the order in which they are tried after the first.
    pub others: Vec<(String, u16)>,
    /// Whether `source.urls` names them, even if it is one: then the source is known by the bridge's name, not by a server's.
    pub is_list: bool,
    /// What to do about a server that does not have all that is published.
    pub behind: Behind,
    /// User name, percent-decoded.
    pub user: String,
    /// Password, if one is configured.
    pub password: Option<Secret>,
    /// TLS on the connection.
    pub tls: SourceTls,
    /// Where the first start begins.
    pub start: StartPosition,
    /// The id to register at the server with, never 0. Chosen at random for this process if not configured.
    pub server_id: u32,
    /// How often an idle server shows that it is alive.
    pub heartbeat: Duration,
    /// How long connecting and logging in may take.
    pub connect_timeout: Duration,
    /// A transaction with more outbox bytes than this is read twice instead of being held in memory.
    pub transaction_buffer_bytes_max: ByteSize,
    /// What to do when another table is written to in statement format.
    pub foreign_statements: ForeignStatements,
    /// The largest event that is accepted.
    pub event_bytes_max: ByteSize,
}

/// What to do when a replica that is to be read does not have all that is published, but still follows another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Wait until it has, or another server is there.
    Wait,
    /// Stop.
    Refuse,
}

impl Choice for Behind {
    const NAMES: &'static [(&'static str, Self)] = &[("wait", Self::Wait), ("refuse", Self::Refuse)];
}

/// What to do when another table than an outbox is written to in statement format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignStatements {
    /// Stop: a trigger may have inserted outbox rows, which the log then does not show.
    Refuse,
    /// Go on: no trigger inserts outbox rows.
    Ignore,
}

impl Choice for ForeignStatements {
    const NAMES: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("ignore", Self::Ignore)];
}

/// TLS to the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTls {
    /// What is asked for and verified.
    pub mode: TlsMode,
    /// Certificates of the authorities to trust, PEM; only with the verifying modes.
    pub ca_file: Option<PathBuf>,
    /// The client's own certificate.
    pub client: Option<ClientCertificate>,
}

/// What TLS is asked for and verified; the meanings are those of MySQL's own clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disabled,
    /// TLS if the server offers it, unverified.
    Preferred,
    /// TLS or no connection, unverified.
    Required,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// As `VerifyCa`, and the certificate names the host.
    VerifyIdentity,
}

impl Choice for TlsMode {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("disabled", Self::Disabled),
        ("preferred", Self::Preferred),
        ("required", Self::Required),
        ("verify-ca", Self::VerifyCa),
        ("verify-identity", Self::VerifyIdentity),
    ];
}

/// Where the first start begins, when there is neither a checkpoint nor a message in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPosition {
    /// With what commits from now on.
    Now,
    /// With the oldest log that the server still has.
    Earliest,
    /// After these transactions: MySQL's `uuid:1-5:tag:1-3,…` or MariaDB's `0-1-270,…`, without white space; its form
    /// is checked, its meaning is not.
    Gtids(String),
}

#[derive(Debug)]
struct Address {
    host: String,
    port: u16,
    user: String,
}

pub(super) fn read(section: &Section<'_>) -> Option<Source> {
    let addresses = read_addresses(section);
    let source = Source {
        host: String::new(),
        port: 0,
        others: Vec::new(),
        is_list: section.is_set("urls"),
        behind: section.choice("behind"),
        user: String::new(),
        password: section.secret("password", "password_file"),
        tls: read_tls(section),
        start: section.parsed("start", parse_start).unwrap_or(StartPosition::Now),
        server_id: section.optional_integer("server_id").unwrap_or_else(random_server_id),
        heartbeat: section.duration("heartbeat"),
        connect_timeout: section.duration("connect_timeout"),
        transaction_buffer_bytes_max: section.size("transaction_buffer_bytes_max"),
        foreign_statements: section.choice("foreign_statements"),
        event_bytes_max: section.size("event_bytes_max"),
    };
    let mut addresses = addresses?.into_iter();
    let Address { host, port, user } = addresses.next()?;
    let others = addresses.map(|address| (address.host, address.port)).collect();
    Some(Source { host, port, user, others, ..source })
}

/// The servers, of which there is one at least.
fn read_addresses(section: &Section<'_>) -> Option<Vec<Address>> {
    if !section.is_set("urls") {
        return section.parsed("url", parse_url).map(|address| vec![address]);
    }
    if section.is_set("url") {
        section.problem(
            "urls",
            Fault::new("stands beside source.url", "keep one of them; source.urls lists all servers"),
        );
    }
    let addresses = section.parsed_list("urls", parse_url);
    let first = addresses.first()?;
    if addresses.iter().any(|address| address.user != first.user) {
        section.problem(
            "urls",
            Fault::new(
                "names different users",
                "give the bridge the same user, with the same password, on every server",
            ),
        );
    }
    let twice = |(index, address): (usize, &Address)| {
        addresses.iter().take(index).any(|other| (&other.host, other.port) == (&address.host, address.port))
    };
    if addresses.iter().enumerate().any(twice) {
        section.problem("urls", Fault::new("names a server twice", "name each once"));
    }
    Some(addresses)
}

fn read_tls(section: &Section<'_>) -> SourceTls {
    let mode = section.choice("tls.mode");
    let ca_file = section.file("tls.ca_file");
    let client = section.client_certificate("tls.cert_file", "tls.key_file");
    if ca_file.is_some() && !matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyIdentity) {
        section.problem(
            "tls.ca_file",
            Fault::new(
                "has no effect, since this tls.mode verifies nothing",
                "set tls.mode to \"verify-ca\" or \"verify-identity\", or remove it",
            ),
        );
    }
    if client.is_some() && mode == TlsMode::Disabled {
        section.problem(
            "tls.cert_file",
            Fault::new("has no effect with tls.mode = \"disabled\"", "set another tls.mode, or remove it"),
        );
    }
    SourceTls { mode, ca_file, client }
}

/// From a range that people do not number their servers in, so that two bridges rarely meet.
fn random_server_id() -> u32 {
    rand::random_range(0x8000_0000..=0xFFFF_FFFE)
}

const URL_FORM: &str = "write \"mysql://USER@HOST:PORT\"";

// No message quotes the URL: it may hold a password.
fn parse_url(text: &str) -> Result<Address, Fault> {
    let fault = |cause: &str| Fault::new(cause, URL_FORM);
    let url = url::Url::parse(text).map_err(|error| fault(&format!("not a URL ({error})")))?;
    if url.password().is_some() {
        return Err(Fault::new(
            "holds a password, which would stand in plain sight",
            format!(
                "remove it from the URL and set source.password_file or {}SOURCE__PASSWORD",
                super::ENVIRONMENT_PREFIX
            ),
        ));
    }
    if !matches!(url.scheme(), "mysql" | "mariadb") {
        return Err(fault("its scheme is not mysql"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(Fault::new(
            "has something behind the host, which names no server",
            format!("{URL_FORM}; tables and options have keys of their own"),
        ));
    }
    let user = percent_encoding::percent_decode_str(url.username())
        .decode_utf8()
        .map_err(|_| fault("its user name is not UTF-8"))?
        .into_owned();
    if user.is_empty() {
        return Err(fault("it names no user"));
    }
    let host = url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()).unwrap_or_default();
    if host.is_empty() {
        return Err(fault("it names no host"));
    }
    match url.port() {
        Some(0) => Err(fault("port 0 is no port")),
        port => Ok(Address { host, port: port.unwrap_or(3306), user }),
    }
}

fn parse_start(text: &str) -> Result<StartPosition, Fault> {
    match text {
        "now" => return Ok(StartPosition::Now),
        "earliest" => return Ok(StartPosition::Earliest),
        _ => {}
    }
    let set: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if is_mysql_gtid_set(&set) || is_mariadb_gtid_list(&set) {
        return Ok(StartPosition::Gtids(set));
    }
    Err(Fault::new(
        format!("{text:?} is neither a word it knows nor a GTID set"),
        "write \"now\", \"earliest\", MySQL's \"UUID:1-5:tag:1-3,…\" (@@gtid_executed) or MariaDB's \"0-1-270,…\" \
         (@@gtid_binlog_pos)",
    ))
}

#[derive(PartialEq)]
enum Part {
    Uuid,
    Tag,
    Interval,
}

/// `uuid:interval…[:tag:interval…],…`.
fn is_mysql_gtid_set(set: &str) -> bool {
    set.split(',').all(|group| {
        let mut parts = group.split(':');
        let uuid = parts.next().unwrap_or_default();
        if uuid.len() != 36 || uuid::Uuid::try_parse(uuid).is_err() {
            return false;
        }
        let mut previous = Part::Uuid;
        for part in parts {
            previous = match previous {
                _ if is_interval(part) => Part::Interval,
                Part::Uuid | Part::Interval if is_tag(part) => Part::Tag,
                _ => return false,
            };
        }
        previous == Part::Interval
    })
}

fn is_interval(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) => 1 <= first && first <= last,
        _ => false,
    }
}

fn is_tag(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 32
}

/// `domain-server-sequence,…`, one a domain.
fn is_mariadb_gtid_list(list: &str) -> bool {
    let mut domains = Vec::new();
    list.split(',').all(|gtid| {
        let numbers: Option<Vec<u64>> = gtid.split('-').map(number).collect();
        let Some([domain, server, _]) = numbers.as_deref() else { return false };
        let fresh = !domains.contains(domain);
        domains.push(*domain);
        fresh && u32::try_from(*domain).is_ok() && u32::try_from(*server).is_ok()
    })
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_positions() {
        const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let accepted = [
            (format!("{UUID}:1-5"), format!("{UUID}:1-5")),
            (format!("{UUID}:1-5:7:9-10"), format!("{UUID}:1-5:7:9-10")),
            (format!("{UUID}:1-5:tag:1-3"), format!("{UUID}:1-5:tag:1-3")),
            (format!("{UUID}:tag:1-3"), format!("{UUID}:tag:1-3")),
            (format!("{UUID}:1,\n{UUID}:_t:2"), format!("{UUID}:1,{UUID}:_t:2")),
            ("0-1-270".to_owned(), "0-1-270".to_owned()),
            ("0-1-270, 1-2-0".to_owned(), "0-1-270,1-2-0".to_owned()),
        ];
        for (text, set) in accepted {
            assert_eq!(parse_start(&text), Ok(StartPosition::Gtids(set)), "{text}");
        }
        assert_eq!(parse_start("now"), Ok(StartPosition::Now));
        assert_eq!(parse_start("earliest"), Ok(StartPosition::Earliest));
        for text in [
            "",
            "latest",
            UUID,
            &format!("{UUID}:"),
            &format!("{UUID}:0-5"),
            &format!("{UUID}:5-1"),
            &format!("{UUID}:tag"),
            &format!("{UUID}:1-5:tag"),
            &format!("{UUID}:1-5:tag:other:1"),
            &format!("{UUID}:tag:other:1"),
            &format!("{UUID}:1-5,"),
            &format!("{UUID}:1-5,0-1-270"),
            "0-1",
            "0-1-2-3",
            "0-1-270,0-2-300",
            "+0-1-270",
            "4294967296-1-1",
        ] {
            assert!(parse_start(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls() {
        for (text, host, port, user) in [
            ("mysql://bridge@127.0.0.1:3307", "127.0.0.1", 3307, "bridge"),
            ("mysql://bridge@db.example", "db.example", 3306, "bridge"),
            ("mysql://a%40b@db:1/", "db", 1, "a@b"),
            ("mysql://bridge@[::1]:3306", "::1", 3306, "bridge"),
        ] {
            let address = parse_url(text).expect(text);
            assert_eq!((address.host.as_str(), address.port, address.user.as_str()), (host, port, user));
        }
        for text in [
            "",
            "db:3306",
            "mysql://db:3306",
            "mysql://@db:3306",
            "mysql://bridge@",
            "mysql://bridge@db:0",
            "mysql://bridge@db:99999",
            "mysql://bridge@db/shop",
            "mysql://bridge@db?ssl=1",
            "postgres://bridge@db",
            "mysql://%FF@db",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
        let fault = parse_url("mysql://bridge:hunter2@db").expect_err("a password");
        assert!(fault.remedy.contains("password_file") && !format!("{fault:?}").contains("hunter2"));
    }

    #[test]
    fn a_random_server_id_is_high() {
        assert!((0..1000).all(|_| random_server_id() >= 0x8000_0000));
    }
}
