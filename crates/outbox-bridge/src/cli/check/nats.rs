//! What NATS says: the connection, JetStream, the streams, the checkpoint's bucket.

use std::collections::BTreeSet;

use async_nats::Client;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::{Context, ErrorCode};

use super::stream::{Server, assess};
use super::{Finding, Severity};
use crate::config::{Config, Outbox};
use crate::exit::report;
use crate::nats;

/// The oldest server that the bridge works with.
const SERVER_MIN: (i64, i64, i64) = (2, 10, 0);
/// The first server with fast-ingest batches.
const SERVER_FAST: (i64, i64, i64) = (2, 14, 0);

/// Asks NATS everything that matters to `run`.
pub(super) async fn probe(config: &Config) -> Vec<Finding> {
    let client = match nats::connect(&config.nats, &format!("{}-check", config.name)).await {
        Ok(client) => client,
        Err(error) => {
            let remedy = "check nats.url, that a server listens there, and the credentials";
            return vec![Finding::new(Severity::Unavailable, "nats", report(&error), remedy)];
        }
    };
    let server = server(&client);
    let mut findings = assess_server(&client, server);
    let jetstream = nats::jetstream(&config.nats, client);
    if let Err(error) = jetstream.query_account().await {
        findings.push(Finding::new(
            Severity::Error,
            "nats",
            format!("JetStream does not answer ({})", report(&error)),
            "enable JetStream on the server and for the account, allow the user to publish to $JS.API.> and to subscribe \
             to its inboxes (nats.inbox_prefix), or set nats.jetstream_domain",
        ));
        return findings;
    }
    let streams: BTreeSet<&str> = config.outboxes.iter().map(|outbox| outbox.stream.as_str()).collect();
    for stream in streams {
        let outboxes: Vec<&Outbox> =
            config.outboxes.iter().filter(|outbox| outbox.stream == stream).collect();
        findings.extend(probe_stream(&jetstream, stream, &outboxes, config, server).await);
    }
    findings.push(probe_bucket(&jetstream, config).await);
    findings
}

fn server(client: &Client) -> Server {
    let (major, minor, patch) = SERVER_FAST;
    Server { fast: client.is_server_compatible(major, minor, patch), max_payload: client.max_payload() }
}

fn assess_server(client: &Client, server: Server) -> Vec<Finding> {
    let version = client.server_info().version;
    let (major, minor, patch) = SERVER_MIN;
    let finding = if client.is_server_compatible(major, minor, patch) {
        let limit = server.max_payload;
        Finding::note("nats", format!("connected to nats-server {version}; a message may have {limit} bytes"))
    } else {
        let remedy = format!("upgrade it to {major}.{minor} or later; 2.14 has the fast mode");
        Finding::new(Severity::Error, "nats", format!("nats-server {version} is too old"), remedy)
    };
    vec![finding]
}

async fn probe_stream(
    jetstream: &Context,
    name: &str,
    outboxes: &[&Outbox],
    config: &Config,
    server: Server,
) -> Vec<Finding> {
    let subject = format!("stream {name}");
    match jetstream.get_stream(name).await {
        Ok(stream) => assess(&stream.cached_info().config, outboxes, &config.publish, server),
        Err(error) if is_missing(&error) => {
            let remedy = "create it: outbox-bridge init --print stream shows how";
            vec![Finding::new(Severity::Error, subject, "does not exist", remedy)]
        }
        Err(error) => vec![unreadable(subject, name, &error)],
    }
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(
        error.kind(),
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND
    )
}

fn unreadable(subject: String, stream: &str, error: &GetStreamError) -> Finding {
    let remedy = format!("allow the user to publish to $JS.API.STREAM.INFO.{stream}, and try again");
    Finding::new(Severity::Error, subject, format!("cannot be read ({})", report(error)), remedy)
}

async fn probe_bucket(jetstream: &Context, config: &Config) -> Finding {
    let bucket = &config.checkpoint.bucket;
    let subject = format!("bucket {bucket}");
    let stream = format!("KV_{bucket}");
    match jetstream.get_stream(&stream).await {
        Ok(_) => Finding::note(subject, "exists"),
        Err(error) if is_missing(&error) => Finding::note(subject, "does not exist yet; run creates it"),
        Err(error) => unreadable(subject, &stream, &error),
    }
}
