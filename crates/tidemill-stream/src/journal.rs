//! The journal: one small record for each mini-batch, written before the mini-batch is processed.
//!
//! A record names the end offset of every partition that moved, the partitions that fell idle or woke, that appeared or
//! ended. Together with the program and the sources' contents it decides everything downstream. Here are the records and
//! their bytes; the file that holds them is the engine's.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use crate::source::Print;

/// Format of the log that holds these records. 1 had no prints and no clock; under 2 a silent source froze the watermark.
pub const FORMAT: u32 = 3;
/// The same of one in several files, whose oldest may be gone.
pub const FORMAT_IN_FILES: u32 = 4;

/// Which partition: input of the query, then number within the input in order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionId {
    /// 0 for the left (or only) input, 1 for the right.
    pub input: u32,
    /// Number within the input.
    pub partition: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A partition was opened; its number is the next free one of its input.
    Partition {
        /// Input it belongs to.
        input: u32,
        /// Its name within the source.
        name: String,
        /// Whether it is merged by event time (see [`crate::sequencer`]).
        ordered: bool,
    },
    /// A mini-batch was cut.
    Cut(CutRecord),
    /// What the first bytes of a partition's file were, so that a restart knows the file again.
    Print(PartitionId, Print),
    /// All partitions that were there when the job first opened its sources stand before this. Where it is missing and nothing
    /// was cut, some may not have been written down, and the sources are opened as if for the first time.
    Opened,
    /// The journal goes on here behind this mini-batch: the first record of a file that is not the first. All partitions there
    /// are, their prints, and `Opened` come next.
    Base(u64),
}

/// What decides the contents of one mini-batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutRecord {
    /// Its number, from 1.
    pub mini_batch: u64,
    /// Partitions that moved, with the offset behind the last row taken.
    pub ends: Vec<(PartitionId, u64)>,
    /// Partitions that fell idle (true) or woke (false) before the watermark of this mini-batch.
    pub idle: Vec<(PartitionId, bool)>,
    /// Partitions whose end was reached.
    pub finished: Vec<PartitionId>,
    /// What the clock said, where an event was refused for being too far ahead of it.
    pub clock_ms: Option<i64>,
}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        match self {
            Record::Partition { input, name, ordered } => {
                e.put_u8(1).put_varint(*input as u64).put_u8(*ordered as u8).put_str(name);
            }
            Record::Cut(cut) => {
                match cut.clock_ms {
                    None => e.put_u8(2),
                    Some(clock_ms) => e.put_u8(4).put_i64(clock_ms),
                };
                e.put_varint(cut.mini_batch).put_varint(cut.ends.len() as u64);
                for (id, end) in &cut.ends {
                    put_id(&mut e, *id).put_varint(*end);
                }
                e.put_varint(cut.idle.len() as u64);
                for (id, idle) in &cut.idle {
                    put_id(&mut e, *id).put_u8(*idle as u8);
                }
                e.put_varint(cut.finished.len() as u64);
                for id in &cut.finished {
                    put_id(&mut e, *id);
                }
            }
            Record::Print(id, print) => {
                put_id(e.put_u8(3), *id).put_u64(print.bytes).put_u64(print.hash);
            }
            Record::Opened => _ = e.put_u8(5),
            Record::Base(mini_batch) => _ = e.put_u8(6).put_varint(*mini_batch),
        }
        e.finish()
    }

    /// Reads a record back.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut d = Decoder::new(bytes, "journal record");
        let record = match d.u8()? {
            1 => {
                let (input, ordered) = (d.varint()? as u32, d.u8()? != 0);
                Record::Partition { input, ordered, name: d.str()?.to_string() }
            }
            kind @ (2 | 4) => {
                let clock_ms = if kind == 4 { Some(d.i64()?) } else { None };
                let mut cut = CutRecord { clock_ms, mini_batch: d.varint()?, ..CutRecord::default() };
                for _ in 0..d.count(3)? {
                    cut.ends.push((id(&mut d)?, d.varint()?));
                }
                for _ in 0..d.count(3)? {
                    cut.idle.push((id(&mut d)?, d.u8()? != 0));
                }
                for _ in 0..d.count(2)? {
                    cut.finished.push(id(&mut d)?);
                }
                Record::Cut(cut)
            }
            3 => Record::Print(id(&mut d)?, Print { bytes: d.u64()?, hash: d.u64()? }),
            5 => Record::Opened,
            6 => Record::Base(d.varint()?),
            kind => return Err(Error::corrupt(format!("journal: no record of kind {kind}"))),
        };
        d.end()?;
        Ok(record)
    }
}

fn put_id(e: &mut Encoder, id: PartitionId) -> &mut Encoder {
    e.put_varint(id.input as u64).put_varint(id.partition as u64)
}

fn id(d: &mut Decoder) -> Result<PartitionId> {
    Ok(PartitionId { input: d.varint()? as u32, partition: d.varint()? as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = PartitionId> {
        (0..3u32, 0..300u32).prop_map(|(input, partition)| PartitionId { input, partition })
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            mini_batch in any::<u64>(),
            ends in prop::collection::vec((ids(), any::<u64>()), 0..5),
            idle in prop::collection::vec((ids(), any::<bool>()), 0..5),
            finished in prop::collection::vec(ids(), 0..5),
            clock_ms in prop::option::of(any::<i64>()),
        ) {
            let record = Record::Cut(CutRecord { mini_batch, ends, idle, finished, clock_ms });
            prop_assert_eq!(Record::decode(&record.encode()).unwrap(), record);
        }

        #[test]
        fn a_print_comes_back_as_it_was(id in ids(), bytes in any::<u64>(), hash in any::<u64>()) {
            let record = Record::Print(id, Print { bytes, hash });
            prop_assert_eq!(Record::decode(&record.encode()).unwrap(), record);
            prop_assert_eq!(Record::decode(&Record::Opened.encode()).unwrap(), Record::Opened);
            let base = Record::Base(bytes);
            prop_assert_eq!(Record::decode(&base.encode()).unwrap(), base);
        }

        /// Bytes that are no record are refused, whatever they are; they never panic or ask for memory.
        #[test]
        fn garbage_is_refused_or_read_but_never_believed_beyond_its_length(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Record::decode(&bytes);
        }
    }
}
