//! What a saga looks like, without its code: enough to run an instance, to show it, and for an operator to act on it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The steps of a saga and their limits; stored with each instance, so that tools need no code of the service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// The saga's name.
    pub name: String,
    /// The version of its definition.
    pub version: u32,
    /// How long the whole may take before it is compensated, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The steps, in the order of their stages.
    pub steps: Vec<StepShape>,
}

/// One step of a [`Shape`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepShape {
    /// Its name, one of its kind in the saga.
    pub name: String,
    /// Steps of one stage run in parallel; a stage begins when the one before it is done.
    pub stage: u32,
    /// Whether there is only forward once this step is done.
    pub pivot: bool,
    /// Whether it has a compensation.
    pub compensable: bool,
    /// How long an answer may take, in milliseconds.
    pub timeout_ms: u64,
    /// When its command is sent again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: Retry,
    /// When its compensation's command is sent again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compensation_retry: Retry,
}

/// How often a command is sent, and how long to wait in between: exponential backoff with cap and jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// How often the command is sent in all; after that the step is given up or stuck. 10 by default.
    pub attempts_max: u32,
    /// The delay after the first attempt, in milliseconds; it doubles from attempt to attempt. 1 s by default.
    pub initial_ms: u64,
    /// The longest delay, in milliseconds. 5 minutes by default.
    pub max_ms: u64,
    /// How much of a delay is chance, in per cent: with 20, the default, a delay of 10 s is between 8 and 10 s.
    pub jitter_percent: u8,
}

/// What is as usual is left out of the stored state, which is written with each transition.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts_max: 10, initial_ms: 1_000, max_ms: 300_000, jitter_percent: 20 }
    }
}

impl Retry {
    /// The default with at most so many attempts.
    #[must_use]
    pub fn attempts(attempts_max: u32) -> Self {
        Self { attempts_max, ..Self::default() }
    }

    /// Sets the first and the longest delay.
    #[must_use]
    pub fn delays(self, initial: Duration, max: Duration) -> Self {
        Self { initial_ms: milliseconds(initial), max_ms: milliseconds(max), ..self }
    }

    /// The delay after attempt `attempt` (from 1), where `chance` is from 0 to 255.
    pub(crate) fn delay_ms(&self, attempt: u32, chance: u8) -> u64 {
        let doubled = 1u64.checked_shl(attempt.saturating_sub(1).min(63)).unwrap_or(u64::MAX);
        let capped = self.initial_ms.saturating_mul(doubled).min(self.max_ms);
        let share = u64::from(self.jitter_percent.min(100)) * u64::from(chance);
        // In parts, so that no product of a long delay overflows.
        let parts = 100 * u64::from(u8::MAX);
        capped - (capped / parts * share + capped % parts * share / parts)
    }
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<_> = (1..=10).map(|attempt| Retry::default().delay_ms(attempt, 0) / 1_000).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    }

    proptest! {
        #[test]
        fn a_delay_is_between_the_jittered_and_the_cap(attempt: u32, chance: u8, jitter_percent in 0u8..=100) {
            let retry = Retry { jitter_percent, ..Retry::default() };
            let delay = retry.delay_ms(attempt, chance);
            prop_assert!(delay <= retry.max_ms);
            prop_assert!(delay >= retry.initial_ms * u64::from(100 - jitter_percent) / 100);
        }
    }
}
