//! Publishing the row of a dead letter after all, while no bridge publishes to its stream.
//!
//! The letter first learns which sequence its message is to get, and the message is sent to get that one or none. So what
//! became of a replay that was interrupted is told by the message that has the sequence, however long ago that was; and a
//! second message is sent only once another has it.
//!
//! The message is out of the log's order. Its `Outbox-Position` is therefore that of the message before it, from which the
//! bridge goes on; its own place stands in [`header::REPLAYED_POSITION`].

use std::str::FromStr as _;

use async_nats::{
    Client, HeaderMap, HeaderName, HeaderValue, Request,
    client::RequestErrorKind,
    jetstream::{self, message::StreamMessage, stream::RawMessageErrorKind, stream::RetentionPolicy},
};
use outbox_event::{Position, header};

use super::{ANSWER_TIMEOUT, Letter, Letters, RACES_MAX, Replaced, State};
use crate::publish::{
    NatsWire, Reply, WireError,
    nats::{jetstream_error, parse_reply, position_of},
    stop::code,
};

/// How a replay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The message is stored at this sequence.
    Stored(u64),
    /// The stream knows the event's id from the message at this sequence, and stores it no second time.
    Known(u64),
}

/// Why a letter is not replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Nothing can be published of it.
    #[error(
        "dead letter {number} cannot be published: {reason}; insert the event into the outbox again and drop the letter"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Unfit { number: u64, reason: &'static str },
    /// The stream does not take it.
    #[error("stream {stream} does not take dead letter {number}: {reason}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Refused { stream: String, number: u64, reason: String },
    /// An interrupted replay, and the message that would tell about it is gone.
    #[error(
        "nobody can tell any more whether dead letter {number} was published: message {sequence} of stream {stream} would, and it is gone. \
         If consumers have had event {id}, drop the letter; else insert the event again and drop the letter"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Untold { stream: String, number: u64, sequence: u64, id: String },
    /// The bridge would not know where to go on.
    #[error(
        "the last messages of stream {stream} are gone, and the checkpoint does not know of all of them: start the bridge, let it catch up, \
         stop it with SIGTERM, and replay again"
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    NoEnd { stream: String },
    /// Sequences of that stream must be the log's.
    #[error(
        "stream {stream} does not keep what was consumed, so the bridge counts its messages and may not meet a replayed one: insert the event \
         into the outbox again and drop the letter"
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    Consumed { stream: String },
    /// Somebody else is at work on it.
    #[error("dead letter {number} was changed by somebody else just now")]
    #[expect(missing_docs, reason = "the field is what the message says")]
    Changed { number: u64 },
    /// A server does not answer, or not as it should.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The end of a stream, as a checkpoint knows it.
pub type KnownEnd = (u64, Option<Position>);

/// A stream that letters are replayed to.
#[derive(Debug)]
pub struct ReplayTarget {
    client: Client,
    stream: jetstream::stream::Stream<()>,
    context: jetstream::Context,
    name: String,
    message_id: bool,
    known: Option<KnownEnd>,
}

/// What has the sequence that a letter's message is to get.
#[derive(Debug)]
enum Found {
    /// Nothing yet: it is the next one.
    Nothing,
    /// The letter's message.
    Ours,
    Another,
    /// Something that is gone.
    Gone,
}

impl ReplayTarget {
    /// The stream called `name`, of which a checkpoint knows the end `known`. Nobody else may publish to it meanwhile.
    ///
    /// # Errors
    ///
    /// If letters cannot be replayed to it, or the server does not answer.
    pub async fn open(
        client: Client,
        context: jetstream::Context,
        name: String,
        message_id: bool,
        known: Option<KnownEnd>,
    ) -> Result<Self, ReplayError> {
        let info = NatsWire::stream_info(&context, &name).await?;
        if info.config.retention != RetentionPolicy::Limits {
            return Err(ReplayError::Consumed { stream: name });
        }
        let stream = context
            .get_stream_no_info(&name)
            .await
            .map_err(|error| WireError::Unavailable(error.to_string()))?;
        Ok(Self { client, stream, context, name, message_id, known })
    }

    /// The stream's last sequence, and the position that the next message must have, as far as the letter's own place
    /// `own` does not say so.
    async fn end(&self, own: &Position) -> Result<(u64, Position), ReplayError> {
        let last = NatsWire::stream_info(&self.context, &self.name).await?.state.last_sequence;
        if let Some(message) = self.message(last).await? {
            return Ok((last, position_of(&self.name, &message)?));
        }
        match &self.known {
            Some((sequence, Some(position))) if *sequence == last => Ok((last, position.clone())),
            // The bridge has stored nothing there: all rows before the letter's are letters too.
            Some((sequence, None)) if *sequence == last => Ok((last, own.clone())),
            None if last == 0 => Ok((last, own.clone())),
            _ => Err(ReplayError::NoEnd { stream: self.name.clone() }),
        }
    }

    async fn message(&self, sequence: u64) -> Result<Option<StreamMessage>, WireError> {
        if sequence == 0 {
            return Ok(None);
        }
        match self.stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(error) => Err(jetstream_error(&self.name, &error)),
                _ => Err(WireError::Timeout),
            },
        }
    }

    /// What the message at `sequence` is, if there is one.
    async fn told(&self, sequence: u64, letter: &Letter) -> Result<Option<Found>, WireError> {
        let Some(message) = self.message(sequence).await? else { return Ok(None) };
        let is =
            |theirs, ours| message.headers.get_last(theirs).map(HeaderValue::as_str) == letter.header(ours);
        let ours = is(header::REPLAYED_POSITION, header::POSITION) && is(header::CE_ID, header::CE_ID);
        Ok(Some(if ours { Found::Ours } else { Found::Another }))
    }

    async fn look(&self, sequence: u64, letter: &Letter) -> Result<Found, WireError> {
        if let Some(found) = self.told(sequence, letter).await? {
            return Ok(found);
        }
        let last = NatsWire::stream_info(&self.context, &self.name).await?.state.last_sequence;
        if last >= sequence {
            // It may have come in between.
            Ok(self.told(sequence, letter).await?.unwrap_or(Found::Gone))
        } else if last + 1 == sequence {
            Ok(Found::Nothing)
        } else {
            Err(WireError::Unavailable(format!(
                "stream {} ends at {last}, but had stored message {} before: it has lost messages, or a deposed leader answers",
                self.name,
                sequence - 1
            )))
        }
    }
}

impl Letters {
    /// Publishes the message of a letter, once, whatever was tried before, and whatever happens meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReplayError`]; then the letter is still there, and can be replayed again.
    pub async fn replay(&self, target: &ReplayTarget, letter: &mut Letter) -> Result<Replayed, ReplayError> {
        let number = letter.sequence;
        if let Some(reason) = unfit(letter) {
            return Err(ReplayError::Unfit { number, reason });
        }
        let own = letter.header(header::POSITION).and_then(|text| Position::from_str(text).ok());
        let own = own.ok_or(ReplayError::Unfit { number, reason: "its place in the log is not known" })?;
        for _ in 0..RACES_MAX {
            let (sequence, position) = match aim(letter) {
                None => self.take_aim(target, letter, &own).await?,
                Some(sequence) => match target.look(sequence, letter).await? {
                    Found::Ours => return self.done(letter, Replayed::Stored(sequence)).await,
                    Found::Another => self.take_aim(target, letter, &own).await?,
                    Found::Nothing => (sequence, target.end(&own).await?.1),
                    Found::Gone => {
                        let id = letter.header(header::CE_ID).unwrap_or_default().to_owned();
                        return Err(ReplayError::Untold {
                            stream: target.name.clone(),
                            number,
                            sequence,
                            id,
                        });
                    }
                },
            };
            match send(target, letter, sequence, &position).await? {
                Reply::Stored { duplicate: false, sequence: stored, .. } if stored == sequence => {
                    return self.done(letter, Replayed::Stored(sequence)).await;
                }
                Reply::Stored { duplicate: true, sequence: stored, .. } => {
                    let replayed = match target.look(stored, letter).await? {
                        Found::Ours => Replayed::Stored(stored),
                        _ => Replayed::Known(stored),
                    };
                    return self.done(letter, replayed).await;
                }
                // What has the sequence tells whose it is.
                Reply::Stored { .. } | Reply::Refused { code: code::WRONG_LAST_SEQUENCE, .. } => {}
                reply => {
                    let reason = match reply {
                        Reply::NoResponders => "no stream has its subject, or JetStream is away".to_owned(),
                        reply => reply.to_string(),
                    };
                    return Err(ReplayError::Refused { stream: target.name.clone(), number, reason });
                }
            }
        }
        Err(WireError::Unavailable(format!("others keep writing to stream {}", target.name)).into())
    }

    /// Notes in the letter which sequence its message is to get: the next one.
    async fn take_aim(
        &self,
        target: &ReplayTarget,
        letter: &mut Letter,
        own: &Position,
    ) -> Result<(u64, Position), ReplayError> {
        let (last, position) = target.end(own).await?;
        debug_assert!(aim(letter).is_none_or(|before| before <= last), "what it aimed at is another's");
        self.turn(letter, State::Replaying, last + 1).await?;
        Ok((last + 1, position))
    }

    async fn done(&self, letter: &mut Letter, replayed: Replayed) -> Result<Replayed, ReplayError> {
        let (Replayed::Stored(sequence) | Replayed::Known(sequence)) = replayed;
        self.turn(letter, State::Replayed, sequence).await?;
        Ok(replayed)
    }

    async fn turn(&self, letter: &mut Letter, state: State, sequence: u64) -> Result<(), ReplayError> {
        let number = letter.sequence;
        letter.headers.insert(HeaderName::from_static(header::LETTER_TARGET), HeaderValue::from(sequence));
        match self.replace(letter, state).await? {
            Replaced::Done(sequence) => {
                letter.sequence = sequence;
                letter.state = state;
                Ok(())
            }
            Replaced::Changed => Err(ReplayError::Changed { number }),
        }
    }
}

/// The sequence that the letter's message is to get, or was, if a replay has begun.
fn aim(letter: &Letter) -> Option<u64> {
    if letter.state != State::Replaying {
        return None;
    }
    letter.header(header::LETTER_TARGET)?.parse().ok()
}

/// What keeps the letter from being a message.
fn unfit(letter: &Letter) -> Option<&'static str> {
    if !letter.state.is_open() {
        Some("its content is gone")
    } else if letter.header(header::LETTER_ROW).is_some() || letter.header(header::LETTER_SUBJECT).is_none() {
        Some("its row has no message")
    } else if letter.header(header::LETTER_CUT).is_some() {
        Some("a part of it did not fit into the letter")
    } else {
        None
    }
}

/// The headers of the message of a letter: those that it would have had, and what makes a replay of it.
fn message_headers(letter: &Letter, position: &Position) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in letter.headers.iter() {
        let text: &str = name.as_ref();
        if header::is_letters(text) || super::steers(text) || text == header::POSITION {
            continue;
        }
        for value in values {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(HeaderName::from_static(header::POSITION), position.to_string());
    if let Some(own) = letter.header(header::POSITION) {
        headers.insert(HeaderName::from_static(header::REPLAYED_POSITION), own);
    }
    headers
}

async fn send(
    target: &ReplayTarget,
    letter: &Letter,
    sequence: u64,
    position: &Position,
) -> Result<Reply, WireError> {
    let mut headers = message_headers(letter, position);
    headers.insert(HeaderName::from_static(header::EXPECTED_STREAM), target.name.as_str());
    let last = HeaderValue::from(sequence.saturating_sub(1));
    headers.insert(HeaderName::from_static(header::EXPECTED_LAST_SEQUENCE), last);
    if target.message_id
        && let Some(id) = letter.header(header::CE_ID)
    {
        headers.insert(HeaderName::from_static(header::MESSAGE_ID), id);
    }
    let subject = letter.header(header::LETTER_SUBJECT).unwrap_or_default().to_owned();
    let request = Request::new().headers(headers).payload(letter.body.clone()).timeout(Some(ANSWER_TIMEOUT));
    match target.client.send_request(subject, request).await {
        Ok(answer) => Ok(parse_reply(&answer, &target.name)),
        Err(error) => match error.kind() {
            RequestErrorKind::NoResponders => Ok(Reply::NoResponders),
            RequestErrorKind::MaxPayloadExceeded => Ok(Reply::Refused {
                code: code::MESSAGE_TOO_LARGE,
                description: format!(
                    "it is larger than the server's max_payload of {} bytes",
                    target.client.max_payload()
                ),
            }),
            RequestErrorKind::TimedOut => Err(WireError::Timeout),
            _ => Err(WireError::Unavailable(error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, sync::Arc};

    use bytes::Bytes;

    use super::super::letter_headers;
    use super::*;
    use crate::publish::{Message, Poison, PoisonKind, TransactionId};

    fn letter(poison: &Poison) -> Letter {
        let message = Message {
            transaction: Arc::new(TransactionId {
                gtid: "0-1-7".into(),
                file: "binlog.000001".into(),
                file_number: 1,
                offset: 300,
                committed_micros: 5,
            }),
            row: 2,
            table: "shop.outbox".into(),
            subject: "orders.a".into(),
            id: "id-1".into(),
            headers: vec![
                (Cow::Borrowed(header::CE_TYPE), "placed".into()),
                (Cow::Owned("Outbox-App-Nats-Msg-Id".into()), "theirs".into()),
                (Cow::Owned("trace".into()), "x".into()),
            ],
            body: Bytes::from_static(b"{}"),
            poison: None,
        };
        let mut headers = letter_headers("ORDERS", &message, poison);
        headers.insert("Nats-Expected-Last-Sequence", "3");
        headers.insert(HeaderName::from_static(header::LETTER_MARKS), "{}");
        let subject = "outbox.dead.ORDERS.x.2".to_owned();
        Letter { sequence: 4, subject, state: State::Parked, headers, body: message.body }
    }

    #[test]
    fn a_letter_becomes_the_message_that_it_was_to_be() {
        let poison = Poison::new(PoisonKind::TooLarge, "too large");
        let last = Position { gtid: "0-1-9".into(), file: "binlog.000001".into(), offset: 500, row: 0 };
        let headers = message_headers(&letter(&poison), &last);
        let mut shown: Vec<_> =
            headers.iter().map(|(name, values)| (name.to_string(), values[0].as_str().to_owned())).collect();
        shown.sort();
        let expected = [
            ("Outbox-App-Nats-Msg-Id", "theirs"),
            ("Outbox-Position", "0-1-9@binlog.000001:500/0"),
            ("Outbox-Replayed-Position", "0-1-7@binlog.000001:300/2"),
            ("ce-id", "id-1"),
            ("ce-type", "placed"),
            ("trace", "x"),
        ];
        assert_eq!(shown, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_no_whole_message_is_not_replayed() {
        let poison = Poison::new(PoisonKind::TooLarge, "too large");
        assert_eq!(unfit(&letter(&poison)), None);
        let mut cut = letter(&poison);
        cut.headers.insert(HeaderName::from_static(header::LETTER_CUT), "headers");
        assert!(unfit(&cut).is_some());
        let mut done = letter(&poison);
        done.state = State::Replayed;
        assert!(unfit(&done).is_some());
        let row = Poison { row: Some("{}".into()), ..Poison::new(PoisonKind::Unmappable, "NULL") };
        assert!(unfit(&letter(&row)).is_some());
    }

    #[test]
    fn only_a_replay_that_has_begun_has_an_aim() {
        let mut letter = letter(&Poison::new(PoisonKind::TooLarge, "too large"));
        letter.headers.insert(HeaderName::from_static(header::LETTER_TARGET), "12");
        assert_eq!(aim(&letter), None);
        letter.state = State::Replaying;
        assert_eq!(aim(&letter), Some(12));
    }
}
