//! The order saga of the examples: orchestrator, participants, bridge, NATS and MySQL are killed again and again while sagas run.
//! In the end every saga has ended, and orders, stock and money add up exactly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use outbox_bridge_tests::{Bridge, Outbox, Service, World, problems};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use serde_json::json;
use testbed::{eventually, request};
use uuid::Uuid;

/// Enough of some articles, too few of others.
const STOCK: [(&str, i64); 3] = [("lamp", 10_000), ("chair", 600), ("desk", 50)];
/// Enough money with one customer, too little with others.
const BALANCES_CENTS: [(&str, i64); 3] = [("Ada", 100_000_000), ("Bob", 2_000_000), ("Dora", 0)];
const KILLS: usize = 3;
const CLIENTS: usize = 12;
const SAGAS_MIN: usize = 1_000;
/// How long all sagas may take to end after the last kill on a busy machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
const NAMES: [&str; 3] = ["saga-orders", "saga-inventory", "saga-payments"];
/// Instances of the orchestrator beside the first one.
const FURTHER: &str = "saga-orders";
/// What must hold between the services; it comes with the example.
const CHECKS: &str = include_str!("../../../examples/order-saga/checks.sql");

/// Places orders until told to stop, and after that until enough are placed. What is not answered is asked again, under the same
/// id.
async fn shop(orders: &[SocketAddr], stop: &AtomicBool) -> Result<Vec<Uuid>> {
    let mut placed = Vec::new();
    while !stop.load(Ordering::Relaxed) || placed.len() < SAGAS_MIN / CLIENTS + 1 {
        let order = Uuid::new_v4();
        let (customer, _) = BALANCES_CENTS.choose(&mut rand::rng()).context("no customer")?;
        let (sku, _) = STOCK.choose(&mut rand::rng()).context("no article")?;
        let body = json!({ "customer": customer, "sku": sku, "quantity": rand::random_range(1..=4) });
        let key = order.to_string();
        eventually("an order to be placed", SETTLE_LIMIT, async || {
            let address = *orders.choose(&mut rand::rng()).context("no service")?;
            let answer = request(address, "POST", "/orders", &[("Idempotency-Key", &key)], Some(&body)).await;
            Ok(answer.ok().filter(|(status, _)| matches!(status, 200 | 202)).map(drop))
        })
        .await?;
        placed.push(order);
    }
    Ok(placed)
}

/// A service ends if a server is away just when it starts.
fn supervise(services: &mut [Service]) -> Result<()> {
    for service in services {
        if service.program.check_running().is_err() {
            service.restart()?;
        }
    }
    Ok(())
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
        let names = NAMES.iter().chain([&FURTHER]);
        let services = names.map(|name| Service::start(&world, name)).collect::<Result<Vec<_>>>()?;
        let [_, inventory, payments, _] = services.as_slice() else { anyhow::bail!("four services") };
        for (sku, free) in STOCK {
            inventory.put(&format!("/stock/{sku}"), json!({ "free": free })).await?;
        }
        for (customer, balance) in BALANCES_CENTS {
            let path = format!("/accounts/{customer}");
            payments.put(&path, json!({ "balance_cents": balance })).await?;
        }
        Ok(Self { world, bridge, services })
    }

    /// Kills everything in turns, in ever another order.
    async fn kill_all_in_turns(&mut self) -> Result<()> {
        for _ in 0..KILLS {
            let services = self.services.len();
            let mut victims: Vec<usize> = (0..services + 3).collect();
            victims.shuffle(&mut rand::rng());
            for victim in victims {
                // Not a wait for anything: the moment of the kill is what is random.
                tokio::time::sleep(Duration::from_millis(rand::random_range(50..900))).await;
                match victim.checked_sub(services) {
                    None => self.services.get_mut(victim).context("a service")?.restart()?,
                    Some(0) => {
                        self.bridge.kill()?;
                        self.bridge.launch()?;
                    }
                    Some(1) => {
                        self.world.nats.kill().await?;
                        self.world.nats.start().await?;
                    }
                    Some(_) => {
                        self.world.database.kill().await?;
                        self.world.database.start().await?;
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
        let settled = eventually("all sagas to end", SETTLE_LIMIT, async || {
            self.bridge.check_running()?;
            supervise(&mut self.services)?;
            Ok(self.problems().await?.is_empty().then_some(()))
        });
        let settled = settled.await;
        match settled {
            Ok(()) => Ok(()),
            Err(error) => {
                let problems = self.problems().await?;
                Err(self.bridge.explain(error.context(format!("{problems:?}"))))
            }
        }
    }

    async fn verify(&self, placed: &[Uuid]) -> Result<()> {
        let mut wanted: Vec<String> = placed.iter().map(ToString::to_string).collect();
        wanted.sort();
        let sagas: Vec<String> =
            self.world.database.query("SELECT id FROM saga_orders.saga_instances ORDER BY id").await?;
        ensure!(sagas == wanted, "{} sagas of {} that were placed", sagas.len(), wanted.len());
        let stock = "SELECT sku, free + (SELECT CAST(COALESCE(SUM(quantity), 0) AS SIGNED) FROM saga_orders.orders o \
                     WHERE o.sku = s.sku AND status = 'confirmed') FROM saga_inventory.stock s";
        let stock: BTreeMap<String, i64> = self.world.database.query(stock).await?.into_iter().collect();
        ensure!(
            stock == STOCK.map(|(sku, free)| (sku.to_owned(), free)).into(),
            "what is free and was sold: {stock:?}"
        );
        let money = "SELECT customer, balance_cents + (SELECT CAST(COALESCE(SUM(total_cents), 0) AS SIGNED) \
                     FROM saga_orders.orders o WHERE o.customer = a.customer AND status = 'confirmed') \
                     FROM saga_payments.accounts a";
        let money: BTreeMap<String, i64> = self.world.database.query(money).await?.into_iter().collect();
        let begun = BALANCES_CENTS.map(|(customer, balance)| (customer.to_owned(), balance)).into();
        ensure!(money == begun, "what is left and was paid: {money:?}");
        let letters = self.world.last_sequence("DEAD_LETTERS").await;
        ensure!(letters == 0, "{letters} messages were given up");
        Ok(())
    }
}

#[tokio::test]
async fn sagas_end_and_all_adds_up_whatever_is_killed() -> Result<()> {
    let mut flow = Flow::start().await?;
    let stop = AtomicBool::new(false);
    let orders: Vec<SocketAddr> =
        [0, 3].iter().filter_map(|&index| flow.services.get(index)).map(|service| service.address).collect();
    let kills = async {
        flow.kill_all_in_turns().await?;
        stop.store(true, Ordering::Relaxed);
        let failed = loop {
            if let Err(failed) = supervise(&mut flow.services) {
                break failed;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        Err::<(), _>(failed)
    };
    let clients = try_join_all((0..CLIENTS).map(|_| shop(&orders, &stop)));
    // The clients go on until told to stop, which comes after the last kill.
    let placed = tokio::select! {
        placed = clients => placed?,
        Err(error) = kills => return Err(error),
    };
    let placed = placed.concat();
    flow.settle().await?;
    flow.verify(&placed).await?;
    let counts: Vec<(String, u64)> = flow
        .world
        .database
        .query("SELECT status, COUNT(*) FROM saga_orders.saga_instances GROUP BY status ORDER BY status")
        .await?;
    eprintln!("{counts:?}");
    ensure!(counts.len() == 2, "{counts:?}");
    flow.bridge.finish().await
}
