//! The table that serving reads: a weight for each key, no optimizer state.
//!
//! In: a snapshot, then deltas in sequence. Out: logits, bit for bit those of the trainer. Open addressing like the
//! trainer's table; a removed key keeps its place with weight 0 until the table next grows.

use crate::{delta::Delta, logit::logit, prefetch::prefetch, snapshot::Snapshot};

#[derive(Clone, Copy, Default)]
struct Slot {
    /// 0 marks a free place.
    key: u64,
    weight: f32,
}

const CAPACITY_MIN: usize = 64;

/// Weights by feature key.
#[derive(Clone)]
pub struct WeightTable {
    slots: Vec<Slot>,
    shift: u32,
    /// Places taken, those of removed keys too.
    taken: usize,
    /// Keys with a weight other than zero.
    live: usize,
}

impl Default for WeightTable {
    fn default() -> Self {
        Self::with_room_for(0)
    }
}

impl WeightTable {
    /// The weights of a snapshot.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut table = Self::with_room_for(snapshot.entries.len());
        snapshot.entries.iter().for_each(|(key, weight)| table.set(*key, *weight));
        table
    }

    /// Brings the weights to the moment `delta.to`. They must be at `delta.from`, or between the two.
    pub fn apply(&mut self, delta: &Delta) {
        delta.entries.iter().for_each(|(key, weight)| self.set(*key, *weight));
    }

    /// What the model says about a sample; keys ascending. Keys it has never seen contribute nothing.
    pub fn logit(&self, keys: &[u64], values: &[f32]) -> f32 {
        keys.iter().for_each(|key| prefetch(&self.slots, self.home(*key)));
        logit(keys, values, |_, key| self.weight(key))
    }

    /// The weight of a key, 0 when it has none.
    #[inline(always)]
    pub fn weight(&self, key: u64) -> f32 {
        // A free place holds weight 0, so it need not be told from the key's own.
        self.slots[self.probe(key)].weight
    }

    /// Keys with a weight other than zero.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes the table takes, free places included.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.slots.capacity() * size_of::<Slot>()
    }

    fn with_room_for(entries: usize) -> Self {
        let capacity = (entries * 10 / 7 + 1).next_power_of_two().max(CAPACITY_MIN);
        Self { slots: vec![Slot::default(); capacity], shift: 64 - capacity.trailing_zeros(), taken: 0, live: 0 }
    }

    fn set(&mut self, key: u64, weight: f32) {
        let mut place = self.probe(key);
        if self.slots[place].key != key {
            if weight == 0.0 {
                return;
            }
            if self.taken + 1 > self.slots.len() / 10 * 7 {
                self.grow();
                place = self.probe(key);
            }
            self.taken += 1;
        }
        let was_live = self.slots[place].weight != 0.0;
        self.live = self.live + (weight != 0.0) as usize - was_live as usize;
        self.slots[place] = Slot { key, weight };
    }

    #[cold]
    fn grow(&mut self) {
        let mut grown = Self::with_room_for(self.live * 2);
        self.slots.iter().filter(|slot| slot.weight != 0.0).for_each(|slot| grown.set(slot.key, slot.weight));
        *self = grown;
    }

    #[inline(always)]
    fn home(&self, key: u64) -> usize {
        (key >> self.shift) as usize
    }

    /// The key's place, or the free one where it belongs. Ends, because places are left free.
    #[inline(always)]
    fn probe(&self, key: u64) -> usize {
        let mut place = self.home(key);
        loop {
            let found = self.slots[place].key;
            if found == key || found == 0 {
                return place;
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tidemill_base::Rng;

    #[test]
    fn weights_follow_a_map_through_deltas_that_set_and_remove() {
        let mut rng = Rng::seeded(9);
        let mut map: BTreeMap<u64, f32> = (0..300).map(|_| (rng.next_u64() | 1, 1.0)).collect();
        let entries = map.iter().map(|(k, w)| (*k, *w)).collect();
        let mut table = WeightTable::from_snapshot(&Snapshot { entries, ..Snapshot::default() });
        for to in 1..60 {
            let mut entries: Vec<(u64, f32)> = map.keys().step_by(3).map(|key| (*key, 0.0)).collect();
            entries.extend((0..400).map(|_| (rng.next_u64() | 1, rng.normal() as f32)));
            entries.push((42, 0.0));
            let delta = Delta { from: to - 1, to, entries };
            table.apply(&delta);
            table.apply(&delta); // twice does no harm
            map.extend(delta.entries);
            map.retain(|_, weight| *weight != 0.0);
            assert_eq!(table.len(), map.len());
        }
        for (key, weight) in &map {
            assert_eq!(table.weight(*key), *weight);
        }
        assert_eq!(table.weight(43), 0.0);
        assert!(table.bytes() < map.len() * 16 * 6, "{} bytes for {} keys", table.bytes(), map.len());
    }

    #[test]
    fn keys_never_seen_contribute_nothing() {
        let entries = vec![(1 << 60, 0.5), (2 << 60, -0.25)];
        let table = WeightTable::from_snapshot(&Snapshot { entries, ..Snapshot::default() });
        assert_eq!(table.logit(&[1 << 60, 2 << 60], &[1.0, 2.0]), 0.0);
        assert_eq!(table.logit(&[5, 1 << 60, 3 << 60], &[1.0, 1.0, 9.0]), 0.5);
        assert_eq!(WeightTable::default().logit(&[5], &[1.0]), 0.0);
    }
}
