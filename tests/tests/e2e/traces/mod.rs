//! One trace from the request that wrote an event through the bridge to the handler, shown by a collector.

mod collector;
mod saga;

use anyhow::{Context as _, Result, ensure};
use opentelemetry::trace::TraceContextExt as _;
use outbox_bridge_tests::{Bridge, Event, Order, STREAM, TABLE, World};
use outbox_consumer::{Consumer, Router, inbox::MemoryInbox};
use outbox_producer::{NewEvent, Outbox};
use serde_json::Value;
use testbed::eventually;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use self::collector::{Collector, Kept, LIMIT, text};

#[tokio::test]
async fn a_trace_runs_from_the_request_through_the_bridge_to_the_handler() -> Result<()> {
    let (kept, _default) = Kept::begin();
    let world = World::mysql().start().await?;
    let collector = Collector::start().await?;
    let bridge = Bridge::start(&collector.settings(&world)).await?;

    let pool = sqlx::MySqlPool::connect(&world.database.url("root")).await?;
    let request = tracing::info_span!("place order");
    async {
        let mut transaction = pool.begin().await?;
        let event = NewEvent::json("order", 1, "placed", &serde_json::json!({"total": 7}))?;
        Outbox::new(TABLE)?.write(&mut transaction, event).await?;
        anyhow::Ok(transaction.commit().await?)
    }
    .instrument(request.clone())
    .await?;
    let producer = request.context().span().span_context().clone();
    drop(request);

    let consumer = Consumer::builder(world.nats.client().await?, STREAM, "stock")
        .build(MemoryInbox::new(), Router::new().on("placed", async || {}))
        .await?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { consumer.run(shutdown).await }
    });
    let handled = eventually("the handler's span", LIMIT, async || Ok(kept.named("message"))).await?;
    shutdown.cancel();
    running.await??;

    let spans = collector.await_spans(1).await?;
    let published = spans.first().context("a span")?;
    ensure!(text(published, "name") == "publish ORDERS", "{published}");
    for (trace, parent) in [
        (text(published, "traceId").to_owned(), text(published, "parentSpanId").to_owned()),
        (handled.span_context.trace_id().to_string(), handled.parent_span_id.to_string()),
    ] {
        ensure!(trace == producer.trace_id().to_string(), "{trace} is another trace than {producer:?}");
        ensure!(parent == producer.span_id().to_string(), "{parent} is another span than {producer:?}");
    }
    ensure!(text(published, "startTimeUnixNano") < text(published, "endTimeUnixNano"), "{published}");
    ensure!(published.to_string().contains("outbox.position"), "{published}");
    bridge.finish().await
}

#[tokio::test]
async fn what_is_stored_together_is_linked_and_other_events_have_no_spans() -> Result<()> {
    use mysql_async::prelude::Queryable as _;
    let world = World::mysql().start().await?;
    let collector = Collector::start().await?;
    let endpoint = format!("http://127.0.0.1:{}/", collector.port);
    let settings = world.settings().set("publish.mode", "durable").set("traces.endpoint", endpoint);
    let mut bridge = Bridge::start(&settings).await?;
    let traced = |number: u64, flags: &str| {
        let header = format!("{{\"traceparent\": \"00-{number:032x}-{number:016x}-{flags}\"}}");
        Event::new(number).headers(header)
    };
    let events =
        [traced(1, "01"), traced(2, "01"), Event::new(3), traced(4, "00"), traced(5, "01"), traced(0, "01")];
    let mut conn = world.conn().await?;
    conn.query_drop("BEGIN").await?;
    for event in &events {
        event.insert(&mut conn, TABLE).await?;
    }
    conn.query_drop("COMMIT").await?;
    conn.disconnect().await?;
    world.await_messages(&mut bridge, STREAM, 6).await?;
    let spans = collector.await_spans(4).await?;
    let (batches, singles): (Vec<&Value>, Vec<&Value>) =
        spans.iter().partition(|span| text(span, "name") == "publish ORDERS batch");
    let [batch] = batches.as_slice() else { anyhow::bail!("{batches:?}") };
    let links = |span: &Value| -> Vec<(String, String)> {
        let links = span.get("links").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        links.iter().map(|link| (text(link, "traceId").to_owned(), text(link, "spanId").to_owned())).collect()
    };
    let expected: Vec<(String, String)> =
        [1, 2, 5].map(|number| (format!("{number:032x}"), format!("{number:016x}"))).into();
    ensure!(links(batch) == expected, "{batch}");
    let mut parents: Vec<(String, String)> = singles
        .iter()
        .map(|span| (text(span, "traceId").to_owned(), text(span, "parentSpanId").to_owned()))
        .collect();
    parents.sort_unstable();
    ensure!(parents == expected, "{singles:?}");
    let to_batch = vec![(text(batch, "traceId").to_owned(), text(batch, "spanId").to_owned())];
    ensure!(singles.iter().all(|span| links(span) == to_batch), "{singles:?}");
    bridge.finish().await
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = world.settings().set("traces.endpoint", "http://127.0.0.1:9");
    let mut bridge = Bridge::start(&settings).await?;
    let mut conn = world.conn().await?;
    for number in 1..50_u64 {
        let header = format!("{{\"traceparent\": \"00-{number:032x}-{number:016x}-01\"}}");
        Event::new(number).headers(header).insert(&mut conn, TABLE).await?;
    }
    conn.disconnect().await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.await_log("the collector does not take spans").await?;
    bridge.finish().await
}
