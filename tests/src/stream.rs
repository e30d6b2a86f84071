//! What a stream holds.

use anyhow::{Context as _, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt as _;
use outbox_event::{DataRef, Position};
use tokio::io::AsyncReadExt as _;

/// How many messages are asked for at once.
const BATCH: usize = 2_000;
/// And about how many bytes.
const BATCH_BYTES: u64 = 8 << 20;

/// After so long without a message it is asked whether there are any more.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(3);

/// A message as the stream holds it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub body: Bytes,
}

impl Stored {
    /// A header's value; the empty text if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.as_str())
    }

    /// Where the row stood in the log.
    ///
    /// # Errors
    ///
    /// If the header is missing or malformed.
    pub fn position(&self) -> Result<Position> {
        let text = self.header(outbox_event::header::POSITION);
        text.parse().with_context(|| format!("message {}", self.sequence))
    }

    /// Publishes it once more, with this body, as somebody would by mistake.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub async fn publish_again(&self, client: &async_nats::Client, body: impl Into<Bytes>) -> Result<()> {
        let mut headers = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            let name: &str = name.as_ref();
            if let Some(value) = values.last().filter(|_| !name.starts_with("Nats-")) {
                headers.insert(name, value.as_str());
            }
        }
        client.publish_with_headers(self.subject.clone(), headers, body.into()).await?;
        Ok(client.flush().await?)
    }

    /// The object that holds the payload, if it is not in the message.
    ///
    /// # Errors
    ///
    /// If the header that should name it does not.
    pub fn data_ref(&self) -> Result<Option<DataRef>> {
        let text = self.header(outbox_event::header::DATA_REF);
        if text.is_empty() { Ok(None) } else { Ok(Some(text.parse()?)) }
    }

    /// Puts the payload in the place of the body, if it lies in an object store.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub async fn fetch_body(&mut self, context: &Context) -> Result<()> {
        let Some(reference) = self.data_ref()? else { return Ok(()) };
        anyhow::ensure!(self.body.is_empty(), "message {} has a body and {reference}", self.sequence);
        let store = context.get_object_store(&reference.bucket).await?;
        let mut body = Vec::new();
        let mut object = store.get(&reference.name).await.with_context(|| format!("{reference}"))?;
        object.read_to_end(&mut body).await.with_context(|| format!("{reference}"))?;
        self.body = body.into();
        Ok(())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Everything that a stream holds after a sequence, in its order.
///
/// # Errors
///
/// When the stream cannot be read.
pub async fn read_after(context: &Context, name: &str, after: u64) -> Result<Vec<Stored>> {
    let mut messages = Vec::new();
    visit(context, name, after, |message| {
        messages.push(message);
        Ok(())
    })
    .await?;
    Ok(messages)
}

/// Shows everything that a stream holds after a sequence, in its order, without keeping it.
pub(crate) async fn visit(
    context: &Context,
    name: &str,
    after: u64,
    mut see: impl FnMut(Stored) -> Result<()>,
) -> Result<()> {
    let stream = context.get_stream(name).await?;
    let state = stream.cached_info().state.clone();
    if state.messages == 0 || state.last_sequence <= after {
        return Ok(());
    }
    let consumer = stream
        .create_consumer(pull::Config {
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ..Default::default()
        })
        .await?;
    // Of large messages fewer, or the server cuts a reader off that is slower than it.
    let large = usize::try_from(BATCH_BYTES / (state.bytes / state.messages).max(1))?;
    let batch = large.clamp(1, BATCH);
    let mut deliveries = consumer.stream().max_messages_per_batch(batch).messages().await?;
    loop {
        let Ok(message) = tokio::time::timeout(SILENCE_MAX, deliveries.next()).await else {
            // The last ones may have gone meanwhile.
            if consumer.get_info().await?.num_pending == 0 {
                break;
            }
            continue;
        };
        let Some(message) = message else { break };
        let message = message?;
        let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
        let sequence = info.stream_sequence;
        let async_nats::Message { subject, headers, payload, .. } = message.message;
        let headers = headers.unwrap_or_default();
        see(Stored { sequence, subject: subject.to_string(), headers, body: payload })?;
        if sequence >= state.last_sequence {
            break;
        }
    }
    Ok(())
}

/// The id in a stream's last message.
pub(crate) async fn last_id(context: &Context, name: &str) -> Result<String> {
    let stream = context.get_stream_no_info(name).await?;
    let last = stream.get_last_raw_message_by_subject(">").await?;
    Ok(last.headers.get(outbox_event::header::CE_ID).map_or_else(String::new, ToString::to_string))
}
