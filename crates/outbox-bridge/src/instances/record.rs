//! What the bridges of one name write down about themselves. Pure: no I/O, no clock.
//!
//! There is one record for all of them, and every change of it is a compare-and-set. Who writes it need not know the time: the
//! server's time of the record is that of its writer's sign of life, and the next one to write puts it down.

use std::time::Duration;

use outbox_lease::Holder;
use serde::{Deserialize, Serialize};

/// The version of the record. A bridge leaves a later one alone.
const FORMAT_VERSION: u32 = 1;

/// The role of those that would take over.
pub(crate) const STANDBY: &str = "standby";

/// The instances that are there, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The instance that wrote it.
    by: String,
    instances: Vec<Instance>,
}

/// One run of one bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    #[serde(flatten)]
    pub(crate) holder: Holder,
    /// The program's version.
    pub(crate) program: String,
    /// As in `/readyz`.
    pub(crate) role: String,
    /// Since when it has this role, in seconds since the epoch by its own clock. Only for people to read.
    pub(crate) since_seconds: u64,
    /// How long it is believed to be there after a sign of life, in milliseconds.
    pub(crate) ttl_millis: u64,
    /// Its last sign of life, in milliseconds since the epoch by the server's clock; of whoever wrote the record, the one before.
    pub(crate) seen_millis: u64,
}

impl Record {
    /// That of nobody.
    pub(crate) fn empty() -> Self {
        Self { version: FORMAT_VERSION, by: String::new(), instances: Vec::new() }
    }

    /// Reads what was stored at `stored_millis` by the server's clock; says why if it cannot.
    pub(crate) fn read(text: &[u8], stored_millis: u64) -> Result<Self, String> {
        // Of a newer format nothing but this is known.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let reason = |error: serde_json::Error| format!("the record cannot be read: {error}");
        let Version { version } = serde_json::from_slice(text).map_err(reason)?;
        if version > FORMAT_VERSION {
            return Err(format!("the record has format {version}: a newer bridge of this name wrote it"));
        }
        let mut record: Self = serde_json::from_slice(text).map_err(reason)?;
        if let Some(writer) = record.instances.iter_mut().find(|known| known.holder.instance == record.by) {
            writer.seen_millis = stored_millis;
        }
        Ok(record)
    }

    /// Without those that gave no sign of life within their time.
    pub(crate) fn living(mut self, now_millis: u64) -> Self {
        self.instances
            .retain(|instance| instance.age(now_millis) <= Duration::from_millis(instance.ttl_millis));
        self
    }

    /// Without those that `is_gone` says are gone.
    pub(crate) fn without(mut self, is_gone: impl Fn(&Holder) -> bool) -> Self {
        self.instances.retain(|instance| !is_gone(&instance.holder));
        self
    }

    /// After an instance has left, as that writes it.
    pub(crate) fn left_by(mut self, instance: &str) -> Self {
        instance.clone_into(&mut self.by);
        self.without(|holder| holder.instance == instance)
    }

    /// After a sign of life, as the instance writes it.
    pub(crate) fn with(mut self, this: Instance) -> Self {
        self.by.clone_from(&this.holder.instance);
        match self.instances.iter_mut().find(|known| known.holder.instance == this.holder.instance) {
            Some(known) => *known = this,
            None => self.instances.push(this),
        }
        self
    }

    pub(crate) fn has(&self, instance: &str) -> bool {
        self.instances.iter().any(|known| known.holder.instance == instance)
    }

    /// Those that would take over; whoever holds the lease by now is none of them.
    pub(crate) fn standbys<'a>(&'a self, leader: Option<&'a str>) -> impl Iterator<Item = &'a Instance> {
        let stands_by = move |instance: &&Instance| {
            instance.role == STANDBY && Some(&*instance.holder.instance) != leader
        };
        self.instances.iter().filter(stands_by)
    }
}

impl Instance {
    /// How long ago its last sign of life was.
    pub(crate) fn age(&self, now_millis: u64) -> Duration {
        Duration::from_millis(now_millis.saturating_sub(self.seen_millis))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: u64 = 10_000;

    fn instance(name: &str, role: &str) -> Instance {
        Instance { ttl_millis: TTL, ..Instance::example(name, "h", role) }
    }

    /// What the next one reads after `record` was stored at that time.
    fn stored(record: &Record, at_millis: u64) -> Record {
        Record::read(&serde_json::to_vec(record).expect("JSON"), at_millis).expect("a record")
    }

    fn names(record: &Record) -> Vec<&str> {
        record.instances.iter().map(|instance| &*instance.holder.instance).collect()
    }

    #[test]
    fn the_servers_time_of_a_record_is_its_writers() {
        let record = stored(&Record::empty().with(instance("a", "leader")), 1_000);
        let record = stored(&record.with(instance("b", STANDBY)), 4_000);
        let ages: Vec<_> = record.instances.iter().map(|known| known.age(5_000).as_millis()).collect();
        assert_eq!(ages, [4_000, 1_000]);
        let record = stored(&record.with(instance("a", "leader")), 8_000);
        assert_eq!(names(&record), ["a", "b"]);
        let ages: Vec<_> = record.instances.iter().map(|known| known.age(9_000).as_millis()).collect();
        assert_eq!(ages, [1_000, 5_000]);
    }

    #[test]
    fn who_gives_no_sign_of_life_is_gone() {
        let record = stored(&Record::empty().with(instance("a", "leader")), 1_000);
        let record = stored(&record.with(instance("b", STANDBY)), 4_000);
        assert_eq!(names(&record.clone().living(1_000 + TTL)), ["a", "b"]);
        assert_eq!(names(&record.clone().living(1_001 + TTL)), ["b"]);
        assert_eq!(names(&record.clone().living(4_001 + TTL)), [""; 0]);
        assert_eq!(names(&record.living(0)), ["a", "b"], "a server whose clock was put back");
    }

    #[test]
    fn who_leaves_is_gone_at_once() {
        let record =
            stored(&Record::empty().with(instance("b", STANDBY)).with(instance("a", STANDBY)), 1_000);
        let record = stored(&record.left_by("b"), 2_000);
        assert_eq!(names(&record), ["a"]);
        let ages: Vec<_> = record.instances.iter().map(|known| known.age(3_000).as_millis()).collect();
        assert_eq!(ages, [2_000], "it was no sign of life of the other one");
    }

    #[test]
    fn who_leads_is_no_standby_whatever_was_written() {
        let record = Record::empty().with(instance("a", "leader")).with(instance("b", STANDBY));
        let record = record.with(instance("c", STANDBY)).with(instance("d", "waiting"));
        let standbys = |leader: Option<&str>| {
            record.standbys(leader).map(|known| known.holder.instance.clone()).collect::<Vec<_>>()
        };
        assert_eq!(standbys(Some("a")), ["b", "c"]);
        assert_eq!(standbys(Some("b")), ["c"], "it has just taken over");
        assert_eq!(standbys(None), ["b", "c"]);
    }

    #[test]
    fn a_newer_record_is_named_and_nonsense_too() {
        let newer = Record::read(br#"{"version":2,"all":{}}"#, 0).expect_err("newer");
        assert!(newer.contains("format 2"), "{newer}");
        assert!(Record::read(b"nonsense", 0).is_err());
        assert!(Record::read(br#"{"version":1}"#, 0).is_err());
    }

    #[test]
    fn fields_that_come_later_do_no_harm() {
        let text = br#"{"version":1,"by":"a","more":1,"instances":[{"instance":"a","host":"h","process":7,"program":"9.0.0",
            "role":"standby","since_seconds":5,"ttl_millis":10000,"seen_millis":0,"zone":"x"}]}"#;
        let record = Record::read(text, 42).expect("a record");
        assert_eq!(record.instances.first().map(|known| known.seen_millis), Some(42));
    }
    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<u64>(), now in any::<u64>()) {
            drop(Record::read(&bytes, at).map(|record| record.living(now)));
        }

        #[test]
        fn damaged_records_do_not_panic(at in 0_usize..200, bits in 1..=255_u8, now in any::<u64>()) {
            let record = Record::empty().with(instance("a", "leader")).with(instance("b", STANDBY));
            let mut text = serde_json::to_vec(&record).expect("JSON");
            text[at] ^= bits;
            drop(Record::read(&text, now).map(|record| record.living(now)));
        }
    }
}
