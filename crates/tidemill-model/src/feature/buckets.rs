//! Numbers to buckets: which of some ascending boundaries a number lies between, and that bucket's key.
//!
//! In: a number. Out: a key. What it costs, every bucketed column of every row costs, and a binary search cannot guess which
//! way a number goes. So the first bits of the number, its exponent and the beginning of its fraction, name a cell, the cell
//! names the few boundaries in it, and these are counted without a branch.

use std::ops::Range;

/// Bits of a number that name its cell: sign, exponent and four of the fraction. A cell is a sixteenth of an octave.
const CELL_BITS: u32 = 16;
/// Whole numbers from 0 to below this find their keys in a table: most numbers in logs are counts, and small ones.
const SMALL: u64 = 256;
/// A cell with more boundaries than this is searched by halves.
const COUNTED_MAX: usize = 4;

/// Boundaries, ascending and without NaN, and the key of each bucket between them.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    boundaries: Vec<f64>,
    keys: Vec<u64>,
    /// The key of NULL, then those of the small whole numbers.
    small: Vec<u64>,
    /// The cell of the first boundary: those below hold none.
    first_cell: usize,
    /// Of each cell, and of all behind the last: boundaries below it.
    below: Vec<u32>,
}

impl Buckets {
    /// Of ascending boundaries; `key` gives the key of a bucket by its number, from 0.
    pub(super) fn new(boundaries: Vec<f64>, key: impl Fn(u64) -> u64, null_key: u64) -> Self {
        let cells: Vec<usize> = boundaries.iter().map(|b| cell(*b)).collect();
        let (first, last) = (cells.first().copied().unwrap_or(0), cells.last().copied().unwrap_or(0));
        let below = (first..=last + 2).map(|cell| cells.partition_point(|c| *c < cell) as u32).collect();
        let keys = (0..=boundaries.len() as u64).map(key).collect();
        let mut buckets = Self { boundaries, keys, small: vec![null_key], first_cell: first, below };
        let small: Vec<u64> = (0..SMALL).map(|x| buckets.key(x as f64)).collect();
        buckets.small.extend(small);
        buckets
    }

    /// The key of a number's bucket; of NaN some bucket's.
    #[inline(always)]
    pub(super) fn key(&self, x: f64) -> u64 {
        self.keys[self.bucket(x)]
    }

    /// The key of NULL.
    pub(super) fn null_key(&self) -> u64 {
        self.small[0]
    }

    /// The key of a whole number's bucket, or of NULL.
    #[inline(always)]
    pub(super) fn key_of_whole(&self, x: i64, is_valid: bool) -> u64 {
        // Without a branch: whether a number is there cannot be guessed.
        let at = if is_valid { (x as u64).saturating_add(1) } else { 0 };
        match self.small.get(at as usize) {
            Some(key) => *key,
            None => self.key(x as f64),
        }
    }

    /// Boundaries that are not above the number.
    #[inline(always)]
    fn bucket(&self, x: f64) -> usize {
        // Cells behind the last boundary's have all boundaries below them.
        let at = cell(x).saturating_sub(self.first_cell).min(self.below.len() - 2);
        let range = self.below[at] as usize..self.below[at + 1] as usize;
        if range.len() > COUNTED_MAX {
            return self.search(range, x);
        }
        let start = range.start;
        start + self.boundaries[range].iter().map(|b| usize::from(*b <= x)).sum::<usize>()
    }

    #[cold]
    fn search(&self, range: Range<usize>, x: f64) -> usize {
        range.start + self.boundaries[range].partition_point(|b| *b <= x)
    }
}

/// The cell of a number. A greater number is in the same cell or a later one; both zeros are in one.
#[inline(always)]
fn cell(x: f64) -> usize {
    let bits = (x + 0.0).to_bits();
    // Of negative numbers those with greater bits are lower.
    let ordered = bits ^ ((bits as i64 >> 63) as u64 | 1 << 63);
    (ordered >> (64 - CELL_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    #[test]
    fn every_number_is_in_the_bucket_that_counting_finds() {
        let mut rng = Rng::seeded(3);
        let geometric = |from: f64, n: usize| (0..n).map(|i| from * 1.05f64.powi(i as i32)).collect::<Vec<_>>();
        let cases: Vec<Vec<f64>> = vec![
            vec![0.0],
            vec![-0.0, 1.0],
            vec![-1e300, -1.0, -1e-300, 0.0, 5e-324, 1.0, 1e300],
            vec![f64::NEG_INFINITY, 0.0, f64::INFINITY],
            (0..1000).map(|i| i as f64 / 1000.0).collect(),
            (-40..40).map(f64::from).collect(),
            geometric(1.0, 330),
            geometric(1e-9, 20),
            vec![f64::MIN, f64::MAX],
        ];
        for boundaries in cases {
            let buckets = Buckets::new(boundaries.clone(), |bucket| bucket, u64::MAX);
            let mut numbers = vec![0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, f64::MAX, f64::MIN, f64::INFINITY];
            numbers.push(f64::NEG_INFINITY);
            for b in &boundaries {
                numbers.extend([*b, b.next_up(), b.next_down(), -b]);
            }
            for _ in 0..2000 {
                let any = f64::from_bits(rng.next_u64());
                numbers.extend([any, rng.next_f64() * 100.0, rng.below(100_000) as f64]);
            }
            for x in numbers.into_iter().filter(|x| !x.is_nan()) {
                let counted = boundaries.iter().filter(|b| **b <= x).count();
                assert_eq!(buckets.key(x), counted as u64, "{x:e} among {boundaries:?}");
                if x.abs() < 1e15 && x.fract() == 0.0 {
                    assert_eq!(buckets.key_of_whole(x as i64, true), counted as u64, "{x:e} among {boundaries:?}");
                }
            }
            assert_eq!(buckets.key_of_whole(7, false), u64::MAX);
            assert_eq!(buckets.key_of_whole(i64::MAX, true), buckets.key(i64::MAX as f64));
            assert_eq!(buckets.key_of_whole(-1, true), buckets.key(-1.0));
            // Somewhere, and no panic.
            assert!(buckets.key(f64::NAN) <= boundaries.len() as u64);
        }
    }
}
