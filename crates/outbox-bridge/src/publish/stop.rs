//! What can go wrong for a writer: doubts, which it resolves by itself, and what makes it give up.

use super::{chain::NotInLog, wire::WireError};
use crate::diagnosis::Code;

/// Why a writer gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// The stream has lost what it had acknowledged. Starting anew refills it from the log.
    #[error("stream {stream} ends at {tail}, but had acknowledged {acknowledged}: it lost messages")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Behind { stream: String, tail: u64, acknowledged: u64 },
    /// Somebody else keeps writing to the stream.
    #[error(
        "another bridge keeps writing to stream {stream}; let only one bridge with this source and these streams run"
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    Conflict { stream: String },
    /// The stream's end fits nothing that a bridge could have written.
    #[error("stream {stream} does not fit the log: {reason}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Inconsistent { stream: String, reason: String },
    /// A message that the server refuses for good.
    #[error("stream {stream} refuses the message at {position}: {reason}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Refused { stream: String, position: String, reason: String },
    /// The log does not have the row that the stream ends with.
    #[error("stream {stream} does not fit the log")]
    NotInLog {
        /// The stream.
        stream: String,
        /// Which row.
        source: NotInLog,
    },
    /// A fault of this program.
    #[error("{0}; this is a fault of the bridge, please report it")]
    Internal(String),
    /// The wire has failed for good.
    #[error("cannot publish to stream {stream}")]
    Wire {
        /// The stream.
        stream: String,
        /// What failed.
        source: WireError,
    },
}

/// Why the writer no longer knows how far the stream is. The names are the metric's labels.
#[derive(Debug, Clone)]
pub(super) enum Doubt {
    Timeout,
    Disconnected,
    NoResponders,
    Refused(u64, String),
    WrongSequence,
    Duplicate,
    BatchEnded,
}

impl Doubt {
    /// What an operator is told while the writer waits.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Refused(code, description) => {
                format!("the server refuses messages: {description} ({code}) [{}]", Code::STREAM_REFUSES)
            }
            Self::NoResponders => format!(
                "nothing takes messages on the subject: no stream has it, or JetStream is away [{}]",
                Code::STREAM_SILENT
            ),
            Self::Disconnected => format!("resuming: {} [{}]", self.label(), Code::NATS_UNREACHABLE),
            other => format!("resuming: {}", other.label()),
        }
    }

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Disconnected => "disconnected",
            Self::NoResponders => "no_responders",
            Self::Refused(code, _) if *code == code::WRONG_LAST_SEQUENCE => "wrong_last_sequence",
            Self::Refused(..) => "refused",
            Self::WrongSequence => "wrong_sequence",
            Self::Duplicate => "duplicate",
            Self::BatchEnded => "batch_ended",
        }
    }
}

/// JetStream's error codes that a writer tells apart.
///
/// Source: <https://github.com/nats-io/nats-server/blob/main/server/errors.json>.
pub(super) mod code {
    pub(in crate::publish) const WRONG_LAST_SEQUENCE: u64 = 10071;
    pub(in crate::publish) const MESSAGE_TOO_LARGE: u64 = 10054;
    pub(in crate::publish) const SUBJECT_MISMATCH: u64 = 10066;
    pub(in crate::publish) const WRONG_STREAM: u64 = 10060;
    pub(in crate::publish) const STORE_FAILED: u64 = 10077;
    pub(in crate::publish) const STREAM_SEALED: u64 = 10109;
    pub(in crate::publish) const HEADER_TOO_LARGE: u64 = 10097;
    pub(in crate::publish) const BATCH_DISABLED: u64 = 10205;
    pub(in crate::publish) const ATOMIC_DISABLED: u64 = 10174;

    /// Whether it is this message that is refused for ever, and not any: then it can become a dead letter.
    pub(in crate::publish) fn is_poison(code: u64, description: &str) -> bool {
        let holds_for_all = matches!(code, STREAM_SEALED | ATOMIC_DISABLED);
        // Another stream has its subject; that one may have stored it, which is worse.
        let elsewhere = code == WRONG_STREAM && !description.contains("expected stream");
        is_permanent(code, description) && !holds_for_all && !elsewhere
    }

    /// Whether a message was refused for its size.
    pub(in crate::publish) fn is_too_large(code: u64, description: &str) -> bool {
        // The store's own limit, 32 MiB in files, has the code of a full stream.
        code == MESSAGE_TOO_LARGE || (code == STORE_FAILED && description.contains("too large"))
    }

    /// Whether a message refused so would be refused for ever.
    pub(in crate::publish) fn is_permanent(code: u64, description: &str) -> bool {
        matches!(code, SUBJECT_MISMATCH | STREAM_SEALED | HEADER_TOO_LARGE | ATOMIC_DISABLED | WRONG_STREAM)
            || is_too_large(code, description)
    }
}
