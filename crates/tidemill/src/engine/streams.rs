//! State of streams that stands in parts of a checkpoint: who waits in the label join and with which rows, and the entries of
//! feature views.
//!
//! In: one moment between two mini-batches. Out: what any thread may write while the line goes on; and back.

use tidemill_stream::{
    aggregate::{RestoringViews, SavedViews},
    join::{JoinRows, RestoringRows},
};

/// What a checkpoint takes along, as of its moment.
#[derive(Default)]
pub struct SavedStreams {
    /// Who waits in the label join, if there is one, with which rows.
    pub rows: Option<JoinRows>,
    /// Entries of feature views, if there are any.
    pub views: Option<SavedViews>,
}

/// What the parts of a checkpoint are given to; a model that learns beside another has neither.
#[derive(Default)]
pub struct RestoringStreams {
    /// Takes rows, where there is a label join.
    pub rows: Option<RestoringRows>,
    /// Takes entries, where there are feature views.
    pub views: Option<RestoringViews>,
}
