//! What should not come and does: each kind of bad input ends in a count, a named state or an error that says what to do,
//! never in a panic, a hang or parameters that are no numbers.

use std::sync::Arc;

use arrow::{
    array::*,
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Fields},
};
use tidemill_base::{
    Kind, Rng,
    attribute::Settings,
    codec::{Decoder, Encoder},
    rng::mix64,
};
use tidemill_model::{
    Features,
    feature::{ColumnSpec, Extractor, FEATURES_MAX},
};
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{ATTRIBUTES, Health, LEARNERS, SampleBatch, TrainSpec, Trainer};

type Feature = (u16, u64, f32);

const OPTIMIZERS: [&str; 7] = ["sgd", "momentum", "adagrad", "rowwise_adagrad", "ftrl", "adam", "amsgrad"];
const NOT_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

fn settings(written: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::new(&ATTRIBUTES);
    written.iter().for_each(|(name, value)| settings.set(name, value).unwrap());
    settings
}

fn spec(learner: &str, written: &[(&str, &str)]) -> TrainSpec {
    let slots: Vec<String> = (0..3).map(|slot| format!("slot{slot}")).collect();
    TrainSpec::from_settings(learner, &settings(written)).unwrap().with_slots(&slots)
}

/// Every learner with every optimizer, small.
fn all() -> impl Iterator<Item = (String, TrainSpec)> {
    let of = |optimizer| {
        ["model.optimizer", "model.factors_optimizer", "model.dense_optimizer"].map(|name| (name, optimizer))
    };
    LEARNERS.iter().flat_map(move |learner| {
        OPTIMIZERS.map(|optimizer| {
            let written = [&of(optimizer)[..], &[("model.layers", "8"), ("model.classes", "2")]].concat();
            (format!("{learner} with {optimizer}"), spec(learner, &written))
        })
    })
}

fn feed(trainer: &mut Trainer, samples: &[Vec<Feature>], labels: &[f32], weights: Option<&[f32]>) {
    let mut features = Features::new();
    samples.iter().for_each(|f| features.push(f));
    let first = trainer.stats().samples + trainer.stats().refused_samples;
    let seqs: Vec<u64> = (first..).take(labels.len()).collect();
    let kinds = vec![SampleKind::Final; labels.len()];
    trainer.update(&SampleBatch {
        features: &features,
        labels,
        kinds: &kinds,
        seqs: &seqs,
        oracle: None,
        weights,
        groups: None,
    });
    let matured: Vec<Matured> =
        seqs.iter().zip(labels).map(|(seq, label)| Matured { seq: *seq, label: *label }).collect();
    trainer.mature(&matured);
}

fn sample() -> Vec<Feature> {
    vec![(0, 3, 1.0), (1, 5 << 58, -2.0), (2, 7 << 55, 0.5)]
}

/// Three features each, and labels of which half are 1.
fn drawn(seed: u64, count: usize) -> (Vec<Vec<Feature>>, Vec<f32>) {
    let mut rng = Rng::seeded(seed);
    let samples =
        (0..count).map(|_| (0..3).map(|slot| (slot, mix64(u64::from(slot) << 20 | rng.below(50)), 1.0)).collect());
    let samples = samples.collect();
    (samples, (0..count).map(|_| rng.below(2) as f32).collect())
}

fn assert_finite(trainer: &Trainer, name: &str) {
    let snapshot = trainer.snapshot();
    assert!(snapshot.entries.iter().all(|(_, params)| params.iter().all(|x| x.is_finite())), "{name}: an entry");
    assert!(snapshot.dense.iter().all(|x| x.is_finite()), "{name}: the layers");
}

/// A list of keys with values, as sparse columns have.
fn sparse_column(rows: &[Vec<(u64, f32)>]) -> ArrayRef {
    let fields =
        Fields::from(vec![Field::new("index", DataType::UInt64, false), Field::new("value", DataType::Float32, false)]);
    let all = || rows.iter().flatten();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(all().map(|p| p.0))),
        Arc::new(Float32Array::from_iter_values(all().map(|p| p.1))),
    ];
    let pairs = StructArray::new(fields.clone(), columns, None);
    let item = Arc::new(Field::new("item", DataType::Struct(fields), false));
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(rows.iter().map(Vec::len)), Arc::new(pairs), None))
}

fn extracted(rows: &[Vec<(u64, f32)>]) -> Features {
    let rows = RecordBatch::try_from_iter([("words", sparse_column(rows))]).unwrap();
    let column = ColumnSpec::Plain { column: "words".into() };
    let mut out = Features::new();
    Extractor::bind(&[column], &rows.schema()).unwrap().extract(&rows, &mut out).unwrap();
    out
}

/// Extraction refuses such a value already; a trainer that gets one learns nothing from its key, and says which.
#[test]
fn f41_b26_a_value_that_is_not_finite_spoils_no_parameter() {
    let refused = extracted(&[vec![(17, f32::NAN)], vec![(17, f32::INFINITY)], vec![(17, 1.0)]]).refused;
    let expected = [(0, "slot 'words': value of index 17 is NaN"), (1, "slot 'words': value of index 17 is inf")];
    assert_eq!(refused, expected.map(|(row, why)| (row, why.to_string())));
    for (name, spec) in all() {
        for bad in NOT_FINITE {
            let mut trainer = Trainer::new(&spec, 1).unwrap();
            let mut bad_sample = sample();
            bad_sample[1].2 = bad;
            feed(&mut trainer, &[sample(), bad_sample, sample()], &[1.0, 0.0, 1.0], None);
            feed(&mut trainer, &[sample()], &[0.0], None);
            assert!(trainer.stats().refused_non_finite > 0, "{name}, {bad}");
            assert_finite(&trainer, &name);
        }
    }
}

#[test]
fn b28_a_label_that_is_none_is_refused_counted_and_learned_by_nobody() {
    for (name, spec) in all() {
        let is_number = matches!(spec.task(), tidemill_train::Task::Regression);
        let others: &[f32] = if is_number { &[] } else { &[2.0, -1.0, 0.5, 3e9] };
        for bad in NOT_FINITE.iter().chain(others) {
            let (mut with, mut without) = (Trainer::new(&spec, 1).unwrap(), Trainer::new(&spec, 1).unwrap());
            let other = vec![(0, 99, 1.0)];
            feed(&mut with, &[sample(), other], &[1.0, *bad], None);
            feed(&mut without, &[sample(), vec![]], &[1.0, *bad], None);
            let (stats, summary) = (with.stats(), with.validation().summary());
            assert_eq!((stats.samples, stats.refused_samples), (1, 1), "{name}: label {bad}");
            assert_eq!((summary.overall.samples, summary.unscored), (1, 1), "{name}: label {bad}");
            assert_eq!((with.state_hash(), stats.entries), (without.state_hash(), 3), "{name}: label {bad}");
        }
    }
}

#[test]
fn b27_a_label_of_2_is_named_to_a_learner_of_two_classes() {
    for learner in ["LogisticRegression", "FMClassifier", "FFMClassifier", "DeepFMClassifier"] {
        let why = spec(learner, &[]).model.loss.check_label(2.0).unwrap_err();
        assert_eq!(why, "label must be 0 or 1, got 2", "{learner}");
    }
}

#[test]
fn b29_a_weight_that_is_not_finite_is_refused_and_counted() {
    for (name, spec) in all() {
        for bad in NOT_FINITE {
            let mut trainer = Trainer::new(&spec, 1).unwrap();
            feed(&mut trainer, &[sample(), vec![(0, 99, 1.0)]], &[1.0, 0.0], Some(&[1.0, bad]));
            let stats = trainer.stats();
            assert_eq!((stats.samples, stats.refused_samples, stats.entries), (1, 1, 3), "{name}: weight {bad}");
            assert_finite(&trainer, &name);
        }
        // The largest number there is: its step may be refused, and nothing else may happen.
        let mut trainer = Trainer::new(&spec, 1).unwrap();
        feed(&mut trainer, &[sample(), sample()], &[1.0, 0.0], Some(&[f32::MAX, 1.0]));
        assert_finite(&trainer, &name);
    }
}

#[test]
fn b39_a_sample_of_a_million_features_in_one_slot_is_refused_with_their_number() {
    let row = |count: u64| (0..count).map(|i| (i, 1.0)).collect::<Vec<_>>();
    let features = extracted(&[row(3), row(1_000_000), row(2)]);
    let why = format!("slot 'words': list has 1000000 features; at most {FEATURES_MAX} are taken");
    assert_eq!(features.refused, [(1, why)]);
    for (name, spec) in all() {
        let spec = spec.with_slots(&["words".into(), "bias".into()]);
        let mut trainer = Trainer::new(&spec, 1).unwrap();
        trainer.update(&SampleBatch {
            features: &features,
            labels: &[1.0, 1.0, 0.0],
            kinds: &[SampleKind::Final; 3],
            seqs: &[0, 1, 2],
            oracle: None,
            weights: None,
            groups: None,
        });
        assert_eq!((trainer.stats().samples, trainer.stats().refused_samples), (2, 1), "{name}");
    }
}

/// The longest list that is taken: no learner's work may grow with the square of it.
#[test]
fn a_sample_of_as_many_features_as_are_taken_is_learned() {
    let row: Vec<Feature> = (0..FEATURES_MAX as u64).map(|i| (0, mix64(i), 1e-3)).collect();
    for learner in LEARNERS {
        let mut trainer = Trainer::new(&spec(learner, &[("model.layers", "8")]), 1).unwrap();
        feed(&mut trainer, std::slice::from_ref(&row), &[1.0], None);
        assert_eq!((trainer.stats().samples, trainer.stats().entries), (1, FEATURES_MAX as u64), "{learner}");
        assert_finite(&trainer, learner);
    }
}

/// What cannot be said is NaN and not an infinity, or a number that looks like one.
#[test]
fn b47_labels_that_are_all_the_same_leave_no_figure_infinite() {
    let (samples, _) = drawn(1, 2_500);
    for learner in LEARNERS {
        for label in [0.0, 1.0] {
            let mut trainer =
                Trainer::new(&spec(learner, &[("model.layers", "8"), ("validate.window", "1000")]), 1).unwrap();
            feed(&mut trainer, &samples, &vec![label; samples.len()], None);
            let summary = trainer.validation().summary();
            // Layers learn slowly, and one label is easily said: they may be held for diverging until they have come near.
            if let Health::Diverging { why } = &summary.health {
                assert!(!trainer.snapshot().dense.is_empty() && why.contains("costs 0.0"), "{learner}: {why}");
            }
            assert_eq!(summary.one_class, Some((label, 2_500)), "{learner}");
            for (m, count) in [(&summary.overall, 2_500), (&summary.recent, 1_000), (&summary.since_version, 2_500)] {
                assert_eq!(m.samples, count, "{learner}");
                assert!(m.auc.is_nan() && m.normalized_entropy.is_nan(), "{learner}: {m:?}");
                assert!(m.mean_prediction.is_finite() && m.mean_label.is_finite(), "{learner}: {m:?}");
                match &m.regression {
                    Some(r) => assert!(r.r2.is_nan() && r.rmse.is_finite() && r.mae.is_finite(), "{learner}: {r:?}"),
                    None => assert!(m.logloss.is_finite(), "{learner}: {m:?}"),
                }
            }
        }
    }
}

/// No rate is too high for a named end: parameters stay numbers, samples are counted, and the health says what is wrong.
#[test]
fn a_rate_that_diverges_ends_in_a_named_state() {
    let (samples, labels) = drawn(2, 6_000);
    for learner in LEARNERS {
        let high = [
            ("model.optimizer", "sgd"),
            ("model.factors_optimizer", "sgd"),
            ("model.dense_optimizer", "sgd"),
            ("model.alpha", "1000"),
            ("model.factors_alpha", "1000"),
            ("model.dense_alpha", "1000"),
            ("model.layers", "8"),
            ("validate.window", "1000"),
        ];
        let mut trainer = Trainer::new(&spec(learner, &high), 1).unwrap();
        for (samples, labels) in samples.chunks(500).zip(labels.chunks(500)) {
            feed(&mut trainer, samples, labels, None);
        }
        let Health::Diverging { why } = trainer.validation().health() else { panic!("{learner}: not noticed") };
        assert!(why.contains("lower the learning rate"), "{learner}: {why}");
        assert_eq!(trainer.stats().samples, 6_000, "{learner}");
        assert_finite(&trainer, learner);
    }
}

/// The weight of a new key would be 0 / 0, and so would a step of a factor that has no gradient.
#[test]
fn a_beta_of_zero_is_refused_and_the_least_learns() {
    let mut settings = Settings::new(&ATTRIBUTES);
    let why = settings.set("model.beta", "0").unwrap_err();
    assert_eq!(why.message(), "model.beta must be in [0.000000001, 1000000], got 0");
    let (samples, labels) = drawn(3, 2_000);
    for learner in LEARNERS {
        for optimizer in ["ftrl", "adagrad", "rowwise_adagrad"] {
            let least = [
                ("model.beta", "1e-9"),
                ("model.optimizer", optimizer),
                ("model.factors_optimizer", optimizer),
                ("model.dense_optimizer", optimizer),
                ("model.layers", "8"),
            ];
            let mut trainer = Trainer::new(&spec(learner, &least), 1).unwrap();
            feed(&mut trainer, &samples, &labels, None);
            assert_eq!(trainer.stats().refused_non_finite, 0, "{learner} with {optimizer}");
            assert_finite(&trainer, learner);
        }
    }
}

#[test]
fn the_checkpoint_of_another_learner_or_dimension_is_refused_with_both() {
    let mut bytes = Encoder::new();
    let mut trainer = Trainer::new(&spec("FMClassifier", &[("model.factors", "8")]), 1).unwrap();
    feed(&mut trainer, &[sample()], &[1.0], None);
    trainer.encode(&mut bytes);
    let bytes = bytes.finish();
    let refused = |learner: &str, written: &[(&str, &str)]| {
        let mut decoder = Decoder::new(&bytes, "checkpoint 1");
        let error = Trainer::decode(&spec(learner, written), 1, &mut decoder).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        error.message().to_string()
    };
    for (learner, written, is) in [
        ("FMClassifier", &[("model.factors", "16")][..], "Fm { factors: 16"),
        ("FFMClassifier", &[], "Ffm { factors: 4"),
        ("LogisticRegression", &[], "Linear"),
        ("DeepFMClassifier", &[], "DeepFm("),
    ] {
        let why = refused(learner, written);
        assert!(why.starts_with("the checkpoint was made with learner = Fm { factors: 8"), "{why}");
        assert!(why.contains(&format!("now it is {is}")), "{why}");
        assert!(why.ends_with("set it back or train under another name"), "{why}");
    }
    let why = refused("FMRegressor", &[]);
    assert!(why.starts_with("the checkpoint was made with loss = Logistic, now it is Squared"), "{why}");
    let why = refused("FMClassifier", &[("model.optimizer", "sgd")]);
    assert!(why.contains("model.optimizer = Ftrl") && why.contains("now it is Sgd"), "{why}");
    let slots = spec("FMClassifier", &[]).with_slots(&["a".into()]);
    assert!(Trainer::decode(&slots, 1, &mut Decoder::new(&bytes, "checkpoint 1")).is_ok(), "names are the engine's");
}

#[test]
fn a_table_without_room_is_refused_with_the_least_that_is_enough() {
    let (samples, labels) = drawn(4, 3_000);
    for (name, spec) in all() {
        for admit_after in [1, 2] {
            let with = |bytes_max| TrainSpec { bytes_max, admit_after, ..spec.clone() };
            let error = Trainer::new(&with(4_096), 1).map(|_| ()).unwrap_err();
            let message = error.message();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(message.starts_with("train.bytes_max = 4096 is too little"), "{name}: {message}");
            let least: usize = message.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(Trainer::new(&with(least - 1), 1).is_err(), "{name}: {least} is not the least");
            let mut trainer = Trainer::new(&with(least), 1).unwrap();
            feed(&mut trainer, &samples, &labels, None);
            assert!(trainer.stats().entries > 0, "{name}: {least} bytes");
            assert!(trainer.stats().bytes <= least as u64, "{name}: {} of {least} bytes", trainer.stats().bytes);
        }
    }
}
