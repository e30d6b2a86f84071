//! A change of a saga, and what is written of it: the new state, the commands that follow, and the history, in one transaction.

use std::sync::Arc;

use ::metrics::counter;
use outbox_producer::{NewEvent, Outbox};
use sqlx::{MySql, Transaction as Tx};

use super::code::AnyCode;
use super::engine::{Action, Cause, Effect, Input, Instance, Moment, Note, Reply, Status};
use super::error::{SagaError, SagaErrorKind};
use super::message::{SagaCommand, step_header};
use super::metrics;
use super::store::{self, Change, HistoryRow};
use crate::trace;

/// From one state to the next, by one input or by several, one after the other.
pub(super) struct Transition {
    id: String,
    code: Arc<dyn AnyCode>,
    /// The trace that the saga was begun in.
    traceparent: Option<String>,
    before: Status,
    after: Instance,
    data: String,
    commands: Vec<NewEvent>,
    /// What the commands ask for.
    asked: Vec<(usize, Action)>,
    notes: Vec<Note>,
    /// Whether an operator's request stays with the saga.
    request_waits: bool,
}

impl Transition {
    /// Of a saga that is still to begin.
    pub(super) fn of_new(id: &str, code: Arc<dyn AnyCode>, data: String) -> Self {
        let instance = Instance::new(code.shape());
        Self::from(id, code, instance, data, trace::current())
    }

    /// Of the saga in a locked row. A request of an operator that waits there goes on waiting.
    pub(super) fn of_row(id: &str, code: Arc<dyn AnyCode>, row: store::Row) -> Result<Self, SagaError> {
        let instance = serde_json::from_str(&row.state).map_err(|_| unreadable(id))?;
        let transition = Self::from(id, code, instance, row.data, row.traceparent);
        Ok(Self { request_waits: row.request.is_some(), ..transition })
    }

    fn from(
        id: &str,
        code: Arc<dyn AnyCode>,
        instance: Instance,
        data: String,
        traceparent: Option<String>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            code,
            traceparent,
            before: instance.status,
            after: instance,
            data,
            commands: Vec::new(),
            asked: Vec::new(),
            notes: Vec::new(),
            request_waits: false,
        }
    }

    /// After it no request waits any more.
    pub(super) fn ends_request(self) -> Self {
        Self { request_waits: false, ..self }
    }

    /// Takes an input in.
    pub(super) fn take(&mut self, input: &Input, at: Moment) -> Result<(), SagaError> {
        let effects =
            self.after.handle(input, at).map_err(|refusal| SagaError::refused(&self.id, refusal))?;
        self.follow(effects)
    }

    /// Takes a reply in.
    pub(super) fn take_reply(
        &mut self,
        to: &SagaCommand,
        event_type: &str,
        payload: &[u8],
        at: Moment,
    ) -> Result<(), SagaError> {
        let known = to.step_and_round().and_then(|(name, round)| {
            Some((self.after.steps.iter().position(|step| step.shape.name == name)?, round))
        });
        let (step, round) = known.ok_or_else(|| unknown_step(to))?;
        let Some((outcome, data)) = self.code.read(step, to.action, event_type, payload, &self.data)? else {
            tracing::warn!(
                id = self.id,
                step = to.step,
                event_type,
                "a reply of a type that the step does not know"
            );
            return Ok(());
        };
        let reply = Reply { step, round, action: to.action, outcome };
        let effects = self.after.handle(&Input::Reply(reply), at);
        let effects = effects.map_err(|refusal| SagaError::refused(&self.id, refusal))?;
        if effects.contains(&Effect::Apply) {
            self.data = data;
        }
        self.follow(effects)
    }

    /// Writes down that a request cannot be followed.
    pub(super) fn refuse_request(&mut self, why: String) {
        let status = self.after.status.as_str();
        let note =
            Note { step: None, from: status, to: status, cause: Cause::RequestRefused, error: Some(why) };
        self.notes.push(note);
    }

    fn follow(&mut self, effects: Vec<Effect>) -> Result<(), SagaError> {
        for effect in effects {
            match effect {
                Effect::Command { step, action, round } => {
                    let command = SagaCommand {
                        saga: self.id.clone(),
                        step: step_header(self.step(step), round),
                        action,
                    };
                    let event = command.mark(self.code.command(step, action, &self.data)?);
                    self.commands.push(self.traced(event));
                    self.asked.push((step, action));
                }
                Effect::Note(note) => self.notes.push(note),
                Effect::Apply => {}
            }
        }
        Ok(())
    }

    /// Within a span of the saga's trace a command belongs to that span, elsewhere to where the saga was begun.
    fn traced(&self, event: NewEvent) -> NewEvent {
        match self.traceparent.as_deref() {
            Some(begun) if !trace::is_current(begun) => event.with_header(trace::TRACEPARENT, begun),
            _ => outbox_producer::trace_context()
                .into_iter()
                .fold(event, |event, (name, value)| event.with_header(name, value)),
        }
    }

    fn step(&self, step: usize) -> &str {
        self.after.steps.get(step).map_or("", |step| &step.shape.name)
    }

    /// Whether anything has come of it.
    pub(super) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    fn change(&self) -> Result<Change<'_>, SagaError> {
        let Self { id, after, data, request_waits, .. } = self;
        let shape = self.code.shape();
        let state = serde_json::to_string(after).map_err(|_| unreadable(id))?;
        let (name, version, request_waits) = (&shape.name, shape.version, *request_waits);
        Ok(Change { id, name, version, after, state, data, request_waits })
    }

    fn history(&self) -> impl Iterator<Item = HistoryRow<'_>> {
        self.notes.iter().map(|note| HistoryRow {
            saga: &self.id,
            step: note.step.and_then(|step| self.after.steps.get(step)).map(|step| step.shape.name.as_str()),
            note,
        })
    }

    /// Inserts a saga that begins, with all that follows. Gives whether it was not there yet.
    pub(super) async fn insert(mut self, tx: &mut Tx<'_, MySql>, outbox: &Outbox) -> Result<bool, SagaError> {
        let inserted = store::insert(tx, &self.change()?, self.traceparent.as_deref()).await;
        if !inserted.map_err(SagaError::database(format!("cannot write saga {}", self.id)))? {
            return Ok(false);
        }
        write_rest(tx, outbox, std::slice::from_mut(&mut self)).await?;
        self.tell();
        Ok(true)
    }

    /// Writes it all.
    pub(super) async fn write(mut self, tx: &mut Tx<'_, MySql>, outbox: &Outbox) -> Result<(), SagaError> {
        write(tx, outbox, std::slice::from_mut(&mut self)).await?;
        self.tell();
        Ok(())
    }

    /// Counts and logs what was written.
    pub(super) fn tell(&self) {
        let saga = &self.code.shape().name;
        let name = |step: usize| self.step(step).to_owned();
        for (step, action) in &self.asked {
            let labels = [("saga", saga.clone()), ("step", name(*step)), ("action", action.to_string())];
            counter!(metrics::COMMANDS, &labels).increment(1);
        }
        for note in &self.notes {
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
        let (from, to) = (self.before, self.after.status);
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

/// Writes all of these transitions, each of another saga.
pub(super) async fn write(
    tx: &mut Tx<'_, MySql>,
    outbox: &Outbox,
    transitions: &mut [Transition],
) -> Result<(), SagaError> {
    let changes = transitions.iter().map(Transition::change).collect::<Result<Vec<_>, _>>()?;
    store::update(tx, &changes).await.map_err(SagaError::database(cannot_write(transitions)))?;
    write_rest(tx, outbox, transitions).await
}

/// Writes what is not in the instances' own rows.
async fn write_rest(
    tx: &mut Tx<'_, MySql>,
    outbox: &Outbox,
    transitions: &mut [Transition],
) -> Result<(), SagaError> {
    let commands: Vec<_> =
        transitions.iter_mut().flat_map(|transition| std::mem::take(&mut transition.commands)).collect();
    outbox.write_all(tx, commands).await.map_err(|error| {
        SagaError::new(SagaErrorKind::Database, format!("{}: its commands", cannot_write(transitions)))
            .with_source(error)
    })?;
    let history: Vec<_> = transitions.iter().flat_map(Transition::history).collect();
    store::write_history(tx, &history).await.map_err(SagaError::database(cannot_write(transitions)))
}

fn cannot_write(transitions: &[Transition]) -> String {
    let ids: Vec<_> = transitions.iter().map(|transition| transition.id.as_str()).collect();
    format!("cannot write saga {}", ids.join(", "))
}

fn unreadable(id: &str) -> SagaError {
    SagaError::new(
        SagaErrorKind::Definition,
        format!("the state of saga {id} is not of this version's format"),
    )
}

fn unknown_step(to: &SagaCommand) -> SagaError {
    let message = format!("a reply to saga {} names the step {:?}, which it does not have", to.saga, to.step);
    SagaError::new(SagaErrorKind::Definition, message)
}

pub(super) fn moment(now: u64) -> Moment {
    Moment { now, chance: rand::random() }
}
