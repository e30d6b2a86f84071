//! Reads a stream that Outbox Bridge writes, and prints each event: its CloudEvents attributes, where its row stood in
//! MySQL's log, the application's own headers, and the body.
//!
//!     cargo run -p read-events -- --server nats://127.0.0.1:4222 ORDERS
//!
//! It reads with an ordered consumer, which keeps no state on the server: each run begins at the stream's start. A
//! service would use a durable consumer, acknowledge each message once its work is committed, and remember `ce-id`, since
//! a message that was not acknowledged in time is delivered again.

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, Message, consumer::pull::OrderedConfig};
use clap::Parser;
use futures_util::StreamExt as _;
use outbox_event::{Position, header};

#[derive(Debug, Parser)]
#[command(about = "Prints the events of a stream that Outbox Bridge writes")]
struct Arguments {
    /// The NATS server
    #[arg(long, default_value = "nats://127.0.0.1:4222")]
    server: String,
    /// Stop after so many events instead of waiting for more
    #[arg(long)]
    count: Option<usize>,
    /// The stream
    stream: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Arguments { server, count, stream } = Arguments::parse();
    let jetstream = jetstream::new(async_nats::connect(&server).await.context("cannot connect")?);
    let stream = jetstream.get_stream(&stream).await.context("cannot look at the stream")?;
    let events = stream.create_consumer(OrderedConfig::default()).await?.messages().await?;
    let mut events = events.take(count.unwrap_or(usize::MAX));
    while let Some(message) = events.next().await {
        print(&message?)?;
    }
    Ok(())
}

fn print(message: &Message) -> Result<()> {
    let info = message.info().map_err(anyhow::Error::from_boxed)?;
    let headers = message.headers.as_ref().context("the message has no headers: no bridge wrote it")?;
    println!("{} {}", info.stream_sequence, message.subject);
    for (name, values) in headers.iter() {
        for value in values {
            println!("  {name}: {value}");
        }
    }
    let position =
        headers.get(header::POSITION).context("the message has no position: no bridge wrote it")?;
    let Position { file, offset, row, .. } = position.as_str().parse()?;
    println!("  row {row} of the transaction at offset {offset} of {file}");
    println!("  {}\n", String::from_utf8_lossy(&message.payload));
    Ok(())
}
