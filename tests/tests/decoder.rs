//! The row decoder against two oracles: the server, and `mysql_cdc`, which decodes the same log independently.
//!
//! A server writes tables of every column type with edge values and random ones; the log is then read from its files.
//! What `mysql_cdc` cannot do is left to the server alone, and each time it is checked that it cannot: values that are no
//! UTF-8, negative times, compressed transactions and rows, `JSON` of MySQL, which it hands out undecoded, and the column
//! types that it does not know (`VECTOR`, `COMPRESSED`). Fractions of a second it cuts to milliseconds.
//!
//! `OUTBOX_DECODER_SEED=n` runs with the seed of a failure.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use mysql_async::{Conn, Row, prelude::Queryable as _};
use mysql_cdc::events::{
    binlog_event::BinlogEvent,
    event_header::EventHeader as CdcHeader,
    event_parser::EventParser,
    row_events::{mysql_value::MySqlValue, row_data::RowData},
};
use outbox_bridge::{
    decode::{
        ColumnDefinition, DecodeLimits, RowDecoder, RowsEvent, RowsKind, TableMap, Value, event_type,
        resolve_columns,
    },
    source::{
        EventHeader, HEADER_SIZE, RawEvent,
        connection::Flavour as Dialect,
        event::{Event, PayloadReader},
    },
};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use testbed::{Flavour, MySql};

const ROWS: usize = 400;
const ROWS_A_STATEMENT: usize = 25;
const CHECKSUM_SIZE: usize = 4;

/// What is stored in a column, and so which values there are.
#[derive(Debug, Clone, Copy)]
enum Kind {
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
enum Peer {
    Decodes,
    /// It fails, panics, or sees fewer rows than there are.
    Cannot,
    /// It hands out the bytes as they are in the log.
    HandsThrough,
}

struct Table {
    name: &'static str,
    peer: Peer,
    /// Run in the session before the table is filled.
    setting: &'static str,
    columns: Vec<(&'static str, Kind)>,
}

const PLAIN: &str = "abcXYZ 0189'\"\\%_\0\n\t";
const UNICODE: &str = "aZ é߀漢字\u{301}\u{1F980}\u{10FFFF}'\\\"\0";
const FEW: &[&str] = &["a", "B c", "it's", "漢字", ""];
/// More members than one byte can count.
const LETTERS: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"];

fn integer(bits: u32, unsigned: bool) -> Kind {
    Kind::Integer { bits, unsigned }
}

fn tables(flavour: Flavour) -> Vec<Table> {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A value as SQL text.
fn literal(kind: Kind, random: &mut SmallRng) -> String {
    if random.random_ratio(1, 12) {
        return "NULL".into();
    }
    let edge = random.random_ratio(1, 4);
    let pick =
        |random: &mut SmallRng, edges: &[&str]| edges.choose(random).copied().unwrap_or("NULL").to_owned();
    let length = |random: &mut SmallRng, max: usize| {
        if edge { [0, 1, max].choose(random).copied().unwrap_or(max) } else { random.random_range(0..=max) }
    };
    let fraction = |random: &mut SmallRng, digits: usize| match digits {
        0 => String::new(),
        digits => {
            format!(".{:0digits$}", random.random_range(0..10_u64.pow(u32::try_from(digits).unwrap_or(6))))
        }
    };
    let date = |random: &mut SmallRng, years: std::ops::Range<u32>| {
        let (month, day) = (random.random_range(1..=12), random.random_range(1..=28));
        format!("{:04}-{month:02}-{day:02}", random.random_range(years))
    };
    let clock = |random: &mut SmallRng| {
        let (hour, minute, second) =
            (random.random_range(0..24), random.random_range(0..60), random.random_range(0..60));
        format!("{hour:02}:{minute:02}:{second:02}")
    };
    match kind {
        Kind::Integer { bits, unsigned } => {
            // Of all magnitudes.
            let value = if edge {
                [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1].choose(random).copied().unwrap_or(0)
            } else {
                random.next_u64()
            };
            let value = value >> (64 - bits) >> if edge { 0 } else { random.random_range(0..bits) };
            let signed =
                i128::from(value) - if !unsigned && value >> (bits - 1) == 1 { 1_i128 << bits } else { 0 };
            signed.to_string()
        }
        Kind::Float if edge => pick(
            random,
            &[
                "0",
                "1.1",
                "-1.5e-7",
                "3.4028234e38",
                "-3.4028234e38",
                "1.17549435e-38",
                "16777216",
                "0.1",
                "1e15",
                "123456.7",
            ],
        ),
        Kind::Float => {
            let value = f32::from_bits(random.next_u32());
            if value.is_normal() { format!("{value:e}") } else { "1e0".into() }
        }
        Kind::Double if edge => pick(
            random,
            &[
                "0e0",
                "-0e0",
                "0.1e0",
                "1e15",
                "1e14",
                "-1e-5",
                "1.7976931348623157e308",
                "2.2250738585072014e-308",
                "-2.2250738585072014e-308",
                "9007199254740993e0",
                "740198872452892.2e0",
            ],
        ),
        Kind::Double => {
            let value = f64::from_bits(random.next_u64());
            if value.is_normal() { format!("{value:e}") } else { "1e0".into() }
        }
        Kind::Decimal { precision, scale } => {
            let digits = |random: &mut SmallRng, count: usize| -> String {
                if edge {
                    "9".repeat(count)
                } else {
                    (0..count).map(|_| char::from(b'0' + random.random_range(0..10_u8))).collect()
                }
            };
            let integral = random.random_range(0..=precision - scale);
            let sign = if random.random() { "-" } else { "" };
            let (integral, fraction) =
                (digits(random, integral), digits(random, random.clone().random_range(0..=scale)));
            if edge && random.random() { "0".into() } else { format!("{sign}0{integral}.{fraction}0") }
        }
        Kind::Year if edge => pick(random, &["0", "1901", "2155"]),
        Kind::Year => random.random_range(1901..=2155).to_string(),
        Kind::Bit { bits } => {
            let value =
                if edge { [0, u64::MAX].choose(random).copied().unwrap_or(0) } else { random.next_u64() };
            format!("b'{:0bits$b}'", value >> (64 - bits))
        }
        Kind::Date if edge => pick(
            random,
            &["'0000-00-00'", "'1000-01-01'", "'9999-12-31'", "'2015-00-00'", "'2021-02-31'", "'2024-02-29'"],
        ),
        Kind::Date => format!("'{}'", date(random, 1..10_000)),
        Kind::Time { fraction: digits, negative } => {
            let sign = if negative && random.random() { "-" } else { "" };
            let time = if edge {
                pick(random, &["00:00:00", "838:59:58", "00:00:01"])
            } else {
                format!(
                    "{}:{:02}:{:02}",
                    random.random_range(0..838),
                    random.random_range(0..60),
                    random.random_range(0..60)
                )
            };
            format!("'{sign}{time}{}'", fraction(random, digits))
        }
        Kind::Datetime { .. } if edge => pick(
            random,
            &[
                "'0000-00-00 00:00:00'",
                "'1000-01-01 00:00:00'",
                "'9999-12-31 23:59:59'",
                "'2015-00-00 01:02:03'",
            ],
        ),
        Kind::Datetime { fraction: digits } => {
            format!("'{} {}{}'", date(random, 1..9_999), clock(random), fraction(random, digits))
        }
        Kind::Timestamp { .. } if edge => {
            pick(random, &["'0000-00-00 00:00:00'", "'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"])
        }
        Kind::Timestamp { fraction: digits } => {
            format!("'{} {}{}'", date(random, 1971..2038), clock(random), fraction(random, digits))
        }
        Kind::Text { pool, length_max } => {
            let pool: Vec<char> = pool.chars().collect();
            let text: String = (0..length(random, length_max)).filter_map(|_| pool.choose(random)).collect();
            format!("_utf8mb4 X'{}'", hex(text.as_bytes()))
        }
        Kind::Latin1 { length_max } => {
            let bytes: Vec<u8> =
                (0..length(random, length_max)).map(|_| random.random_range(0x21..=0xFF)).collect();
            format!("_latin1 X'{}'", hex(&bytes))
        }
        Kind::Binary { length_max, byte_max } => {
            let bytes: Vec<u8> =
                (0..length(random, length_max)).map(|_| random.random_range(0..=byte_max)).collect();
            format!("X'{}'", hex(&bytes))
        }
        // 0 is the empty text that stands for a member that does not exist.
        Kind::Enum(members) => random.random_range(usize::from(!edge)..=members.len()).to_string(),
        Kind::Set(members) => (random.next_u64() >> (64 - members.len())).to_string(),
        Kind::Json => format!("_utf8mb4 X'{}'", hex(json(random, 4).as_bytes())),
        Kind::Point => format!(
            "ST_GeomFromText('POINT({} {})')",
            random.random_range(-90..90),
            random.random_range(-90..90)
        ),
        Kind::Vector => {
            format!("X'{}'", hex(&[random.random_range(-9.0..9.0_f32); 3].map(f32::to_le_bytes).concat()))
        }
        Kind::Uuid => format!("'{}'", uuid::Uuid::from_u128(random.random())),
        Kind::Inet4 => format!("'{}'", std::net::Ipv4Addr::from_bits(random.random())),
        Kind::Inet6 if edge => {
            pick(random, &["'::'", "'::1'", "'::ffff:1.2.3.4'", "'1:0:0:2::'", "'::1.2.3.4'"])
        }
        Kind::Inet6 => format!("'{}'", std::net::Ipv6Addr::from_bits(random.random())),
    }
}

/// A JSON text with unusual white space, and numbers of every kind.
fn json(random: &mut SmallRng, depth: u32) -> String {
    let choice = random.random_range(0..if depth == 0 { 6 } else { 9 });
    let string = |random: &mut SmallRng| {
        let pool: Vec<char> = UNICODE.chars().chain("\u{1}\u{7f}/\r\n\t".chars()).collect();
        let text: String = (0..random.random_range(0..40)).filter_map(|_| pool.choose(random)).collect();
        serde_json::Value::String(text).to_string()
    };
    let children = random.random_range(0..5);
    match choice {
        0 => [
            "null",
            "true",
            "false",
            "0",
            "-1",
            "65536",
            "18446744073709551615",
            "-9223372036854775808",
            "1.50",
            "1e100",
            "-0.0",
            "1e-7",
            "123456789012345680000",
        ]
        .choose(random)
        .copied()
        .unwrap_or("null")
        .to_owned(),
        1 => random.random::<i64>().wrapping_shr(random.random_range(0..63)).to_string(),
        2 => (random.random::<f64>() * 10_f64.powi(random.random_range(-20..20))).to_string(),
        3..=5 => string(random),
        6 | 7 => {
            let entries: Vec<_> =
                (0..children).map(|_| format!("{} :{}", string(random), json(random, depth - 1))).collect();
            format!("{{ {} }}", entries.join(" ,"))
        }
        _ => {
            let entries: Vec<_> = (0..children).map(|_| json(random, depth - 1)).collect();
            format!("[{}\n]", entries.join(","))
        }
    }
}

/// What the server is asked for, to get what [`shown`] makes of our value.
fn question(column: &str, kind: Kind) -> String {
    match kind {
        // MySQL's casts cut them to 22 characters and 6 digits; as they are sent they are exact.
        Kind::Float | Kind::Double => column.to_owned(),
        Kind::Bit { bits } => format!("LPAD(HEX({column}), {}, '0')", bits.div_ceil(8) * 2),
        Kind::Binary { .. } | Kind::Point | Kind::Vector => format!("HEX({column})"),
        Kind::Text { .. } | Kind::Latin1 { .. } | Kind::Enum(_) | Kind::Set(_) => {
            format!("CONVERT({column} USING utf8mb4)")
        }
        _ => format!("CAST({column} AS CHAR)"),
    }
}

/// Our value as text; bytes as hexadecimal digits.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Absent => Some("ABSENT".into()),
        Value::Text(text) | Value::Json(text) => Some(text.as_str().to_owned()),
        Value::Bytes(bytes) => Some(hex(bytes)),
    }
}

/// `mysql_cdc`'s value in our rendering, and ours brought down to what it knows.
fn normalised(kind: Kind, ours: &str, theirs: &MySqlValue) -> Result<(String, String)> {
    let cut = |text: &str| match text.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{:.3}", fraction),
        None => text.to_owned(),
    };
    let with_fraction = |whole: String, millis: u32| match kind {
        Kind::Time { fraction, .. } | Kind::Datetime { fraction } | Kind::Timestamp { fraction }
            if fraction > 0 =>
        {
            let digits: String = format!("{millis:03}").chars().take(fraction).collect();
            format!("{whole}.{digits}")
        }
        _ => whole,
    };
    let signed = !matches!(kind, Kind::Integer { unsigned: true, .. });
    let number = |unsigned: u64, signed_value: i64| {
        if signed { signed_value.to_string() } else { unsigned.to_string() }
    };
    let mut ours = ours.to_owned();
    let theirs = match theirs {
        MySqlValue::TinyInt(value) => number((*value).into(), value.cast_signed().into()),
        MySqlValue::SmallInt(value) => number((*value).into(), value.cast_signed().into()),
        MySqlValue::MediumInt(value) => number((*value).into(), ((value << 8).cast_signed() >> 8).into()),
        MySqlValue::Int(value) => number((*value).into(), value.cast_signed().into()),
        MySqlValue::BigInt(value) => number(*value, value.cast_signed()),
        // MySQL shows six digits.
        MySqlValue::Float(value) => {
            ours = format!("{:.5e}", ours.parse::<f64>()?);
            format!("{:.5e}", f64::from(*value))
        }
        MySqlValue::Double(value) => {
            ours = format!("{:e}", ours.parse::<f64>()?);
            format!("{value:e}")
        }
        MySqlValue::Decimal(text) => text.clone(),
        MySqlValue::String(text) if matches!(kind, Kind::Binary { .. }) => {
            // The log has no zeros at the end of a `BINARY`.
            let trimmed = |text: &str| {
                let mut text = text.to_owned();
                while text.ends_with("00") && text.len().is_multiple_of(2) {
                    text.truncate(text.len() - 2);
                }
                text
            };
            ours = trimmed(&ours);
            trimmed(&hex(text.as_bytes()))
        }
        MySqlValue::String(text) => text.clone(),
        MySqlValue::Bit(bits) => {
            let value = bits.iter().fold(0_u64, |value, bit| value << 1 | u64::from(*bit));
            let digits = bits.len().div_ceil(8) * 2;
            format!("{value:0digits$X}")
        }
        MySqlValue::Enum(0) => String::new(),
        MySqlValue::Enum(number) => match kind {
            Kind::Enum(members) => members.get(usize::try_from(number - 1)?).context("a member")?.to_string(),
            _ => bail!("an ENUM"),
        },
        MySqlValue::Set(bits) => match kind {
            Kind::Set(members) => {
                let chosen = members.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
                chosen.map(|(_, member)| *member).collect::<Vec<_>>().join(",")
            }
            _ => bail!("a SET"),
        },
        MySqlValue::Blob(bytes) if matches!(kind, Kind::Text { .. } | Kind::Json) => {
            String::from_utf8(bytes.clone())?
        }
        MySqlValue::Blob(bytes) => hex(bytes),
        MySqlValue::Year(1900) => "0000".into(),
        MySqlValue::Year(year) => year.to_string(),
        MySqlValue::Date(date) => format!("{:04}-{:02}-{:02}", date.year, date.month, date.day),
        MySqlValue::Time(time) => {
            ours = cut(&ours);
            with_fraction(format!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second), time.millis)
        }
        MySqlValue::DateTime(time) => {
            ours = cut(&ours);
            let date = format!("{:04}-{:02}-{:02}", time.year, time.month, time.day);
            let clock = format!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second);
            with_fraction(format!("{date} {clock}"), time.millis)
        }
        MySqlValue::Timestamp(0) => with_fraction("0000-00-00 00:00:00".into(), 0),
        MySqlValue::Timestamp(millis) => {
            ours = cut(&ours);
            let time = time::OffsetDateTime::from_unix_timestamp(i64::try_from(millis / 1000)?)?;
            let (hour, minute, second) = time.to_hms();
            let clock = format!("{hour:02}:{minute:02}:{second:02}");
            with_fraction(format!("{} {clock}", time.date()), u32::try_from(millis % 1000)?)
        }
    };
    if matches!(kind, Kind::Timestamp { .. }) && theirs.starts_with("0000") {
        ours = cut(&ours);
    }
    Ok((ours, theirs))
}

/// The rows of each table, as one decoder made them.
type Rows<T> = BTreeMap<String, Vec<T>>;

/// The log's events, as they stand in its files, the header included.
fn log_events(server: &MySql) -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(server.data_dir())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix("binlog.").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            files.push(path);
        }
    }
    files.sort();
    // The last one is still being written.
    files.pop();
    let mut events = Vec::new();
    for file in files {
        let bytes = fs::read(&file)?;
        let mut rest = bytes.strip_prefix(b"\xfebin").context("a log file")?;
        while let Some(header) = EventHeader::parse(rest) {
            let (event, more) =
                rest.split_at_checked(header.event_size.try_into()?).context("an event that is cut")?;
            events.push(event.to_vec());
            rest = more;
        }
    }
    Ok(events)
}

/// Our decoder.
struct Ours {
    dialect: Dialect,
    definitions: BTreeMap<String, Vec<ColumnDefinition>>,
    decoders: BTreeMap<u64, (String, RowDecoder)>,
    rows: Rows<Vec<Value>>,
}

impl Ours {
    fn take(&mut self, raw: &RawEvent) -> Result<()> {
        match Event::parse(raw, self.dialect)? {
            Event::TableMap(body) => {
                let map = TableMap::parse(&body)?;
                // MySQL's log says everything; MariaDB's does not tell a UUID from bytes.
                let definition =
                    self.definitions.get(&map.table).filter(|_| self.dialect == Dialect::MariaDb);
                let columns = resolve_columns(&map, definition.map(Vec::as_slice))?;
                let wanted: Vec<_> = (0..columns.len()).collect();
                let decoder = RowDecoder::new(&map, columns, &wanted, DecodeLimits::default())?;
                self.decoders.insert(map.table_id, (map.table, decoder));
            }
            Event::Rows(RowsKind::Insert) => {
                let event = RowsEvent::parse(raw.header.event_type, &raw.body, DecodeLimits::default())?;
                let (table, decoder) =
                    self.decoders.get_mut(&event.head().table_id).context("rows without a table map")?;
                let rows: Vec<_> = decoder.rows(&event)?.collect::<Result<_, _>>()?;
                self.rows.entry(table.clone()).or_default().extend(rows);
            }
            Event::TransactionPayload(payload) => {
                let mut payload = PayloadReader::new(payload, 1 << 26)?;
                while let Some(event) = payload.next_event()? {
                    self.take(&event)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// `mysql_cdc`'s rows, and how often it failed by table.
fn theirs(events: &[Vec<u8>]) -> Result<(Rows<RowData>, BTreeMap<String, usize>)> {
    let mut parser = EventParser::new();
    let mut rows = Rows::new();
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut table = String::new();
    for event in events {
        let (head, body) = event.split_at_checked(HEADER_SIZE).context("a header")?;
        let header = CdcHeader::parse(head).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if header.event_type == event_type::TABLE_MAP {
            let map = TableMap::parse(body.split_last_chunk::<CHECKSUM_SIZE>().context("a checksum")?.0)?;
            table = map.table;
        }
        let parsed = catch_unwind(AssertUnwindSafe(|| parser.parse_event(&header, body)));
        match parsed {
            Ok(Ok(BinlogEvent::TableMapEvent(map))) => {
                names.insert(map.table_id, map.table_name);
            }
            Ok(Ok(BinlogEvent::WriteRowsEvent(event))) => {
                let name = names.get(&event.table_id).context("a table map")?;
                rows.entry(name.clone()).or_default().extend(event.rows);
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => *failures.entry(table.clone()).or_default() += 1,
        }
    }
    Ok((rows, failures))
}

async fn fill(conn: &mut Conn, table: &Table, random: &mut SmallRng) -> Result<()> {
    let columns: Vec<_> = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, (column_type, _))| format!("c{index} {column_type}"))
        .collect();
    let name = table.name;
    conn.query_drop(format!("CREATE TABLE {name} (n INT PRIMARY KEY, {})", columns.join(", "))).await?;
    if !table.setting.is_empty() {
        conn.query_drop(table.setting).await?;
    }
    let numbers: Vec<_> = (0..ROWS).collect();
    for numbers in numbers.chunks(ROWS_A_STATEMENT) {
        let row = |number: &usize| {
            let values: Vec<_> = table.columns.iter().map(|(_, kind)| literal(*kind, random)).collect();
            format!("({number}, {})", values.join(", "))
        };
        let rows: Vec<_> = numbers.iter().map(row).collect();
        let sql = format!("INSERT INTO {name} VALUES {}", rows.join(", "));
        conn.query_drop(&sql)
            .await
            .with_context(|| format!("{}…", sql.chars().take(3000).collect::<String>()))?;
    }
    Ok(())
}

/// What the server shows of a table.
async fn expected(conn: &mut Conn, table: &Table) -> Result<Vec<Vec<Option<String>>>> {
    let columns = table.columns.iter().enumerate();
    let questions: Vec<_> = columns.map(|(index, (_, kind))| question(&format!("c{index}"), *kind)).collect();
    let rows: Vec<Row> =
        conn.query(format!("SELECT {} FROM {} ORDER BY n", questions.join(", "), table.name)).await?;
    let text = |value: mysql_async::Value| match value {
        mysql_async::Value::NULL => Ok(None),
        mysql_async::Value::Bytes(bytes) => Ok(Some(String::from_utf8(bytes)?)),
        other => bail!("not text: {other:?}"),
    };
    rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
}

async fn definition(conn: &mut Conn, table: &str) -> Result<Vec<ColumnDefinition>> {
    let sql = format!(
        "SELECT COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME = '{table}' ORDER BY ORDINAL_POSITION"
    );
    let columns: Vec<(String, String, Option<String>)> = conn.query(sql).await?;
    let column = |(name, column_type, character_set)| ColumnDefinition { name, column_type, character_set };
    Ok(columns.into_iter().map(column).collect())
}

/// Compares one table; gives how many values were compared with `mysql_cdc`'s.
fn compare(
    table: &Table,
    shown_by_server: &[Vec<Option<String>>],
    ours: &[Vec<Value>],
    theirs: &[RowData],
    failures: usize,
) -> Result<usize> {
    let name = table.name;
    assert_eq!((ours.len(), shown_by_server.len()), (ROWS, ROWS), "{name}: rows");
    for (number, (ours, server)) in ours.iter().zip(shown_by_server).enumerate() {
        // The first column is the row's number.
        for ((value, server), (column_type, _)) in ours.iter().skip(1).zip(server).zip(&table.columns) {
            assert_eq!(shown(value), *server, "{name}, row {number}, {column_type}: the server's");
        }
    }
    if table.peer == Peer::Cannot {
        assert!(failures > 0 || theirs.len() < ROWS, "{name}: mysql_cdc can do it after all");
        return Ok(0);
    }
    assert_eq!((theirs.len(), failures), (ROWS, 0), "{name}: mysql_cdc's rows");
    let (mut compared, mut differ) = (0, 0);
    for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let pairs = ours.iter().skip(1).zip(theirs.cells.iter().skip(1)).zip(&table.columns);
        for ((value, theirs), (column_type, kind)) in pairs {
            let what = format!("{name}, row {number}, {column_type}");
            let (Some(ours), Some(theirs)) = (shown(value), theirs) else {
                assert_eq!(shown(value).is_none(), theirs.is_none(), "{what}: NULL");
                continue;
            };
            if table.peer == Peer::HandsThrough {
                let MySqlValue::Blob(bytes) = theirs else { continue };
                differ += usize::from(hex(bytes) != ours && *bytes != ours.as_bytes());
                continue;
            }
            let (ours, theirs) = normalised(*kind, &ours, theirs).with_context(|| what.clone())?;
            assert_eq!(ours, theirs, "{what}: mysql_cdc's");
            compared += 1;
        }
    }
    assert!(table.peer != Peer::HandsThrough || differ > 0, "{name}: mysql_cdc can do it after all");
    Ok(compared)
}

async fn decode_all(flavour: Flavour) -> Result<()> {
    let seed = match std::env::var("OUTBOX_DECODER_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random(),
    };
    println!("{flavour}: OUTBOX_DECODER_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let server = MySql::builder_of(flavour).relaxed_durability().start().await?;
    let mut conn = server.conn().await?;
    conn.query_drop(
        "CREATE DATABASE shop; USE shop; SET SESSION time_zone='+00:00', sql_mode='ALLOW_INVALID_DATES'",
    )
    .await?;
    let tables = tables(flavour);
    let mut definitions = BTreeMap::new();
    for table in &tables {
        fill(&mut conn, table, &mut random).await.with_context(|| table.name.to_owned())?;
        definitions.insert(table.name.to_owned(), definition(&mut conn, table.name).await?);
    }
    conn.query_drop("FLUSH BINARY LOGS").await?;

    let events = log_events(&server)?;
    let dialect = if flavour == Flavour::MySql { Dialect::MySql } else { Dialect::MariaDb };
    let mut ours = Ours { dialect, definitions, decoders: BTreeMap::new(), rows: Rows::new() };
    for event in &events {
        let header = EventHeader::parse(event).context("a header")?;
        let (event, _checksum) = event.split_last_chunk::<CHECKSUM_SIZE>().context("a checksum")?;
        let body = Bytes::copy_from_slice(event.get(HEADER_SIZE..).unwrap_or_default());
        ours.take(&RawEvent { header, body })?;
    }
    let (theirs, failures) = theirs(&events)?;
    let mut compared = 0;
    for table in &tables {
        let server = expected(&mut conn, table).await.with_context(|| table.name.to_owned())?;
        let rows = (ours.rows.get(table.name), theirs.get(table.name));
        let failures = failures.get(table.name).copied().unwrap_or_default();
        compared += compare(
            table,
            &server,
            rows.0.map(Vec::as_slice).unwrap_or_default(),
            rows.1.map(Vec::as_slice).unwrap_or_default(),
            failures,
        )?;
    }
    println!("{flavour}: {compared} values are the same as mysql_cdc's");
    assert!(compared > 15_000, "{compared}");
    conn.disconnect().await?;
    Ok(())
}

#[tokio::test]
async fn mysql_rows_are_what_the_server_and_mysql_cdc_say() -> Result<()> {
    decode_all(Flavour::MySql).await
}

#[tokio::test]
async fn mariadb_rows_are_what_the_server_and_mysql_cdc_say() -> Result<()> {
    decode_all(Flavour::MariaDb).await
}
