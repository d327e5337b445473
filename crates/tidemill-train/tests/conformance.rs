//! The battery every learner passes with every optimizer: order, unseen keys, refusal, repetition, threads, restarts,
//! serving, deltas, bounds. (Gradients against finite differences are tested beside the learners.)

use tidemill_base::attribute::Settings;
use tidemill_base::{
    Rng, StateHash,
    codec::{Decoder, Encoder},
    rng::mix64,
};
use tidemill_model::{
    Delta, Features, Snapshot, WeightTable, model::LearnerSpec, optimizer::Ftrl, weights::ScoreScratch,
};
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{ATTRIBUTES, Health, LEARNERS, SampleBatch, TrainSpec, Trainer};

type Feature = (u16, u64, f32);

/// Samples with their own vectors, from which batches are cut.
#[derive(Clone, Default)]
struct Samples {
    features: Vec<Vec<Feature>>,
    labels: Vec<f32>,
    kinds: Vec<SampleKind>,
    seqs: Vec<u64>,
    oracle: Vec<f64>,
}

impl Samples {
    fn push(&mut self, features: &[Feature], label: f32, kind: SampleKind, seq: u64, oracle: f64) {
        self.features.push(features.to_vec());
        self.labels.push(label);
        self.kinds.push(kind);
        self.seqs.push(seq);
        self.oracle.push(oracle);
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    /// Feeds rows `begin..end` in one call and matures the final ones.
    fn feed(&self, trainer: &mut Trainer, begin: usize, end: usize) {
        let mut features = Features::new();
        self.features[begin..end].iter().for_each(|f| features.push(f));
        trainer.update(&SampleBatch {
            features: &features,
            labels: &self.labels[begin..end],
            kinds: &self.kinds[begin..end],
            seqs: &self.seqs[begin..end],
            oracle: Some(&self.oracle[begin..end]),
            weights: None,
            groups: None,
        });
        let rows = (begin..end).filter(|row| matches!(self.kinds[*row], SampleKind::Final | SampleKind::Correct));
        let matured: Vec<Matured> = rows.map(|row| Matured { seq: self.seqs[row], label: self.labels[row] }).collect();
        trainer.mature(&matured);
    }
}

/// Clicks on eight categorical slots and a numeric one, whose true weights are hashes of their keys; every tenth positive
/// comes late, as an early negative that is corrected twenty rows on, or at the end: every impression gets its final label.
fn clicks(seed: u64, count: usize) -> Samples {
    let mut rng = Rng::seeded(seed);
    let mut samples = Samples::default();
    let mut late = Vec::new();
    for seq in 0..count as u64 {
        let mut features: Vec<Feature> =
            (0..8u64).map(|slot| (slot as u16, mix64(slot << 32 | rng.below(1 + 40 * slot)), 1.0)).collect();
        features.push((8, mix64(99), rng.normal() as f32 * 0.5));
        let truth = |key: u64| (key % 1000) as f64 / 1000.0 - 0.55;
        let logit: f64 = features.iter().map(|(_, key, x)| truth(*key) * *x as f64).sum();
        let p = 1.0 / (1.0 + (-logit).exp());
        let positive = rng.next_f64() < p;
        if positive && seq % 10 == 0 {
            samples.push(&features, 0.0, SampleKind::Early, seq, p);
            late.push((samples.len() + 20, features, seq, p));
        } else {
            samples.push(&features, positive as u8 as f32, SampleKind::Final, seq, p);
        }
        while late.first().is_some_and(|(due, ..): &(usize, _, _, _)| *due <= samples.len()) {
            let (_, features, seq, p) = late.remove(0);
            samples.push(&features, 0.0, SampleKind::Retract, seq, p);
            samples.push(&features, 1.0, SampleKind::Correct, seq, p);
        }
    }
    for (_, features, seq, p) in late {
        samples.push(&features, 0.0, SampleKind::Retract, seq, p);
        samples.push(&features, 1.0, SampleKind::Correct, seq, p);
    }
    samples
}

/// Feeds everything in calls of uneven size that never part a retraction from its correction.
fn cuts(samples: &Samples) -> Vec<(usize, usize)> {
    let mut rng = Rng::seeded(77);
    let mut cuts = Vec::new();
    let mut begin = 0;
    while begin < samples.len() {
        let mut end = samples.len().min(begin + 1 + rng.below(1500) as usize);
        end += (samples.kinds[end - 1] == SampleKind::Retract) as usize;
        cuts.push((begin, end));
        begin = end;
    }
    cuts
}

/// A learner with its settings, for nine slots.
fn spec(learner: &str, written: &[(&str, &str)]) -> TrainSpec {
    let mut settings = Settings::new(&ATTRIBUTES);
    written.iter().for_each(|(name, value)| settings.set(name, value).unwrap());
    let slots: Vec<String> = (0..9).map(|slot| format!("slot{slot}")).collect();
    TrainSpec::from_settings(learner, &settings).unwrap().with_slots(&slots)
}

/// Logistic regression with FTRL.
fn plain() -> TrainSpec {
    spec("LogisticRegression", &[])
}

const OPTIMIZERS: [&str; 7] = ["sgd", "momentum", "adagrad", "rowwise_adagrad", "ftrl", "adam", "amsgrad"];

/// Every learner with every optimizer.
fn all() -> Vec<(String, TrainSpec)> {
    let mut all = Vec::new();
    for learner in LEARNERS {
        for optimizer in OPTIMIZERS {
            let alpha = match optimizer {
                "sgd" | "momentum" => "0.002",
                "adam" | "amsgrad" => "0.003",
                _ => "0.05",
            };
            let written = [
                ("model.optimizer", optimizer),
                ("model.alpha", alpha),
                ("model.factors_optimizer", optimizer),
                ("model.factors_alpha", alpha),
                ("model.dense_optimizer", optimizer),
                // A layer takes one step a mini-batch, where a key takes one a sample.
                ("model.dense_alpha", if matches!(optimizer, "sgd" | "momentum") { "0.05" } else { alpha }),
                ("model.layers", "16,8"),
                ("train.batch_size", "40"),
            ];
            all.push((format!("{learner} with {optimizer}"), spec(learner, &written)));
        }
    }
    all.push(("FMClassifier with dropout".into(), spec("FMClassifier", &[("model.dropout", "0.3")])));
    for (learner, name, value) in [
        ("LogisticRegression", "train.gradient_keep", "0.1"),
        ("LogisticRegression", "train.gradient_threshold", "0.8"),
        ("FMClassifier", "train.gradient_keep", "0.1"),
        ("DeepFMClassifier", "train.gradient_keep", "0.1"),
        ("MLPClassifier", "train.gradient_threshold", "0.01"),
    ] {
        let written = [(name, value), ("model.layers", "16,8"), ("train.batch_size", "40")];
        all.push((format!("{learner} with {name} {value}"), spec(learner, &written)));
    }
    let bounded = [("model.label_min", "0"), ("model.label_max", "1"), ("model.dropout", "0.3")];
    all.push(("FMRegressor, bounded, with dropout".into(), spec("FMRegressor", &bounded)));
    all
}

fn has_layers(spec: &TrainSpec) -> bool {
    matches!(spec.model.learner, LearnerSpec::Mlp(_) | LearnerSpec::WideDeep(_) | LearnerSpec::DeepFm(_))
}

fn new(spec: &TrainSpec, threads: usize) -> Trainer {
    Trainer::new(spec, threads).unwrap()
}

fn trained(spec: &TrainSpec, samples: &Samples, threads: usize) -> Trainer {
    let mut trainer = new(spec, threads);
    cuts(samples).into_iter().for_each(|(begin, end)| samples.feed(&mut trainer, begin, end));
    trainer
}

fn encoded(trainer: &Trainer) -> Vec<u8> {
    let mut out = Encoder::new();
    trainer.encode(&mut out);
    out.finish()
}

fn one(features: &[Feature], label: f32) -> Samples {
    let mut samples = Samples::default();
    samples.push(features, label, SampleKind::Final, 0, f64::NAN);
    samples
}

fn weight(trainer: &Trainer, key: u64) -> f32 {
    WeightTable::from_snapshot(&trainer.snapshot()).params(key)[0]
}

fn scores(table: &WeightTable, samples: &[Vec<Feature>]) -> Vec<f32> {
    let mut features = Features::new();
    samples.iter().for_each(|f| features.push(f));
    let mut scores = Vec::new();
    table.score(&features, &mut ScoreScratch::default(), &mut scores).unwrap();
    scores
}

/// The learner has to be worth the bits it keeps: on 40,000 samples the recent log loss comes near the best possible.
#[test]
fn progressive_log_loss_comes_near_the_best_possible() {
    let samples = clicks(1, 40_000);
    for (learner, bound) in [("LogisticRegression", 1.03), ("FMClassifier", 1.03), ("FFMClassifier", 1.05)] {
        let spec = spec(learner, &[("validate.window", "10000"), ("model.alpha", "0.2")]);
        let recent = trained(&spec, &samples, 1).validation().summary().recent;
        let ratio = recent.logloss / recent.best_logloss.unwrap();
        assert!((0.97..bound).contains(&ratio), "{learner}: {ratio}");
    }
}

/// With every optimizer every learner ends better than it began, on the very same samples.
#[test]
fn every_learner_learns_with_every_optimizer() {
    let samples = clicks(21, 6_000);
    for (name, spec) in all() {
        let trainer = trained(&spec, &samples, 1);
        let summary = trainer.validation().summary();
        assert_eq!(trainer.validation().health(), &Health::Healthy, "{name}");
        let constant = summary.overall.mean_label * (1.0 - summary.overall.mean_label);
        match summary.recent.regression {
            Some(r) => assert!(r.mse < constant * 1.08, "{name}: {} against {constant}", r.mse),
            None => assert!(summary.recent.logloss < 0.70, "{name}: {}", summary.recent.logloss),
        }
    }
}

#[test]
fn the_order_in_which_features_are_given_does_not_matter() {
    let samples = clicks(2, 1_000);
    let mut turned = samples.clone();
    turned.features.iter_mut().enumerate().for_each(|(i, f)| f.rotate_left(i % 9));
    for (name, spec) in all() {
        assert!(encoded(&trained(&spec, &samples, 1)) == encoded(&trained(&spec, &turned, 1)), "{name}");
    }
}

#[test]
fn keys_never_seen_contribute_nothing_and_zeros_make_no_entry() {
    let samples = clicks(3, 500);
    for (name, spec) in all() {
        let mut trainer = trained(&spec, &samples, 1);
        let table = WeightTable::from_snapshot(&trainer.snapshot());
        let with = scores(&table, &[vec![(1, 3, 1.0), (4, 7 << 58, 100.0)], vec![]]);
        let (unseen, empty) = with.split_at(with.len() / 2);
        assert_eq!(unseen, empty, "{name}");
        // Layers have biases; without layers there is nothing to say of nothing.
        assert!(has_layers(&spec) || empty.iter().all(|score| *score == 0.0), "{name}: {with:?}");
        let entries = trainer.stats().entries;
        one(&[(1, 3, 0.0), (4, 7 << 58, 0.0)], 1.0).feed(&mut trainer, 0, 1);
        assert_eq!(trainer.stats().entries, entries, "{name}");
    }
}

#[test]
fn what_is_no_number_is_refused_counted_and_named() {
    for (name, spec) in all() {
        let mut trainer = new(&spec, 1);
        // The square of this gradient is no f32 any more.
        one(&[(0, 5, 1e30), (1, 6, 1.0)], 1.0).feed(&mut trainer, 0, 1);
        let stats = trainer.stats();
        assert!(stats.refused_non_finite >= 1 && stats.refused_key.is_some(), "{name}: {stats:?}");
        let table = WeightTable::from_snapshot(&trainer.snapshot());
        assert!(scores(&table, &[vec![(1, 6, 1.0)]]).iter().all(|score| score.is_finite()), "{name}");
    }
}

/// Two infinite contributions of opposite sign make a score that is not a number.
#[test]
fn a_sample_without_a_score_is_refused_counted_and_not_scored() {
    // With alpha 10 the first step goes to -10 * g / (1 + |g|) = 3.33 for g = -0.5.
    let mut trainer = new(&spec("LogisticRegression", &[("model.alpha", "10")]), 1);
    one(&[(0, 7, 1.0)], 1.0).feed(&mut trainer, 0, 1);
    one(&[(0, 8, 1.0)], 0.0).feed(&mut trainer, 0, 1);
    let before = trainer.state_hash();
    let mut sample = one(&[(0, 6, 1.0), (0, 7, 3e38), (0, 8, 3e38)], 1.0);
    sample.seqs[0] = 5;
    sample.feed(&mut trainer, 0, 1);
    let (stats, summary) = (trainer.stats(), trainer.validation().summary());
    assert_eq!(stats.refused_non_finite, 1);
    assert!(matches!(stats.refused_key, Some(7 | 8)));
    assert_eq!(trainer.state_hash(), before);
    assert_eq!(
        (summary.overall.samples, summary.unscored),
        (1, 2),
        "seq 0 came twice and counts once; seq 5 has no score"
    );
}

#[test]
fn a_refused_sample_is_neither_learned_from_nor_scored() {
    let samples = clicks(4, 600);
    for (name, spec) in all() {
        let mut features = Features::new();
        let rows = 0..100;
        for row in rows.clone() {
            features.push(if row % 7 == 0 { &[] } else { &samples.features[row] });
            if row % 7 == 0 {
                features.refused.push((row as u32, "slot 'x': value is NaN".into()));
            }
        }
        let kinds = vec![SampleKind::Final; 100];
        let seqs: Vec<u64> = rows.clone().map(|row| row as u64).collect();
        let mut trainer = new(&spec, 1);
        trainer.update(&SampleBatch {
            features: &features,
            labels: &samples.labels[rows.clone()],
            kinds: &kinds,
            seqs: &seqs,
            oracle: None,
            weights: None,
            groups: None,
        });
        trainer.mature(&seqs.iter().map(|seq| Matured { seq: *seq, label: 0.0 }).collect::<Vec<_>>());
        let (stats, summary) = (trainer.stats(), trainer.validation().summary());
        assert_eq!((stats.samples, stats.refused_samples), (85, 15), "{name}");
        assert_eq!((summary.overall.samples, summary.unscored), (85, 15), "{name}");
    }
}

#[test]
fn the_same_samples_give_the_same_bits_and_others_do_not() {
    for (name, spec) in all() {
        let hash = |seed| trained(&spec, &clicks(seed, 500), 1).state_hash();
        assert_eq!(hash(5), hash(5), "{name}");
        assert_ne!(hash(5), hash(6), "{name}");
    }
}

/// The promise of the whole design, at its smallest: threads change nothing, not even in the checkpoint's bytes.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let samples = clicks(7, 3_000);
    for (name, spec) in all() {
        let spec = TrainSpec { batch_size: 64, ..spec };
        let expected = encoded(&trained(&spec, &samples, 1));
        for threads in [2, 4, 8] {
            assert!(encoded(&trained(&spec, &samples, threads)) == expected, "{name}, {threads} threads");
        }
    }
    let samples = clicks(7, 12_000);
    let expected = encoded(&trained(&plain(), &samples, 1));
    for threads in [2, 3, 4, 8, 64] {
        assert!(encoded(&trained(&plain(), &samples, threads)) == expected, "{threads} threads");
    }
}

/// Killing and restoring after any call, with another number of threads, must not change one bit of what follows.
#[test]
fn a_restored_trainer_continues_bit_for_bit() {
    let samples = clicks(8, 3_000);
    let cuts = cuts(&samples);
    for (name, spec) in all() {
        let expected = encoded(&trained(&spec, &samples, 1));
        for restart_at in 0..cuts.len() {
            let mut trainer = new(&spec, 2);
            for (i, (begin, end)) in cuts.iter().enumerate() {
                samples.feed(&mut trainer, *begin, *end);
                if i == restart_at {
                    let bytes = encoded(&trainer);
                    let mut d = Decoder::new(&bytes, "checkpoint 1");
                    let restored = Trainer::decode(&spec, 1 + i % 3, &mut d).unwrap();
                    d.end().unwrap();
                    assert_eq!(restored.stats().entries, trainer.stats().entries);
                    assert_eq!(restored.state_hash(), trainer.state_hash());
                    trainer = restored;
                }
            }
            assert!(encoded(&trainer) == expected, "{name}, restored after call {restart_at}");
        }
    }
}

#[test]
fn the_state_of_other_settings_is_refused() {
    let bytes = encoded(&trained(&plain(), &clicks(9, 100), 1));
    let decode = |spec: &TrainSpec, bytes: &[u8]| {
        Trainer::decode(spec, 1, &mut Decoder::new(bytes, "checkpoint 1"))
            .map(|_| ())
            .unwrap_err()
            .message()
            .to_string()
    };
    let other = spec("LogisticRegression", &[("train.batch_size", "7")]);
    assert_eq!(
        decode(&other, &bytes),
        "the checkpoint was made with train.batch_size = 64, now it is 7; set it back or train under another name"
    );
    assert!(decode(&spec("FMClassifier", &[]), &bytes).contains("the checkpoint was made with learner = Linear"));
    for cut in (0..bytes.len()).step_by(13) {
        assert!(decode(&plain(), &bytes[..cut]).contains("ends at byte"), "cut at {cut}");
    }
}

/// What serving computes from a snapshot is what the trainer computes before it learns: the same bits.
#[test]
fn serving_gives_the_trainers_own_prediction_bit_for_bit() {
    let count = 1_000;
    let samples = clicks(10, count);
    for (name, spec) in all() {
        let trainer = trained(&spec, &samples, 1);
        let bytes = trainer.snapshot().encode();
        let table = WeightTable::from_snapshot(&Snapshot::decode(&bytes, "version 1").unwrap());
        for row in [5, 17, 99] {
            let served = scores(&table, &samples.features[row..row + 1]);
            let mut prediction = vec![0.0; served.len()];
            table.loss().predict(&served, &mut prediction);
            // Scores come in the order of impressions, so this one is the next.
            let mut sample = one(&samples.features[row], 1.0);
            sample.seqs[0] = count as u64;
            let before = trainer.validation().summary().overall;
            let mut fork = Trainer::decode(&spec, 1, &mut Decoder::new(&encoded(&trainer), "fork")).unwrap();
            sample.feed(&mut fork, 0, 1);
            let after = fork.validation().summary().overall;
            assert_eq!(after.samples, before.samples + 1, "{name}");
            if served.len() == 1 {
                let total = |m: &tidemill_train::Metrics| m.mean_prediction * m.samples as f64;
                let own = total(&after) - total(&before);
                assert!((own - f64::from(prediction[0])).abs() < 1e-6, "{name}, row {row}: {own} {prediction:?}");
            }
        }
    }
}

#[test]
fn deltas_applied_in_sequence_give_the_later_snapshot() {
    let samples = clicks(11, 3_000);
    for (name, spec) in all() {
        let mut trainer = new(&spec, 2);
        let mut table = WeightTable::from_snapshot(&trainer.snapshot());
        let mut at_once = table.clone();
        let (mut sequence, mut merged) = (0, Delta::default());
        for (begin, end) in cuts(&samples) {
            samples.feed(&mut trainer, begin, end);
            let delta = Delta::decode(&trainer.take_delta().encode(), "delta").unwrap();
            assert_eq!((delta.from, delta.to), (sequence, sequence + 1));
            assert!(delta.entries.keys.is_sorted_by(|a, b| a < b));
            sequence = delta.to;
            table.apply(&delta);
            merged.merge(&delta).unwrap();
        }
        let snapshot = trainer.snapshot();
        assert_eq!((snapshot.sequence, table.len()), (sequence, snapshot.entries.len()), "{name}");
        at_once.apply(&merged);
        let expected = WeightTable::from_snapshot(&snapshot);
        for rows in samples.features.chunks(100) {
            let scores = [&table, &at_once, &expected].map(|table| self::scores(table, rows));
            assert!(scores[0] == scores[1] && scores[1] == scores[2], "{name}");
        }
        assert!(trainer.take_delta().entries.is_empty(), "{name}");
    }
}

/// An early 0 that becomes 1 is one step with gradient exactly -x, whatever the prediction was.
#[test]
fn retract_and_correct_is_one_step_with_gradient_minus_x() {
    let x = [(0, 3u64, 0.37f32), (1, 8 << 58, -1.5)];
    let mut samples = one(&x, 0.0);
    samples.kinds[0] = SampleKind::Early;
    samples.push(&x, 0.0, SampleKind::Retract, 0, f64::NAN);
    samples.push(&x, 1.0, SampleKind::Correct, 0, f64::NAN);
    let mut trainer = new(&plain(), 1);
    samples.feed(&mut trainer, 0, 1);
    samples.feed(&mut trainer, 1, 3);
    let ftrl = Ftrl::new(0.1, 1.0, 0.0, 0.0);
    for (_, key, x) in x {
        let (z, n) = ftrl.step(0.0, 0.0, 0.5 * x); // the early negative, predicted 0.5
        let (z, n) = ftrl.step(z, n, -x);
        assert_eq!(weight(&trainer, key).to_bits(), ftrl.weight(z, n).to_bits());
    }
    let s = trainer.validation().summary();
    let counts = (s.overall.samples, s.overall.positives, trainer.stats().samples, trainer.stats().corrections);
    assert_eq!(counts, (1, 1, 1, 1));
    assert_eq!(s.overall.logloss as f32, std::f32::consts::LN_2, "scored is the early prediction, 0.5");
}

/// Which new keys a full table turns away must not depend on threads either.
#[test]
fn a_full_table_admits_the_same_keys_with_any_number_of_threads() {
    let samples = clicks(12, 3_000);
    let cases = [
        ("LogisticRegression", "train.admit_after", "2"),
        ("FMClassifier", "train.admit_after", "2"),
        ("FFMClassifier", "train.admit_after", "2"),
        // Entries leave while others of the same sample are still to be changed.
        ("FMClassifier", "train.when_full", "evict"),
        ("FFMClassifier", "train.when_full", "evict"),
    ];
    for (learner, name, value) in cases {
        let spec = TrainSpec { entries_max: 640, ..spec(learner, &[(name, value)]) };
        let run = |threads| -> (StateHash, u64, u64) {
            let trainer = trained(&spec, &samples, threads);
            let stats = trainer.stats();
            (trainer.state_hash(), stats.entries, stats.refused_admissions)
        };
        let (hash, entries, refused) = run(1);
        assert!(entries <= 640 && (refused > 0 || spec.evicts), "{entries} entries, {refused} refused");
        assert_eq!(run(2), (hash, entries, refused));
        assert_eq!(run(8), (hash, entries, refused));
    }
}

/// Which entries leave for their age is a function of the samples: not of threads, calls, or a restart in their middle; and
/// what is served forgets them too.
#[test]
fn keys_that_are_not_seen_any_more_are_forgotten_alike_everywhere() {
    // The second half has keys of its own.
    let mut samples = clicks(13, 4_000);
    let half = samples.len() / 2;
    samples.features[half..].iter_mut().flatten().for_each(|(_, key, _)| *key = mix64(*key));
    let feed = |trainer: &mut Trainer, rows: std::ops::Range<usize>| {
        let mut begin = rows.start;
        while begin < rows.end {
            let mut end = rows.end.min(begin + 50);
            end += (samples.kinds[end - 1] == SampleKind::Retract) as usize;
            samples.feed(trainer, begin, end);
            begin = end;
        }
    };
    for learner in ["LogisticRegression", "FMClassifier"] {
        let spec = spec(learner, &[("train.forget_after", "500")]);
        let run = |threads: usize| {
            let mut trainer = new(&spec, threads);
            feed(&mut trainer, 0..samples.len());
            trainer
        };
        let once = run(1);
        let (stats, keeps) = (once.stats(), trained(&self::spec(learner, &[]), &samples, 1).stats());
        assert_eq!(keeps.forgotten, 0);
        assert!(stats.forgotten > keeps.entries / 3, "{} of {} left", stats.forgotten, keeps.entries);
        assert!(stats.entries < keeps.entries * 2 / 3, "{} of {} are there", stats.entries, keeps.entries);
        for threads in [2, 8] {
            let other = run(threads);
            let of = |trainer: &Trainer| (trainer.state_hash(), trainer.stats().entries, trainer.stats().forgotten);
            assert_eq!(of(&other), of(&once));
        }
        // A restart in the middle of a sweep, and a server that follows by deltas.
        let middle = half + 777 + (samples.kinds[half + 776] == SampleKind::Retract) as usize;
        let mut first = new(&spec, 1);
        feed(&mut first, 0..middle);
        let mut out = Encoder::new();
        first.encode(&mut out);
        let mut second = Trainer::decode(&spec, 2, &mut Decoder::new(out.as_slice(), "test")).unwrap();
        let mut served = WeightTable::from_snapshot(&second.snapshot());
        second.take_delta();
        feed(&mut first, middle..samples.len());
        feed(&mut second, middle..samples.len());
        assert_eq!((second.state_hash(), second.stats().forgotten), (first.state_hash(), first.stats().forgotten));
        served.apply(&second.take_delta());
        assert_eq!(served.len(), second.stats().entries as usize);
    }
}

/// Mini-batches are part of the result: within one, samples do not see each other. Calls cut them too.
#[test]
fn samples_of_a_mini_batch_are_predicted_with_the_parameters_before_it() {
    let mut samples = Samples::default();
    (0..3).for_each(|seq| samples.push(&[(0, 5, 1.0)], 1.0, SampleKind::Final, seq, f64::NAN));
    let run = |batch_size, calls: &[(usize, usize)]| {
        let mut trainer = new(&TrainSpec { batch_size, ..plain() }, 1);
        calls.iter().for_each(|(begin, end)| samples.feed(&mut trainer, *begin, *end));
        (trainer.validation().summary().overall.mean_prediction, trainer.stats().updates)
    };
    assert_eq!(run(3, &[(0, 3)]), (0.5, 1));
    assert!(run(1, &[(0, 3)]).0 > 0.5);
    assert_eq!(run(1, &[(0, 3)]), run(3, &[(0, 1), (1, 2), (2, 3)]));
}

/// A learning rate that diverges is found and named; training goes on.
#[test]
fn a_diverging_learner_is_named() {
    let samples = clicks(13, 8_000);
    let spec =
        spec("LinearRegression", &[("model.optimizer", "sgd"), ("model.alpha", "50"), ("validate.window", "1000")]);
    let trainer = trained(&spec, &samples, 1);
    let Health::Diverging { why } = trainer.validation().health() else { panic!("not noticed") };
    assert!(!why.is_empty());
    assert!(trainer.stats().samples > 0);
}

/// What is held back waits with its entry, also through a checkpoint, and is applied together.
#[test]
fn held_back_gradients_wait_for_the_threshold_and_lose_nothing() {
    let written = [("model.optimizer", "sgd"), ("model.alpha", "0.125"), ("train.gradient_threshold", "2.5")];
    let spec = spec("LinearRegression", &written);
    let mut trainer = new(&spec, 2);
    // While the weight is 0 every gradient is -1; the third makes 3 of them, which is over 2.5.
    for (seq, expected) in [0.0, 0.0, 0.375, 0.375].into_iter().enumerate() {
        let mut sample = one(&[(0, 5, 1.0)], 1.0);
        sample.seqs[0] = seq as u64;
        sample.feed(&mut trainer, 0, 1);
        assert_eq!(weight(&trainer, 5), expected, "after sample {seq}");
        trainer = Trainer::decode(&spec, 1, &mut Decoder::new(&encoded(&trainer), "checkpoint 1")).unwrap();
    }
    let stats = trainer.stats();
    assert_eq!((stats.gradients_given, stats.gradients_passed, stats.entries), (4, 1, 1));
}

#[test]
fn a_filter_that_everything_passes_changes_no_parameter() {
    let samples = clicks(14, 2_000);
    for learner in ["LogisticRegression", "FMClassifier", "MLPClassifier"] {
        let written = [("model.layers", "16,8")];
        let all = trained(&spec(learner, &written), &samples, 1);
        let filtered = trained(&spec(learner, &[written[0], ("train.gradient_threshold", "1e-12")]), &samples, 1);
        assert!(filtered.snapshot().entries == all.snapshot().entries, "{learner}");
        assert!(filtered.stats().gradients_given > 0 && all.stats().gradients_given == 0, "{learner}");
    }
}

/// A hundredth of the components, each with what waited before it, teaches about what all of them do: in 5,000 mini-batches
/// the recent log loss stays within 0.5 %, where always guessing the mean is 6 % off.
#[test]
fn one_gradient_in_a_hundred_learns_within_half_a_percent() {
    let samples = clicks(1, 200_000);
    let settled = samples.len() / 4;
    for learner in ["LogisticRegression", "FMClassifier", "MLPClassifier"] {
        let run = |keep: &str| {
            let mut written = vec![("validate.window", "50000"), ("model.layers", "32,16"), ("train.batch_size", "40")];
            written.push(("train.gradient_keep", keep));
            let mut trainer = new(&spec(learner, &written), 1);
            let mut warm = None;
            for (begin, end) in cuts(&samples) {
                samples.feed(&mut trainer, begin, end);
                if end >= settled && warm.is_none() {
                    warm = Some(trainer.stats());
                }
            }
            let (warm, stats) = (warm.unwrap(), trainer.stats());
            let given = stats.gradients_given - warm.gradients_given;
            let share = (stats.gradients_passed - warm.gradients_passed) as f64 / given.max(1) as f64;
            (trainer.validation().summary().recent.logloss, share)
        };
        let ((all, none), (part, share)) = (run("1"), run("0.01"));
        assert_eq!(none, 0.0, "{learner} counts nothing where nothing is held back");
        assert!((share / 0.01 - 1.0).abs() < 0.2, "{learner}: {share} passed");
        assert!((part / all - 1.0).abs() < 0.005, "{learner}: {part}, unfiltered {all}");
        let rate = samples.labels.iter().map(|label| f64::from(*label)).sum::<f64>() / samples.len() as f64;
        let guess = -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln());
        assert!(guess > 1.05 * part, "{learner}: {part}, a guess has {guess}");
    }
}
