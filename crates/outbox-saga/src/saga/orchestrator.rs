//! The engine between tables, outbox and consumers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ::metrics::counter;
use outbox_consumer::{Body, Context, HandlerError, Router, State, Tx};
use outbox_producer::Outbox;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{MySql, MySqlPool};

use super::code::AnyCode;
use super::definition::Saga;
use super::engine::{Cause, Effect, Input, Instance, Note, Reply};
use super::error::{SagaError, SagaErrorKind};
use super::message::{DONE, REFUSED, ReplyTo, SagaCommand, UNDONE};
use super::transition::{Transition, instance, moment};
use super::{metrics, store};
use crate::trace;

/// What the tables and the participants' barriers hold.
const ID_BYTES_MAX: usize = 128;

/// Runs sagas: starts them, takes replies in, and keeps their time. Cheap to clone.
///
/// Any number of instances of a service share the work without an owner: a saga's row is locked for as long as one transition
/// takes.
#[derive(Clone)]
pub struct Orchestrator {
    pub(super) pool: MySqlPool,
    /// For transactions of the caller's.
    outbox: Outbox,
    /// For transactions whose every error ends them here, so that there is no need to ask whether they are still there.
    own: Outbox,
    codes: Arc<HashMap<(String, u32), Arc<dyn AnyCode>>>,
}

/// Whether [`Orchestrator::start`] began a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It did.
    Now,
    /// There was one with this id already.
    Before,
}

impl Orchestrator {
    /// An orchestrator without sagas, with its tables in the pool's own schema. Its commands go into `outbox`, which must be
    /// in the same server.
    #[must_use]
    pub fn new(pool: MySqlPool, outbox: Outbox) -> Self {
        metrics::describe();
        let own = outbox.clone().with_verification(false);
        Self { pool, outbox, own, codes: Arc::default() }
    }

    /// Adds a definition. Several versions of one saga stand beside each other.
    ///
    /// # Panics
    ///
    /// If there is one of this name and version already.
    #[must_use]
    pub fn with<D: Serialize + DeserializeOwned + Send + 'static>(mut self, saga: &Saga<D>) -> Self {
        let shape = saga.shape();
        let key = (shape.name.clone(), shape.version);
        let code: Arc<dyn AnyCode> = saga.code.clone();
        let before = Arc::make_mut(&mut self.codes).insert(key, code);
        assert!(before.is_none(), "two definitions of the saga {:?} {}", shape.name, shape.version);
        self
    }

    /// Creates the tables where they are not there yet. [`TABLES`](super::TABLES) are the statements, for who may make them
    /// where the service may not.
    ///
    /// # Errors
    ///
    /// When a table cannot be created.
    pub async fn prepare(&self) -> Result<(), SagaError> {
        store::create(&self.pool).await
    }

    /// Starts a saga as part of the caller's own transaction, with its first commands. The id is the caller's, such as that
    /// of an order, so that to ask again starts nothing: then the data are those of the first time.
    ///
    /// # Errors
    ///
    /// When the definition is not [known](Self::with) here, a command cannot be made, or the database fails; then roll the
    /// transaction back.
    pub async fn start<D: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        tx: &mut sqlx::Transaction<'_, MySql>,
        saga: &Saga<D>,
        id: &str,
        data: &D,
    ) -> Result<Started, SagaError> {
        check_id(id)?;
        let shape = saga.shape();
        let code = self.code(id, &shape.name, shape.version)?;
        let data = serde_json::to_string(data).map_err(|_| {
            SagaError::new(SagaErrorKind::Definition, format!("the data of saga {id} cannot be serialised"))
        })?;
        let before = Instance::new(shape);
        let mut after = before.clone();
        let now = store::now(tx).await.map_err(SagaError::database(format!("cannot start saga {id}")))?;
        let effects =
            after.handle(&Input::Start, moment(now)).map_err(|refusal| SagaError::refused(id, refusal))?;
        let transition = Transition {
            id,
            code: &*code,
            outbox: &self.outbox,
            traceparent: trace::current(),
            before,
            after,
            data,
            effects,
            begins: true,
            request_waits: false,
        };
        if !transition.write(tx).await? {
            return Ok(Started::Before);
        }
        counter!(metrics::STARTED, "saga" => shape.name.clone()).increment(1);
        tracing::debug!(saga = shape.name, id, "started");
        Ok(Started::Now)
    }

    /// Cancels a saga as part of the caller's own transaction: what was done is compensated.
    ///
    /// # Errors
    ///
    /// [`Refused`](SagaErrorKind::Refused) past the pivot, or when it goes back or has ended already; nothing has changed then.
    pub async fn cancel(
        &self,
        tx: &mut sqlx::Transaction<'_, MySql>,
        id: &str,
        reason: &str,
    ) -> Result<(), SagaError> {
        let locked = store::lock(tx, id).await;
        let row = locked.map_err(SagaError::database(format!("cannot lock saga {id}")))?;
        let row = row.ok_or_else(|| SagaError::not_found(id))?;
        let code = self.code(id, &row.name, row.version)?;
        // A request that an operator has left meanwhile stays.
        let request_waits = row.request.is_some();
        let input = Input::Cancel { reason: reason.to_owned() };
        let before = instance(id, &row)?;
        let transition = Transition::of(id, &*code, &self.outbox, before, row, &input)?;
        Transition { request_waits, ..transition }.write(tx).await.map(|_| ())
    }

    /// The handlers of the participants' replies, for a consumer of each participant's stream. Events that are no replies to
    /// a saga, or to one that is not here, are passed over.
    #[must_use]
    pub fn replies(&self) -> Router<store::Inbox, Self> {
        let mut types: Vec<&str> = self.codes.values().flat_map(|code| code.reply_types()).collect();
        types.extend([DONE, REFUSED, UNDONE]);
        types.sort_unstable();
        types.dedup();
        types.into_iter().fold(Router::new(), |router, event_type| router.on(event_type, on_reply))
    }

    /// Takes a reply in.
    async fn reply(
        &self,
        tx: &mut sqlx::Transaction<'_, MySql>,
        to: &SagaCommand,
        event_type: &str,
        payload: &[u8],
    ) -> Result<(), SagaError> {
        let id = &to.saga;
        let locked = store::lock(tx, id).await;
        let Some(row) = locked.map_err(SagaError::database(format!("cannot lock saga {id}")))? else {
            // Removed when it had ended, or that of another orchestrator: nothing that another attempt would find.
            counter!(metrics::UNMATCHED_REPLIES).increment(1);
            tracing::debug!(id, step = to.step, event_type, "a reply to a saga that is not here");
            return Ok(());
        };
        let code = self.code(id, &row.name, row.version)?;
        let before = instance(id, &row)?;
        let known = to.step_and_round().and_then(|(name, round)| {
            Some((before.steps.iter().position(|step| step.shape.name == name)?, round))
        });
        let (step, round) = known.ok_or_else(|| unknown_step(id, to))?;
        let Some((outcome, data)) = code.read(step, to.action, event_type, payload, &row.data)? else {
            tracing::warn!(id, step = to.step, event_type, "a reply of a type that the step does not know");
            return Ok(());
        };
        let request_waits = row.request.is_some();
        let input = Input::Reply(Reply { step, round, action: to.action, outcome });
        let mut transition = Transition::of(id, &*code, &self.own, before, row, &input)?;
        if transition.effects.contains(&Effect::Apply) {
            transition.data = data;
        }
        Transition { request_waits, ..transition }.write(tx).await.map(|_| ())
    }

    /// Takes another input in, of the time or of an operator; then no request waits any more.
    pub(super) async fn advance(
        &self,
        tx: &mut sqlx::Transaction<'_, MySql>,
        id: &str,
        row: store::Row,
        input: &Input,
    ) -> Result<(), SagaError> {
        let code = self.code(id, &row.name, row.version)?;
        let before = instance(id, &row)?;
        Transition::of(id, &*code, &self.own, before, row, input)?.write(tx).await.map(|_| ())
    }

    /// Writes down that a request cannot be followed.
    pub(super) async fn refuse_request(
        &self,
        tx: &mut sqlx::Transaction<'_, MySql>,
        id: &str,
        row: store::Row,
        why: String,
    ) -> Result<(), SagaError> {
        let code = self.code(id, &row.name, row.version)?;
        let before = instance(id, &row)?;
        let status = before.status.as_str();
        let note =
            Note { step: None, from: status, to: status, cause: Cause::RequestRefused, error: Some(why) };
        let transition = Transition {
            id,
            code: &*code,
            outbox: &self.own,
            traceparent: None,
            after: before.clone(),
            before,
            data: row.data,
            effects: vec![Effect::Note(note)],
            begins: false,
            request_waits: false,
        };
        transition.write(tx).await.map(|_| ())
    }

    pub(super) fn known(&self) -> Vec<(String, u32)> {
        self.codes.keys().cloned().collect()
    }

    fn code(&self, id: &str, name: &str, version: u32) -> Result<Arc<dyn AnyCode>, SagaError> {
        self.codes.get(&(name.to_owned(), version)).cloned().ok_or_else(|| {
            let message = format!(
                "saga {id} is a {name} of version {version}, which this process does not know; keep a definition until \
                 its last instance has ended"
            );
            SagaError::new(SagaErrorKind::UnknownDefinition, message)
        })
    }
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator").field("sagas", &self.codes.keys()).finish_non_exhaustive()
    }
}

async fn on_reply(
    to: ReplyTo,
    Body(payload): Body,
    context: Context,
    State(orchestrator): State<Orchestrator>,
    mut tx: Tx<store::Inbox>,
) -> Result<(), HandlerError> {
    let Some(to) = to.0 else { return Ok(()) };
    orchestrator.reply(&mut tx, &to, context.event_type(), &payload).await.map_err(SagaError::of_handler)
}

fn unknown_step(id: &str, to: &SagaCommand) -> SagaError {
    let message = format!("a reply to saga {id} names the step {:?}, which it does not have", to.step);
    SagaError::new(SagaErrorKind::Definition, message)
}

fn check_id(id: &str) -> Result<(), SagaError> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let message = format!("the id of a saga must be 1 to {ID_BYTES_MAX} visible ASCII characters");
    Err(SagaError::new(SagaErrorKind::Id, message))
}
