//! Step 5, update: predict, then learn.
//!
//! In: samples in batches. The trainer goes through a batch in mini-batches of `train.batch_size`: all samples of a
//! mini-batch are predicted with the parameters as they were before it, then its gradients are applied, for each key in
//! sample order. Linear models whose entries stand beside their keys take the path of [`linear`], all others, and those
//! whose gradients are applied in part ([`filter`]), that of [`general`]. Any number of threads leaves the same bits.

mod checkpoint;
mod delayed;
mod entries;
mod filter;
mod forget;
mod general;
mod linear;
mod rules;
mod state;

use std::sync::{
    Arc, Mutex, RwLock,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use tidemill_base::{Result, StateHash, StateHasher, rng::mix64};
use tidemill_model::{
    Features, ParamTable,
    learner::Learner,
    loss::Loss,
    optimizer::{GradientFilter, Optimizer, Pair},
    params::TableSpec,
    simd::wide,
};
use tidemill_stream::join::{Matured, SampleKind};

use crate::{TrainSpec, Validation, pool::Pool};
pub use delayed::Delayed;
use filter::{Filter, residual_words};
use forget::Due;
use general::{Dense, EntryBlock, SliceScratch};
use rules::{Rules, has_caps, tick_of_word, with_policy};

/// Smaller batches are not worth a second thread.
const SHARED_ROWS_MIN: usize = 512;
/// Mini-batches of fewer samples are over before a second thread has begun.
const SHARED_BATCH_SIZE_MIN: usize = 16;
/// A phase of layers takes a millisecond where one of entries takes some tens of microseconds.
const PATIENCE_OF_LAYERS: usize = 32;
/// Parts of the table at most: there are so many groups of sums.
const PARTS_MAX: usize = tidemill_model::learner::GROUPS;

/// Bytes for counting keys that are not admitted yet.
const SKETCH_BYTES: usize = 4 << 20;

/// Samples to learn from.
#[derive(Clone, Copy)]
pub struct SampleBatch<'a> {
    /// Features of each sample.
    pub features: &'a Features,
    /// Label of each: 0 or 1, a number, or a class.
    pub labels: &'a [f32],
    /// What each row is. A [`SampleKind::Retract`] is directly followed by its [`SampleKind::Correct`].
    pub kinds: &'a [SampleKind],
    /// Impression number of each.
    pub seqs: &'a [u64],
    /// True probability of each, where somebody knows it; NaN where not.
    pub oracle: Option<&'a [f64]>,
    /// Sample weight of each, if they differ. Linear models learn a large one without going past the label
    /// ([`Loss::weighted`]); all others, also where gradients are applied in part, and corrections, with the gradient scaled by it.
    pub weights: Option<&'a [f32]>,
    /// Group of each by which figures are told apart, if somebody asked.
    pub groups: Option<&'a [u32]>,
}

/// Learns, and keeps score of its predictions.
pub struct Trainer {
    pub(crate) spec: TrainSpec,
    pub(crate) learner: Arc<dyn Learner>,
    pub(crate) table: ParamTable,
    /// Deltas taken so far.
    pub(crate) deltas: u64,
    /// Whether dense parameters changed since the last delta.
    pub(crate) dense_changed: bool,
    rules: Rules,
    dense: Dense,
    filter: Option<Filter>,
    pool: Pool,
    scratch: Scratch,
    validation: Validation,
    pass_losses: Vec<f64>,
    counts: Counts,
    /// The checkpoint that is being written.
    leaving: Option<checkpoint::Leaving>,
}

/// What the trainer has counted since the model began, and what it takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainStats {
    /// Keys with an entry.
    pub entries: u64,
    /// Bytes of the parameter table.
    pub bytes: u64,
    /// Samples learned from; a correction is not one.
    pub samples: u64,
    /// Early samples that were corrected.
    pub corrections: u64,
    /// Samples that were refused: NaN or infinite values or weights, labels that are none, too many features.
    pub refused_samples: u64,
    /// Gradients, and samples, refused because a number would not have been finite.
    pub refused_non_finite: u64,
    /// The least key among those.
    pub refused_key: Option<u64>,
    /// Updates of new keys refused because the table was full (`train.entries_max`) or the key not yet seen often enough.
    pub refused_admissions: u64,
    /// Parameter-update mini-batches.
    pub updates: u64,
    /// Gradient components that came, where gradients are applied in part (`train.gradient_keep`); 0 elsewhere.
    pub gradients_given: u64,
    /// Those of them that were applied at once, with what had waited before them.
    pub gradients_passed: u64,
    /// Entries that left because nothing was learned about them for long (`train.forget_after`).
    pub forgotten: u64,
}

#[derive(Default)]
struct Counts {
    samples: u64,
    corrections: u64,
    refused_samples: u64,
    updates: u64,
    // These are added to by many threads; the sums and the least key do not depend on their order.
    non_finite: AtomicU64,
    /// `u64::MAX`: none.
    non_finite_key: AtomicU64,
    not_admitted: AtomicU64,
    forgotten: u64,
}

/// What the threads write for one another. Plain atomics: the end of a phase orders them.
#[derive(Default)]
struct Scratch {
    /// Of each row and output: bits of the score; NaN where none was computed.
    scores: Vec<AtomicU32>,
    /// Of each row and part of the table: bits of the part's sum.
    sums: Vec<AtomicU32>,
    /// The same of how far a slope of 1 moves the score, where samples have weights.
    moves: Vec<AtomicU32>,
    own: Vec<Mutex<linear::Own>>,
    slices: Vec<Mutex<SliceScratch>>,
}

impl Trainer {
    /// A model that has learned nothing. `threads` never matters to what it learns.
    pub fn new(spec: &TrainSpec, threads: usize) -> Result<Self> {
        let parts = parts(threads);
        let learner = spec.widest().build(spec.slots.len());
        let (rules, table_spec) = (Rules::new(spec, &*learner), table_spec(spec, &*learner));
        spec.precision.check(&spec.slots, table_spec.words > 2)?;
        rules::check(spec, table_spec.words)?;
        let table = with_policy(ParamTable::new(table_spec, parts)?, spec, &rules);
        let validation = Validation::new(spec.task(), spec.validate_window, spec.pending_max);
        let params = learner.start_dense(spec.seed);
        let mut state = vec![0.0; spec.dense_optimizer.words(params.len())];
        spec.dense_optimizer.start(&params, &mut state);
        let dense = Dense { optimizer: spec.dense_optimizer, params: RwLock::new(params), state: Mutex::new(state) };
        let filter = Filter::new(spec.gradient_filter, &rules, learner.dense_dimension());
        Ok(Self {
            spec: spec.clone(),
            rules,
            learner,
            pool: Pool::new(parts),
            table,
            dense,
            filter,
            deltas: 0,
            dense_changed: false,
            scratch: Scratch::default(),
            validation,
            pass_losses: Vec::new(),
            counts: Counts { non_finite_key: AtomicU64::new(u64::MAX), ..Counts::default() },
            leaving: None,
        })
    }

    /// Predicts the samples, then learns from them, mini-batch by mini-batch; nothing is carried over to the next call.
    pub fn update(&mut self, batch: &SampleBatch) {
        self.update_delayed(batch, &Delayed::default());
    }

    /// The same for samples whose label may still change.
    pub fn update_delayed(&mut self, batch: &SampleBatch, delayed: &Delayed) {
        batch.check();
        let refused = refused_rows(batch, self.spec.model.loss);
        let rate = self.spec.schedule.rate(self.counts.samples);
        self.rules.set_rates(self.counts.samples);
        match is_pairs(&self.spec, &*self.learner) {
            true => match self.spec.optimizer {
                Optimizer::Sgd(rule) => self.update_linear(batch, delayed, &refused, rule, rate),
                Optimizer::Momentum(rule) => self.update_linear(batch, delayed, &refused, rule, rate),
                Optimizer::Adagrad(rule) => self.update_linear(batch, delayed, &refused, rule, rate),
                Optimizer::Ftrl(rule) => self.update_linear(batch, delayed, &refused, rule, rate),
                Optimizer::Adam(_) => self.update_general(batch, delayed, &refused, rate),
            },
            false => self.update_general(batch, delayed, &refused, rate),
        }
        self.dense_changed |= self.learner.dense_dimension() > 0;
        self.counts.updates += batch.labels.len().div_ceil(self.spec.batch_size) as u64;
        let before = self.counts.samples;
        self.keep_score(batch, &refused);
        self.forget(before);
        self.step_checkpoint_behind(batch.features.keys.len());
    }

    /// Lets entries go that nothing was learned about for long, where that is asked for.
    fn forget(&mut self, samples_before: u64) {
        let Some(pace) = self.rules.pace() else { return };
        for due in pace.due(samples_before..self.counts.samples) {
            for part in 0..self.table.parts() {
                let mut part = self.table.write(part);
                let now = part.ticks();
                let is_old = |slot: u16, state: &[f32]| {
                    let last = state.last().map_or(now, |word| tick_of_word(*word));
                    self.rules.is_old(slot, last, now)
                };
                self.counts.forgotten += match (due, self.rules.keeps_ticks()) {
                    (Due::Sweep, false) => part.evict_older_than(forget::TICKS, 1),
                    (Due::Tick, false) => part.tick(forget::TICKS),
                    (Due::Sweep, true) => part.evict_where(1, is_old),
                    (Due::Tick, true) => part.tick_where(is_old),
                } as u64;
            }
        }
    }

    fn update_linear<R: Pair>(&mut self, batch: &SampleBatch, delayed: &Delayed, refused: &[bool], rule: R, rate: f32) {
        let (rows, parts) = (batch.labels.len(), self.table.parts());
        grow(&mut self.scratch.scores, rows);
        grow(&mut self.scratch.sums, rows * parts);
        grow(&mut self.scratch.moves, if batch.weights.is_some() { rows * parts } else { 0 });
        grow(&mut self.scratch.own, parts);
        let work = linear::Work {
            batch,
            delayed,
            refused,
            batch_size: self.spec.batch_size,
            rule,
            rate,
            loss: self.spec.model.loss,
            clip: self.spec.clip,
            admit_after: self.spec.admit_after,
            table: &self.table,
            own: &self.scratch.own,
            sums: &self.scratch.sums,
            moves: &self.scratch.moves,
            scores: &self.scratch.scores,
            counts: &self.counts,
        };
        if parts == 1 {
            return wide(linear::Share::Alone(&work));
        }
        let worth_sharing = rows >= SHARED_ROWS_MIN && self.spec.batch_size >= SHARED_BATCH_SIZE_MIN;
        self.pool.run(worth_sharing, 1, work.phases(), |phase, worker, workers| {
            (worker..parts).step_by(workers).for_each(|part| wide(linear::Share::Phase(&work, phase, part)));
        });
    }

    fn update_general(&mut self, batch: &SampleBatch, delayed: &Delayed, refused: &[bool], rate: f32) {
        let rows = batch.labels.len();
        grow(&mut self.scratch.scores, rows * self.learner.outputs());
        let slices = rows.min(self.spec.batch_size).div_ceil(self.learner.slice_samples());
        grow(&mut self.scratch.slices, slices);
        let work = general::Work {
            batch,
            delayed,
            refused,
            batch_size: self.spec.batch_size,
            learner: &*self.learner,
            rules: &self.rules,
            loss: self.spec.model.loss,
            rate,
            clip: self.spec.clip,
            seed: self.spec.seed,
            dropout_seed: mix64(self.spec.seed.wrapping_add(self.pass_losses.len() as u64)),
            table: &self.table,
            dense: &self.dense,
            filter: self.filter.as_ref(),
            slices: &self.scratch.slices,
            scores: &self.scratch.scores,
            counts: &self.counts,
        };
        let worth_sharing = slices >= 2 && rows.min(self.spec.batch_size) >= SHARED_BATCH_SIZE_MIN;
        let patience = if self.learner.dense_dimension() > 0 { PATIENCE_OF_LAYERS } else { 1 };
        self.pool.run(worth_sharing, patience, work.phases(), |phase, worker, workers| {
            work.phase(phase, worker, workers);
        });
        // The next call goes on from what a checkpoint now would hold.
        self.filter.iter().for_each(Filter::adapt);
    }

    /// Remembers the first prediction of each impression, and counts.
    fn keep_score(&mut self, batch: &SampleBatch, refused: &[bool]) {
        let outputs = self.learner.outputs();
        let mut scores = vec![0.0; outputs];
        for (row, (kind, seq)) in batch.kinds.iter().zip(batch.seqs).enumerate() {
            match (kind, is_refused(refused, row)) {
                (SampleKind::Retract | SampleKind::Closed, _) => {}
                (SampleKind::Correct | SampleKind::Late, refused) => self.counts.corrections += !refused as u64,
                (SampleKind::Final | SampleKind::Early | SampleKind::Unlearned, refused) => {
                    // What was refused was never predicted, and says nothing about the learner's health.
                    if !refused {
                        let kept = &self.scratch.scores[row * outputs..][..outputs];
                        scores
                            .iter_mut()
                            .zip(kept)
                            .for_each(|(score, bits)| *score = f32::from_bits(bits.load(Relaxed)));
                        self.spec.model.loss.bring_within(&mut scores);
                        let oracle = batch.oracle.map_or(f64::NAN, |oracle| oracle[row]);
                        let group = batch.groups.map_or(0, |groups| groups[row]);
                        self.validation.predicted(*seq, &scores, oracle, group);
                    }
                    self.counts.samples += (!refused && *kind != SampleKind::Unlearned) as u64;
                    self.counts.refused_samples += refused as u64;
                }
            }
        }
    }

    /// What the rows of the last call of [`Trainer::update`] were predicted to be before they were learned: a probability, a
    /// number, or of several classes the likeliest. NaN for a row that was refused.
    pub fn predictions(&self, rows: usize) -> Vec<f32> {
        let (outputs, loss) = (self.learner.outputs(), self.spec.model.loss);
        let mut predicted = vec![0.0; outputs];
        let predict = |scores: &[AtomicU32]| {
            let scores: Vec<f32> = scores.iter().map(|bits| f32::from_bits(bits.load(Relaxed))).collect();
            if scores.iter().any(|score| score.is_nan()) {
                return f32::NAN;
            }
            loss.predict(&scores, &mut predicted);
            let likeliest = || (1..outputs).fold(0, |best, i| if predicted[i] > predicted[best] { i } else { best });
            if outputs == 1 { predicted[0] } else { likeliest() as f32 }
        };
        self.scratch.scores[..rows * outputs].chunks_exact(outputs).map(predict).collect()
    }

    /// Scores the predictions of impressions whose label is final. Each impression must be named once, also one whose
    /// sample never came to [`Trainer::update`]: it is counted as not scored.
    pub fn mature(&mut self, matured: &[Matured]) {
        self.validation.labelled_all(matured.iter().map(|m| (m.seq, m.label)));
    }

    /// How good the predictions were.
    pub fn validation(&self) -> &Validation {
        &self.validation
    }

    /// A version was published: figures since the last version begin anew.
    pub fn version_published(&mut self) {
        self.validation.version_published();
    }

    /// Another pass over the same samples begins: figures begin anew, and those of the pass before are kept.
    pub fn next_pass(&mut self) {
        let overall = self.validation.overall();
        let loss = overall.regression.map_or(overall.logloss, |regression| regression.rmse);
        self.pass_losses.push(loss);
        self.validation = Validation::new(self.spec.task(), self.spec.validate_window, self.spec.pending_max);
    }

    /// Mean log loss (of regressions the RMSE) of each pass that is over.
    pub fn pass_losses(&self) -> &[f64] {
        &self.pass_losses
    }

    /// What is being trained.
    pub fn spec(&self) -> &TrainSpec {
        &self.spec
    }

    /// Identity of the parameters with their optimizer state: equal hashes mean equal bits.
    pub fn state_hash(&self) -> StateHash {
        let table = self.table.state_hash();
        let dense = self.dense.state.lock().expect("nobody panics while holding it");
        if dense.is_empty() && self.filter.is_none() {
            return table;
        }
        let mut hasher = StateHasher::new();
        hasher.u64(table.0 as u64).u64((table.0 >> 64) as u64);
        dense.iter().for_each(|word| _ = hasher.u64(u64::from(word.to_bits())));
        self.filter.iter().for_each(|filter| filter.hash(&mut hasher));
        hasher.finish()
    }

    /// Counts and sizes.
    pub fn stats(&self) -> TrainStats {
        let key = self.counts.non_finite_key.load(Relaxed);
        let gradients = self.filter.as_ref().map(Filter::counts).unwrap_or_default();
        TrainStats {
            entries: self.table.len() as u64,
            bytes: self.table.bytes() as u64,
            samples: self.counts.samples,
            corrections: self.counts.corrections,
            refused_samples: self.counts.refused_samples,
            refused_non_finite: self.counts.non_finite.load(Relaxed),
            refused_key: (key != u64::MAX).then_some(key),
            refused_admissions: self.counts.not_admitted.load(Relaxed),
            updates: self.counts.updates,
            gradients_given: gradients.given,
            gradients_passed: gradients.passed,
            forgotten: self.counts.forgotten,
        }
    }

    pub(crate) fn dense_params(&self) -> Vec<f32> {
        self.dense.params.read().expect("nobody panics while holding it").clone()
    }

    /// Writes the parameters of the state of an entry of this slot to `out`.
    pub(crate) fn read_entry(&self, slot: u16, state: &[f32], out: &mut [f32]) {
        self.rules.read(slot, state, out);
    }
}

/// How many of `threads` should learn where another of them reads meanwhile. Learning an entry that stands beside its key
/// costs less than reading its sample: threads that wait for one another at each mini-batch would only be in the way.
pub fn threads_beside_reading(spec: &TrainSpec, threads: usize) -> usize {
    let learner = spec.widest().build(spec.slots.len());
    if is_pairs(spec, &*learner) { threads.saturating_sub(1).max(1) } else { threads }
}

/// So many parts can share the work: a power of two, as sums are.
fn parts(threads: usize) -> usize {
    let threads = threads.clamp(1, PARTS_MAX);
    1 << threads.ilog2()
}

/// Whether entries are of one parameter whose state stands beside the key.
fn is_pairs(spec: &TrainSpec, learner: &dyn Learner) -> bool {
    let takes_pairs = !matches!(spec.optimizer, Optimizer::Adam(_)) && spec.gradient_filter == GradientFilter::All;
    // Such entries do not keep their slot.
    let differs = || Rules::new(spec, learner).differ() || has_caps(spec);
    learner.width() == 1 && learner.dense_dimension() == 0 && takes_pairs && (spec.by_slot.is_empty() || !differs())
}

fn table_spec(spec: &TrainSpec, learner: &dyn Learner) -> TableSpec {
    let rules = Rules::new(spec, learner);
    let words: usize = match is_pairs(spec, learner) {
        true => 2,
        // More than two, or they would stand beside the key.
        false => {
            let beside = residual_words(spec.gradient_filter, &rules) + usize::from(rules.keeps_ticks());
            (rules.words() + beside).max(3)
        }
    };
    let sketch_bytes = if rules.counts_keys() { SKETCH_BYTES } else { 0 };
    TableSpec { words, entries_max: spec.entries_max, bytes_max: spec.bytes_max, sketch_bytes, ages: rules.forgets() }
}

fn blocks(spec: &TrainSpec, learner: &dyn Learner) -> Vec<EntryBlock> {
    let (mut params, mut words) = (0, 0);
    let next = |block: tidemill_model::learner::Block| {
        let optimizer = if block.name == "linear" { spec.optimizer } else { spec.factors_optimizer };
        let (first_param, first_word) = (params, words);
        params += block.dimension;
        words += optimizer.words(block.dimension);
        EntryBlock { optimizer, spread: block.spread, params: first_param..params, words: first_word..words }
    };
    learner.blocks().into_iter().map(next).collect()
}

impl Counts {
    #[cold]
    fn refuse_non_finite(&self, key: u64) {
        self.non_finite.fetch_add(1, Relaxed);
        self.non_finite_key.fetch_min(key, Relaxed);
    }
}

impl SampleBatch<'_> {
    /// Whatever is wrong here is a mistake of the caller, and would be learned for ever.
    fn check(&self) {
        let rows = self.labels.len();
        let lengths = [
            self.features.len(),
            self.kinds.len(),
            self.seqs.len(),
            self.oracle.map_or(rows, <[f64]>::len),
            self.weights.map_or(rows, <[f32]>::len),
            self.groups.map_or(rows, <[u32]>::len),
        ];
        assert_eq!(lengths, [rows; 6], "lengths of features, kinds, seqs, oracle, weights and groups");
        for (i, pair) in self.kinds.iter().enumerate().filter(|(_, kind)| **kind == SampleKind::Retract) {
            assert_eq!(self.kinds.get(i + 1), Some(&SampleKind::Correct), "row {i} is {pair:?}, and the next");
        }
    }
}

fn grow<T: Default>(cells: &mut Vec<T>, len: usize) {
    if cells.len() < len {
        cells.resize_with(len, T::default);
    }
}

/// For each row whether it was refused, or must be for its label or weight; empty when there is none.
fn refused_rows(batch: &SampleBatch, loss: Loss) -> Vec<bool> {
    let is_bad = |row: usize| {
        // A correction is about two labels.
        let is_correction = batch.kinds[row] == SampleKind::Correct;
        let before = row.checked_sub(1).filter(|_| is_correction).map(|before| batch.labels[before]);
        loss.check_label(batch.labels[row]).is_err()
            || before.is_some_and(|label| loss.check_label(label).is_err())
            || batch.weights.is_some_and(|weights| !weights[row].is_finite())
    };
    let bad: Vec<usize> = (0..batch.labels.len()).filter(|row| is_bad(*row)).collect();
    let mut refused = Vec::new();
    if !batch.features.refused.is_empty() || !bad.is_empty() {
        refused.resize(batch.labels.len(), false);
        bad.into_iter().for_each(|row| refused[row] = true);
        batch.features.refused.iter().for_each(|(row, _)| refused[*row as usize] = true);
    }
    refused
}

#[inline(always)]
fn is_refused(refused: &[bool], row: usize) -> bool {
    !refused.is_empty() && refused[row]
}
