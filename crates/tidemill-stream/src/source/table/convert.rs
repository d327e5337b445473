//! From the type a Parquet or Arrow file has to the type that was declared.
//!
//! In: a column of the file. Out: a column of the declared type, and the rows whose value does not survive. What could lose
//! something silently (DOUBLE to FLOAT, a time zone's clock, decimals) has no plan.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float32Array, Int64Array, ListArray, StructArray, TimestampMillisecondArray,
        UInt64Array,
    },
    compute::{CastOptions, cast_with_options, kernels::cmp::not_distinct},
    datatypes::{DataType, Float32Type, Int64Type, TimeUnit, UInt64Type},
    util::display::array_value_to_string,
};
use tidemill_base::{Error, Result};

use crate::source::sparse_type;

/// How a column gets its declared type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Conversion {
    /// It has it.
    Same,
    /// Every value survives.
    Widen(DataType),
    /// Values that come back changed do not survive.
    Check(DataType),
    /// A time in another unit; whole milliseconds survive.
    Time(TimeUnit),
    /// (index, value) pairs under other names or integer types; negative and missing ones do not survive.
    Sparse,
    /// A dictionary, unpacked first.
    Unpack(DataType, Box<Conversion>),
}

/// Rows that do not survive, each with the value as text.
type Misfits = Vec<(usize, String)>;

impl Conversion {
    /// The way from one type to the other, if there is one.
    pub(super) fn plan(from: &DataType, to: &DataType) -> Option<Self> {
        use DataType::*;
        if from == to {
            return Some(Self::Same);
        }
        Some(match (from, to) {
            (Dictionary(_, values), _) => Self::Unpack((**values).clone(), Box::new(Self::plan(values, to)?)),
            (Int8 | Int16 | UInt8 | UInt16, Int32 | Int64 | Float32 | Float64) => Self::Widen(to.clone()),
            (Int32 | UInt32, Int64 | Float64) => Self::Widen(to.clone()),
            (Int32 | UInt32 | Int64 | UInt64, Int32 | Int64 | Float32 | Float64) => Self::Check(to.clone()),
            (Float16, Float32 | Float64) | (Float32, Float64) => Self::Widen(to.clone()),
            (LargeUtf8 | Utf8View, Utf8) => Self::Widen(to.clone()),
            (Binary | LargeBinary | BinaryView, Utf8) => Self::Check(to.clone()),
            (Int64 | Date32 | Date64, Timestamp(TimeUnit::Millisecond, None)) => Self::Widen(to.clone()),
            (Timestamp(unit, _), Timestamp(TimeUnit::Millisecond, None)) => Self::Time(*unit),
            (List(item), List(_)) if *to == sparse_type() => match item.data_type() {
                Struct(fields) => match &fields[..] {
                    [i, v]
                        if i.name() == "index"
                            && i.data_type().is_integer()
                            && v.name() == "value"
                            && *v.data_type() == Float32 =>
                    {
                        Self::Sparse
                    }
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Converts a column.
    pub(super) fn apply(&self, column: &ArrayRef) -> Result<(ArrayRef, Misfits)> {
        match self {
            Self::Same => Ok((column.clone(), Vec::new())),
            Self::Widen(to) => Ok((cast(column, to)?, Vec::new())),
            Self::Check(to) => check(column, to),
            Self::Time(unit) => time(column, *unit),
            Self::Sparse => sparse(column),
            Self::Unpack(values, then) => then.apply(&cast(column, values)?),
        }
    }
}

fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    cast_with_options(column, to, &options)
        .map_err(|e| Error::invalid(format!("cannot convert {} to {to}: {e}", column.data_type())))
}

fn check(column: &ArrayRef, to: &DataType) -> Result<(ArrayRef, Misfits)> {
    let there = cast(column, to)?;
    // What was not valid text has become NULL; numbers are compared as they come back.
    let same = match column.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
            if there.null_count() == column.null_count() =>
        {
            return Ok((there, Vec::new()));
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            (0..column.len()).map(|i| Some(column.is_null(i) == there.is_null(i))).collect()
        }
        _ => not_distinct(column, &cast(&there, column.data_type())?).map_err(|e| Error::internal(e.to_string()))?,
    };
    let misfits = (0..column.len()).filter(|&i| !same.value(i)).map(|i| (i, shown(column, i))).collect();
    Ok((there, misfits))
}

fn time(column: &ArrayRef, unit: TimeUnit) -> Result<(ArrayRef, Misfits)> {
    let raw = cast(column, &DataType::Int64)?;
    let raw = raw.as_primitive::<Int64Type>();
    let (factor, divisor) = match unit {
        TimeUnit::Second => (1000, 1),
        TimeUnit::Millisecond => (1, 1),
        TimeUnit::Microsecond => (1, 1000),
        TimeUnit::Nanosecond => (1, 1_000_000),
    };
    let whole = |x: i64| x.checked_mul(factor).filter(|x| x % divisor == 0).map(|x| x / divisor);
    let fits = |i: usize| raw.is_null(i) || whole(raw.value(i)).is_some();
    let misfits = (0..raw.len()).filter(|&i| !fits(i)).map(|i| (i, format!("{} {unit:?}s", raw.value(i)))).collect();
    let ms: Int64Array = raw.iter().map(|x| x.and_then(whole)).collect();
    Ok((
        Arc::new(ms.reinterpret_cast::<arrow::datatypes::TimestampMillisecondType>()) as Arc<TimestampMillisecondArray>,
        misfits,
    ))
}

fn sparse(column: &ArrayRef) -> Result<(ArrayRef, Misfits)> {
    let list: &ListArray = column.as_list();
    let entries = list.values().as_struct();
    let index = cast(entries.column(0), &DataType::UInt64)?;
    let (index, value) = (index.as_primitive::<UInt64Type>(), entries.column(1).as_primitive::<Float32Type>());
    let good = |e: usize| entries.is_valid(e) && index.is_valid(e) && value.is_valid(e);
    let mut misfits = Vec::new();
    if index.null_count() + value.null_count() + entries.null_count() > 0 {
        for (row, ends) in list.value_offsets().windows(2).enumerate() {
            if !(ends[0] as usize..ends[1] as usize).all(good) {
                misfits.push((row, "an entry without a value or with a negative index".to_string()));
            }
        }
    }
    let DataType::List(item) = sparse_type() else { unreachable!("the sparse type is a list") };
    let DataType::Struct(fields) = item.data_type() else { unreachable!("of structs") };
    let index = UInt64Array::new(index.values().clone(), None);
    let value = Float32Array::new(value.values().clone(), None);
    let entries = StructArray::new(fields.clone(), vec![Arc::new(index), Arc::new(value)], None);
    Ok((Arc::new(ListArray::new(item, list.offsets().clone(), Arc::new(entries), list.nulls().cloned())), misfits))
}

fn shown(column: &ArrayRef, row: usize) -> String {
    array_value_to_string(column, row).unwrap_or_else(|_| "a value".into())
}
