//! Reading a bucket: which files it holds by its commits, and the files themselves.
//!
//! In: a store. Out: its newest state, and files in a directory. Nothing is changed in the store. Who reads while an owner writes may
//! find that something went which had been there a moment before: then it begins again.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    super::objects::Objects,
    COMMITS,
    commit::{Commit, Content, Kind as CommitKind, Piece},
    commit_key,
    tree::{Node, Tree},
};
use crate::{Error, Kind, Result, hash::Hasher64};

/// How often something may go while it is read.
const TRIES: usize = 5;
/// Commits read at once.
const AT_ONCE: usize = 32;
/// Files fetched at once: most are small, and each is waited for.
const FILES_AT_ONCE: usize = 8;

/// The state of a bucket after its last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Newest {
    /// The last commit's number; 0 of an empty bucket.
    pub number: u64,
    /// Who owned it last.
    pub owner: u64,
    /// And who that is, for people.
    pub who: String,
    /// The newest full commit, and the one before it.
    pub full: u64,
    /// Claims since the beginning.
    pub claims: Vec<u64>,
    /// Its files.
    pub tree: Tree,
    /// Numbers of all commits that stand in the store.
    pub stored: Vec<u64>,
}

/// Runs `read` anew while what it reads goes away under it.
pub(super) fn again<T>(mut read: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 1;
    loop {
        match read() {
            Err(e) if e.kind() == Kind::NotFound && tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

impl Newest {
    /// The newest state; `NotFound` where commits went while they were read.
    pub fn read(objects: &dyn Objects) -> Result<Self> {
        let stored: Vec<u64> = objects.list(COMMITS)?.iter().filter_map(|key| number_of(key)).collect();
        let Some(&number) = stored.iter().max() else { return Ok(Self::default()) };
        let last = read_commit(objects, number)?;
        let mut newest = Self { number, owner: last.owner, who: last.who.clone(), stored, ..Self::default() };
        newest.full = match last.kind {
            CommitKind::Full(_) => number,
            _ => last.newest_full,
        };
        let numbers: Vec<u64> = (newest.full.max(1)..number).collect();
        for some in numbers.chunks(AT_ONCE) {
            let keys: Vec<String> = some.iter().map(|n| commit_key(*n)).collect();
            for (number, bytes) in some.iter().zip(objects.get_all(&keys)?) {
                newest.take(&Commit::decode(&bytes, *number, &place(objects, *number))?);
            }
        }
        newest.take(&last);
        Ok(newest)
    }

    fn take(&mut self, commit: &Commit) {
        match &commit.kind {
            CommitKind::Full(claims) => (self.claims, self.tree) = (claims.clone(), Tree::default()),
            CommitKind::Claim => self.claims.push(commit.number),
            CommitKind::Changes => {}
        }
        commit.changes.iter().for_each(|change| _ = self.tree.apply(change, true));
    }

    /// Puts the files of which `is_wanted` says so into a directory; the others are there and empty.
    pub fn download(
        &self,
        objects: &dyn Objects,
        root: &Path,
        is_wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<()> {
        let files: Vec<(&String, &Node)> = self.tree.files.iter().collect();
        let next = AtomicUsize::new(0);
        let fetch_some = || {
            while let Some((path, node)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                fetch_file(objects, root, path, node, is_wanted(path))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..FILES_AT_ONCE.min(files.len())).map(|_| scope.spawn(fetch_some)).collect();
            let panicked = |_| Err(Error::internal("a thread that fetches files panicked"));
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
        })
    }
}

fn fetch_file(objects: &dyn Objects, root: &Path, path: &str, node: &Node, is_wanted: bool) -> Result<()> {
    let to = root.join(path);
    let parent = to.parent().unwrap_or(root);
    fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    let failed = |e| Error::io("write", &to, e);
    let file = OpenOptions::new().create(true).write(true).truncate(true).open(&to).map_err(failed)?;
    if !is_wanted {
        return Ok(());
    }
    let mut file = BufWriter::new(file);
    match node {
        Node::Whole(Content::Inline(bytes)) => file.write_all(bytes).map_err(failed)?,
        Node::Whole(Content::Object(piece)) => fetch(objects, piece, path, &mut file)?,
        Node::Grown(grown) => {
            grown.pieces.iter().try_for_each(|piece| fetch(objects, piece, path, &mut file))?;
            file.write_all(&grown.tail).map_err(failed)?;
            for (at, bytes) in &grown.patches {
                file.seek(SeekFrom::Start(*at)).and_then(|_| file.write_all(bytes)).map_err(failed)?;
            }
        }
    }
    file.flush().map_err(failed)
}

/// The commit of a number.
pub(super) fn read_commit(objects: &dyn Objects, number: u64) -> Result<Commit> {
    Commit::decode(&objects.get(&commit_key(number))?, number, &place(objects, number))
}

fn place(objects: &dyn Objects, number: u64) -> String {
    format!("{}/{}", objects.name(), commit_key(number))
}

fn number_of(key: &str) -> Option<u64> {
    key.strip_prefix(COMMITS)?.parse().ok()
}

fn fetch(objects: &dyn Objects, piece: &Piece, path: &str, to: &mut dyn Write) -> Result<()> {
    let mut checked = Checked { to, left: piece.bytes, came: 0, hash: Hasher64::new(0) };
    let fetched = objects.get_into(&piece.key, &mut checked);
    let place = || format!("{}/{}, a piece of {path}", objects.name(), piece.key);
    fetched.map_err(|e| e.at(place()))?;
    if checked.came != piece.stored || checked.hash.finish() != piece.hash {
        let (came, stored) = (checked.came, piece.stored);
        return Err(Error::corrupt(format!("{} is not what was written ({came} of {stored} bytes)", place())));
    }
    Ok(())
}

/// Lets the bytes that count through, and takes a check of all.
struct Checked<'a> {
    to: &'a mut dyn Write,
    left: u64,
    came: u64,
    hash: Hasher64,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let through = bytes.len().min(self.left as usize);
        self.to.write_all(&bytes[..through])?;
        self.left -= through as u64;
        self.came += bytes.len() as u64;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
