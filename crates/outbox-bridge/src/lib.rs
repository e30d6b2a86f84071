//! Outbox Bridge: committed rows of a MySQL outbox table become JetStream messages, exactly once and in commit order.

pub mod admin;
mod audit;
pub(crate) mod backfill;
mod backoff;
pub mod checkpoint;
mod cleanup;
pub mod cli;
pub mod config;
pub mod decode;
pub mod diagnosis;
pub mod exit;
mod instances;
mod lead;
pub mod logging;
pub mod metrics;
pub mod nats;
pub mod pipeline;
pub mod publish;
pub mod route;
mod run;
#[cfg(test)]
mod simulation;
pub mod source;
mod traces;
pub mod transaction;
mod verify;

pub use run::{RunError, run};
