//! Rows and messages of one part of the events, brought together by their ids. Pure.

use super::content::Digest;

/// An event's key, in two halves.
pub(super) type Half = [u64; 2];

/// A row, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowEntry {
    pub(super) key: Half,
    pub(super) content: Digest,
    /// When the row was inserted, in microseconds since the epoch; 0 if the table does not tell.
    pub(super) created: u64,
    /// The table's number.
    pub(super) table: u32,
}

/// A message, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageEntry {
    pub(super) key: Half,
    pub(super) content: Digest,
    /// A hash of its position.
    pub(super) position: u64,
    pub(super) sequence: u64,
}

/// Which events are looked at in one pass: all are, in the end, and each in one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) of: u64,
}

impl Part {
    pub(super) fn has(self, key: Half) -> bool {
        key[0] % self.of.max(1) == self.number
    }

    /// The two parts that it consists of.
    pub(super) fn halves(self) -> [Self; 2] {
        let of = self.of.saturating_mul(2);
        [self.number, self.number + self.of].map(|number| Self { number, of })
    }
}

/// The entries would need more memory than they may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The entries of one part.
#[derive(Debug)]
pub(super) struct Entries {
    rows: Vec<RowEntry>,
    messages: Vec<MessageEntry>,
    bytes_max: usize,
}

/// What was found in one part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Rows without a message.
    pub(super) missing: Vec<RowEntry>,
    /// Messages of an event that an earlier message has already told.
    pub(super) doubled: Vec<MessageEntry>,
    /// Messages that are not what their row says.
    pub(super) altered: Vec<MessageEntry>,
    /// Of the doubled ones those that are copies of another message, with its position.
    pub(super) copies: Vec<u64>,
    /// Rows that have a message.
    pub(super) matched: u64,
    /// Rows beyond the messages of their id, which several rows have: the server drops them.
    pub(super) repeated: u64,
    /// Messages without a row.
    pub(super) without_row: u64,
}

impl Entries {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { rows: Vec::new(), messages: Vec::new(), bytes_max }
    }

    fn grow(&self, more: usize) -> Result<(), Full> {
        let bytes = self.rows.len() * size_of::<RowEntry>() + self.messages.len() * size_of::<MessageEntry>();
        if bytes + more > self.bytes_max { Err(Full) } else { Ok(()) }
    }

    pub(super) fn add_row(&mut self, row: RowEntry) -> Result<(), Full> {
        self.grow(size_of::<RowEntry>())?;
        self.rows.push(row);
        Ok(())
    }

    pub(super) fn add_message(&mut self, message: MessageEntry) -> Result<(), Full> {
        self.grow(size_of::<MessageEntry>())?;
        self.messages.push(message);
        Ok(())
    }

    /// How many bytes the entries of so many rows and messages take.
    pub(super) fn bytes_of(rows: u64, messages: u64) -> u64 {
        let size = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        rows.saturating_mul(size(size_of::<RowEntry>()))
            .saturating_add(messages.saturating_mul(size(size_of::<MessageEntry>())))
    }

    /// Brings both sides together.
    pub(super) fn compare(&mut self) -> Differences {
        self.rows.sort_unstable_by_key(|row| row.key);
        self.messages.sort_unstable_by_key(|message| (message.key, message.sequence));
        let mut found = Differences::default();
        let (mut rows, mut messages) = (self.rows.as_slice(), self.messages.as_slice());
        loop {
            let key = match (rows.first(), messages.first()) {
                (Some(row), Some(message)) => row.key.min(message.key),
                (Some(row), None) => row.key,
                (None, Some(message)) => message.key,
                (None, None) => return found,
            };
            let (of_key, rest) = rows.split_at(rows.partition_point(|row| row.key == key));
            rows = rest;
            let (told, rest) = messages.split_at(messages.partition_point(|message| message.key == key));
            messages = rest;
            found.judge(of_key, told);
        }
    }
}

impl Differences {
    /// The rows and the messages of one event; one of the two lists may be empty.
    fn judge(&mut self, rows: &[RowEntry], messages: &[MessageEntry]) {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        if messages.is_empty() {
            self.missing.extend(rows);
            return;
        }
        let mut seen: Vec<&MessageEntry> = Vec::new();
        for message in messages {
            let copy = seen.iter().any(|other| other.position == message.position);
            if copy {
                self.copies.push(message.sequence);
            }
            // Where the row is gone nothing tells whether there were two of the same id.
            if copy || (!rows.is_empty() && seen.len() >= rows.len()) {
                self.doubled.push(*message);
            } else {
                seen.push(message);
            }
            if !rows.is_empty() && rows.iter().all(|row| row.content != message.content) {
                self.altered.push(*message);
            }
        }
        if rows.is_empty() {
            self.without_row += count(messages.len());
        } else {
            let matched = seen.len().min(rows.len());
            self.matched += count(matched);
            self.repeated += count(rows.len() - matched);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: u64, content: u64) -> RowEntry {
        RowEntry { key: [key, 0], content: [content, 0], created: 0, table: 0 }
    }

    fn message(key: u64, content: u64, position: u64, sequence: u64) -> MessageEntry {
        MessageEntry { key: [key, 0], content: [content, 0], position, sequence }
    }

    fn compare(rows: &[RowEntry], messages: &[MessageEntry]) -> Differences {
        let mut entries = Entries::new(usize::MAX);
        for row in rows {
            entries.add_row(*row).unwrap();
        }
        for message in messages {
            entries.add_message(*message).unwrap();
        }
        entries.compare()
    }

    #[test]
    fn each_row_has_one_message_that_is_what_it_says() {
        let rows = [row(3, 30), row(1, 10), row(2, 20)];
        let messages = [message(1, 10, 1, 1), message(2, 20, 2, 2), message(3, 30, 3, 3)];
        let found = compare(&rows, &messages);
        assert_eq!(found, Differences { matched: 3, ..Differences::default() });
    }

    #[test]
    fn what_is_wrong_is_found() {
        let rows = [row(1, 10), row(2, 20), row(3, 30), row(4, 40)];
        let messages = [
            message(2, 21, 2, 2),
            message(3, 30, 3, 3),
            message(3, 30, 3, 7),
            message(4, 40, 4, 4),
            message(4, 40, 9, 9),
            message(5, 50, 5, 5),
            message(6, 60, 6, 6),
            message(6, 60, 6, 8),
        ];
        let found = compare(&rows, &messages);
        assert_eq!(found.missing, [row(1, 10)]);
        assert_eq!(found.altered, [message(2, 21, 2, 2)]);
        let doubled: Vec<u64> = found.doubled.iter().map(|message| message.sequence).collect();
        assert_eq!((doubled.as_slice(), found.copies.as_slice()), (&[7, 9, 8][..], &[7, 8][..]));
        assert_eq!((found.matched, found.without_row, found.repeated), (3, 3, 0));
    }

    #[test]
    fn rows_that_share_an_id_may_share_a_message() {
        let rows = [row(1, 10), row(1, 11)];
        let one = compare(&rows, &[message(1, 10, 1, 1)]);
        assert_eq!((one.matched, one.repeated, one.missing.len()), (1, 1, 0));
        let two = compare(&rows, &[message(1, 10, 1, 1), message(1, 11, 2, 2)]);
        assert_eq!((two.matched, two.doubled.len(), two.altered.len()), (2, 0, 0));
        let three = compare(&rows, &[message(1, 10, 1, 1), message(1, 11, 2, 2), message(1, 11, 3, 3)]);
        assert_eq!(three.doubled.len(), 1);
    }

    #[test]
    fn the_parts_are_all_and_do_not_overlap() {
        for key in 0..100 {
            let parts = (0..7).filter(|number| Part { number: *number, of: 7 }.has([key, 1]));
            assert_eq!(parts.count(), 1);
        }
        assert!(Part { number: 0, of: 1 }.has([u64::MAX, 0]));
        let part = Part { number: 3, of: 7 };
        for key in 0..100 {
            let halves = part.halves().into_iter().filter(|half| half.has([key, 1])).count();
            assert_eq!(halves, usize::from(part.has([key, 1])), "{key}");
        }
    }

    #[test]
    fn entries_are_bounded() {
        let mut entries = Entries::new(3 * size_of::<MessageEntry>());
        let added = (0..100).take_while(|key| entries.add_message(message(*key, 0, 0, *key)).is_ok());
        assert_eq!(added.count(), 3);
        assert_eq!(entries.add_row(row(1, 1)), Err(Full));
        assert_eq!(Entries::bytes_of(0, 3), 3 * 48);
    }
}
