//! A page of sagas and transactions, to read only, as an axum router for a service.
//!
//! `/` counts them, lists the stuck ones first, and then what changed last (`?kind=`, `?status=`, `?name=` filter the list);
//! `/saga/{id}` and `/tcc/{id}` draw one with its steps or branches, and its history. There is no script, nothing comes from elsewhere, and
//! what a saga knows or a branch was sent is not shown. It asks nobody for a password: serve it where only operators are.
//!
//! ```no_run
//! # async fn example(pool: sqlx::MySqlPool) -> std::io::Result<()> {
//! let service: axum::Router = axum::Router::new().nest("/sagas", outbox_saga::page::router(pool));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, service).await
//! # }
//! ```

mod draw;
mod html;
mod render;

use axum::Router;
use axum::extract::rejection::{NestedPathRejection, PathRejection};
use axum::extract::{NestedPath, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sqlx::MySqlPool;

use self::html::Html;
use crate::inspect::{Filter, InspectError, InspectErrorKind, Inspector, Kind};

/// Nothing from outside, and no script; a form may ask the page itself.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; \
                      frame-ancestors 'none'";
/// How many are listed.
const LIMIT: u32 = 100;

/// The page's router, for the database of the service that runs the sagas or transactions.
pub fn router<S: Clone + Send + Sync + 'static>(pool: MySqlPool) -> Router<S> {
    Router::new()
        .route("/", get(index))
        .route("/saga/{id}", get(saga))
        .route("/tcc/{id}", get(tcc))
        .with_state(Inspector::new(pool))
}

/// Where the page is within the service, without a slash at its end.
type Place = Result<NestedPath, NestedPathRejection>;

fn prefix(place: Place) -> String {
    place.map(|place| place.as_str().trim_end_matches('/').to_owned()).unwrap_or_default()
}

async fn index(State(inspector): State<Inspector>, place: Place, RawQuery(query): RawQuery) -> Response {
    let prefix = prefix(place);
    let filter = filter(query.as_deref().unwrap_or_default());
    let found = async { Ok((inspector.counts().await?, inspector.list(&filter).await?)) }.await;
    match found {
        Ok((counts, found)) => answer(StatusCode::OK, render::index(&prefix, &filter, &counts, &found)),
        Err(error) => failure(&prefix, &error),
    }
}

/// What is not understood is left out, so that any link shows something.
fn filter(query: &str) -> Filter {
    let mut filter = Filter { limit: LIMIT, ..Filter::default() };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty())
    {
        match name.as_ref() {
            "kind" => filter.kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == value),
            "status" => filter.status = Some(value.into_owned()),
            "name" => filter.name = Some(value.into_owned()),
            _ => {}
        }
    }
    filter
}

type Id = Result<Path<String>, PathRejection>;

async fn saga(State(inspector): State<Inspector>, place: Place, id: Id) -> Response {
    instance(&inspector, &prefix(place), Kind::Saga, id).await
}

async fn tcc(State(inspector): State<Inspector>, place: Place, id: Id) -> Response {
    instance(&inspector, &prefix(place), Kind::Tcc, id).await
}

async fn instance(inspector: &Inspector, prefix: &str, kind: Kind, id: Id) -> Response {
    let Ok(Path(id)) = id else { return StatusCode::BAD_REQUEST.into_response() };
    match inspector.show(Some(kind), &id).await {
        Ok(detail) => answer(StatusCode::OK, render::instance(prefix, &detail)),
        Err(error) => failure(prefix, &error),
    }
}

fn failure(prefix: &str, error: &InspectError) -> Response {
    let status = match error.kind() {
        InspectErrorKind::NotFound => StatusCode::NOT_FOUND,
        _ => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(error = %error, cause, "the page cannot be shown");
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    answer(status, render::failure(prefix, &error.to_string()))
}

fn answer(status: StatusCode, page: Html) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, page.into_string()).into_response()
}
