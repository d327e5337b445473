//! Checkpoints: one consistent cut of everything, private to recovery.
//!
//! A checkpoint is one file, `checkpoints/NNNNNNNNNNNNNNNNNNNN.ck`, named after its mini-batch, made visible by one link
//! and never changed. Layout: magic `TIDECKPT`, format u32, fingerprint u64, mini-batch u64, body length u64, xxh3 of all
//! that u64; then chunks of 64 KiB, each behind its xxh3 seeded with the header's check and its number, so that damage is
//! found and named. The newest two are kept; a damaged one is passed over for the one before it, and said so.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
    hash64,
    store::atomic_file,
};

use super::journal::older;

const MAGIC: &[u8; 8] = b"TIDECKPT";
/// Format of what this program writes and goes on from.
const FORMAT: u32 = 3;
const HEADER_BYTES: usize = 44;
const CHUNK_BYTES: usize = 64 << 10;
/// Checkpoints kept.
const KEPT: usize = 2;

/// A checkpoint read back.
#[derive(Debug)]
pub struct Checkpoint {
    /// The last mini-batch it covers.
    pub mini_batch: u64,
    /// What the engine encoded.
    pub body: Vec<u8>,
}

impl Checkpoint {
    /// The last mini-batch of the stream that it covers: with several passes it may cover mini-batches beyond the stream.
    pub fn streamed(&self) -> Result<u64> {
        Decoder::new(&self.body, "checkpoint").u64()
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
        fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        atomic_file::sweep(&dir)?;
        Ok(Self { dir, fingerprint })
    }

    /// The directory as it is, for a reader that does not own it.
    pub fn reading(job_dir: &Path, fingerprint: u64) -> Self {
        Self { dir: job_dir.join("checkpoints"), fingerprint }
    }

    /// Writes a checkpoint and lets the oldest go.
    pub fn write(&self, mini_batch: u64, body: &[u8]) -> Result<()> {
        let path = self.path(mini_batch);
        match atomic_file::put_if_absent_by(&path, &mut |out| write(out, self.fingerprint, mini_batch, body)) {
            // An earlier process wrote it and died before it could say so; the bytes are the same by determinism.
            Err(e) if e.kind() == tidemill_base::Kind::Conflict => {}
            other => other?,
        }
        let all = self.list();
        for old in &all[..all.len().saturating_sub(KEPT)] {
            let path = self.path(*old);
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }

    /// Mini-batches that have a checkpoint, oldest first.
    pub fn list(&self) -> Vec<u64> {
        let mut all: Vec<u64> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_suffix(".ck")?.parse().ok())
            .collect();
        all.sort_unstable();
        all
    }

    /// The newest usable checkpoint at or before `at_most`; `warn` hears of those passed over. `None` when there is none at
    /// all; an error when there are some and none is usable.
    pub fn newest(&self, at_most: u64, mut warn: impl FnMut(&Error)) -> Result<Option<Checkpoint>> {
        let all: Vec<u64> = self.list().into_iter().filter(|m| *m <= at_most).collect();
        let mut reasons = Vec::new();
        for &mini_batch in all.iter().rev() {
            match self.read(mini_batch) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(e) if e.kind() == tidemill_base::Kind::Conflict => return Err(e),
                Err(e) => {
                    warn(&e);
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

    fn read(&self, mini_batch: u64) -> Result<Checkpoint> {
        let path = self.path(mini_batch);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let (format, fingerprint, body) =
            decode(&bytes, mini_batch).map_err(|e| e.at(format!("checkpoint {mini_batch}")))?;
        if format < FORMAT {
            return Err(older(&path, format, FORMAT));
        }
        if fingerprint != self.fingerprint {
            return Err(Error::conflict(format!(
                "{} was written by another program; use another --data-dir, or --from-scratch to forget it",
                path.display()
            )));
        }
        Ok(Checkpoint { mini_batch, body })
    }

    fn path(&self, mini_batch: u64) -> PathBuf {
        self.dir.join(format!("{mini_batch:020}.ck"))
    }
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

fn decode(bytes: &[u8], mini_batch: u64) -> Result<(u32, u64, Vec<u8>)> {
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
    let mut body = Vec::with_capacity(len.min(bytes.len()));
    for i in 0..len.div_ceil(CHUNK_BYTES) {
        let expected = CHUNK_BYTES.min(len - i * CHUNK_BYTES);
        let got = d.left().saturating_sub(8);
        if got < expected {
            return Err(Error::corrupt(format!("chunk {i} is {got} of {expected} bytes")));
        }
        let sum = d.u64()?;
        let chunk = d.take(expected)?;
        if hash64(chunk, check ^ i as u64) != sum {
            return Err(Error::corrupt(format!("chunk {i} does not match its checksum")));
        }
        body.extend_from_slice(chunk);
    }
    d.end()?;
    Ok((format, fingerprint, body))
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

    /// F7, F8, F9: damage of any kind is found, named, and the checkpoint before it used.
    #[test]
    fn a_damaged_checkpoint_is_named_and_the_one_before_it_used() {
        let d = dir("damage");
        let c = Checkpoints::open(&d, 9).unwrap();
        c.write(41, &body(1)).unwrap();
        c.write(42, &body(2)).unwrap();
        let whole = fs::read(c.path(42)).unwrap();
        let mut damages: Vec<(Vec<u8>, &str)> = Vec::new();
        for at in (0..whole.len()).step_by(997).chain(0..HEADER_BYTES + 8) {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            damages.push((bad, ""));
        }
        for cut in (0..whole.len()).step_by(4096) {
            damages.push((whole[..cut].to_vec(), ""));
        }
        damages.push((whole[..whole.len() - 10].to_vec(), "checkpoint 42: chunk 2 is 90 of 100 bytes"));
        let mut swapped = whole.clone();
        let (a, b) = (HEADER_BYTES, HEADER_BYTES + 8 + CHUNK_BYTES);
        swapped[a..b].copy_from_slice(&whole[b..b + 8 + CHUNK_BYTES]);
        damages.push((swapped, "checkpoint 42: chunk 0 does not match its checksum"));
        for (bytes, expected) in damages {
            fs::write(c.path(42), bytes).unwrap();
            let mut warned = String::new();
            let used = c.newest(u64::MAX, |e| warned = e.message().to_string()).unwrap().unwrap();
            assert_eq!((used.mini_batch, used.body == body(1)), (41, true));
            assert!(warned.starts_with("checkpoint 42: ") && warned.contains(expected), "{warned}");
        }
    }

    /// F11: with nothing usable left the start is refused, naming each reason and the way out.
    #[test]
    fn with_every_checkpoint_damaged_the_start_is_refused() {
        let d = dir("all");
        let c = Checkpoints::open(&d, 9).unwrap();
        c.write(41, &body(1)).unwrap();
        fs::write(c.path(41), b"TIDE").unwrap();
        let e = c.newest(u64::MAX, |_| ()).unwrap_err();
        assert!(e.message().contains("no usable checkpoint in") && e.message().contains("--from-scratch"), "{e}");
        assert_eq!(e.kind().exit_code(), 4);
    }

    #[test]
    fn another_programs_checkpoint_is_refused() {
        let d = dir("other");
        Checkpoints::open(&d, 9).unwrap().write(41, &body(1)).unwrap();
        let e = Checkpoints::open(&d, 10).unwrap().newest(u64::MAX, |_| ()).unwrap_err();
        assert!(e.message().contains("another program"), "{e}");
    }
}
