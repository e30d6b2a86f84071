//! The wire contract of Outbox Bridge.
//!
//! A message in the stream is a [CloudEvents 1.0](https://github.com/cloudevents/spec) event in binary content mode:
//! the attributes stand in NATS headers, the body is the row's payload, byte for byte. This crate names those headers
//! ([`header`]), encodes what comes from data so that it can neither steer the server nor forge the envelope
//! ([`header::encode_value`], [`subject::encode_token`]), spreads keys over partitions ([`partition_of`]), and reads and
//! writes the place where a row stood in the log ([`Position`]) and that of a payload which is too large for a message
//! ([`DataRef`]), and reads the trace that an event belongs to ([`TraceParent`]).
//!
//! It does no I/O and depends on nothing of the bridge, so that producers, consumers and tools can share it.
//!
//! ```
//! use outbox_event::{Position, subject};
//!
//! let position: Position = "3e11fa47-71ca-11e1-9e33-c80aa9429562:23@binlog.000002:1374/0".parse()?;
//! assert_eq!(position.offset, 1374);
//!
//! let mut token = String::new();
//! subject::encode_token("order.placed", &mut token);
//! assert_eq!(token, "order%2Eplaced");
//! # Ok::<(), outbox_event::PositionError>(())
//! ```

mod data_ref;
pub mod header;
mod partition;
mod position;
pub mod subject;
mod trace_parent;

pub use data_ref::{DataRef, DataRefError};
pub use partition::partition_of;
pub use position::{Position, PositionError, log_file_number};
pub use trace_parent::{TraceParent, TraceParentError};
