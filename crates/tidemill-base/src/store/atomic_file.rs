//! Files that are there whole or not at all.
//!
//! Written beside their place, synced, then linked or renamed into it, and the directory synced: a crash at any point
//! leaves the old state or the new one, and perhaps a `.tmp` file that the next owner sweeps away.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Puts `bytes` at `path` unless something is there already ([`Kind::Conflict`](crate::Kind::Conflict)).
pub fn put_if_absent(path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = write_beside(path, bytes)?;
    let linked = fs::hard_link(&tmp, path).map_err(|e| Error::io("create", path, e));
    let _ = fs::remove_file(&tmp);
    linked?;
    sync_parent(path)
}

/// Puts `bytes` at `path`, over whatever is there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = write_beside(path, bytes)?;
    fs::rename(&tmp, path).map_err(|e| {
        let _ = fs::remove_file(&tmp);
        Error::io("rename into", path, e)
    })?;
    sync_parent(path)
}

/// Removes what crashed writers left behind in `dir`.
pub fn sweep(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.path().extension().is_some_and(|e| e == "tmp") {
            fs::remove_file(entry.path()).map_err(|e| Error::io("remove", &entry.path(), e))?;
        }
    }
    Ok(())
}

/// Makes names created or removed in `path`'s directory durable.
pub fn sync_parent(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", dir, e))
}

fn write_beside(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    let write = || {
        let mut f = File::create(&tmp)?;
        f.write_all(bytes)?;
        f.sync_all()
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&tmp);
        Error::io("write", path, e)
    })?;
    Ok(tmp)
}
