//! A collector of spans, and an exporter that keeps those of this process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use outbox_bridge_tests::{Settings, World};
use serde_json::Value;
use testbed::eventually;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt as _;

pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Takes OTLP over HTTP, and keeps the spans.
pub(super) struct Collector {
    pub(super) port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// The settings of a bridge that tells this collector.
    pub(super) fn settings(&self, world: &World) -> Settings {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        world.settings().set("publish.mode", "durable").set("traces.endpoint", endpoint)
    }

    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, spans) = (listener.local_addr()?.port(), Arc::<Mutex<Vec<Value>>>::default());
        let kept = spans.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, kept.clone()));
            }
        });
        Ok(Self { port, spans })
    }

    async fn serve(stream: TcpStream, kept: Arc<Mutex<Vec<Value>>>) -> Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut line, mut length) = (String::new(), 0);
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            ensure!(line.starts_with("POST /v1/traces HTTP/1.1"), "{line}");
            while !line.trim().is_empty() {
                line.clear();
                stream.read_line(&mut line).await?;
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let body: Value = serde_json::from_slice(&body)?;
            let name = "/resourceSpans/0/resource/attributes";
            ensure!(
                body.pointer(name).is_some_and(|all| all.to_string().contains("outbox-bridge")),
                "{body}"
            );
            let spans = body.pointer("/resourceSpans/0/scopeSpans/0/spans").and_then(Value::as_array);
            if let (Some(spans), Ok(mut kept)) = (spans, kept.lock()) {
                kept.extend(spans.iter().cloned());
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer).await?;
        }
    }

    pub(super) async fn await_spans(&self, count: usize) -> Result<Vec<Value>> {
        let what = format!("{count} spans");
        eventually(&what, LIMIT, async || {
            let spans = self.spans.lock().map(|spans| spans.clone()).unwrap_or_default();
            ensure!(spans.len() <= count, "{} spans: {spans:?}", spans.len());
            Ok((spans.len() == count).then_some(spans))
        })
        .await
    }

    /// The spans of this name, once there are so many, whatever others there are.
    pub(super) async fn await_named(&self, name: &str, count: usize) -> Result<Vec<Value>> {
        eventually(&format!("{count} spans {name}"), LIMIT, async || {
            let mut spans = self.spans.lock().map(|spans| spans.clone()).unwrap_or_default();
            spans.retain(|span| text(span, "name") == name);
            Ok((spans.len() >= count).then_some(spans))
        })
        .await
    }
}

/// Keeps the spans of this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        if let Ok(mut kept) = self.0.lock() {
            kept.extend(batch);
        }
        Ok(())
    }
}

impl Kept {
    /// Keeps the spans of this test's thread for as long as the guard lives.
    pub(super) fn begin() -> (Self, DefaultGuard) {
        let kept = Self::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        (kept, testbed::own_subscriber(tracing_subscriber::registry().with(layer)))
    }

    pub(super) fn named(&self, name: &str) -> Option<SpanData> {
        self.all(name).first().cloned()
    }

    pub(super) fn all(&self, name: &str) -> Vec<SpanData> {
        let kept = self.0.lock().map(|kept| kept.clone()).unwrap_or_default();
        kept.into_iter().filter(|span| span.name == name).collect()
    }

    /// A span's attribute as text; the empty one if it is not there.
    pub(super) fn attribute(span: &SpanData, name: &str) -> String {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
        found.map(|attribute| attribute.value.as_str().into_owned()).unwrap_or_default()
    }
}

pub(super) fn text<'v>(span: &'v Value, name: &str) -> &'v str {
    span.get(name).and_then(Value::as_str).unwrap_or_default()
}
