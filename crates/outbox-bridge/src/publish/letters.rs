//! The stream of dead letters: rows that could not be stored, one subject each.
//!
//! A letter's subject names the row by its GTID (or place) and number, so a row has one letter for ever. What becomes of it
//! (that it was dropped) replaces it at its subject; the place stays, and so the row is known should the log show it again.
//!
//! Every write names the last sequence of the stream and that of the subject, both learnt before, so that writers (the bridge,
//! an operator's command) cannot overtake each other. And every message carries the latest commit times of parked rows
//! ([`header::LETTER_MARKS`]), so that one reply tells which rows may be letters.

mod replay;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{
    Client, HeaderMap, HeaderName, HeaderValue, Request,
    client::RequestErrorKind,
    jetstream::{
        self,
        message::StreamMessage,
        stream::{LastRawMessageErrorKind, RawMessageErrorKind},
    },
};
use bytes::Bytes;
use outbox_event::{header, subject::encode_token};

use super::{
    Message, NatsWire, Poison, Reply, WireError,
    nats::{jetstream_error, last_before, parse_reply},
    stop::code,
};

pub use replay::{KnownEnd, ReplayError, ReplayTarget, Replayed};

const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// So often may others write between reading the stream's end and writing behind it.
const RACES_MAX: usize = 100;
/// More bytes of headers are left out of a letter: the server takes 64 KiB.
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Kept free for what the client adds to a message.
const SPARE_BYTES: usize = 1024;
const REASON_CHARS_MAX: usize = 1_000;

/// What became of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for somebody to look at it.
    Parked,
    /// Its row is being published after all, or somebody has tried that.
    Replaying,
    /// Its row was published after all.
    Replayed,
    /// It was thrown away.
    Dropped,
}

impl State {
    const ALL: [Self; 4] = [Self::Parked, Self::Replaying, Self::Replayed, Self::Dropped];

    /// As a word.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Replaying => "replaying",
            Self::Replayed => "replayed",
            Self::Dropped => "dropped",
        }
    }

    /// Whether the row's content is still there.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Parked | Self::Replaying)
    }
}

/// A letter as it lies in its stream.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its sequence in the stream of letters.
    pub sequence: u64,
    /// Its subject there.
    pub subject: String,
    /// What became of it.
    pub state: State,
    /// Everything else that is known.
    pub headers: HeaderMap,
    /// The payload.
    pub body: Bytes,
}

impl Letter {
    fn of(message: StreamMessage) -> Self {
        let state = message.headers.get_last(header::LETTER_STATE).map_or("", HeaderValue::as_str);
        let state = State::ALL.into_iter().find(|known| known.label() == state).unwrap_or(State::Parked);
        Self {
            sequence: message.sequence,
            subject: message.subject.to_string(),
            state,
            headers: message.headers,
            body: message.payload,
        }
    }

    /// A header, if it is there.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get_last(name).map(HeaderValue::as_str)
    }
}

/// How the replacing of a letter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is replaced, by the message at this sequence.
    Done(u64),
    /// Somebody else has changed it since it was read.
    Changed,
}

/// Where dead letters lie.
#[derive(Debug, Clone)]
pub struct Letters {
    client: Client,
    context: jetstream::Context,
    stream: String,
    prefix: String,
}

impl Letters {
    /// Letters in `stream`, below the subject `prefix`.
    #[must_use]
    pub fn new(client: Client, context: jetstream::Context, stream: String, prefix: String) -> Self {
        Self { client, context, stream, prefix }
    }

    /// Fails if the stream does not exist.
    ///
    /// # Errors
    ///
    /// Also if the server does not answer.
    pub async fn verify(&self) -> Result<(), WireError> {
        NatsWire::stream_info(&self.context, &self.stream).await.map(drop)
    }

    /// How many letters there are, also those that are done with.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub async fn count(&self) -> Result<u64, WireError> {
        Ok(NatsWire::stream_info(&self.context, &self.stream).await?.state.messages)
    }

    /// The subject of the letter of a row that goes to `stream`.
    fn subject(&self, stream: &str, message: &Message) -> String {
        let transaction = &message.transaction;
        let mut subject = format!("{}.{stream}.", self.prefix);
        if transaction.gtid.is_empty() {
            encode_token(&format!("{}:{}", transaction.file, transaction.offset), &mut subject);
        } else {
            // Of whatever server of a topology: file and offset would differ.
            encode_token(&transaction.gtid, &mut subject);
        }
        subject.push_str(&format!(".{}", message.row));
        subject
    }

    /// The latest commit time, in microseconds, of a row of `stream` that is or was a letter.
    pub(super) async fn mark(&self, stream: &str) -> Result<Option<u64>, WireError> {
        Ok(self.end().await?.1.get(stream).copied())
    }

    pub(super) async fn is_parked(&self, stream: &str, message: &Message) -> Result<bool, WireError> {
        Ok(self.last(&self.subject(stream, message)).await?.is_some())
    }

    /// Stores the letter of a row; `false` if it has one, or had.
    pub(super) async fn park(
        &self,
        stream: &str,
        message: &Message,
        poison: &Poison,
    ) -> Result<bool, WireError> {
        let subject = self.subject(stream, message);
        let mut full = letter_headers(stream, message, poison);
        let room = self.client.max_payload().saturating_sub(header_bytes(&full) + SPARE_BYTES);
        let mut body = message.body.clone();
        loop {
            if body.len() > room {
                body.truncate(room);
            }
            if body.len() < message.body.len() {
                cut(&mut full, &format!("body={}", message.body.len()));
            }
            let mark = Some((stream, message.transaction.committed_micros));
            match self.write(&subject, full.clone(), body.clone(), 0, mark).await {
                Ok(Replaced::Done(_)) => return Ok(true),
                Ok(Replaced::Changed) => return Ok(false),
                // The stream of letters has a smaller limit of its own.
                Err(WireError::TooLarge { .. }) if !body.is_empty() => body.truncate(body.len() / 2),
                Err(WireError::TooLarge { size, max, .. }) => {
                    return Err(WireError::LetterRefused {
                        stream: self.stream.clone(),
                        position: message.position_text(),
                        reason: format!("not even {size} bytes fit (limit {max})"),
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next letter from `sequence` on, also if it was dropped.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub async fn next(&self, sequence: u64) -> Result<Option<Letter>, WireError> {
        let filter = format!("{}.>", self.prefix);
        match self.handle().await?.get_first_raw_message_by_subject(filter, sequence.max(1)).await {
            Ok(message) => Ok(Some(Letter::of(message))),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(error) => Err(jetstream_error(&self.stream, &error)),
                _ => Err(WireError::Timeout),
            },
        }
    }

    /// Calls `visit` with each letter that there is, also those that were dropped.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub async fn each(&self, mut visit: impl FnMut(&Letter)) -> Result<(), WireError> {
        let mut from = 1;
        while let Some(letter) = self.next(from).await? {
            from = letter.sequence + 1;
            visit(&letter);
        }
        Ok(())
    }

    /// The ids, as headers have them, of a table's rows that are letters in one of the wanted states; an empty one if a row has
    /// none.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub async fn ids(
        &self,
        stream: &str,
        table: &str,
        wanted: impl Fn(State) -> bool,
    ) -> Result<HashSet<String>, WireError> {
        let mut ids = HashSet::new();
        self.each(|letter| {
            let is = |name, value| letter.header(name) == Some(value);
            if wanted(letter.state) && is(header::LETTER_STREAM, stream) && is(header::LETTER_TABLE, table) {
                ids.insert(letter.header(header::CE_ID).unwrap_or_default().to_owned());
            }
        })
        .await?;
        Ok(ids)
    }

    /// The letter that lies at a sequence.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub async fn at(&self, sequence: u64) -> Result<Option<Letter>, WireError> {
        Ok(self.next(sequence).await?.filter(|letter| letter.sequence == sequence))
    }

    /// Replaces a letter by what became of it. Done with, only its headers are kept.
    ///
    /// # Errors
    ///
    /// If the server does not answer; then it may be replaced all the same.
    pub async fn replace(&self, letter: &Letter, state: State) -> Result<Replaced, WireError> {
        let mut headers = HeaderMap::new();
        let kept = [
            header::LETTER_STREAM,
            header::LETTER_SUBJECT,
            header::LETTER_TABLE,
            header::LETTER_REASON,
            header::LETTER_TARGET,
            header::POSITION,
            header::CE_ID,
            header::CE_SOURCE,
            header::CE_TIME,
        ];
        for (name, values) in letter.headers.iter() {
            let text: &str = name.as_ref();
            if !steers(text) && (state.is_open() || kept.contains(&text)) {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        headers.insert(HeaderName::from_static(header::LETTER_STATE), state.label());
        let body = if state.is_open() { letter.body.clone() } else { Bytes::new() };
        self.write(&letter.subject, headers, body, letter.sequence, None).await
    }

    /// Writes behind the stream's end, if the subject's last sequence is the given one.
    async fn write(
        &self,
        subject: &str,
        mut headers: HeaderMap,
        body: Bytes,
        subject_sequence: u64,
        mark: Option<(&str, u64)>,
    ) -> Result<Replaced, WireError> {
        let size = body.len();
        let mut refused = None;
        for _ in 0..RACES_MAX {
            let (mut last, mut marks) = self.end().await?;
            if refused == Some(last) {
                // Messages behind it were deleted by hand: nobody else was at work.
                let state = NatsWire::stream_info(&self.context, &self.stream).await?.state;
                last = last.max(state.last_sequence);
            }
            refused = Some(last);
            if let Some((stream, micros)) = mark {
                let known = marks.entry(stream.to_owned()).or_default();
                *known = micros.max(*known);
            }
            let marks = serde_json::to_string(&marks).unwrap_or_default();
            headers.insert(HeaderName::from_static(header::LETTER_MARKS), marks);
            headers.insert(HeaderName::from_static(header::EXPECTED_LAST_SEQUENCE), HeaderValue::from(last));
            headers.insert(EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(subject_sequence));
            let request =
                Request::new().headers(headers.clone()).payload(body.clone()).timeout(Some(ANSWER_TIMEOUT));
            let answer = match self.client.send_request(subject.to_owned(), request).await {
                Ok(answer) => answer,
                Err(error) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                    let max = self.client.max_payload();
                    return Err(WireError::TooLarge { position: subject.to_owned(), size, max });
                }
                Err(error) => return Err(WireError::Unavailable(error.to_string())),
            };
            match parse_reply(&answer, &self.stream) {
                Reply::Stored { sequence, .. } => return Ok(Replaced::Done(sequence)),
                Reply::Refused { code: code::WRONG_LAST_SEQUENCE, .. } => {
                    let now = self.last(subject).await?.map_or(0, |letter| letter.sequence);
                    if now != subject_sequence {
                        return Ok(Replaced::Changed);
                    }
                }
                Reply::Refused { code, description } if code::is_poison(code, &description) => {
                    return Err(WireError::TooLarge { position: subject.to_owned(), size, max: 0 });
                }
                Reply::Refused { code, description } if code::is_permanent(code, &description) => {
                    return Err(WireError::LetterRefused {
                        stream: self.stream.clone(),
                        position: subject.to_owned(),
                        reason: format!("{description} ({code})"),
                    });
                }
                reply => return Err(WireError::Unavailable(reply.to_string())),
            }
        }
        Err(WireError::Unavailable("others keep writing to it".into()))
    }

    /// The stream's last sequence and the marks, out of one reply.
    async fn end(&self) -> Result<(u64, BTreeMap<String, u64>), WireError> {
        let mut last = self.last(">").await?;
        let mut last_sequence = last.as_ref().map_or(0, |last| last.sequence);
        if last.is_none() {
            let state = NatsWire::stream_info(&self.context, &self.stream).await?.state;
            last_sequence = state.last_sequence;
            if state.messages > 0 {
                last = last_before(&self.handle().await?, last_sequence).await?.map(Letter::of);
            }
        }
        let Some(last) = last else { return Ok((last_sequence, BTreeMap::new())) };
        let marks = last.header(header::LETTER_MARKS).unwrap_or_default();
        let marks = serde_json::from_str(marks).map_err(|_| WireError::Foreign {
            stream: self.stream.clone(),
            sequence: last.sequence,
            subject: last.subject.clone(),
        })?;
        Ok((last_sequence, marks))
    }

    async fn last(&self, subject: &str) -> Result<Option<Letter>, WireError> {
        match self.handle().await?.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(Letter::of(message))),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(error) => Err(jetstream_error(&self.stream, &error)),
                _ => Err(WireError::Timeout),
            },
        }
    }

    async fn handle(&self) -> Result<jetstream::stream::Stream<()>, WireError> {
        self.context
            .get_stream_no_info(&self.stream)
            .await
            .map_err(|error| WireError::Unavailable(error.to_string()))
    }
}

/// Whether a header tells the server what to do, or comes from it.
fn steers(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

/// What stands on a letter.
fn letter_headers(stream: &str, message: &Message, poison: &Poison) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let reason: String = poison.reason.chars().take(REASON_CHARS_MAX).collect();
    let own = [
        (header::LETTER_STATE, State::Parked.label()),
        (header::LETTER_STREAM, stream),
        (header::LETTER_SUBJECT, message.subject.as_str()),
        (header::LETTER_TABLE, &message.table),
        (header::LETTER_REASON, poison.kind.label()),
        (header::LETTER_ERROR, &reason),
        (header::POSITION, &message.position_text()),
        (header::CE_ID, &message.id),
    ];
    for (name, value) in own.into_iter().filter(|(_, value)| !value.is_empty()) {
        headers.insert(HeaderName::from_static(name), &*header::encode_application_value(value));
    }
    let row = poison.row.iter().map(|row| (header::LETTER_ROW.into(), row.clone().into()));
    let mut complete = true;
    for (name, value) in message.headers.iter().cloned().chain(row) {
        let name = HeaderName::from_str(&name).ok();
        let fits = header_bytes(&headers) + value.len() < HEADER_BYTES_MAX;
        match name.filter(|_| fits && !value.contains(['\r', '\n', '\0'])) {
            Some(name) => headers.insert(name, &*value),
            None => complete = false,
        }
    }
    if !complete {
        cut(&mut headers, "headers");
    }
    headers
}

/// Notes that something is missing of a letter.
fn cut(headers: &mut HeaderMap, what: &str) {
    let known = headers.get_last(header::LETTER_CUT).map(HeaderValue::as_str).unwrap_or_default();
    if known.split(',').any(|known| known == what) {
        return;
    }
    let value = if known.is_empty() { what.to_owned() } else { format!("{known},{what}") };
    headers.insert(HeaderName::from_static(header::LETTER_CUT), value);
}

fn header_bytes(headers: &HeaderMap) -> usize {
    let bytes = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
        let name: &str = name.as_ref();
        values.iter().map(|value| name.len() + value.as_str().len() + 4).sum::<usize>()
    };
    headers.iter().map(bytes).sum()
}

/// Forbidden subjects that the server has complained of: it does not answer a message that it does not let through.
#[derive(Debug, Clone, Default)]
pub struct Complaints(Arc<Mutex<VecDeque<(Instant, String)>>>);

/// So many complaints are kept.
const COMPLAINTS_MAX: usize = 1_000;
/// A complaint that is older says nothing of what was sent now.
const COMPLAINT_AGE_MAX: Duration = Duration::from_secs(60);

impl Complaints {
    /// The server says so.
    pub fn hear(&self, text: String) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() == COMPLAINTS_MAX {
            heard.pop_front();
        }
        heard.push_back((Instant::now(), text));
    }

    /// A new connection: what was complained of before may be allowed by now.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether publishing to `subject` was complained of lately; a complaint counts once.
    pub(super) fn about(&self, subject: &str) -> bool {
        let quoted = format!("\"{subject}\"");
        self.take(|complaint| complaint.contains("Publish to") && complaint.contains(&quoted)).is_some()
    }

    /// The last of the late complaints that `is_meant`; each counts once.
    pub(crate) fn take(&self, is_meant: impl Fn(&str) -> bool) -> Option<String> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (meant, others): (VecDeque<_>, _) = heard.drain(..).partition(|(_, text)| is_meant(text));
        *heard = others;
        let (at, text) = meant.into_iter().next_back()?;
        (at.elapsed() < COMPLAINT_AGE_MAX).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_counts_once_and_only_for_its_subject() {
        let complaints = Complaints::default();
        complaints.hear("Permissions Violation for Publish to \"orders.a\"".into());
        assert!(!complaints.about("orders"));
        assert!(complaints.about("orders.a"));
        assert!(!complaints.about("orders.a"));
        complaints.hear("Permissions Violation for Publish to \"orders.a\"".into());
        complaints.forget();
        assert!(!complaints.about("orders.a"));
    }

    #[test]
    fn what_is_missing_is_noted_once() {
        let mut headers = HeaderMap::new();
        for what in ["headers", "body=7", "body=7"] {
            cut(&mut headers, what);
        }
        assert_eq!(headers.get_last(header::LETTER_CUT).map(HeaderValue::as_str), Some("headers,body=7"));
    }
}
