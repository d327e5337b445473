//! Numbers of JSON, read from bytes in one go.
//!
//! In: the body and where a number begins. Out: the number and where it ends. Decimal fractions come out correctly
//! rounded, as `str::parse` gives them, in the precision that is asked for: the short way takes only what is exact.

/// A number as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<'a> {
    text: &'a [u8],
    negative: bool,
    /// All digits as a whole number.
    mantissa: u64,
    /// The power of ten they are to be multiplied by.
    exponent: i32,
    /// Whether `mantissa` and `exponent` are all there is.
    exact: bool,
    /// Neither point nor exponent.
    whole: bool,
}

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The number that begins at `at`, and where it ends; `None` where there is none.
#[inline]
pub(super) fn read(body: &[u8], at: usize) -> Option<(Number<'_>, usize)> {
    let mut i = at;
    let negative = body.get(i) == Some(&b'-');
    i += negative as usize;
    let mut mantissa = 0u64;
    let first = i;
    i = digits(body, i, &mut mantissa);
    let before = i - first;
    // JSON has no 007.
    if before == 0 || (before > 1 && body[first] == b'0') {
        return None;
    }
    let (mut whole, mut exponent, mut count) = (true, 0i32, before);
    if body.get(i) == Some(&b'.') {
        let point = i + 1;
        i = digits(body, point, &mut mantissa);
        let behind = i - point;
        if behind == 0 {
            return None;
        }
        (whole, exponent, count) = (false, -(behind.min(100_000) as i32), count + behind);
    }
    if matches!(body.get(i), Some(b'e' | b'E')) {
        let (power, end) = power(body, i + 1)?;
        (whole, exponent, i) = (false, exponent.saturating_add(power), end);
    }
    Some((Number { text: &body[at..i], negative, mantissa, exponent, exact: count <= 19, whole }, i))
}

#[inline(always)]
fn digits(body: &[u8], mut i: usize, mantissa: &mut u64) -> usize {
    while let Some(digit) = body.get(i).map(|b| b.wrapping_sub(b'0')).filter(|d| *d <= 9) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        i += 1;
    }
    i
}

/// The power of ten behind an `e`, and where it ends.
fn power(body: &[u8], mut i: usize) -> Option<(i32, usize)> {
    let negative = body.get(i) == Some(&b'-');
    i += matches!(body.get(i), Some(b'+' | b'-')) as usize;
    let (mut power, first) = (0i32, i);
    while let Some(digit) = body.get(i).map(|b| b.wrapping_sub(b'0')).filter(|d| *d <= 9) {
        power = power.saturating_mul(10).saturating_add(i32::from(digit)).min(100_000);
        i += 1;
    }
    (i > first).then_some((if negative { -power } else { power }, i))
}

impl Number<'_> {
    /// In double precision; infinite where it is beyond.
    #[inline]
    pub fn to_f64(self) -> f64 {
        self.short().unwrap_or_else(|| self.text().parse().unwrap_or(f64::INFINITY))
    }

    /// In single precision; infinite where it is beyond.
    #[inline]
    pub fn to_f32(self) -> f32 {
        // Rounding twice differs from rounding once only where the first rounding ends in the middle between two floats.
        const MIDDLE: u64 = 1 << 28;
        const BELOW: u64 = (1 << 29) - 1;
        match self.short() {
            Some(x) if x.to_bits() & BELOW != MIDDLE && (x == 0.0 || x.abs() >= f64::from(f32::MIN_POSITIVE)) => {
                x as f32
            }
            _ => self.text().parse().unwrap_or(f32::INFINITY),
        }
    }

    /// As a whole number, which may be written with a point; `None` where it is none of 64 bits.
    pub fn to_i64(self) -> Option<i64> {
        if self.whole {
            return self.text().parse().ok();
        }
        let x = self.to_f64();
        (x.fract() == 0.0 && x.abs() <= (1u64 << 53) as f64).then_some(x as i64)
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        // Digits, signs, a point and an `e`.
        std::str::from_utf8(self.text).unwrap_or_default()
    }

    /// Digits and power of ten are both exact in double precision, so one operation rounds once: Clinger 1990.
    #[inline(always)]
    fn short(&self) -> Option<f64> {
        if !self.exact || self.mantissa > 1 << 53 || self.exponent.unsigned_abs() > 22 {
            return None;
        }
        let power = POWERS[self.exponent.unsigned_abs() as usize];
        let x = if self.exponent < 0 { self.mantissa as f64 / power } else { self.mantissa as f64 * power };
        Some(if self.negative { -x } else { x })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) {
        let (number, end) = read(text.as_bytes(), 0).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(end, text.len(), "{text}");
        assert_eq!(number.to_f64().to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        assert_eq!(number.to_f32().to_bits(), text.parse::<f32>().unwrap().to_bits(), "{text}");
    }

    #[test]
    fn numbers_that_are_hard_to_round_are_rounded_once() {
        for text in [
            "0",
            "-0",
            "-0.0",
            "1",
            "0.1",
            "16777217",
            "16777219",
            "8388608.5",
            "1.00000005960464477539062",
            "1e22",
            "1e23",
            "9007199254740993",
            "1.1754943e-38",
            "1e-45",
            "7e-46",
            "3.4028236e38",
            "1e39",
            "1e400",
            "1e-400",
            "12345678901234567890123",
            "0.000000000000000000000000001",
            "179769313486231580793e289",
            "1E+2",
            "5e-1",
        ] {
            check(text);
        }
        // A float's neighbour below, the middle, and the neighbour above: the middle is what two roundings get wrong.
        for exponent in [-20, 0, 20] {
            let low = 2f64.powi(exponent) * 1.25;
            let step = 2f64.powi(exponent - 24);
            for half in 0..6 {
                let x = low + f64::from(half) * step;
                check(&format!("{x}"));
                check(&format!("{x:e}"));
            }
        }
    }

    #[test]
    fn what_is_no_number_is_not_read() {
        for text in ["", "-", "01", "-01", ".5", "1.", "1.e3", "1e", "1e+", "+1", "NaN", "Infinity", "x"] {
            assert!(read(text.as_bytes(), 0).is_none(), "{text}");
        }
        let whole = |text: &str| read(text.as_bytes(), 0).unwrap().0.to_i64();
        assert_eq!(whole("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(whole("9223372036854775808"), None);
        assert_eq!((whole("7.0"), whole("7e2"), whole("7.5"), whole("1e30")), (Some(7), Some(700), None, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn numbers_are_read_as_the_standard_library_reads_them(
            text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"
        ) {
            check(&text);
        }

        #[test]
        fn floats_come_back(bits: u32) {
            let x = f32::from_bits(bits);
            prop_assume!(x.is_finite());
            for text in [format!("{x}"), format!("{x:e}"), format!("{}", f64::from(x))] {
                prop_assert_eq!(read(text.as_bytes(), 0).unwrap().0.to_f32().to_bits(), bits);
            }
        }
    }
}
