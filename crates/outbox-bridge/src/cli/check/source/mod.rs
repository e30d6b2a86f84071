//! What MySQL or MariaDB says: the connection, its settings, the rights of the bridge's user, the outbox tables.
//!
//! Here stand the questions; the modules below judge the answers, most of them without any I/O.

mod cleanup;
mod columns;
mod rights;
mod server;
mod settings;
mod table;

use crate::cli::check::{Finding, Severity};
use crate::config::Config;
use crate::exit::report;
use crate::run::connect_options;
use crate::source::connection::{Connection, ConnectionError, ConnectionErrorKind, Flavour, Row};

pub(in crate::cli) use self::columns::{Numbered, Payload};
pub(in crate::cli) use self::table::probe as probe_table;

/// What the source is called in findings.
pub(in crate::cli) const SUBJECT: &str = "source";

/// What was found, and what is needed to compare the source with the streams.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) findings: Vec<Finding>,
    /// How large payloads can get.
    pub(super) payloads: Vec<Payload>,
    /// The tables whose ids are numbers.
    pub(super) numbered: Vec<Numbered>,
    /// The server, if it could be asked.
    pub(super) log: Option<Log>,
}

/// The server's log, as far as positions must fit it.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pub(super) flavour: Flavour,
    /// MySQL's `server_uuid`; empty on MariaDB.
    pub(super) uuid: String,
    /// Its files, oldest first; empty if they may not be listed.
    pub(super) files: Vec<String>,
    /// MySQL's transactions that are no longer in the log.
    pub(super) purged: String,
}

/// Asks the source everything that matters to `run`.
pub(super) async fn probe(config: &Config) -> Source {
    let mut source = Source::default();
    let mut connection = match Connection::connect(&connect_options(&config.source)).await {
        Ok(connection) => connection,
        Err(error) => {
            source.findings.push(unreachable(&error));
            return source;
        }
    };
    if let Err(error) = ask(&mut connection, config, &mut source).await {
        source.findings.push(broken(&error));
    }
    source
}

/// Only a broken connection ends it: what the server refuses is a finding.
async fn ask(
    connection: &mut Connection,
    config: &Config,
    source: &mut Source,
) -> Result<(), ConnectionError> {
    let info = connection.server().clone();
    let findings = &mut source.findings;
    findings.push(server::assess(&info));
    let variables = settings::read(connection).await?;
    findings.extend(settings::assess(&variables, info.flavour));
    findings.extend(server::replication(connection, &variables).await?);
    findings.extend(server::identity(connection, &variables, config.source.server_id).await?);
    findings.extend(server::clock(connection).await?);
    let account = account(connection).await?;
    let log = rights::probe(connection, config, &variables, &account).await?;
    findings.extend(log.findings);
    source.log = Some(Log {
        flavour: info.flavour,
        uuid: variables.get("server_uuid").unwrap_or_default().to_owned(),
        files: log.files,
        purged: variables.get("gtid_purged").unwrap_or_default().to_owned(),
    });
    for outbox in &config.outboxes {
        let table = table::probe(connection, outbox).await?;
        if outbox.retention.is_some() && !table.missing {
            source.findings.extend(cleanup::probe(connection, outbox).await?);
        }
        source.findings.extend(table.findings);
        source.numbered.extend(table.numbered);
        source
            .payloads
            .extend(table.payload.map(|payload| payload.capped(variables.number("max_allowed_packet"))));
    }
    Ok(())
}

/// The server cannot be reached, or does not let the bridge in.
pub(in crate::cli) fn unreachable(error: &ConnectionError) -> Finding {
    let (severity, remedy) = match error.kind() {
        ConnectionErrorKind::Io | ConnectionErrorKind::Timeout => (
            Severity::Unavailable,
            "check host and port in source.url, and that the server runs and can be reached from here",
        ),
        ConnectionErrorKind::AccessDenied => (
            Severity::Error,
            "check the user in source.url and the password; `outbox-bridge init --print grants` shows how to create the \
             user. If the server demands TLS, set source.tls.mode to \"required\"",
        ),
        ConnectionErrorKind::Tls | ConnectionErrorKind::Options => {
            (Severity::Error, "check source.tls against what the server offers")
        }
        ConnectionErrorKind::Authentication => {
            (Severity::Error, "let the user log in by caching_sha2_password or mysql_native_password")
        }
        _ if error.recovery() == crate::source::connection::Recovery::Retry => {
            (Severity::Unavailable, "try again when the server is up")
        }
        _ => (Severity::Error, "check that source.url names a MySQL or MariaDB server"),
    };
    Finding::new(severity, SUBJECT, report(error), remedy)
}

/// The connection broke in mid-probe.
pub(in crate::cli) fn broken(error: &ConnectionError) -> Finding {
    let problem = format!("cannot be asked any further ({})", report(error));
    Finding::new(Severity::Unavailable, SUBJECT, problem, "check the server and its log, and try again")
}

/// Whether the server, not the connection, is what refuses.
fn is_refusal(error: &ConnectionError) -> bool {
    matches!(error.kind(), ConnectionErrorKind::Server { .. } | ConnectionErrorKind::AccessDenied)
}

/// The rows of a query, or the server's refusal of it; only a broken connection is an error.
async fn attempt(
    connection: &mut Connection,
    sql: &str,
) -> Result<Result<Vec<Row>, ConnectionError>, ConnectionError> {
    match connection.query(sql).await {
        Ok(rows) => Ok(Ok(rows)),
        Err(error) if is_refusal(&error) => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

/// The account as the server knows it, for `GRANT … TO`.
async fn account(connection: &mut Connection) -> Result<String, ConnectionError> {
    let rows = connection.query("SELECT CURRENT_USER() AS account").await?;
    let account = rows.first().and_then(|row| row.get("account")).unwrap_or_default();
    Ok(quoted_account(account))
}

fn quoted_account(account: &str) -> String {
    let quote = crate::source::connection::quote_string;
    match account.rsplit_once('@') {
        Some((user, host)) => format!("{}@{}", quote(user), quote(host)),
        None => quote(account),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_quoted_for_grants() {
        for (account, expected) in
            [("bridge@%", "'bridge'@'%'"), ("a@b@localhost", "'a@b'@'localhost'"), ("o'x@%", "'o''x'@'%'")]
        {
            assert_eq!(quoted_account(account), expected);
        }
    }
}
