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
const WEIGHTED: u8 = 16;
const DELAYED: u8 = 32;

/// How far the passes have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Passes begun beyond the first.
    pub begun: u64,
    /// Lessons learned in the last of these.
    pub lessons: u64,
    /// Lessons learned in all of them.
    pub lessons_total: u64,
}

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

    /// Passes over the next lessons.
    pub fn skip(&mut self, lessons: u64) -> Result<()> {
        for _ in 0..lessons {
            if self.log.next()?.is_none() {
                return Err(Error::corrupt(format!(
                    "{} ends before the lesson that was learned last; start with --from-scratch",
                    self.path.display()
                )));
            }
        }
        Ok(())
    }
}

fn encode(lesson: &Lesson, out: &mut Vec<u8>) {
    let Lesson { mini_batch, features, labels, kinds, seqs, weights, delayed, .. } = lesson;
    let rows = labels.len();
    let stride = features.keys.len().checked_div(rows).unwrap_or(0);
    let one_length = features.ends.iter().enumerate().all(|(i, end)| *end as usize == (i + 1) * stride);
    let pattern = &features.slots[..if one_length { stride } else { 0 }];
    let one_pattern = one_length && features.slots.chunks_exact(stride.max(1)).all(|slots| slots == pattern);
    let all_final = kinds.iter().all(|kind| *kind == SampleKind::Final);
    let all_ones = features.values.iter().all(|value| *value == 1.0);
    let flags = [
        (all_final, ALL_FINAL),
        (one_length, ONE_LENGTH),
        (all_ones, ALL_ONES),
        (one_pattern, ONE_PATTERN),
        (weights.is_some(), WEIGHTED),
        (delayed.late_share != 0.0, DELAYED),
    ];
    let flags = flags.iter().filter(|(is, _)| *is).fold(0, |flags, (_, flag)| flags | flag);

    let mut head = Encoder::new();
    head.put_u64(*mini_batch).put_u8(flags).put_varint(rows as u64).put_varint(features.keys.len() as u64);
    out.extend_from_slice(head.as_slice());
    labels.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    seqs.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    weights.iter().flatten().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    if delayed.late_share != 0.0 {
        out.extend_from_slice(&delayed.late_share.to_le_bytes());
    }
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
    lesson.weights = is(WEIGHTED).then(Vec::new);
    if let Some(weights) = &mut lesson.weights {
        numbers(d.take(rows * 4)?, weights, f32::from_le_bytes);
    }
    lesson.delayed.late_share = if is(DELAYED) { d.f32()? } else { 0.0 };
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
    let last = ends.last().map_or(0, |end| *end as usize);
    if !ends.is_sorted() || last != features || slots.len() != features {
        return Err(Error::corrupt("a lesson's samples are not of its features"));
    }
    (lesson.oracle, lesson.groups) = (None, None);
    lesson.matured.clear();
    lesson.matured.extend(lesson.seqs.iter().zip(&lesson.labels).zip(&lesson.kinds).filter_map(
        |((seq, label), kind)| {
            let is_last_word =
                matches!(kind, SampleKind::Final | SampleKind::Correct | SampleKind::Late | SampleKind::Unlearned);
            is_last_word.then_some(Matured { seq: *seq, label: *label })
        },
    ));
    Ok(())
}

/// Replaces the content of `out` by numbers read from bytes.
fn numbers<T, const BYTES: usize>(bytes: &[u8], out: &mut Vec<T>, from: impl Fn([u8; BYTES]) -> T) {
    out.clear();
    out.extend(bytes.as_chunks::<BYTES>().0.iter().map(|bytes| from(*bytes)));
}

fn kind(byte: u8) -> Result<SampleKind> {
    let found = SampleKind::ALL.into_iter().find(|kind| *kind as u8 == byte);
    found.ok_or_else(|| Error::corrupt(format!("a lesson names sample kind {byte}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lesson(mini_batch: u64, rows: u64, odd: bool) -> Lesson {
        let mut lesson = Lesson { mini_batch, ..Lesson::default() };
        for i in 0..rows {
            let mut features = vec![(0, i * 7 + 1, 1.0), (1, i + 2, 1.0), (2, 99, 1.0)];
            if odd {
                features[1].2 = 0.5 + i as f32;
                features.truncate(1 + (i % 3) as usize);
            }
            lesson.features.push(&features);
            lesson.labels.push((i % 2) as f32);
            lesson.kinds.push(if odd && i % 2 == 1 { SampleKind::Early } else { SampleKind::Final });
            lesson.seqs.push(i + 100);
        }
        lesson.delayed.late_share = if odd { 0.25 } else { 0.0 };
        lesson.weights = odd.then(|| (0..rows).map(|i| i as f32 + 0.5).collect());
        lesson
    }

    #[test]
    fn lessons_come_back_as_they_were_kept_and_are_kept_once() {
        let dir = std::env::temp_dir().join(format!("tidemill-passes-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let lessons = [lesson(3, 5, false), lesson(4, 6, true), lesson(9, 0, false), lesson(10, 1, true)];
        let mut writer = LessonWriter::open(&dir).unwrap();
        writer.keep(&lessons[0]).unwrap();
        writer.keep(&lessons[1]).unwrap();
        writer.flush().unwrap();
        let mut writer = LessonWriter::open(&dir).unwrap();
        lessons.iter().for_each(|lesson| writer.keep(lesson).unwrap());
        writer.flush().unwrap();
        let mut reader = LessonReader::open(&dir).unwrap();
        let mut back = Lesson::default();
        for lesson in &lessons {
            assert!(reader.next(&mut back).unwrap());
            assert_eq!((back.mini_batch, &back.labels, &back.seqs), (lesson.mini_batch, &lesson.labels, &lesson.seqs));
            assert_eq!((&back.kinds, &back.weights), (&lesson.kinds, &lesson.weights));
            assert_eq!(back.delayed, lesson.delayed);
            let (a, b) = (&back.features, &lesson.features);
            assert_eq!((&a.keys, &a.values, &a.slots, &a.ends), (&b.keys, &b.values, &b.slots, &b.ends));
        }
        assert!(!reader.next(&mut back).unwrap());
        let mut reader = LessonReader::open(&dir).unwrap();
        reader.skip(3).unwrap();
        assert!(reader.next(&mut back).unwrap() && back.mini_batch == 10);
        assert!(reader.skip(1).unwrap_err().message().contains("--from-scratch"));
    }

    /// Ends of samples are places among the features, whatever stands in a file with right checksums.
    #[test]
    fn samples_that_end_beyond_their_features_are_refused() {
        let written = |change: fn(&mut Lesson)| {
            let (mut lesson, mut out) = (lesson(4, 6, true), Vec::new());
            change(&mut lesson);
            encode(&lesson, &mut out);
            decode(&out, &mut Lesson::default())
        };
        assert!(written(|_| ()).is_ok());
        let bad: [fn(&mut Lesson); 3] = [
            |lesson| lesson.features.ends[5] += 1,
            |lesson| lesson.features.ends[2] = 0,
            |lesson| lesson.features.ends[5] -= 1,
        ];
        for change in bad {
            assert_eq!(written(change).unwrap_err().kind(), tidemill_base::Kind::Corrupt);
        }
    }
}
