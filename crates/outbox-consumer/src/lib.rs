//! Idempotent, retrying handlers for the events of Outbox Bridge.

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
mod handler;
mod history;
pub mod inbox;
mod lease;
pub mod metrics;
mod retry;
mod shared_state;
#[cfg(feature = "testkit")]
pub mod testkit;
mod trace;

pub use builder::ConsumerBuilder;
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
