//! `dead-letters replay`: publishes rows after all, in the bridge's place.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use async_nats::Client;
use async_nats::jetstream::Context;
use outbox_event::{Position, header};

use super::{Filter, complain, open, print_out, unknown};
use crate::admin::Readiness;
use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints as _, KvCheckpoints};
use crate::config::Config;
use crate::exit::{Exit, report};
use crate::lead::{Leadership, StandInError};
use crate::publish::{Letter, Letters, ReplayError, ReplayTarget, Replayed, State, WireError};
use crate::run;

/// Why nothing is replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    StandIn(#[from] StandInError),
    #[error("the lease was lost; see that no bridge runs, and replay again")]
    LeaseLost,
    #[error("a bridge has written the checkpoint meanwhile: stop it, and replay again")]
    TakenOver,
    #[error(transparent)]
    Checkpoint(CheckpointError),
    #[error("a backfill has begun and not ended: run `outbox-bridge backfill` again first")]
    Backfill,
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl StartError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Wire(error) if !error.is_transient() => Exit::Configuration,
            Self::Backfill | Self::Checkpoint(CheckpointError::Unreadable { .. }) => Exit::Configuration,
            _ => Exit::Unavailable,
        }
    }
}

/// Which letters.
pub(super) enum Chosen<'a> {
    Numbers(&'a [u64]),
    All(&'a Filter),
}

/// Stands in for the bridge, and publishes them in the order of their rows.
pub(super) async fn execute(
    config: &Config,
    client: &Client,
    context: &Context,
    letters: &Letters,
    chosen: Chosen<'_>,
) -> Result<Exit, StartError> {
    let streams = run::stream_names(config);
    let replicas = run::checkpoint_replicas(config, context, &streams).await;
    let instance = run::instance();
    let mut leadership =
        Leadership::new(config, context.clone(), replicas, &instance, Readiness::of_bridge());
    let lease = leadership.stand_in().await?;
    let bucket = config.checkpoint.bucket.clone();
    let checkpoints = KvCheckpoints::new(context.clone(), bucket, config.name.clone(), replicas);
    let stand_in = StandIn { config, client, context, letters, instance, checkpoints, checkpoint: None };
    let outcome = tokio::select! {
        biased;
        () = lease.lost() => Err(StartError::LeaseLost),
        outcome = Box::pin(stand_in.replay(chosen)) => outcome,
    };
    lease.release().await;
    outcome
}

/// What is in the bridge's place.
struct StandIn<'a> {
    config: &'a Config,
    client: &'a Client,
    context: &'a Context,
    letters: &'a Letters,
    instance: String,
    checkpoints: KvCheckpoints,
    /// The bridge's, and its revision, if there is one.
    checkpoint: Option<(Checkpoint, u64)>,
}

impl StandIn<'_> {
    async fn replay(mut self, chosen: Chosen<'_>) -> Result<Exit, StartError> {
        self.checkpoint = self.checkpoints.load().await.map_err(StartError::Checkpoint)?;
        if self.checkpoint.as_ref().is_some_and(|(checkpoint, _)| checkpoint.backfill.is_some()) {
            return Err(StartError::Backfill);
        }
        // A bridge that does not know yet that it leads no longer finds this in place of its own, and steps down.
        self.save().await?;
        let numbers = match chosen {
            Chosen::Numbers(numbers) => numbers.to_vec(),
            Chosen::All(filter) => in_order(self.letters, filter).await?,
        };
        let mut targets = BTreeMap::new();
        let mut exit = Exit::Success;
        for number in numbers {
            let Some(mut letter) = open(self.letters, number).await? else {
                complain(&unknown(number));
                exit = Exit::Usage;
                continue;
            };
            match self.one(&mut targets, &mut letter).await {
                Ok(()) => {}
                // The next ones would fare no better.
                Err(ReplayError::Wire(error)) => {
                    complain(&format!("dead letter {number}: {}", report(&error)));
                    exit = Exit::Unavailable;
                    break;
                }
                Err(error) => {
                    complain(&report(&error));
                    exit = Exit::Configuration;
                }
            }
        }
        self.save().await?;
        Ok(exit)
    }

    async fn one(
        &mut self,
        targets: &mut BTreeMap<String, ReplayTarget>,
        letter: &mut Letter,
    ) -> Result<(), ReplayError> {
        let number = letter.sequence;
        let name = letter.header(header::LETTER_STREAM).unwrap_or_default().to_owned();
        let target = match targets.remove(&name) {
            Some(target) => target,
            None => {
                let recorded =
                    self.checkpoint.as_ref().and_then(|(checkpoint, _)| checkpoint.streams.get(&name));
                let known = recorded.map(|recorded| {
                    let position =
                        recorded.position.as_deref().and_then(|text| Position::from_str(text).ok());
                    (recorded.sequence, position)
                });
                let (client, context) = (self.client.clone(), self.context.clone());
                let message_id = self.config.publish.message_id;
                ReplayTarget::open(client, context, name.clone(), message_id, known).await?
            }
        };
        let replayed = self.letters.replay(&target, letter).await;
        targets.insert(name.clone(), target);
        match replayed? {
            Replayed::Stored(sequence) => {
                self.advance(&name, sequence);
                print_out(&format!("published {number} as message {sequence} of {name}\n"));
            }
            Replayed::Known(sequence) => {
                print_out(&format!(
                    "{number} is not published again: {name} holds an event of its id as message {sequence}\n"
                ));
            }
        }
        Ok(())
    }

    /// If the checkpoint knew the stream's end, it shall know the new one as well.
    fn advance(&mut self, stream: &str, sequence: u64) {
        let Some((checkpoint, _)) = &mut self.checkpoint else { return };
        if let Some(recorded) = checkpoint.streams.get_mut(stream)
            && recorded.position.is_some()
            && recorded.sequence + 1 == sequence
        {
            recorded.sequence = sequence;
        }
    }

    async fn save(&mut self) -> Result<(), StartError> {
        let Some((checkpoint, revision)) = &mut self.checkpoint else { return Ok(()) };
        checkpoint.instance.clone_from(&self.instance);
        *revision = match self.checkpoints.save(checkpoint, Some(*revision)).await {
            Ok(revision) => revision,
            Err(CheckpointError::Conflict) => return Err(StartError::TakenOver),
            Err(error) => return Err(StartError::Checkpoint(error)),
        };
        Ok(())
    }
}

/// The numbers of all open letters that the filter leaves, in the order of their rows: one whose replay was interrupted
/// stands behind its successors.
async fn in_order(letters: &Letters, filter: &Filter) -> Result<Vec<u64>, WireError> {
    let mut found = Vec::new();
    letters
        .each(|letter| {
            if letter.state.is_open() && filter.matches(letter) {
                let begun = letter.state == State::Replaying;
                let position = letter.header(header::POSITION).and_then(|text| Position::from_str(text).ok());
                found.push((!begun, position.and_then(|position| position.order()), letter.sequence));
            }
        })
        .await?;
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, _, sequence)| sequence).collect())
}
