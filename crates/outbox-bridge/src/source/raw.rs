//! A binlog event as the server sent it, before anything in it is interpreted.

use bytes::Bytes;

/// The 19 bytes in front of every binlog event of format version 4.
///
/// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Log__event__header.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// When the statement began, in seconds since the epoch; 0 in artificial events.
    pub timestamp: u32,
    /// The event's type code.
    pub event_type: u8,
    /// `server_id` of the server that wrote the event first.
    pub server_id: u32,
    /// Size of the event in bytes: header, body and checksum.
    pub event_size: u32,
    /// Offset in the log file just behind this event; 0 in artificial events and inside a compressed transaction.
    pub end_offset: u32,
    /// Flags, for instance `LOG_EVENT_ARTIFICIAL_F` (0x20).
    pub flags: u16,
}

/// The size of [`EventHeader`] in bytes.
pub const HEADER_SIZE: usize = 19;

/// A binlog event: its header and its body, the checksum already verified and taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent {
    /// The common header.
    pub header: EventHeader,
    /// What follows the header, without the checksum.
    pub body: Bytes,
}

impl EventHeader {
    /// Reads a header from the first [`HEADER_SIZE`] bytes of `bytes`; `None` if there are fewer.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; HEADER_SIZE] = bytes.first_chunk()?;
        let [t0, t1, t2, t3, event_type, s0, s1, s2, s3, z0, z1, z2, z3, e0, e1, e2, e3, f0, f1] = *fixed;
        Some(Self {
            timestamp: u32::from_le_bytes([t0, t1, t2, t3]),
            event_type,
            server_id: u32::from_le_bytes([s0, s1, s2, s3]),
            event_size: u32::from_le_bytes([z0, z1, z2, z3]),
            end_offset: u32::from_le_bytes([e0, e1, e2, e3]),
            flags: u16::from_le_bytes([f0, f1]),
        })
    }
}
