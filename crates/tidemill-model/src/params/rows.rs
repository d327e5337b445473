//! Rows: the state of entries that take more than two words.
//!
//! All rows of a part are of one length and lie behind one another; a removed entry's row is the next one given out. Where
//! a row lies is never told to anybody, so the order in which rows were given out changes nothing.

use tidemill_base::Result;

use super::memory::Memory;

/// The rows of one part.
pub(super) struct Rows {
    words: Memory<f32>,
    stride: usize,
    length: usize,
    used: usize,
    rows_max: usize,
    free: Vec<u32>,
}

impl Rows {
    /// Room for `rows_max` rows of `length` words.
    pub(super) fn reserve(length: usize, rows_max: usize) -> Result<Self> {
        // Rows of a cache line or more begin on one.
        let stride = length.next_multiple_of(if length >= 16 { 16 } else { 4 });
        let words = Memory::reserve(stride.saturating_mul(rows_max))?;
        Ok(Self { words, stride, length, used: 0, rows_max, free: Vec::new() })
    }

    /// A row of zeros; `None` when there are no more.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(row) = self.free.pop() {
            self.get_mut(row).fill(0.0);
            return Some(row);
        }
        let row = self.used;
        (row < self.rows_max).then(|| {
            self.used += 1;
            row as u32
        })
    }

    /// Takes a row back.
    pub(super) fn give_back(&mut self, row: u32) {
        self.free.push(row);
    }

    #[inline(always)]
    pub(super) fn get(&self, row: u32) -> &[f32] {
        &self.words[row as usize * self.stride..][..self.length]
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, row: u32) -> &mut [f32] {
        &mut self.words[row as usize * self.stride..][..self.length]
    }

    /// Asks the processor for the first lines of a row; it fetches what follows by itself.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: u32) {
        let begin = row as usize * self.stride;
        (0..self.length.min(64)).step_by(16).for_each(|i| crate::prefetch::prefetch(&self.words, begin + i));
    }

    pub(super) fn bytes(&self) -> usize {
        self.used * self.stride * size_of::<f32>() + self.free.capacity() * size_of::<u32>()
    }
}
