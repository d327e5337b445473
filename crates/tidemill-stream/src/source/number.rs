//! Numbers written as text, read from bytes without a detour over `str`.
//!
//! In: one field. Out: the number, or whether the text is no number at all or one too large for the type. Decimal fractions
//! come out correctly rounded, as `str::parse` gives them: the fast path only takes what is exact.

pub(super) mod eight;

/// Why a field is not a number of the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotANumber {
    /// It is no number of this kind.
    Malformed,
    /// It is one, but too large for the type.
    OutOfRange,
}

use NotANumber::{Malformed, OutOfRange};

/// A whole number: an optional sign and digits, with spaces around them if need be.
#[inline]
pub(super) fn parse_i64(field: &[u8]) -> Result<i64, NotANumber> {
    let (negative, digits) = sign(field);
    // 18 digits always fit; longer ones and anything odd take the careful way.
    if digits.is_empty() || digits.len() > 18 {
        return parse_i64_slow(field);
    }
    let mut x = 0i64;
    for &b in digits {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return parse_i64_slow(field);
        }
        x = x * 10 + d as i64;
    }
    Ok(if negative { -x } else { x })
}

#[cold]
fn parse_i64_slow(field: &[u8]) -> Result<i64, NotANumber> {
    let (_, digits) = sign(field.trim_ascii());
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    text(field.trim_ascii())?.parse().map_err(|_| OutOfRange)
}

/// A whole number of 32 bits.
#[inline]
pub(super) fn parse_i32(field: &[u8]) -> Result<i32, NotANumber> {
    i32::try_from(parse_i64(field)?).map_err(|_| OutOfRange)
}

/// A whole number without a sign.
#[inline]
pub(super) fn parse_u64(field: &[u8]) -> Result<u64, NotANumber> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let mut x = 0u64;
    for &b in field {
        x = x.checked_mul(10).and_then(|x| x.checked_add((b - b'0') as u64)).ok_or(OutOfRange)?;
    }
    Ok(x)
}

macro_rules! float {
    ($name:ident, $t:ty, $powers:expr, $mantissa_max:expr) => {
        /// A finite decimal number. `nan` and `inf` are not numbers here: nothing can be learned from them.
        #[inline]
        pub(super) fn $name(field: &[u8]) -> Result<$t, NotANumber> {
            // Mantissa and power of ten are both exact in the type, so one division rounds once: Clinger 1990.
            const POWERS: &[$t] = &$powers;
            let (negative, rest) = sign(field);
            if let Some((mantissa, places)) = simple_decimal(rest)
                && mantissa <= $mantissa_max
                && places < POWERS.len()
            {
                let x = mantissa as $t / POWERS[places];
                return Ok(if negative { -x } else { x });
            }
            let text = text(field.trim_ascii())?;
            let starts_like_one = text.bytes().any(|b| b.is_ascii_digit());
            match text.parse::<$t>() {
                Ok(x) if x.is_finite() => Ok(x),
                Ok(_) if starts_like_one => Err(OutOfRange),
                _ => Err(Malformed),
            }
        }
    };
}

float!(
    parse_f64,
    f64,
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18],
    1u64 << 53
);
float!(parse_f32, f32, [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10], 1u64 << 24);

/// `true` or `false` as people write them.
pub(super) fn parse_bool(field: &[u8]) -> Result<bool, NotANumber> {
    let is = |words: [&[u8]; 3]| words.iter().any(|w| field.trim_ascii().eq_ignore_ascii_case(w));
    match () {
        _ if is([b"true", b"t", b"1"]) => Ok(true),
        _ if is([b"false", b"f", b"0"]) => Ok(false),
        _ => Err(Malformed),
    }
}

/// Digits with at most one point, at most 18 of them: the digits as a number, and how many stand behind the point.
#[inline]
fn simple_decimal(text: &[u8]) -> Option<(u64, usize)> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    let (mut x, mut point, mut digits) = (0u64, None, 0);
    for (i, &b) in text.iter().enumerate() {
        let d = b.wrapping_sub(b'0');
        if d <= 9 {
            x = x.wrapping_mul(10).wrapping_add(d as u64);
            digits += 1;
        } else if b == b'.' && point.is_none() {
            point = Some(i);
        } else {
            return None;
        }
    }
    if digits == 0 || digits > 18 {
        return None;
    }
    Some((x, point.map_or(0, |p| text.len() - p - 1)))
}

#[inline]
fn sign(field: &[u8]) -> (bool, &[u8]) {
    match field {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, field),
    }
}

fn text(field: &[u8]) -> Result<&str, NotANumber> {
    std::str::from_utf8(field).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_number_is_told_apart_from_what_is_too_large() {
        assert_eq!(parse_i64(b"9223372036854775807"), Ok(i64::MAX));
        assert_eq!(parse_i64(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_i64(b" 7 "), Ok(7));
        assert_eq!(parse_i64(b"9223372036854775808"), Err(OutOfRange));
        assert_eq!(parse_i32(b"2147483648"), Err(OutOfRange));
        assert_eq!(parse_f64(b"1e400"), Err(OutOfRange));
        assert_eq!(parse_f32(b"1e39"), Err(OutOfRange));
        assert_eq!(parse_u64(b"18446744073709551616"), Err(OutOfRange));
        for bad in ["", "-", "+", "1.0", "0x1", "1 2", "--1", "twelve", "1\0"] {
            assert_eq!(parse_i64(bad.as_bytes()), Err(Malformed), "{bad:?}");
        }
        for bad in ["", ".", "-", "nan", "NaN", "inf", "-Infinity", "1,5", "1.2.3", "1e", "\0"] {
            assert_eq!(parse_f64(bad.as_bytes()), Err(Malformed), "{bad:?}");
        }
        assert_eq!(parse_bool(b"True"), Ok(true));
        assert_eq!(parse_bool(b"yes"), Err(Malformed));
    }

    proptest! {
        /// The fast path must round exactly as the standard library does, or two builds would learn different models.
        #[test]
        fn decimals_are_rounded_as_the_standard_library_rounds_them(text in "[+-]?[0-9]{0,20}(\\.[0-9]{0,20})?(e-?[0-9]{1,2})?") {
            let expected = text.parse::<f64>().ok().filter(|x| x.is_finite());
            prop_assert_eq!(parse_f64(text.as_bytes()).ok().map(f64::to_bits), expected.map(f64::to_bits));
            let expected = text.parse::<f32>().ok().filter(|x| x.is_finite());
            prop_assert_eq!(parse_f32(text.as_bytes()).ok().map(f32::to_bits), expected.map(f32::to_bits));
        }

        #[test]
        fn whole_numbers_are_read_as_the_standard_library_reads_them(text in "[+-]?[0-9]{1,20}") {
            prop_assert_eq!(parse_i64(text.as_bytes()).ok(), text.parse::<i64>().ok());
        }
    }
}
