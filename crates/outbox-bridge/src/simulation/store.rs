//! A checkpoint store that answers late, wrongly or not at all.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::Instant;

use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints};

#[derive(Debug)]
struct State {
    random: SmallRng,
    entry: Option<(Checkpoint, u64)>,
    revision: u64,
    disturbed_until: Option<Instant>,
}

/// The store, shared by all instances.
#[derive(Debug, Clone)]
pub(super) struct SimulatedStore {
    state: Arc<Mutex<State>>,
}

impl SimulatedStore {
    pub(super) fn new(seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self {
            state: Arc::new(Mutex::new(State { random, entry: None, revision: 0, disturbed_until: None })),
        }
    }

    /// The checkpoint is gone.
    pub(super) fn lose(&self) {
        let mut state = self.state.lock().unwrap();
        state.entry = None;
        state.revision += 1;
    }

    /// Who wrote the checkpoint.
    pub(super) fn owner(&self) -> Option<String> {
        let state = self.state.lock().unwrap();
        state.entry.as_ref().map(|(checkpoint, _)| checkpoint.instance.clone())
    }

    /// For a while, answers are lost.
    pub(super) fn disturb(&self, time: Duration) {
        self.state.lock().unwrap().disturbed_until = Some(Instant::now() + time);
    }

    async fn latency(&self) {
        let wait = self.state.lock().unwrap().random.random_range(0..20);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

impl State {
    fn is_disturbed(&mut self) -> bool {
        self.disturbed_until.is_some_and(|until| Instant::now() < until) && self.random.random()
    }
}

impl Checkpoints for SimulatedStore {
    async fn load(&mut self) -> Result<Option<(Checkpoint, u64)>, CheckpointError> {
        self.latency().await;
        let mut state = self.state.lock().unwrap();
        if state.is_disturbed() {
            return Err(CheckpointError::Unavailable("disturbed".into()));
        }
        Ok(state.entry.clone())
    }

    async fn save(&mut self, checkpoint: &Checkpoint, revision: Option<u64>) -> Result<u64, CheckpointError> {
        self.latency().await;
        let mut state = self.state.lock().unwrap();
        if state.is_disturbed() {
            return Err(CheckpointError::Unavailable("disturbed before".into()));
        }
        if state.entry.as_ref().map(|(_, revision)| *revision) != revision {
            return Err(CheckpointError::Conflict);
        }
        state.revision += 1;
        let revision = state.revision;
        state.entry = Some((checkpoint.clone(), revision));
        if state.is_disturbed() {
            return Err(CheckpointError::Unavailable("disturbed after".into()));
        }
        Ok(revision)
    }
}
