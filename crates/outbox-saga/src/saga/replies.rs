//! Replies, taken in many at a time.
//!
//! What would hold the others up is taken in by itself: a saga whose row somebody has locked, and whatever makes the transaction fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::metrics::counter;
use bytes::Bytes;
use outbox_consumer::HandlerError;
use tracing::Span;

use super::error::SagaError;
use super::message::SagaCommand;
use super::orchestrator::{Orchestrator, check_id};
use super::store::Row;
use super::transition::{self, Transition, moment};
use super::{metrics, store};

/// A reply, and the span that handles its message.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) to: SagaCommand,
    pub(super) event_type: String,
    pub(super) payload: Bytes,
    pub(super) span: Span,
}

/// What became of a reply.
enum Taken {
    /// It is in the saga, or will never be.
    Answered(Result<(), SagaError>),
    /// It is to be taken in by itself.
    Apart,
}

impl Orchestrator {
    /// Takes a reply in, with others that come meanwhile.
    pub(super) async fn reply(&self, reply: Reply) -> Result<(), HandlerError> {
        let sagas = self.clone();
        match self.queue.ask(reply, || sagas.take_replies_in()).await {
            Some(answer) => answer.map_err(SagaError::of_handler),
            None => Err(HandlerError::transient("the definition of the saga panicked, or the runtime ended")),
        }
    }

    /// Until none waits any more.
    async fn take_replies_in(self) {
        while let Some((replies, answers)) = self.queue.next() {
            let replies = Arc::new(replies);
            // In a task of its own, since a definition's closure may panic.
            let together = tokio::spawn({
                let (sagas, replies) = (self.clone(), Arc::clone(&replies));
                async move { sagas.together(&replies).await }
            });
            // Whatever it was may be one saga's fault, or that of a connection that had waited and died.
            let taken = match together.await {
                Ok(Ok(taken)) => taken,
                _ => replies.iter().map(|_| Taken::Apart).collect(),
            };
            for (index, (answer, taken)) in answers.into_iter().zip(taken).enumerate() {
                match taken {
                    // Nobody waits if the handler took too long.
                    Taken::Answered(result) => {
                        answer.send(result).ok();
                    }
                    Taken::Apart => {
                        let (sagas, replies) = (self.clone(), Arc::clone(&replies));
                        tokio::spawn(async move {
                            if let Some(reply) = replies.get(index) {
                                answer.send(sagas.apart(reply).await).ok();
                            }
                        });
                    }
                }
            }
        }
    }

    /// Takes replies in by one transaction, without waiting for any lock.
    async fn together(&self, replies: &[Reply]) -> Result<Vec<Taken>, SagaError> {
        let mut of_sagas: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, reply) in replies.iter().enumerate() {
            of_sagas.entry(&reply.to.saga).or_default().push(index);
        }
        let ids: Vec<&str> = of_sagas.keys().copied().filter(|id| check_id(id).is_ok()).collect();
        let failed = || SagaError::database("cannot take replies in");
        let mut tx = self.transactions.begin().await.map_err(failed())?;
        let mut rows = store::lock_free(&mut tx, &ids).await.map_err(failed())?;
        let mut taken: Vec<Taken> = replies.iter().map(|_| Taken::Apart).collect();
        let mut transitions = Vec::new();
        for (id, indexes) in of_sagas {
            let Some(row) = rows.remove(id) else { continue };
            let of_saga: Vec<&Reply> = indexes.iter().filter_map(|&index| replies.get(index)).collect();
            let result = self.transition(id, row, &of_saga);
            if result.is_err() && indexes.len() > 1 {
                continue;
            }
            let answer = result.map(|transition| transitions.push(transition));
            // An error is that of the only one.
            let mut error = answer.err();
            for index in indexes {
                if let Some(taken) = taken.get_mut(index) {
                    *taken = Taken::Answered(error.take().map_or(Ok(()), Err));
                }
            }
        }
        transitions.retain(|transition| !transition.is_empty());
        if !transitions.is_empty() {
            transition::write(&mut tx, &self.outbox, &mut transitions).await?;
        }
        self.transactions.commit(tx).await.map_err(failed())?;
        transitions.iter().for_each(Transition::tell);
        Ok(taken)
    }

    /// Takes a reply in by a transaction of its own, and waits for the saga's row.
    async fn apart(&self, reply: &Reply) -> Result<(), SagaError> {
        let id = &reply.to.saga;
        let failed = || SagaError::database(format!("cannot take a reply to saga {id} in"));
        if check_id(id).is_err() {
            unmatched(reply);
            return Ok(());
        }
        let mut tx = self.transactions.begin().await.map_err(failed())?;
        let Some(row) = store::lock(&mut tx, id).await.map_err(failed())? else {
            unmatched(reply);
            return Ok(());
        };
        let mut transition = self.transition(id, row, &[reply])?;
        if !transition.is_empty() {
            transition::write(&mut tx, &self.outbox, std::slice::from_mut(&mut transition)).await?;
        }
        self.transactions.commit(tx).await.map_err(failed())?;
        transition.tell();
        Ok(())
    }

    /// What these replies to one saga make of it, one after the other.
    fn transition(&self, id: &str, row: Row, replies: &[&Reply]) -> Result<Transition, SagaError> {
        let code = self.code(id, &row.name, row.version)?;
        let now = row.now;
        let mut transition = Transition::of_row(id, code, row)?;
        for reply in replies {
            // Its commands belong to the trace of its message.
            let _entered = reply.span.enter();
            transition.take_reply(&reply.to, &reply.event_type, &reply.payload, moment(now))?;
        }
        Ok(transition)
    }
}

/// Removed when it had ended, or that of another orchestrator: nothing that another attempt would find.
fn unmatched(reply: &Reply) {
    counter!(metrics::UNMATCHED_REPLIES).increment(1);
    let SagaCommand { saga, step, .. } = &reply.to;
    tracing::debug!(id = saga, step, event_type = reply.event_type, "a reply to a saga that is not here");
}
