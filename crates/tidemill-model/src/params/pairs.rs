//! Many entries of two words at once.
//!
//! In: keys of a part. Out: their words as two arrays, so that what is computed from them is computed by vectors, and back
//! into the table. Where entries stand is remembered between looking them up and changing them, and looked up anew when
//! the part has moved entries since.

use super::{
    packed::{FLAGS, TAKEN},
    part::{ABSENT, Part, Place},
};

/// The first words of some entries, and the second ones: apart, because vectors are made of them.
#[derive(Default)]
pub struct Words {
    /// The first word of each.
    pub a: Vec<f32>,
    /// The second word of each.
    pub b: Vec<f32>,
}

impl Words {
    /// Makes room for so many; what was there stays.
    #[inline(always)]
    pub fn resize(&mut self, len: usize) {
        self.a.resize(len, 0.0);
        self.b.resize(len, 0.0);
    }
}

/// Where the entries of some keys were when they were looked up, and their words.
#[derive(Default)]
pub struct Located {
    places: Vec<Place>,
    words: Words,
    /// The part's count then: places are right as long as it stays.
    rebuilt: u64,
    /// In which line the search for each of the keys that come next begins, of those asked for so far.
    next: Vec<Place>,
    next_rebuilt: u64,
}

impl Located {
    /// The place of each key, [`ABSENT`] for those without an entry.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The words of each; zeros for those without an entry.
    pub fn words(&self) -> &Words {
        &self.words
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
        located.words.resize(keys.len());
        self.look(keys, asked, &mut located.places, Some(&mut located.words));
        located.rebuilt = self.rebuilt;
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

    /// Reads the words at some places into the front of `words`: zeros where there is no entry.
    #[inline(always)]
    pub fn read_pairs(&self, places: &[Place], words: &mut Words) {
        let (all, len) = (&*self.places, places.len());
        let (a, b) = (&mut words.a[..len], &mut words.b[..len]);
        for i in 0..len {
            [a[i], b[i]] = all[places[i] as usize].pair();
        }
    }

    /// Writes the words of the entries that are there, from the front of `words`.
    #[inline(always)]
    pub fn write_pairs(&mut self, keys: &[u64], places: &[Place], words: &Words) {
        // While a checkpoint is written, entries that it has yet to come to are written down as they were.
        if self.walk.is_some() {
            self.note_changes(keys, places);
        }
        let (all, len, fresh) = (&mut *self.places, places.len(), self.fresh);
        let (a, b, keys) = (&words.a[..len], &words.b[..len], &keys[..len]);
        let mut flags = 0;
        for i in 0..len {
            // Without a branch: what is written for a key without an entry goes where nobody reads.
            let packed = &mut all[places[i].max(NOBODYS) as usize];
            debug_assert!(places[i] == ABSENT || packed.holds(keys[i]), "entries were moved, and not looked up again");
            packed.words = [a[i].to_bits(), b[i].to_bits()];
            flags |= packed.tag ^ fresh;
        }
        if flags & FLAGS & !TAKEN != 0 {
            self.note_changes(keys, places);
        }
    }

    /// Notes which of the entries were not yet known as changed.
    #[inline(never)]
    fn note_changes(&mut self, keys: &[u64], places: &[Place]) {
        for (key, place) in keys.iter().zip(places) {
            if *place != ABSENT && self.places.at(*place as usize).tag & FLAGS != self.fresh {
                self.note_change(*place as usize, *key);
            }
        }
    }
}

/// A place of page 0, which is nobody's: for words that nobody reads. Its flags are those of an entry just changed, so
/// that writing there is nothing to note.
pub(super) const NOBODYS: Place = 1;
