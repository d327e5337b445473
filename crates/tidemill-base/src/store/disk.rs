//! The door to the disk for everything that is written: what `std::fs` does, a place where a test can stand in between, and
//! one where something else can stand behind that keeps the files.
//!
//! In: paths and bytes. Out: what the operating system says. A test that owns a directory may put [`Faults`] over it
//! ([`inject`]): they are told of every access below it before it happens, and refuse it, cut it short or note what a loss of
//! power would leave. Then nothing is synced for real: what would be durable is theirs to know. What stands behind a directory
//! ([`Behind`], [`stand_behind`]) is told of what has been written, and nothing appears, and no sync returns, before it has
//! it durable; the directory itself is then scratch. Without any of them an access costs one look at a number more.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// One access to the disk that changes something, about to happen.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// A file is opened for writing, and created where there is none. The answer is the file's number in what follows.
    Open {
        /// Where it is.
        path: &'a Path,
        /// Whether what is in it goes.
        truncate: bool,
    },
    /// Bytes go into a file. The answer is how many of them get there.
    Write {
        /// The file's number.
        file: u64,
        /// The byte in the file at which they begin.
        at: u64,
        /// What they are.
        bytes: &'a [u8],
    },
    /// A file is cut off, or filled up with zeros.
    SetLen {
        /// The file's number.
        file: u64,
        /// Its length from now on.
        len: u64,
    },
    /// What is in a file is made durable.
    Sync {
        /// The file's number.
        file: u64,
    },
    /// The names in a directory are made durable.
    SyncDir(&'a Path),
    /// A directory is made.
    MakeDir(&'a Path),
    /// A file gets another name, over what had it.
    Rename(&'a Path, &'a Path),
    /// A file gets a second name.
    Link(&'a Path, &'a Path),
    /// A file's name goes.
    Remove(&'a Path),
    /// A directory goes, with everything in it.
    RemoveDir(&'a Path),
}

/// What stands between the program and a directory.
pub trait Faults: Send + Sync {
    /// Told before it happens; an error keeps it from happening.
    fn access(&self, access: Access) -> io::Result<u64>;
}

/// What keeps the files of a directory somewhere else. Its errors are those of the access.
pub trait Behind: Send + Sync {
    /// Bytes have been written into a file.
    fn written(&self, path: &Path, at: u64, bytes: u64) -> io::Result<()>;
    /// A file has been cut off.
    fn set_len(&self, path: &Path, len: u64) -> io::Result<()>;
    /// What is in a file is to be durable when this returns.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory are to be.
    fn sync_dir(&self) -> io::Result<()>;
    /// A file is about to get a name, and is to be durable under it when this returns.
    fn put(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A file's name is about to go.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// A directory is about to go, with everything in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// Faults over a directory, until it is dropped.
pub struct Injected(Arc<dyn Faults>);

/// Something behind a directory, until it is dropped.
pub struct Standing(Arc<dyn Behind>);

static INJECTED: AtomicUsize = AtomicUsize::new(0);
static BY_ROOT: RwLock<Vec<(PathBuf, Arc<dyn Faults>)>> = RwLock::new(Vec::new());
static STANDING: AtomicUsize = AtomicUsize::new(0);
static BEHIND: RwLock<Vec<(PathBuf, Arc<dyn Behind>)>> = RwLock::new(Vec::new());

/// Puts faults over everything below `root`. Files that are open already are not concerned.
pub fn inject(root: &Path, faults: Arc<dyn Faults>) -> Injected {
    BY_ROOT.write().unwrap_or_else(PoisonError::into_inner).push((root.to_path_buf(), faults.clone()));
    INJECTED.fetch_add(1, Ordering::SeqCst);
    Injected(faults)
}

impl Drop for Injected {
    fn drop(&mut self) {
        INJECTED.fetch_sub(1, Ordering::SeqCst);
        let mut all = BY_ROOT.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, faults)| !Arc::ptr_eq(faults, &self.0));
    }
}

/// Puts something behind everything below `root`. Files that are open already are not concerned.
pub fn stand_behind(root: &Path, behind: Arc<dyn Behind>) -> Standing {
    BEHIND.write().unwrap_or_else(PoisonError::into_inner).push((root.to_path_buf(), behind.clone()));
    STANDING.fetch_add(1, Ordering::SeqCst);
    Standing(behind)
}

impl Drop for Standing {
    fn drop(&mut self) {
        STANDING.fetch_sub(1, Ordering::SeqCst);
        let mut all = BEHIND.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, behind)| !Arc::ptr_eq(behind, &self.0));
    }
}

fn behind(path: &Path) -> Option<Arc<dyn Behind>> {
    if STANDING.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let all = BEHIND.read().unwrap_or_else(PoisonError::into_inner);
    all.iter().find(|(root, _)| path.starts_with(root)).map(|(_, behind)| behind.clone())
}

fn over(path: &Path) -> Option<Arc<dyn Faults>> {
    if INJECTED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let all = BY_ROOT.read().unwrap_or_else(PoisonError::into_inner);
    all.iter().find(|(root, _)| path.starts_with(root)).map(|(_, faults)| faults.clone())
}

fn tell(path: &Path, access: Access) -> io::Result<bool> {
    match over(path) {
        None => Ok(false),
        Some(faults) => faults.access(access).map(|_| true),
    }
}

/// A file that is written.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    watched: Option<Watched>,
    kept: Option<Kept>,
}

/// A file that something behind its directory keeps.
#[derive(Clone)]
struct Kept {
    behind: Arc<dyn Behind>,
    path: PathBuf,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kept elsewhere: {}", self.path.display())
    }
}

#[derive(Clone)]
struct Watched {
    faults: Arc<dyn Faults>,
    number: u64,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file {}", self.number)
    }
}

impl File {
    /// Creates a file, or empties the one that is there.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::open_with(path, true, fs::OpenOptions::new().create(true).truncate(true).write(true))
    }

    /// Opens a file as it is, for reading and writing, and creates it where there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, false, fs::OpenOptions::new().create(true).truncate(false).read(true).write(true))
    }

    fn open_with(path: &Path, truncate: bool, options: &fs::OpenOptions) -> io::Result<Self> {
        let watched = match over(path) {
            None => None,
            Some(faults) => {
                let number = faults.access(Access::Open { path, truncate })?;
                Some(Watched { faults, number })
            }
        };
        let file = options.open(path)?;
        let kept = behind(path).map(|behind| Kept { behind, path: path.to_path_buf() });
        Ok(Self { file, watched, kept })
    }

    /// Makes what is in the file durable.
    pub fn sync_all(&self) -> io::Result<()> {
        self.sync_by(fs::File::sync_all)
    }

    /// As [`File::sync_all`], without what is not needed to read it back.
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_by(fs::File::sync_data)
    }

    fn sync_by(&self, sync: impl FnOnce(&fs::File) -> io::Result<()>) -> io::Result<()> {
        let is_watched = self.tell(|file| Access::Sync { file })?.is_some();
        match &self.kept {
            Some(kept) => kept.behind.sync(&kept.path),
            None if is_watched => Ok(()),
            None => sync(&self.file),
        }
    }

    /// Whether the file is kept somewhere else, and this one is scratch.
    pub fn is_kept_elsewhere(&self) -> bool {
        self.kept.is_some()
    }

    /// Cuts the file off, or fills it up with zeros.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.tell(|file| Access::SetLen { file, len })?;
        self.file.set_len(len)?;
        self.kept.as_ref().map_or(Ok(()), |kept| kept.behind.set_len(&kept.path, len))
    }

    /// A second handle on the file.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, watched: self.watched.clone(), kept: self.kept.clone() })
    }

    /// Bytes in it.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    fn tell<'a>(&self, access: impl FnOnce(u64) -> Access<'a>) -> io::Result<Option<u64>> {
        self.watched.as_ref().map(|w| w.faults.access(access(w.number))).transpose()
    }
}

impl io::Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.watched.is_none() && self.kept.is_none() {
            return self.file.write(bytes);
        }
        let at = io::Seek::stream_position(&mut self.file)?;
        let through = self.tell(|file| Access::Write { file, at, bytes })?.map_or(bytes.len(), |n| n as usize);
        self.file.write_all(&bytes[..through])?;
        if let Some(kept) = &self.kept {
            kept.behind.written(&kept.path, at, through as u64)?;
        }
        Ok(through)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl io::Read for File {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.file.read(out)
    }
}

impl io::Seek for File {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl File {
    /// Fills `out` with the bytes from `at` on; an error where the file ends before them. Moves no other reader or writer.
    pub fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, at)
    }
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let is_watched = tell(dir, Access::SyncDir(dir))?;
    if let Some(behind) = behind(dir) {
        return behind.sync_dir();
    }
    if is_watched {
        return Ok(());
    }
    fs::File::open(dir).and_then(|d| d.sync_all())
}

/// Makes a directory, and those it lies in, and makes the names of those that were made durable.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).collect();
    for dir in missing.into_iter().rev() {
        tell(dir, Access::MakeDir(dir))?;
        match fs::create_dir(dir) {
            // Somebody else made it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        sync_name(dir)?;
    }
    match dir.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// Makes a name durable, whoever gave it.
pub fn sync_name(path: &Path) -> io::Result<()> {
    sync_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Gives a file another name, over what had it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    tell(to, Access::Rename(from, to))?;
    behind(to).map_or(Ok(()), |behind| behind.put(from, to))?;
    fs::rename(from, to)
}

/// Gives a file a second name, which must be free.
pub fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    let behind = behind(to);
    if (over(to).is_some() || behind.is_some()) && to.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    tell(to, Access::Link(from, to))?;
    behind.map_or(Ok(()), |behind| behind.put(from, to))?;
    fs::hard_link(from, to)
}

/// Removes a file.
pub fn remove_file(path: &Path) -> io::Result<()> {
    let behind = behind(path);
    if (over(path).is_some() || behind.is_some()) && !path.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    tell(path, Access::Remove(path))?;
    behind.map_or(Ok(()), |behind| behind.remove(path))?;
    fs::remove_file(path)
}

/// Removes a directory with everything in it.
pub fn remove_dir_all(dir: &Path) -> io::Result<()> {
    tell(dir, Access::RemoveDir(dir))?;
    behind(dir).map_or(Ok(()), |behind| behind.remove_dir(dir))?;
    fs::remove_dir_all(dir)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Mutex, atomic::AtomicU64},
    };

    use super::*;

    /// Lets so many bytes through, and notes what it was told.
    #[derive(Default)]
    struct Narrow {
        left: AtomicU64,
        told: Mutex<Vec<String>>,
    }

    impl Faults for Narrow {
        fn access(&self, access: Access) -> io::Result<u64> {
            let text = format!("{access:?}");
            self.told.lock().unwrap().push(text.split([' ', '(']).next().unwrap().to_string());
            let Access::Write { bytes, .. } = access else { return Ok(1) };
            let through = self.left.load(Ordering::SeqCst).min(bytes.len() as u64);
            self.left.fetch_sub(through, Ordering::SeqCst);
            if through == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(through) }
        }
    }

    #[test]
    fn faults_are_told_of_what_happens_below_their_directory_and_of_nothing_else() {
        let root = std::env::temp_dir().join(format!("tidemill-disk-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let (inside, outside) = (root.join("in"), root.join("out"));
        [&inside, &outside].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        let faults = Arc::new(Narrow { left: 5.into(), ..Narrow::default() });
        let injected = inject(&inside, faults.clone());
        let mut file = File::create(&inside.join("a")).unwrap();
        assert_eq!(file.write_all(b"1234567").unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.sync_all().unwrap();
        assert_eq!(fs::read(inside.join("a")).unwrap(), b"12345");
        rename(&inside.join("a"), &inside.join("b")).unwrap();
        File::create(&outside.join("a")).unwrap().write_all(b"1234567").unwrap();
        drop(injected);
        File::create(&inside.join("c")).unwrap().write_all(b"1234567").unwrap();
        assert_eq!(*faults.told.lock().unwrap(), ["Open", "Write", "Write", "Sync", "Rename"]);
        fs::remove_dir_all(root).unwrap();
    }
}
