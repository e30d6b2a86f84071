//! One writer a stream: many messages in flight, and their order kept.
//!
//! Every message is published with the sequence that the stream must end with (`Nats-Expected-Last-Sequence`), so the
//! stream takes it only if nothing else was written since: holes, doubles, reorderings and second writers are refused by
//! the server. What remains is to learn, after any doubt, how far the stream really is; `chain` decides that from one
//! reply, `writer` does the I/O around it, and `wire` is the seam to a real server or a simulated one.
//!
//! What never happens here: a message is never published on the strength of two different replies, and a sequence from
//! the text of an error is never used.

mod chain;
mod claim_check;
mod headers;
mod known;
mod letters;
mod message;
mod nats;
mod poison;
mod stop;
mod subject;
mod wire;
mod writer;

pub use chain::{Chain, Located, Tail, TailMessage};
pub use claim_check::ClaimChecks;
pub(crate) use claim_check::{ORPHAN_INTERVALS, Sweeper, describe_object, stream_of as stream_of_bucket};
pub use headers::MessageHeaders;
pub use known::StoredRows;
pub use letters::{
    Complaints, KnownEnd, Letter, Letters, Replaced, ReplayError, ReplayTarget, Replayed, State,
};
pub use message::{Headers, Message, TransactionId};
pub use nats::NatsWire;
pub use poison::{Poison, PoisonKind};
pub use stop::Stop;
pub(crate) use subject::covers;
pub use wire::{Delivery, Envelope, Operation, Reply, ReplyTo, Wire, WireError};
pub use writer::{Mode, Stored, Writer, WriterOptions};
