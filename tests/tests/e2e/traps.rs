//! What a binary log may hold beside plain inserts.

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Expected, Order, Outbox, STREAM, TABLE, World};
use testbed::{Flavour, Nats};

fn events(numbers: std::ops::Range<u64>) -> Vec<Event> {
    numbers.map(Event::new).collect()
}

/// Every way in which SQL makes rows, and every way in which it takes them back.
async fn all_kinds_of_inserts(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).option("--local-infile=ON").option("--secure-file-priv=").start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    let insert = |numbers| Event::insert_sql(TABLE, &events(numbers));
    let columns = "id, aggregate_type, aggregate_id, type, payload";

    conn.query_drop(insert(0..100)).await?;
    conn.query_drop(format!(
        "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO SAVEPOINT a; {}; SAVEPOINT b; {}; RELEASE SAVEPOINT b; COMMIT",
        insert(100..102),
        insert(200..210),
        insert(102..104),
        insert(104..106),
    ))
    .await?;
    conn.query_drop(format!("BEGIN; {}; ROLLBACK", insert(300..310))).await?;
    // A statement that fails takes its rows back, and not those of its transaction.
    let twice = Event::new(400);
    conn.query_drop("BEGIN").await?;
    twice.insert(&mut conn, TABLE).await?;
    let failed = conn.query_drop(Event::insert_sql(TABLE, [&Event::new(401), &twice])).await;
    ensure!(failed.is_err(), "the same id was inserted twice");
    conn.query_drop(Event::insert_sql(TABLE, [&Event::new(402)])).await?;
    conn.query_drop("COMMIT").await?;
    let ignored = Event::insert_sql(TABLE, [&Event::new(403), &twice, &Event::new(404)]);
    conn.query_drop(ignored.replacen("INSERT", "INSERT IGNORE", 1)).await?;

    conn.query_drop(format!(
        "INSERT INTO {TABLE} ({columns}) SELECT UNHEX(LEFT(SHA2(CONCAT('select', seq), 256), 32)), 'copy', aggregate_id, type, payload \
         FROM {TABLE} WHERE seq <= 50"
    ))
    .await?;

    // `REPLACE` without a row to replace, and over a row's number: the new row is a new event.
    conn.query_drop(insert(500..501).replacen("INSERT", "REPLACE", 1)).await?;
    let number: Option<u64> = conn.query_first(format!("SELECT MAX(seq) FROM {TABLE}")).await?;
    let number = number.context("no row")?;
    let row = Event::new(501).values().replacen('(', &format!("({number}, "), 1);
    conn.query_drop(format!("REPLACE INTO {TABLE} (seq, {columns}, headers) VALUES {row}")).await?;
    let replaced = format!("SELECT COUNT(*) FROM {TABLE} WHERE payload LIKE '%500%'");
    ensure!(conn.query_first::<u64, _>(replaced).await? == Some(0), "the row is replaced");

    conn.query_drop(format!(
        "CREATE TABLE shop.orders (n INT PRIMARY KEY); \
         CREATE TRIGGER shop.made AFTER INSERT ON shop.orders FOR EACH ROW INSERT INTO {TABLE} ({columns}) \
         VALUES (UNHEX(LEFT(SHA2(CONCAT('trigger', NEW.n), 256), 32)), 'order', NEW.n, 'made', JSON_OBJECT('n', NEW.n)); \
         INSERT INTO shop.orders VALUES (1), (2), (3)"
    ))
    .await?;
    conn.query_drop(format!(
        "CREATE PROCEDURE shop.make(count INT) BEGIN \
           DECLARE n INT DEFAULT 0; \
           WHILE n < count DO \
             INSERT INTO {TABLE} ({columns}) \
             VALUES (UNHEX(LEFT(SHA2(CONCAT('procedure', n), 256), 32)), 'order', n, 'made', JSON_OBJECT('n', n)); \
             SET n = n + 1; \
           END WHILE; \
         END"
    ))
    .await?;
    conn.query_drop("CALL shop.make(5); BEGIN; CALL shop.make(0); COMMIT").await?;

    let file = world.database.data_dir().join("rows.csv");
    let rows = |from: u32| -> String {
        (from..from + 20).map(|number| format!("{number:032x},order,order-{number},loaded,{{}}\n")).collect()
    };
    std::fs::write(&file, rows(0xAA00))?;
    let load = |local: &str, path: &str| {
        format!(
            "LOAD DATA {local} INFILE '{path}' INTO TABLE {TABLE} FIELDS TERMINATED BY ',' \
             (@id, aggregate_type, aggregate_id, type, payload) SET id = UNHEX(@id)"
        )
    };
    conn.query_drop(load("", &file.display().to_string())).await?;
    let local = bytes::Bytes::from(rows(0xBB00));
    conn.set_infile_handler(async move { Ok(futures_util::stream::iter([Ok(local)]).boxed()) });
    conn.query_drop(load("LOCAL", "rows.csv")).await?;

    // Changes are no events, and rows may be gone long before the bridge comes to them.
    conn.query_drop(format!("UPDATE {TABLE} SET type = 'changed' WHERE seq = 1")).await?;
    conn.query_drop(format!("UPDATE {TABLE} SET type = 'placed' WHERE seq = 1")).await?;
    let counts = "SELECT COUNT(*) FROM shop.outbox";
    let count = conn.query_first::<u64, _>(counts).await?.context("no count")?;
    let last = world.settle(&mut bridge).await?;

    // What was replaced had been committed before.
    let mut expected = Expected::rows(&world.database, TABLE, "seq").await?;
    let stored = world.stored(STREAM).await?;
    ensure!(stored.len() as u64 == count + 2, "{} messages for {count} + 2 rows", stored.len());
    let before = stored.iter().position(|message| message.text() == r#"{"n": 500}"#);
    let before = before.context("the row that was replaced is not there")?;
    let mut other = stored.clone();
    other.remove(before);
    let gone: Vec<_> = stored.iter().skip(before).take(1).collect();
    ensure!(gone.iter().all(|message| expected.iter().all(|row| row.id != message.header("ce-id"))));
    expected.retain(|row| stored.iter().any(|message| message.header("ce-id") == row.id));
    ensure!(expected.len() + 1 == stored.len(), "{} rows, {} messages", expected.len(), stored.len());
    let ids = |text: Vec<String>| text.join("\n");
    let wanted = ids(expected.iter().map(|row| row.id.clone()).collect());
    let found = ids(other.iter().map(|message| message.header("ce-id").to_owned()).collect());
    ensure!(wanted == found, "other order: wanted\n{wanted}\nfound\n{found}");
    ensure!(last.iter().all(|(_, event)| found.ends_with(&event.id.to_string())));
    bridge.stop().await
}

#[tokio::test]
async fn all_kinds_of_inserts_with_mysql() -> Result<()> {
    all_kinds_of_inserts(Flavour::MySql).await
}

#[tokio::test]
async fn all_kinds_of_inserts_with_mariadb() -> Result<()> {
    all_kinds_of_inserts(Flavour::MariaDb).await
}

/// Compressed transactions, also larger than the bridge may hold and than one packet.
#[tokio::test]
async fn compressed_transactions_of_mysql() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = world.settings().set("source.transaction_buffer_bytes_max", "256KiB");
    let mut bridge = Bridge::start(&settings).await?;
    let mut conn = world.conn().await?;
    Event::new(0).insert(&mut conn, TABLE).await?;
    conn.query_drop("SET binlog_transaction_compression = ON").await?;
    for number in 1..20 {
        Event::new(number).insert(&mut conn, TABLE).await?;
    }
    conn.query_drop(Event::insert_sql(TABLE, &events(100..200))).await?;
    let large: Vec<_> = (0..600)
        .map(|number| {
            Event::new(number).payload(format!("{{\"n\": {number}, \"x\": \"{}\"}}", "y".repeat(2_000)))
        })
        .collect();
    for level in ["3", "22"] {
        conn.query_drop(format!("SET binlog_transaction_compression_level_zstd = {level}; BEGIN")).await?;
        for chunk in large.chunks(100) {
            // Other ids each time.
            let chunk: Vec<_> =
                chunk.iter().map(|event| Event::new(0).payload(event.payload.clone())).collect();
            conn.query_drop(Event::insert_sql(TABLE, &chunk)).await?;
        }
        conn.query_drop("COMMIT").await?;
    }
    conn.query_drop(format!(
        "XA START 'x'; {}; XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'",
        Event::insert_sql(TABLE, &events(300..310))
    ))
    .await?;
    conn.query_drop("SET binlog_transaction_compression = OFF").await?;
    Event::new(1).insert(&mut conn, TABLE).await?;
    world.database.exec("SET GLOBAL binlog_transaction_compression = ON").await?;
    world.insert(400..410).await?;
    world.verify(&mut bridge, Order::Total).await?;

    // And again from a restart in the midst of them.
    bridge.kill()?;
    world.insert(500..510).await?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

/// MariaDB compresses single events.
#[tokio::test]
async fn compressed_events_of_mariadb() -> Result<()> {
    let world = World::mariadb()
        .option("--log-bin-compress=ON")
        .option("--log-bin-compress-min-len=10")
        .start()
        .await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..10).await?;
    let mut conn = world.conn().await?;
    conn.query_drop(Event::insert_sql(TABLE, &events(10..500))).await?;
    let long = format!("{{\"n\": 1, \"x\": \"{}\"}}", "long ".repeat(20_000));
    Event::new(1).payload(long).insert(&mut conn, TABLE).await?;
    conn.query_drop(format!("BEGIN; {}; ROLLBACK", Event::insert_sql(TABLE, &events(10..20)))).await?;
    // A compressed statement that changes the table.
    conn.query_drop(format!(
        "ALTER TABLE {TABLE} ADD COLUMN note VARCHAR(200) NULL COMMENT '{}' AFTER id",
        "a remark ".repeat(60)
    ))
    .await?;
    world.insert(500..510).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

#[tokio::test]
async fn tagged_gtids() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    for round in 0..5 {
        for tag in ["AUTOMATIC", "AUTOMATIC:blue", "AUTOMATIC:green"] {
            conn.query_drop(format!("SET gtid_next = '{tag}'")).await?;
            Event::new(round).insert(&mut conn, TABLE).await?;
        }
        if round == 2 {
            bridge.kill()?;
            bridge.launch()?;
        }
    }
    let uuid = "11111111-2222-3333-4444-555555555555";
    for gtid in [format!("{uuid}:7"), format!("{uuid}:red:3")] {
        conn.query_drop(format!("SET gtid_next = '{gtid}'")).await?;
        Event::new(9).insert(&mut conn, TABLE).await?;
    }
    conn.query_drop("SET gtid_next = 'AUTOMATIC'").await?;
    bridge.await_ready().await?;
    world.verify(&mut bridge, Order::Total).await?;
    let stored = world.stored(STREAM).await?;
    let gtids: Vec<String> =
        stored.iter().map(|message| Ok(message.position()?.gtid)).collect::<Result<_>>()?;
    ensure!(gtids.iter().any(|gtid| gtid.contains(":blue:")), "{gtids:?}");
    ensure!(gtids.contains(&format!("{uuid}:red:3")), "{gtids:?}");
    bridge.stop().await?;

    // A first start after a set with tags.
    let set = "SELECT REPLACE(@@gtid_executed, '\\n', '')";
    let set: Vec<String> = world.database.query(set).await?;
    ensure!(set.iter().any(|set| set.contains(":blue:")), "{set:?}");
    let count = world.stored(STREAM).await?.len();
    let events = world.insert(20..23).await?;
    world.jetstream.delete_stream(STREAM).await?;
    world.create_stream(STREAM).await?;
    let settings = world.settings().set("name", "other").set("source.start", set.concat());
    let mut bridge = Bridge::start(&settings).await?;
    world.settle(&mut bridge).await?;
    let expected = Expected::rows(&world.database, TABLE, "seq").await?;
    let expected: Vec<_> = expected.into_iter().skip(count).collect();
    ensure!(expected.len() == events.len() + 1);
    world.verify_rows(&bridge, &expected, Order::Total).await?;
    bridge.stop().await
}

/// The log does not show the row, so the bridge must not go on.
async fn statements_stop_the_bridge(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let make = Event::insert_sql(TABLE, &events(6..7));
    let sql = format!("CREATE PROCEDURE shop.make() {make}; CREATE TABLE shop.other (n INT PRIMARY KEY)");
    world.database.exec(&sql).await?;
    let insert = Event::insert_sql(TABLE, &events(5..6));
    let inserts: String =
        (20..23).map(|n| format!("; {}", Event::insert_sql(TABLE, &events(n..n + 1)))).collect();
    for (number, (format, statement)) in (0..).zip([
        ("MIXED", insert),
        ("STATEMENT", format!("BEGIN; INSERT INTO shop.other VALUES (7){inserts}; COMMIT")),
        ("STATEMENT", format!("USE shop; {}", Event::insert_sql("outbox", &events(5..6)))),
        ("STATEMENT", "USE shop; CALL make()".to_owned()),
        ("STATEMENT", format!("XA START 's'{inserts}; XA END 's'; XA PREPARE 's'; XA COMMIT 's'")),
    ]) {
        // Each time another bridge with an empty stream, since the statement stops the former one for ever.
        world.database.exec("DELETE FROM shop.outbox; DELETE FROM shop.other").await?;
        world.jetstream.delete_stream(STREAM).await?;
        world.create_stream(STREAM).await?;
        let settings = world.settings().set("source.foreign_statements", "ignore");
        let mut bridge = Bridge::start(&settings.set("name", format!("bridge-{number}"))).await?;
        // Statements about other tables are nothing to it.
        let other = "SET binlog_format = 'STATEMENT'; INSERT INTO shop.other VALUES (1); \
                     INSERT INTO shop.other SELECT n + 1 FROM shop.other";
        world.database.exec(other).await?;
        world.insert(0..3).await?;
        world.verify(&mut bridge, Order::Total).await?;
        let before = world.last_sequence(STREAM).await;
        world.database.exec(&format!("SET binlog_format = '{format}'; {statement}")).await?;
        world.insert(10..13).await?;
        let refused = bridge.refuses(&["binlog_format", "ROW", TABLE]).await;
        refused.with_context(|| format!("{format}: {statement}"))?;
        ensure!(world.last_sequence(STREAM).await == before, "nothing after the statement is published");
        // It stays so.
        bridge.launch()?;
        bridge.refuses(&["binlog_format"]).await?;
    }
    Ok(())
}

/// A trigger may have inserted rows that the log does not show, so a statement is refused unless allowed.
#[tokio::test]
async fn statements_about_other_tables_stop_the_bridge() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.database.exec("CREATE TABLE shop.other (n INT PRIMARY KEY)").await?;
    world.insert(0..3).await?;
    world.verify(&mut bridge, Order::Total).await?;
    world.database.exec("SET binlog_format = 'STATEMENT'; INSERT INTO shop.other VALUES (1)").await?;
    world.insert(3..5).await?;
    bridge.refuses(&["binlog_format", "source.foreign_statements"]).await?;
    bridge.configure(&world.settings().set("source.foreign_statements", "ignore"))?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

#[tokio::test]
async fn statements_of_mysql_stop_the_bridge() -> Result<()> {
    statements_stop_the_bridge(Flavour::MySql).await
}

#[tokio::test]
async fn statements_of_mariadb_stop_the_bridge() -> Result<()> {
    statements_stop_the_bridge(Flavour::MariaDb).await
}

/// What the error says to do: without a checkpoint a GTID set says where the log goes on, and what the stream has is not
/// sent again.
#[tokio::test]
async fn the_bridge_goes_on_behind_a_statement_if_told_so() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..3).await?;
    world.verify(&mut bridge, Order::Total).await?;
    let before = world.last_sequence(STREAM).await;
    let statement = Event::insert_sql(TABLE, &events(3..4));
    world.database.exec(&format!("SET binlog_format = 'STATEMENT'; {statement}")).await?;
    let behind: Vec<String> = world.database.query("SELECT @@GLOBAL.gtid_executed").await?;
    world.insert(4..6).await?;
    bridge.refuses(&["binlog_format", TABLE]).await?;
    world.jetstream.get_key_value("OUTBOX_BRIDGE").await?.purge("outbox-bridge").await?;
    bridge.configure(&world.settings().set("source.start", behind.concat()))?;
    bridge.relaunch().await?;
    world.await_messages(&mut bridge, STREAM, before + 2).await?;
    ensure!(world.last_sequence(STREAM).await == before + 2, "only the rows behind the statement are new");
    bridge.stop().await
}

/// `REPLACE` of a row by one with the same id changes what is published already: it is no new event.
async fn a_replaced_row_with_the_same_id(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    let first = Event::new(0);
    first.insert(&mut conn, TABLE).await?;
    world.await_last(&mut bridge, STREAM, &first.id.to_string()).await?;
    let again = Event::insert_sql(TABLE, &[first.clone().payload("{\"n\": 99}")]);
    conn.query_drop(again.replacen("INSERT", "REPLACE", 1)).await?;
    let next = Event::new(1);
    next.insert(&mut conn, TABLE).await?;
    world.await_last(&mut bridge, STREAM, &next.id.to_string()).await?;
    let stored = world.stored(STREAM).await?;
    ensure!(stored.len() == 2, "{} messages", stored.len());
    ensure!(stored.first().is_some_and(|stored| stored.text() == first.payload), "the first one stands");
    bridge.stop().await
}

#[tokio::test]
async fn a_replaced_row_with_the_same_id_in_mysql() -> Result<()> {
    a_replaced_row_with_the_same_id(Flavour::MySql).await
}

#[tokio::test]
async fn a_replaced_row_with_the_same_id_in_mariadb() -> Result<()> {
    a_replaced_row_with_the_same_id(Flavour::MariaDb).await
}

/// A table that stores nothing: committed inserts are in the log all the same, rolled-back ones are not.
#[tokio::test]
async fn a_blackhole_table() -> Result<()> {
    let world = World::mysql().outbox(Outbox::standard().options("ENGINE=BLACKHOLE")).start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    let mut committed = events(0..10);
    for event in &committed {
        event.insert(&mut conn, TABLE).await?;
    }
    let several = events(10..20);
    conn.query_drop(format!("BEGIN; {}; COMMIT", Event::insert_sql(TABLE, &several))).await?;
    committed.extend(several);
    conn.query_drop(format!("BEGIN; {}; ROLLBACK", Event::insert_sql(TABLE, &events(20..30)))).await?;
    // With a table that stores something.
    conn.query_drop("CREATE TABLE shop.plain (n INT PRIMARY KEY) ENGINE=InnoDB").await?;
    let mixed = events(30..33);
    let insert = Event::insert_sql(TABLE, &mixed);
    conn.query_drop(format!("BEGIN; INSERT INTO shop.plain VALUES (1); {insert}; COMMIT")).await?;
    committed.extend(mixed);
    committed.extend(world.settle(&mut bridge).await?.into_iter().map(|(_, event)| event));
    let expected: Vec<_> = committed.iter().map(|event| Expected::of(TABLE, event)).collect();
    world.verify_rows(&bridge, &expected, Order::Total).await?;
    bridge.stop().await
}

/// Events of 16 MiB and more come in several packets.
#[tokio::test]
async fn events_over_sixteen_mebibytes() -> Result<()> {
    let nats = Nats::builder().max_payload(64 << 20).config("max_pending: 256MB");
    let world = World::mysql().nats(nats).start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    // About the length of one packet, where it ends in an empty one, and of nearly two: a stream takes no message of 32 MiB.
    for length in [(16 << 20) - 300, (16 << 20) - 200, (16 << 20) + 1, (31 << 20) + 17] {
        let payload = format!("{{\"x\": \"{}\"}}", "z".repeat(length));
        Event::new(1).payload(payload).insert(&mut conn, TABLE).await?;
        Event::new(2).insert(&mut conn, TABLE).await?;
    }
    conn.query_drop("SET binlog_transaction_compression = ON").await?;
    let payload = format!("{{\"x\": \"{}\"}}", "z".repeat(20 << 20));
    Event::new(3).payload(payload).insert(&mut conn, TABLE).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

/// A row that does not fit into a message cannot be published, and nothing after it is.
#[tokio::test]
async fn a_row_larger_than_a_message_stops_the_bridge() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..2).await?;
    world.verify(&mut bridge, Order::Total).await?;
    let payload = format!("{{\"x\": \"{}\"}}", "z".repeat(1 << 20));
    Event::new(3).payload(payload).insert(&mut world.conn().await?, TABLE).await?;
    world.insert(10..12).await?;
    bridge.refuses(&["max_payload"]).await?;
    ensure!(world.stored(STREAM).await?.len() == 3, "nothing after the large row is published");
    Ok(())
}

/// Whatever other tables hold, it is never decoded.
async fn rows_of_other_tables(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    // Names like those of the outbox, exotic types, texts that are no UTF-8.
    conn.query_drop(
        "CREATE DATABASE other; \
         CREATE TABLE other.outbox (n INT PRIMARY KEY, t VARCHAR(100) CHARACTER SET latin1, b BLOB); \
         CREATE TABLE shop.outbox2 (id BINARY(16) PRIMARY KEY); \
         CREATE TABLE shop.`out``box.ü` (n INT PRIMARY KEY, g GEOMETRY, b BIT(64), d DECIMAL(65, 30), t TIME(6), \
           y YEAR, s SET('a', 'b'), e ENUM('x', 'y'), u VARCHAR(10) CHARACTER SET utf16, f FLOAT, j JSON)",
    )
    .await?;
    for round in 0..20_u64 {
        conn.query_drop(format!(
            "BEGIN; \
             INSERT INTO other.outbox VALUES ({round}, X'FFFEE9', X'00FF'); \
             INSERT INTO shop.outbox2 VALUES (UNHEX(LEFT(SHA2({round}, 256), 32))); \
             INSERT INTO shop.`out``box.ü` VALUES ({round}, ST_GeomFromText('POINT(1 2)'), b'1010', -1.5, \
               '-838:59:58.999', 1999, 'a,b', 'y', 'ü', -0.0, '{{\"a\": [1, 2.5, null]}}'); \
             {}; \
             UPDATE shop.`out``box.ü` SET t = '-00:00:01', j = JSON_SET(j, '$.a[0]', 'x') WHERE n = {round}; \
             DELETE FROM other.outbox WHERE n = {round}; \
             COMMIT",
            Event::insert_sql(TABLE, [&Event::new(round)])
        ))
        .await?;
    }
    // Large ones between ours.
    conn.query_drop("CREATE TABLE shop.large (n INT AUTO_INCREMENT PRIMARY KEY, x LONGTEXT)").await?;
    conn.query_drop(format!(
        "BEGIN; INSERT INTO shop.large (x) VALUES (REPEAT('x', 1000)); {} {}; COMMIT",
        "INSERT INTO shop.large (x) SELECT x FROM shop.large;".repeat(14),
        Event::insert_sql(TABLE, &events(100..103))
    ))
    .await?;
    conn.query_drop("INSERT INTO shop.large (x) VALUES (REPEAT('y', 40000000))").await?;
    conn.query_drop("TRUNCATE TABLE shop.large; DROP TABLE other.outbox").await?;
    world.verify(&mut bridge, Order::Total).await?;
    ensure!(bridge.metric("outbox_foreign_rows_skipped_total").await? > 0.0);
    bridge.stop().await
}

#[tokio::test]
async fn rows_of_other_tables_of_mysql() -> Result<()> {
    rows_of_other_tables(Flavour::MySql).await
}

#[tokio::test]
async fn rows_of_other_tables_of_mariadb() -> Result<()> {
    rows_of_other_tables(Flavour::MariaDb).await
}
