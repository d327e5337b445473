//! Mann and Whitney's test as Kayenta's judge uses it: whether the values of an experiment lie above or below those of a
//! control.
//!
//! In: two lists of values. Out: a confidence interval of how far the experiment is shifted, the Hodges-Lehmann estimate,
//! and a verdict. The interval is found as R's `wilcox.test(exact = FALSE, conf.int = TRUE)` finds it: ranks with ties averaged, a
//! normal approximation with corrections for ties and continuity. A shift counts when the interval lies beyond a quarter
//! of the estimate, as in Kayenta's `NetflixACAJudge`. Pure; values that are not finite are left out, as Kayenta does.

use super::sequential::normal_quantile;

/// Share of the estimate that a shift must exceed.
const TOLERANCE: f64 = 0.25;
/// How near Kayenta's solver comes to a root.
const SOLVER_TOLERANCE: f64 = 1e-4;
const STEPS_MAX: usize = 100;

/// Which shift is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Upwards: times, errors.
    Increase,
    /// Downwards: what is to be earned.
    Decrease,
    /// Both.
    Either,
}

/// What the values say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Nothing that counts.
    Pass,
    /// The experiment lies above.
    High,
    /// The experiment lies below.
    Low,
    /// One of the lists is empty.
    NoData,
}

/// The shift with its figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// The verdict.
    pub shift: Shift,
    /// Bounds of the shift.
    pub interval: (f64, f64),
    /// Hodges-Lehmann estimate of the shift.
    pub estimate: f64,
    /// Mean of the experiment by mean of the control.
    pub ratio: f64,
}

/// Compares at a confidence (Kayenta's own is 0.98).
pub fn compare(control: &[f64], experiment: &[f64], direction: Direction, confidence: f64) -> Compared {
    let control = sorted(control);
    let experiment = sorted(experiment);
    let mut compared = Compared { shift: Shift::NoData, interval: (0.0, 0.0), estimate: 0.0, ratio: 1.0 };
    let (Some(control_min), Some(experiment_min)) = (control.first(), experiment.first()) else { return compared };
    compared.shift = Shift::Pass;
    if control == experiment {
        return compared;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    compared.ratio = mean(&experiment) / mean(&control);
    let last = |values: &[f64]| values[values.len() - 1];
    let range = (experiment_min - last(&control), last(&experiment) - control_min);
    if range.1 - range.0 <= 0.0 {
        // Each list is one value again and again; they differ, or the lists would be alike.
        compared.interval = range;
        compared.estimate = range.0;
    } else {
        let z = normal_quantile(1.0 - (1.0 - confidence) / 2.0);
        let root = |z: f64| root(range, |d| standing(&experiment, &control, d) - z);
        compared.interval = (root(z), root(-z));
        compared.estimate = root(0.0);
    }
    let beyond = TOLERANCE * compared.estimate.abs();
    let (up, down) = (direction != Direction::Decrease, direction != Direction::Increase);
    if up && compared.interval.0 > beyond && compared.ratio >= 1.0 {
        compared.shift = Shift::High;
    } else if down && compared.interval.1 < -beyond && compared.ratio <= 1.0 {
        compared.shift = Shift::Low;
    }
    compared
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// How many deviations the ranks of `x - d` among `y` lie above what is to be expected. Falls as `d` grows.
fn standing(x: &[f64], y: &[f64], d: f64) -> f64 {
    let (n, m) = (x.len() as f64, y.len() as f64);
    let mut all: Vec<(f64, bool)> = x.iter().map(|v| (v - d, true)).chain(y.iter().map(|v| (*v, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut ties, mut begin) = (0.0, 0.0, 0);
    while begin < all.len() {
        let same = all[begin..].iter().take_while(|v| v.0 == all[begin].0).count();
        let of_x = all[begin..begin + same].iter().filter(|v| v.1).count();
        // Ranks begin + 1 to begin + same, averaged.
        ranks += of_x as f64 * (begin as f64 + (same as f64 + 1.0) / 2.0);
        ties += (same as f64).powi(3) - same as f64;
        begin += same;
    }
    let above = ranks - n * (n + 1.0) / 2.0 - n * m / 2.0;
    let correction = if above != 0.0 { 0.5f64.copysign(above) } else { 0.0 };
    let variance = n * m / 12.0 * (n + m + 1.0 - ties / ((n + m) * (n + m - 1.0)));
    (above - correction) / variance.sqrt()
}

/// Where a falling function crosses zero, by Brent's method (1973), to within [`SOLVER_TOLERANCE`]; an end of the range where
/// it does not.
///
/// The method and its tolerance are part of what is reproduced: the function is a staircase, and for values as small as the
/// tolerance (shares of errors, say) verdicts hang on where the solver stops.
fn root((low, high): (f64, f64), f: impl Fn(f64) -> f64) -> f64 {
    let (mut before, mut now) = ((low, f(low)), (high, f(high)));
    if before.1 <= 0.0 {
        return low;
    }
    if now.1 >= 0.0 {
        return high;
    }
    // The end on the other side of zero, and the last two steps.
    let (mut across, mut step, mut step_before) = (before, 0.0, 0.0);
    for _ in 0..STEPS_MAX {
        if before.1 != 0.0 && now.1 != 0.0 && (before.1 < 0.0) != (now.1 < 0.0) {
            across = before;
            step = now.0 - before.0;
            step_before = step;
        }
        if across.1.abs() < now.1.abs() {
            (before, now, across) = (now, across, now);
        }
        let least = (SOLVER_TOLERANCE + 4.0 * f64::EPSILON * now.0.abs()) / 2.0;
        let half = (across.0 - now.0) / 2.0;
        if now.1 == 0.0 || half.abs() < least {
            return now.0;
        }
        let mut guessed = None;
        if step_before.abs() > least && now.1.abs() < before.1.abs() {
            let guess = if before.0 == across.0 {
                -now.1 * (now.0 - before.0) / (now.1 - before.1)
            } else {
                let to_before = (before.1 - now.1) / (before.0 - now.0);
                let to_across = (across.1 - now.1) / (across.0 - now.0);
                -now.1 * (across.1 * to_across - before.1 * to_before) / (to_across * to_before * (across.1 - before.1))
            };
            guessed = Some(guess).filter(|g| 2.0 * g.abs() < step_before.abs().min(3.0 * half.abs() - least));
        }
        (step_before, step) = guessed.map_or((half, half), |guess| (step, guess));
        before = now;
        now.0 += if step.abs() > least { step } else { least.copysign(half) };
        now.1 = f(now.0);
    }
    now.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked by hand: 1..=10 against the same ten higher.
    #[test]
    fn a_plain_shift_is_found_in_its_direction() {
        let control: Vec<f64> = (1..=10).map(f64::from).collect();
        let higher: Vec<f64> = control.iter().map(|x| x + 20.0).collect();
        let of = |a: &[f64], b: &[f64], direction| compare(a, b, direction, 0.98).shift;
        assert_eq!(of(&control, &higher, Direction::Increase), Shift::High);
        assert_eq!(of(&control, &higher, Direction::Either), Shift::High);
        assert_eq!(of(&control, &higher, Direction::Decrease), Shift::Pass);
        assert_eq!(of(&higher, &control, Direction::Decrease), Shift::Low);
        assert_eq!(of(&control, &control, Direction::Either), Shift::Pass);
        assert_eq!(of(&control, &[], Direction::Either), Shift::NoData);
        assert_eq!(of(&[f64::NAN], &control, Direction::Either), Shift::NoData);
        let estimate = compare(&control, &higher, Direction::Either, 0.98).estimate;
        assert!((estimate - 20.0).abs() < 1e-3, "{estimate}");
        // All observations tied: nothing varies, and they differ all the same.
        assert_eq!(of(&[2.0; 5], &[3.0; 5], Direction::Increase), Shift::High);
        assert_eq!(of(&[2.0; 5], &[2.0; 5], Direction::Increase), Shift::Pass);
    }
}
