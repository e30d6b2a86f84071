//! The two services that handle the shop's events: `examples/loyalty-points` and `examples/ship-orders`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::{FromRow, Queryable as _};
use tokio::time::{Instant, sleep};

use super::build::Programs;
use super::process::{Process, Program};
use super::setup::{self, World, say};

/// How long the services may make no progress; after kills a part of the messages comes again after some seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How many lines of a list are shown.
const LINES_MAX: usize = 5;

/// Both services, running.
#[derive(Debug)]
pub(super) struct Services<'a> {
    programs: &'a Programs,
    world: &'a World,
    points: Process,
    shipping: Process,
}

impl<'a> Services<'a> {
    pub(super) async fn start(programs: &'a Programs, world: &'a World) -> Result<Self> {
        for schema in ["loyalty", "shipping"] {
            world.create_schema(schema).await?;
        }
        say("loyalty-points");
        let points = Program {
            name: "loyalty-points",
            path: programs.loyalty_points.clone(),
            arguments: Vec::new(),
            variables: variables(world, "loyalty"),
            folder: world.folder.path().to_owned(),
        };
        say("ship-orders run");
        let points = Process::start(points)?;
        let shipping = Process::start(ship_orders(programs, world, &["run"]))?;
        Ok(Self { programs, world, points, shipping })
    }

    pub(super) async fn kill_and_start_again(&mut self) -> Result<()> {
        self.points.kill_and_start_again().await?;
        self.shipping.kill_and_start_again().await
    }

    /// Waits until everything is handled, replays what was given up, compares the effects, and says how it went.
    pub(super) async fn conclude(&mut self) -> Result<()> {
        println!();
        self.settle().await?;
        let letters = ship_orders(self.programs, self.world, &["dead-letters"]).output().await?;
        self.compare_letters(&letters).await?;
        print_lines("ship-orders gave up", &letters);
        if !letters.is_empty() {
            self.shipping.stop().await?;
            self.shipping = Process::start(ship_orders(self.programs, self.world, &["run", "--unicode"]))?;
            println!("ship-orders runs with a printer that knows all letters, and gets them again:");
            print_lines("", &ship_orders(self.programs, self.world, &["replay"]).output().await?);
            self.settle().await?;
            let left = ship_orders(self.programs, self.world, &["dead-letters"]).output().await?;
            ensure!(left.is_empty(), "some letters are left:\n{left}");
        }
        self.compare().await?;
        self.points.stop().await?;
        self.shipping.stop().await
    }

    /// Just the steps of customers whose names the printer does not know were given up: had another one failed, it would
    /// be replayed with them, and nobody would notice.
    async fn compare_letters(&self, letters: &str) -> Result<()> {
        let wanted: Vec<(String, String, String)> = self
            .query(
                "SELECT aggregate_id, type, JSON_UNQUOTE(JSON_EXTRACT(payload, '$.customer')) \
                 FROM shop.outbox WHERE type <> 'placed'",
            )
            .await?;
        let unknown = |customer: &str| customer.chars().any(|letter| letter > '\u{24f}');
        let wanted: BTreeSet<String> = wanted
            .iter()
            .filter(|(.., customer)| unknown(customer))
            .map(|(order, step, _)| format!("order {order}, {step}"))
            .collect();
        let found = letters.lines().filter_map(|line| line.split_once(':')).map(|(step, _)| step.to_owned());
        let (found, lines): (BTreeSet<String>, _) = (found.collect(), letters.lines().count());
        ensure!(
            found == wanted && lines == wanted.len(),
            "{} steps were to be given up, and these were:\n{letters}",
            wanted.len()
        );
        Ok(())
    }

    /// Waits until the services have acknowledged everything.
    async fn settle(&mut self) -> Result<()> {
        let consumers = [
            (setup::STREAM, "loyalty-points"),
            (setup::STREAM, "ship-orders"),
            (setup::DEAD_LETTERS, "ORDERS-ship-orders"),
        ];
        for (stream, consumer) in consumers {
            let (mut last, mut deadline) = (None, Instant::now() + PATIENCE);
            loop {
                let unhandled = self.world.unhandled(stream, consumer).await;
                if unhandled == Some(0) {
                    break;
                }
                if unhandled != last {
                    (last, deadline) = (unhandled, Instant::now() + PATIENCE);
                }
                self.points.check_running()?;
                self.shipping.check_running()?;
                ensure!(
                    Instant::now() < deadline,
                    "{consumer} handles nothing any more; its logs end:\n{}\n{}",
                    self.points.log(),
                    self.shipping.log()
                );
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    async fn compare(&self) -> Result<()> {
        let credited: Vec<(String, i64)> =
            self.query("SELECT customer, points FROM loyalty.points ORDER BY customer").await?;
        let paid: Vec<(String, i64)> = self
            .query(
                "SELECT JSON_UNQUOTE(JSON_EXTRACT(payload, '$.customer')) AS customer, \
                 CAST(SUM(FLOOR(JSON_EXTRACT(payload, '$.total'))) AS SIGNED) \
                 FROM shop.outbox WHERE type = 'paid' GROUP BY customer ORDER BY customer",
            )
            .await?;
        ensure!(sorted(&credited) == sorted(&paid), "{paid:?} were to be credited, and {credited:?} were");
        let points: i64 = credited.iter().map(|(_, points)| points).sum();
        println!(
            "loyalty-points credited {points} points to {} customers: each paid order once.",
            paid.len()
        );
        let different: Vec<u64> = self
            .query(
                "SELECT o.id FROM shop.orders o LEFT JOIN shipping.shipments s ON s.order_id = o.id \
                 WHERE s.status IS NULL OR s.status <> o.status OR (s.status <> 'placed' AND s.label IS NULL)",
            )
            .await?;
        ensure!(different.is_empty(), "the orders {different:?} are not shipped as the shop says");
        let orders: Vec<u64> = self.query("SELECT COUNT(*) FROM shipping.shipments").await?;
        let orders = orders.first().copied().unwrap_or_default();
        println!("ship-orders handled the steps of {orders} orders, each order's in their order.");
        Ok(())
    }

    async fn query<T: FromRow + Send + 'static>(&self, sql: &str) -> Result<Vec<T>> {
        let mut conn = self.world.mysql.conn().await?;
        let rows = conn.query(sql).await.context("cannot read what the services did")?;
        conn.disconnect().await?;
        Ok(rows)
    }
}

/// The two databases' collations may order names differently.
fn sorted(rows: &[(String, i64)]) -> Vec<&(String, i64)> {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort();
    rows
}

fn ship_orders(programs: &Programs, world: &World, arguments: &[&str]) -> Program {
    Program {
        name: "ship-orders",
        path: programs.ship_orders.clone(),
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        variables: variables(world, "shipping"),
        folder: world.folder.path().to_owned(),
    }
}

fn variables(world: &World, schema: &str) -> Vec<(&'static str, String)> {
    vec![("NATS_URL", world.nats_url()), ("DATABASE_URL", world.database_url(schema))]
}

/// The first lines of a list, and how many more there are.
fn print_lines(title: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    let lines: Vec<&str> = text.lines().collect();
    if !title.is_empty() {
        println!("{title} {} steps:", lines.len());
    }
    for line in lines.iter().take(LINES_MAX) {
        println!("  {line}");
    }
    if lines.len() > LINES_MAX {
        println!("  and {} more", lines.len() - LINES_MAX);
    }
}
