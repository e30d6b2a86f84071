//! Where a payload lies that is too large for a message.

use std::{fmt, str::FromStr};

const SCHEME: &str = "nats-object://";

/// An object in a JetStream object store, which holds the payload in place of the message's body: the value of
/// [`header::DATA_REF`](crate::header::DATA_REF), `nats-object://<bucket>/<name>`. The name is taken as it stands, without
/// any decoding.
///
/// Source: [CloudEvents, Dataref](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/dataref.md).
///
/// ```
/// use outbox_event::DataRef;
/// let reference: DataRef = "nats-object://PAYLOADS/ORDERS/7/a:1@binlog.000001:4/0".parse()?;
/// assert_eq!((reference.bucket.as_str(), reference.name.as_str()), ("PAYLOADS", "ORDERS/7/a:1@binlog.000001:4/0"));
/// # Ok::<(), outbox_event::DataRefError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataRef {
    /// The object store's bucket.
    pub bucket: String,
    /// The object's name in it.
    pub name: String,
}

/// A text that names no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataRefError;

impl fmt::Display for DataRefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a reference to an object, {SCHEME}<bucket>/<name>")
    }
}

impl std::error::Error for DataRefError {}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.name)
    }
}

impl FromStr for DataRef {
    type Err = DataRefError;

    fn from_str(text: &str) -> Result<Self, DataRefError> {
        let (bucket, name) =
            text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or(DataRefError)?;
        // What a bucket's name may be made of.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if bucket.is_empty() || name.is_empty() || !bucket.bytes().all(plain) {
            return Err(DataRefError);
        }
        Ok(Self { bucket: bucket.to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_texts_are_no_references() {
        for text in [
            "",
            "nats-object://",
            "nats-object://b",
            "nats-object://b/",
            "nats-object:///n",
            "http://b/n",
            "nats-object://a.b/n",
        ] {
            assert_eq!(text.parse::<DataRef>(), Err(DataRefError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bucket in "[A-Za-z0-9_-]{1,20}", name in "\\PC{1,40}") {
            let reference = DataRef { bucket, name };
            prop_assert_eq!(reference.to_string().parse(), Ok(reference));
        }

        #[test]
        fn no_text_panics(text in "(nats-object://)?\\PC*") {
            drop(text.parse::<DataRef>());
        }
    }
}
