//! A definition's closures, by data in text, so that sagas with different data can be run together.

use std::marker::PhantomData;

use outbox_producer::NewEvent;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{Action, Outcome};
use super::error::{SagaError, SagaErrorKind};
use super::message::{DONE, REFUSED, Refused, UNDONE};
use super::shape::Shape;

pub(super) type Make<D> = Box<dyn Fn(&D) -> Result<NewEvent, outbox_producer::Error> + Send + Sync>;
type Read<D> = Box<dyn Fn(&mut D, &[u8]) -> Result<Outcome, serde_json::Error> + Send + Sync>;

pub(super) struct Code<D> {
    pub(super) shape: Shape,
    pub(super) steps: Vec<StepCode<D>>,
    pub(super) data: PhantomData<fn() -> D>,
}

pub(super) struct StepCode<D> {
    pub(super) command: Option<Make<D>>,
    pub(super) compensation: Option<Make<D>>,
    pub(super) replies: Vec<ReplyCode<D>>,
}

pub(super) struct ReplyCode<D> {
    pub(super) action: Action,
    pub(super) event_type: &'static str,
    pub(super) read: Read<D>,
}

/// A definition without the type of its data.
pub(super) trait AnyCode: Send + Sync {
    fn shape(&self) -> &Shape;
    /// The types of replies that it knows.
    fn reply_types(&self) -> Vec<&'static str>;
    /// What a reply says, and the data after it; `None` if the step does not know replies of this type.
    fn read(
        &self,
        step: usize,
        action: Action,
        event_type: &str,
        payload: &[u8],
        data: &str,
    ) -> Result<Option<(Outcome, String)>, SagaError>;
    fn command(&self, step: usize, action: Action, data: &str) -> Result<NewEvent, SagaError>;
}

impl<D: Serialize + DeserializeOwned + Send + 'static> Code<D> {
    fn data(&self, text: &str) -> Result<D, SagaError> {
        serde_json::from_str(text)
            .map_err(|error| self.unusable("its data are not of the definition's type", &error))
    }

    /// Without the error's own text, which may quote what is in the data.
    fn unusable(&self, what: &str, error: &serde_json::Error) -> SagaError {
        let Shape { name, version, .. } = &self.shape;
        let place =
            format!("{:?} error in line {}, column {}", error.classify(), error.line(), error.column());
        SagaError::new(SagaErrorKind::Definition, format!("saga {name} {version}: {what} ({place})"))
    }
}

impl<D: Serialize + DeserializeOwned + Send + 'static> AnyCode for Code<D> {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn reply_types(&self) -> Vec<&'static str> {
        self.steps.iter().flat_map(|step| step.replies.iter().map(|reply| reply.event_type)).collect()
    }

    fn read(
        &self,
        step: usize,
        action: Action,
        event_type: &str,
        payload: &[u8],
        data: &str,
    ) -> Result<Option<(Outcome, String)>, SagaError> {
        match (action, event_type) {
            (Action::Do, DONE) | (Action::Undo, UNDONE) => return Ok(Some((Outcome::Done, data.to_owned()))),
            (_, REFUSED) => {
                let refused: Refused = serde_json::from_slice(payload)
                    .map_err(|error| self.unusable("a refusal has no `reason`", &error))?;
                return Ok(Some((Outcome::Refused(refused.reason), data.to_owned())));
            }
            _ => {}
        }
        let known = |reply: &&ReplyCode<D>| reply.action == action && reply.event_type == event_type;
        let Some(reply) = self.steps.get(step).and_then(|step| step.replies.iter().find(known)) else {
            return Ok(None);
        };
        let mut changed = self.data(data)?;
        let outcome = (reply.read)(&mut changed, payload).map_err(|error| {
            self.unusable(&format!("a reply {event_type:?} is not of the definition's type"), &error)
        })?;
        let changed = serde_json::to_string(&changed)
            .map_err(|error| self.unusable("its data cannot be serialised", &error))?;
        Ok(Some((outcome, changed)))
    }

    fn command(&self, step: usize, action: Action, data: &str) -> Result<NewEvent, SagaError> {
        let Shape { name, version, steps, .. } = &self.shape;
        let make = self.steps.get(step).and_then(|step| match action {
            Action::Do => step.command.as_ref(),
            Action::Undo => step.compensation.as_ref(),
        });
        let step = steps.get(step).map_or("?", |step| &step.name);
        let Some(make) = make else {
            let message = format!(
                "saga {name} {version}: step {step} has no command to {action}; was the definition changed \
                                   without a new version?"
            );
            return Err(SagaError::new(SagaErrorKind::Definition, message));
        };
        make(&self.data(data)?).map_err(|error| {
            let message =
                format!("saga {name} {version}: the command to {action} step {step} cannot be made");
            SagaError::new(SagaErrorKind::Definition, message).with_source(error)
        })
    }
}
