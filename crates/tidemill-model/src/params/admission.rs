//! Counting how often a key without an entry was seen, in little room.
//!
//! A count-min sketch (Cormode and Muthukrishnan 2005) with conservative update, blocked: a key's four counters of one
//! byte share a cache line. A count is never too low, until it ages: while as many keys are counted as eight times the
//! lines, every line is halved once, one line after the other, so that keys seen once long ago do not add up and no call
//! halves them all. Part of the state, like the entries.

use tidemill_base::{
    Error, Result, StateHasher,
    codec::{Decoder, Encoder},
    rng::mix64,
};

use super::memory::Memory;

const LINE_BYTES: usize = 64;
const COUNTED_PER_LINE: u64 = 8;

/// One shard's counters.
pub(super) struct Sketch {
    lines: Memory<[u8; LINE_BYTES]>,
    counted: u64,
}

impl Sketch {
    /// Room for at most so many bytes: a power of two of lines.
    pub(super) fn reserve(bytes: usize) -> Result<Self> {
        let lines = 1 << (bytes / LINE_BYTES).max(1).ilog2();
        let mut lines = Memory::reserve(lines, 0)?;
        lines.use_to(lines.len());
        Ok(Self { lines, counted: 0 })
    }

    /// Counts a key once more; returns how often it was seen, this time included.
    pub(super) fn count(&mut self, key: u64) -> u8 {
        let mask = self.lines.len() - 1;
        let (bits, own) = self.line_of(key);
        self.counted += 1;
        if self.counted.is_multiple_of(COUNTED_PER_LINE) {
            let next = (self.counted / COUNTED_PER_LINE) as usize & mask;
            self.lines[next].iter_mut().for_each(|counter| *counter /= 2);
        }
        let line = &mut self.lines[own];
        let places = [0, 6, 12, 18].map(|shift| (bits >> shift) as usize % LINE_BYTES);
        let least = places.iter().map(|place| line[*place]).min().unwrap_or(0);
        let more = least.saturating_add(1);
        places.iter().for_each(|place| line[*place] = line[*place].max(more));
        more
    }

    /// Asks the processor for a key's counters.
    #[inline(always)]
    pub(super) fn prefetch(&self, key: u64) {
        self.lines.prefetch(self.line_of(key).1);
    }

    /// A key's random bits, and the line of its counters.
    #[inline(always)]
    fn line_of(&self, key: u64) -> (u64, usize) {
        let bits = mix64(key);
        (bits, (bits >> 32) as usize & (self.lines.len() - 1))
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.resident_in_order()
    }

    pub(super) fn hash(&self, hasher: &mut StateHasher) {
        hasher.u64(self.counted).bytes(self.lines.as_flattened());
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_u64(self.counted).put_bytes(self.lines.as_flattened());
    }

    pub(super) fn decode(&mut self, from: &mut Decoder) -> Result<()> {
        self.counted = from.u64()?;
        let (counters, expected) = (from.bytes()?, self.lines.len() * LINE_BYTES);
        if counters.len() != expected {
            let found = counters.len();
            return Err(Error::conflict(format!(
                "parameters: an admission sketch of {found} bytes, now it has {expected}; give sketch_bytes as it was"
            )));
        }
        self.lines.as_flattened_mut().copy_from_slice(counters);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch() -> Sketch {
        Sketch::reserve(65_536).unwrap()
    }

    #[test]
    fn a_key_is_counted_exactly_while_few_are_seen_and_never_too_low() {
        let mut sketch = sketch();
        assert_eq!([1, 2, 3].map(|_| sketch.count(77)), [1, 2, 3]);
        (1..1_000).for_each(|i| _ = sketch.count(mix64(i)));
        assert!(sketch.count(77) >= 4);
        let often = (5_000..6_000).filter(|i| sketch.count(mix64(*i)) > 1).count();
        assert!(often < 100, "{often} of 1,000 new keys were taken for old ones");
    }

    #[test]
    fn old_counts_fade_and_new_keys_stay_new() {
        let mut sketch = sketch();
        (0..200).for_each(|_| _ = sketch.count(5));
        (0..200_000).for_each(|i| _ = sketch.count(mix64(i + 9)));
        let faded = sketch.count(5);
        assert!(faded < 10, "{faded} of 200 are left after 24 halvings");
        let often = (500_000..501_000).filter(|i| sketch.count(mix64(*i)) > 3).count();
        assert!(often < 50, "{often} of 1,000 new keys were counted more than three times");
    }
}
