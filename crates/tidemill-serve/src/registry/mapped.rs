//! A version's weights without its snapshot being read: the file is mapped into memory, and what is asked for is read then.
//!
//! In: a version that the registry names. Out: weights that hold the file. Its length and its root are compared with the
//! manifest, its pages with their checksums when they are touched first. A snapshot of an older format is read whole.

use std::{fs::File, path::Path, sync::Arc};

use memmap2::Mmap;
use tidemill_base::{Error, Kind, Result};
use tidemill_model::weights::{SharedBytes, WeightTable};

use super::Registry;

impl Registry {
    /// The weights of a version, read as they are asked for.
    pub fn open_weights(&self, version: u64) -> Result<WeightTable> {
        let manifest = {
            let known = self.known();
            known.find(version).cloned().ok_or_else(|| self.no_version(&known, version))?
        };
        let path = self.path(version, "snapshot");
        let map = map(&path).map_err(|e| if e.kind() == Kind::NotFound { self.missing(&path, version) } else { e })?;
        if map.len() as u64 != manifest.snapshot_bytes {
            return Err(self.cut_short(&path, map.len() as u64, manifest.snapshot_bytes));
        }
        let bytes: SharedBytes = Arc::new(map);
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
