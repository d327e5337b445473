//! Linear models whose entries stand beside their keys: the fastest path, at the speed of the memory they lie in.
//!
//! A part of the table adds up its own features of every sample of the mini-batch; the parts' sums make the score; each
//! part then changes its own entries. So a part's entries are touched by one thread only, once per mini-batch, and between
//! two mini-batches the threads meet once. Sums are laid out by group of shards and added in one tree
//! ([`tidemill_model::learner::add_groups`]): any number of parts gives the same bits.

use std::{
    mem::take,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tidemill_model::{
    ParamTable,
    learner::{GROUPS, group_of},
    loss::Loss,
    optimizer::{Clip, Pair},
    params::{ABSENT, Located, Part, Updated, Words, part_of},
    simd::Kernel,
};
use tidemill_stream::join::SampleKind;

use super::{Counts, Delayed, SampleBatch, is_refused};

/// A thread's share of an update, to be compiled for wide registers.
pub(super) enum Share<'a, R> {
    /// All of it.
    Alone(&'a Work<'a, R>),
    /// One part's share of a phase.
    Phase(&'a Work<'a, R>, usize, usize),
}

impl<R: Pair> Kernel for Share<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self {
            Share::Alone(work) => work.alone(),
            Share::Phase(work, phase, part) => work.phase(phase, part),
        }
    }
}

/// Numbers are stepped by so many, so that registers are full.
const LANES: usize = 8;

/// Features of a mini-batch, sample after sample.
#[derive(Clone, Copy, Default)]
struct Rows<'a> {
    keys: &'a [u64],
    values: &'a [f32],
    /// For each sample where its features end, counted from `first`.
    ends: &'a [u32],
    first: u32,
}

/// What a part keeps from predicting until it learns.
#[derive(Default)]
pub(super) struct Own {
    /// The part's own features of the mini-batch, and of the next; empty while there is one part: all are.
    picked: Picked,
    next: Picked,
    /// Where their entries are.
    located: Located,
    /// Weight times value of each.
    products: Vec<f32>,
    /// How far each moves the score when the slope is 1; empty while samples have no weights.
    moves: Vec<f32>,
    slopes: Vec<f32>,
    lanes: Lanes,
}

/// Features of a mini-batch that are of one part.
#[derive(Default)]
struct Picked {
    keys: Vec<u64>,
    values: Vec<f32>,
    ends: Vec<u32>,
}

/// One sample on its way through an update: as many whole registers as it needs, and maybe more behind them.
#[derive(Default)]
struct Lanes {
    words: Words,
    gradients: Vec<f32>,
}

/// What all parts need for a batch.
pub(super) struct Work<'a, R> {
    pub(super) batch: &'a SampleBatch<'a>,
    pub(super) delayed: &'a Delayed,
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
    /// The same of how far a slope of 1 moves the score; empty while samples have no weights.
    pub(super) moves: &'a [AtomicU32],
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

    /// The features of some samples, all of them.
    fn rows(&self, rows: &Range<usize>) -> Rows<'_> {
        let features = self.batch.features;
        let first = features.range(rows.start).start;
        let all = first..features.range(rows.end - 1).end;
        Rows {
            keys: &features.keys[all.clone()],
            values: &features.values[all],
            ends: &features.ends[rows.clone()],
            first: first as u32,
        }
    }

    /// The whole batch, by one thread, in a table of one part.
    #[inline(always)]
    pub(super) fn alone(&self) {
        let mut table = self.table.write(0);
        let own = &mut *self.own[0].lock().expect("nobody panics while holding it");
        for i in 0..self.phases() - 1 {
            let mini_batch = self.mini_batch(i);
            let rows = self.rows(&mini_batch);
            table.locate_pairs(rows.keys, &mut own.located);
            self.multiply(&own.located, rows.values, &mut own.products);
            own.slopes.clear();
            self.measure(&own.located, rows.values, &mut own.moves);
            for (row, range) in mini_batch.zip(rows.ranges()) {
                let keys = &rows.keys[range.clone()];
                let score = sum(keys, &own.products[range.clone()]);
                own.slopes.push(self.slope_by(row, score, || sum(keys, &own.moves[range]), true));
            }
            let next = self.mini_batch(i + 1);
            let next = if next.is_empty() { Rows::default() } else { self.rows(&next) };
            self.learn(&mut table, rows, next, own);
        }
    }

    /// One of several parts' share of a phase: learns mini-batch `phase - 1`, then predicts mini-batch `phase`.
    #[inline(always)]
    pub(super) fn phase(&self, phase: usize, part: usize) {
        let parts = self.table.parts();
        let mut table = self.table.write(part);
        let own = &mut *self.own[part].lock().expect("nobody panics while holding it");
        let has_next = phase + 1 < self.phases();
        if has_next {
            self.pick(self.mini_batch(phase), &mut own.next, (part, parts));
        }
        if phase > 0 {
            own.slopes.clear();
            for row in self.mini_batch(phase - 1) {
                let of_row = row * parts..(row + 1) * parts;
                let score = sum_of_parts(&self.sums[of_row.clone()]);
                own.slopes.push(self.slope_by(row, score, || sum_of_parts(&self.moves[of_row]), part == 0));
            }
            // While the part's own features are read, the rest is written.
            let (picked, next) = (take(&mut own.picked), take(&mut own.next));
            let rows_next = if has_next { next.rows() } else { Rows::default() };
            self.learn(&mut table, picked.rows(), rows_next, own);
            (own.picked, own.next) = (picked, next);
        }
        if has_next {
            std::mem::swap(&mut own.picked, &mut own.next);
            self.predict(self.mini_batch(phase), &table, own, (part, parts));
        }
    }

    /// Picks out a part's own features of a mini-batch.
    #[inline(always)]
    fn pick(&self, mini_batch: Range<usize>, picked: &mut Picked, (part, parts): (usize, usize)) {
        let rows = self.rows(&mini_batch);
        // Without a branch: whose a feature is cannot be guessed.
        picked.keys.resize(rows.keys.len(), 0);
        picked.values.resize(rows.keys.len(), 0.0);
        picked.ends.clear();
        let mut end = 0;
        for range in rows.ranges() {
            for i in range {
                (picked.keys[end], picked.values[end]) = (rows.keys[i], rows.values[i]);
                end += (part_of(rows.keys[i], parts) == part) as usize;
            }
            picked.ends.push(end as u32);
        }
        picked.keys.truncate(end);
        picked.values.truncate(end);
    }

    #[inline(always)]
    fn predict(&self, mini_batch: Range<usize>, table: &Part, own: &mut Own, (part, parts): (usize, usize)) {
        let rows = own.picked.rows();
        table.locate_pairs(rows.keys, &mut own.located);
        self.multiply(&own.located, rows.values, &mut own.products);
        self.measure(&own.located, rows.values, &mut own.moves);
        for (row, range) in mini_batch.zip(rows.ranges()) {
            let keys = &rows.keys[range.clone()];
            let score = sum(keys, &own.products[range.clone()]);
            self.sums[row * parts + part].store(score.to_bits(), Relaxed);
            if self.batch.weights.is_some() {
                self.moves[row * parts + part].store(sum(keys, &own.moves[range]).to_bits(), Relaxed);
            }
        }
    }

    /// Weight times value, of all features.
    #[inline(always)]
    fn multiply(&self, located: &Located, values: &[f32], products: &mut Vec<f32>) {
        let Words { a, b } = located.words();
        products.clear();
        let weights = a.iter().zip(b).map(|(a, b)| self.rule.weight(*a, *b));
        products.extend(weights.zip(values).map(|(weight, value)| weight * value));
    }

    /// How far each feature moves the score when the slope is 1: its rate times its value squared. Only for weights.
    #[inline(always)]
    fn measure(&self, located: &Located, values: &[f32], moves: &mut Vec<f32>) {
        if self.batch.weights.is_none() {
            return;
        }
        let Words { a, b } = located.words();
        let rates = a.iter().zip(b).map(|(a, b)| self.rule.rate_at(*a, *b) * self.rate);
        moves.clear();
        moves.extend(rates.zip(values).map(|(rate, value)| rate * value * value));
    }

    /// Applies the gradients of a mini-batch, in sample order. After each sample the entries of one of `next` are asked
    /// for: there is work until they are needed.
    #[inline(always)]
    fn learn(&self, table: &mut Part, rows: Rows, next: Rows, own: &mut Own) {
        let Own { located, slopes, lanes, .. } = own;
        let mut not_admitted = 0;
        let mut ahead = next.ranges();
        for (range, slope) in rows.ranges().zip(slopes) {
            if let Some(ahead) = ahead.next() {
                table.ask_pairs(&next.keys[ahead], located);
            }
            if *slope == 0.0 {
                continue;
            }
            let (keys, values) = (&rows.keys[range.clone()], &rows.values[range.clone()]);
            table.refresh(rows.keys, range.start, located);
            let places = &located.places()[range];
            lanes.set_gradients(values, *slope, &self.clip);
            if !self.step_all(table, keys, places, lanes) {
                not_admitted += self.step_absent(table, keys, places, &lanes.gradients);
            }
        }
        self.counts.not_admitted.fetch_add(not_admitted, Relaxed);
    }

    /// Steps the entries that are there; tells whether all are.
    #[inline(always)]
    fn step_all(&self, table: &mut Part, keys: &[u64], places: &[u32], lanes: &mut Lanes) -> bool {
        let lanes_used = places.len().next_multiple_of(LANES);
        let Lanes { words, gradients } = lanes;
        table.read_pairs(places, words);
        let absent = places.iter().fold(false, |absent, place| absent | (*place == ABSENT));
        let mut bad = false;
        let (a, b) = (&mut words.a[..lanes_used], &mut words.b[..lanes_used]);
        for ((a, b), g) in a.iter_mut().zip(b).zip(&gradients[..lanes_used]) {
            let (a_after, b_after) = self.rule.step(*a, *b, *g, self.rate);
            // Without a gradient nothing is learned.
            let learns = *g != 0.0;
            bad |= !R::is_good(a_after, b_after, *g) & learns;
            (*a, *b) = if learns { (a_after, b_after) } else { (*a, *b) };
        }
        match bad {
            false => table.write_pairs(keys, places, words),
            true => self.step_each(table, keys, places, gradients),
        }
        !absent
    }

    /// One by one, because some gradient is not good.
    #[cold]
    fn step_each(&self, table: &mut Part, keys: &[u64], places: &[u32], gradients: &[f32]) {
        for ((key, place), gradient) in keys.iter().zip(places).zip(gradients) {
            let step = |a, b| self.rule.checked_step(a, b, *gradient, self.rate);
            let has_work = *place != ABSENT && *gradient != 0.0;
            if has_work && table.update_pair(*key, *place, step) == Updated::NotFinite {
                self.counts.refuse_non_finite(*key);
            }
        }
    }

    /// Steps the entries that were not there when the mini-batch was predicted; returns how many were not admitted.
    #[inline(never)]
    fn step_absent(&self, table: &mut Part, keys: &[u64], places: &[u32], gradients: &[f32]) -> u64 {
        let all = keys.iter().zip(places).zip(gradients);
        all.filter(|((_, place), _)| **place == ABSENT)
            .map(|((key, _), gradient)| self.step(table, *key, *gradient))
            .sum()
    }

    /// Steps one entry that was not there when the mini-batch was predicted; returns 1 if it was not admitted.
    fn step(&self, table: &mut Part, key: u64, gradient: f32) -> u64 {
        // Nothing to learn, and no reason to make an entry.
        if gradient == 0.0 {
            return 0;
        }
        if self.admit_after > 1 && !self.may_enter(table, key) {
            return 1;
        }
        match table.update_pair(key, ABSENT, |a, b| self.rule.checked_step(a, b, gradient, self.rate)) {
            Updated::Done => 0,
            Updated::NotAdmitted => 1,
            Updated::NotFinite => {
                self.counts.refuse_non_finite(key);
                0
            }
        }
    }

    /// Whether a key has been seen often enough, or has an entry since it was predicted.
    #[inline(never)]
    fn may_enter(&self, table: &mut Part, key: u64) -> bool {
        table.locate(key) != ABSENT || table.seen_often(key, self.admit_after)
    }

    /// The slope of the loss by the score, of the sample's weight; 0 learns nothing. The first part also keeps the score
    /// and counts. `moves`: how far a slope of 1 moves the score.
    #[inline(always)]
    fn slope_by(&self, row: usize, score: f32, moves: impl FnOnce() -> f32, is_first: bool) -> f32 {
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
            SampleKind::Retract | SampleKind::Unlearned | SampleKind::Closed => {}
            _ if score.is_nan() => {
                if is_first {
                    self.counts.refuse_non_finite(self.nan_key(row));
                }
            }
            SampleKind::Correct => {
                self.batch.correct(row, self.loss, &[score + self.delayed.score_offset], &mut slope);
            }
            SampleKind::Final => {
                self.loss.slopes(&[score + self.delayed.score_offset], self.batch.labels[row], &mut slope);
            }
            kind @ (SampleKind::Early | SampleKind::Late) => {
                let label = self.batch.labels[row];
                self.loss.slopes(&[score + self.delayed.score_offset], label, &mut slope);
                slope[0] *= self.delayed.factor(kind, label, score);
            }
        }
        match (self.batch.weights.map(|weights| weights[row]), self.batch.kinds[row]) {
            (None, _) => slope[0],
            _ if slope[0] == 0.0 => 0.0,
            // A correction goes from one label to the other, whatever the prediction is; its weights are in it.
            (Some(_), SampleKind::Correct) => slope[0],
            (Some(weight), _) => {
                self.loss.weighted(score + self.delayed.score_offset, self.batch.labels[row], slope[0], weight, moves())
            }
        }
    }

    /// The score is not a number: some contribution was infinite. The key of the largest value names it well enough.
    #[cold]
    fn nan_key(&self, row: usize) -> u64 {
        let (keys, values) = self.batch.features.sample(row);
        let largest = values.iter().zip(keys).max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
        largest.map_or(0, |(_, key)| *key)
    }
}

impl Picked {
    #[inline(always)]
    fn rows(&self) -> Rows<'_> {
        Rows { keys: &self.keys, values: &self.values, ends: &self.ends, first: 0 }
    }
}

impl Lanes {
    /// Slope times value, for whole registers: what lies behind the last value has no gradient.
    #[inline(always)]
    fn set_gradients(&mut self, values: &[f32], slope: f32, clip: &Clip) {
        let lanes = values.len().next_multiple_of(LANES);
        if self.gradients.len() < lanes {
            self.words.resize(lanes);
            self.gradients.resize(lanes, 0.0);
        }
        let gradients = &mut self.gradients[..lanes];
        gradients[values.len()..].fill(0.0);
        for i in 0..values.len() {
            gradients[i] = slope * values[i];
        }
        if !clip.is_none() {
            gradients.iter_mut().for_each(|g| clip.apply(std::slice::from_mut(g)));
        }
    }
}

impl Rows<'_> {
    /// Where each sample's features stand.
    #[inline(always)]
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<'_> {
        let mut begin = 0;
        self.ends.iter().map(move |end| {
            let end = (end - self.first) as usize;
            std::mem::replace(&mut begin, end)..end
        })
    }
}

/// Adds up by group, then the groups' sums in the one tree.
#[inline(always)]
fn sum(keys: &[u64], products: &[f32]) -> f32 {
    let mut groups = [0.0f32; GROUPS];
    for (key, product) in keys.iter().zip(products) {
        groups[group_of(*key)] += product;
    }
    tree(&groups)
}

/// The sum of what the parts have added up of a row.
#[inline(always)]
fn sum_of_parts(sums: &[AtomicU32]) -> f32 {
    let mut groups = [0.0; GROUPS];
    for (group, bits) in groups.iter_mut().step_by(GROUPS / sums.len()).zip(sums) {
        *group = f32::from_bits(bits.load(Relaxed));
    }
    tree(&groups)
}

/// The sum of the groups' sums, in the one tree.
#[inline(always)]
fn tree(groups: &[f32; GROUPS]) -> f32 {
    tidemill_model::learner::add_groups(groups)
}
