//! Where reading begins: what must stand there, and what is skipped behind it.

use super::*;

#[test]
fn the_log_must_go_on_with_the_transaction_that_is_expected() {
    let mut log = Log::mysql();
    let start = log.end();
    log.begin().insert(0, &["a"]).commit().begin().insert(0, &["b"]).commit();
    let run = |at: At, offset| {
        let mut from = point(1, offset, at);
        from.executed = Some(String::new());
        let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
        fed.feed(&log.from(1, start)).map(|fed| fed.shown())
    };
    assert_eq!(run(At::Done(transaction(1)), start).unwrap(), ["0:b@2/0"]);
    assert_eq!(run(At::Pending(transaction(1)), start).unwrap(), ["0:a@1/0", "0:b@2/0"]);
    for (at, offset) in [
        (At::Done(transaction(7)), start),
        (At::Pending(transaction(7)), start),
        (At::Pending(transaction(1)), start + 1),
        (At::Done(Transaction { gtid: String::new(), committed_micros: 1_000_000 }), start),
    ] {
        let error = run(at.clone(), offset).expect_err("another log");
        assert!(matches!(error, TransactionError::OtherLog { .. }), "{at:?}: {error}");
    }
}

#[test]
fn an_anonymous_transaction_is_known_by_its_time() {
    let mut log = Log::mysql();
    let start = log.end();
    log.anonymous(5).query("BEGIN").insert(0, &["a"]).commit();
    let run = |committed_micros| {
        let at = At::Pending(Transaction { gtid: String::new(), committed_micros });
        let mut from = point(1, start, at);
        from.executed = Some(String::new());
        Fed::at(&from, Flavour::MySql, UNLIMITED).feed(&log.from(1, start)).map(|fed| fed.shown())
    };
    assert_eq!(run(5).unwrap(), ["0:a@/0"]);
    assert_eq!(run(0).unwrap(), ["0:a@/0"], "unknown to the one who asks");
    assert!(matches!(run(6), Err(TransactionError::OtherLog { .. })));
}

#[test]
fn a_log_that_ends_before_the_point_is_another_one() {
    // The server lost the end of a file and went on in a new one, in which something stands at the very same place.
    let mut log = Log::mysql();
    let start = log.end();
    log.new_file();
    log.sequence = 8;
    log.begin().insert(0, &["a"]).commit();
    assert_eq!(log.events.iter().find(|event| event.file == 2).map(Logged::begins), Some(4));
    for executed in [None, Some(gtid(8))] {
        let mut from = point(1, start, At::Done(transaction(9)));
        let offset = if executed.is_some() { start } else { 4 };
        from.executed = executed;
        let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
        let error = fed.feed(&log.from(1, offset)).err().expect("another log");
        assert!(matches!(error, TransactionError::OtherLog { .. }), "{error}");
    }
}

#[test]
fn executed_transactions_are_skipped_with_mysql_wherever_they_stand() {
    let mut log = Log::mysql();
    for id in ["a", "b", "c", "d"] {
        log.begin().insert(0, &[id]).commit();
    }
    let mut from = point(1, 4, At::Boundary);
    from.executed = Some(format!("{UUID}:1:3"));
    let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
    fed.feed_all(&log).unwrap();
    assert_eq!(fed.shown(), ["0:b@2/0", "0:d@4/0"]);
    assert_eq!(fed.assembler.point().executed, Some(format!("{UUID}:1-4")));
}

#[test]
fn executed_transactions_are_skipped_with_mariadb_until_the_first_that_is_not() {
    let mut log = Log::new(Flavour::MariaDb);
    for (sequence, id) in [(4, "a"), (5, "b"), (6, "c"), (2, "d")] {
        log.sequence = sequence - 1;
        log.begin().insert(0, &[id]).commit();
    }
    let run = |at| {
        let mut from = point(1, 4, at);
        from.executed = Some("0-1-5".into());
        let mut fed = Fed::at(&from, Flavour::MariaDb, UNLIMITED);
        fed.feed_all(&log).unwrap();
        fed.shown()
    };
    assert_eq!(run(At::Gtids), ["0:c@6/0", "0:d@2/0"]);
    assert_eq!(run(At::Boundary), ["0:a@4/0", "0:b@5/0", "0:c@6/0", "0:d@2/0"]);

    let mut from = point(1, 4, At::Gtids);
    from.executed = Some("0-1-5".into());
    let mut fed = Fed::at(&from, Flavour::MariaDb, UNLIMITED);
    let before: Vec<_> = log.from(1, 4).into_iter().take(6).collect();
    fed.feed(&before).unwrap();
    let middle = fed.assembler.point();
    assert_eq!((middle.at, middle.executed.as_deref()), (At::Gtids, Some("0-1-5")), "still skipping");
}

#[test]
fn what_a_skipped_xa_transaction_leaves_is_what_the_log_says() {
    // All but the last commit are among the executed ones; its rows are those of the last prepare of that name.
    let mut log = Log::mysql();
    log.prepared('a', &["old"]).xa_commit('a').prepared('b', &["gone"]).xa_rollback('b');
    let prepare = log.end();
    log.prepared('a', &["new"]).xa_commit('a');
    let mut from = point(1, 4, At::Boundary);
    from.executed = Some(format!("{UUID}:1-5"));
    let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
    fed.feed_all(&log).unwrap();
    let [Step::Replay(replay)] = &fed.steps[..] else { panic!("{:?}", fed.steps) };
    assert_eq!(replay.offset, prepare);
    fed.assembler.replayed();
    assert_eq!(fed.assembler.point().prepared, []);
}

#[test]
fn an_unknown_executed_set_is_read_off_the_file() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let mut log = Log::new(flavour);
        log.begin().insert(0, &["a"]).commit().rotate();
        log.begin().insert(0, &["b"]).commit();
        let begin = log.end();
        log.begin().insert(0, &["c"]).commit().begin().insert(0, &["d"]).commit();
        let name = |sequence| match flavour {
            Flavour::MySql => gtid(sequence),
            Flavour::MariaDb => format!("0-1-{sequence}"),
        };
        let at = At::Pending(Transaction { gtid: name(3), committed_micros: 0 });
        let mut fed = Fed::at(&point(2, begin, at), flavour, UNLIMITED);
        let events = log.from(2, 4);
        let scanned =
            events.iter().take_while(|event| event.raw.header.end_offset == 0 || event.begins() < begin);
        let scanned: Vec<_> = scanned.cloned().collect();
        fed.feed(&scanned).unwrap();
        assert_eq!(fed.assembler.point().executed, None, "not known before all is read");
        let all = |last| match flavour {
            Flavour::MySql => format!("{UUID}:1-{last}"),
            Flavour::MariaDb => format!("0-1-{last}"),
        };
        let (gtid, rest) = events[scanned.len()..].split_first().expect("the transaction at the point");
        fed.feed(std::slice::from_ref(gtid)).unwrap();
        assert_eq!(fed.assembler.point().executed, Some(all(2)));
        fed.feed(rest).unwrap();
        assert_eq!(fed.shown(), ["0:c@3/0", "0:d@4/0"]);
        assert_eq!(fed.assembler.point().executed, Some(all(4)));
    }
}

#[test]
fn a_rotation_moves_the_point_only_where_nothing_is_open_or_expected() {
    let moved = |fed: &Fed| fed.assembler.point().file == file_name(2);
    let mut idle = Log::mysql();
    idle.begin().commit().rotate();
    let mut fed = Fed::mysql();
    fed.feed_all(&idle).unwrap();
    let at = fed.assembler.point();
    assert_eq!((&*at.file, at.offset, at.at), ("binlog.000002", 4, At::Boundary));

    let mut open = Log::mysql();
    open.begin().insert(0, &["a"]).rotate();
    let rotate =
        open.events.iter().position(|event| event.raw.header.event_type == 4).expect("a rotate event");
    let mut fed = Fed::mysql();
    fed.feed(&open.events[..=rotate]).unwrap();
    assert!(!moved(&fed));

    let mut expected = Log::mysql();
    let start = expected.end();
    expected.rotate();
    let mut from = point(1, start, At::Done(transaction(1)));
    from.executed = Some(gtid(1));
    let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
    fed.feed(&expected.events[2..3]).unwrap();
    assert!(!moved(&fed));

    let mut from = point(1, 4, At::Boundary);
    from.executed = Some(String::new());
    let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
    fed.feed(&[Logged { file: 2, raw: events::artificial_rotate(2, 4) }]).unwrap();
    assert!(!moved(&fed), "only a rotation in the log counts");
}

#[test]
fn a_statement_that_is_read_once_more_changes_no_definition() {
    // The definition was asked for behind the ALTER and stands in the checkpoint, and by now the table may be another one again.
    let mut log = Log::new(Flavour::MariaDb);
    log.begin().insert(0, &["a"]).commit();
    let altered = log.end();
    log.standalone().query("ALTER TABLE outbox ADD c INT");
    log.begin().insert(0, &["b"]).commit();
    let ended = log.events.iter().position(|event| event.begins() == altered).expect("the statement");
    let mut before = Fed::new(Flavour::MariaDb);
    before.feed(&log.events[..ended + 2]).unwrap();
    let mut from = before.assembler.point();
    assert_eq!((from.offset, matches!(from.at, At::Done(_))), (altered, true));
    from.executed.get_or_insert_default();
    let mut after = Fed::at(&from, Flavour::MariaDb, UNLIMITED);
    after.feed(&log.from(1, altered)).unwrap();
    assert!(after.steps.is_empty(), "{:?}", after.steps);
    assert_eq!(after.shown(), ["0:b@3/0"]);
}

#[test]
fn the_log_is_done_up_to_where_nothing_is_open() {
    fn reached(log: &Log) -> u64 {
        let mut from = point(1, 4, At::Boundary);
        from.executed = Some(String::new());
        let mut fed = Fed::at(&from, Flavour::MySql, UNLIMITED);
        fed.feed(&log.from(1, 4)).unwrap();
        fed.assembler.reached().1
    }
    let mut log = Log::mysql();
    log.begin().insert(0, &["a"]).commit();
    let first = log.end();
    assert_eq!(reached(&log), first, "also where no other follows");
    log.begin().insert(0, &["b"]);
    assert!(reached(&log) <= first, "the second is open");
    log.commit();
    assert_eq!(reached(&log), log.end());
    log.gtid().compressed().query("BEGIN").insert(0, &["c"]).commit().compressed_end();
    assert_eq!(reached(&log), log.end(), "events of a compressed one have no place of their own");
}
