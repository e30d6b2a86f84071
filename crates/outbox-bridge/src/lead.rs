//! Who of several bridges with one name carries the events: the holder of the lease; the others stand by.
//!
//! The lease decides who tries. That nothing is doubled or interleaved even if two try at once is the work of the expected
//! sequences and of the checkpoint's revision.

use async_nats::jetstream;
use outbox_lease::{Candidate, Holder, Lease, LeaseError, Record};
use tokio::sync::watch;

use crate::{
    admin::{Component, Readiness, Role},
    backoff::Backoff,
    checkpoint::open_bucket,
    config::Config,
    exit::report,
    metrics::BridgeMetrics,
};

/// The key of the lease of the bridges called `name`.
pub(crate) fn lease_key(name: &str) -> String {
    format!("{name}.lease")
}

/// How others name a holder.
pub(crate) fn shown(record: &Record) -> String {
    let Holder { instance, host, process } = &record.holder;
    if host.is_empty() { instance.clone() } else { format!("process {process} on {host}") }
}

/// What waits for the lease.
#[derive(Debug)]
pub(crate) struct Leadership {
    context: jetstream::Context,
    bucket: String,
    replicas: usize,
    key: String,
    ttl: std::time::Duration,
    backoff: Backoff,
    readiness: Readiness,
    holder: Holder,
    candidate: Option<Candidate>,
}

impl Leadership {
    pub(crate) fn new(
        config: &Config,
        context: jetstream::Context,
        replicas: usize,
        instance: &str,
        readiness: Readiness,
    ) -> Self {
        Self {
            context,
            bucket: config.checkpoint.bucket.clone(),
            replicas,
            key: lease_key(&config.name),
            ttl: config.lease.ttl,
            backoff: Backoff::new(config.retry.initial, config.retry.max, rand::random()),
            readiness,
            holder: Holder::this_process(instance),
            candidate: None,
        }
    }

    /// Waits until this bridge leads; until then it stands by, and says so.
    pub(crate) async fn acquire(&mut self) -> Result<Lease, LeaseError> {
        self.readiness.set_role(Role::Waiting);
        BridgeMetrics::new().leader.set(0.0);
        let mut candidate = match self.candidate.take() {
            Some(candidate) => candidate,
            None => Candidate::new(self.bucket().await, &*self.key, self.holder.clone(), self.ttl)?,
        };
        let mut leaders = candidate.holder();
        let lease = {
            let mut acquiring = std::pin::pin!(candidate.acquire());
            loop {
                tokio::select! {
                    biased;
                    lease = &mut acquiring => break lease,
                    Ok(()) = leaders.changed() => self.stand_by(&mut leaders),
                }
            }
        };
        self.candidate = Some(candidate);
        tracing::info!("this bridge leads");
        self.readiness.set_role(Role::Leader);
        BridgeMetrics::new().leader.set(1.0);
        Ok(lease)
    }

    fn stand_by(&self, leaders: &mut watch::Receiver<Option<Record>>) {
        let Some(leader) = leaders.borrow_and_update().as_ref().map(shown) else { return };
        let role = Role::Standby { leader };
        if self.readiness.report().role != role {
            if let Role::Standby { leader } = &role {
                tracing::info!(leader, "another bridge of this name leads; standing by");
            }
            self.readiness.set_role(role);
        }
    }

    /// The bucket, as often as it takes.
    async fn bucket(&mut self) -> jetstream::kv::Store {
        loop {
            match open_bucket(&self.context, &self.bucket, self.replicas).await {
                Ok(store) => {
                    self.backoff.reset();
                    return store;
                }
                Err(error) => {
                    let wait = self.backoff.wait();
                    let report = report(&error);
                    tracing::warn!(error = report, retry_in = ?wait, "cannot open the bucket yet");
                    self.readiness.set_unready(Component::Checkpoint, report);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}
