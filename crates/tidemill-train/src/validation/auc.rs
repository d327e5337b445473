//! Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher, ties half.
//!
//! In: scores with their labels. Out: the area, NaN while one class is missing. [`exact`] sorts and is for a window;
//! [`Histogram`] is for everything since the beginning, takes 32 KiB for ever and counts scores of one bin as ties.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

/// Bins: logits from -16 to 16 in steps of 1/128.
const BINS: usize = 4096;
const LOGIT_MAX: f32 = 16.0;

/// The area of these scores, none of which is NaN; every pair counted, in whole numbers.
pub(super) fn exact(scores: impl Iterator<Item = (f32, bool)>) -> f64 {
    let mut ranked: Vec<u64> = scores.map(|(score, positive)| (rank(score) as u64) << 1 | positive as u64).collect();
    sort(&mut ranked);
    let (mut negatives, mut positives, mut twice_ordered) = (0, 0, 0);
    for ties in ranked.chunk_by(|a, b| a >> 1 == b >> 1) {
        let positive = ties.iter().map(|tie| tie & 1).sum::<u64>();
        let negative = ties.len() as u64 - positive;
        twice_ordered += positive as u128 * (2 * negatives + negative) as u128;
        negatives += negative;
        positives += positive;
    }
    area(twice_ordered, positives, negatives)
}

/// Ascending, for numbers of 33 bits: three passes of eleven, as a window is sorted whenever somebody looks at the figures.
fn sort(numbers: &mut Vec<u64>) {
    const DIGIT: u64 = (1 << 11) - 1;
    if numbers.len() < 4_096 {
        numbers.sort_unstable();
        return;
    }
    let mut sorted = vec![0; numbers.len()];
    for shift in [0, 11, 22] {
        let digit = |number: u64| (number >> shift & DIGIT) as usize;
        let mut places = [0; DIGIT as usize + 1];
        numbers.iter().for_each(|number| places[digit(*number)] += 1);
        let mut begin = 0;
        for place in &mut places {
            begin += std::mem::replace(place, begin);
        }
        for number in numbers.iter() {
            let place = &mut places[digit(*number)];
            sorted[*place] = *number;
            *place += 1;
        }
        std::mem::swap(numbers, &mut sorted);
    }
}

/// A whole number that orders as the score does; 0 and -0 are one.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn area(twice_ordered: u128, positives: u64, negatives: u64) -> f64 {
    twice_ordered as f64 / (2 * positives as u128 * negatives as u128) as f64
}

/// Scores by bin.
pub(super) struct Histogram {
    /// Negative and positive samples.
    bins: Box<[[u32; 2]; BINS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: vec![[0; 2]; BINS].into_boxed_slice().try_into().expect("made with BINS bins") }
    }
}

impl Histogram {
    #[inline]
    pub(super) fn add(&mut self, logit: f32, positive: bool) {
        let share = (logit.clamp(-LOGIT_MAX, LOGIT_MAX) + LOGIT_MAX) / (2.0 * LOGIT_MAX);
        let count = &mut self.bins[((share * BINS as f32) as i32 as usize).min(BINS - 1)][positive as usize];
        *count += 1;
        if *count == u32::MAX {
            self.halve();
        }
    }

    /// After four thousand million samples in one bin. The area is a ratio: half of everything has the same.
    #[cold]
    fn halve(&mut self) {
        self.bins.iter_mut().flatten().for_each(|count| *count /= 2);
    }

    pub(super) fn auc(&self) -> f64 {
        let (mut negatives, mut positives, mut twice_ordered) = (0, 0, 0);
        for [negative, positive] in self.bins.iter().map(|bin| bin.map(u64::from)) {
            twice_ordered += positive as u128 * (2 * negatives + negative) as u128;
            negatives += negative;
            positives += positive;
        }
        area(twice_ordered, positives, negatives)
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        let taken = || self.bins.iter().enumerate().filter(|(_, bin)| **bin != [0, 0]);
        out.put_varint(taken().count() as u64);
        for (i, [negative, positive]) in taken() {
            out.put_varint(i as u64).put_varint(*negative as u64).put_varint(*positive as u64);
        }
    }

    pub(super) fn decode(from: &mut Decoder) -> Result<Self> {
        let mut histogram = Self::default();
        for _ in 0..from.count(3)? {
            let (i, negative, positive) = (from.varint()?, from.varint()?, from.varint()?);
            match histogram.bins.get_mut(i as usize) {
                Some(bin) if negative.max(positive) < u32::MAX as u64 => *bin = [negative as u32, positive as u32],
                _ => {
                    return Err(Error::corrupt(format!(
                        "validation: bin {i} of the score histogram holds {negative} and {positive} samples"
                    )));
                }
            }
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    /// By the definition: every pair looked at.
    fn by_pairs(scores: &[(f32, bool)]) -> f64 {
        let (mut ordered, mut pairs) = (0.0, 0.0);
        for (high, _) in scores.iter().filter(|(_, positive)| *positive) {
            for (low, _) in scores.iter().filter(|(_, positive)| !*positive) {
                pairs += 1.0;
                ordered += if high > low { 1.0 } else { 0.5 * (high == low) as u8 as f64 };
            }
        }
        ordered / pairs
    }

    #[test]
    fn the_exact_area_is_the_share_of_ordered_pairs() {
        let mut rng = Rng::seeded(7);
        for steps in [1, 3, 20, 1_000_000] {
            let draw = |rng: &mut Rng| ((rng.below(steps) as f32 - steps as f32 / 2.0) * 0.37, rng.below(3) == 0);
            let scores: Vec<(f32, bool)> = (0..400).map(|_| draw(&mut rng)).collect();
            let (found, expected) = (exact(scores.iter().copied()), by_pairs(&scores));
            assert!((found - expected).abs() < 1e-12, "{steps} scores: {found}, by pairs {expected}");
        }
        assert_eq!(exact([(0.0, true), (-0.0, false)].into_iter()), 0.5, "zero and minus zero tie");
        let ends = [(f32::INFINITY, true), (f32::MAX, false), (f32::MIN, true), (f32::NEG_INFINITY, false)];
        assert_eq!(exact(ends.into_iter()), 0.75);
        assert!(exact([(1.0, true)].into_iter()).is_nan());
        assert!(exact(std::iter::empty()).is_nan());
    }

    #[test]
    fn long_and_short_are_sorted() {
        let mut rng = Rng::seeded(9);
        for count in [0, 1, 4_095, 4_096, 20_000] {
            let mut numbers: Vec<u64> = (0..count).map(|_| rng.below(1 << 33)).collect();
            let mut expected = numbers.clone();
            expected.sort();
            sort(&mut numbers);
            assert!(numbers == expected, "{count} numbers");
        }
    }

    #[test]
    fn a_full_bin_halves_all_and_the_area_stays() {
        let mut histogram = Histogram::default();
        histogram.bins[2_000] = [u32::MAX - 1, 1 << 30];
        histogram.bins[3_000] = [1 << 31, 1 << 31];
        let before = histogram.auc();
        histogram.add(-0.374, false);
        assert_eq!(histogram.bins[2_000], [u32::MAX / 2, 1 << 29]);
        assert!((histogram.auc() - before).abs() < 1e-9);
        assert!((before - 2.0 / 3.0).abs() < 1e-9, "{before}");
    }
}
