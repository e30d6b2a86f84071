//! The database's clock, without asking it each time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{MySql, Transaction};

use super::store;

/// How long this process's clock counts on from what the database said. The database may set its clock meanwhile: then the limits of
/// what begins are off by as much.
const COUNT_ON_MAX: Duration = Duration::from_secs(10);

/// The database's clock, by which all limits are set. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    read: Arc<Mutex<Option<(Instant, u64)>>>,
}

impl Clock {
    /// In milliseconds since 1970.
    pub(super) async fn now(&self, tx: &mut Transaction<'_, MySql>) -> Result<u64, sqlx::Error> {
        if let Some(now) = self.count_on(Instant::now()) {
            return Ok(now);
        }
        let asked = Instant::now();
        let now = store::now(tx).await?;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, now));
        Ok(now)
    }

    fn count_on(&self, at: Instant) -> Option<u64> {
        let (read, now) = (*self.read.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.saturating_duration_since(read);
        let millis = u64::try_from(since.as_millis()).ok()?;
        (since < COUNT_ON_MAX).then(|| now.saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_on_for_a_while() {
        let clock = Clock::default();
        let begin = Instant::now();
        assert_eq!(clock.count_on(begin), None);
        *clock.read.lock().unwrap() = Some((begin, 1_000));
        assert_eq!(clock.count_on(begin + Duration::from_millis(9_999)), Some(10_999));
        assert_eq!(clock.count_on(begin + COUNT_ON_MAX), None);
    }
}
