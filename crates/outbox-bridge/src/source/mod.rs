//! Where events come from: one replication connection to MySQL or MariaDB.

pub mod connection;
mod raw;

pub use raw::{EventHeader, HEADER_SIZE, RawEvent};
