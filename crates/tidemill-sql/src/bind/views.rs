//! A pipeline with feature views: inputs carry what views need, and what used to be one projection becomes two around them.
//!
//! ```text
//! source columns -> carried columns -> [views add theirs] -> filters, and the columns that go on -> join
//! ```
//!
//! Filters come behind the views, because a view counts events whether or not the query keeps them; so what is computed
//! for the query is computed there as well, and never on an event that the query leaves out.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::DataType;
use datafusion::logical_expr::Expr;
use tidemill_stream::{
    Transform,
    aggregate::{AsOfRequest, Feed, RequestParts, Unfed, ViewSpec},
};

use super::{
    feature_view::{BoundView, feature},
    pipeline::{Build, Wanted, column_type, find_or_add, flat_columns, schema},
    relation::{LEFT, Relation, Side, base, reads, replace, right},
};
use crate::{
    diagnostic::{Checked, Fault},
    program::{Input, ViewsPart},
    transform::Item,
};

/// The inputs of a pipeline with views, and the views.
pub(super) struct Parts {
    pub left: Input,
    pub rights: Vec<Input>,
    pub views: ViewsPart,
    pub request: Arc<dyn Transform>,
}

/// One input on its way through the views.
struct Carried<'a> {
    side: &'a Side,
    prefix: String,
    columns: Vec<Wanted>,
}

impl<'a> Carried<'a> {
    /// What the query itself needs, and the event time.
    fn new(side: &'a Side, prefix: &str, items: &[Wanted]) -> Self {
        let mut carried = Self { side, prefix: prefix.to_string(), columns: Vec::new() };
        let names: BTreeSet<String> = items
            .iter()
            .flat_map(|w| reads(&w.expr))
            .chain(side.filters.iter().flat_map(|f| reads(&f.expr)))
            .chain(side.source.event_time.iter().map(|t| format!("{prefix}{t}")))
            .collect();
        for name in names {
            if let Some(column) = name.strip_prefix(prefix) {
                let ty = column_type(&side.source, column);
                find_or_add(&mut carried.columns, &base(prefix, column), column, &ty);
            }
        }
        carried
    }

    /// The place of an expression, which is carried from now on.
    fn add(&mut self, expr: &Expr, ty: &DataType) -> usize {
        let name = match expr {
            Expr::Column(c) => c.name.strip_prefix(&self.prefix).unwrap_or("view").to_string(),
            _ => format!("view {}", self.columns.len()),
        };
        find_or_add(&mut self.columns, expr, &name, ty)
    }

    /// The same expression, written over this input, of a view whose inputs are all called left.
    fn add_of_view(&mut self, expr: &Expr, ty: &DataType) -> usize {
        let here = |name: &str| name.strip_prefix(LEFT).map(|n| base(&self.prefix, n));
        let expr = replace(expr.clone(), &here);
        self.add(&expr, ty)
    }

    /// Flat names and types: of a column its own, of what is computed its place.
    fn flat(&self) -> Vec<(String, DataType)> {
        let name = |(i, w): (usize, &Wanted)| match &w.expr {
            Expr::Column(c) => (c.name.clone(), w.ty.clone()),
            _ => (format!("carried.{i}"), w.ty.clone()),
        };
        self.columns.iter().enumerate().map(name).collect()
    }
}

/// Inputs, views and what follows them. `left` and `rights` are the columns that go on, the latter by
/// type of feedback.
pub(super) fn build(
    build: &Build,
    relation: &Relation,
    left: &[Wanted],
    rights: &[(usize, Vec<Wanted>)],
    wanted: &[Wanted],
) -> Checked<Parts> {
    let mut carried_left = Carried::new(&relation.left, LEFT, left);
    let feedback = relation.join.as_ref().map_or(&[][..], |join| &join.feedback);
    let carry = |(f, items): &(usize, Vec<Wanted>)| Carried::new(&feedback[*f].right, &right(*f), items);
    let mut carried_rights: Vec<Carried> = rights.iter().map(carry).collect();
    let mut specs = Vec::new();
    for join in &relation.features {
        let read_key = carried_left.add(&join.read_key, &join.view.key_type);
        let fault = |name: &str| {
            let message =
                format!("feature view '{}' counts events of '{name}', which this query does not read", join.view.name);
            Fault::new(join.span, message).hint("take the impressions, or the feedback of the label join")
        };
        specs.push(spec(&join.view, read_key, &mut carried_left, &mut carried_rights, &fault)?);
    }
    let features: Vec<(String, DataType)> = relation
        .features
        .iter()
        .enumerate()
        .flat_map(|(i, j)| j.view.aggregates.iter().map(move |a| (feature(i, &a.spec.name), a.spec.output())))
        .collect();
    let mut columns = carried_left.flat();
    columns.extend(features);
    let after_left = after(build, &carried_left, &columns, left)?;
    let left_input = input(build, &carried_left)?;
    let right_inputs = carried_rights.iter().map(|carried| input(build, carried)).collect::<Checked<_>>()?;
    let mut afters = vec![Some(after_left)];
    for (carried, (_, items)) in carried_rights.iter().zip(rights) {
        afters.push(Some(after(build, carried, &carried.flat(), items)?));
    }
    let request = request(build, relation, &carried_left, &columns, wanted, &specs)?;
    let unfed = Unfed::new(&specs).map_err(|e| Fault::new(build.span, e.message().to_string()))?;
    Ok(Parts {
        left: left_input,
        rights: right_inputs,
        request: Arc::new(AsOfRequest::new(request.clone(), Arc::new(unfed))),
        views: ViewsPart { specs, after: afters, request },
    })
}

/// The view over these inputs' columns.
fn spec<'a>(
    view: &BoundView,
    read_key: usize,
    left: &mut Carried<'a>,
    rights: &mut [Carried<'a>],
    fault: &dyn Fn(&str) -> Fault,
) -> Checked<ViewSpec> {
    let mut feeds = Vec::new();
    let mut aggregates: Vec<_> = view.aggregates.iter().map(|a| a.spec.clone()).collect();
    for (f, fed) in view.inputs.iter().enumerate() {
        let source = &fed.relation.left.source;
        let is_of = |carried: &Carried| carried.side.source.statement == source.statement;
        let (number, carried) = match rights.iter().position(is_of) {
            _ if is_of(left) => (0, &mut *left),
            Some(i) => (i as u32 + 1, &mut rights[i]),
            None => return Err(fault(&source.spec.name)),
        };
        let key = carried.add_of_view(&fed.key, &view.key_type);
        let all = fed.relation.left.filters.iter().map(|f| f.expr.clone()).reduce(|a, b| a.and(b));
        let passes = all.map(|expr| carried.add_of_view(&expr, &DataType::Boolean));
        feeds.push(Feed { input: number, key, passes });
        for (spec, bound) in aggregates.iter_mut().zip(&view.aggregates).filter(|(s, _)| s.feed == f) {
            spec.column = bound.argument.as_ref().map(|expr| carried.add_of_view(expr, &spec.ty));
        }
    }
    let name = view.name.clone();
    Ok(ViewSpec { name, feeds, aggregates, read_key, ttl_ms: view.ttl_ms, keys_max: view.keys_max })
}

/// The source's rows with the carried columns, none left out.
fn input(build: &Build, carried: &Carried) -> Checked<Input> {
    let all = Side { source: carried.side.source.clone(), filters: Vec::new() };
    build.input(&all, &carried.prefix, &carried.columns)
}

/// Filters, and the columns that go on.
fn after(
    build: &Build,
    carried: &Carried,
    columns: &[(String, DataType)],
    items: &[Wanted],
) -> Checked<Arc<dyn Transform>> {
    let output = schema(items.iter().map(|w| (w.name.as_str(), &w.ty)));
    Ok(Arc::new(build.project(columns, &carried.side.filters, items, output)?))
}

/// Of the source's own columns those that a prediction needs, and what follows the look-ups. It has no filter.
fn request(
    build: &Build,
    relation: &Relation,
    carried: &Carried,
    columns: &[(String, DataType)],
    wanted: &[Wanted],
    specs: &[ViewSpec],
) -> Checked<RequestParts> {
    let source = &relation.left.source;
    let is_feature = |w: &&Wanted| w.feature && !w.is_feedback();
    let features: Vec<Wanted> = wanted.iter().filter(is_feature).cloned().collect();
    let time = source.event_time.as_ref().map(|t| base(LEFT, t));
    let event_time = carried.columns.iter().position(|w| Some(&w.expr) == time.as_ref());
    let event_time = event_time.ok_or_else(|| Fault::new(build.span, "a feature view needs event time"))?;
    let read_keys: Vec<usize> = specs.iter().map(|s| s.read_key).collect();
    let read: BTreeSet<String> = features.iter().flat_map(|w| reads(&w.expr)).collect();
    let is_needed = |i: usize| {
        i == event_time
            || read_keys.contains(&i)
            || matches!(&carried.columns[i].expr, Expr::Column(c) if read.contains(&c.name))
    };
    let meaning = |name: &str| {
        let name = name.strip_prefix(LEFT)?;
        source.computed.iter().find(|c| c.name == name).map(|c| c.expr.clone())
    };
    let items: Vec<Wanted> =
        carried.columns.iter().map(|w| Wanted { expr: replace(w.expr.clone(), &meaning), ..w.clone() }).collect();
    let needed: Vec<bool> = (0..items.len()).map(is_needed).collect();
    let own = flat_columns(source, LEFT);
    let output = schema(items.iter().map(|w| (w.name.as_str(), &w.ty)));
    let before = build.project_some(&own, &items, &needed, output)?;
    let before_needed = needed;
    let output = schema(wanted.iter().map(|w| (w.name.as_str(), &w.ty)));
    let needed: Vec<bool> = wanted.iter().map(|w| is_feature(&w)).collect();
    let after = build.project_some(columns, wanted, &needed, output)?;
    let time_is_read = read_keys.contains(&event_time)
        || matches!(&carried.columns[event_time].expr, Expr::Column(c) if read.contains(&c.name));
    let optional = if time_is_read { Vec::new() } else { optional(&own, &items, &before_needed, event_time) };
    let (before, after) = (Arc::new(before), Arc::new(after));
    Ok(RequestParts { before, after, read_keys, event_time, optional, specs: specs.to_vec() })
}

/// The source's own columns that a request reads for its event time alone: without them it is as of now.
fn optional(own: &[(String, DataType)], items: &[Wanted], needed: &[bool], event_time: usize) -> Vec<usize> {
    let of_others = items.iter().zip(needed).enumerate().filter(|(i, (_, needed))| **needed && *i != event_time);
    let others: BTreeSet<String> = of_others.flat_map(|(_, (w, _))| reads(&w.expr)).collect();
    let time = reads(&items[event_time].expr);
    (0..own.len()).filter(|&i| time.contains(&own[i].0) && !others.contains(&own[i].0)).collect()
}

impl Build<'_> {
    /// Plans the items that are needed; the others are NULL.
    fn project_some(
        &self,
        columns: &[(String, DataType)],
        items: &[Wanted],
        needed: &[bool],
        output: arrow::datatypes::SchemaRef,
    ) -> Checked<crate::transform::Projection> {
        let some: Vec<Wanted> = items.iter().zip(needed).filter(|(_, n)| **n).map(|(w, _)| w.clone()).collect();
        let mut projection = self.project(columns, &[], &some, output)?;
        let mut planned = projection.items.into_iter();
        let item = |(w, needed): (&Wanted, &bool)| match needed {
            true => planned.next().expect("one item was planned for each that is needed"),
            false => Item::Null(w.ty.clone()),
        };
        projection.items = items.iter().zip(needed).map(item).collect();
        Ok(projection)
    }
}
