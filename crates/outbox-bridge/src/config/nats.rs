//! `[nats]`: the servers and how to be admitted.

use std::path::PathBuf;
use std::time::Duration;

use super::problem::Fault;
use super::reader::Section;
use super::{ClientCertificate, Secret};

/// The NATS servers and how to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// Servers of one cluster, at least one; without credentials.
    pub urls: Vec<String>,
    /// How the bridge is admitted.
    pub auth: NatsAuth,
    /// How often the connection is tried.
    pub ping_interval: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// TLS on the connection.
    pub tls: NatsTls,
    /// The JetStream domain, if the streams stand behind a leaf node.
    pub jetstream_domain: Option<String>,
    /// What reply subjects begin with, without a dot at the end.
    pub inbox_prefix: String,
}

/// How the bridge is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsAuth {
    /// Anybody is, or the client's certificate decides.
    None,
    /// The text of a credentials file (JWT and seed).
    Credentials(Secret),
    /// An nkey seed.
    Nkey(Secret),
    /// A token.
    Token(Secret),
    /// User and password.
    UserPassword {
        /// User name.
        user: String,
        /// Password.
        password: Secret,
    },
}

/// TLS to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsTls {
    /// Whether to insist on TLS; with `tls` and `wss` servers it is true.
    pub required: bool,
    /// Certificates of the authorities to trust, PEM, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's own certificate.
    pub client: Option<ClientCertificate>,
}

pub(super) fn read(section: &Section<'_>) -> Nats {
    let urls = section.parsed_list("url", parse_url);
    let encrypted = urls.iter().any(|url| url.starts_with("tls:") || url.starts_with("wss:"));
    Nats {
        urls,
        auth: read_auth(section),
        ping_interval: section.duration("ping_interval"),
        connect_timeout: section.duration("connect_timeout"),
        tls: NatsTls {
            required: section.flag("tls.required") || encrypted,
            ca_file: section.file("tls.ca_file"),
            client: section.client_certificate("tls.cert_file", "tls.key_file"),
        },
        jetstream_domain: section.parsed("jetstream_domain", parse_domain),
        inbox_prefix: section.parsed("inbox_prefix", parse_inbox_prefix).unwrap_or_default(),
    }
}

fn read_auth(section: &Section<'_>) -> NatsAuth {
    let user = section.parsed("user", |text| match text {
        "" => Err(Fault::new("is empty", "name a user, or remove the key")),
        text => Ok(text.to_owned()),
    });
    let password = section.secret("password", "password_file");
    let credentials = section.secret("credentials", "credentials_file").map(NatsAuth::Credentials);
    let nkey =
        section.secret("nkey", "nkey_file").map(|seed| NatsAuth::Nkey(Secret::new(seed.expose().trim())));
    let token = section.secret("token", "token_file").map(NatsAuth::Token);
    let login = match (user, password) {
        (Some(user), Some(password)) => Some(NatsAuth::UserPassword { user, password }),
        (Some(_), None) => {
            section.problem("user", Fault::new("has no password", "set nats.password_file, or remove it"));
            None
        }
        (None, Some(_)) => {
            section.problem("user", Fault::new("a password is set without a user", "set nats.user"));
            None
        }
        (None, None) => None,
    };
    let mut ways: Vec<(&str, NatsAuth)> =
        [("credentials", credentials), ("nkey", nkey), ("token", token), ("user", login)]
            .into_iter()
            .filter_map(|(key, way)| Some((key, way?)))
            .collect();
    if let [(first, _), (second, _), ..] = ways.as_slice() {
        let cause =
            format!("{first} and {second} are both configured, and only one way to be admitted can be used");
        section.problem(second, Fault::new(cause, "keep one"));
    }
    ways.pop().map_or(NatsAuth::None, |(_, way)| way)
}

const URL_FORM: &str = "write \"nats://HOST:PORT\"";

// No message quotes the URL: it may hold a password or token.
fn parse_url(text: &str) -> Result<String, Fault> {
    let fault = |cause: &str| Fault::new(cause, URL_FORM);
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let url = url::Url::parse(&with_scheme).map_err(|error| fault(&format!("not a URL ({error})")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Fault::new(
            "holds credentials, which would stand in plain sight",
            "remove them from the URL and set nats.user with nats.password_file, nats.token_file, nats.nkey_file or \
             nats.credentials_file",
        ));
    }
    if !matches!(url.scheme(), "nats" | "tls" | "ws" | "wss") {
        return Err(Fault::new("its scheme is none of nats, tls, ws and wss", URL_FORM));
    }
    if url.host_str().unwrap_or_default().is_empty() {
        return Err(fault("it names no host"));
    }
    if matches!(url.scheme(), "nats" | "tls") && !matches!(url.path(), "" | "/") {
        return Err(fault("has something behind the host"));
    }
    Ok(with_scheme)
}

fn parse_domain(text: &str) -> Result<String, Fault> {
    if super::outbox::is_plain_name(text) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} is not a JetStream domain"), "use letters, digits, - and _"))
}

fn parse_inbox_prefix(text: &str) -> Result<String, Fault> {
    let token = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'>'))
    };
    if text.split('.').all(token) && !text.starts_with('$') {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is not the beginning of a subject"),
        "write for instance \"_INBOX.bridge\"",
    ))
}
