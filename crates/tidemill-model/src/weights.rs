//! The table that serving reads: the parameters of a model by key, no optimizer state.
//!
//! In: a snapshot, then deltas in sequence. Out: scores, bit for bit those of the trainer, because both call the same
//! learner. Entries of one parameter keep it beside the key ([`places`]); longer ones stand in rows of their own. A removed
//! key keeps its place with zeros until the table next grows. A snapshot that is mapped
//! into memory is read where it lies, key by key ([`mapped`]); a delta makes a table of it first.

mod mapped;
mod places;
mod rows;

use std::{ops::Range, sync::Arc};

use tidemill_base::{Error, Result};

use crate::{
    delta::Delta,
    entries::Entries,
    feature::Features,
    learner::{Learner, Slice},
    loss::Loss,
    model::ModelSpec,
    prefetch::prefetch,
    snapshot::{Head, Layout, Snapshot},
};
use mapped::Mapped;
pub use mapped::{SharedBytes, SnapshotBytes, here_only};
use places::Places;
use rows::Rows;

/// Samples that are scored at once: their parameters stay in the nearer caches.
const SLICE_SAMPLES: usize = 64;
/// Rows that are on their way from memory while one is read.
const ROWS_AHEAD: usize = 32;
/// Parameters in a line of the cache.
const LINE_PARAMS: usize = 16;

/// A model's parameters, ready to score samples.
#[derive(Clone)]
pub struct WeightTable {
    learner: Arc<dyn Learner>,
    loss: Loss,
    width: usize,
    dense: Vec<f32>,
    /// The bits of the one parameter of each key, or the number of its row.
    places: Places,
    /// Rows of longer entries; row 0 holds zeros, for keys that were never seen.
    rows: Rows,
    /// The entries, where they are not in this table but in a snapshot's bytes.
    mapped: Option<Arc<Mapped>>,
}

/// Room to score in, kept between calls.
#[derive(Clone, Debug, Default)]
pub struct ScoreScratch {
    params: Vec<f32>,
    work: Vec<f32>,
    ends: Vec<u32>,
    words: Vec<u32>,
    unsure: Vec<u32>,
}

impl WeightTable {
    /// The parameters of a snapshot.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let learner = snapshot.model.build(snapshot.slots.len());
        let mut table = Self::empty(learner, &snapshot.model, snapshot.dense.clone(), snapshot.entries.len());
        table.set_all(&snapshot.entries);
        table
    }

    /// No entries yet of the model of a snapshot, whose entries are left alone, with room for so many.
    pub fn with_room(shell: &Snapshot, entries: usize) -> Self {
        Self::empty(shell.model.build(shell.slots.len()), &shell.model, shell.dense.clone(), entries)
    }

    /// The parameters of a snapshot that stay in its bytes, of which nothing is read but what is asked for; also its root.
    /// `None`: it is of an older format, or does not lie as numbers do; [`Snapshot::decode`] reads it.
    pub fn map(bytes: SharedBytes, what: &str) -> Result<Option<(Self, u64)>> {
        let all = (*bytes).as_ref();
        let head = Head::read(all, what)?;
        if head.format < 4 {
            return Ok(None);
        }
        let mut layout = Layout::of(&head, all, what)?;
        let (dense, root) = (layout.read_dense(all)?, layout.root);
        let learner = head.model.build(head.slots.len());
        if layout.entries == 0 {
            // Without entries any width may stand there; keys that are looked for have the model's.
            layout.width = learner.width();
        }
        if layout.width != learner.width() || dense.len() != learner.dense_dimension() {
            return Err(Error::corrupt(format!("{what}: its parameters are not of its model")));
        }
        let Some(mapped) = Mapped::open(bytes, layout) else { return Ok(None) };
        let mut table = Self::empty(learner, &head.model, dense, 0);
        table.mapped = Some(Arc::new(mapped));
        Ok(Some((table, root)))
    }

    /// What is wrong with the bytes that parameters were read from since the table was made.
    pub fn damage(&self) -> Option<Error> {
        self.mapped.as_ref().and_then(|mapped| mapped.damage())
    }

    fn empty(learner: Arc<dyn Learner>, model: &ModelSpec, dense: Vec<f32>, room_for: usize) -> Self {
        let width = learner.width();
        let rows = Rows::with_room(width, if width > 1 { room_for } else { 0 });
        Self { learner, loss: model.loss, width, dense, places: Places::with_room(room_for), rows, mapped: None }
    }

    /// Brings the parameters to the moment `delta.to`. They must be at `delta.from`, or between the two.
    ///
    /// # Panics
    ///
    /// Of a mapped table that is damaged; see [`WeightTable::damage`].
    pub fn apply(&mut self, delta: &Delta) {
        if let Some(mapped) = self.mapped.take() {
            let entries = mapped.read().expect("a damaged snapshot is not learned on");
            self.places = Places::with_room(entries.len());
            self.set_all(&entries);
        }
        if delta.anew {
            self.places = Places::with_room(delta.entries.len());
            self.rows.clear();
        }
        self.set_all(&delta.entries);
        if !delta.dense.is_empty() {
            self.dense.clone_from(&delta.dense);
        }
    }

    /// Whether a delta is of parameters like these. One that is not would be misread, so it must not be applied.
    pub fn check(&self, delta: &Delta) -> Result<()> {
        check_shape(&*self.learner, &delta.entries, delta.dense.len(), delta.dense.is_empty(), "delta")
    }

    /// Whether a snapshot holds parameters as its model has them.
    pub fn check_snapshot(snapshot: &Snapshot) -> Result<()> {
        let learner = snapshot.model.build(snapshot.slots.len());
        check_shape(&*learner, &snapshot.entries, snapshot.dense.len(), false, "snapshot")
    }

    /// All entries with a parameter other than zero, by ascending key: those of a snapshot. None of a mapped table, whose
    /// bytes are a snapshot already.
    pub fn entries(&self) -> Entries {
        let mut places: Vec<(u64, u32)> = self.there().collect();
        // Nearly in order already: a place is found by the first bits of its key.
        places.sort_unstable();
        let mut entries = Entries::with_room(self.width, places.len());
        places.iter().for_each(|(key, word)| entries.push(*key, &self.of(*word)));
        entries
    }

    /// Parameters that belong to no key.
    pub fn dense(&self) -> &[f32] {
        &self.dense
    }

    /// What scores are compared with labels by.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// Scores per sample.
    pub fn outputs(&self) -> usize {
        self.learner.outputs()
    }

    /// Whether slots act alone or in pairs on a score: see [`Learner::is_pairwise`].
    pub fn is_pairwise(&self) -> bool {
        self.learner.is_pairwise()
    }

    /// Appends the scores of all samples of `features` to `scores`, [`WeightTable::outputs`] each. Keys the model has
    /// never seen contribute nothing.
    ///
    /// An error says that scores lack parameters: the bytes they are read from are damaged, or were to be left alone
    /// ([`here_only`]).
    pub fn score(&self, features: &Features, scratch: &mut ScoreScratch, scores: &mut Vec<f32>) -> Result<()> {
        let mut begin = 0;
        while begin < features.len() {
            let end = features.len().min(begin + SLICE_SAMPLES);
            self.score_slice(features, begin..end, scratch, scores);
            self.mapped.as_ref().map_or(Ok(()), |mapped| mapped.check_read())?;
            begin = end;
        }
        Ok(())
    }

    fn score_slice(&self, features: &Features, rows: Range<usize>, scratch: &mut ScoreScratch, scores: &mut Vec<f32>) {
        let first = features.range(rows.start).start;
        let range = first..features.range(rows.end - 1).end;
        let keys = &features.keys[range.clone()];
        match &self.mapped {
            Some(mapped) => {
                scratch.params.clear();
                mapped.gather(keys, &self.rows, &mut scratch.params);
            }
            None => self.gather(&features.keys[first..], keys.len(), first == 0, scratch),
        }
        scratch.ends.clear();
        scratch.ends.extend(features.ends[rows.clone()].iter().map(|end| end - first as u32));
        let slice = Slice {
            ends: &scratch.ends,
            keys,
            values: &features.values[range.clone()],
            slots: &features.slots[range],
            params: &scratch.params,
            dropout: None,
        };
        let before = scores.len();
        scores.resize(before + rows.len() * self.outputs(), 0.0);
        self.learner.forward(&slice, &self.dense, &mut scratch.work, &mut scores[before..]);
    }

    /// Finds the parameters of the first `count` keys. Lines of those behind them are asked for here: memory is busy while
    /// samples are scored.
    fn gather(&self, keys: &[u64], count: usize, are_first: bool, scratch: &mut ScoreScratch) {
        if are_first {
            self.places.ask(keys);
        }
        let ScoreScratch { params, words, unsure, .. } = scratch;
        if self.width == 1 {
            params.resize(count, 0.0);
            return self.places.look(keys, bytemuck::cast_slice_mut(params), unsure);
        }
        words.resize(count, 0);
        self.places.look(keys, words, unsure);
        params.clear();
        let (rows, width, is_far) = (&*self.rows, self.width, self.places.is_far());
        let ask = |word: u32| {
            if is_far {
                (0..width).step_by(LINE_PARAMS).for_each(|i| prefetch(rows, word as usize * width + i));
            }
        };
        words.iter().take(ROWS_AHEAD).for_each(|word| ask(*word));
        for (i, word) in words.iter().enumerate() {
            if let Some(next) = words.get(i + ROWS_AHEAD) {
                ask(*next);
            }
            params.extend_from_slice(&rows[*word as usize * width..][..width]);
        }
    }

    /// The parameters of a key; zeros when it has none.
    #[inline(always)]
    pub fn params(&self, key: u64) -> Params<'_> {
        match &self.mapped {
            Some(mapped) if self.width == 1 => Params::One([mapped.one(key)]),
            Some(mapped) => mapped.several(key).map_or(Params::Row(&self.rows), Params::Read),
            None => self.of(self.places.word(key)),
        }
    }

    #[inline(always)]
    fn of(&self, word: u32) -> Params<'_> {
        if self.width == 1 {
            // The word of a key that is not there is 0.0, so it need not be told from the others.
            return Params::One([f32::from_bits(word)]);
        }
        Params::Row(self.row(word))
    }

    #[inline(always)]
    fn row(&self, word: u32) -> &[f32] {
        &self.rows[word as usize * self.width..][..self.width]
    }

    /// Keys and words of the entries with a parameter other than zero.
    fn there(&self) -> impl Iterator<Item = (u64, u32)> {
        self.places.iter().filter(|(_, word)| self.of(*word).iter().any(|x| *x != 0.0))
    }

    /// Keys with a parameter other than zero.
    pub fn len(&self) -> usize {
        if let Some(mapped) = &self.mapped {
            return mapped.len();
        }
        self.there().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the table takes, free places included; of a mapped one the pages that were touched.
    pub fn bytes(&self) -> usize {
        let mapped = self.mapped.as_ref().map_or(0, |mapped| mapped.bytes());
        size_of::<Self>() + mapped + self.places.bytes() + self.rows.bytes() + self.dense.capacity() * size_of::<f32>()
    }

    fn set_all(&mut self, entries: &Entries) {
        entries.iter().for_each(|(key, params)| self.set(key, params));
    }

    /// Sets the parameters of a key; zeros of one that is not there change nothing.
    pub fn set(&mut self, key: u64, params: &[f32]) {
        let mut place = self.places.place(key);
        if !place.is_taken {
            if params.iter().all(|x| *x == 0.0) {
                return;
            }
            if self.places.is_full() {
                self.grow();
                place = self.places.place(key);
            }
            self.places.take(place, key);
            if self.width > 1 {
                *self.places.word_at(place) = self.rows.count() as u32;
                return self.rows.push(params);
            }
        }
        match self.width {
            1 => *self.places.word_at(place) = params[0].to_bits(),
            _ => self.rows.set(*self.places.word_at(place) as usize, params),
        }
    }

    /// Makes room, and leaves out what was removed.
    #[cold]
    fn grow(&mut self) {
        let taken = self.places.taken() * 2;
        let places = std::mem::replace(&mut self.places, Places::with_room(taken));
        let room = Rows::with_room(self.width, if self.width > 1 { taken } else { 0 });
        let rows = std::mem::replace(&mut self.rows, room);
        for (key, word) in places.iter() {
            match self.width {
                1 => self.set(key, &[f32::from_bits(word)]),
                width => self.set(key, &rows[word as usize * width..][..width]),
            }
        }
    }
}

fn check_shape(
    learner: &dyn Learner,
    entries: &Entries,
    dense: usize,
    dense_may_be_absent: bool,
    what: &str,
) -> Result<()> {
    let (width, dimension) = (learner.width(), learner.dense_dimension());
    let widths_agree = entries.is_empty() || entries.width == width;
    if widths_agree && (dense == dimension || dense_may_be_absent) {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "a {what} of {} parameters an entry and {dense} dense ones is not of this model, which has {width} and {dimension}",
        entries.width
    )))
}

/// The parameters of one entry.
pub enum Params<'a> {
    /// Kept beside its key.
    One([f32; 1]),
    /// In its row.
    Row(&'a [f32]),
    /// Made of the bytes of a snapshot.
    Read(Vec<f32>),
}

impl std::ops::Deref for Params<'_> {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        match self {
            Self::One(one) => one,
            Self::Row(row) => row,
            Self::Read(row) => row,
        }
    }
}
