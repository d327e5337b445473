//! The journal's file: records go in before their mini-batch is processed, and come out again after a restart.
//!
//! Appending hands the record to the operating system, so it survives this process; whatever leaves the engine first makes
//! the journal durable ([`Journal::sync`]).

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use tidemill_base::{
    Error, Result,
    store::log::{HEADER_BYTES, Log, LogReader, LogSync},
};
use tidemill_stream::{
    journal::{CutRecord, FORMAT, PartitionId, Record},
    source::Print,
};

/// The journal of one job.
pub struct Journal {
    log: Whose,
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
    /// The last mini-batch on record.
    pub last_mini_batch: u64,
    /// Whether all partitions are on record that were there when the sources were first opened.
    pub is_opened: bool,
}

impl Journal {
    /// Opens the job's journal. `past.cuts` are those in `after + 1 ..= until`.
    pub fn open(job_dir: &Path, after: u64, until: u64) -> Result<(Self, Past)> {
        let mut past = Past::default();
        let path = job_dir.join("journal.log");
        // A header of zeros was never written: the log begins anew.
        let mut head = [0; HEADER_BYTES as usize];
        let has_head = File::open(&path).is_ok_and(|mut file| file.read_exact(&mut head).is_ok());
        if has_head && head != [0; HEADER_BYTES as usize] {
            check_format(&LogReader::open_at(&path, HEADER_BYTES)?, &path)?;
        }
        let mut log = Log::open_format(&path, FORMAT, |_, at, payload| past.add(&path, at, payload, after, until))?;
        past.check(&path, after)?;
        if !past.is_opened {
            // Killed while it wrote down what it had opened: nothing followed from that yet, and a part of it must not be
            // taken for all there is.
            log.clear()?;
            past = Past::default();
        }
        Ok((Self { log: Whose::Own(log) }, past))
    }

    /// Reads the journal without owning it.
    pub fn read(job_dir: &Path, after: u64, until: u64) -> Result<Past> {
        let mut past = Past::default();
        let path = job_dir.join("journal.log");
        let mut reader = LogReader::open_at(&path, HEADER_BYTES)?;
        check_format(&reader, &path)?;
        loop {
            let at = reader.at();
            let Some(payload) = reader.next()? else { break };
            past.add(&path, at, payload, after, until)?;
        }
        past.check(&path, after)?;
        Ok(past)
    }

    /// The same journal for a job that learns beside this one's, and appends nothing.
    pub fn share(&self) -> Result<Self> {
        Ok(Self { log: Whose::Shared(self.sync_handle()?) })
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
    fn add(&mut self, path: &Path, at: u64, payload: &[u8], after: u64, until: u64) -> Result<()> {
        match Record::decode(payload).map_err(|e| e.at(format!("{} at byte {at}", path.display())))? {
            Record::Partition { input, name, ordered } => self.partitions.push((input, name, ordered)),
            Record::Print(id, print) => {
                self.prints.insert(id, print);
            }
            Record::Opened => self.is_opened = true,
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
