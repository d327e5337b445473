//! What a Parquet reader wants of an object: its footer, and the chunks of the columns that are read.
//!
//! In: where those chunks lie. Out: a reader for each chunk, which goes on from page to page, so that the pages of several
//! columns are fetched in blocks though they are read by turns. Of a chunk no byte behind its end is fetched.

use std::{
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use ::parquet::{
    errors::{ParquetError, Result},
    file::reader::{ChunkReader, Length},
};
use bytes::Bytes;

use super::{Object, ObjectReader};
use crate::source::origin::Failure;

/// An object as a Parquet reader reads it.
pub(in crate::source) struct ObjectColumns {
    object: Arc<dyn Object>,
    failure: Failure,
    /// Where the chunks lie, ascending, each with its reader once it was begun.
    chunks: Vec<(Range<u64>, Shared)>,
    /// Of what lies elsewhere.
    rest: Shared,
}

type Shared = Arc<Mutex<Option<ObjectReader>>>;

impl ObjectColumns {
    /// The object's footer can be read, and these chunks of columns.
    pub fn new(object: Arc<dyn Object>, failure: Failure, mut chunks: Vec<Range<u64>>) -> Self {
        chunks.sort_by_key(|chunk| chunk.start);
        let chunks = chunks.into_iter().map(|chunk| (chunk, Shared::default())).collect();
        Self { object, failure, chunks, rest: Shared::default() }
    }

    fn chunk(&self, at: u64) -> (Range<u64>, Shared) {
        let before = self.chunks.partition_point(|(chunk, _)| chunk.start <= at);
        match before.checked_sub(1).map(|i| &self.chunks[i]) {
            Some((chunk, reader)) if at < chunk.end => (chunk.clone(), reader.clone()),
            _ => (0..self.object.bytes(), self.rest.clone()),
        }
    }
}

impl Length for ObjectColumns {
    fn len(&self) -> u64 {
        self.object.bytes()
    }
}

impl ChunkReader for ObjectColumns {
    type T = PageReader;

    fn get_read(&self, start: u64) -> Result<PageReader> {
        let (chunk, reader) = self.chunk(start);
        let (object, failure) = (self.object.clone(), self.failure.clone());
        Ok(PageReader { object, failure, reader, at: start, end: chunk.end })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::new();
        self.get_read(start)?.take(length as u64).read_to_end(&mut bytes)?;
        match bytes.len() == length {
            true => Ok(bytes.into()),
            false => Err(ParquetError::EOF(format!("{} bytes of {length} from byte {start} on", bytes.len()))),
        }
    }
}

/// A place in a chunk whose reader is shared by its pages.
pub(in crate::source) struct PageReader {
    object: Arc<dyn Object>,
    failure: Failure,
    reader: Shared,
    at: u64,
    end: u64,
}

impl Read for PageReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut shared = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = shared.get_or_insert_with(|| {
            ObjectReader::of_range(self.object.clone(), self.failure.clone(), self.at, self.end)
        });
        if reader.at() != self.at {
            reader.seek(SeekFrom::Start(self.at))?;
        }
        let n = reader.read(out)?;
        self.at += n as u64;
        if self.at == self.end {
            // Its last page: what is held of it goes.
            *shared = None;
        }
        Ok(n)
    }
}
