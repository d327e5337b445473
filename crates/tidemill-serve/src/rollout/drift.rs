//! How differently two versions predict for the same requests: counts by size of the prediction, and what they add up to.
//!
//! In: predictions, one by one. Out: the population stability index over tenths of the live predictions, and Kolmogorov and
//! Smirnov's largest distance. 128 counters a version, whatever comes.

/// Bins on the scale of logits, from -8 to 8 for probabilities; other numbers share the bins by their logarithm.
pub const BINS: usize = 128;
const LOGIT_MAX: f64 = 8.0;
/// A tenth without any prediction counts as if so many had come.
const FLOOR: f64 = 0.5;

/// Predictions by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bins(pub [u64; BINS]);

impl Default for Bins {
    fn default() -> Self {
        Self([0; BINS])
    }
}

impl Bins {
    /// Counts one prediction. `is_probability`: between 0 and 1.
    pub fn add(&mut self, x: f64, is_probability: bool) {
        let at = match is_probability {
            true => (x / (1.0 - x)).ln() / LOGIT_MAX,
            // ln(1 + |x|) up to e^32.
            false => (1.0 + x.abs()).ln().copysign(x) / 32.0,
        };
        // NaN stands with the least: a version that predicts it differs from one that does not.
        let bin = ((at + 1.0) * (BINS / 2) as f64) as usize;
        self.0[bin.min(BINS - 1)] += 1;
    }

    /// Predictions counted.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// How far `version` is from `live`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Population stability index: below 0.1 nothing, above 0.25 much has moved.
    pub psi: f64,
    /// Kolmogorov and Smirnov: the largest difference of the shares below some size.
    pub ks: f64,
}

/// Compares; zeros while one of them is empty.
pub fn distance(live: &Bins, version: &Bins) -> Distance {
    let (of_live, of_version) = (live.total() as f64, version.total() as f64);
    if of_live == 0.0 || of_version == 0.0 {
        return Distance { psi: 0.0, ks: 0.0 };
    }
    let (mut psi, mut ks) = (0.0, 0.0f64);
    let (mut below, mut tenth) = ((0.0, 0.0), (0.0, 0.0));
    for (i, (l, v)) in live.0.iter().zip(&version.0).enumerate() {
        below = (below.0 + *l as f64, below.1 + *v as f64);
        tenth = (tenth.0 + *l as f64, tenth.1 + *v as f64);
        ks = ks.max((below.0 / of_live - below.1 / of_version).abs());
        if tenth.0 * 10.0 >= of_live || i == BINS - 1 {
            let (l, v) = (tenth.0.max(FLOOR) / of_live, tenth.1.max(FLOOR) / of_version);
            psi += (v - l) * (v / l).ln();
            tenth = (0.0, 0.0);
        }
    }
    Distance { psi, ks }
}

#[cfg(test)]
mod tests {
    use tidemill_base::Rng;

    use super::*;

    fn drawn(seed: u64, shift: f64) -> Bins {
        let (mut rng, mut bins) = (Rng::seeded(seed), Bins::default());
        for _ in 0..20_000 {
            bins.add(1.0 / (1.0 + (-(rng.normal() + shift)).exp()), true);
        }
        bins
    }

    #[test]
    fn the_same_is_near_and_a_shift_is_far() {
        let near = distance(&drawn(1, -2.0), &drawn(2, -2.0));
        assert!(near.psi < 0.01 && near.ks < 0.02, "{near:?}");
        // Normal distributions one deviation apart: KS is 2 * Phi(0.5) - 1 = 0.383, PSI near the 1 it has unbinned.
        let far = distance(&drawn(1, -2.0), &drawn(2, -1.0));
        assert!((far.ks - 0.383).abs() < 0.02 && (0.7..1.1).contains(&far.psi), "{far:?}");
        assert_eq!(distance(&Bins::default(), &drawn(1, 0.0)), Distance { psi: 0.0, ks: 0.0 });
    }

    #[test]
    fn whatever_is_predicted_has_a_bin() {
        let mut bins = Bins::default();
        let odd = [0.0, 1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -3.0, 1e30];
        odd.into_iter().for_each(|x| bins.add(x, true));
        odd.into_iter().for_each(|x| bins.add(x, false));
        assert_eq!(bins.total(), 14);
        let mut numbers = Bins::default();
        [-5.0, 0.0, 5.0].into_iter().for_each(|x| numbers.add(x, false));
        assert_eq!(numbers.0.iter().filter(|n| **n == 1).count(), 3);
    }
}
