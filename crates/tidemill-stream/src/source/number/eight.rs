//! Numbers of a few bytes, read from words without a loop over their digits and without a question that cannot be guessed.
//!
//! In: a word whose last bytes are the field, and the field's length; what stands before it does not matter. Out: the
//! number, and 0 if the field was one and nothing but digits, a minus, a point. Anything else is left to the functions
//! that take any field. An empty field is 0.

/// Bytes of a word.
pub(in crate::source) const EIGHT: usize = 8;

/// A whole number of up to eight bytes.
#[inline(always)]
pub(in crate::source) fn whole_number(word: u64, length: usize) -> (i64, u64) {
    let (mask, negative) = without_sign(word, length, length > 1);
    let (x, bad) = digits((word ^ all(b'0')) & mask);
    (signed(x, negative), bad)
}

/// A whole number of up to sixteen bytes.
#[inline(always)]
pub(in crate::source) fn long_whole_number(words: [u64; 2], length: usize) -> (i64, u64) {
    let above = length.saturating_sub(EIGHT);
    let (high_mask, high_negative) = without_sign(words[0], above, above > 0);
    let (low_mask, low_negative) = without_sign(words[1], length - above, (above == 0) & (length > 1));
    let (high, high_bad) = digits((words[0] ^ all(b'0')) & high_mask);
    let (low, low_bad) = digits((words[1] ^ all(b'0')) & low_mask);
    (signed(high * 100_000_000 + low, high_negative | low_negative), high_bad | low_bad)
}

/// A decimal number of up to eight bytes: digits as a whole number, places behind the point (0 to 7), the sign.
#[inline(always)]
pub(in crate::source) fn decimal(word: u64, length: usize) -> (u64, usize, bool, u64) {
    const LOW: u64 = all(0x7f);
    let (mask, negative) = without_sign(word, length, length > 1);
    let x = (word ^ all(b'0')) & mask;
    // The first point is marked in its byte's top bit; a second one stays where it is, and is no digit.
    let other = (word ^ all(b'.')) | !mask;
    let points = !(((other & LOW) + LOW) | other | LOW);
    let point = (points & points.wrapping_neg()) >> 7;
    let has_point = point != 0;
    // Digits before the point move up to those behind it.
    let before = point.wrapping_sub(has_point as u64);
    let behind = !(before | point.wrapping_mul(0xff));
    let (digits, bad) = digits((x & behind) | (x & before) << 8);
    let places = point.leading_zeros() as usize / 8 % EIGHT;
    let no_digits = (length > 0) & (length == negative as usize + has_point as usize);
    (digits, places, negative, bad | no_digits as u64)
}

/// The bytes of the field behind its minus, and whether there is one.
#[inline(always)]
fn without_sign(word: u64, length: usize, may_have_one: bool) -> (u64, bool) {
    let mask = last_bytes(length);
    let first = mask ^ mask << 8;
    let negative = ((word ^ all(b'-')) & first == 0) & may_have_one;
    (mask << (8 * negative as u32), negative)
}

/// The last bytes of a word, so many; all of them if there are not so many.
#[inline(always)]
fn last_bytes(count: usize) -> u64 {
    // By halves: a shift by all bits at once would be a shift by none.
    let bits = 4 * (EIGHT - count.min(EIGHT)) as u32;
    u64::MAX << bits << bits
}

#[inline(always)]
fn signed(x: u64, negative: bool) -> i64 {
    (x as i64 ^ -(negative as i64)) + negative as i64
}

/// The number made of eight bytes, the first one the most significant; the second value is 0 if each is at most 9.
#[inline(always)]
fn digits(x: u64) -> (u64, u64) {
    // Nothing in a byte's upper half, and nothing that six more would carry there.
    let bad = (x | x.wrapping_add(all(6))) & all(0xf0);
    // Neighbours are put together three times: to numbers of two, of four and of eight digits.
    let x = x.wrapping_mul(10).wrapping_add(x >> 8) & 0x00ff_00ff_00ff_00ff;
    let x = x.wrapping_mul(100).wrapping_add(x >> 16) & 0x0000_ffff_0000_ffff;
    (x.wrapping_mul(10_000).wrapping_add(x >> 32) & 0xffff_ffff, bad)
}

/// `byte` eight times.
const fn all(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::number::{parse_f64, parse_i64};
    use proptest::prelude::*;

    /// The words that end with `field`; before it stands what must not be read.
    fn words(before: &str, field: &str) -> [u64; 2] {
        let all = ["................", before, field].concat();
        let (words, _) = all.as_bytes().last_chunk::<16>().unwrap().as_chunks::<8>();
        [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
    }

    fn is_plain(digits: &str) -> bool {
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        /// What is read this way must be what the general way reads, and what is plain must be read this way.
        #[test]
        fn whole_numbers_are_read_as_the_general_way_reads_them(
            before in "[0-9.-]{0,8}", field in "-?[0-9]{1,16}|[0-9+ ./:-]{1,9}|[ -~]{1,16}|.{1,4}"
        ) {
            let words = words(&before, &field);
            let digits = field.strip_prefix('-').unwrap_or(&field);
            if field.len() <= 16 {
                match long_whole_number(words, field.len()) {
                    (x, 0) => prop_assert_eq!(Some(x), parse_i64(field.as_bytes()).ok(), "{}", field),
                    _ => prop_assert!(!is_plain(digits), "{} was not read", field),
                }
            }
            if field.len() <= 8 {
                match whole_number(words[1], field.len()) {
                    (x, 0) => prop_assert_eq!(Some(x), parse_i64(field.as_bytes()).ok(), "{}", field),
                    _ => prop_assert!(!is_plain(digits), "{} was not read", field),
                }
            }
        }

        #[test]
        fn decimals_are_read_as_the_general_way_reads_them(
            before in "[0-9.-]{0,8}", field in "-?[0-9]{0,4}\\.?[0-9]{0,4}|[0-9+ .e/:-]{1,8}|[ -~]{1,8}"
        ) {
            prop_assume!((1..=8).contains(&field.len()));
            let digits = field.strip_prefix('-').unwrap_or(&field).replacen('.', "", 1);
            match decimal(words(&before, &field)[1], field.len()) {
                (x, places, negative, 0) => {
                    let x = x as f64 / 10f64.powi(places as i32);
                    let x = if negative { -x } else { x };
                    prop_assert_eq!(Some(x.to_bits()), parse_f64(field.as_bytes()).ok().map(f64::to_bits), "{}", field);
                }
                _ => prop_assert!(!is_plain(&digits), "{} was not read", field),
            }
        }
    }

    #[test]
    fn an_empty_field_is_zero() {
        let [_, word] = words("12-34.56", "");
        assert_eq!((whole_number(word, 0), long_whole_number([word; 2], 0)), ((0, 0), (0, 0)));
        assert_eq!(decimal(word, 0), (0, 0, false, 0));
    }
}
