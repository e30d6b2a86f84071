//! From the tree of values to a checked [`Config`], noting every problem on the way.

use std::cell::RefCell;
use std::net::SocketAddr;

use figment::value::Value;

use super::layers::Layers;
use super::outbox::is_plain_name;
use super::problem::{ConfigError, Fault};
use super::reader::{Choice, Section};
use super::{
    Audit, Checkpoint, ClaimCheck, Cleanup, Config, DeadLetters, Http, Lease, Log, LogFormat, Outbox,
    Publish, PublishMode, Retry, Shutdown, Traces, nats, outbox, source,
};

impl Choice for PublishMode {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("fast", Self::Fast),
        ("pipelined", Self::Pipelined),
        ("durable", Self::Durable),
    ];
}

/// What becomes of a row that cannot be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PoisonAction {
    Halt,
    DeadLetter,
}

impl Choice for PoisonAction {
    const NAMES: &'static [(&'static str, Self)] = &[("halt", Self::Halt), ("dead_letter", Self::DeadLetter)];
}

impl Choice for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

pub(super) fn build(layers: &Layers) -> Result<Config, ConfigError> {
    let problems = RefCell::new(layers.problems.clone());
    let section = |name| Section::new(layers, &problems, name);
    let top = section("");
    top.refuse_unknown();

    let name = top.parsed("name", |text| parse_plain(text, "a name"));
    let source = source::read(&section("source"));
    let nats = nats::read(&section("nats"));
    let outboxes = read_outboxes(layers, &top);
    let cleanup = read_cleanup(&section("cleanup"));
    let audit = read_audit(&section("audit"));
    let publish = read_publish(&section("publish"));
    let dead_letters = read_dead_letters(&section("poison"), &outboxes);
    let claim_check = read_claim_check(&section("claim_check"), nats.jetstream_domain.as_deref());
    let checkpoint = read_checkpoint(&section("checkpoint"));
    let lease = Lease { ttl: section("lease").duration("ttl") };
    let retry = read_retry(&section("retry"));
    let http = Http { listen: section("http").parsed("listen", parse_listen).flatten() };
    let traces = read_traces(&section("traces"));
    let log = read_log(&section("log"));
    let shutdown = Shutdown { deadline: section("shutdown").duration("deadline") };

    match (name, source, problems.into_inner()) {
        (Some(name), Some(source), problems) if problems.is_empty() => Ok(Config {
            name,
            source,
            nats,
            outboxes,
            cleanup,
            audit,
            publish,
            dead_letters,
            claim_check,
            checkpoint,
            lease,
            retry,
            http,
            traces,
            log,
            shutdown,
        }),
        (_, _, problems) => Err(ConfigError::new(problems)),
    }
}

fn read_outboxes(layers: &Layers, top: &Section<'_>) -> Vec<Outbox> {
    const FORM: &str = "write [[outbox]] with table, stream and subject in the configuration file";
    let elements = match layers.tree().get("outbox") {
        Some(Value::Array(_, elements)) if !elements.is_empty() => elements.as_slice(),
        None | Some(Value::Array(..)) => {
            top.problem("outbox", Fault::new("there is no outbox table to read", FORM));
            return Vec::new();
        }
        Some(_) => {
            top.problem("outbox", Fault::new("is an array of sections, which only the file can hold", FORM));
            return Vec::new();
        }
    };
    let mut outboxes: Vec<Outbox> = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        let Value::Dict(_, values) = element else {
            top.problem("outbox", Fault::new("is an array of sections", FORM));
            continue;
        };
        let section = top.element("outbox", index, values);
        section.refuse_unknown();
        let Some(outbox) = outbox::read(&section) else { continue };
        for earlier in &outboxes {
            refuse_conflict(&section, earlier, &outbox);
        }
        outboxes.push(outbox);
    }
    outboxes
}

fn refuse_conflict(section: &Section<'_>, earlier: &Outbox, outbox: &Outbox) {
    if earlier.table == outbox.table {
        let cause = format!("{} is configured twice", outbox.table);
        section.problem("table", Fault::new(cause, "keep one of the two [[outbox]]"));
    }
    if earlier.stream != outbox.stream && earlier.subject.overlaps(&outbox.subject) {
        let cause = format!(
            "some of its subjects ({}) are also those of stream {} ({}), and a subject belongs to one stream only",
            outbox.subject.subject_filter(),
            earlier.stream,
            earlier.subject.subject_filter(),
        );
        section.problem("subject", Fault::new(cause, "begin the two subjects with different words"));
    }
}

fn read_cleanup(section: &Section<'_>) -> Cleanup {
    Cleanup {
        interval: section.duration("interval"),
        batch_rows: section.integer("batch_rows"),
        pause: section.duration("pause"),
    }
}

fn read_audit(section: &Section<'_>) -> Audit {
    Audit { interval: section.optional_duration("interval"), rows: section.integer("rows") }
}

fn read_publish(section: &Section<'_>) -> Publish {
    Publish {
        mode: section.choice("mode"),
        window: section.integer("window"),
        window_bytes_max: section.size("window_bytes_max"),
        message_id: section.flag("message_id"),
        ack_timeout: section.duration("ack_timeout"),
    }
}

fn read_dead_letters(section: &Section<'_>, outboxes: &[Outbox]) -> Option<DeadLetters> {
    let action: PoisonAction = section.choice("action");
    let stream = section.parsed("stream", |text| parse_plain(text, "a stream's name"));
    let subject = section.parsed("subject", parse_subject).unwrap_or_default();
    if action == PoisonAction::Halt {
        return None;
    }
    let Some(stream) = stream else {
        let remedy = "name a stream for dead letters; `outbox-bridge init` creates it";
        section.problem("stream", Fault::new("is required with poison.action = \"dead_letter\"", remedy));
        return None;
    };
    if outboxes.iter().any(|outbox| outbox.stream == stream) {
        let cause = format!("{stream} holds the events of an outbox");
        section.problem("stream", Fault::new(cause, "give dead letters a stream of their own"));
    }
    let conflict = |outbox: &&Outbox| {
        let filter = outbox.subject.subject_filter();
        let mut tokens = filter.split('.');
        subject.split('.').all(|token| tokens.next().is_some_and(|of| of == token || of == "*"))
    };
    if let Some(outbox) = outboxes.iter().find(conflict) {
        let cause = format!("subjects of dead letters could be those of stream {}", outbox.stream);
        section.problem("subject", Fault::new(cause, "begin it with another word"));
    }
    Some(DeadLetters { stream, subject })
}

fn read_claim_check(section: &Section<'_>, domain: Option<&str>) -> Option<ClaimCheck> {
    let bucket = section.parsed("bucket", |text| parse_plain(text, "a bucket's name"));
    let (threshold, interval) = (section.optional_size("threshold"), section.duration("interval"));
    if bucket.is_none() && threshold.is_some() {
        let remedy = "name the object store that larger payloads go to, or take this out";
        section.problem("threshold", Fault::new("means nothing without claim_check.bucket", remedy));
    }
    if bucket.is_some() && domain.is_some() {
        let remedy =
            "take one of the two out: an object store is reached within the server's own domain only";
        section.problem("bucket", Fault::new("cannot be used with nats.jetstream_domain", remedy));
    }
    Some(ClaimCheck { bucket: bucket?, threshold, interval })
}

fn parse_subject(text: &str) -> Result<String, Fault> {
    if text.split('.').all(is_plain_name) {
        return Ok(text.to_owned());
    }
    let remedy = "write words of letters, digits, - and _ with dots between, such as \"outbox.dead\"";
    Err(Fault::new(format!("{text:?} is no beginning of a subject"), remedy))
}

fn read_checkpoint(section: &Section<'_>) -> Checkpoint {
    Checkpoint {
        bucket: section.parsed("bucket", |text| parse_plain(text, "a bucket's name")).unwrap_or_default(),
        interval: section.duration("interval"),
        replicas: section.optional_integer("replicas"),
    }
}

fn read_retry(section: &Section<'_>) -> Retry {
    let retry = Retry { initial: section.duration("initial"), max: section.duration("max") };
    if retry.max < retry.initial {
        section.problem("max", Fault::new("is shorter than retry.initial", "make it at least as long"));
    }
    retry
}

fn read_log(section: &Section<'_>) -> Log {
    let level = section.parsed("level", |text| {
        let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
        parsed.map(|_| text.to_owned()).map_err(|error| {
            Fault::new(
                format!("{text:?} is not a filter ({error})"),
                "write error, warn, info, debug, trace, or directives such as \"outbox_bridge=debug,info\"",
            )
        })
    });
    Log { format: section.choice("format"), level: level.unwrap_or_default() }
}

fn read_traces(section: &Section<'_>) -> Option<Traces> {
    let endpoint = section.parsed("endpoint", |text| {
        let host = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match host.filter(|host| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])) {
            Some(host) => Ok(format!("http://{host}")),
            None => {
                let remedy = "write for instance \"http://127.0.0.1:4318\"; for TLS or credentials put a collector beside the bridge";
                Err(Fault::new("is no address of a collector", remedy))
            }
        }
    });
    let service = section.parsed("service", |text| Ok(text.to_owned())).unwrap_or_default();
    Some(Traces { endpoint: endpoint?, service })
}

fn parse_listen(text: &str) -> Result<Option<SocketAddr>, Fault> {
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Fault::new(
            format!("{text:?} is not an address with a port"),
            "write for instance \"127.0.0.1:9464\", \"0.0.0.0:9464\", or \"off\"",
        )
    })
}

fn parse_plain(text: &str, what: &str) -> Result<String, Fault> {
    if is_plain_name(text) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} is not {what}"), "use letters, digits, - and _"))
}
