//! `TO EVALUATE`: a model that exists, scored on rows it does not learn from.

use std::path::Path;

use tidemill_base::{Error, Result};
use tidemill_model::{
    feature::Features,
    weights::{ScoreScratch, WeightTable},
};
use tidemill_serve::registry::Registry;
use tidemill_sql::EvaluateJob;
use tidemill_stream::{sequencer::Sequencer, source, window::Window};
use tidemill_train::{Summary, TrainSpec, Validation};

use crate::{
    data::connections,
    engine::{self, ViewStage},
    program,
    score::live_version,
    signal::Signal,
};

/// What came of it.
pub struct Evaluated {
    /// Model and version that was scored.
    pub version: u64,
    /// How well it predicts these rows.
    pub summary: Summary,
    /// Rows that could not be scored, with the first reason.
    pub refused: u64,
    /// The first of the reasons.
    pub first_refusal: Option<String>,
}

/// Scores the live version of the job's model on every row of the job's SELECT.
pub fn evaluate(data_root: &Path, job: &EvaluateJob, signal: &Signal) -> Result<Evaluated> {
    let trained = program::stored_job(data_root, &job.model)?;
    if !job.pipeline.left.source.bounded() {
        return Err(Error::invalid(format!(
            "source '{}' never ends; TO EVALUATE needs one that does",
            job.pipeline.left.source.name
        )));
    }
    if job.pipeline.join.is_some() {
        return Err(Error::invalid(
            "not supported yet: TO EVALUATE over a label join; evaluate over rows that have their label",
        ));
    }
    let registry = Registry::open(&job.model, &data_root.join("models").join(&job.model).join("versions"))?;
    let version = live_version(&registry, &job.model)?;
    let weights = WeightTable::from_snapshot(&registry.load(version)?);
    let task = TrainSpec::from_settings(&trained.learner, &trained.settings)?.task();
    let outputs = weights.outputs();
    let (mut scratch, mut scores) = (ScoreScratch::default(), Vec::new());
    let extractor = trained.extractor_of(&job.pipeline.output)?;
    let mut out =
        Evaluated { version, summary: Validation::new(task, 10, 1).summary(), refused: 0, first_refusal: None };
    let mut validation = Validation::new(task, 100_000, 1);
    let left = &job.pipeline.left;
    let (id, view) = (left.source.primary_key, left.view.clone());
    let window = Window { computed: left.computed.clone(), event_time: left.event_time, id, view };
    let mut sequencer = Sequencer::new(vec![(window, left.source.watermark_bound_ms)], source::CHUNK_ROWS_MAX);
    let mut opened = source::open(&left.source, &[])?;
    opened.extend(connections().open(0, &left.source, &[])?);
    for opened in opened {
        sequencer.add_partition(0, opened.partition, opened.ordered);
    }
    // Views begin empty and count what the evaluation reads: its rows are a history of their own.
    let mut views = ViewStage::new(&job.pipeline)?;
    let mut features = Features::new();
    let mut seq = 0;
    while let Some(cut) = sequencer.cut(true, &[])? {
        if signal.is_stopped() {
            return Err(Error::unavailable("interrupted"));
        }
        for (_, refused) in &cut.refused {
            out.refuse(&refused.reason);
        }
        let mut rejected = Vec::new();
        let takes = match &mut views {
            Some(views) => views.step(&cut, &mut rejected)?,
            None => cut.takes,
        };
        rejected.iter().for_each(|r| out.refuse(&r.reason));
        for take in takes {
            let rows = job.pipeline.post.apply(&take.rows)?;
            rows.refused.iter().for_each(|(_, reason)| out.refuse(reason));
            let mut bad = Vec::new();
            let labels = engine::labels(rows.rows.column(job.label), weights.loss(), &mut bad)?;
            extractor.extract(&rows.rows, &mut features)?;
            scores.clear();
            weights.score(&features, &mut scratch, &mut scores)?;
            weights.loss().bring_within(&mut scores);
            bad.extend(features.refused.iter().cloned());
            bad.sort();
            bad.dedup_by_key(|b| b.0);
            bad.iter().for_each(|(_, reason)| out.refuse(reason));
            for (i, &label) in labels.iter().enumerate() {
                if bad.binary_search_by_key(&(i as u32), |b| b.0).is_err() {
                    validation.predicted(seq, &scores[i * outputs..][..outputs], f64::NAN, 0);
                    validation.labelled(seq, label);
                    seq += 1;
                }
            }
        }
    }
    out.summary = validation.summary();
    Ok(out)
}

impl Evaluated {
    fn refuse(&mut self, reason: &str) {
        self.refused += 1;
        self.first_refusal.get_or_insert_with(|| reason.to_string());
    }
}
