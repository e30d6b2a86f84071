//! Checkpoints in a JetStream key-value bucket.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    kv::{CreateErrorKind, EntryErrorKind, Operation, Store, UpdateErrorKind},
};

use super::{Checkpoint, CheckpointError, Checkpoints};

/// How long the store may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The checkpoint of one bridge, under its name in a bucket.
#[derive(Debug)]
pub struct KvCheckpoints {
    context: jetstream::Context,
    bucket: String,
    key: String,
    replicas: usize,
    store: Option<Store>,
}

impl KvCheckpoints {
    /// The checkpoint under `key`. The bucket is made with so many replicas when it is not there.
    #[must_use]
    pub fn new(mut context: jetstream::Context, bucket: String, key: String, replicas: usize) -> Self {
        context.set_timeout(TIMEOUT);
        Self { context, bucket, key, replicas, store: None }
    }

    async fn store(&mut self) -> Result<&Store, CheckpointError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => open_bucket(&self.context, &self.bucket, self.replicas).await?,
        };
        Ok(self.store.insert(store))
    }
}

/// The bucket for checkpoints and leases; made with so many replicas when it is not there.
pub(crate) async fn open_bucket(
    context: &jetstream::Context,
    bucket: &str,
    replicas: usize,
) -> Result<Store, CheckpointError> {
    match context.get_key_value(bucket).await {
        Ok(store) => Ok(store),
        Err(error) if error.kind() == jetstream::context::KeyValueErrorKind::GetBucket => {
            create_bucket(context, bucket, replicas).await
        }
        Err(error) => Err(unavailable(error)),
    }
}

async fn create_bucket(
    context: &jetstream::Context,
    bucket: &str,
    replicas: usize,
) -> Result<Store, CheckpointError> {
    // Asked for first, since "not there" and "no answer" come as the same error.
    let streams = context.get_stream(format!("KV_{bucket}")).await;
    match streams.map_err(|error| error.kind()) {
        Err(jetstream::context::GetStreamErrorKind::JetStream(error))
            if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND => {}
        Err(error) => return Err(unavailable(error)),
        Ok(_) => return Err(CheckpointError::Unavailable("the bucket has just appeared".into())),
    }
    tracing::info!(bucket, "creating the bucket for checkpoints and leases");
    let config = jetstream::kv::Config {
        bucket: bucket.to_owned(),
        description: "Outbox Bridge: how far each bridge has read the log, and which one leads".into(),
        history: 8,
        num_replicas: replicas,
        ..Default::default()
    };
    context.create_key_value(config).await.map_err(unavailable)
}

fn unavailable(error: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Unavailable(error.to_string())
}

impl Checkpoints for KvCheckpoints {
    async fn load(&mut self) -> Result<Option<(Checkpoint, u64)>, CheckpointError> {
        let key = self.key.clone();
        let entry = match self.store().await?.entry(&key).await {
            Ok(Some(entry)) if entry.operation == Operation::Put => entry,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == EntryErrorKind::InvalidKey => {
                return Err(CheckpointError::Unreadable { key, reason: "not a valid key".into() });
            }
            Err(error) => {
                self.store = None;
                return Err(unavailable(error));
            }
        };
        let checkpoint = Checkpoint::from_json(&entry.value)
            .map_err(|reason| CheckpointError::Unreadable { key, reason })?;
        Ok(Some((checkpoint, entry.revision)))
    }

    async fn save(&mut self, checkpoint: &Checkpoint, revision: Option<u64>) -> Result<u64, CheckpointError> {
        let key = self.key.clone();
        let value = serde_json::to_vec(checkpoint).map_err(unavailable)?;
        let store = self.store().await?;
        let result = match revision {
            Some(revision) => {
                store.update(&key, value.into(), revision).await.map_err(|error| match error.kind() {
                    UpdateErrorKind::WrongLastRevision => CheckpointError::Conflict,
                    _ => unavailable(error),
                })
            }
            None => store.create(&key, value.into()).await.map_err(|error| match error.kind() {
                CreateErrorKind::AlreadyExists => CheckpointError::Conflict,
                _ => unavailable(error),
            }),
        };
        if matches!(result, Err(CheckpointError::Unavailable(_))) {
            self.store = None;
        }
        result
    }
}
