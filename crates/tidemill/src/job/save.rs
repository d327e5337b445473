//! Writing checkpoints beside the learning: begun in a moment between two mini-batches, written on another thread as the
//! entries leave the trainer, one at a time.
//!
//! Most checkpoints hold what changed since the one before: entries that changed, rows that came. One in so many holds
//! everything, so that what must be read back stays within one and a half times the state.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use tidemill_base::{Error, Result, codec::Encoder, store::log::LogSync};

use super::{
    Checkpoints,
    part::PartRef,
    stream_parts::{RowsParts, ViewsParts},
};
use crate::{engine::SavedStreams, sinks::Barrier};

/// Parts of a checkpoint at most.
const CHAIN_MAX: usize = 64;
/// Blocks that may wait for the disk, each of some 256 KiB; then the trainer keeps what it has.
const BLOCKS_WAITING: usize = 16;

/// A checkpoint's body, taken in a moment and finished on the writing thread.
pub struct Body {
    /// The mini-batch it is of.
    pub mini_batch: u64,
    /// Everything but who waits, with which rows, and entries.
    pub out: Encoder,
    /// What waits in the join, and what views take along.
    pub streams: SavedStreams,
    /// What goes in front of the entries.
    pub head: Encoder,
    /// Whether all entries come.
    pub is_whole: bool,
    /// What sinks will say once they have all rows up to it, if there are any.
    pub sinks: Option<Barrier>,
}

impl Body {
    fn finish(self) -> Result<Vec<u8>> {
        let mut bytes = self.out.finish();
        if let Some(sinks) = self.sinks {
            bytes.extend(sinks.wait()?);
        }
        Ok(bytes)
    }
}

/// Writes one checkpoint at a time.
pub struct Saver {
    checkpoints: Checkpoints,
    /// Whether one that was begun waits for [`Saver::go`].
    in_order: bool,
    /// The parts of the last checkpoint that was written; empty where none was, or something of it was lost.
    chain: Vec<PartRef>,
    /// Those of them with rows.
    rows: RowsParts,
    /// Those with entries of feature views.
    views: ViewsParts,
    /// The mini-batch of the newest checkpoint.
    newest: Option<u64>,
    begun: Option<Write>,
    running: Option<JoinHandle<Written>>,
}

type Written = Result<(u64, Vec<PartRef>, RowsParts, ViewsParts)>;
type Write = Box<dyn FnOnce() -> Written + Send>;

impl Saver {
    /// A saver into this directory, whose newest usable checkpoint is at `newest`.
    pub fn new(checkpoints: Checkpoints, newest: Option<u64>, in_order: bool) -> Self {
        let (chain, rows, views) = Default::default();
        Self { checkpoints, in_order, chain, rows, views, newest, begun: None, running: None }
    }

    /// Whether the last one is done.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.begun.is_none()
    }

    /// Whether the newest checkpoint is at this mini-batch: by determinism another one would be the same.
    pub fn has(&self, mini_batch: u64) -> bool {
        self.newest == Some(mini_batch)
    }

    /// The mini-batch of the oldest checkpoint that is kept; 0 where there is none.
    pub fn oldest(&self) -> u64 {
        self.checkpoints.list().first().copied().unwrap_or(0)
    }

    /// Whether the next one is to hold all entries and all rows.
    pub fn wants_whole(&self) -> bool {
        let Some((whole, changes)) = self.chain.split_first() else { return true };
        let behind: u64 = changes.iter().map(|part| part.bytes).sum();
        let (live, dead) = self.rows.live_and_dead_bytes();
        let (of_views, behind_views) = self.views.whole_and_behind_bytes();
        changes.len() + 1 >= CHAIN_MAX || behind + dead + behind_views > (whole.bytes + live + of_views) / 2
    }

    /// Where the trainer's blocks go, and where the writer takes them.
    pub fn blocks() -> (SyncSender<Vec<u8>>, Receiver<Vec<u8>>) {
        sync_channel(BLOCKS_WAITING)
    }

    /// Starts writing. The journal is made durable first: a checkpoint never stands on records that may vanish.
    pub fn start(&mut self, mut body: Body, blocks: Receiver<Vec<u8>>, journal: LogSync) {
        let (checkpoints, mini_batch) = (self.checkpoints.clone(), body.mini_batch);
        // Should this one fail, the next begins anew: what changed was told to this one.
        let chain = std::mem::take(&mut self.chain);
        let (rows, views) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.views));
        let (mut chain, mut rows, mut views) = if body.is_whole { Default::default() } else { (chain, rows, views) };
        let write = move || {
            let SavedStreams { rows: mut waiting, views: changed } = std::mem::take(&mut body.streams);
            // These first: until then the line copies what it writes to.
            waiting.iter_mut().for_each(|waiting| waiting.encode(&mut body.out));
            changed.map_or(Ok(()), |changed| views.write(&checkpoints, mini_batch, changed))?;
            chain.push(checkpoints.write_part(mini_batch, body.head.as_slice(), &blocks)?);
            waiting.map_or(Ok(()), |waiting| rows.write(&checkpoints, mini_batch, &waiting))?;
            journal.sync()?;
            checkpoints.write(mini_batch, [&chain, &rows.refs(), views.refs()], &body.finish()?)?;
            Ok((mini_batch, chain, rows, views))
        };
        match self.in_order {
            true => self.begun = Some(Box::new(write)),
            false => self.running = Some(std::thread::spawn(write)),
        }
    }

    /// Lets the one go on that was begun and waits; `false` where none does.
    pub fn go(&mut self) -> bool {
        let Some(write) = self.begun.take() else { return false };
        self.running = Some(std::thread::spawn(write));
        true
    }

    /// How the last one ended, once it has.
    pub fn finished(&mut self) -> Option<Result<()>> {
        self.running.as_ref()?.is_finished().then(|| self.wait()).flatten()
    }

    /// Waits for the one that is being written.
    pub fn wait(&mut self) -> Option<Result<()>> {
        let handle = self.running.take()?;
        let written = handle.join().unwrap_or_else(|_| Err(Error::internal("the checkpoint writer panicked")));
        Some(written.map(|(mini_batch, chain, rows, views)| {
            (self.newest, self.chain, self.rows, self.views) = (Some(mini_batch), chain, rows, views);
        }))
    }
}
