//! What the consumer reads from a message's headers: the envelope of the event.

use std::{borrow::Cow, sync::Arc};

use async_nats::{HeaderMap, HeaderName, Subject};
use outbox_event::header;
use percent_encoding::percent_decode_str;

/// Where a message stood in the first place, if it is replayed too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) subject: Subject,
    pub(crate) stream: Arc<str>,
    pub(crate) sequence: u64,
}

/// The parts of the envelope that the consumer itself needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) id: String,
    pub(crate) event_type: String,
    pub(crate) aggregate_id: Option<String>,
    pub(crate) partition_key: Option<Arc<str>>,
    pub(crate) origin: Origin,
}

/// Why a message is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAnEvent {
    #[error("the message is not an event: it has no header {0}")]
    Missing(&'static str),
    #[error(
        "the event has format {0:?}, and this consumer knows formats up to {known}: let it run with a newer version of \
         outbox-consumer, then replay the letter",
        known = header::FORMAT_VERSION
    )]
    Newer(String),
}

impl Envelope {
    /// Reads the envelope of a message.
    pub(crate) fn read(headers: &HeaderMap, origin: Origin) -> Result<Self, NotAnEvent> {
        if let Some(format) = header::newer_format(text(headers, header::FORMAT)) {
            return Err(NotAnEvent::Newer(format.chars().take(20).collect()));
        }
        let attribute = |name| text(headers, name).map(|value| decode(value).into_owned());
        let id = attribute(header::CE_ID)
            .or_else(|| text(headers, header::MESSAGE_ID).map(str::to_owned))
            .filter(|id| !id.is_empty())
            .ok_or(NotAnEvent::Missing(header::CE_ID))?;
        Ok(Self {
            id,
            event_type: attribute(header::CE_TYPE).ok_or(NotAnEvent::Missing(header::CE_TYPE))?,
            aggregate_id: attribute(header::CE_SUBJECT),
            partition_key: text(headers, header::CE_PARTITION_KEY).map(|value| decode(value).into()),
            origin,
        })
    }
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    // A static name is looked up without being copied.
    headers.get_last(HeaderName::from_static(name)).map(async_nats::HeaderValue::as_str)
}

/// Undoes [`header::encode_value`].
fn decode(value: &str) -> Cow<'_, str> {
    percent_decode_str(value).decode_utf8().unwrap_or(Cow::Borrowed(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin() -> Origin {
        Origin { subject: "s".into(), stream: "S".into(), sequence: 1 }
    }

    #[test]
    fn a_message_without_id_or_type_is_not_an_event() {
        let mut headers = HeaderMap::new();
        assert_eq!(Envelope::read(&headers, origin()), Err(NotAnEvent::Missing("ce-id")));
        headers.insert("Nats-Msg-Id", "7");
        assert_eq!(Envelope::read(&headers, origin()), Err(NotAnEvent::Missing("ce-type")));
        headers.insert("ce-type", "order%20placed");
        let envelope = Envelope::read(&headers, origin()).unwrap();
        assert_eq!((envelope.id.as_str(), envelope.event_type.as_str()), ("7", "order placed"));
        headers.insert("Outbox-Format", "1");
        assert!(Envelope::read(&headers, origin()).is_ok());
        headers.insert("Outbox-Format", "3");
        let newer = Envelope::read(&headers, origin()).unwrap_err();
        assert_eq!(newer, NotAnEvent::Newer("3".to_owned()));
        assert!(newer.to_string().contains("newer version"));
    }

    proptest! {
        #[test]
        fn attributes_come_back(id in "\\PC+", key in "\\PC*") {
            let mut headers = HeaderMap::new();
            headers.insert("ce-id", header::encode_value(&id).as_ref());
            headers.insert("ce-type", "t");
            headers.insert("ce-partitionkey", header::encode_value(&key).as_ref());
            let envelope = Envelope::read(&headers, origin()).unwrap();
            prop_assert_eq!(envelope.id, id);
            prop_assert_eq!(envelope.partition_key.as_deref(), Some(key.as_str()));
        }

        #[test]
        fn no_header_panics(values in prop::array::uniform5(prop::option::of("\\PC{0,20}|(%[0-9a-fxG]{0,2}){0,6}"))) {
            let mut headers = HeaderMap::new();
            let names = ["ce-id", "ce-type", "ce-subject", "ce-partitionkey", "Outbox-Format"];
            for (name, value) in names.into_iter().zip(&values) {
                if let Some(value) = value {
                    headers.insert(name, value.as_str());
                }
            }
            drop(Envelope::read(&headers, origin()));
        }
    }
}
