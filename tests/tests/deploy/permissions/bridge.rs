//! The bridge itself: `init`, `run` in every mode, `check` and `status`.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::stream;
use outbox_bridge_tests::{Bridge, Event, Expected, Order, STREAM, Settings, TABLE, World};
use testbed::{Flavour, eventually};

use super::{PASSWORD, Recorder, publish_permissions, server};
use crate::read;

const LIMIT: Duration = Duration::from_secs(60);
const INBOX_PREFIX: &str = "_INBOX_BRIDGE";
const MYSQL_PASSWORD: &str = "s3cret # \"password\"";

/// The settings of a bridge that is this NATS user.
fn settings_of(world: &World, folder: &tempfile::TempDir, user: &str) -> Result<Settings> {
    let file = folder.path().join("nats-password");
    if !file.exists() {
        std::fs::write(&file, PASSWORD)?;
    }
    Ok(world
        .settings()
        .set("nats.user", user)
        .set("nats.password_file", file.display().to_string())
        .set("nats.inbox_prefix", INBOX_PREFIX)
        .set("poison.action", "dead_letter")
        .set("poison.stream", "DEAD")
        .set("lease.ttl", "2s"))
}

/// Puts the documented user in the place of the world's.
async fn grant(world: &World, file: &str) -> Result<()> {
    let grants = read(file)?.replace("<password>", MYSQL_PASSWORD);
    world.database.exec(&format!("DROP USER 'bridge'@'%'; {grants}")).await
}

/// Runs a command that has to end well.
fn well(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let (code, text) = Bridge::once(settings, arguments)?;
    ensure!(code == 0 && !text.contains("ermissions"), "{arguments:?} ended with {code}:\n{text}");
    Ok(text)
}

#[tokio::test]
async fn the_permissions_of_the_bridge_suffice_and_none_is_idle() -> Result<()> {
    let world = World::mysql().nats(server("")?).start().await?;
    grant(&world, "mysql/grants.sql").await?;
    let folder = tempfile::tempdir()?;
    world.jetstream.delete_stream(STREAM).await?;

    let init = settings_of(&world, &folder, "init")?;
    let recorder = Recorder::start(&world.nats, INBOX_PREFIX).await?;
    let text = well(&init, &["init", "--apply"])?;
    ensure!(text.contains("stream ORDERS: created") && text.contains("stream DEAD: created"), "{text}");
    let durable = init.set("publish.mode", "durable");
    let text = well(&durable, &["init", "--apply", "--update-stream"])?;
    ensure!(text.contains("stream ORDERS: updated"), "{text}");
    recorder.expect_use("INIT").await?;

    let recorder = Recorder::start(&world.nats, INBOX_PREFIX).await?;
    let settings = settings_of(&world, &folder, "bridge")?;
    well(&settings, &["check"])?;
    let mut numbers = 0..10;
    for mode in ["fast", "pipelined", "durable"] {
        let mut bridge = Bridge::start(&settings.clone().set("publish.mode", mode)).await?;
        let mut standby = Bridge::start(&settings.clone().set("publish.mode", mode)).await?;
        world.insert(numbers.clone()).await?;
        world.await_messages(&mut bridge, STREAM, numbers.end).await?;
        bridge.kill()?;
        numbers = numbers.end..numbers.end + 10;
        world.insert(numbers.clone()).await?;
        world.await_messages(&mut standby, STREAM, numbers.end).await?;
        numbers = numbers.end..numbers.end + 10;
        let mut conn = world.conn().await?;
        Event::new(0).headers("[]").insert(&mut conn, TABLE).await?;
        conn.disconnect().await?;
        let listed = || well(&settings, &["dead-letters", "list"]);
        eventually("the dead letter", LIMIT, async || Ok(listed()?.contains("headers").then_some(())))
            .await?;
        well(&settings, &["dead-letters", "drop", "--all", "--yes"])?;
        well(&settings, &["check"])?;
        let text = well(&settings, &["status"])?;
        ensure!(text.contains("process "), "nobody leads:\n{text}");
        standby.stop().await?;
        for log in [bridge.log(), standby.log()] {
            ensure!(!log.contains("ermissions") && log.contains(&format!("mode={mode}")), "{log}");
        }
        world.database.exec(&format!("DELETE FROM {TABLE} WHERE headers IS NOT NULL")).await?;
        let expected = Expected::rows(&world.database, TABLE, "seq").await?;
        world.verify_rows(&standby, &expected, Order::Total).await?;
    }
    recorder.expect_use("BRIDGE").await
}

/// Of `verify`, which is run while the bridge is down, and looks findings up.
#[tokio::test]
async fn the_permissions_of_verify_suffice_and_none_is_idle() -> Result<()> {
    let world = World::mysql().nats(server("")?).start().await?;
    grant(&world, "mysql/grants.sql").await?;
    let folder = tempfile::tempdir()?;
    well(&settings_of(&world, &folder, "init")?, &["init", "--apply", "--update-stream"])?;
    let mut bridge = Bridge::start(&settings_of(&world, &folder, "bridge")?).await?;
    // What is inserted in the second of the start is not missed.
    world.pass_the_start().await?;
    world.insert(0..10).await?;
    world.await_messages(&mut bridge, STREAM, 10).await?;
    bridge.stop().await?;
    let recorder = Recorder::start(&world.nats, INBOX_PREFIX).await?;
    let settings = settings_of(&world, &folder, "verify")?;
    well(&settings, &["verify"])?;
    world.database.exec(&format!("UPDATE {TABLE} SET payload = '{{}}' WHERE seq = 3")).await?;
    // A row without a message is looked for among the dead letters.
    world.jetstream.get_stream(STREAM).await?.delete_message(5).await?;
    let (code, text) = Bridge::once(&settings, &["verify"])?;
    ensure!(code == 65 && text.contains("(body)") && !text.contains("ermissions"), "{code}:\n{text}");
    recorder.expect_use("VERIFY").await
}

/// What is missing is named by `check`, with nothing that cannot be granted beside it.
#[tokio::test]
async fn check_names_each_permission_that_is_missing() -> Result<()> {
    let permissions = publish_permissions("BRIDGE")?;
    let mut users = String::new();
    for (number, missing) in permissions.iter().enumerate() {
        let rest: Vec<_> = permissions.iter().filter(|permission| *permission != missing).collect();
        users += &format!(
            "{{ user: without-{number}, password: {PASSWORD}, permissions: {{ publish: {rest:?}, subscribe: \
             [\"{INBOX_PREFIX}.>\"] }} }}\n"
        );
    }
    let world = World::mysql().nats(server(&users)?).start().await?;
    let folder = tempfile::tempdir()?;
    well(&settings_of(&world, &folder, "init")?, &["init", "--apply"])?;
    let bucket = ["$JS.API.INFO", "$JS.API.STREAM.CREATE.KV_OUTBOX_BRIDGE"];
    for exists in [false, true] {
        if exists {
            let mut bridge = Bridge::start(&settings_of(&world, &folder, "bridge")?).await?;
            bridge.stop().await?;
        }
        let mut checks = Vec::new();
        for (number, missing) in permissions.iter().enumerate() {
            let settings = settings_of(&world, &folder, &format!("without-{number}"))?;
            let check = tokio::task::spawn_blocking(move || Bridge::once(&settings, &["check"]));
            checks.push((missing, check));
        }
        for (missing, check) in checks {
            let (code, text) = check.await??;
            let of_bucket = missing.contains("OUTBOX_BRIDGE") && !bucket.contains(&missing.as_str());
            if exists && bucket.contains(&missing.as_str()) {
                ensure!(code == 0, "{missing} is needed after all:\n{text}");
            } else if exists || !of_bucket || missing.contains("INFO") {
                // A subject with wildcards is tried with words in their places.
                let named = missing.replace('*', "outbox-bridge-check");
                ensure!(code == 78 && text.contains(&named), "{missing} is missed with {code}:\n{text}");
            }
        }
    }
    Ok(())
}

/// The grants are what `init` prints, and with them a check passes.
#[tokio::test]
async fn the_grants_are_those_that_init_prints() -> Result<()> {
    for (flavour, dialect, file) in [
        (Flavour::MySql, "mysql", "mysql/grants.sql"),
        (Flavour::MariaDb, "mariadb", "mysql/grants-mariadb.sql"),
    ] {
        let world = World::of(flavour).start().await?;
        grant(&world, file).await?;
        let settings = world.settings();
        let printed = well(&settings, &["init", "--print", "grants", "--dialect", dialect])?;
        ensure!(read(file)?.ends_with(&printed), "{file} should end with\n{printed}");
        well(&settings, &["check"])?;
        let mut bridge = Bridge::start(&settings).await?;
        world.insert(0..10).await?;
        world.verify(&mut bridge, Order::Total).await?;
        for privilege in ["REPLICATION SLAVE ON *.*", "SELECT ON shop.outbox"] {
            world.database.exec(&format!("REVOKE {privilege} FROM 'bridge'@'%'")).await?;
            let (code, text) = Bridge::once(&settings, &["check"])?;
            let (privilege, _) = privilege.split_once(" ON").unwrap_or_default();
            ensure!(code == 78 && text.contains(&format!("GRANT {privilege} ON")), "{code}:\n{text}");
        }
    }
    Ok(())
}

/// A stream is created and changed by whoever runs `init`, not by the bridge.
#[tokio::test]
async fn the_bridge_may_not_manage_streams() -> Result<()> {
    let world = World::mysql().nats(server("")?).start().await?;
    let folder = tempfile::tempdir()?;
    let mut config: stream::Config = world.jetstream.get_stream(STREAM).await?.cached_info().config.clone();
    config.allow_batch_publish = false;
    world.jetstream.update_stream(&config).await?;
    let settings = settings_of(&world, &folder, "bridge")?;
    let (code, text) = Bridge::once(&settings, &["init", "--apply", "--update-stream"])?;
    ensure!(code == 78 && text.contains("use a user that may manage streams"), "{code}:\n{text}");
    Ok(())
}
