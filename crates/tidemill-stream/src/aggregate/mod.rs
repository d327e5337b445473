//! Feature views: windowed and fading aggregates of a key's events, read as of the impression.
//!
//! In: the rows of each mini-batch, impressions and feedback, with their event times. Out: for each impression the columns
//! of every view, as they were before the impression itself was counted. Rows are taken in one order: partitions are merged
//! by event time as the sequencer merges them, and within a partition rows keep their order; so an event never sees one that
//! came after it, and for ordered partitions it does not matter how mini-batches are cut. A row that is older than the newest
//! of its key is late: `entry.rs` has the rule. Keys are forgotten when they have been silent for the view's time to live, and
//! the longest silent one when there are more than `keys_max`; both are counted. Entries go into parts of checkpoints, all or
//! those that changed (`parts.rs`).
//! [`ViewCopy`] answers look-ups for serving by the same code from a copy that [`ViewDelta`]s keep up to date.

mod columns;
mod entry;
mod expiry;
mod layout;
mod math;
mod order;
mod parts;
mod request;
mod sketch;
mod spec;
mod table;
mod view;

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    datatypes::{Field, Schema, SchemaRef},
};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use crate::sequencer::Take;

pub use parts::{RestoringViews, SavedViews};
pub use request::{AsOfRequest, LookUp, RequestParts, Unfed, with_views};
pub use sketch::REGISTERS;
pub use spec::{ATTRIBUTES, AggregateSpec, Feed, Function, LAST_MAX, OUTPUTS_MAX, PANES_MAX, ViewSpec, WindowSpec};
pub use view::{View, ViewCopy, ViewCounts, ViewDelta};

/// Columns of a view.
pub fn output(spec: &ViewSpec) -> SchemaRef {
    let field = |a: &AggregateSpec| Field::new(&a.name, a.output(), true);
    Arc::new(Schema::new(spec.aggregates.iter().map(field).collect::<Vec<_>>()))
}

/// All views of a job, with one order of rows.
pub struct Views {
    views: Vec<View>,
    /// The latest event time taken in.
    newest: i64,
}

impl Views {
    /// Views that have seen nothing.
    pub fn new(specs: &[ViewSpec]) -> Result<Self> {
        Ok(Self { views: specs.iter().map(View::new).collect::<Result<_>>()?, newest: i64::MIN })
    }

    /// The views, in the order of their specs.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// The latest event time taken in; `i64::MIN` before the first event.
    pub fn newest(&self) -> i64 {
        self.newest
    }

    /// Takes a mini-batch in. For each take of impressions the columns of all views, one after the other; for others none.
    pub fn step(&mut self, takes: &[Take], watermark: i64) -> Result<Vec<Vec<ArrayRef>>> {
        let order = order::order(takes);
        let mut out = vec![Vec::new(); takes.len()];
        for view in &mut self.views {
            for (columns, more) in out.iter_mut().zip(view.step(takes, &order)?) {
                columns.extend(more);
            }
            view.expire(watermark);
        }
        let latest = takes.iter().flat_map(|t| t.event_times.iter().copied()).max();
        self.newest = self.newest.max(latest.unwrap_or(i64::MIN));
        Ok(out)
    }

    /// Begins to collect what changes, and gives everything there is: the first delta of a copy.
    pub fn publish_all(&mut self) -> Vec<ViewDelta> {
        self.views.iter_mut().map(View::publish_all).collect()
    }

    /// What changed since the last call.
    pub fn take_deltas(&mut self) -> Vec<ViewDelta> {
        self.views.iter_mut().map(View::take_delta).collect()
    }

    /// Appends all but the entries, and takes hold of entries as they are now: of all, or of those that changed since the
    /// last call. They are for [`SavedViews::blocks`], on any thread.
    pub fn encode(&mut self, whole: bool, out: &mut Encoder) -> SavedViews {
        out.put_i64(self.newest).put_varint(self.views.len() as u64);
        SavedViews::new(whole, self.views.iter_mut().map(|view| view.encode(whole, out)).collect())
    }

    /// What takes the blocks of a checkpoint's parts, oldest part first, before [`Views::restore`].
    pub fn restoring(&self) -> RestoringViews {
        RestoringViews::new(self.views.iter().map(View::restoring))
    }

    /// Takes back what [`Views::encode`] wrote, with the entries of all parts; the views must be the same and have seen
    /// nothing.
    pub fn restore(&mut self, d: &mut Decoder, entries: RestoringViews) -> Result<()> {
        self.newest = d.i64()?;
        if d.count(1)? != self.views.len() {
            return Err(Error::conflict("the checkpoint was written by a program with other feature views"));
        }
        self.views.iter_mut().zip(entries.into_tables()).try_for_each(|(view, table)| view.restore(d, table))
    }
}
