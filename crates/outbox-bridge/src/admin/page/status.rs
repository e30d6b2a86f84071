//! What is known at one moment: `/status.json`, and what the page shows.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, macros::format_description};

use crate::admin::board::since_the_epoch;

/// The format of `/status.json`; raised when a field changes its meaning or goes.
pub(super) const FORMAT: u32 = 1;

/// A moment, written as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) SystemTime);

impl Moment {
    pub(super) fn rfc3339(self) -> String {
        let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let nanos = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let time = i128::try_from(nanos)
            .ok()
            .and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok());
        // What another process or a log says may be no time at all.
        time.and_then(|time| time.format(&form).ok()).unwrap_or_else(|| "unknown".to_owned())
    }

    pub(super) fn of_micros(micros: u64) -> Self {
        Self(since_the_epoch(Duration::from_micros(micros)))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

/// Everything. Times are RFC 3339 in UTC; what is not known is null.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Status {
    pub(super) format: u32,
    pub(super) name: String,
    pub(super) version: &'static str,
    pub(super) process: Process,
    /// When this was put together.
    pub(super) at: Moment,
    /// As `/readyz` says.
    pub(super) ready: bool,
    /// `waiting`, `leader` or `standby`.
    pub(super) role: &'static str,
    pub(super) leader: Option<LeaderStatus>,
    pub(super) standbys: Standbys,
    pub(super) components: BTreeMap<&'static str, ComponentStatus>,
    pub(super) warnings: Vec<Warning>,
    pub(super) flow: Flow,
    pub(super) source: SourceStatus,
    pub(super) nats: NatsStatus,
    pub(super) streams: Vec<StreamStatus>,
    pub(super) resumes: Resumes,
    /// `null`: `poison.action` is `halt`.
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) history: HistoryStatus,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Process {
    pub(super) host: String,
    pub(super) process: u32,
    pub(super) started: Moment,
}

/// Who holds the lease.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LeaderStatus {
    pub(super) host: String,
    pub(super) process: u32,
    pub(super) instance: String,
    /// Whether it is the process that tells this.
    pub(super) this: bool,
    pub(super) since: Moment,
    /// When it last gave a sign of life; `null` for this process.
    pub(super) seen: Option<Moment>,
}

/// Which bridges of this name stand by.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Standbys {
    /// In the order in which they came; `null`: not known.
    pub(super) known: Option<Vec<StandbyStatus>>,
    /// When it was read.
    pub(super) read: Option<Moment>,
    /// Why it cannot be read now.
    pub(super) problem: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct StandbyStatus {
    pub(super) host: String,
    pub(super) process: u32,
    pub(super) instance: String,
    pub(super) version: String,
    /// Whether it is the process that tells this.
    pub(super) this: bool,
    /// Since when it stands by.
    pub(super) since: Moment,
    /// When it last gave a sign of life; `null` for this process.
    pub(super) seen: Option<Moment>,
}

/// How a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Ready,
    NotReady,
    /// It has no work, since this bridge does not lead.
    Idle,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct ComponentStatus {
    pub(super) state: State,
    /// Since when it is so.
    pub(super) since: Option<Moment>,
    /// Why it is not ready, as in `/readyz`.
    pub(super) reason: Option<String>,
    /// What to do about it.
    pub(super) remedy: Option<&'static str>,
    /// Where `deploy/README.md` says more.
    pub(super) section: Option<&'static str>,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Warning {
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) since: Option<Moment>,
    pub(super) remedy: &'static str,
    /// Where `deploy/README.md` says more.
    pub(super) section: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Nothing is published, or something is lost.
    Critical,
    Warning,
}

/// What flows, over all streams.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Flow {
    /// Over the last ten seconds.
    pub(super) events_per_second: f64,
    /// Over the last ten seconds.
    pub(super) bytes_per_second: f64,
    /// Since the process started.
    pub(super) events: u64,
    /// Since the process started, headers included.
    pub(super) bytes: u64,
    /// The largest of the streams.
    pub(super) lag_seconds: Option<f64>,
    /// Commit to stored, of the last minute's events.
    pub(super) latency_p50_seconds: Option<f64>,
    pub(super) latency_p99_seconds: Option<f64>,
    pub(super) in_flight_messages: u64,
    pub(super) duplicates_dropped: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct SourceStatus {
    /// The configured servers.
    pub(super) servers: Vec<String>,
    /// The one that is or was read last.
    pub(super) read: Option<String>,
    pub(super) position: Option<PositionStatus>,
    /// When the checkpoint was last written, or found to be what it should be.
    pub(super) checkpoint: Option<Moment>,
    /// Bytes of log from that position on.
    pub(super) log_behind_bytes: Option<u64>,
    pub(super) log_behind_asked: Option<Moment>,
    pub(super) reconnects: u64,
    pub(super) switches: u64,
}

/// Up to where everything is stored.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PositionStatus {
    pub(super) server: String,
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) prepared_xa: usize,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct NatsStatus {
    /// The configured addresses.
    pub(super) servers: Vec<String>,
    /// The name of the one that the bridge is or was connected to last, if it has one, and its version.
    pub(super) server: Option<String>,
    pub(super) version: Option<String>,
    pub(super) reconnects: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct StreamStatus {
    pub(super) name: String,
    pub(super) tables: Vec<String>,
    pub(super) events_per_second: f64,
    /// Since the process started.
    pub(super) events: u64,
    pub(super) lag_seconds: Option<f64>,
    pub(super) in_flight_messages: u64,
    /// The sequence and the position of the last row that is known to be stored, of a bridge that leads.
    pub(super) sequence: Option<u64>,
    pub(super) position: Option<String>,
    /// Why nothing is stored at the moment.
    pub(super) trouble: Option<String>,
    /// What its server says that it holds.
    pub(super) held: Option<HeldStatus>,
    /// The last ones that this process stored, newest first.
    pub(super) last_events: Vec<EventStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct HeldStatus {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) last_sequence: u64,
    pub(super) last_stored: Option<Moment>,
    pub(super) asked: Moment,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct EventStatus {
    pub(super) sequence: u64,
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) table: String,
    pub(super) position: String,
    pub(super) committed: Moment,
    pub(super) stored: Moment,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Resumes {
    /// Since the process started.
    pub(super) total: u64,
    pub(super) last_ten_minutes: u64,
    pub(super) causes: Vec<CauseStatus>,
    /// Newest first.
    pub(super) last: Vec<ResumeStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct CauseStatus {
    pub(super) stream: String,
    pub(super) cause: String,
    pub(super) count: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct ResumeStatus {
    pub(super) at: Moment,
    pub(super) stream: String,
    pub(super) cause: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct DeadLetters {
    pub(super) stream: String,
    /// Stored by this process.
    pub(super) stored: u64,
    /// Those that wait for somebody; `null` until they were counted.
    pub(super) open: Option<u64>,
    /// Those that were replayed or dropped.
    pub(super) done: Option<u64>,
    /// Whether all were counted; if not, there are at least so many.
    pub(super) complete: bool,
    pub(super) asked: Option<Moment>,
    /// Newest first.
    pub(super) last: Vec<LetterStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct LetterStatus {
    pub(super) number: u64,
    pub(super) stream: String,
    pub(super) table: String,
    pub(super) reason: String,
    pub(super) id: String,
    pub(super) position: String,
}

/// One value a second, oldest first, `null` where there is none.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct HistoryStatus {
    /// When the last value was taken.
    pub(super) end: Option<Moment>,
    pub(super) step_seconds: u32,
    pub(super) events_per_second: Vec<Option<f64>>,
    pub(super) lag_seconds: Vec<Option<f64>>,
    pub(super) latency_p50_seconds: Vec<Option<f64>>,
    pub(super) latency_p99_seconds: Vec<Option<f64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(Moment::of_micros(1_767_225_600_123_456).rfc3339(), "2026-01-01T00:00:00.123Z");
        assert_eq!(Moment::of_micros(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Moment::of_micros(u64::MAX).rfc3339(), "unknown");
    }
}
