//! Names of the headers, and how values from data are made safe for them.
//!
//! Sources: [CloudEvents NATS binding](https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md),
//! [CloudEvents HTTP binding, header values](https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/http-protocol-binding.md),
//! [NATS headers, ADR-4](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-4.md).

use std::borrow::Cow;

use crate::subject::push_escaped;

/// The event id, for JetStream's own deduplication.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The sequence that the stream must end with for a message to be stored.
pub const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Sequence";
/// The id of the message that the stream must end with for a message to be stored.
pub const EXPECTED_LAST_MESSAGE_ID: &str = "Nats-Expected-Last-Msg-Id";
/// The stream that a message is for: another one refuses it, should it have taken over the subject.
pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
/// Where the row stood in the log: a [`Position`](crate::Position).
pub const POSITION: &str = "Outbox-Position";
/// The version of the message's format, on messages whose format is newer than 1.
pub const FORMAT: &str = "Outbox-Format";
/// The newest format that this crate knows. It is raised when a reader that ignores what is new would read a message
/// wrongly; a header that older readers may ignore does not raise it.
pub const FORMAT_VERSION: u32 = 2;
/// The format of messages whose payload lies elsewhere ([`DATA_REF`]): a reader of format 1 would take the empty body for it.
pub const FORMAT_DATA_REF: u32 = 2;
/// The event id.
pub const CE_ID: &str = "ce-id";
/// The version of CloudEvents, always [`CE_SPECVERSION_VALUE`].
pub const CE_SPECVERSION: &str = "ce-specversion";
/// The value of [`CE_SPECVERSION`].
pub const CE_SPECVERSION_VALUE: &str = "1.0";
/// Where the event comes from: `//<server>/<schema>.<table>`, or as configured.
pub const CE_SOURCE: &str = "ce-source";
/// The event type.
pub const CE_TYPE: &str = "ce-type";
/// The aggregate id.
pub const CE_SUBJECT: &str = "ce-subject";
/// When the transaction was committed, RFC 3339 in UTC with microseconds.
pub const CE_TIME: &str = "ce-time";
/// The ordering key, by default the aggregate id.
pub const CE_PARTITION_KEY: &str = "ce-partitionkey";
/// The media type of the body.
pub const CONTENT_TYPE: &str = "content-type";
/// The content type of rows that name none.
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// Where the payload lies if it is too large for the message, whose body is empty then: a [`DataRef`](crate::DataRef).
pub const DATA_REF: &str = "ce-dataref";
/// Put before the name of an application's header that would otherwise mean something to NATS, to CloudEvents or to the
/// bridge.
pub const APPLICATION_PREFIX: &str = "Outbox-App-";

/// What a message's header [`FORMAT`] says if the message must not be read, being newer than [`FORMAT_VERSION`] or of no
/// format at all. Messages without the header have format 1.
///
/// ```
/// use outbox_event::header::newer_format;
/// assert_eq!(newer_format(None), None);
/// assert_eq!(newer_format(Some("2")), None);
/// assert_eq!(newer_format(Some("3")), Some("3"));
/// ```
#[must_use]
pub fn newer_format(value: Option<&str>) -> Option<&str> {
    let known = |text: &str| text.parse().is_ok_and(|format: u32| (1..=FORMAT_VERSION).contains(&format));
    value.filter(|text| !known(text))
}

/// Of a letter, which is a row that could not be stored: the stream that it belongs to.
pub const LETTER_STREAM: &str = "Outbox-Letter-Stream";
/// Of a letter: the subject that its message would have had; absent if the row does not tell.
pub const LETTER_SUBJECT: &str = "Outbox-Letter-Subject";
/// Of a letter: the table, `schema.table`.
pub const LETTER_TABLE: &str = "Outbox-Letter-Table";
/// Of a letter: why it is one, as a word.
pub const LETTER_REASON: &str = "Outbox-Letter-Reason";
/// Of a letter: why it is one, in words.
pub const LETTER_ERROR: &str = "Outbox-Letter-Error";
/// Of a letter that could not become a message: the row's mapped columns but the payload, a JSON object.
pub const LETTER_ROW: &str = "Outbox-Letter-Row";
/// Of a letter that did not fit: what is missing of it, `body=<bytes of the whole>` or `headers`, separated by commas.
pub const LETTER_CUT: &str = "Outbox-Letter-Cut";
/// Of a letter: `parked`, `replaying`, `replayed` or `dropped`. Of one that is done with only the place is left, so that the row
/// is known if the log shows it again.
pub const LETTER_STATE: &str = "Outbox-Letter-State";
/// Of every message in the stream of letters: the latest commit time, in microseconds, of a parked row of each stream, a
/// JSON object.
pub const LETTER_MARKS: &str = "Outbox-Letter-Marks";
/// Of a letter that is replayed or to be: the sequence of its message.
pub const LETTER_TARGET: &str = "Outbox-Letter-Target";
/// Of a message that was a dead letter, and so comes late: where its row stood in the log. Its [`POSITION`] is that of the
/// message before it.
pub const REPLAYED_POSITION: &str = "Outbox-Replayed-Position";

/// Whether a header is one of those that only a letter has.
#[must_use]
pub fn is_letters(name: &str) -> bool {
    name.starts_with("Outbox-Letter-")
}

/// Makes `value` fit for an attribute header, as the CloudEvents HTTP binding has it: everything but printable ASCII is
/// percent-encoded, and so are the space, `"` and `%`. Decoding gives the value back.
#[must_use]
pub fn encode_value(value: &str) -> Cow<'_, str> {
    encode(value, |byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%'))
}

/// Makes the value of an application's own header fit for a header line: control characters are percent-encoded,
/// everything else stays as the application wrote it.
#[must_use]
pub fn encode_application_value(value: &str) -> Cow<'_, str> {
    encode(value, |byte| !byte.is_ascii_control())
}

/// The header name under which an application's header `name` travels.
///
/// Names that mean something to NATS (`Nats-…`), to CloudEvents (`ce-…`, `content-type`) or to the bridge (`Outbox-…`),
/// in whatever case, get [`APPLICATION_PREFIX`]: nothing is lost, and nothing that a row says can steer the server or
/// forge the envelope. Bytes that a header name cannot hold are percent-encoded; `None` if the name is empty.
///
/// ```
/// use outbox_event::header::application_name;
/// assert_eq!(application_name("traceparent").as_deref(), Some("traceparent"));
/// assert_eq!(application_name("nats-msg-id").as_deref(), Some("Outbox-App-nats-msg-id"));
/// assert_eq!(application_name("a: b").as_deref(), Some("a%3A%20b"));
/// ```
#[must_use]
pub fn application_name(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() {
        return None;
    }
    let encoded = encode(name, |byte| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte));
    let lower = encoded.to_ascii_lowercase();
    let reserved =
        ["nats-", "ce-", "outbox-", "status", "description"].iter().any(|prefix| lower.starts_with(prefix))
            || lower == CONTENT_TYPE;
    Some(if reserved { Cow::Owned(format!("{APPLICATION_PREFIX}{encoded}")) } else { encoded })
}

fn encode(value: &str, plain: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if value.bytes().all(&plain) {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len() + 16);
    for character in value.chars() {
        let mut buffer = [0; 4];
        let encoded = character.encode_utf8(&mut buffer);
        if encoded.bytes().all(&plain) {
            out.push(character);
        } else {
            encoded.bytes().for_each(|byte| push_escaped(byte, &mut out));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attribute_values() {
        for (value, expected) in [
            ("plain", "plain"),
            ("a b", "a%20b"),
            ("50%", "50%25"),
            ("\r\nce-id: x", "%0D%0Ace-id:%20x"),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(encode_value(value), expected);
        }
    }

    #[test]
    fn only_known_formats_are_read() {
        for text in ["1", "2"] {
            assert_eq!(newer_format(Some(text)), None);
        }
        for text in ["0", "3", "4294967296", "", "-1", "two"] {
            assert_eq!(newer_format(Some(text)), Some(text));
        }
        assert_eq!(application_name(FORMAT).as_deref(), Some("Outbox-App-Outbox-Format"));
    }

    #[test]
    fn names_that_steer_are_prefixed() {
        for name in [
            "Nats-Expected-Last-Sequence",
            "nats-rollup",
            "NATS-TTL",
            "ce-id",
            "Ce-Type",
            "Content-Type",
            "outbox-position",
            "Outbox-App-x",
            "Status",
        ] {
            let travels = application_name(name);
            assert_eq!(travels.as_deref(), Some(format!("Outbox-App-{name}").as_str()));
        }
        assert_eq!(application_name(""), None);
        assert_eq!(application_name("tracestate").as_deref(), Some("tracestate"));
    }

    proptest! {
        #[test]
        fn no_value_breaks_a_line(value in "(\\PC|[\\r\\n\\t\\x00])*") {
            for encoded in [encode_value(&value), encode_application_value(&value)] {
                prop_assert!(!encoded.bytes().any(|byte| byte.is_ascii_control()));
            }
        }

        #[test]
        fn names_are_header_names(name in "(\\PC|[\\r\\n: ])+") {
            let travels = application_name(&name).unwrap_or_default();
            prop_assert!(!travels.is_empty());
            prop_assert!(travels.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'));
        }
    }
}
