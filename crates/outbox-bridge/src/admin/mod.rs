//! The admin endpoint: `/` (the status page), `/status.json`, `/livez`, `/readyz`, `/metrics`.
//!
//! It is bound before anything else is started, answers "not ready" until told otherwise, and listens on the loopback
//! interface unless configured otherwise: what it shows is not secret, but not for everybody either.

mod board;
mod page;
mod readiness;
mod watch;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use page::StatusPage;

pub(crate) use board::{Board, LastEvent, Leader, since_the_epoch};
pub use page::Facts;
pub use readiness::{Component, Readiness, ReadinessReport, Role};
pub(crate) use watch::watch_nats;

/// How often the histograms are emptied into their buckets, since what gathers in between is held in memory; and how often the
/// status page's plots get a value.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The admin endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the admin endpoint cannot listen on {address} (http.listen)")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// The bound endpoint, not serving yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

impl Admin {
    /// Binds `address`.
    ///
    /// # Errors
    ///
    /// If the address is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self { listener }),
            Err(source) => Err(BindError { address, source }),
        }
    }

    /// Where it listens; with port 0 configured, the port that was chosen.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then finishes the requests under way. `facts` is what the status page shows of the configuration.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub async fn serve(
        self,
        readiness: Readiness,
        metrics: PrometheusHandle,
        facts: Facts,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let page = StatusPage::new(facts, readiness.clone(), metrics.clone());
        let router = router(readiness, metrics.clone(), page.clone());
        let server = axum::serve(self.listener, router).with_graceful_shutdown(shutdown).into_future();
        tokio::select! {
            result = server => result,
            () = upkeep(metrics, page) => Ok(()),
        }
    }
}

async fn upkeep(metrics: PrometheusHandle, page: StatusPage) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
        page.sample();
    }
}

fn router(readiness: Readiness, metrics: PrometheusHandle, page: StatusPage) -> Router {
    let json = page.clone();
    Router::new()
        .route("/", get(async move || page.html()))
        .route("/status.json", get(async move || json.json()))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async move || readyz(&readiness)))
        .route("/metrics", get(async move || render(&metrics)))
}

fn readyz(readiness: &Readiness) -> Response {
    let report = readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, format!("{}\n", report.to_json())).into_response()
}

fn render(metrics: &PrometheusHandle) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("a response");
        response
    }

    #[tokio::test]
    async fn it_answers_and_stops() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || metrics::gauge!("outbox_test").set(7.0));
        let admin = Admin::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        let address = admin.local_address().expect("an address");
        let readiness = Readiness::new([Component::Source, Component::Nats]);
        let stop = CancellationToken::new();
        let facts = Facts::example();
        let server =
            tokio::spawn(admin.serve(readiness.clone(), handle, facts, stop.clone().cancelled_owned()));

        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let response = get(address, "/readyz").await;
        assert!(response.starts_with("HTTP/1.1 503") && response.contains("\"starting\""), "{response}");
        readiness.set_ready(Component::Source);
        readiness.set_ready(Component::Nats);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        readiness.set_unready(Component::Nats, "connection lost");
        let response = get(address, "/readyz").await;
        assert!(response.starts_with("HTTP/1.1 503") && response.contains("connection lost"), "{response}");
        assert!(get(address, "/metrics").await.contains("outbox_test 7"));
        let response = get(address, "/").await;
        assert!(response.starts_with("HTTP/1.1 200") && response.contains("waits for: nats"), "{response}");
        for header in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(response.contains(header), "{header} in {response}");
        }
        let response = get(address, "/status.json").await;
        assert!(response.contains("application/json") && response.contains("connection lost"), "{response}");
        assert!(get(address, "/other").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        server.await.expect("the server").expect("no error");
    }

    #[tokio::test]
    async fn a_taken_port_is_a_clear_error() {
        let first = Admin::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        let address = first.local_address().expect("an address");
        let error = Admin::bind(address).await.expect_err("taken");
        assert!(crate::exit::report(&error).contains(&address.to_string()));
    }
}
