//! Where a key's entry is.
//!
//! In: keys of a part. Out: places, at the speed of memory: a key's directory entry names a line, the line is asked for
//! some keys ahead, and all its four places are compared at once, because which of them it is cannot be guessed.

mod line;

use super::{
    SHARD_BITS,
    bucket::{LINE_PLACES, PAGE_BITS},
    packed::Packed,
    pairs::Words,
    part::{ABSENT, Part, Place},
    shard_of,
};

impl Part {
    /// Asks the processor for the line where the search for one of this part's keys begins, and tells where that is.
    #[inline(always)]
    pub fn prefetch(&self, key: u64) -> Place {
        let place = self.directory.bucket(key).line_of(key) * LINE_PLACES;
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
    pub fn locate_all(&self, keys: &[u64], places: &mut Vec<Place>) {
        places.resize(keys.len(), 0);
        self.look(keys, false, places, None);
    }

    /// Writes in which line the search for each key begins, and asks the processor for what stands there.
    #[inline(always)]
    pub(super) fn ask(&self, keys: &[u64], places: &mut [Place]) {
        line::ask(self, keys, places);
    }

    /// Finds the places of keys, and their words if these are wanted. `asked`: `places` are what [`Part::ask`] wrote, and
    /// no bucket was rebuilt since.
    pub(super) fn look(&self, keys: &[u64], asked: bool, places: &mut [Place], mut words: Option<&mut Words>) {
        let mut unsure = Vec::new();
        line::look(self, line::Search { keys, asked, places, words: words.as_deref_mut(), unsure: &mut unsure });
        for i in unsure.into_iter().map(|i| i as usize) {
            places[i] = self.locate(keys[i]);
            if let Some(Words { a, b }) = &mut words {
                [a[i], b[i]] = self.places.at(places[i] as usize).pair();
            }
        }
    }

    /// Whether a place is in a page of the key's shard: a place itself does not know its shard.
    #[inline(always)]
    fn owned(&self, key: u64, place: Place) -> bool {
        let owner = self.owners.get(place as usize >> PAGE_BITS);
        owner.is_some_and(|owner| usize::from(*owner) == shard_of(key).wrapping_sub(self.first))
    }

    /// Whether a key's entry is where a hint says.
    #[inline(always)]
    pub fn stands_at(&self, key: u64, hint: Place) -> bool {
        self.owned(key, hint) && self.places.at(hint as usize).holds(key)
    }

    /// The key's place and `true`, or the free place where it belongs and `false`. Ends, because places are left free.
    #[inline(always)]
    pub(super) fn search(&self, key: u64) -> (usize, bool) {
        let bucket = self.directory.bucket(key);
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
