//! Logs with and without names, definitions that fit and that do not.

use super::*;
use crate::decode::rows::tests::bytes;

/// `CREATE TABLE mm (a INT UNSIGNED, b VARCHAR(20) CHARACTER SET latin1, c ENUM('x','y'), d YEAR, e BIT(3), f BIGINT
/// UNSIGNED)` with `binlog_row_metadata=MINIMAL`, recorded from MySQL 9.7.
const MINIMAL: &str = "8700000000000100016400026d6d0006030ffe0d1008061400f70103003f0101e0020108";
/// The same table from MariaDB 10.11 with `NO_LOG`.
const NO_LOG: &str = "1a00000000000100016400026d6d0006030ffe0d1008061400f70103003f";

fn map(hex: &str) -> TableMap {
    TableMap::parse(&bytes(hex)).expect("a table map")
}

fn definition() -> Vec<ColumnDefinition> {
    [
        ("a", "int unsigned", None),
        ("b", "varchar(20)", Some("latin1")),
        ("c", "enum('x','y')", Some("utf8mb4")),
        ("d", "year", None),
        ("e", "bit(3)", None),
        ("f", "bigint unsigned", None),
    ]
    .into_iter()
    .map(|(name, column_type, charset)| ColumnDefinition {
        name: name.into(),
        column_type: column_type.into(),
        character_set: charset.map(str::to_owned),
    })
    .collect()
}

#[test]
fn minimal_metadata_has_signs_and_collations() {
    let columns = map(MINIMAL).columns;
    let signs: Vec<_> = columns.iter().map(|column| column.unsigned).collect();
    assert_eq!(signs, [Some(true), None, None, Some(true), None, Some(true)]);
    assert_eq!(columns[1].collation, Some(8));
    assert!(columns.iter().all(|column| column.name.is_none() && column.members.is_none()));
    assert!(map(NO_LOG).columns.iter().all(|column| column.unsigned.is_none() && column.collation.is_none()));
}

#[test]
fn a_definition_fills_in_what_the_log_lacks() {
    for log in [MINIMAL, NO_LOG] {
        let columns = resolve_columns(&map(log), Some(&definition())).expect("columns");
        assert_eq!(columns.iter().map(Column::name).collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "f"]);
        let renderings: Vec<_> =
            columns.iter().map(|column| column.column_type().rendering().clone()).collect();
        assert_eq!(
            renderings,
            [
                Rendering::Integer { unsigned: true, zerofill: 0 },
                Rendering::Text(Charset::Latin1),
                Rendering::Members(vec!["x".into(), "y".into()]),
                Rendering::Plain,
                Rendering::Plain,
                Rendering::Integer { unsigned: true, zerofill: 0 },
            ]
        );
    }
}

#[test]
fn without_names_and_definition_there_are_no_columns() {
    let error = resolve_columns(&map(MINIMAL), None).expect_err("no names");
    assert_eq!(error.kind(), DecodeErrorKind::MetadataMissing);
    assert!(error.to_string().starts_with("table `d.mm`: "), "{error}");
    assert!(error.to_string().contains("binlog_row_metadata=FULL"), "{error}");
}

#[test]
fn a_definition_that_does_not_fit_is_refused() {
    let changes: &[(usize, &str)] =
        &[(0, "int"), (0, "bigint unsigned"), (1, "varchar(21)"), (1, "text"), (4, "bit(4)"), (5, "double")];
    for (index, column_type) in changes {
        let mut definition = definition();
        definition[*index].column_type = (*column_type).to_owned();
        let error = resolve_columns(&map(MINIMAL), Some(&definition)).expect_err(column_type);
        assert_eq!(error.kind(), DecodeErrorKind::DefinitionMismatch);
        assert_eq!(error.column(), Some(definition[*index].name.as_str()));
        assert_eq!(error.table(), Some("d.mm"));
    }
    let error = resolve_columns(&map(MINIMAL), definition().get(..5)).expect_err("a column too few");
    assert_eq!(error.kind(), DecodeErrorKind::DefinitionMismatch);
}

#[test]
fn a_fraction_that_the_log_hides_is_refused() {
    // `CREATE TABLE old (a TIMESTAMP(6) NULL, b TIME(3), …, g INT)`, recorded from MariaDB 10.11 with
    // `mysql56_temporal_format=OFF`.
    let log =
        map("2800000000000100016400036f6c640007070b0c070b0c03007f010100040e0161016201630164016501660167");
    let defined = |column_type: &str| {
        [ColumnDefinition { name: "b".into(), column_type: column_type.into(), character_set: None }]
    };
    let error = resolve_columns(&log, Some(&defined("time(3)"))).expect_err("five bytes, and not three");
    assert_eq!((error.kind(), error.column()), (DecodeErrorKind::Unsupported, Some("b")));
    resolve_columns(&log, Some(&defined("time"))).expect("three bytes");
}
