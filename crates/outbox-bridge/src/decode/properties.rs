//! Whatever the bytes are, decoding ends in values or in an error.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::column::Rendering;
use super::reader::Reader;
use super::value::Renderer;
use super::*;
use charset::Charset;

fn any_bytes(length_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..length_max)
}

fn recorded() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let events: Vec<_> = [include_str!("testdata/mysql-9.7.txt"), include_str!("testdata/mariadb-10.11.txt")]
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(event_type, body)| Some((event_type.parse().ok()?, rows::tests::bytes(body).to_vec())))
        .collect();
    prop::sample::select(events)
}

fn rendering() -> impl Strategy<Value = Rendering> {
    prop_oneof![
        Just(Rendering::Plain),
        (any::<bool>(), any::<u8>())
            .prop_map(|(unsigned, zerofill)| Rendering::Integer { unsigned, zerofill }),
        prop::option::of(0..31_u8).prop_map(|decimals| Rendering::Real { decimals }),
        Just(Rendering::Binary),
        prop::sample::select(Charset::ALL).prop_map(Rendering::Text),
        Just(Rendering::Members(vec!["a".into(), "b".into()])),
        Just(Rendering::Uuid),
        Just(Rendering::Inet4),
        Just(Rendering::Inet6),
        Just(Rendering::Unknown("anything")),
    ]
}

/// Decodes all rows of an event, whatever becomes of it.
fn decode_all(map: &TableMap, event_type: u8, body: &Bytes) -> Option<usize> {
    let limits = DecodeLimits { expanded_bytes_max: 1 << 16, json_bytes_max: 1 << 16 };
    let columns = resolve_columns(map, None).ok()?;
    let wanted: Vec<_> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.column_type().is_complete())
        .map(|(index, _)| index)
        .collect();
    let event = RowsEvent::parse(event_type, body, limits).ok()?;
    let mut decoder = RowDecoder::new(map, columns, &wanted, limits).ok()?;
    Some(decoder.rows(&event).ok()?.filter(Result::is_ok).count())
}

proptest! {
    #[test]
    fn any_bytes_as_a_table_map(body in any_bytes(200)) {
        let head = TableMapHead::parse(&body).map(|head| head.table_id);
        let map = TableMap::parse(&body).map(|map| map.table_id);
        prop_assert!(map.is_err() || head.ok() == map.ok());
    }

    #[test]
    fn a_damaged_table_map_and_damaged_rows(
        (map_type, mut map) in recorded(),
        (rows_type, mut rows) in recorded(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        in_map in any::<bool>(),
    ) {
        let damaged = if in_map { &mut map } else { &mut rows };
        for (index, byte) in damage {
            let length = damaged.len();
            damaged[index.index(length)] = byte;
        }
        if map_type == event_type::TABLE_MAP && let Ok(map) = TableMap::parse(&map) {
            decode_all(&map, rows_type, &Bytes::from(rows));
        }
    }

    #[test]
    fn any_bytes_as_rows(
        (map_type, map) in recorded(),
        event_type in prop::sample::select(vec![23_u8, 24, 25, 30, 31, 32, 166, 167, 168, 169, 170, 171]),
        tail in any_bytes(200),
    ) {
        if map_type == event_type::TABLE_MAP {
            let map = TableMap::parse(&map).expect("a recorded table map");
            let mut body = vec![0; 8];
            if (30..=32).contains(&event_type) || event_type >= 169 {
                body.extend([2, 0]);
            }
            body.push(u8::try_from(map.columns.len()).expect("few columns"));
            body.extend(tail);
            decode_all(&map, event_type, &Bytes::from(body));
        }
    }

    #[test]
    fn any_bytes_as_a_value(
        type_code in any::<u8>(),
        metadata in any_bytes(4),
        rendering in rendering(),
        row in any_bytes(64),
    ) {
        if let Ok(layout) = Layout::read(type_code, &mut Reader::new(&metadata)) {
            let row = Bytes::from(row);
            if let Ok(content) = layout.length().take(&mut Reader::new(&row)) {
                let limits = DecodeLimits { expanded_bytes_max: 1 << 16, json_bytes_max: 1 << 16 };
                let value = Renderer::new(limits).render(&ColumnType { layout, rendering }, content, &row);
                if let Ok(Value::Text(text) | Value::Json(text)) = value {
                    prop_assert!(std::str::from_utf8(text.as_bytes()).is_ok());
                }
            }
        }
    }

    #[test]
    fn any_bytes_as_json(kind in 0..16_u8, document in any_bytes(300)) {
        let mut document = document;
        document.insert(0, kind);
        let mut out = BytesMut::new();
        if json::write(&document, usize::MAX, &mut out).is_ok() {
            prop_assert!(out.len() <= document.len() * 8 + 256);
        }
    }

    #[test]
    fn any_text_as_a_definition(column_type in "\\PC{0,40}|(enum|set|int|char|decimal)\\(['a,0-9)\\\\]{0,12}") {
        let definition = ColumnDefinition { name: "c".into(), column_type, character_set: None };
        if let Ok(defined) = definition.parse() {
            defined.matches(Layout::Year);
        }
    }
}
