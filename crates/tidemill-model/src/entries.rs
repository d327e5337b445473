//! Entries on their way out of the trainer: keys with the parameters that serving needs, no optimizer state.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

/// Parameters by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries {
    /// Parameters of an entry; 0 only where there are no entries.
    pub width: usize,
    /// Keys, ascending.
    pub keys: Vec<u64>,
    /// `width` parameters for each key.
    pub params: Vec<f32>,
}

impl Entries {
    /// None, of this width.
    pub fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// None, of this width, with room for so many.
    pub fn with_room(width: usize, entries: usize) -> Self {
        Self { width, keys: Vec::with_capacity(entries), params: Vec::with_capacity(entries * width) }
    }

    /// Entries of one parameter each; keys must ascend.
    pub fn pairs(pairs: impl IntoIterator<Item = (u64, f32)>) -> Self {
        let (keys, params) = pairs.into_iter().unzip();
        Self { width: 1, keys, params }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys with their parameters.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[f32])> {
        self.keys.iter().copied().zip(self.params.chunks_exact(self.width.max(1)))
    }

    /// Adds an entry behind the others.
    pub fn push(&mut self, key: u64, params: &[f32]) {
        debug_assert_eq!(params.len(), self.width);
        self.keys.push(key);
        self.params.extend_from_slice(params);
    }

    /// Puts the entries in the order of their keys.
    pub fn sort(&mut self) {
        let mut order: Vec<u32> = (0..self.keys.len() as u32).collect();
        order.sort_unstable_by_key(|&i| self.keys[i as usize]);
        let mut sorted = Self { width: self.width, keys: Vec::new(), params: Vec::new() };
        sorted.keys.reserve_exact(self.keys.len());
        sorted.params.reserve_exact(self.params.len());
        for i in order {
            let i = i as usize;
            sorted.push(self.keys[i], &self.params[i * self.width..][..self.width]);
        }
        *self = sorted;
    }

    /// These and newer ones, which win; both ascending.
    pub fn merged(&self, newer: &Self) -> Self {
        if self.is_empty() {
            return newer.clone();
        }
        let mut merged = Self::new(self.width);
        let mut older = self.iter().peekable();
        for (key, params) in newer.iter() {
            while let Some((key, params)) = older.next_if(|entry| entry.0 < key) {
                merged.push(key, params);
            }
            older.next_if(|entry| entry.0 == key);
            merged.push(key, params);
        }
        older.for_each(|(key, params)| merged.push(key, params));
        merged
    }

    /// Appends them.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.width as u64).put_varint(self.len() as u64);
        self.keys.iter().for_each(|key| _ = out.put_u64(*key));
        self.params.iter().for_each(|x| _ = out.put_f32(*x));
    }

    /// Reads back what [`Entries::encode`] wrote.
    pub fn decode(d: &mut Decoder) -> Result<Self> {
        let width = d.varint()? as usize;
        let count = d.count(width.saturating_mul(4).saturating_add(8))?;
        let keys: Vec<u64> = (0..count).map(|_| d.u64()).collect::<Result<_>>()?;
        let params = (0..count * width).map(|_| d.f32()).collect::<Result<_>>()?;
        match ascend(&keys) && (width > 0 || count == 0) {
            true => Ok(Self { width, keys, params }),
            false => Err(Error::corrupt("entries: keys do not ascend from 1")),
        }
    }
}

/// Whether keys are in their order, and none is 0, which marks free places where keys are looked up.
pub(crate) fn ascend(keys: &[u64]) -> bool {
    keys.first() != Some(&0) && keys.is_sorted_by(|a, b| a < b)
}
