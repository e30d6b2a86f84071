//! Logs made by hand: events with the offsets that a server would give them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use crate::{
    config::{Columns, HeadersColumn, Outbox, TableName},
    decode::{ColumnDefinition, event_type},
    route::{Route, SubjectTemplate},
    source::{EventHeader, HEADER_SIZE, RawEvent, connection::Flavour, event::code},
    transaction::OutboxRows,
};

pub(super) const UUID: &str = "01010101-0101-0101-0101-010101010101";
/// The columns of every outbox table here, all `VARCHAR`.
pub(super) const COLUMNS: [&str; 5] = ["id", "aggregate_type", "aggregate_id", "type", "payload"];

/// The outbox table `shop.outbox` goes to stream 0, `shop.audit` to stream 1.
pub(super) const TABLES: [&str; 2] = ["outbox", "audit"];

fn route((stream, table): (usize, &str)) -> Route {
    let [id, aggregate_type, aggregate_id, event_type, payload] = COLUMNS.map(str::to_owned);
    let columns = Columns {
        id,
        aggregate_type,
        aggregate_id,
        event_type,
        payload,
        headers: HeadersColumn::IfPresent("headers".into()),
        content_type: None,
        created_at: "created_at".into(),
        partition_key: None,
    };
    let outbox = Outbox {
        retention: None,
        table: TableName { schema: "shop".into(), table: table.into() },
        stream: format!("S{stream}"),
        subject: SubjectTemplate::parse("events.{type}").expect("a template"),
        source: None,
        columns,
    };
    Route::new(outbox, stream, "server")
}

pub(super) fn definition() -> Vec<ColumnDefinition> {
    let column = |name: &str| ColumnDefinition {
        name: name.into(),
        column_type: "varchar(60)".into(),
        character_set: Some("utf8mb4".into()),
    };
    COLUMNS.map(column).into()
}

pub(super) fn routes() -> Vec<Route> {
    TABLES.into_iter().enumerate().map(route).collect()
}

/// What decodes the two tables, their definitions known.
pub(super) fn outbox_rows(flavour: Flavour) -> OutboxRows {
    let definitions = [0, 1].map(|route| (route, Arc::new(definition())));
    OutboxRows::new(routes(), flavour, HashMap::from(definitions))
}

/// An event and the file that it stands in.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) file: u64,
    pub(super) raw: RawEvent,
}

impl Logged {
    pub(super) fn begins(&self) -> u64 {
        u64::from(self.raw.header.end_offset) - u64::from(self.raw.header.event_size)
    }
}

pub(super) fn file_name(number: u64) -> String {
    format!("binlog.{number:06}")
}

/// An event that does not stand in the log, as a server sends it at the start of a dump.
pub(super) fn artificial_rotate(file: u64, offset: u64) -> RawEvent {
    let mut body = offset.to_le_bytes().to_vec();
    body.extend(file_name(file).bytes());
    raw(code::ROTATE, body, 0, 0x20)
}

fn raw(event_type: u8, body: Vec<u8>, end_offset: u32, flags: u16) -> RawEvent {
    let event_size = u32::try_from(HEADER_SIZE + body.len()).expect("small");
    let header = EventHeader { timestamp: 7, event_type, server_id: 1, event_size, end_offset, flags };
    RawEvent { header, body: body.into() }
}

/// Writes a log. The methods append one event each and can be chained.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pub(super) flavour: Flavour,
    pub(super) file: u64,
    offset: u32,
    pub(super) events: Vec<Logged>,
    /// The last GTID's number.
    pub(super) sequence: u64,
    /// What is written now goes into a compressed transaction.
    payload: Option<Vec<u8>>,
}

impl Log {
    pub(super) fn new(flavour: Flavour) -> Self {
        let mut log = Self { flavour, file: 1, offset: 4, events: Vec::new(), sequence: 0, payload: None };
        log.file_head();
        log
    }

    pub(super) fn mysql() -> Self {
        Self::new(Flavour::MySql)
    }

    /// Where the next event will stand.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset)
    }

    pub(super) fn event(&mut self, event_type: u8, body: impl Into<Vec<u8>>) -> &mut Self {
        let mut event = raw(event_type, body.into(), 0, 0);
        if let Some(content) = &mut self.payload {
            content.extend([7, 0, 0, 0, event_type, 1, 0, 0, 0]);
            content.extend(event.header.event_size.to_le_bytes());
            content.extend([0; 6]);
            content.extend(&event.body);
            return self;
        }
        self.offset += event.header.event_size;
        event.header.end_offset = self.offset;
        self.events.push(Logged { file: self.file, raw: event });
        self
    }

    fn file_head(&mut self) {
        // Version 4, 50 bytes of server version, 4 of time, the header's length.
        let mut body = vec![0; 56];
        body[0] = 4;
        body.push(19);
        self.event(code::FORMAT_DESCRIPTION, body);
        match self.flavour {
            Flavour::MySql if self.sequence == 0 => self.event(code::PREVIOUS_GTIDS, [0; 8]),
            Flavour::MySql => {
                let mut body = 1_u64.to_le_bytes().to_vec();
                body.extend([1; 16]);
                body.extend([1, 1, self.sequence + 1].map(u64::to_le_bytes).concat());
                self.event(code::PREVIOUS_GTIDS, body)
            }
            Flavour::MariaDb if self.sequence == 0 => self.event(code::MARIADB_GTID_LIST, [0; 4]),
            Flavour::MariaDb => {
                let mut body = [1_u32, 0, 1].map(u32::to_le_bytes).concat();
                body.extend(self.sequence.to_le_bytes());
                self.event(code::MARIADB_GTID_LIST, body)
            }
        };
    }

    /// The log goes on in a new file.
    pub(super) fn rotate(&mut self) -> &mut Self {
        let mut body = 4_u64.to_le_bytes().to_vec();
        body.extend(file_name(self.file + 1).bytes());
        self.event(code::ROTATE, body);
        self.new_file()
    }

    /// The server died and came back: a new file without a rotate event at the end of the old one.
    pub(super) fn new_file(&mut self) -> &mut Self {
        self.file += 1;
        self.offset = 4;
        self.file_head();
        self
    }

    /// The server died within a group, whose GTID it will give out again.
    pub(super) fn crash(&mut self) -> &mut Self {
        self.payload = None;
        self.sequence -= 1;
        self.new_file()
    }

    /// A transaction with the next GTID begins.
    pub(super) fn gtid(&mut self) -> &mut Self {
        self.sequence += 1;
        match self.flavour {
            Flavour::MySql => {
                let mut body = vec![0];
                body.extend([1; 16]);
                body.extend(self.sequence.to_le_bytes());
                body.push(2);
                body.extend([0; 16]);
                body.extend(&(self.sequence * 1_000_000).to_le_bytes()[..7]);
                self.event(code::GTID, body)
            }
            Flavour::MariaDb => self.mariadb_gtid(0),
        }
    }

    /// A transaction of MariaDB that is a single statement.
    pub(super) fn standalone(&mut self) -> &mut Self {
        match self.flavour {
            Flavour::MySql => self.gtid(),
            Flavour::MariaDb => {
                self.sequence += 1;
                self.mariadb_gtid(1)
            }
        }
    }

    fn mariadb_gtid(&mut self, flags: u8) -> &mut Self {
        let mut body = self.sequence.to_le_bytes().to_vec();
        body.extend([0; 4]);
        body.push(flags);
        body.extend([0; 6]);
        self.event(code::MARIADB_GTID, body)
    }

    /// A transaction without a GTID begins, committed at this time in microseconds.
    pub(super) fn anonymous(&mut self, committed_micros: u64) -> &mut Self {
        let mut body = vec![0; 25];
        body.push(2);
        body.extend([0; 16]);
        body.extend(&committed_micros.to_le_bytes()[..7]);
        self.event(code::ANONYMOUS_GTID, body)
    }

    /// A GTID, and what MySQL begins a transaction with.
    pub(super) fn begin(&mut self) -> &mut Self {
        self.gtid();
        match self.flavour {
            Flavour::MySql => self.query("BEGIN"),
            Flavour::MariaDb => self,
        }
    }

    pub(super) fn query(&mut self, text: &str) -> &mut Self {
        let mut body = vec![0; 8];
        body.extend([4, 0, 0, 0, 0]);
        body.extend(b"shop\0");
        body.extend(text.bytes());
        self.event(code::QUERY, body)
    }

    pub(super) fn table_map(&mut self, table_id: u8, schema: &str, table: &str) -> &mut Self {
        let short = |length: usize| u8::try_from(length).expect("short");
        let mut body = table_map_head(table_id, schema, table);
        let count = COLUMNS.len();
        body.push(short(count));
        body.extend([15; COLUMNS.len()]);
        body.push(short(count * 2));
        body.extend([240, 0].repeat(count));
        body.push(0);
        // The default collation, utf8mb4_general_ci, and the names.
        body.extend([2, 1, 45]);
        let names: Vec<u8> =
            COLUMNS.iter().flat_map(|name| [&[short(name.len())][..], name.as_bytes()].concat()).collect();
        body.extend([4, short(names.len())]);
        body.extend(names);
        self.event(event_type::TABLE_MAP, body)
    }

    /// The table map of another table: garbage behind the names.
    pub(super) fn foreign_map(&mut self, table_id: u8) -> &mut Self {
        let mut body = table_map_head(table_id, "shop", "orders");
        body.extend([0xFF; 9]);
        self.event(event_type::TABLE_MAP, body)
    }

    /// Rows of another table: garbage behind the table id.
    pub(super) fn foreign_rows(&mut self, table_id: u8) -> &mut Self {
        let mut body = vec![table_id, 0, 0, 0, 0, 0, 1, 0];
        body.extend([0xFF; 7]);
        self.event(self.write_rows_code(), body)
    }

    fn write_rows_code(&self) -> u8 {
        match self.flavour {
            Flavour::MySql => event_type::WRITE_ROWS,
            Flavour::MariaDb => event_type::WRITE_ROWS_V1,
        }
    }

    /// Inserted rows by their ids.
    pub(super) fn rows(&mut self, table_id: u8, ids: &[&str]) -> &mut Self {
        let mut body = rows_head(table_id, self.flavour == Flavour::MySql);
        body.push(0x1F);
        ids.iter().for_each(|id| body.extend(row(id, id)));
        self.event(self.write_rows_code(), body)
    }

    /// Updated rows: their ids before and after.
    pub(super) fn updated_rows(&mut self, table_id: u8, ids: &[(&str, &str)]) -> &mut Self {
        let mut body = rows_head(table_id, true);
        body.extend([0x1F, 0x1F]);
        for (before, after) in ids {
            body.extend(row(before, "before"));
            body.extend(row(after, "after"));
        }
        self.event(event_type::UPDATE_ROWS, body)
    }

    /// Deleted rows, by their ids.
    pub(super) fn deleted_rows(&mut self, table_id: u8, ids: &[&str]) -> &mut Self {
        let mut body = rows_head(table_id, true);
        body.push(0x1F);
        ids.iter().for_each(|id| body.extend(row(id, id)));
        self.event(event_type::DELETE_ROWS, body)
    }

    /// A table map and an inserted row for each id.
    pub(super) fn insert(&mut self, table: usize, ids: &[&str]) -> &mut Self {
        let table_id = u8::try_from(10 + table).expect("small");
        self.table_map(table_id, "shop", TABLES[table]);
        if ids.is_empty() { self } else { self.rows(table_id, ids) }
    }

    pub(super) fn commit(&mut self) -> &mut Self {
        self.event(code::XID, [0; 8])
    }

    /// The event with which an XA transaction of this one-letter name is prepared, or committed in one phase.
    pub(super) fn xa_prepare(&mut self, name: char, one_phase: bool) -> &mut Self {
        let mut body = vec![u8::from(one_phase)];
        body.extend([1_u32, 1, 0].map(u32::to_le_bytes).concat());
        body.push(u8::try_from(name).expect("an ASCII letter"));
        self.event(code::XA_PREPARE, body)
    }

    /// `begin` of an XA transaction.
    pub(super) fn xa_start(&mut self, name: char) -> &mut Self {
        self.gtid().query(&format!("XA START {}", xid(name)))
    }

    /// A prepared XA transaction with rows.
    pub(super) fn prepared(&mut self, name: char, ids: &[&str]) -> &mut Self {
        self.xa_start(name).insert(0, ids).query(&format!("XA END {}", xid(name))).xa_prepare(name, false)
    }

    pub(super) fn xa_commit(&mut self, name: char) -> &mut Self {
        self.standalone().query(&format!("XA COMMIT {}", xid(name)))
    }

    pub(super) fn xa_rollback(&mut self, name: char) -> &mut Self {
        self.standalone().query(&format!("XA ROLLBACK {}", xid(name)))
    }

    /// What follows goes into a compressed transaction.
    pub(super) fn compressed(&mut self) -> &mut Self {
        self.payload = Some(Vec::new());
        self
    }

    /// The compressed transaction is complete.
    pub(super) fn compressed_end(&mut self) -> &mut Self {
        let content = self.payload.take().expect("a compressed transaction is open");
        let packed = zstd::stream::encode_all(&*content, 3).expect("compressed");
        let mut body = vec![2, 1, 0, 3, 4, 253];
        body.extend(&u32::try_from(content.len()).expect("small").to_le_bytes()[..3]);
        body.push(0);
        body.extend(packed);
        self.event(code::TRANSACTION_PAYLOAD, body)
    }

    /// The events from `offset` of `file` on, as a dump shows them.
    pub(super) fn from(&self, file: u64, offset: u64) -> Vec<Logged> {
        let mut events = vec![Logged { file, raw: artificial_rotate(file, offset) }];
        let mut last = file;
        for event in self.events.iter().filter(|event| (event.file, event.begins()) >= (file, offset)) {
            if event.file != last {
                last = event.file;
                events.push(Logged { file: last, raw: artificial_rotate(last, 4) });
            }
            events.push(event.clone());
        }
        events
    }
}

/// The server's notation.
pub(super) fn xid(name: char) -> String {
    format!("X'{:02x}',X'',1", u32::from(name))
}

fn table_map_head(table_id: u8, schema: &str, table: &str) -> Vec<u8> {
    let mut body = vec![table_id, 0, 0, 0, 0, 0, 1, 0];
    for name in [schema, table] {
        body.push(u8::try_from(name.len()).expect("short"));
        body.extend(name.bytes());
        body.push(0);
    }
    body
}

fn rows_head(table_id: u8, version_2: bool) -> Vec<u8> {
    let mut body = vec![table_id, 0, 0, 0, 0, 0, 1, 0];
    if version_2 {
        body.extend([2, 0]);
    }
    body.push(u8::try_from(COLUMNS.len()).expect("few"));
    body
}

fn row(id: &str, payload: &str) -> Vec<u8> {
    let mut row = vec![0];
    for value in [id, "order", "7", "placed", payload] {
        row.push(u8::try_from(value.len()).expect("short"));
        row.extend(value.bytes());
    }
    row
}

/// The bytes of an event, to be damaged.
pub(super) fn with_body(event: &RawEvent, body: impl Into<Bytes>) -> RawEvent {
    RawEvent { header: event.header, body: body.into() }
}
