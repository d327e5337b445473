//! A running job: the engine with its clock, its journal, its checkpoints and those who watch.
//!
//! Here and only here time decides: when a paced stream's next mini-batch is due, when a silent partition is idle, when to
//! publish and to save. What it decides about events is in the journal before anything follows from it; what it decides
//! about publishing and saving changes nothing that is learned.

mod checkpoint;
mod dead_letter;
mod gate;
mod give_way;
mod inputs;
mod journal;
pub mod kept_status;
mod leaving;
mod meter;
mod part;
mod picture;
mod publish;
mod replicas;
mod save;
mod show;
mod stream_parts;
pub mod together;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tidemill_base::{
    Clock, Error, Kind, Result,
    codec::Decoder,
    codec::Encoder,
    store::{atomic_file, data_dir::DataDir},
    thousands,
};
use tidemill_connect::Connections;
use tidemill_model::params::Walked;
use tidemill_serve::{
    follow::{self, feed::Base},
    live::LiveModel,
    live_views::LiveViews,
    registry::Registry,
};
use tidemill_sql::TrainJob;
use tidemill_stream::{
    join::SpillDir,
    journal::{PartitionId, Record},
    sequencer::Cut,
    source,
    window::END_OF_TIME,
};
use tidemill_train::{Summary, TrainSpec};

use crate::{
    data::connections,
    engine::{Compare, Engine, Entries, Rejected},
    push::{PushHub, TurnedAway, believed},
    signal::Signal,
    sinks::{Sinks, States},
    status::{History, Status},
};
pub use checkpoint::{Checkpoint, Checkpoints};
use dead_letter::DeadLetter;
use gate::GateKeeper;
use give_way::GiveWay;
use inputs::{add_partition, check_passes, check_program, keep_prints, realtime_start, unwatched_key};
pub use inputs::{inputs, open_partitions};
pub use journal::{Journal, Past};
use meter::{Meter, Phase};
pub use replicas::Lineage;
use replicas::Restored;
use save::{Body, Saver};
use together::{Opening, check_leader, clear, newest_common};

/// What the person asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads that learn; changes speed only.
    pub threads: usize,
    /// Forget what an earlier run of this job left.
    pub from_scratch: bool,
    /// End when the ordered partitions end, though events may still be pushed.
    pub end_with_ordered: bool,
    /// The model will be served: replicas may go on where they were before this start.
    pub serves: bool,
    /// Write a checkpoint between two mini-batches, when the next one is due, instead of beside the learning: then every
    /// access to the disk has its place in an order that does not depend on threads. For simulations.
    pub in_order: bool,
    /// Bytes behind which the journal goes on in another file, where it is cut. For simulations.
    pub journal_file_bytes: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every source ended and everything that waited was decided.
    Finished,
    /// It was asked to stop, and can be gone on with.
    Stopped,
}

/// Where a running job puts what it shows.
pub trait Watcher {
    /// Whether anybody has looked since this was last asked. Then it is shown about ten times a second, otherwise once: to
    /// say where it stands takes a learner time, which whoever predicts on the same core would wait for.
    fn is_watched(&mut self) -> bool {
        true
    }

    /// Where the job stands now, and once more at its end.
    fn show(&mut self, status: &Status, page: Value);
}

/// One training job, restored as far as its journal goes.
pub struct Job {
    bound: TrainJob,
    spec: TrainSpec,
    options: Options,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    engine: Engine,
    journal: Journal,
    saver: Saver,
    dead_letter: DeadLetter,
    turned_away: Arc<TurnedAway>,
    connections: Connections,
    sinks: Sinks,
    registry: Arc<Registry>,
    live: Option<Arc<LiveModel>>,
    /// The mini-batch of the checkpoint it was restored from.
    restored: Option<Restored>,
    version: u64,
    version_rows: u64,
    /// What was told of its predictions, after which mini-batch and version.
    figures: Option<((u64, u64), Summary)>,
    gate: GateKeeper,
    is_last: bool,
    watermark: i64,
    timing: Timing,
    meter: Meter,
    history: History,
    warning: Option<String>,
    /// Why the last checkpoint, and the last version, could not be written.
    not_saved: Option<String>,
    not_published: Option<String>,
    /// The models that learn from what this job reads, beside its own.
    members: Vec<Job>,
    /// Whether it is on record that its model has stopped.
    rests: bool,
}

/// When things were done last, as the clock's elapsed time.
#[derive(Default)]
struct Timing {
    started: Duration,
    events_before: u64,
    published: Duration,
    versioned: Duration,
    saved: Duration,
    shown: Duration,
    status_kept: Option<Duration>,
    noted: Duration,
    rate: (Duration, u64, f64),
    give_way: Arc<GiveWay>,
    heard: BTreeMap<(u32, u32), Duration>,
    looked_for_files: Duration,
    disk_full: Option<Duration>,
    pace: Option<(Duration, i64)>,
    staleness_ms: Option<f64>,
    /// Samples a second in passes beyond the first.
    pass_rate: Option<f64>,
}

const SHOW_EVERY: Duration = Duration::from_millis(100);
/// Where no page is served: a line on a terminal is read by a person, and its figures cost some milliseconds.
const SHOW_LINE_EVERY: Duration = Duration::from_millis(500);
/// Where nobody looks.
const SHOW_UNWATCHED_EVERY: Duration = Duration::from_secs(1);
/// How often a served model is refreshed: at once in effect when events are paced or pushed, rarely when history is read at
/// full speed and nobody clicks on it.
const PUBLISH_LIVE_EVERY: Duration = Duration::from_millis(2);
const PUBLISH_BATCH_EVERY: Duration = Duration::from_millis(100);
const LOOK_FOR_FILES_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for rows; where each source says that it has some, for what is due by the clock.
const WAIT_AT_MOST: Duration = Duration::from_millis(5);
const WAIT_FOR_NEWS: Duration = Duration::from_millis(50);
/// How long a checkpoint is gone on with at a time while no event comes.
const SAVE_STEP: Duration = Duration::from_millis(2);
const RETRY_DISK_EVERY: Duration = Duration::from_millis(500);

impl Job {
    /// Opens the job in the data directory and brings it to where its journal ends.
    pub fn open(
        data: &DataDir,
        bound: TrainJob,
        options: Options,
        push: &PushHub,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Self::open_together(data, vec![bound], options, push, clock)
    }

    /// Opens jobs that learn together ([`TrainJob::together`]); the first of them reads for all.
    pub fn open_together(
        data: &DataDir,
        jobs: Vec<TrainJob>,
        options: Options,
        push: &PushHub,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let mut jobs = jobs.into_iter();
        let bound = jobs.next().ok_or_else(|| Error::internal("a job without a model"))?;
        let spec = TrainSpec::from_settings(&bound.learner, &bound.settings)?;
        let dir = data.job(&bound.model)?;
        if options.from_scratch {
            clear(&dir)?;
            data.job(&bound.model)?;
        }
        check_leader(&dir, &bound.model, None)?;
        let program = check_program(&dir, &bound)?;
        let registry = Arc::new(Registry::open(&bound.model, &data.versions(&bound.model)?)?);
        let checkpoints = Checkpoints::open(&dir, bound.state_fingerprint)?;
        let lineage = if bound.sinks.is_empty() { 0 } else { Lineage::id(&dir, &*clock)? };
        let mut sinks = Sinks::open(&bound, lineage)?;
        let mut warning = unwatched_key(&bound).or_else(|| crate::engine::emission::warning(&bound));
        if let Some(why) = leaving::forget_unusable(&checkpoints, &sinks, Journal::base(&dir)?)? {
            warning = Some(why);
        }
        if let Some(damaged) = registry.damaged().first() {
            warning = Some(format!("version {} is passed over: {}", damaged.version, damaged.reason));
        }
        let mut beside = jobs.map(|job| Opening::of(data, job, &bound.model, &options)).collect::<Result<Vec<_>>>()?;
        let mut engine = Engine::new(&bound, &spec, options.threads)?;
        engine.line.spill_to(&SpillDir::open(&dir.join("spill"))?);
        let load = |c: &Checkpoint| {
            leaving::check_resumable(&sinks, c)?;
            let streams = checkpoints.streams(c, engine.line.restoring_streams())?;
            Ok((checkpoints.entries(c, || engine.line.restoring(&spec, options.threads))?, streams))
        };
        let warn = |e: &Error| warning = Some(e.to_string());
        let checkpoint = match beside.is_empty() {
            true => checkpoints.newest(u64::MAX, load, warn)?,
            false => newest_common(&checkpoints, load, warn, &mut beside)?,
        };
        let after = checkpoint.as_ref().map_or(Ok(0), |(c, _)| c.streamed())?;
        let newest = checkpoint.as_ref().map(|(c, _)| c.mini_batch);
        let (mut journal, past) = Journal::open(&dir, spec.journal_is_cut, after, u64::MAX)?;
        check_passes(&spec, &bound)?;
        let mut connections = connections();
        open_partitions(&mut engine, &bound, &past, push, &mut connections, Some(&mut journal))?;
        engine.keep_lessons(&dir)?;
        // Only now: a program whose sources cannot be opened leaves nothing behind that would stand in the next one's way.
        if let Some(text) = program {
            atomic_file::replace(&dir.join("program.sql"), text.as_bytes())?;
        }
        let members = beside.into_iter().map(|beside| beside.open(&journal, &options, push, &clock));
        let members = members.collect::<Result<Vec<_>>>()?;

        let mut dead_letter_bytes = 0;
        let mut version_rows = 0;
        let mut states = States::new();
        let whole_at = checkpoint.as_ref().and_then(|(c, _)| c.whole_at());
        if let Some((c, (entries, streams))) = checkpoint {
            let what = format!("checkpoint {}", c.mini_batch);
            let body;
            (body, states) = leaving::parts(&sinks, &c)?;
            let mut d = Decoder::new(body, &what);
            d.u64()?; // see Checkpoint::streamed
            dead_letter_bytes = d.u64()?;
            version_rows = d.u64()?;
            engine.restore(&spec, options.threads, &mut d, entries, streams)?;
            d.end()?;
        }
        sinks.start(after, &states, &|| journal.sync_handle(), &clock)?;
        if let Some(exit) = sinks.exit() {
            engine.line.let_out(exit);
        }
        let restored = (newest.is_some() && options.serves).then(|| Restored::new(&engine, whole_at));
        let rests = together::why_stopped(&dir)?;
        if let Some(why) = &rests {
            together::check_rests(&bound, why)?;
            engine.stop(why.clone(), &spec)?;
        }
        let version = registry.list().last().map_or(0, |v| v.version);
        let dead_letter = DeadLetter::open(&dir, dead_letter_bytes)?;
        let gate = GateKeeper::new(&spec, &engine.line.learning.trainer().validation().overall());
        let mut job = Self {
            saver: Saver::new(checkpoints, newest, options.in_order),
            timing: Timing { started: clock.elapsed(), ..Timing::default() },
            meter: Meter::default(),
            is_last: engine.sequencer.all_finished(),
            watermark: i64::MIN,
            history: History::default(),
            live: None,
            restored,
            not_saved: None,
            not_published: None,
            bound,
            spec,
            options,
            clock,
            dir,
            engine,
            journal,
            dead_letter,
            turned_away: push.turned_away().clone(),
            connections,
            sinks,
            registry,
            version,
            version_rows,
            figures: None,
            gate,
            warning,
            members,
            rests: rests.is_some(),
        };
        let is_last = job.is_last;
        job.members.iter_mut().for_each(|member| member.is_last = is_last);
        job.replay(past)?;
        job.timing.events_before = job.engine.line.counts().events;
        job.look_behind_the_end()?;
        Ok(job)
    }

    /// What a finished job would pass over in silence: events behind its end.
    fn look_behind_the_end(&mut self) -> Result<()> {
        let sequencer = &mut self.engine.sequencer;
        if sequencer.watermark() == END_OF_TIME && !sequencer.all_finished() && self.bound.pipeline.join.is_some() {
            return Err(Error::conflict(format!(
                "model '{}' has finished: its sources had ended and every label was decided, so that further events would \
                 all be late; use another model name or --data-dir, or --from-scratch to begin again",
                self.bound.model
            )));
        }
        if sequencer.all_finished() {
            let grown = sequencer.grown()?;
            if !grown.is_empty() {
                self.warning = Some(format!(
                    "{} has grown since this job finished; its new rows are not learned. Declare follow = true and use \
                     --from-scratch to have them",
                    grown.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// The model's versions.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The bound statement.
    pub fn bound(&self) -> &TrainJob {
        &self.bound
    }

    /// Makes the model readable by requests while it learns.
    pub fn serve(&mut self) -> Result<Arc<LiveModel>> {
        let lineage = Lineage::begin(&self.dir, &*self.clock)?;
        self.engine.line.learning.settle()?;
        let mini_batch = self.engine.mini_batch_number();
        let mut trainer = self.engine.line.learning.trainer();
        let (mut shell, weights, delta) = (trainer.shell(), trainer.weights(), trainer.take_delta());
        drop(trainer);
        shell.sequence = follow::first_position(lineage.starts) + 1;
        shell.sampling = self.engine.line.sampling();
        self.engine.number_deltas_from(shell.sequence);
        let live = LiveModel::begin(weights, shell.sequence, self.version, mini_batch)?;
        // What changed in feature views since the checkpoint is not known: with them, replicas begin with the whole model.
        let base = self.restored.take().filter(|_| !delta.anew && self.bound.pipeline.views.is_none());
        let base = base.map(|Restored { at, earlier }| {
            let version = self.version;
            Base { from_mini_batch: at, earlier, mini_batch, version, delta }
        });
        live.feed_to(replicas::feed(&self.bound, lineage, shell, base, self.journal.sync_handle()?)?);
        let live = self.live.insert(live).clone();
        self.engine.line.compare(Compare::new(live.clone()));
        let (way, clock) = (self.timing.give_way.clone(), self.clock.clone());
        self.engine.pause_between(Arc::new(move || way.after_a_piece(clock.elapsed(), &*clock)));
        Ok(live)
    }

    /// Makes the feature views readable by requests while events change them; `None` where the model has none.
    pub fn serve_views(&mut self) -> Result<Option<Arc<LiveViews>>> {
        let views = self.engine.serve_views(&self.bound)?;
        let feed = self.live.as_ref().and_then(|live| live.feed());
        feed.iter().zip(&views).for_each(|(feed, views)| feed.views_are(views.clone()));
        Ok(views)
    }

    /// Runs until the sources end or the signal says stop.
    pub fn run(&mut self, signal: &Signal, watcher: &mut dyn Watcher) -> Result<Ending> {
        self.timing.rate = (self.clock.elapsed(), self.engine.line.counts().events, 0.0);
        self.meter.begin(self.clock.elapsed(), inputs(&self.bound).len());
        let ending = self.run_loop(signal, watcher);
        let ending = match ending {
            Ok(ending) => ending,
            Err(e) => {
                // What was journaled is safe; saying where it stopped helps the person more than a checkpoint would.
                self.show(watcher, &format!("failed: {e}"));
                return Err(e);
            }
        };
        let bounded = self.is_last;
        if bounded && self.engine.line.counts().events == 0 && self.nothing_usable().is_none() {
            self.warning = Some("no event came from any source; see to the path, topic or subject".into());
        }
        if let Err(e) = self.for_models(|job| job.publish_last(bounded)) {
            // How far it came is said, too.
            self.show(watcher, &format!("failed: {e}"));
            return Err(e);
        }
        self.keep_turned_away();
        match self.drain_sinks(ending, signal, watcher) {
            Ok(true) => {
                self.save_now()?;
                self.for_members(Self::save_now)?;
            }
            Ok(false) => {
                self.end_undelivered()?;
                self.show(watcher, "stopped");
                return Ok(Ending::Stopped);
            }
            Err(e) => {
                self.show(watcher, &format!("failed: {e}"));
                return Err(e);
            }
        }
        self.show(watcher, if ending == Ending::Finished { "finished" } else { "stopped" });
        Ok(ending)
    }

    /// Where it stands, with the state hash.
    pub fn final_status(&self, state: &str) -> Status {
        let summary = self.engine.line.learning.trainer().validation().summary();
        let mut status = self.status(state, summary);
        let seconds = (self.clock.elapsed() - self.timing.started).as_secs_f64();
        status.events_per_s = (status.counts.events - self.timing.events_before) as f64 / seconds.max(1e-9);
        status.state_hash = self.engine.state_hash().ok().filter(|_| self.stopped().is_none());
        status
    }

    /// Why nothing was learned although there were events: all of them were refused. Then no version is published.
    pub fn nothing_usable(&mut self) -> Option<Error> {
        let counts = self.engine.line.counts();
        let late = self.engine.line.join_counts().late_impressions;
        let refused = counts.events_refused + counts.samples_refused + late;
        if counts.sample_rows > 0 || refused == 0 || !self.is_last {
            return None;
        }
        let first = self.dead_letter.first().unwrap_or_else(|| "the dead letter could not be kept".into());
        Some(Error::not_found(format!(
            "model '{}': no usable row: {} refused, none learned, and no version published; the first: {first}; see {}",
            self.bound.model,
            thousands(refused),
            self.dead_letter.path().display()
        )))
    }

    /// The error of a run that has ended: a model without a usable row, or one that has stopped.
    pub fn outcome(&mut self) -> Result<()> {
        if let Some(why) =
            self.models().find_map(|job| Some(format!("model '{}' has stopped: {}", job.bound.model, job.stopped()?)))
        {
            return Err(Error::internal(why));
        }
        if let Some(e) = self.nothing_usable() {
            return Err(e);
        }
        self.members.iter_mut().find_map(Self::nothing_usable).map_or(Ok(()), Err)
    }

    /// Where refused events are kept.
    pub fn dead_letter(&self) -> (&Path, u64) {
        (self.dead_letter.path(), self.dead_letter.lines_not_kept())
    }

    fn run_loop(&mut self, signal: &Signal, watcher: &mut dyn Watcher) -> Result<Ending> {
        while !self.is_last {
            if signal.is_stopped() {
                return Ok(Ending::Stopped);
            }
            self.engine.sequencer.set_clock(believed(self.clock.wall_ms()));
            let planned = self.engine.sequencer.plan_ordered()?;
            let live = self.engine.sequencer.live_partitions();
            let has_ended = planned.is_none() && !self.engine.sequencer.is_waiting();
            if has_ended && (live.is_empty() || self.options.end_with_ordered) {
                let cut = self.engine.sequencer.finish_live()?;
                self.lap(Phase::Reading);
                self.take(cut, signal, watcher)?;
                continue;
            }
            // A checkpoint goes on in these pauses.
            let is_saving = !self.models().all(|job| job.saver.is_idle());
            let rests = self.engine.sequencer.is_announced() && !is_saving;
            let wait_at_most = if rests { WAIT_FOR_NEWS } else { WAIT_AT_MOST };
            let wait = planned.map_or(wait_at_most, |ts| self.due_in(ts));
            let idle = self.newly_idle(&live);
            let cut = self.engine.sequencer.cut(planned.is_some() && wait.is_zero(), &idle)?;
            self.lap(Phase::Reading);
            match cut {
                Some(cut) => self.take(cut, signal, watcher)?,
                None => {
                    self.for_models(Self::publish_live)?;
                    self.models().for_each(Self::step_save);
                    self.lap(Phase::Publishing);
                    signal.wait(wait.min(wait_at_most));
                    self.lap(if planned.is_some() { Phase::Pace } else { Phase::Nothing });
                }
            }
            self.tick(watcher)?;
            self.lap(Phase::Publishing);
            self.meter.turn(|input| self.engine.sequencer.held(input));
        }
        self.engine.line.learning.settle()?;
        let (begin, before) = (self.clock.elapsed(), self.engine.line.learning.trainer().stats().samples);
        while self.engine.learn_again(&self.dir)? {
            if signal.is_stopped() {
                return Ok(Ending::Stopped);
            }
            self.tick(watcher)?;
        }
        self.engine.line.learning.settle()?;
        let samples = self.engine.line.learning.trainer().stats().samples - before;
        let seconds = (self.clock.elapsed() - begin).as_secs_f64();
        self.timing.pass_rate = (samples > 0).then(|| samples as f64 / seconds.max(1e-9));
        Ok(Ending::Finished)
    }

    /// Journal first, then down the line.
    fn take(&mut self, cut: Cut, signal: &Signal, watcher: &mut dyn Watcher) -> Result<()> {
        self.wait_for_sinks(signal, watcher)?;
        self.lap(Phase::Sinks);
        let record = Record::Cut(cut.record.clone());
        while let Err(e) = self.journal.append(&record) {
            if e.kind() != Kind::Exhausted || signal.is_stopped() {
                return Err(e);
            }
            // A full disk is waited out: nothing goes on that could not be told again, and serving does not stop.
            self.show(watcher, &format!("waiting: {e}"));
            signal.wait(RETRY_DISK_EVERY);
        }
        let now = self.lap(Phase::Journal);
        for (id, _) in &cut.record.ends {
            self.timing.heard.insert((id.input, id.partition), now);
        }
        let waited = self.engine.line.learning.waited();
        let rejected = self.mini_batch_for_all(&cut)?;
        self.lap(Phase::Line);
        self.meter.part(Phase::Line, self.engine.line.learning.waited() - waited, Phase::Learner);
        self.after(&cut, rejected)
    }

    fn lap(&mut self, phase: Phase) -> Duration {
        let now = self.clock.elapsed();
        self.meter.lap(now, phase);
        match phase {
            Phase::Pace | Phase::Nothing => self.timing.give_way.after_a_wait(now),
            _ if self.options.serves => self.timing.give_way.after_a_piece(now, &*self.clock),
            _ => {}
        }
        now
    }

    /// What follows a mini-batch, first time or replayed: the dead letter, and versions that are due by count.
    fn after(&mut self, cut: &Cut, rejected: Vec<Rejected>) -> Result<()> {
        for (id, refused) in &cut.refused {
            let names = self.engine.sequencer.partition_name(*id);
            self.dead_letter.put(names, Some(refused.offset), &refused.reason, &refused.excerpt);
        }
        for r in rejected {
            self.dead_letter.put(&r.place, None, &r.reason, "");
        }
        self.is_last = cut.is_last;
        self.watermark = cut.watermark;
        self.let_rest()?;
        self.for_models(Self::publish_counted)
    }

    fn tick(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let now = self.clock.elapsed();
        self.keep_turned_away();
        let paced = self.timing.pace.is_some() || !self.engine.sequencer.live_partitions().is_empty();
        if now - self.timing.published >= if paced { PUBLISH_LIVE_EVERY } else { PUBLISH_BATCH_EVERY } {
            self.for_models(Self::publish_live)?;
        }
        let unbounded = !self.engine.sequencer.live_partitions().is_empty() || self.timing.pace.is_some();
        if unbounded {
            self.for_models(|job| job.publish_in_time(now))?;
        }
        if now - self.timing.saved >= millis(self.spec.checkpoint_interval_ms) {
            self.timing.saved = now;
            match self.save_beside() {
                Err(e) if e.kind() == Kind::Exhausted => self.not_saved(&e),
                other => other?,
            }
        }
        if now - self.timing.looked_for_files >= LOOK_FOR_FILES_EVERY {
            self.timing.looked_for_files = now;
            match self.open_new_files() {
                // The next look will find them again.
                Err(e) if e.kind() == Kind::Exhausted => {}
                other => other?,
            }
        }
        let show_every = if self.live.is_some() { SHOW_EVERY } else { SHOW_LINE_EVERY };
        let since = now - self.timing.shown;
        if since >= show_every && (watcher.is_watched() || since >= SHOW_UNWATCHED_EVERY) {
            self.timing.shown = now;
            self.show(watcher, "learning");
        }
        Ok(())
    }

    fn keep_turned_away(&mut self) {
        for line in self.turned_away.take() {
            self.dead_letter.put(&format!("pushed to {}", line.source), None, &line.reason, &line.excerpt);
        }
    }

    /// Begins a checkpoint as of now and has it written. Short: what is long leaves and is written later.
    fn begin_save(&mut self) -> Result<()> {
        keep_prints(&mut self.engine, &mut self.journal)?;
        let (mut out, mut head) = (Encoder::new(), Encoder::new());
        out.put_u64(self.engine.sequencer.mini_batch());
        out.put_u64(self.dead_letter.flush()).put_u64(self.version_rows);
        let journal = self.journal.sync_handle()?;
        let (blocks, written) = Saver::blocks();
        let entries = Entries { whole: self.saver.wants_whole(), blocks, head: &mut head };
        let (streams, walked) = self.engine.begin_checkpoint(entries, &mut out)?;
        let mini_batch = self.engine.mini_batch_number();
        let sinks = self.sinks.barrier(self.engine.sequencer.mini_batch());
        let body = Body { mini_batch, out, streams, head, is_whole: walked == Walked::All, sinks };
        self.saver.start(body, written, journal);
        Ok(())
    }

    /// Writes a checkpoint beside the learning: of all models at one mini-batch.
    fn save_beside(&mut self) -> Result<()> {
        self.note_saved()?;
        self.for_members(Self::note_saved)?;
        self.cut_journal()?;
        let is_due = !self.saver.has(self.engine.mini_batch_number());
        match is_due && self.models().all(|job| job.saver.is_idle()) {
            true => self.begin_save().and_then(|()| self.for_members(Self::begin_save)),
            false => Ok(()),
        }
    }

    /// Lets records of the journal go that no kept checkpoint needs, where that is wanted.
    fn cut_journal(&mut self) -> Result<()> {
        if !self.spec.journal_is_cut || !self.models().all(|job| job.saver.is_idle()) {
            return Ok(());
        }
        let oldest = self.models().map(|job| job.saver.oldest()).min().unwrap_or(0);
        let (file_bytes, sequencer) = (self.options.journal_file_bytes, &self.engine.sequencer);
        self.journal.cut(file_bytes.unwrap_or(journal::FILE_BYTES), sequencer.mini_batch(), oldest, || sequencer.past())
    }

    /// What became of the last checkpoint.
    fn note_saved(&mut self) -> Result<()> {
        if self.saver.go() {
            self.engine.line.learning.settle()?;
            self.engine.line.learning.trainer().finish_checkpoint();
            if let Some(Err(e)) = self.saver.wait() {
                self.not_saved(&e);
            }
        }
        match self.saver.finished() {
            Some(Err(e)) => self.not_saved(&e),
            Some(Ok(())) => self.not_saved = None,
            None => {}
        }
        Ok(())
    }

    /// Goes on with a checkpoint while nothing is learned that would.
    fn step_save(&self) {
        if !self.saver.is_idle() {
            let began = self.clock.elapsed();
            let mut trainer = self.engine.line.learning.trainer();
            while trainer.step_checkpoint() && self.clock.elapsed() - began < SAVE_STEP {}
        }
    }

    fn not_saved(&mut self, e: &Error) {
        self.not_saved = Some(format!("checkpoint not written: {e}; trying again"));
    }

    fn save_now(&mut self) -> Result<()> {
        self.engine.line.learning.settle()?;
        self.saver.go();
        self.engine.line.learning.trainer().finish_checkpoint();
        if let Some(Err(e)) = self.saver.wait() {
            self.not_saved = Some(format!("checkpoint not written: {e}"));
        }
        if self.saver.has(self.engine.mini_batch_number()) {
            keep_prints(&mut self.engine, &mut self.journal)?;
            return self.journal.sync();
        }
        self.begin_save()?;
        self.saver.go();
        self.engine.line.learning.trainer().finish_checkpoint();
        let saved = self.saver.wait().unwrap_or(Ok(()));
        self.journal.sync()?;
        saved
    }

    /// How long until a mini-batch that ends at this event time is due; zero when nobody paces.
    fn due_in(&mut self, ts: i64) -> Duration {
        let Some(start) = realtime_start(&self.bound) else { return Duration::ZERO };
        let now = self.clock.elapsed();
        let fresh = self.engine.sequencer.mini_batch() == 0;
        let (at, from) = *self.timing.pace.get_or_insert((now, if fresh { start } else { ts }));
        let due = at + Duration::from_millis((ts - from).max(0) as u64);
        due.saturating_sub(now)
    }

    fn newly_idle(&mut self, live: &[(PartitionId, bool)]) -> Vec<PartitionId> {
        let now = self.clock.elapsed();
        let inputs = inputs(&self.bound);
        live.iter()
            .filter(|(id, idle)| {
                let heard = *self.timing.heard.entry((id.input, id.partition)).or_insert(now);
                let timeout = inputs[id.input as usize].source.idle_timeout_ms.max(0) as u64;
                !idle && now - heard >= Duration::from_millis(timeout)
            })
            .map(|(id, _)| *id)
            .collect()
    }

    fn open_new_files(&mut self) -> Result<()> {
        for (i, input) in inputs(&self.bound).into_iter().enumerate() {
            let mut known = self.engine.sequencer.partition_names(i);
            known.retain(|name| !name.starts_with(source::HISTORY_NAME));
            let mut new = source::open_new(&input.source, &known)?;
            new.extend(self.connections.open_new(i, &input.source, &known)?);
            for opened in new {
                add_partition(&mut self.engine, i, opened, Some(&mut self.journal))?;
                keep_prints(&mut self.engine, &mut self.journal)?;
            }
        }
        Ok(())
    }

    fn rows_learned(&self) -> u64 {
        self.engine.line.counts().sample_rows
    }

    fn has_learned_more(&self) -> bool {
        self.rows_learned() > self.version_rows
    }

    /// The event time up to which a paced stream was learned.
    fn read_to(&self) -> Option<i64> {
        self.engine.sequencer.event_time_max()
    }

    /// Where the job keeps its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.max(0) as u64)
}

/// The registry as the page and the command line show it, newest last.
pub fn versions_json(registry: &Registry) -> Value {
    let all = registry.list();
    let routing = registry.routing();
    let live = registry.live_version();
    all.iter()
        .map(|v| {
            let mut json = v.to_json();
            json["live"] = json!(Some(v.version) == live);
            json["labels"] = routing.labels_in_words(v.version).into();
            json
        })
        .collect()
}
