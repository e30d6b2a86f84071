//! Sagas and transactions as their tables show them, for operators' tools: what there is, how it stands, and what is asked for.
//!
//! It reads the tables of whatever service, needs none of its definitions, and never reads what a saga knows or what a branch was
//! sent, since that may be confidential. The only thing that it writes is a request, which is followed by the service's own
//! orchestrator or coordinator.
//!
//! ```no_run
//! # async fn example(pool: sqlx::MySqlPool) -> Result<(), outbox_saga::inspect::InspectError> {
//! use outbox_saga::inspect::{Ask, Filter, Inspector};
//!
//! let inspector = Inspector::new(pool);
//! for stuck in inspector.list(&Filter { status: Some("stuck".to_owned()), ..Filter::default() }).await? {
//!     println!("{}: {}", stuck.id, stuck.error.as_deref().unwrap_or("no error is known"));
//!     let asked = inspector.ask(Some(stuck.kind), &stuck.id, &Ask::Retry { part: None }).await?;
//!     println!("{}", asked.next);
//! }
//! # Ok(())
//! # }
//! ```

mod ask;
mod error;
mod read;
mod types;

pub use self::ask::{Ask, Asked};
pub use self::error::{InspectError, InspectErrorKind};
pub use self::read::{Inspector, LOOK_MAX};
pub use self::types::{Detail, Filter, Group, Kind, Line, Part, Summary};
