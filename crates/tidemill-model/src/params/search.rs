//! Where a key's entry is.
//!
//! In: keys of a part. Out: places, at the speed of memory: a key's directory entry names a line, the line is asked for
//! some keys ahead, and all its four places are compared at once, because which of them it is cannot be guessed.

use super::{
    SHARD_BITS,
    bucket::{Bucket, LINE_PLACES, PAGE_BITS},
    packed::Packed,
    part::{ABSENT, Part, Place},
    shard_of,
};

/// Keys between asking for a line and looking at it.
const AHEAD: usize = 32;
/// Keys not in their first line that are looked for at once.
const UNSURE_MAX: usize = 32;

impl Part {
    /// Asks the processor for the line where the search for one of this part's keys begins, and tells where that is.
    #[inline(always)]
    pub fn prefetch(&self, key: u64) -> Place {
        let bucket = self.bucket_of(key);
        let place = bucket.place(bucket.home(key << SHARD_BITS));
        self.places.prefetch(place);
        place as Place
    }

    /// The place of a key's entry, or [`ABSENT`].
    #[inline(always)]
    pub fn locate(&self, key: u64) -> Place {
        match self.search(key) {
            (place, true) => place as Place,
            (_, false) => ABSENT,
        }
    }

    /// Finds the places of many keys, as [`Part::locate`] would: one in `places` for each of `keys`. Lines are asked for
    /// well before they are looked at, and those of the few keys that are not in their first line again.
    #[inline]
    pub fn locate_all(&self, keys: &[u64], places: &mut Vec<Place>) {
        places.clear();
        places.reserve(keys.len());
        let (mut unsure, mut unsure_count) = ([0u32; UNSURE_MAX], 0);
        let resolve = |unsure: &[u32], places: &mut [Place]| {
            unsure.iter().for_each(|i| places[*i as usize] = self.locate(keys[*i as usize]));
        };
        places.extend(keys[..keys.len().min(AHEAD)].iter().map(|key| self.prefetch(*key)));
        for (i, key) in keys.iter().enumerate() {
            if let Some(key) = keys.get(i + AHEAD) {
                places.push(self.prefetch(*key));
            }
            let home = places[i];
            let line = self.places.chunk(home as usize);
            let holding = Packed::holding(line, *key);
            if holding != 0 {
                places[i] = home + holding.trailing_zeros();
                continue;
            }
            // In another line, or absent. At a page's end the next line is another one: then this helps nothing.
            self.places.prefetch(home as usize + LINE_PLACES);
            unsure[unsure_count] = i as u32;
            unsure_count += 1;
            if unsure_count == UNSURE_MAX {
                resolve(&unsure, places);
                unsure_count = 0;
            }
        }
        resolve(&unsure[..unsure_count], places);
    }

    /// Whether a place is in a page of the key's shard: a place itself does not know its shard.
    #[inline(always)]
    fn owned(&self, key: u64, place: Place) -> bool {
        let owner = self.owners.get(place as usize >> PAGE_BITS);
        owner.is_some_and(|owner| usize::from(*owner) == shard_of(key).wrapping_sub(self.first))
    }

    /// Whether a key's entry is where a hint says.
    #[inline(always)]
    pub(super) fn stands_at(&self, key: u64, hint: Place) -> bool {
        self.owned(key, hint) && self.places.at(hint as usize).holds(key)
    }

    #[inline(always)]
    fn bucket_of(&self, key: u64) -> &Bucket {
        self.directories[shard_of(key).wrapping_sub(self.first)].bucket(key << SHARD_BITS)
    }

    /// The key's place and `true`, or the free place where it belongs and `false`. Ends, because places are left free.
    #[inline(always)]
    pub(super) fn search(&self, key: u64) -> (usize, bool) {
        let bucket = self.bucket_of(key);
        let mut i = bucket.home(key << SHARD_BITS);
        loop {
            let place = bucket.place(i);
            let line = self.places.chunk(place);
            let holding = Packed::holding(line, key);
            if holding != 0 {
                return (place + holding.trailing_zeros() as usize, true);
            }
            let free = Packed::free(line);
            if free != 0 {
                return (place + free.trailing_zeros() as usize, false);
            }
            i += LINE_PLACES;
            if i == bucket.places() {
                i = 0;
            }
        }
    }
}
