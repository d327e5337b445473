//! The parts of a checkpoint with rows that wait in the label join, and with entries of feature views.
//!
//! In: what waits and what changed, checkpoint by checkpoint. Out: a part of each kind with what came since the one before, and
//! which parts a checkpoint still needs: those in which a row is held, and of views all since the last one with every entry. A
//! batch is written once, until everything is written anew.

use std::sync::mpsc::sync_channel;

use tidemill_base::{Error, Result};
use tidemill_stream::{
    aggregate::SavedViews,
    join::{JoinRows, SavedBatch},
};

use super::{Checkpoints, part::PartRef};

/// Blocks that wait for the disk.
const BLOCKS_WAITING: usize = 4;

/// Parts with rows, oldest first.
#[derive(Default)]
pub struct RowsParts {
    parts: Vec<(PartRef, Vec<SavedBatch>)>,
    /// Bytes of batches in which a row is held, and of the others.
    live: u64,
    dead: u64,
}

impl RowsParts {
    /// Lets go of parts in which nothing is held, and writes one with what came since the last.
    pub fn write(&mut self, checkpoints: &Checkpoints, mini_batch: u64, rows: &JoinRows) -> Result<()> {
        self.parts.retain(|(_, batches)| batches.iter().any(|batch| rows.is_kept(batch)));
        if rows.has_new() {
            self.parts.push(write(checkpoints, mini_batch, &rows.head(), |give| rows.blocks(give))?);
        }
        (self.live, self.dead) = (0, 0);
        for batch in self.parts.iter().flat_map(|(_, batches)| batches) {
            *if rows.is_kept(batch) { &mut self.live } else { &mut self.dead } += batch.bytes;
        }
        Ok(())
    }

    /// What a checkpoint names.
    pub fn refs(&self) -> Vec<PartRef> {
        self.parts.iter().map(|(part, _)| part.clone()).collect()
    }

    /// Bytes of batches in which a row is held, and of others that are read all the same.
    pub fn live_and_dead_bytes(&self) -> (u64, u64) {
        (self.live, self.dead)
    }
}

/// Parts with entries of feature views: the first has all of them, each other one those that changed since.
#[derive(Default)]
pub struct ViewsParts(Vec<PartRef>);

impl ViewsParts {
    /// Writes a part with what the checkpoint takes along; where that is everything, those before are not needed.
    pub fn write(&mut self, checkpoints: &Checkpoints, mini_batch: u64, views: SavedViews) -> Result<()> {
        if views.is_whole() {
            self.0.clear();
        }
        if views.has_new() {
            let head = views.head();
            let written = write(checkpoints, mini_batch, &head, |give| {
                views.blocks(give);
                Ok(())
            });
            self.0.push(written?.0);
        }
        Ok(())
    }

    /// What a checkpoint names.
    pub fn refs(&self) -> &[PartRef] {
        &self.0
    }

    /// Bytes of the part with all entries, and of those behind it.
    pub fn whole_and_behind_bytes(&self) -> (u64, u64) {
        let bytes = |parts: &[PartRef]| parts.iter().map(|part| part.bytes).sum();
        let (whole, behind) = self.0.split_at(self.0.len().min(1));
        (bytes(whole), bytes(behind))
    }
}

/// Writes a part of what `make` gives; that is done on a thread of its own, a few blocks ahead of the disk.
fn write<T: Send>(
    checkpoints: &Checkpoints,
    mini_batch: u64,
    head: &[u8],
    make: impl FnOnce(&mut dyn FnMut(Vec<u8>) -> bool) -> Result<T> + Send,
) -> Result<(PartRef, T)> {
    let (send, blocks) = sync_channel(BLOCKS_WAITING);
    std::thread::scope(|scope| {
        let maker = scope.spawn(move || {
            let made = make(&mut |block| send.send(block).is_ok())?;
            // Should nobody take it, the writer tells why.
            let _ = send.send(Vec::new());
            Ok(made)
        });
        let written = checkpoints.write_part(mini_batch, head, &blocks);
        drop(blocks);
        let made =
            maker.join().unwrap_or_else(|_| Err(Error::internal("the thread that makes a part's blocks panicked")));
        let made = made?;
        Ok((written?, made))
    })
}
