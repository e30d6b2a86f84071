//! The wires to the simulated streams.

use std::{sync::Arc, time::Duration};

use outbox_event::Position;
use rand::Rng as _;
use tokio::{sync::mpsc, time::Instant};

use super::{Packet, State, StoredMessage, World, name};
use crate::{
    pipeline::{StreamTraits, Wires},
    publish::{
        Delivery, Envelope, Message, Mode, Operation, Poison, PoisonKind, ReplyTo, Tail, TailMessage, Wire,
        WireError,
    },
    simulation::log::Harm,
};

/// Makes wires to the simulated streams.
#[derive(Debug)]
pub(in crate::simulation) struct SimulatedWires {
    world: Arc<World>,
    mode: Mode,
}

impl SimulatedWires {
    pub(in crate::simulation) fn new(world: Arc<World>, mode: Mode) -> Self {
        Self { world, mode }
    }
}

impl Wires for SimulatedWires {
    type Wire = SimulatedWire;

    async fn wire(&mut self, stream: &str) -> Result<(SimulatedWire, StreamTraits), WireError> {
        let index = self.world.names.iter().position(|name| name == stream).expect("a known stream");
        let mut state = self.world.lock();
        let (sender, answers) = mpsc::unbounded_channel();
        state.next_wire += 1;
        let number = state.next_wire;
        state.wires.insert(number, sender);
        drop(state);
        let traits = StreamTraits {
            mode: self.mode,
            replicated: self.world.faults.replicated,
            consumed: self.world.faults.purge,
        };
        Ok((SimulatedWire { world: self.world.clone(), index, number, answers }, traits))
    }
}

/// A wire to one simulated stream.
#[derive(Debug)]
pub(in crate::simulation) struct SimulatedWire {
    world: Arc<World>,
    index: usize,
    number: u64,
    answers: mpsc::UnboundedReceiver<Delivery>,
}

impl SimulatedWire {
    async fn ask<T>(&self, answer: impl FnOnce(&mut State) -> T) -> Result<T, WireError> {
        let wait = {
            let mut state = self.world.lock();
            let trouble = state.trouble;
            if trouble > 0 && state.random.random_ratio(3, trouble) {
                None
            } else {
                Some(state.random.random_range(0..10))
            }
        };
        let Some(wait) = wait else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err(WireError::Timeout);
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        Ok(answer(&mut self.world.lock()))
    }
}

/// The stream as the server that answers knows it: how many messages.
fn known(state: &mut State, index: usize) -> usize {
    let all = state.streams[index].messages.len();
    match state.streams[index].stale {
        Some((known, until)) if Instant::now() < until && state.random.random() => known.min(all),
        _ => all,
    }
}

impl Wire for SimulatedWire {
    async fn send(&mut self, envelope: Envelope<'_>) -> Result<(), WireError> {
        let (generation, harm) = {
            let state = self.world.lock();
            (state.generation, state.harm(&envelope.message.id, &self.world.log))
        };
        let end = matches!(envelope.reply_to, ReplyTo::Batch { operation: Operation::End, .. });
        if harm == Some(Harm::Unsendable) && !end {
            let position = envelope.message.position_text();
            return Err(WireError::TooLarge { position, size: 1, max: 0 });
        }
        if harm == Some(Harm::Swallowed) && !end {
            return Ok(());
        }
        let packet = Packet {
            wire: self.number,
            generation,
            message: StoredMessage { id: envelope.message.id.clone(), position: envelope.message.position() },
            expected_last_sequence: envelope.expected_last_sequence,
            expected_last_id: envelope.after.map(|after| after.id.clone()),
            reply_to: envelope.reply_to,
        };
        self.world.inputs[self.index].send(packet).ok();
        Ok(())
    }

    async fn receive(&mut self) -> Delivery {
        match self.answers.recv().await {
            Some(delivery) => delivery,
            None => std::future::pending().await,
        }
    }

    async fn read_tail(&mut self) -> Result<Tail, WireError> {
        let index = self.index;
        self.ask(|state| {
            let known = known(state, index);
            let stream = &state.streams[index];
            match stream.messages.get(..known).and_then(<[_]>::last) {
                Some(last) if known > stream.purged => {
                    Tail::Message(TailMessage { sequence: known as u64, position: last.position.clone() })
                }
                _ => Tail::Empty { last_sequence: known as u64 },
            }
        })
        .await
    }

    async fn read_last_sequence(&mut self) -> Result<u64, WireError> {
        let index = self.index;
        self.ask(|state| known(state, index) as u64).await
    }

    async fn takes(&mut self, _subject: &str) -> Result<bool, WireError> {
        Ok(true)
    }

    async fn read_positions(&mut self, first: u64, last: u64) -> Result<Vec<Option<Position>>, WireError> {
        let index = self.index;
        self.ask(|state| {
            let stream = &state.streams[index];
            let at = |sequence: u64| {
                let at = usize::try_from(sequence - 1).unwrap();
                stream
                    .messages
                    .get(at)
                    .filter(|_| at >= stream.purged)
                    .map(|message| message.position.clone())
            };
            (first..=last).map(at).collect()
        })
        .await
    }

    async fn reconnect(&mut self) {
        self.world.lock().disconnect();
    }

    fn parks(&self) -> bool {
        !self.world.log.poison.is_empty()
    }

    async fn read_mark(&mut self) -> Result<Option<u64>, WireError> {
        let index = self.index;
        self.ask(|state| state.marks[index]).await
    }

    async fn are_parked(&mut self, messages: &[Message]) -> Result<Vec<bool>, WireError> {
        let index = self.index;
        self.ask(|state| {
            messages.iter().map(|message| state.letters[index].contains(&name(message))).collect()
        })
        .await
    }

    async fn park(&mut self, message: &Message, poison: &Poison) -> Result<bool, WireError> {
        assert!(poison.kind != PoisonKind::Headers, "none is simulated");
        let (index, world) = (self.index, self.world.clone());
        let parked = self.ask(|state| state.park(index, message, &world.log, world.faults.restore)).await?;
        let mut state = self.world.lock();
        let trouble = state.trouble;
        if trouble > 0 && state.random.random_ratio(3, trouble) {
            // It is stored, and nobody learns of it.
            return Err(WireError::Timeout);
        }
        Ok(parked)
    }

    async fn diagnose(&mut self, message: &Message) -> Result<Option<Poison>, WireError> {
        let world = self.world.clone();
        let swallowed =
            self.ask(|state| state.harm(&message.id, &world.log) == Some(Harm::Swallowed)).await?;
        Ok(swallowed.then(|| Poison::new(PoisonKind::Denied, "simulated")))
    }
}
