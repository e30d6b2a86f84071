//! The object store of large payloads, where the configuration wants one.

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind, Stream};

use super::nats::unreadable;
use super::permissions::{self, Complaints};
use super::progress::may_create;
use super::{Finding, Severity};
use crate::config::Config;
use crate::exit::report;
use crate::nats::is_missing;
use crate::publish::stream_of_bucket;

pub(super) async fn probe(
    client: &Client,
    jetstream: &Context,
    complaints: &Complaints,
    config: &Config,
) -> Vec<Finding> {
    let Some(checks) = &config.claim_check else { return Vec::new() };
    let (bucket, name) = (&checks.bucket, stream_of_bucket(&checks.bucket));
    let subject = format!("object store {bucket}");
    let found = match jetstream.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) if is_missing(&error) => {
            return match may_create(jetstream, complaints, &name, &subject).await {
                Ok(()) => vec![Finding::note(subject, "does not exist yet; run creates it")],
                Err(finding) => vec![finding],
            };
        }
        Err(error) => return vec![unreadable(subject, &name, &error, complaints)],
    };
    let mut findings = vec![Finding::note(&subject, "takes payloads that are too large for a message")];
    let max_age = found.cached_info().config.max_age;
    if !max_age.is_zero() {
        let problem = format!("drops payloads after {max_age:?}, whether messages refer to them or not");
        let remedy = "the bridge removes them with their messages: set max_age to 0";
        findings.push(Finding::new(Severity::Warning, &subject, problem, remedy));
    }
    for kind in ["C", "M"] {
        let sample = format!("$O.{bucket}.{kind}.outbox-bridge-check");
        findings.extend(permissions::publish(client, complaints, &name, &sample).await);
    }
    if let Err(reason) = read_and_purge(&found, bucket).await {
        let remedy = format!(
            "allow the bridge's user to publish to $JS.API.STREAM.MSG.GET.{name}, $JS.API.STREAM.PURGE.{name} and \
             $JS.API.DIRECT.GET.{name}.$O.{bucket}.M.*"
        );
        let problem = format!("cannot be read and tidied up ({reason}){}", complaints.all());
        findings.push(Finding::new(Severity::Error, &subject, problem, remedy));
    }
    findings
}

/// Asks for what nobody has, and removes it.
async fn read_and_purge(objects: &Stream, bucket: &str) -> Result<(), String> {
    let subject = format!("$O.{bucket}.M.outbox-bridge-check");
    match objects.direct_get_last_for_subject(subject.as_str()).await {
        Err(error) if error.kind() != DirectGetErrorKind::NotFound => return Err(report(&error)),
        Ok(_) | Err(_) => {}
    }
    match objects.get_last_raw_message_by_subject(&subject).await {
        Err(error) if error.kind() != LastRawMessageErrorKind::NoMessageFound => return Err(report(&error)),
        Ok(_) | Err(_) => {}
    }
    objects.purge().filter(subject).await.map(drop).map_err(|error| report(&error))
}
