//! Compressed transactions: `TRANSACTION_PAYLOAD_EVENT`.
//!
//! The events inside are read one after the other out of a streaming decoder, so that memory does not depend on the size
//! of the transaction; a stream that ends early or holds what is no event is an error.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Transaction__payload__event.html>

use std::{
    fmt,
    io::{self, Read as _},
};

use ::bytes::{Buf as _, Bytes};

use super::{EventError, Reader};
use crate::source::{EventHeader, HEADER_SIZE, RawEvent};

const WHAT: &str = "a compressed transaction";

/// How the events inside are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Zstd,
    None,
}

/// A compressed transaction.
#[derive(Debug, Clone)]
pub struct TransactionPayload {
    compression: Compression,
    uncompressed_bytes: Option<u64>,
    content: Bytes,
}

impl TransactionPayload {
    pub(super) fn parse(body: &Bytes) -> Result<Self, EventError> {
        const END: u64 = 0;
        const SIZE: u64 = 1;
        const COMPRESSION: u64 = 2;
        const UNCOMPRESSED_SIZE: u64 = 3;
        let mut reader = Reader::new(WHAT, body);
        let (mut size, mut compression, mut uncompressed_bytes) = (None, None, None);
        loop {
            let field = reader.lenenc()?;
            if field == END {
                break;
            }
            let length = reader.lenenc()?;
            let length = reader.length(length)?;
            let mut value = Reader::new(WHAT, reader.take(length)?);
            match field {
                SIZE => size = Some(value.lenenc()?),
                COMPRESSION => {
                    compression = Some(match value.lenenc()? {
                        0 => Compression::Zstd,
                        255 => Compression::None,
                        _ => return Err(reader.fail("its compression is one that this bridge does not know")),
                    });
                }
                UNCOMPRESSED_SIZE => uncompressed_bytes = Some(value.lenenc()?),
                _ => {}
            }
        }
        let compression = compression.ok_or_else(|| reader.fail("it does not say how it is compressed"))?;
        if size.is_some_and(|size| size != reader.rest().len() as u64) {
            return Err(reader.fail("its size is not what it says"));
        }
        Ok(Self { compression, uncompressed_bytes, content: body.slice_ref(reader.rest()) })
    }
}

enum Content {
    Zstd(zstd::stream::read::Decoder<'static, io::BufReader<::bytes::buf::Reader<Bytes>>>),
    None(::bytes::buf::Reader<Bytes>),
}

impl Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::None(reader) => reader.read(buffer),
        }
    }
}

/// The events inside a compressed transaction, one after the other.
pub struct PayloadReader {
    content: Content,
    event_bytes_max: usize,
    uncompressed_bytes: Option<u64>,
    read_bytes: u64,
}

impl fmt::Debug for PayloadReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadReader").field("read_bytes", &self.read_bytes).finish_non_exhaustive()
    }
}

/// Memory for an event is taken in steps of this size, so that a lie about its size costs nothing.
const STEP_BYTES: usize = 1 << 20;
/// The largest window that a stream may ask for, as a power of two: what the server's highest level uses.
const WINDOW_LOG_MAX: u32 = 27;

impl PayloadReader {
    /// Begins to read; refuses events of more than `event_bytes_max`.
    ///
    /// # Errors
    ///
    /// If the decoder cannot be made.
    pub fn new(payload: TransactionPayload, event_bytes_max: usize) -> Result<Self, EventError> {
        let bytes = payload.content.reader();
        let content = match payload.compression {
            Compression::None => Content::None(bytes),
            Compression::Zstd => {
                let failed = |_| EventError::new(WHAT, "its decoder cannot be made");
                let mut decoder = zstd::stream::read::Decoder::new(bytes).map_err(failed)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
                Content::Zstd(decoder)
            }
        };
        Ok(Self { content, event_bytes_max, uncompressed_bytes: payload.uncompressed_bytes, read_bytes: 0 })
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the content is damaged.
    pub fn next_event(&mut self) -> Result<Option<RawEvent>, EventError> {
        let mut header = [0; HEADER_SIZE];
        match self.fill(&mut header)? {
            0 => {
                return match self.uncompressed_bytes {
                    Some(size) if size != self.read_bytes => {
                        Err(EventError::new(WHAT, "it is shorter than it says"))
                    }
                    _ => Ok(None),
                };
            }
            HEADER_SIZE => {}
            _ => return Err(EventError::new(WHAT, "it ends within an event")),
        }
        let header = EventHeader::parse(&header).ok_or(EventError::new(WHAT, "it ends within an event"))?;
        let size = usize::try_from(header.event_size).ok().and_then(|size| size.checked_sub(HEADER_SIZE));
        let size = size.ok_or(EventError::new(WHAT, "an event in it is shorter than its header"))?;
        if size > self.event_bytes_max {
            return Err(EventError::new(WHAT, "an event in it is larger than source.event_bytes_max"));
        }
        let mut body = Vec::new();
        while body.len() < size {
            let begin = body.len();
            // Not doubled as vectors do, so that a large event takes no more than its own size.
            let step = STEP_BYTES.max(begin / 8).min(size - begin);
            body.reserve_exact(step);
            body.resize(begin + step, 0);
            let part = body.get_mut(begin..).unwrap_or_default();
            let wanted = part.len();
            if self.fill(part)? != wanted {
                return Err(EventError::new(WHAT, "it ends within an event"));
            }
        }
        Ok(Some(RawEvent { header, body: body.into() }))
    }

    /// Fills `buffer`, or as much of it as there is.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, EventError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.content.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(EventError::new(WHAT, "its content is damaged")),
            }
        }
        self.read_bytes += filled as u64;
        Ok(filled)
    }
}
