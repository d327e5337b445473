//! What scores are compared with labels by.
//!
//! In: a sample's scores and its label. Out: the loss, and its slope by each score, from which every gradient follows.
//! A prediction is what the loss makes of the scores: a probability, a number, a probability for each class.

use crate::math::{exp, ln, sigmoid};

/// A loss with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Log loss of a label that is 0 or 1; the prediction is the probability of 1.
    Logistic,
    /// Half the squared error of a number.
    Squared,
    /// Half the squared error up to `delta`, linear beyond it (Huber 1964): outliers pull with a bounded force.
    Huber {
        /// The largest slope.
        delta: f32,
    },
    /// Half the squared error of a number that lies between two others, linear where the score is beyond the one that the
    /// label is not near: a score beyond `high` counts as `high`, also for its slope (Rendle, "Factorization Machines with
    /// libFM", 2012). So what is sure already is not learned further.
    Bounded {
        /// The least label and prediction.
        low: f32,
        /// The largest.
        high: f32,
    },
    /// Cross entropy of a class; labels are 0 to `classes - 1`.
    Softmax {
        /// How many there are.
        classes: usize,
    },
}

/// The log loss of a sure and wrong prediction is that of this probability.
const CLIP: f64 = 1e-7;

impl Loss {
    /// Scores per sample.
    pub fn outputs(&self) -> usize {
        match self {
            Self::Softmax { classes } => *classes,
            _ => 1,
        }
    }

    /// The slope of the loss by each score.
    #[inline(always)]
    pub fn slopes(&self, scores: &[f32], label: f32, out: &mut [f32]) {
        match self {
            Self::Logistic => out[0] = sigmoid(scores[0]) - label,
            Self::Squared => out[0] = scores[0] - label,
            Self::Huber { delta } => out[0] = (scores[0] - label).clamp(-delta, *delta),
            Self::Bounded { low, high } => out[0] = scores[0].clamp(*low, *high) - label,
            Self::Softmax { .. } => {
                softmax(scores, out);
                out[label as usize] -= 1.0;
            }
        }
    }

    /// What takes an earlier label's slope back and puts another's in its place. Where the prediction cancels out it is
    /// left out, so that no rounding remains of it.
    #[inline(always)]
    pub fn corrections(&self, scores: &[f32], before: f32, after: f32, out: &mut [f32]) {
        match self {
            Self::Logistic | Self::Squared | Self::Bounded { .. } => out[0] = before - after,
            Self::Huber { delta } => {
                let slope = |label: f32| (scores[0] - label).clamp(-delta, *delta);
                out[0] = slope(after) - slope(before);
            }
            Self::Softmax { .. } => {
                out.fill(0.0);
                out[before as usize] += 1.0;
                out[after as usize] -= 1.0;
            }
        }
    }

    /// The loss of a sample.
    pub fn loss(&self, scores: &[f32], label: f32) -> f64 {
        let log_loss = |p: f64| -ln(p.clamp(CLIP, 1.0 - CLIP));
        match self {
            Self::Logistic => {
                let p = f64::from(sigmoid(scores[0]));
                log_loss(if label > 0.5 { p } else { 1.0 - p })
            }
            Self::Squared => 0.5 * f64::from(scores[0] - label) * f64::from(scores[0] - label),
            Self::Huber { delta } => {
                let (off, delta) = (f64::from((scores[0] - label).abs()), f64::from(*delta));
                if off <= delta { 0.5 * off * off } else { delta * (off - 0.5 * delta) }
            }
            Self::Bounded { low, high } => {
                let within = scores[0].clamp(*low, *high);
                let off = f64::from(within - label);
                0.5 * off * off + off * f64::from(scores[0] - within)
            }
            Self::Softmax { classes } => {
                let mut p = vec![0.0; *classes];
                softmax(scores, &mut p);
                log_loss(f64::from(p[label as usize]))
            }
        }
    }

    /// The prediction: a probability, a number, or a probability for each class.
    pub fn predict(&self, scores: &[f32], out: &mut [f32]) {
        match self {
            Self::Logistic => out[0] = sigmoid(scores[0]),
            Self::Squared | Self::Huber { .. } => out[0] = scores[0],
            Self::Bounded { low, high } => out[0] = scores[0].clamp(*low, *high),
            Self::Softmax { .. } => softmax(scores, out),
        }
    }

    /// Brings scores to where predictions are, for figures that are made of scores.
    #[inline]
    pub fn bring_within(&self, scores: &mut [f32]) {
        if let Self::Bounded { low, high } = self {
            scores.iter_mut().for_each(|score| *score = score.clamp(*low, *high));
        }
    }

    /// The slope that a sample of weight `weight` is learned with. Up to 1, and below 0, it is scaled. What lies beyond 1 is
    /// learned after one plain step as if it came in infinitely small ones, so that a large weight brings the prediction to
    /// the label and never past it (Karampatziakis and Langford, "Online Importance Weight Aware Updates", UAI 2011, table
    /// 1). Not all of it, as there: a weight of 1 is no weight to the bit, and one a little above 1 learns a little more.
    ///
    /// `slope` is the plain one; `rate` is how far a slope of 1 moves the score: the sum of each feature's rate times its
    /// value squared. Where that is no number, and for classes, for which there is no closed form, the slope is scaled.
    pub fn weighted(&self, score: f32, label: f32, slope: f32, weight: f32, rate: f32) -> f32 {
        let (plain, rate) = (f64::from(slope), f64::from(rate));
        let h = (f64::from(weight) - 1.0) * rate;
        // Also where there is no number; and below this the two differ by less than an f32 shows.
        if !(h >= 1e-6 && h.is_finite()) {
            return slope * weight;
        }
        match self.way(f64::from(score) - plain * rate, f64::from(label), h) {
            Some(way) => (plain - way / rate) as f32,
            None => slope * weight,
        }
    }

    /// How far a score comes in time `h` while it moves against the slope of the loss, where that can be said.
    fn way(&self, score: f64, label: f64, h: f64) -> Option<f64> {
        // At full slope `to_bend`, the rest of `off` ever more slowly.
        let bent = |off: f64, to_bend: f64, full: f64| {
            let linear = (h * full).min(to_bend);
            let is_bent = full > 0.0 && linear == to_bend;
            let rest = if is_bent { full * (1.0 - exp(linear / full - h)) } else { 0.0 };
            (linear + rest).copysign(off)
        };
        match self {
            Self::Squared => Some((label - score) * (1.0 - exp(-h))),
            Self::Logistic => {
                let sign = if label > 0.5 { 1.0 } else { -1.0 };
                Some(sign * logistic_way(sign * score, h))
            }
            Self::Huber { delta } => {
                let (off, delta) = (label - score, f64::from(*delta));
                Some(bent(off, (off.abs() - delta).max(0.0), off.abs().min(delta)))
            }
            Self::Bounded { low, high } => {
                // Back to the bound, and from there as the squared error.
                let within = score.clamp(f64::from(*low), f64::from(*high));
                Some(bent(label - within, (score - within).abs(), (label - within).abs()))
            }
            Self::Softmax { .. } => None,
        }
    }

    /// Whether a number is a label.
    #[inline]
    pub fn is_label(&self, label: f32) -> bool {
        match self {
            Self::Logistic => label == 0.0 || label == 1.0,
            Self::Bounded { low, high } => label.is_finite() && (*low..=*high).contains(&label),
            Self::Softmax { classes } => label >= 0.0 && label < *classes as f32 && label.fract() == 0.0,
            _ => label.is_finite(),
        }
    }

    /// Why a number is no label, if it is none.
    pub fn check_label(&self, label: f32) -> Result<(), String> {
        match self {
            _ if self.is_label(label) => Ok(()),
            _ if !label.is_finite() => Err(format!("label is {label}")),
            Self::Bounded { low, high } => {
                Err(format!("label must be from {low} to {high} (model.label_min, model.label_max), got {label}"))
            }
            Self::Softmax { classes } => {
                Err(format!("label must be a whole number from 0 to {}, got {label}", classes - 1))
            }
            _ => Err(format!("label must be 0 or 1, got {label}")),
        }
    }
}

/// How far a score `m` (of a positive label) comes in time `h` under dm/dt = 1 / (1 + e^m): the root x of
/// x + e^(m + x) - e^m = h. Newton's method from above, where the function is convex, so it never passes the root.
fn logistic_way(m: f64, h: f64) -> f64 {
    if m > 30.0 {
        // x alone is nothing beside e^m.
        let share = h * exp(-m);
        return if share < 1e-8 { share } else { ln(1.0 + share) };
    }
    let base = exp(m);
    // The way is at most h, and at most what e^(m + x) = h + e^m allows.
    let mut x = h.min(ln(h + base) - m);
    for _ in 0..20 {
        let grown = exp(m + x);
        x -= (x + grown - base - h) / (1.0 + grown);
    }
    x
}

/// e^score over the sum of all, computed from the largest score so that nothing overflows.
fn softmax(scores: &[f32], out: &mut [f32]) {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, score| largest.max(*score));
    let mut sum = 0.0f64;
    for (p, score) in out.iter_mut().zip(scores) {
        let e = exp(f64::from(score - largest));
        sum += e;
        *p = e as f32;
    }
    let scale = 1.0 / sum;
    out.iter_mut().for_each(|p| *p = (f64::from(*p) * scale) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Loss, [f32; 3]); 6] = [
        (Loss::Logistic, [0.0, 1.0, 1.0]),
        (Loss::Squared, [-2.0, 0.5, 7.0]),
        (Loss::Huber { delta: 0.8 }, [-2.0, 0.5, 0.1]),
        (Loss::Bounded { low: -1.0, high: 1.0 }, [-1.0, 1.0, 0.2]),
        (Loss::Bounded { low: -1.0, high: 0.1 }, [-1.0, 0.1, 0.0]),
        (Loss::Softmax { classes: 3 }, [0.0, 1.0, 2.0]),
    ];

    #[test]
    fn the_slope_is_that_of_the_loss() {
        for (loss, labels) in ALL {
            for label in labels {
                let scores = [0.3f32, -0.7, 1.1];
                let scores = &scores[..loss.outputs()];
                let mut slopes = vec![0.0; scores.len()];
                loss.slopes(scores, label, &mut slopes);
                for i in 0..scores.len() {
                    let at = |h: f32| {
                        let mut moved = scores.to_vec();
                        moved[i] += h;
                        loss.loss(&moved, label)
                    };
                    let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
                    assert!((f64::from(slopes[i]) - expected).abs() < 2e-3, "{loss:?} {label}: {slopes:?} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_correction_is_the_difference_of_two_slopes() {
        for (loss, labels) in ALL {
            let scores = [0.3f32, -0.7, 1.1];
            let scores = &scores[..loss.outputs()];
            let slopes = |label: f32| {
                let mut out = vec![0.0; scores.len()];
                loss.slopes(scores, label, &mut out);
                out
            };
            let mut correction = vec![0.0; scores.len()];
            loss.corrections(scores, labels[0], labels[1], &mut correction);
            for (i, correction) in correction.iter().enumerate() {
                assert!((correction - (slopes(labels[1])[i] - slopes(labels[0])[i])).abs() < 1e-6, "{loss:?}");
            }
        }
    }

    const WEIGHTED: [(Loss, f32); 7] = [
        (Loss::Logistic, 1.0),
        (Loss::Logistic, 0.0),
        (Loss::Squared, 2.0),
        (Loss::Huber { delta: 0.8 }, 3.0),
        (Loss::Huber { delta: 0.8 }, 0.9),
        (Loss::Bounded { low: -1.0, high: 0.1 }, -0.5),
        (Loss::Bounded { low: -1.0, high: 0.1 }, 0.1),
    ];

    fn slope(loss: Loss, score: f32, label: f32) -> f32 {
        let mut slope = [0.0];
        loss.slopes(&[score], label, &mut slope);
        slope[0]
    }

    /// The definition: one step, then ten thousand small ones in place of a large one.
    #[test]
    fn a_weight_is_one_step_and_many_small_ones() {
        for (loss, label) in WEIGHTED {
            for (weight, rate) in [(1.01f32, 0.5f32), (2.0, 0.1), (50.0, 0.3), (3.0, 2.0)] {
                let start = 0.4f32;
                let plain = slope(loss, start, label);
                let mut score = f64::from(start) - f64::from(plain * rate);
                let steps = 10_000;
                for _ in 0..steps {
                    let slope = slope(loss, score as f32, label);
                    score -= f64::from(slope) * f64::from((weight - 1.0) * rate) / f64::from(steps);
                }
                let moved = -loss.weighted(start, label, plain, weight, rate) * rate;
                let expected = score - f64::from(start);
                assert!(
                    (f64::from(moved) - expected).abs() < 2e-3 * expected.abs() + 1e-4,
                    "{loss:?} {weight} {rate}: {moved} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_weight_up_to_1_scales_and_1_changes_no_bit() {
        for (loss, label) in WEIGHTED {
            let plain = slope(loss, 0.4, label);
            for rate in [0.0, 0.1, 30.0, f32::INFINITY, f32::NAN] {
                assert_eq!(loss.weighted(0.4, label, plain, 1.0, rate).to_bits(), plain.to_bits());
                for weight in [-3.0, 0.0, 0.25] {
                    assert_eq!(loss.weighted(0.4, label, plain, weight, rate), plain * weight, "{loss:?}");
                }
            }
            assert_eq!(loss.weighted(0.4, label, plain, 7.0, f32::INFINITY), plain * 7.0, "nothing better is known");
        }
        let classes = Loss::Softmax { classes: 3 };
        assert_eq!(classes.weighted(0.4, 1.0, -0.5, 7.0, 0.1), -3.5);
    }

    /// Whatever the numbers, the prediction ends between where one plain step brings it and the label.
    #[test]
    fn no_weight_goes_past_the_label() {
        for (loss, label) in WEIGHTED {
            for start in [-80.0f32, -3.0, 0.05, 0.4, 9.0, 80.0] {
                for rate in [1e-9f32, 1e-3, 0.3, 0.9] {
                    let plain = slope(loss, start, label);
                    let mut before = plain.abs();
                    for weight in [1.5, 100.0, 1e6, 1e12, f32::MAX] {
                        let slope = loss.weighted(start, label, plain, weight, rate);
                        assert!(slope.is_finite() && slope.abs() >= before * 0.999_999, "{loss:?} {start} {weight}");
                        before = slope.abs();
                        let end = f64::from(start) - f64::from(slope) * f64::from(rate);
                        // A label of 0 or 1 is infinitely far away; by the weight it is said how far one comes.
                        let is_past = match loss {
                            Loss::Logistic => end.abs() > f64::from(start.abs()) + 100.0,
                            _ => (end - f64::from(label)) * f64::from(start - label) < -1e-3,
                        };
                        assert!(!is_past, "{loss:?} from {start} to {end}: weight {weight}, rate {rate}");
                    }
                }
            }
        }
    }

    #[test]
    fn labels_that_are_none_are_refused_by_value() {
        let why = |loss: Loss, label| loss.check_label(label).unwrap_err();
        assert_eq!(why(Loss::Logistic, 2.0), "label must be 0 or 1, got 2");
        assert_eq!(why(Loss::Softmax { classes: 10 }, 2.5), "label must be a whole number from 0 to 9, got 2.5");
        assert_eq!(why(Loss::Softmax { classes: 3 }, 3.0), "label must be a whole number from 0 to 2, got 3");
        assert!(
            why(Loss::Bounded { low: -1.0, high: 1.0 }, 1.5).starts_with("label must be from -1 to 1 (model.label_min")
        );
        assert_eq!(why(Loss::Squared, f32::NAN), "label is NaN");
        assert_eq!(why(Loss::Squared, f32::INFINITY), "label is inf");
        ALL.into_iter().for_each(|(loss, labels)| labels.iter().for_each(|label| loss.check_label(*label).unwrap()));
    }

    #[test]
    fn predictions_of_a_bounded_number_stay_within() {
        let loss = Loss::Bounded { low: -1.0, high: 1.0 };
        let (mut slope, mut out, mut scores) = ([0.0], [0.0], [1.5, -3.0, 0.25]);
        loss.slopes(&[1.5], 1.0, &mut slope);
        loss.predict(&[1.5], &mut out);
        loss.bring_within(&mut scores);
        assert_eq!((slope, out, scores), ([0.0], [1.0], [1.0, -1.0, 0.25]));
        loss.slopes(&[1.5], -1.0, &mut slope);
        assert_eq!(slope, [2.0]);
    }

    #[test]
    fn class_probabilities_add_up_to_one_whatever_the_scores() {
        let mut p = [0.0; 3];
        Loss::Softmax { classes: 3 }.predict(&[1e4, -1e4, 1e4], &mut p);
        assert_eq!(p, [0.5, 0.0, 0.5]);
    }
}
