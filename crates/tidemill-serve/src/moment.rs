//! Moments as people write them: `2026-11-21`, `2026-11-21T10:30:00Z`, `2026-11-21 10:30:00.5+01:00`.
//!
//! In: a text. Out: milliseconds since 1970, or nothing if it is no such moment. Without a zone it is UTC. [`written`] goes
//! the other way, in whole seconds of UTC.

const DAY_MS: i64 = 86_400_000;

/// Milliseconds since 1970.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    let mut c = Cursor(text.as_bytes());
    let (year, month, day) = (c.digits(4)?, c.behind(b'-')?.digits(2)?, c.behind(b'-')?.digits(2)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let midnight = days_since_1970(year, month, day) * DAY_MS;
    if c.0.is_empty() {
        return Some(midnight as f64);
    }
    if !matches!(c.byte()?, b'T' | b't' | b' ') {
        return None;
    }
    let (hour, minute) = (c.digits(2)?, c.behind(b':')?.digits(2)?);
    let second = if c.takes(b':') { c.digits(2)? } else { 0 };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut ms = midnight as f64 + ((hour * 60 + minute) * 60 + second) as f64 * 1000.0;
    if c.takes(b'.') {
        ms += c.fraction()? * 1000.0;
    }
    ms -= c.zone()? * 60_000.0;
    c.0.is_empty().then_some(ms)
}

/// `2026-11-21T10:30:00Z`.
pub(crate) fn written(ms: i64) -> String {
    let (days, seconds) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS) / 1000);
    // Years of 146,097 / 400 days from a March on: the day of such a year says the month. Hinnant, civil_from_days.
    let era_days = days + 719_468;
    let (era, day) = (era_days.div_euclid(146_097), era_days.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn takes(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(found)..];
        found
    }

    fn behind(&mut self, byte: u8) -> Option<&mut Self> {
        self.takes(byte).then_some(self)
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        (0..count).try_fold(0, |n, _| {
            let digit = self.byte()?;
            digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0'))
        })
    }

    /// What stands behind the point of a second; digits beyond the ninth are passed over.
    fn fraction(&mut self) -> Option<f64> {
        let length = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(length);
        self.0 = rest;
        let nine = digits.iter().chain(std::iter::repeat(&b'0')).take(9);
        (length > 0).then(|| nine.fold(0i64, |n, digit| n * 10 + i64::from(digit - b'0')) as f64 / 1e9)
    }

    /// Minutes east of UTC.
    fn zone(&mut self) -> Option<f64> {
        if self.0.is_empty() || self.takes(b'Z') || self.takes(b'z') {
            return Some(0.0);
        }
        let sign = match self.byte()? {
            b'+' => 1.0,
            b'-' => -1.0,
            _ => return None,
        };
        let hours = self.digits(2)?;
        self.takes(b':');
        let minutes = self.digits(2)?;
        (hours < 24 && minutes < 60).then(|| sign * (hours * 60 + minutes) as f64)
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar; years are counted from March, so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::{parse, written};

    /// Expected numbers: `date -u -d TEXT +%s%3N`.
    #[test]
    fn moments_are_read_and_other_texts_are_not() {
        for (text, ms) in [
            ("1970-01-01", 0.0),
            ("2026-11-21", 1_795_219_200_000.0),
            ("2026-11-21T10:30:00Z", 1_795_257_000_000.0),
            ("2026-11-21 10:30:00.5+01:00", 1_795_253_400_500.0),
            ("2000-02-29T23:59:59.999z", 951_868_799_999.0),
            ("1969-12-31T23:59-0030", 1_740_000.0),
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        for text in
            ["", "now", "2026", "2026-13-01", "2026-02-29", "2026-11-21T", "2026-11-21T25:00", "2026-11-21x", "é"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59Z",
            "2026-11-21T10:30:00Z",
            "2100-03-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(written(parse(text).unwrap() as i64), text);
        }
        let days = (-719_000..800_000).step_by(911).map(|day| day * 86_400_000 + 5_000);
        assert_eq!(days.clone().find(|ms| parse(&written(*ms)) != Some(*ms as f64)), None);
        assert!(days.count() > 1000);
    }
}
