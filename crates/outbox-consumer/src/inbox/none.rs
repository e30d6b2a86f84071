//! No inbox.

use std::time::Duration;

#[cfg(feature = "mysql")]
use sqlx::MySqlPool;

use super::{Begun, Inbox, InboxError, InboxKey};

/// Keeps no record: every delivery is handled, also one that comes again. For handlers whose effect is the same however often
/// they run, such as the orchestrator of a saga, whose state knows what it has taken in.
///
/// ```
/// use outbox_consumer::inbox::{Begun, Inbox as _, InboxKey, NoInbox};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let inbox = NoInbox::new();
/// let key = InboxKey { consumer: "stock".to_owned(), message_id: "1".to_owned() };
/// for _ in 0..2 {
///     let Begun::New(()) = inbox.begin(&key).await? else { panic!("nothing is known of it") };
///     inbox.commit(&key, ()).await?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct NoInbox {
    #[cfg(feature = "mysql")]
    watched: Option<MySqlPool>,
}

impl NoInbox {
    /// No inbox, and no database.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The handlers write to this database: while it cannot be reached, or is read-only, a failed handler is no failed attempt, and nothing
    /// more is fetched.
    #[cfg(feature = "mysql")]
    #[must_use]
    pub fn watch_mysql(self, pool: MySqlPool) -> Self {
        Self { watched: Some(pool) }
    }
}

impl Inbox for NoInbox {
    type Transaction = ();

    async fn prepare(&self) -> Result<(), InboxError> {
        Ok(())
    }

    async fn begin(&self, _: &InboxKey) -> Result<Begun<()>, InboxError> {
        Ok(Begun::New(()))
    }

    async fn commit(&self, _: &InboxKey, (): ()) -> Result<(), InboxError> {
        Ok(())
    }

    async fn probe(&self, _: &str) -> Result<(), InboxError> {
        #[cfg(feature = "mysql")]
        if let Some(pool) = self.watched.clone() {
            return super::sql::to_the_end(async move { super::mysql::probe(&pool).await }).await;
        }
        Ok(())
    }

    async fn clean_up(&self, _: &str, _: Duration, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }
}
