//! The order flow of the examples: three services with a schema, an outbox and a stream each, and one bridge for them.

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

/// How long an answer or an order may take; after kills a part of the messages comes again after some seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

const ORDER: &str = "order-service";
const INVENTORY: &str = "inventory-service";
const PAYMENT: &str = "payment-service";

const STOCK: [(&str, i64); 3] = [("lamp", 10), ("chair", 4), ("desk", 5)];
const BALANCES_CENTS: [(&str, i64); 3] = [("Ada", 100_000), ("Boris", 50_000), ("Chiara", 50_000)];
/// Who orders what, and what must become of it.
const ORDERS: [(&str, &str, i64, &str); 5] = [
    ("Ada", "lamp", 2, "confirmed"),
    // Dearer than Boris can pay.
    ("Boris", "desk", 3, "cancelled"),
    // More than there are.
    ("Chiara", "chair", 5, "rejected"),
    ("Chiara", "lamp", 1, "confirmed"),
    ("Boris", "lamp", 1, "confirmed"),
];

/// Runs the services, places orders, shows what each went through, and fails if stock or money do not add up.
pub(super) async fn show(programs: &Programs, world: &World, kill: bool) -> Result<()> {
    let flow = Flow::start(programs, world);
    let mut flow = Box::pin(flow).await?;
    let result = flow.place_and_compare(kill).await;
    if let Err(error) = result {
        let logs: Vec<String> = flow.services.iter().map(|service| service.process.log()).collect();
        let logs = logs.join("\n");
        return Err(error.context(format!("the logs end:\n{}\n{logs}", flow.bridge.log())));
    }
    for service in &mut flow.services {
        service.process.stop().await?;
    }
    flow.bridge.stop().await
}

#[derive(Debug)]
struct Service {
    process: Process,
    address: SocketAddr,
    _port: Port,
}

#[derive(Debug)]
struct Flow<'a> {
    world: &'a World,
    bridge: Bridge,
    services: [Service; 3],
    _admin: Port,
}

impl<'a> Flow<'a> {
    async fn start(programs: &Programs, world: &'a World) -> Result<Self> {
        let configuration = world.folder.path().join("order-flow.toml");
        let text = include_str!("../../../../examples/order-flow/bridge.toml");
        std::fs::write(&configuration, text)?;
        let admin = Port::reserve()?;
        let variables = vec![
            ("OUTBOX_BRIDGE__SOURCE__URL", world.mysql.url("bridge")),
            ("OUTBOX_BRIDGE__NATS__URL", world.nats_url()),
            ("OUTBOX_BRIDGE__HTTP__LISTEN", admin.address().to_string()),
        ];
        say(&format!(
            "the order flow: {ORDER}, {INVENTORY} and {PAYMENT}, each with a schema and a stream of its own"
        ));
        for service in [ORDER, INVENTORY, PAYMENT] {
            world.create_schema(&schema(service)).await?;
        }
        world
            .set_up(&programs.bridge, &configuration, &variables, &[ORDER, INVENTORY, PAYMENT].map(schema))
            .await?;
        let program = Program {
            name: "order-flow-bridge",
            path: programs.bridge.clone(),
            arguments: vec!["run".into(), "--config".into(), configuration.display().to_string()],
            variables,
            folder: world.folder.path().to_owned(),
        };
        let bridge = Bridge::start(program, admin.address()).await?;
        let services = [
            service(world, ORDER, &programs.order_service)?,
            service(world, INVENTORY, &programs.inventory_service)?,
            service(world, PAYMENT, &programs.payment_service)?,
        ];
        Ok(Self { world, bridge, services, _admin: admin })
    }

    async fn place_and_compare(&mut self, kill: bool) -> Result<()> {
        let [orders, inventory, payment] = self.services.each_ref().map(|service| service.address);
        for (sku, on_hand) in STOCK {
            ask(inventory, "PUT", &format!("/stock/{sku}"), Some(json!({ "on_hand": on_hand }))).await?;
        }
        for (customer, cents) in BALANCES_CENTS {
            ask(payment, "PUT", &format!("/accounts/{customer}"), Some(json!({ "balance_cents": cents })))
                .await?;
        }
        let mut placed = Vec::new();
        for (customer, sku, quantity, _) in ORDERS {
            let order = json!({ "customer": customer, "sku": sku, "quantity": quantity });
            let order = ask(orders, "POST", "/orders", Some(order)).await?;
            placed
                .push(order.get("order").and_then(Value::as_str).context("an order without id")?.to_owned());
        }
        if kill {
            self.bridge.kill_and_start_again().await?;
            for service in &mut self.services {
                service.process.kill_and_start_again().await?;
            }
        }
        println!("\n  {:<8}  {:<8}  {:>8}  {:<9}  by", "customer", "wants", "total", "became");
        for (order, (customer, _, _, wanted)) in placed.iter().zip(ORDERS) {
            let order = self.settled(orders, order).await?;
            println!("{}", line(&order));
            let status = order.get("status").and_then(Value::as_str).unwrap_or_default();
            ensure!(status == wanted, "the order of {customer} is {status} in place of {wanted}");
        }
        self.compare().await
    }

    /// The order, once nothing more is to happen to it.
    async fn settled(&mut self, orders: SocketAddr, order: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = ask(orders, "GET", &format!("/orders/{order}"), None).await?;
            let status = found.get("status").and_then(Value::as_str).unwrap_or_default();
            let steps = found.get("history").and_then(Value::as_array).map(Vec::len);
            let all = match status {
                "confirmed" => Some(3),
                "cancelled" => Some(4),
                "rejected" => Some(2),
                _ => None,
            };
            if all.is_some() && steps == all {
                return Ok(found);
            }
            self.services.iter_mut().try_for_each(|service| service.process.check_running())?;
            ensure!(Instant::now() < deadline, "nothing happens any more to an order: {found}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// What is left of stock and money is what was there less what the confirmed orders took, and the services agree.
    async fn compare(&self) -> Result<()> {
        let mut conn = self.world.mysql.conn().await?;
        let checks = include_str!("../../../../examples/order-flow/checks.sql");
        // What is sold is booked when the payment's event has come to the inventory, maybe after it came to the order service.
        let deadline = Instant::now() + PATIENCE;
        for check in checks.split("\n\n").skip(1) {
            let (what, statement) = check.split_once('\n').context("a check without a name")?;
            loop {
                let wrong: Option<i64> = conn.query_first(statement.trim().trim_end_matches(';')).await?;
                match wrong {
                    Some(0) => break,
                    _ if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
                    _ => bail!("{wrong:?} {}", what.trim_start_matches("-- ")),
                }
            }
        }
        let confirmed = || ORDERS.iter().filter(|(.., status)| *status == "confirmed");
        let mut wanted: Vec<(String, i64)> = Vec::new();
        for (sku, on_hand) in STOCK {
            let sold: i64 =
                confirmed().filter(|(_, of, ..)| *of == sku).map(|(_, _, quantity, _)| quantity).sum();
            wanted.push((sku.to_owned(), on_hand - sold));
        }
        wanted.sort();
        let left: Vec<(String, i64)> =
            conn.query("SELECT sku, on_hand FROM inventory_service.stock ORDER BY sku").await?;
        ensure!(left == wanted, "{left:?} are left in place of {wanted:?}");
        let begun: i64 = BALANCES_CENTS.iter().map(|(_, cents)| cents).sum();
        let money = "SELECT (SELECT CAST(SUM(balance_cents) AS SIGNED) FROM payment_service.accounts), \
                     (SELECT CAST(SUM(total_cents) AS SIGNED) FROM order_service.orders WHERE status = 'confirmed')";
        let (left, paid): (i64, i64) = conn.query_first(money).await?.context("no sums")?;
        ensure!(left + paid == begun, "{left} cents are left and {paid} are paid, of {begun}");
        println!(
            "\nStock and money add up: {} of {} are paid, what was sold is gone, and what was reserved for the order that could \
             not be paid is free again.",
            amount(paid),
            amount(begun)
        );
        Ok(conn.disconnect().await?)
    }
}

fn schema(service: &str) -> String {
    service.replace('-', "_")
}

fn service(world: &World, name: &'static str, path: &Path) -> Result<Service> {
    let port = Port::reserve()?;
    let address = port.address();
    say(name);
    let program = Program {
        name,
        path: path.to_owned(),
        arguments: Vec::new(),
        variables: vec![
            ("NATS_URL", world.nats_url()),
            ("DATABASE_URL", world.database_url(&schema(name))),
            ("LISTEN", address.to_string()),
        ],
        folder: world.folder.path().to_owned(),
    };
    Ok(Service { process: Process::start(program)?, address, _port: port })
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

fn amount(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// An order, as a line of the table.
fn line(order: &Value) -> String {
    let text = |name: &str| order.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| order.get(name).and_then(Value::as_i64).unwrap_or_default();
    let wants = format!("{} {}", number("quantity"), text("sku"));
    let total = amount(number("total_cents"));
    let step = |step: &Value| {
        let event = step.get("event").and_then(Value::as_str).unwrap_or_default();
        match step.get("reason").and_then(Value::as_str) {
            Some(reason) => format!("{event} ({reason})"),
            None => event.to_owned(),
        }
    };
    let history = order.get("history").and_then(Value::as_array);
    let steps: Vec<String> = history.into_iter().flatten().map(step).collect();
    format!("  {:<8}  {wants:<8}  {total:>8}  {:<9}  {}", text("customer"), text("status"), steps.join(", "))
}
