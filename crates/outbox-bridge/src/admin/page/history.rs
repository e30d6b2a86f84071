//! The last ten minutes, second by second: a ring of samples.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::metrics::LATENCY_BUCKETS;

/// How many seconds are kept.
pub(super) const SECONDS: usize = 600;
const HALF_A_SECOND: Duration = Duration::from_millis(500);
/// Buckets of latency: one more than there are limits.
const BUCKETS: usize = LATENCY_BUCKETS.len() + 1;

/// Counters as they stood at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) resumes: u64,
    pub(super) reconnects: u64,
    pub(super) duplicates: u64,
    /// How many events took no longer than each limit.
    pub(super) latency: [u64; BUCKETS],
    /// Events by stream, in the order of the configuration.
    pub(super) streams: Vec<u64>,
}

/// What happened since the sample before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// How long that was.
    seconds: f64,
    change: Counters,
    /// `None`: not known.
    lag_seconds: Option<f64>,
}

/// The ring: one place a second, empty where no sample was taken.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Option<Sample>>,
    counters: Counters,
    /// When the last sample was taken.
    last: Option<(Duration, SystemTime)>,
}

impl History {
    /// Takes a sample `elapsed` after the process started; counters began at zero then.
    pub(super) fn sample(
        &mut self,
        elapsed: Duration,
        now: SystemTime,
        counters: Counters,
        lag_seconds: Option<f64>,
    ) {
        let before = self.last.map_or(Duration::ZERO, |(elapsed, _)| elapsed);
        let passed = elapsed.saturating_sub(before);
        let seconds = passed.as_secs_f64().max(0.001);
        // The process may have been frozen meanwhile.
        let places = usize::try_from((passed + HALF_A_SECOND).as_secs()).unwrap_or(SECONDS);
        let missed = if self.last.is_some() { places.saturating_sub(1) } else { 0 };
        for _ in 0..missed.min(SECONDS) {
            self.push(None);
        }
        let change = counters.since(&self.counters);
        self.push(Some(Sample { seconds, change, lag_seconds }));
        self.counters = counters;
        self.last = Some((elapsed, now));
    }

    fn push(&mut self, sample: Option<Sample>) {
        if self.samples.len() == SECONDS {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// When the last sample was taken.
    pub(super) fn end(&self) -> Option<SystemTime> {
        self.last.map(|(_, time)| time)
    }

    /// Events a second, oldest first.
    pub(super) fn events_per_second(&self) -> Vec<Option<f64>> {
        self.series(|sample| Some(sample.change.events as f64 / sample.seconds))
    }

    /// Seconds of lag, oldest first.
    pub(super) fn lag_seconds(&self) -> Vec<Option<f64>> {
        self.series(|sample| sample.lag_seconds)
    }

    /// The latency that a share of the events did not exceed, oldest first; nothing where there were no events.
    pub(super) fn latency(&self, share: f64) -> Vec<Option<f64>> {
        self.series(|sample| quantile(&sample.change.latency, share))
    }

    /// What a counter grew by in the last seconds.
    pub(super) fn grown(&self, seconds: usize, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.newest(seconds).map(|sample| counter(&sample.change)).sum()
    }

    /// How much a second a counter grew by in the last seconds.
    pub(super) fn rate(&self, seconds: usize, counter: impl Fn(&Counters) -> u64) -> f64 {
        let time: f64 = self.newest(seconds).map(|sample| sample.seconds).sum();
        if time > 0.0 { self.grown(seconds, counter) as f64 / time } else { 0.0 }
    }

    /// The latency that a share of the events of the last seconds did not exceed.
    pub(super) fn recent_latency(&self, seconds: usize, share: f64) -> Option<f64> {
        let mut sum = [0; BUCKETS];
        for sample in self.newest(seconds) {
            sum.iter_mut().zip(sample.change.latency).for_each(|(sum, count)| *sum += count);
        }
        quantile(&sum, share)
    }

    fn newest(&self, seconds: usize) -> impl Iterator<Item = &Sample> {
        self.samples.iter().rev().take(seconds).flatten()
    }

    fn series(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
        self.samples.iter().map(|sample| sample.as_ref().and_then(&value)).collect()
    }
}

impl Counters {
    fn since(&self, before: &Self) -> Self {
        let mut latency = self.latency;
        latency.iter_mut().zip(before.latency).for_each(|(now, before)| *now = now.saturating_sub(before));
        let streams = self.streams.iter().enumerate();
        let streams = streams.map(|(index, count)| count.saturating_sub(before.of(index)));
        Self {
            events: self.events.saturating_sub(before.events),
            bytes: self.bytes.saturating_sub(before.bytes),
            resumes: self.resumes.saturating_sub(before.resumes),
            reconnects: self.reconnects.saturating_sub(before.reconnects),
            duplicates: self.duplicates.saturating_sub(before.duplicates),
            latency,
            streams: streams.collect(),
        }
    }

    /// Events of a stream.
    pub(super) fn of(&self, stream: usize) -> u64 {
        self.streams.get(stream).copied().unwrap_or_default()
    }
}

/// The time that a share of all did not exceed, between the limits of its bucket; `None` without any.
fn quantile(cumulative: &[u64; BUCKETS], share: f64) -> Option<f64> {
    let all = *cumulative.last()?;
    if all == 0 {
        return None;
    }
    let wanted = all as f64 * share;
    let (mut below, mut counted) = (0.0, 0.0);
    for (limit, count) in LATENCY_BUCKETS.iter().zip(cumulative) {
        let count = *count as f64;
        if count >= wanted {
            let part = if count > counted { (wanted - counted) / (count - counted) } else { 1.0 };
            return Some(below + (limit - below) * part);
        }
        (below, counted) = (*limit, count);
    }
    Some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(events: u64) -> Counters {
        let mut latency = [events; BUCKETS];
        latency[0] = 0;
        latency[1] = 0;
        Counters { events, latency, streams: vec![events], ..Counters::default() }
    }

    fn at(history: &mut History, seconds: f64, events: u64) {
        let elapsed = Duration::from_secs_f64(seconds);
        history.sample(elapsed, SystemTime::UNIX_EPOCH + elapsed, counters(events), Some(seconds));
    }

    #[test]
    fn rates_and_latencies() {
        let mut history = History::default();
        assert_eq!((history.end(), history.rate(10, |change| change.events)), (None, 0.0));
        at(&mut history, 1.0, 100);
        at(&mut history, 2.0, 100);
        at(&mut history, 4.0, 300);
        assert_eq!(history.events_per_second(), [Some(100.0), Some(0.0), None, Some(100.0)]);
        assert_eq!(history.lag_seconds(), [Some(1.0), Some(2.0), None, Some(4.0)]);
        // All of them took more than one millisecond and less than two.
        assert_eq!(history.latency(0.5), [Some(0.0015), None, None, Some(0.0015)]);
        assert_eq!(history.recent_latency(60, 1.0), Some(0.002));
        assert_eq!(history.rate(3, |change| change.of(0)), 200.0 / 3.0);
        assert_eq!(history.grown(60, |change| change.events), 300);
        assert_eq!(history.end(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4)));
    }

    #[test]
    fn it_is_bounded() {
        let mut history = History::default();
        for second in 1..2_000_u32 {
            at(&mut history, second.into(), second.into());
        }
        assert_eq!(history.events_per_second().len(), SECONDS);
        // Frozen for a year.
        at(&mut history, 3e7, 3_000);
        assert_eq!(history.events_per_second().len(), SECONDS);
        assert_eq!(history.events_per_second().iter().flatten().count(), 1);
    }

    #[test]
    fn what_took_longer_than_all_limits() {
        let mut latency = [0; BUCKETS];
        latency[BUCKETS - 1] = 5;
        assert_eq!(quantile(&latency, 0.5), Some(10.0));
    }
}
