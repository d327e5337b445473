//! The data directory: who owns it, in which format it is, where things lie in it.
//!
//! ```text
//! DIR/format                       the layout's version, as text
//! DIR/lock                         held while a process owns the directory; holds its pid and address
//! DIR/sources/NAME/push.log        events taken over HTTP
//! DIR/models/NAME/job/             program.sql, journal.log, checkpoints/, dead_letter.jsonl
//! DIR/models/NAME/versions/        one snapshot and one manifest each, and which of them is live
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use super::{atomic_file, disk};
use crate::{Error, Result};

const FORMAT: u32 = 1;

/// A data directory that this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    lock: File,
}

impl DataDir {
    /// Opens or creates the directory and takes its lock.
    pub fn open(root: &Path) -> Result<Self> {
        disk::make_dir(root).map_err(|e| Error::io("create data directory", root, e))?;
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| Error::io("open", &path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = read_owner(&mut lock);
                let pid = owner.split_whitespace().next().unwrap_or("?");
                return Err(Error::conflict(format!(
                    "{} is locked by pid {pid}; stop that process or use another --data-dir",
                    root.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        check_format(root)?;
        let dir = Self { root: root.to_path_buf(), lock };
        dir.announce("")?;
        Ok(dir)
    }

    /// Writes the address this process answers at into the lock file, for the commands that talk to it.
    pub fn announce(&self, address: &str) -> Result<()> {
        let path = self.root.join("lock");
        let mut lock = &self.lock;
        lock.set_len(0)
            .and_then(|_| lock.rewind())
            .and_then(|_| lock.write_all(format!("{} {address}\n", std::process::id()).as_bytes()))
            .map_err(|e| Error::io("write", &path, e))
    }

    /// The address of the process that owns the directory now; `None` when nobody does or it serves nothing.
    pub fn owner_address(root: &Path) -> Option<String> {
        let mut lock = OpenOptions::new().read(true).write(true).open(root.join("lock")).ok()?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => read_owner(&mut lock).split_whitespace().nth(1).map(str::to_string),
            _ => None,
        }
    }

    /// Whether some process owns the directory now.
    pub fn is_owned(root: &Path) -> bool {
        let lock = OpenOptions::new().read(true).write(true).open(root.join("lock"));
        lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a source keeps the events it was pushed; created if need be.
    pub fn source(&self, name: &str) -> Result<PathBuf> {
        self.make(&["sources", name])
    }

    /// Where a training job keeps its journal and checkpoints; created if need be.
    pub fn job(&self, model: &str) -> Result<PathBuf> {
        self.make(&["models", model, "job"])
    }

    /// Where a model's versions lie; created if need be.
    pub fn versions(&self, model: &str) -> Result<PathBuf> {
        self.make(&["models", model, "versions"])
    }

    /// Names of the models that have a place here, sorted.
    pub fn models(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.root.join("models"))
            .map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    fn make(&self, parts: &[&str]) -> Result<PathBuf> {
        let mut path = self.root.clone();
        for part in parts {
            path.push(part);
            disk::make_dir(&path).map_err(|e| Error::io("create", &path, e))?;
            // Who made it may have been killed before its name was durable, and what will lie in it is to last.
            disk::sync_name(&path).map_err(|e| Error::io("sync", &path, e))?;
        }
        Ok(path)
    }
}

/// Whether `name` may name a model, a source or a view on disk and in a URL.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let good = (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} name may hold letters, digits, '_', '-', '.'; 1 to 128 characters, no dot first; got '{}'",
        name.escape_default()
    )))
}

fn check_format(root: &Path) -> Result<()> {
    let path = root.join("format");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return atomic_file::replace(&path, format!("{FORMAT}\n").as_bytes());
        }
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    match text.trim().parse::<u32>() {
        Ok(FORMAT) => Ok(()),
        Ok(v) if v > FORMAT => Err(Error::conflict(format!(
            "{}: data directory format {v} is newer than this binary ({FORMAT}); use a newer tidemill or another --data-dir",
            root.display()
        ))),
        _ => Err(Error::corrupt(format!("{}: '{}' is not a format version", path.display(), text.trim()))),
    }
}

fn read_owner(lock: &mut File) -> String {
    let mut text = String::new();
    let _ = lock.read_to_string(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::{disk::Access, *};

    /// Notes the directories that are made, and those whose names are made durable.
    #[derive(Default)]
    struct Noting(Mutex<(Vec<PathBuf>, Vec<PathBuf>)>);

    impl disk::Faults for Noting {
        fn access(&self, access: Access) -> std::io::Result<u64> {
            let mut noted = self.0.lock().unwrap();
            match access {
                Access::MakeDir(dir) => noted.0.push(dir.to_path_buf()),
                Access::SyncDir(dir) => noted.1.push(dir.to_path_buf()),
                Access::Write { bytes, .. } => return Ok(bytes.len() as u64),
                _ => {}
            }
            Ok(0)
        }
    }

    /// What is acknowledged lies in directories: their names last as long as it does, whoever made them.
    #[test]
    fn the_names_of_directories_are_durable_before_anything_lies_in_them() {
        let base = std::env::temp_dir().join(format!("tidemill-data-dir-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        let root = base.join("data");
        for made in [["data", "data/models", "data/models/m", "data/models/m/job"].as_slice(), &[]] {
            let faults = Arc::new(Noting::default());
            let injected = disk::inject(&base, faults.clone());
            DataDir::open(&root).unwrap().job("m").unwrap();
            drop(injected);
            let noted = faults.0.lock().unwrap();
            assert_eq!(noted.0, made.iter().map(|dir| base.join(dir)).collect::<Vec<_>>());
            for dir in ["data", "data/models", "data/models/m"] {
                assert!(noted.1.contains(&base.join(dir)), "{dir} of {:?}", noted.1);
            }
        }
        fs::remove_dir_all(base).unwrap();
    }
}
