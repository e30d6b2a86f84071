//! The status page (`/`) and the same for programs (`/status.json`).
//!
//! Everything comes out of the process' own memory: the metrics, sampled once a second, and what the parts of the bridge have noted on
//! the [`Board`](super::board::Board). A request asks nobody, and is answered with what was put together at most a second ago.

mod advice;
mod exposition;
mod facts;
mod gather;
mod history;
mod html;
mod plot;
mod render;
mod status;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use sha2::{Digest as _, Sha256};

use self::exposition::Exposition;
pub use self::facts::Facts;
use self::history::History;
use super::readiness::Readiness;

/// How long an answer is given again.
const FRESH: Duration = Duration::from_millis(900);

/// Nothing from outside, no script and no style but the page's own.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(render::SCRIPT),
        hash(render::STYLE)
    )
});

/// What serves the page: a cheap handle.
#[derive(Clone)]
pub(super) struct StatusPage(Arc<Inner>);

struct Inner {
    facts: Facts,
    readiness: Readiness,
    metrics: PrometheusHandle,
    begun: Instant,
    history: Mutex<History>,
    made: Mutex<Option<Made>>,
}

/// Answers, and when they were made.
#[derive(Clone)]
struct Made {
    at: Instant,
    json: Bytes,
    html: Bytes,
}

impl StatusPage {
    pub(super) fn new(facts: Facts, readiness: Readiness, metrics: PrometheusHandle) -> Self {
        Self(Arc::new(Inner {
            facts,
            readiness,
            metrics,
            begun: Instant::now(),
            history: Mutex::default(),
            made: Mutex::default(),
        }))
    }

    /// Takes a sample; to be called once a second.
    pub(super) fn sample(&self) {
        let inner = &self.0;
        let metrics = Exposition::parse(&inner.metrics.render());
        let counters = gather::counters(&metrics, &inner.facts);
        let lag = gather::lag_seconds(&metrics, &inner.readiness.report());
        let mut history = inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.sample(inner.begun.elapsed(), SystemTime::now(), counters, lag);
    }

    /// `/status.json`.
    pub(super) fn json(&self) -> Response {
        answer("application/json", self.made().json)
    }

    /// `/`.
    pub(super) fn html(&self) -> Response {
        let policy = [(header::CONTENT_SECURITY_POLICY, POLICY.as_str())];
        (policy, answer("text/html; charset=utf-8", self.made().html)).into_response()
    }

    fn made(&self) -> Made {
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.as_ref().filter(|known| known.at.elapsed() < FRESH) {
            return known.clone();
        }
        let fresh = self.make();
        *made = Some(fresh.clone());
        fresh
    }

    fn make(&self) -> Made {
        let status = self.status();
        let json = serde_json::to_string(&status).unwrap_or_default() + "\n";
        Made { at: Instant::now(), json: json.into(), html: render::page(&status).into_string().into() }
    }

    fn status(&self) -> status::Status {
        let inner = &self.0;
        let metrics = Exposition::parse(&inner.metrics.render());
        let history = inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = gather::Parts {
            facts: &inner.facts,
            report: inner.readiness.report(),
            notes: inner.readiness.board().notes(),
            metrics: &metrics,
            history: &history,
            now: SystemTime::now(),
        };
        parts.status()
    }
}

fn answer(content_type: &'static str, body: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests;
