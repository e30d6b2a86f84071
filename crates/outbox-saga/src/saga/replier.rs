//! Replies of a participant that has no database.

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use outbox_consumer::HandlerError;
use outbox_event::header;
use outbox_producer::Event;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::message::{SAGA_ACTION, SAGA_ID, SAGA_STEP, SagaCommand};
use super::participant::Answer;

/// Replies to commands by a message of its own, for a participant that has nothing to commit together with its reply: one that
/// calls somebody else's service, sends a mail, or only computes.
///
/// Without a record the command is handled again whenever it is delivered again, so **the handler's effect must be the same however
/// often it runs**: give what is called an idempotency key, such as the saga's id and the step. The saga takes the first reply to each
/// command; others do no harm. An undo may come before its do, or while that still runs: whoever cannot bear that needs the
/// [barrier](crate::barrier), hence a database.
///
/// ```no_run
/// use outbox_consumer::{Consumer, Event, HandlerError, Router, State, inbox::NoInbox};
/// use outbox_saga::saga::{Replier, SagaCommand};
///
/// #[derive(serde::Deserialize)]
/// struct CheckAddress {
///     postcode: String,
/// }
///
/// async fn check(
///     Event(wanted): Event<CheckAddress>,
///     command: SagaCommand,
///     State(replier): State<Replier>,
/// ) -> Result<(), HandlerError> {
///     match wanted.postcode.len() {
///         5 => replier.done(&command).await,
///         _ => replier.refused(&command, "no such postcode").await,
///     }
/// }
///
/// # async fn example(nats: async_nats::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let routes = Router::new().on("CheckAddress", check).with_state(Replier::new(nats.clone(), "addresses.replies"));
/// let consumer = Consumer::builder(nats, "ORDERS", "addresses").build(NoInbox::new(), routes).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Replier {
    jetstream: jetstream::Context,
    subject: String,
}

impl Replier {
    /// Replies on this subject, which a stream must have that no bridge writes to: a bridge counts what is in its stream.
    #[must_use]
    pub fn new(client: async_nats::Client, subject: impl Into<String>) -> Self {
        Self { jetstream: jetstream::new(client), subject: subject.into() }
    }

    /// It was done (or undone), with nothing more to say.
    ///
    /// # Errors
    ///
    /// A transient failure when the reply cannot be stored; the command is handled again then.
    pub async fn done(&self, command: &SagaCommand) -> Result<(), HandlerError> {
        self.send(command, Answer::done()).await
    }

    /// It was done (or undone), and the reply is this event.
    ///
    /// # Errors
    ///
    /// As [`done`](Self::done), and a permanent failure when the event cannot be serialised.
    pub async fn done_with<E: Event + Sync>(
        &self,
        command: &SagaCommand,
        event: &E,
    ) -> Result<(), HandlerError> {
        self.send(command, Answer::of(event, false)?).await
    }

    /// It is not done, for this reason. An undo cannot refuse.
    ///
    /// # Errors
    ///
    /// As [`done`](Self::done), and a transient failure for an undo.
    pub async fn refused(
        &self,
        command: &SagaCommand,
        reason: impl Into<String> + Send,
    ) -> Result<(), HandlerError> {
        self.send(command, Answer::refused(reason)).await
    }

    /// It is not done, and the reply is this event. An undo cannot refuse.
    ///
    /// # Errors
    ///
    /// As [`done_with`](Self::done_with), and a transient failure for an undo.
    pub async fn refused_with<E: Event + Sync>(
        &self,
        command: &SagaCommand,
        event: &E,
    ) -> Result<(), HandlerError> {
        self.send(command, Answer::of(event, true)?).await
    }

    async fn send(&self, command: &SagaCommand, answer: Answer) -> Result<(), HandlerError> {
        let answer = answer.to(command.action)?;
        let SagaCommand { saga, step, action } = command;
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &str| headers.insert(name, value);
        set(header::CE_SPECVERSION, header::CE_SPECVERSION_VALUE);
        set(header::CE_ID, &header::encode_value(&format!("{saga}/{step}/{action}/{}", answer.event_type)));
        set(header::CE_SOURCE, &header::encode_value(&format!("nats:{}", self.subject)));
        set(header::CE_TYPE, &header::encode_value(&answer.event_type));
        let about = answer.aggregate.as_ref().map_or(saga, |(_, id)| id);
        set(header::CE_SUBJECT, &header::encode_value(about));
        if let Ok(now) = OffsetDateTime::now_utc().format(&Rfc3339) {
            set(header::CE_TIME, &now);
        }
        set(header::CONTENT_TYPE, header::CONTENT_TYPE_JSON);
        for (name, value) in [(SAGA_ID, saga.as_str()), (SAGA_STEP, step), (SAGA_ACTION, action.as_str())] {
            set(name, value);
        }
        for (name, value) in outbox_producer::trace_context() {
            set(name, &value);
        }
        let payload = Bytes::from(serde_json::to_vec(&answer.payload)?);
        let sent = self.jetstream.publish_with_headers(self.subject.clone(), headers, payload).await;
        let stored = match sent {
            Ok(stored) => stored.await,
            Err(error) => Err(error),
        };
        stored.map(|_| ()).map_err(|error| {
            HandlerError::transient(format!(
                "the reply cannot be stored: {error}; is there a stream with the subject {}?",
                self.subject
            ))
        })
    }
}
