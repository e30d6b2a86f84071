//! `cargo xtask demo`: first three services that carry orders through a flow; then a shop that writes orders, a bridge, a reader
//! who sees every committed event arrive, and two services that handle them.
//!
//! Everything is real: the servers, the bridge's own binary, and its own `init` and `check` for the set-up. At the end
//! the stream and what the services did are compared with the outbox table. Nothing is left behind, however the demo ends.

mod bridge;
mod build;
mod flow;
mod orders;
mod process;
mod saga;
mod services;
mod setup;
mod show;
mod tcc;
mod verdict;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::{Message, consumer};
use futures_util::StreamExt as _;
use outbox_event::header;
use testbed::Flavour;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval};
use uuid::Uuid;

use self::bridge::Bridge;
pub(crate) use self::build::{Programs, build};
use self::orders::Report;
use self::services::Services;
use self::setup::World;
use self::show::{Screen, Shown};
use self::verdict::{Event, digest};

/// How long nothing may arrive while events are missing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to watch for events too many, once all have arrived.
const QUIET: Duration = Duration::from_secs(1);

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Stop after this many committed events, and succeed only if exactly they arrived, in order
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: Option<u64>,
    /// Transactions a second; by default 5, with --events 200
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Use MariaDB in place of MySQL
    #[arg(long)]
    mariadb: bool,
    /// Kill bridge and services with SIGKILL every so many seconds, and start them again at once
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    kill_every: Option<u64>,
    /// Build bridge and services for release, which takes some minutes more the first time
    #[arg(long, conflicts_with = "bridge")]
    release: bool,
    /// Start this binary of the bridge instead of building one
    #[arg(long, value_name = "FILE")]
    bridge: Option<PathBuf>,
    /// What was built already.
    #[arg(skip)]
    programs: Option<Programs>,
}

impl Options {
    /// A short demo with programs that were built already.
    pub(crate) fn rehearsal(mariadb: bool, programs: Programs) -> Self {
        let programs = Some(programs);
        Self {
            events: Some(100),
            rate: None,
            mariadb,
            kill_every: None,
            release: false,
            bridge: None,
            programs,
        }
    }

    fn flavour(&self) -> Flavour {
        if self.mariadb { Flavour::MariaDb } else { Flavour::MySql }
    }

    fn rate(&self) -> u32 {
        self.rate.unwrap_or(if self.events.is_some() { 200 } else { 5 })
    }
}

/// Runs the demo until Ctrl-C or the wanted number of events.
pub(crate) async fn run(options: Options) -> Result<()> {
    let mut stop = on_signals()?;
    let (programs, world, mut bridge) = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => bail!("interrupted"),
        prepared = prepare(&options) => prepared?,
    };
    let result = async {
        let mut services = Services::start(&programs, &world).await?;
        watch_events(&options, &world, &mut bridge, &mut services, stop).await
    };
    let result = Box::pin(result).await;
    let stopped = bridge.stop().await;
    let result = result.and(stopped);
    if result.is_err() {
        eprintln!("\nThe bridge's log ends:\n{}", bridge.log());
    }
    result
}

async fn prepare(options: &Options) -> Result<(Programs, World, Bridge)> {
    let programs = match &options.programs {
        Some(programs) => programs.clone(),
        None => {
            let services = build::SERVICES.map(|service| format!("--package={service}"));
            let mut selection: Vec<&str> = services.iter().map(String::as_str).collect();
            selection.push("--bins");
            selection.extend(options.bridge.is_none().then_some("--package=outbox-bridge"));
            selection.extend(options.release.then_some("--release"));
            Programs::build(&selection, options.bridge.as_deref()).await?
        }
    };
    let world = World::start(options.flavour()).await?;
    Box::pin(flow::show(&programs, &world, options.kill_every.is_some())).await.context("the order flow")?;
    Box::pin(saga::show(&programs, &world)).await.context("the orders as sagas")?;
    Box::pin(tcc::show(&programs, &world)).await.context("the orders by TCC")?;
    world.set_up_shop(&programs.bridge).await?;
    let bridge = Bridge::of_shop(&programs.bridge, &world).await?;
    Ok((programs, world, bridge))
}

/// Becomes true with the first SIGINT, SIGTERM or SIGHUP; the second ends the process, and the servers with it.
fn on_signals() -> Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        };
        next().await;
        sender.send_replace(true);
        next().await;
        std::process::exit(130);
    });
    Ok(receiver)
}

/// What has been seen so far.
#[derive(Debug, Default)]
struct Seen {
    committed: u64,
    rolled_back: HashSet<Uuid>,
    arrived: Vec<Event>,
    /// How often the bridge was killed.
    kills: u64,
    /// When `COMMIT` was sent, of events that have not arrived; only where the server's log does not say it.
    sent: HashMap<Uuid, OffsetDateTime>,
    latencies: Vec<Duration>,
}

async fn watch_events(
    options: &Options,
    world: &World,
    bridge: &mut Bridge,
    services: &mut Services<'_>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let stream = world.stream().await?;
    let mut messages = stream
        .create_consumer(consumer::pull::OrderedConfig::default())
        .await
        .context("cannot subscribe to the stream")?
        .messages()
        .await?;
    let mut screen = Screen::new();
    screen.header()?;
    let (reporter, mut reports) = mpsc::unbounded_channel();
    let plan = orders::Plan { events: options.events, rate: options.rate() };
    let writer = tokio::spawn(orders::write(world.mysql.conn().await?, plan, reporter, stop.clone()));

    let mut seen = Seen::default();
    let mut writing = true;
    let mut kills = options.kill_every.map(|seconds| {
        let period = Duration::from_secs(seconds);
        tokio::time::interval_at(Instant::now() + period, period)
    });
    loop {
        let complete = seen.arrived.len() as u64 >= seen.committed;
        let patience = if complete { QUIET } else { PATIENCE };
        tokio::select! {
            biased;
            () = next(&mut kills), if writing || !complete => {
                bridge.kill_and_start_again().await?;
                services.kill_and_start_again().await?;
                seen.kills += 1;
            }
            // The writer's reports first, so that a message finds the time when its `COMMIT` was sent.
            report = reports.recv(), if writing => match report {
                Some(report) => take_report(&mut seen, &mut screen, report)?,
                None => writing = false,
            },
            message = messages.next() => {
                let message = message.context("the subscription has ended")??;
                let shown = take_message(&mut seen, options.flavour(), &message)?;
                screen.event(&shown)?;
            }
            ended = bridge.ended() => bail!("the bridge has ended ({})", ended?),
            () = tokio::time::sleep(patience), if !writing => break,
        }
    }
    writer.await.context("the writer of orders has failed")?.context("cannot write orders")?;
    let interrupted = *stop.borrow_and_update();
    conclude(options, world, &seen).await?;
    services.conclude().await?;
    ensure!(
        !interrupted || options.events.is_none(),
        "interrupted before all {} events were committed",
        options.events.unwrap_or_default()
    );
    Ok(())
}

/// The next time of these; never, if there are none.
async fn next(times: &mut Option<Interval>) {
    match times {
        Some(times) => {
            times.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn take_report(seen: &mut Seen, screen: &mut Screen, report: Report) -> Result<()> {
    match report {
        Report::Committing { id, at } => {
            seen.sent.insert(id, at);
        }
        Report::Committed => seen.committed += 1,
        Report::RolledBack(id) => {
            seen.rolled_back.insert(id);
            screen.rolled_back(id)?;
        }
    }
    Ok(())
}

fn take_message<'a>(seen: &mut Seen, flavour: Flavour, message: &'a Message) -> Result<Shown<'a>> {
    let info = message.info().map_err(anyhow::Error::from_boxed)?;
    let headers = message.headers.as_ref().context("a message without headers has arrived")?;
    let header = |name: &str| {
        headers.get(name).map(|value| value.as_str()).with_context(|| format!("a message lacks {name}"))
    };
    let id: Uuid = header(header::CE_ID)?.parse().context("ce-id is not a UUID")?;
    let sent = seen.sent.remove(&id);
    let committed = match flavour {
        Flavour::MySql => Some(OffsetDateTime::parse(header(header::CE_TIME)?, &Rfc3339).context("ce-time")?),
        // Its log has whole seconds.
        Flavour::MariaDb => sent,
    };
    let latency =
        committed.map(|committed| Duration::try_from(info.published - committed).unwrap_or_default());
    seen.latencies.extend(latency);
    seen.arrived.push(Event { id, digest: digest(&message.subject, &message.payload) });
    Ok(Shown {
        sequence: info.stream_sequence,
        subject: &message.subject,
        id,
        latency,
        body: &message.payload,
    })
}

/// Compares what arrived with the outbox table, and says how it went.
async fn conclude(options: &Options, world: &World, seen: &Seen) -> Result<()> {
    let expected = world.outbox().await?;
    let mut problems = verdict::problems(&expected, &seen.arrived, &seen.rolled_back);
    let stored = world.stream().await?.cached_info().state.messages;
    if stored != seen.arrived.len() as u64 {
        problems.push(format!("the stream holds {stored} messages, and {} arrived", seen.arrived.len()));
    }
    println!(
        "\n{} events committed, {} arrived; {} transactions rolled back",
        expected.len(),
        seen.arrived.len(),
        seen.rolled_back.len()
    );
    if seen.kills > 0 {
        println!("bridge and services were killed with SIGKILL {} times", seen.kills);
    }
    if let Some((p50, p99)) = verdict::percentiles(&seen.latencies) {
        let from = match options.flavour() {
            Flavour::MySql => "ce-time, when MySQL committed,",
            Flavour::MariaDb => "the moment when COMMIT was sent (MariaDB's log has whole seconds only)",
        };
        println!(
            "commit to stored: p50 {}, p99 {}, from {from} to the stream's timestamp{}",
            show::milliseconds(p50),
            show::milliseconds(p99),
            if options.release { "" } else { "; development build" }
        );
    }
    if problems.is_empty() {
        println!(
            "Compared with the rows of {}: the same ids, once each, in order, bodies equal.",
            setup::TABLE
        );
        return Ok(());
    }
    bail!("the stream differs from the rows of {}:\n  {}", setup::TABLE, problems.join("\n  "))
}
