//! Why a request failed, as an answer.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Why a request failed: a status and a sentence.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    /// The client's mistake.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    fn of_ours(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the service failed; try again")
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, self.message).into_response()
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::of_ours(&error)
    }
}

impl From<outbox_producer::Error> for Failure {
    fn from(error: outbox_producer::Error) -> Self {
        Self::of_ours(&error)
    }
}
