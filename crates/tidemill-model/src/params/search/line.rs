//! Many keys, each in the first line where it may be.
//!
//! In: keys. Out: the place of each that is in its first or second line or surely in none, and which are neither. What a key costs here every
//! feature of every sample costs, so the four places of a line are compared in one register where the processor has such.

use crate::params::{
    SHARD_BITS,
    bucket::{LINE_PLACES, PAGE_PLACES},
    packed::Packed,
    pairs::Words,
    part::{ABSENT, Part, Place},
};

/// Keys whose lines are asked for together, while those of as many keys before them are looked at.
const AHEAD: usize = 64;

/// The places of a line.
type Line = [Packed; LINE_PLACES];

/// How a line is searched.
trait Find {
    /// Which place of the line holds the key, and whether one does; 0 when none does.
    fn find(line: &Line, key: u64) -> (u32, bool);
}

/// Writes in which line the search for each key begins, and asks the processor for it.
#[inline(always)]
pub(super) fn ask(part: &Part, keys: &[u64], lines: &mut [Place]) {
    let (directory, all): (_, &[Line]) = (&part.directory, bytemuck::cast_slice(&part.places));
    let lines = &mut lines[..keys.len()];
    for i in 0..keys.len() {
        let line = directory.bucket(keys[i]).line_of(keys[i]);
        crate::prefetch(all, line);
        lines[i] = line as Place;
    }
}

/// Keys that are looked up, and what is found.
pub(super) struct Search<'a> {
    pub(super) keys: &'a [u64],
    /// Whether [`ask`] has written in which lines to begin already.
    pub(super) asked: bool,
    /// The place of each key that is in its first line or the one behind it, and [`ABSENT`] for one for which there is room in
    /// its first line.
    pub(super) places: &'a mut [Place],
    /// The words there, one for each key, if they are wanted.
    pub(super) words: Option<&'a mut Words>,
    /// The number of each other key.
    pub(super) unsure: &'a mut Vec<u32>,
}

/// Looks up keys, each in the first two lines where it may be.
pub(super) fn look(part: &Part, search: Search) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor has AVX2 and BMI2, as was asked just now.
        return unsafe { avx2::look(part, search) };
    }
    look_by::<Plain>(part, search);
}

#[inline(always)]
fn look_by<F: Find>(part: &Part, search: Search) {
    let Search { keys, asked, places, words, unsure } = search;
    let places = &mut places[..keys.len()];
    match words {
        Some(Words { a, b }) => {
            let (a, b) = (&mut a[..keys.len()], &mut b[..keys.len()]);
            look_with::<F>(part, (keys, asked), places, |i, packed| [a[i], b[i]] = packed.pair(), unsure);
        }
        None => look_with::<F>(part, (keys, asked), places, |_, _| {}, unsure),
    }
}

/// `take` gets what may be the entry of key number `i`: the last time, it is if there is one.
#[inline(always)]
fn look_with<F: Find>(
    part: &Part,
    (keys, asked): (&[u64], bool),
    places: &mut [Place],
    mut take: impl FnMut(usize, &Packed),
    unsure: &mut Vec<u32>,
) {
    let lines: &[Line] = bytemuck::cast_slice(&part.places);
    if !asked {
        ask(part, &keys[..keys.len().min(AHEAD)], places);
    }
    let mut missed = [0u8; AHEAD];
    for begin in (0..keys.len()).step_by(AHEAD) {
        let (end, ahead) = (keys.len().min(begin + AHEAD), keys.len().min(begin + 2 * AHEAD));
        if !asked {
            ask(part, &keys[end..ahead], &mut places[end..ahead]);
        }
        let mut misses = 0;
        let (some, found_at) = (&keys[begin..end], &mut places[begin..end]);
        for i in 0..some.len() {
            let first = found_at[i] as usize;
            let line = &lines[first];
            let (at, found) = F::find(line, some[i]);
            let at = at as usize % LINE_PLACES;
            found_at[i] = (first * LINE_PLACES + at) as Place;
            take(begin + i, &line[at]);
            missed[misses % AHEAD] = i as u8;
            misses += usize::from(!found);
        }
        for i in &missed[..misses] {
            let i = begin + usize::from(*i);
            let first = places[i] as usize / LINE_PLACES;
            if Packed::free(&lines[first]) != 0 {
                // A search ends where there is room: the key has no entry.
                places[i] = ABSENT;
                take(i, &Packed::default());
                continue;
            }
            crate::prefetch(lines, first + 1);
            unsure.push(i as u32);
        }
    }
    unsure.retain(|i| {
        let (key, place) = (keys[*i as usize], &mut places[*i as usize]);
        let next = *place as usize + LINE_PLACES;
        // Behind a page's end are other keys.
        let in_page = !next.is_multiple_of(PAGE_PLACES);
        let line = &lines[if in_page { next / LINE_PLACES } else { 0 }];
        let (at, found) = F::find(line, key);
        *place = next as Place + at;
        take(*i as usize, &line[at as usize % LINE_PLACES]);
        !found
    });
}

struct Plain;

impl Find for Plain {
    #[inline(always)]
    fn find(line: &Line, key: u64) -> (u32, bool) {
        let holding = Packed::holding(line, key);
        (holding.trailing_zeros() % LINE_PLACES as u32, holding != 0)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use core::arch::x86_64::*;

    use super::*;
    use crate::params::packed::{OF_KEY, TAKEN};

    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn look(part: &Part, search: Search) {
        look_by::<Avx2>(part, search);
    }

    pub(super) struct Avx2;

    impl Find for Avx2 {
        #[inline(always)]
        fn find(line: &Line, key: u64) -> (u32, bool) {
            // SAFETY: only [`look`] uses this, which needs AVX2 itself.
            unsafe { find(line, key) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn find(line: &Line, key: u64) -> (u32, bool) {
        let [first, second]: [__m256i; 2] = bytemuck::cast(*line);
        // The tags of places 0, 2, 1 and 3.
        let tags = _mm256_unpacklo_epi64(first, second);
        let tags = _mm256_and_si256(tags, _mm256_set1_epi64x(OF_KEY as i64));
        let holding = _mm256_cmpeq_epi64(tags, _mm256_set1_epi64x((key << SHARD_BITS | TAKEN) as i64));
        let holding = _mm256_movemask_pd(_mm256_castsi256_pd(holding)) as u32;
        // Two bits for each: which place it was. Of none, 32 zeros make a shift by none.
        const PLACES: u32 = 0b11_01_10_00;
        (PLACES.wrapping_shr(2 * holding.trailing_zeros()) & 3, holding != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::packed::{FLAGS, TAKEN};

    /// Both ways find every place of a line, and no key that is not there.
    #[test]
    fn a_line_is_searched_the_same_way_everywhere() {
        let key = |i: u64| 0x0123_4567_89ab_cdef ^ i << 40;
        type Way = fn(&Line, u64) -> (u32, bool);
        let mut ways: Vec<Way> = vec![Plain::find];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            ways.push(<avx2::Avx2 as Find>::find);
        }
        for flags in [TAKEN, FLAGS] {
            let line: Line =
                std::array::from_fn(|i| Packed { tag: key(i as u64) << SHARD_BITS | flags, words: [7; 2] });
            for find in &ways {
                for i in 0..LINE_PLACES as u64 {
                    assert_eq!(find(&line, key(i)), (i as u32, true));
                }
                assert_eq!(find(&line, key(9)), (0, false));
                assert_eq!(find(&[Packed::default(); LINE_PLACES], 0), (0, false));
            }
        }
    }
}
