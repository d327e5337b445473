//! Step 3, the label join: impressions wait here for their feedback.
//!
//! In: impressions and feedback in any order, mini-batch by mini-batch, and the watermark behind each. Out: exactly one
//! labelled sample per impression (plus a retraction and its correction when an early negative turns out wrong). A
//! feedback row matches an impression of the same key when `impression.ts <= feedback.ts <= impression.ts + window`; the
//! first by event time counts. Feedback that comes before its impression waits until no impression of its time can come.
//! At most `pending_count_max` impressions wait; beyond it the oldest leaves with the label known so far and is counted.
//! The keys of those that left are remembered until the watermark passes their window, so that a second event with the
//! key is a duplicate; behind that it is late, or, with a newer time, an impression of its own. Of more than twice
//! `pending_count_max` and 65,536 the oldest keys are forgotten.
//! Never reads the clock; the order of what comes out follows from event times and arrival numbers alone.

mod rows;
mod state;
mod time_queue;

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Int32Type, Int64Type, Schema, SchemaRef, TimestampMillisecondType},
};
use tidemill_base::{Error, Result, hash64, rng::mix64};

use rows::{KeptRows, RowRef};
pub use state::JoinRows;
use time_queue::{Due, TimeQueue};

/// What a sample row is; its signed weight follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SampleKind {
    /// The label is final. Weight 1.
    Final,
    /// The label known so far; may be retracted. Weight 1.
    Early,
    /// Takes an early sample back. Weight -1; its [`SampleKind::Correct`] follows at once.
    Retract,
    /// Replaces what was just retracted. Weight 1.
    Correct,
}

/// Impression `seq` has its final label.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Matured {
    /// Arrival number of the impression.
    pub seq: u64,
    /// Of a join: 1 when feedback matched, else 0.
    pub label: f32,
}

/// When a sample leaves (the `EMIT` clause).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Emit {
    /// Once the watermark passes the end of the attribution window.
    OnWindowClose,
    /// `delay_ms` after the impression with the label known so far; a later match retracts and corrects.
    Early {
        /// Event milliseconds; 0 emits at once.
        delay_ms: i64,
    },
}

/// What to join and how.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    /// Key column of the impressions.
    pub left_key: usize,
    /// Key column of the feedback; of the same type.
    pub right_key: usize,
    /// Attribution window, event milliseconds.
    pub window_ms: i64,
    /// When a sample leaves.
    pub emit: Emit,
    /// Impressions that may wait.
    pub pending_count_max: usize,
    /// Whether the key identifies the impression, so that a second one with the same key is a duplicate.
    pub dedup: bool,
}

/// What the join has counted since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinCounts {
    /// Impressions let in.
    pub impressions: u64,
    /// Feedback rows seen.
    pub feedback: u64,
    /// Impressions that matured with feedback.
    pub positives: u64,
    /// Impressions that matured without.
    pub negatives: u64,
    /// Impressions dropped because an equal key was still known.
    pub duplicate_impressions: u64,
    /// Impressions dropped because the watermark had passed them.
    pub late_impressions: u64,
    /// Feedback that matched nothing and came after the watermark had passed it.
    pub late_feedback: u64,
    /// Feedback whose impression never came.
    pub unmatched_feedback: u64,
    /// Impressions that left early because too many waited.
    pub released_early: u64,
    /// Early negatives taken back.
    pub corrections: u64,
}

/// Samples that left the join in one mini-batch.
#[derive(Debug)]
pub struct JoinOutput {
    /// Left columns, then right columns (NULL where nothing matched).
    pub rows: RecordBatch,
    /// One per row.
    pub kinds: Vec<SampleKind>,
    /// Arrival number of each row's impression.
    pub seqs: Vec<u64>,
    /// Impressions whose label became final.
    pub matured: Vec<Matured>,
}

/// Why an impression was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLetIn {
    /// The watermark had passed it.
    Late,
    /// An equal key is still known.
    Duplicate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing emitted yet.
    Waiting,
    /// Emitted as an early negative; may be corrected.
    EarlyNegative,
    /// Final; stays only so that a duplicate is recognised.
    Done,
    /// Left before its window closed because too many waited; stays only so that a duplicate is recognised.
    Released,
}

#[derive(Clone, Debug)]
struct Pending {
    key: u64,
    ts: i64,
    seq: u64,
    stage: Stage,
    row: RowRef,
    matched: Option<(i64, RowRef)>,
    next: u32,
}

#[derive(Clone, Debug)]
struct Feedback {
    key: u64,
    ts: i64,
    arrival: u64,
    row: RowRef,
    matched: bool,
    next: u32,
}

const NONE: u32 = u32::MAX;
/// Keys of impressions that left are remembered at least up to this many.
const KNOWN_COUNT_MIN: usize = 65_536;
const NULL_KEY: u64 = u64::MAX;

/// Keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = x;
    }
}

type Index = HashMap<u64, u32, BuildHasherDefault<Identity>>;

/// The join with all that waits in it.
pub struct LabelJoin {
    spec: JoinSpec,
    output: SchemaRef,
    watermark: i64,
    next_seq: u64,
    next_feedback: u64,
    counts: JoinCounts,
    left_rows: KeptRows,
    right_rows: KeptRows,
    pending: Vec<Pending>,
    pending_free: Vec<u32>,
    pending_index: Index,
    /// Impressions in the slab whose label is not final.
    open_count: usize,
    early: TimeQueue,
    /// Those whose label is not final.
    close: TimeQueue,
    /// Those whose label is, until their window closes.
    known: TimeQueue,
    known_count: usize,
    feedback: Vec<Feedback>,
    feedback_free: Vec<u32>,
    feedback_index: Index,
    feedback_expiry: TimeQueue,
    out: Collected,
}

/// References to the rows that leave, gathered into columns once per mini-batch.
#[derive(Default)]
struct Collected {
    left: Vec<RowRef>,
    right: Vec<Option<RowRef>>,
    kinds: Vec<SampleKind>,
    seqs: Vec<u64>,
    matured: Vec<Matured>,
    /// Rows to let go of once gathered.
    left_done: Vec<RowRef>,
    right_done: Vec<RowRef>,
}

impl LabelJoin {
    /// An empty join of rows with these columns.
    pub fn new(spec: JoinSpec, left: &SchemaRef, right: &SchemaRef) -> Result<Self> {
        let key = |schema: &Schema, column: usize, side: &str| match schema.field(column).data_type() {
            t @ (DataType::Int64 | DataType::Int32 | DataType::Utf8 | DataType::Timestamp(..)) => Ok(t.clone()),
            t => Err(Error::invalid(format!(
                "{side} join key '{}' has type {t}; a key is BIGINT, INT, STRING or TIMESTAMP",
                schema.field(column).name()
            ))),
        };
        let (l, r) = (key(left, spec.left_key, "left")?, key(right, spec.right_key, "right")?);
        if l != r {
            return Err(Error::invalid(format!(
                "join keys have different types: {l} and {r}; cast one of them in a view"
            )));
        }
        let fields: Vec<_> = left
            .fields()
            .iter()
            .cloned()
            .chain(right.fields().iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true))))
            .collect();
        let tick_ms = (spec.window_ms / 256).max(1);
        Ok(Self {
            output: Arc::new(Schema::new(fields)),
            watermark: i64::MIN,
            next_seq: 0,
            next_feedback: 0,
            counts: JoinCounts::default(),
            left_rows: KeptRows::new(left.clone()),
            right_rows: KeptRows::new(right.clone()),
            pending: Vec::new(),
            pending_free: Vec::new(),
            pending_index: Index::default(),
            open_count: 0,
            early: TimeQueue::new(tick_ms),
            close: TimeQueue::new(tick_ms),
            known: TimeQueue::new(tick_ms),
            known_count: 0,
            feedback: Vec::new(),
            feedback_free: Vec::new(),
            feedback_index: Index::default(),
            feedback_expiry: TimeQueue::new(tick_ms),
            out: Collected::default(),
            spec,
        })
    }

    /// Columns of what comes out: left, then right.
    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// Takes impressions; `event_times[i]` belongs to row `i`. Returns the rows that were not let in.
    pub fn push_impressions(&mut self, rows: &RecordBatch, event_times: &[i64]) -> Result<Vec<(u32, NotLetIn)>> {
        let keys = hash_keys(rows.column(self.spec.left_key).as_ref())?;
        let batch = self.left_rows.add(rows.clone());
        let mut refused = Vec::new();
        for (i, (&key, &ts)) in keys.iter().zip(event_times).enumerate() {
            let row = RowRef { batch, row: i as u32 };
            if ts <= self.watermark {
                self.counts.late_impressions += 1;
                refused.push((i as u32, NotLetIn::Late));
            } else if self.spec.dedup && self.is_known(key, row) {
                self.counts.duplicate_impressions += 1;
                refused.push((i as u32, NotLetIn::Duplicate));
            } else {
                self.let_in(key, ts, row);
            }
        }
        self.left_rows.settle(batch);
        Ok(refused)
    }

    /// Takes feedback; `event_times[i]` belongs to row `i`. An early negative that it contradicts is corrected at once.
    pub fn push_feedback(&mut self, rows: &RecordBatch, event_times: &[i64]) -> Result<()> {
        let keys = hash_keys(rows.column(self.spec.right_key).as_ref())?;
        let batch = self.right_rows.add(rows.clone());
        for (i, (&key, &ts)) in keys.iter().zip(event_times).enumerate() {
            self.counts.feedback += 1;
            let row = RowRef { batch, row: i as u32 };
            let matched = key != NULL_KEY && self.match_pending(key, ts, row);
            if ts > self.watermark && key != NULL_KEY {
                self.keep_feedback(key, ts, row, matched);
            } else if !matched {
                self.counts.late_feedback += 1;
            }
        }
        self.right_rows.settle(batch);
        Ok(())
    }

    /// Moves the watermark on and hands out every sample that is due, corrections of this mini-batch first.
    pub fn advance(&mut self, watermark: i64) -> Result<JoinOutput> {
        self.watermark = self.watermark.max(watermark);
        if let Emit::Early { delay_ms } = self.spec.emit {
            for due in self.early.pop_through(self.watermark.saturating_sub(delay_ms)) {
                if self.pending[due.slot as usize].seq == due.seq {
                    self.emit_early(due.slot);
                }
            }
        }
        let closed = self.watermark.saturating_sub(self.spec.window_ms);
        for due in self.close.pop_through(closed) {
            if self.is_open(due) {
                self.finish(due.slot, Stage::Done);
            }
        }
        while self.open_count > self.spec.pending_count_max {
            let Some(due) = self.close.pop_first() else { break };
            if self.is_open(due) {
                self.counts.released_early += 1;
                self.finish(due.slot, Stage::Released);
            }
        }
        for due in self.known.pop_through(closed) {
            self.forget(due.slot);
        }
        let known_count_max = self.spec.pending_count_max.saturating_mul(2).saturating_add(KNOWN_COUNT_MIN);
        while self.known_count > known_count_max {
            let Some(due) = self.known.pop_first() else { break };
            self.forget(due.slot);
        }
        for due in self.feedback_expiry.pop_through(self.watermark) {
            self.drop_feedback(due.slot);
        }
        self.gather()
    }

    /// What was counted since the stream began.
    pub fn counts(&self) -> &JoinCounts {
        &self.counts
    }

    /// Impressions whose label is not final yet.
    pub fn pending_count(&self) -> usize {
        self.open_count
    }

    /// Bytes of the rows kept, about.
    pub fn bytes(&self) -> usize {
        self.left_rows.bytes()
            + self.right_rows.bytes()
            + self.pending.capacity() * size_of::<Pending>()
            + self.feedback.capacity() * size_of::<Feedback>()
    }

    fn is_known(&self, key: u64, row: RowRef) -> bool {
        key != NULL_KEY
            && chain(&self.pending_index, key, |slot| self.pending[slot as usize].next).any(|slot| {
                let p = &self.pending[slot as usize];
                p.stage.is_final() || self.left_rows.same_value(self.spec.left_key, p.row, row)
            })
    }

    fn let_in(&mut self, key: u64, ts: i64, row: RowRef) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.counts.impressions += 1;
        self.left_rows.hold(row);
        let slot = self.insert_pending(Pending { key, ts, seq, stage: Stage::Waiting, row, matched: None, next: NONE });
        if key != NULL_KEY {
            self.match_feedback(slot);
        }
    }

    fn insert_pending(&mut self, mut p: Pending) -> u32 {
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
        if p.key != NULL_KEY {
            p.next = self.pending_index.insert(p.key, slot).unwrap_or(NONE);
        }
        if slot as usize == self.pending.len() {
            self.pending.push(p);
        } else {
            self.pending[slot as usize] = p;
        }
        slot
    }

    /// Looks whether feedback was there before its impression; the earliest in the window wins.
    fn match_feedback(&mut self, slot: u32) {
        let p = &self.pending[slot as usize];
        let window = p.ts..=p.ts.saturating_add(self.spec.window_ms);
        let best = chain(&self.feedback_index, p.key, |f| self.feedback[f as usize].next)
            .filter(|&f| {
                let f = &self.feedback[f as usize];
                window.contains(&f.ts) && self.same_key(p.row, f.row)
            })
            .min_by_key(|&f| (self.feedback[f as usize].ts, self.feedback[f as usize].arrival));
        if let Some(f) = best {
            let f = &mut self.feedback[f as usize];
            f.matched = true;
            self.right_rows.hold(f.row);
            self.pending[slot as usize].matched = Some((f.ts, f.row));
        }
    }

    /// Gives a feedback row to every waiting impression of its key and window; whether there was one.
    fn match_pending(&mut self, key: u64, ts: i64, row: RowRef) -> bool {
        let mut any = false;
        let mut slot = self.pending_index.get(&key).copied().unwrap_or(NONE);
        while slot != NONE {
            let p = &self.pending[slot as usize];
            let (at, next) = (slot, p.next);
            slot = next;
            if !(p.ts <= ts && ts <= p.ts.saturating_add(self.spec.window_ms)) {
                continue;
            }
            if p.stage == Stage::Released {
                // Its label left without waiting for this.
            } else if p.stage == Stage::Done {
                // The label is known; a second click changes nothing, and it is not unmatched either.
                any = true;
            } else if self.same_key(p.row, row) {
                any = true;
                self.set_match(at, ts, row);
            }
        }
        any
    }

    fn set_match(&mut self, slot: u32, ts: i64, row: RowRef) {
        let p = &mut self.pending[slot as usize];
        match p.matched {
            Some((first, _)) if first <= ts => return,
            Some((_, earlier_row)) => self.right_rows.release(earlier_row),
            None => {}
        }
        p.matched = Some((ts, row));
        self.right_rows.hold(row);
        if p.stage == Stage::EarlyNegative {
            let (left, seq) = (p.row, p.seq);
            self.counts.corrections += 1;
            self.out.push(left, None, SampleKind::Retract, seq);
            self.out.push(left, Some(row), SampleKind::Correct, seq);
            self.finish_label(slot, true, Stage::Done);
        }
    }

    fn keep_feedback(&mut self, key: u64, ts: i64, row: RowRef, matched: bool) {
        let arrival = self.next_feedback;
        self.next_feedback += 1;
        self.right_rows.hold(row);
        self.insert_feedback(Feedback { key, ts, arrival, row, matched, next: NONE });
    }

    fn insert_feedback(&mut self, mut f: Feedback) {
        let slot = self.feedback_free.pop().unwrap_or(self.feedback.len() as u32);
        self.feedback_expiry.push(f.ts, f.arrival, slot);
        f.next = self.feedback_index.insert(f.key, slot).unwrap_or(NONE);
        if slot as usize == self.feedback.len() {
            self.feedback.push(f);
        } else {
            self.feedback[slot as usize] = f;
        }
    }

    fn drop_feedback(&mut self, slot: u32) {
        let f = self.feedback[slot as usize].clone();
        if !f.matched {
            self.counts.unmatched_feedback += 1;
        }
        unlink(&mut self.feedback_index, f.key, slot, f.next, |s, to| {
            let next = &mut self.feedback[s as usize].next;
            std::mem::replace(next, to.unwrap_or(*next))
        });
        self.feedback_free.push(slot);
        self.out.right_done.push(f.row);
    }

    fn emit_early(&mut self, slot: u32) {
        let p = &mut self.pending[slot as usize];
        if p.stage != Stage::Waiting {
            return;
        }
        let (row, seq, matched) = (p.row, p.seq, p.matched);
        match matched {
            Some((_, right)) => {
                self.out.push(row, Some(right), SampleKind::Early, seq);
                self.finish_label(slot, true, Stage::Done);
            }
            None => {
                p.stage = Stage::EarlyNegative;
                self.out.push(row, None, SampleKind::Early, seq);
            }
        }
    }

    /// Whether the slot still holds what fell due, and its label is not final.
    fn is_open(&self, due: Due) -> bool {
        let p = &self.pending[due.slot as usize];
        p.seq == due.seq && !p.stage.is_final()
    }

    /// An open impression leaves with the label known so far.
    fn finish(&mut self, slot: u32, stage: Stage) {
        let p = &self.pending[slot as usize];
        let matched = p.matched.map(|m| m.1);
        if p.stage == Stage::Waiting {
            self.out.push(p.row, matched, SampleKind::Final, p.seq);
        }
        self.finish_label(slot, matched.is_some(), stage);
    }

    /// No duplicate of it is recognised any more.
    fn forget(&mut self, slot: u32) {
        let p = &self.pending[slot as usize];
        let (key, next) = (p.key, p.next);
        self.known_count -= 1;
        if key != NULL_KEY {
            unlink(&mut self.pending_index, key, slot, next, |s, to| {
                let next = &mut self.pending[s as usize].next;
                std::mem::replace(next, to.unwrap_or(*next))
            });
        }
        self.pending[slot as usize].seq = u64::MAX;
        self.pending_free.push(slot);
    }

    fn finish_label(&mut self, slot: u32, positive: bool, stage: Stage) {
        let p = &mut self.pending[slot as usize];
        p.stage = stage;
        self.known.push(p.ts, p.seq, slot);
        self.known_count += 1;
        self.open_count -= 1;
        *if positive { &mut self.counts.positives } else { &mut self.counts.negatives } += 1;
        self.out.matured.push(Matured { seq: p.seq, label: positive as u8 as f32 });
        self.out.left_done.push(p.row);
        if let Some((_, right)) = p.matched {
            self.out.right_done.push(right);
        }
    }

    fn same_key(&self, left: RowRef, right: RowRef) -> bool {
        rows::same_value(
            self.left_rows.column(self.spec.left_key, left.batch),
            left.row,
            self.right_rows.column(self.spec.right_key, right.batch),
            right.row,
        )
    }

    fn gather(&mut self) -> Result<JoinOutput> {
        let out = std::mem::take(&mut self.out);
        let mut columns = self.left_rows.gather(&out.left.iter().map(|r| Some(*r)).collect::<Vec<_>>())?;
        columns.extend(self.right_rows.gather(&out.right)?);
        let rows = RecordBatch::try_new_with_options(
            self.output.clone(),
            columns,
            &arrow::array::RecordBatchOptions::new().with_row_count(Some(out.left.len())),
        )
        .map_err(|e| Error::internal(format!("label join: {e}")))?;
        for row in out.left_done {
            self.left_rows.release(row);
        }
        for row in out.right_done {
            self.right_rows.release(row);
        }
        Ok(JoinOutput { rows, kinds: out.kinds, seqs: out.seqs, matured: out.matured })
    }
}

impl Stage {
    fn is_final(self) -> bool {
        matches!(self, Stage::Done | Stage::Released)
    }
}

impl Collected {
    fn push(&mut self, left: RowRef, right: Option<RowRef>, kind: SampleKind, seq: u64) {
        self.left.push(left);
        self.right.push(right);
        self.kinds.push(kind);
        self.seqs.push(seq);
    }
}

/// Slots of one key, newest first.
fn chain(index: &Index, key: u64, next: impl Fn(u32) -> u32) -> impl Iterator<Item = u32> {
    let first = index.get(&key).copied().unwrap_or(NONE);
    std::iter::successors((first != NONE).then_some(first), move |&slot| {
        let n = next(slot);
        (n != NONE).then_some(n)
    })
}

/// Takes `slot` out of its key's chain. `link(s, Some(to))` sets and `link(s, None)` reads the successor of `s`; both
/// answer what it was.
fn unlink(index: &mut Index, key: u64, slot: u32, next: u32, mut link: impl FnMut(u32, Option<u32>) -> u32) {
    let head = index[&key];
    if head == slot {
        if next == NONE {
            index.remove(&key);
        } else {
            index.insert(key, next);
        }
        return;
    }
    let mut at = head;
    loop {
        let after = link(at, None);
        if after == slot {
            link(at, Some(next));
            return;
        }
        at = after;
    }
}

/// One hash per row. Whole numbers go through a bijection, so two of them never meet; texts that meet are told apart
/// by comparing them.
fn hash_keys(column: &dyn Array) -> Result<Vec<u64>> {
    let of = |x: i64| match mix64(x as u64) {
        NULL_KEY => 0,
        h => h,
    };
    let mut keys: Vec<u64> = match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().values().iter().map(|&x| of(x)).collect(),
        DataType::Int32 => column.as_primitive::<Int32Type>().values().iter().map(|&x| of(x as i64)).collect(),
        DataType::Timestamp(..) => {
            column.as_primitive::<TimestampMillisecondType>().values().iter().map(|&x| of(x)).collect()
        }
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            (0..texts.len()).map(|i| hash64(texts.value(i).as_bytes(), 0) & (NULL_KEY >> 1)).collect()
        }
        t => return Err(Error::internal(format!("join key of type {t} was bound"))),
    };
    if column.null_count() > 0 {
        for (i, key) in keys.iter_mut().enumerate() {
            if column.is_null(i) {
                *key = NULL_KEY;
            }
        }
    }
    Ok(keys)
}
