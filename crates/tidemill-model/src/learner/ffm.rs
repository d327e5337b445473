//! Field-aware factorisation machines (Juan et al., "Field-aware Factorization Machines for CTR Prediction", RecSys 2016).
//!
//! y(x) = sum_i w_i x_i + sum_{i<j} <v_{i,f_j}, v_{j,f_i}> x_i x_j, where f_i is the slot of feature i. An entry is
//! [w | v_{.,0} | v_{.,1} | ..], k factors for each slot. Features of one slot meet each other through v_{.,f} of their own
//! slot. Slots that lack in a sample cost nothing.

use super::{Block, GROUPS, Learner, Slice, add_groups, group_of};

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

    fn forward(&self, slice: &Slice, _dense: &[f32], _work: &mut Vec<f32>, scores: &mut [f32]) {
        for (i, score) in scores.iter_mut().enumerate() {
            *score = match self.factors {
                4 => self.score::<4>(slice, i),
                8 => self.score::<8>(slice, i),
                _ => self.score_any(slice, i),
            };
        }
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
        gradients.fill(0.0);
        for (i, slope) in slopes.iter().enumerate().filter(|(_, slope)| **slope != 0.0) {
            match self.factors {
                4 => self.gradient::<4>(slice, i, *slope, gradients),
                8 => self.gradient::<8>(slice, i, *slope, gradients),
                _ => self.gradient_any(slice, i, *slope, gradients),
            }
        }
    }
}

impl Ffm {
    fn width(&self) -> usize {
        1 + self.slots * self.factors
    }

    fn linear(&self, slice: &Slice, i: usize) -> f32 {
        let mut groups = [0.0f32; GROUPS];
        for j in slice.range(i) {
            groups[group_of(slice.keys[j])] += slice.params[j * self.width()] * slice.values[j];
        }
        add_groups(&groups)
    }

    /// With the number of factors known when this is compiled, they are computed side by side.
    fn score<const K: usize>(&self, slice: &Slice, i: usize) -> f32 {
        let (range, width) = (slice.range(i), self.width());
        let mut sums = [0.0f32; K];
        for a in range.clone() {
            let (x, slot) = (slice.values[a], slice.slots[a] as usize);
            let of_a = slice.params[a * width + 1..][..self.slots * K].as_chunks::<K>().0;
            let mut of_this = [0.0f32; K];
            for b in a + 1..range.end {
                let v_ab = &of_a[slice.slots[b] as usize];
                let v_ba: &[f32; K] = slice.params[b * width + 1 + slot * K..].first_chunk().expect("a row is whole");
                for f in 0..K {
                    of_this[f] += v_ab[f] * v_ba[f] * slice.values[b];
                }
            }
            (0..K).for_each(|f| sums[f] += of_this[f] * x);
        }
        self.linear(slice, i) + sums.iter().fold(0.0, |all, sum| all + sum)
    }

    fn score_any(&self, slice: &Slice, i: usize) -> f32 {
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
        self.linear(slice, i) + all
    }

    fn gradient<const K: usize>(&self, slice: &Slice, i: usize, slope: f32, gradients: &mut [f32]) {
        let (range, width) = (slice.range(i), self.width());
        for a in range.clone() {
            let g = slope * slice.values[a];
            let slot = slice.slots[a] as usize;
            let row = &mut gradients[a * width..][..width];
            row[0] = g;
            let row = row[1..].as_chunks_mut::<K>().0;
            for b in range.clone().filter(|b| *b != a) {
                let v_ba: &[f32; K] = slice.params[b * width + 1 + slot * K..].first_chunk().expect("a row is whole");
                let gx = g * slice.values[b];
                let out = &mut row[slice.slots[b] as usize];
                for f in 0..K {
                    out[f] += gx * v_ba[f];
                }
            }
        }
    }

    fn gradient_any(&self, slice: &Slice, i: usize, slope: f32, gradients: &mut [f32]) {
        let (range, width, k) = (slice.range(i), self.width(), self.factors);
        for a in range.clone() {
            let g = slope * slice.values[a];
            let slot = slice.slots[a] as usize;
            let row = &mut gradients[a * width..][..width];
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
