//! `CREATE SINK`, bound: which columns of a model's samples leave, and what has to be carried along for them.
//!
//! A sink changes nothing that is learned. So what the model needs is planned as if there were no sinks; behind it, the
//! pipeline carries the sources' own columns that sinks read, which cannot fail, and what is computed of them is computed
//! where the rows leave: a row that fails there is missing in the sink and learned all the same.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::{logical_expr::Expr, sql::sqlparser::tokenizer::Span};
use tidemill_base::hash64;
use tidemill_stream::{
    Transform,
    sink::{RowFormat, SINK_ATTRIBUTES, SinkConnector, SinkSpec},
};

use super::{
    Catalog,
    feature_view::FEATURE,
    pipeline::{Build, Wanted, column_type},
    relation::{Filter, LEFT, Relation, RelationColumn, Side, base, expand, reads, replace},
    select, source,
};
use crate::{
    diagnostic::{Checked, Fault},
    parse::{
        cursor::Name,
        sink::{RowsDef, SinkDef},
        value::type_name,
    },
    planner::to_plain_type,
    program::{SinkJob, sample_columns},
};

/// What a sink's SELECT calls the columns of the samples.
const SAMPLE: &str = "sample.";
/// The impression's event time, where it has one.
const EVENT_TIME: &str = "event_time";

/// A sink of one model, what it reads being told apart from where that stands.
pub(super) struct BoundSink {
    spec: SinkSpec,
    /// Over `sample.NAME`.
    columns: Vec<RelationColumn>,
    filters: Vec<Filter>,
    name: Name,
}

/// Which columns a model's rows have when they leave, and how they come to be.
pub(super) struct Leaving<'a> {
    relation: &'a Relation,
    /// Columns of the model's SELECT that are planned for it, and how.
    planned: BTreeMap<String, usize>,
    wanted: &'a [Wanted],
}

impl SinkDef {
    /// The model that this sink is of.
    pub fn model(&self) -> Checked<Name> {
        match &self.rows {
            RowsDef::All(model) => Ok(model.clone()),
            RowsDef::Select(query) => select::table_of(query),
        }
    }
}

impl<'a> Leaving<'a> {
    /// `needed`: columns of the relation that `wanted` are of.
    pub fn new(relation: &'a Relation, needed: &[usize], wanted: &'a [Wanted]) -> Self {
        let planned = needed.iter().enumerate().map(|(at, i)| (relation.columns[*i].name.clone(), at)).collect();
        Self { relation, planned, wanted }
    }

    /// The samples as a relation: the columns of the model's SELECT, then those that the engine adds, unless a column of the
    /// SELECT has the name.
    fn samples(&self) -> Relation {
        let column = |name: &str, ty: &DataType| RelationColumn {
            name: name.to_string(),
            ty: ty.clone(),
            expr: base(SAMPLE, name),
            text: name.to_string(),
        };
        let mut columns: Vec<RelationColumn> = self
            .relation
            .columns
            .iter()
            .map(|c| {
                let planned = self.planned.get(&c.name).map(|at| self.wanted[*at].ty.clone());
                column(&c.name, &planned.unwrap_or_else(|| to_plain_type(c.expr.clone(), &c.ty).1))
            })
            .collect();
        let time = self.event_time().map(|(_, ty)| (EVENT_TIME, ty));
        for (name, ty) in sample_columns().chain(time) {
            if !columns.iter().any(|c| c.name.eq_ignore_ascii_case(name)) {
                columns.push(column(name, &ty));
            }
        }
        let left = Side { source: self.relation.left.source.clone(), filters: Vec::new() };
        Relation { columns, left, join: None, features: Vec::new(), used: self.relation.used.clone() }
    }

    /// The impression's event time over the columns of its source.
    fn event_time(&self) -> Option<(Expr, DataType)> {
        let source = &self.relation.left.source;
        let name = source.event_time.as_ref()?;
        Some((base(LEFT, name), column_type(source, name)))
    }

    /// Binds a sink over these samples.
    pub fn bind(&self, def: &SinkDef, catalog: &Catalog) -> Checked<BoundSink> {
        let spec = spec(def)?;
        let samples = self.samples();
        let (columns, filters) = match &def.rows {
            RowsDef::All(_) => (samples.columns, Vec::new()),
            RowsDef::Select(query) => {
                let bound = select::bind_over(query, samples, catalog)?;
                (bound.columns, bound.left.filters)
            }
        };
        let bound = BoundSink { spec, columns, filters, name: def.name.clone() };
        bound.check(def)?;
        Ok(bound)
    }

    /// What an expression over the samples is over `output.N`, the carried columns among them, and `engine.NAME`. Adds to
    /// `carried` what is not there yet.
    fn over_output(&self, expr: &Expr, span: Span, carried: &mut Vec<Wanted>) -> Checked<Expr> {
        let mut meanings: BTreeMap<String, Expr> = BTreeMap::new();
        for flat in reads(expr) {
            let name = flat.strip_prefix(SAMPLE).unwrap_or(&flat);
            meanings.insert(flat.clone(), self.meaning(name, span, carried)?);
        }
        expand(expr.clone(), &|flat| meanings.get(flat).cloned(), span)
    }

    fn meaning(&self, name: &str, span: Span, carried: &mut Vec<Wanted>) -> Checked<Expr> {
        if let Some(at) = self.planned.get(name) {
            return Ok(output(*at));
        }
        let column = self.relation.columns.iter().find(|c| c.name == name).map(|c| (c.expr.clone(), c.ty.clone()));
        let of_time = || (name == EVENT_TIME).then(|| self.event_time()).flatten();
        let Some((expr, ty)) = column.or_else(of_time) else {
            return Ok(base("engine.", name));
        };
        let source = &self.relation.left.source;
        let computed = |flat: &str| {
            let name = flat.strip_prefix(LEFT)?;
            source.computed.iter().find(|c| c.name == name).map(|c| c.expr.clone())
        };
        let expr = to_plain_type(replace(expr, &computed), &ty).0;
        let mut places = BTreeMap::new();
        for flat in reads(&expr) {
            let ty = match flat.strip_prefix(LEFT) {
                Some(own) => column_type(source, own),
                None if flat.starts_with(FEATURE) => self.relation.feature_type(&flat),
                None => {
                    let message = format!("column '{name}' depends on feedback that the label does not need");
                    let hint = "a sink must not change what is waited for; take the label, or the impression's columns";
                    return Err(Fault::new(span, message).hint(hint));
                }
            };
            let whole = base("", &flat);
            let there = self.wanted.iter().chain(carried.iter()).position(|w| w.expr == whole);
            let at = there.unwrap_or_else(|| {
                let text = flat.clone();
                carried.push(Wanted { name: flat.clone(), ty, expr: whole, text, feature: false });
                self.wanted.len() + carried.len() - 1
            });
            places.insert(flat, output(at));
        }
        Ok(replace(expr, &|flat| places.get(flat).cloned()))
    }

    /// What sinks read that nobody else does, in the order in which it stands behind the columns of the model.
    pub fn carried(&self, sinks: &[BoundSink]) -> Checked<Vec<Wanted>> {
        let mut carried = Vec::new();
        for sink in sinks {
            sink.planned(self, &mut carried)?;
        }
        Ok(carried)
    }

    /// Plans how the rows of `sink` come from those of a pipeline with these output columns.
    pub fn plan(&self, sink: &BoundSink, outputs: &SchemaRef, catalog: &Catalog) -> Checked<SinkJob> {
        let (items, filters) = sink.planned(self, &mut self.carried_of(outputs))?;
        let of_output = outputs.fields().iter().enumerate();
        let mut columns: Vec<(String, DataType)> =
            of_output.map(|(at, f)| (format!("output.{at}"), f.data_type().clone())).collect();
        columns.extend(sample_columns().map(|(name, ty)| (format!("engine.{name}"), ty)));
        let fields = items.iter().map(|w| Field::new(&w.name, w.ty.clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let build = Build { planner: &catalog.planner, span: sink.name.span };
        let rows: Arc<dyn Transform> = Arc::new(build.project(&columns, &filters, &items, schema)?);
        Ok(SinkJob { identity: sink.identity(), spec: sink.spec.clone(), rows })
    }

    /// The carried columns of a pipeline that was built with all of them.
    fn carried_of(&self, outputs: &SchemaRef) -> Vec<Wanted> {
        let behind = outputs.fields().iter().skip(self.wanted.len());
        let again = |f: &Arc<Field>| {
            let (name, ty) = (f.name().clone(), f.data_type().clone());
            Wanted { expr: base("", &name), text: name.clone(), name, ty, feature: false }
        };
        behind.map(again).collect()
    }
}

impl BoundSink {
    /// Its columns and filters over the pipeline's output.
    fn planned(&self, leaving: &Leaving, carried: &mut Vec<Wanted>) -> Checked<(Vec<Wanted>, Vec<Filter>)> {
        let span = self.name.span;
        let mut items = Vec::new();
        for c in &self.columns {
            let (expr, ty) = to_plain_type(leaving.over_output(&c.expr, span, carried)?, &c.ty);
            items.push(Wanted { name: c.name.clone(), ty, expr, text: c.text.clone(), feature: true });
        }
        let mut filters = Vec::new();
        for f in &self.filters {
            filters.push(Filter { expr: leaving.over_output(&f.expr, span, carried)?, text: f.text.clone() });
        }
        Ok((items, filters))
    }

    /// What can be written, and where.
    fn check(&self, def: &SinkDef) -> Checked<()> {
        let nested = |c: &&RelationColumn| to_plain_type(c.expr.clone(), &c.ty).1.is_nested();
        if self.spec.format == RowFormat::Csv
            && let Some(column) = self.columns.iter().find(nested)
        {
            let message = format!("column '{}' is {}, which CSV has no form for", column.name, type_name(&column.ty));
            return Err(Fault::new(self.name.span, message).hint("leave it out, or write format = 'json'"));
        }
        if let SinkConnector::Kafka(kafka) = &self.spec.connector
            && let Some(key) = &kafka.key
            && !self.columns.iter().any(|c| c.name == *key)
        {
            let written = def.settings.iter().find(|w| w.name.text.eq_ignore_ascii_case("key"));
            let span = written.map_or(def.with, |w| w.value_span);
            let names = self.columns.iter().map(|c| c.name.as_str());
            return Err(
                Fault::new(span, format!("key '{key}' is no column of the sink")).nearest(key, names, "columns")
            );
        }
        Ok(())
    }

    /// Two sinks with one identity take the same rows to the same place. Where a server is and how files are cut do not count.
    fn identity(&self) -> u64 {
        let place = match &self.spec.connector {
            SinkConnector::File(_) => "",
            SinkConnector::Kafka(kafka) => &kafka.topic,
            SinkConnector::Nats(nats) => &nats.subject,
        };
        let mut text = format!("{} {} {place} {:?}", self.spec.name, self.spec.connector_word(), self.spec.format);
        self.columns.iter().for_each(|c| text += &format!("\n{} = {}", c.name, c.expr));
        self.filters.iter().for_each(|f| text += &format!("\nwhere {}", f.expr));
        hash64(text.as_bytes(), 0)
    }
}

/// A column of what the pipeline gives.
fn output(at: usize) -> Expr {
    base("output.", &at.to_string())
}

fn spec(def: &SinkDef) -> Checked<SinkSpec> {
    let settings = source::settings(SINK_ATTRIBUTES.iter(), &def.settings, "a sink")?;
    let spec = SinkSpec::from_settings(&def.name.text, &settings).map_err(|e| {
        let first = e.message().split([' ', ':']).next().unwrap_or_default();
        let written = def.settings.iter().find(|w| w.name.text.eq_ignore_ascii_case(first));
        Fault::new(written.map_or(def.with, |w| w.value_span), e.message().to_string())
    })?;
    let own = spec.connector_word();
    for written in &def.settings {
        let name = written.name.text.to_ascii_lowercase();
        if let Some(owners) = SinkSpec::owners(&name).filter(|owners| !owners.contains(&own)) {
            let message = format!("'{name}' belongs to connector '{}'; this is '{own}'", owners.join("' or '"));
            return Err(Fault::new(written.name.span, message));
        }
    }
    Ok(spec)
}

/// Refuses sinks of models that this program does not train, and names that are there twice.
pub(super) fn check_all<'a>(sinks: impl Iterator<Item = &'a SinkDef> + Clone, trained: &[String]) -> Checked<()> {
    let mut names: Vec<&Name> = Vec::new();
    for def in sinks {
        let model = def.model()?;
        if !trained.contains(&model.text) {
            let fault = Fault::new(model.span, format!("no model '{}' is trained in this program", model.text));
            return Err(fault.nearest(&model.text, trained.iter().map(String::as_str), "models"));
        }
        if let Some(other) = names.iter().find(|n| n.text.eq_ignore_ascii_case(&def.name.text)) {
            let line = other.span.start.line;
            return Err(Fault::new(
                def.name.span,
                format!("sink '{}' is already defined in line {line}", def.name.text),
            ));
        }
        names.push(&def.name);
    }
    Ok(())
}

/// The identity of a checkpoint's layout: what waits in the join has the carried columns, and what is behind it names sinks.
pub(super) fn state_fingerprint(fingerprint: u64, sinks: &[SinkJob], carried: &[Wanted]) -> u64 {
    if sinks.is_empty() {
        return fingerprint;
    }
    let columns: Vec<String> = carried.iter().map(|w| format!("{} {}", w.name, type_name(&w.ty))).collect();
    hash64(format!("{fingerprint:016x} with sinks, carried {}", columns.join(", ")).as_bytes(), 0)
}
