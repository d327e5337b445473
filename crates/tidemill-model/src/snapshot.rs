//! A snapshot: everything serving needs of a model at one moment, and nothing else.
//!
//! In: what kind of model it is, slot names, parameters by key, dense parameters. Out: bytes that tell when they were
//! damaged, and where. No optimizer state; entries whose parameters are all zero are left out.
//!
//! ```text
//! magic 8 | format u32 | sequence u64 | model | sampling | slots: count, names | width, entries, dense u64 | checksum u64
//!                                            (format 3)                                        of all before
//! padding to a multiple of 64 | keys, u64 each, ascending       | checksum u64
//!                             | parameters, width f32 each      | checksum u64
//!                             | dense parameters, f32 each      | checksum u64
//! ```

use std::io::{self, Write};

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
    hash::Hasher64,
    hash64,
};

use crate::{entries::Entries, model::ModelSpec, sampling::Sampling};

const MAGIC: &[u8; 8] = b"TMSNAP\n\0";
/// The newest that is read. What has no sampling is written as format 2, so that older binaries read it.
const FORMAT: u32 = 3;
const FORMAT_UNSAMPLED: u32 = 2;
const ALIGN: usize = 64;
/// Numbers that become bytes together.
const NUMBERS_AT_ONCE: usize = 8192;

/// What serving needs of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The trainer's delta number up to which changes are surely in it.
    pub sequence: u64,
    /// Which learner and which loss the parameters are of.
    pub model: ModelSpec,
    /// How negatives were sampled.
    pub sampling: Sampling,
    /// Names of the feature slots, by slot number.
    pub slots: Vec<String>,
    /// Entries with a parameter other than zero, by ascending key.
    pub entries: Entries,
    /// Parameters that belong to no key.
    pub dense: Vec<f32>,
}

impl Snapshot {
    /// The snapshot as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out).expect("memory takes all that is written");
        out
    }

    /// Writes the snapshot piece by piece.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut header = Encoder::new();
        MAGIC.iter().for_each(|byte| _ = header.put_u8(*byte));
        let is_sampled = self.sampling != Sampling::None;
        header.put_u32(if is_sampled { FORMAT } else { FORMAT_UNSAMPLED }).put_u64(self.sequence);
        self.model.encode(&mut header);
        if is_sampled {
            self.sampling.encode(&mut header);
        }
        header.put_varint(self.slots.len() as u64);
        self.slots.iter().for_each(|slot| _ = header.put_str(slot));
        header.put_u64(self.entries.width as u64).put_u64(self.entries.len() as u64).put_u64(self.dense.len() as u64);
        put_checksum(&mut header, 0);
        (0..padding(header.as_slice().len())).for_each(|_| _ = header.put_u8(0));
        out.write_all(header.as_slice())?;
        write_section(out, &self.entries.keys, |key| key.to_le_bytes())?;
        write_section(out, &self.entries.params, |x| x.to_le_bytes())?;
        write_section(out, &self.dense, |x| x.to_le_bytes())
    }

    /// Reads back what [`Snapshot::encode`] wrote; `what` names it in errors ("ctr, version 42").
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut d = Decoder::new(bytes, what);
        if d.take(MAGIC.len())? != MAGIC {
            return Err(Error::corrupt(format!("{what}: not a snapshot (byte 0)")));
        }
        let format = d.u32()?;
        if !(1..=FORMAT).contains(&format) {
            return Err(Error::conflict(format!("{what}: format {format}, this binary reads 1 to {FORMAT}")));
        }
        let sequence = d.u64()?;
        let model = if format == 1 { ModelSpec::default() } else { ModelSpec::decode(&mut d, what)? };
        let sampling = if format < 3 { Sampling::None } else { Sampling::decode(&mut d, what)? };
        let slots = (0..d.count(1)?).map(|_| Ok(d.str()?.to_string())).collect::<Result<_>>()?;
        // Format 1: logistic regression, one weight for each key and nothing dense.
        let (width, count, dense) = if format == 1 { (1, d.u64()?, 0) } else { (d.u64()?, d.u64()?, d.u64()?) };
        check(&mut d, bytes, 0, "header", what)?;
        let padded = d.take(padding(bytes.len() - d.left()))?;
        if padded.iter().any(|byte| *byte != 0) {
            return Err(Error::corrupt(format!("{what}: padding is damaged")));
        }
        let keys = section(&mut d, bytes, count, 8, "keys", what)?;
        let params = section(&mut d, bytes, count, width.saturating_mul(4), "parameters", what)?;
        let dense = if format == 1 { &[] } else { section(&mut d, bytes, dense, 4, "dense parameters", what)? };
        d.end()?;
        let numbers = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let keys: Vec<u64> = keys.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let entries = Entries { width: width as usize, keys, params: numbers(params) };
        match entries.keys.is_sorted_by(|a, b| a < b) {
            true => Ok(Self { sequence, model, sampling, slots, entries, dense: numbers(dense) }),
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

/// Writes numbers and their checksum.
fn write_section<T: Copy, const BYTES: usize>(
    out: &mut dyn Write,
    numbers: &[T],
    bytes_of: impl Fn(T) -> [u8; BYTES],
) -> io::Result<()> {
    let mut checksum = Hasher64::new(0);
    let mut bytes = Vec::new();
    for some in numbers.chunks(NUMBERS_AT_ONCE) {
        bytes.clear();
        bytes.extend(some.iter().flat_map(|x| bytes_of(*x)));
        checksum.update(&bytes);
        out.write_all(&bytes)?;
    }
    out.write_all(&checksum.finish().to_le_bytes())
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
    bytes_each: u64,
    name: &str,
    what: &str,
) -> Result<&'a [u8]> {
    let from = bytes.len() - d.left();
    let content = d.take(count.saturating_mul(bytes_each) as usize)?;
    check(d, bytes, from, name, what)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let slots = vec!["user_id".into(), "user_id*item".into(), "bias".into()];
        let mut entries = Entries::new(2);
        (1..100).for_each(|i| entries.push(i * 1_000_003, &[i as f32 * 0.25, 1.0]));
        Snapshot { sequence: 7, slots, entries, dense: vec![0.5; 7], ..Snapshot::default() }
    }

    fn message(bytes: &[u8]) -> String {
        Snapshot::decode(bytes, "ctr, version 42").unwrap_err().message().to_string()
    }

    #[test]
    fn a_snapshot_comes_back() {
        let sampled = |sampling| Snapshot { sampling, ..snapshot() };
        let (weight, logit) = (Sampling::Weight { share: 0.1 }, Sampling::Logit { share: 0.25 });
        for s in [snapshot(), Snapshot::default(), sampled(weight), sampled(logit)] {
            assert_eq!(Snapshot::decode(&s.encode(), "test").unwrap(), s);
        }
    }

    /// Each byte flipped, and the file cut at each byte: always refused, and the section named once past the header.
    #[test]
    fn any_flipped_or_missing_byte_is_refused_and_its_section_named() {
        let bytes = snapshot().encode();
        let dense = bytes.len() - (7 * 4 + 8);
        let params = dense - (99 * 8 + 8);
        let keys = params - (99 * 8 + 8);
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            let message = message(&bad);
            let expected = match i {
                0..8 => "not a snapshot",
                8..12 => "this binary reads 1 to",
                _ if i < keys => "", // a damaged length may end the header anywhere
                _ if i < params => "section keys",
                _ if i < dense => "section parameters",
                _ => "section dense parameters",
            };
            assert!(message.starts_with("ctr, version 42: ") && message.contains(expected), "byte {i}: {message}");
        }
        for i in 0..bytes.len() {
            let message = message(&bytes[..i]);
            assert!(message.contains("ends at byte"), "cut at {i}: {message}");
        }
    }

    /// Serving must not guess what a sampling that it does not know did to the scores.
    #[test]
    fn a_sampling_mode_that_is_not_known_is_refused() {
        let bytes = Snapshot { sampling: Sampling::Logit { share: 0.1 }, ..Snapshot::default() }.encode();
        // Behind magic, format and sequence stand the loss and the learner of a byte each.
        let at = 8 + 4 + 8 + 2;
        assert_eq!(bytes[at], 2);
        let mut bad = bytes.clone();
        bad[at] = 3;
        assert!(message(&bad).contains("sampled in mode 3"), "{}", message(&bad));
    }

    /// As 0.1.0 wrote it: docs/0001 has the layout.
    #[test]
    fn a_snapshot_of_format_1_is_read() {
        let mut out = Encoder::new();
        MAGIC.iter().for_each(|byte| _ = out.put_u8(*byte));
        out.put_u32(1).put_u64(7).put_varint(2).put_str("a").put_str("b").put_u64(3);
        put_checksum(&mut out, 0);
        (0..padding(out.as_slice().len())).for_each(|_| _ = out.put_u8(0));
        for section in [[1u64, 5, 9].map(u64::to_le_bytes).concat(), [0.5f32, -1.0, 2.0].map(f32::to_le_bytes).concat()]
        {
            let begin = out.as_slice().len();
            section.iter().for_each(|byte| _ = out.put_u8(*byte));
            put_checksum(&mut out, begin);
        }
        let s = Snapshot::decode(&out.finish(), "ctr, version 1").unwrap();
        assert_eq!((s.sequence, &s.model, s.slots.len(), s.dense.len()), (7, &ModelSpec::default(), 2, 0));
        assert_eq!((s.entries.width, s.entries.keys, s.entries.params), (1, vec![1, 5, 9], vec![0.5, -1.0, 2.0]));
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let mut bytes = snapshot().encode();
        bytes[8] = 9;
        assert_eq!(message(&bytes), "ctr, version 42: format 9, this binary reads 1 to 3");
    }
}
