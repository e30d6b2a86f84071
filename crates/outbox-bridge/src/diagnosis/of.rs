//! Which code an error has: one match a type, without a rest, so that a new error does not compile without one.

use std::error::Error;

use outbox_lease::LeaseError;

use super::Code;
use crate::{
    admin::BindError,
    audit::AuditError,
    backfill::{BackfillError, ReadError, SnapshotError},
    checkpoint::CheckpointError,
    cleanup::{CleanupError, Misfit},
    cli::ReplayStartError,
    decode::DecodeError,
    lead::StandInError,
    logging::LoggingError,
    nats::NatsError,
    pipeline::{PipelineError, plan::PlanError},
    publish::{ReplayError, Stop, WireError},
    route::{HeadersError, RouteError},
    source::{
        LogError, RelocateError,
        connection::{ConnectionError, ConnectionErrorKind},
        event::EventError,
        find::FindError,
        table::TableError,
    },
    transaction::{RowsError, TransactionError},
    verify::VerifyError,
};

/// The code of the innermost cause of an error that has one.
#[must_use]
pub fn code_of(error: &(dyn Error + 'static)) -> Option<Code> {
    error.source().and_then(code_of).or_else(|| own(error))
}

/// Those whose types have codes, in turn.
fn own(error: &(dyn Error + 'static)) -> Option<Code> {
    macro_rules! first_of {
        ($($kind:ty),* $(,)?) => { $(if let Some(error) = error.downcast_ref::<$kind>() { return Some(error.code()); })* };
    }
    first_of!(
        PipelineError<LogError>,
        BackfillError,
        VerifyError,
        LogError,
        TransactionError,
        RowsError,
        RouteError,
        HeadersError,
        DecodeError,
        FindError,
        RelocateError,
        TableError,
        SnapshotError,
        ConnectionError,
        EventError,
        Stop,
        WireError,
        PlanError,
        ReplayError,
        ReplayStartError,
        CheckpointError,
        StandInError,
        LeaseError,
        ReadError,
        NatsError,
        CleanupError,
        Misfit,
        AuditError,
        BindError,
        LoggingError,
    );
    None
}

trait Coded {
    fn code(&self) -> Code;
}

impl Coded for PipelineError<LogError> {
    fn code(&self) -> Code {
        match self {
            Self::Source(error) => error.code(),
            Self::Writer(stop) => stop.code(),
            Self::Wire(error) => error.code(),
            Self::Plan(error) => error.code(),
            Self::Checkpoint(error) => error.code(),
            Self::TakenOver { .. } => Code::CHECKPOINT_CONFLICT,
            Self::Deadline => Code::SHUTDOWN_DEADLINE,
        }
    }
}

impl Coded for BackfillError {
    fn code(&self) -> Code {
        match self {
            Self::Connection(error) => error.code(),
            Self::Table(error) => error.code(),
            Self::Row { source, .. } => source.code(),
            Self::Snapshot(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::Wire(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Checkpoint(error) => error.code(),
            Self::Stop(stop) => stop.code(),
            Self::StandIn(error) => error.code(),
            Self::LeaseLost => Code::LEASE_LOST,
            Self::TakenOver => Code::CHECKPOINT_CONFLICT,
            Self::NoLog => Code::NO_LOG,
            Self::Gone { .. } => Code::BACKFILL_GONE,
            Self::Ahead { .. } => Code::BACKFILL_AHEAD,
            Self::Nats(_) => Code::NATS_UNREACHABLE,
        }
    }
}

impl Coded for VerifyError {
    fn code(&self) -> Code {
        match self {
            Self::Connection(error) => error.code(),
            Self::Table(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Checkpoint(error) => error.code(),
            Self::Nats(error) => error.code(),
            Self::Stream { .. } => Code::JETSTREAM_AWAY,
            Self::NoCheckpoint { .. } => Code::CHECKPOINT_MISSING,
            Self::Backfilling => Code::BACKFILL_UNFINISHED,
            Self::Letters(error) => error.code(),
            Self::NoOutbox { .. } => Code::OPTION_UNFIT,
            Self::Full => Code::MEMORY_TOO_SMALL,
        }
    }
}

impl Coded for LogError {
    fn code(&self) -> Code {
        match self {
            Self::Connection(error) => error.code(),
            Self::Transaction(error) => error.code(),
            Self::Payload(error) => error.code(),
            Self::Find(error) => error.code(),
            Self::NoLog => Code::NO_LOG,
            Self::Purged { .. } => Code::LOG_PURGED,
            Self::NothingThere { .. } => Code::LOG_ENDS_BEFORE,
            Self::Damaged(error) => error.code(),
            Self::OtherServer { .. } => Code::OTHER_SERVER,
            Self::Gone { source, .. } => source.code(),
            Self::Relocate(error) => error.code(),
            Self::BadGtids { .. } => Code::BAD_GTIDS,
        }
    }
}

impl Coded for TransactionError {
    fn code(&self) -> Code {
        match self {
            Self::Event { source, .. } => source.code(),
            Self::Decode { source, .. } => source.code(),
            Self::Route { source, .. } => source.code(),
            Self::Unreadable { .. } => Code::LOG_UNREADABLE,
            Self::Unfinished { .. } | Self::Stray { .. } => Code::LOG_INCOMPLETE,
            Self::Incident { .. } => Code::INCIDENT,
            Self::Statement { .. } => Code::STATEMENT_FORMAT,
            Self::ForeignStatement { .. } => Code::FOREIGN_STATEMENT,
            Self::OtherLog { .. } => Code::OTHER_LOG,
        }
    }
}

impl Coded for RowsError {
    fn code(&self) -> Code {
        match self {
            Self::Decode(error) => error.code(),
            Self::Route(error) => error.code(),
            Self::NoTableMap => Code::LOG_INCOMPLETE,
        }
    }
}

impl Coded for RouteError {
    fn code(&self) -> Code {
        match self {
            Self::NoColumn { .. } => Code::COLUMN_MISSING,
            Self::Missing { .. } => Code::VALUE_MISSING,
            Self::NotText { .. } => Code::VALUE_NOT_TEXT,
            Self::Headers { source, .. } => source.code(),
        }
    }
}

impl Coded for HeadersError {
    fn code(&self) -> Code {
        Code::HEADERS_UNFIT
    }
}

impl Coded for DecodeError {
    fn code(&self) -> Code {
        Code::ROW_UNREADABLE
    }
}

impl Coded for EventError {
    fn code(&self) -> Code {
        Code::LOG_UNREADABLE
    }
}

impl Coded for FindError {
    fn code(&self) -> Code {
        match self {
            Self::Connection(error) => error.code(),
            Self::Event { source, .. } => source.code(),
            Self::Purged { .. } => Code::START_PURGED,
            Self::OtherServer { .. } => Code::OTHER_SERVER,
            Self::NoPrepare { .. } => Code::XA_PREPARE_PURGED,
        }
    }
}

impl Coded for RelocateError {
    fn code(&self) -> Code {
        match self {
            Self::Waiting { .. } | Self::Behind { .. } => Code::REPLICA_BEHIND,
            Self::Lost { .. } => Code::TRANSACTIONS_LOST,
            Self::Purged { .. } => Code::REPLICA_PURGED,
            Self::NoGtids { .. } => Code::NO_GTIDS,
            Self::NoLog { .. } => Code::NO_REPLICA_LOG,
        }
    }
}

impl Coded for TableError {
    fn code(&self) -> Code {
        match self {
            Self::Connection(error) => error.code(),
            Self::Route(error) => error.code(),
            Self::Missing { .. } => Code::TABLE_MISSING,
            Self::Engine { .. } => Code::TABLE_ENGINE,
            Self::NoOrder { .. } => Code::TABLE_NO_ORDER,
            Self::Range { .. } => Code::OPTION_UNFIT,
        }
    }
}

impl Coded for SnapshotError {
    fn code(&self) -> Code {
        match self {
            Self::Connection(error) => error.code(),
            Self::NoGtids { .. } => Code::NO_GTIDS,
            Self::Committing { .. } => Code::COMMITS_HANG,
        }
    }
}

impl Coded for ConnectionError {
    fn code(&self) -> Code {
        match self.kind() {
            ConnectionErrorKind::Io
            | ConnectionErrorKind::Timeout
            | ConnectionErrorKind::Silent
            | ConnectionErrorKind::Ended => Code::SOURCE_UNREACHABLE,
            ConnectionErrorKind::Options | ConnectionErrorKind::Tls => Code::SOURCE_TLS,
            ConnectionErrorKind::Authentication => Code::SOURCE_LOGIN,
            ConnectionErrorKind::AccessDenied => Code::SOURCE_REFUSED,
            ConnectionErrorKind::Server { .. } => Code::SOURCE_ERROR,
            ConnectionErrorKind::PositionPurged => Code::LOG_PURGED,
            ConnectionErrorKind::ImpossiblePosition => Code::LOG_ENDS_BEFORE,
            ConnectionErrorKind::Replaced => Code::SOURCE_TAKEN_OVER,
            ConnectionErrorKind::Checksum | ConnectionErrorKind::Protocol => Code::SOURCE_DAMAGED,
            ConnectionErrorKind::TooLarge => Code::EVENT_TOO_LARGE,
        }
    }
}

impl Coded for Stop {
    fn code(&self) -> Code {
        match self {
            Self::Behind { .. } => Code::STREAM_LOST_MESSAGES,
            Self::Conflict { .. } => Code::STREAM_CONFLICT,
            Self::Inconsistent { .. } | Self::NotInLog { .. } => Code::STREAM_UNFIT,
            Self::Refused { .. } => Code::MESSAGE_REFUSED,
            Self::Internal(_) => Code::INTERNAL,
            Self::Wire { source, .. } => source.code(),
        }
    }
}

impl Coded for WireError {
    fn code(&self) -> Code {
        match self {
            Self::Timeout | Self::Unavailable(_) => Code::JETSTREAM_AWAY,
            Self::NoStream { .. } => Code::STREAM_MISSING,
            Self::Foreign { .. } => Code::STREAM_FOREIGN,
            Self::NewerFormat { .. } => Code::NEWER_FORMAT,
            Self::TooLarge { .. } => Code::MESSAGE_TOO_LARGE,
            Self::LetterRefused { .. } => Code::LETTER_REFUSED,
            Self::Unsendable { .. } => Code::MESSAGE_REFUSED,
        }
    }
}

impl Coded for PlanError {
    fn code(&self) -> Code {
        match self {
            Self::NoCheckpoint { .. } => Code::CHECKPOINT_MISSING,
            Self::StreamLost { .. } => Code::STREAM_MADE_ANEW,
            Self::Unaccounted { .. } => Code::STREAM_UNACCOUNTED,
            Self::BackfillUnfinished => Code::BACKFILL_UNFINISHED,
            Self::BackfillTail { .. } => Code::BACKFILL_TAIL,
            Self::NoGtids => Code::NO_GTIDS,
            Self::NotTold { .. } => Code::STREAM_NOT_TOLD,
            Self::NotShown { .. } => Code::ROWS_NOT_SHOWN,
            Self::BadPosition { .. } => Code::STREAM_UNFIT,
        }
    }
}

impl Coded for ReplayError {
    fn code(&self) -> Code {
        match self {
            Self::Unfit { .. } => Code::LETTER_UNFIT,
            Self::Refused { .. } => Code::LETTER_NOT_TAKEN,
            Self::Untold { .. } => Code::LETTER_UNTOLD,
            Self::NoEnd { .. } => Code::LETTER_NO_END,
            Self::Consumed { .. } => Code::LETTER_CONSUMED,
            Self::Changed { .. } => Code::LETTER_CHANGED,
            Self::Wire(error) => error.code(),
        }
    }
}

impl Coded for ReplayStartError {
    fn code(&self) -> Code {
        match self {
            Self::StandIn(error) => error.code(),
            Self::LeaseLost => Code::LEASE_LOST,
            Self::TakenOver => Code::CHECKPOINT_CONFLICT,
            Self::Checkpoint(error) => error.code(),
            Self::Backfill => Code::BACKFILL_UNFINISHED,
            Self::Wire(error) => error.code(),
        }
    }
}

impl Coded for CheckpointError {
    fn code(&self) -> Code {
        match self {
            Self::Unavailable(_) => Code::CHECKPOINT_AWAY,
            Self::Conflict => Code::CHECKPOINT_CONFLICT,
            Self::Unreadable { .. } => Code::CHECKPOINT_UNREADABLE,
        }
    }
}

impl Coded for StandInError {
    fn code(&self) -> Code {
        match self {
            Self::Led { .. } => Code::BRIDGE_LEADS,
            Self::Lease(error) => error.code(),
        }
    }
}

impl Coded for LeaseError {
    fn code(&self) -> Code {
        Code::LEASE_UNUSABLE
    }
}

impl Coded for ReadError {
    fn code(&self) -> Code {
        Code::JETSTREAM_AWAY
    }
}

impl Coded for NatsError {
    fn code(&self) -> Code {
        match self {
            Self::Credentials(_) => Code::NATS_CREDENTIALS,
            Self::Connect(_) => Code::NATS_UNREACHABLE,
        }
    }
}

impl Coded for CleanupError {
    fn code(&self) -> Code {
        match self {
            Self::Connection(error) => error.code(),
            Self::Misfit(misfit) => misfit.code(),
            Self::Statements(_) => Code::CLEANUP_STATEMENTS,
            Self::Letters(error) => error.code(),
            Self::NamelessLetter => Code::CLEANUP_LETTER,
            Self::NotCovered => Code::CLEANUP_DELAYED,
        }
    }
}

impl Coded for Misfit {
    fn code(&self) -> Code {
        Code::CLEANUP_UNFIT
    }
}

impl Coded for AuditError {
    fn code(&self) -> Code {
        match self {
            Self::Rows(error) => error.code(),
            Self::Stream { .. } => Code::JETSTREAM_AWAY,
        }
    }
}

impl Coded for BindError {
    fn code(&self) -> Code {
        Code::ADDRESS_IN_USE
    }
}

impl Coded for LoggingError {
    fn code(&self) -> Code {
        Code::LOG_FILTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exit::report, publish::Stop};

    #[test]
    fn the_innermost_cause_that_has_a_code_gives_it() {
        let wire = WireError::NoStream { stream: "ORDERS".to_owned() };
        let stop = Stop::Wire { stream: "ORDERS".to_owned(), source: wire };
        let error: PipelineError<LogError> = stop.into();
        assert_eq!(code_of(&error), Some(Code::STREAM_MISSING));
        assert!(report(&error).ends_with(" [OB-4003]"), "{}", report(&error));
        assert_eq!(report(&error).matches("OB-").count(), 1);

        let route = RouteError::NoColumn { table: "a.b".to_owned(), column: "c".to_owned(), role: "id" };
        let error = LogError::Transaction(TransactionError::Route { at: "f:4".to_owned(), source: route });
        assert_eq!(code_of(&PipelineError::Source(error)), Some(Code::COLUMN_MISSING));
        assert_eq!(code_of(&std::io::Error::other("else")), None);
    }
}
