//! Every metric there is: names, units, meanings, and the handles to record them.
//!
//! Handles are made once and kept, so that recording on the hot path is an atomic addition. Labels are bounded by the
//! configuration (`stream`, `table`) or by the code (`cause`): no value of a row is ever one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::admin::{Board, LastEvent};
use crate::publish::{Chain, Message, PoisonKind};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by buckets.
    Histogram,
}

/// One metric, as documented.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// Its unit.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
}

/// Names.
pub mod names {
    /// Events stored.
    pub const EVENTS_PUBLISHED: &str = "outbox_events_published_total";
    /// Bytes stored.
    pub const PUBLISHED_BYTES: &str = "outbox_published_bytes_total";
    /// Events dropped by the server's duplicate window.
    pub const DUPLICATES: &str = "outbox_duplicates_dropped_total";
    /// Rows that became dead letters.
    pub const DEAD_LETTERS: &str = "outbox_dead_letters_total";
    /// Resumes from the stream's tail.
    pub const RESUMES: &str = "outbox_resumes_total";
    /// Messages in flight.
    pub const IN_FLIGHT_MESSAGES: &str = "outbox_in_flight_messages";
    /// Bytes in flight.
    pub const IN_FLIGHT_BYTES: &str = "outbox_in_flight_bytes";
    /// Latency from commit to stored.
    pub const COMMIT_TO_STORED: &str = "outbox_commit_to_stored_seconds";
    /// How far the stream is behind, in time.
    pub const LAG_SECONDS: &str = "outbox_lag_seconds";
    /// How far the bridge is behind, in the log.
    pub const LAG_BYTES: &str = "outbox_lag_bytes";
    /// The log file that has been reached.
    pub const POSITION_FILE: &str = "outbox_position_file_number";
    /// The offset in it.
    pub const POSITION_OFFSET: &str = "outbox_position_offset_bytes";
    /// Transactions read.
    pub const TRANSACTIONS: &str = "outbox_transactions_total";
    /// Row events of other tables.
    pub const FOREIGN_ROWS: &str = "outbox_foreign_rows_skipped_total";
    /// Connections to the source after the first.
    pub const SOURCE_RECONNECTS: &str = "outbox_source_reconnects_total";
    /// Changes of the source's server.
    pub const SOURCE_SWITCHES: &str = "outbox_source_switches_total";
    /// Connections to NATS after the first.
    pub const NATS_RECONNECTS: &str = "outbox_nats_reconnects_total";
    /// Checkpoints written.
    pub const CHECKPOINT_WRITES: &str = "outbox_checkpoint_writes_total";
    /// Age of the last checkpoint.
    pub const CHECKPOINT_AGE: &str = "outbox_checkpoint_age_seconds";
    /// Rows deleted from outbox tables.
    pub const CLEANUP_DELETED: &str = "outbox_cleanup_deleted_rows_total";
    /// Partitions dropped from outbox tables.
    pub const CLEANUP_PARTITIONS: &str = "outbox_cleanup_dropped_partitions_total";
    /// Failures to delete.
    pub const CLEANUP_ERRORS: &str = "outbox_cleanup_errors_total";
    /// How late the clean-up is.
    pub const CLEANUP_OVERDUE: &str = "outbox_cleanup_overdue_seconds";
    /// Rows that were compared with the stream.
    pub const AUDIT_CHECKED: &str = "outbox_audit_checked_rows_total";
    /// Events that a stream lacks.
    pub const AUDIT_MISSING: &str = "outbox_audit_missing_total";
    /// Events that a stream holds twice.
    pub const AUDIT_DOUBLED: &str = "outbox_audit_doubled_total";
    /// Messages out of order.
    pub const AUDIT_REORDERED: &str = "outbox_audit_reordered_total";
    /// Audits that failed.
    pub const AUDIT_ERRORS: &str = "outbox_audit_errors_total";
    /// Payloads removed from the object store.
    pub const PAYLOADS_REMOVED: &str = "outbox_payloads_removed_total";
    /// Payloads stored in the object store.
    pub const PAYLOADS_STORED: &str = "outbox_payloads_stored_total";
    /// Whether the bridge is ready.
    pub const READY: &str = "outbox_ready_state";
    /// Whether the bridge holds the lease.
    pub const LEADER: &str = "outbox_leader_state";
    /// Bridges that stand by.
    pub const STANDBYS: &str = "outbox_standby_instances";
    /// When the process started.
    pub const START_TIME: &str = "outbox_start_time_seconds";
    /// The version.
    pub const BUILD_INFO: &str = "outbox_build_info";
}

const fn metric(
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, meaning }
}

use MetricKind::{Counter as C, Gauge as G, Histogram as H};

/// Every metric.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric(names::EVENTS_PUBLISHED, C, Unit::Count, &["stream", "table"], "Events that the stream has stored."),
    metric(names::PUBLISHED_BYTES, C, Unit::Bytes, &["stream"], "Bytes of stored messages, headers included."),
    metric(names::DUPLICATES, C, Unit::Count, &["stream"], "Events whose id the stream had already stored within its duplicate window."),
    metric(names::DEAD_LETTERS, C, Unit::Count, &["stream", "reason"], "Rows that could not be published and became dead letters, by reason."),
    metric(names::RESUMES, C, Unit::Count, &["stream", "cause"], "Times that a writer went back to the stream's last message, by cause."),
    metric(names::IN_FLIGHT_MESSAGES, G, Unit::Count, &["stream"], "Messages sent and not yet acknowledged."),
    metric(names::IN_FLIGHT_BYTES, G, Unit::Bytes, &["stream"], "Bytes sent and not yet acknowledged."),
    metric(names::COMMIT_TO_STORED, H, Unit::Seconds, &["stream"], "Time from the commit at the source to the stream's acknowledgement."),
    metric(names::LAG_SECONDS, G, Unit::Seconds, &["stream"], "How long ago the oldest event that is not stored yet was committed; 0 when all are stored."),
    metric(names::LAG_BYTES, G, Unit::Bytes, &[], "Bytes of log between the end of the source's log and what is stored."),
    metric(names::POSITION_FILE, G, Unit::Count, &[], "Number of the log file that everything is stored up to."),
    metric(names::POSITION_OFFSET, G, Unit::Bytes, &[], "Offset in that file."),
    metric(names::TRANSACTIONS, C, Unit::Count, &[], "Committed transactions with rows of outbox tables."),
    metric(names::FOREIGN_ROWS, C, Unit::Count, &[], "Row events of other tables, skipped without being decoded."),
    metric(names::SOURCE_RECONNECTS, C, Unit::Count, &[], "Connections to the source that were lost."),
    metric(names::SOURCE_SWITCHES, C, Unit::Count, &[], "Changes to another server of the source."),
    metric(names::NATS_RECONNECTS, C, Unit::Count, &[], "Connections to NATS that were lost."),
    metric(names::CHECKPOINT_WRITES, C, Unit::Count, &[], "Checkpoints written."),
    metric(names::CHECKPOINT_AGE, G, Unit::Seconds, &[], "Time since the last checkpoint was written."),
    metric(names::CLEANUP_DELETED, C, Unit::Count, &["table"], "Published rows that were deleted from an outbox table."),
    metric(names::CLEANUP_PARTITIONS, C, Unit::Count, &["table"], "Partitions of published rows that were dropped from an outbox table."),
    metric(names::CLEANUP_ERRORS, C, Unit::Count, &["table"], "Times that rows could not be deleted."),
    metric(names::CLEANUP_OVERDUE, G, Unit::Seconds, &["table"], "For how long the oldest row that may be deleted should have been; 0 when none is left."),
    metric(names::AUDIT_CHECKED, C, Unit::Count, &["stream"], "Comparisons of a row with what its stream holds."),
    metric(names::AUDIT_MISSING, C, Unit::Count, &["stream"], "Events that the outbox table has and the stream lacks."),
    metric(names::AUDIT_DOUBLED, C, Unit::Count, &["stream"], "Events that the stream holds more than once."),
    metric(names::AUDIT_REORDERED, C, Unit::Count, &["stream"], "Messages that stand before one that was committed earlier."),
    metric(names::AUDIT_ERRORS, C, Unit::Count, &["stream"], "Audits that could not be made."),
    metric(names::PAYLOADS_STORED, C, Unit::Count, &[], "Payloads that were too large for a message and went to the object store."),
    metric(names::PAYLOADS_REMOVED, C, Unit::Count, &[], "Payloads that were removed from there, since their messages are gone."),
    metric(names::READY, G, Unit::Count, &[], "1 if the bridge is ready, else 0."),
    metric(names::LEADER, G, Unit::Count, &[], "1 if this bridge publishes, 0 if it stands by."),
    metric(names::STANDBYS, G, Unit::Count, &[], "Bridges of this name that stand by, as far as they announce themselves; NaN while that cannot be read."),
    metric(names::START_TIME, G, Unit::Seconds, &[], "When the process started, in seconds since the epoch."),
    metric(names::BUILD_INFO, G, Unit::Count, &["version"], "Always 1; the label says which version runs."),
];

/// Limits of the latency buckets, in seconds.
pub(crate) const LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Starts to record; once in the process's life. Without this call, recording does nothing and costs next to nothing.
///
/// The handle renders `/metrics`; its `run_upkeep` must be called about once a second, or what the histograms have
/// gathered since the last scrape piles up in memory.
///
/// # Errors
///
/// If a recorder has been installed before.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(names::COMMIT_TO_STORED.to_owned()), &LATENCY_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe();
    identify();
    Ok(handle)
}

/// Tells one run of one version from others.
fn identify() {
    gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    gauge!(names::START_TIME).set(now.as_secs_f64());
}

fn describe() {
    for &Metric { name, kind, unit, meaning, .. } in METRICS {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, meaning),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, meaning),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, meaning),
        }
    }
}

/// Handles of one stream's writer.
#[derive(Debug, Clone)]
pub struct StreamMetrics {
    stream: String,
    /// Bytes stored.
    pub published_bytes: Counter,
    /// Events dropped by the duplicate window.
    pub duplicates: Counter,
    /// Messages in flight.
    pub in_flight_messages: Gauge,
    /// Bytes in flight.
    pub in_flight_bytes: Gauge,
    /// Commit to stored, in seconds.
    pub commit_to_stored: Histogram,
    /// Lag in seconds.
    pub lag: Gauge,
    /// Counters of events, by table.
    published: Vec<(Arc<str>, Counter)>,
    /// Where the last of what is counted is shown.
    board: Board,
}

impl StreamMetrics {
    /// Handles for `stream`.
    #[must_use]
    pub fn new(stream: &str) -> Self {
        let label = || [("stream", stream.to_owned())];
        for kind in PoisonKind::ALL {
            // From the start, so that the first one is seen to be an increase.
            counter!(names::DEAD_LETTERS, "stream" => stream.to_owned(), "reason" => kind.label())
                .increment(0);
        }
        Self {
            stream: stream.to_owned(),
            published_bytes: counter!(names::PUBLISHED_BYTES, &label()),
            duplicates: counter!(names::DUPLICATES, &label()),
            in_flight_messages: gauge!(names::IN_FLIGHT_MESSAGES, &label()),
            in_flight_bytes: gauge!(names::IN_FLIGHT_BYTES, &label()),
            commit_to_stored: histogram!(names::COMMIT_TO_STORED, &label()),
            lag: gauge!(names::LAG_SECONDS, &label()),
            published: Vec::new(),
            board: Board::default(),
        }
    }

    /// Shows the last events and resumes on `board`.
    pub(crate) fn show_on(&mut self, board: Board) {
        self.board = board;
    }

    /// The counter of events of `table` (as `schema.table`) in this stream; to be kept.
    pub fn events_published(&self, table: &str) -> Counter {
        counter!(names::EVENTS_PUBLISHED, "stream" => self.stream.clone(), "table" => table.to_owned())
    }

    /// Counts messages that have been stored, the last of them with this sequence.
    pub(crate) fn stored(&mut self, mut messages: impl ExactSizeIterator<Item = Message>, sequence: u64) {
        let time = SystemTime::now();
        let now = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut last = Vec::with_capacity(messages.len().min(Board::events_max()));
        while let Some(message) = messages.next() {
            self.published_bytes.increment(message.size() as u64);
            let committed = Duration::from_micros(message.transaction.committed_micros);
            self.commit_to_stored.record(now.saturating_sub(committed).as_secs_f64());
            match self.published.iter().find(|(table, _)| Arc::ptr_eq(table, &message.table)) {
                Some((_, counter)) => counter.increment(1),
                None => {
                    let counter = self.events_published(&message.table);
                    counter.increment(1);
                    self.published.push((message.table.clone(), counter));
                }
            }
            let behind = messages.len();
            if behind < Board::events_max() {
                last.push(LastEvent::new(message, sequence.saturating_sub(behind as u64), time));
            }
        }
        self.board.stored(&self.stream, last.into_iter());
    }

    /// Shows what is on its way.
    pub(crate) fn in_flight(&self, chain: &Chain) {
        self.in_flight_messages.set(chain.len() as f64);
        self.in_flight_bytes.set(chain.bytes() as f64);
        let lag = chain.get(0).map(|oldest| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            now.saturating_sub(Duration::from_micros(oldest.transaction.committed_micros)).as_secs_f64()
        });
        self.lag.set(lag.unwrap_or(0.0));
    }

    /// Counts a dead letter.
    pub fn parked(&self, kind: PoisonKind) {
        counter!(names::DEAD_LETTERS, "stream" => self.stream.clone(), "reason" => kind.label()).increment(1);
    }

    /// Counts a resume; `cause` is a word of the code, never data.
    pub fn resumed(&self, cause: &'static str) {
        counter!(names::RESUMES, "stream" => self.stream.clone(), "cause" => cause).increment(1);
        self.board.resumed(&self.stream, cause);
    }
}

/// Handles of one table's clean-up.
#[derive(Debug, Clone)]
pub(crate) struct CleanupMetrics {
    /// Deleted rows.
    pub(crate) deleted: Counter,
    /// Dropped partitions.
    pub(crate) partitions: Counter,
    /// Failures.
    pub(crate) errors: Counter,
    /// How late it is, in seconds.
    pub(crate) overdue: Gauge,
}

impl CleanupMetrics {
    /// Handles for `table`.
    pub(crate) fn new(table: &str) -> Self {
        let label = || [("table", table.to_owned())];
        Self {
            deleted: counter!(names::CLEANUP_DELETED, &label()),
            partitions: counter!(names::CLEANUP_PARTITIONS, &label()),
            errors: counter!(names::CLEANUP_ERRORS, &label()),
            overdue: gauge!(names::CLEANUP_OVERDUE, &label()),
        }
    }
}

/// Handles of one stream's audit.
#[derive(Debug, Clone)]
pub(crate) struct AuditMetrics {
    /// Rows compared.
    pub(crate) checked: Counter,
    /// Events missing.
    pub(crate) missing: Counter,
    /// Events held twice.
    pub(crate) doubled: Counter,
    /// Messages out of order.
    pub(crate) reordered: Counter,
    /// Audits that failed.
    pub(crate) errors: Counter,
}

impl AuditMetrics {
    /// Handles for `stream`.
    pub(crate) fn new(stream: &str) -> Self {
        let label = || [("stream", stream.to_owned())];
        Self {
            checked: counter!(names::AUDIT_CHECKED, &label()),
            missing: counter!(names::AUDIT_MISSING, &label()),
            doubled: counter!(names::AUDIT_DOUBLED, &label()),
            reordered: counter!(names::AUDIT_REORDERED, &label()),
            errors: counter!(names::AUDIT_ERRORS, &label()),
        }
    }
}

/// Handles of the object store of large payloads.
#[derive(Debug, Clone)]
pub(crate) struct ClaimCheckMetrics {
    /// Payloads stored.
    pub(crate) stored: Counter,
    /// Payloads removed.
    pub(crate) removed: Counter,
}

impl ClaimCheckMetrics {
    /// The handles.
    pub(crate) fn new() -> Self {
        Self { stored: counter!(names::PAYLOADS_STORED), removed: counter!(names::PAYLOADS_REMOVED) }
    }
}

/// Handles of the bridge as a whole.
#[derive(Debug, Clone)]
pub struct BridgeMetrics {
    /// Lag in bytes of log.
    pub lag_bytes: Gauge,
    /// Number of the log file.
    pub position_file: Gauge,
    /// Offset in it.
    pub position_offset: Gauge,
    /// Transactions with outbox rows.
    pub transactions: Counter,
    /// Row events of other tables.
    pub foreign_rows: Counter,
    /// Lost connections to the source.
    pub source_reconnects: Counter,
    /// Changes of the source's server.
    pub source_switches: Counter,
    /// Lost connections to NATS.
    pub nats_reconnects: Counter,
    /// Checkpoints written.
    pub checkpoint_writes: Counter,
    /// Age of the last checkpoint, in seconds.
    pub checkpoint_age: Gauge,
    /// Whether this bridge publishes.
    pub leader: Gauge,
    /// Bridges that stand by.
    pub standbys: Gauge,
}

impl BridgeMetrics {
    /// The handles.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lag_bytes: gauge!(names::LAG_BYTES),
            position_file: gauge!(names::POSITION_FILE),
            position_offset: gauge!(names::POSITION_OFFSET),
            transactions: counter!(names::TRANSACTIONS),
            foreign_rows: counter!(names::FOREIGN_ROWS),
            source_reconnects: counter!(names::SOURCE_RECONNECTS),
            source_switches: counter!(names::SOURCE_SWITCHES),
            nats_reconnects: counter!(names::NATS_RECONNECTS),
            checkpoint_writes: counter!(names::CHECKPOINT_WRITES),
            checkpoint_age: gauge!(names::CHECKPOINT_AGE),
            leader: gauge!(names::LEADER),
            standbys: gauge!(names::STANDBYS),
        }
    }
}

impl Default for BridgeMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The gauge of readiness.
pub(crate) fn ready() -> Gauge {
    gauge!(names::READY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_pattern() {
        for Metric { name, kind, unit, meaning, .. } in METRICS {
            assert!(name.starts_with("outbox_") && meaning.ends_with('.'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            match unit {
                Unit::Seconds => assert!(name.ends_with("_seconds"), "{name}"),
                Unit::Bytes => assert!(name.contains("bytes"), "{name}"),
                _ => {}
            }
        }
    }

    /// Every metric of the table is recorded by the handles, with the table's labels, and nothing else is.
    #[test]
    fn the_table_is_what_is_recorded() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            let bridge = BridgeMetrics::new();
            CleanupMetrics::new("a.b").deleted.increment(1);
            AuditMetrics::new("S").checked.increment(1);
            ClaimCheckMetrics::new().stored.increment(1);
            let stream = StreamMetrics::new("S");
            stream.events_published("a.b").increment(1);
            stream.resumed("timeout");
            stream.parked(PoisonKind::TooLarge);
            stream.commit_to_stored.record(0.001);
            ready().set(1.0);
            bridge.leader.set(1.0);
            identify();
        });
        let text = handle.render();
        let recorded: std::collections::BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let documented: std::collections::BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(recorded, documented);
        for Metric { name, labels, .. } in METRICS {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            assert!(labels.iter().all(|label| line.contains(&format!("{label}=\""))), "{line}");
        }
    }
}
