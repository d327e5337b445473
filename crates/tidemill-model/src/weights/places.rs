//! Where each key's word stands, in lines of the cache.
//!
//! In: keys, with a word each. Out: the words of many keys, at nearly the speed of memory. Open addressing: a key is in the
//! line its first bits point to or, where that was full when it came, in the next one that had room. A line has five
//! places, so few keys are behind their first line; those that are wait until all others were looked up, because their
//! second line comes from memory meanwhile. A free place has key 0 and word 0, and so has a key that is not there.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

use crate::{params::memory::Memory, prefetch::prefetch};

/// Places in a line.
const PLACES: usize = 5;

/// A line of the cache, which its alignment makes it: one access to memory brings all its places.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line {
    /// 0 marks a free place. Places are taken from the first on, and none is ever given back.
    keys: [u64; PLACES],
    /// One for each key, and then a 0 for every key that is not here.
    words: [u32; PLACES + 1],
}

/// Stands in [`Find::find`] for the place of a key that is not in the line.
const NONE: u32 = 1 << PLACES;

/// Lines of the smallest table.
const LINES_MIN: usize = 16;
/// A table of up to so many lines stays in the caches near the core, where asking ahead only costs.
const CACHED_LINES: usize = 1 << 12;
/// Keys whose lines are on their way from memory while one is looked at: as many as the processor fetches at once, several
/// times over, for it also does other things.
const KEYS_AHEAD: usize = 128;

/// From here on lines are memory of their own, in pages of 2 MiB; that costs system calls and 4 MiB of addresses, and a process
/// may have a thousand small tables.
const OWN_LINES: usize = 1 << 15;

enum Lines {
    Few(Vec<Line>),
    Many(Memory<Line>),
}

/// Keys and their words.
pub(super) struct Places {
    lines: Lines,
    /// Places taken, those of removed keys too.
    taken: usize,
}

/// Where a key stands, or belongs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    line: usize,
    at: usize,
    /// Whether the key is there.
    pub is_taken: bool,
}

impl Places {
    /// For so many keys at first. 48% of the places are taken then: of a hundred keys, two are behind their first line. Each of
    /// those takes the time of five others; with 55% and three, look-ups are slower by 3%, with 66% by 10%.
    pub(super) fn with_room(keys: usize) -> Self {
        Self::of_lines((keys * 5).div_ceil(12).max(LINES_MIN))
    }

    fn of_lines(count: usize) -> Self {
        if count < OWN_LINES {
            return Self { lines: Lines::Few(vec![Line::zeroed(); count]), taken: 0 };
        }
        let mut lines = Memory::reserve(count, 0).expect("there are more addresses than any memory has bytes");
        lines.use_to(count);
        Self { lines: Lines::Many(lines), taken: 0 }
    }

    /// Places taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether one more key needs a larger table, because searches would be long.
    pub(super) fn is_full(&self) -> bool {
        self.taken + 1 > self.lines.len() * PLACES / 10 * 7
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// The keys that were ever given a place, with their words.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        self.lines.iter().flat_map(|line| line.keys.into_iter().zip(line.words)).filter(|(key, _)| *key != 0)
    }

    /// The key's place, or the free one where it belongs. Ends, because places are left free.
    pub(super) fn place(&self, key: u64) -> Place {
        let mut line = home(key, &self.lines);
        loop {
            let keys = &self.lines[line].keys;
            if let Some(at) = keys.iter().position(|there| *there == key) {
                return Place { line, at, is_taken: true };
            }
            if let Some(at) = keys.iter().position(|there| *there == 0) {
                return Place { line, at, is_taken: false };
            }
            line = behind(line, &self.lines);
        }
    }

    /// Gives a key the free place where it belongs.
    pub(super) fn take(&mut self, place: Place, key: u64) {
        self.lines[place.line].keys[place.at] = key;
        self.taken += 1;
    }

    pub(super) fn word_at(&mut self, place: Place) -> &mut u32 {
        &mut self.lines[place.line].words[place.at]
    }

    /// The word of a key; 0 when it has none.
    #[inline(always)]
    pub(super) fn word(&self, key: u64) -> u32 {
        search::<Plain>(&self.lines, home(key, &self.lines), key)
    }

    /// Whether looking at a line may mean waiting for memory.
    #[inline(always)]
    pub(super) fn is_far(&self) -> bool {
        self.lines.len() > CACHED_LINES
    }

    /// Asks for the lines of the keys that [`Places::look`] will begin with.
    pub(super) fn ask(&self, keys: &[u64]) {
        if self.is_far() {
            keys.iter().take(KEYS_AHEAD).for_each(|key| prefetch(&self.lines, home(*key, &self.lines)));
        }
    }

    /// Finds the words of the first of these keys, one for each of `words`; the lines of the keys behind them are asked for.
    pub(super) fn look(&self, keys: &[u64], words: &mut [u32], unsure: &mut Vec<u32>) {
        let (keys, ahead) = (&keys[..words.len()], keys.get(KEYS_AHEAD..).unwrap_or_default());
        unsure.resize(keys.len(), 0);
        let look = Look { lines: &self.lines, keys, ahead: if self.is_far() { ahead } else { &[] }, words, unsure };
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
            // SAFETY: the processor has AVX2 and BMI2, as was asked just now.
            return unsafe { avx2::look(look) };
        }
        look.run::<Plain>();
    }
}

impl Clone for Places {
    fn clone(&self) -> Self {
        let mut copy = Self::of_lines(self.lines.len());
        copy.lines.copy_from_slice(&self.lines);
        Self { taken: self.taken, ..copy }
    }
}

impl Deref for Lines {
    type Target = [Line];

    #[inline(always)]
    fn deref(&self) -> &[Line] {
        match self {
            Self::Few(lines) => lines,
            Self::Many(lines) => lines,
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        match self {
            Self::Few(lines) => lines,
            Self::Many(lines) => lines,
        }
    }
}

/// The line of a key's first 32 bits, when these are spread over all lines in proportion.
#[inline(always)]
fn home(key: u64, lines: &[Line]) -> usize {
    (((key >> 32) * lines.len() as u64) >> 32) as usize
}

#[inline(always)]
fn behind(line: usize, lines: &[Line]) -> usize {
    if line + 1 == lines.len() { 0 } else { line + 1 }
}

/// Keys that are looked up.
struct Look<'a> {
    lines: &'a [Line],
    keys: &'a [u64],
    /// The keys whose lines are asked for meanwhile, one for each of `keys` as far as there are any.
    ahead: &'a [u64],
    words: &'a mut [u32],
    /// Room for the number of each key that is not in its first line.
    unsure: &'a mut [u32],
}

impl Look<'_> {
    #[inline(always)]
    fn run<F: Find>(self) {
        let Look { lines, keys, ahead, words, unsure } = self;
        let (words, unsure) = (&mut words[..keys.len()], &mut unsure[..keys.len()]);
        let mut count = 0;
        // Without a branch: which place it is cannot be foreseen, nor that it is none of them.
        let mut look_at = |i: usize| {
            let line = &lines[home(keys[i], lines)];
            let found = F::find(line, keys[i]);
            words[i] = line.words[found.trailing_zeros() as usize];
            unsure[count] = i as u32;
            count += usize::from(found == NONE);
        };
        let asking = ahead.len().min(keys.len());
        for (i, key) in ahead[..asking].iter().enumerate() {
            prefetch(lines, home(*key, lines));
            look_at(i);
        }
        (asking..keys.len()).for_each(look_at);
        let mut kept = 0;
        for j in 0..count {
            let first = home(keys[unsure[j] as usize], lines);
            prefetch(lines, first + 1);
            unsure[kept] = unsure[j];
            // Where a place is free, the key would have taken it.
            kept += usize::from(lines[first].keys[PLACES - 1] != 0);
        }
        for i in &unsure[..kept] {
            let key = keys[*i as usize];
            words[*i as usize] = search::<F>(lines, behind(home(key, lines), lines), key);
        }
    }
}

/// The word of a key that is in this line or behind it; 0 when it is not.
#[inline(always)]
fn search<F: Find>(lines: &[Line], mut line: usize, key: u64) -> u32 {
    loop {
        let found = F::find(&lines[line], key);
        if found != NONE || lines[line].keys[PLACES - 1] == 0 {
            return lines[line].words[found.trailing_zeros() as usize];
        }
        line = behind(line, lines);
    }
}

/// How a line is searched.
trait Find {
    /// A bit for each place that holds the key, and [`NONE`] in any case.
    fn find(line: &Line, key: u64) -> u32;
}

struct Plain;

impl Find for Plain {
    #[inline(always)]
    fn find(line: &Line, key: u64) -> u32 {
        let [a, b, c, d, e] = line.keys.map(|there| u32::from(there == key));
        a | b << 1 | c << 2 | d << 3 | e << 4 | NONE
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use core::arch::x86_64::*;

    use super::{Find, Line, Look, NONE, PLACES};

    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn look(look: Look) {
        look.run::<Avx2>();
    }

    pub(super) struct Avx2;

    impl Find for Avx2 {
        #[inline(always)]
        fn find(line: &Line, key: u64) -> u32 {
            // SAFETY: only [`look`] uses this, which needs AVX2 itself.
            unsafe { find(line, key) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn find(line: &Line, key: u64) -> u32 {
        let [first, _]: [__m256i; 2] = bytemuck::cast(*line);
        let equal = _mm256_cmpeq_epi64(first, _mm256_set1_epi64x(key as i64));
        let four = _mm256_movemask_pd(_mm256_castsi256_pd(equal)) as u32;
        four | u32::from(line.keys[PLACES - 1] == key) << (PLACES - 1) | NONE
    }
}

#[cfg(test)]
mod tests {
    use tidemill_base::rng::mix64;

    use super::*;

    fn taken(keys: &[u64], room: usize) -> Places {
        let mut places = Places::with_room(room);
        for (i, key) in keys.iter().enumerate() {
            let place = places.place(*key);
            assert!(!place.is_taken && !places.is_full());
            places.take(place, *key);
            *places.word_at(place) = i as u32 + 1;
        }
        places
    }

    fn looked_up(places: &Places, keys: &[u64], by_look: impl Fn(Look)) -> Vec<u32> {
        let (mut words, mut unsure) = (vec![7; keys.len()], vec![9; keys.len()]);
        let ahead = keys.get(KEYS_AHEAD..).unwrap_or_default();
        by_look(Look { lines: &places.lines, keys, ahead, words: &mut words, unsure: &mut unsure });
        words
    }

    /// Both ways find every key and no other, among keys that are spread out and keys that crowd the first or last line.
    #[test]
    fn keys_are_found_the_same_way_everywhere() {
        for begin in [0, 1, u64::MAX - 300] {
            let keys: Vec<u64> = (0..600).map(|i| if i % 2 == 0 { mix64(i) } else { begin + i / 2 }).collect();
            let keys: Vec<u64> = keys.into_iter().filter(|key| *key != 0).collect();
            let places = taken(&keys, keys.len());
            let mut asked: Vec<(u64, u32)> = keys.iter().zip(1..).map(|(key, word)| (*key, word)).collect();
            asked.extend((0..400).map(|i| (mix64(1 << 40 | i), 0)));
            asked.push((0, 0));
            asked.sort_by_key(|(key, _)| mix64(*key));
            let (asked, words): (Vec<u64>, Vec<u32>) = asked.into_iter().unzip();
            assert_eq!(looked_up(&places, &asked, |look| look.run::<Plain>()), words);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
                // SAFETY: the processor has both.
                assert_eq!(looked_up(&places, &asked, |look| unsafe { avx2::look(look) }), words);
            }
            let one_by_one: Vec<u32> = asked.iter().map(|key| places.word(*key)).collect();
            assert_eq!(one_by_one, words);
            let copy = places.clone();
            assert!(copy.iter().eq(places.iter()) && copy.iter().count() == keys.len());
        }
    }

    /// What the note on [`Places::with_room`] says.
    #[test]
    fn few_keys_are_behind_their_first_line() {
        let keys: Vec<u64> = (0..100_000).map(|i| mix64(i) | 1).collect();
        let places = taken(&keys, keys.len());
        assert!(matches!(places.lines, Lines::Many(_)));
        assert_eq!(looked_up(&places, &keys, |look| look.run::<Plain>()), (1..=100_000).collect::<Vec<u32>>());
        let is_behind = |key: &&u64| places.place(**key).line != home(**key, &places.lines);
        let share = keys.iter().filter(is_behind).count() as f64 / keys.len() as f64;
        assert!((0.015..0.03).contains(&share), "{share}");
    }
}
