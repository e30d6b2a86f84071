//! A TCP proxy whose faults are switched at run time.
//!
//! All faults stand in one [`Plan`] that every connection watches, so a switch holds for connections of the past and
//! of the future alike.

mod pipe;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::pipe::{End, Pipe};
use crate::port::Port;

/// How long to wait before the port is bound again, should somebody else's socket still be in the way.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server behind the proxy.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What the proxy shall do.
#[derive(Debug, Clone, Copy)]
struct Plan {
    upstream: SocketAddr,
    listening: bool,
    stalled: bool,
    /// Raised to cut all connections that were accepted under an earlier value.
    cuts: u64,
    to_server: Pace,
    to_client: Pace,
}

/// How fast bytes flow in one direction.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    delay: Duration,
    bytes_per_second: Option<u64>,
}

impl Plan {
    fn new(upstream: SocketAddr, cuts: u64) -> Self {
        let pace = Pace::default();
        Self { upstream, listening: true, stalled: false, cuts, to_server: pace, to_client: pace }
    }

    fn pace(&self, direction: Direction) -> Pace {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }

    fn pace_mut(&mut self, direction: Direction) -> &mut Pace {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

/// What the proxy's parts share.
#[derive(Debug)]
struct Shared {
    plan: watch::Sender<Plan>,
    /// Whether the listening socket is open, which follows the plan with a little delay.
    listening: watch::Sender<bool>,
    to_server: Meter,
    to_client: Meter,
    open: AtomicUsize,
    accepted: AtomicU64,
}

/// What has flowed in one direction, and how much more may before the connection is cut.
#[derive(Debug, Default)]
struct Meter {
    bytes: AtomicU64,
    budget: Mutex<Option<u64>>,
}

impl Meter {
    fn set_budget(&self, budget: Option<u64>) {
        *self.budget.lock().unwrap_or_else(PoisonError::into_inner) = budget;
    }

    /// Says how many of `length` bytes may pass and whether the connection is to be cut after them. A budget is used
    /// up once.
    fn admit(&self, length: usize) -> (usize, bool) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let (admitted, cut) = match *budget {
            None => (length, false),
            Some(left) => {
                let left_bytes = usize::try_from(left).unwrap_or(usize::MAX);
                let admitted = length.min(left_bytes);
                let cut = length >= left_bytes;
                *budget = if cut { None } else { Some(left - admitted as u64) };
                (admitted, cut)
            }
        };
        self.bytes.fetch_add(admitted as u64, Ordering::Relaxed);
        (admitted, cut)
    }
}

impl Shared {
    fn meter(&self, direction: Direction) -> &Meter {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

/// A TCP proxy on a free port of 127.0.0.1. Its connections end when it is dropped.
#[derive(Debug)]
pub struct FaultyProxy {
    shared: Arc<Shared>,
    port: Port,
    acceptor: JoinHandle<()>,
}

impl FaultyProxy {
    /// Starts a proxy to a port on 127.0.0.1 that passes everything on until told otherwise.
    ///
    /// # Errors
    ///
    /// When there is no free port.
    pub async fn start(upstream_port: u16) -> Result<Self> {
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, upstream_port));
        let port = Port::reserve()?;
        let shared = Arc::new(Shared {
            plan: watch::Sender::new(Plan::new(upstream, 0)),
            listening: watch::Sender::new(false),
            to_server: Meter::default(),
            to_client: Meter::default(),
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
        });
        let acceptor = tokio::spawn(accept(port.address(), Arc::clone(&shared)));
        let proxy = Self { shared, port, acceptor };
        proxy.await_listening(true).await?;
        Ok(proxy)
    }

    /// The port that clients connect to, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Ends all faults: what was stalled flows again, and new connections are accepted.
    ///
    /// # Errors
    ///
    /// When the proxy's task is gone.
    pub async fn pass(&self) -> Result<()> {
        self.shared.to_server.set_budget(None);
        self.shared.to_client.set_budget(None);
        self.shared.plan.send_modify(|plan| *plan = Plan::new(plan.upstream, plan.cuts));
        self.await_listening(true).await
    }

    /// Refuses new connections, as a machine does where nothing listens. Open ones go on.
    ///
    /// # Errors
    ///
    /// When the proxy's task is gone.
    pub async fn refuse(&self) -> Result<()> {
        self.shared.plan.send_modify(|plan| plan.listening = false);
        self.await_listening(false).await
    }

    /// Resets all open connections. New ones are accepted.
    pub fn cut(&self) {
        self.shared.plan.send_modify(|plan| plan.cuts += 1);
    }

    /// Resets all open connections and refuses new ones, until [`pass`](Self::pass).
    ///
    /// # Errors
    ///
    /// When the proxy's task is gone.
    pub async fn down(&self) -> Result<()> {
        self.refuse().await?;
        self.cut();
        Ok(())
    }

    /// Keeps all connections open and accepts new ones, but reads and forwards nothing, as half-open connections do.
    /// What was read before stays held back, and flows on after [`pass`](Self::pass).
    pub fn stall(&self) {
        self.shared.plan.send_modify(|plan| plan.stalled = true);
    }

    /// Delivers what flows in this direction so much later, without changing the rate.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.shared.plan.send_modify(|plan| plan.pace_mut(direction).delay = delay);
    }

    /// Limits the rate of each connection in this direction; `None` lifts the limit.
    pub fn throttle(&self, direction: Direction, bytes_per_second: Option<u64>) {
        self.shared.plan.send_modify(|plan| plan.pace_mut(direction).bytes_per_second = bytes_per_second);
    }

    /// Lets exactly `bytes` more pass in this direction, counted over all connections, and then ends the connection
    /// that carried the last of them, in the midst of a packet or not. It happens once.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared.meter(direction).set_budget(Some(bytes));
    }

    /// Connects new connections to another port on 127.0.0.1. Open ones stay where they are.
    pub fn set_upstream(&self, port: u16) {
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.shared.plan.send_modify(|plan| plan.upstream = upstream);
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// How many connections were ever accepted.
    #[must_use]
    pub fn connections_accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many bytes were ever taken over in this direction.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.meter(direction).bytes.load(Ordering::Relaxed)
    }

    async fn await_listening(&self, wanted: bool) -> Result<()> {
        let mut listening = self.shared.listening.subscribe();
        listening.wait_for(|now| *now == wanted).await.context("the proxy has ended")?;
        Ok(())
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Opens and closes the listening socket as the plan says, and serves what is accepted.
async fn accept(address: SocketAddr, shared: Arc<Shared>) {
    let mut plan = shared.plan.subscribe();
    // Dropped with this task, which ends all connections.
    let mut connections = JoinSet::new();
    loop {
        if plan.wait_for(|plan| plan.listening).await.is_err() {
            return;
        }
        let Ok(listener) = TcpListener::bind(address).await else {
            tokio::time::sleep(BIND_PAUSE).await;
            continue;
        };
        shared.listening.send_replace(true);
        loop {
            tokio::select! {
                biased;
                _ = plan.wait_for(|plan| !plan.listening) => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    if let Ok((client, _)) = accepted {
                        shared.accepted.fetch_add(1, Ordering::Relaxed);
                        // Read here, so that a cut between now and the task's first turn is not missed.
                        let cuts = shared.plan.borrow().cuts;
                        connections.spawn(serve(client, cuts, Arc::clone(&shared)));
                    }
                }
            }
        }
        drop(listener);
        shared.listening.send_replace(false);
    }
}

/// Serves one connection, accepted when `cuts` was the plan's, until it ends or is cut.
async fn serve(mut client: TcpStream, cuts: u64, shared: Arc<Shared>) {
    let _open = Open::count(&shared.open);
    let mut plan = shared.plan.subscribe();
    let mut server = None;
    let end = tokio::select! {
        biased;
        _ = plan.wait_for(|plan| plan.cuts != cuts) => End::Cut,
        end = relay(&mut client, &mut server, &shared) => end,
    };
    if let End::Cut = end {
        // Closing with lingering off sends a reset. A socket that is gone already needs none.
        drop(client.set_zero_linger());
        drop(server.map(|server| server.set_zero_linger()));
    }
}

async fn relay(client: &mut TcpStream, server: &mut Option<TcpStream>, shared: &Shared) -> End {
    let mut plan = shared.plan.subscribe();
    let upstream = match plan.wait_for(|plan| !plan.stalled).await {
        Ok(plan) => plan.upstream,
        Err(_) => return End::Cut,
    };
    let Ok(connected) = TcpStream::connect(upstream).await else { return End::Cut };
    let server = server.insert(connected);
    // Small packets would otherwise wait for one another, which no test asked for.
    drop(client.set_nodelay(true));
    drop(server.set_nodelay(true));
    let (mut client_in, mut client_out) = client.split();
    let (mut server_in, mut server_out) = server.split();
    let up = Pipe::new(shared, Direction::ToServer).run(&mut client_in, &mut server_out);
    let down = Pipe::new(shared, Direction::ToClient).run(&mut server_in, &mut client_out);
    let (up, down) = (std::pin::pin!(up), std::pin::pin!(down));
    // A direction that ended in an orderly way leaves the other one running.
    match futures_util::future::select(up, down).await {
        futures_util::future::Either::Left((End::Orderly, down)) => down.await,
        futures_util::future::Either::Right((End::Orderly, up)) => up.await,
        futures_util::future::Either::Left((end, _)) | futures_util::future::Either::Right((end, _)) => end,
    }
}

/// Counts an open connection for as long as it lives.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn count(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
