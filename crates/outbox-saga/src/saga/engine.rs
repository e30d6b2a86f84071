//! What a saga does next: a pure function of its state, what came in, and the time.
//!
//! It knows nothing of data, messages or tables. Whoever calls it writes the new state, the commands and the history in one
//! transaction, so that a crash leaves all of it or nothing.
//!
//! The vocabulary is that of Garcia-Molina and Salem, *Sagas* (1987), and of Richardson's *Microservices Patterns*:
//! steps before the **pivot** are compensated when the saga fails, steps after it are tried until they succeed.
//!
//! - A step whose outcome is unknown, since no answer came, is compensated like one that was done. The participant's barrier
//!   makes an undo without a do harmless, and refuses a do that comes after its undo.
//! - A refusal is final for its **round**: repeated commands of a round are always answered in the same way. After the
//!   pivot, where a refusal is no end, the command is given again in a new round.
//! - What comes too late or twice changes nothing but the history.

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tests;
mod turn;
mod types;

pub use self::types::{
    Action, Cause, Effect, Input, Instance, Moment, Note, Outcome, Refusal, Reply, Status, Step, StepStatus,
};
