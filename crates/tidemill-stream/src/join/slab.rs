//! Slots in blocks: what a checkpoint takes of them is a pointer to each block, and a block is copied when it is first written
//! to after that.
//!
//! In: values by slot, numbered without gaps. Out: the same, and [`Slab::freeze`], all values as of a moment, which stay as they
//! were and may be read on any thread. Freezing touches no value, so a million slots take microseconds; what is written to
//! meanwhile is copied a block at a time, and blocks that nobody reads any more are taken back without a copy. Growing adds a
//! block and moves nothing.

use std::{
    ops::{Index, IndexMut},
    sync::Arc,
};

use crate::held::Held;

const BLOCK_BITS: usize = 10;
/// Slots of a block. More would make one feedback row copy more; fewer would make the list of blocks longer than what the
/// processor has at hand, for millions of slots.
const BLOCK: usize = 1 << BLOCK_BITS;

/// Values by slot.
pub(super) struct Slab<T> {
    blocks: Vec<Held<Box<[T]>>>,
    len: usize,
}

/// Values by slot as of a moment.
pub(super) struct Frozen<T> {
    blocks: Vec<Arc<Box<[T]>>>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0 }
    }
}

impl<T> Default for Frozen<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0 }
    }
}

impl<T: Copy + Default> Slab<T> {
    /// Slots there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The value of a slot, if there is such a slot.
    pub fn get(&self, slot: usize) -> Option<&T> {
        (slot < self.len).then(|| &self[slot])
    }

    /// Writes the value of a slot, which may be the one behind the last.
    #[inline]
    pub fn put(&mut self, slot: usize, value: T) {
        if slot == self.len {
            if slot == self.blocks.len() * BLOCK {
                self.grow();
            }
            self.len += 1;
        }
        self[slot] = value;
    }

    #[cold]
    fn grow(&mut self) {
        self.blocks.push(Held::Own(vec![T::default(); BLOCK].into()));
    }

    /// All values as they are now.
    pub fn freeze(&mut self) -> Frozen<T> {
        Frozen { blocks: self.blocks.iter_mut().map(Held::share).collect(), len: self.len }
    }

    /// Memory of the blocks, about: those that a checkpoint has as they were are not counted.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * BLOCK * size_of::<T>()
    }
}

impl<T> Index<usize> for Slab<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, slot: usize) -> &T {
        &self.blocks[slot >> BLOCK_BITS].get()[slot & (BLOCK - 1)]
    }
}

impl<T: Copy> IndexMut<usize> for Slab<T> {
    #[inline(always)]
    fn index_mut(&mut self, slot: usize) -> &mut T {
        &mut self.blocks[slot >> BLOCK_BITS].own()[slot & (BLOCK - 1)]
    }
}

impl<T> Frozen<T> {
    /// The values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flat_map(|values| values.iter()).take(self.len)
    }

    /// The value of a slot, if there was such a slot.
    pub fn get(&self, slot: usize) -> Option<&T> {
        (slot < self.len).then(|| &self[slot])
    }
}

impl<T> Index<usize> for Frozen<T> {
    type Output = T;

    fn index(&self, slot: usize) -> &T {
        &self.blocks[slot >> BLOCK_BITS][slot & (BLOCK - 1)]
    }
}

#[cfg(test)]
mod tests {
    use tidemill_base::Rng;

    use super::*;

    /// Whatever is written, frozen and let go of in whatever order: every frozen slab shows what was there at its moment, and
    /// the slab itself what was written last.
    #[test]
    fn what_is_frozen_stays_and_what_is_not_goes_on() {
        for seed in 0..20 {
            let mut rng = Rng::seeded(seed);
            let (mut slab, mut plain, mut moments) = (Slab::default(), Vec::new(), Vec::new());
            for step in 0..8000u64 {
                let draw = rng.next_u64();
                let slot = if !draw.is_multiple_of(3) { plain.len() } else { (draw >> 8) as usize % (plain.len() + 1) };
                slab.put(slot, step);
                plain.resize(plain.len().max(slot + 1), step);
                plain[slot] = step;
                match draw >> 32 & 1023 {
                    0..4 => moments.push((slab.freeze(), plain.clone())),
                    4..6 if !moments.is_empty() => drop(moments.swap_remove((draw >> 48) as usize % moments.len())),
                    _ => {}
                }
            }
            assert_eq!((0..slab.len()).map(|slot| slab[slot]).collect::<Vec<_>>(), plain, "seed {seed}");
            assert!(moments.len() > 1 && plain.len() > 4 * BLOCK);
            for (frozen, expected) in &moments {
                assert_eq!(frozen.iter().copied().collect::<Vec<_>>(), *expected, "seed {seed}");
                assert_eq!(frozen.get(expected.len()), None);
            }
        }
    }

    /// A write behind a freeze copies one block; behind one that is gone it copies none.
    #[test]
    fn a_block_is_copied_once_and_only_while_somebody_reads_it() {
        let mut slab = Slab::default();
        (0..3 * BLOCK).for_each(|slot| slab.put(slot, slot));
        let places = |slab: &Slab<usize>| [0, 1, 2].map(|block| &raw const slab[block * BLOCK]);
        let before = places(&slab);
        let frozen = slab.freeze();
        slab[BLOCK] = 7;
        slab[BLOCK + 1] = 8;
        let after = places(&slab);
        assert_eq!((after[0], after[2]), (before[0], before[2]));
        assert_ne!(after[1], before[1]);
        assert_eq!((frozen[BLOCK], frozen[BLOCK + 1], slab[BLOCK + 1]), (BLOCK, BLOCK + 1, 8));
        drop(frozen);
        slab[0] = 9;
        slab[2 * BLOCK] = 9;
        assert_eq!(places(&slab), after);
    }
}
