//! What is refused before the database sees it: what would be cut, changed on the way, or never published.

use std::borrow::Cow;

use outbox_event::header::{application_name, encode_application_value};

use crate::{Columns, Error, ErrorKind, Limits, NewEvent};

/// How many headers the bridge takes from a row, less the two of the trace context.
const HEADERS_MAX: usize = 254;

/// Refuses an event that cannot be stored whole in these columns, or not be published as it is.
pub(crate) fn event(event: &NewEvent, columns: &Columns, limits: &Limits) -> Result<(), Error> {
    let texts = [
        ("aggregate type", Some(&event.aggregate_type), limits.aggregate_type_chars_max),
        ("aggregate id", Some(&event.aggregate_id), limits.aggregate_id_chars_max),
        ("event type", Some(&event.event_type), limits.event_type_chars_max),
        ("content type", event.content_type.as_ref(), limits.content_type_chars_max),
        ("partition key", event.partition_key.as_ref(), limits.partition_key_chars_max),
    ];
    for (what, text, chars_max) in texts {
        let Some(text) = text else { continue };
        if text.is_empty() {
            return Err(refused(event, ErrorKind::Empty, format!("the {what} is empty")));
        }
        let chars = text.chars().count();
        if chars > chars_max {
            let cause = format!("the {what} has {chars} characters, at most {chars_max} are allowed");
            return Err(refused(event, ErrorKind::TooLong, cause));
        }
    }
    let bytes = event.payload.message_bytes();
    if bytes > limits.payload_bytes_max {
        let cause = format!(
            "the payload makes a message of {bytes} bytes, at most {} are allowed (`Limits::payload_bytes_max`); \
             store large contents elsewhere and send where they are",
            limits.payload_bytes_max
        );
        return Err(refused(event, ErrorKind::TooLong, cause));
    }
    let needs = [
        ("content type", event.needs_content_type(), &columns.content_type, "content_type"),
        ("partition key", event.needs_partition_key(), &columns.partition_key, "partition_key"),
        ("headers", !event.headers.is_empty(), &columns.headers, "headers"),
    ];
    for (what, needed, column, field) in needs {
        if needed && column.is_none() {
            let cause = format!("the table has no column for its {what}; name one in `Columns::{field}`");
            return Err(refused(event, ErrorKind::NoColumn, cause));
        }
    }
    headers(event, limits)
}

fn headers(event: &NewEvent, limits: &Limits) -> Result<(), Error> {
    for (name, value) in &event.headers {
        if !matches!(application_name(name), Some(Cow::Borrowed(_))) {
            let cause = format!(
                "the header {name:?} would not arrive under this name: use letters, digits and \"-\", and no name that begins \
                 with \"Nats-\", \"ce-\", \"Outbox-\", \"Status\" or \"Description\", nor \"content-type\""
            );
            return Err(refused(event, ErrorKind::Header, cause));
        }
        if matches!(encode_application_value(value), Cow::Owned(_)) {
            let cause = format!("the value of the header {name:?} holds a control character; encode it");
            return Err(refused(event, ErrorKind::Header, cause));
        }
    }
    if event.headers.len() > HEADERS_MAX {
        let cause = format!("there are {} headers, at most {HEADERS_MAX} are allowed", event.headers.len());
        return Err(refused(event, ErrorKind::Header, cause));
    }
    let bytes: usize = event.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits.headers_bytes_max {
        let cause =
            format!("the headers have {bytes} bytes, at most {} are allowed", limits.headers_bytes_max);
        return Err(refused(event, ErrorKind::TooLong, cause));
    }
    Ok(())
}

/// Which event it was: its type is a name of the program, its aggregate id may be nobody's business.
fn refused(event: &NewEvent, kind: ErrorKind, cause: String) -> Error {
    let shown: String = event.event_type.chars().take(128).collect();
    Error::new(kind, format!("an event of type {shown:?} cannot be written: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(of: &NewEvent, columns: &Columns) -> Option<ErrorKind> {
        let error = event(of, columns, &Limits::default()).err()?;
        assert!(!error.to_string().contains("secret"), "{error}");
        Some(error.kind())
    }

    fn placed() -> NewEvent {
        NewEvent::text("order", "secret", "placed", "secret")
    }

    #[test]
    fn what_the_default_table_takes() {
        let columns = Columns::default();
        let long = |chars: usize| "é".repeat(chars);
        for (event, expected) in [
            (placed(), None),
            (NewEvent::text(long(64), long(255), long(128), "{}"), None),
            (NewEvent::text(long(65), 1, "t", "{}"), Some(ErrorKind::TooLong)),
            (NewEvent::text("a", long(256), "t", "{}"), Some(ErrorKind::TooLong)),
            (NewEvent::text("a", 1, long(129), "{}"), Some(ErrorKind::TooLong)),
            (NewEvent::text("", 1, "t", "{}"), Some(ErrorKind::Empty)),
            (NewEvent::text("a", "", "t", "{}"), Some(ErrorKind::Empty)),
            (NewEvent::text("a", 1, "", "{}"), Some(ErrorKind::Empty)),
            (NewEvent::bytes("a", 1, "t", vec![0; 1_000_000]), None),
            (NewEvent::bytes("a", 1, "t", vec![0; 1_000_001]), Some(ErrorKind::TooLong)),
            (placed().with_content_type("application/json"), None),
            (placed().with_content_type("application/secret"), Some(ErrorKind::NoColumn)),
            (placed().with_partition_key("secret"), None),
            (placed().with_partition_key("secret-2"), Some(ErrorKind::NoColumn)),
        ] {
            assert_eq!(kind(&event, &columns), expected, "{event:?}");
        }
    }

    #[test]
    fn headers_arrive_as_they_were_given_or_are_refused() {
        let columns = Columns::default();
        for (name, value, expected) in [
            ("tenant", "north ü", None),
            ("traceparent", "00-a-b-01", None),
            ("", "secret", Some(ErrorKind::Header)),
            ("Nats-Rollup", "secret", Some(ErrorKind::Header)),
            ("CE-id", "secret", Some(ErrorKind::Header)),
            ("a b", "secret", Some(ErrorKind::Header)),
            ("a", "secret\r\nNats-Rollup: all", Some(ErrorKind::Header)),
        ] {
            let event = placed().with_header(name, value);
            assert_eq!(kind(&event, &columns), expected, "{name}");
        }
        let large = placed().with_header("h", "x".repeat(40_000));
        assert_eq!(kind(&large, &columns), Some(ErrorKind::TooLong));
        let many = (0..255).fold(placed(), |event, n| event.with_header(format!("h{n}"), "x"));
        assert_eq!(kind(&many, &columns), Some(ErrorKind::Header));
        assert_eq!(
            kind(&placed().with_header("h", "secret"), &Columns::debezium()),
            Some(ErrorKind::NoColumn)
        );
    }

    #[test]
    fn a_json_payload_counts_as_the_server_renders_it() {
        let numbers = vec![1; 400_000];
        let limits = Limits::default();
        let event_of = |numbers: &[i32]| NewEvent::json("a", 1, "t", numbers).unwrap();
        let error = event(&event_of(&numbers), &Columns::default(), &limits).unwrap_err();
        assert!(error.to_string().contains("1200000 bytes"), "{error}");
        event(&event_of(&numbers[..333_333]), &Columns::default(), &limits).unwrap();
    }
}
