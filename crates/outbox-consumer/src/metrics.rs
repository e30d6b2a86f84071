//! The names of all metrics, and one consumer's handles to them.
//!
//! Labels are `stream` and `consumer`, and `partition` for the lag of a partitioned consumer: all bounded by the
//! configuration.

use metrics::Unit;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::partition::Partition;

/// Messages whose handler ran and whose effects are committed.
pub const HANDLED: &str = "outbox_consumer_handled_messages_total";
/// Failed attempts after which the message is tried again.
pub const RETRIED: &str = "outbox_consumer_retried_messages_total";
/// Messages that became dead letters.
pub const DEAD_LETTERED: &str = "outbox_consumer_dead_lettered_messages_total";
/// Messages among them that were not tried, since a dead letter of their key stood before them.
pub const PARKED: &str = "outbox_consumer_parked_messages_total";
/// Messages that the inbox knew already.
pub const DUPLICATES: &str = "outbox_consumer_duplicate_messages_total";
/// Messages of types without a handler that were acknowledged.
pub const IGNORED: &str = "outbox_consumer_ignored_messages_total";
/// Messages that are being handled now.
pub const IN_PROGRESS: &str = "outbox_consumer_in_progress_messages";
/// How long handling took, from the inbox's begin to the last acknowledgement.
pub const HANDLING: &str = "outbox_consumer_handling_seconds";
/// Messages of the stream that were not delivered yet, as of the last delivery.
pub const LAG: &str = "outbox_consumer_lag_messages";
/// 1 while fetching pauses since the inbox is unavailable.
pub const PAUSED: &str = "outbox_consumer_paused";

/// One consumer's metrics.
pub(crate) struct Metrics {
    pub(crate) handled: Counter,
    pub(crate) retried: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) parked: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) ignored: Counter,
    pub(crate) in_progress: Gauge,
    pub(crate) handling: Histogram,
    pub(crate) lag: Gauge,
    pub(crate) paused: Gauge,
}

impl Metrics {
    pub(crate) fn new(stream: &str, consumer: &str, partition: Partition) -> Self {
        describe_counter!(HANDLED, Unit::Count, "messages whose effects are committed");
        describe_counter!(RETRIED, Unit::Count, "failed attempts after which the message is tried again");
        describe_counter!(DEAD_LETTERED, Unit::Count, "messages that became dead letters");
        describe_counter!(PARKED, Unit::Count, "messages put behind a dead letter of their key");
        describe_counter!(DUPLICATES, Unit::Count, "messages that the inbox knew already");
        describe_counter!(IGNORED, Unit::Count, "messages of types without a handler");
        describe_gauge!(IN_PROGRESS, Unit::Count, "messages that are being handled");
        describe_histogram!(HANDLING, Unit::Seconds, "how long handling took");
        describe_gauge!(LAG, Unit::Count, "messages that were not delivered yet");
        describe_gauge!(PAUSED, Unit::Count, "1 while the inbox is unavailable");
        let labels = [("stream", stream.to_owned()), ("consumer", consumer.to_owned())];
        let mut lag_labels = labels.to_vec();
        if partition != Partition::All {
            lag_labels.push(("partition", partition.token()));
        }
        Self {
            handled: counter!(HANDLED, &labels),
            retried: counter!(RETRIED, &labels),
            dead_lettered: counter!(DEAD_LETTERED, &labels),
            parked: counter!(PARKED, &labels),
            duplicates: counter!(DUPLICATES, &labels),
            ignored: counter!(IGNORED, &labels),
            in_progress: gauge!(IN_PROGRESS, &labels),
            handling: histogram!(HANDLING, &labels),
            lag: gauge!(LAG, &lag_labels),
            paused: gauge!(PAUSED, &labels),
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
