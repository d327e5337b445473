//! What versions of fewer bits cost: measured log loss, bytes, and that learning does not notice.

use tidemill_base::{Rng, attribute::Settings, rng::mix64};
use tidemill_model::{Delta, Features, Snapshot, WeightTable, weights::ScoreScratch};
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{ATTRIBUTES, SampleBatch, TrainSpec, Trainer};

const SLOTS: usize = 6;
const BATCH: usize = 512;

struct Rows {
    features: Features,
    labels: Vec<f32>,
}

/// Clicks whose probability is of six keys and of two pairs of them.
fn clicks(seed: u64, count: usize) -> Rows {
    let mut rng = Rng::seeded(seed);
    let mut rows = Rows { features: Features::new(), labels: Vec::new() };
    for _ in 0..count {
        let keys: Vec<u64> =
            (0..SLOTS as u64).map(|slot| mix64(slot << 32 | rng.below(20 << slot.min(4))) | 1).collect();
        let of = |key: u64| (mix64(key) % 1000) as f64 / 1000.0 - 0.5;
        let logit: f64 = keys.iter().map(|key| of(*key)).sum::<f64>()
            + 2.0 * of(keys[0]) * of(keys[1]).signum()
            + 2.0 * of(keys[2]) * of(keys[3]).signum()
            - 0.5;
        let row: Vec<(u16, u64, f32)> = keys.iter().enumerate().map(|(slot, key)| (slot as u16, *key, 1.0)).collect();
        rows.features.push(&row);
        rows.labels.push(f32::from(u8::from(rng.next_f64() < 1.0 / (1.0 + (-logit).exp()))));
    }
    rows
}

fn spec(learner: &str, written: &[(&str, &str)]) -> TrainSpec {
    let mut settings = Settings::new(&ATTRIBUTES);
    written.iter().for_each(|(name, text)| settings.set(name, text).unwrap());
    let slots: Vec<String> = (0..SLOTS).map(|slot| format!("c{slot}")).collect();
    TrainSpec::from_settings(learner, &settings).unwrap().with_slots(&slots)
}

fn slice(rows: &Rows, begin: usize, end: usize) -> Features {
    let mut features = Features::new();
    for i in begin..end {
        let range = rows.features.range(i);
        features.keys.extend(&rows.features.keys[range.clone()]);
        features.values.extend(&rows.features.values[range.clone()]);
        features.slots.extend(&rows.features.slots[range]);
        features.ends.push(features.keys.len() as u32);
    }
    features
}

/// Learns all rows and tells `each` after every batch.
fn learn(trainer: &mut Trainer, rows: &Rows, mut each: impl FnMut(&mut Trainer)) {
    for begin in (0..rows.labels.len()).step_by(BATCH) {
        let end = (begin + BATCH).min(rows.labels.len());
        let features = slice(rows, begin, end);
        let (kinds, seqs) = (vec![SampleKind::Final; end - begin], (begin as u64..end as u64).collect::<Vec<_>>());
        let labels = &rows.labels[begin..end];
        trainer.update(&SampleBatch {
            features: &features,
            labels,
            kinds: &kinds,
            seqs: &seqs,
            oracle: None,
            weights: None,
            groups: None,
        });
        let matured: Vec<Matured> =
            seqs.iter().zip(labels).map(|(seq, label)| Matured { seq: *seq, label: *label }).collect();
        trainer.mature(&matured);
        each(trainer);
    }
}

fn logloss(snapshot: &Snapshot, rows: &Rows) -> f64 {
    let (table, mut scores) = (WeightTable::from_snapshot(snapshot), Vec::new());
    table.score(&rows.features, &mut ScoreScratch::default(), &mut scores).unwrap();
    let loss = |(score, label): (&f32, &f32)| {
        (if *label > 0.0 { -f64::from(*score) } else { f64::from(*score) }).exp().ln_1p()
    };
    scores.iter().zip(&rows.labels).map(loss).sum::<f64>() / rows.labels.len() as f64
}

/// Held-out log loss by learner and precision: 16 bits cost less than 1e-5 of it, 8 bits with a step of their own for each
/// entry less than 2e-4. Learning is the same to the bit, and what a listener makes of deltas is the version.
#[test]
fn fewer_bits_cost_little_and_learning_does_not_notice() {
    let (rows, held_out) = (clicks(1, 60_000), clicks(2, 20_000));
    for (learner, more) in [
        ("LogisticRegression", vec![]),
        ("FMClassifier", vec![("model.factors", "8")]),
        ("FFMClassifier", vec![("model.factors", "4")]),
        ("DeepFMClassifier", vec![("model.embedding", "16"), ("model.layers", "16")]),
    ] {
        let mut plain: Option<(f64, usize, tidemill_base::StateHash)> = None;
        for precision in ["f32", "f16", "int8"] {
            let written: Vec<_> = more.iter().copied().chain([("publish.precision", precision)]).collect();
            let mut trainer = Trainer::new(&spec(learner, &written), 1).unwrap();
            let mut served: Option<WeightTable> = None;
            let mut sent = 0;
            learn(&mut trainer, &rows, |trainer| {
                let delta = trainer.take_delta();
                let bytes = delta.encode();
                sent += bytes.len();
                let delta = Delta::decode(&bytes, "delta").unwrap();
                match &mut served {
                    Some(served) => served.apply(&delta),
                    None => served = Some(WeightTable::from_snapshot(&trainer.snapshot())),
                }
            });
            let snapshot = trainer.snapshot();
            assert_eq!(served.unwrap().entries(), snapshot.entries, "{learner} {precision}");
            let bytes = snapshot.encode();
            assert_eq!(Snapshot::decode(&bytes, "test").unwrap(), snapshot);
            let (loss, state) = (logloss(&snapshot, &held_out), trainer.state_hash());
            let (before, whole, hash) = *plain.get_or_insert((loss, bytes.len(), state));
            println!(
                "{learner} {precision}: held-out log loss {loss:.7} ({:+.1e}), {} bytes ({:.2}), deltas {sent}",
                loss - before,
                bytes.len(),
                bytes.len() as f64 / whole as f64
            );
            assert_eq!(state, hash, "what is learned does not see it");
            let allowed = if precision == "int8" { 2e-4 } else { 1e-5 };
            assert!((loss - before).abs() <= allowed * before, "{learner} {precision}: {loss} {before}");
            let is_wide = snapshot.entries.width >= 17;
            assert!(!is_wide || precision == "f32" || bytes.len() < whole * 8 / 10, "{learner} {precision}");
        }
    }
}

/// By slot: what a slot says holds for its entries and for no others; one weight beside its key keeps no slot.
#[test]
fn slots_have_precisions_of_their_own() {
    let rows = clicks(3, 5_000);
    let published = |precision: &str| {
        let mut trainer = Trainer::new(&spec("FMClassifier", &[("publish.precision", precision)]), 1).unwrap();
        learn(&mut trainer, &rows, |_| {});
        trainer.snapshot()
    };
    let (plain, half, mixed) = (published("f32"), published("f16"), published("f32; c0=f16"));
    let of_slot_0: Vec<u64> = (0..20).map(|i| mix64(i) | 1).collect();
    let mut rounded = 0;
    for (((key, mixed), (_, plain)), (_, half)) in
        mixed.entries.iter().zip(plain.entries.iter()).zip(half.entries.iter())
    {
        let is_rounded = of_slot_0.contains(&key);
        assert_eq!(mixed, if is_rounded { half } else { plain });
        assert_ne!(plain, half);
        rounded += usize::from(is_rounded);
    }
    assert_eq!(rounded, 20);
    for (learner, precision, why) in [
        ("FMClassifier", "f16; c9=f32", "publish.precision: no slot 'c9' (have c0, c1, c2, c3, c4, c5)"),
        ("LogisticRegression", "f16; c0=f32", "one weight beside their key and do not keep their slot"),
    ] {
        let refused = Trainer::new(&spec(learner, &[("publish.precision", precision)]), 1).map(drop).unwrap_err();
        assert!(refused.message().contains(why), "{refused}");
    }
}
