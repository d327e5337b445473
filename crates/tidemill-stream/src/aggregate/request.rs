//! A request's rows on their way to the model, where feature views are asked in the middle.
//!
//! In: rows with the impressions' own columns. They get the columns that impressions carry, then those of every view as of
//! the request's event time, then the columns of the SELECT, by the transforms that training uses. A request without an
//! event time reads as of the newest event that the views have seen: event time, not the clock, so that an answer can be
//! made again.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Int64Type, Schema, SchemaRef, TimestampMillisecondType},
};
use tidemill_base::{Error, Result};

use super::{ViewCopy, ViewSpec, output};
use crate::{Transform, Transformed};

/// Who is asked what keys show at some time.
pub trait LookUp: Send + Sync {
    /// The columns of all views, one after the other: `keys` has the key column of each view, `times` the event time of
    /// each row, `None` for now.
    fn look_up(&self, keys: &[ArrayRef], times: &[Option<i64>]) -> Result<Vec<ArrayRef>>;
}

/// Views that nobody has fed.
pub struct Unfed(Vec<ViewCopy>);

impl Unfed {
    /// Of these views.
    pub fn new(specs: &[ViewSpec]) -> Result<Self> {
        Ok(Self(specs.iter().map(ViewCopy::new).collect::<Result<_>>()?))
    }
}

impl LookUp for Unfed {
    fn look_up(&self, keys: &[ArrayRef], times: &[Option<i64>]) -> Result<Vec<ArrayRef>> {
        let times: Vec<i64> = times.iter().map(|t| t.unwrap_or(0)).collect();
        let columns: Vec<_> = self.0.iter().zip(keys).map(|(v, k)| v.look_up(k, &times)).collect::<Result<_>>()?;
        Ok(columns.into_iter().flatten().collect())
    }
}

/// The way of a request around its look-ups.
#[derive(Clone)]
pub struct RequestParts {
    /// Rows of the source's own columns to the columns that impressions carry.
    pub before: Arc<dyn Transform>,
    /// Those, with the columns of all views behind them, to output rows.
    pub after: Arc<dyn Transform>,
    /// Of the carried columns: each view's key.
    pub read_keys: Vec<usize>,
    /// Of the carried columns: the event time.
    pub event_time: usize,
    /// Of the source's own columns those that say the event time and nothing else.
    pub optional: Vec<usize>,
    /// The views.
    pub specs: Vec<ViewSpec>,
}

/// A request's transform with live look-ups.
pub struct AsOfRequest {
    parts: RequestParts,
    views: Arc<dyn LookUp>,
    columns: SchemaRef,
}

impl AsOfRequest {
    /// Asks `views` in the middle of the way.
    pub fn new(parts: RequestParts, views: Arc<dyn LookUp>) -> Self {
        let columns = with_views(&parts.before.output(), &parts.specs);
        Self { parts, views, columns }
    }
}

/// Carried columns with those of all views behind them.
pub fn with_views(carried: &SchemaRef, specs: &[ViewSpec]) -> SchemaRef {
    let views = specs.iter().flat_map(|s| output(s).fields().iter().cloned().collect::<Vec<_>>());
    Arc::new(Schema::new(carried.fields().iter().cloned().chain(views).collect::<Vec<_>>()))
}

impl Transform for AsOfRequest {
    fn output(&self) -> SchemaRef {
        self.parts.after.output()
    }

    fn reads(&self) -> Option<Vec<usize>> {
        self.parts.before.reads()
    }

    fn optional(&self) -> Vec<usize> {
        self.parts.optional.clone()
    }

    fn apply(&self, rows: &RecordBatch) -> Result<Transformed> {
        let before = self.parts.before.apply(rows)?;
        if !before.refused.is_empty() {
            let rows = RecordBatch::new_empty(self.output());
            return Ok(Transformed { rows, kept: Some(Vec::new()), refused: before.refused });
        }
        let keys: Vec<ArrayRef> = self.parts.read_keys.iter().map(|&k| before.rows.column(k).clone()).collect();
        let times = times(before.rows.column(self.parts.event_time));
        let mut columns = before.rows.columns().to_vec();
        columns.extend(self.views.look_up(&keys, &times)?);
        let options = RecordBatchOptions::new().with_row_count(Some(before.rows.num_rows()));
        let wide = RecordBatch::try_new_with_options(self.columns.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("feature views of a request: {e}")))?;
        self.parts.after.apply(&wide)
    }
}

fn times(column: &ArrayRef) -> Vec<Option<i64>> {
    match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().iter().collect(),
        DataType::Timestamp(..) => column.as_primitive::<TimestampMillisecondType>().iter().collect(),
        _ => vec![None; column.len()],
    }
}
