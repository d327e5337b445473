//! Arrow columns to what entries are made of, and back.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, Int64Array},
    buffer::{NullBuffer, ScalarBuffer},
    compute::cast,
    datatypes::{
        DataType, Float32Type, Float64Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType,
    },
};
use tidemill_base::{Error, Result, hash64, rng::mix64};

use super::{entry::Arguments, layout::ArgumentKind};

/// One argument of a feed's events.
pub(super) struct Column {
    bits: Vec<u64>,
    /// Which are there; empty: all are.
    there: Vec<bool>,
}

/// The arguments of one event.
pub(super) struct RowArguments<'a> {
    pub columns: &'a [Column],
    pub row: usize,
}

impl Arguments for RowArguments<'_> {
    #[inline(always)]
    fn get(&self, argument: usize) -> Option<u64> {
        let column = &self.columns[argument];
        let there = column.there.is_empty() || column.there[self.row];
        there.then(|| column.bits.get(self.row).copied().unwrap_or(0))
    }
}

/// A key's hash for each row, and which rows have one. Whole numbers go through a bijection, so two of them never meet.
pub(super) fn keys(column: &ArrayRef) -> Result<(Vec<u64>, Option<NullBuffer>)> {
    let keys = match column.data_type() {
        DataType::Float32 | DataType::Float64 => {
            return Err(Error::invalid("a feature view is keyed by BIGINT, INT, STRING, BOOLEAN or TIMESTAMP"));
        }
        _ => hashes(column)?,
    };
    Ok((keys, column.logical_nulls().filter(|n| n.null_count() > 0)))
}

fn hashes(column: &ArrayRef) -> Result<Vec<u64>> {
    let whole = |x: i64| mix64(x as u64);
    Ok(match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().values().iter().map(|&x| whole(x)).collect(),
        DataType::Int32 => column.as_primitive::<Int32Type>().values().iter().map(|&x| whole(x.into())).collect(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            column.as_primitive::<TimestampMillisecondType>().values().iter().map(|&x| whole(x)).collect()
        }
        DataType::Boolean => (0..column.len()).map(|i| whole(column.as_boolean().value(i).into())).collect(),
        // Zero has two signs and is one number.
        DataType::Float64 => {
            column.as_primitive::<Float64Type>().values().iter().map(|x| mix64((x + 0.0).to_bits())).collect()
        }
        DataType::Float32 => column
            .as_primitive::<Float32Type>()
            .values()
            .iter()
            .map(|x| mix64((f64::from(*x) + 0.0).to_bits()))
            .collect(),
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            (0..texts.len()).map(|i| hash64(texts.value(i).as_bytes(), 0)).collect()
        }
        t => return Err(Error::internal(format!("a column of type {t} was bound to a feature view"))),
    })
}

/// A column as this argument; `passes` says which rows count at all.
pub(super) fn argument(column: &ArrayRef, kind: ArgumentKind) -> Result<Column> {
    let nulls = column.logical_nulls().filter(|n| n.null_count() > 0);
    let mut there: Vec<bool> = nulls.map_or(Vec::new(), |n| n.iter().collect());
    let bits = match kind {
        ArgumentKind::Presence => Vec::new(),
        ArgumentKind::Hash => hashes(column)?,
        ArgumentKind::Number => numbers(column, &mut there)?,
        ArgumentKind::Kept => match column.data_type() {
            DataType::Float32 | DataType::Float64 => numbers(column, &mut there)?,
            DataType::Utf8 => hashes(column)?,
            _ => {
                let whole = cast(column, &DataType::Int64).map_err(not_a_number)?;
                whole.as_primitive::<Int64Type>().values().iter().map(|&x| x as u64).collect()
            }
        },
    };
    Ok(Column { bits, there })
}

/// Numbers as bits; what is not finite counts as NULL.
fn numbers(column: &ArrayRef, there: &mut Vec<bool>) -> Result<Vec<u64>> {
    let numbers = cast(column, &DataType::Float64).map_err(not_a_number)?;
    let values = numbers.as_primitive::<Float64Type>().values();
    if !values.iter().all(|x| x.is_finite()) {
        there.resize(values.len(), true);
        there.iter_mut().zip(values).for_each(|(there, x)| *there &= x.is_finite());
    }
    Ok(values.iter().map(|x| x.to_bits()).collect())
}

fn not_a_number(e: arrow::error::ArrowError) -> Error {
    Error::internal(format!("feature view: {e}"))
}

/// Rows of (NULLs, values) as columns of this schema.
pub(super) fn outputs(rows: &[u64], schema: &SchemaRef) -> Vec<ArrayRef> {
    let width = schema.fields().len() + 1;
    // Most columns are never NULL: looked at once for all of them.
    let any_null = rows.chunks_exact(width).fold(0, |all, row| all | row[0]);
    let column = |(i, field): (usize, &Arc<arrow::datatypes::Field>)| -> ArrayRef {
        let values = rows.chunks_exact(width).map(|row| row[i + 1]);
        let has_null = any_null >> i & 1 == 1;
        let nulls = has_null.then(|| rows.chunks_exact(width).map(|row| row[0] >> i & 1 == 0).collect::<NullBuffer>());
        match field.data_type() {
            DataType::Int64 => {
                Arc::new(Int64Array::new(ScalarBuffer::from_iter(values.map(|bits| bits as i64)), nulls))
            }
            _ => Arc::new(Float64Array::new(ScalarBuffer::from_iter(values.map(f64::from_bits)), nulls)),
        }
    };
    schema.fields().iter().enumerate().map(column).collect()
}
