//! The rows of an outbox table as it is now, in the order of a key, as the messages that the log would make of them.
//!
//! Reads chunk by chunk, each a statement of its own that goes on behind the last key, within whatever transaction the
//! connection has open. Values are asked for as text in UTF-8 and in UTC, which is what the log's decoder renders.

use std::sync::Arc;

use super::connection::{Connection, ConnectionError, Flavour, Row, Rows, quote_identifier, quote_string};
use super::find::table_definition;
use crate::{
    decode::{ColumnDefinition, Text, Value},
    publish::{Message, TransactionId},
    route::{Mapping, Route, RouteError},
};

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TableError {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A row that cannot become a message, or a column that is not there.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// No such table.
    #[error(
        "table {table} does not exist, or the bridge's user may not read it: GRANT SELECT ON it, as `outbox-bridge check` says"
    )]
    Missing { table: String },
    /// Not a table with snapshots.
    #[error(
        "table {table} is kept by the engine {engine}, which has no consistent snapshots: only tables of InnoDB can be read"
    )]
    Engine { table: String, engine: String },
    /// No order to read it in.
    #[error(
        "table {table} cannot be read in an order: it needs an AUTO_INCREMENT column with a unique index, or a primary key of numbers, \
         texts, bytes or times{found}"
    )]
    NoOrder { table: String, found: String },
    /// A range that does not fit.
    #[error("{text:?} is no value of {table}'s key column {column}, which is a number")]
    Range { table: String, column: String, text: String },
}

/// How a key's value is written in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Literal {
    Number,
    Text,
    Bytes,
}

/// How a column's text is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Bytes,
    Json,
}

#[derive(Debug)]
struct KeyColumn {
    name: String,
    literal: Literal,
}

/// A part of a table, by its key's first column; both ends belong to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Range {
    /// The least value.
    pub(crate) from: Option<String>,
    /// The greatest value.
    pub(crate) to: Option<String>,
}

/// An outbox table, ready to be read.
#[derive(Debug)]
pub(crate) struct OutboxTable {
    route: Route,
    mapping: Mapping,
    kinds: Vec<Kind>,
    key: Vec<KeyColumn>,
    /// The columns of each statement: the mapped ones, the key's, and the time.
    columns: String,
    conditions: Vec<String>,
    row_bytes_max: usize,
    /// Rows of a table have no transaction; this says nothing.
    transaction: Arc<TransactionId>,
    /// About how many rows it has, as the server estimates.
    pub(crate) rows_estimated: u64,
}

/// The place behind a row: literals of its key.
pub(crate) type Cursor = Vec<String>;

/// A row of the table.
#[derive(Debug)]
pub(crate) struct TableRow {
    /// The message, without position, number and time.
    pub(crate) message: Message,
    /// When the row was made, in microseconds since the epoch, if the table has a `created_at` that says so.
    pub(crate) created_micros: Option<u64>,
    /// The place behind it.
    pub(crate) cursor: Cursor,
}

/// Prepares the connection's session: times in UTC, and patience while what was read is published.
pub(crate) async fn prepare_session(connection: &mut Connection) -> Result<(), ConnectionError> {
    connection
        .execute(
            "SET SESSION time_zone = '+00:00', SESSION net_write_timeout = 86400, SESSION wait_timeout = 86400",
        )
        .await?;
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await
}

impl OutboxTable {
    /// Learns what must be known of a route's table; `None` if it stores nothing (`ENGINE=BLACKHOLE`).
    ///
    /// # Errors
    ///
    /// See [`TableError`].
    pub(crate) async fn describe(
        connection: &mut Connection,
        route: Route,
        range: &Range,
        row_bytes_max: usize,
    ) -> Result<Option<Self>, TableError> {
        let name = route.name().clone();
        let table = name.to_string();
        let place = format!(
            "TABLE_SCHEMA = {} AND TABLE_NAME = {}",
            quote_string(&name.schema),
            quote_string(&name.table)
        );
        let sql = format!(
            "SELECT ENGINE AS engine, TABLE_ROWS AS estimate FROM information_schema.TABLES WHERE {place}"
        );
        let rows = connection.query(&sql).await?;
        let Some(row) = rows.first() else { return Err(TableError::Missing { table }) };
        let engine = row.get("engine").unwrap_or_default().to_owned();
        if engine.eq_ignore_ascii_case("BLACKHOLE") {
            return Ok(None);
        }
        if !engine.eq_ignore_ascii_case("InnoDB") {
            return Err(TableError::Engine { table, engine });
        }
        let rows_estimated = row.get("estimate").and_then(|rows| rows.parse().ok()).unwrap_or(0);
        let definition = table_definition(connection, &name).await?;
        let mapping = route.map(definition.iter().map(|column| column.name.as_str()))?;
        let flavour = connection.server().flavour;
        let mapped: Vec<&ColumnDefinition> =
            mapping.projection.iter().filter_map(|index| definition.get(*index)).collect();
        let kinds = mapped.iter().map(|column| kind_of(column, flavour)).collect();
        let key = find_key(connection, &place, &table, &definition).await?;
        let mut columns: Vec<String> = mapped.iter().map(|column| quote_identifier(&column.name)).collect();
        columns.extend(key.iter().map(|column| quote_identifier(&column.name)));
        let created = definition.iter().find(|column| {
            column.name.eq_ignore_ascii_case(route.created_at()) && base(column) == "timestamp"
        });
        columns.push(created.map_or_else(
            || "NULL".to_owned(),
            |column| {
                format!("CAST(UNIX_TIMESTAMP({}) * 1000000 AS UNSIGNED)", quote_identifier(&column.name))
            },
        ));
        let mut described = Self {
            route,
            mapping,
            kinds,
            key,
            columns: columns.join(", "),
            conditions: Vec::new(),
            row_bytes_max,
            transaction: Arc::new(TransactionId {
                gtid: String::new(),
                file: "".into(),
                file_number: 0,
                offset: 0,
                committed_micros: 0,
            }),
            rows_estimated,
        };
        for (operator, bound) in [(">=", &range.from), ("<=", &range.to)] {
            let Some(bound) = bound else { continue };
            let condition = described.bound(operator, bound, &table)?;
            described.conditions.push(condition);
        }
        Ok(Some(described))
    }

    fn bound(&self, operator: &str, text: &str, table: &str) -> Result<String, TableError> {
        let Some(column) = self.key.first() else {
            return Err(TableError::NoOrder { table: table.to_owned(), found: String::new() });
        };
        let number = text.strip_prefix('-').unwrap_or(text);
        let literal = match column.literal {
            Literal::Number if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(TableError::Range {
                    table: table.to_owned(),
                    column: column.name.clone(),
                    text: text.to_owned(),
                });
            }
            Literal::Number => text.to_owned(),
            Literal::Text => quote_string(text),
            Literal::Bytes => match uuid::Uuid::parse_str(text) {
                Ok(uuid) => bytes_literal(uuid.as_bytes()),
                Err(_) => quote_string(text),
            },
        };
        Ok(format!("{} {operator} {literal}", quote_identifier(&column.name)))
    }

    /// The table, as `schema.table`.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.route.table
    }

    /// The stream's index.
    pub(crate) fn stream(&self) -> usize {
        self.route.stream
    }

    /// Begins to read at most `limit` rows behind `after`.
    ///
    /// # Errors
    ///
    /// If the server refuses or the connection fails.
    pub(crate) async fn chunk<'c>(
        &self,
        connection: &'c mut Connection,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Rows<'c>, ConnectionError> {
        let name = self.route.name();
        let order: Vec<String> = self.key.iter().map(|column| quote_identifier(&column.name)).collect();
        let mut conditions = self.conditions.clone();
        conditions.extend(after.map(|after| behind(&order, after)));
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {} ", conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {} FROM {}.{} {condition}ORDER BY {} LIMIT {limit}",
            self.columns,
            quote_identifier(&name.schema),
            quote_identifier(&name.table),
            order.join(", ")
        );
        connection.stream(&sql, self.row_bytes_max).await
    }

    /// What a row of a chunk becomes.
    ///
    /// # Errors
    ///
    /// If it cannot become a message, as in the log.
    pub(crate) fn row(&self, row: &Row) -> Result<TableRow, RouteError> {
        let values: Vec<Value> = self
            .kinds
            .iter()
            .enumerate()
            .map(|(index, kind)| match (row.shared(index), kind) {
                (None, _) => Value::Null,
                (Some(bytes), Kind::Bytes) => Value::Bytes(bytes),
                (Some(bytes), kind) => match Text::from_utf8(bytes) {
                    Ok(text) if *kind == Kind::Json => Value::Json(text),
                    Ok(text) => Value::Text(text),
                    Err(bytes) => Value::Bytes(bytes),
                },
            })
            .collect();
        let message = self.route.message(&self.mapping, &values, &self.transaction)?;
        let created_micros = row.at(self.kinds.len() + self.key.len()).and_then(|text| text.parse().ok());
        Ok(TableRow { message, created_micros, cursor: self.cursor(row) })
    }

    /// The place behind a row of a chunk, whether it can become a message or not.
    pub(crate) fn cursor(&self, row: &Row) -> Cursor {
        let keys = self.kinds.len()..self.kinds.len() + self.key.len();
        let literal = |(index, column): (usize, &KeyColumn)| {
            let bytes = row.shared(index).unwrap_or_default();
            match column.literal {
                Literal::Bytes => bytes_literal(&bytes),
                Literal::Number => String::from_utf8_lossy(&bytes).into_owned(),
                Literal::Text => quote_string(&String::from_utf8_lossy(&bytes)),
            }
        };
        keys.zip(&self.key).map(literal).collect()
    }
}

/// The condition that a row stands behind `after` in the order of the key, in a form that servers answer from the index.
fn behind(key: &[String], after: &[String]) -> String {
    let pairs: Vec<(&String, &String)> = key.iter().zip(after).collect();
    let mut condition = String::new();
    for (depth, (column, literal)) in pairs.iter().enumerate().rev() {
        condition = if depth + 1 == pairs.len() {
            format!("{column} > {literal}")
        } else {
            format!("{column} >= {literal} AND ({column} > {literal} OR ({condition}))")
        };
    }
    condition
}

fn bytes_literal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("X'{digits}'")
}

/// A column's type without length and attributes, in small letters.
fn base(column: &ColumnDefinition) -> String {
    let end = column.column_type.find(|character: char| !character.is_ascii_alphanumeric());
    let base = end.and_then(|end| column.column_type.get(..end)).unwrap_or(&column.column_type);
    base.to_ascii_lowercase()
}

fn kind_of(column: &ColumnDefinition, flavour: Flavour) -> Kind {
    match base(column).as_str() {
        "json" if flavour == Flavour::MySql => Kind::Json,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit" | "vector"
        | "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => Kind::Bytes,
        _ => Kind::Text,
    }
}

/// The columns by which the table is read: an AUTO_INCREMENT that is a unique index by itself, or else the primary key.
async fn find_key(
    connection: &mut Connection,
    place: &str,
    table: &str,
    definition: &[ColumnDefinition],
) -> Result<Vec<KeyColumn>, TableError> {
    let sql = format!(
        "SELECT s.INDEX_NAME AS name, s.COLUMN_NAME AS part, c.EXTRA AS extra FROM information_schema.STATISTICS s \
         JOIN information_schema.COLUMNS c USING (TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME) \
         WHERE {place} AND s.NON_UNIQUE = 0 AND c.IS_NULLABLE = 'NO' AND s.SUB_PART IS NULL \
         ORDER BY s.INDEX_NAME, s.SEQ_IN_INDEX"
    );
    let parts = connection.query(&sql).await?;
    let of =
        |index: &str| -> Vec<&Row> { parts.iter().filter(|part| part.get("name") == Some(index)).collect() };
    let counts = |part: &&Row| {
        let extra = part.get("extra").unwrap_or_default().to_ascii_lowercase();
        extra.contains("auto_increment") && of(part.get("name").unwrap_or_default()).len() == 1
    };
    let columns = match parts.iter().find(counts) {
        Some(counter) => vec![counter],
        None => of("PRIMARY"),
    };
    let no_order = |found: String| TableError::NoOrder { table: table.to_owned(), found };
    if columns.is_empty() {
        return Err(no_order(", and has neither".to_owned()));
    }
    let key_column = |part: &Row| {
        let name = part.get("part").unwrap_or_default();
        let column = definition.iter().find(|column| column.name == name);
        let base = column.map(base).unwrap_or_default();
        let literal = match base.as_str() {
            "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "decimal" | "numeric" => {
                Literal::Number
            }
            "binary" | "varbinary" => Literal::Bytes,
            "char" | "varchar" | "date" | "datetime" | "timestamp" | "uuid" => Literal::Text,
            other => return Err(no_order(format!(", and its key has column {name} of type {other}"))),
        };
        Ok(KeyColumn { name: name.to_owned(), literal })
    };
    columns.into_iter().map(key_column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_composite_key_is_passed_column_by_column() {
        let text = |text: &str| text.to_owned();
        assert_eq!(behind(&[text("`a`")], &[text("1")]), "`a` > 1");
        assert_eq!(
            behind(&[text("`a`"), text("`b`")], &[text("1"), text("'x'")]),
            "`a` >= 1 AND (`a` > 1 OR (`b` > 'x'))"
        );
    }

    #[test]
    fn types_are_told_by_their_base() {
        let column = |column_type: &str| ColumnDefinition {
            name: "c".into(),
            column_type: column_type.into(),
            character_set: None,
        };
        assert_eq!(base(&column("BIGINT(20) unsigned")), "bigint");
        assert_eq!(kind_of(&column("binary(16)"), Flavour::MySql), Kind::Bytes);
        assert_eq!(kind_of(&column("json"), Flavour::MySql), Kind::Json);
        assert_eq!(kind_of(&column("varchar(3)"), Flavour::MySql), Kind::Text);
    }
}
