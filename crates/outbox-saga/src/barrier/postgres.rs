//! The barrier's statements in Postgres.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row as _, Transaction};

use super::state::State;
use super::table::{BarrierDatabase, Dialect, Found, TableName};
use super::{BarrierErrorKind, BarrierKey};

const OF_KEY: &str = "WHERE transaction_id = $1 AND branch = $2";

impl BarrierDatabase for Postgres {}

impl Dialect for Postgres {
    const QUOTE: char = '"';
    const COMMIT_VERIFIES: bool = false;

    type Transactions = PgPool;

    fn transactions(pool: PgPool) -> PgPool {
        pool
    }

    async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        pool.begin().await
    }

    async fn commit(_: &PgPool, tx: Transaction<'static, Postgres>) -> Result<(), sqlx::Error> {
        tx.commit().await
    }

    fn is_lost(_: &sqlx::Error) -> bool {
        false
    }

    fn definition(table: &TableName) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n  \
             transaction_id varchar(128) COLLATE \"C\" NOT NULL,\n  \
             branch         varchar(128) COLLATE \"C\" NOT NULL,\n  \
             state          varchar(16)  NOT NULL,\n  \
             answer         json         NULL,\n  \
             calls          integer      NOT NULL,\n  \
             created_at     timestamptz  NOT NULL,\n  \
             updated_at     timestamptz  NOT NULL,\n  \
             PRIMARY KEY (transaction_id, branch)\n);\n\
             CREATE INDEX IF NOT EXISTS {} ON {table} (updated_at)",
            table.index("age")
        )
    }

    async fn create(pool: &PgPool, definition: &str) -> Result<(), sqlx::Error> {
        // One after the other, since a prepared statement is one statement.
        for statement in definition.split(";\n") {
            sqlx::query(statement).persistent(false).execute(pool).await?;
        }
        Ok(())
    }

    async fn probe(pool: &PgPool, table: &TableName) -> Result<(), sqlx::Error> {
        const COLUMNS: &str = "transaction_id, branch, state, answer, calls, created_at, updated_at";
        let mut tx = pool.begin().await?;
        for statement in [
            format!(
                "INSERT INTO {table} ({COLUMNS}) SELECT {COLUMNS} FROM {table} WHERE FALSE \
                 ON CONFLICT (transaction_id, branch) DO NOTHING"
            ),
            format!("UPDATE {table} SET calls = calls WHERE FALSE"),
            format!("DELETE FROM {table} WHERE FALSE"),
        ] {
            sqlx::query(&statement).execute(&mut *tx).await?;
        }
        tx.rollback().await
    }

    async fn insert_or_lock(
        tx: &mut Transaction<'_, Postgres>,
        table: &TableName,
        key: &BarrierKey,
        first: State,
    ) -> Result<Option<Found>, sqlx::Error> {
        let statement = format!(
            "INSERT INTO {table} AS known (transaction_id, branch, state, calls, created_at, updated_at) \
             VALUES ($1, $2, $3, 1, clock_timestamp(), clock_timestamp()) ON CONFLICT (transaction_id, branch) \
             DO UPDATE SET calls = known.calls + 1, updated_at = clock_timestamp() \
             RETURNING state, answer::text, calls"
        );
        let row = sqlx::query(&statement)
            .bind(&key.transaction)
            .bind(&key.branch)
            .bind(first.name())
            .fetch_one(&mut **tx)
            .await?;
        if row.try_get::<i32, _>(2)? == 1 {
            return Ok(None);
        }
        Ok(Some(Found::new(row.try_get(0)?, row.try_get(1)?)?))
    }

    async fn lock(
        tx: &mut Transaction<'_, Postgres>,
        table: &TableName,
        key: &BarrierKey,
    ) -> Result<Option<Found>, sqlx::Error> {
        let statement = format!("SELECT state, answer::text FROM {table} {OF_KEY} FOR UPDATE");
        let row = sqlx::query(&statement)
            .bind(&key.transaction)
            .bind(&key.branch)
            .fetch_optional(&mut **tx)
            .await?;
        row.map(|row: PgRow| Found::new(row.try_get(0)?, row.try_get(1)?)).transpose()
    }

    async fn write_state(
        tx: &mut Transaction<'_, Postgres>,
        table: &TableName,
        key: &BarrierKey,
        from: State,
        to: State,
    ) -> Result<bool, sqlx::Error> {
        let statement =
            format!("UPDATE {table} SET state = $3, updated_at = clock_timestamp() {OF_KEY} AND state = $4");
        let found = sqlx::query(&statement)
            .bind(&key.transaction)
            .bind(&key.branch)
            .bind(to.name())
            .bind(from.name())
            .execute(&mut **tx)
            .await?;
        Ok(found.rows_affected() == 1)
    }

    async fn write_answer(
        tx: &mut Transaction<'_, Postgres>,
        table: &TableName,
        key: &BarrierKey,
        state: Option<State>,
        answer: &str,
    ) -> Result<bool, sqlx::Error> {
        let statement = format!("UPDATE {table} SET answer = $3::json, state = COALESCE($4, state) {OF_KEY}");
        let found = sqlx::query(&statement)
            .bind(&key.transaction)
            .bind(&key.branch)
            .bind(answer)
            .bind(state.map(State::name))
            .execute(&mut **tx)
            .await?;
        Ok(found.rows_affected() == 1)
    }

    async fn remove(pool: &PgPool, table: &TableName, age: Duration, limit: u32) -> Result<u64, sqlx::Error> {
        // `now()` and not `clock_timestamp()`, with which no index can be used.
        let old = "updated_at < now() - $1::float8 * interval '1 second'";
        let statement = format!(
            "DELETE FROM {table} WHERE {old} AND (transaction_id, branch) IN \
             (SELECT transaction_id, branch FROM {table} WHERE {old} ORDER BY updated_at LIMIT $2)"
        );
        let removed =
            sqlx::query(&statement).bind(age.as_secs_f64()).bind(i64::from(limit)).execute(pool).await?;
        Ok(removed.rows_affected())
    }

    fn kind(err: &dyn DatabaseError) -> BarrierErrorKind {
        err.code().map_or(BarrierErrorKind::Unusable, |state| kind_of(&state))
    }
}

/// The kind of an error by its SQLSTATE, of which the first two characters are the class. What is not listed is of no
/// use to try again, as far as is known.
///
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn kind_of(state: &str) -> BarrierErrorKind {
    match (state.get(..2).unwrap_or_default(), state) {
        // Serialization failure, deadlock; lock timeout; statement timeout or a cancelled query.
        (_, "40001" | "40P01" | "55P03" | "57014") => BarrierErrorKind::Conflict,
        // A statement before has failed, and the transaction is to be rolled back.
        (_, "25P02" | "25P03" | "25P04") => BarrierErrorKind::Lost,
        // Read-only, as a standby is until it is promoted; commit unknown; shutdown, crash, start-up, idle timeout.
        (_, "25006" | "40003" | "57P01" | "57P02" | "57P03" | "57P05") => BarrierErrorKind::Unavailable,
        // Connection lost; disk, memory or connections used up; errors of the operating system.
        ("08" | "53" | "58", _) => BarrierErrorKind::Unavailable,
        _ => BarrierErrorKind::Unusable,
    }
}
