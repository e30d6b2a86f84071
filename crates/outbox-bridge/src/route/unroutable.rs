//! What is left of a row that cannot become a message: enough to find it and to see what is wrong with it.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use outbox_event::header;
use serde_json::{Map, Value as Json};

use super::{Mapping, Route, RouteError};
use crate::{
    config::HeadersColumn,
    decode::Value,
    publish::{Message, Poison, PoisonKind, TransactionId},
};

/// Of a longer value only the beginning is kept.
const VALUE_CHARS_MAX: usize = 1_000;

impl Route {
    pub(super) fn unroutable(
        &self,
        mapping: &Mapping,
        values: &[Value],
        transaction: &Arc<TransactionId>,
        error: &RouteError,
    ) -> Message {
        let kind = match error {
            RouteError::Headers { .. } => PoisonKind::Headers,
            _ => PoisonKind::Unmappable,
        };
        let row = Json::Object(self.columns(mapping, values)).to_string();
        let poison = Poison { kind, reason: crate::exit::report(error), row: Some(row) };
        let body = match values.get(mapping.payload) {
            Some(Value::Bytes(bytes)) => bytes.clone(),
            Some(Value::Text(text) | Value::Json(text)) => text.clone().into_bytes(),
            Some(Value::Null | Value::Absent) | None => Bytes::new(),
        };
        let id = self.id(values.get(mapping.id), "id").unwrap_or_default();
        Message {
            transaction: transaction.clone(),
            row: 0,
            table: self.table.clone(),
            subject: "".into(),
            id: header::encode_value(&id).into_owned(),
            headers: vec![(Cow::Borrowed(header::CE_SOURCE), self.source.clone().into())],
            body,
            poison: Some(Box::new(poison)),
        }
    }

    /// The mapped columns but the payload, by their names. Bytes that are no text are written as `0x…`.
    fn columns(&self, mapping: &Mapping, values: &[Value]) -> Map<String, Json> {
        let names = &self.config.columns;
        let headers = match &names.headers {
            HeadersColumn::IfPresent(column) | HeadersColumn::Required(column) => Some(column),
            HeadersColumn::None => None,
        };
        let columns = [
            (Some(&names.id), Some(mapping.id)),
            (Some(&names.aggregate_type), Some(mapping.aggregate_type)),
            (Some(&names.aggregate_id), Some(mapping.aggregate_id)),
            (Some(&names.event_type), Some(mapping.event_type)),
            (headers, mapping.headers),
            (names.content_type.as_ref(), mapping.content_type),
            (names.partition_key.as_ref(), mapping.partition_key),
        ];
        let column = |(name, index): (Option<&String>, Option<usize>)| {
            Some((name?.clone(), shown(values.get(index?)?)?))
        };
        columns.into_iter().filter_map(column).collect()
    }
}

/// `None` for what the log does not show.
fn shown(value: &Value) -> Option<Json> {
    let text = match value {
        Value::Null => return Some(Json::Null),
        Value::Absent => return None,
        Value::Text(text) | Value::Json(text) => text.as_str().to_owned(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                let bytes = bytes.iter().take(VALUE_CHARS_MAX);
                format!("0x{}", bytes.map(|byte| format!("{byte:02x}")).collect::<String>())
            }
        },
    };
    Some(Json::String(text.chars().take(VALUE_CHARS_MAX).collect()))
}
