//! A snapshot: everything serving needs of a model at one moment, and nothing else.
//!
//! In: slot names and (key, weight) pairs. Out: bytes that tell when they were damaged, and where. No optimizer state;
//! weights that are zero are left out.
//!
//! ```text
//! magic 8 | format u32 | sequence u64 | slots: count, names | entries u64 | checksum u64 of all before
//! padding to a multiple of 64 | keys, u64 each, ascending  | checksum u64
//!                             | weights, f32 each          | checksum u64
//! ```

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
    hash64,
};

const MAGIC: &[u8; 8] = b"TMSNAP\n\0";
const FORMAT: u32 = 1;
const ALIGN: usize = 64;

/// What serving needs of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The trainer's delta number up to which changes are surely in it.
    pub sequence: u64,
    /// Names of the feature slots, for people.
    pub slots: Vec<String>,
    /// Keys, ascending, with weights other than zero.
    pub entries: Vec<(u64, f32)>,
}

impl Snapshot {
    /// The snapshot as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        MAGIC.iter().for_each(|byte| _ = out.put_u8(*byte));
        out.put_u32(FORMAT).put_u64(self.sequence).put_varint(self.slots.len() as u64);
        self.slots.iter().for_each(|slot| _ = out.put_str(slot));
        out.put_u64(self.entries.len() as u64);
        put_checksum(&mut out, 0);
        (0..padding(out.as_slice().len())).for_each(|_| _ = out.put_u8(0));
        let keys = out.as_slice().len();
        self.entries.iter().for_each(|(key, _)| _ = out.put_u64(*key));
        put_checksum(&mut out, keys);
        let weights = out.as_slice().len();
        self.entries.iter().for_each(|(_, weight)| _ = out.put_f32(*weight));
        put_checksum(&mut out, weights);
        out.finish()
    }

    /// Reads back what [`Snapshot::encode`] wrote; `what` names it in errors ("ctr, version 42").
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut d = Decoder::new(bytes, what);
        if d.take(MAGIC.len())? != MAGIC {
            return Err(Error::corrupt(format!("{what}: not a snapshot (byte 0)")));
        }
        let format = d.u32()?;
        if format > FORMAT {
            return Err(Error::conflict(format!("{what}: format {format} is newer than this binary ({FORMAT})")));
        }
        let sequence = d.u64()?;
        let slots = (0..d.count(1)?).map(|_| Ok(d.str()?.to_string())).collect::<Result<_>>()?;
        let count = d.u64()?;
        check(&mut d, bytes, 0, "header", what)?;
        let padded = d.take(padding(bytes.len() - d.left()))?;
        if padded.iter().any(|byte| *byte != 0) {
            return Err(Error::corrupt(format!("{what}: padding is damaged")));
        }
        let keys = section(&mut d, bytes, count, 8, "keys", what)?;
        let weights = section(&mut d, bytes, count, 4, "weights", what)?;
        d.end()?;
        let keys = keys.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let weights = weights.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let entries: Vec<(u64, f32)> = keys.zip(weights).collect();
        match entries.is_sorted_by(|a, b| a.0 < b.0) {
            true => Ok(Self { sequence, slots, entries }),
            false => Err(Error::corrupt(format!("{what}: keys do not ascend"))),
        }
    }
}

/// Bytes of zero that bring `at` to a multiple of [`ALIGN`]: a mapped file then has its keys on line boundaries.
fn padding(at: usize) -> usize {
    at.next_multiple_of(ALIGN) - at
}

fn put_checksum(out: &mut Encoder, from: usize) {
    let checksum = hash64(&out.as_slice()[from..], 0);
    out.put_u64(checksum);
}

/// Compares the checksum that stands next with that of the bytes from `from` to here.
fn check(d: &mut Decoder, bytes: &[u8], from: usize, section: &str, what: &str) -> Result<()> {
    let to = bytes.len() - d.left();
    match d.u64()? == hash64(&bytes[from..to], 0) {
        true => Ok(()),
        false => Err(Error::corrupt(format!(
            "{what}: section {section} (bytes {from} to {to}) is damaged: its checksum does not match"
        ))),
    }
}

fn section<'a>(
    d: &mut Decoder<'a>,
    bytes: &[u8],
    count: u64,
    bytes_each: usize,
    name: &str,
    what: &str,
) -> Result<&'a [u8]> {
    let from = bytes.len() - d.left();
    let content = d.take((count as usize).saturating_mul(bytes_each))?;
    check(d, bytes, from, name, what)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let slots = vec!["user_id".into(), "user_id*item".into(), "bias".into()];
        Snapshot { sequence: 7, slots, entries: (1..100).map(|i| (i * 1_000_003, i as f32 * 0.25)).collect() }
    }

    fn message(bytes: &[u8]) -> String {
        Snapshot::decode(bytes, "ctr, version 42").unwrap_err().message().to_string()
    }

    #[test]
    fn a_snapshot_comes_back() {
        for s in [snapshot(), Snapshot::default()] {
            assert_eq!(Snapshot::decode(&s.encode(), "test").unwrap(), s);
        }
    }

    /// Each byte flipped, and the file cut at each byte: always refused, and the section named once past the header.
    #[test]
    fn any_flipped_or_missing_byte_is_refused_and_its_section_named() {
        let bytes = snapshot().encode();
        let keys = bytes.len() - (99 * 8 + 8) - (99 * 4 + 8);
        let weights = bytes.len() - (99 * 4 + 8);
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            let message = message(&bad);
            let expected = match i {
                0..8 => "not a snapshot",
                8..12 => "is newer than this binary",
                _ if i < keys => "", // a damaged length may end the header anywhere
                _ if i < weights => "section keys",
                _ => "section weights",
            };
            assert!(message.starts_with("ctr, version 42: ") && message.contains(expected), "byte {i}: {message}");
        }
        for i in 0..bytes.len() {
            assert!(message(&bytes[..i]).contains("ends at byte"), "cut at {i}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let mut bytes = snapshot().encode();
        bytes[8] = 9;
        assert_eq!(message(&bytes), "ctr, version 42: format 9 is newer than this binary (1)");
    }
}
