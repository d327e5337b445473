//! How samples whose label may still change are learned: the weights that make early negatives and late positives right
//! together, and the offset of scores where negatives are sampled.
//!
//! In: a row's kind, its label and the score it was predicted with. Out: a factor for the slope of its loss. No gradient
//! goes through the factor: it is a number by the time the slope is taken.
//!
//! Of `n` alike impressions with probability `p`, a share `s` of whose positives comes late, `n (1 - p + ps)` leave as
//! negatives, though `n (1 - p)` are; and `np` rows are positive. So negatives are weighed by `(1 - p) / (1 - p + ps)`. Both
//! papers multiply all rows by their number per impression, `1 + ps`.

use tidemill_model::{loss::Loss, math::sigmoid};
use tidemill_stream::join::{Correction, SampleKind};

use super::SampleBatch;

/// How samples that may still change are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Delayed {
    /// What makes late feedback good.
    pub correction: Correction,
    /// The share of positives whose feedback comes after their sample has left; for [`Correction::Elapsed`].
    pub late_share: f32,
    /// What is added to scores while they are learned from, and is not where they are served: `-ln r` where negatives are
    /// sampled by logit. Of a single score.
    pub score_offset: f32,
}

impl Delayed {
    /// The factor of a row's slope, for a label that is 0 or 1.
    pub(super) fn factor(&self, kind: SampleKind, label: f32, score: f32) -> f32 {
        let late_share = match (self.correction, kind) {
            (_, SampleKind::Final | SampleKind::Retract | SampleKind::Correct) => return 1.0,
            (_, SampleKind::Unlearned | SampleKind::Closed) => return 0.0,
            (Correction::Retract | Correction::None, SampleKind::Early | SampleKind::Late) => return 1.0,
            (Correction::Fnw, _) => return if label > 0.5 { 1.0 + sigmoid(score) } else { fnw_negative(score) },
            (Correction::Elapsed, _) => self.late_share,
        };
        let p = sigmoid(score);
        let late = p * late_share;
        match label > 0.5 {
            true => 1.0 + late,
            false => (1.0 + late) * (1.0 - p) / (1.0 - p + late),
        }
    }
}

/// `(1 - p) (1 + p)`: every positive is taken to come late, as where samples leave at once.
fn fnw_negative(score: f32) -> f32 {
    let p = sigmoid(score);
    (1.0 - p) * (1.0 + p)
}

impl SampleBatch<'_> {
    /// The slopes that take the row before back and put this one in its place, of both rows' weights.
    pub(super) fn correct(&self, row: usize, loss: Loss, scores: &[f32], slopes: &mut [f32]) {
        let (before, after) = (self.labels[row - 1], self.labels[row]);
        let (was, is) = self.weights.map_or((1.0, 1.0), |weights| (weights[row - 1], weights[row]));
        if was == is {
            loss.corrections(scores, before, after, slopes);
            if is != 1.0 {
                slopes.iter_mut().for_each(|slope| *slope *= is);
            }
            return;
        }
        // A negative that was kept counts for others that were not, so the prediction does not cancel out.
        let mut back = [0.0; 1];
        match slopes {
            [slope] => {
                loss.slopes(scores, before, &mut back);
                loss.slopes(scores, after, std::slice::from_mut(slope));
                *slope = *slope * is - back[0] * was;
            }
            _ => {
                let mut back = vec![0.0; slopes.len()];
                loss.slopes(scores, before, &mut back);
                loss.slopes(scores, after, slopes);
                slopes.iter_mut().zip(&back).for_each(|(slope, back)| *slope = *slope * is - *back * was);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logit(p: f64) -> f32 {
        (p / (1.0 - p)).ln() as f32
    }

    /// The sum over all rows of alike impressions has its zero where the prediction is the truth.
    #[test]
    fn at_the_true_probability_the_weighed_slopes_add_up_to_nothing() {
        for p in [0.01f64, 0.2, 0.7] {
            for late_share in [0.1f64, 0.6, 1.0] {
                let (score, early) = (logit(p), p * (1.0 - late_share));
                let elapsed =
                    Delayed { correction: Correction::Elapsed, late_share: late_share as f32, score_offset: 0.0 };
                let factor = |kind, label| f64::from(elapsed.factor(kind, label, score));
                let slope_of_1 =
                    early * factor(SampleKind::Early, 1.0) + p * late_share * factor(SampleKind::Late, 1.0);
                let slope_of_0 = (1.0 - early) * factor(SampleKind::Early, 0.0);
                let sum = slope_of_1 * (p - 1.0) + slope_of_0 * p;
                assert!(sum.abs() < 1e-6, "p {p}, late {late_share}: {sum}");
            }
        }
        // With every positive late both are one.
        let fnw = Delayed { correction: Correction::Fnw, ..Delayed::default() };
        let elapsed = Delayed { correction: Correction::Elapsed, late_share: 1.0, score_offset: 0.0 };
        for (kind, label) in [(SampleKind::Early, 0.0), (SampleKind::Late, 1.0)] {
            let (a, b) = (fnw.factor(kind, label, -1.3), elapsed.factor(kind, label, -1.3));
            assert!((a - b).abs() < 1e-6, "{kind:?}: {a} {b}");
        }
    }

    #[test]
    fn only_rows_that_may_change_are_weighed() {
        for correction in [Correction::Retract, Correction::Fnw, Correction::Elapsed, Correction::None] {
            let delayed = Delayed { correction, late_share: 0.5, score_offset: 0.0 };
            for label in [0.0, 1.0] {
                assert_eq!(delayed.factor(SampleKind::Final, label, 2.0), 1.0);
                assert_eq!(delayed.factor(SampleKind::Unlearned, label, 2.0), 0.0);
            }
        }
        assert_eq!(Delayed::default().factor(SampleKind::Early, 0.0, 2.0), 1.0);
    }
}
