//! What only both sides together can show: a position that the log no longer has, a payload that no message can hold.
//! Pure.

use super::nats::Target;
use super::progress::Start;
use super::source::{Log, Numbered, Payload, SUBJECT, Source};
use super::{Finding, Severity};
use crate::config::{Config, StartPosition};
use crate::diagnosis::Code;
use crate::source::gtid::GtidSet;

/// Compares the source with the streams.
pub(super) fn assess(config: &Config, source: &Source, target: &Target) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        source.payloads.iter().filter_map(|payload| too_large(config, payload, target)).collect();
    if config.publish.message_id {
        findings.extend(equal_ids(&source.numbered));
    }
    if let Some(log) = &source.log {
        findings.extend(misplaced(config, log, &target.progress.start));
    }
    findings
}

fn too_large(config: &Config, payload: &Payload, target: &Target) -> Option<Finding> {
    let limit = target.limits.get(&payload.stream)?;
    if payload.bytes_max <= limit.bytes || config.claim_check.is_some() {
        return None;
    }
    let problem = format!(
        "column {} can hold {}, but a message with its headers may have {} ({}): a larger row stops the bridge",
        payload.column,
        readable(payload.bytes_max),
        readable(limit.bytes),
        limit.setting
    );
    let remedy = format!(
        "set claim_check.bucket, raise {}, use a smaller type, or let the table refuse larger rows: CHECK (LENGTH(…) < {})",
        limit.setting, limit.bytes
    );
    Some(Finding::new(Severity::Warning, format!("table {}", payload.table), problem, remedy))
}

/// Numbers of two tables in one stream: those that both have look like duplicates.
fn equal_ids(tables: &[Numbered]) -> Vec<Finding> {
    let clash = |(at, table): (usize, &Numbered)| {
        let other = tables.iter().take(at).find(|other| other.stream == table.stream)?;
        let problem = format!(
            "column {} and {} of {} are numbers, and both tables publish to stream {}: of two rows with the same number the \
             stream drops the second as a duplicate",
            table.column, other.column, other.table, table.stream
        );
        let remedy =
            "use UUIDs as ids, give each table a stream of its own, or set publish.message_id = false";
        Some(Finding::new(Severity::Warning, format!("table {}", table.table), problem, remedy))
    };
    tables.iter().enumerate().filter_map(clash).collect()
}

/// `1048576 bytes (1 MiB)`.
fn readable(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size {
            let tenths = bytes.saturating_mul(10) / size;
            let (whole, tenth) = (tenths / 10, tenths % 10);
            let number = if tenth == 0 { whole.to_string() } else { format!("{whole}.{tenth}") };
            return format!("{bytes} bytes ({number} {unit})");
        }
    }
    format!("{bytes} bytes")
}

/// Whether the log is the one that the position belongs to, and still has it.
fn misplaced(config: &Config, log: &Log, start: &Start) -> Option<Finding> {
    let error = |code: Code, problem: String, remedy: &str| {
        Some(Finding::new(Severity::Error, SUBJECT, problem, remedy).coded(code))
    };
    match start {
        Start::Unknown => None,
        Start::First => {
            let StartPosition::Gtids(text) = &config.source.start else { return None };
            let Ok(set) = GtidSet::parse(text, log.flavour) else {
                let remedy = "write MySQL's \"UUID:1-5\" (@@gtid_executed) or MariaDB's \"0-1-270\" (@@gtid_binlog_pos)";
                let problem = format!("source.start = {text} is no GTID set of such a server");
                return error(Code::BAD_GTIDS, problem, remedy);
            };
            let purged = GtidSet::parse(&log.purged, log.flavour).ok()?.missing_from(&set);
            if purged.is_empty() {
                return None;
            }
            let remedy = "set source.start to a set that contains them, or to \"earliest\", and publish what is missing from \
                          the outbox table itself";
            let problem = format!("has purged transactions that follow source.start: {purged}");
            error(Code::START_PURGED, problem, remedy)
        }
        Start::At(point) => {
            if !point.server.is_empty() && !log.uuid.is_empty() && point.server != log.uuid {
                let by_gtids = point.executed.as_deref().is_some_and(|executed| !executed.is_empty());
                let problem =
                    format!("is server {}, but the checkpoint belongs to {}", log.uuid, point.server);
                if by_gtids {
                    let remedy = "if it is a replica of that one or its successor, run goes on there by GTIDs; otherwise point source.url \
                                  to that server, or give this bridge a name and streams of its own";
                    return Some(Finding::new(Severity::Warning, SUBJECT, problem, remedy));
                }
                let remedy =
                    "point source.url to that server, or give this bridge a name and streams of its own";
                return error(Code::OTHER_SERVER, problem, remedy);
            }
            if log.files.is_empty() || log.files.contains(&point.file) {
                return None;
            }
            let remedy = "run `outbox-bridge backfill`, which publishes from the outbox table what the streams do not hold, or bring the \
                          log back from a backup or a replica; to go on without it, delete the checkpoint and set source.start; and \
                          keep the log for longer";
            let problem = format!("has no log file {} any more, where the bridge must go on", point.file);
            error(Code::LOG_PURGED, problem, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::nats::Limit;
    use super::*;
    use crate::checkpoint::{At, LogPoint};
    use crate::cli::init::tests::config;
    use crate::source::connection::Flavour;

    #[test]
    fn payloads_against_limits() {
        let payload = |bytes_max| Payload {
            table: "shop.outbox".to_owned(),
            stream: "ORDERS".to_owned(),
            column: "payload (json)".to_owned(),
            bytes_max,
        };
        let without = config("");
        let limit = Limit { bytes: 1 << 20, setting: "max_payload of nats-server".to_owned() };
        let target = Target { limits: [("ORDERS".to_owned(), limit)].into(), ..Target::default() };
        assert_eq!(too_large(&without, &payload(65_535), &target), None);
        let finding = too_large(&without, &payload(1 << 26), &target).expect("a finding");
        assert!(finding.problem.contains("67108864 bytes (64 MiB)"), "{finding}");
        assert!(finding.problem.contains("1048576 bytes (1 MiB) (max_payload"), "{finding}");
        assert_eq!(
            too_large(&without, &payload(1 << 26), &Target::default()),
            None,
            "the stream's limit is not known"
        );
        let with = config("[claim_check]\nbucket = \"PAYLOADS\"\n");
        assert_eq!(too_large(&with, &payload(1 << 26), &target), None, "it goes elsewhere");
        assert_eq!(readable(1_500_000_000), "1500000000 bytes (1.3 GiB)");
        assert_eq!(readable(1000), "1000 bytes");
    }

    #[test]
    fn numbers_of_two_tables_in_one_stream() {
        let numbered = |table: &str, stream: &str| Numbered {
            table: table.to_owned(),
            stream: stream.to_owned(),
            column: "id (bigint)".to_owned(),
        };
        let apart = [numbered("shop.a", "A"), numbered("shop.b", "B")];
        assert_eq!(equal_ids(&apart), []);
        let [finding] =
            equal_ids(&[numbered("shop.a", "A"), numbered("shop.b", "B"), numbered("shop.c", "A")])
                .try_into()
                .expect("one finding");
        let text = finding.to_string();
        assert!(text.contains("shop.c") && text.contains("shop.a") && !text.contains("shop.b"), "{text}");
    }

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn positions_that_do_not_fit() {
        let log = |purged: &str| Log {
            flavour: Flavour::MySql,
            uuid: UUID.to_owned(),
            files: vec!["binlog.000002".to_owned(), "binlog.000003".to_owned()],
            purged: purged.to_owned(),
        };
        let at = |server: &str, file: &str| {
            Start::At(Box::new(LogPoint {
                server: server.to_owned(),
                file: file.to_owned(),
                offset: 4,
                at: At::Boundary,
                executed: None,
                prepared: Vec::new(),
                definitions: Default::default(),
            }))
        };
        let plain = config("");
        let started_at = |gtids: &str| {
            let mut config = config("");
            config.source.start = StartPosition::Gtids(gtids.to_owned());
            config
        };
        let set = |last: u32| format!("{UUID}:1-{last}");
        for (config, start, purged, expected) in [
            (&plain, Start::Unknown, String::new(), None),
            (&plain, Start::First, set(9), None),
            (&plain, at(UUID, "binlog.000002"), String::new(), None),
            (&plain, at("", "binlog.000003"), String::new(), None),
            (
                &plain,
                at("other", "binlog.000003"),
                String::new(),
                Some(("belongs to other", Code::OTHER_SERVER)),
            ),
            (
                &plain,
                at(UUID, "binlog.000001"),
                String::new(),
                Some(("no log file binlog.000001", Code::LOG_PURGED)),
            ),
            (&started_at(&set(5)), Start::First, set(5), None),
            (&started_at(&set(5)), Start::First, set(9), Some((":6-9", Code::START_PURGED))),
            (
                &started_at("0-1-9"),
                Start::First,
                String::new(),
                Some(("no GTID set of such a server", Code::BAD_GTIDS)),
            ),
            (&started_at("0-1-9"), at(UUID, "binlog.000002"), String::new(), None),
        ] {
            let finding = misplaced(config, &log(&purged), &start);
            assert_eq!(finding.is_some(), expected.is_some(), "{finding:?}");
            if let (Some(finding), Some((words, code))) = (finding, expected) {
                assert!(finding.problem.contains(words) && !finding.remedy.is_empty(), "{finding}");
                assert_eq!(finding.code(), Some(code), "{finding}");
            }
        }
    }
}
