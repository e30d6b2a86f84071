//! Which instance of an ordered consumer works: a lease in the key-value bucket.
//!
//! The value is the holder's name, and every renewal is a new revision of the entry. Nobody compares clocks of different
//! machines: an instance that sees the same revision for as long as the lease lasts takes it over, by compare-and-set.
//! The holder gives up when a renewal has not succeeded for four fifths of that time.

use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::shared_state::SharedState;

#[derive(Debug, Clone)]
pub(crate) struct Lease {
    store: Store,
    key: String,
    holder: String,
    life: Duration,
}

/// The lease, while it is held.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    lease: &'a Lease,
    revision: u64,
    /// When the last renewal that succeeded was sent.
    renewed: Instant,
}

/// What the bucket says.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Free(u64),
    Ours(u64),
    Others(u64),
}

impl Lease {
    pub(crate) fn new(state: &SharedState, stream: &str, life: Duration) -> Self {
        let holder = format!("{:032x}", rand::random::<u128>());
        Self { store: state.store().clone(), key: state.lease_key(stream), holder, life }
    }

    async fn look(&self) -> Result<Seen, async_nats::Error> {
        let Some(entry) = timeout(self.life, self.store.entry(self.key.as_str())).await?? else {
            return Ok(Seen::Nothing);
        };
        Ok(match entry.operation {
            Operation::Delete | Operation::Purge => Seen::Nothing,
            Operation::Put if entry.value.is_empty() => Seen::Free(entry.revision),
            Operation::Put if entry.value == self.holder.as_bytes() => Seen::Ours(entry.revision),
            Operation::Put => Seen::Others(entry.revision),
        })
    }

    /// Waits until this instance holds the lease; `None` if it is to stop first.
    pub(crate) async fn acquire(&self, stop: &CancellationToken) -> Option<Held<'_>> {
        stop.run_until_cancelled(self.acquired()).await
    }

    async fn acquired(&self) -> Held<'_> {
        let mut watched: Option<(u64, Instant)> = None;
        loop {
            let sent = Instant::now();
            let revision = match self.look().await {
                Ok(Seen::Nothing) => self.store.create(&self.key, self.holder.clone().into()).await.ok(),
                Ok(Seen::Free(revision) | Seen::Ours(revision)) => self.take(revision).await,
                Ok(Seen::Others(revision)) => match watched {
                    Some((same, since)) if same == revision => {
                        if sent.duration_since(since) >= self.life {
                            self.take(revision).await
                        } else {
                            None
                        }
                    }
                    _ => {
                        watched = Some((revision, Instant::now()));
                        None
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "the lease cannot be looked at");
                    // What happened meanwhile is unknown: watch anew.
                    watched = None;
                    None
                }
            };
            if let Some(revision) = revision {
                tracing::info!(lease = self.key, "the lease is ours");
                return Held { lease: self, revision, renewed: sent };
            }
            sleep(self.life / 10).await;
        }
    }

    async fn take(&self, revision: u64) -> Option<u64> {
        let taking = self.store.update(&self.key, self.holder.clone().into(), revision);
        timeout(self.life / 2, taking).await.ok()?.ok()
    }
}

impl Held<'_> {
    /// Renews the lease again and again; ends when it is lost.
    pub(crate) async fn keep(&mut self) {
        loop {
            sleep(self.lease.life / 5).await;
            let limit = self.renewed + self.lease.life.mul_f64(0.8);
            match timeout_at(limit, self.renew()).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
        }
    }

    /// Renews the lease, however often it takes; `false` if somebody else has it.
    async fn renew(&mut self) -> bool {
        loop {
            let sent = Instant::now();
            if let Some(revision) = self.lease.take(self.revision).await {
                (self.revision, self.renewed) = (revision, sent);
                return true;
            }
            // It may be renewed and only the reply lost.
            match self.lease.look().await {
                Ok(Seen::Ours(revision)) => self.revision = revision,
                Ok(Seen::Others(_)) => return false,
                // Deleted or given away by hand; or a reader that lags behind.
                Ok(Seen::Nothing | Seen::Free(_)) | Err(_) => {}
            }
            sleep(self.lease.life / 20).await;
        }
    }

    /// Lets another instance take over at once.
    pub(crate) async fn release(self) {
        let freeing = self.lease.store.update(&self.lease.key, bytes::Bytes::new(), self.revision);
        if !matches!(timeout(Duration::from_secs(2), freeing).await, Ok(Ok(_))) {
            tracing::debug!("the lease is not given back: another instance waits until it is over");
        }
    }
}
