//! What a candidate concludes from what it sees of a record. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::record::{Holder, Record};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody has it.
    Free,
    /// It may be taken over in place of this revision.
    Abandoned(u64),
    /// Somebody has it.
    Held,
}

/// A candidate's memory of a record.
#[derive(Debug)]
pub(crate) struct Observer {
    holder: Holder,
    ttl: Duration,
    /// The revision that was seen last, and when it was seen first.
    seen: Option<(u64, Instant)>,
    /// Only a process that has just begun has a predecessor.
    fresh: bool,
}

impl Observer {
    pub(crate) fn new(holder: Holder, ttl: Duration) -> Self {
        Self { holder, ttl, seen: None, fresh: true }
    }

    /// The record with its revision, as it was just read.
    pub(crate) fn see(&mut self, record: Option<(&Record, u64)>, now: Instant) -> Verdict {
        let Some((record, revision)) = record else {
            self.seen = None;
            return Verdict::Free;
        };
        let since = match self.seen {
            Some((seen, since)) if seen == revision => since,
            _ => now,
        };
        self.seen = Some((revision, since));
        // Its own, which it gave up by its own clock and nobody has taken since.
        let own = record.holder == self.holder;
        let predecessor = self.fresh && self.holder.has_outlived(&record.holder);
        if own || predecessor || now - since >= self.ttl.max(record.ttl()) {
            Verdict::Abandoned(revision)
        } else {
            Verdict::Held
        }
    }

    /// The lease was got; whoever holds it after that is no predecessor.
    pub(crate) fn got(&mut self) {
        self.fresh = false;
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn holder(instance: &str, host: &str) -> Holder {
        Holder { instance: instance.into(), host: host.into(), process: u32::MAX }
    }

    fn observer() -> (Observer, Instant) {
        (Observer::new(holder("b", "here"), TTL), Instant::now())
    }

    #[test]
    fn it_is_abandoned_when_it_has_not_changed_for_a_lifetime() {
        let (mut observer, start) = observer();
        let record = Record::new(holder("a", "there"), TTL);
        let mut see =
            |revision, seconds| observer.see(Some((&record, revision)), start + Duration::from_secs(seconds));
        assert_eq!(see(5, 100), Verdict::Held, "how old it was before is not known");
        assert_eq!(see(5, 109), Verdict::Held);
        assert_eq!(see(6, 110), Verdict::Held, "renewed");
        assert_eq!(see(6, 119), Verdict::Held);
        assert_eq!(see(6, 120), Verdict::Abandoned(6));
    }

    #[test]
    fn the_longer_lifetime_counts() {
        let (mut observer, start) = observer();
        let record = Record::new(holder("a", "there"), TTL * 3);
        assert_eq!(observer.see(Some((&record, 1)), start), Verdict::Held);
        assert_eq!(observer.see(Some((&record, 1)), start + TTL * 2), Verdict::Held);
        assert_eq!(observer.see(Some((&record, 1)), start + TTL * 3), Verdict::Abandoned(1));
    }

    #[test]
    fn a_predecessor_is_not_waited_for_but_only_at_the_start() {
        let (mut observer, start) = observer();
        let record = Record::new(holder("a", "here"), TTL);
        assert_eq!(observer.see(Some((&record, 1)), start), Verdict::Abandoned(1));
        observer.got();
        assert_eq!(observer.see(Some((&record, 3)), start), Verdict::Held);
    }

    #[test]
    fn what_it_lost_and_nobody_took_is_its_own() {
        let (mut observer, start) = observer();
        observer.got();
        let record = Record::new(holder("b", "here"), TTL);
        assert_eq!(observer.see(Some((&record, 8)), start), Verdict::Abandoned(8));
    }

    #[test]
    fn a_deleted_record_is_free() {
        let (mut observer, start) = observer();
        let record = Record::new(holder("a", "there"), TTL);
        assert_eq!(observer.see(None, start), Verdict::Free);
        assert_eq!(observer.see(Some((&record, 1)), start), Verdict::Held);
        assert_eq!(observer.see(None, start + TTL), Verdict::Free);
        assert_eq!(observer.see(Some((&record, 1)), start + TTL), Verdict::Held, "seen anew");
    }
}
