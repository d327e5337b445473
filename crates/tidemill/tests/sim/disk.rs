//! A disk that loses what was not synced, runs full, fails to sync and dies with its process.
//!
//! In: every access of a run, and a seed. Out: what the operating system would have said, and, after a loss of power, a
//! directory that holds what POSIX promises and no more: of each file what was synced and a piece of what was written behind
//! it, or its length and zeros; of each directory the names that were synced and some of those behind them, in their order. What a failed sync was
//! to make durable is lost, though later syncs succeed. A killed process leaves everything it has written.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tidemill_base::{
    Rng,
    store::disk::{Access, Faults},
};

/// What may happen to one run of the program, by the number of its access to the disk.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The process is killed at this access.
    pub kill_at: Option<u64>,
    /// From this access on so many that need room find none.
    pub full: Option<(u64, u64)>,
    /// The first sync at or behind this access fails.
    pub sync_fails_at: Option<u64>,
    /// An access takes so many milliseconds.
    pub slow_ms: u64,
}

/// What happened to a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    pub accesses: u64,
    pub killed: bool,
    pub refused_full: u64,
    pub syncs_failed: u64,
}

/// Ways in which a disk may be worse than it says, for trying out the harness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    #[default]
    None,
    /// Syncs of files whose name ends so do nothing.
    SyncsNothing(&'static str),
    /// Renames and links become durable, what is in the file does not.
    ForgetsData,
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write { at: u64, bytes: Vec<u8>, doomed: bool },
    SetLen { len: u64, doomed: bool },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

type Names = BTreeMap<PathBuf, Node>;

enum NameChange {
    Put(PathBuf, Node),
    Drop(PathBuf),
    Move(PathBuf, PathBuf, Node),
}

struct State {
    rng: Rng,
    epoch: u64,
    plan: Plan,
    happened: Happened,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: Names,
    durable_names: Names,
    pending_names: BTreeMap<PathBuf, Vec<NameChange>>,
    /// The last accesses, for whoever looks into a failure.
    trace: VecDeque<String>,
}

/// The disk under one directory.
pub struct SimDisk {
    root: PathBuf,
    lie: Lie,
    slow_ms: AtomicU64,
    state: Mutex<State>,
}

/// The disk as one process sees it: when the process is dead, nothing it still does arrives.
pub struct Process {
    disk: Arc<SimDisk>,
    epoch: u64,
}

const TRACE_MAX: usize = 60;
/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;

impl SimDisk {
    /// An empty disk. `root` must be an empty directory.
    pub fn new(root: &Path, seed: u64, lie: Lie) -> Arc<Self> {
        let names = Names::from([(root.to_path_buf(), Node::Dir)]);
        let state = State {
            rng: Rng::for_key(seed, 0xD15C),
            epoch: 0,
            plan: Plan::default(),
            happened: Happened::default(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            durable_names: names.clone(),
            names,
            pending_names: BTreeMap::new(),
            trace: VecDeque::new(),
        };
        Arc::new(Self { root: root.to_path_buf(), lie, slow_ms: 0.into(), state: Mutex::new(state) })
    }

    /// A disk on which everything below `root` is durable.
    pub fn of(root: &Path, seed: u64) -> Arc<Self> {
        let disk = Self::new(root, seed, Lie::None);
        let mut state = disk.state();
        let mut dirs = vec![root.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap().flatten() {
                let path = entry.path();
                let node = match path.is_dir() {
                    true => Node::Dir,
                    false => {
                        let inode = state.next_inode;
                        state.next_inode += 1;
                        let durable = fs::read(&path).unwrap();
                        state.inodes.insert(inode, Inode { durable, pending: Vec::new() });
                        Node::File(inode)
                    }
                };
                if node == Node::Dir {
                    dirs.push(path.clone());
                }
                state.names.insert(path, node);
            }
        }
        state.durable_names = state.names.clone();
        drop(state);
        disk
    }

    /// A process begins.
    pub fn begin(self: &Arc<Self>, plan: Plan) -> Arc<Process> {
        let mut state = self.state();
        state.epoch += 1;
        state.plan = plan;
        state.happened = Happened::default();
        let epoch = state.epoch;
        state.note(format!("-- process {epoch}"));
        Arc::new(Process { disk: self.clone(), epoch })
    }

    /// The process is no more; what has happened to it.
    pub fn end(&self) -> Happened {
        let mut state = self.state();
        state.epoch += 1;
        state.happened
    }

    /// What has happened to the process so far.
    pub fn happened(&self) -> Happened {
        self.state().happened
    }

    /// Milliseconds that the disk has taken since this was last asked.
    pub fn take_slow_ms(&self) -> u64 {
        self.slow_ms.swap(0, Ordering::SeqCst)
    }

    /// The last accesses.
    pub fn trace(&self) -> String {
        self.state().trace.iter().fold(String::new(), |all, line| all + "\n    " + line)
    }

    /// Loses everything that was not synced, or a part of it.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.note("-- power lost".into());
        for changes in std::mem::take(&mut state.pending_names).into_values() {
            let kept = state.rng.below(changes.len() as u64 + 1) as usize;
            for change in changes.into_iter().take(kept) {
                apply_name(&mut state.durable_names, change);
            }
        }
        for inode in state.inodes.values_mut() {
            let changes = std::mem::take(&mut inode.pending);
            let mut synced = inode.durable.len();
            let kept = state.rng.below(changes.len() as u64 + 1) as usize;
            let torn = state.rng.below(4) != 0;
            let lengthened = state.rng.below(6) == 0;
            let whole = changes.iter().fold(inode.durable.len() as u64, |len, change| change.length(len));
            for (i, change) in changes.into_iter().enumerate().take(kept + usize::from(torn)) {
                let cut = match &change {
                    Change::Write { bytes, .. } if i == kept => state.rng.below(bytes.len() as u64 + 1) as usize,
                    _ if i == kept => break,
                    _ => usize::MAX,
                };
                apply(&mut inode.durable, &change, cut);
                if let Change::SetLen { len, doomed: false } = change {
                    synced = synced.min(len as usize);
                }
            }
            // A file system may have written how long the file is, and not the sectors that make it so.
            if lengthened && inode.durable.len() < whole as usize {
                let sector = inode.durable.len() / SECTOR_BYTES * SECTOR_BYTES;
                inode.durable.truncate(sector.max(synced));
                inode.durable.resize(whole as usize, 0);
            }
        }
        let is_there = |path: &Path, names: &Names| {
            path.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.root)).all(|dir| names.contains_key(dir))
        };
        let all = state.durable_names.clone();
        state.durable_names.retain(|path, _| is_there(path, &all));
        state.names = state.durable_names.clone();
        let named: Vec<u64> = state.names.values().filter_map(|node| node.file()).collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        self.write_out(state);
    }

    /// Changes a byte of the newest file of a kind, if there is one.
    pub fn flip_a_byte(&self, end: &str) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let newest = state.names.iter().rfind(|(path, _)| path.to_string_lossy().ends_with(end));
        let Some((path, inode)) = newest.and_then(|(path, node)| Some((path.clone(), node.file()?))) else {
            return false;
        };
        let Ok(mut bytes) = fs::read(&path) else { return false };
        if bytes.is_empty() {
            return false;
        }
        let at = state.rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << state.rng.below(8);
        state.note(format!("-- a bit of {} at byte {at} flips", self.short(&path)));
        fs::write(&path, &bytes).unwrap();
        state.inodes.insert(inode, Inode { durable: bytes, pending: Vec::new() });
        true
    }

    /// The directory as it is after a loss of power.
    fn write_out(&self, state: &State) {
        for entry in fs::read_dir(&self.root).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => fs::remove_dir_all(path).unwrap(),
                path => fs::remove_file(path).unwrap(),
            }
        }
        let mut first: BTreeMap<u64, &Path> = BTreeMap::new();
        for (path, node) in &state.names {
            match node {
                Node::Dir => fs::create_dir_all(path).unwrap(),
                Node::File(inode) => match first.get(inode) {
                    Some(other) => fs::hard_link(other, path).unwrap(),
                    None => {
                        fs::write(path, &state.inodes[inode].durable).unwrap();
                        first.insert(*inode, path);
                    }
                },
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn short(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    fn name_of(&self, state: &State, inode: u64) -> String {
        let name = state.names.iter().find(|(_, node)| **node == Node::File(inode));
        name.map_or_else(|| format!("file {inode}"), |(path, _)| self.short(path))
    }
}

impl State {
    fn note(&mut self, line: String) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    fn put_name(&mut self, path: &Path, node: Node) {
        let dir = path.parent().expect("below the root").to_path_buf();
        self.names.insert(path.to_path_buf(), node);
        self.pending_names.entry(dir).or_default().push(NameChange::Put(path.to_path_buf(), node));
    }

    fn sync_dir(&mut self, dir: &Path) {
        for change in self.pending_names.remove(dir).unwrap_or_default() {
            apply_name(&mut self.durable_names, change);
        }
    }
}

impl Node {
    fn file(self) -> Option<u64> {
        match self {
            Node::Dir => None,
            Node::File(inode) => Some(inode),
        }
    }
}

impl Faults for Process {
    fn access(&self, access: Access) -> io::Result<u64> {
        let disk = &self.disk;
        let mut state = disk.state();
        let state = &mut *state;
        if state.epoch != self.epoch || state.happened.killed {
            return Err(io::Error::other("killed"));
        }
        state.happened.accesses += 1;
        let (number, plan) = (state.happened.accesses, state.plan.clone());
        disk.slow_ms.fetch_add(plan.slow_ms, Ordering::SeqCst);
        let is_killed = plan.kill_at.is_some_and(|at| number >= at);
        let text = match access {
            Access::Write { file, at, bytes } => {
                format!("write {} at {at}, {} bytes", disk.name_of(state, file), bytes.len())
            }
            Access::SetLen { file, len } => format!("cut {} to {len}", disk.name_of(state, file)),
            Access::Sync { file } => format!("sync {}", disk.name_of(state, file)),
            Access::Open { path, truncate } => {
                format!("open {}{}", disk.short(path), if truncate { " anew" } else { "" })
            }
            Access::SyncDir(dir) => format!("sync names in {}/", disk.short(dir)),
            Access::MakeDir(dir) => format!("make {}/", disk.short(dir)),
            Access::Rename(from, to) => format!("rename {} to {}", disk.short(from), disk.short(to)),
            Access::Link(from, to) => format!("link {} to {}", disk.short(from), disk.short(to)),
            Access::Remove(path) => format!("remove {}", disk.short(path)),
            Access::RemoveDir(dir) => format!("remove {}/", disk.short(dir)),
        };
        let needs_room = match access {
            Access::Open { path, .. } => !state.names.contains_key(path),
            Access::Write { .. } | Access::MakeDir(_) | Access::Link(..) => true,
            _ => false,
        };
        let mut through = u64::MAX;
        if let Access::Write { bytes, .. } = access {
            through = bytes.len() as u64;
        }
        if is_killed {
            state.happened.killed = true;
            state.note(format!("{number}: {text}: killed"));
            // The system call may have got as far as this.
            match access {
                Access::Write { .. } => through = state.rng.below(through + 1),
                _ => return Err(io::Error::other("killed")),
            }
            if through == 0 {
                return Err(io::Error::other("killed"));
            }
        } else if let Some((from, refused)) = plan.full
            && number >= from
            && needs_room
            && state.happened.refused_full < refused
        {
            let some = state.happened.refused_full == 0 && matches!(access, Access::Write { .. });
            state.happened.refused_full += 1;
            state.note(format!("{number}: {text}: no room"));
            through = if some { state.rng.below(through + 1) } else { 0 };
            if through == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
        } else {
            state.note(format!("{number}: {text}"));
        }
        match access {
            Access::Open { path, truncate } => {
                let inode = match state.names.get(path) {
                    Some(Node::File(inode)) => *inode,
                    Some(Node::Dir) => return Err(ErrorKind::IsADirectory.into()),
                    None => {
                        let inode = state.next_inode;
                        state.next_inode += 1;
                        state.inodes.insert(inode, Inode::default());
                        state.put_name(path, Node::File(inode));
                        inode
                    }
                };
                if truncate {
                    let of = state.inodes.get_mut(&inode).expect("it is named");
                    of.pending.push(Change::SetLen { len: 0, doomed: false });
                }
                return Ok(inode);
            }
            Access::Write { file, at, bytes } => {
                let bytes = bytes[..through as usize].to_vec();
                let of = state.inodes.entry(file).or_default();
                of.pending.push(Change::Write { at, bytes, doomed: false });
                return Ok(through);
            }
            Access::SetLen { file, len } => {
                state.inodes.entry(file).or_default().pending.push(Change::SetLen { len, doomed: false });
            }
            Access::Sync { file } => {
                let lies = match disk.lie {
                    Lie::SyncsNothing(end) => disk.name_of(state, file).ends_with(end),
                    Lie::ForgetsData => disk.name_of(state, file).ends_with(".tmp"),
                    Lie::None => false,
                };
                let of = state.inodes.entry(file).or_default();
                if plan.sync_fails_at.is_some_and(|at| number >= at) && state.happened.syncs_failed == 0 {
                    state.happened.syncs_failed += 1;
                    of.pending.iter_mut().for_each(Change::doom);
                    state.note(format!("{number}: ... failed"));
                    return Err(io::Error::from_raw_os_error(5));
                }
                if !lies {
                    for change in std::mem::take(&mut of.pending) {
                        apply(&mut of.durable, &change, usize::MAX);
                    }
                }
            }
            Access::SyncDir(dir) => state.sync_dir(dir),
            Access::MakeDir(dir) => state.put_name(dir, Node::Dir),
            Access::Rename(from, to) => {
                let node = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
                state.names.remove(from);
                state.names.insert(to.to_path_buf(), node);
                let dir = to.parent().expect("below the root").to_path_buf();
                let change = NameChange::Move(from.to_path_buf(), to.to_path_buf(), node);
                state.pending_names.entry(dir).or_default().push(change);
            }
            Access::Link(from, to) => {
                let node = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
                state.put_name(to, node);
            }
            Access::Remove(path) => {
                state.names.remove(path).ok_or(ErrorKind::NotFound)?;
                let dir = path.parent().expect("below the root").to_path_buf();
                state.pending_names.entry(dir).or_default().push(NameChange::Drop(path.to_path_buf()));
            }
            Access::RemoveDir(dir) => {
                for names in [&mut state.names, &mut state.durable_names] {
                    names.retain(|path, _| !path.starts_with(dir));
                }
                state.pending_names.retain(|path, _| !path.starts_with(dir));
            }
        }
        Ok(0)
    }
}

impl Change {
    /// How long a file of this length is behind it.
    fn length(&self, len: u64) -> u64 {
        match self {
            Change::Write { doomed: true, .. } | Change::SetLen { doomed: true, .. } => len,
            Change::Write { at, bytes, .. } => len.max(at + bytes.len() as u64),
            Change::SetLen { len, .. } => *len,
        }
    }

    /// It will never be durable.
    fn doom(&mut self) {
        match self {
            Change::Write { doomed, .. } | Change::SetLen { doomed, .. } => *doomed = true,
        }
    }
}

/// Applies a change, cut short; of one that is doomed only the length arrives.
fn apply(file: &mut Vec<u8>, change: &Change, cut: usize) {
    match change {
        Change::Write { at, bytes, doomed } => {
            let (at, bytes) = (*at as usize, &bytes[..bytes.len().min(cut)]);
            if *doomed || bytes.is_empty() {
                return;
            }
            file.resize(file.len().max(at + bytes.len()), 0);
            file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Change::SetLen { len, doomed } if !*doomed => file.resize(*len as usize, 0),
        Change::SetLen { .. } => {}
    }
}

fn apply_name(names: &mut Names, change: NameChange) {
    match change {
        NameChange::Put(path, node) => _ = names.insert(path, node),
        NameChange::Drop(path) => _ = names.remove(&path),
        NameChange::Move(from, to, node) => {
            names.remove(&from);
            names.insert(to, node);
        }
    }
}
