//! Layers of units, over the samples of a slice at once.
//!
//! z_1 = W_1' a_0 + b_1, a_1 = max(z_1, 0), and so on; the last layer has no max. In: a_0, a row per sample. Out: scores;
//! and back from the slopes of the loss by the scores, the gradients of all W and b and of a_0. Dense parameters stand as
//! [W_1 | b_1 | W_2 | b_2 ..], W_l with a row for each input. Every sum is in a fixed order, inputs ascending and samples
//! ascending, so a sample's result does not depend on those beside it, nor any bit on the processor.

mod alone;
mod product;
mod widest;

use std::cell::Cell;

use tidemill_base::{Rng, rng::mix64};

use product::Product;

thread_local! {
    /// Where this thread keeps the gradients of a layer's outputs and inputs: as large as its largest slice.
    static ROOM: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// What biases of hidden units begin with.
const BIAS: f32 = 0.01;

/// Layers' sizes, and how much is left out while learning.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
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
                let (terms, columns) = (n[0], n[1]);
                if rows <= alone::ROWS_MAX {
                    return alone::add_to(a, weights, columns, out);
                }
                Product { a, b: weights, rows, terms, columns, a_turned: false, b_turned: false }.add_to(out);
            };
            if l + 2 == self.sizes.len() {
                scores.chunks_exact_mut(n[1]).for_each(|z| z.iter_mut().zip(biases).for_each(|(z, b)| *z += b));
                return product(scores);
            }
            let z = &mut after[..rows * n[1]];
            z.chunks_exact_mut(n[1]).for_each(|z| z.copy_from_slice(biases));
            product(z);
            // What is no number stays so, and its sample is refused.
            z.iter_mut().for_each(|z| *z = if *z < 0.0 { 0.0 } else { *z });
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

    /// A sample that nothing is learned from may hold what is no number, and zero times that would be none either.
    fn silence(&self, activations: &mut [f32], slopes: &[f32]) {
        let rows = slopes.len() / self.outputs();
        for (i, _) in slopes.chunks_exact(self.outputs()).enumerate().filter(|(_, s)| s.iter().all(|s| *s == 0.0)) {
            let mut before = 0;
            for n in &self.sizes[..self.sizes.len() - 1] {
                activations[before * rows + i * n..][..*n].fill(0.0);
                before += n;
            }
        }
    }

    /// From what [`Layers::forward`] left in `activations`: writes the gradients of the dense parameters, and hands those of
    /// a_0 to `take`. `learning`: units were left out.
    pub(super) fn backward(
        &self,
        dense: &[f32],
        learning: bool,
        activations: &mut [f32],
        slopes: &[f32],
        dense_gradients: &mut [f32],
        take: impl FnOnce(&[f32]),
    ) {
        let rows = slopes.len() / self.outputs();
        let kept = if learning { 1.0 / (1.0 - self.dropout) } else { 1.0 };
        self.silence(activations, slopes);
        let widest = rows * self.sizes.iter().copied().max().unwrap_or(0);
        let mut room = ROOM.take();
        room.iter_mut().filter(|room| room.len() < widest).for_each(|room| room.resize(widest, 0.0));
        let [dz, of_a] = &mut room;
        let (mut dz, mut of_a) = (&mut dz[..], &mut of_a[..]);
        dz[..slopes.len()].copy_from_slice(slopes);
        let (mut of_dense, mut of_activations) = (dense.len(), activations.len());
        for (l, n) in self.sizes.windows(2).enumerate().rev() {
            of_dense -= (n[0] + 1) * n[1];
            of_activations -= rows * n[0];
            let weights = &dense[of_dense..][..n[0] * n[1]];
            let a = &activations[of_activations..][..rows * n[0]];
            let (dw, db) = dense_gradients[of_dense..][..(n[0] + 1) * n[1]].split_at_mut(n[0] * n[1]);
            let (inputs, outputs) = (n[0], n[1]);
            let (of_z, gradients) = (&dz[..rows * outputs], &mut of_a[..rows * inputs]);
            let by_sample =
                Product { a, b: of_z, rows: inputs, terms: rows, columns: outputs, a_turned: true, b_turned: false };
            by_sample.write_to(dw);
            db.fill(0.0);
            of_z.chunks_exact(n[1]).for_each(|dz| db.iter_mut().zip(dz).for_each(|(db, dz)| *db += dz));
            let by_output =
                Product { a: of_z, b: weights, rows, terms: outputs, columns: inputs, a_turned: false, b_turned: true };
            by_output.write_to(gradients);
            if l > 0 {
                // Where a unit was below zero, or left out, its output is zero and stays so.
                gradients.iter_mut().zip(a).for_each(|(g, a)| *g *= if *a > 0.0 { kept } else { 0.0 });
                std::mem::swap(&mut dz, &mut of_a);
            }
        }
        take(&of_a[..rows * self.sizes[0]]);
        ROOM.set(room);
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

    /// One sample that is no number must not keep the others from being learned.
    #[test]
    fn a_sample_without_slopes_leaves_no_trace() {
        let layers = Layers::new(9, &[7, 6], 2, 0.0);
        let dense = layers.start(1);
        let learned = |second: f32, slopes: &[f32]| {
            let mut activations: Vec<f32> = (0..27).map(|i| if i / 9 == 1 { second } else { 0.1 * i as f32 }).collect();
            layers.forward(&dense, None, &mut activations, &mut [0.0; 6]);
            let (mut of_dense, mut of_inputs) = (vec![0.0; dense.len()], Vec::new());
            let take = |gradients: &[f32]| of_inputs = gradients.to_vec();
            layers.backward(&dense, false, &mut activations, slopes, &mut of_dense, take);
            (of_dense, of_inputs)
        };
        let slopes = [0.5, 1.0, 0.0, 0.0, -1.0, 0.2];
        for second in [f32::INFINITY, f32::NAN] {
            assert!(learned(second, &slopes) == learned(0.3, &slopes), "{second}");
        }
        assert!(learned(0.2, &[0.5; 6]) != learned(0.3, &[0.5; 6]));
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
