//! Keys to entries: open addressing over 64 shards, entries in blocks that never move.
//!
//! A key's place says its shard (the upper bits of the hash) and where the search begins (the lower ones). A shard that is
//! three quarters full doubles alone, so that growing never stops the line for more than a sixty-fourth of the keys; blocks
//! are added and never copied. Results do not depend on where an entry lies.

use super::{
    entry::{self, get_u64},
    layout::{KEY, Layout},
};

const SHARDS: usize = 64;
/// Entries of one block.
const BLOCK: usize = 64;
/// Words in a cache line.
const LINE: usize = 16;
/// No slot.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Place {
    key: u64,
    slot: u32,
}

#[derive(Clone, Default)]
struct Shard {
    places: Vec<Place>,
    used: usize,
}

/// Entries so that each begins with a cache line, wherever the memory lies.
struct Block {
    words: Vec<u32>,
    begin: usize,
}

/// All keys of a view.
pub(super) struct Table {
    shards: Vec<Shard>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    slots: u32,
    words: usize,
    used: usize,
}

impl Table {
    pub fn new(layout: &Layout) -> Self {
        Self {
            shards: vec![Shard::default(); SHARDS],
            blocks: Vec::new(),
            free: Vec::new(),
            slots: 0,
            words: layout.words,
            used: 0,
        }
    }

    /// Keys kept.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        let places: usize = self.shards.iter().map(|s| s.places.capacity()).sum();
        self.blocks.len() * (BLOCK * self.words + LINE) * 4 + places * size_of::<Place>()
    }

    /// The slots of all keys.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let places = self.shards.iter().flat_map(|shard| &shard.places);
        places.map(|place| place.slot).filter(|slot| *slot != NONE)
    }

    /// Looks where a search for the key would begin, so that it is near when the search comes.
    #[inline(always)]
    pub fn touch(&self, key: u64) -> u64 {
        let shard = &self.shards[(key >> 58) as usize];
        shard.places.get(key as usize & shard.mask()).map_or(0, |p| p.key)
    }

    /// The key's slot, or [`NONE`].
    #[inline]
    pub fn find(&self, key: u64) -> u32 {
        let shard = &self.shards[(key >> 58) as usize];
        shard.places.get(shard.search(key)).map_or(NONE, |p| p.slot)
    }

    /// The key's slot, and whether it is new.
    #[inline]
    pub fn find_or_begin(&mut self, key: u64, layout: &Layout) -> (u32, bool) {
        match self.find(key) {
            NONE => (self.insert(key, layout), true),
            slot => (slot, false),
        }
    }

    fn insert(&mut self, key: u64, layout: &Layout) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.slots as usize == self.blocks.len() * BLOCK {
                self.blocks.push(Block::new(BLOCK * self.words));
            }
            self.slots += 1;
            self.slots - 1
        });
        self.shards[(key >> 58) as usize].insert(Place { key, slot });
        self.used += 1;
        entry::begin(self.entry_mut(slot), key, layout);
        slot
    }

    /// Forgets a key.
    pub fn remove(&mut self, slot: u32) {
        let key = get_u64(self.entry(slot), KEY);
        self.shards[(key >> 58) as usize].remove(key);
        self.free.push(slot);
        self.used -= 1;
    }

    #[inline(always)]
    pub fn entry(&self, slot: u32) -> &[u32] {
        let block = &self.blocks[slot as usize / BLOCK];
        let at = block.begin + slot as usize % BLOCK * self.words;
        &block.words[at..at + self.words]
    }

    #[inline(always)]
    pub fn entry_mut(&mut self, slot: u32) -> &mut [u32] {
        let block = &mut self.blocks[slot as usize / BLOCK];
        let at = block.begin + slot as usize % BLOCK * self.words;
        &mut block.words[at..at + self.words]
    }
}

impl Block {
    fn new(words: usize) -> Self {
        let words = vec![0; words + LINE];
        let begin = words.as_ptr().align_offset(LINE * 4).min(LINE);
        Self { words, begin }
    }
}

impl Shard {
    #[inline(always)]
    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    /// Where the key stands, or the free place where it would.
    #[inline(always)]
    fn search(&self, key: u64) -> usize {
        let mask = self.mask();
        let mut at = key as usize & mask;
        while let Some(place) = self.places.get(at) {
            if place.key == key || place.slot == NONE {
                return at;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn insert(&mut self, place: Place) {
        if self.used * 4 >= self.places.len() * 3 {
            let larger = vec![Place { key: 0, slot: NONE }; (self.places.len() * 2).max(16)];
            for old in std::mem::replace(&mut self.places, larger).into_iter().filter(|p| p.slot != NONE) {
                let at = self.free_place(old.key);
                self.places[at] = old;
            }
        }
        let at = self.free_place(place.key);
        self.places[at] = place;
        self.used += 1;
    }

    fn free_place(&self, key: u64) -> usize {
        let mask = self.mask();
        let mut at = key as usize & mask;
        while self.places[at].slot != NONE {
            at = (at + 1) & mask;
        }
        at
    }

    /// Takes a key out and moves those behind it up, so that no search stops short.
    fn remove(&mut self, key: u64) {
        let mask = self.mask();
        let mut hole = self.search(key);
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let place = self.places[at];
            if place.slot == NONE {
                break;
            }
            let home = place.key as usize & mask;
            // Whether its search passes the hole on the way from its home.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places[hole] = place;
                hole = at;
            }
        }
        self.places[hole] = Place { key: 0, slot: NONE };
        self.used -= 1;
    }
}
