//! Whether what was learned may become a version: a gate between publishing and the registry.
//!
//! In: figures about the samples since the last version and before. Out: publish, or hold with the reason. A held version
//! costs nothing else: learning goes on, and the next one is judged anew. Pure.

use tidemill_base::thousands;

use crate::rollout::figures::Quality;

/// Fewer samples say nothing: small and young streams publish what they have.
const SAMPLES_MIN: u64 = 1_000;
/// A loss that is worse by chance is not held against anybody: the difference must be so many standard errors above zero.
const DEVIATIONS: f64 = 4.0;

/// What is let pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// The share of positives may grow or fall by this factor.
    pub label_rate: f64,
    /// Predicted by happened stays within this and its inverse.
    pub calibration: f64,
    /// Loss on recent matured samples, at most so many times the live version's.
    pub logloss: f64,
}

/// What a gate looks at. Binary models only: what is a rate is one of positives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent<'a> {
    /// Samples since the last version.
    pub samples: u64,
    /// Those that were positive.
    pub positives: u64,
    /// Sum of what was predicted for them.
    pub predicted: f64,
    /// Samples before the last version, and those among them that were positive.
    pub before: (u64, u64),
    /// All recent samples had this label, so many of them.
    pub one_class: Option<(f32, u64)>,
    /// The newest weights beside a live version that is another: matured samples since the last version.
    pub beside_live: Option<&'a Quality>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Publication {
    /// Nothing speaks against it.
    Publish,
    /// It is held, and why.
    Hold(String),
}

impl Gate {
    /// Judges.
    pub fn judge(&self, recent: &Recent<'_>) -> Publication {
        match self.why_not(recent) {
            Some(why) => Publication::Hold(why),
            None => Publication::Publish,
        }
    }

    fn why_not(&self, recent: &Recent<'_>) -> Option<String> {
        if let Some((label, samples)) = recent.one_class {
            return Some(format!("only label {label} in the last {} samples", thousands(samples)));
        }
        self.label_rate(recent).or_else(|| self.calibration(recent)).or_else(|| self.loss(recent.beside_live?))
    }

    fn label_rate(&self, recent: &Recent<'_>) -> Option<String> {
        let (before, positives_before) = recent.before;
        if recent.samples < SAMPLES_MIN || before < SAMPLES_MIN {
            return None;
        }
        // One more of each, so that a rate of none has a multiple.
        let rate = |positives: u64, samples: u64| (positives as f64 + 1.0) / (samples as f64 + 1.0);
        let (now, usual) = (rate(recent.positives, recent.samples), rate(positives_before, before));
        let times = self.label_rate;
        (now > usual * times || now * times < usual).then(|| {
            let plain = |positives: u64, samples: u64| positives as f64 / samples as f64;
            let (now, usual) = (plain(recent.positives, recent.samples), plain(positives_before, before));
            format!("label rate {} vs baseline {} (gate {times}x)", short(now), short(usual))
        })
    }

    fn calibration(&self, recent: &Recent<'_>) -> Option<String> {
        // So few positives that chance could bring the ratio anywhere are passed over.
        if recent.samples < SAMPLES_MIN || recent.positives < 100 {
            return None;
        }
        let ratio = recent.predicted / recent.positives as f64;
        let within = ratio <= self.calibration && ratio >= 1.0 / self.calibration;
        (!within).then(|| {
            format!(
                "calibration: predicted by happened is {ratio:.3} on {} samples (gate {:.3} to {})",
                thousands(recent.samples),
                1.0 / self.calibration,
                self.calibration
            )
        })
    }

    fn loss(&self, q: &Quality) -> Option<String> {
        let n = q.pairs as f64;
        if q.pairs < SAMPLES_MIN || q.live_loss <= 0.0 {
            return None;
        }
        let (live, newest) = (q.live_loss / n, q.version_loss / n);
        let worse = newest > live * self.logloss && q.worse.deviations() > DEVIATIONS;
        (worse || !newest.is_finite()).then(|| {
            format!(
                "log loss {newest:.4}, that of the live version is {live:.4} on the same {} matured samples (gate {}x)",
                thousands(q.pairs),
                self.logloss
            )
        })
    }
}

fn short(rate: f64) -> String {
    // Two digits that say something, however small it is.
    let digits = if rate > 0.0 { (1.0 - rate.log10().floor()).clamp(2.0, 9.0) as usize } else { 2 };
    format!("{rate:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE: Gate = Gate { label_rate: 5.0, calibration: 2.0, logloss: 1.02 };

    fn held(recent: Recent<'_>) -> String {
        match GATE.judge(&recent) {
            Publication::Hold(why) => why,
            Publication::Publish => "published".into(),
        }
    }

    /// A stream in order: 12 of 1,000 positive, and predicted so.
    fn usual() -> Recent<'static> {
        Recent { samples: 50_000, positives: 600, predicted: 610.0, before: (1_000_000, 12_000), ..Recent::default() }
    }

    #[test]
    fn what_is_as_usual_is_published() {
        assert_eq!(GATE.judge(&usual()), Publication::Publish);
        assert_eq!(GATE.judge(&Recent::default()), Publication::Publish);
        let few = Recent { samples: 500, positives: 500, predicted: 1.0, ..usual() };
        assert_eq!(GATE.judge(&few), Publication::Publish, "too few to say anything");
    }

    #[test]
    fn a_flood_of_positives_is_held() {
        let flood = Recent { positives: 30_000, predicted: 25_000.0, ..usual() };
        assert_eq!(held(flood), "label rate 0.60 vs baseline 0.012 (gate 5x)");
        let drought = Recent { positives: 50, predicted: 60.0, ..usual() };
        assert_eq!(held(drought), "label rate 0.0010 vs baseline 0.012 (gate 5x)");
    }

    #[test]
    fn one_label_only_is_held() {
        let one = Recent { one_class: Some((0.0, 100_000)), ..usual() };
        assert_eq!(held(one), "only label 0 in the last 100,000 samples");
    }

    #[test]
    fn predictions_off_their_labels_are_held() {
        let over = Recent { predicted: 1_500.0, ..usual() };
        assert_eq!(held(over), "calibration: predicted by happened is 2.500 on 50,000 samples (gate 0.500 to 2)");
        assert!(
            held(Recent { predicted: 200.0, ..usual() }).starts_with("calibration: predicted by happened is 0.333")
        );
        assert!(
            held(Recent { predicted: f64::NAN, ..usual() }).starts_with("calibration: predicted by happened is NaN")
        );
    }

    /// Worse than the live version on the same samples, and not by chance.
    #[test]
    fn worse_than_the_live_version_is_held() {
        let pairs = |excess: f64, noise: f64| {
            let mut rng = tidemill_base::Rng::seeded(9);
            let mut q = Quality::default();
            for _ in 0..20_000 {
                let live = 0.3 + 0.1 * rng.normal();
                let newest = live + excess + noise * rng.normal();
                q.pairs += 1;
                q.live_loss += live;
                q.version_loss += newest;
                q.worse.add(newest - live);
            }
            q
        };
        let (worse, chance, better) = (pairs(0.03, 0.2), pairs(0.008, 1.0), pairs(-0.03, 0.2));
        assert!(held(Recent { beside_live: Some(&worse), ..usual() }).starts_with("log loss 0.33"), "{worse:?}");
        assert_eq!(held(Recent { beside_live: Some(&chance), ..usual() }), "published");
        assert_eq!(held(Recent { beside_live: Some(&better), ..usual() }), "published");
    }
}
