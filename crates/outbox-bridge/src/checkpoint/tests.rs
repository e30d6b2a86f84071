//! Whatever stands in the bucket, it is a checkpoint or refused.

use prop::sample::Index;
use proptest::prelude::*;

use super::*;

fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    let transaction = ("[0-9a-f:-]{0,40}", any::<u64>())
        .prop_map(|(gtid, committed_micros)| Transaction { gtid, committed_micros });
    let at = prop_oneof![
        Just(At::Boundary),
        Just(At::Gtids),
        transaction.clone().prop_map(At::Done),
        transaction.prop_map(At::Pending),
    ];
    let prepared = ("X'[0-9a-f]{2}',X'',1", "binlog\\.[0-9]{6}", any::<u64>(), any::<bool>())
        .prop_map(|(xid, file, offset, rows)| Prepared { xid, file, offset, rows });
    let stream = (any::<u64>(), prop::option::of("\\PC{0,40}"))
        .prop_map(|(sequence, position)| StreamPoint { sequence, position });
    (
        (".{0,20}", "\\PC{0,20}", any::<u64>(), at),
        (prop::option::of("\\PC{0,40}"), prop::collection::vec(prepared, 0..3)),
        (
            prop::collection::btree_map("[A-Z]{1,9}", stream, 0..3),
            any::<u64>(),
            prop::option::of("[a-z]{0,9}"),
        ),
    )
        .prop_map(
            |((server, file, offset, at), (executed, prepared), (streams, written_seconds, run))| {
                let definitions = BTreeMap::from([("shop.outbox".to_owned(), serde_json::json!([1, "x"]))]);
                let point = LogPoint { server, file, offset, at, executed, prepared, definitions };
                let backfill = run.map(|run| UnfinishedBackfill { run });
                Checkpoint {
                    version: 1,
                    instance: "this".to_owned(),
                    point,
                    streams,
                    since: BTreeMap::from([("shop.outbox".to_owned(), written_seconds)]),
                    written_seconds,
                    backfill,
                }
            },
        )
}

proptest! {
    #[test]
    fn a_checkpoint_comes_back(checkpoint in checkpoint()) {
        let json = serde_json::to_vec(&checkpoint).expect("JSON");
        prop_assert_eq!(Checkpoint::from_json(&json), Ok(checkpoint));
    }

    /// Compare-and-set protects from other bridges, not from a half-written value: that must not be taken for less.
    #[test]
    fn half_a_checkpoint_is_refused(checkpoint in checkpoint(), cut: Index) {
        let json = serde_json::to_vec(&checkpoint).expect("JSON");
        prop_assert!(Checkpoint::from_json(&json[..cut.index(json.len())]).is_err());
    }

    #[test]
    fn a_damaged_checkpoint_does_not_panic(checkpoint in checkpoint(), at: Index, bits in 1..=255_u8) {
        let mut json = serde_json::to_vec(&checkpoint).expect("JSON");
        let at = at.index(json.len());
        json[at] ^= bits;
        drop(Checkpoint::from_json(&json));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(Checkpoint::from_json(&bytes));
    }

    /// Whatever else stands in it.
    #[test]
    fn a_newer_format_is_refused_by_its_number(version in NEWEST_VERSION + 1..u32::MAX, point in "[a-z]{0,9}") {
        let json = serde_json::json!({ "version": version, "point": point }).to_string();
        let reason = Checkpoint::from_json(json.as_bytes()).expect_err("newer");
        prop_assert!(reason.contains(&format!("format {version}")), "{}", reason);
        prop_assert!(reason.contains("run that version"), "{}", reason);
    }
}

/// A field that this version does not know is passed over: an addition that older bridges may ignore keeps the version.
#[test]
fn unknown_fields_are_ignored() {
    let json = r#"{"version": 1, "new": 1, "instance": "a", "streams": {"S": {"sequence": 1, "position": null, "new": {}}},
        "point": {"server": "", "file": "b.000001", "offset": 4, "at": "boundary", "executed": null, "new": []},
        "written_seconds": 0}"#;
    let checkpoint = Checkpoint::from_json(json.as_bytes()).expect("a checkpoint");
    assert_eq!(checkpoint.point.offset, 4);
}
