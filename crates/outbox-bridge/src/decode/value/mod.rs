//! One column's value, from the bytes of a row image to what the bridge publishes.

mod digits;
mod number;
mod string;
mod temporal;

use bytes::{Bytes, BytesMut};

use super::column::{ColumnType, Rendering};
use super::layout::Layout;
use super::{DecodeError, DecodeErrorKind, DecodeLimits, Text, compressed, json};

pub(crate) use digits::{put_signed, put_unsigned};
pub(crate) use number::{decimal, double_as_json};
pub use string::mariadb_uuid;
pub(crate) use temporal::{packed_date, packed_datetime, packed_time};

/// A column's value.
///
/// Text, bytes and JSON may be slices of the event, so that a value keeps its event in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The row image does not contain the column (`binlog_row_image=MINIMAL`).
    Absent,
    /// `NULL`.
    Null,
    /// Text as the server shows it: numbers, dates (timestamps in UTC), strings in any character set, `ENUM`, `SET`,
    /// MariaDB's `UUID`, `INET4`, `INET6` and `JSON`.
    Text(Text),
    /// Bytes as they are: `BINARY` (padded to its length), `VARBINARY`, `BLOB`, `BIT`, spatial types, `VECTOR`.
    Bytes(Bytes),
    /// MySQL's `JSON`, as the server shows it.
    Json(Text),
}

impl Value {
    /// The bytes of a value that has any, without copying them.
    #[must_use]
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Absent | Self::Null => None,
            Self::Text(text) | Self::Json(text) => Some(text.into_bytes()),
            Self::Bytes(bytes) => Some(bytes),
        }
    }

    /// The value as text, if it is text or JSON.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Json(text) => Some(text.as_str()),
            Self::Absent | Self::Null | Self::Bytes(_) => None,
        }
    }
}

/// Renders values; keeps the buffer that rendered text is written to, so that a value seldom costs an allocation.
#[derive(Debug)]
pub(crate) struct Renderer {
    limits: DecodeLimits,
    out: BytesMut,
}

/// How much is allocated at once for rendered text, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

impl Renderer {
    pub(crate) fn new(limits: DecodeLimits) -> Self {
        Self { limits, out: BytesMut::with_capacity(BUFFER_BYTES) }
    }

    /// Renders `content`, the bytes of a value without a length in front. It must be a part of `event`.
    pub(crate) fn render(
        &mut self,
        column_type: &ColumnType,
        content: &[u8],
        event: &Bytes,
    ) -> Result<Value, DecodeError> {
        let value = self.value(column_type, content, event);
        if value.is_err() {
            self.out.clear();
        }
        value
    }

    fn value(
        &mut self,
        column_type: &ColumnType,
        content: &[u8],
        event: &Bytes,
    ) -> Result<Value, DecodeError> {
        let out = &mut self.out;
        match column_type.layout() {
            Layout::Integer { .. } => number::integer(out, column_type.rendering(), content)?,
            Layout::Float => number::float(out, column_type.rendering(), content)?,
            Layout::Double => number::double(out, column_type.rendering(), content)?,
            Layout::Decimal { precision, scale } => decimal(out, precision, scale, content)?,
            Layout::Year => number::year(out, content),
            Layout::Date => temporal::date(out, content),
            Layout::OldTime => temporal::old_time(out, content),
            Layout::Time { fraction } => temporal::time(out, fraction, content),
            Layout::OldDatetime => temporal::old_datetime(out, content),
            Layout::Datetime { fraction } => temporal::datetime(out, fraction, content)?,
            Layout::OldTimestamp => temporal::old_timestamp(out, content),
            Layout::Timestamp { fraction } => temporal::timestamp(out, fraction, content),
            Layout::Bit { .. } | Layout::Geometry { .. } | Layout::Vector { .. } => {
                return Ok(Value::Bytes(event.slice_ref(content)));
            }
            Layout::Json { .. } => {
                json::write(content, self.limits.json_bytes_max, out)?;
                // Strings inside are copied as they are, and checked here all at once.
                return Text::from_utf8(out.split().freeze()).map(Value::Json).map_err(|_| {
                    DecodeError::new(DecodeErrorKind::InvalidText, "a string in the JSON is not UTF-8")
                });
            }
            Layout::Enum { .. } => return string::member(column_type.rendering(), content),
            Layout::Set { .. } => string::members(out, column_type.rendering(), content)?,
            Layout::Char { bytes_max } => {
                return string::char(out, column_type.rendering(), bytes_max, content, event);
            }
            Layout::Varchar { .. } | Layout::Blob { .. } => {
                return string::string(column_type.rendering(), event.slice_ref(content));
            }
            Layout::CompressedVarchar { .. } | Layout::CompressedBlob { .. } => {
                let expanded = match content {
                    [] => Bytes::new(),
                    [_, rest @ ..] => compressed::column(content, self.limits.expanded_bytes_max)?
                        .map_or_else(|| event.slice_ref(rest), Bytes::from),
                };
                return string::string(column_type.rendering(), expanded);
            }
        }
        Ok(Value::Text(Text::from_written(out.split().freeze())))
    }
}

/// What is missing when a column's metadata is neither in the log nor supplied.
#[cold]
pub(crate) fn metadata_missing(rendering: &Rendering) -> DecodeError {
    let what = match rendering {
        Rendering::Unknown(what) => what,
        _ => "the column's metadata",
    };
    DecodeError::new(
        DecodeErrorKind::MetadataMissing,
        format!("the log does not say {what}: set binlog_row_metadata=FULL on the server"),
    )
}

#[cfg(test)]
mod tests;
