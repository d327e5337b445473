//! Why a row is predicted as it is: what each slot adds to the score.
//!
//! In: rows as for a prediction. Out: for each the score, the score of a row without features (the base), and between the
//! two a contribution for each slot; they add up, but for rounding. The contributions are Shapley values: where slots act
//! alone or in pairs, as in linear models and factorisation machines, the value of a slot is the mean of what it adds to
//! nothing and of what it adds to all the others, so the model's own scoring tells it exactly. Learners with layers have no
//! such short way, and are refused.

use serde_json::{Value, json};
use tidemill_base::{Error, Result};
use tidemill_model::{feature::Features, loss::Loss};

use super::{Predictor, Work, likeliest};
use crate::live::{ServedVersion, Which};

/// Rows in one request at most: each is scored twice for every slot.
pub const EXPLAIN_ROWS_MAX: usize = 64;
/// Slots in a row at most.
const SLOTS_MAX: usize = 1024;

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainReply {
    /// Which model.
    pub model: String,
    /// The last version published into the weights that answered; 0 before the first.
    pub version: u64,
    /// Mini-batches those weights had learned from.
    pub mini_batch: u64,
    /// One per row, in order.
    pub explanations: Vec<Explanation>,
}

/// One row's answer. A score has one number, or one for each class.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What is predicted: a probability, a number, or the probability of each class.
    pub prediction: Vec<f32>,
    /// The score that it follows from: log odds where the prediction is a probability.
    pub score: Vec<f64>,
    /// The score of a row without features.
    pub base: Vec<f64>,
    /// What each slot adds, the largest first.
    pub slots: Vec<(String, Vec<f64>)>,
    kind: &'static str,
}

impl Predictor {
    /// Explains the rows of `{"rows":[{...},...]}`, by the live version or by the one that is asked for.
    pub fn explain<'a>(&self, body: &[u8], which: impl Into<Which<'a>>) -> Result<ExplainReply> {
        let mut scratch = self.take_scratch()?;
        let explained = self.decode(body, &mut scratch.decoder).and_then(|(rows, _)| {
            if rows.num_rows() > EXPLAIN_ROWS_MAX {
                let n = rows.num_rows();
                return Err(Error::invalid(format!("{n} rows; the limit of an explanation is {EXPLAIN_ROWS_MAX}")));
            }
            self.extract(&rows, &mut scratch.work, 0)?;
            let served = self.live.pick(which.into())?;
            self.explain_all(&served, &mut scratch.work)
        });
        // Where a row was refused, those before it are still in the decoder.
        scratch.decoder.clear();
        self.keep_scratch(scratch);
        explained
    }

    fn explain_all(&self, served: &ServedVersion, work: &mut Work) -> Result<ExplainReply> {
        if !served.weights.is_pairwise() {
            return Err(Error::invalid(format!(
                "model '{}' has layers, where slots do not add up; linear models and factorisation machines are explained",
                self.model
            )));
        }
        let features = std::mem::take(&mut work.features);
        let explanations: Result<Vec<_>> =
            (0..features.len()).map(|i| self.explain_one(served, &features, i, work)).collect();
        work.features = features;
        Ok(ExplainReply {
            model: self.model.clone(),
            version: served.version,
            mini_batch: served.mini_batch,
            explanations: explanations?,
        })
    }

    fn explain_one(
        &self,
        served: &ServedVersion,
        features: &Features,
        row: usize,
        work: &mut Work,
    ) -> Result<Explanation> {
        let all: Vec<(u16, u64, f32)> =
            features.range(row).map(|i| (features.slots[i], features.keys[i], features.values[i])).collect();
        let mut slots: Vec<u16> = all.iter().map(|f| f.0).collect();
        slots.dedup();
        if slots.len() > SLOTS_MAX {
            let n = slots.len();
            return Err(Error::invalid(format!("rows[{row}]: {n} slots; the limit of an explanation is {SLOTS_MAX}")));
        }
        // The row, nothing, then of each slot: it alone, and all but it.
        let mut variants = Features::new();
        variants.push(&all);
        variants.push(&[]);
        for slot in &slots {
            let (own, others): (Vec<_>, Vec<_>) = all.iter().partition(|f| f.0 == *slot);
            variants.push(&own);
            variants.push(&others);
        }
        work.scores.clear();
        served.weights.score(&variants, &mut work.scratch, &mut work.scores)?;
        let (loss, width) = (served.weights.loss(), served.weights.outputs());
        let score = |variant: usize| work.scores[variant * width..][..width].iter().map(|x| f64::from(*x));
        let (whole, base): (Vec<f64>, Vec<f64>) = (score(0).collect(), score(1).collect());
        let adds = |i: usize| -> Vec<f64> {
            let (alone, without) = (score(2 + 2 * i), score(3 + 2 * i));
            let both = alone.zip(without).zip(whole.iter().zip(&base));
            both.map(|((alone, without), (whole, base))| ((alone - base) + (whole - without)) / 2.0).collect()
        };
        let name = |slot: u16| self.extractor.slots()[usize::from(slot)].clone();
        let mut slots: Vec<(String, Vec<f64>)> =
            slots.iter().enumerate().map(|(i, slot)| (name(*slot), adds(i))).collect();
        let size = |adds: &[f64]| adds.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        slots.sort_by(|a, b| size(&b.1).total_cmp(&size(&a.1)));
        let mut prediction = vec![0.0; loss.outputs()];
        loss.predict(&work.scores[..width], &mut prediction);
        let kind = match loss {
            Loss::Logistic => "probability",
            Loss::Softmax { .. } => "probabilities",
            _ => "value",
        };
        Ok(Explanation { prediction, score: whole, base, slots, kind })
    }
}

impl ExplainReply {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let explanations: Vec<Value> = self.explanations.iter().map(Explanation::to_json).collect();
        let (model, version, mini_batch) = (&self.model, self.version, self.mini_batch);
        json!({"model": model, "version": version, "mini_batch": mini_batch, "explanations": explanations})
    }
}

impl Explanation {
    fn to_json(&self) -> Value {
        let number = |numbers: &[f64]| if numbers.len() == 1 { json!(numbers[0]) } else { json!(numbers) };
        let slot = |(name, adds): &(String, Vec<f64>)| json!({"slot": name, "contribution": number(adds)});
        let prediction: Vec<f64> = self.prediction.iter().map(|x| f64::from(*x)).collect();
        let mut out = json!({ self.kind: number(&prediction) });
        if self.kind == "probabilities" {
            out["class"] = likeliest(&self.prediction).into();
        }
        out["score"] = number(&self.score);
        out["base"] = number(&self.base);
        out["contributions"] = self.slots.iter().map(slot).collect();
        out
    }
}
