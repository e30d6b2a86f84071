//! The bridge's writer alone: routed messages to the stream, in each mode.

use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_bridge::publish::{Chain, Message, Mode, NatsWire, Stored, Writer, WriterOptions};
use outbox_bridge_tests::STREAM;
use tokio::sync::{mpsc, watch};

use crate::field::{Backlog, Field};
use crate::report::{Measurement, Target, Unit};
use crate::{Scale, catch_up, progress};

pub(crate) const GROUP: &str = "publish";

/// Messages of a list, as the bridge's source makes them.
const LIST: usize = 256;
/// Lists that may wait, as in the bridge.
const LISTS: usize = 2;
/// As the bridge's defaults.
const WINDOW: usize = 4096;
const WINDOW_BYTES_MAX: usize = 8 << 20;

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    let backlog = Backlog::plain(scale.events.min(scale.limit_messages));
    progress("publish: filling the log");
    field.fill(backlog).await?;
    let messages = field.messages(backlog.events()).await?;
    let beside = |mode: Mode| {
        let name = format!("mode {mode}, {} messages", messages.len());
        Measurement::new(GROUP, name, Unit::PerSecond).beside("bare fast ingest")
    };
    let mut modes = [
        (Mode::Fast, beside(Mode::Fast).target(Target::OfLimit(0.95))),
        (Mode::Pipelined, beside(Mode::Pipelined)),
        (Mode::Durable, beside(Mode::Durable)),
    ];
    for round in 0..scale.rounds {
        progress(&format!("publish, round {}", round + 1));
        // One limit for the three, first in one round and last in the next.
        let before =
            if round.is_multiple_of(2) { Some(catch_up::bare(field, &messages).await?) } else { None };
        for (mode, measurement) in &mut modes {
            measurement.add(Box::pin(by_writer(field, &messages, *mode)).await?);
        }
        let limit = match before {
            Some(limit) => limit,
            None => catch_up::bare(field, &messages).await?,
        };
        modes.iter_mut().for_each(|(_, measurement)| measurement.add_limit(limit));
    }
    Ok(modes.into_iter().map(|(_, measurement)| measurement).collect())
}

async fn by_writer(field: &Field, messages: &[Message], mode: Mode) -> Result<f64> {
    field.fresh_streams().await?;
    let (_losses, disconnects) = watch::channel(0);
    let context = field.world.jetstream.clone();
    let wire = NatsWire::new(field.client.clone(), context, STREAM.to_owned(), true, disconnects).await?;
    let options = WriterOptions {
        stream: STREAM.to_owned(),
        mode,
        replicated: false,
        consumed: false,
        window: WINDOW,
        window_bytes_max: WINDOW_BYTES_MAX,
        ack_timeout: Duration::from_secs(5),
        retry_initial: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        behind_patience: Duration::from_secs(5),
        seed: 0,
        traces: None,
    };
    // Copied before the time runs: the source hands its own on.
    let lists: Vec<Vec<Message>> = messages.chunks(LIST).map(<[Message]>::to_vec).collect();
    let (input, incoming) = mpsc::channel(LISTS);
    let (report, stored) = watch::channel(Stored::default());
    let writer =
        tokio::spawn(Writer::new(wire, options, Chain::new(0, None, false, 0), incoming, report).run());
    for list in lists {
        if input.send(list).await.is_err() {
            break;
        }
    }
    drop(input);
    writer.await??;
    let count = messages.len() as u64;
    ensure!(stored.borrow().done == count, "the writer has stored {} of {count}", stored.borrow().done);
    Ok(catch_up::rate(&field.await_stored(count, None).await?, count))
}
