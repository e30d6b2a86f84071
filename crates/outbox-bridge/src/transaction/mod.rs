//! From events to committed transactions: holds the rows of outbox tables until their fate is known.
//!
//! The [`Assembler`] is pure. It is fed one event after the other and keeps, for the group of events that is open, the
//! messages that will be sent if the group is committed. What it never does:
//!
//! - It never lets a row out before the commit of its transaction, and never one of a rolled-back transaction.
//! - It never looks at the rows of other tables, nor at their columns.
//! - It never passes over what it does not understand within a group: a group that does not end, a statement that may
//!   have inserted outbox rows, an incident are errors.
//! - It never holds more than its limit: a larger transaction is only followed to its end, and then read again
//!   ([`Step::Replay`]). The same way serves XA transactions, whose rows stand far before their commit.

mod error;
mod fate;
mod rows;
mod skip;

use std::{collections::BTreeMap, sync::Arc};

use outbox_event::log_file_number;

use self::fate::{Fate, PreparedState, Waiting};
use self::skip::Skip;

pub use self::error::TransactionError;
pub use self::rows::{EventRows, Opened, OutboxRows, RowsError, Taken};
use crate::{
    checkpoint::{At, LogPoint, Prepared, Transaction},
    config::TableName,
    decode::{ColumnDefinition, RowsKind},
    publish::{Message, TransactionId},
    source::{
        RawEvent,
        connection::Flavour,
        event::{Event, EventError, GtidEvent, QueryEvent, Statement, TransactionPayload},
        gtid::{Gtid, GtidSet},
    },
};

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Feed the next event.
    Continue,
    /// Feed the events of this payload, then the next one.
    Payload(TransactionPayload),
    /// Ask for the definition of this table ([`Assembler::define`]) and feed the same event again.
    Define(usize),
    /// A committed transaction whose rows are not at hand: read its group again and send its rows, then call
    /// [`Assembler::replayed`].
    Replay(Replay),
    /// An XA transaction was committed whose prepare was not seen: look for it in the earlier log, then call
    /// [`Assembler::found`].
    FindPrepare {
        /// Its XID.
        xid: String,
        /// The file in which it was committed: the prepare stands before, and another one of the same name may follow.
        file: String,
        /// The offset at which the group of the commit begins.
        offset: u64,
    },
}

/// A group to be read again.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The file in which the group begins.
    pub file: String,
    /// The offset at which it begins.
    pub offset: u64,
    /// The transaction to which its rows belong, which is not the group's own if it was prepared by XA.
    pub transaction: Arc<TransactionId>,
}

/// The group of events that is open.
#[derive(Debug)]
struct Group {
    transaction: Arc<TransactionId>,
    gtid: Option<Gtid>,
    /// Ends with its only event.
    standalone: bool,
    /// It has been said to be more than one statement.
    begun: bool,
    /// Not to be published: it is done already.
    skip: bool,
    messages: Vec<(usize, Message)>,
    bytes: usize,
    /// Its messages were more than may be held and have been dropped.
    overflown: bool,
    /// XA: the transaction's XID, once its prepare is seen to come.
    xid: Option<String>,
}

/// What the first group must be.
#[derive(Debug)]
enum Expected {
    Anything,
    Done(Transaction),
    Pending(Transaction),
}

/// Makes committed transactions of events; see the module.
#[derive(Debug)]
pub struct Assembler {
    server: String,
    flavour: Flavour,
    rows: OutboxRows,
    /// At most so many bytes of messages are held for open and prepared transactions together.
    buffer_bytes_max: usize,
    refuse_foreign_statements: bool,
    prepared_bytes: usize,
    file: Arc<str>,
    file_number: u64,
    expected: Expected,
    skip: Skip,
    /// Up to this offset of the first file only the GTIDs are taken, to know the executed ones.
    scan_until: Option<u64>,
    executed: Option<GtidSet>,
    prepared: BTreeMap<String, PreparedState>,
    group: Option<Group>,
    /// The point behind all that is done.
    point: (String, u64, At),
    /// Behind the last event that was read, and behind the last after which nothing was open.
    read_to: (Arc<str>, u64),
    reached: (Arc<str>, u64),
    /// The group that waits for a replay or a search.
    waiting: Option<Waiting>,
    foreign_rows: u64,
    transactions: u64,
}

impl Assembler {
    /// An assembler that begins at `point`. `executed` is the point's set, parsed.
    #[must_use]
    pub fn new(
        point: &LogPoint,
        executed: Option<GtidSet>,
        flavour: Flavour,
        rows: OutboxRows,
        buffer_bytes_max: usize,
    ) -> Self {
        let expected = match &point.at {
            At::Boundary | At::Gtids => Expected::Anything,
            At::Done(transaction) => Expected::Done(transaction.clone()),
            At::Pending(transaction) => Expected::Pending(transaction.clone()),
        };
        let prepared = point.prepared.iter().map(|prepared| {
            let Prepared { xid, file, offset, rows } = prepared.clone();
            (xid, PreparedState { file, offset, has_rows: rows, messages: None, bytes: 0 })
        });
        Self {
            server: point.server.clone(),
            flavour,
            rows,
            buffer_bytes_max,
            refuse_foreign_statements: false,
            prepared_bytes: 0,
            file: point.file.as_str().into(),
            file_number: log_file_number(&point.file).unwrap_or_default(),
            expected,
            skip: Skip::new(flavour, executed.as_ref().filter(|_| point.at == At::Gtids)),
            scan_until: executed.is_none().then_some(point.offset),
            executed,
            prepared: prepared.collect(),
            group: None,
            point: (point.file.clone(), point.offset, point.at.clone()),
            read_to: (point.file.as_str().into(), point.offset),
            reached: (point.file.as_str().into(), point.offset),
            waiting: None,
            foreign_rows: 0,
            transactions: 0,
        }
    }

    /// Whether to stop when another table is written to in statement format; without this call such statements pass.
    #[must_use]
    pub fn refusing_foreign_statements(mut self, refuse: bool) -> Self {
        self.refuse_foreign_statements = refuse;
        self
    }

    /// The table of a route.
    #[must_use]
    pub fn table(&self, route: usize) -> Option<TableName> {
        self.rows.table(route)
    }

    /// What decodes the rows, for a [`Replay`].
    #[must_use]
    pub fn rows(&self) -> &OutboxRows {
        &self.rows
    }

    /// Row events of other tables, and transactions with outbox rows, since the last call.
    pub fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.foreign_rows), std::mem::take(&mut self.transactions))
    }

    /// The point behind everything that has been let out.
    #[must_use]
    pub fn point(&self) -> LogPoint {
        let (file, offset, at) = self.point.clone();
        LogPoint {
            server: self.server.clone(),
            file,
            offset,
            at,
            // In the middle of a scan the set is not complete.
            executed: self.executed.as_ref().filter(|_| self.scan_until.is_none()).map(ToString::to_string),
            prepared: self
                .prepared
                .iter()
                .map(|(xid, state)| Prepared {
                    xid: xid.clone(),
                    file: state.file.clone(),
                    offset: state.offset,
                    rows: state.has_rows,
                })
                .collect(),
            definitions: self.rows.definitions_for_checkpoint(),
        }
    }

    /// Where the part of the log ends from which everything that is committed has been let out.
    ///
    /// Events of a compressed transaction have no place of their own; it is closed by one of them, and then all of it has
    /// been taken.
    #[must_use]
    pub fn reached(&mut self) -> (String, u64) {
        if self.group.is_none() && self.waiting.is_none() && self.scan_until.is_none() {
            self.reached.clone_from(&self.read_to);
        }
        (self.reached.0.to_string(), self.reached.1)
    }

    /// Takes the definition of the table of a route, as asked for by [`Step::Define`].
    pub fn define(&mut self, route: usize, definition: Vec<ColumnDefinition>) {
        self.rows.define(route, Arc::new(definition));
    }

    /// Takes one event; messages of transactions that are committed by it are appended to `out`.
    ///
    /// # Errors
    ///
    /// See [`TransactionError`].
    pub fn take(
        &mut self,
        raw: &RawEvent,
        out: &mut Vec<(usize, Message)>,
    ) -> Result<Step, TransactionError> {
        let event = Event::parse(raw, self.flavour).map_err(|source| self.bad_event(source))?;
        if let Some(until) = self.scan_until {
            let begins = u64::from(raw.header.end_offset).saturating_sub(u64::from(raw.header.event_size));
            if raw.header.end_offset == 0 || begins < until {
                return self.scan(event);
            }
            self.scan_until = None;
        }
        if raw.header.end_offset != 0 {
            self.read_to = (self.file.clone(), u64::from(raw.header.end_offset));
        }
        match event {
            Event::Rotate { file, offset } => self.rotate(raw, file, offset),
            Event::FormatDescription => {
                self.rows.forget_table_maps();
                // A server that dies while it writes a group leaves it open; its next log begins without it.
                if self.group.take().is_some() {
                    tracing::warn!(
                        at = self.at(),
                        "a transaction was left unfinished by a crash of the server: not committed"
                    );
                }
                Ok(Step::Continue)
            }
            Event::Gtid(gtid) => self.begin(raw, gtid),
            Event::Query(query) => self.query(&query, out),
            Event::Xid => self.end(Fate::Committed, out),
            Event::XaPrepare { xid, one_phase } => {
                self.end(if one_phase { Fate::Committed } else { Fate::Prepared(xid.to_string()) }, out)
            }
            Event::TableMap(body) => match self.rows.table_map(&body) {
                Ok(Taken::Define(route)) => Ok(Step::Define(route)),
                Ok(Taken::Done) => Ok(Step::Continue),
                Err(error) => Err(error.at(self.at())),
            },
            Event::Rows(kind) => self.rows_event(raw, kind),
            Event::TransactionPayload(payload) => {
                if self.group.is_none() {
                    return Err(TransactionError::Stray { at: self.at() });
                }
                Ok(Step::Payload(payload))
            }
            Event::PreviousGtids(body) if self.executed.is_none() => {
                self.executed =
                    Some(GtidSet::from_previous_gtids(&body).map_err(|source| self.bad_event(source))?);
                Ok(Step::Continue)
            }
            Event::GtidList(body) => {
                let before = GtidSet::from_gtid_list(&body).map_err(|source| self.bad_event(source))?;
                self.skip.pass_all(&before);
                self.executed.get_or_insert(before);
                Ok(Step::Continue)
            }
            Event::Incident { message } => Err(TransactionError::Incident { at: self.at(), text: message }),
            _ => Ok(Step::Continue),
        }
    }

    /// An event before the point: only what it says of executed transactions counts.
    fn scan(&mut self, event: Event) -> Result<Step, TransactionError> {
        match event {
            Event::PreviousGtids(body) => {
                self.executed =
                    Some(GtidSet::from_previous_gtids(&body).map_err(|source| self.bad_event(source))?);
            }
            Event::GtidList(body) => {
                self.executed =
                    Some(GtidSet::from_gtid_list(&body).map_err(|source| self.bad_event(source))?);
            }
            Event::Gtid(GtidEvent { gtid: Some(gtid), .. }) => {
                self.executed.get_or_insert_with(|| GtidSet::empty(self.flavour)).add(&gtid);
            }
            Event::Rotate { file, .. } if *file != *self.file => {
                let expected = match &self.expected {
                    Expected::Anything => "a transaction".to_owned(),
                    Expected::Done(expected) | Expected::Pending(expected) => expected.gtid.clone(),
                };
                let found = "the end of the file".to_owned();
                return Err(TransactionError::OtherLog { at: self.at(), expected, found });
            }
            _ => {}
        }
        Ok(Step::Continue)
    }

    fn bad_event(&self, source: EventError) -> TransactionError {
        TransactionError::Event { at: self.at(), source }
    }

    fn at(&self) -> String {
        match &self.group {
            Some(group) => group.transaction.to_string(),
            None => format!("{}:{}", self.point.0, self.point.1),
        }
    }

    fn rotate(&mut self, raw: &RawEvent, file: String, offset: u64) -> Result<Step, TransactionError> {
        const ARTIFICIAL: u16 = 0x20;
        if self.file_number != log_file_number(&file).unwrap_or_default() || *self.file != *file {
            self.file_number = log_file_number(&file).unwrap_or_default();
            self.file = file.as_str().into();
            self.read_to = (self.file.clone(), offset.max(4));
        }
        let real = raw.header.flags & ARTIFICIAL == 0 && raw.header.end_offset != 0;
        if real && self.group.is_none() && !matches!(self.expected, Expected::Done(_) | Expected::Pending(_))
        {
            // An idle server's old logs are purged: the point must not stay in them.
            let at = if self.skip.is_under_way() { At::Gtids } else { At::Boundary };
            self.point = (file, offset.max(4), at);
        }
        Ok(Step::Continue)
    }

    fn begin(&mut self, raw: &RawEvent, gtid: GtidEvent) -> Result<Step, TransactionError> {
        let offset = u64::from(raw.header.end_offset).saturating_sub(u64::from(raw.header.event_size));
        if self.group.is_some() {
            return Err(TransactionError::Unfinished { at: self.at() });
        }
        let name = gtid.gtid.as_ref().map(ToString::to_string).unwrap_or_default();
        let committed_micros = gtid.commit_time_micros.unwrap_or(u64::from(raw.header.timestamp) * 1_000_000);
        let transaction = Arc::new(TransactionId {
            gtid: name,
            file: self.file.clone(),
            file_number: self.file_number,
            offset,
            committed_micros,
        });
        let mut skip = false;
        match std::mem::replace(&mut self.expected, Expected::Anything) {
            Expected::Anything => {}
            Expected::Done(expected) => {
                self.verify(&expected, &transaction)?;
                skip = true;
            }
            Expected::Pending(expected) => self.verify(&expected, &transaction)?,
        }
        if let Some(gtid) = &gtid.gtid {
            skip |= self.skip.is_done(gtid, self.executed.as_ref());
        }
        self.rows.forget_table_maps();
        self.group = Some(Group {
            transaction,
            gtid: gtid.gtid,
            standalone: gtid.standalone,
            begun: self.flavour == Flavour::MariaDb && !gtid.standalone,
            skip,
            messages: Vec::new(),
            bytes: 0,
            overflown: false,
            xid: None,
        });
        Ok(Step::Continue)
    }

    fn verify(&self, expected: &Transaction, found: &TransactionId) -> Result<(), TransactionError> {
        let (file, offset, _) = &self.point;
        let same_place = *file == *found.file && *offset == found.offset;
        let same_time = expected.committed_micros == 0 || expected.committed_micros == found.committed_micros;
        if same_place && expected.gtid == found.gtid && (!expected.gtid.is_empty() || same_time) {
            return Ok(());
        }
        let name = |gtid: &str, micros: u64| match gtid {
            "" => format!("an anonymous transaction of {micros} µs"),
            gtid => gtid.to_owned(),
        };
        Err(TransactionError::OtherLog {
            at: format!("{file}:{offset}"),
            expected: name(&expected.gtid, expected.committed_micros),
            found: name(&found.gtid, found.committed_micros),
        })
    }

    fn query(
        &mut self,
        query: &QueryEvent,
        out: &mut Vec<(usize, Message)>,
    ) -> Result<Step, TransactionError> {
        let statement = query.statement();
        let Some(group) = &mut self.group else {
            // Before GTID events there was nothing that could be published; statements between groups do no harm.
            return match statement {
                Statement::Ddl => {
                    self.rows.forget_definitions(query);
                    Ok(Step::Continue)
                }
                _ => Ok(Step::Continue),
            };
        };
        match statement {
            Statement::Begin => group.begun = true,
            Statement::XaStart(xid) => {
                group.begun = true;
                group.xid = Some(xid.to_string());
            }
            Statement::Commit => return self.end(Fate::Committed, out),
            Statement::Rollback => return self.end(Fate::RolledBack, out),
            Statement::XaCommit { xid, one_phase: false } => {
                return self.end(Fate::CommittedPrepared(xid.to_string()), out);
            }
            Statement::XaCommit { one_phase: true, .. } => return self.end(Fate::Committed, out),
            Statement::XaRollback(xid) => return self.end(Fate::RolledBackPrepared(xid.to_string()), out),
            Statement::Ddl => {
                // What is known of the tables is newer than a statement that is read once more.
                if !group.skip {
                    self.rows.forget_definitions(query);
                }
                if !group.begun || group.standalone {
                    return self.end(Fate::Committed, out);
                }
            }
            Statement::Dml => {
                let skip = group.skip;
                if let Some(table) = self.rows.written_by(query).filter(|_| !skip) {
                    return Err(TransactionError::Statement { at: self.at(), table: table.to_string() });
                }
                if self.refuse_foreign_statements && !skip {
                    return Err(TransactionError::ForeignStatement { at: self.at() });
                }
            }
            Statement::Unreadable => {
                return Err(TransactionError::Unreadable { at: self.at() });
            }
            Statement::Savepoint | Statement::XaEnd | Statement::XaPrepare | Statement::Other => {
                if !group.begun {
                    return self.end(Fate::Committed, out);
                }
            }
        }
        if self.group.as_ref().is_some_and(|group| group.standalone) {
            return self.end(Fate::Committed, out);
        }
        Ok(Step::Continue)
    }

    fn rows_event(&mut self, raw: &RawEvent, kind: RowsKind) -> Result<Step, TransactionError> {
        let Some(group) = &mut self.group else { return Err(TransactionError::Stray { at: self.at() }) };
        let wanted = kind != RowsKind::Delete && !group.skip && !group.overflown;
        let at = |error: RowsError| error.at(group.transaction.to_string());
        let mut rows = match self.rows.open(raw, wanted).map_err(at)? {
            Opened::Foreign => {
                self.foreign_rows += 1;
                return Ok(Step::Continue);
            }
            Opened::Nothing => return Ok(Step::Continue),
            Opened::Rows(rows) => rows,
        };
        let before = group.messages.len();
        // One event may hold more than all of the buffer.
        let room = self.buffer_bytes_max.saturating_sub(group.bytes + self.prepared_bytes);
        let whole = self
            .rows
            .fill(&mut rows, &group.transaction, &mut group.messages, (usize::MAX, room))
            .map_err(|error| error.at(group.transaction.to_string()))?;
        group.bytes += group.messages.iter().skip(before).map(|(_, message)| message.size()).sum::<usize>();
        if !whole || group.bytes + self.prepared_bytes > self.buffer_bytes_max {
            group.overflown = true;
            group.messages = Vec::new();
        }
        Ok(Step::Continue)
    }
}

/// Numbers the rows of a transaction by stream.
#[derive(Debug, Default)]
pub struct Numbers(Vec<(usize, u64)>);

impl Numbers {
    /// The number of the stream's next row, from 0.
    pub fn next(&mut self, stream: usize) -> u64 {
        match self.0.iter_mut().find(|(other, _)| *other == stream) {
            Some((_, number)) => {
                *number += 1;
                *number
            }
            None => {
                self.0.push((stream, 0));
                0
            }
        }
    }
}

#[cfg(test)]
mod tests;
