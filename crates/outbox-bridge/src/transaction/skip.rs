//! Which transactions are done already, by their GTIDs.

use std::collections::BTreeMap;

use crate::source::{
    connection::Flavour,
    gtid::{Gtid, GtidSet},
};

/// What to skip, after a start from a set of GTIDs and with MySQL always.
#[derive(Debug)]
pub(super) enum Skip {
    /// MySQL's sets are exact, so whatever is in the executed set is skipped.
    Members,
    /// MariaDB's sets name the last transaction of each domain. Each domain is skipped up to that one, and no further:
    /// behind it the numbers of a server that is not strict may be lower again.
    UpTo(BTreeMap<u32, u64>),
}

impl Skip {
    /// What to skip; `executed` is the set from which reading starts, if it does.
    pub(super) fn new(flavour: Flavour, executed: Option<&GtidSet>) -> Self {
        match (flavour, executed) {
            (Flavour::MySql, _) => Self::Members,
            (Flavour::MariaDb, Some(GtidSet::MariaDb(list))) => {
                Self::UpTo(list.gtids.iter().map(|last| (last.domain_id, last.sequence)).collect())
            }
            (Flavour::MariaDb, _) => Self::UpTo(BTreeMap::new()),
        }
    }

    /// Whether the transaction that begins now, which has this GTID, is done already.
    pub(super) fn is_done(&self, gtid: &Gtid, executed: Option<&GtidSet>) -> bool {
        match (self, gtid) {
            (Self::Members, _) => executed.is_some_and(|executed| executed.contains(gtid)),
            (Self::UpTo(domains), Gtid::MariaDb { domain, sequence, .. }) => {
                domains.get(domain).is_some_and(|last| sequence <= last)
            }
            (Self::UpTo(_), Gtid::MySql { .. }) => false,
        }
    }

    /// The transaction with this GTID has ended. That it began is not enough: a server that dies in the midst of writing
    /// one gives its GTID out again.
    pub(super) fn pass(&mut self, gtid: &Gtid) {
        if let (Self::UpTo(domains), Gtid::MariaDb { domain, sequence, .. }) = (self, gtid)
            && domains.get(domain).is_some_and(|last| sequence >= last)
        {
            domains.remove(domain);
        }
    }

    /// A log file begins, and this is what stands before it.
    pub(super) fn pass_all(&mut self, before: &GtidSet) {
        if let Self::UpTo(domains) = self {
            domains.retain(|domain, last| {
                !before.contains(&Gtid::MariaDb { domain: *domain, server_id: 0, sequence: *last })
            });
        }
    }

    /// Whether a restart must skip by the set again: some domain is not past its last transaction yet.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self, Self::UpTo(domains) if !domains.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gtid(domain: u32, sequence: u64) -> Gtid {
        Gtid::MariaDb { domain, server_id: 1, sequence }
    }

    fn set(text: &str) -> GtidSet {
        GtidSet::parse(text, Flavour::MariaDb).unwrap()
    }

    #[test]
    fn each_domain_is_skipped_up_to_its_own_last_transaction() {
        let mut skip = Skip::new(Flavour::MariaDb, Some(&set("0-1-3,1-1-2,5-1-9")));
        for (domain, sequence, done) in [
            (0, 2, true),
            (1, 1, true),
            (0, 3, true),
            (0, 4, false),
            (2, 1, false),
            (1, 2, true),
            (1, 3, false),
            // Numbers that go back are new transactions.
            (0, 1, false),
            (1, 1, false),
        ] {
            assert_eq!(skip.is_done(&gtid(domain, sequence), None), done, "{domain}-1-{sequence}");
            skip.pass(&gtid(domain, sequence));
        }
        assert!(skip.is_under_way(), "domain 5 was not seen");
        skip.pass_all(&set("0-1-4,5-1-8"));
        assert!(skip.is_under_way());
        skip.pass_all(&set("0-1-4,5-1-9"));
        assert!(!skip.is_under_way());
        assert!(!skip.is_done(&gtid(5, 3), None));
    }

    #[test]
    fn a_start_from_a_place_skips_nothing_of_mariadb() {
        let skip = Skip::new(Flavour::MariaDb, None);
        assert!(!skip.is_under_way());
        assert!(!skip.is_done(&gtid(0, 1), Some(&set("0-1-3"))));
    }

    #[test]
    fn whatever_mysql_has_executed_is_skipped() {
        let set = GtidSet::parse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3:7", Flavour::MySql).unwrap();
        let skip = Skip::new(Flavour::MySql, Some(&set));
        let uuid = *uuid::Uuid::parse_str("3e11fa47-71ca-11e1-9e33-c80aa9429562").unwrap().as_bytes();
        for (sequence, done) in [(7, true), (4, false), (2, true), (8, false)] {
            let gtid = Gtid::MySql { uuid, tag: String::new(), sequence };
            assert_eq!(skip.is_done(&gtid, Some(&set)), done, "{sequence}");
        }
        assert!(!skip.is_under_way());
    }
}
