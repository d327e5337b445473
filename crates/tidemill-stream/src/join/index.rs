//! Slots by key: a table of open addressing, chains through a slab, newest first, and the hashes they are found by.
//!
//! In: hashes of keys, and slots of a slab whose entries know their key. Out: the newest slot of a key, and from it the others.
//! A place is eight bytes, a tag beside the slot, so probing, removing and growing stay within the table; the slab is asked
//! for the whole key only where its tag agrees. Tags are of the hash under a secret ([`Scatter`]): who sends keys can choose
//! them by their hashes, and not by where they stand.

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Int32Type, Int64Type, TimestampMillisecondType},
};
use tidemill_base::{Error, Result, Scatter, hash64, rng::mix64};

use super::slab::Slab;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;
/// The hash of a key that is NULL, and equals nothing.
pub(super) const NULL_KEY: u64 = u64::MAX;

/// What stands in a slab and is found by its key.
pub(super) trait Chained: Copy + Default {
    fn key(&self) -> u64;
    /// The slot of the same key that came before.
    fn next(&self) -> u32;
    fn set_next(&mut self, next: u32);
}

/// A key and where it stands in a table, or would: until the table changes.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub key: u64,
    /// The newest slot of the key, or [`NONE`].
    pub newest: u32,
    tag: u32,
    at: u32,
}

#[derive(Clone, Copy)]
struct Place {
    /// Says where the place would be best.
    tag: u32,
    slot: u32,
}

const EMPTY: Place = Place { tag: 0, slot: NONE };
const PLACES_MIN: usize = 16;
/// Keys that are touched at once: what is kept of so many, here and in the slabs, has room nearest to the processor.
pub(super) const TOUCHED: usize = 128;
/// Places that stand behind each other without a gap are mostly no more than these.
const RUN: usize = 3;

/// The newest slot of each key, by linear probing. Removing shifts back what stands behind, so no tombstone is ever left.
pub(super) struct Index {
    /// A power of two, at most half of them taken: the fuller it is, the longer a removal looks for the end of its run.
    places: Vec<Place>,
    len: usize,
    scatter: Scatter,
}

impl Default for Index {
    fn default() -> Self {
        Self::under(Scatter::of_process())
    }
}

impl Index {
    fn under(scatter: Scatter) -> Self {
        Self { places: vec![EMPTY; PLACES_MIN], len: 0, scatter }
    }

    /// Reads the places where these keys would stand, all before any is needed: the processor waits for many places of
    /// memory at once, where one look-up behind the other would wait for each. Better for [`TOUCHED`] keys than for many more.
    pub fn touch(&self, keys: impl Iterator<Item = u64>) {
        let mask = self.mask();
        let slot = |place: usize| self.places[place & mask].slot;
        // A run that goes on in the next line of memory is read there, too.
        let read =
            keys.map(|key| self.tag(key) as usize).fold(0, |read, at| read ^ slot(at) ^ slot(at.wrapping_add(RUN)));
        std::hint::black_box(read);
    }

    /// Where a key stands.
    #[inline]
    pub fn look_up(&self, key: u64, slab: &Slab<impl Chained>) -> Spot {
        let (mask, tag) = (self.mask(), self.tag(key));
        let mut at = tag as usize & mask;
        loop {
            let place = self.places[at];
            let is_it = place.tag == tag && place.slot != NONE && slab[place.slot as usize].key() == key;
            if place.slot == NONE || is_it {
                return Spot { key, newest: place.slot, tag, at: at as u32 };
            }
            at = (at + 1) & mask;
        }
    }

    /// The newest slot of a key, or [`NONE`].
    #[inline]
    pub fn find(&self, key: u64, slab: &Slab<impl Chained>) -> u32 {
        self.look_up(key, slab).newest
    }

    /// The slot is the newest of its key from here on; answers the one that was.
    #[inline]
    pub fn insert(&mut self, spot: Spot, slot: u32) -> u32 {
        self.places[spot.at as usize] = Place { tag: spot.tag, slot };
        if spot.newest == NONE {
            self.len += 1;
            if self.len * 2 > self.places.len() {
                self.grow();
            }
        }
        spot.newest
    }

    /// Slots of one key, newest first.
    pub fn chain<'a, T: Chained>(&self, key: u64, slab: &'a Slab<T>) -> impl Iterator<Item = u32> + use<'a, T> {
        chain_from(self.find(key, slab), slab)
    }

    /// Takes a slot out of its key's chain.
    pub fn unlink(&mut self, slot: u32, slab: &mut Slab<impl Chained>) {
        let (key, next) = (slab[slot as usize].key(), slab[slot as usize].next());
        let mask = self.mask();
        let mut at = self.tag(key) as usize & mask;
        while self.places[at].slot != slot {
            if self.places[at].slot == NONE {
                return self.unlink_behind(slot, slab);
            }
            at = (at + 1) & mask;
        }
        if next == NONE { self.remove(at) } else { self.places[at].slot = next }
    }

    /// Takes out a slot that is not the newest of its key.
    fn unlink_behind(&self, slot: u32, slab: &mut Slab<impl Chained>) {
        let (key, next) = (slab[slot as usize].key(), slab[slot as usize].next());
        let mut at = self.find(key, slab);
        loop {
            let after = slab[at as usize].next();
            if after == slot {
                return slab[at as usize].set_next(next);
            }
            at = after;
        }
    }

    /// Memory of the table.
    pub fn bytes(&self) -> usize {
        self.places.len() * size_of::<Place>()
    }

    fn mask(&self) -> usize {
        self.places.len() - 1
    }

    /// As many bits as a table of 2^32 places needs.
    #[inline(always)]
    fn tag(&self, key: u64) -> u32 {
        self.scatter.of(key) as u32
    }

    fn remove(&mut self, mut hole: usize) {
        let mask = self.mask();
        let mut at = (hole + 1) & mask;
        loop {
            let place = self.places[at];
            if place.slot == NONE {
                break;
            }
            // It may go back to the hole when that is not in front of where it would stand best.
            let from_best = at.wrapping_sub(place.tag as usize) & mask;
            if from_best >= at.wrapping_sub(hole) & mask {
                self.places[hole] = place;
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.places[hole] = EMPTY;
        self.len -= 1;
    }

    /// Twice the places. Those of a run go to two runs, so both tables are walked nearly in order: a million keys take a
    /// few milliseconds, and the slab is not touched.
    fn grow(&mut self) {
        let mut places = vec![EMPTY; self.places.len() * 2];
        let mask = places.len() - 1;
        for place in self.places.iter().filter(|place| place.slot != NONE) {
            let mut at = place.tag as usize & mask;
            while places[at].slot != NONE {
                at = (at + 1) & mask;
            }
            places[at] = *place;
        }
        self.places = places;
    }
}

/// A slot and those of its key that came before.
pub(super) fn chain_from<T: Chained>(newest: u32, slab: &Slab<T>) -> impl Iterator<Item = u32> + use<'_, T> {
    let some = |slot: u32| (slot != NONE).then_some(slot);
    std::iter::successors(some(newest), move |&slot| some(slab[slot as usize].next()))
}

/// One hash per row. Whole numbers go through a bijection, so two of them never meet; texts that meet are told apart
/// by comparing them.
pub(super) fn hash_keys(column: &dyn Array) -> Result<Vec<u64>> {
    let of = |x: i64| match mix64(x as u64) {
        NULL_KEY => 0,
        h => h,
    };
    let mut keys: Vec<u64> = match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().values().iter().map(|&x| of(x)).collect(),
        DataType::Int32 => column.as_primitive::<Int32Type>().values().iter().map(|&x| of(x as i64)).collect(),
        DataType::Timestamp(..) => {
            column.as_primitive::<TimestampMillisecondType>().values().iter().map(|&x| of(x)).collect()
        }
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            (0..texts.len()).map(|i| hash64(texts.value(i).as_bytes(), 0) & (NULL_KEY >> 1)).collect()
        }
        t => return Err(Error::internal(format!("join key of type {t} was bound"))),
    };
    if column.null_count() > 0 {
        for (i, key) in keys.iter_mut().enumerate() {
            if column.is_null(i) {
                *key = NULL_KEY;
            }
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemill_base::Rng;

    use super::*;

    #[derive(Clone, Copy, Default)]
    struct Entry(u64, u32);

    impl Chained for Entry {
        fn key(&self) -> u64 {
            self.0
        }
        fn next(&self) -> u32 {
            self.1
        }
        fn set_next(&mut self, next: u32) {
            self.1 = next;
        }
    }

    /// Keys that crowd the same places, that agree in their tags, and that have many slots are told apart while slots come
    /// and go.
    #[test]
    fn every_key_has_its_slots_newest_first() {
        for seed in 0..50 {
            let mut rng = Rng::seeded(seed);
            let (mut index, mut slab) = (Index::under(Scatter::NONE), Slab::default());
            let mut chains: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
            let mut there: Vec<u32> = Vec::new();
            for step in 0..3000 {
                let draw = rng.next_u64();
                // The table grows in the first half and empties in the second.
                if draw % 10 < if step < 1500 { 8 } else { 2 } {
                    let key =
                        [draw >> 40 & 7, (draw >> 40 & 3) << 32 | 5, draw >> 40 & 1023, draw][draw as usize >> 8 & 3];
                    let slot = slab.len() as u32;
                    slab.put(slot as usize, Entry(key, NONE));
                    slab[slot as usize].1 = index.insert(index.look_up(key, &slab), slot);
                    chains.entry(key).or_default().insert(0, slot);
                    there.push(slot);
                } else if !there.is_empty() {
                    let slot = there.swap_remove(draw as usize % there.len());
                    index.unlink(slot, &mut slab);
                    chains.get_mut(&slab[slot as usize].0).unwrap().retain(|s| *s != slot);
                }
            }
            assert_eq!(index.len, chains.values().filter(|slots| !slots.is_empty()).count());
            for (key, slots) in chains {
                assert_eq!(index.chain(key, &slab).collect::<Vec<_>>(), slots, "seed {seed}, key {key}");
            }
            assert_eq!(index.find(1 << 63 | 5, &slab), NONE);
        }
    }

    /// F53, B49: keys chosen by their hashes, to agree in the half that says where they stand, do so no more than others.
    #[test]
    fn keys_that_are_chosen_to_crowd_do_not() {
        let longest = |scatter: Scatter| {
            let (mut index, mut slab) = (Index::under(scatter), Slab::default());
            for slot in 0..2_000 {
                let key = u64::from(slot) << 32 | 5;
                slab.put(slot as usize, Entry(key, NONE));
                index.insert(index.look_up(key, &slab), slot);
            }
            index.places.split(|place| place.slot == NONE).map(<[Place]>::len).max()
        };
        assert_eq!(longest(Scatter::NONE), Some(2_000));
        assert!(longest(Scatter::KNOWN) < Some(50), "{:?}", longest(Scatter::KNOWN));
    }
}
