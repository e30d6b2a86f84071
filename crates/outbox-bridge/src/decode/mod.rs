//! Rows out of the binary log: table maps, rows events and the values in them.
//!
//! Pure and synchronous: bytes in, values or an error out, whatever the bytes are. What belongs together in a
//! transaction, and what a value means for a message, is decided elsewhere.
//!
//! ```no_run
//! # fn main() -> Result<(), outbox_bridge::decode::DecodeError> {
//! use bytes::Bytes;
//! use outbox_bridge::decode::{DecodeLimits, RowDecoder, RowsEvent, TableMap, event_type, resolve_columns};
//!
//! # let (table_map_body, rows_body) = (Bytes::new(), Bytes::new());
//! let table_map = TableMap::parse(&table_map_body)?;
//! let columns = resolve_columns(&table_map, None)?;
//! let payload = columns.iter().position(|column| column.name() == "payload").expect("a payload column");
//!
//! let limits = DecodeLimits::default();
//! let mut decoder = RowDecoder::new(&table_map, columns, &[payload], limits)?;
//! let event = RowsEvent::parse(event_type::WRITE_ROWS, &rows_body, limits)?;
//! for row in decoder.rows(&event)? {
//!     println!("{} value(s)", row?.len());
//! }
//! # Ok(())
//! # }
//! ```

pub mod charset;
mod column;
mod compressed;
mod definition;
mod error;
pub mod event_type;
mod json;
mod layout;
mod optional_metadata;
mod reader;
mod resolve;
mod rows;
mod table_map;
mod text;
mod value;

#[cfg(test)]
mod properties;

pub use column::{Column, ColumnType};
pub use definition::ColumnDefinition;
pub use error::{DecodeError, DecodeErrorKind};
pub use event_type::RowsKind;
pub use layout::Layout;
pub use resolve::resolve_columns;
pub use rows::{RowDecoder, Rows, RowsEvent, RowsHead};
pub use table_map::{TableMap, TableMapColumn, TableMapHead};
pub use text::Text;
pub use value::{Value, mariadb_uuid};

/// How long what is made of an event may get. Both are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The rows of an event compressed by MariaDB, or a value of a compressed column, when expanded.
    pub expanded_bytes_max: usize,
    /// A JSON document as text.
    pub json_bytes_max: usize,
}

impl Default for DecodeLimits {
    /// 1 GiB each, the most that `max_allowed_packet` can be.
    fn default() -> Self {
        Self { expanded_bytes_max: 1 << 30, json_bytes_max: 1 << 30 }
    }
}
