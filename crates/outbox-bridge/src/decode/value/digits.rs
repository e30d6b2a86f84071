//! Decimal digits, written without the formatting machinery.

use bytes::BytesMut;

/// Writes a number, filled with zeros in front to `width` characters.
#[inline]
pub(crate) fn put_unsigned(out: &mut BytesMut, value: u64, width: usize) {
    let mut buffer = [0; 20]; // As many digits as `u64::MAX` has.
    let mut length = 0;
    let mut rest = value;
    for slot in buffer.iter_mut().rev() {
        let [digit, ..] = (rest % 10).to_le_bytes();
        *slot = b'0' + digit;
        length += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if width > length {
        put_zeros(out, width - length);
    }
    out.extend_from_slice(buffer.get(buffer.len() - length..).unwrap_or_default());
}

/// Writes a number with a minus sign if it is negative.
#[inline]
pub(crate) fn put_signed(out: &mut BytesMut, value: i64) {
    if value < 0 {
        out.extend_from_slice(b"-");
    }
    put_unsigned(out, value.unsigned_abs(), 0);
}

pub(crate) fn put_zeros(out: &mut BytesMut, count: usize) {
    out.resize(out.len() + count, b'0');
}
