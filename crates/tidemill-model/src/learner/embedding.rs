//! From a sample's embeddings to the input of its first layer, and back.
//!
//! Each slot has `dimension` inputs: the sum over its features of value times embedding, zeros where it has none.

use super::Slice;
use crate::simd::scaled;

/// Where embeddings stand in an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Embeddings {
    pub(super) slots: usize,
    pub(super) dimension: usize,
    /// Parameters before them in an entry.
    pub(super) offset: usize,
}

impl Embeddings {
    pub(super) fn inputs(&self) -> usize {
        self.slots * self.dimension
    }

    fn width(&self) -> usize {
        self.offset + self.dimension
    }

    /// Writes the inputs of each sample to the front of `work`; what stands behind them stays.
    pub(super) fn gather(&self, slice: &Slice, work: &mut Vec<f32>) {
        let len = slice.len() * self.inputs();
        if work.len() < len {
            work.resize(len, 0.0);
        }
        let inputs = &mut work[..len];
        inputs.fill(0.0);
        for (i, inputs) in inputs.chunks_exact_mut(self.inputs()).enumerate() {
            for j in slice.range(i) {
                let embedding = &slice.params[j * self.width()..][self.offset..self.width()];
                let input = &mut inputs[usize::from(slice.slots[j]) * self.dimension..][..self.dimension];
                scaled::<true>(slice.values[j], embedding, input);
            }
        }
    }

    /// Hands the gradient of each feature's embedding to `take`: where it stands, and its numbers.
    #[inline(always)]
    pub(super) fn scatter(&self, slice: &Slice, of_inputs: &[f32], mut take: impl FnMut(usize, f32, &[f32])) {
        for (i, of_inputs) in of_inputs.chunks_exact(self.inputs()).enumerate() {
            for j in slice.range(i) {
                let of_slot = &of_inputs[usize::from(slice.slots[j]) * self.dimension..][..self.dimension];
                take(j, slice.values[j], of_slot);
            }
        }
    }
}
