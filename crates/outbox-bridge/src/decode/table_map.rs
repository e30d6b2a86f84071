//! `TABLE_MAP_EVENT`: which table the rows after it belong to, and how its columns lie in a row image.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Table__map__event.html>

use super::layout::Layout;
use super::optional_metadata;
use super::reader::{Reader, bit};
use super::{DecodeError, DecodeErrorKind};

/// The most columns that a table of MySQL or MariaDB can have.
const COLUMNS_MAX: usize = 4096;

/// The beginning of a table map, enough to tell whether the table is of interest.
///
/// Nothing behind the names is looked at, so whatever stands there cannot make this fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableMapHead<'a> {
    /// The number by which rows events refer to this table map. It is not stable: the server gives out new ones.
    pub table_id: u64,
    /// The schema's name, as it stands in the log (UTF-8 on every server in use).
    pub schema: &'a [u8],
    /// The table's name, as it stands in the log.
    pub table: &'a [u8],
}

/// A whole table map.
///
/// Servers write one for each statement; a caller that compares the bodies byte for byte can keep what it made of
/// the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMap {
    /// The number by which rows events refer to this table map.
    pub table_id: u64,
    /// The schema's name.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// The columns in the order of the row image.
    pub columns: Vec<TableMapColumn>,
    /// The indexes of the primary key's columns; `None` if the log does not say (it does with
    /// `binlog_row_metadata=FULL`).
    pub primary_key: Option<Vec<usize>>,
}

/// What a table map says about one column. How much that is depends on the server's `binlog_row_metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMapColumn {
    /// How its values lie in a row image; always there.
    pub layout: Layout,
    /// Whether it can be `NULL`; always there.
    pub nullable: bool,
    /// Whether a numeric column is unsigned.
    pub unsigned: Option<bool>,
    /// The id of the collation of a character, `ENUM` or `SET` column; 63 is binary.
    pub collation: Option<u32>,
    /// Its name.
    pub name: Option<String>,
    /// The values of an `ENUM` or `SET`, as bytes in the column's character set.
    pub members: Option<Vec<Vec<u8>>>,
}

impl<'a> TableMapHead<'a> {
    /// Reads the head of a table map from an event's body: what follows the 19 bytes of the event header, without
    /// the checksum.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Malformed`] if the body ends too early.
    pub fn parse(body: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader::new(body))
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let table_id = reader.u48()?;
        let _flags = reader.u16()?;
        let schema = reader.packed_bytes()?;
        reader.u8()?; // Both names are followed by a zero byte.
        let table = reader.packed_bytes()?;
        reader.u8()?;
        Ok(Self { table_id, schema, table })
    }
}

impl TableMap {
    /// Reads a whole table map from an event's body: what follows the 19 bytes of the event header, without the
    /// checksum.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Malformed`] if the body is not a table map, [`DecodeErrorKind::Unsupported`] if it has a
    /// column of an obsolete or unknown type.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let head = TableMapHead::read(&mut reader)?;
        let schema = name(head.schema)?;
        let table = name(head.table)?;
        let (columns, primary_key) =
            columns(&mut reader).map_err(|error| error.in_table(&format!("{schema}.{table}")))?;
        Ok(Self { table_id: head.table_id, schema, table, columns, primary_key })
    }

    /// `schema.table`.
    #[must_use]
    pub fn qualified_name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

type Columns = (Vec<TableMapColumn>, Option<Vec<usize>>);

fn columns(reader: &mut Reader<'_>) -> Result<Columns, DecodeError> {
    let count = reader.packed_len()?;
    if count > COLUMNS_MAX {
        return Err(DecodeError::malformed("the table map has more columns than any table can have"));
    }
    let types = reader.take(count)?;
    let mut metadata = Reader::new(reader.packed_bytes()?);
    let nullable = reader.take(count.div_ceil(8))?;
    let mut columns = types
        .iter()
        .enumerate()
        .map(|(index, type_code)| {
            let layout = Layout::read(*type_code, &mut metadata)
                .map_err(|error| error.in_column(&format!("#{}", index + 1)))?;
            Ok(TableMapColumn {
                layout,
                nullable: bit(nullable, index),
                unsigned: None,
                collation: None,
                name: None,
                members: None,
            })
        })
        .collect::<Result<Vec<_>, DecodeError>>()?;
    if !metadata.is_empty() {
        return Err(DecodeError::malformed("the table map has more metadata than its columns need"));
    }
    let primary_key = optional_metadata::read(reader, &mut columns)?;
    Ok((columns, primary_key))
}

pub(crate) fn name(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| DecodeError::new(DecodeErrorKind::InvalidText, "a name in the table map is not UTF-8"))
}
