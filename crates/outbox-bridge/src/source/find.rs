//! Questions to a server about its log and tables, and places in the log that have to be looked for.

use std::collections::BTreeSet;

use super::{
    connection::{Connection, ConnectionError, ConnectionErrorKind, DumpRequest, Flavour, Row, quote_string},
    event::{Event, EventError, GtidEvent, PayloadReader, TransactionPayload},
    gtid::GtidSet,
    log::LogOptions,
    servers::identity_of,
};
use crate::{config::TableName, decode::ColumnDefinition};

/// A place that cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The log cannot be read.
    #[error("the log file {file} cannot be read")]
    Event {
        /// The file.
        file: String,
        /// Why.
        source: EventError,
    },
    /// The log does not reach back far enough.
    #[error(
        "the server has purged transactions that follow the set in source.start: {missing}; set source.start to a set that \
         contains them, or to \"earliest\", and publish what is missing from the outbox table itself"
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    Purged { missing: String },
    /// Another server answers.
    #[error("the server is {found} now, and {expected} is being read")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    OtherServer { expected: String, found: String },
    /// An XA transaction was committed whose rows are gone.
    #[error(
        "the XA transaction {xid} is committed, but the log that has its rows (its prepare) is purged: insert its outbox rows \
         again, then continue behind it by deleting the checkpoint and setting source.start"
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    NoPrepare { xid: String },
}

/// A connection to the server that is read. A name may lead to another one by now, whose files mean something else.
pub(super) async fn connect(options: &LogOptions) -> Result<Connection, FindError> {
    let mut connection = Connection::connect(&options.connect).await?;
    let found = identity_of(&mut connection).await?;
    match &options.expected {
        Some(expected) if *expected != found => {
            Err(FindError::OtherServer { expected: expected.clone(), found })
        }
        _ => Ok(connection),
    }
}

/// The end of a server's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The file that is written now.
    pub file: String,
    /// The offset at which the next event will stand.
    pub offset: u64,
    /// The GTIDs of all transactions up to there.
    pub executed: String,
}

/// The identity of a second dump beside the main one.
pub(super) fn second_server_id(server_id: u32) -> u32 {
    (server_id ^ 0x4000_0000).max(1)
}

/// The row of the log's status; `None` if the server writes none.
pub(crate) async fn log_status(connection: &mut Connection) -> Result<Option<Row>, ConnectionError> {
    const UNKNOWN_STATEMENT: u16 = 1064;
    // The name of the statement changed in MySQL 8.2; the old one is gone since 8.4.
    let rows = match connection.server().flavour {
        Flavour::MariaDb => connection.query("SHOW MASTER STATUS").await?,
        Flavour::MySql => match connection.query("SHOW BINARY LOG STATUS").await {
            Err(error) if error.kind() == (ConnectionErrorKind::Server { code: UNKNOWN_STATEMENT }) => {
                connection.query("SHOW MASTER STATUS").await?
            }
            rows => rows?,
        },
    };
    Ok(rows.into_iter().next())
}

/// Where the log ends; `None` if the server writes none.
pub(crate) async fn log_end(connection: &mut Connection) -> Result<Option<LogEnd>, ConnectionError> {
    let flavour = connection.server().flavour;
    let Some(row) = log_status(connection).await? else { return Ok(None) };
    let file = row.get("File").unwrap_or_default().to_owned();
    let offset: u64 = row.get("Position").and_then(|position| position.parse().ok()).unwrap_or(4);
    let executed = match flavour {
        Flavour::MySql => row.get("Executed_Gtid_Set").unwrap_or_default().split_whitespace().collect(),
        Flavour::MariaDb => {
            let sql = format!("SELECT BINLOG_GTID_POS({}, {offset}) AS position", quote_string(&file));
            let rows = connection.query(&sql).await?;
            rows.first().and_then(|row| row.get("position")).unwrap_or_default().to_owned()
        }
    };
    Ok(Some(LogEnd { file, offset, executed }))
}

/// The server's clock, in microseconds since the epoch.
pub(crate) async fn clock_micros(connection: &mut Connection) -> Result<u64, ConnectionError> {
    let sql = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED) AS micros";
    let rows = connection.query(sql).await?;
    let micros = rows.first().and_then(|row| row.get("micros")?.parse().ok());
    micros.ok_or_else(|| ConnectionError::protocol("the server does not tell the time"))
}

/// Where the log ends, as file and offset.
pub(crate) async fn log_place(connection: &mut Connection) -> Result<Option<(String, u64)>, ConnectionError> {
    let row = log_status(connection).await?;
    Ok(row.and_then(|row| Some((row.get("File")?.to_owned(), row.get("Position")?.parse().ok()?))))
}

/// The files of the log, oldest first.
pub(crate) async fn log_files(connection: &mut Connection) -> Result<Vec<String>, ConnectionError> {
    let rows = connection.query("SHOW BINARY LOGS").await?;
    Ok(rows.iter().filter_map(|row| row.get("Log_name").map(str::to_owned)).collect())
}

/// The columns of a table; empty if it does not exist or may not be seen.
pub(crate) async fn table_definition(
    connection: &mut Connection,
    name: &TableName,
) -> Result<Vec<ColumnDefinition>, ConnectionError> {
    let sql = format!(
        "SELECT COLUMN_NAME AS name, COLUMN_TYPE AS type, CHARACTER_SET_NAME AS charset FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY ORDINAL_POSITION",
        quote_string(&name.schema),
        quote_string(&name.table)
    );
    let rows = connection.query(&sql).await?;
    let definition = rows.iter().map(|row| ColumnDefinition {
        name: row.get("name").unwrap_or_default().to_owned(),
        column_type: row.get("type").unwrap_or_default().to_owned(),
        character_set: row.get("charset").map(str::to_owned),
    });
    Ok(definition.collect())
}

/// The file from which on all transactions that are not in `set` can be read: the newest that has only such before it.
pub(super) async fn file_before(
    options: &LogOptions,
    connection: &mut Connection,
    set: &GtidSet,
) -> Result<String, FindError> {
    let mut missing = String::new();
    for file in log_files(connection).await?.into_iter().rev() {
        let before = previous_gtids(options, &file).await?;
        missing = before.missing_from(set);
        if missing.is_empty() {
            return Ok(file);
        }
    }
    Err(FindError::Purged { missing })
}

/// The set at the head of a file.
async fn previous_gtids(options: &LogOptions, file: &str) -> Result<GtidSet, FindError> {
    let connection = connect(options).await?;
    let flavour = connection.server().flavour;
    let bad = |source| FindError::Event { file: file.to_owned(), source };
    let mut dump = connection.dump(scan_request(options, file)).await?;
    while let Some(raw) = dump.next().await? {
        match Event::parse(&raw, flavour).map_err(bad)? {
            Event::PreviousGtids(body) => return GtidSet::from_previous_gtids(&body).map_err(bad),
            Event::GtidList(body) => return GtidSet::from_gtid_list(&body).map_err(bad),
            Event::Gtid(_) => break,
            _ => {}
        }
    }
    Ok(GtidSet::empty(flavour))
}

/// The transactions before a place in the log: what the head of the file says, and what follows up to there. The server's own set will not do,
/// since a transaction comes into the log before it comes into the set.
pub(crate) async fn executed_before(
    options: &LogOptions,
    file: &str,
    offset: u64,
) -> Result<GtidSet, FindError> {
    let connection = connect(options).await?;
    let flavour = connection.server().flavour;
    let mut executed = GtidSet::empty(flavour);
    let mut dump = connection.dump(scan_request(options, file)).await?;
    while let Some(raw) = dump.next().await? {
        let bad = |source| FindError::Event { file: file.to_owned(), source };
        let begins = u64::from(raw.header.end_offset).saturating_sub(u64::from(raw.header.event_size));
        if raw.header.end_offset != 0 && begins >= offset {
            break;
        }
        match Event::parse(&raw, flavour).map_err(bad)? {
            Event::PreviousGtids(body) => executed = GtidSet::from_previous_gtids(&body).map_err(bad)?,
            Event::GtidList(body) => executed = GtidSet::from_gtid_list(&body).map_err(bad)?,
            Event::Gtid(GtidEvent { gtid: Some(gtid), .. }) => executed.add(&gtid),
            Event::Rotate { file: other, .. } if other != file => break,
            _ => {}
        }
    }
    Ok(executed)
}

/// Which of these transactions the log does not have from `file` on: by their very names, since a number of MariaDB's may have
/// been given out twice, on a server that was lost and on the one that took its place.
pub(super) async fn not_shown(
    options: &LogOptions,
    file: &str,
    mut wanted: BTreeSet<String>,
) -> Result<BTreeSet<String>, FindError> {
    let connection = connect(options).await?;
    let flavour = connection.server().flavour;
    let mut dump = connection.dump(scan_request(options, file)).await?;
    while !wanted.is_empty()
        && let Some(raw) = dump.next().await?
    {
        let bad = |source| FindError::Event { file: file.to_owned(), source };
        match Event::parse(&raw, flavour).map_err(bad)? {
            Event::Gtid(gtid) => {
                if let Some(gtid) = gtid.gtid {
                    wanted.remove(&gtid.to_string());
                }
            }
            Event::GtidList(body) => {
                let before = GtidSet::from_gtid_list(&body).map_err(bad)?.to_string();
                for gtid in before.split(',') {
                    wanted.remove(gtid);
                }
            }
            _ => {}
        }
    }
    Ok(wanted)
}

/// Where the rows of a prepared XA transaction stand that was committed at `end`, a file and an offset: looks through the
/// log from there backwards, file by file. What follows `end` does not count, since names are used again.
pub(super) async fn prepare(
    options: &LogOptions,
    end: (&str, u64),
    xid: &str,
) -> Result<(String, u64), FindError> {
    let mut connection = connect(options).await?;
    let flavour = connection.server().flavour;
    let files = log_files(&mut connection).await?;
    let newest = files.iter().position(|file| file == end.0).map_or(files.len(), |position| position + 1);
    for file in files.iter().take(newest).rev() {
        tracing::info!(
            xid,
            file,
            "looking for the rows of an XA transaction that was prepared before the bridge began"
        );
        let connection = connect(options).await?;
        let mut dump = connection.dump(scan_request(options, file)).await?;
        let mut begin = 0;
        let mut found = None;
        while let Some(raw) = dump.next().await? {
            let bad = |source| FindError::Event { file: file.clone(), source };
            match Event::parse(&raw, flavour).map_err(bad)? {
                Event::Gtid(_) => {
                    begin = u64::from(raw.header.end_offset).saturating_sub(u64::from(raw.header.event_size));
                    if *file == end.0 && begin >= end.1 {
                        break;
                    }
                }
                Event::XaPrepare { xid: other, one_phase: false } if other.to_string() == xid => {
                    found = Some(begin)
                }
                Event::TransactionPayload(payload)
                    if prepares(payload.clone(), options.event_bytes_max, flavour, xid).map_err(bad)? =>
                {
                    found = Some(begin);
                }
                Event::Rotate { file: other, .. } if other != *file => break,
                _ => {}
            }
        }
        if let Some(offset) = found {
            return Ok((file.clone(), offset));
        }
    }
    Err(FindError::NoPrepare { xid: xid.to_owned() })
}

/// Whether a compressed transaction is one that prepares `xid`.
fn prepares(
    payload: TransactionPayload,
    event_bytes_max: usize,
    flavour: Flavour,
    xid: &str,
) -> Result<bool, EventError> {
    let mut payload = PayloadReader::new(payload, event_bytes_max)?;
    while let Some(raw) = payload.next_event()? {
        if let Event::XaPrepare { xid: other, one_phase: false } = Event::parse(&raw, flavour)? {
            return Ok(other.to_string() == xid);
        }
    }
    Ok(false)
}

fn scan_request(options: &LogOptions, file: &str) -> DumpRequest {
    DumpRequest {
        server_id: second_server_id(options.server_id),
        file: file.to_owned(),
        offset: 4,
        heartbeat: options.heartbeat,
        non_blocking: true,
    }
}
