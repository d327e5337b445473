//! One part of a checkpoint: a file with entries of the parameter table, all of them or those that changed.
//!
//! In: the head of a walk over the table, then its blocks, as they leave the trainer; nothing is held back. Out: a file
//! that appears whole and never changes, and what the checkpoint says of it: its name, length and digest. Layout: magic
//! `TIDEPART`, format u32, fingerprint u64, mini-batch u64, xxh3 of all that u64; then chunks, each `length u32 | check u64 |
//! content`, the check being the content's xxh3 seeded with the header's check and the chunk's number; the first is the
//! head of the walk, and an empty one ends the file. The digest is the xxh3 of all checks, so a whole file in the wrong
//! place is found too.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
    sync::mpsc::{Receiver, SyncSender},
};

use tidemill_base::{
    Error, Kind, Result,
    codec::{Decoder, Encoder},
    hash::Hasher64,
    hash64,
    store::atomic_file,
};

const MAGIC: &[u8; 8] = b"TIDEPART";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 36;
const CHUNK_HEAD_BYTES: u64 = 12;
/// A longer chunk is damage: blocks end soon after 256 KiB.
const CHUNK_BYTES_MAX: usize = 1 << 30;

/// What a checkpoint says of one of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRef {
    /// The file's name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Hash of its chunks' checks.
    pub digest: u64,
}

impl PartRef {
    /// The mini-batch of the checkpoint that it was written for, which its name begins with.
    pub fn mini_batch(&self) -> Option<u64> {
        self.name.split('-').next()?.parse().ok()
    }

    pub(super) fn encode(&self, out: &mut Encoder) {
        out.put_str(&self.name).put_u64(self.bytes).put_u64(self.digest);
    }

    pub(super) fn decode(d: &mut Decoder) -> Result<Self> {
        let name = d.str()?.to_string();
        if name.contains(['/', '\0']) || !name.ends_with(".part") {
            return Err(Error::corrupt(format!("'{}' is not a part's name", name.escape_default())));
        }
        Ok(Self { name, bytes: d.u64()?, digest: d.u64()? })
    }
}

/// Writes a part of what comes; an empty block is the end.
pub fn write(
    path: &Path,
    fingerprint: u64,
    mini_batch: u64,
    head: &[u8],
    blocks: &Receiver<Vec<u8>>,
) -> Result<PartRef> {
    let (mut bytes, mut digest, mut broken_off) = (0, 0, false);
    let written = atomic_file::put_if_absent_by(path, &mut |out| {
        let header = header(fingerprint, mini_batch);
        let mut chunks = Chunks::new(&header);
        out.write_all(&header)?;
        chunks.put(out, head)?;
        loop {
            let Ok(block) = blocks.recv() else {
                broken_off = true;
                return Err(io::Error::other("the learner ended before its checkpoint did"));
            };
            chunks.put(out, &block)?;
            if block.is_empty() {
                break;
            }
        }
        (bytes, digest) = (chunks.bytes, chunks.checks.finish());
        Ok(())
    });
    match written {
        Err(_) if broken_off => Err(Error::internal("the learner ended before its checkpoint did")),
        Err(e) => Err(e),
        Ok(()) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(PartRef { name, bytes, digest })
        }
    }
}

/// Reads a part and hands out what is in its chunks, each once its check is right; the digest is compared at the end.
pub fn read(dir: &Path, part: &PartRef, fingerprint: u64, mut each: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
    let name = &part.name;
    let path = dir.join(name);
    let file = File::open(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::corrupt(format!("its part {name} is missing")),
        _ => Error::io("open", &path, e),
    })?;
    let len = file.metadata().map_err(|e| Error::io("stat", &path, e))?.len();
    if len != part.bytes {
        return Err(Error::corrupt(format!("its part {name} is {len} of {} bytes", part.bytes)));
    }
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut fill = |bytes: &mut [u8]| {
        file.read_exact(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::corrupt(format!("its part {name} ends too early")),
            _ => Error::io("read", &path, e),
        })
    };
    let mut header = [0; HEADER_BYTES];
    fill(&mut header)?;
    check_header(&header, fingerprint).map_err(|e| e.at(format!("its part {name}")))?;
    let mut chunks = Chunks::new(&header);
    for number in 0.. {
        let mut head = [0; CHUNK_HEAD_BYTES as usize];
        fill(&mut head)?;
        let (length, check) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let check = u64::from_le_bytes(check.try_into().expect("eight bytes"));
        let left = part.bytes - chunks.bytes - CHUNK_HEAD_BYTES;
        if length > CHUNK_BYTES_MAX || length as u64 > left {
            return Err(Error::corrupt(format!("its part {name}: chunk {number} is {left} of {length} bytes")));
        }
        let mut content = vec![0; length];
        fill(&mut content)?;
        if chunks.check(&content) != check {
            return Err(Error::corrupt(format!("its part {name}: chunk {number} does not match its checksum")));
        }
        if content.is_empty() {
            break;
        }
        each(content)?;
    }
    if chunks.bytes != part.bytes || chunks.checks.finish() != part.digest {
        return Err(Error::corrupt(format!("its part {name} is another one than it was written with")));
    }
    Ok(())
}

/// [`read`], with the file read and checked on a thread of its own; `take` gets the chunks as they come.
pub fn read_ahead(
    dir: &Path,
    part: &PartRef,
    fingerprint: u64,
    take: impl FnOnce(&mut dyn Iterator<Item = Vec<u8>>) -> Result<()>,
) -> Result<()> {
    let (send, chunks) = std::sync::mpsc::sync_channel(8);
    let give = |send: SyncSender<Vec<u8>>| {
        read(dir, part, fingerprint, |chunk| send.send(chunk).map_err(|_| Error::internal("nobody takes the chunks")))
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || give(send));
        let taken = take(&mut chunks.iter());
        drop(chunks);
        let read = reader.join().unwrap_or_else(|_| Err(Error::internal("the reader of a checkpoint panicked")));
        taken.and(read)
    })
}

/// What has gone by of a file's chunks.
struct Chunks {
    seed: u64,
    number: u64,
    bytes: u64,
    checks: Hasher64,
}

impl Chunks {
    fn new(header: &[u8]) -> Self {
        let seed = hash64(header, 0);
        Self { seed, number: 0, bytes: header.len() as u64, checks: Hasher64::new(seed) }
    }

    /// The check of the next chunk.
    fn check(&mut self, content: &[u8]) -> u64 {
        let check = hash64(content, self.seed ^ self.number);
        self.checks.update(&check.to_le_bytes());
        self.number += 1;
        self.bytes += CHUNK_HEAD_BYTES + content.len() as u64;
        check
    }

    fn put(&mut self, out: &mut dyn Write, content: &[u8]) -> io::Result<()> {
        let check = self.check(content);
        out.write_all(&(content.len() as u32).to_le_bytes())?;
        out.write_all(&check.to_le_bytes())?;
        out.write_all(content)
    }
}

fn header(fingerprint: u64, mini_batch: u64) -> Vec<u8> {
    let mut out = Encoder::new();
    MAGIC.iter().for_each(|byte| _ = out.put_u8(*byte));
    out.put_u32(FORMAT).put_u64(fingerprint).put_u64(mini_batch);
    let check = hash64(out.as_slice(), 0);
    out.put_u64(check);
    out.finish()
}

fn check_header(header: &[u8; HEADER_BYTES], fingerprint: u64) -> Result<()> {
    let mut d = Decoder::new(header, "header");
    if d.take(8)? != MAGIC {
        return Err(Error::corrupt("not a part of a tidemill checkpoint"));
    }
    let (format, of) = (d.u32()?, d.u64()?);
    d.u64()?;
    if d.u64()? != hash64(&header[..HEADER_BYTES - 8], 0) {
        return Err(Error::corrupt("its header does not match its checksum"));
    }
    if format != FORMAT {
        return Err(Error::new(Kind::Conflict, format!("format {format} is not this binary's ({FORMAT})")));
    }
    match of == fingerprint {
        true => Ok(()),
        false => Err(Error::conflict("it was written by another program")),
    }
}
