//! Numbers of JSON, read from bytes in one go.
//!
//! In: the body and where a number begins. Out: the number and where it ends. Decimal fractions come out correctly
//! rounded, as `str::parse` gives them, in the precision that is asked for: the short way takes only what is exact. Most
//! arrays hold plain numbers and nothing else; those are read without a question for each digit.

use super::eight;

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

/// Those that are exact in single precision, and that plain numbers need.
const POWERS_F32: [f32; 9] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

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
        self.short().and_then(narrow).unwrap_or_else(|| self.text().parse().unwrap_or(f32::INFINITY))
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

/// The float nearest to the decimal that `x` is the nearest double of; `None` where that cannot be told from `x`.
#[inline(always)]
fn narrow(x: f64) -> Option<f32> {
    // Rounding twice differs from rounding once only where the first rounding ends in the middle between two floats.
    const MIDDLE: u64 = 1 << 28;
    const BELOW: u64 = (1 << 29) - 1;
    (x.to_bits() & BELOW != MIDDLE && (x == 0.0 || x.abs() >= f64::from(f32::MIN_POSITIVE))).then_some(x as f32)
}

/// What elements of an array are read as.
pub(super) trait Float: Copy {
    /// `mantissa` (below 2^53) divided by a power of ten up to 10^8, rounded once; `None` where that takes more than this.
    fn decimal(mantissa: u64, negative: bool, places: usize) -> Option<Self>;

    /// Appends numbers from `at` on, many at a time.
    fn many(_body: &[u8], at: usize, _out: &mut Vec<Self>) -> Plain {
        Plain::Element(at)
    }
}

impl Float for f64 {
    #[inline(always)]
    fn decimal(mantissa: u64, negative: bool, places: usize) -> Option<Self> {
        let x = mantissa as i64 as f64 / POWERS[places];
        Some(if negative { -x } else { x })
    }
}

impl Float for f32 {
    #[inline(always)]
    fn decimal(mantissa: u64, negative: bool, places: usize) -> Option<Self> {
        // Both are exact in single precision as well, most of the time.
        if mantissa <= 1 << 24 {
            let x = mantissa as i64 as f32 / POWERS_F32[places];
            return Some(if negative { -x } else { x });
        }
        f64::decimal(mantissa, negative, places).and_then(narrow)
    }

    #[inline(always)]
    fn many(body: &[u8], at: usize, out: &mut Vec<Self>) -> Plain {
        eight::read(body, at, out)
    }
}

/// Appends the numbers from `at` on, up to one that is not plain: few digits, perhaps a minus before and a point among
/// them, a comma or the end of the array behind. Where the next element begins, or what follows the array.
#[inline]
pub(super) fn plain<T: Float>(body: &[u8], at: usize, out: &mut Vec<T>) -> Plain {
    let mut at = match T::many(body, at, out) {
        Plain::Element(at) => at,
        ended => return ended,
    };
    while let Some((number, end, after)) = plain_number(body, at) {
        match after {
            // Some write a space behind the comma.
            b',' => at = end + 1 + (body.get(end + 1) == Some(&b' ')) as usize,
            b']' => {
                out.push(number);
                return Plain::Ended(end + 1);
            }
            _ => break,
        }
        out.push(number);
    }
    Plain::Element(at)
}

/// Where [`plain`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    /// At an element that it left alone.
    Element(usize),
    /// Behind the array.
    Ended(usize),
}

/// Bytes that are looked at for one number: a minus, six digits, a point, eight digits.
const WINDOW: usize = 17;

/// A number, where it ends, and the byte behind it.
#[inline(always)]
fn plain_number<T: Float>(body: &[u8], at: usize) -> Option<(T, usize, u8)> {
    // Where less is left, the way for all numbers has room to look.
    let window: &[u8; WINDOW] = body.get(at..)?.first_chunk()?;
    let negative = window[0] == b'-';
    let first = negative as usize;
    if window[first + 1] == b'.' {
        // Most are a digit, a point and a few digits: the digit in the point's place makes them one number.
        let word = u64::from_le_bytes(*window[first + 1..].first_chunk()?);
        let (mantissa, digits) = digits_of(word & !0xff | u64::from(window[first]));
        if let places @ 1..7 = digits.wrapping_sub(1) {
            let i = first + 2 + places;
            return Some((T::decimal(mantissa, negative, places)?, at + i, window[i]));
        }
    }
    let (mut mantissa, mut i) = (u64::from(window[first].wrapping_sub(b'0')), first + 1);
    if mantissa > 9 {
        return None;
    }
    while i < first + 6 && window[i].wrapping_sub(b'0') <= 9 {
        mantissa = mantissa * 10 + u64::from(window[i] - b'0');
        i += 1;
    }
    // JSON has no 007.
    if i > first + 1 && window[first] == b'0' {
        return None;
    }
    if window[i] != b'.' {
        return Some((T::decimal(mantissa, negative, 0)?, at + i, window[i]));
    }
    let (behind, places) = digits_of(u64::from_le_bytes(*window[i + 1..].first_chunk()?));
    i += 1 + places;
    match places {
        0 => None,
        _ => Some((T::decimal(mantissa * TENS[places] + behind, negative, places)?, at + i, *window.get(i)?)),
    }
}

const TENS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The digits at the beginning of eight bytes as a number, and how many there are.
#[inline(always)]
fn digits_of(word: u64) -> (u64, usize) {
    const fn all(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let x = word ^ all(b'0');
    // The top bit of each byte that is more than nine.
    let other = (((x & all(0x7f)) + all(0x76)) | x) & all(0x80);
    let count = other.trailing_zeros() as usize / 8;
    if count == 0 {
        return (0, 0);
    }
    // The last digit goes to the last byte; before the first one stand zeros.
    let x = x << (64 - 8 * count);
    let x = x.wrapping_mul(10).wrapping_add(x >> 8) & 0x00ff_00ff_00ff_00ff;
    let x = x.wrapping_mul(100).wrapping_add(x >> 16) & 0x0000_ffff_0000_ffff;
    (x.wrapping_mul(10_000).wrapping_add(x >> 32) & 0xffff_ffff, count)
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
    fn plain_numbers_are_taken_together() {
        let mut out = Vec::<f32>::new();
        let body = b"0.53214,-12,3.5, 100000.25,7]}]}               ";
        assert_eq!(plain(body, 0, &mut out), Plain::Ended(29));
        assert_eq!(out, [0.53214, -12.0, 3.5, 100000.25, 7.0]);
        let body = b"0.5,1e3,2.5]                   ";
        out.clear();
        assert_eq!(plain(body, 0, &mut out), Plain::Element(4));
        assert_eq!(out, [0.5]);
    }

    #[test]
    fn numbers_are_taken_by_eight() {
        let mut out = Vec::<f32>::new();
        let numbers = "0.53214,-12,3.5, 100000.2,7,-0,-0.0,1677721,0.1,12345678]}]}";
        let body = format!("\"data\":[{numbers}");
        // Another processor leaves seven digits without a point to the way for one number.
        let (end, count) = match eight::is_there() {
            true => (Plain::Ended(body.len() - 3), 10),
            false => (Plain::Element(8 + numbers.find("1677721").unwrap()), 7),
        };
        assert_eq!(plain(body.as_bytes(), 8, &mut out), end);
        let expected = [0.53214, -12.0, 3.5, 100000.2, 7.0, -0.0, -0.0, 1677721.0, 0.1, 12345678.0];
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&out), bits(&expected[..count]));
        for none in
            ["]", " ]", "-]", ".]", "1.]", ".5]", "-.5]", "1.2.3]", "07]", "-07]", "00.5]", "1e5]", "1:]", "123456789]"]
        {
            out.clear();
            let body = format!("\"data\":[{none}");
            assert_eq!((plain(body.as_bytes(), 8, &mut out), out.len()), (Plain::Element(8), 0), "{none}");
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

    /// What stands in an array: mostly plain, so that many of a kind follow one another.
    fn plain_or_not() -> impl Strategy<Value = String> {
        prop_oneof![
            30 => "-?[0-9]\\.[0-9]{1,5}",
            20 => "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,4})?",
            10 => "-?(0|[1-9][0-9]{0,7})",
            2 => "-?(0|[1-9][0-9]{0,6})(\\.[0-9]{1,9})?",
            1 => "-?0[0-9]|1e5|null|1\\.|-|\\.5|1\\.2\\.3|1:|\"x\"|",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn numbers_are_read_as_the_standard_library_reads_them(
            text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"
        ) {
            check(&text);
        }

        /// What is plain must come out as the way for all numbers has it, and everything up to the first that is not.
        #[test]
        fn plain_numbers_are_read_as_all_numbers_are(
            numbers in prop::collection::vec(plain_or_not(), 0..40),
            space in " ?", before in "x{0,12}", tail in "(\\]| |)x{0,80}"
        ) {
            let text = before.clone() + &numbers.join(&format!(",{space}")) + &tail;
            let body = text.as_bytes();
            let (mut doubles, mut singles) = (Vec::<f64>::new(), Vec::<f32>::new());
            plain(body, before.len(), &mut doubles);
            let stopped = plain(body, before.len(), &mut singles);
            let mut at = before.len();
            for (i, single) in singles.iter().enumerate() {
                let (number, end) = read(body, at).unwrap();
                prop_assert_eq!(number.to_f32().to_bits(), single.to_bits(), "{}", text);
                // One at a time, the end of the body is left to the way for all numbers.
                let double = doubles.get(i).map_or(number.to_f64(), |x| *x);
                prop_assert_eq!(number.to_f64().to_bits(), double.to_bits(), "{}", text);
                at = match body[end] {
                    b']' => end,
                    _ => end + 1 + (body.get(end + 1) == Some(&b' ')) as usize,
                };
            }
            match stopped {
                Plain::Element(stopped) => prop_assert_eq!(stopped, at, "{}", text),
                Plain::Ended(stopped) => prop_assert_eq!((body[at], stopped), (b']', at + 1), "{}", text),
            }
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
