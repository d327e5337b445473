//! Linear models whose entries stand beside their keys: the fastest path, at the speed of the memory they lie in.
//!
//! A part of the table adds up its own features of every sample of the mini-batch; the parts' sums make the score; each
//! part then changes its own entries. So a part's entries are touched by one thread only, once per mini-batch, and between
//! two mini-batches the threads meet once. Sums are laid out by group of shards and added in one tree
//! ([`tidemill_model::learner::add_groups`]): any number of parts gives the same bits.

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tidemill_model::{
    Features, ParamTable,
    learner::{GROUPS, group_of},
    loss::Loss,
    optimizer::{Clip, Pair},
    params::{ABSENT, Part, Place, Updated, part_of},
};
use tidemill_stream::join::SampleKind;

use super::{Counts, SampleBatch, is_refused};

/// What a part keeps from predicting until it learns.
#[derive(Default)]
pub(super) struct Own {
    /// Which features of the mini-batch are this part's, by number; empty while there is one part: all are.
    features: Vec<u32>,
    /// Their keys.
    keys: Vec<u64>,
    /// For each sample where its own features end.
    ends: Vec<u32>,
    /// Where the entry of each own feature was seen.
    places: Vec<Place>,
}

/// What all parts need for a batch.
pub(super) struct Work<'a, R> {
    pub(super) batch: &'a SampleBatch<'a>,
    pub(super) refused: &'a [bool],
    pub(super) batch_size: usize,
    pub(super) rule: R,
    pub(super) rate: f32,
    pub(super) loss: Loss,
    pub(super) clip: Clip,
    pub(super) admit_after: u8,
    pub(super) table: &'a ParamTable,
    pub(super) own: &'a [Mutex<Own>],
    /// Of each row and part: bits of the part's sum.
    pub(super) sums: &'a [AtomicU32],
    /// Of each row: bits of the score.
    pub(super) scores: &'a [AtomicU32],
    pub(super) counts: &'a Counts,
}

impl<R: Pair> Work<'_, R> {
    /// Phases of a batch: in each one mini-batch is predicted and the one before it learned.
    pub(super) fn phases(&self) -> usize {
        self.batch.labels.len().div_ceil(self.batch_size) + 1
    }

    fn mini_batch(&self, i: usize) -> Range<usize> {
        let rows = self.batch.labels.len();
        (i * self.batch_size).min(rows)..((i + 1) * self.batch_size).min(rows)
    }

    /// The whole batch, by one thread, in a table of one part.
    pub(super) fn alone(&self) {
        let mut table = self.table.write(0);
        let mut own = self.own[0].lock().expect("nobody panics while holding it");
        let mut slopes = Vec::new();
        for i in 0..self.phases() - 1 {
            let rows = self.mini_batch(i);
            let first = self.batch.features.range(rows.start).start;
            let last = self.batch.features.range(rows.end - 1).end;
            table.locate_all(&self.batch.features.keys[first..last], &mut own.places);
            slopes.clear();
            for row in rows.clone() {
                let range = self.batch.features.range(row);
                let sums = self.sum(&table, &own.places[range.start - first..range.end - first], range, |i| i);
                slopes.push(self.slope(row, tree(&sums)));
            }
            let mut not_admitted = 0;
            for (row, slope) in rows.zip(&slopes).filter(|(_, slope)| **slope != 0.0) {
                for i in self.batch.features.range(row) {
                    not_admitted += self.step(&mut table, i, own.places[i - first], *slope);
                }
            }
            self.counts.not_admitted.fetch_add(not_admitted, Relaxed);
        }
    }

    /// One of several parts' share of a phase: learns mini-batch `phase - 1`, then predicts mini-batch `phase`.
    pub(super) fn phase(&self, phase: usize, part: usize) {
        let parts = self.table.parts();
        let mut table = self.table.write(part);
        let mut own = self.own[part].lock().expect("nobody panics while holding it");
        if phase > 0 {
            self.learn(self.mini_batch(phase - 1), &mut table, &own, part == 0);
        }
        if phase + 1 < self.phases() {
            self.predict(self.mini_batch(phase), &table, &mut own, (part, parts));
        }
    }

    fn predict(&self, rows: Range<usize>, table: &Part, own: &mut Own, (part, parts): (usize, usize)) {
        let Features { keys, .. } = self.batch.features;
        own.features.clear();
        own.ends.clear();
        for row in rows.clone() {
            let range = self.batch.features.range(row);
            // Without a branch: whose a feature is cannot be guessed.
            let mut end = own.features.len();
            own.features.resize(end + range.len(), 0);
            for i in range {
                own.features[end] = i as u32;
                end += (part_of(keys[i], parts) == part) as usize;
            }
            own.features.truncate(end);
            own.ends.push(end as u32);
        }
        own.keys.clear();
        own.keys.extend(own.features.iter().map(|i| keys[*i as usize]));
        table.locate_all(&own.keys, &mut own.places);
        let mut begin = 0;
        for (row, end) in rows.zip(&own.ends) {
            let range = begin..*end as usize;
            begin = range.end;
            let sums = self.sum(table, &own.places[range.clone()], range, |i| own.features[i] as usize);
            self.sums[row * parts + part].store(tree(&sums).to_bits(), Relaxed);
        }
    }

    fn learn(&self, rows: Range<usize>, table: &mut Part, own: &Own, is_first: bool) {
        let parts = self.table.parts();
        let mut not_admitted = 0;
        let mut begin = 0;
        for (row, end) in rows.zip(&own.ends) {
            let range = begin..*end as usize;
            begin = range.end;
            let mut sums = [0.0; GROUPS];
            for (sum, bits) in sums.iter_mut().step_by(GROUPS / parts).zip(&self.sums[row * parts..]) {
                *sum = f32::from_bits(bits.load(Relaxed));
            }
            let slope = self.slope_by(row, tree(&sums), is_first);
            if slope != 0.0 {
                for j in range {
                    not_admitted += self.step(table, own.features[j] as usize, own.places[j], slope);
                }
            }
        }
        self.counts.not_admitted.fetch_add(not_admitted, Relaxed);
    }

    /// Adds up weight times value by group.
    #[inline(always)]
    fn sum(
        &self,
        table: &Part,
        places: &[Place],
        range: Range<usize>,
        feature: impl Fn(usize) -> usize,
    ) -> [f32; GROUPS] {
        let Features { keys, values, .. } = self.batch.features;
        let mut groups = [0.0f32; GROUPS];
        for (i, place) in range.zip(places) {
            if *place != ABSENT {
                let (a, b) = table.pair(*place);
                groups[group_of(keys[feature(i)])] += self.rule.weight(a, b) * values[feature(i)];
            }
        }
        groups
    }

    #[inline(always)]
    fn step(&self, table: &mut Part, i: usize, place: Place, slope: f32) -> u64 {
        let Features { keys, values, .. } = self.batch.features;
        let mut gradient = [slope * values[i]];
        self.clip.apply(&mut gradient);
        let [gradient] = gradient;
        // Nothing to learn, and no reason to make an entry.
        if gradient == 0.0 {
            return 0;
        }
        if place == ABSENT && self.admit_after > 1 && !self.may_enter(table, keys[i]) {
            return 1;
        }
        match table.update_pair(keys[i], place, |a, b| self.rule.step(a, b, gradient, self.rate)) {
            Updated::Done => 0,
            Updated::NotAdmitted => 1,
            Updated::NotFinite => {
                self.counts.refuse_non_finite(keys[i]);
                0
            }
        }
    }

    /// Whether a key has been seen often enough, or has an entry since it was predicted.
    #[inline(never)]
    fn may_enter(&self, table: &mut Part, key: u64) -> bool {
        table.locate(key) != ABSENT || table.seen_often(key, self.admit_after)
    }

    #[inline(always)]
    fn slope(&self, row: usize, score: f32) -> f32 {
        self.slope_by(row, score, true)
    }

    /// The slope of the loss by the score; 0 learns nothing. The first part also keeps the score and counts.
    #[inline(always)]
    fn slope_by(&self, row: usize, score: f32, is_first: bool) -> f32 {
        let is_refused = is_refused(self.refused, row);
        if is_first {
            let kept = if is_refused { f32::NAN } else { score };
            self.scores[row].store(kept.to_bits(), Relaxed);
        }
        if is_refused {
            return 0.0;
        }
        let mut slope = [0.0];
        match self.batch.kinds[row] {
            SampleKind::Retract => {}
            _ if score.is_nan() => {
                if is_first {
                    self.counts.refuse_non_finite(self.nan_key(row));
                }
            }
            SampleKind::Correct => {
                self.loss.corrections(&[score], self.batch.labels[row - 1], self.batch.labels[row], &mut slope);
            }
            SampleKind::Final | SampleKind::Early => {
                self.loss.slopes(&[score], self.batch.labels[row], &mut slope);
            }
        }
        slope[0] * self.batch.weights.map_or(1.0, |weights| weights[row])
    }

    /// The score is not a number: some contribution was infinite. The key of the largest value names it well enough.
    #[cold]
    fn nan_key(&self, row: usize) -> u64 {
        let (keys, values) = self.batch.features.sample(row);
        let largest = values.iter().zip(keys).max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
        largest.map_or(0, |(_, key)| *key)
    }
}

/// The sum of the groups' sums, in the one tree.
#[inline(always)]
fn tree(groups: &[f32; GROUPS]) -> f32 {
    tidemill_model::learner::add_groups(groups)
}
