//! A bound program: what is to run, with every name resolved and every expression planned.
//!
//! These are plain values for the engine. Nothing in them is opened, read or started.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use tidemill_base::{
    Result,
    attribute::{Attribute, Settings},
    hash64,
};
use tidemill_model::{ColumnSpec, feature::Extractor};
use tidemill_stream::{
    Transform,
    aggregate::{AsOfRequest, LookUp, RequestParts, ViewSpec},
    join::JoinSpec,
    sink::SinkSpec,
    source::SourceSpec,
};

/// The setting that keys of features are hashed under.
pub(crate) const HASH_SECRET: &str = "hash.secret";
/// So that a secret is no name of a slot.
const SECRET_SEED: u64 = 53;

/// What the binder has to know from outside.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Names of learners.
    pub learners: Vec<&'static str>,
    /// Attributes of `TO TRAIN ... WITH` and `TO EVALUATE ... WITH`.
    pub train_attributes: Vec<&'static Attribute>,
    /// Attributes of `ALTER MODEL ... ROLLOUT (...)`.
    pub rollout_attributes: Vec<&'static Attribute>,
    /// Models in the data directory.
    pub models: Vec<String>,
}

/// A bound program.
pub struct Program {
    /// What is to run, in the order in which it was written.
    pub statements: Vec<Statement>,
    /// The text it was bound from.
    pub text: String,
}

/// One thing to run.
pub enum Statement {
    /// `SELECT ... TO TRAIN`
    Train(Box<TrainJob>),
    /// `SELECT ... TO EVALUATE`
    Evaluate(Box<EvaluateJob>),
    /// `ALTER MODEL`
    AlterModel(AlterModel),
    /// `SHOW MODELS`
    ShowModels,
}

/// A change of which version of a model answers.
#[derive(Clone, Debug, PartialEq)]
pub struct AlterModel {
    /// The model's name.
    pub model: String,
    /// What is changed.
    pub change: ModelChange,
}

/// What is changed about the versions that answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelChange {
    /// A label points at a version; `None`: it goes.
    Label {
        /// Its name.
        label: String,
        /// The version.
        version: Option<u64>,
    },
    /// The traffic is split by these percentages, each by label.
    Split(Vec<(String, f64)>),
    /// A version is rolled out.
    Rollout {
        /// `None`: the newest.
        version: Option<u64>,
        /// Attributes as they were written, each checked.
        settings: Vec<(String, String)>,
    },
    /// The rollout that is going on ends.
    Abort,
    /// A ranking is kept under a name.
    Ranking {
        /// Its name, with the version behind `@` where it is of one.
        name: String,
        /// JSON; `None`: it goes.
        config: Option<String>,
        /// Whether one of that name may be there.
        replace: bool,
    },
}

/// A model to train.
pub struct TrainJob {
    /// Its name.
    pub model: String,
    /// What learns.
    pub learner: String,
    /// `WITH name = value`, defaults included.
    pub settings: Settings,
    /// How rows come to be.
    pub pipeline: Pipeline,
    /// The features, by names of `pipeline.output`.
    pub columns: Vec<ColumnSpec>,
    /// The label's column in `pipeline.output`: BOOLEAN or a number.
    pub label: usize,
    /// The label's name.
    pub label_name: String,
    /// Whether the label is how many feedback events matched: a number that grows beyond 1.
    pub label_counts: bool,
    /// Identity of what is learned: two jobs with one fingerprint learn the same from the same events. Paths, paces and
    /// the model's name are left out.
    pub fingerprint: u64,
    /// Identity of the layout of its checkpoints: sinks change it, and not what is learned.
    pub state_fingerprint: u64,
    /// Where its samples leave to.
    pub sinks: Vec<SinkJob>,
    /// The models of this program that are learned together from one pipeline, this one among them, in their order; empty
    /// where it is learned alone.
    pub together: Vec<String>,
    /// Why it is not learned together with the training statement before it, where that stands directly before.
    pub apart: Option<String>,
    /// SQL of this job and of all it depends on, those that it is learned together with too; [`crate::bind`] takes it.
    pub text: String,
}

impl TrainJob {
    /// Its features, of the rows that its pipeline gives.
    pub fn extractor(&self) -> Result<Extractor> {
        self.extractor_of(&self.pipeline.output)
    }

    /// Its features, of rows of another pipeline.
    pub fn extractor_of(&self, rows: &Schema) -> Result<Extractor> {
        let written = self.settings.is_written(HASH_SECRET).then(|| self.settings.text(HASH_SECRET)).flatten();
        Extractor::bind_under(&self.columns, rows, written.map_or(0, |text| secret(&text)))
    }
}

/// What keys are hashed under; 0 of no text.
fn secret(text: &str) -> u64 {
    if text.is_empty() { 0 } else { hash64(text.as_bytes(), SECRET_SEED).max(1) }
}

/// Rows that leave.
#[derive(Clone)]
pub struct SinkJob {
    /// Where to, and how they are written.
    pub spec: SinkSpec,
    /// Columns of the pipeline's output, then [`sample_columns`], to the sink's. It may drop rows.
    pub rows: Arc<dyn Transform>,
    /// Of which rows go where: another one has taken none of them.
    pub identity: u64,
}

/// What the engine adds to the columns of a sample that leaves, in this order: the prediction before it was learned (a
/// probability, a number, or of several classes the likeliest), its label, its signed weight, what kind of sample it is, the
/// mini-batch and its row in that.
pub fn sample_columns() -> impl Iterator<Item = (&'static str, DataType)> {
    [
        ("prediction", DataType::Float32),
        ("label", DataType::Float32),
        ("sample_weight", DataType::Float32),
        ("sample_kind", DataType::Utf8),
        ("mini_batch", DataType::Int64),
        ("mini_batch_row", DataType::Int64),
    ]
    .into_iter()
}

/// A model to score.
pub struct EvaluateJob {
    /// Its name.
    pub model: String,
    /// `WITH name = value`, defaults included.
    pub settings: Settings,
    /// How rows come to be. Every column of the SELECT list is there that does not depend on feedback, and the label.
    pub pipeline: Pipeline,
    /// The label's column in `pipeline.output`: BOOLEAN or a number.
    pub label: usize,
    /// The label's name.
    pub label_name: String,
}

/// How rows come to be. Only what the job needs is carried.
#[derive(Clone)]
pub struct Pipeline {
    /// The impressions, or the only input.
    pub left: Input,
    /// The label join, if there is one.
    pub join: Option<JoinPart>,
    /// Joined row (or left row) to output row. It has no filter: a row goes in and the same row comes out.
    pub post: Arc<dyn Transform>,
    /// Columns of what comes out.
    pub output: SchemaRef,
    /// For prediction: rows with the left source's own columns, any of them NULL, to output rows. It has no filter;
    /// what is no feature (the label, feedback) is NULL. Feature views have seen nothing: see [`Pipeline::request_with`].
    pub request: Arc<dyn Transform>,
    /// Columns of `output` that depend on feedback: never features.
    pub feedback_columns: Vec<usize>,
    /// The feature views that impressions read, if any.
    pub views: Option<ViewsPart>,
}

/// The feature views of a pipeline. Inputs then carry what views need as well, and filters come behind the views: an
/// impression that a query leaves out counts all the same.
#[derive(Clone)]
pub struct ViewsPart {
    /// What they keep; columns are those of the inputs.
    pub specs: Vec<ViewSpec>,
    /// By input, what follows the views: filters, and the columns that go on. Of the impressions over their columns with
    /// those of all views behind them. `None`: rows go on as they are.
    pub after: Vec<Option<Arc<dyn Transform>>>,
    /// For prediction.
    pub request: RequestParts,
}

impl Pipeline {
    /// Columns of the impressions that go into the label join.
    pub fn left_output(&self) -> SchemaRef {
        let after = self.views.as_ref().and_then(|v| v.after.first()?.as_ref());
        after.map_or_else(|| self.left.output(), |t| t.output())
    }

    /// Columns of each type of feedback that go into the label join.
    pub fn right_outputs(&self) -> Vec<SchemaRef> {
        let after = |i: usize| self.views.as_ref().and_then(|v| v.after.get(i + 1)?.as_ref());
        let rights = self.join.iter().flat_map(|join| &join.right).enumerate();
        rights.map(|(i, right)| after(i).map_or_else(|| right.output(), |t| t.output())).collect()
    }

    /// What turns the rows of a request into output rows, where these feature views are asked.
    pub fn request_with(&self, views: Arc<dyn LookUp>) -> Arc<dyn Transform> {
        match &self.views {
            Some(part) => Arc::new(AsOfRequest::new(part.request.clone(), views)),
            None => self.request.clone(),
        }
    }
}

/// One source and what is done to its rows before anything else.
#[derive(Clone)]
pub struct Input {
    /// Where rows come from.
    pub source: SourceSpec,
    /// Source columns to source columns and the computed ones that are needed; `None`: there are none.
    pub computed: Option<Arc<dyn Transform>>,
    /// Column of what `computed` gives (of the source's own columns without it) that holds the event time.
    pub event_time: Option<usize>,
    /// Filters, and the columns that go on; `None`: all rows and columns as they are.
    pub view: Option<Arc<dyn Transform>>,
}

/// The label join of a pipeline.
#[derive(Clone)]
pub struct JoinPart {
    /// The types of feedback that the label depends on.
    pub right: Vec<Input>,
    /// Keys (columns of what the inputs' views give), window, emission.
    pub spec: JoinSpec,
}

impl Input {
    /// Columns of the rows that leave this input.
    pub fn output(&self) -> SchemaRef {
        let last = self.view.as_ref().or(self.computed.as_ref());
        last.map_or_else(|| self.source.columns.clone(), |t| t.output())
    }
}
