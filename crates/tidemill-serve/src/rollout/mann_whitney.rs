//! Mann and Whitney's test as Kayenta's judge uses it: whether the values of an experiment lie above or below those of a
//! control.
//!
//! In: two lists of values. Out: a confidence interval of how far the experiment is shifted, the Hodges-Lehmann estimate,
//! and a verdict. The interval is that of R's `wilcox.test(exact = FALSE, conf.int = TRUE)`: ranks with ties averaged, a
//! normal approximation with corrections for ties and continuity. A shift counts when the interval lies beyond a quarter
//! of the estimate, as in Kayenta's `NetflixACAJudge`. Pure; values that are not finite are left out, as Kayenta does.

use super::sequential::normal_quantile;

/// Share of the estimate that a shift must exceed.
const TOLERANCE: f64 = 0.25;

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
        let corrected = |z: f64| root(range, |d| standing(&experiment, &control, d, true) - z);
        compared.interval = (corrected(z), corrected(-z));
        // Between the two middle differences the ranks stand still at zero: the estimate is the middle of that.
        let begin = root(range, |d| standing(&experiment, &control, d, false));
        let end = root((-range.1, -range.0), |d| -standing(&experiment, &control, -d, false));
        compared.estimate = 0.5 * (begin - end);
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
fn standing(x: &[f64], y: &[f64], d: f64, corrected: bool) -> f64 {
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
    let correction = if corrected && above != 0.0 { 0.5f64.copysign(above) } else { 0.0 };
    let variance = n * m / 12.0 * (n + m + 1.0 - ties / ((n + m) * (n + m - 1.0)));
    (above - correction) / variance.sqrt()
}

/// Where a falling function crosses zero; an end of the range where it does not.
fn root((mut low, mut high): (f64, f64), f: impl Fn(f64) -> f64) -> f64 {
    if f(low) <= 0.0 {
        return low;
    }
    if f(high) >= 0.0 {
        return high;
    }
    // To a part in 2^50 of the range: far below what a verdict hangs on.
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        match f(middle) > 0.0 {
            true => low = middle,
            false => high = middle,
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

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
        assert!((estimate - 20.0).abs() < 1e-6, "{estimate}");
        // All observations tied: nothing varies, and they differ all the same.
        assert_eq!(of(&[2.0; 5], &[3.0; 5], Direction::Increase), Shift::High);
        assert_eq!(of(&[2.0; 5], &[2.0; 5], Direction::Increase), Shift::Pass);
    }

    /// 80 published cases with interval, estimate and verdict. They are not part of the project: `TIDEMILL_DATA` names the
    /// folder that has `anomaly/canary/vectors.json`; without it this test says that it was skipped.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test is told where its data lies")]
    fn verdicts_are_those_of_kayenta() {
        let Ok(folder) = std::env::var("TIDEMILL_DATA") else {
            eprintln!("skipped: set TIDEMILL_DATA to the folder that has anomaly/canary/vectors.json");
            return;
        };
        let path = std::path::Path::new(&folder).join("anomaly/canary/vectors.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let vectors: Value = serde_json::from_str(&text).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(cases.len() >= 80);
        let mut verdicts = BTreeMap::new();
        for case in cases {
            let list =
                |name: &str| case[name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
            let direction = match case["direction"].as_str().unwrap() {
                "increase" => Direction::Increase,
                "decrease" => Direction::Decrease,
                _ => Direction::Either,
            };
            let (control, experiment) = (list("control"), list("experiment"));
            let got = compare(&control, &experiment, direction, 0.98);
            assert_eq!(format!("{:?}", got.shift), case["expected"].as_str().unwrap(), "case {}: {got:?}", case["id"]);
            *verdicts.entry(format!("{:?}", got.shift)).or_insert(0) += 1;
            let detail = &case["detail"];
            let near = |got: f64, expected: &Value, what: &str| {
                // Their solver stops within 1e-4 of the root, and their numbers have six digits.
                let expected = expected.as_f64().unwrap();
                assert!((got - expected).abs() < 3e-4, "case {} {what}: {got} {expected}", case["id"]);
            };
            near(got.interval.0, &detail["ci"][0], "lower");
            near(got.interval.1, &detail["ci"][1], "upper");
            // Their solver ends anywhere between the two middle differences; the Hodges-Lehmann estimate is the median.
            let pairs = experiment.iter().flat_map(|e| control.iter().map(move |c| e - c));
            let mut differences: Vec<f64> = pairs.collect();
            differences.sort_by(f64::total_cmp);
            let middle = (differences[(differences.len() - 1) / 2], differences[differences.len() / 2]);
            let theirs = detail["estimate"].as_f64().unwrap();
            assert!((middle.0 - 3e-4..=middle.1 + 3e-4).contains(&theirs), "case {}: {middle:?} {theirs}", case["id"]);
            assert!(
                (got.estimate - 0.5 * (middle.0 + middle.1)).abs() < 1e-6,
                "case {}: {middle:?} {got:?}",
                case["id"]
            );
            near(got.ratio, &detail["ratio"], "ratio");
        }
        assert_eq!(verdicts.len(), 3, "{verdicts:?}");
    }
}
