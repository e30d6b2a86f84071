//! A coordinator in MySQL, a participant in MySQL over HTTP, and one in Postgres over NATS.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_saga::barrier::Barrier;
use outbox_saga::tcc::http::HttpEndpoint;
use outbox_saga::tcc::nats::{NatsEndpoint, serve};
use outbox_saga::tcc::{
    Answer, BranchError, Call, CallError, Coordinator, CoordinatorBuilder, Endpoint, Limits, NewTransaction,
    Operation, Participant, ParticipantService, http,
};
use serde_json::{Value, json};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::postgres::PgPoolOptions;
use sqlx::{MySqlPool, PgPool, Transaction};
use testbed::{Flavour, MySql, Nats, Postgres, eventually};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// What there is at first, of each.
pub(crate) const AMOUNT: i64 = 1000;

/// Limits for tests: everything soon.
pub(crate) fn limits() -> Limits {
    Limits {
        try_limit: Duration::from_secs(3),
        call_limit: Duration::from_secs(2),
        retry_initial: Duration::from_millis(20),
        retry_max: Duration::from_millis(100),
        lease: Duration::from_secs(3),
        recovery_interval: Duration::from_millis(50),
        attempts_max: 1000,
        ..Limits::default()
    }
}

/// Stock in MySQL.
pub(crate) struct Stock;

impl Participant for Stock {
    type Database = sqlx::MySql;
    type Payload = i64;

    async fn try_(&self, tx: &mut Transaction<'_, sqlx::MySql>, count: &i64) -> Result<Value, BranchError> {
        // Written before it is refused, so that a refusal has something to take back.
        sqlx::query("UPDATE stock SET free = free - ?, locked = locked + ?")
            .bind(count)
            .bind(count)
            .execute(&mut **tx)
            .await?;
        let free: i64 = sqlx::query_scalar("SELECT free FROM stock").fetch_one(&mut **tx).await?;
        if free < 0 {
            return Err(BranchError::refused("sold out"));
        }
        Ok(json!({"locked": count}))
    }

    async fn confirm(&self, tx: &mut Transaction<'_, sqlx::MySql>, count: &i64) -> Result<(), BranchError> {
        let update = sqlx::query("UPDATE stock SET locked = locked - ?, sold = sold + ?");
        update.bind(count).bind(count).execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, sqlx::MySql>, count: &i64) -> Result<(), BranchError> {
        let update = sqlx::query("UPDATE stock SET locked = locked - ?, free = free + ?");
        update.bind(count).bind(count).execute(&mut **tx).await?;
        Ok(())
    }
}

/// Money in Postgres.
pub(crate) struct Money;

impl Participant for Money {
    type Database = sqlx::Postgres;
    type Payload = i64;

    async fn try_(
        &self,
        tx: &mut Transaction<'_, sqlx::Postgres>,
        cents: &i64,
    ) -> Result<Value, BranchError> {
        let update = "UPDATE money SET free = free - $1, locked = locked + $1 WHERE free >= $1";
        if sqlx::query(update).bind(cents).execute(&mut **tx).await?.rows_affected() == 0 {
            return Err(BranchError::refused("no money"));
        }
        Ok(json!({"held": cents}))
    }

    async fn confirm(
        &self,
        tx: &mut Transaction<'_, sqlx::Postgres>,
        cents: &i64,
    ) -> Result<(), BranchError> {
        let update = sqlx::query("UPDATE money SET locked = locked - $1, sold = sold + $1");
        update.bind(cents).execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, sqlx::Postgres>, cents: &i64) -> Result<(), BranchError> {
        let update = sqlx::query("UPDATE money SET locked = locked - $1, free = free + $1");
        update.bind(cents).execute(&mut **tx).await?;
        Ok(())
    }
}

/// What a test does to calls.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    /// No confirm or cancel arrives.
    pub(crate) away: AtomicBool,
    /// A call of this operation never comes back, though it arrives: 1 try, 2 confirm, 3 cancel.
    pub(crate) hangs: AtomicU64,
    pub(crate) hanging: AtomicBool,
    /// Every so many calls are lost before, lost after, or made twice.
    pub(crate) faults: AtomicBool,
    calls: AtomicU64,
    /// How many tries were called.
    pub(crate) tries: AtomicU64,
    /// The trace of the last call.
    pub(crate) trace: Mutex<Option<String>>,
}

impl Switch {
    pub(crate) fn hang_at(&self, operation: Operation) {
        self.hangs.store(number(operation), Ordering::SeqCst);
    }
}

fn number(operation: Operation) -> u64 {
    match operation {
        Operation::Try => 1,
        Operation::Confirm => 2,
        Operation::Cancel => 3,
    }
}

/// An endpoint that can be switched off.
pub(crate) struct Switched<E> {
    pub(crate) inner: E,
    pub(crate) switch: Arc<Switch>,
}

impl<E: Endpoint> Endpoint for Switched<E> {
    async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let switch = &self.switch;
        *switch.trace.lock().map_err(|_| CallError::new("poisoned"))? = call.traceparent.clone();
        if call.operation == Operation::Try {
            switch.tries.fetch_add(1, Ordering::SeqCst);
        }
        if switch.away.load(Ordering::SeqCst) && call.operation != Operation::Try {
            return Err(CallError::new("switched off"));
        }
        let answer = self.inner.call(call).await;
        if switch.hangs.load(Ordering::SeqCst) == number(call.operation) {
            switch.hanging.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        if !switch.faults.load(Ordering::SeqCst) {
            return answer;
        }
        match switch.calls.fetch_add(1, Ordering::SeqCst) % 11 {
            3 => Err(CallError::new("the answer was lost")),
            5 => self.inner.call(call).await,
            _ => answer,
        }
    }
}

pub(crate) struct Bed {
    pub(crate) mysql: MySql,
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    pub(crate) pool: MySqlPool,
    pub(crate) money: PgPool,
    pub(crate) stock_switch: Arc<Switch>,
    pub(crate) money_switch: Arc<Switch>,
    pub(crate) http: String,
    _stop: DropGuard,
}

impl Bed {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(Flavour::MySql).await
    }

    pub(crate) async fn start_with(flavour: Flavour) -> Result<Self> {
        let (mysql, postgres, nats) = tokio::try_join!(
            MySql::builder_of(flavour).start(),
            Postgres::builder().start(),
            Nats::builder().start()
        )?;
        mysql
            .exec(&format!(
                "CREATE DATABASE shop; CREATE TABLE shop.stock (free BIGINT, locked BIGINT, sold BIGINT); \
                 INSERT INTO shop.stock VALUES ({AMOUNT}, 0, 0)"
            ))
            .await?;
        postgres.exec("CREATE TABLE money (free bigint, locked bigint, sold bigint)").await?;
        postgres.exec(&format!("INSERT INTO money VALUES ({AMOUNT}, 0, 0)")).await?;
        let options = MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(mysql.port())
            .username("root")
            .database("shop")
            .ssl_mode(MySqlSslMode::Disabled);
        let pool = MySqlPoolOptions::new().max_connections(20).connect_lazy_with(options);
        let money = PgPoolOptions::new().max_connections(20).connect_lazy_with(postgres.root_options());

        let stop = CancellationToken::new();
        let stock = ParticipantService::new(Stock, pool.clone(), Barrier::new("saga_barrier")).await?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let http = format!("http://{}/tcc", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, http::router("/tcc", stock)).await });
        let service = ParticipantService::new(Money, money.clone(), Barrier::new("saga_barrier")).await?;
        let client = nats.client().await?;
        tokio::spawn(serve(client, "tcc.money", "money", service, stop.clone()));
        Ok(Self {
            mysql,
            postgres,
            nats,
            pool,
            money,
            stock_switch: Arc::default(),
            money_switch: Arc::default(),
            http,
            _stop: stop.drop_guard(),
        })
    }

    pub(crate) async fn stock_service(&self) -> Result<ParticipantService<Stock>> {
        Ok(ParticipantService::new(Stock, self.pool.clone(), Barrier::new("saga_barrier")).await?)
    }

    pub(crate) async fn money_service(&self) -> Result<ParticipantService<Money>> {
        Ok(ParticipantService::new(Money, self.money.clone(), Barrier::new("saga_barrier")).await?)
    }

    /// A coordinator as another process would have it.
    pub(crate) async fn builder(&self) -> Result<CoordinatorBuilder> {
        let stock =
            Switched { inner: HttpEndpoint::new(&self.http)?, switch: Arc::clone(&self.stock_switch) };
        let money = NatsEndpoint::new(self.nats.client().await?, "tcc.money");
        let money = Switched { inner: money, switch: Arc::clone(&self.money_switch) };
        let builder = Coordinator::builder(self.pool.clone()).limits(limits());
        Ok(builder.endpoint("inventory", stock).endpoint("payment", money))
    }

    pub(crate) async fn coordinator(&self) -> Result<Coordinator> {
        Ok(self.builder().await?.build().await?)
    }

    /// Free, locked and sold, of stock and of money.
    pub(crate) async fn amounts(&self) -> Result<[(i64, i64, i64); 2]> {
        let stock = sqlx::query_as("SELECT free, locked, sold FROM stock").fetch_one(&self.pool).await?;
        let money = sqlx::query_as("SELECT free, locked, sold FROM money").fetch_one(&self.money).await?;
        Ok([stock, money])
    }

    pub(crate) async fn status(&self, id: &str) -> Result<String> {
        let query = sqlx::query_scalar("SELECT status FROM tcc_transactions WHERE id = ?");
        Ok(query.bind(id).fetch_one(&self.pool).await?)
    }

    pub(crate) async fn until(&self, id: &str, status: &str) -> Result<()> {
        eventually(&format!("transaction {id} to be {status}"), LIMIT, async || {
            let found = self.status(id).await.unwrap_or_default();
            Ok((found == status).then_some(()))
        })
        .await
        .with_context(|| format!("its log: {}", self.mysql.port()))
    }

    /// The trace that is stored with a transaction.
    pub(crate) async fn traceparent(&self, id: &str) -> Result<Option<String>> {
        let query = sqlx::query_scalar("SELECT traceparent FROM tcc_transactions WHERE id = ?");
        Ok(query.bind(id).fetch_one(&self.pool).await?)
    }

    /// The branches' states and errors.
    pub(crate) async fn branches(&self, id: &str) -> Result<Vec<(String, Option<String>)>> {
        let query = sqlx::query_as(
            "SELECT status, error FROM tcc_branches WHERE transaction_id = ? ORDER BY position",
        );
        Ok(query.bind(id).fetch_all(&self.pool).await?)
    }

    /// The history in words.
    pub(crate) async fn history(&self, id: &str) -> Result<Vec<String>> {
        let query = sqlx::query_scalar(
            "SELECT CAST(CONCAT_WS(' ', branch, COALESCE(from_status, '-'), to_status) AS CHAR) FROM tcc_history \
             WHERE transaction_id = ? ORDER BY seq",
        );
        Ok(query.bind(id).fetch_all(&self.pool).await?)
    }
}

/// Two branches, each of this amount.
pub(crate) fn transaction(id: &str, count: i64, cents: i64) -> NewTransaction {
    NewTransaction::new(id, "order").branch("stock", "inventory", count).branch("money", "payment", cents)
}
