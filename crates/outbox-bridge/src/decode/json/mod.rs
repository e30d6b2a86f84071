//! MySQL's binary JSON as the text that the same server shows for it, byte for byte.
//!
//! A document is a type byte and a value. An array or object starts with its count and size, then has fixed-size
//! entries that point to keys and values by offset, in two bytes each (small) or four (large); short values stand in
//! the entry itself.
//!
//! Offsets are data: they may point anywhere, also to something that contains them. Nesting is bounded as on the server,
//! and the output by a multiple of the input, which no document of a server exceeds; since every value writes at
//! least a byte, that bounds the time too.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html>

mod opaque;
mod string;

use bytes::BytesMut;

use super::reader::Reader;
use super::value::{double_as_json, put_signed, put_unsigned};
use super::{DecodeError, DecodeErrorKind};

/// The deepest nesting that MySQL accepts: arrays and objects within each other.
const DEPTH_MAX: u32 = 100;

/// How much longer than its binary form a document's text can be. A control character in a string becomes six
/// characters and is the worst case.
const EXPANSION_MAX: usize = 8;

/// Room for a document too small for [`EXPANSION_MAX`] to be meaningful, such as a decimal zero of thirty digits.
const EXPANSION_EXTRA: usize = 256;

/// Writes the text of a document to the end of `out`. Whether it is UTF-8 is for the caller to check.
pub(crate) fn write(document: &[u8], bytes_max: usize, out: &mut BytesMut) -> Result<(), DecodeError> {
    let Some((kind, value)) = document.split_first() else {
        // The server stores an empty value where INSERT IGNORE left none, and reads it as null.
        out.extend_from_slice(b"null");
        return Ok(());
    };
    let plausible = document.len().saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_EXTRA);
    let length_max = out.len().saturating_add(plausible.min(bytes_max));
    out.reserve(document.len() + document.len() / 4);
    let mut writer = Writer { out, length_max, limited: bytes_max < plausible, depth: 0 };
    writer.value(*kind, value)?;
    writer.check_length()
}

struct Writer<'o> {
    out: &'o mut BytesMut,
    length_max: usize,
    /// Whether the configured limit is the one that counts, and not the plausible length.
    limited: bool,
    depth: u32,
}

#[cold]
fn damaged(what: &'static str) -> DecodeError {
    DecodeError::malformed(what)
}

/// An array or object: two sizes of offsets.
#[derive(Clone, Copy)]
struct Container {
    object: bool,
    large: bool,
}

impl Container {
    fn offset(self, reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
        reader.length(if self.large { 4 } else { 2 })
    }

    fn offset_bytes(self) -> usize {
        if self.large { 4 } else { 2 }
    }
}

impl Writer<'_> {
    fn value(&mut self, kind: u8, value: &[u8]) -> Result<(), DecodeError> {
        self.check_length()?;
        let mut reader = Reader::new(value);
        match kind {
            0..=3 => self.container(Container { object: kind < 2, large: kind & 1 == 1 }, value),
            4 => self.literal(reader.u8()?),
            5 => self.signed(i64::from(reader.u16()?.cast_signed())),
            6 => self.unsigned(u64::from(reader.u16()?)),
            7 => self.signed(i64::from(reader.u32()?.cast_signed())),
            8 => self.unsigned(u64::from(reader.u32()?)),
            9 => self.signed(reader.u64()?.cast_signed()),
            10 => self.unsigned(reader.u64()?),
            11 => double_as_json(self.out, f64::from_bits(reader.u64()?)),
            12 => {
                let length = variable_length(&mut reader)?;
                self.string(reader.take(length)?)
            }
            15 => {
                let field_type = reader.u8()?;
                let length = variable_length(&mut reader)?;
                opaque::write(self.out, field_type, reader.take(length)?)
            }
            _ => Err(damaged("the JSON has a value of an unknown type")),
        }
    }

    fn container(&mut self, container: Container, bytes: &[u8]) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(damaged("the JSON is nested more deeply than MySQL allows"));
        }
        let mut entries = Reader::new(bytes);
        let count = container.offset(&mut entries)?;
        let size = container.offset(&mut entries)?;
        let bytes = bytes
            .get(..size)
            .ok_or_else(|| damaged("an array or object in the JSON is longer than its place"))?;
        let key_entries =
            if container.object { count.saturating_mul(container.offset_bytes() + 2) } else { 0 };
        let mut keys = Reader::new(entries.take(key_entries)?);

        self.out.extend_from_slice(if container.object { b"{" } else { b"[" });
        for index in 0..count {
            if index > 0 {
                self.out.extend_from_slice(b", ");
            }
            if container.object {
                let offset = container.offset(&mut keys)?;
                let length = usize::from(keys.u16()?);
                let key = offset.checked_add(length).and_then(|end| bytes.get(offset..end));
                self.string(key.ok_or_else(|| damaged("a key in the JSON lies outside of its object"))?)?;
                self.out.extend_from_slice(b": ");
            }
            let kind = entries.u8()?;
            let entry = entries.take(container.offset_bytes())?;
            match kind {
                // What fits into the entry stands there: literals and 16 bits always, 32 bits in large ones.
                4..=6 => self.value(kind, entry)?,
                7 | 8 if container.large => self.value(kind, entry)?,
                _ => {
                    let offset = container.offset(&mut Reader::new(entry))?;
                    let value = bytes.get(offset..);
                    self.value(
                        kind,
                        value.ok_or_else(|| damaged("a value in the JSON lies outside of its place"))?,
                    )?;
                }
            }
        }
        self.out.extend_from_slice(if container.object { b"}" } else { b"]" });
        self.depth -= 1;
        Ok(())
    }

    fn literal(&mut self, literal: u8) -> Result<(), DecodeError> {
        self.out.extend_from_slice(match literal {
            0 => b"null",
            1 => b"true",
            2 => b"false",
            _ => return Err(damaged("the JSON has a literal other than null, true and false")),
        });
        Ok(())
    }

    fn signed(&mut self, number: i64) -> Result<(), DecodeError> {
        put_signed(self.out, number);
        Ok(())
    }

    fn unsigned(&mut self, number: u64) -> Result<(), DecodeError> {
        put_unsigned(self.out, number, 0);
        Ok(())
    }

    fn string(&mut self, content: &[u8]) -> Result<(), DecodeError> {
        self.check_length()?;
        string::write(self.out, content);
        Ok(())
    }

    fn check_length(&self) -> Result<(), DecodeError> {
        if self.out.len() <= self.length_max {
            return Ok(());
        }
        Err(if self.limited {
            DecodeError::new(
                DecodeErrorKind::LimitExceeded,
                "the JSON is longer as text than the configured limit",
            )
        } else {
            damaged("the JSON is longer as text than its binary form allows: its parts overlap")
        })
    }
}

/// A length in groups of seven bits, the lowest first; the highest bit says that another follows.
fn variable_length(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let mut length = 0_u64;
    for group in 0..5 {
        let byte = reader.u8()?;
        length |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return usize::try_from(length).map_err(|_| damaged("a length in the JSON is too large"));
        }
    }
    Err(damaged("a length in the JSON does not end"))
}

#[cfg(test)]
mod tests;
