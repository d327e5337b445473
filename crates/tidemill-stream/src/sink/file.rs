//! Files in a directory, each of which is there whole or not at all.
//!
//! ```text
//! DIR/scored-000000000001-000000000822.jsonl    rows of mini-batches 1 to 822; never changes
//! DIR/.scored-000000000823.open                 rows from mini-batch 823 on, which nobody reads yet
//! DIR/.scored-000000000001.ready                parquet: complete, about to get its name
//! DIR/.scored.sink                              whose rows these are, and in which columns
//! ```
//!
//! What is open tells where the sink stands, whatever became of the complete files: whoever reads them may take them away.
//! So the next open file is made first, then the one before it gets its name, by one rename. After a kill, an older open
//! file is complete and gets its name; the newest one is cut back to what the checkpoint says, or to nothing where it was
//! begun behind the checkpoint, and its rows are derived again.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use serde_json::json;
use tidemill_base::{
    Error, Kind, Result,
    codec::{Decoder, Encoder},
    store::{
        atomic_file,
        disk::{self, File},
    },
};

use super::{
    Delivered, FileSinkSettings, Outlet, Owner, RowFormat, SinkRows,
    encode::{csv_lines, csv_names, each_ipc, ipc, json_lines},
};

/// A directory that rows leave to.
pub struct FileOutlet {
    dir: PathBuf,
    name: String,
    format: RowFormat,
    roll_bytes: u64,
    columns: SchemaRef,
    open: Option<Open>,
    /// Rows up to this mini-batch are there.
    passed: u64,
    /// Whether files may be left that are complete and have no name yet.
    unfinished: bool,
    added: Delivered,
}

/// The file that grows.
struct Open {
    /// The mini-batch it begins with.
    begin: u64,
    file: File,
    bytes: u64,
    rows: u64,
}

impl FileOutlet {
    /// The directory, made if need be; refused where it holds rows of another sink, or of another lineage.
    pub fn open(settings: &FileSinkSettings, format: RowFormat, owner: &Owner, columns: &SchemaRef) -> Result<Self> {
        let dir = PathBuf::from(&settings.path);
        disk::make_dir(&dir).map_err(|e| match dir.exists() {
            true => Error::invalid(format!("path '{}' is no directory", dir.display())),
            false => Error::io("create", &dir, e),
        })?;
        let this = Self {
            name: owner.sink.clone(),
            format,
            roll_bytes: settings.roll_bytes,
            columns: columns.clone(),
            open: None,
            passed: 0,
            unfinished: true,
            added: Delivered::default(),
            dir,
        };
        this.take_possession(owner)?;
        Ok(this)
    }

    fn take_possession(&self, owner: &Owner) -> Result<()> {
        let columns: Vec<String> =
            self.columns.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        let said = json!({
            "model": owner.model, "sink": owner.sink, "lineage": format!("{:016x}", owner.lineage),
            "format": self.format.extension(), "columns": columns,
        });
        let path = self.dir.join(format!(".{}.sink", self.name));
        match atomic_file::put_if_absent(&path, format!("{said}\n").as_bytes()) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == Kind::Conflict => {}
            Err(e) => return Err(e),
        }
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let there: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| Error::corrupt(format!("{} does not say whose rows these are: {e}", path.display())))?;
        if there == said {
            return Ok(());
        }
        let whose = if there["model"] != said["model"] {
            format!("of model {}", there["model"])
        } else if there["lineage"] != said["lineage"] {
            "of an earlier lineage of this model, from before --from-scratch or of another data directory".to_string()
        } else {
            "in other columns or another format".to_string()
        };
        Err(Error::conflict(format!(
            "{} holds rows of sink '{}' {whose}; give the sink another path or name, or move these files and {} away",
            self.dir.display(),
            self.name,
            path.display()
        )))
    }

    fn hidden(&self, begin: u64, end: &str) -> PathBuf {
        self.dir.join(format!(".{}-{begin:012}.{end}", self.name))
    }

    /// Mini-batches with which hidden files of this ending begin, ascending.
    fn begins(&self, end: &str) -> Result<Vec<u64>> {
        let entries = fs::read_dir(&self.dir).map_err(|e| Error::io("list", &self.dir, e))?;
        let mut begins = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &self.dir, e))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix('.')?.strip_prefix(&self.name)?.strip_prefix('-'));
            begins.extend(number.and_then(|n| n.strip_suffix(end)?.strip_suffix('.')?.parse::<u64>().ok()));
        }
        begins.sort_unstable();
        Ok(begins)
    }

    /// Makes the file that rows from mini-batch `begin` on go into.
    fn create(&mut self, begin: u64) -> Result<()> {
        let path = self.hidden(begin, "open");
        let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        atomic_file::sync_parent(&path)?;
        self.open = Some(Open { begin, file, bytes: 0, rows: 0 });
        Ok(())
    }

    /// Gives complete files their names.
    fn finish_complete(&mut self) -> Result<()> {
        if !self.unfinished {
            return Ok(());
        }
        let opens = self.begins("open")?;
        let end_of = |begin: u64| opens.iter().find(|b| **b > begin).map(|next| next - 1);
        for begin in self.begins("ready")? {
            let open = self.hidden(begin, "open");
            if open.exists() {
                disk::remove_file(&open).map_err(|e| Error::io("remove", &open, e))?;
            }
            // There is always a newer open file: it was made before this one was complete.
            let through = end_of(begin).ok_or_else(|| self.torn(begin))?;
            self.publish(&self.hidden(begin, "ready"), begin, through)?;
        }
        for begin in opens.iter().copied() {
            let path = self.hidden(begin, "open");
            let Some(through) = end_of(begin).filter(|_| path.exists()) else { continue };
            if self.format == RowFormat::Parquet {
                let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
                let ready = self.hidden(begin, "ready");
                atomic_file::replace(&ready, &self.parquet(&bytes)?)?;
                disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
                self.publish(&ready, begin, through)?;
            } else {
                self.publish(&path, begin, through)?;
            }
        }
        self.unfinished = false;
        Ok(())
    }

    fn torn(&self, begin: u64) -> Error {
        Error::corrupt(format!(
            "{}: the file that follows mini-batch {begin} of sink '{}' is gone; start again with --from-scratch and another \
             path",
            self.dir.display(),
            self.name
        ))
    }

    fn publish(&self, from: &Path, begin: u64, through: u64) -> Result<()> {
        let to = self.dir.join(format!("{}-{begin:012}-{through:012}.{}", self.name, self.format.extension()));
        disk::rename(from, &to).map_err(|e| Error::io("rename into", &to, e))?;
        atomic_file::sync_parent(&to)
    }

    fn parquet(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let failed = |e: parquet::errors::ParquetError| Error::internal(format!("sink '{}': {e}", self.name));
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("tidemill".to_string())
            .build();
        let mut out = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut out, self.columns.clone(), Some(properties)).map_err(failed)?;
        let place = format!("sink '{}': rows that wait to be written", self.name);
        let write = |rows: RecordBatch| writer.write(&rows).map_err(|e| Error::corrupt(format!("{place}: {e}")));
        each_ipc(bytes, &place, write)?;
        writer.close().map_err(failed)?;
        Ok(out)
    }

    fn append(&mut self, group: &SinkRows) -> Result<()> {
        let Some(open) = &mut self.open else { return Err(Error::internal("a sink that was not resumed")) };
        let rows = &group.rows;
        let mut bytes = match self.format {
            RowFormat::Csv if open.bytes == 0 => csv_names(rows)?,
            _ => Vec::new(),
        };
        bytes.extend(match self.format {
            RowFormat::Json => json_lines(rows)?,
            RowFormat::Csv => csv_lines(rows)?,
            RowFormat::Parquet => ipc(rows)?,
        });
        if let Err(e) = open.file.write_all(&bytes) {
            // Whatever of it has come must not be in front of what comes next.
            let _ = open.file.set_len(open.bytes).and_then(|()| open.file.seek(SeekFrom::End(0)));
            let begin = open.begin;
            return Err(Error::io("write", &self.hidden(begin, "open"), e));
        }
        open.bytes += bytes.len() as u64;
        open.rows += rows.num_rows() as u64;
        self.added.rows += rows.num_rows() as u64;
        self.added.bytes += bytes.len() as u64;
        Ok(())
    }

    /// What is open is complete with mini-batch `through`.
    fn roll(&mut self, through: u64) -> Result<()> {
        if let Some(open) = &self.open {
            let path = self.hidden(open.begin, "open");
            open.file.sync_all().map_err(|e| Error::io("sync", &path, e))?;
        }
        self.create(through + 1)?;
        self.unfinished = true;
        self.finish_complete()
    }

    fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.bytes >= self.roll_bytes)
    }
}

impl Outlet for FileOutlet {
    fn can_resume(&self, from: u64, state: Option<&[u8]>) -> bool {
        let Some(newest) = self.begins("open").ok().and_then(|begins| begins.last().copied()) else { return false };
        let reaches = |state: &[u8]| {
            let kept = Kept::decode(state).ok().filter(|kept| kept.begin == newest);
            let there = self.hidden(newest, "open").metadata().map_or(0, |file| file.len());
            kept.is_some_and(|kept| there >= kept.bytes)
        };
        newest > from || state.is_some_and(reaches)
    }

    fn resume(&mut self, from: u64, state: Option<&[u8]>) -> Result<()> {
        self.unfinished = true;
        self.finish_complete()?;
        let Some(begin) = self.begins("open")?.last().copied() else {
            self.passed = from;
            return self.create(from + 1);
        };
        let kept = match state {
            Some(state) if begin <= from => Kept::decode(state)?,
            _ => Kept { begin, bytes: 0, rows: 0 },
        };
        let path = self.hidden(begin, "open");
        let cut = || {
            let mut file = File::open(&path)?;
            file.set_len(kept.bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = cut().map_err(|e| Error::io("open", &path, e))?;
        self.passed = from.max(begin.saturating_sub(1));
        self.open = Some(Open { begin, file, bytes: kept.bytes, rows: kept.rows });
        Ok(())
    }

    fn deliver(&mut self, group: &[SinkRows]) -> Result<Delivered> {
        self.finish_complete()?;
        for rows in group {
            if rows.mini_batch > self.passed && rows.rows.num_rows() > 0 {
                self.append(rows)?;
                self.passed = rows.mini_batch;
            }
            // Tried again, the mini-batches in front of the one that filled it come first.
            if rows.mini_batch >= self.passed && self.is_full() {
                self.roll(rows.mini_batch)?;
            }
        }
        Ok(std::mem::take(&mut self.added))
    }

    fn sync(&mut self, _through: u64) -> Result<Vec<u8>> {
        self.finish_complete()?;
        let Some(open) = &self.open else { return Err(Error::internal("a sink that was not resumed")) };
        open.file.sync_all().map_err(|e| Error::io("sync", &self.hidden(open.begin, "open"), e))?;
        Ok(Kept { begin: open.begin, bytes: open.bytes, rows: open.rows }.encode())
    }

    fn show(&mut self, through: u64) -> Result<()> {
        self.finish_complete()?;
        match &self.open {
            Some(open) if open.rows > 0 && through >= self.passed => self.roll(through),
            _ => Ok(()),
        }
    }
}

/// What a checkpoint keeps of the open file.
struct Kept {
    begin: u64,
    bytes: u64,
    rows: u64,
}

impl Kept {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.put_u64(self.begin).put_u64(self.bytes).put_u64(self.rows);
        out.finish()
    }

    fn decode(state: &[u8]) -> Result<Self> {
        let mut d = Decoder::new(state, "a sink's place");
        let kept = Self { begin: d.u64()?, bytes: d.u64()?, rows: d.u64()? };
        d.end()?;
        Ok(kept)
    }
}
