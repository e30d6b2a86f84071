//! Connections that wait for the next transaction.
//!
//! A pool asks a connection on its way out and on its way back whether it is alive, and a transaction is begun and ended
//! there: four round trips that do nothing for it. So the commit of one transaction begins the next one, and the connection waits here
//! for it, for moments.
//!
//! Who shares the pool should not notice: a connection is kept only while the pool has another one to give.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::{MySql, MySqlPool, Transaction};
use tokio::task::JoinHandle;

/// How long a connection waits before it goes back to the pool.
const UNUSED_MAX: Duration = Duration::from_millis(100);
/// After so many transactions, in the mean, it goes back all the same: the pool limits how old its connections get.
const TRANSACTIONS_MEAN: u32 = 100;

type Begun = Transaction<'static, MySql>;

/// Transactions that have been begun and in which nothing has happened yet. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Kept {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that came last is taken first, so those at the front have been unused for longest.
    waiting: Vec<(Instant, Begun)>,
    /// The task that looks after those that are unused. It may have been ended with its runtime.
    watch: Option<JoinHandle<()>>,
}

impl Kept {
    /// Whether a connection of this pool may stay here.
    pub(super) fn has_room(pool: &MySqlPool) -> bool {
        let others = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        others && !pool.is_closed() && !rand::random_ratio(1, TRANSACTIONS_MEAN)
    }

    /// Keeps a transaction for who comes next.
    pub(super) fn keep(&self, begun: Begun) {
        let mut state = self.shared.lock();
        state.waiting.push((Instant::now(), begun));
        if state.watch.as_ref().is_none_or(JoinHandle::is_finished) {
            state.watch = Some(tokio::spawn(give_back(Arc::downgrade(&self.shared))));
        }
    }

    /// A transaction that waits, if there is one. Its connection may have died since.
    pub(super) fn take(&self) -> Option<Begun> {
        self.shared.lock().waiting.pop().map(|(_, begun)| begun)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that have been unused for too long; nothing if there is nothing to look after any more.
    fn unused(&self) -> Option<Vec<(Instant, Begun)>> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.watch = None;
            return None;
        }
        let unused = state.waiting.partition_point(|(since, _)| since.elapsed() >= UNUSED_MAX);
        Some(state.waiting.drain(..unused).collect())
    }
}

/// A connection finds its way back to the pool only within a runtime.
impl Drop for Shared {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_err() {
            self.lock().waiting.drain(..).for_each(std::mem::forget);
        }
    }
}

/// Gives unused connections back to the pool, until none is left.
async fn give_back(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(UNUSED_MAX).await;
        let Some(unused) = shared.upgrade().and_then(|shared| shared.unused()) else { return };
        drop(unused);
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("waiting", &self.shared.lock().waiting.len()).finish()
    }
}
