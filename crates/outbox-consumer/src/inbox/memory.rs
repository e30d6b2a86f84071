//! The inbox in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::{Begun, Inbox, InboxError, InboxKey, check_key};

/// When a message was handled, if it was. Who handles it holds the lock.
type Record = Arc<AsyncMutex<Option<Instant>>>;
type Records = Mutex<HashMap<InboxKey, Record>>;

/// An inbox that lives as long as the process, for tests and benchmarks. Clones are the same inbox.
///
/// ```
/// use outbox_consumer::inbox::{Begun, Inbox as _, InboxKey, MemoryInbox};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let inbox = MemoryInbox::new();
/// let key = InboxKey { consumer: "stock".to_owned(), message_id: "1".to_owned() };
/// let Begun::New(transaction) = inbox.begin(&key).await? else { panic!("it is new") };
/// inbox.commit(&key, transaction).await?;
/// assert!(matches!(inbox.begin(&key).await?, Begun::Duplicate));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryInbox {
    records: Arc<Records>,
}

impl MemoryInbox {
    /// An empty inbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages are recorded or in work.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.records).len()
    }

    /// Whether no message is recorded or in work.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The handling of one message in a [`MemoryInbox`]. There is nothing that a handler could write to.
pub struct MemoryTransaction {
    key: InboxKey,
    records: Arc<Records>,
    record: Option<OwnedMutexGuard<Option<Instant>>>,
}

impl fmt::Debug for MemoryTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransaction").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        let Some(record) = self.record.take().filter(|record| record.is_none()) else { return };
        let mut records = lock(&self.records);
        // The map's and ours; with more, somebody waits and will record or remove it.
        if Arc::strong_count(OwnedMutexGuard::mutex(&record)) == 2 {
            records.remove(&self.key);
        }
    }
}

impl Inbox for MemoryInbox {
    type Transaction = MemoryTransaction;

    async fn prepare(&self) -> Result<(), InboxError> {
        Ok(())
    }

    async fn begin(&self, key: &InboxKey) -> Result<Begun<MemoryTransaction>, InboxError> {
        check_key(key)?;
        let record = Arc::clone(lock(&self.records).entry(key.clone()).or_default());
        let record = record.lock_owned().await;
        if record.is_some() {
            return Ok(Begun::Duplicate);
        }
        let records = Arc::clone(&self.records);
        Ok(Begun::New(MemoryTransaction { key: key.clone(), records, record: Some(record) }))
    }

    async fn commit(&self, _key: &InboxKey, mut transaction: MemoryTransaction) -> Result<(), InboxError> {
        if let Some(record) = &mut transaction.record {
            **record = Some(Instant::now());
        }
        Ok(())
    }

    async fn clean_up(&self, consumer: &str, age: Duration, limit: u32) -> Result<u64, InboxError> {
        let now = Instant::now();
        let old = |key: &InboxKey, record: &Record| {
            let handled = record.try_lock().ok().and_then(|record| *record);
            key.consumer == consumer && handled.is_some_and(|handled| now.duration_since(handled) > age)
        };
        let mut removed = 0;
        lock(&self.records).retain(|key, record| {
            let remove = removed < u64::from(limit) && old(key, record);
            removed += u64::from(remove);
            !remove
        });
        Ok(removed)
    }
}

/// Nothing that can panic happens under this lock, so a poisoned one is whole.
fn lock(records: &Records) -> std::sync::MutexGuard<'_, HashMap<InboxKey, Record>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
