//! The parameter table: an entry for every feature key the model has learned from.
//!
//! 64 shards by the top bits of the key, kept in as many parts as threads may write at a time. Everything the table tells
//! about itself (hash, encoding, counts) is the same for the same entries, whatever the parts, the order in which keys came
//! and how often the table grew. Bounded in entries and in bytes, in equal shares for each shard: at a bound a new key is
//! not admitted and counted by the caller, or the entries of least worth beside it leave.

mod admission;
mod bucket;
mod caps;
mod changes;
mod codec;
mod eviction;
mod growth;
mod limits;
pub(crate) mod memory;
mod packed;
mod pairs;
mod part;
mod restore;
mod rows;
mod search;
mod walk;

use std::{
    ops::Range,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tidemill_base::Result;

use limits::Limits;

pub use caps::{SlotCap, SlotCaps};
pub use changes::{EntryRef, Listener, Taken};
pub use eviction::Worth;
pub use limits::bytes_of_entry;
pub use pairs::{Located, Words};
pub use part::{ABSENT, NO_ROW, Part, Place, Updated};
pub use restore::{Restoring, RestoringPart};
pub use walk::Walked;

/// Shards of every table.
pub const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 6;

/// The shard a key belongs to.
#[inline(always)]
pub fn shard_of(key: u64) -> usize {
    (key >> (u64::BITS - SHARD_BITS)) as usize
}

/// What a table is to hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableSpec {
    /// Words of an entry's state: up to two stand beside the key, more in a row.
    pub words: usize,
    /// Keys admitted.
    pub entries_max: usize,
    /// Bytes of memory taken, whatever comes.
    pub bytes_max: usize,
    /// Bytes of them for counting keys before they are admitted ([`Part::seen_often`]); 0: none are counted.
    pub sketch_bytes: usize,
    /// Whether entries remember when they last changed ([`Part::tick`], [`Part::evict_older_than`]).
    pub ages: bool,
}

impl TableSpec {
    /// Entries of `words` words, at most `entries_max`; no other bound, no counting, no ages.
    pub fn new(words: usize, entries_max: usize) -> Self {
        Self { words, entries_max, bytes_max: usize::MAX, sketch_bytes: 0, ages: false }
    }
}

/// Entries for feature keys, in shards.
pub struct ParamTable {
    spec: TableSpec,
    parts: Vec<RwLock<Part>>,
}

const NO_PANIC: &str = "nobody panics while holding a part, or the panic has ended this job";

impl ParamTable {
    /// An empty table in `parts` parts that can be written at the same time: a power of two up to 64, or the next below.
    pub fn new(spec: TableSpec, parts: usize) -> Result<Self> {
        let parts = 1 << parts.clamp(1, SHARDS).ilog2();
        let limits = Limits::of(&spec)?;
        let new_part = |i| Part::new(&spec, limits, shards_of_part(i, parts)).map(RwLock::new);
        Ok(Self { spec, parts: (0..parts).map(new_part).collect::<Result<_>>()? })
    }

    /// The same table; from now on entries of least worth leave where a new key finds no room.
    pub fn evicting(mut self, worth: Worth) -> Self {
        for part in &mut self.parts {
            part.get_mut().expect(NO_PANIC).worth = Some(worth.clone());
        }
        self
    }

    /// The same table; from now on slots have bounds of their own, beside the table's. Of a table of rows.
    pub fn with_caps(mut self, caps: SlotCaps) -> Self {
        for part in &mut self.parts {
            part.get_mut().expect(NO_PANIC).set_caps(caps.clone());
        }
        self
    }

    /// What it is to hold.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Holds one part for reading, waiting for its writer.
    pub fn read(&self, part: usize) -> RwLockReadGuard<'_, Part> {
        self.parts[part].read().expect(NO_PANIC)
    }

    /// Holds all parts for reading.
    pub fn read_all(&self) -> Vec<RwLockReadGuard<'_, Part>> {
        (0..self.parts()).map(|part| self.read(part)).collect()
    }

    /// Holds one part for writing, waiting for readers.
    pub fn write(&self, part: usize) -> RwLockWriteGuard<'_, Part> {
        self.parts[part].write().expect(NO_PANIC)
    }

    /// Keys with an entry.
    pub fn len(&self) -> usize {
        let mut sum = 0;
        self.each_shard(|part, shard| sum += part.len(shard));
        sum
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory the table takes, free places included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.read_all().iter().map(|part| part.bytes()).sum::<usize>()
    }

    /// Keys whose entries changed since this listener was told, or were removed, some of them perhaps twice; `None`: not known.
    pub fn changed(&self, listener: Listener) -> Option<usize> {
        self.read_all().iter().map(|part| part.changed(listener)).sum()
    }

    /// Hands out all entries, by key.
    pub fn sorted(&self, mut out: impl FnMut(EntryRef)) {
        self.each_shard(|part, shard| part.sorted(shard, &mut out));
    }

    fn each_shard(&self, mut each: impl FnMut(&Part, usize)) {
        for i in 0..self.parts() {
            let part = self.read(i);
            part.numbers().for_each(|shard| each(&part, shard));
        }
    }
}

/// The part of `parts` (a power of two) that holds a key.
#[inline(always)]
pub fn part_of(key: u64, parts: usize) -> usize {
    shard_of(key) * parts / SHARDS
}

/// Shards of part `i` of `parts` (a power of two).
pub fn shards_of_part(i: usize, parts: usize) -> Range<usize> {
    i * SHARDS / parts..(i + 1) * SHARDS / parts
}

#[cfg(test)]
mod tests;
