//! A bank of two services: one debits accounts and writes transfers, the other credits them. Whatever dies meanwhile, in the
//! end the sums agree to the cent, every transfer had its effect once, and in the order of its account.

mod ledger;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::TryStreamExt;
use outbox_bridge_tests::{self as bridge, STREAM, TABLE, World};
use outbox_producer::{Event, Outbox};
use serde::Serialize;
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use testbed::{Postgres, eventually};
use tokio::task::JoinHandle;

use self::ledger::{Database, Ledger};

const ACCOUNTS: u32 = 20;
/// How many partitions a ledger of several instances has.
const PARTITIONS: u16 = 6;
/// How long the consumers' lease lasts: see the process's settings.
const LEASE: Duration = Duration::from_secs(2);
const SCHEMA: &str = "\
    CREATE DATABASE bank; \
    CREATE TABLE bank.accounts (account INT PRIMARY KEY, cents BIGINT NOT NULL, transfers BIGINT NOT NULL)";

#[derive(Debug, Serialize)]
struct Transferred {
    account: u32,
    number: i64,
    cents: i64,
}

impl Event for Transferred {
    const TYPE: &'static str = "transferred";
    const AGGREGATE_TYPE: &'static str = "account";

    fn aggregate_id(&self) -> impl Display {
        self.account
    }
}

/// Debits a random account and says so, in one transaction.
async fn transfer(pool: &MySqlPool, outbox: &Outbox) -> Result<()> {
    let (account, cents) = (rand::random_range(0..ACCOUNTS), rand::random_range(1..10_000_i64));
    let mut transaction = pool.begin().await?;
    sqlx::query("UPDATE bank.accounts SET cents = cents - ?, transfers = transfers + 1 WHERE account = ?")
        .bind(cents)
        .bind(account)
        .execute(&mut *transaction)
        .await?;
    let number: i64 = sqlx::query_scalar("SELECT transfers FROM bank.accounts WHERE account = ?")
        .bind(account)
        .fetch_one(&mut *transaction)
        .await?;
    outbox.write(&mut transaction, &Transferred { account, number, cents }).await?;
    if rand::random_ratio(1, 10) {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    Ok(())
}

fn database_url(world: &World, schema: &str) -> String {
    format!("mysql://root@127.0.0.1:{}/{schema}", world.database.port())
}

/// Three tellers at work until they are told to stop.
struct Tellers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Tellers {
    async fn start(world: &World) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let (url, stop) = (database_url(world, "bank"), Arc::clone(&stop));
            let options = MySqlPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(5));
            let pool = options.connect(&url).await?;
            tasks.push(tokio::spawn(async move {
                let outbox = Outbox::new(TABLE)?;
                while !stop.load(Ordering::Relaxed) {
                    // What a dying server makes of a transfer stands in its tables afterwards.
                    drop(transfer(&pool, &outbox).await);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            }));
        }
        Ok(Self { stop, tasks })
    }

    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

/// The ledger and its inbox are in MySQL, and one instance works at a time.
#[tokio::test]
async fn the_sums_agree_whatever_dies() -> Result<()> {
    let world = World::mysql().durable().start().await?;
    run(world, Database::MySql, 1).await
}

/// The ledger and its inbox are in Postgres, and two instances share the work by partitions.
#[tokio::test]
async fn the_sums_agree_with_partitions_and_postgres() -> Result<()> {
    let subject = format!("orders.{{partition:{PARTITIONS}}}.{{type}}");
    let outbox = bridge::Outbox::new(TABLE, STREAM, &subject);
    let world = World::mysql().durable().outbox(outbox).start().await?;
    let database = Database::Postgres(Box::new(Postgres::builder().start().await?));
    run(world, database, 2).await
}

async fn run(mut world: World, mut database: Database, instances: usize) -> Result<()> {
    world.database.exec(SCHEMA).await?;
    database.create(&world).await?;
    for account in 0..ACCOUNTS {
        world.database.exec(&format!("INSERT INTO bank.accounts VALUES ({account}, 0, 0)")).await?;
        database.exec(&world, &format!("INSERT INTO ledger.accounts VALUES ({account}, 0)")).await?;
    }
    let mut bridge = world.bridge().await?;
    let tellers = Tellers::start(&world).await?;
    let mut ledger = Ledger::start(&world, &database, instances)?;
    let begin = Instant::now();
    for round in 0.. {
        tokio::time::sleep(Duration::from_millis(rand::random_range(300..1_500))).await;
        match round % 8 {
            1 => {
                world.nats.kill().await?;
                world.nats.start().await?;
            }
            2 => ledger.repeat_all(&world).await?,
            3 => {
                world.database.kill().await?;
                world.database.start().await?;
            }
            4 => ledger.freeze_one(LEASE + Duration::from_millis(500)).await?,
            5 => {
                bridge.kill()?;
                bridge.relaunch().await?;
            }
            7 => {
                if let Database::Postgres(server) = &mut database {
                    server.kill().await?;
                    server.start().await?;
                }
            }
            _ => ledger.replace_one()?,
        }
        if begin.elapsed() > Duration::from_secs(20) && round >= 8 {
            break;
        }
    }
    tellers.stop().await?;
    let events = world.database.query::<i64>(&format!("SELECT COUNT(*) FROM {TABLE}")).await?;
    let events = events.first().copied().context("no count")?;
    ensure!(events > 200, "{events} transfers");
    eventually("all effects", Duration::from_secs(60), async || {
        bridge.check_running()?;
        Ok((database.count(&world, EFFECTS).await? >= events).then_some(()))
    })
    .await?;
    settle(&world).await?;
    verify(&world, &database, events).await?;
    ledger.repeat_all(&world).await?;
    settle(&world).await?;
    verify(&world, &database, events).await.context("after everything was delivered once more")?;
    bridge.stop().await
}

const EFFECTS: &str = "SELECT COUNT(*) FROM ledger.effects";

/// Waits until the ledger has acknowledged all that is in the stream.
async fn settle(world: &World) -> Result<()> {
    let stream = async_nats::jetstream::new(world.nats.client().await?).get_stream(STREAM).await?;
    eventually("everything acknowledged", Duration::from_secs(60), async || {
        let mut consumers = stream.consumers();
        let mut seen = 0;
        while let Some(info) = consumers.try_next().await? {
            seen += 1;
            if info.num_pending > 0 || info.num_ack_pending > 0 {
                return Ok(None);
            }
        }
        Ok((seen > 0).then_some(()))
    })
    .await
}

async fn verify(world: &World, database: &Database, events: i64) -> Result<()> {
    let effects = database.count(world, EFFECTS).await?;
    ensure!(effects == events, "{effects} effects of {events} transfers");
    let doubled = "SELECT COUNT(*) - COUNT(DISTINCT message_id) FROM ledger.effects";
    ensure!(database.count(world, doubled).await? == 0, "some transfers had their effect twice");
    let sent = "SELECT account, -cents FROM bank.accounts ORDER BY account";
    let sent: Vec<(i32, i64)> = world.database.query(sent).await?;
    let received = database.balances(world).await?;
    ensure!(sent == received, "the accounts do not agree: {sent:?} were sent, {received:?} received");
    let turned = "SELECT COUNT(*) FROM (SELECT number, LAG(number) OVER (PARTITION BY account ORDER BY place) AS before_it \
                  FROM ledger.effects) e WHERE before_it IS NOT NULL AND number <= before_it";
    let turned = database.count(world, turned).await?;
    ensure!(turned == 0, "{turned} effects are out of their account's order");
    Ok(())
}
