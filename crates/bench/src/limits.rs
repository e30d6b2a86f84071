//! What the servers allow: loops that do nothing but what must be done.

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Subscriber};
use futures_util::StreamExt as _;
use outbox_bridge::publish::Message;
use outbox_event::header;
use serde_json::Value;

/// As the bridge's writer.
const FLOW: u64 = 500;
const FLOWS_OUTSTANDING: u64 = 2;

/// Stores `messages` in an empty stream by one fast-ingest batch, with all headers that the bridge sends; nothing is kept
/// for a second try.
///
/// Source of the protocol: <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md>.
pub(crate) async fn fast_ingest(client: &Client, messages: &[Message]) -> Result<()> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(format!("{inbox}.>")).await?;
    let name = inbox.rsplit('.').next().unwrap_or_default().to_owned();
    let (mut acknowledged, mut every) = (0, 1);
    let last = messages.len() as u64;
    for (number, message) in (1..).zip(messages) {
        while number - 1 - acknowledged >= every * FLOWS_OUTSTANDING && number > 1 {
            (acknowledged, every) = flow(&mut answers).await?;
        }
        let operation = match number {
            _ if number == last => 2,
            1 => 0,
            _ => 1,
        };
        let reply = format!("{inbox}.{name}.{FLOW}.fail.{number}.{operation}.$FI");
        let headers = headers(message, number - 1);
        client
            .publish_with_reply_and_headers(message.subject.clone(), reply, headers, message.body.clone())
            .await?;
    }
    loop {
        let answer = answer(&mut answers).await?;
        if answer.get("count").is_some() {
            ensure!(
                answer.get("count").and_then(Value::as_u64) == Some(last),
                "not all were stored: {answer}"
            );
            return Ok(());
        }
    }
}

/// The headers of a message that follows sequence `last`.
pub(crate) fn headers(message: &Message, last: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static(header::EXPECTED_LAST_SEQUENCE), HeaderValue::from(last));
    headers.insert(HeaderName::from_static(header::MESSAGE_ID), message.id.as_str());
    headers.insert(HeaderName::from_static(header::CE_ID), message.id.as_str());
    headers.insert(HeaderName::from_static(header::POSITION), message.position().to_string());
    for (name, value) in &message.headers {
        headers.insert(&**name, &**value);
    }
    headers
}

/// The next flow acknowledgement: up to which number, and how many messages come between two of them.
async fn flow(answers: &mut Subscriber) -> Result<(u64, u64)> {
    let answer = answer(answers).await?;
    let field = |name| answer.get(name).and_then(Value::as_u64);
    Ok((field("seq").unwrap_or(0), field("msgs").unwrap_or(1)))
}

async fn answer(answers: &mut Subscriber) -> Result<Value> {
    let message = answers.next().await.context("the subscription has ended")?;
    let answer: Value = serde_json::from_slice(&message.payload)?;
    let interrupted = answer.get("type").is_some_and(|kind| kind != "ack");
    if interrupted || answer.get("error").is_some() {
        bail!("the server refuses a batch: {answer}");
    }
    Ok(answer)
}
