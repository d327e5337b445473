//! Numbers of JSON arrays, eight at a time.
//!
//! In: the body and where an element begins. Out: single-precision numbers, and where the way for one number goes on. A
//! number is taken here if it is written in at most eight characters: perhaps a minus, digits, perhaps a point among them.
//! Each is then a word of eight bytes, and the eight words stand side by side in one register (AVX-512). Where one of eight
//! is written otherwise, or rounding once cannot be told from rounding twice, none of them is taken. The numbers are those
//! of [`read`](super::number::read), to the bit. Digits to numbers within a word: Lemire, "Quickly parsing eight digits".

use super::number::Plain;

/// Appends numbers from `at` on, as long as they are taken here.
#[inline]
pub(super) fn read(body: &[u8], at: usize, out: &mut Vec<f32>) -> Plain {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        // SAFETY: the processor has all that is asked for, as was asked just now.
        return unsafe { avx512::read(body, at, out) };
    }
    let _ = (body, out);
    Plain::Element(at)
}

/// Whether the processor can do it.
#[cfg(test)]
pub(super) fn is_there() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::is_there();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use core::arch::x86_64::*;

    use tidemill_base::simd::PLACES;

    use super::Plain;

    /// Bytes looked at together: eight numbers of seven characters and what stands between.
    const GROUP: usize = 64;
    const LANES: usize = 8;
    const TENS: [f64; LANES] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];

    /// Whether the processor has what [`read`] needs.
    #[inline]
    pub(super) fn is_there() -> bool {
        use std::arch::is_x86_feature_detected as has;
        let words = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512cd");
        words && has!("avx512vbmi2") && has!("bmi1") && has!("bmi2") && has!("popcnt")
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vbmi2,bmi1,bmi2,popcnt")]
    pub(super) fn read(body: &[u8], first: usize, out: &mut Vec<f32>) -> Plain {
        let mut at = first;
        // The word that ends with the first number must not begin before the body.
        while at >= LANES && at < body.len() {
            let Some((numbers, taken, bytes)) = group(body, at) else { break };
            out.extend_from_slice(&numbers[..taken]);
            at += bytes;
            if body[at - 1] == b']' {
                return Plain::Ended(at);
            }
        }
        // Some write a space behind the comma.
        Plain::Element(at + (at > first && body.get(at) == Some(&b' ')) as usize)
    }

    /// The numbers that end within the next bytes, how many there are, and the bytes up to behind the last one's end; `None`
    /// where there is none or one is not taken here.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vbmi2,bmi1,bmi2,popcnt")]
    fn group(body: &[u8], at: usize) -> Option<([f32; LANES], usize, usize)> {
        let rest = &body[at..];
        let is_body = if rest.len() >= GROUP { u64::MAX } else { (1 << rest.len()) - 1 };
        // SAFETY: bytes behind the body are not read.
        let bytes = unsafe { _mm512_maskz_loadu_epi8(is_body, rest.as_ptr().cast()) };
        let close = equal(bytes, b']');
        // What is behind the end of the array is none of its elements.
        let ends = (equal(bytes, b',') | close) & (close ^ close.wrapping_sub(1));
        let taken = (ends.count_ones() as usize).min(LANES);
        if taken == 0 {
            return None;
        }
        let lane = ((1u32 << taken) - 1) as __mmask8;
        let places = _mm_cvtsi128_si64(_mm512_castsi512_si128(_mm512_maskz_compress_epi8(ends, all_places()))) as u64;
        let last = (places >> (8 * (taken - 1)) & 0xff) as usize;
        let ends = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(places as i64));
        // Behind the end before; the first begins at once.
        let begins = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128((places << 8) as i64));
        let begins = _mm512_mask_add_epi64(begins, !1, begins, one());
        let spaces = _mm512_srlv_epi64(_mm512_set1_epi64(equal(bytes, b' ') as i64), begins);
        let begins = _mm512_add_epi64(begins, _mm512_and_si512(spaces, one()));
        let length = _mm512_sub_epi64(ends, begins);
        let too_long = _mm512_mask_cmpgt_epu64_mask(lane, _mm512_sub_epi64(length, one()), _mm512_set1_epi64(7));
        if too_long != 0 {
            return None;
        }
        // SAFETY: each word ends in front of a separator, which is in the body, and begins at most eight bytes before `at`.
        let words = unsafe {
            let before = body.as_ptr().add(at - LANES);
            _mm512_mask_i64gather_epi64::<1>(zeros(), lane, ends, before.cast())
        };
        let values = values(words, length, lane)?;
        let mut numbers = [0.0; LANES];
        // SAFETY: eight numbers are as long as the register.
        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), values) };
        Some((numbers, taken, last + 1))
    }

    /// What the last `length` bytes of each word (1 to 8) are as numbers; `None` where one of `lane` is none, or is not taken.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd")]
    fn values(words: __m512i, length: __m512i, lane: __mmask8) -> Option<__m256> {
        let ones = _mm512_set1_epi64(-1);
        let eight = _mm512_set1_epi64(8);
        // Bits in front of the number, and of those its first byte.
        let front = _mm512_slli_epi64::<3>(_mm512_sub_epi64(eight, length));
        let first = _mm512_srlv_epi64(words, front);
        let negative = low_byte_is(first, b'-');
        let front = _mm512_mask_add_epi64(front, negative, front, eight);
        let zero_first = low_byte_is(_mm512_srlv_epi64(words, front), b'0');
        // Zeros where the number is not, so that all eight bytes are digits or a point. A front of 64 bits leaves none.
        let number = _mm512_sllv_epi64(ones, front);
        let words = _mm512_ternarylogic_epi64::<0xca>(number, words, zeros());
        // The point: one at most, digits on both sides.
        let point = _mm512_movm_epi8(_mm512_cmpeq_epi8_mask(words, _mm512_set1_epi8(b'.' as i8)));
        let has_point = _mm512_test_epi64_mask(point, point);
        let lowest = _mm512_and_si512(point, _mm512_sub_epi64(_mm512_setzero_si512(), point));
        let one_point = _mm512_sub_epi64(_mm512_slli_epi64::<8>(lowest), lowest);
        let one_point = _mm512_cmpeq_epi64_mask(point, one_point);
        let before = _mm512_sub_epi64(lowest, one());
        let behind = _mm512_andnot_si512(_mm512_or_si512(before, point), words);
        let moved = _mm512_slli_epi64::<8>(_mm512_and_si512(words, before));
        let closed = _mm512_or_si512(_mm512_or_si512(moved, behind), _mm512_set1_epi64(b'0' as i64));
        let closed = _mm512_mask_blend_epi64(has_point, words, closed);
        let zeros_before = _mm512_lzcnt_epi64(lowest);
        let places = _mm512_maskz_srli_epi64::<3>(has_point, zeros_before);
        let front_bytes = _mm512_srli_epi64::<3>(front);
        // Digits before the point, or all.
        let whole = _mm512_sub_epi64(_mm512_sub_epi64(_mm512_maskz_set1_epi64(!has_point, 1), front_bytes), places);
        let whole = _mm512_add_epi64(whole, _mm512_set1_epi64(7));
        let some_before = _mm512_cmpgt_epi64_mask(whole, _mm512_setzero_si512());
        let some_behind = !has_point | _mm512_test_epi64_mask(places, places);
        // JSON has no 007.
        let well_begun = !zero_first | _mm512_cmpeq_epi64_mask(whole, one());
        let digits = _mm512_sub_epi8(closed, zeros());
        let no_digit = _mm512_cmpgt_epu8_mask(digits, _mm512_set1_epi8(9));
        let no_digit = _mm512_movm_epi8(no_digit);
        let all_digits = !_mm512_test_epi64_mask(no_digit, no_digit);
        if one_point & some_before & some_behind & well_begun & all_digits & lane != lane {
            return None;
        }
        // Pairs, fours, eights.
        let pairs = _mm512_maddubs_epi16(digits, _mm512_set1_epi16(0x010a));
        let fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x0001_0064));
        let eights =
            _mm512_add_epi64(_mm512_mul_epu32(fours, _mm512_set1_epi64(10_000)), _mm512_srli_epi64::<32>(fours));
        // Both are exact in double precision, so one operation rounds once: Clinger 1990.
        // SAFETY: eight numbers are as long as the register.
        let tens = unsafe { _mm512_loadu_pd(TENS.as_ptr()) };
        let values = _mm512_div_pd(_mm512_cvtepi64_pd(eights), _mm512_permutexvar_pd(places, tens));
        // Rounding twice differs from rounding once only where the first rounding ends in the middle between two floats.
        let end = _mm512_and_si512(_mm512_castpd_si512(values), _mm512_set1_epi64((1 << 29) - 1));
        if _mm512_mask_cmpeq_epi64_mask(lane, end, _mm512_set1_epi64(1 << 28)) != 0 {
            return None;
        }
        let signs = _mm512_maskz_set1_epi64(negative, i64::MIN);
        let values = _mm512_castsi512_pd(_mm512_or_si512(_mm512_castpd_si512(values), signs));
        Some(_mm512_cvtpd_ps(values))
    }

    /// A bit for each byte that is `byte`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn equal(bytes: __m512i, byte: u8) -> u64 {
        _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn low_byte_is(words: __m512i, byte: u8) -> __mmask8 {
        let low = _mm512_and_si512(words, _mm512_set1_epi64(0xff));
        _mm512_cmpeq_epi64_mask(low, _mm512_set1_epi64(i64::from(byte)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn one() -> __m512i {
        _mm512_set1_epi64(1)
    }

    /// The digit, in every byte.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zeros() -> __m512i {
        _mm512_set1_epi8(b'0' as i8)
    }

    /// 0 to 63.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn all_places() -> __m512i {
        // SAFETY: these are as long as the register.
        unsafe { _mm512_loadu_si512(PLACES.as_ptr().cast()) }
    }
}
