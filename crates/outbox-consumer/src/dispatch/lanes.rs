//! Which message may begin next. Pure: no I/O, no clock.
//!
//! Messages without a key are one after another in the order of their arrival, and any number of them may run. Of the
//! messages of one key one may run, and the others wait in the order of the stream, also while that one waits for its
//! next attempt.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::in_hand::Source;

/// A message in hand: which durable consumer brought it, and its sequence in that one's stream.
pub(crate) type Ticket = (Source, u64);

/// A place in the order of a key.
pub(crate) type Place = (u8, u64);

/// The messages of one key.
#[derive(Debug, Default)]
struct Lane {
    /// The ones that wait, by their place.
    waiting: BTreeSet<(Place, Ticket)>,
    /// Whether one of them runs, or waits for its next attempt.
    busy: bool,
}

/// All messages that have not begun.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    keyless: VecDeque<Ticket>,
    lanes: HashMap<Arc<str>, Lane>,
    /// Keys whose lane is not busy and not empty; each stands here once.
    ready: VecDeque<Arc<str>>,
}

impl Lanes {
    /// A message arrived, or is to begin again. `place` is its place among those of its key.
    pub(crate) fn push(&mut self, key: Option<&Arc<str>>, place: Place, ticket: Ticket) {
        let Some(key) = key else {
            self.keyless.push_back(ticket);
            return;
        };
        let lane = self.lanes.entry(Arc::clone(key)).or_default();
        if lane.waiting.is_empty() && !lane.busy {
            self.ready.push_back(Arc::clone(key));
        }
        lane.waiting.insert((place, ticket));
    }

    /// The message that begins now, if any may.
    pub(crate) fn begin(&mut self) -> Option<Ticket> {
        if let Some(ticket) = self.keyless.pop_front() {
            return Some(ticket);
        }
        let key = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        let (_, ticket) = lane.waiting.pop_first()?;
        lane.busy = true;
        Some(ticket)
    }

    /// The message of this key that began has ended, or goes back by [`push`](Self::push).
    pub(crate) fn end(&mut self, key: Option<&Arc<str>>) {
        let Some(key) = key else { return };
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.busy = false;
        if lane.waiting.is_empty() {
            self.lanes.remove(key);
        } else {
            self.ready.push_back(Arc::clone(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket(place: u64) -> Ticket {
        (Source::Stream, place)
    }

    fn push(lanes: &mut Lanes, key: &str, place: u64) {
        lanes.push(Some(&key.into()), (1, place), ticket(place));
    }

    #[test]
    fn one_of_a_key_at_a_time_in_the_order_of_the_stream() {
        let mut lanes = Lanes::default();
        push(&mut lanes, "a", 5);
        push(&mut lanes, "a", 3);
        push(&mut lanes, "b", 4);
        assert_eq!(lanes.begin(), Some(ticket(3)), "the older one, though it came later");
        assert_eq!(lanes.begin(), Some(ticket(4)));
        assert_eq!(lanes.begin(), None, "both keys are busy");
        push(&mut lanes, "a", 2);
        lanes.end(Some(&"a".into()));
        assert_eq!(lanes.begin(), Some(ticket(2)));
        lanes.end(Some(&"a".into()));
        assert_eq!(lanes.begin(), Some(ticket(5)));
        lanes.end(Some(&"a".into()));
        lanes.end(Some(&"b".into()));
        assert!(lanes.lanes.is_empty());
    }

    #[test]
    fn one_that_goes_back_is_the_first_of_its_key() {
        let mut lanes = Lanes::default();
        push(&mut lanes, "a", 1);
        push(&mut lanes, "a", 2);
        assert_eq!(lanes.begin(), Some(ticket(1)));
        push(&mut lanes, "a", 1);
        lanes.end(Some(&"a".into()));
        assert_eq!(lanes.begin(), Some(ticket(1)));
        assert_eq!(lanes.begin(), None);
    }

    #[test]
    fn messages_without_a_key_do_not_wait() {
        let mut lanes = Lanes::default();
        lanes.push(None, (1, 1), ticket(1));
        lanes.push(None, (1, 2), ticket(2));
        assert_eq!((lanes.begin(), lanes.begin(), lanes.begin()), (Some(ticket(1)), Some(ticket(2)), None));
    }

    proptest! {
        /// Whatever is pushed, begun and ended in whatever order: one of a key at a time, each once, in order.
        #[test]
        fn order_and_exclusion_hold(steps in prop::collection::vec((0u8..3, 0u8..4), 1..200)) {
            let mut lanes = Lanes::default();
            let (mut running, mut last, mut place) = (Vec::<(String, u64)>::new(), HashMap::new(), 0);
            let mut begun = 0;
            let mut keys = HashMap::new();
            for (step, key) in steps {
                match step {
                    0 => {
                        place += 1;
                        keys.insert(place, key.to_string());
                        push(&mut lanes, &key.to_string(), place);
                    }
                    1 => if let Some((_, ticket)) = lanes.begin() {
                        let key = keys[&ticket].clone();
                        prop_assert!(running.iter().all(|(other, _)| *other != key));
                        prop_assert!(last.insert(key.clone(), ticket).is_none_or(|before| before < ticket));
                        running.push((key, ticket));
                        begun += 1;
                    },
                    _ => if let Some((key, _)) = running.pop() {
                        lanes.end(Some(&key.into()));
                    },
                }
            }
            while let Some((key, _)) = running.pop() {
                lanes.end(Some(&key.into()));
            }
            while let Some((_, ticket)) = lanes.begin() {
                lanes.end(Some(&keys[&ticket].as_str().into()));
                begun += 1;
            }
            prop_assert_eq!(begun, place);
            prop_assert!(lanes.lanes.is_empty() && lanes.ready.is_empty());
        }
    }
}
