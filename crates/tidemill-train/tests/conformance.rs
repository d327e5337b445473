//! The battery every learner passes: gradient, order, unseen keys, refusal, repetition, snapshots, deltas, restarts, threads.

use tidemill_base::{
    Rng, StateHash,
    codec::{Decoder, Encoder},
    rng::mix64,
};
use tidemill_model::{Delta, Features, Snapshot, WeightTable, math::sigmoid, optimizer::Ftrl};
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{SampleBatch, TrainSpec, Trainer};

/// Samples with their own vectors, from which batches are cut.
#[derive(Clone, Default)]
struct Samples {
    features: Vec<Vec<(u64, f32)>>,
    labels: Vec<f32>,
    kinds: Vec<SampleKind>,
    seqs: Vec<u64>,
    oracle: Vec<f64>,
}

impl Samples {
    fn push(&mut self, features: &[(u64, f32)], label: f32, kind: SampleKind, seq: u64, oracle: f64) {
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
        });
        let rows = (begin..end).filter(|row| matches!(self.kinds[*row], SampleKind::Final | SampleKind::Correct));
        let matured: Vec<Matured> =
            rows.map(|row| Matured { seq: self.seqs[row], positive: self.labels[row] == 1.0 }).collect();
        trainer.mature(&matured);
    }
}

/// Clicks on eight categorical slots whose true weights are hashes of their keys; every tenth positive comes late, as an
/// early negative that is corrected twenty rows on, or at the end: every impression gets its final label.
fn clicks(seed: u64, count: usize) -> Samples {
    let mut rng = Rng::seeded(seed);
    let mut samples = Samples::default();
    let mut late = Vec::new();
    for seq in 0..count as u64 {
        let mut features: Vec<(u64, f32)> =
            (0..8u64).map(|slot| (mix64(slot << 32 | rng.below(1 + 40 * slot)), 1.0)).collect();
        features.push((mix64(99), rng.normal() as f32 * 0.5));
        let truth = |key: u64| (key % 1000) as f64 / 1000.0 - 0.55;
        let logit: f64 = features.iter().map(|(key, x)| truth(*key) * *x as f64).sum();
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

fn trained(samples: &Samples, threads: usize) -> Trainer {
    let mut trainer = Trainer::new(&TrainSpec::default(), threads);
    cuts(samples).into_iter().for_each(|(begin, end)| samples.feed(&mut trainer, begin, end));
    trainer
}

fn encoded(trainer: &Trainer) -> Vec<u8> {
    let mut out = Encoder::new();
    trainer.encode(&mut out);
    out.finish()
}

fn one(features: &[(u64, f32)], label: f32) -> Samples {
    let mut samples = Samples::default();
    samples.push(features, label, SampleKind::Final, 0, f64::NAN);
    samples
}

fn weight(trainer: &Trainer, key: u64) -> f32 {
    WeightTable::from_snapshot(&trainer.snapshot()).weight(key)
}

fn f(features: &[(u64, f32)]) -> (Vec<u64>, Vec<f32>) {
    features.iter().copied().unzip()
}

/// The learner has to be worth the bits it keeps: on 40,000 samples the recent log loss comes near the best possible.
#[test]
fn progressive_log_loss_comes_near_the_best_possible() {
    let samples = clicks(1, 40_000);
    let mut spec = TrainSpec { validate_window: 10_000, ..TrainSpec::default() };
    spec.alpha = 0.2;
    let mut trainer = Trainer::new(&spec, 1);
    cuts(&samples).into_iter().for_each(|(begin, end)| samples.feed(&mut trainer, begin, end));
    let s = trainer.validation().summary();
    let (recent, best) = (s.recent.logloss, s.recent.best_logloss.unwrap());
    assert!(recent > best && recent < best * 1.03, "{recent} against {best}");
    assert!(s.recent.auc > 0.65 && s.recent.normalized_entropy < 0.95, "{:?}", s.recent);
    let (early, final_) = samples.kinds.iter().fold((0, 0), |(e, f), kind| match kind {
        SampleKind::Early => (e + 1, f),
        SampleKind::Final => (e, f + 1),
        _ => (e, f),
    });
    assert_eq!(trainer.stats().samples, early + final_);
    assert!(early > 1_000);
}

/// A first step from zero moves each weight by -alpha * g / (beta + |g|), so the weight tells the gradient, which must be
/// the slope of the loss.
#[test]
fn the_gradient_is_the_slope_of_the_logistic_loss() {
    let loss = |logit: f64, label: f64| (1.0 + logit.exp()).ln() - label * logit;
    for (label, x) in [(0.0f32, 1.0f32), (1.0, 1.0), (1.0, -0.7), (0.0, 2.5)] {
        // A known feature brings the logit away from 0; its weight is learned first.
        let mut trainer = Trainer::new(&TrainSpec::default(), 1);
        one(&[(5, 3.0)], 1.0).feed(&mut trainer, 0, 1);
        let base = weight(&trainer, 5) as f64 * 3.0;
        let mut features = vec![(5, 3.0), (9 << 58, x)];
        features.sort_by_key(|p| p.0);
        one(&features, label).feed(&mut trainer, 0, 1);
        let h = 1e-5;
        let slope = (loss(base + h * x as f64, label as f64) - loss(base - h * x as f64, label as f64)) / (2.0 * h);
        let expected = -0.1 * slope / (1.0 + slope.abs());
        let got = weight(&trainer, 9 << 58) as f64;
        assert!((got - expected).abs() < 1e-6, "label {label}, x {x}: {got} against {expected}");
    }
}

#[test]
fn the_order_in_which_features_are_given_does_not_matter() {
    let samples = clicks(2, 2_000);
    let mut turned = samples.clone();
    turned.features.iter_mut().enumerate().for_each(|(i, f)| f.rotate_left(i % 9));
    assert_eq!(encoded(&trained(&samples, 1)), encoded(&trained(&turned, 1)));
}

#[test]
fn keys_never_seen_contribute_nothing_and_zeros_make_no_entry() {
    let samples = clicks(3, 500);
    let mut trainer = trained(&samples, 1);
    let table = WeightTable::from_snapshot(&trainer.snapshot());
    let (keys, values) = f(&[(3, 1.0), (7 << 58, 100.0)]);
    assert_eq!(table.logit(&keys, &values), 0.0);
    let entries = trainer.stats().entries;
    one(&[(3, 0.0), (7 << 58, 0.0)], 1.0).feed(&mut trainer, 0, 1);
    assert_eq!(trainer.stats().entries, entries);
}

#[test]
fn a_non_finite_gradient_is_refused_counted_and_named() {
    let mut trainer = Trainer::new(&TrainSpec::default(), 1);
    // The square of this gradient is no f32 any more.
    one(&[(5, 1e30), (6, 1.0)], 1.0).feed(&mut trainer, 0, 1);
    let stats = trainer.stats();
    assert_eq!((stats.refused_non_finite, stats.refused_key, stats.entries), (1, Some(5), 1));
}

/// Two infinite contributions of opposite sign make a logit that is not a number.
#[test]
fn a_sample_without_a_logit_is_refused_counted_and_not_scored() {
    // With alpha 10 the first step goes to -10 * g / (1 + |g|) = 3.33 for g = -0.5.
    let mut trainer = Trainer::new(&TrainSpec { alpha: 10.0, ..TrainSpec::default() }, 1);
    one(&[(7, 1.0)], 1.0).feed(&mut trainer, 0, 1);
    one(&[(8, 1.0)], 0.0).feed(&mut trainer, 0, 1);
    let before = trainer.state_hash();
    let mut sample = one(&[(6, 1.0), (7, 3e38), (8, 3e38)], 1.0);
    sample.seqs[0] = 5;
    sample.feed(&mut trainer, 0, 1);
    let (stats, summary) = (trainer.stats(), trainer.validation().summary());
    assert_eq!((stats.refused_non_finite, stats.refused_key), (1, Some(7)));
    assert_eq!(trainer.state_hash(), before);
    assert_eq!((summary.samples, summary.unscored), (1, 2), "seq 0 came twice and counts once; seq 5 has no score");
}

#[test]
fn a_refused_sample_is_neither_learned_from_nor_scored() {
    let samples = clicks(4, 600);
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
    let mut trainer = Trainer::new(&TrainSpec::default(), 1);
    let labels = &samples.labels[rows.clone()];
    trainer.update(&SampleBatch { features: &features, labels, kinds: &kinds, seqs: &seqs, oracle: None });
    trainer.mature(&seqs.iter().map(|seq| Matured { seq: *seq, positive: false }).collect::<Vec<_>>());
    let (stats, summary) = (trainer.stats(), trainer.validation().summary());
    assert_eq!((stats.samples, stats.refused_samples), (85, 15));
    assert_eq!((summary.samples, summary.unscored, summary.best_logloss), (85, 15, None));
}

#[test]
fn the_same_samples_give_the_same_bits_and_others_do_not() {
    let hash = |seed| trained(&clicks(seed, 3_000), 1).state_hash();
    assert_eq!(hash(5), hash(5));
    assert_ne!(hash(5), hash(6));
}

/// The promise of the whole design, at its smallest: threads change nothing, not even in the checkpoint's bytes.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let samples = clicks(7, 12_000);
    let expected = encoded(&trained(&samples, 1));
    for threads in [2, 3, 4, 8, 64] {
        assert!(encoded(&trained(&samples, threads)) == expected, "{threads} threads");
    }
}

/// Killing and restoring after any call, with another number of threads, must not change one bit of what follows.
#[test]
fn a_restored_trainer_continues_bit_for_bit() {
    let samples = clicks(8, 6_000);
    let cuts = cuts(&samples);
    let expected = encoded(&trained(&samples, 1));
    for restart_at in 0..cuts.len() {
        let mut trainer = Trainer::new(&TrainSpec::default(), 2);
        for (i, (begin, end)) in cuts.iter().enumerate() {
            samples.feed(&mut trainer, *begin, *end);
            if i == restart_at {
                let bytes = encoded(&trainer);
                let mut d = Decoder::new(&bytes, "checkpoint 1");
                let restored = Trainer::decode(&TrainSpec::default(), 1 + i % 3, &mut d).unwrap();
                d.end().unwrap();
                assert_eq!(restored.stats().entries, trainer.stats().entries);
                assert_eq!(restored.validation().summary().samples, trainer.validation().summary().samples);
                trainer = restored;
            }
        }
        assert!(encoded(&trainer) == expected, "restored after call {restart_at}");
    }
}

#[test]
fn the_state_of_other_settings_is_refused() {
    let bytes = encoded(&trained(&clicks(9, 100), 1));
    let decode = |spec: &TrainSpec, bytes: &[u8]| {
        Trainer::decode(spec, 1, &mut Decoder::new(bytes, "checkpoint 1"))
            .map(|_| ())
            .unwrap_err()
            .message()
            .to_string()
    };
    let other = TrainSpec { alpha: 0.2, ..TrainSpec::default() };
    assert_eq!(
        decode(&other, &bytes),
        "the checkpoint was made with model.alpha = 0.1, now it is 0.2; set it back or train under another name"
    );
    for cut in (0..bytes.len()).step_by(13) {
        assert!(decode(&TrainSpec::default(), &bytes[..cut]).contains("ends at byte"), "cut at {cut}");
    }
}

/// What serving computes from a snapshot is what the trainer computed before it learned: the same bits.
#[test]
fn serving_gives_the_trainers_own_prediction_bit_for_bit() {
    let count = 4_000;
    let samples = clicks(10, count);
    let trainer = trained(&samples, 1);
    let bytes = trainer.snapshot().encode();
    let table = WeightTable::from_snapshot(&Snapshot::decode(&bytes, "version 1").unwrap());
    let before = trainer.validation().summary();
    assert_eq!((before.samples, before.unscored), (count as u64, 0));
    for row in [5, 17, 99] {
        let mut features = Features::new();
        features.push(&samples.features[row]);
        let (keys, values) = features.sample(0);
        let p = sigmoid(table.logit(keys, values)) as f64;
        // Scores come in the order of impressions, so this one is the next.
        let mut sample = one(&samples.features[row], 1.0);
        sample.seqs[0] = count as u64;
        let mut fork = trainer.fork();
        sample.feed(&mut fork, 0, 1);
        let after = fork.validation().summary();
        assert_eq!(after.samples, before.samples + 1);
        let total = |s: &tidemill_train::Summary| s.mean_prediction * s.samples as f64;
        assert!((total(&after) - total(&before) - p).abs() < 1e-9, "row {row}");
    }
}

trait Fork {
    fn fork(&self) -> Trainer;
}

impl Fork for Trainer {
    fn fork(&self) -> Trainer {
        Trainer::decode(&TrainSpec::default(), 1, &mut Decoder::new(&encoded(self), "fork")).unwrap()
    }
}

#[test]
fn deltas_applied_in_sequence_give_the_later_snapshot() {
    let samples = clicks(11, 8_000);
    let spec = TrainSpec { l1: 0.5, ..TrainSpec::default() }; // so that weights also return to zero
    let mut trainer = Trainer::new(&spec, 2);
    let mut table = WeightTable::from_snapshot(&trainer.snapshot());
    let (mut sequence, mut merged) = (0, Delta::default());
    for (begin, end) in cuts(&samples) {
        samples.feed(&mut trainer, begin, end);
        let delta = Delta::decode(&trainer.take_delta().encode(), "delta").unwrap();
        assert_eq!((delta.from, delta.to), (sequence, sequence + 1));
        assert!(delta.entries.is_sorted_by(|a, b| a.0 < b.0));
        sequence = delta.to;
        table.apply(&delta);
        merged.merge(&delta).unwrap();
    }
    let snapshot = trainer.snapshot();
    assert_eq!((snapshot.sequence, table.len()), (sequence, snapshot.entries.len()));
    assert!(snapshot.entries.len() < trainer.stats().entries as usize);
    let mut at_once = WeightTable::default();
    at_once.apply(&merged);
    for (key, weight) in &snapshot.entries {
        assert_eq!((table.weight(*key), at_once.weight(*key)), (*weight, *weight));
    }
    assert!(trainer.take_delta().entries.is_empty());
}

/// An early 0 that becomes 1 is one step with gradient exactly -x, whatever the prediction was.
#[test]
fn retract_and_correct_is_one_step_with_gradient_minus_x() {
    let x = [(3u64, 0.37f32), (8 << 58, -1.5)];
    let mut samples = one(&x, 0.0);
    samples.kinds[0] = SampleKind::Early;
    samples.push(&x, 0.0, SampleKind::Retract, 0, f64::NAN);
    samples.push(&x, 1.0, SampleKind::Correct, 0, f64::NAN);
    let mut trainer = Trainer::new(&TrainSpec::default(), 1);
    samples.feed(&mut trainer, 0, 1);
    samples.feed(&mut trainer, 1, 3);
    let ftrl = Ftrl::new(0.1, 1.0, 0.0, 0.0);
    for (key, x) in x {
        let (z, n) = ftrl.step(0.0, 0.0, 0.5 * x).unwrap(); // the early negative, predicted 0.5
        let (z, n) = ftrl.step(z, n, -x).unwrap();
        assert_eq!(weight(&trainer, key).to_bits(), ftrl.weight(z, n).to_bits());
    }
    let s = trainer.validation().summary();
    assert_eq!((s.samples, s.positives, trainer.stats().samples, trainer.stats().corrections), (1, 1, 1, 1));
    assert_eq!(s.logloss as f32, std::f32::consts::LN_2, "scored is the early prediction, 0.5");
}

/// Which new keys a full table turns away must not depend on threads either.
#[test]
fn a_full_table_admits_the_same_keys_with_any_number_of_threads() {
    let samples = clicks(12, 4_000);
    let spec = TrainSpec { entries_max: 640, ..TrainSpec::default() };
    let run = |threads| -> (StateHash, u64, u64) {
        let mut trainer = Trainer::new(&spec, threads);
        cuts(&samples).into_iter().for_each(|(begin, end)| samples.feed(&mut trainer, begin, end));
        let stats = trainer.stats();
        (trainer.state_hash(), stats.entries, stats.refused_admissions)
    };
    let (hash, entries, refused) = run(1);
    assert!(entries <= 640 && refused > 0, "{entries} entries, {refused} refused");
    assert_eq!(run(2), (hash, entries, refused));
    assert_eq!(run(5), (hash, entries, refused));
}

/// Mini-batches are part of the result: within one, samples do not see each other. Calls cut them too.
#[test]
fn samples_of_a_mini_batch_are_predicted_with_the_parameters_before_it() {
    let mut samples = Samples::default();
    (0..3).for_each(|seq| samples.push(&[(5, 1.0)], 1.0, SampleKind::Final, seq, f64::NAN));
    let run = |batch_size, calls: &[(usize, usize)]| {
        let mut trainer = Trainer::new(&TrainSpec { batch_size, ..TrainSpec::default() }, 1);
        calls.iter().for_each(|(begin, end)| samples.feed(&mut trainer, *begin, *end));
        (trainer.validation().summary().mean_prediction, trainer.stats().updates)
    };
    assert_eq!(run(3, &[(0, 3)]), (0.5, 1));
    assert!(run(1, &[(0, 3)]).0 > 0.5);
    assert_eq!(run(1, &[(0, 3)]), run(3, &[(0, 1), (1, 2), (2, 3)]));
}
