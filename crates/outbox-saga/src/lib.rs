//! Sagas and TCC on the outbox and the consumers of Outbox Bridge.
//!
//! Which of them when, what each guarantees, and what goes wrong: see the [`guide`]. A [saga] is a sequence of steps with
//! compensations; a [TCC](tcc) transaction reserves everywhere, and then confirms or cancels everywhere. Participants of both stand
//! behind a [`barrier`].

pub mod barrier;
mod conflict;
#[doc = include_str!("../GUIDE.md")]
pub mod guide {}
#[cfg(feature = "inspect")]
pub mod inspect;
#[cfg(feature = "page")]
pub mod page;
pub mod saga;
pub mod tcc;
mod together;
mod trace;
