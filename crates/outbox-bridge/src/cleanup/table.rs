//! How the rows of an outbox table are told apart, read in pages and deleted: all by the primary key.

use std::fmt::Write as _;

use super::partitions;
use crate::config::{Outbox, TableName, quote_identifier};
use crate::source::connection::{Connection, ConnectionError, Row, quote_string};

/// Why rows of a table cannot be told apart or have no age.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error(
        "table {0} has no primary key, by which rows are deleted: add one, such as `seq` BIGINT UNSIGNED NOT NULL \
         AUTO_INCREMENT PRIMARY KEY, or remove outbox.retention"
    )]
    NoKey(TableName),
    #[error(
        "column {column} of the primary key of table {table} is of type {kind}, by which rows cannot be told apart for \
         certain: use whole numbers, bytes, text or times, or remove outbox.retention"
    )]
    Kind { table: TableName, column: String, kind: String },
    #[error(
        "table {table} has no TIMESTAMP column {column}, which tells how old a row is: add it, as in {column} TIMESTAMP(6) \
         NOT NULL DEFAULT CURRENT_TIMESTAMP(6), name another in outbox.columns.created_at, or remove outbox.retention"
    )]
    NoTime { table: TableName, column: String },
    #[error("a value in the primary key of table {0} is no text")]
    Value(TableName),
}

/// The values of a row's primary key, as literals.
pub(crate) type RowKey = Vec<String>;

/// How a key's values are written in statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Number,
    Text,
    Bytes,
}

/// A table with a primary key and a time.
#[derive(Debug)]
pub(crate) struct Keyed {
    name: TableName,
    /// The columns of the key, in backticks.
    key: Vec<(String, Form)>,
    /// The column with the time, in backticks.
    created: String,
    id: String,
    /// Whether ids are bytes and not text.
    id_is_bytes: bool,
    ordered: bool,
}

impl Keyed {
    /// Asks for the key; `None` if the table keeps no rows.
    pub(crate) async fn read(
        connection: &mut Connection,
        outbox: &Outbox,
    ) -> Result<Option<Self>, super::CleanupError> {
        let name = &outbox.table;
        let (schema, table) = (quote_string(&name.schema), quote_string(&name.table));
        let of = |alias: &str| format!("{alias}TABLE_SCHEMA = {schema} AND {alias}TABLE_NAME = {table}");
        let sql = format!("SELECT ENGINE AS engine FROM information_schema.TABLES WHERE {}", of(""));
        let engine = connection.query(&sql).await?;
        let engine = engine.first().and_then(|row| row.get("engine")).unwrap_or_default();
        if engine.eq_ignore_ascii_case("BLACKHOLE") {
            return Ok(None);
        }
        let sql = format!(
            "SELECT k.COLUMN_NAME AS name, c.DATA_TYPE AS type, c.EXTRA AS extra FROM information_schema.STATISTICS k JOIN \
             information_schema.COLUMNS c ON c.TABLE_SCHEMA = k.TABLE_SCHEMA AND c.TABLE_NAME = k.TABLE_NAME AND \
             c.COLUMN_NAME = k.COLUMN_NAME WHERE {} AND k.INDEX_NAME = 'PRIMARY' ORDER BY k.SEQ_IN_INDEX",
            of("k.")
        );
        let key = connection.query(&sql).await?;
        let created = &outbox.columns.created_at;
        let sql = format!(
            "SELECT COLUMN_NAME AS name, DATA_TYPE AS type FROM information_schema.COLUMNS WHERE {}",
            of("")
        );
        let columns = connection.query(&sql).await?;
        let kind = |column: &str| {
            let of_column =
                |row: &&Row| row.get("name").is_some_and(|name| name.eq_ignore_ascii_case(column));
            columns.iter().find(of_column).and_then(|row| row.get("type")).unwrap_or_default()
        };
        let (time, id) = (kind(created), kind(&outbox.columns.id));
        let column = |row: &Row| {
            let text = |name: &str| row.get(name).unwrap_or_default().to_ascii_lowercase();
            (row.get("name").unwrap_or_default().to_owned(), text("type"), text("extra"))
        };
        let key: Vec<_> = key.iter().map(column).collect();
        Ok(Some(Self::new(outbox, &key, time, id)?))
    }

    fn new(
        outbox: &Outbox,
        key: &[(String, String, String)],
        time: &str,
        id_kind: &str,
    ) -> Result<Self, Misfit> {
        let name = outbox.table.clone();
        let Some((_, _, extra)) = key.first() else { return Err(Misfit::NoKey(name)) };
        let ordered = extra.contains("auto_increment");
        let created = outbox.columns.created_at.clone();
        if !time.eq_ignore_ascii_case("timestamp") {
            return Err(Misfit::NoTime { table: name, column: created });
        }
        let mut columns = Vec::new();
        for (column, kind, _) in key {
            let Some(form) = form(kind) else {
                return Err(Misfit::Kind { table: name, column: column.clone(), kind: kind.clone() });
            };
            columns.push((quote_identifier(column), form));
        }
        let (created, id) = (quote_identifier(&created), quote_identifier(&outbox.columns.id));
        let id_is_bytes =
            id_kind.to_ascii_lowercase().contains("binary") || id_kind.to_ascii_lowercase().contains("blob");
        Ok(Self { name, key: columns, created, id, id_is_bytes, ordered })
    }

    /// Whether a row that was inserted later has the greater key, nearly always.
    pub(crate) fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Keys and times of the next rows behind a key; of these partitions only, if any are named.
    pub(crate) fn page(&self, after: Option<&RowKey>, rows: usize, partitions: &[String]) -> String {
        let condition = after.map(|after| format!(" WHERE {}", self.behind(after))).unwrap_or_default();
        format!("{}{condition} ORDER BY {} LIMIT {rows}", self.select(partitions), self.order(""))
    }

    /// Keys, times and ids of the rows with the greatest keys.
    pub(crate) fn newest(&self, rows: usize) -> String {
        format!("{} ORDER BY {} LIMIT {rows}", self.select(&[]), self.order(" DESC"))
    }

    fn select(&self, partitions: &[String]) -> String {
        let mut sql = "SELECT ".to_owned();
        for (index, (column, _)) in self.key.iter().enumerate() {
            // Writing to a text cannot fail.
            write!(sql, "{column} AS k{index}, ").unwrap_or_default();
        }
        let (created, id, mut table) = (&self.created, &self.id, self.name.quoted());
        if !partitions.is_empty() {
            write!(table, " PARTITION ({})", partitions.join(", ")).unwrap_or_default();
        }
        write!(
            sql,
            "CAST(UNIX_TIMESTAMP({created}) * 1000000 AS UNSIGNED) AS created_micros, {id} AS event_id FROM {table} FORCE \
             INDEX (PRIMARY)"
        )
        .unwrap_or_default();
        sql
    }

    fn order(&self, direction: &str) -> String {
        let columns: Vec<String> =
            self.key.iter().map(|(column, _)| format!("{column}{direction}")).collect();
        columns.join(", ")
    }

    /// Written out, since servers compare rows of values without an index.
    fn behind(&self, after: &RowKey) -> String {
        let mut alternatives = Vec::new();
        let mut equal = String::new();
        for ((column, _), value) in self.key.iter().zip(after) {
            alternatives.push(format!("({equal}{column} > {value})"));
            write!(equal, "{column} = {value} AND ").unwrap_or_default();
        }
        alternatives.join(" OR ")
    }

    /// The key and the time of each row of a page.
    pub(crate) fn rows(&self, rows: &[Row]) -> Result<Vec<(RowKey, Option<u64>)>, Misfit> {
        let parse = |row: &Row| {
            let literal =
                |(index, (_, form)): (usize, &(String, Form))| literal(row, &format!("k{index}"), *form);
            let key: Option<RowKey> = self.key.iter().enumerate().map(literal).collect();
            let created = row.get("created_micros").and_then(|micros| micros.parse().ok());
            Ok((key.ok_or_else(|| Misfit::Value(self.name.clone()))?, created))
        };
        rows.iter().map(parse).collect()
    }

    /// The id that a row's message has, and when the row was inserted.
    pub(crate) fn event(&self, row: &Row) -> Option<(String, u64)> {
        let created = row.get("created_micros")?.parse().ok()?;
        let id = if self.id_is_bytes {
            crate::route::id_of_bytes(row.bytes("event_id")?)
        } else {
            row.get("event_id")?.to_owned()
        };
        Some((id, created))
    }

    /// Deletes these rows, if they still have times between the two. The form with a list of tables is the one that takes an index:
    /// on a small table a server would else read all of it, and wait at each row that somebody has locked.
    pub(crate) fn delete<'a>(&self, keys: impl Iterator<Item = &'a RowKey>, from: u64, until: u64) -> String {
        let rows = match self.key.as_slice() {
            [(column, _)] => {
                let values: Vec<&str> = keys.filter_map(|key| key.first().map(String::as_str)).collect();
                format!("{column} IN ({})", values.join(", "))
            }
            columns => {
                let row = |key: &RowKey| {
                    let equal =
                        columns.iter().zip(key).map(|((column, _), value)| format!("{column} = {value}"));
                    format!("({})", equal.collect::<Vec<_>>().join(" AND "))
                };
                format!("({})", keys.map(row).collect::<Vec<_>>().join(" OR "))
            }
        };
        let micros = format!("UNIX_TIMESTAMP({}) * 1000000", self.created);
        let table = self.name.quoted();
        format!(
            "DELETE {table} FROM {table} FORCE INDEX (PRIMARY) WHERE {rows} AND {micros} >= {from} AND {micros} < {until}"
        )
    }

    /// A statement that needs the same rights and deletes nothing.
    fn delete_nothing(&self) -> String {
        let none = |(_, form): &(String, Form)| {
            match form {
                Form::Number => "0",
                Form::Text => "''",
                Form::Bytes => "X''",
            }
            .to_owned()
        };
        self.delete(std::iter::once(&self.key.iter().map(none).collect()), 1, 0)
    }
}

/// `None` for types whose values do not compare as they are shown, such as floating-point numbers.
fn form(kind: &str) -> Option<Form> {
    match kind {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => Some(Form::Number),
        "char" | "varchar" | "date" | "time" | "datetime" | "timestamp" | "uuid" | "inet4" | "inet6" => {
            Some(Form::Text)
        }
        "binary" | "varbinary" => Some(Form::Bytes),
        _ => None,
    }
}

fn literal(row: &Row, column: &str, form: Form) -> Option<String> {
    match form {
        Form::Text => row.get(column).map(quote_string),
        Form::Number => {
            let text = row.get(column)?;
            let number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
            (!text.is_empty() && text.bytes().all(number)).then(|| text.to_owned())
        }
        Form::Bytes => {
            let mut literal = "X'".to_owned();
            for byte in row.bytes(column)? {
                write!(literal, "{byte:02x}").ok()?;
            }
            literal.push('\'');
            Some(literal)
        }
    }
}

/// What `check` asks of a table whose rows could be cleaned up.
#[derive(Debug)]
pub(crate) struct Needs {
    /// A statement that needs the same rights, and deletes nothing.
    pub(crate) delete: String,
    /// Whether partitions are dropped.
    pub(crate) partitions: bool,
}

/// Whether the rows of a table could be cleaned up, and what that needs; `None` if the table keeps no rows.
pub(crate) async fn probe(
    connection: &mut Connection,
    outbox: &Outbox,
) -> Result<Result<Option<Needs>, Misfit>, ConnectionError> {
    match Keyed::read(connection, outbox).await {
        Ok(None) => Ok(Ok(None)),
        Ok(Some(table)) => {
            let partitions = partitions::read(connection, &outbox.table, &outbox.columns.created_at).await?;
            Ok(Ok(Some(Needs { delete: table.delete_nothing(), partitions: partitions.is_some() })))
        }
        Err(super::CleanupError::Misfit(misfit)) => Ok(Err(misfit)),
        Err(super::CleanupError::Connection(error)) => Err(error),
        Err(_) => Ok(Ok(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn keyed(key: &[(&str, &str, &str)], time: &str) -> Result<Keyed, Misfit> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bridge.toml");
        let text = "[source]\nurl = \"mysql://bridge@db\"\n[nats]\nurl = \"nats://n\"\n[[outbox]]\ntable = \"shop.outbox\"\n\
                    stream = \"ORDERS\"\nsubject = \"orders.{type}\"\n";
        std::fs::write(&path, text).expect("a file");
        let config = Config::load_with(&path, [("", ""); 0]).expect("a configuration");
        let key = key.iter().map(|(name, kind, extra)| ((*name).into(), (*kind).into(), (*extra).into()));
        Keyed::new(&config.outboxes[0], &key.collect::<Vec<_>>(), time, "binary")
    }

    fn key(values: &[&str]) -> RowKey {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn statements_of_a_single_key() {
        let table = keyed(&[("seq", "bigint", "auto_increment")], "timestamp").expect("a key");
        assert!(table.is_ordered());
        assert!(
            table
                .page(None, 10, &[])
                .ends_with("FROM `shop`.`outbox` FORCE INDEX (PRIMARY) ORDER BY `seq` LIMIT 10")
        );
        assert!(
            table.page(Some(&key(&["7"])), 10, &[]).contains(" WHERE (`seq` > 7) ORDER BY `seq` LIMIT 10")
        );
        let of_two = table.page(None, 10, &["`p0`".to_owned(), "`p1`".to_owned()]);
        assert!(of_two.contains("FROM `shop`.`outbox` PARTITION (`p0`, `p1`) FORCE INDEX"), "{of_two}");
        assert_eq!(
            table.delete([key(&["7"]), key(&["9"])].iter(), 1, 2),
            "DELETE `shop`.`outbox` FROM `shop`.`outbox` FORCE INDEX (PRIMARY) WHERE `seq` IN (7, 9) AND \
             UNIX_TIMESTAMP(`created_at`) * 1000000 >= 1 AND UNIX_TIMESTAMP(`created_at`) * 1000000 < 2"
        );
    }

    #[test]
    fn statements_of_a_key_of_several_columns() {
        let table = keyed(&[("a", "varchar", ""), ("b", "int", "")], "TIMESTAMP").expect("a key");
        assert!(!table.is_ordered());
        let page = table.page(Some(&key(&["'x'", "7"])), 10, &[]);
        assert!(
            page.contains(" WHERE (`a` > 'x') OR (`a` = 'x' AND `b` > 7) ORDER BY `a`, `b` LIMIT 10"),
            "{page}"
        );
        let delete = table.delete([key(&["'x'", "7"]), key(&["'y'", "8"])].iter(), 1, 2);
        assert!(
            delete.contains("WHERE ((`a` = 'x' AND `b` = 7) OR (`a` = 'y' AND `b` = 8)) AND "),
            "{delete}"
        );
    }

    #[test]
    fn what_tells_no_rows_apart_is_refused() {
        let refused = |key: &[(&str, &str, &str)], time| keyed(key, time).expect_err("a misfit");
        assert!(matches!(refused(&[], "timestamp"), Misfit::NoKey(_)));
        assert!(matches!(refused(&[("a", "double", "")], "timestamp"), Misfit::Kind { .. }));
        for time in ["datetime", ""] {
            assert!(matches!(refused(&[("a", "int", "")], time), Misfit::NoTime { .. }));
        }
    }
}
