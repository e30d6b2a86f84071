//! What the server says, as recorded from MySQL 9.7.

use proptest::prelude::*;

use super::*;

fn decode(charset: Charset, bytes: &[u8]) -> Option<String> {
    charset.decode(Bytes::copy_from_slice(bytes)).ok().map(|text| text.as_str().to_owned())
}

#[test]
fn text_is_decoded_as_the_server_does() {
    let cases: &[(Charset, &[u8], Option<&str>)] = &[
        (Charset::Utf8mb4, "é😀".as_bytes(), Some("é😀")),
        (Charset::Utf8mb4, b"\xff", None),
        (Charset::Utf8mb3, b"\xed\xa0\x80", None),
        (Charset::Ascii, b"abc", Some("abc")),
        (Charset::Ascii, b"\x80", None),
        (Charset::Latin1, b"\x80\x81\xe9\x00", Some("€\u{81}é\0")),
        (Charset::Latin2, b"\xb1", Some("ą")),
        (Charset::Cp1251, b"\x98", None),
        (Charset::Koi8r, b"\xf0\xd2", Some("Пр")),
        (Charset::Swe7, b"[a}", Some("Äaå")),
        (Charset::Swe7, b"\x7f", None),
        (Charset::Greek, b"\xa4", None),
        (Charset::Tis620, b"\xa1\xa0", None),
        (Charset::Ucs2, b"\x00\xe9\x30\x42", Some("éあ")),
        (Charset::Ucs2, b"\xd8\x3d\xde\x00", None),
        (Charset::Utf16, b"\xd8\x3d\xde\x00", Some("😀")),
        (Charset::Utf16, b"\xd8\x3d", None),
        (Charset::Utf16, b"\x00", None),
        (Charset::Utf16le, b"\x3d\xd8\x00\xde", Some("😀")),
        (Charset::Utf32, b"\x00\x01\xf6\x00", Some("😀")),
        (Charset::Utf32, b"\x00\x11\x00\x00", None),
        (Charset::Sjis, b"\x93\xfa\x96\x7b\xb1\\", Some("日本ｱ\\")),
        (Charset::Sjis, b"\x81\x60", Some("〜")),
        (Charset::Cp932, b"\x81\x60", Some("～")),
        (Charset::Sjis, b"\x80", None),
        (Charset::Sjis, b"\x93", None),
        (Charset::Ujis, b"\x8e\xb1\x8f\xa2\xb7\xa1\xc0", Some("ｱ~\\")),
        (Charset::Ujis, b"\xf9\xa1", Some("\u{e178}")),
        (Charset::Eucjpms, b"\x8f\xf3\xf3\x8f\xf4\xfe\xa1\xc0", Some("ⅰ黑＼")),
        (Charset::Eucjpms, b"\x8f\xf5\xa1", Some("\u{e3ac}")),
        (Charset::Big5, b"\xc6\xa1\xc7\x40\xc7\xf3\xa4\x40", Some("ヾエ⑴一")),
        (Charset::Gbk, b"\xd6\xd0", Some("中")),
        (Charset::Gbk, b"\x80", None),
        (Charset::Gb2312, b"\xa1\xaa", Some("―")),
        (Charset::Gb18030, b"\x94\x39\xfc\x36\xfe\x59", Some("😀\u{e81e}")),
        (Charset::Euckr, b"\xb0\xa1", Some("가")),
        (Charset::Binary, b"a", None),
    ];
    for (charset, bytes, expected) in cases {
        assert_eq!(decode(*charset, bytes).as_deref(), *expected, "{charset:?} {bytes:02x?}");
    }
}

#[test]
fn collations_belong_to_their_sets() {
    let cases = [
        (8, Some("latin1")),
        (33, Some("utf8mb3")),
        (63, Some("binary")),
        (255, Some("utf8mb4")),
        (323, Some("utf8mb4")),
        (608, Some("utf8mb4")),
        (1057, Some("utf8mb3")),
        (1125, Some("utf16")),
        (2304, Some("utf8mb4")),
        (3271, Some("utf32")),
        (0, None),
        (17, None),
        (100, None),
        (1024, None),
        (1271, None),
        (u32::MAX, None),
    ];
    for (id, name) in cases {
        assert_eq!(Charset::from_collation(id).map(Charset::name), name, "{id}");
    }
}

#[test]
fn names_find_their_sets() {
    for charset in Charset::ALL {
        assert_eq!(Charset::from_name(charset.name()), Some(*charset));
    }
    assert_eq!(Charset::from_name("utf8"), Some(Charset::Utf8mb3));
    assert_eq!(Charset::from_name("UTF8MB4"), Some(Charset::Utf8mb4));
    assert_eq!(Charset::from_name("klingon"), None);
}

#[test]
fn utf8_is_not_copied() {
    let bytes = Bytes::from_static("grüße".as_bytes());
    let text = Charset::Utf8mb4.decode(bytes.clone()).expect("valid text");
    assert_eq!(text.as_bytes().as_ptr(), bytes.as_ptr());
}

proptest! {
    #[test]
    fn any_bytes_are_text_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for charset in Charset::ALL {
            if let Ok(text) = charset.decode(Bytes::from(bytes.clone())) {
                prop_assert!(std::str::from_utf8(text.as_bytes()).is_ok());
            }
        }
    }
}
