//! The names of all metrics of TCC.
//!
//! | metric | labels | |
//! |---|---|---|
//! | `outbox_tcc_transactions_total` | `name`, `outcome` (`confirmed`, `cancelled`) | decisions made here |
//! | `outbox_tcc_decision_seconds` | `name`, `outcome` | from the begin to the decision |
//! | `outbox_tcc_failed_calls_total` | `branch`, `operation` | calls without an answer |
//! | `outbox_tcc_recovered_transactions_total` | – | transactions that were taken up after their instance had left them |
//! | `outbox_tcc_stuck_transactions` | – | transactions that wait for an operator, as of the last look |
//!
//! Labels are bounded by the code: names of transactions and branches.

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Decisions made here.
pub const TRANSACTIONS: &str = "outbox_tcc_transactions_total";
/// From the begin to the decision.
pub const DECISION: &str = "outbox_tcc_decision_seconds";
/// Calls without an answer.
pub const FAILED_CALLS: &str = "outbox_tcc_failed_calls_total";
/// Transactions that were taken up after their instance had left them.
pub const RECOVERED: &str = "outbox_tcc_recovered_transactions_total";
/// Transactions that wait for an operator, as of the last look.
pub const STUCK: &str = "outbox_tcc_stuck_transactions";

pub(crate) fn describe() {
    describe_counter!(TRANSACTIONS, Unit::Count, "decisions made here");
    describe_histogram!(DECISION, Unit::Seconds, "from the begin to the decision");
    describe_counter!(FAILED_CALLS, Unit::Count, "calls without an answer");
    describe_counter!(
        RECOVERED,
        Unit::Count,
        "transactions that were taken up after their instance had left them"
    );
    describe_gauge!(STUCK, Unit::Count, "transactions that wait for an operator");
}

#[cfg(test)]
mod tests {
    /// The table above is the documentation.
    #[test]
    fn every_metric_is_documented() {
        let text = include_str!("metrics.rs");
        for name in
            [super::TRANSACTIONS, super::DECISION, super::FAILED_CALLS, super::RECOVERED, super::STUCK]
        {
            assert!(text.contains(&format!("//! | `{name}` |")), "{name}");
        }
    }
}
