//! What the events of a log say, apart from rows.
//!
//! Pure. Only what decides about transactions is read; bodies of rows and table maps are classified and left as they are.

mod bytes;
mod gtid_event;
mod payload;
mod statement;
#[cfg(test)]
mod tests;

use ::bytes::Bytes;

pub(crate) use self::bytes::Reader;
pub use self::{
    gtid_event::GtidEvent,
    payload::{PayloadReader, TransactionPayload},
    statement::{QueryEvent, Statement, Xid},
};
use super::{HEADER_SIZE, RawEvent, connection::Flavour};
use crate::decode::{RowsKind, event_type};

/// Type codes of events.
///
/// Sources: <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html>,
/// <https://mariadb.com/docs/server/reference/clientserver-protocol/replication-protocol>.
pub mod code {
    /// `QUERY_EVENT`.
    pub const QUERY: u8 = 2;
    /// `ROTATE_EVENT`.
    pub const ROTATE: u8 = 4;
    /// `FORMAT_DESCRIPTION_EVENT`.
    pub const FORMAT_DESCRIPTION: u8 = 15;
    /// `XID_EVENT`: a commit.
    pub const XID: u8 = 16;
    /// `EXECUTE_LOAD_QUERY_EVENT`: `LOAD DATA` in statement format.
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    /// `INCIDENT_EVENT`.
    pub const INCIDENT: u8 = 26;
    /// `GTID_LOG_EVENT`.
    pub const GTID: u8 = 33;
    /// `ANONYMOUS_GTID_LOG_EVENT`.
    pub const ANONYMOUS_GTID: u8 = 34;
    /// `PREVIOUS_GTIDS_LOG_EVENT`.
    pub const PREVIOUS_GTIDS: u8 = 35;
    /// `XA_PREPARE_LOG_EVENT`.
    pub const XA_PREPARE: u8 = 38;
    /// `TRANSACTION_PAYLOAD_EVENT`.
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    /// `GTID_TAGGED_LOG_EVENT`.
    pub const GTID_TAGGED: u8 = 42;
    /// MariaDB's `GTID_EVENT`.
    pub const MARIADB_GTID: u8 = 162;
    /// MariaDB's `GTID_LIST_EVENT`.
    pub const MARIADB_GTID_LIST: u8 = 163;
    /// MariaDB's `QUERY_COMPRESSED_EVENT`.
    pub const MARIADB_QUERY_COMPRESSED: u8 = 165;

    /// Events that decide nothing: `STOP`, `INTVAR`, `RAND`, `USER_VAR`, `BEGIN_LOAD_QUERY` (the statement follows),
    /// `HEARTBEAT`, `IGNORABLE`, `ROWS_QUERY`, group replication's `TRANSACTION_CONTEXT` and `VIEW_CHANGE`,
    /// `HEARTBEAT` version 2; MariaDB's `ANNOTATE_ROWS`, `BINLOG_CHECKPOINT` and `START_ENCRYPTION`.
    pub(super) const HARMLESS: [u8; 14] = [3, 5, 13, 14, 17, 27, 28, 29, 36, 37, 41, 160, 161, 164];
    /// `LOG_EVENT_IGNORABLE_F`: who does not know the event may pass over it.
    pub(super) const IGNORABLE: u16 = 0x80;
}

/// An event that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {why}")]
pub struct EventError {
    what: &'static str,
    why: &'static str,
}

impl EventError {
    pub(crate) fn new(what: &'static str, why: &'static str) -> Self {
        Self { what, why }
    }
}

/// An event, as far as it matters.
#[derive(Debug, Clone)]
pub enum Event {
    /// The log goes on in another file.
    Rotate {
        /// The file.
        file: String,
        /// The offset in it.
        offset: u64,
    },
    /// A file begins.
    FormatDescription,
    /// A transaction begins.
    Gtid(GtidEvent),
    /// MySQL's set of all transactions in earlier files, unparsed.
    PreviousGtids(Bytes),
    /// MariaDB's list of the same.
    GtidList(Bytes),
    /// A statement.
    Query(QueryEvent),
    /// The transaction is committed.
    Xid,
    /// The XA transaction is prepared, or committed in one phase.
    XaPrepare {
        /// Its XID.
        xid: Xid,
        /// It is committed.
        one_phase: bool,
    },
    /// Which table the rows after it belong to, unparsed.
    TableMap(Bytes),
    /// Rows, unparsed.
    Rows(RowsKind),
    /// A compressed transaction.
    TransactionPayload(TransactionPayload),
    /// Events are missing.
    Incident {
        /// What the server says about it.
        message: String,
    },
    /// What does not matter: heartbeats, comments, variables, checkpoints of the log.
    Other,
}

impl Event {
    /// Reads an event of a server of this flavour.
    ///
    /// # Errors
    ///
    /// If the event is malformed.
    pub fn parse(raw: &RawEvent, flavour: Flavour) -> Result<Self, EventError> {
        let body = &raw.body;
        Ok(match raw.header.event_type {
            event_type::TABLE_MAP => Self::TableMap(body.clone()),
            code if RowsKind::of(code).is_some() => {
                Self::Rows(RowsKind::of(code).unwrap_or(RowsKind::Insert))
            }
            code::QUERY => Self::Query(QueryEvent::parse(body)?),
            code::EXECUTE_LOAD_QUERY => Self::Query(QueryEvent::parse_load(body)?),
            code::XID => Self::Xid,
            code::GTID | code::ANONYMOUS_GTID => Self::Gtid(GtidEvent::parse_mysql(raw)?),
            code::GTID_TAGGED => Self::Gtid(GtidEvent::parse_tagged(raw)?),
            code::MARIADB_GTID if flavour == Flavour::MariaDb => Self::Gtid(GtidEvent::parse_mariadb(raw)?),
            code::MARIADB_GTID_LIST if flavour == Flavour::MariaDb => Self::GtidList(body.clone()),
            code::MARIADB_QUERY_COMPRESSED if flavour == Flavour::MariaDb => {
                Self::Query(QueryEvent::parse_compressed(body)?)
            }
            code::TRANSACTION_PAYLOAD => Self::TransactionPayload(TransactionPayload::parse(body)?),
            code::XA_PREPARE => {
                let mut reader = Reader::new("an XA prepare event", body);
                let one_phase = reader.u8()? != 0;
                let format = reader.u32()?;
                let (gtrid, bqual) = (reader.u32()?, reader.u32()?);
                let gtrid = reader.length(u64::from(gtrid))?;
                let gtrid = reader.take(gtrid)?.to_vec();
                let bqual = reader.length(u64::from(bqual))?;
                let bqual = reader.take(bqual)?.to_vec();
                Self::XaPrepare { xid: Xid { gtrid, bqual, format }, one_phase }
            }
            code::ROTATE => {
                let mut reader = Reader::new("a rotate event", body);
                let offset = reader.u64()?;
                let file = std::str::from_utf8(reader.rest())
                    .map_err(|_| reader.fail("the file's name is not UTF-8"))?;
                Self::Rotate { file: file.to_owned(), offset }
            }
            code::FORMAT_DESCRIPTION => {
                // Version, server version, creation time, and then the length of event headers.
                let mut reader = Reader::new("a format description event", body);
                let version = reader.u16()?;
                reader.take(50 + 4)?;
                if version != 4 || usize::from(reader.u8()?) != HEADER_SIZE {
                    return Err(reader.fail("the log has another format than version 4"));
                }
                Self::FormatDescription
            }
            code::PREVIOUS_GTIDS => Self::PreviousGtids(body.clone()),
            code::INCIDENT => {
                let mut reader = Reader::new("an incident event", body);
                let number = reader.u16()?;
                let length = reader.u8()?;
                let text = reader.take(usize::from(length).min(reader.rest().len()))?;
                Self::Incident { message: format!("number {number}: {}", String::from_utf8_lossy(text)) }
            }
            code if code::HARMLESS.contains(&code) || raw.header.flags & code::IGNORABLE != 0 => Self::Other,
            _ => return Err(EventError::new("an event", "its type is one that this bridge does not know")),
        })
    }
}
