//! Where events come from: one replication connection to MySQL or MariaDB.

pub mod connection;
pub mod event;
pub mod find;
mod group;
pub mod gtid;
mod lag;
mod log;
mod raw;
mod servers;
mod stream;
pub(crate) mod table;

pub(crate) use find::{clock_micros, log_place};
pub(crate) use lag::bytes_behind;
pub(crate) use lag::watch_lag;
pub use log::{LogError, LogOptions, LogSource, MakeRoutes};
pub use raw::{EventHeader, HEADER_SIZE, RawEvent};
pub use servers::RelocateError;
pub(crate) use servers::{Standing, identity_of, standing};
pub use stream::{Batch, Source, SourceError};
