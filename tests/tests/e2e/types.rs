//! Columns of all types, texts of all character sets, JSON: what the bridge makes of a value is what its server shows.

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Order, Outbox, TABLE, World};
use outbox_event::header;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};
use testbed::Flavour;

const VALUES: &str = "VALUES";

/// A type, and literals of it.
type Case = (&'static str, &'static [&'static str]);

/// Types whose text is what `CAST(… AS CHAR)` shows.
const TEXTS: &[Case] = &[
    ("TINYINT", &["-128", "127", "0"]),
    ("TINYINT UNSIGNED", &["255", "128"]),
    ("BOOL", &["TRUE", "FALSE"]),
    ("SMALLINT", &["-32768", "32767"]),
    ("SMALLINT UNSIGNED", &["65535"]),
    ("MEDIUMINT", &["-8388608", "8388607", "-1"]),
    ("MEDIUMINT UNSIGNED", &["16777215"]),
    ("INT", &["-2147483648", "2147483647"]),
    ("INT UNSIGNED", &["4294967295"]),
    ("BIGINT", &["-9223372036854775808", "9223372036854775807", "-1"]),
    ("BIGINT UNSIGNED", &["18446744073709551615", "9223372036854775808"]),
    ("DECIMAL(10, 0)", &["-9999999999", "0", "7"]),
    ("DECIMAL(5, 5)", &["0.00001", "-0.99999", "0"]),
    (
        "DECIMAL(65, 30)",
        &[
            "99999999999999999999999999999999999.999999999999999999999999999999",
            "-0.000000000000000000000000000001",
            "100",
        ],
    ),
    ("DECIMAL(20, 2) UNSIGNED", &["123456789012345678.90"]),
    ("YEAR", &["1901", "2155", "0"]),
    ("DATE", &["'1000-01-01'", "'9999-12-31'", "'2024-02-29'"]),
    ("TIME", &["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:01'"]),
    ("TIME(1)", &["'-00:00:00.1'", "'12:34:56.7'"]),
    ("TIME(3)", &["'-12:34:56.789'", "'-00:00:00.001'"]),
    ("TIME(6)", &["'-838:59:58.999999'", "'838:59:58.000001'"]),
    ("DATETIME", &["'1000-01-01 00:00:00'", "'9999-12-31 23:59:59'"]),
    ("DATETIME(2)", &["'2024-02-29 12:34:56.78'"]),
    ("DATETIME(6)", &["'2024-02-29 12:34:56.000001'", "'2024-02-29 00:00:00'"]),
    ("TIMESTAMP", &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"]),
    ("TIMESTAMP(3)", &["'2024-06-30 23:59:59.999'"]),
    ("TIMESTAMP(6)", &["'2024-06-30 23:59:59.000010'"]),
    ("CHAR(10)", &["'short'", "''", "'日本語'"]),
    ("CHAR(255)", &["REPEAT('é', 255)"]),
    ("VARCHAR(20)", &["'  spaces  '", "'línea'", "'🦀'"]),
    ("VARCHAR(3000)", &["REPEAT('ü', 3000)"]),
    ("TINYTEXT", &["'tiny'"]),
    ("TEXT", &["'text'"]),
    ("MEDIUMTEXT", &["'medium'"]),
    ("LONGTEXT", &["'long'"]),
    ("ENUM('a', 'b,c', 'é', '日本')", &["'a'", "'b,c'", "'é'", "'日本'"]),
    ("ENUM('x', 'ÿ') CHARACTER SET latin1", &["'x'", "'ÿ'"]),
    ("SET('a', 'b', 'é')", &["'a'", "'a,é'", "''"]),
];

/// Types whose bytes go through, and texts that are too long for a header.
const BYTES: &[Case] = &[
    ("TEXT", &["REPEAT('x', 65535)"]),
    ("MEDIUMTEXT", &["REPEAT('ab', 100000)"]),
    ("BINARY(4)", &["X'00FF10'", "X'20202020'", "X''"]),
    ("VARBINARY(20)", &["X'00FF00'", "X''", "X'2020'"]),
    ("TINYBLOB", &["X'FF'"]),
    ("BLOB", &["X'00010203'", "REPEAT(X'FE', 60000)"]),
    ("MEDIUMBLOB", &["REPEAT(X'FE', 100000)"]),
    ("LONGBLOB", &["X'00'"]),
    ("BIT(1)", &["b'1'", "b'0'"]),
    ("BIT(12)", &["b'101010101010'"]),
    ("BIT(64)", &["b'1111111111111111111111111111111111111111111111111111111111111110'"]),
];

/// Only MariaDB has these.
const MARIADB_TEXTS: &[Case] = &[
    ("UUID", &["'123e4567-e89b-12d3-a456-426655440000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
    ("INET6", &["'2001:db8::ff00:42:8329'", "'::'", "'::ffff:1.2.3.4'"]),
    ("INET4", &["'192.168.0.1'"]),
];

/// One table a type, whose value is payload and, for texts, aggregate id as well.
async fn columns(flavour: Flavour, metadata: &str) -> Result<()> {
    let mut cases: Vec<(Case, bool)> = TEXTS.iter().map(|case| (*case, true)).collect();
    cases.extend(BYTES.iter().map(|case| (*case, false)));
    if flavour == Flavour::MariaDb {
        cases.extend(MARIADB_TEXTS.iter().map(|case| (*case, true)));
    }
    let table = |number: usize| format!("shop.t{number}");
    let mut world = World::of(flavour)
        .option(&format!("--binlog-row-metadata={metadata}"))
        .option("--default-time-zone=+05:30")
        .option("--character-set-server=utf8mb4");
    for (number, ((column, _), is_text)) in cases.iter().enumerate() {
        let layout = format!(
            "n INT AUTO_INCREMENT PRIMARY KEY, id BIGINT UNSIGNED, of VARCHAR(20), what VARCHAR(20), value {column} NULL"
        );
        let layout = layout.replace(" of ", " whom ");
        let outbox = Outbox::new(&table(number), VALUES, "values.{table}.{id}")
            .layout(&layout)
            .set("columns.aggregate_type", "whom")
            .set("columns.type", "what")
            .set("columns.aggregate_id", if *is_text { "value" } else { "what" })
            .set("columns.payload", "value");
        world = world.outbox(outbox);
    }
    let world = world.start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    // Timestamps are shown in UTC, and the literals are meant so.
    conn.query_drop("SET time_zone = '+00:00', sql_mode = 'NO_ENGINE_SUBSTITUTION'").await?;
    let mut expected: Vec<(String, Vec<u8>, bool)> = Vec::new();
    let mut id = u64::MAX - 10_000;
    for (number, ((column, literals), is_text)) in cases.iter().enumerate() {
        for literal in *literals {
            id += 1;
            let table = table(number);
            conn.query_drop(format!(
                "INSERT INTO {table} (id, whom, what, value) VALUES ({id}, 'w', 't', {literal})"
            ))
            .await
            .with_context(|| format!("{literal} as {column}"))?;
            let shown = if *is_text { "CAST(value AS CHAR CHARACTER SET utf8mb4)" } else { "value" };
            let sql = format!("SELECT CAST({shown} AS BINARY) FROM {table} WHERE id = {id}");
            let sql = if *is_text { sql } else { format!("SELECT value FROM {table} WHERE id = {id}") };
            let value: Option<Vec<u8>> = conn.query_first(sql).await?;
            expected.push((format!("{column} {literal}"), value.context("no row")?, *is_text));
        }
    }
    world.await_messages(&mut bridge, VALUES, expected.len() as u64).await?;
    let stored = world.stored(VALUES).await?;
    let mut wrong = Vec::new();
    for ((name, value, is_text), message) in expected.iter().zip(&stored) {
        if message.body != *value {
            let (found, wanted) = (String::from_utf8_lossy(&message.body), String::from_utf8_lossy(value));
            let short = |text: &str| text.chars().take(80).collect::<String>();
            wrong.push(format!("{name:.80}: {:?} instead of {:?}", short(&found), short(&wanted)));
        }
        let subject = header::encode_value(std::str::from_utf8(value).unwrap_or_default()).into_owned();
        if *is_text && message.header(header::CE_SUBJECT) != subject {
            wrong.push(format!("{name:.80}: aggregate id {:.80}", message.header(header::CE_SUBJECT)));
        }
    }
    ensure!(wrong.is_empty(), "{flavour}, {metadata}: {} wrong:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(
        stored.first().map(|message| message.header(header::CE_ID).to_owned())
            == Some((u64::MAX - 9_999).to_string())
    );
    tables_agree(&world, expected.len())?;
    bridge.stop().await
}

/// What is read from the tables, as `verify` and `backfill` do, is what the log gave.
fn tables_agree(world: &World, rows: usize) -> Result<()> {
    let (code, text) = Bridge::once(&world.settings(), &["verify"])?;
    ensure!(code == 0 && text.contains(&format!("{rows} rows have their message")), "{code}:\n{text}");
    Ok(())
}

#[tokio::test]
async fn columns_of_mysql() -> Result<()> {
    columns(Flavour::MySql, "FULL").await
}

#[tokio::test]
async fn columns_of_mysql_without_names() -> Result<()> {
    columns(Flavour::MySql, "MINIMAL").await
}

#[tokio::test]
async fn columns_of_mariadb() -> Result<()> {
    columns(Flavour::MariaDb, "FULL").await
}

#[tokio::test]
async fn columns_of_mariadb_without_names() -> Result<()> {
    columns(Flavour::MariaDb, "MINIMAL").await
}

/// JSON that MySQL makes itself, with types that JSON text cannot name.
const EXPRESSIONS: &[&str] = &[
    "CAST(1.0 AS JSON)",
    "JSON_OBJECT('d', CAST(1.5 AS DECIMAL(65, 30)), 'e', CAST(-0.00 AS DECIMAL(10, 2)))",
    "JSON_ARRAY(CAST('2024-02-29 12:34:56.000007' AS DATETIME(6)), CAST('2024-02-29' AS DATE))",
    "JSON_ARRAY(CAST('-12:34:56.5' AS TIME(1)), CAST('838:59:59' AS TIME), CAST('2024-02-29 12:34:56' AS DATETIME))",
    "JSON_ARRAY(CAST(2024 AS YEAR), TIMESTAMP'2024-02-29 12:34:56.123')",
    "JSON_OBJECT('blob', X'00FF10', 'bit', b'101', 'empty', X'')",
    "JSON_ARRAY(CAST('text' AS BINARY), REPEAT(X'AB', 300))",
    "JSON_ARRAY(CAST('é' AS CHAR CHARACTER SET latin1))",
    "JSON_ARRAY(ST_GeomFromText('POINT(1.5 -2)'), ST_GeomFromText('LINESTRING(0 0, 1 1e300)'))",
    "JSON_ARRAY(1e0, -0e0, 1e15, 1e16, 1e17, 123456789012345680e0, 0.1e0 + 0.2e0, 5e-324, 1.7976931348623157e308)",
    "JSON_ARRAY(1e-4, 1e-5, 1e-15, 1e-16, 1e-17, 1.5e-10, 123.456e0, 1e22, 1e23)",
    "JSON_ARRAY(18446744073709551615, -9223372036854775808, 9223372036854775808, 0, -1, 32768, 65536, 4294967296)",
    "JSON_ARRAY(99999999999999999999999999999999999, 0.1, -12345678901234567890.123456789)",
    "JSON_ARRAY(TRUE, FALSE, NULL)",
    "CAST('null' AS JSON)",
    "CAST('\"\"' AS JSON)",
    "CAST('[]' AS JSON)",
    "CAST('{}' AS JSON)",
    "JSON_QUOTE('a')",
    "JSON_OBJECT('', 1, ' ', 2, 'é', 3, '日本', 4, '\\\"', 5, '\\\\', 6, '/', 7)",
    "JSON_ARRAY('\\\"', '\\\\', '/', '\\b\\n\\r\\t\\Z', CHAR(0 USING utf8mb4), CHAR(1, 12, 31, 127 USING utf8mb4), '</script>')",
    "JSON_ARRAY('é', '日本', '🦀', CONVERT(X'E280A8' USING utf8mb4), CONVERT(X'EFBFBF' USING utf8mb4))",
    "JSON_SET('{\"a\": 1}', '$.a', 2)",
];

/// The key of the texts that are changed in place: longer than the short keys of [`random_text`], shorter than its long
/// ones, so that no other document has it.
const CHANGED: &str = "changed_in_place";

/// JSON as an application might write it, at the edges of the format: lengths, depths, widths of integers.
fn documents(random: &mut SmallRng) -> Vec<Value> {
    let mut documents = vec![
        json!({"b": 1, "a": 2, "aa": 3, "": 4, "B": 5}),
        json!([[[]], {}, [{}], {"a": []}]),
        (0..90).fold(
            json!("deep"),
            |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"k": inner}) },
        ),
        Value::Object((0..5_000).map(|n| (format!("key-{n}"), json!(n))).collect()),
        Value::Array((0..40_000).map(|n| json!(n * 7)).collect()),
        json!(["x".repeat(65_530), "y".repeat(70_000), {"z": "é".repeat(40_000)}]),
        json!({"k".repeat(65_535): 1}),
    ];
    for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 65_535, 65_536] {
        documents.push(json!({CHANGED: "s".repeat(length)}));
    }
    // Documents about 64 KiB, where the format changes to wide offsets.
    documents.extend((65_500..65_560).step_by(4).map(|length| json!(["s".repeat(length), 1, "t"])));
    documents.extend((0..800).map(|_| random_json(random, 0)));
    documents
}

fn random_json(random: &mut SmallRng, depth: usize) -> Value {
    let kinds = if depth > 5 { 7 } else { 10 };
    match random.random_range(0..kinds) {
        0 => Value::Null,
        1 => random.random::<bool>().into(),
        2 => (random.random::<i64>() >> random.random_range(0..64)).into(),
        3 => (random.random::<u64>() >> random.random_range(0..64)).into(),
        4 => finite(f64::from_bits(random.random())).into(),
        5 => finite((random.random_range(-1e6..1e6_f64) * 1e3).round() / 1e3).into(),
        6 => random_text(random).into(),
        7 => (0..random.random_range(0..8)).map(|_| random_json(random, depth + 1)).collect(),
        _ => {
            let entries =
                (0..random.random_range(0..8)).map(|_| (random_text(random), random_json(random, depth + 1)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

fn finite(number: f64) -> f64 {
    if number.is_finite() { number } else { 0.5 }
}

fn random_text(random: &mut SmallRng) -> String {
    let length = if random.random_bool(0.02) { 400 } else { random.random_range(0..12) };
    let ranges = [0x20..0x7F, 0..0x20, 0xA0..0x250, 0x4E00..0x4F00, 0x1_F600..0x1_F640, 0x2020..0x2070];
    let character = |random: &mut SmallRng| {
        let kind = if random.random_bool(0.6) { 0 } else { random.random_range(0..ranges.len()) };
        let range = ranges.get(kind).cloned().unwrap_or(0x20..0x7F);
        char::from_u32(random.random_range(range)).unwrap_or('?')
    };
    (0..length).map(|_| character(random)).collect()
}

#[tokio::test]
async fn json_of_mysql() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&world.settings()).await?;
    let seed = rand::random();
    println!("seed {seed}");
    let mut conn = world.conn().await?;
    for (number, expression) in (0..).zip(EXPRESSIONS) {
        let row = Event::new(number).values().replace(&format!("'{{\"n\": {number}}}'"), expression);
        let sql = format!(
            "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, type, payload, headers) VALUES {row}"
        );
        conn.query_drop(&sql).await.with_context(|| sql.clone())?;
    }
    let documents = documents(&mut SmallRng::seed_from_u64(seed));
    conn.query_drop("BEGIN").await?;
    for document in &documents {
        Event::new(0).payload(document.to_string()).insert(&mut conn, TABLE).await?;
    }
    conn.query_drop("COMMIT").await?;
    // Documents that were changed in place, and are copied into new rows.
    conn.query_drop(format!(
        "UPDATE {TABLE} SET payload = JSON_SET(payload, '$.{CHANGED}', 'short') WHERE JSON_CONTAINS_PATH(payload, 'one', '$.{CHANGED}'); \
         INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, type, payload) \
         SELECT UNHEX(LEFT(SHA2(seq, 256), 32)), 'order', 'copy', 'placed', payload FROM {TABLE} \
         WHERE JSON_CONTAINS_PATH(payload, 'one', '$.{CHANGED}')"
    ))
    .await?;
    // What was updated is published as it was.
    let changed: Vec<(u64,)> = conn
        .query(format!(
            "SELECT seq FROM {TABLE} WHERE aggregate_id <> 'copy' AND JSON_CONTAINS_PATH(payload, 'one', '$.{CHANGED}')"
        ))
        .await?;
    world.settle(&mut bridge).await?;
    let mut rows = outbox_bridge_tests::Expected::rows(&world.database, TABLE, "seq").await?;
    let stored = world.stored(outbox_bridge_tests::STREAM).await?;
    for (seq,) in changed {
        let index = usize::try_from(seq)? - 1;
        if let (Some(row), Some(message)) = (rows.get_mut(index), stored.get(index)) {
            ensure!(message.text().starts_with(&format!("{{\"{CHANGED}\": \"")), "{}", message.text());
            row.body = message.body.to_vec();
        }
    }
    world.verify_rows(&bridge, &rows, Order::Total).await?;
    bridge.stop().await
}

/// Characters of the Basic Multilingual Plane and some beyond, in rows of so many.
const CHARACTERS_PER_ROW: usize = 4_096;

/// Every character set of the server: the texts that it can hold of all characters, compared with the server's own
/// conversion.
async fn character_sets(flavour: Flavour) -> Result<()> {
    let probe = World::of(flavour).outbox(Outbox::standard()).start().await?;
    let sets: Vec<String> = probe
        .database
        .query("SELECT character_set_name FROM information_schema.character_sets WHERE character_set_name <> 'binary'")
        .await?;
    drop(probe);
    ensure!(sets.len() > 30, "{sets:?}");
    let mut world = World::of(flavour);
    for set in &sets {
        let layout = "id INT PRIMARY KEY, aggregate_type VARCHAR(20), aggregate_id VARCHAR(20), type VARCHAR(20), payload TEXT CHARACTER SET ";
        let outbox =
            Outbox::new(&format!("shop.{set}"), VALUES, "values.{table}").layout(&format!("{layout}{set}"));
        world = world.outbox(outbox);
    }
    let world = world.start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    // What a set does not have becomes a question mark.
    conn.query_drop("SET NAMES utf8mb4; SET sql_mode = ''").await?;
    // Without the replacement character itself, which tables of some sets have where they have nothing.
    let characters: Vec<char> =
        (1..0xFFFD).chain(0x1_F600..0x1_F650).chain(0x2_0000..0x2_0100).filter_map(char::from_u32).collect();
    let texts: Vec<String> =
        characters.chunks(CHARACTERS_PER_ROW).map(|chunk| chunk.iter().collect()).collect();
    // Ids are unique in a stream: it would drop a second one.
    let mut id = 0;
    for set in &sets {
        for text in &texts {
            id += 1;
            let sql = format!(
                "INSERT INTO shop.{set} VALUES (?, 'a', 'b', 'c', CONVERT(CONVERT(? USING utf8mb4) USING {set}))"
            );
            conn.exec_drop(sql, (id, text.as_bytes())).await.with_context(|| format!("{set} {id}"))?;
        }
    }
    world.await_messages(&mut bridge, VALUES, (sets.len() * texts.len()) as u64).await?;
    let mut wrong = Vec::new();
    for message in world.stored(VALUES).await? {
        let set = message.subject.strip_prefix("values.").context("another subject")?;
        let id = message.header(header::CE_ID).to_owned();
        let sql =
            format!("SELECT CAST(CONVERT(payload USING utf8mb4) AS BINARY) FROM shop.{set} WHERE id = {id}");
        let row: Option<Vec<u8>> = conn.query_first(sql).await?;
        let row = String::from_utf8(row.context("no row")?)?;
        let text = message.text();
        let pairs = row.chars().zip(text.chars());
        let other: Vec<_> = pairs.filter(|(wanted, found)| wanted != found).take(3).collect();
        if row != text {
            wrong.push(format!(
                "{set} {id}: {} {} characters, {other:?}",
                row.chars().count(),
                text.chars().count()
            ));
        }
    }
    ensure!(wrong.is_empty(), "{flavour}: {} wrong:\n{}", wrong.len(), wrong.join("\n"));
    tables_agree(&world, sets.len() * texts.len())?;
    bridge.stop().await
}

#[tokio::test]
async fn character_sets_of_mysql() -> Result<()> {
    character_sets(Flavour::MySql).await
}

#[tokio::test]
async fn character_sets_of_mariadb() -> Result<()> {
    character_sets(Flavour::MariaDb).await
}
