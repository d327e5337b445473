//! What a partition hands out: rows with their offsets, and the rows it had to refuse.
//!
//! Every row of a partition has an offset, counted from 0, refused rows included; so an offset names the same row in
//! every run. How rows are grouped into chunks never matters to a result.

use arrow::array::RecordBatch;

/// A place in a partition between two rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Rows before this place.
    pub offset: u64,
    /// Where the next row begins in the partition's own units (a byte of the uncompressed text, a record of a log). Only a
    /// hint for seeking fast; 0 when unknown.
    pub bytes: u64,
}

/// Consecutive rows of one partition.
#[derive(Debug)]
pub struct Chunk {
    /// The rows that could be read.
    pub rows: RecordBatch,
    /// Offset of each row in `rows`, ascending; `None` when they are `start.offset ..` without a hole.
    pub offsets: Option<Vec<u64>>,
    /// Where the chunk begins.
    pub start: Position,
    /// Where the next chunk begins.
    pub end: Position,
    /// Rows that could not be read, each with the reason.
    pub refused: Vec<Refused>,
}

impl Chunk {
    /// The offset of row `i` of `rows`.
    pub fn offset(&self, i: usize) -> u64 {
        match &self.offsets {
            Some(offsets) => offsets[i],
            None => self.start.offset + i as u64,
        }
    }
}

/// A row that was not let in: counted, kept in the dead letter, and the stream goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its offset in the partition.
    pub offset: u64,
    /// What is wrong with it, with place and value.
    pub reason: String,
    /// The beginning of the row as it came, at most [`EXCERPT_BYTES_MAX`] bytes.
    pub excerpt: String,
}

/// How much of a refused row is kept.
pub const EXCERPT_BYTES_MAX: usize = 256;

/// The beginning of some bytes as text, for [`Refused::excerpt`].
pub fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT_BYTES_MAX)]).into_owned()
}
