//! The durable consumer on the server: created if there is none, compared if there is one, never silently changed.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, Consumer, DeliverPolicy, PullConsumer, ReplayPolicy, pull},
    context::ConsumerInfoErrorKind,
    stream::{ConsumerCreateStrictErrorKind, Stream},
};

use crate::error::{ConsumerError, ConsumerErrorKind};

/// Where a new durable consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartAt {
    /// At the first message that the stream has.
    #[default]
    Earliest,
    /// At the first message that is stored after the durable consumer was created.
    New,
    /// At a sequence of the stream.
    Sequence(u64),
}

/// What the durable consumer has to be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) filter_subjects: Vec<String>,
    pub(crate) start: StartAt,
    pub(crate) ack_wait: Duration,
    pub(crate) max_ack_pending: usize,
}

impl Wanted {
    fn config(&self) -> pull::Config {
        pull::Config {
            durable_name: Some(self.name.clone()),
            description: Some("Outbox Bridge consumer".to_owned()),
            deliver_policy: match self.start {
                StartAt::Earliest => DeliverPolicy::All,
                StartAt::New => DeliverPolicy::New,
                StartAt::Sequence(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            },
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            // The consumer counts attempts itself: a delivery need not be one.
            max_deliver: -1,
            max_ack_pending: i64::try_from(self.max_ack_pending).unwrap_or(i64::MAX),
            filter_subjects: self.filter_subjects.clone(),
            replay_policy: ReplayPolicy::Instant,
            ..pull::Config::default()
        }
    }
}

/// Finds the durable consumer and compares it with what is wanted, or creates it.
pub(crate) async fn ensure(stream: &Stream, wanted: &Wanted) -> Result<PullConsumer, ConsumerError> {
    let config = wanted.config();
    let name = &wanted.name;
    let failed = |error: async_nats::Error| {
        let message = format!("the durable consumer {name} cannot be looked up or created");
        ConsumerError::because(ConsumerErrorKind::Nats, message, error)
    };
    // Two rounds: another instance may create it between our look and our try.
    for _ in 0..2 {
        match stream.consumer_info(name).await {
            Ok(info) => {
                let differences = differences(&config, &info.config);
                if !differences.is_empty() {
                    let message = format!(
                        "the durable consumer {name} of the stream {} is there, but differs: {}. Change the \
                         settings, or change it with `nats consumer edit` or delete it (which forgets what it has \
                         acknowledged)",
                        info.stream_name,
                        differences.join("; ")
                    );
                    return Err(ConsumerError::new(ConsumerErrorKind::Durable, message));
                }
                let consumer: Result<Consumer<pull::Config>, _> = stream.get_consumer(name).await;
                return consumer.map_err(failed);
            }
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => {}
            Err(error) => return Err(failed(error.into())),
        }
        match stream.create_consumer_strict(config.clone()).await {
            Ok(consumer) => return Ok(consumer),
            Err(error) if matches!(error.kind(), ConsumerCreateStrictErrorKind::AlreadyExists) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    Err(ConsumerError::new(
        ConsumerErrorKind::Durable,
        format!("the durable consumer {name} is created and deleted by somebody else"),
    ))
}

/// What differs, setting by setting, in words.
fn differences(wanted: &pull::Config, found: &async_nats::jetstream::consumer::Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |name: &str, wanted: String, found: String| {
        if wanted != found {
            differences.push(format!("{name} is {found}, the settings say {wanted}"));
        }
    };
    if found.deliver_subject.is_some() {
        compare("the kind", "pull".to_owned(), "push".to_owned());
    }
    compare("deliver_policy", format!("{:?}", wanted.deliver_policy), format!("{:?}", found.deliver_policy));
    compare("ack_policy", format!("{:?}", wanted.ack_policy), format!("{:?}", found.ack_policy));
    compare("ack_wait", format!("{:?}", wanted.ack_wait), format!("{:?}", found.ack_wait));
    // A server says "unlimited" as -1, and so did older ones as 0.
    compare(
        "max_deliver",
        "-1".to_owned(),
        if found.max_deliver > 0 { found.max_deliver } else { -1 }.to_string(),
    );
    compare("max_ack_pending", wanted.max_ack_pending.to_string(), found.max_ack_pending.to_string());
    compare("replay_policy", format!("{:?}", wanted.replay_policy), format!("{:?}", found.replay_policy));
    compare("headers_only", "false".to_owned(), found.headers_only.to_string());
    compare("backoff", "[]".to_owned(), format!("{:?}", found.backoff));
    let mut found_subjects = found.filter_subjects.clone();
    if !found.filter_subject.is_empty() {
        found_subjects.push(found.filter_subject.clone());
    }
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort();
        format!("{subjects:?}")
    };
    compare("filter_subjects", sorted(&wanted.filter_subjects), sorted(&found_subjects));
    differences
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::consumer::{Config, IntoConsumerConfig};

    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            name: "stock".to_owned(),
            filter_subjects: vec!["orders.a".to_owned(), "orders.b".to_owned()],
            start: StartAt::Earliest,
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 1000,
        }
    }

    #[test]
    fn the_same_does_not_differ() {
        let mut found: Config = wanted().config().into_consumer_config();
        found.filter_subjects.reverse();
        assert_eq!(differences(&wanted().config(), &found), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let mut found: Config = wanted().config().into_consumer_config();
        found.ack_wait = Duration::from_secs(5);
        found.max_deliver = 3;
        found.filter_subjects.clear();
        found.filter_subject = "orders.>".to_owned();
        let text = differences(&wanted().config(), &found).join("\n");
        for name in
            ["ack_wait is 5s, the settings say 30s", "max_deliver is 3", "filter_subjects is [\"orders.>\"]"]
        {
            assert!(text.contains(name), "{text}");
        }
    }
}
