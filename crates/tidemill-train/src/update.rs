//! Step 5, update: predict, then learn.
//!
//! In: samples in batches. The trainer goes through a batch in mini-batches of `train.batch_size`: all samples of a
//! mini-batch are predicted with the parameters as they were before it (phase 1), then its gradients are applied, for each
//! key in sample order (phase 2). Threads share phase 1 by samples and phase 2 by parameter shards, so no sum is ever
//! made by two threads, and any number of them leaves the same bits.

mod phases;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use tidemill_base::{
    Error, Result, StateHash,
    codec::{Decoder, Encoder},
};
use tidemill_model::{Features, ParamTable, optimizer::Ftrl};
use tidemill_stream::join::{Matured, SampleKind};

use crate::{TrainSpec, Validation, pool::Pool, spec::LEARNERS};
use phases::Work;

/// Smaller batches are not worth a second thread.
const SHARED_ROWS_MIN: usize = 512;

/// Samples to learn from.
#[derive(Clone, Copy)]
pub struct SampleBatch<'a> {
    /// Features of each sample.
    pub features: &'a Features,
    /// Label of each: 0 or 1.
    pub labels: &'a [f32],
    /// What each row is. A [`SampleKind::Retract`] is directly followed by its [`SampleKind::Correct`].
    pub kinds: &'a [SampleKind],
    /// Impression number of each.
    pub seqs: &'a [u64],
    /// True probability of each, where somebody knows it; NaN where not.
    pub oracle: Option<&'a [f64]>,
}

/// Learns, and keeps score of its predictions.
pub struct Trainer {
    pub(crate) spec: TrainSpec,
    pub(crate) ftrl: Ftrl,
    pub(crate) table: ParamTable,
    /// Deltas taken so far.
    pub(crate) deltas: u64,
    pool: Pool,
    scratch: Scratch,
    validation: Validation,
    counts: Counts,
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
    /// Samples that were refused: NaN or infinite values, too many features.
    pub refused_samples: u64,
    /// Gradients, and samples, refused because a number would not have been finite.
    pub refused_non_finite: u64,
    /// The least key among those.
    pub refused_key: Option<u64>,
    /// Updates of new keys refused because the table was full (`train.entries_max`).
    pub refused_admissions: u64,
    /// Parameter-update mini-batches.
    pub updates: u64,
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
}

/// What the threads write for one another. Plain atomics: the end of a phase orders them.
#[derive(Default)]
struct Scratch {
    /// Of each row of the batch: bits of the logit; NaN where none was computed.
    logits: Vec<AtomicU32>,
    /// Of each row: bits of what its gradient is, for a feature of value 1; 0 changes nothing.
    residuals: Vec<AtomicU32>,
    /// Of each feature of the mini-batch: where phase 1 saw its entry.
    places: Vec<AtomicU32>,
}

impl Trainer {
    /// A model that has learned nothing. `threads` never matters to what it learns.
    pub fn new(spec: &TrainSpec, threads: usize) -> Self {
        let table = ParamTable::new(spec.entries_max, threads);
        Self::with_table(spec, threads, table, Validation::new(spec.validate_window, spec.pending_max))
    }

    fn with_table(spec: &TrainSpec, threads: usize, table: ParamTable, validation: Validation) -> Self {
        Self {
            spec: spec.clone(),
            ftrl: spec.ftrl(),
            pool: Pool::new(threads),
            table,
            deltas: 0,
            scratch: Scratch::default(),
            validation,
            counts: Counts { non_finite_key: AtomicU64::new(u64::MAX), ..Counts::default() },
        }
    }

    /// Predicts the samples, then learns from them, mini-batch by mini-batch; nothing is carried over to the next call.
    pub fn update(&mut self, batch: &SampleBatch) {
        batch.check();
        let rows = batch.labels.len();
        let refused = refused_rows(batch.features);
        self.scratch.make_room(batch, self.spec.batch_size);
        let work = Work {
            batch,
            refused: &refused,
            batch_size: self.spec.batch_size,
            ftrl: self.ftrl,
            table: &self.table,
            scratch: &self.scratch,
            counts: &self.counts,
        };
        let phases = 2 * rows.div_ceil(work.batch_size);
        self.pool.run(rows >= SHARED_ROWS_MIN, phases, |phase, part, parts| {
            let begin = phase / 2 * work.batch_size;
            let mini_batch = begin..rows.min(begin + work.batch_size);
            match phase % 2 {
                0 => work.predict(&mini_batch, part, parts),
                _ => work.learn(&mini_batch, part, parts),
            }
        });
        self.counts.updates += rows.div_ceil(self.spec.batch_size) as u64;
        self.keep_score(batch, &refused);
    }

    /// Remembers the first prediction of each impression, and counts.
    fn keep_score(&mut self, batch: &SampleBatch, refused: &[bool]) {
        for (row, (kind, seq)) in batch.kinds.iter().zip(batch.seqs).enumerate() {
            match (kind, is_refused(refused, row)) {
                (SampleKind::Retract, _) => {}
                (SampleKind::Correct, refused) => self.counts.corrections += !refused as u64,
                (SampleKind::Final | SampleKind::Early, refused) => {
                    let logit = f32::from_bits(self.scratch.logits[row].load(Relaxed));
                    let oracle = batch.oracle.map_or(f64::NAN, |oracle| oracle[row]);
                    self.validation.predicted(*seq, logit, oracle);
                    self.counts.samples += !refused as u64;
                    self.counts.refused_samples += refused as u64;
                }
            }
        }
    }

    /// Scores the predictions of impressions whose label is final. Each impression must be named once, also one whose
    /// sample never came to [`Trainer::update`]: it is counted as not scored.
    pub fn mature(&mut self, matured: &[Matured]) {
        matured.iter().for_each(|m| self.validation.matured(m.seq, m.positive));
    }

    /// How good the predictions were.
    pub fn validation(&self) -> &Validation {
        &self.validation
    }

    /// Identity of the parameters with their optimizer state: equal hashes mean equal bits.
    pub fn state_hash(&self) -> StateHash {
        self.table.state_hash()
    }

    /// Counts and sizes.
    pub fn stats(&self) -> TrainStats {
        let key = self.counts.non_finite_key.load(Relaxed);
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
        }
    }

    /// Appends the whole state: what [`Trainer::decode`] makes of it continues bit for bit.
    pub fn encode(&self, out: &mut Encoder) {
        encode_settings(&self.spec, out);
        let c = &self.counts;
        out.put_u64(self.deltas).put_u64(c.samples).put_u64(c.corrections).put_u64(c.refused_samples);
        out.put_u64(c.updates).put_u64(c.non_finite.load(Relaxed)).put_u64(c.non_finite_key.load(Relaxed));
        out.put_u64(c.not_admitted.load(Relaxed));
        self.validation.encode(out);
        self.table.encode(out);
    }

    /// Reads back what [`Trainer::encode`] wrote. Refuses the state of other settings.
    pub fn decode(spec: &TrainSpec, threads: usize, from: &mut Decoder) -> Result<Self> {
        check_settings(spec, from)?;
        let mut next = || from.u64();
        let (deltas, samples, corrections, refused_samples) = (next()?, next()?, next()?, next()?);
        let updates = next()?;
        let (non_finite, non_finite_key, not_admitted) = (next()?.into(), next()?.into(), next()?.into());
        let counts =
            Counts { samples, corrections, refused_samples, updates, non_finite, non_finite_key, not_admitted };
        let validation = Validation::decode(spec.validate_window, spec.pending_max, from)?;
        let table = ParamTable::decode(spec.entries_max, threads, from)?;
        Ok(Self { deltas, counts, ..Self::with_table(spec, threads, table, validation) })
    }
}

/// Settings the state depends on.
fn encode_settings(spec: &TrainSpec, out: &mut Encoder) {
    out.put_str(LEARNERS[0]);
    for x in [spec.alpha, spec.beta, spec.l1, spec.l2] {
        out.put_f64(x);
    }
    out.put_u64(spec.batch_size as u64).put_u64(spec.validate_window);
}

fn check_settings(spec: &TrainSpec, from: &mut Decoder) -> Result<()> {
    let learner = from.str()?;
    if learner != LEARNERS[0] {
        return Err(Error::conflict(format!("the checkpoint is of learner '{learner}', not '{}'", LEARNERS[0])));
    }
    let differs = |name: &str, was: f64, is: f64| match was.to_bits() == is.to_bits() {
        true => Ok(()),
        false => Err(Error::conflict(format!(
            "the checkpoint was made with {name} = {was}, now it is {is}; set it back or train under another name"
        ))),
    };
    differs("model.alpha", from.f64()?, spec.alpha)?;
    differs("model.beta", from.f64()?, spec.beta)?;
    differs("model.l1", from.f64()?, spec.l1)?;
    differs("model.l2", from.f64()?, spec.l2)?;
    differs("train.batch_size", from.u64()? as f64, spec.batch_size as f64)?;
    differs("validate.window", from.u64()? as f64, spec.validate_window as f64)
}

impl SampleBatch<'_> {
    /// Whatever is wrong here is a mistake of the caller, and would be learned for ever.
    fn check(&self) {
        let rows = self.labels.len();
        let lengths = [self.features.len(), self.kinds.len(), self.seqs.len(), self.oracle.map_or(rows, <[f64]>::len)];
        assert_eq!(lengths, [rows; 4], "lengths of features, kinds, seqs and oracle");
        for (i, pair) in self.kinds.iter().enumerate().filter(|(_, kind)| **kind == SampleKind::Retract) {
            assert_eq!(self.kinds.get(i + 1), Some(&SampleKind::Correct), "row {i} is {pair:?}, and the next");
        }
    }
}

impl Scratch {
    fn make_room(&mut self, batch: &SampleBatch, batch_size: usize) {
        let rows = batch.labels.len();
        let mut features_max = 0;
        for begin in (0..rows).step_by(batch_size) {
            let end = rows.min(begin + batch_size);
            features_max = features_max.max(batch.features.range(end - 1).end - batch.features.range(begin).start);
        }
        let grow = |cells: &mut Vec<AtomicU32>, len: usize| {
            if cells.len() < len {
                cells.resize_with(len, AtomicU32::default);
            }
        };
        grow(&mut self.logits, rows);
        grow(&mut self.residuals, rows);
        grow(&mut self.places, features_max);
    }
}

/// For each row whether it was refused; empty when none was.
fn refused_rows(features: &Features) -> Vec<bool> {
    let mut refused = Vec::new();
    if !features.refused.is_empty() {
        refused.resize(features.len(), false);
        features.refused.iter().for_each(|(row, _)| refused[*row as usize] = true);
    }
    refused
}

#[inline(always)]
fn is_refused(refused: &[bool], row: usize) -> bool {
    !refused.is_empty() && refused[row]
}
