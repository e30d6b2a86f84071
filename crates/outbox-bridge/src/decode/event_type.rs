//! The type codes of the events that carry rows.
//!
//! Sources: <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html> and
//! <https://mariadb.com/docs/server/reference/clientserver-protocol/replication-protocol>.

/// `TABLE_MAP_EVENT`.
pub const TABLE_MAP: u8 = 19;
/// `WRITE_ROWS_EVENT_V1`: MariaDB, and MySQL 5.5.
pub const WRITE_ROWS_V1: u8 = 23;
/// `UPDATE_ROWS_EVENT_V1`.
pub const UPDATE_ROWS_V1: u8 = 24;
/// `DELETE_ROWS_EVENT_V1`.
pub const DELETE_ROWS_V1: u8 = 25;
/// `WRITE_ROWS_EVENT`.
pub const WRITE_ROWS: u8 = 30;
/// `UPDATE_ROWS_EVENT`.
pub const UPDATE_ROWS: u8 = 31;
/// `DELETE_ROWS_EVENT`.
pub const DELETE_ROWS: u8 = 32;
/// `PARTIAL_UPDATE_ROWS_EVENT`: updates with `binlog_row_value_options=PARTIAL_JSON`. Not decoded here.
pub const PARTIAL_UPDATE_ROWS: u8 = 39;
/// MariaDB's `WRITE_ROWS_COMPRESSED_EVENT_V1`.
pub const WRITE_ROWS_COMPRESSED_V1: u8 = 166;
/// MariaDB's `UPDATE_ROWS_COMPRESSED_EVENT_V1`.
pub const UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
/// MariaDB's `DELETE_ROWS_COMPRESSED_EVENT_V1`.
pub const DELETE_ROWS_COMPRESSED_V1: u8 = 168;
/// MariaDB's `WRITE_ROWS_COMPRESSED_EVENT`.
pub const WRITE_ROWS_COMPRESSED: u8 = 169;
/// MariaDB's `UPDATE_ROWS_COMPRESSED_EVENT`.
pub const UPDATE_ROWS_COMPRESSED: u8 = 170;
/// MariaDB's `DELETE_ROWS_COMPRESSED_EVENT`.
pub const DELETE_ROWS_COMPRESSED: u8 = 171;

/// What happened to the rows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsKind {
    /// Rows were inserted.
    Insert,
    /// Rows were changed: by `UPDATE`, or by `REPLACE` and `INSERT … ON DUPLICATE KEY UPDATE` that met a row.
    Update,
    /// Rows were deleted.
    Delete,
}

impl RowsKind {
    /// The kind of a rows event by its type code; `None` for any other event. [`PARTIAL_UPDATE_ROWS`] is an update.
    #[must_use]
    pub fn of(event_type: u8) -> Option<Self> {
        match event_type {
            WRITE_ROWS_V1 | WRITE_ROWS | WRITE_ROWS_COMPRESSED_V1 | WRITE_ROWS_COMPRESSED => {
                Some(Self::Insert)
            }
            UPDATE_ROWS_V1
            | UPDATE_ROWS
            | PARTIAL_UPDATE_ROWS
            | UPDATE_ROWS_COMPRESSED_V1
            | UPDATE_ROWS_COMPRESSED => Some(Self::Update),
            DELETE_ROWS_V1 | DELETE_ROWS | DELETE_ROWS_COMPRESSED_V1 | DELETE_ROWS_COMPRESSED => {
                Some(Self::Delete)
            }
            _ => None,
        }
    }
}

/// Whether a rows event has the extra data of version 2.
pub(crate) fn is_version_2(event_type: u8) -> bool {
    matches!(
        event_type,
        WRITE_ROWS
            | UPDATE_ROWS
            | DELETE_ROWS
            | WRITE_ROWS_COMPRESSED
            | UPDATE_ROWS_COMPRESSED
            | DELETE_ROWS_COMPRESSED
    )
}

/// Whether the rows of an event are compressed (MariaDB's `log_bin_compress`).
pub(crate) fn is_compressed(event_type: u8) -> bool {
    (WRITE_ROWS_COMPRESSED_V1..=DELETE_ROWS_COMPRESSED).contains(&event_type)
}
