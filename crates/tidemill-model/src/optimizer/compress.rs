//! Gradient compression with error feedback: only large components are applied, the others wait.
//!
//! In: a gradient, and the residual of what was held back before it. Out: of their sum the components that pass, zeros in
//! place of the others; those stay in the residual. Nothing is lost: what passed and what waits add up to what was given, to
//! rounding. Lin et al., Deep Gradient Compression, ICLR 2018 (local clipping before, no momentum correction); Stich et al.,
//! Sparsified SGD with Memory, NeurIPS 2018.
//!
//! SGD, Adagrad and FTRL learn from the sum of what waited about what they would have learned piece by piece. A step of Adam
//! has one length whatever the gradient's, so a hundredth of the steps moves a weight a hundredth as far: it wants a larger
//! rate.

/// Which components of gradients are applied at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum GradientFilter {
    /// All; there is no residual.
    #[default]
    All,
    /// This share of them, the largest.
    Keep(f32),
    /// Those of at least this magnitude.
    Threshold(f32),
}

/// How many components came, and how many of them went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Components that were not zero; of layers, all.
    pub given: u64,
    /// Components that were applied.
    pub passed: u64,
}

/// Where a threshold that follows a share begins: below all gradients that matter, so that the first mini-batches are learned
/// whole, when most is to be learned, and the share shrinks to the wanted one (the warm-up of Lin et al.).
pub const THRESHOLD_START: f32 = 1e-4;
/// Thresholds stay within these, so that a residual can be neither lost in rounding nor overflow.
const THRESHOLD_MIN: f32 = 1e-12;
const THRESHOLD_MAX: f32 = 1e12;
/// The part of the relative error that one mini-batch puts right.
const GAIN: f64 = 0.1;
/// The error from which on a mini-batch counts no more.
const ERROR_MAX: f64 = 5.0;

/// Lets through the components whose sum with their residual reaches `threshold`.
#[inline(always)]
pub fn pass(threshold: f32, residual: &mut [f32], gradient: &mut [f32]) -> Passed {
    let mut counts = Passed::default();
    for (r, g) in residual.iter_mut().zip(gradient) {
        let sum = *r + *g;
        let passes = sum.abs() >= threshold;
        counts.given += u64::from(*g != 0.0);
        counts.passed += u64::from(passes);
        (*r, *g) = if passes { (0.0, sum) } else { (sum, 0.0) };
    }
    counts
}

/// Lets through the `keep` largest components of the sum, at least one; of equal ones those that come first. `order` is
/// scratch.
pub fn pass_largest(keep: f32, residual: &mut [f32], gradient: &mut [f32], order: &mut Vec<u64>) -> Passed {
    let count = gradient.len();
    if count == 0 {
        return Passed::default();
    }
    residual.iter_mut().zip(&*gradient).for_each(|(r, g)| *r += g);
    let wanted = ((f64::from(keep) * count as f64).round() as usize).clamp(1, count);
    order.clear();
    // The bits of positive floats are ordered as they are: the largest first, then the index.
    order.extend((0..).zip(&*residual).map(|(i, r): (u64, &f32)| u64::from(!r.abs().to_bits()) << 32 | i));
    order.select_nth_unstable(wanted - 1);
    gradient.fill(0.0);
    for i in order[..wanted].iter().map(|place| *place as u32 as usize) {
        gradient[i] = std::mem::take(&mut residual[i]);
    }
    Passed { given: count as u64, passed: wanted as u64 }
}

/// The threshold for the next mini-batch, after one in which `counts` went by.
///
/// It moves by a part of the relative error, not by a fixed step: where less than one component of a mini-batch is wanted,
/// steps of one size would settle where half of the mini-batches pass something, which is too much.
pub fn next_threshold(threshold: f32, keep: f32, counts: Passed) -> f32 {
    let wanted = f64::from(keep) * counts.given as f64;
    let error = ((counts.passed as f64 - wanted) / wanted.max(1.0)).clamp(-1.0, ERROR_MAX);
    let next = f64::from(threshold) * (1.0 + GAIN * error);
    (next as f32).clamp(THRESHOLD_MIN, THRESHOLD_MAX)
}

#[cfg(test)]
mod tests {
    use tidemill_base::Rng;

    use super::*;

    /// A few gradients of some parameters, the same for everybody.
    fn gradients(count: usize, dimension: usize) -> Vec<Vec<f32>> {
        let mut rng = Rng::seeded(3);
        (0..count).map(|_| (0..dimension).map(|_| rng.normal() as f32 + 0.1).collect()).collect()
    }

    fn nothing_is_lost(mut filter: impl FnMut(&mut [f32], &mut [f32]) -> Passed) {
        let mut residual = vec![0.0f32; 50];
        let (mut given, mut applied) = (vec![0.0f64; 50], vec![0.0f64; 50]);
        for mut gradient in gradients(400, 50) {
            given.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += f64::from(*g));
            let counts = filter(&mut residual, &mut gradient);
            assert_eq!(counts.passed, gradient.iter().filter(|g| **g != 0.0).count() as u64);
            applied.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += f64::from(*g));
        }
        for ((given, applied), residual) in given.iter().zip(&applied).zip(&residual) {
            assert!((given - applied - f64::from(*residual)).abs() < 1e-3, "{given} {applied} {residual}");
        }
        assert!(residual.iter().any(|r| *r != 0.0));
    }

    #[test]
    fn what_passed_and_what_waits_add_up_to_what_was_given() {
        nothing_is_lost(|residual, gradient| pass(5.0, residual, gradient));
        let mut order = Vec::new();
        nothing_is_lost(|residual, gradient| pass_largest(0.02, residual, gradient, &mut order));
    }

    #[test]
    fn the_largest_pass_and_of_equal_ones_the_first() {
        let mut residual = [0.0, 0.0, 1.5, 0.0, 0.0];
        let mut gradient = [1.0, -2.0, 0.5, 2.0, -1.0];
        let counts = pass_largest(0.4, &mut residual, &mut gradient, &mut Vec::new());
        assert_eq!(counts, Passed { given: 5, passed: 2 });
        // 1.5 + 0.5, -2 and 2 are of one magnitude: the first two of them go.
        assert_eq!(gradient, [0.0, -2.0, 2.0, 0.0, 0.0]);
        assert_eq!(residual, [1.0, 0.0, 0.0, 2.0, -1.0]);
    }

    /// Also where a mini-batch has less than one component to pass.
    #[test]
    fn a_threshold_settles_where_the_wanted_share_passes() {
        for keep in [0.5, 0.1, 0.01, 0.001] {
            let mut residual = vec![0.0; 200];
            let (mut threshold, mut sum) = (THRESHOLD_START, Passed::default());
            for (i, mut gradient) in gradients(20_000, 200).into_iter().enumerate() {
                let counts = pass(threshold, &mut residual, &mut gradient);
                threshold = next_threshold(threshold, keep, counts);
                if i >= 4_000 {
                    sum = Passed { given: sum.given + counts.given, passed: sum.passed + counts.passed };
                }
            }
            let share = sum.passed as f64 / sum.given as f64;
            assert!((share / f64::from(keep) - 1.0).abs() < 0.2, "{keep}: {share}");
        }
    }
}
