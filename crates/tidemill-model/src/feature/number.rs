//! Columns whose values are numbers.
//!
//! In: some rows of a column of any numeric type. Out: each row's number, or `None` for NULL.

use arrow::{
    array::{Array, ArrowPrimitiveType, AsArray},
    datatypes::*,
};
use std::ops::Range;
use tidemill_base::{Error, Result};

/// Whether values of this type are numbers.
pub(super) fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Boolean | DataType::Float32 | DataType::Float64)
}

/// Hands each of `rows` to `out`, with its place among them.
pub(super) fn numbers(array: &dyn Array, rows: Range<usize>, mut out: impl FnMut(usize, Option<f64>)) -> Result<()> {
    use DataType::*;
    match array.data_type() {
        Int8 => each::<Int8Type>(array, rows, |x| x as f64, out),
        Int16 => each::<Int16Type>(array, rows, |x| x as f64, out),
        Int32 => each::<Int32Type>(array, rows, |x| x as f64, out),
        Int64 => each::<Int64Type>(array, rows, |x| x as f64, out),
        UInt8 => each::<UInt8Type>(array, rows, |x| x as f64, out),
        UInt16 => each::<UInt16Type>(array, rows, |x| x as f64, out),
        UInt32 => each::<UInt32Type>(array, rows, |x| x as f64, out),
        UInt64 => each::<UInt64Type>(array, rows, |x| x as f64, out),
        Float32 => each::<Float32Type>(array, rows, |x| x as f64, out),
        Float64 => each::<Float64Type>(array, rows, |x| x, out),
        Boolean => {
            let truth = array.as_boolean();
            rows.enumerate().for_each(|(i, row)| out(i, truth.is_valid(row).then(|| truth.value(row) as u8 as f64)));
        }
        other => return Err(Error::internal(format!("{other} was bound as a number"))),
    }
    Ok(())
}

#[inline(always)]
fn each<T: ArrowPrimitiveType>(
    array: &dyn Array,
    rows: Range<usize>,
    to_f64: impl Fn(T::Native) -> f64,
    mut out: impl FnMut(usize, Option<f64>),
) {
    let array = array.as_primitive::<T>();
    let values = array.values();
    match array.nulls() {
        None => rows.enumerate().for_each(|(i, row)| out(i, Some(to_f64(values[row])))),
        Some(nulls) => {
            rows.enumerate().for_each(|(i, row)| out(i, nulls.is_valid(row).then(|| to_f64(values[row]))));
        }
    }
}

/// The number as a feature's value, or why it cannot be one.
#[inline(always)]
pub(super) fn feature_value(x: f64) -> Result<f32, String> {
    let value = x as f32;
    match value.is_finite() {
        true => Ok(value),
        false => Err(unusable(x)),
    }
}

#[cold]
fn unusable(x: f64) -> String {
    match x.is_finite() {
        true => format!("value is {x:e}, beyond what a 32-bit float holds"),
        false => format!("value is {x}"),
    }
}
