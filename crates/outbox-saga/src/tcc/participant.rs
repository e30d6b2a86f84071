//! The other side: a participant's operations behind its barrier.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{Pool, Transaction};
use time::OffsetDateTime;
use tracing::Instrument as _;

use super::call::{Answer, Call, CallError, Operation};
use crate::barrier::{
    Barrier, BarrierDatabase, BarrierError, BarrierErrorKind, BarrierKey, Dialect, Entered,
    Operation as Entering,
};
use crate::trace;

/// How often a call is tried that loses against another one in the database.
const ATTEMPTS_MAX: u32 = 5;

/// Why an operation was not done.
#[derive(Debug)]
pub enum BranchError {
    /// The try says no. What it has written is taken back.
    Refused(String),
    /// It failed. What it has written is taken back, and the call may come again.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl BranchError {
    /// The try says no, for a reason that people will read.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for BranchError {
    fn from(err: E) -> Self {
        Self::Failed(err.into())
    }
}

/// A participant: what it does for its branch of a transaction, in its own database.
///
/// Each operation gets the database's transaction in which the barrier has been entered, so it is run once, and what it
/// writes and that it ran are committed together. It must use that transaction and no other connection, return the
/// errors that its statements meet, and not call other services: they know nothing of a rollback.
///
/// ```
/// use outbox_saga::tcc::{BranchError, Participant};
/// use serde_json::{Value, json};
/// use sqlx::{MySql, Transaction};
///
/// #[derive(serde::Deserialize)]
/// struct Lock {
///     sku: String,
///     count: u32,
/// }
///
/// struct Inventory;
///
/// impl Participant for Inventory {
///     type Database = MySql;
///     type Payload = Lock;
///
///     async fn try_(&self, tx: &mut Transaction<'_, MySql>, lock: &Lock) -> Result<Value, BranchError> {
///         let update = "UPDATE stock SET free = free - ?, locked = locked + ? WHERE sku = ? AND free >= ?";
///         let updated = sqlx::query(update)
///             .bind(lock.count)
///             .bind(lock.count)
///             .bind(&lock.sku)
///             .bind(lock.count)
///             .execute(&mut **tx)
///             .await?;
///         if updated.rows_affected() == 0 {
///             return Err(BranchError::refused(format!("{} is sold out", lock.sku)));
///         }
///         Ok(json!({"locked": lock.count}))
///     }
///
///     async fn confirm(&self, tx: &mut Transaction<'_, MySql>, lock: &Lock) -> Result<(), BranchError> {
///         let update = sqlx::query("UPDATE stock SET locked = locked - ? WHERE sku = ?");
///         update.bind(lock.count).bind(&lock.sku).execute(&mut **tx).await?;
///         Ok(())
///     }
///
///     async fn cancel(&self, tx: &mut Transaction<'_, MySql>, lock: &Lock) -> Result<(), BranchError> {
///         let update = sqlx::query("UPDATE stock SET free = free + ?, locked = locked - ? WHERE sku = ?");
///         update.bind(lock.count).bind(lock.count).bind(&lock.sku).execute(&mut **tx).await?;
///         Ok(())
///     }
/// }
/// ```
pub trait Participant: Send + Sync + 'static {
    /// MySQL (or MariaDB), or Postgres.
    type Database: BarrierDatabase;
    /// What the branch was begun with.
    type Payload: DeserializeOwned + Send + Sync;

    /// Reserves, so that a confirm cannot fail any more, or says no. What it returns is the branch's answer.
    ///
    /// # Errors
    ///
    /// [`BranchError::Refused`] if it says no; any other error if it does not know.
    fn try_(
        &self,
        tx: &mut Transaction<'_, Self::Database>,
        payload: &Self::Payload,
    ) -> impl Future<Output = Result<Value, BranchError>> + Send;

    /// Makes use of what was reserved. Runs only after a try that has reserved.
    ///
    /// # Errors
    ///
    /// If it cannot be done now. It will be asked again; it cannot say no.
    fn confirm(
        &self,
        tx: &mut Transaction<'_, Self::Database>,
        payload: &Self::Payload,
    ) -> impl Future<Output = Result<(), BranchError>> + Send;

    /// Gives back what was reserved. Runs only after a try that has reserved.
    ///
    /// # Errors
    ///
    /// If it cannot be done now. It will be asked again; it cannot say no.
    fn cancel(
        &self,
        tx: &mut Transaction<'_, Self::Database>,
        payload: &Self::Payload,
    ) -> impl Future<Output = Result<(), BranchError>> + Send;
}

/// A participant with its database and barrier, for an adapter to call: a handle, cheap to clone.
pub struct ParticipantService<P: Participant> {
    shared: Arc<Shared<P>>,
}

struct Shared<P: Participant> {
    participant: P,
    transactions: <P::Database as Dialect>::Transactions,
    barrier: Barrier<P::Database>,
}

impl<P: Participant> ParticipantService<P> {
    /// A participant whose tables, the barrier's among them, are in this database. Makes the barrier's table if it is not there.
    ///
    /// A call holds one of the pool's connections.
    ///
    /// # Errors
    ///
    /// If the barrier's table cannot be used; the error says what an administrator is to run.
    pub async fn new(
        participant: P,
        pool: Pool<P::Database>,
        barrier: Barrier<P::Database>,
    ) -> Result<Self, BarrierError> {
        barrier.prepare(&pool).await?;
        let transactions = P::Database::transactions(pool);
        Ok(Self { shared: Arc::new(Shared { participant, transactions, barrier }) })
    }

    /// Does what a call asks for, once, and gives its answer, every time. It goes on if the caller drops the future.
    ///
    /// # Errors
    ///
    /// If it could not be done now; then nothing was done.
    pub async fn handle(&self, call: Call) -> Result<Answer, CallError> {
        let shared = Arc::clone(&self.shared);
        let span = tracing::info_span!(
            "tcc branch",
            id = call.transaction,
            branch = call.branch,
            operation = call.operation.name(),
            traceparent = call.traceparent,
        );
        trace::join(&span, call.traceparent.as_deref());
        // In a task of its own, since sqlx does not bear being stopped half-way.
        let work = async move { shared.handle(&call).await }.instrument(span);
        tokio::spawn(work).await.unwrap_or_else(|err| {
            Err(CallError::new("the participant panicked or is shut down").because(err))
        })
    }
}

/// Why one attempt came to nothing.
enum Failure {
    /// The try says no; its transaction is rolled back, but not recorded.
    Refused(String),
    /// It lost against another transaction and may be begun again.
    Conflict(CallError),
    Failed(CallError),
}

impl<P: Participant> Shared<P> {
    async fn handle(&self, call: &Call) -> Result<Answer, CallError> {
        if call.operation == Operation::Try && call.deadline < OffsetDateTime::now_utc() {
            return Ok(Answer::Refused("the deadline has passed".to_owned()));
        }
        // Only who runs an operation needs it: a cancel of what was never tried does not.
        let payload: Result<P::Payload, _> = serde_json::from_value(call.payload.clone());
        let payload = payload.map_err(|err| err.to_string());
        let key = BarrierKey { transaction: call.transaction.clone(), branch: call.branch.clone() };
        let mut refusal: Option<String> = None;
        let mut attempt = 1;
        loop {
            // A refusal is recorded in a transaction of its own, so that what is not refused needs no savepoint.
            let done = match &refusal {
                None => self.attempt(call.operation, &key, payload.as_ref()).await,
                Some(reason) => self.refuse(&key, reason).await,
            };
            match done {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(reason)) => refusal = Some(reason),
                Err(Failure::Conflict(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
                Err(Failure::Conflict(err) | Failure::Failed(err)) => {
                    tracing::warn!(error = err.report(), "cannot do it now");
                    return Err(err);
                }
            }
        }
    }

    async fn attempt(
        &self,
        operation: Operation,
        key: &BarrierKey,
        payload: Result<&P::Payload, &String>,
    ) -> Result<Answer, Failure> {
        let mut tx = P::Database::begin(&self.transactions).await.map_err(unavailable)?;
        let answer = match self.barrier.enter(&mut tx, key, entering(operation)).await.map_err(barred)? {
            Entered::First => self.run(&mut tx, operation, key, payload).await?,
            other => repeated(operation, other),
        };
        self.commit(tx).await?;
        Ok(answer)
    }

    async fn run(
        &self,
        tx: &mut Transaction<'static, P::Database>,
        operation: Operation,
        key: &BarrierKey,
        payload: Result<&P::Payload, &String>,
    ) -> Result<Answer, Failure> {
        let participant = &self.participant;
        let payload = payload.map_err(|err| {
            Failure::Failed(CallError::permanent(format!("the participant cannot read the payload: {err}")))
        })?;
        let done = match operation {
            Operation::Try => participant.try_(tx, payload).await,
            Operation::Confirm => participant.confirm(tx, payload).await.map(|()| Value::Null),
            Operation::Cancel => participant.cancel(tx, payload).await.map(|()| Value::Null),
        };
        let value = done.map_err(|err| match err {
            BranchError::Refused(reason) if operation == Operation::Try => Failure::Refused(reason),
            BranchError::Refused(reason) => {
                Failure::Failed(CallError::new(format!("a {operation} cannot be refused: {reason}")))
            }
            BranchError::Failed(err) => failed::<P::Database>(err),
        })?;
        // Each finds a transaction that the participant has ended, or lost without telling.
        if !value.is_null() {
            self.barrier.record_answer(tx, key, &value).await.map_err(barred)?;
        } else if !P::Database::COMMIT_VERIFIES {
            self.barrier.verify(tx, key, entering(operation)).await.map_err(barred)?;
        }
        Ok(Answer::Accepted(value))
    }

    async fn commit(&self, tx: Transaction<'static, P::Database>) -> Result<(), Failure> {
        P::Database::commit(&self.transactions, tx).await.map_err(|err| {
            if P::Database::is_lost(&err) {
                return Failure::Failed(CallError::new(
                    "the participant's transaction had ended before its commit",
                ));
            }
            unavailable(err)
        })
    }

    /// Records a refusal. If another call of the same try has come to an end meanwhile, its answer counts.
    async fn refuse(&self, key: &BarrierKey, reason: &str) -> Result<Answer, Failure> {
        let mut tx = P::Database::begin(&self.transactions).await.map_err(unavailable)?;
        let answer = match self.barrier.enter(&mut tx, key, Entering::Do).await.map_err(barred)? {
            Entered::First => {
                let recorded = self.barrier.record_refusal(&mut tx, key, &Value::from(reason)).await;
                recorded.map_err(barred)?;
                Answer::Refused(reason.to_owned())
            }
            other => repeated(Operation::Try, other),
        };
        self.commit(tx).await?;
        Ok(answer)
    }
}

/// What an operation is to the barrier.
fn entering(operation: Operation) -> Entering {
    match operation {
        Operation::Try => Entering::Do,
        Operation::Confirm => Entering::Confirm,
        Operation::Cancel => Entering::Undo,
    }
}

/// The answer to a call that is not run.
fn repeated(operation: Operation, entered: Entered) -> Answer {
    match entered {
        Entered::Again(answer) if operation == Operation::Try => Answer::Accepted(answer.unwrap_or_default()),
        Entered::First | Entered::Again(_) | Entered::Nothing => Answer::Accepted(Value::Null),
        Entered::Refused(answer) => {
            let reason = answer.as_ref().and_then(Value::as_str).unwrap_or("it was refused before");
            Answer::Refused(reason.to_owned())
        }
        Entered::TooLate => Answer::Refused("the branch was cancelled before".to_owned()),
    }
}

fn barred(err: BarrierError) -> Failure {
    let conflict = err.kind() == BarrierErrorKind::Conflict;
    let err = CallError::new("the barrier cannot be passed").because(err);
    if conflict { Failure::Conflict(err) } else { Failure::Failed(err) }
}

fn unavailable(err: sqlx::Error) -> Failure {
    Failure::Failed(CallError::new("the participant's database cannot be used").because(err))
}

/// An error of the participant's own; a deadlock among its statements is no reason to give up.
fn failed<Db: BarrierDatabase>(err: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    let conflict = match err.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(err)) => Db::kind(err.as_ref()) == BarrierErrorKind::Conflict,
        _ => false,
    };
    let err = CallError::new("the participant failed").because(err);
    if conflict { Failure::Conflict(err) } else { Failure::Failed(err) }
}

impl<P: Participant> Clone for ParticipantService<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<P: Participant> fmt::Debug for ParticipantService<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParticipantService").field("barrier", &self.shared.barrier).finish_non_exhaustive()
    }
}
