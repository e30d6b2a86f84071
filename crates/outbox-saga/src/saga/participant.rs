//! The other side: a service that does a step, undoes it, and replies.

use std::future::Future;
use std::ops::{Deref, DerefMut};

use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{HandlerError, Tx};
use outbox_producer::{Event, NewEvent, Outbox};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Executor as _, MySql, Transaction};

use super::engine::Action;
use super::message::{DONE, REFUSED, SagaCommand, UNDONE};
use crate::barrier::{Barrier, BarrierError, BarrierErrorKind, Entered, Operation};

/// What a participant answers, as its barrier keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Answer {
    refused: bool,
    event_type: String,
    /// Type and id of the aggregate; the saga itself for plain answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    aggregate: Option<(String, String)>,
    payload: Value,
}

impl Answer {
    fn plain(event_type: &str, payload: Value) -> Self {
        let refused = event_type == REFUSED;
        Self { refused, event_type: event_type.to_owned(), aggregate: None, payload }
    }

    fn done() -> Self {
        Self::plain(DONE, serde_json::json!({}))
    }

    fn undone() -> Self {
        Self::plain(UNDONE, serde_json::json!({}))
    }

    fn refused(reason: impl Into<String>) -> Self {
        Self::plain(REFUSED, serde_json::json!({ "reason": reason.into() }))
    }

    fn of<E: Event>(event: &E, refused: bool) -> Result<Self, HandlerError> {
        let payload = serde_json::to_value(event)
            .map_err(|_| HandlerError::permanent(format!("the reply {:?} cannot be serialised", E::TYPE)))?;
        let aggregate = Some((E::AGGREGATE_TYPE.to_owned(), event.aggregate_id().to_string()));
        Ok(Self { refused, event_type: E::TYPE.to_owned(), aggregate, payload })
    }
}

/// A command at work: it derefs to the transaction in which the work is to be done, and ends with an answer.
#[derive(Debug)]
pub struct Work {
    tx: Tx<MySqlInbox>,
}

/// Work that has ended with an answer.
#[derive(Debug)]
#[must_use]
pub struct Answered {
    tx: Tx<MySqlInbox>,
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

/// Runs the handlers of commands behind a [barrier](crate::barrier), and replies through the outbox.
///
/// ```no_run
/// use outbox_consumer::inbox::MySqlInbox;
/// use outbox_consumer::{Event, HandlerError, State, Tx};
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
///     tx: Tx<MySqlInbox>,
/// ) -> Result<(), HandlerError> {
///     participant
///         .handle(tx, &command, async |mut work| {
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
/// ```
#[derive(Debug, Clone)]
pub struct Participant {
    barrier: Barrier,
    outbox: Outbox,
    /// Where the barrier has made sure already that the transaction is still there.
    verified: Outbox,
}

impl Participant {
    /// A participant with this barrier and this outbox, both in its own database.
    #[must_use]
    pub fn new(barrier: Barrier, outbox: Outbox) -> Self {
        let verified = outbox.clone().with_verification(false);
        Self { barrier, outbox, verified }
    }

    /// Runs `work` if it is to run, and replies in any case: what was answered before is answered again.
    ///
    /// Its error rolls everything back, and the command is handled again later; a *refusal* is no error but an answer. An undo
    /// cannot refuse.
    ///
    /// # Errors
    ///
    /// That of `work`, or of the database.
    pub async fn handle<F, R>(
        &self,
        mut tx: Tx<MySqlInbox>,
        command: &SagaCommand,
        work: F,
    ) -> Result<(), HandlerError>
    where
        F: FnOnce(Work) -> R + Send,
        R: Future<Output = Result<Answered, HandlerError>> + Send,
    {
        let key = command.barrier_key();
        let operation = match command.action {
            Action::Do => Operation::Do,
            Action::Undo => Operation::Undo,
        };
        let entered = self.barrier.enter(&mut tx, &key, operation).await.map_err(of_handler)?;
        let answer = match entered {
            Entered::First => {
                // What is refused must have left nothing. As plain text, since MySQL prepares no such statement.
                (&mut **tx).execute("SAVEPOINT saga_step").await?;
                let Answered { tx: worked, answer } = work(Work { tx }).await?;
                tx = worked;
                let answer = self.keep(&mut tx, command, answer).await?;
                tracing::debug!(saga = command.saga, step = command.step, action = %command.action, "handled");
                answer
            }
            Entered::Again(stored) | Entered::Refused(stored) => match stored {
                Some(stored) => serde_json::from_value(stored)?,
                None => return Err(HandlerError::permanent("the barrier has no answer to repeat")),
            },
            Entered::TooLate => Answer::refused("it was undone before"),
            Entered::Nothing => Answer::undone(),
        };
        self.reply(&mut tx, command, answer).await
    }

    /// Keeps the answer for repetitions, and takes back what was refused.
    async fn keep(
        &self,
        tx: &mut Transaction<'static, MySql>,
        command: &SagaCommand,
        answer: Answer,
    ) -> Result<Answer, HandlerError> {
        let answer = match command.action {
            Action::Undo if answer.refused => {
                return Err(HandlerError::transient("a compensation cannot be refused"));
            }
            Action::Undo if answer.event_type == DONE => Answer::undone(),
            _ => answer,
        };
        let (key, stored) = (command.barrier_key(), serde_json::to_value(&answer)?);
        let kept = if answer.refused {
            (&mut **tx).execute("ROLLBACK TO SAVEPOINT saga_step").await?;
            self.barrier.record_refusal(tx, &key, &stored).await
        } else {
            self.barrier.record_answer(tx, &key, &stored).await
        };
        kept.map_err(of_handler)?;
        Ok(answer)
    }

    async fn reply(
        &self,
        tx: &mut Transaction<'static, MySql>,
        command: &SagaCommand,
        answer: Answer,
    ) -> Result<(), HandlerError> {
        let (kind, id) = answer.aggregate.unwrap_or_else(|| ("saga".to_owned(), command.saga.clone()));
        let event = NewEvent::json(kind, id, answer.event_type, &answer.payload)?;
        // An undo's answer is kept in the row of its do, which is there though the transaction may be lost.
        let outbox = if command.action == Action::Do { &self.verified } else { &self.outbox };
        outbox.write(tx, command.mark(event)).await?;
        Ok(())
    }
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
