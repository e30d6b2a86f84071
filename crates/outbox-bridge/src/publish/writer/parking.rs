//! How a writer deals with a row that cannot be published: it becomes a dead letter once all before it are stored, and
//! nothing after it is stored before the letter is.
//!
//! The stream does not tell of letters, so after a restart the log shows their rows again. A row that was committed no later
//! than the last that became a letter is therefore looked up before it is sent: what was a letter once, also one that was
//! dropped since, is passed, even if it could be published by now.

use std::time::Duration;

use super::Writer;
use crate::publish::{
    Message, Poison,
    stop::{Doubt, Stop},
    wire::{Wire, WireError},
};

type Order = (u64, u64, u64);

/// So many rows are looked up at once: after a crash in the midst of a large transaction, all that is left of it may be letters.
const LOOKUPS_MAX: usize = 256;

/// What a writer knows of its dead letters.
#[derive(Debug, Default)]
pub(super) struct Parking {
    /// Whether `mark` was read.
    known: bool,
    /// Rows committed up to this time may be letters.
    mark: Option<u64>,
    /// All rows of the chain up to this one were looked up, and are none.
    cleared: Option<Order>,
    /// This row, the first, cannot be published.
    condemned: Option<(Order, Poison)>,
}

impl Parking {
    /// Another writer was at work, and may have parked rows.
    pub(super) fn forget(&mut self) {
        self.known = false;
        self.cleared = None;
    }
}

impl<W: Wire> Writer<W> {
    /// Learns which rows may be letters.
    pub(super) async fn learn_mark(&mut self) -> Result<(), Stop> {
        while self.wire.parks() && !self.parking.known {
            match self.wire.read_mark().await {
                Ok(mark) => {
                    self.parking.mark = mark;
                    self.parking.known = true;
                }
                Err(error) => self.letters_away(error).await?,
            }
        }
        Ok(())
    }

    /// Whether the message must not just be sent: it is poison, or may be a letter.
    pub(super) fn is_doubtful(&self, index: usize) -> bool {
        self.chain
            .get(index)
            .is_some_and(|message| message.poison.is_some() || self.is_to_be_looked_up(message))
    }

    /// So many of the first `count` messages can just be sent.
    pub(super) fn before_doubtful(&self, count: usize) -> usize {
        (0..count).take_while(|index| !self.is_doubtful(*index)).count()
    }

    fn may_be_letter(&self, message: &Message) -> bool {
        self.wire.parks()
            && self.parking.mark.is_some_and(|mark| message.transaction.committed_micros <= mark)
    }

    fn is_to_be_looked_up(&self, message: &Message) -> bool {
        self.may_be_letter(message) && self.parking.cleared.is_none_or(|cleared| cleared < message.order())
    }

    /// Whether the row is or was a dead letter.
    pub(super) async fn is_parked(&mut self, message: &Message) -> Result<bool, Stop> {
        if !self.may_be_letter(message) {
            return Ok(false);
        }
        Ok(self.look_up(std::slice::from_ref(message)).await? == [true])
    }

    async fn look_up(&mut self, messages: &[Message]) -> Result<Vec<bool>, Stop> {
        loop {
            match self.wire.are_parked(messages).await {
                Ok(parked) => return Ok(parked),
                Err(error) => self.letters_away(error).await?,
            }
        }
    }

    /// Parks the first message, passes it, or finds that it can be sent.
    pub(super) async fn resolve_doubtful(&mut self) -> Result<(), Stop> {
        let Some(first) = self.chain.get(0).cloned() else { return Ok(()) };
        if !self.is_to_be_looked_up(&first) {
            return match &first.poison {
                Some(poison) => self.park_first(&first, poison).await,
                None => Ok(()),
            };
        }
        let chain = (0..LOOKUPS_MAX).map_while(|index| self.chain.get(index));
        let doubtful: Vec<Message> =
            chain.take_while(|message| self.may_be_letter(message)).cloned().collect();
        let parked = self.look_up(&doubtful).await?;
        let clear = parked.iter().take_while(|parked| !**parked).count();
        match clear.checked_sub(1).and_then(|last| doubtful.get(last)) {
            Some(last) => self.parking.cleared = Some(last.order()),
            None => {
                tracing::info!(stream = self.options.stream, position = %first.position(), "the row is a dead letter");
                self.pass_first();
            }
        }
        Ok(())
    }

    /// The first message cannot be sent.
    pub(super) async fn unsendable(&mut self, source: WireError) -> Result<(), Stop> {
        if source.is_transient() {
            return self.wait_out("a message cannot be sent", source).await;
        }
        let first = self.chain.get(0).cloned().filter(|_| self.wire.parks());
        match (first, Poison::unsendable(&source)) {
            (Some(message), Some(poison)) => self.park_first(&message, &poison).await,
            _ => Err(Stop::Wire { stream: self.options.stream.clone(), source }),
        }
    }

    /// The first message, which went alone, is refused for good: it is to be parked.
    pub(super) fn condemn(&mut self, poison: Poison) {
        self.parking.condemned = self.chain.get(0).map(|message| (message.order(), poison));
    }

    pub(super) async fn park_condemned(&mut self) -> Result<(), Stop> {
        let Some((order, poison)) = self.parking.condemned.take() else { return Ok(()) };
        match self.chain.get(0).cloned() {
            Some(message) if message.order() == order && self.sent == 0 => {
                self.park_first(&message, &poison).await
            }
            _ => Ok(()),
        }
    }

    /// The stream ends where it did before the first message was sent: perhaps that is the message's own fault.
    pub(super) async fn diagnose_first(&mut self, doubt: &Doubt) -> Result<(), Stop> {
        let silent = matches!(doubt, Doubt::Timeout | Doubt::NoResponders | Doubt::Refused(..));
        let Some(message) = self.chain.get(0).filter(|_| silent && self.wire.parks()).cloned() else {
            return Ok(());
        };
        match self.wire.diagnose(&message).await {
            Ok(Some(poison)) => self.condemn(poison),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(stream = self.options.stream, %error, "cannot look why it does not answer")
            }
        }
        Ok(())
    }

    /// Makes a letter of the first message, however long that takes, and goes on behind it.
    async fn park_first(&mut self, message: &Message, poison: &Poison) -> Result<(), Stop> {
        debug_assert_eq!(self.sent, 0, "all before it are stored, and nothing after it is on its way");
        if !self.wire.parks() {
            return Err(Stop::Refused {
                stream: self.options.stream.clone(),
                position: message.position_text(),
                reason: poison.reason.clone(),
            });
        }
        loop {
            match self.wire.park(message, poison).await {
                Ok(new) => {
                    tracing::error!(
                        stream = self.options.stream,
                        position = %message.position(),
                        table = &*message.table,
                        reason = poison.reason,
                        new,
                        "the row cannot be published: it is a dead letter"
                    );
                    if new {
                        self.metrics.parked(poison.kind);
                    }
                    self.pass_first();
                    return Ok(());
                }
                Err(error) => self.letters_away(error).await?,
            }
        }
    }

    fn pass_first(&mut self) {
        self.chain.drop_duplicate();
        self.singly = self.singly.saturating_sub(1);
        // What comes late about it must not count for the next message, which gets the same sequence.
        self.epoch += 1;
        self.done += 1;
        self.progressed = tokio::time::Instant::now();
        self.backoff.reset();
        self.refusals = 0;
        self.unheard_count = 0;
        self.unheard = None;
        self.report(None);
    }

    async fn letters_away(&mut self, error: WireError) -> Result<(), Stop> {
        self.wait_out("a dead letter cannot be stored or looked up", error).await
    }

    /// Waits where something that a message needs is away, and gives up where waiting does not help.
    pub(super) async fn wait_out(&mut self, what: &str, error: WireError) -> Result<(), Stop> {
        if !error.is_transient() {
            return Err(Stop::Wire { stream: self.options.stream.clone(), source: error });
        }
        let wait = self.backoff.wait().max(Duration::from_millis(1));
        tracing::warn!(stream = self.options.stream, %error, retry_in = ?wait, "{what}");
        self.report(Some(&format!("{what}: {error}")));
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
