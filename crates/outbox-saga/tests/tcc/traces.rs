//! One trace over coordinator, participants and recovery, as the spans of all of them tell, and what goes over the wire.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use outbox_saga::tcc::{Operation, Outcome};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::bed::{AMOUNT, Bed, LIMIT, transaction};

const GIVEN_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The spans of this process.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

/// For the whole process, since a coordinator that dies has threads of its own.
static KEPT: LazyLock<Kept> = LazyLock::new(|| {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .expect("the only one");
    kept
});

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        if let Ok(mut kept) = self.0.lock() {
            kept.extend(batch);
        }
        Ok(())
    }
}

impl Kept {
    fn of(&self, trace: &str) -> Vec<SpanData> {
        let kept = self.0.lock().map(|kept| kept.clone()).unwrap_or_default();
        kept.into_iter().filter(|span| span.span_context.trace_id().to_string() == trace).collect()
    }

    /// The calls that participants have served within a trace, once these are among them.
    async fn calls(&self, trace: &str, wanted: &[&str]) -> Result<Vec<SpanData>> {
        testbed::eventually(&format!("the spans of {wanted:?}"), LIMIT, async || {
            let calls: Vec<_> = self.of(trace).into_iter().filter(|span| span.name == "tcc branch").collect();
            Ok(wanted.iter().all(|call| calls.iter().any(|span| described(span) == *call)).then_some(calls))
        })
        .await
    }
}

fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.as_str().into_owned()).unwrap_or_default()
}

/// A call, as `stock try`.
fn described(call: &SpanData) -> String {
    format!("{} {}", attribute(call, "branch"), attribute(call, "operation"))
}

/// A span as that of a request, and what it is within its trace.
fn request() -> (Span, SpanContext) {
    LazyLock::force(&KEPT);
    let request = tracing::info_span!(parent: None, "request");
    let context = request.context().span().span_context().clone();
    (request, context)
}

/// Try, confirm and cancel, over HTTP and over NATS: the participants' spans are children of the coordinator's, and that one of the request's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_of_the_trace_that_it_is_begun_in() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    for (id, cents, calls, confirmed) in [
        ("good", 1, ["money confirm", "money try", "stock confirm", "stock try"], true),
        ("poor", AMOUNT + 1, ["money cancel", "money try", "stock cancel", "stock try"], false),
    ] {
        let (request, begun) = request();
        let trace = begun.trace_id().to_string();
        let outcome = coordinator.execute(transaction(id, 1, cents)).instrument(request.clone()).await?;
        ensure!(outcome.is_confirmed() == confirmed, "{outcome:?}");
        drop(request);
        let served = KEPT.calls(&trace, &calls).await?;
        ensure!(served.len() == calls.len(), "{served:#?}");
        let own = testbed::eventually("the coordinator's span", LIMIT, async || {
            Ok(KEPT.of(&trace).into_iter().find(|span| span.name == "tcc"))
        })
        .await?;
        ensure!(own.parent_span_id == begun.span_id(), "{own:?} is no child of {begun:?}");
        let children = served.iter().all(|span| span.parent_span_id == own.span_context.span_id());
        ensure!(children, "{served:#?} are no children of {own:#?}");
        let stored = bed.traceparent(id).await?.context("no trace is stored")?;
        ensure!(stored == format!("00-{trace}-{}-01", own.span_context.span_id()), "{stored}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_is_given_wins() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    let (request, begun) = request();
    let new = transaction("a", 1, 1).traceparent(GIVEN);
    let outcome = coordinator.execute(new).instrument(request).await?;
    ensure!(matches!(outcome, Outcome::Confirmed { complete: true, .. }), "{outcome:?}");
    assert_eq!(bed.traceparent("a").await?.as_deref(), Some(GIVEN));
    let served = KEPT.calls(GIVEN_ID, &["money confirm", "money try", "stock confirm", "stock try"]).await?;
    ensure!(served.iter().all(|span| span.parent_span_id.to_string() == "00f067aa0ba902b7"), "{served:#?}");
    let strays = KEPT.of(&begun.trace_id().to_string());
    ensure!(strays.iter().all(|span| span.name == "request"), "{strays:#?}");
    Ok(())
}

/// The coordinator dies while it waits for an answer; the other one's calls and spans are of the same trace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_is_of_the_same_trace() -> Result<()> {
    let bed = Bed::start().await?;
    let survivor = bed.coordinator().await?;
    for (operation, cents, ends, calls) in [
        (Operation::Try, 1, "cancelled", ["money cancel", "stock cancel"]),
        (Operation::Confirm, 1, "confirmed", ["money confirm", "stock confirm"]),
        (Operation::Cancel, AMOUNT + 1, "cancelled", ["money cancel", "stock cancel"]),
    ] {
        bed.stock_switch.hang_at(operation);
        bed.stock_switch.hanging.store(false, Ordering::SeqCst);
        let (request, begun) = request();
        let trace = begun.trace_id().to_string();
        let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (id, builder) = (operation.name(), bed.builder().await?);
        let work = async move {
            let new = transaction(id, 1, cents).try_limit(Duration::from_secs(2));
            anyhow::Ok(builder.build().await?.execute(new).await?)
        };
        dying.spawn(work.instrument(request));
        testbed::eventually("the call to hang", LIMIT, async || {
            Ok(bed.stock_switch.hanging.load(Ordering::SeqCst).then_some(()))
        })
        .await?;
        dying.shutdown_background();
        bed.stock_switch.hangs.store(0, Ordering::SeqCst);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (survivor, stop) = (survivor.clone(), stop.clone());
            async move { survivor.run(stop).await }
        });
        bed.until(id, ends).await?;
        stop.cancel();
        running.await?;
        let recovery = testbed::eventually("the survivor's span", LIMIT, async || {
            let mut of = KEPT.of(&trace).into_iter().filter(|span| attribute(span, "recovery") == "true");
            Ok(of.next())
        })
        .await?;
        KEPT.calls(&trace, &calls).await?;
        let stored = bed.traceparent(id).await?.context("no trace is stored")?;
        ensure!(
            stored.contains(&recovery.parent_span_id.to_string()),
            "{stored} is not the parent: {recovery:?}"
        );
    }
    Ok(())
}
