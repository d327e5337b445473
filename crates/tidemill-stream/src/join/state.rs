//! The join's part of a checkpoint: who waits, in arrival order. The rows they wait with are in parts ([`super::parts`]).
//!
//! A restored join answers every later push bit for bit as the one that was saved: slots are numbered anew, batches, arrival
//! numbers and event times are kept, and only those decide. Saving is in two halves: [`LabelJoin::encode`] takes hold of the
//! blocks in which who waits lies, each of which is copied when it next changes, and of the new batches, which never change;
//! so that [`JoinRows::encode`] and [`JoinRows::blocks`] can put all of it in order and write it on another thread while the
//! join goes on. Times and numbers are written as the distance from what stands before them, so most are a byte or two.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{
    JoinCounts, LabelJoin, NO_SEQ, Pending, RestoringRows, RowRef, Stage,
    index::NONE,
    rows::{Held, KeptRows},
    side::{Feedback, Link, Side, Taken},
    slab::Frozen,
};

/// Bytes of an impression, of its part for each feedback, and of a feedback row, at least.
const PENDING_BYTES: usize = 3;
const LINK_BYTES: usize = 10;
const FEEDBACK_BYTES: usize = 13;

/// What waits, as of the moment of saving.
pub struct JoinRows {
    pending: Frozen<Pending>,
    sides: Vec<Waiting>,
    /// Impressions first, then feedback, type by type.
    pub(super) rows: Vec<Held>,
}

/// What waits on one side.
struct Waiting {
    links: Frozen<Link>,
    taken: Frozen<Taken>,
    /// So many for each impression.
    width: usize,
    numbers: Frozen<f64>,
    feedback: Frozen<Feedback>,
    next_feedback: u64,
}

impl JoinRows {
    /// Appends who waits, and lets go of the blocks they are in: what the join writes to from here on is copied no more.
    pub fn encode(&mut self, out: &mut Encoder) {
        let (slots, sides) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.sides));
        self.rows.iter().for_each(|side| _ = out.put_u64(side.next));
        let numbered = slots.iter().zip(0u32..).filter(|(p, _)| p.seq != NO_SEQ);
        let mut pending: Vec<(u64, u32)> = numbered.map(|(p, slot)| (p.seq, slot)).collect();
        pending.sort_unstable();
        out.put_varint(pending.len() as u64);
        let (mut ts, mut seq, mut left) = (Near(0), Near(0), Near(0));
        let mut rows = vec![Near(0); sides.len()];
        for slot in pending.into_iter().map(|(_, slot)| slot as usize) {
            let p = &slots[slot];
            ts.put(p.ts, out);
            seq.put(p.seq as i64, out);
            out.put_u8(p.stage as u8);
            if p.stage.has_row() {
                left.put_row(p.row, out);
            }
            sides.iter().zip(&mut rows).for_each(|(side, near)| side.encode_link(slot, p.ts, near, out));
        }
        sides.iter().zip(&mut rows).for_each(|(side, near)| side.encode_feedback(near, out));
    }
}

impl LabelJoin {
    /// Appends what was counted, and takes hold of what waits as it is now; of the rows those that no part has yet, or all.
    pub fn encode(&mut self, whole: bool, out: &mut Encoder) -> JoinRows {
        out.put_i64(self.watermark).put_u64(self.next_seq);
        for count in self.counts.as_array() {
            out.put_u64(count);
        }
        let rows = std::iter::once(&mut self.left_rows).chain(self.sides.iter_mut().map(|side| &mut side.rows));
        let rows = rows.map(|rows| rows.held(whole)).collect();
        JoinRows { pending: self.pending.freeze(), sides: self.sides.iter_mut().map(Side::waiting_now).collect(), rows }
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

    /// Fills an empty join with who waits, what [`JoinRows::encode`] wrote, and the rows of all parts.
    pub fn restore_rows(&mut self, d: &mut Decoder, rows: RestoringRows) -> Result<()> {
        let mut rows = rows.sides.into_iter();
        self.left_rows = rows.next().ok_or_else(|| Error::internal("label join: restored without rows"))?;
        self.sides.iter_mut().zip(rows).for_each(|(side, rows)| side.rows = rows);
        self.left_rows.skip_to(d.u64()?)?;
        self.sides.iter_mut().try_for_each(|side| side.rows.skip_to(d.u64()?))?;
        let (mut ts, mut seq, mut left) = (Near(0), Near(0), Near(0));
        let mut near = vec![Near(0); self.sides.len()];
        let mut spots = Vec::with_capacity(self.sides.len());
        for _ in 0..d.count(PENDING_BYTES + LINK_BYTES * self.sides.len())? {
            let (ts, seq, stage) = (ts.get(d)?, seq.get(d)? as u64, stage_of(d.u8()?)?);
            let row = if stage.has_row() { hold(&mut self.left_rows, left.get_row(d)?)? } else { RowRef::NONE };
            let links: Vec<_> = self
                .sides
                .iter()
                .zip(&mut near)
                .map(|(side, near)| side.decode_link(ts, near, d))
                .collect::<Result<_>>()?;
            let keys = links.iter().map(|link| link.key);
            spots.clear();
            spots.extend(self.sides.iter().zip(keys).map(|(side, key)| side.index.look_up(key, &side.links)));
            let slot = self.insert_pending(Pending { ts, seq, stage, row }, &spots);
            self.sides.iter_mut().zip(links).try_for_each(|(side, link)| side.restore_link(slot as usize, link))?;
        }
        self.sides.iter_mut().zip(&mut near).try_for_each(|(side, near)| side.decode_feedback(near, d))?;
        self.left_rows.settle_all();
        self.sides.iter_mut().for_each(|side| side.rows.settle_all());
        self.make_room()
    }
}

/// A number that is near the one before it.
#[derive(Clone, Copy)]
struct Near(i64);

impl Near {
    fn put(&mut self, x: i64, out: &mut Encoder) {
        let distance = x.wrapping_sub(std::mem::replace(&mut self.0, x));
        out.put_varint((distance << 1 ^ distance >> 63) as u64);
    }

    fn get(&mut self, d: &mut Decoder) -> Result<i64> {
        let folded = d.varint()?;
        self.0 = self.0.wrapping_add((folded >> 1) as i64 ^ -((folded & 1) as i64));
        Ok(self.0)
    }

    fn put_row(&mut self, RowRef { batch, row }: RowRef, out: &mut Encoder) {
        self.put(batch as i64, out);
        out.put_varint(row.into());
    }

    fn get_row(&mut self, d: &mut Decoder) -> Result<RowRef> {
        let (batch, row) = (self.get(d)? as u64, d.varint()?);
        // A row beyond is in no batch, and is refused there.
        Ok(RowRef { batch, row: row.min(u32::MAX.into()) as u32 })
    }
}

fn hold(rows: &mut KeptRows, at: RowRef) -> Result<RowRef> {
    if !rows.has(at) {
        let RowRef { batch, row } = at;
        return Err(Error::corrupt(format!("label join: row {row} of batch {batch} is in no part of the checkpoint")));
    }
    rows.hold(at);
    Ok(at)
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
    fn encode_link(&self, slot: usize, ts: i64, near: &mut Near, out: &mut Encoder) {
        let link = &self.links[slot];
        let taken = self.taken.get(link.taken as usize).copied().unwrap_or_default();
        let has = |taken: &Option<(i64, RowRef)>, flag: u8| if taken.is_some() { flag } else { 0 };
        out.put_u64(link.key).put_varint(link.matches.into()).put_u8(has(&taken.first, 1) | has(&taken.last, 2));
        for (at, row) in taken.first.iter().chain(&taken.last) {
            Near(ts).put(*at, out);
            near.put_row(*row, out);
        }
        (slot * self.width..(slot + 1) * self.width).for_each(|at| _ = out.put_f64(self.numbers[at]));
    }

    fn encode_feedback(&self, near: &mut Near, out: &mut Encoder) {
        out.put_u64(self.next_feedback);
        let mut feedback: Vec<&Feedback> = self.feedback.iter().filter(|f| f.arrival != NO_SEQ).collect();
        feedback.sort_unstable_by_key(|f| f.arrival);
        out.put_varint(feedback.len() as u64);
        let (mut ts, mut arrival) = (Near(0), Near(0));
        for f in &feedback {
            out.put_u64(f.key);
            ts.put(f.ts, out);
            arrival.put(f.arrival as i64, out);
            out.put_u8(f.matched as u8);
            near.put_row(f.row, out);
        }
    }
}

impl Side {
    fn waiting_now(&mut self) -> Waiting {
        Waiting {
            links: self.links.freeze(),
            taken: self.taken.freeze(),
            width: self.counted.len(),
            numbers: self.numbers.freeze(),
            feedback: self.feedback.freeze(),
            next_feedback: self.next_feedback,
        }
    }

    fn decode_link(&self, ts: i64, near: &mut Near, d: &mut Decoder) -> Result<SavedLink> {
        let (key, matches, has) = (d.u64()?, d.varint()?.min(u32::MAX.into()) as u32, d.u8()?);
        if has > 3 {
            return Err(Error::corrupt(format!("label join: an impression has {has} of its feedback")));
        }
        let mut taken = |flag: u8| (has & flag != 0).then(|| Ok((Near(ts).get(d)?, near.get_row(d)?))).transpose();
        let (first, last) = (taken(1)?, taken(2)?);
        let numbers = self.counted.iter().map(|_| d.f64()).collect::<Result<_>>()?;
        Ok(SavedLink { key, matches, first, last, numbers })
    }

    fn restore_link(&mut self, slot: usize, saved: SavedLink) -> Result<()> {
        self.links[slot].matches = saved.matches;
        for (_, row) in saved.first.iter().chain(&saved.last) {
            hold(&mut self.rows, *row)?;
        }
        if saved.first.is_some() || saved.last.is_some() {
            *self.taken_mut(slot as u32) = Taken { first: saved.first, last: saved.last };
        }
        let width = self.counted.len();
        saved.numbers.iter().enumerate().for_each(|(i, number)| self.numbers[slot * width + i] = *number);
        Ok(())
    }

    fn decode_feedback(&mut self, near: &mut Near, d: &mut Decoder) -> Result<()> {
        self.next_feedback = d.u64()?;
        let (mut times, mut arrivals) = (Near(0), Near(0));
        for _ in 0..d.count(FEEDBACK_BYTES)? {
            let (key, ts, arrival, matched) = (d.u64()?, times.get(d)?, arrivals.get(d)? as u64, d.u8()? != 0);
            let row = hold(&mut self.rows, near.get_row(d)?)?;
            self.insert_feedback(Feedback { key, ts, arrival, row, matched, next: NONE });
        }
        Ok(())
    }
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
