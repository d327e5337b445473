//! One feature view: its keys' entries, when they leave, and what of them goes to serving.

mod wire;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    buffer::NullBuffer,
    datatypes::SchemaRef,
};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{
    columns::{self, Column, RowArguments},
    entry::{self, PaneClock, get_u64},
    expiry::Expiry,
    layout::{KEY, Layout},
    order::RowAt,
    output,
    spec::ViewSpec,
    table::{NONE, SavedTable, Table},
};
use crate::{
    sequencer::Take,
    window::{END_OF_TIME, EVENT_TIME_MAX_MS},
};

/// Steps that are prepared together, so that what they need from memory is fetched together.
const AHEAD: usize = 64;

/// What a view has counted since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewCounts {
    /// Events taken in.
    pub updates: u64,
    /// Impressions that read.
    pub reads: u64,
    /// Events older than a window still reaches, counted once for each such window.
    pub late: u64,
    /// Events and reads without a key.
    pub without_key: u64,
    /// Keys forgotten because they were silent for the time to live.
    pub expired: u64,
    /// Keys forgotten because there were too many.
    pub evicted: u64,
}

/// One feature view with the state of all keys.
pub struct View {
    spec: ViewSpec,
    layout: Arc<Layout>,
    output: SchemaRef,
    table: Table,
    expiry: Expiry,
    clocks: Vec<PaneClock>,
    counts: ViewCounts,
    plans: Vec<InputPlan>,
    scratch: Vec<u32>,
    steps: Vec<Step>,
    changed: Option<Changed>,
}

/// What the rows of one input do, for one key column.
struct InputPlan {
    input: u32,
    key: usize,
    /// Whether rows read under this key before anything else.
    reads: bool,
    feeds: Vec<usize>,
}

/// One thing to do with one entry.
#[derive(Clone, Copy)]
struct Step {
    key: u64,
    ts: i64,
    slot: u32,
    plan: u32,
    take: u32,
    row: u32,
}

/// A take as a plan sees it.
struct PlanTake {
    keys: Vec<u64>,
    nulls: Option<NullBuffer>,
    feeds: Vec<FeedTake>,
}

struct FeedTake {
    feed: usize,
    passes: Option<arrow::array::BooleanArray>,
    arguments: Vec<Column>,
}

/// What changed since it was last published.
#[derive(Default)]
struct Changed {
    is_changed: Vec<bool>,
    slots: Vec<u32>,
    removed: Vec<u64>,
}

/// What changed in a view between two moments.
#[derive(Clone, Debug, Default)]
pub struct ViewDelta {
    removed: Vec<u64>,
    /// Entries, one after the other.
    words: Vec<u32>,
    /// Words of an entry.
    stride: usize,
}

impl ViewDelta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.words.is_empty()
    }

    /// Takes in what came next: of a key that changed twice the later entry is kept.
    pub fn append(&mut self, next: Self) {
        let stride = self.stride.max(next.stride).max(1);
        let mut entries: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        let by_key = |words: &[u32]| (get_u64(words, KEY), words.to_vec());
        entries.extend(self.words.chunks_exact(stride).map(by_key));
        next.removed.iter().for_each(|key| _ = entries.remove(key));
        entries.extend(next.words.chunks_exact(stride).map(by_key));
        self.removed.extend(next.removed);
        self.removed.sort_unstable();
        self.removed.dedup();
        (self.words, self.stride) = (entries.into_values().flatten().collect(), stride);
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        self.removed.len() * 8 + self.words.len() * 4
    }
}

impl View {
    /// A view that has seen nothing.
    pub fn new(spec: &ViewSpec) -> Result<Self> {
        let layout = Arc::new(Layout::new(spec)?);
        let mut plans = vec![InputPlan { input: 0, key: spec.read_key, reads: true, feeds: Vec::new() }];
        for (i, feed) in spec.feeds.iter().enumerate() {
            match plans.iter_mut().find(|p| (p.input, p.key) == (feed.input, feed.key)) {
                Some(plan) => plan.feeds.push(i),
                None => plans.push(InputPlan { input: feed.input, key: feed.key, reads: false, feeds: vec![i] }),
            }
        }
        Ok(Self {
            output: output(spec),
            table: Table::new(&layout, true),
            expiry: Expiry::new(spec.ttl_ms),
            clocks: vec![PaneClock::default(); layout.windows.len()],
            counts: ViewCounts::default(),
            plans,
            scratch: vec![0; layout.words],
            steps: Vec::new(),
            changed: None,
            layout,
            spec: spec.clone(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Columns of what comes out.
    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// What was counted since the stream began.
    pub fn counts(&self) -> ViewCounts {
        self.counts
    }

    /// Keys kept.
    pub fn keys(&self) -> usize {
        self.table.len()
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Takes rows in, in this order; gives the columns that impressions read.
    pub(super) fn step(&mut self, takes: &[Take], order: &[RowAt]) -> Result<Vec<Vec<ArrayRef>>> {
        let seen: Vec<Vec<Option<PlanTake>>> = self.plans.iter().map(|p| self.see(p, takes)).collect::<Result<_>>()?;
        let width = self.output.fields().len() + 1;
        let mut out: Vec<Vec<u64>> =
            takes.iter().map(|t| vec![0; if t.id.input == 0 { t.rows.num_rows() * width } else { 0 }]).collect();
        let mut steps = std::mem::take(&mut self.steps);
        for rows in order.chunks(AHEAD) {
            steps.clear();
            self.prepare(&seen, rows, takes, &mut steps);
            self.fetch(&mut steps);
            for step in &steps {
                let row = step.row as usize;
                let out = match self.plans[step.plan as usize].reads {
                    true => &mut out[step.take as usize][row * width..(row + 1) * width],
                    false => &mut [],
                };
                let take = seen[step.plan as usize][step.take as usize].as_ref();
                self.take_step(*step, take.expect("a step comes from a take that was seen"), out);
            }
        }
        self.steps = steps;
        self.evict();
        let columns = |(take, rows): (&Take, &Vec<u64>)| match take.id.input {
            0 => columns::outputs(rows, &self.output),
            _ => Vec::new(),
        };
        Ok(takes.iter().zip(&out).map(columns).collect())
    }

    fn see(&self, plan: &InputPlan, takes: &[Take]) -> Result<Vec<Option<PlanTake>>> {
        let of = |take: &Take| {
            if take.id.input != plan.input {
                return Ok(None);
            }
            let named = |e: Error| e.at(format!("feature view '{}'", self.spec.name));
            let (keys, nulls) = columns::keys(take.rows.column(plan.key)).map_err(named)?;
            let feeds = plan.feeds.iter().map(|&feed| {
                let passes = self.spec.feeds[feed].passes;
                let arguments = self.layout.feedings[feed].arguments.iter();
                Ok(FeedTake {
                    feed,
                    passes: passes.map(|c| take.rows.column(c).as_boolean().clone()),
                    arguments: arguments
                        .map(|(c, kind)| columns::argument(take.rows.column(*c), *kind).map_err(named))
                        .collect::<Result<_>>()?,
                })
            });
            let feeds = feeds.collect::<Result<_>>()?;
            Ok(Some(PlanTake { keys, nulls, feeds }))
        };
        takes.iter().map(of).collect()
    }

    /// The steps of some rows. A row reads before it counts, under whichever key: the plan that reads stands first.
    fn prepare(&mut self, seen: &[Vec<Option<PlanTake>>], rows: &[RowAt], takes: &[Take], steps: &mut Vec<Step>) {
        for at in rows {
            for (p, seen) in seen.iter().enumerate() {
                let Some(take) = &seen[at.take as usize] else { continue };
                let row = at.row as usize;
                let mut slot = 0;
                if take.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
                    self.counts.without_key += 1;
                    slot = NONE;
                }
                let ts = takes[at.take as usize].event_times[row];
                steps.push(Step { key: take.keys[row], ts, slot, plan: p as u32, take: at.take, row: at.row });
            }
        }
    }

    /// Finds every step's entry. Looks are made in groups that do not wait for one another.
    fn fetch(&mut self, steps: &mut [Step]) {
        let mut seen = 0;
        for step in steps.iter() {
            seen ^= self.table.touch(step.key);
        }
        for step in steps.iter_mut().filter(|s| s.slot != NONE) {
            let plan = &self.plans[step.plan as usize];
            if plan.feeds.is_empty() {
                step.slot = self.table.find(step.key);
                continue;
            }
            let (slot, is_new) = self.table.find_or_begin(step.key, &self.layout);
            if is_new {
                self.table.set_turn(slot, self.expiry.push(step.ts, slot));
            }
            if let Some(changed) = &mut self.changed {
                changed.note(slot);
            }
            step.slot = slot;
        }
        for step in steps.iter().filter(|s| s.slot != NONE) {
            let words = self.table.entry(step.slot);
            seen ^= u64::from(words[0]);
            for (window, clock) in self.layout.windows.iter().zip(&mut self.clocks) {
                seen ^= u64::from(words[clock.touched(step.ts, window)]);
            }
        }
        std::hint::black_box(seen);
    }

    #[inline(always)]
    fn take_step(&mut self, step: Step, take: &PlanTake, out: &mut [u64]) {
        let (layout, clocks) = (&*self.layout, &mut self.clocks);
        self.counts.reads += u64::from(!out.is_empty());
        if step.slot == NONE || take.feeds.is_empty() {
            if !out.is_empty() {
                let found = (step.slot != NONE).then(|| self.table.entry(step.slot));
                read_as_of(found, step.ts, layout, clocks, &mut self.scratch, out);
            }
            return;
        }
        let words = self.table.entry_mut(step.slot);
        entry::advance(words, step.ts, layout, clocks);
        if !out.is_empty() {
            entry::read(words, layout, out);
        }
        let row = step.row as usize;
        for feed in &take.feeds {
            if feed.passes.as_ref().is_some_and(|p| p.is_null(row) || !p.value(row)) {
                continue;
            }
            let arguments = RowArguments { columns: &feed.arguments, row };
            self.counts.updates += 1;
            self.counts.late += entry::update(words, step.ts, &layout.feedings[feed.feed], &arguments, layout, clocks);
        }
    }

    /// Forgets keys that have been silent for the time to live.
    pub(super) fn expire(&mut self, watermark: i64) {
        // Behind the last event nothing is too old: what was learned last is still asked for.
        if watermark == END_OF_TIME {
            return;
        }
        while let Some((_, slots)) = self.expiry.pop_due(watermark) {
            for slot in slots {
                let newest = entry::newest(self.table.entry(slot));
                if newest.saturating_add(self.spec.ttl_ms) < watermark {
                    self.counts.expired += 1;
                    self.forget(slot);
                } else {
                    self.table.set_turn(slot, self.expiry.push(newest, slot));
                }
            }
        }
    }

    /// Forgets those that have been silent longest while there are too many.
    fn evict(&mut self) {
        while self.table.len() > self.spec.keys_max {
            let Some((tick, slots)) = self.expiry.pop_first() else { return };
            let mut left = slots.into_iter();
            while self.table.len() > self.spec.keys_max
                && let Some(slot) = left.next()
            {
                let newest = entry::newest(self.table.entry(slot));
                if self.expiry.tick(newest) > tick {
                    self.table.set_turn(slot, self.expiry.push(newest, slot));
                } else {
                    self.counts.evicted += 1;
                    self.forget(slot);
                }
            }
            self.expiry.put_back(tick, left.collect());
        }
    }

    fn forget(&mut self, slot: u32) {
        if let Some(changed) = &mut self.changed {
            changed.removed.push(get_u64(self.table.entry(slot), KEY));
            if let Some(is_changed) = changed.is_changed.get_mut(slot as usize) {
                *is_changed = false;
            }
        }
        self.table.remove(slot);
    }

    /// Begins to collect what changes, and gives everything there is.
    pub(super) fn publish_all(&mut self) -> ViewDelta {
        self.changed = Some(Changed::default());
        let mut words = Vec::with_capacity(self.table.len() * self.layout.words);
        for (_, slots) in self.expiry.iter() {
            slots.iter().for_each(|slot| words.extend_from_slice(self.table.entry(*slot)));
        }
        ViewDelta { removed: Vec::new(), words, stride: self.layout.words }
    }

    /// What changed since it was last published.
    pub(super) fn take_delta(&mut self) -> ViewDelta {
        let Some(changed) = &mut self.changed else { return ViewDelta::default() };
        let mut delta =
            ViewDelta { removed: std::mem::take(&mut changed.removed), words: Vec::new(), stride: self.layout.words };
        for slot in changed.slots.drain(..) {
            if std::mem::take(&mut changed.is_changed[slot as usize]) {
                delta.words.extend_from_slice(self.table.entry(slot));
            }
        }
        delta
    }

    /// Appends all but the entries; of those all that a checkpoint is to take along, as of now.
    pub(super) fn encode(&mut self, whole: bool, out: &mut Encoder) -> SavedTable {
        let c = self.counts;
        for count in [c.updates, c.reads, c.late, c.without_key, c.expired, c.evicted] {
            out.put_u64(count);
        }
        out.put_varint(self.layout.words as u64).put_varint(self.table.len() as u64);
        self.table.save(whole)
    }

    /// An empty table for its entries, and how many there may be.
    pub(super) fn restoring(&self) -> (Table, usize) {
        (Table::new(&self.layout, true), self.spec.keys_max)
    }

    /// Takes back what [`View::encode`] wrote, and the entries.
    pub(super) fn restore(&mut self, d: &mut Decoder, entries: Table) -> Result<()> {
        let corrupt = |what: &str| Error::corrupt(format!("feature view '{}': {what}", self.spec.name));
        let counts = ViewCounts {
            updates: d.u64()?,
            reads: d.u64()?,
            late: d.u64()?,
            without_key: d.u64()?,
            expired: d.u64()?,
            evicted: d.u64()?,
        };
        if d.varint()? != self.layout.words as u64 {
            return Err(Error::conflict(format!("the checkpoint has another feature view '{}'", self.spec.name)));
        }
        let keys = d.varint()?;
        let mut table = entries;
        let turns = table.settle().ok_or_else(|| corrupt("a key that has two entries"))?;
        if turns.len() as u64 != keys {
            return Err(corrupt(&format!("{} keys in its parts, not {keys}", turns.len())));
        }
        if !turns.iter().all(|(_, slot)| self.is_sound(table.entry(*slot))) {
            return Err(corrupt("an entry that cannot be"));
        }
        self.expiry.restore(turns);
        (self.counts, self.table) = (counts, table);
        Ok(())
    }

    /// Whether everything in an entry that says where something stands is within its bounds.
    fn is_sound(&self, words: &[u32]) -> bool {
        let lasts = |l: &super::layout::Lasts| words[l.at] as usize <= l.kept && (words[l.at + 1] as usize) < l.kept;
        self.layout.lasts.iter().all(lasts) && entry::newest(words) >= 0
    }
}

impl Changed {
    fn note(&mut self, slot: u32) {
        if slot as usize >= self.is_changed.len() {
            self.is_changed.resize((slot as usize + 1).next_power_of_two(), false);
        }
        if !std::mem::replace(&mut self.is_changed[slot as usize], true) {
            self.slots.push(slot);
        }
    }
}

/// What a key shows at a time, the entry itself left as it is.
fn read_as_of(
    found: Option<&[u32]>,
    ts: i64,
    layout: &Layout,
    clocks: &mut [PaneClock],
    scratch: &mut [u32],
    out: &mut [u64],
) {
    match found {
        Some(words) => scratch.copy_from_slice(words),
        None => entry::begin(scratch, 0, layout),
    }
    entry::advance(scratch, ts, layout, clocks);
    entry::read(scratch, layout, out);
}

/// What serving looks up: a copy of a view, as of the last delta.
pub struct ViewCopy {
    layout: Arc<Layout>,
    output: SchemaRef,
    table: Table,
}

impl ViewCopy {
    /// A copy of a view that has seen nothing.
    pub fn new(spec: &ViewSpec) -> Result<Self> {
        let layout = Arc::new(Layout::new(spec)?);
        Ok(Self { output: output(spec), table: Table::new(&layout, false), layout })
    }

    /// Takes in what changed.
    pub fn apply(&mut self, delta: &ViewDelta) {
        for key in &delta.removed {
            match self.table.find(*key) {
                NONE => {}
                slot => self.table.remove(slot),
            }
        }
        for words in delta.words.chunks_exact(self.layout.words) {
            let (slot, _) = self.table.find_or_begin(get_u64(words, KEY), &self.layout);
            self.table.entry_mut(slot).copy_from_slice(words);
        }
    }

    /// Keys held.
    pub fn keys(&self) -> usize {
        self.table.len()
    }

    /// Bytes held, about.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// For each key what an impression of that time would read; a NULL key reads what nobody has seen.
    pub fn look_up(&self, keys: &ArrayRef, times: &[i64]) -> Result<Vec<ArrayRef>> {
        let (hashes, nulls) = columns::keys(keys)?;
        let width = self.output.fields().len() + 1;
        let mut rows = vec![0; width * keys.len()];
        let mut scratch = vec![0; self.layout.words];
        let mut clocks = vec![PaneClock::default(); self.layout.windows.len()];
        for (i, out) in rows.chunks_exact_mut(width).enumerate() {
            let slot = match nulls.as_ref().is_some_and(|n| n.is_null(i)) {
                true => NONE,
                false => self.table.find(hashes[i]),
            };
            let found = (slot != NONE).then(|| self.table.entry(slot));
            let ts = times[i].clamp(0, EVENT_TIME_MAX_MS);
            read_as_of(found, ts, &self.layout, &mut clocks, &mut scratch, out);
        }
        Ok(columns::outputs(&rows, &self.output))
    }
}
