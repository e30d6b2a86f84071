//! Rows events: inserted and updated rows of an outbox table, one at a time.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Rows__event.html>

use bytes::Bytes;

use super::column::Column;
use super::event_type::{PARTIAL_UPDATE_ROWS, RowsKind, is_compressed, is_version_2};
use super::layout::Length;
use super::reader::{Reader, bit};
use super::table_map::TableMap;
use super::value::{Renderer, Value};
use super::{DecodeError, DecodeErrorKind, DecodeLimits, compressed};

/// `STMT_END_F`: the last rows event of a statement.
const STATEMENT_END: u16 = 1;

/// The images of an updated row. The only image of an inserted one counts as both.
const BEFORE: usize = 0;
const AFTER: usize = 1;

/// The beginning of a rows event, the same in all versions: enough to tell whether its table is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsHead {
    /// The number of the table map that the rows belong to.
    pub table_id: u64,
    /// Whether this is the last rows event of its statement; table maps before it are void then.
    pub statement_end: bool,
}

/// A rows event, expanded if it was compressed, its rows not yet looked at.
#[derive(Debug, Clone)]
pub struct RowsEvent {
    head: RowsHead,
    kind: RowsKind,
    column_count: usize,
    /// Which columns the images contain, one bit each: the image before, then the image after. An event with one image
    /// has it as both.
    present: [Bytes; 2],
    rows: Bytes,
}

impl RowsHead {
    /// Reads the head of a rows event from its body: what follows the event header, without the checksum.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Malformed`] if the body is too short.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader::new(body))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table_id = reader.u48()?;
        let flags = reader.u16()?;
        Ok(Self { table_id, statement_end: flags & STATEMENT_END != 0 })
    }
}

impl RowsEvent {
    /// Reads a rows event of any version, compressed by MariaDB or not, from its type code and its body: what follows
    /// the event header, without the checksum.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Malformed`] if the body is not a rows event, [`DecodeErrorKind::Unsupported`] for a partial
    /// update or an unknown compression, [`DecodeErrorKind::LimitExceeded`] if compressed rows are too long.
    pub fn parse(event_type: u8, body: &Bytes, limits: DecodeLimits) -> Result<Self, DecodeError> {
        let kind = RowsKind::of(event_type)
            .ok_or_else(|| DecodeError::malformed("the event is not a rows event"))?;
        if event_type == PARTIAL_UPDATE_ROWS {
            return Err(DecodeError::unsupported(
                "partial updates are not supported: set binlog_row_value_options='' on the server",
            ));
        }
        let mut reader = Reader::new(body);
        let head = RowsHead::read(&mut reader)?;
        if is_version_2(event_type) {
            let extra = usize::from(reader.u16()?);
            let extra = extra.checked_sub(2);
            reader.take(
                extra.ok_or_else(|| DecodeError::malformed("the extra data of a rows event is too short"))?,
            )?;
        }
        let column_count = reader.packed_len()?;
        let before = body.slice_ref(reader.take(column_count.div_ceil(8))?);
        let after = if kind == RowsKind::Update {
            body.slice_ref(reader.take(before.len())?)
        } else {
            before.clone()
        };
        let rows = if is_compressed(event_type) {
            compressed::rows(reader.rest(), limits.expanded_bytes_max)?
        } else {
            body.slice_ref(reader.rest())
        };
        Ok(Self { head, kind, column_count, present: [before, after], rows })
    }

    /// Table id and end of statement.
    #[must_use]
    pub fn head(&self) -> RowsHead {
        self.head
    }

    /// What happened to the rows.
    #[must_use]
    pub fn kind(&self) -> RowsKind {
        self.kind
    }

    /// The size of the rows in bytes, expanded.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.rows.len()
    }

    /// Whether `bytes` are a slice of the event, so that they keep all of it in memory.
    #[must_use]
    pub fn holds(&self, bytes: &Bytes) -> bool {
        self.rows.as_ptr_range().contains(&bytes.as_ptr())
    }
}

/// Decodes the rows of one table: knows its columns and which of them are wanted.
///
/// Columns that are not wanted are stepped over and cost no allocation.
#[derive(Debug)]
pub struct RowDecoder {
    table: String,
    columns: Vec<DecodedColumn>,
    wanted: usize,
    renderer: Renderer,
}

#[derive(Debug)]
struct DecodedColumn {
    column: Column,
    length: Length,
    /// Where the value goes in a row's values, if it is wanted.
    slot: Option<usize>,
}

impl RowDecoder {
    /// A decoder for the rows that follow `table_map`, with columns as
    /// [`resolve_columns`](super::resolve_columns) made them. `wanted` has the indexes of the columns whose values are
    /// asked for, each at most once; a row's values come in the same order.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Projection`] if an index is out of range or there twice, or if the columns are not the table
    /// map's; [`DecodeErrorKind::MetadataMissing`] if the values of a wanted column cannot be rendered.
    pub fn new(
        table_map: &TableMap,
        columns: Vec<Column>,
        wanted: &[usize],
        limits: DecodeLimits,
    ) -> Result<Self, DecodeError> {
        let table = table_map.qualified_name();
        let projection = |message: &'static str| DecodeError::new(DecodeErrorKind::Projection, message);
        let layouts = table_map.columns.iter().map(|column| column.layout);
        if !layouts.eq(columns.iter().map(|column| column.column_type.layout)) {
            return Err(projection("the columns are not those of the table map").in_table(&table));
        }
        let mut columns: Vec<_> = columns
            .into_iter()
            .map(|column| DecodedColumn { length: column.column_type.layout.length(), slot: None, column })
            .collect();
        for (slot, index) in wanted.iter().enumerate() {
            let column = columns
                .get_mut(*index)
                .ok_or_else(|| projection("a column beyond the last is wanted").in_table(&table))?;
            if column.slot.replace(slot).is_some() {
                return Err(projection("the column is wanted twice")
                    .in_column(&column.column.name)
                    .in_table(&table));
            }
            if !column.column.column_type.is_complete() {
                let error = super::value::metadata_missing(column.column.column_type.rendering());
                return Err(error.in_column(&column.column.name).in_table(&table));
            }
        }
        Ok(Self { table, columns, wanted: wanted.len(), renderer: Renderer::new(limits) })
    }

    /// The table as `schema.table`.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The rows of an event: inserted rows, or updated rows as they are after the update.
    ///
    /// `REPLACE` and `INSERT … ON DUPLICATE KEY UPDATE` come as updates (or as deletes and inserts) where they meet a
    /// row; what an update of an outbox row means is the caller's decision.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::Malformed`] if the event has another number of columns, or no rows: an insert whose every
    /// column is left to its default leaves no trace under `binlog_row_image=MINIMAL`.
    /// [`DecodeErrorKind::Unsupported`] for deleted rows.
    pub fn rows<'d>(&'d mut self, event: &'d RowsEvent) -> Result<Rows<'d>, DecodeError> {
        self.images(event, AFTER, 0)
    }

    /// As [`rows`](Self::rows), from the row on that begins at this [`Rows::offset`].
    ///
    /// # Errors
    ///
    /// As [`rows`](Self::rows).
    pub fn rows_from<'d>(&'d mut self, event: &'d RowsEvent, offset: usize) -> Result<Rows<'d>, DecodeError> {
        self.images(event, AFTER, offset)
    }

    /// The rows of an update as they were before it, from the row on that begins at this [`Rows::offset`]. With
    /// `binlog_row_image=MINIMAL` only the primary key is there.
    ///
    /// # Errors
    ///
    /// As [`rows`](Self::rows).
    pub fn rows_before<'d>(
        &'d mut self,
        event: &'d RowsEvent,
        offset: usize,
    ) -> Result<Rows<'d>, DecodeError> {
        self.images(event, BEFORE, offset)
    }

    fn images<'d>(
        &'d mut self,
        event: &'d RowsEvent,
        image: usize,
        offset: usize,
    ) -> Result<Rows<'d>, DecodeError> {
        let problem = if event.kind == RowsKind::Delete {
            DecodeError::unsupported("deleted rows are not decoded")
        } else if event.column_count != self.columns.len() {
            DecodeError::malformed("the rows have another number of columns than the table map")
        } else if event.rows.is_empty() {
            DecodeError::malformed(
                "the event has no rows: with binlog_row_image=MINIMAL this hides rows of defaults",
            )
        } else {
            let count = |present: &[u8]| (0..event.column_count).filter(|index| bit(present, *index)).count();
            let [before, after] = &event.present;
            let counts = [count(before), count(after)];
            return Ok(Rows {
                decoder: self,
                event,
                image,
                counts,
                rest: Reader::new(event.rows.get(offset..).unwrap_or_default()),
                failed: false,
            });
        };
        Err(problem.in_table(&self.table))
    }
}

/// The rows of an event, each as the values of the wanted columns. Ends after the first error.
#[derive(Debug)]
pub struct Rows<'d> {
    decoder: &'d mut RowDecoder,
    event: &'d RowsEvent,
    /// Which image is read: [`BEFORE`] or [`AFTER`].
    image: usize,
    /// How many columns the images contain.
    counts: [usize; 2],
    rest: Reader<'d>,
    failed: bool,
}

impl Iterator for Rows<'_> {
    type Item = Result<Vec<Value>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let row = self.row();
        self.failed = row.is_err();
        Some(row.map_err(|error| error.in_table(&self.decoder.table)))
    }
}

impl<'d> Rows<'d> {
    /// Where the next row begins among the event's rows, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.event.rows.len() - self.rest.rest().len()
    }

    fn row(&mut self) -> Result<Vec<Value>, DecodeError> {
        let length_before = self.rest.rest().len();
        let update = self.event.kind == RowsKind::Update;
        if update && self.image == AFTER {
            self.skip_image(BEFORE)?;
        }
        let mut values = vec![Value::Absent; self.decoder.wanted];
        let (_, count) = self.read_image(&mut values)?;
        if update && self.image == BEFORE {
            self.skip_image(AFTER)?;
        }
        if self.rest.rest().len() == length_before || count == 0 {
            return Err(DecodeError::malformed("a row has no columns"));
        }
        Ok(values)
    }

    fn skip_image(&mut self, image: usize) -> Result<(), DecodeError> {
        let (present, count) = self.shape(image);
        let nulls = self.rest.take(count.div_ceil(8))?;
        let mut position = 0;
        for (index, column) in self.decoder.columns.iter().enumerate() {
            if bit(present, index) {
                if !bit(nulls, position) {
                    column
                        .length
                        .take(&mut self.rest)
                        .map_err(|error| error.in_column(&column.column.name))?;
                }
                position += 1;
            }
        }
        Ok(())
    }

    /// Which columns an image contains, and how many.
    fn shape(&self, image: usize) -> (&'d [u8], usize) {
        let [before, after] = &self.event.present;
        let [count_before, count_after] = self.counts;
        if image == BEFORE { (before, count_before) } else { (after, count_after) }
    }

    /// Reads the image asked for, and returns how many columns were seen and present.
    fn read_image(&mut self, values: &mut [Value]) -> Result<(usize, usize), DecodeError> {
        let (present, count) = self.shape(self.image);
        let nulls = self.rest.take(count.div_ceil(8))?;
        let mut position = 0;
        let decoder = &mut *self.decoder;
        for (index, column) in decoder.columns.iter().enumerate() {
            if !bit(present, index) {
                continue;
            }
            let null = bit(nulls, position);
            position += 1;
            let content = if null { None } else { Some(column.length.take(&mut self.rest)) };
            let value = match (column.slot, content) {
                (_, Some(Err(error))) => Err(error),
                (None, _) => continue,
                (Some(_), None) => Ok(Value::Null),
                (Some(_), Some(Ok(content))) => {
                    decoder.renderer.render(&column.column.column_type, content, &self.event.rows)
                }
            };
            let value = value.map_err(|error| error.in_column(&column.column.name))?;
            if let Some(slot) = column.slot.and_then(|slot| values.get_mut(slot)) {
                *slot = value;
            }
        }
        Ok((position, count))
    }
}

#[cfg(test)]
pub(crate) mod tests;
