//! Step 3, the label join: impressions wait here for their feedback.
//!
//! In: impressions and feedback of one or several types in any order, mini-batch by mini-batch, and the watermark behind
//! each. Out: exactly one labelled sample per impression (plus what corrects it when it left too early). A feedback row
//! matches an impression of the same key when `impression.ts <= feedback.ts <= impression.ts + window`; each column takes
//! the first by event time, or the last, the count, the sum or the largest. Feedback that comes before its impression waits
//! until no impression of its time can come.
//! At most `pending_count_max` impressions wait, and at most `pending_bytes_max` bytes; beyond either the oldest leaves with
//! the label known so far and is counted, or the join says so and stops, or, beyond the bytes, rows go to files
//! ([`WhenFull`]). The keys of those that left are remembered until the watermark passes their
//! window, so that a second event with the key is a duplicate; behind that it is late, or, with a newer time, an impression
//! of its own. Of more than twice `pending_count_max` and 65,536 the oldest keys are forgotten. Samples that may still be
//! corrected are remembered with their rows for `correction_ttl_ms` more; they count among those that wait.
//! An impression that the watermark has passed by at most `allowed_lateness_ms` is let in as any other: feedback waits and
//! keys are remembered so much longer, and what falls due before it came does so at once.
//! Never reads the clock; the order of what comes out follows from event times and arrival numbers alone.

mod conflict;
mod emit;
mod index;
mod parts;
mod rows;
mod side;
mod slab;
mod spec;
mod spill;
mod state;
mod time_queue;
mod wire;

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Schema, SchemaRef},
};
use tidemill_base::{Error, Result};

use emit::Collected;
use index::{NULL_KEY, Spot, TOUCHED, hash_keys};
pub use parts::{RestoringRows, SavedBatch};
use rows::{KeptRows, RowRef};
use side::Side;
use slab::Slab;
pub use spec::{
    Correction, Emit, FeedbackSpec, JoinCounts, JoinOutput, JoinSpec, JoinState, Matured, NegativeSample, NotLetIn,
    SampleKind, SamplingMode, Take, WhenFull,
};
pub use spill::SpillDir;
pub use state::JoinRows;
use time_queue::{Due, TimeQueue};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Nothing emitted yet.
    #[default]
    Waiting,
    /// Emitted with the label known so far; may be corrected.
    Early,
    /// Final; stays only so that a duplicate is recognised.
    Done,
    /// Left before its window closed because too many waited; stays only so that a duplicate is recognised.
    Released,
    /// Final, and its first row was another; stays as [`Stage::Done`].
    Corrected,
    /// Final as far as scoring goes, remembered with its row: late feedback still corrects it.
    Remembered,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    ts: i64,
    seq: u64,
    stage: Stage,
    row: RowRef,
}

/// Keys of impressions that left are remembered at least up to this many.
const KNOWN_COUNT_MIN: usize = 65_536;
/// What the slabs and queues take for an impression that waits, about.
const PENDING_BYTES: usize = 160;
/// The number of a slot that holds nothing.
const NO_SEQ: u64 = u64::MAX;

/// The join with all that waits in it.
pub struct LabelJoin {
    spec: JoinSpec,
    window_ms: i64,
    is_fixed_at_match: bool,
    output: SchemaRef,
    /// Columns that tell two impressions of one key apart.
    compared: Vec<usize>,
    watermark: i64,
    next_seq: u64,
    counts: JoinCounts,
    left_rows: KeptRows,
    sides: Vec<Side>,
    pending: Slab<Pending>,
    pending_free: Vec<u32>,
    /// Impressions in the slab whose label is not final.
    open_count: usize,
    early: TimeQueue,
    /// Those whose label is not final.
    close: TimeQueue,
    /// Those whose label is, until their window closes.
    known: TimeQueue,
    known_count: usize,
    /// Those of them that are there with their rows.
    remembered: TimeQueue,
    remembered_count: usize,
    /// Up to here no key is remembered: what is final leaves at once.
    forgotten_ts: i64,
    out: Collected,
    /// What falls due; kept to be filled again.
    due: Vec<Due>,
}

impl LabelJoin {
    /// An empty join of rows with these columns; `right` are those of each feedback.
    pub fn new(spec: JoinSpec, left: &SchemaRef, right: &[SchemaRef]) -> Result<Self> {
        if spec.feedback.is_empty() || spec.feedback.len() != right.len() {
            return Err(Error::internal(format!("{} types of feedback, {} schemas", spec.feedback.len(), right.len())));
        }
        let measures = spec.pending_bytes_max < usize::MAX && spec.when_full != WhenFull::Spill;
        let mut sides = Vec::new();
        for (feedback, right) in spec.feedback.iter().zip(right) {
            check_keys(left, feedback.left_key, right, feedback.right_key)?;
            sides.push(Side::new(feedback.clone(), right, spec.allowed_lateness_ms, measures)?);
        }
        let fields: Vec<_> = left.fields().iter().cloned().chain(sides.iter().flat_map(|s| s.fields())).collect();
        let text_keys: Vec<usize> = sides.iter().filter(|s| s.key_is_text).map(|s| s.spec.left_key).collect();
        let window_ms = spec.window_ms();
        let kept_ms = window_ms.saturating_add(spec.correction_ttl_ms).saturating_add(spec.allowed_lateness_ms);
        Ok(Self {
            output: Arc::new(Schema::new(fields)),
            window_ms,
            is_fixed_at_match: spec.is_fixed_at_match(),
            compared: (0..left.fields().len()).collect(),
            watermark: i64::MIN,
            next_seq: 0,
            counts: JoinCounts::default(),
            left_rows: KeptRows::new(left.clone(), measures, text_keys),
            sides,
            pending: Slab::default(),
            pending_free: Vec::new(),
            open_count: 0,
            early: TimeQueue::new(window_ms),
            close: TimeQueue::new(window_ms),
            known: TimeQueue::new(kept_ms),
            known_count: 0,
            remembered: TimeQueue::new(kept_ms),
            remembered_count: 0,
            forgotten_ts: i64::MIN,
            out: Collected::default(),
            due: Vec::new(),
            spec,
        })
    }

    /// Columns of what comes out: left, then those of each feedback.
    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// Takes impressions; `event_times[i]` belongs to row `i`. Returns the rows that were not let in.
    pub fn push_impressions(&mut self, rows: &RecordBatch, event_times: &[i64]) -> Result<Vec<(u32, NotLetIn)>> {
        let hash = |side: &Side| hash_keys(rows.column(side.spec.left_key).as_ref());
        let keys: Vec<Vec<u64>> = self.sides.iter().map(hash).collect::<Result<_>>()?;
        let batch = self.left_rows.add(rows.clone());
        let (mut refused, mut spots) = (Vec::new(), Vec::with_capacity(self.sides.len()));
        for (i, &ts) in event_times.iter().enumerate() {
            if i % TOUCHED == 0 {
                let next = i..event_times.len().min(i + TOUCHED);
                let all = self.sides.iter().zip(&keys);
                all.for_each(|(side, keys)| side.index.touch(keys[next.clone()].iter().copied()));
            }
            let row = RowRef { batch, row: i as u32 };
            if ts <= self.too_late() {
                self.counts.late_impressions += 1;
                refused.push((i as u32, NotLetIn::Late));
                continue;
            }
            spots.clear();
            spots.extend(self.sides.iter().zip(&keys).map(|(side, keys)| side.index.look_up(keys[i], &side.links)));
            if let Some(side) = self.spec.dedup
                && self.is_known(side, spots[side], row)
            {
                self.counts.duplicate_impressions += 1;
                let conflict = self.conflict(side, keys[side][i], ts, row)?;
                self.counts.conflicting_impressions += u64::from(conflict.is_some());
                refused.push((i as u32, conflict.map_or(NotLetIn::Duplicate, NotLetIn::Conflict)));
            } else {
                self.counts.late_let_in += (ts <= self.watermark) as u64;
                self.let_in(&spots, ts, row);
            }
        }
        self.left_rows.settle(batch);
        Ok(refused)
    }

    /// Takes feedback of one type; `event_times[i]` belongs to row `i`. Samples that it contradicts are corrected at once.
    pub fn push_feedback(&mut self, side: usize, rows: &RecordBatch, event_times: &[i64]) -> Result<()> {
        let keys = self.sides[side].hash(rows)?;
        let batch = self.sides[side].rows.add(rows.clone());
        for (i, (&key, &ts)) in keys.iter().zip(event_times).enumerate() {
            if i % TOUCHED == 0 {
                self.sides[side].index.touch(keys.iter().skip(i).take(TOUCHED).copied());
            }
            self.counts.feedback += 1;
            let row = RowRef { batch, row: i as u32 };
            let matched = key != NULL_KEY && self.match_pending(side, key, ts, row);
            if ts > self.too_late() && key != NULL_KEY {
                self.sides[side].keep(key, ts, row, matched);
            } else if !matched {
                self.counts.late_feedback += 1;
            }
        }
        self.sides[side].rows.settle(batch);
        Ok(())
    }

    /// Moves the watermark on and hands out every sample that is due, corrections of this mini-batch first.
    pub fn advance(&mut self, watermark: i64) -> Result<JoinOutput> {
        self.watermark = self.watermark.max(watermark);
        let closed = self.watermark.saturating_sub(self.window_ms);
        let corrected = closed.saturating_sub(self.spec.correction_ttl_ms);
        self.forgotten_ts = corrected.saturating_sub(self.spec.allowed_lateness_ms);
        let mut all_due = std::mem::take(&mut self.due);
        if let Emit::Early { delay_ms } = self.spec.emit {
            self.early.pop_through(self.watermark.saturating_sub(delay_ms), &mut all_due);
            for due in all_due.drain(..) {
                if self.is_open(due) {
                    self.emit_early(due.slot);
                }
            }
        }
        self.close.pop_through(closed, &mut all_due);
        self.out.reserve(all_due.len());
        for some in all_due.chunks(TOUCHED) {
            self.touch(some);
            for due in some {
                if self.is_open(*due) {
                    self.finish(due.slot, Stage::Done);
                }
            }
        }
        all_due.clear();
        self.keep_bounds()?;
        if corrected > self.forgotten_ts {
            self.remembered.pop_through(corrected, &mut all_due);
            for due in all_due.drain(..) {
                if self.holds(due) && self.pending[due.slot as usize].stage == Stage::Remembered {
                    self.stop_remembering(due.slot, Stage::Done);
                }
            }
        }
        self.known.pop_through(self.forgotten_ts, &mut all_due);
        for due in all_due.drain(..) {
            self.forget(due);
        }
        let known_count_max = self.spec.pending_count_max.saturating_mul(2).saturating_add(KNOWN_COUNT_MIN);
        if self.spec.when_full == WhenFull::Stop && self.known_count > known_count_max {
            // A job that stops is one that no bound has changed anything of.
            let what = format!("{} keys of impressions that left", self.known_count);
            return Err(full(&what, "join.pending_max", self.spec.pending_count_max));
        }
        while self.known_count > known_count_max {
            let Some(due) = self.known.pop_first() else { break };
            self.forget(due);
        }
        let too_late = self.too_late();
        for side in &mut self.sides {
            side.expiry.pop_through(too_late, &mut all_due);
            for due in all_due.drain(..) {
                if side.feedback[due.slot as usize].arrival == due.seq && !side.drop_feedback(due.slot) {
                    self.counts.unmatched_feedback += 1;
                }
            }
        }
        self.due = all_due;
        let out = self.gather()?;
        self.make_room()?;
        Ok(out)
    }

    /// Where rows go that find no room in memory; [`WhenFull::Spill`] needs it to keep its bound.
    pub fn spill_to(&mut self, dir: &SpillDir) {
        if self.spec.when_full == WhenFull::Spill {
            self.left_rows.spill_to(dir.clone());
            self.sides.iter_mut().for_each(|side| side.rows.spill_to(dir.clone()));
        }
    }

    /// Brings the rows in memory within their bound.
    fn make_room(&mut self) -> Result<()> {
        if self.spec.when_full != WhenFull::Spill {
            return Ok(());
        }
        let mut all: Vec<&mut KeptRows> =
            std::iter::once(&mut self.left_rows).chain(self.sides.iter_mut().map(|side| &mut side.rows)).collect();
        rows::make_room(&mut all, self.spec.pending_bytes_max)
    }

    /// No event of this time or an earlier one is let in.
    fn too_late(&self) -> i64 {
        self.watermark.saturating_sub(self.spec.allowed_lateness_ms)
    }

    /// What was counted since the stream began.
    pub fn counts(&self) -> &JoinCounts {
        &self.counts
    }

    /// Impressions whose label is not final yet.
    pub fn pending_count(&self) -> usize {
        self.open_count
    }

    /// What is kept, and the memory of it, about.
    pub fn state(&self) -> JoinState {
        let slot = size_of::<Pending>() + self.sides.len() * size_of::<side::Link>();
        let known_bytes = (self.known_count - self.remembered_count) * (slot + size_of::<Due>());
        let queues = [&self.early, &self.close, &self.known, &self.remembered];
        let slots = self.pending.bytes()
            + queues.iter().map(|queue| queue.bytes()).sum::<usize>()
            + self.sides.iter().map(Side::index_bytes).sum::<usize>();
        JoinState {
            open: self.open_count,
            remembered: self.remembered_count,
            known: self.known_count - self.remembered_count,
            feedback: self.sides.iter().map(Side::waiting).sum(),
            impression_bytes: self.left_rows.bytes(),
            feedback_bytes: self.sides.iter().map(|side| side.rows.bytes()).sum(),
            spilled_bytes: self.left_rows.spilled_bytes()
                + self.sides.iter().map(|side| side.rows.spilled_bytes()).sum::<usize>(),
            known_bytes,
            index_bytes: slots.saturating_sub(known_bytes),
        }
    }

    /// Memory of what is kept, about.
    pub fn bytes(&self) -> usize {
        self.state().bytes()
    }

    /// Bytes of the rows that wait and of what is kept about them: what `pending_bytes_max` bounds. It follows from the
    /// rows alone, so a restored join, whose rows lie in other batches, decides by the same number.
    pub fn held_bytes(&self) -> usize {
        let waiting = (self.open_count + self.remembered_count) * (PENDING_BYTES + self.sides.len() * side::LINK_BYTES);
        self.left_rows.held_bytes() - self.out.left_done_bytes
            + waiting
            + self.sides.iter().map(Side::held_bytes).sum::<usize>()
    }

    /// What is over a bound leaves: samples that are only remembered, then the oldest impressions, then the oldest feedback
    /// that waits for its impression. Or the join says what is full.
    fn keep_bounds(&mut self) -> Result<()> {
        let (count_max, bytes_max) = (self.spec.pending_count_max, self.spec.pending_bytes_max);
        let measures = bytes_max < usize::MAX && self.spec.when_full != WhenFull::Spill;
        let is_over = |join: &Self| {
            join.open_count + join.remembered_count > count_max || (measures && join.held_bytes() > bytes_max)
        };
        if self.spec.when_full == WhenFull::Stop && is_over(self) {
            let count = self.open_count + self.remembered_count;
            return Err(match count > count_max {
                true => full(&format!("{count} impressions"), "join.pending_max", count_max),
                false => full(&format!("{} bytes", self.held_bytes()), "join.bytes_max", bytes_max),
            });
        }
        while is_over(self) {
            if let Some(due) = self.remembered.pop_first() {
                if self.holds(due) && self.pending[due.slot as usize].stage == Stage::Remembered {
                    self.stop_remembering(due.slot, Stage::Done);
                }
            } else if let Some(due) = self.close.pop_first() {
                if self.is_open(due) {
                    self.counts.released_early += 1;
                    self.finish(due.slot, Stage::Released);
                }
            } else if !self.release_feedback() {
                break;
            }
        }
        Ok(())
    }

    /// Whether there was any.
    fn release_feedback(&mut self) -> bool {
        for side in &mut self.sides {
            while let Some(due) = side.expiry.pop_first() {
                if side.feedback[due.slot as usize].arrival == due.seq {
                    side.drop_feedback(due.slot);
                    self.counts.feedback_released += 1;
                    return true;
                }
            }
        }
        false
    }

    #[inline]
    fn is_known(&self, side: usize, spot: Spot, row: RowRef) -> bool {
        let side = &self.sides[side];
        spot.key != NULL_KEY
            && index::chain_from(spot.newest, &side.links).any(|slot| {
                let p = &self.pending[slot as usize];
                p.stage.is_final() || !side.key_is_text || self.left_rows.same_text(side.spec.left_key, p.row, row)
            })
    }

    fn let_in(&mut self, spots: &[Spot], ts: i64, row: RowRef) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.counts.impressions += 1;
        self.left_rows.hold(row);
        let slot = self.insert_pending(Pending { ts, seq, stage: Stage::Waiting, row }, spots);
        let mut any = false;
        for side in &mut self.sides {
            any |= side.links[slot as usize].key != NULL_KEY && side.meet(slot, ts, &self.left_rows, row);
        }
        if any && self.spec.emit == Emit::OnMatch {
            self.emit_early(slot);
        }
    }

    fn insert_pending(&mut self, p: Pending, spots: &[Spot]) -> u32 {
        let slot = self.pending_free.pop().unwrap_or(self.pending.len() as u32);
        if let Emit::Early { .. } = self.spec.emit
            && p.stage == Stage::Waiting
        {
            self.early.push(p.ts, p.seq, slot);
        }
        if p.stage.is_final() {
            self.known.push(p.ts, p.seq, slot);
            self.known_count += 1;
        } else {
            self.close.push(p.ts, p.seq, slot);
            self.open_count += 1;
        }
        if p.stage == Stage::Remembered {
            self.remembered.push(p.ts, p.seq, slot);
            self.remembered_count += 1;
        }
        self.sides.iter_mut().zip(spots).for_each(|(side, spot)| side.insert(slot, *spot));
        self.pending.put(slot as usize, p);
        slot
    }

    /// Gives a feedback row to every waiting impression of its key and window; whether there was one.
    fn match_pending(&mut self, side: usize, key: u64, ts: i64, row: RowRef) -> bool {
        let mut any = false;
        let of_key = &self.sides[side];
        let mut next = of_key.index.find(key, &of_key.links);
        while next != index::NONE {
            let slot = next;
            let (p, of_key) = (&self.pending[slot as usize], &self.sides[side]);
            next = of_key.links[slot as usize].next;
            if !of_key.holds(p.ts, ts) {
                continue;
            }
            match p.stage {
                // Its label left without waiting for this.
                Stage::Released => {}
                // The label is known; a second click changes nothing, and it is not unmatched either.
                Stage::Done | Stage::Corrected => any = true,
                Stage::Waiting | Stage::Early | Stage::Remembered => {
                    if of_key.same_key(&self.left_rows, p.row, row) {
                        any = true;
                        self.set_match(slot, side, ts, row);
                    }
                }
            }
        }
        any
    }

    /// Reads what the impressions that fall due have, and where the index has them, all before any is needed.
    fn touch(&self, some: &[Due]) {
        let read = some.iter().fold(0, |read, due| read ^ self.pending[due.slot as usize].seq);
        std::hint::black_box(read);
        for side in &self.sides {
            side.index.touch(some.iter().map(|due| side.links[due.slot as usize].key));
        }
    }

    /// No duplicate of it is recognised any more.
    fn forget(&mut self, due: Due) {
        if self.holds(due) {
            self.known_count -= 1;
            let stage = match self.pending[due.slot as usize].stage {
                Stage::Remembered => {
                    self.stop_remembering(due.slot, Stage::Done);
                    Stage::Done
                }
                stage => stage,
            };
            self.forget_slot(due.slot, stage, self.is_positive(due.slot));
        }
    }

    /// Nothing is known any more of an impression that left as `stage`.
    fn forget_slot(&mut self, slot: u32, stage: Stage, is_positive: bool) {
        let is_late = stage == Stage::Corrected;
        let p = &mut self.pending[slot as usize];
        (p.stage, p.seq) = (stage, NO_SEQ);
        self.counts.closed_late_positives += is_late as u64;
        self.counts.closed_positives += (is_late || is_positive) as u64;
        self.sides.iter_mut().for_each(|side| side.remove(slot));
        self.pending_free.push(slot);
    }

    /// Whether the slot still holds what fell due.
    fn holds(&self, due: Due) -> bool {
        self.pending[due.slot as usize].seq == due.seq
    }

    /// The same, and its label is not final.
    fn is_open(&self, due: Due) -> bool {
        self.holds(due) && !self.pending[due.slot as usize].stage.is_final()
    }

    /// Whether any feedback matched.
    #[inline]
    fn is_positive(&self, slot: u32) -> bool {
        self.sides.iter().any(|side| side.links[slot as usize].matches > 0)
    }
}

impl Stage {
    const ALL: [Self; 6] =
        [Stage::Waiting, Stage::Early, Stage::Done, Stage::Released, Stage::Corrected, Stage::Remembered];

    /// Whether scoring knows the label.
    fn is_final(self) -> bool {
        !matches!(self, Stage::Waiting | Stage::Early)
    }

    /// Whether its row is still there.
    fn has_row(self) -> bool {
        matches!(self, Stage::Waiting | Stage::Early | Stage::Remembered)
    }
}

fn full(what: &str, name: &str, bound: usize) -> Error {
    Error::exhausted(format!(
        "label join: {what} wait for feedback, {name} is {bound}, and join.when_full is 'stop'; raise {name} and start again: \
         the job goes on where it was, and nothing is lost"
    ))
}

fn check_keys(left: &Schema, left_key: usize, right: &Schema, right_key: usize) -> Result<()> {
    let key = |schema: &Schema, column: usize, side: &str| match schema.field(column).data_type() {
        t @ (DataType::Int64 | DataType::Int32 | DataType::Utf8 | DataType::Timestamp(..)) => Ok(t.clone()),
        t => Err(Error::invalid(format!(
            "{side} join key '{}' has type {t}; a key is BIGINT, INT, STRING or TIMESTAMP",
            schema.field(column).name()
        ))),
    };
    let (l, r) = (key(left, left_key, "left")?, key(right, right_key, "right")?);
    match l == r {
        true => Ok(()),
        false => {
            Err(Error::invalid(format!("join keys have different types: {l} and {r}; cast one of them in a view")))
        }
    }
}
