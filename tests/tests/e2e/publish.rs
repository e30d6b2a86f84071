//! The writer against real streams: both modes, restarts in mid-stream, a second writer, foreign messages.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use outbox_bridge::publish::{
    Chain, Message, Mode, NatsWire, Stop, Stored, Tail, TransactionId, Wire as _, Writer, WriterOptions,
};
use outbox_event::Position;
use testbed::Nats;
use tokio::sync::{mpsc, watch};

const STREAM: &str = "ORDERS";

fn message(number: u64) -> Message {
    Message {
        transaction: Arc::new(TransactionId {
            gtid: format!("0-1-{number}"),
            file: "binlog.000001".into(),
            file_number: 1,
            offset: number,
            committed_micros: 0,
        }),
        row: 0,
        table: "a.b".into(),
        subject: format!("orders.{}", number % 10).into(),
        id: format!("id-{number}"),
        headers: vec![("content-type".into(), "text/plain".into())],
        body: format!("body {number}").into(),
        poison: None,
    }
}

fn options(mode: Mode) -> WriterOptions {
    WriterOptions {
        stream: STREAM.into(),
        mode,
        replicated: false,
        consumed: false,
        window: 4096,
        window_bytes_max: 8 << 20,
        ack_timeout: Duration::from_secs(2),
        retry_initial: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        behind_patience: Duration::from_secs(2),
        seed: 1,
        traces: None,
    }
}

/// A connection whose losses are counted, as the bridge makes it.
async fn connect(nats: &Nats) -> Result<(async_nats::Client, watch::Receiver<u64>)> {
    let (losses, receiver) = watch::channel(0);
    let losses = Arc::new(losses);
    let client = nats
        .connect_options()
        .event_callback(move |event| {
            if matches!(event, async_nats::Event::Disconnected) {
                losses.send_modify(|count| *count += 1);
            }
            std::future::ready(())
        })
        .connect(nats.url())
        .await?;
    Ok((client, receiver))
}

async fn create(nats: &Nats, batches: bool) -> Result<()> {
    jetstream::new(nats.client().await?)
        .create_stream(stream::Config {
            name: STREAM.into(),
            subjects: vec!["orders.>".into()],
            allow_batch_publish: batches,
            allow_atomic_publish: batches,
            ..Default::default()
        })
        .await?;
    Ok(())
}

struct Running {
    input: mpsc::Sender<Vec<Message>>,
    stored: watch::Receiver<Stored>,
    writer: tokio::task::JoinHandle<Result<(), Stop>>,
}

async fn start(nats: &Nats, mode: Mode) -> Result<Running> {
    start_with(nats, mode, true).await
}

async fn start_with(nats: &Nats, mode: Mode, message_id: bool) -> Result<Running> {
    let (client, losses) = connect(nats).await?;
    let context = jetstream::new(client.clone());
    let mut wire = NatsWire::new(client, context, STREAM.into(), message_id, losses).await?;
    let chain = match wire.read_tail().await? {
        Tail::Empty { last_sequence } => Chain::new(last_sequence, None, false, 0),
        Tail::Message(tail) => Chain::new(tail.sequence, Some(tail.position), true, 0),
    };
    let (input, messages) = mpsc::channel(2);
    let (report, stored) = watch::channel(Stored::default());
    let writer = tokio::spawn(Writer::new(wire, options(mode), chain, messages, report).run());
    Ok(Running { input, stored, writer })
}

/// The stream holds the messages 1 to `count`, each once and in order.
async fn verify(nats: &Nats, count: u64) -> Result<()> {
    let stream = jetstream::new(nats.client().await?).get_stream(STREAM).await?;
    let state = &stream.cached_info().state;
    ensure!(
        state.messages == count && state.last_sequence == count,
        "{} messages, last {}",
        state.messages,
        state.last_sequence
    );
    let step = (count / 50).max(1);
    for sequence in (1..=count).step_by(usize::try_from(step)?).chain([count]) {
        let stored = stream.get_raw_message(sequence).await?;
        ensure!(stored.payload == format!("body {sequence}"), "message {sequence} has another body");
        let id = stored.headers.get("ce-id").context("no ce-id")?;
        ensure!(id.as_str() == format!("id-{sequence}"), "message {sequence} is {id}");
    }
    Ok(())
}

async fn carries_everything_in_order(nats: &Nats, mode: Mode) -> Result<()> {
    create(nats, mode != Mode::Pipelined).await?;
    let Running { input, stored, writer } = start(nats, mode).await?;
    let begin = std::time::Instant::now();
    for chunk in 0..200 {
        input.send((chunk * 100 + 1..=chunk * 100 + 100).map(message).collect()).await?;
    }
    drop(input);
    writer.await??;
    println!("{mode}: 20,000 messages in {:?}", begin.elapsed());
    ensure!(stored.borrow().done == 20_000);
    verify(nats, 20_000).await
}

#[tokio::test]
async fn fast_carries_everything_in_order() -> Result<()> {
    carries_everything_in_order(&Nats::builder().start().await?, Mode::Fast).await
}

#[tokio::test]
async fn durable_carries_everything_in_order() -> Result<()> {
    carries_everything_in_order(&Nats::builder().start().await?, Mode::Durable).await?;
    let synced = Nats::builder().jetstream_config("sync_interval: always").start().await;
    carries_everything_in_order(&synced?, Mode::Durable).await
}

#[tokio::test]
async fn pipelined_carries_everything_in_order() -> Result<()> {
    carries_everything_in_order(&Nats::builder().start().await?, Mode::Pipelined).await
}

#[tokio::test]
async fn pipelined_works_with_old_servers() -> Result<()> {
    for version in ["2.10", "2.12"] {
        carries_everything_in_order(&Nats::builder().version(version).start().await?, Mode::Pipelined)
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn fast_falls_back_where_the_stream_does_not_allow_batches() -> Result<()> {
    let nats = Nats::builder().start().await?;
    create(&nats, false).await?;
    let Running { input, writer, .. } = start(&nats, Mode::Fast).await?;
    input.send((1..=500).map(message).collect()).await?;
    drop(input);
    writer.await??;
    verify(&nats, 500).await
}

async fn survives_restarts(mode: Mode) -> Result<()> {
    let mut nats = Nats::builder().start().await?;
    create(&nats, mode != Mode::Pipelined).await?;
    let Running { input, mut stored, writer } = start(&nats, mode).await?;
    let sender = tokio::spawn(async move {
        for chunk in 0..1000 {
            input.send((chunk * 100 + 1..=chunk * 100 + 100).map(message).collect()).await?;
        }
        anyhow::Ok(())
    });
    for round in 1..=3 {
        stored.wait_for(|stored| stored.done >= round * 10_000).await?;
        nats.kill().await?;
        nats.start().await?;
    }
    sender.await??;
    writer.await??;
    verify(&nats, 100_000).await
}

#[tokio::test]
async fn fast_survives_killed_servers() -> Result<()> {
    survives_restarts(Mode::Fast).await
}

#[tokio::test]
async fn durable_survives_killed_servers() -> Result<()> {
    survives_restarts(Mode::Durable).await
}

#[tokio::test]
async fn durable_needs_a_stream_that_allows_it() -> Result<()> {
    let nats = Nats::builder().start().await?;
    create(&nats, false).await?;
    let Running { input, writer, .. } = start(&nats, Mode::Durable).await?;
    input.send((1..=10).map(message).collect()).await?;
    let report = outbox_bridge::exit::report(&writer.await?.expect_err("not allowed"));
    ensure!(report.contains("allow_atomic") && report.contains(STREAM), "{report}");
    let state = jetstream::new(nats.client().await?).get_stream(STREAM).await?.cached_info().state.clone();
    ensure!(state.last_sequence == 0, "{state:?}");
    Ok(())
}

/// Each transaction is stored at once, as the headers that the server keeps say.
#[tokio::test]
async fn durable_stores_transactions_whole() -> Result<()> {
    let nats = Nats::builder().start().await?;
    create(&nats, true).await?;
    let Running { input, writer, .. } = start(&nats, Mode::Durable).await?;
    let mut count = 0;
    for transaction in 1..200 {
        let rows = transaction * 37 % 90 + 1;
        let row = |row| Message { row, id: format!("{transaction}/{row}"), ..message(transaction) };
        input.send((0..rows).map(row).collect()).await?;
        count += rows;
    }
    drop(input);
    writer.await??;
    let stream = jetstream::new(nats.client().await?).get_stream(STREAM).await?;
    let (mut transactions, mut batches) = (HashMap::new(), HashSet::new());
    for sequence in 1..=count {
        let message = stream.get_raw_message(sequence).await?;
        let header = |name: &str| message.headers.get(name).map(ToString::to_string).unwrap_or_default();
        let position: Position = header("Outbox-Position").parse()?;
        // A transaction of one row may go alone.
        let batch = (header("Nats-Batch-Id"), if header("Nats-Batch-Id").is_empty() { sequence } else { 0 });
        let first = transactions.entry(position.offset).or_insert_with(|| batch.clone());
        ensure!(*first == batch, "transaction {} is in two batches", position.offset);
        batches.insert(batch);
    }
    ensure!(batches.len() < transactions.len(), "what waits goes together: {} batches", batches.len());
    Ok(())
}

#[tokio::test]
async fn pipelined_survives_killed_servers() -> Result<()> {
    survives_restarts(Mode::Pipelined).await
}

#[tokio::test]
async fn foreign_messages_are_refused() -> Result<()> {
    let nats = Nats::builder().start().await?;
    create(&nats, true).await?;
    let Running { input, mut stored, writer } = start(&nats, Mode::Fast).await?;
    input.send((1..=10).map(message).collect()).await?;
    stored.wait_for(|stored| stored.done == 10).await?;
    jetstream::new(nats.client().await?).publish("orders.foreign", "x".into()).await?.await?;
    input.send(vec![message(11)]).await?;
    let stop = writer.await?.expect_err("a foreign message stops the writer");
    let report = outbox_bridge::exit::report(&stop);
    ensure!(report.contains("orders.foreign") && report.contains("no bridge wrote"), "{report}");
    Ok(())
}

/// A message of somebody else gets in while many are on their way: nothing of ours may follow it, since the one whose place
/// it took would be missing.
async fn nothing_follows_a_foreign_message(mode: Mode, message_id: bool) -> Result<()> {
    let nats = Nats::builder().start().await?;
    create(&nats, true).await?;
    let context = jetstream::new(nats.client().await?);
    for round in 0..30 {
        let Running { input, mut stored, writer } = start_with(&nats, mode, message_id).await?;
        let feeding = tokio::spawn(async move {
            // Few at a time, so that in mode fast single messages are on their way as well.
            for number in 1_u64.. {
                if input.send(vec![message(number)]).await.is_err() {
                    break;
                }
            }
        });
        stored.wait_for(|stored| stored.done >= 100 + round * 10).await?;
        let foreign = context.publish("orders.foreign", "x".into()).await?.await?.sequence;
        let ended = tokio::time::timeout(Duration::from_secs(30), writer).await;
        let stop = ended.context("the foreign message was not noticed")??.expect_err("it stops the writer");
        feeding.await?;
        let report = outbox_bridge::exit::report(&stop);
        ensure!(report.contains("no bridge wrote"), "{report}");
        let state = context.get_stream(STREAM).await?.cached_info().state.clone();
        ensure!(
            state.last_sequence == foreign,
            "round {round}: {} messages follow the foreign one",
            state.last_sequence - foreign
        );
        context.get_stream(STREAM).await?.purge().await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_follows_a_foreign_message_whatever_the_mode() -> Result<()> {
    for mode in [Mode::Fast, Mode::Pipelined, Mode::Durable] {
        for message_id in [true, false] {
            nothing_follows_a_foreign_message(mode, message_id)
                .await
                .with_context(|| format!("mode {mode}, message_id {message_id}"))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_double_id_is_stored_once_and_does_not_stop_the_rest() -> Result<()> {
    for mode in [Mode::Fast, Mode::Pipelined, Mode::Durable] {
        let nats = Nats::builder().start().await?;
        create(&nats, true).await?;
        let Running { input, stored, writer } = start(&nats, mode).await?;
        let mut messages: Vec<_> = (1..=200).map(message).collect();
        for double in [50, 100, 101, 199] {
            messages[double].id = messages[double - 1].id.clone();
        }
        input.send(messages).await?;
        drop(input);
        writer.await??;
        ensure!(stored.borrow().done == 200);
        let stream = jetstream::new(nats.client().await?).get_stream(STREAM).await?;
        ensure!(stream.cached_info().state.messages == 196, "{:?}", stream.cached_info().state);
    }
    Ok(())
}

#[tokio::test]
async fn a_message_over_max_payload_stops_with_its_position_and_the_limit() -> Result<()> {
    let nats = Nats::builder().max_payload(10_000).start().await?;
    create(&nats, true).await?;
    let Running { input, writer, .. } = start(&nats, Mode::Fast).await?;
    let mut messages: Vec<_> = (1..=20).map(message).collect();
    messages[15].body = vec![b'x'; 20_000].into();
    input.send(messages).await?;
    let report = outbox_bridge::exit::report(&writer.await?.expect_err("too large"));
    ensure!(report.contains("0-1-16@binlog.000001:16/0") && report.contains("10000"), "{report}");
    // All before it are stored.
    verify(&nats, 15).await
}
