//! What a call does to a branch: the table in the module's documentation, as a function.

use super::Operation;

/// What has happened to a branch, as the table says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Done,
    Refused,
    Confirmed,
    Undone,
    Barred,
}

impl State {
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] =
        [Self::Done, Self::Refused, Self::Confirmed, Self::Undone, Self::Barred];

    /// How a row for a branch begins that was unknown; none if a row would be wrong.
    pub(super) fn of_unknown(operation: Operation) -> Option<Self> {
        match operation {
            Operation::Do => Some(Self::Done),
            Operation::Undo => Some(Self::Barred),
            Operation::Confirm => None,
        }
    }

    /// The state when this operation has run.
    pub(super) fn of_run(operation: Operation) -> Self {
        match operation {
            Operation::Do => Self::Done,
            Operation::Confirm => Self::Confirmed,
            Operation::Undo => Self::Undone,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Confirmed => "confirmed",
            Self::Undone => "undone",
            Self::Barred => "barred",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "done" => Self::Done,
            "refused" => Self::Refused,
            "confirmed" => Self::Confirmed,
            "undone" => Self::Undone,
            "barred" => Self::Barred,
            _ => return None,
        })
    }
}

/// What is to be done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Run it; the branch is in this state then.
    Run(State),
    Again,
    Refused,
    TooLate,
    Nothing,
    Violation,
}

pub(super) fn decide(state: Option<State>, operation: Operation) -> Decision {
    use Operation::{Confirm, Do, Undo};
    use State::{Barred, Confirmed, Done, Refused, Undone};

    match (operation, state) {
        (Do, None) => Decision::Run(Done),
        (Do, Some(Done | Confirmed)) => Decision::Again,
        (Do, Some(Refused)) => Decision::Refused,
        (Do, Some(Undone | Barred)) => Decision::TooLate,
        (Confirm, Some(Done)) => Decision::Run(Confirmed),
        (Confirm, Some(Confirmed)) => Decision::Again,
        (Confirm, None | Some(Refused | Undone | Barred)) => Decision::Violation,
        (Undo, Some(Done)) => Decision::Run(Undone),
        (Undo, Some(Undone)) => Decision::Again,
        (Undo, None | Some(Refused | Barred)) => Decision::Nothing,
        (Undo, Some(Confirmed)) => Decision::Violation,
    }
}

/// A branch's row in memory, for explorations of what stands on the barrier.
#[cfg(test)]
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct MemoryBranch(Option<State>);

#[cfg(test)]
impl MemoryBranch {
    /// A whole call; `refuses` says that the participant says no if it is run.
    pub(crate) fn call(&mut self, operation: Operation, refuses: bool) -> Decision {
        let decision = decide(self.0, operation);
        match decision {
            Decision::Run(_) if refuses => {
                self.0 = Some(State::Refused);
                return Decision::Refused;
            }
            Decision::Run(next) => self.0 = Some(next),
            Decision::Nothing => self.0 = self.0.or(State::of_unknown(operation)),
            _ => {}
        }
        decision
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.0 == Some(State::Done)
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.0 == Some(State::Confirmed)
    }

    pub(crate) fn is_undone(&self) -> bool {
        self.0 == Some(State::Undone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATIONS: [Operation; 3] = [Operation::Do, Operation::Confirm, Operation::Undo];

    #[test]
    fn names_are_read_again() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
        }
        assert_eq!(State::from_name("other"), None);
    }

    /// Every sequence of up to six calls: each operation runs at most once, a confirm and an undo never both, and neither
    /// without the do; a do never after an undo.
    #[test]
    fn every_sequence_of_calls_is_sound() {
        let mut sequences = vec![Vec::new()];
        for _ in 0..6 {
            let longer: Vec<Vec<Operation>> = sequences
                .iter()
                .flat_map(|sequence| OPERATIONS.map(|operation| [sequence.as_slice(), &[operation]].concat()))
                .collect();
            longer.iter().for_each(|sequence| is_sound(sequence));
            sequences = longer;
        }
    }

    fn is_sound(sequence: &[Operation]) {
        let mut state = None;
        let mut ran = Vec::new();
        let mut undo_came = false;
        for &operation in sequence {
            match decide(state, operation) {
                Decision::Run(next) => {
                    assert!(!(operation == Operation::Do && undo_came), "{sequence:?}");
                    ran.push(operation);
                    state = Some(next);
                }
                Decision::Nothing => state = state.or(State::of_unknown(operation)),
                _ => {}
            }
            undo_came |= operation == Operation::Undo && state != Some(State::Confirmed);
        }
        let allowed: [&[Operation]; 4] =
            [&[], &[Operation::Do], &[Operation::Do, Operation::Confirm], &[Operation::Do, Operation::Undo]];
        assert!(allowed.contains(&ran.as_slice()), "{sequence:?} ran {ran:?}");
    }
}
