//! Payloads that are too large for their messages: they lie in a JetStream object store, and the message says where
//! ([`header::DATA_REF`]).
//!
//! The bridge removes an object when its message is gone from the stream. A dead letter may stay for longer, so it has a copy
//! of its own, which goes with it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::GetStreamErrorKind,
        object_store::{GetErrorKind, Object, ObjectStore},
    },
};
use bytes::{Bytes, BytesMut};
use outbox_event::{DataRef, header};
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{envelope::text, handler::error::report};

/// What the names of dead letters' copies begin with. No stream has a name of this form in the names that the bridge gives.
const COPIES: &str = "letter:";
/// So long may nothing come of a payload that is being read.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Why a payload was not loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// It is not there, or not whole.
    Gone(String),
    /// The object store cannot be asked now.
    Away(String),
}

/// Where payloads are looked up.
#[derive(Clone)]
pub(crate) struct Payloads {
    context: jetstream::Context,
    stores: Arc<Mutex<HashMap<String, ObjectStore>>>,
}

/// Where the payload of a message lies, if not in the message; `Err` with a text that says nowhere.
pub(crate) fn reference(headers: &HeaderMap) -> Option<Result<DataRef, String>> {
    let value = text(headers, header::DATA_REF)?;
    Some(value.parse().map_err(|error| format!("its header {} is {value:?}: {error}", header::DATA_REF)))
}

impl Payloads {
    pub(crate) fn new(context: jetstream::Context) -> Self {
        Self { context, stores: Arc::default() }
    }

    /// The whole payload.
    pub(crate) async fn load(&self, reference: &DataRef) -> Result<Bytes, LoadError> {
        let mut object = self.open(reference).await?;
        let mut payload = BytesMut::with_capacity(object.info.size);
        loop {
            match timeout(SILENCE_MAX, object.read_buf(&mut payload)).await {
                Ok(Ok(0)) if payload.len() == object.info.size => return Ok(payload.freeze()),
                Ok(Ok(0)) => return Err(LoadError::Gone(format!("its payload {reference} is not whole"))),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(LoadError::Gone(format!("its payload {reference} is damaged: {error}")));
                }
                Ok(Err(error)) => return Err(away(&error)),
                // If it can still be asked for, then it is its parts that are gone.
                Err(_) => {
                    self.open(reference).await?;
                    return Err(LoadError::Gone(format!(
                        "its payload {reference} cannot be read to its end"
                    )));
                }
            }
        }
    }

    /// Copies a payload for the dead letter at `subject`, unless it is that copy; where it lies then.
    pub(crate) async fn keep(&self, reference: &DataRef, subject: &str) -> Result<DataRef, LoadError> {
        if is_copy(reference) {
            return Ok(reference.clone());
        }
        let mut payload = &*self.load(reference).await?;
        let copy = DataRef { bucket: reference.bucket.clone(), name: format!("{COPIES}{subject}") };
        let store = self.store(&copy).await?;
        store.put(copy.name.as_str(), &mut payload).await.map_err(|error| away(&error))?;
        Ok(copy)
    }

    /// Removes the copy of a dead letter that is done with, if it has one.
    pub(crate) async fn forget(&self, headers: &HeaderMap) {
        let Some(Ok(reference)) = reference(headers) else { return };
        if !is_copy(&reference) {
            return;
        }
        let removed = async {
            self.store(&reference).await?.delete(&reference.name).await.map_err(|error| away(&error))
        };
        if let Err(error) = removed.await {
            tracing::warn!(%error, %reference, "the payload of a dead letter that is done with stays");
        }
    }

    async fn open(&self, reference: &DataRef) -> Result<Object, LoadError> {
        let gone = || LoadError::Gone(format!("its payload {reference} is gone"));
        let asked = self.store(reference).await?.get(&reference.name).await;
        asked.map_err(|error| match error.kind() {
            GetErrorKind::NotFound => gone(),
            _ => {
                // The bucket may be another by now.
                self.stores().remove(&reference.bucket);
                away(&error)
            }
        })
    }

    async fn store(&self, reference: &DataRef) -> Result<ObjectStore, LoadError> {
        if let Some(store) = self.stores().get(&reference.bucket) {
            return Ok(store.clone());
        }
        // Asked for first, since "not there" and "no answer" come as the same error.
        if let Err(error) = self.context.get_stream(format!("OBJ_{}", reference.bucket)).await {
            return Err(match error.kind() {
                GetStreamErrorKind::JetStream(reply) if reply.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    LoadError::Gone(format!("its payload {reference} is gone, and with it the object store"))
                }
                _ => away(&error),
            });
        }
        let store = self.context.get_object_store(&reference.bucket).await.map_err(|error| away(&error))?;
        self.stores().insert(reference.bucket.clone(), store.clone());
        Ok(store)
    }

    fn stores(&self) -> std::sync::MutexGuard<'_, HashMap<String, ObjectStore>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Payloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payloads").finish_non_exhaustive()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Gone(text) | Self::Away(text)) = self;
        f.write_str(text)
    }
}

fn away(error: &(dyn std::error::Error + 'static)) -> LoadError {
    LoadError::Away(format!("its payload cannot be read now: {}", report(error)))
}

fn is_copy(reference: &DataRef) -> bool {
    reference.name.starts_with(COPIES)
}
