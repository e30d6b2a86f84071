//! What the three services of the order flow have in common, and nothing about orders: settings from the environment,
//! telemetry, and an HTTP server and consumers that run and stop together.
//!
//! Events are not shared: each service says in its own words what it writes and what it reads of others, so that each can
//! be changed and rolled out alone.

mod failure;
mod telemetry;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use outbox_consumer::inbox::{Inbox, MySqlInbox};
use outbox_consumer::{Consumer, RetryPolicy, Routes};
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use failure::Failure;

/// How many connections to its database a service has at most.
const CONNECTIONS_MAX: u32 = 20;

/// A service's settings, each an environment variable.
#[derive(Debug, Parser)]
struct Settings {
    /// Where NATS is
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// The service's own schema, which has its outbox table; the account may create tables there
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database: String,
    /// Where HTTP is served
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// A service that is about to run.
#[derive(Debug)]
pub struct Service {
    /// Its database.
    pub database: MySqlPool,
    nats: async_nats::Client,
    listen: SocketAddr,
}

impl Service {
    /// Reads the settings, connects, and creates the service's tables where they are not there yet.
    ///
    /// # Errors
    ///
    /// When database or NATS cannot be reached, or a table cannot be created.
    pub async fn open(name: &'static str, tables: &[&str]) -> Result<Self> {
        let Settings { nats, database, listen } = Settings::parse();
        telemetry::start(name);
        let database = MySqlPoolOptions::new().max_connections(CONNECTIONS_MAX).connect(&database).await;
        let database = database.context("cannot connect to the database")?;
        for table in tables {
            sqlx::query(table).execute(&database).await.context("cannot create the service's tables")?;
        }
        let nats = async_nats::connect(&nats).await.context("cannot connect to NATS")?;
        Ok(Self { database, nats, listen })
    }

    /// A consumer of another service's stream. What its handlers write, and that they did, goes to the service's own
    /// database in one transaction.
    ///
    /// # Errors
    ///
    /// When NATS or the inbox is not as it should be.
    pub async fn consumer(
        &self,
        stream: &str,
        durable: &str,
        handlers: impl Into<Routes<MySqlInbox>>,
    ) -> Result<Consumer<MySqlInbox>> {
        self.consumer_with(MySqlInbox::new(self.database.clone()), stream, durable, handlers).await
    }

    /// The same with another inbox.
    ///
    /// # Errors
    ///
    /// When NATS or the inbox is not as it should be.
    pub async fn consumer_with<I: Inbox>(
        &self,
        inbox: I,
        stream: &str,
        durable: &str,
        handlers: impl Into<Routes<I>>,
    ) -> Result<Consumer<I>> {
        let retry = RetryPolicy { initial: Duration::from_millis(100), ..RetryPolicy::default() };
        let consumer = Consumer::builder(self.nats.clone(), stream, durable)
            // After a crash, what was in hand comes again after this time.
            .ack_wait(Duration::from_secs(2))
            .retry(retry)
            .build(inbox, handlers)
            .await;
        consumer.with_context(|| format!("cannot consume the stream {stream}"))
    }

    /// Serves `routes` and runs the consumers until SIGINT or SIGTERM, or until one of them fails.
    ///
    /// # Errors
    ///
    /// When one of them fails.
    pub async fn run<I: Inbox>(self, routes: axum::Router, consumers: Vec<Consumer<I>>) -> Result<()> {
        let shutdown = on_signals()?;
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.with_context(|| format!("cannot listen at {}", self.listen))?;
        let routes = routes.layer(axum::middleware::from_fn(telemetry::within_span));
        let mut tasks = JoinSet::new();
        for consumer in consumers {
            let shutdown = shutdown.clone();
            tasks.spawn(async move { consumer.run(shutdown).await.map_err(anyhow::Error::from) });
        }
        let stopped = shutdown.clone().cancelled_owned();
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stopped);
        tasks.spawn(async move { Ok(serving.await?) });
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task has failed")??;
        }
        Ok(())
    }
}

/// Is cancelled by SIGINT or SIGTERM; then requests and handlers end, and nothing new begins.
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
