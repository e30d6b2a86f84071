//! The coordinator: asks the machine for steps and does them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{counter, histogram};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use sqlx::MySqlPool;
use time::OffsetDateTime;
use tracing::Instrument as _;

use super::call::{Answer, AnyEndpoint, Call, CallError, Endpoint, Operation};
use super::error::{TccError, TccErrorKind};
use super::machine::{Came, Decision, Request, Step, Trying};
use super::metrics;
use super::settings::Limits;
use super::store::{Branch, InHand, Leave, Store};
use super::transaction::{NewTransaction, Outcome};
use crate::trace;

/// How often a transaction is looked at that another instance has in hand.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long after its deadline a transaction of another instance is waited for.
const LOOK_GRACE: Duration = Duration::from_secs(5);

/// A call of a branch.
struct Called {
    /// The branch's place.
    place: usize,
    call: Call,
    /// Where, if this instance knows it.
    endpoint: Option<Arc<dyn AnyEndpoint>>,
}

/// What runs transactions: a handle, cheap to clone.
///
/// See the [module](super) for an example. Every service that has one must also [`run`](Self::run) it, since that ends what was left behind;
/// several instances share the tables.
#[derive(Clone)]
pub struct Coordinator {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    endpoints: BTreeMap<String, Arc<dyn AnyEndpoint>>,
}

/// A coordinator to be.
pub struct CoordinatorBuilder {
    pool: MySqlPool,
    limits: Limits,
    endpoints: BTreeMap<String, Arc<dyn AnyEndpoint>>,
}

impl CoordinatorBuilder {
    /// Says where branches are called whose endpoint has this name. All instances that share the tables should know all names; one that does
    /// not leaves such branches open.
    #[must_use]
    pub fn endpoint(mut self, name: impl Into<String>, endpoint: impl Endpoint) -> Self {
        self.endpoints.insert(name.into(), Arc::new(endpoint));
        self
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The coordinator. Makes its tables if they are not there: `tcc_transactions`, `tcc_branches` and `tcc_history`, in the database that the
    /// pool's connections use.
    ///
    /// # Errors
    ///
    /// If a limit makes no sense, or the tables cannot be used; the error says what an administrator is to run.
    pub async fn build(self) -> Result<Coordinator, TccError> {
        self.limits.check()?;
        metrics::describe();
        let store = Store::new(self.pool);
        store.prepare().await?;
        let shared = Shared { store, limits: self.limits, endpoints: self.endpoints };
        Ok(Coordinator { shared: Arc::new(shared) })
    }
}

impl Coordinator {
    /// Begins to build a coordinator whose tables are in this MySQL or MariaDB database. A transaction takes a connection only for moments.
    #[must_use]
    pub fn builder(pool: MySqlPool) -> CoordinatorBuilder {
        CoordinatorBuilder { pool, limits: Limits::default(), endpoints: BTreeMap::new() }
    }

    /// Carries a transaction out: tries all branches, decides, and confirms or cancels all. Returns when every branch has answered or has
    /// been called once after the decision; what is open then is seen to by [`run`](Self::run).
    ///
    /// It is idempotent by the transaction's id: if there is one with this id, nothing is done twice, and its outcome is
    /// returned as soon as it is decided. It goes on if the caller drops the future.
    ///
    /// # Errors
    ///
    /// If the transaction cannot be stored. [`Unavailable`](TccErrorKind::Unavailable) says nothing about the outcome: ask again with
    /// the same id.
    pub async fn execute(&self, mut new: NewTransaction) -> Result<Outcome, TccError> {
        new.check()?;
        for branch in &new.branches {
            if !self.shared.endpoints.contains_key(&branch.endpoint) {
                let message = format!("no endpoint `{}` was given to the coordinator", branch.endpoint);
                return Err(TccError::new(TccErrorKind::Settings, message));
            }
        }
        let shared = Arc::clone(&self.shared);
        let span = tracing::info_span!("tcc", id = new.id, name = new.name);
        match &new.traceparent {
            Some(given) => trace::join(&span, Some(given)),
            None => new.traceparent = span.in_scope(trace::current),
        }
        let work = async move { shared.execute(new).await };
        // In a task of its own, since neither sqlx nor the transaction should be stopped half-way.
        tokio::spawn(work.instrument(span)).await.unwrap_or_else(|err| {
            Err(TccError::new(TccErrorKind::Unavailable, format!("the coordinator's task has ended: {err}")))
        })
    }

    /// How a transaction was decided; nothing as long as it is not.
    ///
    /// # Errors
    ///
    /// If there is none with this id, or the store cannot be reached.
    pub async fn outcome(&self, id: &str) -> Result<Option<Outcome>, TccError> {
        self.shared.outcome(id).await
    }

    /// Asks for something as an operator. Some instance does it within [`Limits::recovery_interval`], and writes to `tcc_history` what came
    /// of it. Tools can do the same with SQL, by setting `request` and `next_attempt_at`.
    ///
    /// # Errors
    ///
    /// If there is no transaction with this id that has not ended, or the store cannot be reached.
    pub async fn request(&self, id: &str, request: &Request) -> Result<(), TccError> {
        self.shared.store.request(id, request).await
    }

    /// Removes at most `limit` confirmed and as many cancelled transactions that ended longer ago than `age`; gives how many.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached.
    pub async fn clean_up(&self, age: Duration, limit: u32) -> Result<u64, TccError> {
        self.shared.store.clean_up(age, limit).await
    }
}

impl Shared {
    async fn execute(&self, new: NewTransaction) -> Result<Outcome, TccError> {
        let limit = new.try_limit.unwrap_or(self.limits.try_limit);
        let begun = Instant::now();
        if !self.store.insert(&new, limit).await? {
            return self.known_outcome(&new, limit).await;
        }
        let deadline = OffsetDateTime::now_utc() + limit;
        let hand = InHand::new(new, deadline);
        let name = hand.name.clone();
        let outcome = self.carry_on(hand, Some(begun + limit)).await?;
        let label = if outcome.is_confirmed() { "confirmed" } else { "cancelled" };
        histogram!(metrics::DECISION, "name" => name, "outcome" => label)
            .record(begun.elapsed().as_secs_f64());
        Ok(outcome)
    }

    /// Does what is to be done until the transaction has ended or must wait. `try_until` is where this instance began the
    /// transaction itself.
    pub(crate) async fn carry_on(
        &self,
        mut hand: InHand,
        try_until: Option<Instant>,
    ) -> Result<Outcome, TccError> {
        let mut answers = BTreeMap::new();
        let complete = loop {
            let step = hand.machine.next(self.limits.attempts_max);
            tracing::debug!(?step, "next");
            match step {
                Step::Try(branches) => self.try_all(&mut hand, &branches, try_until, &mut answers).await,
                Step::Decide(proposed) => self.decide(&mut hand, proposed).await?,
                Step::End(decision, branches) => self.end_all(&mut hand, decision, &branches).await,
                Step::Finish(_) => break self.leave(&hand, Leave::Finished).await,
                Step::Retry => {
                    let delay = self.limits.delay(hand.machine.attempts(), rand::random());
                    break self.leave(&hand, Leave::After(delay)).await;
                }
                Step::Stick => {
                    tracing::error!(id = hand.id, "the transaction is stuck; see the errors of its branches");
                    break self.leave(&hand, Leave::Stuck).await;
                }
            }
        };
        Ok(match hand.machine.decision() {
            Some(Decision::Confirm) => Outcome::Confirmed { complete, answers },
            _ => Outcome::Cancelled { complete, reason: hand.reason.unwrap_or_default() },
        })
    }

    /// Lets go of a decided transaction. Tells whether it has ended.
    async fn leave(&self, hand: &InHand, leave: Leave) -> bool {
        match self.store.leave(hand, leave).await {
            // If there was nothing to store any more, another instance has seen it end.
            Ok(stored) => leave == Leave::Finished || !stored,
            // The decision stands all the same, and recovery comes back to it after the lease.
            Err(err) => {
                let cause = std::error::Error::source(&err).map(ToString::to_string);
                tracing::warn!(id = hand.id, error = %err, cause, "left to recovery");
                false
            }
        }
    }

    async fn decide(&self, hand: &mut InHand, proposed: Decision) -> Result<(), TccError> {
        let standing = self.store.decide(hand, proposed, self.limits.lease).await?;
        hand.stored();
        hand.machine.decided(standing.decision);
        hand.reason = standing.reason;
        if standing.made_here {
            let outcome = match standing.decision {
                Decision::Confirm => "confirmed",
                Decision::Cancel => "cancelled",
            };
            tracing::info!(id = hand.id, outcome, reason = hand.reason, "decided");
            counter!(metrics::TRANSACTIONS, "name" => hand.name.clone(), "outcome" => outcome).increment(1);
        }
        Ok(())
    }

    /// Tries branches until one will not accept, or it is too late.
    async fn try_all(
        &self,
        hand: &mut InHand,
        branches: &[usize],
        until: Option<Instant>,
        answers: &mut BTreeMap<String, Value>,
    ) {
        let until = until.unwrap_or_else(Instant::now);
        let calls = self.calls(hand, branches, Operation::Try);
        let mut calling: FuturesUnordered<_> =
            calls.iter().map(|called| self.try_one(called, until, Duration::ZERO)).collect();
        while let Some((called, answer)) = calling.next().await {
            let Some(branch) = hand.branches.get_mut(called.place) else { continue };
            let mut pause = None;
            let came = match answer {
                Ok(Answer::Accepted(value)) => {
                    answers.insert(branch.name.clone(), value);
                    branch.error = None;
                    Came::Accepted
                }
                Ok(Answer::Refused(reason)) => {
                    hand.reason = Some(format!("`{}` refused: {reason}", branch.name));
                    branch.failed(reason);
                    Came::Refused
                }
                Err(err) => {
                    let report = err.report();
                    hand.reason = Some(format!("the try of `{}` failed: {report}", branch.name));
                    branch.failed(report);
                    let left = until.saturating_duration_since(Instant::now());
                    pause = self.limits.try_delay(branch.failed, left, rand::random());
                    pause = pause.filter(|_| !err.is_permanent());
                    Came::Unknown
                }
            };
            match hand.machine.tried(called.place, came, pause.is_some()) {
                Trying::Others => {}
                Trying::Again => calling.push(self.try_one(called, until, pause.unwrap_or_default())),
                // The others are not waited for: their cancel finds them as they are.
                Trying::Hopeless => break,
            }
        }
        drop(calling);
        hand.machine.round_over();
    }

    /// Calls a try, after a pause if it is called again; then only if nobody has decided meanwhile.
    async fn try_one<'a>(
        &self,
        called: &'a Called,
        until: Instant,
        pause: Duration,
    ) -> (&'a Called, Result<Answer, CallError>) {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
            // If the store is away the decision has to wait for it anyhow.
            let known = self.store.known(&called.call.transaction).await;
            if matches!(known, Ok(Some(known)) if known.decision.is_some()) {
                return (called, Err(CallError::permanent("another instance has decided meanwhile")));
            }
            tracing::debug!(branch = called.call.branch, "trying again");
        }
        let left = until.saturating_duration_since(Instant::now());
        self.call(called, left.min(self.limits.call_limit)).await
    }

    async fn end_all(&self, hand: &mut InHand, decision: Decision, branches: &[usize]) {
        let operation = match decision {
            Decision::Confirm => Operation::Confirm,
            Decision::Cancel => Operation::Cancel,
        };
        let calls = self.calls(hand, branches, operation);
        let mut calling: FuturesUnordered<_> =
            calls.iter().map(|called| self.call(called, self.limits.call_limit)).collect();
        while let Some((called, answer)) = calling.next().await {
            let (came, error) = match answer {
                Ok(Answer::Accepted(_)) => (Came::Accepted, None),
                Ok(Answer::Refused(reason)) => {
                    (Came::Refused, Some(format!("it refused to {operation}: {reason}")))
                }
                Err(err) => (Came::Unknown, Some(err.report())),
            };
            if let (Some(branch), Some(error)) = (hand.branches.get_mut(called.place), error) {
                tracing::warn!(id = hand.id, branch = branch.name, %operation, error, "a call failed");
                branch.failed(error);
            }
            hand.machine.ended(called.place, decision, came);
        }
        drop(calling);
        hand.machine.round_over();
    }

    fn calls(&self, hand: &InHand, branches: &[usize], operation: Operation) -> Vec<Called> {
        let call = |branch: &Branch| Call {
            transaction: hand.id.clone(),
            branch: branch.name.clone(),
            operation,
            deadline: hand.deadline,
            payload: branch.payload.clone(),
            traceparent: hand.traceparent.clone(),
        };
        let of = |&place: &usize| {
            let branch = hand.branches.get(place)?;
            Some(Called {
                place,
                call: call(branch),
                endpoint: self.endpoints.get(&branch.endpoint).cloned(),
            })
        };
        branches.iter().filter_map(of).collect()
    }

    async fn call<'a>(&self, called: &'a Called, limit: Duration) -> (&'a Called, Result<Answer, CallError>) {
        let Called { call, endpoint, .. } = called;
        let Some(endpoint) = endpoint else {
            let unknown = CallError::new("this instance of the coordinator does not know its endpoint");
            return (called, Err(unknown));
        };
        let answer = tokio::time::timeout(limit, endpoint.call_any(call)).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(CallError::new(format!("there was no answer within {} ms", limit.as_millis())))
        });
        if answer.is_err() {
            let operation = call.operation.name();
            counter!(metrics::FAILED_CALLS, "branch" => call.branch.clone(), "operation" => operation)
                .increment(1);
        }
        (called, answer)
    }

    /// The outcome of a transaction that was begun before, by whomever.
    async fn known_outcome(&self, new: &NewTransaction, limit: Duration) -> Result<Outcome, TccError> {
        if !self.store.is_same(new).await? {
            let message = format!("there is a transaction `{}` with other branches: use another id", new.id);
            return Err(TccError::new(TccErrorKind::NoSuchTransaction, message));
        }
        let until = Instant::now() + limit + LOOK_GRACE;
        while Instant::now() < until {
            if let Some(outcome) = self.outcome(&new.id).await? {
                return Ok(outcome);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let message = format!("transaction `{}` was begun before and is not decided yet", new.id);
        Err(TccError::new(TccErrorKind::Undecided, message))
    }

    async fn outcome(&self, id: &str) -> Result<Option<Outcome>, TccError> {
        let known = self.store.known(id).await?.ok_or_else(|| {
            TccError::new(TccErrorKind::NoSuchTransaction, format!("there is no transaction `{id}`"))
        })?;
        let complete = known.complete;
        Ok(known.decision.map(|decision| match decision {
            Decision::Confirm => Outcome::Confirmed { complete, answers: BTreeMap::new() },
            Decision::Cancel => Outcome::Cancelled { complete, reason: known.reason.unwrap_or_default() },
        }))
    }
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CoordinatorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints: Vec<_> = self.endpoints.keys().collect();
        f.debug_struct("CoordinatorBuilder").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}
