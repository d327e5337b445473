//! Sinks: where rows leave to.
//!
//! In: rows by mini-batch, in their order, each mini-batch with the same rows however often it is derived. Out: files here;
//! servers' topics and subjects in a crate of their own. A sink keeps no queue on disk: what was not delivered when the
//! process ended is derived again from the journal. So an [`Outlet`] must only tell how far it has come, and pass over what
//! it has: then every row is there exactly once.

mod encode;
mod file;
mod spec;

use arrow::array::RecordBatch;
use tidemill_base::Result;

pub use encode::{csv_lines, csv_names, json_lines, lines};
pub use file::FileOutlet;
pub use spec::{
    ClientSettings, FileSinkSettings, KafkaSinkSettings, NatsSinkSettings, RowFormat, SINK_ATTRIBUTES, SinkConnector,
    SinkSpec,
};

/// The rows of one mini-batch.
#[derive(Clone, Debug)]
pub struct SinkRows {
    /// The mini-batch.
    pub mini_batch: u64,
    /// Its rows, in the sink's columns.
    pub rows: RecordBatch,
    /// For each row its number within the mini-batch, ascending; with the mini-batch's it names the row in every derivation.
    pub numbers: Vec<u32>,
}

/// Whose rows they are: what tells an outlet's own earlier rows from those of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The lineage that the job learns in: another one begins with `--from-scratch`, and its mini-batches are others.
    pub lineage: u64,
    /// The model.
    pub model: String,
    /// The sink.
    pub sink: String,
}

/// The place that rows leave to, which remembers how far they have come.
pub trait Outlet: Send {
    /// Whether rows behind mini-batch `from` are all that is missing. `state` is what [`Outlet::sync`] answered there, where a
    /// checkpoint of that mini-batch has it. With `from` 0, for all of them, it is not asked.
    fn can_resume(&self, from: u64, state: Option<&[u8]>) -> bool;

    /// Rows come from behind mini-batch `from` on, which [`Outlet::can_resume`].
    fn resume(&mut self, from: u64, state: Option<&[u8]>) -> Result<()>;

    /// Takes the rows of these mini-batches, each of which lies behind all before it; returns when they are delivered. Those
    /// that were delivered before an earlier process ended are passed over. An error leaves it as if nothing of the group had
    /// come, and the same group comes again.
    fn deliver(&mut self, group: &[SinkRows]) -> Result<Delivered>;

    /// Makes what was delivered durable, and answers what a checkpoint has to keep of it. `through` is the last mini-batch that
    /// came, which may have had no rows.
    fn sync(&mut self, through: u64) -> Result<Vec<u8>>;

    /// Lets what is kept back be seen, whether or not there is enough of it. `through` as in [`Outlet::sync`].
    fn show(&mut self, _through: u64) -> Result<()> {
        Ok(())
    }
}

/// What a group added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Rows, those that were there already left out.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}
