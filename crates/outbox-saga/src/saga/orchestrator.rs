//! The engine between tables, outbox and consumers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ::metrics::counter;
use outbox_consumer::inbox::NoInbox;
use outbox_consumer::mysql::Transactions;
use outbox_consumer::{Body, Context, HandlerError, Router, State};
use outbox_producer::Outbox;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{MySql, MySqlPool};

use super::clock::Clock;
use super::code::AnyCode;
use super::definition::Saga;
use super::engine::Input;
use super::error::{SagaError, SagaErrorKind};
use super::message::{DONE, REFUSED, ReplyTo, UNDONE};
use super::replies::Reply;
use super::transition::{Transition, moment};
use super::{metrics, store};
use crate::together::Together;

/// What the tables and the participants' barriers hold.
const ID_BYTES_MAX: usize = 128;

/// Runs sagas: starts them, takes replies in, and keeps their time. Cheap to clone.
///
/// Any number of instances of a service share the work without an owner: a saga's row is locked for as long as one transition
/// takes.
#[derive(Clone)]
pub struct Orchestrator {
    pub(super) pool: MySqlPool,
    /// It need not ask whether a transaction is still there: the caller's are asked at first, and every error of the others ends them here.
    pub(super) outbox: Outbox,
    /// Those of the replies.
    pub(super) transactions: Transactions,
    pub(super) queue: Together<Reply, Result<(), SagaError>>,
    clock: Clock,
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
        let outbox = outbox.with_verification(false);
        let transactions = Transactions::new(pool.clone());
        let (queue, clock, codes) = Default::default();
        Self { pool, outbox, transactions, queue, clock, codes }
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

    /// Creates the tables where they are not there yet, and the view anew. [`TABLES`](super::TABLES) are the statements, for who may make
    /// them where the service may not (`CREATE`, `CREATE VIEW`, `DROP`).
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
        store::verify(tx).await?;
        let now = self.clock.now(tx).await;
        let now = now.map_err(SagaError::database(format!("cannot start saga {id}")))?;
        let mut transition = Transition::of_new(id, code, data);
        transition.take(&Input::Start, moment(now))?;
        if !transition.insert(tx, &self.outbox).await? {
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
        store::verify(tx).await?;
        let locked = store::lock(tx, id).await;
        let row = locked.map_err(SagaError::database(format!("cannot lock saga {id}")))?;
        let row = row.ok_or_else(|| SagaError::not_found(id))?;
        let code = self.code(id, &row.name, row.version)?;
        let input = Input::Cancel { reason: reason.to_owned() };
        let now = row.now;
        // A request that an operator has left meanwhile stays.
        let mut transition = Transition::of_row(id, code, row)?;
        transition.take(&input, moment(now))?;
        transition.write(tx, &self.outbox).await
    }

    /// What the consumers of replies have in place of an inbox: a reply that comes again finds in the saga's state that it was taken in, and
    /// while the sagas' database is away no reply counts as failed.
    #[must_use]
    pub fn inbox(&self) -> NoInbox {
        NoInbox::new().watch_mysql(self.pool.clone())
    }

    /// The handlers of the participants' replies, for a consumer of each participant's stream, with [`inbox`](Self::inbox). Events that are no
    /// replies to a saga, or to one that is not here, are passed over.
    ///
    /// Replies that come at the same time, whichever consumer they come from, are taken in together, by one transaction.
    #[must_use]
    pub fn replies(&self) -> Router<NoInbox, Self> {
        let mut types: Vec<&str> = self.codes.values().flat_map(|code| code.reply_types()).collect();
        types.extend([DONE, REFUSED, UNDONE]);
        types.sort_unstable();
        types.dedup();
        types.into_iter().fold(Router::new(), |router, event_type| router.on(event_type, on_reply))
    }

    /// Takes another input in, of the time or of an operator; then no request waits any more.
    pub(super) async fn advance(
        &self,
        tx: &mut sqlx::Transaction<'_, MySql>,
        id: &str,
        row: store::Row,
        input: &Input,
    ) -> Result<(), SagaError> {
        let (code, now) = (self.code(id, &row.name, row.version)?, row.now);
        let mut transition = Transition::of_row(id, code, row)?.ends_request();
        transition.take(input, moment(now))?;
        transition.write(tx, &self.outbox).await
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
        let mut transition = Transition::of_row(id, code, row)?.ends_request();
        transition.refuse_request(why);
        transition.write(tx, &self.outbox).await
    }

    pub(super) fn known(&self) -> Vec<(String, u32)> {
        self.codes.keys().cloned().collect()
    }

    pub(super) fn code(&self, id: &str, name: &str, version: u32) -> Result<Arc<dyn AnyCode>, SagaError> {
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
) -> Result<(), HandlerError> {
    let Some(to) = to.0 else { return Ok(()) };
    let event_type = context.event_type().to_owned();
    orchestrator.reply(Reply { to, event_type, payload, span: tracing::Span::current() }).await
}

pub(super) fn check_id(id: &str) -> Result<(), SagaError> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let message = format!("the id of a saga must be 1 to {ID_BYTES_MAX} visible ASCII characters");
    Err(SagaError::new(SagaErrorKind::Id, message))
}
