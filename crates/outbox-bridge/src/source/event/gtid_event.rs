//! The events that begin a transaction.

use super::{EventError, Reader};
use crate::source::{RawEvent, gtid::Gtid};

/// 0 says that a time is not known.
fn known(micros: u64) -> Option<u64> {
    (micros != 0).then_some(micros)
}

/// A transaction begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GtidEvent {
    /// Its GTID; `None` if the server assigns none.
    pub gtid: Option<Gtid>,
    /// When it was committed first, in microseconds since the epoch, if the event says so.
    pub commit_time_micros: Option<u64>,
    /// MariaDB: a single statement follows, without a commit.
    pub standalone: bool,
}

impl GtidEvent {
    /// MySQL's `GTID_LOG_EVENT` and `ANONYMOUS_GTID_LOG_EVENT`.
    ///
    /// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Gtid__event.html>
    pub(super) fn parse_mysql(raw: &RawEvent) -> Result<Self, EventError> {
        const LOGICAL_TIMESTAMPS: u8 = 2;
        const HAS_ORIGINAL: u64 = 1 << 55;
        let mut reader = Reader::new("a GTID event", &raw.body);
        let _flags = reader.u8()?;
        let uuid = reader.array()?;
        let sequence = reader.u64()?;
        let named = raw.header.event_type == super::code::GTID;
        let gtid = named.then(|| Gtid::MySql { uuid, tag: String::new(), sequence });
        // Servers before 8.0 leave the times out.
        let mut commit_time_micros = None;
        if reader.rest().len() >= 24 && reader.u8()? == LOGICAL_TIMESTAMPS {
            reader.take(16)?;
            let immediate = reader.uint(7)?;
            let original = if immediate & HAS_ORIGINAL == 0 { 0 } else { reader.uint(7)? };
            commit_time_micros = known(original).or(known(immediate & !HAS_ORIGINAL));
        }
        Ok(Self { gtid, commit_time_micros, standalone: false })
    }

    /// MySQL's `GTID_TAGGED_LOG_EVENT`, a message of its serialization library.
    pub(super) fn parse_tagged(raw: &RawEvent) -> Result<Self, EventError> {
        let mut reader = Reader::new("a tagged GTID event", &raw.body);
        if reader.varint()? != 1 {
            return Err(reader.fail("its format is newer than this bridge"));
        }
        let _size = reader.varint()?;
        let last_required = reader.varint()?;
        let (mut uuid, mut tag, mut sequence) = (None, String::new(), 0);
        let (mut immediate, mut original) = (None, None);
        while !reader.is_empty() {
            let field = reader.varint()?;
            match field {
                1 => {
                    let mut bytes = [0; 16];
                    for byte in &mut bytes {
                        *byte = u8::try_from(reader.varint()?)
                            .map_err(|_| reader.fail("a byte of the UUID is none"))?;
                    }
                    uuid = Some(bytes);
                }
                2 => {
                    sequence = u64::try_from(reader.varint_signed()?)
                        .map_err(|_| reader.fail("its number is negative"))?
                }
                3 => {
                    let length = reader.varint()?;
                    let length = reader.length(length)?;
                    tag = std::str::from_utf8(reader.take(length)?)
                        .map_err(|_| reader.fail("its tag is no text"))?
                        .to_owned();
                }
                4 | 5 => {
                    reader.varint_signed()?;
                }
                6 => immediate = Some(reader.varint()?),
                7 => original = Some(reader.varint()?),
                0 | 8..=11 => {
                    reader.varint()?;
                }
                _ if field <= last_required => {
                    return Err(reader.fail("it has a field that this bridge does not know"));
                }
                // Nothing tells how long an unknown field is, and nothing that matters comes after the known ones.
                _ => break,
            }
        }
        let uuid = uuid.ok_or_else(|| reader.fail("it has no UUID"))?;
        Ok(Self {
            gtid: Some(Gtid::MySql { uuid, tag, sequence }),
            commit_time_micros: original.and_then(known).or(immediate.and_then(known)),
            standalone: false,
        })
    }

    /// MariaDB's `GTID_EVENT`. The time of its header, in seconds, is all that it says of the commit.
    ///
    /// Source: <https://mariadb.com/docs/server/reference/clientserver-protocol/replication-protocol/gtid_event>
    pub(super) fn parse_mariadb(raw: &RawEvent) -> Result<Self, EventError> {
        const STANDALONE: u8 = 1;
        let mut reader = Reader::new("a GTID event", &raw.body);
        let sequence = reader.u64()?;
        let domain = reader.u32()?;
        let flags = reader.u8()?;
        Ok(Self {
            gtid: Some(Gtid::MariaDb { domain, server_id: raw.header.server_id, sequence }),
            commit_time_micros: Some(u64::from(raw.header.timestamp) * 1_000_000),
            standalone: flags & STANDALONE != 0,
        })
    }
}
