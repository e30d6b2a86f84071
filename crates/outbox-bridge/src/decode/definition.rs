//! A column as `information_schema` describes it, for logs that do not describe their columns themselves.

use super::DecodeError;
use super::DecodeErrorKind;
use super::charset::Charset;
use super::layout::Layout;

/// A column of a table's definition, as in `information_schema.COLUMNS`, in the order of `ORDINAL_POSITION`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ColumnDefinition {
    /// `COLUMN_NAME`.
    pub name: String,
    /// `COLUMN_TYPE`, for instance `bigint unsigned` or `enum('a','b')`.
    pub column_type: String,
    /// `CHARACTER_SET_NAME`; `None` for columns without one.
    pub character_set: Option<String>,
}

/// A parsed [`ColumnDefinition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefinedType {
    base: String,
    arguments: Vec<u32>,
    pub(crate) members: Vec<String>,
    pub(crate) unsigned: bool,
    zerofill: bool,
    pub(crate) charset: Option<Charset>,
}

impl ColumnDefinition {
    pub(crate) fn parse(&self) -> Result<DefinedType, DecodeError> {
        self.parse_type().ok_or_else(|| {
            DecodeError::new(
                DecodeErrorKind::DefinitionMismatch,
                "the column type or the character set in the table definition is not understood",
            )
            .in_column(&self.name)
        })
    }

    fn parse_type(&self) -> Option<DefinedType> {
        let text = self.column_type.trim();
        let base_end = text.find(|c: char| c == '(' || c.is_whitespace()).unwrap_or(text.len());
        let (base, rest) = text.split_at_checked(base_end)?;
        let base = base.to_ascii_lowercase();
        let mut arguments = Vec::new();
        let mut members = Vec::new();
        let mut attributes = rest;
        if let Some(inner) = rest.trim_start().strip_prefix('(') {
            if base == "enum" || base == "set" {
                (members, attributes) = quoted_list(inner)?;
            } else {
                let (list, after) = inner.split_once(')')?;
                attributes = after;
                // A spatial reference system or a name of a point type is no number and does not matter.
                arguments = list.split(',').filter_map(|argument| argument.trim().parse().ok()).collect();
            }
        }
        let has = |word: &str| {
            attributes.split_ascii_whitespace().any(|attribute| attribute.eq_ignore_ascii_case(word))
        };
        let zerofill = has("zerofill");
        let charset = match &self.character_set {
            Some(name) => Some(Charset::from_name(name)?),
            None => None,
        };
        Some(DefinedType {
            arguments,
            members,
            unsigned: zerofill || has("unsigned"),
            zerofill,
            charset,
            base,
        })
    }
}

impl DefinedType {
    /// The base type's name in lower case.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn argument(&self, index: usize) -> Option<u32> {
        self.arguments.get(index).copied()
    }

    /// The width that `ZEROFILL` fills to; 0 without it.
    pub(crate) fn zerofill_width(&self) -> u8 {
        if self.zerofill {
            self.argument(0).and_then(|width| u8::try_from(width).ok()).unwrap_or_default()
        } else {
            0
        }
    }

    /// The digits behind the point of `FLOAT(M,D)` and `DOUBLE(M,D)`.
    pub(crate) fn decimals(&self) -> Option<u8> {
        self.argument(1).and_then(|decimals| u8::try_from(decimals).ok()).filter(|decimals| *decimals <= 30)
    }

    /// Whether it is a time with fraction digits.
    pub(crate) fn has_fraction(&self) -> bool {
        matches!(self.base.as_str(), "time" | "datetime" | "timestamp") && self.argument(0).unwrap_or(0) > 0
    }

    /// Whether values are bytes, by the type alone.
    pub(crate) fn is_binary(&self) -> bool {
        matches!(self.base.as_str(), "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob")
    }

    /// Whether the log's layout is what this definition gives.
    pub(crate) fn matches(&self, layout: Layout) -> bool {
        match (self.base.as_str(), layout) {
            // MariaDB's JSON is a LONGTEXT, and its VECTOR a kind of VARBINARY.
            ("json", Layout::Json { .. } | Layout::Blob { length_bytes: 4 }) => true,
            ("vector", Layout::Vector { .. } | Layout::Varchar { .. } | Layout::Blob { .. }) => true,
            (
                "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
                | "multipolygon" | "geometrycollection" | "geomcollection",
                Layout::Geometry { .. },
            ) => true,
            ("time", Layout::OldTime)
            | ("datetime", Layout::OldDatetime)
            | ("timestamp", Layout::OldTimestamp) => self.argument(0).unwrap_or(0) == 0,
            (_, Layout::CompressedVarchar { bytes_max }) => {
                self.expected() == Some(Layout::Varchar { bytes_max: bytes_max.saturating_sub(1) })
            }
            (_, Layout::CompressedBlob { length_bytes }) => {
                self.expected() == Some(Layout::Blob { length_bytes })
            }
            _ => self.expected() == Some(layout),
        }
    }

    fn expected(&self) -> Option<Layout> {
        let fraction = || u8::try_from(self.argument(0).unwrap_or(0)).ok();
        Some(match self.base.as_str() {
            "tinyint" | "bool" | "boolean" => Layout::Integer { bytes: 1 },
            "smallint" => Layout::Integer { bytes: 2 },
            "mediumint" => Layout::Integer { bytes: 3 },
            "int" | "integer" => Layout::Integer { bytes: 4 },
            "bigint" => Layout::Integer { bytes: 8 },
            "float" => Layout::Float,
            "double" | "real" => Layout::Double,
            "decimal" | "numeric" => Layout::Decimal {
                precision: u8::try_from(self.argument(0).unwrap_or(10)).ok()?,
                scale: u8::try_from(self.argument(1).unwrap_or(0)).ok()?,
            },
            "bit" => Layout::Bit { bits: u16::try_from(self.argument(0).unwrap_or(1)).ok()? },
            "year" => Layout::Year,
            "date" => Layout::Date,
            "time" => Layout::Time { fraction: fraction()? },
            "datetime" => Layout::Datetime { fraction: fraction()? },
            "timestamp" => Layout::Timestamp { fraction: fraction()? },
            "char" | "binary" => Layout::Char { bytes_max: self.bytes_max(1)? },
            "uuid" | "inet6" => Layout::Char { bytes_max: 16 },
            "inet4" => Layout::Char { bytes_max: 4 },
            "varchar" | "varbinary" => Layout::Varchar { bytes_max: self.bytes_max(0)? },
            "tinyblob" | "tinytext" => Layout::Blob { length_bytes: 1 },
            "blob" | "text" => Layout::Blob { length_bytes: 2 },
            "mediumblob" | "mediumtext" => Layout::Blob { length_bytes: 3 },
            "longblob" | "longtext" => Layout::Blob { length_bytes: 4 },
            "enum" => Layout::Enum { bytes: if self.members.len() < 256 { 1 } else { 2 } },
            "set" => Layout::Set {
                bytes: match self.members.len().div_ceil(8) {
                    bytes @ 1..=4 => u8::try_from(bytes).ok()?,
                    _ => 8,
                },
            },
            _ => return None,
        })
    }

    fn bytes_max(&self, default: u32) -> Option<u16> {
        let characters = u16::try_from(self.argument(0).unwrap_or(default)).ok()?;
        characters.checked_mul(self.charset.map_or(1, Charset::bytes_per_character_max))
    }
}

/// `'a','b''c')` and what follows it. A quote is doubled; a backslash, a line end and a zero byte come after a backslash.
fn quoted_list(text: &str) -> Option<(Vec<String>, &str)> {
    let mut list = Vec::new();
    let mut rest = text;
    loop {
        let (member, after) = quoted(rest.trim_start().strip_prefix('\'')?)?;
        list.push(member);
        match after.trim_start().strip_prefix(',') {
            Some(after) => rest = after,
            None => return after.trim_start().strip_prefix(')').map(|after| (list, after)),
        }
    }
}

/// A string whose opening quote is taken off already, and what follows its closing quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '\'' => match characters.as_str().strip_prefix('\'') {
                Some(after) => {
                    content.push('\'');
                    characters = after.chars();
                }
                None => return Some((content, characters.as_str())),
            },
            '\\' => content.push(match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                '0' => '\0',
                character => character,
            }),
            character => content.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(column_type: &str, charset: Option<&str>) -> DefinedType {
        ColumnDefinition {
            name: "c".into(),
            column_type: column_type.into(),
            character_set: charset.map(str::to_owned),
        }
        .parse()
        .expect("a type that is understood")
    }

    #[test]
    fn types_match_their_layouts() {
        let cases = [
            ("bigint unsigned", None, Layout::Integer { bytes: 8 }),
            ("int(11)", None, Layout::Integer { bytes: 4 }),
            ("tinyint(1)", None, Layout::Integer { bytes: 1 }),
            ("decimal(10,0)", None, Layout::Decimal { precision: 10, scale: 0 }),
            ("binary(16)", None, Layout::Char { bytes_max: 16 }),
            ("varchar(64)", Some("utf8mb4"), Layout::Varchar { bytes_max: 256 }),
            ("varchar(64)", Some("latin1"), Layout::Varchar { bytes_max: 64 }),
            ("char(255)", Some("utf8mb4"), Layout::Char { bytes_max: 1020 }),
            ("timestamp(6)", None, Layout::Timestamp { fraction: 6 }),
            ("datetime", None, Layout::OldDatetime),
            ("json", None, Layout::Json { length_bytes: 4 }),
            ("longtext", Some("utf8mb4"), Layout::Blob { length_bytes: 4 }),
            ("uuid", None, Layout::Char { bytes_max: 16 }),
            ("enum('a','b')", Some("utf8mb4"), Layout::Enum { bytes: 1 }),
            ("set('a','b')", Some("utf8mb4"), Layout::Set { bytes: 1 }),
            ("bit(10)", None, Layout::Bit { bits: 10 }),
            ("double(10,2)", None, Layout::Double),
            (
                "varchar(100) /*M!100301 COMPRESSED*/",
                Some("latin1"),
                Layout::CompressedVarchar { bytes_max: 101 },
            ),
            ("point", None, Layout::Geometry { length_bytes: 4 }),
        ];
        for (text, charset, layout) in cases {
            assert!(parse(text, charset).matches(layout), "{text} {layout:?}");
            assert!(!parse(text, charset).matches(Layout::Year), "{text}");
        }
        assert!(!parse("varchar(64)", Some("utf8mb4")).matches(Layout::Varchar { bytes_max: 64 }));
        assert!(!parse("timestamp(6)", None).matches(Layout::Timestamp { fraction: 3 }));
    }

    #[test]
    fn members_and_attributes_are_read() {
        assert_eq!(
            parse(r"enum('a''b','c\\d','e\nf','','g,h)')", None).members,
            ["a'b", r"c\d", "e\nf", "", "g,h)"]
        );
        let zerofill = parse("int(7) unsigned zerofill", None);
        assert!(zerofill.unsigned);
        assert_eq!(zerofill.zerofill_width(), 7);
        assert_eq!(parse("float(7,3)", None).decimals(), Some(3));
        assert!(!parse("bigint", None).unsigned);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (text, charset) in
            [("enum('a'", None), ("enum(a)", None), ("char(3", None), ("char(3)", Some("klingon"))]
        {
            let definition = ColumnDefinition {
                name: "c".into(),
                column_type: text.into(),
                character_set: charset.map(str::to_owned),
            };
            assert_eq!(definition.parse().expect_err(text).kind(), DecodeErrorKind::DefinitionMismatch);
        }
    }
}
