//! One trace over a whole saga: its commands, replies and compensations, what the bridge publishes, and what handles it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use outbox_bridge_tests::{Bridge, STREAM, Stored, World};
use outbox_consumer::inbox::NoInbox;
use outbox_consumer::{Consumer, HandlerError, Router, Routes, State};
use outbox_event::header;
use outbox_producer::{Error, NewEvent, Outbox};
use outbox_saga::barrier::Barrier;
use outbox_saga::saga::{Orchestrator, Participant, Retry, Saga, SagaCommand, StepBuilder};
use serde_json::{Value, json};
use sqlx::MySqlPool;
use testbed::eventually;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::collector::{Collector, Kept, LIMIT, text};

/// What the steps of both sagas come to in the outbox, at least: of the first `reserve`, `hold` twice, since its first command is not answered, and
/// `pay`, an answer to three of them, two compensations and their answers; of the second `reserve` and its compensation, with answers.
const EVENTS_MIN: usize = 4 + 3 + 4 + 4;

fn event(event_type: &str) -> Result<NewEvent, Error> {
    NewEvent::json("order", "1", event_type, &json!({}))
}

/// Sent again soon.
fn step(step: StepBuilder<Value>, command: &'static str, undo: &'static str) -> StepBuilder<Value> {
    let soon = Duration::from_secs(5);
    let retry = Retry::attempts(20).delays(soon / 10, soon / 10);
    step.command(|_| event(command)).compensation(|_| event(undo)).timeout(soon).retry(retry)
}

fn place_order() -> Result<Saga<Value>> {
    // Only what a test is about is repeated, on a busy machine too.
    let patient = |of: StepBuilder<Value>| of.timeout(LIMIT * 10).compensation_retry(Retry::attempts(1));
    let saga = Saga::named("place-order")
        .step("reserve", |of| patient(step(of, "Reserve", "Release")))
        .step("hold", |of| step(of, "Hold", "LetGo"))
        .pivot("pay", |of| of.command(|_| event("Pay")).timeout(LIMIT * 10));
    Ok(saga.build()?)
}

/// Does what it is asked for, but neither answers the first command to hold, nor pays.
async fn take_part(
    command: SagaCommand,
    State((participant, pool)): State<(Participant, MySqlPool)>,
) -> Result<(), HandlerError> {
    if command.step == "hold" && command.action.as_str() == "do" {
        let before = "SELECT CAST(COUNT(*) AS SIGNED) FROM outbox WHERE type = 'Hold'";
        let before: i64 = sqlx::query_scalar(before).fetch_one(&pool).await?;
        if before == 1 {
            return Ok(());
        }
    }
    let pays = command.step == "pay";
    participant
        .handle(&command, async |work| Ok(if pays { work.refused("no money") } else { work.done() }))
        .await
}

fn participants(participant: Participant, pool: &MySqlPool) -> Routes<NoInbox> {
    ["Reserve", "Release", "Hold", "LetGo", "Pay"]
        .into_iter()
        .fold(Router::new(), |router, event_type| router.on(event_type, take_part))
        .with_state((participant, pool.clone()))
}

async fn consume(
    world: &World,
    durable: &str,
    inbox: NoInbox,
    routes: Routes<NoInbox>,
    stop: &CancellationToken,
) -> Result<()> {
    let consumer = Consumer::builder(world.nats.client().await?, STREAM, durable);
    let consumer = consumer.build(inbox, routes).await?;
    tokio::spawn({
        let stop = stop.clone();
        async move { consumer.run(stop).await }
    });
    Ok(())
}

/// A span of its own trace, as that of a request.
fn request(name: &'static str) -> (Span, SpanContext) {
    let span = tracing::info_span!(parent: None, "request", name);
    let context = span.context().span().span_context().clone();
    (span, context)
}

async fn start(pool: &MySqlPool, sagas: &Orchestrator, id: &str) -> Result<()> {
    let mut tx = pool.begin().await?;
    sagas.start(&mut tx, &place_order()?, id, &json!({})).await?;
    Ok(tx.commit().await?)
}

async fn await_status(pool: &MySqlPool, id: &str, status: &str) -> Result<()> {
    let select = "SELECT CAST(status AS CHAR) FROM saga_instances WHERE id = ?";
    eventually(&format!("saga {id} to be {status}"), LIMIT, async || {
        let found: String = sqlx::query_scalar(select).bind(id).fetch_one(pool).await?;
        Ok((found == status).then_some(()))
    })
    .await
}

/// Trace and span of a message.
fn trace_of(message: &Stored) -> Result<(String, String)> {
    let traceparent = message.header("traceparent");
    let mut parts = traceparent.split('-').skip(1);
    let (trace, span) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    ensure!(
        !span.is_empty(),
        "{} of {:?} has no trace",
        message.header(header::CE_TYPE),
        message.header("Saga-Id")
    );
    Ok((trace.to_owned(), span.to_owned()))
}

#[tokio::test]
async fn all_that_belongs_to_a_saga_is_of_the_trace_that_it_was_started_in() -> Result<()> {
    let (kept, _default) = Kept::begin();
    let world = World::mysql().start().await?;
    let collector = Collector::start().await?;
    let bridge = Bridge::start(&collector.settings(&world)).await?;
    let pool = MySqlPool::connect(&format!("{}/shop", world.database.url("root"))).await?;
    Barrier::<sqlx::MySql>::new("saga_barrier").prepare(&pool).await?;
    let sagas = Orchestrator::new(pool.clone(), Outbox::default()).with(&place_order()?);
    sagas.prepare().await?;

    let (request_1, begun_1) = request("first");
    start(&pool, &sagas, "first").instrument(request_1).await?;
    let (request_2, begun_2) = request("second");
    start(&pool, &sagas, "second").instrument(request_2).await?;
    // Somebody else cancels it, within a trace of their own.
    let (cancelling, elsewhere) = request("cancel");
    async {
        let mut tx = pool.begin().await?;
        sagas.cancel(&mut tx, "second", "changed my mind").await?;
        anyhow::Ok(tx.commit().await?)
    }
    .instrument(cancelling)
    .await?;

    let stop = CancellationToken::new();
    let participant = Participant::new(pool.clone(), Barrier::new("saga_barrier"), Outbox::default());
    let inbox = participant.inbox();
    consume(&world, "participants", inbox, participants(participant, &pool), &stop).await?;
    let replies = sagas.replies().with_state(sagas.clone());
    consume(&world, "orchestrator", sagas.inbox(), replies, &stop).await?;
    tokio::spawn({
        let (sagas, stop) = (sagas.clone(), stop.clone());
        async move { sagas.run(stop).await }
    });
    await_status(&pool, "first", "compensated").await?;
    await_status(&pool, "second", "compensated").await?;
    // Whatever is delivered twice on a busy machine is answered twice.
    let stored = eventually("every event", LIMIT, async || {
        let written = "SELECT CAST(COUNT(*) AS SIGNED) FROM outbox";
        let written: i64 = sqlx::query_scalar(written).fetch_one(&pool).await?;
        let stored = world.stored(STREAM).await?;
        Ok((stored.len() >= EVENTS_MIN && stored.len() == usize::try_from(written)?).then_some(stored))
    })
    .await?;

    let handled = eventually("a span of each message in each consumer", LIMIT, async || {
        let spans = kept.all("message");
        let of = |message: &Stored| {
            let id = message.header(header::CE_ID);
            spans.iter().filter(|span| Kept::attribute(span, "id") == id).count()
        };
        Ok(stored.iter().all(|message| of(message) >= 2).then_some(spans))
    })
    .await?;
    let published = collector.await_named("publish ORDERS", stored.len()).await?;
    let within: Vec<String> = handled.iter().map(|span| span.span_context.span_id().to_string()).collect();
    for message in &stored {
        let (trace, parent) = trace_of(message)?;
        let begun = if message.header("Saga-Id") == "first" { &begun_1 } else { &begun_2 };
        let described = format!("{} of {}", message.header(header::CE_TYPE), message.header("Saga-Id"));
        ensure!(trace == begun.trace_id().to_string(), "{described} is of trace {trace}, not of {begun:?}");
        ensure!(
            parent == begun.span_id().to_string() || within.contains(&parent),
            "{described} follows from {parent}, which is neither the start's span nor a handler's"
        );
        let id = message.header(header::CE_ID);
        let children: Vec<_> = handled.iter().filter(|span| Kept::attribute(span, "id") == id).collect();
        ensure!(children.len() >= 2, "{described} is handled in {children:?}");
        for child in children {
            ensure!(child.span_context.trace_id() == begun.trace_id(), "{described}: {child:?}");
            ensure!(child.parent_span_id.to_string() == parent, "{described}: {child:?}");
        }
        let sent = published
            .iter()
            .filter(|span| text(span, "traceId") == trace && text(span, "parentSpanId") == parent);
        ensure!(sent.count() > 0, "{described}: the bridge tells of no span below {parent}");
    }
    let strays = published.iter().filter(|span| text(span, "traceId") == elsewhere.trace_id().to_string());
    ensure!(strays.count() == 0, "who cancels a saga does not take it into another trace");
    let repeated = stored.iter().filter(|message| message.header(header::CE_TYPE) == "Hold");
    let repeated = repeated.last().context("no command to hold")?;
    ensure!(
        trace_of(repeated)?.1 == begun_1.span_id().to_string(),
        "a timer's command follows from the start"
    );
    stop.cancel();
    bridge.finish().await
}
