//! Waiting for a condition with a deadline, the only kind of waiting that tests do.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How long to pause between two looks at a condition. Short, because a test's speed hangs on it.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` yields a value, for at most `limit`, and looks again every few milliseconds.
///
/// # Errors
///
/// An error of the condition ends the wait; so does the deadline, and then the error names `what`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain: {what}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
