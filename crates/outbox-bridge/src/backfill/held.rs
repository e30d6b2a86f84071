//! Which events are where: sets of event ids in 16 bytes each, and reading a stream for them.

use std::{ops::RangeInclusive, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures_util::StreamExt as _;
use outbox_event::header;
use sha2::{Digest as _, Sha256};

/// The identity of an event in a stream, hashed.
pub(crate) type Key = u128;

/// How long the stream may say nothing while it is read.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A stream that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("stream {stream} cannot be read: {reason}")]
pub(crate) struct ReadError {
    pub(crate) stream: String,
    pub(crate) reason: String,
}

/// A set of ids. Filled first, then sealed, then asked.
#[derive(Debug, Default)]
pub(super) struct Ids(Vec<Key>);

impl Ids {
    pub(super) fn add(&mut self, key: Key) {
        self.0.push(key);
    }

    pub(super) fn seal(&mut self) {
        self.0.sort_unstable();
        self.0.dedup();
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.0.binary_search(&key).is_ok()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A source without the server in it.
pub(crate) fn table_of_source(source: &str) -> &str {
    match source.strip_prefix("//") {
        Some(rest) => rest.rsplit_once('/').map_or(rest, |(_, table)| table),
        None => source,
    }
}

/// The key of an event. `source` counts where several tables share a stream, since their ids may be the same; without the
/// server in it, which changes when the tables move to another one.
pub(crate) fn key(id: &str, source: Option<&str>) -> Key {
    let source = source.map(table_of_source);
    let mut hash = Sha256::new();
    hash.update(id.as_bytes());
    hash.update([0]);
    hash.update(source.unwrap_or_default().as_bytes());
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..]: [u8; 32] = hash.finalize().into();
    u128::from_le_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

/// Shows `visit` every message of a stream that it holds of these sequences, with its body or without.
pub(crate) async fn read_stream(
    context: &jetstream::Context,
    stream: &str,
    sequences: RangeInclusive<u64>,
    headers_only: bool,
    mut visit: impl FnMut(u64, &async_nats::Message),
) -> Result<(), ReadError> {
    let failed = |reason: String| ReadError { stream: stream.to_owned(), reason };
    let (start, end) = sequences.into_inner();
    if start > end {
        return Ok(());
    }
    let handle = context.get_stream(stream).await.map_err(|error| failed(error.to_string()))?;
    let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: start };
    let config = pull::OrderedConfig { headers_only, deliver_policy, ..Default::default() };
    let consumer = handle.create_consumer(config).await.map_err(|error| failed(error.to_string()))?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(|error| failed(error.to_string()))?;
    loop {
        let next = tokio::time::timeout(SILENCE_MAX, messages.next()).await;
        let message = match next {
            Ok(Some(message)) => message.map_err(|error| failed(error.to_string()))?,
            Ok(None) => return Err(failed("it ended".to_owned())),
            Err(_) => return Err(failed(format!("no message came for {SILENCE_MAX:?}"))),
        };
        let info = message.info().map_err(|error| failed(error.to_string()))?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        if sequence <= end {
            visit(sequence, &message.message);
        }
        // Without the second it would be waited for in vain where the last messages are deleted.
        if sequence >= end || pending == 0 {
            return Ok(());
        }
    }
}

/// A header of a message; empty if it has none of this name.
pub(crate) fn header_of<'m>(message: &'m async_nats::Message, name: &str) -> &'m str {
    message.headers.as_ref().and_then(|headers| headers.get(name)).map_or("", |value| value.as_str())
}

/// The key of a message that is to be stored.
pub(crate) fn key_of_row(message: &crate::publish::Message, several_tables: bool) -> Key {
    let source = |name: &str| {
        message.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| &**value)
    };
    key(&message.id, several_tables.then(|| source(header::CE_SOURCE)))
}

/// The key of a stored message; `None` if it is no event.
pub(crate) fn key_of(message: &async_nats::Message, several_tables: bool) -> Option<Key> {
    let id = header_of(message, header::CE_ID);
    let source = several_tables.then(|| header_of(message, header::CE_SOURCE));
    (!id.is_empty()).then(|| key(id, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_same_on_another_server() {
        assert_eq!(key("1", Some("//a-b/shop.outbox")), key("1", Some("//c-d/shop.outbox")));
        assert_ne!(key("1", Some("//a-b/shop.outbox")), key("1", Some("//a-b/shop.audit")));
        assert_ne!(key("1", None), key("2", None));
    }
}
