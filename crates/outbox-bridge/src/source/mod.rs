//! Where events come from: one replication connection to MySQL or MariaDB.

pub mod connection;
mod raw;
mod stream;

pub use raw::{EventHeader, HEADER_SIZE, RawEvent};
pub use stream::{Batch, Source, SourceError};
