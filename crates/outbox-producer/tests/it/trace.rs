//! The trace context gets into the row by itself.

use anyhow::{Context as _, Result};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use outbox_producer::NewEvent;
use serde_json::Value;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::shop::{BOTH, Shop, placed};

async fn headers(shop: &Shop) -> Result<Vec<Value>> {
    let rows = shop.rows().await?;
    rows.into_iter()
        .map(|row| Ok(row.5.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn of_the_current_span() -> Result<()> {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _default = testbed::own_subscriber(tracing_subscriber::registry().with(layer));
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let remote = SpanContext::new(
            TraceId::from(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
            SpanId::from(0x00f0_67aa_0ba9_02b7),
            TraceFlags::SAMPLED,
            true,
            TraceState::from_key_value([("vendor", "x")])?,
        );
        let span = tracing::info_span!("place order");
        span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote))
            .ok()
            .context("the span has begun already")?;
        let mut transaction = shop.pool.begin().await?;
        async {
            shop.outbox.write(&mut transaction, &placed(1)).await?;
            let own = NewEvent::of(&placed(2))?.with_header("traceparent", "mine");
            shop.outbox.write(&mut transaction, own).await?;
            shop.outbox.write_all(&mut transaction, &[placed(3), placed(4)]).await?;
            anyhow::Ok(())
        }
        .instrument(span.clone())
        .await?;
        shop.outbox.write(&mut transaction, &placed(5)).await?;
        transaction.commit().await?;

        let span_id = span.context().span().span_context().span_id();
        let context = serde_json::json!({
            "traceparent": format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span_id}-01"),
            "tracestate": "vendor=x",
        });
        assert_ne!(span_id, SpanId::from(0x00f0_67aa_0ba9_02b7), "the span's own id, not its parent's");
        let mine = serde_json::json!({"traceparent": "mine"});
        let expected = [context.clone(), mine, context.clone(), context, Value::Null];
        assert_eq!(headers(&shop).await?, expected, "{flavour}");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_without_opentelemetry() -> Result<()> {
    let _default = testbed::own_subscriber(tracing_subscriber::registry());
    let shop = Shop::open(testbed::Flavour::MySql).await?;
    let mut transaction = shop.pool.begin().await?;
    async { shop.outbox.write(&mut transaction, &placed(1)).await }
        .instrument(tracing::info_span!("place order"))
        .await?;
    transaction.commit().await?;
    assert_eq!(headers(&shop).await?, [Value::Null]);
    Ok(())
}

#[tokio::test]
async fn of_opentelemetrys_own_context() -> Result<()> {
    let shop = Shop::open(testbed::Flavour::MySql).await?;
    let parent = SpanContext::new(
        TraceId::from(0xa),
        SpanId::from(0xb),
        TraceFlags::default(),
        true,
        TraceState::default(),
    );
    // A guard does not live across an await, so the statement is made first.
    let statement = {
        let _current = opentelemetry::Context::new().with_remote_span_context(parent).attach();
        shop.outbox.statement(&placed(1))?
    };
    let expected = r#"{"traceparent":"00-0000000000000000000000000000000a-000000000000000b-00"}"#;
    assert_eq!(statement.values[5], outbox_producer::Value::Text(expected.into()));
    Ok(())
}
