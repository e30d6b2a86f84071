//! Inserts as plain SQL: text, and values for its placeholders.

use std::fmt;
use std::fmt::Write as _;

use outbox_event::header::application_name;
use serde::Serializer as _;
use uuid::Uuid;

use crate::new_event::Payload;
use crate::{Columns, Error, ErrorKind, IdFormat, Limits, NewEvent, name};

/// How many placeholders a prepared statement may have.
const PLACEHOLDERS_MAX: usize = 65_535;
/// What the protocol and the text need for a value beside its bytes.
const VALUE_OVERHEAD_BYTES: usize = 16;

/// A value for a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// `NULL`.
    Null,
    /// A text in UTF-8, to be bound as such: a `JSON` column refuses what was bound as binary.
    Text(String),
    /// Bytes, to be bound as binary.
    Bytes(Vec<u8>),
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Without the contents, so that they get into no log.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

/// One `INSERT`: what [`Outbox::statements`](crate::Outbox::statements) makes, for drivers other than `sqlx`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statement {
    /// The SQL text, with `?` for each value. It holds no data, and is the same for the same number of events.
    pub sql: String,
    /// The values, in the order of the placeholders.
    pub values: Vec<Value>,
    /// The ids of the events, in the order of their rows.
    pub ids: Vec<Uuid>,
}

/// What an insert looks like, whatever its events are.
#[derive(Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) table: &'a str,
    pub(crate) columns: &'a Columns,
    pub(crate) id_format: IdFormat,
    pub(crate) limits: &'a Limits,
}

impl Shape<'_> {
    /// The inserts for these events, in order, each within the limits; `context` is added to the headers of events
    /// that have no trace context of their own.
    pub(crate) fn statements(
        &self,
        events: Vec<NewEvent>,
        context: &[(&'static str, String)],
    ) -> Result<Vec<Statement>, Error> {
        let width = self.columns.names().count();
        let rows_max = self.limits.statement_rows_max.min(PLACEHOLDERS_MAX / width.max(1)).max(1);
        let mut statements = Vec::new();
        let mut values = Vec::new();
        let mut ids = Vec::new();
        let mut bytes = 0;
        for event in events {
            let id = event.id;
            let row = self.row(event, context)?;
            let row_bytes: usize = row.iter().map(|value| value.bytes() + VALUE_OVERHEAD_BYTES).sum();
            let full = ids.len() == rows_max || bytes + row_bytes > self.limits.statement_bytes_max;
            if full && !ids.is_empty() {
                statements.push(self.statement(std::mem::take(&mut values), std::mem::take(&mut ids)));
                bytes = 0;
            }
            values.extend(row);
            ids.push(id);
            bytes += row_bytes;
        }
        if !ids.is_empty() {
            statements.push(self.statement(values, ids));
        }
        Ok(statements)
    }

    /// The insert of one event.
    pub(crate) fn single(
        &self,
        event: NewEvent,
        context: &[(&'static str, String)],
    ) -> Result<Statement, Error> {
        let ids = vec![event.id];
        Ok(self.statement(self.row(event, context)?, ids))
    }

    fn statement(&self, values: Vec<Value>, ids: Vec<Uuid>) -> Statement {
        let names: Vec<String> = self.columns.names().map(name::quoted).collect();
        let row = format!("({})", vec!["?"; names.len()].join(", "));
        let mut sql = format!("INSERT INTO {} ({}) VALUES {row}", self.table, names.join(", "));
        for _ in 1..ids.len() {
            // Writing to a string cannot fail.
            write!(sql, ", {row}").unwrap_or_default();
        }
        Statement { sql, values, ids }
    }

    /// The values of one row, in the order of [`Columns::names`].
    fn row(&self, event: NewEvent, context: &[(&'static str, String)]) -> Result<Vec<Value>, Error> {
        let headers = self.columns.headers.as_ref().map(|_| headers(&event.headers, context)).transpose()?;
        let optional = |value: Option<String>| value.map_or(Value::Null, Value::Text);
        let mut row = vec![
            match self.id_format {
                IdFormat::Binary => Value::Bytes(event.id.as_bytes().to_vec()),
                IdFormat::Text => Value::Text(event.id.to_string()),
            },
            Value::Text(event.aggregate_type),
            Value::Text(event.aggregate_id),
            Value::Text(event.event_type),
            match event.payload {
                Payload::Json(text) | Payload::Text(text) => Value::Text(text),
                Payload::Bytes(bytes) => Value::Bytes(bytes),
            },
        ];
        row.extend(headers);
        row.extend(self.columns.content_type.as_ref().map(|_| optional(event.content_type)));
        row.extend(self.columns.partition_key.as_ref().map(|_| optional(event.partition_key)));
        Ok(row)
    }
}

/// The headers as a JSON object of texts; `NULL` if there are none.
fn headers(own: &[(String, String)], context: &[(&'static str, String)]) -> Result<Value, Error> {
    // A state belongs to its parent: either all of the context is the event's own or none.
    let given = own.iter().any(|(known, _)| context.iter().any(|(name, _)| known.eq_ignore_ascii_case(name)));
    let context = if given { &[] } else { context };
    let context = context.iter().map(|(name, value)| (*name, value.as_str()));
    let all = own.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(context);
    debug_assert!(all.clone().all(|(name, _)| application_name(name).as_deref() == Some(name)), "checked");
    let mut all = all.peekable();
    if all.peek().is_none() {
        return Ok(Value::Null);
    }
    let mut json = Vec::new();
    let written = serde_json::Serializer::new(&mut json).collect_map(all);
    let text = written.ok().and_then(|()| String::from_utf8(json).ok());
    text.map(Value::Text)
        .ok_or_else(|| Error::new(ErrorKind::Header, "the headers cannot be written as JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(
        columns: &Columns,
        limits: &Limits,
        events: Vec<NewEvent>,
        context: &[(&'static str, String)],
    ) -> Vec<Statement> {
        let shape = Shape { table: "`shop`.`outbox`", columns, id_format: IdFormat::Binary, limits };
        shape.statements(events, context).unwrap()
    }

    fn event(number: usize) -> NewEvent {
        NewEvent::text("order", number, "placed", "{}")
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn one_row() {
        let event = event(7).with_header("tenant", "a \"b\"");
        let id = event.id();
        let all = statements(&Columns::default(), &Limits::default(), vec![event], &[]);
        assert_eq!(all.len(), 1);
        assert_eq!(
            all[0].sql,
            "INSERT INTO `shop`.`outbox` (`id`, `aggregate_type`, `aggregate_id`, `type`, `payload`, `headers`) VALUES (?, ?, ?, \
             ?, ?, ?)"
        );
        assert_eq!(
            all[0].values,
            [
                Value::Bytes(id.as_bytes().to_vec()),
                text("order"),
                text("7"),
                text("placed"),
                text("{}"),
                text(r#"{"tenant":"a \"b\""}"#),
            ]
        );
        assert_eq!(all[0].ids, [id]);
    }

    #[test]
    fn every_named_column_has_a_value() {
        let mut columns = Columns { event_type: "ty`pe".into(), ..Columns::default() };
        columns.headers = None;
        columns.content_type = Some("media".into());
        columns.partition_key = Some("key".into());
        let event = event(7).with_partition_key("k");
        let all = statements(&columns, &Limits::default(), vec![event.clone(), event], &[]);
        assert!(
            all[0].sql.ends_with(
                "(`id`, `aggregate_type`, `aggregate_id`, `ty``pe`, `payload`, `media`, `key`) VALUES (?, ?, ?, ?, ?, ?, ?), (?, ?, \
                 ?, ?, ?, ?, ?)"
            ),
            "{}",
            all[0].sql
        );
        assert_eq!(all[0].values.len(), 14);
        assert_eq!(all[0].values[5..7], [Value::Null, text("k")]);
    }

    #[test]
    fn statements_keep_the_order_and_the_limits() {
        let limits = Limits::default();
        let rows = |limits: &Limits, events: Vec<NewEvent>| -> Vec<usize> {
            let ids: Vec<Uuid> = events.iter().map(NewEvent::id).collect();
            let all = statements(&Columns::default(), limits, events, &[]);
            assert_eq!(all.iter().flat_map(|one| one.ids.clone()).collect::<Vec<_>>(), ids);
            for one in &all {
                assert_eq!(one.sql.matches('?').count(), one.values.len());
                assert_eq!(one.values.len(), one.ids.len() * 6);
            }
            all.iter().map(|one| one.ids.len()).collect()
        };
        let events = |count: usize| (0..count).map(event).collect::<Vec<_>>();
        assert!(rows(&limits, vec![]).is_empty());
        assert_eq!(rows(&limits, events(1_000)), [1_000]);
        assert_eq!(rows(&limits, events(2_001)), [1_000, 1_000, 1]);

        let unbounded = Limits { statement_rows_max: usize::MAX, ..Limits::default() };
        let unbounded = Limits { statement_bytes_max: usize::MAX, ..unbounded };
        assert_eq!(rows(&unbounded, events(10_923)), [10_922, 1], "placeholders");

        let sized = |bytes: usize| NewEvent::bytes("a", 1, "t", vec![0; bytes]);
        let small = Limits { statement_bytes_max: 1_000, ..Limits::default() };
        let sizes = [300, 300, 300, 5_000, 1, 1];
        assert_eq!(rows(&small, sizes.map(sized).into()), [2, 1, 1, 2], "a large event stands alone");
        let none = Limits { statement_rows_max: 0, ..Limits::default() };
        assert_eq!(rows(&none, events(2)), [1, 1]);
    }

    #[test]
    fn the_events_own_trace_context_wins_whole() {
        let context = [("traceparent", "00-1-2-01".to_owned()), ("tracestate", "a=b".to_owned())];
        let header_of = |event: NewEvent, context: &[_]| {
            statements(&Columns::default(), &Limits::default(), vec![event], context)[0].values[5].clone()
        };
        assert_eq!(header_of(event(1), &[]), Value::Null);
        assert_eq!(
            header_of(event(1).with_header("h", "x"), &context),
            text(r#"{"h":"x","traceparent":"00-1-2-01","tracestate":"a=b"}"#)
        );
        assert_eq!(
            header_of(event(1).with_header("TraceParent", "mine"), &context),
            text(r#"{"TraceParent":"mine"}"#)
        );
        let none = statements(&Columns::debezium(), &Limits::default(), vec![event(1)], &context);
        assert_eq!(none[0].values.len(), 5, "no column, no context");
    }

    #[test]
    fn debug_shows_no_contents() {
        let all = statements(
            &Columns::default(),
            &Limits::default(),
            vec![NewEvent::text("secret", "secret", "secret", "secret")],
            &[],
        );
        assert!(!format!("{all:?}").contains("secret"));
    }
}
