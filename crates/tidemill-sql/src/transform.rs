//! Filters and projections on Arrow batches: the one way in which expressions meet rows.
//!
//! In: rows. Out: the rows that pass every filter, with the columns that were asked for. A column that is only passed on
//! is shared, not copied. An expression that fails on some row (division by zero, a cast of what is no number) refuses
//! that row with the reason and no other; how rows are cut into batches never matters, because what fails on a batch is
//! decided row by row.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array},
    compute::{concat, filter_record_batch, prep_null_mask_filter},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use datafusion::{error::DataFusionError, physical_expr::PhysicalExpr};
use tidemill_base::{Error, Result};
use tidemill_stream::{Transform, Transformed};

use crate::parse::value::type_name;

/// One expression, planned, with the words for its failures.
#[derive(Clone)]
pub(crate) struct Step {
    pub expr: Arc<dyn PhysicalExpr>,
    pub ty: DataType,
    /// `column 'x'` or `WHERE`.
    pub place: String,
    /// The expression as it was written.
    pub text: String,
}

/// Rows on which an expression failed, ascending, with the reason.
type Refusals = Vec<(u32, String)>;

/// Where an output column comes from.
#[derive(Clone)]
pub(crate) enum Item {
    /// A column of the picked input.
    Column(usize),
    Computed(Step),
    Null(DataType),
}

/// A planned filter and projection.
pub(crate) struct Projection {
    /// Input columns that are used at all; `None`: all of them.
    pub pick: Option<Vec<usize>>,
    /// All must hold. Each sees only the rows that passed the ones before it.
    pub filters: Vec<Step>,
    pub items: Vec<Item>,
    pub output: SchemaRef,
}

/// Rows on their way, and which input rows they are.
struct Passing {
    rows: RecordBatch,
    kept: Option<Vec<u32>>,
    refused: Refusals,
}

impl Transform for Projection {
    fn output(&self) -> SchemaRef {
        self.output.clone()
    }

    fn apply(&self, rows: &RecordBatch) -> Result<Transformed> {
        let rows = match &self.pick {
            Some(columns) => rows.project(columns).map_err(internal)?,
            None => rows.clone(),
        };
        let mut passing = Passing { rows, kept: None, refused: Vec::new() };
        for filter in &self.filters {
            let (mask, refused) = filter.evaluate(&passing.rows)?;
            passing.refuse(refused);
            passing.keep(mask.as_boolean())?;
        }
        let columns = self.project(&mut passing)?;
        let options = RecordBatchOptions::new().with_row_count(Some(passing.rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.output.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("projection: {e}")))?;
        passing.refused.sort_by_key(|r| r.0);
        Ok(Transformed { rows, kept: passing.kept, refused: passing.refused })
    }

    fn reads(&self) -> Option<Vec<usize>> {
        self.pick.clone()
    }

    fn passes_on(&self) -> Vec<Option<usize>> {
        if !self.filters.is_empty() {
            return Vec::new();
        }
        let input = |i: usize| self.pick.as_ref().map_or(i, |pick| pick[i]);
        let passed_on = |item: &Item| match item {
            Item::Column(i) => Some(input(*i)),
            Item::Computed(_) | Item::Null(_) => None,
        };
        self.items.iter().map(passed_on).collect()
    }
}

impl Projection {
    /// The output columns of the rows on their way; rows on which one fails leave.
    fn project(&self, passing: &mut Passing) -> Result<Vec<ArrayRef>> {
        let (columns, refused) = self.evaluate(&passing.rows)?;
        if refused.is_empty() {
            return Ok(columns);
        }
        let good: BooleanArray = (0..passing.rows.num_rows() as u32)
            .map(|i| Some(refused.binary_search_by_key(&i, |r| r.0).is_err()))
            .collect();
        passing.refuse(refused);
        passing.keep(&good)?;
        columns.iter().map(|c| arrow::compute::filter(c, &good).map_err(internal)).collect()
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<(Vec<ArrayRef>, Refusals)> {
        let mut refused: Refusals = Vec::new();
        let mut columns = Vec::with_capacity(self.items.len());
        for item in &self.items {
            columns.push(match item {
                Item::Column(i) => rows.column(*i).clone(),
                Item::Null(ty) => new_null_array(ty, rows.num_rows()),
                Item::Computed(step) => {
                    let (column, bad) = step.evaluate(rows)?;
                    refused.extend(bad);
                    column
                }
            });
        }
        // A row that fails in two columns is refused once, for the first of them.
        refused.sort_by_key(|r| r.0);
        refused.dedup_by_key(|r| r.0);
        Ok((columns, refused))
    }

    /// Whether it gives back its input of `columns` columns unchanged.
    pub fn is_identity(&self, columns: usize) -> bool {
        self.pick.is_none()
            && self.filters.is_empty()
            && self.items.len() == columns
            && self.items.iter().enumerate().all(|(i, item)| matches!(item, Item::Column(c) if *c == i))
    }
}

impl Passing {
    /// Notes refusals by their place among the rows on their way. The caller's mask must drop them.
    fn refuse(&mut self, refused: Vec<(u32, String)>) {
        let kept = self.kept.as_deref();
        self.refused.extend(refused.into_iter().map(|(i, reason)| (kept.map_or(i, |k| k[i as usize]), reason)));
    }

    fn keep(&mut self, mask: &BooleanArray) -> Result<()> {
        if mask.null_count() == 0 && mask.true_count() == mask.len() {
            return Ok(());
        }
        let mask = if mask.null_count() > 0 { &prep_null_mask_filter(mask) } else { mask };
        let indices = mask.values().set_indices().map(|i| match &self.kept {
            Some(kept) => kept[i],
            None => i as u32,
        });
        self.kept = Some(indices.collect());
        self.rows = filter_record_batch(&self.rows, mask).map_err(internal)?;
        Ok(())
    }
}

impl Step {
    /// Its value on every row (NULL where it failed) and the rows on which it failed, ascending.
    fn evaluate(&self, rows: &RecordBatch) -> Result<(ArrayRef, Refusals)> {
        match self.on(rows) {
            Ok(column) => Ok((column, Vec::new())),
            Err(_) => {
                let (mut pieces, mut refused) = (Vec::new(), Vec::new());
                self.halve(rows, 0, rows.num_rows(), &mut pieces, &mut refused);
                let pieces: Vec<&dyn Array> = pieces.iter().map(|p| p.as_ref()).collect();
                Ok((concat(&pieces).map_err(internal)?, refused))
            }
        }
    }

    fn on(&self, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
        self.expr.evaluate(rows)?.into_array(rows.num_rows())
    }

    /// Halves what fails until single rows are left: few bad rows cost few evaluations. AND and CASE may look at more
    /// rows than they need in a batch, so a row counts as failing only when it fails alone.
    fn halve(&self, rows: &RecordBatch, from: usize, count: usize, pieces: &mut Vec<ArrayRef>, refused: &mut Refusals) {
        match self.on(&rows.slice(from, count)) {
            Ok(column) => pieces.push(column),
            Err(error) if count <= 1 => {
                refused.push((from as u32, format!("{}: {} in '{}'", self.place, reason(&error), self.text)));
                pieces.push(new_null_array(&self.ty, count));
            }
            Err(_) => {
                let half = count / 2;
                self.halve(rows, from, half, pieces, refused);
                self.halve(rows, from + half, count - half, pieces, refused);
            }
        }
    }
}

/// What went wrong on one row, in few words.
fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(e, _) => match e.as_ref() {
            ArrowError::DivideByZero => "division by zero".into(),
            ArrowError::ArithmeticOverflow(_) => "integer overflow".into(),
            ArrowError::CastError(text) | ArrowError::ComputeError(text) | ArrowError::InvalidArgumentError(text) => {
                let text = words(text);
                text.strip_prefix("Cannot").map_or(text.clone(), |rest| format!("cannot{rest}"))
            }
            other => words(&other.to_string()),
        },
        other => words(other.strip_backtrace().trim_start_matches("Execution error: ")),
    }
}

/// An error text of the engine below with SQL's names for types, on one line and not too long.
pub(crate) fn words(text: &str) -> String {
    const TYPES: [DataType; 8] = [
        DataType::Int64,
        DataType::Int32,
        DataType::Float64,
        DataType::Float32,
        DataType::Utf8View,
        DataType::LargeUtf8,
        DataType::Utf8,
        DataType::Boolean,
    ];
    let mut text = text.lines().next().unwrap_or("").trim_end_matches('.').to_string();
    for ty in TYPES {
        text = replace_word(&text, &ty.to_string(), &type_name(&ty));
    }
    text = text.replace("Timestamp(ms)", "TIMESTAMP").replace("Timestamp(Millisecond, None)", "TIMESTAMP");
    match text.char_indices().nth(240) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn replace_word(text: &str, word: &str, by: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric());
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        out.push_str(before);
        let whole = !inside(out.chars().last()) && !inside(after.chars().next());
        out.push_str(if whole { by } else { word });
        rest = after;
    }
    out + rest
}

fn internal(error: ArrowError) -> Error {
    Error::internal(format!("projection: {error}"))
}
