//! Numbers as MySQL prints them.

use std::fmt::Write as _;

use bytes::BytesMut;

use crate::decode::DecodeError;
use crate::decode::column::Rendering;
use crate::decode::layout::DECIMAL_DIGITS_BYTES;
use crate::decode::reader::{Reader, big_endian, little_endian};

use super::digits::{put_signed, put_unsigned, put_zeros};
use super::metadata_missing;

/// Significant digits of a `FLOAT`: MySQL prints no more, though some values need up to nine.
const FLOAT_DIGITS: usize = 6;

/// The most digits before the point, and the most zeros behind it plus one, before the exponent form is used.
const POINT_MAX: i32 = 15;

/// From so many shortest digits on, two candidates can be equally near to a double. MySQL then takes the one that ends
/// in an even digit, as rounding to that number of digits does; Rust's shortest digits are the upper one.
const TIE_DIGITS_MIN: usize = 15;

/// Longer than any double in the form `-d.dddddddddddddddde-ddd`.
const DOUBLE_CHARACTERS_MAX: usize = 32;

pub(super) fn integer(out: &mut BytesMut, rendering: &Rendering, content: &[u8]) -> Result<(), DecodeError> {
    let Rendering::Integer { unsigned, zerofill } = rendering else {
        return Err(metadata_missing(rendering));
    };
    let value = little_endian(content);
    if *unsigned {
        put_unsigned(out, value, usize::from(*zerofill));
        return Ok(());
    }
    // Shifting the sign bit to the top and back extends it.
    let shift = 64 - 8 * u32::try_from(content.len().clamp(1, 8)).unwrap_or(8);
    put_signed(out, (value << shift).cast_signed() >> shift);
    Ok(())
}

pub(super) fn year(out: &mut BytesMut, content: &[u8]) {
    let year = little_endian(content) & 0xff;
    put_unsigned(out, if year == 0 { 0 } else { 1900 + year }, 4);
}

pub(super) fn float(out: &mut BytesMut, rendering: &Rendering, content: &[u8]) -> Result<(), DecodeError> {
    let value = f64::from(f32::from_le_bytes(fixed(content)?));
    if let Rendering::Real { decimals: Some(decimals) } = rendering {
        return fixed_point(out, value, *decimals);
    }
    let mut digits = Digits::default();
    written(write!(digits, "{:.*e}", FLOAT_DIGITS - 1, finite(value)?))?;
    digits.lay_out(out, false)
}

pub(super) fn double(out: &mut BytesMut, rendering: &Rendering, content: &[u8]) -> Result<(), DecodeError> {
    let value = f64::from_le_bytes(fixed(content)?);
    match rendering {
        Rendering::Real { decimals: Some(decimals) } => fixed_point(out, value, *decimals),
        _ => shortest(out, value, false),
    }
}

/// A double as MySQL prints it inside JSON: as elsewhere, but `1.0` and not `1`.
pub(crate) fn double_as_json(out: &mut BytesMut, value: f64) -> Result<(), DecodeError> {
    shortest(out, value, true)
}

fn fixed_point(out: &mut BytesMut, value: f64, decimals: u8) -> Result<(), DecodeError> {
    written(write!(out, "{:.*}", usize::from(decimals), finite(value)?))
}

fn shortest(out: &mut BytesMut, value: f64, point_always: bool) -> Result<(), DecodeError> {
    let mut digits = Digits::default();
    written(write!(digits, "{:e}", finite(value)?))?;
    let significant = digits.significant();
    if significant >= TIE_DIGITS_MIN {
        let mut rounded = Digits::default();
        written(write!(rounded, "{:.*e}", significant - 1, value))?;
        if rounded.text().parse() == Ok(value) {
            digits = rounded;
        }
    }
    digits.lay_out(out, point_always)
}

fn finite(value: f64) -> Result<f64, DecodeError> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(DecodeError::malformed("a floating point number is not finite"))
    }
}

fn fixed<const N: usize>(content: &[u8]) -> Result<[u8; N], DecodeError> {
    content.try_into().map_err(|_| DecodeError::malformed("a number has the wrong size"))
}

fn written(result: std::fmt::Result) -> Result<(), DecodeError> {
    result.map_err(|_| DecodeError::malformed("a number is longer than any number can be"))
}

/// A number as `{:e}` writes it, on the stack.
#[derive(Default)]
struct Digits {
    buffer: [u8; DOUBLE_CHARACTERS_MAX],
    length: usize,
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.buffer.get_mut(self.length..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl Digits {
    fn text(&self) -> &str {
        self.buffer.get(..self.length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// How many digits stand in front of the exponent.
    fn significant(&self) -> usize {
        self.text().bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count()
    }

    /// Writes the number the way MySQL does: without exponent as long as the point lies between 14 places before the
    /// first digit and 15 behind it, or among the digits; with an exponent (never with a plus sign) beyond.
    fn lay_out(&self, out: &mut BytesMut, point_always: bool) -> Result<(), DecodeError> {
        let malformed = || DecodeError::malformed("a floating point number cannot be printed");
        let text = self.buffer.get(..self.length).ok_or_else(malformed)?;
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let exponent_at = text.iter().position(|byte| *byte == b'e').ok_or_else(malformed)?;
        let (mantissa, exponent) = text.split_at_checked(exponent_at).ok_or_else(malformed)?;
        let exponent: i32 = std::str::from_utf8(exponent)
            .ok()
            .and_then(|exponent| exponent.strip_prefix('e')?.parse().ok())
            .ok_or_else(malformed)?;

        let mut buffer = [0; DOUBLE_CHARACTERS_MAX];
        let mut length = 0;
        for (slot, digit) in buffer.iter_mut().zip(mantissa.iter().filter(|byte| **byte != b'.')) {
            *slot = *digit;
            length += 1;
        }
        let digits = buffer.get(..length).ok_or_else(malformed)?;
        let trailing = digits.iter().rev().take_while(|digit| **digit == b'0').count();
        let digits = digits.get(..(length - trailing).max(1)).ok_or_else(malformed)?;

        if negative {
            out.extend_from_slice(b"-");
        }
        let point = exponent + 1; // How many digits stand before the point.
        let whole = usize::try_from(point).is_ok_and(|point| digits.len() <= point);
        if (point > POINT_MAX && whole) || point <= -POINT_MAX {
            let (first, rest) = digits.split_at_checked(1).ok_or_else(malformed)?;
            out.extend_from_slice(first);
            if !rest.is_empty() {
                out.extend_from_slice(b".");
                out.extend_from_slice(rest);
            }
            out.extend_from_slice(b"e");
            put_signed(out, i64::from(exponent));
            return Ok(());
        }
        match usize::try_from(point) {
            Err(_) | Ok(0) => {
                out.extend_from_slice(b"0.");
                put_zeros(out, usize::try_from(-point).unwrap_or_default());
                out.extend_from_slice(digits);
            }
            Ok(point) => match digits.split_at_checked(point) {
                Some((whole, fraction)) if !fraction.is_empty() => {
                    out.extend_from_slice(whole);
                    out.extend_from_slice(b".");
                    out.extend_from_slice(fraction);
                }
                _ => {
                    out.extend_from_slice(digits);
                    put_zeros(out, point.saturating_sub(digits.len()));
                    if point_always {
                        out.extend_from_slice(b".0");
                    }
                }
            },
        }
        Ok(())
    }
}

/// A packed `DECIMAL`, with all digits of its scale.
///
/// Each side of the point is cut into groups of nine digits in four bytes, counted from the point; the outermost group
/// has as many bytes as it needs. The highest bit is set for positive numbers; negative ones have every bit inverted.
///
/// Source: <https://dev.mysql.com/doc/refman/9.7/en/precision-math-decimal-characteristics.html>
pub(crate) fn decimal(
    out: &mut BytesMut,
    precision: u8,
    scale: u8,
    content: &[u8],
) -> Result<(), DecodeError> {
    let negative = content.first().is_some_and(|byte| byte & 0x80 == 0);
    let mut groups =
        Groups { content: Reader::new(content), first: true, invert: if negative { 0xff } else { 0 } };
    if negative {
        out.extend_from_slice(b"-");
    }

    let whole = precision.saturating_sub(scale);
    let mut significant = false;
    for digits in std::iter::once(whole % 9).chain(std::iter::repeat_n(9, usize::from(whole / 9))) {
        let value = groups.next(digits)?;
        if significant {
            put_unsigned(out, value, 9);
        } else if value != 0 {
            significant = true;
            put_unsigned(out, value, 0);
        }
    }
    if !significant {
        out.extend_from_slice(b"0");
    }
    if scale > 0 {
        out.extend_from_slice(b".");
    }
    for digits in std::iter::repeat_n(9, usize::from(scale / 9)).chain(std::iter::once(scale % 9)) {
        let value = groups.next(digits)?;
        if digits > 0 {
            put_unsigned(out, value, usize::from(digits));
        }
    }
    Ok(())
}

struct Groups<'a> {
    content: Reader<'a>,
    first: bool,
    invert: u8,
}

impl Groups<'_> {
    fn next(&mut self, digits: u8) -> Result<u64, DecodeError> {
        let bytes = DECIMAL_DIGITS_BYTES.get(usize::from(digits)).copied().unwrap_or_default();
        if bytes == 0 {
            return Ok(0);
        }
        let bytes = self.content.take(usize::from(bytes))?;
        let mut plain = [0; 4];
        for (to, from) in plain.iter_mut().zip(bytes) {
            *to = from ^ self.invert;
        }
        if std::mem::take(&mut self.first)
            && let [sign, ..] = &mut plain
        {
            *sign ^= 0x80;
        }
        let value = big_endian(plain.get(..bytes.len()).unwrap_or_default());
        if value < 10_u64.pow(u32::from(digits)) {
            Ok(value)
        } else {
            Err(DecodeError::malformed("a DECIMAL has an impossible group of digits"))
        }
    }
}
