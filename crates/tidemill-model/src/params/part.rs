//! One part of the table: neighbouring shards with one writer.
//!
//! In: keys, with what an update makes of their words. Out: places and words. An entry of two words (a linear model with
//! FTRL) is all in its place of 16 bytes; longer ones have their words in a row. What a change costs beside the change:
//! nothing once the entry is known as changed, because that is noted in the place itself. Nothing that is told about the
//! entries depends on where they stand.

use std::ops::Range;

use tidemill_base::Result;

use super::{
    TableSpec,
    admission::Sketch,
    bucket::{Directory, PAGE_PLACES},
    caps::SlotCaps,
    changes::Changes,
    eviction::Worth,
    limits::{CHANGED_PER_PAGE, Limits},
    memory::{Memory, SMALL_BYTES},
    packed::{CHANGED, FLAGS, Packed, TAKEN},
    pairs::NOBODYS,
    rows::Rows,
    shard_of,
    walk::Walk,
};

/// Where [`Part::locate`] saw an entry: a hint for updates, right or not.
pub type Place = u32;

/// The key has no entry: page 0 is nobody's, and what is read here is zeros.
pub const ABSENT: Place = 0;

/// No number of a row.
pub const NO_ROW: u32 = u32::MAX;

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The entry holds it.
    Done,
    /// The key is new and there is no room for it: it was not admitted.
    NotAdmitted,
    /// The state would not have been finite; the entry is as before.
    NotFinite,
}

/// What is known of a shard beside its directory.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) entries: usize,
    pub(super) pages: usize,
    pub(super) sketch: Option<Sketch>,
    /// Where the sweep of this tick goes on: the first shifted key not yet seen. `None` once it has seen all.
    pub(super) sweep_at: Option<u64>,
    /// Keys removed that some listener was not yet told of.
    pub(super) removed: Vec<u64>,
    /// How many of them each listener was told of.
    pub(super) told: [usize; 2],
    /// More were removed than the list has room for: the listener must begin anew with this shard.
    pub(super) lost: [bool; 2],
    /// Entries of each slot; empty where no slot has a bound of its own.
    pub(super) of_slots: Vec<u32>,
}

/// Neighbouring shards with one writer.
pub struct Part {
    pub(super) first: usize,
    pub(super) limits: Limits,
    pub(super) directory: Directory,
    pub(super) places: Memory<Packed>,
    /// The flags of an entry that was just changed.
    pub(super) fresh: u64,
    pub(super) rows: Option<Rows>,
    pub(super) changes: [Changes; 2],
    pub(super) shards: Vec<Shard>,
    /// The shard of each page, by number within the part.
    pub(super) owners: Vec<u8>,
    /// Entries of each bucket, by its first page.
    pub(super) taken: Vec<u16>,
    /// Small pages of memory taken of each page that is not offered for 2 MiB.
    pub(super) touched: Vec<u8>,
    pub(super) free_pages: Vec<u32>,
    /// Ticks so far; `None`: ages are not kept.
    pub(super) ticks: Option<u64>,
    /// What a checkpoint is still to be told, while it is written.
    pub(super) walk: Option<Walk>,
    /// Walks begun; the stamp of entries in tables without ages.
    pub(super) phase: u8,
    pub(super) worth: Option<Worth>,
    /// How many entries slots may have.
    pub(super) caps: Option<SlotCaps>,
    /// Entries that were moved to make room, ever.
    pub(super) moved: u64,
    /// Buckets that were rebuilt, ever: until the next one, entries stay where they are.
    pub(super) rebuilt: u64,
    /// Times that entries were taken away, ever: until the next one, rows stay their entries'.
    pub(super) removals: u64,
}

impl Part {
    pub(super) fn new(spec: &TableSpec, limits: Limits, shards: Range<usize>) -> Result<Self> {
        let count = shards.len();
        let pages = limits.pages_max * count;
        let new_shard = |_| -> Result<Shard> {
            let sketch = (spec.sketch_bytes > 0).then(|| Sketch::reserve(spec.sketch_bytes / super::SHARDS));
            Ok(Shard { sketch: sketch.transpose()?, sweep_at: Some(0), ..Shard::default() })
        };
        let new_changes = || Changes::reserve(pages * CHANGED_PER_PAGE);
        let mut part = Self {
            first: shards.start,
            limits,
            directory: Directory::new(count),
            places: Memory::reserve((pages + 1) * PAGE_PLACES, PAGE_PLACES)?,
            fresh: TAKEN | CHANGED,
            rows: (spec.words > 2).then(|| Rows::reserve(spec.words, limits.entries_max * count)).transpose()?,
            changes: [new_changes()?, new_changes()?],
            shards: (0..count).map(new_shard).collect::<Result<_>>()?,
            owners: vec![u8::MAX],
            taken: vec![0],
            touched: vec![1],
            free_pages: Vec::new(),
            ticks: spec.ages.then_some(0),
            walk: None,
            phase: 0,
            worth: None,
            caps: None,
            moved: 0,
            rebuilt: 0,
            removals: 0,
        };
        part.set_fresh(TAKEN | CHANGED);
        Ok(part)
    }

    /// Says what the flags of an entry are that is changed from now on.
    pub(super) fn set_fresh(&mut self, flags: u64) {
        self.fresh = flags;
        self.places.at_mut(NOBODYS as usize).tag = flags & !TAKEN;
    }

    /// The shards this part holds.
    pub fn numbers(&self) -> Range<usize> {
        self.first..self.first + self.shards.len()
    }

    /// The two words of an entry at a place that [`Part::locate`] gave since the last update; of a table of pairs.
    #[inline(always)]
    pub fn pair(&self, place: Place) -> (f32, f32) {
        self.places.at(place as usize).pair().into()
    }

    /// Changes a key's two words from (a, b) to `step(a, b)`, beginning at (0, 0) for a new key. `hint` saves the search
    /// when the entry still stands there.
    #[inline(always)]
    pub fn update_pair(&mut self, key: u64, hint: Place, step: impl FnOnce(f32, f32) -> Option<(f32, f32)>) -> Updated {
        if !self.stands_at(key, hint) {
            return self.search_and_update_pair(key, step);
        }
        let (fresh, packed) = (self.fresh, self.places.at_mut(hint as usize));
        let [a, b] = packed.pair();
        let Some((a, b)) = step(a, b) else { return Updated::NotFinite };
        if packed.tag & FLAGS != fresh {
            self.note_change(hint as usize, key);
        }
        self.places.at_mut(hint as usize).words = [a.to_bits(), b.to_bits()];
        Updated::Done
    }

    #[inline(never)]
    fn search_and_update_pair(&mut self, key: u64, step: impl FnOnce(f32, f32) -> Option<(f32, f32)>) -> Updated {
        let (place, present) = self.search(key);
        let [a, b] = if present { self.places[place].pair() } else { [0.0; 2] };
        let Some((a, b)) = step(a, b) else { return Updated::NotFinite };
        let Some(place) = (if present { Some(place) } else { self.admit(key) }) else { return Updated::NotAdmitted };
        self.note_change(place, key);
        self.places[place].words = [a.to_bits(), b.to_bits()];
        Updated::Done
    }

    /// Asks the processor for a place that [`Part::locate`] gave.
    #[inline(always)]
    pub fn prefetch_place(&self, place: Place) {
        self.places.prefetch(place as usize);
    }

    /// Asks the processor for the row of an entry.
    #[inline(always)]
    pub fn prefetch_row(&self, place: Place) {
        if let (Some(packed), Some(rows)) = (self.places.get(place as usize), &self.rows) {
            rows.prefetch(packed.words[0]);
        }
    }

    /// The words of an entry at a place that [`Part::locate`] gave since the last update; of a table of rows.
    #[inline(always)]
    pub fn row(&self, place: Place) -> &[f32] {
        let row = self.places.at(place as usize).words[0];
        match &self.rows {
            Some(rows) => rows.get(row),
            None => &[],
        }
    }

    /// The number of the row of the entry at a place that [`Part::locate`] gave since the last update, and whether a change
    /// of it needs no more noting: then it may be changed by this number as long as [`Part::removals`] stays.
    #[inline(always)]
    pub fn row_at(&self, place: Place) -> (u32, bool) {
        let packed = self.places.at(place as usize);
        (packed.words[0], packed.tag & FLAGS == self.fresh)
    }

    /// How often entries were taken away, ever.
    #[inline(always)]
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// Asks the processor for the row of this number.
    #[inline(always)]
    pub fn prefetch_numbered_row(&self, row: u32) {
        if let Some(rows) = &self.rows {
            rows.prefetch(row);
        }
    }

    /// The words of the row of this number; of a table of rows.
    #[inline(always)]
    pub fn numbered_row(&self, row: u32) -> &[f32] {
        match &self.rows {
            Some(rows) => rows.get(row),
            None => &[],
        }
    }

    /// The words of a key's entry, to be changed; a new key is admitted and its words are `begin`'s to write. `None`: there
    /// is no room for it.
    #[inline(always)]
    pub fn row_mut(&mut self, key: u64, slot: u16, hint: Place, begin: impl FnOnce(&mut [f32])) -> Option<&mut [f32]> {
        let row = self.row_number(key, slot, hint, begin)?;
        Some(self.numbered_row_mut(row))
    }

    /// As [`Part::row_mut`], but tells the row's number for [`Part::numbered_row_mut`]. It stays the entry's until the next
    /// key without an entry is looked for this way.
    #[inline(always)]
    pub fn row_number(&mut self, key: u64, slot: u16, hint: Place, begin: impl FnOnce(&mut [f32])) -> Option<u32> {
        let place = match self.stands_at(key, hint) {
            true => hint as usize,
            false => match self.search(key) {
                (place, true) => place,
                (_, false) => self.admit_row(key, slot, begin)?,
            },
        };
        Some(self.row_number_at(key, place as Place))
    }

    /// The same for an entry that is known to stand at a place ([`Part::stands_at`]).
    #[inline(always)]
    pub fn row_number_at(&mut self, key: u64, place: Place) -> u32 {
        let packed = *self.places.at(place as usize);
        if packed.tag & FLAGS != self.fresh {
            self.note_change(place as usize, key);
        }
        packed.words[0]
    }

    /// The words of the row of this number; of a table of rows.
    #[inline(always)]
    pub fn numbered_row_mut(&mut self, row: u32) -> &mut [f32] {
        match &mut self.rows {
            Some(rows) => rows.get_mut(row),
            None => &mut [],
        }
    }

    /// Admits a key without an entry, whose words are `begin`'s to write, and tells the number of its row. `None`: there is
    /// no room for it.
    pub fn new_row(&mut self, key: u64, slot: u16, begin: impl FnOnce(&mut [f32])) -> Option<u32> {
        let place = self.admit_row(key, slot, begin)?;
        Some(self.row_number_at(key, place as Place))
    }

    #[inline(never)]
    fn admit_row(&mut self, key: u64, slot: u16, begin: impl FnOnce(&mut [f32])) -> Option<usize> {
        if self.caps.is_some() && !self.has_slot_room(key, slot) {
            return None;
        }
        let place = self.admit(key)?;
        self.count_of_slot(key, slot);
        let rows = self.rows.as_mut()?;
        let row = rows.take();
        begin(rows.get_mut(row));
        self.places[place].words = [row, u32::from(slot)];
        Some(place)
    }

    /// Counts one sight of a key that has no entry; tells whether it may have one: it has now been seen `times` times, as
    /// far as a sketch can count.
    pub fn seen_often(&mut self, key: u64, times: u8) -> bool {
        let sketch = &mut self.shards[shard_of(key) - self.first].sketch;
        times <= 1 || sketch.as_mut().is_none_or(|sketch| sketch.count(key) >= times)
    }

    /// Asks the processor for what [`Part::seen_often`] looks at.
    #[inline(always)]
    pub fn prefetch_count(&self, key: u64) {
        if let Some(sketch) = &self.shards[shard_of(key) - self.first].sketch {
            sketch.prefetch(key);
        }
    }

    /// Entries of one of this part's shards.
    pub fn len(&self, shard: usize) -> usize {
        self.shards[shard - self.first].entries
    }

    /// Bytes of memory the part takes, free places included: what is not yet used of a reserved run takes none.
    pub fn bytes(&self) -> usize {
        let small: usize = self.touched.iter().map(|pages| usize::from(*pages) * SMALL_BYTES).sum();
        size_of::<Self>()
            + self.places.resident(small)
            + self.rows.as_ref().map_or(0, Rows::bytes)
            + self.directory.bytes()
            + self.changes.iter().map(Changes::bytes).sum::<usize>()
            + self
                .shards
                .iter()
                .map(|shard| size_of::<Shard>() + shard.removed.capacity() * size_of::<u64>())
                .sum::<usize>()
            + self.shards.iter().filter_map(|shard| shard.sketch.as_ref()).map(Sketch::bytes).sum::<usize>()
            + self.shards.iter().map(|shard| shard.of_slots.capacity() * size_of::<u32>()).sum::<usize>()
            + self.owners.capacity()
            + self.touched.capacity()
            + self.taken.capacity() * size_of::<u16>()
            + self.free_pages.capacity() * size_of::<u32>()
    }

    pub(super) fn tick_now(&self) -> u8 {
        self.ticks.unwrap_or(0) as u8
    }
}
