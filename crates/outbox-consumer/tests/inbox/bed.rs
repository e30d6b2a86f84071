//! The databases that the same tests run on.

use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use outbox_consumer::inbox::{Inbox, MySqlInbox, PostgresInbox};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::postgres::PgPoolOptions;
use sqlx::{MySqlPool, PgPool};
use testbed::{Flavour, MySql, Postgres};

/// How long a pool waits for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(20);

/// A server with a table `effects`, and inboxes in it.
pub(crate) trait Bed: Sized + Send + Sync {
    type Inbox: Inbox + Clone;

    const POSTGRES: bool;
    /// The statement's part that makes a record a day older.
    const DAY_OLDER: &'static str;
    /// A setting or statement for all new sessions: give up waiting for a lock after a second.
    const SHORT_LOCK_WAIT: &'static str;
    const READ_ONLY: &'static str;
    /// Counts the transactions that wait for a lock.
    const WAITING: &'static str;
    /// How many records were read so far: by this session, or in Postgres from the inbox's table by all.
    async fn rows_read(inbox: &Self::Inbox) -> Result<i64>;

    async fn start() -> Result<Self>;
    fn inbox_at(&self, user: &str, port: u16, connections: u32) -> Result<Self::Inbox>;
    fn with_table(inbox: Self::Inbox, table: &str) -> Self::Inbox;
    fn definition(inbox: &Self::Inbox) -> String;
    fn port(&self) -> u16;
    async fn exec(&self, sql: &str) -> Result<()>;
    async fn create_user(&self, name: &str) -> Result<()>;
    async fn kill(&mut self) -> Result<()>;
    async fn restart(&mut self) -> Result<()>;
    async fn stop(&mut self) -> Result<()>;
    /// The names of all effects, sorted.
    async fn effects(&self) -> Result<Vec<String>>;
    /// The handler's write.
    fn effect(
        transaction: &mut <Self::Inbox as Inbox>::Transaction,
        name: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Any statement in the handler's transaction.
    async fn run(transaction: &mut <Self::Inbox as Inbox>::Transaction, sql: &str)
    -> Result<(), sqlx::Error>;
    /// A statement outside of transactions, on a connection of the inbox's pool.
    async fn run_in_pool(&self, inbox: &Self::Inbox, sql: &str) -> Result<()>;

    /// How many transactions wait for a lock.
    async fn waiting(inbox: &Self::Inbox) -> Result<i64>;

    /// An inbox with enough connections, made ready.
    async fn inbox(&self) -> Result<Self::Inbox> {
        let inbox = self.inbox_at("root", self.port(), 40)?;
        inbox.prepare().await?;
        Ok(inbox)
    }
}

/// An inbox with its pool, since an inbox does not give its pool away.
#[derive(Debug, Clone)]
pub(crate) struct WithPool<I, P> {
    pub(crate) inbox: I,
    pub(crate) pool: P,
}

impl<I: Inbox, P: std::fmt::Debug + Send + Sync + 'static> Inbox for WithPool<I, P> {
    type Transaction = I::Transaction;

    async fn prepare(&self) -> Result<(), outbox_consumer::inbox::InboxError> {
        self.inbox.prepare().await
    }

    async fn begin(
        &self,
        key: &outbox_consumer::inbox::InboxKey,
    ) -> Result<outbox_consumer::inbox::Begun<Self::Transaction>, outbox_consumer::inbox::InboxError> {
        self.inbox.begin(key).await
    }

    async fn commit(
        &self,
        key: &outbox_consumer::inbox::InboxKey,
        transaction: Self::Transaction,
    ) -> Result<(), outbox_consumer::inbox::InboxError> {
        self.inbox.commit(key, transaction).await
    }

    async fn clean_up(
        &self,
        consumer: &str,
        age: Duration,
        limit: u32,
    ) -> Result<u64, outbox_consumer::inbox::InboxError> {
        self.inbox.clean_up(consumer, age, limit).await
    }
}

/// MySQL, or MariaDB.
#[derive(Debug)]
pub(crate) struct MySqlBed<const MARIADB: bool>(MySql);

impl<const MARIADB: bool> Bed for MySqlBed<MARIADB> {
    type Inbox = WithPool<MySqlInbox, MySqlPool>;

    const POSTGRES: bool = false;
    const DAY_OLDER: &'static str = "handled_at = handled_at - INTERVAL 1 DAY";
    const SHORT_LOCK_WAIT: &'static str = "SET GLOBAL innodb_lock_wait_timeout = 1";
    const READ_ONLY: &'static str = "SET GLOBAL read_only = ON";
    // Not INNODB_TRX, which shows nothing new as long as it is asked every now and then.
    const WAITING: &'static str = if MARIADB {
        "SELECT CAST(VARIABLE_VALUE AS SIGNED) FROM information_schema.GLOBAL_STATUS \
         WHERE VARIABLE_NAME = 'INNODB_ROW_LOCK_CURRENT_WAITS'"
    } else {
        "SELECT CAST(VARIABLE_VALUE AS SIGNED) FROM performance_schema.global_status \
         WHERE VARIABLE_NAME = 'Innodb_row_lock_current_waits'"
    };

    async fn rows_read(inbox: &Self::Inbox) -> Result<i64> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SHOW SESSION STATUS LIKE 'Handler_read%'").fetch_all(&inbox.pool).await?;
        Ok(rows.iter().filter_map(|(_, value)| value.parse::<i64>().ok()).sum())
    }

    async fn waiting(inbox: &Self::Inbox) -> Result<i64> {
        Ok(sqlx::query_scalar(Self::WAITING).fetch_one(&inbox.pool).await?)
    }

    async fn start() -> Result<Self> {
        let flavour = if MARIADB { Flavour::MariaDb } else { Flavour::MySql };
        let server = MySql::builder_of(flavour).start().await?;
        server
            .exec("CREATE DATABASE shop; CREATE TABLE shop.effects (name VARCHAR(300)) ENGINE=InnoDB")
            .await?;
        Ok(Self(server))
    }

    fn inbox_at(&self, user: &str, port: u16, connections: u32) -> Result<Self::Inbox> {
        let options = MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(port)
            .username(user)
            .database("shop")
            .ssl_mode(MySqlSslMode::Disabled);
        let pool = MySqlPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_LIMIT)
            .connect_lazy_with(options);
        Ok(WithPool { inbox: MySqlInbox::new(pool.clone()), pool })
    }

    fn with_table(inbox: Self::Inbox, table: &str) -> Self::Inbox {
        WithPool { inbox: inbox.inbox.table(table), pool: inbox.pool }
    }

    fn definition(inbox: &Self::Inbox) -> String {
        inbox.inbox.definition()
    }

    fn port(&self) -> u16 {
        self.0.port()
    }

    async fn exec(&self, sql: &str) -> Result<()> {
        self.0.exec(&format!("USE shop; {sql}")).await
    }

    async fn create_user(&self, name: &str) -> Result<()> {
        // A right to something, since without any the database may not even be chosen.
        self.0.create_user(name, "", "SELECT ON shop.effects").await
    }

    async fn kill(&mut self) -> Result<()> {
        self.0.kill().await
    }

    async fn restart(&mut self) -> Result<()> {
        self.0.start().await
    }

    async fn stop(&mut self) -> Result<()> {
        self.0.stop().await
    }

    async fn effects(&self) -> Result<Vec<String>> {
        self.0.query("SELECT name FROM shop.effects ORDER BY name").await
    }

    async fn effect(
        transaction: &mut <Self::Inbox as Inbox>::Transaction,
        name: &str,
    ) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO shop.effects (name) VALUES (?)").bind(name);
        insert.execute(&mut **transaction).await?;
        Ok(())
    }

    async fn run(
        transaction: &mut <Self::Inbox as Inbox>::Transaction,
        sql: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut **transaction).await?;
        Ok(())
    }

    async fn run_in_pool(&self, inbox: &Self::Inbox, sql: &str) -> Result<()> {
        sqlx::query(sql).execute(&inbox.pool).await?;
        Ok(())
    }
}

/// Postgres.
#[derive(Debug)]
pub(crate) struct PostgresBed(Postgres);

impl Bed for PostgresBed {
    type Inbox = WithPool<PostgresInbox, PgPool>;

    const POSTGRES: bool = true;
    const DAY_OLDER: &'static str = "handled_at = handled_at - interval '1 day'";
    const SHORT_LOCK_WAIT: &'static str = "ALTER DATABASE postgres SET lock_timeout = '1s'";
    const READ_ONLY: &'static str = "ALTER DATABASE postgres SET default_transaction_read_only = on";
    const WAITING: &'static str = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";

    async fn rows_read(inbox: &Self::Inbox) -> Result<i64> {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&inbox.pool).await?;
        let read = "SELECT (seq_tup_read + COALESCE(idx_tup_fetch, 0))::int8 FROM pg_stat_user_tables \
             WHERE relname = 'outbox_inbox'";
        Ok(sqlx::query_scalar(read).fetch_one(&inbox.pool).await?)
    }

    async fn waiting(inbox: &Self::Inbox) -> Result<i64> {
        Ok(sqlx::query_scalar(Self::WAITING).fetch_one(&inbox.pool).await?)
    }

    async fn start() -> Result<Self> {
        let server = Postgres::builder().start().await?;
        server.exec("CREATE TABLE effects (name text)").await?;
        Ok(Self(server))
    }

    fn inbox_at(&self, user: &str, port: u16, connections: u32) -> Result<Self::Inbox> {
        let user = if user == "root" { "postgres" } else { user };
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_LIMIT)
            .connect_lazy_with(self.0.root_options().username(user).port(port));
        Ok(WithPool { inbox: PostgresInbox::new(pool.clone()), pool })
    }

    fn with_table(inbox: Self::Inbox, table: &str) -> Self::Inbox {
        WithPool { inbox: inbox.inbox.table(table), pool: inbox.pool }
    }

    fn definition(inbox: &Self::Inbox) -> String {
        inbox.inbox.definition()
    }

    fn port(&self) -> u16 {
        self.0.port()
    }

    async fn exec(&self, sql: &str) -> Result<()> {
        self.0.exec(sql).await
    }

    async fn create_user(&self, name: &str) -> Result<()> {
        self.0.create_user(name, "SELECT ON effects").await
    }

    async fn kill(&mut self) -> Result<()> {
        self.0.kill().await
    }

    async fn restart(&mut self) -> Result<()> {
        self.0.start().await
    }

    async fn stop(&mut self) -> Result<()> {
        self.0.stop().await
    }

    async fn effects(&self) -> Result<Vec<String>> {
        let mut conn = self.0.conn().await?;
        Ok(sqlx::query_scalar("SELECT name FROM effects ORDER BY name").fetch_all(&mut conn).await?)
    }

    async fn effect(
        transaction: &mut <Self::Inbox as Inbox>::Transaction,
        name: &str,
    ) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO effects (name) VALUES ($1)").bind(name);
        insert.execute(&mut **transaction).await?;
        Ok(())
    }

    async fn run(
        transaction: &mut <Self::Inbox as Inbox>::Transaction,
        sql: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut **transaction).await?;
        Ok(())
    }

    async fn run_in_pool(&self, inbox: &Self::Inbox, sql: &str) -> Result<()> {
        sqlx::query(sql).execute(&inbox.pool).await?;
        Ok(())
    }
}
