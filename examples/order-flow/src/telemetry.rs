//! Logs, and the trace context: from a request into the events that it writes, from an event into those that its handler
//! writes. So all that becomes of an order has one trace id.
//!
//! Nothing is exported here; a service would add an OTLP exporter to the provider.

use std::collections::HashMap;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Instrument as _;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) fn start(service: &'static str) {
    let tracer = SdkTracerProvider::builder().build().tracer(service);
    let spans = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(spans).with(lines).init();
}

/// Handles a request in a span that is a child of the client's, if it sends a `traceparent`.
pub(crate) async fn within_span(request: Request, next: Next) -> Response {
    let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path());
    let header = |name: &str| Some((name.to_owned(), request.headers().get(name)?.to_str().ok()?.to_owned()));
    let carrier: HashMap<String, String> =
        ["traceparent", "tracestate"].into_iter().filter_map(header).collect();
    if let Err(error) = span.set_parent(TraceContextPropagator::new().extract(&carrier)) {
        tracing::debug!(%error, "the span gets no parent");
    }
    next.run(request).instrument(span).await
}
