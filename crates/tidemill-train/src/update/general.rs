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
    params::{ABSENT, Part, Place, part_of},
    simd::{Kernel, largest_bits, wide},
    start,
};
use tidemill_stream::join::SampleKind;

use super::{Counts, SampleBatch, is_refused};

/// Features ahead for which memory is asked.
const AHEAD: usize = 24;
const NO_PANIC: &str = "nobody panics while holding it";

/// A block of every entry, with its optimizer.
#[derive(Clone, Debug)]
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
    width: usize,
    ends: Vec<u32>,
    params: Vec<f32>,
    places: Vec<Place>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
    work: Vec<f32>,
    seeds: Vec<u64>,
    gradients: Vec<f32>,
    dense_gradients: Vec<f32>,
}

/// What all threads need for a batch.
pub(super) struct Work<'a> {
    pub(super) batch: &'a SampleBatch<'a>,
    pub(super) refused: &'a [bool],
    pub(super) batch_size: usize,
    pub(super) learner: &'a dyn Learner,
    pub(super) blocks: &'a [EntryBlock],
    pub(super) loss: Loss,
    pub(super) rate: f32,
    pub(super) clip: Clip,
    pub(super) seed: u64,
    pub(super) admit_after: u8,
    pub(super) table: &'a ParamTable,
    pub(super) dense: &'a Dense,
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
            let parts = self.table.read_all();
            let parts: Vec<&Part> = parts.iter().map(|part| &**part).collect();
            for i in (worker..rows.len().div_ceil(self.learner.slice_samples())).step_by(workers) {
                self.predict(&rows, i, &parts);
            }
            return;
        }
        for part in (worker..self.table.parts()).step_by(workers) {
            wide(Learn { work: self, rows: &rows, part: &mut self.table.write(part), number: part });
        }
        if worker == 0 {
            self.learn_dense(&rows);
        }
    }

    fn slice_rows(&self, rows: &Range<usize>, i: usize) -> Range<usize> {
        let samples = self.learner.slice_samples();
        rows.start + i * samples..rows.end.min(rows.start + (i + 1) * samples)
    }

    fn predict(&self, rows: &Range<usize>, i: usize, parts: &[&Part]) {
        let rows = self.slice_rows(rows, i);
        let Features { keys, values, slots, ends, .. } = self.batch.features;
        let range = self.batch.features.range(rows.start).start..self.batch.features.range(rows.end - 1).end;
        let s = &mut *self.slices[i].lock().expect(NO_PANIC);
        s.width = self.blocks.last().map_or(0, |block| block.params.end);
        wide(Gather { work: self, keys: &keys[range.clone()], parts, s });
        s.ends.clear();
        s.ends.extend(ends[rows.clone()].iter().map(|end| end - range.start as u32));
        let outputs = self.learner.outputs();
        for (buffer, len) in [(&mut s.scores, rows.len() * outputs), (&mut s.slopes, rows.len() * outputs)] {
            buffer.clear();
            buffer.resize(len, 0.0);
        }
        s.gradients.resize(s.params.len(), 0.0);
        s.dense_gradients.clear();
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
            s.seeds.extend(self.batch.seqs[rows.clone()].iter().map(|seq| mix64(self.seed ^ seq)));
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
        if is_refused(self.refused, row) || self.batch.kinds[row] == SampleKind::Retract {
            return;
        }
        if scores.iter().any(|score| score.is_nan()) {
            self.counts.refuse_non_finite(self.batch.features.sample(row).0.first().copied().unwrap_or(0));
            return;
        }
        match self.batch.kinds[row] {
            SampleKind::Correct => {
                self.loss.corrections(scores, self.batch.labels[row - 1], self.batch.labels[row], slopes);
            }
            _ => self.loss.slopes(scores, self.batch.labels[row], slopes),
        }
        if let Some(weights) = self.batch.weights {
            slopes.iter_mut().for_each(|slope| *slope *= weights[row]);
        }
    }

    #[inline(always)]
    fn step(&self, part: &mut Part, key: u64, slot: u16, place: Place, gradients: &mut [f32]) -> u64 {
        let largest = largest_bits(gradients);
        // Nothing to learn, and no reason to make an entry.
        if largest == 0 {
            return 0;
        }
        if largest >= f32::INFINITY.to_bits() {
            self.counts.refuse_non_finite(key);
            return 0;
        }
        if place == ABSENT && part.locate(key) == ABSENT && !part.seen_often(key, self.admit_after) {
            return 1;
        }
        let Some(state) = part.row_mut(key, slot, place, |state| self.begin(key, state)) else { return 1 };
        for block in self.blocks {
            let gradient = &mut gradients[block.params.clone()];
            self.clip.apply(gradient);
            if !block.optimizer.step(&mut state[block.words.clone()], gradient, self.rate) {
                self.counts.refuse_non_finite(key);
            }
        }
        0
    }

    /// The state a new entry begins with: drawn by its key, so that the order in which keys come does not matter.
    fn begin(&self, key: u64, state: &mut [f32]) {
        let seed = mix64(key ^ self.seed);
        for block in self.blocks.iter().filter(|block| block.spread > 0.0) {
            let mut params = vec![0.0; block.params.len()];
            start::draw(mix64(seed.wrapping_add(block.params.start as u64)), block.spread, &mut params);
            block.optimizer.start(&params, &mut state[block.words.clone()]);
        }
    }

    /// One step of the dense parameters, with the mean gradient of the mini-batch.
    fn learn_dense(&self, rows: &Range<usize>) {
        if self.learner.dense_dimension() == 0 {
            return;
        }
        let mut sum = vec![0.0f32; self.learner.dense_dimension()];
        for i in 0..rows.len().div_ceil(self.learner.slice_samples()) {
            let s = self.slices[i].lock().expect(NO_PANIC);
            sum.iter_mut().zip(&s.dense_gradients).for_each(|(sum, g)| *sum += g);
        }
        let per_sample = 1.0 / rows.len() as f32;
        sum.iter_mut().for_each(|g| *g *= per_sample);
        self.clip.apply(&mut sum);
        let mut state = self.dense.state.lock().expect(NO_PANIC);
        if !self.dense.optimizer.step(&mut state, &sum, self.rate) {
            self.counts.refuse_non_finite(0);
        }
        self.dense.optimizer.read(&state, &mut self.dense.params.write().expect(NO_PANIC));
    }
}

/// Reads the parameters of some keys into a slice; zeros for those without an entry.
struct Gather<'a> {
    work: &'a Work<'a>,
    keys: &'a [u64],
    parts: &'a [&'a Part],
    s: &'a mut SliceScratch,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { work, keys, parts, s } = self;
        let width = s.width;
        let of = |key: u64| parts[part_of(key, parts.len())];
        s.places.clear();
        keys.iter().take(AHEAD).for_each(|key| _ = of(*key).prefetch(*key));
        for (i, key) in keys.iter().enumerate() {
            if let Some(next) = keys.get(i + AHEAD) {
                of(*next).prefetch(*next);
            }
            let place = of(*key).locate(*key);
            of(*key).prefetch_row(place);
            s.places.push(place);
        }
        s.params.resize(keys.len() * width, 0.0);
        for ((key, place), params) in keys.iter().zip(&s.places).zip(s.params.chunks_exact_mut(width)) {
            if *place == ABSENT {
                params.fill(0.0);
                continue;
            }
            let state = of(*key).row(*place);
            for block in work.blocks {
                block.optimizer.read(&state[block.words.clone()], &mut params[block.params.clone()]);
            }
        }
    }
}

/// Phase 2 for one part: its entries, in sample order.
struct Learn<'a> {
    work: &'a Work<'a>,
    rows: &'a Range<usize>,
    part: &'a mut Part,
    number: usize,
}

impl Kernel for Learn<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { work, rows, part, number } = self;
        let Features { keys, slots, .. } = work.batch.features;
        let (parts, outputs) = (work.table.parts(), work.learner.outputs());
        let mut not_admitted = 0;
        for i in 0..rows.len().div_ceil(work.learner.slice_samples()) {
            let rows = work.slice_rows(rows, i);
            let first = work.batch.features.range(rows.start).start;
            let s = &mut *work.slices[i].lock().expect(NO_PANIC);
            let width = s.width;
            for (j, row) in rows.enumerate() {
                if s.slopes[j * outputs..(j + 1) * outputs].iter().all(|slope| *slope == 0.0) {
                    continue;
                }
                for f in work.batch.features.range(row).filter(|f| part_of(keys[*f], parts) == number) {
                    let gradients = &mut s.gradients[(f - first) * width..][..width];
                    not_admitted += work.step(part, keys[f], slots[f], s.places[f - first], gradients);
                }
            }
        }
        work.counts.not_admitted.fetch_add(not_admitted, Relaxed);
    }
}
