//! Memory of a table that may be large: one reserved run of addresses, taken from the front and never given back.
//!
//! Reserving takes no memory: the kernel gives a page when it is first written to. All but the first 2 MiB are offered to
//! it for 2 MiB pages, block by block as they come into use, because a table is read in no order and a processor
//! remembers few places of 4 KiB; small tables stay in small pages and small. What lies beyond the last whole block is
//! not offered, so that never more is taken than was reserved.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use bytemuck::Pod;
use memmap2::{Advice, MmapMut, MmapOptions};
use tidemill_base::{Error, Kind, Result};

use crate::prefetch::prefetch;

/// What the kernel takes at once for what was offered to it.
pub(super) const BLOCK_BYTES: usize = 2 << 20;
/// What it takes otherwise.
pub(super) const SMALL_BYTES: usize = 4 << 10;

/// A reserved run of `T`, zeros at first.
pub(crate) struct Memory<T> {
    map: MmapMut,
    begin: usize,
    end: usize,
    /// Bytes that lie before the first block.
    before: usize,
    used: usize,
    offered: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Memory<T> {
    /// Reserves room for so many; blocks are counted from number `before` on.
    pub(crate) fn reserve(len: usize, before: usize) -> Result<Self> {
        let (bytes, before) = (len.saturating_mul(size_of::<T>()), before * size_of::<T>());
        let map = MmapOptions::new().len(bytes.saturating_add(2 * BLOCK_BYTES)).no_reserve_swap().map_anon();
        let map = map.map_err(|e| {
            let what = format!(
                "parameters: cannot reserve {bytes} bytes of addresses; lower the bound on bytes or entries of the table"
            );
            Error::new(Kind::Exhausted, what).with_source(e)
        })?;
        let first_block = (map.as_ptr() as usize + before).next_multiple_of(BLOCK_BYTES) - map.as_ptr() as usize;
        let begin = first_block - before;
        Ok(Self { map, begin, end: begin + bytes, before, used: 0, offered: 1, of: PhantomData })
    }

    /// Says that the first `len` are about to be used.
    pub(crate) fn use_to(&mut self, len: usize) {
        self.used = self.used.max(len * size_of::<T>());
        while self.used > self.before + self.offered * BLOCK_BYTES {
            let at = self.begin + self.before + self.offered * BLOCK_BYTES;
            if at + BLOCK_BYTES <= self.end {
                // Where the kernel has none to give, small pages do.
                let _ = self.map.advise_range(Advice::HugePage, at, BLOCK_BYTES);
            }
            self.offered += 1;
        }
    }

    /// Bytes taken at most, where `small` of those before the first offered block are.
    pub(super) fn resident(&self, small: usize) -> usize {
        let blocks = (self.offered - 1) * BLOCK_BYTES;
        small + blocks.min(self.end - self.begin - (self.before + BLOCK_BYTES).min(self.end - self.begin))
    }

    /// Bytes taken at most when all that is used is used from the front without gaps.
    pub(super) fn resident_in_order(&self) -> usize {
        self.resident(self.used.min(self.before + BLOCK_BYTES).next_multiple_of(SMALL_BYTES))
    }
}

impl<T: Pod> Memory<T> {
    /// `N` neighbours, from number `i` on. Cheaper than the same of the whole slice, whose bounds are looked up anew.
    #[inline(always)]
    pub(super) fn chunk<const N: usize>(&self, i: usize) -> &[T; N]
    where
        [T; N]: Pod,
    {
        let at = self.begin.wrapping_add(i.wrapping_mul(size_of::<T>()));
        bytemuck::from_bytes(&self.map[at..at.wrapping_add(size_of::<[T; N]>())])
    }

    /// Number `i`.
    #[inline(always)]
    pub(super) fn at(&self, i: usize) -> &T {
        let at = self.begin.wrapping_add(i.wrapping_mul(size_of::<T>()));
        bytemuck::from_bytes(&self.map[at..at.wrapping_add(size_of::<T>())])
    }

    /// Number `i`, to be changed.
    #[inline(always)]
    pub(super) fn at_mut(&mut self, i: usize) -> &mut T {
        let at = self.begin.wrapping_add(i.wrapping_mul(size_of::<T>()));
        bytemuck::from_bytes_mut(&mut self.map[at..at.wrapping_add(size_of::<T>())])
    }

    /// Asks the processor for number `i`; one beyond the end is harmless.
    #[inline(always)]
    pub(super) fn prefetch(&self, i: usize) {
        prefetch(&self.map, self.begin.wrapping_add(i.wrapping_mul(size_of::<T>())));
    }
}

impl<T: Pod> Deref for Memory<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[self.begin..self.end])
    }
}

impl<T: Pod> DerefMut for Memory<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[self.begin..self.end])
    }
}
