//! Feature views on their way between step 2 and the label join.
//!
//! In: a mini-batch as it was cut, all events that the views count. Out: the rows that go into the join, impressions with
//! the columns of every view as they were before the impression; the query's filters come here, behind the views.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};
use tidemill_sql::Pipeline;
use tidemill_stream::{
    Transform,
    aggregate::{RestoringViews, SavedViews, Views, with_views},
    sequencer::{Cut, Take},
};

use super::Rejected;

/// The views of a pipeline and what follows them.
pub struct ViewStage {
    views: Views,
    after: Vec<Option<Arc<dyn Transform>>>,
    /// Columns of the impressions with those of the views.
    wide: SchemaRef,
}

impl ViewStage {
    /// Views that have seen nothing; `None` where the pipeline has none.
    pub fn new(pipeline: &Pipeline) -> Result<Option<Self>> {
        let Some(part) = &pipeline.views else { return Ok(None) };
        Ok(Some(Self {
            views: Views::new(&part.specs)?,
            after: part.after.clone(),
            wide: with_views(&pipeline.left.output(), &part.specs),
        }))
    }

    /// The views.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// The views, for what is published of them.
    pub fn views_mut(&mut self) -> &mut Views {
        &mut self.views
    }

    /// Takes a mini-batch through. Rows on which an expression fails are appended to `rejected`.
    pub fn step(&mut self, cut: &Cut, rejected: &mut Vec<Rejected>) -> Result<Vec<Take>> {
        let columns = self.views.step(&cut.takes, cut.watermark)?;
        let mut takes = Vec::with_capacity(cut.takes.len());
        for (take, added) in cut.takes.iter().zip(columns) {
            let mut rows = take.rows.clone();
            if take.id.input == 0 {
                let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
                let all = rows.columns().iter().cloned().chain(added).collect();
                rows = RecordBatch::try_new_with_options(self.wide.clone(), all, &options)
                    .map_err(|e| Error::internal(format!("feature views: {e}")))?;
            }
            let mut event_times = take.event_times.clone();
            if let Some(Some(after)) = self.after.get(take.id.input as usize) {
                let t = after.apply(&rows)?;
                if let Some(kept) = &t.kept {
                    event_times = kept.iter().map(|&i| event_times[i as usize]).collect();
                }
                let place = if take.id.input == 0 { "impressions" } else { "feedback" };
                rejected.extend(t.refused.into_iter().map(|(_, reason)| Rejected { place: place.into(), reason }));
                rows = t.rows;
            }
            if rows.num_rows() > 0 {
                takes.push(Take { id: take.id, rows, event_times });
            }
        }
        Ok(takes)
    }

    /// Appends the state of all views but their entries, and takes hold of those: of all, or of what has changed.
    pub fn encode(&mut self, whole: bool, out: &mut Encoder) -> SavedViews {
        self.views.encode(whole, out)
    }

    /// Takes back what [`ViewStage::encode`] wrote, and the entries.
    pub fn restore(&mut self, d: &mut Decoder, entries: RestoringViews) -> Result<()> {
        self.views.restore(d, entries)
    }
}
