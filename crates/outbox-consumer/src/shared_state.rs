//! What the instances of a service share beside the durable consumer: a key-value bucket in JetStream.
//!
//! It holds the histories of failed attempts, and the instances of an ordered consumer ([`group`](crate::group)). A message's next
//! delivery may go to another instance of the service, and the number of its deliveries says little: a shutdown, a crash and an outage of the database deliver it again, too. So each failed attempt is written down here
//! before the message is given back. A delivery without a record was no attempt.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    context::KeyValueErrorKind,
    kv::{Config, Store},
};

use crate::{
    error::{ConsumerError, ConsumerErrorKind},
    history::History,
};

/// The bucket that all consumers share.
const BUCKET: &str = "outbox-consumers";
/// Records of messages that ended in a crash are forgotten after a while.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is shared about one durable consumer.
#[derive(Debug, Clone)]
pub(crate) struct SharedState {
    store: Store,
    durable: String,
}

impl SharedState {
    pub(crate) async fn open(
        context: &jetstream::Context,
        durable: &str,
        replicas: usize,
    ) -> Result<Self, ConsumerError> {
        let store = match context.get_key_value(BUCKET).await {
            Ok(store) => Ok(store),
            Err(error) if error.kind() == KeyValueErrorKind::GetBucket => {
                let config = Config {
                    bucket: BUCKET.to_owned(),
                    description: "Failed attempts and instances of the consumers of Outbox Bridge".to_owned(),
                    history: 1,
                    max_age: AGE_MAX,
                    num_replicas: replicas,
                    ..Config::default()
                };
                context.create_key_value(config).await.map_err(async_nats::Error::from)
            }
            Err(error) => Err(error.into()),
        };
        let store = store.map_err(|error| {
            let message = format!("the key-value bucket {BUCKET} cannot be opened or created");
            ConsumerError::because(ConsumerErrorKind::Nats, message, error)
        })?;
        Ok(Self { store, durable: token(durable) })
    }

    fn key(&self, stream: &str, sequence: u64) -> String {
        format!("attempts.{}.{}.{sequence}", token(stream), self.durable)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The key of the record of the instances that consume `stream` together.
    pub(crate) fn group_key(&self, stream: &str) -> String {
        format!("group.{}.{}", token(stream), self.durable)
    }

    /// The history of a message; empty if nothing is recorded.
    pub(crate) async fn load(&self, stream: &str, sequence: u64) -> Result<History, async_nats::Error> {
        let found = self.store.get(self.key(stream, sequence)).await?;
        Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    pub(crate) async fn save(
        &self,
        stream: &str,
        sequence: u64,
        history: &History,
    ) -> Result<(), async_nats::Error> {
        let json = serde_json::to_vec(history)?;
        self.store.put(self.key(stream, sequence), json.into()).await?;
        Ok(())
    }

    pub(crate) async fn forget(&self, stream: &str, sequence: u64) {
        if let Err(error) = self.store.purge(self.key(stream, sequence)).await {
            tracing::debug!(%error, "a finished message's attempts stay recorded until they are too old");
        }
    }
}

/// A name as one token of a key: what keys cannot hold becomes `=XX`.
pub(crate) fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            token.push(char::from(byte));
        } else {
            token.push_str(&format!("={byte:02X}"));
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_tokens() {
        assert_eq!(token("ORDERS_v2-x"), "ORDERS_v2-x");
        assert_eq!(token("a=b#c"), "a=3Db=23c");
    }
}
