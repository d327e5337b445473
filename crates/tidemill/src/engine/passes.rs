//! Passes: bounded history learned more than once, from features that were kept the first time.
//!
//! In: the lessons of pass 1, as they go by. Out: the same lessons again, pass after pass, from one file beside the job
//! (`features.cache`), without the sources, the join or the extraction. A lesson's bytes follow from its mini-batch, so a
//! job that restarts and does mini-batches again does not write them again. The file is no state: it may be deleted, and
//! the job then begins anew.

use std::path::{Path, PathBuf};

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
    store::log::{HEADER_BYTES, Log, LogReader},
};
use tidemill_model::Features;
use tidemill_stream::join::{Matured, SampleKind};

use super::Lesson;

const FILE: &str = "features.cache";
/// A lesson is handed to the operating system when so many bytes have gathered.
const FLUSH_BYTES: usize = 1 << 20;

// What a lesson's arrays have in common is said once, in these flags.
const ALL_FINAL: u8 = 1;
const ONE_LENGTH: u8 = 2;
const ALL_ONES: u8 = 4;
const ONE_PATTERN: u8 = 8;

/// The lessons of pass 1 on their way into the file.
pub struct LessonWriter {
    log: Log,
    last: u64,
    gathered: usize,
    bytes: Vec<u8>,
}

/// The lessons again, in order.
pub struct LessonReader {
    path: PathBuf,
    log: LogReader,
}

impl LessonWriter {
    /// Goes on behind what the file in `dir` holds already.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut last = 0;
        let log = Log::open(&dir.join(FILE), |_, _, payload| {
            last = Decoder::new(payload, FILE).u64()?;
            Ok(())
        })?;
        Ok(Self { log, last, gathered: 0, bytes: Vec::new() })
    }

    /// Keeps a lesson, unless it is there.
    pub fn keep(&mut self, lesson: &Lesson) -> Result<()> {
        if lesson.mini_batch <= self.last {
            return Ok(());
        }
        self.last = lesson.mini_batch;
        self.bytes.clear();
        encode(lesson, &mut self.bytes);
        self.gathered += self.bytes.len();
        self.log.append(&self.bytes)?;
        match self.gathered >= FLUSH_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) -> Result<()> {
        self.gathered = 0;
        self.log.flush()
    }
}

impl LessonReader {
    /// Reads the file in `dir` from its beginning.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        Ok(Self { log: LogReader::open_at(&path, HEADER_BYTES)?, path })
    }

    /// Fills `lesson` with the next one; `false` at the end.
    pub fn next(&mut self, lesson: &mut Lesson) -> Result<bool> {
        let Some(payload) = self.log.next()? else { return Ok(false) };
        decode(payload, lesson).map_err(|e| e.at(self.path.display()))?;
        Ok(true)
    }
}

fn encode(lesson: &Lesson, out: &mut Vec<u8>) {
    let Lesson { mini_batch, features, labels, kinds, seqs, .. } = lesson;
    let rows = labels.len();
    let stride = features.keys.len().checked_div(rows).unwrap_or(0);
    let one_length = features.ends.iter().enumerate().all(|(i, end)| *end as usize == (i + 1) * stride);
    let pattern = &features.slots[..if one_length { stride } else { 0 }];
    let one_pattern = one_length && features.slots.chunks_exact(stride.max(1)).all(|slots| slots == pattern);
    let all_final = kinds.iter().all(|kind| *kind == SampleKind::Final);
    let all_ones = features.values.iter().all(|value| *value == 1.0);
    let flags = [(all_final, ALL_FINAL), (one_length, ONE_LENGTH), (all_ones, ALL_ONES), (one_pattern, ONE_PATTERN)];
    let flags = flags.iter().filter(|(is, _)| *is).fold(0, |flags, (_, flag)| flags | flag);

    let mut head = Encoder::new();
    head.put_u64(*mini_batch).put_u8(flags).put_varint(rows as u64).put_varint(features.keys.len() as u64);
    out.extend_from_slice(head.as_slice());
    labels.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    seqs.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    if !all_final {
        out.extend(kinds.iter().map(|kind| *kind as u8));
    }
    if !one_length {
        features.ends.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    }
    let slots = if one_pattern { pattern } else { &features.slots[..] };
    slots.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    if !all_ones {
        features.values.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    }
    features.keys.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
}

fn decode(payload: &[u8], lesson: &mut Lesson) -> Result<()> {
    let mut d = Decoder::new(payload, "lesson");
    lesson.mini_batch = d.u64()?;
    let flags = d.u8()?;
    let (rows, features) = (d.varint()? as usize, d.varint()? as usize);
    let is = |flag: u8| flags & flag != 0;
    if rows > payload.len() || features > payload.len() || (is(ONE_LENGTH) && rows == 0 && features > 0) {
        return Err(Error::corrupt("a lesson is shorter than it says"));
    }
    numbers(d.take(rows * 4)?, &mut lesson.labels, f32::from_le_bytes);
    numbers(d.take(rows * 8)?, &mut lesson.seqs, u64::from_le_bytes);
    lesson.kinds.clear();
    match is(ALL_FINAL) {
        true => lesson.kinds.resize(rows, SampleKind::Final),
        false => {
            for byte in d.take(rows)? {
                lesson.kinds.push(kind(*byte)?);
            }
        }
    }
    let Features { keys, values, slots, ends, refused, .. } = &mut lesson.features;
    refused.clear();
    let stride = features.checked_div(rows).unwrap_or(0);
    match is(ONE_LENGTH) {
        true => {
            ends.clear();
            ends.extend((1..=rows as u32).map(|i| i * stride as u32));
        }
        false => numbers(d.take(rows * 4)?, ends, u32::from_le_bytes),
    }
    match is(ONE_PATTERN) {
        true => {
            let mut pattern = Vec::new();
            numbers(d.take(stride * 2)?, &mut pattern, u16::from_le_bytes);
            slots.clear();
            (0..rows).for_each(|_| slots.extend_from_slice(&pattern));
        }
        false => numbers(d.take(features * 2)?, slots, u16::from_le_bytes),
    }
    match is(ALL_ONES) {
        true => {
            values.clear();
            values.resize(features, 1.0);
        }
        false => numbers(d.take(features * 4)?, values, f32::from_le_bytes),
    }
    numbers(d.take(features * 8)?, keys, u64::from_le_bytes);
    d.end()?;
    lesson.oracle = None;
    lesson.matured.clear();
    lesson.matured.extend(lesson.seqs.iter().zip(&lesson.labels).zip(&lesson.kinds).filter_map(|((seq, label), kind)| {
        let is_last_word = matches!(kind, SampleKind::Final | SampleKind::Correct);
        is_last_word.then_some(Matured { seq: *seq, label: *label })
    }));
    Ok(())
}

/// Replaces the content of `out` by numbers read from bytes.
fn numbers<T, const BYTES: usize>(bytes: &[u8], out: &mut Vec<T>, from: impl Fn([u8; BYTES]) -> T) {
    out.clear();
    out.extend(bytes.as_chunks::<BYTES>().0.iter().map(|bytes| from(*bytes)));
}

fn kind(byte: u8) -> Result<SampleKind> {
    use SampleKind::*;
    let all = [Final, Early, Retract, Correct];
    let found = all.into_iter().find(|kind| *kind as u8 == byte);
    found.ok_or_else(|| Error::corrupt(format!("a lesson names sample kind {byte}")))
}
