//! The task that owns one stream: sends in order, believes only what fits, and after any doubt asks the stream itself.

mod atomic;
mod parking;
mod resume;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use self::atomic::{ATOMIC_MAX, Atomic};
use super::{
    chain::Chain,
    stop::{Doubt, Stop, code},
    wire::{Delivery, Envelope, Operation, Reply, ReplyTo, Wire},
};
use crate::{
    admin::Board,
    backoff::Backoff,
    metrics::StreamMetrics,
    publish::{Message, Poison},
    traces::Traces,
};

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Fast-ingest batches where there is a backlog, single messages otherwise.
    Fast,
    /// Single messages, many in flight.
    Pipelined,
    /// Atomic batches of whole transactions, one in flight: for servers that sync to disk before they acknowledge.
    Durable,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Pipelined => "pipelined",
            Self::Durable => "durable",
        })
    }
}

/// A writer's limits and times.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The stream, for messages and metrics.
    pub stream: String,
    /// How messages are sent.
    pub mode: Mode,
    /// Whether the stream has more than one replica.
    pub replicated: bool,
    /// Whether the stream's messages go away by being consumed.
    pub consumed: bool,
    /// Messages that may be unacknowledged.
    pub window: usize,
    /// Bytes that may be unacknowledged.
    pub window_bytes_max: usize,
    /// How long an acknowledgement may be missing.
    pub ack_timeout: Duration,
    /// The first wait after a doubt.
    pub retry_initial: Duration,
    /// The longest wait between two tries.
    pub retry_max: Duration,
    /// How long a stream may end before what it acknowledged until that is believed.
    pub behind_patience: Duration,
    /// Seeds the jitter of waits.
    pub seed: u64,
    /// Makes spans of what is stored, if there are to be any.
    pub traces: Option<Traces>,
}

/// How far a writer is.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// How many of the messages handed to the writer are done: stored, or known to have been stored before.
    pub done: u64,
    /// A sequence that the stream has given out.
    pub sequence: u64,
    /// Where the row that got it stood.
    pub position: Option<outbox_event::Position>,
    /// How many rows the stream holds that the log is yet to show, after a change of the source's server. No checkpoint can be made
    /// while there are any.
    pub awaited: u64,
    /// Why nothing is stored at the moment, if so.
    pub trouble: Option<Arc<str>>,
}

/// An open fast-ingest batch. Message `n` of it is to get sequence `base + n`.
#[derive(Debug)]
struct Batch {
    number: u64,
    base: u64,
    /// How many messages were sent in it.
    sent: u64,
    /// The number up to which it is acknowledged.
    acknowledged: u64,
    /// Acknowledgements come every so many messages; `None` until the server has answered the start.
    every: Option<u16>,
    ending: bool,
}

/// Messages between two acknowledgements of a batch, and how many acknowledgements may be outstanding: measured to be the
/// fastest.
const FLOW: u16 = 500;
const FLOWS_OUTSTANDING: u64 = 2;
/// A batch is opened only for a backlog of so many messages: below, single messages have the lower latency.
const BATCH_MIN: usize = 64;
/// A batch is ended when nothing came for so long, which also acknowledges its last messages.
const BATCH_IDLE: Duration = Duration::from_millis(5);
/// The one writer of a stream.
#[derive(Debug)]
pub struct Writer<W> {
    wire: W,
    options: WriterOptions,
    chain: Chain,
    input: mpsc::Receiver<Vec<Message>>,
    stored: watch::Sender<Stored>,
    metrics: StreamMetrics,
    mode: Mode,
    epoch: u64,
    batches: u64,
    /// How many of the chain's messages were sent in this epoch.
    sent: usize,
    /// The first message of an epoch goes alone: its answer proves where the stream ends.
    probing: bool,
    batch: Option<Batch>,
    atomic: Option<Atomic>,
    /// So many messages are to go alone: the server refused an atomic batch for what is wrong with one of them.
    singly: usize,
    /// The next message cannot be sent.
    blocked: bool,
    closed: bool,
    done: u64,
    progressed: Instant,
    backoff: Backoff,
    conflicts: u32,
    refusals: u32,
    /// The message whose id a replicated stream says to know, and since when.
    suspect: Option<((u64, u64, u64), Instant)>,
    /// So often in a row did nothing take the first message, and what is wrong if that was found out.
    unheard_count: u32,
    unheard: Option<String>,
    /// What is known of dead letters.
    parking: parking::Parking,
}

enum Outcome {
    Finished,
    Doubt(Doubt),
}

impl<W: Wire> Writer<W> {
    /// A writer that goes on where `chain` says, takes messages from `input`, and tells by `stored` how far it is.
    pub fn new(
        wire: W,
        options: WriterOptions,
        chain: Chain,
        input: mpsc::Receiver<Vec<Message>>,
        stored: watch::Sender<Stored>,
    ) -> Self {
        let metrics = StreamMetrics::new(&options.stream);
        let backoff = Backoff::new(options.retry_initial, options.retry_max, options.seed);
        Self {
            mode: options.mode,
            wire,
            options,
            chain,
            input,
            stored,
            metrics,
            epoch: 0,
            batches: 0,
            sent: 0,
            probing: true,
            batch: None,
            atomic: None,
            singly: 0,
            blocked: false,
            closed: false,
            done: 0,
            progressed: Instant::now(),
            backoff,
            conflicts: 0,
            refusals: 0,
            suspect: None,
            unheard_count: 0,
            unheard: None,
            parking: parking::Parking::default(),
        }
    }

    /// Shows its last events and resumes on `board`.
    #[must_use]
    pub(crate) fn showing(mut self, board: Board) -> Self {
        self.metrics.show_on(board);
        self
    }

    /// Stores all that comes, in order; ends when the input has ended and everything is stored.
    ///
    /// # Errors
    ///
    /// See [`Stop`]: what trying again cannot mend.
    pub async fn run(mut self) -> Result<(), Stop> {
        loop {
            match self.run_epoch().await? {
                Outcome::Finished => return Ok(()),
                Outcome::Doubt(doubt) => self.resume(doubt).await?,
            }
        }
    }

    async fn run_epoch(&mut self) -> Result<Outcome, Stop> {
        self.epoch += 1;
        self.sent = 0;
        self.probing = true;
        self.batch = None;
        self.atomic = None;
        self.progressed = Instant::now();
        self.learn_mark().await?;
        loop {
            while let Some(delivery) = self.wire.receive().now_or_never() {
                if let Some(doubt) = self.take(delivery)? {
                    return Ok(Outcome::Doubt(doubt));
                }
            }
            self.send_all().await?;
            self.report(None);
            if self.closed && self.chain.is_empty() && self.batch.is_none() {
                return Ok(Outcome::Finished);
            }
            let waiting = self.sent > 0 || self.batch.as_ref().is_some_and(|batch| batch.ending);
            let timeout = self.progressed + self.options.ack_timeout;
            let idle = self.batch.as_ref().is_some_and(|batch| !batch.ending)
                && (self.sent == self.chain.len() || self.blocked);
            let room =
                self.chain.len() < self.options.window && self.chain.bytes() < self.options.window_bytes_max;
            tokio::select! {
                biased;
                delivery = self.wire.receive() => {
                    if let Some(doubt) = self.take(delivery)? {
                        return Ok(Outcome::Doubt(doubt));
                    }
                }
                messages = self.input.recv(), if room && !self.closed => match messages {
                    Some(messages) => self.accept(messages).await?,
                    None => self.closed = true,
                },
                () = tokio::time::sleep(BATCH_IDLE), if idle => self.end_batch().await?,
                () = tokio::time::sleep_until(timeout), if waiting => {
                    if self.atomic.is_some() && self.wire.parks() {
                        // A message whose subject is forbidden is not answered: alone it is told from the others.
                        self.singly = self.sent;
                    }
                    return Ok(Outcome::Doubt(Doubt::Timeout));
                }
            }
        }
    }

    async fn accept(&mut self, messages: Vec<Message>) -> Result<(), Stop> {
        if self.sent == 0 {
            self.progressed = Instant::now();
        }
        for message in messages {
            if self.chain.counts() && self.is_parked(&message).await? {
                self.chain.pass(&message);
                self.done += 1;
                continue;
            }
            let taken = self
                .chain
                .push(message)
                .map_err(|source| Stop::NotInLog { stream: self.options.stream.clone(), source })?;
            if !taken {
                self.done += 1;
            }
        }
        Ok(())
    }

    /// Sends what may be sent.
    async fn send_all(&mut self) -> Result<(), Stop> {
        self.blocked = false;
        self.park_condemned().await?;
        if self.mode == Mode::Durable {
            // One thing at a time: what comes meanwhile goes with the next batch.
            if self.sent > 0 {
                return Ok(());
            }
            let count = self.before_doubtful(self.chain.whole_transactions(ATOMIC_MAX));
            while self.singly == 0 && count > 1 {
                self.send_atomic(count).await?;
                if self.sent > 0 {
                    return Ok(());
                }
            }
        }
        while self.sent < self.chain.len() {
            if (self.probing || self.mode == Mode::Durable) && self.sent > 0 {
                return Ok(());
            }
            if self.is_doubtful(self.sent) {
                // All before it are to be stored first.
                if self.sent > 0 {
                    self.blocked = true;
                    return Ok(());
                }
                self.resolve_doubtful().await?;
                continue;
            }
            if self.batch.is_none() && self.should_batch() {
                // The server guards what is within a batch, but not the message on its way before it.
                if self.sent > 0 {
                    return Ok(());
                }
                self.batches += 1;
                self.batch = Some(Batch {
                    number: self.batches,
                    base: self.chain.sequence() + self.sent as u64,
                    sent: 0,
                    acknowledged: 0,
                    every: None,
                    ending: false,
                });
            }
            let expected_last_sequence = self.chain.sequence() + self.sent as u64;
            let reply_to = match &mut self.batch {
                Some(batch) => {
                    let limit = batch.every.map_or(1, |every| u64::from(every) * FLOWS_OUTSTANDING);
                    if batch.ending || batch.sent - batch.acknowledged >= limit {
                        return Ok(());
                    }
                    batch.sent += 1;
                    ReplyTo::Batch {
                        batch: batch.number,
                        number: batch.sent,
                        flow: FLOW,
                        operation: if batch.sent == 1 { Operation::Start } else { Operation::Append },
                    }
                }
                None => ReplyTo::Single { epoch: self.epoch, sequence: expected_last_sequence + 1 },
            };
            let Some(message) = self.chain.get(self.sent) else { return Ok(()) };
            // Within a batch the server itself stops at the first message that it refuses.
            let previous = self.sent.checked_sub(1).filter(|_| self.batch.is_none());
            let after = previous.and_then(|previous| self.chain.get(previous));
            if self.sent == 0 {
                self.progressed = Instant::now();
            }
            match self.wire.send(Envelope { message, expected_last_sequence, after, reply_to }).await {
                Ok(()) => self.sent += 1,
                // All before it are to be stored first.
                Err(_) if self.sent > 0 => {
                    if let Some(batch) = &mut self.batch {
                        batch.sent -= 1;
                    }
                    self.blocked = true;
                    return Ok(());
                }
                Err(source) => {
                    if let Some(batch) = &mut self.batch {
                        batch.sent -= 1;
                    }
                    self.unsendable(source).await?;
                }
            }
        }
        Ok(())
    }

    fn should_batch(&self) -> bool {
        self.mode == Mode::Fast && !self.probing && self.chain.len() - self.sent >= BATCH_MIN
    }

    /// Ends the batch, which acknowledges all of it.
    async fn end_batch(&mut self) -> Result<(), Stop> {
        let Some(batch) = &mut self.batch else { return Ok(()) };
        let Some(last) = self.sent.checked_sub(1).and_then(|index| self.chain.get(index)) else {
            // Everything sent is acknowledged, so there is no subject at hand to end it on; it times out on the server.
            self.batch = None;
            return Ok(());
        };
        batch.ending = true;
        let reply_to = ReplyTo::Batch {
            batch: batch.number,
            number: batch.sent + 1,
            flow: FLOW,
            operation: Operation::End,
        };
        let expected_last_sequence = batch.base + batch.sent;
        self.progressed = Instant::now();
        self.wire
            .send(Envelope { message: last, expected_last_sequence, after: None, reply_to })
            .await
            .map_err(|source| Stop::Wire { stream: self.options.stream.clone(), source })
    }

    /// Takes what the server says; gives a doubt if it is not that all goes well.
    fn take(&mut self, delivery: Delivery) -> Result<Option<Doubt>, Stop> {
        match delivery {
            // Even with nothing on its way: the server may come back with less than it had.
            Delivery::Disconnected => Ok(Some(Doubt::Disconnected)),
            Delivery::Single { epoch, .. } if epoch != self.epoch => Ok(None),
            Delivery::Single { sequence, reply, .. } => self.take_single(sequence, reply),
            Delivery::Batch { batch, reply } => match (&self.batch, &self.atomic) {
                (Some(current), _) if current.number == batch => self.take_batch(reply),
                (_, Some(current)) if current.number == batch => self.take_atomic(reply),
                _ => Ok(None),
            },
        }
    }

    fn take_single(&mut self, expected: u64, reply: Reply) -> Result<Option<Doubt>, Stop> {
        match reply {
            // Answers come in the order of the messages, so one that is missing was lost, and what it said is not known.
            Reply::Stored { duplicate: false, sequence, .. } if sequence > self.chain.sequence() + 1 => {
                Ok(Some(Doubt::WrongSequence))
            }
            Reply::Stored { duplicate: false, sequence, .. } if sequence == expected => {
                Ok(self.stored_up_to(sequence))
            }
            Reply::Stored { duplicate: false, .. } | Reply::Flow { .. } => Ok(Some(Doubt::WrongSequence)),
            Reply::Stored { duplicate: true, .. }
                if self.probing && expected == self.chain.sequence() + 1 && self.is_duplicate() =>
            {
                self.drop_duplicate();
                Ok(None)
            }
            Reply::Stored { duplicate: true, .. } => Ok(Some(Doubt::Duplicate)),
            Reply::NoResponders => Ok(Some(Doubt::NoResponders)),
            Reply::Refused { code, description }
                if self.probing
                    && code::is_too_large(code, &description)
                    && self.chain.get(0).is_some_and(|message| self.wire.offload(message)) =>
            {
                Ok(Some(Doubt::Refused(code, description)))
            }
            Reply::Refused { code, description }
                if self.wire.parks() && code::is_poison(code, &description) =>
            {
                if !self.probing || self.sent > 1 {
                    // Alone it proves that all before it are stored.
                    return Ok(Some(Doubt::Refused(code, description)));
                }
                self.sent = 0;
                self.condemn(Poison::refused(code, &description));
                Ok(None)
            }
            Reply::Refused { code, description }
                // What another stream stores is lost to this one, and more must not follow it.
                if code == code::WRONG_STREAM
                    || (code::is_permanent(code, &description) && self.probing) =>
            {
                Err(Stop::Refused {
                    stream: self.options.stream.clone(),
                    position: self
                        .chain
                        .get(0)
                        .map(|message| message.position_text())
                        .unwrap_or_default(),
                    reason: format!("{description} ({code})"),
                })
            }
            Reply::Refused { code, description } => Ok(Some(Doubt::Refused(code, description))),
        }
    }

    fn take_batch(&mut self, reply: Reply) -> Result<Option<Doubt>, Stop> {
        let Some(batch) = &mut self.batch else { return Ok(None) };
        match reply {
            Reply::Flow { number, every } => {
                batch.every = Some(every.max(1));
                if number <= batch.acknowledged || number > batch.sent {
                    return Ok((number > batch.sent).then_some(Doubt::WrongSequence));
                }
                batch.acknowledged = number;
                // The last one may have been counted though its id was known and nothing was stored; all before it are
                // stored, since each was expected by the next.
                let certain = batch.base + number - 1;
                Ok(self.stored_up_to(certain))
            }
            Reply::Stored { sequence, count: Some(count), .. }
                if batch.ending && sequence == batch.base + count && count == batch.sent =>
            {
                self.batch = None;
                Ok(self.stored_up_to(sequence))
            }
            Reply::Stored { .. } => Ok(Some(Doubt::BatchEnded)),
            Reply::NoResponders => Ok(Some(Doubt::NoResponders)),
            Reply::Refused { code: code::BATCH_DISABLED, .. } => {
                tracing::warn!(
                    stream = self.options.stream,
                    "the stream does not take fast-ingest batches (allow_batched is off): publishing in mode pipelined"
                );
                self.mode = Mode::Pipelined;
                Ok(Some(Doubt::BatchEnded))
            }
            Reply::Refused { code, description } => Ok(Some(Doubt::Refused(code, description))),
        }
    }

    fn stored_up_to(&mut self, sequence: u64) -> Option<Doubt> {
        let Ok(stored) = self.chain.acknowledge(sequence) else { return Some(Doubt::WrongSequence) };
        let count = stored.len();
        match &self.options.traces {
            None => self.metrics.stored(stored, sequence),
            Some(traces) => {
                let stored: Vec<Message> = stored.collect();
                traces.stored(&self.options.stream, &stored, sequence);
                self.metrics.stored(stored.into_iter(), sequence);
            }
        }
        self.sent = self.sent.saturating_sub(count);
        self.singly = self.singly.saturating_sub(count);
        self.done += count as u64;
        self.probing = false;
        self.backoff.reset();
        self.conflicts = 0;
        self.refusals = 0;
        self.progressed = Instant::now();
        None
    }

    /// Whether the first message, which the stream says to know, is one that was inserted twice.
    ///
    /// A stream with one replica checks the expected sequence first, so its word is proof. With more it looks for
    /// duplicates first, and then the message may be there because the tail that was read is a deposed leader's. So the
    /// tail must stay what it is for a while.
    fn is_duplicate(&mut self) -> bool {
        let Some(order) = self.chain.get(0).map(Message::order) else { return false };
        if !self.options.replicated {
            return true;
        }
        match self.suspect {
            Some((suspect, since)) if suspect == order => since.elapsed() >= self.options.behind_patience,
            _ => {
                self.suspect = Some((order, Instant::now()));
                false
            }
        }
    }

    fn drop_duplicate(&mut self) {
        if let Some(message) = self.chain.drop_duplicate() {
            tracing::warn!(
                stream = self.options.stream,
                position = %message.position(),
                "the stream knows this event id already: the row is not stored again"
            );
            self.metrics.duplicates.increment(1);
        }
        self.sent = self.sent.saturating_sub(1);
        self.singly = self.singly.saturating_sub(1);
        // The next message gets the same sequence: an answer that comes twice must not count for it as well.
        self.epoch += 1;
        self.done += 1;
        self.progressed = Instant::now();
    }

    fn report(&mut self, trouble: Option<&str>) {
        self.metrics.in_flight(&self.chain);
        self.stored.send_if_modified(|stored| {
            let (sequence, position) = self.chain.known();
            let changed = stored.done != self.done
                || stored.sequence != sequence
                || stored.awaited != self.chain.awaited()
                || stored.trouble.as_deref() != trouble;
            if changed {
                *stored = Stored {
                    done: self.done,
                    sequence,
                    position: position.cloned(),
                    awaited: self.chain.awaited(),
                    trouble: trouble.map(Arc::from),
                };
            }
            changed
        });
    }
}
