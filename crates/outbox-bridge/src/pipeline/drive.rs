//! The loop of one run: from the reader to the lanes of the writers, and the checkpoint behind them.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    time::SystemTime,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Covered, PipelineError, PipelineOptions, identity, plan::PlanError};
use crate::{
    admin::{Component, Readiness},
    checkpoint::{Checkpoint, CheckpointError, Checkpoints, FORMAT_VERSION, LogPoint, StreamPoint},
    metrics::BridgeMetrics,
    publish::{Message, Stop, Stored},
    source::{Batch, SourceError},
};

/// Why one run ended without an error for good.
pub(super) enum End {
    Shutdown,
    Again(Stop),
    /// The source's server is another one, or must be looked for.
    Moved(String),
}

/// One writer as the loop sees it.
pub(super) struct Lane {
    pub(super) input: mpsc::Sender<Vec<Message>>,
    pub(super) stored: watch::Receiver<Stored>,
    pub(super) routed: u64,
}

/// A point that may be checkpointed once each lane has done as much as was routed to it then.
pub(super) struct Snapshot {
    point: LogPoint,
    end: (String, u64),
    routed: Vec<u64>,
}

/// Lists of messages that a lane may have waiting besides what its writer holds.
pub(super) const LANE_CAPACITY: usize = 2;

/// One run: what the loop works on.
pub(super) struct Run<'a, C> {
    pub(super) checkpoints: &'a mut C,
    pub(super) options: &'a PipelineOptions,
    pub(super) readiness: &'a Readiness,
    pub(super) revision: &'a mut Option<u64>,
    pub(super) saved: &'a mut Option<(LogPoint, Instant)>,
    pub(super) stored: &'a watch::Sender<(String, u64)>,
    pub(super) covered: &'a watch::Sender<Option<Covered>>,
    pub(super) since: BTreeMap<String, u64>,
    pub(super) lanes: Vec<Lane>,
    pub(super) writers: JoinSet<Result<(), Stop>>,
    pub(super) snapshot: Option<Snapshot>,
    /// The source has changed its server since the streams began.
    pub(super) switched: bool,
    /// The transactions of the rows that the streams hold and that the log had not shown at the beginning.
    pub(super) awaited: Vec<String>,
    pub(super) metrics: BridgeMetrics,
}

impl<C: Checkpoints> Run<'_, C> {
    pub(super) async fn drive<E: SourceError>(
        &mut self,
        reading: impl Future<Output = Result<(), E>>,
        mut incoming: mpsc::Receiver<Batch>,
        start: LogPoint,
        shutdown: &CancellationToken,
    ) -> Result<End, PipelineError<E>> {
        let mut reading = std::pin::pin!(reading);
        let mut tick = tokio::time::interval(self.options.checkpoint_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end = (start.file.clone(), start.offset);
        let mut point = start;
        let mut waiting: VecDeque<(usize, Vec<Message>)> = VecDeque::new();
        let mut due = false;
        // A definition was asked for, which the server may not be able to tell a second time: nothing more is taken until
        // it stands in the checkpoint.
        let mut defined = false;
        loop {
            // The point holds for what has been handed on; behind slow streams something nearly always waits, so a
            // checkpoint that is due is made at the next moment when nothing does.
            if due && !defined && waiting.is_empty() {
                due = false;
                self.checkpoint(&point, &end).await?;
            }
            let next_lane =
                waiting.front().and_then(|(index, _)| self.lanes.get(*index)).map(|lane| lane.input.clone());
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.writers.join_next() => return self.writer_ended(ended),
                _ = tick.tick() => {
                    self.observe();
                    due = true;
                }
                Some(permit) = reserve(next_lane) => {
                    if let Some((_, messages)) = waiting.pop_front() {
                        permit.send(messages);
                    }
                }
                () = all_stored(&mut self.lanes), if due && defined && waiting.is_empty() => {
                    due = false;
                    self.snapshot = None;
                    self.save(point.clone()).await?;
                    defined = self.saved.as_ref().is_none_or(|(saved, _)| *saved != point);
                }
                batch = incoming.recv(), if waiting.is_empty() && !defined => {
                    if let Some(batch) = batch {
                        let known = &point.definitions;
                        let mut definitions = batch.point.definitions.iter();
                        defined = definitions.any(|(table, new)| known.get(table) != Some(new));
                        // Nothing can be checkpointed until the log has shown more.
                        defined &= self.is_settled();
                        due |= defined;
                        (point, end) = (batch.point, batch.end);
                        self.route(batch.messages, &mut waiting);
                    }
                }
                ended = &mut reading => return match ended {
                    Err(error) if error.is_moved() => {
                        // What was read is stored, so that the checkpoint says as much as it can.
                        match self.drain::<E>(waiting, point).await {
                            Ok(_)
                            | Err(PipelineError::Deadline | PipelineError::Writer(Stop::Inconsistent { .. })) => {}
                            Err(error) => return Err(error),
                        }
                        Ok(End::Moved(crate::exit::report(&error)))
                    }
                    Err(error) => Err(PipelineError::Source(error)),
                    Ok(()) => Ok(End::Shutdown),
                },
            }
        }
        self.drain(waiting, point).await
    }

    /// Sorts the messages of a batch by stream, keeping their order.
    fn route(&mut self, messages: Vec<(usize, Message)>, waiting: &mut VecDeque<(usize, Vec<Message>)>) {
        for (index, message) in messages {
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            lane.routed += 1;
            match waiting.iter_mut().find(|(other, _)| *other == index) {
                Some((_, messages)) => messages.push(message),
                None => waiting.push_back((index, vec![message])),
            }
        }
    }

    fn writer_ended<E: std::error::Error + 'static>(
        &mut self,
        ended: Result<Result<(), Stop>, tokio::task::JoinError>,
    ) -> Result<End, PipelineError<E>> {
        match ended {
            Ok(Err(stop @ (Stop::Behind { .. } | Stop::Inconsistent { .. }))) => Ok(End::Again(stop)),
            Ok(Err(stop)) => Err(PipelineError::Writer(stop)),
            Ok(Ok(())) => {
                Err(PipelineError::Writer(Stop::Internal("a writer ended before its input".into())))
            }
            Err(panic) => Err(PipelineError::Writer(Stop::Internal(format!("a writer failed: {panic}")))),
        }
    }

    /// Tells metrics and readiness how the lanes are.
    fn observe(&mut self) {
        let trouble = self.lanes.iter().zip(&self.options.streams).find_map(|(lane, stream)| {
            Some(format!("stream {stream}: {}", lane.stored.borrow().trouble.as_deref()?))
        });
        match trouble {
            Some(trouble) => self.readiness.set_unready(Component::Publish, trouble),
            None => self.readiness.set_ready(Component::Publish),
        }
        self.readiness.board().note(|notes| {
            for (lane, name) in self.lanes.iter().zip(&self.options.streams) {
                let stored = lane.stored.borrow();
                let stream = notes.stream(name);
                stream.known = Some((stored.sequence, stored.position.clone()));
                stream.trouble.clone_from(&stored.trouble);
            }
        });
        if let Some((_, at)) = self.saved {
            self.metrics.checkpoint_age.set(at.elapsed().as_secs_f64());
        }
    }

    /// Saves the newest snapshot that is covered, and takes the next.
    async fn checkpoint<E: std::error::Error + 'static>(
        &mut self,
        point: &LogPoint,
        end: &(String, u64),
    ) -> Result<(), PipelineError<E>> {
        // What the streams hold and the log has not shown must stay behind the checkpoint; see `identity`.
        if !self.is_settled() {
            return self.check_awaited(point);
        }
        let covered = match self.snapshot.take() {
            Some(snapshot) if self.is_covered(&snapshot) => Some((snapshot.point, snapshot.end)),
            Some(snapshot) => {
                self.snapshot = Some(snapshot);
                return Ok(());
            }
            None => None,
        };
        let snapshot = Snapshot {
            point: point.clone(),
            end: end.clone(),
            routed: self.lanes.iter().map(|lane| lane.routed).collect(),
        };
        let covered = if self.is_covered(&snapshot) {
            Some((snapshot.point, snapshot.end))
        } else {
            self.snapshot = Some(snapshot);
            covered
        };
        if let Some((point, _)) = &covered {
            self.stored.send_replace((point.file.clone(), point.offset));
            self.readiness.board().reached(point);
            self.metrics
                .position_file
                .set(outbox_event::log_file_number(&point.file).unwrap_or_default() as f64);
            self.metrics.position_offset.set(point.offset as f64);
        }
        match covered {
            Some((point, end)) if self.saved.as_ref().is_none_or(|(saved, _)| *saved != point) => {
                self.save(point.clone()).await?;
                self.tell_covered(&point, end);
                Ok(())
            }
            Some((point, end)) => {
                // Nothing new; what is saved is as good as written now.
                self.tell_covered(&point, end);
                self.readiness.board().checkpointed();
                *self.saved = Some((point, Instant::now()));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Says that everything up to `end` is stored, if the checkpoint at `point` is known to be written.
    fn tell_covered(&self, point: &LogPoint, (file, offset): (String, u64)) {
        if self.saved.as_ref().is_some_and(|(saved, _)| saved == point) {
            let (server, since) = (point.server.clone(), self.since.clone());
            self.covered.send_replace(Some(Covered { server, file, offset, since }));
        }
    }

    /// Whether the log has shown all that the streams hold.
    fn is_settled(&self) -> bool {
        self.lanes.iter().all(|lane| lane.stored.borrow().awaited == 0)
    }

    /// Rows that never come would keep checkpoints from being made for ever.
    fn check_awaited<E: std::error::Error + 'static>(
        &self,
        point: &LogPoint,
    ) -> Result<(), PipelineError<E>> {
        let done = self.lanes.iter().all(|lane| lane.stored.borrow().done >= lane.routed);
        // Asked again, since it may have changed until all was done.
        if done && !self.is_settled() && identity::are_executed(&self.awaited, point) {
            let transactions = self.awaited.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            return Err(PlanError::NotShown { server: point.server.clone(), transactions }.into());
        }
        Ok(())
    }

    fn is_covered(&self, snapshot: &Snapshot) -> bool {
        self.lanes.iter().zip(&snapshot.routed).all(|(lane, routed)| lane.stored.borrow().done >= *routed)
    }

    async fn save<E: std::error::Error + 'static>(
        &mut self,
        point: LogPoint,
    ) -> Result<(), PipelineError<E>> {
        let streams = stream_points(
            &self.options.streams,
            self.lanes.iter().map(|lane| {
                let stored = lane.stored.borrow();
                (stored.sequence, stored.position.as_ref().map(ToString::to_string))
            }),
        );
        let checkpoint =
            new_checkpoint(&self.options.instance, point, streams, self.since.clone(), self.switched);
        match self.checkpoints.save(&checkpoint, *self.revision).await {
            Ok(revision) => {
                *self.revision = Some(revision);
                *self.saved = Some((checkpoint.point, Instant::now()));
                self.readiness.board().checkpointed();
                self.metrics.checkpoint_writes.increment(1);
                Ok(())
            }
            Err(CheckpointError::Conflict) => self.resolve_conflict().await,
            Err(error) => {
                tracing::warn!(%error, "cannot write the checkpoint now");
                Ok(())
            }
        }
    }

    /// The revision is not what it was: either an earlier write whose answer was lost, or another instance.
    async fn resolve_conflict<E: std::error::Error + 'static>(&mut self) -> Result<(), PipelineError<E>> {
        match self.checkpoints.load().await {
            Ok(Some((checkpoint, revision))) if checkpoint.instance == self.options.instance => {
                *self.revision = Some(revision);
                Ok(())
            }
            Ok(Some((checkpoint, _))) => Err(PipelineError::TakenOver { by: checkpoint.instance }),
            Ok(None) => {
                tracing::warn!("the checkpoint was deleted; writing it anew");
                *self.revision = None;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the checkpoint now");
                Ok(())
            }
        }
    }

    /// Reads no more; stores what was read, checkpoints, and ends.
    async fn drain<E: std::error::Error + 'static>(
        &mut self,
        waiting: VecDeque<(usize, Vec<Message>)>,
        point: LogPoint,
    ) -> Result<End, PipelineError<E>> {
        tracing::info!("draining");
        let deadline = Instant::now() + self.options.shutdown_deadline;
        let stored = tokio::time::timeout_at(deadline, async {
            for (index, messages) in waiting {
                if let Some(lane) = self.lanes.get(index)
                    && lane.input.send(messages).await.is_err()
                {
                    break;
                }
            }
            for lane in &mut self.lanes {
                // Closing the input tells the writer to end once everything is stored.
                lane.input = mpsc::channel(1).0;
            }
            while let Some(ended) = self.writers.join_next().await {
                match ended {
                    Ok(result) => result?,
                    Err(panic) => return Err(Stop::Internal(format!("a writer failed: {panic}"))),
                }
            }
            Ok(())
        })
        .await;
        match stored {
            Ok(Ok(())) => {
                if self.is_settled() && self.saved.as_ref().is_none_or(|(saved, _)| *saved != point) {
                    let saving = tokio::time::timeout_at(deadline, self.save(point)).await;
                    saving.unwrap_or(Err(PipelineError::Deadline))?;
                }
                Ok(End::Shutdown)
            }
            Ok(Err(Stop::Behind { .. })) | Err(_) => Err(PipelineError::Deadline),
            Ok(Err(stop)) => Err(PipelineError::Writer(stop)),
        }
    }
}

/// Waits until every lane has stored what was routed to it; for ever if a writer has ended, which is noticed elsewhere.
async fn all_stored(lanes: &mut [Lane]) {
    for lane in lanes {
        let routed = lane.routed;
        if lane.stored.wait_for(|stored| stored.done >= routed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until a lane takes another list of messages; gives nothing if its writer has ended, which is noticed elsewhere.
async fn reserve(lane: Option<mpsc::Sender<Vec<Message>>>) -> Option<mpsc::OwnedPermit<Vec<Message>>> {
    lane?.reserve_owned().await.ok()
}

pub(super) fn stream_points(
    names: &[String],
    points: impl Iterator<Item = (u64, Option<String>)>,
) -> BTreeMap<String, StreamPoint> {
    names
        .iter()
        .zip(points)
        .map(|(name, (sequence, position))| (name.clone(), StreamPoint { sequence, position }))
        .collect()
}

pub(crate) fn new_checkpoint(
    instance: &str,
    point: LogPoint,
    streams: BTreeMap<String, StreamPoint>,
    since: BTreeMap<String, u64>,
    switched: bool,
) -> Checkpoint {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let checkpoint = Checkpoint {
        version: FORMAT_VERSION,
        instance: instance.to_owned(),
        point,
        streams,
        since,
        written_seconds: now.as_secs(),
        backfill: None,
        switched,
    };
    checkpoint.versioned()
}
