//! The tables: each with columns of every type that the flavour has.

use super::*;

/// What is stored in a column, and so which values there are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Integer {
        bits: u32,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: usize,
        scale: usize,
    },
    Year,
    Bit {
        bits: usize,
    },
    Date,
    Time {
        fraction: usize,
        negative: bool,
    },
    Datetime {
        fraction: usize,
    },
    Timestamp {
        fraction: usize,
    },
    /// Characters of which pool, and how many at most.
    Text {
        pool: &'static str,
        length_max: usize,
    },
    Latin1 {
        length_max: usize,
    },
    /// Bytes, of which none is over the limit.
    Binary {
        length_max: usize,
        byte_max: u8,
    },
    Enum(&'static [&'static str]),
    Set(&'static [&'static str]),
    Json,
    Point,
    Vector,
    Uuid,
    Inet4,
    Inet6,
}

/// What `mysql_cdc` can do with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Decodes,
    /// It fails, panics, or sees fewer rows than there are.
    Cannot,
    /// It hands out the bytes as they are in the log.
    HandsThrough,
}

pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) peer: Peer,
    /// Run in the session before the table is filled.
    pub(crate) setting: &'static str,
    pub(crate) columns: Vec<(&'static str, Kind)>,
}

pub(crate) const PLAIN: &str = "abcXYZ 0189'\"\\%_\0\n\t";
pub(crate) const UNICODE: &str = "aZ é߀漢字\u{301}\u{1F980}\u{10FFFF}'\\\"\0";
pub(crate) const FEW: &[&str] = &["a", "B c", "it's", "漢字", ""];
/// More members than one byte can count.
pub(crate) const LETTERS: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"];

pub(crate) fn integer(bits: u32, unsigned: bool) -> Kind {
    Kind::Integer { bits, unsigned }
}

pub(crate) fn tables(flavour: Flavour) -> Vec<Table> {
    let text = |length_max| Kind::Text { pool: UNICODE, length_max };
    let ascii = |length_max| Kind::Text { pool: PLAIN, length_max };
    let binary = |length_max, byte_max| Kind::Binary { length_max, byte_max };
    let time = |fraction, negative| Kind::Time { fraction, negative };
    let table = |name, columns| Table { name, peer: Peer::Decodes, setting: "", columns };
    let cannot = |name, columns| Table { name, peer: Peer::Cannot, setting: "", columns };
    let json_peer = if flavour == Flavour::MySql { Peer::HandsThrough } else { Peer::Decodes };
    let mut tables = vec![
        table(
            "numbers",
            vec![
                ("TINYINT", integer(8, false)),
                ("TINYINT UNSIGNED", integer(8, true)),
                ("SMALLINT", integer(16, false)),
                ("SMALLINT UNSIGNED", integer(16, true)),
                ("MEDIUMINT", integer(24, false)),
                ("MEDIUMINT UNSIGNED", integer(24, true)),
                ("INT", integer(32, false)),
                ("INT UNSIGNED", integer(32, true)),
                ("BIGINT", integer(64, false)),
                ("BIGINT UNSIGNED", integer(64, true)),
                ("FLOAT", Kind::Float),
                ("DOUBLE", Kind::Double),
                ("DECIMAL(10,0)", Kind::Decimal { precision: 10, scale: 0 }),
                ("DECIMAL(65,30)", Kind::Decimal { precision: 65, scale: 30 }),
                ("DECIMAL(9,9)", Kind::Decimal { precision: 9, scale: 9 }),
                ("DECIMAL(1,0)", Kind::Decimal { precision: 1, scale: 0 }),
                ("DECIMAL(23,7)", Kind::Decimal { precision: 23, scale: 7 }),
                ("YEAR", Kind::Year),
                ("BIT(1)", Kind::Bit { bits: 1 }),
                ("BIT(8)", Kind::Bit { bits: 8 }),
                ("BIT(11)", Kind::Bit { bits: 11 }),
                ("BIT(64)", Kind::Bit { bits: 64 }),
            ],
        ),
        table(
            "times",
            vec![
                ("DATE", Kind::Date),
                ("TIME", time(0, false)),
                ("TIME(2)", time(2, false)),
                ("TIME(3)", time(3, false)),
                ("TIME(6)", time(6, false)),
                ("DATETIME", Kind::Datetime { fraction: 0 }),
                ("DATETIME(1)", Kind::Datetime { fraction: 1 }),
                ("DATETIME(4)", Kind::Datetime { fraction: 4 }),
                ("DATETIME(6)", Kind::Datetime { fraction: 6 }),
                ("TIMESTAMP NULL", Kind::Timestamp { fraction: 0 }),
                ("TIMESTAMP(3) NULL", Kind::Timestamp { fraction: 3 }),
                ("TIMESTAMP(5) NULL", Kind::Timestamp { fraction: 5 }),
                ("TIMESTAMP(6) NULL", Kind::Timestamp { fraction: 6 }),
            ],
        ),
        table(
            "strings",
            vec![
                ("CHAR(10) CHARACTER SET utf8mb4", text(10)),
                ("CHAR(255) CHARACTER SET utf8mb4", text(255)),
                ("CHAR(40) CHARACTER SET latin1", ascii(40)),
                ("VARCHAR(20) CHARACTER SET utf8mb4", text(20)),
                ("VARCHAR(300) CHARACTER SET utf8mb4", text(300)),
                ("VARCHAR(255) CHARACTER SET latin1", ascii(255)),
                ("VARCHAR(256) CHARACTER SET ascii", ascii(256)),
                ("BINARY(16)", binary(16, 0x7F)),
                ("BINARY(255)", binary(255, 0x7F)),
                ("VARBINARY(40)", binary(40, 0x7F)),
                ("VARBINARY(400)", binary(400, 0x7F)),
                ("TINYTEXT CHARACTER SET utf8mb4", text(60)),
                ("TEXT CHARACTER SET utf8mb4", text(900)),
                ("MEDIUMTEXT CHARACTER SET utf8mb4", text(900)),
                ("LONGTEXT CHARACTER SET utf8mb4", text(900)),
                ("TINYBLOB", binary(255, 0xFF)),
                ("BLOB", binary(700, 0xFF)),
                ("MEDIUMBLOB", binary(700, 0xFF)),
                ("LONGBLOB", binary(700, 0xFF)),
                ("ENUM('a','B c','it''s','漢字','') CHARACTER SET utf8mb4", Kind::Enum(FEW)),
                ("SET('a','b','c','d','e','f','g','h','i','j','k','l','m')", Kind::Set(LETTERS)),
                ("POINT", Kind::Point),
            ],
        ),
        Table { name: "documents", peer: json_peer, setting: "", columns: vec![("JSON", Kind::Json)] },
        cannot(
            "negative_times",
            vec![
                ("TIME", time(0, true)),
                ("TIME(1)", time(1, true)),
                ("TIME(3)", time(3, true)),
                ("TIME(6)", time(6, true)),
            ],
        ),
        cannot(
            "not_utf8",
            vec![
                ("BINARY(16)", binary(16, 0xFF)),
                ("VARBINARY(300)", binary(300, 0xFF)),
                ("CHAR(20) CHARACTER SET latin1", Kind::Latin1 { length_max: 20 }),
                ("VARCHAR(300) CHARACTER SET latin1", Kind::Latin1 { length_max: 300 }),
                ("VARCHAR(50) CHARACTER SET utf16", text(50)),
                ("CHAR(20) CHARACTER SET utf32", text(20)),
            ],
        ),
    ];
    match flavour {
        Flavour::MySql => {
            tables.push(cannot("vectors", vec![("VECTOR(3)", Kind::Vector)]));
            let columns = vec![
                ("BIGINT", integer(64, false)),
                ("VARCHAR(300) CHARACTER SET utf8mb4", text(300)),
                ("JSON", Kind::Json),
            ];
            let setting = "SET SESSION binlog_transaction_compression=ON";
            tables.push(Table { name: "compressed", peer: Peer::Cannot, setting, columns });
        }
        Flavour::MariaDb => {
            tables.push(cannot(
                "addresses",
                vec![("UUID", Kind::Uuid), ("INET4", Kind::Inet4), ("INET6", Kind::Inet6)],
            ));
            let columns = vec![
                ("BLOB COMPRESSED", binary(700, 0x10)),
                ("VARCHAR(500) COMPRESSED CHARACTER SET latin1", ascii(500)),
            ];
            tables.push(cannot("packed", columns));
            let columns =
                vec![("BIGINT", integer(64, false)), ("VARCHAR(300) CHARACTER SET utf8mb4", text(300))];
            let setting = "SET GLOBAL log_bin_compress=ON; SET GLOBAL log_bin_compress_min_len=10";
            tables.push(Table { name: "compressed", peer: Peer::Cannot, setting, columns });
        }
    }
    tables
}
