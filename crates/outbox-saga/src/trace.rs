//! One trace for all that belongs to a saga or a transaction, whoever goes on with it.
//!
//! Where it was begun is stored with it. What happens within a span of that trace belongs to that span; what happens elsewhere (by a
//! timer, in recovery, in the request of somebody who cancels it, for a participant that keeps no trace) belongs to where it was begun.

use tracing::Span;

/// The header of [W3C Trace Context](https://www.w3.org/TR/trace-context/).
pub(crate) const TRACEPARENT: &str = "traceparent";

/// The `traceparent` of the current span; nothing outside a span, or without the feature `opentelemetry`.
pub(crate) fn current() -> Option<String> {
    let context = outbox_producer::trace_context();
    context.into_iter().find(|(name, _)| *name == TRACEPARENT).map(|(_, value)| value)
}

/// Whether the current span is of the trace that `traceparent` names.
pub(crate) fn is_current(traceparent: &str) -> bool {
    current().is_some_and(|current| trace_id(&current) == trace_id(traceparent))
}

fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.split('-').nth(1)
}

/// Makes a new span, which nobody has entered yet, a child of where `traceparent` points, unless the current span is of that trace: then
/// it is that one's child already.
pub(crate) fn join(span: &Span, traceparent: Option<&str>) {
    if let Some(begun) = traceparent.filter(|begun| !span.is_disabled() && !is_current(begun)) {
        set_parent(span, begun);
    }
}

/// Nothing: the feature `opentelemetry` is off.
#[cfg(not(feature = "opentelemetry"))]
fn set_parent(_: &Span, _: &str) {}

#[cfg(feature = "opentelemetry")]
fn set_parent(span: &Span, traceparent: &str) {
    use opentelemetry::Context;
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    let Ok(parent) = traceparent.parse::<outbox_event::TraceParent>() else {
        tracing::debug!("not a traceparent: the span has no parent");
        return;
    };
    let parent = SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        TraceState::default(),
    );
    if let Err(error) = span.set_parent(Context::new().with_remote_span_context(parent)) {
        tracing::debug!(%error, "the span gets no parent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_told_by_its_id() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        assert_eq!(trace_id("nonsense"), None);
        assert!(!is_current("nonsense"), "outside a span there is no trace");
    }
}
