//! The shop: orders and their events, written in one transaction each.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, TxOpts};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};
use uuid::Uuid;

/// The shop's own table.
pub(super) const TABLE: &str = "\
CREATE TABLE shop.orders (
  id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer    VARCHAR(64)     NOT NULL,
  total_cents INT UNSIGNED    NOT NULL,
  status      VARCHAR(16)     NOT NULL
)";

const INSERT_EVENT: &str = "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, type, payload) \
                            VALUES (?, 'order', ?, ?, ?)";
/// One transaction in so many is rolled back.
const ROLLBACK_ONE_IN: u32 = 10;
/// Orders that are on their way at most; when there are as many, none is placed until one is shipped.
const OPEN_MAX: usize = 20;
const CUSTOMERS: [&str; 6] = ["Ada", "Björn", "Chiara", "Dăruța", "Eiríkur", "Фёдор"];

/// What to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// How many events to commit; `None`: until stopped.
    pub(super) events: Option<u64>,
    /// Transactions a second.
    pub(super) rate: u32,
}

/// What was done.
#[derive(Debug)]
pub(super) enum Report {
    /// `COMMIT` is about to be sent.
    Committing { id: Uuid, at: OffsetDateTime },
    /// The server has committed it.
    Committed,
    /// The server has rolled it back.
    RolledBack(Uuid),
}

/// Writes orders over `conn` until the plan is fulfilled or `stop` is true.
pub(super) async fn write(
    conn: Conn,
    plan: Plan,
    reports: mpsc::UnboundedSender<Report>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut shop = Shop { conn, open: VecDeque::new(), reports };
    let mut ticks = ticks(plan.rate);
    let mut committed = 0;
    while plan.events.is_none_or(|events| committed < events) {
        let stopped = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => true,
            _ = ticks.tick() => false,
        };
        if stopped {
            break;
        }
        committed += u64::from(shop.transaction().await?);
    }
    shop.conn.disconnect().await?;
    Ok(())
}

fn ticks(rate: u32) -> Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

#[derive(Debug)]
struct Shop {
    conn: Conn,
    /// Orders that are placed or paid.
    open: VecDeque<Order>,
    reports: mpsc::UnboundedSender<Report>,
}

#[derive(Debug, Clone)]
struct Order {
    id: u64,
    customer: &'static str,
    total_cents: u32,
    status: &'static str,
}

impl Shop {
    /// Places an order or takes one a step further; true if that was committed.
    async fn transaction(&mut self) -> Result<bool> {
        let (advance, roll_back) = {
            let mut random = rand::rng();
            let advance = !self.open.is_empty() && (self.open.len() >= OPEN_MAX || random.random_bool(0.5));
            (advance, random.random_ratio(1, ROLLBACK_ONE_IN))
        };
        let event = Uuid::now_v7();
        let mut transaction = self.conn.start_transaction(TxOpts::default()).await?;
        let order = match self.open.front() {
            Some(oldest) if advance => {
                let status = if oldest.status == "placed" { "paid" } else { "shipped" };
                let update = "UPDATE shop.orders SET status = ? WHERE id = ?";
                transaction.exec_drop(update, (status, oldest.id)).await?;
                Order { status, ..oldest.clone() }
            }
            _ => {
                let order = new_order();
                let insert = "INSERT INTO shop.orders (customer, total_cents, status) VALUES (?, ?, ?)";
                transaction.exec_drop(insert, (order.customer, order.total_cents, order.status)).await?;
                let id = transaction.last_insert_id().context("the server gave the order no number")?;
                Order { id, ..order }
            }
        };
        let row = (event.as_bytes(), order.id.to_string(), order.status, payload(&order).to_string());
        transaction.exec_drop(INSERT_EVENT, row).await?;
        if roll_back {
            transaction.rollback().await?;
            report(&self.reports, Report::RolledBack(event));
            return Ok(false);
        }
        report(&self.reports, Report::Committing { id: event, at: OffsetDateTime::now_utc() });
        transaction.commit().await?;
        report(&self.reports, Report::Committed);
        if advance {
            self.open.pop_front();
        }
        if order.status != "shipped" {
            self.open.push_back(order);
        }
        Ok(true)
    }
}

fn report(reports: &mpsc::UnboundedSender<Report>, report: Report) {
    // Nobody listens any more only when the demo has failed already.
    reports.send(report).unwrap_or_default();
}

fn new_order() -> Order {
    let mut random = rand::rng();
    let customer = CUSTOMERS.choose(&mut random).copied().unwrap_or_default();
    Order { id: 0, customer, total_cents: random.random_range(100..100_000), status: "placed" }
}

fn payload(order: &Order) -> Value {
    let Order { id, customer, total_cents, status } = order;
    json!({ "order": id, "status": status, "customer": customer, "total": f64::from(*total_cents) / 100.0 })
}
