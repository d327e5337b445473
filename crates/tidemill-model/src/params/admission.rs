//! Counting how often a key without an entry was seen, in little room.
//!
//! A count-min sketch (Cormode and Muthukrishnan 2005) with conservative update, blocked: a key's four counters of one
//! byte share a cache line. It never counts too low, until it ages: once a line has been counted into eight times on
//! average, all counters are halved, so that keys seen once long ago do not add up. Part of the state, like the entries.

use tidemill_base::{
    Result,
    codec::{Decoder, Encoder},
    rng::mix64,
};

const LINES: usize = 1 << 10;
const LINE_BYTES: usize = 64;
const AGE_AFTER: u32 = 8 * LINES as u32;

/// One shard's counters: 64 KiB.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sketch {
    counters: Vec<u8>,
    counted: u32,
}

impl Sketch {
    pub(super) fn new() -> Self {
        Self { counters: vec![0; LINES * LINE_BYTES], counted: 0 }
    }

    /// Counts a key once more; returns how often it was seen, this time included.
    pub(super) fn count(&mut self, key: u64) -> u8 {
        self.counted += 1;
        if self.counted == AGE_AFTER {
            self.counted = 0;
            self.counters.iter_mut().for_each(|counter| *counter /= 2);
        }
        let bits = mix64(key);
        let line = (bits >> 32) as usize % LINES * LINE_BYTES;
        let counters = &mut self.counters[line..line + LINE_BYTES];
        let places = [0, 6, 12, 18].map(|shift| (bits >> shift) as usize % LINE_BYTES);
        let least = places.iter().map(|place| counters[*place]).min().unwrap_or(0);
        let more = least.saturating_add(1);
        places.iter().for_each(|place| counters[*place] = counters[*place].max(more));
        more
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.counters.capacity()
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_u32(self.counted).put_bytes(&self.counters);
    }

    pub(super) fn decode(&mut self, d: &mut Decoder) -> Result<()> {
        self.counted = d.u32()?.min(AGE_AFTER - 1);
        let counters = d.bytes()?;
        if counters.len() != self.counters.len() {
            return Err(tidemill_base::Error::corrupt(format!("an admission sketch of {} bytes", counters.len())));
        }
        self.counters.copy_from_slice(counters);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_counted_exactly_while_few_are_seen_and_never_too_low() {
        let mut sketch = Sketch::new();
        assert_eq!([1, 2, 3].map(|_| sketch.count(77)), [1, 2, 3]);
        (1..1_000).for_each(|i| _ = sketch.count(mix64(i)));
        assert!(sketch.count(77) >= 4);
        let often = (5_000..6_000).filter(|i| sketch.count(mix64(*i)) > 1).count();
        assert!(often < 100, "{often} of 1,000 new keys were taken for old ones");
    }

    #[test]
    fn old_counts_fade() {
        let mut sketch = Sketch::new();
        (0..10).for_each(|_| _ = sketch.count(5));
        (0..4 * AGE_AFTER as u64).for_each(|i| _ = sketch.count(mix64(i + 9)));
        let faded = sketch.count(5);
        assert!(faded < 250, "{faded}: saturated by others");
        assert!(sketch.counters.iter().map(|c| u64::from(*c)).sum::<u64>() > 0);
    }
}
