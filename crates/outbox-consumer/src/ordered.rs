//! Runs an ordered consumer: works on the partitions that this instance has.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    consumer::{Inner, Part},
    error::{ConsumerError, ConsumerErrorKind},
    group::{Group, Standing},
    handler::error::report,
    inbox::Inbox,
    partition::Partition,
};

/// How often it is looked whether the stream has more partitions than this consumer.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// Works until the shutdown or a failure, then gives back what it has.
pub(crate) async fn run<I: Inbox>(
    inner: &Arc<Inner<I>>,
    shutdown: CancellationToken,
) -> Result<(), ConsumerError> {
    let settings = &inner.settings;
    let count = settings.partitions.as_ref().map_or(1, |partitions| partitions.count);
    let key = inner.state.group_key(&settings.stream);
    let mut group = Group::new(inner.state.store().clone(), key, count, settings.lease);
    let mut workers = Workers::new(Arc::clone(inner), &group);
    let mut tick = interval(group.pause());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut check_at = Instant::now() + CHECK_EVERY;
    let mut outcome = Ok(());
    loop {
        if shutdown.is_cancelled() || outcome.is_err() {
            group.begin_to_leave();
            workers.drain_all();
            if workers.is_empty() {
                break;
            }
        }
        tokio::select! {
            biased;
            () = group.expired(), if !workers.is_empty() => {
                tracing::warn!("no sign of life reached the server in time: handlers are cut off");
                workers.drop_all().await;
            }
            Some((partition, ended)) = workers.ended() => {
                group.release(partition);
                if outcome.is_ok() {
                    outcome = ended;
                }
            }
            () = shutdown.cancelled(), if !workers.draining => {}
            _ = tick.tick() => {
                if let Some(standing) = group.turn().await {
                    workers.follow(&standing).await;
                }
                if Instant::now() >= check_at && outcome.is_ok() {
                    check_at = Instant::now() + CHECK_EVERY;
                    outcome = check(inner).await;
                }
            }
        }
    }
    group.leave().await;
    outcome
}

async fn check<I: Inbox>(inner: &Inner<I>) -> Result<(), ConsumerError> {
    match inner.check_partitions().await {
        Err(error) if error.kind() == ConsumerErrorKind::Nats => {
            tracing::debug!(error = report(&error), "the partitions cannot be checked now");
            Ok(())
        }
        checked => checked,
    }
}

/// One partition that is worked on.
struct Worker {
    drain: CancellationToken,
    task: AbortHandle,
}

/// The partitions that are worked on, each by a task of its own.
struct Workers<I: Inbox> {
    inner: Arc<Inner<I>>,
    tasks: JoinSet<(u16, Result<(), ConsumerError>)>,
    workers: BTreeMap<u16, Worker>,
    permits: Option<Arc<Semaphore>>,
    valid_until: watch::Receiver<Instant>,
    /// Nothing more begins.
    draining: bool,
}

impl<I: Inbox> Workers<I> {
    fn new(inner: Arc<Inner<I>>, group: &Group) -> Self {
        let concurrency = inner.settings.concurrency;
        let permits = inner.settings.partitions.as_ref().map(|_| Arc::new(Semaphore::new(concurrency)));
        Self {
            inner,
            tasks: JoinSet::new(),
            workers: BTreeMap::new(),
            permits,
            valid_until: group.valid_until(),
            draining: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Does what the record says: begins what is held, drops what is not, drains what is too much.
    async fn follow(&mut self, standing: &Standing) {
        let lost: Vec<u16> =
            self.workers.keys().filter(|partition| !standing.holds.contains(partition)).copied().collect();
        for partition in lost {
            tracing::warn!(partition, "another instance has the partition: handlers are cut off");
            self.drop_one(partition).await;
        }
        if self.draining {
            return;
        }
        let draining = self.workers.values().filter(|worker| worker.drain.is_cancelled()).count();
        let surplus = standing.surplus.saturating_sub(draining);
        let candidates = self.workers.iter().rev().filter(|(_, worker)| !worker.drain.is_cancelled());
        for (partition, worker) in candidates.take(surplus) {
            tracing::info!(partition, "the partition goes to another instance");
            worker.drain.cancel();
        }
        // What is to be given back at once is not begun at all.
        let begin = standing.holds.len().saturating_sub(standing.surplus);
        for &partition in standing.holds.iter().take(begin) {
            if !self.workers.contains_key(&partition) {
                self.begin(partition);
            }
        }
    }

    fn begin(&mut self, number: u16) {
        let settings = &self.inner.settings;
        let partition = settings.partitions.as_ref().map_or(Partition::All, |_| Partition::Number(number));
        tracing::info!(partition = partition.token(), "the partition is ours");
        let part =
            Part { partition, valid_until: Some(self.valid_until.clone()), permits: self.permits.clone() };
        let drain = CancellationToken::new();
        let (inner, token) = (Arc::clone(&self.inner), drain.clone());
        let task = self.tasks.spawn(async move { (number, Box::pin(inner.consume(part, token)).await) });
        self.workers.insert(number, Worker { drain, task });
    }

    fn drain_all(&mut self) {
        self.draining = true;
        for worker in self.workers.values() {
            worker.drain.cancel();
        }
    }

    /// Cuts off at once: what was in hand comes again to its next holder.
    async fn drop_one(&mut self, partition: u16) {
        if let Some(worker) = self.workers.remove(&partition) {
            worker.task.abort();
            while !worker.task.is_finished() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn drop_all(&mut self) {
        self.tasks.shutdown().await;
        self.workers.clear();
    }

    /// The next partition that is no longer worked on; `None` if there is none.
    async fn ended(&mut self) -> Option<(u16, Result<(), ConsumerError>)> {
        loop {
            match self.tasks.join_next_with_id().await? {
                // One that was cut off may have ended by itself, and its partition be worked on anew.
                Ok((id, (partition, ended))) => {
                    if self.workers.get(&partition).is_some_and(|worker| worker.task.id() == id) {
                        self.workers.remove(&partition);
                        return Some((partition, ended));
                    }
                }
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }
}
