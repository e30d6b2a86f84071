//! The current trace context, as headers.

/// `traceparent` and `tracestate` of the current span, as [W3C Trace Context](https://www.w3.org/TR/trace-context/)
/// writes them; nothing outside a span, or without an OpenTelemetry layer.
#[cfg(feature = "opentelemetry")]
pub fn context() -> Vec<(&'static str, String)> {
    use opentelemetry::Context;
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    let mut span = tracing::Span::current().context().span().span_context().clone();
    if !span.is_valid() {
        // Who uses OpenTelemetry without `tracing` has the context here.
        span = Context::current().span().span_context().clone();
    }
    if !span.is_valid() {
        return Vec::new();
    }
    // Of the flags, version 00 defines only the sampled one.
    let flags = u8::from(span.is_sampled());
    let parent = format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
    let mut context = vec![("traceparent", parent)];
    let state = span.trace_state().header();
    if !state.is_empty() && !state.contains(|c: char| c.is_control()) {
        context.push(("tracestate", state));
    }
    context
}

/// Nothing: the feature `opentelemetry` is off.
#[cfg(not(feature = "opentelemetry"))]
pub fn context() -> Vec<(&'static str, String)> {
    Vec::new()
}
