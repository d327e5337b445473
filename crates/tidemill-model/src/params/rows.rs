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
    free: Vec<u32>,
}

/// Words of a cache line.
const LINE: usize = 16;
/// Words of a row that are asked for ahead.
const PREFETCHED: usize = 12 * LINE;
/// Rows begin at a multiple of so many words at least.
const ALIGN: usize = 4;

/// Words from one row to the next: such that a row reaches into no more cache lines than it must.
pub(super) fn stride(length: usize) -> usize {
    if length <= LINE {
        return length.next_power_of_two().max(ALIGN);
    }
    let lines_at_worst = (LINE - ALIGN + length).div_ceil(LINE);
    length.next_multiple_of(if lines_at_worst > length.div_ceil(LINE) { LINE } else { ALIGN })
}

impl Rows {
    /// Room for `rows_max` rows of `length` words.
    pub(super) fn reserve(length: usize, rows_max: usize) -> Result<Self> {
        let stride = stride(length);
        let words = Memory::reserve(stride.saturating_mul(rows_max), 0)?;
        Ok(Self { words, stride, length, used: 0, free: Vec::new() })
    }

    /// A row of zeros. No more than `rows_max` are ever in use, because no more entries are admitted.
    pub(super) fn take(&mut self) -> u32 {
        if let Some(row) = self.free.pop() {
            self.get_mut(row).fill(0.0);
            return row;
        }
        self.used += 1;
        self.words.use_to(self.used * self.stride);
        (self.used - 1) as u32
    }

    /// Takes a row back.
    pub(super) fn give_back(&mut self, row: u32) {
        self.free.push(row);
    }

    #[inline(always)]
    pub(super) fn get(&self, row: u32) -> &[f32] {
        let begin = row as usize * self.stride;
        &self.words[begin..begin + self.length]
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, row: u32) -> &mut [f32] {
        let begin = row as usize * self.stride;
        &mut self.words[begin..begin + self.length]
    }

    /// Asks the processor for the first lines of a row; it fetches what follows of a longer one by itself.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: u32) {
        let begin = row as usize * self.stride;
        (0..self.length.min(PREFETCHED)).step_by(LINE).for_each(|i| self.words.prefetch(begin + i));
    }

    pub(super) fn bytes(&self) -> usize {
        self.words.resident_in_order() + self.free.capacity() * size_of::<u32>()
    }
}
