//! What a dead letter looks like in its stream. Pure: headers in, headers out.
//!
//! The body is the original body. The headers are the original ones, except that those which steer the server (`Nats-…`)
//! travel under a prefix, and those named here, which say where the message came from and why it is here.

use std::time::SystemTime;

use async_nats::{HeaderMap, header::HeaderValue};
use bytes::Bytes;
use outbox_event::header::encode_application_value;

use crate::{
    envelope::text,
    history::{Attempt, History, rfc3339},
};

pub(crate) const SUBJECT: &str = "Outbox-Dead-Subject";
pub(crate) const STREAM: &str = "Outbox-Dead-Stream";
pub(crate) const SEQUENCE: &str = "Outbox-Dead-Sequence";
pub(crate) const CONSUMER: &str = "Outbox-Dead-Consumer";
pub(crate) const REASON: &str = "Outbox-Dead-Reason";
pub(crate) const TIME: &str = "Outbox-Dead-Time";
pub(crate) const ATTEMPTS: &str = "Outbox-Dead-Attempts";
/// The position of the letter that a message is replayed from.
pub(crate) const REPLAY_OF: &str = "Outbox-Dead-Replay-Of";
/// Stands before the names of the original's `Nats-…` headers.
pub(crate) const HEADER_PREFIX: &str = "Outbox-Dead-Header-";
const PREFIX: &str = "Outbox-Dead-";
const REASON_CHARS_MAX: usize = 1000;

/// Where a dead letter comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) subject: &'a str,
    pub(crate) stream: &'a str,
    pub(crate) sequence: u64,
    pub(crate) consumer: &'a str,
}

/// The headers of a dead letter, made of those of the original message.
pub(crate) fn headers(
    original: &HeaderMap,
    origin: Origin<'_>,
    reason: &str,
    history: &History,
    now: SystemTime,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in original.iter() {
        let name: &str = name.as_ref();
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("outbox-dead-") {
            continue;
        }
        let name =
            if lower.starts_with("nats-") { format!("{HEADER_PREFIX}{name}") } else { name.to_owned() };
        for value in values {
            headers.append(name.as_str(), value.clone());
        }
    }
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    headers.insert(SUBJECT, origin.subject);
    headers.insert(STREAM, origin.stream);
    headers.insert(SEQUENCE, origin.sequence.to_string().as_str());
    headers.insert(CONSUMER, origin.consumer);
    headers.insert(REASON, encode_application_value(&reason).as_ref());
    headers.insert(TIME, rfc3339(now).as_str());
    set_attempts(&mut headers, history.attempts());
    headers
}

/// Keeps only what fits: of the attempts the last one, and little of its error.
pub(crate) fn shrink(headers: &mut HeaderMap, history: &History) {
    let last = history
        .attempts()
        .last()
        .map(|last| Attempt { error: last.error.chars().take(100).collect(), ..last.clone() });
    set_attempts(headers, last.as_slice());
}

fn set_attempts(headers: &mut HeaderMap, attempts: &[Attempt]) {
    // JSON escapes control characters, so it is always fit for a header line.
    let json = serde_json::to_string(attempts).unwrap_or_default();
    if let Ok(value) = json.parse::<HeaderValue>() {
        headers.insert(ATTEMPTS, value);
    }
}

/// The original headers of a dead letter or of a replayed message.
pub(crate) fn original_headers(headers: &HeaderMap) -> HeaderMap {
    let mut original = HeaderMap::new();
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        let name = match name.strip_prefix(HEADER_PREFIX) {
            Some(name) => name,
            None if name.starts_with(PREFIX) || name.starts_with("Nats-") => continue,
            None => name,
        };
        for value in values {
            original.append(name, value.clone());
        }
    }
    original
}

/// A message that was given up, and why.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its sequence in the stream of the dead letters: what the other calls name it by.
    pub position: u64,
    /// The message's id, `ce-id`, if it had one.
    pub message_id: Option<String>,
    /// The event type, `ce-type`, if it had one.
    pub event_type: Option<String>,
    /// The partition key, `ce-partitionkey`, if it had one.
    pub partition_key: Option<String>,
    /// The subject that it was published to.
    pub subject: String,
    /// The stream that it stood in.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// The durable consumer that gave it up.
    pub consumer: String,
    /// Why it was given up.
    pub reason: String,
    /// When it was given up, RFC 3339 in UTC.
    pub at: String,
    /// The attempts, as far as they are kept: the first and the last ones.
    pub attempts: Vec<Attempt>,
    /// The original headers.
    pub headers: HeaderMap,
    /// The original body; empty if the payload lies in an object store, which the header `ce-dataref` names.
    pub body: Bytes,
}

/// Reads a dead letter; `None` if it is none.
pub(crate) fn read(position: u64, headers: &HeaderMap, body: Bytes) -> Option<DeadLetter> {
    let original = original_headers(headers);
    let owned = |name| text(headers, name).map(str::to_owned);
    let decoded = |name| {
        text(&original, name)
            .map(|value| percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    };
    Some(DeadLetter {
        position,
        message_id: decoded("ce-id").or_else(|| text(&original, "Nats-Msg-Id").map(str::to_owned)),
        event_type: decoded("ce-type"),
        partition_key: decoded("ce-partitionkey"),
        subject: owned(SUBJECT)?,
        stream: owned(STREAM)?,
        sequence: text(headers, SEQUENCE)?.parse().ok()?,
        consumer: owned(CONSUMER)?,
        reason: owned(REASON).unwrap_or_default(),
        at: owned(TIME).unwrap_or_default(),
        attempts: text(headers, ATTEMPTS)
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default(),
        headers: original,
        body,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_dead_letter_comes_back_whole() {
        let mut original = HeaderMap::new();
        original.insert("Nats-Msg-Id", "7");
        original.insert("Nats-Expected-Last-Sequence", "12");
        original.insert("ce-id", "a%20b");
        original.insert("ce-type", "placed");
        original.append("x", "1");
        original.append("x", "2");
        original.insert("Outbox-Dead-Reason", "forged");
        let mut history = History::default();
        history.push("line one\nline \"two\"", SystemTime::UNIX_EPOCH);
        let origin = Origin { subject: "orders.placed", stream: "ORDERS", sequence: 9, consumer: "stock" };
        let stored = headers(&original, origin, "no\r\nstock", &history, SystemTime::UNIX_EPOCH);
        assert!(text(&stored, "Nats-Msg-Id").is_none(), "nothing of the original steers the server");
        assert!(text(&stored, "Nats-Expected-Last-Sequence").is_none());

        let letter = read(3, &stored, Bytes::from_static(b"{}")).unwrap();
        original.insert("Outbox-Dead-Reason", "");
        assert_eq!(letter.headers.len() + 1, original.len());
        assert_eq!(letter.message_id.as_deref(), Some("a b"));
        assert_eq!(letter.reason, "no%0D%0Astock");
        assert_eq!(letter.attempts, history.attempts());
        assert_eq!(letter.headers.get_all("x").count(), 2);
        assert_eq!((letter.sequence, letter.consumer.as_str()), (9, "stock"));
    }

    #[test]
    fn other_messages_are_no_dead_letters() {
        assert!(read(1, &HeaderMap::new(), Bytes::new()).is_none());
    }

    proptest! {
        /// Anybody may have published to the stream of the dead letters.
        #[test]
        fn no_letter_panics(values in prop::array::uniform8(prop::option::of("\\PC{0,30}|[0-9]{0,22}|\\[\\{\"number\":[0-9]{0,12}"))) {
            let mut headers = HeaderMap::new();
            let names = [SUBJECT, STREAM, SEQUENCE, CONSUMER, ATTEMPTS, REPLAY_OF, "ce-id", "Outbox-Dead-Header-Nats-Msg-Id"];
            for (name, value) in names.into_iter().zip(&values) {
                if let Some(value) = value {
                    headers.insert(name, value.as_str());
                }
            }
            let letter = read(1, &headers, Bytes::new());
            prop_assert!(letter.is_none() || values[..4].iter().all(Option::is_some));
        }
    }
}
