//! Where keys stand: buckets of pages, found through a directory.
//!
//! The directory has a power of two of entries for each shard, told apart by the key bits below the shard number; each names
//! a bucket of up to three pages of [`PAGE_PLACES`] places. Within a bucket a key's first line is its next 32 bits times
//! the lines, shifted down: keys stand nearly in order, and a search goes on from there to the first line with a free
//! place. All four places of a line are looked at together: nine keys in ten are in their first line, which a processor
//! can guess, as it cannot guess in which place.
//! At 80% a bucket takes another page, and one of three pages becomes two. So between 53% and 80% of the places of a
//! bucket of more than one page are taken.

use super::SHARD_BITS;

/// Places of a page: 32 KiB.
pub(super) const PAGE_PLACES: usize = 1 << PAGE_BITS;
pub(super) const PAGE_BITS: u32 = 11;
/// Places of a cache line.
pub(super) const LINE_PLACES: usize = 4;
/// Pages of a bucket at most.
pub(super) const PAGES_MAX: usize = 3;
/// Entries of a bucket at most.
pub(super) const LOAD_MAX: usize = load_max(PAGES_MAX * PAGE_PLACES);
/// A bucket of few entries uses only the front of its page: at least this much.
const PLACES_MIN: usize = 64;

const fn load_max(places: usize) -> usize {
    places * 4 / 5
}

/// Places for so many entries, of one bucket.
pub(super) fn places_for(entries: usize) -> usize {
    if entries > load_max(PAGE_PLACES) {
        return entries.div_ceil(load_max(PAGE_PLACES)).min(PAGES_MAX) << PAGE_BITS;
    }
    let mut places = PLACES_MIN;
    while entries > load_max(places) {
        places *= 2;
    }
    places
}

/// Pages for so many entries, of one bucket: none for none.
pub(super) fn pages_for(entries: usize) -> usize {
    if entries == 0 { 0 } else { places_for(entries).div_ceil(PAGE_PLACES) }
}

/// A directory entry: the pages, then lines and depth in one word, so that no index can be beyond them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket([u32; PAGES_MAX + 1]);

impl Bucket {
    /// Holds nothing. Page 0 is nobody's: it stays empty.
    pub(super) fn empty(depth: u32) -> Self {
        Self::new(&[], PLACES_MIN, depth)
    }

    pub(super) fn new(pages: &[u32], places: usize, depth: u32) -> Self {
        let page = |i: usize| pages.get(i).copied().unwrap_or(0);
        Self([page(0), page(1), page(2), (places / LINE_PLACES) as u32 | depth << 16])
    }

    #[inline(always)]
    pub(super) fn places(&self) -> usize {
        (self.0[PAGES_MAX] & 0xffff) as usize * LINE_PLACES
    }

    /// Directory bits its keys have in common.
    #[inline(always)]
    pub(super) fn depth(&self) -> u32 {
        self.0[PAGES_MAX] >> 16
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0[0] == 0
    }

    /// Entries beyond which it must be rebuilt.
    pub(super) fn load_max(&self) -> usize {
        if self.is_empty() { 0 } else { load_max(self.places()) }
    }

    pub(super) fn first_page(&self) -> usize {
        self.0[0] as usize
    }

    /// Its own pages; none when it is empty.
    pub(super) fn pages(&self) -> &[u32] {
        &self.0[..if self.is_empty() { 0 } else { self.places().div_ceil(PAGE_PLACES) }]
    }

    /// Where its place `i` stands among all places of the part.
    #[inline(always)]
    pub(super) fn place(&self, i: usize) -> usize {
        (self.line(i / LINE_PLACES) * LINE_PLACES) | (i & (LINE_PLACES - 1))
    }

    /// Where its line `i` stands among all lines of the part.
    #[inline(always)]
    fn line(&self, i: usize) -> usize {
        const PAGE_LINE_BITS: u32 = (PAGE_PLACES / LINE_PLACES).ilog2();
        let page = self.0[(i >> PAGE_LINE_BITS) & PAGES_MAX] as usize;
        (page << PAGE_LINE_BITS) | (i & ((1 << PAGE_LINE_BITS) - 1))
    }

    /// The bucket's place where the search for a key begins, whose shard bits were shifted out: the first of a line.
    #[inline(always)]
    pub(super) fn home(&self, shifted: u64) -> usize {
        self.home_line(shifted) * LINE_PLACES
    }

    /// Which of its lines that place is in.
    #[inline(always)]
    fn home_line(&self, shifted: u64) -> usize {
        let word = self.0[PAGES_MAX];
        let lines = u64::from(word & 0xffff);
        // A depth is below 64 always; without this it would be looked at.
        let bits = (shifted << (word >> 16 & 63)) >> 32;
        ((bits * lines) >> 32) as usize
    }

    /// Where the search for a key begins among all lines of the part.
    #[inline(always)]
    pub(super) fn line_of(&self, key: u64) -> usize {
        self.line(self.home_line(key << SHARD_BITS))
    }

    /// Shifted keys of the bucket that holds `shifted`, first and last.
    pub(super) fn span(&self, shifted: u64) -> (u64, u64) {
        let low = u64::MAX.checked_shr(self.depth()).unwrap_or(0);
        (shifted & !low, shifted | low)
    }
}

/// The directory of neighbouring shards: a power of two of buckets for each shard, as many for one as for another.
pub(super) struct Directory {
    buckets: Vec<Bucket>,
    /// Leading bits that all its keys have in common.
    common: u32,
    /// Bits of a key behind those that tell its bucket, once the common ones are shifted out.
    shift: u32,
    /// Bits behind the shard number that tell buckets apart.
    depth: u32,
}

impl Directory {
    /// Of so many shards, a power of two; empty.
    pub(super) fn new(shards: usize) -> Self {
        let shard_bits = shards.ilog2();
        // One bit at least, because a shift by all 64 bits is none.
        let depth = 1;
        let buckets = vec![Bucket::empty(0); shards << depth];
        Self { buckets, common: SHARD_BITS - shard_bits, shift: u64::BITS - shard_bits - depth, depth }
    }

    /// The bucket of a key.
    #[inline(always)]
    pub(super) fn bucket(&self, key: u64) -> &Bucket {
        &self.buckets[((key << (self.common & 63)) >> (self.shift & 63)) as usize]
    }

    /// The bucket of a key of the shard with this number among those here, whose shard bits were shifted out.
    pub(super) fn bucket_of(&self, shard: usize, shifted: u64) -> &Bucket {
        &self.buckets[(shard << self.depth) | (shifted >> (u64::BITS - self.depth)) as usize]
    }

    /// Puts a bucket where `shifted` belongs, in place of all that share its `depth` bits. The directory doubles until
    /// it tells so many apart.
    pub(super) fn set(&mut self, shard: usize, shifted: u64, bucket: Bucket) {
        while self.depth < bucket.depth() {
            // With room for so many and no more: its bytes are part of the bound.
            let mut buckets = Vec::with_capacity(2 * self.buckets.len());
            self.buckets.iter().for_each(|bucket| buckets.extend([*bucket; 2]));
            self.buckets = buckets;
            (self.shift, self.depth) = (self.shift - 1, self.depth + 1);
        }
        let copies = 1 << (self.depth - bucket.depth());
        let first = (shifted >> (u64::BITS - self.depth)) as usize & !(copies - 1);
        let first = (shard << self.depth) | first;
        self.buckets[first..first + copies].fill(bucket);
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }
}
