//! Memory of one table part: one reserved run of addresses, taken page by page and never given back.
//!
//! Reserving takes no memory: a page takes it when it is first written to. The run is offered to the kernel for 2 MiB
//! pages, because a table is read in no order and a processor remembers few places of 4 KiB (measured: 1.75x).

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    slice,
};

use bytemuck::Pod;
use memmap2::{Advice, MmapMut, MmapOptions};
use tidemill_base::{Error, Kind, Result};

/// A reserved run of `T`, zeros at first.
pub(super) struct Memory<T> {
    map: MmapMut,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Memory<T> {
    /// Reserves room for so many.
    pub(super) fn reserve(len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon().map_err(|e| {
            let what = format!("parameters: cannot reserve {bytes} bytes of addresses; lower train.entries_max");
            Error::new(Kind::Exhausted, what).with_source(e)
        })?;
        // Where the kernel has none to give, small pages do.
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map, len, of: PhantomData })
    }
}

impl<T: Pod> Deref for Memory<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping has room for `len` values, begins at a page and so on a boundary of any T that is Pod here
        // (at most 64 bytes), every bit pattern is a T, and it lives and is borrowed as long as `self`.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast(), self.len) }
    }
}

impl<T: Pod> DerefMut for Memory<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; `self` is borrowed for writing, so nobody else has a reference into the mapping.
        unsafe { slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.len) }
    }
}
