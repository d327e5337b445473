//! The dead letter: events and samples that could not be used, one JSON object a line, kept for a person to look at.
//!
//! Bounded: beyond [`BYTES_MAX`] lines are only counted. A checkpoint remembers how long the file was; after a restart it
//! is cut back to that, so replayed refusals do not stand there twice.

use std::{
    fs,
    io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tidemill_base::{Error, Result, store::disk::File};

/// Bytes the file may grow to.
pub const BYTES_MAX: u64 = 64 << 20;

/// The file, appended to.
pub struct DeadLetter {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    lines_not_kept: u64,
}

impl DeadLetter {
    /// Opens the job's dead letter, cut back to `bytes`.
    pub fn open(job_dir: &Path, bytes: u64) -> Result<Self> {
        let path = job_dir.join("dead_letter.jsonl");
        let open = || {
            let mut file = File::open(&path)?;
            let bytes = bytes.min(file.len()?);
            file.set_len(bytes)?;
            file.seek(SeekFrom::Start(bytes))?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|e| Error::io("open", &path, e))?;
        Ok(Self { path, file: BufWriter::new(file), bytes, lines_not_kept: 0 })
    }

    /// Keeps one refusal. A full disk costs the line, not the run: the refusal is counted elsewhere.
    pub fn put(&mut self, place: &str, offset: Option<u64>, reason: &str, excerpt: &str) {
        let mut line = serde_json::json!({ "place": place, "reason": reason });
        if let Some(offset) = offset {
            line["offset"] = offset.into();
        }
        if !excerpt.is_empty() {
            line["excerpt"] = excerpt.into();
        }
        let line = format!("{line}\n");
        if self.bytes + line.len() as u64 > BYTES_MAX || self.file.write_all(line.as_bytes()).is_err() {
            self.lines_not_kept += 1;
            return;
        }
        self.bytes += line.len() as u64;
    }

    /// Hands the lines to the operating system and answers how long the file is.
    pub fn flush(&mut self) -> u64 {
        if self.file.flush().is_err() {
            self.lines_not_kept += 1;
        }
        self.bytes
    }

    /// The first line that is kept: place and reason.
    pub fn first(&mut self) -> Option<String> {
        self.flush();
        let mut line = String::new();
        BufReader::new(fs::File::open(&self.path).ok()?).read_line(&mut line).ok()?;
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        Some(format!("{}: {}", line["place"].as_str()?, line["reason"].as_str()?))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refusals that found no room.
    pub fn lines_not_kept(&self) -> u64 {
        self.lines_not_kept
    }
}
