//! Field-aware pairs of a sample with very many features, by sums over slots.
//!
//! In: a sample of more than [`LONG`] features. Out: what its pairs add to the score, and their gradients. The work grows
//! with the features and the square of their slots and not with the square of the features: a list of 65,536, the most
//! that is taken, would otherwise hold up a thread for ten seconds. With S_{a,b} the sum of x_i v_{i,b} over the features
//! of slot a, the pairs are the sum over slots a < b of <S_{a,b}, S_{b,a}>, and within a slot half of |S_{a,a}|^2 less
//! each feature's own |x_i v_{i,a}|^2. Sums are of f64, in the order of the features, so that what cancels leaves nothing.

use super::Ffm;
use crate::learner::Slice;

/// Features from which on sums are made: fewer are faster pair by pair.
pub(super) const LONG: usize = 1_024;

/// The sums S of one sample, of the slots it has.
struct Sums {
    /// The slots, ascending.
    slots: Vec<usize>,
    /// k numbers for each slot of the sample and each it meets.
    sums: Vec<f64>,
    k: usize,
}

/// What the pairs of sample `i` add to its score.
#[cold]
#[inline(never)]
pub(super) fn pairs(ffm: &Ffm, slice: &Slice, i: usize) -> f32 {
    let sums = Sums::of(ffm, slice, i);
    let dot = |p: &[f64], q: &[f64]| p.iter().zip(q).fold(0.0, |sum, (p, q)| sum + p * q);
    let mut all = 0.0;
    for a in 0..sums.slots.len() {
        for b in a + 1..sums.slots.len() {
            all += dot(sums.at(a, b), sums.at(b, a));
        }
        all += 0.5 * dot(sums.at(a, a), sums.at(a, a));
    }
    for j in slice.range(i) {
        let x = f64::from(slice.values[j]);
        let own = ffm.facing(slice, j, slice.slots[j] as usize);
        all -= 0.5 * own.iter().fold(0.0, |sum, v| sum + (x * f64::from(*v)) * (x * f64::from(*v)));
    }
    all as f32
}

/// The gradients of sample `i`, to `gradients` of it alone.
#[cold]
#[inline(never)]
pub(super) fn gradient(ffm: &Ffm, slice: &Slice, i: usize, slope: f32, gradients: &mut [f32]) {
    let (sums, width, k) = (Sums::of(ffm, slice, i), ffm.width(), ffm.factors);
    let mut a = 0;
    for (j, row) in slice.range(i).zip(gradients.chunks_exact_mut(width)) {
        let slot = slice.slots[j] as usize;
        a += sums.slots[a..].iter().take_while(|s| **s < slot).count();
        let x = f64::from(slice.values[j]);
        let g = f64::from(slope * slice.values[j]);
        row.fill(0.0);
        row[0] = slope * slice.values[j];
        for (b, of_b) in sums.slots.iter().enumerate() {
            let out = &mut row[1 + of_b * k..][..k];
            out.iter_mut().zip(sums.at(b, a)).for_each(|(out, sum)| *out = (g * sum) as f32);
        }
        // A feature does not meet itself.
        let own = ffm.facing(slice, j, slot);
        let out = &mut row[1 + slot * k..][..k];
        for ((out, sum), v) in out.iter_mut().zip(sums.at(a, a)).zip(own) {
            *out = (g * (sum - x * f64::from(*v))) as f32;
        }
    }
}

impl Sums {
    fn of(ffm: &Ffm, slice: &Slice, i: usize) -> Self {
        let (k, range) = (ffm.factors, slice.range(i));
        let mut slots: Vec<usize> = slice.slots[range.clone()].iter().map(|slot| *slot as usize).collect();
        slots.dedup();
        let mut sums = Self { sums: vec![0.0; slots.len() * slots.len() * k], slots, k };
        let mut a = 0;
        for j in range {
            let slot = slice.slots[j] as usize;
            a += sums.slots[a..].iter().take_while(|s| **s < slot).count();
            let x = f64::from(slice.values[j]);
            let first = a * sums.slots.len() * k;
            let of_a = &mut sums.sums[first..first + sums.slots.len() * k];
            for (sum, slot) in of_a.chunks_exact_mut(k).zip(&sums.slots) {
                sum.iter_mut().zip(ffm.facing(slice, j, *slot)).for_each(|(sum, v)| *sum += x * f64::from(*v));
            }
        }
        sums
    }

    /// S of the sample's slot `a` for its slot `b`.
    fn at(&self, a: usize, b: usize) -> &[f64] {
        &self.sums[(a * self.slots.len() + b) * self.k..][..self.k]
    }
}

impl Ffm {
    /// The factors with which feature `j` meets a slot.
    fn facing<'a>(&self, slice: &Slice<'a>, j: usize, slot: usize) -> &'a [f32] {
        &slice.params[j * self.width() + 1 + slot * self.factors..][..self.factors]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    /// Pair by pair and by sums: the same score and the same gradients but for rounding.
    #[test]
    fn sums_over_slots_are_what_the_pairs_add_up_to() {
        for factors in [3, 4, 8] {
            let ffm = Ffm { factors, slots: 6, spread: 0.1 };
            let mut rng = Rng::seeded(8);
            let n = 400;
            let mut slots: Vec<u16> = (0..n).map(|_| [0, 1, 3, 5][rng.below(4) as usize]).collect();
            slots.sort_unstable();
            let keys: Vec<u64> = (0..n).map(|_| rng.next_u64()).collect();
            let mut drawn = |count: usize| (0..count).map(|_| rng.normal() as f32 * 0.3).collect::<Vec<_>>();
            let (values, params) = (drawn(n), drawn(n * ffm.width()));
            let ends = [0, n as u32];
            let (keys, values, slots, params) = (&keys[..], &values[..], &slots[..], &params[..]);
            let slice = Slice { ends: &ends, keys, values, slots, params, dropout: None };
            let (sums, expected) = (pairs(&ffm, &slice, 1), ffm.pairs_any(&slice, 1));
            assert!((sums - expected).abs() < 1e-3 * expected.abs().max(1.0), "{sums} {expected}");
            let [mut by_sums, mut by_pairs] = [vec![f32::NAN; params.len()], vec![f32::NAN; params.len()]];
            gradient(&ffm, &slice, 1, 0.7, &mut by_sums);
            ffm.gradient_any(&slice, 1, 0.7, &mut by_pairs);
            for (i, (sums, pairs)) in by_sums.iter().zip(&by_pairs).enumerate() {
                assert!((sums - pairs).abs() < 1e-4, "{factors} factors, {i}: {sums} {pairs}");
            }
        }
    }
}
