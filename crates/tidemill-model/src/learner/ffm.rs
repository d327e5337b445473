//! Field-aware factorisation machines (Juan et al., "Field-aware Factorization Machines for CTR Prediction", RecSys 2016).
//!
//! y(x) = sum_i w_i x_i + sum_{i<j} <v_{i,f_j}, v_{j,f_i}> x_i x_j, where f_i is the slot of feature i. An entry is
//! [w | v_{.,0} | v_{.,1} | ..], k factors for each slot. Features of one slot meet each other through v_{.,f} of their own
//! slot. Slots that lack in a sample cost nothing; samples with very many features are computed by sums ([`long`]).

mod long;

use super::{Block, GROUPS, Learner, Slice, add_groups, group_of};
use crate::simd::{Kernel, wide};

/// A weight per key, and `factors` factors per key and slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ffm {
    /// k, the dimension of the factors.
    pub factors: usize,
    /// Slots of the model.
    pub slots: usize,
    /// Standard deviation of the factors an entry begins with.
    pub spread: f32,
}

impl Learner for Ffm {
    fn blocks(&self) -> Vec<Block> {
        vec![
            Block { name: "linear", dimension: 1, spread: 0.0 },
            Block { name: "factors", dimension: self.slots * self.factors, spread: self.spread },
        ]
    }

    fn outputs(&self) -> usize {
        1
    }

    fn is_pairwise(&self) -> bool {
        true
    }

    fn slice_samples(&self) -> usize {
        8
    }

    fn forward(&self, slice: &Slice, _dense: &[f32], _work: &mut Vec<f32>, scores: &mut [f32]) {
        wide(Forward { ffm: self, slice, scores });
    }

    fn backward(
        &self,
        slice: &Slice,
        _dense: &[f32],
        _work: &mut Vec<f32>,
        slopes: &[f32],
        gradients: &mut [f32],
        _dense_gradients: &mut [f32],
    ) {
        wide(Backward { ffm: self, slice, slopes, gradients });
    }
}

struct Forward<'a> {
    ffm: &'a Ffm,
    slice: &'a Slice<'a>,
    scores: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (i, score) in self.scores.iter_mut().enumerate() {
            *score = self.ffm.linear(self.slice, i)
                + match self.ffm.factors {
                    _ if self.slice.range(i).len() > long::LONG => long::pairs(self.ffm, self.slice, i),
                    4 => self.ffm.pairs::<4>(self.slice, i),
                    8 => self.ffm.pairs::<8>(self.slice, i),
                    _ => self.ffm.pairs_any(self.slice, i),
                };
        }
    }
}

struct Backward<'a> {
    ffm: &'a Ffm,
    slice: &'a Slice<'a>,
    slopes: &'a [f32],
    gradients: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.ffm.width();
        for (i, slope) in self.slopes.iter().enumerate() {
            let range = self.slice.range(i);
            let gradients = &mut self.gradients[range.start * width..range.end * width];
            match self.ffm.factors {
                _ if *slope == 0.0 => gradients.fill(0.0),
                _ if range.len() > long::LONG => long::gradient(self.ffm, self.slice, i, *slope, gradients),
                4 => self.ffm.gradient_of::<4>(self.slice, i, *slope, gradients),
                8 => self.ffm.gradient_of::<8>(self.slice, i, *slope, gradients),
                _ => self.ffm.gradient_any(self.slice, i, *slope, gradients),
            }
        }
    }
}

impl Ffm {
    #[inline(always)]
    fn width(&self) -> usize {
        1 + self.slots * self.factors
    }

    #[inline(always)]
    fn linear(&self, slice: &Slice, i: usize) -> f32 {
        let mut groups = [0.0f32; GROUPS];
        for j in slice.range(i) {
            groups[group_of(slice.keys[j])] += slice.params[j * self.width()] * slice.values[j];
        }
        add_groups(&groups)
    }

    /// With the number of factors known when this is compiled, they are computed side by side.
    #[inline(always)]
    fn pairs<const K: usize>(&self, slice: &Slice, i: usize) -> f32 {
        let (range, width) = (slice.range(i), self.width());
        let params = &slice.params[range.start * width..range.end * width];
        let (slots, values) = (&slice.slots[range.clone()], &slice.values[range]);
        let mut sum = [0.0f32; K];
        for (a, slot) in slots.iter().enumerate() {
            let of_a = params[a * width + 1..][..self.slots * K].as_chunks::<K>().0;
            // What stands in the others for this one's slot.
            let facing = &params[1 + *slot as usize * K..];
            let term = |b: usize| (&of_a[slots[b] as usize], at(facing, b * width), values[b]);
            // Two sums in turns: an addition need not wait for the one before.
            let (mut even, mut odd) = ([0.0f32; K], [0.0f32; K]);
            let mut b = a + 1;
            while b + 1 < slots.len() {
                add_pair(&mut even, term(b));
                add_pair(&mut odd, term(b + 1));
                b += 2;
            }
            if b < slots.len() {
                add_pair(&mut even, term(b));
            }
            let before = sum;
            sum = std::array::from_fn(|f| before[f] + (even[f] + odd[f]) * values[a]);
        }
        sum.iter().fold(0.0, |all, sum| all + sum)
    }

    #[inline(always)]
    fn pairs_any(&self, slice: &Slice, i: usize) -> f32 {
        let (range, width, k) = (slice.range(i), self.width(), self.factors);
        let mut all = 0.0f32;
        for a in range.clone() {
            let slot = slice.slots[a] as usize;
            for b in a + 1..range.end {
                let v_ab = &slice.params[a * width + 1 + slice.slots[b] as usize * k..][..k];
                let v_ba = &slice.params[b * width + 1 + slot * k..][..k];
                let dot = v_ab.iter().zip(v_ba).fold(0.0f32, |sum, (p, q)| sum + p * q);
                all += dot * (slice.values[a] * slice.values[b]);
            }
        }
        all
    }

    /// `gradients`: of sample `i` alone.
    #[inline(always)]
    fn gradient_of<const K: usize>(&self, slice: &Slice, i: usize, slope: f32, gradients: &mut [f32]) {
        match slice.slots[slice.range(i)].is_sorted_by(|a, b| a < b) {
            true => self.gradient::<K, true>(slice, i, slope, gradients),
            false => self.gradient::<K, false>(slice, i, slope, gradients),
        }
    }

    /// `ALONE`: no two features are of one slot, so that nothing needs to be added up.
    #[inline(always)]
    fn gradient<const K: usize, const ALONE: bool>(&self, slice: &Slice, i: usize, slope: f32, gradients: &mut [f32]) {
        let (range, width) = (slice.range(i), self.width());
        let params = &slice.params[range.start * width..range.end * width];
        let (slots, values) = (&slice.slots[range.clone()], &slice.values[range]);
        for (a, row) in gradients.chunks_exact_mut(width).enumerate() {
            let g = slope * values[a];
            let slot = slots[a] as usize;
            let (linear, row) = row.split_at_mut(1);
            linear[0] = g;
            let row = row.as_chunks_mut::<K>().0;
            let facing = &params[1 + slot * K..];
            if ALONE && slots.len() == self.slots {
                // Every slot has its one feature: they come in the order of the factors.
                for ((out, of_b), x) in row.iter_mut().zip(facing.chunks(width)).zip(values) {
                    let gx = g * x;
                    let v_ba: &[f32; K] = at(of_b, 0);
                    *out = std::array::from_fn(|f| gx * v_ba[f]);
                }
                row[slot] = [0.0; K];
                continue;
            }
            row.fill([0.0; K]);
            let mut add = |b: usize| {
                let (v_ba, gx): (&[f32; K], _) = (at(facing, b * width), g * values[b]);
                let out = &mut row[slots[b] as usize];
                let before = if ALONE { [0.0; K] } else { *out };
                *out = std::array::from_fn(|f| before[f] + gx * v_ba[f]);
            };
            (0..a).for_each(&mut add);
            (a + 1..slots.len()).for_each(&mut add);
        }
    }

    #[inline(always)]
    fn gradient_any(&self, slice: &Slice, i: usize, slope: f32, gradients: &mut [f32]) {
        let (range, width, k) = (slice.range(i), self.width(), self.factors);
        for (a, row) in range.clone().zip(gradients.chunks_exact_mut(width)) {
            let g = slope * slice.values[a];
            let slot = slice.slots[a] as usize;
            row.fill(0.0);
            row[0] = g;
            for b in range.clone().filter(|b| *b != a) {
                let v_ba = &slice.params[b * width + 1 + slot * k..][..k];
                let gx = g * slice.values[b];
                let out = &mut row[1 + slice.slots[b] as usize * k..][..k];
                out.iter_mut().zip(v_ba).for_each(|(out, v)| *out += gx * v);
            }
        }
    }
}

/// Adds what each factor of a pair brings. No closure: it would be called, and for narrower registers.
#[inline(always)]
fn add_pair<const K: usize>(sum: &mut [f32; K], (v_ab, v_ba, x): (&[f32; K], &[f32; K], f32)) {
    for f in 0..K {
        sum[f] += v_ab[f] * v_ba[f] * x;
    }
}

#[inline(always)]
fn at<const K: usize>(params: &[f32], i: usize) -> &[f32; K] {
    params[i..].first_chunk().expect("a row is whole")
}
