//! What a look at rows and messages says; pure.

use std::collections::{HashMap, HashSet, VecDeque};

use outbox_event::Position;

/// By how much the clocks of the database and of NATS may differ.
pub(crate) const CLOCKS_DIFFER_MICROS: u64 = 60_000_000;
/// So many findings are remembered, so that each is counted once.
const REMEMBERED: usize = 10_000;

/// Rows, and the messages that were found when walking from a stream's end towards its beginning.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// When the row with this id was inserted, in microseconds since the epoch.
    rows: HashMap<String, u64>,
    /// Where the rows of the messages stood.
    messages: HashMap<String, Vec<String>>,
    later: Option<Position>,
    /// When the earliest of the messages was stored.
    reached: Option<u64>,
    /// Every message that the stream ever held was seen.
    whole: bool,
    doubled: HashSet<String>,
    reordered: HashSet<u64>,
}

impl Window {
    pub(super) fn new(rows: HashMap<String, u64>) -> Self {
        Self { rows, ..Self::default() }
    }

    /// Takes the message before the one that was taken last.
    pub(super) fn take(&mut self, sequence: u64, stored: u64, id: &str, position: &str) {
        self.reached = Some(self.reached.map_or(stored, |reached| reached.min(stored)));
        let known = self.messages.entry(id.to_owned()).or_default();
        let twice = known.iter().any(|other| other == position);
        if twice || (self.rows.contains_key(id) && !known.is_empty()) {
            self.doubled.insert(id.to_owned());
        }
        known.push(position.to_owned());
        let position = position.parse::<Position>().ok();
        if let (Some(position), Some(later)) = (&position, &self.later)
            && !twice
            && is_after(position, later)
        {
            self.reordered.insert(sequence);
        }
        if !twice {
            self.later = position.or(self.later.take());
        }
    }

    /// The walk has come to the first message that the stream ever had.
    pub(super) fn complete(&mut self) {
        self.whole = true;
    }

    /// Whether walking on can tell nothing more about the rows.
    pub(super) fn is_decided(&self) -> bool {
        self.whole || self.unfound().all(|(_, created)| self.is_passed(created))
    }

    fn unfound(&self) -> impl Iterator<Item = (&String, u64)> {
        self.rows
            .iter()
            .filter(|(id, _)| !self.messages.contains_key(*id))
            .map(|(id, created)| (id, *created))
    }

    /// Whether the message of a row would have been seen: it was not stored before the row was inserted.
    fn is_passed(&self, created: u64) -> bool {
        self.reached.is_some_and(|reached| created > reached.saturating_add(CLOCKS_DIFFER_MICROS))
    }

    /// The ids of the rows whose messages the stream lacks.
    pub(super) fn missing(&self) -> Vec<String> {
        let missing = self.unfound().filter(|(_, created)| self.whole || self.is_passed(*created));
        missing.map(|(id, _)| id.clone()).collect()
    }

    /// How many rows were judged.
    pub(super) fn checked(&self) -> usize {
        self.rows.len() - self.unfound().count() + self.missing().len()
    }

    pub(super) fn doubled(&self) -> impl Iterator<Item = &String> {
        self.doubled.iter()
    }

    pub(super) fn reordered(&self) -> impl Iterator<Item = &u64> {
        self.reordered.iter()
    }
}

/// Whether a row stood behind another one, for certain: in the same log of one server. After a failover names of files and
/// offsets come again, so the GTIDs have to say the same.
pub(crate) fn is_after(position: &Position, other: &Position) -> bool {
    if position.file != other.file || position.order() <= other.order() {
        return false;
    }
    match (number(&position.gtid), number(&other.gtid)) {
        (Some((origin, number)), Some((other_origin, other_number))) => {
            origin == other_origin && number >= other_number
        }
        (None, None) => position.gtid.is_empty() && other.gtid.is_empty(),
        _ => false,
    }
}

/// A GTID's origin, and its number there.
fn number(gtid: &str) -> Option<(&str, u64)> {
    let (origin, number) = gtid.rsplit_once([':', '-'])?;
    Some((origin, number.parse().ok()?))
}

/// What has been counted already.
#[derive(Debug, Default)]
pub(super) struct Counted {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Counted {
    /// Whether this was not counted before; from now on it is.
    pub(super) fn is_new(&mut self, finding: String) -> bool {
        if !self.known.insert(finding.clone()) {
            return false;
        }
        self.order.push_back(finding);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;

    fn window(rows: &[(&str, u64)]) -> Window {
        Window::new(rows.iter().map(|(id, created)| ((*id).to_owned(), *created)).collect())
    }

    fn position(number: u64) -> String {
        format!("uuid:{number}@binlog.000001:{}/0", number * 100)
    }

    #[test]
    fn a_row_is_missing_only_when_its_message_would_have_been_seen() {
        let mut window = window(&[("a", 10 * MINUTE), ("b", 10 * MINUTE), ("c", 10 * MINUTE)]);
        window.take(9, 11 * MINUTE, "c", &position(9));
        assert!(!window.is_decided() && window.missing().is_empty());
        window.take(8, 9 * MINUTE, "x", &position(8));
        assert!(!window.is_decided() && window.missing().is_empty(), "the clocks may differ");
        window.take(7, 9 * MINUTE - 1, "b", &position(7));
        assert!(window.is_decided());
        assert_eq!((window.missing(), window.checked()), (vec!["a".to_owned()], 3));
    }

    #[test]
    fn what_a_stream_has_dropped_at_its_beginning_is_not_missing() {
        let mut window = window(&[("a", 10 * MINUTE), ("b", 11 * MINUTE)]);
        window.take(9, 11 * MINUTE, "b", &position(9));
        assert_eq!((window.missing().len(), window.checked()), (0, 1));
        window.complete();
        assert_eq!((window.missing().len(), window.checked()), (1, 2));
    }

    #[test]
    fn doubles_and_order() {
        let mut window = window(&[("a", 1)]);
        for (sequence, id, number) in
            [(9, "d", 5), (8, "c", 3), (7, "b", 4), (6, "c", 3), (5, "a", 2), (4, "a", 1)]
        {
            window.take(sequence, 1, id, &position(number));
        }
        let mut doubled: Vec<_> = window.doubled().cloned().collect();
        doubled.sort();
        assert_eq!(doubled, ["a", "c"]);
        assert_eq!(window.reordered().collect::<Vec<_>>(), [&7]);
    }

    #[test]
    fn places_of_different_logs_are_not_compared() {
        let at = |text: &str| text.parse::<Position>().expect("a position");
        for (position, other, after) in [
            ("u:9@b.000001:900/0", "u:8@b.000001:800/0", true),
            ("u:9@b.000001:900/1", "u:9@b.000001:900/0", true),
            ("u:7@b.000001:900/0", "u:8@b.000001:800/0", false),
            ("v:9@b.000001:900/0", "u:8@b.000001:800/0", false),
            ("u:9@b.000002:900/0", "u:8@b.000001:800/0", false),
            ("0-1-9@b.000001:900/0", "0-1-8@b.000001:800/0", true),
            ("@b.000001:900/0", "@b.000001:800/0", true),
            ("@b.000001:700/0", "@b.000001:800/0", false),
        ] {
            assert_eq!(is_after(&at(position), &at(other)), after, "{position} {other}");
        }
    }

    #[test]
    fn each_finding_counts_once() {
        let mut counted = Counted::default();
        assert!(counted.is_new("a".into()) && !counted.is_new("a".into()));
        for number in 0..REMEMBERED {
            counted.is_new(number.to_string());
        }
        assert_eq!(counted.known.len(), REMEMBERED);
        assert!(counted.is_new("a".into()));
    }
}
