//! The rows of outbox tables, out of the events of a transaction.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::TransactionError;
use crate::{
    config::TableName,
    decode::{
        ColumnDefinition, DecodeError, DecodeErrorKind, DecodeLimits, RowDecoder, RowsEvent, RowsHead,
        RowsKind, TableMap, TableMapHead, Value, resolve_columns,
    },
    publish::{Message, TransactionId},
    route::{Mapping, Route, RouteError},
    source::{RawEvent, connection::Flavour, event::QueryEvent},
};

/// Rows that cannot be decoded or published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// They cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// They cannot become messages.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// They belong to no table map.
    #[error("rows without a table map")]
    NoTableMap,
}

impl RowsError {
    /// The error of the transaction at a place.
    #[must_use]
    pub fn at(self, at: String) -> TransactionError {
        match self {
            Self::Decode(source) => TransactionError::Decode { at, source },
            Self::Route(source) => TransactionError::Route { at, source },
            Self::NoTableMap => TransactionError::Stray { at },
        }
    }
}

/// What became of a table map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is taken.
    Done,
    /// The definition of the table of this route is needed first.
    Define(usize),
}

type Definition = Arc<Vec<ColumnDefinition>>;

/// One version of an outbox table, as a table map described it.
#[derive(Debug)]
struct Table {
    /// The table map's body behind the table id, to recognise it by.
    body: Bytes,
    decoder: RowDecoder,
    mapping: Mapping,
    table_id: u64,
}

/// Decodes rows of outbox tables and makes messages of them; never looks at those of other tables.
#[derive(Debug)]
pub struct OutboxRows {
    routes: Arc<Vec<Route>>,
    flavour: Flavour,
    definitions: HashMap<usize, Definition>,
    /// The last version of each route's table.
    tables: HashMap<usize, Table>,
    /// The table maps of the open statement: table id and route, if it has one.
    maps: Vec<(u64, Option<usize>)>,
}

/// Bytes of a table map before the names: table id and flags.
const TABLE_ID_BYTES: usize = 6;

impl OutboxRows {
    /// For these routes, with the definitions that are known, by route.
    #[must_use]
    pub fn new(routes: Vec<Route>, flavour: Flavour, definitions: HashMap<usize, Definition>) -> Self {
        Self { routes: Arc::new(routes), flavour, definitions, tables: HashMap::new(), maps: Vec::new() }
    }

    /// Another one for the same routes and definitions, that has seen no event.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self {
            routes: self.routes.clone(),
            flavour: self.flavour,
            definitions: self.definitions.clone(),
            tables: HashMap::new(),
            maps: Vec::new(),
        }
    }

    /// The table of a route.
    #[must_use]
    pub fn table(&self, route: usize) -> Option<TableName> {
        Some(self.routes.get(route)?.name().clone())
    }

    /// Table maps hold no longer.
    pub fn forget_table_maps(&mut self) {
        self.maps.clear();
    }

    /// Takes a table map.
    ///
    /// # Errors
    ///
    /// If an outbox table's is malformed, or lacks a mapped column.
    pub fn table_map(&mut self, body: &Bytes) -> Result<Taken, RowsError> {
        let head = TableMapHead::parse(body)?;
        let route = self.routes.iter().position(|route| route.matches(head.schema, head.table));
        if let Some(index) = route {
            let rest = body.slice(TABLE_ID_BYTES.min(body.len())..);
            match self.tables.get_mut(&index).filter(|table| table.body == rest) {
                Some(table) => table.table_id = head.table_id,
                None => match self.describe(index, head.table_id, body, rest)? {
                    Some(table) => {
                        self.tables.insert(index, table);
                    }
                    None => return Ok(Taken::Define(index)),
                },
            }
        }
        self.maps.retain(|(table_id, _)| *table_id != head.table_id);
        self.maps.push((head.table_id, route));
        Ok(Taken::Done)
    }

    /// Takes a table map of a transaction whose rows are not wanted.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub fn skipped_table_map(&mut self, body: &Bytes) -> Result<(), RowsError> {
        let head = TableMapHead::parse(body)?;
        let route = self.routes.iter().position(|route| route.matches(head.schema, head.table));
        self.maps.retain(|(table_id, _)| *table_id != head.table_id);
        self.maps.push((head.table_id, route));
        Ok(())
    }

    /// A version of the table, or `None` if its definition must be asked for first.
    fn describe(
        &self,
        index: usize,
        table_id: u64,
        body: &Bytes,
        rest: Bytes,
    ) -> Result<Option<Table>, RowsError> {
        let Some(route) = self.routes.get(index) else { return Err(RowsError::NoTableMap) };
        let map = TableMap::parse(body)?;
        let named = map.columns.iter().all(|column| column.name.is_some());
        let definition = self.definitions.get(&index);
        // MariaDB's logs do not tell a UUID from a BINARY(16).
        if definition.is_none() && (!named || self.flavour == Flavour::MariaDb) {
            return Ok(None);
        }
        let known = definition.map(|definition| definition.as_slice()).filter(|columns| !columns.is_empty());
        let columns = resolve_columns(&map, known)?;
        let mapping = route.map(columns.iter().map(|column| column.name()))?;
        let decoder = RowDecoder::new(&map, columns, &mapping.projection, DecodeLimits::default())?;
        // The body is a part of a large read buffer, which must not be kept for it.
        let body = Bytes::copy_from_slice(&rest);
        Ok(Some(Table { body, decoder, mapping, table_id }))
    }

    /// Takes the definition of a route's table; an empty one says that there is none to be had.
    pub fn define(&mut self, route: usize, definition: Definition) {
        self.definitions.insert(route, definition);
        self.tables.remove(&route);
    }

    /// A statement may have changed definitions: those of the tables that it names are asked for again.
    pub fn forget_definitions(&mut self, query: &QueryEvent) {
        for (index, route) in self.routes.iter().enumerate() {
            let name = route.name();
            if query.names_table(&name.schema, &name.table) {
                self.definitions.remove(&index);
                self.tables.remove(&index);
            }
        }
    }

    /// The definitions that a restart needs: those without which the log cannot be read. Others are asked for anew.
    #[must_use]
    pub fn definitions_for_checkpoint(&self) -> BTreeMap<String, serde_json::Value> {
        let entry = |(index, definition): (&usize, &Definition)| {
            let route = self.routes.get(*index)?;
            Some((route.table.to_string(), serde_json::to_value(&**definition).ok()?))
        };
        self.definitions.iter().filter_map(entry).collect()
    }

    /// The outbox table that a statement writes to, if it names one.
    #[must_use]
    pub fn written_by(&self, query: &QueryEvent) -> Option<&str> {
        let route =
            self.routes.iter().find(|route| query.names_table(&route.name().schema, &route.name().table))?;
        Some(&route.table)
    }

    /// Looks whose rows these are, and gets ready to [`fill`](Self::fill) if they are wanted.
    ///
    /// # Errors
    ///
    /// If the event is malformed or belongs to no table map.
    pub fn open(&self, raw: &RawEvent, wanted: bool) -> Result<Opened, RowsError> {
        let table_id = RowsHead::parse(&raw.body)?.table_id;
        let Some((_, route)) = self.maps.iter().rev().find(|(known, _)| *known == table_id) else {
            return Err(RowsError::NoTableMap);
        };
        let Some(route) = *route else { return Ok(Opened::Foreign) };
        if !wanted {
            return Ok(Opened::Nothing);
        }
        // The last table map of a table is the one in force; a damaged log may have another.
        let table = self.tables.get(&route).filter(|table| table.table_id == table_id);
        table.ok_or(RowsError::NoTableMap)?;
        match RowsEvent::parse(raw.header.event_type, &raw.body, DecodeLimits::default()) {
            // Partial updates are never inserts.
            Err(error)
                if error.kind() == DecodeErrorKind::Unsupported
                    && RowsKind::of(raw.header.event_type) == Some(RowsKind::Update) =>
            {
                Ok(Opened::Nothing)
            }
            event => Ok(Opened::Rows(EventRows { event: event?, route, offset: 0 })),
        }
    }

    /// Appends messages of an event's rows to `messages` until there are `rows_max` of them or they weigh more than
    /// `bytes_max`; no table map may have come since the event was opened. `true` when the event has no more.
    ///
    /// An update counts as the insert of a new event if it gives the row another id, as `REPLACE` does; else it changes
    /// what was published already, and is none.
    ///
    /// # Errors
    ///
    /// If the rows cannot be decoded or cannot become messages.
    pub fn fill(
        &mut self,
        rows: &mut EventRows,
        transaction: &Arc<TransactionId>,
        messages: &mut Vec<(usize, Message)>,
        (rows_max, bytes_max): (usize, usize),
    ) -> Result<bool, RowsError> {
        let Some((route, table)) = self.routes.get(rows.route).zip(self.tables.get_mut(&rows.route)) else {
            return Err(RowsError::NoTableMap);
        };
        let Table { decoder, mapping, .. } = table;
        let event = &rows.event;
        let mut bytes = 0;
        loop {
            if messages.len() >= rows_max || bytes > bytes_max {
                return Ok(false);
            }
            let mut before = None;
            if event.kind() == RowsKind::Update {
                let Some(row) = decoder.rows_before(event, rows.offset)?.next() else { return Ok(true) };
                before = Some(mapping.id_of(&row?).cloned());
            }
            let mut images = decoder.rows_from(event, rows.offset)?;
            let Some(row) = images.next() else { return Ok(true) };
            rows.offset = images.offset();
            let row = row?;
            if let Some(before) = before {
                let after = mapping.id_of(&row);
                if before.as_ref() == after || matches!(after, None | Some(Value::Absent)) {
                    continue;
                }
            }
            let mut message = route.message(mapping, &row, transaction)?;
            detach(event, &mut message.body);
            bytes += message.size();
            messages.push((route.stream, message));
        }
    }
}

/// What a rows event is.
#[derive(Debug)]
pub enum Opened {
    /// Rows of another table.
    Foreign,
    /// Rows of an outbox table of which none is wanted.
    Nothing,
    /// Rows of an outbox table.
    Rows(EventRows),
}

/// The rows of an event as far as they have not been made messages. An event may be far larger than what may be held in
/// messages.
#[derive(Debug)]
pub struct EventRows {
    event: RowsEvent,
    route: usize,
    /// Where the next row begins.
    offset: usize,
}

/// Bodies up to this size are copied out of the read buffer, which they would keep: it is some times larger.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// Takes a body out of its event if it would keep much more in memory than itself.
fn detach(event: &RowsEvent, body: &mut Bytes) {
    let small = body.len() <= COPIED_BYTES_MAX || body.len() < event.bytes_len() / 2;
    if small && event.holds(body) {
        *body = Bytes::copy_from_slice(body);
    }
}
