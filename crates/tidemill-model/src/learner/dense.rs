//! Layers of units, over the samples of a slice at once.
//!
//! z_1 = W_1' a_0 + b_1, a_1 = max(z_1, 0), and so on; the last layer has no max. In: a_0, a row per sample. Out: scores;
//! and back from the slopes of the loss by the scores, the gradients of all W and b and of a_0. Dense parameters stand as
//! [W_1 | b_1 | W_2 | b_2 ..], W_l with a row for each input. Every sum is in a fixed order, inputs ascending and samples
//! ascending, so a sample's result does not depend on those beside it, nor any bit on the processor.

mod product;

use tidemill_base::{Rng, rng::mix64};

use crate::simd::wide;
use product::{Product, by_column, by_row};

/// What biases of hidden units begin with.
const BIAS: f32 = 0.01;

/// Layers' sizes, and how much is left out while learning.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layers {
    /// Inputs, units of each hidden layer, outputs.
    sizes: Vec<usize>,
    dropout: f32,
}

impl Layers {
    pub(super) fn new(inputs: usize, hidden: &[usize], outputs: usize, dropout: f32) -> Self {
        Self { sizes: [&[inputs], hidden, &[outputs]].concat(), dropout }
    }

    pub(super) fn dropout(&self) -> f32 {
        self.dropout
    }

    /// Numbers that [`Layers::forward`] leaves of a sample: inputs and outputs of hidden layers.
    pub(super) fn activations(&self) -> usize {
        self.sizes[..self.sizes.len() - 1].iter().sum()
    }

    fn outputs(&self) -> usize {
        self.sizes[self.sizes.len() - 1]
    }

    /// Parameters of all layers.
    pub(super) fn dimension(&self) -> usize {
        self.sizes.windows(2).map(|n| (n[0] + 1) * n[1]).sum()
    }

    /// Weights as He et al. ("Delving Deep into Rectifiers", 2015) draw them. Hidden biases are a little above zero, so that
    /// units fire, and have a gradient, for a sample whose keys are all new: its inputs are zeros.
    pub(super) fn start(&self, seed: u64) -> Vec<f32> {
        let mut rng = Rng::seeded(mix64(seed ^ 0x6c61_7965_7273));
        let mut dense = Vec::with_capacity(self.dimension());
        for (l, n) in self.sizes.windows(2).enumerate() {
            // Behind the last layer no half of the units is cut off.
            let gain = if l + 2 == self.sizes.len() { 1.0 } else { 2.0 };
            let spread = (gain / n[0] as f64).sqrt();
            dense.extend((0..n[0] * n[1]).map(|_| (rng.normal() * spread) as f32));
            dense.resize(dense.len() + n[1], if l + 2 == self.sizes.len() { 0.0 } else { BIAS });
        }
        dense
    }

    /// Adds the last layer to `scores`. `activations` holds a_0 of each sample, and a_1, a_2, .. behind it afterwards. With `seeds`, one per sample, units are left out.
    pub(super) fn forward(&self, dense: &[f32], seeds: Option<&[u64]>, activations: &mut Vec<f32>, scores: &mut [f32]) {
        let rows = scores.len() / self.outputs();
        activations.resize(rows * self.activations(), 0.0);
        let mut before: &mut [f32] = activations;
        let mut dense = dense;
        for (l, n) in self.sizes.windows(2).enumerate() {
            let (weights, rest) = dense.split_at(n[0] * n[1]);
            let (biases, rest) = rest.split_at(n[1]);
            dense = rest;
            let (a, after) = before.split_at_mut(rows * n[0]);
            let product = |out: &mut [f32]| {
                wide(Product { a: by_row(a, n[0]), b: weights, out, rows, inner: n[0], columns: n[1] });
            };
            if l + 2 == self.sizes.len() {
                scores.chunks_exact_mut(n[1]).for_each(|z| z.iter_mut().zip(biases).for_each(|(z, b)| *z += b));
                return product(scores);
            }
            let z = &mut after[..rows * n[1]];
            z.chunks_exact_mut(n[1]).for_each(|z| z.copy_from_slice(biases));
            product(z);
            z.iter_mut().for_each(|z| *z = z.max(0.0));
            if let Some(seeds) = seeds {
                self.leave_out(l, seeds, n[1], z);
            }
            before = after;
        }
    }

    /// Sets the units that are left out to zero and raises the others (Srivastava et al., "Dropout", JMLR 2014): which, is
    /// drawn for each sample from its own seed.
    fn leave_out(&self, layer: usize, seeds: &[u64], units: usize, a: &mut [f32]) {
        let kept = 1.0 / (1.0 - self.dropout);
        // Of 2^32 draws so many leave a unit out.
        let out = (f64::from(self.dropout) * 4_294_967_296.0) as u64;
        for (a, seed) in a.chunks_exact_mut(units).zip(seeds) {
            let seed = mix64(seed ^ (layer as u64 + 1) << 32);
            for (unit, a) in a.iter_mut().enumerate() {
                *a *= if mix64(seed ^ unit as u64) >> 32 < out { 0.0 } else { kept };
            }
        }
    }

    /// From what [`Layers::forward`] left in `activations`: adds the gradients of the dense parameters, and leaves those of
    /// a_0 in `gradients`. `learning`: units were left out.
    pub(super) fn backward(
        &self,
        dense: &[f32],
        learning: bool,
        activations: &[f32],
        slopes: &[f32],
        dense_gradients: &mut [f32],
        gradients: &mut Vec<f32>,
    ) {
        let rows = slopes.len() / self.outputs();
        let kept = if learning { 1.0 / (1.0 - self.dropout) } else { 1.0 };
        let mut dz = slopes.to_vec();
        let (mut of_dense, mut of_activations) = (dense.len(), activations.len());
        let mut transposed = Vec::new();
        for (l, n) in self.sizes.windows(2).enumerate().rev() {
            of_dense -= (n[0] + 1) * n[1];
            of_activations -= rows * n[0];
            let weights = &dense[of_dense..][..n[0] * n[1]];
            let a = &activations[of_activations..][..rows * n[0]];
            let (dw, db) = dense_gradients[of_dense..][..(n[0] + 1) * n[1]].split_at_mut(n[0] * n[1]);
            wide(Product { a: by_column(a, n[0]), b: &dz, out: dw, rows: n[0], inner: rows, columns: n[1] });
            dz.chunks_exact(n[1]).for_each(|dz| db.iter_mut().zip(dz).for_each(|(db, dz)| *db += dz));
            transpose(weights, n[1], &mut transposed);
            gradients.clear();
            gradients.resize(rows * n[0], 0.0);
            wide(Product { a: by_row(&dz, n[1]), b: &transposed, out: gradients, rows, inner: n[1], columns: n[0] });
            if l > 0 {
                // Where a unit was below zero, or left out, its output is zero and stays so.
                gradients.iter_mut().zip(a).for_each(|(g, a)| *g *= if *a > 0.0 { kept } else { 0.0 });
                std::mem::swap(&mut dz, gradients);
            }
        }
    }
}

/// From rows of `columns` to columns.
fn transpose(matrix: &[f32], columns: usize, out: &mut Vec<f32>) {
    let rows = matrix.len() / columns;
    out.resize(matrix.len(), 0.0);
    for (i, row) in matrix.chunks_exact(columns).enumerate() {
        row.iter().enumerate().for_each(|(j, x)| out[j * rows + i] = *x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of many units as many are left out as asked, others for every sample and layer, and the sum stays.
    #[test]
    fn dropout_leaves_out_a_share_drawn_by_sample() {
        let layers = Layers::new(4, &[1000], 1, 0.3);
        let left_out = |layer: usize, seed: u64| {
            let mut a = vec![1.0; 1000];
            layers.leave_out(layer, &[seed], 1000, &mut a);
            a
        };
        let a = left_out(0, 7);
        let out = a.iter().filter(|a| **a == 0.0).count();
        assert!((250..350).contains(&out), "{out} of 1000");
        assert!(a.iter().all(|a| *a == 0.0 || (*a - 1.0 / 0.7).abs() < 1e-6));
        assert!(left_out(0, 7) == a && left_out(0, 8) != a && left_out(1, 7) != a);
    }

    #[test]
    fn layers_begin_with_weights_by_seed_and_small_biases() {
        let layers = Layers::new(200, &[100], 2, 0.0);
        let dense = layers.start(3);
        assert_eq!(dense.len(), 201 * 100 + 101 * 2);
        assert!(dense[20_000..20_100].iter().all(|b| *b == BIAS) && dense[20_300..].iter().all(|b| *b == 0.0));
        let variance = dense[..20_000].iter().map(|w| f64::from(w * w)).sum::<f64>() / 20_000.0;
        assert!((variance - 0.01).abs() < 0.0005, "{variance}");
        assert!(layers.start(3) == dense && layers.start(4) != dense);
    }
}
