//! The join's part of a checkpoint: what waits, with its rows, in arrival order.
//!
//! A restored join answers every later push bit for bit as the one that was saved: slots and batches are numbered anew,
//! arrival numbers and event times are kept, and only those decide. Saving is in two halves: [`LabelJoin::encode`] writes
//! who waits and takes hold of the batches, which never change, so that [`JoinRows::encode`] can write them on another
//! thread while the join goes on.

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{Feedback, LabelJoin, NONE, Pending, RowRef, Stage, rows::Held};

const GONE: RowRef = RowRef { batch: 0, row: 0 };
/// Instead of a row: there is none.
const NO_ROW: u64 = u64::MAX;

/// The rows that wait, as of the moment of saving.
pub struct JoinRows {
    left: Held,
    right: Held,
}

impl JoinRows {
    /// Appends all rows: impressions, then feedback.
    pub fn encode(&self, out: &mut Encoder) -> Result<()> {
        put_rows(out, &self.left)?;
        put_rows(out, &self.right)
    }
}

impl LabelJoin {
    /// Appends who waits, and takes hold of the rows they wait with.
    pub fn encode(&self, out: &mut Encoder) -> JoinRows {
        let rows = JoinRows { left: self.left_rows.held(), right: self.right_rows.held() };
        out.put_i64(self.watermark).put_u64(self.next_seq).put_u64(self.next_feedback);
        for count in self.counts.as_array() {
            out.put_u64(count);
        }
        let mut pending: Vec<&Pending> = self.pending.iter().filter(|p| p.seq != u64::MAX).collect();
        pending.sort_unstable_by_key(|p| p.seq);
        out.put_varint(pending.len() as u64);
        for p in &pending {
            let (left, matched) = match p.stage {
                Stage::Done | Stage::Released => (NO_ROW, None),
                _ => (rows.left.index(p.row), p.matched),
            };
            let (ts, right) = matched.map_or((0, NO_ROW), |(ts, row)| (ts, rows.right.index(row)));
            out.put_u64(p.key).put_i64(p.ts).put_u64(p.seq).put_u8(p.stage as u8);
            out.put_u64(left).put_i64(ts).put_u64(right);
        }
        let free: std::collections::BTreeSet<u32> = self.feedback_free.iter().copied().collect();
        let mut feedback: Vec<&Feedback> =
            self.feedback.iter().enumerate().filter(|(i, _)| !free.contains(&(*i as u32))).map(|(_, f)| f).collect();
        feedback.sort_unstable_by_key(|f| f.arrival);
        out.put_varint(feedback.len() as u64);
        for f in &feedback {
            out.put_u64(f.key)
                .put_i64(f.ts)
                .put_u64(f.arrival)
                .put_u8(f.matched as u8)
                .put_u64(rows.right.index(f.row));
        }
        rows
    }

    /// Fills an empty join with who waits; [`LabelJoin::restore_rows`] must follow.
    pub fn restore(&mut self, d: &mut Decoder) -> Result<()> {
        self.watermark = d.i64()?;
        self.next_seq = d.u64()?;
        self.next_feedback = d.u64()?;
        let mut counts = [0; 10];
        for count in &mut counts {
            *count = d.u64()?;
        }
        self.counts = super::JoinCounts::from_array(counts);
        for _ in 0..d.count(49)? {
            let (key, ts, seq, stage) = (d.u64()?, d.i64()?, d.u64()?, stage_of(d.u8()?)?);
            let (left, matched_ts, right) = (d.u64()?, d.i64()?, d.u64()?);
            let matched = (right != NO_ROW).then_some((matched_ts, row(right)));
            if stage.is_final() != (left == NO_ROW) {
                return Err(Error::corrupt("label join: an impression waits without its row"));
            }
            self.insert_pending(Pending { key, ts, seq, stage, row: row(left), matched, next: NONE });
        }
        for _ in 0..d.count(33)? {
            let (key, ts, arrival, matched) = (d.u64()?, d.i64()?, d.u64()?, d.u8()? != 0);
            self.insert_feedback(Feedback { key, ts, arrival, row: row(d.u64()?), matched, next: NONE });
        }
        Ok(())
    }

    /// Gives those who wait their rows back.
    pub fn restore_rows(&mut self, d: &mut Decoder) -> Result<()> {
        let left = get_rows(d, self.left_rows.schema())?;
        let right = get_rows(d, self.right_rows.schema())?;
        let counts = (left.num_rows(), right.num_rows());
        let batches = (self.left_rows.add(left), self.right_rows.add(right));
        for p in self.pending.iter_mut().filter(|p| !p.stage.is_final()) {
            p.row = placed(p.row, batches.0, counts.0)?;
            self.left_rows.hold(p.row);
            if let Some((_, row)) = &mut p.matched {
                *row = placed(*row, batches.1, counts.1)?;
                self.right_rows.hold(*row);
            }
        }
        for f in &mut self.feedback {
            f.row = placed(f.row, batches.1, counts.1)?;
            self.right_rows.hold(f.row);
        }
        self.left_rows.settle(batches.0);
        self.right_rows.settle(batches.1);
        Ok(())
    }
}

fn row(index: u64) -> RowRef {
    if index == NO_ROW { GONE } else { RowRef { batch: 0, row: index.min(u32::MAX as u64) as u32 } }
}

fn placed(row: RowRef, batch: u64, count: usize) -> Result<RowRef> {
    if row.row as usize >= count {
        return Err(Error::corrupt(format!("label join: row {} of {count}", row.row)));
    }
    Ok(RowRef { batch, row: row.row })
}

impl super::JoinCounts {
    fn as_array(&self) -> [u64; 10] {
        let Self {
            impressions,
            feedback,
            positives,
            negatives,
            duplicate_impressions,
            late_impressions,
            late_feedback,
            unmatched_feedback,
            released_early,
            corrections,
        } = *self;
        [
            impressions,
            feedback,
            positives,
            negatives,
            duplicate_impressions,
            late_impressions,
            late_feedback,
            unmatched_feedback,
            released_early,
            corrections,
        ]
    }

    fn from_array(a: [u64; 10]) -> Self {
        Self {
            impressions: a[0],
            feedback: a[1],
            positives: a[2],
            negatives: a[3],
            duplicate_impressions: a[4],
            late_impressions: a[5],
            late_feedback: a[6],
            unmatched_feedback: a[7],
            released_early: a[8],
            corrections: a[9],
        }
    }
}

fn stage_of(byte: u8) -> Result<Stage> {
    [Stage::Waiting, Stage::EarlyNegative, Stage::Done, Stage::Released]
        .into_iter()
        .find(|s| *s as u8 == byte)
        .ok_or_else(|| Error::corrupt(format!("label join: no stage {byte}")))
}

fn put_rows(out: &mut Encoder, held: &Held) -> Result<()> {
    let rows = concat_batches(&held.schema, &held.batches).map_err(internal)?;
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &held.schema).map_err(internal)?;
    writer.write(&rows).map_err(internal)?;
    out.put_bytes(&writer.into_inner().map_err(internal)?);
    Ok(())
}

fn get_rows(d: &mut Decoder, schema: &SchemaRef) -> Result<RecordBatch> {
    let corrupt = |e| Error::corrupt(format!("label join rows: {e}"));
    let mut reader = arrow::ipc::reader::StreamReader::try_new(d.bytes()?, None).map_err(corrupt)?;
    let batch = reader.next().ok_or_else(|| Error::corrupt("label join rows: missing"))?.map_err(corrupt)?;
    if batch.schema().fields() != schema.fields() {
        return Err(Error::conflict("the checkpoint's columns are not those of this program"));
    }
    Ok(batch)
}

fn internal(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("label join: {e}"))
}
