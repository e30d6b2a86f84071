//! Branches over HTTP.
//!
//! A call is a `POST` with the headers of [`Call::headers`] and the payload as its body. `200` means accepted (the body is the answer, JSON or
//! empty), `409` refused (the body is the reason as text), and everything else failed. Of that, `400` says that the participant
//! cannot make anything of the call, so that a try is not repeated.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::call::{Answer, Call, CallError, Endpoint};
use super::error::{TccError, TccErrorKind};
use super::participant::{Participant, ParticipantService};

/// How large an answer may be.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How much of a failure's text is kept.
const REASON_CHARS_MAX: usize = 500;

/// Calls branches at a URL, over connections that are kept. Without TLS: inside a cluster, or through a proxy that brings it.
#[derive(Debug, Clone)]
pub struct HttpEndpoint {
    client: Client<HttpConnector, Full<Bytes>>,
    url: Uri,
}

impl HttpEndpoint {
    /// Calls go to this URL, such as `http://inventory:8080/tcc`.
    ///
    /// # Errors
    ///
    /// If it is no URL with the scheme `http` and a host.
    pub fn new(url: &str) -> Result<Self, TccError> {
        let parsed: Option<Uri> = url.parse().ok();
        let url = parsed.filter(|url| url.scheme_str() == Some("http") && url.host().is_some());
        let url = url.ok_or_else(|| {
            TccError::new(TccErrorKind::Settings, "an endpoint's URL must be like `http://host:port/path`")
        })?;
        Ok(Self { client: Client::builder(TokioExecutor::new()).build_http(), url })
    }
}

impl Endpoint for HttpEndpoint {
    async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let failed = |what: &str| CallError::new(format!("{what} {}", self.url));
        let mut request =
            Request::builder().method(Method::POST).uri(&self.url).header(CONTENT_TYPE, "application/json");
        for (name, value) in call.headers() {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(call.payload.to_string())))
            .map_err(|err| failed("cannot make a request to").because(err))?;
        let response = self.client.request(request).await;
        let (head, body) = response.map_err(|err| failed("no answer from").because(err))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|err| failed("no whole answer from").because(err))?.to_bytes();
        let text = || String::from_utf8_lossy(&body).chars().take(REASON_CHARS_MAX).collect::<String>();
        match head.status {
            StatusCode::OK if body.is_empty() => Ok(Answer::Accepted(Value::Null)),
            StatusCode::OK => serde_json::from_slice(&body)
                .map(Answer::Accepted)
                .map_err(|err| failed("an answer that is no JSON from").because(err)),
            StatusCode::CONFLICT => Ok(Answer::Refused(text())),
            StatusCode::BAD_REQUEST => {
                Err(CallError::permanent(format!("{} cannot read the call: {}", self.url, text())))
            }
            status => Err(CallError::new(format!("{} answers {status}: {}", self.url, text()))),
        }
    }
}

/// Serves a participant's calls: `POST` to `path`. Merge it into the service's own router.
pub fn router<P: Participant>(path: &str, service: ParticipantService<P>) -> Router {
    Router::new().route(path, post(answer::<P>)).with_state(service)
}

async fn answer<P: Participant>(
    State(service): State<ParticipantService<P>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let answered = match Call::read(header, &body) {
        Ok(call) => service.handle(call).await,
        Err(err) => Err(err),
    };
    match answered {
        Ok(Answer::Accepted(value)) => {
            ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
        }
        Ok(Answer::Refused(reason)) => (StatusCode::CONFLICT, reason).into_response(),
        Err(err) if err.is_permanent() => (StatusCode::BAD_REQUEST, err.report()).into_response(),
        Err(err) => (StatusCode::SERVICE_UNAVAILABLE, err.report()).into_response(),
    }
}
