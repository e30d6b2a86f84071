//! Tests of the parsers: known statements, and that no bytes make them panic.

use ::bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::source::{EventHeader, gtid::Gtid};

fn query(schema: &'static str, text: &'static str) -> QueryEvent {
    QueryEvent { schema: Bytes::from_static(schema.as_bytes()), text: Bytes::from_static(text.as_bytes()) }
}

fn raw(event_type: u8, body: Vec<u8>) -> RawEvent {
    let header =
        EventHeader { timestamp: 7, event_type, server_id: 3, event_size: 0, end_offset: 0, flags: 0 };
    RawEvent { header, body: body.into() }
}

#[test]
fn statements_are_told_apart() {
    let xid = |gtrid: &[u8], bqual: &[u8], format| Xid { gtrid: gtrid.into(), bqual: bqual.into(), format };
    for (text, expected) in [
        ("BEGIN", Statement::Begin),
        ("begin", Statement::Begin),
        ("COMMIT", Statement::Commit),
        ("/* x */ ROLLBACK", Statement::Rollback),
        ("ROLLBACK TO `s`", Statement::Savepoint),
        ("SAVEPOINT `s`", Statement::Savepoint),
        ("XA START X'6162',X'',1", Statement::XaStart(xid(b"ab", b"", 1))),
        ("XA END X'6162',X'',1", Statement::XaEnd),
        ("XA COMMIT X'6162',X'63',7", Statement::XaCommit { xid: xid(b"ab", b"c", 7), one_phase: false }),
        (
            "XA COMMIT X'6162',X'',1 ONE PHASE",
            Statement::XaCommit { xid: xid(b"ab", b"", 1), one_phase: true },
        ),
        ("XA ROLLBACK 'ab'", Statement::XaRollback(xid(b"ab", b"", 1))),
        ("XA COMMIT X'61',X'',4294967297", Statement::XaCommit { xid: xid(b"a", b"", 1), one_phase: false }),
        ("XA COMMIT ?", Statement::Unreadable),
        ("insert into t values (1)", Statement::Dml),
        ("/*!50003 CREATE*/ TRIGGER x", Statement::Ddl),
        ("# comment\nALTER TABLE t ADD c INT", Statement::Ddl),
        ("-- comment\nDROP TABLE t", Statement::Ddl),
        ("FLUSH LOGS", Statement::Other),
        ("", Statement::Other),
    ] {
        assert_eq!(query("shop", text).statement(), expected, "{text}");
    }
}

#[test]
fn tables_are_named_or_not() {
    for (text, named) in [
        ("INSERT INTO outbox VALUES (1)", true),
        ("INSERT INTO `outbox` VALUES (1)", true),
        ("INSERT INTO shop.outbox VALUES (1)", true),
        ("INSERT INTO `shop`.`outbox` VALUES (1)", true),
        ("INSERT INTO shop . OUTBOX VALUES (1)", true),
        ("INSERT INTO \"outbox\" VALUES (1)", true),
        ("REPLACE/**/outbox SET a = 1", true),
        ("LOAD DATA INFILE '/x' INTO TABLE `outbox` FIELDS TERMINATED BY ','", true),
        ("INSERT INTO other.outbox VALUES (1)", false),
        ("INSERT INTO orders VALUES ('outbox')", false),
        ("INSERT INTO orders VALUES ('it''s \\' outbox')", false),
        ("INSERT INTO orders VALUES (1) /* outbox */", false),
        ("INSERT INTO outbox2 VALUES (1)", false),
        ("INSERT INTO /*!99999 outbox */ VALUES (1)", true),
    ] {
        assert_eq!(query("shop", text).names_table("shop", "outbox"), named, "{text}");
    }
    assert!(!query("other", "INSERT INTO outbox VALUES (1)").names_table("shop", "outbox"));
}

#[test]
fn a_tagged_gtid_event_is_read() {
    // Version 1, size, last required field; UUID 00…0f; number 5; tag "blue"; original commit time 1.
    let varint = |value: u64| u8::try_from(value << 1).unwrap();
    let mut body = vec![varint(1), varint(40), varint(3), varint(0), varint(1), varint(1)];
    body.extend((0..16).map(varint));
    body.extend([varint(2), varint(5 << 1), varint(3), varint(4)]);
    body.extend(b"blue");
    body.extend([varint(7), varint(1)]);
    let Event::Gtid(event) = Event::parse(&raw(code::GTID_TAGGED, body), Flavour::MySql).unwrap() else {
        panic!()
    };
    assert_eq!(event.gtid.unwrap().to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f:blue:5");
    assert_eq!(event.commit_time_micros, Some(1));
}

#[test]
fn a_mariadb_gtid_event_is_read() {
    let mut body = 270_u64.to_le_bytes().to_vec();
    body.extend(2_u32.to_le_bytes());
    body.push(1);
    body.extend([0; 6]);
    let Event::Gtid(event) = Event::parse(&raw(code::MARIADB_GTID, body), Flavour::MariaDb).unwrap() else {
        panic!()
    };
    assert_eq!(event.gtid, Some(Gtid::MariaDb { domain: 2, server_id: 3, sequence: 270 }));
    assert!(event.standalone);
}

fn inner(size: usize) -> Vec<u8> {
    let mut event = vec![0; HEADER];
    event[9..13].copy_from_slice(&u32::try_from(HEADER + size).unwrap().to_le_bytes());
    event.extend(vec![b'x'; size]);
    event
}

const HEADER: usize = crate::source::HEADER_SIZE;

fn payload(content: &[u8], uncompressed: usize) -> Bytes {
    let compressed = zstd::stream::encode_all(content, 3).unwrap();
    let mut body = vec![2, 1, 0, 3, 5, 253];
    body.extend(&u32::try_from(uncompressed).unwrap().to_le_bytes()[..3]);
    body.push(0);
    body[4] = 4;
    body.push(0);
    body.pop();
    body.extend(compressed);
    body.into()
}

#[test]
fn payloads_are_read_event_by_event() {
    let mut content = inner(10);
    content.extend(inner(3_000_000));
    content.extend(inner(0));
    let body = payload(&content, content.len());
    let mut reader = PayloadReader::new(TransactionPayload::parse(&body).unwrap(), 4_000_000).unwrap();
    let mut sizes = Vec::new();
    while let Some(event) = reader.next_event().unwrap() {
        sizes.push(event.body.len());
    }
    assert_eq!(sizes, [10, 3_000_000, 0]);
}

#[test]
fn damaged_payloads_are_errors() {
    let mut content = inner(10);
    content.extend(inner(100));
    let read = |body: Bytes| -> Result<usize, EventError> {
        let mut reader = PayloadReader::new(TransactionPayload::parse(&body)?, 1_000)?;
        let mut count = 0;
        while reader.next_event()?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    assert_eq!(read(payload(&content, content.len())), Ok(2));
    assert!(read(payload(&content[..50], content.len())).is_err(), "cut within an event");
    assert!(read(payload(&content[..29], content.len())).is_err(), "cut between events");
    let whole = payload(&content, content.len());
    for cut in 1..whole.len() {
        assert!(read(whole.slice(..cut)).is_err(), "cut at {cut}");
    }
    assert!(read(payload(&inner(2_000), HEADER + 2_000)).is_err(), "an event over the limit");
}

proptest! {
    #[test]
    fn no_bytes_panic(event_type: u8, body: Vec<u8>, mariadb: bool) {
        let flavour = if mariadb { Flavour::MariaDb } else { Flavour::MySql };
        if let Ok(Event::Query(query)) = Event::parse(&raw(event_type, body.clone()), flavour) {
            drop(query.statement());
            std::hint::black_box(query.names_table("shop", "outbox"));
        }
        drop(TransactionPayload::parse(&body.into()).and_then(|payload| PayloadReader::new(payload, 1_000)?.next_event()));
    }

    #[test]
    fn no_text_panics(text in ".*") {
        let query = QueryEvent { schema: Bytes::new(), text: text.into() };
        drop(query.statement());
        std::hint::black_box(query.names_table("shop", "outbox"));
    }
}

/// The events that real servers wrote, by name.
fn recorded(text: &str) -> Vec<(String, RawEvent)> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let events = lines.map(|line| {
        let mut fields = line.split(' ');
        let name = fields.next().unwrap().to_owned();
        let hex = fields.nth(1).unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(hex.get(at..at + 2).unwrap(), 16).unwrap())
            .collect();
        let header = EventHeader::parse(&bytes).unwrap();
        (name, RawEvent { header, body: bytes[HEADER..bytes.len() - 4].to_vec().into() })
    });
    events.collect()
}

const MYSQL: &str = include_str!("testdata/mysql-9.7.txt");
const MARIADB: &str = include_str!("testdata/mariadb-10.11.txt");

#[test]
fn recorded_events_are_read() {
    for (text, flavour) in [(MYSQL, Flavour::MySql), (MARIADB, Flavour::MariaDb)] {
        for (name, raw) in recorded(text) {
            let event = Event::parse(&raw, flavour).unwrap_or_else(|error| panic!("{name}: {error}"));
            match (&*name, event) {
                ("gtid_tagged", Event::Gtid(event)) => {
                    let gtid = event.gtid.unwrap().to_string();
                    assert!(gtid.ends_with(":orders:1"), "{gtid}");
                    assert!(event.commit_time_micros.is_some());
                }
                ("gtid_original_time_unknown", Event::Gtid(event)) => {
                    assert!(event.commit_time_micros > Some(0))
                }
                ("gtid_standalone_ddl", Event::Gtid(event)) => assert!(event.standalone),
                (name, Event::Gtid(event)) if name.starts_with("gtid") => {
                    assert!(event.gtid.is_some(), "{name}")
                }
                ("previous_gtids_tagged", Event::PreviousGtids(body)) => {
                    let set = crate::source::gtid::GtidSet::from_previous_gtids(&body).unwrap().to_string();
                    assert!(set.contains(":orders:1"), "{set}");
                }
                ("begin", Event::Query(query)) => assert_eq!(query.statement(), Statement::Begin),
                ("xa_commit", Event::Query(query)) => {
                    assert!(matches!(query.statement(), Statement::XaCommit { one_phase: false, .. }));
                }
                ("xa_commit_one_phase", Event::XaPrepare { one_phase, .. }) => assert!(one_phase),
                ("payload", Event::TransactionPayload(payload)) => {
                    let mut reader = PayloadReader::new(payload, 1 << 20).unwrap();
                    let mut last = None;
                    while let Some(inner) = reader.next_event().unwrap() {
                        last = Some(Event::parse(&inner, flavour).unwrap());
                    }
                    assert!(matches!(last, Some(Event::Xid)), "{last:?}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_prepare_and_its_commit_have_the_same_name() {
    let events = recorded(MYSQL);
    let find = |name: String| {
        let (_, raw) = events.iter().find(|(known, _)| *known == name).unwrap();
        Event::parse(raw, Flavour::MySql).unwrap()
    };
    for format in ["2147483648", "4294967297"] {
        let Event::XaPrepare { xid: prepared, .. } = find(format!("xa_prepare_format_{format}")) else {
            panic!()
        };
        let Event::Query(query) = find(format!("xa_commit_format_{format}")) else { panic!() };
        let Statement::XaCommit { xid: committed, .. } = query.statement() else { panic!() };
        assert_eq!(prepared, committed);
    }
}
