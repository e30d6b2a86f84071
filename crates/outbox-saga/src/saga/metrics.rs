//! The names of all metrics of sagas.
//!
//! | metric | labels | |
//! |---|---|---|
//! | `outbox_saga_started_total` | `saga` | sagas that were started |
//! | `outbox_saga_ended_total` | `saga`, `outcome` (`completed`, `compensated`, `aborted`) | sagas that came to an end |
//! | `outbox_saga_commands_total` | `saga`, `step`, `action` (`do`, `undo`) | commands that were sent, repetitions included |
//! | `outbox_saga_timeouts_total` | `saga`, `step` | commands without an answer in time |
//! | `outbox_saga_ignored_replies_total` | `saga`, `step` | replies that came twice or too late |
//! | `outbox_saga_unmatched_replies_total` | – | replies to sagas that are not in the tables: removed since, or another orchestrator's |
//! | `outbox_saga_stuck_total` | `saga`, `step` | steps that became stuck |
//! | `outbox_saga_open_instances` | `status` (`running`, `compensating`, `stuck`) | sagas that have not ended, as of the last look |
//! | `outbox_saga_unattended_instances` | – | sagas that have been due for a minute and whose definition this process has not, as of the last look |
//!
//! Counters count what was written; a transaction that is rolled back afterwards, which is rare, is counted too, and again
//! when it is done again. The gauge is what the table says. Labels are bounded by the definitions.

use ::metrics::{Unit, describe_counter, describe_gauge};

/// Sagas that were started.
pub const STARTED: &str = "outbox_saga_started_total";
/// Sagas that came to an end.
pub const ENDED: &str = "outbox_saga_ended_total";
/// Commands that were sent, repetitions included.
pub const COMMANDS: &str = "outbox_saga_commands_total";
/// Commands without an answer in time.
pub const TIMEOUTS: &str = "outbox_saga_timeouts_total";
/// Replies that came twice or too late.
pub const IGNORED_REPLIES: &str = "outbox_saga_ignored_replies_total";
/// Replies to sagas that are not in the tables.
pub const UNMATCHED_REPLIES: &str = "outbox_saga_unmatched_replies_total";
/// Steps that became stuck.
pub const STUCK: &str = "outbox_saga_stuck_total";
/// Sagas that have not ended, as of the last look.
pub const OPEN: &str = "outbox_saga_open_instances";
/// Sagas that are overdue and whose definition this process has not, as of the last look.
pub const UNATTENDED: &str = "outbox_saga_unattended_instances";

pub(super) fn describe() {
    describe_counter!(STARTED, Unit::Count, "sagas that were started");
    describe_counter!(ENDED, Unit::Count, "sagas that came to an end");
    describe_counter!(COMMANDS, Unit::Count, "commands that were sent, repetitions included");
    describe_counter!(TIMEOUTS, Unit::Count, "commands without an answer in time");
    describe_counter!(IGNORED_REPLIES, Unit::Count, "replies that came twice or too late");
    describe_counter!(UNMATCHED_REPLIES, Unit::Count, "replies to sagas that are not in the tables");
    describe_counter!(STUCK, Unit::Count, "steps that became stuck");
    describe_gauge!(OPEN, Unit::Count, "sagas that have not ended");
    describe_gauge!(
        UNATTENDED,
        Unit::Count,
        "sagas that are overdue and whose definition this process has not"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let text = include_str!("metrics.rs");
        for name in
            [STARTED, ENDED, COMMANDS, TIMEOUTS, IGNORED_REPLIES, UNMATCHED_REPLIES, STUCK, OPEN, UNATTENDED]
        {
            assert!(text.contains(&format!("//! | `{name}` |")), "{name}");
        }
    }
}
