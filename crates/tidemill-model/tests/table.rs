//! The table that serving reads, against an ordered map: deltas in, parameters out.

use std::collections::BTreeMap;

use tidemill_base::{Rng, rng::mix64};
use tidemill_model::{Delta, Features, Snapshot, WeightTable, entries::Entries, weights::ScoreScratch};

/// Keys that crowd a few lines, and keys all over.
fn key(i: u64) -> u64 {
    match i % 3 {
        0 => (i << 3) | 1,
        _ => mix64(i) | 1,
    }
}

/// Growing, changing and removing lose no key and invent none, and samples are the sums of what is there.
#[test]
fn keys_are_found_whatever_came_before_them() {
    let mut rng = Rng::seeded(12);
    let mut table = WeightTable::from_snapshot(&Snapshot { slots: vec!["a".into()], ..Snapshot::default() });
    let mut expected: BTreeMap<u64, f32> = BTreeMap::new();
    for round in 0..40u64 {
        let mut changed: BTreeMap<u64, f32> = BTreeMap::new();
        for _ in 0..1_500 {
            // One in eight is removed.
            let weight = if rng.below(8) == 0 { 0.0 } else { rng.next_f64() as f32 - 0.5 };
            changed.insert(key(rng.below(500 * (round + 1))), weight);
        }
        expected.extend(&changed);
        let entries =
            Entries { width: 1, keys: changed.keys().copied().collect(), params: changed.values().copied().collect() };
        table.apply(&Delta { from: round, to: round + 1, entries, ..Delta::default() });
    }
    let there = expected.iter().filter(|(_, weight)| **weight != 0.0).count();
    assert!(there > 10_000 && table.len() == there, "{there} keys, the table says {}", table.len());
    for i in 0..30_000 {
        let weight = expected.get(&key(i)).copied().unwrap_or(0.0);
        assert_eq!(table.params(key(i))[0].to_bits(), weight.to_bits(), "key {i}");
    }
    let samples: Vec<u64> = (0..700).map(|_| key(rng.below(25_000))).collect();
    let mut features = Features::new();
    samples.iter().for_each(|key| features.push(&[(0, *key, 2.0)]));
    let mut scores = Vec::new();
    table.score(&features, &mut ScoreScratch::default(), &mut scores).unwrap();
    let sums: Vec<f32> = samples.iter().map(|key| 2.0 * expected.get(key).copied().unwrap_or(0.0)).collect();
    assert_eq!(scores, sums);
}
