//! A version's weights without its snapshot being read: the file is mapped into memory, and what is asked for is read then.
//!
//! In: a version that the registry names. Out: weights that hold the file. Its length and its root are compared with the
//! manifest, its pages with their checksums when they are touched first. A snapshot of an older format is read whole.

use std::{fs::File, ops::Range, path::Path, sync::Arc};

use memmap2::{Advice, Mmap};
use tidemill_base::{Error, Kind, Result};
use tidemill_model::weights::{SharedBytes, SnapshotBytes, WeightTable};

use super::Registry;

/// Of so many bytes of a snapshot, one byte of checksums at its end.
const BYTES_OF_A_CHECKED: usize = 2048;
/// More than the header of a usual model.
const HEADER_BYTES: usize = 64 << 10;

/// A snapshot's file.
struct MappedFile(Mmap);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl SnapshotBytes for MappedFile {
    fn will_need(&self, range: Range<usize>) {
        // A hint: without it the pages are read one after another.
        let _ = self.0.advise_range(Advice::WillNeed, range.start, range.len());
    }
}

impl Registry {
    /// The weights of a version, read as they are asked for.
    pub fn open_weights(&self, version: u64) -> Result<WeightTable> {
        let manifest = {
            let known = self.known();
            known.find(version).cloned().ok_or_else(|| self.no_version(&known, version))?
        };
        let path = self.path(version, "snapshot");
        let map = map(&path).map_err(|e| if e.kind() == Kind::NotFound { self.missing(&path, version) } else { e })?;
        let map_len = map.len();
        if map_len as u64 != manifest.snapshot_bytes {
            return Err(self.cut_short(&path, map_len as u64, manifest.snapshot_bytes));
        }
        // What is read at once: the header, and the checksums of all pages.
        let (file, checks) = (MappedFile(map), map_len / BYTES_OF_A_CHECKED + HEADER_BYTES);
        file.will_need(0..HEADER_BYTES.min(map_len));
        file.will_need(map_len.saturating_sub(checks)..map_len);
        let bytes: SharedBytes = Arc::new(file);
        match WeightTable::map(bytes, &path.display().to_string())? {
            Some((_, root)) if manifest.snapshot_root.is_some_and(|told| told != root) => Err(self.another(&path)),
            Some((weights, _)) => Ok(weights),
            None => Ok(WeightTable::from_snapshot(&self.load(version)?)),
        }
    }
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    // SAFETY: a snapshot is never changed in its place: it is written beside it under another name, synced and then linked
    // or renamed to it, and removed as a whole, which leaves its pages to whoever has mapped them. The directory belongs to
    // this process by its lock, or to another tidemill that does the same. So the bytes do not change while the map lives.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}
