//! Which entries leave: the least worth in a full bucket, and those not seen for long.
//!
//! Both are functions of what the shard holds and of nothing else, so the same entries leave whatever the threads and the
//! parts. Time is counted in ticks, given by the trainer; an entry remembers the tick of its last change, as far as six
//! ticks back. A sweep goes through every bucket once a tick, a few buckets a call.

use std::sync::Arc;

use super::{
    SHARD_BITS,
    bucket::Bucket,
    packed::{AGE_MAX, CHANGED, FLAGS, Packed, TAKEN, stamp},
    part::Part,
};

/// What an entry is worth keeping, from its slot (0 in tables of pairs, which do not keep it) and its state: the least
/// leaves first.
pub type Worth = Arc<dyn Fn(u16, &[f32]) -> f32 + Send + Sync>;

/// A full bucket loses this part of its entries at once, so that the next keys find room.
const LEAVING: usize = 8;

impl Part {
    /// Makes room in the bucket of a key: its entries of least worth leave, of equal ones those not changed for long. Returns
    /// how many.
    pub(super) fn evict_from(&mut self, shard: usize, shifted: u64) -> usize {
        let Some(worth) = self.worth.clone() else { return 0 };
        let bucket = *self.directory.bucket_of(shard, shifted);
        let entries = self.gather(&bucket);
        if entries.is_empty() {
            return 0;
        }
        let goes = self.least_worth(&worth, &entries, |_| true);
        self.remove(shard, shifted, bucket, entries, &goes)
    }

    /// Which entries are those of least worth among the ones that `may` leave.
    pub(super) fn least_worth(&self, worth: &Worth, entries: &[Packed], may: impl Fn(&Packed) -> bool) -> Vec<bool> {
        let rank = |packed: &Packed| {
            let worth = worth(self.slot(packed), self.state(packed));
            (ordered(worth), AGE_MAX - self.age(packed), packed.shifted())
        };
        let mut ranks: Vec<_> = entries.iter().filter(|packed| may(packed)).map(rank).collect();
        let leaving = (ranks.len() / LEAVING).max(1);
        match ranks.is_empty() {
            true => vec![false; entries.len()],
            false => {
                let last = *ranks.select_nth_unstable(leaving - 1).1;
                entries.iter().map(|packed| may(packed) && rank(packed) <= last).collect()
            }
        }
    }

    /// Goes on with this tick's sweep, at most `buckets` buckets in every shard: entries that were not changed for
    /// `ticks` ticks (1 to 6; more: none) leave. Returns how many did. Call it equally often whatever the parts.
    pub fn evict_older_than(&mut self, ticks: u8, buckets: usize) -> usize {
        if self.ticks.is_none() {
            return 0;
        }
        (0..self.shards.len()).map(|shard| (0..buckets).map(|_| self.sweep_one(shard, ticks)).sum::<usize>()).sum()
    }

    /// Ends the tick: what is left of its sweep is done, then everything is a tick older.
    pub fn tick(&mut self, ticks: u8) -> usize {
        self.tick_by(|part, shard| part.sweep_one(shard, ticks))
    }

    /// [`Part::evict_older_than`], where `goes` says of an entry's slot and state whether it leaves.
    pub fn evict_where(&mut self, buckets: usize, goes: impl Fn(u16, &[f32]) -> bool) -> usize {
        let shards = 0..self.shards.len();
        shards.map(|shard| (0..buckets).map(|_| self.sweep_one_by(shard, &goes)).sum::<usize>()).sum()
    }

    /// [`Part::tick`], likewise.
    pub fn tick_where(&mut self, goes: impl Fn(u16, &[f32]) -> bool) -> usize {
        self.tick_by(|part, shard| part.sweep_one_by(shard, &goes))
    }

    fn tick_by(&mut self, mut sweep_one: impl FnMut(&mut Self, usize) -> usize) -> usize {
        let Some(now) = self.ticks else { return 0 };
        let mut gone = 0;
        for shard in 0..self.shards.len() {
            while self.shards[shard].sweep_at.is_some() {
                gone += sweep_one(self, shard);
            }
            self.shards[shard].sweep_at = Some(0);
        }
        self.set_ticks(now + 1);
        gone
    }

    /// Ticks so far, in tables with ages.
    #[inline(always)]
    pub fn ticks(&self) -> u64 {
        self.ticks.unwrap_or(0)
    }

    pub(super) fn set_ticks(&mut self, ticks: u64) {
        self.ticks = self.ticks.map(|_| ticks);
        self.set_fresh(TAKEN | CHANGED | stamp(self.tick_now()));
    }

    fn sweep_one(&mut self, shard: usize, ticks: u8) -> usize {
        let Some((shifted, bucket, oldest)) = self.next_swept(shard) else { return 0 };
        if oldest < ticks {
            return 0;
        }
        let (entries, now) = (self.gather(&bucket), self.tick_now());
        let goes: Vec<bool> = entries.iter().map(|packed| packed.age(now) >= ticks).collect();
        self.remove(shard, shifted, bucket, entries, &goes)
    }

    fn sweep_one_by(&mut self, shard: usize, goes: &impl Fn(u16, &[f32]) -> bool) -> usize {
        let Some((shifted, bucket, _)) = self.next_swept(shard) else { return 0 };
        let entries = self.gather(&bucket);
        let goes: Vec<bool> = entries.iter().map(|packed| goes(self.slot(packed), self.state(packed))).collect();
        match goes.contains(&true) {
            true => self.remove(shard, shifted, bucket, entries, &goes),
            false => 0,
        }
    }

    /// The bucket at which a shard's sweep is, with its first shifted key and the age of its oldest entry; the sweep goes on
    /// behind it.
    fn next_swept(&mut self, shard: usize) -> Option<(u64, Bucket, u8)> {
        let shifted = self.shards[shard].sweep_at?;
        let bucket = *self.directory.bucket_of(shard, shifted);
        let last = bucket.span(shifted).1;
        self.shards[shard].sweep_at = last.checked_add(1);
        let now = self.tick_now();
        let mut oldest = 0;
        for run in self.runs(&bucket) {
            for packed in self.places[run].iter_mut().filter(|packed| !packed.is_free()) {
                let age = packed.age(now);
                oldest = oldest.max(age);
                // Seven ticks ago and none would look the same after the next: the oldest are kept at six.
                if age == AGE_MAX {
                    packed.set_age(now, AGE_MAX);
                }
            }
        }
        Some((shifted, bucket, oldest))
    }

    /// Takes those entries of a bucket away for which `goes` says so; `entries` are all it has.
    pub(super) fn remove(
        &mut self,
        shard: usize,
        shifted: u64,
        bucket: Bucket,
        entries: Vec<Packed>,
        goes: &[bool],
    ) -> usize {
        let (mut kept, before) = (Vec::with_capacity(entries.len()), entries.len());
        for (packed, goes) in entries.into_iter().zip(goes) {
            if !*goes {
                kept.push(packed);
                continue;
            }
            self.note_removal(shard, packed);
            self.uncount(shard, &packed);
            if let Some(rows) = &mut self.rows {
                rows.give_back(packed.words[0]);
            }
        }
        let gone = before - kept.len();
        self.removals += 1;
        self.shards[shard].entries -= gone;
        self.shrink(shard, shifted, bucket, kept);
        gone
    }

    /// Removes these keys of one shard, which are in order; those without an entry do no harm.
    pub(super) fn remove_keys(&mut self, shard: usize, mut keys: &[u64]) {
        while let Some(key) = keys.first() {
            let shifted = key << SHARD_BITS;
            let bucket = *self.directory.bucket_of(shard, shifted);
            let last = bucket.span(shifted).1;
            let (here, after) = keys.split_at(keys.partition_point(|key| key << SHARD_BITS <= last));
            keys = after;
            let entries = self.gather(&bucket);
            let goes = |packed: &Packed| here.binary_search(&packed.key(self.first + shard)).is_ok();
            let goes: Vec<bool> = entries.iter().map(goes).collect();
            self.remove(shard, shifted, bucket, entries, &goes);
        }
    }

    /// An entry's slot; 0 in tables of pairs, which do not keep it.
    pub(super) fn slot(&self, packed: &Packed) -> u16 {
        if self.rows.is_some() { packed.words[1] as u16 } else { 0 }
    }

    pub(super) fn state<'a>(&'a self, packed: &'a Packed) -> &'a [f32] {
        match &self.rows {
            None => bytemuck::cast_slice(&packed.words),
            Some(rows) => rows.get(packed.words[0]),
        }
    }
}

/// A number whose order is that of `x`, with every NaN and sign in a fixed place.
fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

const _: () = assert!(FLAGS >> 3 == 7, "a stamp has three bits");
