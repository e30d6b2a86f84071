//! Partitions by time: one that is old as a whole is dropped. Its keys are read once, but its rows are neither locked nor
//! logged one by one.
//!
//! A partition says nothing of when its rows were committed, so before the place is asked for at which the log ends, every
//! transaction is awaited that has written to the table by then. What begins later has later times, and goes to other
//! partitions; so all that the old ones will ever hold was committed before that place.

use crate::config::{TableName, quote_identifier};
use crate::source::connection::{Connection, ConnectionError, Row, quote_string};

/// A row's time is that of the statement, which may have waited before it wrote: a partition is old only so much later.
pub(super) const MARGIN_MICROS: u64 = 1_000_000;

/// A partition of a table that is partitioned by ranges of its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// In backticks.
    pub(super) name: String,
    /// All of its rows are earlier, in microseconds since the epoch; `None` if it takes whatever is later than the others.
    bound: Option<u64>,
}

impl Partition {
    /// Whether it holds only rows from before `until`, and none will come any more.
    pub(super) fn is_old(&self, until: u64) -> bool {
        self.bound.is_some_and(|bound| bound.saturating_add(MARGIN_MICROS) <= until)
    }

    /// For how long it has been old at `until`, in microseconds.
    pub(super) fn overdue(&self, until: u64) -> u64 {
        self.bound.map_or(0, |bound| until.saturating_sub(bound.saturating_add(MARGIN_MICROS)))
    }

    /// Whether its rows will never be old as a whole.
    pub(super) fn is_open(&self) -> bool {
        self.bound.is_none()
    }
}

/// The partitions in their order, if the table is partitioned by ranges of `created`.
pub(super) async fn read(
    connection: &mut Connection,
    table: &TableName,
    created: &str,
) -> Result<Option<Vec<Partition>>, ConnectionError> {
    let sql = format!(
        "SELECT PARTITION_NAME AS name, PARTITION_METHOD AS method, PARTITION_EXPRESSION AS expression, \
         PARTITION_DESCRIPTION AS description FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = {} AND \
         TABLE_NAME = {} AND PARTITION_NAME IS NOT NULL ORDER BY PARTITION_ORDINAL_POSITION",
        quote_string(&table.schema),
        quote_string(&table.table)
    );
    let rows = connection.query(&sql).await?;
    let text = |row: &Row, name: &str| row.get(name).unwrap_or_default().to_owned();
    let described = rows.iter().map(|row| {
        [text(row, "name"), text(row, "method"), text(row, "expression"), text(row, "description")]
    });
    Ok(by_time(described, created))
}

fn by_time(rows: impl Iterator<Item = [String; 4]>, created: &str) -> Option<Vec<Partition>> {
    let mut partitions: Vec<Partition> = Vec::new();
    for [name, method, expression, description] in rows {
        let plain: String = expression.to_lowercase().chars().filter(|c| !matches!(c, ' ' | '`')).collect();
        let seconds = format!("unix_timestamp({})", created.to_lowercase());
        if !method.eq_ignore_ascii_case("RANGE")
            || ![&seconds, &format!("floor({seconds})")].contains(&&plain)
        {
            return None;
        }
        let bound = match description.parse::<u64>() {
            Ok(seconds) => Some(seconds.saturating_mul(1_000_000)),
            Err(_) => None,
        };
        let partition = Partition { name: quote_identifier(&name), bound };
        // A partition of several parts has a row for each.
        if partitions.last() != Some(&partition) {
            partitions.push(partition);
        }
    }
    (!partitions.is_empty()).then_some(partitions)
}

/// Comes back when every transaction has ended that had written to the table. Holds producers up as long as it waits, which is
/// a second at most.
pub(super) async fn await_writers(
    connection: &mut Connection,
    table: &TableName,
) -> Result<(), ConnectionError> {
    connection.execute(&format!("LOCK TABLES {} READ", table.quoted())).await?;
    connection.execute("UNLOCK TABLES").await
}

/// Drops partitions.
pub(super) async fn drop(
    connection: &mut Connection,
    table: &TableName,
    partitions: &[&Partition],
) -> Result<(), ConnectionError> {
    let names: Vec<&str> = partitions.iter().map(|partition| partition.name.as_str()).collect();
    connection.execute(&format!("ALTER TABLE {} DROP PARTITION {}", table.quoted(), names.join(", "))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(rows: &[[&str; 4]]) -> Option<Vec<Partition>> {
        by_time(rows.iter().map(|row| row.map(str::to_owned)), "created_at")
    }

    #[test]
    fn only_ranges_of_the_time_are_by_time() {
        let partition = |name: &str, bound| Partition { name: format!("`{name}`"), bound };
        let expression = "floor(unix_timestamp(`created_at`))";
        assert_eq!(
            described(&[
                ["p0", "RANGE", expression, "100"],
                ["p0", "RANGE", expression, "100"],
                ["p1", "RANGE", expression, "200"],
                ["p2", "RANGE", expression, "MAXVALUE"],
            ]),
            Some(vec![
                partition("p0", Some(100_000_000)),
                partition("p1", Some(200_000_000)),
                partition("p2", None)
            ])
        );
        assert!(described(&[["p0", "RANGE", "UNIX_TIMESTAMP(created_at)", "7"]]).is_some());
        for other in [
            ["p0", "RANGE", "seq", "100"],
            ["p0", "RANGE", "floor(unix_timestamp(`updated_at`))", "100"],
            ["p0", "RANGE", "unix_timestamp(`created_at`) DIV 60", "100"],
            ["p0", "HASH", expression, ""],
            ["p0", "LIST", expression, "100"],
        ] {
            assert_eq!(described(&[other]), None, "{other:?}");
        }
        assert_eq!(described(&[]), None);
    }

    #[test]
    fn a_partition_is_old_as_a_whole_or_not_at_all() {
        let of = |bound| Partition { name: "p".to_owned(), bound };
        assert_eq!((of(Some(5_000_000)).overdue(9_000_000), of(None).overdue(9)), (3_000_000, 0));
        assert!(of(Some(5_000_000)).is_old(6_000_000) && !of(Some(5_000_000)).is_old(5_999_999));
        assert!(!of(None).is_old(u64::MAX) && of(None).is_open());
    }
}
