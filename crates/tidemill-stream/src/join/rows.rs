//! Rows that wait: whole batches are kept until the last row that is held in them is released.
//!
//! Nothing is copied when a row comes in; columns are gathered once, when rows leave, and what leaves as it came is a slice.
//! Batches have numbers since the stream began, which restarts keep. Where there is a place for it, the oldest go to a spill
//! file ([`KeptRows::spill_oldest`]) and come back when a row of theirs leaves; columns that an arriving event may have to be
//! compared with stay. Which batches are in memory changes nothing that comes out.

use std::collections::VecDeque;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, new_empty_array, new_null_array},
    buffer::Buffer,
    compute::{concat, interleave, take},
    datatypes::{DataType, SchemaRef},
};
use tidemill_base::{Error, Result};

use super::{
    spill::{Away, Place, Spill, SpillDir},
    wire::Wire,
};

/// A row in a kept batch. Twelve bytes: many of them lie in what is looked at for each event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(4))]
pub(super) struct RowRef {
    /// Number of the batch since the stream began.
    pub batch: u64,
    /// Row within it.
    pub row: u32,
}

impl RowRef {
    /// No row: NULL in every column.
    pub const NONE: Self = Self { batch: u64::MAX, row: 0 };
}

impl Default for RowRef {
    fn default() -> Self {
        Self::NONE
    }
}

struct Kept {
    /// `None`: only in the spill file.
    rows: Option<RecordBatch>,
    /// Columns that stay while the rows are not there, in the order of [`KeptRows::staying`].
    stays: Box<[ArrayRef]>,
    /// Where it is in a spill file, if it is in one.
    place: Option<Place>,
    held: u32,
    count: u32,
    /// Of the rows, where they are there.
    bytes: usize,
    stays_bytes: usize,
    /// The last gathering that took rows of it, and where among the batches of that it stands.
    gathered: (u64, usize),
}

impl Kept {
    fn memory(&self) -> usize {
        self.stays_bytes + if self.rows.is_some() { self.bytes } else { 0 }
    }
}

/// Batches are not numbered so far: a thousand a second would be there in nine million years.
const BATCH_MAX: u64 = 1 << 58;
/// Nor is one kept until so many came behind it, of which eight bytes each are kept as well.
const SPAN_MAX: u64 = 1 << 26;

/// Runs are copied whole where they are this long on average.
const RUN_ROWS: usize = 8;

/// Rows of one batch that stand one behind the other.
struct Run {
    first: RowRef,
    rows: usize,
}

/// A kept batch as it can be had from any thread.
pub(super) enum Source {
    /// In memory; it never changes.
    Here(RecordBatch),
    /// In a spill file.
    Away(Away),
}

/// Which batches of one side are kept at one moment, and those that a checkpoint has to take along.
pub(super) struct Held {
    pub schema: SchemaRef,
    /// The next batch's number.
    pub next: u64,
    pub new: Vec<(u64, Source)>,
    first: u64,
    kept: Vec<bool>,
}

impl Held {
    /// Whether a row of this batch is held.
    pub fn is_kept(&self, batch: u64) -> bool {
        batch.checked_sub(self.first).and_then(|at| self.kept.get(at as usize)).is_some_and(|kept| *kept)
    }
}

/// Batches of one side of the join.
pub(super) struct KeptRows {
    schema: SchemaRef,
    first: u64,
    /// In boxes: of long streams most are gone, and what is left of one is to be small.
    batches: VecDeque<Option<Box<Kept>>>,
    /// Bytes in memory.
    bytes: usize,
    /// Bytes of the rows that are held, each as often as it is; 0 unless they are measured.
    held_bytes: usize,
    measures: bool,
    /// Batches from this number on are in no part of a checkpoint.
    saved_to: u64,
    /// Columns that are read other than by gathering.
    staying: Vec<usize>,
    wire: Wire,
    spill: Option<Spill>,
    /// Batches before this number are in a spill file, or nothing is held in them.
    fresh_from: u64,
    /// Batches that came back from a spill file, the first first; some may be gone.
    read_back: VecDeque<u64>,
    read_back_bytes: usize,
    gatherings: u64,
}

impl KeptRows {
    /// No rows yet. Measuring each row that is held takes time, so it is done only where there is a bound. `compared` are
    /// columns that [`KeptRows::column`] is asked for.
    pub fn new(schema: SchemaRef, measures: bool, compared: impl IntoIterator<Item = usize>) -> Self {
        let mut staying: Vec<usize> = compared.into_iter().collect();
        staying.sort_unstable();
        staying.dedup();
        Self {
            wire: Wire::new(schema.clone()),
            schema,
            first: 0,
            batches: VecDeque::new(),
            bytes: 0,
            held_bytes: 0,
            measures,
            saved_to: 0,
            staying,
            spill: None,
            fresh_from: 0,
            read_back: VecDeque::new(),
            read_back_bytes: 0,
            gatherings: 0,
        }
    }

    /// The same without rows.
    pub fn emptied(&self) -> Self {
        let empty = Self::new(self.schema.clone(), self.measures, self.staying.iter().copied());
        let spill = self.spill.as_ref().map(Spill::another);
        Self { spill, ..empty }
    }

    /// From here on batches may go to files in this directory.
    pub fn spill_to(&mut self, dir: SpillDir) {
        self.spill = Some(Spill::new(dir));
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Keeps a batch; call [`KeptRows::settle`] once the rows to keep are held.
    pub fn add(&mut self, rows: RecordBatch) -> u64 {
        let bytes = batch_bytes(&rows);
        self.bytes += bytes;
        let count = rows.num_rows() as u32;
        let kept = Kept {
            rows: Some(rows),
            stays: Box::default(),
            place: None,
            held: 0,
            count,
            bytes,
            stays_bytes: 0,
            gathered: (0, 0),
        };
        self.batches.push_back(Some(Box::new(kept)));
        self.next() - 1
    }

    /// Keeps a batch that was saved.
    pub fn restore(&mut self, head: u32, message: Buffer) -> Result<()> {
        let rows = self.wire.decode(head, message)?;
        self.add(rows);
        Ok(())
    }

    /// The number of the next batch.
    pub fn next(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    /// Batches are numbered from `next` on, which is not before one that is kept.
    pub fn skip_to(&mut self, next: u64) -> Result<()> {
        if next < self.next() {
            return Err(Error::corrupt(format!("label join: batch {next} of rows behind {}", self.next())));
        }
        if next > BATCH_MAX || (!self.batches.is_empty() && next - self.first > SPAN_MAX) {
            let kept = self.first;
            return Err(Error::corrupt(format!(
                "label join: batch {next} of rows, which is too far behind batch {kept}"
            )));
        }
        if self.batches.is_empty() {
            self.first = next;
        } else {
            self.batches.resize_with((next - self.first) as usize, || None);
        }
        Ok(())
    }

    /// Lets a batch go in which nothing is held.
    pub fn settle(&mut self, batch: u64) {
        let at = (batch - self.first) as usize;
        if self.batches[at].as_ref().is_some_and(|k| k.held == 0) {
            let kept = self.batches[at].take().expect("just seen");
            self.bytes -= kept.memory();
            if let Some(place) = kept.place {
                self.read_back_bytes -= if kept.rows.is_some() { kept.bytes } else { 0 };
                self.spill.as_mut().expect("it has given the place").release(place);
            }
        }
        while let Some(None) = self.batches.front() {
            self.batches.pop_front();
            self.first += 1;
        }
    }

    /// Lets every batch go in which nothing is held, and takes what is left for part of a checkpoint.
    pub fn settle_all(&mut self) {
        for batch in self.first..self.next() {
            // The front may have moved on meanwhile.
            if batch >= self.first {
                self.settle(batch);
            }
        }
        self.saved_to = self.next();
    }

    /// Whether there is such a row.
    pub fn has(&self, row: RowRef) -> bool {
        let kept = row.batch.checked_sub(self.first).and_then(|at| self.batches.get(at as usize));
        kept.is_some_and(|kept| kept.as_ref().is_some_and(|kept| row.row < kept.count))
    }

    #[inline]
    pub fn hold(&mut self, row: RowRef) {
        self.held_bytes += self.row_bytes(row);
        self.kept_mut(row.batch).held += 1;
    }

    pub fn release(&mut self, rows: &[RowRef]) {
        // Neighbours mostly lie in one batch.
        for rows in rows.chunk_by(|a, b| a.batch == b.batch) {
            if self.measures {
                self.held_bytes -= rows.iter().map(|row| self.row_bytes(*row)).sum::<usize>();
            }
            let batch = rows[0].batch;
            let kept = self.kept_mut(batch);
            kept.held -= rows.len() as u32;
            if kept.held == 0 {
                self.settle(batch);
            }
        }
    }

    /// A column that stays, of any batch.
    pub fn column(&self, column: usize, batch: u64) -> &dyn Array {
        let kept = self.kept(batch);
        match &kept.rows {
            Some(rows) => rows.column(column).as_ref(),
            None => {
                let at = self.staying.binary_search(&column).expect("it was named when the side was made");
                kept.stays[at].as_ref()
            }
        }
    }

    /// Whether two keys are one text.
    pub fn same_text(&self, column: usize, a: RowRef, b: RowRef) -> bool {
        same_text(self.column(column, a.batch), a.row, self.column(column, b.batch), b.row)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes in spill files.
    pub fn spilled_bytes(&self) -> usize {
        self.spill.as_ref().map_or(0, Spill::bytes) as usize
    }

    /// Bytes of the rows that are held, each as often as it is. Follows from the rows alone, not from the batches they came
    /// in, so a restored join decides by the same numbers.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes of one row; 0 unless rows are measured, and then none is ever spilled.
    #[inline]
    pub fn row_bytes(&self, row: RowRef) -> usize {
        if self.measures { self.measured_bytes(row) } else { 0 }
    }

    fn measured_bytes(&self, row: RowRef) -> usize {
        let bytes = |column: &ArrayRef| match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value_length(row.row as usize) as usize + 4,
            t => t.primitive_width().unwrap_or(8),
        };
        self.rows(row.batch).columns().iter().map(bytes).sum()
    }

    /// Puts the oldest batch that is in no spill file into one; `false` where there is none.
    pub fn spill_oldest(&mut self) -> Result<bool> {
        let Some(spill) = &mut self.spill else { return Ok(false) };
        self.fresh_from = self.fresh_from.max(self.first);
        while let Some(kept) = self.batches.get_mut((self.fresh_from - self.first) as usize) {
            let Some(kept) = kept.as_mut().filter(|kept| kept.place.is_none()) else {
                self.fresh_from += 1;
                continue;
            };
            let rows = kept.rows.as_ref().expect("a batch is in memory or in a file");
            let mut bytes = Vec::with_capacity(kept.bytes + kept.bytes / 8 + 1024);
            let head = self.wire.encode(rows, &mut bytes)?;
            // A copy: a slice would keep all of what it is a slice of.
            let stays = self.staying.iter().map(|&column| copy(rows.column(column)));
            let stays = stays.collect::<Result<Box<[ArrayRef]>>>()?;
            kept.place = Some(spill.write(&bytes, head)?);
            kept.stays_bytes = stays.iter().map(column_bytes).sum();
            kept.stays = stays;
            kept.rows = None;
            self.bytes = self.bytes + kept.stays_bytes - kept.bytes;
            self.fresh_from += 1;
            return Ok(true);
        }
        Ok(false)
    }

    /// Of the batches that came back the first go, until those left take no more than this.
    pub fn forget_read_back(&mut self, bytes_max: usize) {
        while self.read_back_bytes > bytes_max {
            let batch = self.read_back.pop_front().expect("their bytes are of batches in it");
            let at = batch.checked_sub(self.first).map(|at| at as usize);
            if let Some(Some(kept)) = at.and_then(|at| self.batches.get_mut(at))
                && kept.rows.take().is_some()
            {
                self.bytes -= kept.bytes;
                self.read_back_bytes -= kept.bytes;
            }
        }
        // Those that were let go of meanwhile.
        while let Some(&batch) = self.read_back.front()
            && !self.is_in_memory(batch)
        {
            self.read_back.pop_front();
        }
    }

    fn is_in_memory(&self, batch: u64) -> bool {
        let kept = batch.checked_sub(self.first).and_then(|at| self.batches.get(at as usize));
        kept.and_then(Option::as_ref).is_some_and(|kept| kept.rows.is_some())
    }

    /// Has the batches of these rows in memory.
    pub fn bring_back(&mut self, rows: &[RowRef]) -> Result<()> {
        let Some(spill) = self.spill.as_ref().filter(|spill| spill.bytes() > 0) else { return Ok(()) };
        let mut last = RowRef::NONE.batch;
        for batch in rows.iter().map(|row| row.batch) {
            if batch == last || batch == RowRef::NONE.batch {
                continue;
            }
            last = batch;
            let kept = self.batches[(batch - self.first) as usize].as_mut().expect("a held row's batch is kept");
            let (None, Some(place)) = (&kept.rows, kept.place) else { continue };
            kept.rows = Some(self.wire.decode(place.head, spill.away(place).read()?)?);
            kept.bytes = place.len();
            self.bytes += kept.bytes;
            self.read_back_bytes += kept.bytes;
            self.read_back.push_back(batch);
        }
        Ok(())
    }

    /// All columns of these rows in this order; NULL in every column for [`RowRef::NONE`].
    pub fn gather(&mut self, rows: &[RowRef]) -> Result<Vec<ArrayRef>> {
        self.gather_columns(rows, 0..self.schema.fields().len())
    }

    /// Some columns of these rows in this order.
    pub fn gather_columns(
        &mut self,
        rows: &[RowRef],
        columns: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<ArrayRef>> {
        let mut columns = columns.into_iter().peekable();
        if columns.peek().is_some() {
            self.bring_back(rows)?;
        }
        self.gathered(rows, columns)
    }

    fn gathered(&mut self, rows: &[RowRef], columns: impl Iterator<Item = usize>) -> Result<Vec<ArrayRef>> {
        let schema = self.schema.clone();
        let types = columns.map(|c| (c, schema.field(c).data_type()));
        if rows.is_empty() {
            return Ok(types.map(|(_, ty)| new_empty_array(ty)).collect());
        }
        if rows.iter().all(|row| *row == RowRef::NONE) {
            return Ok(types.map(|(_, ty)| new_null_array(ty, rows.len())).collect());
        }
        if let Some(runs) = runs(rows) {
            return types.map(|(c, _)| self.join_runs(c, &runs)).collect();
        }
        // Place 0 is the NULL row, if there is one.
        let has_none = rows.contains(&RowRef::NONE);
        let (used, places) = self.places(rows, has_none as usize);
        types
            .map(|(c, ty)| {
                let null = has_none.then(|| new_null_array(ty, 1));
                let mut arrays: Vec<&dyn Array> = null.iter().map(|null| null.as_ref()).collect();
                arrays.extend(used.iter().map(|b| self.rows(*b).column(c).as_ref()));
                interleave(&arrays, &places).map_err(|e| Error::internal(format!("label join: {e}")))
            })
            .collect()
    }

    /// The batches of these rows, and for each row the place of its batch among them, from `first_place` on, and the row
    /// within. [`RowRef::NONE`] is row 0 at place 0.
    fn places(&mut self, rows: &[RowRef], first_place: usize) -> (Vec<u64>, Vec<(usize, usize)>) {
        self.gatherings += 1;
        let gathering = self.gatherings;
        let mut used: Vec<u64> = Vec::new();
        let place = |&RowRef { batch, row }: &RowRef| {
            if batch == RowRef::NONE.batch {
                return (0, 0);
            }
            let kept = self.kept_mut(batch);
            if kept.gathered.0 != gathering {
                kept.gathered = (gathering, first_place + used.len());
                used.push(batch);
            }
            (kept.gathered.1, row as usize)
        };
        let places = rows.iter().map(place).collect();
        (used, places)
    }

    fn join_runs(&self, column: usize, runs: &[Run]) -> Result<ArrayRef> {
        let slice = |run: &Run| self.rows(run.first.batch).column(column).slice(run.first.row as usize, run.rows);
        if let [run] = runs {
            return Ok(slice(run));
        }
        let slices: Vec<ArrayRef> = runs.iter().map(slice).collect();
        let arrays: Vec<&dyn Array> = slices.iter().map(|array| array.as_ref()).collect();
        concat(&arrays).map_err(|e| Error::internal(format!("label join: {e}")))
    }

    /// Takes hold of what is kept as it is now: which batches, and those themselves that no checkpoint has, or all of them.
    pub fn held(&mut self, whole: bool) -> Held {
        let from = if whole { 0 } else { self.saved_to };
        self.saved_to = self.next();
        let kept = self.batches.iter().map(Option::is_some).collect();
        let numbered = (self.first..).zip(&self.batches).skip(from.saturating_sub(self.first) as usize);
        let new = numbered.filter_map(|(batch, kept)| {
            let kept = kept.as_ref()?;
            let source = match (&kept.rows, kept.place, &self.spill) {
                (_, Some(place), Some(spill)) => Source::Away(spill.away(place)),
                (rows, ..) => Source::Here(rows.clone().expect("a batch is in memory or in a file")),
            };
            Some((batch, source))
        });
        Held { schema: self.schema.clone(), next: self.next(), new: new.collect(), first: self.first, kept }
    }

    fn rows(&self, batch: u64) -> &RecordBatch {
        self.kept(batch).rows.as_ref().expect("rows that leave were brought back")
    }

    fn kept(&self, batch: u64) -> &Kept {
        self.batches[(batch - self.first) as usize].as_ref().expect("a held row's batch is kept")
    }

    fn kept_mut(&mut self, batch: u64) -> &mut Kept {
        self.batches[(batch - self.first) as usize].as_mut().expect("a held row's batch is kept")
    }
}

/// Brings the memory of all these within a bound, as far as there are files to put rows into: what came back from them may
/// take a quarter; of the others the oldest go, from where most are.
pub(super) fn make_room(all: &mut [&mut KeptRows], bytes_max: usize) -> Result<()> {
    let share = bytes_max / 4 / all.len();
    all.iter_mut().for_each(|rows| rows.forget_read_back(share));
    let is_over = |all: &[&mut KeptRows]| all.iter().map(|rows| rows.bytes).sum::<usize>() > bytes_max;
    let mut left: Vec<usize> = (0..all.len()).collect();
    while is_over(all) {
        let fresh = |i: usize| all[i].bytes - all[i].read_back_bytes;
        let Some(at) = (0..left.len()).max_by_key(|&at| fresh(left[at])) else { break };
        if !all[left[at]].spill_oldest()? {
            left.swap_remove(at);
        }
    }
    if is_over(all) {
        all.iter_mut().for_each(|rows| rows.forget_read_back(0));
    }
    Ok(())
}

/// Whether two keys of type STRING are equal; neither is NULL.
pub(super) fn same_text(a: &dyn Array, i: u32, b: &dyn Array, j: u32) -> bool {
    a.as_string::<i32>().value(i as usize) == b.as_string::<i32>().value(j as usize)
}

/// The runs of which these rows consist, as long as there are few enough of them to be worth it.
fn runs(rows: &[RowRef]) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for &row in rows {
        if let Some(run) = runs.last_mut()
            && run.first.batch == row.batch
            && run.first.row as usize + run.rows == row.row as usize
        {
            run.rows += 1;
            continue;
        }
        if row == RowRef::NONE || runs.len() * RUN_ROWS > rows.len() {
            return None;
        }
        runs.push(Run { first: row, rows: 1 });
    }
    Some(runs)
}

/// Bytes of the slice itself, not of the buffers it shares.
fn batch_bytes(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(column_bytes).sum()
}

fn column_bytes(column: &ArrayRef) -> usize {
    match (column.data_type().primitive_width(), column.nulls()) {
        (Some(width), None) => column.len() * width,
        _ => column.to_data().get_slice_memory_size().unwrap_or(0),
    }
}

/// The column in memory of its own.
fn copy(column: &ArrayRef) -> Result<ArrayRef> {
    let all = UInt32Array::from_iter_values(0..column.len() as u32);
    take(column, &all, None).map_err(|e| Error::internal(format!("label join: {e}")))
}
