//! One type of feedback: what waits for its impression, and what each impression has taken from what matched.
//!
//! In: feedback rows, and the slots of impressions with their keys. Out: for each sample row that leaves, the columns that
//! this feedback gives it. Which impressions are there, and when they leave, is the join's.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Float64Type, SchemaRef},
};
use tidemill_base::{Error, Result};

use super::{
    FeedbackSpec, NO_SEQ, Take,
    index::{Chained, Index, NONE, NULL_KEY, Spot, hash_keys},
    rows::{KeptRows, RowRef},
    slab::Slab,
    time_queue::TimeQueue,
};

/// What the slab of feedback takes for one row, about.
const FEEDBACK_BYTES: usize = 64;
/// What an impression takes for one type of feedback, about. `pending_bytes_max` decides by it, so it stays as it is whatever
/// the slabs look like.
pub(super) const LINK_BYTES: usize = 80;

/// A feedback row that may yet meet an impression.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Feedback {
    pub key: u64,
    pub ts: i64,
    /// [`NO_SEQ`] where the slot is free.
    pub arrival: u64,
    pub row: RowRef,
    pub matched: bool,
    pub next: u32,
}

impl Chained for Feedback {
    fn key(&self) -> u64 {
        self.key
    }

    fn next(&self) -> u32 {
        self.next
    }

    fn set_next(&mut self, next: u32) {
        self.next = next;
    }
}

/// An impression as this feedback sees it: what every event looks at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub key: u64,
    pub next: u32,
    /// Feedback rows that matched.
    pub matches: u32,
    /// Where in [`Side::taken`] the matched rows are, or [`NONE`].
    pub taken: u32,
}

impl Chained for Link {
    fn key(&self) -> u64 {
        self.key
    }

    fn next(&self) -> u32 {
        self.next
    }

    fn set_next(&mut self, next: u32) {
        self.next = next;
    }
}

/// Rows that an impression has taken, with their times. Few impressions have any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub first: Option<(i64, RowRef)>,
    pub last: Option<(i64, RowRef)>,
}

/// One type of feedback.
pub(super) struct Side {
    pub spec: FeedbackSpec,
    /// Whether rows of one hash may have two keys. Of other types the hash is a bijection.
    pub key_is_text: bool,
    pub rows: KeptRows,
    /// Impressions by their key for this feedback.
    pub index: Index,
    /// By the impression's slot.
    pub links: Slab<Link>,
    /// By [`Link::taken`]; those that are free hold nothing.
    pub taken: Slab<Taken>,
    taken_free: Vec<u32>,
    /// By the impression's slot, a number for each of `counted`.
    pub numbers: Slab<f64>,
    /// Columns that are counted or summed, with how.
    pub counted: Vec<(usize, Take)>,
    takes_last: bool,
    pub feedback: Slab<Feedback>,
    feedback_free: Vec<u32>,
    feedback_index: Index,
    pub expiry: TimeQueue,
    pub next_feedback: u64,
    /// Of each row that leaves: the first match, the last, and the numbers.
    firsts: Vec<RowRef>,
    lasts: Vec<RowRef>,
    out_numbers: Vec<f64>,
    /// Rows to let go of once gathered.
    done: Vec<RowRef>,
    done_bytes: usize,
}

impl Side {
    /// Nothing waits. `measures`: whether bytes are bounded.
    pub fn new(spec: FeedbackSpec, schema: &SchemaRef, allowed_lateness_ms: i64, measures: bool) -> Result<Self> {
        if spec.takes.len() != schema.fields().len() {
            return Err(Error::internal(format!("{} takes of {} columns", spec.takes.len(), schema.fields().len())));
        }
        let counted: Vec<(usize, Take)> = spec.takes.iter().copied().enumerate().filter(|t| is_number(t.1)).collect();
        for (column, take) in &counted {
            let field = schema.field(*column);
            if *take != Take::Count && *field.data_type() != DataType::Float64 {
                let (name, ty) = (field.name(), field.data_type());
                return Err(Error::invalid(format!("{take:?} of '{name}', which is {ty}; cast it to DOUBLE")));
            }
        }
        let key_is_text = *schema.field(spec.right_key).data_type() == DataType::Utf8;
        let compared = counted.iter().map(|(column, _)| *column).chain(key_is_text.then_some(spec.right_key));
        Ok(Self {
            key_is_text,
            rows: KeptRows::new(schema.clone(), measures, compared),
            index: Index::default(),
            links: Slab::default(),
            taken: Slab::default(),
            taken_free: Vec::new(),
            numbers: Slab::default(),
            counted,
            takes_last: spec.takes.contains(&Take::Last),
            feedback: Slab::default(),
            feedback_free: Vec::new(),
            feedback_index: Index::default(),
            expiry: TimeQueue::new(spec.window_ms.saturating_add(allowed_lateness_ms)),
            next_feedback: 0,
            firsts: Vec::new(),
            lasts: Vec::new(),
            out_numbers: Vec::new(),
            done: Vec::new(),
            done_bytes: 0,
            spec,
        })
    }

    /// Columns this feedback gives.
    pub fn fields(&self) -> impl Iterator<Item = Arc<Field>> {
        self.rows.schema().fields().iter().zip(&self.spec.takes).map(|(field, take)| {
            let ty = match take {
                Take::First | Take::Last => field.data_type().clone(),
                Take::Count => DataType::Int64,
                Take::Sum | Take::Max => DataType::Float64,
            };
            Arc::new(Field::new(field.name(), ty, true))
        })
    }

    /// The hashes of feedback rows' keys.
    pub fn hash(&self, rows: &RecordBatch) -> Result<Vec<u64>> {
        hash_keys(rows.column(self.spec.right_key).as_ref())
    }

    /// Whether feedback of this time is in the window of an impression of that.
    pub fn holds(&self, impression_ts: i64, ts: i64) -> bool {
        impression_ts <= ts && ts <= impression_ts.saturating_add(self.spec.window_ms)
    }

    /// An impression has a slot from here on.
    pub fn insert(&mut self, slot: u32, spot: Spot) {
        let next = if spot.key == NULL_KEY { NONE } else { self.index.insert(spot, slot) };
        let link = Link { key: spot.key, next, matches: 0, taken: NONE };
        let (at, width) = (slot as usize, self.counted.len());
        self.links.put(at, link);
        for (i, (_, take)) in self.counted.iter().enumerate() {
            self.numbers.put(at * width + i, if *take == Take::Count { 0.0 } else { f64::NAN });
        }
    }

    /// The impression's slot is free again.
    pub fn remove(&mut self, slot: u32) {
        if self.links[slot as usize].key != NULL_KEY {
            self.index.unlink(slot, &mut self.links);
        }
    }

    /// The matched rows of an impression.
    pub fn taken(&self, slot: u32) -> Taken {
        self.taken.get(self.links[slot as usize].taken as usize).copied().unwrap_or_default()
    }

    /// The same, to be written.
    pub fn taken_mut(&mut self, slot: u32) -> &mut Taken {
        let mut at = self.links[slot as usize].taken;
        if at == NONE {
            at = self.taken_free.pop().unwrap_or(self.taken.len() as u32);
            self.taken.put(at as usize, Taken::default());
            self.links[slot as usize].taken = at;
        }
        &mut self.taken[at as usize]
    }

    /// Whether a match of this time would change what the impression has taken.
    pub fn changes(&self, slot: u32, ts: i64) -> bool {
        self.takes_last || !self.counted.is_empty() || self.taken(slot).first.is_none_or(|(first, _)| ts < first)
    }

    /// The impression takes what it takes from a feedback row. Rows must come in their order of arrival.
    pub fn take_in(&mut self, slot: u32, ts: i64, row: RowRef) {
        let link = &mut self.links[slot as usize];
        link.matches = link.matches.saturating_add(1);
        if self.taken(slot).first.is_none_or(|(first, _)| ts < first) {
            self.rows.hold(row);
            let before = self.taken_mut(slot).first.replace((ts, row));
            before.into_iter().for_each(|(_, row)| self.let_go_of(row));
        }
        if self.takes_last && self.taken(slot).last.is_none_or(|(last, _)| ts >= last) {
            self.rows.hold(row);
            let before = self.taken_mut(slot).last.replace((ts, row));
            before.into_iter().for_each(|(_, row)| self.let_go_of(row));
        }
        let width = self.counted.len();
        for (i, (column, take)) in self.counted.iter().enumerate() {
            let number = &mut self.numbers[slot as usize * width + i];
            let values = self.rows.column(*column, row.batch);
            if values.is_null(row.row as usize) {
                continue;
            }
            if *take == Take::Count {
                *number += 1.0;
                continue;
            }
            let value = values.as_primitive::<Float64Type>().value(row.row as usize);
            if value.is_nan() {
                continue;
            }
            *number = match take {
                _ if number.is_nan() => value,
                Take::Max if value <= *number => *number,
                Take::Max => value,
                _ => *number + value,
            };
        }
    }

    /// An impression came: it takes all that waits for it, in the order of arrival. Whether there was any.
    pub fn meet(&mut self, slot: u32, ts: i64, left: &KeptRows, row: RowRef) -> bool {
        let key = self.links[slot as usize].key;
        if self.feedback_index.find(key, &self.feedback) == NONE {
            return false;
        }
        let found = self.feedback_index.chain(key, &self.feedback).filter(|&f| {
            let f = &self.feedback[f as usize];
            self.holds(ts, f.ts) && self.same_key(left, row, f.row)
        });
        let mut found: Vec<u32> = found.collect();
        // Newest first is the order of the chain, and mostly there is none.
        found.sort_unstable_by_key(|&f| self.feedback[f as usize].arrival);
        for &f in &found {
            let Feedback { ts, row, .. } = self.feedback[f as usize];
            self.feedback[f as usize].matched = true;
            self.take_in(slot, ts, row);
        }
        !found.is_empty()
    }

    /// Whether the two rows have one key: equal hashes are known.
    pub fn same_key(&self, left: &KeptRows, impression: RowRef, feedback: RowRef) -> bool {
        !self.key_is_text
            || super::rows::same_text(
                left.column(self.spec.left_key, impression.batch),
                impression.row,
                self.rows.column(self.spec.right_key, feedback.batch),
                feedback.row,
            )
    }

    /// Keeps a feedback row for impressions that are still to come.
    pub fn keep(&mut self, key: u64, ts: i64, row: RowRef, matched: bool) {
        let arrival = self.next_feedback;
        self.next_feedback += 1;
        self.rows.hold(row);
        self.insert_feedback(Feedback { key, ts, arrival, row, matched, next: NONE });
    }

    pub fn insert_feedback(&mut self, mut f: Feedback) {
        let slot = self.feedback_free.pop().unwrap_or(self.feedback.len() as u32);
        self.expiry.push(f.ts, f.arrival, slot);
        f.next = self.feedback_index.insert(self.feedback_index.look_up(f.key, &self.feedback), slot);
        self.feedback.put(slot as usize, f);
    }

    /// No impression of this feedback's time can come. Whether it had matched.
    pub fn drop_feedback(&mut self, slot: u32) -> bool {
        self.feedback_index.unlink(slot, &mut self.feedback);
        self.feedback_free.push(slot);
        let f = &mut self.feedback[slot as usize];
        f.arrival = NO_SEQ;
        let Feedback { row, matched, .. } = *f;
        self.let_go_of(row);
        matched
    }

    /// A row is not needed any more, once those that leave with it are gathered.
    fn let_go_of(&mut self, row: RowRef) {
        self.done_bytes += self.rows.row_bytes(row);
        self.done.push(row);
    }

    /// Feedback rows that wait.
    pub fn waiting(&self) -> usize {
        self.feedback.len() - self.feedback_free.len()
    }

    /// A row of the impression leaves with what it has taken by now.
    #[inline]
    pub fn collect(&mut self, slot: u32) {
        let (mut first, mut last) = (RowRef::NONE, RowRef::NONE);
        if self.links[slot as usize].taken != NONE {
            let taken = self.taken(slot);
            first = taken.first.map_or(first, |f| f.1);
            last = taken.last.map_or(last, |l| l.1);
        }
        self.firsts.push(first);
        if self.takes_last {
            self.lasts.push(last);
        }
        let width = self.counted.len();
        if width > 0 {
            self.out_numbers.extend((0..width).map(|i| self.numbers[slot as usize * width + i]));
        }
    }

    /// Nothing of the impression leaves any more.
    #[inline]
    pub fn let_go(&mut self, slot: u32) {
        let at = self.links[slot as usize].taken;
        if at != NONE {
            self.links[slot as usize].taken = NONE;
            let Taken { first, last } = std::mem::take(&mut self.taken[at as usize]);
            first.into_iter().chain(last).for_each(|(_, row)| self.let_go_of(row));
            self.taken_free.push(at);
        }
    }

    /// The columns of the rows that leave.
    pub fn gather(&mut self) -> Result<Vec<ArrayRef>> {
        let (firsts, lasts) = (std::mem::take(&mut self.firsts), std::mem::take(&mut self.lasts));
        let numbers = std::mem::take(&mut self.out_numbers);
        let takes = &self.spec.takes;
        let of = |wanted: Take| (0..takes.len()).filter(move |&c| takes[c] == wanted);
        let mut first = self.rows.gather_columns(&firsts, of(Take::First))?.into_iter();
        let mut last = match self.takes_last {
            true => self.rows.gather_columns(&lasts, of(Take::Last))?.into_iter(),
            false => Vec::new().into_iter(),
        };
        let (width, mut at) = (self.counted.len(), 0..);
        let mut number = || numbers.iter().skip(at.next().expect("it never ends")).step_by(width.max(1));
        let one = |take: &Take| -> ArrayRef {
            match take {
                Take::First => first.next().expect("one for each"),
                Take::Last => last.next().expect("one for each"),
                Take::Count => Arc::new(Int64Array::from_iter_values(number().map(|n| *n as i64))),
                Take::Sum | Take::Max => {
                    Arc::new(Float64Array::from_iter(number().map(|n| (!n.is_nan()).then_some(*n))))
                }
            }
        };
        let columns = self.spec.takes.iter().map(one).collect();
        self.rows.release(&std::mem::take(&mut self.done));
        self.done_bytes = 0;
        Ok(columns)
    }

    /// Bytes that are held, less what leaves with the next rows.
    pub fn held_bytes(&self) -> usize {
        self.rows.held_bytes() - self.done_bytes + self.waiting() * FEEDBACK_BYTES
    }

    /// Memory of slabs, indexes and queues, about.
    pub fn index_bytes(&self) -> usize {
        self.feedback.bytes()
            + self.links.bytes()
            + self.taken.bytes()
            + self.index.bytes()
            + self.feedback_index.bytes()
            + self.expiry.bytes()
            + self.numbers.bytes()
    }
}

fn is_number(take: Take) -> bool {
    matches!(take, Take::Count | Take::Sum | Take::Max)
}
