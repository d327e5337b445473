//! How fast the trainer is, by command: `cargo test -p tidemill-train --test speed -- --ignored --nocapture`.
//!
//! Ready features in, pass after pass: 39 keys a sample, either out of 2^20 with equal chances (every look-up is as far
//! away as it can be) or as click logs have them, a popular head and a long tail. Of several passes the fastest counts.

use tidemill_base::{Clock, Rng, SystemClock, attribute::Settings, rng::mix64};
use tidemill_model::{
    Features,
    math::sigmoid,
    optimizer::{Ftrl, Pair},
};
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{ATTRIBUTES, SampleBatch, TrainSpec, Trainer};

const ROWS: usize = 8_192;
const COLUMNS: u64 = 39;

fn uniform(rng: &mut Rng, _: u64) -> u64 {
    mix64(rng.below(1 << 20))
}

/// 13 columns of a few values, 26 of up to a million with a popular head: 2.2 million keys in a million samples.
fn clicks(rng: &mut Rng, slot: u64) -> u64 {
    let share = rng.next_f64();
    let values = if slot < 13 { 48.0 } else { (1u64 << (slot - 13).min(20)) as f64 };
    mix64(slot << 40 | (share * share * share * share * values) as u64)
}

fn features(rng: &mut Rng, key: fn(&mut Rng, u64) -> u64) -> Features {
    let mut features = Features::new();
    for _ in 0..ROWS {
        let sample: Vec<(u16, u64, f32)> = (0..COLUMNS).map(|slot| (slot as u16, key(rng, slot), 1.0)).collect();
        features.push(&sample);
    }
    features
}

#[test]
#[ignore = "a measurement, not a test"]
fn samples_per_second_from_ready_features() {
    measure("uniform", uniform);
}

#[test]
#[ignore = "a measurement, not a test"]
fn samples_per_second_from_ready_clicks() {
    measure("clicks", clicks);
}

/// Factorisation machines with the settings of `tidemill bench train`, the time of looking up, scores and steps.
#[test]
#[ignore = "a measurement, not a test"]
fn samples_per_second_of_factorisation_machines() {
    let fm = [("model.factors", "8"), ("model.factors_alpha", "0.05"), ("train.batch_size", "16")];
    let ffm = [("model.factors", "4"), ("model.factors_optimizer", "rowwise_adagrad"), ("train.batch_size", "1")];
    let mut rng = Rng::seeded(1);
    let batches: Vec<Features> = (0..20).map(|_| features(&mut rng, clicks)).collect();
    for (learner, values) in [("FMClassifier", fm), ("FFMClassifier", ffm)] {
        let mut settings = Settings::new(&ATTRIBUTES);
        values.iter().for_each(|(name, value)| settings.set(name, value).unwrap());
        let slots: Vec<String> = (0..COLUMNS).map(|slot| format!("slot{slot}")).collect();
        let spec = TrainSpec::from_settings(learner, &settings).unwrap().with_slots(&slots);
        measure_turns(learner, &spec, &batches, &mut rng);
    }
}

/// Layers of 128 and 64 over embeddings of 8 numbers, mini-batches of 256: look-up, layers, steps.
#[test]
#[ignore = "a measurement, not a test"]
fn samples_per_second_of_deep_learners() {
    let mut rng = Rng::seeded(1);
    let batches: Vec<Features> = (0..8).map(|_| features(&mut rng, clicks)).collect();
    for learner in ["MLPClassifier", "WideDeepClassifier", "DeepFMClassifier"] {
        for dense_optimizer in ["adagrad", "adam"] {
            let mut settings = Settings::new(&ATTRIBUTES);
            for (name, value) in [("train.batch_size", "256"), ("model.dense_optimizer", dense_optimizer)] {
                settings.set(name, value).unwrap();
            }
            let slots: Vec<String> = (0..COLUMNS).map(|slot| format!("slot{slot}")).collect();
            let spec = TrainSpec::from_settings(learner, &settings).unwrap().with_slots(&slots);
            measure_turns(&format!("{learner}, layers by {dense_optimizer}"), &spec, &batches, &mut rng);
        }
    }
}

fn batch<'a>(features: &'a Features, labels: &'a [f32], kinds: &'a [SampleKind], seqs: &'a [u64]) -> SampleBatch<'a> {
    SampleBatch { features, labels, kinds, seqs, oracle: None, weights: None, groups: None }
}

/// Of many turns over some batches the fastest, and what they lead to: a change for speed must not change that.
fn measure_turns(name: &str, spec: &TrainSpec, batches: &[Features], rng: &mut Rng) {
    let labels: Vec<f32> = (0..ROWS).map(|_| rng.below(2) as f32).collect();
    let kinds = vec![SampleKind::Final; ROWS];
    let clock = SystemClock::new();
    for threads in [1, 2] {
        let mut trainer = Trainer::new(spec, threads).unwrap();
        let mut fastest = 0.0f64;
        for turn in 0..3 * batches.len() as u64 {
            let begin = clock.elapsed();
            let seqs: Vec<u64> = (turn * ROWS as u64..(turn + 1) * ROWS as u64).collect();
            trainer.update(&batch(&batches[turn as usize % batches.len()], &labels, &kinds, &seqs));
            fastest = fastest.max(ROWS as f64 / (clock.elapsed() - begin).as_secs_f64());
            let matured = seqs.iter().map(|seq| Matured { seq: *seq, label: (seq % 2) as f32 });
            trainer.mature(&matured.collect::<Vec<_>>());
        }
        println!("{name}, {threads} threads: {fastest:9.0} samples/s, state {}", trainer.state_hash());
    }
}

/// Samples a second of the shortest loop that predicts and steps every sample, on a flat table without keys.
fn ceiling(batches: &[Features], labels: &[f32]) -> f64 {
    const AHEAD: usize = 48;
    let mut table = vec![[0.0f32, 0.0, 0.0, 0.0]; 1 << 22];
    let rule = Ftrl::new(0.1, 1.0, 0.0, 0.0);
    let place = |key: u64| (key >> 42) as usize;
    let clock = SystemClock::new();
    let mut pass = || {
        let begin = clock.elapsed();
        for features in batches {
            for (row, label) in labels.iter().enumerate() {
                let range = features.range(row);
                let mut score = 0.0;
                for i in range.clone() {
                    if let Some(key) = features.keys.get(i + AHEAD) {
                        tidemill_model::prefetch(&table, place(*key));
                    }
                    let [z, n, ..] = table[place(features.keys[i])];
                    score += rule.weight(z, n) * features.values[i];
                }
                let slope = sigmoid(score) - label;
                for i in range {
                    let cell = &mut table[place(features.keys[i])];
                    if let Some((z, n)) = rule.checked_step(cell[0], cell[1], slope * features.values[i], 1.0) {
                        (cell[0], cell[1]) = (z, n);
                    }
                }
            }
        }
        (batches.len() * ROWS) as f64 / (clock.elapsed() - begin).as_secs_f64()
    };
    (0..6).map(|_| pass()).fold(0.0, f64::max)
}

fn measure(name: &str, key: fn(&mut Rng, u64) -> u64) {
    let mut rng = Rng::seeded(1);
    let batches: Vec<Features> = (0..100).map(|_| features(&mut rng, key)).collect();
    let labels: Vec<f32> = (0..ROWS).map(|_| rng.below(2) as f32).collect();
    let ceiling = ceiling(&batches, &labels);
    println!("{name}: the ceiling is {ceiling:9.0} samples/s");
    let kinds = vec![SampleKind::Final; ROWS];
    let clock = SystemClock::new();
    for batch_size in [1, 16, 64, 256] {
        for threads in [1, 2] {
            let mut trainer = Trainer::new(&TrainSpec { batch_size, ..TrainSpec::default() }, threads).unwrap();
            let mut seq = 0;
            let mut pass = |trainer: &mut Trainer| {
                let begin = clock.elapsed();
                for features in &batches {
                    let seqs: Vec<u64> = (seq..seq + ROWS as u64).collect();
                    seq += ROWS as u64;
                    trainer.update(&batch(features, &labels, &kinds, &seqs));
                    let matured: Vec<Matured> =
                        seqs.iter().map(|seq| Matured { seq: *seq, label: (seq % 2) as f32 }).collect();
                    trainer.mature(&matured);
                }
                (batches.len() * ROWS) as f64 / (clock.elapsed() - begin).as_secs_f64()
            };
            let growing = pass(&mut trainer);
            let full = (0..6).map(|_| pass(&mut trainer)).fold(0.0, f64::max);
            let entries = trainer.stats().entries;
            println!(
                "{name}, batch_size {batch_size:3}, {threads} threads: {growing:9.0} samples/s while the table grows to \
                 {entries} entries, then {full:9.0}, {:.0}% of the ceiling",
                100.0 * full / ceiling
            );
        }
    }
}
