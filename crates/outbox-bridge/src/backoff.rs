//! Waits between tries.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

/// Waits between tries that grow from `initial` to `max`, with jitter, so that many bridges do not come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    tries: u32,
    random: SmallRng,
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        Self { initial, max, tries: 0, random: SmallRng::seed_from_u64(seed) }
    }

    /// Half to all of the capped, doubled wait.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.initial.saturating_mul(1 << self.tries.min(16)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        wait.mul_f64(self.random.random_range(0.5..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}
