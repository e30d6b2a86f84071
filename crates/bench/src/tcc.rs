//! TCC transactions of two branches over HTTP, from the caller's question to its answer.
//!
//! Coordinator, participants and callers share this process's one thread, and all have MySQL as store; a call goes over a
//! socket all the same.

use std::sync::Arc;

use anyhow::{Result, ensure};
use axum::http::StatusCode;
use axum::routing::post;
use outbox_saga::barrier::Barrier;
use outbox_saga::tcc::http::{self, HttpEndpoint};
use outbox_saga::tcc::{BranchError, Coordinator, NewTransaction, Participant, ParticipantService};
use serde_json::Value;
use sqlx::{MySql, MySqlPool, Transaction};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::field::Field;
use crate::latency::milliseconds;
use crate::report::{Measurement, Target, Unit};
use crate::sagas::{dtm, fill, name, pool, row_of, run};
use crate::{Scale, load, progress};

pub(crate) const GROUP: &str = "tcc";

/// Callers at a time.
const CONCURRENCY: u32 = 16;
/// A transaction's coordinator or both its participants have a connection.
const CONNECTIONS: u32 = 2 * CONCURRENCY + 4;
/// A participant of one table: what is to be reserved, made use of, and given back.
#[derive(Debug, Clone, Copy)]
struct Branch {
    name: &'static str,
    try_: &'static str,
    confirm: &'static str,
    cancel: &'static str,
}

const BRANCHES: [Branch; 2] = [
    Branch {
        name: "stock",
        try_: "UPDATE shop.stock SET free = free - 1, taken = taken + 1 WHERE id = ? AND free > 0",
        confirm: "UPDATE shop.stock SET taken = taken - 1 WHERE id = ?",
        cancel: "UPDATE shop.stock SET free = free + 1, taken = taken - 1 WHERE id = ?",
    },
    Branch {
        name: "payment",
        try_: "UPDATE shop.accounts SET cents = cents - 100, held = held + 100 WHERE id = ? AND cents >= 100",
        confirm: "UPDATE shop.accounts SET held = held - 100 WHERE id = ?",
        cancel: "UPDATE shop.accounts SET cents = cents + 100, held = held - 100 WHERE id = ?",
    },
];

impl Branch {
    async fn update(
        tx: &mut Transaction<'_, MySql>,
        statement: &'static str,
        row: u64,
    ) -> Result<u64, BranchError> {
        Ok(sqlx::query(statement).bind(row).execute(&mut **tx).await?.rows_affected())
    }
}

impl Participant for Branch {
    type Database = MySql;
    /// The row.
    type Payload = u64;

    async fn try_(&self, tx: &mut Transaction<'_, MySql>, row: &u64) -> Result<Value, BranchError> {
        match Self::update(tx, self.try_, *row).await? {
            0 => Err(BranchError::refused("there is nothing left")),
            _ => Ok(Value::Null),
        }
    }

    async fn confirm(&self, tx: &mut Transaction<'_, MySql>, row: &u64) -> Result<(), BranchError> {
        Self::update(tx, self.confirm, *row).await.map(|_| ())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, MySql>, row: &u64) -> Result<(), BranchError> {
        Self::update(tx, self.cancel, *row).await.map(|_| ())
    }
}

pub(crate) async fn measure(scale: &Scale) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for durable in [false, true] {
        let field = Field::services(1, durable).await?;
        fill(&field).await?;
        for business in [false, true] {
            all.extend(kind(&field, scale, durable, business).await?);
        }
    }
    Ok(all)
}

async fn kind(field: &Field, scale: &Scale, durable: bool, business: bool) -> Result<Vec<Measurement>> {
    let mut rate = Measurement::new(GROUP, name("two branches", durable, business), Unit::PerSecond)
        .target(Target::AtLeast(dtm(business)));
    let new = |quantile: &str| {
        let what = format!("call to answer at {}/s, {quantile}", scale.transaction_rate);
        Measurement::new(GROUP, name(&what, durable, business), Unit::Milliseconds)
    };
    let (mut p50, mut p99) = (new("p50"), new("p99"));
    let pool = pool(field, CONNECTIONS).await?;
    let stop = CancellationToken::new();
    let coordinator = coordinator(&pool, business, &stop).await?;
    for round in 0..scale.rounds {
        progress(&format!("{}, round {}", name("TCC", durable, business), round + 1));
        let elapsed = load::closed(scale.transactions, u64::from(CONCURRENCY), caller(&coordinator)).await?;
        rate.add(scale.transactions as f64 / elapsed.as_secs_f64());
        let (per_second, count) = (scale.transaction_rate, scale.transaction_rate * scale.seconds);
        let answers = load::open(per_second, count, caller(&coordinator)).await?;
        p50.add(milliseconds(&answers, 0.5));
        p99.add(milliseconds(&answers, 0.99));
    }
    stop.cancel();
    Ok(vec![rate, p50, p99])
}

/// A coordinator whose participants listen until `stop`.
async fn coordinator(pool: &MySqlPool, business: bool, stop: &CancellationToken) -> Result<Arc<Coordinator>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut routes = axum::Router::new();
    let mut coordinator = Coordinator::builder(pool.clone());
    for branch in BRANCHES {
        let path = format!("/{}", branch.name);
        coordinator =
            coordinator.endpoint(branch.name, HttpEndpoint::new(&format!("http://{address}{path}"))?);
        routes = if business {
            let barrier = Barrier::new("tcc_barrier");
            routes.merge(http::router(&path, ParticipantService::new(branch, pool.clone(), barrier).await?))
        } else {
            routes.route(&path, post(async || StatusCode::OK))
        };
    }
    let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::spawn(async move { serving.await });
    Ok(Arc::new(coordinator.build().await?))
}

/// What carries out the transaction of each number.
fn caller(
    coordinator: &Arc<Coordinator>,
) -> impl Fn(u64) -> futures_util::future::BoxFuture<'static, Result<()>> + Clone + use<> {
    let (coordinator, run) = (coordinator.clone(), run());
    move |number| {
        let (coordinator, id) = (coordinator.clone(), format!("{run}-{number}"));
        Box::pin(async move {
            let row = row_of(&id);
            let mut new = NewTransaction::new(id, "place-order");
            for branch in BRANCHES {
                new = new.branch(branch.name, branch.name, row);
            }
            let outcome = coordinator.execute(new).await?;
            ensure!(outcome.is_confirmed(), "{outcome:?}");
            Ok(())
        })
    }
}
