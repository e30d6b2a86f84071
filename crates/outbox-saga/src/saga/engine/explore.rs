//! The engine among participants that behave as their barrier has them behave: everything that can happen, in every order.
//!
//! A move is the delivery of a command or a reply, a timer, a cancellation, or an operator's act. Messages overtake each
//! other, come twice, or never come. A crash is no move of its own: state, commands and history are written in one
//! transaction, so a crash before it leaves everything as it was, and one after it delivers its message again.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::{Action, Effect, Input, Instance, Moment, Outcome, Reply, Status, StepStatus};
use crate::saga::shape::{Retry, Shape, StepShape};

/// What a participant has recorded of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mark {
    Done,
    Refused,
    /// Undone, or closed by an undo that came before its do.
    Undone,
}

/// How often may happen what need not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    duplicates: u8,
    refusals: u8,
    cancels: u8,
    operations: u8,
}

type Command = (usize, Action, u32);
/// With whether it was done.
type Answer = (usize, Action, u32, bool);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// Its times count from now.
    instance: Instance,
    marks: BTreeMap<(usize, u32), Mark>,
    commands: BTreeMap<Command, u8>,
    replies: BTreeMap<Answer, u8>,
    budget: Budget,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Move {
    Command { command: Command, keep: bool, refuse: bool },
    Reply { answer: Answer, keep: bool },
    Timer,
    Cancel,
    Retry,
    Skip(String),
    Abort,
}

impl World {
    fn start(shape: &Shape, budget: Budget) -> Self {
        let mut world = Self {
            instance: Instance::new(shape),
            marks: BTreeMap::new(),
            commands: BTreeMap::new(),
            replies: BTreeMap::new(),
            budget,
        };
        world.handle(&Input::Start, 0);
        world
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        let keeps: &[bool] = if self.budget.duplicates > 0 { &[false, true] } else { &[false] };
        for &keep in keeps {
            for &command in self.commands.keys() {
                moves.push(Move::Command { command, keep, refuse: false });
                let (step, action, round) = command;
                if action == Action::Do
                    && self.budget.refusals > 0
                    && !self.marks.contains_key(&(step, round))
                {
                    moves.push(Move::Command { command, keep, refuse: true });
                }
            }
            moves.extend(self.replies.keys().map(|&answer| Move::Reply { answer, keep }));
        }
        if self.instance.wake_at().is_some() {
            moves.push(Move::Timer);
        }
        if self.budget.cancels > 0 {
            moves.push(Move::Cancel);
        }
        if self.budget.operations > 0 && self.instance.status == Status::Stuck {
            moves.extend([Move::Retry, Move::Abort]);
            let stuck = self.instance.steps.iter().filter(|step| step.status.is_stuck());
            moves.extend(stuck.map(|step| Move::Skip(step.shape.name.clone())));
        }
        moves
    }

    fn make(&mut self, what: &Move) {
        match what {
            Move::Command { command, keep, refuse } => {
                self.budget.duplicates -= u8::from(*keep);
                if !keep {
                    take(&mut self.commands, command);
                }
                self.participate(*command, *refuse);
            }
            Move::Reply { answer, keep } => {
                self.budget.duplicates -= u8::from(*keep);
                if !keep {
                    take(&mut self.replies, answer);
                }
                let &(step, action, round, done) = answer;
                let outcome = if done { Outcome::Done } else { Outcome::Refused("no".to_owned()) };
                self.handle(&Input::Reply(Reply { step, round, action, outcome }), 0);
            }
            Move::Timer => self.handle(&Input::Timer, self.instance.wake_at().unwrap_or_default()),
            Move::Cancel => {
                self.budget.cancels -= 1;
                self.handle(&Input::Cancel { reason: "cancelled".to_owned() }, 0);
            }
            Move::Retry => self.operate(&Input::Retry { step: None }),
            Move::Skip(step) => self.operate(&Input::Skip { step: step.clone() }),
            Move::Abort => self.operate(&Input::Abort { reason: "aborted".to_owned() }),
        }
    }

    fn operate(&mut self, input: &Input) {
        self.budget.operations -= 1;
        self.handle(input, 0);
    }

    fn handle(&mut self, input: &Input, now: u64) {
        let before = self.instance.clone();
        match self.instance.handle(input, Moment { now, chance: 0 }) {
            Ok(effects) => {
                for effect in effects {
                    if let Effect::Command { step, action, round } = effect {
                        *self.commands.entry((step, action, round)).or_default() += 1;
                        self.check_order(step, action);
                    }
                }
            }
            Err(_) => assert_eq!(self.instance, before, "a refused request changes nothing"),
        }
        for step in &mut self.instance.steps {
            step.due = step.due.map(|due| due.saturating_sub(now));
        }
        self.instance.deadline = self.instance.deadline.map(|deadline| deadline.saturating_sub(now));
    }

    /// The participant and its barrier.
    fn participate(&mut self, (step, action, round): Command, refuse: bool) {
        let mark = self.marks.get(&(step, round)).copied();
        let done = match (action, mark) {
            (Action::Do, None) => {
                self.budget.refusals -= u8::from(refuse);
                self.marks.insert((step, round), if refuse { Mark::Refused } else { Mark::Done });
                !refuse
            }
            (Action::Do, Some(mark)) => mark == Mark::Done,
            (Action::Undo, Some(Mark::Refused)) => true,
            (Action::Undo, _) => {
                self.marks.insert((step, round), Mark::Undone);
                true
            }
        };
        *self.replies.entry((step, action, round, done)).or_default() += 1;
    }

    /// Whether a step's effect is there.
    fn is_in_place(&self, step: usize) -> bool {
        self.marks.iter().any(|(&(of, _), &mark)| of == step && mark == Mark::Done)
    }

    /// Whether a step's effect may yet come about by a command that is on its way.
    fn may_come(&self, step: usize) -> bool {
        let open = |&&(of, action, round): &&Command| {
            of == step && action == Action::Do && !self.marks.contains_key(&(of, round))
        };
        self.commands.keys().any(|command| open(&command))
    }

    /// Forward, a step is commanded only after the stages before it; backward, only after those behind it.
    fn check_order(&self, index: usize, action: Action) {
        let stage = self.instance.steps[index].shape.stage;
        for (other, step) in self.instance.steps.iter().enumerate() {
            match action {
                Action::Do if step.shape.stage < stage => {
                    assert!(step.status.is_done(), "{other} before {index}: {:?}", step.status);
                }
                Action::Undo if step.shape.stage > stage => {
                    assert!(!step.status.is_undoing() && !step.status.is_doing());
                    let left = self.is_in_place(other) || self.may_come(other);
                    let excused = !step.shape.compensable || step.status == StepStatus::UndoSkipped;
                    assert!(!left || excused, "{other} is in place when {index} is undone");
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        let Instance { status, .. } = self.instance;
        let waits = self.instance.wake_at().is_some();
        match status {
            Status::Running | Status::Compensating => assert!(waits, "{status:?} for ever"),
            Status::Stuck => {}
            Status::Completed | Status::Compensated | Status::Aborted => assert!(!waits, "{status:?}"),
        }
        if !self.instance.backward {
            assert!(self.marks.values().all(|&mark| mark != Mark::Undone), "undone on the way forward");
            assert!(self.commands.keys().all(|&(_, action, _)| action == Action::Do));
        }
        for (index, step) in self.instance.steps.iter().enumerate() {
            let left = self.is_in_place(index) || self.may_come(index);
            match status {
                Status::Completed if step.status != StepStatus::Skipped => {
                    assert!(self.is_in_place(index), "{index} of a completed saga is not done");
                }
                Status::Compensated | Status::Aborted if step.shape.compensable => {
                    assert!(!left || step.status == StepStatus::UndoSkipped, "{index} is left over");
                }
                // Compensated only if the pivot is not, and will not be, done.
                Status::Compensated if step.shape.pivot => assert!(!left, "the pivot was done"),
                _ => {}
            }
            // Compensation exactly for what was done, or may have been.
            if step.status == StepStatus::Waiting {
                assert!(self.marks.keys().all(|&(of, _)| of != index), "{index} was never commanded");
            }
        }
    }
}

fn take<K: Ord>(counts: &mut BTreeMap<K, u8>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

fn step(name: &str, stage: u32, pivot: bool, compensable: bool, attempts_max: u32) -> StepShape {
    let retry = Retry { attempts_max, initial_ms: 2, max_ms: 4, jitter_percent: 0 };
    StepShape {
        name: name.to_owned(),
        stage,
        pivot,
        compensable,
        timeout_ms: 3,
        retry,
        compensation_retry: retry,
    }
}

fn shape(steps: Vec<StepShape>, timeout_ms: Option<u64>) -> Shape {
    Shape { name: "explored".to_owned(), version: 1, timeout_ms, steps }
}

/// Visits every state that can be reached; gives how many there are, and which ends were seen.
fn explore(shape: &Shape, budget: Budget) -> (usize, HashSet<Status>) {
    let start = World::start(shape, budget);
    // Hashes of states, since the states themselves take much memory: a collision would hide a state, and is unlikely.
    let hasher = RandomState::new();
    let mut seen = HashSet::from([hasher.hash_one(&start)]);
    let mut ends = HashSet::new();
    let mut open = vec![start];
    while let Some(world) = open.pop() {
        world.check();
        ends.insert(world.instance.status);
        for what in world.moves() {
            let mut next = world.clone();
            next.make(&what);
            if seen.insert(hasher.hash_one(&next)) {
                open.push(next);
            }
        }
    }
    (seen.len(), ends)
}

const ALL: [Status; 6] = [
    Status::Running,
    Status::Compensating,
    Status::Stuck,
    Status::Completed,
    Status::Compensated,
    Status::Aborted,
];

#[test]
fn a_sequence_with_a_pivot_in_every_order() {
    let steps =
        vec![step("a", 0, false, true, 1), step("b", 1, true, false, 1), step("c", 2, false, true, 1)];
    let budget = Budget { duplicates: 1, refusals: 1, cancels: 1, operations: 1 };
    let (states, ends) = explore(&shape(steps, None), budget);
    eprintln!("{states} states");
    assert_eq!(ends, HashSet::from(ALL));
}

#[test]
fn a_parallel_group_in_every_order() {
    let steps =
        vec![step("a", 0, false, true, 1), step("b", 1, false, true, 1), step("c", 1, false, true, 1)];
    let budget = Budget { duplicates: 0, refusals: 1, cancels: 1, operations: 0 };
    let (states, ends) = explore(&shape(steps, Some(5)), budget);
    eprintln!("{states} states");
    assert!(!ends.contains(&Status::Aborted), "there is no pivot");
}

#[test]
fn a_pivot_that_can_be_compensated_in_every_order() {
    let steps = vec![step("a", 0, true, true, 2), step("b", 1, false, true, 1)];
    let budget = Budget { duplicates: 1, refusals: 2, cancels: 1, operations: 2 };
    let (states, ends) = explore(&shape(steps, Some(6)), budget);
    eprintln!("{states} states");
    assert_eq!(ends, HashSet::from(ALL));
}

/// One to six steps, some in parallel, perhaps with a pivot.
fn random_shape(random: &mut SmallRng) -> Shape {
    let mut steps = Vec::new();
    let pivot_at = random.random_bool(0.6).then(|| random.random_range(0..4));
    for stage in 0..random.random_range(1..=4) {
        let pivot = pivot_at == Some(stage);
        for part in 0..if pivot { 1 } else { random.random_range(1..=3) } {
            let name = format!("{stage}{part}");
            let attempts_max = random.random_range(1..=3);
            steps.push(step(&name, stage, pivot, random.random_bool(0.7), attempts_max));
        }
    }
    shape(steps, random.random_bool(0.5).then(|| random.random_range(3..40)))
}

/// After everything that can go wrong has, all messages arrive, and whoever is asked answers.
fn heal(world: &mut World) {
    world.budget = Budget { duplicates: 0, refusals: 0, cancels: 0, operations: u8::MAX };
    for _ in 0..1_000 {
        let moves = world.moves();
        let message = |what: &&Move| matches!(what, Move::Command { .. } | Move::Reply { .. });
        let first = moves.iter().find(message).or_else(|| moves.first());
        let Some(what) = first.cloned() else { break };
        world.make(&what);
        world.check();
    }
    assert!(world.instance.status.is_end(), "{world:#?}");
}

#[test]
fn random_sagas_from_seeds() {
    let seeds = match std::env::var("OUTBOX_SAGA_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..20_000,
    };
    let mut ends = BTreeMap::new();
    for seed in seeds {
        let ended = std::panic::catch_unwind(|| {
            let mut random = SmallRng::seed_from_u64(seed);
            let shape = random_shape(&mut random);
            let budget = Budget {
                duplicates: 3,
                refusals: random.random_range(0..3),
                cancels: u8::from(random.random_bool(0.2)),
                operations: 3,
            };
            let mut world = World::start(&shape, budget);
            // Some sagas suffer from slow messages, most do not.
            let hasty = if random.random_bool(0.5) { 0.0 } else { random.random_range(0.0..0.5) };
            for _ in 0..random.random_range(5..120) {
                world.check();
                let mut moves = world.moves();
                if !random.random_bool(hasty) && moves.len() > 1 {
                    moves.retain(|what| !matches!(what, Move::Timer));
                }
                let Some(what) = moves.choose(&mut random) else { break };
                world.make(what);
            }
            heal(&mut world);
            world.instance.status
        });
        match ended {
            Ok(status) => *ends.entry(status.as_str()).or_insert(0) += 1,
            Err(_) => panic!("with OUTBOX_SAGA_SEED={seed}"),
        }
    }
    eprintln!("{ends:?}");
}
