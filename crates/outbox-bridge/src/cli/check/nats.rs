//! What NATS says: the connection, JetStream, the streams, the checkpoint's bucket.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::GetStreamError;
use async_nats::jetstream::stream::Info;
use async_nats::{Client, ConnectErrorKind};

use super::permissions::{self, Complaints};
use super::progress::{self, Progress};
use super::stream::{Server, assess, is_covered};
use super::{Finding, Severity};
use crate::config::{Config, Outbox};
use crate::exit::report;
use crate::nats::{self, NatsError, is_missing};

/// The oldest server that the bridge works with.
const SERVER_MIN: (i64, i64, i64) = (2, 10, 0);
/// The first server with fast-ingest batches.
const SERVER_FAST: (i64, i64, i64) = (2, 14, 0);

/// The first server whose atomic batches may have message ids.
const SERVER_ATOMIC: (i64, i64, i64) = (2, 12, 1);

/// What was found, and what is needed to compare the streams with the source.
#[derive(Debug, Default)]
pub(super) struct Target {
    pub(super) findings: Vec<Finding>,
    /// The largest message that each stream takes.
    pub(super) limits: BTreeMap<String, Limit>,
    pub(super) progress: Progress,
}

/// The size of the largest message.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    /// What sets it.
    pub(super) setting: String,
}

/// Asks NATS everything that matters to `run`.
pub(super) async fn probe(config: &Config) -> Target {
    let mut target = Target::default();
    let (client, complaints) =
        match permissions::connect(&config.nats, &format!("{}-check", config.name)).await {
            Ok(connected) => connected,
            Err(error) => {
                target.findings.push(unreachable(&error));
                return target;
            }
        };
    let server = server(&client);
    target.findings.push(assess_server(&client, server));
    let mut jetstream = nats::jetstream(&config.nats, client.clone());
    jetstream.set_timeout(permissions::ANSWER_TIMEOUT);
    if let Some(finding) = no_jetstream(&jetstream, &complaints).await {
        target.findings.push(finding);
        return target;
    }
    let mut streams: Vec<String> = Vec::new();
    for outbox in &config.outboxes {
        if !streams.contains(&outbox.stream) {
            streams.push(outbox.stream.clone());
        }
    }
    let configured = streams.len();
    let mut existing = Vec::new();
    for stream in streams {
        let outboxes: Vec<&Outbox> =
            config.outboxes.iter().filter(|outbox| outbox.stream == stream).collect();
        let probed = probe_stream(&client, &jetstream, &complaints, &stream, &outboxes, config, server).await;
        target.findings.extend(probed.findings);
        if let Some(limit) = probed.limit {
            target.limits.insert(stream.clone(), limit);
            existing.push(stream);
        }
    }
    target.findings.extend(super::letters::probe(&client, &jetstream, &complaints, config).await);
    target.findings.extend(super::claim_check::probe(&client, &jetstream, &complaints, config).await);
    let complete = existing.len() == configured;
    target.progress = progress::probe(&client, &jetstream, &complaints, config, &existing, complete).await;
    target
}

/// NATS cannot be reached, or does not let the bridge in.
pub(in crate::cli) fn unreachable(error: &NatsError) -> Finding {
    let (severity, remedy) = match error {
        NatsError::Credentials(_) => (Severity::Error, "put a credentials file there as nsc writes it"),
        NatsError::Connect(error) => match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => (
                Severity::Error,
                "check the credentials: one of nats.user with nats.password_file, nats.token_file, nats.nkey_file and \
                 nats.credentials_file",
            ),
            ConnectErrorKind::Tls => (Severity::Error, "check nats.tls against what the server offers"),
            _ => (Severity::Unavailable, "check nats.url, and that a server listens there"),
        },
    };
    Finding::new(severity, "nats", report(error), remedy)
}

/// Whether there is no JetStream. That the account may not be asked about does not matter: streams are asked next.
async fn no_jetstream(jetstream: &Context, complaints: &Complaints) -> Option<Finding> {
    let error = jetstream.query_account().await.err()?;
    let forbidden = complaints.about("$JS.API.INFO").is_some();
    if forbidden {
        return None;
    }
    Some(Finding::new(
        Severity::Error,
        "nats",
        format!("JetStream does not answer ({}){}", report(&error), complaints.all()),
        "enable JetStream on the server and for the account, allow the user to publish to $JS.API.> and to subscribe \
         to its inboxes (nats.inbox_prefix), or set nats.jetstream_domain",
    ))
}

pub(in crate::cli) fn server(client: &Client) -> Server {
    let has = |(major, minor, patch)| client.is_server_compatible(major, minor, patch);
    Server { fast: has(SERVER_FAST), atomic: has(SERVER_ATOMIC), max_payload: client.max_payload() }
}

fn assess_server(client: &Client, server: Server) -> Finding {
    let version = client.server_info().version;
    let (major, minor, patch) = SERVER_MIN;
    if client.is_server_compatible(major, minor, patch) {
        let limit = server.max_payload;
        return Finding::note(
            "nats",
            format!("connected to nats-server {version}; a message may have {limit} bytes"),
        );
    }
    let remedy = format!("upgrade it to {major}.{minor} or later; 2.14 has the fast mode");
    Finding::new(Severity::Error, "nats", format!("nats-server {version} is too old"), remedy)
}

/// What was found of one stream.
struct Probed {
    findings: Vec<Finding>,
    /// The largest message that it takes, if it is there.
    limit: Option<Limit>,
}

async fn probe_stream(
    client: &Client,
    jetstream: &Context,
    complaints: &Complaints,
    name: &str,
    outboxes: &[&Outbox],
    config: &Config,
    server: Server,
) -> Probed {
    let subject = format!("stream {name}");
    let missing = |finding| Probed { findings: vec![finding], limit: None };
    let info = match jetstream.get_stream(name).await {
        Ok(stream) => stream.cached_info().clone(),
        Err(error) if is_missing(&error) => {
            let remedy = "create it: `outbox-bridge init --apply` does, and `init --print stream` shows how";
            return missing(Finding::new(Severity::Error, subject, "does not exist", remedy));
        }
        Err(error) => return missing(unreadable(subject, name, &error, complaints)),
    };
    let mut findings = assess(&info.config, outboxes, &config.publish, server);
    findings.extend(held_by(&info));
    let filters: BTreeSet<String> = outboxes.iter().map(|outbox| outbox.subject.subject_filter()).collect();
    for filter in filters.iter().filter(|filter| is_covered(&info.config, filter)) {
        findings.extend(permissions::publish(client, complaints, name, &sample(filter)).await);
    }
    let server_limit =
        Limit { bytes: server.max_payload as u64, setting: "max_payload of nats-server".to_owned() };
    let stream_limit = u64::try_from(info.config.max_message_size)
        .ok()
        .filter(|bytes| (1..server_limit.bytes).contains(bytes))
        .map(|bytes| Limit { bytes, setting: format!("max_msg_size of {name}") });
    Probed { findings, limit: Some(stream_limit.unwrap_or(server_limit)) }
}

/// A subject that `filter` matches.
fn sample(filter: &str) -> String {
    filter
        .split('.')
        .map(|token| if token == "*" { "outbox-bridge-check" } else { token })
        .collect::<Vec<_>>()
        .join(".")
}

/// Which servers hold a stream, and which of them do not keep up.
fn held_by(info: &Info) -> Vec<Finding> {
    let subject = format!("stream {}", info.config.name);
    let replicas = info.config.num_replicas;
    let Some(cluster) = info.cluster.as_ref().filter(|cluster| cluster.name.is_some()) else {
        return Vec::new();
    };
    let mut findings = vec![Finding::note(
        &subject,
        match replicas {
            1 => "held by one server of a cluster: while it is down, the bridge waits".to_owned(),
            replicas => format!("held by {replicas} servers"),
        },
    )];
    for peer in cluster.replicas.iter().filter(|peer| peer.offline || !peer.current) {
        let problem =
            format!("its replica on {} is {}", peer.name, if peer.offline { "offline" } else { "behind" });
        findings.push(Finding::new(Severity::Warning, &subject, problem, "see to that server"));
    }
    findings
}

pub(super) fn unreadable(
    subject: String,
    stream: &str,
    error: &GetStreamError,
    complaints: &Complaints,
) -> Finding {
    let problem = format!("cannot be asked about ({}){}", report(error), complaints.all());
    let remedy = format!(
        "allow the bridge's user to publish to $JS.API.STREAM.INFO.{stream}, and see that JetStream is well there"
    );
    Finding::new(Severity::Error, subject, problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_subject() {
        assert_eq!(sample("orders.*.*"), "orders.outbox-bridge-check.outbox-bridge-check");
        assert_eq!(sample("bills"), "bills");
    }
}
