//! A committed row becomes a message: tables, columns, streams, subjects and headers.

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Expected, Order, Outbox, STREAM, Stored, TABLE, World, oracle};
use outbox_event::{header, subject};
use testbed::Flavour;
use uuid::Uuid;

/// Expects a header's value.
fn expect(message: &Stored, name: &str, wanted: &str) -> Result<()> {
    let found = message.header(name);
    ensure!(found == wanted, "message {}: {name} is {found:?} instead of {wanted:?}", message.sequence);
    Ok(())
}

async fn the_first_event_arrives(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = world.bridge().await?;
    let event = Event::new(7).headers(r#"{"traceparent": "00-aa-bb-01"}"#);
    event.insert(&mut world.conn().await?, TABLE).await?;
    world.await_last(&mut bridge, STREAM, &event.id.to_string()).await?;

    let stored = world.stored(STREAM).await?;
    ensure!(stored.len() == 1, "{} messages", stored.len());
    for message in &stored {
        ensure!(message.subject == "orders.order.placed", "{}", message.subject);
        ensure!(message.text() == r#"{"n": 7}"#, "{}", message.text());
        expect(message, header::MESSAGE_ID, &event.id.to_string())?;
        expect(message, "traceparent", "00-aa-bb-01")?;
        let position = message.position()?;
        let gtids: Vec<String> = match flavour {
            Flavour::MySql => world.database.query("SELECT @@gtid_executed").await?,
            Flavour::MariaDb => world.database.query("SELECT @@gtid_binlog_pos").await?,
        };
        let gtid_end = position.gtid.rsplit([':', '-']).next().unwrap_or_default().to_owned();
        ensure!(gtids.iter().any(|set| set.ends_with(&gtid_end)), "{position} is not the last of {gtids:?}");
        if flavour == Flavour::MySql {
            let uuid: Vec<String> = world.database.query("SELECT @@server_uuid").await?;
            ensure!(uuid.iter().any(|uuid| position.gtid.starts_with(uuid)), "{position}, not of {uuid:?}");
        }
    }
    world.verify(&mut bridge, Order::Total).await?;
    let published = bridge.metric("outbox_events_published_total").await?;
    ensure!((1.0..=2.0).contains(&published), "{published} events counted");
    bridge.stop().await
}

#[tokio::test]
async fn the_first_event_arrives_from_mysql() -> Result<()> {
    the_first_event_arrives(Flavour::MySql).await
}

#[tokio::test]
async fn the_first_event_arrives_from_mariadb() -> Result<()> {
    the_first_event_arrives(Flavour::MariaDb).await
}

/// Two schemas, three tables, two streams, written by turns in common transactions.
#[tokio::test]
async fn several_tables_go_to_several_streams() -> Result<()> {
    let outboxes = [
        Outbox::new("shop.outbox", STREAM, "orders.{type}"),
        Outbox::new("shop.audit", STREAM, "audit.{schema}.{table}.{type}"),
        Outbox::new("`billing-eu`.`out.box`", "BILLING", "billing.{table}.{aggregate_id}"),
    ];
    let world = outboxes.into_iter().fold(World::mysql(), |world, outbox| world.outbox(outbox));
    let world = world.start().await?;
    let mut bridge = world.bridge().await?;

    let tables = [
        ("shop.outbox", "shop.outbox", STREAM),
        ("shop.audit", "shop.audit", STREAM),
        ("`billing-eu`.`out.box`", "billing-eu.`out.box`", "BILLING"),
    ];
    let mut conn = world.conn().await?;
    let mut expected: Vec<(&str, Expected)> = Vec::new();
    for round in 0..20 {
        conn.query_drop("BEGIN").await?;
        for (number, (table, name, stream)) in (0_u64..).zip(tables.iter().cycle().skip(round).take(5)) {
            let event = Event::new(round as u64 * 10 + number);
            event.insert(&mut conn, table).await?;
            expected.push((stream, Expected::of(name, &event)));
        }
        conn.query_drop("COMMIT").await?;
    }
    for (table, event) in world.settle(&mut bridge).await? {
        let (_, name, stream) = tables.iter().find(|(sql, ..)| *sql == table).expect("a table of ours");
        expected.push((stream, Expected::of(name, &event)));
    }
    for stream in [STREAM, "BILLING"] {
        let rows: Vec<_> =
            expected.iter().filter(|(of, _)| *of == stream).map(|(_, row)| row.clone()).collect();
        let stored = world.stored(stream).await?;
        oracle::compare(&rows, &stored, Order::Total).map_err(|error| bridge.explain(error))?;
        for (row, message) in rows.iter().zip(&stored) {
            let subject = match row.table.as_str() {
                "shop.outbox" => "orders.placed".to_owned(),
                "shop.audit" => "audit.shop.audit.placed".to_owned(),
                _ => format!("billing.out%2Ebox.{}", row.aggregate_id.replace(' ', "%20")),
            };
            ensure!(message.subject == subject, "{} instead of {subject}", message.subject);
        }
    }
    bridge.stop().await
}

/// The layout of Debezium's outbox event router, by configuration alone.
#[tokio::test]
async fn a_table_laid_out_for_debezium() -> Result<()> {
    let layout = "id CHAR(36) NOT NULL PRIMARY KEY, aggregatetype VARCHAR(255) NOT NULL, \
        aggregateid VARCHAR(255) NOT NULL, type VARCHAR(255) NOT NULL, payload JSON NULL";
    let outbox = Outbox::new("shop.outboxevent", STREAM, "outbox.event.{aggregate_type}")
        .layout(layout)
        .set("columns.aggregate_type", "aggregatetype")
        .set("columns.aggregate_id", "aggregateid")
        .set("source", "urn:example:shop");
    let world = World::mysql().outbox(outbox).start().await?;
    let mut bridge = world.bridge().await?;
    let id = Uuid::new_v4();
    let sql = format!(
        "INSERT INTO shop.outboxevent VALUES ('{id}', 'order', '17', 'OrderCreated', '{{\"total\": 12.50}}'); \
         DELETE FROM shop.outboxevent"
    );
    world.database.exec(&sql).await?;
    world.await_last(&mut bridge, STREAM, &id.to_string()).await?;
    let stored = world.stored(STREAM).await?;
    ensure!(stored.len() == 1, "a delete is no event: {} messages", stored.len());
    for message in &stored {
        ensure!(message.subject == "outbox.event.order", "{}", message.subject);
        ensure!(message.text() == r#"{"total": 12.5}"#, "{}", message.text());
        expect(message, header::CE_SUBJECT, "17")?;
        expect(message, header::CE_TYPE, "OrderCreated")?;
        expect(message, header::CE_SOURCE, "urn:example:shop")?;
    }
    bridge.stop().await
}

#[tokio::test]
async fn hostile_values_stay_one_subject_token_each() -> Result<()> {
    let outbox = Outbox::new(TABLE, STREAM, "orders.{aggregate_type}.{type}.{partition_key}");
    let world = World::mysql().outbox(outbox).start().await?;
    let mut bridge = world.bridge().await?;
    let values = [
        "a.b",
        "*",
        ">",
        "",
        " ",
        "a b",
        "$JS",
        "$JS.API.STREAM.DELETE.ORDERS",
        "%",
        "%2E",
        "é",
        "日本",
        "\t",
        "\r\n",
        "\0",
        "..",
        "a\u{200b}",
        "🦀",
        "'",
        "\\",
        "{type}",
        "A",
        "a",
    ];
    let mut conn = world.conn().await?;
    let mut events = Vec::new();
    for value in values {
        let mut event = Event::new(1);
        event.aggregate_type = value.to_owned();
        event.event_type = value.to_owned();
        event.aggregate_id = value.to_owned();
        event.insert(&mut conn, TABLE).await?;
        events.push(event);
    }
    world.verify(&mut bridge, Order::Total).await?;
    let stored = world.stored(STREAM).await?;
    let mut subjects = std::collections::HashSet::new();
    for (event, message) in events.iter().zip(&stored) {
        let mut token = String::new();
        subject::encode_token(&event.event_type, &mut token);
        ensure!(message.subject == format!("orders.{token}.{token}.{token}"), "{}", message.subject);
        ensure!(subjects.insert(message.subject.clone()), "two values have the subject {}", message.subject);
    }
    bridge.stop().await
}

#[tokio::test]
async fn headers_of_a_row_neither_steer_nor_forge() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    let headers = r#"{
        "Nats-Expected-Last-Sequence": "999", "nats-msg-id": "forged", "Nats-Rollup": "all", "Nats-TTL": "1s",
        "ce-id": "forged", "CE-Type": "forged", "Content-Type": "text/html", "Outbox-Position": "forged",
        "line": "one\r\nce-source: forged", "bad\r\nname: x": "y", "": "no name", "none": null,
        "number": 1.50, "object": {"a": [1, true]}, "unicode": "é", "tracestate": "a=b,c=d"
    }"#;
    let mut conn = world.conn().await?;
    let event = Event::new(1).headers(headers);
    event.insert(&mut conn, TABLE).await?;
    Event::new(2).headers("{}").insert(&mut conn, TABLE).await?;
    Event::new(3).headers("null").insert(&mut conn, TABLE).await?;
    // Checks that there is each envelope header once, with the right value.
    world.verify(&mut bridge, Order::Total).await?;

    let stored = world.stored(STREAM).await?;
    let message = stored.first().expect("verified");
    for (name, value) in [
        (header::MESSAGE_ID, event.id.to_string().as_str()),
        ("Outbox-App-Nats-Expected-Last-Sequence", "999"),
        ("Outbox-App-nats-msg-id", "forged"),
        ("Outbox-App-Nats-Rollup", "all"),
        ("Outbox-App-Nats-TTL", "1s"),
        ("Outbox-App-ce-id", "forged"),
        ("Outbox-App-CE-Type", "forged"),
        ("Outbox-App-Content-Type", "text/html"),
        ("Outbox-App-Outbox-Position", "forged"),
        ("line", "one%0D%0Ace-source: forged"),
        ("bad%0D%0Aname%3A%20x", "y"),
        ("none", ""),
        ("number", "1.5"),
        ("object", r#"{"a":[1,true]}"#),
        ("unicode", "é"),
        ("tracestate", "a=b,c=d"),
    ] {
        expect(message, name, value)?;
    }
    ensure!(message.headers.get("none").is_none(), "a header that is null is left out");
    bridge.stop().await
}

/// Text and bytes go through untouched; content type, partition key and headers come from columns.
#[tokio::test]
async fn mapped_columns_and_payloads_of_bytes() -> Result<()> {
    let layout = "number INT PRIMARY KEY, event VARBINARY(16), kind VARCHAR(20), whom VARCHAR(20), what VARCHAR(20), \
        body LONGBLOB, words LONGTEXT, media VARCHAR(100), ordering VARCHAR(20), more JSON";
    let mapped = |table: &str, payload: &str, stream: &str, subject: &str| {
        Outbox::new(table, stream, subject)
            .layout(layout)
            .set("columns.id", "event")
            .set("columns.aggregate_type", "kind")
            .set("columns.aggregate_id", "whom")
            .set("columns.type", "what")
            .set("columns.payload", payload)
            .set("columns.headers", "more")
            .set("columns.content_type", "media")
            .set("columns.partition_key", "ordering")
    };
    let world = World::mysql()
        .outbox(mapped("shop.bytes", "body", "BYTES", "bytes.{partition_key}"))
        .outbox(mapped("shop.words", "words", "WORDS", "words.{id}"))
        .start()
        .await?;
    let mut bridge = world.bridge().await?;
    let bodies: Vec<Vec<u8>> = vec![
        (0..=255).collect(),
        b"\x08\x96\x01\x12\x07testing\x00\xff\xfe".to_vec(),
        Vec::new(),
        vec![0; 100_000],
        b"{\"not\": \"normalised\",   \"a\":1}".to_vec(),
    ];
    let words = ["", "plain", " spaces  kept ", "{\"b\":1,   \"a\":2}", "línea\r\n日本 🦀\0end"];
    let mut conn = world.conn().await?;
    for (number, (body, word)) in bodies.iter().zip(words).enumerate() {
        let media = if number == 1 { None } else { Some("application/x-protobuf; v=1") };
        let ordering = if number == 2 { None } else { Some("key a") };
        for table in ["shop.bytes", "shop.words"] {
            let id = vec![u8::try_from(number)?; if number == 3 { 3 } else { 16 }];
            conn.exec_drop(
                format!("INSERT INTO {table} VALUES (?, ?, 'k', 'of', 'what', ?, ?, ?, ?, '{{\"x\": 1}}')"),
                (number, id, body, word, media, ordering),
            )
            .await?;
        }
    }
    world.await_messages(&mut bridge, "BYTES", 5).await?;
    world.await_messages(&mut bridge, "WORDS", 5).await?;
    for (number, message) in world.stored("BYTES").await?.iter().enumerate() {
        ensure!(
            Some(message.body.as_ref()) == bodies.get(number).map(Vec::as_slice),
            "body {number} differs"
        );
        expect(
            message,
            header::CONTENT_TYPE,
            if number == 1 { "application/json" } else { "application/x-protobuf; v=1" },
        )?;
        expect(message, header::CE_PARTITION_KEY, if number == 2 { "of" } else { "key%20a" })?;
        expect(message, "x", "1")?;
        ensure!(
            message.subject == if number == 2 { "bytes.of" } else { "bytes.key%20a" },
            "{}",
            message.subject
        );
    }
    for (number, message) in world.stored("WORDS").await?.iter().enumerate() {
        ensure!(
            Some(message.text().as_str()) == words.get(number).copied(),
            "text {number} is {:?}",
            message.text()
        );
        let digits = format!("{number:02x}");
        let id = if number == 3 {
            digits.repeat(3)
        } else {
            Uuid::from_bytes([u8::try_from(number)?; 16]).to_string()
        };
        expect(message, header::CE_ID, &id)?;
        ensure!(message.subject == format!("words.{id}"), "{}", message.subject);
    }
    bridge.stop().await
}

#[tokio::test]
async fn ids_of_mariadbs_uuid_type() -> Result<()> {
    let layout = "id UUID NOT NULL PRIMARY KEY, aggregate_type VARCHAR(64), aggregate_id UUID, type VARCHAR(128), \
        payload LONGTEXT";
    let world = World::mariadb().outbox(Outbox::standard().layout(layout)).start().await?;
    let mut bridge = world.bridge().await?;
    let ids = [
        Uuid::new_v4(),
        Uuid::now_v7(),
        Uuid::nil(),
        Uuid::max(),
        // MariaDB stores version 1 with its parts swapped.
        "8ac3bd30-5f0e-11ee-8c99-0242ac120002".parse()?,
    ];
    let mut conn = world.conn().await?;
    for id in ids {
        conn.exec_drop(
            format!("INSERT INTO {TABLE} VALUES (?, 'order', ?, 'placed', '{{}}')"),
            (id.to_string(), id.to_string()),
        )
        .await?;
    }
    world.await_messages(&mut bridge, STREAM, ids.len() as u64).await?;
    for (id, message) in ids.iter().zip(world.stored(STREAM).await?) {
        expect(&message, header::CE_ID, &id.to_string())?;
        expect(&message, header::CE_SUBJECT, &id.to_string())?;
    }
    bridge.stop().await
}

/// Where the first start begins.
async fn first_starts(flavour: Flavour) -> Result<()> {
    for start in ["now", "earliest", "GTIDs"] {
        let world = World::of(flavour).start().await?;
        world.insert(0..5).await?;
        let gtids = match flavour {
            Flavour::MySql => "SELECT @@gtid_executed",
            Flavour::MariaDb => "SELECT @@gtid_binlog_pos",
        };
        let gtids: Vec<String> = world.database.query(gtids).await?;
        let gtids = gtids.first().expect("one row").replace('\n', "");
        world.insert(5..10).await?;
        world.database.exec("FLUSH BINARY LOGS").await?;
        world.insert(10..12).await?;
        let (text, skipped) = match start {
            "GTIDs" => (gtids.as_str(), 5),
            "earliest" => (start, 0),
            _ => (start, 12),
        };
        let mut bridge = Bridge::start(&world.settings().set("source.start", text)).await?;
        world.insert(12..15).await?;
        world.settle(&mut bridge).await?;
        let rows = Expected::rows(&world.database, TABLE, "seq").await?;
        let rows: Vec<_> = rows.into_iter().skip(skipped).collect();
        let checked = world.verify_rows(&bridge, &rows, Order::Total).await;
        checked.map_err(|error| error.context(format!("start = {start:?}")))?;
        // A second start goes on where the stream ends, whatever `start` says.
        bridge.stop().await?;
        world.insert(15..18).await?;
        bridge.relaunch().await?;
        world.settle(&mut bridge).await?;
        let rows = Expected::rows(&world.database, TABLE, "seq").await?;
        let rows: Vec<_> = rows.into_iter().skip(skipped).collect();
        world.verify_rows(&bridge, &rows, Order::Total).await?;
        bridge.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn first_starts_with_mysql() -> Result<()> {
    first_starts(Flavour::MySql).await
}

#[tokio::test]
async fn first_starts_with_mariadb() -> Result<()> {
    first_starts(Flavour::MariaDb).await
}
