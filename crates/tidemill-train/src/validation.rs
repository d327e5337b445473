//! Progressive validation: each prediction, made before its sample was learned from, meets its final label.
//!
//! In: predictions by impression number, then final labels. Out: loss beside the best possible, AUC and calibration; since
//! the beginning, over the recent window, since the last version and by group; and whether the learner diverges. Scored in
//! the order of the impressions: a prediction whose label has come waits for those before it. They wait in a ring of at
//! most `2 * pending_max + 65,536` numbers (fewer when each has many scores); beyond it the oldest leave, and those without
//! a label are given up and counted. Sums are made in that one order, with our own logarithm, so they are the same in every
//! run, and a restart at any place changes none of them.

mod auc;
mod groups;
mod health;
mod metrics;
mod ring;
mod score;
#[cfg(test)]
mod tests;
mod window;

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use groups::Groups;
pub use groups::{GROUPS_MAX, GroupMetrics, OTHERS};
pub use health::Health;
use health::Watch;
use metrics::Tally;
pub use metrics::{CLASSES_COUNTED_MAX, ClassCount, ClassMetrics, Decile, Metrics, RegressionMetrics};
use ring::{Place, Ring};
use score::Score;
pub use window::WINDOW_MAX;
use window::Window;

/// Scores that wait, of models that have several for each prediction: 128 MiB, and as room grows by doubling, less than
/// 256 MiB of memory.
const WAITING_SCORES_MAX: usize = 1 << 25;

/// What labels are, and so what scores mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Labels 0 and 1; the score is a logit.
    Binary,
    /// Labels are numbers; so is the score.
    Regression,
    /// Labels are 0, 1 and so on below this number, which is at least 2; one score for each, of which the softmax is the
    /// probability.
    Classes(u32),
}

/// Scores predictions against final labels.
pub struct Validation {
    ring: Ring,
    tallies: Tallies,
    task: Task,
}

/// Predictions with their labels, about to be scored together: the processor computes several while it would wait for one.
struct Run {
    scores: [f32; RUN],
    oracles: [f32; RUN],
    labels: [f32; RUN],
    groups: [u16; RUN],
    length: usize,
}

const RUN: usize = 64;

struct Tallies {
    task: Task,
    overall: Tally,
    /// Scores since the beginning; of a binary task.
    histogram: auc::Histogram,
    window: Window,
    since_version: Tally,
    /// Of the version before, with its AUC.
    before_version: Option<(Tally, f64)>,
    groups: Groups,
    watch: Watch,
    /// The label that came last, and how many times in a row.
    run: (f32, u64),
    unscored: u64,
}

/// How good the predictions were.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Since the beginning.
    pub overall: Metrics,
    /// The last `validate.window` samples, exactly these, though never more than [`WINDOW_MAX`].
    pub recent: Metrics,
    /// Since the last version was published. Its AUC is over those of its samples that are in the recent window.
    pub since_version: Metrics,
    /// The same of the time between the last version and the one before.
    pub before_version: Option<Metrics>,
    /// By group number; empty when nobody asked.
    pub groups: Vec<GroupMetrics>,
    /// Impressions that matured without a prediction to score: refused samples, and predictions given up.
    pub unscored: u64,
    /// The one label, and how many samples in a row had it, when it was all of the recent window (of 1,000 samples when
    /// the window is shorter, of 100,000 when it is longer).
    pub one_class: Option<(f32, u64)>,
    /// Whether the learner diverges.
    pub health: Health,
}

impl Task {
    /// Scores of one prediction.
    #[inline]
    pub fn scores(self) -> usize {
        match self {
            Task::Binary | Task::Regression => 1,
            Task::Classes(classes) => classes as usize,
        }
    }

    /// The label, if it is one of this task.
    #[inline]
    fn label(self, label: f32) -> Option<f32> {
        let fits = match self {
            Task::Binary => label == 0.0 || label == 1.0,
            Task::Regression => label.is_finite(),
            Task::Classes(classes) => label >= 0.0 && label < classes as f32 && label as u32 as f32 == label,
        };
        if fits { Some(label) } else { None }
    }

    /// Counts by class; the last is shared when there are more classes than are counted.
    fn classes_counted(self) -> usize {
        match self {
            Task::Binary | Task::Regression => 0,
            Task::Classes(classes) => classes.min(CLASSES_COUNTED_MAX + 1) as usize,
        }
    }
}

impl Validation {
    /// Nothing scored yet. `window`: samples that recent figures are about; `pending_max`: impressions that may wait.
    pub fn new(task: Task, window: u64, pending_max: usize) -> Self {
        assert!(task.scores() >= 1 && task != Task::Classes(1), "{task:?}: at least two classes");
        let places_max = pending_max.saturating_mul(2).saturating_add(65_536);
        let ring = Ring::new(places_max.min(WAITING_SCORES_MAX / task.scores()).max(1), task.scores());
        let window = Window::new(window);
        let tallies = Tallies {
            task,
            overall: Tally::new(task),
            histogram: auc::Histogram::default(),
            since_version: Tally::new(task),
            before_version: None,
            groups: Groups::default(),
            watch: Watch::new(task, window.length()),
            run: (0.0, 0),
            unscored: 0,
            window,
        };
        Self { ring, tallies, task }
    }

    /// Keeps the prediction made for impression `seq`; only the first counts. `scores` are raw, as the learner gave them;
    /// if one is not finite, that speaks against the learner's health, so a sample that was refused before it was predicted
    /// must not come here. `oracle` is what was truly to be expected (a probability, a number), NaN where it is not known;
    /// of several classes it is not used. `group` numbers the value of the column asked for, from 1; 0: not asked.
    #[inline]
    pub fn predicted(&mut self, seq: u64, scores: &[f32], oracle: f64, group: u32) {
        assert_eq!(scores.len(), self.task.scores(), "scores of impression {seq}");
        self.reach(seq);
        let scores = match scores {
            // An infinite logit has its loss, an infinite number has none.
            [number] if self.task == Task::Regression && number.is_infinite() => &[f32::NAN],
            _ => scores,
        };
        self.ring.put(seq, scores, oracle as f32, groups::counted_as(group));
    }

    /// Gives impression `seq` its final label. Predictions are scored in the order of their impressions. A label that the
    /// task does not have counts as not scored.
    #[inline]
    pub fn labelled(&mut self, seq: u64, label: f32) {
        self.reach(seq);
        self.tallies.unscored += !self.ring.label(seq, self.task.label(label)) as u64;
        while let Some(place) = self.ring.ready().copied() {
            self.ring.leave();
            self.tallies.score(&place, self.ring.scores());
        }
    }

    /// The same for many, which is faster than one after the other.
    #[inline]
    pub fn labelled_all(&mut self, labels: impl IntoIterator<Item = (u64, f32)>) {
        let mut run = Run::default();
        for (seq, label) in labels {
            if self.ring.gives_up_for(seq) {
                // Those that leave the ring now come after those of the run.
                self.tallies.score_run(&mut run);
            }
            self.reach(seq);
            self.tallies.unscored += !self.ring.label(seq, self.task.label(label)) as u64;
            while let Some(place) = self.ring.ready() {
                if self.task == Task::Binary {
                    run.push(place, &mut self.tallies);
                    self.ring.leave();
                } else {
                    let place = *place;
                    self.ring.leave();
                    self.tallies.score(&place, self.ring.scores());
                }
            }
        }
        self.tallies.score_run(&mut run);
    }

    /// From here on, samples are scored since the new version.
    pub fn version_published(&mut self) {
        let tallies = &mut self.tallies;
        let auc = tallies.window.auc(self.task, tallies.since_version.samples());
        let before = std::mem::replace(&mut tallies.since_version, Tally::new(self.task));
        tallies.before_version = Some((before, auc));
    }

    #[inline]
    fn reach(&mut self, seq: u64) {
        let tallies = &mut self.tallies;
        let given_up = self.ring.reach(seq, |place, scores| tallies.score(place, scores));
        self.tallies.unscored += given_up;
    }

    /// How good the predictions were. Goes through the recent window and sorts it; [`Validation::overall`],
    /// [`Validation::health`] and [`Validation::samples`] do not.
    pub fn summary(&self) -> Summary {
        let tallies = &self.tallies;
        let recent = tallies.window.metrics(self.task);
        let since = tallies.since_version.samples();
        let since_auc = match since >= tallies.window.len() as u64 {
            true => recent.auc,
            false => tallies.window.auc(self.task, since),
        };
        Summary {
            overall: self.overall(),
            since_version: tallies.since_version.metrics(self.task, since_auc),
            before_version: tallies.before_version.as_ref().map(|(tally, auc)| tally.metrics(self.task, *auc)),
            groups: tallies.groups.metrics(),
            unscored: tallies.unscored,
            one_class: tallies.one_class(),
            health: tallies.watch.health().clone(),
            recent,
        }
    }

    /// Figures since the beginning.
    pub fn overall(&self) -> Metrics {
        let auc = if self.task == Task::Binary { self.tallies.histogram.auc() } else { f64::NAN };
        self.tallies.overall.metrics(self.task, auc)
    }

    /// Whether the learner diverges.
    pub fn health(&self) -> &Health {
        self.tallies.watch.health()
    }

    /// Samples scored since the beginning.
    pub fn samples(&self) -> u64 {
        self.tallies.overall.samples()
    }

    /// Predictions that wait for their label.
    pub fn pending(&self) -> usize {
        self.ring.waiting()
    }

    /// Memory: what waits and the recent window, each of which has its bound; the rest is less than 200 KB.
    pub fn bytes(&self) -> usize {
        let tallies = &self.tallies;
        size_of::<Self>() + size_of::<[[u32; 2]; 4096]>()
            + self.ring.bytes() + tallies.window.bytes() + tallies.groups.bytes()
            // Classes are counted in three tallies of three numbers, and in two blocks of one.
            + self.task.classes_counted() * 11 * size_of::<u64>()
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        let tallies = &self.tallies;
        self.task.encode(out);
        self.ring.encode(out);
        tallies.overall.encode(out);
        tallies.histogram.encode(out);
        tallies.window.encode(self.task, out);
        tallies.since_version.encode(out);
        out.put_u8(tallies.before_version.is_some() as u8);
        if let Some((tally, auc)) = &tallies.before_version {
            tally.encode(out);
            out.put_f64(*auc);
        }
        tallies.groups.encode(out);
        tallies.watch.encode(out);
        out.put_f32(tallies.run.0).put_u64(tallies.run.1).put_u64(tallies.unscored);
    }

    /// Reads back what [`Validation::encode`] wrote for the same settings.
    pub(crate) fn decode(task: Task, window: u64, pending_max: usize, from: &mut Decoder) -> Result<Self> {
        task.check(from)?;
        let mut validation = Self::new(task, window, pending_max);
        validation.ring.decode(|label| task.label(label).is_some(), from)?;
        let tallies = &mut validation.tallies;
        tallies.overall = Tally::decode(task, from)?;
        tallies.histogram = auc::Histogram::decode(from)?;
        tallies.window = Window::decode(task, window, from)?;
        tallies.since_version = Tally::decode(task, from)?;
        if from.u8()? != 0 {
            tallies.before_version = Some((Tally::decode(task, from)?, from.f64()?));
        }
        tallies.groups = Groups::decode(from)?;
        tallies.watch = Watch::decode(task, tallies.window.length(), from)?;
        tallies.run = (from.f32()?, from.u64()?);
        tallies.unscored = from.u64()?;
        Ok(validation)
    }
}

impl Task {
    fn encode(self, out: &mut Encoder) {
        let (kind, classes) = match self {
            Task::Binary => (0, 0),
            Task::Regression => (1, 0),
            Task::Classes(classes) => (2, classes),
        };
        out.put_u8(kind).put_u32(classes);
    }

    fn check(self, from: &mut Decoder) -> Result<()> {
        let was = match (from.u8()?, from.u32()?) {
            (0, _) => Task::Binary,
            (1, _) => Task::Regression,
            (2, classes) => Task::Classes(classes),
            (other, _) => return Err(Error::corrupt(format!("validation: kind of task {other}"))),
        };
        match was == self {
            true => Ok(()),
            false => Err(Error::conflict(format!(
                "the checkpoint was made with labels of {was:?}, now they are of {self:?}; set model.loss back or train \
                 under another name"
            ))),
        }
    }
}

impl Default for Run {
    fn default() -> Self {
        Self { scores: [0.0; RUN], oracles: [0.0; RUN], labels: [0.0; RUN], groups: [0; RUN], length: 0 }
    }
}

impl Run {
    #[inline(always)]
    fn push(&mut self, place: &Place, tallies: &mut Tallies) {
        let i = self.length;
        self.scores[i] = place.score;
        self.oracles[i] = place.oracle;
        self.labels[i] = place.label;
        self.groups[i] = place.group;
        self.length += 1;
        if self.length == RUN {
            tallies.score_run(self);
        }
    }
}

impl Tallies {
    fn score(&mut self, place: &Place, scores: &[f32]) {
        let Place { score, oracle, label, group, .. } = *place;
        match self.task {
            Task::Binary => {
                self.score_binary(score, score::logistic(score, label), oracle, label, group);
            }
            _ if score.is_nan() => self.watch.not_a_number(self.task),
            Task::Regression => self.add_number(group, Score::regression(score, oracle, label)),
            Task::Classes(_) => self.add_number(group, Score::class(scores, label)),
        }
    }

    /// Binary predictions; what they score together they would score one by one.
    #[inline(always)]
    fn score_run(&mut self, run: &mut Run) {
        let (mut p, mut loss) = ([0.0; RUN], [0.0; RUN]);
        for i in 0..run.length {
            (p[i], loss[i]) = score::logistic(run.scores[i], run.labels[i]);
        }
        for i in 0..run.length {
            self.score_binary(run.scores[i], (p[i], loss[i]), run.oracles[i], run.labels[i], run.groups[i]);
        }
        run.length = 0;
    }

    #[inline(always)]
    fn score_binary(&mut self, logit: f32, maths: (f32, f64), oracle: f32, label: f32, group: u16) {
        if logit.is_nan() {
            self.watch.not_a_number(self.task);
        } else {
            self.add(Task::Binary, group, Score::binary(logit, maths, oracle, label));
        }
    }

    /// Apart, so that the many samples of binary tasks go through code that is about them alone.
    fn add_number(&mut self, group: u16, score: Score) {
        self.add(self.task, group, score);
    }

    #[inline(always)]
    fn add(&mut self, task: Task, group: u16, score: Score) {
        self.overall.add(task, &score);
        self.since_version.add(task, &score);
        if task == Task::Binary {
            self.histogram.add(score.rank, score.label > 0.0);
        }
        self.window.add(score);
        self.groups.add(task, group, &score);
        self.watch.add(task, &score);
        self.run = if score.label == self.run.0 { (score.label, self.run.1 + 1) } else { (score.label, 1) };
    }

    fn one_class(&self) -> Option<(f32, u64)> {
        let samples = (self.window.length() as u64).clamp(1_000, 100_000);
        (self.run.1 >= samples).then_some(self.run)
    }
}
