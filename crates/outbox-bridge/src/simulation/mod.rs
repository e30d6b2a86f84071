//! The pipeline against a simulated source, streams, checkpoint store and clock, driven by a seed.
//!
//! The code under test is the real one: pipeline, plan, writers, chains. What is simulated is what they stand on, and it
//! lies in the ways that real servers were seen to lie ([`server`], [`store`], [`log`]). Time is tokio's paused clock, so
//! a run of many simulated minutes takes milliseconds and goes the same way each time.
//!
//! The oracle is the log itself: at every store the stream must be a beginning of the expected rows, and when the faults
//! end it must become all of them.
//!
//! `OUTBOX_SIMULATION_SEED=n` runs one seed, `OUTBOX_SIMULATION_SEEDS=n` that many.

mod log;
mod server;
mod store;

use std::{sync::Arc, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    log::{Log, SimulatedSource},
    server::{Faults, SimulatedWires, World},
    store::SimulatedStore,
};
use crate::{
    admin::Readiness,
    config::StartPosition,
    pipeline::{Pipeline, PipelineError, PipelineOptions, plan::PlanError},
    publish::{Mode, Stop, WriterOptions},
};

const STREAMS: [&str; 2] = ["A", "B"];
const SEEDS: u64 = 10_000;

/// A running bridge.
struct Run {
    instance: String,
    task: JoinHandle<Result<(), PipelineError<log::Lost>>>,
}

/// Everything of one seed.
struct Simulation {
    random: SmallRng,
    log: Arc<Log>,
    world: Arc<World>,
    store: SimulatedStore,
    mode: Mode,
    instances: u64,
    /// Without a checkpoint, begin at the log's start; else where the streams end, as far as they can tell.
    from_beginning: bool,
    seed: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let log = Arc::new(Log::generate(&mut random));
        let faults = Faults::choose(&mut random, &log);
        let world = World::new(&STREAMS, log.clone(), faults, random.random());
        let store = SimulatedStore::new(random.random());
        let mode = [Mode::Fast, Mode::Pipelined, Mode::Durable][random.random_range(0..3)];
        Self { random, log, world, store, mode, instances: 0, from_beginning: seed.is_multiple_of(2), seed }
    }

    fn check(&self) {
        if let Some(violation) = self.world.violation() {
            panic!("seed {}: {violation}", self.seed);
        }
    }

    fn start(&mut self, shutdown: CancellationToken) -> Run {
        self.instances += 1;
        let instance = format!("instance {}", self.instances);
        let options = PipelineOptions {
            tables: Vec::new(),
            instance: instance.clone(),
            checkpoint_key: "bridge".into(),
            checkpoint_interval: Duration::from_secs(1),
            start: if self.from_beginning { StartPosition::Earliest } else { StartPosition::Now },
            streams: STREAMS.map(str::to_owned).into(),
            writer: WriterOptions {
                stream: String::new(),
                mode: self.mode,
                replicated: false,
                consumed: false,
                window: self.random.random_range(1..200),
                window_bytes_max: 1 << 20,
                ack_timeout: Duration::from_secs(5),
                retry_initial: Duration::from_millis(100),
                retry_max: Duration::from_secs(10),
                behind_patience: Duration::from_secs(5),
                seed: 0,
                traces: None,
            },
            shutdown_deadline: Duration::from_secs(10),
            seed: self.random.random(),
        };
        let source = SimulatedSource::new(self.log.clone(), self.random.random());
        let wires = SimulatedWires::new(self.world.clone(), self.mode);
        let pipeline = Pipeline::new(source, wires, self.store.clone(), options, Readiness::of_bridge());
        Run { instance, task: tokio::spawn(pipeline.run(shutdown)) }
    }

    /// Some simulated time full of faults, then quiet until all is stored.
    async fn run(mut self) {
        let mut runs = vec![self.start(CancellationToken::new())];
        let turns = self.random.random_range(3..12);
        // Limits are raised and permissions given at some time: what is a dead letter by then stays one.
        let heal = self.random.random_ratio(1, 3);
        let replays = self.random.random();
        for _ in 0..turns {
            let wait = Duration::from_millis(self.random.random_range(0..4_000));
            let until_operation = self.random.random_range(1..150);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.world.operations_pass(until_operation) => {}
            }
            match self.random.random_range(0..12) {
                0..=2 => runs.iter().for_each(|run| run.task.abort()),
                3 => {
                    let shutdown = CancellationToken::new();
                    runs.push(self.start(shutdown.clone()));
                    let after = Duration::from_millis(self.random.random_range(0..3_000));
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        shutdown.cancel();
                    });
                }
                4 => runs.push(self.start(CancellationToken::new())),
                5 if self.world.faults.checkpoint_lost => self.store.lose(),
                6 => self.store.disturb(Duration::from_millis(self.random.random_range(0..8_000))),
                7 | 8 if self.log.is_replicated() => self.log.switch(&mut self.random),
                9 if self.log.is_replicated() => self.log.catch_up(),
                _ => self.world.strike(),
            }
            if heal && self.random.random_ratio(1, 6) {
                runs.iter().for_each(|run| run.task.abort());
                tokio::task::yield_now().await;
                self.world.heal();
            }
            if replays && self.random.random_ratio(1, 2) {
                runs.iter().for_each(|run| run.task.abort());
                tokio::task::yield_now().await;
                self.world.replay();
            }
            self.supervise(&mut runs).await;
        }
        self.world.calm();
        self.log.catch_up();
        let deadline = Instant::now() + Duration::from_secs(1_800);
        while !self.world.is_complete() {
            assert!(
                Instant::now() < deadline,
                "seed {}: not everything was stored within half an hour without faults: {}",
                self.seed,
                self.world.summary()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.supervise(&mut runs).await;
        }
    }

    /// As an operator's supervisor would: looks at what ended and starts a bridge if none runs.
    async fn supervise(&mut self, runs: &mut Vec<Run>) {
        tokio::task::yield_now().await;
        self.check();
        let mut running = Vec::new();
        for run in runs.drain(..) {
            if !run.task.is_finished() {
                running.push(run);
                continue;
            }
            match run.task.await {
                Ok(Ok(()) | Err(PipelineError::TakenOver { .. } | PipelineError::Deadline)) => {}
                // As its remedy says.
                Ok(Err(PipelineError::Plan(PlanError::NoCheckpoint { .. }))) => self.from_beginning = true,
                Ok(Err(PipelineError::Writer(Stop::Conflict { .. }))) => {}
                // After a change of server any other writer is one too many; who was replaced may find it so.
                Ok(Err(PipelineError::Writer(Stop::Inconsistent { .. }))) if self.log.is_replicated() => {}
                Ok(Err(PipelineError::Writer(Stop::NotInLog { .. })))
                    if self.log.is_replicated()
                        && self.store.owner().is_some_and(|owner| owner != run.instance) => {}
                Ok(Err(error)) => panic!("seed {}: {}: {error:?}", self.seed, crate::exit::report(&error)),
                Err(ended) => assert!(ended.is_cancelled(), "seed {}: {ended}", self.seed),
            }
        }
        *runs = running;
        if runs.is_empty() {
            runs.push(self.start(CancellationToken::new()));
        }
    }
}

fn run_seed(seed: u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { Simulation::new(seed).run().await });
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn everything_once_and_in_order_whatever_happens() {
    if let Some(seed) = variable("OUTBOX_SIMULATION_SEED") {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).without_time().init();
        return run_seed(seed);
    }
    let seeds = variable("OUTBOX_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(usize::try_from(threads).unwrap()) {
                    let run = std::panic::catch_unwind(|| run_seed(seed));
                    if run.is_err() {
                        panic!("seed {seed} failed; run it alone with OUTBOX_SIMULATION_SEED={seed}");
                    }
                }
            });
        }
    });
}
