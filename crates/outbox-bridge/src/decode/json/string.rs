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

/// How many bytes there are before the first that needs an escape.
fn plain_bytes(content: &[u8]) -> usize {
    // Sixteen at a time without a branch, which becomes a few vector instructions.
    let is_plain = |chunk: &&[u8]| {
        !chunk.iter().fold(false, |any, byte| any | (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\'))
    };
    let plain = 16 * content.chunks_exact(16).take_while(is_plain).count();
    let rest = content.get(plain..).unwrap_or_default();
    plain + rest.iter().position(|byte| escape(*byte) != 0).unwrap_or(rest.len())
}

/// Writes a string in quotes. Everything but quotes, backslashes and control characters stays as it is.
pub(super) fn write(out: &mut BytesMut, content: &[u8]) {
    out.extend_from_slice(b"\"");
    let mut rest = content;
    while let Some((before, [byte, after @ ..])) = rest.split_at_checked(plain_bytes(rest)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out, content);
        out.to_vec()
    }

    /// Whatever the length of what is looked through at a time: every byte, at every place of a longer text.
    #[test]
    fn every_byte_is_escaped_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            let escaped = match escape(byte) {
                0 => vec![byte],
                b'u' => format!("\\u{byte:04x}").into_bytes(),
                character => vec![b'\\', character],
            };
            for place in 0..40 {
                let text = |middle: &[u8]| [&vec![b'.'; place], middle, &vec![b'~'; 39 - place]].concat();
                let expected = [&b"\""[..], &text(&escaped), b"\""].concat();
                assert_eq!(written(&text(&[byte])), expected, "{byte:#x} at {place}");
            }
        }
        assert_eq!(written(b"\"\\\n\x1f"), br#""\"\\\n\u001f""#);
    }
}
