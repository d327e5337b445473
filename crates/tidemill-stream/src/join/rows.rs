//! Rows that wait: whole batches are kept until the last row that is held in them is released.
//!
//! Nothing is copied when a row comes in; columns are gathered once, when rows leave, and what leaves as it came is a slice.

use std::collections::{BTreeMap, VecDeque};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, new_empty_array, new_null_array},
    compute::{concat, interleave},
    datatypes::{DataType, SchemaRef},
};
use tidemill_base::{Error, Result};

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

struct Kept {
    rows: RecordBatch,
    held: u32,
    bytes: usize,
}

/// Runs are copied whole where they are this long on average.
const RUN_ROWS: usize = 8;

/// Rows of one batch that stand one behind the other.
struct Run {
    first: RowRef,
    rows: usize,
}

/// The batches of one side at one moment, as if they were one.
pub(super) struct Held {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    first: u64,
    /// Rows before each batch, by its number less `first`.
    starts: Vec<u64>,
}

impl Held {
    /// Where a row stands among all of them.
    pub fn index(&self, row: RowRef) -> u64 {
        self.starts[(row.batch - self.first) as usize] + row.row as u64
    }
}

/// Batches of one side of the join.
pub(super) struct KeptRows {
    schema: SchemaRef,
    first: u64,
    batches: VecDeque<Option<Kept>>,
    bytes: usize,
    /// Bytes of the rows that are held, each as often as it is; 0 unless they are measured.
    held_bytes: usize,
    measures: bool,
}

impl KeptRows {
    /// No rows yet. Measuring each row that is held takes time, so it is done only where there is a bound.
    pub fn new(schema: SchemaRef, measures: bool) -> Self {
        Self { schema, first: 0, batches: VecDeque::new(), bytes: 0, held_bytes: 0, measures }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Keeps a batch; call [`KeptRows::settle`] once the rows to keep are held.
    pub fn add(&mut self, rows: RecordBatch) -> u64 {
        let bytes = batch_bytes(&rows);
        self.bytes += bytes;
        self.batches.push_back(Some(Kept { rows, held: 0, bytes }));
        self.first + self.batches.len() as u64 - 1
    }

    /// Lets a batch go in which nothing is held.
    pub fn settle(&mut self, batch: u64) {
        let at = (batch - self.first) as usize;
        if self.batches[at].as_ref().is_some_and(|k| k.held == 0) {
            let kept = self.batches[at].take().expect("just seen");
            self.bytes -= kept.bytes;
        }
        while let Some(None) = self.batches.front() {
            self.batches.pop_front();
            self.first += 1;
        }
    }

    pub fn hold(&mut self, row: RowRef) {
        self.held_bytes += self.row_bytes(row);
        self.kept_mut(row.batch).held += 1;
    }

    pub fn release(&mut self, row: RowRef) {
        self.held_bytes -= self.row_bytes(row);
        let kept = self.kept_mut(row.batch);
        kept.held -= 1;
        if kept.held == 0 {
            self.settle(row.batch);
        }
    }

    pub fn column(&self, column: usize, batch: u64) -> &dyn Array {
        self.kept(batch).rows.column(column).as_ref()
    }

    pub fn same_value(&self, column: usize, a: RowRef, b: RowRef) -> bool {
        same_value(self.column(column, a.batch), a.row, self.column(column, b.batch), b.row)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the rows that are held, each as often as it is. Follows from the rows alone, not from the batches they came
    /// in, so a restored join decides by the same numbers.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes of one row; 0 unless rows are measured.
    pub fn row_bytes(&self, row: RowRef) -> usize {
        if !self.measures {
            return 0;
        }
        let bytes = |column: &ArrayRef| match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value_length(row.row as usize) as usize + 4,
            t => t.primitive_width().unwrap_or(8),
        };
        self.kept(row.batch).rows.columns().iter().map(bytes).sum()
    }

    /// All columns of these rows in this order; NULL in every column for [`RowRef::NONE`].
    pub fn gather(&self, rows: &[RowRef]) -> Result<Vec<ArrayRef>> {
        self.gather_columns(rows, 0..self.schema.fields().len())
    }

    /// Some columns of these rows in this order.
    pub fn gather_columns(&self, rows: &[RowRef], columns: impl IntoIterator<Item = usize>) -> Result<Vec<ArrayRef>> {
        let types = columns.into_iter().map(|c| (c, self.schema.field(c).data_type()));
        if rows.is_empty() {
            return Ok(types.map(|(_, ty)| new_empty_array(ty)).collect());
        }
        if rows.iter().all(|row| *row == RowRef::NONE) {
            return Ok(types.map(|(_, ty)| new_null_array(ty, rows.len())).collect());
        }
        if let Some(runs) = runs(rows) {
            return types.map(|(c, _)| self.join_runs(c, &runs)).collect();
        }
        let mut used: Vec<u64> = Vec::new();
        let mut place_of: BTreeMap<u64, usize> = BTreeMap::new();
        // Place 0 is the NULL row, if there is one; neighbours nearly always lie in one batch, so the last place is tried
        // first.
        let has_none = rows.contains(&RowRef::NONE);
        let mut last = (RowRef::NONE.batch, 0);
        let places: Vec<(usize, usize)> = rows
            .iter()
            .map(|&RowRef { batch, row }| {
                if batch == RowRef::NONE.batch {
                    return (0, 0);
                }
                if batch != last.0 {
                    let place = *place_of.entry(batch).or_insert_with(|| {
                        used.push(batch);
                        used.len() - !has_none as usize
                    });
                    last = (batch, place);
                }
                (last.1, row as usize)
            })
            .collect();
        types
            .map(|(c, ty)| {
                let null = has_none.then(|| new_null_array(ty, 1));
                let mut arrays: Vec<&dyn Array> = null.iter().map(|null| null.as_ref()).collect();
                arrays.extend(used.iter().map(|b| self.column(c, *b)));
                interleave(&arrays, &places).map_err(|e| Error::internal(format!("label join: {e}")))
            })
            .collect()
    }

    fn join_runs(&self, column: usize, runs: &[Run]) -> Result<ArrayRef> {
        let slice = |run: &Run| self.kept(run.first.batch).rows.column(column).slice(run.first.row as usize, run.rows);
        if let [run] = runs {
            return Ok(slice(run));
        }
        let slices: Vec<ArrayRef> = runs.iter().map(slice).collect();
        let arrays: Vec<&dyn Array> = slices.iter().map(|array| array.as_ref()).collect();
        concat(&arrays).map_err(|e| Error::internal(format!("label join: {e}")))
    }

    /// Takes hold of every batch as it is now.
    pub fn held(&self) -> Held {
        let mut held = Held { schema: self.schema.clone(), batches: Vec::new(), first: self.first, starts: Vec::new() };
        let mut rows = 0;
        for kept in &self.batches {
            held.starts.push(rows);
            if let Some(kept) = kept {
                rows += kept.rows.num_rows() as u64;
                held.batches.push(kept.rows.clone());
            }
        }
        held
    }

    fn kept(&self, batch: u64) -> &Kept {
        self.batches[(batch - self.first) as usize].as_ref().expect("a held row's batch is kept")
    }

    fn kept_mut(&mut self, batch: u64) -> &mut Kept {
        self.batches[(batch - self.first) as usize].as_mut().expect("a held row's batch is kept")
    }
}

/// Whether two key values are equal; NULL equals nothing.
pub(super) fn same_value(a: &dyn Array, i: u32, b: &dyn Array, j: u32) -> bool {
    let (i, j) = (i as usize, j as usize);
    match a.data_type() {
        DataType::Utf8 => a.as_string::<i32>().value(i) == b.as_string::<i32>().value(j),
        // Their hash is a bijection: equal hashes are equal values.
        _ => a.is_valid(i) && b.is_valid(j),
    }
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
    let bytes = |column: &ArrayRef| match (column.data_type().primitive_width(), column.nulls()) {
        (Some(width), None) => column.len() * width,
        _ => column.to_data().get_slice_memory_size().unwrap_or(0),
    };
    rows.columns().iter().map(bytes).sum()
}
