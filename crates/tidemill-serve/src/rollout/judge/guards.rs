//! How near each guard of a rollout is to rolling the version back.
//!
//! In: the figures of this moment. Out: for each guard of the plan its figure, what is let pass, and how much of what it
//! takes to decide is there. For people to look at; nothing is decided by it.

use serde_json::{Value, json};

use super::Judge;
use crate::rollout::{
    drift::distance,
    figures::{Arm, Figures, ratio},
};

/// One guard at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Guarded {
    /// As the plan names it.
    pub name: &'static str,
    /// The version by the live one (a ratio), predicted by happened, or a distance; `None` while nothing is known.
    pub figure: Option<f64>,
    /// What the figure is held to.
    pub bound: f64,
    /// What was found against the version, by what it takes: from 1 on it is rolled back.
    pub evidence: f64,
}

impl Guarded {
    /// As the page and the command line show it.
    pub fn to_json(&self) -> Value {
        let evidence = self.evidence.min(1.0);
        json!({"guard": self.name, "figure": self.figure, "bound": self.bound, "evidence": evidence})
    }
}

impl Judge {
    /// The guards of the plan, in its order.
    pub fn guarded(&self, figures: &Figures) -> Vec<Guarded> {
        let (guards, limit) = (&self.plan.guards, self.limit());
        let (live, version, q, p) = (&figures.live, &figures.version, &figures.quality, &figures.paired);
        let part = |evidence: f64| (evidence / limit).max(0.0);
        let apart = distance(&p.live, &p.version);
        let is_known = p.rows >= guards.samples_min.max(1);
        let drifted = |figure: f64, bound: Option<f64>| match bound {
            Some(bound) if is_known => figure / bound,
            _ => 0.0,
        };
        let known = |figure: f64| (p.rows > 0).then_some(figure);
        let all = [
            ("logloss", guards.logloss, by(q.version_loss, q.live_loss), part(q.worse.evidence())),
            ("errors", guards.errors, by(share_failed(version), share_failed(live)), part(self.errors.evidence())),
            ("latency", guards.latency, by(mean(version), mean(live)), part(self.slow.evidence())),
            (
                "calibration",
                guards.calibration,
                ratio(q.version_predicted, q.labels),
                part(q.over.evidence().max(q.under.evidence())),
            ),
            ("psi", guards.psi, known(apart.psi), drifted(apart.psi, guards.psi)),
            ("ks", guards.ks, known(apart.ks), drifted(apart.ks, guards.ks)),
        ];
        let guarded = all.into_iter().filter_map(|(name, bound, figure, evidence)| {
            Some(Guarded { name, figure: figure.filter(|f| f.is_finite()), bound: bound?, evidence })
        });
        guarded.collect()
    }
}

/// A ratio where there is one.
fn by(version: f64, live: f64) -> Option<f64> {
    (live > 0.0).then(|| version / live)
}

fn share_failed(arm: &Arm) -> f64 {
    if arm.requests == 0 { 0.0 } else { arm.errors as f64 / arm.requests as f64 }
}

fn mean(arm: &Arm) -> f64 {
    arm.mean_us().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{Decision, Plan};

    fn judge(written: &[(&str, &str)]) -> Judge {
        let written: Vec<_> = written.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Judge::new(Plan::parse(&written).unwrap(), 0, 0)
    }

    /// Only guards of the plan are shown, and one that decides shows at least 1.
    #[test]
    fn evidence_reaches_one_where_the_version_is_rolled_back() {
        let mut judge = judge(&[("errors", "1"), ("each", "1h")]);
        let mut figures = Figures::default();
        let shown = judge.guarded(&figures);
        assert_eq!((shown.len(), shown[0].name, shown[0].figure, shown[0].evidence), (1, "errors", None, 0.0));
        for i in 1..1_000 {
            (0..100).for_each(|n| figures.live.add(100, n == 0));
            (0..10).for_each(|n| figures.version.add(100, n < 5));
            let decision = judge.look(i * 100, &figures);
            let shown = judge.guarded(&figures).remove(0);
            assert_eq!(matches!(decision, Decision::RollBack(_)), shown.evidence >= 1.0, "{shown:?}");
            if shown.evidence >= 1.0 {
                assert_eq!(shown.figure, Some(50.0), "half of the requests against a hundredth");
                assert_eq!(shown.to_json()["evidence"], 1.0);
                return;
            }
        }
        panic!("not found");
    }

    #[test]
    fn drift_counts_from_enough_rows_on() {
        let judge = judge(&[("psi", "0.25"), ("ks", "0.2"), ("samples_min", "10")]);
        let mut figures = Figures::default();
        (0..9).for_each(|_| figures.paired.add(0.1, 0.9, true));
        let before = judge.guarded(&figures);
        assert!(before.iter().all(|g| g.figure.is_some() && g.evidence == 0.0), "{before:?}");
        figures.paired.add(0.1, 0.9, true);
        let after = judge.guarded(&figures);
        assert!(after.iter().all(|g| g.evidence > 1.0), "{after:?}");
        assert_eq!(after[1].figure, Some(1.0), "no prediction of one version is as small as any of the other");
    }
}
