//! The server's settings: what keeps its log from showing committed rows, or makes it forget them.

use std::collections::HashMap;
use std::time::Duration;

use super::SUBJECT;
use crate::cli::check::{Finding, Severity};
use crate::source::connection::{Connection, ConnectionError, Flavour};

/// The server's global variables.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables(HashMap<String, String>);

impl Variables {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// The first of these variables that the server has: names changed with versions.
    fn any(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }
}

/// Whether a switch is on, as the server words it.
pub(super) fn is_on(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("ON")
}

pub(super) async fn read(connection: &mut Connection) -> Result<Variables, ConnectionError> {
    let rows = connection.query("SHOW GLOBAL VARIABLES").await?;
    let pair =
        |row: &crate::source::connection::Row| Some((row.at(0)?.to_lowercase(), row.at(1)?.to_owned()));
    Ok(Variables(rows.iter().filter_map(pair).collect()))
}

/// What a variable had better be.
struct Rule {
    variable: &'static str,
    flavour: Option<Flavour>,
    fits: fn(&str) -> bool,
    severity: Severity,
    /// What a misfit means, behind `variable = value: `.
    means: &'static str,
    remedy: &'static str,
}

use Flavour::{MariaDb, MySql};
use Severity::{Error, Note, Warning};

/// A variable that a server does not have, fits.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { variable: "log_bin", flavour: None, fits: is_on, severity: Error,
        means: "the server writes no binary log, so there is nothing to read",
        remedy: "start the server with log_bin set, for instance log_bin = binlog in its configuration" },
    Rule { variable: "server_id", flavour: None, fits: |value| value != "0", severity: Error,
        means: "a server without an id gives its log to nobody",
        remedy: "set server_id to a number of the server's own, at least 1" },
    Rule { variable: "binlog_format", flavour: None, fits: |value| value.eq_ignore_ascii_case("ROW"), severity: Error,
        means: "inserts are logged as SQL text, from which no row can be published: the first one stops the bridge",
        remedy: "set binlog_format = ROW in the server's configuration and with SET GLOBAL, and let the applications \
                 reconnect: sessions keep the value that they began with, and no session may set another for itself" },
    Rule { variable: "binlog_row_image", flavour: None, fits: |value| !value.eq_ignore_ascii_case("MINIMAL"), severity: Warning,
        means: "columns that an insert leaves to their defaults are not logged; where one of them is mapped, the row stops the bridge",
        remedy: "set binlog_row_image = FULL, or let every insert name all mapped columns" },
    Rule { variable: "binlog_row_image", flavour: None, fits: |value| !value.eq_ignore_ascii_case("NOBLOB"), severity: Warning,
        means: "payloads are BLOB, TEXT or JSON columns, which this setting leaves out of some row images",
        remedy: "set binlog_row_image = FULL" },
    Rule { variable: "binlog_row_metadata", flavour: None, fits: |value| value.eq_ignore_ascii_case("FULL"), severity: Warning,
        means: "the log does not name columns, so definitions are taken from information_schema, which may be newer than \
                the log: while the bridge is behind, an ALTER TABLE of an outbox may stop it",
        remedy: "set binlog_row_metadata = FULL, in the server's configuration and with SET GLOBAL" },
    Rule { variable: "sync_binlog", flavour: None, fits: |value| value == "1", severity: Warning,
        means: "a server that loses power can forget transactions which are published already",
        remedy: "set sync_binlog = 1" },
    Rule { variable: "innodb_flush_log_at_trx_commit", flavour: Some(MySql), fits: |value| value == "1", severity: Warning,
        means: "a server that loses power can forget transactions which are published already",
        remedy: "set innodb_flush_log_at_trx_commit = 1" },
    Rule { variable: "innodb_flush_log_at_trx_commit", flavour: Some(MariaDb), fits: |value| value == "1" || value == "3", severity: Warning,
        means: "a server that loses power can forget transactions which are published already",
        remedy: "set innodb_flush_log_at_trx_commit = 1" },
    Rule { variable: "gtid_mode", flavour: Some(MySql), fits: |value| value.eq_ignore_ascii_case("ON"), severity: Warning,
        means: "transactions have no name that holds on another server, so a failover of the source cannot be followed",
        remedy: "set enforce_gtid_consistency = ON, then gtid_mode step by step to ON; the bridge also works without" },
    Rule { variable: "gtid_strict_mode", flavour: Some(MariaDb), fits: is_on, severity: Note,
        means: "the server lets GTIDs go out of order; ON keeps a failover of the source unambiguous", remedy: "" },
    Rule { variable: "binlog_checksum", flavour: None, fits: |value| !value.eq_ignore_ascii_case("NONE"), severity: Warning,
        means: "damage to the log on its way here would not be noticed",
        remedy: "set binlog_checksum = CRC32" },
    Rule { variable: "binlog_transaction_compression", flavour: Some(MySql), fits: |value| !is_on(value), severity: Note,
        means: "transactions are compressed; the bridge reads them, at some cost in CPU", remedy: "" },
    Rule { variable: "log_bin_compress", flavour: Some(MariaDb), fits: |value| !is_on(value), severity: Note,
        means: "events are compressed; the bridge reads them, at some cost in CPU", remedy: "" },
];

/// Judges the settings.
pub(super) fn assess(variables: &Variables, flavour: Flavour) -> Vec<Finding> {
    let misfit = |rule: &Rule| {
        let value = variables.get(rule.variable)?;
        let applies = rule.flavour.is_none_or(|only| only == flavour);
        (applies && !(rule.fits)(value)).then(|| {
            Finding::new(
                rule.severity,
                SUBJECT,
                format!("{} = {value}: {}", rule.variable, rule.means),
                rule.remedy,
            )
        })
    };
    let mut findings: Vec<Finding> = RULES.iter().filter_map(misfit).collect();
    findings.extend(expiry(variables));
    findings
}

const DAY: u64 = 86_400;
/// A log that is kept for less does not outlast a night's outage.
const KEPT_MIN: Duration = Duration::from_secs(DAY);

/// How long the server keeps its log; `None`: for ever.
fn kept(variables: &Variables) -> Option<Duration> {
    if variables.get("binlog_expire_logs_auto_purge").is_some_and(|value| !is_on(value)) {
        return None;
    }
    let seconds = variables.number("binlog_expire_logs_seconds").filter(|seconds| *seconds > 0);
    // In days, and on MariaDB with a fraction.
    let days = || {
        let days: f64 = variables.get("expire_logs_days")?.parse().ok()?;
        Duration::try_from_secs_f64(days * DAY as f64).ok().filter(|kept| !kept.is_zero())
    };
    seconds.map(Duration::from_secs).or_else(days)
}

fn expiry(variables: &Variables) -> Option<Finding> {
    let (name, _) = variables.any(&["binlog_expire_logs_seconds", "expire_logs_days"])?;
    let Some(kept) = kept(variables) else {
        return Some(Finding::note(SUBJECT, "keeps its binary log until somebody purges it"));
    };
    let hours = kept.as_secs() / 3600;
    let text = if hours >= 48 { format!("{} days", hours / 24) } else { format!("{hours} hours") };
    if kept >= KEPT_MIN {
        return Some(Finding::note(SUBJECT, format!("keeps its binary log for {text}")));
    }
    Some(Finding::new(
        Warning,
        SUBJECT,
        format!(
            "keeps its binary log for {} seconds only: after a longer outage the bridge cannot go on without loss",
            kept.as_secs()
        ),
        format!("raise {name} to the longest outage that must be survived, some days at least"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        Variables(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn misfits() {
        for (pair, flavour, severity) in [
            (("log_bin", "OFF"), MySql, Error),
            (("log_bin", "0"), MariaDb, Error),
            (("server_id", "0"), MySql, Error),
            (("binlog_format", "STATEMENT"), MySql, Error),
            (("binlog_format", "MIXED"), MariaDb, Error),
            (("binlog_row_image", "MINIMAL"), MySql, Warning),
            (("binlog_row_image", "NOBLOB"), MySql, Warning),
            (("binlog_row_metadata", "MINIMAL"), MySql, Warning),
            (("binlog_row_metadata", "NO_LOG"), MariaDb, Warning),
            (("sync_binlog", "0"), MySql, Warning),
            (("innodb_flush_log_at_trx_commit", "2"), MariaDb, Warning),
            (("gtid_mode", "OFF"), MySql, Warning),
            (("gtid_strict_mode", "OFF"), MariaDb, Note),
            (("binlog_checksum", "NONE"), MariaDb, Warning),
            (("binlog_transaction_compression", "ON"), MySql, Note),
            (("log_bin_compress", "ON"), MariaDb, Note),
        ] {
            let findings = assess(&variables(&[pair]), flavour);
            let [finding] = findings.as_slice() else { panic!("{pair:?}: {findings:?}") };
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.problem.starts_with(&format!("{} = {}: ", pair.0, pair.1)), "{finding}");
            assert_eq!(finding.remedy.is_empty(), severity == Note, "{finding}");
        }
    }

    #[test]
    fn what_fits_is_not_mentioned() {
        let good = [
            ("log_bin", "ON"),
            ("server_id", "1"),
            ("binlog_format", "ROW"),
            ("binlog_row_image", "FULL"),
            ("binlog_row_metadata", "FULL"),
            ("sync_binlog", "1"),
            ("gtid_mode", "ON"),
            ("binlog_checksum", "CRC32"),
            ("binlog_transaction_compression", "OFF"),
        ];
        assert_eq!(assess(&variables(&good), MySql), []);
        assert_eq!(assess(&variables(&[("innodb_flush_log_at_trx_commit", "3")]), MariaDb), []);
        assert_eq!(assess(&variables(&[("gtid_strict_mode", "OFF")]), MySql), [], "MariaDB's");
    }

    #[test]
    fn how_long_the_log_is_kept() {
        let hour = ("binlog_expire_logs_seconds", "3600");
        for (pairs, severity, words) in [
            (vec![("binlog_expire_logs_seconds", "2592000")], Note, "for 30 days"),
            (vec![("binlog_expire_logs_seconds", "0")], Note, "until somebody"),
            (vec![("binlog_expire_logs_seconds", "0"), ("expire_logs_days", "10")], Note, "for 10 days"),
            (vec![("expire_logs_days", "0.000000")], Note, "until somebody"),
            (vec![("expire_logs_days", "0.5")], Warning, "43200 seconds"),
            (vec![hour], Warning, "3600 seconds"),
            (vec![hour, ("binlog_expire_logs_auto_purge", "OFF")], Note, "until somebody"),
        ] {
            let finding = expiry(&variables(&pairs)).expect("a finding");
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.problem.contains(words), "{finding}");
        }
    }
}
