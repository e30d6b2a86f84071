//! What can be wrong with MySQL or MariaDB.

use super::*;

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
            "-> set claim_check.bucket, raise max_payload of nats-server",
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
