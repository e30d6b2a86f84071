//! Values in JSON that have no JSON type: decimals, dates and times, and anything else as base64.

use bytes::BytesMut;

use crate::decode::DecodeError;
use crate::decode::value::{decimal, packed_date, packed_datetime, packed_time};

use super::string;

/// MySQL breaks base64 after so many characters, also here.
const LINE_CHARACTERS: usize = 76;

pub(super) fn write(out: &mut BytesMut, field_type: u8, content: &[u8]) -> Result<(), DecodeError> {
    match (field_type, content) {
        // DECIMAL: its precision and scale, then the packed digits.
        (246, [precision, scale, digits @ ..]) if scale <= precision && *precision <= 81 => {
            decimal(out, *precision, *scale, digits)
        }
        (10 | 14, _) => quoted(out, content, packed_date),
        (7 | 12, _) => quoted(out, content, packed_datetime),
        (11, _) => quoted(out, content, packed_time),
        (246, _) => Err(DecodeError::malformed("a decimal in the JSON has an impossible precision or scale")),
        _ => {
            base64(out, field_type, content);
            Ok(())
        }
    }
}

fn quoted(out: &mut BytesMut, content: &[u8], put: fn(&mut BytesMut, i64)) -> Result<(), DecodeError> {
    let packed =
        content.try_into().map_err(|_| DecodeError::malformed("a date in the JSON has the wrong size"))?;
    out.extend_from_slice(b"\"");
    put(out, i64::from_le_bytes(packed));
    out.extend_from_slice(b"\"");
    Ok(())
}

fn base64(out: &mut BytesMut, field_type: u8, content: &[u8]) {
    let mut text = String::with_capacity(content.len() / 3 * 4 + content.len() / 57 + 24);
    text.push_str(&format!("base64:type{field_type}:"));
    for (index, group) in content.chunks(3).enumerate() {
        if index > 0 && index % (LINE_CHARACTERS / 4) == 0 {
            text.push('\n');
        }
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            text.push(if position <= group.len() { digit(bits >> (18 - 6 * position) & 63) } else { '=' });
        }
    }
    string::write(out, text.as_bytes());
}

fn digit(value: u32) -> char {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    usize::try_from(value).ok().and_then(|index| DIGITS.get(index)).map_or('=', |byte| char::from(*byte))
}
