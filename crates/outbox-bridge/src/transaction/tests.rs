//! Sequences of events, and what comes out of them.

mod events;
mod points;
mod property;

use std::collections::HashMap;

use super::*;
use crate::source::event::PayloadReader;
use events::{Log, Logged, UUID, file_name, outbox_rows, xid};

const UNLIMITED: usize = usize::MAX / 2;

fn point(file: u64, offset: u64, at: At) -> LogPoint {
    LogPoint {
        server: "server".into(),
        file: file_name(file),
        offset,
        at,
        executed: None,
        prepared: Vec::new(),
        definitions: Default::default(),
    }
}

fn gtid(sequence: u64) -> String {
    format!("{UUID}:{sequence}")
}

fn transaction(sequence: u64) -> Transaction {
    Transaction { gtid: gtid(sequence), committed_micros: sequence * 1_000_000 }
}

/// An assembler that begins at `point`, and what it has let out.
struct Fed {
    assembler: Assembler,
    out: Vec<(usize, Message)>,
    steps: Vec<Step>,
}

impl Fed {
    fn at(point: &LogPoint, flavour: Flavour, buffer_bytes_max: usize) -> Self {
        let executed = point.executed.as_ref().map(|text| GtidSet::parse(text, flavour).expect("a set"));
        let assembler = Assembler::new(point, executed, flavour, outbox_rows(flavour), buffer_bytes_max);
        Self { assembler, out: Vec::new(), steps: Vec::new() }
    }

    /// Begins at the start of the first file.
    fn new(flavour: Flavour) -> Self {
        Self::at(&point(1, 4, At::Boundary), flavour, UNLIMITED)
    }

    fn mysql() -> Self {
        Self::new(Flavour::MySql)
    }

    /// Feeds events and those in compressed ones; keeps every other step than `Continue`.
    fn feed(&mut self, events: &[Logged]) -> Result<&mut Self, TransactionError> {
        for event in events {
            match self.assembler.take(&event.raw, &mut self.out)? {
                Step::Continue => {}
                Step::Payload(payload) => {
                    let mut payload = PayloadReader::new(payload, 1 << 20).expect("a reader");
                    while let Some(inner) = payload.next_event().expect("an event") {
                        match self.assembler.take(&inner, &mut self.out)? {
                            Step::Continue => {}
                            step => self.steps.push(step),
                        }
                    }
                }
                step => self.steps.push(step),
            }
        }
        Ok(self)
    }

    fn feed_all(&mut self, log: &Log) -> Result<&mut Self, TransactionError> {
        self.feed(&log.from(1, 4))
    }

    /// What was let out: `stream:id@transaction/row`.
    fn shown(&self) -> Vec<String> {
        self.out.iter().map(show).collect()
    }
}

fn show((stream, message): &(usize, Message)) -> String {
    let sequence = message.transaction.gtid.rsplit([':', '-']).next().unwrap_or_default();
    format!("{stream}:{}@{sequence}/{}", message.id, message.row)
}

/// What comes out of a whole log.
fn run(log: &Log) -> Result<Vec<String>, TransactionError> {
    let mut fed = Fed::new(log.flavour);
    fed.feed_all(log)?;
    assert!(fed.steps.is_empty(), "{:?}", fed.steps);
    Ok(fed.shown())
}

fn log(write: impl FnOnce(&mut Log)) -> Log {
    let mut log = Log::mysql();
    write(&mut log);
    log
}

#[test]
fn what_is_let_out() {
    type Case = (&'static str, fn(&mut Log), &'static [&'static str]);
    let cases: &[Case] = &[
        (
            "a commit",
            |log| {
                log.begin().insert(0, &["a"]).commit();
            },
            &["0:a@1/0"],
        ),
        (
            "rows are held until the commit",
            |log| {
                log.begin().insert(0, &["a"]);
            },
            &[],
        ),
        (
            "a blackhole table's group ends in a statement",
            |log| {
                log.begin().insert(0, &["a"]).query("COMMIT");
            },
            &["0:a@1/0"],
        ),
        (
            "a rollback",
            |log| {
                log.begin().insert(0, &["a"]).query("ROLLBACK").begin().insert(0, &["b"]).commit();
            },
            &["0:b@2/0"],
        ),
        (
            "savepoints end nothing",
            |log| {
                log.begin().query("SAVEPOINT `s`").insert(0, &["a"]).query("ROLLBACK TO `s`");
                log.query("RELEASE SAVEPOINT `s`").insert(0, &["b"]).commit();
            },
            &["0:a@1/0", "0:b@1/1"],
        ),
        (
            "rows are numbered by stream",
            |log| {
                log.begin().insert(0, &["a", "b"]).insert(1, &["c"]).insert(0, &["d"]).insert(1, &["e"]);
                log.commit().begin().insert(1, &["f"]).commit();
            },
            &["0:a@1/0", "0:b@1/1", "1:c@1/0", "0:d@1/2", "1:e@1/1", "1:f@2/0"],
        ),
        (
            "a compressed transaction",
            |log| {
                log.gtid().compressed().query("BEGIN").insert(0, &["a"]).commit().compressed_end();
            },
            &["0:a@1/0"],
        ),
        (
            "an update that changes the id is an insert, as REPLACE does it; others are none, nor are deletes",
            |log| {
                log.begin().table_map(10, "shop", "outbox").updated_rows(10, &[("a", "a"), ("a", "b")]);
                log.deleted_rows(10, &["c"]).rows(10, &["d"]).commit();
            },
            &["0:b@1/0", "0:d@1/1"],
        ),
        (
            "another table's content is never looked at",
            |log| {
                log.begin().foreign_map(9).foreign_rows(9).insert(0, &["a"]).foreign_map(9).foreign_rows(9);
                log.commit();
            },
            &["0:a@1/0"],
        ),
        (
            "a table of the same name in another schema is another table",
            |log| {
                log.begin().table_map(10, "other", "outbox").rows(10, &["a"]).commit();
            },
            &[],
        ),
        (
            "definitions and administration between transactions",
            |log| {
                log.gtid().query("CREATE TABLE x (i INT)").gtid().query("FLUSH PRIVILEGES");
                log.begin().query("CREATE TABLE y (i INT) START TRANSACTION").insert(0, &["a"]).commit();
            },
            &["0:a@3/0"],
        ),
        (
            "a group that a crash left open, whose GTID is given out again",
            |log| {
                log.begin().insert(0, &["a"]).crash().begin().insert(0, &["b"]).commit();
            },
            &["0:b@1/0"],
        ),
        (
            "XA: the rows stand where the commit stands",
            |log| {
                log.prepared('a', &["a1", "a2"]).prepared('b', &["b"]).begin().insert(0, &["c"]).commit();
                log.xa_commit('b').xa_commit('a');
            },
            &["0:c@3/0", "0:b@4/0", "0:a1@5/0", "0:a2@5/1"],
        ),
        (
            "XA: rolled back",
            |log| {
                log.prepared('a', &["a"]).xa_rollback('a').xa_rollback('z');
            },
            &[],
        ),
        (
            "XA: a name is used again",
            |log| {
                log.prepared('a', &["a"]).xa_rollback('a').prepared('a', &["b"]).xa_commit('a');
                log.prepared('a', &["c"]).xa_commit('a');
            },
            &["0:b@4/0", "0:c@6/0"],
        ),
        (
            "XA: one phase, by event and by statement",
            |log| {
                log.xa_start('a').insert(0, &["a"]).query("XA END X'61',X'',1").xa_prepare('a', true);
                log.xa_start('b').insert(0, &["b"]).query("XA END X'62',X'',1");
                log.query("XA COMMIT X'62',X'',1 ONE PHASE");
            },
            &["0:a@1/0", "0:b@2/0"],
        ),
        (
            "statements that name no outbox table",
            |log| {
                log.begin().query("INSERT INTO orders VALUES ('outbox')").insert(0, &["a"]).commit();
                log.begin().query("INSERT INTO other.outbox VALUES (1)").commit();
            },
            &["0:a@1/0"],
        ),
    ];
    for (what, write, expected) in cases {
        assert_eq!(run(&log(write)).unwrap_or_else(|error| panic!("{what}: {error}")), *expected, "{what}");
    }
}

#[test]
fn mariadb_groups_need_no_begin_and_may_be_single_statements() {
    let mut log = Log::new(Flavour::MariaDb);
    log.begin().insert(0, &["a"]).commit();
    log.standalone().query("CREATE TABLE x (i INT)");
    log.begin().insert(0, &["b"]).query("COMMIT");
    log.prepared('x', &["c"]).xa_commit('x');
    assert_eq!(run(&log).unwrap(), ["0:a@1/0", "0:b@3/0", "0:c@5/0"]);
}

#[test]
fn what_must_not_be_passed_over_is_an_error() {
    type Case = (&'static str, fn(&mut Log), &'static str);
    let cases: &[Case] = &[
        (
            "a group without end",
            |log| {
                log.begin().insert(0, &["a"]).begin();
            },
            "has no end in the log",
        ),
        (
            "rows outside of a group",
            |log| {
                log.insert(0, &["a"]);
            },
            "rows outside of a transaction",
        ),
        (
            "a commit outside of a group",
            |log| {
                log.commit();
            },
            "outside of a transaction",
        ),
        (
            "a compressed transaction outside of a group",
            |log| {
                log.compressed().query("BEGIN").insert(0, &["a"]).commit().compressed_end();
            },
            "outside of a transaction",
        ),
        (
            "rows without a table map",
            |log| {
                log.begin().table_map(10, "shop", "outbox").rows(11, &["a"]);
            },
            "rows outside of a transaction",
        ),
        (
            "table maps hold for one group",
            |log| {
                log.begin().insert(0, &["a"]).commit().begin().rows(10, &["b"]);
            },
            "rows outside of a transaction",
        ),
        (
            "an outbox table written to in statement format",
            |log| {
                log.begin().query("INSERT INTO `outbox` VALUES (1)");
            },
            "SET SESSION binlog_format=ROW",
        ),
        (
            "LOAD DATA in statement format",
            |log| {
                log.begin().query("LOAD DATA INFILE '/tmp/x' INTO TABLE shop.audit");
            },
            "writes to shop.audit in statement format",
        ),
        (
            "a statement of a prepared transaction",
            |log| {
                log.xa_start('a').query("REPLACE INTO shop.outbox VALUES (1)");
            },
            "binlog_format=ROW",
        ),
        (
            "an incident",
            |log| {
                log.event(crate::source::event::code::INCIDENT, [1, 0, 4, b'l', b'o', b's', b't']);
            },
            "events are missing (an incident): number 1: lost",
        ),
        (
            "an outbox table's map that is cut",
            |log| {
                log.begin().table_map(10, "shop", "outbox");
                let map = log.events.last_mut().expect("a table map");
                map.raw = events::with_body(&map.raw, map.raw.body.slice(..30));
            },
            "cannot be decoded",
        ),
        (
            "outbox rows that are cut",
            |log| {
                log.begin().insert(0, &["a"]);
                let rows = log.events.last_mut().expect("rows");
                rows.raw = events::with_body(&rows.raw, rows.raw.body.slice(..15));
            },
            "cannot be decoded",
        ),
        (
            "a row without an id",
            |log| {
                log.begin().insert(0, &[""]);
            },
            "cannot be published",
        ),
    ];
    for (what, write, expected) in cases {
        let error = run(&log(write)).expect_err(what).to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn statements_of_other_tables_are_refused_if_they_shall_be() {
    let refuse = |text: &str| {
        let log = log(|log| {
            log.begin().query(text).commit();
        });
        let mut fed = Fed::mysql();
        fed.assembler = fed.assembler.refusing_foreign_statements(true);
        fed.feed_all(&log).err().map(|error| error.to_string())
    };
    let error = refuse("INSERT INTO orders VALUES (1)").expect("refused");
    assert!(error.contains("source.foreign_statements") && !error.contains("  "), "{error}");
    assert!(refuse("INSERT INTO outbox VALUES (1)").expect("refused").contains("shop.outbox"));
    assert_eq!(refuse("TRUNCATE TABLE `shop`.`heap` /* generated by server */"), None);
}

#[test]
fn only_rows_of_other_tables_are_counted_as_foreign() {
    let log = log(|log| {
        log.begin().foreign_map(9).foreign_rows(9).foreign_rows(9).insert(0, &["a", "b"]).commit();
        log.begin().foreign_map(9).foreign_rows(9).commit();
    });
    let mut fed = Fed::mysql();
    fed.feed_all(&log).unwrap();
    assert_eq!(fed.assembler.take_counts(), (3, 1));
    assert_eq!(fed.assembler.take_counts(), (0, 0));
}

#[test]
fn a_transaction_over_the_limit_is_read_again() {
    let log = log(|log| {
        log.begin().insert(0, &["a", "b"]).insert(0, &["c"]).commit();
        log.begin().insert(0, &["d"]).query("ROLLBACK");
        log.begin().foreign_map(9).foreign_rows(9).commit();
    });
    let begin = log.events[2].begins();
    let mut fed = Fed::at(&point(1, 4, At::Boundary), Flavour::MySql, 10);
    fed.feed_all(&log).unwrap();
    let [Step::Replay(replay)] = &fed.steps[..] else { panic!("{:?}", fed.steps) };
    assert_eq!(
        (&*replay.file, replay.offset, &*replay.transaction.gtid),
        ("binlog.000001", begin, &*gtid(1))
    );
    assert!(fed.out.is_empty());
}

#[test]
fn a_point_does_not_pass_a_transaction_that_is_being_read_again() {
    let mut log = Log::mysql();
    let start = log.end();
    log.begin().insert(0, &["a"]).commit();
    let mut fed = Fed::at(&point(1, 4, At::Boundary), Flavour::MySql, 0);
    fed.feed_all(&log).unwrap();
    let before = fed.assembler.point();
    assert_eq!((before.offset, before.at, before.executed.as_deref()), (4, At::Boundary, Some("")));
    fed.assembler.replayed();
    let after = fed.assembler.point();
    assert_eq!((after.offset, after.at, after.executed), (start, At::Done(transaction(1)), Some(gtid(1))));
}

#[test]
fn a_point_does_not_contain_a_transaction_that_is_open() {
    let mut log = Log::mysql();
    log.begin().insert(0, &["a"]).commit().begin().insert(0, &["b"]);
    let mut fed = Fed::mysql();
    fed.feed_all(&log).unwrap();
    let middle = fed.assembler.point();
    assert_eq!((&middle.at, middle.executed.as_deref()), (&At::Done(transaction(1)), Some(&*gtid(1))));
    log.commit();
    let mut again = Fed::at(&middle, Flavour::MySql, UNLIMITED);
    again.feed(&log.from(1, middle.offset)).unwrap();
    assert_eq!(again.shown(), ["0:b@2/0"]);
}

#[test]
fn a_prepared_transaction_over_the_limit_is_read_again_at_its_commit() {
    let mut log = Log::mysql();
    let prepare = log.end();
    log.prepared('a', &["a"]).prepared('b', &[]).xa_commit('b').xa_commit('a');
    let mut fed = Fed::at(&point(1, 4, At::Boundary), Flavour::MySql, 0);
    fed.feed_all(&log).unwrap();
    let [Step::Replay(replay)] = &fed.steps[..] else { panic!("{:?}", fed.steps) };
    assert_eq!((replay.offset, &*replay.transaction.gtid), (prepare, &*gtid(4)));
    // Until that is done, a restart must find it again.
    let prepared = fed.assembler.point().prepared;
    assert_eq!(prepared, [Prepared { xid: xid('a'), file: file_name(1), offset: prepare, rows: true }]);
    fed.assembler.replayed();
    assert_eq!(fed.assembler.point().prepared, []);
    assert_eq!(fed.assembler.point().at, At::Done(transaction(4)));
}

#[test]
fn prepared_transactions_count_towards_the_limit_until_their_end() {
    let mut log = Log::mysql();
    log.begin().insert(0, &["a"]).commit();
    let mut fed = Fed::mysql();
    fed.feed_all(&log).unwrap();
    let size = fed.out[0].1.size();

    for (end, replays) in
        [(None, 1), (Some(Log::xa_rollback as fn(&mut Log, char) -> &mut Log), 0), (Some(Log::xa_commit), 0)]
    {
        let mut log = Log::mysql();
        log.prepared('a', &["a"]);
        if let Some(end) = end {
            end(&mut log, 'a');
        }
        log.begin().insert(0, &["b"]).commit();
        let mut fed = Fed::at(&point(1, 4, At::Boundary), Flavour::MySql, size + size / 2);
        fed.feed_all(&log).unwrap();
        assert_eq!(fed.steps.len(), replays);
    }
}

#[test]
fn the_prepare_of_an_unknown_xa_transaction_is_looked_for() {
    let mut log = Log::mysql();
    log.prepared('a', &["a"]);
    let start = log.end();
    log.xa_commit('a');
    let mut from = point(1, start, At::Boundary);
    from.executed = Some(gtid(1));
    let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
    from.definitions = fed.assembler.point().definitions;
    fed.feed(&log.from(1, start)).unwrap();
    let [Step::FindPrepare { xid: asked, file, offset }] = &fed.steps[..] else { panic!("{:?}", fed.steps) };
    assert_eq!(*asked, xid('a'));
    assert_eq!((&**file, *offset), ("binlog.000001", start), "it stands before its commit");
    assert_eq!(fed.assembler.point(), from, "until it is found");
    let Step::Replay(replay) = fed.assembler.found("binlog.000001".into(), 99) else { panic!("no replay") };
    assert_eq!((replay.offset, &*replay.transaction.gtid), (99, &*gtid(2)));
    assert_eq!(fed.assembler.point(), from, "until it is read");
    fed.assembler.replayed();
    assert_eq!(fed.assembler.point().at, At::Done(transaction(2)));
}

#[test]
fn a_restart_knows_what_is_prepared() {
    let mut log = Log::mysql();
    let prepare = log.end();
    log.prepared('a', &["a"]).prepared('b', &[]).begin().insert(0, &["c"]).commit();
    let mut fed = Fed::mysql();
    fed.feed_all(&log).unwrap();
    let middle = fed.assembler.point();
    log.xa_commit('b').xa_commit('a');
    let mut again = Fed::at(&middle, Flavour::MySql, UNLIMITED);
    again.feed(&log.from(1, middle.offset)).unwrap();
    let [Step::Replay(replay)] = &again.steps[..] else { panic!("{:?}", again.steps) };
    assert_eq!(replay.offset, prepare);
}

#[test]
fn definitions_are_asked_for_once_and_again_when_they_may_have_changed() {
    let mut log = Log::new(Flavour::MariaDb);
    log.begin().insert(0, &["a"]).commit();
    log.begin().insert(0, &["b"]).commit();
    log.standalone().query("ALTER TABLE orders ADD c INT");
    log.begin().insert(0, &["c"]).commit();
    log.standalone().query("ALTER TABLE outbox ADD c INT");
    log.begin().insert(0, &["d"]).commit();
    let rows = OutboxRows::new(events::routes(), Flavour::MariaDb, HashMap::new());
    let mut assembler = Assembler::new(&point(1, 4, At::Boundary), None, Flavour::MariaDb, rows, UNLIMITED);
    let mut out = Vec::new();
    let mut asked = Vec::new();
    for event in log.from(1, 4) {
        while let Step::Define(route) = assembler.take(&event.raw, &mut out).unwrap() {
            assert_eq!(assembler.table(route).map(|table| table.to_string()).as_deref(), Some("shop.outbox"));
            assembler.define(route, events::definition());
            asked.push(out.len());
        }
    }
    assert_eq!(asked, [0, 3]);
    assert_eq!(out.iter().map(show).collect::<Vec<_>>(), ["0:a@1/0", "0:b@2/0", "0:c@4/0", "0:d@6/0"]);
    assert_eq!(assembler.point().definitions.keys().collect::<Vec<_>>(), ["shop.outbox"]);
}

#[test]
fn nothing_is_asked_about_the_tables_of_what_is_done() {
    let mut log = Log::new(Flavour::MariaDb);
    log.begin().insert(0, &["a"]).commit();
    log.begin().insert(0, &["b"]).commit();
    log.begin().insert(0, &["c"]).commit();
    let rows = OutboxRows::new(events::routes(), Flavour::MariaDb, HashMap::new());
    let executed = GtidSet::parse("0-1-2", Flavour::MariaDb).ok();
    let mut assembler = Assembler::new(&point(1, 4, At::Gtids), executed, Flavour::MariaDb, rows, UNLIMITED);
    let mut out = Vec::new();
    let mut asked = 0;
    for event in log.from(1, 4) {
        while let Step::Define(route) = assembler.take(&event.raw, &mut out).unwrap() {
            assert!(matches!(assembler.point().at, At::Done(_)), "the done ones are passed");
            assembler.define(route, events::definition());
            asked += 1;
        }
    }
    assert_eq!((asked, out.iter().map(show).collect::<Vec<_>>()), (1, vec!["0:c@3/0".to_owned()]));
}
