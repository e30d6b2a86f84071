//! From a committed row to a message: pure and synchronous.
//!
//! A [`Route`] knows one outbox table and which column means what. It takes the values of one row and makes the message
//! of them, except for what only the end of the transaction tells (its position, the row's number, the commit time), which
//! [`finish`] adds. Nothing that a row says gets into a message unencoded except the body.

mod headers;
mod template;
mod unroutable;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use outbox_event::header;

use crate::{
    config::{self, HeadersColumn},
    decode::Value,
    publish::{Headers, Message, TransactionId},
};
pub use headers::HeadersError;
pub use template::{Placeholder, SubjectTemplate, SubjectValues, TemplateError};

/// Why a row cannot become a message, or a table cannot be an outbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A column that is mapped does not exist.
    #[error("table {table} has no column {column}, which outbox.columns.{role} names")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NoColumn { table: String, column: String, role: &'static str },
    /// A value that must be there is not.
    #[error("a row of {table} has {what} in column {column} ({role}); {remedy}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Missing { table: String, column: String, role: &'static str, what: &'static str, remedy: &'static str },
    /// A binary value where text belongs.
    #[error("a row of {table} has bytes that are no text in column {column} ({role})")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NotText { table: String, column: String, role: &'static str },
    /// The headers are not what they must be.
    #[error("a row of {table} has headers in column {column} that cannot be sent")]
    Headers {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What is wrong with them.
        source: HeadersError,
    },
}

/// An event id that the table keeps as bytes, as the message names it.
pub(crate) fn id_of_bytes(bytes: &[u8]) -> String {
    match <[u8; 16]>::try_from(bytes) {
        Ok(bytes) => uuid::Uuid::from_bytes(bytes).to_string(),
        Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Room for the headers of a message without any of the application's.
const HEADERS: usize = 7;

/// One outbox table: which stream it goes to, and how.
#[derive(Debug, Clone)]
pub struct Route {
    /// `schema.table`.
    pub table: Arc<str>,
    /// The stream's index.
    pub stream: usize,
    config: config::Outbox,
    source: String,
    parking: bool,
}

/// Where in a row's values each role stands, for one version of a table. `values` are those of `projection`'s columns.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// The columns to decode, by their index in the table, in ascending order.
    pub projection: Vec<usize>,
    id: usize,
    aggregate_type: usize,
    aggregate_id: usize,
    event_type: usize,
    payload: usize,
    headers: Option<usize>,
    content_type: Option<usize>,
    partition_key: Option<usize>,
}

impl Mapping {
    /// The event id among a row's values.
    #[must_use]
    pub fn id_of<'v>(&self, values: &'v [Value]) -> Option<&'v Value> {
        values.get(self.id)
    }
}

impl Route {
    /// The route of an outbox; `server` is what its `ce-source` says unless configured.
    #[must_use]
    pub fn new(config: config::Outbox, stream: usize, server: &str) -> Self {
        let table: Arc<str> = config.table.to_string().into();
        let source = config.source.clone().unwrap_or_else(|| format!("//{server}/{table}"));
        Self { table, stream, source: header::encode_value(&source).into_owned(), config, parking: false }
    }

    /// Whether a row that cannot become a message is handed on as one that says so, instead of being an error.
    #[must_use]
    pub fn parking(mut self, parking: bool) -> Self {
        self.parking = parking;
        self
    }

    /// Whether rows of this table take this route.
    #[must_use]
    pub fn matches(&self, schema: &[u8], table: &[u8]) -> bool {
        self.config.table.schema.as_bytes() == schema && self.config.table.table.as_bytes() == table
    }

    /// The schema and the table.
    #[must_use]
    pub fn name(&self) -> &config::TableName {
        &self.config.table
    }

    /// The column with the time of the insert.
    pub(crate) fn created_at(&self) -> &str {
        &self.config.columns.created_at
    }

    /// Finds the mapped columns among `names`, the table's columns in order.
    ///
    /// # Errors
    ///
    /// [`RouteError::NoColumn`].
    pub fn map<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<Mapping, RouteError> {
        let columns = &self.config.columns;
        let find = |column: &str| names.clone().position(|name| name.eq_ignore_ascii_case(column));
        let required = |column: &str, role| {
            find(column).ok_or_else(|| RouteError::NoColumn {
                table: self.table.to_string(),
                column: column.into(),
                role,
            })
        };
        let optional = |column: &Option<String>, role| {
            column.as_deref().map(|column| required(column, role)).transpose()
        };
        let id = required(&columns.id, "id")?;
        let aggregate_type = required(&columns.aggregate_type, "aggregate_type")?;
        let aggregate_id = required(&columns.aggregate_id, "aggregate_id")?;
        let event_type = required(&columns.event_type, "type")?;
        let payload = required(&columns.payload, "payload")?;
        let headers = match &columns.headers {
            HeadersColumn::IfPresent(column) => find(column),
            HeadersColumn::Required(column) => Some(required(column, "headers")?),
            HeadersColumn::None => None,
        };
        let content_type = optional(&columns.content_type, "content_type")?;
        let partition_key = optional(&columns.partition_key, "partition_key")?;
        let mut projection = vec![id, aggregate_type, aggregate_id, event_type, payload];
        projection.extend([headers, content_type, partition_key].into_iter().flatten());
        projection.sort_unstable();
        projection.dedup();
        let at = |index: usize| projection.binary_search(&index).unwrap_or_default();
        Ok(Mapping {
            id: at(id),
            aggregate_type: at(aggregate_type),
            aggregate_id: at(aggregate_id),
            event_type: at(event_type),
            payload: at(payload),
            headers: headers.map(at),
            content_type: content_type.map(at),
            partition_key: partition_key.map(at),
            projection,
        })
    }

    /// Makes the message of a row. Its transaction and number are still to be set by [`finish`].
    ///
    /// # Errors
    ///
    /// [`RouteError`]: the row cannot become a message.
    pub fn message(
        &self,
        mapping: &Mapping,
        values: &[Value],
        transaction: &Arc<TransactionId>,
    ) -> Result<Message, RouteError> {
        match self.routed(mapping, values, transaction) {
            Err(error) if self.parking => Ok(self.unroutable(mapping, values, transaction, &error)),
            routed => routed,
        }
    }

    fn routed(
        &self,
        mapping: &Mapping,
        values: &[Value],
        transaction: &Arc<TransactionId>,
    ) -> Result<Message, RouteError> {
        let columns = &self.config.columns;
        let id = self.id(values.get(mapping.id), &columns.id)?;
        let aggregate_type =
            self.text(values.get(mapping.aggregate_type), &columns.aggregate_type, "aggregate_type")?;
        let aggregate_id =
            self.text(values.get(mapping.aggregate_id), &columns.aggregate_id, "aggregate_id")?;
        let event_type = self.text(values.get(mapping.event_type), &columns.event_type, "type")?;
        let partition_key =
            match self.optional(mapping.partition_key, values, &columns.partition_key, "partition_key")? {
                Some(key) => key,
                None => Cow::Borrowed(&*aggregate_id),
            };
        let content_type =
            self.optional(mapping.content_type, values, &columns.content_type, "content_type")?;
        let body = match values.get(mapping.payload) {
            Some(Value::Bytes(bytes)) => bytes.clone(),
            Some(Value::Text(text) | Value::Json(text)) => text.clone().into_bytes(),
            Some(Value::Null) => Bytes::new(),
            Some(Value::Absent) | None => return Err(self.absent(&columns.payload, "payload")),
        };

        let name = &self.config.table;
        let subject_values = SubjectValues {
            aggregate_type: &aggregate_type,
            aggregate_id: &aggregate_id,
            event_type: &event_type,
            partition_key: &partition_key,
            id: &id,
            schema: &name.schema,
            table: &name.table,
        };
        let mut subject = String::with_capacity(64);
        self.config.subject.render(&subject_values, &mut subject);

        let mut headers = Headers::with_capacity(HEADERS);
        let mut push = |name, value| headers.push((Cow::Borrowed(name), value));
        let encoded = |value| Cow::Owned(header::encode_value(value).into_owned());
        push(header::CE_SPECVERSION, Cow::Borrowed(header::CE_SPECVERSION_VALUE));
        push(header::CE_TYPE, encoded(&event_type));
        push(header::CE_SUBJECT, encoded(&aggregate_id));
        push(header::CE_PARTITION_KEY, encoded(&partition_key));
        push(header::CE_SOURCE, Cow::Owned(self.source.clone()));
        push(
            header::CONTENT_TYPE,
            match &content_type {
                Some(value) => Cow::Owned(header::encode_application_value(value).into_owned()),
                None => Cow::Borrowed(header::CONTENT_TYPE_JSON),
            },
        );
        if let Some(index) = mapping.headers {
            self.application_headers(values.get(index), &mut headers)?;
        }
        Ok(Message {
            transaction: transaction.clone(),
            row: 0,
            table: self.table.clone(),
            subject: subject.into(),
            id: match header::encode_value(&id) {
                Cow::Owned(encoded) => encoded,
                Cow::Borrowed(_) => id.into_owned(),
            },
            headers,
            body,
            poison: None,
        })
    }

    fn application_headers(&self, value: Option<&Value>, headers: &mut Headers) -> Result<(), RouteError> {
        let text: &[u8] = match value {
            Some(Value::Json(text) | Value::Text(text)) => text.as_bytes(),
            Some(Value::Bytes(bytes)) => bytes,
            Some(Value::Null | Value::Absent) | None => return Ok(()),
        };
        headers::parse(text, headers).map_err(|source| {
            let column = match &self.config.columns.headers {
                HeadersColumn::IfPresent(column) | HeadersColumn::Required(column) => column.clone(),
                HeadersColumn::None => String::new(),
            };
            RouteError::Headers { table: self.table.to_string(), column, source }
        })
    }

    /// Sixteen bytes are a UUID; other bytes become hexadecimal digits.
    fn id<'v>(&self, value: Option<&'v Value>, column: &str) -> Result<Cow<'v, str>, RouteError> {
        match value {
            Some(Value::Bytes(bytes)) => Ok(Cow::Owned(id_of_bytes(bytes))),
            Some(Value::Text(text)) if text.as_str().is_empty() => Err(RouteError::Missing {
                table: self.table.to_string(),
                column: column.into(),
                role: "id",
                what: "an empty text",
                remedy: "every event needs an id of its own",
            }),
            value => self.text(value, column, "id"),
        }
    }

    fn optional<'v>(
        &self,
        index: Option<usize>,
        values: &'v [Value],
        column: &Option<String>,
        role: &'static str,
    ) -> Result<Option<Cow<'v, str>>, RouteError> {
        match index.and_then(|index| values.get(index)) {
            None | Some(Value::Null | Value::Absent) => Ok(None),
            value => self.text(value, column.as_deref().unwrap_or_default(), role).map(Some),
        }
    }

    fn text<'v>(
        &self,
        value: Option<&'v Value>,
        column: &str,
        role: &'static str,
    ) -> Result<Cow<'v, str>, RouteError> {
        match value {
            Some(Value::Text(text) | Value::Json(text)) => Ok(Cow::Borrowed(text.as_str())),
            Some(Value::Bytes(bytes)) => {
                match <[u8; 16]>::try_from(&**bytes) {
                    Ok(uuid) => Ok(Cow::Owned(uuid::Uuid::from_bytes(uuid).to_string())),
                    Err(_) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| {
                        RouteError::NotText { table: self.table.to_string(), column: column.into(), role }
                    }),
                }
            }
            Some(Value::Null) => Err(RouteError::Missing {
                table: self.table.to_string(),
                column: column.into(),
                role,
                what: "NULL",
                remedy: "declare the column NOT NULL, and correct the row",
            }),
            Some(Value::Absent) | None => Err(self.absent(column, role)),
        }
    }

    fn absent(&self, column: &str, role: &'static str) -> RouteError {
        RouteError::Missing {
            table: self.table.to_string(),
            column: column.into(),
            role,
            what: "no value",
            remedy: "the insert left it to the column's default, which a minimal row image does not show: name the column in \
                     the insert or set binlog_row_image=FULL",
        }
    }
}

/// Adds to the messages of one stream's rows what the end of their transaction tells.
pub fn finish(message: &mut Message, transaction: &Arc<TransactionId>, row: u64) {
    message.transaction = transaction.clone();
    message.row = row;
    let time = rfc3339_micros(transaction.committed_micros);
    message.headers.push((Cow::Borrowed(header::CE_TIME), Cow::Owned(time)));
}

/// A time in microseconds since the epoch as RFC 3339 in UTC with microseconds.
fn rfc3339_micros(micros: u64) -> String {
    let time = i128::from(micros).checked_mul(1_000);
    let time = time.and_then(|nanos| time::OffsetDateTime::from_unix_timestamp_nanos(nanos).ok());
    let time = time.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (time.date(), time.time());
    let (hour, minute, second, micro) = clock.as_hms_micro();
    let year = u32::try_from(date.year()).unwrap_or_default();
    let mut text = String::with_capacity("2026-11-23T12:06:13.782049Z".len());
    for (number, digits, behind) in [
        (year, 4, '-'),
        (u8::from(date.month()).into(), 2, '-'),
        (date.day().into(), 2, 'T'),
        (hour.into(), 2, ':'),
        (minute.into(), 2, ':'),
        (second.into(), 2, '.'),
        (micro, 6, 'Z'),
    ] {
        push_digits(&mut text, number, digits);
        text.push(behind);
    }
    text
}

/// A number with leading zeros. Several times as fast as formatting, and it is done for each row.
fn push_digits(text: &mut String, number: u32, digits: u32) {
    for place in (0..digits).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        text.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
}

#[cfg(test)]
mod tests;
