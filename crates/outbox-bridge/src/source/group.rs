//! Reads one group of events again and lets its rows out as they come: for transactions that are too large to be held
//! until their commit is seen, and for XA transactions that were prepared long before it.
//!
//! That the group is committed is known before it is read, so nothing needs to be held back.

use std::sync::Arc;

use super::{
    connection::{DumpRequest, DumpStream, Flavour},
    event::{Event, PayloadReader, QueryEvent, Statement},
    find,
    log::{LogError, LogOptions},
};
use crate::{
    decode::RowsKind,
    publish::{Message, TransactionId},
    route::finish,
    transaction::{EventRows, Numbers, Opened, OutboxRows, Replay, Taken, TransactionError},
};

/// Reads one group.
pub(super) struct GroupReader {
    options: LogOptions,
    dump: DumpStream,
    flavour: Flavour,
    payload: Option<PayloadReader>,
    rows: OutboxRows,
    /// What is left of the event that was read last.
    open: Option<EventRows>,
    transaction: Arc<TransactionId>,
    numbers: Numbers,
    begun: bool,
}

impl GroupReader {
    pub(super) async fn open(
        options: &LogOptions,
        replay: Replay,
        rows: OutboxRows,
    ) -> Result<Self, LogError> {
        let connection = find::connect(options).await?;
        let flavour = connection.server().flavour;
        let request = DumpRequest {
            // The server drops a dump when another with the same id begins.
            server_id: find::second_server_id(options.server_id),
            file: replay.file,
            offset: replay.offset,
            heartbeat: options.heartbeat,
            non_blocking: false,
        };
        let dump = connection.dump(request).await?.with_event_bytes_max(options.event_bytes_max);
        Ok(Self {
            options: options.clone(),
            dump,
            flavour,
            payload: None,
            rows,
            open: None,
            transaction: replay.transaction,
            numbers: Numbers::default(),
            begun: false,
        })
    }

    /// Appends messages until there are as many as may be, or the group ends: then `true`.
    pub(super) async fn fill(
        &mut self,
        messages: &mut Vec<(usize, Message)>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<bool, LogError> {
        let mut bytes = 0;
        while messages.len() < rows_max && bytes < bytes_max {
            if let Some(mut rows) = self.open.take() {
                let begin = messages.len();
                let whole = self
                    .rows
                    .fill(&mut rows, &self.transaction, messages, (rows_max, bytes_max - bytes))
                    .map_err(|error| self.at(error))?;
                for (stream, message) in messages.iter_mut().skip(begin) {
                    finish(message, &self.transaction, self.numbers.next(*stream));
                    bytes += message.size();
                }
                self.open = (!whole).then_some(rows);
                continue;
            }
            let raw = match &mut self.payload {
                Some(payload) => match payload.next_event()? {
                    Some(event) => event,
                    None => {
                        self.payload = None;
                        continue;
                    }
                },
                None => match self.dump.next_buffered() {
                    Some(event) => event?,
                    None => match self.dump.next().await? {
                        Some(event) => event,
                        None => continue,
                    },
                },
            };
            match Event::parse(&raw, self.flavour)? {
                Event::Gtid(_) if self.begun => {
                    return Err(TransactionError::Unfinished { at: self.transaction.to_string() }.into());
                }
                Event::Gtid(_) => self.begun = true,
                Event::TableMap(body) => {
                    while let Taken::Define(route) =
                        self.rows.table_map(&body).map_err(|error| self.at(error))?
                    {
                        let Some(name) = self.rows.table(route) else { break };
                        let mut connection = find::connect(&self.options).await?;
                        let definition = find::table_definition(&mut connection, &name).await?;
                        self.rows.define(route, Arc::new(definition));
                    }
                }
                Event::Rows(kind) => {
                    let wanted = kind != RowsKind::Delete;
                    if let Opened::Rows(rows) =
                        self.rows.open(&raw, wanted).map_err(|error| self.at(error))?
                    {
                        self.open = Some(rows);
                    }
                }
                Event::TransactionPayload(payload) => {
                    self.payload = Some(PayloadReader::new(payload, self.options.event_bytes_max)?);
                }
                Event::Xid | Event::XaPrepare { .. } => return Ok(true),
                Event::Query(query) => match query.statement() {
                    Statement::Commit => return Ok(true),
                    // The group may be one that was prepared where nobody looked.
                    Statement::Dml => self.refuse(&query)?,
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(false)
    }

    /// Refuses a statement that may have inserted outbox rows.
    fn refuse(&self, query: &QueryEvent) -> Result<(), TransactionError> {
        let at = self.transaction.to_string();
        match self.rows.written_by(query) {
            Some(table) => Err(TransactionError::Statement { at, table: table.to_owned() }),
            None if self.options.refuse_foreign_statements => Err(TransactionError::ForeignStatement { at }),
            None => Ok(()),
        }
    }

    fn at(&self, error: crate::transaction::RowsError) -> TransactionError {
        error.at(self.transaction.to_string())
    }
}
