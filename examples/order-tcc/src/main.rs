//! Places orders by TCC: stock, money and a coupon are reserved first, then all are taken or all given back.
//!
//! Four services, each a command of this program, each with a schema of its own:
//!
//! ```text
//!            try, confirm, cancel
//! orders ──── HTTP ────▶ inventory   lock stock    ─▶ deduct it  or unlock it
//!        ──── NATS ────▶ payment     hold money    ─▶ take it    or release it
//!        ──── HTTP ────▶ coupon      set one aside ─▶ redeem it  or put it back
//! ```
//!
//! `orders` has the coordinator. Each participant is one `impl Participant` and one line that serves it. Any of them can be
//! killed at any time, and any of them run several times: what was begun is ended, once.
//!
//! ```text
//! export NATS_URL=nats://127.0.0.1:4222
//! DATABASE_URL=mysql://root@127.0.0.1/inventory LISTEN=127.0.0.1:8091 cargo run -p order-tcc inventory
//! DATABASE_URL=mysql://root@127.0.0.1/payment   cargo run -p order-tcc payment
//! DATABASE_URL=mysql://root@127.0.0.1/coupon    LISTEN=127.0.0.1:8093 cargo run -p order-tcc coupon
//! DATABASE_URL=mysql://root@127.0.0.1/orders    LISTEN=127.0.0.1:8090 cargo run -p order-tcc orders \
//!   --inventory http://127.0.0.1:8091/tcc --coupon http://127.0.0.1:8093/tcc
//! curl -X PUT -H 'content-type: application/json' 127.0.0.1:8090/orders/1 \
//!   -d '{"customer": "Ada", "sku": "lamp", "quantity": 2, "cents": 3000, "coupon": "SPRING"}'
//! ```

mod coupon;
mod inventory;
mod orders;
mod payment;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use outbox_saga::barrier::Barrier;
use outbox_saga::tcc::{Participant, ParticipantService};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{MySql, MySqlPool};
use tokio_util::sync::CancellationToken;

/// The subject at which payment serves its branches.
const PAYMENT_SUBJECT: &str = "payment.tcc";

#[derive(Debug, Parser)]
#[command(about)]
struct Settings {
    #[command(subcommand)]
    service: Service,
    /// The service's own schema; the account may create tables there
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true, default_value = "")]
    database: String,
    /// Where NATS is
    #[arg(long, global = true, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// Where HTTP is served
    #[arg(long, global = true, env = "LISTEN", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// Takes orders over HTTP, and coordinates
    Orders {
        /// Where inventory serves its branches
        #[arg(long)]
        inventory: String,
        /// Where coupon serves its branches
        #[arg(long)]
        coupon: String,
    },
    /// Locks, deducts and unlocks stock, over HTTP
    Inventory,
    /// Holds, takes and releases money, over NATS
    Payment,
    /// Sets aside, redeems and puts back coupons, over HTTP
    Coupon,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let settings = Settings::parse();
    let pool = MySqlPoolOptions::new().max_connections(20).connect(&settings.database).await;
    let pool = pool.context("cannot connect to the database")?;
    let shutdown = on_signals()?;
    match &settings.service {
        Service::Orders { inventory, coupon } => {
            let nats = connect(&settings.nats).await?;
            let coordinator = orders::coordinator(pool, nats, inventory, coupon).await?;
            let recovery = tokio::spawn({
                let (coordinator, shutdown) = (coordinator.clone(), shutdown.clone());
                async move { coordinator.run(shutdown).await }
            });
            serve_http(settings.listen, orders::routes(coordinator), shutdown).await?;
            Ok(recovery.await?)
        }
        Service::Inventory => {
            let service = participant(inventory::Inventory, pool, inventory::TABLE).await?;
            let routes = outbox_saga::tcc::http::router("/tcc", service);
            serve_http(settings.listen, routes, shutdown).await
        }
        Service::Payment => {
            let service = participant(payment::Payment, pool, payment::TABLE).await?;
            let nats = connect(&settings.nats).await?;
            Ok(outbox_saga::tcc::nats::serve(nats, PAYMENT_SUBJECT, "payment", service, shutdown).await?)
        }
        Service::Coupon => {
            let service = participant(coupon::Coupon, pool, coupon::TABLE).await?;
            let routes = outbox_saga::tcc::http::router("/tcc", service);
            serve_http(settings.listen, routes, shutdown).await
        }
    }
}

/// A participant with its table and its barrier.
async fn participant<P: Participant<Database = MySql>>(
    participant: P,
    pool: MySqlPool,
    table: &str,
) -> Result<ParticipantService<P>> {
    sqlx::query(table).execute(&pool).await.context("cannot create the service's table")?;
    Ok(ParticipantService::new(participant, pool, Barrier::new("saga_barrier")).await?)
}

async fn connect(nats: &str) -> Result<async_nats::Client> {
    async_nats::connect(nats).await.context("cannot connect to NATS")
}

async fn serve_http(listen: SocketAddr, routes: axum::Router, shutdown: CancellationToken) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("cannot listen at {listen}"))?;
    Ok(axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await?)
}

/// Is cancelled by SIGINT or SIGTERM.
fn on_signals() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    Ok(shutdown)
}
