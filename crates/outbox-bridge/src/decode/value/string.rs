//! Strings of bytes and of characters, `ENUM` and `SET`, and MariaDB's types that travel as strings.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};

use crate::decode::column::Rendering;
use crate::decode::reader::{bit, little_endian};
use crate::decode::{DecodeError, Text};

use super::{Value, metadata_missing};

/// A `VARCHAR`, `VARBINARY`, `TEXT` or `BLOB`.
pub(super) fn string(rendering: &Rendering, content: Bytes) -> Result<Value, DecodeError> {
    match rendering {
        Rendering::Binary => Ok(Value::Bytes(content)),
        Rendering::Text(charset) => charset.decode(content).map(Value::Text),
        _ => Err(metadata_missing(rendering)),
    }
}

/// A `CHAR` or `BINARY`, or a MariaDB type that travels as one.
///
/// The log leaves out the zero bytes at the end of a `BINARY`, which are put back.
pub(super) fn char(
    out: &mut BytesMut,
    rendering: &Rendering,
    bytes_max: u16,
    content: &[u8],
    event: &Bytes,
) -> Result<Value, DecodeError> {
    match rendering {
        Rendering::Binary => {
            let length = usize::from(bytes_max);
            if content.len() >= length {
                return Ok(Value::Bytes(event.slice_ref(content)));
            }
            out.extend_from_slice(content);
            out.resize(length, 0);
            Ok(Value::Bytes(out.split().freeze()))
        }
        Rendering::Uuid => Ok(text(mariadb_uuid(padded(content)?))),
        Rendering::Inet4 => Ok(text(Ipv4Addr::from(padded(content)?).to_string())),
        Rendering::Inet6 => Ok(text(inet6(Ipv6Addr::from(padded(content)?)))),
        _ => string(rendering, event.slice_ref(content)),
    }
}

fn text(text: String) -> Value {
    Value::Text(Text::from(text))
}

fn padded<const N: usize>(content: &[u8]) -> Result<[u8; N], DecodeError> {
    let mut padded = [0; N];
    padded
        .get_mut(..content.len())
        .ok_or_else(|| DecodeError::malformed("the value is longer than its type"))?
        .copy_from_slice(content);
    Ok(padded)
}

/// The text of a MariaDB `UUID` from the 16 bytes of a row image: `01234567-89ab-1def-8123-456789abcdef`.
///
/// MariaDB stores some UUIDs with their parts in reverse, so that they sort by time, but writes them to the log in their
/// usual order (seen with 10.11, for every version of UUID). Zero bytes at the end are left out in the log: pad first.
#[must_use]
pub fn mariadb_uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    text
}

/// As MariaDB writes it: the first longest run of zero groups is left out even if it is a single group, and the last
/// part of IPv4-mapped and IPv4-compatible addresses has dots.
fn inet6(address: Ipv6Addr) -> String {
    let segments = address.segments();
    let mut text = String::with_capacity(39);
    match segments {
        [0, 0, 0, 0, 0, mapped @ (0 | 0xffff), high, low] if high != 0 || mapped != 0 => {
            text.push_str(if mapped == 0 { "::" } else { "::ffff:" });
            text.push_str(&Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).to_string());
            return text;
        }
        _ => {}
    }
    let (mut longest, mut longest_at, mut length) = (0, 0, 0);
    for (index, segment) in segments.iter().enumerate() {
        length = if *segment == 0 { length + 1 } else { 0 };
        if length > longest {
            (longest, longest_at) = (length, index + 1 - length);
        }
    }
    for (index, segment) in segments.iter().enumerate() {
        if longest > 0 && index == longest_at {
            text.push_str("::");
        } else if index < longest_at || index >= longest_at + longest {
            if index > 0 && index != longest_at + longest {
                text.push(':');
            }
            text.push_str(&format!("{segment:x}"));
        }
    }
    text
}

/// An `ENUM`: the number of its member, counted from 1; 0 is the empty string of an invalid value.
pub(super) fn member(rendering: &Rendering, content: &[u8]) -> Result<Value, DecodeError> {
    let Rendering::Members(members) = rendering else { return Err(metadata_missing(rendering)) };
    let number = usize::try_from(little_endian(content)).unwrap_or(usize::MAX);
    let Some(index) = number.checked_sub(1) else { return Ok(Value::Text(Text::default())) };
    members
        .get(index)
        .map(|member| Value::Text(member.clone()))
        .ok_or_else(|| DecodeError::malformed("an ENUM has a number beyond its last value"))
}

/// A `SET`: one bit for each member.
pub(super) fn members(out: &mut BytesMut, rendering: &Rendering, content: &[u8]) -> Result<(), DecodeError> {
    let Rendering::Members(members) = rendering else { return Err(metadata_missing(rendering)) };
    if (members.len()..content.len() * 8).any(|index| bit(content, index)) {
        return Err(DecodeError::malformed("a SET has a bit beyond its last value"));
    }
    let mut first = true;
    for (_, member) in members.iter().enumerate().filter(|(index, _)| bit(content, *index)) {
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(member.as_bytes());
    }
    Ok(())
}
