//! Dead letters: messages that a consumer gave up, and how they come back.
//!
//! A dead letter lies at a subject that ends with the sequence of the original, and is stored only if there is nothing at
//! that subject yet. So there is one letter a message, whatever happens between storing the letter and terminating the
//! original, and however much later: it does not depend on the stream's duplicate window.

mod place;
pub(crate) mod record;

use std::fmt;

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self,
        context::{ConsumerInfoErrorKind, PublishErrorKind},
        message::PublishMessage,
        stream::{DeleteMessageErrorKind, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_util::TryStreamExt;

pub(crate) use self::place::{Address, Kind, Place, key_token};
pub use self::{place::DeadLetterStream, record::DeadLetter};
use crate::{
    error::{ConsumerError, ConsumerErrorKind},
    handler::error::report,
    history::History,
    payload::Payloads,
};

/// The dead letters of one consumer: list them, replay them, drop them.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use outbox_consumer::DeadLetters;
///
/// let client = async_nats::connect("nats://127.0.0.1:4222").await?;
/// let letters = DeadLetters::open(client, "ORDERS", "stock").await?;
/// let mut after = 0;
/// loop {
///     let page = letters.list(after, 100).await?;
///     let Some(last) = page.last() else { break };
///     after = last.position;
///     for letter in page {
///         println!("{} {:?}: {}", letter.position, letter.message_id, letter.reason);
///         letters.replay(letter.position).await?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    client: Client,
    context: jetstream::Context,
    stream: Stream,
    place: Place,
    payloads: Payloads,
}

/// How a letter was not stored.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// It may be stored later, or may be stored already.
    Again(String),
    /// It is larger than the server allows, whatever is left out.
    TooLarge,
}

impl DeadLetters {
    /// The dead letters of the consumer `durable` of `stream`, in the default [`DeadLetterStream`].
    ///
    /// # Errors
    ///
    /// If the stream of the dead letters cannot be opened.
    pub async fn open(client: Client, stream: &str, durable: &str) -> Result<Self, ConsumerError> {
        Self::open_in(client, stream, durable, DeadLetterStream::default()).await
    }

    /// As [`open`](Self::open), in a stream of your own.
    ///
    /// # Errors
    ///
    /// If the stream of the dead letters cannot be opened.
    pub async fn open_in(
        client: Client,
        stream: &str,
        durable: &str,
        dead_letters: DeadLetterStream,
    ) -> Result<Self, ConsumerError> {
        let context = jetstream::new(client);
        let place = Place { dead_letters, stream: stream.to_owned(), durable: durable.to_owned() };
        Self::open_place(context, place).await
    }

    pub(crate) async fn open_place(context: jetstream::Context, place: Place) -> Result<Self, ConsumerError> {
        let stream = place.open(&context).await?;
        let payloads = Payloads::new(context.clone());
        Ok(Self { client: context.client(), context, stream, place, payloads })
    }

    /// At most `limit` letters after the position `after` (0 to begin), oldest first.
    ///
    /// # Errors
    ///
    /// If NATS cannot be reached.
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<DeadLetter>, ConsumerError> {
        self.list_at(&self.place.letters(), after, limit).await
    }

    async fn list_at(
        &self,
        subjects: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ConsumerError> {
        let mut letters = Vec::new();
        let mut next = after.saturating_add(1);
        while letters.len() < limit {
            let request = self.stream.raw_message_builder().sequence(next).next_by_subject(subjects);
            let found = match request.send().await {
                Ok(found) => found,
                Err(error) if is_missing(error.kind()) => break,
                Err(error) => return Err(failed("the dead letters cannot be listed", error)),
            };
            next = found.sequence.saturating_add(1);
            letters.extend(record::read(found.sequence, &found.headers, found.payload));
        }
        Ok(letters)
    }

    /// One letter.
    ///
    /// # Errors
    ///
    /// [`ConsumerErrorKind::NoSuchLetter`] if this consumer has none at that position.
    pub async fn get(&self, position: u64) -> Result<DeadLetter, ConsumerError> {
        Ok(self.get_with_replay(position).await?.0)
    }

    /// A letter, and the subject on which it goes back.
    async fn get_with_replay(&self, position: u64) -> Result<(DeadLetter, String), ConsumerError> {
        let missing = || {
            let message = format!("there is no dead letter of {} at {position}", self.place.durable);
            ConsumerError::new(ConsumerErrorKind::NoSuchLetter, message)
        };
        let found = match self.stream.get_raw_message(position).await {
            Ok(found) => found,
            Err(error) if is_missing(error.kind()) => return Err(missing()),
            Err(error) => return Err(failed("the dead letter cannot be read", error)),
        };
        let replay = self.place.replay_of(&found.subject).ok_or_else(missing)?;
        let letter = record::read(position, &found.headers, found.payload).ok_or_else(missing)?;
        Ok((letter, replay))
    }

    /// Sends a letter back to its consumer, and to no other, under its original id; its attempts count anew.
    ///
    /// The message does not go to the original stream, which belongs to the bridge, but to a subject that only this
    /// consumer listens to. If the message was handled after all, the inbox drops it.
    ///
    /// # Errors
    ///
    /// [`ConsumerErrorKind::NoSuchLetter`] if this consumer has none at that position, [`ConsumerErrorKind::Durable`] if
    /// nothing would get the message, since the consumer never ran or has other partitions now.
    pub async fn replay(&self, position: u64) -> Result<(), ConsumerError> {
        let (letter, subject) = self.get_with_replay(position).await?;
        self.check_receiver(&subject).await?;
        let origin = record::Origin {
            subject: &letter.subject,
            stream: &letter.stream,
            sequence: letter.sequence,
            consumer: &letter.consumer,
        };
        let now = std::time::SystemTime::now();
        let mut headers = record::headers(&letter.headers, origin, &letter.reason, &History::default(), now);
        headers.insert(record::REPLAY_OF, position.to_string().as_str());
        let message = PublishMessage::build().payload(letter.body).headers(headers);
        let stored = async { self.context.send_publish(subject, message).await?.await };
        stored.await.map_err(|error| failed("the dead letter cannot be replayed", error))?;
        self.remove(position).await
    }

    /// Sends all letters of a partition key back, in the order in which their messages stood in the stream; gives how
    /// many. With [`FailingKeys::Park`](crate::FailingKeys::Park) this is how a parked key goes on: if the first of them
    /// fails again, those behind it become letters again.
    ///
    /// # Errors
    ///
    /// If NATS cannot be reached, or as [`replay`](Self::replay).
    pub async fn replay_key(&self, key: &str) -> Result<usize, ConsumerError> {
        let mut letters = self.list_at(&self.place.letters_of_key(key), 0, usize::MAX).await?;
        letters.retain(|letter| letter.partition_key.as_deref() == Some(key));
        letters.sort_by_key(|letter| letter.sequence);
        for letter in &letters {
            self.replay(letter.position).await?;
        }
        Ok(letters.len())
    }

    /// A replayed message that nothing gets would be lost from sight.
    async fn check_receiver(&self, subject: &str) -> Result<(), ConsumerError> {
        let name = self.place.durable_of_replay(subject).unwrap_or_default();
        match self.stream.consumer_info(&name).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {
                let message = format!(
                    "no consumer would get the replayed message: there is no durable consumer {name}. Start the \
                     service, or, if its number of partitions changed, run it once with the old number"
                );
                Err(ConsumerError::new(ConsumerErrorKind::Durable, message))
            }
            Err(error) => Err(failed("the consumer of replayed messages cannot be looked up", error)),
        }
    }

    /// Removes a letter for good; the message will not be handled.
    ///
    /// # Errors
    ///
    /// [`ConsumerErrorKind::NoSuchLetter`] if this consumer has none at that position.
    pub async fn discard(&self, position: u64) -> Result<(), ConsumerError> {
        let letter = self.get(position).await?;
        self.remove(position).await?;
        self.payloads.forget(&letter.headers).await;
        Ok(())
    }

    pub(crate) async fn remove(&self, position: u64) -> Result<(), ConsumerError> {
        match self.stream.delete_message(position).await {
            Ok(_) => Ok(()),
            // Removed before, perhaps by a call whose reply was lost. The server has no error code for just this.
            Err(error)
                if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_))
                    && error.to_string().contains("no message found") =>
            {
                Ok(())
            }
            Err(error) => Err(failed("the dead letter cannot be removed", error)),
        }
    }

    /// The position of the dead letter of a message, if it is one.
    pub(crate) async fn position_of(&self, at: Address<'_>) -> Result<Option<u64>, ConsumerError> {
        // The leader answers this, not a follower that lags behind.
        match self.stream.get_last_raw_message_by_subject(&self.place.letter(at)).await {
            Ok(found) => Ok(Some(found.sequence)),
            Err(error) if is_missing(error.kind()) => Ok(None),
            Err(error) => Err(failed("the dead letters cannot be read", error)),
        }
    }

    /// Stores a letter, unless it is stored already. `replay_of` is the letter that the message was replayed from: its
    /// removal may still be on its way, or have been lost in a crash, so it does not count as stored.
    pub(crate) async fn store(
        &self,
        at: Address<'_>,
        replay_of: Option<u64>,
        mut headers: HeaderMap,
        body: Bytes,
        history: &History,
    ) -> Result<(), StoreError> {
        if size(&headers, &body) > self.client.server_info().max_payload {
            record::shrink(&mut headers, history);
        }
        // Twice at most something is in the way: the letter that it was replayed from, and then that letter's removal.
        for _ in 0..3 {
            let last = self.position_of(at).await.map_err(|error| StoreError::Again(report(&error)))?;
            if last.is_some() && last != replay_of {
                return Ok(());
            }
            if self.store_after(last.unwrap_or(0), at, &headers, &body).await? {
                if let Some(replaced) = last
                    && let Err(error) = self.remove(replaced).await
                {
                    tracing::warn!(error = report(&error), replaced, "a replayed letter is listed still");
                }
                return Ok(());
            }
        }
        Err(StoreError::Again("another letter is stored and removed at its subject".to_owned()))
    }

    /// Stores a letter if the last one at its subject stands at `last` (0: if there is none); whether it did.
    async fn store_after(
        &self,
        last: u64,
        at: Address<'_>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<bool, StoreError> {
        let message = PublishMessage::build()
            .payload(body.clone())
            .headers(headers.clone())
            .expected_last_subject_sequence(last);
        let stored = async { self.context.send_publish(self.place.letter(at), message).await?.await };
        match stored.await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                PublishErrorKind::WrongLastSequence => Ok(false),
                PublishErrorKind::MaxPayloadExceeded => Err(StoreError::TooLarge),
                _ => Err(StoreError::Again(report(&error))),
            },
        }
    }

    /// The first message on `subjects`, as its subject names it.
    pub(crate) async fn first_at(&self, subjects: &str) -> Result<Option<(Kind, u64)>, ConsumerError> {
        match self.stream.raw_message_builder().sequence(1).next_by_subject(subjects).send().await {
            Ok(found) => Ok(self.place.parse(&found.subject).map(|(kind, _, sequence)| (kind, sequence))),
            Err(error) if is_missing(error.kind()) => Ok(None),
            Err(error) => Err(failed("the dead letters cannot be read", error)),
        }
    }

    /// What lies on `subjects`: kind, token of the key, sequence.
    pub(crate) async fn all_at(&self, subjects: &str) -> Result<Vec<(Kind, String, u64)>, ConsumerError> {
        let failed = |error| failed("the dead letters cannot be listed", error);
        let mut info = self.stream.info_with_subjects(subjects).await.map_err(failed)?;
        let mut found = Vec::new();
        while let Some((subject, _)) = info.try_next().await.map_err(failed)? {
            found.extend(
                self.place.parse(&subject).map(|(kind, key, sequence)| (kind, key.to_owned(), sequence)),
            );
        }
        Ok(found)
    }

    pub(crate) fn payloads(&self) -> &Payloads {
        &self.payloads
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What a message takes, generously: every header line has a separator and an end of its own.
fn size(headers: &HeaderMap, body: &Bytes) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| name.len() + value.as_str().len() + 4)
    });
    lines.sum::<usize>() + body.len() + 256
}

fn is_missing(kind: RawMessageErrorKind) -> bool {
    matches!(kind, RawMessageErrorKind::NoMessageFound)
}

fn failed(what: &str, error: impl Into<crate::BoxError>) -> ConsumerError {
    ConsumerError::because(ConsumerErrorKind::Nats, what, error)
}
