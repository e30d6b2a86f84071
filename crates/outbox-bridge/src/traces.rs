//! Spans for an OpenTelemetry collector: what was stored, in the traces that it belongs to. Off unless configured.
//!
//! A message whose row has a sampled `traceparent` gets a span in that trace, from its commit to the stream's acknowledgement.
//! Messages that were acknowledged together share a span of their batch, which links to each, and each to it. Nothing here
//! holds the pipeline up: what the collector does not take in time is dropped and counted.
//!
//! Sources: [OTLP](https://opentelemetry.io/docs/specs/otlp/),
//! [messaging spans](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use outbox_event::TraceParent;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{config, publish::Message};

/// Spans that wait for the collector; more are dropped.
const QUEUE_MAX: usize = 8_192;
/// Spans in one request, and how long is waited for more.
const EXPORT_MAX: usize = 512;
const GATHER: Duration = Duration::from_millis(200);
/// How long the collector may take, and how long the last spans may at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// As many links a span has by OpenTelemetry's defaults.
const LINKS_MAX: usize = 128;

/// Makes spans. Clones share the way to the collector.
#[derive(Debug, Clone)]
pub struct Traces {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
    scope: InstrumentationScope,
}

/// The task that sends spans; it ends when all [`Traces`] are gone.
#[derive(Debug)]
pub(crate) struct Exporting(JoinHandle<()>);

impl Exporting {
    /// Waits until the last spans are sent, for a while.
    pub(crate) async fn finish(self) {
        if tokio::time::timeout(EXPORT_TIMEOUT, self.0).await.is_err() {
            tracing::warn!("the collector does not take the last spans");
        }
    }
}

impl Traces {
    /// Starts to send spans to where `settings` say.
    ///
    /// # Errors
    ///
    /// If the endpoint is none.
    pub(crate) fn start(
        settings: &config::Traces,
    ) -> Result<(Self, Exporting), opentelemetry_otlp::ExporterBuildError> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(format!("{}/v1/traces", settings.endpoint))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource =
            Resource::builder().with_service_name(settings.service.clone()).with_attribute(version);
        exporter.set_resource(&resource.build());
        let (spans, waiting) = mpsc::channel(QUEUE_MAX);
        let dropped = Arc::<AtomicU64>::default();
        let scope =
            InstrumentationScope::builder("outbox-bridge").with_version(env!("CARGO_PKG_VERSION")).build();
        let task = tokio::spawn(export(exporter, waiting, dropped.clone()));
        Ok((Self { spans, dropped, scope }, Exporting(task)))
    }

    /// Makes the spans of messages that `stream` has just acknowledged, the last of them at `sequence`.
    pub(crate) fn stored(&self, stream: &str, messages: &[Message], sequence: u64) {
        let traced: Vec<(&Message, SpanContext)> =
            messages.iter().filter_map(|message| Some((message, context_of(message)?))).collect();
        let Some((oldest, _)) = traced.first() else { return };
        let now = SystemTime::now();
        let name = format!("publish {stream}");
        let shared = (traced.len() > 1).then(|| new_span(TraceId::from_bytes(rand::random())));
        for (message, producer) in &traced {
            let attributes = vec![
                KeyValue::new("messaging.message.id", message.id.clone()),
                KeyValue::new("outbox.table", message.table.to_string()),
                KeyValue::new("outbox.position", message.position_text()),
            ];
            let links = shared.iter().cloned().collect();
            let context = new_span(producer.trace_id());
            self.send(self.span(
                stream,
                name.clone(),
                context,
                Some(producer),
                links,
                message,
                now,
                attributes,
            ));
        }
        if let Some(batch) = shared {
            let count = i64::try_from(messages.len()).unwrap_or(i64::MAX);
            let attributes = vec![
                KeyValue::new("messaging.batch.message_count", count),
                KeyValue::new("outbox.sequence", i64::try_from(sequence).unwrap_or(i64::MAX)),
            ];
            let links = traced.iter().map(|(_, producer)| producer.clone()).collect();
            self.send(self.span(
                stream,
                format!("{name} batch"),
                batch,
                None,
                links,
                oldest,
                now,
                attributes,
            ));
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a span has so many parts, and nothing else would group them"
    )]
    fn span(
        &self,
        stream: &str,
        name: String,
        span_context: SpanContext,
        parent: Option<&SpanContext>,
        linked: Vec<SpanContext>,
        oldest: &Message,
        end_time: SystemTime,
        mut attributes: Vec<KeyValue>,
    ) -> SpanData {
        attributes.extend([
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", stream.to_owned()),
        ]);
        let mut links = SpanLinks::default();
        links.dropped_count = u32::try_from(linked.len().saturating_sub(LINKS_MAX)).unwrap_or(u32::MAX);
        links.links =
            linked.into_iter().take(LINKS_MAX).map(|context| Link::new(context, Vec::new(), 0)).collect();
        let committed = SystemTime::UNIX_EPOCH + Duration::from_micros(oldest.transaction.committed_micros);
        SpanData {
            span_context,
            parent_span_id: parent.map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some(),
            span_kind: SpanKind::Producer,
            name: name.into(),
            // The server's clock may be ahead of this one's.
            start_time: committed.min(end_time),
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }

    fn send(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The trace that a message belongs to, if that is recorded.
fn context_of(message: &Message) -> Option<SpanContext> {
    let header = |wanted: &str| {
        let found = message.headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| &**value)
    };
    let parent: TraceParent = header("traceparent")?.parse().ok()?;
    let state = header("tracestate").and_then(|text| text.parse::<TraceState>().ok()).unwrap_or_default();
    parent.is_sampled().then(|| {
        SpanContext::new(
            TraceId::from_bytes(parent.trace_id),
            SpanId::from_bytes(parent.span_id),
            TraceFlags::new(parent.flags),
            true,
            state,
        )
    })
}

fn new_span(trace: TraceId) -> SpanContext {
    let id = SpanId::from_bytes(rand::random());
    SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default())
}

async fn export(exporter: SpanExporter, mut waiting: mpsc::Receiver<SpanData>, dropped: Arc<AtomicU64>) {
    let mut failing = false;
    loop {
        let mut spans = Vec::with_capacity(EXPORT_MAX);
        if waiting.recv_many(&mut spans, EXPORT_MAX).await == 0 {
            return;
        }
        if spans.len() < EXPORT_MAX && !waiting.is_closed() {
            tokio::time::sleep(GATHER).await;
            while spans.len() < EXPORT_MAX {
                let Ok(span) = waiting.try_recv() else { break };
                spans.push(span);
            }
        }
        let count = spans.len() as u64;
        match exporter.export(spans).await {
            Ok(()) if failing => {
                failing = false;
                let lost = dropped.swap(0, Ordering::Relaxed);
                tracing::info!(lost, "the collector takes spans again");
            }
            Ok(()) => {}
            Err(error) => {
                dropped.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the collector does not take spans; they are dropped until it does");
                }
            }
        }
    }
}
