//! Where the dead letters of a consumer lie.

use async_nats::jetstream::{self, context::GetStreamErrorKind, stream::Stream};

use crate::error::{ConsumerError, ConsumerErrorKind};

/// The stream of the dead letters, and its subjects. One stream serves all consumers.
///
/// Below the prefix there are `<prefix>.letter.<stream>.<durable>.<sequence>` and, for messages on their way back,
/// `<prefix>.replay.<stream>.<durable>.<sequence>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterStream {
    /// The stream's name, `DEAD_LETTERS` by default. It is created if there is none.
    pub name: String,
    /// What its subjects begin with, `dead` by default.
    pub subject_prefix: String,
    /// The number of replicas that it is created with, 1 by default.
    pub replicas: usize,
}

impl Default for DeadLetterStream {
    fn default() -> Self {
        Self { name: "DEAD_LETTERS".to_owned(), subject_prefix: "dead".to_owned(), replicas: 1 }
    }
}

/// The subjects of one consumer's dead letters.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dead_letters: DeadLetterStream,
    /// The stream that is consumed.
    pub(crate) stream: String,
    pub(crate) durable: String,
}

impl Place {
    pub(crate) fn letter(&self, sequence: u64) -> String {
        self.subject("letter", &sequence.to_string())
    }

    pub(crate) fn replay(&self, sequence: u64) -> String {
        self.subject("replay", &sequence.to_string())
    }

    pub(crate) fn letters(&self) -> String {
        self.subject("letter", "*")
    }

    pub(crate) fn replays(&self) -> String {
        self.subject("replay", "*")
    }

    /// The name of the durable consumer that gets this consumer's replayed messages.
    pub(crate) fn replay_durable(&self) -> String {
        format!("{}-{}", self.stream, self.durable)
    }

    fn subject(&self, kind: &str, last: &str) -> String {
        format!("{}.{kind}.{}.{}.{last}", self.dead_letters.subject_prefix, self.stream, self.durable)
    }

    /// The stream, created if there is none.
    pub(crate) async fn open(&self, context: &jetstream::Context) -> Result<Stream, ConsumerError> {
        let DeadLetterStream { name, subject_prefix, replicas } = &self.dead_letters;
        let subjects = format!("{subject_prefix}.>");
        let failed = |error: async_nats::Error| {
            let message = format!("the stream of the dead letters, {name}, cannot be opened");
            ConsumerError::because(ConsumerErrorKind::Stream, message, error)
        };
        let stream = match context.get_stream(name).await {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(reply) if reply.code() == 404 => {
                    let config = jetstream::stream::Config {
                        name: name.clone(),
                        description: Some("Messages that consumers of Outbox Bridge gave up".to_owned()),
                        subjects: vec![subjects.clone()],
                        num_replicas: *replicas,
                        ..jetstream::stream::Config::default()
                    };
                    context.get_or_create_stream(config).await.map_err(|error| failed(error.into()))?
                }
                _ => return Err(failed(error.into())),
            },
        };
        let found = &stream.cached_info().config.subjects;
        if !found.contains(&subjects) {
            let message = format!(
                "the stream {name} has the subjects {found:?}, without {subjects:?}: add it there, or name another \
                 stream for the dead letters"
            );
            return Err(ConsumerError::new(ConsumerErrorKind::Stream, message));
        }
        Ok(stream)
    }
}
