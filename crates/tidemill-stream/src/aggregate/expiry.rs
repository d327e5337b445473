//! Which keys have been silent for too long: each stands once, in the bucket of the time at which that was last looked at.
//!
//! An event only moves its key's newest time; the key is put back when its bucket falls due. So a key costs one step for
//! each time to live that it is active, and nothing is ever searched. Within a bucket keys stand in the order in which they
//! were put there; their turns say it, so that a checkpoint can tell it of each key alone.

use std::collections::BTreeMap;

use super::table::Turn;

/// Slots by the tick at which they are looked at.
pub(super) struct Expiry {
    tick_ms: i64,
    ttl_ms: i64,
    buckets: BTreeMap<i64, Vec<u32>>,
    next: u64,
}

impl Expiry {
    pub fn new(ttl_ms: i64) -> Self {
        Self { tick_ms: (ttl_ms / 128).max(1), ttl_ms, buckets: BTreeMap::new(), next: 0 }
    }

    /// The first tick whose whole bucket is due for a key last seen at `newest`.
    pub fn tick(&self, newest: i64) -> i64 {
        newest.saturating_add(self.ttl_ms).div_euclid(self.tick_ms) + 1
    }

    /// Puts a key in, or back; its turn.
    pub fn push(&mut self, newest: i64, slot: u32) -> Turn {
        let turn = (self.tick(newest), self.next);
        self.next += 1;
        self.buckets.entry(turn.0).or_default().push(slot);
        turn
    }

    /// Puts keys in by the turns they had, which are in order.
    pub fn restore(&mut self, turns: Vec<(Turn, u32)>) {
        self.next = turns.iter().map(|((_, number), _)| number.saturating_add(1)).max().unwrap_or(0);
        turns.into_iter().for_each(|((tick, _), slot)| self.buckets.entry(tick).or_default().push(slot));
    }

    /// The next bucket that is due at the watermark.
    pub fn pop_due(&mut self, watermark: i64) -> Option<(i64, Vec<u32>)> {
        let last = watermark.div_euclid(self.tick_ms);
        let first = self.buckets.first_entry().filter(|b| *b.key() <= last)?;
        Some(first.remove_entry())
    }

    /// The first bucket.
    pub fn pop_first(&mut self) -> Option<(i64, Vec<u32>)> {
        self.buckets.pop_first()
    }

    /// Puts the rest of a bucket back where it was taken from.
    pub fn put_back(&mut self, tick: i64, mut rest: Vec<u32>) {
        if rest.is_empty() {
            return;
        }
        let bucket = self.buckets.entry(tick).or_default();
        rest.append(bucket);
        *bucket = rest;
    }

    /// All, in the order in which they are looked at.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &[u32])> {
        self.buckets.iter().map(|(tick, slots)| (*tick, slots.as_slice()))
    }
}
