//! Who is there of the bridges of one name: each announces itself in the bucket of the leases, and reads who else does.
//!
//! It is there to be looked at. It decides nothing: not who leads, and not whether a bridge is ready.
//!
//! As with the lease, no server expires anything, so this works with every server that has buckets. An instance is believed to be
//! there for a lease's lifetime after its last sign of life, both by the server's clock.

mod announce;
mod record;

use std::time::{Duration, SystemTime};

use async_nats::jetstream::{self, kv};

pub(crate) use announce::Announcement;
pub(crate) use record::{Instance, Record};

use crate::{exit::report, nats};

/// The key of the record of the bridges called `name`.
pub(crate) fn instances_key(name: &str) -> String {
    format!("{name}.instances")
}

/// Whether a complaint of the server is about the record of the bridges called `name`.
pub(crate) fn is_about(name: &str, complaint: &str) -> bool {
    complaint.contains(&format!(".{}\"", instances_key(name)))
}

/// The record as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) record: Record,
    /// The revision in whose place another may be written.
    revision: Option<u64>,
    /// When it was read, in milliseconds since the epoch by the server's clock.
    now_millis: u64,
    /// The same by this process' clock.
    pub(crate) read_at: SystemTime,
}

/// Reads who is there; says why if it cannot.
pub(crate) async fn read(
    context: &jetstream::Context,
    store: &kv::Store,
    name: &str,
) -> Result<Reading, String> {
    let entry = store.entry(instances_key(name)).await.map_err(|error| report(&error))?;
    let now = nats::server_time(context, &store.stream_name).await.map_err(|error| report(&error))?;
    let read_at = SystemTime::now();
    let now_millis = millis(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let nobody = Reading { record: Record::empty(), revision: None, now_millis, read_at };
    let Some(entry) = entry.filter(|entry| entry.operation == kv::Operation::Put) else { return Ok(nobody) };
    let stored = SystemTime::from(entry.created).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let record = Record::read(&entry.value, millis(stored))?;
    Ok(Reading { record: record.living(now_millis), revision: Some(entry.revision), ..nobody })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Reading {
    /// Whether an instance has announced itself.
    pub(crate) fn has(&self, instance: &str) -> bool {
        self.record.has(instance)
    }

    /// Those that stand by, as far as was to be believed at `now`, with the time of their last sign of life; both times by this
    /// process' clock. Whoever is known to lead is none of them.
    pub(crate) fn standbys(&self, now: SystemTime, leader: Option<&str>) -> Vec<(Instance, SystemTime)> {
        let since = now.duration_since(self.read_at).unwrap_or_default();
        let now_millis = self.now_millis.saturating_add(millis(since));
        let living = self.record.clone().living(now_millis);
        let seen = |instance: &Instance| now.checked_sub(instance.age(now_millis)).unwrap_or(now);
        living.standbys(leader).map(|instance| (instance.clone(), seen(instance))).collect()
    }
}

#[cfg(test)]
impl Reading {
    /// As read just now, with signs of life so many milliseconds ago.
    pub(crate) fn example(instances: impl IntoIterator<Item = (Instance, u64)>) -> Self {
        let record = instances.into_iter().fold(Record::empty(), |record, (instance, age)| {
            record.with(Instance { seen_millis: 100_000 - age, ..instance })
        });
        Self { record, revision: None, now_millis: 100_000, read_at: SystemTime::now() }
    }
}

#[cfg(test)]
impl Instance {
    pub(crate) fn example(instance: &str, host: &str, role: &str) -> Self {
        Self {
            holder: outbox_lease::Holder { instance: instance.into(), host: host.into(), process: 7 },
            program: "0.1.0".into(),
            role: role.into(),
            since_seconds: 5,
            ttl_millis: 10_000,
            seen_millis: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server's clock may be years from this process' one.
    #[test]
    fn signs_of_life_are_told_by_the_own_clock_and_grow_old() {
        let standby = |instance, age| (Instance::example(instance, "h", "standby"), age);
        let reading = Reading::example([standby("a", 1_000), standby("b", 6_000)]);
        let told = |after: u64| {
            let now = reading.read_at + Duration::from_millis(after);
            let told = reading.standbys(now, None).into_iter();
            told.map(|(known, seen)| {
                (known.holder.instance, now.duration_since(seen).expect("before").as_millis())
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(told(0), [("a".to_owned(), 1_000), ("b".to_owned(), 6_000)]);
        assert_eq!(told(4_000), [("a".to_owned(), 5_000), ("b".to_owned(), 10_000)]);
        assert_eq!(told(4_001), [("a".to_owned(), 5_001)]);
        assert_eq!(told(20_000), []);
    }

    #[test]
    fn a_complaint_is_known_by_its_key() {
        let complaint = |key: &str| format!("nats: Permissions Violation for Publish to \"$KV.B.{key}\"");
        assert!(is_about("shop", &complaint("shop.instances")));
        assert!(is_about("shop", "for Publish to \"$JS.API.DIRECT.GET.KV_B.$KV.B.shop.instances\""));
        assert!(
            !is_about("shop", &complaint("shop.lease"))
                && !is_about("shop", &complaint("workshop.instances"))
        );
    }
}
