//! Whether the published rows of a table could be deleted, where the configuration wants it.

use super::table::subject;
use super::{account, attempt};
use crate::cleanup;
use crate::cli::check::{Finding, Severity};
use crate::config::Outbox;
use crate::exit::report;
use crate::source::connection::{Connection, ConnectionError, ConnectionErrorKind};

/// Asks what clean-up needs: a key, a time, the right to delete, and a server that is written to.
pub(super) async fn probe(
    connection: &mut Connection,
    outbox: &Outbox,
) -> Result<Vec<Finding>, ConnectionError> {
    let subject = subject(&outbox.table);
    let mut findings = Vec::new();
    let mut partitions = false;
    let delete = match cleanup::probe(connection, outbox).await? {
        Ok(Some(needs)) => {
            partitions = needs.partitions;
            needs.delete
        }
        Ok(None) => return Ok(findings),
        Err(misfit) => {
            let remedy = "change the table as it says, or remove retention from the [[outbox]]";
            let problem = format!("cannot be cleaned up: {misfit}");
            findings.push(Finding::new(Severity::Error, &subject, problem, remedy));
            format!("DELETE FROM {} WHERE 1 = 0", outbox.table.quoted())
        }
    };
    // Not the statement itself: in statement format the log would have it, though it deletes nothing.
    let sql = format!("EXPLAIN {delete}");
    if let Err(error) = attempt(connection, &sql).await?
        && error.kind() == ConnectionErrorKind::AccessDenied
    {
        let account = account(connection).await?;
        let problem = format!("has a retention, but its rows may not be deleted ({})", report(&error));
        let remedy = format!("GRANT SELECT, DELETE ON {} TO {account}", outbox.table.quoted());
        findings.push(Finding::new(Severity::Error, &subject, problem, remedy));
    }
    if partitions {
        findings.extend(drops(connection, outbox).await?);
    }
    let rows = attempt(connection, "SELECT @@GLOBAL.read_only AS read_only").await?.unwrap_or_default();
    let read_only = rows.first().and_then(|row| row.get("read_only")).unwrap_or("0");
    if !matches!(read_only, "0" | "OFF") {
        let problem = "has a retention, but the server is read-only, so nothing is deleted";
        let remedy =
            "point source.url to a server that is written to, or delete the rows there by other means";
        findings.push(Finding::new(Severity::Warning, &subject, problem, remedy));
    }
    Ok(findings)
}

/// Whether partitions could be dropped, learnt by dropping one that is not there.
async fn drops(connection: &mut Connection, outbox: &Outbox) -> Result<Vec<Finding>, ConnectionError> {
    let table = outbox.table.quoted();
    let mut findings = Vec::new();
    connection.execute("SET SESSION lock_wait_timeout = 1").await?;
    for (sql, right, on) in [
        (format!("ALTER TABLE {table} DROP PARTITION `outbox-bridge-check`"), "ALTER, DROP", table.clone()),
        (
            format!("LOCK TABLES {table} READ"),
            "LOCK TABLES",
            format!("{}.*", crate::config::quote_identifier(&outbox.table.schema)),
        ),
    ] {
        let Err(error) = connection.execute(&sql).await else { continue };
        match error.kind() {
            ConnectionErrorKind::AccessDenied => {
                let account = account(connection).await?;
                let problem =
                    format!("has a retention, but its partitions may not be dropped ({})", report(&error));
                let remedy = format!("GRANT {right} ON {on} TO {account}");
                findings.push(Finding::new(Severity::Error, subject(&outbox.table), problem, remedy));
            }
            // The partition is not there, or producers are in the way.
            ConnectionErrorKind::Server { .. } => {}
            _ => return Err(error),
        }
    }
    connection.execute("UNLOCK TABLES").await?;
    Ok(findings)
}
