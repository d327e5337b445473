//! Settings by slot: each slot is learned by its own, whatever learner, optimizer, threads and restarts; and what does not
//! go together is refused.

use tidemill_base::{
    Rng,
    attribute::Settings,
    codec::{Decoder, Encoder},
    rng::mix64,
};
use tidemill_model::{Delta, Features, Snapshot, WeightTable, weights::ScoreScratch};
use tidemill_stream::join::{Matured, SampleKind};
use tidemill_train::{ATTRIBUTES, LEARNERS, SampleBatch, TrainSpec, Trainer};

const SLOTS: [&str; 4] = ["ad", "city", "hour", "user"];
const BATCH: usize = 500;

/// Rows of (slot, key, value), with labels.
#[derive(Clone, Default)]
struct Rows {
    features: Vec<Vec<(u16, u64, f32)>>,
    labels: Vec<f32>,
}

/// Clicks on four slots of 10 to 5,000 keys.
fn clicks(seed: u64, count: usize) -> Rows {
    let mut rng = Rng::seeded(seed);
    let mut rows = Rows::default();
    for _ in 0..count {
        let keys = [40, 200, 10, 5_000].map(|keys| rng.below(keys));
        let features: Vec<(u16, u64, f32)> =
            (0u16..).zip(keys).map(|(slot, key)| (slot, mix64(u64::from(slot) << 32 | key) | 1, 1.0)).collect();
        let logit: f64 = features.iter().map(|(_, key, _)| (mix64(*key) % 1000) as f64 / 1000.0 - 0.6).sum();
        rows.features.push(features);
        rows.labels.push(f32::from(u8::from(rng.next_f64() < 1.0 / (1.0 + (-logit).exp()))));
    }
    rows
}

fn settings(written: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::new(&ATTRIBUTES);
    written.iter().for_each(|(name, value)| settings.set(name, value).unwrap());
    settings
}

fn spec(learner: &str, written: &[(&str, &str)]) -> TrainSpec {
    TrainSpec::from_settings(learner, &settings(written)).unwrap().with_slots(&SLOTS.map(str::to_string))
}

fn feed(trainer: &mut Trainer, rows: &Rows, begin: usize, end: usize) {
    let mut features = Features::new();
    rows.features[begin..end].iter().for_each(|row| features.push(row));
    let seqs: Vec<u64> = (begin as u64..end as u64).collect();
    let labels = &rows.labels[begin..end];
    trainer.update(&SampleBatch {
        features: &features,
        labels,
        kinds: &vec![SampleKind::Final; end - begin],
        seqs: &seqs,
        oracle: None,
        weights: None,
        groups: None,
    });
    let matured: Vec<Matured> =
        seqs.iter().zip(labels).map(|(seq, label)| Matured { seq: *seq, label: *label }).collect();
    trainer.mature(&matured);
}

fn feed_all(trainer: &mut Trainer, rows: &Rows) {
    for begin in (0..rows.labels.len()).step_by(BATCH) {
        feed(trainer, rows, begin, rows.labels.len().min(begin + BATCH));
    }
}

fn learned(spec: &TrainSpec, rows: &Rows, threads: usize) -> Trainer {
    let mut trainer = Trainer::new(spec, threads).unwrap();
    feed_all(&mut trainer, rows);
    trainer
}

/// What every setting is by slot in the battery: all of them at once.
fn everything(learner: &str) -> Vec<(&'static str, &'static str)> {
    let mut written = vec![
        ("model.optimizer", "ftrl; ad=adagrad; hour=sgd; user=adam"),
        ("model.alpha", "0.05; ad=0.1; hour=0.01; user=0.003"),
        ("model.schedule", "constant; hour=halve:2000"),
        ("model.l1", "0; city=0.1"),
        ("model.factors_optimizer", "adagrad; user=momentum; city=rowwise_adagrad"),
        ("model.factors_alpha", "0.05; user=0.002"),
        ("model.spread", "0.05; ad=0.1; hour=0"),
        ("model.clip_value", "ad=0.5"),
        ("model.layers", "8"),
        ("train.admit_after", "1; user=2"),
        ("train.entries_max", "1000000; user=640; city=128"),
        ("train.when_full", "refuse; user=evict"),
        ("train.forget_after", "0; user=1500; ad=6000"),
    ];
    match learner.starts_with("FM") {
        true => written.push(("model.factors", "4; user=12; hour=1")),
        false => written.push(("model.embedding", "4; user=12; hour=1")),
    }
    written
}

/// Learners whose entries hold all that can differ: the battery takes minutes otherwise.
const DIFFERENT: [&str; 7] = [
    "LogisticRegression",
    "LinearRegression",
    "FMClassifier",
    "FFMClassifier",
    "MLPRegressor",
    "WideDeepClassifier",
    "DeepFMClassifier",
];

/// Threads and parts change no bit, and neither does a restart, of any of them.
#[test]
fn slots_with_settings_of_their_own_learn_the_same_on_any_threads_and_over_a_restart() {
    let rows = clicks(1, 6_000);
    for learner in DIFFERENT {
        for more in [&[][..], &[("train.gradient_keep", "0.2")]] {
            let spec = spec(learner, &[&everything(learner), more].concat());
            let alone = learned(&spec, &rows, 1);
            let (hash, stats) = (alone.state_hash(), alone.stats());
            assert!(stats.forgotten > 100 && stats.refused_admissions > 100, "{learner}: {stats:?}");
            for threads in [2, 4, 8] {
                let trainer = learned(&spec, &rows, threads);
                assert_eq!(
                    (trainer.state_hash(), trainer.stats().entries),
                    (hash, stats.entries),
                    "{learner}, {threads}"
                );
            }
            let mut before = Trainer::new(&spec, 2).unwrap();
            (0..6).for_each(|i| feed(&mut before, &rows, i * BATCH, (i + 1) * BATCH));
            let mut bytes = Encoder::new();
            before.encode(&mut bytes);
            let mut restored = Trainer::decode(&spec, 4, &mut Decoder::new(bytes.as_slice(), "trainer")).unwrap();
            (6..12).for_each(|i| feed(&mut restored, &rows, i * BATCH, (i + 1) * BATCH));
            assert_eq!(restored.state_hash(), hash, "{learner}: restored");
        }
    }
}

/// Restored from a checkpoint that was written while learning went on, in two steps: as if nothing had been.
#[test]
fn a_checkpoint_beside_the_learning_holds_what_slots_remember() {
    let rows = clicks(2, 4_000);
    let spec = spec("FMClassifier", &everything("FMClassifier"));
    let mut trainer = Trainer::new(&spec, 2).unwrap();
    let mut restoring = Trainer::restoring(&spec, 4).unwrap();
    let mut rest = Encoder::new();
    for (i, whole) in [(3, true), (5, false)] {
        (trainer.stats().samples as usize / BATCH..i)
            .for_each(|i| feed(&mut trainer, &rows, i * BATCH, (i + 1) * BATCH));
        let (blocks, written) = std::sync::mpsc::sync_channel(1_000);
        let mut head = Encoder::new();
        rest = Encoder::new();
        trainer.begin_checkpoint(whole, blocks, &mut rest, &mut head);
        feed(&mut trainer, &rows, i * BATCH, i * BATCH + BATCH / 2);
        trainer.finish_checkpoint();
        restoring.begin(&mut Decoder::new(head.as_slice(), "head")).unwrap();
        written.iter().filter(|block| !block.is_empty()).for_each(|block| restoring.take(&block).unwrap());
        restoring.end().unwrap();
        feed(&mut trainer, &rows, i * BATCH + BATCH / 2, (i + 1) * BATCH);
    }
    let mut restored = Trainer::restore(&spec, 4, &mut Decoder::new(rest.as_slice(), "rest"), restoring).unwrap();
    feed(&mut restored, &rows, 5 * BATCH, 5 * BATCH + BATCH / 2);
    feed(&mut restored, &rows, 5 * BATCH + BATCH / 2, 6 * BATCH);
    for trainer in [&mut restored, &mut trainer] {
        (6..8).for_each(|i| feed(trainer, &rows, i * BATCH, (i + 1) * BATCH));
    }
    assert_eq!(restored.state_hash(), trainer.state_hash());
}

/// Served is what was learned: deltas make the snapshot, and it predicts to the bit what the trainer does.
#[test]
fn deltas_make_the_snapshot_and_servers_predict_as_the_trainer() {
    let rows = clicks(3, 5_000);
    for learner in DIFFERENT {
        let spec = TrainSpec { batch_size: BATCH, ..spec(learner, &everything(learner)) };
        let mut trainer = Trainer::new(&spec, 2).unwrap();
        feed(&mut trainer, &rows, 0, BATCH);
        assert!(trainer.take_delta().anew);
        let mut served = WeightTable::from_snapshot(&trainer.snapshot());
        for i in 1..9 {
            feed(&mut trainer, &rows, i * BATCH, (i + 1) * BATCH);
            served.apply(&Delta::decode(&trainer.take_delta().encode(), "delta").unwrap());
        }
        let snapshot = Snapshot::decode(&trainer.snapshot().encode(), "snapshot").unwrap();
        assert_eq!(served.entries(), snapshot.entries, "{learner}");
        let mut features = Features::new();
        rows.features[9 * BATCH..].iter().for_each(|row| features.push(row));
        let mut scores = Vec::new();
        served.score(&features, &mut ScoreScratch::default(), &mut scores).unwrap();
        feed(&mut trainer, &rows, 9 * BATCH, 10 * BATCH);
        let mut predicted = [0.0];
        for (score, own) in scores.iter().zip(trainer.predictions(BATCH)) {
            served.loss().predict(&[*score], &mut predicted);
            assert_eq!(predicted[0].to_bits(), own.to_bits(), "{learner}");
        }
    }
}

/// Rows of one slot only, so that its entries meet no others: each with its own feature and that of the row before.
fn only(slot: u16, rows: &Rows) -> Rows {
    let mut own: Vec<Vec<(u16, u64, f32)>> = Vec::new();
    for i in 0..rows.labels.len() {
        let pair = rows.features[i.saturating_sub(1)..=i].iter().flatten().copied();
        let mut row: Vec<(u16, u64, f32)> = pair.filter(|(of, ..)| *of == slot).collect();
        row.dedup();
        own.push(row);
    }
    Rows { features: own, labels: rows.labels.clone() }
}

/// A slot with settings of its own learns what it would in a model that has them for all, to the bit.
#[test]
fn a_slot_learns_by_its_own_settings_and_by_no_other() {
    let rows = clicks(4, 4_000);
    // A setting, its value for all, and the slot's own.
    type Of = [(&'static str, &'static str, &'static str)];
    let cases: &[(&str, &Of)] = &[
        ("LogisticRegression", &[("model.optimizer", "ftrl", "adagrad"), ("model.alpha", "0.1", "0.03")]),
        ("LogisticRegression", &[("model.l1", "0", "0.5"), ("model.beta", "1", "2"), ("model.l2", "0", "0.1")]),
        ("LogisticRegression", &[("model.optimizer", "ftrl", "sgd"), ("model.schedule", "constant", "halve:900")]),
        ("LogisticRegression", &[("model.optimizer", "ftrl", "adam"), ("model.clip_value", "1000", "0.3")]),
        ("LinearRegression", &[("train.admit_after", "1", "3")]),
        ("FMClassifier", &[("model.factors", "8", "4"), ("model.spread", "0.01", "0.2")]),
        ("FMClassifier", &[("model.factors_optimizer", "adagrad", "momentum"), ("model.factors_alpha", "0.1", "0.01")]),
        ("DeepFMClassifier", &[("model.factors_optimizer", "adagrad", "amsgrad"), ("model.factors_l2", "0", "0.01")]),
    ];
    for (learner, settings) in cases {
        for slot in [0, 3] {
            let name = SLOTS[slot as usize];
            let mixed: Vec<String> = settings.iter().map(|(_, all, own)| format!("{all}; {name}={own}")).collect();
            let mixed: Vec<(&str, &str)> = settings.iter().zip(&mixed).map(|((name, ..), by)| (*name, &**by)).collect();
            let whole: Vec<(&str, &str)> = settings.iter().map(|(name, _, own)| (*name, *own)).collect();
            let plain: Vec<(&str, &str)> = settings.iter().map(|(name, all, _)| (*name, *all)).collect();
            let params = |written: &[(&str, &str)], rows: &Rows| {
                let trainer = learned(&spec(learner, &[&[("model.layers", "4")], written].concat()), rows, 2);
                let snapshot = trainer.snapshot();
                // Zeros behind the last: a slot may have less than the widest.
                let one = |(key, params): (u64, &[f32])| {
                    let used = params.iter().rposition(|x| *x != 0.0).map_or(0, |last| last + 1);
                    (key, params[..used].iter().map(|x| x.to_bits()).collect::<Vec<_>>())
                };
                snapshot.entries.iter().map(one).collect::<Vec<_>>()
            };
            let own = only(slot, &rows);
            assert_eq!(params(&mixed, &own), params(&whole, &own), "{learner} {settings:?} {name}");
            let other = only(1, &rows);
            assert_eq!(params(&mixed, &other), params(&plain, &other), "{learner} {settings:?} beside {name}");
            assert_ne!(params(&whole, &own), params(&plain, &own), "{learner} {settings:?} changes something");
        }
    }
}

/// What is written by slot and does not differ is learned on the same path, to the same state.
#[test]
fn values_that_do_not_differ_change_nothing() {
    let rows = clicks(5, 2_000);
    for learner in LEARNERS {
        if learner.starts_with("FFM") {
            continue;
        }
        let mut same = vec![("model.alpha", "0.05; ad=0.05; user=0.05"), ("train.admit_after", "ad=1")];
        let mut plain = vec![("model.alpha", "0.05")];
        same.push(("model.embedding", "4; user=4"));
        plain.push(("model.embedding", "4"));
        let labels_fit = !learner.starts_with("Softmax");
        let rows =
            if labels_fit { rows.clone() } else { Rows { labels: vec![1.0; rows.labels.len()], ..rows.clone() } };
        let [same, plain] = [same, plain].map(|written| learned(&spec(learner, &written), &rows, 2).state_hash());
        assert_eq!(same, plain, "{learner}");
    }
}

/// Entries of each slot, by what was published; every entry has a weight, because nothing is pruned.
fn of_slots(trainer: &Trainer) -> [usize; 4] {
    let mut counts = [0; 4];
    trainer.entries(|entry, _| counts[usize::from(entry.slot)] += 1);
    counts
}

/// The bound of a slot holds for it and for no other; where entries leave, those with large weights stay.
#[test]
fn slots_have_bounds_of_their_own() {
    let rows = clicks(6, 20_000);
    let trainer = |written: &[(&str, &str)]| learned(&spec("FMClassifier", written), &rows, 2);
    let plain = of_slots(&trainer(&[]));
    assert_eq!((plain[0], plain[2]), (40, 10));
    assert!(plain[3] > 4_500, "{plain:?}");
    let refused = trainer(&[("train.entries_max", "1000000; user=640")]);
    let with = of_slots(&refused);
    assert_eq!((with[0], with[1], with[2]), (plain[0], plain[1], plain[2]));
    assert!(
        (400..=640).contains(&with[3]) && refused.stats().refused_admissions > 5_000,
        "{with:?} {:?}",
        refused.stats()
    );
    let evicted = trainer(&[("train.entries_max", "user=640"), ("train.when_full", "user=evict")]);
    let with = of_slots(&evicted);
    assert_eq!((with[0], with[1], with[2]), (plain[0], plain[1], plain[2]), "no entry of another slot leaves for it");
    assert!((300..=640).contains(&with[3]), "{with:?}");
    let bytes = trainer(&[("train.bytes_max", "user=64KiB")]);
    let with = of_slots(&bytes);
    assert!((200..=900).contains(&with[3]), "{with:?}");
    // Mean size of the weights of users that stayed.
    let mean = |trainer: &Trainer| {
        let (mut sum, mut count) = (0.0, 0);
        trainer.entries(|entry, params| {
            if entry.slot == 3 {
                (sum, count) = (sum + params[0].abs(), count + 1);
            }
        });
        sum / count as f32
    };
    assert!(mean(&evicted) > mean(&refused), "{} {}", mean(&evicted), mean(&refused));
}

/// Every slot is forgotten after its own time, and one without a time never.
#[test]
fn slots_are_forgotten_after_their_own_time() {
    let mut rows = clicks(7, 1_000);
    // Then nothing but hours is seen any more.
    let hours = only(2, &clicks(8, 9_000));
    rows.features.extend(hours.features);
    rows.labels.extend(hours.labels);
    let spec = spec("FMClassifier", &[("train.forget_after", "0; ad=1000; city=5000; hour=1000")]);
    let mut trainer = Trainer::new(&spec, 2).unwrap();
    let mut seen = Vec::new();
    for begin in (0..rows.labels.len()).step_by(100) {
        feed(&mut trainer, &rows, begin, begin + 100);
        seen.push((begin + 100, of_slots(&trainer)));
    }
    let at = |samples: usize| seen.iter().find(|(at, _)| *at == samples).unwrap().1;
    let (first, last) = (at(1_000), at(10_000));
    let users = first[3];
    assert_eq!((first[0], first[2], last[0], last[1], last[2], last[3]), (40, 10, 0, 0, 10, users));
    assert_eq!(at(1_900)[0], 40, "not before its time");
    assert_eq!(at(2_600)[0], 0, "and not much later: 1000 samples and two fifths, and a batch for each tick");
    assert_eq!((at(4_900)[1], at(7_300)[1]), (first[1], 0));
}

/// Pruning by slot is of versions only: what is learned does not see it, and it may change at any restart.
#[test]
fn slots_are_pruned_by_their_own_bound() {
    let rows = clicks(9, 4_000);
    let plain = learned(&spec("FMClassifier", &[]), &rows, 1);
    let pruned = spec("FMClassifier", &[("publish.prune", "0; user=0.1; ad=1000000")]);
    let mut trainer = learned(&pruned, &rows, 1);
    assert_eq!(trainer.state_hash(), plain.state_hash());
    let mut slots = std::collections::BTreeMap::new();
    plain.entries(|entry, params| {
        _ = slots.insert(entry.key, (entry.slot, params.iter().fold(0.0f32, |m, x| m.max(x.abs()))))
    });
    let kept: Vec<u64> = trainer.snapshot().entries.iter().map(|(key, _)| key).collect();
    let is_kept = |(slot, largest): &(u16, f32)| match slot {
        0 => false,
        3 => *largest > 0.1,
        _ => true,
    };
    let expected: Vec<u64> = slots.iter().filter(|(_, of)| is_kept(of)).map(|(key, _)| *key).collect();
    assert_eq!(kept, expected);
    assert!(kept.len() > 210 && kept.len() < slots.len() - 40, "{} of {}", kept.len(), slots.len());
    let mut served = WeightTable::from_snapshot(&plain.snapshot());
    served.apply(&trainer.take_delta());
    assert_eq!(served.entries(), trainer.snapshot().entries);
    let mut bytes = Encoder::new();
    plain.encode(&mut bytes);
    Trainer::decode(&pruned, 1, &mut Decoder::new(bytes.as_slice(), "trainer")).unwrap();
}

#[test]
fn what_does_not_go_together_is_refused_with_the_way_out() {
    let why = |learner: &str, written: &[(&str, &str)]| {
        let mut settings = Settings::new(&ATTRIBUTES);
        let set = written.iter().try_for_each(|(name, value)| settings.set(name, value));
        let slots = SLOTS.map(str::to_string);
        let spec = set.and_then(|()| TrainSpec::from_settings(learner, &settings)).map(|spec| spec.with_slots(&slots));
        spec.and_then(|spec| Trainer::new(&spec, 1).map(drop)).unwrap_err().message().to_string()
    };
    let l = "LogisticRegression";
    assert_eq!(why(l, &[("model.alpha", "usr=1")]), "model.alpha: no slot 'usr' (have ad, city, hour, user)");
    assert!(why(l, &[("model.layers", "64; user=8")]).contains("cannot differ by slot"));
    assert!(why(l, &[("train.batch_size", "64; user=8")]).starts_with("train.batch_size cannot differ by slot"));
    assert!(why(l, &[("model.dense_alpha", "user=8")]).starts_with("model.dense_alpha cannot differ by slot"));
    assert_eq!(
        why(l, &[("model.optimizer", "user=best")]).split(" expects").next(),
        Some("slot 'user': model.optimizer")
    );
    assert!(why(l, &[("model.schedule", "user=halve:9")]).starts_with("slot 'user': model.schedule: ftrl derives"));
    assert!(
        why("FFMClassifier", &[("model.factors", "4; user=8")]).contains("cannot have a dimension of its own in FFM")
    );
    assert!(why(l, &[("publish.prune", "0; user=1")]).contains("do not keep their slot"));
    assert!(why(l, &[("train.bytes_max", "user=100")]).contains("too little for slot 'user'; give it at least"));
    // A checkpoint is of its settings, those of slots too.
    let mut bytes = Encoder::new();
    Trainer::new(&spec(l, &[("model.alpha", "0.1; user=0.2")]), 1).unwrap().encode(&mut bytes);
    let open = |written: &[(&str, &str)]| {
        let mut from = Decoder::new(bytes.as_slice(), "trainer");
        Trainer::decode(&spec(l, written), 1, &mut from).map(drop).unwrap_err().message().to_string()
    };
    assert!(open(&[("model.alpha", "0.1; user=0.3")]).contains("slot 'user': model.optimizer"));
    assert!(open(&[]).starts_with("the checkpoint was made with slot 'user': model.optimizer"));
    let more = open(&[("model.alpha", "0.1; user=0.2"), ("train.admit_after", "user=2")]);
    assert!(more.starts_with("the checkpoint was made without slot 'user': train.admit_after = 2"), "{more}");
}
