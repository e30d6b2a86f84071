//! From the log to the stream, end to end: the bridge's own binary against a backlog.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::stream::State;
use outbox_bridge_tests::Bridge;
use time::OffsetDateTime;

use crate::field::{Backlog, Field};
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
    /// From the launch to the first message, with a checkpoint.
    pub(crate) start: Duration,
}

/// Carries a backlog of so many events, and starts once more for one event on top.
pub(crate) async fn run(field: &Field, events: u64, settings: &[(&str, &str)]) -> Result<Run> {
    field.fresh_stream().await?;
    let settings = settings.iter().fold(field.settings(), |all, (key, value)| all.set(key, *value));
    let launched = OffsetDateTime::now_utc();
    let mut bridge = Bridge::spawn(&settings)?;
    let state = field.await_stored(events, Some(&mut bridge)).await?;
    let (cpu, memory_peak_bytes) = (bridge.cpu_time()?, bridge.memory_peak_bytes()?);
    bridge.stop().await?;

    // Another table's event would do for the log, but only a stored one shows that all is at work.
    field.world.database.exec("CALL shop.fill(0, 1, 1, 300, 0)").await?;
    let relaunched = OffsetDateTime::now_utc();
    bridge.launch()?;
    let after = field.await_stored(events + 1, Some(&mut bridge)).await?;
    let start = Duration::try_from(after.last_timestamp - relaunched).unwrap_or_default();
    bridge.finish().await?;
    let whole = (state.last_timestamp - launched).as_seconds_f64();
    Ok(Run {
        rate: rate(&state, events),
        rate_from_launch: events as f64 / whole,
        cpu,
        memory_peak_bytes,
        start,
    })
}

/// Messages a second, by the stream's own timestamps.
pub(crate) fn rate(state: &State, messages: u64) -> f64 {
    messages as f64 / (state.last_timestamp - state.first_timestamp).as_seconds_f64()
}

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    let plain = Backlog::plain(scale.events);
    let mut all = ordinary(field, scale, plain).await?;
    if scale.smoke {
        return Ok(all);
    }
    let shapes = [
        ("transactions of 10 rows", Backlog { rows_each: 10, ..plain }),
        ("payloads of 200 B", Backlog { payload_bytes: 200, ..plain }),
        ("payloads of 1 kB", Backlog { payload_bytes: 1_000, ..plain }),
        ("payloads of 16 kB", Backlog { payload_bytes: 16_000, rows: plain.rows / 10, ..plain }),
    ];
    for (name, backlog) in shapes {
        all.push(shape(field, scale, name, backlog).await?);
    }
    all.extend(one_transaction(field, scale, plain).await?);
    Ok(all)
}

fn against_bare_loop(name: impl Into<String>) -> Measurement {
    Measurement::new(GROUP, name, Unit::PerSecond).beside("bare fast ingest").target(Target::OfLimit(0.6))
}

/// One-row transactions of about 700 bytes, with all that targets ask for.
async fn ordinary(field: &Field, scale: &Scale, backlog: Backlog) -> Result<Vec<Measurement>> {
    let events = backlog.events();
    let seconds = |name, below| Measurement::new(GROUP, name, Unit::Seconds).target(Target::Below(below));
    let name = format!("{events} one-row transactions");
    let mut rate = against_bare_loop(&name).target(Target::AtLeast(100_000.0));
    let mut cpu = seconds("… bridge CPU a million events", 8.0);
    let mut memory =
        Measurement::new(GROUP, "… resident memory, peak", Unit::Mebibytes).target(Target::Below(64.0));
    let mut start = seconds("… start with a checkpoint to first message", 1.0);
    for round in 0..scale.rounds {
        // Before each round, since the run before has added its event.
        progress(&format!("{name}, round {}", round + 1));
        field.fill(backlog).await?;
        let (bare, run) = pair(field, scale, round, events).await?;
        rate.add(run.rate);
        rate.add_limit(bare);
        cpu.add(run.cpu.as_secs_f64() * 1e6 / events as f64);
        memory.add(run.memory_peak_bytes as f64 / f64::from(1 << 20));
        start.add(run.start.as_secs_f64());
    }
    Ok(vec![rate, cpu, memory, start])
}

async fn shape(field: &Field, scale: &Scale, name: &str, backlog: Backlog) -> Result<Measurement> {
    let events = backlog.events();
    let mut rate = against_bare_loop(format!("{name}, {events} events"));
    for round in 0..scale.rounds {
        progress(&format!("{name}, round {}", round + 1));
        field.fill(backlog).await?;
        let (bare, run) = pair(field, scale, round, events).await?;
        rate.add(run.rate);
        rate.add_limit(bare);
    }
    Ok(rate)
}

/// It is larger than the bridge's buffer, so the log is read twice; that counts.
async fn one_transaction(field: &Field, scale: &Scale, plain: Backlog) -> Result<Vec<Measurement>> {
    let backlog = Backlog { rows_each: plain.rows, ..plain };
    let events = backlog.events();
    let name = format!("one transaction of {events} rows");
    let mut rate = Measurement::new(GROUP, format!("{name}, from launch"), Unit::PerSecond);
    let mut memory =
        Measurement::new(GROUP, "… resident memory, peak", Unit::Mebibytes).target(Target::Below(64.0));
    for round in 0..scale.rounds {
        progress(&format!("{name}, round {}", round + 1));
        field.fill(backlog).await?;
        let run = run(field, events, &[]).await?;
        rate.add(run.rate_from_launch);
        memory.add(run.memory_peak_bytes as f64 / f64::from(1 << 20));
    }
    Ok(vec![rate, memory])
}

/// The bare loop and the bridge over the same backlog, in turns first and second.
async fn pair(field: &Field, scale: &Scale, round: usize, events: u64) -> Result<(f64, Run)> {
    let messages = field.messages(events.min(scale.limit_messages)).await?;
    if round.is_multiple_of(2) {
        let bare = bare(field, &messages).await?;
        Ok((bare, Box::pin(run(field, events, &[])).await?))
    } else {
        let run = Box::pin(run(field, events, &[])).await?;
        Ok((bare(field, &messages).await?, run))
    }
}

/// The rate of the bare loop into an empty stream.
pub(crate) async fn bare(field: &Field, messages: &[outbox_bridge::publish::Message]) -> Result<f64> {
    field.fresh_stream().await?;
    limits::fast_ingest(&field.client, messages).await.context("the bare fast-ingest loop")?;
    let count = messages.len() as u64;
    Ok(rate(&field.await_stored(count, None).await?, count))
}
