//! How far the streams and the checkpoint are, and where `run` would go on: with the same code that `run` decides by.

use async_nats::Client;
use async_nats::jetstream::{Context, ErrorCode};
use serde_json::json;
use tokio::sync::watch;

use super::instances;
use super::nats::unreadable;
use super::permissions::{self, Complaints};
use super::{Finding, Severity};
use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints as _, KvCheckpoints, LogPoint};
use crate::config::{Config, StartPosition};
use crate::exit::report;
use crate::lead::lease_key;
use crate::nats::is_missing;
use crate::pipeline::plan::{self, Plan, PlanError, StreamState};
use crate::publish::{NatsWire, Tail, Wire as _, WireError};

/// Where `run` would begin.
#[derive(Debug, Default)]
pub(super) enum Start {
    /// Something is in the way, and is said elsewhere.
    #[default]
    Unknown,
    /// Where the configuration says.
    First,
    /// Where it was before.
    At(Box<LogPoint>),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) findings: Vec<Finding>,
    pub(super) start: Start,
}

/// Reads the ends of `streams`, which exist, and the checkpoint. The start is known only if `complete`: if these are all
/// the streams of the configuration.
pub(super) async fn probe(
    client: &Client,
    jetstream: &Context,
    complaints: &Complaints,
    config: &Config,
    streams: &[String],
    complete: bool,
) -> Progress {
    let mut progress = Progress::default();
    let checkpoint = match checkpoint(client, jetstream, complaints, config).await {
        Ok((checkpoint, finding)) => {
            progress.findings.push(finding);
            progress.findings.extend(instances::probe(client, jetstream, complaints, config).await);
            Some(checkpoint)
        }
        Err(finding) => {
            progress.findings.push(finding);
            None
        }
    };
    let mut states = Vec::new();
    for stream in streams {
        let recorded = checkpoint
            .iter()
            .flatten()
            .find_map(|checkpoint| checkpoint.streams.get(stream))
            .map(|at| at.sequence);
        match state(client, jetstream, stream, recorded).await {
            Ok(state) => states.push(state),
            Err(error) => progress.findings.push(unreadable_tail(stream, &error, complaints)),
        }
    }
    if let Some(checkpoint) = checkpoint
        && complete
        && states.len() == streams.len()
    {
        match decide(checkpoint.as_ref(), &states, config) {
            Ok((start, findings)) => {
                progress.start = start;
                progress.findings.extend(findings);
            }
            Err(finding) => progress.findings.push(finding),
        }
    }
    progress
}

async fn state(
    client: &Client,
    jetstream: &Context,
    stream: &str,
    recorded: Option<u64>,
) -> Result<StreamState, WireError> {
    let (_losses, losses) = watch::channel(0);
    let mut wire = NatsWire::new(client.clone(), jetstream.clone(), stream.to_owned(), false, losses).await?;
    let tail = wire.read_tail().await?;
    let behind = recorded.is_some_and(|recorded| tail.sequence() < recorded);
    let last_sequence = if behind { Some(wire.read_last_sequence().await?) } else { None };
    let info = NatsWire::stream_info(jetstream, stream).await?;
    let consumed = info.config.retention != async_nats::jetstream::stream::RetentionPolicy::Limits;
    Ok(StreamState { name: stream.to_owned(), tail, last_sequence, consumed })
}

fn unreadable_tail(stream: &str, error: &WireError, complaints: &Complaints) -> Finding {
    let subject = format!("stream {stream}");
    match error {
        WireError::Foreign { sequence, subject: of, .. } => Finding::new(
            Severity::Error,
            subject,
            format!("ends with message {sequence} ({of}), which no bridge wrote"),
            "a stream of the bridge takes nobody else's messages: find out who writes to it and forbid it, then delete those \
             messages or use another stream",
        ),
        error @ WireError::NewerFormat { .. } => {
            Finding::new(Severity::Error, subject, report(error), "run the newer version of the bridge")
        }
        error => Finding::new(
            Severity::Error,
            subject,
            format!("its last message cannot be read ({}){}", report(error), complaints.all()),
            format!(
                "allow the bridge's user to publish to $JS.API.STREAM.MSG.GET.{stream}, and see that it has a leader"
            ),
        ),
    }
}

/// The checkpoint, if there is one, and what is to be said of its bucket.
async fn checkpoint(
    client: &Client,
    jetstream: &Context,
    complaints: &Complaints,
    config: &Config,
) -> Result<(Option<Checkpoint>, Finding), Finding> {
    let bucket = &config.checkpoint.bucket;
    let subject = format!("bucket {bucket}");
    let stream = format!("KV_{bucket}");
    match jetstream.get_stream(&stream).await {
        Ok(_) => {}
        Err(error) if is_missing(&error) => {
            may_create(jetstream, complaints, &stream, &subject).await?;
            return Ok((None, Finding::note(subject, "does not exist yet; run creates it")));
        }
        Err(error) => return Err(unreadable(subject, &stream, &error, complaints)),
    }
    for key in [&config.name, &lease_key(&config.name)] {
        let key = kv_subject(config, key);
        if let Some(finding) = permissions::publish(client, complaints, &stream, &key).await {
            return Err(Finding { subject, ..finding });
        }
    }
    let mut checkpoints = KvCheckpoints::new(jetstream.clone(), bucket.clone(), config.name.clone(), 1);
    let loaded = match checkpoints.load().await {
        // The server allows each key by itself.
        Ok(loaded) => read_lease(jetstream, config).await.map(|()| loaded),
        Err(error) => Err(error),
    };
    match loaded {
        Ok(Some((checkpoint, _))) => {
            let problem = format!(
                "holds the checkpoint {}, at {}:{}",
                config.name, checkpoint.point.file, checkpoint.point.offset
            );
            Ok((Some(checkpoint), Finding::note(subject, problem)))
        }
        Ok(None) => Ok((None, Finding::note(subject, format!("holds no checkpoint {} yet", config.name)))),
        Err(error) => {
            let remedy = match error {
                CheckpointError::Unreadable { .. } => "run the bridge that wrote it, or choose another name",
                _ => {
                    "allow the bridge's user to publish to $JS.API.DIRECT.GET.> and $JS.API.STREAM.MSG.GET.>"
                }
            };
            Err(Finding::new(
                Severity::Error,
                subject,
                format!("{}{}", report(&error), complaints.all()),
                remedy,
            ))
        }
    }
}

/// Where a key of the bucket is written.
pub(super) fn kv_subject(config: &Config, key: &str) -> String {
    let prefix =
        config.nats.jetstream_domain.as_ref().map(|domain| format!("$JS.{domain}.API.")).unwrap_or_default();
    format!("{prefix}$KV.{}.{key}", config.checkpoint.bucket)
}

async fn read_lease(jetstream: &Context, config: &Config) -> Result<(), CheckpointError> {
    let unavailable = |error: &(dyn std::error::Error + 'static)| CheckpointError::Unavailable(report(error));
    let bucket =
        jetstream.get_key_value(&config.checkpoint.bucket).await.map_err(|error| unavailable(&error))?;
    bucket.entry(lease_key(&config.name)).await.map(drop).map_err(|error| unavailable(&error))
}

/// Asks for a stream in a way that cannot be granted: the name in the subject is not that in the request.
pub(super) async fn may_create(
    jetstream: &Context,
    complaints: &Complaints,
    stream: &str,
    subject: &str,
) -> Result<(), Finding> {
    let request = json!({ "name": format!("{stream}-check") });
    let answer: Result<serde_json::Value, _> =
        jetstream.request(format!("STREAM.CREATE.{stream}"), &request).await;
    let reason = match answer {
        Ok(answer) => match answer.pointer("/error/err_code").and_then(serde_json::Value::as_u64) {
            Some(code) if code == ErrorCode::STREAM_MISMATCH.0 => {
                return may_ask(jetstream, complaints, subject).await;
            }
            _ => answer.to_string(),
        },
        Err(error) => report(&error),
    };
    Err(Finding::new(
        Severity::Error,
        subject,
        format!("does not exist and cannot be created ({reason}){}", complaints.all()),
        format!(
            "allow the bridge's user to publish to $JS.API.STREAM.CREATE.{stream}, or create the bucket for it"
        ),
    ))
}

/// The client asks about the account before it creates a bucket.
async fn may_ask(jetstream: &Context, complaints: &Complaints, subject: &str) -> Result<(), Finding> {
    let Err(error) = jetstream.query_account().await else { return Ok(()) };
    Err(Finding::new(
        Severity::Error,
        subject,
        format!("does not exist and cannot be created ({}){}", report(&error), complaints.all()),
        "allow the bridge's user to publish to $JS.API.INFO, or create the bucket for it",
    ))
}

/// Where `run` would go on.
fn decide(
    checkpoint: Option<&Checkpoint>,
    states: &[StreamState],
    config: &Config,
) -> Result<(Start, Vec<Finding>), Finding> {
    let key = format!("{} in bucket {}", config.name, config.checkpoint.bucket);
    let plan = match checkpoint {
        // What the streams hold beyond it is told by GTIDs, when `run` reads them.
        Some(checkpoint) if checkpoint.switched => Ok(Some(Plan {
            start: checkpoint.point.clone(),
            chains: Vec::new(),
            refilled: Vec::new(),
            awaited: Vec::new(),
        })),
        Some(checkpoint) => plan::with_checkpoint(checkpoint, states, &key).map(Some),
        None => match plan::without_checkpoint(states) {
            // An explicit start says where to begin for the streams that cannot tell.
            Err(PlanError::NoCheckpoint { .. }) if config.source.start != StartPosition::Now => Ok(None),
            plan => plan,
        },
    };
    let subject = "start";
    let Some(plan) = plan.map_err(|error| impossible(subject, &error))? else {
        let problem = match &config.source.start {
            StartPosition::Now => {
                "the first one: with what commits from then on (source.start = \"now\")".to_owned()
            }
            StartPosition::Earliest => "the first one: with the oldest log that the server has".to_owned(),
            StartPosition::Gtids(set) => format!("the first one: after the transactions {set}"),
        };
        return Ok((Start::First, vec![Finding::note(subject, problem)]));
    };
    let mut findings: Vec<Finding> = plan
        .refilled
        .iter()
        .map(|(stream, sequence)| {
            let problem = format!("has lost what it had acknowledged after message {sequence}");
            let remedy =
                "run refills it from the log; find out how it was lost (a power cut, a restored backup?)";
            Finding::new(Severity::Warning, format!("stream {stream}"), problem, remedy)
        })
        .collect();
    findings.push(Finding::note(subject, format!("goes on at {}:{}", plan.start.file, plan.start.offset)));
    findings.extend(states.iter().filter_map(|state| match &state.tail {
        Tail::Message(tail) => {
            let problem = format!("ends with message {}, from {}", tail.sequence, tail.position);
            Some(Finding::note(format!("stream {}", state.name), problem))
        }
        Tail::Empty { .. } => None,
    }));
    Ok((Start::At(Box::new(plan.start)), findings))
}

fn impossible(subject: &str, error: &PlanError) -> Finding {
    let remedy = match error {
        PlanError::NoCheckpoint { .. } => "set source.start",
        PlanError::StreamLost { .. } => "restore the stream, or delete the checkpoint and set source.start",
        PlanError::BackfillUnfinished | PlanError::BackfillTail { .. } => "run `outbox-bridge backfill`",
        PlanError::NoGtids | PlanError::NotShown { .. } => "go on with the server that was read before",
        PlanError::NotTold { .. } => {
            "compare the outbox table with what the consumers received, then delete the checkpoint and set source.start"
        }
        PlanError::BadPosition { .. } => "see who wrote it; use another stream or another name",
        PlanError::Unaccounted { .. } => {
            "compare the outbox table with what the consumers received, then set source.start"
        }
    };
    Finding::new(Severity::Error, subject, report(error), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::init::tests::config;
    use crate::publish::TailMessage;

    fn state(name: &str, position: Option<&str>) -> StreamState {
        let tail = match position {
            Some(position) => {
                let position = position.parse().expect("a position");
                Tail::Message(TailMessage { sequence: 7, position })
            }
            None => Tail::Empty { last_sequence: 0 },
        };
        StreamState { name: name.to_owned(), tail, last_sequence: None, consumed: false }
    }

    #[test]
    fn where_it_begins() {
        let full = state("A", Some("0-1-9@binlog.000003:100/0"));
        let (start, findings) = decide(None, &[state("A", None)], &config("")).expect("a start");
        assert!(matches!(start, Start::First));
        assert!(findings.iter().any(|finding| finding.problem.contains("\"now\"")), "{findings:?}");

        let (start, findings) = decide(None, std::slice::from_ref(&full), &config("")).expect("a start");
        assert!(matches!(start, Start::At(point) if point.file == "binlog.000003" && point.offset == 100));
        assert!(
            findings.iter().any(|finding| finding.problem.contains("ends with message 7")),
            "{findings:?}"
        );

        let error = decide(None, &[full, state("B", None)], &config("")).expect_err("no start");
        assert!(
            error.problem.contains("stream B holds none") && error.remedy.contains("source.start"),
            "{error}"
        );
    }
}
