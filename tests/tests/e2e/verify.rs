//! `outbox-bridge verify`: what is planted in a real stream or table is found, and nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream;
use outbox_bridge_tests::{Bridge, Event, Load, LoadOptions, Outbox, STREAM, Settings, TABLE, World};
use serde_json::Value;
use testbed::{Flavour, eventually};

/// What the command says of the streams, and its exit code. Does not hold up the test's other tasks.
async fn verify(settings: &Settings, arguments: &[&str]) -> Result<(i32, Vec<Value>)> {
    let settings = settings.clone().set("log.level", "warn");
    let arguments = [&["verify", "--json"], arguments].concat();
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let run = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Bridge::once(&settings, &arguments)
    };
    let (code, text) = tokio::task::spawn_blocking(run).await??;
    let line = text.lines().find(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("verify ended with {code}:\n{text}"))?;
    let all: Value = serde_json::from_str(line)?;
    let streams = all.get("streams").and_then(Value::as_array).context("no streams")?.clone();
    Ok((code, streams))
}

/// Expects these numbers of the only stream, and of all others that say what is wrong 0.
fn expect(streams: &[Value], numbers: &[(&str, u64)]) -> Result<()> {
    let [report] = streams else { anyhow::bail!("{} streams", streams.len()) };
    let of = |name: &str| report.get(name).and_then(Value::as_u64);
    for name in
        ["missing", "doubled", "reordered", "altered", "unsendable", "unpublished", "before_start", "gone"]
    {
        let expected = numbers.iter().find(|(number, _)| *number == name).map_or(0, |(_, number)| *number);
        ensure!(of(name) == Some(expected), "{name} is not {expected}: {report}");
    }
    for (name, expected) in numbers {
        ensure!(of(name) == Some(*expected), "{name} is not {expected}: {report}");
    }
    Ok(())
}

/// The findings of a kind, each as its id, its message and its detail.
fn findings(streams: &[Value], kind: &str) -> Vec<(String, u64, String)> {
    let all = streams.iter().filter_map(|report| report.get("findings")?.as_array()).flatten();
    let text = |finding: &Value, name: &str| {
        finding.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    all.filter(|finding| text(finding, "kind") == kind)
        .map(|finding| {
            let sequence = finding.get("sequence").and_then(Value::as_u64).unwrap_or(0);
            (text(finding, "id"), sequence, text(finding, "detail"))
        })
        .collect()
}

/// Rows with what is hard to compare: texts of all kinds in headers and values.
async fn insert_hard_ones(world: &World) -> Result<u64> {
    let mut conn = world.conn().await?;
    let headers = [
        r#"{"a": "  spaces  ", "é": "größe", "n": 1.50, "o": {"b": [1, null]}, "Nats-Msg-Id": "x", "ce-id": "y", "none": null, "": "z"}"#,
        r#"{"line": "a\r\nb", "Content-Type": "text/plain", "a": ""}"#,
    ];
    let payloads = [r#"{"b": 1, "a": [1.0, 1e3, "größe", "\u0000"]}"#, "\"\"", "null", "[]"];
    let mut number = 1_000;
    for headers in headers {
        for payload in payloads {
            let mut event = Event::new(number).headers(headers).payload(payload);
            event.aggregate_id = " it's 100% größe\t".to_owned();
            event.event_type = "a.b c>*".to_owned();
            event.insert(&mut conn, TABLE).await?;
            number += 1;
        }
    }
    conn.disconnect().await?;
    Ok(number - 1_000)
}

async fn what_is_planted_is_found(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let settings = world.settings().set("checkpoint.interval", "100ms");
    let mut bridge = Bridge::start(&settings).await?;
    pass_the_start(&world).await?;
    let events = world.insert(0..40).await?;
    let hard = insert_hard_ones(&world).await?;
    world.settle(&mut bridge).await?;
    let rows = 40 + hard + 1;
    let (code, streams) = verify(&settings, &[]).await?;
    expect(
        &streams,
        &[("rows", rows), ("messages", rows), ("matched", rows), ("without_row", 0), ("foreign", 0)],
    )?;
    ensure!(code == 0, "{code}: {streams:?}");

    // The last one is missing as soon as a checkpoint says that it was stored; a bridge that runs would not mind.
    let handle = world.jetstream.get_stream(STREAM).await?;
    bridge.stop().await?;
    let stored = world.stored(STREAM).await?;
    handle.delete_message(rows).await?;
    let (code, streams) = verify(&settings, &[]).await?;
    expect(&streams, &[("missing", 1), ("matched", rows - 1)])?;
    ensure!(code == 65, "{code}: {streams:?}");

    let at = |sequence: usize| stored.get(sequence - 1).context("a message");
    let client = world.nats.client().await?;
    handle.delete_message(12).await?;
    // A double; one that was altered, and stands out of order; one that only stands out of order.
    at(5)?.publish_again(&client, at(5)?.body.clone()).await?;
    handle.delete_message(20).await?;
    at(20)?.publish_again(&client, "{}").await?;
    handle.delete_message(25).await?;
    at(25)?.publish_again(&client, at(25)?.body.clone()).await?;
    client.publish("orders.x", "no event".into()).await?;
    client.flush().await?;
    // And in the table.
    world.database.exec(&format!("UPDATE {TABLE} SET type = 'other' WHERE seq = 30")).await?;
    for arguments in [&[][..], &["--memory-max", "2KiB", "--chunk-rows", "7"]] {
        let (code, streams) = verify(&settings, arguments).await?;
        ensure!(code == 65, "{code}: {streams:?}");
        // Behind the copy, which is an earlier one, the other two ascend again.
        let expected = [
            ("missing", 2),
            ("doubled", 1),
            ("altered", 2),
            ("reordered", 0),
            ("foreign", 1),
            ("matched", rows - 2),
        ];
        expect(&streams, &expected)?;
        let id = |number: usize| events.get(number).map(|event| event.id.to_string()).unwrap_or_default();
        let found = |kind| findings(&streams, kind);
        ensure!(found("missing").iter().any(|(missing, ..)| *missing == id(11)), "{streams:?}");
        ensure!(found("doubled") == [(id(4), rows + 1, String::new())], "{streams:?}");
        let altered = found("altered");
        let has = |id: String, sequence, detail: &str| altered.contains(&(id, sequence, detail.to_owned()));
        ensure!(has(id(19), rows + 2, "body"), "{streams:?}");
        ensure!(has(id(29), 30, "subject, header ce-type"), "{streams:?}");
        let parts = streams.first().and_then(|report| report.get("passes")?.as_u64()).unwrap_or(0);
        ensure!((parts > 1) != arguments.is_empty(), "{parts} parts");
    }
    // A part of the table: from the 31st row to the 35th all is well, but for what the whole stream shows.
    let (code, streams) = verify(&settings, &["--from", "31", "--to", "35", "--outbox", TABLE]).await?;
    expect(&streams, &[("rows", 5), ("matched", 5), ("doubled", 1)])?;
    ensure!(code == 65, "{code}: {streams:?}");
    let (code, text) = Bridge::once(&settings, &["verify"])?;
    ensure!(
        code == 65 && text.contains("2 missing, 1 doubled, 0 out of order, 2 altered"),
        "{code}:\n{text}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_planted_is_found_with_mysql() -> Result<()> {
    Box::pin(what_is_planted_is_found(Flavour::MySql)).await
}

#[tokio::test]
async fn what_is_planted_is_found_with_mariadb() -> Result<()> {
    Box::pin(what_is_planted_is_found(Flavour::MariaDb)).await
}

/// Waits until rows are certainly later than the bridge's first start.
async fn pass_the_start(world: &World) -> Result<()> {
    world.database.exec("DO SLEEP(1.5)").await
}

/// One message too early breaks the order; the others stand where they must.
#[tokio::test]
async fn what_is_out_of_order_is_found() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    pass_the_start(&world).await?;
    let events = world.insert(0..10).await?;
    world.await_messages(&mut bridge, STREAM, 10).await?;
    bridge.stop().await?;
    let stored = world.stored(STREAM).await?;
    let (early, handle) = (stored.get(3).context("a message")?, world.jetstream.get_stream(STREAM).await?);
    handle.delete_message(4).await?;
    early.publish_again(&world.nats.client().await?, early.body.clone()).await?;
    let (code, streams) = verify(&world.settings(), &[]).await?;
    ensure!(code == 65, "{code}: {streams:?}");
    expect(&streams, &[("reordered", 1), ("matched", 10)])?;
    let id = events.get(3).map(|event| event.id.to_string()).unwrap_or_default();
    ensure!(findings(&streams, "reordered") == [(id, 11, String::new())], "{streams:?}");
    Ok(())
}

/// What is late, what the bridge never read, and what the stream has dropped is told apart and is not wrong.
async fn what_is_not_missing(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let settings = world.settings().set("checkpoint.interval", "100ms");
    let refused = Bridge::once(&settings, &["verify"])?;
    ensure!(refused.0 == 78 && refused.1.contains("there is no checkpoint"), "{refused:?}");
    world.insert(0..3).await?;
    let mut bridge = Bridge::start(&settings).await?;
    pass_the_start(&world).await?;
    world.insert(3..10).await?;
    world.await_messages(&mut bridge, STREAM, 7).await?;
    bridge.kill()?;
    world.insert(10..15).await?;
    let (code, streams) = verify(&settings, &[]).await?;
    ensure!(code == 0, "{code}: {streams:?}");
    expect(&streams, &[("before_start", 3), ("matched", 7), ("unpublished", 5)])?;

    bridge.relaunch().await?;
    world.await_messages(&mut bridge, STREAM, 12).await?;
    world.jetstream.get_stream(STREAM).await?.purge().keep(4).await?;
    let (code, streams) = verify(&settings, &[]).await?;
    ensure!(code == 0, "{code}: {streams:?}");
    expect(&streams, &[("before_start", 3), ("matched", 4), ("gone", 8)])?;
    world.jetstream.get_stream(STREAM).await?.purge().await?;
    // Now only the checkpoint tells that they were stored, and it may be a moment behind.
    eventually("the checkpoint to cover all rows", Duration::from_secs(60), async || {
        let (code, streams) = verify(&settings, &[]).await?;
        ensure!(code == 0, "{code}: {streams:?}");
        Ok(expect(&streams, &[("before_start", 3), ("gone", 12)]).is_ok().then_some(()))
    })
    .await?;
    bridge.stop().await
}

#[tokio::test]
async fn what_is_not_missing_with_mysql() -> Result<()> {
    what_is_not_missing(Flavour::MySql).await
}

#[tokio::test]
async fn what_is_not_missing_with_mariadb() -> Result<()> {
    what_is_not_missing(Flavour::MariaDb).await
}

/// A stream that is consumed cannot be read beside its consumers; servers that are away are told from findings.
#[tokio::test]
async fn what_cannot_be_compared_is_said() -> Result<()> {
    let world = World::mysql().start().await?;
    world.retain(stream::RetentionPolicy::WorkQueue).await?;
    let (code, text) = Bridge::once(&world.settings(), &["verify"])?;
    ensure!(code == 78 && text.contains("its retention is not `limits`"), "{code}:\n{text}");
    let (code, text) = Bridge::once(&world.settings(), &["verify", "--outbox", "shop.other"])?;
    ensure!(code == 78 && text.contains("no [[outbox]] has the table shop.other"), "{code}:\n{text}");
    let away = world.settings().set("source.url", world.database_url_at(1));
    let (code, text) = Bridge::once(&away, &["verify"])?;
    ensure!(code == 78 && text.contains("its retention is not"), "{code}:\n{text}");
    world.jetstream.delete_stream(STREAM).await?;
    world.create_stream(STREAM).await?;
    let (code, text) = Bridge::once(&away, &["verify"])?;
    ensure!(code == 69, "{code}:\n{text}");
    Ok(())
}

/// Beside a bridge that publishes all the time, is killed, and cleans up behind itself, nothing is found; two tables share the
/// stream, with the same ids.
async fn nothing_is_found_under_load(flavour: Flavour) -> Result<()> {
    let second = Outbox::new("shop.second", STREAM, "orders.second.{type}");
    let world =
        World::of(flavour).outbox(Outbox::standard().set("retention", "5s")).outbox(second).start().await?;
    world.database.exec(&format!("GRANT DELETE ON {TABLE} TO 'bridge'@'%'")).await?;
    let settings = world
        .settings()
        .set("checkpoint.interval", "100ms")
        .set("cleanup.interval", "200ms")
        .set("publish.message_id", false);
    let mut bridge = Bridge::start(&settings).await?;
    pass_the_start(&world).await?;
    let copies = "CREATE TRIGGER shop.copy AFTER INSERT ON shop.outbox FOR EACH ROW INSERT INTO shop.second (id, aggregate_type, \
                  aggregate_id, type, payload) VALUES (NEW.id, NEW.aggregate_type, NEW.aggregate_id, NEW.type, NEW.payload)";
    world.database.exec(copies).await?;
    // So much that all fits into a few parts.
    let options = LoadOptions { pause: Duration::from_millis(20), rows_max: 4, ..LoadOptions::default() };
    let load = Load::start(&world, &options).await?;
    load.await_more(50).await?;
    for round in 0..4 {
        let small = ["--memory-max", "256KiB", "--chunk-rows", "100"];
        let arguments = if round % 2 == 0 { &[][..] } else { &small };
        let (code, streams) = verify(&settings, arguments).await?;
        ensure!(code == 0, "{code}: {streams:?}\n{}", bridge.log());
        let matched = streams.first().and_then(|report| report.get("matched")?.as_u64()).unwrap_or(0);
        ensure!(matched > 20, "{streams:?}");
        match round {
            0 => bridge.kill()?,
            1 => bridge.relaunch().await?,
            _ => {}
        }
        load.await_more(50).await?;
    }
    load.stop().await?;
    let settled = eventually("everything to be published", Duration::from_secs(60), async || {
        let (code, streams) = verify(&settings, &[]).await?;
        ensure!(code == 0, "{code}: {streams:?}\n{}", bridge.log());
        let late = streams.first().and_then(|report| report.get("unpublished")?.as_u64());
        Ok((late == Some(0)).then_some(()))
    });
    settled.await?;
    bridge.stop().await
}

#[tokio::test]
async fn nothing_is_found_under_load_with_mysql() -> Result<()> {
    nothing_is_found_under_load(Flavour::MySql).await
}

#[tokio::test]
async fn nothing_is_found_under_load_with_mariadb() -> Result<()> {
    nothing_is_found_under_load(Flavour::MariaDb).await
}

/// A bridge that is stopped by a row that can be no message has not lost those behind it.
#[tokio::test]
async fn what_waits_behind_a_row_that_can_be_no_message_is_not_missing() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = world.settings();
    let mut bridge = Bridge::start(&settings).await?;
    world.pass_the_start().await?;
    world.insert(0..5).await?;
    world.await_messages(&mut bridge, STREAM, 5).await?;
    let mut conn = world.conn().await?;
    Event::new(5).headers("[]").insert(&mut conn, TABLE).await?;
    conn.disconnect().await?;
    world.insert(6..10).await?;
    ensure!(bridge.exit_code(Duration::from_secs(60)).await? == 78);
    let (code, streams) = verify(&settings, &[]).await?;
    ensure!(code == 65, "{code}: {streams:?}");
    expect(&streams, &[("unsendable", 1), ("unpublished", 4), ("matched", 5)])
}
