//! Simulated streams: what a JetStream server was seen to do, good and bad.
//!
//! One task a stream handles packets in the order in which they arrive. Faults come by [`World::strike`]: connections
//! that drop a part of what was sent, answers that are lost, late, doubled or wrong, a deposed leader that still answers
//! for a while from what it knew, and a store that is put back to an older state.

mod wire;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outbox_event::Position;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

pub(super) use self::wire::SimulatedWires;
use super::log::{Harm, Log};
use crate::publish::{Delivery, Message, Operation, Reply, ReplyTo};

/// Which faults a seed has. Some exclude each other: what was purged and forgotten can't be known by anybody.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) checkpoint_lost: bool,
    purge: bool,
    restore: bool,
    /// Duplicates are looked for before the expected sequence, as with three replicas.
    replicated: bool,
}

impl Faults {
    pub(super) fn choose(random: &mut SmallRng, log: &Log) -> Self {
        // Purged rows are known by number alone, and a number cannot tell that a row was dropped as a duplicate.
        let purge = random.random_ratio(1, 4) && !log.doubles && !log.is_replicated();
        // After a change of server, what was lost is refused, not refilled.
        let several = log.is_replicated();
        Self {
            purge,
            checkpoint_lost: !purge && !several && random.random(),
            restore: !purge && !several && random.random(),
            replicated: random.random(),
        }
    }
}

#[derive(Debug, Clone)]
struct StoredMessage {
    id: String,
    position: Position,
}

#[derive(Debug)]
struct Packet {
    wire: u64,
    generation: u64,
    message: StoredMessage,
    expected_last_sequence: u64,
    expected_last_id: Option<String>,
    reply_to: ReplyTo,
}

#[derive(Debug)]
struct BatchState {
    base_number: u64,
    every: u16,
    dead: bool,
}

#[derive(Debug, Default)]
struct StreamState {
    /// All messages that were ever stored and not lost; sequence = index + 1.
    messages: Vec<StoredMessage>,
    /// How many of them, from the first, are purged.
    purged: usize,
    batches: HashMap<(u64, u64), BatchState>,
    /// Atomic batches that are not committed.
    collected: HashMap<(u64, u64), Vec<Packet>>,
    /// A deposed leader answers with this many messages until then.
    stale: Option<(usize, Instant)>,
    /// Publishing stalls until then.
    stalled_until: Option<Instant>,
}

#[derive(Debug)]
struct State {
    random: SmallRng,
    streams: Vec<StreamState>,
    wires: HashMap<u64, mpsc::UnboundedSender<Delivery>>,
    next_wire: u64,
    generation: u64,
    /// Of the packets of older connections: so many still arrive, so many are then lost, the rest arrives.
    old: (usize, usize),
    /// One in so many answers goes wrong; 0 is never.
    trouble: u32,
    operations: u64,
    /// For each stream, the rows that it must hold in the end: those that are not dead letters.
    expected: Vec<Vec<(String, u64)>>,
    /// For each stream, the rows that are dead letters, by GTID and number, and the latest commit time of one.
    letters: Vec<HashSet<(String, u64)>>,
    marks: Vec<Option<u64>>,
    /// For each stream, the dead letters that were not replayed yet: id and place.
    parked: Vec<Vec<(String, Position)>>,
    /// What was refused is taken by now.
    healed: bool,
    /// What the oracle has to say against the bridge.
    violation: Option<String>,
}

/// All streams, and the network to them.
#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    names: Vec<String>,
    log: Arc<Log>,
    pub(super) faults: Faults,
    inputs: Vec<mpsc::UnboundedSender<Packet>>,
    operated: Notify,
}

impl World {
    pub(super) fn new(names: &[&str], log: Arc<Log>, faults: Faults, seed: u64) -> Arc<Self> {
        let mut random = SmallRng::seed_from_u64(seed);
        let trouble = if random.random() { random.random_range(20..200) } else { 0 };
        let (inputs, outputs): (Vec<_>, Vec<_>) = names.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let world = Arc::new(Self {
            state: Mutex::new(State {
                random,
                streams: names.iter().map(|_| StreamState::default()).collect(),
                wires: HashMap::new(),
                next_wire: 0,
                generation: 0,
                old: (0, 0),
                trouble,
                operations: 0,
                expected: log.expected.clone(),
                letters: names.iter().map(|_| HashSet::new()).collect(),
                marks: vec![None; names.len()],
                parked: vec![Vec::new(); names.len()],
                healed: false,
                violation: None,
            }),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            log,
            faults,
            inputs,
            operated: Notify::new(),
        });
        for (index, packets) in outputs.into_iter().enumerate() {
            tokio::spawn(world.clone().serve(index, packets));
        }
        world
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the servers have done so much more.
    pub(super) async fn operations_pass(&self, count: u64) {
        let until = self.lock().operations + count;
        while self.lock().operations < until {
            self.operated.notified().await;
        }
    }

    /// Something bad happens.
    pub(super) fn strike(&self) {
        let mut state = self.lock();
        let stream = state.random.random_range(0..self.names.len());
        let time = Duration::from_millis(state.random.random_range(100..12_000));
        match state.random.random_range(0..6) {
            0 | 1 => state.disconnect(),
            2 => {
                let messages = state.streams[stream].messages.len();
                let older = state.random.random_range(0..=messages.min(30));
                state.streams[stream].stale =
                    Some((messages - older, Instant::now() + time.min(Duration::from_secs(3))));
            }
            3 => state.streams[stream].stalled_until = Some(Instant::now() + time),
            4 if self.faults.restore => {
                let messages = state.streams[stream].messages.len();
                // What was never stored cannot be told from a new stream, so something is left.
                let left = messages.saturating_sub(state.random.random_range(1..40)).max(messages.min(1));
                state.streams[stream].messages.truncate(left);
                state.streams[stream].batches.clear();
                state.streams[stream].collected.clear();
                state.disconnect();
            }
            4 if self.faults.purge => {
                let messages = state.streams[stream].messages.len();
                state.streams[stream].purged = messages;
            }
            _ => {
                for stream in &mut state.streams {
                    stream.batches.clear();
                    stream.collected.clear();
                }
                state.disconnect();
            }
        }
    }

    /// No more faults.
    pub(super) fn calm(&self) {
        let mut state = self.lock();
        state.trouble = 0;
        for stream in &mut state.streams {
            stream.stale = None;
            stream.stalled_until = None;
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        let state = self.lock();
        state
            .streams
            .iter()
            .zip(&state.expected)
            .all(|(stream, expected)| stream.messages.len() == expected.len())
    }

    /// What could not be published can be from now on.
    pub(super) fn heal(&self) {
        self.lock().healed = true;
    }

    /// Some dead letters are published after all, as `dead-letters replay` does it in the place of the bridge.
    pub(super) fn replay(&self) {
        if self.faults.purge || self.faults.restore {
            // The one is refused, and what is lost by the other no log has.
            return;
        }
        let mut state = self.lock();
        let state = &mut *state;
        for (index, stream) in state.streams.iter_mut().enumerate() {
            let count = state.random.random_range(0..=state.parked[index].len());
            for (id, own) in state.parked[index].drain(..count) {
                let position =
                    stream.messages.last().map_or_else(|| own.clone(), |last| last.position.clone());
                tracing::debug!(index, id, %own, at = stream.messages.len() + 1, "replay");
                state.expected[index].insert(stream.messages.len(), (id.clone(), own.row));
                stream.messages.push(StoredMessage { id, position });
            }
        }
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    pub(super) fn summary(&self) -> String {
        let state = self.lock();
        let counts = state.streams.iter().zip(&state.expected);
        counts.map(|(stream, expected)| format!("{} of {} ", stream.messages.len(), expected.len())).collect()
    }

    async fn serve(self: Arc<Self>, index: usize, mut packets: mpsc::UnboundedReceiver<Packet>) {
        while let Some(packet) = packets.recv().await {
            let (latency, stalled_until) = {
                let mut state = self.lock();
                let latency =
                    if state.random.random_ratio(1, 10) { state.random.random_range(0..4) } else { 0 };
                (latency, state.streams[index].stalled_until)
            };
            if latency > 0 {
                tokio::time::sleep(Duration::from_millis(latency)).await;
            }
            if let Some(until) = stalled_until {
                // What times out meanwhile is stored later.
                tokio::time::sleep_until(until).await;
            }
            self.lock().handle(index, packet, &self.faults, &self.log);
            self.operated.notify_waiters();
        }
    }
}

/// What names a row on every server.
fn name(message: &Message) -> (String, u64) {
    (message.transaction.gtid.clone(), message.row)
}

impl State {
    fn disconnect(&mut self) {
        self.generation += 1;
        self.old = (self.random.random_range(0..20), self.random.random_range(0..40));
        for wire in self.wires.values() {
            wire.send(Delivery::Disconnected).ok();
        }
    }

    fn is_lost(&mut self, packet: &Packet) -> bool {
        if packet.generation == self.generation {
            return false;
        }
        if self.old.0 > 0 {
            self.old.0 -= 1;
            return false;
        }
        if self.old.1 > 0 {
            self.old.1 -= 1;
            return true;
        }
        self.random.random()
    }

    fn handle(&mut self, index: usize, packet: Packet, faults: &Faults, log: &Log) {
        self.operations += 1;
        if self.is_lost(&packet) {
            return;
        }
        if let Some((known, until)) = self.streams[index].stale
            && Instant::now() < until
            && self.random.random()
        {
            // A deposed leader refuses by what it knows, or says nothing.
            if self.random.random() && packet.expected_last_sequence != known as u64 {
                self.answer_refused(&packet, 10071, "wrong last sequence");
            }
            return;
        }
        match packet.reply_to {
            ReplyTo::Single { epoch, sequence } => {
                let reply = self.store(index, &packet, faults, log);
                self.answer(packet.wire, Delivery::Single { epoch, sequence, reply });
            }
            ReplyTo::Atomic { batch, number, commit } => {
                self.handle_atomic(index, packet, (batch, number, commit), faults, log);
            }
            ReplyTo::Batch { batch, number, flow, operation } => {
                self.handle_batch(index, &packet, (batch, number, flow, operation), faults, log);
            }
        }
    }

    /// What is wrong with a row, as long as something is.
    fn harm(&self, id: &str, log: &Log) -> Option<Harm> {
        log.poison.get(id).copied().filter(|harm| !self.healed || *harm == Harm::Unroutable)
    }

    /// Makes a row a dead letter, which it may become only when exactly those before it are stored.
    fn park(&mut self, index: usize, message: &Message, log: &Log, restore: bool) -> bool {
        if !self.letters[index].insert(name(message)) {
            return false;
        }
        let mark = message.transaction.committed_micros;
        self.marks[index] = Some(self.marks[index].map_or(mark, |known| known.max(mark)));
        let row = (message.id.clone(), message.row);
        let stored = self.streams[index].messages.len();
        let at = self.expected[index].iter().position(|expected| *expected == row);
        tracing::debug!(index, ?row, stored, "park");
        match at {
            // What was acknowledged may have been lost since.
            Some(at)
                if (at == stored || restore && at > stored || log.is_replicated())
                    && !self.streams[index].messages.iter().any(|known| known.id == message.id)
                    && log.poison.contains_key(&message.id) =>
            {
                self.expected[index].remove(at);
                self.parked[index].push((message.id.clone(), message.position()));
            }
            _ if self.violation.is_none() => {
                self.violation = Some(format!("{row:?} is parked with {stored} stored, expected at {at:?}"));
            }
            _ => {}
        }
        true
    }

    fn handle_batch(
        &mut self,
        index: usize,
        packet: &Packet,
        (batch, number, flow, operation): (u64, u64, u16, Operation),
        faults: &Faults,
        log: &Log,
    ) {
        let key = (packet.wire, batch);
        let wire = packet.wire;
        let reply = |state: &mut Self, reply| state.answer(wire, Delivery::Batch { batch, reply });
        if operation == Operation::Start {
            let every = self.random.random_range(1..=flow);
            self.streams[index].batches.insert(key, BatchState { base_number: 0, every, dead: false });
            reply(self, Reply::Flow { number: 0, every });
        }
        let last = |state: &Self| state.streams[index].messages.len() as u64;
        let Some(known) = self.streams[index].batches.get(&key).filter(|known| !known.dead) else {
            reply(self, Reply::Refused { code: 10208, description: "unknown batch".into() });
            return;
        };
        let (done, every) = (known.base_number, known.every);
        if number != done + 1 {
            self.end_batch(index, key);
            reply(self, Reply::Refused { code: 0, description: "batch interrupted: gap".into() });
            let sequence = last(self);
            reply(self, Reply::Stored { sequence, duplicate: false, count: Some(done) });
            return;
        }
        if operation == Operation::End {
            self.end_batch(index, key);
            let sequence = last(self);
            reply(self, Reply::Stored { sequence, duplicate: false, count: Some(done) });
            return;
        }
        match self.store(index, packet, faults, log) {
            Reply::Stored { .. } => {
                if let Some(known) = self.streams[index].batches.get_mut(&key) {
                    known.base_number = number;
                }
                if number % u64::from(every) == 0 {
                    reply(self, Reply::Flow { number, every });
                }
            }
            refused => {
                self.end_batch(index, key);
                reply(self, refused);
                let sequence = last(self);
                reply(self, Reply::Stored { sequence, duplicate: false, count: Some(done) });
            }
        }
    }

    /// Collects the messages of an atomic batch, and stores all or none of them at its commit.
    fn handle_atomic(
        &mut self,
        index: usize,
        packet: Packet,
        (batch, number, commit): (u64, u64, bool),
        faults: &Faults,
        log: &Log,
    ) {
        let wire = packet.wire;
        let collected = self.streams[index].collected.entry((wire, batch)).or_default();
        if collected.len() as u64 + 1 == number {
            collected.push(packet);
        }
        if !commit {
            return;
        }
        let packets = self.streams[index].collected.remove(&(wire, batch)).unwrap_or_default();
        let last = self.streams[index].messages.len() as u64;
        let refuse = |code, description: &str| Reply::Refused { code, description: description.to_owned() };
        let stored = |packet: &Packet| {
            self.streams[index].messages.iter().any(|stored| stored.id == packet.message.id)
        };
        let twice = |(at, packet): (usize, &Packet)| {
            packets[..at].iter().any(|before| before.message.id == packet.message.id) || stored(packet)
        };
        let wrong = packets.first().is_some_and(|first| first.expected_last_sequence != last);
        let refused = packets.iter().any(|packet| self.harm(&packet.message.id, log) == Some(Harm::Refused));
        let reply = if packets.len() as u64 != number {
            refuse(10176, "atomic publish batch is incomplete")
        } else if refused {
            refuse(10054, "message size exceeds maximum allowed")
        } else if wrong && !faults.replicated {
            refuse(10071, "wrong last sequence")
        } else if packets.iter().enumerate().any(twice) {
            refuse(10201, "atomic publish batch contains duplicate message id")
        } else if wrong {
            refuse(10071, "wrong last sequence")
        } else {
            for (at, mut packet) in packets.into_iter().enumerate() {
                packet.expected_last_sequence = last + at as u64;
                self.store(index, &packet, faults, log);
            }
            Reply::Stored { sequence: last + number, duplicate: false, count: Some(number) }
        };
        self.answer(wire, Delivery::Batch { batch, reply });
    }

    fn end_batch(&mut self, index: usize, key: (u64, u64)) {
        if let Some(known) = self.streams[index].batches.get_mut(&key) {
            known.dead = true;
        }
    }

    fn store(&mut self, index: usize, packet: &Packet, faults: &Faults, log: &Log) -> Reply {
        if self.harm(&packet.message.id, log) == Some(Harm::Refused) {
            return Reply::Refused {
                code: 10054,
                description: "message size exceeds maximum allowed".into(),
            };
        }
        let stream = &mut self.streams[index];
        let last = stream.messages.len() as u64;
        let wrong = packet.expected_last_sequence != last;
        let known = stream.messages.iter().any(|stored| stored.id == packet.message.id);
        if known && (faults.replicated || !wrong) {
            return Reply::Stored { sequence: last, duplicate: true, count: None };
        }
        if wrong {
            return Reply::Refused { code: 10071, description: "wrong last sequence".into() };
        }
        tracing::debug!(index, wire = packet.wire, reply = ?packet.reply_to, at = last + 1, id = packet.message.id, "store");
        let last_id = stream.messages.last().map(|stored| &*stored.id);
        if packet.expected_last_id.as_deref().is_some_and(|expected| Some(expected) != last_id) {
            return Reply::Refused { code: 10070, description: "wrong last msg ID".into() };
        }
        let got = (packet.message.id.clone(), packet.message.position.row);
        let expected = self.expected[index].get(stream.messages.len());
        let wrong = if log.is_replicated() {
            // The servers' orders differ; nothing may come twice, and a transaction's rows keep theirs.
            let position = &packet.message.position;
            !self.expected[index].contains(&got)
                || stream.messages.iter().any(|stored| {
                    stored.id == got.0
                        || stored.position.gtid == position.gtid && stored.position.row >= position.row
                })
        } else {
            expected != Some(&got)
        };
        if wrong && self.violation.is_none() {
            self.violation = Some(format!("stored {got:?} as {} where {expected:?} belongs", last + 1));
        }
        stream.messages.push(packet.message.clone());
        Reply::Stored { sequence: last + 1, duplicate: false, count: None }
    }

    fn answer_refused(&mut self, packet: &Packet, code: u64, description: &str) {
        let reply = Reply::Refused { code, description: description.into() };
        let delivery = match packet.reply_to {
            ReplyTo::Single { epoch, sequence } => Delivery::Single { epoch, sequence, reply },
            ReplyTo::Batch { batch, .. } | ReplyTo::Atomic { batch, commit: true, .. } => {
                Delivery::Batch { batch, reply }
            }
            ReplyTo::Atomic { commit: false, .. } => return,
        };
        self.answer(packet.wire, delivery);
    }

    /// Sends an answer, or something else.
    fn answer(&mut self, wire: u64, delivery: Delivery) {
        let Some(answers) = self.wires.get(&wire).cloned() else { return };
        if self.trouble == 0 || !self.random.random_ratio(1, self.trouble) {
            answers.send(delivery).ok();
            return;
        }
        match self.random.random_range(0..4) {
            0 => {}
            1 => {
                answers.send(delivery.clone()).ok();
                answers.send(delivery).ok();
            }
            2 => {
                let wait = Duration::from_millis(self.random.random_range(1..15_000));
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    answers.send(delivery).ok();
                });
            }
            _ => {
                // An error, and then the acknowledgement of the real leader.
                let error = Reply::Refused {
                    code: 10008,
                    description: "JetStream system temporarily unavailable".into(),
                };
                let refused = match &delivery {
                    Delivery::Single { epoch, sequence, .. } => {
                        Delivery::Single { epoch: *epoch, sequence: *sequence, reply: error }
                    }
                    Delivery::Batch { batch, .. } => Delivery::Batch { batch: *batch, reply: error },
                    Delivery::Disconnected => Delivery::Disconnected,
                };
                answers.send(refused).ok();
                answers.send(delivery).ok();
            }
        }
    }
}
