//! The databases that the same tests run on.

use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use outbox_saga::barrier::{Barrier, BarrierDatabase, BarrierKey, Operation};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::postgres::PgPoolOptions;
use sqlx::{MySqlPool, PgPool, Pool, Transaction};
use testbed::{Flavour, MySql, Postgres};

/// How long a pool waits for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(20);
pub(crate) const CONNECTIONS: u32 = 16;

/// The isolation levels that services use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadCommitted,
    RepeatableRead,
}

impl Isolation {
    pub(crate) const BOTH: [Self; 2] = [Self::ReadCommitted, Self::RepeatableRead];

    fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
        }
    }
}

/// A server with a table `effects`, in which participants write what they did.
pub(crate) trait Bed: Sized + Send + Sync + 'static {
    type Db: BarrierDatabase;

    /// Above the level read committed, a call that has waited for another one is told to begin again.
    const WAITING_MAY_CONFLICT: bool;
    /// The statement that makes all rows a day older.
    const DAY_OLDER: &'static str;

    async fn start() -> Result<Self>;
    fn pool(&self, user: &str, isolation: Isolation) -> Pool<Self::Db>;
    async fn exec(&self, sql: &str) -> Result<()>;
    async fn create_user(&self, name: &str) -> Result<()>;
    /// How many transactions wait for a lock.
    async fn waiting(pool: &Pool<Self::Db>) -> Result<i64>;
    /// A participant's own write.
    fn effect(
        tx: &mut Transaction<'static, Self::Db>,
        key: &BarrierKey,
        operation: Operation,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// What was done for a key, in order.
    async fn effects(pool: &Pool<Self::Db>, key: &BarrierKey) -> Result<Vec<String>>;
    async fn state(pool: &Pool<Self::Db>, key: &BarrierKey) -> Result<Option<String>>;
    async fn run(tx: &mut Transaction<'static, Self::Db>, sql: &str) -> Result<(), sqlx::Error>;

    async fn ready(isolation: Isolation) -> Result<(Self, Pool<Self::Db>, Barrier<Self::Db>)> {
        let bed = Self::start().await?;
        let pool = bed.pool("root", isolation);
        let barrier = Barrier::new("saga_barrier");
        barrier.prepare(&pool).await?;
        Ok((bed, pool, barrier))
    }
}

/// MySQL, or MariaDB.
#[derive(Debug)]
pub(crate) struct MySqlBed<const MARIADB: bool>(MySql);

impl<const MARIADB: bool> Bed for MySqlBed<MARIADB> {
    type Db = sqlx::MySql;

    const WAITING_MAY_CONFLICT: bool = false;
    const DAY_OLDER: &'static str = "UPDATE saga_barrier SET updated_at = updated_at - INTERVAL 1 DAY";

    async fn start() -> Result<Self> {
        let flavour = if MARIADB { Flavour::MariaDb } else { Flavour::MySql };
        let server = MySql::builder_of(flavour).start().await?;
        let tables = "CREATE DATABASE shop; CREATE TABLE shop.effects \
             (seq INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100), operation VARCHAR(10)) ENGINE=InnoDB";
        server.exec(tables).await?;
        Ok(Self(server))
    }

    fn pool(&self, user: &str, isolation: Isolation) -> MySqlPool {
        let options = MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(self.0.port())
            .username(user)
            .database("shop")
            .ssl_mode(MySqlSslMode::Disabled);
        let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_LIMIT);
        pool.after_connect(move |conn, _| {
            Box::pin(async move {
                let set = format!("SET SESSION TRANSACTION ISOLATION LEVEL {}", isolation.sql());
                sqlx::query(&set).execute(conn).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options)
    }

    async fn exec(&self, sql: &str) -> Result<()> {
        self.0.exec(&format!("USE shop; {sql}")).await
    }

    async fn create_user(&self, name: &str) -> Result<()> {
        self.0.create_user(name, "", "SELECT ON shop.effects").await
    }

    async fn waiting(pool: &MySqlPool) -> Result<i64> {
        // Not INNODB_TRX, which shows nothing new as long as it is asked every now and then.
        let place =
            if MARIADB { "information_schema.GLOBAL_STATUS" } else { "performance_schema.global_status" };
        let query = format!(
            "SELECT CAST(VARIABLE_VALUE AS SIGNED) FROM {place} \
             WHERE VARIABLE_NAME = 'Innodb_row_lock_current_waits'"
        );
        Ok(sqlx::query_scalar(&query).fetch_one(pool).await?)
    }

    async fn effect(
        tx: &mut Transaction<'static, sqlx::MySql>,
        key: &BarrierKey,
        operation: Operation,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO effects (name, operation) VALUES (?, ?)")
            .bind(&key.transaction)
            .bind(operation.to_string())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn effects(pool: &MySqlPool, key: &BarrierKey) -> Result<Vec<String>> {
        let query = sqlx::query_scalar("SELECT operation FROM effects WHERE name = ? ORDER BY seq");
        Ok(query.bind(&key.transaction).fetch_all(pool).await?)
    }

    async fn state(pool: &MySqlPool, key: &BarrierKey) -> Result<Option<String>> {
        let query = sqlx::query_scalar("SELECT state FROM saga_barrier WHERE transaction_id = ?");
        Ok(query.bind(&key.transaction).fetch_optional(pool).await?)
    }

    async fn run(tx: &mut Transaction<'static, sqlx::MySql>, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut **tx).await?;
        Ok(())
    }
}

/// Postgres.
#[derive(Debug)]
pub(crate) struct PostgresBed(Postgres);

impl Bed for PostgresBed {
    type Db = sqlx::Postgres;

    const WAITING_MAY_CONFLICT: bool = true;
    const DAY_OLDER: &'static str = "UPDATE saga_barrier SET updated_at = updated_at - interval '1 day'";

    async fn start() -> Result<Self> {
        let server = Postgres::builder().start().await?;
        server.exec("CREATE TABLE effects (seq serial PRIMARY KEY, name text, operation text)").await?;
        Ok(Self(server))
    }

    fn pool(&self, user: &str, isolation: Isolation) -> PgPool {
        let user = if user == "root" { "postgres" } else { user };
        let level = isolation.sql().to_lowercase().replace(' ', "\\ ");
        let options =
            self.0.root_options().username(user).options([("default_transaction_isolation", level.as_str())]);
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_LIMIT);
        pool.connect_lazy_with(options)
    }

    async fn exec(&self, sql: &str) -> Result<()> {
        self.0.exec(sql).await
    }

    async fn create_user(&self, name: &str) -> Result<()> {
        self.0.create_user(name, "SELECT ON effects").await
    }

    async fn waiting(pool: &PgPool) -> Result<i64> {
        let query = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        Ok(sqlx::query_scalar(query).fetch_one(pool).await?)
    }

    async fn effect(
        tx: &mut Transaction<'static, sqlx::Postgres>,
        key: &BarrierKey,
        operation: Operation,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO effects (name, operation) VALUES ($1, $2)")
            .bind(&key.transaction)
            .bind(operation.to_string())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn effects(pool: &PgPool, key: &BarrierKey) -> Result<Vec<String>> {
        let query = sqlx::query_scalar("SELECT operation FROM effects WHERE name = $1 ORDER BY seq");
        Ok(query.bind(&key.transaction).fetch_all(pool).await?)
    }

    async fn state(pool: &PgPool, key: &BarrierKey) -> Result<Option<String>> {
        let query = sqlx::query_scalar("SELECT state FROM saga_barrier WHERE transaction_id = $1");
        Ok(query.bind(&key.transaction).fetch_optional(pool).await?)
    }

    async fn run(tx: &mut Transaction<'static, sqlx::Postgres>, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut **tx).await?;
        Ok(())
    }
}
