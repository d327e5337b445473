//! Models that learn together: one job reads, orders and joins, and each of them learns from its samples.
//!
//! In: the jobs of one stream, in their order; the first, the leader, has the journal and what waits in the join. Out: for
//! each what it would be if it ran alone, to the bit: its own learner, versions, guards and checkpoints. One that panics or
//! errs stops alone, with its reason in its directory, where a restart finds it and lets it rest; one that diverges
//! publishes nothing, as it would alone. Checkpoints are begun at one mini-batch for all, and a restart goes on from the
//! newest that every model has.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use tidemill_base::{
    Clock, Error, Kind, Result,
    codec::Decoder,
    store::{atomic_file, data_dir::DataDir, disk},
};
use tidemill_connect::Connections;
use tidemill_model::params::Restoring;
use tidemill_serve::registry::Registry;
use tidemill_sql::TrainJob;
use tidemill_stream::sequencer::Cut;
use tidemill_train::TrainSpec;

use super::{
    Checkpoint, Checkpoints, Job, Options, Timing,
    dead_letter::DeadLetter,
    gate::GateKeeper,
    inputs::check_program,
    journal::{Journal, Past},
    leaving,
    meter::Meter,
    replicas::Restored,
    save::Saver,
};
use crate::{
    engine::{Engine, Rejected, RestoringStreams, Shaped, panic_message},
    push::PushHub,
    sinks::Sinks,
    status::History,
};

/// Names the model whose job reads for this one.
const BESIDE: &str = "beside";
/// Says why a model has stopped.
const STOPPED: &str = "stopped.json";

/// The model whose journal this directory's model is learned from; `None`: its own.
pub fn leader_of(job_dir: &Path) -> Result<Option<String>> {
    let path = job_dir.join(BESIDE);
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(Some(name.trim().to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// A model that has stopped rests while others go on; alone it would be a job that does nothing.
pub(super) fn check_rests(bound: &TrainJob, why: &str) -> Result<()> {
    match bound.together.is_empty() {
        false => Ok(()),
        true => Err(Error::conflict(format!(
            "model '{}' has stopped: {why}; take another name, or --from-scratch to forget what it learned",
            bound.model
        ))),
    }
}

/// Refuses a model on another stream than the one it was learned from before.
pub(super) fn check_leader(job_dir: &Path, model: &str, leader: Option<&str>) -> Result<()> {
    let was = leader_of(job_dir)?;
    match (was.as_deref(), leader) {
        (Some(was), _) if leader != Some(was) => Err(Error::conflict(format!(
            "model '{model}' is learned together with '{was}', whose journal it stands on; run a program that trains both, \
             '{was}' first, or take another name, or --from-scratch to forget what it learned"
        ))),
        (None, Some(leader)) if Journal::exists(job_dir) => Err(Error::conflict(format!(
            "model '{model}' was learned alone, from a journal of its own, and not together with '{leader}'; put it into a \
             program of its own, or take another name, or --from-scratch to forget what it learned"
        ))),
        _ => Ok(()),
    }
}

/// Why the model of this directory has stopped, if it has.
pub fn why_stopped(job_dir: &Path) -> Result<Option<String>> {
    let path = job_dir.join(STOPPED);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let stopped: Value = serde_json::from_slice(&bytes).map_err(|e| {
                Error::corrupt(format!("{}: {e}; remove it, and the model learns again", path.display()))
            })?;
            Ok(Some(stopped["reason"].as_str().unwrap_or("for an unknown reason").to_string()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// A job that is to learn beside the leader, before it is known where they go on.
pub(super) struct Opening {
    bound: TrainJob,
    spec: TrainSpec,
    dir: PathBuf,
    /// To be kept, where nothing was learned here yet.
    program: Option<String>,
    registry: Arc<Registry>,
    checkpoints: Checkpoints,
    engine: Engine,
    threads: usize,
    stopped: Option<String>,
    found: Option<(Checkpoint, Restoring)>,
}

impl Opening {
    /// The job's directory as it was left.
    pub fn of(data: &DataDir, bound: TrainJob, leader: &str, options: &Options) -> Result<Self> {
        let spec = TrainSpec::from_settings(&bound.learner, &bound.settings)?;
        let dir = data.job(&bound.model)?;
        if options.from_scratch {
            clear(&dir)?;
            data.job(&bound.model)?;
        }
        check_leader(&dir, &bound.model, Some(leader))?;
        let program = check_program(&dir, &bound)?;
        let registry = Arc::new(Registry::open(&bound.model, &data.versions(&bound.model)?)?);
        let checkpoints = Checkpoints::open(&dir, bound.state_fingerprint)?;
        leaving::forget_unusable(&checkpoints, &Sinks::open(&bound, 0)?, Journal::base(&data.job(leader)?)?)?;
        let engine = Engine::beside(&bound, &spec, options.threads)?;
        let stopped = why_stopped(&dir)?;
        Ok(Self {
            bound,
            spec,
            dir,
            program,
            registry,
            checkpoints,
            engine,
            threads: options.threads,
            stopped,
            found: None,
        })
    }

    /// Reads its checkpoint at this mini-batch; the mini-batch of the newest one up to there that is usable.
    fn load(&mut self, at: u64) -> Result<u64> {
        let (checkpoints, engine, spec, threads) = (&self.checkpoints, &self.engine, &self.spec, self.threads);
        let load = |c: &Checkpoint| checkpoints.entries(c, || engine.line.restoring(spec, threads));
        self.found = checkpoints.newest(at, load, |_| ())?;
        Ok(self.found.as_ref().map_or(0, |(c, _)| c.mini_batch))
    }

    /// The job where its checkpoint is, or at the beginning.
    pub fn open(mut self, journal: &Journal, options: &Options, push: &PushHub, clock: &Arc<dyn Clock>) -> Result<Job> {
        atomic_file::replace(&self.dir.join(BESIDE), format!("{}\n", self.bound.together[0]).as_bytes())?;
        if let Some(text) = &self.program {
            atomic_file::replace(&self.dir.join("program.sql"), text.as_bytes())?;
        }
        let (mut dead_letter_bytes, mut version_rows) = (0, 0);
        let newest = self.found.as_ref().map(|(c, _)| c.mini_batch);
        let whole_at = self.found.as_ref().and_then(|(c, _)| c.whole_at());
        if let Some((c, entries)) = self.found.take().filter(|_| self.stopped.is_none()) {
            let what = format!("checkpoint {} of '{}'", c.mini_batch, self.bound.model);
            let mut d = Decoder::new(c.body(), &what);
            d.u64()?; // see Checkpoint::streamed
            dead_letter_bytes = d.u64()?;
            version_rows = d.u64()?;
            // What waits in the join is the leader's, as views are.
            let streams = RestoringStreams::default();
            self.engine.restore(&self.spec, options.threads, &mut d, entries, streams)?;
            d.end()?;
        }
        let Self { bound, spec, dir, registry, checkpoints, mut engine, stopped, .. } = self;
        let restored = (newest.is_some() && options.serves).then(|| Restored::new(&engine, whole_at));
        let rests = stopped.is_some();
        if let Some(why) = stopped {
            engine.stop(why, &spec)?;
        }
        let gate = GateKeeper::new(&spec, &engine.line.learning.trainer().validation().overall());
        Ok(Job {
            saver: Saver::new(checkpoints, newest, options.in_order),
            timing: Timing { started: clock.elapsed(), ..Timing::default() },
            meter: Meter::default(),
            is_last: false,
            watermark: i64::MIN,
            history: History::default(),
            live: None,
            restored,
            not_saved: None,
            not_published: None,
            version: registry.list().last().map_or(0, |v| v.version),
            dead_letter: DeadLetter::open(&dir, dead_letter_bytes)?,
            sinks: Sinks::open(&bound, 0)?,
            journal: journal.share()?,
            bound,
            spec,
            options: options.clone(),
            clock: clock.clone(),
            dir,
            engine,
            turned_away: push.turned_away().clone(),
            connections: Connections::default(),
            registry,
            version_rows,
            figures: None,
            gate,
            warning: None,
            members: Vec::new(),
            rests,
        })
    }
}

/// The newest checkpoint of the leader at which every model that has not stopped has one too, all of them usable; `None`:
/// there is none, and all is derived again from the beginning of the journal.
pub(super) fn newest_common<T>(
    checkpoints: &Checkpoints,
    mut load: impl FnMut(&Checkpoint) -> Result<T>,
    mut warn: impl FnMut(&Error),
    beside: &mut [Opening],
) -> Result<Option<(Checkpoint, T)>> {
    let mut at_most = u64::MAX;
    loop {
        let goes_on = |job: &&mut Opening| job.stopped.is_none();
        let lists: Vec<Vec<u64>> =
            beside.iter().filter(|job| job.stopped.is_none()).map(|job| job.checkpoints.list()).collect();
        let is_common = |m: &u64| *m <= at_most && lists.iter().all(|list| list.contains(m));
        let Some(at) = checkpoints.list().into_iter().rev().find(is_common) else { return Ok(None) };
        let Some((checkpoint, loaded)) = checkpoints.newest(at, &mut load, &mut warn)? else { return Ok(None) };
        let mut least = checkpoint.mini_batch;
        if least == at {
            for job in beside.iter_mut().filter(goes_on) {
                least = least.min(job.load(at)?);
            }
        }
        if least == at {
            return Ok(Some((checkpoint, loaded)));
        }
        beside.iter_mut().for_each(|job| job.found = None);
        // What one of them cannot use is of no use to the others.
        at_most = least;
    }
}

impl Job {
    /// The models that learn from what this job reads, itself among them, in their order.
    pub fn models(&self) -> impl Iterator<Item = &Job> {
        std::iter::once(self).chain(&self.members)
    }

    /// The others of them.
    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.members.iter_mut()
    }

    /// Whether there are others, or were: then what goes wrong in a model is its own affair.
    pub(super) fn is_together(&self) -> bool {
        !self.bound.together.is_empty()
    }

    /// Takes a mini-batch down the line, for all models.
    pub(super) fn mini_batch_for_all(&mut self, cut: &Cut) -> Result<Vec<Rejected>> {
        let mut rejected = Vec::new();
        if !self.is_together() {
            self.engine.mini_batch(cut, &mut rejected)?;
            return Ok(rejected);
        }
        let members = &mut self.members;
        let mut is_shown = false;
        let mut beside = |shaped: &mut Shaped| {
            is_shown = true;
            members.iter_mut().for_each(|member| member.learn_beside(cut, Some(&mut *shaped)));
        };
        self.engine.mini_batch_with(cut, &mut rejected, Some(&mut beside))?;
        if !is_shown {
            self.members.iter_mut().for_each(|member| member.learn_beside(cut, None));
        }
        Ok(rejected)
    }

    /// Learns from the samples of a mini-batch that the leader has joined.
    fn learn_beside(&mut self, cut: &Cut, shaped: Option<&mut Shaped>) {
        let mut rejected = Vec::new();
        self.engine.mini_batch_beside(cut, shaped, &mut rejected);
        for r in rejected {
            self.dead_letter.put(&r.place, None, &r.reason, "");
        }
        self.is_last = cut.is_last;
        self.watermark = cut.watermark;
    }

    /// Lets models rest that have just stopped, and says so in their directories.
    pub(super) fn let_rest(&mut self) -> Result<()> {
        if let Some(why) = self.engine.stopped().map(str::to_string)
            && !self.rests
        {
            self.rests = true;
            let mini_batch = self.engine.mini_batch_number();
            let said = json!({"mini_batch": mini_batch, "reason": why, "at_ms": self.clock.wall_ms()});
            atomic_file::replace(&self.dir.join(STOPPED), said.to_string().as_bytes())?;
            self.engine.stop(why, &self.spec)?;
        }
        self.members.iter_mut().try_for_each(Self::let_rest)?;
        match self.all_rest() {
            false => Ok(()),
            true => Err(Error::internal(format!("every model has stopped; {}", self.warnings().unwrap_or_default()))),
        }
    }

    /// Why this model has stopped while others go on.
    pub fn stopped(&self) -> Option<&str> {
        self.engine.stopped()
    }

    /// Whether every model has stopped: then there is nothing to go on for.
    pub(super) fn all_rest(&self) -> bool {
        !self.members.is_empty() && self.models().all(|job| job.stopped().is_some())
    }

    /// Does something for every model that has not stopped, this job's own first.
    pub(super) fn for_models(&mut self, mut what: impl FnMut(&mut Job) -> Result<()>) -> Result<()> {
        self.alone(&mut what)?;
        self.for_members(what)
    }

    /// The same for the others only.
    pub(super) fn for_members(&mut self, mut what: impl FnMut(&mut Job) -> Result<()>) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.alone(&mut what))
    }

    /// Does something for this model: where it learns together with others and this goes wrong, it stops alone. A full
    /// disk stops nobody.
    fn alone(&mut self, what: &mut impl FnMut(&mut Job) -> Result<()>) -> Result<()> {
        if !self.is_together() {
            return what(self);
        }
        if self.stopped().is_some() {
            return Ok(());
        }
        let why = match catch_unwind(AssertUnwindSafe(|| what(self))) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e)) if e.kind() == Kind::Exhausted => {
                self.not_published = Some(format!("{e}; trying again"));
                return Ok(());
            }
            Ok(Err(e)) => e.to_string(),
            Err(panic) => format!("it panicked: {}", panic_message(&*panic)),
        };
        self.engine.stop(why, &self.spec)?;
        self.let_rest()
    }

    /// Goes on with the journal's records, for all models.
    pub(super) fn replay(&mut self, past: Past) -> Result<()> {
        for record in past.cuts {
            let cut = self.engine.replay_cut(record)?;
            let rejected = self.mini_batch_for_all(&cut)?;
            self.after(&cut, rejected)?;
            self.sinks.make_room()?;
        }
        Ok(())
    }
}

/// Removes what a job's directory holds, and makes it anew.
pub(super) fn clear(dir: &Path) -> Result<()> {
    disk::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))
}
