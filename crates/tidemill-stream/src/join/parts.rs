//! Rows that wait, as parts of a checkpoint: each batch once, in the part of the checkpoint before which it came.
//!
//! In: the batches that no part has yet, held by [`LabelJoin::encode`], so that any thread may write them while the join goes
//! on. Out: blocks, a few batches each, so that nothing is ever copied into one piece; and from the blocks of all parts the
//! rows again, of which those are kept that somebody waits with. Layout: the head is `sides varint | hash of each side's
//! columns u64`; a block is batches to its end, each `side varint | batch varint | head varint | message bytes`.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{
    JoinRows, LabelJoin, WhenFull,
    rows::{KeptRows, Source, make_room},
    wire::{Wire, aligned, schema_hash},
};

/// A block takes no more batches from here on.
const BLOCK_BYTES: usize = 256 << 10;

/// A batch that stands in a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedBatch {
    side: u32,
    batch: u64,
    /// Its bytes in the part.
    pub bytes: u64,
}

impl JoinRows {
    /// Whether rows have come that are in no part.
    pub fn has_new(&self) -> bool {
        self.rows.iter().any(|side| !side.new.is_empty())
    }

    /// Whether a row of this batch is held.
    pub fn is_kept(&self, saved: &SavedBatch) -> bool {
        self.rows.get(saved.side as usize).is_some_and(|side| side.is_kept(saved.batch))
    }

    /// What stands in front of a part's blocks.
    pub fn head(&self) -> Vec<u8> {
        let mut head = Encoder::new();
        head.put_varint(self.rows.len() as u64);
        self.rows.iter().for_each(|side| _ = head.put_u64(schema_hash(&side.schema)));
        head.finish()
    }

    /// Hands out the new batches block by block, as long as `give` takes them; answers which they are.
    pub fn blocks(&self, mut give: impl FnMut(Vec<u8>) -> bool) -> Result<Vec<SavedBatch>> {
        let (mut saved, mut block, mut message) = (Vec::new(), Encoder::new(), Vec::new());
        for (number, side) in (0u32..).zip(&self.rows) {
            let wire = Wire::new(side.schema.clone());
            for (batch, source) in &side.new {
                block.put_varint(number.into()).put_varint(*batch);
                let bytes = match source {
                    Source::Here(rows) => {
                        message.clear();
                        let head = wire.encode(rows, &mut message)?;
                        block.put_varint(head.into()).put_bytes(&message);
                        message.len()
                    }
                    Source::Away(away) => {
                        block.put_varint(away.place.head.into()).put_bytes(&away.read()?);
                        away.place.len()
                    }
                };
                saved.push(SavedBatch { side: number, batch: *batch, bytes: bytes as u64 });
                if block.as_slice().len() >= BLOCK_BYTES && !give(std::mem::take(&mut block).finish()) {
                    return Ok(saved);
                }
            }
        }
        if !block.as_slice().is_empty() {
            give(block.finish());
        }
        Ok(saved)
    }
}

/// The rows of a checkpoint, as its parts are read.
pub struct RestoringRows {
    pub(super) sides: Vec<KeptRows>,
    bytes_max: usize,
}

impl LabelJoin {
    /// What takes the blocks of a checkpoint's parts, oldest part first, before [`LabelJoin::restore_rows`].
    pub fn restoring(&self) -> RestoringRows {
        let sides = std::iter::once(&self.left_rows).chain(self.sides.iter().map(|side| &side.rows));
        let spills = self.spec.when_full == WhenFull::Spill;
        RestoringRows {
            sides: sides.map(KeptRows::emptied).collect(),
            bytes_max: if spills { self.spec.pending_bytes_max } else { usize::MAX },
        }
    }
}

impl RestoringRows {
    /// Takes a part's head.
    pub fn begin(&mut self, head: &[u8]) -> Result<()> {
        let mut d = Decoder::new(head, "head of the rows that wait");
        let same_count = d.count(8)? == self.sides.len();
        let mut same = |side: &KeptRows| Ok(d.u64()? == schema_hash(side.schema()));
        if !same_count || !self.sides.iter().map(&mut same).collect::<Result<Vec<bool>>>()?.iter().all(|same| *same) {
            return Err(Error::conflict("the checkpoint's columns are not those of this program"));
        }
        d.end()
    }

    /// Takes a part's block.
    pub fn take(&mut self, block: &[u8]) -> Result<()> {
        let mut d = Decoder::new(block, "rows that wait");
        while d.left() > 0 {
            let (side, batch, head, message) = (d.varint()? as usize, d.varint()?, d.varint()? as u32, d.bytes()?);
            let Some(side) = self.sides.get_mut(side) else {
                return Err(Error::corrupt(format!("label join: rows of side {side}")));
            };
            side.skip_to(batch)?;
            side.restore(head, aligned(message))?;
        }
        if self.bytes_max < usize::MAX {
            make_room(&mut self.sides.iter_mut().collect::<Vec<_>>(), self.bytes_max)?;
        }
        Ok(())
    }
}
