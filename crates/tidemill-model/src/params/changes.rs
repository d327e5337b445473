//! What changed since somebody last asked: whoever publishes deltas, and whoever writes checkpoints.
//!
//! An entry's first change after an answer puts its key on a list and is noted in its place, so that the next ones cost
//! nothing and the list has every key once. The lists are bounded: when one is full, the answer is found by going through
//! all places instead; when too many keys were removed to list, the answer is all entries and says so. Nothing is listed
//! for one who has never asked: the first answer is everything. Of a table that was put together of a whole walk and those
//! behind it, whoever publishes deltas counts as told of the first.

use tidemill_base::Result;

use super::{
    SHARD_BITS,
    bucket::Bucket,
    codec::ROWS_AHEAD,
    limits::REMOVED_PER_PAGE,
    memory::Memory,
    packed::{FLAGS, Packed},
    part::{Part, Place, Shard},
    shard_of,
};

/// Who asks what changed; each is answered as if there were no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Publishes deltas.
    Deltas,
    /// Writes checkpoints.
    Checkpoints,
}

/// How an answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// What was handed out changed or was removed; all else is as before.
    Changes,
    /// Too much was removed, or nobody had asked before: what was handed out is all there is, at least of some shards, and
    /// other keys that the listener knows may be gone.
    Anew,
}

/// An entry as it is told to others: the same for the same entry, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EntryRef<'a> {
    /// The feature key.
    pub key: u64,
    /// The slot of the feature; 0 in tables of pairs, which do not keep it.
    pub slot: u16,
    /// Ticks since the last change, at most 6; 0 in tables that do not keep it.
    pub age: u8,
    /// The words of its state.
    pub state: &'a [f32],
}

/// One listener's list of changed keys.
pub(super) struct Changes {
    keys: Memory<u64>,
    listed: usize,
    /// Keys that may be listed: none before it first asked.
    room: usize,
    /// More changed than are listed.
    missed: bool,
}

impl Changes {
    pub(super) fn reserve(room: usize) -> Result<Self> {
        Ok(Self { keys: Memory::reserve(room, 0)?, listed: 0, room: 0, missed: true })
    }

    #[inline(always)]
    pub(super) fn list(&mut self, key: u64) {
        if self.listed < self.room {
            self.keys.use_to(self.listed + 1);
            self.keys[self.listed] = key;
            self.listed += 1;
        } else {
            self.missed = true;
        }
    }

    /// Whether anybody has asked yet.
    pub(super) fn is_asked(&self) -> bool {
        self.room > 0
    }

    /// The keys listed, in the order in which they changed, or `None` if there were more; forgets them.
    pub(super) fn begin_anew(&mut self) -> Option<Vec<u64>> {
        let listed = (!self.missed).then(|| self.keys[..self.listed].to_vec());
        self.end();
        listed
    }

    fn end(&mut self) {
        (self.listed, self.missed, self.room) = (0, false, self.keys.len());
    }

    /// Its listener counts as told of everything.
    pub(super) fn listen(&mut self) {
        self.end();
    }

    /// Keys that changed; `None`: more than are listed, or nobody has asked.
    pub(super) fn len(&self) -> Option<usize> {
        (!self.missed).then_some(self.listed)
    }

    #[cfg(test)]
    pub(super) fn limit_room(&mut self, room: usize) {
        self.room = room;
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.resident_in_order()
    }
}

impl Shard {
    fn told_least(&self, asked: [bool; 2]) -> usize {
        (0..2).filter(|i| asked[*i] && !self.lost[*i]).map(|i| self.told[i]).min().unwrap_or(self.removed.len())
    }

    /// Drops removed keys that everybody was told of who asks at all.
    fn forget_told(&mut self, asked: [bool; 2]) {
        let least = self.told_least(asked);
        self.removed.drain(..least);
        self.told = self.told.map(|told| told.saturating_sub(least));
    }
}

impl Part {
    /// Notes that the entry at a place is about to change.
    #[inline]
    pub(super) fn note_change(&mut self, place: usize, key: u64) {
        let packed = self.places[place];
        let is_marked_earlier = self.is_marked_earlier(&packed);
        if self.walk.is_some() {
            self.keep_as_it_was(packed, shard_of(key) - self.first);
        }
        for (i, changes) in self.changes.iter_mut().enumerate() {
            if !packed.is_changed(i) || i == Listener::Checkpoints as usize && is_marked_earlier {
                changes.list(key);
            }
        }
        self.places[place].tag = packed.tag & !FLAGS | self.fresh;
    }

    /// Notes that a new entry, marked as changed, has come.
    pub(super) fn note_new(&mut self, key: u64) {
        self.changes.iter_mut().for_each(|changes| changes.list(key));
    }

    pub(super) fn note_removal(&mut self, shard: usize, packed: Packed) {
        self.keep_as_it_was(packed, shard);
        let key = packed.key(self.first + shard);
        let room = self.limits.pages_max * REMOVED_PER_PAGE;
        let asked = self.changes.each_ref().map(|changes| changes.room > 0);
        let shard = &mut self.shards[shard];
        if shard.removed.len() == room {
            // Whoever was told least begins anew, so that the list is of use to the other.
            let least = shard.told_least(asked);
            (0..2).for_each(|i| shard.lost[i] |= shard.told[i] == least);
            shard.forget_told(asked);
        }
        if (0..2).any(|i| asked[i] && !shard.lost[i]) {
            if shard.removed.len() == shard.removed.capacity() {
                shard.removed.reserve_exact((room / 8).min(room - shard.removed.len()));
            }
            shard.removed.push(key);
        }
    }

    pub(super) fn changed(&self, listener: Listener) -> Option<usize> {
        let i = listener as usize;
        let removed = |shard: &Shard| (!shard.lost[i]).then(|| shard.removed.len() - shard.told[i]);
        let removed: usize = self.shards.iter().map(removed).sum::<Option<usize>>()?;
        Some(self.changes[i].len()? + removed)
    }

    /// Hands out every entry that changed since this listener's last call, by key, then the keys removed since, and forgets
    /// both.
    pub fn take_changed(
        &mut self,
        listener: Listener,
        mut out: impl FnMut(EntryRef),
        mut removed: impl FnMut(u64),
    ) -> Taken {
        let changes = &mut self.changes[listener as usize];
        changes.keys[..changes.listed].sort_unstable();
        let mut taken = Taken::Changes;
        for shard in self.numbers() {
            if self.take_shard(listener, shard, &mut out, &mut removed) == Taken::Anew {
                taken = Taken::Anew;
            }
        }
        self.changes[listener as usize].end();
        taken
    }

    fn take_shard(
        &mut self,
        listener: Listener,
        shard: usize,
        out: &mut impl FnMut(EntryRef),
        removed: &mut impl FnMut(u64),
    ) -> Taken {
        let (i, local) = (listener as usize, shard - self.first);
        let anew = self.changes[i].room == 0 || self.shards[local].lost[i];
        if anew || self.changes[i].missed {
            self.take_all(i, local, anew, out);
        } else {
            self.take_listed(i, shard, out);
        }
        let gone = self.tell_removed(i, local, anew);
        gone.into_iter().filter(|key| !self.search(*key).1).for_each(removed);
        if anew { Taken::Anew } else { Taken::Changes }
    }

    /// Keys of a shard that were removed since this listener was last told, each once and in order; some of them may have
    /// come again. None where it is told everything anew.
    pub(super) fn tell_removed(&mut self, listener: usize, local: usize, anew: bool) -> Vec<u64> {
        let asked = self.changes.each_ref().map(Changes::is_asked);
        let told = &mut self.shards[local];
        let mut gone = if anew { Vec::new() } else { told.removed[told.told[listener]..].to_vec() };
        (told.told[listener], told.lost[listener]) = (told.removed.len(), false);
        told.forget_told(asked);
        gone.sort_unstable();
        gone.dedup();
        gone
    }

    fn take_all(&mut self, listener: usize, local: usize, anew: bool, out: &mut impl FnMut(EntryRef)) {
        let mut next = Some(0);
        while let Some(bucket) = self.next_bucket(local, &mut next) {
            for place in self.in_order(&bucket) {
                let changed = self.places[place as usize].is_changed(listener);
                self.places[place as usize].forget_change(listener);
                if anew || changed {
                    self.tell(local, place, out);
                }
            }
        }
    }

    fn take_listed(&mut self, listener: usize, shard: usize, out: &mut impl FnMut(EntryRef)) {
        let changes = &self.changes[listener];
        let listed = &changes.keys[..changes.listed];
        let begin = listed.partition_point(|key| shard_of(*key) < shard);
        let end = listed.partition_point(|key| shard_of(*key) <= shard);
        for i in begin..end {
            // A key that was removed and came again may be listed twice: the note in its place goes with the first.
            if let (place, true) = self.search(self.changes[listener].keys[i])
                && self.places[place].is_changed(listener)
            {
                self.places[place].forget_change(listener);
                self.tell(shard - self.first, place as Place, out);
            }
        }
    }

    /// Hands out the entries of one of this part's shards, by key.
    pub fn sorted(&self, shard: usize, mut out: impl FnMut(EntryRef)) {
        let (local, mut next) = (shard - self.first, Some(0));
        while let Some(bucket) = self.next_bucket(local, &mut next) {
            let places = self.in_order(&bucket);
            for (i, place) in places.iter().enumerate() {
                // Rows lie in no order.
                places.get(i + ROWS_AHEAD).into_iter().for_each(|place| self.prefetch_row(*place));
                self.tell(local, *place, &mut out);
            }
        }
    }

    /// The bucket of the shifted key `next`, which then is the one after its last; `None` after the last.
    pub(super) fn next_bucket(&self, local: usize, next: &mut Option<u64>) -> Option<Bucket> {
        let shifted = (*next)?;
        let bucket = *self.directory.bucket_of(local, shifted);
        *next = bucket.span(shifted).1.checked_add(1);
        Some(bucket)
    }

    fn in_order(&self, bucket: &Bucket) -> Vec<Place> {
        let taken = self.runs(bucket).flatten().filter(|place| !self.places[*place].is_free());
        let mut places: Vec<(u64, Place)> = taken.map(|place| (self.places[place].tag, place as Place)).collect();
        places.sort_unstable();
        places.into_iter().map(|(_, place)| place).collect()
    }

    fn tell(&self, local: usize, place: Place, out: &mut impl FnMut(EntryRef)) {
        out(self.entry(&self.places[place as usize], local));
    }

    /// An entry of one of this part's shards as others see it.
    pub(super) fn entry<'a>(&'a self, packed: &'a Packed, local: usize) -> EntryRef<'a> {
        EntryRef {
            key: packed.key(self.first + local),
            slot: self.slot(packed),
            age: self.age(packed),
            state: self.state(packed),
        }
    }

    /// Ticks since an entry last changed; 0 where ages are not kept.
    pub(super) fn age(&self, packed: &Packed) -> u8 {
        self.ticks.map_or(0, |ticks| packed.age(ticks as u8))
    }
}

const _: () = assert!(SHARD_BITS == 6, "the flags of an entry stand where the key's shard was");
