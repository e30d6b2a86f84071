//! Sagas: long transactions over many services, each step with its compensation.
//!
//! A saga is a sequence of local transactions, each in the database of a service that takes part. If one of them is refused,
//! those before it are undone by compensations, in reverse. The idea is Garcia-Molina's and Salem's (*Sagas*, 1987); steps,
//! pivot and semantic locks are called as in Richardson's *Microservices Patterns*.
//!
//! # A definition
//!
//! ```
//! use std::time::Duration;
//!
//! use outbox_producer::NewEvent;
//! use outbox_saga::saga::{Reply, Retry, Saga};
//! use serde::{Deserialize, Serialize};
//!
//! /// What the saga knows; stored with each instance.
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     id: String,
//!     sku: String,
//!     cents: i64,
//!     warehouse: Option<String>,
//! }
//!
//! #[derive(Deserialize)]
//! struct StockReserved {
//!     warehouse: String,
//! }
//!
//! impl Reply for StockReserved {
//!     const TYPE: &'static str = "StockReserved";
//! }
//!
//! let place_order = Saga::<Order>::named("place-order")
//!     .version(1)
//!     .timeout(Duration::from_secs(300))
//!     .step("reserve-stock", |step| {
//!         step.command(|order| NewEvent::json("order", &order.id, "ReserveStock", &order.sku))
//!             .success::<StockReserved>(|order, reply| order.warehouse = Some(reply.warehouse))
//!             .compensation(|order| NewEvent::json("order", &order.id, "ReleaseStock", &order.sku))
//!             .timeout(Duration::from_secs(10))
//!             .retry(Retry::attempts(5))
//!     })
//!     .pivot("take-payment", |step| {
//!         step.command(|order| NewEvent::json("order", &order.id, "TakePayment", &order.cents))
//!     })
//!     .parallel(|group| {
//!         group
//!             .step("ship", |step| {
//!                 step.command(|order| NewEvent::json("order", &order.id, "Ship", &order.warehouse))
//!             })
//!             .step("thank", |step| {
//!                 step.command(|order| NewEvent::json("order", &order.id, "SendThanks", ""))
//!             })
//!     })
//!     .build()?;
//! # Ok::<(), outbox_saga::saga::DefinitionError>(())
//! ```
//!
//! # Running it
//!
//! ```no_run
//! # async fn example<D: serde::Serialize + serde::de::DeserializeOwned + Send + 'static>(
//! #     pool: sqlx::MySqlPool, nats: async_nats::Client, place_order: outbox_saga::saga::Saga<D>, order: D,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use outbox_consumer::Consumer;
//! use outbox_producer::Outbox;
//! use outbox_saga::saga::Orchestrator;
//! use tokio_util::sync::CancellationToken;
//!
//! let sagas = Orchestrator::new(pool.clone(), Outbox::default()).with(&place_order);
//! sagas.prepare().await?;
//!
//! // One consumer for the stream of each participant.
//! let replies = sagas.replies().with_state(sagas.clone());
//! let replies = Consumer::builder(nats, "INVENTORY", "orders").build(sagas.inbox(), replies).await?;
//! let shutdown = CancellationToken::new();
//! tokio::spawn({
//!     let shutdown = shutdown.clone();
//!     async move { replies.run(shutdown).await }
//! });
//! let timers = sagas.clone();
//! tokio::spawn(async move { timers.run(shutdown).await });
//!
//! // A start belongs to the caller's transaction, and to ask again with the same id starts nothing.
//! let mut tx = pool.begin().await?;
//! sagas.start(&mut tx, &place_order, "order-7", &order).await?;
//! tx.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A participant's handlers are wrapped by [`Participant::handle`]; one that has no database replies by a [`Replier`].
//!
//! # What is guaranteed
//!
//! - **A transition is one MySQL transaction**: the instance's state, the commands that follow and the history are committed together. So a kill at any
//!   instant leaves a saga before the transition or after. The state is also the record that a reply was handled: a step that has its answer
//!   takes no other one, so replies need no inbox. Replies that come at the same time share a transaction.
//! - **A saga ends** completed, compensated, or aborted by an operator; or it is *stuck*, which is logged as an error, counted
//!   ([`metrics`]), and visible in the tables until an operator acts. Nothing is given up silently.
//! - **Compensation for what was done, in reverse**: the steps of a parallel group at once. A step that was commanded and gave no
//!   answer is compensated too, since it may have been done: the participant's [barrier](crate::barrier) makes an undo without a
//!   do harmless, and refuses the do if it comes later.
//! - Sagas are **not isolated** from each other: others see what a step has done before the saga has ended. Give such rows a
//!   status that says so (`pending` in `examples/order-saga`): a semantic lock.
//!
//! # The rules
//!
//! | what comes | before the pivot | the pivot itself | after the pivot |
//! |---|---|---|---|
//! | a refusal | what was done is compensated | likewise | a further attempt, in a new round; then stuck |
//! | no answer in time | a further attempt; then compensated as if it had been done | a further attempt; then compensated if it can be, else stuck | a further attempt; then stuck |
//! | the whole takes too long, or is cancelled | compensated | compensated if the pivot can be; else passed over, or refused | passed over, or refused |
//! | no answer to a compensation | a further attempt; then stuck | likewise | – |
//! | an answer that comes twice or too late | written into the history, no more | likewise | likewise |
//!
//! A late answer to a step that is stuck is no late answer: the saga goes on. Delays grow from attempt to attempt up to a cap, and
//! are jittered ([`Retry`]).
//!
//! # Messages
//!
//! A command is an event in the orchestrator's outbox with three further headers; a reply is an event in the participant's that
//! repeats them. So a participant may be written in any language.
//!
//! | header | |
//! |---|---|
//! | `Saga-Id` | the saga |
//! | `Saga-Step` | the step; from the second round on with its number, as in `ship.2` |
//! | `Saga-Action` | `do` or `undo` |
//!
//! A repeated command has a new message id and the same three headers: a participant must know it by `Saga-Id` and `Saga-Step`, and
//! answer again what it answered. The reply's `ce-type` says what it is: one that the definition names, or the plain [`DONE`],
//! [`REFUSED`] (`{"reason": "…"}`) and [`UNDONE`]. With the feature `opentelemetry` one trace spans the whole: the start's
//! `traceparent` is kept with the instance, and every command carries that trace. Where it follows from a message of that trace it is a child of the
//! span that handles the message; otherwise (a timer, an operator, somebody else's request, a participant that repeats no `traceparent`) of
//! the start. `saga_instances.traceparent` names it.
//!
//! # Tables and operators
//!
//! [`TABLES`] are in the orchestrator's schema: `saga_instances` (a row a saga), `saga_history` (a line for each change, with its cause), and
//! the view `saga_steps` (a row a step). Times are UTC.
//!
//! ```sql
//! SELECT id, name, error, updated_at FROM saga_instances WHERE status = 'stuck';
//! SELECT step, status, attempts, deadline, error FROM saga_steps WHERE saga_id = 'order-7' ORDER BY position;
//! SELECT at, step, from_status, to_status, cause, error FROM saga_history WHERE saga_id = 'order-7' ORDER BY seq;
//! ```
//!
//! An operator leaves a [`Request`] in the row, which needs no definition; whichever orchestrator has the definition follows it
//! within half a second:
//!
//! ```sql
//! UPDATE saga_instances SET request = '{"action": "retry"}', wake_at = UTC_TIMESTAMP(6) WHERE id = 'order-7';
//! ```
//!
//! The others are `{"action": "skip", "step": "ship"}`, `{"action": "abort", "reason": "…"}` and
//! `{"action": "cancel", "reason": "…"}`. A request that cannot be followed is a line of the history.
//!
//! # Clean-up
//!
//! What has ended stays, to be looked at, until [`Orchestrator::clean_up`] removes it with its steps and its history, in small batches: call it
//! now and then with an age. What runs or is stuck is never removed. A reply that comes for a saga that is gone, such as to a
//! command that was sent twice, is acknowledged and counted ([`metrics::UNMATCHED_REPLIES`]).
//!
//! # Versions
//!
//! Steps, their limits and names are stored with the instance; the closures are not. So a change of steps, commands or data is a new
//! [version](SagaBuilder::version), and the old definition stays beside it until
//! `SELECT COUNT(*) FROM saga_instances WHERE name = … AND version = … AND status IN ('running', 'compensating', 'stuck')` is 0. A saga of
//! a version that is unknown here is left alone: its replies fail with a transient error that says so, and once it has been due for a
//! minute, that is logged as an error and counted ([`metrics::UNATTENDED`]). A reply that was given up meanwhile, and is a dead letter,
//! is not needed: a process with the definition sends the step's command again when its time is over, and gets the same answer.
//!
//! # Limits
//!
//! - The orchestrator's tables and its outbox are in one MySQL or MariaDB server. Participants have their own.
//! - Ended sagas stay until [`Orchestrator::clean_up`] removes them, which the service has to call.
//! - A participant's barrier must remember for longer than any saga lives, and until nobody starts it again: after a clean-up its id is free.

mod clean_up;
mod clock;
mod code;
mod definition;
pub mod engine;
mod error;
mod message;
pub mod metrics;
mod orchestrator;
mod participant;
mod replier;
mod replies;
mod request;
mod shape;
mod store;
mod timers;
mod transition;

pub use self::definition::{DefinitionError, Group, Reply, Saga, SagaBuilder, StepBuilder};
pub use self::error::{SagaError, SagaErrorKind};
pub use self::message::{DONE, REFUSED, SAGA_ACTION, SAGA_ID, SAGA_STEP, SagaCommand, UNDONE};
pub use self::orchestrator::{Orchestrator, Started};
pub use self::participant::{Answered, Participant, Work};
pub use self::replier::Replier;
pub use self::request::Request;
pub use self::shape::{Retry, Shape, StepShape};
pub use self::store::TABLES;
