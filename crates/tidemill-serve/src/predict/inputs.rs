//! Tensors to the columns of a model, and which tensors a model takes.
//!
//! In: a request's tensors. Out: rows with the columns of the source, or, where the model reads nothing but numbers and
//! they came as one tensor, its features at once. A tensor that is unknown, missing, there twice, of another type or
//! another number of rows is refused by name.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, RecordBatchOptions,
        StringArray, TimestampMillisecondArray, new_null_array,
    },
    buffer::{NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use tidemill_base::{Error, Result, thousands};
use tidemill_model::feature::{Extractor, Features, FloatPlan};
use tidemill_stream::{Transform, source::json::JsonDecoder};

use super::{
    ROWS_MAX,
    tensor::{Datatype, Tensor, Values},
};

/// The tensor that brings all floating-point inputs at once, in the order in which the metadata lists them.
pub const ALL_FLOATS: &str = "features";

/// The inputs of a model.
pub(super) struct Inputs {
    schema: SchemaRef,
    list: Vec<Input>,
    /// Places in `list` of the floating-point inputs; empty where an input has the name of [`ALL_FLOATS`].
    floats: Vec<usize>,
    /// For models that read nothing else.
    plan: Option<FloatPlan>,
}

/// An input of a model: a column that its features are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The column's name.
    pub name: String,
    /// What the column holds; tensors of some other datatypes are taken as well.
    pub datatype: Datatype,
    /// Whether a request may leave it out.
    pub optional: bool,
    column: usize,
}

/// Where an input's values stand in the request.
#[derive(Clone, Copy)]
enum Found {
    Tensor(usize),
    /// The tensor, and which of its columns.
    Floats(usize, usize),
}

impl Inputs {
    pub fn new(schema: &SchemaRef, request: &dyn Transform, extractor: &Extractor) -> Self {
        let read = request.reads().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let optional = request.optional();
        let input = |column: usize| {
            let field = schema.field(column);
            let optional = optional.contains(&column);
            Input { name: field.name().clone(), datatype: datatype_of(field.data_type()), optional, column }
        };
        let list: Vec<Input> = read.into_iter().map(input).collect();
        let mut floats: Vec<usize> =
            (0..list.len()).filter(|i| matches!(list[*i].datatype, Datatype::Fp32 | Datatype::Fp64)).collect();
        if list.iter().any(|i| i.name == ALL_FLOATS) {
            floats.clear();
        }
        let passed_on = request.passes_on();
        let place = |column: usize| {
            let source = (*passed_on.get(column)?)?;
            floats.iter().position(|i| list[*i].column == source)
        };
        let plan = match floats.len() == list.len() {
            true => extractor.float_plan(floats.len(), place),
            false => None,
        };
        Self { schema: schema.clone(), list, floats, plan }
    }

    pub fn list(&self) -> &[Input] {
        &self.list
    }

    /// The features of the request's rows where they need no columns; `None` where they do. Checks what it answers.
    pub fn extract(&self, tensors: &[Tensor<'_>], out: &mut Features) -> Result<Option<usize>> {
        let (Some(plan), [tensor]) = (&self.plan, tensors) else { return Ok(None) };
        if tensor.name != ALL_FLOATS || !tensor.nulls.is_empty() {
            return Ok(None);
        }
        let rows = self.rows_of_floats(tensor)?;
        tensor.values.check_finite().map_err(|e| in_tensor(tensor, e))?;
        match &tensor.values {
            Values::Fp32(values) => plan.extract(values, out),
            Values::Fp64(values) => plan.extract(values, out),
            _ => return Ok(None),
        }
        Ok(Some(rows))
    }

    /// The rows of a request. `missing_as_null`: an input that is not there is NULL in every row.
    pub fn rows(&self, tensors: &[Tensor<'_>], missing_as_null: bool) -> Result<RecordBatch> {
        let (rows, found) = self.find(tensors, missing_as_null)?;
        tensors.iter().try_for_each(|t| t.values.check_finite().map_err(|e| in_tensor(t, e)))?;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        for (input, found) in self.list.iter().zip(found) {
            let field = self.schema.field(input.column);
            columns[input.column] = match found {
                None => None,
                Some(Found::Tensor(t)) => Some(
                    column(field, Cow::Borrowed(&tensors[t].values), &tensors[t].nulls)
                        .map_err(|e| in_tensor(&tensors[t], e))?,
                ),
                Some(Found::Floats(t, place)) => {
                    let (values, nulls) = self.one_of(&tensors[t], place);
                    Some(column(field, Cow::Owned(values), &nulls).map_err(|e| in_tensor(&tensors[t], e))?)
                }
            };
        }
        let null = |i: usize| new_null_array(self.schema.field(i).data_type(), rows);
        let columns = columns.into_iter().enumerate().map(|(i, c)| c.unwrap_or_else(|| null(i))).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("columns of a request: {e}")))
    }

    /// How many rows there are, and where each input stands.
    fn find(&self, tensors: &[Tensor<'_>], missing_as_null: bool) -> Result<(usize, Vec<Option<Found>>)> {
        let mut found: Vec<Option<Found>> = vec![None; self.list.len()];
        let mut rows: Option<(usize, &str)> = None;
        // Tensors mostly come in the order of the metadata.
        let mut next = 0;
        for (t, tensor) in tensors.iter().enumerate() {
            let n = if tensor.name == ALL_FLOATS && !self.floats.is_empty() {
                let n = self.rows_of_floats(tensor)?;
                for (place, i) in self.floats.iter().enumerate() {
                    self.set(&mut found, *i, Found::Floats(t, place))?;
                }
                n
            } else {
                let i = self.place_of(&tensor.name, next)?;
                self.set(&mut found, i, Found::Tensor(t))?;
                next = i + 1;
                rows_of_one(tensor)?
            };
            match rows {
                Some((rows, first)) if rows != n => {
                    return Err(Error::invalid(format!(
                        "input '{}' has {n} rows, input '{first}' has {rows}; all must have the same number",
                        shown(&tensor.name)
                    )));
                }
                Some(_) => {}
                None => rows = Some((n, &tensor.name)),
            }
        }
        let missing = (0..found.len()).find(|i| found[*i].is_none() && !self.list[*i].optional);
        if let Some(i) = missing
            && !missing_as_null
        {
            return Err(Error::invalid(format!(
                "input '{}' is missing; the parameter \"missing_as_null\": true makes what is missing NULL",
                self.list[i].name
            )));
        }
        match rows {
            Some((rows, _)) => Ok((rows, found)),
            None => Err(Error::invalid("inputs is empty")),
        }
    }

    fn place_of(&self, name: &str, next: usize) -> Result<usize> {
        if self.list.get(next).is_some_and(|i| i.name == name) {
            return Ok(next);
        }
        self.list.iter().position(|i| i.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.list.iter().map(|i| i.name.as_str()).take(64).collect();
            Error::invalid(format!("unknown input '{}'; inputs are {}", shown(name), known.join(", ")))
        })
    }

    fn set(&self, found: &mut [Option<Found>], i: usize, by: Found) -> Result<()> {
        match found[i].replace(by) {
            None => Ok(()),
            Some(_) => Err(Error::invalid(format!("input '{}' is there twice", self.list[i].name))),
        }
    }

    fn rows_of_floats(&self, tensor: &Tensor<'_>) -> Result<usize> {
        let width = self.floats.len();
        if !matches!(tensor.values, Values::Fp32(_) | Values::Fp64(_)) {
            return Err(wrong_datatype(tensor, "FP32 or FP64"));
        }
        match tensor.shape.dims() {
            [rows, columns] if *columns == width as u64 => checked_rows(tensor, *rows),
            _ => Err(wrong_shape(tensor, format!("[n,{width}], a column for each floating-point input"))),
        }
    }

    /// One column of the tensor that brings all floating-point inputs.
    fn one_of(&self, tensor: &Tensor<'_>, place: usize) -> (Values, Vec<u32>) {
        let width = self.floats.len();
        let values = match &tensor.values {
            Values::Fp32(v) => Values::Fp32(v.iter().skip(place).step_by(width).copied().collect()),
            Values::Fp64(v) => Values::Fp64(v.iter().skip(place).step_by(width).copied().collect()),
            other => other.clone(),
        };
        let (width, place) = (width as u32, place as u32);
        let nulls = tensor.nulls.iter().filter(|i| **i % width == place).map(|i| i / width).collect();
        (values, nulls)
    }
}

fn rows_of_one(tensor: &Tensor<'_>) -> Result<usize> {
    match tensor.shape.dims() {
        [rows] | [rows, 1] => checked_rows(tensor, *rows),
        _ => Err(wrong_shape(tensor, "[n] or [n,1]".to_string())),
    }
}

fn checked_rows(tensor: &Tensor<'_>, rows: u64) -> Result<usize> {
    match usize::try_from(rows) {
        Ok(0) => Err(Error::invalid(format!("input '{}' has no rows", shown(&tensor.name)))),
        Ok(rows) if rows <= ROWS_MAX => Ok(rows),
        _ => Err(Error::invalid(format!("{rows} rows; the limit is {}", thousands(ROWS_MAX as u64)))),
    }
}

fn wrong_shape(tensor: &Tensor<'_>, expected: String) -> Error {
    Error::invalid(format!("input '{}' has shape {}; send {expected}", shown(&tensor.name), tensor.shape))
}

fn wrong_datatype(tensor: &Tensor<'_>, expected: &str) -> Error {
    Error::invalid(format!("input '{}' has datatype {}; send {expected}", shown(&tensor.name), tensor.datatype.name()))
}

fn in_tensor(tensor: &Tensor<'_>, e: Error) -> Error {
    match e.message().strip_prefix("datatype: ") {
        Some(expected) => wrong_datatype(tensor, expected),
        None => e.at(format_args!("input '{}'", shown(&tensor.name))),
    }
}

fn shown(name: &str) -> String {
    crate::server::shown(name)
}

/// What a column is called in metadata. A list of features comes as text, as `:predict` takes it: `[[7, 0.5]]`.
fn datatype_of(column: &DataType) -> Datatype {
    match column {
        DataType::Boolean => Datatype::Bool,
        DataType::Int32 => Datatype::Int32,
        DataType::Int64 | DataType::Timestamp(..) => Datatype::Int64,
        DataType::Float32 => Datatype::Fp32,
        DataType::Float64 => Datatype::Fp64,
        _ => Datatype::Bytes,
    }
}

/// One column; the message of a wrong datatype is `datatype: ` and what would do.
fn column(field: &Field, values: Cow<'_, Values>, nulls: &[u32]) -> Result<ArrayRef> {
    let rows = values.len();
    let valid = (!nulls.is_empty()).then(|| {
        let mut valid = vec![true; rows];
        nulls.iter().for_each(|i| valid[*i as usize] = false);
        NullBuffer::from(valid)
    });
    let other = |expected: &str| Err(Error::invalid(format!("datatype: {expected}")));
    const WHOLE: &str = "INT64 or another whole number";
    Ok(match (field.data_type(), values.into_owned()) {
        (DataType::Float64, Values::Fp64(v)) => Arc::new(Float64Array::new(v.into(), valid)),
        (DataType::Float64, Values::Fp32(v)) => {
            Arc::new(Float64Array::new(v.iter().map(|x| f64::from(*x)).collect(), valid))
        }
        (DataType::Float64, Values::Int(v)) => {
            Arc::new(Float64Array::new(v.iter().map(|x| *x as f64).collect(), valid))
        }
        (DataType::Float32, Values::Fp32(v)) => Arc::new(Float32Array::new(v.into(), valid)),
        (DataType::Float32, Values::Fp64(v)) => {
            let v = v.iter().map(|x| single(*x)).collect::<Result<Vec<f32>>>()?;
            Arc::new(Float32Array::new(v.into(), valid))
        }
        (DataType::Float32, Values::Int(v)) => {
            Arc::new(Float32Array::new(v.iter().map(|x| *x as f32).collect(), valid))
        }
        (DataType::Int64, Values::Int(v)) => Arc::new(Int64Array::new(v.into(), valid)),
        (DataType::Timestamp(TimeUnit::Millisecond, None), Values::Int(v)) => {
            Arc::new(TimestampMillisecondArray::new(v.into(), valid))
        }
        (DataType::Int32, Values::Int(v)) => {
            let narrow =
                |x: &i64| i32::try_from(*x).map_err(|_| Error::invalid(format!("{x} is out of range of INT32")));
            Arc::new(Int32Array::new(v.iter().map(narrow).collect::<Result<Vec<i32>>>()?.into(), valid))
        }
        (DataType::Boolean, Values::Bool(v)) => Arc::new(BooleanArray::new(v.into(), valid)),
        (DataType::Utf8, Values::Bytes(v)) => {
            let ends = std::iter::once(0).chain(v.ends).collect::<ScalarBuffer<i32>>();
            Arc::new(
                StringArray::try_new(OffsetBuffer::new(ends), v.bytes.into(), valid)
                    .map_err(|e| Error::invalid(format!("not UTF-8: {e}")))?,
            )
        }
        (DataType::List(_), Values::Bytes(v)) => lists(field, &v.ends, &v.bytes, nulls)?,
        (DataType::Float64 | DataType::Float32, _) => return other("FP64, FP32 or a whole number"),
        (DataType::Int64 | DataType::Int32 | DataType::Timestamp(..), _) => return other(WHOLE),
        (DataType::Boolean, _) => return other("BOOL"),
        _ => return other("BYTES"),
    })
}

fn single(x: f64) -> Result<f32> {
    let narrow = x as f32;
    match narrow.is_finite() {
        true => Ok(narrow),
        false => Err(Error::invalid(format!("{x:e} is beyond what a 32-bit float holds"))),
    }
}

/// Lists of features, each as the JSON that `:predict` takes.
fn lists(field: &Field, ends: &[i32], bytes: &[u8], nulls: &[u32]) -> Result<ArrayRef> {
    let mut decoder = JsonDecoder::new(Arc::new(Schema::new(vec![field.clone()])))?;
    let mut begin = 0;
    for (i, end) in ends.iter().enumerate() {
        let text = match nulls.binary_search(&(i as u32)) {
            Ok(_) => b"null",
            Err(_) => &bytes[begin..*end as usize],
        };
        let line = [b"{", serde_json::json!(field.name()).to_string().as_bytes(), b":", text, b"}"].concat();
        decoder.push_line(&line).map_err(|why| Error::invalid(format!("value {i}: {why}")))?;
        begin = *end as usize;
    }
    Ok(decoder.finish().column(0).clone())
}
