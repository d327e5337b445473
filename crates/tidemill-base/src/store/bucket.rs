//! A directory whose files are kept in a store of objects: what is durable there outlives the machine.
//!
//! In: what happens to files below a directory ([`disk::Behind`]). Out: commits, one object each, numbered without gaps and put
//! only if absent: whatever is made durable is in one that the store has acknowledged. So of two owners one finds its next
//! number taken, and from then on nothing of it counts: that is the fence, and there is no other. The directory itself is
//! scratch: it is made anew of the bucket at every start.
//!
//! ```text
//! commits/00000000000000000042   what changed, or all files; small files and what logs grew by stand in it
//! objects/00000003-0000000017    a file, or a piece of one, of owner 3
//! ```
//!
//! Files that appear whole (written as `NAME.tmp`, then linked or renamed) wait for their commit before anybody sees them.
//! Logs (`*.log`) grow beside it: their bytes go at the latest [`DELAY`] after they came, and who syncs waits. The dead letter
//! (`*.jsonl`) goes along. Everything else stays here. A store that does not answer is waited for: then what wants to be durable
//! stands still, and nothing is lost. Format and reasons: docs/0013.

pub mod commit;
mod owner;
mod read;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use self::{
    commit::{Change, Content},
    owner::Owner,
    read::Newest,
};
use super::{
    disk::{self, Behind},
    objects::Objects,
};
use crate::{Error, Kind, Result};

/// Where commits stand.
const COMMITS: &str = "commits/";
/// Where files do.
const OBJECTS: &str = "objects/";
/// How long what nobody waits for may gather: each commit costs a request, which stores want to be paid for.
const DELAY: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 1000 });
/// How long it is waited before a store that did not answer is asked again.
const RETRY_EVERY: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 300 });
/// Bytes of logs that may wait for the store; beyond it who writes waits.
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// A file up to this size stands in its commit.
const INLINE_BYTES_MAX: u64 = 16 << 10;

fn commit_key(number: u64) -> String {
    format!("{COMMITS}{number:020}")
}

/// What people are told of a store, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It does not answer, or refuses; it is asked again.
    Away(String),
    /// It answers again.
    Back,
    /// Somebody else owns the bucket now.
    Replaced(String),
}

/// Hears of it.
pub type Listener = Box<dyn Fn(&News) + Send + Sync>;

/// A bucket that this process owns until another one takes it.
pub struct Bucket {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    // Last: until the thread has ended, files still go through it.
    standing: Option<disk::Standing>,
}

/// What the thread shares with everybody who writes files.
struct Shared {
    root: PathBuf,
    objects: Arc<dyn Objects>,
    listener: Listener,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// What waits for its commit.
#[derive(Default)]
struct Waiting {
    changes: Vec<Change>,
    grown: BTreeMap<PathBuf, Grew>,
    grown_bytes: u64,
    /// Files written beside their place, and where their bytes are.
    staged: BTreeMap<PathBuf, Content>,
    /// Changes so far, those a commit has taken, and those that are durable.
    asked: u64,
    taken: u64,
    committed: u64,
    /// Whether somebody waits.
    is_urgent: bool,
    is_closing: bool,
    /// Why the store was no use when it was asked last.
    trouble: Option<String>,
    /// Why nothing will ever be committed again.
    over: Option<String>,
    /// The next object's number, of this owner.
    next_object: u64,
    owner: u64,
}

/// What happened to a file that grows since it was taken last.
#[derive(Clone, Copy, Debug, Default)]
struct Grew {
    /// The shortest it has been.
    cut: Option<u64>,
    /// Bytes that were written, from the first to behind the last; may hold some in between that were not.
    written: Option<(u64, u64)>,
}

impl Bucket {
    /// Takes the bucket over from whoever owned it, and puts its files into `root`, which is empty. `who` names this process
    /// to people, and differs for any two.
    pub fn own(objects: Arc<dyn Objects>, root: &Path, who: &str, listener: Listener) -> Result<Self> {
        let newest = owner::claim(&*objects, who)?;
        newest.download(&*objects, root, &|_| true)?;
        let waiting = Waiting { owner: newest.owner, ..Waiting::default() };
        let shared = Arc::new(Shared {
            root: root.to_path_buf(),
            objects,
            listener,
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
        });
        let standing = disk::stand_behind(root, shared.clone());
        let owner = Owner::new(shared.clone(), newest, who);
        let thread = std::thread::Builder::new()
            .name("bucket".into())
            .spawn(move || owner.run())
            .map_err(|e| Error::unavailable(format!("cannot start the thread that writes to the bucket: {e}")))?;
        Ok(Self { shared, thread: Some(thread), standing: Some(standing) })
    }

    /// Puts files of a bucket into `root`, which is empty, and keeps whatever happens there out of the bucket: nothing may be
    /// changed. Files that are not wanted are there and empty.
    pub fn read(
        objects: &dyn Objects,
        root: &Path,
        is_wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<disk::Standing> {
        let missing = || Error::not_found(format!("{} holds no tidemill data", objects.name()));
        read::again(|| {
            let newest = Newest::read(objects)?;
            if newest.number == 0 {
                return Ok(None);
            }
            newest.download(objects, root, is_wanted).map(Some)
        })?
        .ok_or_else(missing)?;
        Ok(disk::stand_behind(root, Arc::new(ReadOnly(objects.name()))))
    }

    /// Why the store was no use when it was asked last; `None` where it was.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }

    /// Which owner of the bucket this is; the first is 1.
    pub fn owner(&self) -> u64 {
        self.shared.lock().owner
    }

    /// Looks at the trouble from elsewhere.
    pub fn trouble_handle(&self) -> Arc<dyn Fn() -> Option<String> + Send + Sync> {
        let shared = self.shared.clone();
        Arc::new(move || shared.lock().trouble.clone())
    }
}

impl Drop for Bucket {
    /// What waits goes, if the store takes it at once; nobody was told that it is durable.
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        drop(self.standing.take());
    }
}

/// Whether a file grows and is kept while it does; and whether anybody waits for it.
fn grows(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "log" || e == "jsonl")
}

fn is_beside(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "tmp")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner)
    }

    /// A path as it stands in the bucket.
    fn path_in(&self, path: &Path) -> io::Result<String> {
        let below = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
        below.map(str::to_string).ok_or_else(|| io::Error::other("its name is not UTF-8"))
    }

    /// Waits until all that has happened so far is in a commit.
    fn commit(&self, mut waiting: MutexGuard<'_, Waiting>) -> io::Result<()> {
        let asked = waiting.asked;
        while waiting.committed < asked {
            waiting.check()?;
            if waiting.taken < asked && !std::mem::replace(&mut waiting.is_urgent, true) {
                self.changed.notify_all();
            }
            waiting = self.wait(waiting);
        }
        waiting.check()
    }

    /// Makes durable what is in a file beside its place, for the commit that will name it.
    fn stage(&self, path: &Path) -> io::Result<Content> {
        let bytes = path.metadata()?.len();
        if bytes <= INLINE_BYTES_MAX {
            return Ok(Content::Inline(std::fs::read(path)?));
        }
        owner::upload(self, path, super::objects::Range { from: 0, bytes }).map(Content::Object).map_err(as_io)
    }

    fn push(&self, waiting: &mut Waiting, change: Change) {
        waiting.changes.push(change);
        waiting.asked += 1;
        self.changed.notify_all();
    }
}

impl Waiting {
    fn check(&self) -> io::Result<()> {
        match &self.over {
            None => Ok(()),
            Some(why) => Err(as_io(Error::conflict(why.clone()))),
        }
    }

    /// Forgets what a file grew by: it goes, or is another one.
    fn forget_growth(&mut self, is_meant: impl Fn(&Path) -> bool) {
        self.grown.retain(|path, _| !is_meant(path));
    }

    fn has_any(&self) -> bool {
        !self.changes.is_empty() || !self.grown.is_empty()
    }
}

/// An error of ours as one of the operating system: its kind is found again by [`Error::io`].
fn as_io(e: Error) -> io::Error {
    let kind = match e.kind() {
        Kind::Conflict => io::ErrorKind::AlreadyExists,
        Kind::NotFound => io::ErrorKind::NotFound,
        Kind::Exhausted => io::ErrorKind::StorageFull,
        Kind::Corrupt => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, e.message().to_string())
}

impl Behind for Shared {
    fn written(&self, path: &Path, at: u64, bytes: u64) -> io::Result<()> {
        if !grows(path) || bytes == 0 {
            return Ok(());
        }
        let mut waiting = self.lock();
        while waiting.grown_bytes > WAITING_BYTES_MAX {
            waiting.check()?;
            waiting.is_urgent = true;
            self.changed.notify_all();
            waiting = self.wait(waiting);
        }
        waiting.check()?;
        // The thread gathers by itself what follows the first.
        let is_first = !waiting.has_any();
        let grew = waiting.grown.entry(path.to_path_buf()).or_default();
        let (begin, end) = grew.written.unwrap_or((at, at));
        grew.written = Some((begin.min(at), end.max(at + bytes)));
        waiting.grown_bytes += bytes;
        waiting.asked += 1;
        if is_first {
            self.changed.notify_all();
        }
        Ok(())
    }

    fn set_len(&self, path: &Path, len: u64) -> io::Result<()> {
        if !grows(path) {
            return Ok(());
        }
        let mut waiting = self.lock();
        waiting.check()?;
        let grew = waiting.grown.entry(path.to_path_buf()).or_default();
        grew.cut = Some(grew.cut.map_or(len, |cut| cut.min(len)));
        grew.written = grew.written.map(|(begin, end)| (begin.min(len), end.min(len))).filter(|(b, e)| b < e);
        waiting.asked += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        if is_beside(path) {
            let content = self.stage(path)?;
            self.lock().staged.insert(path.to_path_buf(), content);
        } else if grows(path) {
            self.commit(self.lock())?;
        }
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.commit(self.lock())
    }

    fn put(&self, from: &Path, to: &Path) -> io::Result<()> {
        let staged = self.lock().staged.remove(from);
        let content = staged.map_or_else(|| self.stage(from), Ok)?;
        let path = self.path_in(to)?;
        let mut waiting = self.lock();
        waiting.check()?;
        waiting.forget_growth(|grown| grown == to);
        self.push(&mut waiting, Change::Put { path, content });
        self.commit(waiting)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut waiting = self.lock();
        waiting.check()?;
        waiting.staged.remove(path);
        waiting.forget_growth(|grown| grown == path);
        if !is_beside(path) {
            let path = self.path_in(path)?;
            self.push(&mut waiting, Change::Remove { path });
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut waiting = self.lock();
        waiting.check()?;
        waiting.forget_growth(|grown| grown.starts_with(path));
        let path = self.path_in(path)?;
        self.push(&mut waiting, Change::RemoveDir { path });
        Ok(())
    }
}

/// Stands behind a directory that was read from a bucket.
struct ReadOnly(String);

impl ReadOnly {
    fn refuse(&self) -> io::Result<()> {
        let name = &self.0;
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{name} is only read here; it belongs to the process that learns"),
        ))
    }
}

impl Behind for ReadOnly {
    fn written(&self, path: &Path, _: u64, _: u64) -> io::Result<()> {
        if grows(path) { self.refuse() } else { Ok(()) }
    }

    fn set_len(&self, path: &Path, _: u64) -> io::Result<()> {
        if grows(path) { self.refuse() } else { Ok(()) }
    }

    fn sync(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn put(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        self.refuse()
    }
}
