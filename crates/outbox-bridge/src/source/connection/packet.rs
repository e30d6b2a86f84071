//! Framing: packets with a three-byte length and a sequence number, joined to payloads and taken apart again.
//!
//! It never interprets a payload, and it never allocates for bytes that have not arrived.

use std::fmt;
use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::error::{ConnectionError, ConnectionErrorKind};

/// The most that one packet carries; a packet this long is continued by the next one.
///
/// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html>
pub(super) const PACKET_BYTES_MAX: usize = 0xFF_FFFF;

/// The size of the read buffer; payloads up to this size are handed out as slices of it.
const BUFFER_BYTES: usize = 256 * 1024;

/// A read is given at least this much room.
const READ_BYTES_MIN: usize = 64 * 1024;

/// The first byte of an error's payload.
const ERROR: u8 = 0xFF;

/// Payloads over a byte stream.
pub(super) struct Channel<S> {
    stream: S,
    buffer: BytesMut,
    /// Number that the next packet has, whoever sends it.
    sequence: u8,
    /// The packet whose header was read and whose body was not.
    open: Option<OpenPacket>,
    /// What was received so far of a payload that is too large for a slice of the buffer.
    assembly: Vec<u8>,
    payload_bytes_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct OpenPacket {
    missing: usize,
    /// Whether the payload ends with this packet.
    last: bool,
}

impl<S: fmt::Debug> fmt::Debug for Channel<S> {
    /// Without what was received: it may hold rows.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Channel")
            .field("stream", &self.stream)
            .field("buffered_bytes", &self.buffer.len())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl<S> Channel<S> {
    pub(super) fn new(stream: S, payload_bytes_max: usize) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            sequence: 0,
            open: None,
            assembly: Vec::new(),
            payload_bytes_max,
        }
    }

    /// Sets how large a payload may be.
    pub(super) fn limit(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max;
    }

    /// Replaces the stream by one that wraps it, as TLS does. What was received and not read would be lost, and would
    /// not be protected by what wraps the stream: it is an error.
    pub(super) fn into_stream(self) -> Result<(S, u8), ConnectionError> {
        if !self.buffer.is_empty() || self.open.is_some() {
            return Err(ConnectionError::protocol("the server sent data in front of the TLS handshake"));
        }
        Ok((self.stream, self.sequence))
    }

    pub(super) fn resume(stream: S, sequence: u8, payload_bytes_max: usize) -> Self {
        Self { sequence, ..Self::new(stream, payload_bytes_max) }
    }

    /// The next payload if it has arrived already.
    pub(super) fn buffered(&mut self) -> Result<Option<Bytes>, ConnectionError> {
        loop {
            let Some(OpenPacket { missing, last }) = self.open else {
                if !self.open_packet()? {
                    return Ok(None);
                }
                continue;
            };
            if last && self.assembly.is_empty() && missing <= BUFFER_BYTES {
                if self.buffer.len() < missing {
                    return Ok(None);
                }
                self.open = None;
                return Ok(Some(self.buffer.split_to(missing).freeze()));
            }
            let arrived = self.buffer.split_to(missing.min(self.buffer.len()));
            append(&mut self.assembly, &arrived);
            let missing = missing - arrived.len();
            if missing > 0 {
                self.open = Some(OpenPacket { missing, last });
                return Ok(None);
            }
            self.open = None;
            if last {
                return Ok(Some(std::mem::take(&mut self.assembly).into()));
            }
        }
    }

    /// Of a payload that has begun to arrive: how large it is at least, whether that is known to be all, and its first
    /// bytes.
    pub(super) fn opening(&self) -> Option<(usize, bool, &[u8])> {
        let OpenPacket { missing, last } = self.open?;
        let front = if self.assembly.is_empty() { &self.buffer[..] } else { &self.assembly[..] };
        Some((self.assembly.len().saturating_add(missing), last, front))
    }

    fn open_packet(&mut self) -> Result<bool, ConnectionError> {
        let Some(&[a, b, c, sequence]) = self.buffer.first_chunk() else { return Ok(false) };
        let missing = u32::from_le_bytes([a, b, c, 0]) as usize;
        if sequence != self.sequence {
            // A server that ends an idle or killed session says why outside of any exchange, with a number of its own.
            match self.buffer.get(4) {
                None if missing > 0 => return Ok(false),
                Some(&ERROR) if self.assembly.is_empty() => {}
                _ => {
                    return Err(ConnectionError::protocol(format!(
                        "packet number {sequence} arrived where number {} was due",
                        self.sequence
                    )));
                }
            }
        }
        if self.assembly.len().saturating_add(missing) > self.payload_bytes_max {
            return Err(ConnectionError::new(
                ConnectionErrorKind::TooLarge,
                format!(
                    "the server sends more than {} bytes in one piece, which is the limit",
                    self.payload_bytes_max
                ),
            ));
        }
        self.sequence = sequence.wrapping_add(1);
        self.buffer.advance(4);
        self.open = Some(OpenPacket { missing, last: missing < PACKET_BYTES_MAX });
        Ok(true)
    }
}

impl<S: AsyncRead + Unpin> Channel<S> {
    /// Waits for bytes. Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<(), ConnectionError> {
        const ENDED: io::ErrorKind = io::ErrorKind::UnexpectedEof;
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            self.buffer.reserve(BUFFER_BYTES);
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(read) if read > 0 => Ok(()),
            Err(error) if error.kind() != ENDED => {
                Err(ConnectionError::io("reading from the server failed", error))
            }
            // Over TLS it is an error, whose text is for those who write servers.
            _ => Err(ConnectionError::io("the server closed the connection", ENDED.into())),
        }
    }

    /// The next payload. Cancel safe.
    pub(super) async fn read(&mut self) -> Result<Bytes, ConnectionError> {
        loop {
            if let Some(payload) = self.buffered()? {
                return Ok(payload);
            }
            self.fill().await?;
        }
    }
}

impl<S: AsyncWrite + Unpin> Channel<S> {
    /// Begins a new exchange with a command. Not cancel safe.
    pub(super) async fn command(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        self.sequence = 0;
        self.write(payload).await
    }

    /// Sends a payload within the exchange. Not cancel safe.
    pub(super) async fn write(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let mut wire = Vec::with_capacity(payload.len() + 8);
        let mut rest = payload;
        loop {
            let (packet, tail) = rest.split_at(rest.len().min(PACKET_BYTES_MAX));
            let [a, b, c, ..] = packet.len().to_le_bytes();
            wire.extend([a, b, c, self.sequence]);
            wire.extend_from_slice(packet);
            self.sequence = self.sequence.wrapping_add(1);
            rest = tail;
            if packet.len() < PACKET_BYTES_MAX {
                break;
            }
        }
        let written = async {
            self.stream.write_all(&wire).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| ConnectionError::io("writing to the server failed", error))
    }
}

/// Appends without doubling the room as vectors do, so that a large payload takes little more than its own size.
fn append(assembly: &mut Vec<u8>, arrived: &[u8]) {
    let length = assembly.len();
    if assembly.capacity() - length < arrived.len() {
        assembly.reserve_exact(arrived.len().max(BUFFER_BYTES).max(length / 8));
    }
    assembly.extend_from_slice(arrived);
}

#[cfg(test)]
pub(super) mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;
    use crate::exit::report;

    /// A payload as packets on the wire.
    pub(crate) fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
        packets(sequence, &[payload])
    }

    /// Payloads as packets on the wire, numbered from `sequence` on.
    pub(crate) fn packets(mut sequence: u8, payloads: &[&[u8]]) -> Vec<u8> {
        let mut wire = Vec::new();
        for payload in payloads {
            let full = payload.chunks_exact(PACKET_BYTES_MAX);
            let last = full.remainder();
            for part in full.chain([last]) {
                let [a, b, c, ..] = part.len().to_le_bytes();
                wire.extend([a, b, c, sequence]);
                wire.extend_from_slice(part);
                sequence = sequence.wrapping_add(1);
            }
        }
        wire
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let payloads = [&[][..], b"short", &vec![7; PACKET_BYTES_MAX], &vec![8; PACKET_BYTES_MAX + 1]];
        for payload in payloads {
            let mut wire = Vec::new();
            Channel::new(&mut wire, 0).command(payload).await.expect("written");
            assert!(wire == packet(0, payload));
            let mut channel = Channel::new(wire.as_slice(), payload.len());
            assert!(channel.read().await.expect("read") == payload);
        }
    }

    #[tokio::test]
    async fn a_lie_about_the_length_allocates_nothing() {
        let mut channel = Channel::new(&[0xFE, 0xFF, 0xFF, 0, 1, 2, 3][..], 1 << 30);
        assert_eq!(channel.read().await.expect_err("cut").kind(), ConnectionErrorKind::Io);
        assert!(channel.buffer.capacity() + channel.assembly.capacity() <= 2 * BUFFER_BYTES);
    }

    /// As rustls reads from a connection that has ended without a word.
    struct Ended;

    impl AsyncRead for Ended {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no close_notify")))
        }
    }

    #[tokio::test]
    async fn an_end_reads_the_same_with_and_without_tls() {
        let plain = report(&Channel::new(&[][..], 100).read().await.expect_err("ended"));
        let over_tls = report(&Channel::new(Ended, 100).read().await.expect_err("ended"));
        assert!(plain.starts_with("the server closed the connection"), "{plain}");
        assert_eq!(over_tls, plain);
    }

    #[tokio::test]
    async fn only_an_error_may_come_out_of_order() {
        let error = b"\xFF\xBF\x0F#HY000idle";
        assert_eq!(
            Channel::new(packet(9, error).as_slice(), 100).read().await.expect("read").as_ref(),
            error
        );
        for payload in [&b"row"[..], b""] {
            let wire = packet(9, payload);
            let refused = Channel::new(wire.as_slice(), 100).read().await.expect_err("refused");
            assert_eq!(refused.kind(), ConnectionErrorKind::Protocol);
        }
    }

    #[test]
    fn a_large_payload_takes_little_more_than_its_size() {
        let (mut assembly, part) = (Vec::new(), vec![1; BUFFER_BYTES]);
        for _ in 0..300 {
            append(&mut assembly, &part);
            assert!(assembly.capacity() <= assembly.len() + assembly.len() / 8 + BUFFER_BYTES);
        }
        assert_eq!(assembly.len(), 300 * BUFFER_BYTES);
    }

    #[test]
    fn nothing_may_come_in_front_of_tls() {
        let mut channel = Channel::new((), 100);
        channel.buffer.extend_from_slice(b"early");
        assert_eq!(channel.into_stream().expect_err("refused").kind(), ConnectionErrorKind::Protocol);
    }
}
