//! `init --apply`: creates what does not exist, and compares what does. Running it again changes nothing.

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config as StreamConfig;
use serde_json::{Value, json};

use super::{Options, sql, stream};
use crate::cli::check::source::{self, broken, probe_table};
use crate::cli::check::stream::{Server, assess, is_covered};
use crate::cli::check::{Finding, Severity, nats as probes, permissions};
use crate::config::{Config, Outbox, PublishMode, quote_identifier};
use crate::exit::report;
use crate::nats;
use crate::publish::covers;
use crate::run::connect_options;
use crate::source::connection::{Connection, ConnectionError, ConnectionErrorKind};

/// Creates the tables, then the streams; a side that cannot be reached does not keep the other from being done.
pub(super) async fn apply(config: &Config, options: Options) -> Vec<Finding> {
    let mut findings = tables(config).await;
    findings.extend(streams(config, options).await);
    findings
}

async fn tables(config: &Config) -> Vec<Finding> {
    let mut connection = match Connection::connect(&connect_options(&config.source)).await {
        Ok(connection) => connection,
        Err(error) => return vec![source::unreachable(&error)],
    };
    let mut findings = Vec::new();
    for outbox in &config.outboxes {
        match table(&mut connection, outbox).await {
            Ok(found) => findings.extend(found),
            Err(error) => {
                findings.push(broken(&error));
                break;
            }
        }
    }
    findings
}

async fn table(connection: &mut Connection, outbox: &Outbox) -> Result<Vec<Finding>, ConnectionError> {
    let found = probe_table(connection, outbox).await?;
    if !found.missing {
        return Ok(found.findings);
    }
    let subject = format!("table {}", outbox.table);
    match create_table(connection, outbox).await {
        Ok(()) => {
            let mut findings = vec![Finding::note(subject, "created")];
            findings.extend(
                probe_table(connection, outbox)
                    .await?
                    .findings
                    .into_iter()
                    .filter(|finding| finding.severity > Severity::Note),
            );
            Ok(findings)
        }
        Err(error) => {
            let remedy = match error.kind() {
                ConnectionErrorKind::AccessDenied => {
                    "let somebody who may create it run this, or give --apply such a user (see --help):\n"
                }
                ConnectionErrorKind::Server { .. } => {
                    "mend what the server complains of; the statement was:\n"
                }
                _ => return Err(error),
            };
            let problem = format!("cannot be created ({})", report(&error));
            Ok(vec![Finding::new(
                Severity::Error,
                subject,
                problem,
                format!("{remedy}{}", sql::table(outbox)),
            )])
        }
    }
}

const UNKNOWN_DATABASE: u16 = 1049;

/// Creates the table, and its schema if that is missing too.
async fn create_table(connection: &mut Connection, outbox: &Outbox) -> Result<(), ConnectionError> {
    let statement = sql::table(outbox);
    match connection.execute(&statement).await {
        Err(error) if error.kind() == (ConnectionErrorKind::Server { code: UNKNOWN_DATABASE }) => {
            let schema = quote_identifier(&outbox.table.schema);
            connection.execute(&format!("CREATE DATABASE IF NOT EXISTS {schema}")).await?;
            connection.execute(&statement).await
        }
        created => created,
    }
}

async fn streams(config: &Config, options: Options) -> Vec<Finding> {
    let (client, _complaints) =
        match permissions::connect(&config.nats, &format!("{}-init", config.name)).await {
            Ok(connected) => connected,
            Err(error) => return vec![probes::unreachable(&error)],
        };
    let server = probes::server(&client);
    let jetstream = nats::jetstream(&config.nats, client);
    let mut findings = Vec::new();
    for mut wanted in stream::configurations(config, options.replicas) {
        // Servers from 2.12 on refuse settings that they do not know.
        wanted.allow_batch_publish &= server.fast;
        findings.extend(stream(&jetstream, config, wanted, server, options.update_stream).await);
    }
    findings
}

async fn stream(
    jetstream: &Context,
    config: &Config,
    wanted: StreamConfig,
    server: Server,
    update: bool,
) -> Vec<Finding> {
    let subject = format!("stream {}", wanted.name);
    let existing = match jetstream.get_stream(&wanted.name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if probes::is_missing(&error) => {
            return vec![match jetstream.create_stream(wanted).await {
                Ok(_) => Finding::note(subject, "created"),
                Err(error) => refused(subject, "created", &report(&error)),
            }];
        }
        Err(error) => return vec![refused(subject, "asked about", &report(&error))],
    };
    let outboxes: Vec<&Outbox> =
        config.outboxes.iter().filter(|outbox| outbox.stream == existing.name).collect();
    let mut needed = wanted;
    needed.allow_batch_publish &= matches!(config.publish.mode, PublishMode::Auto | PublishMode::Fast);
    let changes = Changes::between(&existing, &needed);
    let mut findings = Vec::new();
    let mut current = existing;
    if !changes.is_empty() {
        if update {
            match changes.make(jetstream, &current.name).await {
                Ok(changed) => {
                    findings.push(Finding::note(&subject, format!("updated: {}", changes.text())));
                    current = changed;
                }
                Err(reason) => findings.push(refused(subject.clone(), "updated", &reason)),
            }
        } else {
            let problem = format!("exists and is left as it is, but lacks: {}", changes.text());
            let remedy = "change it yourself, or let --apply --update-stream do so";
            findings.push(Finding::new(Severity::Warning, &subject, problem, remedy));
        }
    }
    if outboxes.is_empty() {
        // That of the dead letters.
        findings.push(Finding::note(&subject, "takes dead letters"));
        return findings;
    }
    findings.extend(assess(&current, &outboxes, &config.publish, server));
    findings
}

fn refused(subject: String, done: &str, reason: &str) -> Finding {
    let remedy = "use a user that may manage streams, and see that JetStream is enabled, has that many servers, and has no other \
                  stream with these subjects; `init --print stream` shows what to create by hand";
    Finding::new(Severity::Error, subject, format!("cannot be {done} ({reason})"), remedy)
}

/// What a stream that exists lacks. Nothing is ever taken away from it.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    subjects: Vec<String>,
    /// Settings to be switched on, by their names in JSON, each with what needs it.
    settings: Vec<(&'static str, &'static str)>,
}

impl Changes {
    fn between(existing: &StreamConfig, wanted: &StreamConfig) -> Self {
        let missing = wanted.subjects.iter().filter(|filter| !is_covered(existing, filter));
        let settings = [
            (wanted.allow_batch_publish && !existing.allow_batch_publish, "allow_batched", "the fast mode"),
            (
                wanted.allow_atomic_publish && !existing.allow_atomic_publish,
                "allow_atomic",
                "the durable mode",
            ),
        ];
        let settings = settings.into_iter().filter(|(lacks, ..)| *lacks);
        Self {
            subjects: missing.cloned().collect(),
            settings: settings.map(|(_, setting, what)| (setting, what)).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.subjects.is_empty() && self.settings.is_empty()
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        if !self.subjects.is_empty() {
            parts.push(format!("subjects {}", self.subjects.join(", ")));
        }
        parts.extend(self.settings.iter().map(|(setting, what)| format!("{setting}, for {what}")));
        parts.join("; ")
    }

    /// Makes them, in the server's own JSON, so that settings which this program does not know stay.
    async fn make(&self, jetstream: &Context, name: &str) -> Result<StreamConfig, String> {
        let info = ask(jetstream, format!("STREAM.INFO.{name}"), &json!({})).await?;
        let mut config = info.get("config").cloned().ok_or("the server's answer has no configuration")?;
        self.add_to(&mut config);
        let updated = ask(jetstream, format!("STREAM.UPDATE.{name}"), &config).await?;
        let config = updated.get("config").cloned().ok_or("the server's answer has no configuration")?;
        serde_json::from_value(config).map_err(|error| report(&error))
    }

    fn add_to(&self, config: &mut Value) {
        let Some(config) = config.as_object_mut() else { return };
        for (setting, _) in &self.settings {
            config.insert((*setting).to_owned(), true.into());
        }
        let known = config.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
        // Subjects of one stream may not overlap.
        let within = |subject: &str| {
            !subject.ends_with('>') && self.subjects.iter().any(|added| covers(added, subject))
        };
        let kept = known.into_iter().filter(|subject| !subject.as_str().is_some_and(within));
        let subjects = kept.chain(self.subjects.iter().cloned().map(Value::from)).collect();
        config.insert("subjects".to_owned(), Value::Array(subjects));
    }
}

async fn ask(jetstream: &Context, subject: String, request: &Value) -> Result<Value, String> {
    let answer: Value = jetstream.request(subject, request).await.map_err(|error| report(&error))?;
    match answer.pointer("/error/description").and_then(Value::as_str) {
        Some(refusal) => Err(refusal.to_owned()),
        None => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(subjects: &[&str], batches: bool) -> StreamConfig {
        let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        StreamConfig { subjects, allow_batch_publish: batches, ..StreamConfig::default() }
    }

    #[test]
    fn what_a_stream_lacks() {
        let wanted = stream(&["orders.*.*", "bills"], true);
        let unbatched = StreamConfig { allow_batch_publish: false, ..wanted.clone() };
        let atomic = StreamConfig { allow_atomic_publish: true, ..unbatched.clone() };
        for (existing, wanted, text) in [
            (stream(&["orders.*.*", "bills"], true), &wanted, ""),
            (stream(&["orders.>", "bills"], false), &unbatched, ""),
            (stream(&["orders.>", "bills"], false), &wanted, "allow_batched, for the fast mode"),
            (stream(&["orders.>", "bills"], true), &atomic, "allow_atomic, for the durable mode"),
            (stream(&["orders.*.a"], true), &wanted, "subjects orders.*.*, bills"),
        ] {
            let changes = Changes::between(&existing, wanted);
            assert_eq!(changes.text(), text);
            assert_eq!(changes.is_empty(), text.is_empty());
        }
    }

    #[test]
    fn changes_keep_everything_else() {
        let changes =
            Changes { subjects: vec!["orders.*.*".to_owned()], settings: vec![("allow_batched", "x")] };
        let mut config =
            json!({ "name": "S", "subjects": ["orders.*.a", "more.>"], "from_the_future": { "x": 1 } });
        changes.add_to(&mut config);
        let expected = json!({
            "name": "S", "subjects": ["more.>", "orders.*.*"], "from_the_future": { "x": 1 }, "allow_batched": true
        });
        assert_eq!(config, expected);
    }
}
