//! Snapshots of formats 1 to 3: keys, parameters and dense parameters one after the other, each with a checksum.

use tidemill_base::{Error, Result, codec::Decoder, hash64};

use super::{Head, damaged, read_numbers};
use crate::entries::Entries;

/// The parameters behind a header.
pub(super) fn read(head: &mut Head, bytes: &[u8], what: &str) -> Result<(Entries, Vec<f32>)> {
    let mut d = Decoder::new(bytes, what);
    d.take(head.end)?;
    let keys = section(&mut d, bytes, head.entries, 8, "keys", what)?;
    let params = section(&mut d, bytes, head.entries, head.width.saturating_mul(4), "parameters", what)?;
    let dense = match head.format {
        1 => &[],
        _ => section(&mut d, bytes, head.dense, 4, "dense parameters", what)?,
    };
    d.end()?;
    if head.width == 0 && head.entries > 0 || head.width > u32::MAX.into() {
        return Err(Error::corrupt(format!("{what}: {} entries of {} parameters", head.entries, head.width)));
    }
    let keys = keys.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    Ok((Entries { width: head.width as usize, keys, params: read_numbers(params) }, read_numbers(dense)))
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
    let length = usize::try_from(count.saturating_mul(bytes_each));
    let content = d.take(length.map_err(|_| Error::corrupt(format!("{what}: {name} without end")))?)?;
    match d.u64()? == hash64(content, 0) {
        true => Ok(content),
        false => Err(damaged(what, name, from, from + content.len())),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_base::codec::Encoder;

    use super::super::{MAGIC, Snapshot, padding};
    use crate::{model::ModelSpec, sampling::Sampling};

    use super::*;

    /// As the formats before wrote it: docs/0001 has the layout.
    fn written(format: u32, sampling: Option<Sampling>) -> Vec<u8> {
        let mut out = Encoder::new();
        MAGIC.iter().for_each(|byte| _ = out.put_u8(*byte));
        out.put_u32(format).put_u64(7);
        if format > 1 {
            ModelSpec::default().encode(&mut out);
        }
        if let Some(sampling) = sampling {
            sampling.encode(&mut out);
        }
        out.put_varint(2).put_str("a").put_str("b");
        if format > 1 {
            out.put_u64(1);
        }
        out.put_u64(3);
        if format > 1 {
            out.put_u64(0);
        }
        put_check(&mut out, 0);
        (0..padding(out.as_slice().len())).for_each(|_| _ = out.put_u8(0));
        let keys = [1u64, 5, 9].map(u64::to_le_bytes).concat();
        let params = [0.5f32, -1.0, 2.0].map(f32::to_le_bytes).concat();
        for section in [keys, params, Vec::new()].into_iter().take(if format == 1 { 2 } else { 3 }) {
            let begin = out.as_slice().len();
            section.iter().for_each(|byte| _ = out.put_u8(*byte));
            put_check(&mut out, begin);
        }
        out.finish()
    }

    fn put_check(out: &mut Encoder, from: usize) {
        let check = hash64(&out.as_slice()[from..], 0);
        out.put_u64(check);
    }

    #[test]
    fn snapshots_of_all_earlier_formats_are_read() {
        let share = Sampling::Logit { share: 0.25 };
        for (format, sampling) in [(1, None), (2, None), (3, Some(share))] {
            let bytes = written(format, sampling);
            let s = Snapshot::decode(&bytes, "ctr, version 1").unwrap();
            assert_eq!((s.sequence, &s.model, s.slots.len(), s.dense.len()), (7, &ModelSpec::default(), 2, 0));
            assert_eq!(s.sampling, sampling.unwrap_or(Sampling::None));
            assert_eq!((s.entries.width, s.entries.keys, s.entries.params), (1, vec![1, 5, 9], vec![0.5, -1.0, 2.0]));
            for i in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[i] ^= 0x10;
                assert!(Snapshot::decode(&bad, "ctr").is_err(), "format {format}, byte {i}");
                assert!(Snapshot::decode(&bytes[..i], "ctr").is_err(), "format {format}, cut at {i}");
            }
        }
    }
}
