//! What to do with a version on trial: wait, go to the next stage, finish, or roll it back, with the reason.
//!
//! In: the figures of this moment and the time, as often as one likes. Out: a [`Decision`]. The false alarms that the plan
//! allows are shared among its tests, each of which stays valid however often it is looked at; times are compared by Mann
//! and Whitney's test too, once at the end of each stage. Drift is no test: its bounds are far from what chance does.
//! Only matured samples speak about quality. No clock and no thread in here.

mod guards;

use tidemill_base::duration::format_duration_ms;

use super::{
    drift::distance,
    figures::{Arm, Figures, ratio},
    mann_whitney::{Direction, Shift, compare},
    plan::Plan,
    sequential::RateTest,
};
pub use guards::Guarded;

/// What follows from the figures.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing yet; what is waited for.
    Wait(String),
    /// The stage is passed: this share of the traffic, in percent, comes next.
    Advance(f64),
    /// The last stage is passed: the version becomes the live one.
    Finish,
    /// The version is worse, and why.
    RollBack(String),
}

/// Points of time compared by Mann and Whitney's test: the last so many of each version.
const POINTS_MAX: usize = 60;
/// Fewer say nothing.
const POINTS_MIN: usize = 5;

/// Judges one rollout.
#[derive(Clone, Debug)]
pub struct Judge {
    plan: Plan,
    stage: usize,
    began_ms: i64,
    /// Requests the version had answered when the stage began.
    requests_before: u64,
    errors: RateTest,
    slow: RateTest,
    last: Figures,
    live_points: Vec<f64>,
    version_points: Vec<f64>,
}

impl Judge {
    /// Begins at a stage of the plan, now.
    pub fn new(plan: Plan, stage: usize, now_ms: i64) -> Self {
        Self {
            stage: stage.min(plan.stages.len() - 1),
            plan,
            began_ms: now_ms,
            requests_before: 0,
            errors: RateTest::default(),
            slow: RateTest::default(),
            last: Figures::default(),
            live_points: Vec::new(),
            version_points: Vec::new(),
        }
    }

    /// The stage that is going on, from 0.
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// How many stages there are.
    pub fn stages(&self) -> usize {
        self.plan.stages.len()
    }

    /// The share of the traffic that the version has now, in percent.
    pub fn share(&self) -> f64 {
        self.plan.stages[self.stage]
    }

    /// Looks at the figures. Times go forward, sums grow.
    pub fn look(&mut self, now_ms: i64, figures: &Figures) -> Decision {
        self.compare_requests(figures);
        let decision = match self.what_is_worse(figures) {
            Some(why) => Decision::RollBack(why),
            None if now_ms - self.began_ms < self.plan.each_ms => Decision::Wait(format!(
                "stage {} of {}: {} more",
                self.stage + 1,
                self.plan.stages.len(),
                format_duration_ms(self.plan.each_ms - (now_ms - self.began_ms))
            )),
            None => self.at_the_end_of_a_stage(figures),
        };
        if matches!(decision, Decision::Advance(_)) {
            self.stage += 1;
            self.began_ms = now_ms;
            self.requests_before = figures.version.requests;
        }
        self.last = figures.clone();
        decision
    }

    /// Puts what came since the last look before the tests of rates, and keeps the mean times.
    fn compare_requests(&mut self, figures: &Figures) {
        let (live, version) = (figures.live.since(&self.last.live), figures.version.since(&self.last.version));
        keep_point(&mut self.live_points, &live);
        keep_point(&mut self.version_points, &version);
        // What slow means was known before these requests came.
        let slow = self.last.live.slowest_twentieth();
        let knows_slow = self.last.live.requests >= 100;
        if live.requests > 0 {
            let tolerated = self.plan.guards.errors.unwrap_or(1.0);
            self.errors.add(live.failed(), version.failed(), tolerated);
            if knows_slow {
                self.slow.add(live.slow(slow), version.slow(slow), self.plan.guards.latency.unwrap_or(1.0));
            }
        } else if self.last.live.requests > 0 {
            // Nobody asks the live version any more: its past is what there is.
            let before = &self.last.live;
            self.errors.add_beside(before.failed(), version.failed(), self.plan.guards.errors.unwrap_or(1.0));
            if knows_slow {
                self.slow.add_beside(before.slow(slow), version.slow(slow), self.plan.guards.latency.unwrap_or(1.0));
            }
        }
    }

    /// The logarithm of the wealth at which a test has decided.
    fn limit(&self) -> f64 {
        (self.plan.guards.tests().max(1) as f64 / self.plan.guards.false_alarms).ln()
    }

    fn what_is_worse(&self, figures: &Figures) -> Option<String> {
        let (guards, limit) = (&self.plan.guards, self.limit());
        let (live, version, q) = (&figures.live, &figures.version, &figures.quality);
        if let Some(tolerated) = guards.errors.filter(|_| self.errors.evidence() >= limit) {
            return Some(format!(
                "errors: {} of {} requests failed, {} of {} of the live version (guard: {tolerated} times its share)",
                version.errors, version.requests, live.errors, live.requests
            ));
        }
        if let Some(tolerated) = guards.latency.filter(|_| self.slow.evidence() >= limit) {
            return Some(format!(
                "latency: slow requests are more than {tolerated} times as frequent as with the live version; mean {} \
                 against {}",
                micros(version),
                micros(live)
            ));
        }
        if let Some(tolerated) = guards.logloss.filter(|_| q.worse.evidence() >= limit) {
            let (before, now) = (q.live_loss / q.pairs as f64, q.version_loss / q.pairs as f64);
            return Some(format!(
                "logloss: {now:.5} against {before:.5} of the live version on the same {} matured samples ({:+.2}%, guard: \
                 {tolerated} times)",
                q.pairs,
                (now / before - 1.0) * 100.0
            ));
        }
        if let Some(bound) = guards.calibration {
            let within = |r: f64| r <= bound && r >= 1.0 / bound;
            // Where the live version predicts no better, that is not this version's fault.
            let live_is_within = ratio(q.live_predicted, q.labels).is_none_or(within);
            let (over, under) = (q.over.evidence() >= limit, q.under.evidence() >= limit);
            if live_is_within && (over || under) {
                let now = ratio(q.version_predicted, q.labels).map_or("nothing".into(), |r| format!("{r:.3}"));
                return Some(format!(
                    "calibration: predicted by happened is {now} on {} matured samples (guard: {:.3} to {bound})",
                    q.pairs,
                    1.0 / bound
                ));
            }
        }
        let p = &figures.paired;
        if p.rows >= guards.samples_min.max(1) {
            let apart = distance(&p.live, &p.version);
            for (name, figure, bound) in [("psi", apart.psi, guards.psi), ("ks", apart.ks, guards.ks)] {
                if let Some(bound) = bound.filter(|bound| figure > *bound) {
                    let rows = p.rows;
                    return Some(format!(
                        "{name}: {figure:.3} between the predictions for {rows} rows (guard: {bound})"
                    ));
                }
            }
        }
        None
    }

    fn at_the_end_of_a_stage(&self, figures: &Figures) -> Decision {
        if let Some(missing) = self.missing(figures) {
            return Decision::Wait(missing);
        }
        if let Some(why) = self.slower() {
            return Decision::RollBack(why);
        }
        match self.plan.stages.get(self.stage + 1) {
            Some(next) => Decision::Advance(*next),
            None => Decision::Finish,
        }
    }

    /// Evidence without which a stage is not passed.
    fn missing(&self, figures: &Figures) -> Option<String> {
        let guards = &self.plan.guards;
        let answered = figures.version.requests - self.requests_before;
        if (guards.errors.is_some() || guards.latency.is_some()) && answered < guards.requests_min {
            return Some(format!("{answered} of {} requests in this stage", guards.requests_min));
        }
        let pairs = figures.quality.pairs;
        if (guards.logloss.is_some() || guards.calibration.is_some()) && pairs < guards.samples_min {
            return Some(format!("{pairs} of {} matured samples", guards.samples_min));
        }
        // Where nobody asks the live version, there is nothing to score twice; what was scored before holds.
        let rows = figures.paired.rows;
        if (guards.psi.is_some() || guards.ks.is_some()) && rows < guards.samples_min {
            return Some(format!("{rows} of {} rows scored by both versions", guards.samples_min));
        }
        None
    }

    /// Mean times by Mann and Whitney's test: upwards only, and its share of false alarms is spread over the stages.
    fn slower(&self) -> Option<String> {
        let guards = &self.plan.guards;
        let tolerated = guards.latency?;
        if self.live_points.len() < POINTS_MIN || self.version_points.len() < POINTS_MIN {
            return None;
        }
        let share = guards.false_alarms / guards.tests() as f64 / self.plan.stages.len() as f64;
        let found = compare(&self.live_points, &self.version_points, Direction::Increase, 1.0 - 2.0 * share);
        (found.shift == Shift::High && found.ratio > tolerated).then(|| {
            format!(
                "latency: mean times are {:.2} times those of the live version (guard: {tolerated}; Mann-Whitney, shift {:.0} \
                 to {:.0} us)",
                found.ratio, found.interval.0, found.interval.1
            )
        })
    }
}

fn keep_point(points: &mut Vec<f64>, step: &Arm) {
    let Some(mean) = step.mean_us() else { return };
    if points.len() == POINTS_MAX {
        points.remove(0);
    }
    points.push(mean);
}

fn micros(arm: &Arm) -> String {
    arm.mean_us().map_or("nothing".into(), |us| format!("{us:.0} us"))
}
