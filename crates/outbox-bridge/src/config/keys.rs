//! Every key there is: the one table that the reader obeys and that documentation is made of.

use std::time::Duration;

use super::ByteSize;

/// What the names of overriding environment variables begin with. Both underscores matter: Kubernetes injects
/// `OUTBOX_BRIDGE_SERVICE_HOST` and the like for a service of that name.
pub const ENVIRONMENT_PREFIX: &str = "OUTBOX_BRIDGE__";

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The full name, dotted. Keys of an `[[outbox]]` begin with `outbox.`.
    pub name: &'static str,
    /// What its value is, with the limits.
    pub kind: Kind,
    /// Whether it must be set, and what holds if it is not.
    pub presence: Presence,
    /// What it means, in one sentence or two.
    pub meaning: &'static str,
}

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text.
    Text,
    /// One text or an array of them; in the environment, separated by commas.
    Texts,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An integer within these limits.
    Integer {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
    },
    /// A duration such as `"5s"` or `"250ms"` within these limits.
    Duration {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// A size such as `"8MiB"` within these limits.
    Size {
        /// The smallest.
        min: ByteSize,
        /// The largest.
        max: ByteSize,
    },
    /// The path of a file; relative to the configuration file's folder, or, in the environment, to the working folder.
    File,
    /// A secret: accepted from the environment only.
    Secret,
}

/// Whether a key must be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must.
    Required,
    /// It may be left out, and then does not apply.
    Optional,
    /// It may be left out, and then has this value.
    Default(&'static str),
}

const fn key(name: &'static str, kind: Kind, presence: Presence, meaning: &'static str) -> Key {
    Key { name, kind, presence, meaning }
}

const fn milliseconds(min: u64, max: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

use Kind::{Choice, File, Flag, Integer, Secret, Size, Text, Texts};
use Presence::{Default, Optional, Required};

/// Every key, by section.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("name", Text, Default("outbox-bridge"),
        "The bridge's identity, `[A-Za-z0-9_-]+`: its checkpoint is kept under it. Bridges of different sources need different names."),

    key("source.url", Text, Required,
        "The MySQL or MariaDB server, `mysql://USER@HOST:PORT`; special characters in the user name are percent-encoded. Not beside `source.urls`."),
    key("source.urls", Texts, Optional,
        "In place of `source.url`: several servers of one topology, of which one is read; the others take its place when it is lost. Each needs GTIDs."),
    key("source.behind", Choice(&["wait", "refuse"]), Default("wait"),
        "What to do when the server to be read is a replica that does not have all that is published yet: wait for it, or stop."),
    key("source.password", Secret, Optional, "The user's password."),
    key("source.password_file", File, Optional, "The file that holds the user's password; one line end behind it is dropped."),
    key("source.start", Text, Default("now"),
        "Where the first start begins: `now`, `earliest`, or after a GTID set. Later starts go on where the stream ends."),
    key("source.server_id", Integer { min: 1, max: 0xFFFF_FFFF }, Optional,
        "The id to register with, unlike that of every server and replica of the topology; by default a random high one for each process."),
    key("source.heartbeat", milliseconds(100, HOUR), Default("5s"),
        "How often an idle server shows that it is alive; silence for a few of these is a lost connection."),
    key("source.connect_timeout", milliseconds(100, HOUR), Default("10s"), "How long connecting and logging in may take."),
    key("source.transaction_buffer_bytes_max", Size { min: ByteSize::kib(64), max: ByteSize::mib(4096) }, Default("8MiB"),
        "A transaction with more outbox bytes than this is read twice instead of being held in memory."),
    key("source.event_bytes_max", Size { min: ByteSize::mib(1), max: ByteSize::mib(4095) }, Default("1025MiB"),
        "The largest event that is accepted; the default is the most that a server writes."),
    key("source.foreign_statements", Choice(&["refuse", "ignore"]), Default("refuse"),
        "What to do when another table is written to in statement format: a trigger may have inserted outbox rows that the log does not show. `refuse` stops the bridge; `ignore` says that no such trigger exists."),
    key("source.tls.mode", Choice(&["disabled", "preferred", "required", "verify-ca", "verify-identity"]), Default("preferred"),
        "What TLS is asked for and verified, as in MySQL's own clients."),
    key("source.tls.ca_file", File, Optional, "PEM certificates of the authorities to trust, for the verifying modes."),
    key("source.tls.cert_file", File, Optional, "The client's certificate chain, PEM."),
    key("source.tls.key_file", File, Optional, "The client's private key, PEM."),

    key("nats.url", Texts, Required, "One or more servers of one cluster: `nats://`, `tls://`, `ws://` or `wss://`, without credentials."),
    key("nats.credentials", Secret, Optional, "The text of a credentials file (JWT and seed)."),
    key("nats.credentials_file", File, Optional, "The credentials file (JWT and seed)."),
    key("nats.nkey", Secret, Optional, "An nkey seed."),
    key("nats.nkey_file", File, Optional, "The file that holds an nkey seed."),
    key("nats.token", Secret, Optional, "A token."),
    key("nats.token_file", File, Optional, "The file that holds a token."),
    key("nats.user", Text, Optional, "The user name, together with a password."),
    key("nats.password", Secret, Optional, "The user's password."),
    key("nats.password_file", File, Optional, "The file that holds the user's password."),
    key("nats.ping_interval", milliseconds(100, HOUR), Default("5s"), "How often the connection is tried; two pings unanswered are a lost connection."),
    key("nats.connect_timeout", milliseconds(100, HOUR), Default("5s"), "How long connecting may take."),
    key("nats.jetstream_domain", Text, Optional, "The JetStream domain, for streams behind a leaf node."),
    key("nats.inbox_prefix", Text, Default("_INBOX"), "What reply subjects begin with; the user needs permission to subscribe below it."),
    key("nats.tls.required", Flag, Default("false"), "Whether to insist on TLS; `tls://` and `wss://` always do."),
    key("nats.tls.ca_file", File, Optional, "PEM certificates of the authorities to trust, in place of the system's."),
    key("nats.tls.cert_file", File, Optional, "The client's certificate chain, PEM."),
    key("nats.tls.key_file", File, Optional, "The client's private key, PEM."),

    key("outbox.table", Text, Required, "The table, `schema.table`; names with special characters in backticks."),
    key("outbox.stream", Text, Required, "The JetStream stream to write to. It belongs to this bridge; several tables may share it."),
    key("outbox.subject", Text, Required,
        "The subject of each message: literals and `{aggregate_type}`, `{aggregate_id}`, `{type}`, `{partition_key}`, `{partition:16}` (the key's partition among so many), `{id}`, `{schema}`, `{table}`."),
    key("outbox.source", Text, Optional, "What stands in `ce-source`; by default `//<server>/<schema>.<table>`, with `source.urls` `//<name>/<schema>.<table>`."),
    key("outbox.columns.id", Text, Default("id"), "The column with the event id."),
    key("outbox.columns.aggregate_type", Text, Default("aggregate_type"), "The column with the aggregate's type."),
    key("outbox.columns.aggregate_id", Text, Default("aggregate_id"), "The column with the aggregate's id."),
    key("outbox.columns.type", Text, Default("type"), "The column with the event type."),
    key("outbox.columns.payload", Text, Default("payload"), "The column with the body."),
    key("outbox.columns.headers", Text, Optional,
        "The column with a JSON object of further headers; by default `headers` if the table has it. Empty: none."),
    key("outbox.columns.content_type", Text, Optional, "The column with the body's media type; by default all bodies are `application/json`."),
    key("outbox.columns.partition_key", Text, Optional, "The column with the ordering key; by default it is the aggregate's id."),

    key("outbox.columns.created_at", Text, Default("created_at"),
        "The column with the time of the insert, a `TIMESTAMP` that the server fills; only clean-up and audit read it."),
    key("outbox.retention", milliseconds(0, 3_650 * DAY), Optional,
        "How long published rows stay in the table, for instance `7d`; after that the bridge deletes them. By default it never does."),

    key("cleanup.interval", milliseconds(100, DAY), Default("1m"), "How long clean-up rests when it has found nothing more to delete."),
    key("cleanup.batch_rows", Integer { min: 1, max: 4_000 }, Default("500"), "Rows that clean-up deletes in one transaction."),
    key("cleanup.pause", milliseconds(0, HOUR), Default("100ms"), "How long clean-up rests after each transaction."),

    key("audit.interval", milliseconds(100, DAY), Optional,
        "How often the newest rows of each outbox table are compared with what its stream holds, for instance `1m`. By default they are not."),
    key("audit.rows", Integer { min: 1, max: 10_000 }, Default("1000"), "How many of the newest rows the audit compares."),

    key("publish.mode", Choice(&["auto", "fast", "pipelined", "durable"]), Default("auto"),
        "How to publish: `fast` needs nats-server 2.14 and `allow_batched` on the stream, and `auto` takes it where it is to be had; `durable` (2.12.1, `allow_atomic`) stores whole transactions at once, which suits servers with `sync_interval: always`."),
    key("publish.window", Integer { min: 1, max: 16_384 }, Default("4096"), "Messages in flight, a stream."),
    key("publish.window_bytes_max", Size { min: ByteSize::kib(64), max: ByteSize::mib(1024) }, Default("8MiB"), "Bytes in flight, a stream; one message may exceed it."),
    key("publish.message_id", Flag, Default("true"),
        "Whether the event id is the message's `Nats-Msg-Id`, so that the server drops an id that comes twice. Without it rows are stored whatever their id, and batches go without any id, which is about a quarter faster; single messages have their position instead."),
    key("publish.ack_timeout", milliseconds(100, HOUR), Default("5s"), "How long an acknowledgement may take before the writer resumes from the stream's tail."),

    key("poison.action", Choice(&["halt", "dead_letter"]), Default("halt"),
        "What becomes of a row that cannot be published: `halt` stops the bridge there; `dead_letter` stores it in `poison.stream`, counts it, and goes on."),
    key("poison.stream", Text, Optional, "The stream of dead letters, for all outboxes of this bridge; needed for `dead_letter`. `init` creates it."),
    key("poison.subject", Text, Default("outbox.dead"), "What the subjects of dead letters begin with: `<this>.<stream>.<gtid>.<row>`."),

    key("claim_check.bucket", Text, Optional,
        "The JetStream object store for payloads that are too large for a message, `[A-Za-z0-9_-]+`; created if it does not exist. The message refers to the object by `ce-dataref`. By default there is none, and such a row cannot be published."),
    key("claim_check.threshold", Size { min: ByteSize::kib(1), max: ByteSize::mib(64) }, Optional,
        "Payloads of larger messages go to the object store; by default only those of messages that server or stream do not take."),
    key("claim_check.interval", milliseconds(1_000, DAY), Default("1m"), "How often payloads are looked for whose messages are gone, to remove them."),

    key("checkpoint.bucket", Text, Default("OUTBOX_BRIDGE"), "The key-value bucket, `[A-Za-z0-9_-]+`; created if it does not exist."),
    key("checkpoint.interval", milliseconds(10, HOUR), Default("1s"), "How often progress is recorded."),
    key("checkpoint.replicas", Integer { min: 1, max: 5 }, Optional, "Replicas of a bucket that has to be created; by default as many as the first outbox's stream has."),

    key("lease.ttl", milliseconds(2_000, HOUR), Default("10s"), "How long the lease of a bridge that died is waited for, until another of the same `name` takes over."),

    key("retry.initial", milliseconds(1, HOUR), Default("100ms"), "The wait after a first failure; it doubles with each further one, with jitter."),
    key("retry.max", milliseconds(1, HOUR), Default("10s"), "The longest wait."),

    key("http.listen", Text, Default("127.0.0.1:9464"), "Where the status page (`/`, `/status.json`), `/livez`, `/readyz` and `/metrics` are served, `ADDRESS:PORT`; `off`: nowhere."),

    key("traces.endpoint", Text, Optional,
        "An OpenTelemetry collector's endpoint for OTLP over HTTP, `http://HOST:PORT`; spans go to `/v1/traces` there. By default none are made."),
    key("traces.service", Text, Default("outbox-bridge"), "The spans' `service.name`."),

    key("log.format", Choice(&["text", "json"]), Default("text"), "Lines for people or JSON for machines, on standard error."),
    key("log.level", Text, Default("info"), "`error`, `warn`, `info`, `debug`, `trace`, or directives such as `outbox_bridge=debug,info`."),

    key("shutdown.deadline", milliseconds(0, HOUR), Default("10s"), "How long draining and the last checkpoint may take after a signal."),
];

/// The entry of `name`.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The environment variable that overrides `name`.
pub(super) fn environment_variable(name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", name.replace('.', "__").to_uppercase())
}
