//! Bulk prediction over Arrow: a stream of rows in, a stream of predictions out, from one version.
//!
//! In: the bytes of an Arrow IPC stream whose columns are the source's by name; what is missing is NULL, and a column may
//! come as any type that loses nothing. Out: the same number of rows. The bytes are a stranger's: before the library reads
//! them, every length in them is checked against what is there, compressed buffers and texts that expand are refused.

use std::sync::Arc;

use ::arrow::{
    array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, new_null_array},
    buffer::Buffer,
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, Schema, TimeUnit},
    ipc::{self, reader::StreamDecoder, root_as_message, writer::StreamWriter},
};
use bytes::Bytes;
use tidemill_base::{Error, Result, contained::contained, thousands};
use tidemill_model::loss::Loss;

use super::{Predictor, ROWS_MAX, UNKNOWN_COLUMNS_MAX, Work, likeliest};
use crate::{
    live::{ServedVersion, Which},
    server::shown,
};

/// What an Arrow IPC stream is called over HTTP.
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// Rows in one stream at most.
pub const ARROW_ROWS_MAX: usize = 65_536;
/// Bytes of text that a column of [`ROWS_MAX`] rows may expand to: many rows can point to one long text.
const EXPANDED_BYTES_MAX: usize = 16 << 20;

/// The answer to one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrowReply {
    /// An Arrow IPC stream.
    pub bytes: Vec<u8>,
    /// Its rows.
    pub rows: usize,
}

impl Predictor {
    /// Predicts the rows of an Arrow IPC stream, by the live version or by the one that is asked for.
    pub fn predict_arrow<'a>(&self, body: Bytes, which: impl Into<Which<'a>>) -> Result<ArrowReply> {
        let rows = count_rows(&body)?;
        let batches = decode(body)?;
        let served = self.live.pick(which.into())?;
        let mut scratch = self.take_scratch()?;
        let mut values = Vec::with_capacity(rows * self.outputs().1);
        let scored = self.score_all(&batches, &served, &mut scratch.work, &mut values);
        self.keep_scratch(scratch);
        scored?;
        let bytes = self.write(&served, values, &self.unknown(&batches))?;
        Ok(ArrowReply { bytes, rows })
    }

    fn score_all(
        &self,
        batches: &[RecordBatch],
        served: &ServedVersion,
        work: &mut Work,
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let mut first = 0;
        for batch in batches {
            for begin in (0..batch.num_rows()).step_by(ROWS_MAX) {
                let rows = batch.slice(begin, ROWS_MAX.min(batch.num_rows() - begin));
                self.extract(&self.own_columns(&rows)?, work, first + begin)?;
                let before = values.len();
                work.scores.clear();
                served.weights.score(&work.features, &mut work.scratch, &mut work.scores)?;
                values.resize(before + work.scores.len(), 0.0);
                let loss = served.weights.loss();
                let width = loss.outputs();
                for (scores, out) in work.scores.chunks_exact(width).zip(values[before..].chunks_exact_mut(width)) {
                    loss.predict(scores, out);
                }
            }
            first += batch.num_rows();
        }
        Ok(())
    }

    /// The rows with the columns of the source.
    fn own_columns(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let schema = rows.schema();
        let column = |field: &Arc<Field>| {
            let mut named = schema.fields().iter().zip(rows.columns()).filter(|(f, _)| f.name() == field.name());
            match (named.next(), named.next()) {
                (None, _) => Ok(new_null_array(field.data_type(), rows.num_rows())),
                (Some((_, column)), None) => {
                    converted(column, field).map_err(|e| e.at(format_args!("column '{}'", shown(field.name()))))
                }
                _ => Err(Error::invalid(format!("column '{}' is there twice", shown(field.name())))),
            }
        };
        let columns = self.input.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(self.input.clone(), columns).map_err(|e| Error::internal(format!("rows: {e}")))
    }

    fn unknown(&self, batches: &[RecordBatch]) -> Vec<String> {
        let Some(batch) = batches.first() else { return Vec::new() };
        let schema = batch.schema();
        let unknown = schema.fields().iter().filter(|f| self.input.index_of(f.name()).is_err());
        unknown.take(UNKNOWN_COLUMNS_MAX).map(|f| f.name().clone()).collect()
    }

    fn write(&self, served: &ServedVersion, values: Vec<f32>, unknown: &[String]) -> Result<Vec<u8>> {
        let loss = served.weights.loss();
        let columns: Vec<(&str, ArrayRef)> = match loss {
            Loss::Softmax { classes } => {
                let likeliest = values.chunks_exact(classes).map(|p| likeliest(p) as i64);
                let item = Arc::new(Field::new("item", DataType::Float32, false));
                let class = Arc::new(likeliest.collect::<Int64Array>());
                let all = FixedSizeListArray::new(item, classes as i32, Arc::new(Float32Array::from(values)), None);
                vec![("class", class), ("probabilities", Arc::new(all))]
            }
            Loss::Logistic => vec![("probability", Arc::new(Float32Array::from(values)))],
            _ => vec![("value", Arc::new(Float32Array::from(values)))],
        };
        let fields: Vec<Field> = columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), false)).collect();
        let mut metadata = vec![
            ("model".to_string(), self.model.clone()),
            ("version".to_string(), served.version.to_string()),
            ("mini_batch".to_string(), served.mini_batch.to_string()),
        ];
        if !unknown.is_empty() {
            metadata.push(("unknown_columns".to_string(), serde_json::json!(unknown).to_string()));
        }
        let schema = Arc::new(Schema::new(fields).with_metadata(metadata.into_iter().collect()));
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        let written = RecordBatch::try_new(schema.clone(), columns).and_then(|batch| {
            let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
            writer.write(&batch)?;
            writer.into_inner()
        });
        written.map_err(|e| Error::internal(format!("write predictions: {e}")))
    }
}

/// How many rows a stream has; every length in it lies within it.
fn count_rows(body: &[u8]) -> Result<usize> {
    const CONTINUATION: [u8; 4] = [0xff; 4];
    if body.is_empty() {
        return Err(Error::invalid("request body is empty"));
    }
    let broken = |what: &str, at: usize| Error::invalid(format!("not an Arrow IPC stream: {what} at byte {at}"));
    let (mut at, mut rows) = (0, 0u64);
    while at < body.len() {
        let mut head = 4;
        let mut length = body[at..].first_chunk::<4>();
        if length == Some(&CONTINUATION) {
            length = body[at + 4..].first_chunk::<4>();
            head = 8;
        }
        let length = length.ok_or_else(|| broken("a length that is cut off", at))?;
        let (begin, length) = (at + head, u32::from_le_bytes(*length) as usize);
        if length == 0 {
            at = begin;
            break;
        }
        let message = begin.checked_add(length).and_then(|end| body.get(begin..end));
        let message = message.ok_or_else(|| broken("a message that is cut off", at))?;
        let message = root_as_message(message).map_err(|_| broken("no message", at))?;
        let data = usize::try_from(message.bodyLength()).ok().and_then(|n| (begin + length).checked_add(n));
        let end = data.filter(|end| *end <= body.len()).ok_or_else(|| broken("data that is cut off", at))?;
        let has = (end - begin - length) as u64;
        if let Some(batch) = message.header_as_record_batch() {
            check_batch(&batch, has).map_err(|what| broken(what, at))?;
            rows = rows.saturating_add(batch.length() as u64);
        } else if let Some(dictionary) = message.header_as_dictionary_batch() {
            let batch = dictionary.data().ok_or_else(|| broken("a dictionary without data", at))?;
            check_batch(&batch, has).map_err(|what| broken(what, at))?;
        }
        at = end;
    }
    if at < body.len() {
        return Err(broken("bytes behind the stream's end", at));
    }
    match usize::try_from(rows) {
        Ok(0) => Err(Error::invalid("the stream has no rows")),
        Ok(rows) if rows <= ARROW_ROWS_MAX => Ok(rows),
        _ => Err(Error::invalid(format!("{rows} rows; the limit of a stream is {}", thousands(ARROW_ROWS_MAX as u64)))),
    }
}

/// Whether the buffers of a batch lie within the data behind it.
fn check_batch(batch: &ipc::RecordBatch<'_>, has: u64) -> Result<(), &'static str> {
    if batch.compression().is_some() {
        return Err("compressed data, which is not taken; write the stream without compression,");
    }
    let within = |buffer: &ipc::Buffer| {
        let (offset, length) = (u64::try_from(buffer.offset()).ok()?, u64::try_from(buffer.length()).ok()?);
        (offset.checked_add(length)? <= has).then_some(())
    };
    let buffers = batch.buffers().into_iter().flatten();
    if batch.length() < 0 || buffers.map(within).any(|fits| fits.is_none()) {
        return Err("a buffer that lies outside its data");
    }
    Ok(())
}

fn decode(body: Bytes) -> Result<Vec<RecordBatch>> {
    let wrong = |what: &dyn std::fmt::Display| Error::invalid(format!("not an Arrow IPC stream: {what}"));
    // Where the library has not checked what it reads, its panic is the sender's mistake and not ours.
    let decoded = contained(|| {
        let mut decoder = StreamDecoder::new();
        let mut bytes = Buffer::from(body);
        let mut batches = Vec::new();
        while !bytes.is_empty() {
            batches.extend(decoder.decode(&mut bytes)?);
        }
        decoder.finish()?;
        Ok(batches)
    });
    decoded.ok_or_else(|| wrong(&"its parts contradict each other"))?.map_err(|e: ::arrow::error::ArrowError| wrong(&e))
}

/// A column as the source has it.
fn converted(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let (from, to) = (column.data_type(), field.data_type());
    if from == to {
        return Ok(column.clone());
    }
    let takes = match to {
        _ if *from == DataType::Null => return Ok(new_null_array(to, column.len())),
        DataType::Utf8 => match from {
            DataType::LargeUtf8 | DataType::Utf8View => true,
            DataType::Dictionary(_, values) => matches!(**values, DataType::Utf8 | DataType::LargeUtf8),
            _ => false,
        },
        DataType::Float64 | DataType::Float32 => from.is_floating() || from.is_integer(),
        DataType::Int64 | DataType::Int32 => from.is_integer(),
        DataType::Timestamp(TimeUnit::Millisecond, None) => {
            from.is_integer() || matches!(from, DataType::Timestamp(_, None))
        }
        _ => false,
    };
    if !takes {
        return Err(Error::invalid(format!("expected {to}, found {from}")));
    }
    if expanded_bytes(column) > EXPANDED_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{} rows of text are more than {EXPANDED_BYTES_MAX} bytes",
            thousands(column.len() as u64)
        )));
    }
    // A number that does not fit is an error and not a NULL.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, to, &options).map_err(|e| Error::invalid(e.to_string()))
}

/// Bytes of the texts of a column, each for itself.
fn expanded_bytes(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().lengths().map(|n| n as usize).sum(),
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            let length: Vec<usize> = match dictionary.values().data_type() {
                DataType::LargeUtf8 => dictionary.values().as_string::<i64>().offsets().lengths().collect(),
                _ => dictionary.values().as_string::<i32>().offsets().lengths().collect(),
            };
            match length.is_empty() {
                true => 0,
                false => dictionary.normalized_keys().into_iter().map(|key| length[key]).sum(),
            }
        }
        _ => 0,
    }
}
