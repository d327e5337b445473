//! Rows that found no room in memory: files of batches in the job's directory, appended to and read by place.
//!
//! In: a batch as bytes. Out: its place, and the bytes again, compared with their checksum. A file takes batches until it is
//! [`FILE_BYTES`] long, and goes when none of its batches is needed. Nothing is synced and nothing outlives the process: the
//! checkpoint is the truth, and whoever opens the directory next removes what a killed process left
//! ([`SpillDir::open`]). Handles stay open, so a checkpoint that is being written reads a file that has lost its name.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::buffer::{Buffer, MutableBuffer};
use tidemill_base::{
    Error, Result, hash64,
    store::disk::{self, File},
};

/// A file of this length takes no more.
const FILE_BYTES: u64 = 64 << 20;

/// Where spill files are; made when the first one is written.
#[derive(Clone, Debug)]
pub struct SpillDir {
    dir: Arc<Path>,
    next: Arc<AtomicU64>,
}

impl SpillDir {
    /// The directory, emptied: what is in it is of a process that is gone.
    pub fn open(dir: &Path) -> Result<Self> {
        if dir.exists() {
            disk::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))?;
        }
        Ok(Self { dir: dir.into(), next: Arc::default() })
    }
}

/// A batch in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    file: u64,
    at: u64,
    len: u32,
    /// Length of the message's head.
    pub head: u32,
    check: u64,
}

impl Place {
    /// Bytes of the batch.
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

/// A place with the file that it is in, whatever becomes of the file's name.
pub(super) struct Away {
    file: Arc<File>,
    path: Arc<Path>,
    /// Where in it.
    pub place: Place,
}

impl Away {
    /// The batch's bytes.
    pub fn read(&self) -> Result<Buffer> {
        let (at, path) = (self.place.at, self.path.display());
        let mut bytes = MutableBuffer::from_len_zeroed(self.place.len());
        let read = self.file.read_exact_at(bytes.as_slice_mut(), at);
        read.map_err(|e| Error::io("read", &self.path, e).at(format!("rows that wait, at byte {at}")))?;
        match hash64(bytes.as_slice(), at) == self.place.check {
            true => Ok(bytes.into()),
            false => Err(Error::corrupt(format!(
                "{path}: {} bytes of rows at byte {at} are not what was written; see to the disk, and start again: the job \
                 goes on from its checkpoint",
                self.place.len
            ))),
        }
    }
}

struct SpillFile {
    file: Arc<File>,
    path: Arc<Path>,
    /// Batches in it that are needed.
    used: u64,
}

/// Files of one side of the join.
pub(super) struct Spill {
    dir: SpillDir,
    files: BTreeMap<u64, SpillFile>,
    /// What is written to: its number, a handle of its own and its length.
    open: Option<(u64, File, u64)>,
    bytes: u64,
}

impl Spill {
    /// No files yet.
    pub fn new(dir: SpillDir) -> Self {
        Self { dir, files: BTreeMap::new(), open: None, bytes: 0 }
    }

    /// Files beside these, in the same directory.
    pub fn another(&self) -> Self {
        Self::new(self.dir.clone())
    }

    /// Appends a batch. Where that fails, nothing has changed.
    pub fn write(&mut self, bytes: &[u8], head: u32) -> Result<Place> {
        let (number, mut file, at) = match self.open.take() {
            Some(open) => open,
            None => self.create()?,
        };
        let path = self.files[&number].path.clone();
        let written = file.write_all(bytes).map_err(|e| {
            Error::io("write", &path, e).at("join.when_full = 'spill': rows that wait find no room on the disk either")
        });
        // What a failed write has left behind stays in a file that takes no more.
        written.inspect_err(|_| self.drop_if_unused(number))?;
        let len = bytes.len() as u32;
        let end = at + u64::from(len);
        if end < FILE_BYTES {
            self.open = Some((number, file, end));
        }
        self.files.get_mut(&number).expect("it is there while it is open").used += 1;
        self.bytes += u64::from(len);
        Ok(Place { file: number, at, len, head, check: hash64(bytes, at) })
    }

    fn create(&mut self) -> Result<(u64, File, u64)> {
        disk::make_dir(&self.dir.dir).map_err(|e| Error::io("create", &self.dir.dir, e))?;
        let number = self.dir.next.fetch_add(1, Ordering::Relaxed);
        let path: PathBuf = self.dir.dir.join(format!("{number:06}.rows"));
        let failed = |e| Error::io("create", &path, e);
        // Two handles: one that a write moves along, and one to read by place from any thread.
        let file = File::open(&path).map_err(failed)?;
        let reading = Arc::new(file.try_clone().map_err(failed)?);
        self.files.insert(number, SpillFile { file: reading, path: path.as_path().into(), used: 0 });
        Ok((number, file, 0))
    }

    /// A batch's place with its file.
    pub fn away(&self, place: Place) -> Away {
        let file = &self.files[&place.file];
        Away { file: file.file.clone(), path: file.path.clone(), place }
    }

    /// A batch is not needed any more.
    pub fn release(&mut self, place: Place) {
        self.bytes -= u64::from(place.len);
        self.files.get_mut(&place.file).expect("a file stays while a batch in it is needed").used -= 1;
        if self.open.as_ref().is_none_or(|open| open.0 != place.file) {
            self.drop_if_unused(place.file);
        }
    }

    /// Bytes of batches that are needed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The name goes; whoever has a handle may still read. Should it stay, the next start removes it.
    fn drop_if_unused(&mut self, number: u64) {
        if self.files.get(&number).is_some_and(|file| file.used == 0)
            && let Some(file) = self.files.remove(&number)
        {
            let _ = disk::remove_file(&file.path);
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.files.values().for_each(|file| _ = disk::remove_file(&file.path));
    }
}
