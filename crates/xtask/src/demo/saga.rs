//! The sagas of the examples: the order flow by an orchestrator, and a participant that is killed in the midst of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mysql_async::prelude::Queryable as _;
use serde_json::{Value, json};
use testbed::{Port, request};
use tokio::time::{Instant, sleep};

use super::bridge::Bridge;
use super::build::Programs;
use super::process::{Process, Program};
use super::setup::{World, say};

/// How long an answer or a saga may take; after a kill a part of the messages comes again after some seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const ORDERS: &str = "saga-orders";
const INVENTORY: &str = "saga-inventory";
const PAYMENTS: &str = "saga-payments";

const STOCK: [(&str, i64); 2] = [("lamp", 10), ("desk", 5)];
const BALANCES_CENTS: [(&str, i64); 2] = [("Ada", 100_000), ("Boris", 50_000)];
/// Who orders what, and what must become of it.
const WANTED: [(&str, &str, i64, &str); 4] = [
    ("Ada", "lamp", 2, "completed"),
    // Dearer than Boris can pay.
    ("Boris", "desk", 3, "compensated"),
    // More than there are.
    ("Ada", "desk", 6, "compensated"),
    ("Boris", "lamp", 1, "completed"),
];

/// Runs the three services, places orders, kills one service, shows the steps, and fails if stock or money do not add up.
pub(super) async fn show(programs: &Programs, world: &World) -> Result<()> {
    let mut flow = Box::pin(Sagas::start(programs, world)).await?;
    if let Err(error) = flow.place_and_compare().await {
        let logs: Vec<String> = flow.services.iter().map(|(process, _)| process.log()).collect();
        let logs = logs.join("\n");
        return Err(error.context(format!("the logs end:\n{}\n{logs}", flow.bridge.log())));
    }
    for (process, _) in &mut flow.services {
        process.stop().await?;
    }
    flow.bridge.stop().await
}

#[derive(Debug)]
struct Sagas<'a> {
    world: &'a World,
    bridge: Bridge,
    services: [(Process, Port); 3],
    _admin: Port,
}

impl<'a> Sagas<'a> {
    async fn start(programs: &Programs, world: &'a World) -> Result<Self> {
        let configuration = world.folder.path().join("order-saga.toml");
        std::fs::write(&configuration, include_str!("../../../../examples/order-saga/bridge.toml"))?;
        let admin = Port::reserve()?;
        let variables = vec![
            ("OUTBOX_BRIDGE__SOURCE__URL", world.mysql.url("bridge")),
            ("OUTBOX_BRIDGE__NATS__URL", world.nats_url()),
            ("OUTBOX_BRIDGE__HTTP__LISTEN", admin.address().to_string()),
        ];
        say("orders as sagas: saga-orders, the orchestrator, with saga-inventory and saga-payments");
        let schemas = [ORDERS, INVENTORY, PAYMENTS].map(schema);
        for schema in &schemas {
            world.create_schema(schema).await?;
        }
        world.set_up(&programs.bridge, &configuration, &variables, &schemas).await?;
        let program = Program {
            name: "order-saga-bridge",
            path: programs.bridge.clone(),
            arguments: vec!["run".into(), "--config".into(), configuration.display().to_string()],
            variables,
            folder: world.folder.path().to_owned(),
        };
        let bridge = Bridge::start(program, admin.address()).await?;
        let services = [
            service(world, ORDERS, &programs.saga_orders)?,
            service(world, INVENTORY, &programs.saga_inventory)?,
            service(world, PAYMENTS, &programs.saga_payments)?,
        ];
        Ok(Self { world, bridge, services, _admin: admin })
    }

    async fn place_and_compare(&mut self) -> Result<()> {
        let [orders, inventory, payments] = self.services.each_ref().map(|(_, port)| port.address());
        for (sku, free) in STOCK {
            ask(inventory, "PUT", &format!("/stock/{sku}"), Some(json!({ "free": free }))).await?;
        }
        for (customer, cents) in BALANCES_CENTS {
            let body = json!({ "balance_cents": cents });
            ask(payments, "PUT", &format!("/accounts/{customer}"), Some(body)).await?;
        }
        let mut placed = Vec::new();
        for (customer, sku, quantity, _) in WANTED {
            let order = json!({ "customer": customer, "sku": sku, "quantity": quantity });
            let order = ask(orders, "POST", "/orders", Some(order)).await?;
            placed.push(order.get("order").and_then(Value::as_str).context("no id")?.to_owned());
        }
        say("kill -9 saga-inventory, and start it again");
        let [_, (inventory, _), _] = &mut self.services;
        inventory.kill_and_start_again().await?;
        println!("\n  {:<8}  {:<6}  {:<11}  by", "customer", "wants", "became");
        for (order, (customer, sku, quantity, wanted)) in placed.iter().zip(WANTED) {
            let status = self.ended(orders, order).await?;
            let steps: Vec<(String, String)> = self.query(&steps(order)).await?;
            let steps: Vec<String> = steps.iter().map(|(step, status)| format!("{step}: {status}")).collect();
            println!("  {customer:<8}  {quantity} {sku:<4}  {status:<11}  {}", steps.join(", "));
            ensure!(status == wanted, "the order of {customer} is {status} in place of {wanted}");
        }
        self.compare().await
    }

    /// How a saga has ended.
    async fn ended(&mut self, orders: SocketAddr, order: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = ask(orders, "GET", &format!("/orders/{order}"), None).await?;
            let status = found.get("status").and_then(Value::as_str).unwrap_or_default();
            if matches!(status, "completed" | "compensated") {
                return Ok(status.to_owned());
            }
            self.services.iter_mut().try_for_each(|(process, _)| process.check_running())?;
            ensure!(Instant::now() < deadline, "nothing happens any more to an order: {found}");
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn compare(&self) -> Result<()> {
        for check in include_str!("../../../../examples/order-saga/checks.sql").split("\n\n").skip(1) {
            let (what, statement) = check.split_once('\n').context("a check without a name")?;
            let wrong: Vec<i64> = self.query(statement.trim().trim_end_matches(';')).await?;
            ensure!(wrong == [0], "{wrong:?} {}", what.trim_start_matches("-- "));
        }
        let completed = || WANTED.iter().filter(|(.., status)| *status == "completed");
        for (sku, free) in STOCK {
            let sold: i64 = completed().filter(|(_, of, ..)| *of == sku).map(|(_, _, count, _)| count).sum();
            let left: Vec<i64> =
                self.query(&format!("SELECT free FROM saga_inventory.stock WHERE sku = '{sku}'")).await?;
            ensure!(left == [free - sold], "{left:?} of {sku} are free in place of {}", free - sold);
        }
        let begun: i64 = BALANCES_CENTS.iter().map(|(_, cents)| cents).sum();
        let money = "SELECT CAST((SELECT SUM(balance_cents) FROM saga_payments.accounts) \
                     + (SELECT SUM(cents) FROM saga_payments.payments) AS SIGNED)";
        let money: Vec<i64> = self.query(money).await?;
        ensure!(money == [begun], "{money:?} cents are left or paid, of {begun}");
        println!("\nStock and money add up: what the failed orders had reserved is free again.");
        Ok(())
    }

    async fn query<T: mysql_async::prelude::FromRow + Send + 'static>(&self, query: &str) -> Result<Vec<T>> {
        let mut conn = self.world.mysql.conn().await?;
        let rows = conn.query(query).await?;
        conn.disconnect().await?;
        Ok(rows)
    }
}

fn steps(order: &str) -> String {
    format!(
        "SELECT step, status FROM saga_orders.saga_steps \
         WHERE saga_id = '{order}' AND status <> 'waiting' ORDER BY position"
    )
}

fn schema(service: &str) -> String {
    service.replace('-', "_")
}

fn service(world: &World, name: &'static str, path: &Path) -> Result<(Process, Port)> {
    let port = Port::reserve()?;
    say(name);
    let program = Program {
        name,
        path: path.to_owned(),
        arguments: Vec::new(),
        variables: vec![
            ("NATS_URL", world.nats_url()),
            ("DATABASE_URL", world.database_url(&schema(name))),
            ("LISTEN", port.address().to_string()),
        ],
        folder: world.folder.path().to_owned(),
    };
    Ok((Process::start(program)?, port))
}

/// Asks a service until it answers: it may be starting. The answer, if it is JSON.
async fn ask(address: SocketAddr, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match request(address, method, path, &[], body.as_ref()).await {
            Ok((200..=299, answer)) => return Ok(serde_json::from_str(&answer).unwrap_or_default()),
            Ok((status, answer)) => bail!("{method} {path} is answered with {status}: {answer}"),
            Err(error) => ensure!(Instant::now() < deadline, "{method} {path} is not answered: {error:#}"),
        }
        sleep(POLL_INTERVAL).await;
    }
}
