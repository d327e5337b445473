//! The table as bytes, and as a hash.
//!
//! Out: entries by shard and key, with what else decides the future: counted keys, ages, where the sweep is. The same
//! bytes for the same entries. In: the same, refused with the shard and entry when it is not what was written.

use tidemill_base::{
    Error, Result, StateHash, StateHasher,
    codec::{Decoder, Encoder},
    hash128,
};

use super::{
    EntryRef, ParamTable, TableSpec,
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
            part.sorted(shard, |entry| put_entry(entry, self.spec.words > 2, self.spec.ages, out));
            encode_rest(part, shard, out);
        });
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

    pub(super) fn encode_head(&self, out: &mut Encoder) {
        let ticks = self.read(0).ticks;
        out.put_varint(self.spec.words as u64).put_u8((self.spec.sketch_bytes > 0) as u8).put_u8(ticks.is_some() as u8);
        out.put_u64(ticks.unwrap_or(0));
    }

    pub(super) fn decode_head(&self, from: &mut Decoder) -> Result<u64> {
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
            if restore_entry(part, key, slot, &state) != Updated::Done {
                return Err(too_many(shard));
            }
            if let (Some(_), (place, true)) = (part.ticks, part.search(key)) {
                let now = part.tick_now();
                part.places[place].set_age(now, age);
            }
            before = Some(key);
        }
        Ok(())
    }
}

/// Appends an entry, with its slot and its age where the table has them.
pub(super) fn put_entry(entry: EntryRef, has_slot: bool, has_age: bool, out: &mut Encoder) {
    out.put_u64(entry.key);
    if has_slot {
        out.put_u8(entry.slot as u8).put_u8((entry.slot >> 8) as u8);
    }
    if has_age {
        out.put_u8(entry.age);
    }
    out.put_f32s(entry.state);
}

pub(super) fn too_many(shard: usize) -> Error {
    Error::conflict(format!(
        "parameters, shard {shard}: more entries than train.entries_max or the bound on bytes allows now; raise it to what \
         it was"
    ))
}

pub(super) fn damaged(shard: usize, what: String) -> Error {
    Error::corrupt(format!("parameters, shard {shard}: {what}"))
}

pub(super) fn encode_rest(part: &Part, shard: usize, out: &mut Encoder) {
    let local = &part.shards[shard - part.first];
    if part.ticks.is_some() {
        out.put_u64(local.sweep_at.unwrap_or(SWEPT));
    }
    if let Some(sketch) = &local.sketch {
        sketch.encode(out);
    }
}

pub(super) fn decode_rest(part: &mut Part, shard: usize, from: &mut Decoder) -> Result<()> {
    let (ages, local) = (part.ticks.is_some(), &mut part.shards[shard - part.first]);
    if ages {
        local.sweep_at = Some(from.u64()?).filter(|at| *at != SWEPT);
    }
    local.sketch.as_mut().map_or(Ok(()), |sketch| sketch.decode(from))
}

/// Sum of a 128-bit hash of each entry of a shard: the same for the same entries wherever they stand.
fn hash_sum(part: &Part, shard: usize) -> u128 {
    let (mut bytes, mut sum, mut next) = (Encoder::new(), 0u128, Some(0));
    let local = shard - part.first;
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
                sum = sum.wrapping_add(hash128(bytes.as_slice(), slot << 8 | u64::from(part.age(packed))));
            }
        }
    }
    sum
}

/// Puts in an entry as it was written; it counts as changed.
pub(super) fn restore_entry(part: &mut Part, key: u64, slot: u16, state: &[f32]) -> Updated {
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
pub(super) fn grow_older(part: &mut Part, ticks: u64) -> Result<()> {
    let Some(before) = part.ticks else { return Ok(()) };
    let Some(passed) = ticks.checked_sub(before) else {
        return Err(Error::conflict(format!(
            "parameters: an increment of tick {ticks} for a table of tick {before}; apply increments in order"
        )));
    };
    if passed == 0 {
        return Ok(());
    }
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
