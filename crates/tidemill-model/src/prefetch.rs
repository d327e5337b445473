//! A hint to the processor that a place in memory will be read soon. Changes nothing but speed.

/// Asks for the cache line that holds `items[i]`; an index beyond the end is harmless.
#[inline(always)]
pub fn prefetch<T>(items: &[T], i: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching never faults and reads nothing the program can see, whatever the address; the address is
        // computed by wrapping arithmetic and is not dereferenced.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(items.as_ptr().wrapping_add(i).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, i);
}
