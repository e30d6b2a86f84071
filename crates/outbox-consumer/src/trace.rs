//! The span of a message.

use tracing::{Span, field::Empty};

use crate::{dispatch::in_hand::InHand, envelope::text};

/// A span for the handling of a message: a child of the producer's trace if the feature `opentelemetry` is on; else
/// the field `traceparent` names that trace.
pub(crate) fn span(message: &InHand, consumer: &str) -> Span {
    let span = tracing::info_span!(
        "message",
        consumer,
        stream = &*message.origin.stream,
        sequence = message.origin.sequence,
        delivered = message.delivery.delivered,
        id = Empty,
        event_type = Empty,
        traceparent = Empty,
        otel.kind = "consumer",
    );
    if span.is_disabled() {
        return span;
    }
    if let Ok(envelope) = &message.envelope {
        span.record("id", &envelope.id).record("event_type", &envelope.event_type);
    }
    if let Some(traceparent) = text(&message.headers, "traceparent") {
        span.record("traceparent", traceparent);
        #[cfg(feature = "opentelemetry")]
        parent::set(&span, traceparent, text(&message.headers, "tracestate").unwrap_or_default());
    }
    span
}

#[cfg(feature = "opentelemetry")]
mod parent {
    use opentelemetry::{
        Context,
        trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
    };
    use outbox_event::TraceParent;
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    /// Makes `span` a child of the producer's, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) has it.
    pub(super) fn set(span: &Span, traceparent: &str, tracestate: &str) {
        let Some(parent) = read(traceparent, tracestate) else {
            tracing::debug!("not a traceparent: the span has no parent");
            return;
        };
        if let Err(error) = span.set_parent(Context::new().with_remote_span_context(parent)) {
            tracing::debug!(%error, "the span gets no parent");
        }
    }

    fn read(traceparent: &str, tracestate: &str) -> Option<SpanContext> {
        let parent: TraceParent = traceparent.parse().ok()?;
        Some(SpanContext::new(
            TraceId::from_bytes(parent.trace_id),
            SpanId::from_bytes(parent.span_id),
            TraceFlags::new(parent.flags),
            true,
            tracestate.parse::<TraceState>().unwrap_or_default(),
        ))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_traceparent_is_read() {
            let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let context = read(text, "a=b").unwrap();
            assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
            assert!(context.is_sampled() && context.is_remote());
            for bad in ["", "00-0-0-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
                assert!(read(bad, "").is_none(), "{bad:?}");
            }
        }
    }
}
