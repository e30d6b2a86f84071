//! Where events come from: one replication connection to MySQL or MariaDB.

mod raw;

pub use raw::{EventHeader, HEADER_SIZE, RawEvent};
