//! Branches over NATS request/reply.
//!
//! A call is a request with the headers of [`Call::headers`] and the payload as its body. The reply's header `Tcc-Answer` is `accepted` (the
//! body is the answer), `refused`, `failed`, or `invalid` (the body is the reason, as a JSON string). `invalid` says that the
//! participant cannot make anything of the call, so that a try is not repeated.

use std::sync::Arc;

use async_nats::{Client, HeaderMap, Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::call::{Answer, Call, CallError, Endpoint};
use super::participant::{Participant, ParticipantService};

/// The header of a reply that says how its body is to be read.
pub const ANSWER_HEADER: &str = "Tcc-Answer";
/// How many calls a participant works on at a time.
const CALLS_MAX: usize = 64;

/// Calls branches at a subject. A subject that nobody serves is a failed call at once.
#[derive(Debug, Clone)]
pub struct NatsEndpoint {
    client: Client,
    subject: String,
}

impl NatsEndpoint {
    /// Calls are requests to this subject.
    #[must_use]
    pub fn new(client: Client, subject: impl Into<String>) -> Self {
        Self { client, subject: subject.into() }
    }
}

impl Endpoint for NatsEndpoint {
    async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let mut headers = HeaderMap::new();
        for (name, value) in call.headers() {
            headers.insert(name, value.as_str());
        }
        let body = Bytes::from(call.payload.to_string());
        let reply = self.client.request_with_headers(self.subject.clone(), headers, body).await;
        let failed = |err| CallError::new(format!("no reply from `{}`", self.subject)).because(err);
        read_answer(&reply.map_err(failed)?)
    }
}

fn read_answer(reply: &Message) -> Result<Answer, CallError> {
    let unreadable = || CallError::new("the reply is none of TCC: it has no header Tcc-Answer that is known");
    let kind =
        reply.headers.as_ref().and_then(|headers| headers.get(ANSWER_HEADER)).ok_or_else(unreadable)?;
    let value: Value = serde_json::from_slice(&reply.payload)
        .map_err(|err| CallError::new("the reply's body is not JSON").because(err))?;
    let text = || value.as_str().unwrap_or("without a reason").to_owned();
    match kind.as_str() {
        "accepted" => Ok(Answer::Accepted(value)),
        "refused" => Ok(Answer::Refused(text())),
        "failed" => Err(CallError::new(text())),
        "invalid" => Err(CallError::permanent(text())),
        _ => Err(unreadable()),
    }
}

/// Serves a participant's calls at `subject`, as one of the queue group `group` with the other instances of the service, until
/// `shutdown`. Calls that have come by then are ended first.
///
/// # Errors
///
/// If the subject cannot be subscribed to.
pub async fn serve<P: Participant>(
    client: Client,
    subject: impl Into<String>,
    group: impl Into<String>,
    service: ParticipantService<P>,
    shutdown: CancellationToken,
) -> Result<(), CallError> {
    let subscribed = client.queue_subscribe(subject.into(), group.into()).await;
    let mut calls = subscribed.map_err(|err| CallError::new("cannot subscribe").because(err))?;
    let limit = Arc::new(Semaphore::new(CALLS_MAX));
    let mut stopping = false;
    loop {
        let message = tokio::select! {
            biased;
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                // No new ones; what has come is still delivered, and then the stream ends.
                if let Err(err) = calls.unsubscribe().await {
                    tracing::debug!(error = %err, "cannot unsubscribe");
                }
                continue;
            }
            message = calls.next() => message,
        };
        let Some(message) = message else { break };
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { break };
        let (client, service) = (client.clone(), service.clone());
        tokio::spawn(async move {
            answer(&client, &service, message).await;
            drop(permit);
        });
    }
    // All permits are back when all calls have ended.
    let all = u32::try_from(CALLS_MAX).unwrap_or(u32::MAX);
    drop(limit.acquire_many(all).await);
    if let Err(err) = client.flush().await {
        tracing::debug!(error = %err, "the last replies may be lost");
    }
    Ok(())
}

async fn answer<P: Participant>(client: &Client, service: &ParticipantService<P>, message: Message) {
    let Some(reply) = message.reply.clone() else {
        return tracing::warn!(subject = %message.subject, "a call without a reply subject is no request");
    };
    let empty = HeaderMap::new();
    let headers = message.headers.as_ref().unwrap_or(&empty);
    let call = Call::read(|name| headers.get(name).map(|value| value.as_str()), &message.payload);
    let answered = match call {
        Ok(call) => service.handle(call).await,
        Err(err) => Err(err),
    };
    let (kind, body) = match answered {
        Ok(Answer::Accepted(value)) => ("accepted", value),
        Ok(Answer::Refused(reason)) => ("refused", Value::from(reason)),
        Err(err) if err.is_permanent() => ("invalid", Value::from(err.report())),
        Err(err) => ("failed", Value::from(err.report())),
    };
    send(client, reply, kind, &body).await;
}

async fn send(client: &Client, reply: Subject, kind: &str, body: &Value) {
    let mut headers = HeaderMap::new();
    headers.insert(ANSWER_HEADER, kind);
    // Who has not got it asks again.
    if let Err(err) = client.publish_with_headers(reply, headers, Bytes::from(body.to_string())).await {
        tracing::debug!(error = %err, "cannot reply");
    }
}
