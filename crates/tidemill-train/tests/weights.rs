//! Sample weights: a large one is many samples, and never more than its label.

use tidemill_base::{Rng, attribute::Settings, codec::Encoder, rng::mix64};
use tidemill_model::{Features, WeightTable, weights::ScoreScratch};
use tidemill_stream::join::SampleKind;
use tidemill_train::{ATTRIBUTES, LEARNERS, SampleBatch, TrainSpec, Trainer};

type Feature = (u16, u64, f32);

/// A learner with its settings, for three slots.
fn spec(learner: &str, written: &[(&str, &str)]) -> TrainSpec {
    let mut settings = Settings::new(&ATTRIBUTES);
    written.iter().for_each(|(name, value)| settings.set(name, value).unwrap());
    let slots: Vec<String> = (0..3).map(|slot| format!("slot{slot}")).collect();
    TrainSpec::from_settings(learner, &settings).unwrap().with_slots(&slots)
}

/// Logistic regression by SGD.
fn sgd(alpha: &str) -> TrainSpec {
    spec("LogisticRegression", &[("model.optimizer", "sgd"), ("model.alpha", alpha), ("train.batch_size", "1")])
}

fn feed(trainer: &mut Trainer, samples: &[Vec<Feature>], labels: &[f32], weights: Option<&[f32]>) {
    let kinds = vec![SampleKind::Final; labels.len()];
    feed_kinds(trainer, samples, labels, &kinds, weights);
}

fn feed_kinds(
    trainer: &mut Trainer,
    samples: &[Vec<Feature>],
    labels: &[f32],
    kinds: &[SampleKind],
    weights: Option<&[f32]>,
) {
    let mut features = Features::new();
    samples.iter().for_each(|f| features.push(f));
    let seqs: Vec<u64> = (0..labels.len() as u64).collect();
    trainer.update(&SampleBatch {
        features: &features,
        labels,
        kinds,
        seqs: &seqs,
        oracle: None,
        weights,
        groups: None,
    });
}

fn score(trainer: &Trainer, sample: &[Feature]) -> f32 {
    let mut features = Features::new();
    features.push(sample);
    let mut scores = Vec::new();
    WeightTable::from_snapshot(&trainer.snapshot())
        .score(&features, &mut ScoreScratch::default(), &mut scores)
        .unwrap();
    scores[0]
}

fn encoded(trainer: &Trainer) -> Vec<u8> {
    let mut out = Encoder::new();
    trainer.encode(&mut out);
    out.finish()
}

/// Samples of thirty features of all values, with labels.
fn drawn(seed: u64, count: usize) -> (Vec<Vec<Feature>>, Vec<f32>) {
    let mut rng = Rng::seeded(seed);
    let feature = |rng: &mut Rng, i: u64| ((i / 10) as u16, mix64(i << 20 | rng.below(50)), rng.normal() as f32);
    let samples = (0..count).map(|_| (0..30).map(|i| feature(&mut rng, i)).collect()).collect();
    (samples, (0..count).map(|_| rng.below(2) as f32).collect())
}

const SAMPLE: [Feature; 3] = [(0, 3, 1.0), (1, 5 << 58, -2.0), (2, 7 << 55, 0.5)];

#[test]
fn a_weight_of_a_hundred_is_about_a_hundred_samples() {
    for (alpha, label) in [("0.001", 1.0), ("0.02", 0.0), ("0.1", 1.0)] {
        let spec = sgd(alpha);
        let (mut once, mut often) = (Trainer::new(&spec, 1).unwrap(), Trainer::new(&spec, 1).unwrap());
        feed(&mut once, &[SAMPLE.to_vec()], &[label], Some(&[100.0]));
        feed(&mut often, &vec![SAMPLE.to_vec(); 100], &vec![label; 100], None);
        let (once, often) = (score(&once, &SAMPLE), score(&often, &SAMPLE));
        assert!((once - often).abs() < 0.03 * often.abs(), "alpha {alpha}: {once} and {often}");
    }
}

/// Scaled plainly, a million times the first slope would bring the score beyond 2,000.
#[test]
fn a_weight_of_a_million_does_not_overshoot_the_label() {
    let weight = Some(&[1e6f32][..]);
    let mut classifier = Trainer::new(&sgd("0.01"), 1).unwrap();
    feed(&mut classifier, &[SAMPLE.to_vec()], &[1.0], weight);
    // x + e^x - 1 = 1e6 * 0.01 * (1 + 4 + 0.25) = 52,500 at x = 10.868
    let reached = score(&classifier, &SAMPLE);
    assert!((reached - 10.868).abs() < 0.02, "{reached}");
    for optimizer in ["sgd", "momentum", "adagrad", "rowwise_adagrad", "ftrl"] {
        for bounds in [&[][..], &[("model.label_min", "0"), ("model.label_max", "3")], &[("model.huber_delta", "0.5")]]
        {
            let written = [&[("model.optimizer", optimizer), ("model.alpha", "0.01")], bounds].concat();
            let mut regressor = Trainer::new(&spec("LinearRegression", &written), 1).unwrap();
            feed(&mut regressor, &[SAMPLE.to_vec()], &[3.0], weight);
            let reached = score(&regressor, &SAMPLE);
            assert!((0.01..3.001).contains(&reached), "{optimizer} {bounds:?}: {reached}");
            assert!(optimizer != "sgd" || reached > 2.999, "{bounds:?}: {reached}");
        }
    }
}

/// Threads add up how far a step goes in the tree in which they add up scores.
#[test]
fn any_number_of_threads_learns_weights_to_the_same_bits() {
    let (samples, labels) = drawn(3, 4_000);
    let mut rng = Rng::seeded(4);
    let weights: Vec<f32> = (0..labels.len()).map(|_| [0.0, 0.3, 1.0, 2.5, 70.0][rng.below(5) as usize]).collect();
    for learner in ["LogisticRegression", "LinearRegression", "FMClassifier"] {
        for optimizer in ["sgd", "momentum", "adagrad", "ftrl", "adam"] {
            let spec = spec(learner, &[("model.optimizer", optimizer), ("model.alpha", "0.003")]);
            let run = |threads, weights: Option<&[f32]>| {
                let mut trainer = Trainer::new(&spec, threads).unwrap();
                feed(&mut trainer, &samples, &labels, weights);
                encoded(&trainer)
            };
            let expected = run(1, Some(&weights));
            assert!(expected != run(1, None), "{learner} with {optimizer}: weights change nothing");
            for threads in [2, 4, 8] {
                assert!(run(threads, Some(&weights)) == expected, "{learner} with {optimizer}, {threads} threads");
            }
        }
    }
}

#[test]
fn a_weight_of_1_is_no_weight_to_the_bit() {
    let (samples, labels) = drawn(5, 1_500);
    let ones = vec![1.0; labels.len()];
    for learner in LEARNERS {
        for optimizer in ["sgd", "momentum", "adagrad", "ftrl", "adam"] {
            let spec = spec(learner, &[("model.optimizer", optimizer), ("model.layers", "8")]);
            let run = |weights| {
                let mut trainer = Trainer::new(&spec, 2).unwrap();
                feed(&mut trainer, &samples, &labels, weights);
                encoded(&trainer)
            };
            assert!(run(Some(&ones)) == run(None), "{learner} with {optimizer}");
        }
    }
}

/// What takes back, takes back as much as its weight says: there is no label to stop at.
#[test]
fn corrections_and_weights_below_zero_scale_the_slope() {
    let x: [Feature; 1] = [(0, 3, 1.0)];
    let mut trainer = Trainer::new(&sgd("0.5"), 1).unwrap();
    feed(&mut trainer, &[x.to_vec()], &[1.0], Some(&[-4.0]));
    // -0.5 * (-4 * (0.5 - 1))
    assert_eq!(score(&trainer, &x), -1.0);
    let kinds = [SampleKind::Retract, SampleKind::Correct];
    feed_kinds(&mut trainer, &[x.to_vec(), x.to_vec()], &[0.0, 1.0], &kinds, Some(&[8.0, 8.0]));
    // -1 + 0.5 * 8
    assert_eq!(score(&trainer, &x), 3.0);
}

/// A mini-batch is of samples that do not see each other, and a weight of zero is of one that is not there.
#[test]
fn a_weight_of_zero_learns_nothing_and_makes_no_entry() {
    for learner in LEARNERS {
        let mut trainer = Trainer::new(&spec(learner, &[("model.layers", "8")]), 1).unwrap();
        feed(&mut trainer, &[SAMPLE.to_vec()], &[1.0], Some(&[0.0]));
        assert_eq!((trainer.stats().entries, trainer.stats().refused_non_finite), (0, 0), "{learner}");
    }
}
