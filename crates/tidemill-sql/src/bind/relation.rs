//! What a name in FROM stands for: columns as expressions over the columns of one source, or of two that are joined.
//!
//! Views leave no trace: each of their columns is its expression with the columns below it written out, up to the columns
//! of the source, which are called `left.NAME` and `right.NAME`. So any chain of views becomes one projection.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        Column,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::Expr,
    sql::sqlparser::tokenizer::Span,
};
use tidemill_base::attribute::Settings;
use tidemill_stream::{join::Take, source::SourceSpec};

use super::feature_view::{FeatureJoin, feature};
use crate::{
    diagnostic::{Checked, Fault},
    parse::tail::EmitClause,
};

pub(crate) const LEFT: &str = "left.";

/// Parts of an expression once all views are expanded; more is a program made to exhaust memory.
const EXPANDED_PARTS_MAX: usize = 10_000;
/// Height of the same: evaluation recurses on ordinary threads.
const EXPANDED_HEIGHT_MAX: usize = 400;

/// A source, bound.
#[derive(Debug)]
pub(crate) struct BoundSource {
    pub spec: SourceSpec,
    pub settings: Settings,
    pub computed: Vec<Computed>,
    /// Name of the event time column, own or computed.
    pub event_time: Option<String>,
    /// Its place among the statements.
    pub statement: usize,
    /// Where something comes before it: what that was declared with, and the place of the stream's statement.
    pub history: Option<(Settings, usize)>,
}

/// A computed column of a source.
#[derive(Clone, Debug)]
pub(crate) struct Computed {
    pub name: String,
    pub ty: DataType,
    /// Over the source's own columns.
    pub expr: Expr,
    pub text: String,
}

impl BoundSource {
    /// Own columns, then computed ones.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &DataType)> {
        let own = self.spec.columns.fields().iter().map(|f| (f.name().as_str(), f.data_type()));
        own.chain(self.computed.iter().map(|c| (c.name.as_str(), &c.ty)))
    }
}

/// One side of a relation: a source and the filters of the views over it.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub source: Arc<BoundSource>,
    pub filters: Vec<Filter>,
}

#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub expr: Expr,
    pub text: String,
}

/// What a name in FROM stands for.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub columns: Vec<RelationColumn>,
    pub left: Side,
    pub join: Option<JoinRelation>,
    /// Feature views that the left side reads, by number.
    pub features: Vec<FeatureJoin>,
    /// Statements it depends on.
    pub used: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct RelationColumn {
    pub name: String,
    pub ty: DataType,
    pub expr: Expr,
    /// As it was written.
    pub text: String,
}

/// The join of impressions with one type of feedback after another.
#[derive(Clone, Debug)]
pub(crate) struct JoinRelation {
    pub feedback: Vec<Feedback>,
    pub emit: Option<EmitClause>,
}

#[derive(Clone, Debug)]
pub(crate) struct Feedback {
    pub right: Side,
    pub left_key: Expr,
    pub right_key: Expr,
    /// The right key before it was cast to the left one's type.
    pub right_key_bare: Expr,
    /// How the right key was written.
    pub right_key_text: String,
    pub key_type: DataType,
    pub window_ms: i64,
    /// What is taken from all that matches; column `right.#0` and so on.
    pub aggregates: Vec<Aggregate>,
}

/// `SUM(c.price)`: one number, or one value, of all feedback that matches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aggregate {
    pub take: Take,
    /// Over the columns of the feedback.
    pub expr: Expr,
    /// Of the values that are taken.
    pub ty: DataType,
    pub text: String,
}

impl Aggregate {
    /// Of what comes out.
    pub fn result(&self) -> DataType {
        if self.take == Take::Count { DataType::Int64 } else { self.ty.clone() }
    }
}

impl Relation {
    /// The relation that a source is.
    pub fn of_source(source: Arc<BoundSource>) -> Self {
        let columns = source.columns().map(|(name, ty)| RelationColumn {
            name: name.to_string(),
            ty: ty.clone(),
            expr: base(LEFT, name),
            text: name.to_string(),
        });
        Self {
            columns: columns.collect(),
            used: source.history.iter().map(|(_, stream)| *stream).chain([source.statement]).collect(),
            left: Side { source, filters: Vec::new() },
            join: None,
            features: Vec::new(),
        }
    }

    /// The type of a feature view's column by its flat name.
    pub fn feature_type(&self, flat: &str) -> DataType {
        let columns = self.features.iter().enumerate().flat_map(|(i, j)| j.view.aggregates.iter().map(move |a| (i, a)));
        let mut same = columns.filter(|(i, a)| feature(*i, &a.spec.name) == flat);
        same.next().map_or(DataType::Null, |(_, a)| a.spec.output())
    }

    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|c| c.name.as_str()).collect()
    }

    /// Whether column `i` holds the event time of the left side as it is.
    pub fn is_event_time(&self, i: usize) -> bool {
        self.left.source.event_time.as_ref().is_some_and(|name| self.columns[i].expr == base(LEFT, name))
    }
}

impl RelationColumn {
    /// Whether it depends on feedback.
    pub fn is_feedback(&self) -> bool {
        reads(&self.expr).iter().any(|name| feedback_of(name).is_some())
    }
}

/// What columns of a type of feedback are called.
pub(crate) fn right(feedback: usize) -> String {
    // The first has no number: programs of one are the most.
    if feedback == 0 { "right.".to_string() } else { format!("right{feedback}.") }
}

/// Which feedback's column this flat name is, and its name there.
pub(crate) fn feedback_of(name: &str) -> Option<(usize, &str)> {
    let (side, column) = name.strip_prefix("right")?.split_once('.')?;
    let feedback = if side.is_empty() { 0 } else { side.parse().ok()? };
    Some((feedback, column))
}

/// A source's column as an expression.
pub(crate) fn base(side: &str, name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(format!("{side}{name}")))
}

/// Flat names of the columns an expression reads.
pub(crate) fn reads(expr: &Expr) -> BTreeSet<String> {
    expr.column_refs().into_iter().map(|c| c.name.clone()).collect()
}

/// The expression with columns replaced by what they stand for.
pub(crate) fn expand(expr: Expr, meaning: &dyn Fn(&str) -> Option<Expr>, span: Span) -> Checked<Expr> {
    let too_large = || {
        let message = format!(
            "with all views written out this is more than {EXPANDED_PARTS_MAX} parts or {EXPANDED_HEIGHT_MAX} levels"
        );
        Fault::new(span, message).hint("compute less in one column")
    };
    let (mut parts, mut height) = (0, 0);
    let _ = expr.apply(|e| {
        parts += 1;
        if let Expr::Column(c) = e {
            let (p, h) = meaning(&c.name).map_or((0, 0), |m| size(&m));
            (parts, height) = (parts + p, height.max(h));
        }
        Ok(if parts > EXPANDED_PARTS_MAX { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    if parts > EXPANDED_PARTS_MAX || height + size(&expr).1 > EXPANDED_HEIGHT_MAX {
        return Err(too_large());
    }
    Ok(replace(expr, meaning))
}

/// As [`expand`], where what comes out is known to be no larger.
pub(crate) fn replace(expr: Expr, meaning: &dyn Fn(&str) -> Option<Expr>) -> Expr {
    expr.transform_up(|e| match &e {
        Expr::Column(c) => Ok(meaning(&c.name).map_or(Transformed::no(e.clone()), Transformed::yes)),
        _ => Ok(Transformed::no(e)),
    })
    .expect("replacing a column cannot fail")
    .data
}

/// Parts and height of an expression.
fn size(expr: &Expr) -> (usize, usize) {
    let (mut parts, mut below) = (1, 0);
    let _ = expr.apply_children(|child| {
        let (p, h) = size(child);
        (parts, below) = (parts + p, below.max(h));
        Ok(TreeNodeRecursion::Continue)
    });
    (parts, below + 1)
}
