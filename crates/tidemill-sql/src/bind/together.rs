//! Training statements that read one stream: which of them are learned together, from one pipeline.
//!
//! In: statements one behind the other, each planned as if it were alone. Out: those that select the same rows share a
//! pipeline with the columns of all. A model learns from it what it learns alone, to the bit: what only some of them
//! carry are the impression's own columns, which cannot fail, and what decides when a sample leaves the join is equal.
//! Where that is not so they are learned apart, and it is known why.

use std::collections::BTreeSet;

use datafusion::{logical_expr::Expr, sql::sqlparser::tokenizer::Span};
use tidemill_base::hash64;

use super::{
    Catalog,
    fingerprint::stream_text,
    pipeline,
    relation::{LEFT, Relation},
};
use crate::{
    diagnostic::Checked,
    parse::value::type_name,
    program::{Statement, TrainJob},
};

/// What a training statement was planned from.
pub(super) struct Planned {
    pub relation: Relation,
    /// Columns of the relation that it needs, ascending.
    pub needed: Vec<usize>,
    pub features: BTreeSet<usize>,
    pub label: usize,
    /// Impressions that may wait, and whether the label is that feedback matched.
    pub bounds: (usize, bool),
    /// The types of feedback it waits for.
    pub feedback: Vec<usize>,
    pub span: Span,
    /// Statements of its text.
    pub statements: BTreeSet<usize>,
    /// Its place among those that run.
    pub at: usize,
}

/// Joins neighbours that can be learned together. `text_of`: of some statements.
pub(super) fn join(
    statements: &mut [Statement],
    planned: &[Planned],
    catalog: &Catalog,
    text_of: impl Fn(&BTreeSet<usize>) -> String,
) -> Checked<()> {
    let mut first = 0;
    while first < planned.len() {
        let mut end = first + 1;
        while end < planned.len() && planned[end].at == planned[end - 1].at + 1 {
            let candidates: Vec<&TrainJob> = (first..=end).filter_map(|i| job(statements, &planned[i])).collect();
            if let Err(why) = can_share(&candidates, &planned[first..=end]) {
                if let Some(Statement::Train(job)) = statements.get_mut(planned[end].at) {
                    job.apart = Some(why);
                }
                break;
            }
            end += 1;
        }
        if end - first > 1 {
            share(statements, &planned[first..end], catalog, &text_of)?;
        }
        first = end;
    }
    Ok(())
}

fn job<'a>(statements: &'a [Statement], planned: &Planned) -> Option<&'a TrainJob> {
    match &statements[planned.at] {
        Statement::Train(job) => Some(job),
        _ => None,
    }
}

/// Whether the last of these can learn beside the others; why not.
fn can_share(jobs: &[&TrainJob], planned: &[Planned]) -> Result<(), String> {
    let (Some((last, others)), Some((plan, before))) = (jobs.split_last(), planned.split_last()) else { return Ok(()) };
    let name = &last.model;
    for (other, beside) in others.iter().zip(before) {
        let with = format!("'{name}' and '{}'", other.model);
        if stream_text(&plan.relation) != stream_text(&beside.relation) || plan.relation.used != beside.relation.used {
            return Err(format!("{with} do not select the same rows: write the same SELECT, or select * of one view"));
        }
        if let Some(sink) = [last, other].iter().find(|job| !job.sinks.is_empty()) {
            return Err(format!("'{}' has a sink, and models with sinks are learned alone", sink.model));
        }
        let is_known = |name: &str| last.settings.names().any(|known| known == name);
        let passes = |job: &&TrainJob| is_known("train.passes") && job.settings.integer("train.passes") > 1;
        if let Some(job) = [last, other].into_iter().find(|job| passes(job)) {
            return Err(format!("'{}' learns in several passes (train.passes), which is done alone", job.model));
        }
        let differ = |setting: &&&str| is_known(setting) && last.settings.get(setting) != other.settings.get(setting);
        let sampled =
            plan.relation.join.as_ref().is_some_and(|join| join.emit.is_some_and(|emit| emit.sample.is_some()));
        let of_join = [
            "join.pending_max",
            "join.bytes_max",
            "join.when_full",
            "join.correction_ttl",
            "join.allowed_lateness",
            "model.seed",
        ];
        let of_join = &of_join[..if sampled { 6 } else { 5 }];
        if plan.relation.join.is_some() {
            if let Some(setting) = of_join.iter().find(differ) {
                return Err(format!("{with} differ in {setting}, which is about the join that they would share"));
            }
            if is_known("join.bytes_max") && last.settings.is_written("join.bytes_max") {
                return Err("with join.bytes_max, what one carries would let samples of the other leave earlier".into());
            }
            if plan.feedback != beside.feedback || plan.bounds != beside.bounds {
                return Err(format!("the labels of {with} wait for different feedback"));
            }
        }
        let (own, of_other): (BTreeSet<usize>, BTreeSet<usize>) =
            (plan.needed.iter().copied().collect(), beside.needed.iter().copied().collect());
        if let Some(i) = own.symmetric_difference(&of_other).find(|i| !cannot_fail(&plan.relation, **i)) {
            let column = &plan.relation.columns[*i].name;
            let needs = if own.contains(i) { name } else { &other.model };
            return Err(format!(
                "only '{needs}' needs column '{column}', which is computed: rows for which that fails would be missing in both"
            ));
        }
    }
    Ok(())
}

/// Whether a column is the impression's own, as it came.
fn cannot_fail(relation: &Relation, i: usize) -> bool {
    let Expr::Column(column) = &relation.columns[i].expr else { return false };
    let own = relation.left.source.spec.columns.fields();
    column.name.strip_prefix(LEFT).is_some_and(|name| own.iter().any(|field| field.name() == name))
}

/// Gives all of them one pipeline with the columns of all, and one text.
fn share(
    statements: &mut [Statement],
    planned: &[Planned],
    catalog: &Catalog,
    text_of: &impl Fn(&BTreeSet<usize>) -> String,
) -> Checked<()> {
    let leader = &planned[0];
    let needed: BTreeSet<usize> = planned.iter().flat_map(|p| p.needed.iter().copied()).collect();
    let features: BTreeSet<usize> = planned.iter().flat_map(|p| p.features.iter().copied()).collect();
    let of_text: BTreeSet<usize> = planned.iter().flat_map(|p| p.statements.iter().copied()).collect();
    let needed: Vec<usize> = needed.into_iter().collect();
    let wanted = pipeline::wanted(&leader.relation, &needed, &features);
    let pipeline = pipeline::build(&leader.relation, &wanted, leader.bounds, &catalog.planner, leader.span)?;
    let columns: Vec<String> = wanted.iter().map(|w| format!("{} {}", w.name, type_name(&w.ty))).collect();
    let text = text_of(&of_text);
    let models: Vec<String> = planned.iter().filter_map(|p| job(statements, p)).map(|job| job.model.clone()).collect();
    for plan in planned {
        let Some(Statement::Train(job)) = statements.get_mut(plan.at) else { continue };
        job.pipeline = pipeline.clone();
        job.label = needed.binary_search(&plan.label).expect("it was put among those that are needed");
        job.text.clone_from(&text);
        job.together.clone_from(&models);
        // What waits in the join has the columns of all.
        let layout = format!("{:016x} with '{}' carrying {}", job.fingerprint, models[0], columns.join(", "));
        job.state_fingerprint = hash64(layout.as_bytes(), 0);
    }
    Ok(())
}
