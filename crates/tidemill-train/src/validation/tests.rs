//! Progressive validation at its border: predictions and labels in, a summary out.

use super::*;
use tidemill_base::Rng;

const NO_ORACLE: f64 = f64::NAN;

fn binary(window: u64) -> Validation {
    Validation::new(Task::Binary, window, 100)
}

/// Feeds samples after those that were fed before.
fn feed(v: &mut Validation, samples: impl IntoIterator<Item = (f32, f32)>) {
    let first = v.samples() + v.tallies.unscored;
    for (seq, (score, label)) in (first..).zip(samples) {
        v.predicted(seq, &[score], NO_ORACLE, 0);
        v.labelled(seq, label);
    }
}

fn scored(samples: impl IntoIterator<Item = (f32, f32)>, window: u64) -> Summary {
    let mut v = binary(window);
    feed(&mut v, samples);
    v.summary()
}

fn encoded(v: &Validation) -> Vec<u8> {
    let mut out = Encoder::new();
    v.encode(&mut out);
    out.finish()
}

fn random(rng: &mut Rng, count: usize, steps: u64) -> Vec<(f32, f32)> {
    (0..count).map(|_| (rng.below(steps) as f32 * 0.25 - 2.0, (rng.below(3) == 0) as u8 as f32)).collect()
}

#[test]
fn log_loss_entropy_and_calibration_are_the_textbooks() {
    let logit = |p: f64| (p / (1.0 - p)).ln() as f32;
    let s = scored([(logit(0.8), 1.0), (logit(0.25), 0.0), (logit(0.25), 1.0), (logit(0.83), 1.0)], 100).overall;
    // -(ln 0.8 + ln 0.75 + ln 0.25 + ln 0.83) / 4 = (0.223144 + 0.287682 + 1.386294 + 0.186330) / 4
    assert!((s.logloss - 0.520862).abs() < 1e-6);
    // base rate 3/4: entropy 0.562335
    assert!((s.normalized_entropy - 0.520862 / 0.562335).abs() < 1e-5);
    assert_eq!((s.samples, s.positives, s.mean_label, s.best_logloss), (4, 3, 0.75, None));
    let decile = &s.calibration[8];
    assert_eq!((decile.count, decile.mean_label), (2, 1.0));
    assert!((decile.mean_prediction - 0.815).abs() < 1e-6);
    assert_eq!((s.calibration[2].count, s.calibration[2].mean_label), (2, 0.5));
    assert!(s.calibration[0].mean_prediction.is_nan());
    assert_eq!((s.regression, s.classes), (None, None));
}

#[test]
fn auc_counts_ordered_pairs_and_half_the_ties() {
    // pairs: (1,0) ordered, (1,1) tie, (-2,0) wrong, (-2,1) wrong -> (1 + 0.5) / 4
    let s = scored([(1.0, 1.0), (-2.0, 1.0), (0.0, 0.0), (1.0, 0.0)], 100);
    assert_eq!((s.overall.auc, s.recent.auc, s.since_version.auc), (0.375, 0.375, 0.375));
    assert_eq!(scored([(50.0, 1.0), (-50.0, 0.0)], 100).overall.auc, 1.0);
    assert!(scored([(1.0, 1.0)], 100).overall.auc.is_nan());
    // Scores beyond the histogram, or closer than its steps: a tie there, and not in the window.
    let s = scored([(50.001, 1.0), (50.0, 0.0), (0.0011, 1.0), (0.001, 0.0)], 100);
    assert_eq!((s.overall.auc, s.recent.auc), (0.5, 0.75));
}

#[test]
fn a_sure_and_wrong_prediction_costs_the_clip_and_not_infinity() {
    assert!((scored([(80.0, 0.0)], 100).overall.logloss - 1e7f64.ln()).abs() < 1e-9);
    assert!((scored([(f32::NEG_INFINITY, 1.0)], 100).overall.logloss - 1e7f64.ln()).abs() < 1e-9);
    assert!((scored([(f32::INFINITY, 1.0)], 100).overall.logloss - 1e-7).abs() < 1e-12);
}

#[test]
fn the_best_loss_is_the_oracles_on_the_labels_that_came() {
    let mut v = binary(100);
    for (seq, (oracle, label)) in [(0.9, 1.0), (0.2, 0.0), (NO_ORACLE, 1.0)].into_iter().enumerate() {
        v.predicted(seq as u64, &[0.0], oracle, 0);
        v.labelled(seq as u64, label);
    }
    let s = v.summary();
    let best = s.overall.best_logloss.unwrap();
    assert!((best - (-(0.9f64.ln()) - 0.8f64.ln()) / 2.0).abs() < 1e-7, "{best}");
    assert_eq!(s.recent.best_logloss, Some(best));
}

/// The recent figures are those of somebody who saw these samples alone, to the last bit; whichever were before.
#[test]
fn the_recent_window_is_exactly_the_last_samples() {
    let mut rng = Rng::seeded(3);
    for (count, window) in [(0, 50), (1, 50), (49, 50), (50, 50), (51, 50), (149, 50), (150, 50), (777, 50), (9, 1)] {
        let samples = random(&mut rng, count, 20);
        let recent = scored(samples.clone(), window).recent;
        let last = &samples[count.saturating_sub(window as usize)..];
        let alone = scored(last.iter().copied(), 1_000).recent;
        assert_eq!(recent.samples, last.len() as u64);
        assert_eq!(format!("{recent:?}"), format!("{alone:?}"), "{count} samples, window {window}");
        let (mut ordered, mut pairs) = (0.0, 0.0);
        for (high, _) in last.iter().filter(|(_, label)| *label == 1.0) {
            for (low, _) in last.iter().filter(|(_, label)| *label == 0.0) {
                pairs += 1.0;
                ordered += if high > low { 1.0 } else { 0.5 * (high == low) as u8 as f64 };
            }
        }
        assert!((pairs == 0.0 && recent.auc.is_nan()) || (recent.auc - ordered / pairs).abs() < 1e-12);
    }
}

#[test]
fn a_window_without_end_is_cut_to_its_bound() {
    let mut v = binary(u64::MAX);
    feed(&mut v, (0..WINDOW_MAX + 10).map(|i| (0.5, (i % 2) as f32)));
    assert_eq!((v.summary().recent.samples, v.samples()), (WINDOW_MAX, WINDOW_MAX + 10));
    let bytes = v.bytes();
    assert!((32 << 20..34 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn labels_meet_the_first_prediction_in_any_order_and_what_has_none_is_counted() {
    let mut v = binary(100);
    v.predicted(2, &[1.0], NO_ORACLE, 0);
    v.predicted(0, &[-1.0], NO_ORACLE, 0);
    v.predicted(2, &[9.0], NO_ORACLE, 0);
    v.labelled(1, 1.0);
    v.labelled(2, 1.0);
    v.labelled(2, 1.0);
    v.labelled(0, 0.0);
    v.predicted(0, &[5.0], NO_ORACLE, 0);
    v.labelled(0, 1.0);
    v.predicted(3, &[f32::NAN], NO_ORACLE, 0);
    v.labelled(3, 1.0);
    let s = v.summary();
    // -ln sigmoid(1) for both
    assert!((s.overall.logloss - 0.313262).abs() < 1e-6);
    assert_eq!((s.overall.samples, s.unscored, v.pending()), (2, 4, 0));
    // Labels the task does not have: of a number, of a class beyond the last, of half a class.
    for (seq, label) in [(4, 0.5), (5, f32::NAN), (6, -1.0)] {
        v.predicted(seq, &[1.0], NO_ORACLE, 0);
        v.labelled(seq, label);
    }
    assert_eq!((v.samples(), v.summary().unscored, v.pending()), (2, 7, 0));
    let mut v = Validation::new(Task::Classes(3), 100, 100);
    for (seq, label) in [(0, 3.0), (1, 1.5), (2, -1.0), (3, 2.0)] {
        v.predicted(seq, &[0.0; 3], NO_ORACLE, 0);
        v.labelled(seq, label);
    }
    assert_eq!((v.samples(), v.summary().unscored), (1, 3));
}

/// An impression whose label never comes must not hold all later ones in memory.
#[test]
fn the_ring_gives_up_its_oldest_beyond_its_bound() {
    let mut v = Validation::new(Task::Binary, 100, 10);
    let bound = 2 * 10 + 65_536;
    v.predicted(0, &[0.0], NO_ORACLE, 0);
    for seq in 1..=bound {
        v.predicted(seq, &[0.0], NO_ORACLE, 0);
        v.labelled(seq, 1.0);
    }
    assert_eq!((v.summary().unscored, v.pending()), (1, 0));
    v.predicted(bound + 5_000_000_000, &[0.0], NO_ORACLE, 0);
    v.labelled(bound + 5_000_000_000, 1.0);
    v.labelled(bound + 1, 1.0);
    // The last one waits behind numbers that were never predicted.
    assert_eq!((v.summary().unscored, v.samples()), (2, bound));
}

/// With a thousand scores each, as many predictions as with one would take gigabytes.
#[test]
fn many_scores_make_fewer_places() {
    let mut v = Validation::new(Task::Classes(1_000), 10, 1 << 32);
    let places = WAITING_SCORES_MAX as u64 / 1_000;
    let scores = [0.0; 1_000];
    (0..places + 3).for_each(|seq| v.predicted(seq, &scores, NO_ORACLE, 0));
    assert_eq!((v.pending() as u64, v.summary().unscored), (places, 3));
    assert!(v.bytes() < 260 << 20, "{}", v.bytes());
}

#[test]
fn a_regression_has_the_figures_of_the_textbook() {
    let mut v = Validation::new(Task::Regression, 3, 100);
    // Errors: 1, -2, 0.5, 0; of the oracle: 0, 1.
    let samples =
        [(3.0, 2.0, NO_ORACLE), (4.0, 6.0, 6.0), (1.5, 1.0, 2.0), (3.0, 3.0, NO_ORACLE), (f32::INFINITY, 1.0, 1.0)];
    for (seq, (value, label, oracle)) in samples.into_iter().enumerate() {
        v.predicted(seq as u64, &[value], oracle, 0);
        v.labelled(seq as u64, label);
    }
    let s = v.summary();
    let r = s.overall.regression.unwrap();
    // (1 + 4 + 0.25 + 0) / 4, its root, (1 + 2 + 0.5 + 0) / 4
    assert_eq!((r.mse, r.rmse, r.mae), (1.3125, 1.3125f64.sqrt(), 0.875));
    // labels 2, 6, 1, 3: mean 3, squared deviations 1 + 9 + 4 + 0 = 14
    assert!((r.r2 - (1.0 - 5.25 / 14.0)).abs() < 1e-12);
    assert_eq!(r.best_rmse, Some(0.5f64.sqrt()));
    assert_eq!((s.overall.mean_label, s.overall.mean_prediction, s.overall.samples), (3.0, 2.875, 4));
    assert!(s.overall.logloss.is_nan() && s.overall.auc.is_nan() && s.overall.normalized_entropy.is_nan());
    assert_eq!((s.overall.best_logloss, s.overall.positives, s.unscored), (None, 0, 1));
    // The last three: (4 + 0.25 + 0) / 3; mean 10/3, squared deviations (64 + 49 + 1) / 9
    let r = s.recent.regression.unwrap();
    assert_eq!(r.mse, 4.25 / 3.0);
    assert!((r.r2 - (1.0 - 4.25 / (114.0 / 9.0))).abs() < 1e-12);
}

/// Far from zero the plain sum of squares would leave no digit of the variance.
#[test]
fn the_variance_of_labels_far_from_zero_is_kept() {
    let mut v = Validation::new(Task::Regression, 10, 100);
    feed(&mut v, (0..1_000).map(|i| (16_000_000.0, 16_000_000.0 + (i % 2) as f32 * 2.0 - 1.0)));
    let r = v.overall().regression.unwrap();
    assert!((r.mse - 1.0).abs() < 1e-9 && r.r2.abs() < 1e-9, "{r:?}");
    let mut constant = Validation::new(Task::Regression, 10, 100);
    feed(&mut constant, [(1.0, 5.0), (2.0, 5.0)]);
    assert!(constant.overall().regression.unwrap().r2.is_nan());
}

#[test]
fn several_classes_have_cross_entropy_accuracy_and_counts() {
    let mut v = Validation::new(Task::Classes(3), 100, 100);
    let ln = |p: f64| p.ln() as f32;
    // Shifting all scores by 200 changes no probability.
    let samples = [
        ([ln(0.7), ln(0.2), ln(0.1)], 0.0),
        ([ln(0.55) + 200.0, ln(0.25) + 200.0, ln(0.2) + 200.0], 2.0),
        ([ln(0.1), ln(0.8), ln(0.1)], 1.0),
        ([0.0, 0.0, 0.0], 0.0),
        ([0.0, f32::NAN, 0.0], 0.0),
    ];
    // Labels come backwards: what waits must keep its own scores.
    for (seq, (scores, _)) in samples.iter().enumerate() {
        v.predicted(seq as u64, scores, NO_ORACLE, 0);
    }
    for (seq, (_, label)) in samples.iter().enumerate().rev() {
        v.labelled(seq as u64, *label);
    }
    let s = v.summary();
    // -(ln 0.7 + ln 0.2 + ln 0.8 + ln 1/3) / 4 = (0.356675 + 1.609438 + 0.223144 + 1.098612) / 4
    assert!((s.overall.logloss - 0.821967).abs() < 1e-5, "{}", s.overall.logloss);
    // Shares 1/2, 1/4, 1/4: entropy 1.5 ln 2.
    assert!((s.overall.normalized_entropy - s.overall.logloss / (1.5 * 2f64.ln())).abs() < 1e-12);
    let classes = s.overall.classes.as_ref().unwrap();
    assert_eq!((classes.accuracy, s.overall.positives, s.unscored), (0.75, 3, 1));
    let count = |labels, guesses, right| ClassCount { labels, guesses, right };
    assert_eq!(classes.counts, [count(2, 3, 2), count(1, 1, 1), count(1, 0, 0)]);
    // Confidence 0.7, 0.55, 0.8, 1/3.
    assert!((s.overall.mean_prediction - (0.7 + 0.55 + 0.8 + 1.0 / 3.0) / 4.0).abs() < 1e-6);
    assert_eq!((s.overall.calibration[5].count, s.overall.calibration[5].mean_label), (1, 0.0));
    assert_eq!(format!("{:?}", s.recent), format!("{:?}", s.overall));
}

#[test]
fn classes_beyond_the_counted_share_one_count() {
    let mut v = Validation::new(Task::Classes(5_000), 10, 100);
    let mut scores = vec![0.0; 5_000];
    scores[4_321] = 1.0;
    v.predicted(0, &scores, NO_ORACLE, 0);
    v.labelled(0, 4_999.0);
    let s = v.overall();
    let counts = s.classes.unwrap().counts;
    assert_eq!(counts.len(), CLASSES_COUNTED_MAX as usize + 1);
    assert_eq!(counts[1_000], ClassCount { labels: 1, guesses: 1, right: 0 });
    assert!(s.normalized_entropy.is_nan());
}

#[test]
fn groups_have_their_own_figures_and_those_beyond_the_bound_share_one() {
    let mut v = binary(100);
    let logit = |p: f64| (p / (1.0 - p)).ln() as f32;
    let samples =
        [(2, 0.5, 1.0), (2, 0.3, 0.0), (0, 0.9, 1.0), (1_000, 0.2, 0.0), (1_001, 0.4, 1.0), (u32::MAX, 0.6, 1.0)];
    for (seq, (group, p, label)) in samples.into_iter().enumerate() {
        v.predicted(seq as u64, &[logit(p)], NO_ORACLE, group);
        v.labelled(seq as u64, label);
    }
    let groups = v.summary().groups;
    let ids: Vec<_> = groups.iter().map(|g| (g.group, g.samples, g.mean_label)).collect();
    assert_eq!(ids, [(2, 2, 0.5), (1_000, 1, 0.0), (OTHERS, 2, 1.0)]);
    assert!((groups[0].mean_prediction - 0.4).abs() < 1e-6 && (groups[0].calibration - 0.8).abs() < 1e-6);
    assert!((groups[0].loss - (2f64.ln() - 0.7f64.ln()) / 2.0).abs() < 1e-6);
    assert!(groups[1].calibration.is_infinite());
    assert!((groups[2].mean_prediction - 0.5).abs() < 1e-6);
    assert!(scored([(1.0, 1.0)], 10).groups.is_empty());
}

/// What a version is judged by are the samples it was the latest for.
#[test]
fn each_version_has_its_own_figures() {
    let mut rng = Rng::seeded(5);
    let (first, second) = (random(&mut rng, 60, 9), random(&mut rng, 300, 9));
    let text = |m: &Metrics| format!("{m:?}");
    let mut v = binary(100);
    feed(&mut v, first.clone());
    assert_eq!(v.summary().before_version, None);
    v.version_published();
    let (s, alone) = (v.summary(), scored(first.clone(), 1_000));
    assert_eq!(text(s.before_version.as_ref().unwrap()), text(&alone.recent));
    assert_eq!(s.since_version.samples, 0);
    feed(&mut v, second[..20].iter().copied());
    assert_eq!(text(&v.summary().since_version), text(&scored(second[..20].iter().copied(), 1_000).recent));
    feed(&mut v, second[20..].iter().copied());
    let s = v.summary();
    assert_eq!((s.since_version.samples, s.overall.samples), (300, 360));
    assert_eq!(s.since_version.logloss, scored(second.clone(), 1_000).recent.logloss);
    assert_eq!(s.since_version.auc, s.recent.auc, "of the last 100: older scores are not kept");
    // Publishing splits no sum: what is told of the whole is the same without it.
    let undisturbed = scored(first.into_iter().chain(second), 100);
    assert_eq!((text(&s.overall), text(&s.recent)), (text(&undisturbed.overall), text(&undisturbed.recent)));
}

#[test]
fn labels_of_one_class_only_are_noticed() {
    let mut v = binary(2_000);
    feed(&mut v, std::iter::once((0.0, 1.0)).chain((0..1_999).map(|_| (0.0, 0.0))));
    assert_eq!(v.summary().one_class, None);
    feed(&mut v, [(0.0, 0.0)]);
    assert_eq!(v.summary().one_class, Some((0.0, 2_000)));
    feed(&mut v, [(0.0, 0.0)]);
    assert_eq!(v.summary().one_class, Some((0.0, 2_001)));
    feed(&mut v, [(0.0, 1.0)]);
    assert_eq!(v.summary().one_class, None);
    assert_eq!(scored((0..999).map(|_| (0.0, 1.0)), 10).one_class, None, "999 in a row may be chance");
    assert_eq!(scored((0..1_000).map(|_| (0.0, 1.0)), 10).one_class, Some((1.0, 1_000)));
}

fn why(v: &Validation) -> &str {
    match v.health() {
        Health::Healthy => "",
        Health::Diverging { why } => why,
    }
}

/// One label in ten is positive.
fn a_tenth(logit: f32, count: u64) -> impl Iterator<Item = (f32, f32)> {
    (0..count).map(move |i| (logit, (i % 10 == 0) as u8 as f32))
}

#[test]
fn a_learner_that_gets_worse_than_a_constant_diverges_until_it_does_not() {
    let mut v = binary(10_000);
    feed(&mut v, a_tenth(-2.2, 3_000));
    assert_eq!(why(&v), "");
    // Always sure and wrong nine times in ten: 0.9 * 16.1181; the constant costs the entropy of 1/10.
    feed(&mut v, a_tenth(30.0, 999));
    assert_eq!(why(&v), "", "judged when a block of 1,000 is full");
    feed(&mut v, [(30.0, 0.0)]);
    assert!(why(&v).starts_with("log loss 14.5"), "{}", why(&v));
    assert!(why(&v).contains("over the last 1000 samples") && why(&v).contains("costs 0.3251"), "{}", why(&v));
    // Better, but still far worse than the constant: softplus(3) = 3.05.
    feed(&mut v, a_tenth(3.0, 1_000));
    assert!(why(&v).starts_with("log loss 2.7"), "{}", why(&v));
    feed(&mut v, a_tenth(-2.0, 1_000));
    assert_eq!(why(&v), "");
    // The very first block is held against a model that has learned nothing.
    let mut v = binary(10_000);
    feed(&mut v, a_tenth(1.4, 1_000));
    assert!(why(&v).contains("costs 0.6931"), "{}", why(&v));
}

#[test]
fn slow_learners_rare_labels_and_a_changed_world_are_not_divergence() {
    // Falls from 0.69, far above twice the entropy of the labels, by more than a tenth each block.
    let mut v = binary(10_000);
    for block in 0..20 {
        feed(&mut v, (0..1_000).map(|i| (-0.25 * block as f32, (i == 500) as u8 as f32)));
        assert_eq!(why(&v), "", "block {block}");
    }
    // No positive at all: the constant is nearly always right.
    let mut v = binary(10_000);
    feed(&mut v, (0..5_000).map(|_| (-4.5, 0.0)));
    assert_eq!(why(&v), "");
    // From 10% to 60% between two samples, and the learner follows within a block.
    let mut v = binary(10_000);
    feed(&mut v, a_tenth(-2.2, 2_000));
    feed(&mut v, (0..1_000).map(|i| (if i < 500 { -2.2 } else { 0.4 }, (i % 5 < 3) as u8 as f32)));
    assert_eq!(why(&v), "");
}

#[test]
fn one_score_in_a_hundred_that_is_no_number_is_divergence_at_once() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut v = binary(10_000);
        feed(&mut v, (0..500).map(|i| if i % 50 == 7 { (bad, 0.0) } else { (0.0, (i % 2) as f32) }));
        assert_eq!(why(&v), "", "10 of 1,000 are not more than one in a hundred");
        feed(&mut v, [(bad, 1.0)]);
        assert!(why(&v).starts_with("11 of the last 501 scores are NaN or infinite"), "{}", why(&v));
        feed(&mut v, a_tenth(-2.0, 499));
        assert!(why(&v).starts_with("11 of the last 1000 scores"), "{}", why(&v));
        feed(&mut v, a_tenth(-2.0, 1_000));
        assert_eq!(why(&v), "");
        feed(&mut v, (0..2_000).map(|_| (f32::NAN, 0.0)));
        assert!(why(&v).starts_with("1000 of the last 1000 scores"), "{}", why(&v));
    }
}

#[test]
fn regressions_and_classes_are_held_against_their_own_constants() {
    let mut v = Validation::new(Task::Regression, 10_000, 100);
    let labels = |error: f32, count| (0..count).map(move |i| (100.0 + error, 100.0 + (i % 2) as f32 * 20.0 - 10.0));
    feed(&mut v, labels(0.0, 1_000));
    feed(&mut v, labels(15.0, 1_000));
    assert_eq!(why(&v), "", "RMSE 18 where the mean has 10");
    feed(&mut v, labels(30.0, 1_000));
    // sqrt((20^2 + 40^2) / 2)
    assert!(why(&v).starts_with("RMSE 31.6228") && why(&v).contains("costs 10.0000"), "{}", why(&v));
    let mut v = Validation::new(Task::Regression, 10_000, 100);
    feed(&mut v, (0..4_000).map(|_| (5.02, 5.0)));
    assert_eq!(why(&v), "", "labels without variance");

    let mut v = Validation::new(Task::Classes(4), 10_000, 100);
    let classes = |v: &mut Validation, score: f32| {
        for seq in v.samples()..v.samples() + 1_000 {
            v.predicted(seq, &[score, 0.0, 0.0, 0.0], NO_ORACLE, 0);
            v.labelled(seq, (seq % 4) as f32);
        }
    };
    classes(&mut v, 0.0);
    assert_eq!(why(&v), "");
    classes(&mut v, 10.0);
    // Three in four miss by 10; ln 4.
    assert!(why(&v).starts_with("cross entropy 7.5") && why(&v).contains("costs 1.3863"), "{}", why(&v));
}

/// What comes together is scored as what comes one by one, bit for bit, also where the ring gives up its oldest.
#[test]
fn many_labels_at_once_are_the_same_as_one_after_the_other() {
    let mut rng = Rng::seeded(11);
    for task in [Task::Binary, Task::Regression] {
        let (mut one, mut many) = (Validation::new(task, 300, 10), Validation::new(task, 300, 10));
        let samples = random(&mut rng, 70_000, 17);
        let mut labels = Vec::new();
        for (seq, (score, label)) in samples.into_iter().enumerate() {
            let score = if seq % 1_009 == 0 { f32::NAN } else { score };
            one.predicted(seq as u64, &[score], 0.3, 1);
            many.predicted(seq as u64, &[score], 0.3, 1);
            if seq != 777 {
                labels.push((seq as u64, label));
            }
            if seq % 1_000 == 999 {
                labels.reverse();
                // Beyond the bound of the ring, in the midst of others.
                labels.insert(500, (seq as u64 + 30, 0.0));
                labels.iter().for_each(|(seq, label)| one.labelled(*seq, *label));
                many.labelled_all(labels.drain(..));
                assert!(seq % 10_000 != 9_999 || encoded(&one) == encoded(&many), "{task:?} after {seq}");
            }
        }
        assert!(one.samples() > 60_000 && one.summary().unscored > 60);
    }
}

/// A run of every kind of event, with labels in disorder, started anew at `restart_at`.
fn run(task: Task, restart_at: Option<u64>) -> Validation {
    let mut v = Validation::new(task, 1_000, 100);
    let mut rng = Rng::seeded(13);
    for seq in 0..2_600u64 {
        let scores: Vec<f32> = (0..task.scores()).map(|_| rng.below(100) as f32 * 0.1 - 5.0).collect();
        let label = rng.below(if task == Task::Regression { 50 } else { task.scores().max(2) as u64 }) as f32;
        let broken = seq % 211 == 0;
        v.predicted(seq, if broken { &[f32::NAN; 3][..scores.len()] } else { &scores }, 0.3, (seq % 5) as u32);
        if seq >= 20 {
            v.labelled((seq - 20) ^ 1, if seq % 17 == 0 { f32::NAN } else { label });
        }
        if seq % 900 == 450 {
            v.version_published();
        }
        if restart_at == Some(seq) {
            let bytes = encoded(&v);
            let mut from = Decoder::new(&bytes, "test");
            v = Validation::decode(task, 1_000, 100, &mut from).unwrap();
            from.end().unwrap();
            assert!(encoded(&v) == bytes);
        }
    }
    v
}

#[test]
fn a_decoded_validation_continues_as_if_nothing_had_happened() {
    for task in [Task::Binary, Task::Regression, Task::Classes(3)] {
        let undisturbed = run(task, None);
        let (bytes, summary) = (encoded(&undisturbed), format!("{:?}", undisturbed.summary()));
        assert!(undisturbed.samples() > 2_000 && undisturbed.pending() > 0, "{task:?} {}", undisturbed.samples());
        for at in (0..2_600).step_by(97) {
            let restarted = run(task, Some(at));
            assert!(encoded(&restarted) == bytes, "{task:?}, restart at {at}");
            assert_eq!(format!("{:?}", restarted.summary()), summary, "{task:?}, restart at {at}");
        }
    }
}

#[test]
fn short_bytes_and_other_tasks_are_refused() {
    let bytes = encoded(&run(Task::Classes(3), None));
    for end in (0..bytes.len()).step_by(61) {
        assert!(Validation::decode(Task::Classes(3), 1_000, 100, &mut Decoder::new(&bytes[..end], "test")).is_err());
    }
    let error = |task| Validation::decode(task, 1_000, 100, &mut Decoder::new(&bytes, "test")).err().unwrap();
    assert_eq!(error(Task::Classes(4)).kind(), tidemill_base::Kind::Conflict);
    assert!(error(Task::Binary).message().contains("labels of Classes(3), now they are of Binary"));
    assert!(
        Validation::decode(Task::Classes(3), 10, 100, &mut Decoder::new(&bytes, "test")).is_err(),
        "a shorter window"
    );
}

/// Whatever a damaged checkpoint holds, nothing worse than an error or a wrong figure comes of it.
#[test]
fn flipped_bytes_never_panic() {
    for task in [Task::Binary, Task::Regression, Task::Classes(3)] {
        let mut bytes = encoded(&run(task, None));
        let mut refused = 0;
        for at in (0..bytes.len()).step_by(7) {
            bytes[at] ^= 0xff;
            match Validation::decode(task, 1_000, 100, &mut Decoder::new(&bytes, "test")) {
                Err(_) => refused += 1,
                Ok(mut v) => {
                    (2_580..2_600).for_each(|seq| v.labelled(seq, 1.0));
                    v.version_published();
                    assert!(v.summary().recent.samples <= 1_000);
                }
            }
            bytes[at] ^= 0xff;
        }
        assert!(refused > 0);
    }
}
