//! Removes payloads whose messages are gone.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::jetstream::{
    object_store::ObjectInfo,
    stream::{RawMessageErrorKind, Stream},
};
use futures_util::TryStreamExt as _;
use outbox_event::{DataRef, header};
use tokio::time::Instant;

use super::{ClaimChecks, ObjectName, WireError, stream_of, unavailable};
use crate::publish::NatsWire;

/// Chunks of no object are of one that is being stored, or of one whose storing was broken off. After so many intervals it
/// is the latter.
pub(crate) const ORPHAN_INTERVALS: u32 = 10;

/// What removes payloads that no message refers to any more.
#[derive(Debug)]
pub(crate) struct Sweeper {
    checks: ClaimChecks,
    streams: Vec<String>,
    interval: Duration,
    /// Objects that were not needed when last looked at. Only what is found so twice is removed: a deposed leader may not know
    /// a message that is there.
    unneeded: HashSet<String>,
    /// Chunks that belong to no object, and since when.
    orphans: HashMap<String, Instant>,
}

impl Sweeper {
    pub(crate) fn new(checks: ClaimChecks, streams: Vec<String>, interval: Duration) -> Self {
        Self { checks, streams, interval, unneeded: HashSet::new(), orphans: HashMap::new() }
    }

    /// Looks and removes, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(self.interval).await;
            match self.sweep().await {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "removed payloads whose messages are gone"),
                Err(error) => tracing::warn!(%error, "cannot remove payloads whose messages are gone now"),
            }
        }
    }

    /// One look at every object.
    async fn sweep(&mut self) -> Result<u64, WireError> {
        let bucket = self.checks.bucket.clone();
        let objects = self.stream(&stream_of(&bucket)).await?;
        let mut lasts = HashMap::new();
        let mut chunks = HashSet::new();
        let mut unneeded = HashSet::new();
        let (mut removed, mut next) = (0, 1);
        loop {
            let filter = format!("$O.{bucket}.M.>");
            let found = match objects.get_first_raw_message_by_subject(&filter, next).await {
                Ok(found) => found,
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(unavailable(error)),
            };
            next = found.sequence + 1;
            let Ok(object) = serde_json::from_slice::<ObjectInfo>(&found.payload) else { continue };
            // Whatever is stored there meanwhile stays.
            let description = objects.purge().filter(found.subject.as_str()).sequence(found.sequence + 1);
            if object.deleted {
                description.await.map_err(unavailable)?;
                continue;
            }
            chunks.insert(format!("$O.{bucket}.C.{}", object.nuid));
            if self.is_needed(&object.name, &mut lasts).await? {
                continue;
            }
            if self.unneeded.contains(&object.name) {
                // The chunks first: without its name nobody would find them at once.
                purge(&objects, &format!("$O.{bucket}.C.{}", object.nuid)).await?;
                description.await.map_err(unavailable)?;
                self.checks.metrics.removed.increment(1);
                removed += 1;
            } else {
                unneeded.insert(object.name);
            }
        }
        self.unneeded = unneeded;
        self.sweep_orphans(&objects, &chunks).await?;
        Ok(removed)
    }

    /// Whether a message refers to the object, or may still come to. What is not a bridge's is left alone.
    async fn is_needed(&self, name: &str, lasts: &mut HashMap<String, u64>) -> Result<bool, WireError> {
        let Some(ObjectName { stream, sequence }) = ObjectName::parse(name) else { return Ok(true) };
        if !self.streams.iter().any(|ours| ours == stream) {
            return Ok(true);
        }
        let last = match lasts.get(stream) {
            Some(last) => *last,
            None => {
                let state = NatsWire::stream_info(&self.checks.context, stream).await?.state;
                *lasts.entry(stream.to_owned()).or_insert(state.last_sequence)
            }
        };
        if sequence > last {
            return Ok(true);
        }
        match self.stream(stream).await?.get_raw_message(sequence).await {
            Ok(message) => {
                let reference =
                    message.headers.get_last(header::DATA_REF).map(|value| value.as_str().parse());
                let named =
                    |reference: DataRef| reference.bucket == self.checks.bucket && reference.name == name;
                Ok(reference.and_then(Result::ok).is_some_and(named))
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn sweep_orphans(
        &mut self,
        objects: &Stream<()>,
        chunks: &HashSet<String>,
    ) -> Result<(), WireError> {
        let filter = format!("$O.{}.C.>", self.checks.bucket);
        let mut there = HashSet::new();
        let mut subjects = objects.info_with_subjects(filter).await.map_err(unavailable)?;
        while let Some((subject, _)) = subjects.try_next().await.map_err(unavailable)? {
            if !chunks.contains(&subject) {
                there.insert(subject);
            }
        }
        self.orphans.retain(|subject, _| there.contains(subject));
        let now = Instant::now();
        for subject in there {
            let since = *self.orphans.entry(subject.clone()).or_insert(now);
            if now - since >= self.interval * ORPHAN_INTERVALS {
                purge(objects, &subject).await?;
                self.orphans.remove(&subject);
            }
        }
        Ok(())
    }

    async fn stream(&self, name: &str) -> Result<Stream<()>, WireError> {
        self.checks.context.get_stream_no_info(name).await.map_err(unavailable)
    }
}

async fn purge(objects: &Stream<()>, subject: &str) -> Result<(), WireError> {
    objects.purge().filter(subject).await.map(drop).map_err(unavailable)
}
