//! The loop that owns the state: source to writers, and the checkpoint behind them.
//!
//! Start-up and recovery are one path. Every run loads the checkpoint, reads each stream's last message, decides from
//! both where to go on ([`plan`]), claims the checkpoint, and only then reads and publishes. Whatever goes wrong beyond
//! what a writer or the reader mends by itself ends the run, and the next one begins so again.
//!
//! A checkpoint covers a point of the log only when every message routed up to that point is stored.

mod drive;
mod identity;
pub mod plan;
mod reader;

pub(crate) use drive::new_checkpoint;

use std::{collections::BTreeMap, future::Future};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use self::drive::{End, LANE_CAPACITY, Lane, Run, stream_points};
use self::plan::{Plan, PlanError, StreamState};
use crate::{
    admin::{Component, Readiness},
    backoff::Backoff,
    checkpoint::{CheckpointError, Checkpoints, LogPoint},
    config::StartPosition,
    metrics::BridgeMetrics,
    publish::{Mode, Stop, Stored, Wire, WireError, Writer, WriterOptions},
    source::{Source, SourceError as _},
};

/// What a stream is like, as far as its writer must know.
#[derive(Debug, Clone, Copy)]
pub struct StreamTraits {
    /// How to publish to it.
    pub mode: Mode,
    /// Whether it has more than one replica.
    pub replicated: bool,
    /// Whether messages go away by being consumed: work queues, and streams that keep what consumers are interested in.
    pub consumed: bool,
}

/// What makes the wires to the streams.
pub trait Wires: Send {
    /// The wire to one stream.
    type Wire: Wire + 'static;

    /// A new wire to `stream`, and what the stream is like.
    ///
    /// # Errors
    ///
    /// If the stream cannot be reached or cannot be written to by a bridge.
    fn wire(
        &mut self,
        stream: &str,
    ) -> impl Future<Output = Result<(Self::Wire, StreamTraits), WireError>> + Send;
}

/// What is stored for certain: every row of an outbox table whose commit stands before this place in the log is in its
/// stream, and a checkpoint that says so is known to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// As in [`LogPoint::server`].
    pub server: String,
    /// The log file.
    pub file: String,
    /// The offset in it.
    pub offset: u64,
    /// As in [`Checkpoint::since`](crate::checkpoint::Checkpoint::since).
    pub since: BTreeMap<String, u64>,
}

/// Settings of the pipeline.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// The process, as it signs checkpoints.
    pub instance: String,
    /// The checkpoint's name, for messages.
    pub checkpoint_key: String,
    /// How often the checkpoint is written.
    pub checkpoint_interval: Duration,
    /// Where to begin without a checkpoint. Anything but `Now` is followed even if the streams tell where they end.
    pub start: StartPosition,
    /// The streams in the order of the indices that the source uses.
    pub streams: Vec<String>,
    /// The outbox tables, as `schema.table`.
    pub tables: Vec<String>,
    /// Limits and times of the writers; `stream` and `mode` are set for each.
    pub writer: WriterOptions,
    /// How long a shutdown may take.
    pub shutdown_deadline: Duration,
    /// Seeds the jitter of waits.
    pub seed: u64,
}

/// Why the pipeline ended for good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError<E: std::error::Error + 'static> {
    /// The source.
    #[error("cannot go on reading the source")]
    Source(#[source] E),
    /// A stream.
    #[error(transparent)]
    Writer(#[from] Stop),
    /// A stream before its writer ran.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Checkpoint and streams do not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// Another bridge with the same name has started.
    #[error(
        "another bridge has written the checkpoint (instance {by}), though this one holds the lease; this one stops: see that all \
         bridges of this name use the same bucket and a version with leases, or give each its own `name` and streams"
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    TakenOver { by: String },
    /// Not everything was stored before the shutdown's deadline; the next start goes on there.
    #[error(
        "not everything that was read could be stored before the shutdown's deadline; the next start goes on there"
    )]
    Deadline,
}

/// So often in a row may a stream not fit what its writer knows, within [`MISFIT_QUIET`]: a deposed leader's word can do
/// that once, and starting anew from what the stream holds mends it.
const MISFITS_MAX: u32 = 3;
const MISFIT_QUIET: Duration = Duration::from_secs(60);

/// The pipeline; see the module.
#[derive(Debug)]
pub struct Pipeline<S, W, C> {
    source: S,
    wires: W,
    checkpoints: C,
    options: PipelineOptions,
    readiness: Readiness,
    /// The checkpoint as this instance wrote it last, and its revision.
    revision: Option<u64>,
    saved: Option<(LogPoint, Instant)>,
    stored: watch::Sender<(String, u64)>,
    covered: watch::Sender<Option<Covered>>,
    since: BTreeMap<String, u64>,
}

/// Where to go on, the wires, and whether the source has ever changed its server.
type Prepared<W> = (Plan, Vec<(W, StreamTraits)>, bool);

type Failure<S> = PipelineError<<S as Source>::Error>;

impl<S: Source, W: Wires, C: Checkpoints> Pipeline<S, W, C> {
    /// A pipeline from `source` to the streams of `wires`.
    pub fn new(source: S, wires: W, checkpoints: C, options: PipelineOptions, readiness: Readiness) -> Self {
        Self {
            source,
            wires,
            checkpoints,
            options,
            readiness,
            revision: None,
            saved: None,
            stored: watch::Sender::default(),
            covered: watch::Sender::default(),
            since: BTreeMap::new(),
        }
    }

    /// Lets `covered` know what is stored for certain, with each checkpoint that is due, whether it says anything new or not.
    #[must_use]
    pub fn covering(mut self, covered: watch::Sender<Option<Covered>>) -> Self {
        self.covered = covered;
        self
    }

    /// Lets `stored` know the place in the log up to which everything is stored, as file and offset, about as often as
    /// checkpoints are made.
    #[must_use]
    pub fn telling(mut self, stored: watch::Sender<(String, u64)>) -> Self {
        self.stored = stored;
        self
    }

    /// Runs until `shutdown`, then drains.
    ///
    /// # Errors
    ///
    /// See [`PipelineError`]: what trying again cannot mend.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Failure<S>> {
        let mut backoff = self.backoff(1);
        let mut misfits = 0;
        loop {
            let begun = Instant::now();
            match self.run_once(&shutdown).await? {
                End::Shutdown => return Ok(()),
                End::Moved(error) => {
                    if begun.elapsed() >= MISFIT_QUIET {
                        backoff.reset();
                    }
                    let wait = backoff.wait();
                    tracing::warn!(error, retry_in = ?wait, "looking for the source's server anew");
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                End::Again(stop) => {
                    if begun.elapsed() >= MISFIT_QUIET {
                        misfits = 0;
                        backoff.reset();
                    }
                    misfits += u32::from(matches!(stop, Stop::Inconsistent { .. }));
                    if misfits > MISFITS_MAX {
                        return Err(PipelineError::Writer(stop));
                    }
                    let wait = backoff.wait();
                    tracing::error!(error = crate::exit::report(&stop), retry_in = ?wait, "starting anew from what the stream holds");
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    fn backoff(&self, purpose: u64) -> Backoff {
        let writer = &self.options.writer;
        Backoff::new(writer.retry_initial, writer.retry_max, self.options.seed.wrapping_add(purpose))
    }

    async fn run_once(&mut self, shutdown: &CancellationToken) -> Result<End, Failure<S>> {
        let prepared = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(End::Shutdown),
            prepared = self.prepare() => prepared?,
        };
        let (plan, wires, switched) = prepared;
        for (stream, sequence) in &plan.refilled {
            tracing::error!(
                stream,
                sequence,
                "the stream lost messages that it had acknowledged; refilling it from the log"
            );
        }

        let mut writers = JoinSet::new();
        let mut lanes = Vec::with_capacity(plan.chains.len());
        for (index, ((wire, traits), chain)) in wires.into_iter().zip(plan.chains).enumerate() {
            let stream = self.options.streams.get(index).cloned().unwrap_or_default();
            let (input, messages) = mpsc::channel(LANE_CAPACITY);
            let (sequence, position) = chain.known();
            let (report, stored) = watch::channel(Stored {
                sequence,
                position: position.cloned(),
                awaited: chain.awaited(),
                ..Stored::default()
            });
            let options = WriterOptions {
                stream,
                mode: traits.mode,
                replicated: traits.replicated,
                consumed: traits.consumed,
                seed: self.options.seed.wrapping_add(100 + index as u64),
                ..self.options.writer.clone()
            };
            let writer = Writer::new(wire, options, chain, messages, report);
            writers.spawn(writer.showing(self.readiness.board().clone()).run());
            lanes.push(Lane { input, stored, routed: 0 });
        }

        let backoff = self.backoff(2);
        let (batches, incoming) = mpsc::channel(1);
        let start = plan.start.clone();
        let since = self.since.clone();
        let Self { source, checkpoints, options, readiness, revision, saved, stored, covered, .. } = self;
        let mut run = Run {
            checkpoints,
            options,
            readiness,
            revision,
            saved,
            stored,
            covered,
            since,
            lanes,
            writers,
            snapshot: None,
            switched,
            awaited: plan.awaited,
            metrics: BridgeMetrics::new(),
        };
        let reading = reader::read(source, plan.start, backoff, run.readiness.clone(), batches);
        run.drive(reading, incoming, start, shutdown).await
    }

    /// Loads, reads, decides and claims, each as often as it takes.
    async fn prepare(&mut self) -> Result<Prepared<W::Wire>, Failure<S>> {
        let mut backoff = self.backoff(3);
        loop {
            match self.try_prepare().await {
                Ok(prepared) => return Ok(prepared),
                Err((component, error)) => {
                    let transient = match &error {
                        PipelineError::Source(error) => error.is_transient(),
                        PipelineError::Wire(error) => error.is_transient(),
                        PipelineError::Checkpoint(
                            CheckpointError::Unavailable(_) | CheckpointError::Conflict,
                        ) => true,
                        _ => false,
                    };
                    if !transient {
                        return Err(error);
                    }
                    let wait = backoff.wait();
                    let report = crate::exit::report(&error);
                    tracing::warn!(error = report, retry_in = ?wait, "cannot start yet");
                    self.readiness.set_unready(component, report);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn try_prepare(&mut self) -> Result<Prepared<W::Wire>, (Component, Failure<S>)> {
        let nats = |error: WireError| (Component::Nats, PipelineError::Wire(error));
        let checkpoint = |error| (Component::Nats, PipelineError::Checkpoint(error));
        let plan_error = |error| (Component::Nats, PipelineError::Plan(error));
        let source = |error| (Component::Source, PipelineError::Source(error));
        let loaded = self.checkpoints.load().await.map_err(checkpoint)?;
        let same_server = match &loaded {
            Some((checkpoint, _)) => self.source.locate(&checkpoint.point).await.map_err(source)?,
            None => true,
        };
        let mut wires = Vec::new();
        let mut states = Vec::new();
        for name in &self.options.streams {
            let (mut wire, traits) = self.wires.wire(name).await.map_err(nats)?;
            let tail = wire.read_tail().await.map_err(nats)?;
            let recorded = loaded.as_ref().and_then(|(checkpoint, _)| checkpoint.streams.get(name));
            let last_sequence = match recorded {
                Some(recorded) if tail.sequence() < recorded.sequence => {
                    // It may be a stale leader that answers: what it says is believed only if it stays so.
                    tokio::time::sleep(self.options.writer.behind_patience).await;
                    let again = wire.read_tail().await.map_err(nats)?;
                    if again != tail {
                        return Err(nats(WireError::Unavailable("the stream's end has just moved".into())));
                    }
                    Some(wire.read_last_sequence().await.map_err(nats)?)
                }
                _ => None,
            };
            states.push(StreamState { name: name.clone(), tail, last_sequence, consumed: traits.consumed });
            wires.push((wire, traits));
        }
        let key = &self.options.checkpoint_key;
        let mut switched = !same_server;
        let (plan, revision) = match &loaded {
            Some((checkpoint, revision)) if checkpoint.switched || !same_server => {
                switched = true;
                (self.plan_by_identity(checkpoint, same_server, &states, &mut wires).await?, Some(*revision))
            }
            Some((checkpoint, revision)) => {
                (plan::with_checkpoint(checkpoint, &states, key).map_err(plan_error)?, Some(*revision))
            }
            None => (self.plan_without_checkpoint(&states).await?, None),
        };
        // Only now, when it is known where reading begins: what is inserted later is read.
        let known = loaded.as_ref().map(|(checkpoint, _)| &checkpoint.since);
        self.since = self.since(known).await.map_err(|error| (Component::Source, error))?;
        // Claimed before anything is published or reported as ready: from here on an older instance steps down, and a
        // crash in the next moment begins again at this very point.
        let streams = match &loaded {
            Some((checkpoint, _)) => checkpoint.streams.clone(),
            None => stream_points(
                &self.options.streams,
                plan.chains.iter().map(|chain| {
                    let (sequence, position) = chain.known();
                    (sequence, position.map(ToString::to_string))
                }),
            ),
        };
        let point =
            loaded.as_ref().map_or_else(|| plan.start.clone(), |(checkpoint, _)| checkpoint.point.clone());
        let since = self.since.clone();
        let claim = new_checkpoint(&self.options.instance, point.clone(), streams, since, switched);
        self.revision = Some(self.checkpoints.save(&claim, revision).await.map_err(checkpoint)?);
        let point_server = point.server.clone();
        self.readiness.board().reached(&point);
        self.readiness.board().checkpointed();
        self.saved = Some((point, Instant::now()));
        self.readiness.set_ready(Component::Nats);
        self.readiness.set_ready(Component::Checkpoint);
        tracing::info!(
            at = %plan.start,
            streams = ?states.iter().map(|state| (&*state.name, state.tail.sequence())).collect::<Vec<_>>(),
            "starting"
        );
        if !same_server {
            BridgeMetrics::new().source_switches.increment(1);
            let held: u64 = plan.chains.iter().map(crate::publish::Chain::awaited).sum();
            tracing::warn!(from = point_server, to = plan.start.server, at = %plan.start, held, "the source has changed its server");
        }
        Ok((plan, wires, switched))
    }

    /// Where to go on after a change of server: by GTIDs, which name the same transactions everywhere.
    async fn plan_by_identity(
        &mut self,
        checkpoint: &crate::checkpoint::Checkpoint,
        same_server: bool,
        states: &[StreamState],
        wires: &mut [(W::Wire, StreamTraits)],
    ) -> Result<Plan, (Component, Failure<S>)> {
        let nats = |error| (Component::Nats, error);
        let executed =
            identity::Executed::of(checkpoint).map_err(|error| nats(PipelineError::Plan(error)))?;
        let mut chains = Vec::with_capacity(states.len());
        let mut stored = Vec::new();
        for (state, (wire, _)) in states.iter().zip(wires) {
            let recorded = checkpoint.streams.get(&state.name);
            let (chain, gtids) =
                identity::chain(wire, state, recorded, &executed).await.map_err(|failure| match failure {
                    identity::Failure::Wire(error) => nats(PipelineError::Wire(error)),
                    identity::Failure::Plan(error) => nats(PipelineError::Plan(error)),
                })?;
            chains.push(chain);
            stored.extend(gtids);
        }
        let start = if same_server {
            checkpoint.point.clone()
        } else {
            let found = self.source.relocate(&checkpoint.point, &stored).await;
            found.map_err(|error| (Component::Source, PipelineError::Source(error)))?
        };
        Ok(Plan { start, chains, refilled: Vec::new(), awaited: stored })
    }

    /// Since when each table is read: as known, or from now on. A table that is not configured any more is forgotten, since
    /// its rows are passed over.
    async fn since(
        &mut self,
        known: Option<&BTreeMap<String, u64>>,
    ) -> Result<BTreeMap<String, u64>, Failure<S>> {
        let mut since = BTreeMap::new();
        for table in &self.options.tables {
            let time = match known.and_then(|known| known.get(table)) {
                Some(time) => *time,
                None => self.source.now().await.map_err(PipelineError::Source)?,
            };
            since.insert(table.clone(), time);
        }
        Ok(since)
    }

    async fn plan_without_checkpoint(
        &mut self,
        states: &[StreamState],
    ) -> Result<Plan, (Component, Failure<S>)> {
        if self.options.start == StartPosition::Now {
            let plan = plan::without_checkpoint(states);
            if let Some(plan) = plan.map_err(|error| (Component::Nats, PipelineError::Plan(error)))? {
                tracing::warn!(at = %plan.start, "there is no checkpoint; going on from the streams' last messages");
                return Ok(plan);
            }
        }
        let start = self
            .source
            .first_point()
            .await
            .map_err(|error| (Component::Source, PipelineError::Source(error)))?;
        tracing::info!(at = %start, "first start");
        // From the beginning on, the log shows what the streams hold; a given start may lie behind it.
        let must_see = self.options.start == StartPosition::Earliest;
        Ok(Plan {
            start,
            chains: plan::from_tails(states, must_see),
            refilled: Vec::new(),
            awaited: Vec::new(),
        })
    }
}
