//! Character sets of two or four bytes a unit: `ucs2`, `utf16`, `utf16le` and `utf32`.

use super::Charset;

pub(super) fn decode(charset: Charset, bytes: &[u8]) -> Option<String> {
    match charset {
        Charset::Utf32 => {
            let (units, []) = bytes.as_chunks::<4>() else { return None };
            units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect()
        }
        _ => {
            let (units, []) = bytes.as_chunks::<2>() else { return None };
            let units = units.iter().map(|unit| match charset {
                Charset::Utf16le => u16::from_le_bytes(*unit),
                _ => u16::from_be_bytes(*unit),
            });
            if charset == Charset::Ucs2 {
                // No surrogate pairs here: a surrogate stands for nothing.
                units.map(|unit| char::from_u32(u32::from(unit))).collect()
            } else {
                char::decode_utf16(units).collect::<Result<_, _>>().ok()
            }
        }
    }
}
