//! One part of the table: neighbouring shards with one writer.
//!
//! Key and state stand side by side in a place of 16 bytes, four to a cache line: for entries of two words (a linear model
//! with FTRL) that is all there is; longer ones have their words in a row. One bit per line remembers what changed since
//! the last delta. Nothing that is told about the entries depends on where they stand.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use tidemill_base::{Result, hash128};

use super::{
    SHARD_BITS, SHARDS, TableSpec,
    admission::Sketch,
    bucket::{Bucket, DEPTH_MAX, Directory, LOAD_MAX_OF_TWO, PAGE_BITS, PAGE_PLACES, PAGES_MAX},
    memory::Memory,
    rows::Rows,
    shard_of,
};
use crate::prefetch::prefetch;

/// Where [`Part::locate`] saw an entry: a hint for updates, right or not.
pub type Place = u32;

/// The key has no entry yet.
pub const ABSENT: Place = Place::MAX;

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The entry holds it.
    Done,
    /// The key is new and there is no room for it: it was not admitted.
    NotAdmitted,
    /// The state would not have been finite; the entry is as before.
    NotFinite,
}

/// A key's place. Key 0 marks a free one; no feature has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Slot {
    key: u64,
    /// The state itself, or the number of the row and what is known of it.
    words: [u32; 2],
}

const SLOTS_PER_LINE: usize = 4;
/// Words of change bits a page has.
const CHANGE_WORDS: usize = PAGE_PLACES / SLOTS_PER_LINE / 64;

/// An entry as it is told to others: the same for the same entry, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EntryRef<'a> {
    /// The feature key.
    pub key: u64,
    /// The slot of the feature; 0 in tables that do not keep it.
    pub slot: u16,
    /// The words of its state.
    pub state: &'a [f32],
}

/// Neighbouring shards with one writer.
pub struct Part {
    first: usize,
    entries_max: usize,
    directories: Vec<Directory>,
    /// Entries of each shard.
    entries: Vec<usize>,
    slots: Memory<Slot>,
    pages: usize,
    /// Entries of each bucket, by its first page.
    taken: Vec<u16>,
    changed: Vec<u64>,
    removed: Vec<u64>,
    rows: Option<Rows>,
    sketches: Vec<Sketch>,
}

impl Part {
    pub(super) fn new(spec: &TableSpec, shards: Range<usize>) -> Result<Self> {
        let count = shards.len();
        let entries_max = (spec.entries_max / SHARDS).max(1);
        // Pages are at least 53% full when a bucket has more than one; and page 0.
        let pages_max = 1 + count * (entries_max * 100 / 53 / PAGE_PLACES + PAGES_MAX + 1);
        let words = spec.words;
        Ok(Self {
            first: shards.start,
            entries_max,
            directories: (0..count).map(|_| Directory::new()).collect(),
            entries: vec![0; count],
            slots: Memory::reserve(pages_max * PAGE_PLACES)?,
            pages: 1,
            taken: vec![0],
            changed: vec![0; CHANGE_WORDS],
            removed: Vec::new(),
            rows: (words > 2).then(|| Rows::reserve(words, count * entries_max)).transpose()?,
            sketches: (0..if spec.admits_late { count } else { 0 }).map(|_| Sketch::new()).collect(),
        })
    }

    /// The shards this part holds.
    pub fn numbers(&self) -> Range<usize> {
        self.first..self.first + self.directories.len()
    }

    /// Asks the processor for the line where the search for one of this part's keys begins.
    #[inline(always)]
    pub fn prefetch(&self, key: u64) {
        let (bucket, home) = self.home(key);
        prefetch(&self.slots, bucket.place(home));
    }

    /// The place of a key's entry, or [`ABSENT`].
    #[inline(always)]
    pub fn locate(&self, key: u64) -> Place {
        match self.search(key) {
            (place, true) => place as Place,
            (_, false) => ABSENT,
        }
    }

    /// The two words of an entry at a place that [`Part::locate`] gave; of a table of pairs.
    #[inline(always)]
    pub fn pair(&self, place: Place) -> (f32, f32) {
        let [a, b] = self.slots[place as usize].words;
        (f32::from_bits(a), f32::from_bits(b))
    }

    /// Changes a key's two words from (a, b) to `step(a, b)`, beginning at (0, 0) for a new key. `hint` saves the search
    /// when the entry still stands there.
    #[inline(always)]
    pub fn update_pair(&mut self, key: u64, hint: Place, step: impl FnOnce(f32, f32) -> Option<(f32, f32)>) -> Updated {
        debug_assert_ne!(key, 0, "key 0 marks a free place");
        match self.slots.get_mut(hint as usize).filter(|slot| slot.key == key) {
            Some(slot) => {
                let [a, b] = slot.words;
                let Some((a, b)) = step(f32::from_bits(a), f32::from_bits(b)) else { return Updated::NotFinite };
                slot.words = [a.to_bits(), b.to_bits()];
                self.mark_changed(hint as usize);
                Updated::Done
            }
            None => self.search_and_update_pair(key, step),
        }
    }

    #[inline(never)]
    fn search_and_update_pair(&mut self, key: u64, step: impl FnOnce(f32, f32) -> Option<(f32, f32)>) -> Updated {
        let (place, present) = self.search(key);
        let [a, b] = if present { self.slots[place].words } else { [0; 2] };
        let Some((a, b)) = step(f32::from_bits(a), f32::from_bits(b)) else { return Updated::NotFinite };
        let place = match present {
            true => place,
            false => match self.admit(key, place) {
                Some(place) => place,
                None => return Updated::NotAdmitted,
            },
        };
        self.slots[place].words = [a.to_bits(), b.to_bits()];
        self.mark_changed(place);
        Updated::Done
    }

    /// Asks the processor for the row of an entry.
    #[inline(always)]
    pub fn prefetch_row(&self, place: Place) {
        if let (Some(slot), Some(rows)) = (self.slots.get(place as usize), &self.rows) {
            rows.prefetch(slot.words[0]);
        }
    }

    /// The words of an entry at a place that [`Part::locate`] gave; of a table of rows.
    #[inline(always)]
    pub fn row(&self, place: Place) -> &[f32] {
        let row = self.slots[place as usize].words[0];
        self.rows.as_ref().map_or(&[], |rows| rows.get(row))
    }

    /// The words of a key's entry, to be changed; a new key is admitted and its words are `begin`'s to write. `None`: there
    /// is no room for it.
    #[inline(always)]
    pub fn row_mut(&mut self, key: u64, slot: u16, hint: Place, begin: impl FnOnce(&mut [f32])) -> Option<&mut [f32]> {
        let place = match self.slots.get(hint as usize).is_some_and(|found| found.key == key) {
            true => hint as usize,
            false => match self.search(key) {
                (place, true) => place,
                (place, false) => {
                    let place = self.admit(key, place)?;
                    let row = self.rows.as_mut()?.take().expect("as many rows are reserved as entries are admitted");
                    self.slots[place].words = [row, u32::from(slot)];
                    begin(self.rows.as_mut()?.get_mut(row));
                    place
                }
            },
        };
        self.mark_changed(place);
        let row = self.slots[place].words[0];
        self.rows.as_mut().map(|rows| rows.get_mut(row))
    }

    /// Whether a key that has no entry may have one: it has now been seen `times` times, as far as a sketch can count.
    pub fn seen_often(&mut self, key: u64, times: u8) -> bool {
        times <= 1 || self.sketches.get_mut(shard_of(key) - self.first).is_none_or(|sketch| sketch.count(key) >= times)
    }

    /// Hands out every entry that changed since the last call (its neighbours in the line too), then the keys removed
    /// since, and forgets that they did.
    pub fn take_changed(&mut self, mut out: impl FnMut(EntryRef), mut removed: impl FnMut(u64)) {
        for i in 0..self.changed.len() {
            let mut bits = std::mem::take(&mut self.changed[i]);
            while bits != 0 {
                let line = i * 64 + bits.trailing_zeros() as usize;
                for place in line * SLOTS_PER_LINE..(line + 1) * SLOTS_PER_LINE {
                    if self.slots[place].key != 0 {
                        self.with_entry(place, &mut out);
                    }
                }
                bits &= bits - 1;
            }
        }
        for key in std::mem::take(&mut self.removed) {
            if !self.search(key).1 {
                removed(key);
            }
        }
    }

    /// Hands out the entries of one of this part's shards, by key.
    pub fn sorted(&self, shard: usize, mut out: impl FnMut(EntryRef)) {
        let mut places: Vec<(u64, u32)> =
            self.places(shard).map(|place| (self.slots[place].key, place as u32)).collect();
        places.sort_unstable();
        places.into_iter().for_each(|(_, place)| self.with_entry(place as usize, &mut out));
    }

    /// Entries of one of this part's shards.
    pub fn len(&self, shard: usize) -> usize {
        self.entries[shard - self.first]
    }

    /// Bytes the part takes, free places included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.pages * PAGE_PLACES * size_of::<Slot>()
            + self.directories.iter().map(|d| size_of::<Directory>() + d.bytes()).sum::<usize>()
            + self.entries.capacity() * size_of::<usize>()
            + self.taken.capacity() * size_of::<u16>()
            + (self.changed.capacity() + self.removed.capacity()) * size_of::<u64>()
            + self.rows.as_ref().map_or(0, Rows::bytes)
            + self.sketches.iter().map(Sketch::bytes).sum::<usize>()
    }

    /// Sum of a 128-bit hash of each entry of a shard: the same for the same entries wherever they stand.
    pub(super) fn hash_sum(&self, shard: usize) -> u128 {
        let mut bytes = Vec::new();
        let mut sum = 0u128;
        for place in self.places(shard) {
            self.with_entry(place, &mut |entry: EntryRef| {
                bytes.clear();
                bytes.extend_from_slice(&entry.key.to_le_bytes());
                entry.state.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
                sum = sum.wrapping_add(hash128(&bytes, u64::from(entry.slot)));
            });
        }
        sum
    }

    /// What the shard's sketch has counted.
    pub(super) fn sketch(&self, shard: usize) -> Option<&Sketch> {
        self.sketches.get(shard - self.first)
    }

    pub(super) fn sketch_mut(&mut self, shard: usize) -> Option<&mut Sketch> {
        self.sketches.get_mut(shard - self.first)
    }

    /// Puts in an entry from a checkpoint; it counts as changed.
    pub(super) fn restore(&mut self, key: u64, slot: u16, state: &[f32]) -> Updated {
        if self.rows.is_none() {
            let b = state.get(1).copied().unwrap_or(0.0);
            return self.update_pair(key, ABSENT, |_, _| Some((state[0], b)));
        }
        match self.row_mut(key, slot, ABSENT, |_| {}) {
            Some(row) => {
                row.copy_from_slice(state);
                Updated::Done
            }
            None => Updated::NotAdmitted,
        }
    }

    /// Removes the entries of a bucket for which `goes` says so, together with their rows.
    pub(super) fn remove(&mut self, bucket: Bucket, goes: impl Fn(EntryRef) -> bool) -> usize {
        let entries = self.lift(&bucket);
        let before = entries.len();
        let (mut kept, mut left) = (Vec::new(), Vec::new());
        for (slot, was_changed) in entries {
            let gone = goes(self.entry(&slot));
            if gone { left.push(slot) } else { kept.push((slot, was_changed)) }
        }
        let shard = |slot: &Slot| shard_of(slot.key);
        if let Some(slot) = left.first() {
            self.entries[shard(slot) - self.first] -= left.len();
        }
        for slot in &left {
            self.removed.push(slot.key);
            if let Some(rows) = &mut self.rows {
                rows.give_back(slot.words[0]);
            }
        }
        self.taken[bucket.pages[0] as usize] = kept.len() as u16;
        self.put_down(&kept);
        before - kept.len()
    }

    pub(super) fn buckets(&self, shard: usize) -> Vec<Bucket> {
        self.directories[shard - self.first].iter().copied().collect()
    }

    fn places(&self, shard: usize) -> impl Iterator<Item = usize> {
        let buckets = self.directories[shard - self.first].iter();
        let pages = buckets.flat_map(|bucket| bucket.own_pages()).copied().filter(|page| *page != 0);
        let places = pages.flat_map(|page| (page as usize) << PAGE_BITS..(page as usize + 1) << PAGE_BITS);
        places.filter(|place| self.slots[*place].key != 0)
    }

    fn with_entry(&self, place: usize, out: &mut impl FnMut(EntryRef)) {
        let slot = self.slots[place];
        match &self.rows {
            None => out(EntryRef { key: slot.key, slot: 0, state: &slot.words.map(f32::from_bits) }),
            Some(_) => out(self.entry(&slot)),
        }
    }

    fn entry<'a>(&'a self, slot: &'a Slot) -> EntryRef<'a> {
        match &self.rows {
            None => EntryRef { key: slot.key, slot: 0, state: bytemuck::cast_slice(&slot.words) },
            Some(rows) => EntryRef { key: slot.key, slot: slot.words[1] as u16, state: rows.get(slot.words[0]) },
        }
    }

    #[inline(always)]
    fn home(&self, key: u64) -> (&Bucket, usize) {
        let shifted = key << SHARD_BITS;
        let bucket = self.directories[shard_of(key) - self.first].bucket(shifted);
        (bucket, bucket.home(Directory::bits(shifted, bucket)))
    }

    /// The key's place and `true`, or the free place where it belongs and `false`. Ends, because places are left free.
    #[inline(always)]
    fn search(&self, key: u64) -> (usize, bool) {
        let (bucket, mut i) = self.home(key);
        loop {
            let place = bucket.place(i);
            let found = self.slots[place].key;
            if found == key {
                return (place, true);
            }
            if found == 0 {
                return (place, false);
            }
            i += 1;
            if i == bucket.places() {
                i = 0;
            }
        }
    }

    /// Makes room for a new key, whose search ended at `free`, and puts it there; its words are the caller's to write.
    fn admit(&mut self, key: u64, mut free: usize) -> Option<usize> {
        let shard = shard_of(key) - self.first;
        if self.entries[shard] >= self.entries_max {
            return None;
        }
        let mut bucket = *self.home(key).0;
        if bucket.pages[0] == 0 || self.taken[bucket.pages[0] as usize] as usize >= bucket.load_max() {
            self.grow(shard, key << SHARD_BITS, bucket)?;
            free = self.search(key).0;
            bucket = *self.home(key).0;
        }
        self.entries[shard] += 1;
        self.taken[bucket.pages[0] as usize] += 1;
        self.slots[free] = Slot { key, words: [0; 2] };
        Some(free)
    }

    /// Gives a bucket another page. `None`: its keys agree in so many bits that somebody made them so; it stays as it is.
    #[cold]
    fn grow(&mut self, shard: usize, shifted: u64, bucket: Bucket) -> Option<()> {
        let [a, b, c] = bucket.pages;
        if a == 0 {
            let pages = [self.new_page(), 0, 0];
            self.directories[shard].set(shifted, Bucket { pages, ..bucket });
            return Some(());
        }
        if bucket.count == 3 && u32::from(bucket.depth) == DEPTH_MAX {
            return None;
        }
        let entries = self.lift(&bucket);
        let new = self.new_page();
        match bucket.count {
            1 => self.directories[shard].set(shifted, Bucket { pages: [a, new, 0], count: 2, ..bucket }),
            2 => self.directories[shard].set(shifted, Bucket { pages: [a, b, new], count: 3, ..bucket }),
            _ => {
                let bit = 63 - u32::from(bucket.depth);
                let in_upper = entries.iter().filter(|(s, _)| (s.key << SHARD_BITS) >> bit & 1 == 1).count();
                let in_lower = entries.len() - in_upper;
                let (lower, upper) = match (in_lower > LOAD_MAX_OF_TWO, in_upper > LOAD_MAX_OF_TWO) {
                    (true, _) => (([a, b, c], 3), ([new, 0, 0], 1)),
                    (_, true) => (([new, 0, 0], 1), ([a, b, c], 3)),
                    _ => (([a, b, 0], 2), ([c, new, 0], 2)),
                };
                self.taken[lower.0[0] as usize] = in_lower as u16;
                self.taken[upper.0[0] as usize] = in_upper as u16;
                let child = |(pages, count)| Bucket { pages, count, ..bucket };
                self.directories[shard].split(shifted, child(lower), child(upper));
            }
        }
        self.put_down(&entries);
        Some(())
    }

    fn new_page(&mut self) -> u32 {
        let page = self.pages as u32;
        self.pages += 1;
        self.taken.push(0);
        self.changed.resize(self.pages * CHANGE_WORDS, 0);
        page
    }

    /// Takes all entries out of a bucket's pages, with whether they changed.
    fn lift(&mut self, bucket: &Bucket) -> Vec<(Slot, bool)> {
        let mut entries = Vec::with_capacity(bucket.places());
        for page in bucket.own_pages() {
            let first = (*page as usize) << PAGE_BITS;
            for place in first..first + PAGE_PLACES {
                let slot = std::mem::take(&mut self.slots[place]);
                if slot.key != 0 {
                    entries.push((slot, self.is_changed(place)));
                }
            }
            self.changed[*page as usize * CHANGE_WORDS..][..CHANGE_WORDS].fill(0);
        }
        entries
    }

    fn put_down(&mut self, entries: &[(Slot, bool)]) {
        for (slot, was_changed) in entries {
            let (place, _) = self.search(slot.key);
            self.slots[place] = *slot;
            if *was_changed {
                self.mark_changed(place);
            }
        }
    }

    #[inline(always)]
    fn mark_changed(&mut self, place: usize) {
        let line = place / SLOTS_PER_LINE;
        self.changed[line / 64] |= 1 << (line % 64);
    }

    fn is_changed(&self, place: usize) -> bool {
        let line = place / SLOTS_PER_LINE;
        self.changed[line / 64] >> (line % 64) & 1 == 1
    }
}
