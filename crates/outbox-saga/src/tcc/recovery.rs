//! Recovery: ends what some instance has left behind, and does what operators ask for.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::coordinator::{Coordinator, Shared};
use super::error::TccError;
use super::metrics;
use super::store::InHand;
use crate::trace;

/// The longest pause between looks while the store cannot be reached.
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Ends transactions whose instance has died, calls again what has not answered, and does what operators ask for, until `shutdown`.
    /// What it has in hand then is ended first, which takes a round of calls at most. While the store cannot be reached it waits.
    ///
    /// A transaction is in somebody's hand until its row's `next_attempt_at`, which is its lease; after that any instance takes it, skipping
    /// rows that another one is taking (`SKIP LOCKED`). There is no leader: a single lease for all instances would leave everything to one
    /// of them, and if that one hangs, all reservations would wait for it, while here each row waits for itself only. That two
    /// instances have the same transaction in hand, one of them having been slow, is possible and does no harm: the decision
    /// is a compare-and-set, and the participants' barriers run no call twice.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut pause = self.shared.limits.recovery_interval;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(jittered(pause)) => {}
            }
            let (shared, stop) = (Arc::clone(&self.shared), shutdown.clone());
            // In a task of its own, which goes on if the caller drops the future.
            let round = tokio::spawn(async move { shared.recover(&stop).await });
            pause = match round.await {
                Ok(Ok(())) => self.shared.limits.recovery_interval,
                Ok(Err(err)) => {
                    let cause = std::error::Error::source(&err).map(ToString::to_string);
                    tracing::warn!(error = %err, cause, "recovery waits");
                    (pause * 2).min(PAUSE_MAX)
                }
                Err(err) => {
                    tracing::error!(error = %err, "recovery panicked, and goes on");
                    (pause * 2).min(PAUSE_MAX)
                }
            };
        }
    }
}

impl Shared {
    /// One look: takes up what is due until there is no more.
    async fn recover(&self, shutdown: &CancellationToken) -> Result<(), TccError> {
        while !shutdown.is_cancelled() {
            let claimed = self.store.claim(self.limits.recovery_batch, self.limits.lease).await?;
            let count = claimed.len();
            let ended = join_all(claimed.into_iter().map(|hand| self.take_up(hand))).await;
            ended.into_iter().collect::<Result<(), _>>()?;
            if u32::try_from(count).is_ok_and(|count| count < self.limits.recovery_batch) {
                break;
            }
        }
        gauge!(metrics::STUCK).set(count_as_f64(self.store.count_stuck().await?));
        Ok(())
    }

    async fn take_up(&self, mut hand: InHand) -> Result<(), TccError> {
        let span = tracing::info_span!("tcc", id = hand.id, name = hand.name, recovery = true);
        trace::join(&span, hand.traceparent.as_deref());
        async {
            if let Some(request) = hand.request.clone() {
                let names: Vec<_> = hand.branches.iter().map(|branch| branch.name.clone()).collect();
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                let refusal = hand.machine.request(&request, &names).err();
                tracing::info!(?request, refusal, "an operator's request");
                if !self.store.answer_request(&hand, refusal).await? {
                    return Ok(());
                }
                hand.stored();
                if hand.machine.decision().is_none() {
                    hand.reason = Some("an operator has aborted it".to_owned());
                }
            } else {
                counter!(metrics::RECOVERED).increment(1);
            }
            if hand.machine.decision().is_none() {
                hand.reason.get_or_insert_with(|| "its instance has not decided in time".to_owned());
                hand.machine.round_over();
            }
            self.carry_on(hand, None).await.map(drop)
        }
        .instrument(span)
        .await
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.4 * rand::random::<f64>())
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and nobody has 2^52 stuck transactions")]
fn count_as_f64(count: i64) -> f64 {
    count as f64
}
