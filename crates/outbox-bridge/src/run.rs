//! The bridge as a whole: makes the parts out of the configuration and runs the pipeline.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use async_nats::{Client, Event, jetstream};
use outbox_lease::Holder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Component, Readiness, watch_nats},
    audit::Auditor,
    backoff::Backoff,
    checkpoint::{CheckpointError, KvCheckpoints},
    cleanup::Cleaner,
    config::{self, Config, PublishMode},
    diagnosis::Code,
    exit::{Exit, report},
    instances::{self, Announcement},
    lead::Leadership,
    metrics::BridgeMetrics,
    nats::{self, NatsError},
    pipeline::{Pipeline, PipelineError, PipelineOptions, StreamTraits, Wires},
    publish::{
        ClaimChecks, Complaints, Letters, Mode, NatsWire, ORPHAN_INTERVALS, Sweeper, WireError, WriterOptions,
    },
    route::Route,
    source::{
        LogError, LogOptions, LogSource, RelocateError,
        connection::{ConnectOptions, Password, TlsMode, TlsOptions},
        watch_lag,
    },
    traces::Traces,
};

/// Why the bridge ended.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    message: String,
    exit: Exit,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl RunError {
    pub(crate) fn new(message: &str, exit: Exit, source: impl Error + Send + Sync + 'static) -> Self {
        Self { message: message.to_owned(), exit, source: Some(Box::new(source)) }
    }

    /// The exit code that says the same.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// How long a stream may end before what it acknowledged until that is believed: a deposed leader was seen to answer for
/// half a second.
const BEHIND_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the bridge until `shutdown`, then drains and writes a last checkpoint within the configured deadline.
///
/// # Errors
///
/// [`RunError`] if it cannot go on and trying again would not help.
pub async fn run(
    config: Config,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    let (traces, exporting) = match config.traces.as_ref().map(Traces::start).transpose() {
        Ok(started) => started.unzip(),
        Err(error) => return Err(RunError::new("spans cannot be sent", Exit::Configuration, error)),
    };
    let ended = Box::pin(lead(config, readiness, shutdown, traces)).await;
    if let Some(exporting) = exporting {
        exporting.finish().await;
    }
    ended
}

/// Connects to NATS, announces itself there, and does its part, until `shutdown`.
async fn lead(
    config: Config,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
    traces: Option<Traces>,
) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let _stopper = tokio::spawn({
        let stop = stop.clone();
        async move {
            shutdown.await;
            stop.cancel();
        }
    });
    let connected = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        connected = connect_nats(&config, &readiness) => connected?,
    };
    let (client, disconnects, complaints) = connected;
    let context = nats::jetstream(&config.nats, client.clone());
    let instance = instance();
    readiness.board().note(|notes| notes.instance.clone_from(&instance));
    let announcement = Announcement::begin(
        &config,
        context.clone(),
        Holder::this_process(&*instance),
        complaints.clone(),
        readiness.clone(),
    );
    let connected = Connected { client, context, disconnects, complaints };
    let ended = Box::pin(take_turns(config, readiness, stop, traces, connected, instance)).await;
    announcement.withdraw().await;
    ended
}

/// The connection to NATS, and what is heard of it.
struct Connected {
    client: Client,
    context: jetstream::Context,
    disconnects: watch::Receiver<u64>,
    complaints: Complaints,
}

/// Waits for its turn to lead, and leads, until `stop`.
async fn take_turns(
    config: Config,
    readiness: Readiness,
    stop: CancellationToken,
    traces: Option<Traces>,
    connected: Connected,
    instance: String,
) -> Result<(), RunError> {
    let Connected { client, context, disconnects, complaints } = connected;
    let streams = stream_names(&config);
    let replicas = checkpoint_replicas(&config, &context, &streams).await;
    let mut leadership = Leadership::new(&config, context.clone(), replicas, &instance, readiness.clone());
    let (point, stored) = watch::channel((String::new(), 0));
    let (server, read) = watch::channel(connect_options(&config.source));
    let board = readiness.board().clone();
    let _lag = AbortOnDrop(tokio::spawn(watch_lag(read.clone(), stored, BridgeMetrics::new(), board)));
    let looking = watch_nats(
        client.clone(),
        context.clone(),
        streams.clone(),
        letters(&config, &client, &context),
        readiness.board().clone(),
    );
    let _looking = config.http.listen.map(|_| AbortOnDrop(tokio::spawn(looking)));
    loop {
        let lease = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            lease = leadership.acquire() => lease,
        };
        let lease =
            lease.map_err(|error| RunError::new("the bridge cannot lead", Exit::Configuration, error))?;
        let wires = NatsWires {
            client: client.clone(),
            context: context.clone(),
            disconnects: disconnects.clone(),
            mode: config.publish.mode,
            message_id: config.publish.message_id,
            letters: letters(&config, &client, &context),
            complaints: complaints.clone(),
            claim_checks: claim_checks(&config, &context, replicas),
            threshold: threshold(&config),
        };
        let bucket = config.checkpoint.bucket.clone();
        let checkpoints = KvCheckpoints::new(context.clone(), bucket, config.name.clone(), replicas);
        let source = LogSource::new(log_options(&config), route_maker(&config, &streams));
        let source = source.telling(server.clone());
        let mut options = pipeline_options(&config, instance.clone(), streams.clone());
        options.writer.traces.clone_from(&traces);
        let pipeline = Pipeline::new(source, wires, checkpoints, options, readiness.clone());
        let (covered, covering) = watch::channel(None);
        let pipeline = pipeline.telling(point.clone()).covering(covered);
        let parked = letters(&config, &client, &context);
        let auditor = Auditor::new(&config, read.clone(), parked.clone(), context.clone(), covering.clone());
        let _auditor = auditor.map(|auditor| AbortOnDrop(tokio::spawn(auditor.run())));
        let cleaner = Cleaner::new(&config, read.clone(), parked, covering);
        let _cleaner = cleaner.map(|cleaner| AbortOnDrop(tokio::spawn(cleaner.run())));
        let sweeper = sweeper(&config, &context, replicas, &streams);
        let _sweeper = sweeper.map(|sweeper| AbortOnDrop(tokio::spawn(sweeper.run())));
        let ended = tokio::select! {
            biased;
            // Not drained: from now on another one may be at work.
            () = lease.lost() => None,
            ended = Box::pin(pipeline.run(stop.clone())) => Some(ended),
        };
        match ended {
            None => tracing::warn!("this bridge leads no longer; standing by"),
            Some(Ok(())) => {
                lease.release().await;
                return Ok(());
            }
            // Another one has the lease as well, as this one is about to notice; or it knows nothing of leases.
            Some(Err(PipelineError::TakenOver { by }))
                if tokio::time::timeout(config.lease.ttl, lease.lost()).await.is_ok() =>
            {
                tracing::warn!(by, "another bridge has taken over; standing by");
            }
            Some(Err(error)) => {
                lease.release().await;
                let exit = exit_of(&error);
                return Err(RunError::new("the bridge cannot go on", exit, error));
            }
        }
    }
}

/// Where dead letters lie, if there are to be any.
pub(crate) fn letters(config: &Config, client: &Client, context: &jetstream::Context) -> Option<Letters> {
    let config::DeadLetters { stream, subject } = config.dead_letters.clone()?;
    Some(Letters::new(client.clone(), context.clone(), stream, subject))
}

/// Where payloads go that are too large for a message, if there is such a place.
pub(crate) fn claim_checks(
    config: &Config,
    context: &jetstream::Context,
    replicas: usize,
) -> Option<ClaimChecks> {
    let checks = config.claim_check.as_ref()?;
    // Chunks without an object are taken for left over after twice that time.
    let put_timeout = checks.interval * (ORPHAN_INTERVALS / 2);
    Some(ClaimChecks::new(context.clone(), checks.bucket.clone(), replicas, put_timeout))
}

/// From which size of a message on its payload goes there.
pub(crate) fn threshold(config: &Config) -> Option<usize> {
    config.claim_check.as_ref()?.threshold.map(|bytes| bytes.as_usize())
}

fn sweeper(
    config: &Config,
    context: &jetstream::Context,
    replicas: usize,
    streams: &[String],
) -> Option<Sweeper> {
    let checks = claim_checks(config, context, replicas)?;
    let interval = config.claim_check.as_ref()?.interval;
    Some(Sweeper::new(checks, streams.to_vec(), interval))
}

pub(crate) fn pipeline_options(config: &Config, instance: String, streams: Vec<String>) -> PipelineOptions {
    PipelineOptions {
        instance,
        checkpoint_key: format!("{} in bucket {}", config.name, config.checkpoint.bucket),
        checkpoint_interval: config.checkpoint.interval,
        start: config.source.start.clone(),
        streams,
        tables: config.outboxes.iter().map(|outbox| outbox.table.to_string()).collect(),
        writer: WriterOptions {
            stream: String::new(),
            mode: Mode::Pipelined,
            replicated: false,
            consumed: false,
            window: config.publish.window as usize,
            window_bytes_max: config.publish.window_bytes_max.as_usize(),
            ack_timeout: config.publish.ack_timeout,
            retry_initial: config.retry.initial,
            retry_max: config.retry.max,
            behind_patience: BEHIND_PATIENCE,
            seed: 0,
            traces: None,
        },
        shutdown_deadline: config.shutdown.deadline,
        seed: rand::random(),
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the process calls itself in checkpoints: host, process and a random part.
pub(crate) fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}:{:08x}", host.trim(), std::process::id(), rand::random::<u32>())
}

fn exit_of(error: &PipelineError<LogError>) -> Exit {
    use crate::transaction::TransactionError;
    match error {
        PipelineError::Source(
            LogError::Connection(_) | LogError::Damaged(_) | LogError::Relocate(RelocateError::Behind { .. }),
        )
        | PipelineError::Deadline => Exit::Unavailable,
        PipelineError::Source(LogError::Transaction(
            TransactionError::Unfinished { .. } | TransactionError::Stray { .. },
        )) => Exit::Internal,
        PipelineError::Writer(crate::publish::Stop::Internal(_)) => Exit::Internal,
        PipelineError::Checkpoint(CheckpointError::Unavailable(_)) => Exit::Unavailable,
        _ => Exit::Configuration,
    }
}

/// The streams in the order of the configuration, each once.
pub(crate) fn stream_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for outbox in &config.outboxes {
        if !names.contains(&outbox.stream) {
            names.push(outbox.stream.clone());
        }
    }
    names
}

pub(crate) fn route_maker(config: &Config, streams: &[String]) -> crate::source::MakeRoutes {
    routes_parking(config, streams, config.dead_letters.is_some())
}

/// As [`route_maker`]; with `parking`, rows that can be no message are handed on as such instead of being an error.
pub(crate) fn routes_parking(
    config: &Config,
    streams: &[String],
    parking: bool,
) -> crate::source::MakeRoutes {
    let outboxes = config.outboxes.clone();
    let streams = streams.to_vec();
    // Servers come and go, what consumers see of the source does not change.
    let name = config.source.is_list.then(|| config.name.clone());
    Box::new(move |server| {
        let server = name.as_deref().unwrap_or(server);
        let route = |outbox: &config::Outbox| {
            let stream = streams.iter().position(|name| *name == outbox.stream).unwrap_or_default();
            Route::new(outbox.clone(), stream, server).parking(parking)
        };
        outboxes.iter().map(route).collect()
    })
}

pub(crate) fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        connect: connect_options(&config.source),
        servers: all_servers(&config.source),
        expected: None,
        behind: config.source.behind,
        server_id: config.source.server_id,
        heartbeat: config.source.heartbeat,
        start: config.source.start.clone(),
        buffer_bytes_max: config.source.transaction_buffer_bytes_max.as_usize(),
        refuse_foreign_statements: config.source.foreign_statements == config::ForeignStatements::Refuse,
        event_bytes_max: config.source.event_bytes_max.as_usize(),
    }
}

/// How to connect to each of the source's servers, in the order of the configuration.
pub(crate) fn all_servers(source: &config::Source) -> Vec<ConnectOptions> {
    let first = connect_options(source);
    let other =
        |(host, port): &(String, u16)| ConnectOptions { host: host.clone(), port: *port, ..first.clone() };
    let others: Vec<_> = source.others.iter().map(other).collect();
    std::iter::once(first).chain(others).collect()
}

/// The options of a connection to the source's first server.
pub(crate) fn connect_options(source: &config::Source) -> ConnectOptions {
    let mut options = ConnectOptions::new(source.host.clone(), source.port, source.user.clone());
    options.password = source.password.as_ref().map(|password| Password::new(password.expose()));
    options.connect_timeout = source.connect_timeout;
    let client = source.tls.client.as_ref();
    options.tls = TlsOptions {
        mode: match source.tls.mode {
            config::TlsMode::Disabled => TlsMode::Disabled,
            config::TlsMode::Preferred => TlsMode::Preferred,
            config::TlsMode::Required => TlsMode::Required,
            config::TlsMode::VerifyCa => TlsMode::VerifyCa,
            config::TlsMode::VerifyIdentity => TlsMode::VerifyIdentity,
        },
        ca_file: source.tls.ca_file.clone(),
        cert_file: client.map(|client| client.cert_file.clone()),
        key_file: client.map(|client| client.key_file.clone()),
        ..TlsOptions::default()
    };
    options
}

/// Connects to NATS, as often as it takes; the receiver counts the connection's losses.
pub(crate) async fn connect_nats(
    config: &Config,
    readiness: &Readiness,
) -> Result<(Client, watch::Receiver<u64>, Complaints), RunError> {
    let complaints = Complaints::default();
    let mut backoff = Backoff::new(config.retry.initial, config.retry.max, rand::random());
    loop {
        let (losses, receiver) = watch::channel(0);
        let options = nats::connect_options(&config.nats, &config.name)
            .map_err(|error| RunError::new("cannot connect to NATS", Exit::Configuration, error))?;
        let losses = Arc::new(losses);
        let metrics = BridgeMetrics::new();
        let shared = readiness.clone();
        let heard = complaints.clone();
        let name = config.name.clone();
        let options = options.event_callback(move |event| {
            match &event {
                Event::Connected => heard.forget(),
                Event::ServerError(error) => {
                    let complaint = error.to_string();
                    complain(&name, &complaint);
                    heard.hear(complaint);
                }
                _ => {}
            }
            notice(&event, &losses, &metrics, &shared);
            std::future::ready(())
        });
        let error = match options.connect(config.nats.urls.as_slice()).await {
            Ok(client) => return Ok((client, receiver, complaints)),
            Err(error) => NatsError::Connect(error),
        };
        let wait = backoff.wait();
        let report = report(&error);
        tracing::warn!(error = report, retry_in = ?wait, "cannot connect to NATS yet");
        readiness.set_unready(Component::Nats, report);
        tokio::time::sleep(wait).await;
    }
}

/// Takes note of what happens to the connection to NATS.
fn notice(event: &Event, losses: &watch::Sender<u64>, metrics: &BridgeMetrics, readiness: &Readiness) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            readiness.set_ready(Component::Nats);
        }
        Event::Disconnected => {
            tracing::warn!("lost the connection to NATS");
            metrics.nats_reconnects.increment(1);
            readiness.set_unready(Component::Nats, format!("disconnected [{}]", Code::NATS_UNREACHABLE));
            losses.send_modify(|count| *count += 1);
        }
        Event::SlowConsumer(_) => {
            // Answers were dropped: what they said is in doubt.
            tracing::warn!("answers from NATS came faster than they were taken");
            losses.send_modify(|count| *count += 1);
        }
        // Said by `complain`.
        Event::ServerError(_) => {}
        other => tracing::debug!(event = %other, "NATS"),
    }
}

/// Says that NATS refuses something.
fn complain(name: &str, complaint: &str) {
    if instances::is_about(name, complaint) {
        // Nothing but a list lacks, which whoever misses it says.
        tracing::debug!(error = complaint, "NATS refuses something");
        return;
    }
    tracing::error!(
        error = complaint,
        "NATS refuses something; `outbox-bridge check` says what the bridge's permissions must be"
    );
}

/// As many as configured, else as the first stream has.
pub(crate) async fn checkpoint_replicas(
    config: &Config,
    context: &jetstream::Context,
    streams: &[String],
) -> usize {
    if let Some(replicas) = config.checkpoint.replicas {
        return usize::from(replicas);
    }
    let Some(first) = streams.first() else { return 1 };
    match context.get_stream(first).await {
        Ok(stream) => stream.cached_info().config.num_replicas,
        Err(_) => 1,
    }
}

/// Makes the wires to the configured streams.
#[derive(Debug)]
pub(crate) struct NatsWires {
    pub(crate) client: Client,
    pub(crate) context: jetstream::Context,
    pub(crate) disconnects: watch::Receiver<u64>,
    pub(crate) mode: PublishMode,
    pub(crate) message_id: bool,
    pub(crate) letters: Option<Letters>,
    pub(crate) complaints: Complaints,
    pub(crate) claim_checks: Option<ClaimChecks>,
    /// Payloads of larger messages are stored by `claim_checks`.
    pub(crate) threshold: Option<usize>,
}

/// The first server with fast ingest.
const FAST_SERVER: (i64, i64, i64) = (2, 14, 0);

impl Wires for NatsWires {
    type Wire = NatsWire;

    async fn wire(&mut self, stream: &str) -> Result<(NatsWire, StreamTraits), WireError> {
        let info = NatsWire::stream_info(&self.context, stream).await?;
        let (major, minor, patch) = FAST_SERVER;
        let offered =
            info.config.allow_batch_publish && self.client.is_server_compatible(major, minor, patch);
        let mode = match self.mode {
            PublishMode::Auto if offered => Mode::Fast,
            PublishMode::Auto | PublishMode::Pipelined => Mode::Pipelined,
            PublishMode::Fast => Mode::Fast,
            PublishMode::Durable => Mode::Durable,
        };
        let consumed = info.config.retention != jetstream::stream::RetentionPolicy::Limits;
        let traits = StreamTraits { mode, replicated: info.config.num_replicas > 1, consumed };
        let mut disconnects = self.disconnects.clone();
        disconnects.mark_unchanged();
        let mut wire = NatsWire::new(
            self.client.clone(),
            self.context.clone(),
            stream.to_owned(),
            self.message_id,
            disconnects,
        )
        .await?;
        if let Some(letters) = &self.letters {
            letters.verify().await?;
            wire = wire.parking(letters.clone(), self.complaints.clone());
        }
        if let Some(mut checks) = self.claim_checks.clone() {
            Box::pin(checks.open()).await?;
            let taken = usize::try_from(info.config.max_message_size).ok().filter(|bytes| *bytes > 0);
            let inline_max = self.threshold.into_iter().chain(taken).min().unwrap_or(usize::MAX);
            wire = wire.checking(checks, inline_max);
        }
        tracing::info!(stream, %mode, replicas = info.config.num_replicas, "publishing");
        Ok((wire, traits))
    }
}
