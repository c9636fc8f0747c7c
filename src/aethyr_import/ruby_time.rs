//! Ruby's `Time` in Marshal format: two packed words, always in UTC, and the nanoseconds beside
//! them.

use crate::event::Timestamp;

/// The length of the packed words.
const BYTES: usize = 8;

/// The variables of a `Time` that change its value. Its offset and its zone only say how it was
/// shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Nanos {
    pub numerator: i64,
    pub denominator: Option<i64>,
}

/// Decodes a time. Returns what is wrong with it if it is not valid.
pub(super) fn decode(bytes: &[u8], nanos: Nanos) -> Result<Timestamp, &'static str> {
    let words: [u8; BYTES] = bytes.try_into().map_err(|_| "a time must have 8 bytes")?;
    let packed = u64::from_le_bytes(words);
    let field = |shift: u32, bits: u32| {
        let mask = (1u64 << bits).wrapping_sub(1);
        i64::try_from((packed >> shift) & mask).unwrap_or_default()
    };
    if field(31, 1) != 1 {
        return Err("the time has an unsupported layout");
    }
    let date = Date { year: field(14, 16).saturating_add(1900), month: field(10, 4), day: field(5, 5) };
    let (hour, minute, second) = (field(0, 5), field(58, 6), field(52, 6));
    let micros = field(32, 20);
    let days = date.days_since_1970().ok_or("the time has an invalid date")?;
    // 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 || micros > 999_999 {
        return Err("the time has an invalid time of day");
    }
    let below_micro = match nanos.denominator.unwrap_or(1) {
        denominator if denominator > 0 => nanos.numerator.div_euclid(denominator),
        _ => return Err("the time has an invalid fraction"),
    };
    if !(0..1000).contains(&below_micro) {
        return Err("the time has an invalid fraction");
    }
    let of_day = hour.saturating_mul(3600).saturating_add(minute.saturating_mul(60)).saturating_add(second);
    let seconds = days.saturating_mul(86_400).saturating_add(of_day);
    let nanos = micros.saturating_mul(1000).saturating_add(below_micro);
    let nanos = i32::try_from(nanos).unwrap_or_default();
    Timestamp::new(seconds, nanos).ok_or("the year of the time is not supported")
}

struct Date {
    year: i64,
    /// From 0 on.
    month: i64,
    day: i64,
}

impl Date {
    /// Returns `None` if there is no such day.
    fn days_since_1970(&self) -> Option<i64> {
        let month = u8::try_from(self.month.saturating_add(1)).ok()?;
        let month = time::Month::try_from(month).ok()?;
        let (year, day) = (i32::try_from(self.year).ok()?, u8::try_from(self.day).ok()?);
        let date = time::Date::from_calendar_date(year, month, day).ok()?;
        Some(i64::from(date.to_julian_day()).saturating_sub(UNIX_EPOCH_JULIAN_DAY))
    }
}

/// The Julian day of 1970-01-01.
const UNIX_EPOCH_JULIAN_DAY: i64 = 2_440_588;
