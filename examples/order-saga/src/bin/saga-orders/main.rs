//! Takes orders, and carries each through its saga.
//!
//! ```text
//! reserve-stock ─▶ create-order ─▶ take-payment ─▶ confirm-order
//! ReleaseStock  ◀─ CancelOrder  ◀─ (refused)
//! ```
//!
//! `take-payment` is the pivot: once paid, an order is confirmed, however often that has to be tried.
//!
//! ```text
//! DATABASE_URL=mysql://saga_orders:secret@127.0.0.1/saga_orders LISTEN=127.0.0.1:8091 cargo run --bin saga-orders
//! curl -H 'content-type: application/json' -d '{"customer": "Ada", "sku": "lamp", "quantity": 2}' 127.0.0.1:8091/orders
//! ```

mod http;
mod orders;
mod saga;

use anyhow::Result;
use axum::routing::{get, post};
use order_flow::Service;
use outbox_consumer::Router;
use outbox_producer::Outbox;
use outbox_saga::saga::Orchestrator;
use tokio_util::sync::CancellationToken;

const TABLES: [&str; 1] = ["CREATE TABLE IF NOT EXISTS orders (
       id          CHAR(36) CHARACTER SET ascii NOT NULL PRIMARY KEY,
       customer    VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
       sku         VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
       quantity    BIGINT NOT NULL,
       total_cents BIGINT NOT NULL,
       status      VARCHAR(16) CHARACTER SET utf8mb4 NOT NULL
     )"];

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::open("saga-orders", &TABLES).await?;
    let place_order = saga::place_order()?;
    let sagas = Orchestrator::new(service.database.clone(), Outbox::default()).with(&place_order);
    sagas.prepare().await?;

    // The replies come from every participant's stream, one of which is this service's own.
    let mut consumers = Vec::new();
    for stream in ["SAGA_INVENTORY", "SAGA_ORDERS", "SAGA_PAYMENTS"] {
        let replies = sagas.replies().with_state(sagas.clone());
        consumers.push(service.consumer_with(sagas.inbox(), stream, "saga-orchestrator", replies).await?);
    }
    let participant = order_saga::participant(&service.database).await?;
    let inbox = participant.inbox();
    let commands = Router::new()
        .on("CreateOrder", orders::create)
        .on("CancelOrder", orders::cancel)
        .on("ConfirmOrder", orders::confirm)
        .with_state(participant);
    consumers.push(service.consumer_with(inbox, "SAGA_ORDERS", "saga-orders", commands).await?);

    let timers = sagas.clone();
    tokio::spawn(async move { timers.run(CancellationToken::new()).await });
    let shop = http::Shop { database: service.database.clone(), sagas, place_order };
    let routes = axum::Router::new()
        .route("/orders", post(http::place))
        .route("/orders/{order}", get(http::show))
        .with_state(shop);
    service.run(routes, consumers).await
}
