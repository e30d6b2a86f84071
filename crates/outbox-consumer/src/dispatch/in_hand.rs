//! A message that this instance has and has not acknowledged.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{HeaderMap, Message, Subject, jetstream};
use bytes::Bytes;

use super::lanes::Place;
use crate::{
    dead_letter::record,
    envelope::{Envelope, NotAnEvent, text},
    history::History,
};

/// Which durable consumer brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// The stream itself.
    Stream,
    /// The dead letters that are replayed.
    Replay,
}

/// Where the message stood in the first place.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) subject: String,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
}

#[derive(Debug)]
pub(crate) struct InHand {
    pub(crate) source: Source,
    pub(crate) origin: Origin,
    /// The position of the dead letter that it is replayed from.
    pub(crate) replay_of: Option<u64>,
    pub(crate) envelope: Result<Arc<Envelope>, NotAnEvent>,
    pub(crate) headers: Arc<HeaderMap>,
    pub(crate) payload: Bytes,
    /// The stream and sequence that it was delivered from: not the origin's if it is replayed.
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) consumer_sequence: u64,
    pub(crate) delivered: u64,
    pub(crate) pending: u64,
    /// Where acknowledgements go. A redelivery while the message is in hand brings a new one.
    reply: Mutex<Subject>,
    /// The failed attempts so far; `None` until they are looked up.
    history: Mutex<Option<History>>,
}

impl InHand {
    /// Reads a delivered message; `None` if it was not delivered by JetStream.
    pub(crate) fn read(source: Source, context: &jetstream::Context, message: Message) -> Option<Self> {
        let message = jetstream::Message { message, context: context.clone() };
        let info = message.info().ok()?;
        let (stream, sequence) = (info.stream.to_owned(), info.stream_sequence);
        let (consumer_sequence, pending) = (info.consumer_sequence, info.pending);
        let delivered = u64::try_from(info.delivered).unwrap_or(1);
        let message = message.message;
        let found = message.headers.unwrap_or_default();
        let itself = || Origin { subject: message.subject.to_string(), stream: stream.clone(), sequence };
        let replay_of = text(&found, record::REPLAY_OF).and_then(|position| position.parse().ok());
        let (origin, headers) = match source {
            Source::Stream => (itself(), found),
            Source::Replay => (replayed(&found).unwrap_or_else(itself), record::original_headers(&found)),
        };
        Some(Self {
            source,
            replay_of: replay_of.filter(|_| source == Source::Replay),
            envelope: Envelope::read(&headers, &origin.subject, &origin.stream, origin.sequence)
                .map(Arc::new),
            origin,
            headers: Arc::new(headers),
            payload: message.payload,
            stream,
            sequence,
            consumer_sequence,
            delivered,
            pending,
            reply: Mutex::new(message.reply?),
            history: Mutex::new((delivered <= 1).then(History::default)),
        })
    }

    pub(crate) fn partition_key(&self) -> Option<&str> {
        self.envelope.as_ref().ok()?.partition_key.as_deref()
    }

    /// Its place among the messages of its key: first those that are replayed, since each of them is older than those
    /// that wait behind it.
    pub(crate) fn place(&self) -> Place {
        match self.source {
            Source::Replay => (0, self.origin.sequence),
            Source::Stream => (1, self.sequence),
        }
    }

    pub(crate) fn reply(&self) -> Subject {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over the reply subject of a later delivery of the same message.
    pub(crate) fn delivered_again(&self, again: &Self) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = again.reply();
    }

    pub(crate) fn history(&self) -> Option<History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_history(&self, history: History) {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = Some(history);
    }
}

fn replayed(headers: &HeaderMap) -> Option<Origin> {
    Some(Origin {
        subject: text(headers, record::SUBJECT)?.to_owned(),
        stream: text(headers, record::STREAM)?.to_owned(),
        sequence: text(headers, record::SEQUENCE)?.parse().ok()?,
    })
}

/// The payloads of acknowledgements, as ADR-13 of NATS has them.
pub(crate) mod ack {
    use super::{Bytes, Duration};

    pub(crate) const ACK: Bytes = Bytes::from_static(b"+ACK");
    pub(crate) const PROGRESS: Bytes = Bytes::from_static(b"+WPI");
    pub(crate) const NAK: Bytes = Bytes::from_static(b"-NAK");

    pub(crate) fn nak(delay: Duration) -> Bytes {
        format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into()
    }

    /// Terminates the message; the server repeats the reason in its advisory.
    pub(crate) fn term(reason: &str) -> Bytes {
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
        format!("+TERM {reason}").into()
    }
}
