//! A participant behind gRPC, and a coordinator that calls it by an endpoint of its own.
//!
//! [`grpc`] has both sides: the endpoint is one `impl Endpoint`, and the service hands calls on to a `ParticipantService`, which enters the
//! barrier. The messages are written by hand, as `branch.proto` has them, so nothing is generated and `protoc` is not needed.
//!
//! ```text
//! DATABASE_URL=mysql://root@127.0.0.1/inventory cargo run -p tcc-over-grpc inventory --listen 127.0.0.1:8094
//! mysql> INSERT INTO inventory.stock (sku, free) VALUES ('lamp', 10);
//! DATABASE_URL=mysql://root@127.0.0.1/orders cargo run -p tcc-over-grpc place --inventory http://127.0.0.1:8094 order-1 lamp 2
//! ```

mod grpc;
mod stock;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use outbox_saga::barrier::Barrier;
use outbox_saga::tcc::{Coordinator, NewTransaction, Outcome, ParticipantService};
use serde_json::json;
use sqlx::MySqlPool;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(about)]
struct Settings {
    #[command(subcommand)]
    program: Program,
    /// The service's own schema; the account may create tables there
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true, default_value = "")]
    database: String,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Serves the branches that lock, deduct and unlock stock
    Inventory {
        /// Where gRPC is served
        #[arg(long, default_value = "127.0.0.1:8094")]
        listen: SocketAddr,
    },
    /// Places an order: a transaction with one branch
    Place {
        /// Where inventory serves its branches
        #[arg(long, default_value = "http://127.0.0.1:8094")]
        inventory: String,
        /// The order's id, which is the transaction's
        id: String,
        /// What is ordered
        sku: String,
        /// How many
        quantity: u32,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let settings = Settings::parse();
    let pool = MySqlPool::connect(&settings.database).await.context("cannot connect to the database")?;
    match settings.program {
        Program::Inventory { listen } => {
            sqlx::query(stock::TABLE).execute(&pool).await.context("cannot create the service's table")?;
            let service =
                ParticipantService::new(stock::Inventory, pool, Barrier::new("saga_barrier")).await?;
            let stopped = async { drop(tokio::signal::ctrl_c().await) };
            let server = tonic::transport::Server::builder();
            Ok(server.serve_with_shutdown(listen, grpc::BranchServer::new(service), stopped).await?)
        }
        Program::Place { inventory, id, sku, quantity } => place(pool, inventory, id, &sku, quantity).await,
    }
}

async fn place(pool: MySqlPool, inventory: String, id: String, sku: &str, quantity: u32) -> Result<()> {
    let inventory = grpc::GrpcEndpoint::new(inventory)?;
    let coordinator = Coordinator::builder(pool).endpoint("inventory", inventory).build().await?;
    // A service runs it for as long as it lives; it ends what others have left behind.
    let shutdown = CancellationToken::new();
    let recovery = tokio::spawn({
        let (coordinator, shutdown) = (coordinator.clone(), shutdown.clone());
        async move { coordinator.run(shutdown).await }
    });
    let lock = json!({"sku": sku, "quantity": quantity});
    let order = NewTransaction::new(id, "place-order").branch("stock", "inventory", lock);
    match coordinator.execute(order).await? {
        Outcome::Confirmed { answers, .. } => println!("confirmed {}", json!(answers)),
        Outcome::Cancelled { reason, .. } => println!("cancelled: {reason}"),
    }
    shutdown.cancel();
    Ok(recovery.await?)
}
