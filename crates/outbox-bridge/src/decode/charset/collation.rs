//! Which character set a collation id belongs to.
//!
//! Read from `information_schema.COLLATIONS` of MySQL 9.7 and MariaDB 10.11, which agree where both have an id.

use super::Charset;

/// MariaDB's collations without padding have the id of the padded one plus this.
const NO_PAD: u32 = 1024;

pub(super) fn charset(id: u32) -> Option<Charset> {
    let charset = match id {
        1025..=1270 => return charset(id - NO_PAD),
        1 | 84 => Charset::Big5,
        2 | 9 | 21 | 27 | 77 => Charset::Latin2,
        3 | 69 => Charset::Dec8,
        4 | 80 => Charset::Cp850,
        5 | 8 | 15 | 31 | 47..=49 | 94 => Charset::Latin1,
        6 | 72 => Charset::Hp8,
        7 | 74 => Charset::Koi8r,
        10 | 82 => Charset::Swe7,
        11 | 65 => Charset::Ascii,
        12 | 91 => Charset::Ujis,
        13 | 88 => Charset::Sjis,
        14 | 23 | 50..=52 => Charset::Cp1251,
        16 | 71 => Charset::Hebrew,
        18 | 89 => Charset::Tis620,
        19 | 85 => Charset::Euckr,
        20 | 41 | 42 | 79 => Charset::Latin7,
        22 | 75 => Charset::Koi8u,
        24 | 86 => Charset::Gb2312,
        25 | 70 => Charset::Greek,
        26 | 34 | 44 | 66 | 99 => Charset::Cp1250,
        28 | 87 => Charset::Gbk,
        29 | 58 | 59 => Charset::Cp1257,
        30 | 78 => Charset::Latin5,
        32 | 64 => Charset::Armscii8,
        36 | 68 => Charset::Cp866,
        37 | 73 => Charset::Keybcs2,
        38 | 43 => Charset::Macce,
        39 | 53 => Charset::Macroman,
        40 | 81 => Charset::Cp852,
        57 | 67 => Charset::Cp1256,
        56 | 62 => Charset::Utf16le,
        63 => Charset::Binary,
        92 | 93 => Charset::Geostd8,
        95 | 96 => Charset::Cp932,
        97 | 98 => Charset::Eucjpms,
        248..=250 => Charset::Gb18030,
        35 | 90 | 128..=151 | 159 => Charset::Ucs2,
        54 | 55 | 101..=124 => Charset::Utf16,
        60 | 61 | 160..=183 => Charset::Utf32,
        33 | 76 | 83 | 192..=215 | 223 => Charset::Utf8mb3,
        45 | 46 | 224..=247 | 255..=323 => Charset::Utf8mb4,
        // MariaDB's additions: five blocks of 32 for Croatian, Burmese and Thai, and five of 256 for UCA 14.0.0.
        576..=607 | 2048..=2303 => Charset::Utf8mb3,
        608..=639 | 2304..=2559 => Charset::Utf8mb4,
        640..=671 | 2560..=2815 => Charset::Ucs2,
        672..=703 | 2816..=3071 => Charset::Utf16,
        736..=767 | 3072..=3327 => Charset::Utf32,
        _ => return None,
    };
    Some(charset)
}
