//! Events recorded from real servers, and what must be an error.

use std::collections::HashMap;

use super::*;
use crate::decode::event_type::{DELETE_ROWS, TABLE_MAP, WRITE_ROWS, WRITE_ROWS_COMPRESSED_V1};
use crate::decode::{ColumnDefinition, resolve_columns};

pub(crate) fn bytes(hex: &str) -> Bytes {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).expect("a hexadecimal digit");
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::try_from(digit(&pair[0]) * 16 + digit(&pair[1])).expect("a byte"))
        .collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::Absent => "ABSENT".to_owned(),
        Value::Null => "NULL".to_owned(),
        Value::Text(text) => format!("{text:?}"),
        Value::Json(text) => format!("json {text:?}"),
        Value::Bytes(bytes) => {
            format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
        }
    }
}

fn definition(name: &str, column_type: &str) -> ColumnDefinition {
    ColumnDefinition { name: name.to_owned(), column_type: column_type.to_owned(), character_set: None }
}

/// Decodes a recording and compares each row with the line that follows its event.
fn replay(recording: &str) -> usize {
    let definitions = [definition("u", "uuid"), definition("i6", "inet6"), definition("i4", "inet4")];
    let mut decoders = HashMap::new();
    let mut rows = Vec::new().into_iter();
    let mut count = 0;
    for line in recording.lines().filter(|line| !line.starts_with('#')) {
        if let Some(expected) = line.strip_prefix("= ") {
            let row: Vec<Value> = rows.next().expect("a row for each line");
            assert_eq!(row.iter().map(show).collect::<Vec<_>>().join(" | "), expected);
            count += 1;
            continue;
        }
        assert_eq!(rows.next(), None, "a line for each row");
        let (event_type, body) = line.split_once(' ').expect("a type code and a body");
        let (event_type, body) = (event_type.parse().expect("a type code"), bytes(body));
        if event_type == TABLE_MAP {
            let map = TableMap::parse(&body).expect("a table map");
            let columns = resolve_columns(&map, Some(&definitions)).expect("columns");
            let wanted: Vec<_> = (0..columns.len()).collect();
            let decoder = RowDecoder::new(&map, columns, &wanted, DecodeLimits::default());
            decoders.insert(map.table_id, decoder.expect("a decoder"));
        } else {
            let event = RowsEvent::parse(event_type, &body, DecodeLimits::default()).expect("a rows event");
            assert!(event.head().statement_end);
            let decoder = decoders.get_mut(&event.head().table_id).expect("the table map came before");
            rows = decoder
                .rows(&event)
                .expect("rows")
                .collect::<Result<Vec<_>, _>>()
                .expect("values")
                .into_iter();
        }
    }
    count
}

#[test]
fn mysql_events_decode_to_what_the_server_shows() {
    assert_eq!(replay(include_str!("../testdata/mysql-9.7.txt")), 14);
}

#[test]
fn mariadb_events_decode_to_what_the_server_shows() {
    assert_eq!(replay(include_str!("../testdata/mariadb-10.11.txt")), 22);
}

/// `CREATE TABLE small (id BINARY(16) PRIMARY KEY, t INT)`, recorded from MySQL 9.7.
const MAP: &str = "8500000000000100016400056e6f6b65790002fe0302fe100201010002013f040502696401740801000c01c0";
const INSERT: &str = "8500000000001100020002ff00010101000000";

fn decoder(wanted: &[usize]) -> Result<RowDecoder, DecodeError> {
    let map = TableMap::parse(&bytes(MAP))?;
    RowDecoder::new(&map, resolve_columns(&map, None)?, wanted, DecodeLimits::default())
}

fn decode(wanted: &[usize], event_type: u8, body: &Bytes) -> Result<Vec<Vec<Value>>, DecodeError> {
    let event = RowsEvent::parse(event_type, body, DecodeLimits::default())?;
    decoder(wanted)?.rows(&event)?.collect()
}

#[test]
fn only_wanted_columns_are_decoded_in_the_order_asked_for() {
    let row = |wanted: &[usize]| decode(wanted, WRITE_ROWS, &bytes(INSERT)).expect("a row").remove(0);
    assert_eq!(row(&[1]), [Value::Text("1".into())]);
    assert_eq!(
        row(&[1, 0]).iter().map(show).collect::<Vec<_>>(),
        ["\"1\"", "x'01000000000000000000000000000000'"]
    );
    assert_eq!(row(&[]), []);
}

#[test]
fn impossible_projections_are_errors() {
    for (wanted, message) in [
        (&[2][..], "table `d.nokey`: a column beyond the last is wanted"),
        (&[1, 1], "column `t` of table `d.nokey`: the column is wanted twice"),
    ] {
        let error = decoder(wanted).expect_err(message);
        assert_eq!((error.kind(), error.to_string().as_str()), (DecodeErrorKind::Projection, message));
    }
}

#[test]
fn every_event_cut_short_is_an_error() {
    let map = bytes(MAP);
    for length in 0..map.len() {
        // The optional metadata may end behind any of its fields.
        if !matches!(length, 25 | 28 | 31 | 38 | 41) {
            assert!(TableMap::parse(&map[..length]).is_err(), "{length}");
        }
    }
    let insert = bytes(INSERT);
    for length in 0..insert.len() {
        assert!(decode(&[0, 1], WRITE_ROWS, &insert.slice(..length)).is_err(), "{length}");
    }
}

#[test]
fn what_cannot_be_decoded_says_where() {
    let cases = [
        (DELETE_ROWS, INSERT, "table `d.nokey`: deleted rows are not decoded"),
        // Three columns instead of two.
        (
            WRITE_ROWS,
            "8500000000001100020003ff00010101000000",
            "table `d.nokey`: the rows have another number of columns than the table map",
        ),
        // No column present.
        (WRITE_ROWS, "850000000000110002000200ff", "table `d.nokey`: a row has no columns"),
        (
            WRITE_ROWS,
            "8500000000001100020002ff000101010000",
            "column `t` of table `d.nokey`: the event ends in the middle of a field",
        ),
        (39, INSERT, "partial updates are not supported: set binlog_row_value_options='' on the server"),
        (2, INSERT, "the event is not a rows event"),
    ];
    for (event_type, body, message) in cases {
        assert_eq!(decode(&[0, 1], event_type, &bytes(body)).expect_err(message).to_string(), message);
    }
}

#[test]
fn a_compressed_event_may_not_expand_beyond_the_limit() {
    let recording = include_str!("../testdata/mariadb-10.11.txt");
    let body = recording.lines().find_map(|line| line.strip_prefix("166 ")).expect("a compressed event");
    let limits = DecodeLimits { expanded_bytes_max: 10, ..DecodeLimits::default() };
    let error = RowsEvent::parse(WRITE_ROWS_COMPRESSED_V1, &bytes(body), limits).expect_err("too long");
    assert_eq!(error.kind(), DecodeErrorKind::LimitExceeded);
}

#[test]
fn values_are_slices_of_the_event() {
    let body = bytes("8500000000001100020002ff0010000102030405060708090a0b0c0d0e0f01000000");
    let event = RowsEvent::parse(WRITE_ROWS, &body, DecodeLimits::default()).expect("a rows event");
    let mut decoder = decoder(&[0]).expect("a decoder");
    let row = decoder.rows(&event).expect("rows").next().expect("a row").expect("values");
    let [Value::Bytes(id)] = &row[..] else { panic!("bytes expected, got {row:?}") };
    assert!(body.as_ptr_range().contains(&id.as_ptr()));
}
