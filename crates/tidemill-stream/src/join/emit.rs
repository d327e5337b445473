//! What leaves the label join: which row, of which kind, and with which weight.
//!
//! In: an impression's slot and what just happened to it. Out: rows collected by reference, gathered into columns once per
//! mini-batch. The weights of all rows of an impression, signed by their kinds, add up to 1 where corrections retract and no
//! negative is sampled.

use arrow::array::{RecordBatch, RecordBatchOptions};
use tidemill_base::{Error, Result, rng::mix64};

use super::{
    Correction, Emit, JoinOutput, LabelJoin, Matured, NegativeSample, Pending, SampleKind, SamplingMode, Stage,
    index::NULL_KEY, rows::RowRef,
};

/// References to the rows that leave.
#[derive(Default)]
pub(super) struct Collected {
    left: Vec<RowRef>,
    kinds: Vec<SampleKind>,
    seqs: Vec<u64>,
    weights: Vec<f32>,
    matured: Vec<Matured>,
    /// Rows to let go of once gathered.
    left_done: Vec<RowRef>,
    pub(super) left_done_bytes: usize,
}

impl Collected {
    /// This many rows will leave.
    pub fn reserve(&mut self, count: usize) {
        self.left.reserve(count);
        self.kinds.reserve(count);
        self.seqs.reserve(count);
        self.weights.reserve(count);
        self.matured.reserve(count);
        self.left_done.reserve(count);
    }
}

impl LabelJoin {
    /// The impression waits no longer, whatever its label is by now.
    pub(super) fn emit_early(&mut self, slot: u32) {
        let p = self.pending[slot as usize];
        if p.stage != Stage::Waiting {
            return;
        }
        let is_positive = self.is_positive(slot);
        if self.is_fixed_at_match && is_positive {
            let kind = if self.spec.emit == Emit::OnMatch { SampleKind::Final } else { SampleKind::Early };
            self.push(slot, &p, kind, 1.0);
            return self.finish_label(slot, &p, Stage::Done, is_positive);
        }
        self.pending[slot as usize].stage = Stage::Early;
        self.push_sampled(slot, &p, SampleKind::Early, is_positive);
    }

    /// Feedback matches an impression that is there with its row.
    pub(super) fn set_match(&mut self, slot: u32, side: usize, ts: i64, row: RowRef) {
        if !self.sides[side].changes(slot, ts) {
            return;
        }
        let p = self.pending[slot as usize];
        if p.stage == Stage::Waiting {
            self.sides[side].take_in(slot, ts, row);
            if self.spec.emit == Emit::OnMatch {
                self.emit_early(slot);
            }
            return;
        }
        // Before this match the row was a negative, or, of several matches, not; so it was weighed and learned.
        let before = if self.is_positive(slot) { Some(1.0) } else { self.negative_weight(slot, &p) };
        let learns = self.spec.correction != Correction::None;
        let retracts = self.spec.correction == Correction::Retract && before.is_some();
        if retracts {
            self.push(slot, &p, SampleKind::Retract, before.unwrap_or(1.0));
        }
        self.sides[side].take_in(slot, ts, row);
        if learns {
            self.push(slot, &p, if retracts { SampleKind::Correct } else { SampleKind::Late }, 1.0);
            self.counts.corrections += 1;
            self.counts.corrected_behind_close += (p.stage == Stage::Remembered) as u64;
        } else {
            self.counts.corrections_left_out += 1;
        }
        match (self.is_fixed_at_match, p.stage) {
            (true, Stage::Remembered) => self.stop_remembering(slot, Stage::Corrected),
            (true, _) => {
                if !learns && !self.spec.label_is_match {
                    self.push(slot, &p, SampleKind::Closed, 1.0);
                }
                self.finish_label(slot, &p, Stage::Corrected, self.is_positive(slot));
            }
            (false, _) => {}
        }
    }

    /// An open impression leaves with the label known so far.
    pub(super) fn finish(&mut self, slot: u32, stage: Stage) {
        let p = self.pending[slot as usize];
        let is_positive = self.is_positive(slot);
        match p.stage {
            Stage::Waiting => self.push_sampled(slot, &p, SampleKind::Final, is_positive),
            _ if self.spec.label_is_match => {}
            _ => self.push(slot, &p, SampleKind::Closed, 1.0),
        }
        let may_change = !(self.is_fixed_at_match && is_positive);
        let remember = stage == Stage::Done && self.spec.correction_ttl_ms > 0 && may_change;
        self.finish_label(slot, &p, if remember { Stage::Remembered } else { stage }, is_positive);
    }

    fn finish_label(&mut self, slot: u32, p: &Pending, stage: Stage, is_positive: bool) {
        self.open_count -= 1;
        *if is_positive { &mut self.counts.positives } else { &mut self.counts.negatives } += 1;
        let label = if self.spec.label_is_match { is_positive as u8 as f32 } else { f32::NAN };
        self.out.matured.push(Matured { seq: p.seq, label });
        match stage {
            Stage::Remembered => {
                self.remembered.push(p.ts, p.seq, slot);
                self.remembered_count += 1;
            }
            _ => self.let_go(slot, p.row),
        }
        // What would be forgotten in this very mini-batch is so at once; a remembered row counts until the bounds were looked at.
        if p.ts <= self.forgotten_ts && stage != Stage::Remembered {
            return self.forget_slot(slot, stage, is_positive);
        }
        self.pending[slot as usize].stage = stage;
        self.known.push(p.ts, p.seq, slot);
        self.known_count += 1;
    }

    /// The row of an impression whose label scoring knows is not needed any more.
    pub(super) fn stop_remembering(&mut self, slot: u32, stage: Stage) {
        let p = &mut self.pending[slot as usize];
        p.stage = stage;
        let row = p.row;
        self.remembered_count -= 1;
        self.let_go(slot, row);
    }

    fn let_go(&mut self, slot: u32, row: RowRef) {
        self.out.left_done_bytes += self.left_rows.row_bytes(row);
        self.out.left_done.push(row);
        self.sides.iter_mut().for_each(|side| side.let_go(slot));
    }

    /// A row whose label is not final for good, or is negative: negatives may be sampled out.
    fn push_sampled(&mut self, slot: u32, p: &Pending, kind: SampleKind, is_positive: bool) {
        if is_positive {
            return self.push(slot, p, kind, 1.0);
        }
        match self.negative_weight(slot, p) {
            Some(weight) => self.push(slot, p, kind, weight),
            None => {
                self.counts.negatives_left_out += 1;
                self.push(slot, p, SampleKind::Unlearned, 1.0);
            }
        }
    }

    /// The weight of an impression's negative; `None`: it is not learned from.
    fn negative_weight(&self, slot: u32, p: &Pending) -> Option<f32> {
        let Some(NegativeSample { share, mode, seed }) = self.spec.sample else { return Some(1.0) };
        let key = self.sides[self.spec.dedup.unwrap_or(0)].links[slot as usize].key;
        // The event decides, not when it came; and one key with many impressions has some of each.
        let event = if key == NULL_KEY { mix64(p.seq) } else { key ^ mix64(p.ts as u64) };
        let drawn = (mix64(event ^ mix64(seed)) >> 11) as f64 / (1u64 << 53) as f64;
        (drawn < share).then_some(match mode {
            SamplingMode::Weight => (1.0 / share) as f32,
            SamplingMode::Logit => 1.0,
        })
    }

    fn push(&mut self, slot: u32, p: &Pending, kind: SampleKind, weight: f32) {
        self.out.left.push(p.row);
        self.out.kinds.push(kind);
        self.out.seqs.push(p.seq);
        if self.is_weighed() {
            self.out.weights.push(weight);
        }
        self.sides.iter_mut().for_each(|side| side.collect(slot));
    }

    fn is_weighed(&self) -> bool {
        self.spec.sample.is_some_and(|sample| sample.mode == SamplingMode::Weight)
    }

    pub(super) fn gather(&mut self) -> Result<JoinOutput> {
        let out = std::mem::take(&mut self.out);
        let mut columns = self.left_rows.gather(&out.left)?;
        for side in &mut self.sides {
            columns.extend(side.gather()?);
        }
        let count = RecordBatchOptions::new().with_row_count(Some(out.left.len()));
        let rows = RecordBatch::try_new_with_options(self.output.clone(), columns, &count)
            .map_err(|e| Error::internal(format!("label join: {e}")))?;
        self.left_rows.release(&out.left_done);
        let weights = self.is_weighed().then_some(out.weights);
        Ok(JoinOutput { rows, kinds: out.kinds, seqs: out.seqs, weights, matured: out.matured })
    }
}
