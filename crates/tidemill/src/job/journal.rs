//! The journal's file: records go in before their mini-batch is processed, and come out again after a restart.
//!
//! Appending hands the record to the operating system, so it survives this process; whatever leaves the engine first makes
//! the journal durable ([`Journal::sync`]). Where it may be cut ([`Journal::cut`]) it is several files, each of which needs none
//! before it: the oldest go (docs/0020).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use tidemill_base::{
    Error, Result,
    store::{
        atomic_file, disk,
        log::{HEADER_BYTES, Log, LogReader, LogSync},
    },
};
use tidemill_stream::{
    journal::{CutRecord, FORMAT, FORMAT_IN_FILES, PartitionId, Record},
    source::Print,
};

/// Bytes of a file behind which the next is begun, where the journal is cut.
pub const FILE_BYTES: u64 = 4 << 20;
/// A file that only repeats the past would be no gain: it is at least so many times as large.
const PAST_TIMES: u64 = 2;

/// The journal of one job.
pub struct Journal {
    dir: PathBuf,
    log: Whose,
    /// Its files, oldest first: the last mini-batch before each.
    files: Vec<u64>,
}

enum Whose {
    Own(Log),
    /// Of the job that this one learns beside, which alone appends to it.
    Shared(LogSync),
}

/// What an earlier run left in it.
#[derive(Debug, Default)]
pub struct Past {
    /// Partitions in order of appearance: input, name, whether ordered.
    pub partitions: Vec<(u32, String, bool)>,
    /// The print of each partition's file that reaches farthest.
    pub prints: BTreeMap<PartitionId, Print>,
    /// Cuts behind the mini-batch asked for, in order.
    pub cuts: Vec<CutRecord>,
    /// The mini-batch behind which the records begin: those before were let go.
    pub base: u64,
    /// The last mini-batch on record.
    pub last_mini_batch: u64,
    /// Whether all partitions are on record that were there when the sources were first opened.
    pub is_opened: bool,
}

impl Journal {
    /// Opens the job's journal, which may be cut or not. `past.cuts` are those in `after + 1 ..= until`.
    pub fn open(job_dir: &Path, may_be_cut: bool, after: u64, until: u64) -> Result<(Self, Past)> {
        let mut past = Past::default();
        atomic_file::sweep(job_dir)?;
        let mut files = files(job_dir)?;
        let (last, before) = match files.split_last() {
            Some((last, before)) => (*last, before),
            None => (0, &[][..]),
        };
        for &base in before {
            past.read_file(job_dir, base, after, until, true)?;
        }
        past.begin_file(&path_of(job_dir, last), last)?;
        let path = path_of(job_dir, last);
        // A header of zeros was never written: the log begins anew.
        let mut head = [0; HEADER_BYTES as usize];
        let has_head = File::open(&path).is_ok_and(|mut file| file.read_exact(&mut head).is_ok());
        if has_head && head != [0; HEADER_BYTES as usize] {
            check_format(&LogReader::open_at(&path, HEADER_BYTES)?, &path)?;
        }
        let format = if may_be_cut { FORMAT_IN_FILES } else { FORMAT };
        let mut log = Log::open_format(&path, format, |_, at, payload| past.add(&path, at, payload, after, until))?;
        past.check(&path, after)?;
        if past.base > after {
            return Err(Error::corrupt(format!(
                "{}, and no checkpoint that can be used is at or behind it; put one back, or start again with --from-scratch",
                past.begins(job_dir)
            )));
        }
        if !past.is_opened {
            // Killed while it wrote down what it had opened: nothing followed from that yet, and a part of it must not be
            // taken for all there is.
            log.clear()?;
            past = Past::default();
        }
        if files.is_empty() {
            files.push(last);
        }
        Ok((Self { dir: job_dir.to_path_buf(), log: Whose::Own(log), files }, past))
    }

    /// Whether there is one.
    pub fn exists(job_dir: &Path) -> bool {
        files(job_dir).is_ok_and(|files| !files.is_empty())
    }

    /// The mini-batch behind which the records of a journal begin.
    pub fn base(job_dir: &Path) -> Result<u64> {
        Ok(files(job_dir)?.first().copied().unwrap_or(0))
    }

    /// Reads the journal without owning it.
    pub fn read(job_dir: &Path, after: u64, until: u64) -> Result<Past> {
        let mut past = Past::default();
        let mut files = files(job_dir)?;
        if files.is_empty() {
            // Whoever reads it says that it is not there.
            files.push(0);
        }
        for &base in &files {
            past.read_file(job_dir, base, after, until, false)?;
        }
        past.check(&path_of(job_dir, files[files.len() - 1]), after)?;
        Ok(past)
    }

    /// Begins a new file behind this mini-batch, if the last is longer than `file_bytes`, and lets those go that end at or before
    /// mini-batch `oldest`. `past`: what a start needs to know of everything before.
    pub fn cut(
        &mut self,
        file_bytes: u64,
        mini_batch: u64,
        oldest: u64,
        past: impl FnOnce() -> Vec<Record>,
    ) -> Result<()> {
        let Whose::Own(log) = &mut self.log else { return Ok(()) };
        // A bucket keeps a log from its first write on, and not one that appears with records in it: there nothing is cut.
        let may_go_on = !log.is_kept_elsewhere() && self.files.last() != Some(&mini_batch);
        if may_go_on && log.bytes() >= file_bytes {
            let mut records = vec![Record::Base(mini_batch).encode()];
            records.extend(past().iter().map(Record::encode));
            let bytes: usize = records.iter().map(Vec::len).sum();
            if log.bytes() >= bytes as u64 * PAST_TIMES {
                log.go_on_in(&path_of(&self.dir, mini_batch), FORMAT_IN_FILES, &records)?;
                self.files.push(mini_batch);
            }
        }
        while self.files.get(1).is_some_and(|base| *base <= oldest) {
            let path = path_of(&self.dir, self.files[0]);
            disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            self.files.remove(0);
        }
        Ok(())
    }

    /// The same journal for a job that learns beside this one's, and appends nothing.
    pub fn share(&self) -> Result<Self> {
        Ok(Self { dir: self.dir.clone(), log: Whose::Shared(self.sync_handle()?), files: Vec::new() })
    }

    /// Appends a record. On an error nothing was appended and it may be tried again.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let Whose::Own(log) = &mut self.log else {
            return Err(Error::internal("a model that learns beside another has no journal of its own"));
        };
        log.append(&record.encode())?;
        log.flush().inspect_err(|_| log.drop_group(1))
    }

    /// Makes everything appended durable.
    pub fn sync(&mut self) -> Result<()> {
        match &mut self.log {
            Whose::Own(log) => log.sync(),
            Whose::Shared(sync) => sync.sync(),
        }
    }

    /// For a thread that makes durable what has been appended by now.
    pub fn sync_handle(&self) -> Result<LogSync> {
        match &self.log {
            Whose::Own(log) => log.sync_handle(),
            Whose::Shared(sync) => sync.another(),
        }
    }
}

/// The files of a journal, oldest first: the last mini-batch before each.
fn files(job_dir: &Path) -> Result<Vec<u64>> {
    let entries = match fs::read_dir(job_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", job_dir, e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io("read", job_dir, e))?.file_name();
        files.extend(name.to_str().and_then(base_of));
    }
    files.sort_unstable();
    Ok(files)
}

/// The number in a file's name, if it is one of a journal.
fn base_of(name: &str) -> Option<u64> {
    match name.strip_prefix("journal")?.strip_suffix(".log")? {
        "" => Some(0),
        number => number.strip_prefix('-')?.parse().ok(),
    }
}

fn path_of(job_dir: &Path, base: u64) -> PathBuf {
    match base {
        0 => job_dir.join("journal.log"),
        base => job_dir.join(format!("journal-{base:020}.log")),
    }
}

/// Under an older number the same records led to another state: sums were laid out otherwise.
fn check_format(reader: &LogReader, path: &Path) -> Result<()> {
    match reader.format() < FORMAT {
        true => Err(older(path, reader.format(), FORMAT)),
        false => Ok(()),
    }
}

/// What an older program wrote and this one would not go on with bit for bit.
pub(super) fn older(path: &Path, format: u32, now: u32) -> Error {
    Error::conflict(format!(
        "{} has format {format} of an older program, this one continues format {now}; run the older program, or start \
         again with --from-scratch, which keeps versions and pushed events",
        path.display()
    ))
}

impl Past {
    /// Reads a file of the journal. `is_whole`: another comes behind it, before which this one was made durable.
    fn read_file(&mut self, job_dir: &Path, base: u64, after: u64, until: u64, is_whole: bool) -> Result<()> {
        let path = path_of(job_dir, base);
        self.begin_file(&path, base)?;
        let mut reader = LogReader::open_at(&path, HEADER_BYTES)?;
        check_format(&reader, &path)?;
        loop {
            let at = reader.at();
            let Some(payload) = reader.next()? else { break };
            self.add(&path, at, payload, after, until)?;
        }
        let bytes = fs::metadata(&path).map_err(|e| Error::io("stat", &path, e))?.len();
        match is_whole && reader.at() != bytes {
            true => Err(Error::corrupt(format!(
                "{}: torn at byte {}, and another file comes behind it; restore it from a copy, or start again with \
                 --from-scratch",
                path.display(),
                reader.at()
            ))),
            false => Ok(()),
        }
    }

    /// A file begins where the one before it ends; what it says of partitions is all there is to know.
    fn begin_file(&mut self, path: &Path, base: u64) -> Result<()> {
        if base == 0 {
            return Ok(());
        }
        let is_first = !self.is_opened;
        if !is_first && self.last_mini_batch != base {
            return Err(Error::corrupt(format!(
                "{} goes on behind mini-batch {base}, and the file before it ends at {}; restore it from a copy, or start \
                 again with --from-scratch",
                path.display(),
                self.last_mini_batch
            )));
        }
        if is_first {
            self.base = base;
        }
        self.last_mini_batch = base;
        self.partitions.clear();
        self.prints.clear();
        Ok(())
    }

    /// Where the records begin, in words.
    pub fn begins(&self, job_dir: &Path) -> String {
        let (dir, base) = (job_dir.display(), self.base);
        format!(
            "the journal in {dir} begins behind mini-batch {base}; what was before was let go (journal.keep = 'checkpoints')"
        )
    }

    fn add(&mut self, path: &Path, at: u64, payload: &[u8], after: u64, until: u64) -> Result<()> {
        match Record::decode(payload).map_err(|e| e.at(format!("{} at byte {at}", path.display())))? {
            Record::Partition { input, name, ordered } => self.partitions.push((input, name, ordered)),
            Record::Print(id, print) => {
                self.prints.insert(id, print);
            }
            Record::Opened => self.is_opened = true,
            Record::Base(base) if base == self.last_mini_batch => {}
            Record::Base(base) => {
                return Err(Error::corrupt(format!(
                    "{} at byte {at}: it goes on behind mini-batch {base}, where {} is expected",
                    path.display(),
                    self.last_mini_batch
                )));
            }
            Record::Cut(cut) => {
                self.is_opened = true;
                self.last_mini_batch = cut.mini_batch;
                if (after + 1..=until).contains(&cut.mini_batch) {
                    self.cuts.push(cut);
                }
            }
        }
        Ok(())
    }

    fn check(&self, path: &Path, after: u64) -> Result<()> {
        if self.last_mini_batch >= after {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "{} ends at mini-batch {}, but a checkpoint at mini-batch {after} depends on it; \
             restore the file from a copy, or start again with --from-scratch",
            path.display(),
            self.last_mini_batch
        )))
    }
}
