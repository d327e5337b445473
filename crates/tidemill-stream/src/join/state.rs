//! The join's part of a checkpoint: what waits, with its rows, in arrival order.
//!
//! A restored join answers every later push bit for bit as the one that was saved: slots and batches are numbered anew,
//! arrival numbers and event times are kept, and only those decide. Saving is in two halves: [`LabelJoin::encode`] copies
//! who waits as it lies in memory and takes hold of the batches, which never change, so that [`JoinRows::encode`] can put
//! all of it in order and write it on another thread while the join goes on.

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{
    JoinCounts, LabelJoin, NO_SEQ, Pending, RowRef, Stage,
    index::NONE,
    rows::Held,
    side::{Feedback, Link, Side, Taken},
};

const GONE: RowRef = RowRef { batch: 0, row: 0 };
/// Instead of a row: there is none.
const NO_ROW: u64 = u64::MAX;
/// Bytes of an impression and of its part for each feedback, and of a feedback row, at least.
const PENDING_BYTES: usize = 25;
const FEEDBACK_BYTES: usize = 33;

/// What waits, with its rows, as of the moment of saving.
pub struct JoinRows {
    pending: Vec<Pending>,
    left: Held,
    sides: Vec<Waiting>,
}

/// What waits on one side.
struct Waiting {
    links: Vec<Link>,
    taken: Vec<Taken>,
    /// So many for each impression.
    width: usize,
    numbers: Vec<f64>,
    feedback: Vec<Feedback>,
    feedback_free: Vec<u32>,
    next_feedback: u64,
    rows: Held,
}

impl JoinRows {
    /// Appends who waits, then all rows: impressions, then feedback, type by type.
    pub fn encode(&self, out: &mut Encoder) -> Result<()> {
        let mut pending: Vec<usize> = (0..self.pending.len()).filter(|&i| self.pending[i].seq != NO_SEQ).collect();
        pending.sort_unstable_by_key(|&i| self.pending[i].seq);
        out.put_varint(pending.len() as u64);
        for slot in pending {
            let p = &self.pending[slot];
            let left = if p.stage.has_row() { self.left.index(p.row) } else { NO_ROW };
            out.put_i64(p.ts).put_u64(p.seq).put_u8(p.stage as u8).put_u64(left);
            self.sides.iter().for_each(|side| side.encode_link(slot, out));
        }
        self.sides.iter().for_each(|side| side.encode_feedback(out));
        put_rows(out, &self.left)?;
        self.sides.iter().try_for_each(|side| put_rows(out, &side.rows))
    }
}

impl LabelJoin {
    /// Appends what was counted, and takes hold of what waits as it is now.
    pub fn encode(&self, out: &mut Encoder) -> JoinRows {
        out.put_i64(self.watermark).put_u64(self.next_seq);
        for count in self.counts.as_array() {
            out.put_u64(count);
        }
        let sides = self.sides.iter().map(Side::waiting_now).collect();
        JoinRows { pending: self.pending.clone(), left: self.left_rows.held(), sides }
    }

    /// Takes back what was counted; [`LabelJoin::restore_rows`] must follow.
    pub fn restore(&mut self, d: &mut Decoder) -> Result<()> {
        self.watermark = d.i64()?;
        self.next_seq = d.u64()?;
        let mut counts = [0; COUNTS];
        for count in &mut counts {
            *count = d.u64()?;
        }
        self.counts = JoinCounts::from_array(counts);
        Ok(())
    }

    /// Fills an empty join with who waits and their rows: what [`JoinRows::encode`] wrote.
    pub fn restore_rows(&mut self, d: &mut Decoder) -> Result<()> {
        for _ in 0..d.count(PENDING_BYTES)? {
            let (ts, seq, stage, left) = (d.i64()?, d.u64()?, stage_of(d.u8()?)?, d.u64()?);
            if stage.has_row() == (left == NO_ROW) {
                return Err(Error::corrupt("label join: an impression waits without its row"));
            }
            let links: Vec<_> = self.sides.iter().map(|side| side.decode_link(d)).collect::<Result<_>>()?;
            let slot =
                self.insert_pending(Pending { ts, seq, stage, row: row(left) }, links.iter().map(|link| link.key));
            self.sides.iter_mut().zip(links).for_each(|(side, link)| side.restore_link(slot as usize, link));
        }
        self.sides.iter_mut().try_for_each(|side| side.decode_feedback(d))?;
        let left = get_rows(d, self.left_rows.schema())?;
        let count = left.num_rows();
        let batch = self.left_rows.add(left);
        for p in self.pending.iter_mut().filter(|p| p.stage.has_row()) {
            p.row = placed(p.row, batch, count)?;
            self.left_rows.hold(p.row);
        }
        self.left_rows.settle(batch);
        self.sides.iter_mut().try_for_each(|side| side.restore_rows(d))
    }
}

/// What an impression has of one feedback, as it was saved.
struct SavedLink {
    key: u64,
    matches: u32,
    first: Option<(i64, RowRef)>,
    last: Option<(i64, RowRef)>,
    numbers: Vec<f64>,
}

impl Waiting {
    fn encode_link(&self, slot: usize, out: &mut Encoder) {
        let link = &self.links[slot];
        let taken = self.taken.get(link.taken as usize).copied().unwrap_or_default();
        out.put_u64(link.key).put_u32(link.matches);
        let has = |taken: &Option<(i64, RowRef)>, flag: u8| if taken.is_some() { flag } else { 0 };
        out.put_u8(has(&taken.first, 1) | has(&taken.last, 2));
        for (ts, row) in taken.first.iter().chain(&taken.last) {
            out.put_i64(*ts).put_u64(self.rows.index(*row));
        }
        self.numbers[slot * self.width..][..self.width].iter().for_each(|number| _ = out.put_f64(*number));
    }

    fn encode_feedback(&self, out: &mut Encoder) {
        out.put_u64(self.next_feedback);
        let mut is_free = vec![false; self.feedback.len()];
        self.feedback_free.iter().for_each(|i| is_free[*i as usize] = true);
        let mut feedback: Vec<&Feedback> =
            self.feedback.iter().zip(is_free).filter(|(_, is_free)| !is_free).map(|(f, _)| f).collect();
        feedback.sort_unstable_by_key(|f| f.arrival);
        out.put_varint(feedback.len() as u64);
        for f in &feedback {
            out.put_u64(f.key).put_i64(f.ts).put_u64(f.arrival).put_u8(f.matched as u8).put_u64(self.rows.index(f.row));
        }
    }
}

impl Side {
    fn waiting_now(&self) -> Waiting {
        Waiting {
            links: self.links.clone(),
            taken: self.taken.clone(),
            width: self.counted.len(),
            numbers: self.numbers.clone(),
            feedback: self.feedback.clone(),
            feedback_free: self.feedback_free.clone(),
            next_feedback: self.next_feedback,
            rows: self.rows.held(),
        }
    }

    fn decode_link(&self, d: &mut Decoder) -> Result<SavedLink> {
        let (key, matches, has) = (d.u64()?, d.u32()?, d.u8()?);
        if has > 3 {
            return Err(Error::corrupt(format!("label join: an impression has {has} of its feedback")));
        }
        let mut taken = |flag: u8| (has & flag != 0).then(|| Ok((d.i64()?, row(d.u64()?)))).transpose();
        let (first, last) = (taken(1)?, taken(2)?);
        let numbers = self.counted.iter().map(|_| d.f64()).collect::<Result<_>>()?;
        Ok(SavedLink { key, matches, first, last, numbers })
    }

    fn restore_link(&mut self, slot: usize, saved: SavedLink) {
        self.links[slot].matches = saved.matches;
        if saved.first.is_some() || saved.last.is_some() {
            *self.taken_mut(slot as u32) = Taken { first: saved.first, last: saved.last };
        }
        let width = self.counted.len();
        self.numbers[slot * width..][..width].copy_from_slice(&saved.numbers);
    }

    fn decode_feedback(&mut self, d: &mut Decoder) -> Result<()> {
        self.next_feedback = d.u64()?;
        for _ in 0..d.count(FEEDBACK_BYTES)? {
            let (key, ts, arrival, matched) = (d.u64()?, d.i64()?, d.u64()?, d.u8()? != 0);
            self.insert_feedback(Feedback { key, ts, arrival, row: row(d.u64()?), matched, next: NONE });
        }
        Ok(())
    }

    fn restore_rows(&mut self, d: &mut Decoder) -> Result<()> {
        let rows = get_rows(d, self.rows.schema())?;
        let count = rows.num_rows();
        let batch = self.rows.add(rows);
        for taken in &mut self.taken {
            for (_, row) in taken.first.iter_mut().chain(&mut taken.last) {
                *row = placed(*row, batch, count)?;
                self.rows.hold(*row);
            }
        }
        for f in &mut self.feedback {
            f.row = placed(f.row, batch, count)?;
            self.rows.hold(f.row);
        }
        self.rows.settle(batch);
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

const COUNTS: usize = 18;

macro_rules! counts {
    ($($name:ident),*) => {
        impl JoinCounts {
            fn as_array(&self) -> [u64; COUNTS] {
                let Self { $($name),* } = *self;
                [$($name),*]
            }

            fn from_array([$($name),*]: [u64; COUNTS]) -> Self {
                Self { $($name),* }
            }
        }
    };
}

counts!(
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
    corrected_behind_close,
    corrections_left_out,
    negatives_left_out,
    feedback_released,
    closed_positives,
    closed_late_positives,
    late_let_in,
    conflicting_impressions
);

fn stage_of(byte: u8) -> Result<Stage> {
    Stage::ALL
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
