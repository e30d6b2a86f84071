//! An outbox table: whether it is there, may be read, and is what the configuration says.

use super::columns::{self, Described, Numbered, Payload};
use super::{account, attempt, is_refusal};
use crate::cli::check::{Finding, Severity};
use crate::config::{Outbox, TableName};
use crate::decode::ColumnDefinition;
use crate::exit::report;
use crate::source::connection::{Connection, ConnectionError, ConnectionErrorKind, Row, quote_string};

/// What was found of one table.
#[derive(Debug, Default)]
pub(in crate::cli) struct Table {
    /// Whether it does not exist, for certain.
    pub(in crate::cli) missing: bool,
    pub(in crate::cli) findings: Vec<Finding>,
    /// How large its payloads can get, if it is there.
    pub(in crate::cli) payload: Option<Payload>,
    /// What stands for its ids, if they are numbers.
    pub(in crate::cli) numbered: Option<Numbered>,
}

impl Table {
    fn of(finding: Finding) -> Self {
        Self { findings: vec![finding], ..Self::default() }
    }
}

/// What a table is called in findings.
pub(super) fn subject(name: &TableName) -> String {
    format!("table {name}")
}

const UNKNOWN_DATABASE: u16 = 1049;
const UNKNOWN_TABLE: u16 = 1146;

/// Asks everything about the table of `outbox`.
pub(in crate::cli) async fn probe(
    connection: &mut Connection,
    outbox: &Outbox,
) -> Result<Table, ConnectionError> {
    let name = &outbox.table;
    let sql = format!("SELECT 1 FROM {} LIMIT 0", name.quoted());
    if let Err(error) = attempt(connection, &sql).await? {
        return match error.kind() {
            ConnectionErrorKind::Server { code: UNKNOWN_DATABASE | UNKNOWN_TABLE } => {
                let problem = match similar(connection, name).await? {
                    Some(other) => format!("does not exist; there is {other}, and case matters here"),
                    None => "does not exist".to_owned(),
                };
                let remedy =
                    "create it: `outbox-bridge init --print table` shows how; or correct table in [[outbox]]";
                let finding = Finding::new(Severity::Error, subject(name), problem, remedy);
                Ok(Table { missing: true, ..Table::of(finding) })
            }
            ConnectionErrorKind::AccessDenied => {
                let account = account(connection).await?;
                let remedy = format!(
                    "GRANT SELECT ON {} TO {account}; if there is no such table, `outbox-bridge init --print table` shows \
                     how to create it",
                    name.quoted()
                );
                let problem = format!("cannot be read, or does not exist ({})", report(&error));
                Ok(Table::of(Finding::new(Severity::Error, subject(name), problem, remedy)))
            }
            _ => Ok(Table::of(unreadable(name, &error))),
        };
    }
    match describe(connection, name).await {
        Ok(Some(described)) => Ok(Table {
            missing: false,
            findings: columns::assess(outbox, &described),
            payload: columns::payload(outbox, &described),
            numbered: columns::numbered(outbox, &described),
        }),
        Ok(None) => {
            let problem = "can be read, but its definition cannot be seen";
            let remedy = "GRANT SELECT on the table itself to the bridge's user, not on a view of it";
            Ok(Table::of(Finding::new(Severity::Error, subject(name), problem, remedy)))
        }
        Err(error) if is_refusal(&error) => Ok(Table::of(unreadable(name, &error))),
        Err(error) => Err(error),
    }
}

fn unreadable(name: &TableName, error: &ConnectionError) -> Finding {
    let problem = format!("cannot be read ({})", report(error));
    Finding::new(Severity::Error, subject(name), problem, "repair what the server complains of")
}

/// A table of nearly this name.
async fn similar(connection: &mut Connection, name: &TableName) -> Result<Option<String>, ConnectionError> {
    let sql = format!(
        "SELECT TABLE_SCHEMA AS s, TABLE_NAME AS t FROM information_schema.TABLES WHERE LOWER(TABLE_SCHEMA) = LOWER({}) \
         AND LOWER(TABLE_NAME) = LOWER({})",
        quote_string(&name.schema),
        quote_string(&name.table)
    );
    let rows = attempt(connection, &sql).await?.unwrap_or_default();
    Ok(rows.first().and_then(|row| Some(format!("{}.{}", row.get("s")?, row.get("t")?))))
}

/// The table's definition; `None` if it may not be seen.
async fn describe(
    connection: &mut Connection,
    name: &TableName,
) -> Result<Option<Described>, ConnectionError> {
    let this = format!(
        "TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote_string(&name.schema),
        quote_string(&name.table)
    );
    let rows = connection
        .query(&format!(
            "SELECT TABLE_SCHEMA AS s, TABLE_NAME AS t, TABLE_TYPE AS kind, ENGINE AS engine FROM \
             information_schema.TABLES WHERE {this}"
        ))
        .await?;
    let Some(table) = rows.first() else { return Ok(None) };
    let text = |row: &Row, column: &str| row.get(column).unwrap_or_default().to_owned();
    let columns = connection
        .query(&format!(
            "SELECT COLUMN_NAME AS name, COLUMN_TYPE AS type, CHARACTER_SET_NAME AS charset, IS_NULLABLE AS nullable, \
             CHARACTER_OCTET_LENGTH AS bytes FROM information_schema.COLUMNS WHERE {this} ORDER BY ORDINAL_POSITION"
        ))
        .await?;
    let columns = columns.iter().map(|row| columns::Column {
        definition: ColumnDefinition {
            name: text(row, "name"),
            column_type: text(row, "type"),
            character_set: row.get("charset").map(str::to_owned),
        },
        nullable: row.get("nullable") == Some("YES"),
        bytes_max: row.get("bytes").and_then(|bytes| bytes.parse().ok()),
    });
    let columns: Vec<_> = columns.collect();
    // A unique index on nothing but one whole column.
    let unique = connection
        .query(&format!(
            "SELECT MIN(COLUMN_NAME) AS name FROM information_schema.STATISTICS WHERE {this} GROUP BY INDEX_NAME \
             HAVING MAX(NON_UNIQUE) = 0 AND COUNT(*) = 1 AND MAX(SUB_PART) IS NULL"
        ))
        .await?;
    let engine = text(table, "engine");
    let engines = connection.query("SHOW ENGINES").await?;
    let transactional = engines
        .iter()
        .any(|row| row.get("Engine") == Some(&*engine) && row.get("Transactions") == Some("YES"));
    Ok(Some(Described {
        name: TableName { schema: text(table, "s"), table: text(table, "t") },
        is_view: table.get("kind").is_some_and(|kind| kind.contains("VIEW")),
        transactional,
        engine,
        columns,
        unique: unique.iter().filter_map(|row| row.get("name").map(str::to_owned)).collect(),
    }))
}
