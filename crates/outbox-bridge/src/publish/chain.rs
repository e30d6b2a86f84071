//! What a writer knows of its stream, and what one reply about the stream's end changes in it.
//!
//! Pure. The invariant: the message at index `i` of the unstored ones is to get sequence `sequence + 1 + i`. Everything
//! that is learnt (an acknowledgement, the tail) either fits this or is reported as not fitting.

use std::collections::VecDeque;

use outbox_event::Position;

use super::Message;

/// A stream's end, out of one reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// The stream holds no message (it is new, or was purged).
    Empty {
        /// The last sequence that it gave out.
        last_sequence: u64,
    },
    /// The stream's last message.
    Message(TailMessage),
}

/// The last message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailMessage {
    /// Its sequence.
    pub sequence: u64,
    /// Where its row stood in the log.
    pub position: Position,
}

impl Tail {
    /// The last sequence according to this reply.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Empty { last_sequence } => *last_sequence,
            Self::Message(message) => message.sequence,
        }
    }
}

/// What a tail says about the messages on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// The first so many unstored messages are stored.
    Advanced(usize),
    /// The stream ends before what it has acknowledged: a stale leader answered, or the stream lost messages.
    Behind,
    /// The stream holds later rows than any that this writer has: another bridge, or this one's predecessor, wrote them.
    /// The writer goes on behind them.
    Ahead,
    /// The tail fits nothing that a bridge of this source could have written.
    Inconsistent(String),
}

/// A message does not fit what the stream holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stream's last message stood at {expected}, but the log has no such outbox row: it goes on with {found}; the \
     stream belongs to another server or its logs were reset, or a table was taken out of the configuration"
)]
pub struct NotInLog {
    expected: Box<Position>,
    found: Box<Position>,
}

/// An acknowledgement that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("acknowledged up to sequence {acknowledged}, but only up to {sent} was sent")]
pub struct Overrun {
    acknowledged: u64,
    sent: u64,
}

type Order = (u64, u64, u64);

/// Rows that the stream holds already and that the log will show again.
#[derive(Debug, Clone)]
struct Skip {
    /// Rows up to this one.
    until: Option<Position>,
    /// Whether the log must show the row at `until` itself.
    must_see: bool,
    seen: bool,
    /// And so many after it, which the stream held and which were purged or deleted.
    more: u64,
}

/// What a writer knows of its stream, and its messages that are not known to be stored.
#[derive(Debug)]
pub struct Chain {
    /// The stream's last sequence.
    sequence: u64,
    /// Where the row of the last stored message stood, if known.
    position: Option<Position>,
    unstored: VecDeque<Message>,
    unstored_bytes: usize,
    received: Option<Order>,
    skip: Option<Skip>,
    /// Whether a message of anybody else in the stream is more than this chain can live with.
    exclusive: bool,
}

impl Chain {
    /// A chain that goes on behind `sequence`.
    ///
    /// Rows up to `position` are stored; the log is read from an earlier place, and must show the row at `position` if
    /// `must_see`. After it come `more` rows that are stored too, though their messages are gone.
    #[must_use]
    pub fn new(sequence: u64, position: Option<Position>, must_see: bool, more: u64) -> Self {
        let skip = (position.is_some() || more > 0).then(|| Skip {
            until: position.clone(),
            must_see,
            seen: false,
            more,
        });
        Self {
            sequence,
            position,
            unstored: VecDeque::new(),
            unstored_bytes: 0,
            received: None,
            skip,
            exclusive: false,
        }
    }

    /// The same, but what another writer has stored is not taken for granted: its rows may be any, in any order, as they are
    /// when they come from a table instead of the log.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// The stream's last sequence, as far as known.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// A sequence and where the row that got it stood, as one consistent pair for a checkpoint.
    ///
    /// The sequence lies before [`Chain::sequence`] while rows are skipped by number alone.
    #[must_use]
    pub fn known(&self) -> (u64, Option<&Position>) {
        let uncertain = self.skip.as_ref().map_or(0, |skip| skip.more);
        (self.sequence.saturating_sub(uncertain), self.position.as_ref())
    }

    /// How many messages are not known to be stored.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unstored.len()
    }

    /// Whether all messages are known to be stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unstored.is_empty()
    }

    /// About how many bytes the unstored messages take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.unstored_bytes
    }

    /// The unstored message at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Message> {
        self.unstored.get(index)
    }

    /// How many of the first unstored messages make up whole transactions, as far as they are here: at most `max`, and so many
    /// if not even the first fits.
    #[must_use]
    pub fn whole_transactions(&self, max: usize) -> usize {
        let begins = |index: usize| match (self.unstored.get(index - 1), self.unstored.get(index)) {
            (Some(before), Some(message)) => {
                (&before.transaction.file, before.transaction.offset)
                    != (&message.transaction.file, message.transaction.offset)
            }
            _ => true,
        };
        let limit = max.min(self.unstored.len());
        (1..=limit).rev().find(|index| begins(*index)).unwrap_or(limit)
    }

    /// Takes the next message of the log; `false` if the stream holds it already.
    ///
    /// # Errors
    ///
    /// If the log went past the row that the stream ends with and did not show it.
    pub fn push(&mut self, message: Message) -> Result<bool, NotInLog> {
        let order = message.order();
        if self.received.is_some_and(|received| order <= received) {
            return Ok(false);
        }
        if let Some(skip) = &mut self.skip {
            if let Some(until) = &skip.until {
                let at = message.is_at(until);
                if at {
                    skip.seen = true;
                }
                if at || Some(order) < until.order() {
                    self.received = Some(order);
                    return Ok(false);
                }
                if skip.must_see && !skip.seen {
                    return Err(NotInLog {
                        expected: Box::new(until.clone()),
                        found: Box::new(message.position()),
                    });
                }
            }
            self.received = Some(order);
            if skip.more > 0 {
                skip.more -= 1;
                self.position = Some(message.position());
                return Ok(false);
            }
            self.skip = None;
        }
        self.received = Some(order);
        self.unstored_bytes += message.size();
        self.unstored.push_back(message);
        Ok(true)
    }

    /// Everything up to `sequence` is stored; gives the messages that were not known to be.
    ///
    /// # Errors
    ///
    /// If `sequence` lies past the last message.
    pub fn acknowledge(
        &mut self,
        sequence: u64,
    ) -> Result<std::collections::vec_deque::Drain<'_, Message>, Overrun> {
        let count = sequence.saturating_sub(self.sequence);
        let count =
            usize::try_from(count).ok().filter(|count| *count <= self.unstored.len()).ok_or(Overrun {
                acknowledged: sequence,
                sent: self.sequence.saturating_add(self.unstored.len() as u64),
            })?;
        Ok(self.take(count))
    }

    /// Whether rows are passed by number alone just now.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.skip.as_ref().is_some_and(|skip| skip.more > 0)
    }

    /// Passes a row of the log that is a dead letter while rows are passed by number: it never had one.
    pub fn pass(&mut self, message: &Message) {
        let order = message.order();
        if self.received.is_none_or(|received| received < order) {
            self.received = Some(order);
        }
    }

    /// The first message is dealt with though it was not stored: its id is known to the stream, or its row is a dead letter.
    pub fn drop_duplicate(&mut self) -> Option<Message> {
        let message = self.unstored.pop_front()?;
        self.unstored_bytes = self.unstored_bytes.saturating_sub(message.size());
        Some(message)
    }

    /// Brings the chain in line with the stream's end as one reply tells it.
    pub fn settle(&mut self, tail: &Tail) -> Located {
        let sequence = tail.sequence();
        if sequence < self.sequence {
            return Located::Behind;
        }
        let ahead = sequence - self.sequence;
        let message = match tail {
            // Purged, or consumed from a work queue.
            Tail::Empty { .. } => return self.settle_by_number(ahead),
            Tail::Message(message) => message,
        };
        if ahead == 0 {
            return match &self.position {
                Some(known) if *known != message.position => Located::Inconsistent(format!(
                    "message {sequence} stood at {known} and now claims {}",
                    message.position
                )),
                _ => {
                    self.position = Some(message.position.clone());
                    Located::Advanced(0)
                }
            };
        }
        let index = usize::try_from(ahead - 1).ok();
        if index.and_then(|index| self.unstored.get(index)).is_some_and(|sent| sent.is_at(&message.position))
        {
            let count = index.map_or(0, |index| index + 1);
            self.take(count);
            return Located::Advanced(count);
        }
        if self.exclusive {
            return self.foreign(sequence);
        }
        let Some(order) = message.position.order() else {
            return Located::Inconsistent(format!("{} is no place in a log", message.position));
        };
        let known = self.position.as_ref().and_then(Position::order);
        if known.is_some_and(|known| order <= known) {
            return Located::Inconsistent(format!(
                "message {sequence} stood at {}, before {}, which has an earlier sequence",
                message.position,
                self.position.as_ref().map(ToString::to_string).unwrap_or_default()
            ));
        }
        // Another writer's rows are the same rows in the same order, so what it has stored need not be sent again.
        let stored = self.unstored.iter().take_while(|sent| sent.order() <= order).count();
        let seen = self.unstored.iter().any(|sent| sent.is_at(&message.position));
        if stored > 0 && !seen && self.received.is_some_and(|received| order <= received) {
            return Located::Inconsistent(format!(
                "the log has no row at {}, where message {sequence} stood",
                message.position
            ));
        }
        self.take(stored);
        self.sequence = sequence;
        self.position = Some(message.position.clone());
        if self.received.is_none_or(|received| received < order) {
            self.skip = Some(Skip { until: self.position.clone(), must_see: true, seen: false, more: 0 });
        }
        Located::Ahead
    }

    /// The stream's last sequence is `sequence`, though the messages at its end were deleted: goes on by number alone.
    /// `None` if the stream has acknowledged more.
    pub fn settle_deleted(&mut self, sequence: u64) -> Option<Located> {
        Some(self.settle_by_number(sequence.checked_sub(self.sequence)?))
    }

    /// So many more sequences were given out. Only bridges of this source can have got them, and each stores the same
    /// rows in the same order.
    fn settle_by_number(&mut self, count: u64) -> Located {
        let known = usize::try_from(count).unwrap_or(usize::MAX).min(self.unstored.len());
        self.take(known);
        let more = count - known as u64;
        if more == 0 {
            return Located::Advanced(known);
        }
        if self.exclusive {
            return self.foreign(self.sequence + more);
        }
        self.sequence += more;
        self.skip.get_or_insert(Skip { until: None, must_see: false, seen: false, more: 0 }).more += more;
        Located::Ahead
    }

    fn foreign(&self, sequence: u64) -> Located {
        Located::Inconsistent(format!("somebody else has stored messages in it, up to {sequence}"))
    }

    fn take(&mut self, count: usize) -> std::collections::vec_deque::Drain<'_, Message> {
        let count = count.min(self.unstored.len());
        self.sequence += count as u64;
        if let Some(last) = count.checked_sub(1).and_then(|last| self.unstored.get(last)) {
            self.position = Some(last.position());
        }
        let bytes: usize = self.unstored.iter().take(count).map(Message::size).sum();
        self.unstored_bytes = self.unstored_bytes.saturating_sub(bytes);
        self.unstored.drain(..count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::TransactionId;
    use super::*;

    fn message(offset: u64, row: u64) -> Message {
        Message {
            transaction: Arc::new(TransactionId {
                gtid: format!("0-1-{offset}"),
                file: "binlog.000001".into(),
                file_number: 1,
                offset,
                committed_micros: 0,
            }),
            row,
            table: "a.b".into(),
            subject: "s".into(),
            id: format!("{offset}/{row}"),
            headers: Vec::new(),
            body: Bytes::new(),
            poison: None,
        }
    }

    fn tail(sequence: u64, at: &Message) -> Tail {
        Tail::Message(TailMessage { sequence, position: at.position() })
    }

    fn chain(sequence: u64, offsets: impl IntoIterator<Item = u64>) -> Chain {
        let mut chain = Chain::new(sequence, None, false, 0);
        for offset in offsets {
            assert_eq!(chain.push(message(offset, 0)), Ok(true));
        }
        chain
    }

    #[test]
    fn an_acknowledgement_covers_all_before_it() {
        let mut chain = chain(10, 1..=5);
        assert_eq!(chain.acknowledge(13).unwrap().len(), 3);
        assert_eq!((chain.sequence(), chain.len()), (13, 2));
        assert_eq!(chain.acknowledge(12).unwrap().len(), 0, "an older one changes nothing");
        assert!(chain.acknowledge(16).is_err());
    }

    #[test]
    fn a_tail_among_the_sent_ones_says_how_many_are_stored() {
        let mut chain = chain(10, 1..=5);
        assert_eq!(chain.settle(&tail(12, &message(2, 0))), Located::Advanced(2));
        assert_eq!(chain.settle(&tail(12, &message(2, 0))), Located::Advanced(0));
        assert_eq!(chain.settle(&tail(11, &message(1, 0))), Located::Behind);
        assert!(matches!(chain.settle(&tail(12, &message(1, 0))), Located::Inconsistent(_)));
    }

    #[test]
    fn transactions_stay_whole_where_they_fit() {
        let mut chain = Chain::new(0, None, false, 0);
        for (offset, rows) in [(1, 2), (2, 1), (3, 5)] {
            for row in 0..rows {
                assert_eq!(chain.push(message(offset, row)), Ok(true));
            }
        }
        for (max, whole) in [(1, 1), (2, 2), (3, 3), (4, 3), (7, 3), (8, 8), (100, 8)] {
            assert_eq!(chain.whole_transactions(max), whole, "of at most {max}");
        }
        chain.acknowledge(3).unwrap();
        assert_eq!(chain.whole_transactions(4), 4, "the first alone is larger");
        assert_eq!(Chain::new(0, None, false, 0).whole_transactions(4), 0);
    }

    #[test]
    fn a_purged_stream_still_counts() {
        let mut chain = chain(10, 1..=5);
        assert_eq!(chain.settle(&Tail::Empty { last_sequence: 13 }), Located::Advanced(3));
        assert_eq!(chain.settle(&Tail::Empty { last_sequence: 17 }), Located::Ahead);
        assert_eq!((chain.sequence(), chain.known().0, chain.len()), (17, 15, 0));
        assert_eq!(chain.push(message(6, 0)), Ok(false));
        assert_eq!(chain.push(message(7, 0)), Ok(false));
        assert_eq!(chain.push(message(8, 0)), Ok(true));
    }

    #[test]
    fn rows_of_another_writer_are_not_sent_again() {
        let mut chain = chain(10, 1..=3);
        assert_eq!(chain.settle(&tail(15, &message(5, 0))), Located::Ahead);
        assert_eq!((chain.len(), chain.sequence()), (0, 15));
        assert_eq!(chain.push(message(4, 0)), Ok(false));
        assert_eq!(chain.push(message(5, 0)), Ok(false));
        assert_eq!(chain.push(message(6, 0)), Ok(true));
    }

    #[test]
    fn a_tail_that_the_log_does_not_have_is_refused() {
        let mut chain = Chain::new(7, Some(message(4, 1).position()), true, 0);
        assert_eq!(chain.push(message(4, 0)), Ok(false));
        assert!(chain.push(message(5, 0)).is_err());
        let mut chain = Chain::new(7, Some(message(4, 1).position()), false, 0);
        assert_eq!(chain.push(message(5, 0)), Ok(true), "covered by the checkpoint");
    }

    #[test]
    fn rows_that_were_stored_and_deleted_are_skipped_by_number() {
        let mut chain = Chain::new(9, Some(message(4, 0).position()), false, 2);
        for (offset, taken, known) in
            [(3, false, 7), (4, false, 7), (5, false, 8), (6, false, 9), (7, true, 9)]
        {
            assert_eq!(chain.push(message(offset, 0)), Ok(taken), "{offset}");
            assert_eq!(chain.known().0, known, "{offset}");
        }
    }

    #[test]
    fn rows_read_again_are_taken_once() {
        let mut chain = chain(0, [1, 2]);
        assert_eq!(chain.push(message(1, 0)), Ok(false));
        assert_eq!(chain.push(message(2, 0)), Ok(false));
        assert_eq!(chain.push(message(2, 1)), Ok(true));
    }
}
