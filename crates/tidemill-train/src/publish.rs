//! Step 7, publish: what leaves the trainer. Weights only, no optimizer state.

use tidemill_model::{Delta, Snapshot, params::Entry};

use crate::Trainer;

impl Trainer {
    /// What changed since the last call, as weights; numbered so that a listener notices a gap. After
    /// [`Trainer::decode`] the first delta holds every entry.
    pub fn take_delta(&mut self) -> Delta {
        let mut entries = Vec::new();
        for part in 0..self.table.parts() {
            self.table.write(part).take_changed(|entry| entries.push(published(&self.ftrl, entry)));
        }
        entries.sort_unstable_by_key(|(key, _)| *key);
        self.deltas += 1;
        Delta { from: self.deltas - 1, to: self.deltas, entries }
    }

    /// The whole model as it is now. Deltas taken after it may be applied to it.
    pub fn snapshot(&self) -> Snapshot {
        let mut entries = Vec::new();
        for shard in self.table.read().shards() {
            let weights = shard.sorted().into_iter().map(|entry| published(&self.ftrl, &entry));
            entries.extend(weights.filter(|(_, weight)| *weight != 0.0));
        }
        Snapshot { sequence: self.deltas, slots: self.spec.slots.clone(), entries }
    }
}

/// An entry as others see it; both zeros are written as 0.
fn published(ftrl: &tidemill_model::optimizer::Ftrl, entry: &Entry) -> (u64, f32) {
    (entry.key, ftrl.weight(entry.z, entry.n) + 0.0)
}
