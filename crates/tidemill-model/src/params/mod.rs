//! The parameter table: an entry for every feature key the model has learned from.
//!
//! 64 shards by the top bits of the key, kept in as many parts as threads may write at a time. Everything the table tells
//! about itself (hash, encoding, counts) is the same for the same entries, whatever the parts, the order in which keys came
//! and how often the table grew. Bounded: a shard admits `entries_max / 64` keys; a new key beyond that is not admitted,
//! contributes nothing and is counted by the caller.

mod admission;
mod bucket;
mod memory;
mod part;
mod rows;

use std::{
    ops::Range,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tidemill_base::{
    Error, Result, StateHash, StateHasher,
    codec::{Decoder, Encoder},
};

pub use part::{ABSENT, EntryRef, Part, Place, Updated};

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
    /// Whether keys may have to be seen several times before they are admitted ([`Part::seen_often`]).
    pub admits_late: bool,
}

/// Entries for feature keys, in shards.
pub struct ParamTable {
    spec: TableSpec,
    parts: Vec<RwLock<Part>>,
}

const NO_PANIC: &str = "nobody panics while holding a part, or the panic has ended this job";

impl ParamTable {
    /// An empty table in `parts` parts (1 to 64) that can be written at the same time.
    pub fn new(spec: TableSpec, parts: usize) -> Result<Self> {
        let parts = parts.clamp(1, SHARDS);
        let new_part = |i| Part::new(&spec, i * SHARDS / parts..(i + 1) * SHARDS / parts).map(RwLock::new);
        Ok(Self { spec, parts: (0..parts).map(new_part).collect::<Result<_>>()? })
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
        self.sum(|part, shard| part.len(shard))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the table takes, free places included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.read_all().iter().map(|part| part.bytes()).sum::<usize>()
    }

    /// Identity of all entries with their optimizer state, bit for bit.
    pub fn state_hash(&self) -> StateHash {
        let mut hasher = StateHasher::new();
        self.each_shard(|part, shard| {
            let sum = part.hash_sum(shard);
            hasher.u64(part.len(shard) as u64).u64(sum as u64).u64((sum >> 64) as u64);
        });
        hasher.finish()
    }

    /// Hands out all entries, by key.
    pub fn sorted(&self, mut out: impl FnMut(EntryRef)) {
        self.each_shard(|part, shard| part.sorted(shard, &mut out));
    }

    /// Appends all entries, by key: the same bytes for the same entries.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.spec.words as u64).put_u8(self.spec.admits_late as u8);
        self.each_shard(|part, shard| {
            out.put_varint(part.len(shard) as u64);
            part.sorted(shard, |entry| {
                out.put_u64(entry.key).put_u8(entry.slot as u8).put_u8((entry.slot >> 8) as u8);
                entry.state.iter().for_each(|word| _ = out.put_f32(*word));
            });
            if let Some(sketch) = part.sketch(shard) {
                sketch.encode(out);
            }
        });
    }

    /// Reads back what [`ParamTable::encode`] wrote. All entries count as changed, so that the first delta taken after it
    /// holds them all: nobody who listens can have missed one.
    pub fn decode(spec: TableSpec, parts: usize, from: &mut Decoder) -> Result<Self> {
        let (words, admits_late) = (from.varint()? as usize, from.u8()? != 0);
        if (words, admits_late) != (spec.words, spec.admits_late) {
            return Err(Error::conflict(format!(
                "parameters: entries of {words} words, now they have {}; train under another name",
                spec.words
            )));
        }
        let table = Self::new(spec, parts)?;
        for i in 0..table.parts() {
            let mut part = table.write(i);
            for shard in part.numbers() {
                decode_shard(shard, &mut part, words.max(2), from)?;
            }
        }
        Ok(table)
    }

    fn each_shard(&self, mut each: impl FnMut(&Part, usize)) {
        for i in 0..self.parts() {
            let part = self.read(i);
            part.numbers().for_each(|shard| each(&part, shard));
        }
    }

    fn sum(&self, count: impl Fn(&Part, usize) -> usize) -> usize {
        let mut sum = 0;
        self.each_shard(|part, shard| sum += count(part, shard));
        sum
    }
}

/// The part of `parts` (a power of two) that holds a key.
#[inline(always)]
pub fn part_of(key: u64, parts: usize) -> usize {
    shard_of(key) * parts / SHARDS
}

/// Shards of part `i` of `parts`.
pub fn shards_of_part(i: usize, parts: usize) -> Range<usize> {
    i * SHARDS / parts..(i + 1) * SHARDS / parts
}

fn decode_shard(number: usize, part: &mut Part, words: usize, from: &mut Decoder) -> Result<()> {
    let damaged = |what: String| Error::corrupt(format!("parameters, shard {number}: {what}"));
    let mut before = 0;
    let mut state = vec![0.0; words];
    for i in 0..from.count(10 + 4 * words)? {
        let key = from.u64()?;
        let slot = u16::from(from.u8()?) | u16::from(from.u8()?) << 8;
        for word in &mut state {
            *word = from.f32()?;
        }
        if key <= before || shard_of(key) != number {
            return Err(damaged(format!("key {key:#x} of entry {i} is out of order")));
        }
        if let Some(word) = state.iter().find(|word| !word.is_finite()) {
            return Err(damaged(format!("entry {i} holds {word}")));
        }
        if part.restore(key, slot, &state) != Updated::Done {
            return Err(Error::conflict(format!(
                "parameters, shard {number}: more entries than train.entries_max allows now; raise it to what it was"
            )));
        }
        before = key;
    }
    match part.sketch_mut(number) {
        Some(sketch) => sketch.decode(from),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
