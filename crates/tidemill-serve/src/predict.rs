//! Step 9, predict: rows in, probabilities of one version out.
//!
//! A row goes through the very transforms and the very extractor that training uses, then through the one summation of
//! the model. A reply names the version that made it, and all its predictions come from that one. What is wrong with a
//! request is said with row and column; nothing is guessed, clamped or left out in silence.

mod arrow;
mod explain;
mod infer;
mod inputs;
mod recent;
mod rows;
mod shared;
pub mod tensor;

use std::sync::{Arc, Mutex, PoisonError};

use ::arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use tidemill_base::{Error, Result};
use tidemill_model::{
    feature::{Extractor, Features},
    loss::Loss,
    weights::{ScoreScratch, WeightTable},
};
use tidemill_stream::{Transform, source::json::JsonDecoder};

pub use self::arrow::{ARROW_ROWS_MAX, ARROW_STREAM, ArrowReply};
use crate::live::{LiveModel, ServedVersion, Which};
pub use explain::{EXPLAIN_ROWS_MAX, ExplainReply, Explanation};
pub use infer::{Inferred, Output};
use inputs::Inputs;
pub use inputs::{ALL_FLOATS, Input};
pub(crate) use recent::Recent;

/// Rows in one request at most.
pub const ROWS_MAX: usize = 1024;
/// Names of ignored columns that a reply lists at most.
const UNKNOWN_COLUMNS_MAX: usize = 32;
/// Work areas kept for later requests; more are made when more requests run at once.
const SCRATCH_KEPT_MAX: usize = 16;

/// Answers prediction requests of one model.
pub struct Predictor {
    model: String,
    input: SchemaRef,
    request: Arc<dyn Transform>,
    extractor: Extractor,
    inputs: Inputs,
    outputs: (&'static [Output], usize),
    live: Arc<LiveModel>,
    #[expect(clippy::vec_box, reason = "it changes hands twice in every request")]
    scratch: Mutex<Vec<Box<Scratch>>>,
    recent: Arc<Recent>,
}

/// One row's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Prediction {
    /// How probable a positive label is.
    Probability(f64),
    /// The expected number.
    Value(f64),
    /// How probable each class is, from class 0.
    Classes(Vec<f64>),
}

impl Prediction {
    /// The probability, the number, or the probability of the likeliest class.
    pub fn number(&self) -> f64 {
        match self {
            Self::Probability(x) | Self::Value(x) => *x,
            Self::Classes(p) => p[likeliest(p)],
        }
    }
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictReply {
    /// Which model.
    pub model: String,
    /// The last version published into the weights that answered; 0 before the first.
    pub version: u64,
    /// Mini-batches those weights had learned from.
    pub mini_batch: u64,
    /// One per row, in order.
    pub predictions: Vec<Prediction>,
    /// Columns of the request that the source does not have; they were not looked at.
    pub unknown_columns: Vec<String>,
}

/// What a request works with, kept between requests.
struct Scratch {
    decoder: JsonDecoder,
    work: Work,
}

/// Features and scores of a request.
#[derive(Default)]
struct Work {
    features: Features,
    scratch: ScoreScratch,
    scores: Vec<f32>,
}

impl Predictor {
    /// Rows with the columns `input` go through `request` into what `extractor` was bound to. Whatever the source
    /// declares NOT NULL may be left out of a request: an impression that is still to be shown has no number yet.
    pub fn new(
        model: &str,
        input: SchemaRef,
        request: Arc<dyn Transform>,
        extractor: Extractor,
        live: Arc<LiveModel>,
    ) -> Result<Self> {
        let input = all_nullable(&input);
        let first = Box::new(Scratch { decoder: JsonDecoder::new(input.clone())?, work: Work::default() });
        let scratch = Mutex::new(vec![first]);
        let inputs = Inputs::new(&input, &*request, &extractor);
        let outputs = infer::outputs_of(live.read().weights.loss());
        let recent = Arc::new(Recent::default());
        Ok(Self { model: model.to_string(), input, request, extractor, inputs, outputs, live, scratch, recent })
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What requests read.
    pub fn live(&self) -> &Arc<LiveModel> {
        &self.live
    }

    /// The last live requests.
    pub(crate) fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Lets weights answer the last live requests before they take traffic; how many samples. The error says why they must
    /// not be served.
    pub fn warm_up(&self, weights: &WeightTable) -> Result<usize> {
        self.recent.replay(weights)
    }

    /// Answers `{"rows":[{...},...]}`, by the live version or by the one that is asked for.
    pub fn predict<'a>(&self, body: &[u8], which: impl Into<Which<'a>>) -> Result<PredictReply> {
        let which = which.into();
        if which != Which::Live {
            self.live.pick(which)?;
        }
        let mut scratch = self.take_scratch()?;
        let answered = self.decode(body, &mut scratch.decoder).and_then(|(rows, unknown_columns)| {
            let reply = self.score(&rows, which, &mut scratch.work)?;
            Ok(PredictReply { unknown_columns, ..reply })
        });
        // Where a row was refused, those before it are still in the decoder.
        scratch.decoder.clear();
        self.keep_scratch(scratch);
        answered
    }

    /// Answers rows that have the columns of the source already.
    pub fn predict_rows(&self, rows: &RecordBatch) -> Result<PredictReply> {
        let mut scratch = self.take_scratch()?;
        let answered = self.score(rows, Which::Live, &mut scratch.work);
        self.keep_scratch(scratch);
        answered
    }

    fn decode(&self, body: &[u8], decoder: &mut JsonDecoder) -> Result<(RecordBatch, Vec<String>)> {
        let spans = rows::split(body, ROWS_MAX)?;
        let unknown_before = decoder.unknown_keys();
        for (i, span) in spans.iter().enumerate() {
            decoder.push_line(&body[span.clone()]).map_err(|reason| row_error(i, &reason))?;
        }
        let unknown = match decoder.unknown_keys() == unknown_before {
            true => Vec::new(),
            false => self.unknown_columns(spans.iter().map(|span| &body[span.clone()])),
        };
        Ok((decoder.finish(), unknown))
    }

    fn score(&self, rows: &RecordBatch, which: Which<'_>, work: &mut Work) -> Result<PredictReply> {
        self.extract(rows, work, 0)?;
        // As late as possible: what was learned while the request was read is in.
        let served = self.live.pick(which)?;
        let predictions = predictions(&served, work)?;
        self.recent.note(&work.features);
        self.mirror(which, &served, work, || predictions.iter().map(Prediction::number));
        Ok(PredictReply {
            model: self.model.clone(),
            version: served.version,
            mini_batch: served.mini_batch,
            predictions,
            unknown_columns: Vec::new(),
        })
    }

    /// Hands what was answered to the versions on trial, which score it once more in their own time.
    fn mirror<I: Iterator<Item = f64>>(
        &self,
        which: Which<'_>,
        served: &ServedVersion,
        work: &Work,
        said: impl Fn() -> I,
    ) {
        if which.is_open()
            && let Some(routes) = self.live.trials()
        {
            routes.trials.iter().for_each(|trial| trial.mirror(&self.live, served.version, &work.features, said()));
        }
    }

    /// The features of all rows; a row that is refused refuses the request. `first` is the number of the first row.
    fn extract(&self, rows: &RecordBatch, work: &mut Work, first: usize) -> Result<()> {
        let transformed = self.request.apply(rows)?;
        if let Some((row, reason)) = transformed.refused.first() {
            return Err(row_error(first + *row as usize, reason));
        }
        if transformed.rows.num_rows() != rows.num_rows() {
            return Err(Error::internal("a row was lost on its way to the model"));
        }
        self.extractor.extract(&transformed.rows, &mut work.features)?;
        work.check_none_refused(first)
    }

    fn unknown_columns<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for row in rows {
            let Ok(fields) = serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(row) else { continue };
            for (name, _) in fields {
                if self.input.index_of(&name).is_err() && !names.contains(&name) && names.len() < UNKNOWN_COLUMNS_MAX {
                    names.push(name);
                }
            }
        }
        names
    }

    fn take_scratch(&self) -> Result<Box<Scratch>> {
        let kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fresh = || Ok(Box::new(Scratch { decoder: JsonDecoder::new(self.input.clone())?, work: Work::default() }));
        kept.map_or_else(fresh, Ok)
    }

    fn keep_scratch(&self, scratch: Box<Scratch>) {
        let mut kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < SCRATCH_KEPT_MAX {
            kept.push(scratch);
        }
    }
}

impl Work {
    fn check_none_refused(&self, first: usize) -> Result<()> {
        match self.features.refused.first() {
            Some((row, reason)) => Err(row_error(first + *row as usize, reason)),
            None => Ok(()),
        }
    }
}

impl PredictReply {
    /// As JSON text. Written by hand: it is most of what a small request costs.
    pub fn to_json(&self) -> Vec<u8> {
        use std::io::Write;
        let mut out = Vec::with_capacity(96 + 32 * self.predictions.len());
        // Writing into memory does not fail, and a model's name holds nothing that JSON would escape.
        let _ = write!(
            out,
            r#"{{"model":"{}","version":{},"mini_batch":{},"predictions":["#,
            self.model, self.version, self.mini_batch
        );
        for (i, prediction) in self.predictions.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // JSON has no word for what is not finite.
            let _ = match prediction {
                Prediction::Probability(p) if !p.is_finite() => write!(out, r#"{comma}{{"probability":null}}"#),
                Prediction::Value(x) if !x.is_finite() => write!(out, r#"{comma}{{"value":null}}"#),
                Prediction::Probability(p) => write!(out, r#"{comma}{{"probability":{p}}}"#),
                Prediction::Value(x) => write!(out, r#"{comma}{{"value":{x}}}"#),
                Prediction::Classes(p) => {
                    let class = likeliest(p);
                    write!(out, r#"{comma}{{"class":{class},"probabilities":{}}}"#, serde_json::json!(p))
                }
            };
        }
        out.push(b']');
        if !self.unknown_columns.is_empty() {
            let _ = write!(out, r#","unknown_columns":{}"#, serde_json::Value::from(self.unknown_columns.clone()));
        }
        out.push(b'}');
        out
    }
}

fn all_nullable(columns: &Schema) -> SchemaRef {
    let fields = columns.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn predictions(served: &ServedVersion, work: &mut Work) -> Result<Vec<Prediction>> {
    work.scores.clear();
    served.weights.score(&work.features, &mut work.scratch, &mut work.scores)?;
    let loss = served.weights.loss();
    let mut out = vec![0.0; loss.outputs()];
    let one = |scores: &[f32]| {
        loss.predict(scores, &mut out);
        match loss {
            Loss::Logistic => Prediction::Probability(f64::from(out[0])),
            Loss::Squared | Loss::Huber { .. } | Loss::Bounded { .. } => Prediction::Value(f64::from(out[0])),
            Loss::Softmax { .. } => Prediction::Classes(out.iter().map(|p| f64::from(*p)).collect()),
        }
    };
    Ok(work.scores.chunks_exact(loss.outputs()).map(one).collect())
}

/// The class with the largest probability; the first of several.
fn likeliest<T: PartialOrd>(p: &[T]) -> usize {
    (1..p.len()).fold(0, |best, class| if p[class] > p[best] { class } else { best })
}

/// `column 'price': expected number` in row 3 becomes `rows[3].price: expected number`.
fn row_error(row: usize, reason: &str) -> Error {
    let in_column = reason.strip_prefix("column '").and_then(|r| r.split_once("': "));
    Error::invalid(match in_column {
        Some((column, what)) => format!("rows[{row}].{column}: {what}"),
        None => format!("rows[{row}]: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a version that has gone wrong says must still be JSON.
    #[test]
    fn what_is_not_finite_is_null() {
        let predictions = vec![
            Prediction::Probability(f64::NAN),
            Prediction::Probability(0.25),
            Prediction::Value(f64::NEG_INFINITY),
            Prediction::Value(-2.5),
        ];
        let reply =
            PredictReply { model: "m".into(), version: 1, mini_batch: 2, predictions, unknown_columns: Vec::new() };
        let json: serde_json::Value = serde_json::from_slice(&reply.to_json()).unwrap();
        assert_eq!(
            json["predictions"],
            serde_json::json!([{"probability": null}, {"probability": 0.25}, {"value": null}, {"value": -2.5}])
        );
    }
}
