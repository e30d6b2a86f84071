//! Reading a packet's fields without ever reading past its end, and writing them.

/// What is left to read of a packet. Every method is `None` when the packet is too short.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Bytes up to a zero, which is taken as well.
    pub(super) fn until_zero(&mut self) -> Option<&'a [u8]> {
        let length = self.0.iter().position(|&byte| byte == 0)?;
        let text = self.take(length)?;
        self.u8()?;
        Some(text)
    }

    /// A length-encoded integer.
    ///
    /// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_dt_integers.html>
    pub(super) fn length_encoded(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=0xFA => Some(u64::from(small)),
            0xFC => self.u16().map(u64::from),
            0xFD => {
                let [a, b, c] = self.array()?;
                Some(u64::from(u32::from_le_bytes([a, b, c, 0])))
            }
            0xFE => self.array().map(u64::from_le_bytes),
            _ => None,
        }
    }

    /// Bytes behind their length.
    pub(super) fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.length_encoded()?).ok()?;
        self.take(length)
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Writes bytes behind their length, as a length-encoded string.
pub(super) fn put_counted(packet: &mut Vec<u8>, bytes: &[u8]) {
    put_length(packet, bytes.len() as u64);
    packet.extend_from_slice(bytes);
}

pub(super) fn put_length(packet: &mut Vec<u8>, length: u64) {
    let [a, b, c, rest @ ..] = length.to_le_bytes();
    match length {
        0..=0xFA => packet.push(a),
        0xFB..=0xFFFF => packet.extend([0xFC, a, b]),
        0x1_0000..=0xFF_FFFF => packet.extend([0xFD, a, b, c]),
        _ => {
            packet.extend([0xFE, a, b, c]);
            packet.extend(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lengths_survive(length: u64) {
            for length in [length, length >> 40, length >> 48, length >> 57] {
                let mut packet = Vec::new();
                put_length(&mut packet, length);
                let mut cursor = Cursor::new(&packet);
                prop_assert_eq!(cursor.length_encoded(), Some(length));
                prop_assert!(cursor.is_empty());
            }
        }
    }

    #[test]
    fn short_packets_yield_nothing() {
        assert_eq!(Cursor::new(&[1]).u16(), None);
        assert_eq!(Cursor::new(&[1, 2, 3]).u32(), None);
        assert_eq!(Cursor::new(b"ab").until_zero(), None);
        assert_eq!(Cursor::new(&[3, b'a', b'b']).counted(), None);
        assert_eq!(Cursor::new(&[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]).counted(), None);
        assert_eq!(Cursor::new(&[0xFB]).length_encoded(), None);
    }
}
