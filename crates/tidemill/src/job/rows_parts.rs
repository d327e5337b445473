//! The parts of a checkpoint with rows that wait in the label join.
//!
//! In: what waits, checkpoint by checkpoint. Out: a part with the batches that came since the one before, and which parts a
//! checkpoint still needs: those in which a row is held. A batch is written once, until everything is written anew.

use std::sync::mpsc::sync_channel;

use tidemill_base::{Error, Result};
use tidemill_stream::join::{JoinRows, SavedBatch};

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
            self.parts.push(write(checkpoints, mini_batch, rows)?);
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

/// The blocks are made on a thread of their own, a few ahead of the disk.
fn write(checkpoints: &Checkpoints, mini_batch: u64, rows: &JoinRows) -> Result<(PartRef, Vec<SavedBatch>)> {
    let (send, blocks) = sync_channel(BLOCKS_WAITING);
    std::thread::scope(|scope| {
        let maker = scope.spawn(move || {
            let batches = rows.blocks(|block| send.send(block).is_ok())?;
            // Should nobody take it, the writer tells why.
            let _ = send.send(Vec::new());
            Ok(batches)
        });
        let written = checkpoints.write_part(mini_batch, &rows.head(), &blocks);
        drop(blocks);
        let made = maker.join().unwrap_or_else(|_| Err(Error::internal("the thread that gathers rows panicked")));
        let batches = made?;
        Ok((written?, batches))
    })
}
