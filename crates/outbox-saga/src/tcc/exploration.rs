//! The machine, its store, its participants and the network between them, explored: every order, loss, repetition and crash
//! for small transactions, and chance ones from a seed for larger ones.
//!
//! The world is what the coordinator is in earnest, made small: a store with a compare-and-set of the decision, coordinators
//! that lose all they know when they crash, messages that are lost, repeated and late, and participants behind the
//! barrier's own table of states.

use std::collections::HashSet;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::machine::{BranchStatus, Came, Decision, Machine, Request, Step, Trying};
use crate::barrier::{Decision as Outcome, MemoryBranch, Operation};

const ATTEMPTS_MAX: u32 = 2;

/// A call on its way; it can arrive at any time, also after its caller has given it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Message {
    branch: usize,
    operation: Operation,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Coordinator {
    /// It knows nothing, and may take the transaction up.
    Idle,
    /// It is about to do the next step.
    Working(Machine),
    /// It has called these and waits for the answers; the last is the one that is asked for next.
    Calling(Machine, Vec<usize>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    // The store.
    stored: Machine,
    stuck: bool,
    finished: bool,
    expired: bool,
    // What is volatile.
    coordinators: Vec<Coordinator>,
    network: Vec<Message>,
    // The participants.
    branches: Vec<MemoryBranch>,
    /// The participant that says no.
    refuses: Option<usize>,
    /// Coordinators have heard it say no.
    refused: bool,
    // How many faults are left, so that the exploration ends.
    crashes: u8,
    losses: u8,
    repeats: u8,
}

/// One thing that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A coordinator does its next step, or takes the transaction up.
    Step(usize),
    /// The call that a coordinator waits for arrives and is answered.
    Answered(usize),
    /// It arrives, and the answer is lost. Of a try there may be time left to call it again.
    AnswerLost(usize, bool),
    /// It is given up, and arrives later or never. Likewise.
    Late(usize, bool),
    /// It arrives and is answered, and arrives once more later.
    Repeated(usize),
    Crash(usize),
    /// Something from the network arrives late.
    Arrives(usize),
    Expires,
    Operator,
}

impl World {
    fn new(branches: usize, coordinators: usize, refuses: Option<usize>) -> Self {
        let mut first = vec![Coordinator::Working(Machine::new(branches))];
        first.resize(coordinators, Coordinator::Idle);
        Self {
            stored: Machine::new(branches),
            stuck: false,
            finished: false,
            expired: false,
            coordinators: first,
            network: Vec::new(),
            branches: vec![MemoryBranch::default(); branches],
            refuses,
            refused: false,
            crashes: 1,
            losses: 2,
            repeats: 1,
        }
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (place, coordinator) in self.coordinators.iter().enumerate() {
            match coordinator {
                Coordinator::Idle if self.may_be_taken_up() => events.push(Event::Step(place)),
                Coordinator::Idle => continue,
                Coordinator::Working(_) => events.push(Event::Step(place)),
                Coordinator::Calling(..) => {
                    events.push(Event::Answered(place));
                    if self.losses > 0 {
                        for time_left in [true, false] {
                            events
                                .extend([Event::AnswerLost(place, time_left), Event::Late(place, time_left)]);
                        }
                    }
                    if self.repeats > 0 {
                        events.push(Event::Repeated(place));
                    }
                }
            }
            if self.crashes > 0 && *coordinator != Coordinator::Idle {
                events.push(Event::Crash(place));
            }
        }
        events.extend((0..self.network.len()).map(Event::Arrives));
        if !self.expired {
            events.push(Event::Expires);
        }
        if self.stuck {
            events.push(Event::Operator);
        }
        events
    }

    /// Leases run out as they like, so a transaction may also be taken up while another instance is at it.
    fn may_be_taken_up(&self) -> bool {
        !self.finished && !self.stuck && (self.expired || self.stored.decision().is_some())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(place) => self.step(place),
            Event::Answered(place) => self.call(place, true, |world, message| world.arrive(message)),
            Event::AnswerLost(place, time_left) => self.call(place, time_left, |world, message| {
                world.losses -= 1;
                world.arrive(message);
                Came::Unknown
            }),
            Event::Late(place, time_left) => self.call(place, time_left, |world, message| {
                world.losses -= 1;
                world.network.push(message);
                Came::Unknown
            }),
            Event::Repeated(place) => self.call(place, true, |world, message| {
                world.repeats -= 1;
                world.network.push(message);
                world.arrive(message)
            }),
            Event::Crash(place) => {
                self.crashes -= 1;
                // What it was about to send may be on its way.
                if let Coordinator::Calling(machine, open) = &self.coordinators[place] {
                    let operation = operation(machine);
                    self.network.extend(open.iter().map(|&branch| Message { branch, operation }));
                }
                self.coordinators[place] = Coordinator::Idle;
            }
            Event::Arrives(place) => {
                let message = self.network.remove(place);
                self.arrive(message);
            }
            Event::Expires => self.expired = true,
            Event::Operator => {
                self.stuck = false;
                self.stored.request(&Request::Retry, &[]).expect("a retry is always possible");
            }
        }
        // Worlds that differ in the order of what is on its way only are the same.
        self.network.sort_by_key(|message| (message.branch, message.operation as u8));
    }

    fn step(&mut self, place: usize) {
        let mut machine = match &self.coordinators[place] {
            Coordinator::Working(machine) => machine.clone(),
            _ => {
                let mut machine = self.stored.clone();
                if machine.decision().is_none() {
                    machine.round_over();
                }
                machine
            }
        };
        self.coordinators[place] = match machine.next(ATTEMPTS_MAX) {
            Step::Try(open) | Step::End(_, open) => Coordinator::Calling(machine, open),
            Step::Decide(proposed) => {
                machine.decided(self.decide(proposed));
                Coordinator::Working(machine)
            }
            Step::Finish(_) => {
                self.save(&machine);
                self.finished = true;
                Coordinator::Idle
            }
            Step::Retry => {
                self.save(&machine);
                Coordinator::Idle
            }
            Step::Stick => {
                self.save(&machine);
                self.stuck = !self.finished;
                Coordinator::Idle
            }
        };
    }

    /// The compare-and-set of the store.
    fn decide(&mut self, proposed: Decision) -> Decision {
        let decision = match (self.stored.decision(), proposed) {
            (Some(decision), _) => return decision,
            (None, Decision::Confirm) if !self.expired => Decision::Confirm,
            _ => Decision::Cancel,
        };
        self.stored.decided(decision);
        decision
    }

    fn save(&mut self, machine: &Machine) {
        // Branches that have ended stay so; a transaction that has finished too.
        let ended: Vec<_> = std::iter::zip(self.stored.branches(), machine.branches())
            .map(|(&stored, &new)| match stored {
                BranchStatus::Confirmed | BranchStatus::Cancelled => stored,
                _ => new,
            })
            .collect();
        self.stored = Machine::load(machine.decision(), ended, machine.attempts());
    }

    /// A coordinator's call of its next branch comes out as `happens` says. A try of which nothing is known is called again if there is `time_left`.
    fn call(&mut self, place: usize, time_left: bool, happens: impl FnOnce(&mut Self, Message) -> Came) {
        let Coordinator::Calling(mut machine, mut open) =
            std::mem::replace(&mut self.coordinators[place], Coordinator::Idle)
        else {
            panic!("it does not call");
        };
        let branch = open.pop().expect("it calls something");
        let operation = operation(&machine);
        let asks_again = operation == Operation::Do && self.refused && self.refuses == Some(branch);
        assert!(!asks_again, "a refusal was heard, and is asked for again: {self:#?}");
        let came = happens(self, Message { branch, operation });
        let trying = match machine.decision() {
            None => machine.tried(branch, came, time_left),
            Some(decision) => {
                machine.ended(branch, decision, came);
                Trying::Others
            }
        };
        self.refused |= operation == Operation::Do && came == Came::Refused && self.refuses == Some(branch);
        if trying == Trying::Again {
            // Behind the others, which go on meanwhile.
            open.insert(0, branch);
        }
        self.coordinators[place] = if open.is_empty() || trying == Trying::Hopeless {
            self.network.extend(open.iter().map(|&branch| Message { branch, operation }));
            machine.round_over();
            Coordinator::Working(machine)
        } else {
            Coordinator::Calling(machine, open)
        };
    }

    fn arrive(&mut self, message: Message) -> Came {
        let refuses = message.operation == Operation::Do && self.refuses == Some(message.branch);
        match self.branches[message.branch].call(message.operation, refuses) {
            Outcome::Refused | Outcome::TooLate => Came::Refused,
            Outcome::Violation => panic!("a branch was asked for what contradicts its state: {self:#?}"),
            Outcome::Run(_) | Outcome::Again | Outcome::Nothing => Came::Accepted,
        }
    }

    fn check(&self) {
        let confirmed = self.branches.iter().any(|branch| branch.is_confirmed());
        let undone = self.branches.iter().any(|branch| branch.is_undone());
        assert!(!(confirmed && undone), "one branch is confirmed and another cancelled: {self:#?}");
        if !self.finished {
            return;
        }
        let decision = self.stored.decision().expect("what has finished was decided");
        for branch in &self.branches {
            assert!(!branch.is_reserved(), "a reservation is left over: {self:#?}");
            assert_eq!(branch.is_confirmed(), decision == Decision::Confirm, "{self:#?}");
        }
    }

    /// Nothing can happen any more that changes anything.
    fn is_quiet(&self) -> bool {
        self.events().is_empty()
    }
}

fn operation(machine: &Machine) -> Operation {
    match machine.decision() {
        None => Operation::Do,
        Some(Decision::Confirm) => Operation::Confirm,
        Some(Decision::Cancel) => Operation::Undo,
    }
}

/// Every world that can come of `first`. Gives how many there are.
fn explore(first: World) -> usize {
    let mut seen = HashSet::new();
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        world.check();
        let events = world.events();
        // Whatever has happened, somebody ends the transaction.
        assert!(!events.is_empty() || world.finished, "it hangs: {world:#?}");
        for event in events {
            let mut next = world.clone();
            next.happen(event);
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen.len()
}

#[test]
fn two_branches_in_every_order() {
    let mut worlds = 0;
    for refuses in [None, Some(0), Some(1)] {
        worlds += explore(World::new(2, 2, refuses));
    }
    println!("{worlds} worlds");
    assert!(worlds > 10_000, "{worlds}");
}

#[test]
fn more_branches_by_chance() {
    for seed in 0..20_000 {
        let mut random = SmallRng::seed_from_u64(seed);
        let branches = random.random_range(1..=5);
        let refuses = random.random_bool(0.3).then(|| random.random_range(0..branches));
        let mut world = World::new(branches, random.random_range(1..=3), refuses);
        world.crashes = random.random_range(0..5);
        world.losses = random.random_range(0..8);
        world.repeats = random.random_range(0..5);
        let mut steps = 0;
        while !world.is_quiet() {
            let events = world.events();
            world.happen(events[random.random_range(0..events.len())]);
            world.check();
            steps += 1;
            assert!(steps < 10_000, "seed {seed} does not end");
        }
        assert!(world.finished, "seed {seed} hangs");
    }
}

/// Calls are lost, but nothing else goes wrong and there is always time left: then every transaction is confirmed.
#[test]
fn whatever_is_lost_is_confirmed_if_there_is_time() {
    let mut world = World::new(2, 1, None);
    (world.crashes, world.repeats) = (0, 0);
    let mut seen = HashSet::new();
    let mut open = vec![world];
    let mut ended = 0;
    while let Some(world) = open.pop() {
        world.check();
        ended += usize::from(world.finished);
        let confirmed = world.stored.decision() != Some(Decision::Cancel);
        assert!(confirmed, "a try was given up though there was time: {world:#?}");
        let patient = |event: &Event| {
            let hasty = matches!(event, Event::AnswerLost(_, false) | Event::Late(_, false));
            !hasty && *event != Event::Expires
        };
        for event in world.events().into_iter().filter(patient) {
            let mut next = world.clone();
            next.happen(event);
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    assert!(ended > 0);
}
