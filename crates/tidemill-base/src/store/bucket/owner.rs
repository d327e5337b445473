//! Owning a bucket: claiming it, and the thread that writes commits.
//!
//! In: what waits. Out: commits in their order, one at a time; once in a while one in which all files stand, so that who reads
//! has little to read; and what no file needs any more goes. A commit whose answer is lost is put again, byte for byte, until it
//! is known whether it stands. Only where another one stands in its place is this process replaced.

use std::sync::{Arc, MutexGuard};

use super::{
    super::objects::{Objects, Range},
    DELAY, Grew, News, OBJECTS, RETRY_EVERY, Shared, Waiting,
    commit::{Change, Commit, Content, Kind as CommitKind, Piece},
    commit_key,
    read::{Newest, again, read_commit},
    tree::{Grown, Node, Tree},
};
use crate::{Error, Kind, Result, hash::Hasher64};

/// A full commit comes after so many others, or so many bytes in them.
const FULL_AFTER_COMMITS: u64 = 64;
const FULL_AFTER_BYTES: u64 = 8 << 20;
/// What a log has grown by stands in a full commit itself up to so many bytes; more becomes an object.
const REST_BYTES_MAX: u64 = 64 << 10;
/// Smaller objects of a log are joined with what comes behind them.
const PIECE_BYTES_MIN: u64 = 8 << 20;

/// Takes the bucket over: from now on nobody else's commit counts. Answers its state.
pub(super) fn claim(objects: &dyn Objects, who: &str) -> Result<Newest> {
    loop {
        let mut newest = again(|| Newest::read(objects))?;
        let number = newest.number + 1;
        let claim = Commit {
            number,
            owner: newest.owner + 1,
            newest_full: newest.full,
            kind: CommitKind::Claim,
            who: who.to_string(),
            changes: Vec::new(),
        };
        // Somebody else came first where it is not put: then the state is another one, too.
        if put(objects, &claim)? {
            check_fence(objects, &claim)?;
            newest.claims.push(number);
            newest.stored.push(number);
            (newest.number, newest.owner, newest.who) = (number, claim.owner, claim.who);
            return Ok(newest);
        }
    }
}

/// Everything rests on the store refusing a name that is taken; some do not, and say that they do.
fn check_fence(objects: &dyn Objects, claim: &Commit) -> Result<()> {
    let key = commit_key(claim.number);
    match objects.put_if_absent(&key, &claim.encode()) {
        Err(e) if e.kind() == Kind::Conflict => Ok(()),
        Err(e) => Err(e),
        Ok(()) => Err(Error::invalid(format!(
            "{}: the store takes an object whose name is taken (it ignores If-None-Match): two processes could write at \
             once, and neither would know; use a store that refuses it, or a directory",
            objects.name()
        ))),
    }
}

/// Puts a commit; `false` where another one stands in its place.
fn put(objects: &dyn Objects, commit: &Commit) -> Result<bool> {
    let (key, bytes) = (commit_key(commit.number), commit.encode());
    match objects.put_if_absent(&key, &bytes) {
        Ok(()) => Ok(true),
        // Its own, where an earlier answer was lost.
        Err(e) if e.kind() == Kind::Conflict => Ok(objects.get(&key)? == bytes),
        Err(e) => Err(e),
    }
}

/// Makes bytes of a file an object, however long the store is away.
pub(super) fn upload(shared: &Shared, path: &std::path::Path, range: Range) -> Result<Piece> {
    let key = {
        let mut waiting = shared.lock();
        waiting.next_object += 1;
        format!("{OBJECTS}{:08}-{:010}", waiting.owner, waiting.next_object)
    };
    let mut hash = Hasher64::new(0);
    range.read(path, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    loop {
        match shared.objects.put_file(&key, path, range) {
            Ok(()) => {
                shared.works();
                return Ok(Piece { key, bytes: range.bytes, stored: range.bytes, hash: hash.finish() });
            }
            Err(e) => {
                let waiting = shared.troubled(&e);
                let waiting = shared.pause(waiting);
                if let Some(why) = &waiting.over {
                    return Err(Error::conflict(why.clone()));
                }
                if waiting.is_closing {
                    return Err(e);
                }
            }
        }
    }
}

impl Shared {
    /// Notes that the store answers.
    fn works(&self) {
        let had_trouble = self.lock().trouble.take().is_some();
        if had_trouble {
            (self.listener)(&News::Back);
        }
    }

    /// Notes that it does not.
    fn troubled(&self, e: &Error) -> MutexGuard<'_, Waiting> {
        let had_trouble = self.lock().trouble.replace(e.message().to_string()).is_some();
        if !had_trouble {
            (self.listener)(&News::Away(e.message().to_string()));
        }
        self.lock()
    }

    /// Waits before the next try.
    fn pause<'a>(&'a self, waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        let is_over = |w: &mut Waiting| w.over.is_none() && !w.is_closing;
        let waited = self.changed.wait_timeout_while(waiting, RETRY_EVERY, is_over);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}

/// The thread that writes commits.
pub(super) struct Owner {
    shared: Arc<Shared>,
    who: String,
    number: u64,
    owner: u64,
    full: u64,
    full_before: u64,
    claims: Vec<u64>,
    tree: Tree,
    /// Commits that stand in the store.
    stored: Vec<u64>,
    bytes_since_full: u64,
    /// Objects that no file needs: since the newest full commit, and before it.
    gone: Vec<String>,
    gone_before: Vec<String>,
}

impl Owner {
    pub fn new(shared: Arc<Shared>, mut newest: Newest, who: &str) -> Self {
        // The bytes of logs are in the directory; here only their lengths are needed.
        for node in newest.tree.files.values_mut() {
            if let Node::Grown(grown) = node {
                grown.tail = Vec::new();
                let patches = std::mem::take(&mut grown.patches);
                if let Some(first) = patches.iter().map(|(at, _)| *at).min() {
                    let mut covered = 0;
                    grown.pieces.retain(|piece| {
                        covered += piece.bytes;
                        covered <= first
                    });
                }
            }
        }
        Self {
            shared,
            who: who.to_string(),
            number: newest.number,
            owner: newest.owner,
            full: newest.full,
            full_before: 0,
            claims: newest.claims,
            tree: newest.tree,
            stored: newest.stored,
            bytes_since_full: 0,
            gone: Vec::new(),
            gone_before: Vec::new(),
        }
    }

    pub fn run(mut self) {
        self.sweep();
        while let Some((changes, grown, asked)) = self.next() {
            let grown_bytes = grown.1;
            match self.commit(changes, grown.0) {
                Ok(()) => {
                    let mut waiting = self.shared.lock();
                    waiting.committed = asked;
                    waiting.grown_bytes = waiting.grown_bytes.saturating_sub(grown_bytes);
                    drop(waiting);
                    self.shared.changed.notify_all();
                    self.shared.works();
                }
                Err(e) => {
                    // Closed while the store was away, or replaced: nothing goes any more.
                    let is_replaced = e.kind() == Kind::Conflict;
                    let told = e.message().to_string();
                    if is_replaced {
                        (self.shared.listener)(&News::Replaced(told.clone()));
                    }
                    self.shared.lock().over.get_or_insert(told);
                    self.shared.changed.notify_all();
                    return;
                }
            }
        }
    }

    /// What waits, once somebody wants it or it has waited long enough; `None` at the end.
    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    fn next(&self) -> Option<(Vec<Change>, (Vec<(std::path::PathBuf, Grew)>, u64), u64)> {
        let mut waiting = self.shared.lock();
        while !waiting.has_any() {
            if waiting.is_closing {
                return None;
            }
            if waiting.committed < waiting.asked {
                // What happened undid itself: a file that grew went before it was taken.
                (waiting.taken, waiting.committed) = (waiting.asked, waiting.asked);
                self.shared.changed.notify_all();
            }
            waiting = self.shared.wait(waiting);
        }
        let gathers = |w: &mut Waiting| !w.is_urgent && !w.is_closing;
        let gathered = self.shared.changed.wait_timeout_while(waiting, DELAY, gathers);
        let mut waiting = gathered.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        (waiting.is_urgent, waiting.taken) = (false, waiting.asked);
        let changes = std::mem::take(&mut waiting.changes);
        let grown = std::mem::take(&mut waiting.grown).into_iter().collect();
        Some((changes, (grown, waiting.grown_bytes), waiting.asked))
    }

    /// Writes one commit of what happened. It stands when this returns.
    fn commit(&mut self, mut changes: Vec<Change>, grown: Vec<(std::path::PathBuf, Grew)>) -> Result<()> {
        for (path, grew) in grown {
            self.read_growth(&path, grew, &mut changes)?;
        }
        let mut tree = self.tree.clone();
        let mut gone: Vec<String> = changes.iter().flat_map(|change| tree.apply(change, false)).collect();
        self.bytes_since_full += changes.iter().map(bytes_in).sum::<u64>();
        let is_full = self.number + 1 - self.full >= FULL_AFTER_COMMITS || self.bytes_since_full >= FULL_AFTER_BYTES;
        let kind = match is_full {
            true => {
                changes = self.all_files(&tree)?;
                // Logs have become other pieces.
                let mut full = Tree::default();
                changes.iter().for_each(|change| _ = full.apply(change, false));
                let kept: Vec<&String> = full.objects().map(|piece| &piece.key).collect();
                gone.extend(tree.objects().filter(|p| !kept.contains(&&p.key)).map(|p| p.key.clone()));
                tree = full;
                CommitKind::Full(self.claims.clone())
            }
            false => CommitKind::Changes,
        };
        let commit = Commit {
            number: self.number + 1,
            owner: self.owner,
            newest_full: self.full,
            kind,
            who: self.who.clone(),
            changes,
        };
        self.put(&commit)?;
        self.number = commit.number;
        self.stored.push(self.number);
        self.tree = tree;
        self.gone.extend(gone);
        if is_full {
            (self.full_before, self.full, self.bytes_since_full) = (self.full, self.number, 0);
            self.let_go();
        }
        Ok(())
    }

    /// What a log grew by, read from the directory. A file that went meanwhile is told to have gone next.
    fn read_growth(&self, path: &std::path::Path, grew: Grew, changes: &mut Vec<Change>) -> Result<()> {
        let name = self.shared.path_in(path).map_err(|e| Error::io("keep", path, e))?;
        let Ok(mut len) = path.metadata().map(|file| file.len()) else { return Ok(()) };
        if let Some(cut) = grew.cut {
            changes.push(Change::SetLen { path: name.clone(), len: cut });
        }
        let Some((begin, end)) = grew.written else { return Ok(()) };
        while begin < end.min(len) {
            match read_all(path, Range { from: begin, bytes: end.min(len) - begin }) {
                Ok(bytes) => {
                    changes.push(Change::Write { path: name, at: begin, bytes });
                    break;
                }
                // It was cut off at this moment: what is left of it goes.
                Err(e) => match path.metadata() {
                    Ok(file) if file.len() < len => len = file.len(),
                    Ok(_) => return Err(e),
                    Err(_) => break,
                },
            }
        }
        Ok(())
    }

    /// All files of a state, for a full commit. What logs have grown by becomes objects where it is much.
    fn all_files(&self, tree: &Tree) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for (path, node) in &tree.files {
            match node {
                Node::Whole(content) => changes.push(Change::Put { path: path.clone(), content: content.clone() }),
                Node::Grown(grown) => changes.extend(self.grown(path, grown)?),
            }
        }
        Ok(changes)
    }

    fn grown(&self, name: &str, grown: &Grown) -> Result<Option<Change>> {
        let path = self.shared.root.join(name);
        let (mut pieces, mut covered) = (grown.pieces.clone(), grown.covered());
        // It may have become shorter, or have gone: the next commit tells.
        let Ok(len) = path.metadata().map(|file| file.len().min(grown.len)) else { return Ok(None) };
        if len < covered {
            return Ok(Some(Change::Grown { path: name.to_string(), pieces, rest: Vec::new() }));
        }
        if len - covered > REST_BYTES_MAX {
            if let Some(last) = pieces.pop_if(|last| last.bytes < PIECE_BYTES_MIN) {
                covered -= last.bytes;
            }
            pieces.push(upload(&self.shared, &path, Range { from: covered, bytes: len - covered })?);
            covered = len;
        }
        let rest = read_all(&path, Range { from: covered, bytes: len - covered })?;
        Ok(Some(Change::Grown { path: name.to_string(), pieces, rest }))
    }

    /// Puts a commit, however long the store is away.
    fn put(&self, commit: &Commit) -> Result<()> {
        loop {
            let e = match put(&*self.shared.objects, commit) {
                Ok(true) => return Ok(()),
                Ok(false) => match self.replaced_by(commit.number) {
                    Ok(why) => return Err(Error::conflict(why)),
                    Err(e) => e,
                },
                Err(e) => e,
            };
            let waiting = self.shared.troubled(&e);
            if self.shared.pause(waiting).is_closing {
                return Err(e);
            }
        }
    }

    fn replaced_by(&self, number: u64) -> Result<String> {
        let name = self.shared.objects.name();
        let other = read_commit(&*self.shared.objects, number)?;
        Ok(format!(
            "{name} was taken over by owner {} ({}); this process, owner {}, writes nothing more and ends. Only one may \
             learn there at a time",
            other.owner, other.who, self.owner
        ))
    }

    /// Lets go what nobody needs: commits before the full one before the newest, so that who reads now can go on, and
    /// objects that went before it. Claims stay: who was replaced runs into them, whenever it comes.
    fn let_go(&mut self) {
        let before = self.full_before;
        let (old, kept): (Vec<u64>, _) =
            self.stored.iter().partition(|number| **number < before && !self.claims.contains(number));
        let keys: Vec<String> =
            old.iter().map(|number| commit_key(*number)).chain(self.gone_before.drain(..)).collect();
        self.stored = kept;
        self.gone_before = std::mem::take(&mut self.gone);
        // What cannot be removed now is found by the next owner.
        let _ = self.shared.objects.delete(&keys);
    }

    /// Removes what earlier owners left: objects that no file needs. They can name them no more.
    fn sweep(&self) {
        let Ok(all) = self.shared.objects.list(OBJECTS) else { return };
        let needed: std::collections::BTreeSet<&str> = self.tree.objects().map(|piece| piece.key.as_str()).collect();
        let is_earlier = |key: &str| {
            let owner = key.strip_prefix(OBJECTS).and_then(|name| name.split('-').next()?.parse::<u64>().ok());
            owner.is_some_and(|owner| owner < self.owner)
        };
        let left: Vec<String> =
            all.into_iter().filter(|key| is_earlier(key) && !needed.contains(key.as_str())).collect();
        if !left.is_empty() {
            let _ = self.shared.objects.delete(&left);
        }
    }
}

fn read_all(path: &std::path::Path, range: Range) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(range.bytes as usize);
    range.read(path, |some| {
        bytes.extend_from_slice(some);
        Ok(())
    })?;
    Ok(bytes)
}

fn bytes_in(change: &Change) -> u64 {
    match change {
        Change::Write { bytes, .. } | Change::Put { content: Content::Inline(bytes), .. } => bytes.len() as u64,
        _ => 0,
    }
}
