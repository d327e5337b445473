//! The allocator: mimalloc, asked in the way that is fast.
//!
//! In: layouts. Out: memory. The crate `mimalloc` asks for every block by its alignment. Version 3 answers such a call quickly only
//! while the page at hand has a block left, and otherwise takes a larger block than needed, marks its page, and looks twice at
//! everything that is freed on it. What `mi_malloc` gives is aligned for nearly all types anyway.

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::{c_int, c_long},
};

use libmimalloc_sys::{mi_malloc, mi_realloc, mi_zalloc};
use mimalloc::MiMalloc;

/// What a block of at least this size is aligned to, as C wants it of `malloc`; a smaller one to its own size or more.
const ALIGNED_TO: usize = 16;

/// The allocator of the program.
pub struct Allocator;

/// Whether every block of `size` bytes is aligned as `layout` asks.
#[inline(always)]
fn is_aligned_anyway(layout: Layout, size: usize) -> bool {
    layout.align() <= ALIGNED_TO && layout.align() <= size
}

// SAFETY: both ways give blocks of mimalloc, which are of the size and the alignment that was asked for: `mi_malloc`'s are aligned
// to 16 from 16 bytes on and to 8 below that, where a layout with an alignment of no more than its size asks for no more than 8.
// All of them are freed and grown by the same mimalloc.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_aligned_anyway(layout, layout.size()) {
            // SAFETY: any size may be asked for; what fails is null.
            true => unsafe { mi_malloc(layout.size()).cast() },
            // SAFETY: whoever calls this keeps the promises of `GlobalAlloc`, which are the same.
            false => unsafe { MiMalloc.alloc(layout) },
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_aligned_anyway(layout, layout.size()) {
            // SAFETY: as above.
            true => unsafe { mi_zalloc(layout.size()).cast() },
            // SAFETY: as above.
            false => unsafe { MiMalloc.alloc_zeroed(layout) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is one of mimalloc, whichever way it came.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match is_aligned_anyway(layout, size) {
            // SAFETY: the block is one of mimalloc, whichever way it came, and its contents move with it.
            true => unsafe { mi_realloc(block.cast(), size).cast() },
            // SAFETY: as above.
            false => unsafe { MiMalloc.realloc(block, layout, size) },
        }
    }
}

const PURGE_DELAY_MS: c_long = 100;
/// `mi_option_purge_delay` in `mimalloc.h`, the same number in versions 2 and 3.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// Freed pages go back to the system after a tenth of a second instead of a whole one; to be called once, before other threads
/// begin.
///
/// Chunks that are read, joined and let go of come a hundred times a second: with a second of them kept, the label join of two files
/// took up to 115 MiB, with a tenth up to 109, with a hundredth up to 98, and then from Parquet it is some percent slower.
/// `MIMALLOC_PURGE_DELAY` has the last word. The allocator's feature `no_thp` belongs to it: pages of 2 MiB, cleared each time that
/// some of one are needed again, took memory (155 to 157 MiB without them, 161 to 167 with them, where 2.7 million samples are
/// learned) and, on a machine that first had to find them, a third of the time. Tables ask for such pages themselves.
pub fn give_back_soon() {
    // SAFETY: mimalloc is linked, being the allocator; the call checks that there is such an option and writes one number, which
    // its threads read by themselves each time.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each size beside each alignment, zeroed, grown and shrunk, with enough blocks at once that pages run out of them.
    #[test]
    fn blocks_are_aligned_and_keep_their_contents() {
        let sizes = (1..200).chain([255, 256, 1000, 1024, 1025, 4000, 70_000, 3_000_000]);
        for (size, align) in sizes.flat_map(|size| (0..8).map(move |shift| (size, 1 << shift))) {
            let layout = Layout::from_size_align(size, align).unwrap();
            let count = if size > 4000 { 2 } else { 20 };
            let blocks: Vec<*mut u8> = (0..count).map(|i| block(layout, i)).collect();
            for (i, at) in blocks.into_iter().enumerate() {
                let to = if i % 2 == 0 { size * 3 } else { size.div_ceil(3) };
                // SAFETY: the block has this layout, and the new one is looked at as far as it goes.
                unsafe {
                    let at = Allocator.realloc(at, layout, to);
                    assert!(is_good(at, align), "{size} to {to} bytes, aligned to {align}");
                    assert!((0..size.min(to)).all(|k| *at.add(k) == i as u8), "{size} to {to} bytes");
                    Allocator.dealloc(at, Layout::from_size_align(to, align).unwrap());
                }
            }
        }
    }

    fn is_good(at: *mut u8, align: usize) -> bool {
        !at.is_null() && at.addr().is_multiple_of(align)
    }

    /// A block that holds `i` in each byte.
    fn block(layout: Layout, i: usize) -> *mut u8 {
        // SAFETY: a layout has a size here; the block is as long as it says.
        unsafe {
            let at = if i.is_multiple_of(3) { Allocator.alloc_zeroed(layout) } else { Allocator.alloc(layout) };
            assert!(is_good(at, layout.align()), "{layout:?}");
            assert!(!i.is_multiple_of(3) || (0..layout.size()).all(|k| *at.add(k) == 0), "{layout:?}");
            at.write_bytes(i as u8, layout.size());
            at
        }
    }
}
