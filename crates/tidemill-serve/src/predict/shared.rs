//! Rows that share columns: a context and candidates.
//!
//! In: the JSON of one object for all rows, and of one for each. Out: the predictions of rows that have the columns of
//! both; where a row says NULL or nothing, the context holds. Each goes into columns once, and from there on the way is
//! that of every prediction.

use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt32Array},
    compute::{interleave, take},
    datatypes::SchemaRef,
};
use tidemill_base::{Error, Result};
use tidemill_stream::source::json::JsonDecoder;

use super::{PredictReply, Predictor, row_error};
use crate::live::Which;

impl Predictor {
    /// Columns of the source, all of which may be NULL.
    pub(crate) fn columns(&self) -> &SchemaRef {
        &self.input
    }

    /// Predicts `rows`, each a JSON object, as if each had the columns of `context` too.
    pub(crate) fn predict_shared(
        &self,
        context: Option<&[u8]>,
        rows: &[&[u8]],
        which: Which<'_>,
    ) -> Result<PredictReply> {
        let mut scratch = self.take_scratch()?;
        let decoded = decode(context, rows, &mut scratch.decoder);
        // Where a row was refused, those before it are still in the decoder.
        scratch.decoder.clear();
        let answered = decoded.and_then(|rows| self.score(&rows, which, &mut scratch.work));
        self.keep_scratch(scratch);
        answered
    }
}

fn decode(context: Option<&[u8]>, rows: &[&[u8]], decoder: &mut JsonDecoder) -> Result<RecordBatch> {
    let shared = match context {
        None => None,
        Some(context) => {
            decoder.push_line(context).map_err(|reason| {
                let in_column = reason.strip_prefix("column '").and_then(|r| r.split_once("': "));
                Error::invalid(match in_column {
                    Some((column, what)) => format!("context.{column}: {what}"),
                    None => format!("context: {reason}"),
                })
            })?;
            Some(decoder.finish())
        }
    };
    for (i, row) in rows.iter().enumerate() {
        decoder.push_line(row).map_err(|reason| row_error(i, &reason))?;
    }
    let own = decoder.finish();
    let Some(shared) = shared else { return Ok(own) };
    let columns = own.columns().iter().zip(shared.columns()).map(|(own, shared)| filled(own, shared));
    let columns =
        columns.collect::<Result<Vec<_>, _>>().and_then(|columns| RecordBatch::try_new(own.schema(), columns));
    columns.map_err(|e| Error::internal(format!("fill columns from the context: {e}")))
}

/// A column whose NULLs are the one value of `shared`.
fn filled(own: &ArrayRef, shared: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    if own.null_count() == 0 || shared.is_null(0) {
        return Ok(own.clone());
    }
    if own.null_count() == own.len() {
        return take(shared, &UInt32Array::from(vec![0; own.len()]), None);
    }
    let places: Vec<(usize, usize)> = (0..own.len()).map(|i| if own.is_null(i) { (1, 0) } else { (0, i) }).collect();
    interleave(&[own.as_ref(), shared.as_ref()], &places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{Int64Array, new_null_array};

    #[test]
    fn nulls_take_what_is_shared() {
        let column = |values: &[Option<i64>]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        let shared = column(&[Some(7)]);
        for (own, expected) in [
            (vec![Some(1), Some(2)], vec![Some(1), Some(2)]),
            (vec![None, Some(2)], vec![Some(7), Some(2)]),
            (vec![None, None], vec![Some(7), Some(7)]),
        ] {
            assert_eq!(&filled(&column(&own), &shared).unwrap(), &column(&expected));
        }
        let nothing = new_null_array(shared.data_type(), 1);
        assert_eq!(&filled(&column(&[None, Some(1)]), &nothing).unwrap(), &column(&[None, Some(1)]));
    }
}
