//! How a part makes room: one bucket at a time, to a shape that depends on nothing but the keys it holds.
//!
//! A bucket is rebuilt when it must take a page, when it splits, and when entries leave it. The shape after it is the
//! same whatever was there before: a range of keys is one bucket exactly if at most [`LOAD_MAX`] keys are in it, and has
//! as many pages as these need. So a restored table is full when the one it was written from was. No call moves more
//! than [`LOAD_MAX`] entries, and as many again for every bucket that joins it.

use super::{
    SHARD_BITS,
    bucket::{Bucket, LOAD_MAX, PAGE_PLACES, pages_for, places_for},
    memory::{BLOCK_BYTES, SMALL_BYTES},
    packed::Packed,
    part::Part,
    shard_of,
};

/// A bucket to be: its depth, the first shifted key it may hold, how many of the entries at hand go there and the places
/// it gets.
struct Leaf {
    depth: u32,
    low: u64,
    count: usize,
    /// Entries and the one to come.
    room_for: usize,
}

impl Part {
    /// Makes room for a new key and puts it there; its words are zeros, for the caller to write. `None`: there is no room.
    #[cold]
    pub(super) fn admit(&mut self, key: u64) -> Option<usize> {
        let (shard, shifted) = (shard_of(key) - self.first, key << SHARD_BITS);
        let mut may_evict = self.worth.is_some();
        while !self.has_room(shard, shifted) {
            if !may_evict || self.evict_from(shard, shifted) == 0 {
                return None;
            }
            may_evict = false;
        }
        self.shards[shard].entries += 1;
        let first_page = self.directory.bucket_of(shard, shifted).first_page();
        self.taken[first_page] += 1;
        let place = self.search(key).0;
        self.places[place] = Packed { tag: shifted | self.fresh, words: [0; 2] };
        self.note_new(key);
        Some(place)
    }

    fn has_room(&mut self, shard: usize, shifted: u64) -> bool {
        let bucket = *self.directory.bucket_of(shard, shifted);
        self.shards[shard].entries < self.limits.entries_max
            && (self.entries_of(&bucket) < bucket.load_max() || self.grow(shard, shifted, bucket))
    }

    pub(super) fn entries_of(&self, bucket: &Bucket) -> usize {
        usize::from(self.taken[bucket.first_page()])
    }

    /// Rebuilds a bucket so that one more key fits; `false` when the shard may not have the pages.
    fn grow(&mut self, shard: usize, shifted: u64, bucket: Bucket) -> bool {
        // Told without a look at the entries nearly always: a split takes a page more at least, and here keys may be
        // refused one after the other.
        let after = self.entries_of(&bucket) + 1;
        let more = if after > LOAD_MAX { 1 } else { pages_for(after) - bucket.pages().len() };
        if self.shards[shard].pages + more > self.limits.pages_max {
            return false;
        }
        let entries = self.gather(&bucket);
        let mut leaves = Vec::new();
        let low = bucket.span(shifted).0;
        if !split(&entries, Some(shifted), low, bucket.depth(), self.limits.depth_max, &mut leaves) {
            return false;
        }
        let pages: usize = leaves.iter().map(|leaf| pages_for(leaf.room_for)).sum();
        if self.shards[shard].pages - bucket.pages().len() + pages > self.limits.pages_max {
            return false;
        }
        self.rebuild(shard, &[bucket], &entries, &leaves);
        true
    }

    /// Puts these entries, in order, where this bucket is, whose first shifted key may be `low`: in place of all it has.
    /// `false` when there are too many.
    pub(super) fn fill_from(&mut self, shard: usize, bucket: Bucket, low: u64, entries: &[Packed]) -> bool {
        let mut leaves = Vec::new();
        if !split(entries, None, low, bucket.depth(), self.limits.depth_max, &mut leaves) {
            return false;
        }
        let pages: usize = leaves.iter().map(|leaf| pages_for(leaf.room_for)).sum();
        if self.shards[shard].pages - bucket.pages().len() + pages > self.limits.pages_max {
            return false;
        }
        self.rebuild(shard, &[bucket], entries, &leaves);
        true
    }

    /// Rebuilds a bucket that keeps only these entries, in order, together with its neighbour when both fit into one.
    pub(super) fn shrink(&mut self, shard: usize, shifted: u64, bucket: Bucket, mut kept: Vec<Packed>) {
        let (mut low, mut depth) = (bucket.span(shifted).0, bucket.depth());
        let mut old = vec![bucket];
        while depth > 0 {
            let half = 1 << (64 - depth);
            let other = *self.directory.bucket_of(shard, low ^ half);
            if other.depth() != depth || kept.len() + self.entries_of(&other) > LOAD_MAX {
                break;
            }
            let mut joined = self.gather(&other);
            match low & half {
                0 => kept.append(&mut joined),
                _ => {
                    joined.append(&mut kept);
                    kept = joined;
                }
            }
            old.push(other);
            (low, depth) = (low & !half, depth - 1);
        }
        let leaf = Leaf { depth, low, count: kept.len(), room_for: kept.len() };
        self.rebuild(shard, &old, &kept, &[leaf]);
    }

    /// The entries of a bucket by key.
    pub(super) fn gather(&self, bucket: &Bucket) -> Vec<Packed> {
        let mut entries: Vec<Packed> = Vec::with_capacity(self.entries_of(bucket));
        for page in self.runs(bucket) {
            entries.extend(self.places[page].iter().filter(|packed| !packed.is_free()));
        }
        sort_nearly_sorted(&mut entries);
        entries
    }

    /// The places a bucket uses, page by page.
    pub(super) fn runs(&self, bucket: &Bucket) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let (bucket, each) = (*bucket, bucket.places().min(PAGE_PLACES));
        (0..bucket.pages().len()).map(move |i| bucket.place(i * PAGE_PLACES)).map(move |first| first..first + each)
    }

    fn rebuild(&mut self, shard: usize, old: &[Bucket], entries: &[Packed], leaves: &[Leaf]) {
        for bucket in old {
            for run in self.runs(bucket) {
                self.places[run].fill(Packed::default());
            }
            self.free_pages.extend(bucket.pages().iter().rev());
            self.shards[shard].pages -= bucket.pages().len();
        }
        self.moved += entries.len() as u64;
        self.rebuilt += 1;
        let mut rest = entries;
        for leaf in leaves {
            let (own, after) = rest.split_at(leaf.count);
            rest = after;
            let bucket = self.new_bucket(shard, leaf);
            self.directory.set(shard, leaf.low, bucket);
            self.put_down(&bucket, own);
        }
    }

    fn new_bucket(&mut self, shard: usize, leaf: &Leaf) -> Bucket {
        if leaf.room_for == 0 {
            return Bucket::empty(leaf.depth);
        }
        let places = places_for(leaf.room_for);
        let pages: Vec<u32> = (0..pages_for(leaf.room_for)).map(|_| self.new_page(shard, places)).collect();
        self.taken[pages[0] as usize] = leaf.count as u16;
        Bucket::new(&pages, places, leaf.depth)
    }

    fn new_page(&mut self, shard: usize, places: usize) -> u32 {
        let page = self.free_pages.pop().unwrap_or_else(|| {
            let page = self.owners.len() as u32;
            self.owners.push(0);
            self.taken.push(0);
            self.places.use_to((page as usize + 1) * PAGE_PLACES);
            if page as usize <= BLOCK_BYTES / (PAGE_PLACES * size_of::<Packed>()) {
                self.touched.push(0);
            }
            page
        });
        self.owners[page as usize] = shard as u8;
        if let Some(touched) = self.touched.get_mut(page as usize) {
            let bytes = places.min(PAGE_PLACES) * size_of::<Packed>();
            *touched = (*touched).max(bytes.div_ceil(SMALL_BYTES) as u8);
        }
        self.shards[shard].pages += 1;
        page
    }

    /// Puts entries, by key, into a bucket without any. Those that would stand behind its end go to its front.
    fn put_down(&mut self, bucket: &Bucket, entries: &[Packed]) {
        let mut next = 0;
        let mut behind = entries.len();
        for (i, packed) in entries.iter().enumerate() {
            let i_place = bucket.home(packed.shifted()).max(next);
            if i_place >= bucket.places() {
                behind = i;
                break;
            }
            self.places[bucket.place(i_place)] = *packed;
            next = i_place + 1;
        }
        let mut front = 0;
        for packed in &entries[behind..] {
            while !self.places[bucket.place(front)].is_free() {
                front += 1;
            }
            self.places[bucket.place(front)] = *packed;
        }
    }
}

/// Divides a range of keys until no bucket has too many; `false` when the directory may not tell so many apart.
fn split(
    entries: &[Packed],
    coming: Option<u64>,
    low: u64,
    depth: u32,
    depth_max: u32,
    leaves: &mut Vec<Leaf>,
) -> bool {
    let room_for = entries.len() + usize::from(coming.is_some());
    if room_for <= LOAD_MAX {
        leaves.push(Leaf { depth, low, count: entries.len(), room_for });
        return true;
    }
    let half = 1 << (63 - depth);
    let middle = entries.partition_point(|packed| packed.tag & half == 0);
    depth < depth_max
        && split(&entries[..middle], coming.filter(|key| key & half == 0), low, depth + 1, depth_max, leaves)
        && split(&entries[middle..], coming.filter(|key| key & half != 0), low | half, depth + 1, depth_max, leaves)
}

/// Puts entries in order that stand nearly so: most are moved by a few places. Where many must be moved far, they are
/// sorted as any others.
fn sort_nearly_sorted(entries: &mut [Packed]) {
    let mut steps_left = 16 * entries.len();
    for i in 1..entries.len() {
        let packed = entries[i];
        let mut to = i;
        while to > 0 && entries[to - 1].tag > packed.tag && steps_left > 0 {
            entries[to] = entries[to - 1];
            to -= 1;
            steps_left -= 1;
        }
        entries[to] = packed;
        if steps_left == 0 {
            return entries.sort_unstable_by_key(|packed| packed.tag);
        }
    }
}
