//! Reading the integers and strings of events, never past their end.

use super::EventError;

/// What is left of an event's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn fail(&self, why: &'static str) -> EventError {
        EventError { what: self.what, why }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], EventError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or_else(|| self.fail("it ends too early"))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], EventError> {
        let head = self.take(N)?;
        head.try_into().map_err(|_| self.fail("it ends too early"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, EventError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, EventError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, EventError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, EventError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// An unsigned integer of `count` ≤ 8 bytes.
    pub(crate) fn uint(&mut self, count: usize) -> Result<u64, EventError> {
        let bytes = self.take(count)?;
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(u64::from_le_bytes(value))
    }

    /// A length of a count of bytes that must be at hand.
    pub(crate) fn length(&mut self, value: u64) -> Result<usize, EventError> {
        usize::try_from(value)
            .ok()
            .filter(|length| *length <= self.rest.len())
            .ok_or_else(|| self.fail("it ends too early"))
    }

    /// The protocol's length-encoded integer.
    ///
    /// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_dt_integers.html>
    pub(crate) fn lenenc(&mut self) -> Result<u64, EventError> {
        match self.u8()? {
            value @ 0..=250 => Ok(u64::from(value)),
            252 => self.uint(2),
            253 => self.uint(3),
            254 => self.uint(8),
            _ => Err(self.fail("an integer is malformed")),
        }
    }

    /// An integer of MySQL's serialization library: the number of ones at the end of the first byte says how many bytes
    /// follow it.
    ///
    /// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html>
    pub(crate) fn varint(&mut self) -> Result<u64, EventError> {
        let first = *self.rest.first().ok_or_else(|| self.fail("it ends too early"))?;
        let more = first.trailing_ones() as usize;
        if more == 8 {
            self.take(1)?;
            return self.u64();
        }
        Ok(self.uint(more + 1)? >> (more + 1))
    }

    /// A signed integer of that library: the lowest bit is the sign.
    pub(crate) fn varint_signed(&mut self) -> Result<i64, EventError> {
        let value = self.varint()?;
        let magnitude = i64::try_from(value >> 1).unwrap_or(i64::MAX);
        Ok(if value & 1 == 0 { magnitude } else { -magnitude - 1 })
    }
}
