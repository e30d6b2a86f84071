//! The inbox in MySQL or MariaDB.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{MySql, MySqlPool, Row as _, Transaction};

use super::sql::{self, BATCH_ROWS_MAX, BEGIN_ATTEMPTS_MAX, Index, TableName};
use super::{Begun, Inbox, InboxError, InboxErrorKind, InboxKey, check_key};
use crate::mysql::{self, Transactions};

/// How a clean-up begins: above this level InnoDB would lock the gaps between the records too. Both statements go to
/// the server at once.
const BEGIN_CLEAN_UP: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION";
const DUPLICATE_KEY: u16 = 1062;
/// When a transaction rolls back for which two others wait with the same id, InnoDB gives both a shared lock, and one
/// of them ends as victim of the deadlock ("Locks Set by Different SQL Statements in InnoDB" in MySQL's manual).
const DEADLOCK: u16 = 1213;

/// The inbox in a table of the service's own MySQL or MariaDB database.
///
/// A message's record is inserted at the start of the transaction in which the handler writes, so both commit or
/// neither does. A second delivery that comes while the first is handled waits for it, in the database.
///
/// The transaction has the isolation level of the pool's connections; every level will do. The handler must return the errors that its statements meet, since some of them roll the transaction back, and must
/// use no statement that commits by itself, such as `CREATE TABLE`.
///
/// An open transaction holds one of the pool's connections, and so does one that waits: the pool needs as many as
/// messages are handled at a time, and a handler must work with the transaction that it is given, not with another
/// connection of the same pool. With one more than that the inbox is faster: as long as the pool has a connection for others, it
/// keeps those of its last messages for a tenth of a second for the next ones, with the transaction begun. A handler that is dropped while a statement of its own runs may lose the pool that
/// connection (sqlx 0.8), so limit its statements by the database's own settings.
///
/// ```no_run
/// use outbox_consumer::inbox::{Begun, Inbox as _, InboxKey, MySqlInbox};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::MySqlPool::connect("mysql://shop@127.0.0.1/shop").await?;
/// let inbox = MySqlInbox::new(pool);
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
/// The table holds ids as bytes, so that none are equal but the same: `CONVERT(message_id USING utf8mb4)` shows them.
#[derive(Debug, Clone)]
pub struct MySqlInbox {
    transactions: Transactions,
    table: TableName,
}

impl MySqlInbox {
    /// An inbox in the table `outbox_inbox` of the database that the pool's connections use.
    #[must_use]
    pub fn new(pool: MySqlPool) -> Self {
        Self { transactions: Transactions::new(pool), table: TableName::new(sql::DEFAULT_TABLE, '`') }
    }

    /// Uses another table, `table` or `database.table`, without quotes. Transactions of the handler must be able to
    /// write to it, so it belongs into the same server as the handler's own tables.
    #[must_use]
    pub fn table(mut self, name: &str) -> Self {
        self.table = TableName::new(name, '`');
        self
    }

    /// The statement that makes the table, for who may make it where the service may not.
    #[must_use]
    pub fn definition(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (\n  consumer   VARBINARY(255) NOT NULL,\n  message_id VARBINARY(255) NOT NULL,\n  \
             handled_at DATETIME(6)    NOT NULL,\n  PRIMARY KEY (consumer, message_id),\n  KEY {} (consumer, handled_at)\n\
             ) ENGINE=InnoDB",
            self.table,
            self.table.index("age")
        )
    }

    /// What is wrong with the table; nothing if there is none.
    async fn examine(&self) -> Result<Option<Vec<String>>, sqlx::Error> {
        const OF_TABLE: &str = "WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?";
        let select = async |columns: &str, table: &str, order: &str| {
            let statement =
                format!("SELECT {columns} FROM information_schema.{table} {OF_TABLE} ORDER BY {order}");
            sqlx::query(&statement)
                .bind(&self.table.schema)
                .bind(&self.table.name)
                .fetch_all(self.transactions.pool())
                .await
        };
        let engines = select("CAST(engine AS CHAR)", "tables", "1").await?;
        let Some(engine) = engines.first() else { return Ok(None) };
        let mut problems = Vec::new();
        let engine: Option<String> = engine.try_get(0)?;
        if !engine.as_deref().is_some_and(|engine| engine.eq_ignore_ascii_case("InnoDB")) {
            problems.push(format!("its engine is {}", engine.unwrap_or_else(|| "unknown".to_owned())));
        }
        let mut types = Vec::new();
        for row in select("CAST(column_name AS CHAR), CAST(column_type AS CHAR)", "columns", "1").await? {
            types.push((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
        }
        for (column, of) in
            [("consumer", "varbinary(255)"), ("message_id", "varbinary(255)"), ("handled_at", "datetime(6)")]
        {
            if !types.iter().any(|(name, found)| name == column && found.eq_ignore_ascii_case(of)) {
                problems.push(format!("it has no column `{column}` of type {of}"));
            }
        }
        problems.extend(sql::index_problems(&Self::indexes(
            select(
                "CAST(index_name AS CHAR), CAST(non_unique AS SIGNED), CAST(column_name AS CHAR), sub_part IS NULL",
                "statistics",
                "index_name, seq_in_index",
            )
            .await?,
        )?));
        Ok(Some(problems))
    }

    fn indexes(rows: Vec<sqlx::mysql::MySqlRow>) -> Result<Vec<Index>, sqlx::Error> {
        let mut indexes: Vec<(String, Index)> = Vec::new();
        for row in rows {
            let name: String = row.try_get(0)?;
            // Only an expression has no column.
            let column: Option<String> = row.try_get(2)?;
            let whole = row.try_get::<i64, _>(3)? == 1 && column.is_some();
            let columns = vec![column.unwrap_or_default()];
            match indexes.last_mut().filter(|(last, _)| *last == name) {
                Some((_, index)) => {
                    index.whole &= whole;
                    index.columns.extend(columns);
                }
                None => {
                    indexes.push((name, Index { unique: row.try_get::<i64, _>(1)? == 0, whole, columns }));
                }
            }
        }
        Ok(indexes.into_iter().map(|(_, index)| index).collect())
    }

    /// Does what needs the rights that the inbox needs, without an effect.
    async fn try_rights(&self) -> Result<(), sqlx::Error> {
        let table = &self.table;
        let mut transaction = self.transactions.pool().begin().await?;
        for statement in [
            format!(
                "INSERT INTO {table} (consumer, message_id, handled_at) SELECT consumer, message_id, handled_at FROM \
                 {table} WHERE FALSE"
            ),
            format!("DELETE FROM {table} WHERE FALSE"),
        ] {
            sqlx::query(&statement).execute(&mut *transaction).await?;
        }
        transaction.rollback().await
    }

    async fn try_begin(&self, key: &InboxKey) -> Result<Begun<Transaction<'static, MySql>>, sqlx::Error> {
        if let Some(begun) = self.transactions.take() {
            match self.record(key, begun).await {
                // That connection was lost meanwhile, perhaps with the server; the pool has others or makes them.
                Err(err) if sql::kind(&err, kind_of_code) == InboxErrorKind::Unavailable => {
                    tracing::debug!(error = %err, "a kept connection is of no use any more");
                }
                done => return done,
            }
        }
        self.record(key, self.transactions.begin_anew().await?).await
    }

    /// Inserts a message's record into a transaction in which nothing has happened yet.
    async fn record(
        &self,
        key: &InboxKey,
        mut transaction: Transaction<'static, MySql>,
    ) -> Result<Begun<Transaction<'static, MySql>>, sqlx::Error> {
        // A plain insert: `ON DUPLICATE KEY UPDATE` deadlocks as well and cannot tell what it did, since sqlx asks
        // for found rows; `IGNORE` would hide other errors too.
        let statement = format!(
            "INSERT INTO {} (consumer, message_id, handled_at) VALUES (?, ?, UTC_TIMESTAMP(6))",
            self.table
        );
        let inserted = sqlx::query(&statement)
            .bind(key.consumer.as_bytes())
            .bind(key.message_id.as_bytes())
            .execute(&mut *transaction)
            .await;
        match inserted {
            Ok(_) => Ok(Begun::New(transaction)),
            Err(err) if number(&err) == Some(DUPLICATE_KEY) => {
                // The message is a duplicate whether or not the connection survives the rollback.
                if let Err(err) = transaction.rollback().await {
                    tracing::debug!(error = %err, "cannot roll back the transaction of a duplicate");
                }
                Ok(Begun::Duplicate)
            }
            Err(err) => Err(err),
        }
    }

    async fn begin_key(&self, key: &InboxKey) -> Result<Begun<Transaction<'static, MySql>>, InboxError> {
        let mut attempt = 1;
        loop {
            match self.try_begin(key).await {
                Ok(begun) => return Ok(begun),
                Err(err) if number(&err) == Some(DEADLOCK) && attempt < BEGIN_ATTEMPTS_MAX => attempt += 1,
                Err(err) => {
                    return Err(self.error(&format!("cannot record message `{}`", key.message_id), err));
                }
            }
        }
    }

    async fn commit_key(
        &self,
        key: &InboxKey,
        transaction: Transaction<'static, MySql>,
    ) -> Result<(), InboxError> {
        self.transactions.commit(transaction).await.map_err(|err| {
            if mysql::is_lost(&err) {
                return sql::lost_record(key);
            }
            self.error(&format!("cannot commit the handling of message `{}`", key.message_id), err)
        })
    }

    /// Removes a batch of old records; gives how many were found, and how many of them removed.
    ///
    /// In two steps, since a `DELETE` by age locks what it comes across, also the newest records, and would wait for
    /// every handler at work. The first step reads without locks; the second names its rows.
    async fn remove_batch(
        &self,
        consumer: &str,
        age: Duration,
        limit: u32,
    ) -> Result<(usize, u64), sqlx::Error> {
        const OLD: &str = "consumer = ? AND handled_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND";
        let age = i64::try_from(sql::reckonable(age).as_micros()).unwrap_or(i64::MAX);
        let mut transaction = self.transactions.pool().begin_with(BEGIN_CLEAN_UP).await?;
        let search = format!("SELECT message_id FROM {} WHERE {OLD} ORDER BY handled_at LIMIT ?", self.table);
        let search = sqlx::query_scalar(&search).bind(consumer.as_bytes()).bind(age).bind(limit);
        let found: Vec<Vec<u8>> = search.fetch_all(&mut *transaction).await?;
        if found.is_empty() {
            transaction.rollback().await?;
            return Ok((0, 0));
        }
        let places = vec!["?"; found.len()].join(", ");
        let removal = format!("DELETE FROM {} WHERE {OLD} AND message_id IN ({places})", self.table);
        // Not kept prepared, since the number of places varies.
        let mut removal = sqlx::query(&removal).persistent(false).bind(consumer.as_bytes()).bind(age);
        for message_id in &found {
            removal = removal.bind(message_id);
        }
        let removed = removal.execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok((found.len(), removed))
    }

    async fn remove(&self, consumer: &str, age: Duration, limit: u32) -> Result<u64, InboxError> {
        let mut removed = 0;
        let mut left = limit;
        while left > 0 {
            let batch = left.min(BATCH_ROWS_MAX);
            let (found, gone) = self
                .remove_batch(consumer, age, batch)
                .await
                .map_err(|err| self.error("cannot remove old records", err))?;
            removed += gone;
            left -= batch;
            if u32::try_from(found).is_ok_and(|found| found < batch) {
                break;
            }
        }
        Ok(removed)
    }

    fn error(&self, what: &str, err: sqlx::Error) -> InboxError {
        let kind = sql::kind(&err, kind_of_code);
        InboxError::new(kind, format!("{what} in the inbox's table {}", self.table), Some(Box::new(err)))
    }

    fn right_error(&self, err: sqlx::Error) -> InboxError {
        let kind = sql::kind(&err, kind_of_code);
        let table = &self.table;
        let message = format!(
            "cannot use the inbox's table {table}: the service's user needs `GRANT SELECT, INSERT, DELETE ON {table}`"
        );
        InboxError::new(kind, message, Some(Box::new(err)))
    }
}

impl Inbox for MySqlInbox {
    type Transaction = Transaction<'static, MySql>;

    async fn prepare(&self) -> Result<(), InboxError> {
        const EXAMINING: &str = "cannot look at the columns";
        let mut problems = self.examine().await.map_err(|err| self.error(EXAMINING, err))?;
        if problems.is_none() {
            let definition = self.definition();
            sqlx::raw_sql(&definition).execute(self.transactions.pool()).await.map_err(|err| {
                let kind = sql::kind(&err, kind_of_code);
                let message = format!(
                    "the inbox's table {table} is not there, or not for this user, and cannot be made; an administrator is to \
                     run:\n{definition};\nand to `GRANT SELECT, INSERT, DELETE ON {table}` to the service's user",
                    table = self.table
                );
                InboxError::new(kind, message, Some(Box::new(err)))
            })?;
            problems = self.examine().await.map_err(|err| self.error(EXAMINING, err))?;
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

/// Whether there is a database to write to.
pub(super) async fn probe(pool: &MySqlPool) -> Result<(), InboxError> {
    const READ_ONLY: &str = "SELECT CAST(@@global.read_only AS CHAR) NOT IN ('0', 'OFF')";
    let read_only = sqlx::query_scalar(READ_ONLY).fetch_one(pool).await.map_err(|err| {
        let kind = sql::kind(&err, kind_of_code);
        InboxError::new(kind, "the handlers' database does not answer", Some(Box::new(err)))
    })?;
    if read_only {
        let message = "the handlers' database is read-only, as a replica is until it is promoted";
        return Err(InboxError::new(InboxErrorKind::Unavailable, message, None));
    }
    Ok(())
}

fn number(err: &sqlx::Error) -> Option<u16> {
    Some(err.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

fn kind_of_code(err: &dyn DatabaseError) -> InboxErrorKind {
    err.try_downcast_ref::<MySqlDatabaseError>().map_or(InboxErrorKind::Unusable, |err| kind_of(err.number()))
}

/// The kind of an error by its number. What is not listed is of no use to try again, as far as is known.
///
/// <https://dev.mysql.com/doc/mysql-errors/9.4/en/server-error-reference.html>,
/// <https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference>
fn kind_of(number: u16) -> InboxErrorKind {
    match number {
        // A record that changed meanwhile (MariaDB), lock wait timeout, deadlock, query interrupted, statement timeout
        // (MariaDB and MySQL), refused by group replication at commit.
        1020 | 1205 | DEADLOCK | 1317 | 1969 | 3024 | 3101 => InboxErrorKind::Conflict,
        // Full disk or table, too many connections, a Galera node that is not ready, shutdown, a blocked host.
        1021 | 1040 | 1047 | 1053 | 1079 | 1080 | 1114 | 1129 => InboxErrorKind::Unavailable,
        // Network errors, an aborted or killed connection, limits of the user, the table of locks full.
        1152 | 1158..=1161 | 1184 | 1203 | 1206 | 1226 | 1927 | 3169 | 4031 => InboxErrorKind::Unavailable,
        // Read-only, as a replica is until it is promoted; offline; group replication without a majority.
        1290 | 1792 | 1836 | 3032 | 3100 | 3168 => InboxErrorKind::Unavailable,
        _ => InboxErrorKind::Unusable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_kind() {
        let cases = [
            (1205, InboxErrorKind::Conflict),
            (1213, InboxErrorKind::Conflict),
            (3101, InboxErrorKind::Conflict),
            (1040, InboxErrorKind::Unavailable),
            (1053, InboxErrorKind::Unavailable),
            (1160, InboxErrorKind::Unavailable),
            (1290, InboxErrorKind::Unavailable),
            (1836, InboxErrorKind::Unavailable),
            (4031, InboxErrorKind::Unavailable),
            // No such table, no right, no access, no such column, and one that no server has.
            (1146, InboxErrorKind::Unusable),
            (1142, InboxErrorKind::Unusable),
            (1045, InboxErrorKind::Unusable),
            (1054, InboxErrorKind::Unusable),
            (65_000, InboxErrorKind::Unusable),
        ];
        for (number, kind) in cases {
            assert_eq!(kind_of(number), kind, "{number}");
        }
    }
}
