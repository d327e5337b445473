//! What the EMIT clause asks of the learner, and what is to be said about it.
//!
//! In: a bound job and its settings. Out: an error where they do not go together, and a warning where the model will be
//! wrong in a way that its figures hide.

use tidemill_base::{Error, Result};
use tidemill_model::loss::Loss;
use tidemill_sql::TrainJob;
use tidemill_stream::join::{Correction, Emit, NegativeSample, SamplingMode};
use tidemill_train::TrainSpec;

/// What the EMIT clause asks of the learner.
pub fn check(job: &TrainJob, spec: &TrainSpec) -> Result<()> {
    let Some(join) = &job.pipeline.join else { return Ok(()) };
    let is_logistic = spec.model.loss == Loss::Logistic;
    let (correction, sample) = (join.spec.correction, join.spec.sample);
    if matches!(correction, Correction::Fnw | Correction::Elapsed) && !is_logistic {
        let written = if correction == Correction::Fnw { "FNW" } else { "ELAPSED" };
        return Err(Error::invalid(format!(
            "CORRECT {written} weighs samples by a predicted probability, and {} predicts none; write CORRECT RETRACT",
            job.learner
        )));
    }
    if is_logistic && job.label_counts {
        return Err(Error::invalid(format!(
            "label '{0}' counts feedback, and {1} learns 0 or 1; select (COUNT(...) > 0) AS {0}, or train a regression",
            job.label_name, job.learner
        )));
    }
    match sample {
        Some(NegativeSample { mode: SamplingMode::Logit, .. }) if !is_logistic => Err(Error::invalid(format!(
            "NEGATIVE SAMPLE ... CORRECT BY LOGIT shifts a logit, and {} has none; write CORRECT BY WEIGHT",
            job.learner
        ))),
        _ => Ok(()),
    }
}

/// What somebody who wrote this should know.
pub fn warning(job: &TrainJob) -> Option<String> {
    let join = job.pipeline.join.as_ref()?;
    let spec = &join.spec;
    if spec.emit == Emit::OnMatch {
        return Some(
            "EMIT ON MATCH is biased when traffic changes: impressions with feedback are learned at once and those without \
             at the window's end, so while traffic grows predictions are too high; EMIT EARLY is not"
                .into(),
        );
    }
    let leaves_early = matches!(spec.emit, Emit::Early { .. });
    (leaves_early && spec.correction == Correction::None).then(|| {
        "CORRECT NONE learns late feedback as if it had never come: predictions are too low by its share; \
         CORRECT RETRACT is not"
            .into()
    })
}
