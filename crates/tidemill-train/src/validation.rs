//! Progressive validation: each prediction, made before its sample was learned from, meets its final label.
//!
//! In: predictions by impression number, then final labels. Out: log loss beside the best possible, AUC and calibration,
//! since the beginning and over the recent window. Scored in the order of the impressions: a prediction whose label has
//! come waits for those before it. They wait in a ring of at most `2 * pending_max + 65,536` numbers; beyond it the oldest
//! leave, and those without a label are given up and counted. Sums are made in that one order, with our own logarithm, so
//! they are the same in every run. Probabilities are clipped to [1e-7, 1 - 1e-7] here, in the loss, and nowhere else.

mod metrics;
mod ring;

use std::collections::VecDeque;
use tidemill_base::{
    Result,
    codec::{Decoder, Encoder},
};

use metrics::Tally;
pub use metrics::{Decile, Metrics};
use ring::{Prediction, Ring};

/// Blocks of the recent window.
const BLOCKS: usize = 10;

/// Scores predictions against final labels.
pub struct Validation {
    ring: Ring,
    tallies: Tallies,
    unscored: u64,
}

struct Tallies {
    overall: Tally,
    /// Full blocks of `block_samples`, oldest first, at most [`BLOCKS`]; the one being filled comes last.
    recent: VecDeque<Tally>,
    block_samples: u64,
}

/// How good the predictions were, since the beginning and recently.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Samples scored.
    pub samples: u64,
    /// Of these, positive.
    pub positives: u64,
    /// Mean log loss; NaN without samples.
    pub logloss: f64,
    /// Log loss over the entropy of the base rate: 1 is as good as knowing the base rate; NaN when there is no entropy.
    pub normalized_entropy: f64,
    /// Mean log loss of the true probabilities, where they are known: no model can be expected to do better.
    pub best_logloss: Option<f64>,
    /// Area under the ROC curve, from a histogram of 4,096 scores; NaN while one class is missing.
    pub auc: f64,
    /// Mean predicted probability; NaN without samples.
    pub mean_prediction: f64,
    /// By predicted probability: [0, 0.1), [0.1, 0.2) and so on.
    pub calibration: [Decile; 10],
    /// Impressions that matured without a prediction to score: refused samples, and predictions given up.
    pub unscored: u64,
    /// The same over the last `validate.window` samples, to a tenth of it more.
    pub recent: Metrics,
}

impl Validation {
    /// Nothing scored yet. `window`: samples that recent figures are about; `pending_max`: impressions that may wait.
    pub fn new(window: u64, pending_max: usize) -> Self {
        Self {
            ring: Ring::new(pending_max.saturating_mul(2).saturating_add(65_536)),
            tallies: Tallies {
                overall: Tally::default(),
                recent: VecDeque::from([Tally::default()]),
                block_samples: (window / BLOCKS as u64).max(1),
            },
            unscored: 0,
        }
    }

    /// Keeps the prediction made for impression `seq`; only the first counts. `oracle` is NaN where it is not known.
    pub fn predicted(&mut self, seq: u64, logit: f32, oracle: f64) {
        self.reach(seq);
        self.ring.put(seq, Prediction { logit, oracle: oracle as f32 });
    }

    /// Gives impression `seq` its final label. Predictions are scored in the order of their impressions.
    pub fn matured(&mut self, seq: u64, positive: bool) {
        self.reach(seq);
        if !self.ring.label(seq, positive) {
            self.unscored += 1;
        }
        while let Some((prediction, positive)) = self.ring.pop() {
            self.tallies.score(prediction, positive);
        }
    }

    fn reach(&mut self, seq: u64) {
        let tallies = &mut self.tallies;
        self.unscored += self.ring.reach(seq, |prediction, positive| tallies.score(prediction, positive));
    }

    /// How good the predictions were.
    pub fn summary(&self) -> Summary {
        let mut recent = Tally::default();
        self.tallies.recent.iter().for_each(|block| recent.merge(block));
        let Metrics {
            samples,
            positives,
            logloss,
            normalized_entropy,
            best_logloss,
            auc,
            mean_prediction,
            calibration,
        } = self.tallies.overall.metrics();
        Summary {
            samples,
            positives,
            logloss,
            normalized_entropy,
            best_logloss,
            auc,
            mean_prediction,
            calibration,
            unscored: self.unscored,
            recent: recent.metrics(),
        }
    }

    /// Samples scored since the beginning.
    pub fn samples(&self) -> u64 {
        self.tallies.overall.samples()
    }

    /// Predictions that wait for their label.
    pub fn pending(&self) -> usize {
        self.ring.waiting()
    }

    pub(crate) fn encode(&self, out: &mut Encoder) {
        self.ring.encode(out);
        self.tallies.overall.encode(out);
        out.put_varint(self.tallies.recent.len() as u64);
        self.tallies.recent.iter().for_each(|block| block.encode(out));
        out.put_u64(self.unscored);
    }

    pub(crate) fn decode(window: u64, pending_max: usize, from: &mut Decoder) -> Result<Self> {
        let mut validation = Self::new(window, pending_max);
        validation.ring.decode(from)?;
        validation.tallies.overall = Tally::decode(from)?;
        let blocks = from.count(1)?;
        validation.tallies.recent = (0..blocks).map(|_| Tally::decode(from)).collect::<Result<_>>()?;
        if validation.tallies.recent.is_empty() || blocks > BLOCKS + 1 {
            return Err(tidemill_base::Error::corrupt(format!("validation: {blocks} blocks in the recent window")));
        }
        validation.unscored = from.u64()?;
        Ok(validation)
    }
}

impl Tallies {
    fn score(&mut self, prediction: Prediction, positive: bool) {
        let score = metrics::Score::of(prediction.logit, prediction.oracle, positive);
        self.overall.add(&score);
        let block = self.recent.back_mut().expect("there is always a block being filled");
        block.add(&score);
        if block.samples() == self.block_samples {
            if self.recent.len() > BLOCKS {
                self.recent.pop_front();
            }
            self.recent.push_back(Tally::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(samples: impl IntoIterator<Item = (f32, bool)>, window: u64) -> Summary {
        let mut v = Validation::new(window, 100);
        for (seq, (logit, positive)) in samples.into_iter().enumerate() {
            v.predicted(seq as u64, logit, f64::NAN);
            v.matured(seq as u64, positive);
        }
        v.summary()
    }

    #[test]
    fn log_loss_entropy_and_calibration_are_the_textbooks() {
        let logit = |p: f64| (p / (1.0 - p)).ln() as f32;
        let s = scored([(logit(0.8), true), (logit(0.25), false), (logit(0.25), true), (logit(0.83), true)], 100);
        // -(ln 0.8 + ln 0.75 + ln 0.25 + ln 0.83) / 4 = (0.223144 + 0.287682 + 1.386294 + 0.186330) / 4
        assert!((s.logloss - 0.520862).abs() < 1e-6);
        // base rate 3/4: entropy 0.562335
        assert!((s.normalized_entropy - 0.520862 / 0.562335).abs() < 1e-5);
        assert_eq!((s.samples, s.positives, s.best_logloss), (4, 3, None));
        let decile = &s.calibration[8];
        assert_eq!((decile.count, decile.mean_label), (2, 1.0));
        assert!((decile.mean_prediction - 0.815).abs() < 1e-6);
        assert_eq!((s.calibration[2].count, s.calibration[2].mean_label), (2, 0.5));
        assert!(s.calibration[0].mean_prediction.is_nan());
    }

    #[test]
    fn auc_counts_ordered_pairs_and_half_the_ties() {
        // pairs: (1,0) ordered, (1,1) tie, (-2,0) wrong, (-2,1) wrong -> (1 + 0.5) / 4
        assert_eq!(scored([(1.0, true), (-2.0, true), (0.0, false), (1.0, false)], 100).auc, 0.375);
        assert_eq!(scored([(50.0, true), (-50.0, false)], 100).auc, 1.0);
        assert!(scored([(1.0, true)], 100).auc.is_nan());
    }

    #[test]
    fn a_sure_and_wrong_prediction_costs_the_clip_and_not_infinity() {
        assert!((scored([(80.0, false)], 100).logloss - 1e7f64.ln()).abs() < 1e-9);
        assert!((scored([(f32::NEG_INFINITY, true)], 100).logloss - 1e7f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn the_best_log_loss_is_the_oracles_on_the_labels_that_came() {
        let mut v = Validation::new(100, 100);
        for (seq, (oracle, positive)) in [(0.9, true), (0.2, false), (f64::NAN, true)].into_iter().enumerate() {
            v.predicted(seq as u64, 0.0, oracle);
            v.matured(seq as u64, positive);
        }
        let best = v.summary().best_logloss.unwrap();
        assert!((best - (-(0.9f64.ln()) - 0.8f64.ln()) / 2.0).abs() < 1e-7, "{best}");
    }

    #[test]
    fn the_recent_window_forgets_what_is_old() {
        let samples = (0..1_000).map(|i| (if i < 500 { -3.0 } else { 3.0 }, true));
        let s = scored(samples, 100);
        assert_eq!((s.samples, s.recent.samples), (1_000, 100));
        assert!(s.recent.logloss < 0.05 && s.logloss > 1.0);
        // Between two blocks' ends: ten full blocks and the part of an eleventh.
        assert_eq!(scored((0..157).map(|_| (0.0, true)), 100).recent.samples, 107);
        assert_eq!(scored((0..7).map(|_| (0.0, true)), 100).recent.samples, 7);
    }

    #[test]
    fn labels_meet_the_first_prediction_in_any_order_and_what_has_none_is_counted() {
        let mut v = Validation::new(100, 100);
        v.predicted(2, 1.0, f64::NAN);
        v.predicted(0, -1.0, f64::NAN);
        v.predicted(2, 9.0, f64::NAN);
        v.matured(1, true);
        v.matured(2, true);
        v.matured(2, true);
        v.matured(0, false);
        v.predicted(0, 5.0, f64::NAN);
        v.matured(0, true);
        v.predicted(3, f32::NAN, f64::NAN);
        v.matured(3, true);
        let s = v.summary();
        // -ln sigmoid(1) for both
        assert!((s.logloss - 0.313262).abs() < 1e-6);
        assert_eq!((s.samples, s.unscored, v.pending()), (2, 4, 0));
    }

    /// An impression whose label never comes must not hold all later ones in memory.
    #[test]
    fn the_ring_gives_up_its_oldest_beyond_its_bound() {
        let mut v = Validation::new(100, 10);
        let bound = 2 * 10 + 65_536;
        v.predicted(0, 0.0, f64::NAN);
        for seq in 1..=bound {
            v.predicted(seq, 0.0, f64::NAN);
            v.matured(seq, true);
        }
        assert_eq!((v.summary().unscored, v.pending()), (1, 0));
        v.predicted(bound + 5_000_000_000, 0.0, f64::NAN);
        v.matured(bound + 5_000_000_000, true);
        v.matured(bound + 1, true);
        // The last one waits behind numbers that were never predicted.
        assert_eq!((v.summary().unscored, v.summary().samples), (2, bound));
    }

    #[test]
    fn a_decoded_validation_continues_as_if_nothing_had_happened() {
        let run = |restart_at: Option<u64>| {
            let mut v = Validation::new(50, 100);
            for seq in 0..300u64 {
                v.predicted(seq, (seq % 13) as f32 - 6.0, 0.3);
                if seq >= 20 {
                    v.matured(seq - 20, seq % 3 == 0);
                }
                if restart_at == Some(seq) {
                    let mut out = Encoder::new();
                    v.encode(&mut out);
                    let bytes = out.finish();
                    let mut d = Decoder::new(&bytes, "test");
                    v = Validation::decode(50, 100, &mut d).unwrap();
                    d.end().unwrap();
                }
            }
            let mut out = Encoder::new();
            v.encode(&mut out);
            out.finish()
        };
        let expected = run(None);
        (0..300).step_by(7).for_each(|at| assert!(run(Some(at)) == expected, "restart at {at}"));
    }
}
