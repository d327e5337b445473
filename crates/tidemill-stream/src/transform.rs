//! Stateless steps on rows: computed columns, projections, filters.
//!
//! The expressions are SQL's and are run by another room; here is only the border. A [`Transform`] is a pure function of
//! each row, so it may run on chunks of any size, on any thread, in training and in prediction alike.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use tidemill_base::Result;

/// A pure function of each row that computes columns and may drop rows.
pub trait Transform: Send + Sync {
    /// Columns of what comes out.
    fn output(&self) -> SchemaRef;

    /// Applies it to `rows`. A row on which an expression fails is refused, not the batch.
    fn apply(&self, rows: &RecordBatch) -> Result<Transformed>;

    /// Which input columns it looks at, ascending; `None`: all of them.
    fn reads(&self) -> Option<Vec<usize>> {
        None
    }

    /// Of the columns it looks at, ascending, those that a request may well do without: NULL has a meaning of its own there.
    fn optional(&self) -> Vec<usize> {
        Vec::new()
    }

    /// Of each output column the input column that it is, unchanged, in every row. Empty where rows may be dropped, and
    /// where nobody said.
    fn passes_on(&self) -> Vec<Option<usize>> {
        Vec::new()
    }
}

/// What came out of a [`Transform`].
#[derive(Debug)]
pub struct Transformed {
    /// The rows that are left.
    pub rows: RecordBatch,
    /// For each row of `rows` its index in the input, ascending; `None` when all are left.
    pub kept: Option<Vec<u32>>,
    /// Input rows on which an expression failed, with the reason; ascending; never among `kept`.
    pub refused: Vec<(u32, String)>,
}
