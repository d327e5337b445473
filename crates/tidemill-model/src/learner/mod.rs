//! What a model says about samples, and how its parameters would have to move. One file per learner.
//!
//! In: a [`Slice`] of samples whose entries' parameters have been gathered, and the dense parameters. Out: scores, then,
//! given the slope of the loss by each score, the gradient of every gathered and dense parameter. A learner has no state,
//! knows no optimizer and no table: training and serving call the same [`Learner::forward`], so they agree to the bit. The
//! result for a sample never depends on the other samples of its slice.

mod deepfm;
mod dense;
mod embedding;
mod ffm;
mod fm;
mod linear;
mod mlp;
mod wide_deep;

pub use deepfm::DeepFm;
pub use dense::Layers;
pub use ffm::Ffm;
pub use fm::Fm;
pub use linear::Linear;
pub use mlp::Mlp;
pub use wide_deep::WideDeep;

/// Groups of parameter shards over which sums are laid out: the top three bits of a key. Up to so many threads or machines
/// can each add up their own part and still get the bits of one.
pub const GROUPS: usize = 8;

/// Samples of a slice for learners with layers: a layer's gradient is written once a slice.
const SAMPLES_OF_LAYERS: usize = 64;

/// Some samples, one after the other, with the parameters of their entries.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// For each sample where its features end.
    pub ends: &'a [u32],
    /// Feature keys; by slot, ascending within a slot, none twice within a sample.
    pub keys: &'a [u64],
    /// The value of each feature.
    pub values: &'a [f32],
    /// The slot number of each feature; ascending within a sample.
    pub slots: &'a [u16],
    /// `width` parameters for each feature, block behind block; zeros for a key without an entry.
    pub params: &'a [f32],
    /// Seeds of dropout, one per sample, while learning; `None` while predicting.
    pub dropout: Option<&'a [u64]>,
}

/// A run of parameters in every entry that is learned as one: with one optimizer, from one initialiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// What settings call it: `linear` or `factors`.
    pub name: &'static str,
    /// Parameters.
    pub dimension: usize,
    /// New entries begin with values of this spread (standard deviation), drawn by key; 0 begins at zero.
    pub spread: f32,
}

/// One model family.
pub trait Learner: Send + Sync {
    /// The blocks of an entry, in their order.
    fn blocks(&self) -> Vec<Block>;

    /// Parameters of an entry: the sum of its blocks' dimensions.
    fn width(&self) -> usize {
        self.blocks().iter().map(|block| block.dimension).sum()
    }

    /// Its layers, if it has any.
    fn layers(&self) -> Option<&Layers> {
        None
    }

    /// Parameters that belong to no key: those of the layers.
    fn dense_dimension(&self) -> usize {
        self.layers().map_or(0, Layers::dimension)
    }

    /// The dense parameters before anything was learned, drawn from `seed`.
    fn start_dense(&self, seed: u64) -> Vec<f32> {
        self.layers().map_or_else(Vec::new, |layers| layers.start(seed))
    }

    /// Scores per sample.
    fn outputs(&self) -> usize;

    /// Whether a score is a sum over features and pairs of them and of nothing beyond: then it can be told what each slot
    /// adds.
    fn is_pairwise(&self) -> bool {
        false
    }

    /// Samples of a slice while learning: so few that their parameters stay in the nearer caches. Fixed for a learner,
    /// because gradients of dense parameters are added up slice by slice.
    fn slice_samples(&self) -> usize {
        if self.layers().is_some() { SAMPLES_OF_LAYERS } else { 32 }
    }

    /// Whether learning predicts otherwise than serving does (dropout).
    fn has_dropout(&self) -> bool {
        self.layers().is_some_and(|layers| layers.dropout() > 0.0)
    }

    /// Writes `outputs` scores per sample to `scores`. `work` is room that [`Learner::backward`] for the same slice finds
    /// again as it was left.
    fn forward(&self, slice: &Slice, dense: &[f32], work: &mut Vec<f32>, scores: &mut [f32]);

    /// Given the slope of the loss by each score, writes the gradient of every gathered parameter to `gradients` (as
    /// `slice.params`) and that of every dense one to `dense_gradients`.
    fn backward(
        &self,
        slice: &Slice,
        dense: &[f32],
        work: &mut Vec<f32>,
        slopes: &[f32],
        gradients: &mut [f32],
        dense_gradients: &mut [f32],
    );
}

impl Slice<'_> {
    /// Samples.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where the features of sample `i` stand.
    #[inline(always)]
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        let begin = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        begin..self.ends[i] as usize
    }
}

/// The group a key's contributions are summed in.
#[inline(always)]
pub fn group_of(key: u64) -> usize {
    (key >> 61) as usize
}

/// Adds the groups' sums: always in this tree, which powers of two of threads cut at its branches.
#[inline(always)]
pub fn add_groups(g: &[f32; GROUPS]) -> f32 {
    ((g[0] + g[1]) + (g[2] + g[3])) + ((g[4] + g[5]) + (g[6] + g[7]))
}

#[cfg(test)]
mod tests;
