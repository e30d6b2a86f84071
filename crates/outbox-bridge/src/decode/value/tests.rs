//! Values that the recorded events do not contain: old formats, edges, missing metadata.

use super::*;
use crate::decode::charset::Charset;

fn render(layout: Layout, rendering: Rendering, content: &[u8]) -> Result<Value, DecodeError> {
    let event = Bytes::copy_from_slice(content);
    Renderer::new(DecodeLimits::default()).render(&ColumnType { layout, rendering }, &event, &event)
}

fn text(layout: Layout, rendering: Rendering, content: &[u8]) -> String {
    let value = render(layout, rendering, content).expect("a value");
    value.as_str().expect("text").to_owned()
}

#[test]
fn old_temporal_formats_are_printed() {
    let cases: &[(Layout, &[u8], &str)] = &[
        (Layout::OldTime, &[0x40, 0xe2, 0x01], "12:34:56"),
        (Layout::OldTime, &[0xc0, 0x1d, 0xfe], "-12:34:56"),
        (Layout::OldDatetime, &20_150_115_232_425_u64.to_le_bytes(), "2015-01-15 23:24:25"),
        (Layout::OldTimestamp, &1_421_364_265_u32.to_le_bytes(), "2015-01-15 23:24:25"),
        (Layout::OldTimestamp, &[0; 4], "0000-00-00 00:00:00"),
        (Layout::Timestamp { fraction: 0 }, &[0xff; 4], "2106-02-07 06:28:15"),
        (Layout::Timestamp { fraction: 0 }, &951_782_400_u32.to_be_bytes(), "2000-02-29 00:00:00"),
        (Layout::Year, &[1], "1901"),
        (Layout::Year, &[0], "0000"),
    ];
    for (layout, content, expected) in cases {
        assert_eq!(text(*layout, Rendering::Plain, content), *expected, "{layout:?}");
    }
}

#[test]
fn numbers_follow_their_definition() {
    let real = |decimals| Rendering::Real { decimals };
    let integer = |unsigned, zerofill| Rendering::Integer { unsigned, zerofill };
    let cases: &[(Layout, Rendering, &[u8], &str)] = &[
        (Layout::Integer { bytes: 4 }, integer(true, 6), &[42, 0, 0, 0], "000042"),
        (Layout::Integer { bytes: 3 }, integer(false, 0), &[0xff, 0xff, 0xff], "-1"),
        (Layout::Integer { bytes: 1 }, integer(true, 0), &[0xff], "255"),
        (Layout::Float, real(None), &16_777_216_f32.to_le_bytes(), "16777200"),
        (Layout::Float, real(None), &1_046_110_000_000_f32.to_le_bytes(), "1046110000000"),
        (Layout::Float, real(None), &1e15_f32.to_le_bytes(), "1e15"),
        (Layout::Float, real(Some(3)), &2.718_1_f32.to_le_bytes(), "2.718"),
        (Layout::Double, real(None), &1e100_f64.to_le_bytes(), "1e100"),
        (Layout::Double, real(None), &10_f64.to_le_bytes(), "10"),
        (Layout::Double, real(None), &(-0.0_f64).to_le_bytes(), "-0"),
        (Layout::Double, real(Some(2)), &1.5_f64.to_le_bytes(), "1.50"),
        (Layout::Decimal { precision: 2, scale: 2 }, Rendering::Plain, &[0xb2], "0.50"),
    ];
    for (layout, rendering, content, expected) in cases {
        assert_eq!(text(*layout, rendering.clone(), content), *expected, "{layout:?} {rendering:?}");
    }
    let impossible = render(Layout::Decimal { precision: 1, scale: 0 }, Rendering::Plain, &[0xff]);
    assert_eq!(impossible.expect_err("a digit of 127").kind(), DecodeErrorKind::Malformed);
}

#[test]
fn enum_and_set_have_their_members() {
    let members = || Rendering::Members(vec!["a".into(), "b".into(), "c".into()]);
    let (number, bits) = (Layout::Enum { bytes: 1 }, Layout::Set { bytes: 1 });
    assert_eq!(text(number, members(), &[3]), "c");
    assert_eq!(text(number, members(), &[0]), "", "an invalid value");
    assert_eq!(
        render(number, members(), &[4]).expect_err("no such member").kind(),
        DecodeErrorKind::Malformed
    );
    assert_eq!(text(bits, members(), &[0b101]), "a,c");
    assert_eq!(text(bits, members(), &[0]), "");
    assert_eq!(render(bits, members(), &[8]).expect_err("no such member").kind(), DecodeErrorKind::Malformed);
}

#[test]
fn inet6_is_printed_as_mariadb_does() {
    let cases: &[(&[u8], &str)] = &[
        (&[], "::"),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "::1"),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2], "::0.1.0.2"),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4], "::ffff:1.2.3.4"),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 1, 0, 2], "::ffff:0:1:2"),
        (&[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3], "1:0:0:2::3"),
        (&[0, 1, 0, 0, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7], "1::2:3:4:5:6:7"),
        (&[0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7], "1:2:3:4:5:6:7::"),
        (&[0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6], "::1:2:3:4:5:6:0"),
        (&[0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8], "1:2:3:4:5:6:7:8"),
        (&[0xab, 0xcd], "abcd::"),
    ];
    for (content, expected) in cases {
        assert_eq!(text(Layout::Char { bytes_max: 16 }, Rendering::Inet6, content), *expected);
    }
}

#[test]
fn invalid_text_and_missing_metadata_are_errors_without_the_value() {
    let layout = Layout::Varchar { bytes_max: 10 };
    let invalid = render(layout, Rendering::Text(Charset::Utf8mb4), b"secret\xff").expect_err("not UTF-8");
    assert_eq!(invalid.to_string(), "the value is not valid text in the character set utf8mb4");
    let missing =
        render(layout, Rendering::Unknown("the column's character set"), b"secret").expect_err("unknown");
    assert_eq!(
        missing.to_string(),
        "the log does not say the column's character set: set binlog_row_metadata=FULL on the server"
    );
}

#[test]
fn an_error_leaves_nothing_behind() {
    let event = Bytes::from_static(&[2, 1, 0, 7, 0, 2, 0, 0]);
    let mut renderer = Renderer::new(DecodeLimits::default());
    let json = ColumnType { layout: Layout::Json { length_bytes: 4 }, rendering: Rendering::Plain };
    renderer.render(&json, &event, &event).expect_err("a loop");
    let year = ColumnType { layout: Layout::Year, rendering: Rendering::Plain };
    assert_eq!(renderer.render(&year, &[1], &event).expect("a year").as_str(), Some("1901"));
}
