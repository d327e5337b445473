//! A key and two words in 16 bytes, four to a cache line.
//!
//! A place is found through the key's shard, so the shard's six bits need not be kept: what is known of the entry stands
//! there instead, and noting a change or the time writes no line that the change itself did not write.

use bytemuck::{Pod, Zeroable};

use super::{SHARD_BITS, bucket::LINE_PLACES};

/// One place of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Packed {
    /// The key without its shard, then the flags; 0 marks a free place.
    pub(super) tag: u64,
    /// The state itself, or the number of the row and the slot.
    pub(super) words: [u32; 2],
}

/// Told from a free place by this.
pub(super) const TAKEN: u64 = 1;
/// Listener `i` was not yet handed this change: bit `i` of these.
pub(super) const CHANGED: u64 = 0b110;
/// That of them who publishes deltas.
pub(super) const NEWS: u64 = 0b010;
/// All that is known of an entry beside its key and words.
pub(super) const FLAGS: u64 = (1 << SHARD_BITS) - 1;
/// What must be equal when the keys are.
pub(super) const OF_KEY: u64 = !FLAGS | TAKEN;
const STAMP_SHIFT: u32 = 3;
/// Ages are told up to this one; it stands for older ones too.
pub(super) const AGE_MAX: u8 = 6;

/// The tick an entry was last changed at, as flags; in tables without ages, the phase ([`super::walk`]).
pub(super) fn stamp(tick: u8) -> u64 {
    u64::from(tick & 7) << STAMP_SHIFT
}

impl Packed {
    /// Whether this is the entry of a key of this shard.
    #[inline(always)]
    pub(super) fn holds(&self, key: u64) -> bool {
        self.tag & OF_KEY == key << SHARD_BITS | TAKEN
    }

    /// Which of the places of a line this key's entry is in, as bits.
    #[inline(always)]
    pub(super) fn holding(line: &[Self; LINE_PLACES], key: u64) -> u32 {
        (0..LINE_PLACES).fold(0, |bits, i| bits | u32::from(line[i].holds(key)) << i)
    }

    /// Which of the places of a line are free, as bits.
    #[inline(always)]
    pub(super) fn free(line: &[Self; LINE_PLACES]) -> u32 {
        (0..LINE_PLACES).fold(0, |bits, i| bits | u32::from(line[i].is_free()) << i)
    }

    #[inline(always)]
    pub(super) fn is_free(&self) -> bool {
        self.tag == 0
    }

    /// The key without its shard, moved up: entries of a shard are in the order of these.
    pub(super) fn shifted(&self) -> u64 {
        self.tag & !FLAGS
    }

    pub(super) fn key(&self, shard: usize) -> u64 {
        (shard as u64) << (u64::BITS - SHARD_BITS) | self.tag >> SHARD_BITS
    }

    pub(super) fn is_changed(&self, listener: usize) -> bool {
        self.tag >> (1 + listener) & 1 == 1
    }

    pub(super) fn forget_change(&mut self, listener: usize) {
        self.tag &= !(1 << (1 + listener));
    }

    /// When it last changed, as flags.
    pub(super) fn stamp(&self) -> u64 {
        self.tag & stamp(7)
    }

    /// Ticks since the last change.
    pub(super) fn age(&self, tick: u8) -> u8 {
        (tick.wrapping_sub((self.tag >> STAMP_SHIFT) as u8) & 7).min(AGE_MAX)
    }

    pub(super) fn set_age(&mut self, tick: u8, age: u8) {
        self.tag = self.tag & !stamp(7) | stamp(tick.wrapping_sub(age));
    }

    #[inline(always)]
    pub(super) fn pair(&self) -> [f32; 2] {
        self.words.map(f32::from_bits)
    }
}
