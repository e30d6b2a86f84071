//! Payloads that are too large for a message: they go to a JetStream object store, and the message says where
//! ([`header::DATA_REF`]).
//!
//! An object is named by the stream, by the sequence that its message is to get, and by its row's position. A message is
//! stored at the sequence that it expects or not at all, so once the stream has that sequence, the message there tells for
//! ever whether the object is needed.
//!
//! The pattern's name: <https://www.enterpriseintegrationpatterns.com/patterns/messaging/StoreInLibrary.html>. The object
//! store: [ADR-20](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-20.md).

mod sweep;

use std::time::Duration;

use async_nats::jetstream::{
    self, ErrorCode,
    context::GetStreamErrorKind,
    object_store::{self, ObjectInfo, ObjectStore},
    stream::LastRawMessageErrorKind,
};
use base64::prelude::{BASE64_URL_SAFE, Engine as _};
use outbox_event::DataRef;
#[cfg(doc)]
use outbox_event::header;

use super::{Message, WireError};
use crate::metrics::ClaimCheckMetrics;

pub(crate) use sweep::{ORPHAN_INTERVALS, Sweeper};

/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The object store of large payloads.
#[derive(Debug, Clone)]
pub struct ClaimChecks {
    context: jetstream::Context,
    bucket: String,
    replicas: usize,
    /// How long storing a payload may take.
    put_timeout: Duration,
    store: Option<Store>,
    metrics: ClaimCheckMetrics,
}

#[derive(Clone)]
struct Store(ObjectStore);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ObjectStore")
    }
}

/// What an object's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ObjectName<'a> {
    stream: &'a str,
    sequence: u64,
}

impl<'a> ObjectName<'a> {
    fn of(stream: &str, sequence: u64, message: &Message) -> String {
        format!("{stream}/{sequence}/{}", message.position())
    }

    /// `None` if no bridge gave it.
    fn parse(name: &'a str) -> Option<Self> {
        let (stream, rest) = name.split_once('/')?;
        let (sequence, position) = rest.split_once('/')?;
        position.parse::<outbox_event::Position>().ok()?;
        Some(Self { stream, sequence: sequence.parse().ok()? })
    }
}

impl ClaimChecks {
    /// The object store `bucket`; made with so many replicas when it is not there.
    #[must_use]
    pub fn new(
        mut context: jetstream::Context,
        bucket: String,
        replicas: usize,
        put_timeout: Duration,
    ) -> Self {
        context.set_timeout(ANSWER_TIMEOUT);
        Self { context, bucket, replicas, put_timeout, store: None, metrics: ClaimCheckMetrics::new() }
    }

    /// Makes the bucket if it is not there.
    ///
    /// # Errors
    ///
    /// If the server does not answer or refuses.
    pub async fn open(&mut self) -> Result<(), WireError> {
        self.store().await.map(drop)
    }

    async fn store(&mut self) -> Result<ObjectStore, WireError> {
        if let Some(Store(store)) = &self.store {
            return Ok(store.clone());
        }
        // Asked for first, since "not there" and "no answer" come as the same error.
        let store = match self.context.get_stream(stream_of(&self.bucket)).await.map_err(|error| error.kind())
        {
            Ok(_) => self.context.get_object_store(&self.bucket).await.map_err(unavailable)?,
            Err(GetStreamErrorKind::JetStream(error))
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                tracing::info!(bucket = self.bucket, "creating the object store for large payloads");
                let config = object_store::Config {
                    bucket: self.bucket.clone(),
                    description: Some("Outbox Bridge: payloads that are too large for a message".into()),
                    num_replicas: self.replicas,
                    ..Default::default()
                };
                self.context.create_object_store(config).await.map_err(unavailable)?
            }
            Err(error) => return Err(unavailable(error)),
        };
        self.store = Some(Store(store.clone()));
        Ok(store)
    }

    /// Stores the payload of a message that is to get `sequence` in `stream`. What it returns names the object; that it
    /// returns means that the object is stored.
    pub(super) async fn put(
        &mut self,
        stream: &str,
        sequence: u64,
        message: &Message,
    ) -> Result<DataRef, WireError> {
        let name = ObjectName::of(stream, sequence, message);
        let (limit, store) = (self.put_timeout, self.store().await?);
        let mut body = &*message.body;
        let stored = tokio::time::timeout(limit, store.put(name.as_str(), &mut body)).await;
        match stored {
            Ok(Ok(_)) => {
                self.metrics.stored.increment(1);
                Ok(DataRef { bucket: self.bucket.clone(), name })
            }
            Ok(Err(error)) => {
                // It may have been deleted.
                self.store = None;
                Err(unavailable(crate::exit::report(&error)))
            }
            Err(_) => Err(unavailable(format!("storing a payload took longer than {limit:?}"))),
        }
    }
}

/// The stream behind a bucket.
pub(crate) fn stream_of(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// What the object store says of an object; `None` if it is not there.
pub(crate) async fn describe_object(
    context: &jetstream::Context,
    reference: &DataRef,
) -> Result<Option<ObjectInfo>, WireError> {
    let DataRef { bucket, name } = reference;
    let objects = context.get_stream_no_info(stream_of(bucket)).await.map_err(unavailable)?;
    // ADR-20: names are encoded in the alphabet for URLs.
    let encoded = BASE64_URL_SAFE.encode(name);
    match objects.get_last_raw_message_by_subject(&format!("$O.{bucket}.M.{encoded}")).await {
        Ok(found) => {
            let object: ObjectInfo = serde_json::from_slice(&found.payload).map_err(unavailable)?;
            Ok((!object.deleted).then_some(object))
        }
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

fn unavailable(error: impl std::fmt::Display) -> WireError {
    WireError::Unavailable(format!("the object store of large payloads: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_bridges_names_say_where_the_message_is() {
        let parsed =
            ObjectName::parse("ORDERS/17/3e11fa47-71ca-11e1-9e33-c80aa9429562:9@binlog.000001:2691/0");
        assert_eq!(parsed, Some(ObjectName { stream: "ORDERS", sequence: 17 }));
        for other in [
            "report.pdf",
            "a/b/c",
            "ORDERS/17/",
            "ORDERS/x/@f.1:4/0",
            "letter:dead.letter.ORDERS.stock.all.~.17",
        ] {
            assert_eq!(ObjectName::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "[A-Z/0-9:@.]{0,30}|\\PC*") {
            let _parsed = ObjectName::parse(&name);
        }
    }
}
