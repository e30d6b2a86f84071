//! TCC: try on all branches, then confirm or cancel on all.
//!
//! A *transaction* has *branches*, each at a *participant*. `try` reserves, so that nothing can come between: stock is locked, money
//! held, a coupon set aside. If all have reserved, the [`Coordinator`] decides to confirm, and each participant makes use of what it
//! has reserved; otherwise it decides to cancel, and each gives it back. Others see the reservation, but never a
//! half-done transaction as done.
//!
//! ```no_run
//! use outbox_saga::tcc::http::HttpEndpoint;
//! use outbox_saga::tcc::nats::NatsEndpoint;
//! use outbox_saga::tcc::{Coordinator, NewTransaction, Outcome};
//! use serde_json::json;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example(shutdown: CancellationToken) -> Result<(), Box<dyn std::error::Error>> {
//! let pool = sqlx::MySqlPool::connect("mysql://orders@127.0.0.1/orders").await?;
//! let nats = async_nats::connect("nats://127.0.0.1:4222").await?;
//! let coordinator = Coordinator::builder(pool)
//!     .endpoint("inventory", HttpEndpoint::new("http://inventory:8080/tcc")?)
//!     .endpoint("payment", NatsEndpoint::new(nats, "payment.tcc"))
//!     .build()
//!     .await?;
//! // Ends what this or another instance has left behind.
//! tokio::spawn({
//!     let coordinator = coordinator.clone();
//!     async move { coordinator.run(shutdown).await }
//! });
//!
//! let order = NewTransaction::new("order-42", "place-order")
//!     .branch("stock", "inventory", json!({"sku": "lamp", "quantity": 2}))
//!     .branch("money", "payment", json!({"customer": "Ada", "cents": 3000}));
//! match coordinator.execute(order).await? {
//!     Outcome::Confirmed { .. } => println!("placed"),
//!     Outcome::Cancelled { reason, .. } => println!("not placed: {reason}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The other side is one [`Participant`] and one line that serves it: [`http::router`] or [`nats::serve`].
//!
//! # What is promised
//!
//! - **One decision.** It is stored, by a compare-and-set on the transaction's row and before its deadline by the database's clock, before
//!   the first branch hears of it, and never changes. No branch is confirmed where another one is cancelled, whatever is killed and
//!   whatever is lost, repeated, or late.
//! - **Nothing stays reserved.** The transaction is stored with all its branches before the first try, so whoever finds it knows
//!   whom to call. Whatever the instance was doing when it died, another one ends it within the try limit or the lease.
//! - **Effects once.** A participant's [barrier](crate::barrier) is entered in its own database transaction, so a repeated call is not run again,
//!   a cancel without a try leaves nothing, and a try after its cancel is refused.
//! - **Nothing is given up silently.** A transaction whose branches do not answer for [`Limits::attempts_max`] rounds is *stuck*: it is
//!   logged, counted by [`metrics::STUCK`], stands in `tcc_transactions`, and waits for a [`Request`].
//!
//! # What happens to a transaction
//!
//! | what happens | what comes of it |
//! |---|---|
//! | every try accepts before the deadline | `confirming`, then `confirmed` |
//! | a try is refused | `cancelling`, then `cancelled`; the other tries are not waited for |
//! | nothing is known of a try: no connection, no answer, an error | it is called again, with backoff, as long as the deadline leaves time ([`Limits::try_attempts_max`]); then as if refused |
//! | the tries end after the deadline | the same |
//! | a confirm or cancel fails, or is not answered | it is called again, with backoff, until it is |
//! | the rounds are used up | `stuck` |
//! | the instance dies before the decision | cancelled by another one, after the deadline |
//! | the instance dies after the decision | carried on by another one, after the lease |
//! | the store cannot be reached | [`TccErrorKind::Unavailable`]; what was begun is ended as above |
//! | the same id again | nothing is done twice; the outcome of the first is returned |
//!
//! # What a participant must provide
//!
//! - A confirm that cannot be refused. Whatever it needs, the try reserves.
//! - No end of its own to a reservation. The deadline that it sees only says that a try that comes later is too late. After the
//!   deadline the decision may have been to confirm, and the call may be on its way; a reservation that ended by itself would break it.
//! - A reservation that others respect: stock that is locked is neither free nor sold.
//! - In another language: the headers of [`Call::headers`], the answers of [`http`] or [`nats`], and the table of the
//!   [barrier](crate::barrier).
//!
//! # Cost
//!
//! A transaction of *n* branches takes three commits in the coordinator's store (begin, decision, end), two round trips to each participant,
//! and two commits there; it answers after both. No connection of the coordinator's pool is held while a branch is called.
//!
//! # Traces
//!
//! With the feature `opentelemetry` a transaction belongs to the trace of the span in which it is executed, unless it
//! [says otherwise](NewTransaction::traceparent). Every call carries that `traceparent`, also in recovery by another instance, and the spans of
//! coordinator (`tcc`) and participants (`tcc branch`) are of that trace.
//!
//! # The tables
//!
//! `tcc_transactions`, `tcc_branches` and `tcc_history` are made by [`CoordinatorBuilder::build`] and meant to be read:
//!
//! ```sql
//! -- What waits for somebody, and why.
//! SELECT id, name, decision, error FROM tcc_transactions WHERE status = 'stuck';
//! -- What has happened to one.
//! SELECT at, branch, from_status, to_status, cause, error FROM tcc_history WHERE transaction_id = 'order-42' ORDER BY seq;
//! -- Ask for it to be done again, as `Coordinator::request` does.
//! UPDATE tcc_transactions SET request = '{"action": "retry"}', next_attempt_at = UTC_TIMESTAMP(6) WHERE id = 'order-42';
//! ```
//!
//! [`Coordinator::clean_up`] removes what has ended. How instances share the work stands in the documentation of [`Coordinator::run`].
//!
//! # Limits
//!
//! - Reads of others between try and confirm see what is reserved; TCC does not isolate more than the reservation does.
//! - [`http`] speaks plain HTTP. With TLS, or over gRPC (`examples/tcc-over-grpc`), a branch is called by an [`Endpoint`] of your own.
//! - The clocks of coordinator and participants should agree to well within the try limit; one that is off has tries refused, nothing worse.

mod call;
mod coordinator;
mod error;
#[cfg(test)]
mod exploration;
#[cfg(feature = "http")]
pub mod http;
mod machine;
pub mod metrics;
pub mod nats;
mod participant;
mod recovery;
mod settings;
mod store;
mod transaction;

pub use self::call::{
    Answer, BRANCH_HEADER, Call, CallError, DEADLINE_HEADER, Endpoint, ID_HEADER, OPERATION_HEADER,
    Operation, TRACE_HEADER,
};
pub use self::coordinator::{Coordinator, CoordinatorBuilder};
pub use self::error::{TccError, TccErrorKind};
pub use self::machine::{Decision, Request};
pub use self::participant::{BranchError, Participant, ParticipantService};
pub use self::settings::Limits;
#[cfg(feature = "inspect")]
pub(crate) use self::store::Store;
pub use self::transaction::{NewTransaction, Outcome};
