//! Numbers to buckets: which of some ascending boundaries a number lies between, and that bucket's key.
//!
//! In: a number. Out: a key. What it costs, every bucketed column of every row costs, and a binary search cannot guess which
//! way a number goes. So the first bits of the number, its exponent and the beginning of its fraction, name a cell. Cells
//! are made so fine that there is one boundary in each at most, and it is asked without a branch whether the number reaches
//! it; where boundaries lie too near to each other for that, the few in a cell are counted.

use std::ops::Range;

/// Bits of a number that name its cell, at least: sign, exponent and four of the fraction, so a sixteenth of an octave.
const CELL_BITS_MIN: u32 = 16;
const CELL_BITS_MAX: u32 = 22;
/// Cells between the first and the last boundary at most, where they are made finer: half a megabyte.
const CELLS_MAX: usize = 1 << 17;
/// A cell with more boundaries than this is searched by halves.
const COUNTED_MAX: usize = 4;

/// Boundaries, ascending and without NaN, and the key of each bucket between them.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    /// Behind them stands one that no number reaches.
    boundaries: Vec<f64>,
    keys: Vec<u64>,
    null_key: u64,
    cell_bits: u32,
    /// The cell of the first boundary: those below hold none.
    first_cell: usize,
    /// Of each cell, and of all behind the last: boundaries below it.
    below: Vec<u32>,
    /// Whether no cell holds more than one.
    is_single: bool,
}

impl Buckets {
    /// Of ascending boundaries; `key` gives the key of a bucket by its number, from 0.
    pub(super) fn new(mut boundaries: Vec<f64>, key: impl Fn(u64) -> u64, null_key: u64) -> Self {
        let cells = |bits: u32| boundaries.iter().map(|b| cell(*b, bits)).collect::<Vec<_>>();
        let span = |cells: &[usize]| cells.last().unwrap_or(&0) - cells.first().unwrap_or(&0);
        let mut bits = CELL_BITS_MIN;
        let mut of_each = cells(bits);
        let is_single = |of_each: &[usize]| of_each.is_sorted_by(|a, b| a < b);
        while !is_single(&of_each) && bits < CELL_BITS_MAX && 2 * span(&of_each) < CELLS_MAX {
            bits += 1;
            of_each = cells(bits);
        }
        let first = of_each.first().copied().unwrap_or(0);
        let mut below = Vec::with_capacity(span(&of_each) + 3);
        for cell in first..=first + span(&of_each) + 2 {
            let before = below.last().map_or(0, |before| *before as usize);
            below.push((before + of_each[before..].iter().take_while(|c| **c < cell).count()) as u32);
        }
        let keys = (0..=boundaries.len() as u64).map(key).collect();
        let is_single = is_single(&of_each);
        boundaries.push(f64::NAN);
        Self { boundaries, keys, null_key, cell_bits: bits, first_cell: first, below, is_single }
    }

    /// The key of a number's bucket; of NaN some bucket's.
    #[inline(always)]
    pub(super) fn key(&self, x: f64) -> u64 {
        self.keys[self.bucket(x)]
    }

    /// The key of NULL.
    pub(super) fn null_key(&self) -> u64 {
        self.null_key
    }

    /// The key of a whole number's bucket, or of NULL.
    #[inline(always)]
    pub(super) fn key_of_whole(&self, x: i64, is_valid: bool) -> u64 {
        // Without a branch: whether a number is there cannot be guessed.
        let key = self.key(x as f64);
        if is_valid { key } else { self.null_key }
    }

    /// Boundaries that are not above the number.
    #[inline(always)]
    fn bucket(&self, x: f64) -> usize {
        // Cells behind the last boundary's have all boundaries below them.
        let at = cell(x, self.cell_bits).saturating_sub(self.first_cell).min(self.below.len() - 2);
        let start = self.below[at] as usize;
        if self.is_single {
            return start + usize::from(self.boundaries[start] <= x);
        }
        let range = start..self.below[at + 1] as usize;
        if range.len() > COUNTED_MAX {
            return self.search(range, x);
        }
        start + self.boundaries[range].iter().map(|b| usize::from(*b <= x)).sum::<usize>()
    }

    #[cold]
    fn search(&self, range: Range<usize>, x: f64) -> usize {
        range.start + self.boundaries[range].partition_point(|b| *b <= x)
    }
}

/// The cell of a number. A greater number is in the same cell or a later one; both zeros are in one.
#[inline(always)]
fn cell(x: f64, bits: u32) -> usize {
    let of_x = (x + 0.0).to_bits();
    // Of negative numbers those with greater bits are lower.
    let ordered = of_x ^ ((of_x as i64 >> 63) as u64 | 1 << 63);
    (ordered >> (64 - bits)) as usize
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
        let mut ways = std::collections::BTreeSet::new();
        for boundaries in cases {
            let buckets = Buckets::new(boundaries.clone(), |bucket| bucket, u64::MAX);
            ways.insert(buckets.is_single);
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
        assert_eq!(ways.len(), 2, "both fine cells and crowded ones");
    }
}
