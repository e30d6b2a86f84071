//! The limits of a coordinator.

use std::time::Duration;

use super::error::{TccError, TccErrorKind};

/// How long a coordinator waits for what.
///
/// ```
/// use std::time::Duration;
/// use outbox_saga::tcc::Limits;
///
/// let limits = Limits { try_limit: Duration::from_secs(3), ..Limits::default() };
/// assert_eq!(limits.attempts_max, 30);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// How long after the begin the decision to confirm may fall, unless the transaction says otherwise. 10 s by default.
    pub try_limit: Duration,
    /// How long one call may take; a try never longer than to the deadline. 5 s by default.
    pub call_limit: Duration,
    /// How often a try may be called of which nothing comes to be known, such as while its participant is restarted: no connection,
    /// no answer, an answer that says neither yes nor no. By default as often as there is time before the deadline; with 1 the
    /// transaction is cancelled at once. What other branches have reserved stays reserved meanwhile, so this is bounded by `try_limit`. A
    /// refusal is an answer, and cancels at once in any case.
    pub try_attempts_max: u32,
    /// The delay after a try's first call that came to nothing. It doubles from call to call. 0.1 s by default.
    pub try_retry_initial: Duration,
    /// The longest delay between calls of a try. 1 s by default.
    pub try_retry_max: Duration,
    /// The delay after the first round of confirms or cancels that left something open. It doubles from round to round. 0.5 s by
    /// default.
    pub retry_initial: Duration,
    /// The longest delay between rounds. 1 minute by default.
    pub retry_max: Duration,
    /// How much of a delay, of either sort, is chance, 0 to 1, so that what failed together does not come back together. 0.2 by default.
    pub retry_jitter: f64,
    /// After how many rounds a transaction is stuck, and waits for an operator. 30 by default, which is about 25 minutes.
    pub attempts_max: u32,
    /// How long an instance has a decided transaction in hand before another one may take it up. 30 s by default; longer than a round of
    /// calls takes. If it is too short, branches are called by two instances, which does no harm.
    pub lease: Duration,
    /// How often an instance looks for what another one has left behind. 1 s by default.
    pub recovery_interval: Duration,
    /// How many transactions it takes up at a time. 32 by default.
    pub recovery_batch: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            try_limit: Duration::from_secs(10),
            call_limit: Duration::from_secs(5),
            try_attempts_max: u32::MAX,
            try_retry_initial: Duration::from_millis(100),
            try_retry_max: Duration::from_secs(1),
            retry_initial: Duration::from_millis(500),
            retry_max: Duration::from_secs(60),
            retry_jitter: 0.2,
            attempts_max: 30,
            lease: Duration::from_secs(30),
            recovery_interval: Duration::from_secs(1),
            recovery_batch: 32,
        }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), TccError> {
        for (what, duration) in [
            ("try_limit", self.try_limit),
            ("call_limit", self.call_limit),
            ("try_retry_initial", self.try_retry_initial),
            ("try_retry_max", self.try_retry_max),
            ("retry_initial", self.retry_initial),
            ("recovery_interval", self.recovery_interval),
        ] {
            if duration.is_zero() {
                return Err(TccError::new(TccErrorKind::Settings, format!("the limit `{what}` is zero")));
            }
        }
        if self.lease <= self.call_limit {
            let message =
                "the limit `lease` is not longer than `call_limit`, so every slow call would be made twice";
            return Err(TccError::new(TccErrorKind::Settings, message));
        }
        if self.attempts_max == 0 || self.try_attempts_max == 0 || self.recovery_batch == 0 {
            let message =
                "the limits `attempts_max`, `try_attempts_max` and `recovery_batch` must not be zero";
            return Err(TccError::new(TccErrorKind::Settings, message));
        }
        Ok(())
    }

    /// The delay after round `attempt` (from 1), where `chance` is from 0 to 1.
    pub(crate) fn delay(&self, attempt: u32, chance: f64) -> Duration {
        self.grown(self.retry_initial, self.retry_max, attempt, chance)
    }

    /// The delay after a try's call `attempt` (from 1), where `left` is what is left until the deadline; none if it is not to be called
    /// again. The next call has at least as much time as was waited for it.
    pub(crate) fn try_delay(&self, attempt: u32, left: Duration, chance: f64) -> Option<Duration> {
        let delay = self.grown(self.try_retry_initial, self.try_retry_max, attempt, chance);
        (attempt < self.try_attempts_max && delay.saturating_mul(2) <= left).then_some(delay)
    }

    fn grown(&self, initial: Duration, max: Duration, attempt: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = initial.as_secs_f64() * 2f64.powi(exponent);
        let capped = grown.min(max.as_secs_f64());
        let jittered = capped * (1.0 - self.retry_jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(jittered).unwrap_or(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let limits = Limits::default();
        let millis: Vec<_> = (1..=9).map(|attempt| limits.delay(attempt, 0.0).as_millis()).collect();
        assert_eq!(millis, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(limits.delay(u32::MAX, 1.0), Duration::from_secs(48));
    }

    #[test]
    fn a_try_is_repeated_while_there_is_time() {
        let limits = Limits::default();
        let (millis, long) = (Duration::from_millis, Duration::from_secs(60));
        let delays: Vec<_> = (1..=6).map(|attempt| limits.try_delay(attempt, long, 0.0)).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000].map(|delay| Some(millis(delay))));
        assert_eq!(limits.try_delay(1, millis(200), 0.0), Some(millis(100)));
        assert_eq!(limits.try_delay(1, millis(199), 0.0), None, "as much time for the call as for the pause");
        assert_eq!(limits.try_delay(1, millis(160), 1.0), Some(millis(80)), "jittered");
        let few = Limits { try_attempts_max: 2, ..limits };
        assert_eq!([1, 2].map(|attempt| few.try_delay(attempt, long, 0.0).is_some()), [true, false]);
    }

    #[test]
    fn senseless_limits_are_refused() {
        let default = Limits::default;
        assert!(default().check().is_ok());
        for limits in [
            Limits { try_limit: Duration::ZERO, ..default() },
            Limits { lease: Duration::from_secs(5), ..default() },
            Limits { attempts_max: 0, ..default() },
            Limits { try_attempts_max: 0, ..default() },
            Limits { try_retry_max: Duration::ZERO, ..default() },
        ] {
            assert_eq!(limits.check().expect_err("senseless").kind(), TccErrorKind::Settings);
        }
    }
}
