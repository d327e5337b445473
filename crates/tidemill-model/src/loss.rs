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

    /// The slope that a sample of weight `weight` (not negative) is learned with: as if it had come `weight` times in a
    /// row with infinitely small steps, so that a large weight brings the prediction to the label and never past it
    /// (Karampatziakis and Langford, "Online Importance Weight Aware Updates", UAI 2011, table 1). `slope` is the plain
    /// one; `rate` is how far one step of slope 1 moves the score: the sum of each feature's rate times its value squared.
    pub fn weighted(&self, score: f32, label: f32, slope: f32, weight: f32, rate: f32) -> f32 {
        let h = f64::from(weight) * f64::from(rate);
        if h < 1e-6 || weight < 0.0 {
            return slope * weight;
        }
        let (score, label) = (f64::from(score), f64::from(label));
        let moved = match self {
            Self::Squared => (label - score) * (1.0 - exp(-h)),
            Self::Logistic => {
                let sign = if label > 0.5 { 1.0 } else { -1.0 };
                sign * logistic_way(sign * score, h)
            }
            Self::Huber { delta } => {
                let (off, delta) = (label - score, f64::from(*delta));
                let beyond = (off.abs() - delta).max(0.0);
                let linear = (h * delta).min(beyond);
                let rest = off.abs().min(delta) * (1.0 - exp(-(h - linear / delta).max(0.0)));
                (linear + if linear < beyond { 0.0 } else { rest }).copysign(off)
            }
            Self::Bounded { low, high } => {
                let within = score.clamp(f64::from(*low), f64::from(*high));
                // At full slope back to the bound, then as the squared error from there.
                let (off, beyond) = (label - within, (score - within).abs());
                let linear = (h * off.abs()).min(beyond);
                let rest = if off == 0.0 { 0.0 } else { off.abs() * (1.0 - exp(-(h - linear / off.abs()).max(0.0))) };
                (linear + if linear < beyond { 0.0 } else { rest }).copysign(off)
            }
            // No closed form: plain.
            Self::Softmax { .. } => return slope * weight,
        };
        (-moved / f64::from(rate)) as f32
    }

    /// Why a number is no label, if it is none.
    pub fn check_label(&self, label: f32) -> Result<(), String> {
        match self {
            _ if label.is_nan() => Err("label is NaN".into()),
            _ if label.is_infinite() => Err(format!("label is {label}")),
            Self::Logistic if label != 0.0 && label != 1.0 => Err(format!("label must be 0 or 1, got {label}")),
            Self::Bounded { low, high } if !(*low..=*high).contains(&label) => {
                Err(format!("label must be from {low} to {high} (model.label_min, model.label_max), got {label}"))
            }
            Self::Softmax { classes } if !(label >= 0.0 && label < *classes as f32 && label.fract() == 0.0) => {
                Err(format!("label must be a whole number from 0 to {}, got {label}", classes - 1))
            }
            _ => Ok(()),
        }
    }
}

/// How far a score `m` (of a positive label) comes in time `h` under dm/dt = 1 / (1 + e^m): the root x of
/// x + e^(m + x) - e^m = h. Newton's method from above, where the function is convex, so it never passes the root.
fn logistic_way(m: f64, h: f64) -> f64 {
    if m > 30.0 {
        return h * exp(-m);
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

    /// The definition: ten thousand small steps in place of a large one.
    #[test]
    fn a_weight_is_as_many_small_steps() {
        let bounded = Loss::Bounded { low: -1.0, high: 0.1 };
        for (loss, label) in [
            (Loss::Logistic, 1.0),
            (Loss::Logistic, 0.0),
            (Loss::Squared, 2.0),
            (Loss::Huber { delta: 0.8 }, 3.0),
            (bounded, -0.5),
            (bounded, 0.1),
        ] {
            for (weight, rate) in [(1.0f32, 0.1f32), (50.0, 0.3), (3.0, 2.0)] {
                let start = 0.4f32;
                let mut score = f64::from(start);
                let steps = 10_000;
                for _ in 0..steps {
                    let mut slope = [0.0];
                    loss.slopes(&[score as f32], label, &mut slope);
                    score -= f64::from(slope[0]) * f64::from(weight * rate) / f64::from(steps);
                }
                let mut slope = [0.0];
                loss.slopes(&[start], label, &mut slope);
                let moved = -loss.weighted(start, label, slope[0], weight, rate) * rate;
                let expected = score - f64::from(start);
                assert!(
                    (f64::from(moved) - expected).abs() < 2e-3 * expected.abs() + 1e-4,
                    "{loss:?} {weight} {rate}: {moved} {expected}"
                );
            }
        }
        assert_eq!(Loss::Logistic.weighted(0.0, 1.0, -0.5, -1.0, 0.1), 0.5, "a weight below zero takes back");
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
