//! Documents recorded from MySQL 9.7, and documents that no server writes.

use super::*;

fn text(document: &[u8]) -> Result<String, DecodeError> {
    text_up_to(document, usize::MAX)
}

fn text_up_to(document: &[u8], bytes_max: usize) -> Result<String, DecodeError> {
    let mut out = BytesMut::new();
    write(document, bytes_max, &mut out)?;
    Ok(String::from_utf8(out.to_vec()).expect("UTF-8"))
}

fn double(value: f64) -> String {
    let mut document = vec![11];
    document.extend(value.to_le_bytes());
    text(&document).expect("a double")
}

#[test]
fn doubles_are_printed_as_the_server_does() {
    let cases = [
        (1e100, "1e100"),
        (1.5e-7, "0.00000015"),
        (123_456_789_012_345_680_000.0, "1.2345678901234568e20"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (1.0, "1.0"),
        (100.0, "100.0"),
        (1e14, "100000000000000.0"),
        (1e15, "1e15"),
        (1e16, "1e16"),
        (1e17, "1e17"),
        (-1.5e16, "-1.5e16"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e308"),
        (1e-14, "0.00000000000001"),
        (1e-15, "0.000000000000001"),
        (1e-16, "1e-16"),
        (1.234_567_890_123_456_7e-5, "0.000012345678901234568"),
        (2_277_548_100_214_734.5, "2277548100214734.5"),
        // Half-way between two shortest forms.
        (2_960_795_489_811_569.0 / 4.0, "740198872452892.2"),
        (-56_967_143_623_773.0 / 32.0, "-1780223238242.9062"),
    ];
    for (value, expected) in cases {
        assert_eq!(double(value), expected);
    }
    assert!(text(&[11, 0, 0, 0, 0, 0, 0, 0xf0, 0x7f]).is_err(), "infinity");
}

#[test]
fn scalars_are_printed_as_the_server_does() {
    let cases: &[(&[u8], &str)] = &[
        (&[], "null"),
        (&[4, 0], "null"),
        (&[4, 1], "true"),
        (&[4, 2], "false"),
        (&[5, 0xff, 0xff], "-1"),
        (&[6, 0xff, 0xff], "65535"),
        (&[7, 0, 0, 0, 0x80], "-2147483648"),
        (&[8, 0xff, 0xff, 0xff, 0xff], "4294967295"),
        (&[9, 0, 0, 0, 0, 0, 0, 0, 0x80], "-9223372036854775808"),
        (&[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "18446744073709551615"),
        (b"\x0c\x0ba\"\\/\x08\x0c\n\r\t\x01\x1f", r#""a\"\\/\b\f\n\r\t\u0001\u001f""#),
        (&[12, 3, 0xc3, 0xa9, 0x7f], "\"é\u{7f}\""),
        (&[15, 252, 0], r#""base64:type252:""#),
        (&[15, 15, 2, 0xca, 0xfe], r#""base64:type15:yv4=""#),
        (&[15, 246, 4, 3, 2, 0x81, 0x32], "1.50"),
        (&[0, 0, 0, 4, 0], "{}"),
        (&[2, 0, 0, 4, 0], "[]"),
        (&[1, 0, 0, 0, 0, 8, 0, 0, 0], "{}"),
        (&[3, 0, 0, 0, 0, 8, 0, 0, 0], "[]"),
        // A large array with a 32-bit number in its entry.
        (&[3, 1, 0, 0, 0, 13, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff], "[-1]"),
    ];
    for (document, expected) in cases {
        assert_eq!(text(document).expect("a document"), *expected, "{document:02x?}");
    }
}

/// Arrays in arrays, innermost empty.
fn nested(depth: usize) -> Vec<u8> {
    let mut value = vec![0, 0, 4, 0];
    for _ in 1..depth {
        let size = u16::try_from(value.len() + 7).expect("a small array");
        let mut outer = vec![1, 0];
        outer.extend(size.to_le_bytes());
        outer.extend([2, 7, 0]);
        outer.append(&mut value);
        value = outer;
    }
    value.insert(0, 2);
    value
}

#[test]
fn nesting_is_bounded_as_on_the_server() {
    assert_eq!(text(&nested(100)).expect("100 levels"), format!("{}{}", "[".repeat(100), "]".repeat(100)));
    assert_eq!(text(&nested(101)).expect_err("101 levels").kind(), DecodeErrorKind::Malformed);
}

#[test]
fn offsets_that_lead_back_are_an_error() {
    // An array whose element is the array itself.
    assert_eq!(text(&[2, 1, 0, 7, 0, 2, 0, 0]).expect_err("a loop").kind(), DecodeErrorKind::Malformed);
    // Thirty arrays, each pointing twice to the next: a billion elements if written out.
    let mut document = vec![2];
    for level in 0..30_u16 {
        let size = 10 * (30 - level) + 4;
        document.extend([2, 0]);
        document.extend(size.to_le_bytes());
        document.extend([2, 10, 0, 2, 10, 0]);
    }
    document.extend([0, 0, 4, 0]);
    assert_eq!(text(&document).expect_err("an explosion").kind(), DecodeErrorKind::Malformed);
}

#[test]
fn output_is_limited() {
    let document = b"\x0c\x03abc";
    assert_eq!(text_up_to(document, 5).expect("five bytes"), "\"abc\"");
    assert_eq!(text_up_to(document, 4).expect_err("too long").kind(), DecodeErrorKind::LimitExceeded);
}

#[test]
fn the_longest_legitimate_expansion_is_allowed() {
    let mut document = vec![12, 0x80, 0x40]; // 8192 characters.
    document.extend([1; 8192]);
    assert_eq!(text(&document).expect("control characters").len(), 2 + 6 * 8192);
}
