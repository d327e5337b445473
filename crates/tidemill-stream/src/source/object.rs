//! Objects of a store as partitions: what is read of one, and when.
//!
//! In: an [`Object`], whose bytes a client fetches in ranges on its own threads. Out: a partition like that of a file. A range
//! and not a copy on the disk: a prefix may hold more than any disk, a start in the middle of an object fetches what it still
//! needs, and of a Parquet file only the declared columns come. An object is opened when its first row is wanted and let go
//! with its last, so that thousands that have been read cost a name each. Objects never grow; one that was replaced is told by
//! its store, and is a conflict.

mod columns;
mod reader;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use arrow::datatypes::SchemaRef;
use tidemill_base::{Error, Kind, Result};

use super::{FileFormat, Partition, Print, Read, SourceSpec, file, origin::Origin, words::thousands};
use crate::Position;

pub(super) use columns::ObjectColumns;
pub(super) use reader::ObjectReader;

/// What every name of an object begins with.
pub const SCHEME: &str = "s3://";

/// Whether a path names objects of a store.
pub fn is_address(path: &str) -> bool {
    path.starts_with(SCHEME)
}

/// One object of a store, as it was listed.
pub trait Object: Send + Sync {
    /// Its address: `s3://clicks/2026/07/01.parquet`.
    fn name(&self) -> &str;

    /// How long it is.
    fn bytes(&self) -> u64;

    /// What tells it from any other that had its name before; `None` where it is gone.
    fn print(&self) -> Option<Print>;

    /// Begins to fetch `bytes` bytes from `at` on, all of which it has. Never waits.
    fn fetch(&self, at: u64, bytes: usize) -> Fetch;

    /// Waits a moment for a store that is away. Fails with `Unavailable` when it has been for too long.
    fn wait(&self) -> Result<()>;
}

/// Bytes on their way.
#[derive(Debug)]
pub struct Fetch(Receiver<Result<Vec<u8>>>);

/// Where they arrive.
pub type Arrival = SyncSender<Result<Vec<u8>>>;

impl Fetch {
    /// Bytes that somebody is to send.
    pub fn begin() -> (Arrival, Self) {
        let (arrival, fetch) = sync_channel(1);
        (arrival, Self(fetch))
    }

    /// What is known at once.
    pub fn of(bytes: Result<Vec<u8>>) -> Self {
        let (arrival, fetch) = Self::begin();
        arrival.send(bytes).expect("the receiving end is held here");
        fetch
    }

    fn wait(self) -> Result<Vec<u8>> {
        self.0.recv().unwrap_or_else(|_| Err(Error::internal("a request to the store ended without an answer")))
    }
}

/// An object that was listed once and is not there any more.
pub fn gone(name: &str) -> Error {
    Error::not_found(format!("{name}: the object is no longer there"))
}

/// An object as a partition.
pub struct ObjectPartition {
    source: String,
    object: Arc<dyn Object>,
    format: FileFormat,
    columns: SchemaRef,
    /// Of a source that never ends: a store that is away is waited for without an end, and in the open.
    follows: bool,
    reader: Option<Box<dyn Partition>>,
    /// Behind the last row handed out.
    at: Position,
    trouble: Option<String>,
    /// How many objects of the source are open.
    open: Arc<AtomicUsize>,
}

impl ObjectPartition {
    /// A partition of which nothing is read yet. `open`: counts the source's objects that are being read.
    pub fn new(
        spec: &SourceSpec,
        object: Arc<dyn Object>,
        format: &FileFormat,
        follows: bool,
        open: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            source: spec.name.clone(),
            object,
            format: format.clone(),
            columns: spec.columns.clone(),
            follows,
            reader: None,
            at: Position::default(),
            trouble: None,
            open,
        }
    }

    /// Looks at the object's beginning: whether it is what was declared.
    pub fn check(&mut self) -> Result<()> {
        self.patiently(|_| Ok(()))
    }

    fn reader(&mut self) -> Result<&mut Box<dyn Partition>> {
        if self.reader.is_none() {
            if self.object.print().is_none() {
                return Err(gone(self.object.name()));
            }
            let origin = Origin::object(self.object.clone());
            let mut reader = file::reader(&self.source, &self.columns, &self.format, origin, false)?;
            if self.at != Position::default() {
                reader.seek(self.at)?;
            }
            self.open.fetch_add(1, Ordering::Relaxed);
            self.reader = Some(reader);
        }
        Ok(self.reader.as_mut().expect("it was just opened"))
    }

    fn close(&mut self) {
        if self.reader.take().is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Does something with the reader; where the store is away, again from the last place, until it has been away too long.
    fn patiently<T>(&mut self, mut act: impl FnMut(&mut Box<dyn Partition>) -> Result<T>) -> Result<T> {
        loop {
            match self.reader().and_then(&mut act) {
                Err(e) if e.kind() == Kind::Unavailable => {
                    self.close();
                    self.object.wait()?;
                }
                done => return done,
            }
        }
    }

    fn read_once(&mut self) -> Result<Read> {
        if !self.follows {
            return self.patiently(|reader| reader.read());
        }
        self.reader()?.read()
    }
}

impl Partition for ObjectPartition {
    fn name(&self) -> &str {
        self.object.name()
    }

    fn read(&mut self) -> Result<Read> {
        match self.read_once() {
            Ok(Read::Chunk(chunk)) => {
                self.at = chunk.end;
                self.trouble = None;
                Ok(Read::Chunk(chunk))
            }
            Ok(_) => {
                self.close();
                self.trouble = None;
                Ok(Read::End)
            }
            Err(e) if self.follows && e.kind() == Kind::Unavailable => {
                self.close();
                self.trouble = Some(e.message().to_string());
                Ok(Read::Pending)
            }
            // Of one that went before a row of it was read nothing is missing; a record that says otherwise is told so.
            Err(e) if self.follows && e.kind() == Kind::NotFound && self.at.offset == 0 => Ok(Read::End),
            Err(e) if e.kind() == Kind::NotFound => Err(Error::conflict(format!(
                "{}, and its rows from {} on are still needed; put it back, or start again with --from-scratch",
                e.message(),
                thousands(self.at.offset)
            ))),
            Err(e) => Err(e),
        }
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        // It is looked at when a row is wanted: of one that was read to its end nothing is.
        self.close();
        self.at = to;
        Ok(())
    }

    fn print(&self, _bytes: Option<u64>) -> Result<Option<Print>> {
        Ok(self.object.print())
    }

    fn wait(&mut self, _until: u64) -> Result<bool> {
        self.object.wait().map(|()| true)
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    fn is_gone(&self) -> bool {
        self.object.print().is_none()
    }

    fn may_grow(&self) -> bool {
        false
    }

    fn comes_late(&self) -> bool {
        self.follows
    }
}

impl Drop for ObjectPartition {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
