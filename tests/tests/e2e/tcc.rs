//! The TCC of the examples: two coordinators and four processes of participants, each killed again and again, and so are MySQL and NATS,
//! while thousands of orders are placed. In the end stock, money and coupons add up, and nothing is reserved any more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use outbox_bridge_tests::Program;
use rand::seq::IndexedRandom as _;
use serde_json::json;
use testbed::{MySql, Nats, Port, eventually, request};
use uuid::Uuid;

/// Enough of some, too few of others.
const STOCK: [(&str, i64); 3] = [("lamp", 100_000), ("chair", 1_000), ("desk", 50)];
const MONEY: [(&str, i64); 3] = [("Ada", 100_000_000), ("Bob", 500_000), ("Dora", 100_000)];
const COUPONS: [(&str, i64); 2] = [("SPRING", 100_000), ("ONCE", 1)];
const CLIENTS: usize = 16;
const ORDERS_MIN: usize = 3_000;
/// How often all are killed in turns.
const ROUNDS: usize = 4;
/// How many orders must be placed between two kills, so that each meets some in the midst of it.
const ORDERS_BETWEEN: usize = 25;
/// How long an answer or the end of all may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const SCHEMAS: [&str; 4] = ["orders", "inventory", "payment", "coupon"];

/// An order that has got its answer.
struct Placed {
    id: String,
    sku: &'static str,
    quantity: i64,
    customer: &'static str,
    cents: i64,
    coupon: Option<&'static str>,
    confirmed: bool,
}

/// Places orders at one or the other coordinator until told to stop. An order without an answer is placed again, under the same id.
async fn shop(orders: [SocketAddr; 2], stop: &AtomicBool, count: &AtomicUsize) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let choose = |of: &[(&'static str, i64)]| of.choose(&mut rand::rng()).map(|(name, _)| *name);
        let (sku, customer) = (choose(&STOCK).context("no stock")?, choose(&MONEY).context("no money")?);
        let coupon = if rand::random_bool(0.3) { choose(&COUPONS) } else { None };
        let quantity = rand::random_range(1..=3);
        let (id, cents) = (Uuid::new_v4().to_string(), quantity * 1500);
        let body = json!({
            "customer": customer, "sku": sku, "quantity": quantity, "cents": cents, "coupon": coupon
        });
        let path = format!("/orders/{id}");
        let mut turns = orders.iter().cycle().skip(rand::random_range(0..2));
        let confirmed = eventually("an order to be answered", LIMIT, async || {
            let address = turns.next().context("no coordinator")?;
            let answer = request(*address, "PUT", &path, &[], Some(&body)).await;
            Ok(match answer {
                Ok((200, _)) => Some(true),
                Ok((409, _)) => Some(false),
                // Killed, or its store or another instance is.
                _ => None,
            })
        })
        .await?;
        placed.push(Placed { id, sku, quantity, customer, cents, coupon, confirmed });
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(placed)
}

struct Flow {
    mysql: MySql,
    nats: Nats,
    programs: Vec<Program>,
    orders: [SocketAddr; 2],
    _ports: Vec<Port>,
}

impl Flow {
    async fn start() -> Result<Self> {
        let (mysql, nats) = tokio::try_join!(MySql::builder().start(), Nats::builder().start())?;
        for schema in SCHEMAS {
            mysql.exec(&format!("CREATE DATABASE {schema}")).await?;
        }
        let ports = (0..4).map(|_| Port::reserve()).collect::<Result<Vec<_>>>()?;
        let addresses: Vec<_> = ports.iter().map(Port::address).collect();
        let [orders, other_orders, inventory, coupon] = addresses.as_slice() else {
            anyhow::bail!("four ports")
        };
        let variables = |schema: &str, listen: &SocketAddr| {
            vec![
                ("DATABASE_URL", format!("{}/{schema}", mysql.url("root"))),
                ("NATS_URL", nats.url()),
                ("LISTEN", listen.to_string()),
            ]
        };
        let (stock, coupons) = (format!("http://{inventory}/tcc"), format!("http://{coupon}/tcc"));
        let of_orders = ["orders", "--inventory", &stock, "--coupon", &coupons];
        let programs = vec![
            Program::start("order-tcc", &of_orders, variables("orders", orders))?,
            Program::start("order-tcc", &["inventory"], variables("inventory", inventory))?,
            Program::start("order-tcc", &["payment"], variables("payment", inventory))?,
            Program::start("order-tcc", &of_orders, variables("orders", other_orders))?,
            Program::start("order-tcc", &["coupon"], variables("coupon", coupon))?,
            Program::start("order-tcc", &["payment"], variables("payment", inventory))?,
        ];
        let orders = [*orders, *other_orders];
        let mut flow = Self { mysql, nats, programs, orders, _ports: ports };
        flow.fill().await?;
        Ok(flow)
    }

    /// Says what there is, once the services have made their tables.
    async fn fill(&mut self) -> Result<()> {
        let values = |of: &[(&str, i64)]| {
            of.iter().map(|(name, free)| format!("('{name}', {free})")).collect::<Vec<_>>().join(", ")
        };
        let inserts = [
            format!("INSERT INTO inventory.stock (sku, free) VALUES {}", values(&STOCK)),
            format!("INSERT INTO payment.accounts (customer, free) VALUES {}", values(&MONEY)),
            format!("INSERT INTO coupon.coupons (code, free) VALUES {}", values(&COUPONS)),
        ];
        for insert in inserts {
            eventually("the services to make their tables", LIMIT, async || {
                self.programs.iter_mut().try_for_each(Program::check_running)?;
                Ok(self.mysql.exec(&insert).await.ok())
            })
            .await?;
        }
        for orders in self.orders {
            eventually("a coordinator to answer", LIMIT, async || {
                Ok(request(orders, "GET", "/orders/none", &[], None).await.ok())
            })
            .await?;
        }
        Ok(())
    }

    /// Kills every program in turns, and between the turns MySQL and NATS, each in the midst of orders.
    async fn kill_all_in_turns(&mut self, count: &AtomicUsize) -> Result<()> {
        let more = async |orders: usize| {
            let wanted = count.load(Ordering::Relaxed) + orders;
            eventually("more orders to be placed", LIMIT, async || {
                Ok((count.load(Ordering::Relaxed) >= wanted).then_some(()))
            })
            .await
        };
        for round in 0..ROUNDS {
            for place in 0..self.programs.len() {
                more(ORDERS_BETWEEN).await?;
                let program = self.programs.get_mut(place).context("a program")?;
                program.replace().with_context(|| format!("kill {round}/{place}"))?;
            }
            more(ORDERS_BETWEEN).await?;
            if round % 2 == 0 {
                self.mysql.kill().await?;
                self.mysql.start().await?;
            } else {
                self.nats.kill().await?;
                self.nats.start().await?;
            }
        }
        more(ORDERS_MIN.saturating_sub(count.load(Ordering::Relaxed))).await
    }

    /// Waits until every transaction has ended.
    async fn settle(&mut self) -> Result<()> {
        const OPEN: &str =
            "SELECT COUNT(*) FROM orders.tcc_transactions WHERE status NOT IN ('confirmed', 'cancelled')";
        eventually("all transactions to end", LIMIT, async || {
            self.programs.iter_mut().try_for_each(Program::check_running)?;
            let open: Vec<u64> = self.mysql.query(OPEN).await?;
            Ok((open == [0]).then_some(()))
        })
        .await
    }

    async fn verify(&self, placed: &[Placed]) -> Result<()> {
        let confirmed = || placed.iter().filter(|order| order.confirmed);
        for (sku, count) in STOCK {
            let sold = confirmed().filter(|order| order.sku == sku).map(|order| order.quantity).sum();
            self.compare("inventory.stock", "sku", "locked", "sold", sku, count, sold).await?;
        }
        for (customer, money) in MONEY {
            let of = confirmed().filter(|order| order.customer == customer);
            let paid = of.map(|order| order.cents).sum();
            self.compare("payment.accounts", "customer", "held", "paid", customer, money, paid).await?;
        }
        for (code, uses) in COUPONS {
            let used = i64::try_from(confirmed().filter(|order| order.coupon == Some(code)).count())?;
            self.compare("coupon.coupons", "code", "aside", "redeemed", code, uses, used).await?;
        }
        // What clients were told is what was decided.
        let decided: Vec<(String, String)> =
            self.mysql.query("SELECT id, status FROM orders.tcc_transactions ORDER BY id").await?;
        let mut told: Vec<_> = placed
            .iter()
            .map(|order| {
                (order.id.clone(), if order.confirmed { "confirmed" } else { "cancelled" }.to_owned())
            })
            .collect();
        told.sort();
        ensure!(decided == told, "what was decided differs from what clients were told");
        for schema in ["inventory", "payment", "coupon"] {
            let query = format!("SELECT COUNT(*) FROM {schema}.saga_barrier WHERE state = 'done'");
            let open: Vec<u64> = self.mysql.query(&query).await?;
            ensure!(open == [0], "{open:?} branches of {schema} are neither confirmed nor cancelled");
        }
        Ok(())
    }

    /// How many orders were cancelled though nobody has refused them: by what, and how many.
    async fn cancelled_by_faults(&self) -> Result<Vec<(String, u64)>> {
        const FAULTS: &str = "SELECT COALESCE(SUBSTRING_INDEX(error, ':', 1), ''), COUNT(*) FROM orders.tcc_transactions \
             WHERE status = 'cancelled' AND error NOT LIKE '%` refused: %' GROUP BY 1 ORDER BY 2 DESC";
        self.mysql.query(FAULTS).await
    }

    #[expect(clippy::too_many_arguments, reason = "a table's names and what must stand there")]
    async fn compare(
        &self,
        table: &str,
        key: &str,
        reserved: &str,
        taken: &str,
        name: &str,
        begun: i64,
        wanted: i64,
    ) -> Result<()> {
        let query = format!("SELECT free, {reserved}, {taken} FROM {table} WHERE {key} = '{name}'");
        let found: Vec<(i64, i64, i64)> = self.mysql.query(&query).await?;
        let wanted = (begun - wanted, 0, wanted);
        ensure!(found == [wanted], "{name} of {table}: {found:?} in place of {wanted:?}");
        Ok(())
    }
}

#[tokio::test]
async fn stock_money_and_coupons_add_up_whatever_is_killed() -> Result<()> {
    let mut flow = Flow::start().await?;
    let orders = flow.orders;
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let kills = async {
        flow.kill_all_in_turns(&count).await?;
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let clients = try_join_all((0..CLIENTS).map(|_| shop(orders, &stop, &count)));
    let (placed, ()) = tokio::try_join!(clients, kills)?;
    let placed: Vec<_> = placed.into_iter().flatten().collect();
    flow.settle().await?;
    flow.verify(&placed).await?;
    let confirmed = placed.iter().filter(|order| order.confirmed).count();
    let faults = flow.cancelled_by_faults().await?;
    eprintln!("{} orders, {confirmed} confirmed; cancelled but not refused: {faults:?}", placed.len());
    // Most of the kills are of participants, which come back long before the deadline.
    let faults: u64 = faults.iter().map(|(_, count)| count).sum();
    ensure!(
        usize::try_from(faults)? < placed.len() / 4,
        "{faults} of {} were cancelled by faults",
        placed.len()
    );
    ensure!(confirmed > 0 && confirmed < placed.len(), "{confirmed} of {}", placed.len());
    Ok(())
}
