//! What the bridge's user may do with the log, learnt by doing it: roles and wildcards then need no interpretation.

use super::settings::{Variables, is_on};
use super::{SUBJECT, attempt, is_refusal};
use crate::cli::check::{Finding, Severity};
use crate::config::Config;
use crate::exit::report;
use crate::run::connect_options;
use crate::source::connection::{
    Connection, ConnectionError, ConnectionErrorKind, DumpRequest, Flavour, Row,
};
use crate::source::find;

/// What is known of the log.
#[derive(Debug, Default)]
pub(super) struct LogRights {
    pub(super) findings: Vec<Finding>,
    /// The log's files, oldest first; empty if they may not be listed.
    pub(super) files: Vec<String>,
}

/// Asks for the log's end and its files, and for the log itself.
pub(super) async fn probe(
    connection: &mut Connection,
    config: &Config,
    variables: &Variables,
    account: &str,
) -> Result<LogRights, ConnectionError> {
    let mut rights = LogRights::default();
    if !variables.get("log_bin").is_some_and(is_on) {
        // There is nothing to ask for, which is said already.
        return Ok(rights);
    }
    let flavour = connection.server().flavour;
    match find::log_status(connection).await {
        Ok(status) => rights.findings.extend(status.iter().flat_map(|row| filters(row, config))),
        Err(error) if is_refusal(&error) => {
            rights.findings.push(missing(
                &error,
                monitor(flavour),
                "the log's end cannot be asked for",
                account,
            ));
        }
        Err(error) => return Err(error),
    }
    match attempt(connection, "SHOW BINARY LOGS").await? {
        Ok(rows) => {
            rights.files = rows.iter().filter_map(|row| row.get("Log_name").map(str::to_owned)).collect();
        }
        // One grant allows both, so one finding is enough.
        Err(error) if rights.findings.iter().all(|finding| finding.severity < Severity::Error) => {
            rights.findings.push(missing(
                &error,
                monitor(flavour),
                "the log's files cannot be listed",
                account,
            ));
        }
        Err(_) => {}
    }
    rights.findings.extend(dump(config, variables, &rights.files, account).await);
    Ok(rights)
}

/// The privilege that shows positions.
fn monitor(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::MySql => "REPLICATION CLIENT",
        Flavour::MariaDb => "BINLOG MONITOR",
    }
}

fn missing(error: &ConnectionError, privilege: &str, what: &str, account: &str) -> Finding {
    let problem = format!("{what} ({})", report(error));
    let remedy = match error.kind() {
        ConnectionErrorKind::AccessDenied => format!("GRANT {privilege} ON *.* TO {account};"),
        _ => "see the server's log".to_owned(),
    };
    Finding::new(Severity::Error, SUBJECT, problem, remedy)
}

/// Begins to read the log at its end, as `run` does, but under an id of its own, so that a bridge that runs is not
/// thrown out.
async fn dump(config: &Config, variables: &Variables, files: &[String], account: &str) -> Option<Finding> {
    // Where the files may not be listed, any name will do: the right is asked about before the name.
    let guess = || {
        let base = variables.get("log_bin_basename").unwrap_or("binlog");
        format!("{}.000001", base.rsplit(['/', '\\']).next().unwrap_or(base))
    };
    let request = DumpRequest {
        server_id: rand::random_range(0x8000_0000..=0xFFFF_FFFE),
        file: files.last().cloned().unwrap_or_else(guess),
        offset: 4,
        heartbeat: config.source.heartbeat,
        non_blocking: true,
    };
    let first_event = async {
        let connection = Connection::connect(&connect_options(&config.source)).await?;
        connection.dump(request).await?.next().await
    };
    let error = match tokio::time::timeout(config.source.connect_timeout, first_event).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error,
        Err(_) => {
            let remedy = "check the server's load and its log, and try again";
            return Some(Finding::new(
                Severity::Unavailable,
                SUBJECT,
                "does not begin to send its log",
                remedy,
            ));
        }
    };
    match error.kind() {
        ConnectionErrorKind::AccessDenied => {
            Some(missing(&error, "REPLICATION SLAVE", "the log cannot be read", account))
        }
        _ if files.is_empty() => None,
        ConnectionErrorKind::Io | ConnectionErrorKind::Timeout | ConnectionErrorKind::Silent => {
            Some(super::broken(&error))
        }
        _ => {
            let problem = format!("the log cannot be read ({})", report(&error));
            Some(Finding::new(Severity::Error, SUBJECT, problem, "see the server's log"))
        }
    }
}

/// Schemas that the server keeps out of its log.
fn filters(status: &Row, config: &Config) -> Vec<Finding> {
    let list = |column| schemas(status.get(column).unwrap_or_default());
    hidden(&list("Binlog_Do_DB"), &list("Binlog_Ignore_DB"), config)
}

fn schemas(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).filter(|schema| !schema.is_empty()).collect()
}

fn hidden(only: &[&str], ignored: &[&str], config: &Config) -> Vec<Finding> {
    let finding = |outbox: &crate::config::Outbox| {
        let schema = outbox.table.schema.as_str();
        let option = if ignored.contains(&schema) {
            "binlog_ignore_db names it"
        } else if !only.is_empty() && !only.contains(&schema) {
            "binlog_do_db names others only"
        } else {
            return None;
        };
        let problem = format!("the server does not log schema {schema}: {option}");
        let remedy = "remove the option from the server's configuration and start the server again";
        Some(Finding::new(Severity::Error, format!("table {}", outbox.table), problem, remedy))
    };
    config.outboxes.iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::init::tests::config;

    #[test]
    fn schemas_that_are_not_logged() {
        let config = config("");
        for (only, ignored, words) in [
            ("", "", None),
            ("shop", "", None),
            ("crm,shop", "", None),
            ("", "crm", None),
            ("crm", "", Some("binlog_do_db")),
            ("", "crm, shop", Some("binlog_ignore_db")),
        ] {
            let findings = hidden(&schemas(only), &schemas(ignored), &config);
            assert_eq!(findings.len(), usize::from(words.is_some()), "{only} {ignored}");
            for finding in findings {
                assert_eq!(finding.severity, Severity::Error);
                assert!(words.is_some_and(|words| finding.problem.contains(words)), "{finding}");
            }
        }
    }
}
