//! What `cargo xtask chaos` runs: bridges, MySQL and a NATS cluster that are killed, frozen, cut off and slowed down at
//! random, under producers with all that applications do to transactions, and an oracle that compares meanwhile.
//!
//! A seed gives the [`schedule`]: rounds of faults that overlap as they like, each followed by a quiet time in which all is
//! healed. In a quiet time the bridge must catch up within a limit, though producers go on; then everything that was committed
//! until then must be in the stream, once and in order. What the servers make of a schedule differs from run to run.

mod faults;
mod oracle;
mod place;
mod producer;
mod report;
mod run;
pub mod schedule;

pub use run::{Options, run};
