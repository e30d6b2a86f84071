//! Load from many callers: as much as they can bear, or at a rate that waits for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::latency;

/// Calls `work` for each number up to `count`, with so many calls open at a time; gives how long all took together.
pub(crate) async fn closed<F>(
    count: u64,
    concurrency: u64,
    work: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Result<Duration>
where
    F: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..concurrency {
        let (work, next) = (work.clone(), next.clone());
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                work(number).await?;
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(began.elapsed())
}

/// Calls `work` at `rate` calls a second, whether or not earlier ones have come back; gives the times from when a call was
/// due to when it came back.
pub(crate) async fn open<F>(
    rate: u64,
    count: u64,
    work: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Result<Histogram<u64>>
where
    F: Future<Output = Result<()>> + Send,
{
    let begin = Instant::now() + Duration::from_millis(100);
    let mut calls = JoinSet::new();
    for number in 0..count {
        let due = begin + Duration::from_secs_f64(number as f64 / rate as f64);
        tokio::time::sleep_until(due).await;
        let work = work.clone();
        calls.spawn(async move { work(number).await.map(|()| due.elapsed()) });
    }
    let mut histogram = latency::histogram()?;
    while let Some(done) = calls.join_next().await {
        latency::record(&mut histogram, done??);
    }
    Ok(histogram)
}
