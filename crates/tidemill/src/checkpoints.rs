//! Checkpoints looked at from outside: which there are, whether every byte of them is right, what they hold.
//!
//! In: a data directory, whoever owns it. Out: what each checkpoint says of itself, the state hash derived from its bytes
//! alone (no source and no journal is opened), and its entries as a table. Nothing is written but what is exported.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt64Array},
    csv,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use tidemill_base::{Error, Result, StateHash, codec::Decoder};
use tidemill_train::TrainSpec;

use crate::{
    engine::Engine,
    job::{Checkpoint, Checkpoints},
    program,
};

/// What a checkpoint says of itself.
pub struct Listed {
    /// The last mini-batch it covers.
    pub mini_batch: u64,
    /// Its own file.
    pub bytes: u64,
    /// Its parts and their bytes, the first with all entries; or why it cannot be read.
    pub parts: Result<(usize, u64)>,
    /// Whether the parts before the last are those of the checkpoint before it too.
    pub shares: bool,
}

/// A checkpoint of which every byte was read and fits.
pub struct Verified {
    /// The last mini-batch it covers.
    pub mini_batch: u64,
    /// Identity of what was learned by then.
    pub state_hash: StateHash,
    /// Keys with an entry.
    pub entries: u64,
    /// Samples learned from.
    pub samples: u64,
}

/// What an export wrote.
pub struct Exported {
    /// The checkpoint it is of.
    pub mini_batch: u64,
    /// Rows, an entry each.
    pub entries: u64,
}

/// Rows written at once.
const BATCH_ROWS: usize = 65_536;

/// The checkpoints of one model's job.
pub struct Inspect {
    checkpoints: Checkpoints,
    job: tidemill_sql::TrainJob,
    spec: TrainSpec,
    dir: PathBuf,
    model: String,
}

impl Inspect {
    /// Those of a model in a data directory.
    pub fn open(data_root: &Path, model: &str) -> Result<Self> {
        let job = program::stored_job(data_root, model)?;
        let spec = TrainSpec::from_settings(&job.learner, &job.settings)?;
        let dir = data_root.join("models").join(model).join("job");
        let checkpoints = Checkpoints::reading(&dir, job.state_fingerprint);
        Ok(Self { checkpoints, job, spec, dir: dir.join("checkpoints"), model: model.into() })
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Listed> {
        let mut before = Vec::new();
        let mut listed = Vec::new();
        for mini_batch in self.checkpoints.list() {
            let bytes = fs::metadata(self.dir.join(format!("{mini_batch:020}.ck"))).map_or(0, |file| file.len());
            let parts = self.checkpoints.parts_of(mini_batch);
            let shares = parts.as_ref().is_ok_and(|parts| parts.first().is_some_and(|first| before.contains(first)));
            let figures = match &parts {
                Ok(parts) => Ok((parts.len(), parts.iter().map(|part| part.bytes).sum())),
                Err(e) => Err(Error::new(e.kind(), e.message())),
            };
            before = parts.unwrap_or_default();
            listed.push(Listed { mini_batch, bytes, parts: figures, shares });
        }
        listed
    }

    /// Reads every byte of the checkpoint at this mini-batch, and derives the state's hash.
    pub fn verify(&self, mini_batch: u64) -> Result<Verified> {
        let (engine, checkpoint) = self.restore(mini_batch)?;
        let stats = engine.line.learning.trainer().stats();
        Ok(Verified {
            mini_batch: checkpoint.mini_batch,
            state_hash: engine.state_hash()?,
            entries: stats.entries,
            samples: stats.samples,
        })
    }

    /// Writes the entries of a checkpoint (of the newest without a mini-batch) into a file, as CSV or as Parquet by its name.
    /// Replaces what is there only once all is written.
    pub fn export(&self, mini_batch: Option<u64>, to: &Path) -> Result<Exported> {
        let mut writer = Writer::of(to)?;
        let newest = self.checkpoints.list().last().copied();
        let mini_batch = mini_batch.or(newest).ok_or_else(|| {
            Error::not_found(format!("model '{}' has no checkpoint in {}", self.model, self.dir.display()))
        })?;
        let (engine, _) = self.restore(mini_batch)?;
        let trainer = engine.line.learning.trainer();
        let (width, words) = trainer.entry_widths();
        let fields = [Field::new("key", DataType::UInt64, false), Field::new("slot", DataType::Utf8, true)].into_iter();
        let parameter = (0..width).map(|i| if width == 1 { "weight".into() } else { format!("parameter_{i}") });
        let numbers = parameter.chain((0..words).map(|i| format!("state_{i}")));
        let fields = fields.chain(numbers.map(|name| Field::new(name, DataType::Float32, false)));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let slots = trainer.spec().slots.clone();
        let tmp = to.with_extension("tmp");
        let file = File::create(&tmp).map_err(|e| Error::io("create", &tmp, e))?;
        let written = writer.begin(file, &schema).and_then(|()| {
            let mut rows = Rows::new(schema, width, words);
            let (mut entries, mut failed) = (0, None);
            trainer.entries(|entry, params| {
                entries += 1;
                // A model of pairs keeps no slots: a name would be a guess.
                let slot = (words > 2).then(|| slots.get(usize::from(entry.slot)).cloned()).flatten();
                rows.add(entry.key, slot, params, entry.state);
                if rows.len() == BATCH_ROWS && failed.is_none() {
                    failed = rows.take().and_then(|batch| writer.write(&batch)).err();
                }
            });
            failed.map_or(Ok(()), Err)?;
            writer.write(&rows.take()?)?;
            writer.end()?;
            Ok(entries)
        });
        let entries = written.inspect_err(|_| _ = fs::remove_file(&tmp))?;
        fs::rename(&tmp, to).map_err(|e| Error::io("rename into", to, e))?;
        Ok(Exported { mini_batch, entries })
    }

    /// What was learned by a checkpoint, of its bytes alone.
    fn restore(&self, mini_batch: u64) -> Result<(Engine, Checkpoint)> {
        if !self.checkpoints.list().contains(&mini_batch) {
            let all: Vec<String> = self.checkpoints.list().iter().map(u64::to_string).collect();
            return Err(Error::not_found(format!(
                "model '{}' has no checkpoint at mini-batch {mini_batch}; there are {}",
                self.model,
                if all.is_empty() { "none".into() } else { all.join(", ") }
            )));
        }
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut engine = Engine::new(&self.job, &self.spec, threads)?;
        let checkpoint = self.checkpoints.read(mini_batch)?;
        let at = |e: Error| e.at(format!("checkpoint {mini_batch}"));
        let begin = || engine.line.restoring(&self.spec, threads);
        let entries = self.checkpoints.entries(&checkpoint, begin).map_err(at)?;
        self.checkpoints.streams(&checkpoint, engine.line.restoring_streams()).map_err(at)?;
        let mut body = Decoder::new(checkpoint.body(), "its body");
        let _ = (body.u64()?, body.u64()?, body.u64()?);
        engine.line.restore_learned(&self.spec, threads, &mut body, entries).map_err(at)?;
        Ok((engine, checkpoint))
    }
}

/// A file that is being written.
enum Writer {
    Csv(Option<csv::Writer<File>>),
    Parquet(Option<ArrowWriter<File>>),
}

impl Writer {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => Ok(Self::Csv(None)),
            Some("parquet") => Ok(Self::Parquet(None)),
            _ => Err(Error::invalid(format!("{}: give a name that ends in .csv or .parquet", path.display()))),
        }
    }

    fn begin(&mut self, file: File, schema: &SchemaRef) -> Result<()> {
        match self {
            Self::Csv(writer) => *writer = Some(csv::WriterBuilder::new().with_header(true).build(file)),
            Self::Parquet(writer) => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                *writer = Some(ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(failed)?);
            }
        }
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match self {
            Self::Csv(writer) => writer.as_mut().map_or(Ok(()), |writer| writer.write(rows)).map_err(failed),
            Self::Parquet(writer) => writer.as_mut().map_or(Ok(()), |writer| writer.write(rows)).map_err(failed),
        }
    }

    fn end(&mut self) -> Result<()> {
        match self {
            Self::Csv(writer) => drop(writer.take()),
            Self::Parquet(writer) => _ = writer.take().map(ArrowWriter::close).transpose().map_err(failed)?,
        }
        Ok(())
    }
}

/// Entries that are to be written.
struct Rows {
    schema: SchemaRef,
    keys: Vec<u64>,
    slots: Vec<Option<String>>,
    /// A column for each parameter, then for each word.
    numbers: Vec<Vec<f32>>,
}

impl Rows {
    fn new(schema: SchemaRef, width: usize, words: usize) -> Self {
        Self { schema, keys: Vec::new(), slots: Vec::new(), numbers: vec![Vec::new(); width + words] }
    }

    fn len(&self) -> usize {
        self.keys.len()
    }

    fn add(&mut self, key: u64, slot: Option<String>, params: &[f32], state: &[f32]) {
        self.keys.push(key);
        self.slots.push(slot);
        self.numbers.iter_mut().zip(params.iter().chain(state)).for_each(|(column, x)| column.push(*x));
    }

    fn take(&mut self) -> Result<RecordBatch> {
        let keys: ArrayRef = Arc::new(UInt64Array::from(std::mem::take(&mut self.keys)));
        let slots: ArrayRef = Arc::new(StringArray::from(std::mem::take(&mut self.slots)));
        let numbers =
            self.numbers.iter_mut().map(|column| Arc::new(Float32Array::from(std::mem::take(column))) as ArrayRef);
        let columns = [keys, slots].into_iter().chain(numbers).collect();
        RecordBatch::try_new(self.schema.clone(), columns).map_err(failed)
    }
}

fn failed(e: impl std::error::Error) -> Error {
    Error::unavailable(format!("export: {e}"))
}
