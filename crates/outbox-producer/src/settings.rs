//! How the outbox table is laid out, and what an event may measure.

use crate::{Error, ErrorKind, name};

/// The columns of the outbox table, by name and without backticks.
///
/// The default is the table that `outbox-bridge init` creates. Set the same names here and in the bridge's
/// `[outbox.columns]`.
///
/// ```
/// use outbox_producer::{Columns, Outbox};
///
/// let mut columns = Columns::default();
/// columns.partition_key = Some("partition_key".into());
/// let outbox = Outbox::new("shop.outbox")?.with_columns(columns)?;
/// # Ok::<(), outbox_producer::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Columns {
    /// The event id. Default `id`.
    pub id: String,
    /// The kind of thing that the event is about. Default `aggregate_type`.
    pub aggregate_type: String,
    /// Which one it is about. Default `aggregate_id`.
    pub aggregate_id: String,
    /// What happened. Default `type`.
    pub event_type: String,
    /// The message body. Default `payload`.
    pub payload: String,
    /// The headers, as a JSON object. Default `headers`; `None` if the table has no such column, and then neither
    /// headers nor trace context can be stored.
    pub headers: Option<String>,
    /// The payload's media type. Default `None`: every payload is `application/json`.
    pub content_type: Option<String>,
    /// The ordering key, where it is not the aggregate id. Default `None`.
    pub partition_key: Option<String>,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            id: "id".into(),
            aggregate_type: "aggregate_type".into(),
            aggregate_id: "aggregate_id".into(),
            event_type: "type".into(),
            payload: "payload".into(),
            headers: Some("headers".into()),
            content_type: None,
            partition_key: None,
        }
    }
}

impl Columns {
    /// The names that Debezium's outbox event router expects: `id`, `aggregatetype`, `aggregateid`, `type`,
    /// `payload`, and no headers. Its ids are mostly texts: see [`IdFormat::Text`].
    #[must_use]
    pub fn debezium() -> Self {
        Self {
            aggregate_type: "aggregatetype".into(),
            aggregate_id: "aggregateid".into(),
            headers: None,
            ..Self::default()
        }
    }

    /// The columns of an insert, in its order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let always = [&self.id, &self.aggregate_type, &self.aggregate_id, &self.event_type, &self.payload];
        let mapped = [&self.headers, &self.content_type, &self.partition_key];
        always.into_iter().chain(mapped.into_iter().flatten()).map(String::as_str)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let names: Vec<&str> = self.names().collect();
        for (index, one) in names.iter().enumerate() {
            name::check(one)?;
            // Servers compare the names of columns without regard to case.
            if names.iter().skip(index + 1).any(|other| other.to_lowercase() == one.to_lowercase()) {
                let cause =
                    format!("the column {one:?} is named for two purposes; leave the optional one out");
                return Err(Error::new(ErrorKind::Settings, cause));
            }
        }
        Ok(())
    }
}

/// How the id column holds a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum IdFormat {
    /// As 16 bytes in the order of the text, for `BINARY(16)`.
    #[default]
    Binary,
    /// As 36 characters such as `019a2084-cb20-70ea-9c11-a706e9654b37`, for `CHAR(36)`.
    Text,
}

/// What an event and a statement may measure at most.
///
/// The lengths of texts are those of the table that `outbox-bridge init` creates; they are checked here, since a
/// server that is not in strict mode cuts what is too long. The sizes keep a message below the 1 MiB that a NATS
/// server takes by default: an event past that could be committed but never published, and would stop the bridge.
///
/// ```
/// use outbox_producer::{Limits, Outbox};
///
/// let mut limits = Limits::default();
/// limits.payload_bytes_max = 8 << 20; // with `max_payload: 9MB` in the NATS server's configuration
/// let outbox = Outbox::new("shop.outbox")?.with_limits(limits);
/// # Ok::<(), outbox_producer::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Characters of the aggregate type. Default 64.
    pub aggregate_type_chars_max: usize,
    /// Characters of the aggregate id. Default 255.
    pub aggregate_id_chars_max: usize,
    /// Characters of the event type. Default 128.
    pub event_type_chars_max: usize,
    /// Characters of the content type. Default 255.
    pub content_type_chars_max: usize,
    /// Characters of the partition key. Default 255.
    pub partition_key_chars_max: usize,
    /// Bytes of the payload. Default 1,000,000. A JSON payload counts as MySQL renders it, with a space after each
    /// colon and comma.
    pub payload_bytes_max: usize,
    /// Bytes of the names and values of all headers. Default 32,768.
    pub headers_bytes_max: usize,
    /// Rows of one insert. Default 1,000.
    pub statement_rows_max: usize,
    /// Bytes of one insert, unless a single event is larger. Default 1 MiB; the server's `max_allowed_packet` must be
    /// larger than this and than the largest event.
    pub statement_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            aggregate_type_chars_max: 64,
            aggregate_id_chars_max: 255,
            event_type_chars_max: 128,
            content_type_chars_max: 255,
            partition_key_chars_max: 255,
            payload_bytes_max: 1_000_000,
            headers_bytes_max: 32_768,
            statement_rows_max: 1_000,
            statement_bytes_max: 1 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_checked() {
        Columns::default().check().unwrap();
        Columns::debezium().check().unwrap();
        let twice = Columns { partition_key: Some("Aggregate_ID".into()), ..Columns::default() };
        assert_eq!(twice.check().unwrap_err().kind(), ErrorKind::Settings);
        let empty = Columns { headers: Some(String::new()), ..Columns::default() };
        assert!(empty.check().is_err());
    }
}
