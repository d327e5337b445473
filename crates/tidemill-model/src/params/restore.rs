//! A table out of the walks that were written of it.
//!
//! In: the bytes of a whole walk, then those of the walks behind it, in their order. Out: the table as it was when the last
//! of them began, on any number of parts. Entries of the whole walk are put down a shard at a time, each in its final
//! place at once; later ones come to them bucket by bucket, or are looked up where they are few. Whoever publishes deltas is first told
//! what came behind the whole walk. What cannot have been written is refused with its shard; the table is then for nothing but to be dropped.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{
    Listener, ParamTable, SHARD_BITS, SHARDS, TableSpec,
    bucket::Bucket,
    codec::{damaged, decode_rest, encode_rest, grow_older, too_many},
    packed::{AGE_MAX, CHANGED, FLAGS, NEWS, Packed},
    part::Part,
    part_of, shard_of,
    walk::{FRAME_BYTES, MIXED, RUN, SHARD_END},
};

/// Entries ahead for which memory is asked.
const AHEAD: usize = 24;
/// One change to so many entries of a bucket is less work to look up than to go through all of them.
const FEW: usize = 8;

/// A table that is being put together.
pub struct Restoring {
    table: ParamTable,
    /// What came of each shard of a whole walk; `None` once the shard is put down, and of other walks.
    gathered: Vec<Option<Gathered>>,
    /// Whether a walk has begun: of a table without entries a whole one has none.
    has_begun: bool,
}

/// One part of it, which takes what is its own of all frames.
pub struct RestoringPart<'a> {
    table: &'a ParamTable,
    number: usize,
    /// Of its shards.
    gathered: &'a mut [Option<Gathered>],
}

#[derive(Default)]
struct Gathered {
    run: Vec<Packed>,
    mixed: Vec<Packed>,
}

impl Gathered {
    fn len(&self) -> usize {
        self.run.len() + self.mixed.len()
    }
}

/// An entry as it stands in a frame.
struct Entry<'a> {
    key: u64,
    slot: u16,
    age: u8,
    words: &'a [[u8; 4]],
}

impl ParamTable {
    /// Appends what a walk does not: what else decides the future as of now, which [`Restoring::finish`] takes back.
    pub fn encode_rest(&self, out: &mut Encoder) {
        self.each_shard(|part, shard| encode_rest(part, shard, out));
    }
}

impl Restoring {
    /// Nothing yet of a table that is to be as `spec` says.
    pub fn new(spec: TableSpec, parts: usize) -> Result<Self> {
        Ok(Self { table: ParamTable::new(spec, parts)?, gathered: Vec::new(), has_begun: false })
    }

    /// Begins the next walk, by what [`ParamTable::begin_walk`] appended.
    pub fn begin(&mut self, head: &mut Decoder) -> Result<()> {
        let ticks = self.table.decode_head(head)?;
        let is_whole = head.u8()? != 0;
        if is_whole == self.has_begun || !self.gathered.iter().all(Option::is_none) {
            return Err(Error::corrupt("parameters: a walk over changes does not follow a whole one"));
        }
        self.has_begun = true;
        self.gathered = (0..SHARDS).map(|_| is_whole.then(Gathered::default)).collect();
        for i in 0..self.table.parts() {
            let mut part = self.table.write(i);
            match is_whole {
                true => part.set_ticks(ticks),
                false => grow_older(&mut part, ticks)?,
            }
            part.tell_news(!is_whole);
            for shard in part.numbers() {
                let removed = (0..head.count(8)?).map(|_| head.u64()).collect::<Result<Vec<_>>>()?;
                if removed.iter().any(|key| shard_of(*key) != shard) || !removed.is_sorted() {
                    return Err(damaged(shard, "the removed keys are out of order".into()));
                }
                let local = shard - part.first;
                part.remove_keys(local, &removed);
            }
        }
        Ok(())
    }

    /// Takes frames of the walk: any number of them, each whole.
    pub fn take(&mut self, frames: &[u8]) -> Result<()> {
        self.parts().try_for_each(|mut part| part.take(frames))
    }

    /// The parts of the table, each to be given all frames of the walk in their order; each takes what is its own, so they
    /// may do it beside each other.
    pub fn parts(&mut self) -> impl Iterator<Item = RestoringPart<'_>> {
        let table = &self.table;
        let gathered = self.gathered.chunks_mut(SHARDS / table.parts());
        gathered.enumerate().map(move |(number, gathered)| RestoringPart { table, number, gathered })
    }

    /// Ends the walk.
    pub fn end(&mut self) -> Result<()> {
        match self.gathered.iter().position(Option::is_some) {
            None => Ok(()),
            Some(shard) => Err(damaged(shard, "its end is missing".into())),
        }
    }

    /// The table, with what [`ParamTable::encode_rest`] wrote at the moment the last walk began. [`Listener::Deltas`] is first
    /// told what came behind the whole walk, [`Listener::Checkpoints`] everything.
    pub fn finish(self, rest: &mut Decoder) -> Result<ParamTable> {
        for i in 0..self.table.parts() {
            let mut part = self.table.write(i);
            part.tell_news(true);
            for shard in part.numbers() {
                decode_rest(&mut part, shard, rest)?;
            }
        }
        Ok(self.table)
    }
}

impl RestoringPart<'_> {
    /// Takes what is this part's of frames of the walk: any number of them, each whole.
    pub fn take(&mut self, mut frames: &[u8]) -> Result<()> {
        let mut part = self.table.write(self.number);
        let (spec, own) = (*self.table.spec(), part.numbers());
        let entry_bytes = entry_bytes(&spec);
        while !frames.is_empty() {
            let cut_short = || Error::corrupt("parameters: a frame of entries is cut short");
            let (head, rest) = frames.split_first_chunk::<FRAME_BYTES>().ok_or_else(cut_short)?;
            let [kind, shard, count @ ..] = *head;
            let bytes = (u32::from_le_bytes(count) as usize).saturating_mul(entry_bytes);
            let (entries, rest) = rest.split_at_checked(bytes).ok_or_else(cut_short)?;
            frames = rest;
            match (kind, usize::from(shard)) {
                (RUN | SHARD_END, shard) if shard < SHARDS && !own.contains(&shard) => {}
                (RUN, shard) if shard < SHARDS && spec.words == 2 && !spec.ages => {
                    self.take_run(&mut part, shard, entries)?;
                }
                (RUN, shard) if shard < SHARDS => self.take_entries(&mut part, Some(shard), entries)?,
                (MIXED, shard) if shard < SHARDS => self.take_entries(&mut part, None, entries)?,
                (SHARD_END, shard) if shard < SHARDS => self.end_shard(&mut part, shard)?,
                _ => return Err(Error::corrupt(format!("parameters: a frame of kind {kind} for shard {shard}"))),
            }
        }
        Ok(())
    }

    /// Entries of one shard that are a key and two words each: nearly all that large tables have.
    fn take_run(&mut self, part: &mut Part, shard: usize, entries: &[u8]) -> Result<()> {
        let (local, fresh) = (shard - part.first, part.fresh);
        let (pairs, _) = entries.as_chunks::<16>();
        // Of a whole walk they are gathered first.
        let mut changes = Vec::new();
        let run = self.gathered[local].as_mut().map_or(&mut changes, |gathered| &mut gathered.run);
        let before = run.len();
        // Infinity and what is no number have all these bits.
        const EXPONENT: u32 = 0x7f80_0000;
        let mut bad = false;
        run.extend(pairs.iter().map(|entry| {
            let [key, words] = [0, 8].map(|at| u64::from_le_bytes(*entry[at..].first_chunk().expect("8 of 16 bytes")));
            let words = [words as u32, (words >> 32) as u32];
            bad |= words.iter().any(|word| word & EXPONENT == EXPONENT) | (shard_of(key) != shard);
            Packed { tag: key << SHARD_BITS | fresh, words }
        }));
        if bad {
            // Told by whoever looks at them one by one.
            run.truncate(before);
            return self.take_entries(part, Some(shard), entries);
        }
        match &self.gathered[local] {
            Some(gathered) if gathered.len() > part.limits.entries_max => Err(too_many(shard)),
            Some(_) => Ok(()),
            None => {
                changes.iter().for_each(|packed| part.list_news(packed.key(shard)));
                merge_run(part, shard, &changes)
            }
        }
    }

    /// `run_of`: all are of this shard and come by key.
    fn take_entries(&mut self, part: &mut Part, run_of: Option<usize>, entries: &[u8]) -> Result<()> {
        let (spec, parts) = (self.table.spec(), self.table.parts());
        let entry_bytes = entry_bytes(spec);
        let mut state = Vec::with_capacity(spec.words.max(2));
        let mut changes = Vec::new();
        for (i, bytes) in entries.chunks_exact(entry_bytes).enumerate() {
            let entry = Entry::read(bytes, spec);
            let shard = shard_of(entry.key);
            if run_of.is_some_and(|run_of| run_of != shard) {
                return Err(damaged(shard, "an entry stands in another shard's frame".into()));
            }
            if part_of(entry.key, parts) != self.number {
                continue;
            }
            state.clear();
            state.extend(entry.words.iter().map(|word| f32::from_le_bytes(*word)));
            if let Some(word) = state.iter().find(|word| !word.is_finite()) {
                return Err(damaged(shard, format!("entry {i} holds {word}")));
            }
            if entry.age > AGE_MAX {
                let age = entry.age;
                return Err(damaged(shard, format!("entry {i} is {age} ticks old, where {AGE_MAX} is the most told")));
            }
            if let Some(gathered) = &mut self.gathered[shard - part.first] {
                if gathered.len() == part.limits.entries_max {
                    return Err(too_many(shard));
                }
                let packed = part.pack(&entry, &state);
                match run_of {
                    Some(_) => gathered.run.push(packed),
                    None => gathered.mixed.push(packed),
                }
                continue;
            }
            part.list_news(entry.key);
            if run_of.is_some() {
                // A row is not taken for an entry that has one: there may be no more.
                match part.rows.is_some().then(|| part.search(entry.key)) {
                    Some((place, true)) => part.put_at(place, &entry, &state),
                    _ if changes.len() + part.len(shard) >= part.limits.entries_max && part.rows.is_some() => {
                        return Err(too_many(shard));
                    }
                    _ => changes.push(part.pack(&entry, &state)),
                }
                continue;
            }
            if let Some(next) = entries.get((i + AHEAD) * entry_bytes..).and_then(<[u8]>::first_chunk) {
                let next = u64::from_le_bytes(*next);
                if part_of(next, parts) == self.number {
                    part.prefetch(next);
                }
            }
            let (place, is_there) = part.search(entry.key);
            match if is_there { Some(place) } else { part.admit(entry.key) } {
                Some(place) if is_there => part.put_at(place, &entry, &state),
                Some(place) => part.places[place] = part.pack(&entry, &state),
                None => return Err(too_many(shard)),
            }
        }
        match run_of {
            Some(shard) => merge_run(part, shard, &changes),
            None => Ok(()),
        }
    }

    fn end_shard(&mut self, part: &mut Part, shard: usize) -> Result<()> {
        let local = shard - part.first;
        let Some(Gathered { mut run, mixed }) = self.gathered[local].take() else { return Ok(()) };
        if !mixed.is_empty() || !run.is_sorted_by_key(Packed::shifted) {
            // Two runs, of which the second is short.
            run.extend(mixed);
            run.sort_by_key(Packed::shifted);
        }
        if run.windows(2).any(|pair| pair[0].shifted() == pair[1].shifted()) {
            return Err(damaged(shard, "a key comes twice".into()));
        }
        if !part.fill(local, &run) {
            return Err(too_many(shard));
        }
        // Memory that the kernel need not clear again for the next shard.
        if let Some(Some(next)) = self.gathered.get_mut(local + 1)
            && next.run.is_empty()
        {
            run.clear();
            next.run = run;
        }
        Ok(())
    }
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8], spec: &TableSpec) -> Self {
        let (key, mut rest) = bytes.split_first_chunk::<8>().expect("as long as an entry");
        let (mut slot, mut age) = (0, 0);
        if spec.words > 2 {
            slot = u16::from_le_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        if spec.ages {
            age = rest[0];
            rest = &rest[1..];
        }
        Self { key: u64::from_le_bytes(*key), slot, age, words: rest.as_chunks().0 }
    }
}

impl Part {
    /// Whether entries that come from now on are news to whoever publishes deltas; when they first are, all that is there is not.
    fn tell_news(&mut self, tell: bool) {
        let news = &mut self.changes[Listener::Deltas as usize];
        if tell && !news.is_asked() {
            news.listen();
        }
        let others = self.fresh & !NEWS;
        self.set_fresh(if tell { others | CHANGED } else { others });
    }

    fn list_news(&mut self, key: u64) {
        self.changes[Listener::Deltas as usize].list(key);
    }

    /// An entry as it will stand in its place; its row is taken.
    fn pack(&mut self, entry: &Entry, state: &[f32]) -> Packed {
        let words = match &mut self.rows {
            None => [state[0].to_bits(), state[1].to_bits()],
            Some(rows) => {
                let row = rows.take();
                rows.get_mut(row).copy_from_slice(state);
                [row, u32::from(entry.slot)]
            }
        };
        let mut packed = Packed { tag: entry.key << SHARD_BITS | self.fresh, words };
        if self.ticks.is_some() {
            packed.set_age(self.tick_now(), entry.age);
        }
        packed
    }

    /// Puts all entries of an empty shard down, which are in order; `false` when it may not hold so many.
    fn fill(&mut self, local: usize, entries: &[Packed]) -> bool {
        self.shards[local].entries = entries.len();
        self.fill_from(local, Bucket::empty(0), 0, entries)
    }

    /// Puts entries of one shard, in order, beside those that are there or, in tables of pairs, in their place; `false` when it may not hold so
    /// many. Many come into a bucket together with what it has: one after the other, keys in order would crowd into a few
    /// of its lines long before all of it is full.
    fn merge(&mut self, local: usize, mut entries: &[Packed]) -> bool {
        while let Some(first) = entries.first().map(Packed::shifted) {
            let bucket = *self.directory.bucket_of(local, first);
            let (low, last) = bucket.span(first);
            let (here, after) = entries.split_at(entries.partition_point(|packed| packed.shifted() <= last));
            entries = after;
            if here.len() * FEW < self.entries_of(&bucket) {
                for packed in here {
                    let key = packed.key(self.first + local);
                    let (place, is_there) = self.search(key);
                    let Some(place) = (if is_there { Some(place) } else { self.admit(key) }) else { return false };
                    self.places[place] = *packed;
                }
                continue;
            }
            let there = self.gather(&bucket);
            let mut both = Vec::with_capacity(there.len() + here.len());
            let mut coming = here.iter().peekable();
            for packed in &there {
                both.extend(std::iter::from_fn(|| coming.next_if(|next| next.shifted() < packed.shifted())));
                if coming.peek().is_none_or(|next| next.shifted() != packed.shifted()) {
                    both.push(*packed);
                }
            }
            both.extend(coming);
            self.shards[local].entries += both.len() - there.len();
            if self.shards[local].entries > self.limits.entries_max || !self.fill_from(local, bucket, low, &both) {
                return false;
            }
        }
        true
    }

    /// Changes the entry at a place to what was written of it.
    fn put_at(&mut self, place: usize, entry: &Entry, state: &[f32]) {
        let packed = &mut self.places[place];
        packed.tag = packed.tag & !FLAGS | self.fresh;
        match &mut self.rows {
            None => packed.words = [state[0].to_bits(), state[1].to_bits()],
            Some(rows) => rows.get_mut(packed.words[0]).copy_from_slice(state),
        }
        if self.ticks.is_some() {
            let now = self.tick_now();
            self.places[place].set_age(now, entry.age);
        }
    }
}

/// Entries of a walk over changes that come by key.
fn merge_run(part: &mut Part, shard: usize, entries: &[Packed]) -> Result<()> {
    if entries.windows(2).any(|pair| pair[0].shifted() >= pair[1].shifted()) {
        return Err(damaged(shard, "the keys of a run are out of order".into()));
    }
    match part.merge(shard - part.first, entries) {
        true => Ok(()),
        false => Err(too_many(shard)),
    }
}

/// Bytes of an entry in a frame.
fn entry_bytes(spec: &TableSpec) -> usize {
    let slot = if spec.words > 2 { size_of::<u16>() } else { 0 };
    size_of::<u64>() + slot + usize::from(spec.ages) + spec.words.max(2) * size_of::<f32>()
}
