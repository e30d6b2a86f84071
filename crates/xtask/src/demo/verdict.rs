//! Whether exactly the committed events arrived. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use uuid::Uuid;

/// An event as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: Uuid,
    /// Of subject and body.
    pub(super) digest: u64,
}

/// Stands for subject and body, so that a long demo need not keep them.
pub(super) fn digest(subject: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (subject, body).hash(&mut hasher);
    hasher.finish()
}

/// What is wrong with `arrived`; nothing if it is `expected`.
pub(super) fn problems(expected: &[Event], arrived: &[Event], rolled_back: &HashSet<Uuid>) -> Vec<String> {
    let wanted: HashMap<Uuid, u64> = expected.iter().map(|event| (event.id, event.digest)).collect();
    let mut problems = Problems::default();
    let mut firsts = Vec::with_capacity(arrived.len());
    let mut seen = HashSet::with_capacity(arrived.len());
    for event in arrived {
        match wanted.get(&event.id) {
            _ if !seen.insert(event.id) => problems.add("arrived twice", event.id),
            None if rolled_back.contains(&event.id) => {
                problems.add("arrived although it was rolled back", event.id);
            }
            None => problems.add("arrived and is not in the table", event.id),
            Some(digest) => {
                firsts.push(event.id);
                if *digest != event.digest {
                    problems.add("arrived with another subject or body", event.id);
                }
            }
        }
    }
    for event in expected.iter().filter(|event| !seen.contains(&event.id)) {
        problems.add("is missing", event.id);
    }
    let order = expected.iter().map(|event| event.id).filter(|id| seen.contains(id));
    if let Some((_, id)) = order.zip(&firsts).find(|(expected, arrived)| expected != *arrived) {
        problems.add("arrived out of order", *id);
    }
    problems.lines()
}

/// Counts by kind, each with the first id.
#[derive(Debug, Default)]
struct Problems(Vec<(&'static str, u64, Uuid)>);

impl Problems {
    fn add(&mut self, kind: &'static str, id: Uuid) {
        match self.0.iter_mut().find(|(known, ..)| *known == kind) {
            Some((_, count, _)) => *count += 1,
            None => self.0.push((kind, 1, id)),
        }
    }

    fn lines(self) -> Vec<String> {
        let line = |(kind, count, first): (&str, u64, Uuid)| match count {
            1 => format!("{first} {kind}"),
            count => format!("{first} {kind}, and so in {} more cases", count - 1),
        };
        self.0.into_iter().map(line).collect()
    }
}

/// Median and 99th percentile (nearest rank); `None` without values.
pub(super) fn percentiles(values: &[Duration]) -> Option<(Duration, Duration)> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied();
    Some((rank(50)?, rank(99)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u128) -> Event {
        Event { id: Uuid::from_u128(number), digest: 7 }
    }

    fn judge(arrived: &[u128]) -> Vec<String> {
        let expected = [1, 2, 3].map(event);
        let arrived: Vec<Event> = arrived.iter().copied().map(event).collect();
        problems(&expected, &arrived, &HashSet::from([Uuid::from_u128(9)]))
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        assert_eq!(judge(&[1, 2, 3]), Vec::<String>::new());
        for (arrived, words) in [
            (&[1, 2][..], &["is missing"][..]),
            (&[], &["is missing, and so in 2 more"]),
            (&[1, 2, 3, 2], &["arrived twice"]),
            (&[1, 9, 2, 3], &["rolled back"]),
            (&[1, 2, 3, 4], &["not in the table"]),
            (&[1, 3, 2], &["out of order"]),
            (&[3, 2], &["is missing", "out of order"]),
        ] {
            let problems = judge(arrived);
            assert_eq!(problems.len(), words.len(), "{arrived:?}: {problems:?}");
            for (problem, word) in problems.iter().zip(words) {
                assert!(problem.contains(word), "{arrived:?}: {problem}");
            }
        }
    }

    #[test]
    fn another_body_is_told() {
        let changed = Event { digest: 8, ..event(1) };
        let problems = problems(&[event(1)], &[changed], &HashSet::new());
        assert!(matches!(problems.as_slice(), [line] if line.contains("body")), "{problems:?}");
        assert_ne!(digest("a", b"bc"), digest("ab", b"c"));
    }

    #[test]
    fn nearest_rank() {
        let milliseconds =
            |count: u64| -> Vec<Duration> { (1..=count).rev().map(Duration::from_millis).collect() };
        let of =
            |count| percentiles(&milliseconds(count)).map(|(p50, p99)| (p50.as_millis(), p99.as_millis()));
        assert_eq!(of(0), None);
        assert_eq!(of(1), Some((1, 1)));
        assert_eq!(of(4), Some((2, 4)));
        assert_eq!(of(1000), Some((500, 990)));
    }
}
