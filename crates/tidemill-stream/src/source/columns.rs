//! Columns being filled row by row, with the last row still to be taken back.
//!
//! In: values of one row after the other, column by column. Out: a `RecordBatch` of the declared schema. A row that turns out
//! bad in its third column leaves no trace: [`Columns::rollback`] cuts every column to the rows that were committed.

pub(super) mod block;

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, BooleanBufferBuilder, Float32Array, Float64Array, Int32Array, Int64Array,
        ListArray, NullBufferBuilder, RecordBatch, StringArray, StructArray, TimestampMillisecondArray, UInt64Array,
    },
    buffer::{NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field, SchemaRef, TimeUnit},
};
use tidemill_base::{Error, Result};

use super::{
    number::{NotANumber, parse_bool, parse_f32, parse_f64, parse_i32, parse_i64},
    sparse_type,
    words::{show, sql_type},
};

/// The columns of one schema.
pub(super) struct Columns {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
}

/// One column.
pub(super) struct Column {
    name: String,
    /// As SQL writes it.
    type_name: String,
    nullable: bool,
    data: Data,
    nulls: NullBufferBuilder,
    /// Values, the row in progress included.
    len: usize,
}

/// The values of a column, NULLs included as zeros.
pub(super) enum Data {
    Int64(Vec<i64>),
    Timestamp(Vec<i64>),
    Int32(Vec<i32>),
    Float64(Vec<f64>),
    Float32(Vec<f32>),
    Bool(BooleanBufferBuilder),
    Utf8 { ends: Vec<i32>, bytes: Vec<u8> },
    Sparse { ends: Vec<i32>, indices: Vec<u64>, values: Vec<f32> },
}

impl Columns {
    /// Empty columns; refuses a type that no source can carry.
    pub(super) fn new(schema: SchemaRef) -> Result<Self> {
        let columns = schema.fields().iter().map(|f| Column::new(f)).collect::<Result<_>>()?;
        Ok(Self { schema, columns, rows: 0 })
    }

    /// The declared schema.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Complete rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The columns, in declared order.
    #[inline]
    pub(super) fn all(&mut self) -> &mut [Column] {
        &mut self.columns
    }

    /// The row is complete: each column was given exactly one value since the last commit.
    #[inline]
    pub(super) fn commit(&mut self) {
        self.rows += 1;
        debug_assert!(self.columns.iter().all(|c| c.len() == self.rows));
    }

    /// `rows` rows are complete; whatever some columns were given beyond them is forgotten.
    pub(super) fn commit_rows(&mut self, rows: usize) {
        self.rows += rows;
        self.rollback();
        debug_assert!(self.columns.iter().all(|c| c.len() == self.rows));
    }

    /// Forgets whatever was given since the last commit.
    pub(super) fn rollback(&mut self) {
        let rows = self.rows;
        self.columns.iter_mut().for_each(|c| c.truncate(rows));
    }

    /// Gives NULL to every column that was given nothing in this row.
    #[inline]
    pub(super) fn fill_missing(&mut self) -> Result<(), String> {
        let rows = self.rows;
        self.columns.iter_mut().filter(|c| c.len() == rows).try_for_each(Column::push_null)
    }

    /// Forgets all rows.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
        self.rollback();
    }

    /// The rows so far; the columns are empty afterwards.
    pub(super) fn finish(&mut self) -> RecordBatch {
        let rows = std::mem::take(&mut self.rows);
        let arrays = self.columns.iter_mut().map(|c| c.finish(rows)).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .expect("columns were made for this schema and are of one length")
    }
}

impl Column {
    fn new(field: &Field) -> Result<Self> {
        let data = match field.data_type() {
            DataType::Int64 => Data::Int64(Vec::new()),
            DataType::Timestamp(TimeUnit::Millisecond, None) => Data::Timestamp(Vec::new()),
            DataType::Int32 => Data::Int32(Vec::new()),
            DataType::Float64 => Data::Float64(Vec::new()),
            DataType::Float32 => Data::Float32(Vec::new()),
            DataType::Boolean => Data::Bool(BooleanBufferBuilder::new(0)),
            DataType::Utf8 => Data::Utf8 { ends: Vec::new(), bytes: Vec::new() },
            t if *t == sparse_type() => Data::Sparse { ends: Vec::new(), indices: Vec::new(), values: Vec::new() },
            t => {
                return Err(Error::invalid(format!(
                    "column '{}': a source cannot carry {t}; use BIGINT, INT, DOUBLE, FLOAT, STRING, BOOLEAN, TIMESTAMP(3) or SPARSE",
                    field.name()
                )));
            }
        };
        Ok(Self {
            name: field.name().clone(),
            type_name: sql_type(field.data_type()),
            nullable: field.is_nullable(),
            data,
            nulls: NullBufferBuilder::new(0),
            len: 0,
        })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its type, as SQL writes it.
    pub(super) fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Its values, for a format that writes them itself; [`Column::commit_value`] goes with it.
    pub(super) fn data(&mut self) -> &mut Data {
        &mut self.data
    }

    /// Marks the value just written through [`Column::data`] as not NULL.
    #[inline]
    pub(super) fn commit_value(&mut self) {
        self.nulls.append_non_null();
        self.len += 1;
    }

    /// Values, the row in progress included.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// NULL.
    #[inline]
    pub(super) fn push_null(&mut self) -> Result<(), String> {
        if !self.nullable {
            return Err(format!("column '{}': NULL in a column declared NOT NULL", self.name));
        }
        match &mut self.data {
            Data::Int64(v) | Data::Timestamp(v) => v.push(0),
            Data::Int32(v) => v.push(0),
            Data::Float64(v) => v.push(0.0),
            Data::Float32(v) => v.push(0.0),
            Data::Bool(v) => v.append(false),
            Data::Utf8 { ends, bytes } => ends.push(bytes.len() as i32),
            Data::Sparse { ends, indices, .. } => ends.push(indices.len() as i32),
        }
        self.nulls.append_null();
        self.len += 1;
        Ok(())
    }

    /// A value written as text.
    #[inline]
    pub(super) fn push_text(&mut self, field: &[u8]) -> Result<(), String> {
        let read = match &mut self.data {
            Data::Int64(v) | Data::Timestamp(v) => parse_i64(field).map(|x| v.push(x)),
            Data::Int32(v) => parse_i32(field).map(|x| v.push(x)),
            Data::Float64(v) => parse_f64(field).map(|x| v.push(x)),
            Data::Float32(v) => parse_f32(field).map(|x| v.push(x)),
            Data::Bool(v) => parse_bool(field).map(|x| v.append(x)),
            Data::Utf8 { ends, bytes } => {
                bytes.extend_from_slice(field);
                ends.push(end(bytes.len(), &self.name)?);
                Ok(())
            }
            Data::Sparse { .. } => Err(NotANumber::Malformed),
        };
        match read {
            Ok(()) => {
                self.commit_value();
                Ok(())
            }
            Err(why) => Err(self.refuse(field, why)),
        }
    }

    #[cold]
    fn refuse(&self, field: &[u8], why: NotANumber) -> String {
        let (name, value, ty) = (&self.name, show(field), &self.type_name);
        match why {
            NotANumber::Malformed if value.parse::<f64>().is_ok_and(|x| !x.is_finite()) => {
                format!("column '{name}': '{value}' is not a finite {ty}")
            }
            NotANumber::Malformed => format!("column '{name}': '{value}' is not a {ty}"),
            NotANumber::OutOfRange => format!("column '{name}': '{value}' is out of range of {ty}"),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match &mut self.data {
            Data::Int64(v) | Data::Timestamp(v) => v.truncate(rows),
            Data::Int32(v) => v.truncate(rows),
            Data::Float64(v) => v.truncate(rows),
            Data::Float32(v) => v.truncate(rows),
            Data::Bool(v) => v.truncate(rows.min(v.len())),
            Data::Utf8 { ends, bytes } => {
                ends.truncate(rows);
                bytes.truncate(ends.last().map_or(0, |&e| e as usize));
            }
            Data::Sparse { ends, indices, values } => {
                ends.truncate(rows);
                let entries = ends.last().map_or(0, |&e| e as usize);
                indices.truncate(entries);
                values.truncate(entries);
            }
        }
        self.nulls.truncate(rows.min(self.len));
        self.len = self.len.min(rows);
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        self.len = 0;
        let nulls = self.nulls.finish();
        match &mut self.data {
            Data::Int64(v) => Arc::new(Int64Array::new(take(v).into(), nulls)),
            Data::Timestamp(v) => Arc::new(TimestampMillisecondArray::new(take(v).into(), nulls)),
            Data::Int32(v) => Arc::new(Int32Array::new(take(v).into(), nulls)),
            Data::Float64(v) => Arc::new(Float64Array::new(take(v).into(), nulls)),
            Data::Float32(v) => Arc::new(Float32Array::new(take(v).into(), nulls)),
            Data::Bool(v) => Arc::new(BooleanArray::new(v.finish(), nulls)),
            Data::Utf8 { ends, bytes } => {
                let bytes = take(bytes);
                Arc::new(texts(offsets(ends, rows), bytes, nulls))
            }
            Data::Sparse { ends, indices, values } => sparse(offsets(ends, rows), take(indices), take(values), nulls),
        }
    }
}

/// Takes the values and leaves room for as many again: the next chunk is about as large.
fn take<T>(v: &mut Vec<T>) -> Vec<T> {
    let room = v.capacity().min(v.len() + v.len() / 8);
    std::mem::replace(v, Vec::with_capacity(room))
}

fn offsets(ends: &mut Vec<i32>, rows: usize) -> OffsetBuffer<i32> {
    let mut all = Vec::with_capacity(rows + 1);
    all.push(0);
    all.extend_from_slice(ends);
    ends.clear();
    OffsetBuffer::new(ScalarBuffer::from(all))
}

/// Texts one behind the other. Of plain ASCII it need not be asked for each whether it begins and ends between characters.
fn texts(ends: OffsetBuffer<i32>, bytes: Vec<u8>, nulls: Option<NullBuffer>) -> StringArray {
    let is_inside = ends.last().is_some_and(|end| *end as usize <= bytes.len());
    let is_whole = nulls.as_ref().is_none_or(|nulls| nulls.len() + 1 == ends.len());
    if is_inside && is_whole && bytes.is_ascii() {
        // SAFETY: offsets ascend, as their type says; they end within the bytes, there is a bit for each text, and ASCII is
        // UTF-8 wherever it is cut: all of it was asked just now.
        return unsafe { StringArray::new_unchecked(ends, bytes.into(), nulls) };
    }
    StringArray::new(ends, bytes.into(), nulls)
}

fn sparse(ends: OffsetBuffer<i32>, indices: Vec<u64>, values: Vec<f32>, nulls: Option<NullBuffer>) -> ArrayRef {
    let DataType::List(item) = sparse_type() else { unreachable!("the sparse type is a list") };
    let DataType::Struct(fields) = item.data_type() else { unreachable!("of structs") };
    let parts: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(indices)), Arc::new(Float32Array::from(values))];
    let entries = StructArray::new(fields.clone(), parts, None);
    debug_assert_eq!(*ends.last().expect("offsets begin with 0") as usize, entries.len());
    Arc::new(ListArray::new(item, ends, Arc::new(entries), nulls))
}

/// The end of a value as Arrow's 32-bit offset.
#[inline]
pub(super) fn end(bytes: usize, column: &str) -> Result<i32, String> {
    i32::try_from(bytes).map_err(|_| format!("column '{column}': more than 2 GiB in one batch; send fewer rows"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{datatypes::Schema, util::pretty::pretty_format_batches};
    use expect_test::expect;

    /// A row that is bad in its last column must leave no half of itself in the others.
    #[test]
    fn a_row_taken_back_leaves_no_trace() {
        let fields = vec![
            Field::new("i", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("b", DataType::Boolean, true),
            Field::new("f", DataType::Float32, false),
        ];
        let mut c = Columns::new(Arc::new(Schema::new(fields))).unwrap();
        let rows: [[&[u8]; 4]; 4] = [
            [b"1", b"one", b"true", b"0.5"],
            [b"2", b"two", b"false", b"x"],
            [b"", b"", b"", b""],
            [b"3", b"three", b"0", b"2"],
        ];
        let mut refused = Vec::new();
        for row in rows {
            let put = c.all().iter_mut().zip(row).try_for_each(|(c, f)| match f {
                b"" => c.push_null(),
                _ => c.push_text(f),
            });
            match put {
                Ok(()) => c.commit(),
                Err(e) => {
                    refused.push(e);
                    c.rollback();
                }
            }
        }
        let batch = c.finish();
        expect![[r#"
            +---+-------+-------+-----+
            | i | s     | b     | f   |
            +---+-------+-------+-----+
            | 1 | one   | true  | 0.5 |
            | 3 | three | false | 2.0 |
            +---+-------+-------+-----+"#]]
        .assert_eq(&pretty_format_batches(&[batch]).unwrap().to_string());
        assert_eq!(refused, ["column 'f': 'x' is not a FLOAT", "column 'f': NULL in a column declared NOT NULL"]);
        assert_eq!(c.finish().num_rows(), 0);
    }
}
