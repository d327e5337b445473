//! Step 7, publish: what leaves the trainer. Parameters only, no optimizer state.
//!
//! Here and nowhere else parameters are rounded to the precision that was asked for, so deltas, versions and replicas hold
//! the same bits; entries that are then all zero, or that small, are not published. What is learned never sees it.

use tidemill_model::{
    Delta, Sampling, Snapshot,
    entries::Entries,
    params::{EntryRef, Listener, Taken},
    precision::Precision,
    weights::WeightTable,
};

use crate::{TrainSpec, Trainer};

/// What is too small to be published.
struct Prune {
    all: f32,
    /// By slot number; empty where slots do not differ.
    of_slots: Vec<f32>,
}

impl Prune {
    fn new(spec: &TrainSpec) -> Self {
        let own = |name: &String| spec.by_slot.iter().find(|own| own.slot == *name).map(|own| own.spec.prune);
        let differ = spec.by_slot.iter().any(|own| own.spec.prune != spec.prune);
        let of_slots = spec.slots.iter().filter(|_| differ).map(|name| own(name).unwrap_or(spec.prune)).collect();
        Self { all: spec.prune, of_slots }
    }

    fn of(&self, slot: u16) -> f32 {
        self.of_slots.get(usize::from(slot)).copied().unwrap_or(self.all)
    }
}

impl Trainer {
    /// What changed since the last call; numbered so that a listener notices a gap. After [`Trainer::decode`] the first
    /// delta holds every entry.
    pub fn take_delta(&mut self) -> Delta {
        let width = self.learner.width();
        let mut entries = Entries::new(width);
        let mut params = vec![0.0; width];
        let (precision, prune) = (self.precision(), Prune::new(&self.spec));
        let mut anew = false;
        for part in 0..self.table.parts() {
            let mut removed = Vec::new();
            let taken = self.table.write(part).take_changed(
                Listener::Deltas,
                |entry| {
                    self.published(&entry, &precision, &mut params);
                    // As in a snapshot: what is left out there is removed here.
                    if params.iter().all(|x| x.abs() <= prune.of(entry.slot)) {
                        params.fill(0.0);
                    }
                    entries.push(entry.key, &params);
                },
                |key| removed.push(key),
            );
            anew |= taken == Taken::Anew;
            params.fill(0.0);
            removed.into_iter().for_each(|key| entries.push(key, &params));
        }
        self.deltas += 1;
        let dense = if std::mem::take(&mut self.dense_changed) { self.dense_params() } else { Vec::new() };
        if anew {
            let Snapshot { entries, dense, .. } = self.snapshot();
            return Delta { from: self.deltas - 1, to: self.deltas, entries, dense, anew };
        }
        entries.sort();
        Delta { from: self.deltas - 1, to: self.deltas, entries, dense, anew }
    }

    /// What changed between the whole checkpoint that this was restored from and the last one behind it, where that is at most
    /// so many entries. The next delta holds what changes behind it.
    pub fn take_restored(&mut self, entries_max: usize) -> Option<Delta> {
        if self.table.changed(Listener::Deltas).is_some_and(|entries| entries <= entries_max) {
            return Some(self.take_delta()).filter(|delta| !delta.anew);
        }
        self.forget_changes();
        None
    }

    /// What changed until now is nobody's news: the next delta holds what changes behind it.
    pub fn forget_changes(&mut self) {
        for part in 0..self.table.parts() {
            let _ = self.table.write(part).take_changed(Listener::Deltas, |_| (), |_| ());
        }
    }

    /// The whole model as it is now. Deltas taken after it may be applied to it.
    pub fn snapshot(&self) -> Snapshot {
        let mut entries = Entries::with_room(self.learner.width(), self.table.len());
        self.each_published(|key, params| entries.push(key, params));
        Snapshot { entries, ..self.shell() }
    }

    /// The same, ready to score samples.
    pub fn weights(&self) -> WeightTable {
        let mut weights = WeightTable::with_room(&self.shell(), self.table.len());
        self.each_published(|key, params| weights.set(key, params));
        weights
    }

    /// What a snapshot has beside its entries.
    pub fn shell(&self) -> Snapshot {
        Snapshot {
            sequence: self.deltas,
            model: self.spec.widest(),
            // How negatives were sampled is known to whoever did it.
            sampling: Sampling::None,
            slots: self.spec.slots.clone(),
            entries: Entries::new(self.learner.width()),
            dense: self.dense_params(),
        }
    }

    /// Hands out what is published of every entry, by key.
    fn each_published(&self, mut out: impl FnMut(u64, &[f32])) {
        let mut params = vec![0.0; self.learner.width()];
        let (precision, prune) = (self.precision(), Prune::new(&self.spec));
        self.table.sorted(|entry| {
            self.published(&entry, &precision, &mut params);
            if params.iter().any(|x| x.abs() > prune.of(entry.slot)) {
                out(entry.key, &params);
            }
        });
    }

    /// Parameters of an entry, and words of its state.
    pub fn entry_widths(&self) -> (usize, usize) {
        (self.learner.width(), self.table.spec().words.max(2))
    }

    /// Hands out every entry with its optimizer state, by key, and its parameters.
    pub fn entries(&self, mut out: impl FnMut(EntryRef, &[f32])) {
        let mut params = vec![0.0; self.learner.width()];
        self.table.sorted(|entry| {
            self.read_params(&entry, &mut params);
            out(entry, &params);
        });
    }

    /// By slot number; of a learner that does not keep slots, of all.
    fn precision(&self) -> (Precision, Vec<Precision>) {
        let spec = &self.spec;
        (
            spec.precision.all,
            if spec.precision.slots.is_empty() { vec![] } else { spec.precision.of_slots(&spec.slots) },
        )
    }

    /// An entry's parameters as versions and replicas have them: rounded, where that was asked for.
    fn published(&self, entry: &EntryRef, (all, of_slots): &(Precision, Vec<Precision>), params: &mut [f32]) {
        self.read_params(entry, params);
        of_slots.get(usize::from(entry.slot)).unwrap_or(all).round(params);
    }

    /// An entry's parameters; both zeros are written as 0.
    fn read_params(&self, entry: &EntryRef, params: &mut [f32]) {
        self.read_entry(entry.slot, entry.state, params);
        params.iter_mut().for_each(|x| *x += 0.0);
    }
}
