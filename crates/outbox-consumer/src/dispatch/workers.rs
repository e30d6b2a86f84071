//! The tasks that handle messages: as many as the concurrency allows, each one message at a time.
//!
//! They live as long as the dispatcher. A task for every message would cost an allocation of the size of all that a
//! handler holds, which is more than a short handler itself costs.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    in_hand::InHand,
    task::{Done, Shared},
};
use crate::inbox::Inbox;

/// After a panic that is not the handler's.
const PAUSE: Duration = Duration::from_secs(10);

type Ended = (usize, Arc<InHand>, Done);

pub(crate) struct Workers<I: Inbox> {
    shared: Arc<Shared<I>>,
    limit: usize,
    /// Where each gets its next message.
    inputs: Vec<mpsc::Sender<Arc<InHand>>>,
    /// Those that have nothing to do; the one that ended last is on top, and warm.
    idle: Vec<usize>,
    ended: mpsc::Receiver<Ended>,
    report: mpsc::Sender<Ended>,
    tasks: JoinSet<()>,
}

impl<I: Inbox> Workers<I> {
    pub(crate) fn new(shared: Arc<Shared<I>>, limit: usize) -> Self {
        let (report, ended) = mpsc::channel(limit.max(1));
        Self { shared, limit, inputs: Vec::new(), idle: Vec::new(), ended, report, tasks: JoinSet::new() }
    }

    /// How many messages are being handled.
    pub(crate) fn running(&self) -> usize {
        self.inputs.len() - self.idle.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.running() < self.limit
    }

    /// Begins to handle a message. There must be room.
    pub(crate) fn begin(&mut self, message: Arc<InHand>) {
        debug_assert!(self.has_room(), "more messages than the concurrency");
        let worker = self.idle.pop().unwrap_or_else(|| self.spawn());
        let sent = self.inputs.get(worker).map(|input| input.try_send(message));
        // An idle worker's channel is empty, and the worker waits at it.
        debug_assert!(matches!(sent, Some(Ok(()))), "an idle worker takes a message");
    }

    fn spawn(&mut self) -> usize {
        let number = self.inputs.len();
        let (input, mut messages) = mpsc::channel::<Arc<InHand>>(1);
        self.inputs.push(input);
        let (shared, report) = (Arc::clone(&self.shared), self.report.clone());
        self.tasks.spawn(async move {
            while let Some(message) = messages.recv().await {
                // Handlers' panics are caught before; this is for our own.
                let done = AssertUnwindSafe(shared.handle(&message)).catch_unwind().await;
                let done = done.unwrap_or_else(|_| {
                    let sequence = message.delivery.sequence;
                    tracing::error!(sequence, "a task panicked outside of its handler");
                    Done::Again(PAUSE)
                });
                if report.send((number, message, done)).await.is_err() {
                    return;
                }
            }
        });
        number
    }

    /// The next message whose handling has ended. Cancel-safe; waits for ever if there is none.
    pub(crate) async fn next(&mut self) -> (Arc<InHand>, Done) {
        match self.ended.recv().await {
            Some(ended) => self.rested(ended),
            // We have a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// As [`next`](Self::next), if there is one now.
    pub(crate) fn next_now(&mut self) -> Option<(Arc<InHand>, Done)> {
        let ended = self.ended.try_recv().ok()?;
        Some(self.rested(ended))
    }

    fn rested(&mut self, (worker, message, done): Ended) -> (Arc<InHand>, Done) {
        self.idle.push(worker);
        (message, done)
    }

    /// Cuts off what runs.
    pub(crate) async fn abort(&mut self) {
        self.tasks.shutdown().await;
    }
}
