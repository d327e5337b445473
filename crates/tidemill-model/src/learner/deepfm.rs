//! DeepFM (Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017).
//!
//! y(x) = a factorisation machine + the last of some layers, both over the same embeddings: an entry is [w | v_1 .. v_d].

use super::{Block, Fm, Learner, Slice, dense::Layers, embedding::Embeddings};
use crate::{model::Deep, simd::scaled};

/// A factorisation machine whose factors are also the input of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepFm {
    fm: Fm,
    embeddings: Embeddings,
    layers: Layers,
}

impl DeepFm {
    /// For so many slots.
    pub fn new(slots: usize, deep: &Deep) -> Self {
        let embeddings = Embeddings { slots, dimension: deep.embedding, offset: 1 };
        let layers = Layers::new(embeddings.inputs(), &deep.layers, 1, deep.dropout);
        Self { fm: Fm { factors: deep.embedding, spread: deep.spread, dropout: 0.0 }, embeddings, layers }
    }
}

impl Learner for DeepFm {
    fn blocks(&self) -> Vec<Block> {
        self.fm.blocks()
    }

    fn layers(&self) -> Option<&Layers> {
        Some(&self.layers)
    }

    fn outputs(&self) -> usize {
        1
    }

    fn forward(&self, slice: &Slice, dense: &[f32], work: &mut Vec<f32>, scores: &mut [f32]) {
        let mut of_machine = Vec::new();
        self.fm.forward(slice, &[], &mut of_machine, scores);
        self.embeddings.gather(slice, work);
        self.layers.forward(dense, slice.dropout, work, scores);
        work.append(&mut of_machine);
    }

    fn backward(
        &self,
        slice: &Slice,
        dense: &[f32],
        work: &mut Vec<f32>,
        slopes: &[f32],
        gradients: &mut [f32],
        dense_gradients: &mut [f32],
    ) {
        let mut of_machine = work.split_off(slice.len() * self.layers.activations());
        self.fm.backward(slice, &[], &mut of_machine, slopes, gradients, &mut []);
        let learning = slice.dropout.is_some();
        let width = 1 + self.embeddings.dimension;
        self.layers.backward(dense, learning, work, slopes, dense_gradients, |of_inputs| {
            self.embeddings.scatter(slice, of_inputs, |j, value, of_slot| {
                scaled::<true>(value, of_slot, &mut gradients[j * width + 1..][..width - 1]);
            });
        });
    }
}
