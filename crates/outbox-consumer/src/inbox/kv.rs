//! The inbox in a JetStream key-value bucket.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Error as JetStreamError;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, KeyValueError,
    PublishError, PublishErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use async_nats::jetstream::{self, ErrorCode, kv};
use bytes::Bytes;
use tokio::sync::OnceCell;

use super::{Begun, Inbox, InboxError, InboxErrorKind, InboxKey, check_key};

/// The header by which a bucket marks a deleted key (ADR-8, "JetStream based Key-Value Stores").
const OPERATION_HEADER: &str = "KV-Operation";

/// The inbox in a JetStream key-value bucket, for handlers that have no database of their own.
///
/// What it promises: a message whose handling was recorded is not handled again while the record lives, which is as
/// long as the bucket's `max_age`.
///
/// What it cannot promise, since the handler's effect and the record do not commit together:
///
/// - If the service ends between the effect and the record, the message is handled again.
/// - If the acknowledgement of the record is lost, it is not known whether the message counts as handled.
/// - Two deliveries that are in work at the same time are both handled. Nothing waits.
/// - A server that was deposed as the bucket's leader may answer for half a second more without knowing the newest
///   records.
///
/// So the effect must bear a repetition, as a call with an idempotency key does, and the bucket spares most of them.
/// Where the effect is in a database, keep the inbox there.
///
/// ```no_run
/// use std::time::Duration;
///
/// use outbox_consumer::inbox::{Begun, Inbox as _, InboxKey, KvInbox};
///
/// # async fn send_mail() {}
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = async_nats::connect("nats://127.0.0.1:4222").await?;
/// let context = async_nats::jetstream::new(client);
/// let inbox = KvInbox::new(context, "mail_inbox", Duration::from_secs(7 * 24 * 3600));
/// inbox.prepare().await?;
///
/// let key = InboxKey { consumer: "mail".to_owned(), message_id: "0190f3c2".to_owned() };
/// if let Begun::New(transaction) = inbox.begin(&key).await? {
///     send_mail().await;
///     inbox.commit(&key, transaction).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KvInbox {
    context: jetstream::Context,
    bucket: String,
    retention: Duration,
    replicas: usize,
    store: Arc<OnceCell<kv::Store>>,
}

impl fmt::Debug for KvInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvInbox")
            .field("bucket", &self.bucket)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// The handling of one message with a [`KvInbox`]. Nothing that a handler does is part of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct KvTransaction {}

impl KvInbox {
    /// An inbox in this bucket, whose records live for `retention` at least. [`prepare`](Inbox::prepare) makes the
    /// bucket if it is missing, and then they live for just that long.
    #[must_use]
    pub fn new(context: jetstream::Context, bucket: &str, retention: Duration) -> Self {
        Self { context, bucket: bucket.to_owned(), retention, replicas: 1, store: Arc::default() }
    }

    /// How many servers of a cluster hold the bucket, if [`prepare`](Inbox::prepare) is to make it.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// The bucket, which is looked up once.
    async fn store(&self) -> Result<&kv::Store, KeyValueError> {
        self.store.get_or_try_init(|| self.context.get_key_value(&self.bucket)).await
    }

    /// Makes the bucket, unless another service does so at this moment.
    async fn create(&self) -> Result<&kv::Store, InboxError> {
        let config = kv::Config {
            bucket: self.bucket.clone(),
            description: "messages that were handled".to_owned(),
            history: 1,
            max_age: self.retention,
            num_replicas: self.replicas,
            ..kv::Config::default()
        };
        match self.context.create_key_value(config).await {
            Ok(store) => Ok(self.store.get_or_init(|| async { store }).await),
            Err(err) => match self.store().await {
                Ok(store) => Ok(store),
                Err(_) => Err(self.error("cannot make", err)),
            },
        }
    }

    fn error(&self, what: &str, err: impl Error + Send + Sync + 'static) -> InboxError {
        let kind = kind(&err);
        InboxError::new(kind, format!("{what} the inbox's bucket `{}`", self.bucket), Some(Box::new(err)))
    }

    fn check(&self, config: &jetstream::stream::Config) -> Result<(), InboxError> {
        // Zero means without end.
        if config.max_age.is_zero() || config.max_age >= self.retention {
            return Ok(());
        }
        let message = format!(
            "the inbox's bucket `{}` forgets after {:?}, but its records are to live for {:?}: raise the bucket's age \
             limit, or ask for less",
            self.bucket, config.max_age, self.retention
        );
        Err(InboxError::new(InboxErrorKind::Unusable, message, None))
    }
}

impl Inbox for KvInbox {
    type Transaction = KvTransaction;

    async fn prepare(&self) -> Result<(), InboxError> {
        let store = match self.store().await {
            Ok(store) => store,
            Err(err) if code(&err) == Some(ErrorCode::STREAM_NOT_FOUND) => self.create().await?,
            Err(err) => return Err(self.error("cannot look up", err)),
        };
        // Asked anew, since the settings may have changed after an earlier look.
        let info = store.stream.get_info().await.map_err(|err| self.error("cannot look up", err))?;
        self.check(&info.config)
    }

    async fn begin(&self, key: &InboxKey) -> Result<Begun<KvTransaction>, InboxError> {
        check_key(key)?;
        let store = self.store().await.map_err(|err| self.error("cannot look up", err))?;
        let subject = format!("{}{}", store.prefix, encode(key));
        // Not `Store::entry`, which any replica may answer, but a question to the leader.
        match store.stream.get_last_raw_message_by_subject(&subject).await {
            // A key that an operator has deleted, to have the message handled again, leaves a marker.
            Ok(record) if record.headers.get(OPERATION_HEADER).is_some() => Ok(Begun::New(KvTransaction {})),
            Ok(_) => Ok(Begun::Duplicate),
            Err(err) if err.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Ok(Begun::New(KvTransaction {}))
            }
            Err(err) => Err(self.error("cannot read", err)),
        }
    }

    /// Writes the record. A record that is there already, of a delivery at the same time, is renewed.
    async fn commit(&self, key: &InboxKey, _transaction: KvTransaction) -> Result<(), InboxError> {
        let store = self.store().await.map_err(|err| self.error("cannot look up", err))?;
        store.put(encode(key), Bytes::new()).await.map_err(|err| self.error("cannot write to", err))?;
        Ok(())
    }

    /// Does nothing: the bucket forgets by itself.
    async fn clean_up(&self, _consumer: &str, _age: Duration, _limit: u32) -> Result<u64, InboxError> {
        Ok(0)
    }
}

/// The key of a record: two tokens of letters, digits, `-` and `_`, in which every other byte is `=XX`. The empty
/// value is a lone `=`. So different messages have different keys, whatever their ids hold.
fn encode(key: &InboxKey) -> String {
    let mut encoded = String::new();
    encode_token(&key.consumer, &mut encoded);
    encoded.push('.');
    encode_token(&key.message_id, &mut encoded);
    encoded
}

fn encode_token(value: &str, out: &mut String) {
    if value.is_empty() {
        out.push('=');
    }
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("={byte:02X}"));
        }
    }
}

/// The error and its causes.
fn chain<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |&err| err.source())
}

/// What JetStream itself has said, if that is the cause.
fn code(err: &(dyn Error + 'static)) -> Option<ErrorCode> {
    chain(err).find_map(|err| {
        if let Some(err) = err.downcast_ref::<JetStreamError>() {
            return Some(err.error_code());
        }
        // Some errors hold it in their kind and not as their source.
        if let Some(err) = err.downcast_ref::<GetStreamError>()
            && let GetStreamErrorKind::JetStream(err) = err.kind()
        {
            return Some(err.error_code());
        }
        if let Some(err) = err.downcast_ref::<CreateStreamError>()
            && let CreateStreamErrorKind::JetStream(err) = err.kind()
        {
            return Some(err.error_code());
        }
        if let Some(err) = err.downcast_ref::<LastRawMessageError>()
            && let LastRawMessageErrorKind::JetStream(err) = err.kind()
        {
            return Some(err.error_code());
        }
        None
    })
}

/// The kind of an error. What is not listed is of no use to try again, as far as is known.
fn kind(err: &(dyn Error + 'static)) -> InboxErrorKind {
    if let Some(code) = code(err) {
        return kind_of(code);
    }
    let unanswered = chain(err).any(|err| {
        let request =
            err.downcast_ref::<RequestError>().map(|err| err.kind() != RequestErrorKind::InvalidSubject);
        let publish = err.downcast_ref::<PublishError>().map(|err| {
            // Without an answering leader no stream is found either.
            matches!(
                err.kind(),
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::StreamNotFound
            )
        });
        let create = err.downcast_ref::<CreateStreamError>().map(|err| {
            matches!(
                err.kind(),
                CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::JetStreamUnavailable
            )
        });
        request.or(publish).or(create).unwrap_or(false)
    });
    if unanswered { InboxErrorKind::Unavailable } else { InboxErrorKind::Unusable }
}

/// The kind of what JetStream has said:
/// <https://github.com/nats-io/nats-server/blob/main/server/errors.json>.
fn kind_of(code: ErrorCode) -> InboxErrorKind {
    match code.0 {
        // Account, storage, memory or other resources used up; no leader; stream offline, its store failed; a write that
        // the leader could not take over.
        10002 | 10008 | 10023 | 10028 | 10047 | 10077 | 10118 | 10194 => InboxErrorKind::Unavailable,
        _ => InboxErrorKind::Unusable,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(consumer: &str, message_id: &str) -> InboxKey {
        InboxKey { consumer: consumer.to_owned(), message_id: message_id.to_owned() }
    }

    #[test]
    fn keys_are_legal_and_distinct() {
        let values = [
            "", "=", "a", "A", "a ", "a.b", "a..b", ".", "*", ">", "ä", "=3D", "a/b", "\0", "\n", "$KV", "-_",
        ];
        let mut seen = HashSet::new();
        for consumer in values {
            for message_id in values {
                let encoded = encode(&key(consumer, message_id));
                assert_eq!(encoded.split('.').count(), 2, "{encoded}");
                assert!(encoded.split('.').all(|token| !token.is_empty()), "{encoded}");
                let legal =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'.');
                assert!(encoded.bytes().all(legal), "{encoded}");
                assert!(seen.insert(encoded.clone()), "{encoded} stands for two");
            }
        }
        assert_eq!(encode(&key("mail", "a.b c")), "mail.a=2Eb=20c");
    }

    #[test]
    fn errors_have_their_kind() {
        let unavailable = InboxErrorKind::Unavailable;
        let unusable = InboxErrorKind::Unusable;
        let publish =
            |kind| super::kind(&kv::PutError::with_source(kv::PutErrorKind::Ack, PublishError::new(kind)));
        assert_eq!(publish(PublishErrorKind::TimedOut), unavailable);
        assert_eq!(publish(PublishErrorKind::StreamNotFound), unavailable);
        assert_eq!(publish(PublishErrorKind::Other), unusable);
        assert_eq!(super::kind(&RequestError::new(RequestErrorKind::NoResponders)), unavailable);
        assert_eq!(super::kind(&RequestError::new(RequestErrorKind::InvalidSubject)), unusable);
        for (code, kind) in [(10008, unavailable), (10047, unavailable), (10059, unusable), (10003, unusable)]
        {
            assert_eq!(kind_of(ErrorCode(code)), kind, "{code}");
        }
    }
}
