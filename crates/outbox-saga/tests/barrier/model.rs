//! What must come of a call, said once more and in another way than the crate says it.

use outbox_saga::barrier::{BarrierError, BarrierErrorKind, Entered, Operation};

pub(crate) const OPERATIONS: [Operation; 3] = [Operation::Do, Operation::Confirm, Operation::Undo];

/// What came of a call, without the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    First,
    Again,
    Refused,
    TooLate,
    Nothing,
    Violation,
}

impl Came {
    /// Nothing comes of a call that lost against another one.
    pub(crate) fn of(outcome: &Result<Entered, BarrierError>) -> Option<Self> {
        Some(match outcome {
            Ok(Entered::First) => Self::First,
            Ok(Entered::Again(_)) => Self::Again,
            Ok(Entered::Refused(_)) => Self::Refused,
            Ok(Entered::TooLate) => Self::TooLate,
            Ok(Entered::Nothing) => Self::Nothing,
            Err(err) if err.kind() == BarrierErrorKind::Violation => Self::Violation,
            Err(_) => return None,
        })
    }
}

/// The branch's state after a call of `operation` in `state`, and what comes of it.
pub(crate) fn call(state: Option<&'static str>, operation: Operation) -> (Option<&'static str>, Came) {
    let row = state.unwrap_or("unknown");
    let (next, came) = match (row, operation) {
        ("unknown", Operation::Do) => ("done", Came::First),
        ("unknown", Operation::Undo) => ("barred", Came::Nothing),
        ("done", Operation::Do) => ("done", Came::Again),
        ("done", Operation::Undo) => ("undone", Came::First),
        ("done", Operation::Confirm) => ("confirmed", Came::First),
        ("confirmed", Operation::Do | Operation::Confirm) => ("confirmed", Came::Again),
        ("refused", Operation::Do) => ("refused", Came::Refused),
        ("refused", Operation::Undo) => ("refused", Came::Nothing),
        ("undone", Operation::Undo) => ("undone", Came::Again),
        ("barred", Operation::Undo) => ("barred", Came::Nothing),
        ("undone" | "barred", Operation::Do) => (row, Came::TooLate),
        _ => return (state, Came::Violation),
    };
    (Some(next), came)
}
