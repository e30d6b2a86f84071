//! Where the backfill ends and the log begins. What decides is pure; the questions to the server stand at the end.
//!
//! The hand-over point is a place in the log such that all transactions before it are visible in the snapshot that the
//! tables are read in, and everything from it on can still be read. What the log shows from there on is left to the log,
//! so rows that are both behind the point and in the snapshot are passed over in the table.

use std::{collections::BTreeSet, time::Duration};

use outbox_event::{Position, log_file_number};

use crate::{
    checkpoint::{At, LogPoint},
    publish::Tail,
    source::connection::{Connection, ConnectionError, Flavour, quote_string},
    source::{find::log_end, gtid::GtidSet},
};

/// What stands in a backfilled message's position in the place of a GTID, with the run behind it.
const MARK: &str = "backfill-";
/// Behind a transaction that is done, its own rows have lower numbers than this.
const BEHIND_ROWS: u64 = 1 << 40;
/// How long transactions may take from their place in the log to their visibility.
const OWNED_LIMIT: Duration = Duration::from_secs(60);
const OWNED_PAUSE: Duration = Duration::from_millis(5);

/// Whether a position is one that a backfill made.
pub(crate) fn is_backfilled(position: &Position) -> bool {
    position.gtid.starts_with(MARK)
}

/// What stands in place of a GTID in the positions of one run.
pub(super) fn mark(run: &str) -> String {
    format!("{MARK}{run}")
}

/// The place of the first backfilled row before `point`: behind everything before the point, and before everything that the
/// log has from there on. An offset at which no event can begin, or numbers that no row of the log has.
fn place(point: &LogPoint) -> (u64, u64) {
    match point.at {
        At::Done(_) => (point.offset, BEHIND_ROWS),
        At::Boundary | At::Gtids | At::Pending(_) => (point.offset.saturating_sub(1), 0),
    }
}

/// The offset and the first row number for messages to a stream that ends with `tail`; `None` if the stream ends behind the
/// point. Once the source has `switched` its server, places do not tell that, but GTIDs do.
pub(super) fn first_row(point: &LogPoint, tail: &Tail, switched: bool) -> Option<(u64, u64)> {
    let (offset, row) = place(point);
    let Tail::Message(tail) = tail else { return Some((offset, row)) };
    let file = log_file_number(&point.file)?;
    let (tail_file, tail_offset, tail_row) = tail.position.order()?;
    let backfilled = is_backfilled(&tail.position);
    if (tail_file, tail_offset) == (file, offset) && tail_row >= row && (backfilled || !switched) {
        return backfilled.then(|| (offset, tail_row + 1));
    }
    let before = if switched {
        backfilled || is_executed(point, &tail.position.gtid)
    } else {
        (tail_file, tail_offset, tail_row) < (file, offset, row)
    };
    before.then_some((offset, row))
}

fn is_executed(point: &LogPoint, gtid: &str) -> bool {
    let flavour = if gtid.contains(':') { Flavour::MySql } else { Flavour::MariaDb };
    let executed = point.executed.as_deref().and_then(|text| GtidSet::parse(text, flavour).ok());
    let gtid = GtidSet::parse(gtid, flavour).ok().filter(|_| !gtid.is_empty());
    executed.zip(gtid).is_some_and(|(executed, gtid)| gtid.missing_from(&executed).is_empty())
}

/// A place in the log before which every transaction is visible to a snapshot, and with it the snapshot, which the connection
/// then reads in.
pub(super) async fn open_snapshot(
    connection: &mut Connection,
    server: &str,
) -> Result<Option<LogPoint>, SnapshotError> {
    let point = match connection.server().flavour {
        Flavour::MySql => {
            let Some(end) = log_end(connection).await? else { return Ok(None) };
            await_visible(connection).await?;
            Some((end.file, end.offset, None))
        }
        Flavour::MariaDb => None,
    };
    connection.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let (file, offset, executed) = match point {
        Some(point) => point,
        None => match snapshot_position(connection).await? {
            Some(point) => point,
            None => return Ok(None),
        },
    };
    Ok(Some(LogPoint {
        server: server.to_owned(),
        file,
        offset,
        at: At::Boundary,
        executed,
        prepared: Vec::new(),
        definitions: Default::default(),
    }))
}

/// MariaDB tells which place in the log belongs to the snapshot that was just opened.
async fn snapshot_position(
    connection: &mut Connection,
) -> Result<Option<(String, u64, Option<String>)>, ConnectionError> {
    let rows = connection.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
    let value = |name: &str| {
        rows.iter()
            .find(|row| row.at(0).is_some_and(|variable| variable.eq_ignore_ascii_case(name)))
            .and_then(|row| row.at(1))
    };
    let (Some(file), Some(offset)) = (
        value("binlog_snapshot_file").filter(|file| !file.is_empty()),
        value("binlog_snapshot_position").and_then(|offset| offset.parse::<u64>().ok()),
    ) else {
        return Ok(None);
    };
    let file = file.to_owned();
    let sql = format!("SELECT BINLOG_GTID_POS({}, {offset}) AS position", quote_string(&file));
    let rows = connection.query(&sql).await?;
    let executed = rows.first().and_then(|row| row.get("position")).map(str::to_owned);
    Ok(Some((file, offset, executed)))
}

/// No consistent point can be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Without GTIDs nothing tells when a transaction is visible.
    #[error(
        "the server's gtid_mode is {mode}, and without GTIDs nothing tells which transactions a snapshot shows: set gtid_mode=ON"
    )]
    NoGtids { mode: String },
    /// They take too long.
    #[error(
        "transactions have been in the midst of their commit for {OWNED_LIMIT:?}: {gtids}; try again when they have ended"
    )]
    Committing { gtids: String },
}

/// Waits until every transaction that stands in the log by now is visible to a snapshot. MySQL writes a transaction to the
/// log before it is committed in the engine; in between, and only until both is done, a session owns its GTID.
async fn await_visible(connection: &mut Connection) -> Result<(), SnapshotError> {
    let rows = connection.query("SELECT @@GLOBAL.gtid_mode AS mode").await?;
    let mode = rows.first().and_then(|row| row.get("mode")).unwrap_or_default().to_owned();
    if mode != "ON" {
        return Err(SnapshotError::NoGtids { mode });
    }
    let mut waiting = owned(connection).await?;
    let deadline = tokio::time::Instant::now() + OWNED_LIMIT;
    while !waiting.is_empty() {
        if tokio::time::Instant::now() >= deadline {
            let gtids: Vec<String> = waiting.into_iter().take(3).collect();
            return Err(SnapshotError::Committing { gtids: gtids.join(", ") });
        }
        tokio::time::sleep(OWNED_PAUSE).await;
        let now = owned(connection).await?;
        waiting.retain(|gtid| now.contains(gtid));
    }
    Ok(())
}

async fn owned(connection: &mut Connection) -> Result<BTreeSet<String>, ConnectionError> {
    let rows = connection.query("SELECT @@GLOBAL.gtid_owned AS owned").await?;
    Ok(parse_owned(rows.first().and_then(|row| row.get("owned")).unwrap_or_default()))
}

/// `<uuid>:<number>#<thread>:<number>#<thread>,<uuid>…`, each with its UUID in front.
fn parse_owned(text: &str) -> BTreeSet<String> {
    let of_server = |part: &str| {
        let (server, rest) = part.trim().split_once(':')?;
        Some(rest.split(':').map(|gtid| format!("{server}:{gtid}")).collect::<Vec<_>>())
    };
    text.split(',').filter_map(of_server).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::Transaction, publish::TailMessage};

    fn point(at: At) -> LogPoint {
        LogPoint {
            server: String::new(),
            file: "binlog.000002".into(),
            offset: 100,
            at,
            executed: None,
            prepared: Vec::new(),
            definitions: Default::default(),
        }
    }

    fn tail(position: &str) -> Tail {
        Tail::Message(TailMessage { sequence: 1, position: position.parse().unwrap() })
    }

    #[test]
    fn backfilled_rows_stand_between_what_was_and_what_comes() {
        let boundary = point(At::Boundary);
        let done = point(At::Done(Transaction { gtid: "0-1-7".into(), committed_micros: 0 }));
        for (point, position, first) in [
            (&boundary, "0-1-1@binlog.000002:81/7", Some((99, 0))),
            (&boundary, "0-1-1@binlog.000001:900/7", Some((99, 0))),
            (&boundary, "backfill-x@binlog.000002:99/7", Some((99, 8))),
            (&boundary, "0-1-1@binlog.000002:100/0", None),
            (&boundary, "0-1-1@binlog.000003:4/0", None),
            (&done, "0-1-7@binlog.000002:100/7", Some((100, BEHIND_ROWS))),
            (&done, "backfill-x@binlog.000002:100/1099511627777", Some((100, BEHIND_ROWS + 2))),
            (&done, "0-1-8@binlog.000002:181/0", None),
        ] {
            assert_eq!(first_row(point, &tail(position), false), first, "{position}");
        }
        assert_eq!(first_row(&boundary, &Tail::Empty { last_sequence: 9 }, false), Some((99, 0)));
    }

    #[test]
    fn places_on_another_server_tell_nothing() {
        let point = LogPoint { executed: Some("0-1-7,1-1-3".into()), ..point(At::Boundary) };
        for (position, first) in [
            ("0-1-7@binlog.000009:81/7", Some((99, 0))),
            ("1-1-4@binlog.000001:81/7", None),
            ("backfill-x@binlog.000002:99/7", Some((99, 8))),
            ("backfill-x@binlog.000009:99/7", Some((99, 0))),
        ] {
            assert_eq!(first_row(&point, &tail(position), true), first, "{position}");
        }
    }

    #[test]
    fn owned_gtids_are_told_apart() {
        let owned = parse_owned("a-b:5#10:6#11,\nc-d:5#12");
        assert_eq!(owned.into_iter().collect::<Vec<_>>(), ["a-b:5#10", "a-b:6#11", "c-d:5#12"]);
        assert!(parse_owned("").is_empty());
    }
}
