//! Entries read and changed, with what can be computed side by side computed side by side.
//!
//! In: keys. Out: their parameters, gathered for a learner; then, from the gradients it made, entries that have taken a
//! step. A block of one parameter, the weight of a factorisation machine say, is read and changed for many entries at once,
//! to the same bits as one by one: nothing an optimizer does to one entry depends on another.

use std::ops::Range;

use tidemill_base::rng::mix64;
use tidemill_model::{
    Features,
    optimizer::Optimizer,
    params::{ABSENT, NO_ROW, Part, Place, part_of},
    simd::{Kernel, LANES, largest_bits},
    start,
};

use super::{
    filter::Filter,
    general::{EntryBlock, NO_PANIC, SliceScratch, Work},
    rules::{Rule, word_of_tick},
};

/// Features ahead for which memory is asked.
const AHEAD: usize = 24;
/// Entries ahead whose rows are asked for.
const ROWS_AHEAD: usize = 12;
/// Bytes that the nearer caches keep from phase 1 to phase 2, beside what learners work on.
const KEPT_NEAR: usize = 256 << 10;
/// Entries ahead whose rows are asked for where they are not near.
const FAR_AHEAD: usize = 32;
/// Entries changed at once: the features of a usual sample.
const PAIRS_MAX: usize = 64;

/// Reads the parameters of some keys into a slice; zeros for those without an entry. `BY_SLOT`: slots differ in how.
pub(super) struct Gather<'a, const BY_SLOT: bool> {
    pub(super) work: &'a Work<'a>,
    pub(super) keys: &'a [u64],
    pub(super) slots: &'a [u16],
    pub(super) parts: &'a [&'a Part],
    pub(super) s: &'a mut SliceScratch,
}

impl<const BY_SLOT: bool> Kernel for Gather<'_, BY_SLOT> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { work, keys, slots, parts, s } = self;
        let width = s.width;
        let of = |key: u64| parts[part_of(key, parts.len())];
        match parts {
            [part] => part.locate_all(keys, &mut s.places),
            _ => {
                s.places.clear();
                keys.iter().take(AHEAD).for_each(|key| _ = of(*key).prefetch(*key));
                for (i, key) in keys.iter().enumerate() {
                    if let Some(next) = keys.get(i + AHEAD) {
                        of(*next).prefetch(*next);
                    }
                    s.places.push(of(*key).locate(*key));
                }
            }
        }
        s.rows.resize(keys.len(), NO_ROW);
        s.unnoted.clear();
        s.params.resize(keys.len() * width, 0.0);
        let (pair, blocks) = match BY_SLOT {
            false => split(&work.rules.common().blocks),
            true => (None, &[][..]),
        };
        let SliceScratch { places, rows, unnoted, pairs, params, .. } = s;
        let all_keys = keys;
        for i in 0..ROWS_AHEAD {
            ask_row(parts, keys, places, rows, unnoted, i);
        }
        for (first, (keys, params)) in
            (0..).step_by(PAIRS_MAX).zip(keys.chunks(PAIRS_MAX).zip(params.chunks_mut(PAIRS_MAX * width)))
        {
            pairs.len = keys.len();
            for (i, (key, params)) in keys.iter().zip(params.chunks_exact_mut(width)).enumerate() {
                ask_row(parts, all_keys, places, rows, unnoted, first + i + ROWS_AHEAD);
                let row = rows[first + i];
                if row == NO_ROW {
                    of(*key).prefetch_count(*key);
                    params.fill(0.0);
                    (pairs.a[i], pairs.b[i]) = (0.0, 0.0);
                    continue;
                }
                let state = of(*key).numbered_row(row);
                if BY_SLOT {
                    work.rules.read(slots[first + i], state, params);
                    continue;
                }
                if let Some(pair) = pair {
                    (pairs.a[i], pairs.b[i]) = (state[pair.words.start], state[pair.words.start + 1]);
                }
                for block in blocks {
                    block.optimizer.read(&state[block.words.clone()], &mut params[block.params.clone()]);
                }
            }
            if let Some(pair) = pair {
                pairs.read(pair, &rows[first..], params, width);
            }
        }
        pairs.len = 0;
        // A change of these is to be noted where they stand.
        unnoted.iter().for_each(|i| rows[*i as usize] = NO_ROW);
    }
}

/// Looks at the place of feature `i`, which names its row, and asks the processor for that.
#[inline(always)]
fn ask_row(parts: &[&Part], keys: &[u64], places: &[Place], rows: &mut [u32], unnoted: &mut Vec<u32>, i: usize) {
    let (Some(key), Some(place), Some(row)) = (keys.get(i), places.get(i), rows.get_mut(i)) else { return };
    if *place == ABSENT {
        *row = NO_ROW;
        return;
    }
    let part = parts[part_of(*key, parts.len())];
    let (number, is_noted) = part.row_at(*place);
    part.prefetch_numbered_row(number);
    *row = number;
    if !is_noted {
        unnoted.push(i as u32);
    }
}

/// The first block if it is a pair of words, and the others.
#[inline(always)]
fn split(blocks: &[EntryBlock]) -> (Option<&EntryBlock>, &[EntryBlock]) {
    match blocks {
        [pair, others @ ..] if pair.params.len() == 1 && pair.optimizer.is_pair() => (Some(pair), others),
        all => (None, all),
    }
}

/// States of one parameter each, of different entries.
pub(super) struct Pairs {
    len: usize,
    a: [f32; PAIRS_MAX],
    b: [f32; PAIRS_MAX],
    /// Gradients, or parameters.
    g: [f32; PAIRS_MAX],
    good: [bool; PAIRS_MAX],
    rows: [u32; PAIRS_MAX],
    keys: [u64; PAIRS_MAX],
}

impl Default for Pairs {
    fn default() -> Self {
        let zeros = [0.0; PAIRS_MAX];
        let (good, rows, keys) = ([false; PAIRS_MAX], [0; PAIRS_MAX], [0; PAIRS_MAX]);
        Self { len: 0, a: zeros, b: zeros, g: zeros, good, rows, keys }
    }
}

impl Pairs {
    /// Whole lanes: what stands in the last ones beyond the end is computed for nothing.
    #[inline(always)]
    fn lanes(&self) -> Range<usize> {
        0..self.len.next_multiple_of(LANES)
    }

    #[inline(always)]
    fn read(&mut self, block: &EntryBlock, rows: &[u32], params: &mut [f32], width: usize) {
        let lanes = self.lanes();
        block.optimizer.read_pairs(&self.a[lanes.clone()], &self.b[lanes.clone()], &mut self.g[lanes]);
        for ((row, params), w) in rows.iter().zip(params.chunks_exact_mut(width)).zip(&self.g) {
            params[block.params.start] = if *row == NO_ROW { 0.0 } else { *w };
        }
    }

    /// Changes the entries that were put down, and forgets them.
    #[inline(always)]
    fn step(&mut self, work: &Work, block: &EntryBlock, part: &mut Part) {
        let (lanes, first) = (self.lanes(), block.words.start);
        let Self { a, b, g, good, .. } = self;
        let (a, b, g) = (&mut a[lanes.clone()], &mut b[lanes.clone()], &g[lanes.clone()]);
        block.optimizer.step_pairs(a, b, g, work.rate, &mut good[lanes]);
        for i in 0..self.len {
            match self.good[i] {
                true => {
                    let words = part.numbered_row_mut(self.rows[i]);
                    (words[first], words[first + 1]) = (self.a[i], self.b[i]);
                }
                false => work.counts.refuse_non_finite(self.keys[i]),
            }
        }
        self.len = 0;
    }
}

/// Phase 2 for one part: its entries, in sample order. `BY_SLOT`: slots differ in how.
pub(super) struct Learn<'a, const BY_SLOT: bool> {
    pub(super) work: &'a Work<'a>,
    pub(super) rows: &'a Range<usize>,
    pub(super) part: &'a mut Part,
    pub(super) number: usize,
}

impl<const BY_SLOT: bool> Kernel for Learn<'_, BY_SLOT> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { work, rows, part, number } = self;
        let Features { keys, slots, .. } = work.batch.features;
        let (parts, outputs) = (work.table.parts(), work.learner.outputs());
        let common = work.rules.common();
        let (pair, blocks) = match work.filter {
            None if !BY_SLOT => split(&common.blocks),
            // Few entries take a step, or neighbours take different ones: not worth doing side by side.
            _ => (None, &common.blocks[..]),
        };
        let ticks = if BY_SLOT && work.rules.keeps_ticks() { Some(word_of_tick(part.ticks())) } else { None };
        let mut passed = work.filter.map_or(Vec::new(), Filter::sums);
        let mut not_admitted = 0;
        let removals = part.removals();
        let features = work.batch.features.range(rows.end - 1).end - work.batch.features.range(rows.start).start;
        let bytes_of_entry = size_of::<u64>() + 2 * size_of::<f32>() * work.rules.words();
        let far = features * bytes_of_entry > KEPT_NEAR;
        for i in 0..rows.len().div_ceil(work.learner.slice_samples()) {
            let rows = work.slice_rows(rows, i);
            let first = work.batch.features.range(rows.start).start;
            let SliceScratch { width, places, rows: numbers, pairs, slopes, gradients, .. } =
                &mut *work.slices[i].lock().expect(NO_PANIC);
            for (j, row) in rows.enumerate() {
                if slopes[j * outputs..(j + 1) * outputs].iter().all(|slope| *slope == 0.0) {
                    continue;
                }
                for f in work.batch.features.range(row).filter(|f| part_of(keys[*f], parts) == number) {
                    let key = keys[f];
                    if far && let Some(ahead) = numbers.get(f - first + FAR_AHEAD) {
                        // Of another part it may be any row, which does no harm.
                        part.prefetch_numbered_row(*ahead);
                    }
                    let rule = if BY_SLOT { work.rules.of(slots[f]) } else { common };
                    let gradients = &mut gradients[(f - first) * *width..][..*width];
                    let gradients = if BY_SLOT { &mut gradients[rule.params()] } else { gradients };
                    let largest = largest_bits(gradients);
                    // Nothing to learn, and no reason to make an entry.
                    if largest == 0 {
                        continue;
                    }
                    if largest >= f32::INFINITY.to_bits() {
                        work.counts.refuse_non_finite(key);
                        continue;
                    }
                    let number = match numbers[f - first] {
                        known if known != NO_ROW && part.removals() == removals => known,
                        _ => {
                            let found = find_row(work, rule, (key, slots[f]), places[f - first], pair, pairs, part);
                            let Some(number) = found else {
                                not_admitted += 1;
                                continue;
                            };
                            number
                        }
                    };
                    let state = part.numbered_row_mut(number);
                    if let (true, Some(tick), Some(word)) = (BY_SLOT, ticks, state.last_mut()) {
                        *word = tick;
                    }
                    if let Some(filter) = work.filter {
                        filter.step(work, rule, key, state, gradients, &mut passed);
                        continue;
                    }
                    let (blocks, clip, rate) = if BY_SLOT {
                        (&rule.blocks[..], &rule.clip, rule.rate)
                    } else {
                        (blocks, &work.clip, work.rate)
                    };
                    for block in blocks {
                        let gradient = &mut gradients[block.params.clone()];
                        clip.apply(gradient);
                        let state = &mut state[block.words.clone()];
                        // Clipping makes none larger, and saves some that are too large.
                        if Optimizer::takes(largest) {
                            block.optimizer.step_taken(state, gradient, rate);
                        } else if !block.optimizer.step(state, gradient, rate) {
                            work.counts.refuse_non_finite(key);
                        }
                    }
                    if let Some(pair) = pair {
                        work.clip.apply(&mut gradients[pair.params.clone()]);
                        let i = pairs.len;
                        (pairs.a[i], pairs.b[i]) = (state[pair.words.start], state[pair.words.start + 1]);
                        (pairs.g[i], pairs.rows[i], pairs.keys[i]) = (gradients[pair.params.start], number, key);
                        pairs.len += 1;
                        if pairs.len == PAIRS_MAX {
                            pairs.step(work, pair, part);
                        }
                    }
                }
                if let Some(pair) = pair {
                    pairs.step(work, pair, part);
                }
            }
        }
        work.filter.iter().for_each(|filter| filter.count(&passed));
        work.counts.not_admitted.fetch_add(not_admitted, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The number of a key's row where it is not known yet: of an entry whose first change is to be noted, that was not there or
/// may have gone, or of a new one. `None`: it is not admitted.
#[inline(never)]
fn find_row(
    work: &Work,
    rule: &Rule,
    (key, slot): (u64, u16),
    place: Place,
    pair: Option<&EntryBlock>,
    pairs: &mut Pairs,
    part: &mut Part,
) -> Option<u32> {
    if part.stands_at(key, place) {
        return Some(part.row_number_at(key, place));
    }
    // Another entry may have to leave for this one, and its row with it.
    if let Some(pair) = pair {
        pairs.step(work, pair, part);
    }
    match part.locate(key) {
        ABSENT if !part.seen_often(key, rule.admit_after) => None,
        ABSENT => part.new_row(key, slot, |state| begin(work, rule, key, state)),
        place => Some(part.row_number_at(key, place)),
    }
}

/// The state a new entry begins with: drawn by its key, so that the order in which keys come does not matter.
fn begin(work: &Work, rule: &Rule, key: u64, state: &mut [f32]) {
    let seed = mix64(key ^ work.seed);
    for block in rule.blocks.iter().filter(|block| block.spread > 0.0) {
        let mut params = vec![0.0; block.params.len()];
        start::draw(mix64(seed.wrapping_add(block.params.start as u64)), block.spread, &mut params);
        block.optimizer.start(&params, &mut state[block.words.clone()]);
    }
}
