//! Reading integers and runs of bytes off a slice, with an error where it ends too early.

use super::DecodeError;

/// What is left to read. Never panics, never reads past the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

#[cold]
fn ended() -> DecodeError {
    DecodeError::malformed("the event ends in the middle of a field")
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(ended)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(ended)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The 6 bytes of a table id.
    pub(crate) fn u48(&mut self) -> Result<u64, DecodeError> {
        self.array::<6>().map(|[a, b, c, d, e, f]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// A little-endian length of 1 to 4 bytes.
    #[inline]
    pub(crate) fn length(&mut self, width: u8) -> Result<usize, DecodeError> {
        let length = match width {
            1 => u32::from(self.u8()?),
            2 => u32::from(self.u16()?),
            3 => self.array::<3>().map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))?,
            _ => self.u32()?,
        };
        usize::try_from(length).map_err(|_| ended())
    }

    /// A length-encoded integer.
    ///
    /// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_dt_integers.html>
    pub(crate) fn packed(&mut self) -> Result<u64, DecodeError> {
        match self.u8()? {
            byte @ 0..=250 => Ok(u64::from(byte)),
            252 => self.u16().map(u64::from),
            253 => self.array::<3>().map(|[a, b, c]| u64::from(u32::from_le_bytes([a, b, c, 0]))),
            254 => self.u64(),
            _ => Err(DecodeError::malformed("a length starts with a byte that no length starts with")),
        }
    }

    /// A length-encoded integer that counts something in memory.
    pub(crate) fn packed_len(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.packed()?).map_err(|_| ended())
    }

    /// A string behind its length-encoded length.
    pub(crate) fn packed_bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.packed_len()?;
        self.take(length)
    }
}

/// An unsigned integer of up to 8 bytes, the least significant first.
#[inline]
pub(crate) fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// An unsigned integer of up to 8 bytes, the most significant first.
#[inline]
pub(crate) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Bit `index` of a bitmap whose first column is the lowest bit of the first byte; bits beyond its end are clear.
#[inline]
pub(crate) fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}
