//! Every learner, through the border of [`tidemill_model::Learner`]: entries are gathered, scored, and changed by gradients.
//!
//! Phase 1, by slices of the mini-batch: look up, read the parameters, score, take the slopes of the loss, and the gradient
//! of every parameter. Phase 2, by parts of the table: apply the gradients of each entry in sample order. Dense parameters
//! take one step per mini-batch with the mean over its samples, summed slice by slice. A slice is a fixed number of samples,
//! whoever computes it, so threads change no bit.

use std::{
    ops::Range,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tidemill_base::rng::mix64;
use tidemill_model::{
    Features, ParamTable,
    learner::{Learner, Slice},
    loss::Loss,
    optimizer::{Clip, Optimizer},
    params::{Part, Place},
    simd::{Kernel, wide},
};
use tidemill_stream::join::SampleKind;

use super::{
    Counts, Delayed, SampleBatch,
    entries::{Gather, Learn, Pairs},
    filter::Filter,
    is_refused,
    rules::Rules,
};

pub(super) const NO_PANIC: &str = "nobody panics while holding it";

/// A block of every entry, with its optimizer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EntryBlock {
    pub(super) optimizer: Optimizer,
    pub(super) spread: f32,
    /// Where its parameters stand among an entry's.
    pub(super) params: Range<usize>,
    /// Where its state stands among an entry's words.
    pub(super) words: Range<usize>,
}

/// Parameters that belong to no key, with their state.
pub(super) struct Dense {
    pub(super) optimizer: Optimizer,
    pub(super) params: RwLock<Vec<f32>>,
    pub(super) state: Mutex<Vec<f32>>,
}

/// What phase 1 leaves of a slice for phase 2.
#[derive(Default)]
pub(super) struct SliceScratch {
    /// Parameters of an entry.
    pub(super) width: usize,
    pub(super) params: Vec<f32>,
    pub(super) places: Vec<Place>,
    /// The number of each entry's row, where nothing but the row needs to be touched to change it.
    pub(super) rows: Vec<u32>,
    pub(super) unnoted: Vec<u32>,
    pub(super) pairs: Pairs,
    pub(super) slopes: Vec<f32>,
    pub(super) gradients: Vec<f32>,
    ends: Vec<u32>,
    scores: Vec<f32>,
    work: Vec<f32>,
    seeds: Vec<u64>,
    dense_gradients: Vec<f32>,
}

/// What all threads need for a batch.
pub(super) struct Work<'a> {
    pub(super) batch: &'a SampleBatch<'a>,
    pub(super) delayed: &'a Delayed,
    pub(super) refused: &'a [bool],
    pub(super) batch_size: usize,
    pub(super) learner: &'a dyn Learner,
    pub(super) rules: &'a Rules,
    pub(super) loss: Loss,
    pub(super) rate: f32,
    pub(super) clip: Clip,
    pub(super) seed: u64,
    /// Another in every pass: what is left out of a sample must not be the same each time it comes.
    pub(super) dropout_seed: u64,
    pub(super) table: &'a ParamTable,
    pub(super) dense: &'a Dense,
    /// `None`: gradients are applied whole.
    pub(super) filter: Option<&'a Filter>,
    pub(super) slices: &'a [Mutex<SliceScratch>],
    /// Of each row and output: bits of the score.
    pub(super) scores: &'a [AtomicU32],
    pub(super) counts: &'a Counts,
}

impl Work<'_> {
    /// Phases of a batch: two for each mini-batch.
    pub(super) fn phases(&self) -> usize {
        2 * self.batch.labels.len().div_ceil(self.batch_size)
    }

    /// Worker `worker`'s share of a phase.
    pub(super) fn phase(&self, phase: usize, worker: usize, workers: usize) {
        let begin = phase / 2 * self.batch_size;
        let rows = begin..self.batch.labels.len().min(begin + self.batch_size);
        if phase.is_multiple_of(2) {
            // All of the mini-batch before is counted by now, and nobody asks for a threshold in this phase.
            if worker == 0 {
                self.filter.into_iter().for_each(Filter::adapt);
            }
            let parts = self.table.read_all();
            let parts: Vec<&Part> = parts.iter().map(|part| &**part).collect();
            for i in (worker..rows.len().div_ceil(self.learner.slice_samples())).step_by(workers) {
                self.predict(&rows, i, &parts);
            }
            return;
        }
        for part in (worker..self.table.parts()).step_by(workers) {
            let table = &mut self.table.write(part);
            match self.rules.differ() {
                false => wide(Learn::<false> { work: self, rows: &rows, part: table, number: part }),
                true => wide(Learn::<true> { work: self, rows: &rows, part: table, number: part }),
            }
        }
        if worker == 0 {
            self.learn_dense(&rows);
        }
    }

    pub(super) fn slice_rows(&self, rows: &Range<usize>, i: usize) -> Range<usize> {
        let samples = self.learner.slice_samples();
        rows.start + i * samples..rows.end.min(rows.start + (i + 1) * samples)
    }

    fn predict(&self, rows: &Range<usize>, i: usize, parts: &[&Part]) {
        let rows = self.slice_rows(rows, i);
        let Features { keys, values, slots, ends, .. } = self.batch.features;
        let range = self.batch.features.range(rows.start).start..self.batch.features.range(rows.end - 1).end;
        let s = &mut *self.slices[i].lock().expect(NO_PANIC);
        s.width = self.rules.width();
        let (keys_of, slots_of) = (&keys[range.clone()], &slots[range.clone()]);
        match self.rules.differ() {
            false => wide(Gather::<false> { work: self, keys: keys_of, slots: slots_of, parts, s }),
            true => wide(Gather::<true> { work: self, keys: keys_of, slots: slots_of, parts, s }),
        }
        s.ends.clear();
        s.ends.extend(ends[rows.clone()].iter().map(|end| end - range.start as u32));
        let outputs = self.learner.outputs();
        for (buffer, len) in [(&mut s.scores, rows.len() * outputs), (&mut s.slopes, rows.len() * outputs)] {
            buffer.clear();
            buffer.resize(len, 0.0);
        }
        s.gradients.resize(s.params.len(), 0.0);
        s.dense_gradients.resize(self.learner.dense_dimension(), 0.0);
        let dense = self.dense.params.read().expect(NO_PANIC);
        let slice = Slice {
            ends: &s.ends,
            keys: &keys[range.clone()],
            values: &values[range.clone()],
            slots: &slots[range],
            params: &s.params,
            dropout: None,
        };
        self.learner.forward(&slice, &dense, &mut s.work, &mut s.scores);
        for (score, kept) in s.scores.iter().zip(&self.scores[rows.start * outputs..]) {
            kept.store(score.to_bits(), Relaxed);
        }
        let mut slice = slice;
        if self.learner.has_dropout() {
            s.seeds.clear();
            s.seeds.extend(self.batch.seqs[rows.clone()].iter().map(|seq| mix64(self.dropout_seed ^ seq)));
            slice.dropout = Some(&s.seeds);
            self.learner.forward(&slice, &dense, &mut s.work, &mut s.scores);
        }
        for (j, row) in rows.enumerate() {
            let of_row = j * outputs..(j + 1) * outputs;
            self.slopes(row, &s.scores[of_row.clone()], &mut s.slopes[of_row]);
        }
        self.learner.backward(&slice, &dense, &mut s.work, &s.slopes, &mut s.gradients, &mut s.dense_gradients);
    }

    /// The slopes of the loss by a row's scores; zeros learn nothing.
    fn slopes(&self, row: usize, scores: &[f32], slopes: &mut [f32]) {
        let kind = self.batch.kinds[row];
        let is_learned = !matches!(kind, SampleKind::Retract | SampleKind::Unlearned | SampleKind::Closed);
        if is_refused(self.refused, row) || !is_learned {
            return;
        }
        if scores.iter().any(|score| score.is_nan()) {
            self.counts.refuse_non_finite(self.batch.features.sample(row).0.first().copied().unwrap_or(0));
            return;
        }
        let (raw, shifted) = (scores[0], [scores[0] + self.delayed.score_offset]);
        let scores = if scores.len() == 1 { &shifted[..] } else { scores };
        if kind == SampleKind::Correct {
            return self.batch.correct(row, self.loss, scores, slopes);
        }
        self.loss.slopes(scores, self.batch.labels[row], slopes);
        if let [slope] = slopes {
            *slope *= self.delayed.factor(kind, self.batch.labels[row], raw);
        }
        // Plainly scaled: what a step does to the score of a product of parameters or of layers has no closed form, and of
        // the linear models that come here, steps of Adam are of one length whatever the gradient's, and gradients applied
        // in part move no score when they come.
        if let Some(weights) = self.batch.weights {
            slopes.iter_mut().for_each(|slope| *slope *= weights[row]);
        }
    }

    /// One step of the dense parameters, with the mean gradient of the mini-batch.
    fn learn_dense(&self, rows: &Range<usize>) {
        if self.learner.dense_dimension() == 0 {
            return;
        }
        // The first slice's sum is what the others are added to: it is not needed any more.
        let mut sum = std::mem::take(&mut self.slices[0].lock().expect(NO_PANIC).dense_gradients);
        let others: Vec<_> = self.slices[1..rows.len().div_ceil(self.learner.slice_samples())]
            .iter()
            .map(|slice| slice.lock().expect(NO_PANIC))
            .collect();
        let others: Vec<&[f32]> = others.iter().map(|s| &s.dense_gradients[..]).collect();
        // What was sampled out is no part of the mean.
        let left_out = self.batch.kinds[rows.clone()].iter().filter(|kind| **kind == SampleKind::Unlearned).count();
        let per_sample = 1.0 / (rows.len() - left_out).max(1) as f32;
        wide(Mean { sum: &mut sum, others: &others, per_sample });
        self.clip.apply(&mut sum);
        let mut state = self.dense.state.lock().expect(NO_PANIC);
        // A gradient that was refused must not wait either.
        let is_good = self.filter.is_none_or(|filter| filter.pass_dense(&mut sum));
        if !is_good
            || !wide(DenseStep { optimizer: &self.dense.optimizer, state: &mut state, gradient: &sum, rate: self.rate })
        {
            self.counts.refuse_non_finite(0);
        }
        self.dense.optimizer.read(&state, &mut self.dense.params.write().expect(NO_PANIC));
        self.slices[0].lock().expect(NO_PANIC).dense_gradients = sum;
    }
}

/// The sum of the slices' gradients, slice by slice, then scaled.
struct Mean<'a> {
    sum: &'a mut [f32],
    others: &'a [&'a [f32]],
    per_sample: f32,
}

impl Kernel for Mean<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // Block by block, so that a sum is written once and not once a slice.
        for (i, sum) in self.sum.chunks_mut(MEAN_BLOCK).enumerate() {
            for other in self.others {
                let other = &other[i * MEAN_BLOCK..][..sum.len()];
                sum.iter_mut().zip(other).for_each(|(sum, g)| *sum += g);
            }
            sum.iter_mut().for_each(|g| *g *= self.per_sample);
        }
    }
}

/// Numbers that stay in the nearest cache.
const MEAN_BLOCK: usize = 1024;

/// A step of all dense parameters.
struct DenseStep<'a> {
    optimizer: &'a Optimizer,
    state: &'a mut [f32],
    gradient: &'a [f32],
    rate: f32,
}

impl Kernel for DenseStep<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        self.optimizer.step(self.state, self.gradient, self.rate)
    }
}
