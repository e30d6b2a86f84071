//! What the instances of a consumer write down about each other. Pure: no I/O, no clock.
//!
//! There is one record, and every change of it is a compare-and-set, so that two instances never have the same partition:
//! an instance adds a partition to its own only where nobody has it, and leaves it only when it has stopped working on it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The version of the record. An instance leaves a later one alone.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The instances that are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    /// How many partitions there are.
    pub(crate) partitions: u16,
    /// In the order in which they came.
    pub(crate) members: Vec<Member>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) instance: String,
    /// Its signs of life so far.
    pub(crate) beats: u64,
    /// The partitions that nobody else may touch.
    pub(crate) holds: BTreeSet<u16>,
}

impl Record {
    pub(crate) fn new(partitions: u16) -> Self {
        Self { version: FORMAT_VERSION, partitions, members: Vec::new() }
    }

    pub(crate) fn member(&self, instance: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.instance == instance)
    }

    /// The record without some instances.
    pub(crate) fn without(mut self, gone: &[String]) -> Self {
        self.members.retain(|member| !gone.contains(&member.instance));
        self
    }

    /// The record after a sign of life of `instance`, which is added if it is not there, gives back `released`, and, unless
    /// it is leaving, takes what is free up to its share.
    pub(crate) fn beat(mut self, instance: &str, released: &BTreeSet<u16>, leaving: bool) -> Self {
        if self.member(instance).is_none() {
            let holds = BTreeSet::new();
            self.members.push(Member { instance: instance.to_owned(), beats: 0, holds });
        }
        if let Some(member) = self.members.iter_mut().find(|member| member.instance == instance) {
            member.holds.retain(|partition| !released.contains(partition));
        }
        let held: BTreeSet<u16> = self.members.iter().flat_map(|member| &member.holds).copied().collect();
        let share = if leaving { 0 } else { self.share(instance) };
        let mut free = (0..self.partitions).filter(|partition| !held.contains(partition));
        if let Some(member) = self.members.iter_mut().find(|member| member.instance == instance) {
            member.beats += 1;
            while member.holds.len() < share {
                let Some(partition) = free.next() else { break };
                member.holds.insert(partition);
            }
        }
        self
    }

    /// How many partitions an instance is to have. What does not divide goes to those that came first, so that a
    /// newcomer moves as little as possible.
    pub(crate) fn share(&self, instance: &str) -> usize {
        let Some(rank) = self.members.iter().position(|member| member.instance == instance) else { return 0 };
        let (partitions, members) = (usize::from(self.partitions), self.members.len());
        partitions / members + usize::from(rank < partitions % members)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn nothing() -> BTreeSet<u16> {
        BTreeSet::new()
    }

    #[test]
    fn the_first_takes_all_and_a_newcomer_its_share() {
        let record = Record::new(5).beat("a", &nothing(), false);
        assert_eq!(record.member("a").unwrap().holds.len(), 5);
        let record = record.beat("b", &nothing(), false);
        assert_eq!((record.share("a"), record.share("b")), (3, 2));
        assert!(record.member("b").unwrap().holds.is_empty(), "until they are given back");
        let record = record.beat("a", &BTreeSet::from([3, 4]), false).beat("b", &nothing(), false);
        assert_eq!(record.member("a").unwrap().holds, BTreeSet::from([0, 1, 2]));
        assert_eq!(record.member("b").unwrap().holds, BTreeSet::from([3, 4]));
        let record = record.without(&["a".to_owned()]).beat("b", &nothing(), false);
        assert_eq!(record.member("b").unwrap().holds.len(), 5);
    }

    #[test]
    fn who_leaves_takes_nothing_more() {
        let record = Record::new(2).beat("a", &nothing(), false).beat("b", &nothing(), false);
        let record = record.beat("a", &BTreeSet::from([0]), true);
        assert_eq!(record.member("a").unwrap().holds, BTreeSet::from([1]));
        let record = record.beat("b", &nothing(), false).beat("a", &BTreeSet::from([1]), true);
        assert!(record.member("a").unwrap().holds.is_empty());
        assert_eq!(
            record.member("b").unwrap().holds,
            BTreeSet::from([0]),
            "its share while the other is there"
        );
    }

    #[test]
    fn one_partition_stays_where_it_is() {
        let record = Record::new(1).beat("b", &nothing(), false).beat("a", &nothing(), false);
        assert_eq!((record.share("b"), record.share("a")), (1, 0));
        assert_eq!(record.share("c"), 0);
    }

    #[test]
    fn the_record_is_readable() {
        let record = Record::new(2).beat("a", &nothing(), false);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(
            json,
            r#"{"version":1,"partitions":2,"members":[{"instance":"a","beats":1,"holds":[0,1]}]}"#
        );
    }

    proptest! {
        /// However instances come, go and beat: none has what another has, and in the end all is shared evenly.
        #[test]
        fn partitions_have_one_holder(partitions in 1_u16..20, steps in prop::collection::vec((0_u8..4, 0_usize..5), 0..80)) {
            let names = ["a", "b", "c", "d", "e"];
            let mut record = Record::new(partitions);
            let check = |record: &Record| {
                let mut seen = BTreeMap::new();
                for member in &record.members {
                    for partition in &member.holds {
                        assert_eq!(seen.insert(*partition, &member.instance), None);
                        assert!(*partition < record.partitions);
                    }
                }
            };
            let beat = |record: Record, name: &str| {
                let surplus = record.member(name).map(|member| {
                    let extra = member.holds.len().saturating_sub(record.share(name));
                    member.holds.iter().rev().take(extra).copied().collect::<BTreeSet<_>>()
                });
                record.beat(name, &surplus.unwrap_or_default(), false)
            };
            for (step, who) in steps {
                record = match step {
                    0 => record.without(&[names[who].to_owned()]),
                    _ => beat(record, names[who]),
                };
                check(&record);
            }
            record = record.beat("a", &BTreeSet::new(), false);
            for _ in 0..3 {
                for member in record.members.clone() {
                    record = beat(record, &member.instance);
                    check(&record);
                }
            }
            for member in &record.members {
                prop_assert_eq!(member.holds.len(), record.share(&member.instance));
            }
        }
    }
}
