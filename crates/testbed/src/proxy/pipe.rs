//! One direction of a proxied connection: it reads, holds what it read for as long as its direction is delayed, and
//! writes at the pace that the plan allows.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Direction, Plan, Shared};

const CHUNK_BYTES: usize = 16 * 1024;
/// How much a delayed direction may hold back.
const CHUNKS_HELD_MAX: usize = 256;
/// A throttled direction writes this often.
const THROTTLE_TURN: Duration = Duration::from_millis(20);
const THROTTLE_TURNS_PER_SECOND: u64 = 50;

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The reading side was closed, and the writing side was told.
    Orderly,
    /// The budget of bytes was used up; all of it was delivered.
    Exhausted,
    /// The connection is to be reset.
    Cut,
}

#[derive(Debug)]
pub(super) struct Pipe<'a> {
    shared: &'a Shared,
    direction: Direction,
}

/// Bytes on their way.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

impl<'a> Pipe<'a> {
    pub(super) fn new(shared: &'a Shared, direction: Direction) -> Self {
        Self { shared, direction }
    }

    pub(super) async fn run(self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> End {
        let (sender, receiver) = mpsc::channel(CHUNKS_HELD_MAX);
        let (read, written) = tokio::join!(self.read(from, sender), self.write(to, receiver));
        if written == End::Cut { written } else { read }
    }

    async fn read(&self, from: &mut ReadHalf<'_>, chunks: mpsc::Sender<Chunk>) -> End {
        let mut plan = self.shared.plan.subscribe();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            if plan.wait_for(|plan| !plan.stalled).await.is_err() {
                return End::Cut;
            }
            let length = tokio::select! {
                biased;
                _ = plan.wait_for(|plan| plan.stalled) => continue,
                () = chunks.closed() => return End::Cut,
                read = from.read(&mut buffer) => match read {
                    Ok(0) => return End::Orderly,
                    Ok(length) => length,
                    Err(_) => return End::Cut,
                },
            };
            let (admitted, cut) = self.shared.meter(self.direction).admit(length);
            let bytes = buffer.iter().take(admitted).copied().collect();
            let delay = plan.borrow().pace(self.direction).delay;
            if chunks.send(Chunk { due: Instant::now() + delay, bytes }).await.is_err() {
                return End::Cut;
            }
            if cut {
                return End::Exhausted;
            }
        }
    }

    async fn write(&self, to: &mut WriteHalf<'_>, mut chunks: mpsc::Receiver<Chunk>) -> End {
        let mut plan = self.shared.plan.subscribe();
        while let Some(chunk) = chunks.recv().await {
            sleep_until(chunk.due).await;
            if self.write_paced(to, &chunk.bytes, &mut plan).await.is_err() {
                return End::Cut;
            }
        }
        // The reader has ended, which the other side is to see. It fails if that has gone.
        drop(to.shutdown().await);
        End::Orderly
    }

    async fn write_paced(
        &self,
        to: &mut WriteHalf<'_>,
        mut bytes: &[u8],
        plan: &mut watch::Receiver<Plan>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let pace = plan.wait_for(|plan| !plan.stalled).await?.pace(self.direction);
            let turn = match pace.bytes_per_second {
                None => bytes.len(),
                Some(rate) => usize::try_from((rate / THROTTLE_TURNS_PER_SECOND).max(1))?.min(bytes.len()),
            };
            let (now, later) = bytes.split_at(turn);
            to.write_all(now).await?;
            bytes = later;
            if pace.bytes_per_second.is_some() {
                sleep(THROTTLE_TURN).await;
            }
        }
        Ok(())
    }
}
