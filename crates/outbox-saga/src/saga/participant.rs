//! The other side: a service that does a step, undoes it, and replies.

use std::future::Future;
use std::ops::{Deref, DerefMut};

use outbox_consumer::HandlerError;
use outbox_consumer::inbox::NoInbox;
use outbox_consumer::mysql::{Transactions, is_lost};
use outbox_producer::{Event, NewEvent, Outbox};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{MySql, MySqlPool, Transaction};
use tracing::Instrument as _;

use super::engine::Action;
use super::message::{DONE, REFUSED, SagaCommand, UNDONE};
use crate::barrier::{Barrier, BarrierError, BarrierErrorKind, Entered, Operation};

/// What a participant answers, as its barrier keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    refused: bool,
    pub(super) event_type: String,
    /// Type and id of the aggregate; the saga itself for plain answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) aggregate: Option<(String, String)>,
    pub(super) payload: Value,
}

impl Answer {
    fn plain(event_type: &str, payload: Value) -> Self {
        let refused = event_type == REFUSED;
        Self { refused, event_type: event_type.to_owned(), aggregate: None, payload }
    }

    pub(super) fn done() -> Self {
        Self::plain(DONE, serde_json::json!({}))
    }

    fn undone() -> Self {
        Self::plain(UNDONE, serde_json::json!({}))
    }

    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self::plain(REFUSED, serde_json::json!({ "reason": reason.into() }))
    }

    pub(super) fn of<E: Event>(event: &E, refused: bool) -> Result<Self, HandlerError> {
        let payload = serde_json::to_value(event)
            .map_err(|_| HandlerError::permanent(format!("the reply {:?} cannot be serialised", E::TYPE)))?;
        let aggregate = Some((E::AGGREGATE_TYPE.to_owned(), event.aggregate_id().to_string()));
        Ok(Self { refused, event_type: E::TYPE.to_owned(), aggregate, payload })
    }

    /// As the answer to this action: an undo cannot be refused, and what is plainly done was undone then.
    pub(super) fn to(self, action: Action) -> Result<Self, HandlerError> {
        match action {
            Action::Undo if self.refused => Err(HandlerError::transient("a compensation cannot be refused")),
            Action::Undo if self.event_type == DONE => Ok(Self::undone()),
            _ => Ok(self),
        }
    }
}

/// A command at work: it derefs to the transaction in which the work is to be done, and ends with an answer.
///
/// The transaction is no other's: it is committed with the answer, and must neither be ended by the work nor be gone on with after an
/// error.
#[derive(Debug)]
pub struct Work {
    tx: Transaction<'static, MySql>,
}

/// Work that has ended with an answer.
#[derive(Debug)]
#[must_use]
pub struct Answered {
    tx: Transaction<'static, MySql>,
    answer: Answer,
}

impl Work {
    /// It was done (or undone), with nothing more to say.
    pub fn done(self) -> Answered {
        self.answer(Answer::done())
    }

    /// It was done (or undone), and the reply is this event.
    ///
    /// # Errors
    ///
    /// A permanent failure when it cannot be serialised.
    pub fn done_with<E: Event>(self, event: &E) -> Result<Answered, HandlerError> {
        Ok(self.answer(Answer::of(event, false)?))
    }

    /// It is not done, for this reason. What was written for it is taken back.
    pub fn refused(self, reason: impl Into<String>) -> Answered {
        self.answer(Answer::refused(reason))
    }

    /// It is not done, and the reply is this event. What was written for it is taken back.
    ///
    /// # Errors
    ///
    /// A permanent failure when it cannot be serialised.
    pub fn refused_with<E: Event>(self, event: &E) -> Result<Answered, HandlerError> {
        Ok(self.answer(Answer::of(event, true)?))
    }

    fn answer(self, answer: Answer) -> Answered {
        Answered { tx: self.tx, answer }
    }
}

impl Deref for Work {
    type Target = Transaction<'static, MySql>;

    fn deref(&self) -> &Self::Target {
        &self.tx
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.tx
    }
}

/// How often a transaction is begun that fails before any work is done in it.
const BEGIN_ATTEMPTS_MAX: u32 = 5;

/// Runs the handlers of commands behind a [barrier](crate::barrier), and replies through the outbox: work, barrier and reply are one
/// transaction. Cheap to clone.
///
/// The barrier is the record of what was handled, so the consumer has no inbox but [`inbox`](Self::inbox). A command that comes again is
/// answered again.
///
/// ```no_run
/// use outbox_consumer::{Consumer, Event, HandlerError, Router, State};
/// use outbox_producer::Outbox;
/// use outbox_saga::barrier::Barrier;
/// use outbox_saga::saga::{Participant, SagaCommand};
///
/// #[derive(serde::Deserialize)]
/// struct ReserveStock {
///     sku: String,
///     quantity: u32,
/// }
///
/// async fn reserve(
///     Event(wanted): Event<ReserveStock>,
///     command: SagaCommand,
///     State(participant): State<Participant>,
/// ) -> Result<(), HandlerError> {
///     participant
///         .handle(&command, async |mut work| {
///             let reserved = sqlx::query("UPDATE stock SET free = free - ? WHERE sku = ? AND free >= ?")
///                 .bind(wanted.quantity)
///                 .bind(&wanted.sku)
///                 .bind(wanted.quantity)
///                 .execute(&mut **work)
///                 .await?;
///             let reserved = reserved.rows_affected() == 1;
///             Ok(if reserved { work.done() } else { work.refused("not enough in stock") })
///         })
///         .await
/// }
///
/// # async fn example(pool: sqlx::MySqlPool, nats: async_nats::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let barrier = Barrier::new("saga_barrier");
/// barrier.prepare(&pool).await?;
/// let participant = Participant::new(pool, barrier, Outbox::default());
/// let routes = Router::new().on("ReserveStock", reserve).with_state(participant.clone());
/// let consumer = Consumer::builder(nats, "ORDERS", "stock").build(participant.inbox(), routes).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Participant {
    transactions: Transactions,
    barrier: Barrier,
    /// It need not make sure that the transaction is still there, since the barrier does.
    outbox: Outbox,
}

impl Participant {
    /// A participant with this barrier and this outbox, both in the database of the pool, as its own tables are. A command that is
    /// handled holds one of the pool's connections.
    #[must_use]
    pub fn new(pool: MySqlPool, barrier: Barrier, outbox: Outbox) -> Self {
        Self { transactions: Transactions::new(pool), barrier, outbox: outbox.with_verification(false) }
    }

    /// What the consumer of the commands has in place of an inbox: while the database is away no command counts as failed.
    #[must_use]
    pub fn inbox(&self) -> NoInbox {
        NoInbox::new().watch_mysql(self.transactions.pool().clone())
    }

    /// Runs `work` if it is to run, and replies in any case: what was answered before is answered again.
    ///
    /// Its error rolls everything back, and the command is handled again later; a *refusal* is no error but an answer, which
    /// takes back what was written for it. An undo cannot refuse.
    ///
    /// # Errors
    ///
    /// That of `work`, or of the database.
    pub async fn handle<F, R>(&self, command: &SagaCommand, work: F) -> Result<(), HandlerError>
    where
        F: FnOnce(Work) -> R + Send,
        R: Future<Output = Result<Answered, HandlerError>> + Send,
    {
        let (participant, entering) = (self.clone(), command.clone());
        let (tx, entered) = to_the_end(async move { participant.enter(&entering).await }).await?;
        let (answered, is_first) = match entered {
            Entered::First => {
                let Answered { tx, answer } = work(Work { tx }).await?;
                (Answered { tx, answer: answer.to(command.action)? }, true)
            }
            other => (Answered { tx, answer: repeated(other)? }, false),
        };
        let (participant, command) = (self.clone(), command.clone());
        to_the_end(async move {
            match is_first {
                true if answered.answer.refused => participant.refuse(&command, answered).await,
                true => participant.keep(&command, answered).await,
                false => participant.reply(&command, answered).await,
            }
        })
        .await
    }

    /// Begins a transaction, with the barrier.
    async fn enter(
        &self,
        command: &SagaCommand,
    ) -> Result<(Transaction<'static, MySql>, Entered), HandlerError> {
        let operation = match command.action {
            Action::Do => Operation::Do,
            Action::Undo => Operation::Undo,
        };
        let mut attempt = 1;
        loop {
            let mut tx = self.transactions.begin().await?;
            match self.barrier.enter(&mut tx, &command.barrier_key(), operation).await {
                Ok(entered) => return Ok((tx, entered)),
                Err(error) if attempt < BEGIN_ATTEMPTS_MAX && may_be_begun_again(&error) => attempt += 1,
                Err(error) => return Err(of_handler(error)),
            }
        }
    }

    /// Keeps the answer for repetitions, and commits it with the work.
    async fn keep(&self, command: &SagaCommand, mut answered: Answered) -> Result<(), HandlerError> {
        let (key, stored) = (command.barrier_key(), serde_json::to_value(&answered.answer)?);
        if command.action == Action::Undo {
            // Its answer is kept in the row of its do, which is there though the transaction may be lost.
            self.barrier.verify(&mut answered.tx, &key, Operation::Undo).await.map_err(of_handler)?;
        }
        self.barrier.record_answer(&mut answered.tx, &key, &stored).await.map_err(of_handler)?;
        tracing::debug!(saga = command.saga, step = command.step, action = %command.action, "handled");
        self.reply(command, answered).await
    }

    /// Takes the work back, and keeps the refusal in a transaction of its own. If the same command has come to an end elsewhere
    /// meanwhile, its answer counts.
    async fn refuse(&self, command: &SagaCommand, answered: Answered) -> Result<(), HandlerError> {
        let Answered { tx, answer } = answered;
        tx.rollback().await?;
        let (mut tx, entered) = self.enter(command).await?;
        let answer = match entered {
            Entered::First => {
                let stored = serde_json::to_value(&answer)?;
                let kept = self.barrier.record_refusal(&mut tx, &command.barrier_key(), &stored).await;
                kept.map_err(of_handler)?;
                tracing::debug!(saga = command.saga, step = command.step, "refused");
                answer
            }
            other => repeated(other)?,
        };
        self.reply(command, Answered { tx, answer }).await
    }

    async fn reply(&self, command: &SagaCommand, answered: Answered) -> Result<(), HandlerError> {
        let Answered { mut tx, answer } = answered;
        let (kind, id) = answer.aggregate.unwrap_or_else(|| ("saga".to_owned(), command.saga.clone()));
        let event = NewEvent::json(kind, id, answer.event_type, &answer.payload)?;
        self.outbox.write(&mut tx, command.mark(event)).await?;
        self.transactions.commit(tx).await.map_err(|error| {
            if is_lost(&error) {
                return HandlerError::permanent(
                    "the work has ended its transaction: it must leave the commit to the participant",
                );
            }
            error.into()
        })
    }
}

/// The answer to a command that is not run.
fn repeated(entered: Entered) -> Result<Answer, HandlerError> {
    match entered {
        Entered::Again(Some(stored)) | Entered::Refused(Some(stored)) => Ok(serde_json::from_value(stored)?),
        Entered::First | Entered::Again(None) | Entered::Refused(None) => {
            Err(HandlerError::permanent("the barrier has no answer to repeat"))
        }
        Entered::TooLate => Ok(Answer::refused("it was undone before")),
        Entered::Nothing => Ok(Answer::undone()),
    }
}

/// Goes on if the handler is dropped: sqlx 0.8 does not bear being stopped half-way.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, HandlerError>> + Send + 'static,
) -> Result<T, HandlerError> {
    tokio::spawn(work.in_current_span()).await.unwrap_or_else(|error| Err(HandlerError::transient(error)))
}

/// It lost against another one, or was on a connection that had waited and died.
fn may_be_begun_again(error: &BarrierError) -> bool {
    matches!(error.kind(), BarrierErrorKind::Conflict | BarrierErrorKind::Unavailable)
}

/// A call that contradicts what has happened does so for ever.
fn of_handler(error: BarrierError) -> HandlerError {
    match error.kind() {
        BarrierErrorKind::Violation | BarrierErrorKind::Key => HandlerError::permanent(error),
        _ => HandlerError::transient(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::message::Refused;

    #[test]
    fn an_answer_comes_out_of_the_barrier_as_it_went_in() {
        for answer in [Answer::done(), Answer::refused("no"), Answer::undone()] {
            let stored = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&stored).unwrap(), answer);
        }
        let refused: Refused = serde_json::from_value(Answer::refused("no").payload).unwrap();
        assert_eq!(refused.reason, "no");
    }
}
