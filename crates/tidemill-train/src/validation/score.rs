//! What one prediction is worth now that its label is known.
//!
//! In: raw scores, the label, and what was truly to be expected where somebody knows it. Out: the loss and what the
//! figures need. Only + - * / on f64, so the bits are the same everywhere. Probabilities are clipped to [1e-7, 1 - 1e-7]
//! here, in the loss, and nowhere else.

use std::f64::consts::{LN_2, LOG2_E, SQRT_2};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};
use tidemill_model::math::{exp, ln};

use super::Task;

/// The loss of a sure and wrong prediction is that of this probability.
const CLIP: f64 = 1e-7;
/// -ln(1e-7) and -ln(1 - 1e-7).
const LOSS_MAX: f64 = 16.118_095_650_958_32;
const LOSS_MIN: f64 = 1.000_000_050_000_003_3e-7;

/// What one sample adds to the figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    pub(super) loss: f64,
    /// The loss of what was truly to be expected; NaN where that is not known.
    pub(super) best_loss: f64,
    /// The raw score, by which AUC ranks.
    pub(super) rank: f32,
    /// A probability (of several classes: that of the likeliest), or a number.
    pub(super) prediction: f32,
    /// 0 or 1, a number, or a class.
    pub(super) label: f32,
    /// The likeliest class, where there are several.
    pub(super) guess: u32,
}

impl Score {
    /// Of a logit that is not NaN, with what [`logistic`] says of it.
    #[inline(always)]
    pub(super) fn binary(logit: f32, (p, loss): (f32, f64), oracle: f32, label: f32) -> Self {
        let best_loss = match (0.0..=1.0).contains(&oracle) {
            true => -ln((if label > 0.0 { oracle as f64 } else { 1.0 - oracle as f64 }).clamp(CLIP, 1.0 - CLIP)),
            false => f64::NAN,
        };
        Self { loss, best_loss, rank: logit, prediction: p, label, guess: 0 }
    }

    /// Of finite numbers.
    pub(super) fn regression(value: f32, oracle: f32, label: f32) -> Self {
        let square = |x: f32| {
            let error = x as f64 - label as f64;
            error * error
        };
        let best_loss = if oracle.is_finite() { square(oracle) } else { f64::NAN };
        Self { loss: square(value), best_loss, rank: value, prediction: value, label, guess: 0 }
    }

    /// Cross entropy of the softmax of finite scores. The first of equals is the guess.
    pub(super) fn class(scores: &[f32], label: f32) -> Self {
        let mut guess = 0;
        for (class, score) in scores.iter().enumerate() {
            if *score > scores[guess] {
                guess = class;
            }
        }
        let top = scores[guess] as f64;
        let total: f64 = scores.iter().map(|score| exp(*score as f64 - top)).sum();
        let loss = (ln(total) + (top - scores[label as usize] as f64)).clamp(LOSS_MIN, LOSS_MAX);
        let confidence = (1.0 / total) as f32;
        Self { loss, best_loss: f64::NAN, rank: confidence, prediction: confidence, label, guess: guess as u32 }
    }

    /// Of several classes: whether the likeliest came.
    pub(super) fn is_right(&self) -> bool {
        self.label as u32 == self.guess
    }

    pub(super) fn encode(&self, task: Task, out: &mut Encoder) {
        out.put_f64(self.loss).put_f64(self.best_loss).put_f32(self.prediction).put_f32(self.label);
        match task {
            Task::Binary => out.put_f32(self.rank),
            Task::Regression => out,
            Task::Classes(_) => out.put_u32(self.guess),
        };
    }

    pub(super) fn decode(task: Task, from: &mut Decoder) -> Result<Self> {
        let (loss, best_loss, prediction, label) = (from.f64()?, from.f64()?, from.f32()?, from.f32()?);
        let rank = if task == Task::Binary { from.f32()? } else { prediction };
        let guess = if let Task::Classes(_) = task { from.u32()? } else { 0 };
        if task.label(label).is_none() {
            return Err(Error::corrupt(format!("validation: a sample of the recent window has label {label}")));
        }
        Ok(Self { loss, best_loss, rank, prediction, label, guess })
    }
}

/// The probability that belongs to a logit, and its log loss.
#[inline(always)]
pub(super) fn logistic(logit: f32, label: f32) -> (f32, f64) {
    let (p, softplus) = sigmoid_and_softplus(logit as f64);
    // -ln p = softplus(-logit), and -ln(1 - p) = softplus(logit) = softplus(-logit) + logit.
    let miss = if label > 0.0 { -logit } else { logit };
    let loss = softplus + if miss > 0.0 { miss as f64 } else { 0.0 };
    let loss = if loss < LOSS_MAX { loss } else { LOSS_MAX };
    (p as f32, if loss > LOSS_MIN { loss } else { LOSS_MIN })
}

/// 1 / (1 + e^-x), and ln(1 + e^-|x|): the logistic loss is this plus |x| for a prediction on the wrong side.
///
/// Written out for speed: e^-|x| serves both, and 1 + e^-|x| is between 1 and 2, where a logarithm needs no exponent. The
/// terms are added in pairs, not one after the other, because the processor would wait for each. Relative error below
/// 1e-12: the sums are shown with six digits.
#[inline(always)]
fn sigmoid_and_softplus(x: f64) -> (f64, f64) {
    let z = exp_below_zero(-x.abs());
    let share = 1.0 / (1.0 + z);
    let p = if x < 0.0 { z * share } else { share };
    (p, ln_1_plus(z))
}

/// e^x for x <= 0; below -700 that of -700, which is as good as 0.
#[inline(always)]
fn exp_below_zero(x: f64) -> f64 {
    /// ln 2 in two parts: the first has 32 trailing zero bits, so that a small whole multiple of it is exact.
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// Added to a number below 2^51, it leaves the nearest whole number in the last bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = if x < -700.0 { -700.0 } else { x };
    let rounded = x * LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let (r2, r4) = (r * r, r * r * (r * r));
    let low = (1.0 + r) + r2 * (1.0 / 2.0 + r * (1.0 / 6.0));
    let middle = (1.0 / 24.0 + r * (1.0 / 120.0)) + r2 * (1.0 / 720.0 + r * (1.0 / 5_040.0));
    let high = (1.0 / 40_320.0 + r * (1.0 / 362_880.0)) + r2 * (1.0 / 3_628_800.0);
    (low + r4 * (middle + r4 * high)) * f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52)
}

/// ln(1 + z) for 0 <= z <= 1.
#[inline(always)]
fn ln_1_plus(z: f64) -> f64 {
    // ln m = 2 artanh((m - 1) / (m + 1)) for m = 1 + z, or half of it, so that |s| < 0.172.
    let halved = z > SQRT_2 - 1.0;
    let (above, below) = if halved { (z - 1.0, z + 3.0) } else { (z, z + 2.0) };
    let s = above / below;
    let (s2, s4) = (s * s, s * s * (s * s));
    let low = (1.0 + s2 * (1.0 / 3.0)) + s4 * (1.0 / 5.0 + s2 * (1.0 / 7.0));
    let high = (1.0 / 9.0 + s2 * (1.0 / 11.0)) + s4 * (1.0 / 13.0 + s2 * (1.0 / 15.0));
    let log = 2.0 * s * (low + s4 * s4 * high);
    if halved { log + LN_2 } else { log }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_logistic_loss_agrees_with_the_standard_library() {
        for x in (-60_000..=60_000).map(|i| i as f64 * 0.001 + 0.0003) {
            let (p, softplus) = sigmoid_and_softplus(x);
            let expected = ((-x.abs()).exp()).ln_1p();
            assert!((softplus / expected - 1.0).abs() < 1e-12, "softplus at {x}: {softplus}, std {expected}");
            let expected = if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) };
            assert!((p / expected - 1.0).abs() < 1e-12, "sigmoid at {x}: {p}, std {expected}");
        }
        assert_eq!(sigmoid_and_softplus(0.0).0, 0.5);
        assert!((sigmoid_and_softplus(0.0).1 - LN_2).abs() < 1e-15);
        assert_eq!(sigmoid_and_softplus(f64::INFINITY).0, 1.0);
        assert!(sigmoid_and_softplus(f64::NEG_INFINITY).0 < 1e-300);
    }

    #[test]
    fn the_bounds_of_the_loss_are_those_of_the_clipped_probability() {
        assert!((LOSS_MAX + CLIP.ln()).abs() < 1e-14);
        assert!((LOSS_MIN / -(-CLIP).ln_1p() - 1.0).abs() < 1e-14);
    }
}
