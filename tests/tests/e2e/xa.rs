//! XA transactions: published when they commit, in the order of the commits, and never when they are rolled back.

use std::time::Duration;

use anyhow::Result;
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Expected, Order, TABLE, World};
use testbed::{Flavour, eventually};

/// A world, and the events in the order of their commits.
struct Scene {
    world: World,
    bridge: Bridge,
    committed: Vec<Event>,
}

impl Scene {
    async fn new(world: World) -> Result<Self> {
        let bridge = world.bridge().await?;
        Ok(Self { world, bridge, committed: Vec::new() })
    }

    /// Prepares a transaction and leaves it to others. The same numbers are inserted once only: ids are random.
    async fn prepare(&self, xid: &str, events: &[Event]) -> Result<()> {
        let mut conn = self.world.conn().await?;
        let inserts = Event::insert_sql(TABLE, events);
        conn.query_drop(format!("XA START {xid}; {inserts}; XA END {xid}; XA PREPARE {xid}")).await?;
        conn.disconnect().await?;
        Ok(())
    }

    async fn commit(&mut self, xid: &str, events: Vec<Event>) -> Result<()> {
        self.end(&format!("XA COMMIT {xid}")).await?;
        self.committed.extend(events);
        Ok(())
    }

    async fn roll_back(&self, xid: &str) -> Result<()> {
        self.end(&format!("XA ROLLBACK {xid}")).await
    }

    /// Ends what another session prepared. The server lets go of it for others only when it has noticed that session's end.
    async fn end(&self, statement: &str) -> Result<()> {
        eventually(statement, Duration::from_secs(10), async || {
            match self.world.database.exec(statement).await {
                Err(error) if is_unknown_xid(&error) => Ok(None),
                done => done.map(Some),
            }
        })
        .await
    }

    async fn insert(&mut self, number: u64) -> Result<()> {
        let event = Event::new(number);
        event.insert(&mut self.world.conn().await?, TABLE).await?;
        self.committed.push(event);
        Ok(())
    }

    async fn verify(&mut self) -> Result<()> {
        let last = self.world.settle(&mut self.bridge).await?;
        self.committed.extend(last.into_iter().map(|(_, event)| event));
        let expected: Vec<_> = self.committed.iter().map(|event| Expected::of(TABLE, event)).collect();
        self.world.verify_rows(&self.bridge, &expected, Order::Total).await
    }
}

fn is_unknown_xid(error: &anyhow::Error) -> bool {
    const XAER_NOTA: u16 = 1397;
    let error = error.downcast_ref::<mysql_async::Error>();
    matches!(error, Some(mysql_async::Error::Server(error)) if error.code == XAER_NOTA)
}

fn events(numbers: std::ops::Range<u64>) -> Vec<Event> {
    numbers.map(Event::new).collect()
}

async fn outcomes_in_their_order(flavour: Flavour) -> Result<()> {
    let mut scene = Scene::new(World::of(flavour).start().await?).await?;
    let (first, second, third) = (events(10..12), events(20..23), events(30..31));
    // A format, a qualifier, and bytes that need quoting in a log.
    let (a, b, c) = ("'a'", "'it''s','branch',7", "X'00FF27'");
    scene.prepare(a, &first).await?;
    scene.insert(1).await?;
    scene.prepare(b, &second).await?;
    scene.prepare(c, &third).await?;
    scene.verify().await?;
    scene.commit(b, second).await?;
    scene.insert(2).await?;
    scene.roll_back(c).await?;
    scene.commit(a, first).await?;

    // The same name again, with another outcome.
    scene.prepare(a, &events(40..42)).await?;
    scene.roll_back(a).await?;
    let again = events(50..52);
    scene.prepare(a, &again).await?;
    scene.commit(a, again).await?;

    // In one phase, and rolled back without having been prepared.
    let one = events(60..61);
    let inserts = Event::insert_sql(TABLE, &one);
    let sql = format!("XA START 'one'; {inserts}; XA END 'one'; XA COMMIT 'one' ONE PHASE");
    scene.world.database.exec(&sql).await?;
    scene.committed.extend(one);
    let inserts = Event::insert_sql(TABLE, &events(70..71));
    scene.world.database.exec(&format!("XA START 'no'; {inserts}; XA END 'no'; XA ROLLBACK 'no'")).await?;

    // Without outbox rows.
    scene.world.database.exec("CREATE TABLE shop.plain (n INT PRIMARY KEY)").await?;
    let sql = "XA START 'p'; INSERT INTO shop.plain VALUES (1); XA END 'p'; XA PREPARE 'p'";
    scene.world.database.exec(sql).await?;
    scene.insert(3).await?;
    scene.commit("'p'", Vec::new()).await?;
    scene.verify().await?;
    scene.bridge.stop().await
}

#[tokio::test]
async fn outcomes_in_their_order_of_mysql() -> Result<()> {
    outcomes_in_their_order(Flavour::MySql).await
}

#[tokio::test]
async fn outcomes_in_their_order_of_mariadb() -> Result<()> {
    outcomes_in_their_order(Flavour::MariaDb).await
}

/// The outcome comes after the bridge has ended and started, once and more, in both ways to end.
async fn the_bridge_restarts_between(flavour: Flavour) -> Result<()> {
    let mut scene = Scene::new(World::of(flavour).start().await?).await?;
    let (first, second, third) = (events(10..13), events(20..23), events(30..33));
    scene.prepare("'a'", &first).await?;
    scene.insert(1).await?;
    scene.prepare("'b'", &second).await?;
    scene.verify().await?;
    // A checkpoint past both prepares.
    scene.bridge.stop().await?;
    scene.prepare("'c'", &third).await?;
    scene.roll_back("'b'").await?;
    scene.insert(2).await?;
    scene.bridge.relaunch().await?;
    scene.verify().await?;
    scene.bridge.kill()?;
    scene.commit("'c'", third).await?;
    scene.bridge.relaunch().await?;
    scene.verify().await?;
    scene.bridge.stop().await?;
    scene.bridge.relaunch().await?;
    scene.commit("'a'", first).await?;
    scene.verify().await?;
    scene.bridge.stop().await
}

#[tokio::test]
async fn the_bridge_restarts_between_with_mysql() -> Result<()> {
    the_bridge_restarts_between(Flavour::MySql).await
}

#[tokio::test]
async fn the_bridge_restarts_between_with_mariadb() -> Result<()> {
    the_bridge_restarts_between(Flavour::MariaDb).await
}

/// The server dies between, so that the outcome stands in another file.
async fn the_server_restarts_between(flavour: Flavour) -> Result<()> {
    let mut scene = Scene::new(World::of(flavour).durable().start().await?).await?;
    let (first, second) = (events(10..13), events(20..23));
    scene.prepare("'a'", &first).await?;
    scene.prepare("'b'", &second).await?;
    scene.verify().await?;
    scene.world.database.kill().await?;
    scene.world.database.start().await?;
    scene.insert(1).await?;
    scene.roll_back("'b'").await?;
    scene.bridge.stop().await?;
    scene.world.database.restart().await?;
    scene.bridge.relaunch().await?;
    scene.commit("'a'", first).await?;
    scene.verify().await?;
    scene.bridge.stop().await
}

#[tokio::test]
async fn the_server_restarts_between_with_mysql() -> Result<()> {
    the_server_restarts_between(Flavour::MySql).await
}

#[tokio::test]
async fn the_server_restarts_between_with_mariadb() -> Result<()> {
    the_server_restarts_between(Flavour::MariaDb).await
}

/// Prepared before the bridge's first start, which begins "now", and committed after it: committed inserts, so events.
async fn prepared_before_the_first_start(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let (first, second) = (events(10..13), events(20..23));
    for (xid, events) in [("'a'", &first), ("'b'", &second)] {
        let inserts = Event::insert_sql(TABLE, events);
        let sql = format!("XA START {xid}; {inserts}; XA END {xid}; XA PREPARE {xid}");
        world.database.exec(&sql).await?;
        world.database.exec("FLUSH BINARY LOGS").await?;
    }
    world.insert(0..3).await?;
    let mut scene = Scene::new(world).await?;
    scene.insert(1).await?;
    scene.roll_back("'b'").await?;
    scene.commit("'a'", first).await?;
    scene.verify().await?;
    scene.bridge.stop().await
}

#[tokio::test]
async fn prepared_before_the_first_start_with_mysql() -> Result<()> {
    prepared_before_the_first_start(Flavour::MySql).await
}

#[tokio::test]
async fn prepared_before_the_first_start_with_mariadb() -> Result<()> {
    prepared_before_the_first_start(Flavour::MariaDb).await
}

/// More rows than the bridge may hold.
async fn larger_than_the_buffer(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let settings = world.settings().set("source.transaction_buffer_bytes_max", "64KiB");
    let bridge = Bridge::start(&settings).await?;
    let mut scene = Scene { world, bridge, committed: Vec::new() };
    let large = |from: u64| -> Vec<Event> {
        let payload = |number| format!("{{\"n\": {number}, \"filler\": \"{}\"}}", "x".repeat(1_000));
        (from..from + 300).map(|number| Event::new(number).payload(payload(number))).collect()
    };
    let (first, second, third) = (large(1_000), large(2_000), large(3_000));
    scene.prepare("'a'", &first).await?;
    scene.prepare("'b'", &second).await?;
    scene.insert(1).await?;
    scene.prepare("'c'", &third).await?;
    scene.roll_back("'b'").await?;
    scene.commit("'c'", third).await?;
    scene.verify().await?;
    scene.bridge.stop().await?;
    scene.bridge.relaunch().await?;
    scene.commit("'a'", first).await?;
    scene.insert(2).await?;
    scene.verify().await?;
    scene.bridge.stop().await
}

#[tokio::test]
async fn larger_than_the_buffer_with_mysql() -> Result<()> {
    larger_than_the_buffer(Flavour::MySql).await
}

#[tokio::test]
async fn larger_than_the_buffer_with_mariadb() -> Result<()> {
    larger_than_the_buffer(Flavour::MariaDb).await
}
