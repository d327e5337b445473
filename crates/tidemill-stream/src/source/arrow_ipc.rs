//! Arrow IPC files, in the file format and in the stream format: declared columns by name.
//!
//! In: a file or an object. Out: chunks whose offsets are row numbers, converted as [`super::table`] says. A place is a batch of the file
//! and a row in it, so that seeking in the file format decodes one batch; the stream format is read from its beginning.

mod within;

use std::io::{BufReader, Read as _, Seek as _};

use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::reader::{FileReader, StreamReader},
};
use tidemill_base::{Error, Result};

pub(crate) use self::within::Within;
use super::{
    CHUNK_ROWS_MAX, Partition, Print, Read,
    origin::{Origin, Stored},
    table::Table,
    text::gone,
};
use crate::{Position, contained::contained};

/// The file format begins with it, the stream format does not.
const MAGIC: &[u8; 6] = b"ARROW1";

/// An Arrow IPC file as a partition.
pub(super) struct ArrowPartition {
    name: String,
    source: String,
    origin: Origin,
    table: Table,
    /// The file's columns that are read.
    columns: Vec<usize>,
    batches: Batches,
    /// Number of the batch at hand, or of the next one.
    batch_number: u64,
    /// What is left of it begins at this row.
    batch: Option<RecordBatch>,
    row: usize,
    offset: u64,
}

enum Batches {
    File(FileReader<BufReader<Stored>>),
    Stream(StreamReader<Within<BufReader<Stored>>>),
}

impl Batches {
    fn open(origin: &Origin, columns: Option<Vec<usize>>) -> Result<Self> {
        let mut file = origin.open()?;
        let mut magic = Vec::new();
        let io = |e| origin.io("read", e);
        (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(io)?;
        file.rewind().map_err(io)?;
        let bytes = file.len().map_err(io)?;
        let mut reader = BufReader::new(file);
        contained(origin, || {
            let opened = match magic == MAGIC {
                true => within::check(&mut reader, bytes)
                    .map_err(ArrowError::from)
                    .and_then(|()| FileReader::try_new(reader, columns).map(Self::File)),
                false => StreamReader::try_new(Within::new(reader, bytes), columns).map(Self::Stream),
            };
            opened.map_err(|e| damaged(origin, e))
        })
    }

    fn schema(&self) -> SchemaRef {
        match self {
            Self::File(file) => file.schema(),
            Self::Stream(stream) => stream.schema(),
        }
    }

    fn next(&mut self) -> Option<Result<RecordBatch, ArrowError>> {
        match self {
            Self::File(file) => file.next(),
            Self::Stream(stream) => stream.next(),
        }
    }

    /// From the beginning to batch `n`; `false` when there are fewer.
    fn go_to(&mut self, n: u64) -> Result<bool, ArrowError> {
        match self {
            Self::File(file) if n > file.num_batches() as u64 => Ok(false),
            // Behind the last one there is nothing to go to, and nothing to read.
            Self::File(file) if n == file.num_batches() as u64 => {
                file.by_ref().for_each(drop);
                Ok(true)
            }
            Self::File(file) => file.set_index(n as usize).map(|()| true),
            Self::Stream(stream) => {
                for _ in 0..n {
                    match stream.next() {
                        Some(batch) => drop(batch?),
                        None => return Ok(false),
                    }
                }
                Ok(true)
            }
        }
    }
}

impl ArrowPartition {
    /// Opens the file, finds the declared columns and checks that each can be converted.
    pub(super) fn open(source: &str, name: String, origin: Origin, schema: SchemaRef) -> Result<Self> {
        let all = Batches::open(&origin, None)?;
        let (table, columns) = Table::find(&name, schema, &all.schema())?;
        let batches = Batches::open(&origin, Some(columns.clone()))?;
        let source = source.to_string();
        Ok(Self { name, source, origin, table, columns, batches, batch_number: 0, batch: None, row: 0, offset: 0 })
    }

    fn place(&self) -> Position {
        Position { offset: self.offset, bytes: self.batch_number << 32 | self.row as u64 }
    }

    /// Has a batch at hand that has rows left; `false` at the file's end.
    fn fill(&mut self) -> Result<bool> {
        loop {
            if self.batch.as_ref().is_some_and(|batch| self.row < batch.num_rows()) {
                return Ok(true);
            }
            if self.batch.take().is_some() {
                (self.batch_number, self.row) = (self.batch_number + 1, 0);
            }
            match contained(&self.origin, || Ok(self.batches.next()))? {
                None => return Ok(false),
                Some(batch) => self.batch = Some(batch.map_err(|e| damaged(&self.origin, e))?),
            }
        }
    }
}

impl Partition for ArrowPartition {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> Result<Read> {
        if !self.fill()? {
            return Ok(Read::End);
        }
        let start = self.place();
        let batch = self.batch.as_ref().expect("a batch was just filled in");
        let rows = batch.slice(self.row, CHUNK_ROWS_MAX.min(batch.num_rows() - self.row));
        self.row += rows.num_rows();
        self.offset += rows.num_rows() as u64;
        self.table.chunk(&rows, start, self.place()).map(Read::Chunk)
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.batches = Batches::open(&self.origin, Some(self.columns.clone()))?;
        (self.batch, self.batch_number, self.row, self.offset) = (None, to.bytes >> 32, 0, to.offset);
        let row = (to.bytes & u64::from(u32::MAX)) as usize;
        let mut left = row as u64;
        if to.bytes == 0 {
            (self.offset, left) = (0, to.offset);
        }
        let go = || self.batches.go_to(self.batch_number).map_err(|e| damaged(&self.origin, e));
        let is_there = contained(&self.origin, go)?;
        let mut missing = !is_there;
        while left > 0 && !missing {
            missing = !self.fill()?;
            let here = self.batch.as_ref().map_or(0, |batch| (batch.num_rows() - self.row).min(left as usize));
            self.row += here;
            left -= here as u64;
        }
        if missing {
            return Err(gone(&self.source, &self.name, to.offset));
        }
        self.offset = to.offset;
        Ok(())
    }

    fn is_all_there(&self) -> bool {
        true
    }

    /// Always of the whole file: one that has grown is another.
    fn print(&self, _bytes: Option<u64>) -> Result<Option<Print>> {
        self.origin.open()?.print(&self.origin, None)
    }
}

fn damaged(origin: &Origin, e: ArrowError) -> Error {
    let damage = Error::corrupt(format!("{origin} is not an Arrow IPC file that can be read: {e}"));
    origin.or_failure(damage.with_source(e))
}
