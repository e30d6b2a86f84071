//! The small examples do what they say, with real events.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outbox_bridge_tests::{Outbox, Program, STREAM, TABLE, World};
use outbox_event::header;
use testbed::{MySql, Port, eventually};
use tokio::io::AsyncReadExt as _;

const LIMIT: Duration = Duration::from_secs(60);
/// Puts a body into the object store under a given name.
const PUT_OBJECT: &str = "\
import asyncio, sys, nats
async def put():
    client = await nats.connect(sys.argv[1])
    bodies = await client.jetstream().create_object_store('bodies')
    await bodies.put(sys.argv[2], b'a large body')
    await client.close()
asyncio.run(put())
";

fn variables(world: &World) -> Vec<(&'static str, String)> {
    vec![("NATS_URL", world.nats.url()), ("DATABASE_URL", format!("{}/shop", world.database.url("root")))]
}

/// `write-events` writes, two instances of `share-work` handle each event once, also when one is killed, `send-mails` sends each
/// mail, and `read-events` shows what the stream holds.
#[tokio::test]
async fn events_are_written_shared_and_mailed() -> Result<()> {
    let outbox = Outbox::new(TABLE, STREAM, "orders.{partition:8}.{type}");
    let world = World::mysql().outbox(outbox).start().await?;
    let mut bridge = world.bridge().await?;
    let mut instances = [
        Program::start("share-work", &[], variables(&world))?,
        Program::start("share-work", &[], variables(&world))?,
    ];
    let mails = Program::start("send-mails", &[], variables(&world))?;
    let write = |orders: &str| Program::output("write-events", &["--orders", orders], variables(&world));

    let mut written = write("200")?;
    let shared = "SELECT COUNT(DISTINCT instance) FROM shop.work";
    eventually("both instances at work", LIMIT, async || {
        written.push_str(&write("10")?);
        instances.iter_mut().try_for_each(Program::check_running)?;
        let instances: Vec<u64> = world.database.query(shared).await.unwrap_or_default();
        Ok((instances == [2]).then_some(()))
    })
    .await?;
    let [one, _other] = &mut instances;
    one.kill()?;
    written.push_str(&write("50")?);

    let events = written.lines().count() as u64;
    world.await_messages(&mut bridge, STREAM, events).await?;
    eventually("each event to be handled", LIMIT, async || {
        let handled: Vec<(u64, u64)> =
            world.database.query("SELECT COUNT(*), COUNT(DISTINCT sequence) FROM shop.work").await?;
        Ok((handled == [(events, events)]).then_some(()))
    })
    .await?;
    let ids = written.lines().filter_map(|line| line.split(' ').next());
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    eventually("each mail", LIMIT, async || {
        let log = mails.log();
        let mut mails: Vec<&str> =
            log.lines().filter_map(|line| line.strip_prefix("mail ")?.split(' ').next()).collect();
        mails.sort_unstable();
        mails.dedup();
        Ok((mails == ids).then_some(()))
    })
    .await?;
    let read = ["--server", &world.nats.url(), "--count", "5", STREAM];
    let read = Program::output("read-events", &read, Vec::new())?;
    ensure!(read.matches("ce-type: placed").count() == 5, "{read}");
    bridge.finish().await
}

/// A participant behind gRPC: a confirmed order, a refused one, and one that is placed while nobody is there.
#[tokio::test]
async fn tcc_is_called_over_grpc() -> Result<()> {
    let mysql = MySql::builder().relaxed_durability().start().await?;
    mysql.exec("CREATE DATABASE orders; CREATE DATABASE inventory").await?;
    let database = |schema: &str| vec![("DATABASE_URL", format!("{}/{schema}", mysql.url("root")))];
    let port = Port::reserve()?;
    let (listen, target) = (port.address().to_string(), format!("http://{}", port.address()));
    let mut inventory =
        Program::start("tcc-over-grpc", &["inventory", "--listen", &listen], database("inventory"))?;
    eventually("the table", LIMIT, async || {
        inventory.check_running()?;
        Ok(mysql.exec("INSERT INTO inventory.stock (sku, free) VALUES ('lamp', 10)").await.ok())
    })
    .await?;
    let place = |id: &str, quantity: &str| {
        let place = ["place", "--inventory", &target, id, "lamp", quantity];
        Program::output("tcc-over-grpc", &place, database("orders"))
    };
    let placed = place("order-1", "2")?;
    ensure!(placed == "confirmed {\"stock\":{\"locked\":2}}\n", "{placed}");
    let placed = place("order-2", "100")?;
    ensure!(placed == "cancelled: `stock` refused: there are not 100 of lamp\n", "{placed}");

    inventory.kill()?;
    let variables = database("orders");
    let late = tokio::task::spawn_blocking(move || {
        let place = ["place", "--inventory", &target, "order-3", "lamp", "3"];
        Program::output("tcc-over-grpc", &place, variables)
    });
    eventually("the order to be begun", LIMIT, async || {
        let begun = "SELECT COUNT(*) FROM orders.tcc_transactions WHERE id = 'order-3'";
        Ok((mysql.query::<u64>(begun).await? == [1]).then_some(()))
    })
    .await?;
    inventory.start_again()?;
    let placed = late.await??;
    ensure!(placed.starts_with("confirmed"), "{placed}");
    let stock: Vec<(i64, i64, i64)> = mysql.query("SELECT free, locked, sold FROM inventory.stock").await?;
    ensure!(stock == [(5, 0, 5)], "{stock:?}");
    let states = "SELECT CAST(state AS CHAR) FROM inventory.saga_barrier ORDER BY transaction_id";
    let states: Vec<String> = mysql.query(states).await?;
    ensure!(states == ["confirmed", "refused", "confirmed"], "{states:?}");
    Ok(())
}

/// A virtual environment with what the Python example needs.
fn environment(folder: &Path, example: &Path) -> Result<PathBuf> {
    let run = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output();
        let output = output.context(
            "cannot run Python: install Python 3.9 or newer with venv and pip (`apt-get install python3-venv`)",
        )?;
        ensure!(
            output.status.success(),
            "{command:?} ended with {}; it needs Python 3.9 or newer with venv (`apt-get install python3-venv`), and PyPI:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let python = folder.join("bin/python");
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(example.join("requirements.txt")))?;
    Ok(python)
}

/// Runs the Python example until it has read so many events; what it prints.
async fn read_with_python(python: &Path, world: &World, count: usize) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/read-with-python/read_events.py");
    let mut reading = tokio::process::Command::new(python)
        .arg(script)
        .args(["--server", &world.nats.url(), "--count", &count.to_string(), STREAM])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut output = reading.stdout.take().context("no output")?;
    let mut text = String::new();
    tokio::time::timeout(LIMIT, output.read_to_string(&mut text)).await.context("it does not end")??;
    let status = reading.wait().await?;
    ensure!(status.success(), "{status}:\n{text}");
    Ok(text)
}

#[tokio::test]
async fn python_reads_events() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/read-with-python");
    let making = tokio::task::spawn_blocking({
        let folder = folder.path().join("venv");
        move || environment(&folder, &example)
    });
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    let events = world.insert(0..3).await?;
    world.await_messages(&mut bridge, STREAM, 3).await?;
    let python = making.await??;
    let text = read_with_python(&python, &world, 3).await?;
    for event in &events {
        ensure!(text.contains(&format!("ce-id: {}", event.id)) && text.contains(&event.payload), "{text}");
    }
    ensure!(text.contains("1 orders.order.placed") && text.contains("ce-subject: order-2"), "{text}");

    // The next run goes on behind them. A body in the object store, under a name as an event may give it:
    let name = "orders/a b%20c";
    let put = Command::new(&python).args(["-c", PUT_OBJECT, &world.nats.url(), name]).status()?;
    ensure!(put.success(), "the object cannot be put");
    bridge.stop().await?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(header::CE_ID, "large");
    headers.insert("ce-dataref", format!("nats-object://bodies/{name}").as_str());
    world.jetstream.publish_with_headers("orders.order.large", headers, "".into()).await?.await?;
    let text = read_with_python(&python, &world, 1).await?;
    ensure!(text.starts_with("4 orders.order.large") && text.contains("a large body"), "{text}");
    Ok(())
}
