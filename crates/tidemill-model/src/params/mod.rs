//! The parameter table: an entry for every feature key the model has learned from.
//!
//! 64 shards by the top bits of the key, kept in as many parts as threads may write at a time. Everything the table tells
//! about itself (hash, encoding, counts) is the same for the same entries, whatever the parts, the order in which keys came
//! and how often the table grew. Bounded: a shard admits `entries_max / 64` keys; a new key beyond that is not admitted,
//! contributes nothing and is counted by the caller.

mod shard;

use std::{
    ops::Range,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tidemill_base::{
    Error, Result, StateHash, StateHasher,
    codec::{Decoder, Encoder},
};

pub use shard::{ABSENT, Entry, Place, Shard, Updated};

/// Shards of every table.
pub const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = u64::BITS - crate::logit::SHARD_SHIFT;

/// The shard a key belongs to.
#[inline(always)]
pub fn shard_of(key: u64) -> usize {
    (key >> crate::logit::SHARD_SHIFT) as usize
}

/// Entries for feature keys, in shards.
pub struct ParamTable {
    parts: Vec<RwLock<Part>>,
}

/// Neighbouring shards with one writer.
pub struct Part {
    first: usize,
    shards: Vec<Shard>,
}

/// Every part, held for reading.
pub struct Reading<'a>(Vec<RwLockReadGuard<'a, Part>>);

const NO_PANIC: &str = "nobody panics while holding a part, or the panic has ended this job";

impl ParamTable {
    /// An empty table for at most `entries_max` keys, in `parts` parts (1 to 64) that can be written at the same time.
    pub fn new(entries_max: usize, parts: usize) -> Self {
        let parts = parts.clamp(1, SHARDS);
        let new_part = |i: usize| {
            let shards = shards_of_part(i, parts);
            let new_shard = |_| Shard::new((entries_max / SHARDS).max(1));
            RwLock::new(Part { first: shards.start, shards: shards.map(new_shard).collect() })
        };
        Self { parts: (0..parts).map(new_part).collect() }
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Holds all parts for reading, waiting for writers.
    pub fn read(&self) -> Reading<'_> {
        Reading(self.parts.iter().map(|part| part.read().expect(NO_PANIC)).collect())
    }

    /// Holds one part for writing, waiting for readers.
    pub fn write(&self, part: usize) -> RwLockWriteGuard<'_, Part> {
        self.parts[part].write().expect(NO_PANIC)
    }

    /// Keys with an entry.
    pub fn len(&self) -> usize {
        self.read().shards().iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the table takes, free places included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.parts.capacity() * size_of::<RwLock<Part>>()
            + self.read().shards().iter().map(|shard| shard.bytes()).sum::<usize>()
    }

    /// Identity of all entries with their optimizer state, bit for bit.
    pub fn state_hash(&self) -> StateHash {
        let mut hasher = StateHasher::new();
        for shard in self.read().shards() {
            let sum = shard.hash_sum();
            hasher.u64(shard.len() as u64).u64(sum as u64).u64((sum >> 64) as u64);
        }
        hasher.finish()
    }

    /// Appends all entries, by key: the same bytes for the same entries.
    pub fn encode(&self, out: &mut Encoder) {
        for shard in self.read().shards() {
            out.put_varint(shard.len() as u64);
            for Entry { key, z, n } in shard.sorted() {
                out.put_u64(key).put_f32(z).put_f32(n);
            }
        }
    }

    /// Reads back what [`ParamTable::encode`] wrote. All entries count as changed, so that the first delta taken after it
    /// holds them all: nobody who listens can have missed one.
    pub fn decode(entries_max: usize, parts: usize, from: &mut Decoder) -> Result<Self> {
        let table = Self::new(entries_max, parts);
        for i in 0..table.parts() {
            let mut part = table.write(i);
            let first = part.first;
            for (j, shard) in part.shards.iter_mut().enumerate() {
                decode_shard(first + j, shard, from)?;
            }
        }
        Ok(table)
    }
}

impl<'a> Reading<'a> {
    /// The shards, by number.
    pub fn shards(&self) -> [&Shard; SHARDS] {
        let mut all = self.0.iter().flat_map(|part| &part.shards);
        std::array::from_fn(|_| all.next().expect("the parts hold all shards"))
    }
}

impl Part {
    /// The shards this part holds.
    pub fn numbers(&self) -> Range<usize> {
        self.first..self.first + self.shards.len()
    }

    /// The part of a sample's ascending keys that belongs here.
    #[inline]
    pub fn own(&self, keys: &[u64]) -> Range<usize> {
        let Range { start, end } = self.numbers();
        let begin = if start == 0 { 0 } else { keys.partition_point(|&key| shard_of(key) < start) };
        let end = if end == SHARDS { keys.len() } else { keys.partition_point(|&key| shard_of(key) < end) };
        begin..end
    }

    /// The shard of one of this part's own keys.
    #[inline(always)]
    pub fn shard_mut(&mut self, key: u64) -> &mut Shard {
        &mut self.shards[shard_of(key) - self.first]
    }

    /// Hands out every entry changed since the last call, neighbours too.
    pub fn take_changed(&mut self, mut out: impl FnMut(&Entry)) {
        self.shards.iter_mut().for_each(|shard| shard.take_changed(&mut out));
    }
}

/// Part `i` of `parts` holds these shards; sizes differ by at most one.
fn shards_of_part(i: usize, parts: usize) -> Range<usize> {
    i * SHARDS / parts..(i + 1) * SHARDS / parts
}

fn decode_shard(number: usize, shard: &mut Shard, from: &mut Decoder) -> Result<()> {
    let damaged = |what: String| Error::corrupt(format!("parameters, shard {number}: {what}"));
    let mut before = 0;
    for i in 0..from.count(size_of::<Entry>())? {
        let entry = Entry { key: from.u64()?, z: from.f32()?, n: from.f32()? };
        if entry.key <= before || shard_of(entry.key) != number {
            return Err(damaged(format!("key {:#x} of entry {i} is out of order", entry.key)));
        }
        if !(entry.z.is_finite() && entry.n.is_finite() && entry.n >= 0.0) {
            return Err(damaged(format!("entry {i} holds z = {}, n = {}", entry.z, entry.n)));
        }
        if shard.restore(entry) != Updated::Done {
            return Err(Error::conflict(format!(
                "parameters, shard {number}: more entries than train.entries_max allows now; raise it to what it was"
            )));
        }
        before = entry.key;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    fn add(table: &ParamTable, key: u64, z: f32) -> Updated {
        let part = (0..table.parts()).find(|i| table.write(*i).numbers().contains(&shard_of(key))).unwrap();
        table.write(part).shard_mut(key).update(key, ABSENT, |_, n| Some((z, n + 1.0)))
    }

    fn filled(keys: &[u64], parts: usize) -> ParamTable {
        let table = ParamTable::new(1_000_000, parts);
        keys.iter().for_each(|key| assert_eq!(add(&table, *key, *key as f32), Updated::Done));
        table
    }

    fn encoded(table: &ParamTable) -> Vec<u8> {
        let mut out = Encoder::new();
        table.encode(&mut out);
        out.finish()
    }

    #[test]
    fn hash_and_bytes_do_not_depend_on_the_order_of_insertion_nor_on_parts() {
        let mut rng = Rng::seeded(1);
        let mut keys: Vec<u64> = (0..5_000).map(|_| rng.next_u64()).collect();
        let one = filled(&keys, 1);
        keys.sort_unstable_by_key(|key| key.reverse_bits());
        let five = filled(&keys, 5);
        assert_eq!(one.state_hash(), five.state_hash());
        assert_eq!(encoded(&one), encoded(&five));
        add(&five, keys[0], 1.5);
        assert_ne!(one.state_hash(), five.state_hash());
        assert_ne!(one.state_hash(), filled(&keys[1..], 1).state_hash());
    }

    #[test]
    fn decoding_gives_the_same_state_and_refuses_what_was_never_written() {
        let mut rng = Rng::seeded(2);
        let table = filled(&(0..500).map(|_| rng.next_u64()).collect::<Vec<_>>(), 2);
        let bytes = encoded(&table);
        let decode = |bytes: &[u8], max| ParamTable::decode(max, 3, &mut Decoder::new(bytes, "checkpoint"));
        let back = decode(&bytes, 1_000_000).unwrap();
        assert_eq!(back.state_hash(), table.state_hash());
        assert_eq!(back.len(), 500);
        let message = |bytes: &[u8], max| decode(bytes, max).map(|_| ()).unwrap_err().message().to_string();
        assert!(message(&bytes[..bytes.len() - 1], 1_000_000).contains("checkpoint: ends at byte"));
        let mut bad = bytes.clone();
        bad[1 + 8 + 3] = 0x7f; // z of the first entry: exponent all ones
        bad[1 + 8 + 2] = 0xff;
        assert!(message(&bad, 1_000_000).contains("parameters, shard 0: entry 0 holds z = NaN"));
        bad = bytes.clone();
        bad[1 + 7] = 0xff; // top byte of the first key
        assert!(message(&bad, 1_000_000).contains("is out of order"));
        assert!(message(&bytes, 64).contains("train.entries_max"));
    }

    #[test]
    fn a_full_shard_admits_no_new_key_but_updates_the_old() {
        let table = ParamTable::new(128, 1);
        assert_eq!([1, 2, 3].map(|key| add(&table, key, 1.0)), [Updated::Done, Updated::Done, Updated::NotAdmitted]);
        assert_eq!(add(&table, 1, 5.0), Updated::Done);
        assert_eq!(add(&table, 1 << 58, 1.0), Updated::Done);
        assert_eq!(table.len(), 3);
    }

    /// 64 empty shards of 64 places: 64 * (64 * 16 + 8) bytes and the structures themselves.
    #[test]
    fn bytes_are_counted_exactly() {
        let table = ParamTable::new(1_000_000, 1);
        let structures = size_of::<ParamTable>() + size_of::<RwLock<Part>>() + 64 * size_of::<Shard>();
        assert_eq!(table.bytes(), 64 * (64 * 16 + 8) + structures);
    }
}
