//! What a checkpoint holds of the table, handed out in small steps while learning goes on.
//!
//! In: the moment ([`ParamTable::begin_walk`]), then a step now and then. Out: every entry that changed since the walk
//! before, or every entry there is, as it was at that moment. Nothing is copied at the moment itself but the list of
//! changed keys. An entry that changes before the walk has come to it is written down first, as it was; it is known by
//! its stamp, which says in which phase it last changed: a new phase begins with every walk. Tables that keep ages need
//! the stamp for them: there the whole walk is done at its first moment.
//!
//! A walk's bytes are frames: `kind u8 | shard u8 | count u32`, then `count` entries of equal size. Entries of a shard's
//! [`RUN`] come by key. Those of [`MIXED`] come in any order and are of any shard that has not had its [`SHARD_END`]. No
//! key comes twice.

use tidemill_base::codec::Encoder;

use super::{
    Listener, ParamTable, SHARD_BITS,
    codec::put_entry,
    packed::{CHANGED, Packed, TAKEN, stamp},
    part::{ABSENT, Part, Place},
    shard_of,
};

/// Entries of a shard, by key.
pub(super) const RUN: u8 = 0;
/// Entries in no order: they were about to change, or are those of a list.
pub(super) const MIXED: u8 = 1;
/// Nothing more comes of this shard.
pub(super) const SHARD_END: u8 = 2;
/// Bytes in front of a frame's entries.
pub(super) const FRAME_BYTES: usize = 6;
/// Entries of a frame at most: what a step of a list goes through.
const FRAME_ENTRIES: usize = 256;
/// To look at so many places costs about what handing an entry out does. More than a growing table has for a new entry, so
/// that a walk with a step for each of them comes to its end.
const PLACES_PER_ENTRY: usize = 8;
const WRITER: usize = Listener::Checkpoints as usize;

/// What a walk hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walked {
    /// Every entry.
    All,
    /// Those that changed since the walk before; keys that were removed since are told at its beginning.
    Changes,
}

/// How one part finds what it must hand out.
enum Way {
    /// Every entry that has not changed in this phase.
    All,
    /// The same of those that changed in the phase before.
    Changed,
    /// These keys, in the order in which they changed; the number of those done.
    Listed(Vec<u64>, usize),
}

/// A walk under way.
pub(super) struct Walk {
    way: Way,
    /// The shard the walk is in, by number within the part, and the first shifted key not yet seen.
    local: usize,
    next: Option<u64>,
    /// Frames not handed out yet.
    out: Encoder,
}

impl ParamTable {
    /// Begins a walk over the table as it is now: over what changed since the last one began, unless `whole` is asked for
    /// or more changed than is known. Appends what goes in front of its frames. The walk before must have ended.
    pub fn begin_walk(&self, whole: bool, head: &mut Encoder) -> Walked {
        let knows = (0..self.parts()).all(|i| self.read(i).knows_changes());
        let walked = if whole || !knows { Walked::All } else { Walked::Changes };
        self.encode_head(head);
        head.put_u8((walked == Walked::All) as u8);
        for i in 0..self.parts() {
            self.write(i).begin_walk(walked, head);
        }
        walked
    }

    /// Goes on with the walk: about so many entries, and what was written down because it was about to change. `true` once
    /// the walk is at its end, and of a table that is not walked.
    pub fn walk(&self, entries: usize, out: &mut Vec<u8>) -> bool {
        let mut left = entries;
        let mut is_done = true;
        for i in 0..self.parts() {
            if self.read(i).walk.is_none() {
                continue;
            }
            let mut part = self.write(i);
            left = part.walk_on(left);
            let walk = part.walk.as_mut().expect("just seen");
            out.extend_from_slice(walk.out.as_slice());
            walk.out.clear();
            match walk.is_at_end() {
                true => part.walk = None,
                false => is_done = false,
            }
        }
        is_done
    }
}

impl Walk {
    fn is_at_end(&self) -> bool {
        self.next.is_none()
    }

    /// Whether the walk has yet to come to this key; of a list that is not asked, because what it came to is not marked
    /// as changed any more.
    fn comes_to(&self, local: usize, shifted: u64) -> bool {
        !self.is_at_end()
            && (local > self.local || local == self.local && self.next.is_some_and(|next| shifted >= next))
    }
}

impl Part {
    fn knows_changes(&self) -> bool {
        self.changes[WRITER].is_asked() && self.shards.iter().all(|shard| !shard.lost[WRITER])
    }

    fn begin_walk(&mut self, walked: Walked, head: &mut Encoder) {
        assert!(self.walk.is_none(), "one walk at a time");
        for local in 0..self.shards.len() {
            let gone = self.tell_removed(WRITER, local, walked == Walked::All);
            head.put_varint(gone.len() as u64);
            gone.iter().for_each(|key| _ = head.put_u64(*key));
        }
        let way = match (walked, self.changes[WRITER].begin_anew()) {
            (Walked::All, _) => Way::All,
            (Walked::Changes, None) => Way::Changed,
            (Walked::Changes, Some(listed)) => Way::Listed(listed, 0),
        };
        self.walk = Some(Walk { way, local: 0, next: Some(0), out: Encoder::new() });
        match self.ticks {
            Some(_) => _ = self.walk_on(usize::MAX),
            None => {
                self.phase = self.phase.wrapping_add(1);
                self.set_fresh(TAKEN | CHANGED | stamp(self.phase));
            }
        }
    }

    /// Whether an entry changed since the walk began.
    fn is_of_phase(&self, packed: &Packed) -> bool {
        self.ticks.is_none() && packed.is_changed(WRITER) && packed.stamp() == stamp(self.phase)
    }

    /// Whether the walk still owes this entry as it is now.
    fn is_owed(&self, packed: &Packed, local: usize) -> bool {
        let Some(walk) = &self.walk else { return false };
        match walk.way {
            _ if self.is_of_phase(packed) => false,
            Way::All => walk.comes_to(local, packed.shifted()),
            Way::Changed | Way::Listed(..) => packed.is_changed(WRITER) && !walk.is_at_end(),
        }
    }

    /// Writes down an entry that is about to change or to leave, if the walk has yet to come to it.
    #[cold]
    pub(super) fn keep_as_it_was(&mut self, packed: Packed, local: usize) {
        if !self.is_owed(&packed, local) {
            return;
        }
        let Some(mut walk) = self.walk.take() else { return };
        begin_frame(&mut walk.out, MIXED, self.first + local, 1);
        self.put(&packed, local, &mut walk.out);
        self.walk = Some(walk);
    }

    /// Whether an entry was marked as changed before the walk began, and not since.
    pub(super) fn is_marked_earlier(&self, packed: &Packed) -> bool {
        self.walk.as_ref().is_some_and(|walk| !walk.is_at_end())
            && packed.is_changed(WRITER)
            && !self.is_of_phase(packed)
    }

    fn walk_on(&mut self, mut left: usize) -> usize {
        let Some(mut walk) = self.walk.take() else { return left };
        while left > 0 && !walk.is_at_end() {
            let seen = if let Way::Listed(keys, at) = &mut walk.way {
                let few = &keys[*at..(*at + FRAME_ENTRIES.min(left)).min(keys.len())];
                self.walk_listed(few, &mut walk.out);
                *at += few.len();
                if *at == keys.len() {
                    walk.next = None;
                }
                few.len()
            } else {
                self.walk_bucket(&mut walk)
            };
            left -= seen.clamp(1, left);
        }
        self.walk = Some(walk);
        left
    }

    /// Hands out what is owed of the bucket that comes next; returns what that cost, in entries.
    fn walk_bucket(&mut self, walk: &mut Walk) -> usize {
        let (local, all) = (walk.local, matches!(walk.way, Way::All));
        let Some(bucket) = self.next_bucket(local, &mut walk.next) else { return 0 };
        let is_owed = |part: &Self, packed: &Packed| !part.is_of_phase(packed) && (all || packed.is_changed(WRITER));
        let mut owed: Vec<(u64, Place)> = Vec::with_capacity(self.entries_of(&bucket));
        for place in self.runs(&bucket).flatten() {
            let packed = self.places[place];
            if !packed.is_free() && is_owed(self, &packed) {
                owed.push((packed.tag, place as Place));
                self.places[place].forget_change(WRITER);
            }
        }
        owed.sort_unstable();
        if !owed.is_empty() {
            begin_frame(&mut walk.out, RUN, self.first + local, owed.len());
        }
        for (i, (_, place)) in owed.iter().enumerate() {
            owed.get(i + super::codec::ROWS_AHEAD).into_iter().for_each(|(_, place)| self.prefetch_row(*place));
            let packed = self.places[*place as usize];
            self.put(&packed, local, &mut walk.out);
        }
        if walk.next.is_none() {
            begin_frame(&mut walk.out, SHARD_END, self.first + local, 0);
            if local + 1 < self.shards.len() {
                (walk.local, walk.next) = (local + 1, Some(0));
            }
        }
        owed.len() + bucket.places() / PLACES_PER_ENTRY
    }

    fn walk_listed(&mut self, keys: &[u64], out: &mut Encoder) {
        let mut places = Vec::with_capacity(keys.len());
        self.locate_all(keys, &mut places);
        let mut owed: Vec<(usize, Packed)> = Vec::with_capacity(keys.len());
        for (key, place) in keys.iter().zip(places).filter(|(_, place)| *place != ABSENT) {
            let packed = self.places[place as usize];
            // One that changed since was written down then; a key that was removed and came again may be listed twice.
            if packed.is_changed(WRITER) && !self.is_of_phase(&packed) {
                self.places[place as usize].forget_change(WRITER);
                self.prefetch_row(place);
                owed.push((shard_of(*key) - self.first, packed));
            }
        }
        if !owed.is_empty() {
            begin_frame(out, MIXED, self.first, owed.len());
        }
        owed.iter().for_each(|(local, packed)| self.put(packed, *local, out));
    }

    fn put(&self, packed: &Packed, local: usize, out: &mut Encoder) {
        put_entry(self.entry(packed, local), self.rows.is_some(), self.ticks.is_some(), out);
    }
}

fn begin_frame(out: &mut Encoder, kind: u8, shard: usize, count: usize) {
    out.put_u8(kind).put_u8(shard as u8).put_u32(count as u32);
}

const _: () = assert!(SHARD_BITS <= 8, "a frame names its shard in a byte");
