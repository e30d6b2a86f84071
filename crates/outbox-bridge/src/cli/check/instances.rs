//! Whether the bridges of this name can announce themselves to one another. `run` works without.

use async_nats::Client;
use async_nats::jetstream::Context;

use super::permissions::{self, Complaints};
use super::progress::kv_subject;
use super::{Finding, Severity};
use crate::config::Config;
use crate::instances::{instances_key, read};

pub(super) async fn probe(
    client: &Client,
    jetstream: &Context,
    complaints: &Complaints,
    config: &Config,
) -> Vec<Finding> {
    let bucket = &config.checkpoint.bucket;
    // One that is not there yet is said elsewhere.
    let Ok(store) = jetstream.get_key_value(bucket).await else { return Vec::new() };
    let key = instances_key(&config.name);
    let warn = |problem: String, remedy: String| {
        Finding::new(Severity::Warning, format!("bucket {bucket}"), problem, remedy)
    };
    let written = kv_subject(config, &key);
    let refusal = permissions::publish(client, complaints, &store.stream_name, &written).await;
    let mut findings: Vec<_> = refusal
        .map(|refusal| {
            let problem = format!("a bridge cannot announce itself there: {}", refusal.problem);
            let remedy =
                format!("allow the bridge's user to publish to {written}; until then no standbys are listed");
            warn(problem, remedy)
        })
        .into_iter()
        .collect();
    if let Err(reason) = read(jetstream, &store, &config.name).await {
        let read = format!("DIRECT.GET.{}.$KV.{bucket}.{key}", store.stream_name);
        let problem = format!("which bridges are there cannot be read ({reason}){}", complaints.all());
        let remedy = format!(
            "allow the bridge's user to publish to $JS.API.{read}, or run the newer version of the bridge, if one wrote the record; \
             until then no standbys are listed"
        );
        findings.push(warn(problem, remedy));
    }
    findings
}
