//! `tidemill predict`: a prediction for each row of files.
//!
//! In: a model that was learned before, and files. Out: as many rows, on stdout or in a file that appears whole. Reading and
//! scoring are two threads, where there may be two; the result does not depend on it.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use clap::{Args, ValueEnum};
use parquet::{arrow::ArrowWriter, basic::Compression, errors::ParquetError, file::properties::WriterProperties};
use serde_json::json;
use tidemill_base::{Clock, Error, Result, SystemClock, store::atomic_file, thousands};
use tidemill_stream::{
    Chunk,
    sink::{csv_lines, csv_names, json_lines},
    source::{Partition, Read},
};

use super::{DataDirectory, models::version_of, run::print_line, say};
use crate::score::Scorer;

/// Score the rows of files by a model that was learned before
#[derive(Args)]
pub(super) struct Predict {
    /// MODEL (its live version), MODEL@VERSION or MODEL@LABEL
    name: String,
    /// Files, or patterns, with the columns that the model's features are made of; also .gz and .zst
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    data: DataDirectory,
    /// How the files are written: csv, tsv, json (an object a line), parquet, arrow, libsvm, libfm or vw [default: by their names]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Columns of the files to write in front of each prediction
    #[arg(long = "with", value_name = "COLUMN,...", value_delimiter = ',')]
    carried: Vec<String>,
    /// Where to write predictions; the file appears once it is whole [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How predictions are written [default: as --out ends; csv on stdout]
    #[arg(long, value_name = "FORMAT")]
    out_format: Option<OutFormat>,
    /// 1: read and score in one thread
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// A JSON object with the figures on stdout at the end; wants --out
    #[arg(long, requires = "out")]
    json: bool,
    /// Do not say what was scored
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum OutFormat {
    Csv,
    Json,
    Parquet,
}

/// Chunks that were read and wait to be scored at most.
const CHUNKS_AHEAD: usize = 4;

/// What came of all files.
#[derive(Default)]
struct Totals {
    rows: u64,
    refused: u64,
    first_refusal: Option<String>,
}

impl Predict {
    pub fn run(&self) -> Result<()> {
        match self.score() {
            // Nobody reads on: that is an end, too.
            Err(Failure::Closed) => Ok(()),
            Err(Failure::Error(e)) => Err(e),
            Ok(()) => Ok(()),
        }
    }

    fn score(&self) -> Result<(), Failure> {
        let clock = SystemClock::new();
        let format = self.out_format()?;
        let model = self.name.split('@').next().unwrap_or_default();
        let of_model = format!("models/{model}/");
        let wanted =
            |path: &str| path.starts_with(&of_model) && ![".part", ".ck", ".log"].iter().any(|end| path.ends_with(end));
        let there = self.data.read(&wanted)?;
        let version = version_of(there.root(), &self.name)?;
        let flat = format == OutFormat::Csv;
        let (mut scorer, version) = Scorer::open(there.root(), model, version, &self.carried, flat)?;
        let mut partitions = Vec::new();
        for path in &self.files {
            partitions.extend(scorer.files(path, self.format.as_deref())?);
        }
        let mut out = Out::open(self.out.as_deref(), format, &scorer.output())?;
        let mut totals = Totals::default();
        let threads =
            self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
        let scored = match threads {
            1 => partitions.into_iter().try_for_each(|mut partition| {
                while let Some(chunk) = next(&mut *partition)? {
                    totals.score(&mut scorer, partition.name(), &chunk, &mut out)?;
                }
                Ok(())
            }),
            _ => side_by_side(partitions, |name, chunk| totals.score(&mut scorer, name, &chunk, &mut out)),
        };
        scored?;
        totals.check_any()?;
        out.end()?;
        let seconds = clock.elapsed().as_secs_f64();
        Ok(self.tell(model, version, &totals, seconds)?)
    }

    fn tell(&self, model: &str, version: u64, totals: &Totals, seconds: f64) -> Result<()> {
        let Totals { rows, refused, first_refusal } = totals;
        let first = first_refusal.as_deref().unwrap_or_default();
        if self.json {
            let line = json!({
                "model": model, "version": version, "rows": rows, "refused": refused, "first_refusal": first_refusal,
                "seconds": seconds, "rows_per_s": *rows as f64 / seconds,
            });
            return print_line(&line.to_string());
        }
        if *refused > 0 {
            say(format!("{} of {} rows could not be scored; {first}", thousands(*refused), thousands(*rows)));
        }
        if !self.quiet {
            let speed = thousands((*rows as f64 / seconds) as u64);
            say(format!("{} rows scored by {model}@{version}, {speed} a second", thousands(rows - refused)));
        }
        Ok(())
    }

    fn out_format(&self) -> Result<OutFormat> {
        let ending = self.out.as_ref().and_then(|path| path.extension()?.to_str());
        match (self.out_format, ending, &self.out) {
            (Some(OutFormat::Parquet), _, None) => {
                Err(Error::invalid("--out-format parquet: Parquet is for files; say which with --out"))
            }
            (Some(format), ..) => Ok(format),
            (None, _, None) | (None, Some("csv"), _) => Ok(OutFormat::Csv),
            (None, Some("json" | "jsonl" | "ndjson"), _) => Ok(OutFormat::Json),
            (None, Some("parquet"), _) => Ok(OutFormat::Parquet),
            (None, _, Some(path)) => Err(Error::invalid(format!(
                "--out {}: give a name that ends in .csv, .jsonl or .parquet, or say --out-format",
                path.display()
            ))),
        }
    }
}

impl Totals {
    /// A file without a single row that can be scored is most likely another one than was meant.
    fn check_any(&self) -> Result<()> {
        if self.rows == 0 || self.refused < self.rows {
            return Ok(());
        }
        let first = self.first_refusal.as_deref().unwrap_or_default();
        Err(Error::not_found(format!("none of {} rows could be scored; {first}", thousands(self.rows))))
    }

    fn score(&mut self, scorer: &mut Scorer, file: &str, chunk: &Chunk, out: &mut Out) -> Result<(), Failure> {
        let scored = scorer.score(chunk).map_err(|e| e.at(file))?;
        self.rows += scored.rows.num_rows() as u64;
        self.refused += scored.refused;
        if let Some((offset, why)) = scored.first_refusal {
            self.first_refusal.get_or_insert_with(|| format!("the first: {file}, row {}: {why}", offset + 1));
        }
        out.write(&scored.rows)
    }
}

/// The next rows of a file; `None` at its end.
fn next(partition: &mut dyn Partition) -> Result<Option<Chunk>> {
    match partition.read()? {
        Read::Chunk(chunk) => Ok(Some(chunk)),
        Read::Pending | Read::End => Ok(None),
    }
}

/// Reads files in a thread of its own while `take` works on what was read.
fn side_by_side(
    partitions: Vec<Box<dyn Partition>>,
    mut take: impl FnMut(&str, Chunk) -> Result<(), Failure>,
) -> Result<(), Failure> {
    fn read(partitions: Vec<Box<dyn Partition>>, chunks: &SyncSender<Result<(usize, Chunk)>>) {
        for (i, mut partition) in partitions.into_iter().enumerate() {
            while let Some(read) = next(&mut *partition).transpose() {
                let is_last = read.is_err();
                if chunks.send(read.map(|chunk| (i, chunk))).is_err() || is_last {
                    return;
                }
            }
        }
    }
    let names: Vec<String> = partitions.iter().map(|partition| partition.name().to_string()).collect();
    std::thread::scope(|scope| {
        let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
        scope.spawn(move || read(partitions, &sender));
        // An error drops the receiver, and with it ends the reading.
        for read in chunks {
            let (i, chunk) = read?;
            take(&names[i], chunk)?;
        }
        Ok(())
    })
}

/// Why writing ends.
enum Failure {
    /// Who was reading stdout has gone.
    Closed,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// Where predictions go. A file is written beside its place, and gets its name when all is in it.
struct Out {
    to: Option<To>,
    /// The file in the making, and what it is to be called.
    file: Option<(PathBuf, PathBuf)>,
}

type Bytes = Box<dyn Write + Send>;

enum To {
    /// Text, and how rows become it.
    Lines(Bytes, fn(&RecordBatch) -> Result<Vec<u8>>),
    Parquet(Box<ArrowWriter<Bytes>>),
}

impl Out {
    fn open(path: Option<&Path>, format: OutFormat, columns: &SchemaRef) -> Result<Self, Failure> {
        let file = path.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".tmp");
            (PathBuf::from(name), path.to_path_buf())
        });
        let bytes: Bytes = match &file {
            Some((tmp, _)) => Box::new(File::create(tmp).map_err(|e| Error::io("create", tmp, e))?),
            None => Box::new(std::io::stdout()),
        };
        let mut out = Self { to: None, file };
        out.to = Some(match format {
            OutFormat::Csv => To::Lines(bytes, csv_lines),
            OutFormat::Json => To::Lines(bytes, json_lines),
            OutFormat::Parquet => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let bytes: Bytes = Box::new(BufWriter::with_capacity(1 << 18, bytes));
                let writer = ArrowWriter::try_new(bytes, columns.clone(), Some(properties));
                To::Parquet(Box::new(writer.map_err(|e| Error::internal(format!("begin a Parquet file: {e}")))?))
            }
        });
        if format == OutFormat::Csv {
            // Also where no rows come.
            let names = csv_names(&RecordBatch::new_empty(columns.clone()))?;
            out.put(&names)?;
        }
        Ok(out)
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        match &mut self.to {
            Some(To::Lines(_, encode)) => {
                let text = encode(rows)?;
                self.put(&text)
            }
            Some(To::Parquet(writer)) => {
                let written = writer.write(rows);
                written.map_err(|e| self.failed_by(e))
            }
            None => Ok(()),
        }
    }

    fn put(&mut self, text: &[u8]) -> Result<(), Failure> {
        let Some(To::Lines(bytes, _)) = &mut self.to else { return Ok(()) };
        let written = bytes.write_all(text);
        written.map_err(|e| self.failed(e))
    }

    /// All is written; the file gets its name.
    fn end(mut self) -> Result<(), Failure> {
        match self.to.take() {
            Some(To::Lines(mut bytes, _)) => bytes.flush().map_err(|e| self.failed(e))?,
            Some(To::Parquet(writer)) => {
                let mut bytes = writer.into_inner().map_err(|e| self.failed_by(e))?;
                bytes.flush().map_err(|e| self.failed(e))?;
            }
            None => {}
        }
        if let Some((tmp, to)) = &self.file {
            // Whole after a loss of power as well, and not only its name.
            File::open(tmp).and_then(|file| file.sync_all()).map_err(|e| Error::io("sync", tmp, e))?;
            fs::rename(tmp, to).map_err(|e| Error::io("rename into", to, e))?;
            atomic_file::sync_parent(to)?;
        }
        Ok(())
    }

    fn failed(&self, e: io::Error) -> Failure {
        match &self.file {
            Some((tmp, _)) => Failure::Error(Error::io("write", tmp, e)),
            None if e.kind() == ErrorKind::BrokenPipe => Failure::Closed,
            None => Failure::Error(Error::unavailable(format!("stdout: {e}"))),
        }
    }

    fn failed_by(&self, e: ParquetError) -> Failure {
        let file = self.file.as_ref().map_or(String::new(), |(tmp, _)| tmp.display().to_string());
        Failure::Error(Error::unavailable(format!("write {file}: {e}")))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // Once it has its name there is nothing left to remove.
        if let Some((tmp, _)) = &self.file {
            let _ = fs::remove_file(tmp);
        }
    }
}
