//! `outbox-bridge check` and `init --apply`, the program itself, against real servers: what is right passes, what is wrong
//! is named with its remedy, all of it at once, and no password is ever printed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use testbed::{Flavour, MySql, Nats, NatsCluster, Port, eventually};

const PASSWORD: &str = "s3cret-of-mysql";
const NATS_PASSWORD: &str = "s3cret-of-nats";
const GRANTS: &str = "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'bridge'@'%'; \
                      GRANT SELECT ON shop.outbox TO 'bridge'@'%'";
const BOTH: [Flavour; 2] = [Flavour::MySql, Flavour::MariaDb];

const OK: i32 = 0;
const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

/// The bridge's executable.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OUTBOX_BRIDGE_BIN") {
        return Ok(path.into());
    }
    let tests = std::env::current_exe()?;
    let folder = tests.parent().and_then(|folder| folder.parent()).context("the test has no folder")?;
    let path = folder.join("outbox-bridge");
    ensure!(path.exists(), "{} does not exist: run `cargo build -p outbox-bridge` first", path.display());
    Ok(path)
}

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

/// What is broken by a statement, what `check` says of it, and how it is repaired.
struct Break {
    flavours: &'static [Flavour],
    sql: &'static str,
    keys: &'static [(&'static str, &'static str)],
    lines: &'static str,
    code: i32,
    says: &'static [&'static str],
    repair: &'static str,
}

const PLAIN: Break = Break {
    flavours: &BOTH,
    sql: "DO 0",
    keys: &[],
    lines: "",
    code: CONFIGURATION,
    says: &[],
    repair: "DO 0",
};

const RESTORE: &str = "RENAME TABLE shop.outbox2 TO shop.outbox";

#[rustfmt::skip]
const BREAKS: &[Break] = &[
    Break { sql: "SET GLOBAL binlog_format = STATEMENT", repair: "SET GLOBAL binlog_format = ROW",
        says: &["binlog_format = STATEMENT", "-> set binlog_format = ROW", "no session may set another"], ..PLAIN },
    Break { sql: "SET GLOBAL binlog_format = MIXED", repair: "SET GLOBAL binlog_format = ROW",
        says: &["binlog_format = MIXED", "-> set binlog_format = ROW"], ..PLAIN },
    Break { sql: "SET GLOBAL binlog_row_image = MINIMAL", repair: "SET GLOBAL binlog_row_image = FULL", code: OK,
        says: &["warning  source: binlog_row_image = MINIMAL", "-> set binlog_row_image = FULL"], ..PLAIN },
    Break { sql: "SET GLOBAL binlog_row_metadata = MINIMAL", repair: "SET GLOBAL binlog_row_metadata = FULL", code: OK,
        says: &["warning  source: binlog_row_metadata = MINIMAL", "-> set binlog_row_metadata = FULL"], ..PLAIN },
    Break { sql: "SET GLOBAL sync_binlog = 0", repair: "SET GLOBAL sync_binlog = 1", code: OK,
        says: &["warning  source: sync_binlog = 0", "-> set sync_binlog = 1"], ..PLAIN },
    Break { sql: "SET GLOBAL innodb_flush_log_at_trx_commit = 2", repair: "SET GLOBAL innodb_flush_log_at_trx_commit = 1", code: OK,
        says: &["warning  source: innodb_flush_log_at_trx_commit = 2"], ..PLAIN },
    Break { sql: "SET GLOBAL binlog_expire_logs_seconds = 3600", repair: "SET GLOBAL binlog_expire_logs_seconds = 864000", code: OK,
        says: &["warning  source: keeps its binary log for 3600 seconds", "-> raise binlog_expire_logs_seconds"], ..PLAIN },
    Break { sql: "SET GLOBAL binlog_checksum = NONE", repair: "SET GLOBAL binlog_checksum = CRC32", code: OK,
        says: &["warning  source: binlog_checksum = NONE"], ..PLAIN },
    Break { sql: "SET GLOBAL gtid_strict_mode = OFF", repair: "SET GLOBAL gtid_strict_mode = ON", code: OK, flavours: &[Flavour::MariaDb],
        says: &["ok       source: gtid_strict_mode = OFF"], ..PLAIN },
    Break { sql: "SET GLOBAL binlog_transaction_compression = ON", repair: "SET GLOBAL binlog_transaction_compression = OFF", code: OK,
        flavours: &[Flavour::MySql], says: &["ok       source: binlog_transaction_compression = ON"], ..PLAIN },
    Break { sql: "REVOKE REPLICATION SLAVE ON *.* FROM 'bridge'@'%'", repair: "GRANT REPLICATION SLAVE ON *.* TO 'bridge'@'%'",
        says: &["the log cannot be read", "-> GRANT REPLICATION SLAVE ON *.* TO 'bridge'@'%';"], ..PLAIN },
    Break { sql: "REVOKE REPLICATION CLIENT ON *.* FROM 'bridge'@'%'", repair: "GRANT REPLICATION CLIENT ON *.* TO 'bridge'@'%'",
        flavours: &[Flavour::MySql],
        says: &["the log's end cannot be asked for", "-> GRANT REPLICATION CLIENT ON *.* TO 'bridge'@'%';", "1 error,"], ..PLAIN },
    Break { sql: "REVOKE BINLOG MONITOR ON *.* FROM 'bridge'@'%'", repair: "GRANT BINLOG MONITOR ON *.* TO 'bridge'@'%'",
        flavours: &[Flavour::MariaDb],
        says: &["the log's end cannot be asked for", "-> GRANT BINLOG MONITOR ON *.* TO 'bridge'@'%';", "1 error,"], ..PLAIN },
    Break { sql: "REVOKE SELECT ON shop.outbox FROM 'bridge'@'%'", repair: "GRANT SELECT ON shop.outbox TO 'bridge'@'%'",
        says: &["table shop.outbox: cannot be read, or does not exist", "-> GRANT SELECT ON `shop`.`outbox` TO 'bridge'@'%'"], ..PLAIN },
    // The grant outlives the table, so the server says what is the case.
    Break { sql: "RENAME TABLE shop.outbox TO shop.outbox2", repair: RESTORE,
        says: &["table shop.outbox: does not exist", "-> create it: `outbox-bridge init"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox RENAME COLUMN aggregate_id TO aggregate", repair: "ALTER TABLE shop.outbox RENAME COLUMN aggregate TO aggregate_id",
        says: &["table shop.outbox: has no column aggregate_id", "-> add it, or name another in [outbox.columns]; there are: seq, id,"], ..PLAIN },
    Break { lines: "[outbox.columns]\npartition_key = \"tenant\"\n",
        says: &["has no column tenant, which is its partition_key"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox DROP INDEX id", repair: "ALTER TABLE shop.outbox ADD UNIQUE id (id)", code: OK,
        says: &["column id (id) is not unique", "-> ALTER TABLE `shop`.`outbox` ADD UNIQUE (`id`)"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox MODIFY type VARCHAR(128) NULL", repair: "ALTER TABLE shop.outbox MODIFY type VARCHAR(128) NOT NULL", code: OK,
        says: &["column type (type) may be NULL", "-> declare it NOT NULL"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox MODIFY aggregate_id BLOB NOT NULL", repair: "ALTER TABLE shop.outbox MODIFY aggregate_id VARCHAR(255) NOT NULL", code: OK,
        says: &["column aggregate_id (aggregate_id): type blob holds bytes"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox MODIFY aggregate_id POINT NOT NULL", repair: "ALTER TABLE shop.outbox MODIFY aggregate_id VARCHAR(255) NOT NULL",
        says: &["column aggregate_id (aggregate_id): type point holds no text", "-> use a text type"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox ENGINE = MyISAM", repair: "ALTER TABLE shop.outbox ENGINE = InnoDB", code: OK,
        says: &["has engine MyISAM", "-> ALTER TABLE `shop`.`outbox` ENGINE = InnoDB"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox ENGINE = BLACKHOLE", repair: "ALTER TABLE shop.outbox ENGINE = InnoDB", code: OK,
        flavours: &[Flavour::MySql], says: &["table shop.outbox: fits; engine BLACKHOLE", "0 errors, 1 warning\n"], ..PLAIN },
    Break { sql: "RENAME TABLE shop.outbox TO shop.outbox2; CREATE VIEW shop.outbox AS SELECT * FROM shop.outbox2",
        repair: "DROP VIEW shop.outbox; RENAME TABLE shop.outbox2 TO shop.outbox",
        says: &["table shop.outbox: is a view", "-> name the table behind it"], ..PLAIN },
    Break { sql: "ALTER TABLE shop.outbox MODIFY payload TEXT NOT NULL", repair: "ALTER TABLE shop.outbox MODIFY payload JSON NOT NULL", code: OK,
        says: &["table shop.outbox: fits", "0 errors, 0 warnings"], ..PLAIN },
    Break { keys: &[("source.server_id", "1")],
        says: &["source.server_id = 1 is the server's own id", "-> choose an id that no server and no replica has"], ..PLAIN },
    Break { keys: &[("source.password", "hunter2")],
        says: &["source: the server reported error 1045", "Access denied", "-> check the user in source.url and the password"], ..PLAIN },
    Break { keys: &[("source.url", "mysql://bridge@127.0.0.1:1")], code: UNAVAILABLE,
        says: &["source: ", "-> check host and port in source.url", "stream ORDERS: publishing in mode fast"], ..PLAIN },
    Break { keys: &[("source.tls.mode", "required")], flavours: &[Flavour::MariaDb],
        says: &["does not offer TLS", "-> check source.tls"], ..PLAIN },
    Break { keys: &[("source.start", "9-9-9")], flavours: &[Flavour::MySql],
        says: &["source.start = 9-9-9 is no GTID set of such a server"], ..PLAIN },
    Break { keys: &[("source.start", "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-2")], flavours: &[Flavour::MySql],
        sql: "FLUSH BINARY LOGS; SET @before = NOW(); FLUSH BINARY LOGS; CREATE DATABASE IF NOT EXISTS gone; FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY",
        says: &["has purged transactions that follow source.start", "-> set source.start"], ..PLAIN },
];

#[tokio::test]
async fn every_fault_of_the_source_is_named_with_its_remedy() -> Result<()> {
    for flavour in BOTH {
        let mysql = MySql::builder_of(flavour).start().await?;
        let nats = Nats::builder().start().await?;
        let bridge = ready(&mysql, &nats).await?;
        for fault in BREAKS.iter().filter(|fault| fault.flavours.contains(&flavour)) {
            mysql.exec(fault.sql).await?;
            let broken = bridge.with(fault.keys)?.with_lines(fault.lines)?;
            broken.check().await?.expect(fault.code, fault.says);
            mysql.exec(fault.repair).await?;
        }
        bridge.check().await?.expect(OK, &["0 errors, 1 warning\n"]);
    }
    Ok(())
}

#[tokio::test]
async fn all_faults_are_reported_together() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().max_payload(60_000).start().await?;
    let bridge = ready(&mysql, &nats).await?;
    mysql
        .exec(
            "SET GLOBAL binlog_format = STATEMENT; SET GLOBAL sync_binlog = 0; \
             REVOKE REPLICATION SLAVE ON *.* FROM 'bridge'@'%'; ALTER TABLE shop.outbox RENAME COLUMN type TO kind, \
             MODIFY payload TEXT NOT NULL",
        )
        .await?;
    jetstream::new(nats.client().await?).publish("orders.a.b", "not a bridge's".into()).await?.await?;
    let bridge = bridge.with(&[("source.server_id", "1")])?.with_lines(
        "[[outbox]]\ntable = \"crm.outbox\"\nstream = \"CRM\"\nsubject = \"crm.{type}\"\n\
         [[outbox]]\ntable = \"shop.more\"\nstream = \"ORDERS\"\nsubject = \"more.{type}\"\n",
    )?;
    bridge.check().await?.expect(
        CONFIGURATION,
        &[
            "binlog_format = STATEMENT",
            "sync_binlog = 0",
            "source.server_id = 1 is the server's own id",
            "the log cannot be read",
            "table shop.outbox: has no column type",
            "table crm.outbox: ",
            "table shop.more: ",
            "stream CRM: does not exist",
            "do not cover more.*, where shop.more is published",
            "stream ORDERS: ends with message 1 (orders.a.b), which no bridge wrote",
            "column payload (text) can hold 65535 bytes (63.9 KiB), but a message with its headers may have 60000 bytes",
            "-> raise max_payload of nats-server",
        ],
    );
    Ok(())
}

#[tokio::test]
async fn a_server_without_the_log_or_with_a_filter_is_refused() -> Result<()> {
    let nats = Nats::builder().start().await?;
    for (flavour, option, says) in [
        (Flavour::MySql, "--skip-log-bin", &["log_bin = OFF", "-> start the server with log_bin set"][..]),
        (Flavour::MariaDb, "--skip-log-bin", &["log_bin = OFF", "-> start the server with log_bin set"]),
        (Flavour::MySql, "--binlog-ignore-db=shop", &["does not log schema shop: binlog_ignore_db"]),
        (Flavour::MariaDb, "--binlog-do-db=crm", &["does not log schema shop: binlog_do_db"]),
        (Flavour::MySql, "--gtid-mode=OFF", &["gtid_mode = OFF", "-> set enforce_gtid_consistency"]),
    ] {
        let mysql = MySql::builder_of(flavour).option(option).start().await?;
        let bridge = ready(&mysql, &nats).await?;
        let code = if option.contains("gtid") { OK } else { CONFIGURATION };
        bridge.check().await?.expect(code, says);
    }
    Ok(())
}

#[tokio::test]
async fn names_must_be_spelled_as_in_the_log() -> Result<()> {
    let nats = Nats::builder().start().await?;
    let lines =
        "[[outbox]]\ntable = \"Shop.Outbox\"\nstream = \"ORDERS\"\nsubject = \"orders.more.{type}\"\n";
    let folding = MySql::mariadb().option("--lower-case-table-names=1").start().await?;
    ready(&folding, &nats).await?.with_lines(lines)?.check().await?.expect(
        CONFIGURATION,
        &["table Shop.Outbox: is written shop.outbox in the log", "-> write table = \"shop.outbox\""],
    );
    let exact = MySql::mariadb().start().await?;
    ready(&exact, &nats).await?.as_root(&exact)?.with_lines(lines)?.check().await?.expect(
        CONFIGURATION,
        &["table Shop.Outbox: does not exist; there is shop.outbox, and case matters here"],
    );
    Ok(())
}

#[tokio::test]
async fn replicas_are_noticed() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().start().await?;
    let bridge = ready(&mysql, &nats).await?;
    // It owns the configuration's folder, which must outlive the start of the process.
    let configured = bridge.with(&[("source.server_id", "4711")])?;
    let run = Running(configured.command(&["run"])?.stderr(Stdio::null()).spawn()?);
    eventually("the bridge to register", Duration::from_secs(30), async || {
        let outcome = bridge.with(&[("source.server_id", "4711")])?.check().await?;
        Ok(outcome.text.contains("a bridge is registered with source.server_id = 4711 now").then_some(()))
    })
    .await?;
    drop(run);

    // A real replica, which besides keeps what it replicates out of its own log.
    let replica =
        MySql::builder().option("--server-id=4712").option("--log-replica-updates=OFF").start().await?;
    replica
        .exec(&format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'bridge', \
             SOURCE_PASSWORD = '{PASSWORD}', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA",
            mysql.port()
        ))
        .await?;
    eventually("the replica to register and to catch up", Duration::from_secs(30), async || {
        let registered = bridge.with(&[("source.server_id", "4712")])?.check().await?;
        let caught_up = bridge.with(&[("source.url", &replica.url("bridge"))])?.check().await?;
        Ok((registered.code == CONFIGURATION && !caught_up.text.contains("Access denied")).then_some(()))
    })
    .await?;
    bridge.with(&[("source.server_id", "4712")])?.check().await?.expect(
        CONFIGURATION,
        &[
            "source.server_id = 4712 is the id of a replica that is registered",
            "-> choose an id that no server",
        ],
    );
    bridge.with(&[("source.url", &replica.url("bridge"))])?.check().await?.expect(
        CONFIGURATION,
        &["it is a replica with log_replica_updates = OFF", "-> set log_replica_updates = ON on this server"],
    );
    Ok(())
}

#[tokio::test]
async fn other_servers_of_nats_pass() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().start().await?;
    let bridge = ready(&mysql, &nats).await?;
    for version in ["2.10", "2.12"] {
        let old = Nats::builder().version(version).start().await?;
        let bridge = bridge.with(&[("nats.url", &old.url())])?;
        bridge.run(&["init", "--apply"]).await?.expect(OK, &["stream ORDERS: created"]);
        bridge
            .check()
            .await?
            .expect(OK, &["mode pipelined", "since the server is older than 2.14", "0 errors"]);
        let fast = bridge.with(&[("publish.mode", "fast")])?;
        fast.check().await?.expect(CONFIGURATION, &["-> upgrade nats-server to 2.14"]);
    }

    let hub = Nats::builder().jetstream_config("domain: hub").start().await?;
    let bridge_of_hub = bridge.with(&[("nats.url", &hub.url()), ("nats.jetstream_domain", "hub")])?;
    bridge_of_hub.run(&["init", "--apply"]).await?.expect(OK, &["stream ORDERS: created"]);
    bridge_of_hub.check().await?.expect(OK, &["mode fast", "run creates it", "0 errors"]);
    jetstream::with_domain(hub.client().await?, "hub")
        .create_key_value(jetstream::kv::Config { bucket: "OUTBOX_BRIDGE".into(), ..Default::default() })
        .await?;
    bridge_of_hub.check().await?.expect(OK, &["holds no checkpoint", "0 errors"]);
    let elsewhere = bridge_of_hub.with(&[("nats.jetstream_domain", "nowhere")])?;
    elsewhere.check().await?.expect(CONFIGURATION, &["JetStream does not answer", "nats.jetstream_domain"]);
    Ok(())
}

#[tokio::test]
async fn a_cluster_passes_and_keeps_nothing_of_the_check() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let mut cluster = NatsCluster::start(&Nats::builder(), 3).await?;
    let first = &cluster.nodes()[0];
    let root = Bridge::new(&mysql, first)?.as_root(&mysql)?;
    root.run(&["init", "--apply", "--replicas", "3"]).await?.expect(OK, &["stream ORDERS: created"]);
    let bridge = ready(&mysql, first).await?;
    let client = jetstream::new(first.client().await?);
    // All three have to be up to date first.
    let limit = Duration::from_secs(30);
    eventually("a check without a warning of the stream", limit, async || {
        let outcome = bridge.check().await?;
        Ok((outcome.code == OK && outcome.text.contains("0 errors, 1 warning\n")).then_some(()))
    })
    .await?;
    bridge.check().await?.expect(OK, &["stream ORDERS: held by 3 servers", "mode fast"]);
    let state = client.get_stream("ORDERS").await?.cached_info().state.clone();
    ensure!(state.last_sequence == 0, "the check has stored something: {state:?}");
    cluster.node(2)?.kill().await?;
    eventually("a check that misses a replica", limit, async || {
        let outcome = bridge.check().await?;
        Ok(outcome.text.contains("warning  stream ORDERS: its replica on testbed-").then_some(()))
    })
    .await?;
    Ok(())
}

/// A stream that does not fit, and what `check` says of it.
#[tokio::test]
async fn every_fault_of_the_stream_is_named_with_its_remedy() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().start().await?;
    let bridge = ready(&mysql, &nats).await?;
    let client = jetstream::new(nats.client().await?);
    let fit = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        discard: stream::DiscardPolicy::New,
        allow_batch_publish: true,
        ..stream::Config::default()
    };
    let narrow = vec!["orders.order.*".to_owned()];
    let limits = stream::RetentionPolicy::WorkQueue;
    for (config, code, says) in [
        (fit.clone(), OK, &["publishing in mode fast", "0 errors"][..]),
        (
            stream::Config { allow_batch_publish: false, ..fit.clone() },
            OK,
            &["publishing in mode pipelined", "since the stream does not allow it"],
        ),
        (
            stream::Config { subjects: narrow, ..fit.clone() },
            CONFIGURATION,
            &["do not cover orders.*.*, where shop.outbox is published", "-> add orders.*.* to its subjects"],
        ),
        (
            stream::Config { retention: limits, ..fit.clone() },
            CONFIGURATION,
            &["drops messages as they are consumed"],
        ),
        (
            stream::Config { max_message_size: 5000, ..fit.clone() },
            OK,
            &["refuses messages over 5000 bytes", "may have 5000 bytes (4.8 KiB) (max_msg_size of ORDERS)"],
        ),
    ] {
        client.delete_stream("ORDERS").await?;
        client.create_stream(config).await?;
        bridge.check().await?.expect(code, says);
    }
    client.delete_stream("ORDERS").await?;
    bridge.check().await?.expect(
        CONFIGURATION,
        &["stream ORDERS: does not exist", "-> create it: `outbox-bridge init --apply`"],
    );
    // Nothing was stored by all that.
    let mut stream = client.create_stream(fit).await?;
    bridge.check().await?.expect(OK, &["0 errors"]);
    ensure!(stream.info().await?.state.last_sequence == 0, "the check has stored something");
    client.publish("orders.a.b", "not a bridge's".into()).await?.await?;
    bridge
        .check()
        .await?
        .expect(CONFIGURATION, &["which no bridge wrote", "-> a stream of the bridge takes nobody else's"]);
    Ok(())
}

/// Users with less and less permission.
const ACCOUNTS: &str = r#"
accounts {
  SHOP: { jetstream: enabled, users: [
    { user: admin, password: "s3cret-of-nats" }
    { user: bridge, password: "s3cret-of-nats", permissions: {
        publish: ["orders.>", "$KV.OUTBOX_BRIDGE.>", "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.MSG.GET.>",
                  "$JS.API.STREAM.CREATE.KV_OUTBOX_BRIDGE", "$JS.API.DIRECT.GET.>"]
        subscribe: ["_INBOX.>"] } }
    { user: mute, password: "s3cret-of-nats", permissions: { publish: ["$JS.API.>", "$KV.>"], subscribe: ["_INBOX.>"] } }
    { user: blind, password: "s3cret-of-nats", permissions: {
        publish: ["orders.>", "$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"] } }
    { user: deaf, password: "s3cret-of-nats", permissions: { publish: [">"], subscribe: ["other.>"] } }
  ] }
  BARE: { users: [ { user: bare, password: "s3cret-of-nats" } ] }
}
no_auth_user: admin
"#;

#[tokio::test]
async fn missing_permissions_are_named() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().config(ACCOUNTS).start().await?;
    let bridge = ready(&mysql, &nats).await?;
    for (user, password, code, says) in [
        ("bridge", NATS_PASSWORD, OK, &["publishing in mode fast", "run creates it", "0 errors"][..]),
        (
            "mute",
            NATS_PASSWORD,
            CONFIGURATION,
            &["stream ORDERS: may not be published to", "-> allow the bridge's user"],
        ),
        (
            "blind",
            NATS_PASSWORD,
            CONFIGURATION,
            &[
                "stream ORDERS: its last message cannot be read",
                "$JS.API.STREAM.MSG.GET.ORDERS",
                "bucket OUTBOX_BRIDGE: does not exist and cannot be created",
                "$JS.API.STREAM.CREATE.KV_OUTBOX_BRIDGE",
            ],
        ),
        (
            "deaf",
            NATS_PASSWORD,
            CONFIGURATION,
            &["JetStream does not answer", "Permissions Violation", "nats.inbox_prefix"],
        ),
        ("bare", NATS_PASSWORD, CONFIGURATION, &["JetStream does not answer", "-> enable JetStream"]),
        ("bridge", "hunter2", CONFIGURATION, &["ERROR    nats: ", "-> check the credentials"]),
    ] {
        let outcome = bridge.with(&[("nats.user", user), ("nats.password", password)])?.check().await?;
        outcome.expect(code, says);
        outcome.expect(code, &["table shop.outbox: fits"]);
    }
    let port = Port::reserve()?;
    let nowhere = format!("nats://{}", port.address());
    let outcome = bridge.with(&[("nats.url", &nowhere)])?.check().await?;
    outcome.expect(UNAVAILABLE, &["ERROR    nats: ", "-> check nats.url", "table shop.outbox: fits"]);
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
