//! A change of a saga, and what is written of it: the new state, the commands that follow, and the history, in one transaction.

use ::metrics::counter;
use outbox_producer::{NewEvent, Outbox};
use sqlx::{MySql, Transaction as Tx};

use super::code::AnyCode;
use super::engine::{Cause, Effect, Input, Instance, Moment, Note, Status};
use super::error::{SagaError, SagaErrorKind};
use super::message::{SagaCommand, step_header};
use super::{metrics, store};
use crate::trace;

/// From one state to the next.
pub(super) struct Transition<'a> {
    pub(super) id: &'a str,
    pub(super) code: &'a dyn AnyCode,
    /// Where the commands go.
    pub(super) outbox: &'a Outbox,
    /// The trace that the saga was begun in.
    pub(super) traceparent: Option<String>,
    pub(super) before: Instance,
    pub(super) after: Instance,
    pub(super) data: String,
    pub(super) effects: Vec<Effect>,
    /// Whether the saga is still to be inserted.
    pub(super) begins: bool,
    /// Whether an operator's request stays with the saga.
    pub(super) request_waits: bool,
}

impl<'a> Transition<'a> {
    /// What `input` makes of the saga in a locked row, whose state is `before`. No request waits any more then.
    pub(super) fn of(
        id: &'a str,
        code: &'a dyn AnyCode,
        outbox: &'a Outbox,
        before: Instance,
        row: store::Row,
        input: &Input,
    ) -> Result<Self, SagaError> {
        let mut after = before.clone();
        let effects =
            after.handle(input, moment(row.now)).map_err(|refusal| SagaError::refused(id, refusal))?;
        let store::Row { data, traceparent, .. } = row;
        let (begins, request_waits) = (false, false);
        Ok(Self { id, code, outbox, traceparent, before, after, data, effects, begins, request_waits })
    }

    /// Writes it all. Gives whether it was to be written: a saga that is to begin may be there.
    pub(super) async fn write(&self, tx: &mut Tx<'_, MySql>) -> Result<bool, SagaError> {
        let Self { id, before, after, data, request_waits, .. } = self;
        let (commands, notes) = self.outgoing()?;
        let state = serde_json::to_string(after).map_err(|_| unreadable(id))?;
        let change = store::Change { id, before, after, state: &state, data, request_waits: *request_waits };
        let failed = || SagaError::database(format!("cannot write saga {id}"));
        if self.begins {
            let shape = self.code.shape();
            let key = (shape.name.as_str(), shape.version);
            if !store::insert(tx, key, &change, self.traceparent.as_deref()).await.map_err(failed())? {
                return Ok(false);
            }
        } else {
            store::update(tx, &change).await.map_err(failed())?;
        }
        self.outbox.write_all(tx, commands).await.map_err(|error| {
            SagaError::new(SagaErrorKind::Database, format!("cannot write the commands of saga {id}"))
                .with_source(error)
        })?;
        store::write_history(tx, id, after, &notes).await.map_err(failed())?;
        self.tell(&notes);
        Ok(true)
    }

    /// The commands that are to be sent, and the lines of the history.
    fn outgoing(&self) -> Result<(Vec<NewEvent>, Vec<Note>), SagaError> {
        // Within a span of the saga's trace the outbox gives commands that span.
        let begun = self.traceparent.as_deref().filter(|begun| !trace::is_current(begun));
        let (mut commands, mut notes) = (Vec::new(), Vec::new());
        for effect in &self.effects {
            match effect {
                Effect::Command { step, action, round } => {
                    let event = self.code.command(*step, *action, &self.data)?;
                    let name = self.after.steps.get(*step).map_or("", |step| &step.shape.name);
                    let step = step_header(name, *round);
                    let mut event =
                        SagaCommand { saga: self.id.to_owned(), step, action: *action }.mark(event);
                    if let Some(begun) = begun {
                        event = event.with_header(trace::TRACEPARENT, begun);
                    }
                    commands.push(event);
                }
                Effect::Note(note) => notes.push(note.clone()),
                Effect::Apply => {}
            }
        }
        Ok((commands, notes))
    }

    /// Counts and logs what was written.
    fn tell(&self, notes: &[Note]) {
        let saga = &self.code.shape().name;
        let name = |step: usize| self.after.steps.get(step).map_or("", |step| &step.shape.name).to_owned();
        for effect in &self.effects {
            if let Effect::Command { step, action, .. } = effect {
                let labels = [("saga", saga.clone()), ("step", name(*step)), ("action", action.to_string())];
                counter!(metrics::COMMANDS, &labels).increment(1);
            }
        }
        for note in notes {
            let Some(step) = note.step else { continue };
            let labels = [("saga", saga.clone()), ("step", name(step))];
            match note.cause {
                Cause::Timeout if note.from == "doing" || note.from == "undoing" => {
                    counter!(metrics::TIMEOUTS, &labels).increment(1);
                }
                Cause::Duplicate | Cause::Late => counter!(metrics::IGNORED_REPLIES, &labels).increment(1),
                _ => {}
            }
            if note.to.ends_with("stuck") {
                counter!(metrics::STUCK, &labels).increment(1);
                tracing::error!(
                    saga,
                    id = self.id,
                    step = name(step),
                    error = note.error,
                    "stuck: an operator is to retry it, skip it or abort the saga"
                );
            }
        }
        let (from, to) = (self.before.status, self.after.status);
        if from == to {
            return;
        }
        match to {
            Status::Completed | Status::Compensated | Status::Aborted => {
                let labels = [("saga", saga.clone()), ("outcome", to.as_str().to_owned())];
                counter!(metrics::ENDED, &labels).increment(1);
                tracing::debug!(saga, id = self.id, status = to.as_str(), "ended");
            }
            Status::Compensating => {
                tracing::info!(saga, id = self.id, reason = self.after.reason, "compensating");
            }
            Status::Running | Status::Stuck => {}
        }
    }
}

/// The state in a row.
pub(super) fn instance(id: &str, row: &store::Row) -> Result<Instance, SagaError> {
    serde_json::from_str(&row.state).map_err(|_| unreadable(id))
}

fn unreadable(id: &str) -> SagaError {
    SagaError::new(
        SagaErrorKind::Definition,
        format!("the state of saga {id} is not of this version's format"),
    )
}

pub(super) fn moment(now: u64) -> Moment {
    Moment { now, chance: rand::random() }
}
