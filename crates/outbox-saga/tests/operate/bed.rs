//! A database with sagas and transactions whose participants are away, an orchestrator, a coordinator, and the command.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_producer::{NewEvent, Outbox};
use outbox_saga::saga::{Orchestrator, Retry, Saga, StepBuilder};
use outbox_saga::tcc::{Answer, Call, CallError, Coordinator, Endpoint, Limits, NewTransaction, Operation};
use serde_json::{Value, json};
use sqlx::MySqlPool;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use testbed::{Flavour, MySql, eventually};
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);
/// Shown wherever an id, a name or an error is.
pub(crate) const HOSTILE: &str = "<script>alert('1')</script>/\"%&";
const HOSTILE_REASON: &str = "<script>alert('1')</script>\u{1b}[2Jä";
const OUTBOX: &str = "CREATE TABLE outbox (
    seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, id BINARY(16) NOT NULL UNIQUE,
    aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL,
    payload JSON NOT NULL, headers JSON NULL, created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))";

pub(crate) struct Bed {
    pub(crate) pool: MySqlPool,
    pub(crate) database: MySql,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// What the command gave.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Given {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }
}

/// Tries are accepted, or refused with this text; a confirm and a cancel come to nothing where somebody is `away`.
struct Participant {
    refusal: Option<&'static str>,
    away: bool,
}

impl Endpoint for Participant {
    async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        match (call.operation, self.refusal) {
            (Operation::Try, Some(reason)) => Ok(Answer::Refused(reason.to_owned())),
            (Operation::Confirm | Operation::Cancel, _) if self.away => {
                Err(CallError::new("nobody is there"))
            }
            _ => Ok(Answer::Accepted(json!({}))),
        }
    }
}

fn event(event_type: &str) -> Result<NewEvent, outbox_producer::Error> {
    NewEvent::json("order", "1", event_type, &json!({}))
}

const SOON: Duration = Duration::from_millis(50);

/// Sent once, and given up soon.
fn impatient(step: StepBuilder<Value>, compensable: bool) -> StepBuilder<Value> {
    let once = Retry::attempts(1).delays(SOON, SOON);
    let step = step.command(|_| event("Do")).timeout(SOON).retry(once);
    if compensable { step.compensation(|_| event("Undo")).compensation_retry(once) } else { step }
}

/// Its first two steps are undone when nobody answers, and that is stuck.
fn place_order() -> Saga<Value> {
    Saga::named("place-order")
        .parallel(|group| {
            group.step("reserve", |step| impatient(step, true)).step("hold", |step| impatient(step, true))
        })
        .pivot("pay", |step| impatient(step, false))
        .build()
        .expect("a saga")
}

/// Its pivot cannot be undone: it is stuck when nobody answers.
fn pay_first() -> Saga<Value> {
    Saga::named("pay-first")
        .pivot("pay", |step| impatient(step, false))
        .step("ship", |step| impatient(step, false))
        .build()
        .expect("a saga")
}

/// Waits for its answer for long.
fn slow() -> Saga<Value> {
    Saga::named("slow")
        .step("wait", |step| step.command(|_| event("Do")).compensation(|_| event("Undo")).timeout(PATIENCE))
        .pivot("end", |step| impatient(step, false))
        .build()
        .expect("a saga")
}

impl Bed {
    /// An empty database, with tables.
    pub(crate) async fn start(flavour: Flavour) -> Result<Self> {
        let database = MySql::builder_of(flavour).relaxed_durability().start().await?;
        database.exec("CREATE DATABASE shop CHARACTER SET utf8mb4; CREATE DATABASE bare").await?;
        let options = MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(database.port())
            .username("root")
            .database("shop")
            .ssl_mode(MySqlSslMode::Disabled);
        let pool = MySqlPool::connect_with(options).await?;
        sqlx::query(OUTBOX).execute(&pool).await?;
        let orchestrator = Orchestrator::new(pool.clone(), Outbox::default());
        let orchestrator = orchestrator.with(&place_order()).with(&pay_first()).with(&slow());
        orchestrator.prepare().await?;
        let (soon, call_limit) = (Duration::from_millis(20), Duration::from_secs(6));
        let limits = Limits {
            try_limit: Duration::from_secs(3),
            call_limit,
            lease: call_limit * 2,
            retry_initial: soon,
            retry_max: soon,
            recovery_interval: soon,
            attempts_max: 2,
            ..Limits::default()
        };
        let coordinator = Coordinator::builder(pool.clone())
            .endpoint("good", Participant { refusal: None, away: false })
            .endpoint("away", Participant { refusal: None, away: true })
            .endpoint("poor", Participant { refusal: Some("no money"), away: false })
            .limits(limits)
            .build()
            .await?;
        let stop = CancellationToken::new();
        tokio::spawn({
            let (orchestrator, stop) = (orchestrator.clone(), stop.clone());
            async move { orchestrator.run(stop).await }
        });
        tokio::spawn({
            let (coordinator, stop) = (coordinator.clone(), stop.clone());
            async move { coordinator.run(stop).await }
        });
        let mut tx = pool.begin().await?;
        orchestrator.start(&mut tx, &slow(), "running", &json!({"card": "secret-4711"})).await?;
        orchestrator.start(&mut tx, &slow(), "both", &json!({})).await?;
        orchestrator.start(&mut tx, &place_order(), "undoing", &json!({})).await?;
        orchestrator.start(&mut tx, &pay_first(), "forward", &json!({})).await?;
        orchestrator.start(&mut tx, &slow(), HOSTILE, &json!({})).await?;
        orchestrator.cancel(&mut tx, HOSTILE, HOSTILE_REASON).await?;
        tx.commit().await?;
        for (id, endpoint) in
            [("confirmed", "good"), ("cancelled", "poor"), ("away", "away"), ("both", "good")]
        {
            let transaction =
                NewTransaction::new(id, "order").branch("stock", "good", json!({"card": "secret-4711"}));
            coordinator.execute(transaction.branch("money", endpoint, json!({}))).await?;
        }
        let bed = Self { pool, database, stop: stop.clone(), _guard: stop.drop_guard() };
        for (id, kind) in [("undoing", "saga"), ("forward", "saga"), ("away", "tcc")] {
            bed.await_status(kind, id, "stuck").await?;
        }
        Ok(bed)
    }

    /// Ends orchestrator and coordinator, so that nothing changes any more.
    pub(crate) fn rest(&self) {
        self.stop.cancel();
    }

    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}/{database}?ssl-mode=DISABLED", self.database.port())
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-saga"));
        command.env("OUTBOX_SAGA_URL", self.url("root", "shop")).env_remove("OUTBOX_SAGA_PASSWORD");
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs the command.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Given> {
        run(self.command().args(arguments)).await
    }

    pub(crate) async fn await_status(&self, kind: &str, id: &str, status: &str) -> Result<()> {
        let table = if kind == "saga" { "saga_instances" } else { "tcc_transactions" };
        let statement = format!("SELECT CAST(status AS CHAR) FROM {table} WHERE id = ?");
        eventually(&format!("{kind} {id} to be {status}"), PATIENCE, async || {
            let found: String = sqlx::query_scalar(&statement).bind(id).fetch_one(&self.pool).await?;
            Ok((found == status).then_some(()))
        })
        .await
    }
}

pub(crate) async fn run(command: &mut Command) -> Result<Given> {
    let output =
        tokio::time::timeout(PATIENCE, command.output()).await.context("the command does not end")??;
    Ok(Given {
        code: output.status.code().context("it was killed")?,
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}
