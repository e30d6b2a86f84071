//! Where the dead letters of a consumer lie.

use async_nats::jetstream::{self, context::GetStreamErrorKind, stream::Stream};

use crate::{
    error::{ConsumerError, ConsumerErrorKind},
    partition::Partition,
    shared_state::token,
};

/// The stream of the dead letters, and its subjects. One stream serves all consumers.
///
/// Below the prefix there are `<prefix>.letter.<stream>.<durable>.<partition>.<key>.<sequence>` and, for messages on
/// their way back, the same with `replay`. The partition is `all` where there are none.
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

/// Which message of the consumer: what its subjects end with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address<'a> {
    pub(crate) partition: Partition,
    pub(crate) key: Option<&'a str>,
    /// Its sequence in the stream that is consumed.
    pub(crate) sequence: u64,
}

/// What stands at a subject of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Letter,
    /// On its way back.
    Replay,
}

/// The longest key that stands in a subject as it is.
const KEY_BYTES_MAX: usize = 96;

/// A key as a token of a subject. Of a long one the beginning and a hash: if two should ever agree, one of them counts
/// as parked while the other is.
pub(crate) fn key_token(key: Option<&str>) -> String {
    // The alphabet of tokens has no `~`.
    let Some(key) = key else { return "~".to_owned() };
    let mut token = token(key);
    if token.len() > KEY_BYTES_MAX {
        // 64-bit FNV-1a.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        token.truncate(KEY_BYTES_MAX);
        token.push_str(&format!("~{hash:016x}"));
    } else if token.is_empty() {
        token.push_str("~~");
    }
    token
}

impl Place {
    pub(crate) fn letter(&self, at: Address<'_>) -> String {
        self.subject("letter", &at.partition.token(), &key_token(at.key), &at.sequence.to_string())
    }

    /// The subject on which a letter goes back, if `subject` is that of a letter of this consumer.
    pub(crate) fn replay_of(&self, subject: &str) -> Option<String> {
        let (Kind::Letter, rest) = self.read(subject)? else { return None };
        Some(format!("{}{rest}", self.prefix("replay")))
    }

    pub(crate) fn letters(&self) -> String {
        self.subject("letter", "*", "*", "*")
    }

    pub(crate) fn letters_of_key(&self, key: &str) -> String {
        self.subject("letter", "*", &key_token(Some(key)), "*")
    }

    pub(crate) fn replays(&self, partition: Partition) -> String {
        self.subject("replay", &partition.token(), "*", "*")
    }

    /// Letters and replays of a partition.
    pub(crate) fn all(&self, partition: Partition) -> String {
        self.subject("*", &partition.token(), "*", "*")
    }

    /// Letters and replays of a key.
    pub(crate) fn all_of_key(&self, partition: Partition, key: &str) -> String {
        self.subject("*", &partition.token(), key, "*")
    }

    /// Kind, token of the key and sequence that a subject of ours names.
    pub(crate) fn parse<'s>(&self, subject: &'s str) -> Option<(Kind, &'s str, u64)> {
        let (kind, rest) = self.read(subject)?;
        let mut tokens = rest.split('.').skip(1);
        let (key, sequence) = (tokens.next()?, tokens.next()?);
        Some((kind, key, sequence.parse().ok()?))
    }

    fn read<'s>(&self, subject: &'s str) -> Option<(Kind, &'s str)> {
        [("letter", Kind::Letter), ("replay", Kind::Replay)]
            .into_iter()
            .find_map(|(name, kind)| Some((kind, subject.strip_prefix(&self.prefix(name))?)))
    }

    /// The name of the durable consumer that gets this consumer's replayed messages.
    pub(crate) fn replay_durable(&self, partition: Partition) -> String {
        partition.of(&format!("{}-{}", self.stream, self.durable))
    }

    /// The name of the durable consumer that gets what is published on a subject for replays.
    pub(crate) fn durable_of_replay(&self, subject: &str) -> Option<String> {
        let (_, rest) = self.read(subject)?;
        Some(self.replay_durable(Partition::from_token(rest.split('.').next()?)?))
    }

    fn prefix(&self, kind: &str) -> String {
        format!("{}.{kind}.{}.{}.", self.dead_letters.subject_prefix, self.stream, self.durable)
    }

    fn subject(&self, kind: &str, partition: &str, key: &str, sequence: &str) -> String {
        format!("{}{partition}.{key}.{sequence}", self.prefix(kind))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            dead_letters: DeadLetterStream::default(),
            stream: "ORDERS".to_owned(),
            durable: "stock".to_owned(),
        }
    }

    #[test]
    fn subjects_say_what_they_hold() {
        let at = Address { partition: Partition::Number(3), key: Some("a.b"), sequence: 17 };
        let letter = place().letter(at);
        assert_eq!(letter, "dead.letter.ORDERS.stock.p3.a=2Eb.17");
        assert_eq!(place().parse(&letter), Some((Kind::Letter, "a=2Eb", 17)));
        let replay = place().replay_of(&letter).expect("a letter");
        assert_eq!(replay, "dead.replay.ORDERS.stock.p3.a=2Eb.17");
        assert_eq!(place().parse(&replay), Some((Kind::Replay, "a=2Eb", 17)));
        assert_eq!(place().replay_of(&replay), None);
        assert_eq!(place().durable_of_replay(&replay).as_deref(), Some("ORDERS-stock-p3"));
        assert_eq!(place().replay_of("dead.letter.ORDERS.other.all.~.17"), None);
        let at = Address { partition: Partition::All, key: None, sequence: 1 };
        assert_eq!(place().letter(at), "dead.letter.ORDERS.stock.all.~.1");
        assert_eq!(place().replay_durable(Partition::All), "ORDERS-stock");
    }

    #[test]
    fn every_key_is_one_token_of_its_own() {
        let (long, longer) = ("k".repeat(299), "k".repeat(300));
        let keys =
            [None, Some(""), Some("~"), Some("~~"), Some("*"), Some("a b"), Some(&long), Some(&longer)];
        let tokens: std::collections::BTreeSet<_> = keys.into_iter().map(key_token).collect();
        assert_eq!(tokens.len(), keys.len());
        for token in tokens {
            assert!(
                !token.is_empty() && token.len() < 120 && !token.contains(['.', '*', '>', ' ']),
                "{token}"
            );
        }
    }
}
