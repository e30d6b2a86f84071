//! A saga as its service writes it: steps, each with its command, its replies and its compensation.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use outbox_producer::{IntoEvent, NewEvent};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::code::{Code, Make, ReplyCode, StepCode};
use super::engine::{Action, Outcome};
use super::shape::{Retry, Shape, StepShape, milliseconds};

/// How long an answer may take where the step does not say.
const TIMEOUT: Duration = Duration::from_secs(30);
const NAME_BYTES_MAX: usize = 64;

/// A participant's reply that carries something: its payload, and what it is called.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct StockReserved {
///     warehouse: String,
/// }
///
/// impl outbox_saga::saga::Reply for StockReserved {
///     const TYPE: &'static str = "StockReserved";
/// }
/// ```
pub trait Reply: DeserializeOwned {
    /// The event type, `ce-type` of the message.
    const TYPE: &'static str;
}

/// The definition of a saga whose instances have the data `D`. Cheap to clone.
pub struct Saga<D> {
    pub(super) code: Arc<Code<D>>,
}

impl<D: Serialize + DeserializeOwned + Send + 'static> Saga<D> {
    /// Begins a definition, of version 1.
    #[must_use]
    pub fn named(name: &str) -> SagaBuilder<D> {
        let shape = Shape { name: name.to_owned(), version: 1, timeout_ms: None, steps: Vec::new() };
        SagaBuilder { shape, steps: Vec::new(), stage: 0, problems: Vec::new() }
    }

    /// What it looks like without its code.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.code.shape
    }
}

impl<D> Clone for Saga<D> {
    fn clone(&self) -> Self {
        Self { code: Arc::clone(&self.code) }
    }
}

impl<D> fmt::Debug for Saga<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saga").field("shape", &self.code.shape).finish_non_exhaustive()
    }
}

/// What is wrong with a definition: all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the saga {name:?} cannot be: {}", .problems.join("; "))]
pub struct DefinitionError {
    name: String,
    problems: Vec<String>,
}

impl DefinitionError {
    /// Each problem.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// A definition in the making.
pub struct SagaBuilder<D> {
    shape: Shape,
    steps: Vec<StepCode<D>>,
    stage: u32,
    problems: Vec<String>,
}

impl<D: Serialize + DeserializeOwned + Send + 'static> SagaBuilder<D> {
    /// Sets the version. Whatever changes steps, commands or data is another version; instances end under the version
    /// that they began with, so its definition stays until there are none.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.shape.version = version;
        self
    }

    /// Limits the whole: what has not passed its pivot by then is compensated. No limit by default.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.shape.timeout_ms = Some(milliseconds(limit));
        self
    }

    /// Adds a step after those before.
    #[must_use]
    pub fn step(mut self, name: &str, define: impl FnOnce(StepBuilder<D>) -> StepBuilder<D>) -> Self {
        self.add(name, false, define);
        self.stage += 1;
        self
    }

    /// Adds the step after which there is only forward: no cancellation, no compensation; what follows is tried until it
    /// succeeds.
    ///
    /// A pivot without a compensation that gives no answer is *stuck* after its last attempt, since nobody can tell whether
    /// it was done. With one it is compensated then, like any step.
    #[must_use]
    pub fn pivot(mut self, name: &str, define: impl FnOnce(StepBuilder<D>) -> StepBuilder<D>) -> Self {
        self.add(name, true, define);
        self.stage += 1;
        self
    }

    /// Adds steps that run at the same time.
    #[must_use]
    pub fn parallel(mut self, define: impl FnOnce(Group<D>) -> Group<D>) -> Self {
        self = define(Group { builder: self }).builder;
        self.stage += 1;
        self
    }

    fn add(&mut self, name: &str, pivot: bool, define: impl FnOnce(StepBuilder<D>) -> StepBuilder<D>) {
        let shape = StepShape {
            name: name.to_owned(),
            stage: self.stage,
            pivot,
            compensable: false,
            timeout_ms: milliseconds(TIMEOUT),
            retry: Retry::default(),
            compensation_retry: Retry::default(),
        };
        let step = define(StepBuilder { shape, command: None, compensation: None, replies: Vec::new() });
        let StepBuilder { mut shape, command, compensation, replies } = step;
        shape.compensable = compensation.is_some();
        self.shape.steps.push(shape);
        self.steps.push(StepCode { command, compensation, replies });
    }

    /// Ends the definition.
    ///
    /// # Errors
    ///
    /// When it cannot be, with everything that is wrong with it.
    pub fn build(mut self) -> Result<Saga<D>, DefinitionError> {
        self.check();
        if !self.problems.is_empty() {
            return Err(DefinitionError { name: self.shape.name, problems: self.problems });
        }
        let Self { shape, steps, .. } = self;
        Ok(Saga { code: Arc::new(Code { shape, steps, data: PhantomData }) })
    }

    fn check(&mut self) {
        let Self { shape, steps, problems, .. } = self;
        if !is_name(&shape.name) {
            problems.push(format!("its name is not 1 to {NAME_BYTES_MAX} of a-z, 0-9 and `-`"));
        }
        if shape.steps.is_empty() {
            problems.push("it has no steps".to_owned());
        }
        if shape.steps.iter().filter(|step| step.pivot).count() > 1 {
            problems.push("it has two pivots".to_owned());
        }
        let pivot = shape.steps.iter().find(|step| step.pivot).map(|step| step.stage);
        for (index, (step, code)) in shape.steps.iter().zip(steps).enumerate() {
            let name = &step.name;
            if !is_name(name) {
                problems.push(format!(
                    "the name of step {name:?} is not 1 to {NAME_BYTES_MAX} of a-z, 0-9 and `-`"
                ));
            }
            if shape.steps.iter().take(index).any(|other| other.name == *name) {
                problems.push(format!("two steps have the name {name:?}"));
            }
            if code.command.is_none() {
                problems.push(format!("step {name:?} has no command"));
            }
            if step.retry.attempts_max == 0 || step.compensation_retry.attempts_max == 0 {
                problems.push(format!("step {name:?} has no attempts"));
            }
            if step.timeout_ms == 0 {
                problems.push(format!("step {name:?} has no time to answer"));
            }
            if pivot.is_some_and(|pivot| step.stage > pivot) && step.compensable {
                problems
                    .push(format!("step {name:?} has a compensation after the pivot, where none ever runs"));
            }
            for (at, reply) in code.replies.iter().enumerate() {
                let same = |other: &ReplyCode<D>| {
                    other.action == reply.action && other.event_type == reply.event_type
                };
                if code.replies.iter().take(at).any(same) {
                    problems.push(format!("step {name:?} has the reply {:?} twice", reply.event_type));
                }
            }
        }
    }
}

impl<D> fmt::Debug for SagaBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SagaBuilder").field("shape", &self.shape).finish_non_exhaustive()
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits)
}

/// Steps that run at the same time.
#[derive(Debug)]
pub struct Group<D> {
    builder: SagaBuilder<D>,
}

impl<D: Serialize + DeserializeOwned + Send + 'static> Group<D> {
    /// Adds a step to the group.
    #[must_use]
    pub fn step(mut self, name: &str, define: impl FnOnce(StepBuilder<D>) -> StepBuilder<D>) -> Self {
        self.builder.add(name, false, define);
        self
    }
}

/// A step in the making.
pub struct StepBuilder<D> {
    shape: StepShape,
    command: Option<Make<D>>,
    compensation: Option<Make<D>>,
    replies: Vec<ReplyCode<D>>,
}

impl<D: 'static> StepBuilder<D> {
    /// What is sent to the participant.
    #[must_use]
    pub fn command<E: IntoEvent>(mut self, command: impl Fn(&D) -> E + Send + Sync + 'static) -> Self {
        self.command = Some(make(command));
        self
    }

    /// What is sent to the participant to undo the step.
    ///
    /// It may arrive although the step was never done, or before its command: the participant's
    /// [barrier](crate::barrier) sees to that.
    #[must_use]
    pub fn compensation<E: IntoEvent>(mut self, command: impl Fn(&D) -> E + Send + Sync + 'static) -> Self {
        self.compensation = Some(make(command));
        self
    }

    /// A reply that says that the step was done, and what the data take from it. Without this, and beside it, the plain
    /// [`DONE`](super::DONE) says so.
    #[must_use]
    pub fn success<R: Reply>(mut self, apply: impl Fn(&mut D, R) + Send + Sync + 'static) -> Self {
        self.replies.push(reply(Action::Do, move |data, reply| {
            apply(data, reply);
            Outcome::Done
        }));
        self
    }

    /// A reply that says that the participant does not do the step; the function says why, in words for the history.
    /// Without this, and beside it, the plain [`REFUSED`](super::REFUSED) says so.
    #[must_use]
    pub fn failure<R: Reply>(mut self, reason: impl Fn(&mut D, R) -> String + Send + Sync + 'static) -> Self {
        self.replies.push(reply(Action::Do, move |data, reply| Outcome::Refused(reason(data, reply))));
        self
    }

    /// A reply that says that the step was undone. Without this, and beside it, the plain [`UNDONE`](super::UNDONE) says
    /// so, which a participant must be able to send, since it may have nothing to undo.
    #[must_use]
    pub fn compensated<R: Reply>(mut self, apply: impl Fn(&mut D, R) + Send + Sync + 'static) -> Self {
        self.replies.push(reply(Action::Undo, move |data, reply| {
            apply(data, reply);
            Outcome::Done
        }));
        self
    }

    /// How long an answer may take before the command is sent again. 30 s by default.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.shape.timeout_ms = milliseconds(limit);
        self
    }

    /// How often the command is sent, and how far apart.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.shape.retry = retry;
        self
    }

    /// How often the compensation is sent, and how far apart.
    #[must_use]
    pub fn compensation_retry(mut self, retry: Retry) -> Self {
        self.shape.compensation_retry = retry;
        self
    }
}

impl<D> fmt::Debug for StepBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepBuilder").field("shape", &self.shape).finish_non_exhaustive()
    }
}

fn make<D: 'static, E: IntoEvent>(command: impl Fn(&D) -> E + Send + Sync + 'static) -> Make<D> {
    Box::new(move |data| -> Result<NewEvent, outbox_producer::Error> { command(data).into_event() })
}

fn reply<D: 'static, R: Reply>(
    action: Action,
    apply: impl Fn(&mut D, R) -> Outcome + Send + Sync + 'static,
) -> ReplyCode<D> {
    let read = move |data: &mut D, payload: &[u8]| Ok(apply(data, serde_json::from_slice(payload)?));
    ReplyCode { action, event_type: R::TYPE, read: Box::new(read) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(_: &u32) -> NewEvent {
        NewEvent::text("a", 1, "t", "{}")
    }

    #[test]
    fn every_problem_is_told() {
        let saga = Saga::<u32>::named("Place Order")
            .step("a", |step| step.timeout(Duration::ZERO).retry(Retry::attempts(0)))
            .pivot("b", |step| step.command(event))
            .pivot("c", |step| step.command(event).compensation(event))
            .parallel(|group| group.step("a", |step| step.command(event)));
        let problems = saga.build().unwrap_err().problems().join("\n");
        for part in [
            "its name",
            "two pivots",
            "the name \"a\"",
            "no command",
            "no attempts",
            "no time",
            "after the pivot",
        ] {
            assert!(problems.contains(part), "{part}:\n{problems}");
        }
        assert_eq!(Saga::<u32>::named("empty").build().unwrap_err().problems(), ["it has no steps"]);
    }

    #[test]
    fn stages_follow_from_the_definition() {
        let saga = Saga::<u32>::named("order")
            .step("a", |step| step.command(event))
            .parallel(|group| group.step("b", |s| s.command(event)).step("c", |s| s.command(event)))
            .pivot("d", |step| step.command(event))
            .build()
            .unwrap();
        let stages: Vec<_> = saga.shape().steps.iter().map(|step| (step.stage, step.pivot)).collect();
        assert_eq!(stages, [(0, false), (1, false), (1, false), (2, true)]);
    }
}
