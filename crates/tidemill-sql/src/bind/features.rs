//! The COLUMN clause, bound: which output columns are features, and which must never be.

use std::collections::BTreeSet;

use arrow::datatypes::{Field, Schema};
use datafusion::{logical_expr::Expr, sql::sqlparser::tokenizer::Span};
use tidemill_model::{ColumnSpec, Extractor};

use super::{
    relation::{LEFT, Relation, reads},
    scope::find,
};
use crate::{
    diagnostic::{Checked, Fault, list},
    parse::{
        columns::{ColumnItem, FeatureDef, FeatureKind},
        cursor::Name,
    },
    planner::plain_type,
    suggest::nearest,
    transform::words,
};

/// Columns with a meaning of their own.
pub(crate) struct Roles {
    pub label: usize,
    pub oracle: Option<usize>,
    pub weight: Option<usize>,
}

/// The features of a job. `here` is where a COLUMN clause would stand.
pub(crate) fn bind(items: &[ColumnItem], relation: &Relation, roles: &Roles, here: Span) -> Checked<Vec<ColumnSpec>> {
    let star = [ColumnItem::Star { except: Vec::new(), span: here }];
    let items = if items.is_empty() { &star } else { items };
    let schema =
        Schema::new(relation.columns.iter().map(|c| Field::new(&c.name, plain_type(&c.ty), true)).collect::<Vec<_>>());
    let mut specs: Vec<ColumnSpec> = Vec::new();
    for item in items {
        let (added, span) = match item {
            ColumnItem::Star { except, span } => (all(except, relation, roles)?, *span),
            ColumnItem::Feature(def) => (vec![feature(def, relation, roles)?], def.span),
        };
        for spec in added {
            if specs.iter().any(|s| s.slot_name() == spec.slot_name()) {
                return Err(Fault::new(span, format!("'{}' is in COLUMN twice", spec.slot_name())));
            }
            Extractor::bind(std::slice::from_ref(&spec), &schema).map_err(|e| Fault::new(span, words(e.message())))?;
            specs.push(spec);
        }
    }
    if specs.is_empty() {
        let hint = "select columns of the impression besides key, event time and label";
        return Err(Fault::new(here, "no column is left to be a feature").hint(hint));
    }
    Ok(specs)
}

/// `*`: every column but those that are about the event and not about the world, or that give the answer away.
fn all(except: &[Name], relation: &Relation, roles: &Roles) -> Checked<Vec<ColumnSpec>> {
    let names = relation.names();
    let mut left_out: BTreeSet<usize> =
        (0..names.len()).filter(|&i| i == roles.label || is_made_into_label(relation, roles, i)).collect();
    left_out.extend(roles.oracle.into_iter().chain(roles.weight));
    for name in except {
        left_out.insert(place(name, &names)?);
    }
    let kept = (0..names.len()).filter(|i| !left_out.contains(i) && !is_about_the_event(relation, *i));
    Ok(kept.map(|i| ColumnSpec::Plain { column: names[i].to_string() }).collect())
}

/// Whether the label is this column or is computed from it.
fn is_made_into_label(relation: &Relation, roles: &Roles, i: usize) -> bool {
    let (column, label) = (&relation.columns[i], &relation.columns[roles.label]);
    let bare = matches!(column.expr, Expr::Column(_));
    column.expr == label.expr || (bare && reads(&column.expr).is_subset(&reads(&label.expr)))
}

/// Event time (and what it is computed from), primary key, feedback.
fn is_about_the_event(relation: &Relation, i: usize) -> bool {
    let source = &relation.left.source;
    let mut event: BTreeSet<String> = BTreeSet::new();
    if let Some(name) = &source.event_time {
        event.insert(format!("{LEFT}{name}"));
        let computed = source.computed.iter().find(|c| c.name == *name);
        event.extend(computed.into_iter().flat_map(|c| reads(&c.expr)));
    }
    event.extend(source.spec.primary_key.map(|k| format!("{LEFT}{}", source.spec.columns.field(k).name())));
    let column = &relation.columns[i];
    let bare = matches!(column.expr, Expr::Column(_));
    column.is_feedback() || (bare && reads(&column.expr).is_subset(&event))
}

fn feature(def: &FeatureDef, relation: &Relation, roles: &Roles) -> Checked<ColumnSpec> {
    let column = |name: &Name| feature_column(name, relation, roles);
    Ok(match &def.kind {
        FeatureKind::Plain(name) => ColumnSpec::Plain { column: column(name)? },
        FeatureKind::Numeric(name) => ColumnSpec::Numeric { column: column(name)? },
        FeatureKind::Category(name) => ColumnSpec::Category { column: column(name)? },
        FeatureKind::Hash(name, buckets) => ColumnSpec::Hash { column: column(name)?, buckets: *buckets },
        FeatureKind::Bucket(name, boundaries) => {
            ColumnSpec::Bucket { column: column(name)?, boundaries: boundaries.clone() }
        }
        FeatureKind::Sparse(name) => ColumnSpec::Sparse { column: column(name)? },
        FeatureKind::Cross(parts, buckets) => ColumnSpec::Cross {
            columns: parts.iter().map(|part| feature(part, relation, roles)).collect::<Checked<_>>()?,
            buckets: *buckets,
        },
    })
}

fn feature_column(name: &Name, relation: &Relation, roles: &Roles) -> Checked<String> {
    let i = place(name, &relation.names())?;
    let column = &relation.columns[i];
    let leak = |what: &str| {
        let fault = Fault::new(name.span, format!("{what} '{}' is also a feature: this leaks the answer", column.name));
        Err(fault.hint("remove it from COLUMN"))
    };
    if i == roles.label {
        return leak("label");
    }
    if column.expr == relation.columns[roles.label].expr {
        return leak("the label under another name,");
    }
    // A column that the label alone is made of gives the label away; one among several may be meant.
    let label = &relation.columns[roles.label].expr;
    if is_made_into_label(relation, roles, i) && reads(label).len() == 1 {
        return leak("what the label is computed from,");
    }
    if Some(i) == roles.oracle {
        return leak("validate.oracle");
    }
    if column.is_feedback() {
        return leak("feedback column");
    }
    Ok(column.name.clone())
}

/// The column of the SELECT list.
pub(crate) fn place(name: &Name, names: &[&str]) -> Checked<usize> {
    find(names, &name.text).ok_or_else(|| {
        let fault = Fault::new(name.span, format!("column '{}' not in SELECT list", name.text));
        match nearest(&name.text, names.iter().copied()) {
            Some(near) => fault.hint(format!("did you mean '{near}'?")),
            None => fault.hint(format!("have: {}", list(names))),
        }
    })
}
