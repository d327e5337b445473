//! A delta: what changed between two moments of training, for whoever already has the first.
//!
//! In: the parameters as of `to` of every entry that changed since `from` (some that did not may be among them), and the
//! dense ones. Applying a delta sets parameters and adds nothing, so applying it twice, or on top of something newer than
//! `from` but not than `to`, does no harm; leaving one out does.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
    hash64,
};

use crate::{compact, entries::Entries, weights::WeightTable};

const MAGIC: &[u8; 8] = b"TMDELTA\n";
/// Every parameter in 32 bits.
const FORMAT: u32 = 2;
/// Rows in their smallest forms; written where that saves a tenth at least.
const COMPACT: u32 = 3;

/// Parameters that changed between two moments, numbered by the trainer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// The moment it starts from.
    pub from: u64,
    /// The moment it leads to.
    pub to: u64,
    /// Entries, by ascending key, as of `to`; one whose parameters are all zero is removed.
    pub entries: Entries,
    /// All dense parameters as of `to`; empty for a learner without.
    pub dense: Vec<f32>,
    /// Everything there is comes anew: entries that are not named are removed.
    pub anew: bool,
}

impl Delta {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.dense.is_empty() && !self.anew
    }

    /// What of it changes something for whoever has these weights: without the removal of what is not there.
    pub fn needed_by(&self, weights: &WeightTable) -> Delta {
        let mut entries = Entries::with_room(self.entries.width, self.entries.len());
        for (key, params) in self.entries.iter() {
            let is_zero = |params: &[f32]| params.iter().all(|x| *x == 0.0);
            if !is_zero(params) || !is_zero(&weights.params(key)) {
                entries.push(key, params);
            }
        }
        Delta { entries, dense: self.dense.clone(), ..*self }
    }

    /// Makes one delta of this and the one that follows it.
    pub fn merge(&mut self, next: &Delta) -> Result<()> {
        if next.from != self.to {
            return Err(Error::conflict(format!(
                "delta {}..{} does not follow {}..{}; load a snapshot",
                next.from, next.to, self.from, self.to
            )));
        }
        self.append(next.clone());
        Ok(())
    }

    /// [`Delta::merge`] for one that is known to follow.
    pub fn append(&mut self, next: Delta) {
        self.entries = if next.anew { next.entries } else { self.entries.merged(&next.entries) };
        self.anew |= next.anew;
        if !next.dense.is_empty() {
            self.dense = next.dense;
        }
        self.to = next.to;
    }

    /// The delta as bytes, with a checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        MAGIC.iter().for_each(|byte| _ = out.put_u8(*byte));
        let forms = compact::forms(&self.entries);
        let format = if forms.is_some() { COMPACT } else { FORMAT };
        out.put_u32(format).put_u64(self.from).put_u64(self.to).put_u8(self.anew as u8);
        match forms {
            Some(forms) => compact::encode(&self.entries, &forms, &mut out),
            None => self.entries.encode(&mut out),
        }
        out.put_varint(self.dense.len() as u64);
        self.dense.iter().for_each(|x| _ = out.put_f32(*x));
        let checksum = hash64(out.as_slice(), 0);
        out.put_u64(checksum);
        out.finish()
    }

    /// Reads back what [`Delta::encode`] wrote; `what` names it in errors.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut d = Decoder::new(bytes, what);
        if d.take(MAGIC.len())? != MAGIC {
            return Err(Error::corrupt(format!("{what}: not a delta (byte 0)")));
        }
        let format = d.u32()?;
        if !(FORMAT..=COMPACT).contains(&format) {
            return Err(Error::conflict(format!("{what}: format {format}, this binary reads {FORMAT} and {COMPACT}")));
        }
        let content = bytes.len().saturating_sub(8);
        if d.left() < 8 || hash64(&bytes[..content], 0).to_le_bytes() != bytes[content..] {
            return Err(Error::corrupt(format!("{what}: checksum does not match (bytes 0 to {})", bytes.len())));
        }
        let (from, to, anew) = (d.u64()?, d.u64()?, d.u8()? != 0);
        let entries = if format == COMPACT { compact::decode(&mut d)? } else { Entries::decode(&mut d)? };
        let dense = (0..d.count(4)?).map(|_| d.f32()).collect::<Result<_>>()?;
        d.u64()?;
        d.end()?;
        Ok(Self { from, to, entries, dense, anew })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_comes_back_and_damage_is_named() {
        let delta =
            Delta { from: 3, to: 4, entries: Entries::pairs([(1, 0.5), (9, 0.0)]), dense: vec![0.25], anew: true };
        let bytes = delta.encode();
        assert_eq!(Delta::decode(&bytes, "delta 4").unwrap(), delta);
        let message = |bytes: &[u8]| Delta::decode(bytes, "delta 4").unwrap_err().message().to_string();
        for i in 12..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(message(&bad).contains("checksum does not match"), "byte {i}");
        }
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert_eq!(message(&newer), "delta 4: format 9, this binary reads 2 and 3");
        assert!(message(b"hello world!").contains("not a delta"));
        assert!(message(&bytes[..20]).contains("checksum"));
        assert!(message(&bytes[..5]).contains("ends at byte 5"));
    }

    #[test]
    fn merging_keeps_the_newer_weight_and_refuses_a_gap() {
        let mut a =
            Delta { from: 0, to: 1, entries: Entries::pairs([(1, 1.0), (5, 5.0), (7, 7.0)]), ..Delta::default() };
        a.merge(&Delta { from: 1, to: 2, entries: Entries::pairs([(0, 2.0), (5, 2.0), (9, 2.0)]), ..Delta::default() })
            .unwrap();
        assert_eq!(
            a,
            Delta {
                from: 0,
                to: 2,
                entries: Entries::pairs([(0, 2.0), (1, 1.0), (5, 2.0), (7, 7.0), (9, 2.0)]),
                ..Delta::default()
            }
        );
        let gap = a.merge(&Delta { from: 3, to: 4, entries: Entries::pairs([]), ..Delta::default() }).unwrap_err();
        assert_eq!(gap.message(), "delta 3..4 does not follow 0..2; load a snapshot");
    }
}
