//! What the parts of the bridge note down for the status page: the newest of each, in bounded memory.
//!
//! To note something costs an uncontended lock and a few moves, and never waits for anybody who reads.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use outbox_event::{Position, header};

use crate::{
    checkpoint::LogPoint,
    instances::Reading,
    publish::{Message, TransactionId},
};

/// Last events that are kept, a stream.
const EVENTS_MAX: usize = 5;
/// Last resumes that are kept.
const RESUMES_MAX: usize = 10;

/// Where the notes are kept: a cheap handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Notes>>);

/// So long after the epoch; the epoch itself, if that is no time.
pub(crate) fn since_the_epoch(time: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Everything that was noted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    /// By stream.
    pub(crate) streams: BTreeMap<String, StreamNotes>,
    /// The last ones, oldest first.
    pub(crate) resumes: VecDeque<Resume>,
    /// Up to where everything is stored.
    pub(crate) reached: Option<Reached>,
    /// When the checkpoint was last known to be what it should be.
    pub(crate) checkpoint_at: Option<SystemTime>,
    /// Bytes of log behind that place, and when that was asked.
    pub(crate) log_behind: Option<(u64, SystemTime)>,
    /// Who holds the lease.
    pub(crate) leader: Option<Leader>,
    /// What this process calls itself among the bridges of its name.
    pub(crate) instance: String,
    /// Which bridges of this name are there, as it was last read.
    pub(crate) instances: Option<Reading>,
    /// Why it could not be read since.
    pub(crate) instances_problem: Option<String>,
    /// The server of NATS that the client is connected to.
    pub(crate) nats_server: Option<NatsServer>,
    /// What lies in the stream of dead letters.
    pub(crate) letters: Option<LettersNote>,
}

/// What is known of a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamNotes {
    /// The last ones that this process stored, oldest first.
    pub(crate) events: VecDeque<LastEvent>,
    /// The sequence up to which it is known, and where the row that got it stood.
    pub(crate) known: Option<(u64, Option<Position>)>,
    /// Why nothing is stored at the moment.
    pub(crate) trouble: Option<Arc<str>>,
    /// What the server says that it holds.
    pub(crate) held: Option<Held>,
}

/// A stored event.
#[derive(Debug, Clone)]
pub(crate) struct LastEvent {
    pub(crate) sequence: u64,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) subject: String,
    pub(crate) table: Arc<str>,
    pub(crate) transaction: Arc<TransactionId>,
    pub(crate) row: u64,
    pub(crate) stored_at: SystemTime,
}

impl LastEvent {
    /// Of a message that got this sequence; its payload and its other headers are let go of.
    pub(crate) fn new(message: Message, sequence: u64, stored_at: SystemTime) -> Self {
        let kind = message.headers.into_iter().find(|(name, _)| name == header::CE_TYPE);
        Self {
            sequence,
            id: message.id,
            kind: kind.map(|(_, kind)| kind.into_owned()).unwrap_or_default(),
            subject: message.subject.into_string(),
            table: message.table,
            transaction: message.transaction,
            row: message.row,
            stored_at,
        }
    }
}

/// What a stream holds, as its server said.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) last_sequence: u64,
    pub(crate) last_stored_at: Option<SystemTime>,
    pub(crate) asked_at: SystemTime,
}

/// A writer that went back to the stream's last message.
#[derive(Debug, Clone)]
pub(crate) struct Resume {
    pub(crate) at: SystemTime,
    pub(crate) stream: String,
    pub(crate) cause: &'static str,
}

/// A place in the log.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    pub(crate) server: String,
    pub(crate) file: String,
    pub(crate) offset: u64,
    /// XA transactions that are prepared and neither committed nor rolled back.
    pub(crate) prepared: usize,
}

/// Who holds the lease.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    pub(crate) host: String,
    pub(crate) process: u32,
    pub(crate) instance: String,
    pub(crate) since: SystemTime,
    /// When its record was last seen to change; of this process, nothing.
    pub(crate) seen_at: Option<SystemTime>,
}

/// A server of NATS.
#[derive(Debug, Clone)]
pub(crate) struct NatsServer {
    /// If it was given one.
    pub(crate) name: Option<String>,
    pub(crate) version: String,
}

/// What lies in the stream of dead letters.
#[derive(Debug, Clone, Default)]
pub(crate) struct LettersNote {
    /// Letters that wait for somebody.
    pub(crate) open: u64,
    /// Letters that were replayed or dropped.
    pub(crate) done: u64,
    /// Whether all have been looked at.
    pub(crate) complete: bool,
    /// The last open ones, oldest first.
    pub(crate) last: Vec<LetterNote>,
    pub(crate) asked_at: Option<SystemTime>,
}

/// A dead letter, without anything of its row but its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LetterNote {
    pub(crate) sequence: u64,
    pub(crate) stream: String,
    pub(crate) table: String,
    pub(crate) reason: String,
    pub(crate) id: String,
    pub(crate) position: String,
}

impl Board {
    /// Everything that was noted, as it is now.
    pub(crate) fn notes(&self) -> Notes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes something.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Everything up to this place is stored.
    pub(crate) fn reached(&self, point: &LogPoint) {
        self.note(|notes| {
            notes.reached = Some(Reached {
                server: point.server.clone(),
                file: point.file.clone(),
                offset: point.offset,
                prepared: point.prepared.len(),
            });
        });
    }

    /// The checkpoint is what it should be.
    pub(crate) fn checkpointed(&self) {
        self.note(|notes| notes.checkpoint_at = Some(SystemTime::now()));
    }

    /// The last of the events that a stream has just stored.
    pub(crate) fn stored(&self, stream: &str, events: impl Iterator<Item = LastEvent>) {
        self.note(|notes| {
            let known = notes.stream(stream);
            for event in events {
                if known.events.len() == EVENTS_MAX {
                    known.events.pop_front();
                }
                known.events.push_back(event);
            }
        });
    }

    /// A writer resumes.
    pub(crate) fn resumed(&self, stream: &str, cause: &'static str) {
        self.note(|notes| {
            if notes.resumes.len() == RESUMES_MAX {
                notes.resumes.pop_front();
            }
            notes.resumes.push_back(Resume { at: SystemTime::now(), stream: stream.to_owned(), cause });
        });
    }

    /// So many of a list of events are worth being kept.
    pub(crate) const fn events_max() -> usize {
        EVENTS_MAX
    }
}

impl Notes {
    /// Those of a stream.
    pub(crate) fn stream(&mut self, stream: &str) -> &mut StreamNotes {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), StreamNotes::default());
        }
        self.streams.entry(stream.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_the_last_are_kept_and_no_payload() {
        let board = Board::default();
        let transaction = TransactionId {
            gtid: "a:1".into(),
            file: "binlog.000001".into(),
            file_number: 1,
            offset: 4,
            committed_micros: 0,
        };
        let transaction = Arc::new(transaction);
        for sequence in 1..=9 {
            let message = Message {
                transaction: transaction.clone(),
                row: sequence,
                table: "a.b".into(),
                subject: "s".into(),
                id: sequence.to_string(),
                headers: vec![
                    (Cow::Borrowed("x"), "secret".into()),
                    (Cow::Borrowed(header::CE_TYPE), "placed".into()),
                ],
                body: Bytes::from_static(b"secret"),
                poison: None,
            };
            let event = LastEvent::new(message, sequence, SystemTime::now());
            board.stored("S", std::iter::once(event));
            board.resumed("S", "timeout");
        }
        let notes = board.notes();
        let events = notes.streams.get("S").map(|stream| &stream.events).expect("a stream");
        assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
        assert!(events.iter().all(|event| event.kind == "placed"));
        assert!(!format!("{notes:?}").contains("secret"));
        assert_eq!(notes.resumes.len(), 9);
    }
}
