//! Whether a stream is fit to be written to, exactly once and in order. Pure.

use async_nats::jetstream::stream::{
    Config as StreamConfig, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType,
};

use super::{Finding, Severity};
use crate::config::{Outbox, Publish, PublishMode};
use crate::publish::covers;

/// What matters of the server.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Server {
    /// Whether it has fast-ingest batches.
    pub(in crate::cli) fast: bool,
    /// Whether it has atomic batches in which messages may have ids.
    pub(in crate::cli) atomic: bool,
    /// The largest message, in bytes, headers included.
    pub(in crate::cli) max_payload: usize,
}

/// Judges `stream` as the target of `outboxes`.
pub(in crate::cli) fn assess(
    stream: &StreamConfig,
    outboxes: &[&Outbox],
    publish: &Publish,
    server: Server,
) -> Vec<Finding> {
    let subject = format!("stream {}", stream.name);
    let mut findings: Vec<Finding> = refusals(stream)
        .into_iter()
        .map(|(problem, remedy)| Finding::new(Severity::Error, &subject, problem, remedy))
        .collect();
    findings.extend(uncovered(stream, outboxes));
    findings.extend(
        warnings(stream, server)
            .into_iter()
            .map(|(problem, remedy)| Finding::new(Severity::Warning, &subject, problem, remedy)),
    );
    findings.push(mode(stream, publish, server));
    findings
}

/// What makes a stream unfit, with the remedy.
fn refusals(stream: &StreamConfig) -> Vec<(String, String)> {
    let name = &stream.name;
    let mut list = Vec::new();
    let mut refuse = |unfit: bool, problem: &str, remedy: String| {
        if unfit {
            list.push((problem.to_owned(), remedy));
        }
    };
    let another =
        || "choose another stream; outbox-bridge init --print stream shows one that fits".to_owned();
    refuse(stream.sealed, "is sealed: it takes no messages", another());
    refuse(stream.mirror.is_some(), "is a mirror: it takes no messages of its own", another());
    refuse(
        stream.sources.as_ref().is_some_and(|sources| !sources.is_empty()),
        "has sources, whose messages would come between the bridge's",
        "write to a stream of the bridge's own, and let this one have it as a source".to_owned(),
    );
    refuse(
        stream.subject_transform.is_some(),
        "transforms subjects, so that messages are stored under others than they are sent to",
        format!("remove the transform from {name}, and put it on a stream that has {name} as its source"),
    );
    refuse(stream.no_ack, "sends no acknowledgements (no_ack)", format!("set no_ack to false on {name}"));
    refuse(
        stream.persist_mode == Some(PersistenceMode::Async),
        "acknowledges before it stores (persist_mode async)",
        another(),
    );
    refuse(
        stream.retention != RetentionPolicy::Limits,
        "drops messages as they are consumed, the last one too, from which the bridge resumes",
        "use retention \"limits\"; a stream with another retention can have this one as its source"
            .to_owned(),
    );
    refuse(stream.allow_message_counter, "is a stream of counters (allow_msg_counter)", another());
    list
}

/// Templates whose subjects the stream does not listen to.
fn uncovered(stream: &StreamConfig, outboxes: &[&Outbox]) -> Vec<Finding> {
    let missing = outboxes.iter().filter_map(|outbox| {
        let filter = outbox.subject.subject_filter();
        if is_covered(stream, &filter) {
            return None;
        }
        Some(Finding::new(
            Severity::Error,
            format!("stream {}", stream.name),
            format!(
                "its subjects ({}) do not cover {filter}, where {} is published",
                stream.subjects.join(", "),
                outbox.table
            ),
            format!("add {filter} to its subjects, or change the subject of the [[outbox]]"),
        ))
    });
    missing.collect()
}

/// What works and could be better, with the remedy.
fn warnings(stream: &StreamConfig, server: Server) -> Vec<(String, String)> {
    let name = &stream.name;
    let mut list = Vec::new();
    let mut warn = |doubtful: bool, problem: String, remedy: String| {
        if doubtful {
            list.push((problem, remedy));
        }
    };
    warn(
        stream.storage == StorageType::Memory,
        "is held in memory: a restart of its servers loses what it had acknowledged".to_owned(),
        "create it with storage \"file\"".to_owned(),
    );
    let limit = usize::try_from(stream.max_message_size).ok().filter(|limit| *limit > 0);
    warn(
        limit.is_some_and(|limit| limit < server.max_payload),
        format!("refuses messages over {} bytes, which stop the bridge", stream.max_message_size),
        format!("raise max_msg_size of {name}, or make sure that no payload comes near it"),
    );
    warn(
        stream.discard == DiscardPolicy::Old && has_limit(stream),
        "drops old messages at its limits, consumed or not".to_owned(),
        format!("set discard to \"new\" on {name}, so that the bridge waits instead"),
    );
    warn(
        stream.discard_new_per_subject,
        "refuses messages of a subject that is full, which holds all others up".to_owned(),
        format!("remove the limit per subject from {name}"),
    );
    list
}

fn has_limit(stream: &StreamConfig) -> bool {
    stream.max_bytes > 0 || stream.max_messages > 0 || stream.max_messages_per_subject > 0
}

/// Which mode `run` would publish with.
fn mode(stream: &StreamConfig, publish: &Publish, server: Server) -> Finding {
    let subject = format!("stream {}", stream.name);
    let hindrance = match (server.fast, stream.allow_batch_publish) {
        (true, true) => None,
        (false, _) => {
            Some(("the server is older than 2.14", "upgrade nats-server to 2.14 or later".to_owned()))
        }
        (true, false) => {
            Some(("the stream does not allow it", format!("set allow_batched to true on {}", stream.name)))
        }
    };
    match (publish.mode, hindrance) {
        (PublishMode::Durable, _) => durable(stream, subject, server),
        (PublishMode::Pipelined, _) => Finding::note(subject, "publishing in mode pipelined, as configured"),
        (_, None) => Finding::note(subject, "publishing in mode fast"),
        (PublishMode::Auto, Some((reason, _))) => {
            Finding::note(subject, format!("publishing in mode pipelined, not fast, since {reason}"))
        }
        (PublishMode::Fast, Some((reason, remedy))) => Finding::new(
            Severity::Error,
            subject,
            format!("publish.mode is \"fast\", but {reason}"),
            format!("{remedy}, or set publish.mode to \"auto\""),
        ),
    }
}

fn durable(stream: &StreamConfig, subject: String, server: Server) -> Finding {
    let (reason, remedy) = match (server.atomic, stream.allow_atomic_publish) {
        (true, true) => return Finding::note(subject, "publishing in mode durable, as configured"),
        (false, _) => {
            ("the server is older than 2.12.1", "upgrade nats-server to 2.12.1 or later".to_owned())
        }
        (true, false) => {
            ("the stream does not allow it", format!("set allow_atomic to true on {}", stream.name))
        }
    };
    Finding::new(
        Severity::Error,
        subject,
        format!("publish.mode is \"durable\", but {reason}"),
        format!("{remedy}, or set publish.mode to \"auto\""),
    )
}

/// Whether the stream listens to everything that `filter` matches.
pub(in crate::cli) fn is_covered(stream: &StreamConfig, filter: &str) -> bool {
    stream.subjects.iter().any(|subject| covers(subject, filter))
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::{Source, SubjectTransform};

    use super::*;
    use crate::cli::init::tests::config;

    const SERVER: Server = Server { fast: true, atomic: true, max_payload: 1 << 20 };

    fn fit() -> StreamConfig {
        StreamConfig {
            name: "ORDERS".to_owned(),
            subjects: vec!["orders.>".to_owned()],
            discard: DiscardPolicy::New,
            allow_batch_publish: true,
            ..StreamConfig::default()
        }
    }

    fn findings(stream: &StreamConfig, more: &str, server: Server) -> Vec<Finding> {
        let config = config(more);
        let outboxes: Vec<&Outbox> = config.outboxes.iter().collect();
        assess(stream, &outboxes, &config.publish, server)
    }

    #[test]
    fn a_fit_stream_is_published_to_fast() {
        let [note] = findings(&fit(), "", SERVER).try_into().expect("one finding");
        assert_eq!((note.severity, note.problem.as_str()), (Severity::Note, "publishing in mode fast"));
    }

    #[test]
    fn what_a_stream_must_not_be() {
        let transform = SubjectTransform { source: "a".to_owned(), destination: "b".to_owned() };
        for (stream, word) in [
            (StreamConfig { sealed: true, ..fit() }, "sealed"),
            (StreamConfig { mirror: Some(Source::default()), ..fit() }, "mirror"),
            (StreamConfig { sources: Some(vec![Source::default()]), ..fit() }, "sources"),
            (StreamConfig { subject_transform: Some(transform), ..fit() }, "transforms"),
            (StreamConfig { no_ack: true, ..fit() }, "no_ack"),
            (StreamConfig { persist_mode: Some(PersistenceMode::Async), ..fit() }, "persist_mode"),
            (StreamConfig { retention: RetentionPolicy::WorkQueue, ..fit() }, "resumes"),
            (StreamConfig { retention: RetentionPolicy::Interest, ..fit() }, "resumes"),
            (StreamConfig { allow_message_counter: true, ..fit() }, "counters"),
            (StreamConfig { subjects: vec!["orders.*".to_owned()], ..fit() }, "do not cover orders.*.*"),
        ] {
            let findings = findings(&stream, "", SERVER);
            let errors: Vec<&Finding> =
                findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
            let [error] = errors.as_slice() else { panic!("{word}: {findings:?}") };
            assert!(error.problem.contains(word) && !error.remedy.is_empty(), "{error}");
        }
    }

    #[test]
    fn what_a_stream_had_better_not_be() {
        for (stream, word) in [
            (StreamConfig { storage: StorageType::Memory, ..fit() }, "memory"),
            (StreamConfig { max_message_size: 1000, ..fit() }, "1000 bytes"),
            (StreamConfig { discard: DiscardPolicy::Old, max_bytes: 1000, ..fit() }, "drops"),
            (StreamConfig { discard_new_per_subject: true, ..fit() }, "full"),
        ] {
            let findings = findings(&stream, "", SERVER);
            let warning = findings.iter().find(|finding| finding.severity == Severity::Warning).expect(word);
            assert!(warning.problem.contains(word), "{warning}");
        }
    }

    #[test]
    fn which_mode() {
        let old = Server { fast: false, ..SERVER };
        let unbatched = StreamConfig { allow_batch_publish: false, ..fit() };
        let wanted = "[publish]\nmode = \"fast\"\n";
        for (stream, more, server, severity, words) in [
            (&fit(), "", old, Severity::Note, "since the server is older than 2.14"),
            (&unbatched, "", SERVER, Severity::Note, "since the stream does not allow it"),
            (&unbatched, wanted, SERVER, Severity::Error, "the stream does not allow it"),
            (&fit(), wanted, old, Severity::Error, "older than 2.14"),
            (&fit(), "[publish]\nmode = \"pipelined\"\n", SERVER, Severity::Note, "as configured"),
        ] {
            let [finding] = findings(stream, more, server).try_into().expect("one finding");
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.problem.contains(words), "{finding}");
        }
    }
}
