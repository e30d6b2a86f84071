//! Writes events into the outbox table, in the caller's own transaction.
//!
//! A service changes its rows and writes an *event row* beside them, in one local transaction of MySQL or MariaDB.
//! Outbox Bridge makes a message in a NATS JetStream stream of every event row that is committed, once and in commit
//! order; what is rolled back is never sent. This crate is the writing half.
//!
//! # Writing an event
//!
//! A type becomes an event by saying what it is called and what it is about; its fields are the payload:
//!
//! ```no_run
//! use std::fmt::Display;
//!
//! use outbox_producer::{Event, Outbox};
//!
//! #[derive(serde::Serialize)]
//! struct OrderPlaced {
//!     order: u64,
//!     total_cents: i64,
//! }
//!
//! impl Event for OrderPlaced {
//!     const TYPE: &'static str = "placed";
//!     const AGGREGATE_TYPE: &'static str = "order";
//!
//!     fn aggregate_id(&self) -> impl Display {
//!         self.order
//!     }
//! }
//!
//! # #[cfg(feature = "sqlx")]
//! async fn place(pool: &sqlx::MySqlPool, outbox: &Outbox) -> Result<(), Box<dyn std::error::Error>> {
//!     let mut transaction = pool.begin().await?;
//!     let order = sqlx::query("INSERT INTO shop.orders (customer, total_cents) VALUES ('Ada', 4200)")
//!         .execute(&mut *transaction)
//!         .await?
//!         .last_insert_id();
//!     outbox.write(&mut transaction, &OrderPlaced { order, total_cents: 4200 }).await?;
//!     transaction.commit().await?;
//!     Ok(())
//! }
//!
//! # fn main() -> Result<(), outbox_producer::Error> {
//! let outbox = Outbox::new("shop.outbox")?;
//! # Ok(())
//! # }
//! ```
//!
//! With the bridge's default settings the message has the headers `ce-id` (a UUIDv7, which `write` returns),
//! `ce-type: placed`, `ce-subject: 1`, and the body `{"order": 1, "total_cents": 4200}`.
//!
//! [`NewEvent`] gives more control: an id, headers, a content type, a partition key, or a payload that is not JSON.
//! An enum of events implements [`IntoEvent`]. Many events go into few inserts by `Outbox::write_all`.
//!
//! # Only in a transaction
//!
//! An event that is committed without its business rows, or they without it, is what the pattern is there to prevent.
//! So `Outbox::write` takes a `sqlx::Transaction`: a pool or a connection does not compile. And since a transaction
//! can be over in the server while its handle lives on (after a deadlock, say), each write first asks the server, for
//! the price of a round trip; see `Outbox::with_verification`.
//!
//! **Other drivers** run what [`Outbox::statements`] gives: SQL text and plain values. There the transaction is the
//! caller's part.
//!
//! # Trace context
//!
//! With the feature `opentelemetry`, an event that is written within a span carries the span's `traceparent` and
//! `tracestate` as headers, so that what consumers do joins the producer's trace. The span is the current `tracing`
//! span if a `tracing-opentelemetry` layer of the **same version** as this crate's (0.34) is installed, else
//! OpenTelemetry's own current context. A header `traceparent` given by the caller wins. Without a span, or without a
//! headers column, there is nothing to store.
//!
//! # What is refused
//!
//! What the database might cut, the bridge would rename, or NATS would not take is an error before anything is
//! written: texts longer than their columns, payloads past a megabyte, headers whose names mean something to NATS or
//! CloudEvents, control characters in headers. See [`Limits`] and [`ErrorKind`]. Errors never hold payloads.
//!
//! # The table
//!
//! `outbox-bridge init` creates it. Other layouts are mapped by [`Columns`], with the names that the bridge's
//! `[outbox.columns]` has. The connection's character set must be `utf8mb4`, which is what `sqlx` and other drivers
//! of today set; the table's should be, though MariaDB's default may be `latin1`: then the server refuses an
//! aggregate id or a type with other characters (error 1366).
//!
//! | feature | what it adds |
//! |---|---|
//! | `sqlx` (default) | `Outbox::write` and `Outbox::write_all` for transactions of `sqlx` 0.8 |
//! | `opentelemetry` | the current trace context with each event |

mod check;
mod error;
mod event;
mod name;
mod new_event;
mod outbox;
mod settings;
mod statement;
mod trace;
#[cfg(feature = "sqlx")]
mod transaction;

pub use error::{Error, ErrorKind};
pub use event::{Event, IntoEvent};
pub use new_event::NewEvent;
pub use outbox::Outbox;
pub use settings::{Columns, IdFormat, Limits};
pub use statement::{Statement, Value};
/// The current trace context, as the headers that [`Outbox`] gives its events: `traceparent` and `tracestate`. Empty without the
/// feature `opentelemetry`, and outside a span.
pub use trace::context as trace_context;
#[doc(no_inline)]
pub use uuid::Uuid;
