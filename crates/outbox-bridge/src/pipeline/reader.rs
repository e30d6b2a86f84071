//! The task that keeps the source open and hands on what it yields.

use tokio::sync::mpsc;

use crate::{
    admin::{Component, Readiness},
    backoff::Backoff,
    checkpoint::LogPoint,
    metrics::BridgeMetrics,
    source::{Batch, Source, SourceError as _},
};

/// Reads from `point` on and sends what comes; opens again after transient errors. Ends when nobody listens any more.
pub(super) async fn read<S: Source>(
    source: &mut S,
    mut point: LogPoint,
    mut backoff: Backoff,
    readiness: Readiness,
    batches: mpsc::Sender<Batch>,
) -> Result<(), S::Error> {
    let metrics = BridgeMetrics::new();
    loop {
        let error = match source.open(&point).await {
            Err(error) => error,
            Ok(()) => {
                readiness.set_reading(source.server());
                let error = loop {
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
                };
                // What was not open, a server that is still away, is not lost again.
                metrics.source_reconnects.increment(1);
                error
            }
        };
        if error.is_moved() {
            readiness.set_unready(Component::Source, format!("source: {}", crate::exit::report(&error)));
            return Err(error);
        }
        if !error.is_transient() {
            return Err(error);
        }
        let wait = backoff.wait();
        let report = crate::exit::report(&error);
        tracing::warn!(error = report, at = %point, retry_in = ?wait, "lost the source");
        readiness.set_unready(Component::Source, format!("source: {report}"));
        tokio::select! {
            biased;
            () = batches.closed() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}
