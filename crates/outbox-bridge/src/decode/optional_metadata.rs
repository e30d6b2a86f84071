//! The optional metadata at the end of a table map: signs, collations, names, members, the primary key.
//!
//! It is a series of fields, each a type byte, a length and a value. With `binlog_row_metadata=MINIMAL` MySQL and
//! MariaDB write signs and collations; with `FULL` all of it; with MariaDB's `NO_LOG` nothing.

use super::layout::Family;
use super::reader::Reader;
use super::table_map::{TableMapColumn, name};
use super::{DecodeError, DecodeErrorKind};

const SIGNEDNESS: u8 = 1;
const DEFAULT_CHARSET: u8 = 2;
const COLUMN_CHARSET: u8 = 3;
const COLUMN_NAME: u8 = 4;
const SET_STR_VALUE: u8 = 5;
const ENUM_STR_VALUE: u8 = 6;
const SIMPLE_PRIMARY_KEY: u8 = 8;
const PRIMARY_KEY_WITH_PREFIX: u8 = 9;
const ENUM_AND_SET_DEFAULT_CHARSET: u8 = 10;
const ENUM_AND_SET_COLUMN_CHARSET: u8 = 11;

/// Reads the fields, puts what they say into the columns, and returns the primary key if there is one.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    columns: &mut [TableMapColumn],
) -> Result<Option<Vec<usize>>, DecodeError> {
    let mut primary_key = None;
    while !reader.is_empty() {
        let field = reader.u8()?;
        let mut value = Reader::new(reader.packed_bytes()?);
        let value = &mut value;
        match field {
            SIGNEDNESS => signedness(value, columns)?,
            DEFAULT_CHARSET => default_charset(value, columns, &[Family::Character])?,
            COLUMN_CHARSET => column_charset(value, columns, &[Family::Character])?,
            ENUM_AND_SET_DEFAULT_CHARSET => default_charset(value, columns, &[Family::Enum, Family::Set])?,
            ENUM_AND_SET_COLUMN_CHARSET => column_charset(value, columns, &[Family::Enum, Family::Set])?,
            COLUMN_NAME => column_names(value, columns)?,
            SET_STR_VALUE => members(value, columns, Family::Set)?,
            ENUM_STR_VALUE => members(value, columns, Family::Enum)?,
            SIMPLE_PRIMARY_KEY => primary_key = Some(key(value, columns.len(), false)?),
            PRIMARY_KEY_WITH_PREFIX => primary_key = Some(key(value, columns.len(), true)?),
            // Geometry types, visibility, vector dimensions, and what servers to come may add.
            _ => {}
        }
    }
    Ok(primary_key)
}

fn of<'c>(
    columns: &'c mut [TableMapColumn],
    families: &'static [Family],
) -> impl Iterator<Item = &'c mut TableMapColumn> {
    columns.iter_mut().filter(|column| families.contains(&column.layout.family()))
}

/// One bit for each numeric column, the first in the highest bit of the first byte.
fn signedness(value: &mut Reader<'_>, columns: &mut [TableMapColumn]) -> Result<(), DecodeError> {
    let bits = value.rest();
    for (index, column) in of(columns, &[Family::Numeric]).enumerate() {
        let byte = bits.get(index / 8).ok_or_else(|| {
            DecodeError::malformed("the table map has too few signs for its numeric columns")
        })?;
        column.unsigned = Some(byte << (index % 8) & 0x80 != 0);
    }
    Ok(())
}

/// One collation for all, then pairs of index and collation for those that differ; indexes count these columns only.
fn default_charset(
    value: &mut Reader<'_>,
    columns: &mut [TableMapColumn],
    families: &'static [Family],
) -> Result<(), DecodeError> {
    let default = collation(value)?;
    let mut chosen: Vec<_> = of(columns, families).collect();
    for column in &mut chosen {
        column.collation = Some(default);
    }
    while !value.is_empty() {
        let index = value.packed_len()?;
        let collation = collation(value)?;
        let column = chosen.get_mut(index).ok_or_else(|| {
            DecodeError::malformed("the table map gives a collation to a column that it does not have")
        })?;
        column.collation = Some(collation);
    }
    Ok(())
}

fn column_charset(
    value: &mut Reader<'_>,
    columns: &mut [TableMapColumn],
    families: &'static [Family],
) -> Result<(), DecodeError> {
    for column in of(columns, families) {
        column.collation = Some(collation(value)?);
    }
    Ok(())
}

fn collation(value: &mut Reader<'_>) -> Result<u32, DecodeError> {
    u32::try_from(value.packed()?)
        .map_err(|_| DecodeError::malformed("the table map has an impossible collation"))
}

fn column_names(value: &mut Reader<'_>, columns: &mut [TableMapColumn]) -> Result<(), DecodeError> {
    for column in columns {
        column.name = Some(name(value.packed_bytes()?)?);
    }
    Ok(())
}

fn members(
    value: &mut Reader<'_>,
    columns: &mut [TableMapColumn],
    family: Family,
) -> Result<(), DecodeError> {
    for column in columns.iter_mut().filter(|column| column.layout.family() == family) {
        let count = value.packed_len()?;
        // Each takes at least a byte, so the count is checked before anything is allocated for it.
        if count > value.rest().len() {
            return Err(DecodeError::malformed("the table map ends within the members of an ENUM or SET"));
        }
        let members =
            (0..count).map(|_| value.packed_bytes().map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        column.members = Some(members);
    }
    Ok(())
}

fn key(value: &mut Reader<'_>, column_count: usize, with_prefix: bool) -> Result<Vec<usize>, DecodeError> {
    let mut key = Vec::new();
    while !value.is_empty() {
        let index = value.packed_len()?;
        if with_prefix {
            value.packed()?;
        }
        if index >= column_count {
            return Err(DecodeError::new(
                DecodeErrorKind::Malformed,
                "the primary key has a column that the table does not have",
            ));
        }
        key.push(index);
    }
    Ok(key)
}
