//! Clean-up: deletes rows of outbox tables that have been published and are older than the configured retention.
//!
//! What may go is decided by what is stored, never by age alone. A page of keys is read from the table; *then* the place is
//! asked for at which the server's log ends. A server makes a transaction visible only after it has written it to the log, so
//! every row of the page was committed before that place. When the pipeline says afterwards that a checkpoint behind that
//! place is written, all of them are stored, and these keys, no others, are deleted.
//!
//! A row that is a dead letter stays as long as that is not replayed or dropped: the letter may hold less than the row.
//!
//! Of a table that is partitioned by its time, whole partitions are dropped where nothing in them has to stay ([`partitions`]).
//!
//! Rows from before the bridge read the table without a gap ([`Checkpoint::since`](crate::checkpoint::Checkpoint::since))
//! may never have been in a log that was read, and stay.
//!
//! It has a connection of its own and never holds up the pipeline. It never waits for a producer's locks longer than a second,
//! and holds none that a producer's insert needs: it deletes by primary key, at READ COMMITTED, so it locks no gaps.

mod gate;
mod partitions;
mod pass;
mod table;

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

pub(crate) use self::gate::Gate;
pub(crate) use self::table::{Keyed, Misfit, RowKey, probe};
use crate::{
    backoff::Backoff,
    config::{self, Config, Outbox},
    exit::report,
    metrics::CleanupMetrics,
    pipeline::Covered,
    publish::{Letters, WireError},
    source::connection::{ConnectOptions, Connection, ConnectionError, ConnectionErrorKind},
};

/// Keys that are read at once; their texts are what clean-up holds in memory.
const PAGE_ROWS: usize = 4_000;
/// A row without a fraction of a second in its time may say up to so much later than it was inserted.
pub(crate) const ROUNDING_MICROS: u64 = 1_000_000;

/// Locks are given up after a second. Rows are told by the instant of their insert, whatever the server's time zone.
const SESSION: [&str; 3] = [
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1, SESSION sql_safe_updates = 0",
    "SET SESSION time_zone = '+00:00'",
];

/// Why a table cannot be cleaned up now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanupError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Misfit(#[from] Misfit),
    #[error(
        "the session's binlog_format is {0}, so a delete would be written to the log as a statement, which stops the bridge: \
         set binlog_format = ROW on the server"
    )]
    Statements(String),
    #[error("the dead letters cannot be read")]
    Letters(#[from] WireError),
    #[error(
        "a dead letter of a row without an id may be any row's: replay or drop it, as `outbox-bridge dead-letters list` shows it"
    )]
    NamelessLetter,
    /// Everything is delayed; the next pass tries again.
    #[error("no checkpoint covers the rows yet")]
    NotCovered,
}

impl CleanupError {
    /// Whether it goes away without anybody's doing.
    fn passes(&self) -> bool {
        match self {
            Self::Connection(error) => error.is_transient(),
            Self::Letters(error) => error.is_transient(),
            Self::NamelessLetter | Self::NotCovered => true,
            Self::Misfit(_) | Self::Statements(_) => false,
        }
    }
}

/// A table that is cleaned up.
#[derive(Debug)]
struct Cleaned {
    outbox: Outbox,
    retention: Duration,
    metrics: CleanupMetrics,
    /// Up to here there are only rows from before the table was read, which stay.
    floor: Option<RowKey>,
    /// What was said of it last, so that it is said once.
    complaint: Option<String>,
    /// Partitions are not touched before, since producers were in the way.
    partitions_after: Option<Instant>,
}

/// What deletes.
#[derive(Debug)]
pub(crate) struct Cleaner {
    /// The server that is read.
    server: watch::Receiver<ConnectOptions>,
    letters: Option<Letters>,
    settings: config::Cleanup,
    gate: Gate,
    tables: Vec<Cleaned>,
    backoff: Backoff,
}

/// Which rows of a table are old enough, by their time: from the first, before the second, in microseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u64,
    until: u64,
}

impl Span {
    /// Whole seconds at the end: a row that is inserted later has at least this second, even if its column has no fractions.
    fn new(now: u64, since: u64, retention: Duration) -> Self {
        let retention = u64::try_from(retention.as_micros()).unwrap_or(u64::MAX);
        let until = now.saturating_sub(retention);
        Self { from: since.saturating_add(ROUNDING_MICROS), until: until - until % 1_000_000 }
    }

    fn contains(self, created: u64) -> bool {
        (self.from..self.until).contains(&created)
    }
}

impl Cleaner {
    /// What cleans up the tables that have a retention; `None` if there are none.
    pub(crate) fn new(
        config: &Config,
        server: watch::Receiver<ConnectOptions>,
        letters: Option<Letters>,
        covered: watch::Receiver<Option<Covered>>,
    ) -> Option<Self> {
        let cleaned = |outbox: &Outbox| {
            Some(Cleaned {
                outbox: outbox.clone(),
                retention: outbox.retention?,
                metrics: CleanupMetrics::new(&outbox.table.to_string()),
                floor: None,
                complaint: None,
                partitions_after: None,
            })
        };
        let tables: Vec<_> = config.outboxes.iter().filter_map(cleaned).collect();
        let backoff = Backoff::new(config.retry.initial, config.retry.max, rand::random());
        let (settings, gate) = (config.cleanup.clone(), Gate::new(covered));
        (!tables.is_empty()).then(|| Self { server, letters, settings, gate, tables, backoff })
    }

    /// Deletes, for ever.
    pub(crate) async fn run(mut self) {
        let mut connection = None;
        loop {
            let mut lost = false;
            for table in &mut self.tables {
                let options = self.server.borrow_and_update().clone();
                let work = pass::Work { options, letters: self.letters.as_ref(), settings: &self.settings };
                match pass::clean(work, &mut self.gate, table, &mut connection).await {
                    Ok(()) => table.complaint = None,
                    Err(error) => {
                        connection = None;
                        lost |= matches!(error, CleanupError::Connection(_)) && error.passes();
                        table.complain(&error);
                    }
                }
            }
            let wait = if lost { self.backoff.wait() } else { self.settings.interval };
            if !lost {
                self.backoff.reset();
            }
            tokio::time::sleep(wait).await;
        }
    }
}

impl Cleaned {
    fn complain(&mut self, error: &CleanupError) {
        if matches!(error, CleanupError::NotCovered) {
            return tracing::debug!(table = %self.outbox.table, "nothing is deleted: {error}");
        }
        self.metrics.errors.increment(1);
        let text = report(error);
        if self.complaint.as_ref() == Some(&text) {
            return;
        }
        let table = &self.outbox.table;
        if is_read_only(error) {
            tracing::warn!(%table, error = text, "the source is read-only, so clean-up waits");
        } else if error.passes() {
            tracing::warn!(%table, error = text, "cannot delete published rows now");
        } else {
            tracing::error!(%table, error = text, "cannot delete published rows; `outbox-bridge check` says what is missing");
        }
        self.complaint = Some(text);
    }
}

fn is_read_only(error: &CleanupError) -> bool {
    const READ_ONLY: [u16; 3] = [1290, 1792, 1836];
    matches!(error, CleanupError::Connection(error)
        if matches!(error.kind(), ConnectionErrorKind::Server { code } if READ_ONLY.contains(&code)))
}

/// A producer, a deadlock or a change of the table is in the way.
fn is_busy(error: &ConnectionError) -> bool {
    matches!(error.kind(), ConnectionErrorKind::Server { code: 1205 | 1213 })
}

/// A connection that deletes as it should.
pub(crate) async fn connect(options: &ConnectOptions) -> Result<Connection, CleanupError> {
    let mut connection = Connection::connect(options).await?;
    for statement in SESSION {
        connection.execute(statement).await?;
    }
    Ok(connection)
}

async fn refuse_statements(connection: &mut Connection) -> Result<(), CleanupError> {
    let rows = connection.query("SHOW SESSION VARIABLES LIKE 'binlog_format'").await?;
    match rows.first().and_then(|row| row.get("Value")) {
        Some(format) if !format.eq_ignore_ascii_case("ROW") => {
            Err(CleanupError::Statements(format.to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_enough() {
        const SECOND: u64 = 1_000_000;
        let span = Span::new(100 * SECOND + 999_999, 10 * SECOND, Duration::from_secs(20));
        assert_eq!(span, Span { from: 11 * SECOND, until: 80 * SECOND });
        for (created, old) in
            [(10 * SECOND, false), (11 * SECOND, true), (80 * SECOND - 1, true), (80 * SECOND, false)]
        {
            assert_eq!(span.contains(created), old, "{created}");
        }
        // Nothing is old yet, or the clock is wrong.
        assert!(!Span::new(5, 10 * SECOND, Duration::from_secs(20)).contains(0));
    }
}
