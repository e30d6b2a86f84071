//! Where to go on, case by case.

use std::collections::BTreeMap;

use super::*;
use crate::{
    checkpoint::{FORMAT_VERSION, Prepared, StreamPoint},
    publish::TailMessage,
};

const KEY: &str = "bridge";

fn position(offset: u64) -> Position {
    Position { gtid: format!("0-1-{offset}"), file: "binlog.000002".into(), offset, row: 1 }
}

fn transaction(offset: u64) -> Transaction {
    Transaction { gtid: format!("0-1-{offset}"), committed_micros: 0 }
}

fn stream(name: &str, tail: Option<(u64, u64)>, last_sequence: u64) -> StreamState {
    let tail = match tail {
        Some((sequence, offset)) => Tail::Message(TailMessage { sequence, position: position(offset) }),
        None => Tail::Empty { last_sequence },
    };
    StreamState { name: name.into(), tail, last_sequence: Some(last_sequence), consumed: true }
}

/// A checkpoint behind the transaction at offset 100, at which each stream held so many messages.
fn checkpoint(streams: &[(&str, u64, Option<u64>)]) -> Checkpoint {
    let prepared =
        |name: &str, offset| Prepared { xid: name.into(), file: "binlog.000002".into(), offset, rows: true };
    let point = LogPoint {
        server: "server".into(),
        file: "binlog.000002".into(),
        offset: 100,
        at: At::Done(transaction(100)),
        executed: Some("0-1-100".into()),
        prepared: vec![prepared("early", 30), prepared("late", 90)],
        definitions: BTreeMap::from([("shop.outbox".into(), serde_json::Value::Null)]),
    };
    let stream = |(name, sequence, offset): &(&str, u64, Option<u64>)| {
        let position = offset.map(|offset| position(offset).to_string());
        ((*name).to_owned(), StreamPoint { sequence: *sequence, position })
    };
    Checkpoint {
        version: FORMAT_VERSION,
        instance: "instance".into(),
        point,
        streams: streams.iter().map(stream).collect(),
        written_seconds: 0,
        backfill: None,
    }
}

/// A row of the transaction at an offset.
fn message(offset: u64) -> crate::publish::Message {
    let Position { gtid, file, offset, row } = position(offset);
    let transaction = crate::publish::TransactionId {
        gtid,
        file: file.as_str().into(),
        file_number: 2,
        offset,
        committed_micros: 0,
    };
    crate::publish::Message {
        transaction: transaction.into(),
        row,
        table: "shop.outbox".into(),
        subject: "s".into(),
        id: String::new(),
        headers: Vec::new(),
        body: bytes::Bytes::new(),
        poison: None,
    }
}

/// What a chain does with the rows at these offsets: taken, held already, or not to be found in the log.
fn takes(chain: &mut Chain, offsets: &[u64]) -> Vec<Option<bool>> {
    offsets.iter().map(|offset| chain.push(message(*offset)).ok()).collect()
}

const TAKEN: Option<bool> = Some(true);
const HELD: Option<bool> = Some(false);
const NOT_IN_LOG: Option<bool> = None;

struct Case {
    what: &'static str,
    recorded: Option<(u64, Option<u64>)>,
    state: StreamState,
    /// Where reading begins.
    start: u64,
    /// From which sequence on it is refilled.
    refilled: Option<u64>,
    sequence: u64,
    rows: &'static [(u64, Option<bool>)],
}

#[test]
fn with_a_checkpoint_each_stream_goes_on_behind_what_it_holds() {
    let cases = [
        Case {
            what: "as it was",
            recorded: Some((7, Some(100))),
            state: stream("A", Some((7, 100)), 7),
            start: 100,
            refilled: None,
            sequence: 7,
            rows: &[(120, TAKEN)],
        },
        Case {
            what: "it holds rows behind the checkpoint, which the log must show",
            recorded: Some((7, Some(100))),
            state: stream("A", Some((9, 130)), 9),
            start: 100,
            refilled: None,
            sequence: 9,
            rows: &[(120, HELD), (130, HELD), (140, TAKEN)],
        },
        Case {
            what: "the log does not show them",
            recorded: Some((7, Some(100))),
            state: stream("A", Some((9, 130)), 9),
            start: 100,
            refilled: None,
            sequence: 9,
            rows: &[(120, HELD), (140, NOT_IN_LOG)],
        },
        Case {
            what: "its last row lies before the checkpoint's point, as other streams' rows came after it",
            recorded: Some((7, Some(50))),
            state: stream("A", Some((7, 50)), 7),
            start: 100,
            refilled: None,
            sequence: 7,
            rows: &[(120, TAKEN)],
        },
        Case {
            what: "purged, and nothing stored since the checkpoint",
            recorded: Some((7, Some(100))),
            state: stream("A", None, 7),
            start: 100,
            refilled: None,
            sequence: 7,
            rows: &[(120, TAKEN)],
        },
        Case {
            what: "purged, and two rows were stored since the checkpoint",
            recorded: Some((7, Some(100))),
            state: stream("A", None, 9),
            start: 100,
            refilled: None,
            sequence: 9,
            rows: &[(120, HELD), (130, HELD), (140, TAKEN)],
        },
        Case {
            what: "its last messages were deleted",
            recorded: Some((7, Some(100))),
            state: stream("A", Some((5, 50)), 8),
            start: 100,
            refilled: None,
            sequence: 8,
            rows: &[(120, HELD), (130, TAKEN)],
        },
        Case {
            what: "nothing had been stored at the checkpoint, and all that was stored since was purged",
            recorded: Some((0, None)),
            state: stream("A", None, 1),
            start: 100,
            refilled: None,
            sequence: 1,
            rows: &[(120, HELD), (130, TAKEN)],
        },
        Case {
            what: "it lost what it had acknowledged",
            recorded: Some((7, Some(100))),
            state: stream("A", Some((5, 50)), 5),
            start: 50,
            refilled: Some(5),
            sequence: 5,
            rows: &[(50, HELD), (60, TAKEN), (100, TAKEN)],
        },
        Case {
            what: "it lost what it had acknowledged, and the log has not the row that it ends with",
            recorded: Some((7, Some(100))),
            state: stream("A", Some((5, 50)), 5),
            start: 50,
            refilled: Some(5),
            sequence: 5,
            rows: &[(60, NOT_IN_LOG)],
        },
        Case {
            what: "new in the configuration",
            recorded: None,
            state: stream("A", None, 3),
            start: 100,
            refilled: None,
            sequence: 3,
            rows: &[(120, TAKEN)],
        },
        Case {
            what: "back in the configuration",
            recorded: None,
            state: stream("A", Some((5, 50)), 5),
            start: 50,
            refilled: None,
            sequence: 5,
            rows: &[(50, HELD), (60, TAKEN)],
        },
        Case {
            what: "back in the configuration, ahead of the others",
            recorded: None,
            state: stream("A", Some((5, 150)), 5),
            start: 100,
            refilled: None,
            sequence: 5,
            rows: &[(120, HELD), (150, HELD), (160, TAKEN)],
        },
    ];
    for Case { what, recorded, state, start, refilled, sequence, rows } in cases {
        let recorded: Vec<_> =
            recorded.into_iter().map(|(sequence, offset)| ("A", sequence, offset)).collect();
        let mut plan = with_checkpoint(&checkpoint(&recorded), &[state], KEY).expect(what);
        assert_eq!(plan.start.offset, start, "{what}");
        assert_eq!(plan.refilled, Vec::from_iter(refilled.map(|from| ("A".to_owned(), from))), "{what}");
        let [chain] = &mut plan.chains[..] else { panic!("{what}: one chain") };
        assert_eq!(chain.sequence(), sequence, "{what}");
        let (offsets, expected): (Vec<_>, Vec<_>) = rows.iter().copied().unzip();
        assert_eq!(takes(chain, &offsets), expected, "{what}");
    }
}

#[test]
fn an_earlier_start_takes_along_what_holds_there() {
    let plan = with_checkpoint(
        &checkpoint(&[("A", 7, Some(100)), ("B", 3, Some(80)), ("C", 4, Some(70))]),
        &[stream("A", Some((5, 50)), 5), stream("B", Some((3, 80)), 3), stream("C", Some((2, 60)), 2)],
        KEY,
    )
    .expect("a plan");
    let LogPoint { server, offset, at, executed, prepared, definitions, .. } = plan.start;
    assert_eq!((&*server, offset, at), ("server", 50, At::Pending(transaction(50))));
    assert_eq!(executed, None, "more is executed at the checkpoint than here");
    assert_eq!(definitions.len(), 1);
    // A prepare that comes later is still to be read; another transaction of its name may be committed before.
    assert_eq!(prepared.iter().map(|prepared| &*prepared.xid).collect::<Vec<_>>(), ["early"]);
    assert_eq!(plan.refilled, [("A".to_owned(), 5), ("C".to_owned(), 2)]);
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let lost = with_checkpoint(&checkpoint(&[("A", 7, Some(100))]), &[stream("A", None, 2)], KEY);
    let expected =
        PlanError::StreamLost { stream: "A".into(), last_sequence: 2, acknowledged: 7, key: KEY.into() };
    assert_eq!(lost.err(), Some(expected));

    let mut nonsense = checkpoint(&[("A", 7, Some(100))]);
    nonsense.streams.get_mut("A").expect("recorded").position = Some("nonsense".into());
    let error = with_checkpoint(&nonsense, &[stream("A", None, 9)], KEY).err();
    assert_eq!(error, Some(PlanError::BadPosition { stream: "A".into(), position: "nonsense".into() }));

    let mut state = stream("A", Some((5, 50)), 5);
    let Tail::Message(tail) = &mut state.tail else { panic!("a message") };
    tail.position.file = "no-number".into();
    let error = with_checkpoint(&checkpoint(&[("A", 7, Some(100))]), &[state], KEY).err();
    assert!(matches!(error, Some(PlanError::BadPosition { .. })), "{error:?}");
}

#[test]
fn without_a_checkpoint_the_streams_tell_if_all_can() {
    assert!(without_checkpoint(&[stream("A", None, 0), stream("B", None, 4)]).expect("no error").is_none());
    assert!(without_checkpoint(&[]).expect("no error").is_none());

    for order in [[0, 1], [1, 0]] {
        let both = [stream("A", Some((5, 50)), 5), stream("B", Some((9, 90)), 9)];
        let streams = order.map(|index: usize| both[index].clone());
        let mut plan = without_checkpoint(&streams).expect("no error").expect("a plan");
        assert_eq!((plan.start.offset, &plan.start.at), (50, &At::Pending(transaction(50))));
        assert_eq!((&*plan.start.server, &plan.start.executed), ("", &None));
        let at = |index: usize| order.iter().position(|other| *other == index).expect("there");
        assert_eq!(takes(&mut plan.chains[at(0)], &[50, 60]), [HELD, TAKEN]);
        assert_eq!(takes(&mut plan.chains[at(1)], &[60, 100]), [HELD, NOT_IN_LOG]);
    }

    let streams = [stream("A", None, 0), stream("B", Some((9, 90)), 9)];
    let error = without_checkpoint(&streams).err();
    assert_eq!(error, Some(PlanError::NoCheckpoint { with: "B".into(), without: "A".into() }));
}

#[test]
fn from_the_configured_start_what_a_stream_holds_is_not_sent_again() {
    let streams = [stream("A", Some((5, 50)), 5), stream("B", None, 3)];
    for (must_see, later) in [(false, TAKEN), (true, NOT_IN_LOG)] {
        let mut chains = from_tails(&streams, must_see);
        assert_eq!(chains.iter().map(Chain::sequence).collect::<Vec<_>>(), [5, 3]);
        assert_eq!(takes(&mut chains[0], &[40, 60]), [HELD, later]);
        assert_eq!(takes(&mut chains[1], &[40]), [TAKEN]);
    }
}

/// Two of the messages that a stream stored after the checkpoint are gone: in a stream that keeps what it has, nothing
/// says whose they were.
#[test]
fn messages_that_nobody_can_account_for_are_not_counted() {
    let checkpoint = checkpoint(&[("A", 5, Some(100))]);
    let mut state = stream("A", None, 7);
    assert!(
        with_checkpoint(&checkpoint, std::slice::from_ref(&state), "key").is_ok(),
        "consumed from a work queue"
    );
    state.consumed = false;
    let refused = with_checkpoint(&checkpoint, &[state], "key");
    assert!(matches!(refused, Err(PlanError::Unaccounted { gone: 2, after: 5, .. })), "{refused:?}");
}
