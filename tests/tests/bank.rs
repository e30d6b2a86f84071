//! A bank of two services: one debits accounts and writes transfers, the other credits them. Whatever dies meanwhile, in the
//! end the sums agree to the cent, every transfer had its effect once, and in the order of its account.

use std::fmt::Display;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outbox_bridge_tests::{TABLE, World};
use outbox_producer::{Event, Outbox};
use serde::Serialize;
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use testbed::eventually;

const ACCOUNTS: u32 = 20;
const SCHEMA: &str = "\
    CREATE DATABASE bank; CREATE DATABASE ledger; \
    CREATE TABLE bank.accounts (account INT PRIMARY KEY, cents BIGINT NOT NULL, transfers BIGINT NOT NULL); \
    CREATE TABLE ledger.accounts (account INT PRIMARY KEY, cents BIGINT NOT NULL); \
    CREATE TABLE ledger.effects (place BIGINT AUTO_INCREMENT PRIMARY KEY, message_id VARCHAR(64) NOT NULL, \
      account INT NOT NULL, number BIGINT NOT NULL)";

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

/// The service that credits, as a process; killed on drop.
struct Ledger(Child);

impl Ledger {
    fn start(world: &World) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_bank_consumer"))
            .env("BANK_NATS", world.nats.url())
            .env("BANK_DATABASE", database_url(world, "ledger"))
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

fn database_url(world: &World, schema: &str) -> String {
    format!("mysql://root@127.0.0.1:{}/{schema}", world.database.port())
}

#[tokio::test]
async fn the_sums_agree_whatever_dies() -> Result<()> {
    let mut world = World::mysql().durable().start().await?;
    world.database.exec(SCHEMA).await?;
    for account in 0..ACCOUNTS {
        let rows = format!(
            "INSERT INTO bank.accounts VALUES ({account}, 0, 0); INSERT INTO ledger.accounts VALUES ({account}, 0)"
        );
        world.database.exec(&rows).await?;
    }
    let mut bridge = world.bridge().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tellers = Vec::new();
    for _ in 0..3 {
        let (url, stop) = (database_url(&world, "bank"), Arc::clone(&stop));
        let options = MySqlPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(5));
        let pool = options.connect(&url).await?;
        tellers.push(tokio::spawn(async move {
            let outbox = Outbox::new(TABLE)?;
            while !stop.load(Ordering::Relaxed) {
                // What a dying server makes of a transfer stands in its tables afterwards.
                drop(transfer(&pool, &outbox).await);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        }));
    }

    let mut ledger = Ledger::start(&world)?;
    let begin = Instant::now();
    let mut round = 0;
    while begin.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(rand::random_range(300..1_500))).await;
        match round % 6 {
            1 => {
                world.nats.kill().await?;
                world.nats.start().await?;
            }
            3 => {
                world.database.kill().await?;
                world.database.start().await?;
            }
            5 => {
                bridge.kill()?;
                bridge.relaunch().await?;
            }
            _ => {
                ledger.kill()?;
                ledger = Ledger::start(&world)?;
            }
        }
        round += 1;
    }
    stop.store(true, Ordering::Relaxed);
    for teller in tellers {
        teller.await??;
    }

    let count = async |sql: &str| -> Result<i64> {
        world.database.query::<i64>(sql).await?.first().copied().context("no row")
    };
    let events = count(&format!("SELECT COUNT(*) FROM {TABLE}")).await?;
    ensure!(events > 200, "{events} transfers");
    let effects = "SELECT COUNT(*) FROM ledger.effects";
    eventually("all effects", Duration::from_secs(60), async || {
        bridge.check_running()?;
        Ok((count(effects).await? >= events).then_some(()))
    })
    .await?;
    // An effect too many would come now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(count(effects).await? == events, "{} effects of {events} transfers", count(effects).await?);
    let doubled = "SELECT COUNT(*) - COUNT(DISTINCT message_id) FROM ledger.effects";
    ensure!(count(doubled).await? == 0, "some transfers had their effect twice");
    let off = "SELECT COUNT(*) FROM bank.accounts b JOIN ledger.accounts l USING (account) WHERE b.cents + l.cents <> 0";
    ensure!(count(off).await? == 0, "{} accounts do not agree", count(off).await?);
    let turned = "SELECT COUNT(*) FROM (SELECT number, LAG(number) OVER (PARTITION BY account ORDER BY place) AS before_it \
                  FROM ledger.effects) e WHERE before_it IS NOT NULL AND number <= before_it";
    ensure!(count(turned).await? == 0, "{} effects are out of their account's order", count(turned).await?);
    bridge.stop().await
}
