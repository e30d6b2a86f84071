//! How a writer gets out of a doubt: it asks the stream where it ends, and goes on from that one answer.

use tokio::time::Instant;

use super::Writer;
use crate::diagnosis::Code;
use crate::publish::{
    Located, Tail,
    stop::{Doubt, Stop, code},
    wire::{Wire, WireError},
};

/// So often in a row may another writer be found ahead. One is normal: what a killed predecessor had on its way.
const CONFLICTS_MAX: u32 = 3;
/// So often in a row may nothing take a message, though the stream is there, until its subjects are looked at.
const UNHEARD_MAX: u32 = 3;
/// So often in a row may the stream refuse the right sequence until its state is looked at.
const REFUSALS_MAX: u32 = 4;
/// Unanswered questions until the connection is given up.
const UNANSWERED_MAX: u32 = 3;

impl<W: Wire> Writer<W> {
    /// Backs off, lets what is in flight settle, and asks the stream where it ends until that is known.
    pub(super) async fn resume(&mut self, doubt: Doubt) -> Result<(), Stop> {
        self.metrics.resumed(doubt.label());
        if let Doubt::Refused(code, description) = &doubt {
            tracing::warn!(stream = self.options.stream, code, description, "the stream refused a message");
        }
        let wrong_last_sequence = matches!(doubt, Doubt::Refused(code::WRONG_LAST_SEQUENCE, _));
        let trouble = doubt.describe();
        let mut unanswered = 0;
        let mut behind_since = None;
        let mut missing_since = None;
        loop {
            let unheard = self.unheard.clone();
            self.report(Some(unheard.as_ref().unwrap_or(&trouble)));
            tokio::time::sleep(self.backoff.wait()).await;
            let tail = match self.wire.read_tail().await {
                Ok(tail) => tail,
                Err(error) if error.is_transient() => {
                    unanswered += 1;
                    tracing::warn!(stream = self.options.stream, %error, "the stream's last message cannot be read yet");
                    if unanswered % UNANSWERED_MAX == 0 {
                        self.wire.reconnect().await;
                    }
                    continue;
                }
                // A cluster that has just restarted may not know all its streams yet.
                Err(WireError::NoStream { .. })
                    if missing_since.get_or_insert_with(Instant::now).elapsed()
                        < self.options.behind_patience =>
                {
                    continue;
                }
                Err(source) => return Err(Stop::Wire { stream: self.options.stream.clone(), source }),
            };
            let acknowledged = self.chain.sequence();
            let before = self.chain.len();
            // In a stream that keeps what it has, a sequence whose message is gone could be anybody's.
            if let Tail::Empty { last_sequence } = tail
                && last_sequence > acknowledged
                && !self.options.consumed
            {
                return Err(self.unaccounted(last_sequence));
            }
            let located = self.chain.settle(&tail);
            if located != Located::Advanced(0) {
                self.suspect = None;
            }
            match located {
                Located::Advanced(0) if wrong_last_sequence && self.refusals >= REFUSALS_MAX => {
                    self.refusals = 0;
                    self.check_deleted_tail().await?;
                }
                Located::Advanced(count) => {
                    self.refusals += u32::from(wrong_last_sequence && count == 0);
                    if count == 0 && !(wrong_last_sequence && self.refusals < 2) {
                        self.diagnose_first(&doubt).await?;
                    }
                }
                Located::Ahead => {
                    self.parking.forget();
                    self.conflicts += 1;
                    if self.conflicts > CONFLICTS_MAX {
                        return Err(Stop::Conflict { stream: self.options.stream.clone() });
                    }
                }
                Located::Inconsistent(reason) => {
                    return Err(Stop::Inconsistent { stream: self.options.stream.clone(), reason });
                }
                Located::Behind => {
                    let since = *behind_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.options.behind_patience {
                        self.accept_deleted_tail(&tail, acknowledged).await?;
                    } else {
                        continue;
                    }
                }
            }
            let found = before - self.chain.len();
            self.look_for_listener(&doubt, found).await;
            self.done += found as u64;
            if found > 0 {
                self.backoff.reset();
                self.refusals = 0;
            }
            tracing::info!(
                stream = self.options.stream,
                cause = doubt.label(),
                sequence = self.chain.sequence(),
                found_stored = found,
                "resumed from the stream's last message"
            );
            return Ok(());
        }
    }

    /// The stream ends before what it acknowledged, and stays so: either its last messages were deleted by hand, which
    /// its last sequence tells, or it has lost them.
    async fn accept_deleted_tail(&mut self, tail: &Tail, acknowledged: u64) -> Result<(), Stop> {
        let behind =
            Stop::Behind { stream: self.options.stream.clone(), tail: tail.sequence(), acknowledged };
        match self.wire.read_last_sequence().await {
            Ok(last) if last > acknowledged && !self.options.consumed => Err(self.unaccounted(last)),
            Ok(last) => {
                if self.chain.settle_deleted(last).is_none() {
                    return Err(behind);
                }
                tracing::warn!(
                    stream = self.options.stream,
                    sequence = last,
                    "the stream's last messages were deleted; going on behind them"
                );
                Ok(())
            }
            Err(_) => Err(behind),
        }
    }

    /// The stream refuses the sequence behind its last message again and again: messages behind it were deleted.
    async fn check_deleted_tail(&mut self) -> Result<(), Stop> {
        match self.wire.read_last_sequence().await {
            Ok(last) if last > self.chain.sequence() => Err(Stop::Inconsistent {
                stream: self.options.stream.clone(),
                reason: format!(
                    "its last message is {}, its last sequence {last}: messages between were deleted, and nothing tells \
                     whether they were rows of the outbox",
                    self.chain.sequence()
                ),
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The stream gave out sequences up to `last`, this bridge knows of fewer, and their messages are gone.
    fn unaccounted(&self, last: u64) -> Stop {
        Stop::Inconsistent {
            stream: self.options.stream.clone(),
            reason: format!(
                "its last sequence is {last}, but this bridge knows of nothing after {}, and the messages between are \
                 purged or deleted: nothing tells whether they were rows of the outbox",
                self.chain.sequence()
            ),
        }
    }

    /// If nothing takes messages again and again, though the stream is there, says what its subjects lack.
    async fn look_for_listener(&mut self, doubt: &Doubt, found: usize) {
        if !matches!(doubt, Doubt::NoResponders) || found > 0 {
            self.unheard_count = 0;
            self.unheard = None;
            return;
        }
        self.unheard_count += 1;
        if self.unheard_count < UNHEARD_MAX {
            return;
        }
        let Some(subject) = self.chain.get(0).map(|message| message.subject.clone()) else { return };
        match self.wire.takes(&subject).await {
            Ok(false) => {
                let text = format!(
                    "the subjects of stream {} do not cover {subject} any more: add it, or the bridge waits for ever [{}]",
                    self.options.stream,
                    Code::STREAM_SILENT
                );
                tracing::error!(stream = self.options.stream, subject = &*subject, "{text}");
                self.unheard = Some(text);
            }
            Ok(true) | Err(_) => self.unheard = None,
        }
    }
}
