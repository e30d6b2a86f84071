//! Atomic batches, of mode durable: whole transactions that are stored all or not at all.

use tokio::time::Instant;

use super::Writer;
use crate::publish::{
    stop::{Doubt, Stop, code},
    wire::{Envelope, Reply, ReplyTo, Wire},
};

/// The most messages that the server takes in one atomic batch.
///
/// Source: <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md>.
pub(super) const ATOMIC_MAX: usize = 1_000;
/// An atomic batch on its way: so many messages behind sequence `base`, which are stored all or none.
#[derive(Debug)]
pub(super) struct Atomic {
    pub(super) number: u64,
    base: u64,
    count: u64,
}

impl<W: Wire> Writer<W> {
    /// Sends the first `count` messages as one batch that is stored as a whole or not at all.
    pub(super) async fn send_atomic(&mut self, count: usize) -> Result<(), Stop> {
        self.batches += 1;
        let (number, base) = (self.batches, self.chain.sequence());
        self.progressed = Instant::now();
        for index in 0..count {
            let Some(message) = self.chain.get(index) else { break };
            let reply_to =
                ReplyTo::Atomic { batch: number, number: index as u64 + 1, commit: index + 1 == count };
            let envelope = Envelope { message, expected_last_sequence: base, after: None, reply_to };
            match self.wire.send(envelope).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => {
                    return self.wait_out("a message cannot be sent", error).await;
                }
                // Alone it tells what is wrong with it, once all before it are stored. The server forgets the batch.
                Err(_) if count > 1 => {
                    self.singly = count;
                    return Ok(());
                }
                Err(source) => return Err(Stop::Wire { stream: self.options.stream.clone(), source }),
            }
        }
        self.sent = count;
        self.atomic = Some(Atomic { number, base, count: count as u64 });
        Ok(())
    }

    pub(super) fn take_atomic(&mut self, reply: Reply) -> Result<Option<Doubt>, Stop> {
        let Some(Atomic { base, count, .. }) = self.atomic.take() else { return Ok(None) };
        match reply {
            Reply::Stored { sequence, count: Some(stored), .. }
                if stored == count && sequence == base + count =>
            {
                Ok(self.stored_up_to(sequence))
            }
            Reply::Stored { .. } | Reply::Flow { .. } => Ok(Some(Doubt::WrongSequence)),
            Reply::NoResponders => Ok(Some(Doubt::NoResponders)),
            Reply::Refused { code: code::ATOMIC_DISABLED, description } => Err(Stop::Refused {
                stream: self.options.stream.clone(),
                position: self.chain.get(0).map(|message| message.position_text()).unwrap_or_default(),
                reason: format!("{description}; set allow_atomic to true on it, or publish.mode to \"auto\""),
            }),
            Reply::Refused { code, description } => {
                // An id that the stream knows, a message that is too large: alone it is told which one.
                if code != code::WRONG_LAST_SEQUENCE {
                    self.singly = self.sent;
                }
                Ok(Some(Doubt::Refused(code, description)))
            }
        }
    }
}
