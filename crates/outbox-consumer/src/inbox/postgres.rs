//! The inbox in Postgres.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::{PgPool, Postgres, Row as _, Transaction};

use super::sql::{self, BATCH_ROWS_MAX, BEGIN_ATTEMPTS_MAX, Index, TableName};
use super::{Begun, Inbox, InboxError, InboxErrorKind, InboxKey, check_key};

/// Above the level read committed, a second delivery that has waited for the first fails so instead of seeing its
/// record. The next attempt sees it.
const SERIALIZATION_FAILURE: &str = "40001";

/// The inbox in a table of the service's own Postgres database, version 13 or newer.
///
/// A message's record is inserted at the start of the transaction in which the handler writes, so both commit or
/// neither does. A second delivery that comes while the first is handled waits for it, in the database.
///
/// The transaction has the isolation level of the pool's connections; every level will do. The handler must return the errors that its statements meet, since each of them breaks the transaction; where it wants to go on
/// after one, it needs a savepoint.
///
/// An open transaction holds one of the pool's connections, and so does one that waits: the pool needs as many as
/// messages are handled at a time, and a handler must work with the transaction that it is given, not with another
/// connection of the same pool.
///
/// ```no_run
/// use outbox_consumer::inbox::{Begun, Inbox as _, InboxKey, PostgresInbox};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::PgPool::connect("postgres://shop@127.0.0.1/shop").await?;
/// let inbox = PostgresInbox::new(pool);
/// inbox.prepare().await?;
///
/// let key = InboxKey { consumer: "stock".to_owned(), message_id: "0190f3c2".to_owned() };
/// match inbox.begin(&key).await? {
///     Begun::New(mut transaction) => {
///         sqlx::query("UPDATE stock SET count = count - 1").execute(&mut *transaction).await?;
///         inbox.commit(&key, transaction).await?;
///     }
///     Begun::Duplicate => {}
/// }
/// # Ok(())
/// # }
/// ```
///
/// The table holds ids as bytes, so that none are equal but the same: `convert_from(message_id, 'UTF8')` shows them.
#[derive(Debug, Clone)]
pub struct PostgresInbox {
    pool: PgPool,
    table: TableName,
}

impl PostgresInbox {
    /// An inbox in the table `outbox_inbox` on the search path of the pool's connections.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, table: TableName::new(sql::DEFAULT_TABLE, '"') }
    }

    /// Uses another table, `table` or `schema.table`, without quotes; upper and lower case count.
    #[must_use]
    pub fn table(mut self, name: &str) -> Self {
        self.table = TableName::new(name, '"');
        self
    }

    /// The statements that make the table, for who may make it where the service may not.
    #[must_use]
    pub fn definition(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\n  consumer   bytea       NOT NULL,\n  message_id bytea       NOT NULL,\n  \
             handled_at timestamptz NOT NULL,\n  PRIMARY KEY (consumer, message_id)\n);\n\
             CREATE INDEX IF NOT EXISTS {index} ON {table} (consumer, handled_at)",
            table = self.table,
            index = self.table.index("age")
        )
    }

    /// What is wrong with the table; nothing if there is none.
    async fn examine(&self) -> Result<Option<Vec<String>>, sqlx::Error> {
        const TABLE: &str =
            "SELECT relkind::text, relpersistence::text FROM pg_class WHERE oid = to_regclass($1)";
        const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL), attnotnull FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
        let name = self.table.to_string();
        let Some(table) = sqlx::query(TABLE).bind(&name).fetch_optional(&self.pool).await? else {
            return Ok(None);
        };
        let mut problems = Vec::new();
        if !matches!(table.try_get::<&str, _>(0)?, "r" | "p") {
            problems.push("it is no table".to_owned());
        }
        // After a crash an unlogged table is empty, and everything would be handled again.
        if table.try_get::<&str, _>(1)? != "p" {
            problems.push("it is unlogged or temporary".to_owned());
        }
        let columns = sqlx::query(COLUMNS).bind(&name).fetch_all(&self.pool).await?;
        for (column, of) in
            [("consumer", "bytea"), ("message_id", "bytea"), ("handled_at", "timestamp with time zone")]
        {
            let mut found = false;
            for row in &columns {
                found |= row.try_get::<&str, _>(0)? == column
                    && row.try_get::<&str, _>(1)? == of
                    && row.try_get::<bool, _>(2)?;
            }
            if !found {
                problems.push(format!("it has no column `{column}` of type {of} NOT NULL"));
            }
        }
        problems.extend(sql::index_problems(&self.indexes(&name).await?));
        Ok(Some(problems))
    }

    async fn indexes(&self, table: &str) -> Result<Vec<Index>, sqlx::Error> {
        const INDEXES: &str = "SELECT indisunique, \
                 indimmediate AND indisvalid AND indpred IS NULL AND indexprs IS NULL, \
                 ARRAY(SELECT COALESCE(attname::text, '') FROM unnest(indkey::int2[]) WITH ORDINALITY AS part (number, place) \
                     LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = part.number \
                     WHERE place <= indnkeyatts ORDER BY place) \
             FROM pg_index WHERE indrelid = to_regclass($1)";
        let mut indexes = Vec::new();
        for row in sqlx::query(INDEXES).bind(table).fetch_all(&self.pool).await? {
            indexes.push(Index { unique: row.try_get(0)?, whole: row.try_get(1)?, columns: row.try_get(2)? });
        }
        Ok(indexes)
    }

    /// Does what needs the rights that the inbox needs, without an effect.
    async fn try_rights(&self) -> Result<(), sqlx::Error> {
        let table = &self.table;
        let mut transaction = self.pool.begin().await?;
        for statement in [
            format!(
                "INSERT INTO {table} (consumer, message_id, handled_at) SELECT consumer, message_id, handled_at FROM \
                 {table} WHERE FALSE ON CONFLICT (consumer, message_id) DO NOTHING"
            ),
            format!("DELETE FROM {table} WHERE FALSE"),
        ] {
            sqlx::query(&statement).execute(&mut *transaction).await?;
        }
        transaction.rollback().await
    }

    async fn try_begin(&self, key: &InboxKey) -> Result<Begun<Transaction<'static, Postgres>>, sqlx::Error> {
        let statement = format!(
            "INSERT INTO {} (consumer, message_id, handled_at) VALUES ($1, $2, clock_timestamp()) \
             ON CONFLICT (consumer, message_id) DO NOTHING",
            self.table
        );
        let mut transaction = self.pool.begin().await?;
        let inserted = sqlx::query(&statement)
            .bind(key.consumer.as_bytes())
            .bind(key.message_id.as_bytes())
            .execute(&mut *transaction)
            .await?;
        if inserted.rows_affected() == 1 {
            return Ok(Begun::New(transaction));
        }
        // The message is a duplicate whether or not the connection survives the rollback.
        if let Err(err) = transaction.rollback().await {
            tracing::debug!(error = %err, "cannot roll back the transaction of a duplicate");
        }
        Ok(Begun::Duplicate)
    }

    async fn begin_key(&self, key: &InboxKey) -> Result<Begun<Transaction<'static, Postgres>>, InboxError> {
        let lost = |err: &sqlx::Error| {
            err.as_database_error()
                .and_then(DatabaseError::code)
                .is_some_and(|code| code == SERIALIZATION_FAILURE)
        };
        let mut attempt = 1;
        loop {
            match self.try_begin(key).await {
                Ok(begun) => return Ok(begun),
                Err(err) if lost(&err) && attempt < BEGIN_ATTEMPTS_MAX => attempt += 1,
                Err(err) => {
                    return Err(self.error(&format!("cannot record message `{}`", key.message_id), err));
                }
            }
        }
    }

    async fn remove_batch(&self, consumer: &str, age: Duration, limit: u32) -> Result<u64, sqlx::Error> {
        // `now()` and not `clock_timestamp()`, with which no index can be used.
        let statement = format!(
            "DELETE FROM {table} WHERE consumer = $1 AND message_id = ANY(ARRAY(SELECT message_id FROM {table} \
             WHERE consumer = $1 AND handled_at < now() - $2::float8 * interval '1 second' \
             ORDER BY handled_at LIMIT $3))",
            table = self.table
        );
        let done = sqlx::query(&statement)
            .bind(consumer.as_bytes())
            .bind(sql::reckonable(age).as_secs_f64())
            .bind(i64::from(limit))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }

    async fn commit_key(
        &self,
        key: &InboxKey,
        mut transaction: Transaction<'static, Postgres>,
    ) -> Result<(), InboxError> {
        let what = || format!("cannot commit the handling of message `{}`", key.message_id);
        // `COMMIT` of a transaction in which a statement has failed rolls back and reports no error. This does.
        let statement = format!("SELECT 1 FROM {} WHERE consumer = $1 AND message_id = $2", self.table);
        let record = sqlx::query(&statement)
            .bind(key.consumer.as_bytes())
            .bind(key.message_id.as_bytes())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(|err| self.error(&what(), err))?;
        if record.is_none() {
            return Err(sql::lost_record(key));
        }
        transaction.commit().await.map_err(|err| self.error(&what(), err))
    }

    async fn remove(&self, consumer: &str, age: Duration, limit: u32) -> Result<u64, InboxError> {
        let mut removed = 0;
        let mut left = limit;
        while left > 0 {
            let batch = left.min(BATCH_ROWS_MAX);
            let count = self
                .remove_batch(consumer, age, batch)
                .await
                .map_err(|err| self.error("cannot remove old records", err))?;
            removed += count;
            left -= batch;
            if count < u64::from(batch) {
                break;
            }
        }
        Ok(removed)
    }

    fn error(&self, what: &str, err: sqlx::Error) -> InboxError {
        let kind = sql::kind(&err, kind_of_error);
        InboxError::new(kind, format!("{what} in the inbox's table {}", self.table), Some(Box::new(err)))
    }

    fn right_error(&self, err: sqlx::Error) -> InboxError {
        let kind = sql::kind(&err, kind_of_error);
        let table = &self.table;
        let message = format!(
            "cannot use the inbox's table {table}: the service's user needs `GRANT SELECT, INSERT, DELETE ON {table}`"
        );
        InboxError::new(kind, message, Some(Box::new(err)))
    }
}

impl Inbox for PostgresInbox {
    type Transaction = Transaction<'static, Postgres>;

    async fn prepare(&self) -> Result<(), InboxError> {
        const EXAMINING: &str = "cannot look at the columns";
        let mut problems = self.examine().await.map_err(|err| self.error(EXAMINING, err))?;
        if problems.is_none() {
            let definition = self.definition();
            let made = sqlx::raw_sql(&definition).execute(&self.pool).await;
            problems = self.examine().await.map_err(|err| self.error(EXAMINING, err))?;
            // Two services that make the table at the same time meet in an error of one of them, and then it is there.
            if let (Err(err), None) = (made, &problems) {
                let kind = sql::kind(&err, kind_of_error);
                let message = format!(
                    "the inbox's table {table} is not there, or not for this user, and cannot be made; an administrator is to \
                     run:\n{definition};\nand to `GRANT SELECT, INSERT, DELETE ON {table}` to the service's user",
                    table = self.table
                );
                return Err(InboxError::new(kind, message, Some(Box::new(err))));
            }
        }
        let problems = problems.unwrap_or_else(|| vec!["it cannot be seen".to_owned()]);
        if !problems.is_empty() {
            return Err(sql::wrong_table(&self.table, &problems, &self.definition()));
        }
        self.try_rights().await.map_err(|err| self.right_error(err))
    }

    async fn begin(&self, key: &InboxKey) -> Result<Begun<Self::Transaction>, InboxError> {
        check_key(key)?;
        let (inbox, key) = (self.clone(), key.clone());
        sql::to_the_end(async move { inbox.begin_key(&key).await }).await
    }

    async fn commit(&self, key: &InboxKey, transaction: Self::Transaction) -> Result<(), InboxError> {
        let (inbox, key) = (self.clone(), key.clone());
        sql::to_the_end(async move { inbox.commit_key(&key, transaction).await }).await
    }

    async fn clean_up(&self, consumer: &str, age: Duration, limit: u32) -> Result<u64, InboxError> {
        let (inbox, consumer) = (self.clone(), consumer.to_owned());
        sql::to_the_end(async move { inbox.remove(&consumer, age, limit).await }).await
    }
}

fn kind_of_error(err: &dyn DatabaseError) -> InboxErrorKind {
    err.code().map_or(InboxErrorKind::Unusable, |state| kind_of(&state))
}

/// The kind of an error by its SQLSTATE, of which the first two characters are the class. What is not listed is of no
/// use to try again, as far as is known.
///
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn kind_of(state: &str) -> InboxErrorKind {
    match (state.get(..2).unwrap_or_default(), state) {
        // Serialization failure, deadlock; lock timeout; statement timeout or a cancelled query.
        (_, "40001" | "40P01" | "55P03" | "57014") => InboxErrorKind::Conflict,
        // A broken transaction, one that stood open for too long, and a deferred constraint that fails at commit.
        (_, "25P02" | "25P03" | "25P04" | "40002") | ("23", _) => InboxErrorKind::Rejected,
        // Read-only, as a standby is until it is promoted; commit unknown; shutdown, crash, start-up, idle timeout.
        (_, "25006" | "40003" | "57P01" | "57P02" | "57P03" | "57P05") => InboxErrorKind::Unavailable,
        // Connection lost; disk, memory or connections used up; errors of the operating system.
        ("08" | "53" | "58", _) => InboxErrorKind::Unavailable,
        _ => InboxErrorKind::Unusable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_their_kind() {
        let cases = [
            ("40001", InboxErrorKind::Conflict),
            ("40P01", InboxErrorKind::Conflict),
            ("55P03", InboxErrorKind::Conflict),
            ("57014", InboxErrorKind::Conflict),
            ("25P02", InboxErrorKind::Rejected),
            ("23503", InboxErrorKind::Rejected),
            ("25006", InboxErrorKind::Unavailable),
            ("08006", InboxErrorKind::Unavailable),
            ("53300", InboxErrorKind::Unavailable),
            ("57P01", InboxErrorKind::Unavailable),
            ("57P03", InboxErrorKind::Unavailable),
            ("58030", InboxErrorKind::Unavailable),
            // No such table, no right, no database, and what no server says.
            ("42P01", InboxErrorKind::Unusable),
            ("42501", InboxErrorKind::Unusable),
            ("3D000", InboxErrorKind::Unusable),
            ("57P04", InboxErrorKind::Unusable),
            ("", InboxErrorKind::Unusable),
            ("ü", InboxErrorKind::Unusable),
        ];
        for (state, kind) in cases {
            assert_eq!(kind_of(state), kind, "{state}");
        }
    }
}
