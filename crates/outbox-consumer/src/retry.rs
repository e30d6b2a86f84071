//! When a failed message is tried again, and when no more.

use std::time::Duration;

/// Exponential backoff with jitter and cap, limited in attempts and in total time.
///
/// ```
/// use std::time::Duration;
/// use outbox_consumer::RetryPolicy;
///
/// let policy = RetryPolicy { attempts_max: 5, initial: Duration::from_millis(200), ..RetryPolicy::default() };
/// assert_eq!(policy.max, Duration::from_secs(300));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The delay after the first attempt. 1 s by default.
    pub initial: Duration,
    /// What the delay grows by from attempt to attempt. 2 by default.
    pub factor: f64,
    /// The longest delay. 5 minutes by default.
    pub max: Duration,
    /// How much of a delay is chance, 0 to 1: with 0.2, the default, a delay of 10 s is between 8 and 10 s, so that
    /// messages that failed together do not come back together.
    pub jitter: f64,
    /// How many attempts there are in all; the last one's failure makes a dead letter. 10 by default.
    pub attempts_max: u32,
    /// How long after the first attempt another one may begin. 24 hours by default.
    pub total_max: Duration,
    /// How often a message may be delivered without an attempt at it coming to any end, since the process died each
    /// time. 100 by default.
    pub deliveries_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter: 0.2,
            attempts_max: 10,
            total_max: Duration::from_secs(24 * 3600),
            deliveries_max: 100,
        }
    }
}

impl RetryPolicy {
    /// The delay after the failure of attempt `attempt` (from 1), where `chance` is from 0 to 1.
    pub(crate) fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        let jittered = capped * (1.0 - self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(jittered).unwrap_or(self.max)
    }

    /// The delay before the next attempt, after attempt `attempt` failed `elapsed` after the first one began; `None`
    /// if there is none. `asked` is what the handler asked for.
    pub(crate) fn next(
        &self,
        attempt: u32,
        elapsed: Duration,
        asked: Option<Duration>,
        chance: f64,
    ) -> Option<Duration> {
        let delay = asked.unwrap_or_else(|| self.delay(attempt, chance));
        (attempt < self.attempts_max && elapsed.saturating_add(delay) <= self.total_max).then_some(delay)
    }
}

/// The delays between looks at something that is away: doubling, from 100 ms, up to 10 s.
#[derive(Debug, Default)]
pub(crate) struct Backoff(u32);

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let policy = RetryPolicy {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(10),
            ..RetryPolicy::default()
        };
        self.0 = self.0.saturating_add(1);
        policy.delay(self.0, rand::random())
    }

    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy = RetryPolicy::default();
        let seconds: Vec<_> = (1..=10).map(|attempt| policy.delay(attempt, 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    }

    #[test]
    fn attempts_and_total_time_are_limited() {
        let policy =
            RetryPolicy { attempts_max: 3, total_max: Duration::from_secs(60), ..RetryPolicy::default() };
        assert!(policy.next(2, Duration::ZERO, None, 0.0).is_some());
        assert_eq!(policy.next(3, Duration::ZERO, None, 0.0), None);
        assert_eq!(policy.next(1, Duration::from_secs(60), None, 0.0), None);
        let asked = Duration::from_secs(61);
        assert_eq!(policy.next(1, Duration::ZERO, Some(asked), 0.0), None);
    }

    proptest! {
        #[test]
        fn a_delay_is_between_the_jittered_and_the_cap(attempt: u32, chance in 0.0f64..1.0, jitter in 0.0f64..1.0) {
            let policy = RetryPolicy { jitter, ..RetryPolicy::default() };
            let delay = policy.delay(attempt, chance);
            prop_assert!(delay <= policy.max);
            prop_assert!(delay.as_secs_f64() >= policy.initial.as_secs_f64() * (1.0 - jitter) - 1e-6);
        }
    }
}
