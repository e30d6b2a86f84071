//! The logs of one server or two with the same transactions, in different orders, and a source that reads them and is sometimes lost.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    checkpoint::{At, LogPoint, Transaction},
    publish::{Message, TransactionId},
    source::{Batch, Source, SourceError, connection::Flavour, gtid::GtidSet},
};

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
/// What was executed before the log begins.
const BEFORE: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1";
const NAMES: [&str; 2] = ["first", "second"];

#[derive(Debug)]
struct Server {
    transactions: Vec<Vec<(usize, Message)>>,
    ids: Vec<Arc<TransactionId>>,
}

impl Server {
    /// The same transactions as a replica commits them that applies several at once.
    fn reordered(&self, random: &mut SmallRng) -> Self {
        let mut order: Vec<usize> = (0..self.ids.len()).collect();
        for window in 1..order.len() {
            if random.random() {
                let with = window.saturating_sub(random.random_range(1..6));
                order.swap(window, with);
            }
        }
        let mut server = Self { transactions: Vec::new(), ids: Vec::new() };
        let (mut file_number, mut offset) = (1, 4);
        for index in order {
            if random.random_ratio(1, 20) {
                (file_number, offset) = (file_number + 1, 4);
            }
            let transaction = Arc::new(TransactionId {
                file: format!("binlog.{file_number:06}").into(),
                file_number,
                offset,
                ..(*self.ids[index]).clone()
            });
            let rows = self.transactions[index].iter().cloned();
            let moved = |(stream, message)| (stream, Message { transaction: transaction.clone(), ..message });
            server.transactions.push(rows.map(moved).collect());
            server.ids.push(transaction);
            offset += random.random_range(100..1_000);
        }
        server
    }
}

/// Which servers can be reached, and how many transactions each still lacks.
#[derive(Debug)]
struct Topology {
    alive: [bool; 2],
    lacks: [usize; 2],
}

/// All transactions that are ever committed.
#[derive(Debug)]
pub(super) struct Log {
    /// The servers that have them; the second commits them in another order.
    servers: Vec<Server>,
    /// For each stream, the rows that it must hold in the end.
    pub(super) expected: Vec<Vec<(String, u64)>>,
    /// Some ids are inserted twice.
    pub(super) doubles: bool,
    topology: Mutex<Topology>,
}

impl Log {
    pub(super) fn generate(random: &mut SmallRng) -> Self {
        let mut transactions = Vec::new();
        let mut ids = Vec::new();
        let mut expected = vec![Vec::new(); super::STREAMS.len()];
        let mut known = HashSet::new();
        let (mut file_number, mut offset) = (1, 4);
        let mut last_id = String::new();
        let several = random.random_ratio(1, 3);
        let doubles = !several && random.random_ratio(1, 8);
        for number in 0..random.random_range(1..120_u64) {
            if random.random_ratio(1, 20) {
                (file_number, offset) = (file_number + 1, 4);
            }
            let transaction = Arc::new(TransactionId {
                gtid: format!("{UUID}:{}", number + 2),
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
                    },
                ));
                counts[stream] += 1;
            }
            transactions.push(rows);
            ids.push(transaction);
            offset += random.random_range(100..1_000);
        }
        let first = Server { transactions, ids };
        let second = several.then(|| first.reordered(random));
        let servers = std::iter::once(first).chain(second).collect();
        let topology = Mutex::new(Topology { alive: [true, false], lacks: [0, 0] });
        Self { servers, expected, doubles, topology }
    }

    /// Whether there are two servers.
    pub(super) fn is_replicated(&self) -> bool {
        self.servers.len() > 1
    }

    fn topology(&self) -> MutexGuard<'_, Topology> {
        self.topology.lock().unwrap()
    }

    /// The other server takes over; the old one may be gone or stay, and the new one may lack some transactions for a while.
    pub(super) fn switch(&self, random: &mut SmallRng) {
        let mut topology = self.topology();
        let new = usize::from(topology.alive[0] && (!topology.alive[1] || random.random()));
        topology.alive[new] = true;
        topology.alive[1 - new] = random.random_ratio(1, 3);
        if random.random() {
            topology.lacks[new] = random.random_range(0..40);
        }
    }

    /// A replica catches up.
    pub(super) fn catch_up(&self) {
        self.topology().lacks = [0, 0];
    }

    fn has(&self, server: usize) -> usize {
        self.servers[server].ids.len().saturating_sub(self.topology().lacks[server])
    }
}

fn point(server: usize, file: String, offset: u64, at: At, executed: &GtidSet) -> LogPoint {
    LogPoint {
        server: NAMES[server].into(),
        file,
        offset,
        at,
        executed: Some(executed.to_string()),
        prepared: Vec::new(),
        definitions: Default::default(),
    }
}

fn set(text: &str) -> GtidSet {
    GtidSet::parse(text, Flavour::MySql).unwrap()
}

fn is_member(gtid: &str, executed: &GtidSet) -> bool {
    set(gtid).missing_from(executed).is_empty()
}

/// Why the source ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the connection is lost")]
    Connection,
    #[error("the server is lost")]
    Server,
    #[error("the server lacks {0}")]
    Behind(String),
}

impl SourceError for Lost {
    fn is_transient(&self) -> bool {
        !self.is_moved()
    }

    fn is_moved(&self) -> bool {
        matches!(self, Self::Server)
    }
}

/// Reads a log from wherever it is opened.
#[derive(Debug)]
pub(super) struct SimulatedSource {
    log: Arc<Log>,
    random: SmallRng,
    server: usize,
    executed: GtidSet,
    place: (String, u64, At),
    /// Transactions that were yielded whole.
    done: usize,
    /// Rows of the next one that were yielded.
    rows: usize,
}

impl SimulatedSource {
    pub(super) fn new(log: Arc<Log>, seed: u64) -> Self {
        let place = ("binlog.000001".to_owned(), 4, At::Boundary);
        let random = SmallRng::seed_from_u64(seed);
        Self { log, random, server: 0, executed: set(BEFORE), place, done: 0, rows: 0 }
    }

    fn point(&self) -> LogPoint {
        let (file, offset, at) = self.place.clone();
        point(self.server, file, offset, at, &self.executed)
    }

    /// The transaction that comes next is done.
    fn pass(&mut self) {
        let id = &self.log.servers[self.server].ids[self.done];
        let gtid = id.gtid.clone();
        self.place = (
            id.file.to_string(),
            id.offset,
            At::Done(Transaction { gtid: gtid.clone(), committed_micros: id.committed_micros }),
        );
        self.executed = set(&format!("{},{gtid}", self.executed));
        (self.done, self.rows) = (self.done + 1, 0);
    }
}

impl Source for SimulatedSource {
    type Error = Lost;

    async fn first_point(&mut self) -> Result<LogPoint, Lost> {
        Ok(point(0, "binlog.000001".to_owned(), 4, At::Boundary, &set(BEFORE)))
    }

    async fn locate(&mut self, point: &LogPoint) -> Result<bool, Lost> {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..50))).await;
        let index = NAMES.iter().position(|name| *name == point.server).unwrap_or(0);
        if self.log.topology().alive[index] {
            self.server = index;
            return Ok(true);
        }
        Ok(false)
    }

    async fn relocate(&mut self, old: &LogPoint, stored: &[String]) -> Result<LogPoint, Lost> {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..50))).await;
        let index = usize::from(!self.log.topology().alive[0]);
        let ids = &self.log.servers[index].ids[..self.log.has(index)];
        let mut has = String::from(BEFORE);
        for id in ids {
            has.push(',');
            has.push_str(&id.gtid);
        }
        let has = set(&has);
        let executed = set(old.executed.as_deref().unwrap_or_default());
        let missing = std::iter::once(executed.missing_from(&has))
            .chain(stored.iter().map(|gtid| set(gtid).missing_from(&has)))
            .find(|missing| !missing.is_empty());
        if let Some(missing) = missing {
            return Err(Lost::Behind(missing));
        }
        self.server = index;
        Ok(point(index, "binlog.000001".to_owned(), 4, At::Boundary, &executed))
    }

    fn server(&self) -> String {
        NAMES[self.server].to_owned()
    }

    async fn open(&mut self, point: &LogPoint) -> Result<(), Lost> {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..50))).await;
        if self.random.random_ratio(1, 10) {
            return Err(Lost::Connection);
        }
        self.server = NAMES.iter().position(|name| *name == point.server).unwrap_or(0);
        if !self.log.topology().alive[self.server] {
            return Err(Lost::Server);
        }
        self.rows = 0;
        self.place = (point.file.clone(), point.offset, point.at.clone());
        let ids = &self.log.servers[self.server].ids;
        self.done = match &point.at {
            At::Boundary | At::Gtids => 0,
            At::Done(transaction) | At::Pending(transaction) => {
                let index = ids.iter().position(|id| {
                    *id.file == *point.file && id.offset == point.offset && id.gtid == transaction.gtid
                });
                index.expect("a point is a transaction's") + usize::from(matches!(point.at, At::Done(_)))
            }
        };
        self.executed = match &point.executed {
            Some(executed) => set(executed),
            None => {
                let before = ids[..self.done].iter().map(|id| format!(",{}", id.gtid));
                set(&format!("{BEFORE}{}", before.collect::<String>()))
            }
        };
        Ok(())
    }

    async fn next(&mut self) -> Result<Batch, Lost> {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(0..30))).await;
        if self.random.random_ratio(1, 40) {
            return Err(Lost::Connection);
        }
        let log = self.log.clone();
        while log.has(self.server) <= self.done {
            if !log.is_replicated() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            if !log.topology().alive[self.server] {
                return Err(Lost::Server);
            }
        }
        if !log.topology().alive[self.server] {
            return Err(Lost::Server);
        }
        let mut messages = Vec::new();
        for _ in 0..self.random.random_range(1..10) {
            let server = &log.servers[self.server];
            let Some(rows) = server.transactions.get(self.done).filter(|_| self.done < log.has(self.server))
            else {
                break;
            };
            if is_member(&server.ids[self.done].gtid, &self.executed) {
                self.pass();
                continue;
            }
            let rest = rows.len() - self.rows;
            // A large transaction comes in parts.
            let count = if rest > 20 { self.random.random_range(1..=rest) } else { rest };
            messages.extend(rows[self.rows..self.rows + count].iter().cloned());
            self.rows += count;
            if self.rows == rows.len() {
                self.pass();
            }
        }
        Ok(Batch { messages, point: self.point() })
    }
}
