//! Where the fields of many rows end, found in one pass over their text.
//!
//! In: complete lines without quotes. Out: the place of every delimiter and newline, as far as each line has the number of
//! fields it should. Sixty-four bytes at a time become one word of bits, so that finding a field costs the same whatever
//! its length is.

/// Places of the ends of fields, row after row.
#[derive(Default)]
pub(super) struct Index {
    /// Begins with a place before the text, so that a field begins one behind the end of the one before. Behind what was
    /// found stands what was found before that.
    places: Vec<u32>,
}

/// Bytes looked at together.
const GROUP: usize = 64;
/// Places written at once, most of them to be overwritten: cheaper than asking after each whether it was the last.
const RUN: usize = 8;

/// Rows whose fields were found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Filled {
    pub(super) rows: usize,
    /// Whether all that was looked at is ASCII.
    pub(super) is_ascii: bool,
}

/// What is known of a group of bytes, a bit for each.
struct Marks {
    newlines: u64,
    delimiters: u64,
    is_ascii: bool,
}

/// How a group of bytes is looked through.
trait Scan {
    fn marks(group: &[u8; GROUP], delimiter: u8) -> Marks;

    /// Writes `at` and each place of a bit of `ends` added to it; there are `found`. What is behind them does not matter.
    fn write(places: &mut [u32; GROUP], at: u32, ends: u64, found: usize);
}

impl Index {
    /// Finds the fields of the first rows of `text`, at most `rows_max`; stops before a line that has not `width` fields.
    pub(super) fn fill(&mut self, text: &[u8], delimiter: u8, width: usize, rows_max: usize) -> Filled {
        #[cfg(target_arch = "x86_64")]
        if avx512::is_there() {
            // SAFETY: the processor has all that is asked for, as was asked just now.
            return unsafe { avx512::fill(self, text, delimiter, width, rows_max) };
        }
        self.fill_by::<Plain>(text, delimiter, width, rows_max)
    }

    #[inline(always)]
    fn fill_by<S: Scan>(&mut self, text: &[u8], delimiter: u8, width: usize, rows_max: usize) -> Filled {
        let (mut count, mut filled) = (0, Filled { rows: 0, is_ascii: true });
        let (groups, rest) = text.as_chunks::<GROUP>();
        let mut last = [0; GROUP];
        last[..rest.len()].copy_from_slice(rest);
        let of_rest = (1u64 << rest.len()) - 1;
        let groups = groups.iter().map(|group| (group, u64::MAX)).chain([(&last, of_rest)]);
        for (i, (group, part)) in groups.enumerate() {
            let Marks { newlines, delimiters, is_ascii } = S::marks(group, delimiter);
            filled.is_ascii &= is_ascii;
            let (newlines, ends) = (newlines & part, (delimiters | newlines) & part);
            let found = ends.count_ones() as usize;
            S::write(self.room(count), (i * GROUP) as u32, ends, found);
            let mut ahead = newlines;
            while ahead != 0 {
                let before = ends & ((ahead & ahead.wrapping_neg()) - 1);
                if filled.rows == rows_max || count + before.count_ones() as usize + 1 != (filled.rows + 1) * width {
                    return filled;
                }
                filled.rows += 1;
                ahead &= ahead - 1;
            }
            count += found;
        }
        filled
    }

    /// Room for the places of a group, behind `count` others.
    #[inline(always)]
    fn room(&mut self, count: usize) -> &mut [u32; GROUP] {
        if self.places.len() < 1 + count + GROUP {
            self.grow(count);
        }
        self.places[1 + count..].first_chunk_mut().expect("there is room for a group, or was made just now")
    }

    #[cold]
    fn grow(&mut self, count: usize) {
        self.places.resize(2 * (count + GROUP), 0);
        self.places[0] = u32::MAX;
    }

    /// Where field `number` begins, counted over all rows.
    pub(super) fn begin(&self, number: usize) -> usize {
        self.places[number].wrapping_add(1) as usize
    }

    /// Begin and end of field `number` and of every `width`th behind it.
    #[inline(always)]
    pub(super) fn write_fields(&self, number: usize, width: usize, from: &mut [u32], to: &mut [u32]) {
        let places = self.places[number..].windows(2).step_by(width);
        for ((from, to), places) in from.iter_mut().zip(to).zip(places) {
            (*from, *to) = (places[0].wrapping_add(1), places[1]);
        }
    }
}

struct Plain;

impl Scan for Plain {
    #[inline(always)]
    fn marks(group: &[u8; GROUP], delimiter: u8) -> Marks {
        let all = group.iter().fold(0, |all, byte| all | byte);
        Marks { newlines: equal(group, b'\n'), delimiters: equal(group, delimiter), is_ascii: all.is_ascii() }
    }

    #[inline(always)]
    fn write(places: &mut [u32; GROUP], at: u32, mut ends: u64, found: usize) {
        for run in places.chunks_exact_mut(RUN).take(found.div_ceil(RUN)) {
            for place in run {
                *place = at + ends.trailing_zeros();
                ends &= ends.wrapping_sub(1);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use core::arch::x86_64::*;

    use tidemill_base::simd::PLACES;

    use super::*;

    /// Whether the processor has what [`fill`] needs.
    #[inline]
    pub(super) fn is_there() -> bool {
        use std::arch::is_x86_feature_detected as has;
        has!("avx512f") && has!("avx512bw") && has!("avx512vbmi2") && has!("bmi1") && has!("popcnt")
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,bmi1,popcnt")]
    pub(super) fn fill(index: &mut Index, text: &[u8], delimiter: u8, width: usize, rows_max: usize) -> Filled {
        index.fill_by::<Avx512>(text, delimiter, width, rows_max)
    }

    /// Sixty-four bytes in one register; places of bits are picked out of a register that holds all places.
    pub(super) struct Avx512;

    impl Scan for Avx512 {
        #[inline(always)]
        fn marks(group: &[u8; GROUP], delimiter: u8) -> Marks {
            // SAFETY: only [`fill`] uses this, which needs all that this needs.
            unsafe { marks(group, delimiter) }
        }

        #[inline(always)]
        fn write(places: &mut [u32; GROUP], at: u32, ends: u64, found: usize) {
            // SAFETY: as above.
            unsafe { write(places, at, ends, found) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn marks(group: &[u8; GROUP], delimiter: u8) -> Marks {
        // SAFETY: a group is as long as the register.
        let group = unsafe { _mm512_loadu_si512(group.as_ptr().cast()) };
        Marks {
            newlines: _mm512_cmpeq_epi8_mask(group, _mm512_set1_epi8(b'\n' as i8)),
            delimiters: _mm512_cmpeq_epi8_mask(group, _mm512_set1_epi8(delimiter as i8)),
            is_ascii: _mm512_movepi8_mask(group) == 0,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
    fn write(places: &mut [u32; GROUP], at: u32, ends: u64, found: usize) {
        // SAFETY: these are as long as the register.
        let all = unsafe { _mm512_loadu_si512(PLACES.as_ptr().cast()) };
        let picked = _mm512_maskz_compress_epi8(ends, all);
        let mut put = |i: usize, some: __m128i| {
            let some = _mm512_add_epi32(_mm512_cvtepu8_epi32(some), _mm512_set1_epi32(at as i32));
            // SAFETY: sixteen places are as long as the register, and they are four times sixteen.
            unsafe { _mm512_storeu_si512(places[16 * i..][..16].as_mut_ptr().cast(), some) };
        };
        put(0, _mm512_castsi512_si128(picked));
        if found > 16 {
            put(1, _mm512_extracti32x4_epi32::<1>(picked));
        }
        if found > 32 {
            put(2, _mm512_extracti32x4_epi32::<2>(picked));
            put(3, _mm512_extracti32x4_epi32::<3>(picked));
        }
    }
}

/// A bit for each byte that is `byte`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn equal(group: &[u8; GROUP], byte: u8) -> u64 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    let (words, _) = group.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    pairs.iter().enumerate().fold(0, |bits, (i, [low, high])| {
        // SAFETY: every processor of this family has SSE2, which is all that these need.
        let found = unsafe {
            let sixteen = _mm_set_epi64x(i64::from_le_bytes(*high), i64::from_le_bytes(*low));
            _mm_movemask_epi8(_mm_cmpeq_epi8(sixteen, _mm_set1_epi8(byte as i8)))
        };
        bits | (found as u64) << (16 * i)
    })
}

/// A bit for each byte that is `byte`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn equal(group: &[u8; GROUP], byte: u8) -> u64 {
    equal_anywhere(group, byte)
}

/// The same by plain arithmetic. After the exclusive or, such bytes are zero; the sum carries into a byte's top bit exactly
/// when its low seven bits are not all zero, so the inverted union marks zero bytes and no others.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_anywhere(group: &[u8; GROUP], byte: u8) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    // Gathers the marks of eight bytes in the top byte, in their order.
    const GATHER: u64 = 0x0002_0408_1020_4081;
    let pattern = u64::from_le_bytes([byte; 8]);
    let (words, _) = group.as_chunks::<8>();
    let mut bits = 0;
    for (i, word) in words.iter().enumerate() {
        let x = u64::from_le_bytes(*word) ^ pattern;
        let zeros = !(((x & LOW) + LOW) | x | LOW);
        bits |= (zeros.wrapping_mul(GATHER) >> 56) << (8 * i);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    fn fields(text: &[u8], width: usize, rows_max: usize) -> Vec<Vec<String>> {
        let mut index = Index::default();
        let Filled { rows, is_ascii } = index.fill(text, b',', width, rows_max);
        assert!(is_ascii);
        let column = |i| {
            let (mut from, mut to) = (vec![0; rows], vec![0; rows]);
            index.write_fields(i, width, &mut from, &mut to);
            let field = |(from, to): (u32, u32)| String::from_utf8(text[from as usize..to as usize].to_vec()).unwrap();
            from.into_iter().zip(to).map(field).collect::<Vec<_>>()
        };
        let columns: Vec<Vec<String>> = (0..width).map(column).collect();
        (0..rows).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
    }

    /// Rows of random lengths across the borders of groups, cut as the standard library cuts them.
    #[test]
    fn fields_are_those_between_delimiters_and_newlines() {
        let mut rng = Rng::seeded(3);
        for width in [2, 3, 41, 200] {
            let row = |rng: &mut Rng| {
                (0..width).map(|_| "abcdefghijk"[..rng.below(12) as usize].to_string()).collect::<Vec<_>>()
            };
            let rows: Vec<Vec<String>> = (0..50).map(|_| row(&mut rng)).collect();
            let text: String = rows.iter().map(|row| row.join(",") + "\n").collect();
            assert_eq!(fields(text.as_bytes(), width, 1000), rows);
            assert_eq!(fields(text.as_bytes(), width, 7), rows[..7]);
            assert!(fields(text.as_bytes(), width, 0).is_empty());
        }
    }

    #[test]
    fn rows_end_before_the_first_line_of_another_width() {
        for odd in ["a,b\n", "\n", "a,b,c,d\n", ",,,,,,,,\n"] {
            for before in [0, 1, 9, 10, 40] {
                let text = "1,2,3\n".repeat(before) + odd + "4,5,6\n";
                assert_eq!(fields(text.as_bytes(), 3, 1000).len(), before, "{odd:?} behind {before} rows");
            }
        }
        assert!(fields(b"", 3, 1000).is_empty());
    }

    /// Both ways find the same, whatever the bytes are.
    #[test]
    fn every_processor_finds_the_same_fields() {
        let mut rng = Rng::seeded(6);
        for case in 0..2_000 {
            let width = 1 + rng.below(5) as usize;
            let bytes: &[u8] = [b",,\nab".as_slice(), ",a\n\u{e9}".as_bytes(), b",,,,,,,,\n"][case % 3];
            let mut text: Vec<u8> = "a,b,c,d,e\n"[10 - 2 * width..].repeat(rng.below(30) as usize).into_bytes();
            text.extend((0..rng.below(200)).map(|_| bytes[rng.below(bytes.len() as u64) as usize]));
            let (mut best, mut plain) = (Index::default(), Index::default());
            let found = best.fill(&text, b',', width, 20);
            assert_eq!(found, plain.fill_by::<Plain>(&text, b',', width, 20));
            let fields = 1 + found.rows * width;
            assert_eq!(best.places.get(..fields), plain.places.get(..fields));
            let looked_at = &text[..if found.rows < 20 { 0 } else { best.begin(found.rows * width) }];
            assert!(!found.is_ascii || looked_at.is_ascii());
        }
    }

    /// Bytes that differ in one bit only, too: a carry must not leave its byte.
    #[test]
    fn every_byte_sought_is_found_and_no_other() {
        let mut rng = Rng::seeded(5);
        for _ in 0..2_000 {
            let group: [u8; GROUP] =
                std::array::from_fn(|_| b",\n\x00\x01\x2d\xac\x80\x0b\xffx-"[rng.below(11) as usize]);
            for byte in [b',', b'\n', 0, 0x80] {
                let expected = (0..GROUP).fold(0, |bits, i| bits | ((group[i] == byte) as u64) << i);
                assert_eq!(equal(&group, byte), expected, "{byte} in {group:?}");
                assert_eq!(equal_anywhere(&group, byte), expected, "{byte} in {group:?}");
            }
        }
    }
}
