//! The stream of dead letters, where the configuration wants one.

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};

use super::nats::{is_missing, unreadable};
use super::permissions::{self, Complaints};
use super::stream::is_covered;
use super::{Finding, Severity};
use crate::config::{Config, DeadLetters};
use crate::exit::report;
use crate::run;

pub(super) async fn probe(
    client: &Client,
    jetstream: &Context,
    complaints: &Complaints,
    config: &Config,
) -> Vec<Finding> {
    let Some(DeadLetters { stream: name, subject: prefix }) = &config.dead_letters else {
        return Vec::new();
    };
    let subject = format!("stream {name}");
    let found = match jetstream.get_stream(name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_missing(&error) => {
            let remedy = "it is for dead letters: `outbox-bridge init --apply` creates it";
            return vec![Finding::new(Severity::Error, subject, "does not exist", remedy)];
        }
        Err(error) => return vec![unreadable(subject, name, &error, complaints)],
    };
    let filter = format!("{prefix}.*.*.*");
    if !is_covered(&found, &filter) {
        let remedy = format!("add {prefix}.> to its subjects, or set poison.subject");
        let problem = format!("has no subjects for dead letters ({prefix}.>)");
        return vec![Finding::new(Severity::Error, subject, problem, remedy)];
    }
    let mut findings = vec![Finding::note(&subject, "takes dead letters")];
    if found.max_messages_per_subject != 1 {
        let problem = "keeps what a dead letter was before it was dropped or replayed";
        findings.push(Finding::new(Severity::Warning, &subject, problem, "set max_msgs_per_subject to 1"));
    }
    if found.retention != RetentionPolicy::Limits {
        let problem = "does not keep dead letters that were looked at";
        findings.push(Finding::new(Severity::Error, &subject, problem, "make it anew with retention limits"));
    }
    let limited = found.max_bytes > 0 || found.max_messages > 0;
    if limited && found.discard == DiscardPolicy::Old {
        let problem = "throws the oldest dead letters away when it is full";
        let remedy = "set discard to new: the bridge then waits for room";
        findings.push(Finding::new(Severity::Warning, &subject, problem, remedy));
    }
    let mut streams: Vec<_> = config.outboxes.iter().map(|outbox| &outbox.stream).collect();
    streams.dedup();
    for stream in streams {
        let sample = format!("{prefix}.{}.outbox-bridge-check.outbox-bridge-check", stream);
        findings.extend(permissions::publish(client, complaints, name, &sample).await);
    }
    if let Some(letters) = run::letters(config, client, jetstream)
        && let Err(error) = letters.next(1).await
    {
        let remedy = format!("allow the bridge's user to publish to $JS.API.STREAM.MSG.GET.{name}");
        let problem = format!("cannot be read ({}){}", report(&error), complaints.all());
        findings.push(Finding::new(Severity::Error, &subject, problem, remedy));
    }
    findings
}
