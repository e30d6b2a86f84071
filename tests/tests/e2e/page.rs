//! The status page: what it says is true, also when a server is away, and a browser shows it without help from outside.
//!
//! `OUTBOX_TEST_SCREENSHOTS=folder` keeps pictures of what the browser shows.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream;
use outbox_bridge_tests::{Bridge, Event, Load, LoadOptions, Outbox, STREAM, Settings, TABLE, World};
use serde_json::Value;
use testbed::{Browser, Page, View, eventually};

const LIMIT: Duration = Duration::from_secs(90);
const LETTERS: &str = "LETTERS";
/// The largest message that the stream takes.
const MESSAGE_BYTES_MAX: i32 = 4_096;

fn settings(world: &World) -> Settings {
    world.settings().set("lease.ttl", "3s").set("checkpoint.interval", "100ms")
}

/// A world where rows that are too large become dead letters, and its settings.
async fn world_with_letters() -> Result<(World, Settings)> {
    let world = World::mysql().start().await?;
    let config = stream::Config {
        name: LETTERS.into(),
        subjects: vec!["outbox.dead.>".into()],
        max_messages_per_subject: 1,
        ..Default::default()
    };
    world.jetstream.create_stream(config).await?;
    world.change_stream(|config| config.max_message_size = MESSAGE_BYTES_MAX).await?;
    let settings = settings(&world).set("poison.action", "dead_letter").set("poison.stream", LETTERS);
    Ok((world, settings))
}

pub(crate) async fn status(bridge: &Bridge) -> Result<Value> {
    let answer = bridge.get("/status.json").await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.starts_with("HTTP/1.1 200") && head.contains("no-store"), "{head}");
    Ok(serde_json::from_str(body)?)
}

/// Waits until the status fulfils something, and gives it.
pub(crate) async fn await_status(
    bridge: &mut Bridge,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut last = Value::Null;
    let found = eventually(what, LIMIT, async || {
        bridge.check_running()?;
        last = status(bridge).await.unwrap_or_default();
        Ok(is_so(&last).then(|| last.clone()))
    })
    .await;
    found.with_context(|| format!("the status is {last}"))
}

pub(crate) fn at<'a>(status: &'a Value, place: &str) -> &'a Value {
    status.pointer(place).unwrap_or(&Value::Null)
}

pub(crate) fn is(place: &'static str, value: impl Into<Value>) -> impl Fn(&Value) -> bool {
    let value = value.into();
    move |status| *at(status, place) == value
}

fn number(status: &Value, place: &str) -> f64 {
    at(status, place).as_f64().unwrap_or_default()
}

#[tokio::test]
async fn it_tells_what_flows() -> Result<()> {
    let (world, settings) = world_with_letters().await?;
    let mut bridge = Bridge::start(&settings).await?;
    let events = world.insert(1..20).await?;
    let last = events.last().context("no events")?;
    let told = await_status(&mut bridge, "all events to be told", is("/flow/events", 19)).await?;
    ensure!(*at(&told, "/ready") == true && *at(&told, "/role") == "leader", "{told}");
    ensure!(*at(&told, "/leader/this") == true && at(&told, "/leader/process").is_u64(), "{told}");
    let stream = |place: &str| format!("/streams/0/{place}");
    ensure!(*at(&told, &stream("name")) == STREAM && *at(&told, &stream("tables/0")) == TABLE, "{told}");
    ensure!(*at(&told, &stream("last_events/0/id")) == last.id.to_string(), "{told}");
    ensure!(*at(&told, &stream("last_events/0/sequence")) == 19, "{told}");
    let stored = world.stored(STREAM).await?;
    let stored = stored.last().context("nothing is stored")?;
    ensure!(*at(&told, &stream("last_events/0/position")) == stored.position()?.to_string(), "{told}");
    ensure!(*at(&told, &stream("last_events/0/subject")) == stored.subject, "{told}");

    // What only NATS knows is asked for in the background.
    await_status(&mut bridge, "what the stream holds", is("/streams/0/held/messages", 19)).await?;
    let told = await_status(&mut bridge, "latency and plot", |status| {
        let drawn = at(status, "/history/events_per_second").as_array().into_iter().flatten();
        number(status, "/flow/latency_p99_seconds") > 0.0
            && drawn.filter_map(Value::as_f64).any(|rate| rate > 0.0)
    })
    .await?;
    ensure!(at(&told, "/warnings").as_array().is_some_and(Vec::is_empty), "{told}");
    ensure!(*at(&told, "/dead_letters/open") == 0, "{told}");
    let offset = number(&told, "/source/position/offset");
    world.insert(20..30).await?;
    await_status(&mut bridge, "the position to move", |status| {
        number(status, "/source/position/offset") > offset
    })
    .await?;

    let mut conn = world.conn().await?;
    let large = Event::new(99).payload(format!("{{\"secret\": \"{}\"}}", "zyxwv".repeat(1_000)));
    large.insert(&mut conn, TABLE).await?;
    conn.disconnect().await?;
    let told = await_status(&mut bridge, "the dead letter", is("/dead_letters/open", 1)).await?;
    ensure!(*at(&told, "/dead_letters/last/0/id") == large.id.to_string(), "{told}");
    ensure!(*at(&told, "/dead_letters/last/0/reason") == "too_large", "{told}");
    ensure!(*at(&told, "/warnings/0/section") == "Dead letters", "{told}");
    let (code, text) =
        bridge.command(&["dead-letters", "drop", &at(&told, "/dead_letters/last/0/number").to_string()])?;
    ensure!(code == 0, "{text}");
    await_status(&mut bridge, "the letter to be done with", |status| {
        *at(status, "/dead_letters/open") == 0 && *at(status, "/dead_letters/done") == 1
    })
    .await?;

    let html = bridge.get("/").await?;
    for secret in ["zyxwv", "s3cret", "://bridge@"] {
        ensure!(!html.contains(secret) && !status(&bridge).await?.to_string().contains(secret), "{secret}");
    }
    bridge.finish().await
}

#[tokio::test]
async fn a_server_that_is_away_is_said_with_its_remedy() -> Result<()> {
    let mut world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    world.insert(0..5).await?;
    await_status(&mut bridge, "the events", is("/flow/events", 5)).await?;

    world.database.stop().await?;
    let told =
        await_status(&mut bridge, "the source to be away", is("/components/source/state", "not_ready"))
            .await?;
    ensure!(*at(&told, "/ready") == false && at(&told, "/flow/lag_seconds").is_null(), "{told}");
    let since = at(&told, "/components/source/since").clone();
    ensure!(since.is_string() && at(&told, "/components/source/remedy").is_string(), "{told}");
    let reason = at(&told, "/components/source/reason").as_str().context("no reason")?.to_owned();
    ensure!(reason.starts_with("source: "), "{reason}");
    let html = bridge.get("/").await?;
    for said in ["Not ready", "waits for: source", "When it does not get on", "outbox-bridge check"] {
        ensure!(html.contains(said), "the page does not say {said}: {html}");
    }
    // It is lost once, however often it is tried in vain: else the page would speak of lost connections for ten minutes.
    eventually("some tries", LIMIT, async || {
        Ok((bridge.log().matches("lost the source").count() >= 6).then_some(()))
    })
    .await?;
    world.database.start().await?;
    world.insert(5..10).await?;
    let told = await_status(&mut bridge, "the source to be back", is("/flow/events", 10)).await?;
    ensure!(
        *at(&told, "/components/source/state") == "ready"
            && at(&told, "/components/source/since").as_str() > since.as_str(),
        "{told}"
    );
    ensure!((1.0..4.0).contains(&number(&told, "/source/reconnects")), "{told}");

    world.nats.kill().await?;
    let told =
        await_status(&mut bridge, "NATS to be away", is("/components/nats/state", "not_ready")).await?;
    ensure!(
        *at(&told, "/ready") == false && *at(&told, "/warnings/0/section") == "When it does not get on",
        "{told}"
    );
    let reason = at(&told, "/components/nats/reason").as_str().unwrap_or_default();
    ensure!(reason.contains("[OB-4001]"), "`explain` has nothing to explain: {told}");
    // The lease runs out meanwhile, and so does what was known of others.
    let unknown = |status: &Value| {
        at(status, "/standbys/known").is_null() && *at(status, "/standbys/problem") == "NATS is away"
    };
    await_status(&mut bridge, "the standbys to be unknown", unknown).await?;
    let told = await_status(&mut bridge, "it to lead no longer", is("/role", "waiting")).await?;
    ensure!(at(&told, "/leader").is_null() && *at(&told, "/components/source/state") == "idle", "{told}");
    let asked = at(&told, "/streams/0/held/asked").as_str().context("it was asked before")?.to_owned();
    ensure!(bridge.get("/").await?.contains("waits for: nats"));
    world.nats.start().await?;
    world.insert(10..15).await?;
    let told = await_status(&mut bridge, "NATS to be back", |status| {
        *at(status, "/ready") == true
            && *at(status, "/flow/events") == 15
            && at(status, "/streams/0/held/asked").as_str().is_some_and(|again| again > &*asked)
    })
    .await?;
    ensure!(number(&told, "/nats/reconnects") > 0.0, "{told}");
    bridge.finish().await
}

#[tokio::test]
async fn a_standby_says_who_leads() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut leader = Bridge::start(&settings(&world)).await?;
    let process = at(&status(&leader).await?, "/process/process").clone();
    let mut standby = Bridge::start(&settings(&world)).await?;
    world.insert(0..5).await?;
    let told = await_status(&mut standby, "a standby", is("/role", "standby")).await?;
    ensure!(*at(&told, "/ready") == true && *at(&told, "/leader/this") == false, "{told}");
    ensure!(*at(&told, "/leader/process") == process && *at(&told, "/process/process") != process, "{told}");
    ensure!(*at(&told, "/components/publish/state") == "idle" && *at(&told, "/flow/events") == 0, "{told}");
    await_status(&mut standby, "what the stream holds", is("/streams/0/held/messages", 5)).await?;
    let html = standby.get("/").await?;
    ensure!(html.contains("Standing by") && html.contains(&format!("process {process} on ")), "{html}");
    leader.stop().await?;
    let told = await_status(&mut standby, "it to lead", is("/leader/this", true)).await?;
    ensure!(*at(&told, "/role") == "leader", "{told}");
    standby.finish().await
}

/// Every address in the page, as an HTML parser finds them, leads to the bridge itself.
const OUTSIDE: &str = "[...document.querySelectorAll('[src],[href],[srcset],[action],[data],[style]')]
    .filter(e => e.hasAttribute('style') || !new URL(e.href || e.src || '/', location).href.startsWith(location.origin))
    .filter(e => e.getAttribute('href') !== 'data:,').map(e => e.outerHTML)";
/// How wide, in drawn units, the line of each plot is, and whether it is anywhere above the ground.
const DRAWN: &str = "[...document.querySelectorAll('.plot')].map(plot => {
    const box = plot.querySelector('path.line').getBBox(); return [box.width, box.height] })";

#[tokio::test]
async fn a_browser_shows_it() -> Result<()> {
    let browser = Browser::start().await?;
    let (world, settings) = world_with_letters().await?;
    let mut bridge = Bridge::start(&settings).await?;
    let standbys = [Bridge::start(&settings).await?, Bridge::start(&settings).await?];
    let options = LoadOptions { rows_max: 3, pause: Duration::from_millis(40), ..LoadOptions::default() };
    let load = Load::start(&world, &options).await?;
    let mut conn = world.conn().await?;
    Event::new(99).payload(format!("{{\"x\": \"{}\"}}", "x".repeat(6_000))).insert(&mut conn, TABLE).await?;
    conn.disconnect().await?;
    await_status(&mut bridge, "some history and the letter", |status| {
        let rates = at(status, "/history/events_per_second").as_array().into_iter().flatten();
        rates.filter_map(Value::as_f64).filter(|rate| *rate > 0.0).count() >= 8
            && *at(status, "/dead_letters/open") == 1
            && at(status, "/standbys/known").as_array().is_some_and(|known| known.len() == 2)
    })
    .await?;

    for (width, height, dark, scripts, name) in [
        (1280, 900, false, true, "desktop-light"),
        (1280, 900, true, true, "desktop-dark"),
        (360, 740, false, true, "phone-light"),
        (360, 740, true, true, "phone-dark"),
        (360, 740, false, false, "phone-without-scripts"),
    ] {
        let page = browser.open(View { width, height, dark, scripts }).await?;
        page.go(&bridge.url()).await?;
        let look = async || -> Result<()> {
            ensure!(
                page.evaluate("document.title")
                    .await?
                    .as_str()
                    .is_some_and(|title| title.starts_with("Ready"))
            );
            for [wide, high] in serde_json::from_value::<Vec<[f64; 2]>>(page.evaluate(DRAWN).await?)? {
                ensure!(wide > 3.0, "a plot is not drawn: {wide} x {high}");
            }
            ensure!(page.evaluate("document.querySelectorAll('.plot').length").await? == 3);
            ensure!(
                page.evaluate("document.querySelectorAll('.stream .events tbody tr').length").await? == 5
            );
            ensure!(page.evaluate("document.querySelectorAll('.standbys tbody tr').length").await? == 2);
            fits(&page).await?;
            ensure!(
                page.evaluate(OUTSIDE).await? == serde_json::json!([]),
                "{}",
                page.evaluate(OUTSIDE).await?
            );
            Ok(())
        };
        look().await.context(name)?;
        if scripts {
            let number = "document.querySelector('.stream dl').innerText";
            let before = page.evaluate(number).await?;
            eventually("the page to refresh itself", LIMIT, async || {
                Ok((page.evaluate(number).await? != before).then_some(()))
            })
            .await?;
            look().await.context(name)?;
        }
        keep(&page, name).await?;
        ensure!(page.complaints().is_empty(), "{name}: {:?}", page.complaints());
        let strange: Vec<_> =
            page.requests().into_iter().filter(|url| !url.starts_with(&bridge.url())).collect();
        ensure!(strange.iter().all(|url| url == "data:,"), "{name}: {strange:?}");
    }
    load.stop().await?;
    for standby in standbys {
        standby.finish().await?;
    }
    bridge.finish().await
}

/// The page is opened while all is well; it says by itself that MySQL is away, that it is back, and that the bridge has ended.
#[tokio::test]
async fn an_open_page_follows() -> Result<()> {
    let browser = Browser::start().await?;
    let mut world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    let mut standby = Bridge::spawn(&settings(&world))?;
    await_status(&mut standby, "a standby", is("/role", "standby")).await?;
    let page = browser.open(View { width: 1280, height: 900, dark: false, scripts: true }).await?;
    page.go(&bridge.url()).await?;
    let other = browser.open(View { width: 360, height: 740, dark: false, scripts: true }).await?;
    other.go(&standby.url()).await?;
    let says = async |page: &Page, words: &str| {
        eventually(&format!("the page to say {words:?}"), LIMIT, async || {
            let text = page.evaluate("document.body.innerText").await?;
            Ok(text.as_str().is_some_and(|text| text.contains(words)).then_some(()))
        })
        .await
    };
    says(&page, "carries the events").await?;
    says(&other, "another bridge leads").await?;
    fits(&other).await?;
    keep(&other, "standby").await?;
    world.database.stop().await?;
    says(&page, "Critical: Not ready, source").await?;
    let phone = browser.open(View { width: 360, height: 740, dark: false, scripts: true }).await?;
    phone.go(&bridge.url()).await?;
    says(&phone, "Critical: Not ready, source").await?;
    fits(&phone).await?;
    keep(&page, "source-away").await?;
    world.database.start().await?;
    says(&page, "None: nothing is to be done.").await?;
    ensure!(page.complaints().is_empty(), "{:?}", page.complaints());
    bridge.stop().await?;
    says(&page, "No answer from the bridge since").await?;
    keep(&page, "bridge-away").await?;
    says(&other, "carries the events").await?;
    standby.finish().await
}

/// Keeps a picture, if somebody wants to look at it.
/// The page is no wider than the screen; what the window says grows with what overflows it.
async fn fits(page: &Page) -> Result<()> {
    let width = "document.documentElement.scrollWidth - Math.min(innerWidth, screen.width)";
    let too_wide = page.evaluate(width).await?;
    ensure!(too_wide == 0, "it is {too_wide} pixels too wide");
    Ok(())
}

async fn keep(page: &Page, name: &str) -> Result<()> {
    if let Some(folder) = std::env::var_os("OUTBOX_TEST_SCREENSHOTS").map(PathBuf::from) {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{name}.png")), page.screenshot().await?)?;
    }
    Ok(())
}

/// A stream whose name and table have what HTML takes for its own, as far as the servers let such names in.
#[tokio::test]
async fn names_stay_names() -> Result<()> {
    let outbox = Outbox::new("shop.`<b>&amp`", STREAM, "orders.{aggregate_type}.{type}");
    let world = World::mysql().outbox(outbox).start().await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    let mut event = Event::new(1);
    event.event_type = "<script>alert(1)</script>".to_owned();
    let mut conn = world.conn().await?;
    event.insert(&mut conn, "shop.`<b>&amp`").await?;
    conn.disconnect().await?;
    await_status(&mut bridge, "the event", is("/flow/events", 1)).await?;
    let html = bridge.get("/").await?;
    ensure!(!html.contains("<b>") && !html.contains("<script>alert"), "{html}");
    ensure!(html.contains("alert(1)"), "{html}");
    bridge.finish().await
}
