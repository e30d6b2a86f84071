//! Character sets of one byte a character.
//!
//! All but `swe7` are ASCII below 0x80. The tables were read from MySQL 9.7, byte by byte; `latin1` is Windows-1252 with
//! the five bytes that it leaves undefined as control characters.

use super::{Charset, tables};

/// The upper half of a set; 0 where it defines nothing.
pub(super) fn table(charset: Charset) -> Option<&'static [u16; 128]> {
    Some(match charset {
        Charset::Armscii8 => &tables::ARMSCII8,
        Charset::Ascii => &[0; 128],
        Charset::Cp1250 => &tables::CP1250,
        Charset::Cp1251 => &tables::CP1251,
        Charset::Cp1256 => &tables::CP1256,
        Charset::Cp1257 => &tables::CP1257,
        Charset::Cp850 => &tables::CP850,
        Charset::Cp852 => &tables::CP852,
        Charset::Cp866 => &tables::CP866,
        Charset::Dec8 => &tables::DEC8,
        Charset::Geostd8 => &tables::GEOSTD8,
        Charset::Greek => &tables::GREEK,
        Charset::Hebrew => &tables::HEBREW,
        Charset::Hp8 => &tables::HP8,
        Charset::Keybcs2 => &tables::KEYBCS2,
        Charset::Koi8r => &tables::KOI8R,
        Charset::Koi8u => &tables::KOI8U,
        Charset::Latin1 => &tables::LATIN1,
        Charset::Latin2 => &tables::LATIN2,
        Charset::Latin5 => &tables::LATIN5,
        Charset::Latin7 => &tables::LATIN7,
        Charset::Macce => &tables::MACCE,
        Charset::Macroman => &tables::MACROMAN,
        Charset::Tis620 => &tables::TIS620,
        _ => return None,
    })
}

pub(super) fn decode(table: &[u16; 128], bytes: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(if byte.is_ascii() {
            char::from(*byte)
        } else {
            match table.get(usize::from(byte & 0x7f)) {
                None | Some(0) => return None,
                Some(unit) => char::from_u32(u32::from(*unit))?,
            }
        });
    }
    Some(text)
}

/// Swedish ISO 646: seven bits, with letters in place of some punctuation.
pub(super) fn decode_swe7(bytes: &[u8]) -> Option<String> {
    bytes
        .iter()
        .map(|byte| {
            Some(match byte {
                b'@' => 'É',
                b'[' => 'Ä',
                b'\\' => 'Ö',
                b']' => 'Å',
                b'^' => 'Ü',
                b'`' => 'é',
                b'{' => 'ä',
                b'|' => 'ö',
                b'}' => 'å',
                b'~' => 'ü',
                0..=0x7e => char::from(*byte),
                _ => return None,
            })
        })
        .collect()
}
