//! Rows that a stream is known to hold, by what names them on every server: the transaction's GTID and the row's number in it.

use std::collections::HashMap;

use outbox_event::Position;

use super::Message;

/// Rows that a stream holds and that the log will show again, in whatever order.
///
/// Positions of two servers' logs cannot be compared, since a server may commit what it replicates in another order; GTIDs
/// can. Consecutive rows of a transaction take no more memory than one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredRows {
    /// By GTID, the first and the last of rows that follow each other.
    transactions: HashMap<String, Vec<(u64, u64)>>,
    left: u64,
}

impl StoredRows {
    /// Adds the row at `position`. `false` if it has no GTID, so that nothing names it on another server.
    pub fn add(&mut self, position: &Position) -> bool {
        if position.gtid.is_empty() || self.has(&position.gtid, position.row) {
            return !position.gtid.is_empty();
        }
        let row = position.row;
        let ranges = match self.transactions.get_mut(&position.gtid) {
            Some(ranges) => ranges,
            None => self.transactions.entry(position.gtid.clone()).or_default(),
        };
        match ranges
            .iter_mut()
            .find(|(first, last)| row.checked_add(1) == Some(*first) || row.checked_sub(1) == Some(*last))
        {
            Some((first, last)) => (*first, *last) = ((*first).min(row), (*last).max(row)),
            None => ranges.push((row, row)),
        }
        self.left += 1;
        true
    }

    fn has(&self, gtid: &str, row: u64) -> bool {
        let ranges = self.transactions.get(gtid).map_or(&[][..], Vec::as_slice);
        ranges.iter().any(|(first, last)| (*first..=*last).contains(&row))
    }

    /// Whether the stream holds this message. The log shows each once.
    pub(super) fn see(&mut self, message: &Message) -> bool {
        let has = self.left > 0 && self.has(&message.transaction.gtid, message.row);
        self.left -= u64::from(has);
        has
    }

    /// How many of the rows the log has not shown yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The GTIDs of the transactions.
    pub fn gtids(&self) -> impl Iterator<Item = &str> {
        self.transactions.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(gtid: &str, row: u64) -> Position {
        Position { gtid: gtid.into(), file: "binlog.000001".into(), offset: 4, row }
    }

    #[test]
    fn rows_are_kept_as_ranges_and_each_counts_once() {
        let mut rows = StoredRows::default();
        for row in [9, 8, 7, 2, 8] {
            assert!(rows.add(&position("a:1", row)));
        }
        assert!(rows.add(&position("a:2", 0)));
        assert!(!rows.add(&position("", 0)), "nothing names it elsewhere");
        assert_eq!((rows.left(), rows.transactions["a:1"].len()), (5, 2));
        for (gtid, row, has) in
            [("a:1", 7, true), ("a:1", 6, false), ("a:1", 2, true), ("a:3", 0, false), ("a:2", 0, true)]
        {
            assert_eq!(rows.has(gtid, row), has, "{gtid}/{row}");
        }
        assert_eq!(rows.gtids().count(), 2);
    }
}
