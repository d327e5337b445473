//! A log: records in order, appended and made durable in groups, read back from any place.
//!
//! File: a 16-byte header (magic `TIDELOG\n`, format version u32, zero u32), then frames of
//! `length u32 | check u32 | payload`; `check` is the low half of xxh3 of the payload, seeded with the length.
//! A frame that ends short is a torn tail and is cut off on open: nobody was told it was durable. So is one where, from
//! its beginning or a sector's border in it, nothing but zeros stands to the end of the file: some file systems lengthen
//! a file before its bytes are there. Any other frame whose bytes are all there and do not match is damage, and the log
//! refuses to open, naming the byte.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::disk::File;
use crate::{Error, Result, hash64};

const MAGIC: &[u8; 8] = b"TIDELOG\n";
/// The newest format that is read; what a log's owner writes it says itself ([`Log::open_format`]).
const FORMAT: u32 = 4;
/// Bytes before the first record.
pub const HEADER_BYTES: u64 = 16;
const FRAME_BYTES: u64 = 8;
/// Bytes at a log's end that are written once more when it is opened: more than gathers between two syncs.
const WRITTEN_AGAIN_BYTES: u64 = 4 << 20;
/// What a disk writes whole.
const SECTOR_BYTES: u64 = 512;
/// No record is longer: a damaged length is recognised by it.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// The writing end. One owner at a time (the data directory's lock sees to it).
#[derive(Debug)]
pub struct Log {
    sync: LogSync,
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Bytes in the file, the buffer not counted.
    written: u64,
    records: u64,
}

/// What makes a log durable, on any thread. Once that has failed, the log is not used any more: the system may have dropped
/// what it could not write, and a later sync would succeed and mean nothing.
#[derive(Debug)]
pub struct LogSync {
    written: Arc<Mutex<Written>>,
    failed: Arc<AtomicBool>,
}

/// The file that is appended to. Those before it were durable when it was begun.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    file: Arc<File>,
}

/// The reading end: yields records from a place on, up to where the file ends now.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    format: u32,
    file: BufReader<fs::File>,
    at: u64,
    payload: Vec<u8>,
}

impl Log {
    /// Opens the log at `path`, creating it if need be, and hands every record already there to `each`
    /// (its number from 0, the byte it begins at, its payload).
    pub fn open(path: &Path, each: impl FnMut(u64, u64, &[u8]) -> Result<()>) -> Result<Self> {
        Self::open_format(path, 1, each)
    }

    /// As [`Log::open`], for records that a program which knows only older formats could not read: the log's number is
    /// raised to `format` before any of them is appended.
    pub fn open_format(path: &Path, format: u32, mut each: impl FnMut(u64, u64, &[u8]) -> Result<()>) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let len = file.len().map_err(|e| Error::io("stat", path, e))?;
        let mut records = 0;
        let mut end = HEADER_BYTES;
        // A header that was never written reads as zeros where the file was lengthened first; then nothing follows it.
        let is_new = len < HEADER_BYTES || is_all_zero(path)?;
        if is_new {
            file.set_len(0).map_err(|e| Error::io("write", path, e))?;
            file.seek(SeekFrom::Start(0))
                .and_then(|_| file.write_all(&header(format)))
                .and_then(|_| file.sync_all())
                .map_err(|e| Error::io("write", path, e))?;
        } else {
            let mut reader = LogReader::open_at(path, HEADER_BYTES)?;
            if reader.format < format {
                file.seek(SeekFrom::Start(MAGIC.len() as u64))
                    .and_then(|_| file.write_all(&format.to_le_bytes()))
                    .and_then(|_| file.sync_all())
                    .map_err(|e| Error::io("write", path, e))?;
            }
            loop {
                let at = reader.at;
                match reader.next()? {
                    Some(payload) => each(records, at, payload)?,
                    None => break,
                }
                records += 1;
            }
            end = reader.at;
        }
        // Always: who created it may have been killed before its name was durable.
        super::atomic_file::sync_parent(path)?;
        // A torn tail is gone for good before anything is appended behind it: else a loss of power could leave pieces of both.
        // Where there is none the length is left alone: what is on the disk may be shorter than what can be read here, and
        // must not be filled up with zeros.
        let cut = if len > end && !is_new { file.set_len(end).and_then(|_| file.sync_all()) } else { Ok(()) };
        let again = |file: &mut File| if file.is_kept_elsewhere() { Ok(()) } else { write_again(file, end) };
        cut.and_then(|_| again(&mut file))
            .and_then(|_| file.seek(SeekFrom::Start(end)))
            .map_err(|e| Error::io("open", path, e))?;
        let written = Mutex::new(Written::of(path, &file)?);
        let sync = LogSync { written: Arc::new(written), failed: Arc::default() };
        Ok(Self { sync, path: path.to_path_buf(), file, buffer: Vec::new(), written: end, records })
    }

    /// Adds a record to the group; it is on disk after the next [`Log::sync`].
    pub fn append(&mut self, payload: &[u8]) -> Result<()> {
        if payload.len() > RECORD_BYTES_MAX {
            return Err(Error::invalid(format!("record of {} bytes; {} is the most", payload.len(), RECORD_BYTES_MAX)));
        }
        put_frame(&mut self.buffer, payload);
        self.records += 1;
        Ok(())
    }

    /// Hands the group to the operating system: it survives this process, not the machine.
    pub fn flush(&mut self) -> Result<()> {
        self.sync.check()?;
        if !self.buffer.is_empty() {
            if let Err(e) = self.file.write_all(&self.buffer) {
                // Part of the group may stand in the file: cut it off so that a later try starts clean.
                let _ = self.file.set_len(self.written);
                let _ = self.file.seek(SeekFrom::Start(self.written));
                return Err(Error::io("append to", self.path(), e));
            }
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.sync.sync()
    }

    /// Forgets the records appended since the last flush.
    pub fn drop_group(&mut self, records: u64) {
        self.buffer.clear();
        self.records -= records;
    }

    /// Forgets every record.
    pub fn clear(&mut self) -> Result<()> {
        self.buffer.clear();
        (self.written, self.records) = (HEADER_BYTES, 0);
        let cleared = self.file.set_len(HEADER_BYTES).and_then(|_| self.file.seek(SeekFrom::Start(HEADER_BYTES)));
        cleared.map(drop).map_err(|e| Error::io("clear", self.path(), e))
    }

    /// Goes on in a new file, of this format, that begins with these records; handles that make the log durable go with it.
    /// On an error it goes on in the old one, or, where nobody knows whether the new one is there, nowhere.
    pub fn go_on_in(&mut self, path: &Path, format: u32, records: &[Vec<u8>]) -> Result<()> {
        self.sync()?;
        let begun = self.begin(path, format, records);
        if begun.is_err() && path.exists() {
            // What is appended to the old one would be behind what the new one begins with.
            self.sync.failed.store(true, Ordering::SeqCst);
        }
        begun
    }

    fn begin(&mut self, path: &Path, format: u32, records: &[Vec<u8>]) -> Result<()> {
        let mut bytes = header(format);
        records.iter().for_each(|record| put_frame(&mut bytes, record));
        super::atomic_file::put_if_absent(path, &bytes)?;
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        file.seek(SeekFrom::End(0)).map_err(|e| Error::io("open", path, e))?;
        *self.sync.written.lock().unwrap_or_else(PoisonError::into_inner) = Written::of(path, &file)?;
        (self.path, self.file) = (path.to_path_buf(), file);
        (self.written, self.records) = (bytes.len() as u64, records.len() as u64);
        Ok(())
    }

    /// For a thread that makes durable what has been flushed, while this one appends.
    pub fn sync_handle(&self) -> Result<LogSync> {
        self.sync.another()
    }

    /// Records in the log, those not yet flushed included.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes in the file once the group is flushed.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Whether the file is kept somewhere else, and this one is scratch.
    pub fn is_kept_elsewhere(&self) -> bool {
        self.file.is_kept_elsewhere()
    }

    /// Where the log lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Written {
    fn of(path: &Path, file: &File) -> Result<Self> {
        let file = file.try_clone().map_err(|e| Error::io("open", path, e))?;
        Ok(Self { path: path.to_path_buf(), file: Arc::new(file) })
    }
}

impl LogSync {
    /// Another one for the same log.
    pub fn another(&self) -> Result<Self> {
        Ok(Self { written: self.written.clone(), failed: self.failed.clone() })
    }

    /// Makes everything flushed so far durable.
    pub fn sync(&self) -> Result<()> {
        self.check()?;
        let (path, file) = self.written();
        file.sync_data().map_err(|e| {
            // Somebody else owns what keeps it: no sync will ever succeed again, and everybody is to hear why.
            if e.kind() != std::io::ErrorKind::AlreadyExists {
                self.failed.store(true, Ordering::SeqCst);
            }
            Error::io("sync", &path, e)
        })
    }

    fn written(&self) -> (PathBuf, Arc<File>) {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        (written.path.clone(), written.file.clone())
    }

    fn check(&self) -> Result<()> {
        match self.failed.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(Error::unavailable(format!(
                "{}: an earlier sync failed, and what it was to make durable may be lost; see to the disk, then start the \
                 process again",
                self.written().0.display()
            ))),
        }
    }
}

impl LogReader {
    /// Reads from `byte` on ([`HEADER_BYTES`] for the start; a record must begin there).
    pub fn open_at(path: &Path, byte: u64) -> Result<Self> {
        let mut file = fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut header = [0u8; HEADER_BYTES as usize];
        file.read_exact(&mut header).map_err(|e| Error::io("read", path, e))?;
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if &header[..8] != MAGIC {
            return Err(Error::corrupt(format!("{} is not a tidemill log", path.display())));
        }
        if version > FORMAT {
            return Err(Error::conflict(format!(
                "{}: log format {version} is newer than this binary ({FORMAT})",
                path.display()
            )));
        }
        let mut out = Self {
            path: path.to_path_buf(),
            format: version,
            file: BufReader::with_capacity(1 << 18, file),
            at: byte,
            payload: Vec::new(),
        };
        out.rewind()?;
        Ok(out)
    }

    /// The next record; `None` at the end of what is there now (a record being written counts as not there).
    #[expect(clippy::should_implement_trait, reason = "lends its buffer")]
    pub fn next(&mut self) -> Result<Option<&[u8]>> {
        let mut head = [0u8; FRAME_BYTES as usize];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let expected = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if len > RECORD_BYTES_MAX {
            return self.torn_or_damaged(FRAME_BYTES);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(len, 0);
        let whole = self.fill(&mut payload);
        self.payload = payload;
        if !whole? {
            return Ok(None);
        }
        if check(&self.payload) != expected {
            return self.torn_or_damaged(FRAME_BYTES + len as u64);
        }
        self.at += FRAME_BYTES + len as u64;
        Ok(Some(&self.payload))
    }

    /// The log's number.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// The byte at which the next record begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Fills `out`, or goes back to the record's start and answers `false` when the file ends before.
    fn fill(&mut self, out: &mut [u8]) -> Result<bool> {
        let mut got = 0;
        while got < out.len() {
            match self.file.read(&mut out[got..]) {
                Ok(0) => {
                    self.rewind()?;
                    return Ok(false);
                }
                Ok(n) => got += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        Ok(true)
    }

    fn rewind(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.at)).map_err(|e| Error::io("seek in", &self.path, e))?;
        Ok(())
    }

    /// `None` where the frame of so many bytes that begins here was never written whole: it, or what stands behind a sector's
    /// border in it, was lost with all that followed. Else it is damaged.
    fn torn_or_damaged(&mut self, frame_bytes: u64) -> Result<Option<&[u8]>> {
        let begin = self.at;
        let borders = (begin / SECTOR_BYTES + 1..).map(|sector| sector * SECTOR_BYTES);
        for from in std::iter::once(begin).chain(borders.take_while(|border| *border < begin + frame_bytes)) {
            if self.is_zero_from(from)? {
                self.rewind()?;
                return Ok(None);
            }
        }
        Err(self.damaged())
    }

    /// Whether there is something from this byte on and all of it is zero.
    fn is_zero_from(&mut self, from: u64) -> Result<bool> {
        let failed = |e| Error::io("read", &self.path, e);
        self.file.seek(SeekFrom::Start(from)).map_err(failed)?;
        let mut some = false;
        loop {
            let bytes = self.file.fill_buf().map_err(failed)?;
            if bytes.is_empty() {
                return Ok(some);
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            some = true;
            let read = bytes.len();
            self.file.consume(read);
        }
    }

    fn damaged(&self) -> Error {
        Error::corrupt(format!(
            "{}: the record at byte {} does not match its checksum; restore the file from a copy, or start again with --from-scratch",
            self.path.display(),
            self.at
        ))
    }
}

fn header(format: u32) -> Vec<u8> {
    let mut header = Vec::from(*MAGIC);
    header.extend_from_slice(&format.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header
}

fn put_frame(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&check(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Writes the last bytes before `end` once more. An earlier process may have ended because a sync failed: then the system
/// takes for written what is not, later syncs succeed, and what can be read now is gone when the power is.
fn write_again(file: &mut File, end: u64) -> std::io::Result<()> {
    let from = end.saturating_sub(WRITTEN_AGAIN_BYTES);
    let mut bytes = vec![0; (end - from) as usize];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut bytes)?;
    file.seek(SeekFrom::Start(from))?;
    file.write_all(&bytes)
}

/// Whether a file holds nothing but zeros. Looks no farther than the first byte that is none.
fn is_all_zero(path: &Path) -> Result<bool> {
    let failed = |e| Error::io("read", path, e);
    let mut file = BufReader::new(fs::File::open(path).map_err(failed)?);
    loop {
        let bytes = file.fill_buf().map_err(failed)?;
        if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
            return Ok(bytes.is_empty());
        }
        let read = bytes.len();
        file.consume(read);
    }
}

fn check(payload: &[u8]) -> u32 {
    hash64(payload, payload.len() as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::{super::disk, *};

    fn dir(name: &str) -> PathBuf {
        let d = std::env::temp_dir().join(format!("tidemill-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&d);
        fs::create_dir_all(&d).unwrap();
        d
    }

    fn read_all(path: &Path) -> Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        Log::open(path, |_, _, p| {
            out.push(p.to_vec());
            Ok(())
        })?;
        Ok(out)
    }

    fn three(path: &Path) {
        let mut log = Log::open(path, |_, _, _| Ok(())).unwrap();
        for r in ["a", "bb", "ccc"] {
            log.append(r.as_bytes()).unwrap();
        }
        log.sync().unwrap();
    }

    /// A crash in mid-append leaves the records before it, whatever the cut.
    #[test]
    fn a_tail_torn_at_any_byte_costs_only_the_record_it_tore() {
        let d = dir("torn");
        let path = d.join("log");
        three(&path);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let kept = read_all(&path).unwrap();
            let expected = [25, 35, 46].iter().filter(|&&end| end <= cut).count();
            assert_eq!(kept.len(), expected, "cut at {cut}");
            // And it can be appended to again.
            let mut log = Log::open(&path, |_, _, _| Ok(())).unwrap();
            log.append(b"new").unwrap();
            log.sync().unwrap();
            drop(log);
            assert_eq!(read_all(&path).unwrap().last().unwrap(), b"new");
        }
    }

    /// A log of an older format is read and from then on refused by programs that know only that; a newer one is refused.
    #[test]
    fn a_logs_format_is_raised_before_newer_records_go_in() {
        let d = dir("format");
        let path = d.join("log");
        three(&path);
        assert_eq!(fs::read(&path).unwrap()[8], 1);
        let mut seen = 0;
        Log::open_format(&path, 3, |_, _, _| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!((seen, fs::read(&path).unwrap()[8]), (3, 3));
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 5;
        fs::write(&path, bytes).unwrap();
        let e = Log::open(&path, |_, _, _| Ok(())).unwrap_err();
        assert!(e.message().contains("log format 5 is newer than this binary (4)"), "{e}");
    }

    /// Fails the first sync of a file.
    #[derive(Default)]
    struct OneSyncFails(AtomicBool);

    impl disk::Faults for OneSyncFails {
        fn access(&self, access: disk::Access) -> std::io::Result<u64> {
            match access {
                disk::Access::Write { bytes, .. } => Ok(bytes.len() as u64),
                disk::Access::Sync { .. } if !self.0.swap(true, Ordering::SeqCst) => {
                    Err(std::io::Error::from_raw_os_error(5))
                }
                _ => Ok(0),
            }
        }
    }

    /// F13: what a failed sync was to make durable may be lost though the next one succeeds. So there is no next one, on
    /// whatever thread it failed.
    #[test]
    fn f13_behind_a_failed_sync_a_log_takes_nothing_more() {
        let d = dir("eio");
        let mut log = Log::open(&d.join("log"), |_, _, _| Ok(())).unwrap();
        drop(log);
        let _injected = disk::inject(&d, std::sync::Arc::new(OneSyncFails::default()));
        log = Log::open(&d.join("log"), |_, _, _| Ok(())).unwrap();
        let beside = log.sync_handle().unwrap();
        log.append(b"a").unwrap();
        log.flush().unwrap();
        let e = beside.sync().unwrap_err();
        assert!(e.message().starts_with("sync "), "{e}");
        log.append(b"b").unwrap();
        for e in [log.flush().unwrap_err(), log.sync().unwrap_err(), beside.sync().unwrap_err()] {
            assert!(e.message().contains("an earlier sync failed"), "{e}");
        }
    }

    /// A file that was lengthened before its bytes were there ends in zeros from a sector on: what was whole stays. Zeros
    /// with something behind them are damage.
    #[test]
    fn a_tail_of_zeros_from_a_sector_on_is_torn_and_a_hole_is_damage() {
        let d = dir("zeros");
        let path = d.join("log");
        let mut log = Log::open(&path, |_, _, _| Ok(())).unwrap();
        (0..100u8).for_each(|i| log.append(&[i + 1; 30]).unwrap());
        log.sync().unwrap();
        let whole = fs::read(&path).unwrap();
        for sector in (0..whole.len()).step_by(512) {
            let mut torn = whole.clone();
            torn[sector..].fill(0);
            torn.resize(torn.len() + 700, 0);
            fs::write(&path, torn).unwrap();
            let kept = read_all(&path).unwrap().len();
            assert_eq!(kept, sector.saturating_sub(HEADER_BYTES as usize) / 38, "zeros from {sector}");
            let mut hole = whole.clone();
            hole[sector..(sector + 512).min(whole.len() - 1)].fill(0);
            if sector > 0 {
                fs::write(&path, hole).unwrap();
                assert!(read_all(&path).is_err(), "a hole at {sector}");
            }
        }
    }

    /// Damage inside the log is named, never skipped: what stood there may have been acknowledged.
    #[test]
    fn a_flipped_byte_is_found_and_its_place_named() {
        let d = dir("flip");
        let path = d.join("log");
        three(&path);
        let whole = fs::read(&path).unwrap();
        for at in (HEADER_BYTES as usize + 4)..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            // A flipped length may read as a record that ends beyond the file; that one is taken for torn only if
            // nothing stands behind it.
            match read_all(&path) {
                Err(e) => assert!(e.message().contains("at byte"), "{e}"),
                Ok(kept) => assert!(kept.len() < 3, "flip at {at} went unseen"),
            }
        }
    }
}
