//! Checkpoints: one consistent cut of everything, private to recovery.
//!
//! A checkpoint is one file, `checkpoints/NNNNNNNNNNNNNNNNNNNN.ck`, named after its mini-batch, made visible by one link
//! and never changed; and the parts it names ([`super::part`]), which were there before it: one with all entries of the
//! parameter table, then those with what changed since; and so those with rows that wait, and with entries of feature views.
//! Layout: magic `TIDECKPT`, format u32, fingerprint u64, mini-batch u64, body length u64, xxh3 of all that u64; then chunks of 64 KiB, each behind its xxh3 seeded with the header's check and
//! its number, so that damage is found and named. The body begins with the parts.
//! The newest two are kept, and the newest that shares no part with them; a damaged one is passed over for the one before
//! it, and said so. A part goes when no checkpoint names it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
};

use tidemill_base::{
    Error, Kind, Result,
    codec::{Decoder, Encoder},
    hash64,
    store::{atomic_file, disk},
};

use tidemill_model::params::{Restoring, RestoringPart};
use tidemill_stream::{aggregate::RestoringViews, join::RestoringRows};

use super::{
    journal::older,
    part::{self, PartRef},
};
use crate::engine::RestoringStreams;

const MAGIC: &[u8; 8] = b"TIDECKPT";
/// Format of what this program writes and goes on from.
const FORMAT: u32 = 8;
const HEADER_BYTES: usize = 44;
/// Chunks of a part that wait for a thread which puts their entries down.
const CHUNKS_AHEAD: usize = 8;
const CHUNK_BYTES: usize = 64 << 10;
/// Checkpoints kept, beside the newest that shares no part with them.
const KEPT: usize = 2;
/// Bytes of a part's name and figures at least.
const PART_REF_BYTES: usize = 17;
/// Parts of a checkpoint by what they hold: entries of the parameter table, rows that wait, entries of feature views.
const LISTS: usize = 3;

/// A checkpoint read back.
#[derive(Debug)]
pub struct Checkpoint {
    /// The last mini-batch it covers.
    pub mini_batch: u64,
    /// Where its entries are: all of them, then what changed.
    pub parts: Vec<PartRef>,
    /// Where the rows that wait are.
    pub rows: Vec<PartRef>,
    /// Where entries of feature views are: all of them, then what changed.
    pub views: Vec<PartRef>,
    bytes: Vec<u8>,
    /// Where the body goes on behind the parts.
    at: usize,
}

impl Checkpoint {
    /// What the engine encoded.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The mini-batch as of which all its entries were written, before those that changed since.
    pub fn whole_at(&self) -> Option<u64> {
        self.parts.first()?.mini_batch()
    }

    /// The last mini-batch of the stream that it covers: with several passes it may cover mini-batches beyond the stream.
    pub fn streamed(&self) -> Result<u64> {
        Decoder::new(self.body(), "checkpoint").u64()
    }
}

/// The checkpoint directory of one job.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    fingerprint: u64,
}

impl Checkpoints {
    /// The directory, created if need be. `fingerprint` is the program's: another program's checkpoints are refused.
    pub fn open(job_dir: &Path, fingerprint: u64) -> Result<Self> {
        let dir = job_dir.join("checkpoints");
        disk::make_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        atomic_file::sweep(&dir)?;
        let this = Self { dir, fingerprint };
        this.retain()?;
        Ok(this)
    }

    /// The directory as it is, for a reader that does not own it.
    pub fn reading(job_dir: &Path, fingerprint: u64) -> Self {
        Self { dir: job_dir.join("checkpoints"), fingerprint }
    }

    /// Writes a part that a checkpoint at this mini-batch will name.
    pub fn write_part(&self, mini_batch: u64, head: &[u8], blocks: &Receiver<Vec<u8>>) -> Result<PartRef> {
        // A part that is there may be named by a checkpoint.
        let name = |i: u32| self.dir.join(format!("{mini_batch:020}-{i}.part"));
        let path = (0..).map(name).find(|path| !path.exists()).expect("numbers do not end");
        part::write(&path, self.fingerprint, mini_batch, head, blocks)
    }

    /// Writes a checkpoint of parts that are there, and lets go what is not needed any more.
    pub fn write(&self, mini_batch: u64, parts: [&[PartRef]; LISTS], body: &[u8]) -> Result<()> {
        let path = self.path(mini_batch);
        let mut bytes = Encoder::new();
        for parts in parts {
            bytes.put_varint(parts.len() as u64);
            parts.iter().for_each(|part| part.encode(&mut bytes));
        }
        let bytes = [bytes.as_slice(), body].concat();
        if path.exists() {
            // It could not be used, or the job would not have come here again.
            disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        atomic_file::put_if_absent_by(&path, &mut |out| write(out, self.fingerprint, mini_batch, &bytes))?;
        self.retain()
    }

    /// Mini-batches that have a checkpoint, oldest first.
    pub fn list(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.files(".ck").iter().filter_map(|name| name.parse().ok()).collect();
        all.sort_unstable();
        all
    }

    /// The newest checkpoint at or before `at_most` of which `load` could use everything, with what it made of it; `warn`
    /// hears of those passed over, and of one that could be read the second time only. `None` when there is none at all; an
    /// error when there are some and none is usable, or where there is no room for what is read.
    pub fn newest<T>(
        &self,
        at_most: u64,
        mut load: impl FnMut(&Checkpoint) -> Result<T>,
        mut warn: impl FnMut(&Error),
    ) -> Result<Option<(Checkpoint, T)>> {
        let all: Vec<u64> = self.list().into_iter().filter(|m| *m <= at_most).collect();
        let mut reasons = Vec::new();
        for &mini_batch in all.iter().rev() {
            let at = |e: Error| e.at(format!("checkpoint {mini_batch}"));
            let mut attempt = || self.read(mini_batch).and_then(|c| load(&c).map_err(at).map(|loaded| (c, loaded)));
            // A disk may fail once, or hand over less than there is: what is good in truth is good the second time.
            let loaded = attempt().or_else(|first| match first.kind() {
                Kind::Conflict => Err(first),
                kind => attempt().inspect(|_| {
                    warn(&Error::new(kind, format!("{}; read once more it was good", first.message())));
                }),
            });
            match loaded {
                Ok(loaded) => return Ok(Some(loaded)),
                // Another program, or no room for rows that spill: an older one would be no better.
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Exhausted) => return Err(e),
                Err(e) => {
                    warn(&Error::new(e.kind(), format!("{}; using the one before it", e.message())));
                    reasons.push(e.message().to_string());
                }
            }
        }
        if reasons.is_empty() {
            return Ok(None);
        }
        Err(Error::corrupt(format!(
            "no usable checkpoint in {}: {}. Start with --from-scratch, or put a good copy back",
            self.dir.display(),
            reasons.join("; ")
        )))
    }

    /// The entries of a checkpoint, put together in what `begin` makes.
    pub fn entries(&self, checkpoint: &Checkpoint, begin: impl FnOnce() -> Result<Restoring>) -> Result<Restoring> {
        let mut entries = begin()?;
        for part in &checkpoint.parts {
            part::read_ahead(&self.dir, part, self.fingerprint, |chunks| {
                // Where there is none, the reader tells why.
                let Some(head) = chunks.next() else { return Ok(()) };
                let mut head = Decoder::new(&head, &part.name);
                entries.begin(&mut head).and_then(|()| head.end())?;
                take_all(entries.parts(), chunks)
            })?;
            entries.end()?;
        }
        Ok(entries)
    }

    /// Gives the rows that wait and the entries of feature views, as of a checkpoint, to what takes them.
    pub fn streams(&self, checkpoint: &Checkpoint, mut streams: RestoringStreams) -> Result<RestoringStreams> {
        if let Some(rows) = &mut streams.rows {
            for part in &checkpoint.rows {
                self.read_part(part, rows, RestoringRows::begin, RestoringRows::take)?;
            }
        }
        if let Some(views) = &mut streams.views {
            for part in &checkpoint.views {
                self.read_part(part, views, RestoringViews::begin, RestoringViews::take)?;
            }
        }
        Ok(streams)
    }

    fn read_part<T>(
        &self,
        part: &PartRef,
        into: &mut T,
        begin: impl Fn(&mut T, &[u8]) -> Result<()>,
        take: impl Fn(&mut T, &[u8]) -> Result<()>,
    ) -> Result<()> {
        part::read_ahead(&self.dir, part, self.fingerprint, |chunks| {
            // Where there is none, the reader tells why.
            chunks.next().map_or(Ok(()), |head| begin(into, &head))?;
            for chunk in chunks {
                take(into, &chunk)?;
            }
            Ok(())
        })
    }

    /// A checkpoint without its parts.
    pub fn read(&self, mini_batch: u64) -> Result<Checkpoint> {
        let path = self.path(mini_batch);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let at = |e: Error| e.at(format!("checkpoint {mini_batch}"));
        let (format, fingerprint, bytes) = decode(&bytes, mini_batch).map_err(at)?;
        if format < FORMAT {
            return Err(older(&path, format, FORMAT));
        }
        if fingerprint != self.fingerprint {
            return Err(Error::conflict(format!(
                "{} was written by another program; use another --data-dir, or --from-scratch to forget it",
                path.display()
            )));
        }
        let mut d = Decoder::new(&bytes, "its parts");
        let [parts, rows, views] = lists_in(&mut d).map_err(at)?;
        let at = bytes.len() - d.left();
        Ok(Checkpoint { mini_batch, parts, rows, views, bytes, at })
    }

    /// Whether a checkpoint is of this program with these sinks, as far as its first bytes say.
    pub fn is_of_this_program(&self, mini_batch: u64) -> Result<bool> {
        let path = self.path(mini_batch);
        let mut bytes = Vec::new();
        let failed = |e| Error::io("read", &path, e);
        let file = fs::File::open(&path).map_err(failed)?;
        file.take(HEADER_BYTES as u64).read_to_end(&mut bytes).map_err(failed)?;
        let header = Header::decode(&bytes, mini_batch)?;
        Ok(header.fingerprint == self.fingerprint || header.format != FORMAT)
    }

    /// Lets a checkpoint go; its parts go with the next one that is written.
    pub fn forget(&self, mini_batch: u64) -> Result<()> {
        remove(&self.path(mini_batch))
    }

    /// The parts of a checkpoint, those with entries of the parameter table first, with no look at what is behind its first chunk.
    pub fn parts_of(&self, mini_batch: u64) -> Result<Vec<PartRef>> {
        let path = self.path(mini_batch);
        let failed = |e| Error::io("read", &path, e);
        let mut bytes = Vec::new();
        let first = HEADER_BYTES + 8 + CHUNK_BYTES;
        fs::File::open(&path).map_err(failed)?.take(first as u64).read_to_end(&mut bytes).map_err(failed)?;
        let header = Header::decode(&bytes, mini_batch)?;
        let mut d = Decoder::new(&bytes[HEADER_BYTES..], "first chunk");
        let chunk = header.chunk(0, &mut d)?;
        let mut d = Decoder::new(chunk, "its parts");
        Ok(lists_in(&mut d)?.concat())
    }

    /// Lets checkpoints go that are not kept, then parts that none of them names. Where one cannot be read, nobody knows its
    /// parts, and none goes.
    fn retain(&self) -> Result<()> {
        let all = self.list();
        let parts: BTreeMap<u64, Option<Vec<PartRef>>> = all.iter().map(|&m| (m, self.parts_of(m).ok())).collect();
        let newest = &all[all.len().saturating_sub(KEPT)..];
        let shares = |m: &u64| {
            let Some(of) = parts[m].as_ref() else { return true };
            newest.iter().filter_map(|n| parts[n].as_ref()).flatten().any(|part| of.contains(part))
        };
        let other = all.iter().rev().find(|m| !newest.contains(m) && !shares(m));
        let kept = |m: &u64| newest.contains(m) || other == Some(m);
        for old in all.iter().filter(|m| !kept(m)) {
            remove(&self.path(*old))?;
        }
        let mut kept_parts = Vec::new();
        for (_, parts) in parts.iter().filter(|(m, _)| kept(m)) {
            let Some(parts) = parts else { return Ok(()) };
            kept_parts.extend(parts.iter().map(|part| part.name.clone()));
        }
        for name in self.files(".part").into_iter().map(|name| name + ".part").filter(|name| !kept_parts.contains(name))
        {
            remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// Names of files that end so, without their end.
    fn files(&self, end: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(end)?.to_string())).collect()
    }

    fn path(&self, mini_batch: u64) -> PathBuf {
        self.dir.join(format!("{mini_batch:020}.ck"))
    }
}

fn lists_in(d: &mut Decoder) -> Result<[Vec<PartRef>; LISTS]> {
    let mut lists = [const { Vec::new() }; LISTS];
    for parts in &mut lists {
        let count = d.count(PART_REF_BYTES)?;
        *parts = (0..count).map(|_| PartRef::decode(d)).collect::<Result<_>>()?;
    }
    Ok(lists)
}

fn remove(path: &Path) -> Result<()> {
    disk::remove_file(path).map_err(|e| Error::io("remove", path, e))
}

fn write(out: &mut dyn Write, fingerprint: u64, mini_batch: u64, body: &[u8]) -> io::Result<()> {
    let mut header = Encoder::new();
    MAGIC.iter().for_each(|byte| _ = header.put_u8(*byte));
    header.put_u32(FORMAT).put_u64(fingerprint).put_u64(mini_batch).put_u64(body.len() as u64);
    let check = hash64(header.as_slice(), 0);
    header.put_u64(check);
    out.write_all(header.as_slice())?;
    for (i, chunk) in body.chunks(CHUNK_BYTES).enumerate() {
        out.write_all(&hash64(chunk, check ^ i as u64).to_le_bytes())?;
        out.write_all(chunk)?;
    }
    Ok(())
}

/// What stands in front of the chunks.
struct Header {
    format: u32,
    fingerprint: u64,
    len: usize,
    check: u64,
}

impl Header {
    fn decode(bytes: &[u8], mini_batch: u64) -> Result<Self> {
        let mut d = Decoder::new(bytes, "header");
        if d.take(8)? != MAGIC {
            return Err(Error::corrupt("not a tidemill checkpoint"));
        }
        let format = d.u32()?;
        let (fingerprint, named, len) = (d.u64()?, d.u64()?, d.u64()? as usize);
        let check = d.u64()?;
        if check != hash64(&bytes[..HEADER_BYTES - 8], 0) {
            return Err(Error::corrupt("its header does not match its checksum"));
        }
        if format > FORMAT {
            return Err(Error::conflict(format!("format {format} is newer than this binary ({FORMAT})")));
        }
        if named != mini_batch {
            return Err(Error::corrupt(format!("it holds mini-batch {named}")));
        }
        Ok(Self { format, fingerprint, len, check })
    }

    fn chunks(&self) -> usize {
        self.len.div_ceil(CHUNK_BYTES)
    }

    /// The content of the chunk of this number, which comes next.
    fn chunk<'a>(&self, i: usize, d: &mut Decoder<'a>) -> Result<&'a [u8]> {
        let expected = CHUNK_BYTES.min(self.len - i * CHUNK_BYTES);
        let got = d.left().saturating_sub(8);
        if got < expected {
            return Err(Error::corrupt(format!("chunk {i} is {got} of {expected} bytes")));
        }
        let sum = d.u64()?;
        let chunk = d.take(expected)?;
        match hash64(chunk, self.check ^ i as u64) == sum {
            true => Ok(chunk),
            false => Err(Error::corrupt(format!("chunk {i} does not match its checksum"))),
        }
    }
}

fn decode(bytes: &[u8], mini_batch: u64) -> Result<(u32, u64, Vec<u8>)> {
    let header = Header::decode(bytes, mini_batch)?;
    let mut d = Decoder::new(&bytes[HEADER_BYTES..], "chunks");
    let mut body = Vec::with_capacity(header.len.min(bytes.len()));
    for i in 0..header.chunks() {
        body.extend_from_slice(header.chunk(i, &mut d)?);
    }
    d.end()?;
    Ok((header.format, header.fingerprint, body))
}

/// Gives every chunk to a thread for each part of the table, which takes what is its own.
fn take_all<'a>(
    parts: impl Iterator<Item = RestoringPart<'a>>,
    chunks: &mut dyn Iterator<Item = Vec<u8>>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (queues, takers): (Vec<_>, Vec<_>) = parts
            .map(|mut part| {
                let (queue, chunks) = sync_channel::<Arc<Vec<u8>>>(CHUNKS_AHEAD);
                (queue, scope.spawn(move || chunks.iter().try_for_each(|chunk| part.take(&chunk))))
            })
            .unzip();
        for chunk in chunks.map(Arc::new) {
            // Who has failed takes no more, and tells why below.
            if queues.iter().any(|queue| queue.send(chunk.clone()).is_err()) {
                break;
            }
        }
        drop(queues);
        let panicked = |_| Err(Error::internal("a thread that puts entries down panicked"));
        takers.into_iter().try_for_each(|taker| taker.join().unwrap_or_else(panicked))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let d = std::env::temp_dir().join(format!("tidemill-ck-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&d);
        d
    }

    fn body(seed: u8) -> Vec<u8> {
        (0..CHUNK_BYTES * 2 + 100).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect()
    }

    /// A checkpoint of these parts, the last of which is written for it.
    fn write_both(c: &Checkpoints, mini_batch: u64, before: &[PartRef], seed: u8) -> Vec<PartRef> {
        let (send, blocks) = std::sync::mpsc::sync_channel(8);
        for block in [vec![seed; 10_000], vec![seed ^ 9; 3_000], Vec::new()] {
            send.send(block).unwrap();
        }
        let mut parts = before.to_vec();
        parts.push(c.write_part(mini_batch, &[seed; 20], &blocks).unwrap());
        c.write(mini_batch, [&parts, &[], &[]], &body(seed)).unwrap();
        parts
    }

    /// All that a checkpoint holds.
    fn load(c: &Checkpoints, checkpoint: &Checkpoint) -> Result<Vec<u8>> {
        let mut all = checkpoint.body().to_vec();
        for part in &checkpoint.parts {
            part::read_ahead(&c.dir, part, c.fingerprint, |chunks| {
                chunks.for_each(|chunk| all.extend(chunk));
                Ok(())
            })?;
        }
        Ok(all)
    }

    fn newest(c: &Checkpoints, warn: impl FnMut(&Error)) -> Result<Option<(Checkpoint, Vec<u8>)>> {
        c.newest(u64::MAX, |checkpoint| load(c, checkpoint), warn)
    }

    /// F7, F8, F9, F10: damage of any kind, to the file or to a part, is found, named, and the checkpoint before it used.
    #[test]
    fn f7_f8_f9_f10_a_damaged_checkpoint_is_named_and_the_one_before_it_used() {
        let d = dir("damage");
        let c = Checkpoints::open(&d, 9).unwrap();
        let first = write_both(&c, 41, &[], 1);
        let parts = write_both(&c, 42, &first, 2);
        let part = c.dir.join(&parts[1].name);
        for (path, head, chunk_head) in [(c.path(42), HEADER_BYTES, 8), (part, 36, 12)] {
            let whole = fs::read(&path).unwrap();
            let mut damages: Vec<(Vec<u8>, &str)> = Vec::new();
            for at in (0..whole.len()).step_by(997).chain(0..head + chunk_head) {
                let mut bad = whole.clone();
                bad[at] ^= 0x40;
                damages.push((bad, ""));
            }
            for cut in (0..whole.len()).step_by(4096) {
                damages.push((whole[..cut].to_vec(), ""));
            }
            if head == HEADER_BYTES {
                damages.push((whole[..whole.len() - 10].to_vec(), "checkpoint 42: chunk 2 is "));
                let mut swapped = whole.clone();
                let (a, b) = (HEADER_BYTES, HEADER_BYTES + 8 + CHUNK_BYTES);
                swapped[a..b].copy_from_slice(&whole[b..b + 8 + CHUNK_BYTES]);
                damages.push((swapped, "checkpoint 42: chunk 0 does not match its checksum"));
            } else {
                let name = "checkpoint 42: its part 00000000000000000042-0.part";
                assert!(name.ends_with(&parts[1].name));
                damages.push((whole[..whole.len() - 10].to_vec(), " is 13094 of 13104 bytes"));
                let other = fs::read(c.dir.join(&parts[0].name)).unwrap();
                damages.push((other, "is another one than it was written with"));
            }
            for (bytes, expected) in damages {
                fs::write(&path, bytes).unwrap();
                let mut warned = String::new();
                let (used, all) = newest(&c, |e| warned = e.message().to_string()).unwrap().unwrap();
                assert_eq!((used.mini_batch, all.starts_with(&body(1))), (41, true));
                assert!(warned.starts_with("checkpoint 42: ") && warned.contains(expected), "{warned}; {expected}");
            }
            fs::write(&path, whole).unwrap();
        }
        assert_eq!(newest(&c, |e| panic!("{e}")).unwrap().unwrap().0.mini_batch, 42);
    }

    /// F6: what a kept checkpoint names stays, and what none names goes: parts that never got a checkpoint, too.
    #[test]
    fn f6_parts_stay_as_long_as_a_checkpoint_needs_them() {
        let d = dir("retain");
        let c = Checkpoints::open(&d, 9).unwrap();
        let mut parts = Vec::new();
        for mini_batch in 1..=20u64 {
            let before = if mini_batch % 5 == 1 { &[][..] } else { &parts };
            parts = write_both(&c, mini_batch, before, mini_batch as u8);
            // Beside the newest two the last one of the parts before.
            let last_of_before = mini_batch.saturating_sub(2) / 5 * 5;
            let mut expected: Vec<u64> = [last_of_before, mini_batch - 1, mini_batch].into();
            expected.retain(|m| *m > 0);
            expected.dedup();
            assert_eq!(c.list(), expected);
            for &kept in &c.list() {
                load(&c, &c.read(kept).unwrap()).unwrap();
            }
            let named: std::collections::BTreeSet<String> =
                c.list().iter().flat_map(|m| c.parts_of(*m).unwrap()).map(|part| part.name).collect();
            assert_eq!(c.files(".part").len(), named.len(), "after {mini_batch}");
        }
        fs::write(c.dir.join("00000000000000000021-0.part"), b"of a process that died").unwrap();
        fs::write(c.dir.join("00000000000000000022-0.part.tmp"), b"of another").unwrap();
        let before = c.files(".part").len();
        let c = Checkpoints::open(&d, 9).unwrap();
        assert_eq!((c.files(".part").len(), c.files(".tmp").len()), (before - 1, 0));
        // A file that cannot be read names its parts to nobody: none goes.
        fs::write(c.path(20), b"TIDE").unwrap();
        Checkpoints::open(&d, 9).unwrap();
        assert_eq!(c.files(".part").len(), before - 1);
    }

    /// F14: what a disk fails to hand over once, or hands over in part, is read again; what it fails twice is passed over for
    /// the checkpoint before it. Both are told.
    #[test]
    fn f14_a_checkpoint_that_cannot_be_read_is_read_again_then_passed_over() {
        let d = dir("read");
        let c = Checkpoints::open(&d, 9).unwrap();
        let first = write_both(&c, 41, &[], 1);
        write_both(&c, 42, &first, 2);
        let io = || Error::io("read", &c.path(42), io::Error::from_raw_os_error(5));
        let short = || Error::corrupt("its part 1.part ends too early");
        for (failure, words) in
            [(&io as &dyn Fn() -> Error, "Input/output error (os error 5)"), (&short, "its part 1.part ends too early")]
        {
            for (failures, used) in [(1, 42), (2, 41)] {
                let (mut left, mut told) = (failures, Vec::new());
                let load = |checkpoint: &Checkpoint| match left {
                    0 => load(&c, checkpoint),
                    _ => {
                        left -= 1;
                        Err(failure())
                    }
                };
                let (got, _) = c.newest(u64::MAX, load, |e| told.push(e.message().to_string())).unwrap().unwrap();
                assert_eq!(got.mini_batch, used);
                let then = if used == 42 { "; read once more it was good" } else { "; using the one before it" };
                assert_eq!(told.len(), 1);
                assert!(told[0].starts_with("checkpoint 42: "), "{}", told[0]);
                assert!(told[0].contains(words) && told[0].ends_with(then), "{}", told[0]);
            }
        }
    }

    /// F11: with nothing usable left the start is refused, naming each reason and the way out.
    #[test]
    fn f11_with_every_checkpoint_damaged_the_start_is_refused() {
        let d = dir("all");
        let c = Checkpoints::open(&d, 9).unwrap();
        let parts = write_both(&c, 41, &[], 1);
        write_both(&c, 42, &parts, 1);
        fs::remove_file(c.dir.join(&parts[0].name)).unwrap();
        let e = newest(&c, |_| ()).unwrap_err();
        for expected in
            ["no usable checkpoint in", "checkpoint 42: its part ", "checkpoint 41: its part ", "--from-scratch"]
        {
            assert!(e.message().contains(expected), "{e}");
        }
        assert_eq!(e.kind().exit_code(), 4);
    }

    #[test]
    fn another_programs_checkpoint_is_refused() {
        let d = dir("other");
        write_both(&Checkpoints::open(&d, 9).unwrap(), 41, &[], 1);
        let e = newest(&Checkpoints::open(&d, 10).unwrap(), |_| ()).unwrap_err();
        assert!(e.message().contains("another program"), "{e}");
    }
}
