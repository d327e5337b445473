//! Embeddings and layers: the network of deep recommenders without any crossing of features but the layers' own
//! (Covington, Adams and Sargin, "Deep Neural Networks for YouTube Recommendations", RecSys 2016).
//!
//! y(x) = the last of some layers over the slots' embeddings, one behind the other; an entry is [v_1 .. v_d].

use super::{Block, Learner, Slice, dense::Layers, embedding::Embeddings};
use crate::{model::Deep, simd::scaled};

/// An embedding per key, and layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    embeddings: Embeddings,
    layers: Layers,
    outputs: usize,
    spread: f32,
}

impl Mlp {
    /// For so many slots and scores.
    pub fn new(slots: usize, deep: &Deep, outputs: usize) -> Self {
        let embeddings = Embeddings { slots, dimension: deep.embedding, offset: 0 };
        let layers = Layers::new(embeddings.inputs(), &deep.layers, outputs, deep.dropout);
        Self { embeddings, layers, outputs, spread: deep.spread }
    }
}

impl Learner for Mlp {
    fn blocks(&self) -> Vec<Block> {
        vec![Block { name: "factors", dimension: self.embeddings.dimension, spread: self.spread }]
    }

    fn layers(&self) -> Option<&Layers> {
        Some(&self.layers)
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn forward(&self, slice: &Slice, dense: &[f32], work: &mut Vec<f32>, scores: &mut [f32]) {
        self.embeddings.gather(slice, work);
        scores.fill(0.0);
        self.layers.forward(dense, slice.dropout, work, scores);
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
        let learning = slice.dropout.is_some();
        let d = self.embeddings.dimension;
        self.layers.backward(dense, learning, work, slopes, dense_gradients, |of_inputs| {
            self.embeddings.scatter(slice, of_inputs, |j, value, of_slot| {
                scaled::<false>(value, of_slot, &mut gradients[j * d..][..d]);
            });
        });
    }
}
