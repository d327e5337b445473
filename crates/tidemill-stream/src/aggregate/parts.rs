//! Entries of feature views, as parts of a checkpoint: all of them, then in each part those that changed since the one before.
//!
//! In: the slots that a checkpoint takes along, held by [`super::Views::encode`] as of its moment, so that any thread may write
//! them while events go on. Out: blocks of some 256 KiB, and from the blocks of all parts, oldest first, the entries again.
//!
//! ```text
//! head    whole u8 | views varint | of each: words of an entry varint, slots varint
//! block   slots to its end: view varint | slot varint | count varint | where it is not 0, the slot holds a key:
//!         tick i64 | number varint | words that are not 0, one less than the count: how far behind the one before varint, u32
//! ```

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::table::{SavedTable, Table};

/// Keys that a mini-batch brings before the others are looked at, at most: so many more slots than keys there may be.
const SLOTS_MORE: u64 = 1 << 21;
/// A block takes no more slots from here on.
const BLOCK_BYTES: usize = 256 << 10;

/// What a checkpoint takes along of all views.
pub struct SavedViews {
    whole: bool,
    tables: Vec<SavedTable>,
}

impl SavedViews {
    pub(super) fn new(whole: bool, tables: Vec<SavedTable>) -> Self {
        Self { whole, tables }
    }

    /// Whether all keys are in it, and no part before it is needed.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it is needed at all.
    pub fn has_new(&self) -> bool {
        self.whole || self.tables.iter().any(|table| !table.is_empty())
    }

    /// What stands in front of a part's blocks.
    pub fn head(&self) -> Vec<u8> {
        let mut head = Encoder::new();
        head.put_u8(self.whole as u8).put_varint(self.tables.len() as u64);
        self.tables.iter().for_each(|table| _ = head.put_varint(table.words as u64).put_varint(table.slots.into()));
        head.finish()
    }

    /// Hands out the entries block by block, as long as `give` takes them. Behind this, what views write to is copied no more.
    pub fn blocks(self, mut give: impl FnMut(Vec<u8>) -> bool) {
        let (mut block, mut is_taken) = (Encoder::new(), true);
        for (view, table) in (0u64..).zip(self.tables) {
            table.each(|slot, entry| {
                if !is_taken {
                    return;
                }
                block.put_varint(view).put_varint(slot.into());
                match entry {
                    None => _ = block.put_varint(0),
                    Some((words, (tick, number))) => {
                        let count = words.iter().filter(|word| **word != 0).count();
                        block.put_varint(count as u64 + 1).put_i64(tick).put_varint(number);
                        let mut before = 0;
                        for (i, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
                            block.put_varint((i - before) as u64).put_u32(*word);
                            before = i;
                        }
                    }
                }
                if block.as_slice().len() >= BLOCK_BYTES {
                    is_taken = give(std::mem::take(&mut block).finish());
                }
            });
        }
        if is_taken && !block.as_slice().is_empty() {
            give(block.finish());
        }
    }
}

/// The entries of a checkpoint, as its parts are read.
pub struct RestoringViews {
    tables: Vec<Table>,
    /// Of each view: no part has more slots.
    slots_max: Vec<u64>,
    /// Of each view, as the part that is being read has it: slots.
    slots: Vec<u64>,
    words: Vec<u32>,
}

impl RestoringViews {
    /// Of each view: its empty table, and how many keys it keeps at most.
    pub(super) fn new(views: impl Iterator<Item = (Table, usize)>) -> Self {
        let (tables, slots_max) = views.map(|(table, keys)| (table, (keys as u64).saturating_add(SLOTS_MORE))).unzip();
        Self { slots: Vec::new(), words: Vec::new(), tables, slots_max }
    }

    pub(super) fn into_tables(self) -> Vec<Table> {
        self.tables
    }

    /// Takes a part's head.
    pub fn begin(&mut self, head: &[u8]) -> Result<()> {
        let mut d = Decoder::new(head, "head of feature views");
        let is_whole = d.u8()? != 0;
        if is_whole != self.slots.is_empty() {
            return Err(Error::corrupt("feature views: the first part is to have all keys, and no other"));
        }
        if d.count(2)? != self.tables.len() {
            return Err(Error::conflict("the checkpoint was written by a program with other feature views"));
        }
        self.slots.clear();
        for (table, slots_max) in self.tables.iter().zip(&self.slots_max) {
            let (words, slots) = (d.varint()?, d.varint()?);
            if words != table.words() as u64 {
                let has = table.words();
                return Err(Error::conflict(format!(
                    "the checkpoint has feature views of {words} words a key, the program's have {has}"
                )));
            }
            if slots > *slots_max || slots > u32::MAX.into() {
                return Err(Error::corrupt(format!(
                    "feature views: {slots} slots where there are {slots_max} at most"
                )));
            }
            self.slots.push(slots);
        }
        d.end()
    }

    /// Takes a part's block.
    pub fn take(&mut self, block: &[u8]) -> Result<()> {
        let damaged = || Error::corrupt("feature views: an entry is not what was written");
        let mut d = Decoder::new(block, "feature views");
        while d.left() > 0 {
            let (view, slot, count) = (d.varint()? as usize, d.varint()?, d.varint()?);
            let slots = *self.slots.get(view).ok_or_else(damaged)?;
            let table = self.tables.get_mut(view).ok_or_else(damaged)?;
            if slot >= slots || count > table.words() as u64 + 1 {
                return Err(damaged());
            }
            if count == 0 {
                table.restore(slot as u32, None);
                continue;
            }
            let turn = (d.i64()?, d.varint()?);
            if turn.1 >> 62 != 0 {
                return Err(damaged());
            }
            self.words.clear();
            self.words.resize(table.words(), 0);
            let mut at = 0usize;
            for _ in 1..count {
                at = usize::try_from(d.varint()?).ok().and_then(|step| at.checked_add(step)).ok_or_else(damaged)?;
                *self.words.get_mut(at).ok_or_else(damaged)? = d.u32()?;
            }
            table.restore(slot as u32, Some((&self.words, turn)));
        }
        Ok(())
    }
}
