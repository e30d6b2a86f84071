//! The barrier's statements in MySQL and MariaDB.

use std::time::Duration;

use outbox_consumer::mysql::{Transactions, is_lost};
use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlDatabaseError, MySqlRow};
use sqlx::{MySql, MySqlPool, Row as _, Transaction};

use super::state::State;
use super::table::{BarrierDatabase, Dialect, Found, TableName};
use super::{BarrierErrorKind, BarrierKey};

const OF_KEY: &str = "WHERE transaction_id = ? AND branch = ?";
/// How a clean-up begins: above this level InnoDB would lock the gaps between the records too. Both statements go to
/// the server at once.
const BEGIN_CLEAN_UP: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";

impl BarrierDatabase for MySql {}

impl Dialect for MySql {
    const QUOTE: char = '`';
    const COMMIT_VERIFIES: bool = true;

    type Transactions = Transactions;

    fn transactions(pool: MySqlPool) -> Transactions {
        Transactions::new(pool)
    }

    async fn begin(transactions: &Transactions) -> Result<Transaction<'static, MySql>, sqlx::Error> {
        transactions.begin().await
    }

    async fn commit(transactions: &Transactions, tx: Transaction<'static, MySql>) -> Result<(), sqlx::Error> {
        transactions.commit(tx).await
    }

    fn is_lost(err: &sqlx::Error) -> bool {
        is_lost(err)
    }

    fn definition(table: &TableName) -> String {
        // A collation by bytes, since ids that differ in case differ.
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n  \
             transaction_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,\n  \
             branch         VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,\n  \
             state          VARCHAR(16)  CHARACTER SET ascii NOT NULL COMMENT 'done, refused, confirmed, undone, barred',\n  \
             answer         JSON         NULL,\n  \
             calls          INT UNSIGNED NOT NULL COMMENT 'of do and undo',\n  \
             created_at     DATETIME(6)  NOT NULL,\n  \
             updated_at     DATETIME(6)  NOT NULL,\n  \
             PRIMARY KEY (transaction_id, branch),\n  KEY {} (updated_at)\n) ENGINE=InnoDB",
            table.index("age")
        )
    }

    async fn create(pool: &MySqlPool, definition: &str) -> Result<(), sqlx::Error> {
        sqlx::query(definition).persistent(false).execute(pool).await?;
        Ok(())
    }

    async fn probe(pool: &MySqlPool, table: &TableName) -> Result<(), sqlx::Error> {
        const COLUMNS: &str = "transaction_id, branch, state, answer, calls, created_at, updated_at";
        let mut tx = pool.begin().await?;
        for statement in [
            format!("INSERT INTO {table} ({COLUMNS}) SELECT {COLUMNS} FROM {table} WHERE FALSE"),
            format!("UPDATE {table} SET calls = calls WHERE FALSE"),
            format!("DELETE FROM {table} WHERE FALSE"),
        ] {
            sqlx::query(&statement).execute(&mut *tx).await?;
        }
        tx.rollback().await
    }

    async fn insert_or_lock(
        tx: &mut Transaction<'_, MySql>,
        table: &TableName,
        key: &BarrierKey,
        first: State,
    ) -> Result<Option<Found>, sqlx::Error> {
        // The counter makes an update of a row that changes, which is counted as two affected rows. A plain insert would
        // take a shared lock on the duplicate's record, and two calls that go on from there deadlock.
        let statement = format!(
            "INSERT INTO {table} (transaction_id, branch, state, calls, created_at, updated_at) \
             VALUES (?, ?, ?, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)) \
             ON DUPLICATE KEY UPDATE calls = calls + 1, updated_at = UTC_TIMESTAMP(6)"
        );
        let inserted = sqlx::query(&statement)
            .bind(&key.transaction)
            .bind(&key.branch)
            .bind(first.name())
            .execute(&mut **tx)
            .await?;
        if inserted.rows_affected() == 1 {
            return Ok(None);
        }
        let found = Self::lock(tx, table, key).await?;
        // It is locked, so it cannot be gone.
        found.map(Some).ok_or(sqlx::Error::RowNotFound)
    }

    async fn lock(
        tx: &mut Transaction<'_, MySql>,
        table: &TableName,
        key: &BarrierKey,
    ) -> Result<Option<Found>, sqlx::Error> {
        // `FOR UPDATE` also reads what was committed after the transaction's snapshot.
        let statement = format!("SELECT state, CAST(answer AS CHAR) FROM {table} {OF_KEY} FOR UPDATE");
        let row = sqlx::query(&statement)
            .bind(&key.transaction)
            .bind(&key.branch)
            .fetch_optional(&mut **tx)
            .await?;
        row.map(|row: MySqlRow| Found::new(row.try_get(0)?, row.try_get(1)?)).transpose()
    }

    async fn write_state(
        tx: &mut Transaction<'_, MySql>,
        table: &TableName,
        key: &BarrierKey,
        from: State,
        to: State,
    ) -> Result<bool, sqlx::Error> {
        let statement =
            format!("UPDATE {table} SET state = ?, updated_at = UTC_TIMESTAMP(6) {OF_KEY} AND state = ?");
        let found = sqlx::query(&statement)
            .bind(to.name())
            .bind(&key.transaction)
            .bind(&key.branch)
            .bind(from.name())
            .execute(&mut **tx)
            .await?;
        Ok(found.rows_affected() == 1)
    }

    async fn write_answer(
        tx: &mut Transaction<'_, MySql>,
        table: &TableName,
        key: &BarrierKey,
        state: Option<State>,
        answer: &str,
    ) -> Result<bool, sqlx::Error> {
        let statement = format!("UPDATE {table} SET answer = ?, state = COALESCE(?, state) {OF_KEY}");
        // sqlx asks for the rows that were found, not only those that changed.
        let found = sqlx::query(&statement)
            .bind(answer)
            .bind(state.map(State::name))
            .bind(&key.transaction)
            .bind(&key.branch)
            .execute(&mut **tx)
            .await?;
        Ok(found.rows_affected() == 1)
    }

    async fn remove(
        pool: &MySqlPool,
        table: &TableName,
        age: Duration,
        limit: u32,
    ) -> Result<u64, sqlx::Error> {
        let statement = format!(
            "DELETE FROM {table} WHERE updated_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND ORDER BY updated_at LIMIT ?"
        );
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let mut tx = pool.begin_with(BEGIN_CLEAN_UP).await?;
        let removed = sqlx::query(&statement).bind(age).bind(limit).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }

    fn kind(err: &dyn DatabaseError) -> BarrierErrorKind {
        err.try_downcast_ref::<MySqlDatabaseError>()
            .map_or(BarrierErrorKind::Unusable, |err| kind_of(err.number()))
    }
}

/// The kind of an error by its number. What is not listed is of no use to try again, as far as is known.
///
/// <https://dev.mysql.com/doc/mysql-errors/9.4/en/server-error-reference.html>,
/// <https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference>
fn kind_of(number: u16) -> BarrierErrorKind {
    match number {
        // A record that changed meanwhile (MariaDB), lock wait timeout, deadlock, query interrupted, statement timeout
        // (MariaDB and MySQL), refused by group replication at commit.
        1020 | 1205 | 1213 | 1317 | 1969 | 3024 | 3101 => BarrierErrorKind::Conflict,
        // Full disk or table, too many connections, a Galera node that is not ready, shutdown, a blocked host.
        1021 | 1040 | 1047 | 1053 | 1079 | 1080 | 1114 | 1129 => BarrierErrorKind::Unavailable,
        // Network errors, an aborted or killed connection, limits of the user, the table of locks full.
        1152 | 1158..=1161 | 1184 | 1203 | 1206 | 1226 | 1927 | 3169 | 4031 => BarrierErrorKind::Unavailable,
        // Read-only, as a replica is until it is promoted; offline; group replication without a majority.
        1290 | 1792 | 1836 | 3032 | 3100 | 3168 => BarrierErrorKind::Unavailable,
        _ => BarrierErrorKind::Unusable,
    }
}
