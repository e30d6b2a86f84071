//! The harness of the end-to-end tests: a bridge as a process of its own, between real servers, and an oracle.
//!
//! A [`World`] is a database, a NATS server, outbox tables and streams. A [`Bridge`] is the real binary with a
//! generated configuration, which tests start, kill, pause and stop. [`Load`] writes rows as applications do. In the
//! end [`oracle`] compares the outbox tables with the streams: nothing missing, nothing twice, in order, bodies equal.
//!
//! The binary is the one that `OUTBOX_BRIDGE_BIN` names, else the one in the folder that the tests were built into.

mod bridge;
mod event;
mod guarded;
mod load;
pub mod oracle;
mod program;
mod service;
mod settings;
mod stream;
mod world;

pub use bridge::{Bridge, binary};
pub use event::Event;
pub use guarded::built;
pub use load::{Load, LoadOptions};
pub use oracle::{Expected, Order};
pub use program::Program;
pub use service::{Service, problems};
pub use settings::Settings;
pub use stream::{Stored, read_after};
pub use world::{Outbox, STREAM, TABLE, World, WorldBuilder};
