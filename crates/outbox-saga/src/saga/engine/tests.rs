//! The rules, one at a time.

use super::{Action, Cause, Effect, Input, Instance, Moment, Outcome, Refusal, Reply, Status, StepStatus};
use crate::saga::shape::{Retry, Shape, StepShape};

const TIMEOUT_MS: u64 = 1_000;

fn step(name: &str, stage: u32) -> StepShape {
    let retry = Retry { attempts_max: 2, initial_ms: 100, max_ms: 100, jitter_percent: 0 };
    StepShape {
        name: name.to_owned(),
        stage,
        pivot: false,
        compensable: true,
        timeout_ms: TIMEOUT_MS,
        retry,
        compensation_retry: retry,
    }
}

/// `reserve`, then `pay`, the pivot, which cannot be undone, then `ship`.
fn order() -> Instance {
    let pay = StepShape { pivot: true, compensable: false, ..step("pay", 1) };
    let steps = vec![step("reserve", 0), pay, step("ship", 2)];
    Instance::new(&Shape { name: "order".to_owned(), version: 1, timeout_ms: Some(60_000), steps })
}

/// The commands that follow from an input.
fn commands(instance: &mut Instance, input: &Input, now: u64) -> Vec<(usize, Action, u32)> {
    let effects = instance.handle(input, Moment { now, chance: 0 }).expect("followed");
    let commands = effects.into_iter().filter_map(|effect| match effect {
        Effect::Command { step, action, round } => Some((step, action, round)),
        _ => None,
    });
    commands.collect()
}

fn reply(step: usize, action: Action, round: u32, done: bool) -> Input {
    let outcome = if done { Outcome::Done } else { Outcome::Refused("no".to_owned()) };
    Input::Reply(Reply { step, round, action, outcome })
}

fn done(step: usize) -> Input {
    reply(step, Action::Do, 1, true)
}

/// The causes in the history of an input.
fn causes(instance: &mut Instance, input: &Input) -> Vec<Cause> {
    let effects = instance.handle(input, Moment { now: 0, chance: 0 }).expect("followed");
    let causes = effects.into_iter().filter_map(|effect| match effect {
        Effect::Note(note) => Some(note.cause),
        _ => None,
    });
    causes.collect()
}

#[test]
fn steps_follow_each_other_to_the_end() {
    let mut order = order();
    assert_eq!(commands(&mut order, &Input::Start, 0), [(0, Action::Do, 1)]);
    assert_eq!(commands(&mut order, &done(0), 1), [(1, Action::Do, 1)]);
    assert_eq!(commands(&mut order, &done(1), 2), [(2, Action::Do, 1)]);
    assert_eq!(commands(&mut order, &done(2), 3), []);
    assert_eq!((order.status, order.wake_at()), (Status::Completed, None));
}

#[test]
fn a_refusal_compensates_what_was_done() {
    let mut order = order();
    commands(&mut order, &Input::Start, 0);
    commands(&mut order, &done(0), 1);
    assert_eq!(commands(&mut order, &reply(1, Action::Do, 1, false), 2), [(0, Action::Undo, 1)]);
    assert_eq!((order.status, order.reason.as_deref()), (Status::Compensating, Some("no")));
    assert_eq!(commands(&mut order, &reply(0, Action::Undo, 1, true), 3), []);
    assert_eq!(order.status, Status::Compensated);
    let statuses: Vec<_> = order.steps.iter().map(|step| step.status).collect();
    assert_eq!(statuses, [StepStatus::Undone, StepStatus::Refused, StepStatus::Waiting]);
}

#[test]
fn a_step_without_an_answer_is_repeated_and_then_undone() {
    let mut order = order();
    commands(&mut order, &Input::Start, 0);
    assert_eq!(commands(&mut order, &Input::Timer, TIMEOUT_MS - 1), []);
    assert_eq!(commands(&mut order, &Input::Timer, TIMEOUT_MS), []);
    assert_eq!(order.wake_at(), Some(TIMEOUT_MS + 100));
    assert_eq!(commands(&mut order, &Input::Timer, TIMEOUT_MS + 100), [(0, Action::Do, 1)]);
    assert_eq!(commands(&mut order, &Input::Timer, 2 * TIMEOUT_MS + 100), [(0, Action::Undo, 1)]);
    // The answer that comes now is written down, and changes nothing.
    assert_eq!(causes(&mut order, &done(0)), [Cause::Late]);
    commands(&mut order, &reply(0, Action::Undo, 1, true), 0);
    assert_eq!(order.status, Status::Compensated);
    assert_eq!(causes(&mut order, &reply(0, Action::Undo, 1, true)), [Cause::Duplicate]);
}

#[test]
fn a_refusal_after_the_pivot_begins_another_round() {
    let mut order = order();
    for input in [Input::Start, done(0), done(1)] {
        commands(&mut order, &input, 0);
    }
    assert_eq!(commands(&mut order, &reply(2, Action::Do, 1, false), 0), []);
    assert_eq!(commands(&mut order, &Input::Timer, 100), [(2, Action::Do, 2)]);
    assert_eq!(causes(&mut order, &reply(2, Action::Do, 1, false)), [Cause::Late]);
    commands(&mut order, &reply(2, Action::Do, 2, false), 200);
    assert_eq!((order.status, order.wake_at()), (Status::Stuck, Some(60_000)));
    assert_eq!(commands(&mut order, &Input::Retry { step: None }, 300), [(2, Action::Do, 3)]);
    assert_eq!(order.status, Status::Running);
    commands(&mut order, &reply(2, Action::Do, 3, true), 400);
    assert_eq!(order.status, Status::Completed);
}

#[test]
fn a_pivot_without_an_answer_is_stuck_until_the_answer_or_an_operator_comes() {
    let stuck = || {
        let mut order = order();
        commands(&mut order, &Input::Start, 0);
        commands(&mut order, &done(0), 0);
        for now in [TIMEOUT_MS, TIMEOUT_MS + 100, 2 * TIMEOUT_MS + 100] {
            commands(&mut order, &Input::Timer, now);
        }
        assert_eq!(order.status, Status::Stuck);
        order
    };
    assert_eq!(commands(&mut stuck(), &done(1), 0), [(2, Action::Do, 1)]);
    assert_eq!(commands(&mut stuck(), &reply(1, Action::Do, 1, false), 0), [(0, Action::Undo, 1)]);
    assert_eq!(commands(&mut stuck(), &Input::Skip { step: "pay".to_owned() }, 0), [(2, Action::Do, 1)]);
    let mut aborted = stuck();
    let abort = Input::Abort { reason: "the bank says no".to_owned() };
    assert_eq!(commands(&mut aborted, &abort, 0), [(0, Action::Undo, 1)]);
    commands(&mut aborted, &reply(0, Action::Undo, 1, true), 0);
    assert_eq!((aborted.status, aborted.steps[1].status), (Status::Aborted, StepStatus::Unknown));
}

#[test]
fn cancelling_is_refused_once_there_is_only_forward() {
    let cancel = Input::Cancel { reason: "changed my mind".to_owned() };
    let at = Moment { now: 0, chance: 0 };
    let mut early = order();
    commands(&mut early, &Input::Start, 0);
    assert_eq!(commands(&mut early, &cancel, 0), [(0, Action::Undo, 1)]);
    assert_eq!(early.handle(&cancel, at), Err(Refusal::Compensating));
    let mut late = order();
    commands(&mut late, &Input::Start, 0);
    commands(&mut late, &done(0), 0);
    assert_eq!(late.handle(&cancel, at), Err(Refusal::PastPivot));
}

#[test]
fn a_saga_that_takes_too_long_is_compensated_before_the_pivot_and_goes_on_after_it() {
    let mut early = order();
    early.steps[0].shape.timeout_ms = u64::MAX;
    commands(&mut early, &Input::Start, 0);
    assert_eq!(commands(&mut early, &Input::Timer, 60_000), [(0, Action::Undo, 1)]);
    let mut late = order();
    for input in [Input::Start, done(0), done(1)] {
        commands(&mut late, &input, 59_500);
    }
    assert_eq!(late.deadline, Some(119_500));
    late.steps[2].shape.retry.attempts_max = u32::MAX;
    commands(&mut late, &Input::Timer, 119_500);
    assert_eq!((late.status, late.deadline), (Status::Running, None));
}

#[test]
fn a_stuck_compensation_can_be_skipped() {
    let mut order = order();
    commands(&mut order, &Input::Start, 0);
    commands(&mut order, &Input::Cancel { reason: "no".to_owned() }, 0);
    for now in [TIMEOUT_MS, TIMEOUT_MS + 100, 2 * TIMEOUT_MS + 100] {
        commands(&mut order, &Input::Timer, now);
    }
    assert_eq!((order.status, order.steps[0].status), (Status::Stuck, StepStatus::UndoStuck));
    let other = order.handle(&Input::Skip { step: "ship".to_owned() }, Moment { now: 0, chance: 0 });
    assert_eq!(other, Err(Refusal::NothingToDo));
    commands(&mut order, &Input::Skip { step: "reserve".to_owned() }, 0);
    assert_eq!(order.status, Status::Compensated);
}
