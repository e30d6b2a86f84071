//! All headers of a message: its own, and what the protocol adds to them.

use std::{borrow::Cow, str::FromStr as _};

use async_nats::{HeaderMap, HeaderName};
use outbox_event::header;

use super::{Envelope, Message, Operation, ReplyTo, WireError};

/// Makes headers for the messages of one stream.
#[derive(Debug)]
pub struct MessageHeaders {
    /// The stream that the messages are for.
    pub stream: String,
    /// Whether the event's id is the message's.
    pub message_id: bool,
    /// Makes the names of batches unique on the server.
    pub unique: String,
}

impl MessageHeaders {
    /// The headers of a message.
    ///
    /// # Errors
    ///
    /// [`WireError::Unsendable`] if one of the message's own is none that NATS takes.
    pub fn of(&self, envelope: &Envelope<'_>) -> Result<HeaderMap, WireError> {
        let Envelope { message, expected_last_sequence, after, reply_to } = *envelope;
        let mut headers = HeaderMap::new();
        // Within an atomic batch it may stand on the first message only.
        if !matches!(reply_to, ReplyTo::Atomic { number: 2.., .. }) {
            headers.insert(
                HeaderName::from_static(header::EXPECTED_LAST_SEQUENCE),
                async_nats::HeaderValue::from(expected_last_sequence),
            );
        }
        // Another stream may have taken the subject over, and be as long as this one.
        let first = match reply_to {
            ReplyTo::Single { .. } => after.is_none(),
            ReplyTo::Batch { operation, .. } => operation == Operation::Start,
            ReplyTo::Atomic { number, .. } => number == 1,
        };
        if first {
            headers.insert(HeaderName::from_static(header::EXPECTED_STREAM), self.stream.as_str());
        }
        if let ReplyTo::Atomic { batch, number, commit } = reply_to {
            headers.insert("Nats-Batch-Id", format!("{}-{batch}", self.unique));
            headers.insert("Nats-Batch-Sequence", number.to_string());
            if commit {
                headers.insert("Nats-Batch-Commit", "1");
            }
        }
        if self.message_id || matches!(reply_to, ReplyTo::Single { .. }) {
            headers.insert(HeaderName::from_static(header::MESSAGE_ID), &*self.message_id(message));
            if let Some(after) = after {
                let name = HeaderName::from_static(header::EXPECTED_LAST_MESSAGE_ID);
                headers.insert(name, &*self.message_id(after));
            }
        }
        headers.insert(HeaderName::from_static(header::CE_ID), message.id.as_str());
        headers.insert(HeaderName::from_static(header::POSITION), message.position_text());
        for (name, value) in &message.headers {
            let name = match name {
                // One of the contract's own names is neither checked nor copied.
                Cow::Borrowed(name) => HeaderName::from_static(name),
                Cow::Owned(name) => HeaderName::from_str(name)
                    .map_err(|_| unsendable(message, format!("{name:?} is no header name")))?,
            };
            if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')) {
                return Err(unsendable(
                    message,
                    format!("the value of header {name} has a control character"),
                ));
            }
            headers.insert(name, &**value);
        }
        Ok(headers)
    }

    /// What is sent as a message's id: the event's, or where that is not wanted the row's position, which no other row has.
    /// Single messages always have one, so that the next can name it.
    fn message_id<'a>(&self, message: &'a Message) -> Cow<'a, str> {
        if self.message_id { Cow::Borrowed(&message.id) } else { Cow::Owned(message.position_text()) }
    }
}

pub(super) fn unsendable(message: &Message, reason: String) -> WireError {
    WireError::Unsendable { position: message.position_text(), reason }
}
