//! How many entries single slots may have, beside what the table may hold.
//!
//! In: a bound for a slot, in equal shares for each shard as the table's own. At it a new key of the slot is refused, or the
//! slot's entries of least worth among the key's neighbours leave; entries of other slots never do for it. What is counted
//! is a function of the entries, so it is counted anew when a table is read back, and stands in no file.

use super::{SHARD_BITS, SHARDS, eviction::Worth, packed::Packed, part::Part, shard_of};

/// The bound of one slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotCap {
    /// Entries.
    pub entries_max: usize,
    /// Whether its entries of least worth leave for a new one, or the new one is refused.
    pub evicts: bool,
}

/// Bounds of slots.
#[derive(Clone)]
pub struct SlotCaps {
    /// By slot number; slots without one, and those behind the last, have no bound of their own.
    pub of_slots: Vec<Option<SlotCap>>,
    /// What decides which entries leave.
    pub worth: Worth,
}

impl Part {
    pub(super) fn set_caps(&mut self, caps: SlotCaps) {
        let slots = caps.of_slots.len();
        self.caps = Some(caps);
        for local in 0..self.shards.len() {
            let mut counts = vec![0; slots];
            let mut next = Some(0);
            while let Some(bucket) = self.next_bucket(local, &mut next) {
                for packed in self.runs(&bucket).flat_map(|run| &self.places[run]).filter(|packed| !packed.is_free()) {
                    counts.get_mut(usize::from(self.slot(packed))).into_iter().for_each(|count| *count += 1);
                }
            }
            self.shards[local].of_slots = counts;
        }
    }

    /// Whether a new key of this slot may come, as far as its slot's bound goes; entries of the slot may have left for it.
    #[cold]
    pub(super) fn has_slot_room(&mut self, key: u64, slot: u16) -> bool {
        let (shard, slot) = (shard_of(key) - self.first, usize::from(slot));
        let Some(caps) = &self.caps else { return true };
        let Some(cap) = caps.of_slots.get(slot).copied().flatten() else { return true };
        let share = (cap.entries_max / SHARDS).max(1);
        if (self.shards[shard].of_slots[slot] as usize) < share {
            return true;
        }
        cap.evicts && self.evict_of_slot(shard, key << SHARD_BITS, slot)
    }

    /// Entries of a slot in a key's bucket leave, those of least worth; `false` when there are none.
    fn evict_of_slot(&mut self, shard: usize, shifted: u64, slot: usize) -> bool {
        let Some(worth) = self.caps.as_ref().map(|caps| caps.worth.clone()) else { return false };
        let bucket = *self.directory.bucket_of(shard, shifted);
        let entries = self.gather(&bucket);
        let goes = self.least_worth(&worth, &entries, |packed| usize::from(self.slot(packed)) == slot);
        goes.contains(&true) && self.remove(shard, shifted, bucket, entries, &goes) > 0
    }

    pub(super) fn count_of_slot(&mut self, key: u64, slot: u16) {
        let counts = &mut self.shards[shard_of(key) - self.first].of_slots;
        counts.get_mut(usize::from(slot)).into_iter().for_each(|count| *count += 1);
    }

    pub(super) fn uncount(&mut self, shard: usize, packed: &Packed) {
        let slot = usize::from(self.slot(packed));
        self.shards[shard].of_slots.get_mut(slot).into_iter().for_each(|count| *count -= 1);
    }
}
