//! What leaves training: snapshots and deltas. What can be read is written again to what can be read as the same.

use tidemill_model::{delta::Delta, entries::Entries, loss::Loss, model::*, snapshot::Snapshot};

/// A snapshot as a file or another process brings it.
pub fn snapshot(bytes: &[u8]) -> bool {
    let Ok(read) = Snapshot::decode(bytes, "fuzz") else { return false };
    let again = Snapshot::decode(&read.encode(), "fuzz").expect("what was read can be written");
    assert_eq!(read.encode(), again.encode());
    true
}

/// A delta.
pub fn delta(bytes: &[u8]) -> bool {
    let Ok(read) = Delta::decode(bytes, "fuzz") else { return false };
    let again = Delta::decode(&read.encode(), "fuzz").expect("what was read can be written");
    assert_eq!(read.encode(), again.encode());
    true
}

pub fn snapshots() -> Vec<Vec<u8>> {
    let entries = || Entries::pairs((1..40u64).map(|i| (i * 977, i as f32 / 7.0)));
    let linear =
        Snapshot { sequence: 9, slots: vec!["a".into(), "bias".into()], entries: entries(), ..Default::default() };
    let mut wide = Entries::new(5);
    (1..9u64).for_each(|key| wide.push(key, &[0.5; 5]));
    let learner = LearnerSpec::Fm { factors: 4, spread: 0.1, dropout: 0.0 };
    let fm = Snapshot { model: ModelSpec { learner, loss: Loss::Squared }, entries: wide, ..Default::default() };
    [Snapshot::default(), linear, fm].iter().map(Snapshot::encode).collect()
}

pub fn deltas() -> Vec<Vec<u8>> {
    let entries = Entries::pairs((1..40u64).map(|i| (i * 977, i as f32 / 7.0)));
    let delta = Delta { from: 3, to: 4, entries, ..Default::default() };
    [Delta::default(), delta].iter().map(Delta::encode).collect()
}
