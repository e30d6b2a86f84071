//! Takes orders, and learns what becomes of them from the events of the other services.
//!
//! An order and the event `OrderPlaced` are written in one transaction; the rest is up to whoever reads the event. What this
//! service knows of an order is what the others' events told it so far:
//!
//! ```text
//! placed ─▶ reserved ─▶ confirmed
//!    │          └─────▶ cancelled    the payment failed, the stock is released
//!    └────────────────▶ rejected     there is not enough in stock
//! ```
//!
//! ```text
//! DATABASE_URL=mysql://order_service:secret@127.0.0.1/order_service LISTEN=127.0.0.1:8081 cargo run -p order-service
//! curl -i -H 'content-type: application/json' -d '{"customer": "Ada", "sku": "lamp", "quantity": 2}' 127.0.0.1:8081/orders
//! curl 127.0.0.1:8081/orders/<the order>
//! ```

mod events;
mod http;

use anyhow::Result;
use axum::routing::{get, post};
use order_flow::Service;
use outbox_producer::Outbox;
use sqlx::MySqlPool;

const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS orders (
       id          CHAR(36) CHARACTER SET ascii NOT NULL PRIMARY KEY,
       customer    VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
       sku         VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
       quantity    INT UNSIGNED NOT NULL,
       total_cents BIGINT NOT NULL,
       status      VARCHAR(16) NOT NULL
     )",
    "CREATE TABLE IF NOT EXISTS history (
       seq      BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
       order_id CHAR(36) CHARACTER SET ascii NOT NULL,
       event    VARCHAR(32) NOT NULL,
       reason   VARCHAR(255) CHARACTER SET utf8mb4 NULL,
       KEY (order_id)
     )",
];

/// What requests need.
#[derive(Debug, Clone)]
struct Shop {
    database: MySqlPool,
    outbox: Outbox,
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::open("order-service", &TABLES).await?;
    let stock = service.consumer("INVENTORY_SERVICE", "order-service-stock", events::of_stock()).await?;
    let payments =
        service.consumer("PAYMENT_SERVICE", "order-service-payments", events::of_payments()).await?;
    // The table `outbox` in the service's own schema.
    let shop = Shop { database: service.database.clone(), outbox: Outbox::default() };
    let routes = axum::Router::new()
        .route("/orders", post(http::place))
        .route("/orders/{order}", get(http::show))
        .with_state(shop);
    service.run(routes, vec![stock, payments]).await
}
