//! Applications that write events, with all that they do to transactions. They outlive the server's deaths.
//!
//! Each writes an aggregate of its own and numbers its events, so that within an aggregate the numbers ascend in the order of the
//! commits. Those that take a ticket wait for one another, so that tickets tell the order of their commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts};
use outbox_bridge_tests::{Event, TABLE};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::place::LARGE_BYTES;

/// How long a producer waits before it tries to reach a server again that is gone.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// A server that was frozen answers later; a connection that broke does not.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);
/// Rows of a large transaction, and how many go into one statement.
const LARGE_ROWS: u64 = 4_000;
const LARGE_CHUNK: u64 = 500;
/// How many letters a payload is filled with at most.
const FILLER_LENGTH: usize = 400;
/// How often a payload is too large for a message, and how often a row can be none.
const LARGE_PROBABILITY: f64 = 0.000_5;
const POISON_PROBABILITY: f64 = 0.000_5;

/// What a producer is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Small transactions, sometimes rolled back, wholly or to a savepoint.
    Small,
    /// The same in compressed transactions.
    Compressed,
    /// XA transactions, whose outcome comes later, sometimes after a restart of the server.
    Xa,
    /// Now and then a transaction of thousands of rows.
    Large,
    /// Changes of the table's definition, new log files, other tables' rows.
    Administrator,
}

const HABITS: [Habit; 6] =
    [Habit::Small, Habit::Small, Habit::Compressed, Habit::Xa, Habit::Large, Habit::Administrator];

/// The running producers; none by default.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Producers {
    /// Starts to write to the server that `writable` names at the time, whose tables are there.
    pub(crate) fn start(writable: &watch::Receiver<Option<Opts>>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let tasks = HABITS.into_iter().zip(0_u64..).map(|(habit, number)| {
            let producer = Producer {
                name: format!("producer-{number}"),
                habit,
                writable: writable.clone(),
                random: SmallRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number)),
                rows: 0,
                turns: 0,
                stop: stop.clone(),
                committed: committed.clone(),
            };
            tokio::spawn(producer.run())
        });
        let tasks = tasks.collect();
        Self { stop, committed, tasks }
    }

    /// How many events were committed, as far as producers know.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Fails if a producer has failed.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let failed = self.tasks.iter().position(JoinHandle::is_finished);
        match failed {
            Some(index) => self.tasks.swap_remove(index).await?.context("a producer ended"),
            None => Ok(()),
        }
    }

    /// Ends the load and waits for what is under way.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

struct Producer {
    name: String,
    habit: Habit,
    writable: watch::Receiver<Option<Opts>>,
    random: SmallRng,
    rows: u64,
    turns: u64,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

type Done = Result<(), mysql_async::Error>;

impl Producer {
    async fn run(mut self) -> Result<()> {
        while !self.is_stopped() {
            let Some(mut conn) = self.connect().await else {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                continue;
            };
            match self.write(&mut conn).await {
                Ok(()) => conn.disconnect().await?,
                // The server is gone; whether it has committed the last transaction, its table will tell.
                Err(mysql_async::Error::Io(_) | mysql_async::Error::Driver(_)) => {}
                // It says so as it goes, or it has rolled the transaction back, as happens to applications.
                Err(mysql_async::Error::Server(error)) if is_usual(error.code) => {}
                Err(error) => return Err(error).with_context(|| format!("{} ({:?})", self.name, self.habit)),
            }
            // What is left of the connection is closed by now; the server may need a moment to notice.
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        Ok(())
    }

    async fn connect(&self) -> Option<Conn> {
        let opts = self.writable.borrow().clone()?;
        let connecting = tokio::time::timeout(CONNECT_LIMIT, Conn::new(opts));
        connecting.await.ok()?.ok()
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn write(&mut self, conn: &mut Conn) -> Done {
        conn.query_drop("SET SESSION innodb_lock_wait_timeout = 10, lock_wait_timeout = 10").await?;
        if self.habit == Habit::Compressed {
            conn.query_drop("SET SESSION binlog_transaction_compression = ON").await?;
        }
        if self.habit == Habit::Xa {
            self.end_prepared(conn).await?;
        }
        while !self.is_stopped() {
            self.turns += 1;
            let turn = async {
                match self.habit {
                    Habit::Small | Habit::Compressed => self.small(conn).await,
                    Habit::Xa => self.xa(conn).await,
                    Habit::Large if self.turns.is_multiple_of(40) => self.large(conn).await,
                    Habit::Large => self.small(conn).await,
                    Habit::Administrator => self.administrate(conn).await,
                }
            };
            match tokio::time::timeout(STATEMENT_LIMIT, turn).await {
                Ok(done) => done?,
                // Whatever it was, it is the server's to end.
                Err(_) => return Ok(()),
            }
            tokio::time::sleep(Duration::from_millis(self.random.random_range(1..25))).await;
        }
        Ok(())
    }

    /// Several rows, singly or at once; sometimes a part of it is rolled back, sometimes all.
    async fn small(&mut self, conn: &mut Conn) -> Done {
        conn.query_drop("BEGIN").await?;
        let ticket = take_ticket(conn).await?;
        let rows = self.random.random_range(1..=6);
        let events: Vec<Event> = (0..rows).map(|_| self.event(ticket)).collect();
        let mut inserted = rows;
        if self.random.random() {
            conn.query_drop(Event::insert_sql(TABLE, &events)).await?;
        } else {
            for event in &events {
                event.insert(conn, TABLE).await?;
            }
        }
        if self.random.random_bool(0.1) {
            conn.query_drop("SAVEPOINT a").await?;
            self.event(ticket).insert(conn, TABLE).await?;
            conn.query_drop("ROLLBACK TO SAVEPOINT a").await?;
            self.event(ticket).insert(conn, TABLE).await?;
            inserted += 1;
        }
        self.end(conn, inserted).await
    }

    /// Thousands of rows, more than the bridge holds.
    async fn large(&mut self, conn: &mut Conn) -> Done {
        conn.query_drop("BEGIN").await?;
        let ticket = take_ticket(conn).await?;
        for _ in 0..LARGE_ROWS / LARGE_CHUNK {
            let events: Vec<Event> = (0..LARGE_CHUNK).map(|_| self.event(ticket)).collect();
            conn.query_drop(Event::insert_sql(TABLE, &events)).await?;
        }
        self.end(conn, LARGE_ROWS).await
    }

    async fn end(&mut self, conn: &mut Conn, rows: u64) -> Done {
        if self.random.random_bool(0.1) {
            return conn.query_drop("ROLLBACK").await;
        }
        conn.query_drop("COMMIT").await?;
        self.committed.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }

    /// A prepared transaction, and some time later its outcome.
    async fn xa(&mut self, conn: &mut Conn) -> Done {
        let xid = format!("'chaos-{}'", self.turns);
        let rows = self.random.random_range(1..=4);
        let events: Vec<Event> = (0..rows).map(|_| self.event(None)).collect();
        let inserts = Event::insert_sql(TABLE, &events);
        conn.query_drop(format!("XA START {xid}; {inserts}; XA END {xid}; XA PREPARE {xid}")).await?;
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..400))).await;
        if self.random.random_bool(0.3) {
            return conn.query_drop(format!("XA ROLLBACK {xid}")).await;
        }
        conn.query_drop(format!("XA COMMIT {xid}")).await?;
        self.committed.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }

    /// What a lost connection left prepared gets its outcome before anything else is begun.
    async fn end_prepared(&mut self, conn: &mut Conn) -> Done {
        loop {
            let prepared: Vec<(u64, u64, u64, String)> = conn.query("XA RECOVER").await?;
            if prepared.is_empty() {
                return Ok(());
            }
            for (_, _, _, xid) in prepared {
                let outcome = if self.random.random() { "COMMIT" } else { "ROLLBACK" };
                match conn.query_drop(format!("XA {outcome} '{xid}'")).await {
                    // The server has not yet noticed that the session is gone which prepared it.
                    Err(mysql_async::Error::Server(error)) if error.code == XAER_NOTA => {
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                    }
                    done => done?,
                }
            }
        }
    }

    async fn administrate(&mut self, conn: &mut Conn) -> Done {
        match self.turns % 60 {
            10 => {
                conn.query_drop(format!("ALTER TABLE {TABLE} ADD COLUMN note VARCHAR(20) NULL AFTER id"))
                    .await
            }
            25 => conn.query_drop(format!("ALTER TABLE {TABLE} ADD INDEX by_aggregate (aggregate_id)")).await,
            40 => conn.query_drop(format!("ALTER TABLE {TABLE} DROP COLUMN note")).await,
            55 => conn.query_drop(format!("ALTER TABLE {TABLE} DROP INDEX by_aggregate")).await,
            turn if turn.is_multiple_of(20) => conn.query_drop("FLUSH BINARY LOGS").await,
            _ => {
                conn.query_drop("INSERT INTO shop.noise (text) VALUES (REPEAT('n', 400)), (REPEAT('m', 900))")
                    .await
            }
        }
    }

    fn event(&mut self, ticket: Option<u64>) -> Event {
        self.rows += 1;
        let mut event = Event::new(self.rows);
        event.aggregate_id.clone_from(&self.name);
        let length = self.random.random_range(0..=FILLER_LENGTH);
        let large = self.random.random_bool(LARGE_PROBABILITY);
        let filler = "x".repeat(if large { length + 2 * LARGE_BYTES } else { length });
        // An array is no headers, so this one can be no message.
        if self.random.random_bool(POISON_PROBABILITY) {
            event = event.headers("[]");
        }
        event.payload(match ticket {
            Some(ticket) => {
                format!("{{\"n\": {}, \"filler\": \"{filler}\", \"ticket\": {ticket}}}", self.rows)
            }
            None => format!("{{\"n\": {}, \"filler\": \"{filler}\"}}", self.rows),
        })
    }
}

const XAER_NOTA: u16 = 1397;

/// What a server says as it goes, or when it takes no writes as another one is to take its place; a deadlock or a wait for a lock that was too long; a definition that a killed
/// administrator had changed already.
fn is_usual(code: u16) -> bool {
    matches!(
        code,
        1053 | 1152
            | 1927
            | 3169
            | 1205
            | 1213
            | 1317
            | 1290
            | 1613
            | 1614
            | 1836
            | 1060
            | 1061
            | 1091
            | XAER_NOTA
    )
}

/// The transaction's place in the order of commits; it is the only one under way that has one.
async fn take_ticket(conn: &mut Conn) -> Result<Option<u64>, mysql_async::Error> {
    conn.query_drop("UPDATE shop.ticket SET n = LAST_INSERT_ID(n + 1)").await?;
    Ok(conn.last_insert_id())
}
