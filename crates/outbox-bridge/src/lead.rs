//! Who of several bridges with one name carries the events: the holder of the lease; the others stand by.
//!
//! The lease decides who tries. That nothing is doubled or interleaved even if two try at once is the work of the expected
//! sequences and of the checkpoint's revision.

use std::time::{Duration, SystemTime};

use async_nats::jetstream;
use outbox_lease::{Candidate, Holder, Lease, LeaseError, Record};
use tokio::sync::watch;

use crate::{
    admin::{Component, Leader, Readiness, Role, since_the_epoch},
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
pub(crate) fn shown(holder: &Holder) -> String {
    let Holder { instance, host, process } = holder;
    if host.is_empty() { instance.clone() } else { format!("process {process} on {host}") }
}

/// Why a command cannot stand in for the bridge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StandInError {
    #[error(
        "another bridge of this name leads: {holder}, and a stream takes messages from one only: stop it first, and start it again \
         afterwards"
    )]
    Led { holder: String },
    #[error("the bridge cannot be stood in for")]
    Lease(#[from] LeaseError),
}

/// What waits for the lease.
#[derive(Debug)]
pub(crate) struct Leadership {
    context: jetstream::Context,
    bucket: String,
    replicas: usize,
    key: String,
    ttl: Duration,
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
        let Holder { instance, host, process } = self.holder.clone();
        let leader = Leader { host, process, instance, since: SystemTime::now(), seen_at: None };
        self.readiness.board().note(|notes| notes.leader = Some(leader));
        self.readiness.set_role(Role::Leader);
        BridgeMetrics::new().leader.set(1.0);
        Ok(lease)
    }

    /// Leads in the bridge's place, for a command that must not run beside it. A dead bridge's lease is waited for, not a living one's.
    pub(crate) async fn stand_in(&mut self) -> Result<Lease, StandInError> {
        let patience = self.ttl * 2 + Duration::from_secs(5);
        match tokio::time::timeout(patience, self.acquire()).await {
            Ok(lease) => Ok(lease?),
            Err(_) => Err(StandInError::Led {
                holder: match self.readiness.report().role {
                    Role::Standby { leader } => leader,
                    _ => "the lease cannot be taken".to_owned(),
                },
            }),
        }
    }

    fn stand_by(&self, leaders: &mut watch::Receiver<Option<Record>>) {
        let Some(record) = leaders.borrow_and_update().clone() else { return };
        let Holder { instance, host, process } = record.holder.clone();
        let since = since_the_epoch(Duration::from_secs(record.since_seconds));
        let leader = Leader { host, process, instance, since, seen_at: Some(SystemTime::now()) };
        self.readiness.board().note(|notes| notes.leader = Some(leader));
        let role = Role::Standby { leader: shown(&record.holder) };
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
