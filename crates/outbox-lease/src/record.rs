//! What stands in the bucket.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The format that is written, and the newest that is read.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// One run of one process; no two have the same.
    pub instance: String,
    /// The host's name.
    pub host: String,
    /// The process' number on that host.
    pub process: u32,
}

impl Holder {
    /// This process; `instance` must differ from run to run.
    #[must_use]
    pub fn this_process(instance: impl Into<String>) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host = host.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
        Self { instance: instance.into(), host: host.trim().to_owned(), process: std::process::id() }
    }

    /// Whether `former` is a process of this host that is no more: this process' own predecessor, most likely.
    #[must_use]
    pub fn has_outlived(&self, former: &Self) -> bool {
        let same_host = !self.host.is_empty() && self.host == former.host;
        // In a container every first process has the same number.
        let gone = former.process == self.process || !is_alive(former.process);
        same_host && former.instance != self.instance && gone
    }
}

/// Whether a process runs; where the system does not tell, it does.
fn is_alive(process: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new("/proc").join(process.to_string()).exists()
}

/// A lease as it stands in the bucket, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format's version.
    pub version: u32,
    /// Who holds it.
    #[serde(flatten)]
    pub holder: Holder,
    /// Since when, in seconds since the epoch by the holder's clock. Only for people to read.
    pub since_seconds: u64,
    /// How long it lives without being renewed, in milliseconds.
    pub ttl_millis: u64,
    /// How often it was renewed.
    pub renewals: u64,
}

impl Record {
    pub(crate) fn new(holder: Holder, ttl: Duration) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            version: FORMAT_VERSION,
            holder,
            since_seconds: since.as_secs(),
            ttl_millis: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            renewals: 0,
        }
    }

    /// How long it lives without being renewed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predecessor_is_a_process_of_this_host_that_is_gone() {
        let this = Holder::this_process("b");
        assert!(!this.host.is_empty());
        let former = Holder { instance: "a".into(), ..this.clone() };
        assert!(this.has_outlived(&former), "the same number: it can only have been before");
        assert!(!this.has_outlived(&this));
        assert!(!this.has_outlived(&Holder { process: 1, ..former.clone() }), "process 1 always runs");
        assert!(this.has_outlived(&Holder { process: u32::MAX, ..former.clone() }));
        assert!(!this.has_outlived(&Holder { host: "elsewhere".into(), ..former }));
    }
}
