//! Which server this is: its version, its id among others, whose replica it is, and its clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::settings::{Variables, is_on};
use super::{SUBJECT, attempt};
use crate::cli::check::{Finding, Severity};
use crate::source::connection::{Connection, ConnectionError, Flavour, Row, ServerInfo};

/// The oldest and the newest version, major and minor, that the bridge is known to work with.
fn versions(flavour: Flavour) -> (&'static str, (u16, u16), (u16, u16)) {
    match flavour {
        Flavour::MySql => ("MySQL", (8, 0), (9, 7)),
        Flavour::MariaDb => ("MariaDB", (10, 6), (11, u16::MAX)),
    }
}

/// Judges what was reached.
pub(super) fn assess(info: &ServerInfo) -> Finding {
    let (name, oldest, newest) = versions(info.flavour);
    let version = (info.version.0, info.version.1);
    let reached = format!("{name} {}", info.version_text);
    if version < oldest {
        let problem = format!("{reached} is too old");
        let remedy = format!("upgrade it to {name} {}.{} or later", oldest.0, oldest.1);
        return Finding::new(Severity::Error, SUBJECT, problem, remedy);
    }
    if version > newest {
        let problem = format!("{reached} is newer than this version of the bridge was tested with");
        let remedy = "look for a newer outbox-bridge, or try this one out before you rely on it";
        return Finding::new(Severity::Warning, SUBJECT, problem, remedy);
    }
    let how = if info.tls { "over TLS" } else { "without TLS" };
    Finding::note(SUBJECT, format!("connected to {reached} {how}"))
}

/// Whether the rows that this server replicates from another reach its own log.
pub(super) async fn replication(
    connection: &mut Connection,
    variables: &Variables,
) -> Result<Option<Finding>, ConnectionError> {
    let names = ["log_replica_updates", "log_slave_updates"];
    let Some(name) = names.into_iter().find(|name| variables.get(name).is_some()) else { return Ok(None) };
    if variables.get(name).is_some_and(is_on) {
        return Ok(None);
    }
    let sql = match (connection.server().flavour, name) {
        (Flavour::MariaDb, _) => "SHOW ALL SLAVES STATUS",
        (Flavour::MySql, "log_replica_updates") => "SHOW REPLICA STATUS",
        (Flavour::MySql, _) => "SHOW SLAVE STATUS",
    };
    let remedy =
        format!("set {name} = ON on this server, or let the bridge read the server where rows are written");
    Ok(match attempt(connection, sql).await? {
        Ok(rows) if rows.is_empty() => None,
        Ok(_) => Some(Finding::new(
            Severity::Error,
            SUBJECT,
            format!("it is a replica with {name} = OFF, so rows that it replicates never reach its own log"),
            remedy,
        )),
        // Only a replica is concerned, and whether it is one may not be asked.
        Err(_) => Some(Finding::note(
            SUBJECT,
            format!(
                "{name} = OFF: were this server a replica, rows that it replicates would not be published"
            ),
        )),
    })
}

/// The name under which bridges register.
const BRIDGE: &str = "outbox-bridge";

/// Whether `ours`, the id that the bridge registers with, is anybody else's.
pub(super) async fn identity(
    connection: &mut Connection,
    variables: &Variables,
    ours: u32,
) -> Result<Vec<Finding>, ConnectionError> {
    if variables.number("server_id") == Some(u64::from(ours)) {
        let problem = format!("source.server_id = {ours} is the server's own id");
        let remedy = "choose an id that no server and no replica has, or remove the key for a random one";
        return Ok(vec![Finding::new(Severity::Error, SUBJECT, problem, remedy)]);
    }
    // Since MySQL 8.0.22; the old name is gone since 8.4.
    let mut answer = Err(());
    for sql in ["SHOW REPLICAS", "SHOW SLAVE HOSTS"] {
        if let Ok(rows) = attempt(connection, sql).await? {
            answer = Ok(rows);
            break;
        }
    }
    let Ok(rows) = answer else {
        let problem = format!(
            "which replicas are registered may not be asked, so nothing tells whether another has the id {ours}"
        );
        return Ok(vec![Finding::note(SUBJECT, problem)]);
    };
    Ok(rows.iter().filter_map(|row| registered(row, ours)).collect())
}

fn registered(row: &Row, ours: u32) -> Option<Finding> {
    let id: u32 = row.get("Server_Id")?.parse().ok()?;
    if id != ours {
        return None;
    }
    let host = row.get("Host").unwrap_or_default();
    if host == BRIDGE {
        let problem =
            format!("a bridge is registered with source.server_id = {ours} now; fine if it is this one");
        return Some(Finding::note(SUBJECT, problem));
    }
    let problem = format!("source.server_id = {ours} is the id of a replica that is registered ({host:?})");
    let remedy = "choose an id that no server and no replica has, or remove the key for a random one: of two with the \
                  same id, the server drops one";
    Some(Finding::new(Severity::Error, SUBJECT, problem, remedy))
}

/// A difference that shows in the metric of latency, in seconds.
const SKEW_MAX: f64 = 1.0;

pub(super) async fn clock(connection: &mut Connection) -> Result<Option<Finding>, ConnectionError> {
    let before = now();
    let rows = connection.query("SELECT UNIX_TIMESTAMP(NOW(6)) AS now").await?;
    let middle = f64::midpoint(before, now());
    let server: Option<f64> = rows.first().and_then(|row| row.get("now")?.parse().ok());
    Ok(server.and_then(|server| skew(server - middle)))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn skew(seconds: f64) -> Option<Finding> {
    let direction = if seconds > 0.0 { "ahead of" } else { "behind" };
    (seconds.abs() > SKEW_MAX).then(|| {
        let problem = format!(
            "its clock is {:.1} s {direction} this machine's; latencies are measured wrong by as much",
            seconds.abs()
        );
        Finding::note(SUBJECT, problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged() {
        let info = |flavour, version: (u16, u16, u16)| ServerInfo {
            flavour,
            version,
            version_text: format!("{}.{}.{}", version.0, version.1, version.2),
            connection_id: 1,
            tls: true,
        };
        use Flavour::{MariaDb, MySql};
        for (flavour, version, severity, words) in [
            (MySql, (5, 7, 44), Severity::Error, "MySQL 5.7.44 is too old"),
            (MySql, (8, 0, 11), Severity::Note, "MySQL 8.0.11 over TLS"),
            (MySql, (9, 7, 4), Severity::Note, "MySQL 9.7.4"),
            (MySql, (9, 8, 0), Severity::Warning, "newer"),
            (MySql, (10, 0, 0), Severity::Warning, "newer"),
            (MariaDb, (10, 5, 20), Severity::Error, "MariaDB 10.5.20 is too old"),
            (MariaDb, (10, 6, 0), Severity::Note, "MariaDB 10.6.0"),
            (MariaDb, (11, 8, 2), Severity::Note, "MariaDB 11.8.2"),
            (MariaDb, (12, 0, 1), Severity::Warning, "newer"),
        ] {
            let finding = assess(&info(flavour, version));
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.problem.contains(words), "{finding}");
        }
    }

    #[test]
    fn a_clock_may_differ_a_little() {
        assert_eq!(skew(0.9), None);
        assert!(skew(-2.0).expect("a note").problem.contains("2.0 s behind"));
        assert!(skew(3.25).expect("a note").problem.contains("ahead of"));
    }
}
