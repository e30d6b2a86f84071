//! An event that is ready to be written.

use std::fmt::{self, Display};

use outbox_event::header::CONTENT_TYPE_JSON;
use serde::Serialize;
use uuid::Uuid;

use crate::{Error, ErrorKind, Event};

/// An event that is ready to be written, with an id of its own.
///
/// ```
/// use outbox_producer::NewEvent;
/// use serde_json::json;
///
/// let event = NewEvent::json("order", 7, "placed", &json!({"total_cents": 4200}))?
///     .with_header("tenant", "north")
///     .with_partition_key("customer-3");
/// assert_eq!(event.id().get_version_num(), 7);
/// # Ok::<(), outbox_producer::Error>(())
/// ```
///
/// The id is made here, so that a transaction that is done again with the same `NewEvent` writes the same id. It is a
/// UUIDv7 unless [given](Self::with_id). That UUIDs of this version grow with time is only good for the index: the
/// order of messages comes from the commits, and within a transaction from the inserts.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub(crate) id: Uuid,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) event_type: String,
    pub(crate) payload: Payload,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) content_type: Option<String>,
    pub(crate) partition_key: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    Json(String),
    Text(String),
    Bytes(Vec<u8>),
}

impl NewEvent {
    /// The event that `event` describes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Payload`] when it cannot be serialised as JSON.
    pub fn of<E: Event>(event: &E) -> Result<Self, Error> {
        Self::json(E::AGGREGATE_TYPE, event.aggregate_id(), E::TYPE, event)
    }

    /// An event whose payload is `payload` as JSON.
    ///
    /// Whoever reads the message gets it as the column renders it: MySQL's `JSON` orders the keys anew, and makes
    /// floating-point numbers of integers past 64 bits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Payload`] when it cannot be serialised as JSON.
    pub fn json<P: Serialize + ?Sized>(
        aggregate_type: impl Into<String>,
        aggregate_id: impl Display,
        event_type: impl Into<String>,
        payload: &P,
    ) -> Result<Self, Error> {
        let event_type = event_type.into();
        let payload = serde_json::to_string(payload).map_err(|source| {
            let message = format!("the payload of an event {event_type:?} cannot be serialised as JSON");
            Error::new(ErrorKind::Payload, message).with_source(source)
        })?;
        Ok(Self::new(aggregate_type.into(), aggregate_id.to_string(), event_type, Payload::Json(payload)))
    }

    /// An event whose payload is a text: for a `TEXT` column, or what is JSON already for a `JSON` column.
    ///
    /// ```
    /// use outbox_producer::NewEvent;
    ///
    /// let event = NewEvent::text("order", 7, "placed", "<order id='7'/>").with_content_type("application/xml");
    /// assert_eq!(event.aggregate_id(), "7");
    /// ```
    #[must_use]
    pub fn text(
        aggregate_type: impl Into<String>,
        aggregate_id: impl Display,
        event_type: impl Into<String>,
        payload: impl Into<String>,
    ) -> Self {
        let payload = Payload::Text(payload.into());
        Self::new(aggregate_type.into(), aggregate_id.to_string(), event_type.into(), payload)
    }

    /// An event whose payload is bytes, such as Protobuf: for a `BLOB` column. A `JSON` column refuses them.
    ///
    /// ```
    /// use outbox_producer::NewEvent;
    ///
    /// let event =
    ///     NewEvent::bytes("order", 7, "placed", [8, 7]).with_content_type("application/protobuf");
    /// ```
    #[must_use]
    pub fn bytes(
        aggregate_type: impl Into<String>,
        aggregate_id: impl Display,
        event_type: impl Into<String>,
        payload: impl Into<Vec<u8>>,
    ) -> Self {
        let payload = Payload::Bytes(payload.into());
        Self::new(aggregate_type.into(), aggregate_id.to_string(), event_type.into(), payload)
    }

    fn new(aggregate_type: String, aggregate_id: String, event_type: String, payload: Payload) -> Self {
        Self {
            id: Uuid::now_v7(),
            aggregate_type,
            aggregate_id,
            event_type,
            payload,
            headers: Vec::new(),
            content_type: None,
            partition_key: None,
        }
    }

    /// Gives the event this id. Ids must be unique for ever: consumers take a second event with the same id for a
    /// repetition.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// Adds a header, or replaces the one of this name (in whatever case).
    ///
    /// A `traceparent` that is given here wins over the current trace context.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        self.headers.push((name, value.into()));
        self
    }

    /// Says what the payload is; without it the message is `application/json`. Needs a
    /// [column](crate::Columns::content_type).
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Gives the key whose events keep their order, where it is not the aggregate id. Needs a
    /// [column](crate::Columns::partition_key).
    #[must_use]
    pub fn with_partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// The event id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What happened.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The kind of thing that it happened to.
    #[must_use]
    pub fn aggregate_type(&self) -> &str {
        &self.aggregate_type
    }

    /// Which one it happened to.
    #[must_use]
    pub fn aggregate_id(&self) -> &str {
        &self.aggregate_id
    }

    /// A content type other than what a message without one has.
    pub(crate) fn needs_content_type(&self) -> bool {
        self.content_type.as_ref().is_some_and(|content_type| content_type != CONTENT_TYPE_JSON)
    }

    /// A partition key other than what a message without one has.
    pub(crate) fn needs_partition_key(&self) -> bool {
        self.partition_key.as_ref().is_some_and(|key| *key != self.aggregate_id)
    }
}

impl Payload {
    /// How many bytes the message body has, as far as that can be known here.
    pub(crate) fn message_bytes(&self) -> usize {
        match self {
            Self::Json(json) => rendered_bytes(json),
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// The length of compact JSON after MySQL has put a space behind each colon and comma.
fn rendered_bytes(json: &str) -> usize {
    let (mut spaces, mut in_text, mut escaped) = (0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b':' | b',' if !in_text => spaces += 1,
            _ => {}
        }
    }
    json.len() + spaces
}

/// Without payload and values of headers, which may be nobody's business.
impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent")
            .field("id", &self.id)
            .field("aggregate_type", &self.aggregate_type)
            .field("event_type", &self.event_type)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_as_mysql_does() {
        for (compact, rendered) in [
            (r#"{"a":1,"b":[1,2]}"#, r#"{"a": 1, "b": [1, 2]}"#),
            (r#"{"a,:\"b":"\\","c":"x:y"}"#, r#"{"a,:\"b": "\\", "c": "x:y"}"#),
            ("[]", "[]"),
            (r#""a,b""#, r#""a,b""#),
        ] {
            assert_eq!(rendered_bytes(compact), rendered.len(), "{compact}");
        }
    }

    #[test]
    fn headers_replace_each_other_without_regard_to_case() {
        let event =
            NewEvent::text("a", 1, "t", "{}").with_header("Tenant", "north").with_header("tenant", "south");
        assert_eq!(event.headers, [("tenant".to_owned(), "south".to_owned())]);
    }

    #[test]
    fn debug_shows_no_contents() {
        let event = NewEvent::text("a", "secret", "t", "secret").with_header("h", "secret");
        assert!(!format!("{event:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_be_serialised_is_refused() {
        let no_json = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = NewEvent::json("a", 1, "t", &no_json).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Payload);
    }
}
