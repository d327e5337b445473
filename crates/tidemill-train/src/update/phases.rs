//! The two phases of a mini-batch, for one of its threads.
//!
//! In phase 1 nobody writes parameters, in phase 2 each part of them has one writer; the caller sees to it that
//! one ends before the other begins.

use std::{
    ops::Range,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};
use tidemill_model::{
    Features, ParamTable,
    logit::logit,
    math::sigmoid,
    optimizer::Ftrl,
    params::{ABSENT, SHARDS, Shard, Updated, shard_of},
};
use tidemill_stream::join::SampleKind;

use super::{Counts, SampleBatch, Scratch, is_refused};

/// How many features ahead memory is asked for: about as many as it takes to hide one access.
const AHEAD: usize = 16;

/// What a thread needs for its share of a batch.
pub(super) struct Work<'a> {
    pub(super) batch: &'a SampleBatch<'a>,
    pub(super) refused: &'a [bool],
    pub(super) batch_size: usize,
    pub(super) ftrl: Ftrl,
    pub(super) table: &'a ParamTable,
    pub(super) scratch: &'a Scratch,
    pub(super) counts: &'a Counts,
}

impl Work<'_> {
    /// Phase 1: worker `worker`'s slice of the mini-batch. Reads parameters, writes logits, residuals and places.
    pub(super) fn predict(&self, mini_batch: &Range<usize>, worker: usize, workers: usize) {
        let reading = self.table.read();
        let shards = reading.shards();
        let slice = share(mini_batch.clone(), worker, workers);
        if slice.is_empty() {
            return;
        }
        let Features { keys, values, .. } = self.batch.features;
        let first = self.batch.features.range(mini_batch.start).start;
        let begin = self.batch.features.range(slice.start).start;
        let end = self.batch.features.range(slice.end - 1).end;
        let ahead = |i: usize| {
            if let Some(key) = keys.get(i).filter(|_| i < end) {
                shards[shard_of(*key)].prefetch(*key);
            }
        };
        (begin..begin + AHEAD).for_each(ahead);
        for row in slice {
            if self.batch.kinds[row] == SampleKind::Retract {
                // Its correction does the work of both.
                self.scratch.residuals[row].store(0f32.to_bits(), Relaxed);
                continue;
            }
            let range = self.batch.features.range(row);
            let logit = logit(&keys[range.clone()], &values[range.clone()], |i, key| {
                ahead(range.start + i + AHEAD);
                self.weight(&shards, key, &self.scratch.places[range.start + i - first])
            });
            self.scratch.logits[row].store(logit.to_bits(), Relaxed);
            let residual = self.residual(row, logit, &shards);
            self.scratch.residuals[row].store(residual.to_bits(), Relaxed);
        }
    }

    #[inline(always)]
    fn weight(&self, shards: &[&Shard; SHARDS], key: u64, seen: &AtomicU32) -> f32 {
        let shard = shards[shard_of(key)];
        let place = shard.find(key);
        seen.store(place, Relaxed);
        if place == ABSENT {
            return 0.0;
        }
        let entry = shard.at(place);
        self.ftrl.weight(entry.z, entry.n)
    }

    /// The gradient of the logistic loss by the logit: p - y. A correction takes the early label's gradient back and puts
    /// the final one's in its place, in which p cancels out: y_retracted - y_correct.
    #[inline(always)]
    fn residual(&self, row: usize, logit: f32, shards: &[&Shard; SHARDS]) -> f32 {
        if is_refused(self.refused, row) {
            self.scratch.logits[row].store(f32::NAN.to_bits(), Relaxed);
            return 0.0;
        }
        match self.batch.kinds[row] {
            SampleKind::Retract => 0.0,
            SampleKind::Correct => self.batch.labels[row - 1] - self.batch.labels[row],
            SampleKind::Final | SampleKind::Early if logit.is_nan() => {
                self.refuse_sample(row, shards);
                0.0
            }
            SampleKind::Final | SampleKind::Early => sigmoid(logit) - self.batch.labels[row],
        }
    }

    /// The logit is not a number: some contribution was infinite. Names the first such key.
    #[cold]
    fn refuse_sample(&self, row: usize, shards: &[&Shard; SHARDS]) {
        let (keys, values) = self.batch.features.sample(row);
        let infinite = |(key, value): &(&u64, &f32)| {
            let shard = shards[shard_of(**key)];
            let place = shard.find(**key);
            place != ABSENT && {
                let entry = shard.at(place);
                !(self.ftrl.weight(entry.z, entry.n) * **value).is_finite()
            }
        };
        let key = keys.iter().zip(values).find(infinite).map_or(keys[0], |(key, _)| *key);
        self.counts.refuse_non_finite(key);
    }

    /// Phase 2: all samples of the mini-batch, for the shards that worker `worker` owns.
    pub(super) fn learn(&self, mini_batch: &Range<usize>, worker: usize, workers: usize) {
        let Features { keys, values, .. } = self.batch.features;
        let first = self.batch.features.range(mini_batch.start).start;
        let mut not_admitted = 0;
        for part in (worker..self.table.parts()).step_by(workers) {
            let mut part = self.table.write(part);
            for row in mini_batch.clone() {
                let residual = f32::from_bits(self.scratch.residuals[row].load(Relaxed));
                if residual == 0.0 {
                    continue;
                }
                let range = self.batch.features.range(row);
                let own = part.own(&keys[range.clone()]);
                for i in range.start + own.start..range.start + own.end {
                    let g = residual * values[i];
                    // Nothing to learn, and no reason to make an entry.
                    if g == 0.0 {
                        continue;
                    }
                    let hint = self.scratch.places[i - first].load(Relaxed);
                    match part.shard_mut(keys[i]).update(keys[i], hint, |z, n| self.ftrl.step(z, n, g)) {
                        Updated::Done => {}
                        Updated::NotAdmitted => not_admitted += 1,
                        Updated::NotFinite => self.counts.refuse_non_finite(keys[i]),
                    }
                }
            }
        }
        self.counts.not_admitted.fetch_add(not_admitted, Relaxed);
    }
}

impl Counts {
    #[cold]
    fn refuse_non_finite(&self, key: u64) {
        self.non_finite.fetch_add(1, Relaxed);
        self.non_finite_key.fetch_min(key, Relaxed);
    }
}

/// The rows among `rows` that worker `worker` of `workers` takes.
fn share(rows: Range<usize>, worker: usize, workers: usize) -> Range<usize> {
    let cut = |i: usize| rows.start + rows.len() * i / workers;
    cut(worker)..cut(worker + 1)
}
