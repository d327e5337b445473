//! Factorisation machines (Rendle, "Factorization Machines", ICDM 2010).
//!
//! y(x) = sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j, computed by his lemma 3.1 as
//! 1/2 sum_f ((sum_i v_if x_i)^2 - sum_i v_if^2 x_i^2). An entry is [w | v_1 .. v_k]. Sums are laid out by group of shards
//! ([`GROUPS`]), so that parts of a sample may be added up apart.
//!
//! Dropout leaves out whole factors f of the sum over pairs, others for every sample, and counts the rest for more (He and
//! Chua, "Neural Factorization Machines for Sparse Predictive Analytics", SIGIR 2017, section 3.2.2).

use tidemill_base::rng::mix64;

use super::{Block, GROUPS, Learner, Slice, add_groups, group_of};
use crate::simd::{Kernel, LANES, add_lanes, wide};

/// A weight and `factors` factors per key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fm {
    /// k, the dimension of the factors.
    pub factors: usize,
    /// Standard deviation of the factors an entry begins with.
    pub spread: f32,
    /// Share of the factors left out while learning.
    pub dropout: f32,
}

impl Learner for Fm {
    fn blocks(&self) -> Vec<Block> {
        vec![
            Block { name: "linear", dimension: 1, spread: 0.0 },
            Block { name: "factors", dimension: self.factors, spread: self.spread },
        ]
    }

    fn outputs(&self) -> usize {
        1
    }

    fn is_pairwise(&self) -> bool {
        true
    }

    fn has_dropout(&self) -> bool {
        self.dropout > 0.0
    }

    fn forward(&self, slice: &Slice, _dense: &[f32], work: &mut Vec<f32>, scores: &mut [f32]) {
        // Of each sample the sums of v x, which the gradient needs, and what each factor counts for.
        work.resize(slice.len() * self.factors * 2, 1.0);
        let (sums, counts) = work.split_at_mut(slice.len() * self.factors);
        self.count_factors(slice, counts);
        wide(Forward { slice, factors: self.factors, sums, counts, scores });
    }

    fn backward(
        &self,
        slice: &Slice,
        _dense: &[f32],
        work: &mut Vec<f32>,
        slopes: &[f32],
        gradients: &mut [f32],
        _dense_gradients: &mut [f32],
    ) {
        let (sums, counts) = work.split_at(slice.len() * self.factors);
        wide(Backward { slice, factors: self.factors, sums, counts, slopes, gradients });
    }
}

impl Fm {
    /// 1, or while learning with dropout 0 or what makes up for that.
    fn count_factors(&self, slice: &Slice, counts: &mut [f32]) {
        let Some(seeds) = slice.dropout.filter(|_| self.has_dropout()) else { return counts.fill(1.0) };
        let (kept, least) = (1.0 / (1.0 - self.dropout), (f64::from(self.dropout) * TWO_TO_32) as u64);
        for (seed, counts) in seeds.iter().zip(counts.chunks_exact_mut(self.factors)) {
            for (f, count) in (0..).zip(counts) {
                *count = if mix64(seed ^ f) >> 32 < least { 0.0 } else { kept };
            }
        }
    }
}

const TWO_TO_32: f64 = (1u64 << 32) as f64;

struct Forward<'a> {
    slice: &'a Slice<'a>,
    factors: usize,
    sums: &'a mut [f32],
    counts: &'a [f32],
    scores: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let k = self.factors;
        for (i, score) in self.scores.iter_mut().enumerate() {
            let (sums, counts) = (&mut self.sums[i * k..][..k], &self.counts[i * k..][..k]);
            // Factor f is added up in lane f modulo eight, whether alone or beside others.
            let mut pairs = [0.0f32; LANES];
            let whole = k - k % LANES;
            for first in (0..whole).step_by(LANES) {
                add_factors::<LANES>(self.slice, i, k, first, sums, counts, &mut pairs);
            }
            for first in whole..k {
                let lane = pairs[first % LANES..].first_chunk_mut().expect("a lane");
                add_factors::<1>(self.slice, i, k, first, sums, counts, lane);
            }
            *score = linear(self.slice, i, k) + 0.5 * add_lanes(&pairs);
        }
    }
}

#[inline(always)]
fn linear(slice: &Slice, i: usize, factors: usize) -> f32 {
    let mut groups = [0.0f32; GROUPS];
    for j in slice.range(i) {
        groups[group_of(slice.keys[j])] += slice.params[j * (1 + factors)] * slice.values[j];
    }
    add_groups(&groups)
}

/// Of `N` factors of sample `i`, from `first` on: the sums of v x, and what their squares exceed those of the addends by.
#[inline(always)]
fn add_factors<const N: usize>(
    slice: &Slice,
    i: usize,
    factors: usize,
    first: usize,
    sums: &mut [f32],
    counts: &[f32],
    pairs: &mut [f32; N],
) {
    let mut of_groups = [[0.0f32; N]; GROUPS];
    let mut squares = [[0.0f32; N]; GROUPS];
    for j in slice.range(i) {
        let (x, group) = (slice.values[j], group_of(slice.keys[j]));
        let v: &[f32; N] = slice.params[j * (1 + factors) + 1 + first..].first_chunk().expect("a row is whole");
        let (mut sum, mut square) = (of_groups[group], squares[group]);
        for f in 0..N {
            let vx = v[f] * x;
            sum[f] += vx;
            square[f] += vx * vx;
        }
        (of_groups[group], squares[group]) = (sum, square);
    }
    for f in 0..N {
        let sum = add_groups(&std::array::from_fn(|group| of_groups[group][f]));
        let square = add_groups(&std::array::from_fn(|group| squares[group][f]));
        sums[first + f] = sum;
        pairs[f] += counts[first + f] * (sum * sum - square);
    }
}

struct Backward<'a> {
    slice: &'a Slice<'a>,
    factors: usize,
    sums: &'a [f32],
    counts: &'a [f32],
    slopes: &'a [f32],
    gradients: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (k, width) = (self.factors, 1 + self.factors);
        for (i, slope) in self.slopes.iter().enumerate() {
            let (sums, counts) = (&self.sums[i * k..][..k], &self.counts[i * k..][..k]);
            let range = self.slice.range(i);
            let values = &self.slice.values[range.clone()];
            let of_sample = range.start * width..range.end * width;
            let params = self.slice.params[of_sample.clone()].chunks_exact(width);
            for ((x, params), out) in values.iter().zip(params).zip(self.gradients[of_sample].chunks_exact_mut(width)) {
                let g = slope * x;
                out[0] = g;
                let (outs, out_rest) = out[1..].as_chunks_mut::<LANES>();
                let (vs, v_rest) = params[1..].as_chunks::<LANES>();
                let (sums, sum_rest) = sums.as_chunks::<LANES>();
                let (counts, count_rest) = counts.as_chunks::<LANES>();
                for (((out, v), sum), count) in outs.iter_mut().zip(vs).zip(sums).zip(counts) {
                    *out = std::array::from_fn(|f| g * count[f] * (sum[f] - v[f] * x));
                }
                for (((out, v), sum), count) in out_rest.iter_mut().zip(v_rest).zip(sum_rest).zip(count_rest) {
                    *out = g * count * (sum - v * x);
                }
            }
        }
    }
}
