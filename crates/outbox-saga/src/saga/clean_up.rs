//! Removes sagas that have ended, with their steps and their history.

use std::time::Duration;

use sqlx::MySqlPool;

use super::engine::Status;
use super::error::SagaError;
use super::orchestrator::Orchestrator;
use crate::conflict::{BEGIN_CLAIM, unless_conflict};

/// Each is an end: nothing more happens to such a saga.
const ENDS: [Status; 3] = [Status::Completed, Status::Compensated, Status::Aborted];

impl Orchestrator {
    /// Removes at most `limit` completed, as many compensated, and as many aborted sagas that changed last longer ago than `age`; gives how
    /// many. What has not ended is never removed, however long it is stuck. A service calls it now and then; several instances
    /// may at once.
    ///
    /// The id of a saga that is gone is free: to [`start`](Self::start) it again begins it again. So `age` must be longer than a caller may
    /// repeat a start, and shorter than the participants' [barriers](crate::barrier::Barrier::clean_up) remember. A reply that comes for it is acknowledged
    /// and counted ([`UNMATCHED_REPLIES`](super::metrics::UNMATCHED_REPLIES)).
    ///
    /// ```no_run
    /// # async fn example(sagas: outbox_saga::saga::Orchestrator) -> Result<(), outbox_saga::saga::SagaError> {
    /// use std::time::Duration;
    ///
    /// while sagas.clean_up(Duration::from_secs(7 * 86_400), 500).await? > 0 {}
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the database fails; what was removed by then is counted by the next call.
    pub async fn clean_up(&self, age: Duration, limit: u32) -> Result<u64, SagaError> {
        let mut removed = 0;
        for end in ENDS {
            let batch = unless_conflict!(remove(&self.pool, end, age, limit));
            removed += batch.map_err(SagaError::database("cannot remove sagas that have ended"))?;
        }
        Ok(removed)
    }
}

/// One batch of one status. The rows are found along the index of status and time, and locked, so that a late reply waits and then finds nothing.
async fn remove(pool: &MySqlPool, end: Status, age: Duration, limit: u32) -> Result<u64, sqlx::Error> {
    const OLD: &str = "SELECT CAST(id AS CHAR) FROM saga_instances WHERE status = ? \
         AND updated_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND ORDER BY updated_at LIMIT ? \
         FOR UPDATE SKIP LOCKED";
    const PARTS: [&str; 2] =
        ["DELETE FROM saga_history WHERE saga_id = ?", "DELETE FROM saga_instances WHERE id = ?"];
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    let mut tx = pool.begin_with(BEGIN_CLAIM).await?;
    let old = sqlx::query_scalar(OLD).bind(end.as_str()).bind(age).bind(limit);
    let ids: Vec<String> = old.fetch_all(&mut *tx).await?;
    for id in &ids {
        for delete in PARTS {
            sqlx::query(delete).bind(id).execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    Ok(ids.len() as u64)
}
