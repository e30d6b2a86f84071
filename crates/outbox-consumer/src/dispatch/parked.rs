//! Which keys are parked: those of which a dead letter lies there.
//!
//! Nothing else is written down, so replaying or discarding a key's letters is all that it takes to let the key go on. Only
//! the instance that has the partition adds letters; that is why it is enough to know the keys since the term began.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::in_hand::{InHand, Source};
use crate::{
    dead_letter::{DeadLetters, Kind, key_token},
    error::ConsumerError,
    partition::Partition,
};

/// The keys of a partition that may be parked.
#[derive(Debug)]
pub(crate) struct Parked {
    letters: DeadLetters,
    partition: Partition,
    keys: Mutex<HashSet<String>>,
}

/// What stands before a message of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// The dead letter of the message with this sequence.
    Letter(u64),
    /// A message on its way back.
    Replay,
}

impl Parked {
    /// Looks up which keys are parked.
    pub(crate) async fn load(letters: DeadLetters, partition: Partition) -> Result<Self, ConsumerError> {
        let found = letters.all_at(&letters.place().all(partition)).await?;
        let keys = found.into_iter().map(|(_, key, _)| key).collect();
        Ok(Self { letters, partition, keys: Mutex::new(keys) })
    }

    /// A message of this key is a dead letter now.
    pub(crate) fn park(&self, key: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key_token(Some(key)));
    }

    /// What stands before `message`.
    pub(crate) async fn before(&self, message: &InHand) -> Result<Before, ConsumerError> {
        let Some(key) = message.partition_key().map(|key| key_token(Some(key))) else {
            return Ok(Before::Nothing);
        };
        if message.source == Source::Stream && !self.may_be(&key) {
            return Ok(Before::Nothing);
        }
        let subjects = self.letters.place().all_of_key(self.partition, &key);
        let older = |sequence| sequence < message.origin.sequence;
        match self.letters.first_at(&subjects).await? {
            None => {
                self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                return Ok(Before::Nothing);
            }
            // The usual case, at a cost that does not grow with the number of letters.
            Some((Kind::Letter, sequence)) if older(sequence) => return Ok(Before::Letter(sequence)),
            Some(_) => {}
        }
        let all = self.letters.all_at(&subjects).await?;
        let first = |wanted| {
            let of_kind = all.iter().filter(|(kind, ..)| *kind == wanted);
            of_kind.map(|(.., sequence)| *sequence).filter(|sequence| older(*sequence)).min()
        };
        Ok(match (first(Kind::Letter), first(Kind::Replay)) {
            (Some(sequence), _) => Before::Letter(sequence),
            (None, Some(_)) => Before::Replay,
            (None, None) => Before::Nothing,
        })
    }

    fn may_be(&self, key: &str) -> bool {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}
