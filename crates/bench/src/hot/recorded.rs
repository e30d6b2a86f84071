//! A piece of a real server's log, kept in the repository: `outbox-hot record` makes it
//! anew.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes};
use outbox_bridge::source::connection::{ConnectOptions, Connection, DumpRequest};
use outbox_bridge::source::event::code;
use outbox_bridge::source::{EventHeader, HEADER_SIZE, RawEvent};

use super::EVENTS;
use crate::field::{Backlog, Field};

/// One event a line, its header and its body as hexadecimal digits.
const LOG: &str = include_str!("../../data/log.hex");

/// Where the number stands in the body of a GTID event, behind flags and server:
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/classbinary__log_1_1Gtid__event.html>
const GTID_NUMBER: std::ops::Range<usize> = 17..25;

/// The recorded events, from the beginning of the file on.
///
/// # Errors
///
/// If what is recorded is damaged.
pub fn log() -> Result<Vec<RawEvent>> {
    LOG.lines().map(|line| event(line).context("a line of the recorded log is damaged")).collect()
}

fn event(line: &str) -> Option<RawEvent> {
    let digits = line.as_bytes().chunks_exact(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let bytes = Bytes::from(bytes.collect::<Option<Vec<u8>>>()?);
    Some(RawEvent { header: EventHeader::parse(&bytes)?, body: bytes.slice(HEADER_SIZE..) })
}

/// The event, if it names a transaction with the name of another one: what was executed is passed over.
pub(super) fn with_another_gtid(event: &RawEvent, number: u64) -> RawEvent {
    let mut event = event.clone();
    if event.header.event_type == code::GTID {
        let mut body = event.body.to_vec();
        if let Some(place) = body.get_mut(GTID_NUMBER) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        event.body = body.into();
    }
    event
}

/// The events as packets of a dump that ends.
pub(super) fn packets(log: &[RawEvent]) -> Vec<u8> {
    let mut packets = Vec::new();
    let mut sequence = 1_u8;
    let mut packet = |payload: &[u8]| {
        packets.put_uint_le(payload.len() as u64, 3);
        packets.put_u8(sequence);
        packets.put_slice(payload);
        sequence = sequence.wrapping_add(1);
    };
    for RawEvent { header, body } in log {
        let mut payload = vec![0];
        put(header, body, &mut payload);
        // The size counts the checksum.
        if header.event_size as usize == HEADER_SIZE + body.len() + 4 {
            let checksum = crc32fast::hash(payload.get(1..).unwrap_or_default());
            payload.put_u32_le(checksum);
        }
        packet(&payload);
    }
    packet(&[0xFE, 0, 0, 0, 0]);
    packets
}

fn put(header: &EventHeader, body: &[u8], out: &mut Vec<u8>) {
    out.put_u32_le(header.timestamp);
    out.put_u8(header.event_type);
    out.put_u32_le(header.server_id);
    out.put_u32_le(header.event_size);
    out.put_u32_le(header.end_offset);
    out.put_u16_le(header.flags);
    out.put_slice(body);
}

/// Has a real server write the log, and gives it as text.
///
/// # Errors
///
/// If the server cannot be got or read.
pub async fn record() -> Result<String> {
    let field = Field::start().await?;
    field.fill(Backlog::plain(EVENTS)).await?;
    let port = field.world.database.port();
    let connection = Connection::connect(&ConnectOptions::new("127.0.0.1", port, "root")).await?;
    let request = DumpRequest { file: "binlog.000001".to_owned(), ..super::request() };
    let mut dump = connection.dump(request).await?;
    let mut text = String::new();
    while let Some(RawEvent { header, body }) = dump.next().await? {
        let mut bytes = Vec::new();
        put(&header, &body, &mut bytes);
        for byte in bytes {
            write!(text, "{byte:02x}")?;
        }
        text.push('\n');
    }
    Ok(text)
}
