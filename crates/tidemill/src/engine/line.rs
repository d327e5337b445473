//! Steps 3 to 6 of the line for one training job, each a method: the part that is a pure function of the mini-batches.
//!
//! In: what the sequencer cut. Out: what was learned from it, and the rows that could not be. No clock, no file, no thread
//! timing: [`crate::engine`] calls these in the order of the line, for a run, for `verify` and for the example alike.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc::SyncSender},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, RecordBatch, UInt32Array},
    compute::{cast, concat_batches, take_record_batch},
    datatypes::{DataType, Float32Type, Float64Type},
};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};
use tidemill_model::{
    ColumnSpec, Sampling,
    feature::{Extractor, Features},
    loss::Loss,
    math::ln,
    params::{Restoring, Walked},
};
use tidemill_sql::{Pipeline, TrainJob};
use tidemill_stream::{
    Transform,
    aggregate::Views,
    join::{
        Correction, JoinCounts, JoinSpec, JoinState, LabelJoin, Matured, NegativeSample, NotLetIn, SampleKind,
        SamplingMode, SpillDir,
    },
    sequencer::{Cut, Take},
    window::Window,
};
use tidemill_train::{Delayed, GROUPS_MAX, OTHERS, TrainSpec, Trainer, threads_beside_reading};

use super::{
    Compare, emission,
    learning::{Learning, Lesson},
    leaving::{Exit, Leaving, Outgoing},
    passes::{LessonReader, LessonWriter},
    streams::{RestoringStreams, SavedStreams},
    views::ViewStage,
};

/// A row that was read but not learned from, with the reason; goes to the dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// `impressions` or `feedback` or the step that refused it.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What went by since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// Events let in.
    pub events: u64,
    /// Events refused by a source or while widening.
    pub events_refused: u64,
    /// Sample rows refused: no label, a label that is neither 0 nor 1, a value that is no number.
    pub samples_refused: u64,
    /// Sample rows handed to the learner, retractions included.
    pub sample_rows: u64,
    /// What of `samples_refused` was refused where.
    pub refused: [u64; REFUSED_AT.len()],
    /// Rows that a filter behind the feature views left out.
    pub left_out: u64,
    /// Rows that came out of the join, by kind ([`SampleKind::ALL`]); without a join all are final.
    pub kinds: [u64; SampleKind::ALL.len()],
    /// Keyed numbers extracted from the rows that were handed on.
    pub features: u64,
}

/// Places at which a row can be refused, in the order in which it comes by.
pub const REFUSED_AT: [&str; 5] = ["views", "select", "label", "weight", "feature"];

impl LineCounts {
    fn refuse(&mut self, place: &str, rows: usize) {
        self.samples_refused += rows as u64;
        let place = REFUSED_AT.iter().position(|at| *at == place).expect("it is one of the places");
        self.refused[place] += rows as u64;
    }

    fn encode(&self, out: &mut Encoder) {
        out.put_u64(self.events).put_u64(self.events_refused).put_u64(self.samples_refused).put_u64(self.sample_rows);
        let more = self.refused.iter().chain(&self.kinds).chain([&self.left_out, &self.features]);
        more.for_each(|count| _ = out.put_u64(*count));
    }

    fn decode(d: &mut Decoder) -> Result<Self> {
        let mut counts = Self {
            events: d.u64()?,
            events_refused: d.u64()?,
            samples_refused: d.u64()?,
            sample_rows: d.u64()?,
            ..Self::default()
        };
        for count in counts.refused.iter_mut().chain(&mut counts.kinds) {
            *count = d.u64()?;
        }
        (counts.left_out, counts.features) = (d.u64()?, d.u64()?);
        Ok(counts)
    }
}

/// Characters of a value that tell its group apart.
const GROUP_NAME_MAX: usize = 200;

/// One job's stretch of the line.
pub struct Line {
    views: Option<ViewStage>,
    joining: Joining,
    post: Arc<dyn Transform>,
    label: usize,
    loss: Loss,
    oracle: Option<usize>,
    weight: Option<usize>,
    groups: Option<Groups>,
    extractor: Extractor,
    /// But for the late share, which the join counts.
    delayed: Delayed,
    sampling: Sampling,
    /// What is learned.
    pub learning: Learning,
    counts: LineCounts,
    /// The lesson that is being made.
    lesson: Lesson,
    /// Where lessons are kept for later passes.
    keeping: Option<LessonWriter>,
    /// Lessons given to the learner by the stream.
    lessons: u64,
    /// What compares served versions by this stream.
    compare: Option<Compare>,
    /// Where samples leave to.
    exit: Option<Exit>,
    columns: Vec<ColumnSpec>,
    /// For a model that learns beside others: features of all rows of the mini-batch, from one that has the same columns.
    given: Option<Features>,
}

/// How the entries of a checkpoint leave.
pub struct Entries<'a> {
    /// All of them, though it be known which have changed.
    pub whole: bool,
    /// Where they go; an empty block is the last.
    pub blocks: SyncSender<Vec<u8>>,
    /// What goes in front of them.
    pub head: &'a mut Encoder,
}

enum Joining {
    /// Every row is a sample; the number is the next sample's.
    None(u64),
    Label(Box<LabelJoin>),
}

/// Joined rows on their way to the learner.
#[derive(Clone)]
pub struct Samples {
    /// Joined rows, then (after [`Line::select`]) the columns of the outermost SELECT.
    pub rows: RecordBatch,
    /// One per row.
    pub kinds: Vec<SampleKind>,
    /// Number of each row's impression.
    pub seqs: Vec<u64>,
    /// The size of each row's weight, where negatives are sampled by weight.
    pub weights: Option<Vec<f32>>,
    /// 0 or 1 for each row; empty before [`Line::select`].
    pub labels: Vec<f32>,
    /// Impressions whose label became final.
    pub matured: Vec<Matured>,
    /// The share of positives whose feedback comes late, as of now.
    late_share: f32,
}

/// Samples with the columns of the outermost SELECT, for every model that learns from them.
#[derive(Clone)]
pub struct Shaped {
    samples: Samples,
    /// Rows for which the SELECT failed.
    refused: Vec<(u32, String)>,
    /// Features that a model has extracted from all rows, and of which columns.
    features: Option<(Vec<ColumnSpec>, Features)>,
}

/// The windows of a pipeline's inputs with their watermark bounds, as the sequencer takes them.
pub fn windows(pipeline: &Pipeline) -> Vec<(Window, i64)> {
    let inputs = std::iter::once(&pipeline.left).chain(pipeline.join.iter().flat_map(|j| &j.right));
    inputs
        .map(|i| {
            let window = Window {
                computed: i.computed.clone(),
                event_time: i.event_time,
                id: i.source.primary_key,
                view: i.view.clone(),
            };
            (window, i.source.watermark_bound_ms)
        })
        .collect()
}

impl Line {
    /// The line of a bound job, nothing learned yet. `threads` changes speed only.
    pub fn new(job: &TrainJob, spec: &TrainSpec, threads: usize) -> Result<Self> {
        Self::with_stream(job, spec, threads, true)
    }

    /// The line of a job that learns from samples which another line has joined.
    pub fn beside(job: &TrainJob, spec: &TrainSpec, threads: usize) -> Result<Self> {
        Self::with_stream(job, spec, threads, false)
    }

    fn with_stream(job: &TrainJob, spec: &TrainSpec, threads: usize, joins: bool) -> Result<Self> {
        let joining = match &job.pipeline.join {
            Some(join) if joins => {
                let spec = JoinSpec {
                    pending_count_max: spec.pending_max,
                    pending_bytes_max: spec.pending_bytes_max,
                    when_full: spec.join_when_full,
                    correction_ttl_ms: spec.correction_ttl_ms,
                    allowed_lateness_ms: spec.allowed_lateness_ms,
                    sample: join.spec.sample.map(|sample| NegativeSample { seed: spec.seed, ..sample }),
                    ..join.spec.clone()
                };
                let (left, rights) = (job.pipeline.left_output(), job.pipeline.right_outputs());
                let mut join = LabelJoin::new(spec, &left, &rights)?;
                let carried = job.pipeline.left.output();
                let own = (0..left.fields().len()).filter(|&c| carried.index_of(left.field(c).name()).is_ok());
                join.compare_columns(own.collect());
                Joining::Label(Box::new(join))
            }
            _ => Joining::None(0),
        };
        emission::check(job, spec)?;
        let sample = job.pipeline.join.as_ref().and_then(|join| join.spec.sample);
        let (sampling, score_offset) = match sample {
            None => (Sampling::None, 0.0),
            Some(NegativeSample { share, mode: SamplingMode::Weight, .. }) => (Sampling::Weight { share }, 0.0),
            Some(NegativeSample { share, mode: SamplingMode::Logit, .. }) => {
                (Sampling::Logit { share }, -ln(share) as f32)
            }
        };
        let correction = job.pipeline.join.as_ref().map_or(Correction::Retract, |join| join.spec.correction);
        let delayed = Delayed { correction, late_share: 0.0, score_offset };
        let output = &job.pipeline.output;
        let column = |attribute: &str, name: &Option<String>| {
            let index = |name: &String| {
                let not_there = |_| Error::invalid(format!("{attribute}: column '{name}' is not in the SELECT list"));
                output.index_of(name).map_err(not_there)
            };
            name.as_ref().map(index).transpose()
        };
        let oracle = column("validate.oracle", &spec.oracle)?;
        let weight = column("train.weight", &spec.weight)?;
        let groups = column("validate.by", &spec.group_by)?.map(Groups::new);
        let extractor = job.extractor()?;
        let with_slots = spec.clone().with_slots(extractor.slots());
        let trainer = Trainer::new(&with_slots, threads_beside_reading(&with_slots, threads))?;
        Ok(Self {
            views: if joins { ViewStage::new(&job.pipeline)? } else { None },
            joining,
            post: job.pipeline.post.clone(),
            label: job.label,
            loss: spec.model.loss,
            oracle,
            weight,
            groups,
            extractor,
            delayed,
            sampling,
            // Models that learn together do so one after the other: one that fails is known before anything follows from it.
            learning: Learning::new(trainer, threads > 1 && job.together.is_empty()),
            columns: job.columns.clone(),
            given: None,
            counts: LineCounts::default(),
            lesson: Lesson::default(),
            keeping: None,
            lessons: 0,
            compare: None,
            exit: None,
        })
    }

    /// Counts what the sequencer let in and refused.
    pub fn count(&mut self, cut: &Cut) {
        self.counts.events += cut.events;
        self.counts.events_refused += cut.refused.len() as u64;
    }

    /// What went by since the stream began.
    pub fn counts(&self) -> LineCounts {
        self.counts
    }

    /// Counts rows that another line has joined.
    pub fn count_joined(&mut self, shaped: &Shaped) {
        shaped.samples.kinds.iter().for_each(|kind| self.counts.kinds[*kind as usize] += 1);
    }

    /// What the join has counted; zeros without one.
    pub fn join_counts(&self) -> JoinCounts {
        match &self.joining {
            Joining::None(_) => JoinCounts::default(),
            Joining::Label(join) => *join.counts(),
        }
    }

    /// The feature views, if there are any.
    pub fn views(&self) -> Option<&Views> {
        self.views.as_ref().map(ViewStage::views)
    }

    /// The same, for what is published of them.
    pub fn views_mut(&mut self) -> Option<&mut Views> {
        self.views.as_mut().map(ViewStage::views_mut)
    }

    /// What waits in the join; `None` without one.
    pub fn join_state(&self) -> Option<JoinState> {
        match &self.joining {
            Joining::None(_) => None,
            Joining::Label(join) => Some(join.state()),
        }
    }

    /// Begins a checkpoint of what is learned as of now: appends all of it but the entries, which leave as `entries` says.
    pub fn begin_checkpoint(&self, entries: Entries, out: &mut Encoder) -> Walked {
        self.learning.trainer().begin_checkpoint(entries.whole, entries.blocks, out, entries.head)
    }

    /// Appends the rest of the state but for what stands in parts, and who waits in the join: [`tidemill_stream::join::JoinRows::encode`] puts it
    /// behind. `whole`: all rows and entries of feature views, and not what has come or changed since.
    pub fn encode(&mut self, whole: bool, out: &mut Encoder) -> SavedStreams {
        self.counts.encode(out);
        out.put_u64(self.lessons);
        let views = self.views.as_mut().map(|views| views.encode(whole, out));
        let rows = match &mut self.joining {
            Joining::None(next) => {
                out.put_u8(0).put_u64(*next);
                None
            }
            Joining::Label(join) => {
                out.put_u8(1);
                Some(join.encode(whole, out))
            }
        };
        if let Some(groups) = &self.groups {
            groups.encode(out);
        }
        SavedStreams { rows, views }
    }

    /// Values of the column that figures are told apart by, by group number from 1.
    pub fn group_names(&self) -> Vec<String> {
        self.groups.as_ref().map_or(Vec::new(), Groups::names)
    }

    /// What the entries of a checkpoint are given to before [`Line::restore`].
    pub fn restoring(&self, spec: &TrainSpec, threads: usize) -> Result<Restoring> {
        let with_slots = spec.clone().with_slots(self.extractor.slots());
        Trainer::restoring(&with_slots, threads_beside_reading(&with_slots, threads))
    }

    /// Takes back what [`Line::begin_checkpoint`] wrote, on any number of threads.
    pub fn restore_learned(
        &mut self,
        spec: &TrainSpec,
        threads: usize,
        d: &mut Decoder,
        entries: Restoring,
    ) -> Result<()> {
        let with_slots = spec.clone().with_slots(self.extractor.slots());
        let trainer = Trainer::restore(&with_slots, threads_beside_reading(&with_slots, threads), d, entries)?;
        self.learning = Learning::new(trainer, self.learning.is_beside());
        Ok(())
    }

    /// Forgets all that was learned: of a learner that failed nothing may be gone on with.
    pub fn forget_learned(&mut self, spec: &TrainSpec) -> Result<()> {
        let with_slots = spec.clone().with_slots(self.extractor.slots());
        self.learning = Learning::new(Trainer::new(&with_slots, 1)?, false);
        self.lesson = Lesson::default();
        Ok(())
    }

    /// Where rows that wait go when they find no room in memory.
    pub fn spill_to(&mut self, dir: &SpillDir) {
        if let Joining::Label(join) = &mut self.joining {
            join.spill_to(dir);
        }
    }

    /// What the parts of a checkpoint are given to before [`Line::restore`].
    pub fn restoring_streams(&self) -> RestoringStreams {
        let rows = match &self.joining {
            Joining::None(_) => None,
            Joining::Label(join) => Some(join.restoring()),
        };
        RestoringStreams { rows, views: self.views().map(Views::restoring) }
    }

    /// Takes back what [`Line::encode`] and what came behind it wrote.
    pub fn restore(&mut self, d: &mut Decoder, streams: RestoringStreams) -> Result<()> {
        self.counts = LineCounts::decode(d)?;
        self.lessons = d.u64()?;
        match (&mut self.views, streams.views) {
            (None, _) => {}
            (Some(views), Some(entries)) => views.restore(d, entries)?,
            (Some(_), None) => return Err(Error::internal("feature views are restored without their entries")),
        }
        match (d.u8()?, &mut self.joining) {
            (0, Joining::None(next)) => *next = d.u64()?,
            (1, Joining::Label(join)) => join.restore(d)?,
            _ => return Err(Error::conflict("the checkpoint was written by a program with another join")),
        }
        if let Some(groups) = &mut self.groups {
            groups.decode(d)?;
        }
        match (&mut self.joining, streams.rows) {
            (Joining::None(_), _) => Ok(()),
            (Joining::Label(join), Some(rows)) => join.restore_rows(d, rows),
            (Joining::Label(_), None) => Err(Error::internal("a label join is restored without its rows")),
        }
    }

    /// Step 3, stream/join: impressions and feedback become samples. `None` when none leaves in this mini-batch. Feature
    /// views come before it: an impression waits for its label with what was known when it was shown.
    pub fn join(&mut self, cut: &Cut, rejected: &mut Vec<Rejected>) -> Result<Option<Samples>> {
        let wide;
        let mut takes = &cut.takes;
        if let Some(views) = &mut self.views {
            let (before, rows) =
                (rejected.len(), |takes: &[Take]| takes.iter().map(|t| t.rows.num_rows()).sum::<usize>());
            wide = views.step(cut, rejected)?;
            let refused = rejected.len() - before;
            self.counts.refuse("views", refused);
            self.counts.left_out += (rows(&cut.takes) - rows(&wide) - refused) as u64;
            takes = &wide;
        }
        match &mut self.joining {
            Joining::None(next) => {
                let Some(first) = takes.first() else { return Ok(None) };
                let rows = match takes.len() {
                    1 => first.rows.clone(),
                    _ => concat_batches(&first.rows.schema(), takes.iter().map(|t| &t.rows))
                        .map_err(|e| Error::internal(format!("mini-batch: {e}")))?,
                };
                let n = rows.num_rows() as u64;
                self.counts.kinds[SampleKind::Final as usize] += n;
                let seqs: Vec<u64> = (*next..*next + n).collect();
                *next += n;
                // Should a label not be usable, the number matures all the same.
                let matured = seqs.iter().map(|&seq| Matured { seq, label: f32::NAN }).collect();
                let kinds = vec![SampleKind::Final; n as usize];
                Ok(Some(Samples { rows, kinds, seqs, weights: None, labels: Vec::new(), matured, late_share: 0.0 }))
            }
            Joining::Label(join) => {
                for take in takes.iter().filter(|t| t.id.input == 0) {
                    for (row, why) in join.push_impressions(&take.rows, &take.event_times)? {
                        let reason = match why {
                            NotLetIn::Late => {
                                format!("late: event time {} is behind the watermark", take.event_times[row as usize])
                            }
                            NotLetIn::Duplicate => continue,
                            NotLetIn::Conflict(reason) => reason,
                        };
                        rejected.push(Rejected { place: "impressions".into(), reason });
                    }
                }
                for take in takes.iter().filter(|t| t.id.input > 0) {
                    join.push_feedback(take.id.input as usize - 1, &take.rows, &take.event_times)?;
                }
                let out = join.advance(cut.watermark)?;
                out.kinds.iter().for_each(|kind| self.counts.kinds[*kind as usize] += 1);
                if out.seqs.is_empty() && out.matured.is_empty() {
                    return Ok(None);
                }
                Ok(Some(Samples {
                    rows: out.rows,
                    kinds: out.kinds,
                    seqs: out.seqs,
                    weights: out.weights,
                    labels: Vec::new(),
                    matured: out.matured,
                    late_share: 0.0,
                }))
            }
        }
    }

    /// The rest of step 3: runs the outermost SELECT over the joined rows and reads the label.
    pub fn select(&mut self, samples: Samples, rejected: &mut Vec<Rejected>) -> Result<Samples> {
        let shaped = self.shape(samples)?;
        self.judge(shaped, rejected)
    }

    /// The outermost SELECT over the joined rows: the same for all models that learn together.
    pub fn shape(&self, mut samples: Samples) -> Result<Shaped> {
        let t = self.post.apply(&samples.rows)?;
        if let Some(kept) = &t.kept {
            samples.kinds = kept.iter().map(|&i| samples.kinds[i as usize]).collect();
            samples.seqs = kept.iter().map(|&i| samples.seqs[i as usize]).collect();
            samples.weights = samples.weights.map(|w| kept.iter().map(|&i| w[i as usize]).collect());
        }
        samples.rows = t.rows;
        samples.late_share = self.late_share();
        Ok(Shaped { samples, refused: t.refused, features: None })
    }

    /// Takes samples that another line has joined and shaped. Features that were extracted for the same columns are used
    /// again; those extracted here are left for the next.
    pub fn take_shaped(&mut self, shaped: &mut Shaped, rejected: &mut Vec<Rejected>) -> Result<Samples> {
        let is_there = shaped.features.as_ref().is_some_and(|(columns, _)| *columns == self.columns);
        if !is_there {
            let mut features = Features::new();
            self.extractor.extract(&shaped.samples.rows, &mut features)?;
            shaped.features = Some((self.columns.clone(), features));
        }
        self.given = shaped.features.as_ref().map(|(_, features)| features.clone());
        self.judge(shaped.without_features(), rejected)
    }

    /// Reads the label of each row, and its weight.
    pub fn judge(&mut self, shaped: Shaped, rejected: &mut Vec<Rejected>) -> Result<Samples> {
        let Shaped { mut samples, refused, .. } = shaped;
        self.reject("select", &refused, rejected);
        let mut bad = Vec::new();
        samples.labels = labels(samples.rows.column(self.label), self.loss, &mut bad)?;
        // A row that only says the label was refused when it left, and counted.
        let is_told = |(i, _): &&(u32, String)| samples.kinds[*i as usize] != SampleKind::Closed;
        let told: Vec<(u32, String)> = bad.iter().filter(is_told).cloned().collect();
        self.reject("label", &told, rejected);
        let mut samples = samples.without(&bad)?;
        samples.mature();
        let mut samples = samples.without_closed()?;
        if let Some(column) = self.weight {
            let mut bad = Vec::new();
            weights(samples.rows.column(column), &mut bad)?;
            self.reject("weight", &bad, rejected);
            samples = samples.without(&bad)?;
        }
        Ok(samples)
    }

    /// Step 4, model/feature: columns become (slot, key, value).
    pub fn extract(&mut self, mut samples: Samples, rejected: &mut Vec<Rejected>) -> Result<Samples> {
        let features = &mut self.lesson.features;
        match self.given.take().filter(|given| given.len() == samples.labels.len()) {
            Some(given) => *features = given,
            None => self.extractor.extract(&samples.rows, features)?,
        }
        if !features.refused.is_empty() {
            let bad = std::mem::take(&mut features.refused);
            samples = samples.without(&bad)?;
            self.extractor.extract(&samples.rows, features)?;
            self.reject("feature", &bad, rejected);
        }
        self.counts.features += self.lesson.features.keys.len() as u64;
        Ok(samples)
    }

    /// Steps 5 and 6, train/update on model/params: predict, compare, learn; then score what has matured.
    pub fn update(&mut self, mut samples: Samples, mini_batch: u64) -> Result<()> {
        self.counts.sample_rows += samples.labels.len() as u64;
        self.lesson.oracle = self.oracle.map(|c| to_f64(samples.rows.column(c))).transpose()?;
        let of_column = self.weight.map(|c| weights(samples.rows.column(c), &mut Vec::new())).transpose()?;
        self.lesson.weights = match (of_column, samples.weights.take()) {
            (Some(a), Some(b)) => Some(a.iter().zip(&b).map(|(a, b)| a * b).collect()),
            (a, b) => a.or(b),
        };
        self.lesson.delayed = Delayed { late_share: samples.late_share, ..self.delayed };
        self.lesson.groups = self.groups.as_mut().map(|groups| groups.of(&samples.rows)).transpose()?;
        let Samples { rows, labels, kinds, seqs, matured, .. } = samples;
        if let Some(exit) = self.exit.as_ref().filter(|_| !labels.is_empty()) {
            let (kinds, weights) = (kinds.clone(), self.lesson.weights.clone());
            let leaving = Leaving { mini_batch, rows, labels: labels.clone(), kinds, weights, predictions: Vec::new() };
            self.lesson.outgoing = Some(Box::new(Outgoing { leaving, exit: exit.clone() }));
        }
        if let Some(compare) = &mut self.compare {
            compare.before_learning(&self.lesson.features, &kinds, &seqs, &matured);
        }
        let lesson = Lesson { mini_batch, labels, kinds, seqs, matured, ..std::mem::take(&mut self.lesson) };
        self.lessons += 1;
        if let Some(keeping) = &mut self.keeping {
            keeping.keep(&lesson)?;
        }
        self.lesson = self.learning.learn(lesson)?;
        Ok(())
    }

    /// Samples leave there from here on, predicted.
    pub fn let_out(&mut self, exit: Exit) {
        self.exit = Some(exit);
    }

    /// Compares served versions by what comes from here on.
    pub fn compare(&mut self, compare: Compare) {
        self.compare = Some(compare);
    }

    /// What compares them, where somebody asked for it.
    pub fn compared(&mut self) -> Option<&mut Compare> {
        self.compare.as_mut()
    }

    /// Keeps all lessons from here on, for later passes.
    pub fn keep_lessons(&mut self, writer: LessonWriter) {
        self.keeping = Some(writer);
    }

    /// Learns the next lesson of `reader`; `false` at its end.
    pub fn learn_again(&mut self, reader: &mut LessonReader, mini_batch: u64) -> Result<bool> {
        let mut lesson = std::mem::take(&mut self.lesson);
        let is_one = reader.next(&mut lesson)?;
        lesson.mini_batch = mini_batch;
        lesson.delayed = Delayed { late_share: lesson.delayed.late_share, ..self.delayed };
        self.lesson = if is_one { self.learning.learn(lesson)? } else { lesson };
        Ok(is_one)
    }

    /// The share of positives whose feedback comes after their sample has left, as far as anything depends on it.
    fn late_share(&self) -> f32 {
        match &self.joining {
            Joining::Label(join) if self.delayed.correction == Correction::Elapsed => join.counts().late_share(),
            _ => 0.0,
        }
    }

    /// How negatives are sampled: part of every version.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Lessons the stream has given: as many must come again in every pass.
    pub fn lessons(&self) -> u64 {
        self.lessons
    }

    /// Hands what is kept to the operating system, so that it can be read.
    pub fn flush_lessons(&mut self) -> Result<()> {
        self.keeping.as_mut().map_or(Ok(()), LessonWriter::flush)
    }

    /// Features of the samples extracted last.
    pub fn features(&self) -> &Features {
        &self.lesson.features
    }

    fn reject(&mut self, place: &str, bad: &[(u32, String)], rejected: &mut Vec<Rejected>) {
        self.counts.refuse(place, bad.len());
        rejected.extend(bad.iter().map(|(_, reason)| Rejected { place: place.into(), reason: reason.clone() }));
    }
}

impl Shaped {
    /// The same without the features.
    fn without_features(&self) -> Self {
        Self { samples: self.samples.clone(), refused: self.refused.clone(), features: None }
    }
}

impl Samples {
    /// The samples less the bad ones; half of a retract-and-correct pair never goes alone.
    fn without(mut self, bad: &[(u32, String)]) -> Result<Self> {
        let is_half = |kind: &SampleKind| matches!(kind, SampleKind::Retract | SampleKind::Correct);
        if bad.is_empty() && !self.kinds.iter().any(is_half) {
            return Ok(self);
        }
        let mut good = vec![true; self.labels.len()];
        for (i, _) in bad {
            good[*i as usize] = false;
        }
        for i in 0..good.len() {
            good[i] &= match self.kinds[i] {
                SampleKind::Retract => self.kinds.get(i + 1) == Some(&SampleKind::Correct) && good[i + 1],
                SampleKind::Correct => i > 0 && self.kinds[i - 1] == SampleKind::Retract && good[i - 1],
                _ => true,
            };
        }
        if good.iter().all(|g| *g) {
            return Ok(self);
        }
        let kept: Vec<u32> = (0..good.len() as u32).filter(|&i| good[i as usize]).collect();
        self.kinds = kept.iter().map(|&i| self.kinds[i as usize]).collect();
        self.seqs = kept.iter().map(|&i| self.seqs[i as usize]).collect();
        self.labels = kept.iter().map(|&i| self.labels[i as usize]).collect();
        self.weights = self.weights.map(|w| kept.iter().map(|&i| w[i as usize]).collect());
        self.rows = take_record_batch(&self.rows, &UInt32Array::from(kept))
            .map_err(|e| Error::internal(format!("samples: {e}")))?;
        Ok(self)
    }

    /// The samples less the rows that only say a label.
    fn without_closed(self) -> Result<Self> {
        let is_closed = |(_, kind): &(usize, &SampleKind)| **kind == SampleKind::Closed;
        let closed: Vec<(u32, String)> =
            self.kinds.iter().enumerate().filter(is_closed).map(|(i, _)| (i as u32, String::new())).collect();
        if closed.is_empty() { Ok(self) } else { self.without(&closed) }
    }

    /// Gives impressions their final label: that of the program's expression over the match, not the match itself.
    fn mature(&mut self) {
        let is_aligned = self.matured.iter().map(|m| m.seq).eq(self.seqs.iter().copied());
        if is_aligned {
            self.matured.iter_mut().zip(&self.labels).for_each(|(m, label)| m.label = *label);
        } else {
            let of: BTreeMap<u64, f32> = self.seqs.iter().copied().zip(self.labels.iter().copied()).collect();
            for m in &mut self.matured {
                m.label = of.get(&m.seq).copied().unwrap_or(m.label);
            }
        }
    }
}

/// Labels as numbers; rows without one, or with one that the loss does not take, are named in `bad`.
pub fn labels(column: &ArrayRef, loss: Loss, bad: &mut Vec<(u32, String)>) -> Result<Vec<f32>> {
    let numbers = to_f32(column, "the label")?;
    if numbers.null_count() == 0 && numbers.values().iter().all(|label| loss.is_label(*label)) {
        return Ok(numbers.values().to_vec());
    }
    for i in 0..numbers.len() {
        if numbers.is_null(i) {
            bad.push((i as u32, "label is missing".into()));
        } else if let Err(why) = loss.check_label(numbers.value(i)) {
            bad.push((i as u32, why));
        }
    }
    Ok(numbers.values().to_vec())
}

/// Sample weights; rows with one that is missing, negative or no number are named in `bad`.
fn weights(column: &ArrayRef, bad: &mut Vec<(u32, String)>) -> Result<Vec<f32>> {
    let numbers = to_f32(column, "the weight")?;
    for i in 0..numbers.len() {
        if numbers.is_null(i) {
            bad.push((i as u32, "weight is missing".into()));
        } else if !(numbers.value(i) >= 0.0 && numbers.value(i).is_finite()) {
            bad.push((i as u32, format!("weight must be a number from 0, got {}", numbers.value(i))));
        }
    }
    Ok(numbers.values().to_vec())
}

fn to_f32(column: &ArrayRef, what: &str) -> Result<Float32Array> {
    let numbers: ArrayRef = match column.data_type() {
        DataType::Float32 => column.clone(),
        t if t.is_numeric() || *t == DataType::Boolean => {
            cast(column, &DataType::Float32).map_err(|e| Error::invalid(format!("{what}: {e}")))?
        }
        t => return Err(Error::invalid(format!("{what} has type {t}; it must be a number or a BOOLEAN"))),
    };
    Ok(numbers.as_primitive::<Float32Type>().clone())
}

/// Numbers for the values of a column, in the order in which they came; beyond the bound all share one.
pub struct Groups {
    column: usize,
    numbers: BTreeMap<String, u32>,
}

impl Groups {
    fn new(column: usize) -> Self {
        Self { column, numbers: BTreeMap::new() }
    }

    /// The values by group number, from 1.
    pub fn names(&self) -> Vec<String> {
        let mut by_number: Vec<(u32, &String)> = self.numbers.iter().map(|(name, number)| (*number, name)).collect();
        by_number.sort_unstable();
        by_number.into_iter().map(|(_, name)| name.clone()).collect()
    }

    fn of(&mut self, rows: &RecordBatch) -> Result<Vec<u32>> {
        let text =
            cast(rows.column(self.column), &DataType::Utf8).map_err(|e| Error::invalid(format!("validate.by: {e}")))?;
        let text = text.as_string::<i32>();
        let number = |i: usize| {
            let name = short(if text.is_null(i) { "NULL" } else { text.value(i) });
            if let Some(number) = self.numbers.get(name) {
                return *number;
            }
            if self.numbers.len() == GROUPS_MAX as usize {
                return OTHERS;
            }
            let number = self.numbers.len() as u32 + 1;
            self.numbers.insert(name.to_string(), number);
            number
        };
        Ok((0..text.len()).map(number).collect())
    }

    fn encode(&self, out: &mut Encoder) {
        let names = self.names();
        out.put_varint(names.len() as u64);
        names.iter().for_each(|name| _ = out.put_str(name));
    }

    fn decode(&mut self, d: &mut Decoder) -> Result<()> {
        self.numbers.clear();
        let count = d.count(1)? as u32;
        for number in 1..=count {
            self.numbers.insert(d.str()?.to_string(), number);
        }
        match count <= GROUPS_MAX && self.numbers.len() == count as usize {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{count} groups, one twice or more than {GROUPS_MAX}"))),
        }
    }
}

/// Values that begin alike for so long are one group.
fn short(name: &str) -> &str {
    name.char_indices().nth(GROUP_NAME_MAX).map_or(name, |(end, _)| &name[..end])
}

fn to_f64(column: &ArrayRef) -> Result<Vec<f64>> {
    let numbers = cast(column, &DataType::Float64).map_err(|e| Error::invalid(format!("validate.oracle: {e}")))?;
    let numbers: &Float64Array = numbers.as_primitive::<Float64Type>();
    Ok((0..numbers.len()).map(|i| if numbers.is_null(i) { f64::NAN } else { numbers.value(i) }).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    /// The numbers that these values get, one call each.
    fn numbers(groups: &mut Groups, values: &[&str]) -> Vec<u32> {
        let number = |value: &&str| {
            let values: ArrayRef = Arc::new(StringArray::from(vec![*value]));
            groups.of(&RecordBatch::try_from_iter([("by", values)]).unwrap()).unwrap()[0]
        };
        values.iter().map(number).collect()
    }

    /// Values are told apart by their beginning: one that goes on for longer is one group too, before a restart and after.
    #[test]
    fn long_values_keep_their_number() {
        let long = "é".repeat(GROUP_NAME_MAX + 1);
        let also = long.clone() + "and more";
        let (mut groups, values) = (Groups::new(0), [&*long, "a", &also, "b", &long, "a"]);
        assert_eq!(numbers(&mut groups, &values), [1, 2, 1, 3, 1, 2]);
        let (mut out, mut again) = (Encoder::new(), Groups::new(0));
        groups.encode(&mut out);
        again.decode(&mut Decoder::new(out.as_slice(), "test")).unwrap();
        assert_eq!(numbers(&mut again, &values), [1, 2, 1, 3, 1, 2]);
    }

    /// Two numbers for one value would move all behind them with the next restart.
    #[test]
    fn groups_that_were_not_written_so_are_refused() {
        for names in [vec!["a".to_string(), "a".into()], (0..=GROUPS_MAX).map(|i| i.to_string()).collect()] {
            let mut out = Encoder::new();
            out.put_varint(names.len() as u64);
            names.iter().for_each(|name| _ = out.put_str(name));
            let read = Groups::new(0).decode(&mut Decoder::new(out.as_slice(), "test"));
            assert_eq!(read.unwrap_err().kind(), tidemill_base::Kind::Corrupt);
        }
    }
}
