//! The linear model: a weight for each key and output, score = sum of weight * value.
//!
//! With the logistic loss it is logistic regression, with the squared or Huber loss linear regression, with one output per
//! class and the softmax loss multinomial regression. Sums are laid out by group of shards ([`GROUPS`]).

use super::{Block, GROUPS, Learner, Slice, add_groups, group_of};

/// A weight per key and output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Scores per sample: 1, or the number of classes.
    pub outputs: usize,
}

impl Learner for Linear {
    fn blocks(&self) -> Vec<Block> {
        vec![Block { name: "linear", dimension: self.outputs, spread: 0.0 }]
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn is_pairwise(&self) -> bool {
        true
    }

    fn forward(&self, slice: &Slice, _dense: &[f32], _work: &mut Vec<f32>, scores: &mut [f32]) {
        for (i, scores) in scores.chunks_exact_mut(self.outputs).enumerate() {
            let range = slice.range(i);
            if let [score] = scores {
                *score = score_of(&slice.keys[range.clone()], &slice.params[range.clone()], &slice.values[range]);
                continue;
            }
            for (output, score) in scores.iter_mut().enumerate() {
                let mut groups = [0.0; GROUPS];
                for j in range.clone() {
                    groups[group_of(slice.keys[j])] += slice.params[j * self.outputs + output] * slice.values[j];
                }
                *score = add_groups(&groups);
            }
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
        for (i, slopes) in slopes.chunks_exact(self.outputs).enumerate() {
            for j in slice.range(i) {
                for (output, slope) in slopes.iter().enumerate() {
                    gradients[j * self.outputs + output] = slope * slice.values[j];
                }
            }
        }
    }
}

/// The score of one sample of one output, added up as for several.
#[inline(always)]
fn score_of(keys: &[u64], params: &[f32], values: &[f32]) -> f32 {
    let mut groups = [0.0; GROUPS];
    for ((key, param), value) in keys.iter().zip(params).zip(values) {
        groups[group_of(*key)] += param * value;
    }
    add_groups(&groups)
}
