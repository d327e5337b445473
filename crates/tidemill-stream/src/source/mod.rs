//! Step 1, sources: partitions of rows with replayable offsets.
//!
//! In: files, objects of a store, a seeded generator, events pushed over HTTP (kept in a durable log first), feeds of servers. Out: [`Chunk`]s. A partition
//! read again from a [`Position`] gives the same rows with the same offsets; that is the whole contract, and all of
//! recovery rests on it.

mod arrow_ipc;
mod columns;
mod compress;
mod delimited;
mod external;
pub mod feed;
mod file;
pub mod generator;
mod history;
pub mod json;
mod number;
pub mod object;
mod origin;
mod parquet;
mod print;
pub mod push;
mod sparse;
mod spec;
mod table;
mod text;
mod vw;
mod words;

use arrow::datatypes::SchemaRef;
use tidemill_base::Result;

use crate::{Chunk, Position};
pub(crate) use arrow_ipc::Within;
pub use external::{Begin, KafkaSettings, NatsSettings, ObjectSettings, OnGap, Reading, parse_properties};
pub(crate) use external::{PROPERTIES, PROPERTIES_FILE};
pub use generator::{Impression, World, generator_columns};
pub use history::open_history;
pub use print::Print;
pub use spec::{
    ATTRIBUTES, Connector, FileFormat, FileSettings, GeneratorSettings, GeneratorStream, HISTORY_NAME, History,
    SourceSpec, SwitchAt,
};

/// Rows in a chunk at most; a chunk is also cut near [`CHUNK_BYTES_MAX`].
pub const CHUNK_ROWS_MAX: usize = 8192;
/// Bytes of text in a chunk, about.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// A longer row is refused: it is a damaged file or an attack.
pub const ROW_BYTES_MAX: usize = 1 << 20;

/// One partition of a source: rows in a fixed order, from any place on.
pub trait Partition: Send {
    /// Its name within the source, the same in every run: a file's path, `generator`, `push`.
    fn name(&self) -> &str;

    /// The next rows. [`Read::Pending`]: nothing now, perhaps later. [`Read::End`]: never again.
    fn read(&mut self) -> Result<Read>;

    /// Goes to a place that an earlier chunk began or ended at. Fails with `Conflict` when the partition no longer
    /// reaches that far.
    fn seek(&mut self, to: Position) -> Result<()>;

    /// For files, which others may change: the print of the first `bytes` bytes as they are stored, or of all that are
    /// there. `None` for what is made or has checksums of its own.
    fn print(&self, _bytes: Option<u64>) -> Result<Option<Print>> {
        Ok(None)
    }

    /// Whether a place's bytes are those of the stored file, so that [`Partition::print`] can be taken up to a place.
    fn is_plain(&self) -> bool {
        false
    }

    /// Waits for rows in front of offset `until`, which an earlier run has read. `false`: what is not there now will not
    /// come.
    fn wait(&mut self, _until: u64) -> Result<bool> {
        Ok(false)
    }

    /// Whether rows are known to be there that were not handed out yet, so that the partition is not idle though it is
    /// silent.
    fn is_behind(&self) -> bool {
        false
    }

    /// Whether who brings rows tells the reader that there are some, so that it need not look again and again.
    fn is_announced(&self) -> bool {
        false
    }

    /// What keeps rows from coming, while it does: a server that is away.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Whether it is there in name only: it was read once, and what is left of it cannot be.
    fn is_gone(&self) -> bool {
        false
    }

    /// Whether rows may come behind its end.
    fn may_grow(&self) -> bool {
        true
    }

    /// Whether all its rows were there when it was opened and only [`Partition::read`], [`Partition::seek`] and
    /// [`Partition::print`] mean anything: it may be read ahead on another thread.
    fn is_all_there(&self) -> bool {
        false
    }

    /// Whether it is ordered and yet of a source that never ends: its times are bounded by the clock, and [`Read::Pending`]
    /// holds up the merge.
    fn comes_late(&self) -> bool {
        false
    }
}

/// What [`Partition::read`] found.
#[derive(Debug)]
pub enum Read<T = Chunk> {
    /// At least one row, or at least one refused row.
    Chunk(T),
    /// Nothing now; the partition may grow.
    Pending,
    /// The partition's last row was handed out.
    End,
}

/// A partition and how the sequencer may treat it.
pub struct Opened {
    /// The reader, at its beginning.
    pub partition: Box<dyn Partition>,
    /// Whether its rows are there from the start (a bounded file, the generator), so that the order in which partitions
    /// are merged follows from event time alone and two runs cut the same mini-batches.
    pub ordered: bool,
}

/// Opens the file and generator partitions of a source, sorted by name. (The push partition is opened by the engine, which
/// owns its log; those behind a server by who has the client.) `known` are the names of partitions opened in earlier runs: they must still be there.
pub fn open(spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
    match &spec.connector {
        Connector::File(files) => file::open(spec, files, known),
        Connector::Generator(settings) => generator::open(spec, settings),
        Connector::Http | Connector::Kafka(_) | Connector::Nats(_) | Connector::S3(_) => Ok(Vec::new()),
    }
}

/// Files that matched a followed source's pattern since it was opened; `known` are the names already open.
pub fn open_new(spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
    match &spec.connector {
        Connector::File(files) if files.follow => file::open_new(spec, files, known),
        _ => Ok(Vec::new()),
    }
}

/// The column type of sparse features: a list of (index, value). Formats `libsvm`, `libfm` and `vw` fill it.
pub fn sparse_type() -> arrow::datatypes::DataType {
    use arrow::datatypes::{DataType, Field, Fields};
    let entry =
        Fields::from(vec![Field::new("index", DataType::UInt64, false), Field::new("value", DataType::Float32, false)]);
    DataType::List(Field::new("item", DataType::Struct(entry), false).into())
}

/// Columns a source's rows have when they are read, computed ones not included.
pub fn schema(spec: &SourceSpec) -> SchemaRef {
    spec.columns.clone()
}

#[cfg(test)]
mod tests;
