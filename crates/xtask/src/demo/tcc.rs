//! The TCC of the examples: orders that reserve stock, money and a coupon before they take any, and a participant that is killed in
//! the midst of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use mysql_async::prelude::Queryable as _;
use serde_json::{Value, json};
use testbed::{Port, request};
use tokio::time::{Instant, sleep};

use super::build::Programs;
use super::process::{Process, Program};
use super::setup::{World, say};

/// How long an answer may take; an order whose participant is killed waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const SERVICES: [&str; 4] = ["orders", "inventory", "payment", "coupon"];

const LAMPS: i64 = 100;
const CENTS: i64 = 500_000;
/// What is ordered, for how much and with which coupon, and what must become of it.
const ORDERS: [(i64, i64, Option<&str>, &str); 4] = [
    (2, 3_000, Some("SPRING"), "confirmed"),
    (LAMPS + 1, 3_000, None, "cancelled"),
    (1, CENTS + 1, Some("SPRING"), "cancelled"),
    (1, 1_500, Some("AUTUMN"), "cancelled"),
];
/// How many orders are under way when inventory is killed.
const CROWD: i64 = 24;

/// Runs the four services, places orders, kills one, and fails if stock, money or coupons do not add up.
pub(super) async fn show(programs: &Programs, world: &World) -> Result<()> {
    let mut tcc = Tcc::start(programs, world).await?;
    if let Err(error) = tcc.place_and_compare().await {
        let logs: Vec<String> = tcc.services.iter().map(Process::log).collect();
        return Err(error.context(format!("the logs end:\n{}", logs.join("\n"))));
    }
    for service in &mut tcc.services {
        service.stop().await?;
    }
    Ok(())
}

#[derive(Debug)]
struct Tcc<'a> {
    world: &'a World,
    services: [Process; 4],
    orders: SocketAddr,
    _ports: [Port; 3],
}

impl<'a> Tcc<'a> {
    async fn start(programs: &Programs, world: &'a World) -> Result<Self> {
        say("orders by TCC: order-tcc orders, inventory, payment and coupon");
        for service in SERVICES {
            world.create_schema(&schema(service)).await?;
        }
        let ports = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let [orders, inventory, coupon] = ports.each_ref().map(Port::address);
        let start = |service: &'static str, listen: SocketAddr, arguments: &[String]| {
            Process::start(Program {
                name: service,
                path: programs.order_tcc.clone(),
                arguments: [&[service.to_owned()], arguments].concat(),
                variables: vec![
                    ("NATS_URL", world.nats_url()),
                    ("DATABASE_URL", world.database_url(&schema(service))),
                    ("LISTEN", listen.to_string()),
                ],
                folder: world.folder.path().to_owned(),
            })
        };
        let endpoints =
            [format!("--inventory=http://{inventory}/tcc"), format!("--coupon=http://{coupon}/tcc")];
        let services = [
            start("orders", orders, &endpoints)?,
            start("inventory", inventory, &[])?,
            start("payment", inventory, &[])?,
            start("coupon", coupon, &[])?,
        ];
        let mut tcc = Self { world, services, orders, _ports: ports };
        tcc.fill().await?;
        Ok(tcc)
    }

    /// Says what there is, once the services have made their tables.
    async fn fill(&mut self) -> Result<()> {
        let statements = [
            format!("INSERT INTO tcc_inventory.stock (sku, free) VALUES ('lamp', {LAMPS})"),
            format!("INSERT INTO tcc_payment.accounts (customer, free) VALUES ('Ada', {CENTS})"),
            "INSERT INTO tcc_coupon.coupons (code, free) VALUES ('SPRING', 100), ('AUTUMN', 0)".to_owned(),
        ];
        let deadline = Instant::now() + PATIENCE;
        for statement in statements {
            while let Err(error) = self.world.mysql.exec(&statement).await {
                self.services.iter_mut().try_for_each(Process::check_running)?;
                ensure!(Instant::now() < deadline, "the services do not make their tables: {error:#}");
                sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    async fn place_and_compare(&mut self) -> Result<()> {
        println!("\n  {:>5}  {:>8}  {:<7}  {:<9}  why", "lamps", "cents", "coupon", "became");
        let mut taken = (0, 0, 0);
        for (number, (lamps, cents, coupon, wanted)) in (1..).zip(ORDERS) {
            let order = place(self.orders, number, lamps, cents, coupon).await?;
            let text = |name: &str| order.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (status, reason) = (text("status"), text("reason"));
            println!("  {lamps:>5}  {cents:>8}  {:<7}  {status:<9}  {reason}", coupon.unwrap_or("-"));
            ensure!(status == wanted, "order {number} is {status} in place of {wanted}");
            if status == "confirmed" {
                taken = (taken.0 + lamps, taken.1 + cents, taken.2 + i64::from(coupon.is_some()));
            }
        }
        let confirmed = self.place_while_killing().await?;
        println!("\ninventory was killed while {CROWD} orders were under way: {confirmed} are confirmed.");
        self.compare((taken.0 + confirmed, taken.1 + confirmed * 1_500, taken.2 + confirmed)).await
    }

    /// Places many orders at once, and kills inventory meanwhile. How many are confirmed.
    async fn place_while_killing(&mut self) -> Result<i64> {
        let orders = self.orders;
        let placing = (0..CROWD).map(|number| place(orders, 100 + number, 1, 1_500, Some("SPRING")));
        let [_, inventory, _, _] = &mut self.services;
        let killing = async {
            let deadline = Instant::now() + PATIENCE;
            // When some of its branches are reserved.
            while count(self.world, "SELECT COUNT(*) FROM tcc_inventory.saga_barrier").await? < 8 {
                ensure!(Instant::now() < deadline, "no order comes to inventory");
            }
            inventory.kill_and_start_again().await
        };
        let (placed, ()) = tokio::try_join!(try_join_all(placing), killing)?;
        let confirmed =
            placed.iter().filter(|order| order.get("status").and_then(Value::as_str) == Some("confirmed"));
        Ok(i64::try_from(confirmed.count())?)
    }

    /// What is gone is what was confirmed, and nothing is reserved any more.
    async fn compare(&mut self, (lamps, cents, coupons): (i64, i64, i64)) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let open =
            "SELECT COUNT(*) FROM tcc_orders.tcc_transactions WHERE status NOT IN ('confirmed', 'cancelled')";
        while count(self.world, open).await? > 0 {
            self.services.iter_mut().try_for_each(Process::check_running)?;
            ensure!(Instant::now() < deadline, "some transactions do not end");
            sleep(POLL_INTERVAL).await;
        }
        let mut conn = self.world.mysql.conn().await?;
        for (what, query, wanted) in [
            ("stock", "SELECT free, locked, sold FROM tcc_inventory.stock", (LAMPS - lamps, 0, lamps)),
            ("money", "SELECT free, held, paid FROM tcc_payment.accounts", (CENTS - cents, 0, cents)),
            (
                "coupons",
                "SELECT free, aside, redeemed FROM tcc_coupon.coupons WHERE code = 'SPRING'",
                (100 - coupons, 0, coupons),
            ),
        ] {
            let found: Option<(i64, i64, i64)> = conn.query_first(query).await?;
            ensure!(found == Some(wanted), "{what}: {found:?} in place of {wanted:?}");
        }
        conn.disconnect().await?;
        println!(
            "Stock, money and coupons add up: {lamps} lamps, {cents} cents and {coupons} coupons are taken, and nothing is \
             reserved any more."
        );
        Ok(())
    }
}

async fn count(world: &World, query: &str) -> Result<i64> {
    let counts: Vec<i64> = world.mysql.query(query).await?;
    counts.first().copied().context("no count")
}

/// Places an order until it is answered: a service may be starting. What became of it.
async fn place(
    orders: SocketAddr,
    number: i64,
    lamps: i64,
    cents: i64,
    coupon: Option<&str>,
) -> Result<Value> {
    let order =
        json!({ "customer": "Ada", "sku": "lamp", "quantity": lamps, "cents": cents, "coupon": coupon });
    let (path, deadline) = (format!("/orders/{number}"), Instant::now() + PATIENCE);
    loop {
        match request(orders, "PUT", &path, &[], Some(&order)).await {
            Ok((200 | 409, answer)) => return Ok(serde_json::from_str(&answer)?),
            Ok((status, answer)) if status != 503 => bail!("PUT {path} is answered with {status}: {answer}"),
            Ok((_, error)) => ensure!(Instant::now() < deadline, "PUT {path} is not answered: {error}"),
            Err(error) => ensure!(Instant::now() < deadline, "PUT {path} is not answered: {error:#}"),
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn schema(service: &str) -> String {
    format!("tcc_{service}")
}
