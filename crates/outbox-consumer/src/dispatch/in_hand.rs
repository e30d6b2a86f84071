//! A message that this instance has and has not acknowledged.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{HeaderMap, Message, Subject, jetstream};
use bytes::Bytes;

use super::lanes::{Place, Ticket};
use crate::{
    dead_letter::record,
    envelope::{Envelope, NotAnEvent, Origin, text},
    history::History,
};

/// Which durable consumer brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The stream itself.
    Stream,
    /// The dead letters that are replayed.
    Replay,
}

/// What JetStream says of a delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    /// Where the message stands in the stream that it is delivered from.
    pub(crate) sequence: u64,
    pub(crate) consumer_sequence: u64,
    /// How often it was delivered.
    pub(crate) delivered: u64,
    /// How many messages follow.
    pub(crate) pending: u64,
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
    /// The stream that it was delivered from: not the origin's if it is replayed.
    pub(crate) stream: Arc<str>,
    pub(crate) delivery: Delivery,
    /// Where acknowledgements go. A redelivery while the message is in hand brings a new one.
    reply: Mutex<Subject>,
    /// The failed attempts so far; `None` until they are looked up.
    history: Mutex<Option<History>>,
}

impl InHand {
    /// Reads a message that was delivered from `stream`; `None` if it was not delivered by JetStream. The context is for
    /// the reading only: cloning it for every message would cost more than all the rest.
    pub(crate) fn read(
        source: Source,
        stream: &Arc<str>,
        message: Message,
        context: &mut Option<jetstream::Context>,
    ) -> Option<Self> {
        let message = jetstream::Message { message, context: context.take()? };
        let delivery = message.info().map(|info| Delivery {
            sequence: info.stream_sequence,
            consumer_sequence: info.consumer_sequence,
            delivered: u64::try_from(info.delivered).unwrap_or(1),
            pending: info.pending,
        });
        let jetstream::Message { message, context: done } = message;
        *context = Some(done);
        let delivery = delivery.ok()?;
        let found = message.headers.unwrap_or_default();
        let itself =
            Origin { subject: message.subject, stream: Arc::clone(stream), sequence: delivery.sequence };
        let (origin, headers, replay_of) = match source {
            Source::Stream => (itself, found, None),
            Source::Replay => {
                let position = text(&found, record::REPLAY_OF).and_then(|position| position.parse().ok());
                (replayed(&found).unwrap_or(itself), record::original_headers(&found), position)
            }
        };
        Some(Self {
            source,
            replay_of,
            envelope: Envelope::read(&headers, origin.clone()).map(Arc::new),
            origin,
            headers: Arc::new(headers),
            payload: message.payload,
            stream: Arc::clone(stream),
            reply: Mutex::new(message.reply?),
            history: Mutex::new((delivery.delivered <= 1).then(History::default)),
            delivery,
        })
    }

    /// What the dispatcher knows it by.
    pub(crate) fn ticket(&self) -> Ticket {
        (self.source, self.delivery.sequence)
    }

    pub(crate) fn partition_key(&self) -> Option<&Arc<str>> {
        self.envelope.as_ref().ok()?.partition_key.as_ref()
    }

    /// Its place among the messages of its key: first those that are replayed, since each of them is older than those
    /// that wait behind it.
    pub(crate) fn place(&self) -> Place {
        match self.source {
            Source::Replay => (0, self.origin.sequence),
            Source::Stream => (1, self.delivery.sequence),
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
        subject: text(headers, record::SUBJECT)?.into(),
        stream: text(headers, record::STREAM)?.into(),
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
