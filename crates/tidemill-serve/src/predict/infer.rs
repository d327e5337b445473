//! Inference over tensors: what `:predict` does with rows, for requests that bring columns.
//!
//! In: tensors. Out: one tensor of predictions from one version, the same numbers that `:predict` gives for the same
//! rows. A model that reads nothing but numbers is answered without columns being made.

use tidemill_base::Result;
use tidemill_model::loss::Loss;

use super::{Input, Predictor, Work, likeliest, tensor::Datatype, tensor::Tensor};
use crate::live::{ServedVersion, Which};

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// The last version published into the weights that answered; 0 before the first.
    pub version: u64,
    /// Mini-batches those weights had learned from.
    pub mini_batch: u64,
    /// Rows of the request.
    pub rows: usize,
    /// Numbers of each row: one, or as many as there are classes.
    pub width: usize,
    /// The predictions, row by row.
    pub values: Vec<f32>,
}

/// A tensor that a model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The probability or the number of each row; of a model with classes the probability of each.
    Prediction,
    /// The likeliest class of each row.
    Class,
}

impl Output {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::Class => "class",
        }
    }

    /// What its values are.
    pub fn datatype(self) -> Datatype {
        match self {
            Self::Prediction => Datatype::Fp32,
            Self::Class => Datatype::Int64,
        }
    }
}

/// The outputs of a model with this loss, which no version changes.
pub(super) fn outputs_of(loss: Loss) -> (&'static [Output], usize) {
    match loss {
        Loss::Softmax { classes } => (&[Output::Prediction, Output::Class], classes),
        _ => (&[Output::Prediction], 1),
    }
}

impl Predictor {
    /// What a request must bring.
    pub fn inputs(&self) -> &[Input] {
        self.inputs.list()
    }

    /// What a reply brings, and the classes of the model; one number when it has none.
    pub fn outputs(&self) -> (&'static [Output], usize) {
        self.outputs
    }

    /// Predicts for the rows of `tensors`, by the live version or by the one that is asked for. `missing_as_null`: an
    /// input that is not there is NULL in every row.
    pub fn infer<'a>(
        &self,
        tensors: &[Tensor<'_>],
        which: impl Into<Which<'a>>,
        missing_as_null: bool,
    ) -> Result<Inferred> {
        let mut scratch = self.take_scratch()?;
        let inferred = self.infer_in(tensors, which.into(), missing_as_null, &mut scratch.work);
        self.keep_scratch(scratch);
        inferred
    }

    fn infer_in(
        &self,
        tensors: &[Tensor<'_>],
        which: Which<'_>,
        missing_as_null: bool,
        work: &mut Work,
    ) -> Result<Inferred> {
        let rows = match self.inputs.extract(tensors, &mut work.features)? {
            Some(rows) => {
                work.check_none_refused(0)?;
                rows
            }
            None => {
                let rows = self.inputs.rows(tensors, missing_as_null)?;
                self.extract(&rows, work, 0)?;
                rows.num_rows()
            }
        };
        // As late as possible: what was learned while the request was read is in.
        let served = self.live.pick(which)?;
        let (width, values) = values(&served, work)?;
        self.recent.note(&work.features);
        self.mirror(which, &served, work, || values.chunks_exact(width).map(|p| f64::from(p[likeliest(p)])));
        Ok(Inferred { version: served.version, mini_batch: served.mini_batch, rows, width, values })
    }
}

impl Inferred {
    /// The likeliest class of each row.
    pub fn classes(&self) -> impl Iterator<Item = i64> + '_ {
        self.values.chunks_exact(self.width).map(|p| likeliest(p) as i64)
    }
}

fn values(served: &ServedVersion, work: &mut Work) -> Result<(usize, Vec<f32>)> {
    work.scores.clear();
    served.weights.score(&work.features, &mut work.scratch, &mut work.scores)?;
    let loss = served.weights.loss();
    let width = loss.outputs();
    let mut values = vec![0.0; work.scores.len()];
    for (scores, out) in work.scores.chunks_exact(width).zip(values.chunks_exact_mut(width)) {
        loss.predict(scores, out);
    }
    Ok((width, values))
}
