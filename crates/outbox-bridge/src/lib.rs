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
pub fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() { text = format!("{text}: {source}"); error = source; }
    text
}
