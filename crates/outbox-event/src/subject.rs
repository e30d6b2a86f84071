//! Subject tokens made from data.
//!
//! The rules of subjects: <https://docs.nats.io/nats-concepts/subjects>.

/// Appends `value` to `out` as exactly one subject token.
///
/// Letters, digits and printable ASCII stay as they are, except what has a meaning in subjects (`.`, `*`, `>`, `$`),
/// the escape character `%` itself, and white space; these, control characters and all bytes past ASCII become `%XX`.
/// The empty value becomes a lone `%`. So no value can add a level, a wildcard or an empty token, and two different
/// values never yield the same token.
///
/// ```
/// let mut out = String::from("orders.");
/// outbox_event::subject::encode_token("a.b*", &mut out);
/// assert_eq!(out, "orders.a%2Eb%2A");
/// ```
pub fn encode_token(value: &str, out: &mut String) {
    if value.is_empty() {
        out.push('%');
        return;
    }
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'.' | b'*' | b'>' | b'$' | b'%') {
            out.push(char::from(byte));
        } else {
            push_escaped(byte, out);
        }
    }
}

/// The value that [`encode_token`] made `token` of; `None` if no value yields this token.
#[must_use]
pub fn decode_token(token: &str) -> Option<String> {
    if token == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let value = String::from_utf8(bytes).ok()?;
    let mut again = String::with_capacity(token.len());
    encode_token(&value, &mut again);
    (again == token).then_some(value)
}

pub(crate) fn push_escaped(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    for digit in [byte >> 4, byte & 0x0F] {
        out.push(HEX.get(usize::from(digit)).map_or('0', |&digit| char::from(digit)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(value: &str) -> String {
        let mut out = String::new();
        encode_token(value, &mut out);
        out
    }

    #[test]
    fn tokens_of_known_values() {
        for (value, expected) in [
            ("order", "order"),
            ("OrderPlaced-v1_x", "OrderPlaced-v1_x"),
            ("", "%"),
            ("%", "%25"),
            (".", "%2E"),
            ("*", "%2A"),
            (">", "%3E"),
            ("$JS", "%24JS"),
            ("a b\r\n", "a%20b%0D%0A"),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(token(value), expected, "{value:?}");
        }
    }

    #[test]
    fn a_token_that_no_value_yields_is_refused() {
        for text in ["%2e", "%41", "%4", "%", "a.b", "%FF", ""].iter().filter(|text| **text != "%") {
            assert_eq!(decode_token(text).filter(|value| token(value) != *text), None, "{text:?}");
        }
        assert_eq!(decode_token("%41"), None, "a letter needs no escape");
        assert_eq!(decode_token("%2e"), None, "escapes are upper case");
    }

    proptest! {
        #[test]
        fn a_token_is_one_token(value in ".*") {
            let token = token(&value);
            prop_assert!(!token.is_empty());
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(!token.contains(['.', '*', '>', '$']));
        }

        #[test]
        fn a_token_names_its_value(value in "\\PC*|[.*>$% \\r\\n\\t]*") {
            prop_assert_eq!(decode_token(&token(&value)), Some(value));
        }
    }
}
