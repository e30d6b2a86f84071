//! The seam between a writer and a stream: a real server's, or the simulation's.
//!
//! The three ways of publishing share it. A *single* message is acknowledged by itself. Messages of a *batch* (fast ingest,
//! [ADR-50](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md)) are acknowledged every few
//! hundred messages, and the batch's end by one ordinary acknowledgement. An *atomic* batch (also ADR-50) is stored as a
//! whole or not at all, and acknowledged once.

use std::{fmt, future::Future};

use outbox_event::Position;

use super::{Message, Poison, Tail};

/// What a writer needs of its stream.
pub trait Wire: Send {
    /// Hands one message over for sending. That it returns says nothing about whether the message is stored.
    ///
    /// # Errors
    ///
    /// If the message can't be sent: too large for the server, or the client is closed.
    fn send(&mut self, envelope: Envelope<'_>) -> impl Future<Output = Result<(), WireError>> + Send;

    /// Waits for the next thing that the server has to say. Cancel safe.
    fn receive(&mut self) -> impl Future<Output = Delivery> + Send;

    /// Asks the stream's leader for its last message.
    ///
    /// # Errors
    ///
    /// If there is no answer in time, the stream does not exist, or its last message is not one of a bridge.
    fn read_tail(&mut self) -> impl Future<Output = Result<Tail, WireError>> + Send;

    /// Asks for the last sequence that the stream has given out, whether or not its message still exists.
    ///
    /// # Errors
    ///
    /// As [`Wire::read_tail`].
    fn read_last_sequence(&mut self) -> impl Future<Output = Result<u64, WireError>> + Send;

    /// Asks whether the stream's configuration has a subject.
    ///
    /// # Errors
    ///
    /// As [`Wire::read_tail`].
    fn takes(&mut self, subject: &str) -> impl Future<Output = Result<bool, WireError>> + Send;

    /// Where the rows of the messages `first..=last` stood, in this order; `None` for one that is gone.
    ///
    /// # Errors
    ///
    /// As [`Wire::read_tail`].
    fn read_positions(
        &mut self,
        first: u64,
        last: u64,
    ) -> impl Future<Output = Result<Vec<Option<Position>>, WireError>> + Send;

    /// Gives the connection up and makes a new one, since this one does not answer.
    fn reconnect(&mut self) -> impl Future<Output = ()> + Send;

    /// The stream refuses this message for its size: whether its payload can go elsewhere instead, and will the next time.
    fn offload(&mut self, message: &Message) -> bool {
        let _ = message;
        false
    }

    /// Whether rows that cannot be published become dead letters.
    fn parks(&self) -> bool;

    /// The latest commit time of a row of this stream that is or was a dead letter, in microseconds. A row that was committed
    /// later is none.
    ///
    /// # Errors
    ///
    /// If there is no answer in time, or there is no stream of letters.
    fn read_mark(&mut self) -> impl Future<Output = Result<Option<u64>, WireError>> + Send;

    /// Whether each of the rows is or was a dead letter.
    ///
    /// # Errors
    ///
    /// As [`Wire::read_mark`].
    fn are_parked(
        &mut self,
        messages: &[Message],
    ) -> impl Future<Output = Result<Vec<bool>, WireError>> + Send;

    /// Makes the row a dead letter; `false` if it is or was one. That it returns so means that the letter is stored.
    ///
    /// # Errors
    ///
    /// As [`Wire::read_mark`]; then the letter may be stored all the same.
    fn park(
        &mut self,
        message: &Message,
        poison: &Poison,
    ) -> impl Future<Output = Result<bool, WireError>> + Send;

    /// Looks why a message that was sent alone is not answered: whether its subject is not one of the stream, or is forbidden.
    ///
    /// # Errors
    ///
    /// If there is no answer in time.
    fn diagnose(
        &mut self,
        message: &Message,
    ) -> impl Future<Output = Result<Option<Poison>, WireError>> + Send;
}

/// A message with all that the protocol adds to it.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The message; for an operation without one, any message of the stream, of which only the subject is used.
    pub message: &'a Message,
    /// The sequence that the stream must end with.
    pub expected_last_sequence: u64,
    /// The single message that was sent just before and is not acknowledged yet: the stream must end with it. A sequence
    /// alone does not do, since a foreign message may have taken the place of that one.
    pub after: Option<&'a Message>,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
}

/// Where an answer goes and what it will be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// To be acknowledged by itself.
    Single {
        /// The writer's epoch.
        epoch: u64,
        /// The sequence that the message is to get.
        sequence: u64,
    },
    /// A part of a fast-ingest batch.
    Batch {
        /// The batch's number, unique within the wire's inbox.
        batch: u64,
        /// The message's number in the batch, from 1.
        number: u64,
        /// Acknowledge every so many messages.
        flow: u16,
        /// What the message does.
        operation: Operation,
    },
    /// A part of an atomic batch; only the last one is answered.
    Atomic {
        /// The batch's number, unique within the wire's inbox.
        batch: u64,
        /// The message's number in the batch, from 1. Only for the first one the expected sequence counts.
        number: u64,
        /// Whether it is the last one, with which all are stored.
        commit: bool,
    },
}

/// What a message of a batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opens the batch and is its first message.
    Start,
    /// Adds a message.
    Append,
    /// Ends the batch without adding one.
    End,
}

/// Something that came from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The answer to a single message.
    Single {
        /// The writer's epoch when the message was sent.
        epoch: u64,
        /// The sequence that the message was to get.
        sequence: u64,
        /// The answer.
        reply: Reply,
    },
    /// An answer about a batch.
    Batch {
        /// The batch's number.
        batch: u64,
        /// The answer.
        reply: Reply,
    },
    /// The connection was lost; what was on its way may or may not have arrived.
    Disconnected,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Stored, or known already.
    Stored {
        /// The stream's sequence.
        sequence: u64,
        /// The id is known: nothing was stored now, and `sequence` does not say where.
        duplicate: bool,
        /// At the end of a batch: how far the batch got.
        count: Option<u64>,
    },
    /// Everything of the batch up to this number is stored.
    Flow {
        /// Number in the batch; 0 answers the start.
        number: u64,
        /// From now on, acknowledgements come every so many messages.
        every: u16,
    },
    /// Refused; an acknowledgement may follow all the same.
    Refused {
        /// JetStream's error code; 0 if the answer was not JetStream's.
        code: u64,
        /// The server's words.
        description: String,
    },
    /// Nobody listens on the subject: no stream has it, or JetStream is away.
    NoResponders,
}

/// What can go wrong on a wire.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// No answer in time.
    #[error("no answer from the server in time")]
    Timeout,
    /// The server answered that it cannot now.
    #[error("the server cannot answer now: {0}")]
    Unavailable(String),
    /// The stream does not exist.
    #[error("stream {stream} does not exist; `outbox-bridge init` prints its configuration")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NoStream { stream: String },
    /// The stream's last message was not written by a bridge.
    #[error(
        "stream {stream} ends with message {sequence} on {subject}, which no bridge wrote; a stream belongs to one \
         bridge: stop the other publisher, or give this outbox a stream of its own and merge streams by `sources`"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Foreign { stream: String, sequence: u64, subject: String },
    /// The stream's last message has a format that this bridge does not know.
    #[error(
        "stream {stream} ends with message {sequence} of format {format:?}, and this bridge knows formats up to {known}: a \
         newer bridge wrote it; run that version",
        known = outbox_event::header::FORMAT_VERSION
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NewerFormat { stream: String, sequence: u64, format: String },
    /// The message is larger than the server takes.
    #[error("a message of {size} bytes at {position} is larger than the server's max_payload of {max} bytes")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    TooLarge { position: String, size: usize, max: usize },
    /// A dead letter is refused.
    #[error(
        "the dead letter of the row at {position} is refused by stream {stream}: {reason}; mend that stream, or make room in it \
         (`outbox-bridge dead-letters`), and start again"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    LetterRefused { stream: String, position: String, reason: String },
    /// The message cannot be sent for another reason of its own.
    #[error("the message at {position} cannot be sent: {reason}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Unsendable { position: String, reason: String },
}

impl WireError {
    /// Whether trying again can help without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout | Self::Unavailable(_) => true,
            Self::NoStream { .. }
            | Self::Foreign { .. }
            | Self::NewerFormat { .. }
            | Self::TooLarge { .. }
            | Self::LetterRefused { .. }
            | Self::Unsendable { .. } => false,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored { sequence, duplicate: false, .. } => write!(f, "stored as {sequence}"),
            Self::Stored { .. } => write!(f, "id known already"),
            Self::Flow { number, .. } => write!(f, "batch stored up to {number}"),
            Self::Refused { code, description } => write!(f, "{description} ({code})"),
            Self::NoResponders => write!(f, "no responders"),
        }
    }
}
