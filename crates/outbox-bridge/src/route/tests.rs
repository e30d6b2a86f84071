use super::*;
use crate::{config::Config, decode::Text};

const ID: [u8; 16] = [0x01, 0x8c, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0x2a];
const UUID: &str = "018c0000-0000-7000-8000-00000000002a";

fn route(more: &str) -> Route {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.toml");
    let text = format!(
        "[source]\nurl = \"mysql://bridge@db\"\n[nats]\nurl = \"nats://n\"\n[[outbox]]\ntable = \"shop.outbox\"\n\
         stream = \"ORDERS\"\nsubject = \"orders.{{aggregate_type}}.{{type}}\"\n{more}"
    );
    std::fs::write(&path, text).unwrap();
    let mut config = Config::load_with(&path, [("", ""); 0]).unwrap();
    Route::new(config.outboxes.remove(0), 3, "server")
}

fn text(text: &'static str) -> Value {
    Value::Text(Text::from(text))
}

fn bytes(bytes: &'static [u8]) -> Value {
    Value::Bytes(Bytes::from_static(bytes))
}

/// A row by the names of its columns; a name that is given again replaces the value.
fn message(route: &Route, changes: &[(&'static str, Value)]) -> Result<Message, RouteError> {
    let mut row = vec![
        ("seq", text("1")),
        ("id", Value::Bytes(Bytes::copy_from_slice(&ID))),
        ("aggregate_type", text("order")),
        ("aggregate_id", text("42")),
        ("type", text("placed")),
        ("payload", Value::Json(Text::from(r#"{"n": 1}"#))),
        ("headers", Value::Null),
    ];
    for (name, value) in changes {
        match row.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.clone(),
            None => row.push((name, value.clone())),
        }
    }
    let mapping = route.map(row.iter().map(|(name, _)| *name))?;
    let values: Vec<Value> = mapping.projection.iter().map(|index| row[*index].1.clone()).collect();
    let transaction = Arc::new(TransactionId {
        gtid: "0-1-7".into(),
        file: "binlog.000001".into(),
        file_number: 1,
        offset: 99,
        committed_micros: 1_700_000_000_000_007,
    });
    let mut message = route.message(&mapping, &values, &transaction)?;
    finish(&mut message, &transaction, 5);
    Ok(message)
}

fn header<'m>(message: &'m Message, name: &str) -> &'m str {
    let mut found = message.headers.iter().filter(|(known, _)| known == name);
    let value = found.next().map_or("", |(_, value)| &**value);
    assert!(found.next().is_none(), "{name} stands there twice");
    value
}

#[test]
fn a_row_becomes_a_cloud_event() {
    let message = message(&route(""), &[]).unwrap();
    assert_eq!((&*message.id, &*message.subject), (UUID, "orders.order.placed"));
    assert_eq!(&*message.body, br#"{"n": 1}"#);
    assert_eq!(message.position().to_string(), "0-1-7@binlog.000001:99/5");
    assert_eq!(message.position_text(), message.position().to_string());
    for (name, value) in [
        (header::CE_SPECVERSION, "1.0"),
        (header::CE_SOURCE, "//server/shop.outbox"),
        (header::CE_TYPE, "placed"),
        (header::CE_SUBJECT, "42"),
        (header::CE_PARTITION_KEY, "42"),
        (header::CE_TIME, "2023-11-14T22:13:20.000007Z"),
        (header::CONTENT_TYPE, "application/json"),
    ] {
        assert_eq!(self::header(&message, name), value, "{name}");
    }
    assert_eq!(message.headers.len(), 7, "{:?}", message.headers);
}

#[test]
fn ids_of_all_kinds() {
    for (value, id) in [
        (bytes(&ID), UUID),
        (bytes(b"\x00\xff\x10"), "00ff10"),
        (text("42"), "42"),
        (text("Ä \r\n%"), "%C3%84%20%0D%0A%25"),
    ] {
        assert_eq!(message(&route(""), &[("id", value.clone())]).unwrap().id, id, "{value:?}");
    }
    for value in [Value::Null, Value::Absent, text("")] {
        let error = message(&route(""), &[("id", value.clone())]).expect_err("no id");
        assert!(matches!(error, RouteError::Missing { role: "id", .. }), "{value:?}: {error}");
    }
}

#[test]
fn bodies_of_all_kinds() {
    for (value, body) in [
        (bytes(b"\x00\xff"), &b"\x00\xff"[..]),
        (text("text"), b"text"),
        (Value::Json(Text::from("[1]")), b"[1]"),
        (Value::Null, b""),
    ] {
        assert_eq!(&*message(&route(""), &[("payload", value.clone())]).unwrap().body, body, "{value:?}");
    }
    let error = message(&route(""), &[("payload", Value::Absent)]).expect_err("no payload");
    assert!(error.to_string().contains("binlog_row_image=FULL"), "{error}");
}

#[test]
fn what_must_be_text_is_never_guessed() {
    for column in ["aggregate_type", "aggregate_id", "type"] {
        for (value, words) in
            [(Value::Null, "NULL"), (Value::Absent, "no value"), (bytes(b"\xff\xfe"), "no text")]
        {
            let error = message(&route(""), &[(column, value)]).expect_err("it is needed").to_string();
            assert!(
                error.contains(words) && error.contains(column) && error.contains("shop.outbox"),
                "{error}"
            );
        }
    }
    let row = [("aggregate_id", bytes(b"order 7"))];
    assert_eq!(header(&message(&route(""), &row).unwrap(), header::CE_SUBJECT), "order%207");
}

#[test]
fn no_value_can_add_a_level_or_a_header() {
    let row = [("type", text("a.b > *\r\nNats-Rollup: all")), ("aggregate_type", text(""))];
    let message = message(&route(""), &row).unwrap();
    assert_eq!(message.subject.split('.').count(), 3, "{}", message.subject);
    assert!(message.subject.chars().all(|character| !" >*\r\n".contains(character)), "{}", message.subject);
    for (name, value) in &message.headers {
        assert!(!name.contains(['\r', '\n']) && !value.contains(['\r', '\n']), "{name}: {value}");
    }
}

#[test]
fn optional_columns() {
    let more = "[outbox.columns]\ncontent_type = \"media\"\npartition_key = \"tenant\"";
    let none = [("media", Value::Null), ("tenant", Value::Null)];
    let message_of = |row: &[(&'static str, Value)]| message(&route(more), row).unwrap();
    let plain = message_of(&none);
    assert_eq!(header(&plain, header::CONTENT_TYPE), "application/json");
    assert_eq!(header(&plain, header::CE_PARTITION_KEY), "42");
    let set = message_of(&[("media", text("text/plain; charset=utf-8")), ("tenant", text("t 1"))]);
    assert_eq!(header(&set, header::CONTENT_TYPE), "text/plain; charset=utf-8");
    assert_eq!(header(&set, header::CE_PARTITION_KEY), "t%201");
    let error = message(&route(more), &[]).expect_err("the columns are configured");
    assert!(error.to_string().contains("media"), "{error}");
}

#[test]
fn headers_of_the_row() {
    let headers = |json: &'static str| message(&route(""), &[("headers", Value::Json(Text::from(json)))]);
    let message =
        headers(r#"{"traceparent": "00-1", "Nats-Msg-Id": "x", "ce-type": "y", "n": 7, "none": null}"#);
    let message = message.unwrap();
    assert_eq!(header(&message, "traceparent"), "00-1");
    assert_eq!(header(&message, "n"), "7");
    assert_eq!(header(&message, "Outbox-App-Nats-Msg-Id"), "x");
    assert_eq!(header(&message, "Outbox-App-ce-type"), "y");
    assert_eq!(header(&message, header::CE_TYPE), "placed");
    assert!(message.headers.iter().all(|(name, _)| name != "none"));
    let error = headers(r#"["secret"]"#).expect_err("no object");
    assert!(!crate::exit::report(&error).contains("secret"), "a row's contents stay out of errors");
}

#[test]
fn tables_laid_out_for_another_router() {
    let more = "[outbox.columns]\nid = \"ID\"\naggregate_type = \"aggregatetype\"\naggregate_id = \"aggregateid\"\nheaders = \"\"";
    let route = route(more);
    let mapping = route.map(["id", "aggregatetype", "aggregateid", "type", "payload", "headers"].into_iter());
    assert_eq!(
        mapping.unwrap().projection,
        [0, 1, 2, 3, 4],
        "names match in any case; headers are not wanted"
    );
    let error =
        route.map(["id", "aggregatetype", "type", "payload"].into_iter()).expect_err("one is missing");
    assert!(error.to_string().contains("aggregateid"), "{error}");
}

#[test]
fn only_its_own_table() {
    let route = route("");
    assert!(route.matches(b"shop", b"outbox"));
    assert!(!route.matches(b"shop", b"outbox2") && !route.matches(b"other", b"outbox"));
}
