//! The writers of a backfill: one a stream, the same that publish what the log shows.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    pipeline::{PipelineOptions, StreamTraits},
    publish::{Chain, Message, NatsWire, Stop, Stored, TransactionId, Writer, WriterOptions},
};

/// Rows that are handed over at once.
const LIST_ROWS: usize = 256;
/// Or so many bytes of them.
const LIST_BYTES: usize = 256 << 10;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    writers: JoinSet<Result<(), Stop>>,
}

#[derive(Debug)]
struct Lane {
    input: mpsc::Sender<Vec<Message>>,
    stored: watch::Receiver<Stored>,
    waiting: Vec<Message>,
    bytes: usize,
    transaction: TransactionId,
    row: u64,
}

impl Lanes {
    /// Adds the writer of the next stream, whose rows have positions of `transaction` from number `row` on.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that only the caller knows")]
    pub(super) fn add(
        &mut self,
        stream: String,
        wire: NatsWire,
        traits: StreamTraits,
        chain: Chain,
        options: &PipelineOptions,
        transaction: TransactionId,
        row: u64,
    ) {
        let (input, messages) = mpsc::channel(2);
        let (sequence, position) = chain.known();
        let (report, stored) =
            watch::channel(Stored { sequence, position: position.cloned(), ..Stored::default() });
        let options = WriterOptions {
            stream,
            mode: traits.mode,
            replicated: traits.replicated,
            consumed: traits.consumed,
            seed: rand::random(),
            ..options.writer.clone()
        };
        self.writers.spawn(Writer::new(wire, options, chain, messages, report).run());
        self.lanes.push(Lane { input, stored, waiting: Vec::new(), bytes: 0, transaction, row });
    }

    /// The position of the stream's next row, made at that time.
    pub(super) fn next(
        &mut self,
        stream: usize,
        created_micros: Option<u64>,
    ) -> Result<(Arc<TransactionId>, u64), Stop> {
        let lane = self.lanes.get_mut(stream);
        let lane = lane.ok_or_else(|| Stop::Internal(format!("stream {stream} has no writer")))?;
        let row = lane.row;
        lane.row += 1;
        let mut transaction = lane.transaction.clone();
        transaction.committed_micros = created_micros.unwrap_or(transaction.committed_micros);
        Ok((Arc::new(transaction), row))
    }

    /// Hands a row on, and waits while its stream takes no more.
    pub(super) async fn push(&mut self, stream: usize, message: Message) -> Result<(), Stop> {
        let Some(lane) = self.lanes.get_mut(stream) else { return Ok(()) };
        lane.bytes += message.size();
        lane.waiting.push(message);
        if lane.waiting.len() < LIST_ROWS && lane.bytes < LIST_BYTES {
            return Ok(());
        }
        lane.bytes = 0;
        let messages = std::mem::take(&mut lane.waiting);
        tokio::select! {
            biased;
            Some(ended) = self.writers.join_next() => Err(failure(ended)),
            // A writer that has ended is noticed above, the next time.
            _ = lane.input.send(messages) => Ok(()),
        }
    }

    /// Waits until everything is stored; gives where each stream ends.
    pub(super) async fn finish(mut self) -> Result<Vec<Stored>, Stop> {
        let mut ends = Vec::new();
        for lane in self.lanes {
            // What it says if it fails comes below.
            drop(lane.input.send(lane.waiting).await);
            ends.push(lane.stored);
        }
        while let Some(ended) = self.writers.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                ended => return Err(failure(ended)),
            }
        }
        Ok(ends.iter().map(|stored| stored.borrow().clone()).collect())
    }
}

fn failure(ended: Result<Result<(), Stop>, tokio::task::JoinError>) -> Stop {
    match ended {
        Ok(Err(stop)) => stop,
        Ok(Ok(())) => Stop::Internal("a writer ended before its input".into()),
        Err(panic) => Stop::Internal(format!("a writer failed: {panic}")),
    }
}
