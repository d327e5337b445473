//! Keys to entries: open addressing over 64 shards, entries in blocks that never move.
//!
//! A key's bits say its shard (the upper ones) and where the search begins (the lower ones): those of its hash under a secret
//! ([`Scatter`]), because who sends keys can choose them by their hashes. A shard that is
//! three quarters full doubles alone, so that growing never stops the line for more than a sixty-fourth of the keys; blocks
//! are added and never moved. Results do not depend on where an entry lies.
//! A checkpoint takes pointers to blocks and which slots of theirs changed ([`Table::save`]); a block is copied when it is
//! written to while a checkpoint still reads it.

use std::sync::Arc;

use tidemill_base::Scatter;

use super::{
    entry::{self, get_u64},
    layout::{KEY, Layout},
};
use crate::held::Held;

const SHARDS: usize = 64;
/// Entries of one block at most: a bit says of each whether it changed.
const BLOCK_MAX: usize = 64;
/// Words of one block, about: what one event makes a checkpoint copy.
const BLOCK_WORDS: usize = 4096;
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

/// When a key is looked at whether it has been silent, and its number among those looked at then.
pub(super) type Turn = (i64, u64);

/// Entries so that each begins with a cache line, wherever the memory lies.
#[derive(Default)]
pub(super) struct Entries {
    words: Box<[u32]>,
    begin: usize,
    /// By entry; none in a table that is only looked up.
    turns: Box<[Turn]>,
}

struct Block {
    held: Held<Entries>,
    /// Slots that hold a key, a bit each.
    used: u64,
    /// Slots that hold something else than when [`Table::save`] was called last.
    changed: u64,
}

/// A block as it was at a checkpoint.
struct SavedBlock {
    number: usize,
    entries: Arc<Entries>,
    used: u64,
    /// Slots that the checkpoint takes along.
    taken: u64,
}

/// What a checkpoint takes of a table, as of its moment.
pub(super) struct SavedTable {
    blocks: Vec<SavedBlock>,
    bits: u32,
    pub words: usize,
    pub slots: u32,
}

/// All keys of a view.
pub(super) struct Table {
    shards: Vec<Shard>,
    scatter: Scatter,
    blocks: Vec<Block>,
    free: Vec<u32>,
    slots: u32,
    words: usize,
    /// A block has this power of two of entries.
    bits: u32,
    keeps_turns: bool,
    used: usize,
}

impl Table {
    /// An empty table; `keeps_turns` where keys are forgotten by it.
    pub fn new(layout: &Layout, keeps_turns: bool) -> Self {
        Self {
            shards: vec![Shard::default(); SHARDS],
            scatter: Scatter::default(),
            blocks: Vec::new(),
            free: Vec::new(),
            slots: 0,
            words: layout.words,
            bits: (BLOCK_WORDS / layout.words).clamp(1, BLOCK_MAX).ilog2(),
            keeps_turns,
            used: 0,
        }
    }

    /// Keys kept.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Words of an entry.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        let places: usize = self.shards.iter().map(|s| s.places.capacity()).sum();
        let turns = if self.keeps_turns { size_of::<Turn>() } else { 0 };
        let block = ((self.words * 4 + turns) << self.bits) + LINE * 4 + size_of::<Block>();
        self.blocks.len() * block + places * size_of::<Place>()
    }

    /// The slots of all keys, ascending.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let used = |(number, block): (usize, &Block)| {
            let used = block.used;
            (0..1 << self.bits).filter(move |place| used >> place & 1 != 0).map(move |place| (number, place))
        };
        self.blocks.iter().enumerate().flat_map(used).map(|(number, place)| (number << self.bits | place) as u32)
    }

    /// Looks where a search for the key would begin, so that it is near when the search comes.
    #[inline(always)]
    pub fn touch(&self, key: u64) -> u64 {
        let bits = self.scatter.of(key);
        let shard = &self.shards[shard_of(bits)];
        shard.places.get(bits as usize & shard.mask()).map_or(0, |p| p.key)
    }

    /// The key's slot, or [`NONE`].
    #[inline]
    pub fn find(&self, key: u64) -> u32 {
        let bits = self.scatter.of(key);
        let shard = &self.shards[shard_of(bits)];
        shard.places.get(shard.search(key, bits)).map_or(NONE, |p| p.slot)
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
            self.slots += 1;
            self.slots - 1
        });
        self.reach(slot);
        self.block_mut(slot).used |= self.bit(slot);
        self.place_key(key, slot);
        entry::begin(self.entry_mut(slot), key, layout);
        slot
    }

    fn place_key(&mut self, key: u64, slot: u32) {
        self.shards[shard_of(self.scatter.of(key))].insert(Place { key, slot }, self.scatter);
        self.used += 1;
    }

    /// Forgets a key.
    pub fn remove(&mut self, slot: u32) {
        let key = get_u64(self.entry(slot), KEY);
        self.shards[shard_of(self.scatter.of(key))].remove(key, self.scatter);
        let bit = self.bit(slot);
        let block = self.block_mut(slot);
        block.used &= !bit;
        block.changed |= bit;
        self.free.push(slot);
        self.used -= 1;
    }

    #[inline(always)]
    pub fn entry(&self, slot: u32) -> &[u32] {
        self.blocks[(slot >> self.bits) as usize].held.get().get(self.place(slot), self.words)
    }

    #[inline(always)]
    pub fn entry_mut(&mut self, slot: u32) -> &mut [u32] {
        let (place, words, bit) = (self.place(slot), self.words, self.bit(slot));
        let block = self.block_mut(slot);
        block.changed |= bit;
        block.held.own().get_mut(place, words)
    }

    /// The key is looked at then.
    pub fn set_turn(&mut self, slot: u32, turn: Turn) {
        let (place, bit) = (self.place(slot), self.bit(slot));
        let block = self.block_mut(slot);
        block.changed |= bit;
        block.held.own().turns[place] = turn;
    }

    /// What a checkpoint takes along: all keys, or the slots that changed since the last call. Touches no entry.
    pub fn save(&mut self, whole: bool) -> SavedTable {
        let mut blocks = Vec::new();
        for (number, block) in self.blocks.iter_mut().enumerate() {
            let changed = std::mem::take(&mut block.changed);
            let taken = if whole { block.used } else { changed };
            if taken != 0 {
                blocks.push(SavedBlock { number, entries: block.held.share(), used: block.used, taken });
            }
        }
        SavedTable { blocks, bits: self.bits, words: self.words, slots: self.slots }
    }

    /// The slot holds this, or nothing: what [`SavedTable::each`] told of it. [`Table::settle`] must follow.
    pub fn restore(&mut self, slot: u32, entry: Option<(&[u32], Turn)>) {
        self.reach(slot);
        self.slots = self.slots.max(slot + 1);
        let (place, bit, words) = (self.place(slot), self.bit(slot), self.words);
        let block = self.block_mut(slot);
        block.used &= !bit;
        if let Some((entry, turn)) = entry {
            block.used |= bit;
            let own = block.held.own();
            own.get_mut(place, words).copy_from_slice(entry);
            own.turns[place] = turn;
        }
    }

    /// Puts the keys of all restored entries in; gives their slots in the order of their turns. `None` where a key is there
    /// twice.
    pub fn settle(&mut self) -> Option<Vec<(Turn, u32)>> {
        let mut turns = Vec::new();
        for slot in 0..self.slots {
            if self.blocks[(slot >> self.bits) as usize].used & self.bit(slot) == 0 {
                self.free.push(slot);
                continue;
            }
            let key = get_u64(self.entry(slot), KEY);
            if self.find(key) != NONE {
                return None;
            }
            self.place_key(key, slot);
            turns.push((self.blocks[(slot >> self.bits) as usize].held.get().turns[self.place(slot)], slot));
        }
        turns.sort_unstable();
        Some(turns)
    }

    /// Has the block of this slot, and all before it.
    fn reach(&mut self, slot: u32) {
        while (slot >> self.bits) as usize >= self.blocks.len() {
            let entries = Entries::new(self.words << self.bits, if self.keeps_turns { 1 << self.bits } else { 0 });
            self.blocks.push(Block { held: Held::Own(entries), used: 0, changed: 0 });
        }
    }

    #[inline(always)]
    fn place(&self, slot: u32) -> usize {
        slot as usize & ((1 << self.bits) - 1)
    }

    #[inline(always)]
    fn bit(&self, slot: u32) -> u64 {
        1 << self.place(slot)
    }

    #[inline(always)]
    fn block_mut(&mut self, slot: u32) -> &mut Block {
        &mut self.blocks[(slot >> self.bits) as usize]
    }
}

impl SavedTable {
    /// Whether nothing is taken along.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Every slot that is taken along, with its entry if it holds one.
    pub fn each(&self, mut each: impl FnMut(u32, Option<(&[u32], Turn)>)) {
        for block in &self.blocks {
            for place in (0..BLOCK_MAX).filter(|place| block.taken >> place & 1 != 0) {
                let slot = (block.number << self.bits | place) as u32;
                let entry = || (block.entries.get(place, self.words), block.entries.turns[place]);
                each(slot, (block.used >> place & 1 != 0).then(entry));
            }
        }
    }
}

// Not derived: a copy lies elsewhere, and begins on a line of the cache of its own.
impl Clone for Entries {
    fn clone(&self) -> Self {
        let count = self.words.len() - LINE;
        let mut copy = Self::new(count, 0);
        copy.words[copy.begin..copy.begin + count].copy_from_slice(&self.words[self.begin..self.begin + count]);
        copy.turns = self.turns.clone();
        copy
    }
}

impl Entries {
    fn new(words: usize, turns: usize) -> Self {
        let words: Box<[u32]> = vec![0; words + LINE].into();
        let begin = words.as_ptr().align_offset(LINE * 4).min(LINE);
        Self { words, begin, turns: vec![(0, 0); turns].into() }
    }

    #[inline(always)]
    fn get(&self, place: usize, words: usize) -> &[u32] {
        let at = self.begin + place * words;
        &self.words[at..at + words]
    }

    #[inline(always)]
    fn get_mut(&mut self, place: usize, words: usize) -> &mut [u32] {
        let at = self.begin + place * words;
        &mut self.words[at..at + words]
    }
}

/// The shard of a key with these bits.
#[inline(always)]
fn shard_of(bits: u64) -> usize {
    (bits >> (u64::BITS - SHARDS.ilog2())) as usize
}

impl Shard {
    #[inline(always)]
    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    /// Where the key stands, or the free place where it would.
    #[inline(always)]
    fn search(&self, key: u64, bits: u64) -> usize {
        let mask = self.mask();
        let mut at = bits as usize & mask;
        while let Some(place) = self.places.get(at) {
            if place.key == key || place.slot == NONE {
                return at;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn insert(&mut self, place: Place, scatter: Scatter) {
        if self.used * 4 >= self.places.len() * 3 {
            let larger = vec![Place { key: 0, slot: NONE }; (self.places.len() * 2).max(16)];
            for old in std::mem::replace(&mut self.places, larger).into_iter().filter(|p| p.slot != NONE) {
                let at = self.free_place(scatter.of(old.key));
                self.places[at] = old;
            }
        }
        let at = self.free_place(scatter.of(place.key));
        self.places[at] = place;
        self.used += 1;
    }

    fn free_place(&self, bits: u64) -> usize {
        let mask = self.mask();
        let mut at = bits as usize & mask;
        while self.places[at].slot != NONE {
            at = (at + 1) & mask;
        }
        at
    }

    /// Takes a key out and moves those behind it up, so that no search stops short.
    fn remove(&mut self, key: u64, scatter: Scatter) {
        let mask = self.mask();
        let mut hole = self.search(key, scatter.of(key));
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let place = self.places[at];
            if place.slot == NONE {
                break;
            }
            let home = scatter.of(place.key) as usize & mask;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// F53, B49: keys chosen by their hashes crowd in no shard and in no place of one.
    #[test]
    fn keys_that_are_chosen_to_crowd_do_not() {
        let crowds = |scatter: Scatter| {
            let mut shards = vec![Shard::default(); SHARDS];
            for slot in 0..6_400 {
                let key = u64::from(slot) << 32 | 5;
                shards[shard_of(scatter.of(key))].insert(Place { key, slot }, scatter);
            }
            let of = |shard: &Shard| shard.places.split(|place| place.slot == NONE).map(<[Place]>::len).max();
            shards.iter().map(|shard| (shard.used, of(shard))).max_by_key(|(used, longest)| (*longest, *used))
        };
        assert_eq!(crowds(Scatter::NONE), Some((6_400, Some(6_400))));
        let (used, longest) = crowds(Scatter::KNOWN).expect("there are shards");
        assert!(used < 200 && longest < Some(100), "{used} {longest:?}");
    }
}
