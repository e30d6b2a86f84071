//! Dates and times as MySQL prints them; timestamps in UTC.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html>, and the sections on `TIME2`,
//! `DATETIME2` and `TIMESTAMP2` of <https://dev.mysql.com/doc/internals/en/date-and-time-data-type-representation.html>

use bytes::BytesMut;

use crate::decode::DecodeError;
use crate::decode::reader::{big_endian, little_endian};

use super::digits::put_unsigned;

/// What `DATETIME` adds so that its bytes sort like its values.
const DATETIME_OFFSET: u64 = 0x80_0000_0000;

fn put_date(out: &mut BytesMut, year: u64, month: u64, day: u64) {
    put_unsigned(out, year, 4);
    out.extend_from_slice(b"-");
    put_unsigned(out, month, 2);
    out.extend_from_slice(b"-");
    put_unsigned(out, day, 2);
}

fn put_clock(out: &mut BytesMut, hour: u64, minute: u64, second: u64) {
    put_unsigned(out, hour, 2);
    out.extend_from_slice(b":");
    put_unsigned(out, minute, 2);
    out.extend_from_slice(b":");
    put_unsigned(out, second, 2);
}

/// Seconds behind the point, as many digits as the column has.
fn put_fraction(out: &mut BytesMut, microseconds: u64, fraction: u8) {
    if fraction > 0 {
        let fraction = fraction.min(6);
        let value = microseconds / 10_u64.pow(6 - u32::from(fraction));
        out.extend_from_slice(b".");
        put_unsigned(out, value, usize::from(fraction));
    }
}

/// The fraction of a row image, whose bytes hold two, four or six digits.
fn microseconds(bytes: &[u8]) -> u64 {
    let missing = 3_u32.saturating_sub(u32::try_from(bytes.len()).unwrap_or(3));
    big_endian(bytes) * 100_u64.pow(missing)
}

/// `year << 9 | month << 5 | day`.
pub(super) fn date(out: &mut BytesMut, content: &[u8]) {
    let date = little_endian(content);
    put_date(out, date >> 9, date >> 5 & 15, date & 31);
}

/// The decimal number `hhmmss`, signed, in three bytes.
pub(super) fn old_time(out: &mut BytesMut, content: &[u8]) {
    let time = little_endian(content);
    let (sign, time) = if time & 0x80_0000 != 0 { (&b"-"[..], 0x100_0000 - time) } else { (&b""[..], time) };
    out.extend_from_slice(sign);
    put_clock(out, time / 10_000, time / 100 % 100, time % 100);
}

/// The decimal number `YYYYMMDDhhmmss`.
pub(super) fn old_datetime(out: &mut BytesMut, content: &[u8]) {
    let (date, time) = (little_endian(content) / 1_000_000, little_endian(content) % 1_000_000);
    put_date(out, date / 10_000, date / 100 % 100, date % 100);
    out.extend_from_slice(b" ");
    put_clock(out, time / 10_000, time / 100 % 100, time % 100);
}

pub(super) fn old_timestamp(out: &mut BytesMut, content: &[u8]) {
    put_timestamp(out, little_endian(content), 0, 0);
}

/// Seconds since the epoch in four bytes, then the fraction.
pub(super) fn timestamp(out: &mut BytesMut, fraction: u8, content: &[u8]) {
    let (seconds, rest) = content.split_at_checked(4).unwrap_or((content, &[]));
    put_timestamp(out, big_endian(seconds), microseconds(rest), fraction);
}

fn put_timestamp(out: &mut BytesMut, seconds: u64, microseconds: u64, fraction: u8) {
    if seconds == 0 && microseconds == 0 {
        // Not the epoch, which TIMESTAMP cannot hold, but the zero date.
        out.extend_from_slice(b"0000-00-00 00:00:00");
    } else {
        let (year, month, day) = civil(seconds / 86_400);
        put_date(out, year, month, day);
        out.extend_from_slice(b" ");
        put_clock(out, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    }
    put_fraction(out, microseconds, fraction);
}

/// The date of a day counted from 1970-01-01, by the proleptic Gregorian calendar.
///
/// Years are counted from 1 March of the year 0, so that a leap day is the last of its year; 146,097 days are 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Five bytes of date and time above [`DATETIME_OFFSET`], then the fraction.
pub(super) fn datetime(out: &mut BytesMut, fraction: u8, content: &[u8]) -> Result<(), DecodeError> {
    let (whole, rest) = content.split_at_checked(5).unwrap_or((content, &[]));
    let whole = big_endian(whole)
        .checked_sub(DATETIME_OFFSET)
        .ok_or_else(|| DecodeError::malformed("a DATETIME is negative"))?;
    put_datetime(out, whole);
    put_fraction(out, microseconds(rest), fraction);
    Ok(())
}

/// Three bytes of time above an offset, then the fraction; a negative time is the complement of both together.
pub(super) fn time(out: &mut BytesMut, fraction: u8, content: &[u8]) {
    let bits = 8 * u32::try_from(content.len().clamp(3, 6)).unwrap_or(6);
    let offset = 1_u64 << (bits - 1);
    let value = big_endian(content);
    let (negative, value) = if value < offset { (true, offset - value) } else { (false, value - offset) };
    let fraction_bits = bits - 24;
    let whole = value >> fraction_bits;
    let rest = value & ((1 << fraction_bits) - 1);
    put_time(out, negative, whole);
    put_fraction(out, rest * 100_u64.pow(3_u32.saturating_sub(fraction_bits / 8)), fraction);
}

fn put_datetime(out: &mut BytesMut, whole: u64) {
    put_packed_date(out, whole);
    out.extend_from_slice(b" ");
    put_clock(out, whole >> 12 & 31, whole >> 6 & 63, whole & 63);
}

/// `(year * 13 + month) << 22 | day << 17 | hour << 12 | minute << 6 | second`.
fn put_packed_date(out: &mut BytesMut, whole: u64) {
    let months = whole >> 22;
    put_date(out, months / 13, months % 13, whole >> 17 & 31);
}

fn put_time(out: &mut BytesMut, negative: bool, whole: u64) {
    let sign = if negative { &b"-"[..] } else { b"" };
    out.extend_from_slice(sign);
    put_clock(out, whole >> 12 & 1023, whole >> 6 & 63, whole & 63);
}

/// The date in a packed `DATETIME`, as JSON holds it.
pub(crate) fn packed_date(out: &mut BytesMut, packed: i64) {
    put_packed_date(out, packed.unsigned_abs() >> 24);
}

/// A packed `DATETIME`, as JSON holds it: date and time above 24 bits of microseconds.
pub(crate) fn packed_datetime(out: &mut BytesMut, packed: i64) {
    put_datetime(out, packed.unsigned_abs() >> 24);
    put_fraction(out, packed.unsigned_abs() & 0xff_ffff, 6);
}

/// A packed `TIME`, as JSON holds it.
pub(crate) fn packed_time(out: &mut BytesMut, packed: i64) {
    put_time(out, packed < 0, packed.unsigned_abs() >> 24);
    put_fraction(out, packed.unsigned_abs() & 0xff_ffff, 6);
}
