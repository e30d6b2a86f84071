//! The instances of an ordered consumer: which of them are there, and which has which partition.
//!
//! They share one record in the key-value bucket ([`Record`]). A sign of life is a new revision of it, and nobody compares
//! clocks of different machines: an instance whose signs have not changed for the lease's time, by the clock of the one
//! that looks, is taken out of the record, and its partitions are free. An instance gives up when its last sign of life is
//! nine tenths of that time ago by its own clock, counted from before it was sent.

mod record;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_nats::jetstream::kv::{Operation, Store};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::record::{FORMAT_VERSION, Record};

/// How long the server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How often a change is tried when others change the record too.
const CONFLICTS_MAX: usize = 8;

/// One instance's part in the group.
#[derive(Debug)]
pub(crate) struct Group {
    store: Store,
    key: String,
    instance: String,
    partitions: u16,
    life: Duration,
    /// The signs of life of the others, and when they were seen first.
    seen: HashMap<String, (u64, Instant)>,
    /// The last revision that is known: an older one comes from a server that lags behind.
    revision: u64,
    /// When the last sign of life that is confirmed was sent.
    beaten: Option<Instant>,
    /// Partitions that nothing here works on any more.
    released: BTreeSet<u16>,
    valid_until: watch::Sender<Instant>,
    leaving: bool,
    complained: bool,
}

/// What this instance is to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) holds: BTreeSet<u16>,
    /// How many of them are to be given back.
    pub(crate) surplus: usize,
}

/// What came of one try.
enum Tried {
    Standing(Standing),
    /// Somebody else changed the record.
    Again,
    /// The record cannot be read or written now, or is not for us.
    Nothing(String),
}

impl Group {
    pub(crate) fn new(store: Store, key: String, partitions: u16, life: Duration) -> Self {
        Self {
            store,
            key,
            instance: format!("{:016x}", rand::random::<u64>()),
            partitions,
            life,
            seen: HashMap::new(),
            revision: 0,
            beaten: None,
            released: BTreeSet::new(),
            valid_until: watch::Sender::new(Instant::now()),
            leaving: false,
            complained: false,
        }
    }

    /// From now on nothing more is taken.
    pub(crate) fn begin_to_leave(&mut self) {
        self.leaving = true;
    }

    /// How often [`turn`](Self::turn) is to be called.
    pub(crate) fn pause(&self) -> Duration {
        (self.life / 10).clamp(Duration::from_millis(50), Duration::from_millis(500))
    }

    /// Until when what this instance holds is its own, if nothing more is heard of the server.
    pub(crate) fn valid_until(&self) -> watch::Receiver<Instant> {
        self.valid_until.subscribe()
    }

    /// Waits until what this instance held is no longer its own by its own clock.
    pub(crate) async fn expired(&self) {
        let until = *self.valid_until.borrow();
        sleep_until(until).await;
    }

    /// Nothing here works on this partition any more.
    pub(crate) fn release(&mut self, partition: u16) {
        self.released.insert(partition);
    }

    /// Looks at the record and gives a sign of life if it is time to; `None` if nothing new is known.
    pub(crate) async fn turn(&mut self) -> Option<Standing> {
        for _ in 0..CONFLICTS_MAX {
            // An answer that comes after what is held has expired would come too late.
            let left = self.valid_until.borrow().saturating_duration_since(Instant::now());
            let limit = if left.is_zero() { ANSWER_MAX } else { left.min(ANSWER_MAX) };
            match timeout(limit, self.try_turn()).await {
                Ok(Tried::Standing(standing)) => {
                    self.complained = false;
                    return Some(standing);
                }
                Ok(Tried::Again) => sleep(self.life.mul_f64(rand::random_range(0.0..0.01))).await,
                Ok(Tried::Nothing(reason)) => {
                    self.complain(&reason);
                    return None;
                }
                Err(_) => {
                    self.complain("no answer");
                    return None;
                }
            }
        }
        None
    }

    fn complain(&mut self, reason: &str) {
        if self.complained {
            tracing::debug!(record = self.key, reason, "the record of the instances still cannot be used");
        } else {
            tracing::warn!(record = self.key, reason, "the record of the instances cannot be used now");
        }
        self.complained = true;
    }

    async fn try_turn(&mut self) -> Tried {
        let (found, revision) = match self.read().await {
            Ok(read) => read,
            Err(reason) => return Tried::Nothing(reason),
        };
        let now = Instant::now();
        let gone = self.gone(&found, now);
        let record = found.clone().without(&gone);
        if record.partitions != self.partitions && !record.members.is_empty() {
            return Tried::Nothing(format!(
                "other instances run with {} partitions, this one with {}: it waits until they have stopped",
                record.partitions, self.partitions
            ));
        }
        let record = Record { partitions: self.partitions, ..record };
        let next = record.beat(&self.instance, &self.released, self.leaving);
        let holds = |record: &Record| record.member(&self.instance).map(|member| member.holds.clone());
        let due = self.beaten.is_none_or(|beaten| now.duration_since(beaten) >= self.life / 3);
        if due || !gone.is_empty() || !self.released.is_empty() || holds(&found) != holds(&next) {
            let sent = Instant::now();
            match self.write(&next, revision).await {
                Ok(Some(revision)) => self.revision = revision,
                Ok(None) => return Tried::Again,
                Err(reason) => return Tried::Nothing(reason),
            }
            if !gone.is_empty() {
                tracing::info!(record = self.key, ?gone, "instances are gone");
            }
            self.beaten = Some(sent);
            self.released.clear();
            self.valid_until.send_replace(sent + self.life.mul_f64(0.9));
        }
        let holds = holds(&next).unwrap_or_default();
        let surplus = holds.len().saturating_sub(next.share(&self.instance));
        Tried::Standing(Standing { holds, surplus })
    }

    /// The other instances whose signs of life have not changed for too long.
    fn gone(&mut self, record: &Record, now: Instant) -> Vec<String> {
        let others = || record.members.iter().filter(|member| member.instance != self.instance);
        self.seen.retain(|instance, _| record.member(instance).is_some());
        let mut gone = Vec::new();
        for member in others() {
            let seen = self.seen.entry(member.instance.clone()).or_insert((member.beats, now));
            if seen.0 != member.beats {
                *seen = (member.beats, now);
            } else if now.duration_since(seen.1) >= self.life {
                gone.push(member.instance.clone());
            }
        }
        gone
    }

    /// The record with its revision; an empty one if there is none.
    async fn read(&self) -> Result<(Record, Option<u64>), String> {
        let entry = self.store.entry(self.key.as_str()).await.map_err(|error| error.to_string())?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
            return Ok((Record::new(self.partitions), None));
        };
        if entry.revision < self.revision {
            return Err("a server that lags behind answered".to_owned());
        }
        let record: Record = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
        if record.version > FORMAT_VERSION {
            return Err(format!("it has version {}, and this one knows {FORMAT_VERSION}", record.version));
        }
        Ok((record, Some(entry.revision)))
    }

    /// Writes the record in place of a revision; `None` if that is no longer the last one.
    async fn write(&self, record: &Record, revision: Option<u64>) -> Result<Option<u64>, String> {
        use async_nats::jetstream::kv::{CreateErrorKind, UpdateErrorKind};

        let value = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        match revision {
            Some(revision) => match self.store.update(&self.key, value.into(), revision).await {
                Ok(revision) => Ok(Some(revision)),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            None => match self.store.create(&self.key, value.into()).await {
                Ok(revision) => Ok(Some(revision)),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(None),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// Leaves the group, when nothing here works on any partition, so that others need not wait.
    pub(crate) async fn leave(self) {
        let leaving = async {
            for _ in 0..CONFLICTS_MAX {
                let (record, revision) = self.read().await?;
                if record.member(&self.instance).is_none() {
                    return Ok(());
                }
                let left = record.without(std::slice::from_ref(&self.instance));
                if self.write(&left, revision).await?.is_some() {
                    return Ok(());
                }
            }
            Err("others change it all the time".to_owned())
        };
        match timeout(ANSWER_MAX, leaving).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::debug!(reason, "other instances wait until this one is gone"),
            Err(_) => tracing::debug!("other instances wait until this one is gone"),
        }
    }
}
