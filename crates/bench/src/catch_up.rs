//! From the log to the stream, end to end: the bridge's own binary against a backlog.
//!
//! Its processor time counts from the process's start, which weighs with a small backlog.

use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_bridge_tests::Bridge;
use time::OffsetDateTime;

use crate::field::{Backlog, Field, Stored};
use crate::limits;
use crate::report::{Measurement, Target, Unit};
use crate::{Scale, progress};

pub(crate) const GROUP: &str = "catch-up";

/// What one run of the bridge over a backlog took.
#[derive(Debug)]
pub(crate) struct Run {
    /// From the first to the last message stored.
    pub(crate) rate: f64,
    /// From the launch of the process to the last message stored.
    pub(crate) rate_from_launch: f64,
    pub(crate) cpu: Duration,
    pub(crate) memory_peak_bytes: u64,
    /// From another launch, now with a checkpoint, to its first message.
    start: Option<Duration>,
}

/// Lets a bridge carry a backlog of so many events into an empty stream.
pub(crate) async fn run(field: &Field, events: u64) -> Result<Run> {
    let (run, bridge) = carry(field, events).await?;
    bridge.finish().await?;
    Ok(run)
}

/// As [`run`], and starts the bridge again after another event was committed, which stays in the log.
async fn run_twice(field: &Field, events: u64) -> Result<Run> {
    let (mut run, mut bridge) = carry(field, events).await?;
    bridge.stop().await?;
    field.world.database.exec("CALL shop.fill(0, 1, 1, 300, 0)").await?;
    let launched = OffsetDateTime::now_utc();
    bridge.launch()?;
    let stored = field.await_stored(events + 1, Some(&mut bridge)).await?;
    run.start = Some(Duration::try_from(stored.last - launched).unwrap_or_default());
    bridge.finish().await?;
    Ok(run)
}

async fn carry(field: &Field, events: u64) -> Result<(Run, Bridge)> {
    field.fresh_streams().await?;
    let launched = OffsetDateTime::now_utc();
    let mut bridge = Bridge::spawn(&field.settings())?;
    let stored = field.await_stored(events, Some(&mut bridge)).await?;
    let whole = (stored.last - launched).as_seconds_f64();
    let run = Run {
        rate: rate(&stored, events),
        rate_from_launch: events as f64 / whole,
        cpu: bridge.cpu_time()?,
        memory_peak_bytes: bridge.memory_peak_bytes()?,
        start: None,
    };
    Ok((run, bridge))
}

/// Messages a second, by the stream's own timestamps.
pub(crate) fn rate(stored: &Stored, messages: u64) -> f64 {
    messages as f64 / (stored.last - stored.first).as_seconds_f64()
}

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    let plain = Backlog::plain(scale.events);
    let mut all = ordinary(field, scale, plain).await?;
    if scale.smoke {
        return Ok(all);
    }
    all.extend(shape(field, scale, "transactions of 10 rows", Backlog { rows_each: 10, ..plain }).await?);
    all.extend(one_transaction(field, scale, Backlog { rows_each: plain.rows, ..plain }).await?);
    let plain = Backlog::plain(scale.shape_events);
    for (name, payload_bytes, rows) in [
        ("payloads of 200 B", 200, plain.rows),
        ("payloads of 1 kB", 1_000, plain.rows),
        ("payloads of 16 kB", 16_000, plain.rows / 4),
    ] {
        all.extend(shape(field, scale, name, Backlog { payload_bytes, rows, ..plain }).await?);
    }
    Ok(all)
}

fn against_bare_loop(name: impl Into<String>) -> Measurement {
    Measurement::new(GROUP, name, Unit::PerSecond).beside("bare fast ingest").target(Target::OfLimit(0.6))
}

fn memory() -> Measurement {
    Measurement::new(GROUP, "… resident memory, peak", Unit::Mebibytes).target(Target::Below(64.0))
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// One-row transactions of about 700 bytes, with all that targets ask for.
async fn ordinary(field: &Field, scale: &Scale, backlog: Backlog) -> Result<Vec<Measurement>> {
    let events = backlog.events();
    let name = format!("{events} one-row transactions");
    let mut rate = against_bare_loop(&name).target(Target::AtLeast(100_000.0));
    let mut cpu =
        Measurement::new(GROUP, "… bridge CPU a million events", Unit::Seconds).target(Target::Below(8.0));
    let mut memory = memory();
    let mut to_first =
        Measurement::new(GROUP, "… start with a checkpoint to first message", Unit::Milliseconds)
            .target(Target::Below(1_000.0));
    progress(&format!("{name}: filling the log"));
    field.fill(backlog).await?;
    // Each round adds an event.
    for (round, events) in (0..scale.rounds).zip(events..) {
        progress(&format!("{name}, round {}", round + 1));
        let (bare, run) = in_turns(field, scale, round, events, run_twice(field, events)).await?;
        rate.add(run.rate);
        rate.add_limit(bare);
        cpu.add(run.cpu.as_secs_f64() * 1e6 / events as f64);
        memory.add(mebibytes(run.memory_peak_bytes));
        to_first.add(run.start.unwrap_or_default().as_secs_f64() * 1e3);
    }
    Ok(vec![rate, cpu, memory, to_first])
}

async fn shape(field: &Field, scale: &Scale, name: &str, backlog: Backlog) -> Result<Vec<Measurement>> {
    let events = backlog.events();
    let mut rate = against_bare_loop(format!("{name}, {events} events"));
    let mut memory = memory();
    progress(&format!("{name}: filling the log"));
    field.fill(backlog).await?;
    for round in 0..scale.rounds {
        progress(&format!("{name}, round {}", round + 1));
        let (bare, run) = in_turns(field, scale, round, events, run(field, events)).await?;
        rate.add(run.rate);
        rate.add_limit(bare);
        memory.add(mebibytes(run.memory_peak_bytes));
    }
    Ok(vec![rate, memory])
}

/// It is larger than the bridge's buffer, so the log is read twice; that counts.
async fn one_transaction(field: &Field, scale: &Scale, backlog: Backlog) -> Result<Vec<Measurement>> {
    let events = backlog.events();
    let name = format!("one transaction of {events} rows, from launch");
    let mut rate = Measurement::new(GROUP, &name, Unit::PerSecond);
    let mut memory = memory();
    progress(&format!("{name}: filling the log"));
    field.fill(backlog).await?;
    for round in 0..scale.rounds {
        progress(&format!("{name}, round {}", round + 1));
        let run = Box::pin(run(field, events)).await?;
        rate.add(run.rate_from_launch);
        memory.add(mebibytes(run.memory_peak_bytes));
    }
    Ok(vec![rate, memory])
}

/// The bare loop and the bridge over the same backlog, in turns first and second.
async fn in_turns(
    field: &Field,
    scale: &Scale,
    round: usize,
    events: u64,
    run: impl Future<Output = Result<Run>>,
) -> Result<(f64, Run)> {
    let messages = field.messages(events.min(scale.limit_messages)).await?;
    if round.is_multiple_of(2) {
        let bare = bare(field, &messages).await?;
        Ok((bare, Box::pin(run).await?))
    } else {
        let run = Box::pin(run).await?;
        Ok((bare(field, &messages).await?, run))
    }
}

/// The rate of the bare loop into an empty stream.
pub(crate) async fn bare(field: &Field, messages: &[outbox_bridge::publish::Message]) -> Result<f64> {
    field.fresh_streams().await?;
    limits::fast_ingest(&field.client, messages).await.context("the bare fast-ingest loop")?;
    let count = messages.len() as u64;
    Ok(rate(&field.await_stored(count, None).await?, count))
}
