//! The barrier: makes a participant's operations take effect once and in a sound order.
//!
//! A participant of a saga or of a TCC transaction is called more than once, late, or in the wrong order: a command is
//! repeated because its answer was lost, a cancel overtakes its try, a try comes when everything has been cancelled. The
//! barrier is one row for each branch in the participant's own database, entered in the same transaction as the
//! participant's own writes. So both are committed or neither is, and what the row says is what has happened.
//!
//! The idea is the sub-transaction barrier of [DTM](https://en.dtm.pub/practice/barrier.html); here a branch has one row with
//! a state rather than one row for each operation, so that the state can be read and a repeat gets its first answer.
//!
//! | the branch is | do (try) | undo (cancel) | confirm |
//! |---|---|---|---|
//! | unknown | runs: `done` | not run: `barred` | violation |
//! | `done` | first answer | runs: `undone` | runs: `confirmed` |
//! | `refused`, its do having said no | first answer | not run | violation |
//! | `confirmed` | first answer | violation | not run |
//! | `undone` | too late | not run | violation |
//! | `barred`, its undo having come first | too late | not run | violation |
//!
//! ```no_run
//! use outbox_saga::barrier::{Barrier, BarrierKey, Entered, Operation};
//!
//! # async fn example(pool: sqlx::MySqlPool) -> Result<(), Box<dyn std::error::Error>> {
//! let barrier = Barrier::new("saga_barrier");
//! barrier.prepare(&pool).await?;
//!
//! let key = BarrierKey { transaction: "order-42".to_owned(), branch: "stock".to_owned() };
//! let mut tx = pool.begin().await?;
//! if let Entered::First = barrier.enter(&mut tx, &key, Operation::Do).await? {
//!     sqlx::query("UPDATE stock SET count = count - 1").execute(&mut *tx).await?;
//!     barrier.record_answer(&mut tx, &key, &serde_json::json!({"reserved": 1})).await?;
//! }
//! tx.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Locks
//!
//! Calls of one branch wait for each other at its row; calls of different branches do not. The row is entered by an insert
//! that becomes an update of the primary key's row if there is one, which takes an exclusive lock on that record and none on
//! a gap, so a second call waits and does not deadlock. A deadlock is left where *three* calls of one branch meet and the first
//! is rolled back (InnoDB gives both others a lock on the gap that its record leaves), and a serialization failure in Postgres
//! above the level read committed. Both are errors of the kind [`Conflict`](BarrierErrorKind::Conflict): begin again.

mod error;
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod state;
mod table;

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde_json::Value;
use sqlx::{MySql, Pool, Transaction};

pub use self::error::{BarrierError, BarrierErrorKind};
pub(crate) use self::state::Decision;
#[cfg(test)]
pub(crate) use self::state::MemoryBranch;
use self::state::State;
pub use self::table::BarrierDatabase;
pub(crate) use self::table::Dialect;
use self::table::{Found, TableName};

/// How long the name of a transaction or branch may be, in bytes; the columns hold as many characters.
const NAME_BYTES_MAX: usize = 128;
/// Ages beyond are taken for this one, since no database reckons with the largest: a hundred years.
const AGE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// One branch of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BarrierKey {
    /// The id of the saga or of the TCC transaction.
    pub transaction: String,
    /// The step of the saga or the branch of the TCC transaction.
    pub branch: String,
}

/// What a participant is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The step of a saga; the try of TCC.
    Do,
    /// The second half of TCC.
    Confirm,
    /// The compensation of a saga; the cancel of TCC.
    Undo,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Do => "do",
            Self::Confirm => "confirm",
            Self::Undo => "undo",
        })
    }
}

/// What is to be done with a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Entered {
    /// Run it, in the same transaction.
    First,
    /// Don't: it has run. With what was answered, if an answer was recorded.
    Again(Option<Value>),
    /// Don't: this do was refused before. With what was answered, if an answer was recorded.
    Refused(Option<Value>),
    /// Don't: the branch was undone, so this do must never run. Refuse it.
    TooLate,
    /// Don't: there is nothing to undo. A later do is refused from now on.
    Nothing,
}

/// The barrier in a table of the participant's own database: MySQL, MariaDB, or Postgres (feature `postgres`).
///
/// A handle without a connection, cheap to clone. It works in the transaction that it is given, so the table belongs into the
/// same server as the participant's own tables.
pub struct Barrier<Db = MySql> {
    table: TableName,
    database: PhantomData<fn() -> Db>,
}

impl<Db: BarrierDatabase> Barrier<Db> {
    /// The name of the table where there is no reason for another one.
    pub const DEFAULT_TABLE: &'static str = "saga_barrier";

    /// A barrier in `table` or `schema.table`, without quotes.
    #[must_use]
    pub fn new(table: &str) -> Self {
        Self { table: TableName::new(table, Db::QUOTE), database: PhantomData }
    }

    /// The statements that make the table, for who may make it where the service may not.
    #[must_use]
    pub fn definition(&self) -> String {
        Db::definition(&self.table)
    }

    /// Makes the table if there is none, and tries whether it can be used.
    ///
    /// # Errors
    ///
    /// If the table cannot be made, has other columns, or may not be used; the error says which statement an administrator is
    /// to run.
    pub async fn prepare(&self, pool: &Pool<Db>) -> Result<(), BarrierError> {
        // Looked for first, since a service that may not create tables can use one that is there.
        if Db::probe(pool, &self.table).await.is_ok() {
            return Ok(());
        }
        let made = Db::create(pool, &self.definition()).await;
        // Two services that make the table at the same time meet in an error of one of them, and then it is there.
        Db::probe(pool, &self.table).await.map_err(|err| {
            let message = format!(
                "cannot use the barrier's table {table}: it is to be made by\n{};\nand the service's user needs `GRANT SELECT, \
                 INSERT, UPDATE, DELETE ON {table}`",
                self.definition(),
                table = self.table
            );
            BarrierError::database::<Db>(message, made.err().unwrap_or(err))
        })
    }

    /// Begins a call in the participant's transaction, and says what is to be done with it. Waits while another call of the
    /// same branch is open.
    ///
    /// It should be the transaction's first statement: above the level read committed, what was read before may be older than
    /// what the call before this one has written.
    ///
    /// # Errors
    ///
    /// [`Violation`](BarrierErrorKind::Violation) if the call contradicts what has happened. After any error the transaction must
    /// be rolled back; after a [`Conflict`](BarrierErrorKind::Conflict) it can be begun again.
    pub async fn enter(
        &self,
        tx: &mut Transaction<'_, Db>,
        key: &BarrierKey,
        operation: Operation,
    ) -> Result<Entered, BarrierError> {
        check(key)?;
        let failed = |err| self.failed("enter", key, err);
        let found = match State::of_unknown(operation) {
            Some(first) => Db::insert_or_lock(tx, &self.table, key, first).await.map_err(failed)?,
            None => {
                // What nearly every confirm comes to, in one statement.
                let (from, to) = (State::Done, State::of_run(operation));
                if state::decide(Some(from), operation) == Decision::Run(to)
                    && Db::write_state(tx, &self.table, key, from, to).await.map_err(failed)?
                {
                    return Ok(Entered::First);
                }
                Db::lock(tx, &self.table, key).await.map_err(failed)?
            }
        };
        let before = found.as_ref().map(|found| found.state);
        match state::decide(before, operation) {
            Decision::Run(next) => {
                // The insert has written the state already; what it has found instead is locked.
                if let Some(before) = before {
                    Db::write_state(tx, &self.table, key, before, next).await.map_err(failed)?;
                }
                Ok(Entered::First)
            }
            Decision::Again => Ok(Entered::Again(found.and_then(Found::answer))),
            Decision::Refused => Ok(Entered::Refused(found.and_then(Found::answer))),
            Decision::TooLate => Ok(Entered::TooLate),
            Decision::Nothing => Ok(Entered::Nothing),
            Decision::Violation => Err(BarrierError::violation(key, operation, before)),
        }
    }

    /// Keeps what a do or an undo answers, so that a repeat is answered in the same way. To be called in the transaction in
    /// which [`enter`](Self::enter) said [`Entered::First`]; a later answer takes the place of an earlier one. A confirm has
    /// no answer of its own, so that a repeated try still gets the try's.
    ///
    /// # Errors
    ///
    /// [`Lost`](BarrierErrorKind::Lost) if a do's transaction no longer is the one that entered, having been rolled back after a
    /// deadlock, for instance: nothing may be committed then. For the other operations, [`verify`](Self::verify) tells.
    pub async fn record_answer(
        &self,
        tx: &mut Transaction<'_, Db>,
        key: &BarrierKey,
        answer: &Value,
    ) -> Result<(), BarrierError> {
        self.record(tx, key, None, answer).await
    }

    /// Keeps that a do said no, and what it answered: a repeat is refused again, and an undo has nothing to undo. What the do
    /// has written must be taken back to a savepoint first.
    ///
    /// # Errors
    ///
    /// As [`record_answer`](Self::record_answer).
    pub async fn record_refusal(
        &self,
        tx: &mut Transaction<'_, Db>,
        key: &BarrierKey,
        answer: &Value,
    ) -> Result<(), BarrierError> {
        self.record(tx, key, Some(State::Refused), answer).await
    }

    /// Makes sure, before the commit, that the transaction still is the one in which [`enter`](Self::enter) said [`Entered::First`]. A
    /// deadlock rolls a transaction back, and who goes on all the same writes outside of it; what is committed then would be a
    /// part of the writes, without the record.
    ///
    /// # Errors
    ///
    /// [`Lost`](BarrierErrorKind::Lost) if it is not: nothing may be committed then.
    pub async fn verify(
        &self,
        tx: &mut Transaction<'_, Db>,
        key: &BarrierKey,
        operation: Operation,
    ) -> Result<(), BarrierError> {
        let found = Db::lock(tx, &self.table, key).await.map_err(|err| self.failed("verify", key, err))?;
        match found {
            Some(found) if found.state == State::of_run(operation) => Ok(()),
            _ => Err(BarrierError::lost(key)),
        }
    }

    /// Removes at most `limit` rows whose last call is longer ago than `age`, and gives how many. A branch that is called
    /// after its row went is unknown, so the age must be far beyond the life of any transaction: 30 days, say.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached.
    pub async fn clean_up(&self, pool: &Pool<Db>, age: Duration, limit: u32) -> Result<u64, BarrierError> {
        let removed = Db::remove(pool, &self.table, age.min(AGE_MAX), limit).await;
        removed.map_err(|err| {
            BarrierError::database::<Db>(
                format!("cannot remove old rows of the barrier's table {}", self.table),
                err,
            )
        })
    }

    async fn record(
        &self,
        tx: &mut Transaction<'_, Db>,
        key: &BarrierKey,
        state: Option<State>,
        answer: &Value,
    ) -> Result<(), BarrierError> {
        let answer = answer.to_string();
        let written = Db::write_answer(tx, &self.table, key, state, &answer).await;
        if written.map_err(|err| self.failed("record the answer of", key, err))? {
            return Ok(());
        }
        Err(BarrierError::lost(key))
    }

    fn failed(&self, what: &str, key: &BarrierKey, err: sqlx::Error) -> BarrierError {
        let BarrierKey { transaction, branch } = key;
        let message = format!(
            "cannot {what} branch `{branch}` of transaction `{transaction}` in the barrier's table {}",
            self.table
        );
        BarrierError::database::<Db>(message, err)
    }
}

impl<Db> Clone for Barrier<Db> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), database: PhantomData }
    }
}

impl<Db> fmt::Debug for Barrier<Db> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("table", &self.table.to_string()).finish()
    }
}

/// Refuses what a table would cut off, or take for another: comparisons there ignore spaces at the end.
fn check(key: &BarrierKey) -> Result<(), BarrierError> {
    for (what, name) in [("transaction's id", &key.transaction), ("branch's name", &key.branch)] {
        let cause = if name.is_empty() {
            "is empty".to_owned()
        } else if name.len() > NAME_BYTES_MAX {
            format!("has {} bytes", name.len())
        } else if name.ends_with(' ') || name.chars().any(char::is_control) {
            "has a control character or ends with a space".to_owned()
        } else {
            continue;
        };
        return Err(BarrierError::key(format!(
            "the {what} {cause}; use 1 to {NAME_BYTES_MAX} bytes of printable characters"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_fit_are_refused() {
        let key = |name: &str| BarrierKey { transaction: name.to_owned(), branch: "stock".to_owned() };
        for name in ["a", "order 42", "é", &"a".repeat(NAME_BYTES_MAX)] {
            assert!(check(&key(name)).is_ok(), "{name}");
        }
        for name in ["", "a ", "a\n", "a\0", &"é".repeat(NAME_BYTES_MAX / 2 + 1)] {
            let err = check(&key(name)).expect_err(name);
            assert_eq!(err.kind(), BarrierErrorKind::Key, "{name:?}");
        }
    }
}
