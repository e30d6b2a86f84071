//! Writing through `sqlx`, in a transaction and nowhere else.

use sqlx::mysql::{MySql, MySqlDatabaseError};
use sqlx::{Connection as _, Executor as _, Transaction};
use uuid::Uuid;

use crate::{Error, ErrorKind, IntoEvent, Outbox, Statement, Value};

/// Fails outside a transaction, where a savepoint is forgotten at once; one round trip.
const VERIFY: &str = "SAVEPOINT outbox_producer; RELEASE SAVEPOINT outbox_producer";
/// `ER_SP_DOES_NOT_EXIST`: what the server says of a savepoint that it does not know.
const NO_SAVEPOINT: u16 = 1305;
/// Inserts of up to so many rows stay prepared; larger ones seldom have the same number of rows again, and would only
/// drive others out of the connection's cache.
const PERSISTENT_ROWS_MAX: usize = 8;

/// With the feature `sqlx` (on by default).
impl Outbox {
    /// Writes one event as part of `transaction`, and says its id. The event is sent if, and only if, the transaction
    /// commits.
    ///
    /// Only a transaction is taken:
    ///
    /// ```
    /// use outbox_producer::{Error, Event, Outbox};
    /// use sqlx::{MySql, Transaction};
    ///
    /// async fn write<E: Event>(
    ///     outbox: &Outbox,
    ///     transaction: &mut Transaction<'_, MySql>,
    ///     event: &E,
    /// ) -> Result<uuid::Uuid, Error> {
    ///     outbox.write(transaction, event).await
    /// }
    /// ```
    ///
    /// A pool is refused, and so is a connection, since they would commit the event by itself:
    ///
    /// ```compile_fail,E0308
    /// use outbox_producer::{Error, Event, Outbox};
    /// use sqlx::MySqlPool;
    ///
    /// async fn write<E: Event>(outbox: &Outbox, pool: &mut MySqlPool, event: &E) -> Result<uuid::Uuid, Error> {
    ///     outbox.write(pool, event).await
    /// }
    /// ```
    ///
    /// ```compile_fail,E0308
    /// use outbox_producer::{Error, Event, Outbox};
    /// use sqlx::MySqlConnection;
    ///
    /// async fn write<E: Event>(
    ///     outbox: &Outbox,
    ///     connection: &mut MySqlConnection,
    ///     event: &E,
    /// ) -> Result<uuid::Uuid, Error> {
    ///     outbox.write(connection, event).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]. After an error the transaction is as it was before, except after [`ErrorKind::Conflict`]
    /// and [`ErrorKind::NoTransaction`], and where the connection broke: then roll it back.
    pub async fn write<E: IntoEvent>(
        &self,
        transaction: &mut Transaction<'_, MySql>,
        event: E,
    ) -> Result<Uuid, Error> {
        let event = event.into_event()?;
        let id = event.id();
        let statement = self.statement(event)?;
        self.verify(transaction).await?;
        self.insert(transaction, statement).await?;
        Ok(id)
    }

    /// Writes many events as part of `transaction`, in few inserts, and says their ids. Their messages keep this
    /// order.
    ///
    /// All are written or none, also if the transaction goes on after an error, and if the future is dropped before
    /// it is done.
    ///
    /// ```
    /// use outbox_producer::{Error, NewEvent, Outbox};
    /// use sqlx::{MySql, Transaction};
    ///
    /// async fn release(
    ///     outbox: &Outbox,
    ///     transaction: &mut Transaction<'_, MySql>,
    ///     seats: &[u32],
    /// ) -> Result<(), Error> {
    ///     let events = seats.iter().map(|seat| NewEvent::json("seat", seat, "released", seat));
    ///     outbox.write_all(transaction, events).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write). Every event is checked before the first is written.
    pub async fn write_all<I>(
        &self,
        transaction: &mut Transaction<'_, MySql>,
        events: I,
    ) -> Result<Vec<Uuid>, Error>
    where
        I: IntoIterator,
        I::Item: IntoEvent,
    {
        let statements = self.statements(events)?;
        let ids = statements.iter().flat_map(|statement| statement.ids.iter().copied()).collect();
        match statements.len() {
            0 => {}
            1 => {
                self.verify(transaction).await?;
                for statement in statements {
                    self.insert(transaction, statement).await?;
                }
            }
            _ => {
                let done = self.insert_all(transaction, statements).await;
                if done.is_err() {
                    // The savepoint is left by a statement that waits to be sent; its answer, which is an error if the
                    // whole transaction is gone, shall not meet the caller's next statement.
                    drop(transaction.ping().await);
                }
                done?;
            }
        }
        Ok(ids)
    }

    /// Whether to ask the server before each write if the transaction still exists, which costs a round trip: about a
    /// tenth of a millisecond to a server on the same machine. Default `true`.
    ///
    /// A deadlock ends the transaction in the server while the handle lives on; so does a statement that commits by
    /// itself, such as `CREATE TABLE`. Whoever ignores the error and goes on would write an event that is committed
    /// at once, though the business rows before it are gone. With `true` that is [`ErrorKind::NoTransaction`]; turn
    /// it off only where every error of the transaction ends it.
    #[must_use]
    pub fn with_verification(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    async fn verify(&self, transaction: &mut Transaction<'_, MySql>) -> Result<(), Error> {
        if !self.verify {
            return Ok(());
        }
        match transaction.execute(VERIFY).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some(NO_SAVEPOINT) => Err(self.no_transaction()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Inserts within a savepoint, which verifies the transaction as well.
    async fn insert_all(
        &self,
        transaction: &mut Transaction<'_, MySql>,
        statements: Vec<Statement>,
    ) -> Result<(), Error> {
        let mut savepoint = transaction.begin().await.map_err(|error| match error {
            sqlx::Error::BeginFailed => self.no_transaction(),
            error => self.failed(error),
        })?;
        for statement in statements {
            self.insert(&mut savepoint, statement).await?;
        }
        savepoint.commit().await.map_err(|error| self.failed(error))
    }

    async fn insert(
        &self,
        transaction: &mut Transaction<'_, MySql>,
        statement: Statement,
    ) -> Result<(), Error> {
        let persistent = statement.ids.len() <= PERSISTENT_ROWS_MAX;
        let mut query = sqlx::query(&statement.sql).persistent(persistent);
        for value in statement.values {
            query = match value {
                Value::Null => query.bind(None::<String>),
                Value::Text(text) => query.bind(text),
                Value::Bytes(bytes) => query.bind(bytes),
            };
        }
        query.execute(&mut **transaction).await.map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn no_transaction(&self) -> Error {
        let message = format!(
            "nothing was written into {}: the transaction is over (an earlier statement met a deadlock, or committed it); roll \
             back and begin anew",
            self.table()
        );
        Error::new(ErrorKind::NoTransaction, message)
    }

    fn failed(&self, error: sqlx::Error) -> Error {
        let table = self.table();
        let Some(code) = code(&error) else {
            let message = format!("writing into {table} failed");
            return Error::new(ErrorKind::Database, message).with_source(error);
        };
        let (kind, cause) = match code {
            1062 => (ErrorKind::Duplicate, "has a row with this id, or another unique value, already"),
            1205 | 1213 => (ErrorKind::Conflict, "is locked by another transaction; roll back and try again"),
            1366 => (
                ErrorKind::Database,
                "has a column that cannot hold a text of the event; is its character set utf8mb4?",
            ),
            _ => (ErrorKind::Database, "did not take an event"),
        };
        let failure = Error::new(kind, format!("{table} {cause} (error {code})")).with_code(code);
        if quotes_values(code) { failure } else { failure.with_source(error) }
    }
}

fn code(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Errors whose messages repeat what is in the row, as
/// [MySQL](https://dev.mysql.com/doc/mysql-errors/9.0/en/server-error-reference.html) and MariaDB word them:
/// duplicates, values that do not fit, and what triggers say.
fn quotes_values(code: u16) -> bool {
    matches!(code, 1062 | 1265 | 1292 | 1300 | 1366 | 1367 | 1411 | 1526 | 1586 | 1644 | 1690 | 3854 | 3988)
}
