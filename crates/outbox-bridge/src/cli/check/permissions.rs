//! What the bridge's user may do in NATS, learnt by trying: with messages that every stream refuses, so that nothing is
//! stored.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::header::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::{Client, Event, Request};
use serde::Deserialize;
use tokio::sync::watch;

use super::{Finding, Severity};
use crate::config::Nats;
use crate::nats::{self, NatsError};

/// How long an answer may take. A forbidden request is never answered, but the server complains of it at once.
pub(in crate::cli) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the server complained of since the connection was made: it does not answer what is forbidden, it only says so.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Complaints(watch::Receiver<Vec<String>>);

/// Connects, once, and listens for complaints.
///
/// # Errors
///
/// As [`nats::connect`].
pub(in crate::cli) async fn connect(nats: &Nats, name: &str) -> Result<(Client, Complaints), NatsError> {
    let (sender, receiver) = watch::channel(Vec::new());
    let sender = Arc::new(sender);
    let options = nats::connect_options(nats, name)?.event_callback(move |event| {
        if let Event::ServerError(error) = event {
            sender.send_modify(|complaints: &mut Vec<String>| complaints.push(error.to_string()));
        }
        std::future::ready(())
    });
    let client = options.connect(nats.urls.as_slice()).await.map_err(NatsError::Connect)?;
    Ok((client, Complaints(receiver)))
}

impl Complaints {
    /// What the server said of `subject`.
    pub(super) fn about(&self, subject: &str) -> Option<String> {
        let quoted = format!("\"{subject}\"");
        self.0.borrow().iter().find(|complaint| complaint.contains(&quoted)).cloned()
    }

    /// All of it, to stand behind a problem; empty if there is none.
    pub(in crate::cli) fn all(&self) -> String {
        let complaints = self.0.borrow();
        if complaints.is_empty() {
            String::new()
        } else {
            format!("; the server says: {}", complaints.join(", "))
        }
    }

    /// Waits until the server complains of `subject`.
    async fn heard(&self, subject: &str) -> String {
        let mut receiver = self.0.clone();
        loop {
            if let Some(complaint) = self.about(subject) {
                return complaint;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A name that no stream has, as the one that a message is expected to be stored in.
const NO_STREAM: &str = "outbox-bridge-check";

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// A stream refused the message for what we made it ask for: had it asked for less, it would have been stored.
    Allowed,
    Forbidden(String),
    NoResponders,
    Silence,
    Other(String),
}

/// Whether messages may be published to `subject`, of `stream`. Nothing is stored, though whoever subscribes to the
/// subject in core NATS sees an empty message.
pub(super) async fn publish(
    client: &Client,
    complaints: &Complaints,
    stream: &str,
    subject: &str,
) -> Option<Finding> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", NO_STREAM);
    // Twice refused, to be sure.
    headers.insert("Nats-Expected-Last-Sequence", i64::MAX.to_string());
    let request = Request::new().headers(headers).timeout(Some(ANSWER_TIMEOUT));
    let outcome = tokio::select! {
        biased;
        complaint = complaints.heard(subject) => Outcome::Forbidden(complaint),
        answer = client.send_request(subject.to_owned(), request) => match answer {
            Ok(message) => judge(&message.payload),
            Err(error) => match error.kind() {
                RequestErrorKind::NoResponders => Outcome::NoResponders,
                RequestErrorKind::TimedOut => Outcome::Silence,
                _ => Outcome::Other(crate::exit::report(&error)),
            },
        },
    };
    refusal(outcome, stream, subject, complaints)
}

fn judge(answer: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<Refusal>,
    }
    #[derive(Deserialize)]
    struct Refusal {
        err_code: u64,
        description: String,
    }
    let expected = [ErrorCode::STREAM_NOT_MATCH, ErrorCode::STREAM_WRONG_LAST_SEQUENCE].map(|code| code.0);
    match serde_json::from_slice(answer) {
        Ok(Answer { error: Some(error) }) if expected.contains(&error.err_code) => Outcome::Allowed,
        Ok(Answer { error: Some(error) }) => Outcome::Other(error.description),
        Ok(Answer { error: None }) => {
            Outcome::Other("the message was not refused as it should have been".to_owned())
        }
        Err(_) => Outcome::Other("somebody else than JetStream answers there".to_owned()),
    }
}

fn refusal(outcome: Outcome, stream: &str, subject: &str, complaints: &Complaints) -> Option<Finding> {
    let error = |problem: String, remedy: String| {
        Some(Finding::new(Severity::Error, format!("stream {stream}"), problem, remedy))
    };
    match outcome {
        Outcome::Allowed => None,
        Outcome::Forbidden(complaint) => error(
            format!("may not be published to ({complaint})"),
            format!("allow the bridge's user to publish to the subjects of {stream}, {subject} among them"),
        ),
        Outcome::NoResponders => error(
            format!("does not answer on {subject}"),
            format!("see that {stream} has a leader, and that its subjects cover {subject}"),
        ),
        Outcome::Silence => error(
            format!("does not answer a message to {subject} within {ANSWER_TIMEOUT:?}{}", complaints.all()),
            format!(
                "see that {stream} has a leader, and that the bridge's user may subscribe below nats.inbox_prefix"
            ),
        ),
        Outcome::Other(reason) => error(
            format!("does not take messages to {subject} as a stream of the bridge should ({reason})"),
            format!("see what stands behind {subject}, and the state of {stream}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (answer, expected) in [
            (
                r#"{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}"#,
                "Allowed",
            ),
            (r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 0"}}"#, "Allowed"),
            (r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#, "Other"),
            (r#"{"stream":"S","seq":1}"#, "Other"),
            ("hello", "Other"),
        ] {
            let outcome = judge(answer.as_bytes());
            assert!(format!("{outcome:?}").starts_with(expected), "{answer}: {outcome:?}");
        }
    }

    #[test]
    fn every_refusal_has_a_remedy() {
        let (_sender, receiver) =
            watch::channel(vec!["Permissions Violation for Publish to \"a.b\"".to_owned()]);
        let complaints = Complaints(receiver);
        assert!(complaints.about("a.b").is_some() && complaints.about("a").is_none());
        assert_eq!(refusal(Outcome::Allowed, "S", "a.b", &complaints), None);
        for outcome in [
            Outcome::Forbidden("Permissions Violation".to_owned()),
            Outcome::NoResponders,
            Outcome::Silence,
            Outcome::Other("x".to_owned()),
        ] {
            let finding = refusal(outcome, "S", "a.b", &complaints).expect("a finding");
            assert!(finding.severity == Severity::Error && !finding.remedy.is_empty(), "{finding}");
        }
    }
}
