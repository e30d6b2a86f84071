//! Why something could not be decoded.

use std::borrow::Cow;
use std::fmt;

/// An event, a row or a value that cannot be decoded.
///
/// The message names the table and the column where they are known, and never contains anything of a row.
#[derive(Debug, thiserror::Error)]
#[error("{inner}")]
pub struct DecodeError {
    inner: Box<Inner>,
}

/// What kind of trouble a [`DecodeError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The bytes end too early, or say what the format does not allow.
    Malformed,
    /// The format is known, but not decoded here: an obsolete column type, for instance.
    Unsupported,
    /// The log does not say enough about a column, and the definition supplied does not help.
    MetadataMissing,
    /// The table definition supplied is not the one that the log was written with.
    DefinitionMismatch,
    /// Text that is not valid in its character set.
    InvalidText,
    /// A configured limit was exceeded.
    LimitExceeded,
    /// The caller asked for a column that is not there.
    Projection,
}

#[derive(Debug)]
struct Inner {
    kind: DecodeErrorKind,
    message: Cow<'static, str>,
    table: Option<String>,
    column: Option<String>,
}

impl DecodeError {
    #[cold]
    pub(crate) fn new(kind: DecodeErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { inner: Box::new(Inner { kind, message: message.into(), table: None, column: None }) }
    }

    #[cold]
    pub(crate) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(DecodeErrorKind::Malformed, message)
    }

    #[cold]
    pub(crate) fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(DecodeErrorKind::Unsupported, message)
    }

    /// Adds where it happened; what is known already stays.
    #[cold]
    pub(crate) fn in_column(mut self, column: &str) -> Self {
        self.inner.column.get_or_insert_with(|| column.to_owned());
        self
    }

    /// Adds where it happened; what is known already stays.
    #[cold]
    pub(crate) fn in_table(mut self, table: &str) -> Self {
        self.inner.table.get_or_insert_with(|| table.to_owned());
        self
    }

    /// The kind of trouble.
    #[must_use]
    pub fn kind(&self) -> DecodeErrorKind {
        self.inner.kind
    }

    /// The table as `schema.table`, where it is known.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        self.inner.table.as_deref()
    }

    /// The column, where it is known.
    #[must_use]
    pub fn column(&self) -> Option<&str> {
        self.inner.column.as_deref()
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.table, &self.column) {
            (Some(table), Some(column)) => write!(f, "column `{column}` of table `{table}`: ")?,
            (Some(table), None) => write!(f, "table `{table}`: ")?,
            (None, Some(column)) => write!(f, "column `{column}`: ")?,
            (None, None) => {}
        }
        f.write_str(&self.message)
    }
}
