//! From commit to stored and to handled, under a load that does not wait.
//!
//! The load is an open loop: each transaction has its time from the beginning on, and is sent then whether or not earlier
//! ones have arrived, so a stall of the bridge delays nothing but the messages behind it, and all of them count. *Commit* is
//! the server's own timestamp of the transaction, *stored* the stream's. What stalls the writers themselves would be left
//! out so; the time from when a transaction was *due* to when it was stored has that too. The consumer whose handler is
//! timed shares this process's one thread with the writers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures_util::StreamExt as _;
use hdrhistogram::Histogram;
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, STREAM};
use outbox_consumer::inbox::MemoryInbox;
use outbox_consumer::{Consumer, Context, Router, StartAt, State};
use outbox_event::header;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::field::Field;
use crate::report::{Measurement, Target, Unit};
use crate::{Scale, progress};

pub(crate) const GROUP: &str = "latency";

/// Connections that write.
const WRITERS: u64 = 8;
/// Transactions a second that the writers can send without falling behind; above, each has several rows.
const TRANSACTIONS_MAX: u64 = 2_000;
/// The longest latency that is told apart.
const LONGEST: Duration = Duration::from_secs(60);
const NOTE_BYTES: usize = 400;

#[derive(Debug, Clone, Copy)]
struct Load {
    rate: u64,
    rows_each: u64,
    transactions: u64,
}

impl Load {
    fn new(rate: u64, seconds: u64) -> Self {
        let rows_each = rate.div_ceil(TRANSACTIONS_MAX);
        Self { rate, rows_each, transactions: rate * seconds / rows_each }
    }

    fn events(self) -> u64 {
        self.transactions * self.rows_each
    }

    fn name(self) -> String {
        match self.rows_each {
            1 => format!("{}/s", self.rate),
            rows => format!("{}/s, {rows} rows a transaction", self.rate),
        }
    }
}

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    field.fresh_streams().await?;
    let mut bridge = Bridge::start(&field.settings().set("source.start", "now")).await?;
    let mut all = Vec::new();
    for rate in scale.rates {
        let load = Load::new(*rate, scale.seconds);
        let new = |what: &str| {
            Measurement::new(GROUP, format!("{what}, {}", load.name()), Unit::Milliseconds)
                .at(what, *rate as f64)
        };
        let (mut p50, mut p99) = (new("commit to stored, p50"), new("commit to stored, p99"));
        if *rate == 1_000 {
            (p50, p99) = (p50.target(Target::Below(2.0)), p99.target(Target::Below(10.0)));
        }
        let (mut due, mut handled50, mut handled99) =
            (new("due to stored, p99"), new("commit to handled, p50"), new("commit to handled, p99"));
        for round in 0..scale.rounds {
            progress(&format!("latency at {}, round {}", load.name(), round + 1));
            let (stored, from_due) = to_stored(field, &mut bridge, load).await?;
            p50.add(milliseconds(&stored, 0.5));
            p99.add(milliseconds(&stored, 0.99));
            due.add(milliseconds(&from_due, 0.99));
            let handled = to_handled(field, &mut bridge, load).await?;
            handled50.add(milliseconds(&handled, 0.5));
            handled99.add(milliseconds(&handled, 0.99));
        }
        all.extend([p50, p99, due, handled50, handled99]);
    }
    bridge.finish().await?;
    Ok(all)
}

/// Runs the load and gives the times from commit and from due time to stored.
async fn to_stored(
    field: &Field,
    bridge: &mut Bridge,
    load: Load,
) -> Result<(Histogram<u64>, Histogram<u64>)> {
    let before = field.stored().await?.messages;
    write(field, load).await?;
    field.await_stored(before + load.events(), Some(bridge)).await?;
    let stream = field.world.jetstream.get_stream(STREAM).await?;
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        memory_storage: true,
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: before + 1 },
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let (mut from_commit, mut from_due) = (histogram()?, histogram()?);
    for _ in 0..load.events() {
        let message = messages.next().await.context("the subscription has ended")??;
        let stored = message.info().map_err(anyhow::Error::from_boxed)?.published;
        let headers = message.headers.as_ref().context("a message without headers")?;
        let committed = commit_time(headers.get(header::CE_TIME).map(|value| value.as_str()))?;
        record(&mut from_commit, between(committed, stored));
        let body: serde_json::Value = serde_json::from_slice(&message.payload)?;
        let due = body.get("due").and_then(serde_json::Value::as_i64).context("a body without its time")?;
        let due = OffsetDateTime::from_unix_timestamp_nanos(i128::from(due) * 1_000)?;
        record(&mut from_due, between(due, stored));
    }
    Ok((from_commit, from_due))
}

type Handled = Arc<Mutex<Histogram<u64>>>;

async fn handle(State(handled): State<Handled>, context: Context) {
    if let Ok(committed) = commit_time(context.header(header::CE_TIME)) {
        let latency = between(committed, OffsetDateTime::now_utc());
        record(&mut handled.lock().unwrap_or_else(PoisonError::into_inner), latency);
    }
}

/// Runs the load with a consumer at work, and gives the times from commit to the handler's call.
async fn to_handled(field: &Field, bridge: &mut Bridge, load: Load) -> Result<Histogram<u64>> {
    let before = field.stored().await?.messages;
    let handled: Handled = Arc::new(Mutex::new(histogram()?));
    let name = format!("latency-{}", Uuid::new_v4().simple());
    let consumer = Consumer::builder(field.client.clone(), STREAM, name)
        .start_at(StartAt::New)
        .build(MemoryInbox::new(), Router::new().on("placed", handle).with_state(handled.clone()))
        .await?;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { consumer.run(stop).await }
    });
    write(field, load).await?;
    field.await_stored(before + load.events(), Some(bridge)).await?;
    let count = || handled.lock().unwrap_or_else(PoisonError::into_inner).len();
    testbed::eventually("all to be handled", LONGEST, async || Ok((count() >= load.events()).then_some(())))
        .await?;
    stop.cancel();
    running.await??;
    let handled = handled.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(handled.len() == load.events(), "{} of {} were handled", handled.len(), load.events());
    Ok(handled)
}

/// Commits the transactions at their times.
async fn write(field: &Field, load: Load) -> Result<()> {
    let begin = Instant::now() + Duration::from_millis(200);
    let begin_time = OffsetDateTime::now_utc() + Duration::from_millis(200);
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let mut conn = field.world.conn().await?;
        tasks.spawn(async move {
            let row = "(?, 'order', ?, 'placed', ?)";
            let rows = vec![row; usize::try_from(load.rows_each)?].join(", ");
            let sql = format!(
                "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, type, payload) VALUES {rows}"
            );
            let statement = conn.prep(sql).await?;
            let note = "n".repeat(NOTE_BYTES);
            for transaction in (writer..load.transactions).step_by(usize::try_from(WRITERS)?) {
                let offset =
                    Duration::from_secs_f64((transaction * load.rows_each) as f64 / load.rate as f64);
                let due = (begin_time + offset).unix_timestamp_nanos() / 1_000;
                let mut values: Vec<mysql_async::Value> = Vec::new();
                for row in 0..load.rows_each {
                    let body = format!("{{\"due\": {due}, \"row\": {row}, \"note\": \"{note}\"}}");
                    let aggregate = (transaction % 1_000).to_string();
                    values.extend([
                        Uuid::now_v7().as_bytes().as_slice().into(),
                        aggregate.into(),
                        body.into(),
                    ]);
                }
                tokio::time::sleep_until(begin + offset).await;
                conn.exec_drop(&statement, values).await?;
            }
            conn.close(statement).await?;
            anyhow::Ok(conn.disconnect().await?)
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn commit_time(text: Option<&str>) -> Result<OffsetDateTime> {
    OffsetDateTime::parse(text.context("a message without ce-time")?, &Rfc3339).context("ce-time")
}

pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(u64::try_from(LONGEST.as_micros())?, 3)?)
}

/// Records a latency; the clocks of two programs on one machine are one, and a microsecond is the least that they tell apart.
pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
}

/// From one time to another, none if the second is not the later one.
fn between(earlier: OffsetDateTime, later: OffsetDateTime) -> Duration {
    Duration::try_from(later - earlier).unwrap_or_default()
}

pub(crate) fn milliseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}
