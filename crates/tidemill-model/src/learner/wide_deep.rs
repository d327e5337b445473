//! Wide and deep (Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016).
//!
//! y(x) = sum of w_i x_i, which remembers, + the last of some layers over the embeddings, which generalises. An entry is
//! [w | v_1 .. v_d]. Crossed features, the wide part's strength, are columns of the program (`CROSS`).

use super::{Block, GROUPS, Learner, Slice, add_groups, dense::Layers, embedding::Embeddings, group_of};
use crate::model::Deep;

/// A weight and an embedding per key, and layers.
#[derive(Clone, Debug, PartialEq)]
pub struct WideDeep {
    embeddings: Embeddings,
    layers: Layers,
    spread: f32,
}

impl WideDeep {
    /// For so many slots.
    pub fn new(slots: usize, deep: &Deep) -> Self {
        let embeddings = Embeddings { slots, dimension: deep.embedding, offset: 1 };
        let layers = Layers::new(embeddings.inputs(), &deep.layers, 1, deep.dropout);
        Self { embeddings, layers, spread: deep.spread }
    }
}

impl Learner for WideDeep {
    fn blocks(&self) -> Vec<Block> {
        vec![
            Block { name: "linear", dimension: 1, spread: 0.0 },
            Block { name: "factors", dimension: self.embeddings.dimension, spread: self.spread },
        ]
    }

    fn layers(&self) -> Option<&Layers> {
        Some(&self.layers)
    }

    fn outputs(&self) -> usize {
        1
    }

    fn forward(&self, slice: &Slice, dense: &[f32], work: &mut Vec<f32>, scores: &mut [f32]) {
        let width = 1 + self.embeddings.dimension;
        for (i, score) in scores.iter_mut().enumerate() {
            let mut groups = [0.0; GROUPS];
            for j in slice.range(i) {
                groups[group_of(slice.keys[j])] += slice.params[j * width] * slice.values[j];
            }
            *score = add_groups(&groups);
        }
        self.embeddings.gather(slice, work);
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
        let width = 1 + self.embeddings.dimension;
        self.layers.backward(dense, learning, work, slopes, dense_gradients, |of_inputs| {
            self.embeddings.scatter(slice, of_inputs, |j, value, of_slot| {
                gradients[j * width + 1..][..width - 1].iter_mut().zip(of_slot).for_each(|(g, x)| *g = value * x);
            });
        });
        for (i, slope) in slopes.iter().enumerate() {
            slice.range(i).for_each(|j| gradients[j * width] = slope * slice.values[j]);
        }
    }
}
