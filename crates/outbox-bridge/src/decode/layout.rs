//! How a column's values lie in a row image: what the type code and the metadata of a table map say.
//!
//! A layout is enough to step over a value. To render one, more is needed: see
//! [`ColumnType`](super::column::ColumnType).

use super::DecodeError;
use super::reader::Reader;

/// The layout of a column's values in a row image.
///
/// Lengths are in bytes; fractions are decimal digits of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say what the comment above says")]
#[non_exhaustive]
pub enum Layout {
    /// `TINYINT` (1 byte) to `BIGINT` (8 bytes).
    Integer { bytes: u8 },
    /// `FLOAT`.
    Float,
    /// `DOUBLE`.
    Double,
    /// `DECIMAL(precision, scale)`.
    Decimal { precision: u8, scale: u8 },
    /// `BIT(bits)`.
    Bit { bits: u16 },
    /// `YEAR`.
    Year,
    /// `DATE`.
    Date,
    /// `TIME` as before MySQL 5.6.
    OldTime,
    /// `TIME(fraction)`.
    Time { fraction: u8 },
    /// `DATETIME` as before MySQL 5.6.
    OldDatetime,
    /// `DATETIME(fraction)`.
    Datetime { fraction: u8 },
    /// `TIMESTAMP` as before MySQL 5.6.
    OldTimestamp,
    /// `TIMESTAMP(fraction)`.
    Timestamp { fraction: u8 },
    /// `CHAR`, `BINARY`, and MariaDB's `UUID`, `INET4` and `INET6`.
    Char { bytes_max: u16 },
    /// `VARCHAR` and `VARBINARY`.
    Varchar { bytes_max: u16 },
    /// The `TEXT` and `BLOB` types.
    Blob { length_bytes: u8 },
    /// MariaDB's `VARCHAR … COMPRESSED`.
    CompressedVarchar { bytes_max: u16 },
    /// MariaDB's `TEXT COMPRESSED` and `BLOB COMPRESSED`.
    CompressedBlob { length_bytes: u8 },
    /// MySQL's `JSON`.
    Json { length_bytes: u8 },
    /// The spatial types.
    Geometry { length_bytes: u8 },
    /// MySQL's `VECTOR`.
    Vector { length_bytes: u8 },
    /// `ENUM`.
    Enum { bytes: u8 },
    /// `SET`.
    Set { bytes: u8 },
}

/// How many bytes a value takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    Fixed(usize),
    /// The length itself comes first, in this many bytes.
    Prefixed(u8),
}

/// Which of the lists in a table map's optional metadata a column appears in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Numeric,
    Character,
    Enum,
    Set,
    Other,
}

/// Bytes for 0 to 9 decimal digits in a packed `DECIMAL`.
pub(crate) const DECIMAL_DIGITS_BYTES: [u8; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

impl Layout {
    /// Reads a column's metadata, whose size depends on the type.
    ///
    /// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Table__map__event.html>
    pub(crate) fn read(type_code: u8, metadata: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match type_code {
            1 => Self::Integer { bytes: 1 },
            2 => Self::Integer { bytes: 2 },
            9 => Self::Integer { bytes: 3 },
            3 => Self::Integer { bytes: 4 },
            8 => Self::Integer { bytes: 8 },
            4 => {
                metadata.u8()?;
                Self::Float
            }
            5 => {
                metadata.u8()?;
                Self::Double
            }
            246 => {
                let (precision, scale) = (metadata.u8()?, metadata.u8()?);
                // Wider than any server allows would still be harmless, so the bound is a generous one.
                if precision == 0 || precision > 127 || scale > precision {
                    return Err(DecodeError::malformed(
                        "a DECIMAL column has an impossible precision or scale",
                    ));
                }
                Self::Decimal { precision, scale }
            }
            16 => {
                let (bits, bytes) = (metadata.u8()?, metadata.u8()?);
                let bits = u16::from(bytes) * 8 + u16::from(bits);
                if bits > 64 {
                    return Err(DecodeError::malformed("a BIT column is wider than 64 bits"));
                }
                Self::Bit { bits }
            }
            13 => Self::Year,
            10 | 14 => Self::Date,
            11 => Self::OldTime,
            19 => Self::Time { fraction: fraction(metadata)? },
            12 => Self::OldDatetime,
            18 => Self::Datetime { fraction: fraction(metadata)? },
            7 => Self::OldTimestamp,
            17 => Self::Timestamp { fraction: fraction(metadata)? },
            15 => Self::Varchar { bytes_max: metadata.u16()? },
            141 => Self::CompressedVarchar { bytes_max: metadata.u16()? },
            249..=252 => Self::Blob { length_bytes: length_bytes(metadata)? },
            140 => Self::CompressedBlob { length_bytes: length_bytes(metadata)? },
            245 => Self::Json { length_bytes: length_bytes(metadata)? },
            255 => Self::Geometry { length_bytes: length_bytes(metadata)? },
            242 => Self::Vector { length_bytes: length_bytes(metadata)? },
            247 | 248 | 253 | 254 => Self::string(metadata.u8()?, metadata.u8()?)?,
            0 => {
                return Err(DecodeError::unsupported(
                    "DECIMAL in the format before MySQL 5.0 is not supported: rebuild the table with ALTER TABLE … FORCE",
                ));
            }
            _ => return Err(DecodeError::unsupported(format!("column type {type_code} is not supported"))),
        })
    }

    /// `MYSQL_TYPE_STRING` hides three types in its first byte, and two bits of the length of a long `CHAR` with them.
    fn string(byte_0: u8, byte_1: u8) -> Result<Self, DecodeError> {
        let (real_type, bytes_max) = if byte_0 & 0x30 == 0x30 {
            (byte_0, u16::from(byte_1))
        } else {
            (byte_0 | 0x30, u16::from((byte_0 & 0x30) ^ 0x30) << 4 | u16::from(byte_1))
        };
        match (real_type, bytes_max) {
            (247, 1 | 2) => Ok(Self::Enum { bytes: byte_1 }),
            (248, 1..=8) => Ok(Self::Set { bytes: byte_1 }),
            (253 | 254, _) => Ok(Self::Char { bytes_max }),
            _ => Err(DecodeError::malformed("a string column has impossible metadata")),
        }
    }

    /// How many bytes a value of this layout takes.
    pub(crate) fn length(self) -> Length {
        let fixed = match self {
            Self::Integer { bytes } | Self::Enum { bytes } | Self::Set { bytes } => usize::from(bytes),
            Self::Float | Self::OldTimestamp => 4,
            Self::Double | Self::OldDatetime => 8,
            Self::Decimal { precision, scale } => decimal_bytes(precision, scale),
            Self::Bit { bits } => usize::from(bits.div_ceil(8)),
            Self::Year => 1,
            Self::Date | Self::OldTime => 3,
            Self::Time { fraction } => 3 + usize::from(fraction.div_ceil(2)),
            Self::Datetime { fraction } => 5 + usize::from(fraction.div_ceil(2)),
            Self::Timestamp { fraction } => 4 + usize::from(fraction.div_ceil(2)),
            Self::Char { bytes_max }
            | Self::Varchar { bytes_max }
            | Self::CompressedVarchar { bytes_max } => {
                return Length::Prefixed(if bytes_max > 255 { 2 } else { 1 });
            }
            Self::Blob { length_bytes }
            | Self::CompressedBlob { length_bytes }
            | Self::Json { length_bytes }
            | Self::Geometry { length_bytes }
            | Self::Vector { length_bytes } => return Length::Prefixed(length_bytes),
        };
        Length::Fixed(fixed)
    }

    pub(crate) fn family(self) -> Family {
        match self {
            // YEAR counts as a numeric column in the list of signs, though it has none.
            Self::Integer { .. } | Self::Float | Self::Double | Self::Decimal { .. } | Self::Year => {
                Family::Numeric
            }
            Self::Char { .. }
            | Self::Varchar { .. }
            | Self::Blob { .. }
            | Self::CompressedVarchar { .. }
            | Self::CompressedBlob { .. } => Family::Character,
            Self::Enum { .. } => Family::Enum,
            Self::Set { .. } => Family::Set,
            _ => Family::Other,
        }
    }
}

impl Length {
    /// Takes a value's bytes off a row image, without the length in front of them.
    #[inline]
    pub(crate) fn take<'a>(self, row: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Fixed(length) => row.take(length),
            Self::Prefixed(width) => {
                let length = row.length(width)?;
                row.take(length)
            }
        }
    }
}

fn fraction(metadata: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match metadata.u8()? {
        fraction @ 0..=6 => Ok(fraction),
        _ => Err(DecodeError::malformed("a temporal column has more than 6 fraction digits")),
    }
}

fn length_bytes(metadata: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match metadata.u8()? {
        bytes @ 1..=4 => Ok(bytes),
        _ => Err(DecodeError::malformed("the length of a blob column does not take 1 to 4 bytes")),
    }
}

/// Bytes of a packed `DECIMAL`: nine digits take four bytes, and what is left over on either side of the point fewer.
fn decimal_bytes(precision: u8, scale: u8) -> usize {
    let side = |digits: u8| {
        let left_over = DECIMAL_DIGITS_BYTES.get(usize::from(digits % 9)).copied().unwrap_or_default();
        usize::from(digits / 9) * 4 + usize::from(left_over)
    };
    side(precision.saturating_sub(scale)) + side(scale)
}
