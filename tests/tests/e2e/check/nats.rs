//! What can be wrong with NATS.

use super::*;

#[tokio::test]
async fn other_servers_of_nats_pass() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().start().await?;
    let bridge = ready(&mysql, &nats).await?;
    for version in ["2.10", "2.12"] {
        let old = Nats::builder().version(version).start().await?;
        let bridge = bridge.with(&[("nats.url", &old.url())])?;
        bridge.run(&["init", "--apply"]).await?.expect(OK, &["stream ORDERS: created"]);
        bridge
            .check()
            .await?
            .expect(OK, &["mode pipelined", "since the server is older than 2.14", "0 errors"]);
        let fast = bridge.with(&[("publish.mode", "fast")])?;
        fast.check().await?.expect(CONFIGURATION, &["-> upgrade nats-server to 2.14"]);
    }

    let hub = Nats::builder().jetstream_config("domain: hub").start().await?;
    let bridge_of_hub = bridge.with(&[("nats.url", &hub.url()), ("nats.jetstream_domain", "hub")])?;
    bridge_of_hub.run(&["init", "--apply"]).await?.expect(OK, &["stream ORDERS: created"]);
    bridge_of_hub.check().await?.expect(OK, &["mode fast", "run creates it", "0 errors"]);
    jetstream::with_domain(hub.client().await?, "hub")
        .create_key_value(jetstream::kv::Config { bucket: "OUTBOX_BRIDGE".into(), ..Default::default() })
        .await?;
    bridge_of_hub.check().await?.expect(OK, &["holds no checkpoint", "0 errors"]);
    let elsewhere = bridge_of_hub.with(&[("nats.jetstream_domain", "nowhere")])?;
    elsewhere.check().await?.expect(CONFIGURATION, &["JetStream does not answer", "nats.jetstream_domain"]);
    Ok(())
}

#[tokio::test]
async fn a_cluster_passes_and_keeps_nothing_of_the_check() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let mut cluster = NatsCluster::start(&Nats::builder(), 3).await?;
    let first = &cluster.nodes()[0];
    let root = Bridge::new(&mysql, first)?.as_root(&mysql)?;
    root.run(&["init", "--apply", "--replicas", "3"]).await?.expect(OK, &["stream ORDERS: created"]);
    let bridge = ready(&mysql, first).await?;
    let client = jetstream::new(first.client().await?);
    // All three have to be up to date first.
    let limit = Duration::from_secs(30);
    eventually("a check without a warning of the stream", limit, async || {
        let outcome = bridge.check().await?;
        Ok((outcome.code == OK && outcome.text.contains("0 errors, 1 warning\n")).then_some(()))
    })
    .await?;
    bridge.check().await?.expect(OK, &["stream ORDERS: held by 3 servers", "mode fast"]);
    let state = client.get_stream("ORDERS").await?.cached_info().state.clone();
    ensure!(state.last_sequence == 0, "the check has stored something: {state:?}");
    cluster.node(2)?.kill().await?;
    eventually("a check that misses a replica", limit, async || {
        let outcome = bridge.check().await?;
        Ok(outcome.text.contains("warning  stream ORDERS: its replica on testbed-").then_some(()))
    })
    .await?;
    Ok(())
}

/// A stream that does not fit, and what `check` says of it.
#[tokio::test]
async fn every_fault_of_the_stream_is_named_with_its_remedy() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().start().await?;
    let bridge = ready(&mysql, &nats).await?;
    let client = jetstream::new(nats.client().await?);
    let fit = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        discard: stream::DiscardPolicy::New,
        allow_batch_publish: true,
        ..stream::Config::default()
    };
    let narrow = vec!["orders.order.*".to_owned()];
    let limits = stream::RetentionPolicy::WorkQueue;
    for (config, code, says) in [
        (fit.clone(), OK, &["publishing in mode fast", "0 errors"][..]),
        (
            stream::Config { allow_batch_publish: false, ..fit.clone() },
            OK,
            &["publishing in mode pipelined", "since the stream does not allow it"],
        ),
        (
            stream::Config { subjects: narrow, ..fit.clone() },
            CONFIGURATION,
            &["do not cover orders.*.*, where shop.outbox is published", "-> add orders.*.* to its subjects"],
        ),
        (
            stream::Config { retention: limits, ..fit.clone() },
            CONFIGURATION,
            &["drops messages as they are consumed"],
        ),
        (
            stream::Config { max_message_size: 5000, ..fit.clone() },
            OK,
            &["refuses messages over 5000 bytes", "may have 5000 bytes (4.8 KiB) (max_msg_size of ORDERS)"],
        ),
    ] {
        client.delete_stream("ORDERS").await?;
        client.create_stream(config).await?;
        bridge.check().await?.expect(code, says);
    }
    client.delete_stream("ORDERS").await?;
    bridge.check().await?.expect(
        CONFIGURATION,
        &["stream ORDERS: does not exist", "-> create it: `outbox-bridge init --apply`"],
    );
    // Nothing was stored by all that.
    let mut stream = client.create_stream(fit).await?;
    bridge.check().await?.expect(OK, &["0 errors"]);
    ensure!(stream.info().await?.state.last_sequence == 0, "the check has stored something");
    client.publish("orders.a.b", "not a bridge's".into()).await?.await?;
    bridge
        .check()
        .await?
        .expect(CONFIGURATION, &["which no bridge wrote", "-> a stream of the bridge takes nobody else's"]);
    Ok(())
}

/// Users with less and less permission.
const ACCOUNTS: &str = r#"
accounts {
  SHOP: { jetstream: enabled, users: [
    { user: admin, password: "s3cret-of-nats" }
    { user: bridge, password: "s3cret-of-nats", permissions: {
        publish: ["orders.>", "$KV.OUTBOX_BRIDGE.>", "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.MSG.GET.>",
                  "$JS.API.STREAM.CREATE.KV_OUTBOX_BRIDGE", "$JS.API.DIRECT.GET.>", "$JS.API.INFO"]
        subscribe: ["_INBOX.>"] } }
    { user: mute, password: "s3cret-of-nats", permissions: { publish: ["$JS.API.>", "$KV.>"], subscribe: ["_INBOX.>"] } }
    { user: blind, password: "s3cret-of-nats", permissions: {
        publish: ["orders.>", "$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"] } }
    { user: deaf, password: "s3cret-of-nats", permissions: { publish: [">"], subscribe: ["other.>"] } }
  ] }
  BARE: { users: [ { user: bare, password: "s3cret-of-nats" } ] }
}
no_auth_user: admin
"#;

#[tokio::test]
async fn missing_permissions_are_named() -> Result<()> {
    let mysql = MySql::builder().start().await?;
    let nats = Nats::builder().config(ACCOUNTS).start().await?;
    let bridge = ready(&mysql, &nats).await?;
    for (user, password, code, says) in [
        ("bridge", NATS_PASSWORD, OK, &["publishing in mode fast", "run creates it", "0 errors"][..]),
        (
            "mute",
            NATS_PASSWORD,
            CONFIGURATION,
            &["stream ORDERS: may not be published to", "-> allow the bridge's user"],
        ),
        (
            "blind",
            NATS_PASSWORD,
            CONFIGURATION,
            &[
                "stream ORDERS: its last message cannot be read",
                "$JS.API.STREAM.MSG.GET.ORDERS",
                "bucket OUTBOX_BRIDGE: does not exist and cannot be created",
                "$JS.API.STREAM.CREATE.KV_OUTBOX_BRIDGE",
            ],
        ),
        (
            "deaf",
            NATS_PASSWORD,
            CONFIGURATION,
            &["JetStream does not answer", "Permissions Violation", "nats.inbox_prefix"],
        ),
        ("bare", NATS_PASSWORD, CONFIGURATION, &["JetStream does not answer", "-> enable JetStream"]),
        ("bridge", "hunter2", CONFIGURATION, &["ERROR    nats: ", "-> check the credentials"]),
    ] {
        let outcome = bridge.with(&[("nats.user", user), ("nats.password", password)])?.check().await?;
        outcome.expect(code, says);
        outcome.expect(code, &["table shop.outbox: fits"]);
    }
    let port = Port::reserve()?;
    let nowhere = format!("nats://{}", port.address());
    let outcome = bridge.with(&[("nats.url", &nowhere)])?.check().await?;
    outcome.expect(UNAVAILABLE, &["ERROR    nats: ", "-> check nats.url", "table shop.outbox: fits"]);
    Ok(())
}
