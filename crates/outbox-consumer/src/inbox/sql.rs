//! What the inboxes in databases share: the table's name, its layout, and which error is of which kind.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::error::DatabaseError;

use super::{InboxError, InboxErrorKind, InboxKey};

/// The name of the table where none is given.
pub(super) const DEFAULT_TABLE: &str = "outbox_inbox";
/// How many records one statement of a clean-up removes.
pub(super) const BATCH_ROWS_MAX: u32 = 500;

/// How often the insert is tried that opens a transaction, if it loses against another one: it has done nothing yet, so
/// trying again costs nothing.
pub(super) const BEGIN_ATTEMPTS_MAX: u32 = 5;
/// Ages beyond are taken for this one, since no database reckons with the largest: a hundred years.
const AGE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Does work to its end even if the caller drops the future.
///
/// sqlx 0.8 does not bear being cancelled: between `BEGIN` and its answer the connection goes back into the pool with the
/// transaction open, and while MySQL prepares a statement the connection is lost to the pool, which waits for an answer
/// that never comes.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, InboxError>> + Send + 'static,
) -> Result<T, InboxError> {
    tokio::spawn(work).await.unwrap_or_else(|err| {
        let message = "the inbox's work was ended with its runtime, or panicked";
        Err(InboxError::new(InboxErrorKind::Unavailable, message, Some(Box::new(err))))
    })
}

/// An age that every database can reckon with.
pub(super) fn reckonable(age: Duration) -> Duration {
    age.min(AGE_MAX)
}

/// A table's name, with the quotes of its database.
#[derive(Debug, Clone)]
pub(super) struct TableName {
    pub(super) schema: Option<String>,
    pub(super) name: String,
    quote: char,
}

impl TableName {
    /// Reads `table` or `schema.table`.
    pub(super) fn new(name: &str, quote: char) -> Self {
        match name.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.to_owned()), name: name.to_owned(), quote },
            None => Self { schema: None, name: name.to_owned(), quote },
        }
    }

    /// The name of an index on this table, quoted.
    pub(super) fn index(&self, suffix: &str) -> String {
        quoted(&format!("{}_{suffix}", self.name), self.quote)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quoted(schema, self.quote))?;
        }
        f.write_str(&quoted(&self.name, self.quote))
    }
}

/// An identifier in quotes, those inside doubled, so that no name can end them.
fn quoted(name: &str, quote: char) -> String {
    let doubled = name.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}

/// The error for a transaction that the handler has left without the inbox's record.
pub(super) fn lost_record(key: &InboxKey) -> InboxError {
    let message = format!(
        "the transaction of message `{}` no longer holds the inbox's record: its handler ended it, or went on after \
         an error that had rolled it back; a handler must return such errors and leave the commit to the inbox",
        key.message_id
    );
    InboxError::new(InboxErrorKind::Rejected, message, None)
}

/// The kind of an error; `of_code` decides about what the database itself has said.
pub(super) fn kind(
    err: &sqlx::Error,
    of_code: impl Fn(&dyn DatabaseError) -> InboxErrorKind,
) -> InboxErrorKind {
    match err {
        sqlx::Error::Database(err) => of_code(err.as_ref()),
        // A connection was lost or could not be had. A closed pool means that the service shuts down.
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => InboxErrorKind::Unavailable,
        // Wrong settings or certificates, answers that cannot be, and whatever later versions of sqlx bring: trying
        // again does not help, and unknown is never retried.
        _ => InboxErrorKind::Unusable,
    }
}

/// An index as the database describes it.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) unique: bool,
    /// Whether it covers every row with the whole columns, and at once.
    pub(super) whole: bool,
    pub(super) columns: Vec<String>,
}

/// What is wrong with a table's indexes.
pub(super) fn index_problems(indexes: &[Index]) -> Vec<String> {
    let mut problems = Vec::new();
    let key = ["consumer", "message_id"];
    let of_key = |index: &&Index| key.iter().all(|column| index.columns.iter().any(|name| name == column));
    if !indexes.iter().filter(of_key).any(|index| index.unique && index.whole && index.columns.len() == 2) {
        problems.push("it has no unique key over `consumer` and `message_id`".to_owned());
    }
    // It would take messages for duplicates that are none.
    for index in indexes.iter().filter(|index| index.unique && !of_key(index)) {
        problems.push(format!("it has a unique key over {:?}", index.columns));
    }
    let by_age = |index: &Index| index.columns.starts_with(&["consumer".to_owned(), "handled_at".to_owned()]);
    if !indexes.iter().any(|index| index.whole && by_age(index)) {
        problems.push(
            "it has no index over `consumer` and `handled_at`, by which records are cleaned up".to_owned(),
        );
    }
    problems
}

/// An error about a table that is not as it should be.
pub(super) fn wrong_table(table: &TableName, problems: &[String], definition: &str) -> InboxError {
    let message = format!(
        "the inbox's table {table} is not as it should be: {}; it is to be made by:\n{definition}",
        problems.join("; ")
    );
    InboxError::new(InboxErrorKind::Unusable, message, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_its_quotes() {
        let cases = [
            ("inbox", "`inbox`"),
            ("shop.inbox", "`shop`.`inbox`"),
            ("shop.in.box", "`shop`.`in.box`"),
            ("a`; DROP TABLE b; --", "`a``; DROP TABLE b; --`"),
            ("", "``"),
        ];
        for (name, expected) in cases {
            assert_eq!(TableName::new(name, '`').to_string(), expected);
        }
        assert_eq!(TableName::new("a\"b", '"').to_string(), "\"a\"\"b\"");
    }

    #[test]
    fn errors_without_a_code_have_their_kind() {
        let of_code = |_: &dyn DatabaseError| InboxErrorKind::Conflict;
        let cases = [
            (sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()), InboxErrorKind::Unavailable),
            (sqlx::Error::PoolTimedOut, InboxErrorKind::Unavailable),
            (sqlx::Error::PoolClosed, InboxErrorKind::Unavailable),
            (sqlx::Error::WorkerCrashed, InboxErrorKind::Unavailable),
            (sqlx::Error::Protocol("?".to_owned()), InboxErrorKind::Unusable),
            (sqlx::Error::Configuration("?".into()), InboxErrorKind::Unusable),
            (sqlx::Error::Tls("?".into()), InboxErrorKind::Unusable),
            (sqlx::Error::RowNotFound, InboxErrorKind::Unusable),
            (sqlx::Error::BeginFailed, InboxErrorKind::Unusable),
        ];
        for (err, expected) in cases {
            assert_eq!(kind(&err, of_code), expected, "{err:?}");
        }
    }

    #[test]
    fn indexes_are_looked_at() {
        let index = |unique, whole, columns: &[&str]| Index {
            unique,
            whole,
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
        };
        let age = || index(false, true, &["consumer", "handled_at"]);
        let cases = [
            (vec![index(true, true, &["consumer", "message_id"]), age()], 0),
            (vec![index(true, true, &["message_id", "consumer"]), age()], 0),
            (vec![index(true, true, &["consumer", "message_id"])], 1),
            (vec![index(false, true, &["consumer", "message_id"]), age()], 1),
            (vec![index(true, false, &["consumer", "message_id"]), age()], 1),
            (vec![index(true, true, &["consumer", "message_id", "handled_at"]), age()], 1),
            (
                vec![
                    index(true, true, &["consumer", "message_id"]),
                    index(true, true, &["message_id"]),
                    age(),
                ],
                1,
            ),
            (vec![], 2),
        ];
        for (indexes, expected) in cases {
            assert_eq!(index_problems(&indexes).len(), expected, "{indexes:?}");
        }
    }
}
