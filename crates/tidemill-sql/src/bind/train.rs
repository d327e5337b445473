//! `TO TRAIN` and `TO EVALUATE`, bound.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion::{common::ScalarValue, logical_expr::Expr, sql::sqlparser::tokenizer::Span};
use tidemill_base::attribute::Settings;
use tidemill_model::{ColumnSpec, feature::BIAS_SLOT};
use tidemill_stream::join::Take;

use super::{
    Catalog, features,
    fingerprint::{self, fingerprint},
    pipeline::{self, is_primary_key},
    relation::{JoinRelation, Relation, base, feedback_of, reads, right},
    sink::{self, BoundSink, Leaving},
    source,
    together::Planned,
};
use crate::{
    diagnostic::{Checked, Fault, list},
    parse::{
        cursor::Name,
        sink::SinkDef,
        tail::{EvaluateTail, TrainTail},
        value::{Written, type_name},
    },
    planner::plain_type,
    program::{EvaluateJob, Known, SinkJob, TrainJob},
    suggest::nearest,
};

/// What the join holds when nobody says.
const PENDING_COUNT_MAX: usize = 1_000_000;

/// Binds a training job; its text is the caller's to add.
pub(crate) fn train(
    tail: &TrainTail,
    relation: &Relation,
    sinks: &[&SinkDef],
    catalog: &Catalog,
    known: &Known,
) -> Checked<(TrainJob, Planned)> {
    let learner = learner(&tail.learner, known)?;
    let settings = source::settings(known.train_attributes.iter().copied(), &tail.settings, learner)?;
    let names = relation.names();
    let label = label(&tail.label, relation)?;
    let roles = features::Roles {
        label,
        oracle: oracle(&settings, &tail.settings, relation)?,
        weight: weight(&settings, &tail.settings, relation)?,
    };
    let group = named(&settings, &tail.settings, relation, "validate.by")?.map(|(i, _)| i);
    let columns = features::bind(&tail.columns, relation, &roles, tail.label.span)?;
    check_slots(&settings, &tail.settings, &columns)?;
    let is_read = |name: &str| columns.iter().any(|spec| spec.columns().contains(&name));
    let features: BTreeSet<usize> = (0..names.len()).filter(|&i| is_read(names[i])).collect();
    let needed: BTreeSet<usize> =
        features.iter().copied().chain([label]).chain(roles.oracle).chain(roles.weight).chain(group).collect();
    let needed: Vec<usize> = needed.into_iter().collect();
    let wanted = pipeline::wanted(relation, &needed, &features);
    let bounds = (pending_max(&settings), label_is_match(relation, label));
    let leaving = Leaving::new(relation, &needed, &wanted);
    let sinks: Vec<BoundSink> = sinks.iter().map(|def| leaving.bind(def, catalog)).collect::<Checked<_>>()?;
    let carried = leaving.carried(&sinks)?;
    let all = [wanted.clone(), carried.clone()].concat();
    let pipeline = pipeline::build(relation, &all, bounds, &catalog.planner, tail.label.span)?;
    let plan = |sink| leaving.plan(sink, &pipeline.output, catalog);
    let sinks: Vec<SinkJob> = sinks.iter().map(plan).collect::<Checked<_>>()?;
    let label_name = names[label].to_string();
    // Where the bytes that wait are bounded, what is carried along lets others leave earlier.
    let counted = if fingerprint::counts_bytes(&settings) { &all } else { &wanted };
    let fingerprint = fingerprint(learner, &settings, known, relation, counted, &columns, &label_name);
    let planned = Planned {
        relation: relation.clone(),
        needed: needed.clone(),
        features,
        label,
        bounds,
        feedback: pipeline::feedback_needed(&wanted),
        span: tail.label.span,
        statements: BTreeSet::new(),
        at: 0,
    };
    let job = TrainJob {
        state_fingerprint: sink::state_fingerprint(fingerprint, &sinks, &carried),
        sinks,
        fingerprint,
        model: tail.model.text.clone(),
        learner: learner.to_string(),
        label: position(&needed, label),
        settings,
        pipeline,
        columns,
        label_name,
        label_counts: label_counts(relation, label),
        together: Vec::new(),
        apart: None,
        text: String::new(),
    };
    Ok((job, planned))
}

/// Binds an evaluation. `trained` are the models of earlier statements.
pub(crate) fn evaluate(
    tail: &EvaluateTail,
    relation: &Relation,
    catalog: &Catalog,
    known: &Known,
    trained: &[String],
) -> Checked<EvaluateJob> {
    let models: Vec<&str> = known.models.iter().chain(trained).map(String::as_str).collect();
    if !models.contains(&tail.model.text.as_str()) {
        let fault = Fault::new(tail.model.span, format!("no model '{}'", tail.model.text));
        return Err(fault.nearest(&tail.model.text, models, "models"));
    }
    let settings = source::settings(known.train_attributes.iter().copied(), &tail.settings, "TO EVALUATE")?;
    let label = label(&tail.label, relation)?;
    let oracle = oracle(&settings, &tail.settings, relation)?;
    let features: BTreeSet<usize> =
        (0..relation.columns.len()).filter(|&i| i != label && !relation.columns[i].is_feedback()).collect();
    let needed: BTreeSet<usize> = features.iter().copied().chain([label]).chain(oracle).collect();
    let needed: Vec<usize> = needed.into_iter().collect();
    let wanted = pipeline::wanted(relation, &needed, &features);
    let bounds = (pending_max(&settings), label_is_match(relation, label));
    let pipeline = pipeline::build(relation, &wanted, bounds, &catalog.planner, tail.label.span)?;
    Ok(EvaluateJob {
        model: tail.model.text.clone(),
        settings,
        pipeline,
        label: position(&needed, label),
        label_name: relation.columns[label].name.clone(),
    })
}

/// Refuses values for slots that are not there.
fn check_slots(settings: &Settings, written: &[Written], columns: &[ColumnSpec]) -> Checked<()> {
    let slots: Vec<String> = columns.iter().map(ColumnSpec::slot_name).chain([BIAS_SLOT.to_string()]).collect();
    for w in written {
        let Some(name) = settings.names().find(|name| name.eq_ignore_ascii_case(&w.name.text)) else { continue };
        if let Some((slot, _)) = settings.by_slot(name).iter().find(|(slot, _)| !slots.contains(slot)) {
            let fault = Fault::new(w.value_span, format!("{name}: no slot '{slot}' in COLUMN"));
            return Err(match nearest(slot, slots.iter().map(String::as_str)) {
                Some(near) => fault.hint(format!("did you mean '{near}'?")),
                None => fault.hint(format!("slots: {}", slots.join(", "))),
            });
        }
    }
    Ok(())
}

fn position(needed: &[usize], column: usize) -> usize {
    needed.binary_search(&column).expect("the column was put among those that are needed")
}

fn learner<'a>(name: &Name, known: &'a Known) -> Checked<&'a str> {
    let exact = known.learners.iter().find(|l| **l == name.text);
    exact.copied().ok_or_else(|| {
        let fault = Fault::new(name.span, format!("no learner '{}'", name.text));
        match nearest(&name.text, known.learners.iter().copied()) {
            Some(near) => fault.hint(format!("did you mean {near}?")),
            None => fault.hint(format!("learners: {}", list(&known.learners))),
        }
    })
}

fn pending_max(settings: &Settings) -> usize {
    match settings.names().any(|n| n == "join.pending_max") {
        true => settings.integer_opt("join.pending_max").map_or(PENDING_COUNT_MAX, |n| n.max(1) as usize),
        false => PENDING_COUNT_MAX,
    }
}

/// The column that an attribute names, if one is written, and where.
fn named(
    settings: &Settings,
    written: &[Written],
    relation: &Relation,
    attribute: &str,
) -> Checked<Option<(usize, Span)>> {
    if !settings.names().any(|n| n == attribute) {
        return Ok(None);
    }
    let Some(text) = settings.text(attribute).filter(|t| !t.is_empty()) else { return Ok(None) };
    let of_attribute = written.iter().find(|w| w.name.text.eq_ignore_ascii_case(attribute));
    let span = of_attribute.map_or(Span::empty(), |w| w.value_span);
    let i = features::place(&Name { text, span }, &relation.names())?;
    if relation.columns[i].is_feedback() {
        return Err(Fault::new(span, format!("{attribute} '{}' is a feedback column", relation.columns[i].name)));
    }
    Ok(Some((i, span)))
}

/// The column with the true probability.
fn oracle(settings: &Settings, written: &[Written], relation: &Relation) -> Checked<Option<usize>> {
    let Some((i, span)) = named(settings, written, relation, "validate.oracle")? else { return Ok(None) };
    let column = &relation.columns[i];
    match plain_type(&column.ty) {
        DataType::Float64 | DataType::Float32 => Ok(Some(i)),
        ty => {
            let message = format!("validate.oracle '{}' is {}; a probability is a DOUBLE", column.name, type_name(&ty));
            Err(Fault::new(span, message))
        }
    }
}

/// The column with sample weights.
fn weight(settings: &Settings, written: &[Written], relation: &Relation) -> Checked<Option<usize>> {
    let Some((i, span)) = named(settings, written, relation, "train.weight")? else { return Ok(None) };
    let column = &relation.columns[i];
    match plain_type(&column.ty) {
        ty if ty.is_numeric() => Ok(Some(i)),
        ty => {
            Err(Fault::new(span, format!("train.weight '{}' is {}; a weight is a number", column.name, type_name(&ty))))
        }
    }
}

fn label(name: &Name, relation: &Relation) -> Checked<usize> {
    let i = features::place(name, &relation.names())?;
    let column = &relation.columns[i];
    let ty = plain_type(&column.ty);
    if !matches!(ty, DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64) {
        let message = format!("label '{}' is {}; a label is BOOLEAN or a number", column.name, type_name(&ty));
        return Err(Fault::new(name.span, message).hint("compare in the SELECT: (x = 'yes') AS label"));
    }
    if let Some(join) = &relation.join
        && !column.is_feedback()
    {
        let message = format!("label '{}' does not depend on the joined feedback", column.name);
        let key = &join.feedback[0].right_key_text;
        return Err(Fault::new(name.span, message).hint(format!("select ({key} IS NOT NULL) AS label")));
    }
    if let Some(join) = &relation.join
        && is_null_unmatched(&column.expr, join)
    {
        let message =
            format!("label '{}' is NULL where no feedback came: no impression would be a negative", column.name);
        let nothing = if ty == DataType::Boolean { "false" } else { "0" };
        let hint = format!("select COALESCE({}, {nothing}) AS label", column.text);
        return Err(Fault::new(name.span, message).hint(hint));
    }
    Ok(i)
}

/// Whether the expression is surely NULL without feedback.
fn is_null_unmatched(expr: &Expr, join: &JoinRelation) -> bool {
    match expr {
        Expr::Column(column) => feedback_of(&column.name).is_some_and(|(feedback, column)| {
            let number = column.strip_prefix('#').and_then(|n| n.parse::<usize>().ok());
            let aggregate = number.and_then(|n| join.feedback[feedback].aggregates.get(n));
            aggregate.is_none_or(|a| a.take != Take::Count)
        }),
        Expr::Cast(cast) => is_null_unmatched(&cast.expr, join),
        Expr::Alias(alias) => is_null_unmatched(&alias.expr, join),
        Expr::Not(inner) | Expr::Negative(inner) => is_null_unmatched(inner, join),
        Expr::BinaryExpr(both) => {
            use datafusion::logical_expr::Operator::*;
            let is_strict =
                matches!(both.op, Eq | NotEq | Lt | LtEq | Gt | GtEq | Plus | Minus | Multiply | Divide | Modulo);
            is_strict && (is_null_unmatched(&both.left, join) || is_null_unmatched(&both.right, join))
        }
        _ => false,
    }
}

/// Whether the label is that feedback of one type matched.
fn label_is_match(relation: &Relation, label: usize) -> bool {
    let expr = &relation.columns[label].expr;
    relation.join.as_ref().is_some_and(|join| {
        let read: BTreeSet<usize> = reads(expr).iter().filter_map(|name| feedback_of(name).map(|(f, _)| f)).collect();
        read.len() == 1 && read.into_iter().all(|feedback| says_matched(expr, join, feedback))
    })
}

/// Whether the label is a bare COUNT.
fn label_counts(relation: &Relation, label: usize) -> bool {
    fn bare(expr: &Expr) -> &Expr {
        match expr {
            Expr::Cast(c) => bare(&c.expr),
            Expr::Alias(a) => bare(&a.expr),
            other => other,
        }
    }
    let (Some(join), Expr::Column(column)) = (&relation.join, bare(&relation.columns[label].expr)) else {
        return false;
    };
    let taken = feedback_of(&column.name).and_then(|(feedback, name)| {
        join.feedback[feedback].aggregates.get(name.strip_prefix('#')?.parse::<usize>().ok()?)
    });
    taken.is_some_and(|aggregate| aggregate.take == Take::Count)
}

/// Whether the expression is true, or 1, exactly when feedback matched: progressive validation scores an impression by
/// that.
fn says_matched(expr: &Expr, join: &JoinRelation, feedback: usize) -> bool {
    match expr {
        Expr::Cast(c) => says_matched(&c.expr, join, feedback),
        Expr::Alias(a) => says_matched(&a.expr, join, feedback),
        Expr::IsNotNull(inner) => never_null_when_matched(inner, join, feedback),
        Expr::Not(inner) => matches!(inner.as_ref(), Expr::IsNull(e) if never_null_when_matched(e, join, feedback)),
        Expr::Case(case) if case.expr.is_none() => match (case.when_then_expr.as_slice(), &case.else_expr) {
            ([(when, then)], Some(otherwise)) => {
                let matched_first =
                    says_matched(when, join, feedback) && is_literal(then, 1) && is_literal(otherwise, 0);
                let unmatched = matches!(when.as_ref(), Expr::IsNull(e) if never_null_when_matched(e, join, feedback));
                matched_first || (unmatched && is_literal(then, 0) && is_literal(otherwise, 1))
            }
            _ => false,
        },
        _ => false,
    }
}

/// The key that matched, the event time (an event without is not let in), and what the source declares so.
fn never_null_when_matched(expr: &Expr, join: &JoinRelation, feedback: usize) -> bool {
    let (join, prefix) = (&join.feedback[feedback], right(feedback));
    let source = &join.right.source;
    let declared = source.spec.columns.fields().iter().filter(|f| !f.is_nullable());
    *expr == join.right_key
        || *expr == join.right_key_bare
        || source.event_time.as_ref().is_some_and(|t| *expr == base(&prefix, t))
        || is_primary_key(source, &prefix, expr)
        || declared.into_iter().any(|f| *expr == base(&prefix, f.name()))
}

fn is_literal(expr: &Expr, number: i64) -> bool {
    let Expr::Literal(value, _) = expr else { return false };
    match value {
        ScalarValue::Boolean(Some(b)) => *b == (number == 1),
        ScalarValue::Int32(Some(x)) => i64::from(*x) == number,
        ScalarValue::Int64(Some(x)) => *x == number,
        ScalarValue::Float64(Some(x)) => *x == number as f64,
        _ => false,
    }
}
