//! The same samples predicted by two versions before anything was learned from them, and compared once their label is final.
//!
//! In: features by impression, then labels. Out: sums of [`Quality`]. A label that may still change never comes here, so
//! only matured impressions count. At most [`WAITING_MAX`] numbers wait; beyond it the oldest impressions leave uncounted.

use std::collections::BTreeMap;

use tidemill_model::{
    feature::Features,
    loss::Loss,
    weights::{ScoreScratch, WeightTable},
};

use crate::rollout::figures::Quality;

/// Scores that wait for their label.
const WAITING_MAX: usize = 1 << 19;
/// Samples of one mini-batch that are predicted twice in a rollout, where every sample brings the end nearer.
pub const ROLLOUT_SAMPLES_MAX: usize = 512;
/// The same where two versions are compared for as long as it lasts: more would only make learning slower.
pub const LASTING_SAMPLES_MAX: usize = 64;
/// A loss beyond this says no more than this one: the prediction was as good as sure, and wrong.
const LOSS_MAX: f64 = 34.5;

/// Predictions of two versions that wait for their label.
pub struct Pairs {
    loss: Loss,
    samples_max: usize,
    /// The multiple of the live version's loss that is let pass.
    worse: f64,
    /// The same of predicted by happened, on both sides.
    calibration: f64,
    /// By impression: scores of the live version, then those of the other.
    waiting: BTreeMap<u64, Box<[f32]>>,
    scratch: ScoreScratch,
    live: Vec<f32>,
    other: Vec<f32>,
}

impl Pairs {
    /// Nothing waits. Of each mini-batch the first `samples_max` rows are looked at.
    pub fn new(loss: Loss, samples_max: usize, worse: f64, calibration: f64) -> Self {
        let (waiting, scratch) = (BTreeMap::new(), ScoreScratch::default());
        Self { loss, samples_max, worse, calibration, waiting, scratch, live: Vec::new(), other: Vec::new() }
    }

    /// Whether no prediction waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Predicts by both: `numbers` names rows of `features` with the impression of each, ascending by row. The first
    /// prediction of an impression counts.
    pub fn predict(
        &mut self,
        live: &WeightTable,
        other: &WeightTable,
        features: &Features,
        numbers: impl Iterator<Item = (usize, u64)>,
    ) {
        let features = &head(features, self.samples_max);
        for (weights, scores) in [(live, &mut self.live), (other, &mut self.other)] {
            scores.clear();
            if weights.score(features, &mut self.scratch, scores).is_err() {
                return; // Whoever asks it is told.
            }
            self.loss.bring_within(scores);
        }
        let outputs = self.loss.outputs();
        for (row, seq) in numbers.take_while(|(row, _)| *row < features.len()) {
            let both = [&self.live[row * outputs..][..outputs], &self.other[row * outputs..][..outputs]].concat();
            self.waiting.entry(seq).or_insert_with(|| both.into());
        }
        while self.waiting.len() * 2 * outputs > WAITING_MAX {
            self.waiting.pop_first();
        }
    }

    /// Takes labels that are final.
    pub fn mature(&mut self, labels: impl Iterator<Item = (u64, f32)>, q: &mut Quality) {
        for (seq, label) in labels {
            let Some(scores) = self.waiting.remove(&seq) else { continue };
            if self.loss.check_label(label).is_ok() {
                let (live, other) = scores.split_at(self.loss.outputs());
                self.compare(live, other, label, q);
            }
        }
    }

    fn compare(&self, live: &[f32], other: &[f32], label: f32, q: &mut Quality) {
        let is_finite = |scores: &[f32]| scores.iter().all(|score| score.is_finite());
        if !is_finite(live) {
            return;
        }
        let of_live = self.loss.loss(live, label).min(LOSS_MAX);
        // What is no number is as bad as a prediction can be.
        let of_other = if is_finite(other) { self.loss.loss(other, label).min(LOSS_MAX) } else { LOSS_MAX };
        q.pairs += 1;
        q.live_loss += of_live;
        q.version_loss += of_other;
        q.worse.add(of_other - self.worse * of_live);
        if self.loss == Loss::Logistic {
            let now = if is_finite(other) { self.probability(other) } else { f64::NAN };
            let (before, label) = (self.probability(live), f64::from(label));
            q.labels += label;
            q.live_predicted += before;
            q.version_predicted += now;
            q.over.add(now - self.calibration * label);
            q.under.add(label / self.calibration - now);
        }
    }

    fn probability(&self, scores: &[f32]) -> f64 {
        let mut p = [0.0];
        self.loss.predict(scores, &mut p);
        f64::from(p[0])
    }
}

/// A copy of the first rows, without what only extraction needs.
pub(super) fn head(features: &Features, rows: usize) -> Features {
    let rows = rows.min(features.len());
    let end = if rows == 0 { 0 } else { features.range(rows - 1).end };
    let mut head = Features::new();
    head.keys.extend_from_slice(&features.keys[..end]);
    head.values.extend_from_slice(&features.values[..end]);
    head.slots.extend_from_slice(&features.slots[..end]);
    head.ends.extend_from_slice(&features.ends[..rows]);
    head
}

#[cfg(test)]
mod tests {
    use tidemill_model::{entries::Entries, snapshot::Snapshot};

    use super::*;

    fn weights(w: f32) -> WeightTable {
        WeightTable::from_snapshot(&Snapshot { entries: Entries::pairs([(7, w)]), ..Snapshot::default() })
    }

    fn one() -> Features {
        let mut features = Features::new();
        features.keys.push(7);
        features.values.push(1.0);
        features.slots.push(0);
        features.ends.push(1);
        features
    }

    /// A prediction made before the label was known, and the first of several, is what counts; what never had one does not.
    #[test]
    fn only_what_was_predicted_before_its_label_counts() {
        let (mut pairs, mut q) = (Pairs::new(Loss::Logistic, 8, 1.0, 1.25), Quality::default());
        pairs.predict(&weights(0.0), &weights(1.0), &one(), [(0, 5)].into_iter());
        pairs.predict(&weights(3.0), &weights(3.0), &one(), [(0, 5)].into_iter());
        pairs.mature([(4, 1.0)].into_iter(), &mut q);
        assert_eq!(q.pairs, 0);
        pairs.mature([(5, 1.0), (5, 1.0)].into_iter(), &mut q);
        // ln 2 for a logit of 0, ln(1 + 1/e) for one of 1.
        assert_eq!((q.pairs, q.labels), (1, 1.0));
        assert!(
            (q.live_loss - std::f64::consts::LN_2).abs() < 1e-5 && (q.version_loss - 0.313_262).abs() < 1e-5,
            "{q:?}"
        );
        assert!((q.live_predicted - 0.5).abs() < 1e-6 && (q.version_predicted - 0.731_059).abs() < 1e-5, "{q:?}");
        assert!(pairs.is_empty());
    }

    #[test]
    fn a_version_that_predicts_no_numbers_is_as_bad_as_can_be() {
        let (mut pairs, mut q) = (Pairs::new(Loss::Logistic, 8, 1.0, 1.25), Quality::default());
        pairs.predict(&weights(0.0), &weights(f32::NAN), &one(), [(0, 1)].into_iter());
        pairs.mature([(1, 0.0)].into_iter(), &mut q);
        assert_eq!((q.pairs, q.version_loss), (1, LOSS_MAX));
    }

    #[test]
    fn what_waits_has_a_bound() {
        let mut pairs = Pairs::new(Loss::Logistic, 8, 1.0, 1.25);
        for seq in 0..(WAITING_MAX as u64 / 2 + 1_000) {
            pairs.predict(&weights(0.0), &weights(0.0), &one(), [(0, seq)].into_iter());
        }
        assert_eq!(pairs.waiting.len(), WAITING_MAX / 2);
        assert_eq!(pairs.waiting.first_key_value().map(|(seq, _)| *seq), Some(1_000), "the oldest left");
    }
}
