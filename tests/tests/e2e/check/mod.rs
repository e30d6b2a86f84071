//! `outbox-bridge check` and `init --apply`, the program itself, against real servers: what is right passes, what is wrong
//! is named with its remedy, all of it at once, and no password is ever printed.

mod nats;
mod source;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use outbox_bridge_tests::binary;
use testbed::{Flavour, MySql, Nats, NatsCluster, Port, eventually};

const PASSWORD: &str = "s3cret-of-mysql";
const NATS_PASSWORD: &str = "s3cret-of-nats";
const GRANTS: &str = "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'bridge'@'%'; \
                      GRANT SELECT ON shop.outbox TO 'bridge'@'%'";
const BOTH: [Flavour; 2] = [Flavour::MySql, Flavour::MariaDb];

const OK: i32 = 0;
const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

/// What the program printed, and how it ended.
struct Outcome {
    code: i32,
    text: String,
}

impl Outcome {
    #[track_caller]
    fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}", self.text);
        for words in words {
            assert!(self.text.contains(words), "{words:?} is missing in:\n{}", self.text);
        }
    }

    #[track_caller]
    fn without(&self, words: &[&str]) {
        for words in words {
            assert!(!self.text.contains(words), "{words:?} stands in:\n{}", self.text);
        }
    }
}

/// A configuration in a folder of its own.
struct Bridge {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Bridge {
    /// The bridge of `shop.outbox` to `ORDERS`.
    fn new(mysql: &MySql, nats: &Nats) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let text = format!(
            "[source]\nurl = \"{}\"\n[nats]\nurl = \"{}\"\n[http]\nlisten = \"off\"\n[[outbox]]\ntable = \"shop.outbox\"\n\
             stream = \"ORDERS\"\nsubject = \"orders.{{aggregate_type}}.{{type}}\"\n",
            mysql.url("bridge"),
            nats.url()
        );
        std::fs::write(folder.path().join("bridge.toml"), text)?;
        let password = ("OUTBOX_BRIDGE__SOURCE__PASSWORD".to_owned(), PASSWORD.to_owned());
        Ok(Self { folder, variables: vec![password] })
    }

    /// With these keys set from the environment.
    fn with(&self, keys: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::copy(self.folder.path().join("bridge.toml"), folder.path().join("bridge.toml"))?;
        let mut variables = self.variables.clone();
        for (key, value) in keys {
            variables.push((
                format!("OUTBOX_BRIDGE__{}", key.to_uppercase().replace('.', "__")),
                (*value).to_owned(),
            ));
        }
        Ok(Self { folder, variables })
    }

    /// With lines behind those of its outbox.
    fn with_lines(&self, lines: &str) -> Result<Self> {
        let bridge = self.with(&[])?;
        let path = bridge.folder.path().join("bridge.toml");
        let text = std::fs::read_to_string(&path)? + lines;
        std::fs::write(path, text)?;
        Ok(bridge)
    }

    /// As MySQL's administrator, who has no password.
    fn as_root(&self, mysql: &MySql) -> Result<Self> {
        self.with(&[("source.url", &mysql.url("root")), ("source.password", "")])
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--config").arg(self.folder.path().join("bridge.toml"));
        for (name, value) in &self.variables {
            command.env(name, value);
            if name.ends_with("PASSWORD") && value.is_empty() {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    async fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        let mut command = self.command(arguments)?;
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for secret in [PASSWORD, NATS_PASSWORD, "hunter2"] {
            assert!(!text.contains(secret), "a password stands in:\n{text}");
        }
        let code = output.status.code().context("killed")?;
        // Whoever reads of an error must read what to do.
        let lines: Vec<&str> = text.lines().collect();
        if arguments == ["check"] {
            for (line, next) in lines
                .iter()
                .zip(lines.iter().skip(1))
                .filter(|(line, _)| line.starts_with("ERROR ") || line.starts_with("warning "))
            {
                assert!(next.trim_start().starts_with("-> "), "no remedy for {line}:\n{text}");
            }
        }
        Ok(Outcome { code, text })
    }

    async fn check(&self) -> Result<Outcome> {
        self.run(&["check"]).await
    }
}

/// Servers with everything that a bridge needs.
async fn ready(mysql: &MySql, nats: &Nats) -> Result<Bridge> {
    let bridge = Bridge::new(mysql, nats)?;
    bridge.as_root(mysql)?.run(&["init", "--apply"]).await?.expect(OK, &[]);
    mysql.exec(&format!("CREATE USER 'bridge'@'%' IDENTIFIED BY '{PASSWORD}'; {GRANTS}")).await?;
    if mysql.flavour() == Flavour::MariaDb {
        // Anonymous users shadow it for connections from here.
        mysql.exec("DELETE FROM mysql.global_priv WHERE user = ''; FLUSH PRIVILEGES").await?;
    }
    Ok(bridge)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let killed = self.0.kill().and_then(|()| self.0.wait());
        assert!(killed.is_ok(), "{killed:?}");
    }
}

async fn insert(mysql: &MySql) -> Result<()> {
    mysql
        .exec(
            "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, type, payload) \
             VALUES (RANDOM_BYTES(16), 'order', '1', 'placed', '{}')",
        )
        .await
}

#[tokio::test]
async fn what_init_makes_passes_the_check_before_and_after_a_run() -> Result<()> {
    for flavour in BOTH {
        let mysql = MySql::builder_of(flavour).start().await?;
        let nats = Nats::builder().start().await?;
        let bridge = Bridge::new(&mysql, &nats)?;
        let root = bridge.as_root(&mysql)?;
        let first = root.run(&["init", "--apply"]).await?;
        first.expect(OK, &["table shop.outbox: created", "stream ORDERS: created", "0 errors, 0 warnings"]);
        let second = root.run(&["init", "--apply"]).await?;
        second.expect(OK, &["table shop.outbox: fits", "stream ORDERS: publishing in mode fast"]);
        second.without(&["created"]);

        let bridge = {
            mysql.exec("DROP TABLE shop.outbox").await?;
            ready(&mysql, &nats).await?
        };
        let checked = bridge.check().await?;
        let reached =
            if flavour == Flavour::MySql { "connected to MySQL 9." } else { "connected to MariaDB 1" };
        checked.expect(
            OK,
            &[
                reached,
                "publishing in mode fast",
                "table shop.outbox: fits",
                "run creates it",
                "the first one",
                "0 errors",
            ],
        );
        // The payload is JSON, and may be larger than a message; that is all there is to say.
        checked.expect(OK, &["0 errors, 1 warning\n", "(max_payload of nats-server)"]);

        let run = bridge.command(&["run"])?.stderr(Stdio::null()).spawn()?;
        let run = Running(run);
        let client = jetstream::new(nats.client().await?);
        eventually("the checkpoint's bucket", Duration::from_secs(30), async || {
            Ok(client.get_stream("KV_OUTBOX_BRIDGE").await.ok())
        })
        .await?;
        eventually("an event in the stream", Duration::from_secs(30), async || {
            insert(&mysql).await?;
            let stream = client.get_stream("ORDERS").await?;
            Ok((stream.cached_info().state.messages > 0).then_some(()))
        })
        .await?;
        for _ in 0..2 {
            bridge.check().await?.expect(
                OK,
                &[
                    "goes on at binlog.",
                    "holds the checkpoint outbox-bridge",
                    "stream ORDERS: ends with message",
                    "0 errors",
                ],
            );
            insert(&mysql).await?;
        }
        drop(run);
        bridge.check().await?.expect(OK, &["goes on at binlog.", "0 errors"]);
    }
    Ok(())
}

#[tokio::test]
async fn init_changes_nothing_that_exists_unless_told() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().start().await?;
    let bridge = Bridge::new(&mysql, &nats)?;
    mysql.create_user("bridge", PASSWORD, "REPLICATION SLAVE, REPLICATION CLIENT ON *.*").await?;
    mysql.exec("CREATE DATABASE shop; GRANT SELECT ON shop.* TO 'bridge'@'%'").await?;
    let client = jetstream::new(nats.client().await?);
    client
        .create_stream(stream::Config {
            name: "ORDERS".into(),
            subjects: vec!["orders.order.*".into(), "else.>".into()],
            discard: stream::DiscardPolicy::New,
            max_bytes: 1 << 20,
            ..stream::Config::default()
        })
        .await?;

    // The bridge's own user may not create: what somebody else has to run is printed.
    let refused = bridge.run(&["init", "--apply"]).await?;
    refused.expect(
        CONFIGURATION,
        &[
            "table shop.outbox: cannot be created",
            "CREATE TABLE `shop`.`outbox` (",
            "exists and is left as it is, but lacks: subjects orders.*.*; allow_batched",
            "--update-stream",
        ],
    );
    let config = |info: &stream::Info| {
        (info.config.subjects.clone(), info.config.allow_batch_publish, info.config.max_bytes)
    };
    let untouched = client.get_stream("ORDERS").await?.cached_info().clone();
    ensure!(config(&untouched) == (vec!["orders.order.*".into(), "else.>".into()], false, 1 << 20));

    // A table that is there is compared, not altered.
    mysql.exec("CREATE TABLE shop.outbox (id BINARY(16) PRIMARY KEY, payload TEXT)").await?;
    let root = bridge.as_root(&mysql)?;
    let updated = root.run(&["init", "--apply", "--update-stream"]).await?;
    updated.expect(
        CONFIGURATION,
        &[
            "has no column aggregate_type",
            "stream ORDERS: updated: subjects orders.*.*; allow_batched",
            "mode fast",
        ],
    );
    let info = client.get_stream("ORDERS").await?.cached_info().clone();
    ensure!(
        config(&info) == (vec!["else.>".into(), "orders.*.*".into()], true, 1 << 20),
        "{:?}",
        info.config
    );
    let columns: Vec<String> =
        mysql.query("SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'shop'").await?;
    ensure!(columns.len() == 2, "{columns:?}");

    mysql.exec("DROP TABLE shop.outbox").await?;
    root.run(&["init", "--apply", "--update-stream"])
        .await?
        .expect(OK, &["table shop.outbox: created", "0 errors, 0 warnings"]);
    bridge.check().await?.expect(OK, &["publishing in mode fast", "0 errors"]);
    // The printing forms still print, and touch nothing.
    bridge.run(&["init", "--print", "table"]).await?.expect(OK, &["CREATE TABLE `shop`.`outbox` ("]);
    ensure!(bridge.run(&["init", "--print", "table", "--apply"]).await?.code == 64);
    ensure!(bridge.run(&["init", "--update-stream"]).await?.code == 64);
    Ok(())
}
