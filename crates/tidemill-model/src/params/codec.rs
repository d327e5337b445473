//! The table as bytes, whole or what changed, and as a hash.
//!
//! Out: entries by shard and key, with what else decides the future: counted keys, ages, where the sweep is. The same
//! bytes for the same entries. In: the same, refused with the shard and entry when it is not what was written. A refused
//! increment leaves the table half changed, for nothing but to be dropped.

use tidemill_base::{
    Error, Result, StateHash, StateHasher,
    codec::{Decoder, Encoder},
    hash128,
};

use super::{
    EntryRef, Listener, ParamTable, TableSpec, Taken,
    packed::AGE_MAX,
    part::{Part, Place, Updated},
    shard_of,
};

/// Entries ahead whose rows are asked for.
pub(super) const ROWS_AHEAD: usize = 16;
const SWEPT: u64 = u64::MAX;

impl ParamTable {
    /// Identity of all entries with their optimizer state, bit for bit, and of what else decides the future.
    pub fn state_hash(&self) -> StateHash {
        let mut hasher = StateHasher::new();
        self.each_shard(|part, shard| {
            let sum = hash_sum(part, shard);
            hasher.u64(part.len(shard) as u64).u64(sum as u64).u64((sum >> 64) as u64);
            let local = &part.shards[shard - part.first];
            if let Some(sketch) = &local.sketch {
                sketch.hash(&mut hasher);
            }
            if let Some(ticks) = part.ticks {
                hasher.u64(ticks).u64(local.sweep_at.unwrap_or(SWEPT));
            }
        });
        hasher.finish()
    }

    /// Appends all entries, by key: the same bytes for the same entries.
    pub fn encode(&self, out: &mut Encoder) {
        self.encode_head(out);
        out.reserve(self.len() * self.encoded_bytes());
        self.each_shard(|part, shard| {
            out.put_varint(part.len(shard) as u64);
            part.sorted(shard, |entry| self.encode_entry(entry, out));
            encode_rest(part, shard, out);
        });
    }

    /// Appends what changed since the last call, or everything when that is not known: for a table that holds what this
    /// one held then ([`ParamTable::apply_increment`]).
    pub fn encode_increment(&self, out: &mut Encoder) {
        self.encode_head(out);
        for i in 0..self.parts() {
            let mut part = self.write(i);
            part.begin_take(Listener::Checkpoints);
            for shard in part.numbers() {
                let (mut entries, mut count, mut removed) = (Encoder::new(), 0, Vec::new());
                let mut entry = |entry: EntryRef| {
                    self.encode_entry(entry, &mut entries);
                    count += 1;
                };
                let taken = part.take_shard(Listener::Checkpoints, shard, &mut entry, &mut |key| removed.push(key));
                out.put_u8((taken == Taken::Anew) as u8).put_varint(removed.len() as u64);
                removed.iter().for_each(|key| _ = out.put_u64(*key));
                out.put_varint(count);
                entries.as_slice().iter().for_each(|byte| _ = out.put_u8(*byte));
                encode_rest(&part, shard, out);
            }
            part.end_take(Listener::Checkpoints);
        }
    }

    /// Reads back what [`ParamTable::encode`] wrote. Whoever asks what changed is first told everything: nobody who listens
    /// can have missed an entry.
    pub fn decode(spec: TableSpec, parts: usize, from: &mut Decoder) -> Result<Self> {
        let table = Self::new(spec, parts)?;
        let ticks = table.decode_head(from)?;
        for i in 0..table.parts() {
            let mut part = table.write(i);
            part.set_ticks(ticks);
            for shard in part.numbers() {
                table.decode_entries(&mut part, shard, from)?;
                decode_rest(&mut part, shard, from)?;
            }
        }
        Ok(table)
    }

    /// Brings a table up to what [`ParamTable::encode_increment`] wrote.
    pub fn apply_increment(&self, from: &mut Decoder) -> Result<()> {
        let ticks = self.decode_head(from)?;
        for i in 0..self.parts() {
            let mut part = self.write(i);
            grow_older(&mut part, ticks)?;
            for shard in part.numbers() {
                let (anew, count) = (from.u8()? != 0, from.count(8)?);
                let mut removed = (0..count).map(|_| from.u64()).collect::<Result<Vec<_>>>()?;
                if removed.iter().any(|key| shard_of(*key) != shard) || !removed.is_sorted() {
                    return Err(damaged(shard, "the removed keys are out of order".into()));
                }
                if anew {
                    removed.clear();
                    part.sorted(shard, |entry| removed.push(entry.key));
                }
                let local = shard - part.first;
                part.remove_keys(local, &removed);
                self.decode_entries(&mut part, shard, from)?;
                decode_rest(&mut part, shard, from)?;
            }
        }
        Ok(())
    }

    fn encode_head(&self, out: &mut Encoder) {
        let ticks = self.read(0).ticks;
        out.put_varint(self.spec.words as u64).put_u8((self.spec.sketch_bytes > 0) as u8).put_u8(ticks.is_some() as u8);
        out.put_u64(ticks.unwrap_or(0));
    }

    fn decode_head(&self, from: &mut Decoder) -> Result<u64> {
        let spec = &self.spec;
        let (words, counts, ages) = (from.varint()?, from.u8()? != 0, from.u8()? != 0);
        if words != spec.words as u64 {
            return Err(Error::conflict(format!(
                "parameters: entries of {words} words, now they have {}; train under another name",
                spec.words
            )));
        }
        if (counts, ages) != (spec.sketch_bytes > 0, spec.ages) {
            return Err(Error::conflict(
                "parameters: keys were counted before admission, or ages kept, and now not, or the other way round; give \
                 the settings as they were or train under another name",
            ));
        }
        from.u64()
    }

    fn encode_entry(&self, entry: EntryRef, out: &mut Encoder) {
        out.put_u64(entry.key);
        if self.spec.words > 2 {
            out.put_u8(entry.slot as u8).put_u8((entry.slot >> 8) as u8);
        }
        if self.spec.ages {
            out.put_u8(entry.age);
        }
        out.put_f32s(entry.state);
    }

    /// Bytes of an entry at most.
    fn encoded_bytes(&self) -> usize {
        size_of::<u64>() + 3 + self.spec.words.max(2) * size_of::<f32>()
    }

    fn decode_entries(&self, part: &mut Part, shard: usize, from: &mut Decoder) -> Result<()> {
        let (words, has_slot) = (self.spec.words.max(2), self.spec.words > 2);
        let mut before = None;
        let mut state = vec![0.0; words];
        for i in 0..from.count(8 + 4 * words)? {
            let key = from.u64()?;
            let slot = if has_slot { u16::from(from.u8()?) | u16::from(from.u8()?) << 8 } else { 0 };
            let age = if self.spec.ages { from.u8()? } else { 0 };
            for word in &mut state {
                *word = from.f32()?;
            }
            if before.is_some_and(|before| key <= before) || shard_of(key) != shard {
                return Err(damaged(shard, format!("key {key:#x} of entry {i} is out of order")));
            }
            if let Some(word) = state.iter().find(|word| !word.is_finite()) {
                return Err(damaged(shard, format!("entry {i} holds {word}")));
            }
            if age > AGE_MAX {
                return Err(damaged(shard, format!("entry {i} is {age} ticks old, where {AGE_MAX} is the most told")));
            }
            if restore(part, key, slot, &state) != Updated::Done {
                return Err(Error::conflict(format!(
                    "parameters, shard {shard}: more entries than train.entries_max or the bound on bytes allows now; \
                     raise it to what it was"
                )));
            }
            if let (place, true) = part.search(key) {
                let now = part.tick_now();
                part.places[place].set_age(now, age);
            }
            before = Some(key);
        }
        Ok(())
    }
}

fn damaged(shard: usize, what: String) -> Error {
    Error::corrupt(format!("parameters, shard {shard}: {what}"))
}

fn encode_rest(part: &Part, shard: usize, out: &mut Encoder) {
    let local = &part.shards[shard - part.first];
    if part.ticks.is_some() {
        out.put_u64(local.sweep_at.unwrap_or(SWEPT));
    }
    if let Some(sketch) = &local.sketch {
        sketch.encode(out);
    }
}

fn decode_rest(part: &mut Part, shard: usize, from: &mut Decoder) -> Result<()> {
    let (ages, local) = (part.ticks.is_some(), &mut part.shards[shard - part.first]);
    if ages {
        local.sweep_at = Some(from.u64()?).filter(|at| *at != SWEPT);
    }
    local.sketch.as_mut().map_or(Ok(()), |sketch| sketch.decode(from))
}

/// Sum of a 128-bit hash of each entry of a shard: the same for the same entries wherever they stand.
fn hash_sum(part: &Part, shard: usize) -> u128 {
    let (mut bytes, mut sum, mut next) = (Encoder::new(), 0u128, Some(0));
    let (local, now) = (shard - part.first, part.tick_now());
    while let Some(bucket) = part.next_bucket(local, &mut next) {
        for run in part.runs(&bucket) {
            for place in run.clone() {
                // Rows lie in no order. Asking for one of a free place, or of the next run, is harmless.
                part.prefetch_row((place + ROWS_AHEAD) as Place);
                let packed = &part.places[place];
                if packed.is_free() {
                    continue;
                }
                bytes.clear();
                bytes.put_u64(packed.key(shard)).put_f32s(part.state(packed));
                let slot = if part.rows.is_some() { u64::from(packed.words[1]) } else { 0 };
                sum = sum.wrapping_add(hash128(bytes.as_slice(), slot << 8 | u64::from(packed.age(now))));
            }
        }
    }
    sum
}

/// Puts in an entry as it was written; it counts as changed.
fn restore(part: &mut Part, key: u64, slot: u16, state: &[f32]) -> Updated {
    if part.rows.is_none() {
        return part.update_pair(key, Place::MAX, |_, _| Some((state[0], state[1])));
    }
    match part.row_mut(key, slot, Place::MAX, |_| {}) {
        Some(row) => {
            row.copy_from_slice(state);
            Updated::Done
        }
        None => Updated::NotAdmitted,
    }
}

/// Makes all entries as old as they are at a later tick.
fn grow_older(part: &mut Part, ticks: u64) -> Result<()> {
    let Some(before) = part.ticks else { return Ok(()) };
    let Some(passed) = ticks.checked_sub(before) else {
        return Err(Error::conflict(format!(
            "parameters: an increment of tick {ticks} for a table of tick {before}; apply increments in order"
        )));
    };
    let then = part.tick_now();
    part.set_ticks(ticks);
    let now = part.tick_now();
    for local in 0..part.shards.len() {
        let mut next = Some(0);
        while let Some(bucket) = part.next_bucket(local, &mut next) {
            for run in part.runs(&bucket) {
                for packed in part.places[run].iter_mut().filter(|packed| !packed.is_free()) {
                    let age = (u64::from(packed.age(then)) + passed).min(u64::from(AGE_MAX));
                    packed.set_age(now, age as u8);
                }
            }
        }
    }
    Ok(())
}
