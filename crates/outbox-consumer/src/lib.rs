//! Idempotent, retrying handlers for the events of Outbox Bridge.
//!
//! A service writes plain async functions. This crate calls one for each event of a NATS JetStream stream, and sees to it
//! that their *effects* happen exactly once, however often a message is delivered: what a handler writes through [`Tx`]
//! and the record that the message was handled are committed together, in the [inbox](inbox::Inbox).
//!
//! ```no_run
//! # async fn example<MyInbox: outbox_consumer::inbox::Inbox>(inbox: MyInbox) -> Result<(), Box<dyn std::error::Error>> {
//! use outbox_consumer::{Consumer, Context, Event, HandlerError, Router, State, inbox::Inbox};
//! use tokio_util::sync::CancellationToken;
//!
//! #[derive(serde::Deserialize)]
//! struct OrderPlaced {
//!     sku: String,
//!     quantity: u32,
//! }
//!
//! #[derive(Clone)]
//! struct Stock {
//!     quantity_max: u32,
//! }
//!
//! // With an inbox in a database, `mut tx: Tx<MySqlInbox>` would be one more argument.
//! async fn reserve(
//!     Event(order): Event<OrderPlaced>,
//!     State(stock): State<Stock>,
//!     context: Context,
//! ) -> Result<(), HandlerError> {
//!     if order.quantity > stock.quantity_max {
//!         return Err(HandlerError::permanent("more than is ever in stock"));
//!     }
//!     tracing::info!(id = context.message_id(), sku = order.sku, "reserved");
//!     Ok(())
//! }
//!
//! let client = async_nats::connect("nats://127.0.0.1:4222").await?;
//! let handlers = Router::new().on("order.placed", reserve).with_state(Stock { quantity_max: 1000 });
//! let consumer = Consumer::builder(client, "ORDERS", "stock").ordered().build(inbox, handlers).await?;
//!
//! let shutdown = CancellationToken::new();
//! tokio::spawn({
//!     let shutdown = shutdown.clone();
//!     async move {
//!         drop(tokio::signal::ctrl_c().await);
//!         shutdown.cancel();
//!     }
//! });
//! consumer.run(shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Handlers
//!
//! A handler is an async function of up to ten arguments, each taken from the message: [`Event`] (the payload, decoded),
//! [`Body`] (the payload as it came), [`State`], [`Tx`], [`Context`], and whatever implements [`FromDelivery`]. It returns
//! nothing, or a result whose error becomes a [`HandlerError`]. A [`Router`] says which handler gets which event type, and
//! what happens to types [without a handler](Unhandled). `tower` layers wrap handlers by [`Handler::layer`].
//!
//! # Inboxes
//!
//! | inbox | feature | a handler's effects happen |
//! |---|---|---|
//! | `MySqlInbox` (MySQL, MariaDB) | `mysql`, on by default | once: they and the record are one transaction |
//! | `PostgresInbox` | `postgres` | once, in the same way |
//! | [`KvInbox`](inbox::KvInbox), a JetStream bucket | – | once or more: the record follows the effect |
//! | [`MemoryInbox`](inbox::MemoryInbox) | – | for tests: it forgets when the process ends |
//!
//! The record is one row or key for each consumer and message id. It goes by age, but never while its message can still be
//! delivered again ([`inbox_retention`](ConsumerBuilder::inbox_retention)).
//!
//! # What happens to a message
//!
//! | what came of it | what happens |
//! |---|---|
//! | the handler returned `Ok` | effects and record are committed, the message is acknowledged |
//! | the inbox knew it | it is acknowledged; the handler is not called |
//! | a transient error, a panic, the handler timeout | rolled back; tried again by the [`RetryPolicy`] |
//! | the last attempt failed | a [dead letter](DeadLetters) |
//! | the payload lies elsewhere, and is gone or damaged | an attempt that failed |
//! | a permanent error, a payload that cannot be decoded, no event at all | a dead letter at once |
//! | the inbox is unavailable, before, in, or after the handler | no attempt: fetching pauses until the inbox is back |
//! | the commit's outcome is unknown | no attempt: the next look at the inbox tells |
//! | the service shuts down | the handler may end until the drain deadline; then no attempt |
//! | the process dies | no attempt, up to [`RetryPolicy::deliveries_max`] times |
//!
//! **Attempts** are counted by what is written down, not by JetStream's deliveries: before a failed message is given back,
//! the attempt and its error go to the key-value bucket `outbox-consumers`. Whichever instance gets the message next goes
//! on counting. A failure while the inbox cannot be reached is not written down, and a message in hand is kept by progress
//! acknowledgements for as long as an outage or its handler takes.
//!
//! **Dead letters** are stored in a stream of their own ([`DeadLetterStream`]) before the original is terminated, once
//! only: the server refuses a second one at the same subject. [`DeadLetters`] lists, replays and drops them. A replayed
//! message goes to this consumer alone, under its original id.
//!
//! # Order
//!
//! By default messages are handled in any order, by as many instances as there are. With
//! [`ordered`](ConsumerBuilder::ordered), messages of one partition key are handled one after another in the order of the
//! stream, across retries, restarts and crashes: a key waits while one of its messages waits for another attempt, and other
//! keys go on. When that message becomes a dead letter its key goes on without it, or is parked behind it until it is
//! replayed or discarded ([`FailingKeys`]).
//!
//! Of several instances of an ordered consumer one works at a time and another takes over when it stops or dies; or they
//! share the work by [`partitions`](ConsumerBuilder::partitions), which the subjects have to name. Their record is in the
//! bucket `outbox-consumers`, readable by `nats kv get outbox-consumers group.<stream>.<durable>`.
//!
//! # Large payloads
//!
//! A payload that is too large for a message lies in a JetStream object store (the bridge's `claim_check`), and the message
//! refers to it by the header `ce-dataref`. It is loaded, whole, before the handler is called; handlers see no difference. It
//! goes when its message goes from the stream, so a dead letter gets a copy of its own, which [`DeadLetters::discard`] or the
//! handling of its replay removes.
//!
//! # What it needs on the server
//!
//! The stream; nats-server 2.10 or later. [`build`](ConsumerBuilder::build) creates the rest if it is not there: the
//! durable consumer (one that differs from the settings is reported, never changed), the stream of the dead letters, its
//! durable consumer `<stream>-<durable>` for replayed messages, and the bucket `outbox-consumers`.
//!
//! # Telemetry
//!
//! [`metrics`] names the metrics; the `metrics` facade takes them to wherever the service wants. Every message has a span
//! `message`, with the feature `opentelemetry` as a child of the producer's. Payloads are never logged; what handlers say in
//! their errors is.
//!
//! # Limits
//!
//! - Effects outside of the inbox's transaction, such as a call of another service, happen once *or more*: give them the
//!   message id as idempotency key. The test kit (feature `testkit`) finds handlers that forget it.
//! - The inbox remembers a message for [`inbox_retention`](ConsumerBuilder::inbox_retention); a dead letter that is
//!   replayed later is handled even if it had been handled before.
//! - A handler that blocks its thread holds up the progress acknowledgements; use `spawn_blocking`. A panic is caught only
//!   where panics unwind.

mod builder;
mod consumer;
mod dead_letter;
mod delivery;
mod dispatch;
mod durable;
mod engine;
mod envelope;
mod error;
mod fetch;
mod group;
mod handler;
mod history;
pub mod inbox;
pub mod metrics;
#[cfg(feature = "mysql")]
pub mod mysql;
mod ordered;
mod partition;
mod payload;
mod retry;
mod shared_state;
#[cfg(feature = "testkit")]
pub mod testkit;
mod trace;

pub use builder::{ConsumerBuilder, FailingKeys};
pub use consumer::Consumer;
pub use dead_letter::{DeadLetter, DeadLetterStream, DeadLetters};
pub use delivery::Delivery;
pub use durable::StartAt;
pub use error::{ConsumerError, ConsumerErrorKind};
pub use handler::{
    Handler, HandlerFuture,
    error::{BoxError, HandlerError, IntoHandlerError, IntoOutcome, PermanentExt},
    extract::{Body, Context, Event, FromDelivery, FromRef, State, Tx},
    router::{Router, Routes, Unhandled},
    service::{ByService, HandlerService, Layered, ServiceHandler, handler_service},
};
pub use history::Attempt;
pub use retry::RetryPolicy;
