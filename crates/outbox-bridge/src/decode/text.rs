//! Bytes that are known to be UTF-8, shared without copying.

use std::fmt;

use bytes::Bytes;

/// Valid UTF-8 that may be a slice of an event: cloning and slicing it does not copy.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Text(Bytes);

impl Text {
    /// Wraps `bytes` if they are UTF-8, and gives them back if not.
    ///
    /// # Errors
    ///
    /// The bytes themselves, if they are not UTF-8.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, Bytes> {
        if std::str::from_utf8(&bytes).is_ok() { Ok(Self(bytes)) } else { Err(bytes) }
    }

    /// For bytes that were just written as ASCII or UTF-8.
    pub(crate) fn from_written(bytes: Bytes) -> Self {
        debug_assert!(std::str::from_utf8(&bytes).is_ok(), "renderers write UTF-8");
        Self(bytes)
    }

    /// The text. Checks UTF-8 again, which costs little; [`into_bytes`](Self::into_bytes) does not.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Every constructor checked it, so the fallback is never taken; without `unsafe` it has to be there.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text's bytes, without copying them.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
