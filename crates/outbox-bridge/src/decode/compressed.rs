//! MariaDB's two compressions: of the rows in an event (`log_bin_compress`) and of one column's values
//! (`COMPRESSED`).
//!
//! Both are zlib behind a short header. Output is bounded by the caller's limit, whatever the header claims.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{DeflateDecoder, ZlibDecoder};

use super::reader::{Reader, big_endian};
use super::{DecodeError, DecodeErrorKind};

/// Expands the rows of a compressed event: a byte `0x80 | algorithm << 4 | length of length`, the expanded length with
/// its most significant byte first, then a zlib stream.
///
/// Source: MariaDB, `binlog_buf_compress`; checked against events of MariaDB 10.11.
pub(crate) fn rows(compressed: &[u8], bytes_max: usize) -> Result<Bytes, DecodeError> {
    let mut reader = Reader::new(compressed);
    let header = reader.u8()?;
    let (algorithm, length_bytes) = (header >> 4 & 0x07, header & 0x07);
    if header & 0x80 == 0 || algorithm != 0 || !(1..=4).contains(&length_bytes) {
        return Err(DecodeError::unsupported("the event's compression is not MariaDB's zlib"));
    }
    let length = usize::try_from(big_endian(reader.take(usize::from(length_bytes))?)).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(too_long(bytes_max));
    }
    let expanded = expand(ZlibDecoder::new(reader.rest()), length, length)?;
    if expanded.len() == length {
        Ok(Bytes::from(expanded))
    } else {
        Err(DecodeError::malformed("a compressed event is shorter than it says"))
    }
}

/// Expands a value of a `COMPRESSED` column: nothing, or a zero byte and the value as it is, or a byte
/// `8 << 4 | raw << 3 | length of length`, the length, and a zlib stream, without zlib's own header if `raw`.
///
/// Checked against values of MariaDB 10.11.
pub(crate) fn column(value: &[u8], bytes_max: usize) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut reader = Reader::new(value);
    let header = reader.u8()?;
    if header == 0 {
        return Ok(None);
    }
    if header >> 4 != 8 {
        return Err(DecodeError::unsupported("the column is compressed with a method other than zlib"));
    }
    reader.take(usize::from(header & 0x07))?;
    let capacity = reader.rest().len().saturating_mul(2).min(bytes_max);
    if header & 0x08 == 0 {
        expand(ZlibDecoder::new(reader.rest()), capacity, bytes_max).map(Some)
    } else {
        expand(DeflateDecoder::new(reader.rest()), capacity, bytes_max).map(Some)
    }
}

fn expand(stream: impl Read, capacity: usize, bytes_max: usize) -> Result<Vec<u8>, DecodeError> {
    // The header's length is only a claim: memory follows what is really there.
    let mut expanded = Vec::with_capacity(capacity.min(1 << 20));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    stream
        .take(limit)
        .read_to_end(&mut expanded)
        .map_err(|_| DecodeError::malformed("a zlib stream is damaged"))?;
    if expanded.len() > bytes_max { Err(too_long(bytes_max)) } else { Ok(expanded) }
}

fn too_long(bytes_max: usize) -> DecodeError {
    DecodeError::new(
        DecodeErrorKind::LimitExceeded,
        format!("expands to more than the limit of {bytes_max} bytes"),
    )
}
