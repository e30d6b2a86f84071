//! JSON strings with MySQL's escapes.

use bytes::BytesMut;

/// For each byte the character that follows the backslash; `u` for four digits, 0 for no escape.
static ESCAPES: [u8; 256] = escapes();

#[expect(clippy::indexing_slicing, reason = "constant indexes, checked when compiled")]
const fn escapes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[0x22] = b'"';
    table[0x5c] = b'\\';
    table
}

/// The escape of a byte; 0 if it needs none.
#[inline]
fn escape(byte: u8) -> u8 {
    ESCAPES.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Writes a string in quotes. Everything but quotes, backslashes and control characters stays as it is.
pub(super) fn write(out: &mut BytesMut, content: &[u8]) {
    out.extend_from_slice(b"\"");
    let mut rest = content;
    while let Some(plain) = rest.iter().position(|byte| escape(*byte) != 0)
        && let Some((before, [byte, after @ ..])) = rest.split_at_checked(plain)
    {
        out.extend_from_slice(before);
        match escape(*byte) {
            b'u' => {
                let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + (value - 10) };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            character => out.extend_from_slice(&[b'\\', character]),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\"");
}
