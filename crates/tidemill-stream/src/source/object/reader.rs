//! An object's bytes, read as if it were a file.
//!
//! In: fetches of ranges. Out: `Read` and `Seek`. What is read in order is fetched in blocks that grow, one of them ahead; a jump
//! begins with a small one, so that a partition of which only the first row is looked at costs one small request. Held are one
//! block and one on its way: at most twice [`BLOCK_BYTES_MAX`].

use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use tidemill_base::{Error, Result};

use super::{Fetch, Object};
use crate::source::origin::Failure;

/// The first block behind a jump.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// The largest one.
pub(super) const BLOCK_BYTES_MAX: u64 = 4 << 20;
/// By how much the next block is larger.
const GROWTH: u64 = 4;

/// A reader of one object, or of a range of it.
pub(in crate::source) struct ObjectReader {
    object: Arc<dyn Object>,
    failure: Failure,
    /// No byte from here on is fetched.
    end: u64,
    at: u64,
    block: Vec<u8>,
    block_at: u64,
    /// The block that comes behind this one, on its way.
    ahead: Option<Fetch>,
    /// How long the next block is that is asked for.
    block_bytes: u64,
}

impl ObjectReader {
    /// A reader at the object's beginning. What goes wrong is also left in `failure`, since decoders make it unrecognisable.
    pub fn new(object: Arc<dyn Object>, failure: Failure) -> Self {
        let end = object.bytes();
        Self::of_range(object, failure, 0, end)
    }

    /// A reader of the bytes from `at` to `end`.
    pub(super) fn of_range(object: Arc<dyn Object>, failure: Failure, at: u64, end: u64) -> Self {
        Self { object, failure, end, at, block: Vec::new(), block_at: at, ahead: None, block_bytes: BLOCK_BYTES }
    }

    /// The object's length.
    pub fn len(&self) -> u64 {
        self.object.bytes()
    }

    /// Where the next byte comes from.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// What is at hand from the next byte on, fetched if need be; nothing at the end.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.end {
            return Ok(&[]);
        }
        let block_end = self.block_at + self.block.len() as u64;
        if !(self.block_at..block_end).contains(&self.at) {
            let is_next = self.at == block_end;
            if let Err(e) = self.next_block(is_next) {
                self.block.clear();
                (self.block_at, self.ahead) = (self.at, None);
                self.failure.keep(e);
                return Err(io::Error::other("the object cannot be read"));
            }
        }
        Ok(&self.block[(self.at - self.block_at) as usize..])
    }

    /// Has the block in which the next byte lies. `is_next`: it lies behind the one at hand.
    fn next_block(&mut self, is_next: bool) -> Result<()> {
        let is_first = self.block.is_empty();
        let fetch = match self.ahead.take().filter(|_| is_next) {
            Some(fetch) => {
                self.block_at = self.at;
                fetch
            }
            None => {
                if !is_next || is_first {
                    self.block_bytes = BLOCK_BYTES;
                }
                // What stands at the end is read from there to the front: footers are.
                let is_tail = !is_next && self.end - self.at < BLOCK_BYTES;
                self.block_at = if is_tail { self.end.saturating_sub(BLOCK_BYTES) } else { self.at };
                self.fetch(self.block_at)
            }
        };
        let expected = self.block_bytes.min(self.end - self.block_at);
        self.block = fetch.wait()?;
        if self.block.len() as u64 != expected {
            let (name, came, at) = (self.object.name(), self.block.len(), self.block_at);
            return Err(Error::unavailable(format!("{name}: {came} bytes came of {expected} from byte {at} on")));
        }
        self.block_bytes = (self.block_bytes * GROWTH).min(BLOCK_BYTES_MAX);
        let next = self.block_at + expected;
        // Behind the first block nobody knows whether more is wanted.
        if is_next && !is_first && next < self.end {
            self.ahead = Some(self.fetch(next));
        }
        Ok(())
    }

    fn fetch(&self, from: u64) -> Fetch {
        self.object.fetch(from, self.block_bytes.min(self.end - from) as usize)
    }
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let at_hand = self.fill()?;
        let n = at_hand.len().min(out.len());
        out[..n].copy_from_slice(&at_hand[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.object.bytes().checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the first byte"))?;
        Ok(self.at)
    }
}
