//! What is known of a version on trial and of the live one beside it: sums, and nothing that grows.
//!
//! Three views of the same two versions: requests that each answered (errors, times), requests that both scored (paired
//! differences, drift), and matured samples that both predicted before their label was final (quality).

use serde_json::{Value, json};

use super::{
    drift::{Bins, distance},
    sequential::{Count, MeanTest},
};

/// Buckets of times: four for each doubling, from a microsecond.
pub const TIMES: usize = 96;

/// Everything at one moment. Sums since the trial began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests that the live version answered.
    pub live: Arm,
    /// Requests that the version on trial answered.
    pub version: Arm,
    /// Requests that both scored.
    pub paired: Paired,
    /// Samples that both predicted and whose label is final.
    pub quality: Quality,
}

/// Requests of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// How many.
    pub requests: u64,
    /// Those that failed by our fault, or got a prediction that is no number.
    pub errors: u64,
    /// Microseconds they took, in all.
    pub us: u64,
    /// How many took how long.
    pub times: [u64; TIMES],
}

/// The same requests scored by both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Paired {
    /// Rows.
    pub rows: u64,
    /// Requests that were not scored twice because the thread for it was busy.
    pub passed_over: u64,
    /// Sum of the differences, version less live.
    pub difference: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// The largest of their sizes.
    pub largest: f64,
    /// What the live version predicted.
    pub live: Bins,
    /// What the other predicted.
    pub version: Bins,
}

/// The same matured samples predicted by both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quality {
    /// Samples.
    pub pairs: u64,
    /// Sum of the live version's losses.
    pub live_loss: f64,
    /// Sum of the other's.
    pub version_loss: f64,
    /// Sum of labels; of probabilities only.
    pub labels: f64,
    /// Sum of the live version's probabilities.
    pub live_predicted: f64,
    /// Sum of the other's.
    pub version_predicted: f64,
    /// Whether the version's loss is above what is tolerated.
    pub worse: MeanTest,
    /// Whether it predicts more than the labels by more than is tolerated.
    pub over: MeanTest,
    /// Whether it predicts less.
    pub under: MeanTest,
}

impl Default for Arm {
    fn default() -> Self {
        Self { requests: 0, errors: 0, us: 0, times: [0; TIMES] }
    }
}

impl Arm {
    /// Counts one request.
    pub fn add(&mut self, us: u64, failed: bool) {
        self.requests += 1;
        self.errors += u64::from(failed);
        self.us += us;
        self.times[bucket(us)] += 1;
    }

    /// What came since `before`.
    pub fn since(&self, before: &Arm) -> Arm {
        let mut times = self.times;
        times.iter_mut().zip(before.times).for_each(|(now, before)| *now -= before);
        Arm {
            requests: self.requests - before.requests,
            errors: self.errors - before.errors,
            us: self.us - before.us,
            times,
        }
    }

    /// Failed ones of all.
    pub fn failed(&self) -> Count {
        Count { requests: self.requests, bad: self.errors }
    }

    /// Those in the buckets from `slow` on, of all.
    pub fn slow(&self, slow: usize) -> Count {
        Count { requests: self.requests, bad: self.times[slow.min(TIMES)..].iter().sum() }
    }

    /// The first bucket that, with all beyond, holds at most a twentieth of the requests.
    pub fn slowest_twentieth(&self) -> usize {
        let mut beyond = 0;
        let at = self.times.iter().rposition(|n| {
            beyond += n;
            beyond * 20 > self.requests
        });
        at.map_or(0, |at| at + 1)
    }

    /// Mean time in microseconds.
    pub fn mean_us(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.us as f64 / self.requests as f64)
    }

    fn to_json(&self) -> Value {
        json!({"requests": self.requests, "errors": self.errors, "mean_us": self.mean_us().map(f64::round)})
    }
}

fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let doubling = us.ilog2();
    let quarter = if doubling >= 2 { (us >> (doubling - 2)) & 3 } else { (us << (2 - doubling)) & 3 };
    (doubling as usize * 4 + quarter as usize).min(TIMES - 1)
}

impl Paired {
    /// Counts one row.
    pub fn add(&mut self, live: f64, version: f64, is_probability: bool) {
        self.rows += 1;
        self.live.add(live, is_probability);
        self.version.add(version, is_probability);
        let difference = version - live;
        if difference.is_finite() {
            self.difference += difference;
            self.squares += difference * difference;
            self.largest = self.largest.max(difference.abs());
        }
    }
}

impl Figures {
    /// As the page and the command line show it.
    pub fn to_json(&self) -> Value {
        let (p, q) = (&self.paired, &self.quality);
        let mean = |sum: f64, n: u64| if n == 0 { Value::Null } else { (sum / n as f64).into() };
        let apart = distance(&p.live, &p.version);
        json!({
            "live": self.live.to_json(),
            "version": self.version.to_json(),
            "paired": {
                "rows": p.rows, "passed_over": p.passed_over, "mean_difference": mean(p.difference, p.rows),
                "mean_square": mean(p.squares, p.rows), "largest": p.largest, "psi": apart.psi, "ks": apart.ks,
            },
            "matured": {
                "samples": q.pairs, "live_loss": mean(q.live_loss, q.pairs), "version_loss": mean(q.version_loss, q.pairs),
                "live_calibration": ratio(q.live_predicted, q.labels),
                "version_calibration": ratio(q.version_predicted, q.labels),
            },
        })
    }
}

/// Predicted by happened; `None` where nothing happened.
pub fn ratio(predicted: f64, labels: f64) -> Option<f64> {
    (labels > 0.0).then(|| predicted / labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_ascending_buckets() {
        let buckets: Vec<usize> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 1_000, 1_000_000, u64::MAX].map(bucket).to_vec();
        assert_eq!(buckets[..9], [0, 0, 4, 6, 8, 9, 10, 11, 12]);
        assert!(buckets.windows(2).all(|b| b[0] <= b[1]) && buckets[11] == TIMES - 1);
    }

    #[test]
    fn the_slowest_twentieth_is_at_most_that() {
        let mut arm = Arm::default();
        (0..95).for_each(|_| arm.add(100, false));
        (0..5).for_each(|_| arm.add(5_000, false));
        assert_eq!(arm.slow(arm.slowest_twentieth()), Count { requests: 100, bad: 5 });
        arm.add(5_000, true);
        assert_eq!(arm.slow(arm.slowest_twentieth()).bad, 0, "six of 101 are more than a twentieth");
        assert_eq!(arm.since(&arm.clone()), Arm::default());
        assert_eq!(arm.mean_us().map(f64::round), Some(((95.0f64 * 100.0 + 6.0 * 5_000.0) / 101.0).round()));
    }
}
