//! Why a row cannot be published, whatever is tried. What holds for every message of a stream (it is full, sealed, missing,
//! away) is never such a reason.

use super::{WireError, stop::code};

/// What is wrong with a row, as a word: the label of the metric and of the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoisonKind {
    /// Larger than server or stream take.
    TooLarge,
    /// A subject that the stream does not have.
    Subject,
    /// A subject that the bridge's user may not publish to.
    Denied,
    /// Headers that cannot be sent.
    Headers,
    /// A column whose value has no place in a message.
    Unmappable,
}

impl PoisonKind {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::TooLarge, Self::Subject, Self::Denied, Self::Headers, Self::Unmappable];

    /// The word.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Subject => "subject",
            Self::Denied => "denied",
            Self::Headers => "headers",
            Self::Unmappable => "unmappable",
        }
    }
}

/// Why a row cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// As a word.
    pub kind: PoisonKind,
    /// In words, without any value of the row.
    pub reason: String,
    /// If the row cannot become a message: its mapped columns but the payload, as a JSON object.
    pub row: Option<String>,
}

impl Poison {
    /// Without a row.
    #[must_use]
    pub fn new(kind: PoisonKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), row: None }
    }

    /// By what the stream answered.
    pub(super) fn refused(code: u64, description: &str) -> Self {
        let kind = match code {
            code::SUBJECT_MISMATCH | code::WRONG_STREAM => PoisonKind::Subject,
            code::HEADER_TOO_LARGE => PoisonKind::Headers,
            _ => PoisonKind::TooLarge,
        };
        Self::new(kind, format!("the stream refuses the message: {description} ({code})"))
    }

    /// By what the client says of a message that it does not send; `None` if that is not about the message.
    pub(super) fn unsendable(error: &WireError) -> Option<Self> {
        let kind = match error {
            WireError::TooLarge { .. } => PoisonKind::TooLarge,
            WireError::Unsendable { .. } => PoisonKind::Headers,
            _ => return None,
        };
        Some(Self::new(kind, error.to_string()))
    }
}
