//! The loop that owns all state of a running consumer: what is in hand, what may begin, when to fetch.
//!
//! It never handles a message itself: tasks do ([`workers`]). Everything in hand is kept by progress
//! acknowledgements from here, whether it runs, waits for its key or for its next attempt, so a handler cannot forget
//! them and nothing is delivered again while it is worked on.

pub(crate) mod in_hand;
mod lanes;
pub(crate) mod parked;
pub(crate) mod task;
mod workers;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_nats::{Message, jetstream};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use self::{
    in_hand::{InHand, Source, ack},
    lanes::{Lanes, Ticket},
    task::{Done, Shared},
    workers::Workers,
};
use crate::{
    error::{ConsumerError, ConsumerErrorKind},
    fetch::{Fetched, Fetcher},
    handler::error::report,
    inbox::{Inbox, InboxError, InboxErrorKind},
    retry::Backoff,
};

/// How often what has no event of its own is looked after.
const TICK: Duration = Duration::from_millis(250);
/// How many replayed messages are in hand at a time.
const REPLAYS_MAX: usize = 16;
/// How many messages are taken in a row before anything else is looked at.
const BURST_MAX: usize = 256;
/// How long a look at the durable consumer may take.
const LOOK: Duration = Duration::from_secs(2);

/// The limits of a running consumer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) concurrency: usize,
    /// How many messages are in hand at most.
    pub(crate) in_hand_max: usize,
    pub(crate) ack_wait: Duration,
    pub(crate) drain: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the lanes.
    Waiting,
    Running,
    /// Waits for its next attempt, and its key with it.
    Delayed,
}

#[derive(Debug)]
struct Held {
    message: Arc<InHand>,
    state: State,
    /// When the server last heard that it is worked on.
    extended: Instant,
}

/// Fetching and beginning pause, since the inbox is away.
#[derive(Debug)]
struct Pause {
    backoff: Backoff,
    probe_at: Instant,
    probe: Option<JoinHandle<Result<(), InboxError>>>,
}

pub(crate) struct Dispatcher<I: Inbox> {
    shared: Arc<Shared<I>>,
    /// Taken out only while a message is read.
    context: Option<jetstream::Context>,
    limits: Limits,
    stream: Fetcher,
    replay: Fetcher,
    held: HashMap<Ticket, Held>,
    replays_held: usize,
    lanes: Lanes,
    running: Workers<I>,
    delayed: BTreeSet<(Instant, Ticket)>,
    pause: Option<Pause>,
    gather: Option<Gather>,
    /// Until when handlers may begin, for ordered consumers: then another instance may have the partition.
    valid_until: Option<watch::Receiver<Instant>>,
    /// The consumer sequence that the next delivery has, if none was lost; for ordered consumers.
    expected: Option<u64>,
}

/// Ordered only: messages may be with nobody, or with an instance that died. Nothing begins until all that were
/// delivered are in hand here, since an older one of the same key may be among them.
#[derive(Debug)]
struct Gather {
    look_at: Instant,
    backoff: Backoff,
}

impl Gather {
    fn now() -> Self {
        Self { look_at: Instant::now(), backoff: Backoff::default() }
    }
}

impl<I: Inbox> Dispatcher<I> {
    pub(crate) fn new(
        shared: Arc<Shared<I>>,
        limits: Limits,
        stream: Fetcher,
        replay: Fetcher,
        valid_until: Option<watch::Receiver<Instant>>,
    ) -> Self {
        let ordered = shared.ordered;
        let known = stream.consumer().cached_info();
        let expected = ordered.then_some(known.delivered.consumer_sequence + 1);
        // What an earlier run left may be anywhere.
        let gather = ordered.then(Gather::now);
        let running = Workers::new(Arc::clone(&shared), limits.concurrency);
        let context = Some(shared.context.clone());
        Self {
            shared,
            context,
            limits,
            stream,
            replay,
            held: HashMap::new(),
            replays_held: 0,
            lanes: Lanes::default(),
            running,
            delayed: BTreeSet::new(),
            pause: None,
            gather,
            valid_until,
            expected,
        }
    }

    /// Whether this instance is surely the one that is to handle these messages.
    fn is_valid(&self) -> bool {
        self.valid_until.as_ref().is_none_or(|until| Instant::now() < *until.borrow())
    }

    /// Runs until the shutdown or a failure, then drains.
    pub(crate) async fn run(mut self) -> Result<(), ConsumerError> {
        let shutdown = self.shared.engine.shutdown.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            self.begin_waiting();
            self.ask().await;
            let wake = self.delayed.first().map(|(at, _)| *at);
            let step = tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                ended = self.running.next() => self.ended(ended),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.wake();
                    Ok(())
                }
                _ = tick.tick() => self.tick().await,
                fetched = self.stream.next() => self.burst(fetched),
                fetched = self.replay.next() => self.fetched(Source::Replay, fetched),
            };
            if let Err(error) = step {
                break Err(error);
            }
        };
        shutdown.cancel();
        self.drain().await;
        ended
    }

    /// Begins what may begin.
    fn begin_waiting(&mut self) {
        if self.pause.is_some() || self.gather.is_some() || !self.is_valid() {
            return;
        }
        while self.running.has_room() {
            let Some(ticket) = self.lanes.begin() else { break };
            let Some(held) = self.held.get_mut(&ticket) else { continue };
            held.state = State::Running;
            self.running.begin(Arc::clone(&held.message));
        }
    }

    async fn ask(&mut self) {
        if self.pause.is_some() {
            return;
        }
        let held = self.held.len().saturating_sub(self.replays_held);
        let (capacity, enough) = (self.limits.in_hand_max, !self.running.has_room());
        self.stream.ask(capacity.saturating_sub(held), capacity, enough).await;
        self.replay.ask(REPLAYS_MAX.saturating_sub(self.replays_held), REPLAYS_MAX, enough).await;
    }

    /// Takes what came and what else is there.
    fn burst(&mut self, first: Fetched) -> Result<(), ConsumerError> {
        self.fetched(Source::Stream, first)?;
        for _ in 0..BURST_MAX {
            let Some(fetched) = self.stream.next_now() else { break };
            self.fetched(Source::Stream, fetched)?;
        }
        Ok(())
    }

    fn fetched(&mut self, source: Source, fetched: Fetched) -> Result<(), ConsumerError> {
        match fetched {
            Fetched::Message(message) => self.take(source, *message),
            Fetched::AskAgain => {}
            Fetched::Refused(description) => {
                let message = format!("the durable consumer cannot be asked for messages: {description}");
                return Err(ConsumerError::new(ConsumerErrorKind::Durable, message));
            }
        }
        Ok(())
    }

    fn take(&mut self, source: Source, message: Message) {
        let stream = match source {
            Source::Stream => self.stream.name(),
            Source::Replay => self.replay.name(),
        };
        let Some(message) = InHand::read(source, stream, message, &mut self.context) else {
            tracing::warn!("a message that JetStream did not deliver: passed over");
            return;
        };
        if source == Source::Stream {
            // Gauges are floats; what a float cannot tell apart does not matter here.
            self.shared.metrics.lag.set(u32::try_from(message.delivery.pending).unwrap_or(u32::MAX));
            self.check_continuity(message.delivery.consumer_sequence);
        }
        let ticket = message.ticket();
        if let Some(held) = self.held.get_mut(&ticket) {
            tracing::debug!(sequence = message.delivery.sequence, "delivered again while in hand");
            held.message.delivered_again(&message);
            held.extended = Instant::now();
            return;
        }
        let key = message.partition_key().filter(|_| self.shared.ordered);
        self.lanes.push(key, message.place(), ticket);
        self.replays_held += usize::from(source == Source::Replay);
        let held = Held { message: Arc::new(message), state: State::Waiting, extended: Instant::now() };
        self.held.insert(ticket, held);
    }

    /// Every delivery of a durable consumer has the next number. A number that is missing went to nobody, or to
    /// another instance: then an older message of a key may come after a newer one.
    fn check_continuity(&mut self, sequence: u64) {
        let Some(expected) = self.expected else { return };
        if sequence != expected && self.gather.is_none() {
            tracing::info!(expected, sequence, "deliveries are missing: waiting until they come again");
            self.gather = Some(Gather::now());
        }
        self.expected = Some(sequence + 1);
    }

    fn ended(&mut self, ended: (Arc<InHand>, Done)) -> Result<(), ConsumerError> {
        let mut next = Some(ended);
        while let Some((message, done)) = next {
            self.done(message.ticket(), done)?;
            next = self.running.next_now();
        }
        Ok(())
    }

    fn done(&mut self, ticket: Ticket, done: Done) -> Result<(), ConsumerError> {
        match done {
            Done::Settled => self.release(ticket),
            Done::Again(delay) => {
                self.set_state(ticket, State::Delayed);
                self.delayed.insert((Instant::now() + delay, ticket));
            }
            Done::Unavailable(error) => {
                self.back_to_lane(ticket);
                self.begin_pause(&error);
            }
            Done::Fatal(error) => {
                self.set_state(ticket, State::Waiting);
                return Err(error);
            }
        }
        Ok(())
    }

    fn set_state(&mut self, ticket: Ticket, state: State) {
        if let Some(held) = self.held.get_mut(&ticket) {
            held.state = state;
        }
    }

    fn release(&mut self, ticket: Ticket) {
        let Some(held) = self.held.remove(&ticket) else { return };
        self.replays_held -= usize::from(held.message.source == Source::Replay);
        self.lanes.end(held.message.partition_key().filter(|_| self.shared.ordered));
    }

    fn back_to_lane(&mut self, ticket: Ticket) {
        let Some(held) = self.held.get_mut(&ticket) else { return };
        held.state = State::Waiting;
        let key = held.message.partition_key().filter(|_| self.shared.ordered);
        self.lanes.push(key, held.message.place(), ticket);
        self.lanes.end(key);
    }

    /// Those whose delay is over may begin.
    fn wake(&mut self) {
        let now = Instant::now();
        while let Some(&(at, ticket)) = self.delayed.first() {
            if at > now {
                break;
            }
            self.delayed.pop_first();
            self.back_to_lane(ticket);
        }
    }

    fn begin_pause(&mut self, error: &str) {
        if self.pause.is_some() {
            return;
        }
        tracing::warn!(error, "the inbox is unavailable: fetching pauses");
        self.shared.metrics.paused.set(1);
        let mut backoff = Backoff::default();
        let probe_at = Instant::now() + backoff.next();
        self.pause = Some(Pause { backoff, probe_at, probe: None });
    }

    async fn tick(&mut self) -> Result<(), ConsumerError> {
        self.stream.look_after();
        self.replay.look_after();
        self.extend().await;
        self.probe().await?;
        self.look_around().await;
        Ok(())
    }

    /// Tells the server that what is in hand is worked on.
    async fn extend(&mut self) {
        if self.shared.client.connection_state() != async_nats::connection::State::Connected {
            return;
        }
        let (now, due) = (Instant::now(), self.limits.ack_wait / 3);
        for held in self.held.values_mut().filter(|held| now.duration_since(held.extended) >= due) {
            let sending = self.shared.send(&held.message, ack::PROGRESS);
            if timeout(TICK, sending).await.is_err() {
                return;
            }
            held.extended = now;
        }
    }

    /// While paused: looks whether the inbox is back.
    async fn probe(&mut self) -> Result<(), ConsumerError> {
        let Some(pause) = &mut self.pause else { return Ok(()) };
        match &mut pause.probe {
            None if Instant::now() >= pause.probe_at => {
                let shared = Arc::clone(&self.shared);
                pause.probe = Some(tokio::spawn(async move { shared.engine.probe().await }));
            }
            Some(probe) if probe.is_finished() => {
                let ended = probe.await;
                match ended {
                    Ok(Err(error)) if error.kind() == InboxErrorKind::Unavailable => {
                        tracing::debug!(error = report(&error), "the inbox is still unavailable");
                        pause.probe = None;
                        pause.probe_at = Instant::now() + pause.backoff.next();
                    }
                    Ok(Err(error)) if error.kind() == InboxErrorKind::Unusable => {
                        let message = "the inbox cannot be used";
                        return Err(ConsumerError::because(ConsumerErrorKind::Inbox, message, error));
                    }
                    _ => {
                        tracing::info!("the inbox is back: fetching goes on");
                        self.shared.metrics.paused.set(0);
                        self.pause = None;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// While gathering: looks whether everything that was delivered is in hand.
    async fn look_around(&mut self) {
        let Some(gather) = &mut self.gather else { return };
        if self.running.running() > 0 || Instant::now() < gather.look_at {
            return;
        }
        gather.look_at = Instant::now() + gather.backoff.next().min(Duration::from_secs(1));
        // Nothing runs, so nothing is acknowledged meanwhile: if the server counts as many as are here, it is these.
        let here = self.held.len().saturating_sub(self.replays_held);
        match timeout(LOOK, self.stream.consumer().get_info()).await {
            Ok(Ok(info)) if info.num_ack_pending == here => self.gather = None,
            Ok(Ok(info)) => {
                tracing::debug!(
                    here,
                    pending = info.num_ack_pending,
                    "waiting for messages that are elsewhere"
                );
            }
            Ok(Err(error)) => tracing::debug!(%error, "the durable consumer cannot be looked at"),
            Err(_) => tracing::debug!("the durable consumer cannot be looked at in time"),
        }
    }

    /// Gives back what has not begun, waits for what runs, cuts off what does not end.
    async fn drain(mut self) {
        let deadline = Instant::now() + self.limits.drain;
        let fetched = self.stream.close().await.into_iter().chain(self.replay.close().await);
        for message in fetched {
            if let Some(reply) = message.reply {
                drop(self.shared.client.publish(reply, ack::NAK).await);
            }
        }
        self.give_back(|state| state != State::Running).await;
        tracing::info!(running = self.running.running(), "draining");
        let mut tick = interval(TICK);
        while self.running.running() > 0 {
            tokio::select! {
                biased;
                () = sleep_until(deadline) => break,
                (message, done) = self.running.next() => match done {
                    Done::Settled => self.release(message.ticket()),
                    // Its state is no longer that of a running one, so it is given back below.
                    _ => self.set_state(message.ticket(), State::Waiting),
                },
                _ = tick.tick() => self.extend().await,
            }
        }
        if self.running.running() > 0 {
            tracing::warn!(
                running = self.running.running(),
                "the drain deadline is over: handlers are cut off"
            );
            self.running.abort().await;
        }
        self.give_back(|_| true).await;
        if timeout(LOOK, self.shared.client.flush()).await.is_err() {
            tracing::debug!("the last acknowledgements may be lost");
        }
    }

    async fn give_back(&mut self, which: impl Fn(State) -> bool) {
        for (_, held) in self.held.extract_if(|_, held| which(held.state)) {
            let sending = self.shared.send(&held.message, ack::NAK);
            if timeout(LOOK, sending).await.is_err() {
                return;
            }
        }
    }
}
