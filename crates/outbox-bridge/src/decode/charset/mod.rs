//! Character sets: which one a collation belongs to, and text in it as UTF-8.
//!
//! Strict: bytes that the set does not define are an error, never a replacement character. Every single-byte set and
//! the whole double-byte space was compared with MySQL 9.7. Where MySQL has no character for bytes that it
//! nevertheless stores (it shows `?`), the character of the WHATWG Encoding Standard is taken if there is one.

mod collation;
mod multi_byte;
mod single_byte;
mod tables;
mod wide;

use bytes::Bytes;

use super::{DecodeError, DecodeErrorKind, Text};

/// The id of the collation `binary`, whose values are bytes and not text.
pub const BINARY_COLLATION: u32 = 63;

macro_rules! charsets {
    ($($variant:ident $name:literal $width:literal,)*) => {
        /// A character set of MySQL or MariaDB.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "a variant is named after its character set")]
        #[non_exhaustive]
        pub enum Charset { $($variant,)* }

        impl Charset {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name that the server uses.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The most bytes that a character takes.
            #[must_use]
            pub fn bytes_per_character_max(self) -> u16 {
                match self { $(Self::$variant => $width,)* }
            }
        }
    };
}

charsets! {
    Armscii8 "armscii8" 1,
    Ascii "ascii" 1,
    Big5 "big5" 2,
    Binary "binary" 1,
    Cp1250 "cp1250" 1,
    Cp1251 "cp1251" 1,
    Cp1256 "cp1256" 1,
    Cp1257 "cp1257" 1,
    Cp850 "cp850" 1,
    Cp852 "cp852" 1,
    Cp866 "cp866" 1,
    Cp932 "cp932" 2,
    Dec8 "dec8" 1,
    Eucjpms "eucjpms" 3,
    Euckr "euckr" 2,
    Gb18030 "gb18030" 4,
    Gb2312 "gb2312" 2,
    Gbk "gbk" 2,
    Geostd8 "geostd8" 1,
    Greek "greek" 1,
    Hebrew "hebrew" 1,
    Hp8 "hp8" 1,
    Keybcs2 "keybcs2" 1,
    Koi8r "koi8r" 1,
    Koi8u "koi8u" 1,
    Latin1 "latin1" 1,
    Latin2 "latin2" 1,
    Latin5 "latin5" 1,
    Latin7 "latin7" 1,
    Macce "macce" 1,
    Macroman "macroman" 1,
    Sjis "sjis" 2,
    Swe7 "swe7" 1,
    Tis620 "tis620" 1,
    Ucs2 "ucs2" 2,
    Ujis "ujis" 3,
    Utf16 "utf16" 4,
    Utf16le "utf16le" 4,
    Utf32 "utf32" 4,
    Utf8mb3 "utf8mb3" 3,
    Utf8mb4 "utf8mb4" 4,
}

impl Charset {
    /// The character set that a collation belongs to; `None` for an id that neither MySQL nor MariaDB uses.
    #[must_use]
    pub fn from_collation(id: u32) -> Option<Self> {
        collation::charset(id)
    }

    /// A character set by its name, as in `information_schema.COLUMNS.CHARACTER_SET_NAME`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        // What MySQL now calls utf8mb3 was `utf8` before 8.0.30.
        let name = if name.eq_ignore_ascii_case("utf8") { "utf8mb3" } else { name };
        Self::ALL.iter().copied().find(|charset| charset.name().eq_ignore_ascii_case(name))
    }

    /// Text in this character set as UTF-8. Bytes that are UTF-8 already are shared, not copied.
    ///
    /// # Errors
    ///
    /// [`DecodeErrorKind::InvalidText`] if the bytes are not text in this set, or if it is [`Charset::Binary`].
    pub fn decode(self, bytes: Bytes) -> Result<Text, DecodeError> {
        let decoded = match self {
            Self::Utf8mb3 | Self::Utf8mb4 => return Text::from_utf8(bytes).map_err(|_| self.invalid()),
            Self::Binary => None,
            Self::Ucs2 | Self::Utf16 | Self::Utf16le | Self::Utf32 => wide::decode(self, &bytes),
            Self::Swe7 => single_byte::decode_swe7(&bytes),
            _ if bytes.is_ascii() => return Ok(Text::from_written(bytes)),
            _ => match single_byte::table(self) {
                Some(table) => single_byte::decode(table, &bytes),
                None => multi_byte::decode(self, &bytes),
            },
        };
        decoded.map(Text::from).ok_or_else(|| self.invalid())
    }

    #[cold]
    fn invalid(self) -> DecodeError {
        DecodeError::new(
            DecodeErrorKind::InvalidText,
            format!("the value is not valid text in the character set {}", self.name()),
        )
    }
}

#[cfg(test)]
mod tests;
