//! Decisions about versions, without threads: false alarms where nothing is wrong, and how soon what is wrong is found.

use std::collections::BTreeMap;

use serde_json::Value;
use tidemill_base::Rng;
use tidemill_serve::rollout::{
    Decision, Figures, Judge, Plan,
    mann_whitney::{Direction, compare},
    sequential::MeanTest,
};

/// A world in which two versions answer and predict. The live one has 1 everywhere.
#[derive(Clone, Copy)]
struct World {
    requests_per_s: u64,
    pairs_per_s: u64,
    look_ms: i64,
    error_rate: f64,
    errors_times: f64,
    slower_times: f64,
    /// Deviation of the error of the version's logits; that of the live one is 0.3.
    noise: f64,
    /// Added to the version's logits.
    bias: f64,
}

const ALIKE: World = World {
    requests_per_s: 200,
    pairs_per_s: 250,
    look_ms: 1_000,
    error_rate: 0.005,
    errors_times: 1.0,
    slower_times: 1.0,
    noise: 0.3,
    bias: 0.0,
};

fn plan(written: &[(&str, &str)]) -> Plan {
    Plan::parse(&written.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>()).unwrap()
}

struct Run {
    world: World,
    rng: Rng,
    figures: Figures,
    judge: Judge,
    now_ms: i64,
}

impl Run {
    fn new(world: World, plan: &Plan, seed: u64) -> Self {
        let judge = Judge::new(plan.clone(), 0, 0);
        Self { world, rng: Rng::seeded(seed), figures: Figures::default(), judge, now_ms: 0 }
    }

    /// What comes until the next look. Errors come and go for both versions alike.
    fn step(&mut self) -> Decision {
        let World { requests_per_s, pairs_per_s, look_ms, error_rate, errors_times, slower_times, noise, bias } =
            self.world;
        self.now_ms += look_ms;
        let per_look = |per_s: u64| per_s * look_ms as u64 / 1_000;
        let rate = error_rate * (0.5 * self.rng.normal()).exp();
        let share = self.judge.share() / 100.0;
        for _ in 0..per_look(requests_per_s) {
            let is_version = self.rng.next_f64() < share;
            let (arm, errors, slower) = match is_version {
                true => (&mut self.figures.version, errors_times, slower_times),
                false => (&mut self.figures.live, 1.0, 1.0),
            };
            let us = 100.0 * slower * (0.5 * self.rng.normal()).exp();
            arm.add(us as u64, self.rng.next_f64() < rate * errors);
        }
        for _ in 0..per_look(pairs_per_s) {
            let truth = self.rng.normal() - 2.0;
            let label = if self.rng.next_f64() < probability(truth) { 1.0 } else { 0.0 };
            let live = truth + 0.3 * self.rng.normal();
            let version = truth + bias + noise * self.rng.normal();
            let (of_live, of_version) = (loss(live, label), loss(version, label));
            let q = &mut self.figures.quality;
            q.pairs += 1;
            q.live_loss += of_live;
            q.version_loss += of_version;
            q.worse.add(of_version - 1.005 * of_live);
            q.labels += label;
            q.live_predicted += probability(live);
            q.version_predicted += probability(version);
            q.over.add(probability(version) - 1.25 * label);
            q.under.add(label / 1.25 - probability(version));
            self.figures.paired.add(probability(live), probability(version), true);
        }
        self.judge.look(self.now_ms, &self.figures)
    }

    /// To the end of the rollout: how it ended, and when.
    fn finish(&mut self) -> (Decision, i64) {
        for _ in 0..10_000 {
            match self.step() {
                Decision::Wait(_) | Decision::Advance(_) => {}
                end => return (end, self.now_ms),
            }
        }
        panic!("no end after {} ms: {:?}", self.now_ms, self.judge);
    }
}

fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn loss(logit: f64, label: f64) -> f64 {
    (if label > 0.0 { -logit } else { logit }).exp().ln_1p()
}

/// All guards, looked at every second through four stages of five seconds: versions that are alike are rolled back in at most
/// one rollout of twenty.
fn false_alarms(rollouts: u64) -> f64 {
    let plan = plan(&[]);
    let mut alarms: Vec<(u64, Decision)> = Vec::new();
    for seed in 0..rollouts {
        let end = Run::new(ALIKE, &plan, seed).finish().0;
        if end != Decision::Finish {
            alarms.push((seed, end));
        }
    }
    println!("{} false alarms in {rollouts} rollouts: {:?}", alarms.len(), &alarms[..alarms.len().min(5)]);
    alarms.len() as f64 / rollouts as f64
}

#[test]
fn versions_that_are_alike_are_seldom_rolled_back() {
    let share = false_alarms(400);
    assert!(share <= 0.05, "{share}");
}

/// `cargo test --workspace --test rollout -- --ignored --nocapture`
#[test]
#[ignore = "10,000 rollouts; the short form is above"]
fn ten_thousand_rollouts_of_versions_that_are_alike() {
    let share = false_alarms(10_000);
    assert!(share <= 0.05, "{share}");
}

/// The loss by itself, without anything tolerated: the test of paired losses is looked at after each sample.
#[test]
fn equal_losses_are_seldom_told_apart() {
    let mut rng = Rng::seeded(29);
    let found = (0..1_000).filter(|_| {
        let mut test = MeanTest::default();
        for _ in 0..5_000 {
            let truth = rng.normal() - 2.0;
            let label = if rng.next_f64() < probability(truth) { 1.0 } else { 0.0 };
            let (a, b) = (truth + 0.3 * rng.normal(), truth + 0.3 * rng.normal());
            test.add(loss(b, label) - loss(a, label));
        }
        test.evidence() >= 20f64.ln()
    });
    let found = found.count();
    assert!(found <= 50, "{found} of 1,000");
}

/// 3,000 requests a second, a tenth of them on the canary, five of a thousand fail on the live version and fifty on the canary.
#[test]
fn ten_times_the_errors_are_found_within_two_seconds() {
    let world = World { requests_per_s: 3_000, pairs_per_s: 0, look_ms: 100, errors_times: 10.0, ..ALIKE };
    let plan = plan(&[("stages", "10%, 100%"), ("errors", "1"), ("latency", "1.25"), ("each", "1m")]);
    let times: Vec<i64> = (0..200)
        .map(|seed| {
            let (end, at_ms) = Run::new(world, &plan, seed).finish();
            assert!(matches!(&end, Decision::RollBack(why) if why.starts_with("errors: ")), "{end:?}");
            at_ms
        })
        .collect();
    println!(
        "found after {} ms on average, {} ms at most",
        times.iter().sum::<i64>() / 200,
        times.iter().max().unwrap()
    );
    assert!(times.iter().all(|at_ms| *at_ms <= 2_000), "{times:?}");
}

/// Log loss 3% above the live version's (asserted), with what the guard tolerates by default.
#[test]
fn three_percent_more_loss_are_found_within_20_000_samples() {
    let world = World { requests_per_s: 100, pairs_per_s: 1_000, look_ms: 100, noise: 0.52, ..ALIKE };
    let plan = plan(&[("logloss", "1.005"), ("each", "1h")]);
    let (mut live_loss, mut version_loss) = (0.0, 0.0);
    let pairs: Vec<u64> = (0..100)
        .map(|seed| {
            let mut run = Run::new(world, &plan, seed);
            let (end, _) = run.finish();
            assert!(matches!(&end, Decision::RollBack(why) if why.starts_with("logloss: ")), "{end:?}");
            run.figures.quality.pairs
        })
        .collect();
    // Apart from what was stopped when it looked bad.
    let mut fair = Run::new(world, &plan, 7_777);
    (0..5_000).for_each(|_| _ = fair.step());
    live_loss += fair.figures.quality.live_loss;
    version_loss += fair.figures.quality.version_loss;
    let more = version_loss / live_loss - 1.0;
    println!(
        "{:+.2}% found after {} samples on average, {} at most",
        more * 100.0,
        pairs.iter().sum::<u64>() / 100,
        pairs.iter().max().unwrap()
    );
    assert!((0.025..=0.03).contains(&more), "{more}");
    assert!(pairs.iter().all(|pairs| *pairs <= 20_000), "{pairs:?}");
}

#[test]
fn each_kind_of_worse_has_its_reason() {
    for (world, written, reason) in [
        (World { slower_times: 2.0, ..ALIKE }, ("latency", "1.25"), "latency: "),
        (
            World { bias: 0.6, pairs_per_s: 2_000, ..ALIKE },
            ("calibration", "1.25"),
            "calibration: predicted by happened is 1.",
        ),
        (
            World { bias: -0.6, pairs_per_s: 2_000, ..ALIKE },
            ("calibration", "1.25"),
            "calibration: predicted by happened is 0.",
        ),
        (World { bias: 1.0, ..ALIKE }, ("psi", "0.25"), "psi: "),
        (World { bias: 1.0, ..ALIKE }, ("ks", "0.2"), "ks: "),
    ] {
        let plan = plan(&[("stages", "10%, 50%, 100%"), ("each", "10s"), written]);
        for seed in 0..10 {
            let end = Run::new(world, &plan, seed).finish().0;
            assert!(matches!(&end, Decision::RollBack(why) if why.starts_with(reason)), "{reason} {end:?}");
        }
    }
}

/// A stage without evidence is not passed, however long it lasts, and says what it waits for.
#[test]
fn a_stage_waits_for_its_evidence() {
    let quiet = World { requests_per_s: 0, pairs_per_s: 0, ..ALIKE };
    let mut run = Run::new(quiet, &plan(&[("each", "2s")]), 1);
    assert_eq!(run.step(), Decision::Wait("stage 1 of 4: 1s more".into()));
    (0..100).for_each(|_| assert_eq!(run.step(), Decision::Wait("0 of 20 requests in this stage".into())));
    run.figures.version.requests += 20;
    assert_eq!(run.step(), Decision::Wait("0 of 1000 matured samples".into()));
    run.figures.quality.pairs += 1_000;
    assert_eq!(run.step(), Decision::Wait("0 of 1000 rows scored by both versions".into()));
    (0..1_000).for_each(|_| run.figures.paired.add(0.1, 0.1, true));
    assert_eq!(run.step(), Decision::Advance(10.0));
    assert_eq!(run.judge.share(), 10.0);
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
        let list = |name: &str| case[name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
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
            // Their numbers have six digits.
            let expected = expected.as_f64().unwrap();
            assert!((got - expected).abs() < 1.1e-6, "case {} {what}: {got} {expected}", case["id"]);
        };
        near(got.interval.0, &detail["ci"][0], "lower");
        near(got.interval.1, &detail["ci"][1], "upper");
        near(got.estimate, &detail["estimate"], "estimate");
        near(got.ratio, &detail["ratio"], "ratio");
    }
    assert_eq!(verdicts.len(), 3, "{verdicts:?}");
}
