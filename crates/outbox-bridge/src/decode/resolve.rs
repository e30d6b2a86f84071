//! From a table map, and a table definition where it says too little, to columns that can be decoded.

use bytes::Bytes;

use super::charset::{BINARY_COLLATION, Charset};
use super::column::{Column, ColumnType, Rendering};
use super::definition::{ColumnDefinition, DefinedType};
use super::layout::{Family, Layout};
use super::table_map::{TableMap, TableMapColumn};
use super::{DecodeError, DecodeErrorKind, Text};

/// Makes columns of what the log says, and of the definition where the log is silent.
///
/// With names in the log (`binlog_row_metadata=FULL`) the log decides, and a definition only adds what no log says:
/// that a column is MariaDB's `UUID`, `INET4` or `INET6`, the width of `ZEROFILL`, the decimals of `DOUBLE(M,D)`. It is
/// used column by column, where name and type agree.
///
/// Without names the definition gives them by position, so it has to have the same columns: as many, and each with the
/// type that the log was written with. It may be newer than the log, and types that agree are no proof that the names
/// do: only `FULL` is safe against a column that was renamed, or replaced by another of the same type.
///
/// # Errors
///
/// [`DecodeErrorKind::MetadataMissing`] if the log has no names and there is no definition;
/// [`DecodeErrorKind::DefinitionMismatch`] if the definition cannot be the log's;
/// [`DecodeErrorKind::InvalidText`] if a member of an `ENUM` or `SET` is not valid in its character set.
pub fn resolve_columns(
    table_map: &TableMap,
    definition: Option<&[ColumnDefinition]>,
) -> Result<Vec<Column>, DecodeError> {
    columns(table_map, definition).map_err(|error| error.in_table(&table_map.qualified_name()))
}

fn columns(
    table_map: &TableMap,
    definition: Option<&[ColumnDefinition]>,
) -> Result<Vec<Column>, DecodeError> {
    let named = table_map.columns.iter().all(|column| column.name.is_some());
    match definition {
        _ if named => table_map
            .columns
            .iter()
            .map(|column| {
                let name = column.name.as_deref().unwrap_or_default();
                let defined = definition
                    .and_then(|columns| {
                        columns.iter().find(|defined| defined.name.eq_ignore_ascii_case(name))
                    })
                    .and_then(|defined| defined.parse().ok());
                refuse_hidden_fraction(column, defined.as_ref()).map_err(|error| error.in_column(name))?;
                resolve(column, name, defined.filter(|defined| defined.matches(column.layout)).as_ref())
            })
            .collect(),
        Some(definition) => by_position(table_map, definition),
        None => Err(DecodeError::new(
            DecodeErrorKind::MetadataMissing,
            "the log does not name the columns and there is no definition of the table: set binlog_row_metadata=FULL on \
             the server",
        )),
    }
}

fn by_position(table_map: &TableMap, definition: &[ColumnDefinition]) -> Result<Vec<Column>, DecodeError> {
    if definition.len() != table_map.columns.len() {
        return Err(DecodeError::new(
            DecodeErrorKind::DefinitionMismatch,
            format!(
                "the log has rows of {} columns, but the table now has {}, so it was altered since: set \
                 binlog_row_metadata=FULL on the server",
                table_map.columns.len(),
                definition.len()
            ),
        ));
    }
    let columns = table_map.columns.iter().zip(definition);
    columns
        .map(|(column, definition)| {
            let defined = definition.parse()?;
            refuse_hidden_fraction(column, Some(&defined)).map_err(|error| error.in_column(&definition.name))?;
            if !defined.matches(column.layout) || column.unsigned.is_some_and(|unsigned| differs(unsigned, &defined, column)) {
                return Err(DecodeError::new(
                    DecodeErrorKind::DefinitionMismatch,
                    format!(
                        "the log has {:?} in its place, but the table now has `{}`, so it was altered since: set \
                         binlog_row_metadata=FULL on the server",
                        column.layout, definition.column_type
                    ),
                )
                .in_column(&definition.name));
            }
            resolve(column, &definition.name, Some(&defined))
        })
        .collect()
}

/// With `mysql56_temporal_format=OFF` MariaDB writes times with a fraction as if they had none, but in more bytes. Only
/// the definition gives them away.
fn refuse_hidden_fraction(column: &TableMapColumn, defined: Option<&DefinedType>) -> Result<(), DecodeError> {
    let old = matches!(column.layout, Layout::OldTime | Layout::OldDatetime | Layout::OldTimestamp);
    if old && defined.is_some_and(DefinedType::has_fraction) {
        return Err(DecodeError::unsupported(
            "the column was created with mysql56_temporal_format=OFF, and its values cannot be told from the log: set it \
             to ON and rebuild the table with ALTER TABLE … FORCE",
        ));
    }
    Ok(())
}

/// Whether the signs differ; a YEAR is unsigned in the log and not in its definition.
fn differs(unsigned: bool, defined: &DefinedType, column: &TableMapColumn) -> bool {
    matches!(column.layout, Layout::Integer { .. }) && unsigned != defined.unsigned
}

fn resolve(
    column: &TableMapColumn,
    name: &str,
    defined: Option<&DefinedType>,
) -> Result<Column, DecodeError> {
    let rendering = rendering(column, defined).map_err(|error| error.in_column(name))?;
    Ok(Column {
        name: name.to_owned(),
        nullable: column.nullable,
        column_type: ColumnType { layout: column.layout, rendering },
    })
}

fn rendering(column: &TableMapColumn, defined: Option<&DefinedType>) -> Result<Rendering, DecodeError> {
    Ok(match (column.layout, column.layout.family()) {
        (Layout::Integer { .. }, _) => match column.unsigned.or(defined.map(|defined| defined.unsigned)) {
            Some(unsigned) => {
                Rendering::Integer { unsigned, zerofill: defined.map_or(0, DefinedType::zerofill_width) }
            }
            None => Rendering::Unknown("whether the column is unsigned"),
        },
        (Layout::Float | Layout::Double, _) => {
            Rendering::Real { decimals: defined.and_then(DefinedType::decimals) }
        }
        (_, Family::Character) => character(column, defined),
        (_, Family::Enum | Family::Set) => members(column, defined)?,
        _ => Rendering::Plain,
    })
}

fn character(column: &TableMapColumn, defined: Option<&DefinedType>) -> Rendering {
    match defined.map(DefinedType::base) {
        Some("uuid") => return Rendering::Uuid,
        Some("inet4") => return Rendering::Inet4,
        Some("inet6") => return Rendering::Inet6,
        _ => {}
    }
    match (column.collation, defined) {
        (Some(BINARY_COLLATION), _) => Rendering::Binary,
        (Some(collation), _) => Charset::from_collation(collation)
            .or(defined.and_then(|defined| defined.charset))
            .map_or(Rendering::Unknown("a collation whose character set is known"), text),
        (None, Some(defined)) if defined.is_binary() => Rendering::Binary,
        (None, Some(DefinedType { charset: Some(charset), .. })) => text(*charset),
        (None, _) => Rendering::Unknown("the column's character set"),
    }
}

fn text(charset: Charset) -> Rendering {
    if charset == Charset::Binary { Rendering::Binary } else { Rendering::Text(charset) }
}

fn members(column: &TableMapColumn, defined: Option<&DefinedType>) -> Result<Rendering, DecodeError> {
    if let Some(members) = &column.members {
        let charset = column
            .collation
            .and_then(Charset::from_collation)
            .or(defined.and_then(|defined| defined.charset));
        let charset = match charset {
            // `binary` has no text of its own, but a member has to become some.
            None | Some(Charset::Binary) => Charset::Utf8mb4,
            Some(charset) => charset,
        };
        let members = members.iter().map(|member| charset.decode(Bytes::copy_from_slice(member)));
        return members.collect::<Result<_, _>>().map(Rendering::Members);
    }
    Ok(match defined {
        Some(defined) => Rendering::Members(defined.members.iter().cloned().map(Text::from).collect()),
        None => Rendering::Unknown("the values of an ENUM or SET"),
    })
}

#[cfg(test)]
mod tests;
