//! Text files as partitions: rows cut, decoded and handed out in chunks.
//!
//! In: uncompressed bytes and a decoder of rows. Out: [`Chunk`]s, with rows and bytes counted. Blank lines are no rows. A row
//! the decoder refuses keeps its offset, so an offset names the same row in every run.

mod lines;

use arrow::array::RecordBatch;
use tidemill_base::{Error, Result};

use super::{CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Partition, Print, Read, compress::Bytes, words::thousands};
use crate::{Chunk, Position, Refused, chunk::excerpt};
use lines::{Line, LineReader};

/// Turns the text of rows into columns.
pub(super) trait RowDecoder: Send {
    /// Takes the line that stands before the first row.
    fn header(&mut self, _line: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// Whether the first line is no row.
    fn has_header(&self) -> bool {
        false
    }

    /// The byte between fields when quotes may hide newlines.
    fn quoting(&self) -> Option<u8> {
        None
    }

    /// Whether a line holds no row at all.
    fn is_blank(&self, line: &[u8]) -> bool {
        line.trim_ascii().is_empty()
    }

    /// Adds a row; a bad one leaves no trace. `quoted`: it holds a quote somewhere.
    fn push(&mut self, row: &[u8], quoted: bool) -> Result<(), String>;

    /// Whether [`RowDecoder::push_block`] takes rows.
    fn takes_blocks(&self) -> bool {
        false
    }

    /// Adds the first rows of some complete lines without quotes, at most `rows_max`, exactly as [`RowDecoder::push`] would;
    /// stops before a line that is bad, blank or odd. Returns the number of rows and of bytes.
    fn push_block(&mut self, _lines: &[u8], _rows_max: usize) -> (usize, usize) {
        (0, 0)
    }

    /// The rows added since the last call.
    fn finish(&mut self) -> RecordBatch;
}

/// A text file as a partition.
pub(super) struct TextPartition {
    name: String,
    source: String,
    lines: LineReader,
    decoder: Box<dyn RowDecoder>,
    /// Whether the line before the first row was taken (or there is none).
    header_read: bool,
    offset: u64,
    /// Bytes of text in the next chunk, about.
    chunk_bytes: usize,
    /// An error that came behind rows: they go first.
    failed: Option<Error>,
    /// Rows still to be read one by one before the next block is tried, and how many there were last time. They change how
    /// fast rows are read, nothing else.
    one_by_one: usize,
    pause: usize,
}

/// Text taken as one block: with where its fields end it stays in the nearest cache.
const BLOCK_BYTES: usize = 1 << 16;
/// Bytes of text in the first chunk of an object, about.
const CHUNK_BYTES_FIRST: usize = 1 << 16;
/// Rows read one by one at most where blocks bring nothing.
const PAUSE_MAX: usize = 256;

impl TextPartition {
    /// Opens the partition; reads the header if there is one already, so that a wrong one is known at once.
    pub(super) fn open(
        source: &str,
        name: String,
        bytes: Bytes,
        decoder: Box<dyn RowDecoder>,
        bounded: bool,
    ) -> Result<Self> {
        let lines = LineReader::new(bytes, decoder.quoting(), bounded);
        let header_read = !decoder.has_header();
        // Of an object perhaps the first row only is looked at for a long time, and of thousands at once.
        let chunk_bytes = if lines.bytes().origin().is_object() { CHUNK_BYTES_FIRST } else { CHUNK_BYTES_MAX };
        let mut partition = Self {
            name,
            source: source.to_string(),
            lines,
            decoder,
            header_read,
            offset: 0,
            chunk_bytes,
            failed: None,
            one_by_one: 0,
            pause: 0,
        };
        partition.read_header()?;
        Ok(partition)
    }

    /// Takes the header line; `false` when it is not there (yet).
    fn read_header(&mut self) -> Result<bool> {
        while !self.header_read {
            let taken = match self.lines.next()? {
                Line::End => return Ok(false),
                Line::Row { bytes, .. } if self.decoder.is_blank(bytes) => continue,
                Line::Row { bytes, .. } => self.decoder.header(bytes),
                Line::Refused { reason, .. } => Err(format!("header: {reason}")),
            };
            taken.map_err(|why| Error::invalid(format!("{}: {why}", self.name)))?;
            self.header_read = true;
        }
        Ok(true)
    }

    fn place(&self) -> Position {
        Position { offset: self.offset, bytes: self.lines.at() }
    }

    /// Reads lines into the decoder until the chunk is full or the text ends.
    fn gather(&mut self, offsets: &mut Option<Vec<u64>>, refused: &mut Vec<Refused>) -> Result<()> {
        let (first, from) = (self.offset, self.lines.at());
        let room = |s: &Self| {
            s.offset == first || s.offset - first < CHUNK_ROWS_MAX as u64 && s.lines.at() - from < s.chunk_bytes as u64
        };
        while room(self) {
            match self.one_by_one.checked_sub(1) {
                Some(left) => self.one_by_one = left,
                None if self.gather_block(first, from, offsets) > 0 => continue,
                None => {}
            }
            let (reason, excerpt) = match self.lines.next()? {
                Line::End => return Ok(()),
                Line::Row { bytes, .. } if self.decoder.is_blank(bytes) => continue,
                Line::Row { bytes, quoted } => match self.decoder.push(bytes, quoted) {
                    Ok(()) => {
                        if let Some(offsets) = offsets {
                            offsets.push(self.offset);
                        }
                        self.offset += 1;
                        continue;
                    }
                    Err(reason) => (reason, excerpt(bytes)),
                },
                Line::Refused { reason, excerpt } => (reason, excerpt),
            };
            offsets.get_or_insert_with(|| (first..self.offset).collect());
            refused.push(self::refused(self.offset, reason, excerpt));
            self.offset += 1;
        }
        Ok(())
    }

    /// Takes rows that are at hand all at once, if they are good; returns how many. The chunk began at `first` and `from`.
    fn gather_block(&mut self, first: u64, from: u64, offsets: &mut Option<Vec<u64>>) -> usize {
        if !self.decoder.takes_blocks() {
            return 0;
        }
        // Lines that begin in these bytes belong to the chunk, and no others.
        let left = self.chunk_bytes.saturating_sub((self.lines.at() - from) as usize);
        let rows_left = CHUNK_ROWS_MAX - (self.offset - first) as usize;
        let lines = self.lines.block(left.min(BLOCK_BYTES));
        if lines.is_empty() {
            return 0;
        }
        let length = lines.len();
        let (rows, bytes) = self.decoder.push_block(lines, rows_left);
        self.lines.pass(bytes);
        if let Some(offsets) = offsets {
            offsets.extend(self.offset..self.offset + rows as u64);
        }
        self.offset += rows as u64;
        // What stopped the block is read the careful way; where that happens all the time, blocks are in vain.
        self.pause = match bytes * 4 >= length || rows == rows_left {
            true => 0,
            false => (self.pause * 2).clamp(8, PAUSE_MAX),
        };
        self.one_by_one = self.pause;
        rows
    }

    /// Reads and throws away rows up to `offset`; for a position whose byte is not known.
    fn skip_to(&mut self, offset: u64) -> Result<()> {
        while self.offset < offset {
            match self.lines.next()? {
                Line::End => return Err(gone(&self.source, &self.name, offset)),
                Line::Row { bytes, .. } if self.decoder.is_blank(bytes) => {}
                _ => self.offset += 1,
            }
        }
        Ok(())
    }
}

impl Partition for TextPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> Result<Read> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        if !self.read_header()? {
            return Ok(if self.lines.bounded() { Read::End } else { Read::Pending });
        }
        let start = self.place();
        let (mut offsets, mut refused) = (None, Vec::new());
        match self.gather(&mut offsets, &mut refused) {
            Ok(()) if self.offset > start.offset => {}
            Ok(()) => return Ok(if self.lines.bounded() { Read::End } else { Read::Pending }),
            Err(e) if self.offset > start.offset => self.failed = Some(e),
            Err(e) => return Err(e),
        }
        self.chunk_bytes = (self.chunk_bytes * 4).min(CHUNK_BYTES_MAX);
        let rows = self.decoder.finish();
        Ok(Read::Chunk(Chunk { rows, offsets, start, end: self.place(), refused }))
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.failed = None;
        self.decoder.finish();
        if to.bytes == 0 || !self.header_read {
            self.lines.seek(0)?;
            self.header_read = !self.decoder.has_header();
            self.offset = 0;
            if !self.read_header()? && to.offset > 0 {
                return Err(gone(&self.source, &self.name, to.offset));
            }
        }
        if to.bytes == 0 {
            return self.skip_to(to.offset);
        }
        if !self.lines.go_to(to.bytes)? {
            return Err(gone(&self.source, &self.name, to.offset));
        }
        self.offset = to.offset;
        Ok(())
    }

    fn is_all_there(&self) -> bool {
        self.lines.bounded()
    }

    fn print(&self, bytes: Option<u64>) -> Result<Option<Print>> {
        self.lines.bytes().print(bytes)
    }

    fn is_plain(&self) -> bool {
        self.lines.bytes().is_plain()
    }
}

/// A refused row with its number, counted from 1 as people do.
pub(super) fn refused(offset: u64, reason: String, excerpt: String) -> Refused {
    Refused { offset, reason: format!("row {}: {reason}", thousands(offset + 1)), excerpt }
}

/// The partition no longer reaches a place that an earlier run has seen.
pub(super) fn gone(source: &str, partition: &str, offset: u64) -> Error {
    Error::conflict(format!(
        "source {source} partition '{partition}': offset {} no longer available; put the data back, or start again with --from-scratch",
        thousands(offset)
    ))
}
