//! A TCP proxy that damages what a server says: what a broken server, cable or proxy would make of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const CHUNK_BYTES: usize = 4 * 1024;
const GARBAGE_BYTES_MAX: usize = 64;
/// So many of the kinds of damage are flips, the first ones.
const FLIPS: u32 = 2;
const KINDS: u32 = 6;

#[derive(Debug, Default)]
struct Shared {
    /// Of a thousand pieces that the server sends, so many are damaged.
    per_mille: AtomicU64,
    /// The first bytes of a connection that are not damaged.
    spared_bytes: AtomicU64,
    without_flips: AtomicBool,
    damaged: AtomicU64,
}

/// A TCP proxy on a free port of 127.0.0.1 that damages what comes from the server, at random: it flips bits, leaves out,
/// doubles and inserts bytes, and cuts the connection within a packet. Its connections end when it is dropped.
#[derive(Debug)]
pub struct DamagingProxy {
    shared: Arc<Shared>,
    port: u16,
    acceptor: JoinHandle<()>,
}

impl DamagingProxy {
    /// Starts a proxy to a port on 127.0.0.1 that damages nothing until told so. The same seed draws the same damages, as
    /// far as the server sends the same pieces.
    ///
    /// # Errors
    ///
    /// When there is no free port.
    pub async fn start(upstream_port: u16, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let acceptor = tokio::spawn(accept(listener, upstream_port, seed, Arc::clone(&shared)));
        Ok(Self { shared, port, acceptor })
    }

    /// The port that clients connect to, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Damages so many of a thousand pieces, on connections of the past and of the future, but never the first
    /// `spared_bytes` that the server sends on one.
    pub fn damage(&self, per_mille: u64, spared_bytes: u64) {
        self.shared.spared_bytes.store(spared_bytes, Ordering::Relaxed);
        self.shared.per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// Flips no bits from now on: where nothing has checksums, whatever is damaged must change its length to be noticed.
    pub fn keep_bits(&self) {
        self.shared.without_flips.store(true, Ordering::Relaxed);
    }

    /// How many pieces were damaged.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.shared.damaged.load(Ordering::Relaxed)
    }
}

impl Drop for DamagingProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, upstream_port: u16, seed: u64, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    while let Ok((client, _)) = listener.accept().await {
        number += 1;
        let random = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A connection that fails is what this is for.
            drop(connect(client, upstream_port, random, &shared).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(
    client: TcpStream,
    upstream_port: u16,
    random: SmallRng,
    shared: &Shared,
) -> std::io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream_port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::select! {
        sent = tokio::io::copy(&mut from_client, &mut to_server) => sent.map(drop),
        answered = answer(from_server, to_client, random, shared) => answered,
    }
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut random: SmallRng,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut passed = 0_u64;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let mut bytes: Vec<u8> = buffer.iter().take(length).copied().collect();
        let spared = passed < shared.spared_bytes.load(Ordering::Relaxed);
        passed += length as u64;
        let hit = random.random_range(0..1_000) < shared.per_mille.load(Ordering::Relaxed) && !spared;
        let mut cut = false;
        if hit {
            shared.damaged.fetch_add(1, Ordering::Relaxed);
            let from = if shared.without_flips.load(Ordering::Relaxed) { FLIPS } else { 0 };
            let kind = random.random_range(from..KINDS);
            cut = spoil(&mut bytes, kind, &mut random);
        }
        to.write_all(&bytes).await?;
        if cut {
            return Ok(());
        }
    }
}

/// Damages a piece; `true` if the connection is to end behind it.
fn spoil(bytes: &mut Vec<u8>, kind: u32, random: &mut SmallRng) -> bool {
    let at = random.random_range(0..bytes.len());
    let end = random.random_range(at..bytes.len()) + 1;
    match kind {
        ..FLIPS => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => {
            let doubled: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
            bytes.splice(at..at, doubled);
        }
        4 => {
            let garbage: Vec<u8> =
                (0..random.random_range(1..=GARBAGE_BYTES_MAX)).map(|_| random.random()).collect();
            bytes.splice(at..at, garbage);
        }
        _ => {
            bytes.truncate(at);
            return true;
        }
    }
    false
}
