//! The order flow of the examples: three services and a bridge, each killed again and again while orders flow. In the end
//! orders, stock and money add up, and every order has one trace through all three streams.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use outbox_bridge_tests::{Bridge, Expected, Order, Outbox, Service, World, oracle, problems};
use outbox_event::header;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use serde_json::json;
use testbed::{eventually, request};
use uuid::Uuid;

/// Enough of some articles, too few of others.
const STOCK: [(&str, i64); 3] = [("lamp", 500), ("chair", 100), ("desk", 20)];
/// Enough money with one customer, too little with others.
const BALANCES: [(&str, i64); 4] = [("Ada", 10_000_000), ("Bob", 500_000), ("Chiara", 100_000), ("Dora", 0)];
/// How often each process is killed.
const KILLS: usize = 5;
const CLIENTS: usize = 4;
const ORDERS_MIN: usize = 200;
/// How long all orders may take to settle after the last kill on a busy machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
const NAMES: [&str; 3] = ["order-service", "inventory-service", "payment-service"];
/// What must hold between the services; it comes with the example.
const CHECKS: &str = include_str!("../../../examples/order-flow/checks.sql");

/// An order as its client knows it: its id, and the id of its trace.
type Placed = (Uuid, String);

/// Places orders until told to stop. An order without an answer is placed again, under the same id.
async fn shop(orders: SocketAddr, stop: &AtomicBool) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (order, trace) = (Uuid::new_v4(), Uuid::new_v4().simple().to_string());
        let (customer, _) = BALANCES.choose(&mut rand::rng()).context("no customer")?;
        let (sku, _) = STOCK.choose(&mut rand::rng()).context("no article")?;
        let body = json!({ "customer": customer, "sku": sku, "quantity": rand::random_range(1..=4) });
        let (key, parent) = (order.to_string(), format!("00-{trace}-00f067aa0ba902b7-01"));
        let headers = [("Idempotency-Key", key.as_str()), ("traceparent", parent.as_str())];
        eventually("an order to be placed", SETTLE_LIMIT, async || {
            let answer = request(orders, "POST", "/orders", &headers, Some(&body)).await;
            Ok(answer.ok().filter(|(status, _)| matches!(status, 200 | 201)).map(drop))
        })
        .await?;
        placed.push((order, trace));
    }
    Ok(placed)
}

struct Flow {
    world: World,
    bridge: Bridge,
    services: Vec<Service>,
}

impl Flow {
    async fn start() -> Result<Self> {
        let mut world = World::mysql().durable();
        for name in NAMES {
            let schema = Service::schema(name);
            let subject = format!("{name}.{{type}}");
            world = world.outbox(Outbox::new(&format!("{schema}.outbox"), &schema.to_uppercase(), &subject));
        }
        let world = world.start().await?;
        let bridge = world.bridge().await?;
        let services = NAMES.iter().map(|name| Service::start(&world, name)).collect::<Result<Vec<_>>>()?;
        let [_, inventory, payment] = services.as_slice() else { anyhow::bail!("three services") };
        for (sku, on_hand) in STOCK {
            inventory.put(&format!("/stock/{sku}"), json!({ "on_hand": on_hand })).await?;
        }
        for (customer, balance) in BALANCES {
            let path = format!("/accounts/{customer}");
            payment.put(&path, json!({ "balance_cents": balance })).await?;
        }
        Ok(Self { world, bridge, services })
    }

    /// Kills each process in turns, in ever another order.
    async fn kill_all_in_turns(&mut self) -> Result<()> {
        for _ in 0..KILLS {
            let mut victims: Vec<usize> = (0..=NAMES.len()).collect();
            victims.shuffle(&mut rand::rng());
            for victim in victims {
                // Not a wait for anything: the moment of the kill is what is random.
                tokio::time::sleep(Duration::from_millis(rand::random_range(50..900))).await;
                match self.services.get_mut(victim) {
                    Some(service) => service.program.replace()?,
                    None => {
                        self.bridge.kill()?;
                        self.bridge.launch()?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn problems(&self) -> Result<Vec<String>> {
        problems(&self.world.database, CHECKS).await
    }

    async fn settle(&mut self) -> Result<()> {
        let settled = eventually("all orders to be settled", SETTLE_LIMIT, async || {
            self.bridge.check_running()?;
            for service in &mut self.services {
                service.program.check_running()?;
            }
            Ok((self.unhandled().await? == Some(0) && self.problems().await?.is_empty()).then_some(()))
        });
        let settled = settled.await;
        match settled {
            Ok(()) => Ok(()),
            Err(error) => {
                let problems =
                    format!("{:?}, {:?} unhandled", self.problems().await?, self.unhandled().await?);
                Err(self.bridge.explain(error.context(problems)))
            }
        }
    }

    /// How many messages the services have not acknowledged; `None` while one of their consumers is not there.
    async fn unhandled(&self) -> Result<Option<u64>> {
        let (mut consumers, mut unhandled) = (0, 0);
        for name in NAMES {
            let stream = self.world.jetstream.get_stream(Service::schema(name).to_uppercase()).await?;
            let rows = format!("SELECT COUNT(*) FROM {}.outbox", Service::schema(name));
            let rows: Vec<u64> = self.world.database.query(&rows).await?;
            // A message can be stored just before its row is visible.
            unhandled += rows.first().context("no count")?.abs_diff(stream.cached_info().state.messages);
            let mut infos = stream.consumers();
            while let Some(info) = infos.try_next().await? {
                consumers += 1;
                unhandled += info.num_pending + u64::try_from(info.num_ack_pending)?;
            }
        }
        Ok((consumers == 5).then_some(unhandled))
    }

    /// Has JetStream forget what is acknowledged, so that every message is delivered once more.
    async fn repeat_all(&mut self) -> Result<()> {
        for service in &mut self.services {
            service.program.kill()?;
        }
        for name in NAMES {
            let stream = self.world.jetstream.get_stream(Service::schema(name).to_uppercase()).await?;
            let durables: Vec<String> = stream.consumer_names().try_collect().await?;
            for durable in durables {
                stream.delete_consumer(&durable).await?;
            }
        }
        for service in &mut self.services {
            service.program.start_again()?;
        }
        Ok(())
    }

    async fn verify(&self, placed: &[Placed]) -> Result<()> {
        let problems = self.problems().await?;
        ensure!(problems.is_empty(), "{problems:?}");
        let orders: Vec<String> =
            self.world.database.query("SELECT id FROM order_service.orders ORDER BY id").await?;
        let mut wanted: Vec<String> = placed.iter().map(|(order, _)| order.to_string()).collect();
        wanted.sort();
        ensure!(orders == wanted, "{} orders of {} that were placed", orders.len(), wanted.len());
        let stock = "SELECT sku, on_hand + (SELECT CAST(COALESCE(SUM(quantity), 0) AS SIGNED) FROM order_service.orders o \
                     WHERE o.sku = s.sku AND status = 'confirmed') FROM inventory_service.stock s";
        let stock: BTreeMap<String, i64> = self.world.database.query(stock).await?.into_iter().collect();
        let begun = STOCK.map(|(sku, on_hand)| (sku.to_owned(), on_hand)).into();
        ensure!(stock == begun, "what is there and what was sold: {stock:?}");
        let money = "SELECT customer, balance_cents + (SELECT CAST(COALESCE(SUM(total_cents), 0) AS SIGNED) \
                     FROM order_service.orders o WHERE o.customer = a.customer AND status = 'confirmed') \
                     FROM payment_service.accounts a";
        let money: BTreeMap<String, i64> = self.world.database.query(money).await?.into_iter().collect();
        let begun = BALANCES.map(|(customer, balance)| (customer.to_owned(), balance)).into();
        ensure!(money == begun, "what is left and what was paid: {money:?}");
        for name in NAMES {
            let expected =
                Expected::rows(&self.world.database, &format!("{}.outbox", Service::schema(name)), "seq")
                    .await?;
            let stored = self.world.stored(&Service::schema(name).to_uppercase()).await?;
            oracle::compare(&expected, &stored, Order::PerAggregate).context(name)?;
        }
        let letters = self.world.last_sequence("DEAD_LETTERS").await;
        ensure!(letters == 0, "{letters} messages were given up");
        Ok(())
    }

    /// Each message has the trace id that the client began its order with.
    async fn verify_traces(&self, placed: &[Placed]) -> Result<()> {
        let traces: HashMap<String, &str> =
            placed.iter().map(|(order, trace)| (order.to_string(), trace.as_str())).collect();
        for name in NAMES {
            for message in self.world.stored(&Service::schema(name).to_uppercase()).await? {
                let trace = message.header("traceparent").split('-').nth(1).unwrap_or_default();
                let order = message.header(header::CE_SUBJECT);
                let wanted = traces.get(order).copied().context("an event of no order")?;
                ensure!(trace == wanted, "{} of order {order}: {trace} instead of {wanted}", message.subject);
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn orders_stock_and_money_add_up_whatever_is_killed() -> Result<()> {
    let mut flow = Flow::start().await?;
    let stop = AtomicBool::new(false);
    let orders = flow.services.first().context("a service")?.address;
    let kills = async {
        flow.kill_all_in_turns().await?;
        stop.store(true, Ordering::Relaxed);
        Ok(())
    };
    let clients = try_join_all((0..CLIENTS).map(|_| shop(orders, &stop)));
    let (placed, ()) = tokio::try_join!(clients, kills)?;
    let placed = placed.concat();
    ensure!(placed.len() >= ORDERS_MIN, "{} orders", placed.len());
    flow.settle().await?;
    flow.verify(&placed).await?;
    flow.verify_traces(&placed).await?;
    for status in ["confirmed", "cancelled", "rejected"] {
        let count = format!("SELECT COUNT(*) FROM order_service.orders WHERE status = '{status}'");
        let count: Vec<u64> = flow.world.database.query(&count).await?;
        eprintln!("{count:?} {status}");
        ensure!(count != [0], "no order was {status}");
    }
    flow.repeat_all().await?;
    flow.settle().await?;
    flow.verify(&placed).await.context("after everything was delivered once more")?;
    flow.bridge.finish().await
}
