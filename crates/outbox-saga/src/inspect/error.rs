//! Why something cannot be read or asked for.

use std::fmt;

/// Why something cannot be read or asked for.
#[derive(Debug)]
pub struct InspectError {
    kind: InspectErrorKind,
    message: String,
    source: Option<sqlx::Error>,
}

/// What sort of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InspectErrorKind {
    /// There is no such saga or transaction.
    NotFound,
    /// A saga and a transaction have the same id.
    Ambiguous,
    /// The request makes no sense as things stand.
    Refused,
    /// The tables are not there.
    NoTables,
    /// The user may not do it.
    Denied,
    /// The database cannot be reached, or fails.
    Unavailable,
}

const UNKNOWN_DATABASE: u16 = 1049;
const NO_SUCH_TABLE: u16 = 1146;
/// Access denied: to the database, to the server, to a table, to a column.
const DENIED: [u16; 5] = [1044, 1045, 1142, 1143, 1227];

impl InspectError {
    pub(super) fn new(kind: InspectErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// What MySQL says, with a remedy where there is one.
    #[must_use]
    pub fn of_database(what: &str, error: sqlx::Error) -> Self {
        let mysql = error
            .as_database_error()
            .and_then(|error| error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>());
        let (kind, remedy) = match mysql.map(sqlx::mysql::MySqlDatabaseError::number) {
            Some(NO_SUCH_TABLE | UNKNOWN_DATABASE) => (
                InspectErrorKind::NoTables,
                ": the tables are not there; name the database of the service that runs the sagas or transactions, and have the \
                 service started once, which makes them",
            ),
            Some(number) if DENIED.contains(&number) => (
                InspectErrorKind::Denied,
                ": the user may not; check its name and password, and have an administrator GRANT SELECT on the tables saga_* \
                 and tcc_*, and UPDATE on saga_instances and tcc_transactions for requests",
            ),
            _ => (InspectErrorKind::Unavailable, ""),
        };
        Self { kind, message: format!("{what}{remedy}"), source: Some(error) }
    }

    /// What sort of error it is.
    #[must_use]
    pub fn kind(&self) -> InspectErrorKind {
        self.kind
    }
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for InspectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
