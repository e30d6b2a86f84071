//! The task that keeps the source open and hands on what it yields.

use tokio::sync::mpsc;

use crate::{
    backoff::Backoff,
    checkpoint::LogPoint,
    metrics,
    source::{Batch, Source, SourceError as _},
    status::{Component, Status},
};

/// Reads from `point` on and sends what comes; opens again after transient errors. Ends when nobody listens any more.
pub(super) async fn read<S: Source>(
    source: &mut S,
    mut point: LogPoint,
    mut backoff: Backoff,
    status: Status,
    batches: mpsc::Sender<Batch>,
) -> Result<(), S::Error> {
    loop {
        let error = match source.open(&point).await {
            Err(error) => error,
            Ok(()) => {
                status.well(Component::Source);
                loop {
                    match source.next().await {
                        Ok(batch) => {
                            backoff.reset();
                            point = batch.point.clone();
                            if batches.send(batch).await.is_err() {
                                return Ok(());
                            }
                        }
                        Err(error) => break error,
                    }
                }
            }
        };
        if !error.is_transient() {
            return Err(error);
        }
        let wait = backoff.next();
        let report = crate::report(&error);
        tracing::warn!(error = report, at = %point, retry_in = ?wait, "lost the source");
        status.trouble(Component::Source, format!("source: {report}"));
        metrics::source_reconnect();
        tokio::select! {
            biased;
            () = batches.closed() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}
