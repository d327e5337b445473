//! The table that serving reads: the parameters of a model by key, no optimizer state.
//!
//! In: a snapshot, then deltas in sequence. Out: scores, bit for bit those of the trainer, because both call the same
//! learner. Open addressing by lines of the cache: a key is in the line of its first bits, or in the next one that had room
//! when it came. Entries of one parameter keep it beside the key; longer ones stand
//! in rows of their own. A removed key keeps its place with zeros until the table next grows. A snapshot that is mapped
//! into memory is read where it lies, key by key ([`mapped`]); a delta makes a table of it first.

mod mapped;

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
pub use mapped::{SharedBytes, SnapshotBytes};

#[derive(Clone, Copy, Default)]
struct Place {
    /// 0 marks a free place.
    key: u64,
    /// The bits of the one parameter, or the number of the row.
    word: u32,
}

const CAPACITY_MIN: usize = 64;
/// Samples that are scored at once: their parameters stay in the nearer caches.
const SLICE_SAMPLES: usize = 64;
/// A table of up to so many places stays in the caches near the core, where asking ahead only costs.
const CACHED_PLACES: usize = 1 << 14;
/// Keys whose places are on their way from memory while one is looked up.
const KEYS_AHEAD: usize = 64;
/// Places in a line of the cache.
const LINE_PLACES: usize = 4;

/// A model's parameters, ready to score samples.
#[derive(Clone)]
pub struct WeightTable {
    learner: Arc<dyn Learner>,
    loss: Loss,
    width: usize,
    dense: Vec<f32>,
    places: Vec<Place>,
    shift: u32,
    /// Places taken, those of removed keys too.
    taken: usize,
    /// Rows of longer entries; row 0 holds zeros, for keys that were never seen.
    rows: Vec<f32>,
    /// The entries, where they are not in this table but in a snapshot's bytes.
    mapped: Option<Arc<Mapped>>,
}

/// Room to score in, kept between calls.
#[derive(Clone, Debug, Default)]
pub struct ScoreScratch {
    params: Vec<f32>,
    work: Vec<f32>,
    ends: Vec<u32>,
}

impl WeightTable {
    /// The parameters of a snapshot.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let learner = snapshot.model.build(snapshot.slots.len());
        let mut table = Self::empty(learner, &snapshot.model, snapshot.dense.clone(), snapshot.entries.len());
        table.set_all(&snapshot.entries);
        table
    }

    /// The parameters of a snapshot that stay in its bytes, of which nothing is read but what is asked for; also its root.
    /// `None`: it is of an older format, or does not lie as numbers do; [`Snapshot::decode`] reads it.
    pub fn map(bytes: SharedBytes, what: &str) -> Result<Option<(Self, u64)>> {
        let all = (*bytes).as_ref();
        let head = Head::read(all, what)?;
        if head.format < 4 {
            return Ok(None);
        }
        let layout = Layout::of(&head, all, what)?;
        let (dense, root) = (layout.read_dense(all)?, layout.root);
        let learner = head.model.build(head.slots.len());
        let width_agrees = layout.entries == 0 || layout.width == learner.width();
        if !width_agrees || dense.len() != learner.dense_dimension() {
            return Err(Error::corrupt(format!("{what}: its parameters are not of its model")));
        }
        let Some(mapped) = Mapped::open(bytes, layout) else { return Ok(None) };
        let mut table = Self::empty(learner, &head.model, dense, 0);
        table.mapped = Some(Arc::new(mapped));
        Ok(Some((table, root)))
    }

    /// What is wrong with the bytes that parameters were read from since the table was made: scores may lack some then, and
    /// must not be used.
    #[inline(always)]
    pub fn damage(&self) -> Option<Error> {
        self.mapped.as_ref().and_then(|mapped| mapped.damage())
    }

    fn empty(learner: Arc<dyn Learner>, model: &ModelSpec, dense: Vec<f32>, room_for: usize) -> Self {
        let width = learner.width();
        let mut table = Self {
            learner,
            loss: model.loss,
            width,
            dense,
            places: Vec::new(),
            shift: 0,
            taken: 0,
            rows: Vec::new(),
            mapped: None,
        };
        if width > 1 {
            table.rows.reserve_exact((room_for + 1) * width);
            table.rows.resize(width, 0.0);
        }
        table.allocate(room_for);
        table
    }

    /// Brings the parameters to the moment `delta.to`. They must be at `delta.from`, or between the two.
    ///
    /// # Panics
    ///
    /// Of a mapped table that is damaged; see [`WeightTable::damage`].
    pub fn apply(&mut self, delta: &Delta) {
        if let Some(mapped) = self.mapped.take() {
            let entries = mapped.read().expect("a damaged snapshot is not learned on");
            self.allocate(entries.len());
            self.set_all(&entries);
        }
        if delta.anew {
            self.allocate(delta.entries.len());
            self.rows.truncate(if self.width > 1 { self.width } else { 0 });
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
        let taken = |place: &&Place| place.key != 0 && self.of(place).iter().any(|x| *x != 0.0);
        let mut places: Vec<Place> = self.places.iter().filter(taken).copied().collect();
        // Nearly in order already: a place is found by the first bits of its key.
        places.sort_unstable_by_key(|place| place.key);
        let mut entries = Entries::with_room(self.width, places.len());
        places.iter().for_each(|place| entries.push(place.key, &self.of(place)));
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
    pub fn score(&self, features: &Features, scratch: &mut ScoreScratch, scores: &mut Vec<f32>) {
        let mut begin = 0;
        while begin < features.len() {
            let end = features.len().min(begin + SLICE_SAMPLES);
            self.score_slice(features, begin..end, scratch, scores);
            begin = end;
        }
    }

    fn score_slice(&self, features: &Features, rows: Range<usize>, scratch: &mut ScoreScratch, scores: &mut Vec<f32>) {
        let first = features.range(rows.start).start;
        let range = first..features.range(rows.end - 1).end;
        let keys = &features.keys[range.clone()];
        scratch.params.clear();
        match &self.mapped {
            Some(mapped) => mapped.gather(keys, &self.rows, &mut scratch.params),
            None => {
                // Those of the next slice are asked for here: memory is busy while samples are scored.
                let all = &features.keys[first..];
                let is_far = self.places.len() > CACHED_PLACES;
                if is_far && first == 0 {
                    all.iter().take(KEYS_AHEAD).for_each(|key| prefetch(&self.places, self.home(*key)));
                }
                let places = keys.iter().enumerate().map(|(i, key)| {
                    if is_far && let Some(next) = all.get(i + KEYS_AHEAD) {
                        prefetch(&self.places, self.home(*next));
                    }
                    &self.places[self.probe(*key)]
                });
                match self.width {
                    // A free place holds 0.0, so it need not be told from the key's own.
                    1 => scratch.params.extend(places.map(|place| f32::from_bits(place.word))),
                    _ => places.for_each(|place| scratch.params.extend_from_slice(&self.of(place))),
                }
            }
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

    /// The parameters of a key; zeros when it has none.
    #[inline(always)]
    pub fn params(&self, key: u64) -> Params<'_> {
        match &self.mapped {
            Some(mapped) if self.width == 1 => Params::One([mapped.one(key)]),
            Some(mapped) => mapped.several(key).map_or(Params::Row(&self.rows), Params::Read),
            None => self.of(&self.places[self.probe(key)]),
        }
    }

    #[inline(always)]
    fn of(&self, place: &Place) -> Params<'_> {
        if self.width == 1 {
            // A free place holds 0.0, so it need not be told from the key's own.
            return Params::One([f32::from_bits(place.word)]);
        }
        Params::Row(&self.rows[place.word as usize * self.width..][..self.width])
    }

    /// Keys with a parameter other than zero.
    pub fn len(&self) -> usize {
        if let Some(mapped) = &self.mapped {
            return mapped.len();
        }
        self.places.iter().filter(|place| self.params(place.key).iter().any(|x| *x != 0.0)).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the table takes, free places included; of a mapped one the pages that were touched.
    pub fn bytes(&self) -> usize {
        let mapped = self.mapped.as_ref().map_or(0, |mapped| mapped.bytes());
        let floats = self.rows.capacity() + self.dense.capacity();
        size_of::<Self>() + mapped + self.places.capacity() * size_of::<Place>() + floats * size_of::<f32>()
    }

    fn allocate(&mut self, entries: usize) {
        let capacity = (entries * 10 / 7 + 1).next_power_of_two().max(CAPACITY_MIN);
        self.places = vec![Place::default(); capacity];
        self.shift = 64 - capacity.trailing_zeros();
        self.taken = 0;
    }

    fn set_all(&mut self, entries: &Entries) {
        entries.iter().for_each(|(key, params)| self.set(key, params));
    }

    fn set(&mut self, key: u64, params: &[f32]) {
        let mut place = self.probe(key);
        if self.places[place].key != key {
            if params.iter().all(|x| *x == 0.0) {
                return;
            }
            if self.taken + 1 > self.places.len() / 10 * 7 {
                self.grow();
                place = self.probe(key);
            }
            self.taken += 1;
            let word = match self.width {
                1 => 0,
                width => {
                    self.rows.resize(self.rows.len() + width, 0.0);
                    (self.rows.len() / width - 1) as u32
                }
            };
            self.places[place] = Place { key, word };
        }
        match self.width {
            1 => self.places[place].word = params[0].to_bits(),
            width => {
                let row = self.places[place].word as usize * width;
                self.rows[row..row + width].copy_from_slice(params);
            }
        }
    }

    /// Makes room, and leaves out what was removed.
    #[cold]
    fn grow(&mut self) {
        let places = std::mem::take(&mut self.places);
        let zeros = vec![0.0; if self.width > 1 { self.width } else { 0 }];
        let rows = std::mem::replace(&mut self.rows, zeros);
        self.allocate(self.taken * 2);
        for Place { key, word } in places.into_iter().filter(|place| place.key != 0) {
            match self.width {
                1 => self.set(key, &[f32::from_bits(word)]),
                width => self.set(key, &rows[word as usize * width..][..width]),
            }
        }
    }

    #[inline(always)]
    fn home(&self, key: u64) -> usize {
        (key >> self.shift) as usize
    }

    /// The key's place, or the free one where it belongs. Ends, because places are left free. A line is looked at whole: which
    /// of its places it is cannot be foreseen, that it is one of them nearly always can.
    #[inline(always)]
    fn probe(&self, key: u64) -> usize {
        let (lines, _) = self.places.as_chunks::<LINE_PLACES>();
        let mut at = self.home(key) / LINE_PLACES;
        loop {
            let [a, b, c, d] = lines[at].each_ref().map(|place| place.key);
            let is = |wanted: u64| {
                u32::from(a == wanted)
                    | u32::from(b == wanted) << 1
                    | u32::from(c == wanted) << 2
                    | u32::from(d == wanted) << 3
            };
            let found = is(key);
            if found != 0 {
                return at * LINE_PLACES + found.trailing_zeros() as usize;
            }
            // Places of a line are taken from its beginning, and none is ever given back.
            let free = is(0);
            if free != 0 {
                return at * LINE_PLACES + free.trailing_zeros() as usize;
            }
            at = (at + 1) & (lines.len() - 1);
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
