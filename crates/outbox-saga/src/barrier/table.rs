//! What the barrier asks of a database.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde_json::Value;
use sqlx::error::DatabaseError;
use sqlx::{Database, Pool, Transaction};

use super::state::State;
use super::{BarrierErrorKind, BarrierKey};

/// A branch's row.
#[derive(Debug)]
pub struct Found {
    pub(super) state: State,
    /// JSON text.
    pub(super) answer: Option<String>,
}

impl Found {
    /// Takes a row's columns apart.
    pub(super) fn new(state: &str, answer: Option<String>) -> Result<Self, sqlx::Error> {
        let state = State::from_name(state).ok_or_else(|| {
            sqlx::Error::Decode(format!("the barrier's table holds the unknown state {state:?}").into())
        })?;
        Ok(Self { state, answer })
    }

    /// The answer; none if somebody has put something into the table that is no JSON.
    pub(super) fn answer(self) -> Option<Value> {
        serde_json::from_str(&self.answer?).ok()
    }
}

type Outcome<T> = Result<T, sqlx::Error>;

/// A database that can hold the barrier: MySQL (and MariaDB), and Postgres with the feature `postgres`. Nobody else can
/// implement it.
pub trait BarrierDatabase: Dialect {}

/// The statements of one database.
pub trait Dialect: Database {
    /// What stands around identifiers.
    const QUOTE: char;
    /// Whether [`commit`](Self::commit) finds a transaction that has ended before, as by a deadlock whose error was passed over.
    const COMMIT_VERIFIES: bool;

    /// What begins and commits transactions of its own.
    type Transactions: Clone + Send + Sync + 'static;

    fn transactions(pool: Pool<Self>) -> Self::Transactions;

    fn begin(
        transactions: &Self::Transactions,
    ) -> impl Future<Output = Outcome<Transaction<'static, Self>>> + Send;

    fn commit(
        transactions: &Self::Transactions,
        tx: Transaction<'static, Self>,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Whether a commit has found that.
    fn is_lost(err: &sqlx::Error) -> bool;

    fn definition(table: &TableName) -> String;

    /// Runs a definition.
    fn create(pool: &Pool<Self>, definition: &str) -> impl Future<Output = Outcome<()>> + Send;

    /// Does what needs the columns and rights that the barrier needs, without an effect.
    fn probe(pool: &Pool<Self>, table: &TableName) -> impl Future<Output = Outcome<()>> + Send;

    /// Inserts a row in state `first`, and gives nothing; or locks the row that is there, counts the call, and gives it.
    fn insert_or_lock(
        tx: &mut Transaction<'_, Self>,
        table: &TableName,
        key: &BarrierKey,
        first: State,
    ) -> impl Future<Output = Outcome<Option<Found>>> + Send;

    /// Locks the row if there is one.
    fn lock(
        tx: &mut Transaction<'_, Self>,
        table: &TableName,
        key: &BarrierKey,
    ) -> impl Future<Output = Outcome<Option<Found>>> + Send;

    /// Writes the state `to` in place of `from`; tells whether there was the row in that state.
    fn write_state(
        tx: &mut Transaction<'_, Self>,
        table: &TableName,
        key: &BarrierKey,
        from: State,
        to: State,
    ) -> impl Future<Output = Outcome<bool>> + Send;

    /// Writes the answer, and the state if there is one; tells whether there was the row.
    fn write_answer(
        tx: &mut Transaction<'_, Self>,
        table: &TableName,
        key: &BarrierKey,
        state: Option<State>,
        answer: &str,
    ) -> impl Future<Output = Outcome<bool>> + Send;

    /// Removes at most `limit` rows older than `age`.
    fn remove(
        pool: &Pool<Self>,
        table: &TableName,
        age: Duration,
        limit: u32,
    ) -> impl Future<Output = Outcome<u64>> + Send;

    fn kind(err: &dyn DatabaseError) -> BarrierErrorKind;
}

/// A table's name, with the quotes of its database.
#[derive(Debug, Clone)]
pub struct TableName {
    schema: Option<String>,
    name: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_its_quotes() {
        let cases = [
            ("barrier", "`barrier`"),
            ("shop.barrier", "`shop`.`barrier`"),
            ("a`; DROP TABLE b; --", "`a``; DROP TABLE b; --`"),
        ];
        for (name, expected) in cases {
            assert_eq!(TableName::new(name, '`').to_string(), expected);
        }
        assert_eq!(TableName::new("a\"b", '"').to_string(), "\"a\"\"b\"");
    }
}
