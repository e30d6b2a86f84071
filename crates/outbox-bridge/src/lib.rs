//! Outbox Bridge: committed rows of a MySQL outbox table become JetStream messages, exactly once and in commit order.

mod backoff;
pub mod checkpoint;
mod metrics;
pub mod pipeline;
pub mod publish;
pub mod source;
pub mod status;
#[cfg(test)]
mod simulation;

/// stand-in
pub fn report(error: &dyn std::error::Error) -> String { error.to_string() }
