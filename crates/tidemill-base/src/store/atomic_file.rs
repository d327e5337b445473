//! Files that are there whole or not at all.
//!
//! Written beside their place, synced, then linked or renamed into it, and the directory synced: a crash at any point
//! leaves the old state or the new one, and perhaps a `.tmp` file that the next owner sweeps away.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::disk::{self, File};
use crate::{Error, Result};

/// Small pieces are gathered up to so many bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Puts `bytes` at `path` unless something is there already ([`Kind::Conflict`](crate::Kind::Conflict)).
pub fn put_if_absent(path: &Path, bytes: &[u8]) -> Result<()> {
    put_if_absent_by(path, &mut |file| file.write_all(bytes))
}

/// As [`put_if_absent`], of what `write` writes: for what is too large to be held in memory for it.
pub fn put_if_absent_by(path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let tmp = write_beside(path, write)?;
    let linked = disk::hard_link(&tmp, path).map_err(|e| Error::io("create", path, e));
    let _ = disk::remove_file(&tmp);
    linked?;
    sync_parent(path)
}

/// Puts `bytes` at `path`, over whatever is there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_by(path, &mut |file| file.write_all(bytes))
}

/// As [`replace`], of what `write` writes.
pub fn replace_by(path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let tmp = write_beside(path, write)?;
    disk::rename(&tmp, path).map_err(|e| {
        let _ = disk::remove_file(&tmp);
        Error::io("rename into", path, e)
    })?;
    sync_parent(path)
}

/// Removes what crashed writers left behind in `dir`, and makes the names of what they finished durable: they may have been
/// killed just before.
pub fn sweep(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.path().extension().is_some_and(|e| e == "tmp") {
            disk::remove_file(&entry.path()).map_err(|e| Error::io("remove", &entry.path(), e))?;
        }
    }
    disk::sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
}

/// Makes names created or removed in `path`'s directory durable.
pub fn sync_parent(path: &Path) -> Result<()> {
    disk::sync_name(path).map_err(|e| Error::io("sync the directory of", path, e))
}

fn write_beside(path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    let mut write_all = || {
        let mut f = BufWriter::with_capacity(BUFFER_BYTES, File::create(&tmp)?);
        write(&mut f)?;
        f.into_inner()?.sync_all()
    };
    write_all().map_err(|e| {
        let _ = disk::remove_file(&tmp);
        Error::io("write", path, e)
    })?;
    Ok(tmp)
}
