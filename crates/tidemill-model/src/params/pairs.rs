//! Many entries of two words at once.
//!
//! In: keys of a part. Out: their words as two arrays, so that what is computed from them is computed by vectors, and back
//! into the table. Where entries stand is remembered between looking them up and changing them, and looked up anew when
//! the part has moved entries since.

use super::{
    packed::{FLAGS, Packed},
    part::{ABSENT, Part, Place},
};

/// Where the entries of some keys were when they were looked up, and their words.
#[derive(Default)]
pub struct Located {
    places: Vec<Place>,
    a: Vec<f32>,
    b: Vec<f32>,
    /// The part's count then: places are right as long as it stays.
    rebuilt: u64,
    /// Where the search for each of the keys that come next begins, of those asked for so far.
    next: Vec<Place>,
    next_rebuilt: u64,
}

impl Located {
    /// The place of each key, [`ABSENT`] for those without an entry.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The first word of each; 0 for those without an entry.
    pub fn a(&self) -> &[f32] {
        &self.a
    }

    /// The second word of each; 0 for those without an entry.
    pub fn b(&self) -> &[f32] {
        &self.b
    }
}

impl Part {
    /// Asks the processor for more of the entries that [`Part::locate_pairs`] will look up next: `keys` are those behind
    /// the ones asked for before. Asked for here and there, between other work, none has to be waited for.
    #[inline(always)]
    pub fn ask_pairs(&self, keys: &[u64], located: &mut Located) {
        if located.next.is_empty() {
            located.next_rebuilt = self.rebuilt;
        }
        let first = located.next.len();
        located.next.resize(first + keys.len(), 0);
        self.ask(keys, &mut located.next[first..]);
    }

    /// Looks up many keys: those that were asked for, if any were.
    pub fn locate_pairs(&self, keys: &[u64], located: &mut Located) {
        let asked = located.next.len() == keys.len() && located.next_rebuilt == self.rebuilt;
        if asked {
            std::mem::swap(&mut located.places, &mut located.next);
        }
        located.next.clear();
        located.places.resize(keys.len(), 0);
        self.look(keys, asked, &mut located.places);
        located.rebuilt = self.rebuilt;
        located.a.resize(keys.len(), 0.0);
        located.b.resize(keys.len(), 0.0);
        self.read_pairs(&located.places, &mut located.a, &mut located.b);
    }

    /// Looks up the keys from number `first` on again if entries were moved since; their words stay as they were read.
    #[inline(always)]
    pub fn refresh(&self, keys: &[u64], first: usize, located: &mut Located) {
        if located.rebuilt != self.rebuilt {
            self.locate_again(keys, first, located);
        }
    }

    #[cold]
    fn locate_again(&self, keys: &[u64], first: usize, located: &mut Located) {
        let mut places = Vec::new();
        self.locate_all(&keys[first..], &mut places);
        located.places[first..].copy_from_slice(&places);
        located.rebuilt = self.rebuilt;
    }

    /// Reads the words at some places into the front of `a` and `b`: zeros where there is no entry. Tells whether all
    /// have one.
    #[inline(always)]
    pub fn read_pairs(&self, places: &[Place], a: &mut [f32], b: &mut [f32]) -> bool {
        let all: &[Packed] = &self.places;
        let mut absent = false;
        for ((place, a), b) in places.iter().zip(a).zip(b) {
            absent |= *place == ABSENT;
            // Page 0 is nobody's: its places stay empty.
            (*a, *b) = all[if *place == ABSENT { 0 } else { *place as usize }].pair();
        }
        !absent
    }

    /// Writes the words of the entries that are there.
    #[inline(always)]
    pub fn write_pairs(&mut self, keys: &[u64], places: &[Place], a: &[f32], b: &[f32]) {
        let fresh = self.fresh;
        for (((key, place), a), b) in keys.iter().zip(places).zip(a).zip(b) {
            if *place == ABSENT {
                continue;
            }
            let packed = self.places.at_mut(*place as usize);
            debug_assert!(packed.holds(*key), "places are looked up again when entries were moved");
            packed.words = [a.to_bits(), b.to_bits()];
            if packed.tag & FLAGS != fresh {
                self.note_change(*place as usize, *key);
            }
        }
    }
}
