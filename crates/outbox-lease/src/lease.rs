//! Getting, keeping and giving back.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::observe::{Observer, Verdict};
use crate::record::{FORMAT_VERSION, Holder, Record};

/// The shortest lifetime: below, an ordinary stall of the server would look like a dead holder.
const TTL_MIN: Duration = Duration::from_secs(1);
/// How long the server may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A candidate looks at least so often.
const POLL_MAX: Duration = Duration::from_millis(500);

/// What can go wrong with a lease.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The lifetime is too short.
    #[error("a lease of {0:?} is too short: it must live for {TTL_MIN:?} at least")]
    TooShort(Duration),
    /// The bucket cannot be reached now.
    #[error("the lease {key} cannot be read or written: {reason}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Unavailable { key: String, reason: String },
}

/// Somebody who would have a lease.
#[derive(Debug)]
pub struct Candidate {
    place: Place,
    ttl: Duration,
    holder: Holder,
    observer: Observer,
    seen: watch::Sender<Option<Record>>,
}

/// Where the record stands.
#[derive(Debug, Clone)]
struct Place {
    store: Store,
    key: String,
}

/// What a write came to.
enum Written {
    Revision(u64),
    /// Another was there first.
    Conflict,
    Unavailable(String),
}

impl Place {
    async fn read(&self) -> Result<Option<(Option<Record>, u64)>, String> {
        let reading = timeout(ANSWER_LIMIT, self.store.entry(&self.key)).await;
        let entry = reading.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        let entry = entry.filter(|entry| entry.operation == Operation::Put);
        Ok(entry.map(|entry| (serde_json::from_slice(&entry.value).ok(), entry.revision)))
    }

    /// Writes the record in place of a revision, or where there is none.
    async fn write(&self, record: &Record, revision: Option<u64>) -> Written {
        let value = match serde_json::to_vec(record) {
            Ok(value) => value.into(),
            Err(error) => return Written::Unavailable(error.to_string()),
        };
        let writing = async {
            match revision {
                Some(revision) => match self.store.update(&self.key, value, revision).await {
                    Ok(revision) => Written::Revision(revision),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Written::Conflict,
                    Err(error) => Written::Unavailable(error.to_string()),
                },
                None => match self.store.create(&self.key, value).await {
                    Ok(revision) => Written::Revision(revision),
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Written::Conflict,
                    Err(error) => Written::Unavailable(error.to_string()),
                },
            }
        };
        timeout(ANSWER_LIMIT, writing).await.unwrap_or_else(|_| Written::Unavailable("no answer".into()))
    }
}

impl Candidate {
    /// A candidate for the lease under `key`, which lives for `ttl` without being renewed.
    ///
    /// # Errors
    ///
    /// [`LeaseError::TooShort`].
    pub fn new(
        store: Store,
        key: impl Into<String>,
        holder: Holder,
        ttl: Duration,
    ) -> Result<Self, LeaseError> {
        if ttl < TTL_MIN {
            return Err(LeaseError::TooShort(ttl));
        }
        let place = Place { store, key: key.into() };
        let observer = Observer::new(holder.clone(), ttl);
        Ok(Self { place, ttl, holder, observer, seen: watch::Sender::new(None) })
    }

    /// Who held the lease when it was looked at last; `None`: nobody, or this process.
    #[must_use]
    pub fn holder(&self) -> watch::Receiver<Option<Record>> {
        self.seen.subscribe()
    }

    /// Waits until this process holds the lease, however long that takes.
    ///
    /// Cancel safe, except that a lease that has just been got may have to run out.
    pub async fn acquire(&mut self) -> Lease {
        let pause = (self.ttl / 10).min(POLL_MAX);
        let mut complained = false;
        loop {
            match self.try_acquire().await {
                Ok(Some(lease)) => return lease,
                Ok(None) => complained = false,
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%error, "cannot look at the lease now");
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks once, and takes the lease if it is free or abandoned.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`].
    pub async fn try_acquire(&mut self) -> Result<Option<Lease>, LeaseError> {
        let unavailable = |reason| LeaseError::Unavailable { key: self.place.key.clone(), reason };
        let found = self.place.read().await.map_err(unavailable)?;
        let found = found.map(|(record, revision)| {
            // What a later version writes is not understood, but whether it changes can be seen.
            let readable = record.filter(|record| record.version <= FORMAT_VERSION);
            let unknown = || Holder { instance: "unknown".into(), host: String::new(), process: 0 };
            (readable.unwrap_or_else(|| Record::new(unknown(), self.ttl)), revision)
        });
        let now = Instant::now();
        let verdict = self.observer.see(found.as_ref().map(|(record, revision)| (record, *revision)), now);
        let revision = match verdict {
            Verdict::Held => {
                self.seen.send_replace(found.map(|(record, _)| record));
                return Ok(None);
            }
            Verdict::Free => None,
            Verdict::Abandoned(revision) => Some(revision),
        };
        let record = Record::new(self.holder.clone(), self.ttl);
        let sent = Instant::now();
        match self.place.write(&record, revision).await {
            Written::Revision(revision) => {
                self.observer.got();
                self.seen.send_replace(None);
                Ok(Some(Lease::keep(self.place.clone(), self.ttl, record, revision, sent)))
            }
            Written::Conflict => Ok(None),
            Written::Unavailable(reason) => Err(unavailable(reason)),
        }
    }
}

/// A lease that is held. It is renewed until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    lost: CancellationToken,
    released: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Lease {
    fn keep(place: Place, ttl: Duration, record: Record, revision: u64, sent: Instant) -> Self {
        let (lost, released) = (CancellationToken::new(), CancellationToken::new());
        let keeper = Keeper {
            place,
            ttl,
            record,
            revision,
            sent,
            deadline: deadline(sent, ttl),
            lost: lost.clone(),
            released: released.clone(),
        };
        Self { lost, released, keeper: tokio::spawn(keeper.run()) }
    }

    /// Waits until the lease is lost: taken by another, or not renewed in time.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether it is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Is cancelled when the lease is lost.
    #[must_use]
    pub fn lost_token(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the lease back, so that another can have it at once. If the server does not answer, it runs out by itself.
    pub async fn release(mut self) {
        self.released.cancel();
        // It fails only where it panicked, and then nothing is left to give back.
        drop((&mut self.keeper).await);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// When a holder gives up, having sent the last confirmed renewal at `sent`: before a candidate may take over.
fn deadline(sent: Instant, ttl: Duration) -> Instant {
    sent + ttl.mul_f64(0.9)
}

/// Renews a lease.
struct Keeper {
    place: Place,
    ttl: Duration,
    record: Record,
    revision: u64,
    /// When the record was sent as it is now.
    sent: Instant,
    deadline: Instant,
    lost: CancellationToken,
    released: CancellationToken,
}

impl Keeper {
    async fn run(mut self) {
        let mut next = Instant::now() + self.ttl / 3;
        loop {
            tokio::select! {
                biased;
                () = self.released.cancelled() => return self.delete().await,
                () = tokio::time::sleep_until(self.deadline) => break,
                () = tokio::time::sleep_until(next) => {}
            }
            // An answer that comes after the deadline is of no use.
            match timeout_at(self.deadline, self.renew()).await {
                Ok(Some(wait)) => next = Instant::now() + wait,
                Ok(None) | Err(_) => break,
            }
        }
        tracing::warn!(lease = self.place.key, "the lease is lost");
        self.lost.cancel();
    }

    /// Renews once; says how long to wait until the next time, `None` if another has the lease.
    async fn renew(&mut self) -> Option<Duration> {
        let (before, sent_before) = (self.record.renewals, self.sent);
        self.record.renewals += 1;
        self.sent = Instant::now();
        match self.place.write(&self.record, Some(self.revision)).await {
            Written::Revision(revision) => {
                self.revision = revision;
                self.deadline = deadline(self.sent, self.ttl);
                Some(self.ttl / 3)
            }
            Written::Unavailable(reason) => {
                tracing::warn!(lease = self.place.key, reason, "the lease cannot be renewed now");
                Some(self.ttl / 10)
            }
            // An earlier renewal whose answer was lost, or another holder.
            Written::Conflict => match self.place.read().await {
                Ok(Some((Some(found), revision))) if found.holder == self.record.holder => {
                    self.revision = revision;
                    if found.renewals == before {
                        self.deadline = self.deadline.max(deadline(sent_before, self.ttl));
                    }
                    Some(Duration::ZERO)
                }
                Ok(Some(_)) => None,
                Ok(None) => match self.place.write(&self.record, None).await {
                    Written::Revision(revision) => {
                        tracing::warn!(lease = self.place.key, "the lease was deleted; written anew");
                        self.revision = revision;
                        self.deadline = deadline(self.sent, self.ttl);
                        Some(self.ttl / 3)
                    }
                    Written::Conflict => None,
                    Written::Unavailable(_) => Some(self.ttl / 10),
                },
                Err(_) => Some(self.ttl / 10),
            },
        }
    }

    async fn delete(&self) {
        let deleting = self.place.store.delete_expect_revision(&self.place.key, Some(self.revision));
        match timeout(ANSWER_LIMIT, deleting).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(lease = self.place.key, %error, "the lease is not given back; it will run out");
            }
            Err(_) => {
                tracing::warn!(lease = self.place.key, "the lease is not given back; it will run out");
            }
        }
    }
}
