//! Applications that write events, with all that they do to transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use testbed::eventually;
use tokio::task::JoinHandle;

use crate::{Event, TABLE, World};

/// How long a producer waits before it tries to reach a server again that is gone.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long transactions may take to be committed.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);
/// How many letters a payload is filled with at most.
const FILLER_LENGTH: usize = 600;

/// What the load is like.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// How many connections write at once.
    pub producers: u64,
    /// The most rows of a transaction.
    pub rows_max: u64,
    /// How long a producer rests between two transactions.
    pub pause: Duration,
    /// Whether each transaction takes a ticket, which records the order of the commits in the payloads; the
    /// transactions wait for one another then.
    pub tickets: bool,
    /// Where randomness comes from.
    pub seed: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { producers: 3, rows_max: 10, pause: Duration::from_millis(5), tickets: false, seed: 1 }
    }
}

/// A running load on the standard table. Producers outlive the server's death: they connect again.
///
/// Each producer writes its own aggregate, so that the order within an aggregate is that of the commits.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    producers: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts to write.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached.
    pub async fn start(world: &World, options: &LoadOptions) -> Result<Self> {
        if options.tickets {
            let sql = "CREATE TABLE IF NOT EXISTS shop.ticket (n BIGINT UNSIGNED NOT NULL); \
                       INSERT INTO shop.ticket VALUES (0)";
            world.database.exec(sql).await?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let producer = |number| {
            let producer = Producer {
                name: format!("producer-{number}"),
                opts: world.database.root_opts(),
                options: options.clone(),
                random: SmallRng::seed_from_u64(options.seed.wrapping_mul(1_000) + number),
                rows: 0,
                stop: stop.clone(),
                committed: committed.clone(),
            };
            tokio::spawn(producer.run())
        };
        let producers = (0..options.producers).map(producer).collect();
        Ok(Self { stop, committed, producers })
    }

    /// How many transactions were committed, as far as producers know.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until so many more transactions are committed.
    ///
    /// # Errors
    ///
    /// When it takes too long.
    pub async fn await_more(&self, transactions: u64) -> Result<()> {
        let wanted = self.committed() + transactions;
        let what = format!("{transactions} more transactions");
        eventually(&what, COMMIT_LIMIT, async || Ok((self.committed() >= wanted).then_some(()))).await
    }

    /// Ends the load and waits for what is under way.
    ///
    /// # Errors
    ///
    /// When a producer failed.
    pub async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for producer in self.producers {
            producer.await??;
        }
        Ok(self.committed.load(Ordering::Relaxed))
    }
}

struct Producer {
    name: String,
    opts: Opts,
    options: LoadOptions,
    random: SmallRng,
    rows: u64,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Producer {
    async fn run(mut self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let connecting = tokio::time::timeout(CONNECT_LIMIT, Conn::new(self.opts.clone()));
            let Ok(Ok(mut conn)) = connecting.await else {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                continue;
            };
            match self.write(&mut conn).await {
                Ok(()) => conn.disconnect().await?,
                // The server is gone; whether it has committed the last transaction, its table will tell.
                Err(mysql_async::Error::Io(_) | mysql_async::Error::Driver(_)) => {}
                // As it goes it says so.
                Err(mysql_async::Error::Server(error)) if matches!(error.code, 1053 | 1152 | 1927 | 3169) => {
                }
                Err(error) => return Err(error).with_context(|| self.name.clone()),
            }
        }
        Ok(())
    }

    async fn write(&mut self, conn: &mut Conn) -> Result<(), mysql_async::Error> {
        while !self.stop.load(Ordering::Relaxed) {
            match self.transaction(conn).await {
                // A deadlock has rolled the transaction back, as happens to applications.
                Err(mysql_async::Error::Server(error)) if matches!(error.code, 1205 | 1213) => {
                    conn.query_drop("ROLLBACK").await?;
                }
                outcome => outcome?,
            }
            tokio::time::sleep(self.options.pause).await;
        }
        Ok(())
    }

    /// One transaction: several rows, singly or at once; sometimes a part of it is rolled back, sometimes all.
    async fn transaction(&mut self, conn: &mut Conn) -> Result<(), mysql_async::Error> {
        conn.query_drop("BEGIN").await?;
        let ticket = if self.options.tickets {
            conn.query_drop("UPDATE shop.ticket SET n = LAST_INSERT_ID(n + 1)").await?;
            conn.last_insert_id()
        } else {
            None
        };
        let rows = self.random.random_range(1..=self.options.rows_max);
        let events: Vec<Event> = (0..rows).map(|_| self.event(ticket)).collect();
        if self.random.random_bool(0.5) {
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
        }
        if self.random.random_bool(0.1) {
            return conn.query_drop("ROLLBACK").await;
        }
        conn.query_drop("COMMIT").await?;
        self.committed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn event(&mut self, ticket: Option<u64>) -> Event {
        self.rows += 1;
        let mut event = Event::new(self.rows);
        event.aggregate_id.clone_from(&self.name);
        match ticket {
            Some(ticket) => event.payload(format!("{{\"n\": {}, \"ticket\": {ticket}}}", self.rows)),
            None => event.filled(self.rows, FILLER_LENGTH, &mut self.random),
        }
    }
}
