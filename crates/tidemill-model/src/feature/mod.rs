//! Step 4, features: columns become keyed numbers, by one code path for training and for prediction.
//!
//! In: rows and the COLUMN clause. Out: [`Features`], for each sample its feature keys with slot and value. A key is a
//! 64-bit hash of (slot, value), so there is no vocabulary and no table size to choose; the same values give the same keys,
//! in the same order, on every machine and whatever the order of the columns.

mod arrange;
mod bind;
mod buckets;
mod category;
mod extract;
mod floats;
mod number;
mod spec;

use tidemill_base::{hash64, hash64_of_u64};

pub use bind::Extractor;
pub use floats::FloatPlan;
pub use spec::ColumnSpec;

/// Slot of the constant feature that every sample has.
pub const BIAS_SLOT: &str = "bias";

/// A sample with more features than this is refused: it is damage or an attack.
pub const FEATURES_MAX: usize = 65_536;

/// Slots a model may have.
pub const SLOTS_MAX: usize = 1 << 16;

/// Features of some samples, one after the other. Made to be used again: clearing keeps the memory.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Feature keys: of each sample by slot, ascending within a slot, none twice.
    pub keys: Vec<u64>,
    /// The value of each key; finite.
    pub values: Vec<f32>,
    /// The slot number of each key.
    pub slots: Vec<u16>,
    /// For each sample where its features end.
    pub ends: Vec<u32>,
    /// Samples not to be learned from nor scored, ascending, each with the reason. They have no features.
    pub refused: Vec<(u32, String)>,
    scratch: extract::Scratch,
}

impl Features {
    /// No samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples, refused ones included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Keys and values of sample `i`.
    pub fn sample(&self, i: usize) -> (&[u64], &[f32]) {
        let range = self.range(i);
        (&self.keys[range.clone()], &self.values[range])
    }

    /// Where the features of sample `i` stand in `keys` and `values`.
    #[inline(always)]
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        let begin = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        begin..self.ends[i] as usize
    }

    /// Adds a sample: slot, key and value of each feature, in any order. Values of a key that comes twice in a slot are
    /// added.
    pub fn push(&mut self, features: &[(u16, u64, f32)]) {
        let mut sorted = features.to_vec();
        sorted.sort_by_key(|(slot, key, _)| (*slot, *key));
        for same in sorted.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            self.slots.push(same[0].0);
            self.keys.push(same[0].1);
            self.values.push(same[1..].iter().fold(same[0].2, |sum, feature| sum + feature.2));
        }
        self.ends.push(self.keys.len() as u32);
    }

    /// Forgets all samples, not the memory they took.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.slots.clear();
        self.ends.clear();
        self.refused.clear();
    }
}

/// What a slot's values are hashed under.
fn slot_seed(slot: &str, secret: u64) -> u64 {
    hash64(slot.as_bytes(), secret)
}

/// The key of a value in a slot.
#[inline(always)]
fn feature_key(value: &[u8], slot_seed: u64) -> u64 {
    key_of_hash(match value.first_chunk::<8>() {
        Some(eight) if value.len() == 8 => hash64_of_u64(u64::from_le_bytes(*eight), slot_seed),
        _ => hash64(value, slot_seed),
    })
}

/// Key 0 marks free places in tables; the one value in 2^64 that hashes to it shares key 1.
#[inline(always)]
fn key_of_hash(hash: u64) -> u64 {
    hash | (hash == 0) as u64
}
