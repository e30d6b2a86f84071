//! GTIDs and sets of them, in the notations of MySQL and MariaDB.
//!
//! The interval algebra is `mysql_cdc`'s: its `GtidSet` for MySQL, one for each tag since it knows none, and its
//! `GtidList` for MariaDB. Text is parsed here, since its parsers panic on malformed text.

use std::{collections::BTreeMap, fmt, str::FromStr};

use mysql_cdc::providers::{
    mariadb::gtid::{gtid::Gtid as CdcMariaDbGtid, gtid_list::GtidList},
    mysql::gtid::{
        gtid::Gtid as CdcGtid, gtid_set::GtidSet as CdcSet, interval::Interval, uuid::Uuid as CdcUuid,
        uuid_set::UuidSet,
    },
};
use uuid::Uuid;

use super::{
    connection::Flavour,
    event::{EventError, Reader},
};

/// The name of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// MySQL's: `uuid:number` or `uuid:tag:number`.
    MySql {
        /// The server on which it was committed first.
        uuid: [u8; 16],
        /// The tag; empty if it has none.
        tag: String,
        /// The number, from 1.
        sequence: u64,
    },
    /// MariaDB's: `domain-server-number`.
    MariaDb {
        /// The replication domain.
        domain: u32,
        /// The server on which it was committed first.
        server_id: u32,
        /// The number within the domain.
        sequence: u64,
    },
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql { uuid, tag, sequence } if tag.is_empty() => {
                write!(f, "{}:{sequence}", Uuid::from_bytes_ref(uuid))
            }
            Self::MySql { uuid, tag, sequence } => {
                write!(f, "{}:{tag}:{sequence}", Uuid::from_bytes_ref(uuid))
            }
            Self::MariaDb { domain, server_id, sequence } => write!(f, "{domain}-{server_id}-{sequence}"),
        }
    }
}

/// Text that is no GTID or no set of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no GTID")]
pub struct GtidError(String);

/// A set of transactions.
#[derive(Debug)]
pub enum GtidSet {
    /// MySQL's: by tag (empty: none), any numbers of each server.
    MySql(BTreeMap<String, CdcSet>),
    /// MariaDB's: the last number of each domain stands for all before it.
    MariaDb(GtidList),
}

/// The greatest number that MySQL gives out.
const SEQUENCE_MAX: u64 = i64::MAX.cast_unsigned();

impl GtidSet {
    /// The empty set.
    #[must_use]
    pub fn empty(flavour: Flavour) -> Self {
        match flavour {
            Flavour::MySql => Self::MySql(BTreeMap::new()),
            Flavour::MariaDb => Self::MariaDb(GtidList::new()),
        }
    }

    /// Reads a set in the server's notation, such as `uuid:1-5:tag:1-3,uuid:7` or `0-1-270,1-1-3`; white space is ignored.
    ///
    /// # Errors
    ///
    /// If the text is no such set.
    pub fn parse(text: &str, flavour: Flavour) -> Result<Self, GtidError> {
        let text: String = text.chars().filter(|character| !character.is_whitespace()).collect();
        let mut set = Self::empty(flavour);
        for part in text.split(',').filter(|part| !part.is_empty()) {
            set.parse_part(part).ok_or_else(|| GtidError(part.chars().take(100).collect()))?;
        }
        Ok(set)
    }

    fn parse_part(&mut self, part: &str) -> Option<()> {
        match self {
            Self::MySql(tags) => {
                let mut fields = part.split(':');
                let uuid = fields.next()?;
                let uuid = Uuid::parse_str(uuid).ok().filter(|_| uuid.len() == 36)?.into_bytes();
                let mut tag = "";
                let mut intervals = 0;
                for field in fields {
                    if is_tag(field) {
                        tag = field;
                        continue;
                    }
                    let (first, last) = field.split_once('-').unwrap_or((field, field));
                    add_interval(tags, tag, uuid, number(first)?, number(last)?)?;
                    intervals += 1;
                }
                (intervals > 0).then_some(())
            }
            Self::MariaDb(list) => {
                let mut fields = part.split('-');
                let domain = number(fields.next()?).and_then(|domain| u32::try_from(domain).ok())?;
                let server_id = number(fields.next()?).and_then(|server| u32::try_from(server).ok())?;
                let sequence = number(fields.next()?)?;
                let single =
                    fields.next().is_none() && !list.gtids.iter().any(|known| known.domain_id == domain);
                single.then(|| list.gtids.push(CdcMariaDbGtid::new(domain, server_id, sequence)))
            }
        }
    }

    /// Reads the body of MySQL's `PREVIOUS_GTIDS_LOG_EVENT`.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub fn from_previous_gtids(body: &[u8]) -> Result<Self, EventError> {
        let mut reader = Reader::new("a previous GTIDs event", body);
        let mut tags = BTreeMap::new();
        let head = reader.u64()?;
        // The highest byte says whether tags stand in it; then the count is shorter and framed by two such bytes.
        let (tagged, count) = match head >> 56 {
            0 => (false, head),
            1 => (true, (head >> 8) & 0xFFFF_FFFF_FFFF),
            _ => return Err(reader.fail("its format is newer than this bridge")),
        };
        for _ in 0..count {
            let uuid = reader.array()?;
            let mut tag = String::new();
            if tagged {
                let length = reader.varint()?;
                let length = reader.length(length)?;
                let text =
                    std::str::from_utf8(reader.take(length)?).map_err(|_| reader.fail("a tag is no text"))?;
                tag = text.to_owned();
            }
            for _ in 0..reader.u64()? {
                let (first, end) = (reader.u64()?, reader.u64()?);
                let added =
                    end.checked_sub(1).and_then(|last| add_interval(&mut tags, &tag, uuid, first, last));
                added.ok_or_else(|| reader.fail("an interval is none"))?;
            }
        }
        Ok(Self::MySql(tags))
    }

    /// Reads the body of MariaDB's `GTID_LIST_EVENT`.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub fn from_gtid_list(body: &[u8]) -> Result<Self, EventError> {
        const COUNT_MASK: u32 = (1 << 28) - 1;
        let mut reader = Reader::new("a GTID list event", body);
        let mut list = GtidList::new();
        for _ in 0..reader.u32()? & COUNT_MASK {
            let (domain, server_id, sequence) = (reader.u32()?, reader.u32()?, reader.u64()?);
            // A domain stands there once for each server that wrote to it, the last one last.
            list.add_gtid(CdcMariaDbGtid::new(domain, server_id, sequence));
        }
        Ok(Self::MariaDb(list))
    }

    /// Adds a transaction. One of the other flavour is not added.
    pub fn add(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (Self::MySql(tags), Gtid::MySql { uuid, tag, sequence }) => {
                if extend(tags, tag, uuid, *sequence).is_none() {
                    add_interval(tags, tag, *uuid, *sequence, *sequence);
                }
            }
            (Self::MariaDb(list), Gtid::MariaDb { domain, server_id, sequence }) => {
                list.add_gtid(CdcMariaDbGtid::new(*domain, *server_id, *sequence));
            }
            (Self::MySql(_), Gtid::MariaDb { .. }) | (Self::MariaDb(_), Gtid::MySql { .. }) => {}
        }
    }

    /// Whether the transaction is in the set.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::MySql(tags), Gtid::MySql { uuid, tag, sequence }) => {
                server(tags, tag, uuid).is_some_and(|server| {
                    let at = server.intervals.partition_point(|interval| interval.end < *sequence);
                    server.intervals.get(at).is_some_and(|interval| interval.start <= *sequence)
                })
            }
            (Self::MariaDb(list), Gtid::MariaDb { domain, sequence, .. }) => {
                list.gtids.iter().any(|known| known.domain_id == *domain && *sequence <= known.sequence)
            }
            (Self::MySql(_), Gtid::MariaDb { .. }) | (Self::MariaDb(_), Gtid::MySql { .. }) => false,
        }
    }

    /// What of this set is not in `other`, in the server's notation; empty if it is a subset.
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> String {
        match (self, other) {
            (Self::MySql(ours), Self::MySql(theirs)) => {
                let mut missing = BTreeMap::new();
                for (tag, set) in ours {
                    for server_set in set.uuid_sets.values() {
                        let uuid = server_set.source_id.data;
                        let known = server(theirs, tag, &uuid).map_or(&[][..], |server| &server.intervals);
                        for interval in &server_set.intervals {
                            let mut first = interval.start;
                            for other in known
                                .iter()
                                .filter(|other| other.end >= interval.start && other.start <= interval.end)
                            {
                                if other.start > first {
                                    add_interval(&mut missing, tag, uuid, first, other.start - 1);
                                }
                                first = first.max(other.end.saturating_add(1));
                            }
                            if first <= interval.end {
                                add_interval(&mut missing, tag, uuid, first, interval.end);
                            }
                        }
                    }
                }
                Self::MySql(missing).to_string()
            }
            (Self::MariaDb(ours), Self::MariaDb(theirs)) => {
                let known = |gtid: &CdcMariaDbGtid| {
                    theirs
                        .gtids
                        .iter()
                        .any(|other| other.domain_id == gtid.domain_id && other.sequence >= gtid.sequence)
                };
                let missing: Vec<_> =
                    ours.gtids.iter().filter(|gtid| !known(gtid)).map(ToString::to_string).collect();
                missing.join(",")
            }
            _ => self.to_string(),
        }
    }
}

/// In the server's notation, one part for each server with the tags behind it, sorted.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(tags) => {
                let mut servers: BTreeMap<[u8; 16], String> = BTreeMap::new();
                for (tag, set) in tags {
                    for server in set.uuid_sets.values().filter(|server| !server.intervals.is_empty()) {
                        let text = servers
                            .entry(server.source_id.data)
                            .or_insert_with(|| Uuid::from_bytes(server.source_id.data).to_string());
                        if !tag.is_empty() {
                            text.push(':');
                            text.push_str(tag);
                        }
                        for Interval { start, end } in &server.intervals {
                            text.push_str(&if start == end {
                                format!(":{start}")
                            } else {
                                format!(":{start}-{end}")
                            });
                        }
                    }
                }
                f.write_str(&servers.into_values().collect::<Vec<_>>().join(","))
            }
            Self::MariaDb(list) => {
                let mut gtids: Vec<_> = list.gtids.iter().collect();
                gtids.sort_by_key(|gtid| gtid.domain_id);
                let gtids: Vec<_> = gtids.into_iter().map(ToString::to_string).collect();
                f.write_str(&gtids.join(","))
            }
        }
    }
}

/// A tag begins with a letter or an underscore, so it is never a number.
///
/// Source: <https://dev.mysql.com/doc/refman/9.7/en/replication-gtids-concepts.html>
fn is_tag(field: &str) -> bool {
    field.len() <= 32
        && field.starts_with(|character: char| character.is_ascii_alphabetic() || character == '_')
        && field.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| u64::from_str(text).ok()).flatten()
}

type Tags = BTreeMap<String, CdcSet>;

fn server<'a>(tags: &'a Tags, tag: &str, uuid: &[u8; 16]) -> Option<&'a UuidSet> {
    // Looked up by its bytes: `mysql_cdc` keys by text, which would have to be made for each look-up.
    tags.get(tag)?.uuid_sets.values().find(|server| server.source_id.data == *uuid)
}

/// The usual case: the next number of a server. `None` if it is not that.
fn extend(tags: &mut Tags, tag: &str, uuid: &[u8; 16], sequence: u64) -> Option<()> {
    let mut servers = tags.get_mut(tag)?.uuid_sets.values_mut();
    let last = servers.find(|server| server.source_id.data == *uuid)?.intervals.last_mut()?;
    (last.end.checked_add(1) == Some(sequence)).then(|| last.end = sequence)
}

/// `None` if it is no interval.
fn add_interval(tags: &mut Tags, tag: &str, uuid: [u8; 16], first: u64, last: u64) -> Option<()> {
    if first == 0 || last < first || last > SEQUENCE_MAX {
        return None;
    }
    let set = tags.entry(tag.to_ascii_lowercase()).or_insert_with(CdcSet::new);
    let name = CdcUuid::new(uuid);
    if first == last {
        return set.add_gtid(CdcGtid::new(name, first)).ok().map(drop);
    }
    let server = set.uuid_sets.entry(name.uuid.clone()).or_insert_with(|| UuidSet::new(name, Vec::new()));
    // `mysql_cdc` adds single numbers only; what the interval touches is joined to it here.
    let begin = server.intervals.partition_point(|interval| interval.end.saturating_add(1) < first);
    let end = server.intervals.partition_point(|interval| interval.start <= last.saturating_add(1));
    let (mut start, mut stop) = (first, last);
    for touched in server.intervals.drain(begin..end.max(begin)) {
        start = start.min(touched.start);
        stop = stop.max(touched.end);
    }
    server.intervals.insert(begin, Interval::new(start, stop));
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "24bc7850-2c16-11e6-a073-0242ac110001";
    const B: &str = "24bc7850-2c16-11e6-a073-0242ac110002";

    fn mysql(text: &str) -> GtidSet {
        GtidSet::parse(text, Flavour::MySql).unwrap()
    }

    fn gtid(tag: &str, sequence: u64) -> Gtid {
        Gtid::MySql { uuid: Uuid::parse_str(A).unwrap().into_bytes(), tag: tag.into(), sequence }
    }

    #[test]
    fn texts() {
        for (text, canonical) in [
            ("", String::new()),
            (&*format!("{A}:1-5"), format!("{A}:1-5")),
            (&*format!("{B}:7,\n{A}:1-5:3-9:11"), format!("{A}:1-9:11,{B}:7")),
            (&*format!("{A}:1-5:blue:1-3:7,{A}:red:2"), format!("{A}:1-5:blue:1-3:7:red:2")),
        ] {
            assert_eq!(mysql(text).to_string(), canonical);
        }
        for text in [
            A,
            "x:1",
            &*format!("{A}:"),
            &*format!("{A}:0"),
            &*format!("{A}:5-1"),
            &*format!("{A}:1-99999999999999999999"),
        ] {
            assert!(GtidSet::parse(text, Flavour::MySql).is_err(), "{text}");
        }
        let mariadb = |text| GtidSet::parse(text, Flavour::MariaDb);
        assert_eq!(mariadb("1-2-3, 0-1-270").unwrap().to_string(), "0-1-270,1-2-3");
        for text in ["0-1", "0-1-2-3", "0-1-2,0-2-3", "a-b-c", "0--1"] {
            assert!(mariadb(text).is_err(), "{text}");
        }
    }

    #[test]
    fn missing_ones_are_named() {
        let missing = |ours: &str, theirs: &str| mysql(ours).missing_from(&mysql(theirs));
        assert_eq!(missing(&format!("{A}:1-10"), &format!("{A}:3-4:8")), format!("{A}:1-2:5-7:9-10"));
        assert_eq!(missing(&format!("{A}:3-4"), &format!("{A}:1-10")), "");
        assert_eq!(missing(&format!("{A}:t:1"), &format!("{A}:1-10")), format!("{A}:t:1"));
        let list = |text| GtidSet::parse(text, Flavour::MariaDb).unwrap();
        assert_eq!(list("0-1-5,1-1-7").missing_from(&list("0-2-9,1-1-6")), "1-1-7");
    }

    #[test]
    fn events_of_earlier_transactions() {
        let uuid = Uuid::parse_str(A).unwrap().into_bytes();
        let mut plain = 1_u64.to_le_bytes().to_vec();
        plain.extend(uuid);
        for number in [1_u64, 1, 6] {
            plain.extend(number.to_le_bytes());
        }
        assert_eq!(GtidSet::from_previous_gtids(&plain).unwrap().to_string(), format!("{A}:1-5"));
        let mut tagged = vec![1, 1, 0, 0, 0, 0, 0, 1];
        tagged.extend(uuid);
        tagged.extend([2 << 1, b'a', b'b']);
        for number in [1_u64, 3, 4] {
            tagged.extend(number.to_le_bytes());
        }
        assert_eq!(GtidSet::from_previous_gtids(&tagged).unwrap().to_string(), format!("{A}:ab:3"));
    }

    proptest! {
        #[test]
        fn sets_are_sets(numbers in prop::collection::vec((0..2_u8, 1..40_u64), 0..60), others in prop::collection::btree_set(1..40_u64, 0..40)) {
            let mut set = GtidSet::empty(Flavour::MySql);
            let mut model = BTreeSet::new();
            for (tag, number) in numbers {
                let tag = if tag == 0 { "" } else { "t" };
                set.add(&gtid(tag, number));
                model.insert((tag, number));
                prop_assert_eq!(&mysql(&set.to_string()).to_string(), &set.to_string());
            }
            for number in 0..42 {
                prop_assert_eq!(set.contains(&gtid("", number)), model.contains(&("", number)));
                prop_assert_eq!(set.contains(&gtid("t", number)), model.contains(&("t", number)));
            }
            let mut other = GtidSet::empty(Flavour::MySql);
            others.iter().for_each(|number| other.add(&gtid("", *number)));
            let missing = mysql(&set.missing_from(&other));
            for number in 1..42 {
                let expected = model.contains(&("", number)) && !others.contains(&number);
                prop_assert_eq!(missing.contains(&gtid("", number)), expected);
            }
        }

        #[test]
        fn nothing_panics(text in "[0-9a-f:,_-]{0,60}", body: Vec<u8>) {
            drop(GtidSet::parse(&text, Flavour::MySql));
            drop(GtidSet::parse(&text, Flavour::MariaDb));
            drop(GtidSet::from_previous_gtids(&body));
            drop(GtidSet::from_gtid_list(&body));
        }
    }
}
