//! Columns of a file that has types of its own, as the declared ones.
//!
//! In: batches of a Parquet or Arrow file. Out: chunks of the declared columns, found by name. A column of another type is
//! converted if every value can be; where that depends on the value (a BIGINT read as INT), the rows that do not fit are
//! refused one by one; otherwise the file is refused by column and both types.

mod convert;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch},
    datatypes::SchemaRef,
};
use tidemill_base::{Error, Result};

use super::{
    text::refused,
    words::{find_name, nearest, sql_type},
};
use crate::{Chunk, Position, Refused};
use convert::Conversion;

/// Columns of the projected file with their conversions, in declared order.
type Found = Vec<(usize, Conversion)>;

/// How a file's columns become the declared ones.
pub(super) struct Table {
    name: String,
    schema: SchemaRef,
    /// For each declared column: which column of the projected file it is, and how it gets its type.
    columns: Found,
}

impl Table {
    /// Finds the declared columns in a file and checks that each can be converted; also says which of the file's columns
    /// are to be read, ascending.
    pub(super) fn find(name: &str, declared: SchemaRef, file: &SchemaRef) -> Result<(Self, Vec<usize>)> {
        let (columns, roots) = find_columns(name, &declared, file)?;
        Ok((Self { name: name.to_string(), schema: declared, columns }, roots))
    }

    /// A chunk of the file's projected columns, whose rows stand between two places.
    pub(super) fn chunk(&self, batch: &RecordBatch, start: Position, end: Position) -> Result<Chunk> {
        let rows = batch.num_rows();
        let mut reasons: Vec<Option<String>> = vec![None; rows];
        let mut arrays = Vec::with_capacity(self.columns.len());
        for ((at, conversion), field) in self.columns.iter().zip(self.schema.fields()) {
            let (array, misfits) = conversion.apply(batch.column(*at)).map_err(|e| e.at(&self.name))?;
            for (row, value) in misfits {
                let why = || format!("column '{}': {value} does not fit {}", field.name(), sql_type(field.data_type()));
                reasons[row].get_or_insert_with(why);
            }
            if !field.is_nullable() && array.null_count() > 0 {
                for row in (0..rows).filter(|&r| array.is_null(r)) {
                    let why = || format!("column '{}': NULL in a column declared NOT NULL", field.name());
                    reasons[row].get_or_insert_with(why);
                }
            }
            arrays.push(array);
        }
        if reasons.iter().all(Option::is_none) {
            return Ok(Chunk { rows: self.batch(arrays)?, offsets: None, start, end, refused: Vec::new() });
        }
        let keep = BooleanArray::from_iter(reasons.iter().map(|r| Some(r.is_none())));
        let filter = |a: &dyn Array| arrow::compute::filter(a, &keep).map_err(|e| internal(&e));
        let kept = arrays.iter().map(|a| filter(a)).collect::<Result<_>>()?;
        let offsets = (0..rows).filter(|&r| reasons[r].is_none()).map(|r| start.offset + r as u64).collect();
        let refuse =
            |(row, why): (usize, Option<String>)| Some(refused(start.offset + row as u64, why?, String::new()));
        let refused: Vec<Refused> = reasons.into_iter().enumerate().filter_map(refuse).collect();
        Ok(Chunk { rows: self.batch(kept)?, offsets: Some(offsets), start, end, refused })
    }

    fn batch(&self, arrays: Vec<ArrayRef>) -> Result<RecordBatch> {
        RecordBatch::try_new(self.schema.clone(), arrays).map_err(|e| internal(&e))
    }
}

/// For each declared column its place in the projection and its conversion; and the file's columns to read, ascending.
fn find_columns(name: &str, declared: &SchemaRef, file: &SchemaRef) -> Result<(Found, Vec<usize>)> {
    let names = || file.fields().iter().map(|f| f.name().as_str());
    let mut found = Vec::with_capacity(declared.fields().len());
    for field in declared.fields() {
        let Some(at) = find_name(field.name(), names()) else {
            let hint = nearest(field.name(), names());
            return Err(Error::invalid(format!("{name}: the file has no column '{}'{hint}", field.name())));
        };
        let (from, to) = (file.field(at).data_type(), field.data_type());
        let conversion = Conversion::plan(from, to).ok_or_else(|| {
            let (column, to) = (field.name(), sql_type(to));
            Error::invalid(format!(
                "{name}: column '{column}' is {from} in the file and cannot be read as {to} without loss"
            ))
        })?;
        found.push((at, conversion));
    }
    let mut roots: Vec<usize> = found.iter().map(|f| f.0).collect();
    roots.sort_unstable();
    roots.dedup();
    for (at, _) in &mut found {
        *at = roots.binary_search(at).expect("every column found is among the roots");
    }
    Ok((found, roots))
}

fn internal(e: &arrow::error::ArrowError) -> Error {
    Error::internal(format!("building a batch from a file's columns: {e}"))
}
