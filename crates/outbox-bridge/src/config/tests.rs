//! What the configuration accepts, what it refuses, and that it never shows a secret.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = r#"
[source]
url = "mysql://bridge@127.0.0.1"

[nats]
url = "nats://127.0.0.1:4222"

[[outbox]]
table = "shop.outbox"
stream = "ORDERS"
subject = "orders.{aggregate_type}.{type}"
"#;

const NO_VARIABLES: [(&str, &str); 0] = [];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn load(&self, text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load_with(&self.write("bridge.toml", text), variables.iter().copied())
    }
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Folder::new().load(text, variables)
}

/// `MINIMAL` with `lines` put in front of the `[source]` section's end.
fn with_source(lines: &str) -> String {
    MINIMAL.replace("[nats]", &format!("{lines}\n[nats]"))
}

#[test]
fn the_smallest_file_gives_production_defaults() {
    let config = load(MINIMAL, &[]).expect("a configuration");
    assert_eq!(config.name, "outbox-bridge");
    assert_eq!((config.source.host.as_str(), config.source.port), ("127.0.0.1", 3306));
    assert_eq!(config.source.start, StartPosition::Now);
    assert_eq!(config.source.tls.mode, TlsMode::Preferred);
    assert_eq!(config.source.heartbeat, Duration::from_secs(5));
    assert_eq!(config.source.transaction_buffer_bytes_max, ByteSize::mib(8));
    assert!(config.source.event_bytes_max > ByteSize::mib(1024));
    assert!(config.source.password.is_none());
    assert_eq!(config.nats.urls, ["nats://127.0.0.1:4222"]);
    assert_eq!(config.nats.auth, NatsAuth::None);
    assert_eq!(config.nats.inbox_prefix, "_INBOX");
    assert!(!config.nats.tls.required);
    let [outbox] = config.outboxes.as_slice() else { panic!("one outbox") };
    assert_eq!(outbox.table.to_string(), "shop.outbox");
    assert_eq!(outbox.columns.headers, HeadersColumn::IfPresent("headers".to_owned()));
    assert_eq!(outbox.columns.event_type, "type");
    assert_eq!(config.publish.mode, PublishMode::Auto);
    assert_eq!((config.publish.window, config.publish.message_id), (4096, true));
    assert_eq!(config.checkpoint.bucket, "OUTBOX_BRIDGE");
    assert_eq!(config.checkpoint.replicas, None);
    assert_eq!(
        (config.retry.initial, config.retry.max),
        (Duration::from_millis(100), Duration::from_secs(10))
    );
    assert_eq!(config.http.listen, Some("127.0.0.1:9464".parse().expect("an address")));
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Text, "info"));
    assert_eq!(config.shutdown.deadline, Duration::from_secs(10));
}

#[test]
fn the_environment_wins_over_the_file() {
    let variables = [
        ("OUTBOX_BRIDGE__NAME", "shop"),
        ("OUTBOX_BRIDGE__SOURCE__URL", "mysql://other@db:3307"),
        ("OUTBOX_BRIDGE__SOURCE__TLS__MODE", "required"),
        ("OUTBOX_BRIDGE__SOURCE__PASSWORD", "12345"),
        ("OUTBOX_BRIDGE__SOURCE__SERVER_ID", "77"),
        ("OUTBOX_BRIDGE__NATS__URL", "nats://a:1, tls://b:2"),
        ("OUTBOX_BRIDGE__PUBLISH__MESSAGE_ID", "false"),
        ("OUTBOX_BRIDGE__PUBLISH__WINDOW", "16"),
        ("OUTBOX_BRIDGE__PUBLISH__WINDOW_BYTES_MAX", "1MiB"),
        ("OUTBOX_BRIDGE__HTTP__LISTEN", "off"),
        ("OUTBOX_BRIDGE_SERVICE_HOST", "10.0.0.1"),
        ("OUTBOX_BRIDGE_PORT", "tcp://10.0.0.1:80"),
    ];
    let config = load(MINIMAL, &variables).expect("a configuration");
    assert_eq!(config.name, "shop");
    assert_eq!((config.source.user.as_str(), config.source.port), ("other", 3307));
    assert_eq!(config.source.tls.mode, TlsMode::Required);
    assert_eq!(config.source.password, Some(Secret::new("12345")));
    assert_eq!(config.source.server_id, 77);
    assert_eq!(config.nats.urls, ["nats://a:1", "tls://b:2"]);
    assert!(config.nats.tls.required);
    assert!(!config.publish.message_id);
    assert_eq!((config.publish.window, config.publish.window_bytes_max), (16, ByteSize::mib(1)));
    assert_eq!(config.http.listen, None);
}

#[test]
fn a_table_laid_out_for_debezium_needs_only_column_names() {
    let text = format!(
        "{MINIMAL}[outbox.columns]\naggregate_type = \"aggregatetype\"\naggregate_id = \"aggregateid\"\nheaders = \"\"\n"
    );
    let config = load(&text, &[]).expect("a configuration");
    let columns = &config.outboxes[0].columns;
    assert_eq!(
        (columns.aggregate_type.as_str(), columns.aggregate_id.as_str()),
        ("aggregatetype", "aggregateid")
    );
    assert_eq!((columns.id.as_str(), columns.payload.as_str()), ("id", "payload"));
    assert_eq!(columns.headers, HeadersColumn::None);
}

#[test]
fn secrets_come_from_files_beside_the_configuration() {
    let folder = Folder::new();
    folder.write("mysql", "hunter2\n");
    folder.write("token", "s3cr3t");
    let text =
        with_source("password_file = \"mysql\"").replace("[[outbox]]", "token_file = \"token\"\n[[outbox]]");
    let config = folder.load(&text, &[]).expect("a configuration");
    assert_eq!(config.source.password, Some(Secret::new("hunter2")));
    assert_eq!(config.nats.auth, NatsAuth::Token(Secret::new("s3cr3t")));
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("s3cr3t"));
}

/// Replaces `from` in `MINIMAL` by `to`; the only problem is one with `key`, and its text holds all of `words`.
fn refused(from: &str, to: &str, key: &str, words: &[&str]) {
    assert!(MINIMAL.contains(from), "{from}");
    let error = load(&MINIMAL.replacen(from, to, 1), &[]).expect_err(to);
    let [problem] = error.problems() else { panic!("{to}: {error}") };
    assert_eq!(problem.key, key, "{to}: {problem}");
    assert!(!problem.remedy.is_empty(), "{to}");
    for word in words {
        assert!(error.to_string().contains(word), "{to}: {error} lacks {word}");
    }
}

#[test]
fn one_mistake_is_one_problem() {
    let source = |line: &'static str, key: &str, words: &[&str]| {
        refused("[nats]", &format!("{line}\n[nats]"), key, words);
    };
    let end = |text: &'static str, key: &str, words: &[&str]| {
        refused("type}\"\n", &format!("type}}\"\n{text}\n"), key, words);
    };
    source("pasword_file = \"x\"", "source.pasword_file", &["no such key", "source.password_file"]);
    source("ca_file = \"x\"", "source.ca_file", &["source.tls.ca_file"]);
    source("heartbeat = 5", "source.heartbeat", &["a duration", "\"5s\""]);
    source("heartbeat = \"5\"", "source.heartbeat", &["not a duration"]);
    source("heartbeat = \"1ms\"", "source.heartbeat", &["100ms"]);
    source("server_id = 0", "source.server_id", &["from 1 to 4294967295"]);
    source("server_id = 4294967296", "source.server_id", &["from 1 to 4294967295"]);
    source("start = \"yesterday\"", "source.start", &["GTID", "earliest"]);
    source("event_bytes_max = \"8GiB\"", "source.event_bytes_max", &["4095MiB"]);
    source("transaction_buffer_bytes_max = -1", "source.transaction_buffer_bytes_max", &["64KiB"]);
    source("[source.tls]\nmode = \"on\"", "source.tls.mode", &["verify-identity"]);
    source("[source.tls]\ncert_file = \"bridge.toml\"", "source.tls.cert_file", &["source.tls.key_file"]);
    source("[source.tls]\nca_file = \"bridge.toml\"", "source.tls.ca_file", &["verify-ca"]);
    source("password_file = \"no-such-file\"", "source.password_file", &["cannot be read"]);
    source("password_file = \"\"", "source.password_file", &["empty"]);
    source("tls = true", "source.tls", &["section"]);
    refused("mysql://bridge@127.0.0.1", "mysql://127.0.0.1", "source.url", &["user"]);
    refused("url = \"mysql://bridge@127.0.0.1\"", "", "source.url", &["required", "mysql://USER@HOST"]);
    refused("[source]\nurl = \"mysql://bridge@127.0.0.1\"", "", "source.url", &["required"]);
    refused("\"nats://127.0.0.1:4222\"", "[]", "nats.url", &["empty"]);
    refused("\"nats://127.0.0.1:4222\"", "[\"nats://a\", 5]", "nats.url", &["number"]);
    refused("nats://127.0.0.1:4222", "http://127.0.0.1", "nats.url", &["wss"]);
    refused("shop.outbox", "outbox", "outbox[0].table", &["schema"]);
    refused("ORDERS", "ORDERS.EU", "outbox[0].stream", &["dot"]);
    refused("orders.{", "orders.>.{", "outbox[0].subject", &["column 8", "wildcards"]);
    refused("{type}", "{kind}", "outbox[0].subject", &["{kind}", "{partition_key}"]);
    refused("subject = \"orders.{aggregate_type}.{type}\"", "", "outbox[0].subject", &["required"]);
    end("source = \"a\\nb\"", "outbox[0].source", &["URI"]);
    end("[outbox.columns]\nkey = \"k\"", "outbox[0].columns.key", &["no such key"]);
    end("[outbox.columns]\nid = \"\"", "outbox[0].columns.id", &["empty"]);
    end("[publish]\nmode = \"fsat\"", "publish.mode", &["\"fsat\"", "\"fast\""]);
    end("[publish]\nwindow = 0", "publish.window", &["16384"]);
    end("[publish]\nmessage_id = \"no\"", "publish.message_id", &["true or false"]);
    let letters = "[poison]\naction = \"dead_letter\"\n";
    refused("type}\"\n", &format!("type}}\"\n{letters}"), "poison.stream", &["required", "init"]);
    let same = format!("type}}\"\n{letters}stream = \"ORDERS\"\n");
    refused("type}\"\n", &same, "poison.stream", &["ORDERS", "their own"]);
    let inside = format!("type}}\"\n{letters}stream = \"DEAD\"\nsubject = \"orders.dead\"\n");
    refused("type}\"\n", &inside, "poison.subject", &["ORDERS"]);
    end("[poison]\nsubject = \"a.>\"", "poison.subject", &["outbox.dead"]);
    end("[checkpoint]\nreplicas = 6", "checkpoint.replicas", &["from 1 to 5"]);
    end("[checkpoint]\nbucket = \"a.b\"", "checkpoint.bucket", &["letters"]);
    end("[retry]\ninitial = \"20s\"", "retry.max", &["retry.initial"]);
    end("[http]\nlisten = \"9464\"", "http.listen", &["127.0.0.1:9464"]);
    end("[log]\nlevel = \"a=b=c\"", "log.level", &["filter"]);
    end("[shutdwon]\ndeadline = \"1s\"", "shutdwon", &["no such key"]);
    end(
        "[[outbox]]\ntable = \"shop.outbox\"\nstream = \"ORDERS\"\nsubject = \"orders.x\"",
        "outbox[1].table",
        &["twice"],
    );
    end(
        "[[outbox]]\ntable = \"a.b\"\nstream = \"OTHER\"\nsubject = \"orders.x.{id}\"",
        "outbox[1].subject",
        &["ORDERS"],
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = r#"
        nmae = "x"
        [source]
        url = "mysql://bridge@db/shop"
        heartbeat = true
        [nats]
        token = "visible"
        [[outbox]]
        table = "outbox"
        stream = "a b"
        subject = "a..b"
        [log]
        format = "xml"
    "#;
    let variables = [("OUTBOX_BRIDGE__PUBLISH__WINDOW", "many"), ("OUTBOX_BRIDGE__PUBLISH__MODUS", "fast")];
    let error = load(text, &variables).expect_err("problems");
    let keys: BTreeSet<&str> = error.problems().iter().map(|problem| problem.key.as_str()).collect();
    let expected = [
        "log.format",
        "nats.token",
        "nats.url",
        "nmae",
        "outbox[0].stream",
        "outbox[0].subject",
        "outbox[0].table",
        "publish.modus",
        "publish.window",
        "source.heartbeat",
        "source.url",
    ];
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), expected, "{error}");
    let origin = |key: &str| {
        let problem = error.problems().iter().find(|problem| problem.key == key);
        problem.map(|problem| problem.origin.clone()).expect(key)
    };
    assert_eq!(origin("publish.window"), Origin::Environment("OUTBOX_BRIDGE__PUBLISH__WINDOW".to_owned()));
    assert_eq!(origin("publish.modus"), Origin::Environment("OUTBOX_BRIDGE__PUBLISH__MODUS".to_owned()));
    assert_eq!(origin("nats.url"), Origin::Absent);
    assert!(matches!(origin("outbox[0].table"), Origin::File(path) if path.ends_with("bridge.toml")));
}

#[test]
fn a_file_that_is_no_configuration() {
    let error = Config::load_with(Path::new("/no/such/file.toml"), NO_VARIABLES).expect_err("no file");
    assert!(error.to_string().contains("/no/such/file.toml"), "{error}");
    let error = load("[source]\nurl = \n", &[]).expect_err("no TOML");
    assert!(error.to_string().contains("line 2"), "{error}");
    let error = load("", &[]).expect_err("nothing");
    assert_eq!(error.problems().len(), 3, "{error}");
    assert!(error.problems().iter().all(|problem| problem.origin == Origin::Absent), "{error}");
    let error = load(MINIMAL, &[("OUTBOX_BRIDGE__OUTBOX__0__TABLE", "a.b")]).expect_err("an array");
    assert!(error.to_string().contains("only the file can hold"), "{error}");
    let error = load("outbox = 5", &[("OUTBOX_BRIDGE__SOURCE", "x")]).expect_err("no sections");
    assert!(error.to_string().contains("write [source]"), "{error}");
}

/// Wherever a secret is put by mistake, no error shows it.
#[test]
fn no_error_shows_a_secret() {
    const SECRET: &str = "hunter2-Geheim";
    let quoted = format!("\"{SECRET}\"");
    let files = [
        with_source(&format!("password = {quoted}")),
        with_source(&format!("pasword = {quoted}")),
        with_source(&format!("password = [{quoted}]")),
        with_source(&format!("password = {{ value = {quoted} }}")),
        with_source(&format!("password = {SECRET}")),
        with_source(&format!("password = \"{SECRET}")),
        with_source(&format!("password_file = {quoted}")),
        with_source(&format!("password = {quoted}\npassword = {quoted}")),
        with_source(SECRET),
        MINIMAL.replace("bridge@", &format!("bridge:{SECRET}@")),
        MINIMAL.replace("bridge@127.0.0.1", &format!("bridge:{SECRET}@127.0.0.1:99999")),
        MINIMAL.replace("mysql://bridge@", &format!("bridge:{SECRET}@")),
        MINIMAL.replace("nats://", &format!("nats://user:{SECRET}@")),
        MINIMAL.replace("nats://", &format!("nats://{SECRET}@")),
        MINIMAL.replace(
            "\"nats://127.0.0.1:4222\"",
            &format!("[\"nats://a\", \"nats://{SECRET}@b\", \"{SECRET}@\"]"),
        ),
        MINIMAL.replace(
            "[[outbox]]",
            &format!("token = {quoted}\nnkey = {quoted}\ncredentials = {quoted}\n[[outbox]]"),
        ),
        MINIMAL.replace("[[outbox]]", &format!("[nats.password]\nvalue = {quoted}\n[[outbox]]")),
    ];
    for text in &files {
        let error = load(text, &[]).expect_err(text);
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
    }
    let variables = [
        "SOURCE__PASSWORD",
        "NATS__PASSWORD",
        "NATS__TOKEN",
        "NATS__NKEY",
        "NATS__CREDENTIALS",
        "SOURCE__PASSWORD__X",
        "SOURCE__PASWORD",
    ];
    for name in variables {
        let name = format!("{ENVIRONMENT_PREFIX}{name}");
        let broken = MINIMAL.replace("ORDERS", "a b");
        let error = load(&broken, &[(&name, SECRET), ("OUTBOX_BRIDGE__NATS__USER", "")]).expect_err(&name);
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
    }
}

#[test]
fn one_way_to_be_admitted() {
    let two = [("OUTBOX_BRIDGE__NATS__TOKEN", "t"), ("OUTBOX_BRIDGE__NATS__NKEY", "n")];
    let half = [("OUTBOX_BRIDGE__NATS__USER", "u")];
    let other_half = [("OUTBOX_BRIDGE__NATS__PASSWORD", "p")];
    for variables in [two.as_slice(), &half, &other_half] {
        let error = load(MINIMAL, variables).expect_err("a contradiction");
        assert_eq!(error.problems().len(), 1, "{error}");
    }
    let both = [half, other_half].concat();
    let config = load(MINIMAL, &both).expect("user and password");
    assert!(matches!(config.nats.auth, NatsAuth::UserPassword { .. }));
}

/// The reader stops the test itself when it reads a key that the table lacks; here the other direction: the loader
/// reads every key of the table, so each wrong value is noticed.
#[test]
fn every_key_of_the_table_is_read() {
    let names: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len(), "a key twice");
    for key in KEYS {
        let shown = match key.name.strip_prefix("outbox.") {
            Some(name) => format!("outbox[0].{name}"),
            None => key.name.to_owned(),
        };
        let mut table: toml::Table = MINIMAL.parse().expect("TOML");
        let mut path: Vec<&str> = key.name.split('.').collect();
        let last = path.pop().expect("a name");
        let mut section = &mut table;
        for name in path {
            let entry = section.entry(name).or_insert_with(|| toml::Table::new().into());
            section = match entry {
                toml::Value::Array(elements) => elements[0].as_table_mut().expect("a table"),
                other => other.as_table_mut().expect("a table"),
            };
        }
        section.insert(last.to_owned(), toml::Table::new().into());
        let error = load(&table.to_string(), &[]).expect_err(key.name);
        assert!(error.problems().iter().any(|problem| problem.key == shown), "{}: {error}", key.name);
        assert!(key.meaning.ends_with('.'), "{}", key.name);
    }
}

#[test]
fn every_default_is_accepted_as_written() {
    let mut table: toml::Table = MINIMAL.parse().expect("TOML");
    for key in KEYS.iter().filter(|key| !key.name.starts_with("outbox.")) {
        let Presence::Default(default) = key.presence else { continue };
        let value = match key.kind {
            Kind::Flag => toml::Value::Boolean(default == "true"),
            Kind::Integer { .. } => toml::Value::Integer(default.parse().expect("an integer")),
            _ => toml::Value::String(default.to_owned()),
        };
        let mut section = &mut table;
        let mut path: Vec<&str> = key.name.split('.').collect();
        let last = path.pop().expect("a name");
        for name in path {
            section = section
                .entry(name)
                .or_insert_with(|| toml::Table::new().into())
                .as_table_mut()
                .expect("a table");
        }
        section.insert(last.to_owned(), value);
    }
    let fixed = [("OUTBOX_BRIDGE__SOURCE__SERVER_ID", "5")];
    assert_eq!(load(&table.to_string(), &fixed), load(MINIMAL, &fixed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_of_any_key_panics(index in 0..KEYS.len(), value in "\\PC{0,20}|[a-z0-9:/@.{}*`-]{0,20}") {
        let key = KEYS[index];
        let variable = format!("{ENVIRONMENT_PREFIX}{}", key.name.replace('.', "__").to_uppercase());
        if let Err(error) = load(MINIMAL, &[(&variable, &value)]) {
            prop_assert!(!error.problems().is_empty());
        }
    }
}
