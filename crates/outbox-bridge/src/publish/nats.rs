//! The wire to a real stream.
//!
//! Answers come to an inbox of the wire's own, so that neither the client's request multiplexer nor its timeouts stand
//! between: the subject of an answer says what it is about.

use std::{str::FromStr as _, time::Duration};

use async_nats::{
    Client, HeaderMap, HeaderName, StatusCode, Subscriber,
    connection::State,
    jetstream::{
        self, ErrorCode,
        context::GetStreamErrorKind,
        message::StreamMessage,
        stream::{LastRawMessageErrorKind, RawMessageErrorKind},
    },
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use outbox_event::{DataRef, Position, header};
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    ClaimChecks, Complaints, Letters, Message, MessageHeaders, Poison, PoisonKind, Tail, TailMessage, covers,
    headers::unsendable,
    stop::code,
    wire::{Delivery, Envelope, Operation, Reply, ReplyTo, Wire, WireError},
};

/// How long the stream's leader may take to answer a question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// So many questions are on their way at once.
const QUESTIONS_MAX: usize = 64;

/// The wire to one stream over a NATS connection.
#[derive(Debug)]
pub struct NatsWire {
    client: Client,
    context: jetstream::Context,
    stream: String,
    headers: MessageHeaders,
    inbox: String,
    answers: Subscriber,
    disconnects: watch::Receiver<u64>,
    /// Where dead letters lie, if there are to be any.
    letters: Option<Letters>,
    complaints: Complaints,
    /// Where payloads go that are too large for a message, if there is such a place.
    claim_checks: Option<ClaimChecks>,
    /// Payloads of larger messages go there.
    inline_max: usize,
}

impl NatsWire {
    /// A wire to `stream`. `disconnects` counts the connection's losses; `context` says where JetStream's API is.
    ///
    /// # Errors
    ///
    /// If the client is closed.
    pub async fn new(
        client: Client,
        mut context: jetstream::Context,
        stream: String,
        message_id: bool,
        disconnects: watch::Receiver<u64>,
    ) -> Result<Self, WireError> {
        context.set_timeout(QUESTION_TIMEOUT);
        let inbox = client.new_inbox();
        let unique = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let answers = client
            .subscribe(format!("{inbox}.>"))
            .await
            .map_err(|error| WireError::Unavailable(error.to_string()))?;
        Ok(Self {
            client,
            context,
            headers: MessageHeaders { stream: stream.clone(), message_id, unique },
            stream,
            inbox,
            answers,
            disconnects,
            letters: None,
            complaints: Complaints::default(),
            claim_checks: None,
            inline_max: usize::MAX,
        })
    }

    /// Makes dead letters of rows that cannot be published. `complaints` are what the server says on this connection.
    #[must_use]
    pub fn parking(mut self, letters: Letters, complaints: Complaints) -> Self {
        self.letters = Some(letters);
        self.complaints = complaints;
        self
    }

    /// Stores payloads of messages of more than `inline_max` bytes by `claim_checks`, and those that the server does not take.
    #[must_use]
    pub fn checking(mut self, claim_checks: ClaimChecks, inline_max: usize) -> Self {
        self.claim_checks = Some(claim_checks);
        self.inline_max = inline_max;
        self
    }

    fn letters(&self) -> Result<&Letters, WireError> {
        self.letters.as_ref().ok_or_else(|| WireError::Unavailable("there are no dead letters".into()))
    }

    /// What the subject of an answer says, and with the answer itself what happened; `None` for what is not an answer.
    fn delivery(&self, message: &async_nats::Message) -> Option<Delivery> {
        let reply = || parse_reply(message, &self.stream);
        let rest = message.subject.strip_prefix(&*self.inbox)?.strip_prefix('.')?;
        let mut tokens = rest.split('.');
        match tokens.next()? {
            "s" => {
                let epoch = tokens.next()?.parse().ok()?;
                let sequence = tokens.next()?.parse().ok()?;
                Some(Delivery::Single { epoch, sequence, reply: reply() })
            }
            name => {
                let batch = name.strip_prefix(&*self.headers.unique)?.strip_prefix('-')?.parse().ok()?;
                Some(Delivery::Batch { batch, reply: reply() })
            }
        }
    }
}

impl Wire for NatsWire {
    async fn send(&mut self, envelope: Envelope<'_>) -> Result<(), WireError> {
        if self.client.connection_state() != State::Connected {
            // It would be queued and sent after the reconnect, behind a hole; the loss is reported by `receive`.
            return Ok(());
        }
        let Envelope { message, expected_last_sequence, reply_to, .. } = envelope;
        let ends = matches!(reply_to, ReplyTo::Batch { operation: Operation::End, .. });
        // Twice only where the server turns out to take less than was known.
        loop {
            let (mut headers, mut body) = if ends {
                (HeaderMap::new(), Bytes::new())
            } else {
                (self.headers.of(&envelope)?, message.body.clone())
            };
            let offloads = !ends && self.is_to_be_offloaded(message);
            if offloads {
                // In an atomic batch the sequence is expected before all of it.
                let behind = if let ReplyTo::Atomic { number, .. } = reply_to { number } else { 1 };
                // Boxed, so that what is sent without it does not carry its future around.
                let storing = Box::pin(self.store_payload(expected_last_sequence + behind, message));
                let reference = storing.await?;
                headers.insert(HeaderName::from_static(header::DATA_REF), reference.to_string());
                headers.insert(HeaderName::from_static(header::FORMAT), header::FORMAT_DATA_REF.to_string());
                body = Bytes::new();
                if self.client.connection_state() != State::Connected {
                    return Ok(());
                }
            }
            let size = body.len();
            let subject = message.subject.clone();
            let sent = if matches!(reply_to, ReplyTo::Atomic { commit: false, .. }) {
                self.client.publish_with_headers(subject, headers, body).await
            } else {
                let reply = self.reply_subject(reply_to);
                self.client.publish_with_reply_and_headers(subject, reply, headers, body).await
            };
            return match sent.map_err(|error| error.kind()) {
                Ok(()) => Ok(()),
                Err(async_nats::client::PublishErrorKind::MaxPayloadExceeded)
                    if !ends && !offloads && self.offload(message) =>
                {
                    continue;
                }
                Err(async_nats::client::PublishErrorKind::MaxPayloadExceeded) => {
                    let max = self.client.max_payload();
                    Err(WireError::TooLarge { position: message.position_text(), size, max })
                }
                Err(async_nats::client::PublishErrorKind::Send) => {
                    Err(WireError::Unavailable("the client is closed".into()))
                }
                Err(kind) => Err(unsendable(message, kind.to_string())),
            };
        }
    }

    async fn receive(&mut self) -> Delivery {
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.disconnects.changed() => return Delivery::Disconnected,
                Some(message) = self.answers.next() => {
                    if let Some(delivery) = self.delivery(&message) {
                        return delivery;
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    async fn read_tail(&mut self) -> Result<Tail, WireError> {
        let stream = self.stream().await?;
        match stream.get_last_raw_message_by_subject(">").await {
            Ok(message) => self.tail_of(&message),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                let state = self.info().await?.state;
                if state.messages > 0 {
                    let last = last_before(&stream, state.last_sequence).await?;
                    let gone = || WireError::Unavailable("the stream's last message has just gone".into());
                    return self.tail_of(&last.ok_or_else(gone)?);
                }
                Ok(Tail::Empty { last_sequence: state.last_sequence })
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::JetStream(error) => Err(jetstream_error(&self.stream, &error)),
                LastRawMessageErrorKind::InvalidSubject => {
                    Err(WireError::Unavailable("invalid subject".into()))
                }
                _ => Err(WireError::Timeout),
            },
        }
    }

    async fn read_last_sequence(&mut self) -> Result<u64, WireError> {
        Ok(self.info().await?.state.last_sequence)
    }

    async fn takes(&mut self, subject: &str) -> Result<bool, WireError> {
        let config = self.info().await?.config;
        Ok(config.subjects.iter().any(|pattern| covers(pattern, subject)))
    }

    async fn read_positions(&mut self, first: u64, last: u64) -> Result<Vec<Option<Position>>, WireError> {
        let stream = self.stream().await?;
        let (stream, this) = (&stream, &*self);
        let read = async |sequence| match stream.get_raw_message(sequence).await {
            Ok(message) => match this.tail_of(&message)? {
                Tail::Message(message) => Ok(Some(message.position)),
                Tail::Empty { .. } => Ok(None),
            },
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(WireError::Unavailable(error.to_string())),
        };
        let mut positions = Vec::new();
        let sequences: Vec<u64> = (first..=last).collect();
        for some in sequences.chunks(QUESTIONS_MAX) {
            let answers = futures_util::future::join_all(some.iter().map(|sequence| read(*sequence))).await;
            for answer in answers {
                positions.push(answer?);
            }
        }
        Ok(positions)
    }

    async fn reconnect(&mut self) {
        if self.client.force_reconnect().await.is_err() {
            tracing::error!("the NATS client is closed");
        }
    }

    fn offload(&mut self, message: &Message) -> bool {
        if self.claim_checks.is_none() || self.is_to_be_offloaded(message) {
            return false;
        }
        self.inline_max = message.size() - 1;
        true
    }

    fn parks(&self) -> bool {
        self.letters.is_some()
    }

    async fn read_mark(&mut self) -> Result<Option<u64>, WireError> {
        self.letters()?.mark(&self.stream).await
    }

    async fn are_parked(&mut self, messages: &[Message]) -> Result<Vec<bool>, WireError> {
        let letters = self.letters()?;
        let mut parked = Vec::with_capacity(messages.len());
        for some in messages.chunks(QUESTIONS_MAX) {
            let asked = some.iter().map(|message| letters.is_parked(&self.stream, message));
            for answer in futures_util::future::join_all(asked).await {
                parked.push(answer?);
            }
        }
        Ok(parked)
    }

    async fn park(&mut self, message: &Message, poison: &Poison) -> Result<bool, WireError> {
        self.letters()?.park(&self.stream, message, poison).await
    }

    async fn diagnose(&mut self, message: &Message) -> Result<Option<Poison>, WireError> {
        if self.complaints.about(&message.subject) {
            let reason = "the bridge's user may not publish to the row's subject";
            return Ok(Some(Poison::new(PoisonKind::Denied, reason)));
        }
        if !self.takes(&message.subject).await? {
            let reason = format!("the row's subject is not one of stream {}", self.stream);
            return Ok(Some(Poison::new(PoisonKind::Subject, reason)));
        }
        Ok(None)
    }
}

impl NatsWire {
    /// Where the answer to a message is to go.
    fn reply_subject(&self, reply_to: ReplyTo) -> String {
        let (inbox, unique) = (&self.inbox, &self.headers.unique);
        match reply_to {
            ReplyTo::Single { epoch, sequence } => format!("{inbox}.s.{epoch}.{sequence}"),
            ReplyTo::Atomic { batch, .. } => format!("{inbox}.{unique}-{batch}"),
            // ADR-50: <prefix>.<batch>.<flow>.<gap mode>.<number>.<operation>.$FI
            ReplyTo::Batch { batch, number, flow, operation } => {
                let code = match operation {
                    Operation::Start => 0,
                    Operation::Append => 1,
                    Operation::End => 3,
                };
                format!("{inbox}.{unique}-{batch}.{flow}.fail.{number}.{code}.$FI")
            }
        }
    }

    /// Whether the payload goes to the object store.
    fn is_to_be_offloaded(&self, message: &Message) -> bool {
        self.claim_checks.is_some() && message.size() > self.inline_max.min(self.client.max_payload())
    }

    async fn store_payload(&mut self, sequence: u64, message: &Message) -> Result<DataRef, WireError> {
        let away = || WireError::Unavailable("there is no object store".into());
        self.claim_checks.as_mut().ok_or_else(away)?.put(&self.stream, sequence, message).await
    }
}

impl NatsWire {
    async fn stream(&self) -> Result<jetstream::stream::Stream<()>, WireError> {
        self.context
            .get_stream_no_info(&self.stream)
            .await
            .map_err(|error| WireError::Unavailable(error.to_string()))
    }

    async fn info(&self) -> Result<jetstream::stream::Info, WireError> {
        Self::stream_info(&self.context, &self.stream).await
    }

    fn tail_of(&self, message: &StreamMessage) -> Result<Tail, WireError> {
        let position = position_of(&self.stream, message)?;
        Ok(Tail::Message(TailMessage { sequence: message.sequence, position }))
    }

    /// What the server says of a stream.
    ///
    /// # Errors
    ///
    /// If it does not exist or the server does not answer.
    pub async fn stream_info(
        context: &jetstream::Context,
        stream: &str,
    ) -> Result<jetstream::stream::Info, WireError> {
        let info = context.get_stream(stream).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(error) => jetstream_error(stream, &error),
            _ => WireError::Unavailable(error.to_string()),
        })?;
        Ok(info.cached_info().clone())
    }
}

/// Where the row of a message of `stream` stood.
pub(super) fn position_of(stream: &str, message: &StreamMessage) -> Result<Position, WireError> {
    let foreign = || WireError::Foreign {
        stream: stream.to_owned(),
        sequence: message.sequence,
        subject: message.subject.to_string(),
    };
    // Before the position: what a newer bridge writes there may be another thing.
    let format = message.headers.get_last(header::FORMAT).map(|format| format.as_str());
    if let Some(format) = header::newer_format(format) {
        return Err(WireError::NewerFormat {
            stream: stream.to_owned(),
            sequence: message.sequence,
            format: format.chars().take(20).collect(),
        });
    }
    let position = message.headers.get_last(header::POSITION).ok_or_else(foreign)?;
    Position::from_str(position.as_str()).map_err(|_| foreign())
}

/// The last message that is left where the messages at the end were deleted one by one: the server finds no last one then,
/// though there are some.
pub(super) async fn last_before(
    stream: &jetstream::stream::Stream<()>,
    last_sequence: u64,
) -> Result<Option<StreamMessage>, WireError> {
    // There is a message at or behind `low`, and none behind `high`.
    let (mut low, mut high) = (1, last_sequence);
    let mut last = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        match stream.get_first_raw_message_by_subject(">", middle).await {
            Ok(message) => {
                low = message.sequence + 1;
                last = Some(message);
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => high = middle - 1,
            Err(error) => return Err(WireError::Unavailable(error.to_string())),
        }
    }
    Ok(last)
}

pub(super) fn jetstream_error(stream: &str, error: &jetstream::Error) -> WireError {
    if error.error_code() == ErrorCode::STREAM_NOT_FOUND {
        WireError::NoStream { stream: stream.to_owned() }
    } else {
        WireError::Unavailable(error.to_string())
    }
}

/// Any answer to a published message: an acknowledgement ([ADR-1]), a batch's flow message ([ADR-50]), or an error.
///
/// [ADR-1]: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-1.md
/// [ADR-50]: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a str>,
    #[serde(borrow)]
    stream: Option<&'a str>,
    seq: Option<u64>,
    msgs: Option<u16>,
    #[serde(default)]
    duplicate: bool,
    count: Option<u64>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

pub(super) fn parse_reply(message: &async_nats::Message, stream: &str) -> Reply {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Reply::NoResponders;
    }
    parse_answer(&message.payload, stream)
}

fn parse_answer(payload: &[u8], stream: &str) -> Reply {
    let refused = |code, description: String| Reply::Refused { code, description };
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(payload) else {
        return refused(0, "an answer that is not JetStream's".into());
    };
    match answer {
        Answer { error: Some(error), .. } => refused(error.err_code, error.description),
        Answer { stream: Some(other), .. } if other != stream => {
            refused(code::WRONG_STREAM, format!("stream {other} took it, which has its subject now"))
        }
        Answer { kind: Some("ack"), seq, msgs, .. } => {
            Reply::Flow { number: seq.unwrap_or(0), every: msgs.unwrap_or(1) }
        }
        Answer { kind: Some(kind), .. } => refused(0, format!("batch interrupted: {kind}")),
        Answer { kind: None, seq: Some(sequence), duplicate, count, .. } => {
            Reply::Stored { sequence, duplicate, count }
        }
        Answer { .. } => refused(0, "an answer without a sequence".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWERS: [&str; 5] = [
        r#"{"stream":"ORDERS","seq":12}"#,
        r#"{"stream":"ORDERS","seq":12,"duplicate":true,"domain":"hub"}"#,
        r#"{"type":"ack","seq":7,"msgs":20}"#,
        r#"{"type":"gap","last_seq":3,"seq":5}"#,
        r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 4"}}"#,
    ];

    #[test]
    fn answers() {
        let stored = |sequence, duplicate| Reply::Stored { sequence, duplicate, count: None };
        let refused = |code, description: &str| Reply::Refused { code, description: description.to_owned() };
        let expected = [
            stored(12, false),
            stored(12, true),
            Reply::Flow { number: 7, every: 20 },
            refused(0, "batch interrupted: gap"),
            refused(10071, "wrong last sequence: 4"),
        ];
        assert_eq!(ANSWERS.map(|answer| parse_answer(answer.as_bytes(), "ORDERS")), expected);
        let [stored, ..] = ANSWERS;
        let other = parse_answer(stored.as_bytes(), "OTHER");
        assert!(matches!(other, Reply::Refused { code: code::WRONG_STREAM, .. }), "{other:?}");
    }

    proptest! {
        #[test]
        fn no_answer_panics(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            parse_answer(&payload, "ORDERS");
        }

        /// What is cut off is never taken for a message that is stored.
        #[test]
        fn half_an_answer_stores_nothing(answer in prop::sample::select(&ANSWERS[..]), cut: prop::sample::Index) {
            let half = &answer.as_bytes()[..cut.index(answer.len())];
            let stored = matches!(parse_answer(half, "ORDERS"), Reply::Stored { .. } | Reply::Flow { .. });
            prop_assert!(!stored);
        }

        #[test]
        fn a_damaged_answer_does_not_panic(
            answer in prop::sample::select(&ANSWERS[..]), at: prop::sample::Index, bits in 1..=255_u8,
        ) {
            let mut payload = answer.as_bytes().to_vec();
            let at = at.index(payload.len());
            payload[at] ^= bits;
            parse_answer(&payload, "ORDERS");
        }
    }
}
