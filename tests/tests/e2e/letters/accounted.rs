//! A row that is a dead letter is neither deleted from its table nor called missing, until the letter is done with.

use super::*;

async fn rows(world: &World) -> Result<u64> {
    let counts: Vec<u64> = world.database.query(&format!("SELECT COUNT(*) FROM {TABLE}")).await?;
    Ok(counts.into_iter().sum())
}

async fn await_rows(world: &World, bridge: &mut Bridge, expected: u64) -> Result<()> {
    let waiting = format!("{expected} rows to be left");
    let left = eventually(&waiting, LIMIT, async || {
        bridge.check_running()?;
        Ok((rows(world).await? == expected).then_some(()))
    });
    let left = left.await;
    left.map_err(|error| bridge.explain(error))
}

/// Waits until the audit has been made once more.
async fn await_audit(bridge: &mut Bridge) -> Result<()> {
    const CHECKED: &str = "outbox_audit_checked_rows_total";
    let before = bridge.metric(CHECKED).await?;
    eventually("an audit", LIMIT, async || Ok((bridge.metric(CHECKED).await? > before).then_some(()))).await
}

/// The settings of a bridge that parks and cleans up.
async fn cleaning(world: &World) -> Result<Settings> {
    create_letters(world).await?;
    world.database.exec(&format!("GRANT DELETE ON {TABLE} TO 'bridge'@'%'")).await?;
    let settings = world.settings().set("poison.action", "dead_letter").set("poison.stream", LETTERS);
    Ok(settings.set("checkpoint.interval", "100ms").set("cleanup.pause", "1ms"))
}

#[tokio::test]
async fn a_row_stays_as_long_as_its_letter_is_open() -> Result<()> {
    let world = World::mysql().outbox(Outbox::standard().set("retention", "0s")).start().await?;
    let settings = cleaning(&world).await?.set("audit.interval", "1s");
    let slow = settings.clone().set("cleanup.interval", "1h");
    let mut bridge = Bridge::start(&slow).await?;
    world.pass_the_start().await?;
    let mut conn = world.conn().await?;
    conn.query_drop(Event::insert_sql(TABLE, &[Event::new(0), large(1), Event::new(2)])).await?;
    await_letters(&world, &mut bridge, 1).await?;

    await_audit(&mut bridge).await?;
    ensure!(bridge.metric("outbox_audit_missing_total").await? == 0.0, "{}", bridge.log());
    let (code, text) = Bridge::once(&slow, &["verify", "--json"])?;
    ensure!(code == 0 && text.contains("\"parked\":1") && text.contains("\"missing\":0"), "{code}: {text}");

    bridge.stop().await?;
    bridge.configure(&settings.set("cleanup.interval", "200ms"))?;
    bridge.relaunch().await?;
    await_rows(&world, &mut bridge, 1).await?;
    let id: Vec<String> = world.database.query(&format!("SELECT HEX(id) FROM {TABLE}")).await?;
    ensure!(letters(&world).await?.iter().all(|(letter, _)| letter.replace('-', "").to_uppercase() == id[0]));

    let (code, text) = Bridge::once(&slow, &["dead-letters", "drop", "--all", "--yes"])?;
    ensure!(code == 0, "{code}: {text}");
    await_rows(&world, &mut bridge, 0).await?;
    bridge.finish().await
}

/// Nothing tells which row a letter without an id is of, so none is deleted.
#[tokio::test]
async fn a_letter_without_an_id_keeps_all_rows() -> Result<()> {
    let layout = "seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, id BINARY(16) NULL UNIQUE, \
        aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL, \
        payload JSON NOT NULL, headers JSON NULL, created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)";
    let outbox = Outbox::standard().layout(layout).set("retention", "0s");
    let world = World::mysql().outbox(outbox).start().await?;
    let settings = cleaning(&world).await?.set("cleanup.interval", "200ms");
    let mut bridge = Bridge::start(&settings).await?;
    world.pass_the_start().await?;
    let nameless = format!(
        "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, type, payload) VALUES (NULL, 'order', '1', 'placed', '{{}}')"
    );
    world.database.exec(&nameless).await?;
    world.insert(0..3).await?;
    await_letters(&world, &mut bridge, 1).await?;
    bridge.await_log("a row without an id may be any row's").await?;
    ensure!(rows(&world).await? == 4, "{} rows are left", rows(&world).await?);
    let (code, text) = Bridge::once(&settings, &["dead-letters", "drop", "--all", "--yes"])?;
    ensure!(code == 0, "{code}: {text}");
    await_rows(&world, &mut bridge, 0).await?;
    bridge.finish().await
}
