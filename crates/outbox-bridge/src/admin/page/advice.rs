//! What is to be looked at, and what to do about it. Limits and sections are those of the alerts.

use std::time::{Duration, SystemTime};

use super::status::{Level, Moment, State, Status, Warning};

/// Where `deploy/README.md` says more about a component that is not ready.
pub(super) const WAITING: &str = "When it does not get on";
const LAG_SECONDS_MAX: f64 = 60.0;
const LOG_BEHIND_BYTES_MAX: u64 = 1_000_000_000;
const CHECKPOINT_AGE_MAX: Duration = Duration::from_secs(120);
/// In the last ten minutes, as the next.
const RESUMES_MAX: u64 = 30;
const RECONNECTS_MAX: u64 = 10;
const CLEANUP_OVERDUE_SECONDS_MAX: f64 = 3600.0;

/// What to do about a component that is not ready.
pub(super) fn remedy(component: &str) -> &'static str {
    match component {
        "source" => {
            "Reading goes on by itself once the server is back; it keeps its log meanwhile. See that MySQL runs and lets the bridge's \
             user in: `outbox-bridge check` names what is wrong. Do not purge binary logs."
        }
        "nats" => {
            "Publishing goes on by itself once NATS is back; MySQL keeps its log meanwhile. See that nats-server and JetStream run and \
             let the bridge's user in: `outbox-bridge check` names what is wrong."
        }
        "publish" => {
            "The bridge tries again by itself. See that the stream has a leader, has room and has the subjects of the events: \
             `outbox-bridge check` names what is wrong."
        }
        _ => {
            "The bridge tries again by itself. See that the bucket of the checkpoints has a leader and room, and that the bridge's user \
             may write to it: `outbox-bridge check` names what is wrong."
        }
    }
}

/// Counts that no part of the status holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) reconnects: u64,
    pub(super) duplicates: u64,
    pub(super) cleanup_overdue_seconds: f64,
    pub(super) audit_findings: u64,
}

/// What is to be looked at, the worst first.
pub(super) fn warnings(status: &Status, counts: Counts, now: SystemTime) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |level, what: String, since, remedy, section| {
        found.push(Warning { level, what, since, remedy, section });
    };
    for (name, component) in &status.components {
        if let (State::NotReady, Some(reason)) = (component.state, &component.reason) {
            let since = component.since;
            // Some reasons begin with the component's name.
            let reason = reason.strip_prefix(&format!("{name}: ")).unwrap_or(reason);
            warn(Level::Critical, format!("Not ready, {name}: {reason}"), since, remedy(name), WAITING);
        }
    }
    let waits = |component: &str| {
        status.components.get(component).is_some_and(|known| known.state == State::NotReady)
    };
    if status.role == "waiting" && !waits("nats") && !waits("checkpoint") {
        warn(
            Level::Critical,
            "Waits for the lease: it is not known who leads".into(),
            None,
            "It passes within the lease's time (`lease.ttl`). If it stays, `outbox-bridge status` says whether the bucket of the \
             lease can be reached.",
            "OutboxNobodyLeads",
        );
    }
    if let Some(letters) = &status.dead_letters
        && let Some(open @ 1..) = letters.open
    {
        let least = if letters.complete { "" } else { "At least " };
        warn(
            Level::Warning,
            format!(
                "{least}{open} dead {} in {}",
                if open == 1 { "letter" } else { "letters" },
                letters.stream
            ),
            None,
            "`outbox-bridge dead-letters list` shows them and why. Mend the cause, stop the bridge, and replay or drop them.",
            "Dead letters",
        );
    }
    if counts.audit_findings > 0 {
        warn(
            Level::Critical,
            format!("The audit has found {} events missing, doubled or out of order", counts.audit_findings),
            None,
            "The log names them at level ERROR. Take `retention` out, and compare all with `outbox-bridge verify`.",
            "OutboxAuditFound",
        );
    }
    if status.role == "leader" {
        of_a_leader(status, counts, now, &mut warn);
    }
    if counts.reconnects > RECONNECTS_MAX {
        warn(
            Level::Warning,
            format!("{} connections to MySQL or NATS were lost in ten minutes", counts.reconnects),
            None,
            "The log says to whom and why: a proxy or firewall that ends connections, a server that restarts, another replica with \
             the same `source.server_id`.",
            "OutboxReconnecting",
        );
    }
    found.sort_by_key(|warning| warning.level);
    found
}

fn of_a_leader(
    status: &Status,
    counts: Counts,
    now: SystemTime,
    warn: &mut impl FnMut(Level, String, Option<Moment>, &'static str, &'static str),
) {
    if let Some(lag) = status.flow.lag_seconds.filter(|lag| *lag > LAG_SECONDS_MAX) {
        warn(
            Level::Critical,
            format!("The oldest event that is not stored was committed {lag:.0} s ago"),
            None,
            "If all components are ready, a backlog is being caught up with, or a stream is slow: look at the latency and at NATS' \
             disks. Do not purge binary logs meanwhile.",
            "OutboxLagging",
        );
    }
    if let Some(bytes) = status.source.log_behind_bytes.filter(|bytes| *bytes > LOG_BEHIND_BYTES_MAX) {
        warn(
            Level::Warning,
            format!("{} MB of the binary log are not carried yet", bytes / 1_000_000),
            None,
            "The source writes faster than its log is read, or a very large transaction is under way. Look at network and processor of \
             the bridge.",
            "OutboxLogBehind",
        );
    }
    let age = status.source.checkpoint.and_then(|Moment(at)| now.duration_since(at).ok());
    if let Some(age) = age.filter(|age| *age > CHECKPOINT_AGE_MAX) {
        warn(
            Level::Warning,
            format!("The last checkpoint is {} s old", age.as_secs()),
            status.source.checkpoint,
            "Either one transaction is very large, or the bucket cannot be written to: then the log says `cannot write the checkpoint \
             now`, and `outbox-bridge check` why.",
            "OutboxCheckpointOld",
        );
    }
    if status.resumes.last_ten_minutes > RESUMES_MAX {
        warn(
            Level::Warning,
            format!("Writers resumed {} times in ten minutes", status.resumes.last_ten_minutes),
            None,
            "Acknowledgements are lost, late or refused. The causes below say which: network, an overloaded NATS, or somebody else who \
             publishes to the stream.",
            "OutboxResuming",
        );
    }
    if counts.duplicates > 0 {
        warn(
            Level::Warning,
            format!("{} events were dropped as duplicates in ten minutes", counts.duplicates),
            None,
            "An application inserted the same event id twice, and the stream keeps the first. Give the id column a unique index.",
            "OutboxDuplicatesDropped",
        );
    }
    if counts.cleanup_overdue_seconds > CLEANUP_OVERDUE_SECONDS_MAX {
        warn(
            Level::Warning,
            "Published rows are not deleted in time".into(),
            None,
            "The log says why if the bridge may not delete, and `outbox-bridge check` names what is missing; else raise \
             `cleanup.batch_rows`.",
            "OutboxCleanupLate",
        );
    }
}
