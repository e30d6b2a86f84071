//! The application's own headers: a JSON object, one header an entry.

use std::{borrow::Cow, fmt};

use outbox_event::header::{application_name, encode_application_value};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use crate::publish::Headers;

/// Why headers cannot be sent. Never quotes them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadersError {
    /// Not a JSON object.
    #[error("they are no JSON object (line {line}, column {column})")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NotAnObject { line: usize, column: usize },
    /// More than the limits.
    #[error("they are more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// How many headers a row may bring.
const ENTRIES_MAX: usize = 256;

/// Appends the entries of the object `text`. A string is sent as it is, other values as JSON; `null` is left out.
pub(super) fn parse(text: &[u8], headers: &mut Headers) -> Result<(), HeadersError> {
    struct Entries<'a>(&'a mut Headers);
    impl<'de> Visitor<'de> for Entries<'_> {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
            let mut count = 0;
            while let Some((name, value)) = map.next_entry::<Cow<'_, str>, Value>()? {
                count += 1;
                if count > ENTRIES_MAX {
                    return Ok(false);
                }
                let value = match value {
                    Value::Null => continue,
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                // An entry without a name cannot be a header.
                if let Some(name) = application_name(&name) {
                    let value = encode_application_value(&value).into_owned();
                    self.0.push((Cow::Owned(name.into_owned()), Cow::Owned(value)));
                }
            }
            Ok(true)
        }

        fn visit_unit<E>(self) -> Result<bool, E> {
            Ok(true)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let not_an_object =
        |error: serde_json::Error| HeadersError::NotAnObject { line: error.line(), column: error.column() };
    let complete = deserializer.deserialize_any(Entries(headers)).map_err(not_an_object)?;
    if !complete {
        return Err(HeadersError::TooMany);
    }
    deserializer.end().map_err(not_an_object)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, String)>, HeadersError> {
        let mut headers = Vec::new();
        parse(text.as_bytes(), &mut headers)?;
        Ok(headers.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    #[test]
    fn entries_become_headers() {
        let text = r#"{"traceparent": "00-a-b-01", "n": 5, "o": {"a": [1]}, "none": null, "": "x"}"#;
        let expected = [("traceparent", "00-a-b-01"), ("n", "5"), ("o", r#"{"a":[1]}"#)];
        assert_eq!(parsed(text).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(parsed("null").unwrap(), []);
    }

    #[test]
    fn entries_cannot_steer_or_forge() {
        let text =
            r#"{"Nats-Expected-Last-Sequence": "7", "ce-id": "x", "a\r\nNats-Rollup": "all\r\nce-type: y"}"#;
        let names: Vec<_> = parsed(text).unwrap();
        assert_eq!(names[0].0, "Outbox-App-Nats-Expected-Last-Sequence");
        assert_eq!(names[1].0, "Outbox-App-ce-id");
        assert_eq!(names[2], ("a%0D%0ANats-Rollup".to_owned(), "all%0D%0Ace-type: y".to_owned()));
    }

    #[test]
    fn what_is_no_object_is_refused_without_being_quoted() {
        for text in ["[]", "\"secret\"", "{\"secret\": }", "7", "", "{} secret"] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    proptest! {
        /// Whatever a row says: no header name or value that is not one.
        #[test]
        fn no_text_panics_or_breaks_a_line(text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            "(\\{|\\}|\\[|\\]|\"|:|,|null|1e9|\\\\u000a|[a-z\\r\\n ])*".prop_map(String::into_bytes),
            prop::collection::btree_map("(\\PC|[\\r\\n\\x00])*", "(\\PC|[\\r\\n\\x00])*", 0..4)
                .prop_map(|entries| serde_json::to_vec(&entries).unwrap()),
        ]) {
            let mut headers = Vec::new();
            if parse(&text, &mut headers).is_ok() {
                for (name, value) in headers {
                    prop_assert!(name.parse::<async_nats::HeaderName>().is_ok(), "{:?}", name);
                    prop_assert!(!value.contains(['\r', '\n', '\0']), "{:?}", value);
                }
            }
        }
    }
}
