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

#[tokio::test]
async fn a_row_stays_as_long_as_its_letter_is_open() -> Result<()> {
    let world = World::mysql().outbox(Outbox::standard().set("retention", "0s")).start().await?;
    create_letters(&world).await?;
    world.database.exec(&format!("GRANT DELETE ON {TABLE} TO 'bridge'@'%'")).await?;
    let start: Vec<u64> = world.database.query("SELECT UNIX_TIMESTAMP()").await?;
    let settings = world
        .settings()
        .set("poison.action", "dead_letter")
        .set("poison.stream", LETTERS)
        .set("checkpoint.interval", "100ms")
        .set("cleanup.pause", "1ms")
        .set("audit.interval", "1s");
    let slow = settings.clone().set("cleanup.interval", "1h");
    let mut bridge = Bridge::start(&slow).await?;
    // Rows of the second in which the bridge began are kept.
    eventually("the clock to pass the start", LIMIT, async || {
        let now: Vec<u64> = world.database.query("SELECT UNIX_TIMESTAMP() - 3").await?;
        Ok((now >= start).then_some(()))
    })
    .await?;
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
