//! The line, end to end, for one training job.
//!
//! ```text
//! stream/source -> stream/window -> stream/join -> model/feature -> train/update
//!   Event            wider Event      Sample         Features         Gradients
//!               -> model/params -> train/publish -> serve/registry -> serve/predict
//!                    Entries          Delta            Version           Prediction
//! ```
//!
//! [`Engine::mini_batch`] is the line up to the parameters, [`Engine::publish`] and [`Engine::version`] the rest of it; they
//! read in this order. The engine decides nothing by the clock: when to cut, publish and save is the [`crate::job`]'s.

mod compare;
pub mod emission;
mod learning;
pub mod leaving;
mod line;
mod passes;
mod streams;
mod views;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use tidemill_base::{
    Error, Result, StateHash,
    codec::{Decoder, Encoder},
};
use tidemill_model::params::{Restoring, Walked};
use tidemill_serve::{
    live::LiveModel,
    live_views::LiveViews,
    registry::{Registry, VersionMeta},
};
use tidemill_sql::TrainJob;
use tidemill_stream::{
    journal::CutRecord,
    sequencer::{Cut, Pause, Sequencer},
    source::Connector,
};
use tidemill_train::TrainSpec;

pub use compare::Compare;
pub use learning::{Learning, Lesson, message as panic_message};
pub use passes::LessonReader;
use passes::{LessonWriter, Progress};

pub use streams::{RestoringStreams, SavedStreams};
pub use views::ViewStage;

use crate::failpoint;
pub use line::{Entries, Line, LineCounts, REFUSED_AT, Rejected, Samples, Shaped, labels, windows};

/// Events in one mini-batch of ordered partitions at most: large enough that the cost of a mini-batch is lost in its events.
pub const CUT_EVENTS_MAX: usize = 256;
/// A generated stream is cut about this often in its own time, so that one that is paced is learned while it is fresh. By
/// its declared rate and not by the clock: a run at full speed cuts alike.
const CUTS_PER_SECOND: u64 = 100;

/// One job's line with its sequencer.
pub struct Engine {
    /// Steps 1 and 2: partitions, merged and cut.
    pub sequencer: Sequencer,
    /// Steps 3 to 6: what waits and what is learned.
    pub line: Line,
    delta_sequence: u64,
    /// Where this process began to count.
    delta_first: u64,
    /// Version and mini-batch that were last handed to the serving side, until something else changes the parameters.
    handed_over: Option<(u64, u64)>,
    passes_max: u64,
    passes: Progress,
    reader: Option<LessonReader>,
    live_views: Option<Arc<LiveViews>>,
    /// The latest event time in the views that replicas were told.
    followed_to: i64,
    model: String,
    /// Why the model was stopped, where it learns beside others that go on.
    stopped: Option<String>,
    pause: Option<Pause>,
}

impl Engine {
    /// An engine that has seen nothing; partitions are added to its sequencer.
    pub fn new(job: &TrainJob, spec: &TrainSpec, threads: usize) -> Result<Self> {
        let line = Line::new(job, spec, threads)?;
        let mut engine = Self::of_line(job, spec, line);
        if threads > 1 {
            engine.sequencer.read_ahead(threads);
        }
        Ok(engine)
    }

    /// An engine that learns beside another one: it reads nothing and joins nothing.
    pub fn beside(job: &TrainJob, spec: &TrainSpec, threads: usize) -> Result<Self> {
        let line = Line::beside(job, spec, threads)?;
        Ok(Self::of_line(job, spec, line))
    }

    fn of_line(job: &TrainJob, spec: &TrainSpec, line: Line) -> Self {
        let mut sequencer = Sequencer::new(windows(&job.pipeline), cut_events(job));
        let left = &job.pipeline.left.source;
        sequencer.bound_ahead(0, left.ahead_max_ms);
        sequencer.bound_drift(0, left.drift_max_ms);
        for (i, right) in job.pipeline.join.iter().flat_map(|join| &join.right).enumerate() {
            sequencer.bound_ahead(i + 1, right.source.ahead_max_ms);
            sequencer.bound_drift(i + 1, right.source.drift_max_ms);
        }
        Self {
            sequencer,
            line,
            model: job.model.clone(),
            stopped: None,
            pause: None,
            delta_sequence: 0,
            delta_first: 0,
            handed_over: None,
            passes_max: spec.passes,
            passes: Progress::default(),
            reader: None,
            live_views: None,
            followed_to: 0,
        }
    }

    /// Pauses from now on between the steps of a mini-batch.
    pub fn pause_between(&mut self, pause: Pause) {
        self.sequencer.pause_between(pause.clone());
        self.pause = Some(pause);
    }

    fn pause(&self) {
        self.pause.iter().for_each(|pause| pause());
    }

    /// Takes one mini-batch down the line, up to the parameters. What could not be used is appended to `rejected`.
    pub fn mini_batch(&mut self, cut: &Cut, rejected: &mut Vec<Rejected>) -> Result<()> {
        self.mini_batch_with(cut, rejected, None)
    }

    /// The same, where others learn from the samples too: they are shown to `beside`.
    pub fn mini_batch_with(
        &mut self,
        cut: &Cut,
        rejected: &mut Vec<Rejected>,
        beside: Option<&mut dyn FnMut(&mut Shaped)>,
    ) -> Result<()> {
        // 1 stream/source, 2 stream/window: read and widened when the sequencer cut them.
        self.line.count(cut);
        // 3 stream/join, behind the feature views
        let Some(samples) = self.line.join(cut, rejected)? else { return Ok(()) };
        if let Some(beside) = beside {
            return self.learn_together(samples, rejected, beside);
        }
        let samples = self.line.select(samples, rejected)?;
        self.pause();
        // 4 model/feature
        let samples = self.line.extract(samples, rejected)?;
        self.pause();
        // 5 train/update, 6 model/params
        self.line.update(samples, self.sequencer.mini_batch())
    }

    /// The rest of a mini-batch where others learn beside: what goes wrong in this model stops this model.
    fn learn_together(
        &mut self,
        samples: Samples,
        rejected: &mut Vec<Rejected>,
        beside: &mut dyn FnMut(&mut Shaped),
    ) -> Result<()> {
        let mut shaped = self.line.shape(samples)?;
        self.learn_shaped(&mut shaped, rejected);
        beside(&mut shaped);
        Ok(())
    }

    /// Learns from samples that were joined for several models, the rest of step 3 and steps 4 to 6; a failure is kept in
    /// [`Engine::stopped`].
    fn learn_shaped(&mut self, shaped: &mut Shaped, rejected: &mut Vec<Rejected>) {
        if self.stopped.is_some() {
            return;
        }
        let learn = || {
            failpoint::may_panic(&self.model, self.sequencer.mini_batch());
            let samples = self.line.take_shaped(shaped, rejected)?;
            self.pause.iter().for_each(|pause| pause());
            let samples = self.line.extract(samples, rejected)?;
            self.pause.iter().for_each(|pause| pause());
            self.line.update(samples, self.sequencer.mini_batch())
        };
        match catch_unwind(AssertUnwindSafe(learn)) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.stopped = Some(e.to_string()),
            Err(panic) => self.stopped = Some(format!("it panicked: {}", learning::message(&*panic))),
        }
    }

    /// Takes the samples of a mini-batch that another engine has cut and joined; `None`: it had none.
    pub fn mini_batch_beside(&mut self, cut: &Cut, shaped: Option<&mut Shaped>, rejected: &mut Vec<Rejected>) {
        self.sequencer.follow(cut.record.mini_batch);
        self.line.count(cut);
        if let Some(shaped) = shaped {
            self.line.count_joined(shaped);
            self.learn_shaped(shaped, rejected);
        }
    }

    /// Why this model has stopped, where it learns beside others.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// This model has stopped, now or in an earlier run: it learns nothing more, and of what it had learned nothing is gone
    /// on with.
    pub fn stop(&mut self, why: String, spec: &TrainSpec) -> Result<()> {
        self.stopped = Some(why);
        self.line.forget_learned(spec)
    }

    /// Mini-batches learned, those of later passes included.
    pub fn mini_batch_number(&self) -> u64 {
        self.sequencer.mini_batch() + self.passes.lessons_total
    }

    /// Keeps what pass 1 learns in `dir`, where there is more than one.
    pub fn keep_lessons(&mut self, dir: &Path) -> Result<()> {
        if self.passes_max > 1 {
            self.line.keep_lessons(LessonWriter::open(dir)?);
        }
        Ok(())
    }

    /// Once the sources have ended: learns the next mini-batch of the next pass; `false` when all passes are done.
    pub fn learn_again(&mut self, dir: &Path) -> Result<bool> {
        loop {
            if let Some(reader) = &mut self.reader {
                if self.line.learn_again(reader, self.sequencer.mini_batch() + self.passes.lessons_total + 1)? {
                    self.passes.lessons += 1;
                    self.passes.lessons_total += 1;
                    return Ok(true);
                }
                self.reader = None;
                let (came, expected) = (std::mem::take(&mut self.passes.lessons), self.line.lessons());
                if came != expected {
                    return Err(Error::corrupt(format!(
                        "the kept features in {} are {came} of {expected} mini-batches; start with --from-scratch",
                        dir.display()
                    )));
                }
                if self.passes.begun + 1 >= self.passes_max {
                    return Ok(false);
                }
            } else if self.passes.lessons == 0 && self.passes.begun + 1 >= self.passes_max {
                return Ok(false);
            }
            if self.passes.lessons == 0 {
                self.passes.begun += 1;
                self.line.learning.settle()?;
                self.line.learning.trainer().next_pass();
                self.handed_over = None;
                self.line.flush_lessons()?;
            }
            let mut reader = LessonReader::open(dir)?;
            reader.skip(self.passes.lessons)?;
            self.reader = Some(reader);
        }
    }

    /// The pass that is going on, from 1.
    pub fn pass(&self) -> u64 {
        1 + self.passes.begun
    }

    /// 7 train/publish: what changed since the last call goes to the serving side, where 9 serve/predict reads it.
    pub fn publish(&mut self, live: &LiveModel, version: u64) -> Result<bool> {
        // In this order: what is learned in between is in the delta and not yet in the number.
        let learned = self.line.learning.learned_to(self.mini_batch_number());
        // An idle job asks this hundreds of times a second.
        let before = self.handed_over.replace((version, learned));
        if before == self.handed_over && learned == self.mini_batch_number() {
            return Ok(live.refresh());
        }
        let mut followed = None;
        if let (Some(live_views), Some(views)) = (&self.live_views, self.line.views_mut()) {
            let (deltas, newest) = (views.take_deltas(), views.newest());
            // The time alone changes what requests read: windows end by it.
            let changes = deltas.iter().any(|delta| !delta.is_empty()) || newest != self.followed_to;
            followed = (changes && live.feed().is_some_and(|feed| feed.is_kept())).then(|| (deltas.clone(), newest));
            self.followed_to = newest;
            live_views.publish(deltas, newest);
        }
        let mut delta = self.line.learning.trainer().take_delta();
        delta.from = self.delta_sequence;
        // Whoever follows counts deltas that change something.
        self.delta_sequence += u64::from(!delta.is_empty() || followed.is_some());
        delta.to = self.delta_sequence;
        let shown = live.publish(delta, version, learned)?;
        if let Some((deltas, newest)) = followed {
            live.publish_views(deltas, newest);
        }
        Ok(shown)
    }

    /// Deltas are numbered from here on.
    pub fn number_deltas_from(&mut self, sequence: u64) {
        self.handed_over = None;
        (self.delta_sequence, self.delta_first) = (sequence, sequence);
    }

    /// Deltas that changed something, since this process serves.
    pub fn deltas_published(&self) -> u64 {
        self.delta_sequence - self.delta_first
    }

    /// What requests ask about the job's feature views, as of now and of every [`Engine::publish`] to come; `None` without
    /// any.
    pub fn serve_views(&mut self, job: &TrainJob) -> Result<Option<Arc<LiveViews>>> {
        if let (Some(part), Some(views)) = (&job.pipeline.views, self.line.views_mut()) {
            let live = LiveViews::open(&part.specs)?;
            live.publish(views.publish_all(), views.newest());
            self.live_views = Some(Arc::new(live));
        }
        Ok(self.live_views.clone())
    }

    /// 8 serve/registry: the parameters as they are become an immutable version.
    pub fn version(&self, registry: &Registry, version: u64, fingerprint: u64, created_ms: i64) -> Result<VersionMeta> {
        self.line.learning.settle()?;
        let trainer = self.line.learning.trainer();
        let (summary, mut snapshot) = (trainer.validation().overall(), trainer.snapshot());
        snapshot.sampling = self.line.sampling();
        // A replica that derived the same parameters by deltas writes the same bytes.
        snapshot.sequence = self.mini_batch_number();
        let meta = VersionMeta {
            version,
            mini_batch: self.mini_batch_number(),
            state_hash: trainer.state_hash(),
            samples: summary.samples,
            positives: summary.positives,
            logloss: summary.logloss,
            auc: summary.auc,
            created_ms,
            fingerprint,
            entries: snapshot.entries.len() as u64,
        };
        drop(trainer);
        registry.add(&meta, &snapshot)?;
        self.line.learning.trainer().version_published();
        Ok(meta)
    }

    /// Identity of everything learned so far.
    pub fn state_hash(&self) -> Result<StateHash> {
        self.line.learning.settle()?;
        Ok(self.line.learning.trainer().state_hash())
    }

    /// Does again what a record of the journal says.
    pub fn replay(&mut self, record: CutRecord, rejected: &mut Vec<Rejected>) -> Result<Cut> {
        let cut = self.sequencer.replay(record)?;
        self.mini_batch(&cut, rejected)?;
        Ok(cut)
    }

    /// The cut of a record of the journal, which is not yet taken down the line.
    pub fn replay_cut(&mut self, record: CutRecord) -> Result<Cut> {
        self.sequencer.replay(record)
    }

    /// Begins a checkpoint: appends everything a restarted engine needs to go on bit for bit, but for who waits, which comes
    /// behind it, for the rows they wait with, and for entries, which leave while learning goes on.
    pub fn begin_checkpoint(&mut self, entries: Entries, out: &mut Encoder) -> Result<(SavedStreams, Walked)> {
        self.line.learning.settle()?;
        let walked = self.line.begin_checkpoint(entries, out);
        out.put_u64(self.passes.begun).put_u64(self.passes.lessons).put_u64(self.passes.lessons_total);
        self.sequencer.encode(out);
        Ok((self.line.encode(walked == Walked::All, out), walked))
    }

    /// Takes back what [`Engine::begin_checkpoint`] and what came behind it wrote; the partitions must have been added.
    pub fn restore(
        &mut self,
        spec: &TrainSpec,
        threads: usize,
        d: &mut Decoder,
        entries: Restoring,
        streams: RestoringStreams,
    ) -> Result<()> {
        self.line.restore_learned(spec, threads, d, entries)?;
        self.passes = Progress { begun: d.u64()?, lessons: d.u64()?, lessons_total: d.u64()? };
        self.sequencer.restore(d)?;
        self.line.restore(d, streams)
    }
}

fn cut_events(job: &TrainJob) -> usize {
    match &job.pipeline.left.source.connector {
        Connector::Generator(g) => (g.rate / CUTS_PER_SECOND).clamp(1, CUT_EVENTS_MAX as u64) as usize,
        _ => CUT_EVENTS_MAX,
    }
}
