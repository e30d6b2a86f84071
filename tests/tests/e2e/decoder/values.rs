//! Random values of every kind, as SQL text.

use super::*;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A value as SQL text.
pub(crate) fn literal(kind: Kind, random: &mut SmallRng) -> String {
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
pub(crate) fn json(random: &mut SmallRng, depth: u32) -> String {
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
