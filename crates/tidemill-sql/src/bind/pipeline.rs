//! A relation, planned: the transforms that the engine runs, carrying no column that the job does not need.
//!
//! What depends on the impression alone is computed before the join, so a failing row is refused with its source's
//! offset and nothing is computed twice; behind the join only feedback is looked at.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{common::DFSchema, logical_expr::Expr, sql::sqlparser::tokenizer::Span};
use tidemill_stream::{
    Transform,
    join::{Correction, Emit, FeedbackSpec, JoinSpec, Take, WhenFull},
};

use super::{
    feature_view::FEATURE,
    relation::{
        BoundSource, Feedback, Filter, JoinRelation, LEFT, Relation, Side, base, feedback_of, reads, replace, right,
    },
    views,
};
use crate::{
    diagnostic::{Checked, Fault},
    parse::tail::EmitDef,
    planner::{Planner, plan_words, schema_of, to_plain_type},
    program::{Input, JoinPart, Pipeline},
    transform::{Item, Projection, Step},
};

/// An output column to compute.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub name: String,
    pub ty: DataType,
    pub expr: Expr,
    pub text: String,
    /// Whether a prediction needs it.
    pub feature: bool,
}

impl Wanted {
    pub fn is_feedback(&self) -> bool {
        reads(&self.expr).iter().any(|n| feedback_of(n).is_some())
    }
}

/// The columns of `relation` that a job needs, in their plain types.
pub(crate) fn wanted(relation: &Relation, columns: &[usize], features: &BTreeSet<usize>) -> Vec<Wanted> {
    let want = |&i: &usize| {
        let c = &relation.columns[i];
        let (expr, ty) = to_plain_type(c.expr.clone(), &c.ty);
        Wanted { name: c.name.clone(), ty, expr, text: c.text.clone(), feature: features.contains(&i) }
    };
    columns.iter().map(want).collect()
}

/// Plans all of it. `pending_count_max` bounds the join; `label_is_match` says whether its label is that feedback matched.
pub(crate) fn build(
    relation: &Relation,
    wanted: &[Wanted],
    (pending_count_max, label_is_match): (usize, bool),
    planner: &Planner,
    span: Span,
) -> Checked<Pipeline> {
    let build = Build { planner, span };
    let output = schema(wanted.iter().map(|w| (w.name.as_str(), &w.ty)));
    let feedback_columns = (0..wanted.len()).filter(|&i| wanted[i].is_feedback()).collect();
    let sides = build.sides(relation, wanted, &output, (pending_count_max, label_is_match))?;
    let Sides { left, rights, spec, post } = sides;
    if !relation.features.is_empty() {
        let parts = views::build(&build, relation, &left, &rights, wanted)?;
        let join = spec.map(|spec| JoinPart { right: parts.rights, spec });
        let (left, request, views) = (parts.left, parts.request, Some(parts.views));
        return Ok(Pipeline { left, join, post: Arc::new(post), output, request, feedback_columns, views });
    }
    let request = build.request(relation, wanted, &output)?;
    let join = match (&relation.join, spec) {
        (Some(join), Some(spec)) => {
            let inputs = rights.iter().map(|(f, items)| build.input(&join.feedback[*f].right, &right(*f), items));
            Some(JoinPart { right: inputs.collect::<Checked<_>>()?, spec })
        }
        _ => None,
    };
    let left = build.input(&relation.left, LEFT, &left)?;
    Ok(Pipeline { left, join, post: Arc::new(post), output, request, feedback_columns, views: None })
}

/// The types of feedback that the output depends on; others need not be waited for.
pub(crate) fn feedback_needed(wanted: &[Wanted]) -> Vec<usize> {
    let read = wanted.iter().flat_map(|w| reads(&w.expr)).filter_map(|name| feedback_of(&name).map(|(f, _)| f));
    read.collect::<BTreeSet<usize>>().into_iter().collect()
}

/// When the join emits: as written, or what is best for its sources.
pub(crate) fn emit_of(relation: &Relation, join: &JoinRelation, needed: &[usize]) -> Emit {
    let feedback = || needed.iter().map(|&f| &join.feedback[f]);
    let bounded = relation.left.source.spec.bounded() && feedback().all(|f| f.right.source.spec.bounded());
    match join.emit.and_then(|emit| emit.when) {
        Some(EmitDef::OnWindowClose) => Emit::OnWindowClose,
        Some(EmitDef::OnMatch) => Emit::OnMatch,
        Some(EmitDef::Early { delay_ms, .. }) => Emit::Early { delay_ms },
        None if bounded => Emit::OnWindowClose,
        None => Emit::Early { delay_ms: feedback().map(|f| f.window_ms).max().unwrap_or(0) / 12 },
    }
}

/// A column that feedback gives.
struct Given {
    /// How expressions over joined rows call it.
    name: Expr,
    /// Over the feedback's own columns.
    item: Wanted,
    take: Take,
    /// Of what comes out.
    ty: DataType,
}

pub(super) struct Build<'a> {
    pub planner: &'a Planner,
    pub span: Span,
}

/// What of each side goes into the join, or on without one, and what follows.
struct Sides {
    left: Vec<Wanted>,
    /// By type of feedback that is needed.
    rights: Vec<(usize, Vec<Wanted>)>,
    spec: Option<JoinSpec>,
    post: Projection,
}

impl Build<'_> {
    fn sides(
        &self,
        relation: &Relation,
        wanted: &[Wanted],
        output: &SchemaRef,
        (pending_count_max, label_is_match): (usize, bool),
    ) -> Checked<Sides> {
        let Some(join) = &relation.join else {
            let items = (0..wanted.len()).map(Item::Column).collect();
            let post = Projection { pick: None, filters: Vec::new(), items, output: output.clone() };
            return Ok(Sides { left: wanted.to_vec(), rights: Vec::new(), spec: None, post });
        };
        let mut left: Vec<Wanted> = wanted.iter().filter(|w| !w.is_feedback()).cloned().collect();
        let needed = feedback_needed(wanted);
        let mut keys = Vec::new();
        let mut given: Vec<Vec<Given>> = Vec::new();
        for &f in &needed {
            let feedback = &join.feedback[f];
            let left_key = find_or_add(&mut left, &feedback.left_key, key_name(&feedback.left_key), &feedback.key_type);
            let mut of_feedback = Vec::new();
            let right_key =
                give_first(&mut of_feedback, &feedback.right_key, key_name(&feedback.right_key), &feedback.key_type);
            keys.push((left_key, right_key));
            given.push(of_feedback);
        }
        for name in wanted.iter().filter(|w| w.is_feedback()).flat_map(|w| reads(&w.expr)) {
            match feedback_of(&name) {
                Some((f, column)) => {
                    let place = needed.iter().position(|n| *n == f).expect("it is read, so it is needed");
                    give(&mut given[place], &join.feedback[f], &name, column);
                }
                None if name.starts_with(FEATURE) => {
                    find_or_add(&mut left, &base("", &name), &name, &relation.feature_type(&name));
                }
                None => {
                    let column = &name[LEFT.len()..];
                    let ty = column_type(&relation.left.source, column);
                    find_or_add(&mut left, &base(LEFT, column), column, &ty);
                }
            }
        }
        let post = self.post(wanted, &left, given.iter().flatten(), output)?;
        let key_of = |f: usize| is_primary_key(&relation.left.source, LEFT, &join.feedback[f].left_key);
        let feedback = needed.iter().zip(&keys).zip(&given).map(|((&f, keys), given)| FeedbackSpec {
            left_key: keys.0,
            right_key: keys.1,
            window_ms: join.feedback[f].window_ms,
            takes: given.iter().map(|g| g.take).collect(),
        });
        let spec = JoinSpec {
            feedback: feedback.collect(),
            emit: emit_of(relation, join, &needed),
            correction: join.emit.map_or(Correction::Retract, |emit| emit.correction),
            sample: join.emit.and_then(|emit| emit.sample),
            label_is_match,
            correction_ttl_ms: 0,
            allowed_lateness_ms: 0,
            pending_count_max,
            pending_bytes_max: usize::MAX,
            when_full: WhenFull::Release,
            dedup: needed.iter().position(|&f| key_of(f)),
        };
        self.check_emission(join, &spec)?;
        let items = |given: Vec<Given>| given.into_iter().map(|g| g.item).collect();
        let rights = needed.into_iter().zip(given.into_iter().map(items)).collect();
        Ok(Sides { left, rights, spec: Some(spec), post })
    }

    /// What EMIT says, for the feedback that is needed and the label that is learned.
    fn check_emission(&self, join: &JoinRelation, spec: &JoinSpec) -> Checked<()> {
        if let Some(EmitDef::Early { delay_ms, span }) = join.emit.and_then(|emit| emit.when)
            && delay_ms >= spec.window_ms()
        {
            let fault = Fault::new(span, "EARLY must come before the end of the window of the label's feedback");
            return Err(fault.hint("write a shorter time, or EMIT ON WINDOW CLOSE"));
        }
        let weighs = matches!(spec.correction, Correction::Fnw | Correction::Elapsed);
        if weighs && !(spec.label_is_match && spec.is_fixed_at_match()) {
            let span = join.emit.and_then(|emit| emit.correction_span).unwrap_or(self.span);
            let fault = Fault::new(span, "this correction weighs a label that is whether feedback matched");
            return Err(fault.hint("write CORRECT RETRACT, which is right for every label"));
        }
        Ok(())
    }

    /// Joined rows to output rows. Their columns are called by number, as both sides may have equal names.
    fn post<'a>(
        &self,
        wanted: &[Wanted],
        left: &'a [Wanted],
        right: impl Iterator<Item = &'a Given>,
        output: &SchemaRef,
    ) -> Checked<Projection> {
        let of_left = left.iter().map(|w| (&w.expr, &w.ty));
        let joined: Vec<(&Expr, &DataType)> = of_left.chain(right.map(|g| (&g.name, &g.ty))).collect();
        let columns: Vec<(String, DataType)> =
            joined.iter().enumerate().map(|(i, (_, ty))| (format!("joined.{i}"), (*ty).clone())).collect();
        let column = |i: usize| base("joined.", &i.to_string());
        let place = |expr: &Expr| joined.iter().position(|(name, _)| *name == expr).map(column);
        let items: Vec<Wanted> = wanted
            .iter()
            .map(|w| {
                let expr = match place(&w.expr) {
                    Some(whole) => whole,
                    None => {
                        let meaning =
                            |name: &str| place(&Expr::Column(datafusion::common::Column::new_unqualified(name)));
                        replace(w.expr.clone(), &meaning)
                    }
                };
                Wanted { expr, ..w.clone() }
            })
            .collect();
        self.project(&columns, &[], &items, output.clone())
    }

    pub(super) fn input(&self, side: &Side, prefix: &str, items: &[Wanted]) -> Checked<Input> {
        let source = &side.source;
        let read: BTreeSet<String> = items
            .iter()
            .flat_map(|w| reads(&w.expr))
            .chain(side.filters.iter().flat_map(|f| reads(&f.expr)))
            .chain(source.event_time.iter().map(|t| format!("{prefix}{t}")))
            .collect();
        let needed: Vec<_> = source.computed.iter().filter(|c| read.contains(&format!("{prefix}{}", c.name))).collect();
        let own = source.spec.columns.fields().iter().map(|f| (f.name().as_str(), f.data_type()));
        let widened: Vec<(&str, &DataType)> = own.chain(needed.iter().map(|c| (c.name.as_str(), &c.ty))).collect();
        let computed = match needed.is_empty() {
            true => None,
            false => {
                let own: Vec<(String, DataType)> = flat_columns(source, LEFT);
                let pass = own.iter().map(|(flat, ty)| Wanted {
                    name: flat[LEFT.len()..].to_string(),
                    ty: ty.clone(),
                    expr: base("", flat),
                    text: String::new(),
                    feature: false,
                });
                let compute = needed.iter().map(|c| Wanted {
                    name: c.name.clone(),
                    ty: c.ty.clone(),
                    expr: c.expr.clone(),
                    text: c.text.clone(),
                    feature: false,
                });
                let all: Vec<Wanted> = pass.chain(compute).collect();
                Some(self.project(&own, &[], &all, schema(widened.iter().copied()))?)
            }
        };
        let event_time = source.event_time.as_ref().and_then(|name| widened.iter().position(|(n, _)| n == name));
        let columns: Vec<(String, DataType)> =
            widened.iter().map(|(name, ty)| (format!("{prefix}{name}"), (*ty).clone())).collect();
        let view =
            self.project(&columns, &side.filters, items, schema(items.iter().map(|w| (w.name.as_str(), &w.ty))))?;
        let same_names = items.iter().map(|w| w.name.as_str()).eq(widened.iter().map(|(name, _)| *name));
        let unchanged = same_names && view.is_identity(widened.len());
        Ok(Input {
            source: source.spec.clone(),
            computed: computed.map(|c| Arc::new(c) as Arc<dyn Transform>),
            event_time,
            view: (!unchanged).then(|| Arc::new(view) as Arc<dyn Transform>),
        })
    }

    /// Rows of the left source's own columns to output rows.
    fn request(&self, relation: &Relation, wanted: &[Wanted], output: &SchemaRef) -> Checked<Arc<dyn Transform>> {
        let source = &relation.left.source;
        let meaning = |name: &str| {
            let name = name.strip_prefix(LEFT)?;
            source.computed.iter().find(|c| c.name == name).map(|c| c.expr.clone())
        };
        let items: Vec<Wanted> =
            wanted.iter().map(|w| Wanted { expr: replace(w.expr.clone(), &meaning), ..w.clone() }).collect();
        let own = flat_columns(source, LEFT);
        let needed: Vec<Wanted> = items.iter().filter(|w| w.feature && !w.is_feedback()).cloned().collect();
        let mut projection = self.project(&own, &[], &needed, output.clone())?;
        let mut planned = projection.items.into_iter();
        projection.items = items
            .iter()
            .map(|w| match w.feature && !w.is_feedback() {
                true => planned.next().expect("one item was planned for each feature"),
                false => Item::Null(w.ty.clone()),
            })
            .collect();
        Ok(Arc::new(projection))
    }

    /// Plans filters and items over `columns`, reading only those that are used.
    pub(super) fn project(
        &self,
        columns: &[(String, DataType)],
        filters: &[Filter],
        items: &[Wanted],
        output: SchemaRef,
    ) -> Checked<Projection> {
        let read: BTreeSet<String> =
            items.iter().flat_map(|w| reads(&w.expr)).chain(filters.iter().flat_map(|f| reads(&f.expr))).collect();
        let pick: Vec<usize> = (0..columns.len()).filter(|&i| read.contains(&columns[i].0)).collect();
        let picked = schema_of(pick.iter().map(|&i| (columns[i].0.clone(), &columns[i].1)));
        let filters = filters
            .iter()
            .map(|f| self.step(&f.expr, DataType::Boolean, "WHERE".to_string(), &f.text, &picked))
            .collect::<Checked<_>>()?;
        let items = items.iter().map(|w| self.item(w, &picked)).collect::<Checked<_>>()?;
        let pick = (pick.len() < columns.len()).then_some(pick);
        Ok(Projection { pick, filters, items, output })
    }

    fn item(&self, wanted: &Wanted, columns: &DFSchema) -> Checked<Item> {
        if let Expr::Column(c) = &wanted.expr
            && let Some(i) = columns.index_of_column_by_name(None, &c.name)
        {
            return Ok(Item::Column(i));
        }
        let place = format!("column '{}'", wanted.name);
        Ok(Item::Computed(self.step(&wanted.expr, wanted.ty.clone(), place, &wanted.text, columns)?))
    }

    fn step(&self, expr: &Expr, ty: DataType, place: String, text: &str, columns: &DFSchema) -> Checked<Step> {
        let expr = self
            .planner
            .physical(expr, columns)
            .map_err(|e| Fault::new(self.span, format!("{place}: {}", plan_words(&e))))?;
        Ok(Step { expr, ty, place, text: text.to_string() })
    }
}

pub(super) fn flat_columns(source: &BoundSource, prefix: &str) -> Vec<(String, DataType)> {
    source.spec.columns.fields().iter().map(|f| (format!("{prefix}{}", f.name()), f.data_type().clone())).collect()
}

/// Columns of what comes out may be NULL, whatever the source declares: in a request anything can be missing.
pub(super) fn schema<'a>(columns: impl Iterator<Item = (&'a str, &'a DataType)>) -> SchemaRef {
    Arc::new(Schema::new(columns.map(|(name, ty)| Field::new(name, ty.clone(), true)).collect::<Vec<_>>()))
}

pub(super) fn column_type(source: &BoundSource, name: &str) -> DataType {
    source.columns().find(|(n, _)| *n == name).map_or(DataType::Null, |(_, ty)| ty.clone())
}

pub(super) fn find_or_add(items: &mut Vec<Wanted>, expr: &Expr, name: &str, ty: &DataType) -> usize {
    if let Some(i) = items.iter().position(|w| w.expr == *expr) {
        return i;
    }
    let text = name.to_string();
    items.push(Wanted { name: text.clone(), ty: ty.clone(), expr: expr.clone(), text, feature: false });
    items.len() - 1
}

/// The value of the first feedback that matches.
fn give_first(given: &mut Vec<Given>, expr: &Expr, name: &str, ty: &DataType) -> usize {
    if let Some(i) = given.iter().position(|g| g.name == *expr) {
        return i;
    }
    let text = name.to_string();
    let item = Wanted { name: text.clone(), ty: ty.clone(), expr: expr.clone(), text, feature: false };
    given.push(Given { name: expr.clone(), item, take: Take::First, ty: ty.clone() });
    given.len() - 1
}

/// A column that an expression over joined rows reads.
fn give(given: &mut Vec<Given>, feedback: &Feedback, name: &str, column: &str) {
    let expr = base("", name);
    let aggregate = column.strip_prefix('#').and_then(|n| feedback.aggregates.get(n.parse::<usize>().ok()?));
    let Some(aggregate) = aggregate else {
        let ty = column_type(&feedback.right.source, column);
        give_first(given, &expr, column, &ty);
        return;
    };
    if given.iter().any(|g| g.name == expr) {
        return;
    }
    let (ty, text) = (aggregate.ty.clone(), aggregate.text.clone());
    let item = Wanted { name: column.to_string(), ty, expr: aggregate.expr.clone(), text, feature: false };
    given.push(Given { name: expr, item, take: aggregate.take, ty: aggregate.result() });
}

/// A key that is a column keeps its name.
fn key_name(key: &Expr) -> &str {
    match key {
        Expr::Column(c) => {
            let of_feedback = feedback_of(&c.name).map(|(_, column)| column);
            c.name.strip_prefix(LEFT).or(of_feedback).unwrap_or("key")
        }
        _ => "key",
    }
}

/// Whether the expression is the source's primary key as it is.
pub(crate) fn is_primary_key(source: &BoundSource, prefix: &str, expr: &Expr) -> bool {
    source.spec.primary_key.is_some_and(|i| *expr == base(prefix, source.spec.columns.field(i).name()))
}
