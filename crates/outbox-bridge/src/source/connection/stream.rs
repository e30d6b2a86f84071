//! The dump of a server's log: events out of packets, their checksums verified, and silence noticed.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncRead;
use tokio::time::Instant;

use super::Transport;
use super::dump::DumpRequest;
use super::error::{ConnectionError, ConnectionErrorKind};
use super::packet::Channel;
use crate::source::{EventHeader, HEADER_SIZE, RawEvent};

/// How large an event may be unless told otherwise: the largest packet that servers know is 1 GiB, and a little slack.
pub const EVENT_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// How much later than two heartbeats the server counts as silent.
const SILENCE_SLACK: Duration = Duration::from_secs(5);

const CHECKSUM_BYTES: usize = 4;

/// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html>
const ROTATE_EVENT: u8 = 4;
const FORMAT_DESCRIPTION_EVENT: u8 = 15;

/// Flag of the first event of a file that is being written; the checksum was taken without it.
const IN_USE_FLAG: u8 = 0x01;
/// Where the flags' low byte stands in an event.
const FLAGS_OFFSET: usize = 17;

/// Whether events end in a checksum. A log file's first event says so for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksums {
    Off,
    Crc32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Ended,
    Failed,
}

/// The events of a server's log, from where the dump began.
///
/// The body of an event is a slice of the buffer that it was read into, of at most some 100 KiB: who keeps a small body
/// for long should copy it.
#[derive(Debug)]
pub struct DumpStream<S = Transport> {
    channel: Channel<S>,
    checksums: Checksums,
    /// The log file that is being read, for messages.
    file: String,
    non_blocking: bool,
    silence_max: Duration,
    /// Since when nothing has come though it was waited for.
    waiting_since: Option<Instant>,
    state: State,
}

impl<S> DumpStream<S> {
    /// A dump whose answer comes from any byte stream, the request having been sent. It is for tests and fuzzing.
    #[must_use]
    pub fn over(stream: S, request: &DumpRequest) -> Self {
        Self::of(Channel::resume(stream, 1, EVENT_BYTES_MAX), request)
    }

    pub(super) fn of(mut channel: Channel<S>, request: &DumpRequest) -> Self {
        channel.limit(EVENT_BYTES_MAX);
        Self {
            channel,
            // What comes in front of the first file's first event is as the session asked for it.
            checksums: Checksums::Crc32,
            file: request.file.clone(),
            non_blocking: request.non_blocking,
            silence_max: request.heartbeat.saturating_mul(2).saturating_add(SILENCE_SLACK),
            waiting_since: None,
            state: State::Running,
        }
    }

    /// Refuses events of more than so many bytes, instead of [`EVENT_BYTES_MAX`].
    #[must_use]
    pub fn with_event_bytes_max(mut self, event_bytes_max: usize) -> Self {
        // A packet has a status byte in front of the event.
        self.channel.limit(event_bytes_max.saturating_add(1));
        self
    }

    /// The next event if it has arrived already. `None` says nothing about the stream's end; [`next`](Self::next) does.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn next_buffered(&mut self) -> Option<Result<RawEvent, ConnectionError>> {
        if self.state != State::Running {
            return None;
        }
        let outcome = match self.channel.buffered() {
            Ok(None) => match self.check_opening() {
                Ok(()) => return None,
                Err(error) => Err(error),
            },
            Ok(Some(payload)) => self.event(payload),
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.state = State::Failed;
        }
        outcome.transpose()
    }

    /// Packet and event both say how long they are. A packet that claims more than its event would swallow what follows,
    /// heartbeats too, so that it would be waited for without end.
    fn check_opening(&self) -> Result<(), ConnectionError> {
        let Some((arriving, whole, front)) = self.channel.opening() else { return Ok(()) };
        let Some((0, event)) = front.split_first() else { return Ok(()) };
        let Some(header) = EventHeader::parse(event) else { return Ok(()) };
        let size = (header.event_size as usize).saturating_add(1);
        if size == arriving || (!whole && size > arriving) {
            return Ok(());
        }
        Err(self.malformed(&format!(
            "an event of type {} that claims to have {} bytes in a packet of another length",
            header.event_type, header.event_size
        )))
    }

    /// What a packet holds; `None` if it is the end.
    fn event(&mut self, mut payload: Bytes) -> Result<Option<RawEvent>, ConnectionError> {
        match payload.first() {
            Some(0x00) => payload.advance(1),
            Some(0xFF) => return Err(ConnectionError::from_packet(&payload)),
            Some(0xFE) if payload.len() < 9 && self.non_blocking => {
                self.state = State::Ended;
                return Ok(None);
            }
            Some(0xFE) if payload.len() < 9 => {
                return Err(ConnectionError::new(
                    ConnectionErrorKind::Ended,
                    format!("the server ended the dump of its log in {}", self.file),
                ));
            }
            _ => return Err(self.malformed("a packet that is no event")),
        }
        let Some(header) = EventHeader::parse(&payload) else {
            return Err(self.malformed("an event without a whole header"));
        };
        if header.event_size as usize != payload.len() {
            return Err(self.malformed(&format!(
                "an event of type {} with {} bytes that claims to have {}",
                header.event_type,
                payload.len(),
                header.event_size
            )));
        }
        if header.event_type == FORMAT_DESCRIPTION_EVENT {
            self.checksums = self.announced_checksums(&payload)?;
        }
        self.take_checksum_off(&header, &mut payload)?;
        let mut body = payload;
        body.advance(HEADER_SIZE);
        if header.event_type == ROTATE_EVENT {
            self.file = String::from_utf8_lossy(body.get(8..).unwrap_or_default()).into_owned();
        }
        Ok(Some(RawEvent { header, body }))
    }

    /// The byte in front of a format description's own checksum says whether the events behind it have one.
    fn announced_checksums(&self, event: &[u8]) -> Result<Checksums, ConnectionError> {
        let algorithm = event.len().checked_sub(CHECKSUM_BYTES + 1).filter(|&at| at >= HEADER_SIZE);
        match algorithm.and_then(|at| event.get(at)) {
            Some(0) => Ok(Checksums::Off),
            Some(1) => Ok(Checksums::Crc32),
            Some(other) => Err(self.malformed(&format!("events with checksums of the unknown kind {other}"))),
            None => Err(self.malformed("a format description that is cut short")),
        }
    }

    fn take_checksum_off(&self, header: &EventHeader, event: &mut Bytes) -> Result<(), ConnectionError> {
        // A format description has room for a checksum even if there are none.
        let first = header.event_type == FORMAT_DESCRIPTION_EVENT;
        if self.checksums == Checksums::Off && !first {
            return Ok(());
        }
        let covered = event.len().checked_sub(CHECKSUM_BYTES).filter(|&covered| covered >= HEADER_SIZE);
        let Some((covered, stored)) = covered.and_then(|covered| event.split_at_checked(covered)) else {
            return Err(
                self.malformed(&format!("an event of type {} without its checksum", header.event_type))
            );
        };
        if self.checksums == Checksums::Crc32
            && !matches(covered, stored, false)
            && !(first && matches(covered, stored, true))
        {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Checksum,
                format!(
                    "the event of type {} that ends at {}:{} does not have the checksum that it should have: it was \
                     damaged on the way or in the server's log",
                    header.event_type, self.file, header.end_offset
                ),
            ));
        }
        let covered = covered.len();
        event.truncate(covered);
        Ok(())
    }

    fn malformed(&self, what: &str) -> ConnectionError {
        ConnectionError::protocol(format!("the dump of {} has {what}", self.file))
    }
}

fn matches(covered: &[u8], stored: &[u8], in_use: bool) -> bool {
    let checksum = match covered.get(FLAGS_OFFSET) {
        Some(flags) if in_use => {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(covered.get(..FLAGS_OFFSET).unwrap_or_default());
            hasher.update(&[flags & !IN_USE_FLAG]);
            hasher.update(covered.get(FLAGS_OFFSET + 1..).unwrap_or_default());
            hasher.finalize()
        }
        _ => crc32fast::hash(covered),
    };
    stored == checksum.to_le_bytes()
}

impl<S: AsyncRead + Unpin> DumpStream<S> {
    /// The next event, heartbeats included; `None` at the log's end, if the dump was asked not to wait there.
    ///
    /// A format description's checksum is taken off as those of other events are, so that its last byte says what
    /// checksums there were.
    ///
    /// Cancel safe: an event is never lost nor cut if the returned future is dropped.
    ///
    /// # Errors
    ///
    /// When the connection fails or is silent, the server reports an error, or what it sends is damaged, malformed or
    /// too large. The stream is then at its end.
    pub async fn next(&mut self) -> Result<Option<RawEvent>, ConnectionError> {
        loop {
            if let Some(outcome) = self.next_buffered() {
                return outcome.map(Some);
            }
            match self.state {
                State::Running => {}
                State::Ended => return Ok(None),
                State::Failed => {
                    return Err(ConnectionError::new(ConnectionErrorKind::Io, "the dump has failed before"));
                }
            }
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            let outcome = match tokio::time::timeout_at(since + self.silence_max, self.channel.fill()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(ConnectionError::new(
                    ConnectionErrorKind::Silent,
                    format!(
                        "the server has said nothing for {:?}, not even that it is alive, while its log {} was dumped",
                        self.silence_max, self.file
                    ),
                )),
            };
            self.waiting_since = None;
            if let Err(error) = outcome {
                self.state = State::Failed;
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
