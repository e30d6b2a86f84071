//! The bridge itself: `init`, `run` in every mode, `check` and `status`.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::stream;
use outbox_bridge_tests::{Bridge, Event, Expected, Order, STREAM, Settings, TABLE, World};
use serde_json::{Value, json};
use testbed::{Flavour, eventually};

use super::{PASSWORD, Recorder, publish_permissions, server};
use crate::deploy::read;
use crate::page::{at, await_status};

const LIMIT: Duration = Duration::from_secs(60);
const INBOX_PREFIX: &str = "_INBOX_BRIDGE";
/// What the permissions end with that only the list of the standbys needs.
const LIST: &str = ".outbox-bridge.instances";
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
        .set("claim_check.bucket", "OUTBOX_PAYLOADS")
        .set("claim_check.threshold", "2KiB")
        .set("claim_check.interval", "1s")
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
        Event::new(0).payload(format!("\"{}\"", "x".repeat(3_000))).insert(&mut conn, TABLE).await?;
        conn.disconnect().await?;
        let listed = || well(&settings, &["dead-letters", "list"]);
        eventually("the dead letter", LIMIT, async || Ok(listed()?.contains("headers").then_some(())))
            .await?;
        well(&settings, &["dead-letters", "drop", "--all", "--yes"])?;
        numbers = numbers.start + 1..numbers.end + 1;
        world.await_messages(&mut standby, STREAM, numbers.start).await?;
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
    let mut conn = world.conn().await?;
    Event::new(10).payload(format!("\"{}\"", "x".repeat(3_000))).insert(&mut conn, TABLE).await?;
    conn.disconnect().await?;
    world.await_messages(&mut bridge, STREAM, 11).await?;
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

/// Of `backfill`, which writes as the bridge does and reads as `verify` does.
#[tokio::test]
async fn the_permissions_of_bridge_and_verify_suffice_for_a_backfill() -> Result<()> {
    let both = [publish_permissions("BRIDGE")?, publish_permissions("VERIFY")?].concat();
    let user = format!(
        "{{ user: backfill, password: {PASSWORD}, permissions: {{ publish: {both:?}, subscribe: [\"{INBOX_PREFIX}.>\"] }} }}\n"
    );
    let world = World::mysql().nats(server(&user)?).start().await?;
    grant(&world, "mysql/grants.sql").await?;
    let folder = tempfile::tempdir()?;
    well(&settings_of(&world, &folder, "init")?, &["init", "--apply", "--update-stream"])?;
    world.insert(0..10).await?;
    let text = well(&settings_of(&world, &folder, "backfill")?, &["backfill"])?;
    ensure!(text.contains("10 published"), "{text}");
    let mut bridge = Bridge::start(&settings_of(&world, &folder, "bridge")?).await?;
    world.insert(10..20).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
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
    let bucket = [
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.KV_OUTBOX_BRIDGE",
        "$JS.API.STREAM.CREATE.OBJ_OUTBOX_PAYLOADS",
    ];
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
            let of_bucket = ["OUTBOX_BRIDGE", "OUTBOX_PAYLOADS"].iter().any(|name| missing.contains(name));
            let of_bucket = of_bucket && !bucket.contains(&missing.as_str());
            if exists && missing.ends_with(LIST) {
                let warned = text.contains("warning  bucket OUTBOX_BRIDGE: ");
                ensure!(
                    code == 0 && warned && text.contains(missing),
                    "{missing} is missed with {code}:\n{text}"
                );
            } else if exists && bucket.contains(&missing.as_str()) {
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

/// Without a permission of the list the bridges do what they did, and say what they cannot list and why.
#[tokio::test]
async fn without_its_permissions_nothing_but_the_list_is_missed() -> Result<()> {
    let permissions = publish_permissions("BRIDGE")?;
    let of_list: Vec<_> = permissions.iter().filter(|permission| permission.ends_with(LIST)).collect();
    ensure!(of_list.len() == 2, "{of_list:?}");
    let mut users = String::new();
    for (number, missing) in of_list.iter().enumerate() {
        let rest: Vec<_> = permissions.iter().filter(|permission| permission != missing).collect();
        users += &format!(
            "{{ user: unlisted-{number}, password: {PASSWORD}, permissions: {{ publish: {rest:?}, subscribe: \
             [\"{INBOX_PREFIX}.>\"] }} }}\n"
        );
    }
    let world = World::mysql().nats(server(&users)?).start().await?;
    let folder = tempfile::tempdir()?;
    well(&settings_of(&world, &folder, "init")?, &["init", "--apply"])?;
    let mut numbers = 0..5;
    for (number, missing) in of_list.into_iter().enumerate() {
        let settings = settings_of(&world, &folder, &format!("unlisted-{number}"))?;
        let mut leader = Bridge::start(&settings).await?;
        let mut standby = Bridge::start(&settings).await?;
        let unknown = |status: &Value| {
            let problem = at(status, "/standbys/problem").as_str().unwrap_or_default();
            problem.contains(missing) && at(status, "/standbys/known").is_null()
        };
        for bridge in [&mut leader, &mut standby] {
            let told = await_status(bridge, "the list to be missed", unknown).await?;
            ensure!(*at(&told, "/ready") == true && *at(&told, "/warnings") == json!([]), "{told}");
            ensure!(bridge.get("/").await?.contains("The standbys cannot be listed."));
        }
        ensure!(leader.metrics().await?.contains("\noutbox_standby_instances NaN\n"));
        world.insert(numbers.clone()).await?;
        world.await_messages(&mut leader, STREAM, numbers.end).await?;
        let (code, text) = Bridge::once(&settings, &["status"])?;
        ensure!(code == 0 && text.contains("led by process "), "{code}:\n{text}");
        ensure!(text.contains("standby          not known: "), "{text}");
        standby.stop().await?;
        leader.stop().await?;
        for log in [leader.log(), standby.log()] {
            let complaints = log.lines().filter(|line| line.contains("ermissions Violation"));
            let own: Vec<_> = complaints.filter(|line| line.contains(" outbox_bridge::")).collect();
            ensure!(own.len() == 1 && own.iter().all(|line| line.contains("WARN")), "{log}");
        }
        numbers = numbers.end..numbers.end + 5;
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
