//! A log of transactions, and a source that reads it and is sometimes lost.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    checkpoint::{At, LogPoint, Transaction},
    publish::{Message, Poison, PoisonKind, TransactionId},
    source::{Batch, Source, SourceError},
};

/// All transactions that are ever committed.
#[derive(Debug)]
pub(super) struct Log {
    transactions: Vec<Vec<(usize, Message)>>,
    ids: Vec<Arc<TransactionId>>,
    /// For each stream, the rows that it must hold in the end.
    pub(super) expected: Vec<Vec<(String, u64)>>,
    /// Some ids are inserted twice.
    pub(super) doubles: bool,
    /// Ids of rows that the streams refuse or the network swallows, each with how.
    pub(super) poison: HashMap<String, Harm>,
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    /// The stream refuses it.
    Refused,
    /// The client does not send it.
    Unsendable,
    /// It is dropped without a word.
    Swallowed,
    /// It never was a message.
    Unroutable,
}

impl Log {
    pub(super) fn generate(random: &mut SmallRng) -> Self {
        let mut transactions = Vec::new();
        let mut ids = Vec::new();
        let mut expected = vec![Vec::new(); super::STREAMS.len()];
        let mut known = HashSet::new();
        let (mut file_number, mut offset) = (1, 4);
        let mut last_id = String::new();
        let doubles = random.random_ratio(1, 8);
        let poisoned = !doubles && random.random_ratio(1, 3);
        let mut poison = HashMap::new();
        for number in 0..random.random_range(1..120_u64) {
            if random.random_ratio(1, 20) {
                (file_number, offset) = (file_number + 1, 4);
            }
            let transaction = Arc::new(TransactionId {
                gtid: format!("0-1-{number}"),
                file: format!("binlog.{file_number:06}").into(),
                file_number,
                offset,
                committed_micros: number,
            });
            let mut rows = Vec::new();
            let mut counts = [0; super::STREAMS.len()];
            let size = match random.random_range(0..20) {
                0..=10 => 1,
                11..=14 => 0,
                15..=18 => random.random_range(2..6),
                _ => random.random_range(50..300),
            };
            for row in 0..size {
                let stream = usize::from(random.random_ratio(1, 3));
                let id = if doubles && random.random_ratio(1, 30) && !last_id.is_empty() {
                    last_id.clone()
                } else {
                    format!("{number}-{row}")
                };
                last_id.clone_from(&id);
                if known.insert((stream, id.clone())) {
                    expected[stream].push((id.clone(), counts[stream]));
                }
                let harm = (poisoned && random.random_ratio(1, 6)).then(|| {
                    [Harm::Refused, Harm::Unsendable, Harm::Swallowed, Harm::Unroutable]
                        [random.random_range(0..4)]
                });
                if let Some(harm) = harm {
                    poison.insert(id.clone(), harm);
                }
                let unroutable = harm == Some(Harm::Unroutable);
                rows.push((
                    stream,
                    Message {
                        transaction: transaction.clone(),
                        row: counts[stream],
                        table: "a.b".into(),
                        subject: "s".into(),
                        id,
                        headers: Vec::new(),
                        body: Bytes::new(),
                        poison: unroutable
                            .then(|| Box::new(Poison::new(PoisonKind::Unmappable, "simulated"))),
                    },
                ));
                counts[stream] += 1;
            }
            transactions.push(rows);
            ids.push(transaction);
            offset += random.random_range(100..1_000);
        }
        Self { transactions, ids, expected, doubles, poison }
    }

    fn point(&self, done: usize) -> LogPoint {
        let (file, offset, at) = match done.checked_sub(1) {
            None => ("binlog.000001".to_owned(), 4, At::Boundary),
            Some(last) => {
                let id = &self.ids[last];
                let transaction =
                    Transaction { gtid: id.gtid.clone(), committed_micros: id.committed_micros };
                (id.file.to_string(), id.offset, At::Done(transaction))
            }
        };
        LogPoint {
            server: "simulated".into(),
            file,
            offset,
            at,
            executed: None,
            prepared: Vec::new(),
            definitions: Default::default(),
        }
    }
}

/// The connection to the source is lost.
#[derive(Debug, thiserror::Error)]
#[error("the connection is lost")]
pub(super) struct Lost;

impl SourceError for Lost {
    fn is_transient(&self) -> bool {
        true
    }
}

/// Reads the log from wherever it is opened.
#[derive(Debug)]
pub(super) struct SimulatedSource {
    log: Arc<Log>,
    random: SmallRng,
    /// Transactions that were yielded whole.
    done: usize,
    /// Rows of the next one that were yielded.
    rows: usize,
}

impl SimulatedSource {
    pub(super) fn new(log: Arc<Log>, seed: u64) -> Self {
        Self { log, random: SmallRng::seed_from_u64(seed), done: 0, rows: 0 }
    }
}

impl Source for SimulatedSource {
    type Error = Lost;

    async fn first_point(&mut self) -> Result<LogPoint, Lost> {
        Ok(self.log.point(0))
    }

    async fn open(&mut self, point: &LogPoint) -> Result<(), Lost> {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..50))).await;
        if self.random.random_ratio(1, 10) {
            return Err(Lost);
        }
        self.rows = 0;
        self.done = match &point.at {
            At::Boundary | At::Gtids => 0,
            At::Done(transaction) | At::Pending(transaction) => {
                let index = self.log.ids.iter().position(|id| {
                    *id.file == *point.file && id.offset == point.offset && id.gtid == transaction.gtid
                });
                index.expect("a point is a transaction's") + usize::from(matches!(point.at, At::Done(_)))
            }
        };
        Ok(())
    }

    async fn next(&mut self) -> Result<Batch, Lost> {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..30))).await;
        if self.random.random_ratio(1, 40) {
            return Err(Lost);
        }
        if self.done == self.log.transactions.len() {
            std::future::pending::<()>().await;
        }
        let mut messages = Vec::new();
        for _ in 0..self.random.random_range(1..10) {
            let Some(rows) = self.log.transactions.get(self.done) else { break };
            let rest = rows.len() - self.rows;
            // A large transaction comes in parts.
            let count = if rest > 20 { self.random.random_range(1..=rest) } else { rest };
            messages.extend(rows[self.rows..self.rows + count].iter().cloned());
            self.rows += count;
            if self.rows == rows.len() {
                (self.done, self.rows) = (self.done + 1, 0);
            }
        }
        Ok(Batch { messages, point: self.log.point(self.done) })
    }
}
