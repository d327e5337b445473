//! Factorisation machines (Rendle, "Factorization Machines", ICDM 2010).
//!
//! y(x) = sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j, computed by his lemma 3.1 as
//! 1/2 sum_f ((sum_i v_if x_i)^2 - sum_i v_if^2 x_i^2). An entry is [w | v_1 .. v_k]. Sums are laid out by group of shards
//! ([`GROUPS`]), so that parts of a sample may be added up apart.

use super::{Block, GROUPS, Learner, Slice, add_groups, group_of};

/// A weight and `factors` factors per key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fm {
    /// k, the dimension of the factors.
    pub factors: usize,
    /// Standard deviation of the factors an entry begins with.
    pub spread: f32,
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

    fn forward(&self, slice: &Slice, _dense: &[f32], work: &mut Vec<f32>, scores: &mut [f32]) {
        // Of each sample the sums of v x, which the gradient needs.
        work.clear();
        work.resize(slice.len() * self.factors, 0.0);
        let mut scratch = vec![0.0; (GROUPS + 1) * self.factors];
        for (i, score) in scores.iter_mut().enumerate() {
            *score = score_sample(slice, i, self.factors, &mut scratch, &mut work[i * self.factors..][..self.factors]);
        }
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
        let width = 1 + self.factors;
        for (i, slope) in slopes.iter().enumerate() {
            let sums = &work[i * self.factors..][..self.factors];
            for j in slice.range(i) {
                let x = slice.values[j];
                let params = &slice.params[j * width..][..width];
                let gradient = &mut gradients[j * width..][..width];
                let g = slope * x;
                gradient[0] = g;
                for ((gradient, sum), v) in gradient[1..].iter_mut().zip(sums).zip(&params[1..]) {
                    *gradient = g * (sum - v * x);
                }
            }
        }
    }
}

/// The score of sample `i`; writes its sums of v x. `scratch`: a row of factors for each group, and one.
fn score_sample(slice: &Slice, i: usize, factors: usize, scratch: &mut [f32], sums: &mut [f32]) -> f32 {
    let width = 1 + factors;
    let (grouped, squares) = scratch.split_at_mut(GROUPS * factors);
    grouped.fill(0.0);
    squares.fill(0.0);
    let mut linear = [0.0f32; GROUPS];
    let mut square_sums = [0.0f32; GROUPS];
    for j in slice.range(i) {
        let (x, group) = (slice.values[j], group_of(slice.keys[j]));
        let params = &slice.params[j * width..][..width];
        linear[group] += params[0] * x;
        let sums = &mut grouped[group * factors..][..factors];
        let mut square = 0.0f32;
        for (sum, v) in sums.iter_mut().zip(&params[1..]) {
            let vx = v * x;
            *sum += vx;
            square += vx * vx;
        }
        square_sums[group] += square;
    }
    let mut pairs = 0.0f32;
    for (f, sum) in sums.iter_mut().enumerate() {
        let of_group: [f32; GROUPS] = std::array::from_fn(|group| grouped[group * factors + f]);
        *sum = add_groups(&of_group);
        pairs += *sum * *sum;
    }
    add_groups(&linear) + 0.5 * (pairs - add_groups(&square_sums))
}
