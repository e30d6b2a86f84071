//! Asks NATS every few seconds, for the status page, what only NATS knows: what the streams hold, and which dead letters are open.
//!
//! Answers are kept with their time. Nobody who looks at the page causes a question.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use async_nats::{Client, jetstream};

use super::board::{Board, Held, LetterNote, LettersNote, NatsServer};
use crate::publish::{Letter, Letters, WireError};

const INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Letters that are looked at in one turn: each is a question of its own.
const LETTERS_A_TURN: usize = 100;
/// Letters that are remembered; beyond, they are not counted.
const LETTERS_MAX: usize = 2_000;
/// Open letters that are shown.
const LETTERS_SHOWN: usize = 5;
/// How often at most all letters are looked at again, when some were deleted.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps what the streams and the letters are like on `board`. Never ends.
pub(crate) async fn watch_nats(
    client: Client,
    context: jetstream::Context,
    streams: Vec<String>,
    letters: Option<Letters>,
    board: Board,
) {
    let mut count = letters.map(Count::new);
    loop {
        let info = client.server_info();
        // A server without a name calls itself by its id.
        let name = Some(info.server_name).filter(|name| *name != info.server_id);
        let server = NatsServer { name, version: info.version };
        board.note(|notes| notes.nats_server = Some(server));
        for stream in &streams {
            match tokio::time::timeout(ANSWER_LIMIT, ask(&context, stream)).await {
                Ok(Ok(held)) => board.note(|notes| notes.stream(stream).held = Some(held)),
                Ok(Err(error)) => tracing::debug!(stream, error, "the stream does not say what it holds"),
                Err(_) => tracing::debug!(stream, "the stream does not say in time what it holds"),
            }
        }
        if let Some(count) = &mut count {
            match tokio::time::timeout(ANSWER_LIMIT * 3, count.go_on()).await {
                Ok(Ok(())) => {
                    let note = count.note();
                    board.note(|notes| {
                        // While all are looked at again, what was known before still holds better.
                        if count.complete || notes.letters.as_ref().is_none_or(|known| !known.complete) {
                            notes.letters = Some(note);
                        }
                    });
                }
                Ok(Err(error)) => tracing::debug!(%error, "the dead letters cannot be counted"),
                Err(_) => tracing::debug!("the dead letters cannot be counted in time"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn ask(context: &jetstream::Context, stream: &str) -> Result<Held, String> {
    let stream = context.get_stream(stream).await.map_err(|error| error.to_string())?;
    let state = &stream.cached_info().state;
    Ok(Held {
        messages: state.messages,
        bytes: state.bytes,
        last_sequence: state.last_sequence,
        // A stream that has had no message tells the year 1.
        last_stored_at: Some(SystemTime::from(state.last_timestamp)).filter(|_| state.last_sequence > 0),
        asked_at: SystemTime::now(),
    })
}

/// The letters, followed from message to message: what becomes of one is a later message at its subject.
struct Count {
    letters: Letters,
    /// By subject; `None`: it is done with.
    known: BTreeMap<String, Option<LetterNote>>,
    /// The next sequence to look at.
    next: u64,
    complete: bool,
    counted: tokio::time::Instant,
}

impl Count {
    fn new(letters: Letters) -> Self {
        Self {
            letters,
            known: BTreeMap::new(),
            next: 1,
            complete: false,
            counted: tokio::time::Instant::now(),
        }
    }

    async fn go_on(&mut self) -> Result<(), WireError> {
        for _ in 0..LETTERS_A_TURN {
            let Some(letter) = self.letters.next(self.next).await? else {
                self.complete = true;
                return self.compare().await;
            };
            self.next = letter.sequence + 1;
            self.take(letter);
        }
        self.complete = false;
        Ok(())
    }

    fn take(&mut self, letter: Letter) {
        if self.known.len() >= LETTERS_MAX && !self.known.contains_key(&letter.subject) {
            return;
        }
        let note = letter.state.is_open().then(|| note(&letter));
        self.known.insert(letter.subject, note);
    }

    /// If letters were deleted or have become too old, all are looked at again.
    async fn compare(&mut self) -> Result<(), WireError> {
        let held = self.letters.count().await?;
        let known = self.known.len();
        if known < LETTERS_MAX && held < known as u64 && self.counted.elapsed() >= RECOUNT_INTERVAL {
            *self = Self::new(self.letters.clone());
        }
        Ok(())
    }

    fn note(&self) -> LettersNote {
        let mut last: Vec<LetterNote> = self.known.values().flatten().cloned().collect();
        let open = last.len();
        last.sort_by_key(|letter| letter.sequence);
        LettersNote {
            open: open as u64,
            done: (self.known.len() - open) as u64,
            complete: self.complete && self.known.len() < LETTERS_MAX,
            last: last.split_off(open.saturating_sub(LETTERS_SHOWN)),
            asked_at: Some(SystemTime::now()),
        }
    }
}

fn note(letter: &Letter) -> LetterNote {
    use outbox_event::header;
    let text = |name| letter.header(name).unwrap_or_default().to_owned();
    LetterNote {
        sequence: letter.sequence,
        stream: text(header::LETTER_STREAM),
        table: text(header::LETTER_TABLE),
        reason: text(header::LETTER_REASON),
        id: text(header::CE_ID),
        position: text(header::POSITION),
    }
}
