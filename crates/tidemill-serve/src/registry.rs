//! Step 8, the registry: every published version of one model, on disk, and which of them is live.
//!
//! In: a snapshot and what is known of it. Out: the same bytes, as long as the version is kept. A version is immutable: it
//! becomes visible by its manifest, written last and put only if absent. Where its bytes are not what was written, the file
//! is named, nothing of it is served, and the other versions stay usable.
//!
//! ```text
//! 000042.snapshot   the weights
//! 000042.manifest   JSON: what is known of the version, checksum of the snapshot, checksum of itself
//! live              "latest", or "pinned 41" after a roll back; absent: latest
//! routing.json      labels, split of traffic, rollout, what became of versions; absent: none
//! NAME.ranking      a ranking of that name, which `rank/named.rs` reads and writes
//! ```

mod manifest;
mod mapped;
mod routing;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tidemill_base::{
    Error, Kind, Result,
    hash::Hasher64,
    hash64,
    store::{atomic_file, disk},
};
use tidemill_model::{snapshot::Snapshot, weights::WeightTable};
use tokio::sync::watch;

use crate::follow::decided::Decided;

pub use manifest::VersionMeta;
use manifest::{Manifest, SNAPSHOT_SEED};
pub(crate) use routing::WARM_UP;
pub use routing::{LABELS_MAX, Outcome, RolledOut, Routing, Verdict, check_label};

/// Which version requests see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// The newest, as it grows.
    Latest,
    /// An earlier one, until it is promoted away.
    Pinned(u64),
}

/// The versions of one model. Callers on several threads see each other's changes; only writers wait for a disk.
#[derive(Debug)]
pub struct Registry {
    model: String,
    dir: PathBuf,
    /// Held while files change, so that two writers do not meet.
    writing: Mutex<()>,
    /// What is on disk; held for moments only.
    known: Mutex<Known>,
    /// Counts decisions that are on disk: live version, labels, split, rankings.
    decisions: watch::Sender<u64>,
}

#[derive(Debug)]
struct Known {
    /// Ascending by version.
    manifests: Vec<Manifest>,
    /// Versions that are passed over, and what is wrong with each.
    damaged: Vec<Damaged>,
    live: Live,
    routing: Routing,
}

/// A version on disk that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its number, by the names of its files.
    pub version: u64,
    /// What is wrong, with the file and the way out.
    pub reason: String,
}

/// A file on its way to the disk, with what its manifest says of it.
struct Counted<'a> {
    file: &'a mut dyn Write,
    bytes: u64,
    check: Hasher64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.check.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Registry {
    /// Opens the versions of `model` that lie in `dir` (which must exist and be owned by this process), and sweeps away
    /// what a crash left half written.
    pub fn open(model: &str, dir: &Path) -> Result<Self> {
        atomic_file::sweep(dir)?;
        let (registry, snapshots) = Self::scan(model, dir)?;
        registry.remove_unnamed(&snapshots)?;
        Ok(registry)
    }

    /// Opens the versions as they are, changing nothing: another process may own the directory.
    pub fn reading(model: &str, dir: &Path) -> Result<Self> {
        Self::scan(model, dir).map(|(registry, _)| registry)
    }

    /// Where the versions lie.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn scan(model: &str, dir: &Path) -> Result<(Self, Vec<u64>)> {
        let (mut read, mut snapshots) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))? {
            let path = entry.map_err(|e| Error::io("read", dir, e))?.path();
            match (version_in_name(&path), path.extension().and_then(|e| e.to_str())) {
                (Some(version), Some("manifest")) => read.push((version, Manifest::read(&path, version))),
                (Some(version), Some("snapshot")) => snapshots.push(version),
                _ => {}
            }
        }
        let known =
            Known { manifests: Vec::new(), damaged: Vec::new(), live: Live::Latest, routing: Routing::default() };
        let registry = Self {
            model: model.to_string(),
            dir: dir.to_path_buf(),
            writing: Mutex::new(()),
            known: Mutex::new(known),
            decisions: watch::Sender::new(0),
        };
        read.sort_by_key(|(version, _)| *version);
        for (version, manifest) in read {
            let manifest = match manifest {
                Ok(_) if !snapshots.contains(&version) => {
                    Err(registry.missing(&registry.path(version, "snapshot"), version))
                }
                manifest => manifest,
            };
            match manifest {
                Ok(manifest) => registry.known().manifests.push(manifest),
                Err(e) if e.kind() == Kind::Corrupt => {
                    registry.known().damaged.push(Damaged { version, reason: e.message().to_string() });
                }
                Err(e) => return Err(e),
            }
        }
        let live = registry.read_live()?;
        registry.known().live = live;
        registry.known().routing = Routing::read(dir)?;
        Ok((registry, snapshots))
    }

    /// Keeps a version. Doing it again with the same state changes nothing, so a job that restarts may publish again what
    /// it had published; another state under the same number is a [`Kind::Conflict`].
    pub fn add(&self, meta: &VersionMeta, snapshot: &Snapshot) -> Result<()> {
        let _writing = self.writing();
        if let Some(there) = self.known().find(meta.version) {
            if there.meta.state_hash == meta.state_hash {
                return Ok(());
            }
            return Err(Error::conflict(format!(
                "version {} of model '{}' is there already with state {}, not {}; versions never change",
                meta.version, self.model, there.meta.state_hash, meta.state_hash
            )));
        }
        let path = self.path(meta.version, "snapshot");
        let (mut snapshot_bytes, mut snapshot_check, mut root) = (0, 0, 0);
        let mut write = |file: &mut dyn Write| {
            let mut counted = Counted { file, bytes: 0, check: Hasher64::new(SNAPSHOT_SEED) };
            root = snapshot.write(&mut counted)?;
            (snapshot_bytes, snapshot_check) = (counted.bytes, counted.check.finish());
            Ok(())
        };
        match atomic_file::put_if_absent_by(&path, &mut write) {
            // No manifest names it: a publication that did not finish.
            Err(e) if e.kind() == Kind::Conflict => atomic_file::replace_by(&path, &mut write)?,
            put => put?,
        }
        let manifest = Manifest { meta: meta.clone(), snapshot_bytes, snapshot_check, snapshot_root: Some(root) };
        atomic_file::put_if_absent(&self.path(meta.version, "manifest"), manifest.to_text().as_bytes())?;
        let mut known = self.known();
        known.manifests.push(manifest);
        known.manifests.sort_by_key(|m| m.meta.version);
        Ok(())
    }

    /// Keeps a version that another registry has: its manifest as it stands there, and the snapshot derived here. Where the
    /// two are not the same bytes, nothing is kept and the error is [`Kind::Corrupt`].
    pub fn add_copy(&self, manifest: &str, snapshot: Snapshot) -> Result<VersionMeta> {
        let copied = manifest::parse(manifest.as_bytes()).map_err(|e| e.at("manifest of a version"))?;
        let snapshot = Snapshot { sequence: copied.meta.mini_batch, ..snapshot };
        let version = copied.meta.version;
        let _writing = self.writing();
        if self.is_here(&copied)? {
            return Ok(copied.meta);
        }
        let path = self.path(version, "snapshot");
        let (mut bytes, mut check) = (0, 0);
        atomic_file::replace_by(&path, &mut |file| {
            let mut counted = Counted { file, bytes: 0, check: Hasher64::new(SNAPSHOT_SEED) };
            snapshot.write(&mut counted)?;
            (bytes, check) = (counted.bytes, counted.check.finish());
            Ok(())
        })?;
        if (bytes, check) != (copied.snapshot_bytes, copied.snapshot_check) {
            disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            return Err(Error::corrupt(format!(
                "version {version} of model '{}' differs from the one that was published",
                self.model
            )));
        }
        atomic_file::put_if_absent(&self.path(version, "manifest"), manifest.as_bytes())?;
        let meta = copied.meta.clone();
        let mut known = self.known();
        known.manifests.push(copied);
        known.manifests.sort_by_key(|m| m.meta.version);
        Ok(meta)
    }

    /// Whether [`Registry::add_copy`] can keep it: [`Kind::Conflict`] where its number is that of another one.
    pub fn check_copy(&self, manifest: &str) -> Result<()> {
        let copied = manifest::parse(manifest.as_bytes()).map_err(|e| e.at("manifest of a version"))?;
        self.is_here(&copied).map(drop)
    }

    fn is_here(&self, copied: &Manifest) -> Result<bool> {
        let version = copied.meta.version;
        match self.known().find(version) {
            None => Ok(false),
            Some(there) if there.snapshot_check == copied.snapshot_check => Ok(true),
            Some(_) => Err(Error::conflict(format!(
                "version {version} of model '{}' is there already and is another one; versions never change",
                self.model
            ))),
        }
    }

    /// Keeps a version that another registry has: its manifest as it stands there, and the bytes of its snapshot as `next`
    /// gives them, nothing at their end. It comes in place of one of that number that is of another history, or damaged. Where
    /// the bytes are not what the manifest says, nothing is kept and the error is [`Kind::Corrupt`].
    pub fn add_bytes(&self, manifest: &str, next: &mut dyn FnMut() -> Result<Option<Vec<u8>>>) -> Result<()> {
        let copied = manifest::parse(manifest.as_bytes()).map_err(|e| e.at("manifest of a version"))?;
        let version = copied.meta.version;
        // Swept away by the next open, should this process end before it is there.
        let fetched = self.path(version, "fetched.tmp");
        let mut failed = None;
        let written = atomic_file::replace_by(&fetched, &mut |file| {
            let mut counted = Counted { file, bytes: 0, check: Hasher64::new(SNAPSHOT_SEED) };
            let mut refused = |e: Error| Err(io::Error::other(failed.insert(e).message().to_string()));
            loop {
                match next() {
                    Ok(Some(bytes)) if counted.bytes + bytes.len() as u64 <= copied.snapshot_bytes => {
                        counted.write_all(&bytes)?;
                    }
                    Ok(None)
                        if (counted.bytes, counted.check.finish())
                            == (copied.snapshot_bytes, copied.snapshot_check) =>
                    {
                        return Ok(());
                    }
                    Ok(_) => {
                        let what = format!("version {version} of model '{}' came with other bytes", self.model);
                        return refused(Error::corrupt(what));
                    }
                    Err(e) => return refused(e),
                }
            }
        });
        if let Some(why) = failed {
            return Err(why);
        }
        written?;
        let _writing = self.writing();
        let (snapshot, path) = (self.path(version, "snapshot"), self.path(version, "manifest"));
        if path.exists() {
            // First: a snapshot without a manifest is swept away, a manifest without its own snapshot is damage.
            disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        {
            let mut known = self.known();
            known.manifests.retain(|m| m.meta.version != version);
            known.damaged.retain(|d| d.version != version);
        }
        disk::rename(&fetched, &snapshot).map_err(|e| Error::io("rename into", &snapshot, e))?;
        atomic_file::replace(&path, manifest.as_bytes())?;
        let mut known = self.known();
        known.manifests.push(copied);
        known.manifests.sort_by_key(|m| m.meta.version);
        Ok(())
    }

    /// Where the snapshot of a version lies, and how long it is.
    pub(crate) fn snapshot_file(&self, version: u64) -> Result<(PathBuf, u64)> {
        let known = self.known();
        let manifest = known.find(version).ok_or_else(|| self.no_version(&known, version))?;
        Ok((self.path(version, "snapshot"), manifest.snapshot_bytes))
    }

    /// The manifest of a version, as it stands on disk.
    pub fn manifest_text(&self, version: u64) -> Result<String> {
        let known = self.known();
        known.find(version).map(Manifest::to_text).ok_or_else(|| self.no_version(&known, version))
    }

    /// All versions, ascending.
    pub fn list(&self) -> Vec<VersionMeta> {
        self.known().manifests.iter().map(|m| m.meta.clone()).collect()
    }

    /// Versions that cannot be used and are passed over, ascending. (A damaged snapshot is found when it is asked for.)
    pub fn damaged(&self) -> Vec<Damaged> {
        self.known().damaged.clone()
    }

    /// The number of the version that is published next: behind all that have ever been there and are still named.
    pub fn next_version(&self) -> u64 {
        let known = self.known();
        let good = known.manifests.iter().map(|m| m.meta.version);
        good.chain(known.damaged.iter().map(|d| d.version)).max().unwrap_or(0) + 1
    }

    /// What is known of one version.
    pub fn meta(&self, version: u64) -> Result<VersionMeta> {
        let known = self.known();
        known.find(version).map(|m| m.meta.clone()).ok_or_else(|| self.no_version(&known, version))
    }

    /// The weights of a version, checked against its manifest.
    pub fn load(&self, version: u64) -> Result<Snapshot> {
        let manifest = {
            let known = self.known();
            known.find(version).cloned().ok_or_else(|| self.no_version(&known, version))?
        };
        let path = self.path(version, "snapshot");
        let bytes = fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.missing(&path, version),
            _ => Error::io("read", &path, e),
        })?;
        if bytes.len() as u64 != manifest.snapshot_bytes {
            return Err(self.cut_short(&path, bytes.len() as u64, manifest.snapshot_bytes));
        }
        if hash64(&bytes, SNAPSHOT_SEED) != manifest.snapshot_check {
            return Err(self.another(&path));
        }
        let place = path.display();
        let snapshot = Snapshot::decode(&bytes, &place.to_string())?;
        WeightTable::check_snapshot(&snapshot).map_err(|e| e.at(&place))?;
        Ok(snapshot)
    }

    /// Which version requests see.
    pub fn live(&self) -> Live {
        self.known().live
    }

    /// Whether [`Registry::rollback`] to this version would be taken.
    pub fn check_rollback(&self, version: u64) -> Result<()> {
        let known = self.known();
        let count = known.manifests.len() + known.damaged.len();
        if known.find(version).is_some() && count > 1 {
            return Ok(());
        }
        if count == 1 {
            return Err(Error::conflict(format!("model '{}' has one version; nothing to roll back to", self.model)));
        }
        Err(self.no_version(&known, version))
    }

    /// Makes an existing version live until [`Registry::promote`], whatever is published meanwhile. Its snapshot is read
    /// and checked before anything points at it, and given back.
    pub fn rollback(&self, version: u64) -> Result<Snapshot> {
        self.rollback_once(version, Ok)
    }

    /// [`Registry::rollback`], once `ready` has made of the snapshot what will answer: where that fails, everything stays.
    pub fn rollback_once<T>(&self, version: u64, ready: impl FnOnce(Snapshot) -> Result<T>) -> Result<T> {
        let _writing = self.writing();
        self.check_rollback(version)?;
        let made = ready(self.load(version)?)?;
        self.write_live(Live::Pinned(version))?;
        Ok(made)
    }

    /// Makes the newest version live again, and those after it.
    pub fn promote(&self) -> Result<()> {
        let _writing = self.writing();
        self.write_live(Live::Latest)
    }

    /// Labels, split, rollout and verdicts, as they are on disk.
    pub fn routing(&self) -> Routing {
        self.known().routing.clone()
    }

    /// Changes them: on disk first.
    pub fn reroute(&self, change: impl FnOnce(&mut Routing)) -> Result<()> {
        let _writing = self.writing();
        self.write_routing(change)
    }

    fn write_routing(&self, change: impl FnOnce(&mut Routing)) -> Result<()> {
        let mut next = self.routing();
        change(&mut next);
        next.write(&self.dir)?;
        self.known().routing = next;
        self.decided();
        Ok(())
    }

    /// Takes over what was decided elsewhere about the live version, labels and split, once `ready` has made of their
    /// snapshots what will answer, and says which labels it is: where that fails, everything stays. No version leaves meanwhile.
    pub fn adopt_once<T>(
        &self,
        decided: &Decided,
        ready: impl FnOnce() -> Result<(T, BTreeMap<String, u64>)>,
    ) -> Result<T> {
        let _writing = self.writing();
        let (made, labels) = ready()?;
        self.write_routing(|routing| {
            routing.labels = labels;
            routing.split.clone_from(&decided.split);
        })?;
        if self.live() != decided.live {
            self.write_live(decided.live)?;
        }
        Ok(made)
    }

    /// Changes whenever something was decided.
    pub(crate) fn decisions(&self) -> watch::Receiver<u64> {
        self.decisions.subscribe()
    }

    /// How often something was decided since the registry was opened.
    pub fn decided_count(&self) -> u64 {
        *self.decisions.borrow()
    }

    /// Tells those who follow that something was decided.
    pub(crate) fn decided(&self) {
        self.decisions.send_modify(|count| *count += 1);
    }

    /// Points a label at a version. Its snapshot is read and checked before, and given back: where that fails, the label
    /// stays where it was. The label `live` is [`Registry::rollback`].
    pub fn set_label(&self, label: &str, version: u64) -> Result<Snapshot> {
        self.set_label_once(label, version, Ok)
    }

    /// [`Registry::set_label`], once `ready` has made of the snapshot what will answer: where that fails, everything stays.
    pub fn set_label_once<T>(&self, label: &str, version: u64, ready: impl FnOnce(Snapshot) -> Result<T>) -> Result<T> {
        check_label(label)?;
        if label == "live" {
            return self.rollback_once(version, ready);
        }
        let _writing = self.writing();
        let routing = self.routing();
        if !routing.labels.contains_key(label) && routing.labels.len() >= LABELS_MAX {
            return Err(Error::exhausted(format!(
                "model '{}' has {LABELS_MAX} labels, each with a version in memory; remove one first",
                self.model
            )));
        }
        let made = ready(self.load(version)?)?;
        self.write_routing(|routing| _ = routing.labels.insert(label.to_string(), version))?;
        Ok(made)
    }

    /// Removes a label, and its share of the traffic. Of `live`: [`Registry::promote`].
    pub fn remove_label(&self, label: &str) -> Result<()> {
        if label == "live" {
            return self.promote();
        }
        let _writing = self.writing();
        self.check_has_label(label)?;
        self.write_routing(|routing| {
            routing.labels.remove(label);
            // Its share would be the live version's, but weights are what a person wrote: they begin anew.
            if routing.split.iter().any(|(l, _)| l == label) {
                routing.split.clear();
            }
        })
    }

    /// The error for a label that is not there names those that are.
    pub fn check_has_label(&self, label: &str) -> Result<()> {
        let known = self.known();
        if label == "live" || known.routing.labels.contains_key(label) {
            return Ok(());
        }
        let have: Vec<&str> = known.routing.labels.keys().map(String::as_str).collect();
        let have = if have.is_empty() { String::new() } else { format!(", {}", have.join(", ")) };
        let label = crate::shown(label);
        Err(Error::not_found(format!("model '{}' has no label '{label}' (have live{have})", self.model)))
    }

    /// [`Registry::retain_since`], whatever the age.
    pub fn retain(&self, keep_max: usize) -> Result<Vec<u64>> {
        self.retain_since(keep_max, i64::MIN)
    }

    /// Removes the oldest versions beyond `keep_max` (at least 1), and those made before `keep_since_ms`. The newest, the
    /// pinned one and those under labels stay. Returns those removed.
    pub fn retain_since(&self, keep_max: usize, keep_since_ms: i64) -> Result<Vec<u64>> {
        let _writing = self.writing();
        let leaving: Vec<u64> = {
            let known = self.known();
            let over = known.manifests.len().saturating_sub(keep_max.max(1));
            let newest = known.manifests.last().map(|m| m.meta.version);
            let leaving =
                known.manifests.iter().enumerate().filter(|(i, m)| *i < over || m.meta.created_ms < keep_since_ms);
            leaving.map(|(_, m)| m.meta.version).filter(|&v| newest != Some(v) && !known.points_at(v)).collect()
        };
        self.remove(&leaving)?;
        Ok(leaving)
    }

    /// Removes all versions but the pinned one, those under labels and `stays`: what comes is of another history, with
    /// numbers of its own.
    pub fn begin_another_history(&self, stays: Option<u64>) -> Result<()> {
        self.remove_where(|version| Some(version) != stays)
    }

    /// Removes a version, where it is here and neither pinned nor under a label.
    pub fn leave(&self, leaving: u64) -> Result<()> {
        self.remove_where(|version| version == leaving)
    }

    fn remove_where(&self, leaves: impl Fn(u64) -> bool) -> Result<()> {
        let _writing = self.writing();
        let leaving: Vec<u64> = {
            let known = self.known();
            let numbers = known.manifests.iter().map(|m| m.meta.version);
            numbers.filter(|&v| leaves(v) && !known.points_at(v)).collect()
        };
        self.remove(&leaving)
    }

    fn remove(&self, leaving: &[u64]) -> Result<()> {
        for &version in leaving {
            self.known().manifests.retain(|m| m.meta.version != version);
            // The manifest goes first: a snapshot without one is swept away by the next open.
            for extension in ["manifest", "snapshot"] {
                let path = self.path(version, extension);
                disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
            atomic_file::sync_parent(&self.path(version, "manifest"))?;
        }
        Ok(())
    }

    /// A snapshot that no manifest names is a publication that did not finish.
    fn remove_unnamed(&self, snapshots: &[u64]) -> Result<()> {
        let known = self.known();
        for &version in snapshots.iter().filter(|&&v| !known.names(v)) {
            let path = self.path(version, "snapshot");
            disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }

    fn read_live(&self) -> Result<Live> {
        let path = self.dir.join("live");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Live::Latest),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let live = match text.trim().strip_prefix("pinned ") {
            Some(version) => version.parse().ok().map(Live::Pinned),
            None => (text.trim() == "latest").then_some(Live::Latest),
        };
        match live {
            Some(Live::Pinned(version)) if !self.known().names(version) => Err(Error::corrupt(format!(
                "{} pins version {version}, which is not there; write 'latest' into the file to serve the newest",
                path.display()
            ))),
            Some(live) => Ok(live),
            None => Err(Error::corrupt(format!(
                "{}: '{}' is neither 'latest' nor 'pinned VERSION'",
                path.display(),
                text.trim().escape_default()
            ))),
        }
    }

    fn write_live(&self, live: Live) -> Result<()> {
        atomic_file::replace(&self.dir.join("live"), format!("{live}\n").as_bytes())?;
        self.known().live = live;
        self.decided();
        Ok(())
    }

    /// The error for a version that is not there; it names those that are.
    pub fn no_such_version(&self, version: u64) -> Error {
        self.no_version(&self.known(), version)
    }

    fn no_version(&self, known: &Known, version: u64) -> Error {
        let model = &self.model;
        if let Some(damaged) = known.damaged.iter().find(|d| d.version == version) {
            return Error::corrupt(damaged.reason.clone());
        }
        match ranges(known.manifests.iter().map(|m| m.meta.version)) {
            have if have.is_empty() => Error::not_found(format!("model '{model}' has no version yet")),
            have => Error::not_found(format!("model '{model}' has no version {version} (have {have})")),
        }
    }

    fn missing(&self, path: &Path, version: u64) -> Error {
        let manifest = self.path(version, "manifest");
        Error::corrupt(format!(
            "{} is missing; restore it from a copy, or remove {} to go on without version {version}",
            path.display(),
            manifest.display()
        ))
    }

    fn cut_short(&self, path: &Path, is: u64, was: u64) -> Error {
        let path = path.display();
        Error::corrupt(format!("{path} is {is} of {was} bytes; restore it from a copy or roll back to another version"))
    }

    fn another(&self, path: &Path) -> Error {
        Error::corrupt(format!(
            "{} does not match the checksum in its manifest; restore it from a copy or roll back to another version",
            path.display()
        ))
    }

    fn path(&self, version: u64, extension: &str) -> PathBuf {
        self.dir.join(format!("{version:06}.{extension}"))
    }

    /// The version that answers requests; `None` before the first.
    pub fn live_version(&self) -> Option<u64> {
        match self.live() {
            Live::Pinned(version) => Some(version),
            Live::Latest => self.list().last().map(|newest| newest.version),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&self, version: u64) -> Option<&Manifest> {
        self.manifests.iter().find(|m| m.meta.version == version)
    }

    /// Whether it is pinned, under a label, or rolled out.
    fn points_at(&self, version: u64) -> bool {
        let rollout = self.routing.rollout.as_ref().is_some_and(|r| r.version == version);
        let labelled = self.routing.labels.values().any(|l| *l == version);
        self.live == Live::Pinned(version) || labelled || rollout
    }

    /// Whether there is a manifest of it, good or not.
    fn names(&self, version: u64) -> bool {
        self.find(version).is_some() || self.damaged.iter().any(|d| d.version == version)
    }
}

impl std::fmt::Display for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Live::Latest => f.write_str("latest"),
            Live::Pinned(version) => write!(f, "pinned {version}"),
        }
    }
}

fn version_in_name(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// `3, 7-9` for 3, 7, 8, 9.
fn ranges(ascending: impl Iterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for v in ascending {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == v => *last = v,
            _ => runs.push((v, v)),
        }
    }
    let texts = runs.iter().map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    texts.collect::<Vec<_>>().join(", ")
}
