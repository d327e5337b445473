//! The join's part of a checkpoint: what waits, with its rows, in arrival order.
//!
//! A restored join answers every later push bit for bit as the one that was saved: slots and batches are numbered anew,
//! arrival numbers and event times are kept, and only those decide.

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{Feedback, LabelJoin, NONE, Pending, RowRef, Stage, rows::KeptRows};

const GONE: RowRef = RowRef { batch: 0, row: 0 };

impl LabelJoin {
    /// Appends all that waits.
    pub fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.put_i64(self.watermark).put_u64(self.next_seq).put_u64(self.next_feedback);
        for count in self.counts.as_array() {
            out.put_u64(count);
        }
        let mut pending: Vec<&Pending> = self.pending.iter().filter(|p| p.seq != u64::MAX).collect();
        pending.sort_unstable_by_key(|p| p.seq);
        out.put_varint(pending.len() as u64);
        for p in &pending {
            out.put_u64(p.key).put_i64(p.ts).put_u64(p.seq).put_u8(p.stage as u8);
            out.put_u8(p.matched.is_some() as u8).put_i64(p.matched.map_or(0, |m| m.0));
        }
        let open = || pending.iter().filter(|p| p.stage != Stage::Done);
        put_rows(out, &self.left_rows, open().map(|p| p.row))?;
        put_rows(out, &self.right_rows, open().filter_map(|p| p.matched.map(|m| m.1)))?;

        let free: std::collections::BTreeSet<u32> = self.feedback_free.iter().copied().collect();
        let mut feedback: Vec<&Feedback> =
            self.feedback.iter().enumerate().filter(|(i, _)| !free.contains(&(*i as u32))).map(|(_, f)| f).collect();
        feedback.sort_unstable_by_key(|f| f.arrival);
        out.put_varint(feedback.len() as u64);
        for f in &feedback {
            out.put_u64(f.key).put_i64(f.ts).put_u64(f.arrival).put_u8(f.matched as u8);
        }
        put_rows(out, &self.right_rows, feedback.iter().map(|f| f.row))
    }

    /// Fills an empty join with what [`LabelJoin::encode`] wrote.
    pub fn restore(&mut self, d: &mut Decoder) -> Result<()> {
        self.watermark = d.i64()?;
        self.next_seq = d.u64()?;
        self.next_feedback = d.u64()?;
        let mut counts = [0; 10];
        for count in &mut counts {
            *count = d.u64()?;
        }
        self.counts = super::JoinCounts::from_array(counts);

        let n = d.count(34)?;
        let mut pending = Vec::with_capacity(n);
        for _ in 0..n {
            let (key, ts, seq, stage) = (d.u64()?, d.i64()?, d.u64()?, stage_of(d.u8()?)?);
            let (is_matched, matched_ts) = (d.u8()? != 0, d.i64()?);
            pending.push(Pending {
                key,
                ts,
                seq,
                stage,
                row: GONE,
                matched: is_matched.then_some((matched_ts, GONE)),
                next: NONE,
            });
        }
        let left = get_rows(d, self.left_rows.schema())?;
        let matched = get_rows(d, self.right_rows.schema())?;
        let n = d.count(25)?;
        let mut feedback = Vec::with_capacity(n);
        for _ in 0..n {
            let (key, ts, arrival, matched) = (d.u64()?, d.i64()?, d.u64()?, d.u8()? != 0);
            feedback.push(Feedback { key, ts, arrival, row: GONE, matched, next: NONE });
        }
        let waiting = get_rows(d, self.right_rows.schema())?;

        let open = pending.iter().filter(|p| p.stage != Stage::Done);
        let open_matched = open.clone().filter(|p| p.matched.is_some()).count();
        if open.count() != left.num_rows() || open_matched != matched.num_rows() || n != waiting.num_rows() {
            return Err(Error::corrupt("label join: checkpoint holds another number of rows than of entries"));
        }
        let right = concat_batches(self.right_rows.schema(), [&matched, &waiting])
            .map_err(|e| Error::corrupt(format!("label join: {e}")))?;
        self.refill(pending, left, feedback, matched.num_rows() as u32, right);
        Ok(())
    }

    fn refill(
        &mut self,
        pending: Vec<Pending>,
        left: RecordBatch,
        feedback: Vec<Feedback>,
        first_waiting: u32,
        right: RecordBatch,
    ) {
        let left_batch = self.left_rows.add(left);
        let right_batch = self.right_rows.add(right);
        let (mut next_left, mut next_matched, mut next_waiting) = (0, 0, first_waiting);
        let take = |batch: u64, next: &mut u32| {
            *next += 1;
            RowRef { batch, row: *next - 1 }
        };
        for mut p in pending {
            if p.stage != Stage::Done {
                self.open_count += 1;
                p.row = take(left_batch, &mut next_left);
                self.left_rows.hold(p.row);
                if let Some((_, row)) = &mut p.matched {
                    *row = take(right_batch, &mut next_matched);
                    self.right_rows.hold(*row);
                }
            }
            self.insert_pending(p);
        }
        for mut f in feedback {
            f.row = take(right_batch, &mut next_waiting);
            self.right_rows.hold(f.row);
            self.insert_feedback(f);
        }
        self.left_rows.settle(left_batch);
        self.right_rows.settle(right_batch);
    }
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
    [Stage::Waiting, Stage::EarlyNegative, Stage::Done]
        .into_iter()
        .find(|s| *s as u8 == byte)
        .ok_or_else(|| Error::corrupt(format!("label join: no stage {byte}")))
}

fn put_rows(out: &mut Encoder, kept: &KeptRows, rows: impl Iterator<Item = RowRef>) -> Result<()> {
    let rows: Vec<Option<RowRef>> = rows.map(Some).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    // Gathering makes columns nullable where a NULL could stand for "no row"; here there is none.
    let batch =
        RecordBatch::try_new_with_options(kept.schema().clone(), kept.gather(&rows)?, &options).map_err(internal)?;
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), kept.schema()).map_err(internal)?;
    writer.write(&batch).map_err(internal)?;
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
