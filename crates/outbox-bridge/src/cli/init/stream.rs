//! The streams, as JetStream's own configuration.

use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType};

use crate::config::{Config, DeadLetters, PublishMode};

/// The streams of a configuration, in its order, each with the subjects of all its outboxes.
///
/// - Retention by limits and none set: what consumers do must not remove messages, and the last one least of all, since
///   the bridge resumes from it.
/// - When a limit is reached, new messages are refused rather than old ones dropped: the bridge then waits, and the
///   binary log keeps what is to come.
/// - `allow_atomic_publish` where the durable mode is configured.
/// - `allow_batch_publish` for the fast mode. Servers before 2.14 do not know it, and 2.12 refuses what it does not know.
pub(super) fn configurations(config: &Config, replicas: u8) -> Vec<StreamConfig> {
    let mut streams: Vec<StreamConfig> = Vec::new();
    for outbox in &config.outboxes {
        let filter = outbox.subject.subject_filter();
        if let Some(stream) = streams.iter_mut().find(|stream| stream.name == outbox.stream) {
            if !stream.subjects.contains(&filter) {
                stream.subjects.push(filter);
            }
            continue;
        }
        streams.push(StreamConfig {
            name: outbox.stream.clone(),
            subjects: vec![filter],
            description: Some(format!("Outbox events, written by {} alone", config.name)),
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_bytes: -1,
            max_consumers: -1,
            max_message_size: -1,
            num_replicas: usize::from(replicas),
            duplicate_window: std::time::Duration::from_secs(120),
            allow_direct: true,
            allow_batch_publish: true,
            allow_atomic_publish: config.publish.mode == PublishMode::Durable,
            ..StreamConfig::default()
        });
    }
    if let Some(DeadLetters { stream, subject }) = &config.dead_letters {
        streams.push(StreamConfig {
            name: stream.clone(),
            subjects: vec![format!("{subject}.>")],
            description: Some(format!("Rows that {} could not publish", config.name)),
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            max_messages: -1,
            // What becomes of a letter takes its place.
            max_messages_per_subject: 1,
            max_bytes: -1,
            max_consumers: -1,
            max_message_size: -1,
            num_replicas: usize::from(replicas),
            duplicate_window: std::time::Duration::from_secs(120),
            ..StreamConfig::default()
        });
    }
    streams
}

/// One JSON object a stream.
pub(super) fn json(config: &Config, replicas: u8) -> String {
    let objects = configurations(config, replicas);
    objects.iter().map(|stream| serde_json::to_string_pretty(stream).unwrap_or_default() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn one_stream_has_the_subjects_of_all_its_outboxes() {
        let more = "[[outbox]]\ntable = \"a.b\"\nstream = \"ORDERS\"\nsubject = \"more.{id}\"\n\
                    [[outbox]]\ntable = \"a.c\"\nstream = \"ORDERS\"\nsubject = \"more.{type}\"\n\
                    [[outbox]]\ntable = \"a.d\"\nstream = \"BILLS\"\nsubject = \"bills\"\n";
        let streams = configurations(&config(more), 1);
        let subjects: Vec<(&str, Vec<&str>)> = streams
            .iter()
            .map(|stream| (stream.name.as_str(), stream.subjects.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(subjects, [("ORDERS", vec!["orders.*.*", "more.*"]), ("BILLS", vec!["bills"])]);
    }

    #[test]
    fn dead_letters_have_a_stream_of_their_own() {
        let more = "[poison]\naction = \"dead_letter\"\nstream = \"DEAD\"\n";
        let streams = configurations(&config(more), 3);
        let dead = streams.last().expect("a stream");
        assert_eq!(
            (dead.name.as_str(), dead.subjects.as_slice()),
            ("DEAD", ["outbox.dead.>".to_owned()].as_slice())
        );
        assert_eq!((dead.max_messages_per_subject, dead.num_replicas), (1, 3));
    }

    #[test]
    fn the_json_is_jetstreams() {
        let text = json(&config(""), 3);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["name"], "ORDERS");
        assert_eq!(value["retention"], "limits");
        assert_eq!(value["discard"], "new");
        assert_eq!(value["num_replicas"], 3);
        assert_eq!(value["storage"], "file");
        assert_eq!(value["allow_batched"], true);
        assert_eq!(value["duplicate_window"], 120_000_000_000_u64);
    }
}
