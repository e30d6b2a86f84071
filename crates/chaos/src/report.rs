//! What a run did and found, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::schedule::Fault;

/// What a run did and found.
#[derive(Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// How many rounds of faults there were.
    pub rounds: usize,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Times that a bridge ended by itself with the code that asks its supervisor for a new start.
    pub restarts: u64,
    /// Times that a bridge went on with another of the source's servers.
    pub switches: usize,
    /// Events in the table at the end.
    pub committed: usize,
    /// Messages in the stream at the end.
    pub stored: usize,
    /// Events without a message; any ends the run with an error before there is a report.
    pub missing: usize,
    /// Messages whose event has another one; the same holds.
    pub doubled: usize,
    /// Rows that can be no message, each of which is a dead letter, once.
    pub letters: usize,
    /// Messages whose payloads lie in the object store.
    pub large: usize,
    /// The longest time that a quiet time began with until all was caught up with.
    pub longest_catch_up: Duration,
    /// The longest time without a new message in the stream.
    pub longest_stall: Duration,
    /// The most memory that a bridge ever had resident.
    pub memory_peak_bytes: u64,
}

impl Report {
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.faults.entry(fault.kind()).or_default() += 1;
    }

    /// How many faults there were.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// All of it for machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "seed": self.seed,
            "seconds": self.took.as_secs(),
            "rounds": self.rounds,
            "faults": self.faults,
            "restarts": self.restarts,
            "switches": self.switches,
            "committed": self.committed,
            "stored": self.stored,
            "missing": self.missing,
            "doubled": self.doubled,
            "dead_letters": self.letters,
            "large_payloads": self.large,
            "longest_catch_up_milliseconds": u64::try_from(self.longest_catch_up.as_millis()).unwrap_or(u64::MAX),
            "longest_stall_milliseconds": u64::try_from(self.longest_stall.as_millis()).unwrap_or(u64::MAX),
            "memory_peak_bytes": self.memory_peak_bytes,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<40} {value:>16}");
        row("seed", self.seed.to_string())?;
        row("seconds", self.took.as_secs().to_string())?;
        row("rounds", self.rounds.to_string())?;
        row("faults", self.faults().to_string())?;
        for (kind, count) in &self.faults {
            row(&format!("  {kind}"), count.to_string())?;
        }
        row("bridges that asked to be started again", self.restarts.to_string())?;
        row("changes of the source's server", self.switches.to_string())?;
        row("events committed", self.committed.to_string())?;
        row("messages stored", self.stored.to_string())?;
        row("missing", self.missing.to_string())?;
        row("doubled", self.doubled.to_string())?;
        row("dead letters", self.letters.to_string())?;
        row("payloads in the object store", self.large.to_string())?;
        row("longest catch-up after faults", format!("{:.1} s", self.longest_catch_up.as_secs_f64()))?;
        row("longest stall", format!("{:.1} s", self.longest_stall.as_secs_f64()))?;
        row("most memory of a bridge", format!("{} MiB", self.memory_peak_bytes >> 20))
    }
}
