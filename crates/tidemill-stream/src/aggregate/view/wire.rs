//! What changed in a view, as bytes: for whoever serves a copy of it in another process.
//!
//! In and out: a [`ViewDelta`]. Entries are written less the words that are 0, as checkpoints do it.
//!
//! ```text
//! removed: count varint, keys u64 each | words of an entry varint | entries varint | of each: words that are not 0, varint,
//! and of each of these how far it stands behind the one before, varint, and the word u32
//! ```

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use super::{Table, ViewCopy, ViewDelta};

/// Words of an entry at most: more than any view has.
const STRIDE_MAX: usize = 1 << 22;

/// Words that a reader makes of so many bytes, at most: those that are 0 take none, so bytes that anybody made up could ask
/// for all there is.
fn words_max(bytes: usize) -> usize {
    bytes.saturating_mul(128).max(1 << 26)
}

impl ViewDelta {
    /// Appends it.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_varint(self.removed.len() as u64);
        self.removed.iter().for_each(|key| _ = out.put_u64(*key));
        let stride = self.stride.max(1);
        out.put_varint(stride as u64).put_varint((self.words.len() / stride) as u64);
        for words in self.words.chunks_exact(stride) {
            out.put_varint(words.iter().filter(|word| **word != 0).count() as u64);
            let mut before = 0;
            for (i, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
                out.put_varint((i - before) as u64).put_u32(*word);
                before = i;
            }
        }
    }

    /// Reads back what [`ViewDelta::encode`] wrote.
    pub fn decode(d: &mut Decoder) -> Result<Self> {
        let damaged = || Error::corrupt("feature view: an entry is not what was written");
        let removed = (0..d.count(8)?).map(|_| d.u64()).collect::<Result<_>>()?;
        let stride = usize::try_from(d.varint()?).ok().filter(|stride| (1..=STRIDE_MAX).contains(stride));
        let stride = stride.ok_or_else(damaged)?;
        // Each entry has its key, so there are bytes for each.
        let count = d.count(1)?;
        if count.saturating_mul(stride) > words_max(d.left()) {
            return Err(Error::corrupt(format!(
                "feature view: {count} entries of {stride} words in {} bytes are not believed",
                d.left()
            )));
        }
        let mut words: Vec<u32> = Vec::new();
        for _ in 0..count {
            let begin = words.len();
            words.resize(begin + stride, 0);
            let mut at = 0usize;
            let taken = d.varint()?;
            if taken == 0 || taken > stride as u64 {
                return Err(damaged());
            }
            for i in 0..taken {
                let step = usize::try_from(d.varint()?).ok().filter(|step| i == 0 || *step > 0);
                at = step.and_then(|step| at.checked_add(step)).ok_or_else(damaged)?;
                let word = d.u32()?;
                if word == 0 {
                    return Err(damaged());
                }
                *words[begin..].get_mut(at).ok_or_else(damaged)? = word;
            }
        }
        Ok(Self { removed, words, stride })
    }

    /// The same in pieces of about so many bytes, one at least.
    pub fn split(self, bytes: usize) -> Vec<Self> {
        let stride = self.stride.max(1);
        let entries = (bytes / 4 / stride).max(1);
        let mut pieces: Vec<Self> = (self.words.chunks(entries * stride))
            .map(|words| Self { removed: Vec::new(), words: words.to_vec(), stride })
            .collect();
        if pieces.is_empty() {
            pieces.push(Self { stride, ..Self::default() });
        }
        pieces[0].removed = self.removed;
        pieces
    }
}

impl ViewCopy {
    /// Everything in it, as a change of a view that has seen nothing.
    pub fn whole(&self) -> ViewDelta {
        let table: &Table = &self.table;
        let mut words = Vec::with_capacity(table.len() * self.layout.words);
        table.slots().for_each(|slot| words.extend_from_slice(table.entry(slot)));
        ViewDelta { removed: Vec::new(), words, stride: self.layout.words }
    }

    /// Refuses a change of another view.
    pub fn check(&self, delta: &ViewDelta) -> Result<()> {
        let fits = delta.words.is_empty() || delta.stride == self.layout.words;
        if fits && delta.words.len().is_multiple_of(self.layout.words) {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "feature view: entries of {} words, this view has {}; the programs differ",
            delta.stride, self.layout.words
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_and_damage_is_refused_or_harmless() {
        let delta = ViewDelta { removed: vec![7, 9], words: vec![1, 0, 0, 5, 0, 6, 7, 0, 0, 0, 0, 8], stride: 4 };
        let mut out = Encoder::new();
        delta.encode(&mut out);
        let bytes = out.finish();
        let read = |bytes: &[u8]| -> Result<ViewDelta> {
            let mut d = Decoder::new(bytes, "test");
            let delta = ViewDelta::decode(&mut d)?;
            d.end().map(|()| delta)
        };
        let same = |a: &ViewDelta, b: &ViewDelta| (&a.removed, &a.words, a.stride) == (&b.removed, &b.words, b.stride);
        assert!(same(&read(&bytes).unwrap(), &delta));
        for i in 0..bytes.len() {
            assert!(read(&bytes[..i]).is_err(), "cut at {i}");
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                if let Ok(changed) = read(&bad) {
                    assert!(changed.words.len().is_multiple_of(changed.stride));
                    let mut again = Encoder::new();
                    changed.encode(&mut again);
                    assert!(same(&read(&again.finish()).unwrap(), &changed), "what is read can be written");
                }
            }
        }
        // One entry of two words, whose only one that is written is 0, or is written twice.
        assert!(read(&[0, 2, 1, 1, 0, 0, 0, 0, 0]).is_err());
        assert!(read(&[0, 2, 1, 2, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0]).is_err());
        assert!(read(&[0, 2, 1, 2, 0, 1, 0, 0, 0, 1, 2, 0, 0, 0]).is_ok());
        let pieces = delta.clone().split(20);
        assert_eq!(
            pieces.iter().map(|p| (p.removed.len(), p.words.len())).collect::<Vec<_>>(),
            [(2, 4), (0, 4), (0, 4)]
        );
        assert_eq!(ViewDelta::default().split(20).len(), 1);
    }

    /// Words that are 0 take no bytes, so what is made of few bytes is bounded.
    #[test]
    fn few_bytes_do_not_ask_for_much_memory() {
        let read = |stride: u64, count: u64| {
            let mut out = Encoder::new();
            out.put_varint(0).put_varint(stride).put_varint(count);
            (0..count).for_each(|_| _ = out.put_varint(1).put_varint(0).put_u32(7));
            ViewDelta::decode(&mut Decoder::new(out.as_slice(), "test"))
        };
        assert_eq!(read(100, 1000).unwrap().words.len(), 100_000);
        let e = read(1 << 22, 100).unwrap_err();
        assert_eq!(e.message(), "feature view: 100 entries of 4194304 words in 600 bytes are not believed");
    }
}
