//! Samples on their way out, to the sinks: with the prediction that was made before they were learned.
//!
//! In: the rows of a mini-batch as they go to the learner. Out: the same rows, once the learner has predicted them. They leave
//! on the thread that learns, in the order of the mini-batches; whoever takes them must not keep that thread waiting.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{Field, Schema},
};
use tidemill_base::{Error, Result};
use tidemill_sql::sample_columns;
use tidemill_stream::join::SampleKind;

/// Takes what leaves.
pub type Exit = Arc<dyn Fn(Leaving) + Send + Sync>;

/// The samples of one mini-batch.
pub struct Leaving {
    /// The mini-batch.
    pub mini_batch: u64,
    /// Columns of the pipeline's output.
    pub rows: RecordBatch,
    /// A label a row.
    pub labels: Vec<f32>,
    /// What each row is.
    pub kinds: Vec<SampleKind>,
    /// The size of each row's weight, where they differ.
    pub weights: Option<Vec<f32>>,
    /// What each row was predicted to be; NaN where it was refused.
    pub predictions: Vec<f32>,
}

/// What is given to the learner of it.
pub(super) struct Outgoing {
    pub leaving: Leaving,
    pub exit: Exit,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({} rows)", self.leaving.rows.num_rows())
    }
}

impl Leaving {
    /// The rows as a sink reads them: the pipeline's columns, then those of [`sample_columns`].
    pub fn columns(&self) -> Result<RecordBatch> {
        let rows = self.rows.num_rows();
        let signed = |(i, kind): (usize, &SampleKind)| kind.weight() * self.weights.as_ref().map_or(1.0, |w| w[i]);
        let predictions = self.predictions.iter().map(|p| p.is_finite().then_some(*p));
        let added: [ArrayRef; 6] = [
            Arc::new(predictions.collect::<Float32Array>()),
            Arc::new(Float32Array::from(self.labels.clone())),
            Arc::new(Float32Array::from_iter_values(self.kinds.iter().enumerate().map(signed))),
            Arc::new(StringArray::from_iter_values(self.kinds.iter().map(|kind| word(*kind)))),
            Arc::new(Int64Array::from_value(self.mini_batch as i64, rows)),
            Arc::new(Int64Array::from_iter_values(0..rows as i64)),
        ];
        let own = self.rows.schema();
        let fields = own.fields().iter().map(|f| f.as_ref().clone());
        let fields = fields.chain(sample_columns().map(|(name, ty)| Field::new(format!("engine.{name}"), ty, true)));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = self.rows.columns().iter().cloned().chain(added).collect();
        RecordBatch::try_new(schema, columns).map_err(|e| Error::internal(format!("samples that leave: {e}")))
    }

    /// Bytes of what it holds, about.
    pub fn bytes(&self) -> usize {
        let of_column = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
        self.rows.columns().iter().map(of_column).sum::<usize>() + self.rows.num_rows() * 16
    }
}

/// What a sink calls a kind of sample.
fn word(kind: SampleKind) -> &'static str {
    match kind {
        SampleKind::Final => "final",
        SampleKind::Early => "early",
        SampleKind::Retract => "retract",
        SampleKind::Correct => "correct",
        SampleKind::Late => "late",
        SampleKind::Unlearned => "unlearned",
        SampleKind::Closed => "closed",
    }
}
