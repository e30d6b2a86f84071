//! The byte stream beneath a connection: TCP, a Unix socket, or TLS over either.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::error::ConnectionError;
use super::options::ConnectOptions;

/// The operating system looks for dead peers as well as the heartbeats do, also while nothing is being dumped.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// A byte stream to a server, of whatever kind.
pub struct Transport {
    stream: Box<dyn Stream>,
    local: bool,
}

impl Transport {
    pub(super) async fn open(options: &ConnectOptions) -> Result<Self, ConnectionError> {
        let failed = |error| {
            ConnectionError::io(format!("cannot connect to the server at {}", options.address()), error)
        };
        if let Some(socket) = &options.socket {
            let stream = UnixStream::connect(socket).await.map_err(failed)?;
            return Ok(Self { stream: Box::new(stream), local: true });
        }
        let stream = TcpStream::connect((options.host.as_str(), options.port)).await.map_err(failed)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
        stream.set_nodelay(true).map_err(failed)?;
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(failed)?;
        Ok(Self { stream: Box::new(stream), local: false })
    }

    /// The same with something around it.
    pub(super) fn wrap<W: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static>(
        stream: W,
        local: bool,
    ) -> Self {
        Self { stream: Box::new(stream), local }
    }

    /// Whether it never leaves the machine.
    pub(super) fn is_local(&self) -> bool {
        self.local
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Transport").field("local", &self.local).finish_non_exhaustive()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
