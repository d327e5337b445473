//! A checkpoint's entries leave while learning goes on.
//!
//! In: the moment of the checkpoint. Out: at once, everything but the entries; then, a step behind each mini-batch, the
//! entries as they were at that moment ([`tidemill_model::params::Walked`]), as blocks for whoever writes them down. A
//! writer that does not keep up is not waited for: the walk stands still meanwhile.

use std::sync::mpsc::{SyncSender, TrySendError};

use tidemill_base::{
    Result,
    codec::{Decoder, Encoder},
};
use tidemill_model::params::{Restoring, Walked};

use super::{Trainer, parts, table_spec};
use crate::TrainSpec;

/// Entries that a step hands out at least: some tens of microseconds.
const STEP_ENTRIES: usize = 2_048;
/// A block is handed over once it is so large.
const BLOCK_BYTES: usize = 256 << 10;

/// The entries on their way to a writer.
pub(super) struct Leaving {
    /// `None`: the writer gave up; what is left of the walk is for nobody.
    blocks: Option<SyncSender<Vec<u8>>>,
    block: Vec<u8>,
    is_walked: bool,
}

impl Trainer {
    /// Begins a checkpoint of the state as it is now: of all entries, or where that is known and not `whole`, of those that
    /// changed since the last one. Appends to `out` what [`Trainer::restore`] takes, to `head` what goes in front of the
    /// blocks. An empty block is the last one.
    pub fn begin_checkpoint(
        &mut self,
        whole: bool,
        blocks: SyncSender<Vec<u8>>,
        out: &mut Encoder,
        head: &mut Encoder,
    ) -> Walked {
        self.finish_checkpoint();
        self.encode_around(out);
        self.table.encode_rest(out);
        let walked = self.table.begin_walk(whole, head);
        self.leaving = Some(Leaving { blocks: Some(blocks), block: Vec::new(), is_walked: false });
        walked
    }

    /// Goes on with the checkpoint a little, and does not wait for anything; `false` when none is under way.
    pub fn step_checkpoint(&mut self) -> bool {
        self.step_checkpoint_by(STEP_ENTRIES)
    }

    /// The same behind a mini-batch of so many features: as many entries, so that the walk comes to its end though each of
    /// them be new.
    pub(super) fn step_checkpoint_behind(&mut self, features: usize) {
        self.step_checkpoint_by(features.max(STEP_ENTRIES));
    }

    fn step_checkpoint_by(&mut self, entries: usize) -> bool {
        let Some(mut leaving) = self.leaving.take() else { return false };
        if leaving.block.len() < BLOCK_BYTES && !leaving.is_walked {
            leaving.is_walked = self.table.walk(entries, &mut leaving.block);
        }
        let is_ready = leaving.block.len() >= BLOCK_BYTES || leaving.is_walked;
        let is_last = is_ready && leaving.block.is_empty();
        if is_ready && leaving.hand_over() && is_last {
            return false;
        }
        self.leaving = Some(leaving);
        true
    }

    /// Hands out the rest of the checkpoint, waiting for its writer.
    pub fn finish_checkpoint(&mut self) {
        while let Some(mut leaving) = self.leaving.take() {
            if !leaving.is_walked {
                leaving.is_walked = self.table.walk(16 * STEP_ENTRIES, &mut leaving.block);
            }
            let (block, is_last) = (std::mem::take(&mut leaving.block), leaving.is_walked);
            // A writer that gave up has said so to whoever started it.
            let _ = leaving.blocks.as_ref().map(|blocks| {
                let sent = if block.is_empty() { Ok(()) } else { blocks.send(block) };
                sent.and_then(|()| if is_last { blocks.send(Vec::new()) } else { Ok(()) })
            });
            self.leaving = (!is_last).then_some(leaving);
        }
    }

    /// What the blocks of a checkpoint are given to when it is read back.
    pub fn restoring(spec: &TrainSpec, threads: usize) -> Result<Restoring> {
        let learner = spec.widest().build(spec.slots.len());
        Restoring::new(table_spec(spec, &*learner), parts(threads))
    }

    /// The trainer as it was when the checkpoint began, of what [`Trainer::begin_checkpoint`] appended and of its entries.
    pub fn restore(spec: &TrainSpec, threads: usize, from: &mut Decoder, entries: Restoring) -> Result<Self> {
        let trainer = Self::decode_around(spec, from)?;
        let table = entries.finish(from)?;
        Ok(trainer.with_table(table, threads))
    }
}

impl Leaving {
    /// Whether nobody waits for the block any more.
    fn hand_over(&mut self) -> bool {
        let Some(blocks) = &self.blocks else {
            self.block.clear();
            return true;
        };
        match blocks.try_send(std::mem::take(&mut self.block)) {
            Ok(()) => true,
            Err(TrySendError::Full(block)) => {
                self.block = block;
                false
            }
            Err(TrySendError::Disconnected(_)) => {
                self.blocks = None;
                true
            }
        }
    }
}
