//! One parameter shard: an open-addressing table of entries.
//!
//! Linear probing in a power-of-two number of places, at most 70% of them taken; key and state stand side by side, so that
//! an entry costs one cache line. A key's first place follows from its leading bits, so the table is nearly in key order
//! and growing it streams through memory. Nothing here depends on the order in which keys came, except where in the table
//! an entry stands, and that is never told to anybody. One bit per line of four entries remembers what changed since the
//! last delta.

use tidemill_base::hash128;

use crate::prefetch::prefetch;

/// A key's parameters with optimizer state. Key 0 marks a free place; no feature has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Entry {
    /// The feature key.
    pub key: u64,
    /// Of FTRL: sum of gradients, less what the steps so far account for.
    pub z: f32,
    /// Of FTRL: sum of squared gradients.
    pub n: f32,
}

const ENTRIES_PER_LINE: usize = 4;

/// A cache line of entries; also the unit in which changes are remembered.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([Entry; ENTRIES_PER_LINE]);

const CAPACITY_MIN: usize = 64;

/// Where [`Shard::find`] saw an entry: a hint for [`Shard::update`], right or not.
pub type Place = u32;

/// The key has no entry yet.
pub const ABSENT: Place = Place::MAX;

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The entry holds it.
    Done,
    /// The key is new and the shard is full: it was not admitted.
    NotAdmitted,
    /// The state would not have been finite; the entry is as before.
    NotFinite,
}

/// One of the table's [`SHARDS`](super::SHARDS) parts.
pub struct Shard {
    lines: Vec<Line>,
    changed: Vec<u64>,
    /// Brings a key's bits below the shard number down to a place.
    shift: u32,
    entries: usize,
    entries_max: usize,
}

impl Shard {
    /// An empty shard that admits at most `entries_max` keys.
    pub fn new(entries_max: usize) -> Self {
        let mut shard = Self { lines: Vec::new(), changed: Vec::new(), shift: 0, entries: 0, entries_max };
        shard.allocate(CAPACITY_MIN);
        shard
    }

    /// The place of a key's entry, or [`ABSENT`].
    #[inline(always)]
    pub fn find(&self, key: u64) -> Place {
        match self.probe(key) {
            (place, true) => place as Place,
            (_, false) => ABSENT,
        }
    }

    /// The entry at a place that [`Shard::find`] gave for an unchanged shard.
    #[inline(always)]
    pub fn at(&self, place: Place) -> &Entry {
        let place = place as usize;
        &self.lines[place / ENTRIES_PER_LINE].0[place % ENTRIES_PER_LINE]
    }

    /// Asks the processor for the line where the search for `key` begins.
    #[inline(always)]
    pub fn prefetch(&self, key: u64) {
        prefetch(&self.lines, self.home(key) / ENTRIES_PER_LINE);
    }

    /// Asks the processor for the line of a place.
    #[inline(always)]
    pub fn prefetch_place(&self, place: Place) {
        prefetch(&self.lines, place as usize / ENTRIES_PER_LINE);
    }

    /// Changes a key's state from (z, n) to `step(z, n)`, beginning at (0, 0) for a new key. `hint` saves the search when
    /// the entry still stands there.
    #[inline(always)]
    pub fn update(&mut self, key: u64, hint: Place, step: impl FnOnce(f32, f32) -> Option<(f32, f32)>) -> Updated {
        debug_assert_ne!(key, 0, "key 0 marks a free place");
        let mut place = hint as usize;
        let line = self.lines.get_mut(place / ENTRIES_PER_LINE);
        match line.map(|line| &mut line.0[place % ENTRIES_PER_LINE]).filter(|entry| entry.key == key) {
            Some(entry) => {
                let Some((z, n)) = step(entry.z, entry.n) else { return Updated::NotFinite };
                (entry.z, entry.n) = (z, n);
            }
            None => match self.search_and_update(key, step) {
                Ok(found) => place = found,
                Err(refused) => return refused,
            },
        }
        self.mark_changed(place / ENTRIES_PER_LINE);
        Updated::Done
    }

    fn search_and_update(
        &mut self,
        key: u64,
        step: impl FnOnce(f32, f32) -> Option<(f32, f32)>,
    ) -> Result<usize, Updated> {
        let (mut place, present) = self.probe(key);
        let before = *self.at(place as Place);
        let (z, n) = step(before.z, before.n).ok_or(Updated::NotFinite)?;
        if !present {
            if self.entries >= self.entries_max {
                return Err(Updated::NotAdmitted);
            }
            if self.entries + 1 > load_max(self.capacity()) {
                self.grow();
                place = self.probe(key).0;
            }
            self.entries += 1;
        }
        *self.at_mut(place) = Entry { key, z, n };
        Ok(place)
    }

    /// Puts in an entry from a checkpoint; it counts as changed.
    pub(super) fn restore(&mut self, entry: Entry) -> Updated {
        self.update(entry.key, ABSENT, |_, _| Some((entry.z, entry.n)))
    }

    /// All entries, in no order to rely on.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().flat_map(|line| &line.0).filter(|entry| entry.key != 0)
    }

    /// All entries, by key.
    pub fn sorted(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.iter().copied().collect();
        entries.sort_unstable_by_key(|entry| entry.key);
        entries
    }

    /// Hands out every entry that changed since the last call (its neighbours in the line too) and forgets that it did.
    pub fn take_changed(&mut self, mut out: impl FnMut(&Entry)) {
        for (i, word) in self.changed.iter_mut().enumerate() {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                let line = &self.lines[i * 64 + bits.trailing_zeros() as usize];
                line.0.iter().filter(|entry| entry.key != 0).for_each(&mut out);
                bits &= bits - 1;
            }
        }
    }

    /// Keys with an entry.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes this shard takes, free places included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.lines.capacity() * size_of::<Line>()
            + self.changed.capacity() * size_of_val(&self.changed[0])
    }

    /// Sum of a 128-bit hash of each entry: the same for the same entries wherever they stand.
    pub(super) fn hash_sum(&self) -> u128 {
        self.iter().fold(0u128, |sum, entry| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&entry.key.to_le_bytes());
            bytes[8..12].copy_from_slice(&entry.z.to_le_bytes());
            bytes[12..].copy_from_slice(&entry.n.to_le_bytes());
            sum.wrapping_add(hash128(&bytes, 0))
        })
    }

    fn capacity(&self) -> usize {
        self.lines.len() * ENTRIES_PER_LINE
    }

    #[inline(always)]
    fn home(&self, key: u64) -> usize {
        ((key << super::SHARD_BITS) >> self.shift) as usize
    }

    /// The key's place and `true`, or the free place where it belongs and `false`. Ends, because places are left free.
    #[inline(always)]
    fn probe(&self, key: u64) -> (usize, bool) {
        let mut place = self.home(key);
        loop {
            let found = self.at(place as Place).key;
            if found == key {
                return (place, true);
            }
            if found == 0 {
                return (place, false);
            }
            place = (place + 1) & (self.capacity() - 1);
        }
    }

    fn at_mut(&mut self, place: usize) -> &mut Entry {
        &mut self.lines[place / ENTRIES_PER_LINE].0[place % ENTRIES_PER_LINE]
    }

    #[inline(always)]
    fn mark_changed(&mut self, line: usize) {
        self.changed[line / 64] |= 1 << (line % 64);
    }

    fn allocate(&mut self, capacity: usize) {
        let lines = capacity / ENTRIES_PER_LINE;
        self.shift = 64 - capacity.trailing_zeros();
        self.lines = vec![Line::default(); lines];
        self.changed = vec![0; lines.div_ceil(64)];
    }

    #[cold]
    fn grow(&mut self) {
        let (lines, changed) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.changed));
        self.allocate(lines.len() * ENTRIES_PER_LINE * 2);
        for (i, line) in lines.iter().enumerate() {
            let was_changed = changed[i / 64] >> (i % 64) & 1 == 1;
            for entry in line.0.iter().filter(|entry| entry.key != 0) {
                let (place, _) = self.probe(entry.key);
                *self.at_mut(place) = *entry;
                if was_changed {
                    self.mark_changed(place / ENTRIES_PER_LINE);
                }
            }
        }
    }
}

/// Entries in so many places at most: 70%. Beyond it searches grow long.
fn load_max(capacity: usize) -> usize {
    capacity / 10 * 7
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tidemill_base::Rng;

    #[test]
    fn a_shard_holds_what_a_map_holds_through_growth_and_clusters() {
        let mut rng = Rng::seeded(5);
        let (mut shard, mut map) = (Shard::new(usize::MAX), BTreeMap::new());
        for i in 0..20_000u32 {
            // Low keys crowd the first places; the highest ones run over the end to the beginning.
            let key = match rng.below(3) {
                0 => 1 + rng.below(3_000),
                1 => (u64::MAX >> 6) - rng.below(3_000),
                _ => 1 + rng.next_u64() % (u64::MAX >> 6),
            };
            let hint = [ABSENT, shard.find(key), rng.below(200) as Place][rng.below(3) as usize];
            assert_eq!(shard.update(key, hint, |z, n| Some((z + 1.0, n + i as f32))), Updated::Done);
            let state: &mut (f32, f32) = map.entry(key).or_default();
            *state = (state.0 + 1.0, state.1 + i as f32);
        }
        let ours: Vec<_> = shard.sorted().iter().map(|e| (e.key, (e.z, e.n))).collect();
        assert_eq!(ours.len(), map.len());
        assert!(ours.into_iter().eq(map.clone()));
        assert_eq!(shard.len(), map.len());
        for (key, (z, n)) in map {
            assert_eq!(*shard.at(shard.find(key)), Entry { key, z, n });
        }
        assert!(shard.entries <= load_max(shard.capacity()));
    }

    #[test]
    fn an_entry_changed_before_the_shard_grew_is_still_in_the_next_delta() {
        let mut shard = Shard::new(usize::MAX);
        let key = |i: u64| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 6;
        (0..1_000).for_each(|i| _ = shard.update(key(i), ABSENT, |_, _| Some((1.0, 1.0))));
        shard.take_changed(|_| {});
        shard.take_changed(|entry| panic!("{entry:?} was handed out twice"));
        shard.update(key(17), ABSENT, |_, _| Some((2.0, 2.0)));
        let capacity = shard.capacity();
        (1_000..2_000).for_each(|i| _ = shard.update(key(i), ABSENT, |_, _| Some((1.0, 1.0))));
        assert!(shard.capacity() > capacity);
        let mut seen = Vec::new();
        shard.take_changed(|entry| seen.push(entry.key));
        for i in (1_000..2_000).chain([17]) {
            assert!(seen.contains(&key(i)), "key {i}");
        }
        assert!(seen.len() < 2_000, "not everything changed");
    }
}
