//! Writing checkpoints beside the learning: taken on the learning thread, encoded and written on another, one at a time.

use std::{fs::File, thread::JoinHandle};

use tidemill_base::{Error, Result, codec::Encoder};
use tidemill_stream::join::JoinRows;

use super::Checkpoints;

/// A checkpoint's body, taken in a moment and finished on the writing thread.
pub struct Body {
    /// Everything but the rows.
    pub out: Encoder,
    /// The rows that wait in the join, if there is one.
    pub rows: Option<JoinRows>,
}

impl Body {
    fn finish(mut self) -> Result<Vec<u8>> {
        if let Some(rows) = self.rows {
            rows.encode(&mut self.out)?;
        }
        Ok(self.out.finish())
    }
}

/// Writes one checkpoint at a time.
pub struct Saver {
    checkpoints: Checkpoints,
    running: Option<JoinHandle<Result<()>>>,
}

impl Saver {
    /// A saver into this directory.
    pub fn new(checkpoints: Checkpoints) -> Self {
        Self { checkpoints, running: None }
    }

    /// Whether the last one is done.
    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Starts writing. The journal is made durable first: a checkpoint never stands on records that may vanish.
    pub fn start(&mut self, mini_batch: u64, body: Body, journal: File) {
        let checkpoints = self.checkpoints.clone();
        let write = move || {
            journal.sync_data().map_err(|e| Error::unavailable(format!("sync journal: {e}")).with_source(e))?;
            checkpoints.write(mini_batch, &body.finish()?)
        };
        self.running = Some(std::thread::spawn(write));
    }

    /// Writes on this thread.
    pub fn write(&self, mini_batch: u64, body: Body) -> Result<()> {
        self.checkpoints.write(mini_batch, &body.finish()?)
    }

    /// How the last one ended, once it has.
    pub fn finished(&mut self) -> Option<Result<()>> {
        self.running.as_ref()?.is_finished().then(|| self.wait()).flatten()
    }

    /// Waits for the one that is being written.
    pub fn wait(&mut self) -> Option<Result<()>> {
        let handle = self.running.take()?;
        Some(handle.join().unwrap_or_else(|_| Err(Error::internal("the checkpoint writer panicked"))))
    }
}
