//! Where keys stand: buckets of pages, found through a directory.
//!
//! A shard's directory has a power of two of entries, told apart by the key bits below the shard number; each names a
//! bucket of one to three pages of [`PAGE_PLACES`] places. Within a bucket a key's first place is its next 32 bits times
//! the places, shifted down: keys stand nearly in order, whatever the number of pages, and a search goes on from there to
//! the first free place. At 80% a bucket takes another page, and one of three pages becomes two of two. So between 53% and
//! 80% of all places are taken at any size, and no step moves more than three pages of entries.

use std::ops::Range;

/// Places of a page: 32 KiB.
pub(super) const PAGE_PLACES: usize = 1 << PAGE_BITS;
pub(super) const PAGE_BITS: u32 = 11;
/// Pages of a bucket at most.
pub(super) const PAGES_MAX: usize = 3;

/// Entries that two pages may hold.
pub(super) const LOAD_MAX_OF_TWO: usize = 2 * PAGE_PLACES / 5 * 4;
/// Directory bits at most. Keys are hashes: 8 billion of them need 16.
pub(super) const DEPTH_MAX: u32 = 20;

/// A directory entry: some pages. Page 0 is nobody's: it stays empty, and stands for a bucket that holds nothing yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) pages: [u32; PAGES_MAX],
    /// Pages, and how many directory bits they are told apart by.
    pub(super) count: u16,
    pub(super) depth: u16,
}

impl Bucket {
    pub(super) const EMPTY: Self = Self { pages: [0; PAGES_MAX], count: 1, depth: 0 };

    /// Places it has.
    #[inline(always)]
    pub(super) fn places(&self) -> usize {
        (self.count as usize) << PAGE_BITS
    }

    /// Entries beyond which it takes another page.
    pub(super) fn load_max(&self) -> usize {
        self.places() / 5 * 4
    }

    /// Where its place `i` stands among all places of the part.
    #[inline(always)]
    pub(super) fn place(&self, i: usize) -> usize {
        (self.pages[(i >> PAGE_BITS).min(PAGES_MAX - 1)] as usize) << PAGE_BITS | i & (PAGE_PLACES - 1)
    }

    /// The bucket's place where the search for a key begins. `bits`: the key's 32 bits below the directory's.
    #[inline(always)]
    pub(super) fn home(&self, bits: u64) -> usize {
        ((bits * self.places() as u64) >> 32) as usize
    }

    pub(super) fn own_pages(&self) -> &[u32] {
        &self.pages[..self.count as usize]
    }
}

/// One shard's directory.
pub(super) struct Directory {
    buckets: Vec<Bucket>,
    depth: u32,
}

impl Directory {
    pub(super) fn new() -> Self {
        Self { buckets: vec![Bucket::EMPTY], depth: 0 }
    }

    /// The bucket of a key, whose shard bits were shifted out.
    #[inline(always)]
    pub(super) fn bucket(&self, shifted: u64) -> &Bucket {
        &self.buckets[self.index(shifted)]
    }

    /// The 32 bits that say where in bucket `bucket` a key stands.
    #[inline(always)]
    pub(super) fn bits(shifted: u64, bucket: &Bucket) -> u64 {
        (shifted << bucket.depth) >> 32
    }

    #[inline(always)]
    fn index(&self, shifted: u64) -> usize {
        // Twice, because a shift by all 64 bits is none.
        (shifted >> 1 >> (63 - self.depth)) as usize
    }

    /// Buckets, each once.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Bucket> {
        let mut i = 0;
        std::iter::from_fn(move || {
            let bucket = self.buckets.get(i)?;
            i += self.copies(bucket);
            Some(bucket)
        })
    }

    /// Replaces the bucket of a key.
    pub(super) fn set(&mut self, shifted: u64, bucket: Bucket) {
        let range = self.range(shifted);
        self.buckets[range].fill(bucket);
    }

    /// Replaces the bucket of a key by two of one bit more.
    pub(super) fn split(&mut self, shifted: u64, mut lower: Bucket, mut upper: Bucket) {
        let depth = self.bucket(shifted).depth;
        if u32::from(depth) == self.depth {
            self.buckets = self.buckets.iter().flat_map(|bucket| [*bucket, *bucket]).collect();
            self.depth += 1;
        }
        (lower.depth, upper.depth) = (depth + 1, depth + 1);
        let range = self.range(shifted);
        let middle = range.start + range.len() / 2;
        self.buckets[range.start..middle].fill(lower);
        self.buckets[middle..range.end].fill(upper);
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    fn copies(&self, bucket: &Bucket) -> usize {
        1 << (self.depth - u32::from(bucket.depth))
    }

    fn range(&self, shifted: u64) -> Range<usize> {
        let i = self.index(shifted);
        let copies = self.copies(&self.buckets[i]);
        let start = i & !(copies - 1);
        start..start + copies
    }
}
