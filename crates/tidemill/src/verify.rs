//! Deriving a version again: from the journal and the sources, with nothing of what was stored of its weights.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tidemill_base::{Error, Kind, Result, StateHash, codec::Decoder};
use tidemill_serve::registry::{Registry, VersionMeta};
use tidemill_stream::join::SpillDir;
use tidemill_train::TrainSpec;

use crate::{
    data::connections,
    engine::Engine,
    job::{Checkpoint, Checkpoints, Journal, open_partitions, together},
    program,
    push::PushHub,
};

/// What came of it.
pub struct Verified {
    /// What the registry says of the version.
    pub meta: VersionMeta,
    /// The state hash derived again.
    pub derived: StateHash,
    /// The checkpoint it was derived from; 0 for none.
    pub from_mini_batch: u64,
    /// Mini-batches done again.
    pub mini_batches: u64,
}

/// Derives `model@version` again. Reads only; a process that owns the directory is not disturbed.
pub fn verify(
    data_root: &Path,
    model: &str,
    version: u64,
    threads: usize,
    mut progress: impl FnMut(u64, u64),
) -> Result<Verified> {
    let job = program::stored_job(data_root, model)?;
    let dir = data_root.join("models").join(model);
    let registry = Registry::reading(model, &dir.join("versions"))?;
    let meta = registry.meta(version)?;
    // What is served is the snapshot: a version whose weights are damaged does not verify, however well it is derived.
    registry.load(version)?;
    if meta.fingerprint != job.fingerprint {
        return Err(Error::conflict(format!(
            "version {version} of '{model}' was learned by an earlier program, whose journal is gone; it cannot be derived again"
        )));
    }
    // The bounds of a join that stops may have been raised since: they change nothing.
    let spec = TrainSpec::from_settings(&job.learner, &job.settings)?.never_stopping();
    let checkpoints = Checkpoints::reading(&dir.join("job"), job.state_fingerprint);
    // One before it: the checkpoint at the version itself would only prove that it can be read.
    let mut engine = Engine::new(&job, &spec, threads)?;
    let scratch = Scratch::new();
    engine.line.spill_to(&SpillDir::open(&scratch.0)?);
    let load = |c: &Checkpoint| {
        let streams = checkpoints.streams(c, engine.line.restoring_streams())?;
        Ok((checkpoints.entries(c, || engine.line.restoring(&spec, threads))?, streams))
    };
    // A model that learns beside another stands on the other's journal, and its checkpoints hold nothing of the stream.
    let leader = together::leader_of(&dir.join("job"))?;
    let journal_dir = match &leader {
        Some(leader) => data_root.join("models").join(leader).join("job"),
        None => dir.join("job"),
    };
    let checkpoint = match leader {
        Some(_) => None,
        None => match checkpoints.newest(meta.mini_batch.saturating_sub(1), load, |_| ()) {
            // The journal alone is enough.
            Err(e) if e.kind() == Kind::Corrupt => None,
            other => other?,
        },
    };
    let from = checkpoint.as_ref().map_or(0, |(c, _)| c.mini_batch);
    let streamed = checkpoint.as_ref().map_or(Ok(0), |(c, _)| c.streamed())?;
    let past = Journal::read(&journal_dir, streamed, meta.mini_batch)?;
    if past.last_mini_batch < meta.mini_batch && spec.passes == 1 {
        return Err(Error::corrupt(format!(
            "the journal ends at mini-batch {}, version {version} stands on mini-batch {}",
            past.last_mini_batch, meta.mini_batch
        )));
    }
    let mut connections = connections();
    open_partitions(&mut engine, &job, &past, &PushHub::reading(data_root), &mut connections, None)?;
    if let Some((c, (entries, streams))) = checkpoint {
        let what = format!("checkpoint {}", c.mini_batch);
        let mut d = Decoder::new(c.body(), &what);
        let _ = (d.u64()?, d.u64()?, d.u64()?);
        engine.restore(&spec, threads, &mut d, entries, streams)?;
    }
    let mini_batches = past.cuts.len() as u64;
    for (i, record) in past.cuts.into_iter().enumerate() {
        engine.replay(record, &mut Vec::new())?;
        progress(i as u64 + 1, mini_batches);
    }
    while engine.mini_batch_number() < meta.mini_batch {
        if !engine.learn_again(&dir.join("job"))? {
            return Err(Error::corrupt(format!(
                "version {version} stands on mini-batch {}, and all passes end at {}",
                meta.mini_batch,
                engine.mini_batch_number()
            )));
        }
    }
    Ok(Verified { derived: engine.state_hash()?, meta, from_mini_batch: from, mini_batches })
}

/// A directory for rows that find no room in memory: that of the job belongs to its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("tidemill-verify-{}-{number}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
