//! What a replica keeps on disk: versions derived from deltas, and how far it had come with the newest of them.
//!
//! In: the served parameters at the moment of a version. Out: the version's files, byte for byte those of the trainer, or a
//! refusal; after a restart, the newest of them. The position is written behind the version it belongs to.
//!
//! ```text
//! models/NAME/versions/       as the trainer has them; the newest few
//! models/NAME/job/program.sql the program that learns it
//! models/NAME/job/position    JSON: lineage, fingerprint, version, position, mini-batch, state hash of the newest one, and when
//!                             it was that; the last version of another history, which leaves behind it
//! ```

use std::{
    fs,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use tidemill_base::{
    Error, Result,
    store::{atomic_file, data_dir::DataDir},
};
use tidemill_model::snapshot::Snapshot;
use tidemill_serve::{follow::Mark, live::LiveModel, registry::Registry};

use super::{Following, Inner, Trouble, link, lock};
use crate::{job::Journal, program};

/// Versions that a replica keeps.
const VERSIONS_MAX: usize = 5;
/// Writing takes this part of the time at most.
const SHARE: u32 = 20;
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Writers of all models: the end of the process waits for them.
pub(super) struct Writers {
    /// Each writer holds a copy; `None` once no other may begin.
    begun: Mutex<Option<Sender<()>>>,
    ended: Mutex<Receiver<()>>,
}

impl Default for Writers {
    fn default() -> Self {
        let (begun, ended) = channel();
        Self { begun: Mutex::new(Some(begun)), ended: Mutex::new(ended) }
    }
}

impl Writers {
    fn begin(&self) -> Option<Sender<()>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets none begin, and waits for those that have begun, `at_most` so long.
    pub fn end(&self, at_most: Duration) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Nothing is ever sent: it ends when the last copy is dropped.
        let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(at_most);
    }
}

/// Writes versions, one now and then, on a thread of its own: deltas do not wait for the disk.
#[derive(Default)]
pub(super) struct Saver {
    /// When the last version was begun to be written.
    begun: Option<Duration>,
    writing: Option<JoinHandle<Result<Duration>>>,
    /// No version is begun before.
    rests_until: Duration,
    /// The newest version, while it waits for its time.
    waiting: Option<(Mark, String)>,
}

impl Saver {
    /// A version was published of what is served at `mark`.
    pub fn version(&mut self, mark: Mark, manifest: &str) {
        self.waiting = Some((mark, manifest.to_string()));
    }

    /// Begins to write the version that waits, if it is time and nothing was changed since; `position` is where the model
    /// is. Whether an earlier one was written since this was asked last, or why it was not.
    pub fn save(&mut self, inner: &Inner, name: &str, live: &LiveModel, position: u64) -> Result<bool> {
        let now = inner.clock.elapsed();
        let mut is_kept = false;
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            let began = self.begun.take().unwrap_or(now);
            let took = writing.join().unwrap_or_else(|_| Err(Error::internal("writing a version has failed")))?;
            self.rests_until = began + (took * SHARE).max(WRITE_EVERY);
            inner.following(name).counts.versions += 1;
            is_kept = true;
        }
        let Some((mark, manifest)) = &self.waiting else { return Ok(is_kept) };
        if mark.position != position {
            self.waiting = None;
            return Ok(is_kept);
        }
        let served = live.newest();
        if self.writing.is_some() || now < self.rests_until || served.sequence != position {
            return Ok(is_kept);
        }
        let (registry, shell, lineage, fingerprint) = {
            let following = inner.following(name);
            let Some(served) = &following.served else { return Ok(is_kept) };
            (served.registry().clone(), following.shell.clone(), following.lineage, following.fingerprint)
        };
        let Some(writer) = inner.writers.begin() else { return Ok(is_kept) };
        let leaves = make_room(&inner.data, name, &registry, lineage, mark.version)?;
        // Still one of another history: something points at it, and this one waits until that is decided otherwise.
        registry.check_copy(manifest)?;
        let (entries, dense) = (served.weights.entries(), served.weights.dense().to_vec());
        drop(served);
        let Some((mark, manifest)) = self.waiting.take() else { return Ok(is_kept) };
        let path = inner.data.job(name)?.join("position");
        let (clock, as_of_ms) = (inner.clock.clone(), inner.clock.wall_ms());
        let write = move || {
            let _writer = writer;
            let meta = registry.add_copy(&manifest, Snapshot { entries, dense, ..shell })?;
            let position = json!({
                "lineage": format!("{lineage:016x}"), "fingerprint": format!("{fingerprint:016x}"),
                "version": meta.version, "position": mark.position, "mini_batch": mark.mini_batch, "as_of_ms": as_of_ms,
                "state_hash": meta.state_hash.to_string(), "leaves": leaves,
            });
            atomic_file::replace(&path, format!("{position}\n").as_bytes())?;
            leaves.map_or(Ok(()), |version| registry.leave(version))?;
            registry.retain(VERSIONS_MAX)?;
            Ok(clock.elapsed() - now)
        };
        let started = std::thread::Builder::new().name("versions".into()).spawn(write);
        self.writing = Some(started.map_err(|e| Error::unavailable(format!("cannot start a thread: {e}")))?);
        self.begun = Some(now);
        Ok(is_kept)
    }
}

impl Drop for Saver {
    /// The next connection may bring the same version: two writers must not meet.
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            let _ = writing.join();
        }
    }
}

/// The program of a model, where `tidemill serve` looks for it.
pub(super) fn put_program(data: &DataDir, name: &str, fingerprint: u64, program: &str) -> Result<()> {
    let text = format!("-- fingerprint {fingerprint:016x}\n{program}\n");
    atomic_file::replace(&data.job(name)?.join("program.sql"), text.as_bytes())
}

/// Makes room for `version`, where it is the first of a history: versions of another one, which may have the same numbers,
/// leave. The one that a restart would begin with stays until `version` is there, and is given back.
fn make_room(data: &DataDir, name: &str, registry: &Registry, lineage: u64, version: u64) -> Result<Option<u64>> {
    let Ok(text) = fs::read_to_string(data.job(name)?.join("position")) else { return Ok(None) };
    let fields: Value = serde_json::from_str(&text).unwrap_or_default();
    if fields["lineage"] == format!("{lineage:016x}") {
        return Ok(None);
    }
    let stays = fields["version"].as_u64().filter(|&stays| stays != version);
    registry.begin_another_history(stays)?;
    Ok(stays)
}

/// What an earlier process kept of a model; nothing where there is none, or where it cannot be used any more.
pub(super) fn open(data: &DataDir, name: &str) -> Result<Following> {
    let job = data.root().join("models").join(name).join("job");
    if Journal::exists(&job) {
        return Err(Error::conflict(format!(
            "{} learns model '{name}' itself; give the replica another --data-dir",
            data.root().display()
        )));
    }
    let Ok(text) = fs::read_to_string(job.join("position")) else { return Ok(Following::default()) };
    match read(data, name, &text) {
        Ok(following) => Ok(following),
        Err(e) => {
            let message = format!("what was kept of the model cannot be used: {e}");
            Ok(Following { trouble: Some(Trouble { kind: e.kind(), message }), ..Following::default() })
        }
    }
}

fn read(data: &DataDir, name: &str, text: &str) -> Result<Following> {
    let damaged = || Error::corrupt(format!("models/{name}/job/position is not what was written"));
    let fields: Value = serde_json::from_str(text).map_err(|_| damaged())?;
    let number = |field: &str| fields[field].as_u64().ok_or_else(damaged);
    let hex =
        |field: &str| fields[field].as_str().and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(damaged);
    let mark = Mark { position: number("position")?, mini_batch: number("mini_batch")?, version: number("version")? };
    let (lineage, fingerprint) = (hex("lineage")?, hex("fingerprint")?);
    let program = program::stored_job(data.root(), name)?;
    if program.fingerprint != fingerprint {
        return Err(Error::conflict("the program is another one than that of the versions"));
    }
    if program.pipeline.views.is_some() {
        // What its feature views held is not on disk, and without it the answers would be others: the model is asked for.
        return Ok(Following::default());
    }
    let registry = Registry::open(name, &data.versions(name)?)?;
    let is_another = |hash: &str| registry.meta(mark.version).is_ok_and(|meta| meta.state_hash.to_string() != hash);
    // Earlier releases did not write it.
    if fields["state_hash"].as_str().is_some_and(is_another) {
        return Err(Error::conflict(format!("version {} is of another history", mark.version)));
    }
    if let Some(version) = fields["leaves"].as_u64() {
        registry.leave(version)?;
    }
    let live = LiveModel::fixed(registry.open_weights(mark.version)?, mark.version, mark.mini_batch);
    let served = link::serve(&program, name, live, registry, None)?;
    // Earlier releases did not keep it.
    let kept_as_of_ms = fields["as_of_ms"].as_i64();
    let served = Some(served);
    Ok(Following { served, fingerprint, lineage, mark, kept_as_of_ms, is_mapped: true, ..Following::default() })
}

/// Reads the parameters that have been served from where they lie on disk, so that deltas can be applied to them. Where they
/// cannot be read, the model is asked for whole.
pub(super) fn read_in(following: &Mutex<Following>) {
    let (served, mark) = {
        let following = lock(following);
        match &following.served {
            Some(served) if following.is_mapped => (served.clone(), following.mark),
            _ => return,
        }
    };
    let read = served.registry().load(mark.version);
    let mut following = lock(following);
    following.is_mapped = false;
    match read {
        Ok(mut snapshot) => {
            snapshot.sequence = mark.position;
            served.predictor().live().replace(&snapshot, mark.version, mark.mini_batch);
            following.shell = Snapshot { entries: Default::default(), dense: Vec::new(), ..snapshot };
        }
        Err(e) => {
            following.lineage = 0;
            following.trouble = Some(Trouble { kind: e.kind(), message: e.message().to_string() });
        }
    }
}
